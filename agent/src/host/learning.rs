//! When a component that others deploy has become a release worth going back to: decided without any I/O.
//!
//! ```text
//!            differs               the same twice, nothing moved         the checks held for `after_healthy`
//! Known ────────────────▶ Changed ──────────Take─────────▶ Waiting ───────────────Name───────────────▶ Known
//!   ▲                        ▲                                │
//!   └──── an operation       └──── it moved: what was taken ──┘     a check failed: the wait begins anew
//! ```
//!
//! The shell looks, tells what it saw, does what it is told to, and says how that went. Times are monotonic and of this
//! process: one that was restarted waits from the beginning.
//!
//! Invariant: nothing is named that was not seen healthy at every look for `after_healthy`, while it did not change.
//! Invariant: a time in which nobody looked counts for nothing.

use std::time::{Duration, SystemTime};

use crate::store::Hash;

/// How often something may move before a person is told that it does not rest.
const MOVES_TOLD: u32 = 3;
/// Each tree that was taken in vain doubles the rest that the next one needs, this often at most.
const DOUBLINGS_MAX: u32 = 16;

/// How long what takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one look to the next.
    pub look_every: Duration,
    /// How far the two looks lie apart that must see the same.
    pub rest: Duration,
    /// Two looks that lie further apart do not belong together.
    pub gap_max: Duration,
    /// How long something may change again and again before a person is told.
    pub restless_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(30),
            rest: Duration::from_secs(30),
            gap_max: Duration::from_secs(150),
            restless_after: Duration::from_secs(3600),
        }
    }
}

/// What a look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// An operation is at work, or the component is held: what comes next is another story.
    Operation,
    /// Nothing, because somebody else needed the host.
    Nothing,
    /// It could not be looked at.
    Failed,
    /// What is live is a release already.
    Known,
    /// It is none.
    Tree(Tree),
}

/// What is live and no release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) exact: Hash,
    /// Wall time before the look began.
    pub(super) began: SystemTime,
    /// A file that changed since [`Learning::since`].
    pub(super) moving: Option<String>,
    /// What runs, where all is well; none where it is not, or where nobody asked ([`Learning::asks`]).
    pub(super) healthy: Option<Running>,
}

/// What serves: its processes and the version that it reports, in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running(pub(super) String);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Put it into the store, unnamed.
    Take(Hash),
    /// Make it a release.
    Name(Hash),
}

/// How far it is with one component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Learning {
    stage: Stage,
    restless: Option<Restless>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Not looked at yet, or not since an operation.
    #[default]
    Unseen,
    Known,
    Changed(First),
    /// In the store, unnamed.
    Waiting {
        first: First,
        looked: Duration,
        healthy: Option<(Duration, Running)>,
    },
}

/// The look that first saw a tree as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct First {
    exact: Hash,
    at: Duration,
    began: SystemTime,
}

/// Since it was last a release.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Restless {
    since: Duration,
    moved_at: Duration,
    moves: u32,
    path: Option<String>,
    /// How many were taken and then moved.
    in_vain: u32,
}

impl Learning {
    /// What must not have changed since: to be asked of the store with the next look.
    pub(super) fn since(&self) -> Option<SystemTime> {
        match &self.stage {
            Stage::Unseen | Stage::Known => None,
            Stage::Changed(first) | Stage::Waiting { first, .. } => Some(first.began),
        }
    }

    /// Whether the next look has to ask how the app is.
    pub(super) fn asks(&self) -> bool {
        match self.stage {
            Stage::Waiting { .. } => true,
            Stage::Unseen | Stage::Known | Stage::Changed(_) => false,
        }
    }

    /// What follows from a look at `now`.
    pub(super) fn look(&mut self, seen: Seen, now: Duration, rules: Rules) -> Action {
        match seen {
            Seen::Nothing => Action::Nothing,
            Seen::Operation => {
                *self = Self::default();
                Action::Nothing
            }
            Seen::Known => {
                *self = Self { stage: Stage::Known, restless: None };
                Action::Nothing
            }
            // Nothing is known of the time until the next look.
            Seen::Failed => {
                self.stage = Stage::Unseen;
                Action::Nothing
            }
            Seen::Tree(tree) => self.tree(tree, now, rules),
        }
    }

