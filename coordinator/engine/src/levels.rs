//! In which order groups move: what others need on their hosts goes first.
//!
//! ```text
//! Fleet: components, their groups, `needs` ──▶ Levels ──▶ one cutting stage per level
//!
//!   proxy (edge) needs web (app) needs api (app)     edge: 1     what a component needs on its own host is
//!   api (app) needs queue (db)                       app:  0 …   the order of its track, not of the stages
//! ```
//!
//! All hosts of a group have the same components, so that an order of groups is an order of hosts. A need leads to
//! other hosts where the component that is needed does not live on the host itself. The level of a group is the
//! longest chain of such needs.
//!
//! Groups that need each other in a circle (a on X needs b on Y, c on Y needs d on X) have no order: they share a
//! level, as if nothing were needed between them, and the plan says so. A fleet like that is not refused: one host
//! that carries both a queue and a proxy is common, and its app has to come back all the same.
//!
//! Invariant: total. A fleet of any shape has levels; a chain without a circle is never broken.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    fleet::{Component, Fleet},
    name::GroupName,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Levels<'a> {
    /// The groups on whose hosts a group directly needs something.
    needs: BTreeMap<&'a GroupName, BTreeSet<&'a GroupName>>,
    /// The same through others too.
    reach: BTreeMap<&'a GroupName, BTreeSet<&'a GroupName>>,
    levels: BTreeMap<&'a GroupName, usize>,
}

impl<'a> Levels<'a> {
    pub(crate) fn of(fleet: &'a Fleet) -> Self {
        let needs: BTreeMap<_, _> =
            fleet.groups.iter().map(|group| (&group.name, needs_of(fleet, &group.name))).collect();
        let reach = needs.keys().map(|group| (*group, reach(&needs, group))).collect();
        let mut this = Self { needs, reach, levels: BTreeMap::new() };
        for group in &fleet.groups {
            this.fill(&group.name);
        }
        this
    }

    /// How many others have to move before a group does, one after the other.
    pub(crate) fn level(&self, group: &GroupName) -> usize {
        self.levels.get(group).copied().unwrap_or(0)
    }

    /// Whether something on its hosts needs what lives on others.
    pub(crate) fn needs_others(&self, group: &GroupName) -> bool {
        self.needs.get(group).is_some_and(|needs| !needs.is_empty())
    }

    /// Whether something on its hosts needs, itself or through others, what lives on the hosts of `other`.
    pub(crate) fn reaches(&self, group: &GroupName, other: &GroupName) -> bool {
        self.reach.get(group).is_some_and(|reach| reach.contains(other))
    }

    /// Groups that need each other, each circle once.
    pub(crate) fn circles(&self) -> Vec<Vec<&'a GroupName>> {
        let mut circles = Vec::new();
        for group in self.needs.keys() {
            let circle = self.circle(group);
            if circle.len() > 1 && circle[0] == *group {
                circles.push(circle);
            }
        }
        circles
    }

    /// The groups that share a level with it because there is no order between them; itself among them.
    fn circle(&self, group: &'a GroupName) -> Vec<&'a GroupName> {
        let mutual = |other: &&&GroupName| {
            **other == group || (self.reaches(group, other) && self.reaches(other, group))
        };
        self.needs.keys().filter(mutual).copied().collect()
    }

    fn fill(&mut self, group: &'a GroupName) -> usize {
        if let Some(level) = self.levels.get(group) {
            return *level;
        }
        let circle = self.circle(group);
        let first: BTreeSet<&GroupName> =
            circle.iter().flat_map(|member| self.needs[member].clone()).collect();
        // What lies outside the circle does not reach back into it, so this ends.
        let before = first.into_iter().filter(|other| !circle.contains(other));
        let level = before.map(|other| self.fill(other) + 1).max().unwrap_or(0);
        self.levels.extend(circle.into_iter().map(|member| (member, level)));
        level
    }
}

fn needs_of<'a>(fleet: &'a Fleet, group: &GroupName) -> BTreeSet<&'a GroupName> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<&Component> =
        fleet.components.iter().filter(|component| component.groups.contains(group)).collect();
    while let Some(component) = open.pop() {
        for needed in &component.needs {
            let Some(other) = fleet.components.iter().find(|other| other.name == *needed) else {
                continue;
            };
            // On the host itself it is a part of the same track, and its own needs are looked at there.
            if other.groups.contains(group) || !seen.insert(&other.name) {
                continue;
            }
            let mut homes = homes(fleet, other).peekable();
            if homes.peek().is_none() {
                // It lives nowhere: what it needs is needed through it.
                open.push(other);
            }
            found.extend(homes);
        }
    }
    found
}

/// The groups with hosts on which a component lives.
fn homes<'a>(fleet: &'a Fleet, component: &'a Component) -> impl Iterator<Item = &'a GroupName> {
    let homes = fleet.groups.iter().filter(|home| component.groups.contains(&home.name));
    homes.filter(|home| !home.hosts.is_empty()).map(|home| &home.name)
}

fn reach<'a>(
    needs: &BTreeMap<&'a GroupName, BTreeSet<&'a GroupName>>,
    group: &GroupName,
) -> BTreeSet<&'a GroupName> {
    let mut found: BTreeSet<&GroupName> = BTreeSet::new();
    let mut open: Vec<&GroupName> = needs[group].iter().copied().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(needs.get(next).into_iter().flatten());
        }
    }
    found
}
