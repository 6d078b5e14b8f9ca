//! What a trigger's source says now: of the hosts with the release, and of those without it.
//!
//! ```text
//! Trigger ─▶ probes: the samples of a window   check: on how many hosts it fails   Prometheus: one number ─▶ Reading
//! ```
//!
//! Invariant: what is not known has no value, and says why.

use std::{collections::BTreeSet, sync::Arc};

use engine::{
    Fleet, FleetName, HostName, Inventory, Timestamp,
    trigger::{Breach, Metric, Reading, Trigger, TriggerSource},
};

use crate::{
    host::wall,
    measure::{Samples, Servers},
    sessions::Sessions,
};

/// The window that probes are counted over: as long as the breach has to last, within these.
const WINDOW_MS: std::ops::RangeInclusive<u64> = 5_000..=300_000;

/// Hosts with the release and hosts without it: of those that run the app.
#[derive(Clone, Debug, Default)]
pub struct Sides {
    pub release: Vec<HostName>,
    pub control: Vec<HostName>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    pub fleet: Reading,
    /// Absent where the source does not tell the two apart.
    pub control: Option<Reading>,
}

/// See the module.
#[derive(Debug)]
pub struct Readings {
    pub samples: Arc<Samples>,
    pub sessions: Arc<Sessions>,
    pub servers: Servers,
}

impl Sides {
    /// `has` are the hosts that the release went to.
    pub fn of(fleet: &Fleet, inventory: &Inventory<'_>, has: &BTreeSet<HostName>) -> Self {
        let mut sides = Self::default();
        let edge = fleet.traffic.as_ref().map(|traffic| &traffic.edge);
        let runs = |group| !fleet.components_of(group).is_empty() && edge != Some(group);
        for (host, _) in fleet.hosts().filter(|(_, group)| runs(*group)) {
            if has.contains(host) {
                sides.release.push(host.clone());
            } else if inventory.hosts.contains_key(host) {
                sides.control.push(host.clone());
            }
        }
        sides
    }

    /// Whether users reach a host without the release; so it is taken where no edge says otherwise.
    pub fn control_is_served(&self, fleet: &Fleet, inventory: &Inventory<'_>) -> bool {
        let Some(traffic) = &fleet.traffic else { return !self.control.is_empty() };
        let edges = fleet.hosts().filter(|(_, group)| **group == traffic.edge);
        let mut edges = edges.map(|(host, _)| inventory.hosts.get(host)?.weights.as_ref());
        edges.any(|weights| {
            let of_control = |(host, _): &(&HostName, _)| self.control.contains(host);
            let mut control = fleet.hosts().filter(of_control);
            control.any(|(host, group)| weights.is_none_or(|to| to.reaches(host, group)))
        })
    }

    /// The share of the traffic, of 1, that goes to hosts with the release; none where no edge says so.
    pub fn share(&self, fleet: &Fleet, inventory: &Inventory<'_>) -> Option<f64> {
        let edge = &fleet.traffic.as_ref()?.edge;
        let edges = fleet.hosts().filter(|(_, group)| *group == edge);
        let weights = edges.map(|(host, _)| inventory.hosts.get(host)?.weights.as_ref());
        let weights = weights.collect::<Option<Vec<_>>>()?;
        let weights = *weights.first()?;
        let mut share = 0.0;
        for group in &fleet.groups {
            let served: Vec<&HostName> =
                group.hosts.iter().filter(|host| weights.reaches(host, &group.name)).collect();
            let with = served.iter().filter(|host| self.release.contains(host)).count();
            if !served.is_empty() {
                #[expect(clippy::cast_precision_loss, reason = "hosts are not counted beyond 2^53")]
                let part = with as f64 / served.len() as f64;
                share += f64::from(weights.of(&group.name)) / 100.0 * part;
            }
        }
        Some(share)
    }
}

impl Readings {
    /// What a trigger's source says now; of nothing that was before `since`.
    pub async fn read(
        &self,
        _fleet: &FleetName,
        trigger: &Trigger,
        sides: &Sides,
        since: Timestamp,
    ) -> Read {
        match &trigger.source {
            TriggerSource::Probes => {
                let fleet = self.probed(trigger, &sides.release, since);
                let control = self.probed(trigger, &sides.control, since);
                Read { fleet, control: (!sides.control.is_empty()).then_some(control) }
            }
            TriggerSource::Check(check) => {
                let fleet = self.checked(check, &sides.release);
                let control = self.checked(check, &sides.control);
                Read { fleet, control: (!sides.control.is_empty()).then_some(control) }
            }
            TriggerSource::Prometheus { url, query } => {
                let fleet = match self.servers.number(url, query).await {
                    Ok(value) => told(value, u64::MAX),
                    Err(error) => unknown(error.to_string()),
                };
                Read { fleet, control: None }
            }
            TriggerSource::Alert(_) => {
                let fleet = unknown("an alert is posted, not asked for".to_owned());
                Read { fleet, control: None }
            }
        }
    }

