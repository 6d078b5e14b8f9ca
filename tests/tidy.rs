//! The structure of the project, as tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What may stand at the top, beside dot-files.
const TOP: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "coordinator",
    "ctl",
    "deploy",
    "proto",
    "tests",
];

/// Which of our crates each may use.
const EDGES: [(&str, &[&str]); 6] = [
    ("proto", &[]),
    ("coordinator/engine", &[]),
    ("coordinator", &["engine", "proto"]),
    ("agent", &["proto"]),
    // The sandbox alone needs the two processes.
    ("ctl", &["agent", "coordinator", "proto"]),
    ("tests", &["agent", "coordinator", "ctl", "engine", "proto"]),
];

const OURS: [&str; 6] = ["agent", "coordinator", "ctl", "engine", "proto", "tests"];

/// Longer files want a seam.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests lie in the workspace").to_owned()
}

/// Every Rust file of ours, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    for part in ["proto", "coordinator", "agent", "ctl", "tests"] {
        walk(&root().join(part), &mut found);
    }
    assert!(found.len() > 50, "the walk found only {} files", found.len());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn the_top_level_is_what_the_design_says() {
    let names = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let visible: BTreeSet<String> =
        names.filter(|name| !name.starts_with('.') && name != "target").collect();
    let wanted: BTreeSet<String> = TOP.iter().map(ToString::to_string).collect();
    assert_eq!(visible, wanted);
}

#[test]
fn crates_use_only_what_the_design_lets_them() {
    for (package, allowed) in EDGES {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split_once("[dependencies]").map_or("", |(_, rest)| rest);
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
        let used: BTreeSet<&str> = names.filter(|name| OURS.contains(name)).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(used, allowed, "{package}");
    }
}

#[test]
fn ctl_uses_coordinator_and_agent_in_the_sandbox_only() {
    for (path, text) in sources() {
        let name = shown(&path);
        if name.starts_with("ctl/") && !name.starts_with("ctl/src/sandbox/") {
            for other in ["agent::", "coordinator::"] {
                let uses = text.lines().any(|line| {
                    let line = line.trim_start();
                    line.starts_with(&format!("use {other}"))
                        || line.contains(&format!(" {other}Config"))
                });
                assert!(!uses, "{name} uses {other}");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_is_of_a_size() {
    for (path, text) in sources() {
        let name = shown(&path);
        assert!(text.starts_with("//!"), "{name} does not open with what it is for");
        let lines = text.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{name} has {lines} lines, at most {LINES_MAX}: look for the seam"
        );
    }
}

#[test]
fn named_crates_stay_in_their_one_place() {
    let places = [
        ("backoff", "agent/src/retry.rs"),
        ("sled", "coordinator/src/journal/"),
        ("reqwest", "agent/src/http.rs"),
        ("rcgen", "proto/src/tls"),
    ];
    for (path, text) in sources() {
        let name = shown(&path);
        for (krate, place) in places {
            let uses = text.lines().any(|line| {
                line.contains(&format!("{krate}::")) && !line.trim_start().starts_with("//")
            });
            // The sandbox's prober stands for the app's users, and is no part of the agent.
            let sandbox = krate == "reqwest" && name.starts_with("ctl/src/sandbox/");
            // The coordinator asks Prometheus, and nobody else.
            let client = "coordinator/src/measure/prometheus/client.rs";
            let prometheus = krate == "reqwest" && name == client;
            // A server of a test's own needs a certificate of its own.
            let server = krate == "rcgen" && name == "agent/src/artefact/tests/https.rs";
            // `journal::sled` is our own module of that name.
            let own = krate == "sled" && name.starts_with("coordinator/");
            assert!(
                !uses
                    || name.starts_with(place)
                    || sandbox
                    || prometheus
                    || server
                    || own
                    || name.starts_with("tests/"),
                "{name} uses {krate}"
            );
        }
    }
}

#[test]
fn one_tls_provider_and_no_openssl() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for unwanted in ["aws-lc-rs", "aws-lc-sys", "openssl", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{unwanted}\"")), "{unwanted} came in");
    }
    for one in ["tonic", "prost", "hyper", "h2", "rustls", "ring"] {
        let count = lock.matches(&format!("name = \"{one}\"\n")).count();
        assert_eq!(count, 1, "{one} is there {count} times");
    }
}

#[test]
fn the_engine_reads_no_clock_and_does_no_io() {
    for (path, text) in sources() {
        let name = shown(&path);
        if name.starts_with("coordinator/engine/src/") {
            for unwanted in
                ["std::time", "std::fs", "std::net", "std::thread", "tokio", "rand::", "HashMap"]
            {
                let uses = text
                    .lines()
                    .any(|line| line.contains(unwanted) && !line.trim_start().starts_with("//"));
                assert!(!uses, "{name} uses {unwanted}");
            }
        }
    }
}

#[test]
fn nothing_is_unfinished() {
    let own = Path::new(file!()).file_name().expect("this file has a name");
    for (path, text) in sources() {
        if path.file_name() == Some(own) {
            continue;
        }
        for unwanted in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("] {
            assert!(!text.contains(unwanted), "{} has {unwanted}", shown(&path));
        }
    }
}

#[test]
fn every_promise_has_a_test_named_after_it() {
    let all: String = sources().into_iter().map(|(_, text)| text).collect();
    for promise in ["p01_", "p02_", "p03_", "p04_", "p05_", "p06_", "p07_", "p08_", "p09_", "p10_"]
    {
        assert!(all.contains(&format!("fn {promise}")), "no test is named {promise}…");
    }
}
