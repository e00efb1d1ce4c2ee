#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aggregator_postgres::fuzz::postgres_url(data));
