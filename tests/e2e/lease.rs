//! The dead-man and the quarantine, end to end: real files, real processes, a real deploy; and nobody there when it turns bad.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent::host::learning::Pace;
use proto::{
    policy::Policy,
    v1::{self, OperationResult},
};
use tests::{
    cluster::{Client, Cluster, FLEET},
    eventually,
    hands::COMPONENT,
};

use crate::operations::rollback;

/// A coordinator, and hosts with `v1` live and `v2` in their stores.
struct World {
    temp: tempfile::TempDir,
    cluster: Cluster,
    client: Client,
    policies: Vec<(String, Policy)>,
}

impl World {
    /// One host for each of these leases.
    async fn new(leases: &[&str]) -> Self {
        // Another test may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let temp = tempfile::tempdir().unwrap();
        let names: Vec<String> = (1..=leases.len()).map(|number| format!("h{number}")).collect();
        let cluster = Cluster::start().await;
        let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
        cluster.apply(&hosts, |_| {}).await;
        let client = cluster.client().await;
        let mut world = Self { temp, cluster, client, policies: Vec::new() };
        for (host, lease) in hosts.iter().zip(leases) {
            fs::create_dir(world.root().join(host)).unwrap();
            fs::create_dir(world.tree(host)).unwrap();
            let policy = world.policy(host, lease);
            world.policies.push(((*host).to_owned(), policy));
            world.start(host).await;
        }
        world.cluster.connected(hosts.len()).await;
        for version in ["v2", "v1"] {
            for host in &hosts {
                fs::write(world.tree(host).join("version"), version).unwrap();
            }
            let snapshot = v1::create_plan_request::Request::Snapshot(version.to_owned());
            assert_eq!(world.run(snapshot).await.result(), OperationResult::Verified);
        }
        world
    }

    /// The app is healthy unless its version stands in `sick`. Services outlive agents; this one ends with its directory.
    fn policy(&self, host: &str, lease: &str) -> Policy {
        let (tree, sick) = (self.tree(host), self.root().join(host).join("sick"));
        fs::write(&sick, "").unwrap();
        let (tree, sick) = (tree.display(), sick.display());
        let text = format!(
            "version: 1\nfleet: {FLEET}\nhost: {host}\ncomponents:\n  {COMPONENT}:\n    files: [{{ tree: {tree} }}]\n    \
             services: [{{ name: app, process: {{ command: [/bin/sh, -c, \"while test -e {sick}; do sleep 0.2; done\"], directory: / }} }}]\n    \
             checks: [{{ name: health, command: [/bin/sh, -c, \"! grep -qxf {sick} {tree}/version\"], every: 50ms, pass: 1 }}]\n    \
             lease: {lease}\n    ready_within: 1s\n    stable_for: 100ms\n"
        );
        Policy::parse(&text).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap()
    }

    fn tree(&self, host: &str) -> PathBuf {
        self.root().join(host).join("app")
    }

    /// From now on this version is not healthy.
    fn breaks(&self, host: &str, version: &str) {
        fs::write(self.root().join(host).join("sick"), version).unwrap();
    }

    /// What is live.
    fn live(&self, host: &str) -> String {
        fs::read_to_string(self.tree(host).join("version")).unwrap_or_default()
    }

    async fn goes_back(&self, host: &str) {
        eventually("it is back on v1", || async { (self.live(host) == "v1").then_some(()) }).await;
    }

    async fn start(&mut self, host: &str) {
        let (_, policy) = self.policies.iter().find(|(name, _)| name == host).unwrap().clone();
        self.cluster.start_host(host, &policy, Pace::default()).await;
    }

    /// Plans, starts, and waits for the end.
    async fn run(&mut self, request: v1::create_plan_request::Request) -> v1::Operation {
        let request = v1::CreatePlanRequest { fleet: FLEET.to_owned(), request: Some(request) };
        let plan = self.client.create_plan(request).await.unwrap().into_inner().plan.unwrap();
        let start = v1::StartOperationRequest {
            plan_id: plan.id,
            reason: "a test".to_owned(),
            idempotency_key: String::new(),
        };
        let operation = self.client.start_operation(start).await.unwrap().into_inner().operation;
        eventually("the operation has ended", || {
            let (mut client, operation) = (self.client.clone(), operation.clone());
            async move {
                let request = v1::GetOperationRequest { operation };
                let operation = client.get_operation(request).await.ok()?.into_inner().operation?;
                (operation.ended_unix_ms > 0).then_some(operation)
            }
        })
        .await
    }

    async fn deploy(&mut self) {
        let deploy = v1::DeployRequest {
            release: "v2".to_owned(),
            strategy: v1::Strategy::Rolling.into(),
            ..v1::DeployRequest::default()
        };
        let ended = self.run(v1::create_plan_request::Request::Deploy(deploy)).await;
        assert_eq!(ended.result(), OperationResult::Verified, "{:?}", ended.hosts);
    }

