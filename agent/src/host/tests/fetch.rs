//! A release that is deployed: its artefact is fetched while the old one is live, then staged and put there like any other.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use proto::artefact::digest_of_directory;

use super::*;
use crate::order::Artefact;

/// A host whose component is one tree with an env file, and a directory with its builds.
struct Deploys {
    world: World,
}

impl Deploys {
    /// `files` stand in the component; `APP` and `ROOT` are their directories.
    fn new(files: &str) -> Self {
        let mut world = World::new("", "");
        fs::create_dir(world.root.join("builds")).unwrap();
        let (root, app) = (world.root.display().to_string(), world.root.join("app"));
        let files = files.replace("APP", &app.display().to_string()).replace("ROOT", &root);
        world.policy = Policy::parse(&format!(
            "version: 1\nfleet: prod\nhost: crm-b1\nsources:\n  builds: {{ directory: {root}/builds }}\n\
             components:\n  crm:\n    files: [{files}]\n    ready_within: 2s\n    stable_for: 100ms\n"
        ))
        .unwrap();
        Self { world }
    }

    fn usual() -> Self {
        let deploys = Self::new(
            "{ tree: APP, keep: [uploads] }, { file: APP/.env.production, secret: true }, \
             { file: APP/conf.json }, { file: ROOT/app.conf }",
        );
        deploys.world.deploy("1", ENV);
        let root = &deploys.world.root;
        fs::create_dir(root.join("app/uploads")).unwrap();
        fs::write(root.join("app/uploads/photo"), "mine").unwrap();
        fs::write(root.join("app/conf.json"), "conf 1").unwrap();
        fs::write(root.join("app.conf"), "host 1").unwrap();
        deploys
    }

    /// A build of this version; answers its digest.
    fn build(&self, version: &str) -> String {
        let dir = self.world.root.join("builds").join(version);
        fs::create_dir_all(dir.join("lib")).unwrap();
        fs::write(dir.join("version"), version).unwrap();
        fs::write(dir.join("lib/code.js"), format!("code {version}")).unwrap();
        symlink("lib/code.js", dir.join("main.js")).unwrap();
        digest_of_directory(&dir).unwrap().to_string()
    }

    fn live(&self, path: &str) -> String {
        fs::read_to_string(self.world.root.join(path)).unwrap_or_default()
    }

    fn nothing_left(&self) {
        let left = fs::read_dir(self.world.root.join("state/artefacts")).unwrap().count();
        assert_eq!(left, 0, "the unpacked copy is gone");
    }
}

fn step(release: &str, name: &str, digest: &str) -> Step {
    Step {
        verb: Verb::Fetch,
        component: "crm".into(),
        release: release.into(),
        snapshot: String::new(),
        deadline_ms: 60_000,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: Some(Artefact {
            source: "builds".into(),
            name: name.into(),
            digest: digest.into(),
        }),
        at_once: false,
        forward: false,
    }
}

/// Fetches; answers the words and the evidence, or why not.
async fn fetch(
    host: &Host,
    release: &str,
    name: &str,
    digest: &str,
) -> Result<(String, Evidence), String> {
    let step = step(release, name, digest);
    assert_eq!(host.forbidden(&step), None);
    let before = host.look(&step, None).await.unwrap();
    assert_eq!(before, Before::Nothing);
    let done = host.perform(&step, &before).await;
    if done.ok { Ok((done.detail, done.evidence.unwrap())) } else { Err(done.detail) }
}

