//! The driver on a real nginx under a systemd that has booted. Run as root inside such a host.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::PathBuf,
};

use super::{
    super::systemd::real::{
        Units, done, eventually, host, permanent, soon, step, systemctl, taken,
    },
    *,
};
use crate::{
    hands::Hands as _,
    order::{self, Before},
};

/// An nginx of its own, that answers one word on a socket of its own.
struct Edge {
    units: Units,
}

impl Edge {
    fn new() -> Self {
        let edge = Self { units: Units::new() };
        // Its workers, of another user, make their way to the socket and the temporary files.
        systemctl(&["reset-failed"]);
        edge.answers("one");
        let (pid, conf) = (edge.at("pid"), edge.conf());
        edge.units.write(
            "service",
            &format!(
                "[Service]\nType=forking\nPIDFile={}\nExecStart=/usr/sbin/nginx -c {} -g 'daemon on;'\n\
                 ExecReload=/bin/kill -HUP $MAINPID\n",
                pid.display(),
                conf.display()
            ),
        );
        systemctl(&["daemon-reload"]);
        edge
    }

    fn at(&self, name: &str) -> PathBuf {
        self.units.root.path().join(name)
    }

    fn conf(&self) -> PathBuf {
        self.at("nginx.conf")
    }

    fn answers(&self, word: &str) {
        self.configure(&format!("listen unix:{}; return 200 {word};", self.at("socket").display()));
    }

    fn configure(&self, server: &str) {
        let (pid, log) = (self.at("pid"), self.at("error.log"));
        let text = format!(
            "user root;\nworker_processes 2;\npid {};\nerror_log {};\nevents {{}}\nhttp {{\n  access_log off;\n  \
             server {{ {server} }}\n}}\n",
            pid.display(),
            log.display()
        );
        fs::write(self.conf(), text).unwrap();
    }

    fn driver(&self) -> NginxDriver {
        NginxDriver::new(&self.units.service(), &self.units.context())
    }

    fn start(&self) {
        assert!(systemctl(&["start", &self.units.service()]));
    }

    /// What it says.
    fn word(&self) -> String {
        let mut stream = UnixStream::connect(self.at("socket")).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().to_owned()
    }
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_good_reload_is_done_when_only_new_workers_answer() {
    let edge = Edge::new();
    edge.start();
    let driver = edge.driver();
    driver.set_up(soon()).await.unwrap();
    assert_eq!(driver.problems().await, [] as [String; 0]);
    let before = driver.status().await.unwrap();
    assert!(before.running && before.identity.is_some(), "{before:?}");
    for word in ["two", "three", "four"] {
        edge.answers(word);
        driver.reload(soon()).await.unwrap();
        assert_eq!(edge.word(), word);
    }
    let after = driver.status().await.unwrap();
    assert_eq!((after.identity, after.restarts), (before.identity, 0));
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn files_that_nginx_refuses_change_nothing() {
    let edge = Edge::new();
    edge.start();
    let driver = edge.driver();
    edge.configure("listen unix:/nowhere; no_such_directive;");
    for refused in [driver.accepts(soon()).await, driver.reload(soon()).await] {
        let why = permanent(refused);
        assert!(why.contains("unknown directive \"no_such_directive\""), "{why}");
    }
    assert_eq!(edge.word(), "one");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_reload_that_only_the_master_refuses_is_no_reload() {
    let edge = Edge::new();
    edge.start();
    let driver = edge.driver();
    // `nginx -t` lets an address that is in use pass.
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    edge.configure(&format!("listen 127.0.0.1:{port}; return 200 two;"));
    driver.accepts(soon()).await.unwrap();
    let why = permanent(driver.reload(soon()).await);
    assert!(why.contains("kept its old files") && why.contains("bind()"), "{why}");
    assert_eq!(edge.word(), "one");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn one_that_does_not_run_is_started_unless_it_is_held() {
    let edge = Edge::new();
    let driver = edge.driver();
    driver.set_up(soon()).await.unwrap();
    assert!(!driver.status().await.unwrap().running);
    let hold = edge.units.context().hold_path;
    fs::write(&hold, "").unwrap();
    let why = permanent(driver.reload(soon()).await);
    assert!(why.contains("in the middle of a switch"), "{why}");
    fs::remove_file(&hold).unwrap();
    driver.reload(soon()).await.unwrap();
    assert_eq!(edge.word(), "one");
    assert!(matches!(driver.start(soon()).await, Err(DriverError::Unsupported(_))));
    let stop = driver.stop(Duration::ZERO, soon()).await;
    assert!(matches!(stop, Err(DriverError::Unsupported(_))));
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_component_goes_over_and_back_while_it_serves() {
    let edge = Edge::new();
    edge.start();
    let host = host(&edge.units, &format!("[{{file: {}}}]", edge.conf().display()), "nginx");
    host.set_up().await;
    let first = taken(&host, "v1").await;
    edge.answers("two");
    edge.driver().reload(soon()).await.unwrap();
    let second = taken(&host, "v2").await;
    let nothing = Before::Nothing;
    done(&host, order::Verb::Preflight, &first, &nothing).await;
    done(&host, order::Verb::Stage, &first, &nothing).await;
    let before = Before::Live(second.clone());
    done(&host, order::Verb::Switch, &first, &before).await;
    assert_eq!(edge.word(), "two", "files that only lie there serve nobody");
    done(&host, order::Verb::Reload, "", &nothing).await;
    assert_eq!(edge.word(), "one");
    done(&host, order::Verb::Verify, &first, &nothing).await;

    // And taken back: the undo of the reload leaves it to that of the switch.
    for (verb, before) in [(order::Verb::Reload, &nothing), (order::Verb::Switch, &before)] {
        let undone = host.undo(&step(verb, &first), before).await;
        assert!(undone.ok, "{}", undone.detail);
    }
    assert_eq!(edge.word(), "two");
    let stopped = host.perform(&step(order::Verb::Stop, ""), &nothing).await;
    assert!(!stopped.ok && edge.word() == "two", "{}", stopped.detail);
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_switch_to_files_that_nginx_refuses_puts_the_others_back_at_once() {
    let edge = Edge::new();
    edge.start();
    let host = host(&edge.units, &format!("[{{file: {}}}]", edge.conf().display()), "nginx");
    host.set_up().await;
    let good = fs::read(edge.conf()).unwrap();
    edge.configure("no_such_directive;");
    let bad_one = taken(&host, "bad").await;
    fs::write(edge.conf(), &good).unwrap();
    let good_one = taken(&host, "good").await;
    done(&host, order::Verb::Stage, &bad_one, &Before::Nothing).await;
    let before = Before::Live(good_one.clone());
    let switched = host.perform(&step(order::Verb::Switch, &bad_one), &before).await;
    assert!(!switched.ok && switched.detail.contains("no_such_directive"), "{}", switched.detail);
    assert_eq!(fs::read(edge.conf()).unwrap(), good);
    assert_eq!(edge.word(), "one");
    let undone = host.undo(&step(order::Verb::Switch, &bad_one), &before).await;
    assert!(undone.ok, "{}", undone.detail);
    eventually("it answers", async || edge.word() == "one").await;
}