    fn tree(&mut self, tree: Tree, now: Duration, rules: Rules) -> Action {
        let restless = self.restless.get_or_insert(Restless {
            since: now,
            moved_at: now,
            moves: 0,
            path: None,
            in_vain: 0,
        });
        let anew = First { exact: tree.exact, at: now, began: tree.began };
        let (Stage::Changed(first) | Stage::Waiting { first, .. }) = &self.stage else {
            self.stage = Stage::Changed(anew);
            return Action::Nothing;
        };
        if first.exact != tree.exact || tree.moving.is_some() {
            restless.moved_at = now;
            restless.moves = restless.moves.saturating_add(1);
            restless.path = tree.moving.or(restless.path.take());
            if let Stage::Waiting { .. } = self.stage {
                restless.in_vain = restless.in_vain.saturating_add(1);
            }
            self.stage = Stage::Changed(anew);
            return Action::Nothing;
        }
        let rest = rules.rest(restless.in_vain);
        match &mut self.stage {
            Stage::Changed(first) if now.saturating_sub(first.at) >= rest => {
                Action::Take(tree.exact)
            }
            Stage::Unseen | Stage::Known | Stage::Changed(_) => Action::Nothing,
            Stage::Waiting { looked, healthy, .. } => {
                let unseen = now.saturating_sub(*looked) > rules.pace.gap_max;
                *looked = now;
                let before = healthy.take().filter(|_| !unseen);
                let since = match (before, tree.healthy) {
                    (_, None) => return Action::Nothing,
                    (Some((since, before)), Some(runs)) if before == runs => {
                        *healthy = Some((since, runs));
                        since
                    }
                    (_, Some(runs)) => {
                        *healthy = Some((now, runs));
                        now
                    }
                };
                let held = now.saturating_sub(since);
                if held >= rules.after_healthy { Action::Name(tree.exact) } else { Action::Nothing }
            }
        }
    }

    /// It is in the store.
    pub(super) fn taken(&mut self, exact: Hash, now: Duration) {
        if let Stage::Changed(first) = &self.stage
            && first.exact == exact
        {
            self.stage = Stage::Waiting { first: first.clone(), looked: now, healthy: None };
        }
    }

    /// It is a release.
    pub(super) fn named(&mut self) {
        *self = Self { stage: Stage::Known, restless: None };
    }

    /// What keeps changing, where a person has to be told: a path, where one was seen.
    pub(super) fn never_rests(&self, now: Duration, rules: Rules) -> Option<Option<&str>> {
        let restless = self.restless.as_ref()?;
        let long = now.saturating_sub(restless.since) >= rules.pace.restless_after;
        let enough = rules.rest(restless.in_vain).max(rules.after_healthy);
        let rests = now.saturating_sub(restless.moved_at) >= enough;
        let told = long && !rests && restless.moves >= MOVES_TOLD;
        told.then_some(restless.path.as_deref())
    }
}

/// What one component is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) pace: Pace,
    pub(super) after_healthy: Duration,
}

impl Rules {
    /// How long it must rest before it is taken. What is taken stays in the store for a while, so that an app which
    /// writes now and then must not fill it.
    fn rest(self, in_vain: u32) -> Duration {
        let longer = self.pace.rest.saturating_mul(1 << in_vain.min(DOUBLINGS_MAX));
        longer.min(self.after_healthy.max(self.pace.rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RULES: Rules = Rules {
        pace: Pace {
            look_every: Duration::from_secs(30),
            rest: Duration::from_secs(30),
            gap_max: Duration::from_secs(150),
            restless_after: Duration::from_secs(3600),
        },
        after_healthy: Duration::from_secs(600),
    };

    fn hash(name: &str) -> Hash {
        Hash::of(name.as_bytes())
    }

    fn wall(at: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + SECOND * at
    }

    /// What it is about; seconds with what is looked at; seconds with what is done.
    type Row = (&'static str, Vec<(u32, &'static str)>, &'static [(u32, &'static str)]);

    /// A look in one word: `known`, `op`, `busy`, `error`, or a tree with how the app is: `a`, `a:bad`, `a:other`
    /// (other processes serve), `a:moving`.
    fn seen(word: &str, at: u32) -> Seen {
        let (name, how) = word.split_once(':').unwrap_or((word, "well"));
        let healthy = match how {
            "bad" => None,
            how => Some(Running(how.to_owned())),
        };
        match name {
            "known" => Seen::Known,
            "op" => Seen::Operation,
            "busy" => Seen::Nothing,
            "error" => Seen::Failed,
            name => Seen::Tree(Tree {
                exact: hash(name),
                began: wall(at),
                moving: (how == "moving").then(|| "/srv/app/log".to_owned()),
                healthy,
            }),
        }
    }

