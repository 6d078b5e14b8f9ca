//! `agent check`: whether everything is there that a rollback would need, before the service starts and while it runs.
//!
//! ```text
//! identity, clock ─┐
//! coordinator ─────┤
//! policy ──────────┼──▶ Finding… ──▶ one line each, `ok …` or `bad …: why; mend: …`; exit 1 where one is bad
//! state, rights ───┤
//! host::problems ──┤
//! traffic ─────────┘
//! ```
//!
//! Neither store nor ledger is opened: both are a running agent's.
//!
//! Invariant: changes nothing, starts nothing.
//! Invariant: all problems at once, each with its mend.

use std::{path::Path, sync::Arc};

use proto::{
    policy::Policy,
    tls::{self, IdentityDir},
};

use crate::{
    artefact,
    config::Config,
    finding::Finding,
    host::problems,
    policy::{self, LoadError},
    store::own,
    traffic::Traffic,
};

/// A certificate that ends sooner is named: renewal is late.
const ENDS_SOON: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// Everything that was looked at.
pub async fn findings(config: &Config) -> Vec<Finding> {
    let identity = IdentityDir::load(&config.identity_dir());
    let mut found = Vec::new();
    match &identity {
        Ok(identity) => {
            found.extend(of_identity(identity, jiff::Timestamp::now()));
            found.push(coordinator(&config.coordinator, identity).await);
        }
        Err(error) => found.push(Finding::of_words(
            format!("identity in {}", config.identity_dir().display()),
            &format!("{}; mend: join this host to its fleet", words(error)),
        )),
    }
    let host = identity.as_ref().ok().map(|identity| identity.identity().name());
    let policy = of_policy(&config.policy, host, &mut found);
    found.push(rights());
    found.extend(state(&config.state));
    if let Some(policy) = policy {
        found.extend(artefact::findings(&policy.sources));
        let of_components = problems::findings(&policy, &config.state).await;
        found.extend(of_components.into_iter().map(|(component, finding)| Finding {
            what: format!("{component}: {}", finding.what),
            ..finding
        }));
        if let Some(traffic) = &policy.traffic {
            found.extend(match Traffic::new(traffic, &config.state) {
                Ok(traffic) => traffic.findings().await,
                Err(error) => vec![Finding::of_words("traffic", &words(&error))],
            });
        }
    }
    found
}

fn of_identity(identity: &IdentityDir, now: jiff::Timestamp) -> Vec<Finding> {
    let what = format!("identity {}", identity.identity());
    let time = |ms| jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    let (from, to) = (time(identity.issued_unix_ms()), time(identity.not_after_unix_ms()));
    let left = to.duration_since(now);
    let certificate = if left.is_negative() {
        let why = format!("its certificate ended at {to}; this host's clock says {now}");
        Finding::bad(&what, why, "set the clock if it is wrong; else join this host again")
    } else if left < ENDS_SOON {
        let why = format!("its certificate ends at {to}, and was not renewed");
        Finding::bad(&what, why, "start the agent so that it renews it, or join this host again")
    } else {
        Finding::ok(format!("{what}, until {to}"))
    };
    let clock = if now < from {
        let behind = from.duration_since(now);
        let why = format!("says {now}, {behind:#} before this host's certificate began");
        Finding::bad("clock", why, "set it, and keep it by NTP")
    } else {
        Finding::ok(format!("clock: {now} lies within the certificate's life"))
    };
    vec![certificate, clock]
}

/// A connection with both certificates checked: so it also shows a clock that lies outside of the coordinator's.
async fn coordinator(address: &str, identity: &IdentityDir) -> Finding {
    let what = format!("coordinator {address}");
    let config = match tls::client_config(identity) {
        Ok(config) => Arc::new(config),
        Err(error) => return Finding::of_words(what, &words(&error)),
    };
    match tls::connect(address, config).await {
        Ok(_) => Finding::ok(what),
        Err(error) => {
            let mend = "see that the address is right, that it runs, and that this host may reach its port";
            Finding::bad(what, words(&error), mend)
        }
    }
}

fn of_policy(path: &Path, host: Option<&str>, found: &mut Vec<Finding>) -> Option<Policy> {
    let what = format!("policy {}", path.display());
    let loaded = match host {
        Some(host) => policy::load(path, host),
        // Without an identity, what it says of itself.
        None => policy::load_any(path),
    };
    match loaded {
        Ok(loaded) => {
            found.push(Finding::ok(format!("{what}, {}", loaded.hash)));
            Some(loaded.policy)
        }
        Err(LoadError::Content { source, .. }) => {
            found.extend(source.0.iter().map(|problem| {
                let at = format!("{what}:{}:{}", problem.line, problem.column);
                Finding::bad(at, &problem.what, &problem.mend)
            }));
            None
        }
        Err(error) => {
            found.push(Finding::of_words(what, &words(&error)));
            None
        }
    }
}

fn rights() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::ok("rights: root");
    }
    Finding::ok("rights: not root, so files keep no other owner than this user")
}

/// What a start would refuse of the state directory.
fn state(path: &Path) -> Vec<Finding> {
    let what = format!("state {}", path.display());
    let missing = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    if path.symlink_metadata().is_err_and(missing) {
        return vec![Finding::ok(format!("{what}: is made at the first start"))];
    }
    let found = own::look(path);
    if found.is_empty() {
        return vec![Finding::ok(what)];
    }
    let bad = |own::NotOwn { path, why, mend }| Finding::bad(format!("state {path}"), why, mend);
    found.into_iter().map(bad).collect()
}

