//! The proxy on a real nginx under a systemd that has booted. Run as root inside such a host.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use proto::policy::{Policy, ProxyPolicy};

use super::{
    super::{
        Traffic, file,
        hosts::{Hosts, load, through},
    },
    *,
};
use crate::{
    ledger::Found,
    order::{Before, Verb},
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// An edge with an nginx and a unit of its own, before `blue` (two hosts) and `green` (one).
struct Edge {
    root: tempfile::TempDir,
    unit: String,
    hosts: Hosts,
}

impl Edge {
    fn new(workers: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        drop(rustls::crypto::ring::default_provider().install_default());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unit = format!("lg-traffic-{}-{number}.service", std::process::id());
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let edge = Self { root, unit, hosts: Hosts::new(["crm-b1", "crm-b2", "crm-g1"]) };
        edge.configure(workers, &edge.includes());
        edge.unit_reloads_by("/bin/kill -HUP $MAINPID");
        edge
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn includes(&self) -> String {
        let front = format!(
            "server {{ listen unix:{}; location / {{ proxy_pass http://crm-api; proxy_connect_timeout 1s; }} }}",
            self.at("front").display()
        );
        format!("include {};\n{front}", self.at("crm.conf").display())
    }

    fn configure(&self, workers: u32, http: &str) {
        let (pid, log) = (self.at("pid"), self.at("error.log"));
        let text = format!(
            "user root;\nworker_processes {workers};\npid {};\nerror_log {};\nevents {{}}\nhttp {{\naccess_log off;\n{http}\n}}\n",
            pid.display(),
            log.display()
        );
        fs::write(self.at("nginx.conf"), text).unwrap();
    }

    fn unit_reloads_by(&self, command: &str) {
        let text = format!(
            "[Service]\nType=forking\nPIDFile={}\nExecStartPre=/bin/rm -f {}\nExecStart=/usr/sbin/nginx -c {} -g 'daemon on;'\nExecReload={command}\n",
            self.at("pid").display(),
            self.at("front").display(),
            self.at("nginx.conf").display()
        );
        fs::write(self.unit_file(), text).unwrap();
        assert!(systemctl(&["daemon-reload"]));
    }

    fn unit_file(&self) -> PathBuf {
        Path::new("/etc/systemd/system").join(&self.unit)
    }

    fn policy(&self) -> TrafficPolicy {
        let at = &self.hosts.addresses;
        let text = format!(
            "version: 1\nfleet: prod\nhost: edge1\ntraffic:\n  through: {{ nginx: {{ include: {}, unit: {} }} }}\n  app: crm\n  \
             ports: {{ api: {} }}\n  groups:\n    blue: {{ crm-b1: {}, crm-b2: {} }}\n    green: {{ crm-g1: {} }}\n  drain: 20s\n  \
             version: {{ port: api, path: /version, version_at: /version }}\n",
            self.at("crm.conf").display(),
            self.unit,
            self.hosts.port,
            at["crm-b1"],
            at["crm-b2"],
            at["crm-g1"]
        );
        Policy::parse(&text).unwrap().traffic.unwrap()
    }

    fn traffic(&self) -> Traffic {
        fs::create_dir_all(self.at("state")).unwrap();
        Traffic::new(&self.policy(), &self.at("state")).unwrap()
    }

    fn nginx(&self) -> Nginx {
        let policy = self.policy();
        let ProxyPolicy::Nginx(nginx) = &policy.through else { panic!("it is one") };
        Nginx::new(nginx, &policy, &self.at("state"), Client::new().unwrap())
    }

    /// With everything to blue.
    async fn on_blue(workers: u32) -> (Self, Traffic) {
        let edge = Self::new(workers);
        let traffic = edge.traffic();
        done(&traffic, Verb::SetWeights, &blue()).await;
        (edge, traffic)
    }

    fn include(&self) -> String {
        fs::read_to_string(self.at("crm.conf")).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        systemctl(&["kill", "--signal=KILL", &self.unit]);
        drop(fs::remove_file(self.unit_file()));
        systemctl(&["stop", &self.unit]);
        systemctl(&["daemon-reload"]);
    }
}

fn systemctl(arguments: &[&str]) -> bool {
    Command::new("/usr/bin/systemctl").args(arguments).output().unwrap().status.success()
}

fn weights(groups: &[(&str, u32)]) -> Weights {
    let groups = groups.iter().map(|(group, percent)| ((*group).to_owned(), *percent));
    Weights { groups: groups.collect(), out: BTreeSet::new() }
}

fn blue() -> Weights {
    weights(&[("blue", 100)])
}

fn green() -> Weights {
    weights(&[("green", 100)])
}

fn step(verb: Verb, to: &Weights) -> Step {
    Step {
        verb,
        component: Step::TRAFFIC.to_owned(),
        release: "1".to_owned(),
        snapshot: String::new(),
        deadline_ms: 30_000,
        hook: String::new(),
        across_migrations: false,
        weights: Some(to.clone()),
        artefact: None,
        at_once: true,
        forward: false,
    }
}

async fn done(traffic: &Traffic, verb: Verb, to: &Weights) -> String {
    traffic.perform(&step(verb, to)).await.unwrap().0
}

async fn refused(traffic: &Traffic, verb: Verb, to: &Weights) -> String {
    traffic.perform(&step(verb, to)).await.unwrap_err()
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_nginx_divides_to_the_request() {
    for workers in [1, 4] {
        let (edge, traffic) = Edge::on_blue(workers).await;
        for percent in [5, 25, 50] {
            let to = weights(&[("blue", 100 - percent), ("green", percent)]);
            let words = done(&traffic, Verb::SetWeights, &to).await;
            assert_eq!(words, format!("traffic goes to {to}"));
            edge.hosts.counts();
            load(&edge.at("front"), 4000);
            let got = edge.hosts.counts();
            let wanted = u64::from(percent) * 40;
            let others = (4000 - wanted) / 2;
            assert_eq!(got, [("crm-b1", others), ("crm-b2", others), ("crm-g1", wanted)].into());
        }
        let words = done(&traffic, Verb::Verify, &weights(&[("blue", 50), ("green", 50)])).await;
        assert_eq!(words, "nginx divides blue 50 %, green 50 %; 3 of 3 hosts answer as v1");
        assert!(traffic.findings().await.iter().all(|finding| finding.bad.is_none()));
        assert_eq!(traffic.status().await.problems, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_nginx_tests_a_division_and_changes_nothing() {
    let edge = Edge::new(2);
    let traffic = edge.traffic();
    // The first time nothing is there yet, and nginx does not even run.
    done(&traffic, Verb::Preflight, &blue()).await;
    assert_eq!(edge.include().as_bytes(), NOTHING_YET);
    assert_eq!(traffic.status().await.observed, None);
    done(&traffic, Verb::SetWeights, &blue()).await;
    let (include, files) = (edge.include(), edge.files());
    let words = done(&traffic, Verb::Preflight, &green()).await;
    assert_eq!(words, "nginx would divide green 100 %");
    let good = fs::read_to_string(edge.at("nginx.conf")).unwrap();
    for (http, words) in [
        (
            format!("no_such_directive;\n{}", edge.includes()),
            "unknown directive \"no_such_directive\"",
        ),
        (
            format!("upstream crm-api {{ server 127.0.0.1:1; }}\n{}", edge.includes()),
            "duplicate upstream",
        ),
        (String::new(), "does not include"),
    ] {
        edge.configure(2, &http);
        for verb in [Verb::Preflight, Verb::SetWeights] {
            let why = refused(&traffic, verb, &green()).await;
            assert!(why.contains(words), "{verb}: {why}");
        }
    }
    fs::write(edge.at("nginx.conf"), good).unwrap();
    assert_eq!((edge.include(), edge.files()), (include, files));
    assert_eq!(traffic.status().await.observed, Some(blue()));
    load(&edge.at("front"), 40);
    assert_eq!(edge.hosts.counts()["crm-g1"], 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_nginx_that_takes_a_reload_and_serves_the_old_is_found() {
    let (edge, traffic) = Edge::on_blue(2).await;
    let include = edge.include();
    let as_before = async |what: &str, why: String| {
        assert!(why.contains("crm.conf is as it was before"), "{what}: {why}");
        assert_eq!(edge.include(), include, "{what}");
        edge.hosts.counts();
        load(&edge.at("front"), 40);
        assert_eq!(edge.hosts.counts()["crm-g1"], 0, "{what}");
        let status = traffic.status().await;
        assert_eq!((status.asked, status.observed), (Some(blue()), Some(blue())), "{what}");
        assert_eq!(status.problems, [], "{what}");
    };

    // Its unit says that it was reloaded, and nobody told nginx.
    edge.unit_reloads_by("/bin/true");
    let until = Instant::now() + BACK_WITHIN + Duration::from_secs(4);
    let why = traffic.proxy.set(&green(), until).await.unwrap_err();
    assert!(why.contains("its old workers still accepted"), "{why}");
    edge.unit_reloads_by("/bin/kill -HUP $MAINPID");
    as_before("a reload that is none", why).await;

    // The master cannot take the new files on, which `nginx -t` lets pass.
    let good = fs::read_to_string(edge.at("nginx.conf")).unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    edge.configure(2, &format!("{}\nserver {{ listen 127.0.0.1:{port}; }}", edge.includes()));
    let why = refused(&traffic, Verb::SetWeights, &green()).await;
    assert!(why.contains("kept its old files") && why.contains("bind()"), "{why}");
    drop(taken);
    fs::write(edge.at("nginx.conf"), &good).unwrap();
    as_before("a master that keeps its old files", why).await;

    // New workers serve, and go by another file than the one that was written.
    let other = edge.at("other.conf");
    fs::copy(edge.at("crm.conf"), &other).unwrap();
    let includes = edge.includes().replace("/crm.conf", "/other.conf");
    edge.configure(2, &includes);
    let nginx = edge.nginx();
    let why = nginx.set(&green(), soon()).await.unwrap_err();
    assert!(why.contains("goes by an earlier division"), "{why}");
    as_before("a configuration that includes another file", why).await;
    let tested = nginx.test(&green(), soon()).await.unwrap_err();
    assert!(tested.contains("does not include"), "{tested}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_p04_an_nginx_that_was_killed_starts_with_what_was_asked() {
    let (edge, traffic) = Edge::on_blue(2).await;
    assert!(systemctl(&["kill", "--signal=KILL", &edge.unit]));
    while edge.nginx().told().await.unwrap().is_some() {}
    let status = traffic.status().await;
    assert_eq!((&status.asked, &status.observed), (&Some(blue()), &None));
    assert!(status.problems[0].what.contains("does not run, or does not go by"), "{status:?}");
    // Nothing that it left keeps it from starting again.
    assert!(systemctl(&["reset-failed", &edge.unit]) && systemctl(&["start", &edge.unit]));
    assert_eq!(traffic.status().await.observed, Some(blue()));
    assert!(systemctl(&["kill", "--signal=KILL", &edge.unit]));
    while edge.nginx().told().await.unwrap().is_some() {}
    let before = traffic.look(&step(Verb::SetWeights, &green())).await.unwrap();
    assert_eq!(before, Before::Weights(Some(blue())), "what it was told last");
    done(&traffic, Verb::SetWeights, &green()).await;
    load(&edge.at("front"), 40);
    assert_eq!(edge.hosts.counts()["crm-g1"], 40);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_p02_an_agent_that_was_killed_at_any_point_goes_on() {
    let (edge, traffic) = Edge::on_blue(2).await;
    let order = step(Verb::SetWeights, &green());
    let before = traffic.look(&order).await.unwrap();
    let looked = async || traffic.observe(&order, &before, false).await.unwrap().0;
    let state = fs::read(edge.at("state/traffic.json")).unwrap();
    let old = edge.include();
    done(&traffic, Verb::SetWeights, &green()).await;
    let (asked, new) = (fs::read(edge.at("state/traffic.json")).unwrap(), edge.include());
    traffic.undo(&order, &before).await.unwrap();
    assert_eq!(edge.include(), old);
    fs::write(edge.at("state/traffic.json"), state).unwrap();
    assert_eq!(looked().await, Found::NotDone, "before it was decided");
    fs::write(edge.at("state/traffic.json"), asked).unwrap();
    assert_eq!(looked().await, Found::NotDone, "decided");
    file::write(&edge.at("crm.conf"), new.as_bytes(), file::OPEN).unwrap();
    assert_eq!(looked().await, Found::NotDone, "written, not reloaded");
    let problem = &traffic.status().await.problems;
    assert!(problem.iter().any(|one| one.what.contains("holds another division")), "{problem:?}");
    edge.nginx().driver.reload(soon()).await.unwrap();
    assert_eq!(looked().await, Found::Done);
    // And back: its file is there again, nginx does not go by it yet.
    file::write(&edge.at("crm.conf"), old.as_bytes(), file::OPEN).unwrap();
    let back = traffic.observe(&order, &before, true).await.unwrap().0;
    assert_eq!(back, Found::NotDone);
    traffic.undo(&order, &before).await.unwrap();
    assert_eq!(traffic.observe(&order, &before, true).await.unwrap().0, Found::Done);
    fs::write(edge.at("crm.conf"), old.replace("weight=1 ", "weight=7 ")).unwrap();
    let problem = &traffic.status().await.problems[0];
    assert!(problem.what.contains("was changed by somebody"), "{problem:?}");
    assert_eq!(problem.mend, SET_ANEW);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_nginx_is_drained_when_nothing_is_open_to_who_gets_nothing() {
    let (edge, traffic) = Edge::on_blue(2).await;
    done(&traffic, Verb::SetWeights, &green()).await;
    let front = edge.at("front");
    let slow = std::thread::spawn(move || through(&front, "/slow", ""));
    let hosts = &edge.hosts;
    hosts.wait_for_slow("crm-g1", 1);
    done(&traffic, Verb::SetWeights, &blue()).await;
    let nginx = edge.nginx();
    let gone = ["crm-g1".to_owned()].into();
    let open = nginx.open(&gone).await.unwrap();
    assert_eq!(open, Open { hosts: [("crm-g1".to_owned(), 1)].into(), old: 1 });
    let mut short = step(Verb::Drain, &blue());
    short.deadline_ms = 300;
    let (words, _) = traffic.perform(&short).await.unwrap();
    assert!(words.starts_with("1 connection still on crm-g1 after 0."), "{words}");
    let order = step(Verb::Drain, &blue());
    let drain = traffic.perform(&order);
    let release = async { hosts.release("crm-g1") };
    let (drained, ()) = tokio::join!(drain, release);
    let words = drained.unwrap().0;
    assert!(words.starts_with("drained in "), "{words}");
    assert!(slow.join().unwrap().contains(" 200 "), "nobody was cut off");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a booted systemd with nginx"]
async fn real_users_of_a_host_that_dies_are_served_by_the_others() {
    let (mut edge, traffic) = Edge::on_blue(2).await;
    edge.hosts.stop("crm-b2");
    load(&edge.at("front"), 200);
    assert_eq!(edge.hosts.counts()["crm-b1"], 200);
    edge.hosts.start("crm-b2", "v2");
    let why = refused(&traffic, Verb::Verify, &blue()).await;
    assert_eq!(why, "wanted is 1, and crm-b2 serves v2");
}
