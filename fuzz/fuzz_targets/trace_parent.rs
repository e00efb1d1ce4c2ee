#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aggregator_server::fuzz::trace_parent(data));
