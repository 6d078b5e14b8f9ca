//! A table of bad files: each is the good one with one edit. The golden file shows the edit and the answer.

use super::{parse, shown};

const GOOD: &str = r#"version: 1
fleet: prod
environment: production
app: shop
hosts:
  blue: [web-1, web-2]
  green: [web-3]
  canary: [web-4]
  edge: [lb-1]
components:
  shop:
    hosts: [blue, canary]
    files:
      - { tree: /srv/shop, keep: [uploads] }
      - { file: /srv/shop/.env, secret: true, require: [DB_URL] }
    services:
      - { systemd: shop.service, stop_within: 30s }
      - { name: worker, process: { command: [/usr/bin/node, w.js], directory: /srv/shop, environment: { PORT: "1" } } }
    checks:
      - { name: health, http: "http://127.0.0.1/health", expect: { status: 200, json: { /status: ok } } }
      - { name: port, tcp: "127.0.0.1:80" }
    overrides:
      web-2: { checks: [{ name: health, command: [/bin/true] }] }
  proxy:
    hosts: [edge]
    needs: [shop]
    files: [{ file: /etc/nginx/shop.conf }]
    services: [{ nginx: nginx.service }]
traffic:
  through: { nginx: { hosts: edge, include: /etc/nginx/up.conf } }
  ports: { web: 80 }
  slots: [blue, green]
rollback:
  batches: [1, "50%"]
  budget: { failed: 1, out: "50%" }
  deadline: 5m
canary: { steps: [{ weight: 5, hold: 10m }, { weight: 50 }] }
triggers:
  errors: { source: probes, breach: "error_rate > 0.1", for: 30s, severity: high, then: propose }
approvals: { required_for: [deploy], from: [leads] }
notify: { slack: { webhook_file: /etc/lastgood/slack }, escalate: [{ level: one, to: "slack:#a", after: 0m }] }
"#;

