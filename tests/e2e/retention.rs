//! Retention, end to end: real stores, whose hosts are told over mTLS what must stay.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use agent::{
    host::Host,
    store::{ComponentFiles, Label, Store},
};
use proto::{
    policy::{self, FilesPolicy, Policy, TreePolicy},
    v1::{self, PruneSnapshotsRequest, PruneSnapshotsResponse},
};
use tempfile::TempDir;
use tests::{
    cluster::{Client, Cluster, FLEET},
    eventually,
    hands::COMPONENT,
};
use tonic::Code;

/// When the snapshots were taken: long enough ago to go by count.
const THEN: i64 = 1_700_000_000_000;

struct Fleet {
    cluster: Cluster,
    client: Client,
    trees: TempDir,
}

impl Fleet {
    /// Hosts with `v1` to `v6` in their stores, `v6` live, and room for two.
    async fn of(hosts: &[&str]) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut cluster = Cluster::start().await;
        cluster.apply(hosts, |_| {}).await;
        let trees = tempfile::tempdir().unwrap();
        for host in hosts {
            let tree = trees.path().join(host).join("app");
            fs::create_dir_all(&tree).unwrap();
            fill(&cluster.state(host), &tree);
            start(&mut cluster, host, &tree);
        }
        cluster.connected(hosts.len()).await;
        let client = cluster.client().await;
        Self { cluster, client, trees }
    }

    async fn restart(&mut self, host: &str) {
        self.cluster.ledger_is_free(host).await;
        let state = self.cluster.state(host);
        eventually("the store is free", || {
            let opened = Store::open(&state).ok().map(drop);
            async move { opened }
        })
        .await;
        let tree = self.trees.path().join(host).join("app");
        start(&mut self.cluster, host, &tree);
    }

    async fn mark_good(&mut self, release: &str) {
        let request = v1::MarkReleaseRequest {
            fleet: FLEET.to_owned(),
            release: release.to_owned(),
            standing: v1::Standing::Good.into(),
            reason: "it ran for a week".to_owned(),
        };
        self.client.mark_release(request).await.unwrap();
    }

    async fn pin(&mut self, release: &str, pinned: bool) -> Result<bool, tonic::Status> {
        let request = v1::PinReleaseRequest {
            fleet: FLEET.to_owned(),
            release: release.to_owned(),
            pinned,
            reason: "the audit".to_owned(),
        };
        Ok(self.client.pin_release(request).await?.into_inner().changed)
    }

    async fn prune(
        &mut self,
        change: impl FnOnce(&mut PruneSnapshotsRequest),
    ) -> Result<PruneSnapshotsResponse, tonic::Status> {
        let mut request = PruneSnapshotsRequest {
            fleet: FLEET.to_owned(),
            dry_run: true,
            ..PruneSnapshotsRequest::default()
        };
        change(&mut request);
        Ok(self.client.prune_snapshots(request).await?.into_inner())
    }

    /// The releases that a host has, as the coordinator knows it.
    async fn held(&self, host: &str) -> Vec<String> {
        let request = v1::ListReleasesRequest { fleet: FLEET.to_owned() };
        let list = self.client.clone().list_releases(request).await.unwrap().into_inner();
        let on = |release: &v1::Release| release.snapshots.iter().any(|row| row.host == host);
        let mut held: Vec<String> =
            list.releases.into_iter().filter(on).map(|release| release.release).collect();
        held.sort();
        held
    }

    /// Waits until a host has these and nothing else.
    async fn holds(&self, host: &str, wanted: &[&str]) {
        eventually(&format!("{host} holds {wanted:?}"), || async {
            (self.held(host).await == wanted).then_some(())
        })
        .await;
    }
}

fn files(tree: &Path) -> ComponentFiles {
    let tree = TreePolicy {
        privileged_files: false,
        from: None,
        tree: tree.to_owned(),
        switch: policy::SwitchMode::Exchange,
        keep: Vec::new(),
    };
    let files = vec![FilesPolicy::Tree(tree)];
    ComponentFiles { component: COMPONENT.to_owned(), files, managers: Vec::new() }
}

fn fill(state: &Path, tree: &Path) {
    let store = Store::open(state).unwrap().with_clock(|| THEN);
    for number in 1..=6 {
        fs::write(tree.join("server.js"), format!("serve({number})")).unwrap();
        let taken_at_unix_ms = THEN + number * 1000;
        let label = Label {
            release: format!("v{number}"),
            version: None,
            taken_at_unix_ms,
            learned_at_unix_ms: None,
        };
        store.snapshot(&files(tree), label).unwrap();
    }
}

fn start(cluster: &mut Cluster, host: &str, tree: &Path) {
    let text = format!(
        "version: 1\nfleet: {FLEET}\nhost: {host}\ncomponents:\n  {COMPONENT}:\n    files: [{{ tree: {} }}]\n    \
         retention: {{ releases: 2 }}\n    ready_within: 5s\n    stable_for: 0s\n",
        tree.display()
    );
    let policy = Policy::parse(&text).unwrap();
    let hands = Host::open(&policy, String::new(), &cluster.state(host)).unwrap();
    cluster.start_agent(host, Arc::new(hands));
}

