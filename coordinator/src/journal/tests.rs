//! The contract, tested on every implementation. What only a real disk and a real kill can show is in [`disk`].

mod disk;

use std::sync::Arc;

use super::{
    Journal, JournalError, MemoryJournal, SledJournal, Stream,
    memory::{CrashPoint, MemoryDisk},
};

fn stream(name: &str) -> Stream {
    Stream::new(name).unwrap()
}

fn records(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Something that journals can be opened on again and again.
trait Disk {
    fn open(&self, at_least: u64) -> Arc<dyn Journal>;
}

impl Disk for MemoryDisk {
    fn open(&self, at_least: u64) -> Arc<dyn Journal> {
        Arc::new(MemoryJournal::open(self, at_least))
    }
}

impl Disk for tempfile::TempDir {
    fn open(&self, at_least: u64) -> Arc<dyn Journal> {
        Arc::new(SledJournal::open(&self.path().join("journal"), at_least).unwrap())
    }
}

/// Each test of the contract runs on every implementation.
macro_rules! contract {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(super::MemoryDisk::default()).await; })*
        }
        mod sled {
            $(#[tokio::test] async fn $name() { super::$name(tempfile::tempdir().unwrap()).await; })*
        }
    };
}

contract! {
    p08_what_was_appended_is_replayed_after_reopening
    an_append_that_expects_another_length_changes_nothing
    streams_are_listed_by_prefix_and_do_not_mix
    sixty_four_writers_at_once_each_find_their_own_records
    every_opening_begins_a_higher_epoch
    the_largest_record_fits_and_a_larger_one_is_refused
    an_append_of_nothing_only_checks
}

async fn p08_what_was_appended_is_replayed_after_reopening(disk: impl Disk) {
    let journal = disk.open(0);
    let op = stream("op/rb-0193");
    assert_eq!(journal.replay(&op).unwrap(), records(&[]));
    assert_eq!(journal.append(op.clone(), 0, records(&["a", ""])).await.unwrap(), 2);
    assert_eq!(journal.append(op.clone(), 2, records(&["c"])).await.unwrap(), 3);
    assert_eq!(journal.replay(&op).unwrap(), records(&["a", "", "c"]));
    drop(journal);
    let journal = disk.open(0);
    assert_eq!(journal.replay(&op).unwrap(), records(&["a", "", "c"]));
    assert_eq!(journal.append(op.clone(), 3, records(&["d"])).await.unwrap(), 4);
    assert_eq!(journal.replay(&op).unwrap(), records(&["a", "", "c", "d"]));
}

async fn an_append_that_expects_another_length_changes_nothing(disk: impl Disk) {
    let journal = disk.open(0);
    let op = stream("op/rb-0193");
    journal.append(op.clone(), 0, records(&["a"])).await.unwrap();
    for wrong in [0, 2, u64::MAX] {
        let error = journal.append(op.clone(), wrong, records(&["b"])).await.unwrap_err();
        let JournalError::Conflict { stream, expected, actual } = error else { panic!("{error}") };
        assert_eq!((stream, expected, actual), (op.clone(), wrong, 1));
    }
    assert_eq!(journal.replay(&op).unwrap(), records(&["a"]));
}

async fn streams_are_listed_by_prefix_and_do_not_mix(disk: impl Disk) {
    let journal = disk.open(0);
    // Neighbours in every order that a store could get wrong.
    let names = ["fleet/prod", "op/rb-1", "op/rb-10", "op/rb-1.x", "op/rb-2", "op"];
    for name in names {
        journal.append(stream(name), 0, records(&[name, name])).await.unwrap();
    }
    drop(journal);
    for _ in 0..2 {
        let journal = disk.open(0);
        for name in names {
            assert_eq!(journal.replay(&stream(name)).unwrap(), records(&[name, name]));
        }
        let listed = |prefix| journal.streams(prefix).unwrap();
        assert_eq!(listed("op/rb-1"), ["op/rb-1", "op/rb-1.x", "op/rb-10"].map(stream));
        assert_eq!(listed("fleet/"), [stream("fleet/prod")]);
        assert_eq!(listed("").len(), names.len());
        assert_eq!(listed("x"), []);
    }
}