/// What is wrong, the text that is replaced, and by what.
const EDITS: &[(&str, &str, &str)] = &[
    // Form: the reader stops at the first.
    ("nothing at all", GOOD, ""),
    ("only text", GOOD, "hello\n"),
    ("a bracket that is not closed", "[web-1, web-2]", "[web-1, web-2"),
    ("a tab", "  blue:", "\tblue:"),
    ("two documents", "hosts:\n", "hosts:\n---\n"),
    ("a key of the top that is not known", "hosts:\n", "hots:\n"),
    ("a key of a component that is not known", "needs: [shop]", "need: [shop]"),
    ("a key with nothing like it", "app: shop", "app: shop\nzebra: 1"),
    ("a key twice", "app: shop", "app: shop\napp: shop"),
    ("a key that is missing", "fleet: prod\n", ""),
    ("no version", "version: 1\n", ""),
    ("a version to come", "version: 1", "version: 2"),
    ("yes is not true", "secret: true", "secret: yes"),
    ("a number without its unit", "stop_within: 30s", "stop_within: 30"),
    ("a negative duration", "deadline: 5m", "deadline: -5m"),
    ("a word that is not known", "severity: high", "severity: hihg"),
    ("a list that is a text", "needs: [shop]", "needs: shop"),
    ("a number that is a word", "failed: 1", "failed: one"),
    ("a merge key", "hosts: [edge]", "<<: { hosts: [edge] }"),
    ("a tag", "app: shop", "app: !env shop"),
    ("an alias to nothing", "app: shop", "app: *shop"),
    ("a tree and a file at once", "{ tree: /srv/shop, ", "{ tree: /srv/shop, file: /srv/x, "),
    ("a file with keep", "secret: true", "keep: [a]"),
    (
        "a service of two drivers",
        "{ systemd: shop.service,",
        "{ systemd: shop.service, nginx: nginx.service,",
    ),
    ("a service of no driver", "{ nginx: nginx.service }", "{ name: nginx }"),
    ("a process without a name", "name: worker, process", "process"),
    ("a probe that is not known", "tcp: \"127.0.0.1:80\"", "udp: \"127.0.0.1:80\""),
    ("a check that does nothing", ", tcp: \"127.0.0.1:80\"", ""),
    (
        "a check of two kinds",
        "tcp: \"127.0.0.1:80\"",
        "tcp: \"127.0.0.1:80\", command: [/bin/true]",
    ),
    ("a method without http", "tcp: \"127.0.0.1:80\"", "tcp: \"127.0.0.1:80\", method: GET"),
    ("nobody in a batch", "[1, \"50%\"]", "[0, \"50%\"]"),
    ("more than all", "out: \"50%\"", "out: \"150%\""),
    ("a source that is not known", "source: probes", "source: probe"),
    ("a query without a server", "source: probes", "source: { query: up }"),
    ("a bearer token in the file", "expect: { status: 200,", "bearer: abc, expect: { status: 200,"),
    (
        "a webhook in the file",
        "webhook_file: /etc/lastgood/slack",
        "webhook: https://hooks.example",
    ),
    ("an age without a unit", "needs: [shop]", "needs: [shop]\n    retention: { age: 30 }"),
    ("a size of no unit", "needs: [shop]", "needs: [shop]\n    retention: { disk: 20G }"),
    ("a limit that is not known", "needs: [shop]", "needs: [shop]\n    retention: { count: 5 }"),
    ("less than no release", "needs: [shop]", "needs: [shop]\n    retention: { releases: -1 }"),
    // Meaning: all at once.
    ("a host in two groups", "edge: [lb-1]", "edge: [lb-1, web-1]"),
    ("a host twice in a group", "[web-1, web-2]", "[web-1, web-2, web-1]"),
    ("names that cannot be", "blue: [web-1, web-2]", "blue: [web-1, web-2, Web_3]"),
    (
        "no host",
        "  blue: [web-1, web-2]\n  green: [web-3]\n  canary: [web-4]\n  edge: [lb-1]",
        "  blue: []\n  edge: []",
    ),
    ("a group that is not known", "hosts: [blue, canary]", "hosts: [bleu, canary]"),
    ("a need that is not known", "needs: [shop]", "needs: [shopp]"),
    ("a circle of two", "hosts: [blue, canary]", "hosts: [blue, canary]\n    needs: [proxy]"),
    ("a component that needs itself", "needs: [shop]", "needs: [proxy]"),
    (
        "two services of one name",
        "{ systemd: shop.service,",
        "{ name: worker, systemd: shop.service,",
    ),
    ("a unit whose name cannot be a service's", "shop.service", "Shop@1.service"),
    ("a unit without its suffix", "{ nginx: nginx.service }", "{ nginx: nginx }"),
    ("a tree that is relative", "tree: /srv/shop", "tree: srv/shop"),
    ("a tree that goes up", "tree: /srv/shop", "tree: /srv/../etc"),
    ("a tree in another form", "tree: /srv/shop", "tree: /srv//shop/"),
    ("the root as a tree", "tree: /srv/shop", "tree: /"),
    ("a tree over our own state", "tree: /srv/shop", "tree: /var/lib"),
    ("an absolute keep", "keep: [uploads]", "keep: [/srv/shop/uploads]"),
    ("a keep that goes up", "keep: [uploads]", "keep: [../uploads]"),
    ("a declared file in a kept path", "/srv/shop/.env", "/srv/shop/uploads/.env"),
    (
        "a tree in a tree",
        "{ file: /srv/shop/.env,",
        "{ tree: /srv/shop/lib }\n      - { file: /srv/shop/.env,",
    ),
    (
        "trees of two components",
        "hosts: [edge]\n    needs: [shop]",
        "hosts: [edge, blue]\n    files: [{ tree: /srv }]\n  other:\n    hosts: [edge]\n    needs: [shop]",
    ),
    (
        "a file in the tree of another component",
        "hosts: [edge]\n    needs: [shop]\n    files: [{ file: /etc/nginx/shop.conf }]",
        "hosts: [blue]\n    files: [{ file: /srv/shop/nginx.conf }]",
    ),
    (
        "a unit of two components",
        "hosts: [edge]\n    needs: [shop]",
        "hosts: [blue, edge]\n    services: [{ systemd: shop.service }]\n  other:\n    hosts: [edge]\n    needs: [shop]",
    ),
    ("a program that is searched for", "/usr/bin/node", "node"),
    ("a secret in the environment", "PORT: \"1\"", "JWT_SECRET: hunter2"),
    ("a password in a URL", "http://127.0.0.1/health", "http://me:hunter2@127.0.0.1/health"),
    ("a URL without its scheme", "http://127.0.0.1/health", "127.0.0.1/health"),
    ("a port that is missing", "tcp: \"127.0.0.1:80\"", "tcp: \"127.0.0.1\""),
    ("a pointer in dots", "/status: ok", "a.status: ok"),
    ("a status that is none", "status: 200", "status: 20"),
    (
        "learning that nothing speaks for",
        "needs: [shop]",
        "needs: [shop]\n    capture: { after_healthy: 0s }",
    ),
    ("an override for nobody", "web-2: { checks", "web-3: { checks"),
    ("an override for a host of another group", "web-2: { checks", "lb-1: { checks"),
    (
        "an override in another order",
        "web-2: { checks",
        "web-2: { services: [{ name: worker, systemd: w.service }, { systemd: shop.service }], checks",
    ),
    ("a retention without a limit", "needs: [shop]", "needs: [shop]\n    retention: {}"),
    (
        "a retention that keeps nothing",
        "needs: [shop]",
        "needs: [shop]\n    retention: { releases: 0, age: 5m, disk: 0B }",
    ),
    (
        "a lease that is over at once, and that nothing decides",
        "needs: [shop]",
        "needs: [shop]\n    stable_for: 30s\n    lease: { for: 5s }",
    ),
    (
        "samples of a check that is not there",
        "needs: [shop]",
        "needs: [shop]\n    samples: { checks: [up] }",
    ),
    (
        "samples that one host lacks",
        "    overrides:",
        "    samples: { checks: [health] }\n    overrides:",
    ),
    ("a canary of nobody", "canary: { steps", "canary: { group: cannary, steps"),
    ("a canary without hosts", "canary: [web-4]", "canary: []"),
    ("a canary that is a slot", "canary: { steps", "canary: { group: green, steps"),
    ("a canary of proxies", "canary: { steps", "canary: { group: edge, steps"),
    ("a canary without the app", "hosts: [blue, canary]", "hosts: [blue]"),
    (
        "a canary without traffic",
        "traffic:\n  through: { nginx: { hosts: edge, include: /etc/nginx/up.conf } }\n  ports: { web: 80 }\n  slots: [blue, green]\n",
        "",
    ),
    ("a canary without steps", "[{ weight: 5, hold: 10m }, { weight: 50 }]", "[]"),
    (
        "a canary of the whole fleet",
        "[{ weight: 5, hold: 10m }, { weight: 50 }]",
        "[{ weight: 100 }]",
    ),
    ("a hold where nothing is left", "{ weight: 50 }", "{ weight: 100, hold: ask }"),
    ("a hold that is no time", "hold: 10m", "hold: forever"),
    (
        "numbers that judge nothing",
        "canary: { steps",
        "canary: { compare: [], latency_ratio: 0.5, false_alarm: 0.5, min_requests: 0, stale_after: 0s, wait_at_most: 0s, steps",
    ),
    (
        "a share of more than all",
        "canary: { steps",
        "canary: { errors_at_most: 5, compare: [p95, p95], steps",
    ),
    ("a measure that is not known", "canary: { steps", "canary: { compare: [p90], steps"),
    (
        "a source of counts that is not known",
        "canary: { steps",
        "canary: { source: prometheus, steps",
    ),
    (
        "counters without all they need",
        "canary: { steps",
        "canary: { source: { prometheus: \"http://prom:9090\", requests: 'r' }, steps",
    ),
    (
        "counters of all hosts alike",
        "canary: { steps",
        "canary: { source: { prometheus: prom, requests: 'sum(r)', errors: 'sum(e{host=~\"$side\"})' }, steps",
    ),
    (
        "a password in the address of a Prometheus",
        "canary: { steps",
        "canary: { source: { prometheus: \"http://me:hunter2@prom\", requests: 'sum(r{h=~\"$side\"})', errors: 'sum(e{h=~\"$side\"})' }, steps",
    ),
    ("a canary that falls", "weight: 50 }", "weight: 3 }"),
    ("a canary of too much", "weight: 50 }", "weight: 101 }"),
    ("slots that are not groups", "slots: [blue, green]", "slots: [blue, red]"),
    ("one slot", "slots: [blue, green]", "slots: [blue]"),
    ("a slot of proxies", "slots: [blue, green]", "slots: [blue, edge]"),
    ("a slot without hosts", "  green: [web-3]", "  green: []"),
    (
        "an address of nobody",
        "  slots: [blue, green]",
        "  slots: [blue, green]\n  addresses: { web-9: 10.0.0.9 }",
    ),
    (
        "a version of no port",
        "  slots: [blue, green]",
        "  slots: [blue, green]\n  version: { port: api, path: /health, version_at: /version }",
    ),
    (
        "two proxies",
        "{ nginx: {",
        "{ haproxy: { hosts: edge, socket: /s, state_file: /f }, nginx: {",
    ),
    ("no known proxy", "{ nginx: {", "{ envoy: {"),
    ("a component called like a step", "  shop:\n    hosts", "  traffic:\n    hosts"),
    ("a breach of no form", "error_rate > 0.1", "too many errors"),
    ("a metric that is not measured", "error_rate > 0.1", "eror_rate > 0.1"),
    ("a metric with nothing like it", "error_rate > 0.1", "cpu > 0.1"),
    ("a share in percent", "error_rate > 0.1", "error_rate > 10"),
    ("a latency below nothing", "error_rate > 0.1", "p95 > -1"),
    ("a trigger without its time", "for: 30s, severity: high", "severity: high"),
    (
        "an alert with what its own rule says",
        "source: probes, breach: \"error_rate > 0.1\"",
        "source: { alert: HighErrors }, min_requests: 5, breach: \"> 1\"",
    ),
    ("two sources", "source: probes", "source: { alert: HighErrors, check: health }"),
    (
        "a trigger on a check that is not there",
        "source: probes, breach: \"error_rate > 0.1\"",
        "source: { check: helth }",
    ),
    ("nobody who approves", "from: [leads]", "from: []"),
    ("an escalation to nowhere", "slack:#a", "#a"),
    ("no batch", "[1, \"50%\"]", "[]"),
    ("a soak that outlasts the whole", "deadline: 5m", "deadline: 5m\n  soak: 10m"),
    (
        "many things at once",
        "  edge: [lb-1]\ncomponents:\n  shop:\n    hosts: [blue, canary]",
        "  edge: [lb-1, web-1]\ncomponents:\n  shop:\n    hosts: [bleu]\n    needs: [crm]\n    ready_within: 0s",
    ),
];

#[test]
fn the_good_file_is_good() {
    assert_eq!(parse(GOOD).map(|_| ()).map_err(|problems| shown(&problems)), Ok(()));
}

#[test]
fn each_bad_file_is_answered_with_line_column_and_mend() {
    let mut golden = String::new();
    for (wrong, from, to) in EDITS {
        assert!(GOOD.contains(from), "{wrong}: the good file has no `{from}`");
        let answer = match parse(&GOOD.replacen(from, to, 1)) {
            Ok(_) => panic!("{wrong}: was accepted"),
            Err(problems) => shown(&problems),
        };
        assert!(
            !answer.contains("hunter2") && !answer.contains("hooks.example"),
            "{wrong}: {answer}"
        );
        golden += &format!("# {wrong}\n{answer}\n");
    }
    insta::assert_snapshot!(golden);
}
