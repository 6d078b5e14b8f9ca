//! Pruning on real files: what goes is gone whole, what must stay can be gone back to, whenever the power fails.

use std::collections::BTreeSet;

use proto::{
    amount::{Age, Size},
    policy::RetentionPolicy,
};

use super::*;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// When the snapshots of these tests are taken, and when they are judged.
const THEN: i64 = 1_700_000_000_000;
const NOW: i64 = THEN + 40 * DAY_MS;

fn count(releases: u32) -> RetentionPolicy {
    RetentionPolicy { releases: Some(releases), age: None, disk: None }
}

fn ask(rules: RetentionPolicy) -> Ask {
    Ask { rules, keep: Vec::new(), now_unix_ms: NOW, only: None, dry_run: false }
}

/// The store, as it was 40 days ago.
fn then(world: &World) -> Store {
    world.store().with_clock(|| THEN)
}

/// Takes a snapshot of a release that differs in one file, `number` seconds after the first.
fn release(world: &World, store: &Store, number: u32) -> Hash {
    fs::write(world.app().join("server.js"), format!("serve({number})")).unwrap();
    let taken_at_unix_ms = THEN + i64::from(number) * 1000;
    let label = Label {
        release: format!("v{number}"),
        version: None,
        taken_at_unix_ms,
        learned_at_unix_ms: None,
    };
    store.snapshot(&world.files(), label).unwrap().exact
}

fn gone(pruned: &Pruned) -> Vec<String> {
    let gone = pruned.rows.iter().filter(|row| row.fate.goes());
    gone.flat_map(|row| row.releases.clone()).collect()
}

fn listed(store: &Store) -> BTreeSet<Hash> {
    store.list().unwrap().into_iter().map(|row| row.exact).collect()
}

fn manifests(world: &World) -> usize {
    fs::read_dir(world.root.join("state/store/manifests")).unwrap().count()
}

/// Every snapshot that is listed is whole: all of its bytes are read.
fn assert_whole(store: &Store) {
    for row in store.list().unwrap() {
        assert_eq!(row.damage, None, "{}", row.release);
        store.check("crm", row.exact).unwrap();
    }
}

#[test]
fn what_is_beyond_the_count_goes_and_the_rest_is_whole() {
    let world = World::new(SwitchMode::Exchange);
    let store = then(&world);
    let taken: Vec<Hash> = (1..=6).map(|number| release(&world, &store, number)).collect();
    let before = manifests(&world);

    let dry = store.prune(&world.files(), &Ask { dry_run: true, ..ask(count(2)) }).unwrap();
    assert_eq!(gone(&dry), ["v4", "v3", "v2", "v1"]);
    assert_eq!(listed(&store).len(), 6, "a dry run changes nothing");
    assert_eq!(manifests(&world), before);

    let pruned = store.prune(&world.files(), &ask(count(2))).unwrap();
    assert_eq!(pruned, dry);
    // Of each of the four only its own `server.js` was named by nothing else.
    assert_eq!(pruned.freed_bytes, 4 * "serve(1)".len() as u64);
    assert_eq!(listed(&store), BTreeSet::from([taken[4], taken[5]]));
    assert_eq!(manifests(&world), before - 4, "only the tree differs from release to release");
    assert_whole(&store);

    // Its name is free again, and the same bytes are a snapshot again.
    fs::write(world.app().join("server.js"), "serve(1)").unwrap();
    assert_eq!(release(&world, &store, 1).to_string().len(), 64);
    assert_whole(&store);
}

