//! The schema gate on a real PostgreSQL. Run with `--ignored`; as root it runs the server as user `postgres`.

use std::os::unix::fs::chown;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::*;
use crate::{
    exec::{self, Spec, user},
    postgres,
};

const OPEN: &str = "local all all trust\nhost all all all scram-sha-256\n";
/// Nobody gets in over the network without TLS.
const TLS_ONLY: &str = "local all all trust\nhostssl all all all scram-sha-256\n";

/// A cluster of its own in a directory of its own, with user `crm` and database `crm`. Ends when dropped.
struct Cluster {
    temp: tempfile::TempDir,
    bin: PathBuf,
    user: Option<String>,
    server: Child,
    port: u16,
}

impl Cluster {
    async fn start(hba: &str) -> Self {
        let versions = fs::read_dir("/usr/lib/postgresql").expect("this test needs postgresql");
        let bins = versions.map(|version| version.unwrap().path().join("bin"));
        let bin = bins.filter(|bin| bin.join("postgres").exists()).max().expect("no postgres");
        let temp = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().is_root().then(|| "postgres".to_owned());
        if let Some(name) = &user {
            let user = user::look_up(name).unwrap().expect("user postgres");
            chown(temp.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let data = temp.path().join("data").display().to_string();
        let initdb = bin.join("initdb").display().to_string();
        run(&[&initdb, "-D", &data, "-A", "trust", "--no-sync"], &user).await;
        fs::write(temp.path().join("data/pg_hba.conf"), hba).unwrap();
        let (key, certificate) = (format!("{data}/server.key"), format!("{data}/server.crt"));
        let openssl = "/usr/bin/openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext \
                       subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout";
        let mut argv: Vec<&str> = openssl.split_whitespace().collect();
        argv.extend([key.as_str(), "-out", &certificate]);
        run(&argv, &user).await;
        let (server, port) = Self::serve(&bin, &data, temp.path(), &user);
        let cluster = Self { temp, bin, user, server, port };
        cluster.admin("postgres", "CREATE ROLE crm LOGIN PASSWORD 'hunter2'").await;
        cluster.admin("postgres", "CREATE DATABASE crm").await;
        cluster.crm("CREATE TABLE schema_migrations (version bigint)").await;
        cluster.crm("GRANT SELECT ON schema_migrations TO crm").await;
        cluster
    }

    /// At a port that was free a moment ago: PostgreSQL takes no port 0.
    fn serve(bin: &Path, data: &str, sockets: &Path, user: &Option<String>) -> (Child, u16) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let settings = [
            "listen_addresses=localhost".to_owned(),
            format!("unix_socket_directories={}", sockets.display()),
            format!("port={port}"),
            "ssl=on".to_owned(),
            "fsync=off".to_owned(),
        ];
        let mut argv = vec![bin.join("postgres").display().to_string(), "-D".into(), data.into()];
        argv.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
        let spec = Spec::new(argv).as_user(user.clone());
        let log = fs::File::create(sockets.join("log")).unwrap();
        let mut server = exec::prepare(&spec).unwrap();
        server.output(std::process::Stdio::null(), log);
        (server.spawn().unwrap(), port)
    }

    async fn crm(&self, statement: &str) {
        self.admin("crm", statement).await;
    }

    /// As the administrator, once the server lets anybody in.
    async fn admin(&self, database: &str, statement: &str) {
        let sockets = self.temp.path().display().to_string();
        let (psql, port) = (self.bin.join("psql").display().to_string(), self.port.to_string());
        let argv = [&psql, "-X", "-h", &sockets, "-p", &port, "-d", database, "-c", statement];
        let spec = Spec::new(argv).as_user(self.user.clone());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let output = exec::run(&spec, Duration::from_secs(60)).await.unwrap();
            // 2: the server does not take connections yet.
            if output.status.code() != Some(2) {
                output.success(&spec).unwrap();
                return;
            }
            let log = fs::read_to_string(self.temp.path().join("log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < deadline, "{} {log}", output.stderr);
        }
    }

    fn url(&self, host: &str, options: &str) -> String {
        format!("postgres://crm:hunter2@{host}:{}/crm{options}", self.port)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.server.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.unwrap(), signal).unwrap();
    }

    fn stop(&mut self) {
        self.signal(Signal::INT);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(self.server.wait()).unwrap();
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::CONT);
            self.stop();
        }
    }
}