#[tokio::test]
async fn a_fetched_release_is_put_live_like_any_other_and_can_be_left_again() {
    let deploys = Deploys::usual();
    let root = &deploys.world.root;
    if rustix::process::geteuid().is_root() {
        chown(root.join("app"), Some(1234), Some(4321)).unwrap();
        chown(root.join("app/.env.production"), Some(1234), Some(4321)).unwrap();
    }
    fs::set_permissions(root.join("app"), fs::Permissions::from_mode(0o750)).unwrap();
    let host = deploys.world.host();
    let (first, _) = snapshot(&host, "v1").await;
    let digest = deploys.build("v2");
    let (words, evidence) = fetch(&host, "v2", "v2", &digest).await.unwrap();
    let exact = evidence.snapshot.clone().unwrap();
    let expected =
        format!("crm v2 from builds, tree matches: 2 files, 9 bytes; snapshot {}", &exact[..8]);
    assert_eq!(words, expected);
    assert!(
        evidence.notes[0].starts_with("content ") && evidence.notes[0].len() == 72,
        "{evidence:?}"
    );
    assert_eq!(deploys.live("app/version"), "1", "nothing live was touched");
    deploys.nothing_left();
    let status = host.status().await;
    assert!(status.components[0].verbs.contains(&Verb::Fetch));
    let listed = status.snapshots.iter().find(|row| row.release == "v2").unwrap();
    assert_eq!(evidence.notes[0], format!("content {}", listed.content));
    assert_eq!(status.components[0].release, "v1");

    done(&host, Verb::Preflight, &exact).await;
    done(&host, Verb::Stage, &exact).await;
    done(&host, Verb::Switch, &exact).await;
    done(&host, Verb::Verify, &exact).await;
    let read = |paths: [&str; 5]| paths.map(|path| deploys.live(path));
    let paths =
        ["app/version", "app/main.js", "app/.env.production", "app/conf.json", "app/uploads/photo"];
    assert_eq!(read(paths), ["v2", "code v2", ENV, "conf 1", "mine"]);
    assert_eq!(deploys.live("app.conf"), "host 1");
    let found = fs::metadata(root.join("app")).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o750, "as the live tree");
    if rustix::process::geteuid().is_root() {
        let owner = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().uid();
        assert_eq!(
            ["app", "app/version", "app/main.js", "app/.env.production"].map(owner),
            [1234; 4]
        );
    }
    done(&host, Verb::Stage, &first).await;
    done(&host, Verb::Switch, &first).await;
    assert_eq!(read(paths), ["1", "", ENV, "conf 1", "mine"]);
}

#[tokio::test]
async fn p02_the_same_again_is_the_same_and_fetches_nothing() {
    let deploys = Deploys::usual();
    let host = deploys.world.host();
    let digest = deploys.build("v2");
    let (_, first) = fetch(&host, "v2", "v2", &digest).await.unwrap();
    let builds = deploys.world.root.join("builds");
    fs::rename(builds.join("v2"), builds.join("elsewhere")).unwrap();
    let (words, again) = fetch(&host, "v2", "v2", &digest).await.unwrap();
    assert!(
        words.contains("v2 is here already") && words.ends_with("nothing was fetched"),
        "{words}"
    );
    assert_eq!((again.snapshot, &again.notes[0]), (first.snapshot.clone(), &first.notes[0]));
    // After a crash before it was recorded what it is made of, it is fetched again: the same snapshot.
    drop(host);
    fs::remove_file(deploys.world.root.join("state/facts.json")).unwrap();
    fs::rename(builds.join("elsewhere"), builds.join("v2")).unwrap();
    let host = deploys.world.host();
    let (found, _) = host.observe(&step("v2", "v2", &digest), &Before::Nothing, false).await;
    assert_eq!(found, Found::NotDone);
    let (words, again) = fetch(&host, "v2", "v2", &digest).await.unwrap();
    assert!(words.contains("tree matches"), "{words}");
    assert_eq!(again.snapshot, first.snapshot);
}

#[tokio::test]
async fn a_release_that_is_known_never_becomes_something_else() {
    let deploys = Deploys::usual();
    let host = deploys.world.host();
    snapshot(&host, "v1").await;
    let (second, third) = (deploys.build("v2"), deploys.build("v3"));
    let why = fetch(&host, "v1", "v2", &second).await.unwrap_err();
    assert!(why.starts_with("v1 is already known here with other content"), "{why}");
    fetch(&host, "v2", "v2", &second).await.unwrap();
    let why = fetch(&host, "v2", "v3", &third).await.unwrap_err();
    assert!(why.contains(&format!("made of {second}, not of {third}")), "{why}");
    // What was taken as it was live is part of it.
    fs::write(deploys.world.root.join("app/.env.production"), "JWT_SECRET=hunter3\n").unwrap();
    let why = fetch(&host, "v2", "v2", &second).await.unwrap_err();
    assert!(why.contains(".env.production as it was live then, which has changed since"), "{why}");
    assert!(!why.contains("hunter"), "{why}");
    deploys.nothing_left();
}

