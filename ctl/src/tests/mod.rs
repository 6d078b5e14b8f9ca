//! Whole commands against a coordinator that keeps to a script, over real mutual TLS.

mod canary;
mod fake;
mod forward;

use std::time::Duration;

use clap::Parser as _;
use proto::{
    status::{StatusKind, status},
    tls::{Ca, Role},
    v1,
};
use serde_json::Value;
use tonic::{Code, Status};

use self::fake::{Fake, Script, issue};
use crate::{
    cli::{self, Cli},
    commands::{
        planned::Asked,
        rollback::{self, RollbackArgs},
    },
    context::Context,
    exit::Exit,
    follow::{self, Followed, Patience, Watcher},
    out::{Captured, Manner, Out},
    render::{plan, prune, watch},
    run::Ran,
    session::{Place, Session},
};

fn script(result: v1::OperationResult) -> Script {
    let events = watch::tests::events();
    let operation = v1::Operation {
        result: result.into(),
        ended_unix_ms: watch::tests::started_ms() + 96_400,
        events: events.len() as u64,
        ..watch::tests::operation()
    };
    let fleet = v1::GetFleetResponse {
        fleet: "prod".to_owned(),
        environment: "production".to_owned(),
        way_back: "v1.4.2".to_owned(),
        ..v1::GetFleetResponse::default()
    };
    Script { plan: plan::tests::example(), fleet, operation, events, ..Script::default() }
}

fn session(context: Context, manner: Manner, timeout: Option<Duration>) -> (Session, Captured) {
    let (out, captured) = Out::captured(manner);
    (Session::new(out, Place::Direct(context), None, timeout), captured)
}

/// A command line against a context; what it exited with, and what it printed.
async fn ctl(context: Context, line: &[&str]) -> (Exit, Captured) {
    let cli = Cli::try_parse_from(["ctl"].iter().chain(line)).unwrap();
    let manner = Manner { format: cli.global.output, quiet: cli.global.quiet, ..Manner::default() };
    let timeout = cli.global.timeout.map(|span| span.0).or(Some(Duration::from_secs(30)));
    let (mut session, captured) = session(context, manner, timeout);
    let exit = match cli::dispatch(&cli.command, &mut session).await {
        Ok(exit) => exit,
        Err(error) => cli::report(&mut session.out, "ctl --context test", &error),
    };
    (exit, captured)
}

fn document(captured: &Captured) -> Value {
    serde_json::from_str(&captured.stdout())
        .unwrap_or_else(|error| panic!("{error}: {}", captured.stdout()))
}

#[tokio::test]
async fn doctor_exits_with_what_it_found() {
    let finding = |severity: v1::Severity| v1::Finding {
        severity: severity.into(),
        what: "a finding".to_owned(),
        ..v1::Finding::default()
    };
    let table: [(bool, Option<v1::Severity>, &[&str], u8); 5] = [
        (true, None, &["doctor"], 0),
        (true, Some(v1::Severity::Warning), &["doctor"], 0),
        (true, Some(v1::Severity::Warning), &["doctor", "--strict"], 10),
        (true, Some(v1::Severity::Note), &["doctor", "--strict"], 0),
        (false, Some(v1::Severity::Blocking), &["doctor"], 10),
    ];
    for (ready, severity, line, code) in table {
        let doctor = v1::DoctorResponse {
            fleet: "prod".to_owned(),
            ready,
            findings: severity.map(finding).into_iter().collect(),
            ..v1::DoctorResponse::default()
        };
        let fake = Fake::start(Script { doctor, ..script(v1::OperationResult::Verified) });
        let (exit, _) = ctl(fake.context(), line).await;
        assert_eq!(exit.code(), code, "{ready} {severity:?} {line:?}");
    }
}

fn pruning(change: impl FnOnce(&mut v1::PruneSnapshotsResponse)) -> Fake {
    let mut pruned = prune::tests::answer();
    change(&mut pruned);
    Fake::start(Script { pruned, ..script(v1::OperationResult::Verified) })
}

