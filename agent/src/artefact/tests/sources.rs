//! Directories as sources: names, digests, directories as artefacts, disks and crashes.

use std::os::unix::fs::symlink;

use proto::artefact::digest_of_directory;

use super::{tars::Tar, *};

fn good() -> Vec<u8> {
    Tar::default().file("server.js", 0o644, b"serve(2)").end()
}

#[tokio::test]
async fn p09_only_a_source_of_the_policy_is_asked_and_only_by_a_plain_name() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let digest = bed.archive("v2/app.tar", &good());
    fetch(&artefacts, "v2/app.tar", &digest).await.unwrap();
    for name in [
        "../outside/secret",
        "/etc/passwd",
        "v2/../v2/app.tar",
        "v2//app.tar",
        "",
        "v2/app.tar\0",
        "v2/",
    ] {
        let asked = artefact(name, &digest);
        let why = artefacts.refusal(&asked).expect(name);
        assert!(why.contains("cannot be the name of an artefact in a directory"), "{why}");
        assert_eq!(refused(&artefacts, name, &digest).await, why);
    }
    let other = Artefact { source: "elsewhere".into(), ..artefact("v2/app.tar", &digest) };
    let why = artefacts.refusal(&other).unwrap();
    assert_eq!(why, "this host's policy has no source `elsewhere`; it has: builds");
    for digest in ["sha256:12", "git:v2", ""] {
        let why = artefacts.refusal(&artefact("v2/app.tar", digest)).unwrap();
        assert!(why.contains("is not a digest"), "{why}");
    }
    let git = format!("git:{}", "0a".repeat(20));
    let why = artefacts.refusal(&artefact("v2/app.tar", &git)).unwrap();
    assert!(why.contains("a digest of a directory is `sha256:` or `tree:`"), "{why}");
}

#[tokio::test]
async fn p10_no_link_in_a_source_is_followed() {
    let bed = Bed::new();
    let builds = bed.root.join("builds");
    let digest = sha256(&good());
    fs::write(bed.root.join("outside/app.tar"), good()).unwrap();
    symlink(bed.root.join("outside/app.tar"), builds.join("file")).unwrap();
    symlink(bed.root.join("outside"), builds.join("dir")).unwrap();
    let artefacts = bed.artefacts();
    for name in ["file", "dir/app.tar"] {
        let why = refused(&artefacts, name, &digest).await;
        assert!(why.contains("is a symbolic link or lies behind one"), "{name}: {why}");
    }
    let made = std::process::Command::new("mkfifo").arg(builds.join("fifo")).status();
    assert!(made.unwrap().success());
    for name in ["fifo", "."] {
        assert!(!refused(&artefacts, name, &digest).await.is_empty(), "{name}");
    }
    let why = refused(&artefacts, "missing", &digest).await;
    assert!(why.contains("could not open") && why.contains("No such file"), "{why}");
}

