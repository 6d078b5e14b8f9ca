//! A host whose one component has an env file, a database and a slow or quick app.

mod fetch;
mod learning;
mod quarantine;
mod real;
mod sampled;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::AbortHandle,
};

use super::*;

/// Answers everything with `{}`, after `delay_ms`. Ends when dropped.
struct App {
    address: std::net::SocketAddr,
    delay_ms: Arc<AtomicU64>,
    accepting: AbortHandle,
}

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = delay_ms.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let delay = delay.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
                            return;
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(delay.load(Ordering::SeqCst))).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    stream.write_all(answer).await.ok();
                });
            }
        });
        Self { address, delay_ms, accepting: accepting.abort_handle() }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A host in a directory of its own.
struct World {
    _temp: tempfile::TempDir,
    root: PathBuf,
    policy: Policy,
}

impl World {
    /// `more` is added to the component, in YAML's flow style.
    fn new(checks: &str, more: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("app")).unwrap();
        let app = root.join("app");
        let app = app.display();
        let policy = Policy::parse(&format!(
            "version: 1\nfleet: prod\nhost: crm-b1\ncomponents:\n  crm:\n    files: [{{ tree: {app} }}, \
             {{ file: {app}/.env.production, secret: true, require: [JWT_SECRET] }}]\n    \
             checks: [{checks}]\n    ready_within: 2s\n    stable_for: 100ms\n{more}"
        ))
        .unwrap();
        Self { _temp: temp, root, policy }
    }

    /// A release of the app: its version and its env file.
    fn deploy(&self, version: &str, env: &str) {
        fs::write(self.root.join("app/version"), version).unwrap();
        fs::write(self.root.join("app/.env.production"), env).unwrap();
    }

    fn host(&self) -> Host {
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        Host::open(&self.policy, String::new(), &self.root.join("state")).unwrap()
    }
}

async fn perform(host: &Host, verb: Verb, snapshot: &str, across_migrations: bool) -> StepResult {
    let step = Step {
        verb,
        component: "crm".into(),
        release: "a release".into(),
        snapshot: snapshot.into(),
        deadline_ms: 60_000,
        hook: String::new(),
        across_migrations,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    };
    let before = host.look(&step, None).await.unwrap();
    host.perform(&step, &before).await
}

async fn snapshot(host: &Host, release: &str) -> (String, String) {
    let step = Step {
        verb: Verb::Snapshot,
        component: "crm".into(),
        release: release.into(),
        snapshot: String::new(),
        deadline_ms: 60_000,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    };
    let taken = host.perform(&step, &Before::Nothing).await;
    assert!(taken.ok, "{taken:?}");
    (taken.evidence.unwrap().snapshot.unwrap(), taken.detail)
}

async fn done(host: &Host, verb: Verb, snapshot: &str) -> StepResult {
    let result = perform(host, verb, snapshot, false).await;
    assert!(result.ok, "{verb}: {result:?}");
    result
}

async fn refused(host: &Host, verb: Verb, snapshot: &str) -> String {
    let result = perform(host, verb, snapshot, false).await;
    assert!(!result.ok, "{verb}: {result:?}");
    result.detail
}

const ENV: &str = "JWT_SECRET=hunter2\n";

