//! Any bytes as a stat cache.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    agent::store::door::open(agent::store::door::Kind::StatCache, bytes);
});
