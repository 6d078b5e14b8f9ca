//! The seeds of agent/fuzz, and what an ordinary run makes of them: each is what its name says, and none of many
//! mutations of it is met with a panic.
//!
//! The seeds are made by this test: `LASTGOOD_WRITE_SEEDS=1 cargo test -p agent --lib store::tests::fuzzed`.

use super::{
    super::door::{self, Kind},
    *,
};

const MUTATIONS: u64 = 3000;
/// Of a policy, which is text and takes longer.
const TEXT_MUTATIONS: u64 = 300;

fn seeds_of(kind: Kind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(kind.name())
}

/// A file of each kind, as a store in the middle of a switch has it.
fn made(kind: Kind) -> Vec<Vec<u8>> {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store_with(stop_at(3));
    store.switch(&world.files(), second, first).unwrap_err();
    drop(store);
    let all = |below: &str| -> Vec<Vec<u8>> {
        let files = super::cut::files_below(&world.root.join("state").join(below));
        files.into_iter().map(|path| fs::read(path).unwrap()).collect()
    };
    // The checksum goes: the door sets one of its own, so that a fuzzer need not find it.
    let open = |files: Vec<Vec<u8>>| files.into_iter().map(|bytes| bytes[36..].to_vec()).collect();
    match kind {
        Kind::Manifest => all("store/manifests"),
        Kind::PackIndex => {
            let mut packs = all("store/packs");
            packs.retain(|bytes| bytes.starts_with(b"LGI"));
            open(packs)
        }
        Kind::Record => open([all("store/snapshots"), all("store/live")].concat()),
        Kind::StatCache => {
            // Files as young as these are not remembered; in a moment they are.
            while all("store/cache").is_empty() {
                world.store().live(&world.files()).unwrap();
            }
            open(all("store/cache"))
        }
        Kind::Hold => open(all("hold")),
        Kind::Policy => {
            let text = "version: 1\nfleet: prod\nhost: crm-b1\ncomponents:\n  crm:\n    files: [{ tree: /srv/app, \
                        keep: [uploads] }, { file: /srv/app/.env, secret: true }]\n    services:\n      - name: web\n        \
                        systemd: ace-crm.service\n    checks:\n      - { name: me, http: \"http://127.0.0.1:1/\" }\n    \
                        ready_within: 5s\n    stable_for: 1s\n";
            vec![text.as_bytes().to_vec()]
        }
    }
}

#[test]
fn p08_nothing_that_is_read_back_is_met_with_a_panic() {
    for kind in Kind::ALL {
        let dir = seeds_of(kind);
        if std::env::var_os("LASTGOOD_WRITE_SEEDS").is_some() {
            if dir.exists() {
                fs::remove_dir_all(&dir).unwrap();
            }
            fs::create_dir_all(&dir).unwrap();
            for bytes in made(kind) {
                let name = Hash::of(&bytes).short();
                fs::write(dir.join(name), bytes).unwrap();
            }
        }
        let seeds: Vec<PathBuf> = super::cut::files_below(&dir);
        assert!(!seeds.is_empty(), "{} has no seeds", kind.name());
        for seed in seeds {
            let bytes = fs::read(&seed).unwrap();
            let seed = seed.display();
            assert!(door::open(kind, &bytes), "{seed} is of another format: make the seeds anew");
            let many = if kind == Kind::Policy { TEXT_MUTATIONS } else { MUTATIONS };
            for number in 0..many {
                door::open(kind, &mutated(&bytes, number));
            }
        }
    }
}

/// What is made today opens the same doors: a format that changed wants new seeds.
#[test]
fn the_seeds_are_of_this_format() {
    for kind in Kind::ALL {
        for bytes in made(kind) {
            assert!(door::open(kind, &bytes), "{}", kind.name());
        }
    }
}

/// The same for the same number, everywhere.
fn mutated(bytes: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (below.max(1) as u64)).unwrap()
    };
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, 0x80][next(4)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, u8::try_from(next(256)).unwrap()),
            4 if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => {
                let copy: Vec<u8> = bytes[at..].iter().take(16).copied().collect();
                let to = next(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
    bytes
}