#[tokio::test]
async fn a_prune_does_what_was_shown_and_agreed_to_and_nothing_else() {
    let answers = |answer: &mut v1::PruneSnapshotsResponse| answer.hosts.truncate(1);
    let fake = pruning(answers);
    let (exit, captured) = ctl(fake.context(), &["snapshot", "prune", "--confirm", "prod"]).await;
    assert_eq!(exit, Exit::Done, "{}", captured.stderr());
    assert!(captured.stderr().contains("goes: older than 30d"), "it is shown first");
    assert!(captured.stdout().contains("gone: beyond 2 releases"), "{}", captured.stdout());
    let asked = fake.script().prunes.clone();
    assert_eq!((asked.len(), asked[0].dry_run, asked[1].dry_run), (2, true, false));
    assert!(!asked[0].agreed_only && asked[1].agreed_only);
    assert_eq!(asked[1].agreed.len(), 2, "{:?}", asked[1].agreed);

    // Without a terminal and a word it does nothing but say how.
    let fake = pruning(answers);
    let (exit, captured) =
        ctl(fake.context(), &["snapshot", "prune", "--hosts", "crm-b1", "--component", "crm"])
            .await;
    assert_eq!(exit, Exit::Usage);
    let line = "ctl --context test snapshot prune --fleet prod --component crm --hosts crm-b1 --confirm prod";
    assert!(captured.stderr().replace("\n  ", " ").contains(line), "{}", captured.stderr());
    assert!(fake.script().prunes.iter().all(|asked| asked.dry_run));
    for line in [&["--confirm", "staging"][..], &["--yes"]] {
        let (exit, _) = ctl(fake.context(), &[&["snapshot", "prune"][..], line].concat()).await;
        assert_eq!(exit, Exit::Usage, "{line:?}");
        assert!(fake.script().prunes.iter().all(|asked| asked.dry_run));
    }
}

#[tokio::test]
async fn a_prune_exits_with_what_became_of_it() {
    let nothing = |answer: &mut v1::PruneSnapshotsResponse| {
        answer.hosts.truncate(1);
        answer.hosts[0].rows.truncate(3);
    };
    let one = |answer: &mut v1::PruneSnapshotsResponse| answer.hosts.truncate(1);
    let silent = |_: &mut v1::PruneSnapshotsResponse| {};
    type Change = fn(&mut v1::PruneSnapshotsResponse);
    let table: [(Change, &[&str], u8, usize); 7] = [
        (nothing, &[], 0, 1),
        (nothing, &["--dry-run", "--detailed-exitcode"], 0, 1),
        (one, &["--dry-run"], 0, 1),
        (one, &["--dry-run", "--detailed-exitcode"], 30, 1),
        (one, &["--confirm", "prod"], 0, 2),
        // A host that did not answer, and one that could not prune all: never 0.
        (silent, &["--confirm", "prod"], 21, 2),
        (silent, &["--dry-run"], 0, 1),
    ];
    for (change, line, code, asked) in table {
        let fake = pruning(change);
        let line = [&["snapshot", "prune", "-o", "json"][..], line].concat();
        let (exit, captured) = ctl(fake.context(), &line).await;
        assert_eq!(exit.code(), code, "{line:?}: {}", captured.stderr());
        assert_eq!(fake.script().prunes.len(), asked, "{line:?}");
        let document = document(&captured);
        assert_eq!(document["horizon"]["releases"], 5);
        assert_eq!(document["exit_code"], code);
        assert_eq!(document["hosts"][0]["snapshots"][0]["why"], "live");
    }
}

#[tokio::test]
async fn a_release_is_pinned_with_a_reason() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let (exit, captured) =
        ctl(fake.context(), &["release", "pin", "v1.4.2", "--reason", "the audit"]).await;
    assert_eq!(
        (exit, captured.stdout().as_str()),
        (Exit::Done, "v1.4.2 is pinned: no host prunes it.\n")
    );
    let (exit, captured) = ctl(fake.context(), &["release", "unpin", "v1.4.2"]).await;
    assert_eq!((exit, captured.stdout().as_str()), (Exit::Done, "v1.4.2 was not pinned.\n"));
    assert!(Cli::try_parse_from(["ctl", "release", "pin", "v1.4.2"]).is_err());
}

