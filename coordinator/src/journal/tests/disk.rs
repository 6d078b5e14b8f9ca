//! sled on a real disk: refusals at the door, kills, failed syncs, damage, and the checked-in journal.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::FileExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{records, stream};
use crate::journal::{Journal as _, JournalError, Place, SledJournal, Stream, envelope};

// Refusals at the door.

#[test]
fn a_second_process_is_told_that_the_journal_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _held = SledJournal::open(dir.path(), 0).unwrap();
    let error = SledJournal::open(dir.path(), 0).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_format_of_another_build_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledJournal::open(dir.path(), 0).unwrap());
    fs::write(dir.path().join("format"), "lastgood-journal 2\n").unwrap();
    let error = SledJournal::open(dir.path(), 0).unwrap_err().to_string();
    for part in ["`lastgood-journal 2`", "`lastgood-journal 1`", "version that wrote", "backup"] {
        assert!(error.contains(part), "{error}");
    }
    // Somebody else's sled is not ours either.
    fs::remove_file(dir.path().join("format")).unwrap();
    let error = SledJournal::open(dir.path(), 0).unwrap_err();
    assert!(matches!(error, JournalError::Format { .. }), "{error}");
}

// Durability.

#[tokio::test]
async fn p08_after_a_failed_sync_nothing_is_acknowledged_and_the_policy_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let fatal = Arc::new(AtomicU64::new(0));
    let (breaks, counts) = (Arc::clone(&broken), Arc::clone(&fatal));
    let journal = SledJournal::open_on(
        dir.path(),
        0,
        Box::new(move |_| {
            counts.fetch_add(1, Ordering::SeqCst);
        }),
        Box::new(move |file| match breaks.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("the disk has gone")),
            false => file.sync_data(),
        }),
    )
    .unwrap();
    let op = stream("op/x");
    journal.append(op.clone(), 0, records(&["safe"])).await.unwrap();
    broken.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let error = journal.append(op.clone(), 1, records(&["lost"])).await.unwrap_err();
        assert!(matches!(error, JournalError::Stopped));
        broken.store(false, Ordering::SeqCst);
    }
    assert_eq!(journal.replay(&op).unwrap(), records(&["safe"]));
    drop(journal);
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn large_records_stay_in_the_file_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SledJournal::open(dir.path(), 0).unwrap();
    let op = stream("op/x");
    for n in 0..200 {
        journal.append(op.clone(), n, vec![vec![n as u8; 100_000 + n as usize]]).await.unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

// A process that is killed.

/// Names the directory that a re-executed test works in; unset in the usual run.
const CHILD_DIR: &str = "LASTGOOD_TEST_JOURNAL_CHILD";

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("journal::tests::disk::{test}"), "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

fn numbered(name: &str, index: u64) -> Vec<u8> {
    // Sizes that cross part and page limits now and then.
    format!("{name} {index} ").repeat(1 + (index as usize * 37) % 3000).into_bytes()
}

/// The child of the test below: writes to four streams at once until it is killed, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_child() {
    let Some(dir) = child_dir() else { return };
    let journal = Arc::new(SledJournal::open(&dir, 0).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let journal = Arc::clone(&journal);
        writers.spawn(async move {
            let name = format!("op/{writer}");
            let own = stream(&name);
            let mut next = journal.replay(&own).unwrap().len() as u64;
            loop {
                let batch = (next..next + 1 + next % 5).map(|n| numbered(&name, n)).collect();
                next = journal.append(own.clone(), next, batch).await.unwrap();
                println!("acknowledged {name} {next}");
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

#[test]
fn p08_what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=15 {
        let mut child = child("kill_child", dir.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut killed_after = 1 + rand::random::<u32>() % 120;
        for line in lines.map_while(Result::ok) {
            // libtest's own words may stand before the first line of ours.
            let Some((_, said)) = line.split_once("acknowledged ") else { continue };
            let (name, next) = said.split_once(' ').unwrap();
            acknowledged.insert(name.to_owned(), next.parse().unwrap());
            killed_after = killed_after.saturating_sub(1);
            if killed_after == 0 {
                child.kill().unwrap();
            }
        }
        assert_eq!(child.wait().unwrap().signal(), Some(9));

        let journal = SledJournal::open(dir.path(), 0).unwrap();
        assert_eq!(journal.epoch().counter, round * 2);
        for (name, next) in &acknowledged {
            let held = journal.replay(&stream(name)).unwrap();
            assert!(held.len() as u64 >= *next, "round {round}: {name}: {} < {next}", held.len());
            for (index, record) in held.iter().enumerate() {
                assert!(*record == numbered(name, index as u64), "round {round}: {name} {index}");
            }
        }
    }
    assert_eq!(acknowledged.len(), 4);
}

/// The child of the test below: the sync of its second append fails under the policy of a real coordinator.
#[tokio::test]
async fn abort_child() {
    let Some(dir) = child_dir() else { return };
    let syncs = AtomicU64::new(0);
    let journal = SledJournal::open_on(
        &dir,
        0,
        Box::new(crate::journal::sled::abort),
        Box::new(move |file| match syncs.fetch_add(1, Ordering::SeqCst) {
            // The term, and the first append.
            0 | 1 => file.sync_data(),
            _ => Err(std::io::Error::other("the disk has gone")),
        }),
    )
    .unwrap();
    for n in 0..2 {
        journal.append(stream("op/x"), n, records(&["a"])).await.unwrap();
        println!("acknowledged {}", n + 1);
    }
}

#[test]
fn p08_after_a_failed_sync_the_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let output = child("abort_child", dir.path()).wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(6), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("acknowledged 1") && !said.contains("acknowledged 2"), "{said}");
    assert!(!SledJournal::open(dir.path(), 0).unwrap().replay(&stream("op/x")).unwrap().is_empty());
}

// Damage.

/// A closed journal with a few streams, and what they hold.
async fn written(dir: &Path) -> BTreeMap<Stream, Vec<Vec<u8>>> {
    for round in 0..3_u64 {
        let journal = SledJournal::open(dir, 0).unwrap();
        for name in ["fleet/prod", "op/rb-1", "op/rb-2"] {
            for n in round * 30..round * 30 + 30 {
                journal.append(stream(name), n, vec![numbered(name, n % 40)]).await.unwrap();
            }
        }
    }
    let journal = SledJournal::open(dir, 0).unwrap();
    let replay = |stream: Stream| {
        let records = journal.replay(&stream).unwrap();
        (stream, records)
    };
    journal.streams("").unwrap().into_iter().map(replay).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Opens a damaged copy: it must be refused, or be exactly what was written.
fn refused_or_intact(dir: &Path, written: &BTreeMap<Stream, Vec<Vec<u8>>>) -> bool {
    match SledJournal::open(dir, 0) {
        Ok(journal) => {
            assert_eq!(journal.streams("").unwrap().len(), written.len());
            for (stream, records) in written {
                assert!(journal.replay(stream).unwrap() == *records, "{stream} differs");
            }
            false
        }
        Err(JournalError::Damaged { .. } | JournalError::Open { .. }) => {
            let again = SledJournal::open(dir, 0).unwrap_err();
            assert!(again.to_string().contains("journal"), "{again}");
            true
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn p08_flipped_bytes_are_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let written = written(&original).await;
    let size = fs::metadata(original.join("db")).unwrap().len();
    let mut refused = 0;
    let rounds = 40;
    for round in 0..rounds {
        let copied = dir.path().join(format!("copy-{round}"));
        copy(&original, &copied);
        let file = fs::File::options().read(true).write(true).open(copied.join("db")).unwrap();
        let at = size * round / rounds + rand::random::<u64>() % (size / rounds);
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, at.min(size - 16)).unwrap();
        file.write_all_at(&bytes.map(|byte| byte ^ 0xa5), at.min(size - 16)).unwrap();
        drop(file);
        refused += u32::from(refused_or_intact(&copied, &written));
        fs::remove_dir_all(copied).unwrap();
    }
    assert!(refused > 0, "no damage was met at all");
}

/// sled takes a bad last message for one that was never finished, and goes on without it.
#[tokio::test]
async fn p08_a_last_record_that_sled_would_drop_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SledJournal::open(dir.path(), 0).unwrap();
    journal.append(stream("op/x"), 0, records(&["first words"])).await.unwrap();
    journal.append(stream("op/x"), 1, records(&["last words"])).await.unwrap();
    drop(journal);
    let db = dir.path().join("db");
    let mut bytes = fs::read(&db).unwrap();
    let at = bytes.windows(10).rposition(|window| window == b"last words").unwrap();
    bytes[at] ^= 1;
    fs::write(&db, bytes).unwrap();
    let error = SledJournal::open(dir.path(), 0).unwrap_err().to_string();
    assert!(error.contains("3 records were acknowledged, 2 are left"), "{error}");
}

#[tokio::test]
async fn p08_a_lost_tail_is_refused_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let written = written(&original).await;
    let size = fs::metadata(original.join("db")).unwrap().len();
    for round in 1..8 {
        let copied = dir.path().join(format!("copy-{round}"));
        copy(&original, &copied);
        let file = fs::File::options().write(true).open(copied.join("db")).unwrap();
        file.set_len(size * round / 8).unwrap();
        refused_or_intact(&copied, &written);
    }
    // An empty store under a watermark that knows better.
    for entry in fs::read_dir(&original).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "db" || name.starts_with("snap") {
            fs::remove_file(path).unwrap();
        }
    }
    let error = SledJournal::open(&original, 0).unwrap_err().to_string();
    for part in ["were acknowledged", "backup", "--epoch-at-least"] {
        assert!(error.contains(part), "{error}");
    }
}

type Tamper<'a> = &'a dyn Fn(&sled::Db);

/// Does something to a closed journal behind its back, and opens it.
fn tampered(dir: &Path, with: Tamper<'_>) -> JournalError {
    let db = (0..100)
        .find_map(|_| match sled::Config::new().path(dir).open() {
            Ok(db) => Some(db),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                None
            }
        })
        .unwrap();
    with(&db);
    db.flush().unwrap();
    drop(db);
    SledJournal::open(dir, 0).unwrap_err()
}

#[tokio::test]
async fn p08_a_bad_record_is_refused_by_name() {
    let key = |index| envelope::first_key(&stream("op/rb-1"), index);
    let place = Place::Record { stream: "op/rb-1".to_owned(), record: 7 };
    let cases: [(&str, Tamper); 4] = [
        ("checksum", &|db| {
            let mut value = db.get(key(7)).unwrap().unwrap().to_vec();
            *value.last_mut().unwrap() ^= 1;
            db.insert(key(7), value).unwrap();
        }),
        ("checksum", &|db| {
            let other = db.get(key(8)).unwrap().unwrap();
            db.insert(key(7), other).unwrap();
        }),
        ("its format is 9", &|db| {
            let mut value = db.get(key(7)).unwrap().unwrap().to_vec();
            value[0] = 9;
            db.insert(key(7), value).unwrap();
        }),
        ("record 6 is missing", &|db| drop(db.remove(key(6)).unwrap())),
    ];
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    written(&original).await;
    for (number, (word, tamper)) in cases.into_iter().enumerate() {
        let copied = dir.path().join(format!("copy-{number}"));
        copy(&original, &copied);
        let error = tampered(&copied, tamper);
        let JournalError::Damaged { place: found, what, .. } = error else { panic!("{error}") };
        assert_eq!(found, place);
        assert!(what.contains(word), "{what}");
    }
}

// Golden: a journal of this format stays readable.

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/journals")
}

