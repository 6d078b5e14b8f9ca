//! One operation is one trace: what real processes export, through kills, is held to be one tree.

use std::{
    collections::BTreeSet,
    process::{Command, Output},
};

use serde_json::Value;
use tests::collector::{Collector, Protocol, Received, one_tree};

use crate::{alone, sandbox, sandbox_command};

const CALLER_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN: &str = "00f067aa0ba902b7";
const APP_HOSTS: [&str; 5] = ["crm-b1", "crm-b2", "crm-g1", "crm-g2", "crm-c1"];

fn caller() -> String {
    format!("00-{CALLER_TRACE}-{CALLER_SPAN}-01")
}

/// What came in of a whole scenario.
fn spans(scenario: &str, protocol: Protocol, caller: Option<String>) -> Vec<Received> {
    let _alone = alone();
    let collector = Collector::start(protocol);
    let temporary = tempfile::tempdir().unwrap();
    let mut command = sandbox_command(&["--scenario", scenario, "-o", "json"], temporary.path());
    command.envs(collector.environment());
    command.envs(caller.map(|caller| ("TRACEPARENT", caller)));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    collector.spans()
}

fn below<'a>(spans: &'a [Received], above: &Received) -> Vec<&'a Received> {
    spans.iter().filter(|span| span.parent == above.span).collect()
}

fn names<'a>(spans: &[&'a Received]) -> BTreeSet<&'a str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

/// The one rollback's span, with the whole tree below it on every host.
fn assert_rollback(spans: &[Received]) -> &Received {
    let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, ["lastgood-agent", "lastgood-coordinator", "lastgood-ctl"].into());
    let run: Vec<_> = spans.iter().filter(|span| span.name == "RUN rollback").collect();
    let [run] = run[..] else { panic!("one rollback: {run:?}") };
    assert_eq!(run.ok, Some(true));
    assert_eq!(run.attributes["cicd.pipeline.run.id"], "rb-0003");
    assert_eq!(run.attributes["cicd.pipeline.result"], "success");
    assert_eq!(run.attributes["rollback.release.to"], "v1.0.0");
    let caller = spans.iter().find(|span| span.span == run.parent).unwrap();
    assert_eq!(caller.name, "ctl sandbox");
    let tracks = below(spans, run);
    let steps = tracks.iter().flat_map(|track| below(spans, track));
    let traffic_moved = steps.into_iter().any(|step| step.name == "set weights");
    for host in APP_HOSTS {
        let here: Vec<_> =
            tracks.iter().filter(|track| track.attributes["host.name"] == host).collect();
        let steps: Vec<_> = here.iter().flat_map(|track| below(spans, track)).collect();
        // An agent that was killed has taken the steps of the open track with it; the next one observes and goes on.
        let killed = steps.iter().any(|step| step.name == "observe switch");
        // Traffic was moved to what was good already: those hosts are only looked at.
        let only_looks = traffic_moved && !host.starts_with("crm-b");
        let wanted: &[&str] = match (only_looks, killed) {
            (true, _) => &["verify"],
            (false, true) => &["start", "verify"],
            (false, false) => &["stop", "switch", "start", "verify"],
        };
        for verb in wanted {
            let done = steps.iter().any(|step| step.name == **verb && step.ok == Some(true));
            assert!(done, "{host}: {verb} in {:?}", names(&steps));
        }
        if only_looks {
            continue;
        }
        let calls: Vec<_> = steps.iter().flat_map(|step| below(spans, step)).collect();
        assert!(names(&calls).contains("process start"), "{host}: {:?}", names(&calls));
    }
    for track in tracks {
        assert_eq!((track.name.as_str(), track.ok), ("track", Some(true)), "{track:?}");
    }
    run
}

/// Names only: no path, no address with a password, no value of an environment, no host's words.
fn assert_nothing_private(spans: &[Received]) {
    for span in spans {
        let said = span.attributes.values().chain([&span.name, &span.message]);
        for text in said {
            for private in ["/tmp", "lastgood-sandbox", "stripe-", "jwt-", "://", "example.invalid"]
            {
                assert!(!text.contains(private), "{span:?}");
            }
        }
    }
}

