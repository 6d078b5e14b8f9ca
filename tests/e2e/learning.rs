//! A team that changes nothing about how it deploys: files are written behind Lastgood's back, by real agents seen, taken
//! and learned, and gone back to.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{app::App, operations::rollback};
use agent::host::learning::Pace;
use proto::{
    policy::Policy,
    v1::{self, OperationResult, Standing, StandingSource},
};
use tests::{
    cluster::{Client, Cluster, FLEET},
    eventually,
    hands::COMPONENT,
};

const HOST: &str = "h1";
const PACE: Pace = Pace {
    look_every: Duration::from_millis(50),
    rest: Duration::from_millis(500),
    gap_max: Duration::from_secs(30),
    restless_after: Duration::from_secs(3600),
};

/// A coordinator, and one host whose app others deploy.
struct World {
    temp: tempfile::TempDir,
    cluster: Cluster,
    client: Client,
    _app: App,
    /// How often it was asked.
    asked: Arc<AtomicUsize>,
    /// It fails each third request.
    sick: Arc<AtomicBool>,
    policy: Policy,
}

impl World {
    async fn new(after_healthy: &str) -> Self {
        Self::made(after_healthy, false).await
    }

    /// With a second component that reports no version. Names are made up to the minute: what is learned of it may have
    /// the same as what is learned of the first.
    async fn with_another(after_healthy: &str) -> Self {
        Self::made(after_healthy, true).await
    }