/// A stream per heading, a record per line.
fn replay_as_text(journal: &SledJournal) -> String {
    let mut text = String::new();
    for stream in journal.streams("").unwrap() {
        text.push_str(&format!("# {stream}\n"));
        for record in journal.replay(&stream).unwrap() {
            text.push_str(&format!("{}\n", record.escape_ascii()));
        }
    }
    text
}

#[test]
fn a_journal_written_by_version_1_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let copied = dir.path().join("v1");
    copy(&golden().join("v1"), &copied);
    let journal = SledJournal::open(&copied, 0).unwrap();
    assert_eq!(replay_as_text(&journal), fs::read_to_string(golden().join("v1.txt")).unwrap());
    assert_eq!(journal.epoch().counter, 3);
}

/// Writes `tests/journals/v1` anew: only before the first release. A later format gets a directory of its own, and
/// v1 stays.
///
/// `cargo test -p coordinator write_the_golden_journal -- --ignored`
#[tokio::test]
#[ignore = "rewrites checked-in files"]
async fn write_the_golden_journal() {
    let path = golden().join("v1");
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    drop(SledJournal::open(&path, 0).unwrap());
    let journal = SledJournal::open(&path, 0).unwrap();
    let fleet = records(&[r#"{"applied":{"fleet":"prod","hosts":["web-1","web-2"]}}"#, ""]);
    journal.append(stream("fleet/prod"), 0, fleet).await.unwrap();
    let op = stream("op/rb-0193");
    for n in 0..20 {
        let event = format!(r#"{{"event":{n},"host":"web-{}","note":"zurück"}}"#, n % 2 + 1);
        journal.append(op.clone(), n, vec![event.into_bytes()]).await.unwrap();
    }
    // More than one part.
    journal.append(op, 20, vec![b"0123456789abcdef".repeat(2200)]).await.unwrap();
    journal.append(stream("op/rb-0194"), 0, records(&["\0\u{1}\n", "{}"])).await.unwrap();
    fs::write(golden().join("v1.txt"), replay_as_text(&journal)).unwrap();
}
