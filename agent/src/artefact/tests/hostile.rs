//! What no release may be made of: each archive is wrong in one way, is refused in those words, and leaves nothing.

use super::{
    tars::{Tar, dresses, gzip, pax, zstd},
    *,
};

fn tar() -> Tar {
    Tar::default().file("a", 0o644, b"a")
}

fn special(kind: u8) -> Vec<u8> {
    tar().with(&Tar::header(b"x", kind, 0o644, 0, b"a"), b"").end()
}

/// A header that was changed, with its checksum made right again.
fn changed(change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut header = Tar::header(b"x", b'0', 0o644, 1, b"");
    change(header.as_mut_bytes());
    header.set_cksum();
    tar().with(&header, b"x").end()
}

fn long_name(bytes: &[u8]) -> Vec<u8> {
    tar().extended(b'L', bytes).file("x", 0o644, b"").end()
}

fn with_pax(records: &[(&str, &str)]) -> Vec<u8> {
    tar().pax(records).file("x", 0o644, b"xy").end()
}

fn raw_pax(bytes: &[u8]) -> Vec<u8> {
    tar().extended(b'x', bytes).file("x", 0o644, b"").end()
}

/// What it is, and words of the refusal; in another dress they may be others.
fn corpus() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let deep = vec!["d"; 65].join("/");
    let wide = vec!["n".repeat(250); 9].join("/");
    vec![
        // Where it would be.
        ("an absolute path", tar().file("/etc/x", 0o644, b"").end(), "an absolute path"),
        ("a path that climbs", tar().file("../x", 0o644, b"").end(), "a path with `..`"),
        (
            "a path that climbs later",
            tar().file("a1/../../x", 0o644, b"").end(),
            "a path with `..`",
        ),
        ("a directory that climbs", tar().dir("../x/", 0o755).end(), "a path with `..`"),
        ("a long name that climbs", long_name(b"../x\0"), "a path with `..`"),
        ("a PAX name that climbs", with_pax(&[("path", "../x")]), "a path with `..`"),
        ("a PAX name that is absolute", with_pax(&[("path", "/x")]), "an absolute path"),
        ("a doubled slash", tar().file("b//x", 0o644, b"").end(), "not spelled plainly"),
        ("a dot in the middle", tar().file("b/./x", 0o644, b"").end(), "not spelled plainly"),
        (
            "a file with no name",
            tar().file("./", 0o644, b"").end(),
            "a file with the name of a directory",
        ),
        (
            "a file like a directory",
            tar().file("x/", 0o644, b"").end(),
            "a file with the name of a directory",
        ),
        (
            "a name that is not text",
            tar().with(&Tar::header(b"\xff\xfe", b'0', 0o644, 0, b""), b"").end(),
            "not text",
        ),
        ("a NUL in a long name", long_name(b"x\0y"), "a long name is none"),
        ("a NUL in a PAX name", with_pax(&[("path", "x\0y")]), "a name that is none"),
        ("an empty PAX name", with_pax(&[("path", "")]), "a name that is none"),
        ("a file twice", tar().file("a", 0o644, b"b").end(), "`a`, which is in it twice"),
        (
            "a file twice, otherwise spelled",
            tar().file("./a", 0o644, b"b").end(),
            "`a`, which is in it twice",
        ),
        ("a file, then a link", tar().link("a", "b").end(), "which is in it twice"),
        (
            "a link, then a file",
            tar().link("b", "a").file("b", 0o644, b"").end(),
            "which is in it twice",
        ),
        ("a directory twice", tar().dir("d", 0o755).dir("d/", 0o755).end(), "which is in it twice"),
        ("the root twice", tar().dir("./", 0o755).dir("./", 0o755).end(), "which is in it twice"),
        (
            "a file below a file",
            tar().file("a/b", 0o644, b"").end(),
            "a file or a link there, and a directory",
        ),
        (
            "a file below a link",
            tar().dir("d", 0o755).link("l", "d").file("l/x", 0o644, b"").end(),
            "a file or a link there",
        ),
        (
            "a directory where a link is",
            tar().link("l", "a").dir("l", 0o755).end(),
            "which is in it twice",
        ),
        // Where its links would lead.
        ("an absolute link", tar().link("l", "/etc/passwd").end(), "an absolute link"),
        ("a link that climbs out", tar().link("l", "../outside").end(), "leads out of its tree"),
        (
            "a link that climbs out from below",
            tar().link("d/l", "../../x").end(),
            "leads out of its tree",
        ),
        ("a link that climbs from a link", tar().link("l", "d/../../x").end(), "`..` after a name"),
        (
            "a long link that climbs",
            tar().extended(b'K', b"../../x\0").link("l", "a").end(),
            "leads out of its tree",
        ),
        (
            "a PAX link that climbs",
            tar().pax(&[("linkpath", "../x")]).link("l", "a").end(),
            "leads out of its tree",
        ),
        ("a link to nothing", tar().link("l", "").end(), "cannot be a path"),
        // What it would be.
        (
            "a hard link",
            special(b'1'),
            "a hard link; write the archive with `tar --hard-dereference`",
        ),
        ("a character device", special(b'3'), "a device"),
        ("a block device", special(b'4'), "a device"),
        ("a fifo", special(b'6'), "a fifo"),
        ("a sparse file", special(b'S'), "a sparse file"),
        ("a volume label", special(b'V'), "an entry of the type `V`"),
        ("a contiguous file", special(b'7'), "an entry of the type `7`"),
        ("a type of nobody", special(b'Z'), "an entry of the type `Z`"),
        ("set-uid", tar().file("x", 0o4755, b"").end(), "set-uid or set-gid"),
        ("set-gid", tar().file("x", 0o2755, b"").end(), "set-uid or set-gid"),
        (
            "a link with bytes",
            tar().with(&Tar::header(b"l", b'2', 0o777, 1, b"a"), b"x").end(),
            "has bytes although",
        ),
        (
            "a directory with bytes",
            tar().with(&Tar::header(b"d", b'5', 0o755, 1, b""), b"x").end(),
            "has bytes although",
        ),
        // What two readers could take for two things.
        (
            "a size that PAX has otherwise",
            with_pax(&[("size", "1")]),
            "one in its header and another in its PAX header",
        ),
        (
            "file capabilities",
            with_pax(&[("SCHILY.xattr.security.capability", "x")]),
            "file capabilities",
        ),
        (
            "a sparse file of PAX",
            with_pax(&[("GNU.sparse.major", "1")]),
            "the key `GNU.sparse.major`",
        ),
        (
            "an access list",
            with_pax(&[("SCHILY.acl.access", "user::rwx")]),
            "the key `SCHILY.acl.access`",
        ),
        ("a key of nobody", with_pax(&[("VENDOR.magic", "1")]), "the key `VENDOR.magic`"),
        (
            "names of another alphabet",
            with_pax(&[("hdrcharset", "BINARY")]),
            "the key `hdrcharset`",
        ),
        ("a PAX key twice", with_pax(&[("path", "x"), ("path", "y")]), "a key twice"),
        ("a PAX length that is wrong", raw_pax(b"99 path=x\n"), "a PAX header cannot be read"),
        ("a PAX length that is none", raw_pax(b"-1 path=x\n"), "a number that is none"),
        ("a PAX record without end", raw_pax(b"9 path=xy"), "a PAX header cannot be read"),
        (
            "two PAX headers",
            tar().pax(&[("path", "x")]).pax(&[("path", "y")]).file("x", 0o644, b"").end(),
            "two long names",
        ),
        (
            "two kinds of long name",
            tar().pax(&[("path", "x")]).extended(b'L', b"y\0").file("z", 0o644, b"").end(),
            "two long names",
        ),
        (
            "a path for all files",
            tar().extended(b'g', &pax(&[("path", "x")])).file("x", 0o644, b"").end(),
            "the key `path` for all files",
        ),
        (
            "a name for nothing",
            tar().extended(b'L', b"x\0").end(),
            "a header that belongs to a file",
        ),
        ("an older tar", changed(|header| header[257..265].fill(0)), "none of POSIX or GNU tar"),
        (
            "a mode that is none",
            changed(|header| header[100..108].copy_from_slice(b"rwxr-xr-")),
            "no readable mode",
        ),
        (
            "a size that is none",
            changed(|header| header[124..136].copy_from_slice(b"many bytes!!")),
            "no readable size",
        ),
        // What is not all of it, or more than it.
        (
            "something after its end",
            [tar().end(), tar().end()].concat(),
            "something follows its end mark",
        ),
        ("no end", tar().0, "it ends before its end mark"),
        (
            "a file that is cut off",
            {
                let mut all = tar().end();
                all.truncate(700);
                all
            },
            "it is cut off",
        ),
        (
            "a header that is cut off",
            {
                let mut all = tar().end();
                all.truncate(300);
                all
            },
            "it is cut off",
        ),
        (
            "a size beyond the end",
            tar().with(&Tar::header(b"x", b'0', 0o644, 1 << 30, b""), b"x").end(),
            "in the middle of a file",
        ),
        (
            "a size beyond everything",
            tar().with(&Tar::header(b"x", b'0', 0o644, 1 << 62, b""), b"x").end(),
            "more bytes than",
        ),
        (
            "a long name beyond everything",
            tar().with(&Tar::header(b"x", b'L', 0o644, 1 << 40, b""), b"x").end(),
            "larger than any header",
        ),
        ("no file", Tar::default().dir("d", 0o755).end(), "no file in it"),
        ("nothing", vec![0; 1024], "it is neither tar nor|there is no file in it"),
        (
            "garbage",
            b"this is no archive ".repeat(100),
            "it is neither tar nor|none of POSIX or GNU tar",
        ),
        ("an empty file", Vec::new(), "it is neither tar nor|it ends before its end mark"),
        (
            "too deep",
            tar().pax(&[("path", &deep)]).file("x", 0o644, b"").end(),
            "too long or too deep",
        ),
        (
            "too long",
            tar().pax(&[("path", &wide)]).file("x", 0o644, b"").end(),
            "too long or too deep",
        ),
        (
            "a name that is too long",
            tar().pax(&[("path", &"n".repeat(256))]).file("x", 0o644, b"").end(),
            "a name that is too long",
        ),
    ]
}

