//! What must hold of the proxy of an edge host, and of whom it divides the traffic among.
//!
//! Invariant: every word that gets into a proxy's configuration is of letters that mean nothing there.
//! Invariant: what the proxy reads goes back with no component: a rollback would bring an earlier division with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use super::{At, Placed, Report, absolute, json_pointer, name, not_our_own, positive, unit};
use crate::policy::{FilesPolicy, ProxyPolicy, TrafficPolicy, VersionProbe};

/// What steps about the traffic stand on in place of a component.
const TRAFFIC: &str = "traffic";
/// The longest name of a host in DNS.
const ADDRESS_CHARS_MAX: usize = 253;

/// Checks the name of a component.
pub fn component_name(text: &str, at: At<'_>, report: &mut Report) {
    name(text, "component", at, report);
    if text == TRAFFIC {
        let what = "no component is called `traffic`: steps that divide it are";
        report.add(at, what, "give the component another name");
    }
}

/// Checks the traffic of an edge host. `components` are those of the same host.
pub fn traffic(
    traffic: &TrafficPolicy,
    components: &[Placed<'_>],
    at: At<'_>,
    report: &mut Report,
) {
    name(&traffic.app, "app", at.key("app"), report);
    let mut seen: BTreeSet<&String> = BTreeSet::new();
    for (group, hosts) in &traffic.groups {
        let at = at.key("groups").name(group);
        name(group, "group", at, report);
        for host in hosts.keys() {
            name(host, "host", at.name(host), report);
            if !seen.insert(host) {
                let what = format!("host `{host}` is in two groups");
                report.add(at.name(host), what, "name it in one");
            }
        }
    }
    edge(traffic, components, at, report);
}

/// The same but for names that stand elsewhere, too.
pub fn edge(traffic: &TrafficPolicy, components: &[Placed<'_>], at: At<'_>, report: &mut Report) {
    proxy(&traffic.through, components, at.key("through"), report);
    if traffic.ports.is_empty() {
        report.add(at.key("ports"), "there is no port", "write them like `ports: { api: 5000 }`");
    }
    for (port_name, port) in &traffic.ports {
        let at = at.key("ports").name(port_name);
        name(port_name, "port", at, report);
        if *port == 0 {
            report.add(at, "0 is not a port", "write the port that the service listens on");
        }
    }
    addresses(&traffic.groups, at, report);
    positive(traffic.drain, at.key("drain"), report);
    if let Some(version) = &traffic.version {
        self::version(version, &traffic.ports, at.key("version"), report);
    }
}

fn proxy(proxy: &ProxyPolicy, components: &[Placed<'_>], at: At<'_>, report: &mut Report) {
    match proxy {
        ProxyPolicy::Nginx(nginx) => {
            let at = at.key("nginx");
            absolute(&nginx.include, at.key("include"), report);
            not_our_own(&nginx.include, at.key("include"), report);
            let shown = nginx.include.display().to_string();
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
            if !shown.chars().all(plain) {
                let what = format!("`{shown}` holds letters that nginx or systemd read otherwise");
                report.add(at.key("include"), what, "use letters, digits and `._-+@`");
            }
            goes_back(&nginx.include, components, at.key("include"), report);
            unit(&nginx.unit, at.key("unit"), report);
        }
        ProxyPolicy::Haproxy(haproxy) => {
            let at = at.key("haproxy");
            absolute(&haproxy.socket, at.key("socket"), report);
            absolute(&haproxy.state_file, at.key("state_file"), report);
            not_our_own(&haproxy.state_file, at.key("state_file"), report);
            goes_back(&haproxy.state_file, components, at.key("state_file"), report);
        }
        ProxyPolicy::Sandbox(sandbox) => {
            absolute(&sandbox.socket, at.key("sandbox").key("socket"), report);
        }
    }
}

fn goes_back(path: &Path, components: &[Placed<'_>], at: At<'_>, report: &mut Report) {
    for component in components {
        let holds = |entry: &&FilesPolicy| match entry {
            FilesPolicy::Tree(tree) => path.starts_with(&tree.tree),
            FilesPolicy::File(file) => file.file == path,
        };
        if component.files.iter().any(|entry| holds(&entry)) {
            report.add(
                at,
                format!(
                    "`{}` goes back with component `{}`: an earlier division of the traffic would come with it",
                    path.display(),
                    component.name
                ),
                "name a path outside of its files, and include that",
            );
        }
    }
}

fn addresses(groups: &BTreeMap<String, BTreeMap<String, String>>, at: At<'_>, report: &mut Report) {
    if groups.values().all(BTreeMap::is_empty) {
        let mend = "name a group of hosts that has one";
        report.add(at, "there is no host that traffic could go to", mend);
    }
    for (group, hosts) in groups {
        for (host, address) in hosts.iter().filter(|(_, address)| !is_address(address)) {
            report.add(
                at.key("groups").name(group).name(host),
                format!("`{address}` is not the address of a host"),
                "write an IP address or a name, without a port",
            );
        }
    }
}

/// An IP address, or a name in DNS.
fn is_address(text: &str) -> bool {
    let label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.chars().all(allowed) && !label.starts_with('-')
    };
    let is_name = || {
        // What ends in digits is an address that is none.
        let last = text.rsplit('.').next().unwrap_or_default();
        text.len() <= ADDRESS_CHARS_MAX
            && text.split('.').all(label)
            && !last.chars().all(|c| c.is_ascii_digit())
    };
    text.parse::<IpAddr>().is_ok() || is_name()
}

fn version(probe: &VersionProbe, ports: &BTreeMap<String, u16>, at: At<'_>, report: &mut Report) {
    if !ports.contains_key(&probe.port) {
        let what = format!("`{}` is not one of `ports`", probe.port);
        report.add(at.key("port"), what, "name one of `ports`");
    }
    let plain = |c: char| c.is_ascii_graphic() && c != '#';
    if !probe.path.starts_with('/') || !probe.path.chars().all(plain) {
        let what = format!("`{}` is not the path of a request", probe.path.escape_debug());
        report.add(at.key("path"), what, "write it like `/api/health`");
    }
    json_pointer(&probe.version_at, at.key("version_at"), report);
}

#[cfg(test)]
mod tests {
    use crate::policy::Policy;

    const NGINX: &str = "nginx: { include: /etc/nginx/lastgood/crm.conf }";

    fn policy(component: &str, through: &str, more: &str) -> String {
        format!(
            "version: 1\nfleet: prod\nhost: edge1\ncomponents:\n  {component}:\n    \
             files: [{{ tree: /etc/nginx/conf.d }}, {{ file: /etc/nginx/nginx.conf }}]\n    ready_within: 1s\n    \
             stable_for: 1s\ntraffic:\n  through: {{ {through} }}\n{more}"
        )
    }

    const REST: &str = "  app: crm\n  ports: { api: 5000, web: 3000 }\n  \
         groups: { blue: { crm-b1: 10.0.0.1, crm-b2: 'fd00::2' }, green: { crm-g1: g1.crm.internal } }\n  drain: 20s\n  \
         version: { port: api, path: /api/health, version_at: /version }\n";

    fn problems(text: &str) -> String {
        Policy::parse(text).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn an_edge_has_one_of_three_proxies() {
        for through in [
            NGINX,
            "nginx: { include: /etc/nginx/crm.conf, unit: edge.service }",
            "haproxy: { socket: /run/haproxy/admin.sock, state_file: /var/lib/haproxy/crm.state }",
            "sandbox: { socket: /tmp/sandbox/edge1.sock }",
        ] {
            assert_eq!(problems(&policy("edge", through, REST)), "", "{through}");
        }
    }

    #[test]
    fn what_could_not_be_a_proxy_of_this_host_is_refused_at_its_place() {
        for (through, words) in [
            ("nginx: { include: conf.d/crm.conf }", "is not absolute"),
            ("nginx: { include: '/etc/nginx/c rm.conf' }", "holds letters that nginx or systemd"),
            ("nginx: { include: /etc/lastgood/crm.conf }", "meets Lastgood's own directory"),
            ("nginx: { include: /etc/nginx/conf.d/crm.conf }", "goes back with component `edge`"),
            ("nginx: { include: /etc/nginx/nginx.conf }", "goes back with component `edge`"),
            ("nginx: { include: /etc/nginx/x.conf, unit: nginx }", "unit `nginx` is not a service"),
            ("haproxy: { socket: admin.sock, state_file: /var/x }", "`admin.sock` is not absolute"),
            ("haproxy: { socket: /run/a, state_file: ../x }", "`../x` is not absolute"),
            (
                "haproxy: { socket: /run/a, state_file: /etc/nginx/conf.d/x }",
                "goes back with component `edge`",
            ),
            ("sandbox: { socket: edge.sock }", "`edge.sock` is not absolute"),
        ] {
            let found = problems(&policy("edge", through, REST));
            assert!(found.contains(words), "{through}: {found}");
        }
        assert!(
            problems(&policy("traffic", NGINX, REST)).contains("no component is called `traffic`")
        );
    }

    #[test]
    fn whom_the_traffic_goes_to_has_to_be_known_and_plain() {
        for (good, bad, words) in [
            ("app: crm", "app: 'crm; }'", "cannot be the name of a app"),
            ("api: 5000, web: 3000", "api: 0", "0 is not a port"),
            ("{ api: 5000, web: 3000 }", "{}", "there is no port"),
            ("10.0.0.1", "10.0.0.1:5000", "`10.0.0.1:5000` is not the address of a host"),
            ("10.0.0.1", "10.0.0", "`10.0.0` is not the address"),
            ("g1.crm.internal", "'g1; down'", "is not the address of a host"),
            ("crm-g1:", "crm-b1:", "host `crm-b1` is in two groups"),
            ("crm-g1:", "CRM:", "cannot be the name of a host"),
            ("port: api", "port: db", "`db` is not one of `ports`"),
            ("path: /api/health", "path: health", "`health` is not the path of a request"),
            ("version_at: /version", "version_at: version", "is not a JSON pointer"),
            ("drain: 20s", "drain: 0s", "must be longer than nothing"),
        ] {
            assert!(REST.contains(good), "{good}");
            let found = problems(&policy("edge", NGINX, &REST.replace(good, bad)));
            assert!(found.contains(words), "{bad}: {found}");
        }
        let groups = REST.find("groups:").unwrap()..REST.find("  drain").unwrap();
        let mut nobody = REST.to_owned();
        nobody.replace_range(groups, "groups: { blue: {} }\n");
        assert!(problems(&policy("edge", NGINX, &nobody)).contains("there is no host that"));
    }
}
