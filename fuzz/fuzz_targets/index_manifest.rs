#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aggregator_core::fuzz::index_manifest(data));
