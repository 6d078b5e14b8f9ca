//! Any bytes as a manifest.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    agent::store::door::open(agent::store::door::Kind::Manifest, bytes);
});