async fn sixty_four_writers_at_once_each_find_their_own_records(disk: impl Disk) {
    let journal = disk.open(0);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let journal = Arc::clone(&journal);
        writers.spawn(async move {
            let own = stream(&format!("op/{writer}"));
            let shared = stream("fleet/prod");
            for n in 0..10_u64 {
                let next =
                    journal.append(own.clone(), n, records(&[&format!("{writer} {n}")])).await;
                assert_eq!(next.unwrap(), n + 1);
                // Exactly one of those who expect the same length gets it.
                let mut expected = 0;
                while let Err(JournalError::Conflict { actual, .. }) =
                    journal.append(shared.clone(), expected, records(&["one"])).await
                {
                    expected = actual;
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    drop(journal);
    let journal = disk.open(0);
    assert_eq!(journal.replay(&stream("fleet/prod")).unwrap().len(), 640);
    for writer in 0..64 {
        let expected: Vec<_> = (0..10).map(|n| format!("{writer} {n}").into_bytes()).collect();
        assert_eq!(journal.replay(&stream(&format!("op/{writer}"))).unwrap(), expected);
    }
}

async fn every_opening_begins_a_higher_epoch(disk: impl Disk) {
    let mut seen: Vec<super::Epoch> = Vec::new();
    for (at_least, counter) in [(0, 1), (0, 2), (10, 10), (5, 11), (11, 12)] {
        let epoch = disk.open(at_least).epoch().clone();
        assert_eq!(epoch.counter, counter);
        assert_eq!(epoch.instance.len(), 32);
        assert!(epoch.instance.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')));
        assert!(seen.iter().all(|other| other.instance != epoch.instance));
        seen.push(epoch);
    }
    assert_eq!(disk.open(0).streams("").unwrap(), []);
}

async fn the_largest_record_fits_and_a_larger_one_is_refused(disk: impl Disk) {
    let journal = disk.open(0);
    let op = stream("op/rb-0193");
    let mut large: Vec<u8> = (0..super::RECORD_BYTES_MAX).map(|n| (n % 251) as u8).collect();
    journal.append(op.clone(), 0, vec![large.clone(), b"next".to_vec()]).await.unwrap();
    drop(journal);
    let journal = disk.open(0);
    assert!(journal.replay(&op).unwrap() == [large.clone(), b"next".to_vec()]);
    large.push(0);
    let refused = journal.append(op.clone(), 2, vec![large]).await.unwrap_err();
    assert!(matches!(refused, JournalError::TooLarge { .. }), "{refused}");
    assert_eq!(journal.append(op, 2, records(&["after"])).await.unwrap(), 3);
}

async fn an_append_of_nothing_only_checks(disk: impl Disk) {
    let journal = disk.open(0);
    assert_eq!(journal.append(stream("op/x"), 0, Vec::new()).await.unwrap(), 0);
    journal.append(stream("op/x"), 1, Vec::new()).await.unwrap_err();
    assert_eq!(journal.streams("").unwrap(), []);
}

#[test]
fn stream_names_that_could_be_mistaken_are_refused() {
    for good in ["op/rb-0193", "fleet/prod", "a", "A.b_c-d/0"] {
        assert_eq!(stream(good).as_str(), good);
    }
    let long = "x".repeat(super::STREAM_NAME_BYTES_MAX + 1);
    for bad in ["", "/", "op/", "/op", "op//x", "op/x y", "op/\0", "#epochs", "öp", &long] {
        Stream::new(bad).unwrap_err();
    }
}

// Memory: crash points.

#[tokio::test]
async fn a_crash_before_loses_the_append_and_a_crash_after_only_its_answer() {
    let op = stream("op/rb-1");
    for (point, kept) in [(CrashPoint::Before(1), 1), (CrashPoint::After(1), 2)] {
        let disk = MemoryDisk::default();
        let journal = MemoryJournal::open(&disk, 0);
        journal.crash_at(point);
        assert_eq!(journal.append(op.clone(), 0, records(&["a"])).await.unwrap(), 1);
        for _ in 0..2 {
            let stopped = journal.append(op.clone(), 1, records(&["b"])).await.unwrap_err();
            assert!(matches!(stopped, JournalError::Stopped));
        }
        let journal = MemoryJournal::open(&disk, 0);
        assert_eq!(journal.replay(&op).unwrap().len(), kept, "{point:?}");
    }
}

#[tokio::test]
async fn a_memory_journal_that_was_replaced_writes_nothing_more() {
    let disk = MemoryDisk::default();
    let old = MemoryJournal::open(&disk, 0);
    let _new = MemoryJournal::open(&disk, 0);
    let stopped = old.append(stream("op/x"), 0, records(&["late"])).await.unwrap_err();
    assert!(matches!(stopped, JournalError::Stopped));
}
