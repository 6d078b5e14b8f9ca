//! The seeds of agent/fuzz, and what an ordinary run makes of them.
//!
//! The seeds are made by this test: `LASTGOOD_WRITE_SEEDS=1 cargo test -p agent --lib artefact::tests::fuzzed`.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    super::door,
    tars::{dresses, good},
    *,
};

#[test]
fn p10_no_change_of_a_seed_leads_out() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/archive");
    if std::env::var_os("LASTGOOD_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&dir).unwrap();
        for (dress, bytes) in dresses(&good().end()) {
            fs::write(dir.join(dress), bytes).unwrap();
        }
    }
    let seeds = names(&dir);
    assert!(seeds.len() >= 3, "{seeds:?}");
    for seed in seeds {
        let bytes = fs::read(dir.join(&seed)).unwrap();
        assert!(door::open(&bytes), "{seed} is no good archive any more: make the seeds anew");
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let changes = prop::collection::vec(change, 1..8);
        let mut runner =
            TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
        let run = runner.run(&changes, |changes| {
            let mut bytes = bytes.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            door::open(&bytes);
            Ok(())
        });
        run.unwrap();
    }
}