const GO: [&str; 3] = ["rollback", "--confirm", "prod"];

#[tokio::test]
async fn a_rollback_ends_with_the_exit_code_of_its_result() {
    let table = [
        (v1::OperationResult::Verified, 0, "prod serves v1.4.2"),
        (v1::OperationResult::Refused, 10, "refused before any change"),
        (v1::OperationResult::PutBack, 20, "everything was put back"),
        (v1::OperationResult::Mixed, 21, "is mixed and needs a person"),
        (v1::OperationResult::Unverified, 22, "not verified everywhere"),
    ];
    for (result, code, words) in table {
        let fake = Fake::start(script(result));
        let (exit, captured) = ctl(fake.context(), &GO).await;
        assert_eq!(exit.code(), code, "{result:?}: {}", captured.stderr());
        assert!(captured.stdout().contains(words), "{}", captured.stdout());
        assert!(captured.stderr().contains("Why this target"), "the plan is shown first");
        assert!(captured.stderr().contains("crm-c1: restore done"), "{}", captured.stderr());
    }
}

#[tokio::test]
async fn json_is_one_document_and_jsonl_a_stream_that_ends_with_the_result() {
    let fake = Fake::start(script(v1::OperationResult::Mixed));
    let (exit, captured) = ctl(fake.context(), &[&GO[..], &["-o", "json"]].concat()).await;
    let result = document(&captured);
    assert_eq!((exit.code(), result["exit_code"].as_u64()), (21, Some(21)));
    assert_eq!(
        (&result["operation"], &result["result"]["result"]),
        (&"rb-0193".into(), &"mixed".into())
    );

    let (_, captured) = ctl(fake.context(), &[&GO[..], &["-o", "jsonl"]].concat()).await;
    let lines: Vec<Value> =
        captured.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["type"], &lines[0]["schema"]), (&"version".into(), &"1.0".into()));
    assert_eq!(lines.len(), watch::tests::events().len() + 2);
    assert_eq!(lines.last().unwrap()["type"], "result");
}

#[test]
fn watching_goes_on_where_it_was_when_the_coordinator_is_killed_and_comes_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut script = script(v1::OperationResult::Verified);
    let all = script.events.len() as u64;
    script.hold_at = Some(5);
    let mut fake = Fake::start(script);
    let context = fake.context();
    let (sender, receiver) = std::sync::mpsc::channel();
    let watching = std::thread::spawn(move || {
        let (mut session, captured) =
            session(context, Manner::default(), Some(Duration::from_secs(60)));
        let asked = Asked { confirm: Some("prod".to_owned()), ..Asked::default() };
        let args = RollbackArgs { asked, ..RollbackArgs::default() };
        let mut observe = |event: &v1::WatchOperationResponse| sender.send(event.index).unwrap();
        let ran = runtime.block_on(rollback::execute(&args, &mut session, &mut observe));
        (ran, captured)
    });
    let next = || receiver.recv_timeout(Duration::from_secs(30)).unwrap();
    let mut seen: Vec<u64> = (0..5).map(|_| next()).collect();
    fake.kill();
    fake.script().hold_at = None;
    fake.restart();
    seen.extend((5..all).map(|_| next()));
    let (ran, captured) = watching.join().unwrap();
    assert_eq!(seen, (0..all).collect::<Vec<_>>(), "each event once, in order");
    assert_eq!(ran.unwrap().exit(), Exit::Done);
    let talk = captured.stderr();
    assert_eq!(talk.matches("trying again").count(), 1, "{talk}");
    assert_eq!(talk.matches("connected again").count(), 1, "{talk}");
    assert!(!talk.contains("https://"), "{talk}");
    assert_eq!(fake.script().starts.len(), 1);
}