    /// The coordinator comes back, and so do all hosts.
    async fn coordinator_is_back(&mut self) {
        self.cluster.start_coordinator().await;
        self.client = self.cluster.client().await;
        self.cluster.connected(self.policies.len()).await;
    }

    /// A host as the coordinator has it, once it is so.
    async fn seen<T>(
        &self,
        what: &str,
        host: &str,
        wanted: impl Fn(v1::HostView) -> Option<T>,
    ) -> T {
        eventually(what, || {
            let mut client = self.client.clone();
            let wanted = &wanted;
            async move {
                let doctor = v1::DoctorRequest { fleet: FLEET.to_owned() };
                client.doctor(doctor).await.ok()?;
                let request = v1::GetFleetRequest { fleet: FLEET.to_owned() };
                let fleet = client.get_fleet(request).await.ok()?.into_inner();
                wanted(fleet.hosts.into_iter().find(|row| row.host == host)?)
            }
        })
        .await
    }
}

fn lease_of(view: &v1::HostView) -> i64 {
    view.status.as_ref().map_or(0, |status| status.components[0].lease_until_unix_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_what_turns_bad_after_its_verify_goes_back_with_nobody_there() {
    let mut world = World::new(&["{ for: 5m }"]).await;
    world.deploy().await;
    assert_eq!(world.live("h1"), "v2");
    let until = |view: v1::HostView| Some(lease_of(&view)).filter(|until| *until > 0);
    let until = world.seen("it is on trial", "h1", until).await;
    assert!(until > jiff::Timestamp::now().as_millisecond());
    world.cluster.stop_coordinator();
    // In the middle of the lease its agent is killed, and the app turns bad meanwhile.
    world.cluster.stop_agent("h1");
    world.breaks("h1", "v2");
    world.start("h1").await;
    world.goes_back("h1").await;
    world.coordinator_is_back().await;
    let ended = |view: v1::HostView| view.local_operation.filter(|local| local.ended.is_some());
    let local = world.seen("the way back is told", "h1", ended).await;
    assert_eq!((local.by.as_str(), local.to_release.as_str()), ("the lease of dp-0003", "v1"));
    assert_eq!(local.ended.unwrap().end(), v1::TrackEnd::Done);
    let told = world.seen("it is told why", "h1", |view| {
        let component = view.status?.components.into_iter().next()?;
        assert!(component.services.iter().all(|service| service.running), "{component:?}");
        component.problems.into_iter().find(|problem| problem.what.contains("did not hold"))
    });
    let told = told.await;
    assert!(told.what.contains("check `health`: ") && told.warns, "{told:?}");
    assert!(told.what.contains("the lease of dp-0003 took it back by local-"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_alone_takes_back_only_where_the_policy_says_so() {
    let mut world =
        World::new(&["{ for: 10s }", "{ for: 10s, without_coordinator: revert }"]).await;
    world.deploy().await;
    world.cluster.stop_coordinator();
    // It was the last to be deployed: when its lease is over, so is that of the other one.
    world.goes_back("h2").await;
    assert_eq!(world.live("h1"), "v2");
    world.coordinator_is_back().await;
    let over = |view: v1::HostView| (lease_of(&view) == 0).then_some(view);
    let view = world.seen("its lease is over", "h1", over).await;
    assert_eq!((view.live_release.as_str(), view.local_operation), ("v2", None));
    let ended = |view: v1::HostView| view.local_operation.filter(|local| local.ended.is_some());
    let local = world.seen("the way back is told", "h2", ended).await;
    assert_eq!(local.by, "the lease of dp-0003");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_as_bad_is_on_each_hosts_disk_until_it_is_lifted() {
    let mut world = World::new(&["{ for: 5m }"]).await;
    let state = world.cluster.state("h1").join("quarantine.json");
    let listed = |wanted: bool| listed(&state, wanted);
    listed(false).await;
    world.deploy().await;
    let request = rollback("v1", &[]).request.unwrap();
    let ended = world.run(request).await;
    assert_eq!(ended.result(), OperationResult::Verified, "{:?}", ended.hosts);
    listed(true).await;
    let mark = v1::MarkReleaseRequest {
        fleet: FLEET.to_owned(),
        release: "v2".to_owned(),
        standing: v1::Standing::Unproven.into(),
        reason: "it was the proxy".to_owned(),
    };
    world.client.mark_release(mark).await.unwrap();
    listed(false).await;
}

/// Waits until the list on a host's disk holds v2, or nothing.
async fn listed(path: &Path, wanted: bool) {
    eventually("the host was told", || async move {
        let text = fs::read_to_string(path).ok()?;
        let why =
            "the content of v2, which was left bad by rb-0004; lift it with `ctl release mark v2";
        let rows = if wanted { text.contains(why) } else { text.contains("\"rows\": []") };
        rows.then_some(())
    })
    .await;
}