/// An error with all of its sources, in one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

    use proto::tls::{Ca, Identity, Role, Validity};

    use super::*;

    /// A host with an identity and a policy, and nobody at the coordinator's address.
    struct Bed {
        directory: tempfile::TempDir,
    }

    impl Bed {
        fn new(policy: &str) -> Self {
            let bed = Self { directory: tempfile::tempdir().unwrap() };
            let identity = Identity::new("prod", Role::Agent, "crm-b1").unwrap();
            let life = Validity::lasting(Duration::from_secs(30 * 24 * 3600));
            let issued = Ca::create("prod").unwrap().issue(&identity, &[], life).unwrap();
            fs::create_dir_all(bed.path("state/identity")).unwrap();
            issued.save(&bed.path("state/identity")).unwrap();
            fs::set_permissions(bed.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
            fs::write(bed.path("policy.yaml"), policy).unwrap();
            bed
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().canonicalize().unwrap().join(name)
        }

        async fn lines(&self) -> Vec<String> {
            let config = Config {
                // Nobody listens on the port of nothing.
                coordinator: "127.0.0.1:1".to_owned(),
                state: self.path("state"),
                identity: None,
                policy: self.path("policy.yaml"),
                log_json: false,
            };
            findings(&config).await.iter().map(Finding::to_string).collect()
        }
    }

    const POLICY: &str = "version: 1\nfleet: prod\nhost: crm-b1\n";

    fn has(lines: &[String], words: &str) -> bool {
        lines.iter().any(|line| line.contains(words))
    }

    #[tokio::test]
    async fn every_part_is_looked_at_and_only_what_is_bad_is_bad() {
        let lines = Bed::new(POLICY).lines().await;
        for words in [
            "ok   identity spiffe://prod/agent/crm-b1, until 2",
            "ok   clock: ",
            "ok   policy ",
            "ok   state ",
            "ok   rights: ",
        ] {
            assert!(has(&lines, words), "{words}: {lines:?}");
        }
        let bad: Vec<&String> = lines.iter().filter(|line| line.starts_with("bad")).collect();
        let [bad] = bad[..] else { panic!("{lines:?}") };
        assert!(bad.starts_with("bad  coordinator 127.0.0.1:1: cannot reach"), "{bad}");
        assert!(bad.contains("; mend: "), "{bad}");
    }

    #[tokio::test]
    async fn what_a_start_would_refuse_of_the_store_is_told() {
        let bed = Bed::new(POLICY);
        drop(crate::store::Store::open(&bed.path("state")).unwrap());
        let packs = bed.path("state/store/packs");
        fs::set_permissions(&packs, fs::Permissions::from_mode(0o750)).unwrap();
        let lines = bed.lines().await;
        let wanted = format!(
            "bad  state {0}: is open to others (mode 750); mend: chmod 0700 {0}",
            packs.display()
        );
        assert!(lines.contains(&wanted), "{lines:?}");
    }

    #[tokio::test]
    async fn all_problems_are_told_at_once() {
        let bed = Bed::new(&format!(
            "{POLICY}components: {{ app: {{ files: [{{ tree: srv }}, {{ tree: /a/../b }}], ready_within: 1s, stable_for: 1s }} }}\n"
        ));
        fs::set_permissions(bed.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(bed.path("state/identity/key.pem"), fs::Permissions::from_mode(0o644))
            .unwrap();
        let lines = bed.lines().await;
        assert!(has(&lines, "path `srv` is not absolute; mend: "), "{lines:?}");
        assert!(has(&lines, "path `/a/../b` holds `..`; mend: "), "{lines:?}");
        assert!(has(&lines, "is open to others (mode 755); mend: chmod 0700"), "{lines:?}");
        assert!(has(&lines, "bad  identity in "), "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("ok") || line.contains("; mend: ")));
    }

    #[tokio::test]
    async fn sources_that_cannot_be_asked_are_told() {
        let bed = Bed::new(&format!(
            "{POLICY}sources:\n  here: {{ directory: /usr }}\n  gone: {{ directory: /nowhere/builds }}\n  \
             web: {{ https: {{ url: \"https://builds.example.com/\", ca_file: /nowhere/ca.pem }} }}\n  \
             code: {{ git: {{ repository: /srv/git/crm, user: no-such-user }} }}\n"
        ));
        let lines = bed.lines().await;
        for words in [
            "ok   source here",
            "bad  source gone: could not open /nowhere/builds",
            "bad  source web: ca_file /nowhere/ca.pem cannot be read",
            "bad  source code: user `no-such-user` is not in /etc/passwd",
        ] {
            assert!(has(&lines, words), "{words}: {lines:?}");
        }
    }

    #[test]
    fn a_certificate_and_a_clock_that_do_not_meet_are_told() {
        let bed = Bed::new(POLICY);
        let identity = IdentityDir::load(&bed.path("state/identity")).unwrap();
        let day = |days: i64| {
            let at = of_identity(
                &identity,
                jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24),
            );
            at.iter().map(|finding| format!("{finding}\n")).collect::<String>()
        };
        assert!(day(1).lines().all(|line| line.starts_with("ok")));
        assert!(day(25).contains("was not renewed; mend:"));
        assert!(day(31).contains("its certificate ended at"));
        assert!(day(-9).contains("bad  clock: says") && day(-9).contains("before this host"));
    }
}
