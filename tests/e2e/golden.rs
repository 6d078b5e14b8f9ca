//! The events of the first journal format, as a coordinator wrote them. They stay readable for ever.

use std::{collections::BTreeMap, path::PathBuf};

use coordinator::{
    journal::{Journal as _, SledJournal},
    runner::Entry,
};
use engine::{FleetEvent, FleetState, Operation, OperationId, Outcome, Phase, RunResult};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::operations::{Fleet, fleet, rollback};

#[derive(Serialize, Deserialize)]
struct Line {
    stream: String,
    record: Box<RawValue>,
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("journals/v1-events.jsonl")
}

#[test]
fn p08_the_first_format_is_read_as_it_was_meant() {
    let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in std::fs::read_to_string(file()).unwrap().lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        streams.entry(line.stream).or_default().push(line.record.get().to_owned());
    }
    let mut state = FleetState::default();
    for record in &streams["fleet/test"] {
        state.apply(&serde_json::from_str::<FleetEvent>(record).unwrap());
    }
    assert_eq!(state.busy, None);
    assert!(state.freeze.is_some());
    assert_eq!(state.operations.len(), 1);
    let id = state.operations[0].id.clone();
    let entries: Vec<Entry> =
        streams[&format!("op/{id}")].iter().map(|r| serde_json::from_str(r).unwrap()).collect();
    let operation = Operation::replay(id, entries.iter().map(|entry| &entry.event)).unwrap();
    assert_eq!(operation.phase(), Phase::Ended(RunResult::Mixed));
    let outcomes: Vec<(String, Outcome)> =
        operation.outcomes().into_iter().map(|row| (row.host.to_string(), row.outcome)).collect();
    let wanted = [
        ("h1", Outcome::Restored),
        ("h2", Outcome::Original),
        ("h3", Outcome::Restored),
        ("h4", Outcome::Restored),
    ];
    assert_eq!(outcomes, wanted.map(|(host, outcome)| (host.to_owned(), outcome)));
    // What is written today reads the same: an event that was renamed would not.
    for (entry, record) in entries.iter().zip(&streams[&format!("op/{}", operation.id())]) {
        let again: serde_json::Value = serde_json::to_value(entry).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(record).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "rewrites a checked-in file; only before the format's first release"]
async fn write_the_golden_events() {
    let mut fleet: Fleet = fleet().await;
    fleet.hands["h2"].fail(agent::order::Verb::Verify, "GET /api/health → 503");
    let id = fleet.begin(rollback("", &[])).await;
    fleet.ended(&id).await;
    let journal = fleet.cluster.journal();
    fleet.cluster.stop_coordinator();
    let journal = tests::eventually("the journal is free", || {
        let opened = SledJournal::open(&journal, 0).ok();
        async { opened }
    });
    let journal = journal.await;
    let mut text = String::new();
    for stream in ["fleet/test".to_owned(), format!("op/{}", OperationId::new(id).unwrap())] {
        for record in journal.replay(&stream.parse().unwrap()).unwrap() {
            let record = serde_json::from_slice(&record).unwrap();
            let line = Line { stream: stream.clone(), record };
            text.push_str(&serde_json::to_string(&line).unwrap());
            text.push('\n');
        }
    }
    std::fs::write(file(), text).unwrap();
}
