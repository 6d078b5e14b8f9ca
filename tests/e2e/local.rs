//! Root on the host, without a coordinator: `agent local` as a process, against real agents and by itself.

use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use agent::{host::Host, order::Verb};
use proto::v1::{self, OperationResult, Outcome};
use tests::{
    cluster::{Cluster, FLEET},
    eventually,
};

use crate::operations::{Fleet, HOSTS, fleet, rollback};

/// `agent local …`, with nothing in its environment that says where a coordinator is.
fn local(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-under-test"));
    command.arg("local").args(arguments).arg("--state").arg(state).env_clear();
    command
}

async fn run(command: Command) -> Output {
    let mut command = command;
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs it; its standard output, where it ended with this code.
async fn ends(code: i32, command: Command) -> String {
    let output = run(command).await;
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    format!("{stdout}{stderr}")
}

async fn host_view(fleet: &Fleet, host: &str) -> v1::HostView {
    let mut client = fleet.client.clone();
    let request = v1::GetFleetRequest { fleet: FLEET.to_owned() };
    let view = client.get_fleet(request).await.unwrap().into_inner();
    view.hosts.into_iter().find(|row| row.host == host).unwrap()
}

/// Waits until the coordinator knows what root did on a host.
async fn told(fleet: &Fleet, host: &str, ended: bool) -> v1::LocalOperation {
    eventually("the coordinator knows what root did", || async {
        let local = host_view(fleet, host).await.local_operation;
        local.filter(|local| local.ended.is_some() == ended)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_with_a_dead_coordinator_root_rolls_the_host_back_and_is_looked_after() {
    let mut fleet = fleet().await;
    fleet.cluster.stop_coordinator();
    let state = fleet.cluster.state("h1");
    let text = ends(0, local(&state, &["status"])).await;
    assert!(text.contains("v2 is live") && text.contains("Way back  v1"), "{text}");
    // Nobody confirms: nothing is done.
    let text = ends(2, local(&state, &["rollback"])).await;
    assert!(text.contains("agent local rollback --to v1 --yes"), "{text}");
    assert_eq!(fleet.live(), ["v2"; 4]);
    let text = ends(0, local(&state, &["rollback", "--yes"])).await;
    assert!(text.contains("older than v2 (live)"), "it says why: {text}");
    assert!(text.contains("DONE: v1 is live and verified."), "{text}");
    assert_eq!(fleet.live(), ["v1", "v2", "v2", "v2"]);

    fleet.cluster.start_coordinator().await;
    fleet.client = fleet.cluster.client().await;
    fleet.cluster.connected(HOSTS.len()).await;
    let seen = told(&fleet, "h1", true).await;
    assert_eq!((seen.to_release.as_str(), seen.by.as_str()), ("v1", "root"));
    assert_eq!(seen.ended.unwrap().end(), v1::TrackEnd::Done);
    // The next operation starts from what is live, and having restored the host it has looked at it.
    let request = rollback("v1", &[]);
    let plan = fleet.client.create_plan(request).await.unwrap().into_inner().plan.unwrap();
    assert_eq!(plan.hosts[0].from_release, "v1");
    let id = fleet.begin(rollback("v1", &[])).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Verified, "{:?}", Fleet::outcomes(&operation));
    assert_eq!(fleet.live(), ["v1"; 4]);
    let stops = fleet.hands["h1"].performed().iter().filter(|step| *step == "stop").count();
    assert_eq!(stops, 1, "what is there already is only verified");
    assert_eq!(host_view(&fleet, "h1").await.local_operation, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_an_operation_that_root_broke_into_never_says_restored() {
    let mut fleet = fleet().await;
    fleet.hands["h1"].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &["h1", "h2"])).await;
    fleet.performed("h1", "start").await;
    let state = fleet.cluster.state("h1");
    let text = ends(0, local(&state, &["rollback", "--to", "v1", "--dry-run"])).await;
    assert!(text.contains(&format!("{id} is at work here; it is taken back before")), "{text}");
    let root = tokio::spawn(ends(0, local(&state, &["rollback", "--to", "v1", "--yes"])));
    told(&fleet, "h1", false).await;
    fleet.hands["h1"].let_go();
    let text = root.await.unwrap();
    assert!(text.contains("stop crm taken back") && text.contains("DONE"), "{text}");
    let operation = fleet.ended(&id).await;
    let h1 = operation.hosts.iter().find(|row| row.host == "h1").unwrap();
    assert_eq!(h1.outcome(), Outcome::Failed, "{}", h1.reason);
    assert!(h1.reason.contains("root took this host over"), "{}", h1.reason);
    assert_eq!(fleet.live()[0], "v1");
    fleet.assert_all_run();
    // Nor is it brought along again.
    let retry = v1::RetryOperationRequest { operation: id.clone(), hosts: vec!["h1".to_owned()] };
    let refused = fleet.client.retry_operation(retry).await.unwrap_err();
    assert!(refused.message().contains("root took this host over"), "{}", refused.message());
    // Until a person says so.
    let request = v1::AcknowledgeHostRequest { fleet: String::new(), host: "h1".to_owned() };
    let acknowledged = fleet.client.acknowledge_host(request).await.unwrap().into_inner();
    assert_eq!(acknowledged.local_operation.unwrap().to_release, "v1");
    assert_eq!(host_view(&fleet, "h1").await.local_operation, None);
    // What is planned from now on is taken.
    let id = fleet.begin(rollback("v2", &["h1"])).await;
    assert_eq!(fleet.ended(&id).await.result(), OperationResult::Verified);
    assert_eq!(fleet.live()[0], "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_rollback_that_fails_is_put_back_or_left_as_root_says() {
    let fleet = fleet().await;
    let state = fleet.cluster.state("h1");
    fleet.hands["h1"].fail(Verb::Verify, "GET /api/health → 503");
    let text = ends(20, local(&state, &["rollback", "--yes"])).await;
    assert!(text.contains("everything was put back") && text.contains("503"), "{text}");
    assert_eq!(fleet.live()[0], "v2");
    let text = ends(22, local(&state, &["rollback", "--yes", "--leave"])).await;
    assert!(text.contains("v1 is in place, but its checks do not hold"), "{text}");
    assert_eq!(fleet.live()[0], "v1");
    fleet.hands["h1"].mend();
    ends(2, local(&state, &["rollback", "--to", "v9", "--yes"])).await;
    let text = ends(0, local(&state, &["rollback", "--to", "v1", "--yes"])).await;
    assert!(text.contains("`v1` is live already"), "{text}");
    ends(0, local(&state, &["verify"])).await;
    ends(0, local(&state, &["snapshot", "--as", "tonight"])).await;
    let text = ends(0, local(&state, &["releases"])).await;
    assert!(text.contains("tonight"), "{text}");
    fleet.hands["h1"].fail(Verb::Stage, "object 5d2e is damaged");
    ends(10, local(&state, &["rollback", "--to", "v2", "--yes"])).await;
    assert_eq!(fleet.live()[0], "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_nobody_but_root_is_let_in() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fleet = fleet().await;
    let state = fleet.cluster.state("h1");
    let stranger = |arguments: &[&str]| {
        let mut command = local(&state, arguments);
        command.uid(65_534).gid(65_534);
        command
    };
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(state.parent().unwrap(), 0o755);
    open(&state, 0o755);
    let socket = state.join("local.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    ends(4, stranger(&["rollback", "--yes"])).await;
    // Even where somebody opens the socket to all, the kernel says who is there.
    open(&socket, 0o666);
    let text = ends(10, stranger(&["rollback", "--yes"])).await;
    assert!(text.contains("only root is let in"), "{text}");
    assert_eq!(fleet.live(), ["v2"; 4]);
}

/// A host with real files and no service: one tree with uploads that stay, and an env file in it.
struct Files {
    dir: tempfile::TempDir,
    policy: PathBuf,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let app = root.join("www/ace-crm");
        std::fs::create_dir_all(app.join("uploads")).unwrap();
        std::fs::write(app.join("uploads/photo"), "mine").unwrap();
        let policy = root.join("policy.yaml");
        let text = format!(
            "version: 1\nfleet: {FLEET}\nhost: h1\ncomponents:\n  crm:\n    files:\n      - tree: {app}\n        \
             keep: [uploads]\n      - file: {app}/.env.production\n        secret: true\n    \
             ready_within: 5s\n    stable_for: 0s\n",
            app = app.display()
        );
        std::fs::write(&policy, text).unwrap();
        let files = Self { dir, policy };
        files.deploy("v1");
        files
    }

    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn app(&self) -> PathBuf {
        self.root().join("www/ace-crm")
    }

    fn deploy(&self, version: &str) {
        std::fs::write(self.app().join("server.js"), version).unwrap();
        std::fs::write(self.app().join(".env.production"), format!("V={version}")).unwrap();
    }

    /// What an app that is started now would read.
    fn speaks(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.app().join(name)).unwrap();
        format!("{} {} {}", read("server.js"), read(".env.production"), read("uploads/photo"))
    }

    /// A backup as people make them: what was in the tree, the env file under another name.
    fn backup(&self, at: &str, version: &str) -> PathBuf {
        let dir = self.root().join(at);
        std::fs::create_dir_all(dir.join("uploads")).unwrap();
        std::fs::write(dir.join("uploads/photo"), "of the backup").unwrap();
        std::fs::write(dir.join("server.js"), version).unwrap();
        std::fs::write(dir.join(".env.production.backup"), format!("V={version}")).unwrap();
        dir
    }

    fn local(&self, state: &Path, arguments: &[&str]) -> Command {
        let mut command = local(state, arguments);
        command.arg("--policy").arg(&self.policy);
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_without_an_agent_the_command_opens_ledger_and_store_itself() {
    let files = Files::new();
    let state = files.root().join("state");
    let run = |arguments: &[&str]| ends(0, files.local(&state, arguments));
    let text = run(&["snapshot", "--as", "v1"]).await;
    assert!(text.contains("No agent runs here"), "{text}");
    files.deploy("v2");
    run(&["snapshot", "--as", "v2"]).await;
    run(&["verify"]).await;
    files.deploy("v3");
    // Nobody ever verified v1 here, and v2 is what was deployed over: a person has to name one.
    let text = run(&["rollback", "--to", "v1", "--yes"]).await;
    assert!(text.contains("v1: it was never verified here"), "{text}");
    assert_eq!(files.speaks(), "v1 V=v1 mine");
    let text = run(&["status"]).await;
    assert!(text.contains("h1: v1 is live") && text.contains("Local     local-"), "{text}");
    // v2 was verified; what was live, and nobody had named, is kept too.
    let text = run(&["releases"]).await;
    assert!(text.contains("v2") && text.contains("verified it here"), "{text}");
    run(&["rollback", "--to", "v2", "--yes"]).await;
    assert_eq!(files.speaks(), "v2 V=v2 mine");
    // v1 was rolled back to and verified, and is older: it is found without its name.
    let text = run(&["rollback", "--yes"]).await;
    assert!(text.contains("v2 → v1"), "{text}");
    assert_eq!(files.speaks(), "v1 V=v1 mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_before_are_imported_and_rolled_back_to_from_afar() {
    // As the agent's binary does; another test of this process may have done it.
    rustls::crypto::ring::default_provider().install_default().ok();
    let files = Files::new();
    let mut cluster = Cluster::start().await;
    cluster.apply(&["h1"], |control| control.components[0].services.clear()).await;
    let loaded = agent::policy::load(&files.policy, "h1").unwrap();
    let state = cluster.state("h1");
    let host = Host::open(&loaded.policy, loaded.hash, &state).unwrap();
    cluster.start_agent("h1", Arc::new(host));
    cluster.connected(1).await;

    let previous = files.backup("backups/ace-crm/previous", "v1.4.1");
    let before = files.speaks();
    let from = previous.to_str().unwrap();
    let import = ["import", "--component", "crm", "--from", from, "--as", "v1.4.1"];
    let text = ends(0, files.local(&state, &import)).await;
    assert!(
        text.starts_with("v1.4.1 of crm:") && text.contains(".env.production.backup"),
        "{text}"
    );
    ends(0, files.local(&state, &import)).await;
    for (day, version) in [("2026-11-01", "old"), ("2026-11-02_0310", "newer")] {
        files.backup(&format!("dated/{day}"), version);
    }
    let dated = files.root().join("dated");
    let all = ["import", "--component", "crm", "--all-in", dated.to_str().unwrap()];
    let text = ends(0, files.local(&state, &all)).await;
    assert!(text.contains("2026-11-01 of crm") && text.contains("2026-11-02_0310"), "{text}");
    let wrong = ["import", "--component", "cmr", "--from", from, "--as", "x"];
    let text = ends(10, files.local(&state, &wrong)).await;
    assert!(text.contains("it has: crm"), "{text}");
    assert_eq!(files.speaks(), before, "nothing live is touched");

    let client = cluster.client().await;
    let mut fleet = Fleet { cluster, hands: Default::default(), client };
    for (release, speaks) in [("v1.4.1", "v1.4.1 V=v1.4.1 mine"), ("2026-11-01", "old V=old mine")]
    {
        // A plan asks the host first: what was imported just now is there.
        let id = fleet.begin(rollback(release, &[])).await;
        let operation = fleet.ended(&id).await;
        assert_eq!(operation.result(), OperationResult::Verified, "{operation:?}");
        assert_eq!(files.speaks(), speaks);
        assert_eq!(host_view(&fleet, "h1").await.live_release, release);
    }
    let releases = v1::ListReleasesRequest::default();
    let releases = fleet.client.list_releases(releases).await.unwrap().into_inner().releases;
    let newer = releases.iter().find(|row| row.release == "2026-11-02_0310").unwrap();
    assert_eq!(newer.standing(), v1::Standing::Unproven);
    assert_eq!(newer.on_hosts, ["h1"]);
}