    async fn made(after_healthy: &str, another: bool) -> Self {
        // Another test may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let (tree, other) = (root.join("app"), root.join("other"));
        for dir in [&tree, &other] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(other.join("file"), "first").unwrap();
        let (asked, sick) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ill, live) = (asked.clone(), sick.clone(), tree.clone());
        // With the version that its tree has, as an app does that reads its files at every request.
        let app = App::start(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let fails = ill.load(Ordering::SeqCst) && number % 3 == 0;
            let status = if fails { "500 Internal Server Error" } else { "200 OK" };
            let version = fs::read_to_string(live.join("version")).unwrap_or_default();
            (status, format!("{{\"version\":\"{version}\"}}"))
        })
        .await;
        let component = |tree: &Path, expect: &str| {
            format!(
                "{{ files: [{{ tree: {} }}], checks: [{{ name: health, http: \"http://{}/health\", every: 50ms{expect} }}], \
                 capture: {{ after_healthy: {after_healthy} }}, ready_within: 5s, stable_for: 100ms }}",
                tree.display(),
                app.address,
            )
        };
        let mut policy = format!(
            "version: 1\nfleet: {FLEET}\nhost: {HOST}\ncomponents:\n  {COMPONENT}: {}\n",
            component(&tree, ", expect: { version_at: /version }"),
        );
        if another {
            policy += &format!("  other: {}\n", component(&other, ""));
        }
        let policy = Policy::parse(&policy).unwrap();
        let cluster = Cluster::start().await;
        cluster.apply(&[HOST], |_| {}).await;
        let client = cluster.client().await;
        let mut world = Self { temp, cluster, client, _app: app, asked, sick, policy };
        world.deploy("v1");
        world.start().await;
        world
    }

    async fn start(&mut self) {
        self.cluster.start_host(HOST, &self.policy, PACE).await;
        self.cluster.connected(1).await;
    }

    fn tree(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join("app")
    }

    /// What a deploy script does.
    fn deploy(&self, version: &str) {
        fs::write(self.tree().join("code"), format!("code of {version}")).unwrap();
        fs::write(self.tree().join("version"), version).unwrap();
    }

    /// The host as it is now.
    async fn host(&self) -> v1::HostView {
        let mut client = self.client.clone();
        // This looks anew.
        self.doctor().await;
        let request = v1::GetFleetRequest { fleet: FLEET.to_owned() };
        client.get_fleet(request).await.unwrap().into_inner().hosts.remove(0)
    }

    /// What is live of the app.
    async fn live(&self) -> String {
        let live = self.host().await.live_release;
        live.split(", ").next().unwrap_or_default().to_owned()
    }

    /// What is in its store of the app.
    async fn snapshots(&self) -> Vec<v1::SnapshotInfo> {
        let mut rows = self.host().await.status.unwrap().snapshots;
        rows.retain(|row| row.component == COMPONENT);
        rows
    }

    async fn doctor(&self) -> v1::DoctorResponse {
        let mut client = self.client.clone();
        let request = v1::DoctorRequest { fleet: FLEET.to_owned() };
        client.doctor(request).await.unwrap().into_inner()
    }

    async fn release(&self, name: &str) -> Option<v1::Release> {
        self.doctor().await;
        let mut client = self.client.clone();
        let request = v1::ListReleasesRequest { fleet: FLEET.to_owned() };
        let list = client.list_releases(request).await.unwrap().into_inner();
        list.releases.into_iter().find(|release| release.release == name)
    }

    /// Waits until the fleet has it as learned.
    async fn learned(&self, name: &str) -> v1::Release {
        let what = format!("{name} is learned");
        eventually(&what, || async {
            let release = self.release(name).await?;
            let good = release.standing() == Standing::Good;
            (good && release.source() == StandingSource::Learned).then_some(release)
        })
        .await
    }

    /// Waits until there is a snapshot like this.
    async fn holds(&self, what: &str, wanted: impl Fn(&v1::SnapshotInfo) -> bool) {
        eventually(what, || async { self.snapshots().await.iter().any(&wanted).then_some(()) })
            .await;
    }

    async fn plan(&self, to: &str) -> v1::Plan {
        let mut client = self.client.clone();
        client.create_plan(rollback(to, &[])).await.unwrap().into_inner().plan.unwrap()
    }

    /// Rolls back, and expects that it works.
    async fn roll_back(&self) -> v1::Plan {
        let plan = self.plan("").await;
        let mut client = self.client.clone();
        let start = v1::StartOperationRequest {
            plan_id: plan.id.clone(),
            reason: "a test".to_owned(),
            idempotency_key: String::new(),
        };
        let operation = client.start_operation(start).await.unwrap().into_inner().operation;
        let ended = eventually("the rollback has ended", || {
            let (mut client, operation) = (self.client.clone(), operation.clone());
            async move {
                let request = v1::GetOperationRequest { operation };
                let operation = client.get_operation(request).await.ok()?.into_inner().operation?;
                (operation.ended_unix_ms > 0).then_some(operation)
            }
        });
        let ended = ended.await;
        assert_eq!(ended.result(), OperationResult::Verified, "{:?}", ended.hosts);
        plan
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_deploy_is_learned_and_a_bad_deploy_is_taken_back_to_it() {
    let world = World::new("1s").await;
    let release = world.learned("v1").await;
    let [row] = &release.snapshots[..] else { panic!("{release:?}") };
    let snapshot = row.snapshot.as_ref().unwrap();
    assert!(snapshot.learned_at_unix_ms >= snapshot.taken_at_unix_ms + 1000, "{snapshot:?}");
    world.holds("it stands staged", |row| row.release == "v1" && row.staged).await;
    // The next one, learned too, under the name that it reports.
    world.deploy("v2");
    world.learned("v2").await;
    assert_eq!(world.plan("").await.to_release, "v1");
    // And a broken one.
    world.sick.store(true, Ordering::SeqCst);
    world.deploy("v3");
    world.holds("v3 is taken", |row| row.release.is_empty()).await;
    let before = world.asked.load(Ordering::SeqCst);
    eventually("it was asked often enough", || async {
        (world.asked.load(Ordering::SeqCst) > before + 150).then_some(())
    })
    .await;
    assert!(world.release("v3").await.is_none(), "its checks do not hold");
    assert_eq!(world.live().await, "v3");
    world.sick.store(false, Ordering::SeqCst);
    let plan = world.roll_back().await;
    assert_eq!((plan.from_release.as_str(), plan.to_release.as_str()), ("v3", "v2"));
    assert!(plan.warnings.iter().any(|line| line.contains("only learned")), "{plan:?}");
    assert_eq!(fs::read_to_string(world.tree().join("code")).unwrap(), "code of v2");
    // The rollback proved it.
    let v2 = world.release("v2").await.unwrap();
    assert_eq!((v2.standing(), v2.source()), (Standing::Good, StandingSource::Operated));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_as_bad_and_is_put_back_raises_an_alarm_and_is_never_good() {
    let world = World::new("1s").await;
    world.learned("v1").await;
    // Nobody knows it by a name when it is left.
    world.sick.store(true, Ordering::SeqCst);
    world.deploy("v2");
    world.holds("v2 is taken", |row| row.release.is_empty()).await;
    assert!(world.host().await.alarms.is_empty());
    world.sick.store(false, Ordering::SeqCst);
    world.roll_back().await;
    assert!(world.host().await.alarms.is_empty(), "v1 runs");
    // The pipeline puts it back, and its checks hold.
    world.deploy("v2");
    let wanted = "crm runs the content of v2, which was left bad by rb-0001";
    let alarm = eventually("the alarm", || async { world.host().await.alarms.pop() }).await;
    assert_eq!((alarm.what.as_str(), alarm.mend.as_str()), (wanted, "ctl rollback"));
    let doctor = world.doctor().await;
    let finding = doctor.findings.iter().find(|finding| finding.what == wanted).unwrap();
    assert_eq!(finding.severity(), v1::Severity::Warning);
    world
        .holds("v2 is learned on the host", |row| row.learned_at_unix_ms > 0 && row.release == "v2")
        .await;
    let v2 = world.release("v2").await.unwrap();
    assert_eq!((v2.standing(), v2.source()), (Standing::Bad, StandingSource::Operated));
    assert_eq!(world.plan("").await.to_release, "v1");
    world.roll_back().await;
    assert!(world.host().await.alarms.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_keeps_moving_files_is_not_taken_in_the_middle() {
    let world = World::with_another("1s").await;
    world.learned("v1").await;
    let learned = |row: &v1::SnapshotInfo| row.component == "other" && row.learned_at_unix_ms > 0;
    let other_learned = async |times: usize| {
        eventually("the other component is learned", || async {
            let status = world.host().await.status?;
            (status.snapshots.iter().filter(|row| learned(row)).count() == times).then_some(())
        })
        .await;
    };
    other_learned(1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (told, tree) = (stop.clone(), world.tree());
    let deploy = std::thread::spawn(move || {
        let mut written = 0_u64;
        while !told.load(Ordering::SeqCst) {
            written += 1;
            fs::write(tree.join("code"), format!("half of v2: {written}")).unwrap();
        }
        fs::write(tree.join("code"), "all of v2").unwrap();
        fs::write(tree.join("version"), "v2").unwrap();
    });
    // The other component rests: when it is learned, this one has been looked at as often.
    fs::write(world.tree().parent().unwrap().join("other/file"), "changed").unwrap();
    other_learned(2).await;
    let names: Vec<String> = world.snapshots().await.into_iter().map(|row| row.release).collect();
    assert_eq!(names, ["v1"], "nothing was taken in the middle");
    stop.store(true, Ordering::SeqCst);
    deploy.join().unwrap();
    world.learned("v2").await;
    assert_eq!(world.snapshots().await.len(), 2, "only the whole deploy was");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_in_mid_wait_waits_anew_and_learns_honestly() {
    let mut world = World::new("2s").await;
    world.holds("v1 is taken", |row| row.release.is_empty()).await;
    world.cluster.stop_agent(HOST);
    let killed = jiff::Timestamp::now().as_millisecond();
    world.start().await;
    let release = world.learned("v1").await;
    let snapshot = release.snapshots[0].snapshot.as_ref().unwrap();
    assert!(snapshot.taken_at_unix_ms <= killed, "it was in the store before");
    assert!(snapshot.learned_at_unix_ms >= killed + 2000, "the wait begins with the process");
    assert_eq!(world.snapshots().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_belongs_to_something_else_is_not_given_twice() {
    let world = World::new("1s").await;
    world.learned("v1").await;
    fs::write(world.tree().join("code"), "a fix by hand, under the same version").unwrap();
    let made =
        |row: &v1::SnapshotInfo| row.release.starts_with("learned-20") && row.version == "v1";
    world.holds("a name is made", made).await;
    let name = world.snapshots().await.into_iter().find(made).unwrap().release;
    world.learned(&name).await;
    assert_eq!(world.live().await, name);
    // The first one goes on to be what it was, and is where a rollback goes.
    assert_eq!(world.plan("").await.to_release, "v1");
}
