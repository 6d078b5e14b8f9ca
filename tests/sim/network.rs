//! Sessions and what happens to messages on them.
//!
//! ```text
//! agent dials ─▶ Hello ─▶ Welcome(term) ─▶ (recorded) ─▶ Status(tracks) ─▶ orders down, reports up
//! ```
//!
//! Invariant: an agent has one session and takes orders only from it. A report of an earlier session may still
//! arrive; a message that is lost breaks its session, and the sides notice at different times.

use rand::RngExt as _;

use crate::world::{Down, Due, Link, Peer, Up, World};

/// How long a message takes, and how long one that is late does.
const DELAY_MS: std::ops::Range<u64> = 1..40;
const LATE_MS: std::ops::Range<u64> = 40..4_000;
/// How long it takes a side to notice that a session is broken.
const NOTICE_MS: std::ops::Range<u64> = 10..4_000;

impl World {
    /// An agent without a session tries to reach a coordinator; it may reach one of an earlier term.
    pub(crate) fn dial(&mut self, host: usize) {
        if !self.agents[host].alive || self.agents[host].session.is_some() {
            return;
        }
        let (to_old, again) = (self.chance(300), self.rng.random_range(100..1_000));
        let peer = match (&self.old_term, self.coordinator.up) {
            (Some(_), _) if to_old => Peer::OldTerm,
            (_, true) => Peer::Coordinator,
            (_, false) if self.watch.is_alone() => return,
            (_, false) => return self.later(again, Due::Dial { host }),
        };
        self.sessions += 1;
        let session = self.sessions;
        self.agents[host].session = Some(Link { session, peer });
        self.note(|| format!("h{host} dials {peer:?}: session {session}"));
        match peer {
            Peer::Coordinator => self.send_up(host, Up::Hello),
            Peer::OldTerm => self.old_term_speaks(host, session),
        }
    }

    /// From an agent, on its session.
    pub(crate) fn send_up(&mut self, host: usize, message: Up) {
        let Some(link) = self.agents[host].session else { return };
        if link.peer == Peer::OldTerm {
            return;
        }
        let operation = self.coordinator.operation.id().as_str().to_owned();
        self.watch.agent_told(host, &operation, &message);
        let (session, life) = (link.session, self.coordinator.life);
        for _ in 0..self.copies(host, session) {
            let delay = self.delay();
            self.later(delay, Due::Up { host, session, life, message: message.clone() });
        }
    }

    /// To an agent, on a session.
    pub(crate) fn send_down(&mut self, host: usize, session: u64, message: Down) {
        for _ in 0..self.copies(host, session) {
            let delay = self.delay();
            self.later(delay, Due::Down { host, session, message: message.clone() });
        }
    }

    /// A session breaks; each side notices in its own time.
    pub(crate) fn break_session(&mut self, host: usize, session: u64) {
        let (agent, coordinator) =
            (self.rng.random_range(NOTICE_MS), self.rng.random_range(NOTICE_MS));
        self.later(agent, Due::AgentNotices { host, session });
        let life = self.coordinator.life;
        self.later(coordinator, Due::CoordinatorNotices { host, session, life });
    }

    /// The agent's side of a broken session.
    pub(crate) fn agent_notices(&mut self, host: usize, session: u64) {
        let agent = &mut self.agents[host];
        if agent.alive && agent.session.is_some_and(|link| link.session == session) {
            agent.session = None;
            let again = self.rng.random_range(20..500);
            self.later(again, Due::Dial { host });
        }
    }

    fn copies(&mut self, host: usize, session: u64) -> u32 {
        if self.chance(self.faults.loss) {
            self.note(|| format!("a message of h{host} is lost; session {session} breaks"));
            self.break_session(host, session);
            return 0;
        }
        if self.chance(self.faults.repeat) { 2 } else { 1 }
    }

    fn delay(&mut self) -> u64 {
        let range = if self.chance(self.faults.late) { LATE_MS } else { DELAY_MS };
        self.rng.random_range(range)
    }
}