#[tokio::test]
async fn a_start_whose_answer_is_lost_is_sent_again_under_the_same_key() {
    let mut script = script(v1::OperationResult::Verified);
    script.start_refusals = vec![Status::unavailable("restarting"), Status::unknown("broken pipe")];
    let fake = Fake::start(script);
    let (exit, _) = ctl(fake.context(), &GO).await;
    assert_eq!(exit, Exit::Done);
    let starts = fake.script().starts.clone();
    assert_eq!(starts.len(), 3);
    assert!(!starts[0].is_empty() && starts.iter().all(|key| *key == starts[0]));
}

#[tokio::test]
async fn without_a_terminal_nothing_starts_and_the_line_to_run_is_printed() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let line = ["rollback", "--reason", "5xx after v1.4.3", "-o", "json"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Usage);
    let command = "ctl --context test rollback --fleet prod --plan 8f21c0de --confirm prod --reason '5xx after v1.4.3'";
    assert_eq!(document(&captured)["next"][0], command);
    assert!(captured.stderr().contains(command));
    assert_eq!(fake.script().starts.len(), 0);

    let (exit, _) =
        ctl(fake.context(), &["rollback", "--plan", "8f21c0de", "--confirm", "prod"]).await;
    assert_eq!(exit, Exit::Done);
    let script = fake.script();
    assert_eq!(
        (script.planned.len(), script.starts.len()),
        (1, 1),
        "exactly that plan, no new one"
    );
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_starts_nothing() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let (exit, captured) =
        ctl(fake.context(), &["rollback", "--dry-run", "--hosts", "crm-b1,crm-b2"]).await;
    assert_eq!(exit, Exit::Done);
    assert!(
        captured.stdout().contains("Run exactly this plan:  ctl --context test rollback"),
        "{}",
        captured.stdout()
    );
    let (exit, _) = ctl(fake.context(), &["rollback", "--dry-run", "--detailed-exitcode"]).await;
    assert_eq!(exit, Exit::Changes);
    fake.script().plan.nothing_to_do = true;
    for line in [
        &["rollback", "--dry-run", "--detailed-exitcode", "-o", "json"][..],
        &["rollback", "-o", "json"],
    ] {
        let (exit, captured) = ctl(fake.context(), line).await;
        assert_eq!(
            (exit, &document(&captured)["fleet"].is_null()),
            (Exit::Done, &!line.contains(&"--dry-run"))
        );
    }
    let script = fake.script();
    assert_eq!(script.starts.len(), 0);
    let Some(v1::create_plan_request::Request::Rollback(asked)) = &script.planned[0].request else {
        panic!("{:?}", script.planned)
    };
    assert_eq!(asked.hosts, ["crm-b1", "crm-b2"]);
}

#[tokio::test]
async fn the_coordinators_refusals_come_through_with_their_words_and_codes() {
    let refusals = [
        (StatusKind::Refused, "no earlier good release to go back to", 10),
        (StatusKind::Busy, "rb-0192 of ana holds prod", 11),
        (StatusKind::StalePlan, "prod is no longer as it was", 12),
        (StatusKind::NotFound, "fleet `prdo` is not known; did you mean `prod`?", 2),
        (StatusKind::NotAllowed, "ci may not roll prod back", 4),
    ];
    for (kind, what, code) in refusals {
        let fake = Fake::start(script(v1::OperationResult::Verified));
        let details = ["v1.4.1: marked bad".to_owned()];
        let refusal = status(kind, Code::FailedPrecondition, what, &details, "ctl releases");
        fake.script().plan_refusal = Some(refusal);
        let (exit, captured) = ctl(fake.context(), &["rollback", "-o", "json"]).await;
        let document = document(&captured);
        assert_eq!(exit.code(), code);
        assert_eq!(
            (&document["error"], &document["cause"][0]),
            (&what.into(), &details[0].as_str().into())
        );
        assert!(
            captured.stderr().contains("Next    ctl --context test releases"),
            "{}",
            captured.stderr()
        );
    }
}

#[tokio::test]
async fn watching_ends_with_the_timeout_and_says_that_the_operation_goes_on() {
    let mut script = script(v1::OperationResult::Running);
    script.hold_at = Some(3);
    let fake = Fake::start(script);
    let (exit, captured) =
        ctl(fake.context(), &["watch", "rb-0193", "--timeout", "200ms", "-o", "json"]).await;
    assert_eq!(exit, Exit::TimedOut);
    assert_eq!(document(&captured)["ended"], false);
    assert!(captured.stderr().contains("rb-0193 goes on"), "{}", captured.stderr());
}