    fn probed(&self, trigger: &Trigger, hosts: &[HostName], since: Timestamp) -> Reading {
        let window = trigger.for_ms.clamp(*WINDOW_MS.start(), *WINDOW_MS.end());
        let begin = wall().0.saturating_sub(i64::try_from(window).unwrap_or(i64::MAX));
        let begin = Timestamp(begin.max(since.0));
        let metric = match &trigger.breach {
            Breach::Measured { metric, .. } => *metric,
            Breach::Fails => return unknown("nothing is measured".to_owned()),
        };
        if metric == Metric::Available {
            return self.available(hosts, begin);
        }
        let sample = self.samples.since(hosts, begin);
        let requests = sample.good.saturating_add(sample.bad);
        if requests == 0 {
            return unknown("no host has told of a probe".to_owned());
        }
        let quantile = match metric {
            Metric::ErrorRate => {
                #[expect(clippy::cast_precision_loss, reason = "a window has no 2^53 requests")]
                let rate = sample.bad as f64 / requests as f64;
                return told(rate, requests);
            }
            Metric::P50 => 0.5,
            Metric::P95 => 0.95,
            Metric::P99 => 0.99,
            Metric::Available | Metric::Value => return unknown("nothing is measured".to_owned()),
        };
        match sample.latency.quantile_about(quantile) {
            Some(us) => told(us / 1000.0, requests),
            None => unknown("no host has told how long answers take".to_owned()),
        }
    }

    /// On how many hosts something answered well. Where none did, each has to be known not to.
    fn available(&self, hosts: &[HostName], begin: Timestamp) -> Reading {
        let (mut well, mut requests, mut silent) = (0_u32, 0_u64, Vec::new());
        for host in hosts {
            let sample = self.samples.since(std::slice::from_ref(host), begin);
            let asked = sample.good.saturating_add(sample.bad);
            requests = requests.saturating_add(asked);
            well += u32::from(sample.good > 0);
            if asked == 0 {
                silent.push(host.to_string());
            }
        }
        if well == 0 && !silent.is_empty() {
            return unknown(format!("{} told of no probe", silent.join(", ")));
        }
        told(f64::from(well), requests)
    }

    /// On how many hosts a check fails.
    fn checked(&self, check: &str, hosts: &[HostName]) -> Reading {
        let (mut fails, mut known) = (0_u32, false);
        for host in hosts {
            let Some(seen) = self.sessions.get(host).filter(|seen| seen.generation().is_some())
            else {
                continue;
            };
            let rows = seen.status.components.iter().flat_map(|component| &component.checks);
            for row in rows.filter(|row| row.check == check) {
                known = true;
                fails += u32::from(!row.ok);
            }
        }
        if !known {
            return unknown(format!("no host that can be reached has a check `{check}`"));
        }
        told(f64::from(fails), u64::MAX)
    }
}

fn told(value: f64, requests: u64) -> Reading {
    Reading { at: wall(), value: Some(value), requests, why_none: None }
}

fn unknown(why: String) -> Reading {
    Reading { at: wall(), value: None, requests: 0, why_none: Some(why) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engine::{FleetState, GroupName, HostNow, Weights};
    use proto::v1;

    use super::*;
    use crate::grpc::from_proto;

    /// Slots blue and green, and a canary, of one host each, behind one edge.
    fn fleet() -> Fleet {
        let group =
            |name: &str| v1::Group { name: name.to_owned(), hosts: vec![format!("{name}-1")] };
        let groups = ["blue", "green", "canary"].map(str::to_owned);
        let control = v1::FleetControl {
            fleet: "prod".to_owned(),
            groups: ["blue", "green", "canary", "edge"].map(group).into(),
            components: vec![v1::Component {
                name: "crm".to_owned(),
                groups: groups.to_vec(),
                services: vec!["web".to_owned()],
                ..v1::Component::default()
            }],
            rollback: Some(v1::RollbackStrategy {
                batches: vec!["1".to_owned()],
                budget_out: "1".to_owned(),
                on_failure: v1::OnFailure::Restore.into(),
                late_hosts: v1::LateHosts::Rollback.into(),
                ..v1::RollbackStrategy::default()
            }),
            traffic: Some(v1::Traffic {
                edge: "edge".to_owned(),
                slots: groups[..2].to_vec(),
                ..v1::Traffic::default()
            }),
            ..v1::FleetControl::default()
        };
        from_proto::fleet(control).unwrap()
    }

    /// Green and canary have the release.
    fn control_is_served(weights: Option<Weights>) -> bool {
        let host = |name: &str| HostName::new(name).unwrap();
        let (fleet, state) = (fleet(), FleetState::default());
        let mut hosts: BTreeMap<HostName, HostNow> =
            fleet.hosts().map(|(host, _)| (host.clone(), HostNow::default())).collect();
        hosts.insert(host("edge-1"), HostNow { weights, ..HostNow::default() });
        let inventory = Inventory { state: &state, hosts };
        let sides =
            Sides::of(&fleet, &inventory, &BTreeSet::from([host("green-1"), host("canary-1")]));
        assert_eq!(sides.control, [host("blue-1")]);
        sides.control_is_served(&fleet, &inventory)
    }

    #[test]
    fn a_side_that_no_user_reaches_is_not_served() {
        let group = |name: &str| GroupName::new(name).unwrap();
        let blue = Weights::all_to(group("blue"));
        assert!(!control_is_served(Some(Weights::all_to(group("green")))));
        assert!(control_is_served(Some(blue.with_share(&group("canary"), 5))));
        assert!(control_is_served(None), "no edge says so");
    }
}
