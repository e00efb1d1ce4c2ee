#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aggregator_client::fuzz::client_reply(data));