/// Each release of a host's answer with its reason.
fn fates(answer: &PruneSnapshotsResponse, host: &str) -> BTreeMap<String, String> {
    let host = answer.hosts.iter().find(|row| row.host == host).unwrap();
    assert_eq!((host.failed.as_str(), host.failures.len()), ("", 0));
    let fate = |row: &v1::PrunedRow| {
        (
            row.releases.join(","),
            format!("{}: {}", if row.goes { "goes" } else { "stays" }, row.why),
        )
    };
    host.rows.iter().map(fate).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_an_operator_prunes_and_the_last_good_and_the_pinned_stay() {
    let mut fleet = Fleet::of(&["h1", "h2"]).await;
    fleet.mark_good("v1").await;
    assert!(fleet.pin("v3", true).await.unwrap());
    assert!(!fleet.pin("v3", true).await.unwrap(), "it is pinned already");

    let dry = fleet.prune(|_| {}).await.unwrap();
    let told = fates(&dry, "h1");
    let reasons: Vec<&str> = told.values().map(String::as_str).collect();
    assert_eq!(
        reasons,
        [
            "stays: last good",
            "goes: beyond 2 releases",
            "stays: pinned by mira: \"the audit\"",
            "goes: beyond 2 releases",
            "stays: within the limits",
            "stays: live",
        ]
    );
    assert_eq!(dry.horizon.unwrap().releases, 1, "v1 is good and whole on both");
    assert!(dry.hosts.iter().all(|host| host.freed_bytes > 0));
    for host in ["h1", "h2"] {
        assert_eq!(fleet.held(host).await.len(), 6, "a dry run changes nothing");
    }

    // What was agreed to of h1 goes there, and nothing on h2.
    let v2 = dry.hosts[0].rows.iter().find(|row| row.releases == ["v2"]).unwrap();
    let agreed = vec![v1::AgreedPrune {
        host: "h1".to_owned(),
        component: COMPONENT.to_owned(),
        snapshot: v2.snapshot.clone(),
    }];
    let agreed = |request: &mut PruneSnapshotsRequest| {
        *request =
            PruneSnapshotsRequest { dry_run: false, agreed_only: true, agreed, ..request.clone() };
    };
    fleet.prune(agreed).await.unwrap();
    fleet.holds("h1", &["v1", "v3", "v4", "v5", "v6"]).await;
    assert_eq!(fleet.held("h2").await.len(), 6);

    fleet.prune(|request| request.dry_run = false).await.unwrap();
    for host in ["h1", "h2"] {
        fleet.holds(host, &["v1", "v3", "v5", "v6"]).await;
    }
    // Nothing more goes, and a pin that was taken away makes it go the next time.
    assert!(fleet.pin("v3", false).await.unwrap());
    let answer = fleet.prune(|request| request.hosts = vec!["h2".to_owned()]).await.unwrap();
    assert_eq!(answer.hosts.len(), 1);
    assert_eq!(fates(&answer, "h2")["v3"], "goes: beyond 2 releases");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_prunes_by_itself_after_an_operation_and_is_back_with_what_it_has() {
    let mut fleet = Fleet::of(&["h1"]).await;
    fleet.mark_good("v1").await;
    // In a new session the first that it is told of what must stay has v1 in it.
    fleet.cluster.stop_agent("h1");
    fleet.cluster.connected(0).await;
    fleet.restart("h1").await;
    fleet.cluster.connected(1).await;
    let plan = v1::CreatePlanRequest {
        fleet: FLEET.to_owned(),
        request: Some(v1::create_plan_request::Request::Snapshot("v7".to_owned())),
    };
    let plan = fleet.client.create_plan(plan).await.unwrap().into_inner().plan.unwrap();
    let start = v1::StartOperationRequest { plan_id: plan.id, ..Default::default() };
    fleet.client.start_operation(start).await.unwrap();
    // v7 has the bytes of v6, and so is another name of it.
    fleet.holds("h1", &["v1", "v5", "v6", "v7"]).await;

    fleet.cluster.stop_agent("h1");
    fleet.cluster.connected(0).await;
    // What the coordinator tells of a host that is away is what it has.
    let request = v1::CreatePlanRequest {
        fleet: FLEET.to_owned(),
        request: Some(v1::create_plan_request::Request::Check("v2".to_owned())),
    };
    assert_eq!(
        fleet.client.create_plan(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_is_named_and_the_others_are_pruned() {
    let mut fleet = Fleet::of(&["h1", "h2"]).await;
    fleet.cluster.stop_agent("h2");
    fleet.cluster.connected(1).await;
    let answer = fleet.prune(|request| request.dry_run = false).await.unwrap();
    assert_eq!(answer.hosts[1].failed, "its agent is not connected");
    fleet.holds("h1", &["v5", "v6"]).await;
    // It is pruned when it is back and asked.
    fleet.restart("h2").await;
    fleet.cluster.connected(2).await;
    fleet.prune(|request| request.dry_run = false).await.unwrap();
    fleet.holds("h2", &["v5", "v6"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_known_are_refused_and_nothing_goes() {
    let mut fleet = Fleet::of(&["h1"]).await;
    let code = fleet.prune(|request| request.hosts = vec!["h9".to_owned()]).await;
    assert_eq!(code.unwrap_err().code(), Code::NotFound);
    let code = fleet.prune(|request| request.component = "cmr".to_owned()).await;
    let status = code.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("did you mean `crm`"), "{}", status.message());
    let code = fleet.prune(|request| request.component = "../x".to_owned()).await;
    assert_eq!(code.unwrap_err().code(), Code::InvalidArgument);
    let status = fleet.pin("v9", true).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let no_reason = v1::PinReleaseRequest {
        fleet: FLEET.to_owned(),
        release: "v1".to_owned(),
        pinned: true,
        reason: " ".to_owned(),
    };
    let status = fleet.client.pin_release(no_reason).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fleet.held("h1").await.len(), 6);
}
