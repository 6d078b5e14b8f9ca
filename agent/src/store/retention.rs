//! Which snapshots of a component may go: a judgement, without any I/O.
//!
//! ```text
//! rows (newest first) ─┐
//! rules of the policy ─┼─ judge ─▶ one Fate per row: goes, or stays, and why       (prune.rs carries it out)
//! what must stay ──────┘
//! ```
//!
//! A row goes when it is beyond the count *or* older than the age; then the oldest go until what is left takes no more
//! than `disk`. How old it is counts from when this store got it: a backup of last year that was imported an hour ago is
//! an hour old. Which of two is newer is said by when they were taken.
//!
//! Invariant: what must stay stays, whatever the rules say.
//! Invariant: nothing younger than a day goes by count, and no only copy goes to make room.
//! Invariant: higher limits never make more go.

use std::collections::{BTreeMap, BTreeSet};

use proto::policy::RetentionPolicy;

use super::hash::Hash;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A snapshot that must stay, and why, in words that follow `stays: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    pub exact: Hash,
    pub why: String,
}

/// What becomes of a snapshot, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Stays(String),
    Goes(String),
}

/// A snapshot as it is judged.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) exact: Hash,
    /// Somebody named it; else it is what an operation replaced.
    pub(super) named: bool,
    /// It cannot be gone back to, and so takes no place of one that can.
    pub(super) damaged: bool,
    /// Its bytes are nowhere but in the tree that was replaced.
    pub(super) only_copy: bool,
    /// Since when this store has it, or its newest name.
    pub(super) known_since_unix_ms: i64,
    /// What really stands in its name, where that had changed when it was replaced.
    pub(super) late: Option<Hash>,
    /// Its files' objects with their sizes.
    pub(super) objects: Vec<(Hash, u64)>,
    /// What its trees beside the live one take.
    pub(super) beside_bytes: u64,
}

impl Fate {
    /// Whether it goes.
    pub fn goes(&self) -> bool {
        matches!(self, Self::Goes(_))
    }
}

/// The fate of each row, in the order of the rows, which are given newest first.
pub(super) fn judge(
    rows: &[Row],
    rules: &RetentionPolicy,
    keep: &[Keep],
    now_unix_ms: i64,
) -> Vec<Fate> {
    let mut fates = by_count_and_age(rows, rules, keep, now_unix_ms);
    let pairs = pairs(rows);
    keep_together(rows, &pairs, &mut fates);
    if let Some(disk) = rules.disk {
        let movable = |row: &Row| !row.only_copy && keep.iter().all(|one| one.exact != row.exact);
        let mut taken = taken(rows, &fates);
        for index in (0..rows.len()).rev() {
            if taken.bytes() <= disk.0 {
                break;
            }
            let group = group(index, &pairs);
            if fates[index].goes() || !group.iter().all(|index| movable(&rows[*index])) {
                continue;
            }
            for index in group {
                if !fates[index].goes() {
                    taken.remove(&rows[index]);
                    fates[index] = Fate::Goes(format!("over {disk}"));
                }
            }
        }
    }
    fates
}

/// What the rows that stay take: each object once, and the trees beside the live one.
pub(super) fn bytes_taken(rows: &[Row], fates: &[Fate]) -> u64 {
    taken(rows, fates).bytes()
}

fn by_count_and_age(
    rows: &[Row],
    rules: &RetentionPolicy,
    keep: &[Keep],
    now_unix_ms: i64,
) -> Vec<Fate> {
    // What nobody named is counted by itself: it takes no place of a release.
    let mut places: BTreeMap<bool, u32> = BTreeMap::new();
    let mut fates = Vec::new();
    for row in rows {
        let place = places.entry(row.named).or_default();
        let beyond = rules.releases.filter(|most| *place >= *most);
        *place += u32::from(!row.damaged);
        let age_ms = now_unix_ms.saturating_sub(row.known_since_unix_ms);
        let old = rules
            .age
            .filter(|age| u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > age.0.as_millis()));
        let kept = keep.iter().find(|one| one.exact == row.exact);
        fates.push(match (kept, old, beyond) {
            (Some(kept), _, _) => Fate::Stays(kept.why.clone()),
            (None, Some(age), _) => Fate::Goes(format!("older than {age}")),
            (None, None, Some(_)) if age_ms < DAY_MS => {
                Fate::Stays("younger than a day".to_owned())
            }
            (None, None, Some(most)) => {
                let noun = match (row.named, most) {
                    (true, 1) => "release",
                    (true, _) => "releases",
                    (false, _) => "without a name",
                };
                Fate::Goes(format!("beyond {most} {noun}"))
            }
            (None, None, None) => Fate::Stays("within the limits".to_owned()),
        });
    }
    fates
}

/// Rows of which one's tree stands in the name of the other: neither can go alone.
fn pairs(rows: &[Row]) -> Vec<(usize, usize)> {
    let place = |exact| rows.iter().position(|row| row.exact == exact);
    let late = rows.iter().enumerate().filter_map(|(index, row)| Some((index, place(row.late?)?)));
    late.collect()
}

fn keep_together(rows: &[Row], pairs: &[(usize, usize)], fates: &mut [Fate]) {
    loop {
        let torn = pairs.iter().find_map(|(one, other)| {
            match (fates[*one].goes(), fates[*other].goes()) {
                (true, false) => Some((*one, *other)),
                (false, true) => Some((*other, *one)),
                (true, true) | (false, false) => None,
            }
        });
        let Some((goes, stays)) = torn else { return };
        let with = rows[stays].exact.to_string();
        fates[goes] = Fate::Stays(format!("stands together with {}, which stays", &with[..8]));
    }
}

/// A row and everything that can only go with it.
fn group(index: usize, pairs: &[(usize, usize)]) -> BTreeSet<usize> {
    let mut group = BTreeSet::from([index]);
    loop {
        let more = pairs.iter().flat_map(|(one, other)| [(*one, *other), (*other, *one)]);
        let more: Vec<usize> = more
            .filter(|(has, new)| group.contains(has) && !group.contains(new))
            .map(|p| p.1)
            .collect();
        if more.is_empty() {
            return group;
        }
        group.extend(more);
    }
}

/// Objects with how many rows name each, and trees.
#[derive(Default)]
struct Taken {
    objects: BTreeMap<Hash, (u64, u32)>,
    objects_bytes: u64,
    beside_bytes: u64,
}

fn taken(rows: &[Row], fates: &[Fate]) -> Taken {
    let mut taken = Taken::default();
    for (row, _) in rows.iter().zip(fates).filter(|(_, fate)| !fate.goes()) {
        taken.beside_bytes = taken.beside_bytes.saturating_add(row.beside_bytes);
        for (object, size_bytes) in distinct(row) {
            let known = taken.objects.entry(object).or_insert((size_bytes, 0));
            known.1 += 1;
            if known.1 == 1 {
                taken.objects_bytes = taken.objects_bytes.saturating_add(size_bytes);
            }
        }
    }
    taken
}

impl Taken {
    fn bytes(&self) -> u64 {
        self.objects_bytes.saturating_add(self.beside_bytes)
    }

    fn remove(&mut self, row: &Row) {
        self.beside_bytes = self.beside_bytes.saturating_sub(row.beside_bytes);
        for (object, _) in distinct(row) {
            let Some((size_bytes, named)) = self.objects.get_mut(&object) else { continue };
            *named -= 1;
            if *named == 0 {
                self.objects_bytes = self.objects_bytes.saturating_sub(*size_bytes);
                self.objects.remove(&object);
            }
        }
    }
}

/// A file that stands twice in a release is one object.
fn distinct(row: &Row) -> BTreeMap<Hash, u64> {
    row.objects.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::amount::{Age, Size};

    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn hash(number: u64) -> Hash {
        Hash::of(&number.to_le_bytes())
    }

    /// The `number`th snapshot, of so many days ago, with 100 bytes of its own and 50 that all have.
    fn row(number: u64, days: i64) -> Row {
        let at = NOW - days * DAY_MS;
        Row {
            exact: hash(number),
            named: true,
            damaged: false,
            only_copy: false,
            known_since_unix_ms: at,
            late: None,
            objects: vec![(hash(number + 1000), 100), (hash(999), 50)],
            beside_bytes: 0,
        }
    }

    fn rules(releases: Option<u32>, days: Option<u64>, disk: Option<u64>) -> RetentionPolicy {
        RetentionPolicy { releases, age: days.map(Age::days), disk: disk.map(Size) }
    }

    fn keep(number: u64, why: &str) -> Keep {
        Keep { exact: hash(number), why: why.to_owned() }
    }

    fn told(fates: &[Fate]) -> Vec<String> {
        let one = |fate: &Fate| match fate {
            Fate::Stays(why) => format!("stays: {why}"),
            Fate::Goes(why) => format!("goes: {why}"),
        };
        fates.iter().map(one).collect()
    }

    #[test]
    fn the_count_takes_what_is_beyond_and_never_what_must_stay() {
        let rows: Vec<Row> = (0..5).map(|number| row(number, number as i64 * 3)).collect();
        let kept = [keep(4, "last good")];
        assert_eq!(
            told(&judge(&rows, &rules(Some(2), None, None), &kept, NOW)),
            [
                "stays: within the limits",
                "stays: within the limits",
                "goes: beyond 2 releases",
                "goes: beyond 2 releases",
                "stays: last good",
            ]
        );
    }

    #[test]
    fn nothing_younger_than_a_day_goes_by_count_but_by_age_and_for_room() {
        let rows: Vec<Row> = (0..3).map(|number| row(number, 0)).collect();
        let fates = judge(&rows, &rules(Some(1), None, None), &[], NOW);
        assert_eq!(fates[2], Fate::Stays("younger than a day".to_owned()));
        let fates = judge(&rows, &rules(Some(1), None, Some(260)), &[], NOW);
        assert_eq!(fates[2], Fate::Goes("over 260B".to_owned()));
        assert!(!fates[1].goes() && !fates[0].goes());
    }

    #[test]
    fn an_imported_backup_is_as_old_as_its_import() {
        let imported = Row { known_since_unix_ms: NOW, ..row(1, 400) };
        let fates = judge(&[row(0, 40), imported], &rules(None, Some(30), None), &[], NOW);
        assert_eq!(told(&fates), ["goes: older than 30d", "stays: within the limits"]);
    }

    #[test]
    fn what_nobody_named_and_what_is_damaged_takes_no_place_of_a_release() {
        let rows = [
            Row { named: false, ..row(0, 2) },
            Row { damaged: true, ..row(1, 3) },
            row(2, 4),
            Row { damaged: true, ..row(3, 5) },
            Row { named: false, ..row(4, 6) },
        ];
        assert_eq!(
            told(&judge(&rows, &rules(Some(1), None, None), &[], NOW)),
            [
                "stays: within the limits",
                "stays: within the limits",
                "stays: within the limits",
                "goes: beyond 1 release",
                "goes: beyond 1 without a name",
            ]
        );
    }

    #[test]
    fn room_is_made_from_the_oldest_and_a_shared_file_counts_once() {
        let rows: Vec<Row> = (0..4).map(|number| row(number, number as i64)).collect();
        // Four of 100, and 50 that all share.
        let gone = |disk, kept: &[Keep]| -> Vec<bool> {
            let fates = judge(&rows, &rules(None, None, Some(disk)), kept, NOW);
            fates.iter().map(Fate::goes).collect()
        };
        assert_eq!(gone(450, &[]), [false, false, false, false]);
        assert_eq!(gone(449, &[]), [false, false, false, true]);
        assert_eq!(gone(250, &[keep(3, "pinned")]), [false, true, true, false]);
        assert_eq!(gone(1, &[keep(0, "live")]), [false, true, true, true]);
    }

    #[test]
    fn the_only_copy_is_not_taken_to_make_room() {
        let rows = [row(0, 0), Row { only_copy: true, beside_bytes: 9999, ..row(1, 2) }];
        assert!(
            judge(&rows, &rules(None, None, Some(1)), &[keep(0, "live")], NOW)
                .iter()
                .all(|fate| !fate.goes())
        );
        assert!(judge(&rows, &rules(None, Some(1), None), &[], NOW)[1].goes());
    }

    #[test]
    fn a_tree_in_anothers_name_goes_with_it_or_not_at_all() {
        let pair = [row(0, 1), Row { late: Some(hash(2)), ..row(1, 9) }, row(2, 8)];
        let fates = judge(&pair, &rules(None, Some(8), None), &[], NOW);
        assert_eq!(
            told(&fates)[1..],
            [
                format!("stays: stands together with {}, which stays", &hash(2).to_string()[..8]),
                "stays: within the limits".to_owned(),
            ]
        );
        let fates = judge(&pair, &rules(None, Some(7), None), &[], NOW);
        assert!(fates[1].goes() && fates[2].goes());
    }

    prop_compose! {
        fn any_rows()(rows in prop::collection::vec(
            (0..200i64, any::<bool>(), any::<bool>(), any::<bool>(), 0..20i64, prop::option::of(0..12u64), 0..3u64), 0..12
        )) -> Vec<Row> {
            rows.into_iter().enumerate().map(
                |(number, (days, named, damaged, only_copy, later, late, beside))| {
                    let row = row(number as u64, days);
                    let known_since_unix_ms = row.known_since_unix_ms + later * DAY_MS;
                    let late = late.map(hash).filter(|late| *late != row.exact);
                    let beside_bytes = beside * 100;
                    Row { named, damaged, only_copy, known_since_unix_ms, late, beside_bytes, ..row }
                }
            ).collect()
        }
    }

    prop_compose! {
        fn any_rules()(
            releases in prop::option::of(1..8u32), days in prop::option::of(1..100u64), disk in prop::option::of(1..2000u64)
        ) -> RetentionPolicy {
            rules(releases, days, disk)
        }
    }

    fn any_keep() -> impl Strategy<Value = Vec<Keep>> {
        let one = (0..12u64).prop_map(|number| keep(number, "last good"));
        prop::collection::vec(one, 0..4)
    }

    proptest! {
        #[test]
        fn p05_what_must_stay_stays(rows in any_rows(), rules in any_rules(), kept in any_keep()) {
            let fates = judge(&rows, &rules, &kept, NOW);
            prop_assert_eq!(fates.len(), rows.len());
            for (row, fate) in rows.iter().zip(&fates) {
                let protected = kept.iter().any(|one| one.exact == row.exact);
                prop_assert!(!(protected && fate.goes()), "{:?}", row);
                // A tree that stands in another's name never goes alone, nor is left alone.
                if let Some(other) = rows.iter().position(|other| Some(other.exact) == row.late) {
                    prop_assert_eq!(fate.goes(), fates[other].goes());
                }
            }
        }

        #[test]
        fn every_reason_holds(rows in any_rows(), rules in any_rules(), kept in any_keep()) {
            let fates = judge(&rows, &rules, &kept, NOW);
            let by = |word: &str, index: usize| matches!(&fates[index], Fate::Goes(why) if why.starts_with(word));
            for (index, row) in rows.iter().enumerate() {
                let age_ms = NOW - row.known_since_unix_ms;
                if by("older", index) {
                    prop_assert!(age_ms > i64::try_from(rules.age.unwrap().0.as_millis()).unwrap());
                }
                if by("beyond", index) {
                    let newer = rows[..index].iter().filter(|one| one.named == row.named && !one.damaged);
                    prop_assert!(newer.count() >= rules.releases.unwrap() as usize && age_ms >= DAY_MS);
                }
                if by("over", index) {
                    prop_assert!(!row.only_copy);
                }
            }
        }

        #[test]
        fn higher_limits_never_make_more_go(
            rows in any_rows(), rules in any_rules(), kept in any_keep(), more in 1..6u32
        ) {
            let gone = |rules: &RetentionPolicy| -> BTreeSet<Hash> {
                let fates = judge(&rows, rules, &kept, NOW);
                rows.iter().zip(fates).filter(|(_, fate)| fate.goes()).map(|(row, _)| row.exact).collect()
            };
            let narrow = gone(&rules);
            let releases = rules.releases.map(|releases| releases + more);
            let age = rules.age.map(|age| Age(age.0 * (more + 1)));
            let disk = rules.disk.map(|disk| Size(disk.0 * u64::from(more + 1)));
            // Room is made with what the others leave, so each of these is widened where nothing makes room.
            let plain = RetentionPolicy { disk: None, ..rules };
            let of_count = gone(&RetentionPolicy { releases, ..plain });
            let of_age = gone(&RetentionPolicy { age, ..plain });
            let of_disk = gone(&RetentionPolicy { disk, ..rules });
            let plain = gone(&plain);
            prop_assert!(of_count.is_subset(&plain) && of_age.is_subset(&plain));
            prop_assert!(plain.is_subset(&of_disk) && of_disk.is_subset(&narrow));
        }

        #[test]
        fn more_that_must_stay_never_makes_more_go_by_count_and_age(
            rows in any_rows(), rules in any_rules(), kept in any_keep(), also in 0..12u64
        ) {
            let rules = RetentionPolicy { disk: None, ..rules };
            let gone = |kept: &[Keep]| -> BTreeSet<Hash> {
                let fates = judge(&rows, &rules, kept, NOW);
                rows.iter().zip(fates).filter(|(_, fate)| fate.goes()).map(|(row, _)| row.exact).collect()
            };
            let mut more = kept.clone();
            more.push(keep(also, "pinned"));
            prop_assert!(gone(&more).is_subset(&gone(&kept)));
        }

        #[test]
        fn room_is_made_as_far_as_what_must_stay_lets_it(rows in any_rows(), disk in 1..2000u64, kept in any_keep()) {
            let rules = rules(None, None, Some(disk));
            let fates = judge(&rows, &rules, &kept, NOW);
            if bytes_taken(&rows, &fates) > disk {
                let pairs = pairs(&rows);
                for (index, _) in fates.iter().enumerate().filter(|(_, fate)| !fate.goes()) {
                    let bound = group(index, &pairs).into_iter().any(|index| {
                        rows[index].only_copy || kept.iter().any(|one| one.exact == rows[index].exact)
                    });
                    prop_assert!(bound);
                }
            }
        }
    }
}