#[tokio::test]
async fn an_interrupt_detaches() {
    struct Notes(tokio::sync::mpsc::Sender<()>);
    impl Watcher for Notes {
        fn opened(&mut self, _: &v1::Operation) {}
        fn event(&mut self, event: &v1::WatchOperationResponse) {
            if event.index == 2 {
                self.0.try_send(()).unwrap();
            }
        }
        fn lost(&mut self, why: &str) {
            panic!("{why}");
        }
        fn back(&mut self) {}
        fn tick(&mut self) {}
    }
    let mut script = script(v1::OperationResult::Running);
    script.hold_at = Some(3);
    let fake = Fake::start(script);
    let (mut session, _) = session(fake.context(), Manner::default(), None);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let interrupt = async move { receiver.recv().await.unwrap() };
    let client = session.client().await.unwrap();
    let followed = follow::follow(
        client,
        "rb-0193",
        Patience::For(Duration::from_secs(30)),
        interrupt,
        &mut Notes(sender),
    )
    .await;
    assert_eq!(followed.unwrap(), Followed::Detached);
    let ran = Ran::Detached { operation: "rb-0193".to_owned() };
    assert_eq!(crate::run::show(&mut session, &ran).await.unwrap().code(), 130);
}

#[tokio::test]
async fn detach_begins_and_returns() {
    let mut script = script(v1::OperationResult::Running);
    script.hold_at = Some(0);
    let fake = Fake::start(script);
    let (exit, captured) = ctl(fake.context(), &[&GO[..], &["--detach"]].concat()).await;
    assert_eq!(exit, Exit::Done);
    assert!(
        captured.stdout().contains("ctl --context test watch rb-0193"),
        "{}",
        captured.stdout()
    );
}

#[tokio::test]
async fn an_abort_succeeds_when_everything_is_back_as_it_was() {
    let fake = Fake::start(script(v1::OperationResult::PutBack));
    let (exit, captured) = ctl(fake.context(), &["abort", "rb-0193", "--restore"]).await;
    assert_eq!(exit, Exit::Done);
    assert!(!captured.stderr().contains("stage 1/2"), "what was there before is not said again");
    let (exit, _) = ctl(fake.context(), &["abort", "rb-0193", "--leave"]).await;
    assert_eq!(exit, Exit::PutBack);
    assert_eq!(fake.script().aborts, [v1::AbortMode::Restore as i32, v1::AbortMode::Leave as i32]);
}

#[tokio::test]
async fn every_command_that_asks_the_coordinator_has_a_document() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    for line in [
        "status",
        "releases",
        "history --since 30d",
        "logs rb-0193 --host crm-b1",
        "pause rb-0193",
        "resume rb-0193",
        "retry rb-0193",
        "watch rb-0193",
        "freeze on --reason x",
        "freeze off --reason x",
        "snapshot create --as v1",
        "snapshot list",
        "snapshot verify v1",
        "release mark v1 bad --reason x",
        "proposals",
        "agent list",
        "agent token create --host crm-g1 --ttl 15m",
        "agent revoke --host crm-g1 --reason x",
        "rollback --undo rb-0193 --confirm prod",
        "version",
    ] {
        for format in ["json", "jsonl", "text"] {
            let mut words: Vec<&str> = line.split(' ').collect();
            words.extend(["-o", format]);
            let (exit, captured) = ctl(fake.context(), &words).await;
            assert_eq!(exit, Exit::Done, "{line}: {}", captured.stderr());
            match format {
                "json" => assert_eq!(document(&captured)["schema"], "1.0", "{line}"),
                "jsonl" => {
                    for text in captured.stdout().lines() {
                        let value: Value = serde_json::from_str(text).unwrap();
                        assert!(value["type"].is_string(), "{line}: {text}");
                    }
                }
                _ => assert!(!captured.stdout().is_empty(), "{line}"),
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_printed_beside_its_line_and_never_in_it() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let line = ["agent", "token", "create", "--host", "crm-g1"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done);
    let printed = captured.stdout();
    let [command, token] = printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed}") };
    assert_eq!(token, "lgj_5f");
    let coordinator = fake.context().coordinator;
    let (ca, policy) = ("ab".repeat(32), "cd".repeat(32));
    assert_eq!(
        command,
        format!(
            "agent join --coordinator {coordinator} --host crm-g1 --ca-hash sha256:{ca} --policy-hash {policy}"
        )
    );
    assert!(captured.stderr().contains("for 15m"), "{}", captured.stderr());
    let (_, captured) = ctl(fake.context(), &[&line[..], &["-o", "json"]].concat()).await;
    let document = document(&captured);
    assert_eq!((&document["command"], &document["token"]), (&command.into(), &token.into()));
    assert_eq!(document["expires"], "1970-01-01T00:15:00Z");
}

#[tokio::test]
async fn an_operation_that_is_not_known_is_usage_and_never_waited_for() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let (exit, _) = ctl(fake.context(), &["watch", "rb-9999"]).await;
    assert_eq!(exit, Exit::Usage);
}

