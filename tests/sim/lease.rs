//! Leases: what the coordinator's orders switch is on trial, and a host goes back by itself, whoever is away.
//!
//! ```text
//! order (taken as one that goes forward) ─▶ lease::begins, in the append of the step ─▶ looks, every few seconds
//!                                                        Watch ─▶ Tried, or a LocalOrder as root's own
//! ```
//!
//! On some hosts what was put live verifies, and fails every check from then on.
//!
//! Invariant: a trial ends once; the order for the way back is in the append that says so.
//! Invariant: no host keeps what fails; none gives up what holds, whether or not its coordinator is there.

use agent::{
    lease::{
        self, Lease,
        watch::{Seen, Verdict, Watch},
    },
    ledger::{Ledger, Moment, Over, Record, Switched, Track},
    local::{Shape, plan},
    order::{End, LocalOrder, MadeHere, OnFailure, TrackKey},
    status::{ComponentStatus, HostStatus, ServiceStatus},
    worker::{self, Input},
};
use std::{collections::BTreeMap, time::Duration};

use crate::{
    host::{Machine, Tree},
    world::{Due, HOSTS, World},
};

/// Long enough for most operations of a run to end meanwhile, short enough for some not to.
const LEASE: Lease = Lease {
    lasting: Duration::from_secs(60),
    wants_coordinator: false,
    ready_within: Duration::from_secs(12),
};
const LOOK_EVERY_MS: u64 = 3_000;
/// So many lives of an agent are of one boot.
const LIVES_PER_BOOT: u64 = 3;

/// Who says to have asked for a way back.
const BY: &str = "the lease of ";

impl World {
    /// The trial that begins with these records, where this run has leases.
    pub(crate) fn trial_begins(&self, host: usize, records: &[Record]) -> Option<Record> {
        let ledger = &self.agents[host].ledger;
        let now = || self.moment(host);
        if self.leases { lease::begins(ledger, records, |_| Some(LEASE), now) } else { None }
    }

    /// An agent looks at what is on trial.
    pub(crate) fn looks_at_trials(&mut self, host: usize, life: u64) {
        let agent = &mut self.agents[host];
        if !self.leases || !agent.alive || agent.life != life {
            return;
        }
        let ledger = &agent.ledger;
        let open: Vec<TrackKey> = open(ledger).map(|(key, _)| key.clone()).collect();
        agent.watches.retain(|key, _| open.contains(key));
        self.later(LOOK_EVERY_MS, Due::LooksAtTrials { host, life });
        for key in open {
            if self.agents[host].life == life {
                self.look_at(host, key);
            }
        }
    }

    fn look_at(&mut self, host: usize, key: TrackKey) {
        let (now, at) = (Duration::from_millis(self.now), self.moment(host));
        let ledger = &self.agents[host].ledger;
        let Some((trial, track)) = ledger.on_trial(&key) else { return };
        let cuts = |track: &Track| track.order().steps.iter().any(|step| step.verb.cuts());
        let rows: Vec<Switched> = track.on_trial().collect();
        let machine = &self.machines[host];
        let on = |row: &Switched| machine.is_on(&row.component, &row.to);
        let seen = if ledger.open().is_some_and(cuts) {
            Seen::Operation
        } else if rows.iter().all(on) && !self.fails_later(host) {
            Seen::Passed
        } else {
            Seen::Failed("the simulator says no".to_owned())
        };
        let left = Duration::from_millis(trial.left_ms(&at));
        let due = lease::is_due(trial, &at);
        let watches = &mut self.agents[host].watches;
        let watch = watches.entry(key.clone()).or_insert_with(|| Watch::new(now));
        let tried = |kept| Input::Tried { key: key.clone(), at: at.clone(), kept };
        let input = match watch.look(seen, now, left, LEASE.ready_within) {
            Verdict::GoesOn if due => tried(false),
            Verdict::GoesOn => return,
            Verdict::Passed => tried(true),
            Verdict::Back(why) => return self.lease_goes_back(host, key, rows, why),
        };
        let decision = worker::decide(&self.agents[host].ledger, input);
        self.record(host, decision.records, None);
    }

    fn lease_goes_back(&mut self, host: usize, key: TrackKey, rows: Vec<Switched>, why: String) {
        if self.agents[host].waiting.is_some() {
            return;
        }
        let (status, shapes) = (status(&self.machines[host]), shapes(&self.machines[host]));
        let to: BTreeMap<String, (String, String)> =
            rows.into_iter().map(|row| (row.component, ("before".to_owned(), row.from))).collect();
        let ledger = &self.agents[host].ledger;
        let view = plan::View { shapes: &shapes, status: &status, ledger };
        let steps = plan::back(view, &to);
        let made = MadeHere {
            operation: format!("local-{}-lease", self.now),
            by: format!("{BY}{}", key.operation),
            at_unix_ms: i64::try_from(self.now).expect("a short run"),
            release: "before".to_owned(),
        };
        let order = LocalOrder {
            made,
            plan_hash: "lease".to_owned(),
            steps,
            on_failure: OnFailure::Leave,
            trial: Some((key, why)),
        };
        self.note(|| format!("h{host} wants to go back"));
        self.root_orders(host, order);
    }

    /// Whether what was put live on this host fails once it was verified.
    fn fails_later(&self, host: usize) -> bool {
        host.is_multiple_of(3) || self.bad[host]
    }