    /// Plays looks, each with its second; what it is told to take succeeds. Answers what was done, with its second.
    fn play(learning: &mut Learning, looks: &[(u32, &str)]) -> Vec<(u32, String)> {
        let (mut done, mut names) = (Vec::new(), Vec::new());
        for (at, word) in looks {
            let now = SECOND * *at;
            let mut seen = seen(word, *at);
            if let Seen::Tree(tree) = &seen
                && names.contains(&tree.exact)
            {
                seen = Seen::Known;
            }
            match learning.look(seen, now, RULES) {
                Action::Nothing => {}
                Action::Take(exact) => {
                    done.push((*at, "take".to_owned()));
                    learning.taken(exact, now);
                }
                Action::Name(exact) => {
                    names.push(exact);
                    done.push((*at, "name".to_owned()));
                    learning.named();
                }
            }
        }
        done
    }

    /// Every half minute from `from` to `to` the same.
    fn every(from: u32, to: u32, word: &'static str) -> Vec<(u32, &'static str)> {
        (from..=to).step_by(30).map(|at| (at, word)).collect()
    }

    #[test]
    fn the_table() {
        let none: &[(u32, &str)] = &[];
        let table: &[Row] = &[
            ("a release is left alone", every(0, 7200, "known"), none),
            (
                "the first day: what was never recorded is learned",
                every(0, 900, "a"),
                &[(30, "take"), (660, "name")],
            ),
            (
                "a change, rest, health",
                [every(0, 60, "known"), every(90, 900, "a")].concat(),
                &[(120, "take"), (750, "name")],
            ),
            (
                "one look is not enough",
                [every(0, 30, "known"), vec![(60, "a"), (90, "b"), (120, "c"), (150, "known")]]
                    .concat(),
                none,
            ),
            (
                "two looks that are too near to each other are one",
                vec![(0, "a"), (10, "a"), (29, "a"), (30, "b")],
                none,
            ),
            (
                "a file that changed between two looks which saw the same",
                [vec![(0, "a"), (30, "a:moving")], every(60, 90, "a")].concat(),
                &[(60, "take")],
            ),
            (
                "one failure begins the wait anew",
                [every(0, 600, "a"), vec![(630, "a:bad")], every(660, 1500, "a")].concat(),
                &[(30, "take"), (1260, "name")],
            ),
            ("checks that never hold", every(0, 7200, "a:bad"), &[(30, "take")]),
            (
                "a service that was restarted begins the wait anew",
                [every(0, 600, "a"), every(630, 1500, "a:other")].concat(),
                &[(30, "take"), (1230, "name")],
            ),
            (
                "a tree that changes again begins anew, and needs a longer rest",
                [every(0, 600, "a"), every(630, 1800, "b")].concat(),
                &[(30, "take"), (690, "take"), (1320, "name")],
            ),
            (
                "an operation comes in between",
                [every(0, 600, "a"), vec![(630, "op")], every(660, 1800, "a")].concat(),
                &[(30, "take"), (690, "take"), (1320, "name")],
            ),
            (
                "it goes back to a release by itself",
                [every(0, 600, "a"), every(630, 7200, "known")].concat(),
                &[(30, "take")],
            ),
            (
                "looks that were left out for others",
                [every(0, 300, "a"), vec![(330, "busy"), (360, "busy")], every(390, 900, "a")]
                    .concat(),
                &[(30, "take"), (660, "name")],
            ),
            (
                "a time in which nobody looked counts for nothing",
                [every(0, 300, "a"), every(600, 1500, "a")].concat(),
                &[(30, "take"), (1200, "name")],
            ),
            (
                "a look that failed",
                [every(0, 600, "a"), vec![(630, "error")], every(660, 1500, "a")].concat(),
                &[(30, "take"), (690, "take"), (1320, "name")],
            ),
        ];
        for (what, looks, wanted) in table {
            let done = play(&mut Learning::default(), looks);
            let wanted: Vec<(u32, String)> =
                wanted.iter().map(|(at, done)| (*at, (*done).to_owned())).collect();
            assert_eq!(done, wanted, "{what}");
        }
    }