#[tokio::test]
async fn no_coordinator_is_5_and_a_certificate_of_another_ca_is_not_accepted() {
    let mut fake = Fake::start(script(v1::OperationResult::Verified));
    let strangers = tempfile::tempdir().unwrap();
    issue(&Ca::create("test").unwrap(), Role::Operator, "eve", strangers.path());
    let stranger = Context { identity: strangers.path().to_owned(), ..fake.context() };
    let (exit, captured) = ctl(stranger, &["status"]).await;
    assert_eq!(exit, Exit::Unreachable, "she does not trust it either: {}", captured.stderr());
    let nobody = Context { identity: "/nonexistent".into(), ..fake.context() };
    assert_eq!(ctl(nobody, &["status"]).await.0, Exit::NotAllowed);
    fake.kill();
    let (exit, captured) = ctl(fake.context(), &["status"]).await;
    assert_eq!(exit, Exit::Unreachable);
    assert!(captured.stderr().contains("cannot reach the coordinator"), "{}", captured.stderr());
}

const FLEET: &str = "version: 1
fleet: demo
environment: staging
app: hello
hosts: { web: [web-1, web-2] }
components:
  hello:
    hosts: [web]
    files: [{ tree: /srv/hello }]
    services: [{ systemd: hello.service }]
    checks: [{ name: up, tcp: \"127.0.0.1:80\" }]
";

#[tokio::test]
async fn apply_sends_names_and_hashes_of_exactly_the_files_that_render_prints() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET).unwrap();
    let file = file.to_str().unwrap();
    let (exit, captured) = ctl(fake.context(), &["apply", "-f", file]).await;
    assert_eq!(exit, Exit::Done, "{}", captured.stderr());
    assert!(captured.stdout().contains("host web-2 is new"), "{}", captured.stdout());
    assert!(
        captured.stderr().contains("ctl --context test policy render"),
        "{}",
        captured.stderr()
    );
    let (_, rendered) =
        ctl(fake.context(), &["policy", "render", "-f", file, "--host", "web-1"]).await;
    let hash = proto::policy::hash(rendered.stdout().as_bytes());
    assert!(rendered.stderr().contains(&hash));
    let sent = fake.script().applied[0].clone();
    assert_eq!(sent.policy_hashes["web-1"], hash);
    assert!(!format!("{sent:?}").contains("/srv"));
}

#[tokio::test]
async fn a_fleet_file_that_does_not_hold_is_not_sent() {
    let fake = Fake::start(script(v1::OperationResult::Verified));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET.replace("hosts: [web]", "hosts: [web, wab]")).unwrap();
    let line = ["apply", "-o", "json", "-f", file.to_str().unwrap()];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::InvalidFleet);
    let problem = &document(&captured)["problems"][0];
    assert_eq!(problem["line"], 8, "{problem}");
    assert!(fake.script().applied.is_empty());
}
