//! Any bytes as an archive that a release is made of.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    agent::artefact::door::open(bytes);
});