#[test]
fn p11_a_rollback_is_one_tree_of_names() {
    let spans = spans("rollback", Protocol::Grpc, None);
    let root = one_tree(&spans, "");
    assert_eq!((root.name.as_str(), root.ok), ("ctl sandbox", Some(true)));
    assert!(names(&below(&spans, root)).contains("lastgood.v1.OperatorService/StartOperation"));
    assert_eq!(root.attributes["process.exit.code"], "0");
    assert_eq!(root.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(!root.resource["host.name"].is_empty());
    let run = assert_rollback(&spans);
    for stop in spans.iter().filter(|span| span.name == "stop") {
        let calls = below(&spans, stop);
        assert_eq!(names(&calls), ["process stop"].into());
        let services: BTreeSet<&str> =
            calls.iter().map(|call| call.attributes["rollback.service"].as_str()).collect();
        assert_eq!(services, ["backend", "client-portal", "frontend"].into());
        assert!(calls.iter().all(|call| call.ok == Some(true)), "{calls:?}");
        assert!(run.began_unix_ns <= stop.began_unix_ns && stop.ended_unix_ns <= run.ended_unix_ns);
    }
    assert_nothing_private(&spans);
}

#[test]
fn an_agent_that_is_killed_in_its_switch_goes_on_in_its_caller_s_trace() {
    let spans = spans("agent-crash", Protocol::Http, Some(caller()));
    let root = one_tree(&spans, CALLER_SPAN);
    assert_eq!((root.trace.as_str(), root.name.as_str()), (CALLER_TRACE, "ctl sandbox"));
    assert_rollback(&spans);
    let looked = spans.iter().find(|span| span.name == "observe switch").unwrap();
    let track = spans.iter().find(|span| span.span == looked.parent).unwrap();
    assert_eq!(track.attributes["host.name"], looked.attributes["host.name"]);
    assert!(track.began_unix_ns < looked.began_unix_ns, "it began in the process that was killed");
}

#[test]
fn a_coordinator_that_is_killed_goes_on_in_the_same_trace() {
    let spans = spans("coordinator-crash", Protocol::Grpc, None);
    one_tree(&spans, "");
    let run = assert_rollback(&spans);
    let last = below(&spans, run).into_iter().map(|track| track.ended_unix_ns).max().unwrap();
    // Its end is on record to the millisecond.
    assert!(run.ended_unix_ns + 1_000_000 > last, "it lasts as long as its last track");
}

#[test]
fn the_id_of_the_trace_is_told_everywhere() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let kept = sandbox(&["--keep", "-o", "json"], temporary.path());
    assert_eq!(kept.status.code(), Some(0), "{}", String::from_utf8_lossy(&kept.stderr));
    let ctl = |arguments: &[&str]| -> Output {
        Command::new(env!("CARGO_BIN_EXE_ctl-under-test"))
            .args(["--context", "sandbox", "-o", "json"])
            .args(arguments)
            .env("LASTGOOD_CONFIG", temporary.path().join("config.yaml"))
            .env("TRACEPARENT", caller())
            .output()
            .unwrap()
    };
    let undone = ctl(&["rollback", "--undo", "rb-0003", "--confirm", "sandbox"]);
    let (said, told) =
        (String::from_utf8_lossy(&undone.stdout), String::from_utf8_lossy(&undone.stderr));
    let document: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{told}"));
    assert_eq!(document["trace_id"], CALLER_TRACE, "{said}");
    assert_eq!(document["result"]["trace_id"], CALLER_TRACE, "{said}");
    assert!(told.contains(&format!("trace  {CALLER_TRACE}")), "{told}");
    let history: Value = serde_json::from_slice(&ctl(&["history"]).stdout).unwrap();
    let traces: Vec<&str> = history["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["trace_id"].as_str().unwrap())
        .collect();
    assert_eq!(traces[0], CALLER_TRACE);
    assert!(traces[1..].iter().all(|trace| trace.len() == 32 && *trace != CALLER_TRACE));
    // Each line of a log that is about the operation says which, and in which trace.
    let mut dirs = std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path());
    let root = dirs.find(|path| path.is_dir()).unwrap();
    let operation = document["operation"].as_str().unwrap();
    for log in ["coordinator.log", "agent-crm-b1.log"] {
        let log = std::fs::read_to_string(root.join(log)).unwrap();
        let about: Vec<&str> = log.lines().filter(|line| line.contains(operation)).collect();
        assert!(about.iter().any(|line| line.contains("ended")), "{log}");
        for line in about {
            assert!(
                line.contains(&format!("operation=\"{operation}\""))
                    || line.contains(&format!("operation={operation}")),
                "{line}"
            );
            assert!(line.contains(CALLER_TRACE), "{line}");
        }
    }
    let stopped = sandbox(&["--stop"], temporary.path());
    assert_eq!(stopped.status.code(), Some(0), "{}", String::from_utf8_lossy(&stopped.stderr));
}
