//! Any bytes as the index of a pack.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    agent::store::door::open(agent::store::door::Kind::PackIndex, bytes);
});