#[tokio::test]
async fn another_digest_unpacks_nothing_and_both_are_told() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let found = bed.archive("v2.tar", &good());
    let wanted = sha256(b"another");
    let why = refused(&artefacts, "v2.tar", &wanted).await;
    assert!(
        why.contains(&format!("wanted {wanted}, found {found}; nothing of it is used")),
        "{why}"
    );
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn a_directory_is_copied_as_it_was_hashed() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let app = bed.root.join("builds/v2");
    fs::create_dir_all(app.join("bin")).unwrap();
    fs::write(app.join("bin/run"), "#!/bin/sh").unwrap();
    fs::set_permissions(app.join("bin/run"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("bin/run", app.join("run")).unwrap();
    let digest = digest_of_directory(&app).unwrap().to_string();
    let fetched = fetch(&artefacts, "v2", &digest).await.unwrap();
    assert_eq!(picture(&fetched.root()), picture(&app));
    assert_eq!(fetched.words, "v2 from builds, tree matches");
    drop(fetched);

    let why = refused(&artefacts, "v2", &sha256(b"")).await;
    assert!(why.contains("v2 is no file, and a digest of `sha256:` is one of an archive"), "{why}");
    fs::write(app.join("bin/run"), "#!/bin/bash").unwrap();
    let why = refused(&artefacts, "v2", &digest).await;
    assert!(why.contains(&format!("wanted {digest}, found tree:")), "{why}");
    symlink("../../outside/secret", app.join("out")).unwrap();
    let digest = digest_of_directory(&app).unwrap().to_string();
    assert!(refused(&artefacts, "v2", &digest).await.contains("leads out of its tree"));
    fs::remove_file(app.join("out")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(app.join("socket")).unwrap();
    assert!(refused(&artefacts, "v2", &digest).await.contains("neither file, directory nor link"));
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_a_reserve_stays() {
    let bed = Bed::new();
    let mut artefacts = bed.artefacts();
    let digest = bed.archive("v2.tar", &good());
    artefacts.limits.reserve_bytes = u64::MAX / 2;
    let why = refused(&artefacts, "v2.tar", &digest).await;
    assert!(
        why.contains("not enough space") && why.contains("bytes free; free some space"),
        "{why}"
    );
    let app = bed.root.join("builds/v2");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("a"), "a").unwrap();
    let digest = digest_of_directory(&app).unwrap().to_string();
    assert!(refused(&artefacts, "v2", &digest).await.contains("not enough space"));
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn what_is_not_done_in_time_is_given_up_and_nothing_is_left() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let digest = bed.archive("v2.tar", &good());
    let late = artefacts.fetch(&artefact("v2.tar", &digest), whole(), Instant::now()).await;
    assert_eq!(late.err().unwrap().reason(), "it was not done by the step's deadline");
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn what_a_crash_left_is_gone_when_the_agent_starts() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let digest = bed.archive("v2.tar", &good());
    let fetched = fetch(&artefacts, "v2.tar", &digest).await.unwrap();
    let outside = artefacts.places.outside().unwrap();
    let path = outside.path.clone();
    outside.dir.make_dir(b"repo").unwrap();
    fs::write(path.join("repo/object"), "x").unwrap();
    // As a kill does: nothing is dropped.
    std::mem::forget((fetched, outside));
    assert_eq!(bed.left().0.len(), 2, "{:?}", bed.left().0);
    drop(artefacts);
    drop(bed.artefacts());
    assert_eq!(bed.left().0, [""; 0]);
    assert!(!path.exists());
    // A note of what never was made, and one that names something else, do no harm.
    fs::write(bed.root.join("state/artefacts/lastgood-git-0123456789abcdef"), "").unwrap();
    fs::write(bed.root.join("state/artefacts/lastgood-git-x"), "").unwrap();
    drop(bed.artefacts());
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
#[ignore = "real: needs root and mount"]
async fn real_a_disk_that_fills_while_it_is_unpacked_leaves_nothing() {
    let bed = Bed::new();
    let state = bed.root.join("state");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"])
        .arg(&state)
        .status();
    assert!(mounted.unwrap().success(), "this test has to mount a tmpfs");
    let tar =
        (0..40).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), 0o644, &vec![n; 60_000]));
    let digest = bed.archive("v2.tar.zst", &super::tars::zstd(&tar.end()));
    let mut artefacts = bed.artefacts();
    artefacts.limits.ratio = u64::MAX;
    let looked = refused(&artefacts, "v2.tar.zst", &digest).await;
    let left = bed.left().0;
    let space = rustix::fs::statvfs(&state).unwrap();
    drop(artefacts);
    let unmounted = std::process::Command::new("umount").arg(&state).status();
    assert!(unmounted.unwrap().success());
    assert!(looked.contains("not enough space"), "{looked}");
    assert_eq!(left, [""; 0]);
    assert!(space.f_bavail * space.f_frsize > 1_000_000);
}
