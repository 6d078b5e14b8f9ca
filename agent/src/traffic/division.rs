//! From percents by group to one weight for each host, and back.
//!
//! ```text
//! Weights (percent by group, hosts out) ─▶ refusal? ─▶ exact: any whole numbers    (nginx)
//!                                                   └▶ within: up to a largest one (HAProxy)
//! Shares (what runs, by host) ─▶ back ─▶ Weights (percent by group, hosts out)
//! ```
//!
//! Invariant: pure.
//! Invariant: a group's hosts share its percent evenly; a host that is out, and a group without a share, get nothing.
//! Invariant: what was computed for a division reads back as that division.

use std::collections::{BTreeMap, BTreeSet};

use crate::order::Weights;

/// The address of each host, by group.
pub(super) type Groups = BTreeMap<String, BTreeMap<String, String>>;

/// What each host gets, as parts of their sum; every host of the policy is there.
pub(super) type Shares = BTreeMap<String, u64>;

/// The largest weight that a proxy is given; many more would not be told apart by one.
const LARGEST: u64 = 1_000_000_000;
const WHOLE: u64 = 100;
/// HAProxy divides the more exactly the larger its weights are, and needs the longer for it after a change.
const ENOUGH: u64 = 100;

/// Why traffic cannot be divided so among these groups, where it cannot.
pub(super) fn refusal(groups: &Groups, weights: &Weights) -> Option<String> {
    let sum: u64 = weights.groups.values().map(|percent| u64::from(*percent)).sum();
    if sum != WHOLE {
        return Some(format!("weights sum to {sum}, not to 100"));
    }
    if let Some((group, _)) = weights.groups.iter().find(|(_, percent)| **percent == 0) {
        return Some(format!("group {group} is listed with 0 %; leave out what gets nothing"));
    }
    if let Some(group) = weights.groups.keys().find(|group| !groups.contains_key(*group)) {
        return Some(format!(
            "group {group} is not in the `traffic` of this host's policy; it has: {}",
            listed(groups.keys())
        ));
    }
    let known = |host: &&String| groups.values().any(|hosts| hosts.contains_key(*host));
    if let Some(host) = weights.out.iter().find(|host| !known(host)) {
        return Some(format!("host {host} is not in the `traffic` of this host's policy"));
    }
    let empty = |group: &&String| members(groups, weights, group).next().is_none();
    weights.groups.keys().find(empty).map(|group| {
        let percent = weights.groups[group];
        format!("group {group} is to get {percent} %, and has no host that is not out")
    })
}

/// The hosts of a group that are not out.
pub(super) fn members<'a>(
    groups: &'a Groups,
    weights: &'a Weights,
    group: &str,
) -> impl Iterator<Item = &'a String> {
    let hosts = groups.get(group).into_iter().flat_map(BTreeMap::keys);
    hosts.filter(|host| !weights.out.contains(*host))
}

/// The hosts that get traffic.
pub(super) fn reached(groups: &Groups, weights: &Weights) -> BTreeSet<String> {
    weights.groups.keys().flat_map(|group| members(groups, weights, group).cloned()).collect()
}

/// The hosts that get nothing.
pub(super) fn unreached(groups: &Groups, weights: &Weights) -> BTreeSet<String> {
    let reached = reached(groups, weights);
    let all = groups.values().flat_map(BTreeMap::keys);
    all.filter(|host| !reached.contains(*host)).cloned().collect()
}

/// The same division in the one form in which it is compared: without groups that get 0 %, and out are hosts of the others
/// only.
pub(super) fn plain(groups: &Groups, weights: &Weights) -> Weights {
    let mut weights = weights.clone();
    weights.groups.retain(|_, percent| *percent > 0);
    let shares = weights.groups.keys().filter_map(|group| groups.get(group));
    let hosts: BTreeSet<&String> = shares.flat_map(BTreeMap::keys).collect();
    let out = weights.out.iter().filter(|host| hosts.contains(host)).cloned().collect();
    Weights { groups: weights.groups, out }
}