#[tokio::test]
async fn p10_no_hostile_archive_is_unpacked_and_nothing_of_it_is_left() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let before = bed.left();
    for (what, bytes, words) in corpus() {
        for (dress, bytes) in dresses(&bytes) {
            let digest = bed.archive("v2", &bytes);
            let why = refused(&artefacts, "v2", &digest).await;
            let told = words.split('|').any(|words| why.contains(words));
            assert!(told, "{what} ({dress}): {why}");
            assert_eq!(bed.left(), before, "{what} ({dress})");
            assert_eq!(names(&bed.root), ["builds", "outside", "state"], "{what} ({dress})");
        }
    }
}

#[tokio::test]
async fn a_damaged_dress_is_refused() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let tar = Tar::default().file("a", 0o644, &[7; 5000]).end();
    for (dress, packed) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar))] {
        let mut cut = packed.clone();
        cut.truncate(packed.len() - 5);
        let mut flipped = packed.clone();
        let middle = packed.len() / 2;
        flipped[middle] ^= 0x55;
        let followed = [packed.as_slice(), b"and more"].concat();
        for (how, bytes) in [("cut", cut), ("flipped", flipped), ("followed", followed)] {
            let digest = bed.archive("v2", &bytes);
            let why = refused(&artefacts, "v2", &digest).await;
            assert!(why.contains("it is no archive that can be unpacked"), "{dress} {how}: {why}");
            assert_eq!(bed.left().0, [""; 0], "{dress} {how}");
        }
    }
}

