//! A flipped byte anywhere in the store: what is built is right or refused, and what is wrong has a name.
//!
//! ```text
//! a store with two releases, one of them staged, in the middle of a life ──▶ each file, each byte: flipped ──▶ opened,
//!     listed, checked, looked at, staged, switched, taken back, every step of it ──▶ put back as it was
//! ```
//!
//! Invariant: the test fails where a flip is neither found nor without any effect.

use super::*;

/// Some bytes of each file in the usual run; all of them where there is time.
const STRIDE: usize = 23;
/// Each with a store of its own, and its share of the bytes.
const THREADS: usize = 4;

/// What a store made of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// Everything is as if nothing had been.
    Nothing,
    /// It was said that something is damaged, or that a thing cannot be done.
    Said,
}

/// Files of a state directory, by their path in it, and the bytes of each.
fn state_of(state: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = super::cut::files_below(state).into_iter();
    let rel = |path: &PathBuf| path.strip_prefix(state).unwrap().to_owned();
    files.map(|path| (rel(&path), fs::read(&path).unwrap())).collect()
}

fn put_back(state: &Path, all: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in super::cut::files_below(state) {
        fs::remove_file(path).unwrap();
    }
    for (rel, bytes) in all {
        fs::write(state.join(rel), bytes).unwrap();
    }
}

/// Does everything with a store of which something may be wrong. Whatever it does, the release that is live is one whole
/// release at the end, or it is held.
fn tried(Rollback { world, first, first_picture, second, second_picture }: &Rollback) -> Met {
    let (files, mut met) = (world.files(), Met::Nothing);
    let Ok(store) = Store::open(&world.root.join("state")) else { return Met::Said };
    let rows = store.list().unwrap();
    let whole = |exact: &Hash| rows.iter().any(|row| row.exact == *exact && row.damage.is_none());
    assert_eq!(rows.len(), 2, "{rows:?}");
    if !(whole(first) && whole(second)) {
        met = Met::Said;
    }
    let mut said = |error: StoreError| {
        assert!(!error.reason().is_empty());
        met = Met::Said;
    };
    for exact in [*first, *second] {
        store.check("crm", exact).unwrap_or_else(&mut said);
        match store.file_in(&files, exact, &world.app().join(".env.production")) {
            Ok(bytes) => {
                let wanted = if exact == *first { "SECRET=1" } else { "SECRET=2" };
                assert_eq!(bytes.as_deref(), Some(wanted.as_bytes()));
            }
            Err(error) => said(error),
        }
    }
    store.live(&files).map(drop).unwrap_or_else(&mut said);
    let staged = match store.stage(&files, *first) {
        Ok(staged) => staged,
        Err(error) => {
            said(error);
            assert_eq!(&world.picture(), second_picture, "nothing live changed");
            return met;
        }
    };
    if let Err(error) = store.switch(&files, staged.before, *first) {
        said(error);
        let whole = without_carrier(world.picture()) == *first_picture
            || world.picture() == *second_picture;
        assert!(whole || store.held().unwrap() == ["crm"], "a mix that is not held");
    } else {
        assert_eq!(&without_carrier(world.picture()), first_picture, "what is built is right");
    }
    store.switch(&files, *first, staged.before).map(drop).unwrap_or_else(&mut said);
    assert_eq!(&world.picture(), second_picture, "the way back");
    assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
    store.discard(&files, *first).map(drop).unwrap_or_else(&mut said);
    met
}

/// Flips every `stride`th byte of every file from the `first`th on, the ends of each always. What was met, by the kind
/// of file.
fn flip_all(first: usize, stride: usize) -> BTreeMap<String, BTreeMap<Met, usize>> {
    let scene = World::at_second(SwitchMode::Exchange);
    let state = scene.world.root.join("state");
    let store = scene.world.store();
    for exact in [scene.first, scene.second] {
        store.check("crm", exact).unwrap();
    }
    store.discard(&scene.world.files(), scene.first).unwrap();
    drop(store);
    let whole = state_of(&state);
    assert_eq!(tried(&scene), Met::Nothing);
    put_back(&state, &whole);
    let mut met: BTreeMap<String, BTreeMap<Met, usize>> = BTreeMap::new();
    for (number, (rel, bytes)) in whole.iter().enumerate() {
        let ends = [0, 3, 4, bytes.len().saturating_sub(1)];
        let inside = ((number + first) % stride..bytes.len()).step_by(stride);
        for at in ends.into_iter().filter(|at| *at < bytes.len()).chain(inside) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(state.join(rel), &flipped).unwrap();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tried(&scene)));
            let outcome = outcome.unwrap_or_else(|_| panic!("{} at byte {at}", rel.display()));
            let kind: PathBuf = rel.components().take(2).collect();
            let kind = match rel.extension().and_then(OsStr::to_str) {
                Some(extension) => format!("{}/*.{extension}", kind.display()),
                None => kind.display().to_string(),
            };
            *met.entry(kind).or_default().entry(outcome).or_default() += 1;
            put_back(&state, &whole);
        }
    }
    met
}