/// The smallest whole weights that divide exactly so.
pub(super) fn exact(groups: &Groups, weights: &Weights) -> Result<Shares, String> {
    if let Some(why) = refusal(groups, weights) {
        return Err(why);
    }
    let too_many = || "so many hosts cannot be given their shares in whole numbers".to_owned();
    let mut common: u64 = 1;
    for group in weights.groups.keys() {
        let count = counted(groups, weights, group);
        common = (common / gcd(common, count)).checked_mul(count).ok_or_else(too_many)?;
    }
    let mut of_group = BTreeMap::new();
    for (group, percent) in &weights.groups {
        let each = common / counted(groups, weights, group);
        let each = each.checked_mul(u64::from(*percent)).ok_or_else(too_many)?;
        of_group.insert(group.as_str(), each);
    }
    let divisor = of_group.values().copied().fold(0, gcd).max(1);
    of_group.values_mut().for_each(|each| *each /= divisor);
    if of_group.values().any(|each| *each > LARGEST) {
        return Err(too_many());
    }
    Ok(shared(groups, weights, &of_group))
}

/// Weights up to `largest` that come nearest. Refused where they would read back as another division.
pub(super) fn within(groups: &Groups, weights: &Weights, largest: u64) -> Result<Shares, String> {
    let exact = exact(groups, weights)?;
    let top = exact.values().copied().max().unwrap_or(1).max(1);
    if top <= largest {
        let times = (ENOUGH.min(largest) / top).max(1);
        return Ok(exact.into_iter().map(|(host, part)| (host, part * times)).collect());
    }
    let asked = plain(groups, weights);
    let mut best: Option<(f64, Shares)> = None;
    // The host with the most gets each possible weight once; the others follow.
    for scale in 1..=largest {
        let scaled = |part: u64| match part {
            0 => 0,
            part => ((part * scale + top / 2) / top).max(1),
        };
        let shares: Shares =
            exact.iter().map(|(host, part)| (host.clone(), scaled(*part))).collect();
        let off = distance(groups, weights, &shares);
        let better = best.as_ref().is_none_or(|(least, _)| off < *least);
        if better && back(groups, &shares).as_ref() == Some(&asked) {
            best = Some((off, shares));
        }
    }
    best.map(|(_, shares)| shares).ok_or_else(|| {
        format!(
            "{weights} cannot be told in weights of at most {largest}: a host of the one group would get more than \
             {largest} times what one of another gets; choose shares that are nearer to each other"
        )
    })
}

/// The division that shares amount to, in whole percents; none where nobody gets anything.
pub(super) fn back(groups: &Groups, shares: &Shares) -> Option<Weights> {
    let part = |host: &String| shares.get(host).copied().unwrap_or(0);
    let mut sums: BTreeMap<&String, u64> = BTreeMap::new();
    let mut out = BTreeSet::new();
    for (group, hosts) in groups {
        let sum: u64 = hosts.keys().map(part).sum();
        if sum > 0 {
            sums.insert(group, sum);
            out.extend(hosts.keys().filter(|host| part(host) == 0).cloned());
        }
    }
    let whole: u64 = sums.values().sum();
    if whole == 0 {
        return None;
    }
    // The largest remainders are rounded up, so that the sum is 100; who gets something has at least 1.
    let mut percents: BTreeMap<&String, u64> = BTreeMap::new();
    let mut rests: Vec<(u64, &String)> = Vec::new();
    for (group, sum) in &sums {
        let scaled = u128::from(*sum) * u128::from(WHOLE);
        let floor = u64::try_from(scaled / u128::from(whole)).unwrap_or(WHOLE);
        let rest = u64::try_from(scaled % u128::from(whole)).unwrap_or(u64::MAX);
        percents.insert(group, floor.max(1));
        rests.push((if floor == 0 { 0 } else { rest }, group));
    }
    rests.sort_unstable_by(|one, other| other.cmp(one));
    let missing = WHOLE.saturating_sub(percents.values().sum());
    for (_, group) in rests.iter().cycle().take(usize::try_from(missing).unwrap_or(0)) {
        *percents.entry(group).or_default() += 1;
    }
    while percents.values().sum::<u64>() > WHOLE {
        let most = percents.values_mut().max()?;
        *most -= 1;
    }
    let percent = |value: u64| u32::try_from(value).unwrap_or(100);
    let groups = percents.into_iter().map(|(group, value)| (group.clone(), percent(value)));
    Some(Weights { groups: groups.collect(), out })
}