#[tokio::test]
async fn a_bomb_is_put_out_early() {
    let bed = Bed::new();
    let mut artefacts = bed.artefacts();
    artefacts.limits.ratio_from_bytes = 64 * 1024;
    let tar = Tar::default().file("zeros", 0o644, &vec![0; 4 << 20]).end();
    let tail = {
        let mut tail = Tar::default().file("a", 0o644, b"a").end();
        tail.resize(4 << 20, 0);
        tail
    };
    for (what, tar) in [("a file", tar), ("its end", tail)] {
        for (dress, bytes) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar))] {
            let digest = bed.archive("v2", &bytes);
            let why = refused(&artefacts, "v2", &digest).await;
            assert!(why.contains("more than 200 times as large as it is"), "{what} {dress}: {why}");
            assert_eq!(bed.left().0, [""; 0]);
        }
    }
}

#[tokio::test]
async fn each_limit_holds() {
    let bed = Bed::new();
    let mut artefacts = bed.artefacts();
    (artefacts.limits.entries, artefacts.limits.bytes) = (4, 4096);
    let files = |count: usize, size: usize| {
        let names = (0..count).map(|number| format!("f{number}"));
        names.fold(Tar::default(), |tar, name| tar.file(&name, 0o644, &vec![1; size])).end()
    };
    fetch(&artefacts, "ok", &bed.archive("ok", &gzip(&files(3, 10)))).await.unwrap();
    let why = refused(&artefacts, "many", &bed.archive("many", &gzip(&files(4, 0)))).await;
    assert!(why.contains("more entries than 4"), "{why}");
    let why = refused(&artefacts, "large", &bed.archive("large", &gzip(&files(3, 2000)))).await;
    assert!(why.contains("more bytes than 4096"), "{why}");
    let why = refused(&artefacts, "archive", &bed.archive("archive", &files(3, 2000))).await;
    assert!(why.contains("more bytes than 4096"), "{why}");
}

