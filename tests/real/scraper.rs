//! A real Prometheus on this machine, which scrapes each second what it is told to. Of Debian's package `prometheus`.
//!
//! ```text
//! targets ◀─ /metrics, each second ─ Prometheus, 127.0.0.1 ◀─ queries ─ whoever has its URL
//! ```
//!
//! Invariant: it ends with its owner.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

const PROGRAM: &str = "/usr/bin/prometheus";

/// See the module.
pub(crate) struct Scraper {
    child: Child,
    listens: String,
    data: tempfile::TempDir,
}

impl Scraper {
    /// Scrapes these: where they are, and their label `instance` where it is not to be their address.
    pub(crate) fn start(targets: &[(SocketAddr, Option<String>)]) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let mut text = "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n  \
            - job_name: app\n    static_configs:\n"
            .to_owned();
        for (address, name) in targets {
            let name = name.clone().unwrap_or_else(|| address.to_string());
            text += &format!(
                "      - {{ targets: [\"{address}\"], labels: {{ instance: \"{name}\" }} }}\n"
            );
        }
        fs::write(data.path().join("prometheus.yml"), text).expect("a file");
        let (child, listens) = run(&data, "127.0.0.1:0");
        Self { child, listens, data }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listens)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Where it was, with what it knew.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        (self.child, self.listens) = run(&self.data, &self.listens);
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        // It may have been killed before.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process, and where it listens.
fn run(data: &tempfile::TempDir, listen: &str) -> (Child, String) {
    let mut child = Command::new(PROGRAM)
        .arg(format!("--config.file={}", data.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Prometheus starts");
    let log = child.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let on = lines.find_map(|line| {
        let (_, address) = line.split_once("msg=\"Listening on\" address=")?;
        Some(address.trim().to_owned())
    });
    // It must not wait for somebody who reads its log.
    std::thread::spawn(move || lines.for_each(drop));
    (child, on.expect("it says where it listens"))
}