async fn run(argv: &[&str], user: &Option<String>) {
    let spec = Spec::new(argv.iter().copied()).as_user(user.clone());
    let output = exec::run(&spec, Duration::from_secs(120)).await.unwrap();
    output.success(&spec).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs postgresql"]
async fn real_schema_gate_on_postgresql() {
    let mut cluster = Cluster::start(OPEN).await;
    cluster.crm("INSERT INTO schema_migrations VALUES (1), (2)").await;
    let url = cluster.url("localhost", "?sslmode=require&schema=public");
    let env = format!("{ENV}DATABASE_URL=\"{url}\"\n");
    let more = "    migrations: { table: public.schema_migrations, backward_safe: [\"3\"] }\n";
    let world = World::new("", more);
    let host = world.host();
    world.deploy("1", &env);
    let (first, words) = snapshot(&host, "v1").await;
    assert!(words.ends_with("2 migrations are applied"), "{words}");
    done(&host, Verb::Verify, "").await;
    let words = done(&host, Verb::Preflight, &first).await.detail;
    assert!(words.ends_with("database: no migration since"), "{words}");

    // A migration that an older release can live with, then one that it cannot.
    cluster.crm("INSERT INTO schema_migrations VALUES (3)").await;
    let words = done(&host, Verb::Preflight, &first).await.detail;
    assert!(words.ends_with("database: backward-safe since: 3"), "{words}");
    cluster.crm("INSERT INTO schema_migrations VALUES (4)").await;
    world.deploy("2", &env);
    let why = refused(&host, Verb::Preflight, &first).await;
    assert!(why.contains("declared backward-safe: 4; nothing was stopped"), "{why}");
    assert!(why.ends_with("with --across-migrations"), "{why}");

    // By order: and what is replaced has a way back too, although nobody took a snapshot of it.
    let ordered = perform(&host, Verb::Preflight, &first, true).await;
    assert!(ordered.ok && ordered.detail.contains("goes on by order"), "{ordered:?}");
    let staged = done(&host, Verb::Stage, &first).await.evidence.unwrap();
    let second = staged.replaced.unwrap();
    done(&host, Verb::Switch, &first).await;
    let words = done(&host, Verb::Preflight, &second).await.detail;
    assert!(words.ends_with("database: no migration since"), "{words}");

    // A table that is not there, and a password that no longer holds, are told without it.
    cluster.crm("ALTER TABLE schema_migrations RENAME TO moved").await;
    let why = refused(&host, Verb::Preflight, &second).await;
    assert!(why.contains("it has no table of that name"), "{why}");
    cluster.crm("ALTER TABLE moved RENAME TO schema_migrations").await;
    cluster.crm("ALTER ROLE crm PASSWORD 'hunter3'").await;
    let wrong = refused(&host, Verb::Preflight, &second).await;
    assert!(wrong.contains("it refuses the user or the password (SQLSTATE 28P01)"), "{wrong}");
    cluster.crm("ALTER ROLE crm PASSWORD 'hunter2'").await;
    done(&host, Verb::Preflight, &second).await;

    // One that hangs does not hang the preflight, and the host's status does not ask it at all.
    cluster.signal(Signal::STOP);
    let hangs = refused(&host, Verb::Preflight, &second).await;
    let told = "the database did not answer within 5s; nothing was stopped";
    assert!(hangs.contains(told), "{hangs}");
    let status = tokio::time::timeout(postgres::WITHIN, host.status()).await.unwrap();
    cluster.signal(Signal::CONT);
    cluster.stop();
    let gone = refused(&host, Verb::Preflight, &second).await;
    assert!(gone.contains("connection refused"), "{gone}");
    let facts = fs::read_to_string(world.root.join("state/facts.json")).unwrap();
    let all = format!("{words} {why} {ordered:?} {wrong} {hangs} {status:?} {gone} {facts}");
    for secret in ["hunter", "localhost", "sslmode"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs postgresql"]
async fn real_locked_table_does_not_hang_the_gate() {
    let cluster = Cluster::start(OPEN).await;
    let locker = cluster.crm("BEGIN; LOCK TABLE schema_migrations; SELECT pg_sleep(600)");
    let url = cluster.url("localhost", "");
    let gate = async {
        // Until the lock is held, the table can be read.
        loop {
            match postgres::applied(&url, "schema_migrations", "version").await {
                Ok(names) => assert!(names.is_empty()),
                Err(error) => break error.to_string(),
            }
        }
    };
    let why = tokio::select! {
        () = locker => panic!("the lock was let go"),
        why = gate => why,
    };
    assert!(why.contains("the table may be locked (SQLSTATE 57014)"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs postgresql"]
async fn real_tls_to_postgresql() {
    let cluster = Cluster::start(TLS_ONLY).await;
    cluster.crm("INSERT INTO schema_migrations VALUES (7)").await;
    let root = cluster.temp.path().join("data/server.crt");
    let root = root.display();
    let ask = async |host: &str, options: &str| {
        let url = cluster.url(host, options);
        postgres::applied(&url, "schema_migrations", "version").await
    };
    let seven = Ok(vec!["7".to_owned()]);
    for (host, options) in [
        ("127.0.0.1", String::new()),
        ("127.0.0.1", "?sslmode=require&channel_binding=require".to_owned()),
        ("127.0.0.1", format!("?sslmode=verify-ca&sslrootcert={root}")),
        ("localhost", format!("?sslmode=verify-full&sslrootcert={root}")),
    ] {
        assert_eq!(ask(host, &options).await, seven, "{host} {options}");
    }
    for (host, options, words) in [
        ("127.0.0.1", "?sslmode=disable".to_owned(), "it does not let this user in"),
        ("localhost", "?sslmode=verify-full".to_owned(), "invalid peer certificate"),
        ("127.0.0.1", format!("?sslmode=verify-full&sslrootcert={root}"), "for another name"),
        ("localhost", "?sslmode=verify-ca&sslrootcert=/none".to_owned(), "/none holds no cert"),
    ] {
        let why = ask(host, &options).await.unwrap_err().to_string();
        assert!(why.contains(words) && !why.contains("hunter2"), "{options}: {why}");
    }
}
