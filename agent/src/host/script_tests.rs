//! A host with a component of scripts, hooks and secrets, on real processes; and what is said of one that is not right.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use tempfile::TempDir;

use super::*;
use crate::finding::Finding;

/// A host's tree, its scripts beside it, and its policy.
struct Bed {
    directory: TempDir,
}

impl Bed {
    fn new() -> Self {
        // An error only says that another test was first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let bed = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(bed.path("srv/app/uploads")).unwrap();
        fs::create_dir(bed.path("state")).unwrap();
        fs::set_permissions(bed.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(bed.path("srv/app/.env"), "JWT_SECRET=hunter2-live\nDEBUG=1\n").unwrap();
        fs::write(bed.path("srv/app/index.js"), "1\n").unwrap();
        fs::write(bed.path("token"), "hunter2-token\n").unwrap();
        fs::set_permissions(bed.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
        bed.script("start.sh", "cat srv/app/.env; touch up");
        bed.script("stop.sh", "rm -f up");
        bed.script("status.sh", "[ -e up ] || exit 3; cat srv/app/.env");
        bed.script("hook.sh", "echo $1 hunter2-token; cat srv/app/.env >&2; exit $1");
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let root = self.path("");
        fs::write(self.path(name), format!("#!/bin/sh\ncd {}\n{text}\n", root.display())).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn policy(&self) -> Policy {
        let root = self.path("");
        let root = root.display().to_string();
        let root = root.trim_end_matches('/');
        let user = own_user();
        let text = format!(
            "version: 1
fleet: prod
host: crm-b1
components:
  crm:
    files: [{{ tree: {root}/srv/app, keep: [uploads] }}, {{ file: {root}/srv/app/.env, secret: true }}]
    services:
      - name: web
        script: {{ start: [{root}/start.sh], stop: [{root}/stop.sh], status: [{root}/status.sh], directory: {root}, user: {user} }}
    checks:
      - {{ name: up, command: [/bin/true], user: {user}, every: 10ms }}
      - {{ name: me, http: \"http://127.0.0.1:1/\", bearer_file: {root}/token }}
    hooks:
      - {{ name: good, at: after_start, command: [{root}/hook.sh, \"0\"], user: {user} }}
      - {{ name: bad, at: after_start, command: [{root}/hook.sh, \"5\"], user: {user}, repeatable: true }}
    ready_within: 5s
    stable_for: 100ms
"
        );
        Policy::parse(&text).unwrap()
    }

    fn host(&self) -> Host {
        Host::open(&self.policy(), String::new(), &self.path("state")).unwrap()
    }

    /// What is bad, in a text.
    async fn bad(&self) -> String {
        let found = problems::findings(&self.policy(), &self.path("state")).await;
        let bad = found.iter().filter(|(_, finding)| finding.bad.is_some());
        bad.map(|(_, finding)| format!("{finding}\n")).collect()
    }
}

fn own_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid)).unwrap();
    line.split(':').next().unwrap().to_owned()
}

fn step(verb: Verb, hook: &str) -> Step {
    Step {
        verb,
        component: "crm".to_owned(),
        release: "v1".to_owned(),
        snapshot: String::new(),
        deadline_ms: 20_000,
        hook: hook.to_owned(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    }
}

async fn perform(host: &Host, step: &Step) -> StepResult {
    let before = host.look(step, None).await.unwrap();
    host.perform(step, &before).await
}

#[tokio::test]
async fn p11_what_scripts_and_hooks_print_is_shown_without_secrets() {
    let bed = Bed::new();
    let host = bed.host();
    let started = perform(&host, &step(Verb::Start, "")).await;
    assert!(started.ok, "{}", started.detail);
    for (hook, ok, words) in [("good", true, "→ exit 0\n  0 (hidden)"), ("bad", false, "→ exit 5")]
    {
        let result = perform(&host, &step(Verb::Hook, hook)).await;
        assert_eq!(result.ok, ok);
        assert!(result.detail.contains(words), "{}", result.detail);
        assert!(result.detail.contains("(hidden)") && !result.detail.contains("hunter2"));
    }
    let status = host.status().await;
    let service = &status.components[0].services[0];
    assert!(service.running && service.detail.contains("(hidden)"), "{service:?}");
    assert!(!format!("{status:?}").contains("hunter2"));

    // A service's own last words, in the failure of another.
    bed.script("stop.sh", "cat srv/app/.env; exit 9");
    let stopped = perform(&host, &step(Verb::Stop, "")).await;
    assert!(!stopped.ok && stopped.detail.contains("exit 9"), "{}", stopped.detail);
    assert!(!stopped.detail.contains("hunter2"), "{}", stopped.detail);

    // What cannot be read cannot be hidden, so nothing of it is shown.
    fs::remove_file(bed.path("token")).unwrap();
    fs::create_dir(bed.path("token")).unwrap();
    let result = perform(&host, &step(Verb::Hook, "bad")).await;
    assert!(!result.detail.contains("hunter2") && result.detail.contains("is not shown"));
}

#[tokio::test]
async fn p03_a_verification_says_what_nobody_watched() {
    let bed = Bed::new();
    let mut policy = bed.policy();
    let component = policy.components.get_mut("crm").unwrap();
    component.checks.truncate(1);
    let host = Host::open(&policy, String::new(), &bed.path("state")).unwrap();
    assert!(perform(&host, &step(Verb::Start, "")).await.ok);
    let verified = perform(&host, &step(Verb::Verify, "")).await;
    assert!(verified.ok, "{}", verified.detail);
    let notes = verified.evidence.unwrap().notes.join("\n");
    assert!(notes.contains("web: whether it was restarted was not watched"), "{notes}");
}

#[tokio::test]
async fn p09_a_hook_that_is_not_declared_is_refused_before_anything_begins() {
    let bed = Bed::new();
    let host = bed.host();
    assert_eq!(host.forbidden(&step(Verb::Hook, "good")), None);
    let why = host.forbidden(&step(Verb::Hook, "other")).unwrap();
    assert!(why.contains("hook `other`") && why.contains("not in this host's policy"), "{why}");
}

#[tokio::test]
async fn p02_after_a_crash_in_it_a_hook_runs_again_only_where_that_is_declared() {
    let bed = Bed::new();
    let host = bed.host();
    let (found, _) = host.observe(&step(Verb::Hook, "bad"), &Before::Nothing, false).await;
    assert_eq!(found, Found::NotDone);
    let (found, _) = host.observe(&step(Verb::Hook, "good"), &Before::Nothing, false).await;
    let Found::Unknown(why) = found else { panic!("{found:?}") };
    assert_eq!(why, "hook good was interrupted and may not be run twice");
}

#[tokio::test]
async fn p04_what_was_started_again_since_its_stop_is_stopped_before_files_are_replaced() {
    let bed = Bed::new();
    let host = bed.host();
    let exact = |result: StepResult| result.evidence.unwrap().snapshot.unwrap();
    let v1 = exact(perform(&host, &step(Verb::Snapshot, "")).await);
    fs::write(bed.path("srv/app/index.js"), "2\n").unwrap();
    let to_v1 = |verb| Step { snapshot: v1.clone(), ..step(verb, "") };
    assert!(perform(&host, &to_v1(Verb::Stage)).await.ok);
    let (up, index) = (bed.path("up"), bed.path("srv/app/index.js"));

    // What is enabled starts at a boot, before the switch has a hold and after its undo was begun.
    fs::write(&up, "").unwrap();
    let switch = to_v1(Verb::Switch);
    let before = host.look(&switch, None).await.unwrap();
    let switched = host.perform(&switch, &before).await;
    assert!(switched.ok && switched.detail.contains("web had been started again"), "{switched:?}");
    assert_eq!((up.exists(), fs::read_to_string(&index).unwrap().as_str()), (false, "1\n"));
    fs::write(&up, "").unwrap();
    let back = host.undo(&switch, &before).await;
    assert!(back.ok && back.detail.contains("web had been started again"), "{back:?}");
    assert_eq!((up.exists(), fs::read_to_string(&index).unwrap().as_str()), (false, "2\n"));

    // One that cannot be stopped keeps its files.
    fs::write(&up, "").unwrap();
    bed.script("stop.sh", "exit 9");
    let refused = host.perform(&switch, &before).await;
    assert!(!refused.ok && refused.detail.contains("exit 9"), "{refused:?}");
    assert_eq!(fs::read_to_string(&index).unwrap(), "2\n");
}

#[tokio::test]
async fn a_host_that_is_right_has_no_problems_and_stays_as_it_is() {
    let bed = Bed::new();
    let names = |path: &str| {
        let mut names: Vec<_> =
            fs::read_dir(bed.path(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (names(""), names("srv"), names("srv/app"), names("state"));
    assert_eq!(bed.bad().await, "");
    assert_eq!((names(""), names("srv"), names("srv/app"), names("state")), before);
    // Beside an agent that has everything open, too.
    let host = bed.host();
    assert_eq!(host.problems().await, []);
    assert_eq!(bed.bad().await, "");
}

#[tokio::test]
async fn every_problem_is_said_at_once_with_its_mend() {
    let bed = Bed::new();
    fs::rename(bed.path("srv/app"), bed.path("srv/app-1")).unwrap();
    symlink("app-1", bed.path("srv/app")).unwrap();
    fs::set_permissions(bed.path("token"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(bed.path("hook.sh")).unwrap();
    fs::set_permissions(bed.path("start.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    let bad = bed.bad().await;
    for words in [
        "/srv/app: is a symbolic link to app-1, and links are never followed; mend: name the real directory",
        "token: is open to others (mode 644); mend: `chmod 0600",
        "hook good: program",
        "start.sh is not executable; mend: `chmod a+x",
    ] {
        assert!(bad.contains(words), "{words}:\n{bad}");
    }
    assert!(bad.lines().all(|line| line.contains("; mend: ")), "{bad}");
}

#[tokio::test]
async fn a_tree_or_file_that_is_missing_is_said() {
    let bed = Bed::new();
    fs::remove_file(bed.path("srv/app/.env")).unwrap();
    assert!(bed.bad().await.contains("/.env: is not there; mend:"));
    fs::remove_dir_all(bed.path("srv/app")).unwrap();
    let bad = bed.bad().await;
    assert!(bad.contains("srv/app: is not there; mend: put the release there once"), "{bad}");
}

#[tokio::test]
async fn p09_a_tree_of_the_apps_user_is_none_that_root_runs_scripts_in() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bed = Bed::new();
    std::os::unix::fs::chown(bed.path("start.sh"), Some(1000), None).unwrap();
    let bad = bed.bad().await;
    assert!(bad.contains("service web: ") && bad.contains("belongs to user 1000"), "{bad}");
    assert!(bad.contains("mend: declare another `user`"), "{bad}");
}

/// Ends a mount when it goes out of scope.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: PathBuf) -> Self {
        let mounted =
            std::process::Command::new("mount").args(arguments).arg(&at).status().unwrap();
        assert!(mounted.success(), "this test has to mount");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
#[ignore = "real: needs root and mount"]
async fn real_mounts_and_lower_layers_are_said_with_their_mend() {
    let bed = Bed::new();
    {
        let _mount = Mounted::new(&["-t", "tmpfs", "none"], bed.path("srv/app/uploads"));
        let bad = bed.bad().await;
        assert!(bad.contains("srv/app/uploads is a mount point") && bad.contains("mend:"), "{bad}");
    }
    {
        let tree = bed.path("srv/app");
        let _mount = Mounted::new(&["--bind", tree.to_str().unwrap()], tree.clone());
        assert!(bed.bad().await.contains("srv/app is a mount point"));
    }
    assert_eq!(bed.bad().await, "");

    // An overlay cannot lie on another, so its layers get a filesystem of their own.
    fs::create_dir(bed.path("layers")).unwrap();
    let _layers = Mounted::new(&["-t", "tmpfs", "none"], bed.path("layers"));
    for name in ["layers/lower/app", "layers/upper", "layers/work", "merged"] {
        fs::create_dir_all(bed.path(name)).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off",
        bed.path("layers/lower").display(),
        bed.path("layers/upper").display(),
        bed.path("layers/work").display()
    );
    let _overlay = Mounted::new(&["-t", "overlay", "-o", &options, "overlay"], bed.path("merged"));
    fs::create_dir(bed.path("merged/own")).unwrap();
    let look = |name: &str| {
        let tree = proto::policy::TreePolicy {
            tree: bed.path(name),
            switch: proto::policy::SwitchMode::Exchange,
            keep: Vec::new(),
            privileged_files: false,
            from: None,
        };
        let files = vec![proto::policy::FilesPolicy::Tree(tree)];
        let found = crate::store::problems::look(&crate::store::ComponentFiles {
            component: "crm".to_owned(),
            files,
            managers: Vec::new(),
        });
        found.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
    };
    let lower = look("merged/app");
    assert!(lower.contains("comes from the lower layer") && lower.contains("cp -a"), "{lower}");
    let own = look("merged/own");
    assert!(!own.contains("bad"), "{own}");
    // The kernel agrees.
    let renamed = |name: &str| fs::rename(bed.path(name), bed.path("merged/moved"));
    assert_eq!(renamed("merged/app").unwrap_err().raw_os_error(), Some(18), "EXDEV");
    renamed("merged/own").unwrap();
}
