//! The edge: nginx before the app's hosts, and what its users get through it.
//!
//! ```text
//! asked from this machine ──▶ edge: nginx, /etc/nginx/sites-available/ace-crm ──▶ :5000 of each app host
//! ```

use std::{collections::BTreeMap, process::Command};

use crate::hosts::{Host, texts};

/// Its one file that goes back.
pub(crate) const SITE: &str = "/etc/nginx/sites-available/ace-crm";

/// What puts nginx with the first release's file on a new host.
pub(crate) fn install_script(version: &str, app: &[Host]) -> String {
    format!(
        "rm -f /etc/nginx/sites-enabled/default
        {}
        ln -sf {SITE} /etc/nginx/sites-enabled/ace-crm
        systemctl enable --now nginx; systemctl reload nginx",
        site_script(version, app)
    )
}

/// Writes the file of a release.
pub(crate) fn site_script(version: &str, app: &[Host]) -> String {
    let servers: String =
        app.iter().map(|host| format!("server {}:5000; ", host.address)).collect();
    format!(
        "cat >{SITE} <<'SITE'
upstream ace-crm {{ {servers}}}
server {{
    listen 80 default_server;
    add_header x-edge-release {version} always;
    location / {{
        proxy_pass http://ace-crm;
        proxy_connect_timeout 1s;
        proxy_read_timeout 3s;
    }}
}}
SITE\n"
    )
}

/// What a user got for one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Got {
    pub(crate) status: String,
    /// Of the app, and of the proxy's file.
    pub(crate) versions: [String; 2],
    pub(crate) host: String,
}

/// What users get for so many requests, and how often.
pub(crate) fn ask(edge: &Host, path: &str, requests: usize) -> BTreeMap<Got, usize> {
    let mut all = BTreeMap::new();
    for _ in 0..requests {
        let url = format!("http://{}{path}", edge.address);
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "5", "-o", "/dev/null"])
            .args([
                "-w",
                "%{http_code}|%header{x-ace-version}|%header{x-edge-release}|%header{x-ace-host}",
            ])
            .arg(&url)
            .output()
            .expect("curl runs");
        let (words, complaint) = texts(&output);
        let parts: Vec<&str> = words.split('|').collect();
        let [status, app, edge, host] = parts[..] else { panic!("{url}: {words}{complaint}") };
        let got = Got {
            status: status.to_owned(),
            versions: [app.to_owned(), edge.to_owned()],
            host: host.to_owned(),
        };
        *all.entry(got).or_default() += 1;
    }
    all
}

/// Every user gets this release, from every host.
pub(crate) fn assert_users_get(edge: &Host, version: &str, app: &[Host]) {
    for path in ["/api/contacts", "/api/health"] {
        let got = ask(edge, path, 10 * app.len());
        let hosts: Vec<&str> = got.keys().map(|got| got.host.as_str()).collect();
        let mut wanted: Vec<&str> = app.iter().map(|host| host.name.as_str()).collect();
        wanted.sort_unstable();
        assert_eq!(hosts, wanted, "{path}: {got:?}");
        let all = got.keys().all(|got| got.status == "200" && got.versions == [version, version]);
        assert!(all, "{path}: {got:?}");
    }
}