/// What is met where.
fn judged(met: &BTreeMap<String, BTreeMap<Met, usize>>) {
    println!("{met:#?}");
    let of = |kind: &str, what: Met| met.get(kind).and_then(|all| all.get(&what)).copied();
    for kind in ["store/manifests", "store/snapshots"] {
        assert!(of(kind, Met::Said).is_some(), "{kind}: {met:?}");
        assert_eq!(of(kind, Met::Nothing), None, "{kind}: every flip is found");
    }
    // A pack's heads are used only to make an index anew, and its index is made anew where it is wrong.
    assert!(of("store/packs/*.pack", Met::Said).is_some(), "{met:?}");
    assert_eq!(of("store/packs/*.index", Met::Said), None, "{met:?}");
    // Without the stat cache everything is read anew.
    assert_eq!(of("store/cache", Met::Said), None, "{met:?}");
}

#[test]
fn p08_a_flipped_byte_anywhere_is_found_or_does_nothing() {
    judged(&flip_all(0, STRIDE));
}

#[test]
#[ignore = "real: takes minutes"]
fn real_p08_every_byte_of_a_store_is_flipped() {
    thread::scope(|scope| {
        for first in 0..THREADS {
            scope.spawn(move || judged(&flip_all(first, THREADS)));
        }
    });
}

#[test]
fn p08_a_hold_of_which_any_byte_is_flipped_is_not_followed() {
    for stop in [1, 4] {
        let Rollback { world, first, second, second_picture, .. } =
            World::at_second(SwitchMode::Exchange);
        let store = world.store_with(stop_at(stop));
        store.switch(&world.files(), second, first).unwrap_err();
        drop(store);
        let store = world.store();
        let path = store.hold_path("crm");
        let whole = fs::read(&path).unwrap();
        let stands = world.picture();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            for (from, to) in [(second, first), (first, second)] {
                let refused = store.switch(&world.files(), from, to).unwrap_err();
                assert!(matches!(refused, StoreError::HoldDamaged { .. }), "{}", refused.reason());
                let seen = store.observe(&world.files(), from, to).unwrap();
                assert!(matches!(seen, Observed::Unknown(_)), "{seen:?}");
            }
            assert!(matches!(
                store.stage(&world.files(), first),
                Err(StoreError::HoldDamaged { .. })
            ));
            assert_eq!(store.held().unwrap(), ["crm"]);
        }
        assert_eq!(world.picture(), stands);
        fs::write(&path, whole).unwrap();
        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), second_picture);
    }
}

#[test]
fn p05_what_really_was_replaced_is_not_lost_with_the_note_of_it() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let late = world.picture();
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    store.read_replaced(&world.files()).unwrap();
    let note = world.root.join(format!("state/store/late/crm/{second}"));
    let whole = fs::read(&note).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&note, flipped).unwrap();
        let kept = store.discard(&world.files(), second);
        assert!(kept.is_err(), "byte {at}: {kept:?}");
        assert!(store.is_staged(&world.files(), second).unwrap(), "byte {at}");
    }
    fs::write(&note, whole).unwrap();
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), late);
}

#[test]
fn p08_a_time_of_verification_of_which_any_byte_is_flipped_is_none() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    world.store().check("crm", first).unwrap();
    let path = world.root.join(format!("state/store/verified/crm/{first}"));
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, flipped).unwrap();
        let rows = world.store().list().unwrap();
        let row = rows.iter().find(|row| row.exact == first).unwrap();
        assert_eq!((row.verified_at_unix_ms, &row.damage), (None, &None), "byte {at}");
    }
}