#[test]
fn what_is_live_replaced_staged_or_told_to_stay_outlives_every_rule() {
    let world = World::new(SwitchMode::Exchange);
    let store = then(&world);
    let taken: Vec<Hash> = (1..=6).map(|number| release(&world, &store, number)).collect();
    let files = world.files();
    // v2 is live, v6 was replaced; v3 is staged for an operation; v4 is pinned.
    store.stage(&files, taken[1]).unwrap();
    store.switch(&files, taken[5], taken[1]).unwrap();
    let strict = RetentionPolicy { age: Some(Age::days(1)), ..count(1) };
    let dry = store.prune(&files, &Ask { dry_run: true, ..ask(strict) }).unwrap();
    assert_eq!(dry.rows[0].fate, Fate::Stays("what the last switch replaced".to_owned()));
    store.read_replaced(&files).unwrap();
    let dry = store.prune(&files, &Ask { dry_run: true, ..ask(strict) }).unwrap();
    assert!(!dry.rows[0].fate.goes(), "it still is what an undo goes back to");
    store.prestage(&files, taken[2], 9).unwrap();
    store.stage(&files, taken[2]).unwrap();
    let keep = vec![Keep { exact: taken[3], why: "pinned by anna".to_owned() }];
    let rules = RetentionPolicy { releases: Some(1), age: Some(Age::days(1)), disk: Some(Size(1)) };
    let pruned = store.prune(&files, &Ask { keep, ..ask(rules) }).unwrap();
    assert_eq!(gone(&pruned), ["v5", "v1"]);
    let why = |name: &str| {
        let row = pruned.rows.iter().find(|row| row.releases == [name]).unwrap();
        row.fate.clone()
    };
    assert_eq!(why("v2"), Fate::Stays("live".to_owned()));
    assert_eq!(why("v3"), Fate::Stays("staged for an operation".to_owned()));
    assert_eq!(why("v4"), Fate::Stays("pinned by anna".to_owned()));
    assert!(pruned.still_over.is_some_and(|taken| taken > 1), "what is left takes more than that");
    assert_whole(&store);
    store.switch(&files, taken[1], taken[2]).unwrap();
    assert!(world.speaks().starts_with("serve(3)"));
}

#[test]
fn what_was_replaced_and_never_named_goes_with_its_tree_once_it_is_old() {
    for mode in MODES {
        let Rollback { world, first, .. } = World::at_second(mode);
        fs::write(world.app().join(".env"), "V=by hand").unwrap();
        let store = then(&world);
        let before = store.stage(&world.files(), first).unwrap().before;
        store.switch(&world.files(), before, first).unwrap();
        let old = RetentionPolicy { releases: None, age: Some(Age::days(30)), disk: None };
        // It is what the last switch replaced, and the only copy.
        store.prune(&world.files(), &ask(old)).unwrap();
        assert!(listed(&store).contains(&before));
        assert!(staged_names(&world).iter().any(|name| name.contains(&before.short())));

        // Another release is put there since, so that undoing no longer leads to it.
        store.read_replaced(&world.files()).unwrap();
        release(&world, &store, 3);
        if mode == SwitchMode::Exchange {
            // It stands sealed, until there are enough others that a rollback is quick with.
            store.prune(&world.files(), &ask(old)).unwrap();
            assert!(listed(&store).contains(&before));
            for number in 4..8 {
                let exact = release(&world, &store, number);
                store.prestage(&world.files(), exact, 9).unwrap();
            }
        }
        let pruned = store.prune(&world.files(), &ask(old)).unwrap();
        assert!(!listed(&store).contains(&before), "{mode:?}: {pruned:?}");
        let left = staged_names(&world);
        assert!(!left.iter().any(|name| name.contains(&before.short())), "{mode:?}: {left:?}");
        assert_whole(&store);
    }
}

#[test]
fn p04_a_prune_that_stops_at_any_step_leaves_a_whole_store_and_is_gone_on_with() {
    for mode in MODES {
        for stop in 0.. {
            let world = World::new(mode);
            let store = then(&world);
            // With links the app's own releases stand side by side: nothing is sealed.
            let sealed = mode == SwitchMode::Exchange;
            let all = if sealed { 1..=8 } else { 1..=4 };
            let taken: Vec<Hash> = all.map(|number| release(&world, &store, number)).collect();
            let (to, from) = (taken[taken.len() - 2], taken[taken.len() - 1]);
            // Trees of some that go stand there too.
            store.stage(&world.files(), taken[0]).unwrap();
            for exact in taken[..taken.len() - 2].iter().filter(|_| sealed) {
                store.prestage(&world.files(), *exact, 9).unwrap();
            }
            store.stage(&world.files(), to).unwrap();
            let live = world.picture();
            drop(store);

            let store = world.store_with(stop_at(stop));
            let stopped = store.prune(&world.files(), &ask(count(2)));
            drop(store);
            let store = then(&world);
            assert_eq!(world.picture(), live);
            assert_whole(&store);
            for exact in [to, from] {
                assert!(listed(&store).contains(&exact), "{mode:?}, stopped at step {stop}");
            }
            let done = stopped.is_ok();

            let again = store.prune(&world.files(), &ask(count(2))).unwrap();
            assert!(!done || gone(&again).is_empty());
            assert_whole(&store);
            let stays = if sealed { &taken[3..] } else { &taken[2..] };
            let stays: BTreeSet<Hash> = stays.iter().copied().collect();
            assert_eq!(listed(&store), stays, "{mode:?}, stopped at step {stop}");
            let records = fs::read_dir(world.root.join("state/store/snapshots/crm")).unwrap();
            assert_eq!(records.count(), stays.len(), "nothing is left half-forgotten");
            let left = staged_names(&world);
            for exact in listed(&store).symmetric_difference(&taken.iter().copied().collect()) {
                assert!(!left.iter().any(|name| name.contains(&exact.short())), "{left:?}");
            }
            store.switch(&world.files(), from, to).unwrap();
            assert!(world.speaks().starts_with(&format!("serve({})", taken.len() - 1)));
            if done {
                assert!(stop >= 5);
                break;
            }
        }
    }
}

