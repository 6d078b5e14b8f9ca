//! Any bytes as the record of a snapshot.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    agent::store::door::open(agent::store::door::Kind::Record, bytes);
});
