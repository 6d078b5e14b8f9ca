//! ACE CRM on a host: its tree, its units, how a team deploys it by hand, and what a host's own tools say is there.
//!
//! ```text
//! /var/www/ace-crm                          the tree; uploads and logs in it live across releases
//! /etc/systemd/system/ace-crm-*.service     one unit for each service, of the same release
//! /var/log/ace-crm/starts.log               on what each service has ever started
//! ```
//!
//! Invariant: nothing here asks Lastgood what is on a host.

use std::process::Command;

use serde_json::Value;

use crate::hosts::Host;

/// The app's tree.
pub(crate) const TREE: &str = "/var/www/ace-crm";
/// Where the services write down on what they start.
pub(crate) const STARTS: &str = "/var/log/ace-crm/starts.log";
pub(crate) const SERVICES: [(&str, u16); 3] =
    [("backend", 5000), ("frontend", 3000), ("client-portal", 3001)];

/// How the app's services are run on the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// By the agent itself.
    Process,
    /// By systemd, as units that are enabled.
    Systemd,
}

/// What is deployed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Release<'a> {
    pub(crate) version: &'a str,
    /// What is wrong with it.
    pub(crate) fault: Option<&'a str>,
    /// How many files its library has.
    pub(crate) files: usize,
}

/// The name of a service's unit.
pub(crate) fn unit(service: &str) -> String {
    format!("ace-crm-{service}.service")
}

/// All of them, as arguments.
pub(crate) fn units() -> String {
    SERVICES.map(|(service, _)| unit(service)).join(" ")
}

/// What puts the first release on a new host.
pub(crate) fn install_script(release: Release<'_>, runs: Runs, host: &str) -> String {
    let enable = match runs {
        Runs::Process => String::new(),
        Runs::Systemd => {
            format!(
                "{}\nsystemctl daemon-reload; systemctl enable --now {}",
                units_script(release),
                units()
            )
        }
    };
    let Release { version, files, .. } = release;
    format!(
        "ace-crm release {TREE} {version} --files {files}
        mkdir -p {TREE}/uploads/2026 {TREE}/logs /var/log/ace-crm
        echo 'of customer {host}' >{TREE}/uploads/2026/contract.pdf
        chown -R www-data: {TREE} /var/log/ace-crm
        {enable}"
    )
}

/// What a team types to bring out a release: copied over what is there, and restarted.
pub(crate) fn deploy_script(release: Release<'_>, runs: Runs) -> String {
    let Release { version, fault, files } = release;
    let fault = fault.map(|fault| format!("--fault {fault}")).unwrap_or_default();
    let restart = match runs {
        Runs::Process => "for pid in $(pidof ace-crm); do kill $pid; done".to_owned(),
        // What it says of a release that does not come up is the team's to look at.
        Runs::Systemd => {
            format!(
                "{}\nsystemctl daemon-reload; systemctl restart {} || true",
                units_script(release),
                units()
            )
        }
    };
    format!(
        "rm -rf /root/next; ace-crm release /root/next {version} {fault} --files {files}
        cp -r /root/next/. {TREE}/
        chown -R www-data: {TREE}
        {restart}"
    )
}

/// Writes the units that belong to a release.
fn units_script(release: Release<'_>) -> String {
    let version = release.version;
    let write = |(service, port): (&str, u16)| {
        format!(
            "cat >/etc/systemd/system/{} <<'UNIT'
[Unit]
Description=ACE CRM {service} {version}

[Service]
Type=exec
User=www-data
Environment=ACE_RELEASE={version}
ExecStart=/usr/local/bin/ace-crm serve {TREE} {service} 0.0.0.0:{port}
Restart=on-failure
RestartSec=2s

[Install]
WantedBy=multi-user.target
UNIT\n",
            unit(service)
        )
    };
    SERVICES.map(write).concat()
}

/// Everything that a release is on a host, as one number: each path with its kind, mode, owner, time and content,
/// without what is kept across releases; and its unit files.
pub(crate) fn digest(host: &Host) -> String {
    host.sh(&digest_script(TREE, "%T@")) + &host.sh(&units_digest_script("/"))
}

/// The same without times, which are set back at the end of a switch.
pub(crate) fn content(host: &Host) -> String {
    host.sh(&digest_script(TREE, ""))
}

/// The same of a host that is not up.
pub(crate) fn content_on_disk(host: &Host) -> String {
    host.look(&digest_script(TREE.trim_start_matches('/'), ""))
}

/// Its unit files alone.
pub(crate) fn units_digest(host: &Host) -> String {
    host.sh(&units_digest_script("/"))
}

/// The same of a host that is not up.
pub(crate) fn units_digest_on_disk(host: &Host) -> String {
    host.look(&units_digest_script(""))
}

fn units_digest_script(root: &str) -> String {
    format!(
        "cd {root}etc/systemd/system
        find . -maxdepth 1 -name 'ace-crm*' -printf '%p %y %m %l\\n' | LC_ALL=C sort | sha256sum | cut -c1-16
        find . -maxdepth 1 -name 'ace-crm*' -type f -print0 | LC_ALL=C sort -z | xargs -0r cat | sha256sum | cut -c1-16"
    )
}

fn digest_script(tree: &str, more: &str) -> String {
    format!(
        "cd {tree}
        all() {{ find . \\( -path ./uploads -o -path ./logs \\) -prune -o \"$@\"; }}
        (all -printf '%p %y %m %U %G {more} %l\\n' | LC_ALL=C sort
        all -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16"
    )
}

/// What the app's users have put there.
pub(crate) fn uploads(host: &Host) -> String {
    host.sh(&format!("cat {TREE}/uploads/2026/contract.pdf"))
}

/// Every set of releases that a service of this host has ever started on: `v1.0.0`, or `v1.0.0+v2.0.0` for a mix.
pub(crate) fn started_on(host: &Host) -> Vec<String> {
    let lines = host.sh(&format!("cut -d' ' -f3- {STARTS} | sort -u"));
    lines.lines().map(str::to_owned).collect()
}

/// What a service of a host answers as its version, asked from this machine.
pub(crate) fn version_at(host: &Host, port: u16) -> Option<String> {
    let url = format!("http://{}:{port}/api/health", host.address);
    let output = Command::new("curl").args(["-sS", "--max-time", "2", &url]).output().ok()?;
    let body: Value = serde_json::from_slice(&output.stdout).ok()?;
    body["version"].as_str().map(str::to_owned)
}