#[test]
fn what_is_recorded_again_after_a_crash_in_its_prune_stays() {
    for stop in 0..8 {
        let world = World::new(SwitchMode::Link);
        let store = then(&world);
        let first = release(&world, &store, 1);
        let first_files = world.picture();
        let again = Rerun::of(&world);
        (2..=4).for_each(|number| _ = release(&world, &store, number));
        drop(store);
        let store = world.store_with(stop_at(stop));
        // Where it did not stop, it is simply done.
        store.prune(&world.files(), &ask(count(1))).ok();
        drop(store);
        let store = then(&world);
        again.put_back();
        assert_eq!(world.picture(), first_files);
        let label = Label {
            release: "again".to_owned(),
            version: None,
            taken_at_unix_ms: NOW,
            learned_at_unix_ms: None,
        };
        assert_eq!(store.snapshot(&world.files(), label).unwrap().exact, first);
        store.prune(&world.files(), &ask(count(1))).unwrap();
        assert!(listed(&store).contains(&first), "stopped at step {stop}");
        assert_whole(&store);
    }
}

/// The one file that a release changes, as it was: times and all.
struct Rerun {
    path: PathBuf,
    bytes: Vec<u8>,
    modified: std::time::SystemTime,
}

impl Rerun {
    fn of(world: &World) -> Self {
        let path = world.app().join("server.js");
        let modified = path.metadata().unwrap().modified().unwrap();
        Self { bytes: fs::read(&path).unwrap(), modified, path }
    }

    fn put_back(&self) {
        fs::write(&self.path, &self.bytes).unwrap();
        fs::File::options()
            .append(true)
            .open(&self.path)
            .unwrap()
            .set_modified(self.modified)
            .unwrap();
    }
}

#[test]
fn only_what_was_agreed_to_goes() {
    let world = World::new(SwitchMode::Exchange);
    let store = then(&world);
    let taken: Vec<Hash> = (1..=4).map(|number| release(&world, &store, number)).collect();
    let only = Some(BTreeSet::from([taken[0], taken[3]]));
    let pruned = store.prune(&world.files(), &Ask { only, ..ask(count(1)) }).unwrap();
    assert_eq!(gone(&pruned), ["v1"]);
    assert_eq!(listed(&store).len(), 3);
}

#[test]
fn nothing_goes_while_a_switch_is_held_or_what_is_live_cannot_be_told() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store_with(stop_at(1));
    store.switch(&world.files(), second, first).unwrap_err();
    drop(store);
    let store = then(&world);
    let old = RetentionPolicy { releases: None, age: Some(Age::days(1)), disk: None };
    store.prune(&world.files(), &ask(old)).ok();
    assert_eq!(listed(&store), BTreeSet::from([first, second]));
    store.switch(&world.files(), first, second).unwrap();

    fs::write(world.root.join("state/store/live/crm"), "torn").unwrap();
    let pruned = store.prune(&world.files(), &ask(old)).unwrap();
    assert_eq!(gone(&pruned), [""; 0]);
    assert!(matches!(&pruned.rows[0].fate, Fate::Stays(why) if why.contains("cannot be told")));
}

#[test]
fn a_record_that_cannot_be_read_stays_and_so_does_every_manifest() {
    let world = World::new(SwitchMode::Exchange);
    let store = then(&world);
    let taken: Vec<Hash> = (1..=3).map(|number| release(&world, &store, number)).collect();
    let before = manifests(&world);
    let record = world.root.join(format!("state/store/snapshots/crm/{}", taken[1]));
    fs::write(record, "torn").unwrap();
    let pruned = store.prune(&world.files(), &ask(count(1))).unwrap();
    assert_eq!(gone(&pruned), ["v1"]);
    assert_eq!(listed(&store), BTreeSet::from([taken[1], taken[2]]));
    assert_eq!(manifests(&world), before, "nobody knows what the torn one names");
}