#[tokio::test]
async fn single_files_come_from_the_artefact_only_where_they_are_no_secret_and_what_is_kept_stays()
{
    let deploys = Deploys::usual();
    let host = deploys.world.host();
    deploys.build("v2");
    let dir = deploys.world.root.join("builds/v2");
    for (name, text) in [
        (".env.production", "JWT_SECRET=of-the-build\n"),
        ("conf.json", "conf 2"),
        ("app.conf", "no file of the host"),
        ("uploads", "of the build"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let digest = digest_of_directory(&dir).unwrap().to_string();
    let (_, evidence) = fetch(&host, "v2", "v2", &digest).await.unwrap();
    let notes = evidence.notes.join("; ");
    assert!(notes.contains("uploads is kept: what the artefact has there is left out"), "{notes}");
    assert!(notes.contains(".env.production as it is live"), "{notes}");
    snapshot(&host, "v1").await;
    let exact = evidence.snapshot.unwrap();
    done(&host, Verb::Stage, &exact).await;
    done(&host, Verb::Switch, &exact).await;
    let read = |path: &str| deploys.live(path);
    assert_eq!(
        ["app/.env.production", "app/conf.json", "app.conf", "app/uploads/photo", "app/app.conf"]
            .map(read),
        [ENV, "conf 2", "host 1", "mine", "no file of the host"]
    );
}

#[tokio::test]
async fn p09_what_the_policy_does_not_have_is_refused_before_anything_begins() {
    let several = "{ tree: APP, from: dist/app }, { tree: ROOT/portal }";
    let deploys = Deploys::new(several);
    let host = deploys.world.host();
    let digest = deploys.build("v2");
    let why = host.forbidden(&step("v2", "v2", &digest)).unwrap();
    assert!(
        why.contains("several trees") && why.ends_with("portal is; add `from: …` to it"),
        "{why}"
    );
    assert!(!host.status().await.components[0].verbs.contains(&Verb::Fetch));
    let deploys = Deploys::new("{ file: ROOT/app.conf }");
    let why = deploys.world.host().forbidden(&step("v2", "v2", &digest)).unwrap();
    assert!(why.contains("has no tree"), "{why}");

    let deploys = Deploys::usual();
    let host = deploys.world.host();
    let forbidden = |change: &dyn Fn(&mut Step)| {
        let mut step = step("v2", "v2", &digest);
        change(&mut step);
        host.forbidden(&step).unwrap()
    };
    let other = |step: &mut Step| step.artefact.as_mut().unwrap().source = "elsewhere".into();
    assert!(forbidden(&other).ends_with("no source `elsewhere`; it has: builds"));
    let out = |step: &mut Step| step.artefact.as_mut().unwrap().name = "../app".into();
    assert!(forbidden(&out).contains("cannot be the name of an artefact"));
    assert!(forbidden(&|step| step.artefact = None).contains("does not say what to fetch"));
    assert!(forbidden(&|step| step.release.clear()).contains("has a name"));
    let world = World::new("", "");
    world.deploy("1", ENV);
    let why = world.host().forbidden(&step("v2", "v2", &digest)).unwrap();
    assert_eq!(why, "this host's policy has no source of artefacts");
}

#[tokio::test]
async fn several_trees_come_from_one_artefact() {
    let deploys =
        Deploys::new("{ tree: APP, from: dist/app }, { tree: ROOT/portal, from: portal }");
    deploys.world.deploy("1", ENV);
    fs::create_dir(deploys.world.root.join("portal")).unwrap();
    let host = deploys.world.host();
    snapshot(&host, "v1").await;
    let dir = deploys.world.root.join("builds/v2");
    for (name, text) in
        [("dist/app/version", "2"), ("portal/index.html", "portal 2"), ("README", "of no tree")]
    {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), text).unwrap();
    }
    let digest = digest_of_directory(&dir).unwrap().to_string();
    let (_, evidence) = fetch(&host, "v2", "v2", &digest).await.unwrap();
    let exact = evidence.snapshot.unwrap();
    done(&host, Verb::Stage, &exact).await;
    done(&host, Verb::Switch, &exact).await;
    let read = |path: &str| deploys.live(path);
    assert_eq!(["app/version", "portal/index.html", "app/README"].map(read), ["2", "portal 2", ""]);
    // A tree that the artefact lacks is refused, and named.
    fs::rename(dir.join("portal"), dir.join("other")).unwrap();
    let digest = digest_of_directory(&dir).unwrap().to_string();
    let why = fetch(&host, "v3", "v2", &digest).await.unwrap_err();
    assert!(why.contains("portal is no directory of the artefact"), "{why}");
    assert!(why.ends_with("nothing live was touched, and nothing of it is left here"), "{why}");
    deploys.nothing_left();
}