    fn moment(&self, host: usize) -> Moment {
        let boot = format!("h{host}-{}", self.agents[host].life / LIVES_PER_BOOT);
        let unix_ms = i64::try_from(self.now).expect("a short run");
        Moment { boot, since_boot_ms: self.now, unix_ms }
    }

    /// Whether nothing is on trial any more.
    pub(crate) fn no_trials(&self) -> bool {
        self.agents.iter().all(|agent| open(&agent.ledger).next().is_none())
    }

    /// How many trials ended with what was kept, and with a way back.
    pub(crate) fn trials_ended(&self) -> [usize; 2] {
        let records = self.agents.iter().flat_map(|agent| &agent.records);
        let over = records.filter_map(|record| {
            if let Record::Trial { trial, .. } = record { trial.over.as_ref() } else { None }
        });
        let (kept, back): (Vec<&Over>, _) = over.partition(|over| **over == Over::Kept);
        [kept.len(), back.len()]
    }

    /// What must hold of every trial in the end.
    pub(crate) fn p12_what_fails_goes_back_and_what_holds_stays(&self) -> Result<(), String> {
        (0..HOSTS)
            .try_for_each(|host| self.p12_on(host).map_err(|why| format!("p12: h{host} {why}")))
    }

    fn p12_on(&self, host: usize) -> Result<(), String> {
        let records = &self.agents[host].records;
        let (mut tried, mut expected) = (false, None::<String>);
        let mut disturbed = false;
        for (index, record) in records.iter().enumerate() {
            match record {
                Record::Trial { trial, .. } => match &trial.over {
                    None => {
                        let before = index.checked_sub(1).map(|before| &records[before]);
                        tried |= matches!(before, Some(Record::StepBegan { .. }));
                    }
                    Some(_) if !tried => return Err("ended a trial twice".to_owned()),
                    Some(Over::Kept) if self.fails_later(host) => {
                        return Err("kept what fails".to_owned());
                    }
                    Some(Over::Back { .. }) if !self.fails_later(host) && !disturbed => {
                        return Err("gave up what holds".to_owned());
                    }
                    Some(Over::Back { operation, .. }) => {
                        (tried, expected) = (false, Some(operation.clone()));
                    }
                    Some(Over::NotBegun { .. } | Over::Kept) => tried = false,
                },
                Record::Accepted(order) => {
                    let made = order.origin.made_here();
                    let own = made.filter(|made| made.operation == order.key.operation);
                    match own.filter(|made| made.by.starts_with(BY)) {
                        Some(made) if expected.take().as_ref() != Some(&made.operation) => {
                            return Err("goes back without having said so".to_owned());
                        }
                        Some(_) => {}
                        // Root, or an undo, may leave anything.
                        None => disturbed |= made.is_some(),
                    }
                }
                Record::Ended { ending, .. } => disturbed |= ending.end == End::Stuck,
                Record::Fenced(_)
                | Record::StepBegan { .. }
                | Record::Observed { .. }
                | Record::StepEnded { .. }
                | Record::TurnedBack { .. }
                | Record::UndoBegan { .. }
                | Record::UndoEnded { .. }
                | Record::Dropped { .. } => {}
            }
        }
        match expected {
            Some(operation) => {
                Err(format!("said that it goes back by {operation}, and never began"))
            }
            None => self.p12_is_where_it_was(host),
        }
    }

    /// A way back that was the last to end, and ended well, leads to what the trial replaced.
    fn p12_is_where_it_was(&self, host: usize) -> Result<(), String> {
        let ledger = &self.agents[host].ledger;
        let last = ledger.tracks().into_iter().next_back();
        for (_, trial, track) in ledger.trials() {
            let Some(Over::Back { operation, .. }) = &trial.over else { continue };
            let own = |last: &&Track| last.order().key.operation == *operation;
            let done = |last: &&Track| last.ending().is_some_and(|row| row.end == End::Done);
            if last.filter(own).filter(done).is_none() {
                continue;
            }
            let machine = &self.machines[host];
            if let Some(row) =
                track.on_trial().find(|row| !machine.is_on(&row.component, &row.from))
            {
                return Err(format!("went back, and {} is not where it was", row.component));
            }
        }
        Ok(())
    }
}

fn open(ledger: &Ledger) -> impl Iterator<Item = (&TrackKey, &Track)> {
    let open = ledger.trials().filter(|(_, trial, _)| trial.over.is_none());
    open.map(|(key, _, track)| (key, track))
}

fn shapes(machine: &Machine) -> Vec<Shape> {
    let parts = machine.parts.iter();
    let shape = parts.map(|(name, part)| Shape {
        name: name.clone(),
        reloads: part.read.is_some(),
        stop_within_ms: 5_000,
        ready_within_ms: 5_000,
        stable_for_ms: 0,
        hooks: Vec::new(),
    });
    shape.collect()
}

fn status(machine: &Machine) -> HostStatus {
    let row = |(name, part): (&String, &crate::host::Part)| {
        let (snapshot, held) = match &part.live {
            Tree::Whole(tree) => (tree.clone(), false),
            Tree::Mixed { .. } => (String::new(), true),
        };
        let running = part.services.values().all(|runs| *runs)
            && part.read.as_ref().is_none_or(|read| *read == snapshot);
        ComponentStatus {
            component: name.clone(),
            snapshot,
            held,
            services: vec![ServiceStatus { running, ..ServiceStatus::default() }],
            ..ComponentStatus::default()
        }
    };
    let components = machine.parts.iter().map(row).collect();
    HostStatus { components, ..HostStatus::default() }
}