#[tokio::test]
async fn p03_a_release_is_held_to_how_fast_it_was_while_it_was_good() {
    let app = App::start().await;
    let address = app.address;
    let world = World::new(
        &format!(
            "{{ name: speed, http: \"http://{address}/\", requests: 2, every: 20ms, \
             expect: {{ p95_over_baseline: 2 }} }}"
        ),
        "",
    );
    app.delay_ms.store(60, Ordering::SeqCst);
    world.deploy("1", ENV);
    let host = world.host();
    let (first, _) = snapshot(&host, "v1").await;
    let notes = done(&host, Verb::Verify, "").await.evidence.unwrap().notes;
    assert!(notes[0].starts_with("check `speed`: no baseline yet; recorded average "), "{notes:?}");
    // A release of its own that is slower than the last good one is not good.
    app.delay_ms.store(250, Ordering::SeqCst);
    world.deploy("2", ENV);
    let (second, _) = snapshot(&host, "v2").await;
    let why = refused(&host, Verb::Verify, "").await;
    assert!(why.contains("check `speed`: ") && why.contains("while the release was good"), "{why}");
    assert!(refused(&host, Verb::Verify, &second).await.contains("while the release was good"));
    drop(host);
    // Back at the first, by an agent that was restarted: compared with its own times.
    let host = world.host();
    done(&host, Verb::Preflight, &first).await;
    done(&host, Verb::Stage, &first).await;
    done(&host, Verb::Switch, &first).await;
    assert!(refused(&host, Verb::Verify, &first).await.contains("while the release was good"));
    app.delay_ms.store(0, Ordering::SeqCst);
    let notes = done(&host, Verb::Verify, &first).await.evidence.unwrap().notes;
    assert!(notes.iter().all(|note| !note.contains("baseline")), "{notes:?}");
    let facts = Facts::open(&world.root.join("state"));
    assert!(facts.of("crm", &first).times["speed"].p95_us >= 60_000, "its own times stay");
    assert!(facts.of("crm", &second).times.is_empty(), "what did not hold is not recorded");
}

#[tokio::test]
async fn p05_a_release_without_its_keys_is_not_good_and_not_gone_back_to() {
    let world = World::new("", "");
    world.deploy("1", "JWT_SECRET=hunter2\nOLD=hunter2\n");
    let host = world.host();
    let (good, _) = snapshot(&host, "v1").await;
    done(&host, Verb::Verify, "").await;
    world.deploy("2", "JWT_SECRET=\n");
    let (bad, words) = snapshot(&host, "v2").await;
    assert!(
        words.ends_with("it will not be good: in .env.production JWT_SECRET has no value"),
        "{words}"
    );
    let why = refused(&host, Verb::Verify, "").await;
    assert!(why.contains("in .env.production JWT_SECRET has no value"), "{why}");
    let why = refused(&host, Verb::Preflight, &bad).await;
    assert!(
        why.contains("JWT_SECRET has no value") && why.ends_with("nothing was stopped"),
        "{why}"
    );
    for verb in [Verb::Preflight, Verb::Stage] {
        let words = done(&host, verb, &good).await.detail;
        let change = ".env.production: 1 key comes back (OLD), 1 value changes (JWT_SECRET)";
        assert!(words.contains(change) && !words.contains("hunter2"), "{words}");
    }
    done(&host, Verb::Switch, &good).await;
    done(&host, Verb::Verify, &good).await;
}

#[tokio::test]
async fn p11_a_database_that_is_not_there_refuses_the_way_back_and_is_not_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let env = format!("{ENV}DATABASE_URL=postgres://crm:hunter2@127.0.0.1:{port}/crm\n");
    let world = World::new("", "    migrations: { table: schema_migrations }\n");
    world.deploy("1", &env);
    let host = world.host();
    let (first, words) = snapshot(&host, "v1").await;
    assert!(words.contains("its migrations could not be recorded"), "{words}");
    let why = refused(&host, Verb::Preflight, &first).await;
    let cannot = "whether the database fits this release cannot be told: no migrations were recorded with this \
                  release; the database cannot be read: error connecting to server: connection refused; nothing was stopped";
    assert!(why.starts_with(cannot), "{why}");
    let ordered = perform(&host, Verb::Preflight, &first, true).await;
    assert!(ordered.ok && ordered.detail.contains("goes on by order"), "{ordered:?}");
    let all = format!("{words} {why} {ordered:?} {:?}", host.status().await);
    assert!(!all.contains("hunter2") && !all.contains(&port.to_string()), "{all}");
}
