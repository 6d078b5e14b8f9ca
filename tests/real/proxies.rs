//! The proxies of a fleet whose traffic is divided: what their owner has set up before Lastgood comes.
//!
//! ```text
//! nginx     sites-available/ace-crm: proxy_pass http://ace-crm-backend …   includes /etc/nginx/ace-crm/upstream.conf
//! HAProxy   haproxy.cfg: backend ace-crm-backend …, a server for each host, called like it; a socket, a state file
//! ```
//!
//! Invariant: a proxy is set up with all its traffic to the first slot, as by hand.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::hosts::Host;

/// The ports that are divided, by name; where the proxy itself listens for each.
pub(crate) const PORTS: [(&str, u16, u16); 3] =
    [("backend", 5000, 80), ("frontend", 3000, 3000), ("client-portal", 3001, 3001)];
/// What Lastgood writes and nobody else.
const INCLUDE: &str = "/etc/nginx/ace-crm/upstream.conf";
const SOCKET: &str = "/run/haproxy/admin.sock";
const STATE_FILE: &str = "/var/lib/haproxy/lastgood.state";

/// What divides the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Nginx,
    Haproxy,
}

impl Proxy {
    /// The section of the fleet file.
    pub(crate) fn traffic(self, app: &[Host]) -> Value {
        let through = match self {
            Self::Nginx => json!({ "nginx": { "hosts": "edge", "include": INCLUDE } }),
            Self::Haproxy => {
                json!({ "haproxy": { "hosts": "edge", "socket": SOCKET, "state_file": STATE_FILE } })
            }
        };
        let map = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect());
        json!({
            "through": through,
            "ports": map(PORTS.iter().map(|(name, port, _)| ((*name).to_owned(), json!(port))).collect()),
            "slots": ["blue", "green"],
            "drain": "10s",
            "warm": "30m",
            "addresses": map(app.iter().map(|it| (it.name.clone(), json!(it.address))).collect()),
            "version": { "port": "backend", "path": "/api/health", "version_at": "/version" },
        })
    }

    /// What puts it on a new host, before `live` and, for whoever asks it to, before `idle`.
    pub(crate) fn install_script(self, live: &[Host], idle: &[Host]) -> String {
        match self {
            Self::Nginx => nginx_script(live),
            Self::Haproxy => haproxy_script(live, idle),
        }
    }

    /// Sends everything to these hosts and nothing to those, as a person does on the edge.
    pub(crate) fn switch_by_hand(self, edge: &Host, to: &[Host], from: &[Host]) {
        match self {
            Self::Nginx => {
                edge.sh(&format!("{}nginx -t\nsystemctl reload nginx", upstream_script(to)));
            }
            Self::Haproxy => {
                let mut commands = Vec::new();
                for (name, _, _) in PORTS {
                    let one = |host: &Host, weight: u32| {
                        format!("set server ace-crm-{name}/{} weight {weight}", host.name)
                    };
                    // Never nobody.
                    commands.extend(to.iter().map(|host| one(host, 100)));
                    commands.extend(from.iter().map(|host| one(host, 0)));
                }
                let said = ask_haproxy(edge, &commands.join(";"));
                assert_eq!(said.trim(), "", "{commands:?}");
            }
        }
    }
}

/// Where users come in.
pub(crate) fn front(edge: &Host) -> SocketAddr {
    format!("{}:{}", edge.address, PORTS[0].2).parse().expect("an address")
}

fn nginx_script(live: &[Host]) -> String {
    let mut servers = String::new();
    for (name, _, listen) in PORTS {
        write!(
            servers,
            "server {{
    listen {listen} default_server;
    location / {{
        proxy_pass http://ace-crm-{name};
        proxy_connect_timeout 1s;
        proxy_read_timeout 3s;
    }}
}}\n"
        )
        .expect("a text");
    }
    format!(
        "rm -f /etc/nginx/sites-enabled/default
        mkdir -p /etc/nginx/ace-crm
        {}cat >/etc/nginx/sites-available/ace-crm <<'SITE'
include {INCLUDE};
{servers}SITE
        ln -sf /etc/nginx/sites-available/ace-crm /etc/nginx/sites-enabled/ace-crm
        systemctl enable --now nginx; systemctl reload nginx\n",
        upstream_script(live)
    )
}

/// The file that an owner begins with.
fn upstream_script(live: &[Host]) -> String {
    let mut text = format!("cat >{INCLUDE} <<'UPSTREAM'\n");
    for (name, port, _) in PORTS {
        let servers: String =
            live.iter().map(|host| format!("server {}:{port}; ", host.address)).collect();
        writeln!(text, "upstream ace-crm-{name} {{ {servers}}}").expect("a text");
    }
    text + "UPSTREAM\n"
}

fn haproxy_script(live: &[Host], idle: &[Host]) -> String {
    let mut sections = String::new();
    for (name, port, listen) in PORTS {
        writeln!(
            sections,
            "frontend {name}\n    bind :{listen}\n    default_backend ace-crm-{name}"
        )
        .expect("a text");
        writeln!(sections, "backend ace-crm-{name}\n    option httpchk GET /api/health")
            .expect("a text");
        let weights = live.iter().map(|it| (it, 100)).chain(idle.iter().map(|it| (it, 0)));
        for (Host { name, address }, weight) in weights {
            writeln!(
                sections,
                "    server {name} {address}:{port} weight {weight} check inter 500ms"
            )
            .expect("a text");
        }
    }
    format!(
        "touch {STATE_FILE}
        cat >/etc/haproxy/haproxy.cfg <<'CFG'
global
    user haproxy
    group haproxy
    stats socket {SOCKET} mode 600 level admin
    server-state-file {STATE_FILE}
defaults
    mode http
    load-server-state-from-file global
    timeout connect 1s
    timeout client 60s
    timeout server 10s
    retries 2
    option redispatch
{sections}CFG
        haproxy -c -q -f /etc/haproxy/haproxy.cfg
        systemctl enable haproxy; systemctl restart haproxy\n"
    )
}

/// What HAProxy says to a line of commands.
pub(crate) fn ask_haproxy(edge: &Host, commands: &str) -> String {
    let mut stream = UnixStream::connect(edge.path(SOCKET)).expect("the socket of HAProxy");
    stream.write_all(format!("{commands}\n").as_bytes()).expect("a command");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("its answer");
    said
}