fn counted(groups: &Groups, weights: &Weights, group: &str) -> u64 {
    u64::try_from(members(groups, weights, group).count()).unwrap_or(u64::MAX)
}

/// Each host's part, where each group's hosts have this one.
fn shared(groups: &Groups, weights: &Weights, of_group: &BTreeMap<&str, u64>) -> Shares {
    let mut shares = Shares::new();
    for (group, hosts) in groups {
        for host in hosts.keys() {
            let part = of_group.get(group.as_str()).copied().unwrap_or(0);
            let part = if weights.out.contains(host) { 0 } else { part };
            shares.insert(host.clone(), part);
        }
    }
    shares
}

/// How far a group is from its percent, at most; in percent points.
#[expect(
    clippy::cast_precision_loss,
    reason = "parts of a thousand are far below what a float holds"
)]
fn distance(groups: &Groups, weights: &Weights, shares: &Shares) -> f64 {
    let whole: u64 = shares.values().sum();
    let off = |(group, hosts): (&String, &BTreeMap<String, String>)| {
        let sum: u64 = hosts.keys().filter_map(|host| shares.get(host)).sum();
        let wanted = weights.groups.get(group).copied().unwrap_or(0);
        (sum as f64 / whole.max(1) as f64 * WHOLE as f64 - f64::from(wanted)).abs()
    };
    groups.iter().map(off).fold(0.0, f64::max)
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// `blue, green`.
pub(super) fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn groups(counts: &[usize]) -> Groups {
        let group = |(index, count): (usize, &usize)| {
            let hosts = (0..*count).map(|host| (format!("h{index}-{host}"), "10.0.0.1".to_owned()));
            (format!("g{index}"), hosts.collect())
        };
        counts.iter().enumerate().map(group).collect()
    }

    fn weights(percents: &[u32], out: &[&str]) -> Weights {
        let groups = percents.iter().enumerate().filter(|(_, percent)| **percent > 0);
        Weights {
            groups: groups.map(|(index, percent)| (format!("g{index}"), *percent)).collect(),
            out: out.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_group_of_three_and_a_canary_of_one_get_exactly_their_percent() {
        let shares = exact(&groups(&[3, 1]), &weights(&[95, 5], &[])).unwrap();
        let wanted = [("h0-0", 19), ("h0-1", 19), ("h0-2", 19), ("h1-0", 3)];
        assert_eq!(shares, wanted.map(|(host, part)| (host.to_owned(), part)).into());
        let without = exact(&groups(&[3, 1]), &weights(&[95, 5], &["h0-1"])).unwrap();
        assert_eq!((without["h0-0"], without["h0-1"], without["h1-0"]), (19, 0, 2));
        let all = exact(&groups(&[3, 1]), &weights(&[0, 100], &[])).unwrap();
        assert_eq!((all["h0-0"], all["h1-0"]), (0, 1));
    }

    #[test]
    fn what_is_no_division_is_refused_with_words() {
        let two = groups(&[2, 1]);
        for (bad, words) in [
            (weights(&[60, 30], &[]), "weights sum to 90, not to 100"),
            (weights(&[], &[]), "weights sum to 0, not to 100"),
            (weights(&[50, 25, 25], &[]), "group g2 is not in the `traffic`"),
            (weights(&[100], &["elsewhere"]), "host elsewhere is not in"),
            (weights(&[90, 10], &["h1-0"]), "group g1 is to get 10 %, and has no host"),
        ] {
            let why = exact(&two, &bad).unwrap_err();
            assert!(why.contains(words), "{why}");
            assert_eq!(within(&two, &bad, 256), Err(why));
        }
        let mut zero = weights(&[100], &[]);
        zero.groups.insert("g1".to_owned(), 0);
        assert!(exact(&two, &zero).unwrap_err().contains("group g1 is listed with 0 %"));
    }

    #[test]
    fn what_does_not_fit_into_small_weights_is_refused_with_words() {
        let why = within(&groups(&[1, 40]), &weights(&[99, 1], &[]), 256).unwrap_err();
        assert!(why.contains("g0 99 %, g1 1 % cannot be told in weights of at most 256"), "{why}");
        let near = within(&groups(&[1, 3]), &weights(&[99, 1], &[]), 256).unwrap();
        assert_eq!((near["h0-0"], near["h1-0"]), (256, 1));
    }

    #[test]
    fn shares_of_somebodys_hand_read_back_in_whole_percents() {
        let uneven = [("h0-0", 2), ("h1-0", 1), ("h2-0", 0)];
        let shares = uneven.map(|(host, part)| (host.to_owned(), part)).into();
        let found = back(&groups(&[1, 1, 1]), &shares).unwrap();
        assert_eq!(found, weights(&[67, 33, 0], &[]));
        let hardly = [("h0-0", 999_999), ("h1-0", 1)];
        let shares = hardly.map(|(host, part)| (host.to_owned(), part)).into();
        assert_eq!(back(&groups(&[1, 1]), &shares).unwrap(), weights(&[99, 1], &[]));
        assert_eq!(back(&groups(&[1, 1]), &Shares::new()), None);
    }

    /// Groups of some hosts, percents that sum to 100, and hosts that are out while one of each group is left.
    fn divisions() -> impl Strategy<Value = (Groups, Weights)> {
        let counts = prop::collection::vec(1_usize..12, 1..5);
        (counts, prop::collection::vec(0_u32..=100, 4), any::<u64>()).prop_map(
            |(counts, cuts, out)| {
                let mut cuts: Vec<u32> = cuts[..counts.len() - 1].to_vec();
                cuts.extend([0, 100]);
                cuts.sort_unstable();
                let percents: Vec<u32> = cuts.windows(2).map(|two| two[1] - two[0]).collect();
                let groups = groups(&counts);
                let hosts = groups.values().flat_map(|hosts| hosts.keys().skip(1));
                let is_out = |(index, _): &(usize, _)| out >> (index % 64) & 1 == 1;
                let out: Vec<&str> =
                    hosts.enumerate().filter(is_out).map(|(_, host)| host.as_str()).collect();
                let weights = weights(&percents, &out);
                (groups, weights)
            },
        )
    }

    proptest! {
        #[test]
        fn every_group_gets_exactly_its_percent((groups, weights) in divisions()) {
            let shares = exact(&groups, &weights).unwrap();
            let whole: u64 = shares.values().sum();
            for (group, hosts) in &groups {
                let parts: BTreeSet<u64> =
                    hosts.keys().map(|host| shares[host]).filter(|part| *part > 0).collect();
                prop_assert!(parts.len() <= 1, "evenly: {parts:?}");
                let sum: u64 = hosts.keys().map(|host| shares[host]).sum();
                let percent = weights.groups.get(group).copied().unwrap_or(0);
                prop_assert_eq!(sum * 100, whole * u64::from(percent));
                for host in hosts.keys() {
                    let reached = percent > 0 && !weights.out.contains(host);
                    prop_assert_eq!(shares[host] > 0, reached);
                }
            }
            prop_assert_eq!(back(&groups, &shares), Some(plain(&groups, &weights)));
            prop_assert_eq!(shares.values().copied().fold(0, gcd), 1, "the smallest");
        }

        #[test]
        fn small_weights_read_back_as_what_was_asked((groups, weights) in divisions()) {
            // Where they cannot, that is said.
            if let Ok(shares) = within(&groups, &weights, 256) {
                prop_assert!(shares.values().all(|part| *part <= 256));
                prop_assert_eq!(back(&groups, &shares), Some(plain(&groups, &weights)));
                prop_assert!(distance(&groups, &weights, &shares) < 1.0);
                let nothing: BTreeSet<String> = shares
                    .iter().filter(|(_, part)| **part == 0).map(|(host, _)| host.clone()).collect();
                prop_assert_eq!(nothing, unreached(&groups, &weights));
            }
        }

        #[test]
        fn any_shares_read_back_as_a_whole(parts in prop::collection::vec(0_u64..2_000_000, 6)) {
            let groups = groups(&[2, 3, 1]);
            let hosts = groups.values().flat_map(BTreeMap::keys).cloned();
            let shares: Shares = hosts.zip(parts).collect();
            match back(&groups, &shares) {
                None => prop_assert_eq!(shares.values().sum::<u64>(), 0),
                Some(found) => {
                    prop_assert_eq!(refusal(&groups, &found), None);
                    prop_assert_eq!(unreached(&groups, &found).len(),
                        shares.values().filter(|part| **part == 0).count());
                }
            }
        }
    }
}
