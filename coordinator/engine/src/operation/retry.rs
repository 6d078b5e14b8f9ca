//! What goes again when a person retries hosts.
//!
//! ```text
//! the named hosts      all that they have not done, and what they did after it
//! edges                the traffic, where it was not moved or stands around a named host: all edges, or none
//! hosts that only look what users get may be another thing now
//! ```

use std::collections::BTreeSet;

use super::{IllegalEvent, Operation, Slot};
use crate::{
    name::HostName,
    plan::Step,
    track::{TrackEvent, TrackState},
};

impl Operation {
    pub(super) fn retry(&mut self, host: &HostName) -> Result<(), IllegalEvent> {
        let stages: Vec<usize> = match self.hosts.get(host) {
            // No retry brings back what root took over.
            Some(state) if state.taken.is_some() => Vec::new(),
            Some(state) => state.tracks.keys().copied().collect(),
            None => return Err(IllegalEvent::NoTrack { host: host.clone(), stage: 0 }),
        };
        for stage in stages {
            if !self.is_traffic(stage) {
                self.advance(host, stage, &TrackEvent::Retried)?;
            }
        }
        Ok(())
    }

    /// All edges move with a retry, or none: where the traffic was not moved, and around the hosts that go again.
    pub(super) fn traffic_again(&mut self, hosts: &[HostName]) -> Result<(), IllegalEvent> {
        let stages = 0..self.plan.stages.len();
        let traffic: Vec<usize> = stages.filter(|stage| self.is_traffic(*stage)).collect();
        let mut edges = BTreeSet::new();
        for stage in &traffic {
            edges.extend(self.plan.stages[*stage].tracks().map(|track| track.host.clone()));
        }
        let fit = |host: &HostName| {
            let state = &self.hosts[host];
            state.taken.is_none() && !state.is_unknown()
        };
        if !edges.iter().all(fit) {
            return Ok(());
        }
        let again: Vec<usize> =
            traffic.into_iter().filter(|stage| self.moves_again(*stage, hosts)).collect();
        for stage in again {
            for host in &edges {
                if self.hosts[host].tracks.contains_key(&stage) {
                    self.advance(host, stage, &TrackEvent::Retried)?;
                }
            }
        }
        if let Some(again) = &mut self.again {
            again.extend(edges);
        }
        Ok(())
    }

    /// Whether a stage that is about the traffic has not done its part on all edges, or stands around a host that goes
    /// again.
    fn moves_again(&self, stage: usize, hosts: &[HostName]) -> bool {
        let goes = |stage: usize| {
            let mut slots = hosts.iter().filter_map(|host| self.hosts[host].tracks.get(&stage));
            slots.any(|slot| slot.state == TrackState::Waiting)
        };
        let held_until = |stage: usize| self.plan.stages[stage].held_until;
        let before = held_until(stage).is_some_and(|until| (stage + 1..until).any(goes));
        let after = (0..stage)
            .any(|first| held_until(first) == Some(stage) && (first + 1..stage).any(goes));
        let mut slots = self.hosts.values().filter_map(|state| state.tracks.get(&stage));
        before || after || slots.any(|slot| slot.state != TrackState::Done)
    }

    /// Whether a stage only moves traffic.
    fn is_traffic(&self, stage: usize) -> bool {
        let mut steps = self.plan.stages[stage].tracks().flat_map(|track| &track.steps);
        steps.all(|step| step.component.as_str() == Step::TRAFFIC)
    }

    /// What users get may be another thing once a host of an earlier stage moves again.
    pub(super) fn look_again(&mut self, after: usize) -> Result<(), IllegalEvent> {
        let mut again = Vec::new();
        for (host, state) in self.hosts.iter().filter(|(_, state)| state.taken.is_none()) {
            let tracks = state.tracks.range(after..).filter(|(_, slot)| slot.looks);
            let over = |slot: &Slot| match slot.state {
                TrackState::Done | TrackState::Undone { .. } | TrackState::Left { .. } => true,
                TrackState::Waiting
                | TrackState::InWork { .. }
                | TrackState::Unknown { .. }
                | TrackState::Stuck { .. } => false,
            };
            let over = tracks
                .filter(|(stage, slot)| !self.plan.stages[**stage].cuts_capacity && over(slot));
            again.extend(over.map(|(stage, _)| (host.clone(), *stage)));
        }
        for (host, stage) in again {
            self.advance(&host, stage, &TrackEvent::Retried)?;
        }
        Ok(())
    }
}