#[tokio::test]
async fn a_links_tree_is_its_own_and_rights_are_given_by_tree() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let rule = |from: &str, privileged| TreeRule { from: from.into(), privileged };
    let end = Instant::now() + LONG;
    let archive = |name: &str, tar: Tar| bed.archive(name, &tar.end());
    let both = Tar::default().file("api/a", 0o4755, b"a").file("web/b", 0o644, b"b");

    let digest = archive("good", both.clone().link("web/c", "b").link("top", "api/a"));
    let trees = vec![rule("api", true), rule("web", false)];
    let fetched = artefacts.fetch(&artefact("good", &digest), trees.clone(), end).await.unwrap();
    assert_eq!(picture(&fetched.root())["api/a"].1, 0o4755);
    drop(fetched);

    let why = |name: &'static str, digest: String, trees: Vec<TreeRule>| {
        let artefacts = &artefacts;
        async move {
            let fetched = artefacts.fetch(&artefact(name, &digest), trees, end).await;
            fetched.expect_err("it is refused").reason()
        }
    };
    let digest = archive("out", both.clone().link("web/c", "../api/a"));
    assert!(why("out", digest, trees.clone()).await.contains("leads out of its tree"));
    let digest = archive("rights", both.clone());
    let other = vec![rule("api", false), rule("web", true)];
    assert!(why("rights", digest, other).await.contains("privileged_files: true"));
    let digest = archive("lacks", both.clone());
    let lacking = vec![rule("api", true), rule("portal", false)];
    assert!(why("lacks", digest, lacking).await.contains("portal is no directory of the artefact"));
    // A link is no directory, wherever it leads.
    let digest = archive("link", both.link("portal", "web"));
    let by_link = vec![rule("api", true), rule("portal", false)];
    assert!(why("link", digest, by_link).await.contains("portal is no directory of the artefact"));
    assert_eq!(bed.left().0, [""; 0]);
}
