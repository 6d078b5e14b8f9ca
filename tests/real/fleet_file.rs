//! The fleet file of a test: what a person would have written for these hosts.

use serde_json::{Value, json};

use crate::{
    app::{Runs, SERVICES, TREE, unit},
    edge::SITE,
    fleet::{Edge, Wanted},
    hosts::Host,
};

/// Where releases are, on each host.
pub(crate) const BUILDS: &str = "/srv/builds";

pub(crate) fn document(wanted: Wanted, app: &[Host], edges: &[Host]) -> Value {
    let names = |hosts: &[Host]| hosts.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    let mut file = json!({
        "version": 1,
        "fleet": "prod",
        "environment": "production",
        "app": "ace-crm",
        "hosts": { "app": names(app) },
        "components": { "crm": crm(wanted) },
        "rollback": {
            "batches": ["100%"],
            "budget": { "failed": 1, "unknown": app.len(), "out": "100%" },
            "on_failure": "restore",
            "late_hosts": "rollback",
            "deadline": "2m",
            "unknown_after": wanted.unknown_after,
        },
    });
    match wanted.edge {
        Edge::No => {}
        Edge::Plain => {
            file["hosts"]["edge"] = json!(names(edges));
            file["components"]["proxy"] = proxy(wanted);
        }
        Edge::Divides(proxy, _) | Edge::Tries(proxy) => {
            let half = app.len() / 2;
            let (blue, rest) = app.split_at(half);
            let (green, canary) = rest.split_at(half);
            file["hosts"] =
                json!({ "blue": names(blue), "green": names(green), "edge": names(edges) });
            file["components"]["crm"]["hosts"] = json!(["blue", "green"]);
            if !canary.is_empty() {
                file["hosts"]["canary"] = json!(names(canary));
                file["components"]["crm"]["hosts"] = json!(["blue", "green", "canary"]);
            }
            file["traffic"] = proxy.traffic(app);
            file["sources"] = json!({ "builds": { "directory": BUILDS } });
            file["rollback"]["budget"] = json!({ "failed": 1, "unknown": 1, "out": "50%" });
        }
    }
    file
}

fn crm(wanted: Wanted) -> Value {
    json!({
        "hosts": ["app"],
        "files": [
            { "tree": TREE, "keep": ["uploads", "logs"] },
            { "file": format!("{TREE}/.env.production"), "secret": true,
              "require": ["SUPABASE_URL", "JWT_SECRET", "STRIPE_SECRET_KEY"] },
        ],
        "services": SERVICES.map(|service| run(wanted.runs, service)),
        "checks": checks(wanted.runs),
        "ready_within": wanted.ready_within,
        "stable_for": "500ms",
    })
}

fn run(runs: Runs, (name, port): (&str, u16)) -> Value {
    match runs {
        Runs::Process => json!({
            "name": name,
            "stop_within": "3s",
            "process": {
                "command": ["/usr/local/bin/ace-crm", "serve", TREE, name, format!("0.0.0.0:{port}")],
                "directory": "/",
                "user": "www-data",
            },
        }),
        Runs::Systemd => json!({ "name": name, "stop_within": "3s", "systemd": unit(name) }),
    }
}

fn checks(runs: Runs) -> Vec<Value> {
    let health = |(name, port): (&str, u16)| {
        json!({
            "name": name,
            "http": format!("http://127.0.0.1:{port}/api/health"),
            "expect": { "status": 200, "json": { "/status": "healthy" }, "at_most": { "/errorRate": 0.1 },
                        "version_at": "/version" },
            "every": "100ms",
            "timeout": "2s",
        })
    };
    let mut checks: Vec<Value> = SERVICES.map(health).into();
    if runs == Runs::Systemd {
        checks.extend([
            json!({
                "name": "contacts",
                "http": "http://127.0.0.1:5000/api/contacts",
                "requests": 20,
                "every": "200ms",
                // A slow release is the next one's to find.
                "timeout": "30s",
            }),
            json!({
                "name": "speed",
                "http": "http://127.0.0.1:5000/api/contacts",
                // No more than a slow release answers before it has to be ready.
                "requests": 2,
                // A slow release is a thousand times slower: the rest is room for a busy machine and one late answer.
                "expect": { "average_over_baseline": 300 },
                "every": "200ms",
            }),
            json!({
                "name": "me",
                "http": "http://127.0.0.1:5000/api/users/me",
                "bearer_file": "/etc/lastgood/secrets/test-token",
                "every": "200ms",
                "timeout": "30s",
            }),
        ]);
    }
    checks
}

fn proxy(wanted: Wanted) -> Value {
    json!({
        "hosts": ["edge"],
        "files": [{ "file": SITE }],
        "services": [{ "nginx": "nginx.service" }],
        "needs": ["crm"],
        "checks": [
            { "name": "version", "http": "http://127.0.0.1/api/health", "requests": 20,
              "expect": { "json": { "/status": "healthy" }, "version_at": "/version" }, "every": "200ms" },
            { "name": "contacts", "http": "http://127.0.0.1/api/contacts", "requests": 20, "every": "200ms" },
        ],
        "ready_within": wanted.ready_within,
        "stable_for": "500ms",
    })
}