    #[test]
    fn what_could_not_be_taken_is_tried_again() {
        let mut learning = Learning::default();
        for at in [0, 30, 60] {
            let action = learning.look(seen("a", at), SECOND * at, RULES);
            let wanted = if at == 0 { Action::Nothing } else { Action::Take(hash("a")) };
            assert_eq!(action, wanted, "{at}");
            assert!(!learning.asks());
        }
    }

    #[test]
    fn what_could_not_be_named_is_tried_again_as_long_as_it_holds() {
        let mut learning = Learning::default();
        play(&mut learning, &every(0, 630, "a"));
        for (at, word, wanted) in [
            (660, "a", Action::Name(hash("a"))),
            (690, "a", Action::Name(hash("a"))),
            (720, "a:bad", Action::Nothing),
            (750, "a", Action::Nothing),
        ] {
            assert_eq!(learning.look(seen(word, at), SECOND * at, RULES), wanted, "{at}");
        }
    }

    #[test]
    fn every_look_is_held_to_the_first_that_saw_the_tree() {
        let mut learning = Learning::default();
        assert_eq!(learning.since(), None);
        play(&mut learning, &[(7, "a"), (37, "a"), (67, "a")]);
        assert_eq!(learning.since(), Some(wall(7)));
        assert!(learning.asks());
        play(&mut learning, &[(97, "b")]);
        assert_eq!(learning.since(), Some(wall(97)));
    }

    #[test]
    fn a_tree_that_never_rests_is_told_after_an_hour_and_taken_ever_more_rarely() {
        let mut learning = Learning::default();
        let names: Vec<String> = (0..100).map(|number| format!("t{number}")).collect();
        let mut taken = 0;
        // A log that is written every five minutes.
        for at in (0..=7200).step_by(30) {
            let name = &names[at as usize / 300];
            let mut seen = seen(name, at);
            if let Seen::Tree(tree) = &mut seen
                && at % 300 == 0
            {
                tree.moving = Some("/srv/app/log".to_owned());
            }
            if let Action::Take(exact) = learning.look(seen, SECOND * at, RULES) {
                taken += 1;
                learning.taken(exact, SECOND * at);
            }
            let told = learning.never_rests(SECOND * at, RULES);
            assert_eq!(told, (at >= 3600).then_some(Some("/srv/app/log")), "{at}");
        }
        assert_eq!(
            taken, 4,
            "after 30 s, 1, 2 and 4 minutes of rest, and then not for less than eight"
        );
        play(&mut learning, &[(7230, "known")]);
        assert_eq!(learning.never_rests(SECOND * 7230, RULES), None);
    }

    #[test]
    fn what_rests_but_is_not_healthy_is_not_told_to_move() {
        let mut learning = Learning::default();
        let looks = every(0, 7200, "a:bad");
        play(&mut learning, &looks);
        assert_eq!(learning.never_rests(SECOND * 7200, RULES), None);
    }

    #[test]
    fn nothing_is_named_that_was_not_healthy_at_every_look_for_so_long() {
        use proptest::prelude::*;
        let words = prop::sample::select(vec![
            "a", "a", "a", "a", "a", "a", "b", "a:bad", "a:other", "a:moving", "busy", "error",
            "op", "known",
        ]);
        let looks = prop::collection::vec((words, 1..200u32), 1..120);
        proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) }, |(looks in looks)| {
            let mut learning = Learning::default();
            let (mut now, mut history) = (0, Vec::new());
            for (word, passed) in looks {
                now += passed;
                history.push((now, word));
                match learning.look(seen(word, now), SECOND * now, RULES) {
                    Action::Nothing => {}
                    Action::Take(exact) => learning.taken(exact, SECOND * now),
                    Action::Name(exact) => {
                        let mut last = now;
                        let mut since = now;
                        for (at, seen) in history.iter().rev().filter(|(_, seen)| *seen != "busy") {
                            if last - at > 150 || *seen != word {
                                break;
                            }
                            (last, since) = (*at, *at);
                        }
                        prop_assert!(now - since >= 600, "{:?} {:?}", exact, history);
                        learning.named();
                    }
                }
            }
        });
    }
}
