//! The plan, before anything happens.
//!
//! Invariant: everything that a person has to know to say yes is here, and what does not go back is said.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1;

use super::{
    BOLD, DIM, View, WARN, canary, edge, field, paint,
    table::{Table, styled},
    traffic,
    words::{self, clean, count, duration_ms, or_dash, some_of},
};

/// The plan, several lines. `run_it` is the command that runs exactly this one; empty where it is not wanted.
pub fn plan(view: &View, plan: &v1::Plan, run_it: &str) -> String {
    if plan.nothing_to_do {
        return nothing_to_do(view, plan);
    }
    let mut text = head(view, plan);
    text += &field(view, "Why this target", &clean(&plan.why_target));
    text += &field(view, "Traffic", &traffic::planned(plan));
    text += &field(view, "Canary", &canary::planned(plan));
    text += &stages(view, plan);
    text += &hosts(view, plan);
    for warning in &plan.warnings {
        text += &field(view, "! Warning", &paint_words(&clean(warning)));
    }
    for (label, lines) in
        [("Interruption", &plan.interruption), ("Not rolled back", &plan.not_rolled_back)]
    {
        for (index, line) in lines.iter().enumerate() {
            text += &field(view, if index == 0 { label } else { "" }, &clean(line));
        }
    }
    text += &field(view, "Afterwards", &afterwards(plan));
    text += &field(view, "Halts", &halts(plan));
    text += &field(view, "Takes", &takes(plan));
    let undo = words::undo(plan.kind);
    let stop = if is_canary(plan) { "ctl canary abort" } else { "ctl abort OP --restore" };
    text += &field(view, "Stop, undo", &format!("{stop}, ctl {undo} OP"));
    if !run_it.is_empty() {
        text += &format!("Run exactly this plan:  {}\n", paint(BOLD, run_it));
    }
    text
}

/// What a plan is, in a few words: `rollback of prod`.
pub fn name(plan: &v1::Plan) -> String {
    format!("{} of {}", words::kind(plan.kind), clean(&plan.fleet))
}

/// `prod/ace-crm`.
pub fn fleet_and_app(fleet: &str, app: &str) -> String {
    if app.is_empty() { clean(fleet) } else { format!("{}/{}", clean(fleet), clean(app)) }
}

fn head(view: &View, plan: &v1::Plan) -> String {
    let place = fleet_and_app(&plan.fleet, &plan.app);
    let from = if plan.from_release.is_empty() { "(mixed)" } else { &plan.from_release };
    let moves = if words::goes_live(plan.kind) {
        format!("{} → {}", clean(from), or_dash(&plan.to_release))
    } else {
        format!("{} {}", words::kind(plan.kind), or_dash(&plan.to_release))
    };
    let left = format!("Plan {}   {place}   {}", clean(&plan.id), paint(BOLD, &moves));
    let left_ms = words::between_ms(view.now.as_millisecond(), plan.valid_until_unix_ms);
    // The way here took a moment; ten minutes are still ten minutes.
    let left_ms = left_ms.next_multiple_of(60_000);
    let valid = if left_ms > 0 { format!("valid {}", duration_ms(left_ms)) } else { String::new() };
    if valid.is_empty() { format!("{left}\n") } else { edge(view, &left, &paint(DIM, &valid)) }
}

fn nothing_to_do(view: &View, plan: &v1::Plan) -> String {
    let place = fleet_and_app(&plan.fleet, &plan.app);
    let mut text = format!("{place}   {}\n", paint(BOLD, "nothing to do"));
    text += &field(view, "Why", &clean(&plan.why_target));
    text
}

fn stages(view: &View, plan: &v1::Plan) -> String {
    let mut table = Table::new(["STAGE", "HOSTS AT A TIME", "STEPS ON EACH"]);
    let mut rest = plan.stages.as_slice();
    while let [stage, after @ ..] = rest {
        let folded = drained(plan, rest);
        let (name, middle): (String, Vec<&v1::Stage>) = match folded {
            0 => (clean(&stage.name), vec![stage]),
            folded => {
                let middle: Vec<&v1::Stage> =
                    rest[..folded * 3].iter().skip(1).step_by(3).collect();
                let word = stage_word(&middle[0].name);
                (format!("{word}, drained"), middle)
            }
        };
        let batches = middle.iter().flat_map(|stage| &stage.batches);
        let sizes: Vec<usize> = batches.map(|batch| batch.tracks.len()).collect();
        let soak = match (&middle[0].gate, middle[0].soak_ms) {
            (Some(gate), hold) => format!("; {}", canary::gate_words(gate, hold)),
            (None, 0) => String::new(),
            (None, soak) => format!(", then watch {}", duration_ms(soak)),
        };
        let verbs = verbs(middle[0]);
        let verbs = if folded > 0 { format!("drain, {verbs}, let in") } else { verbs };
        table.row([name.into(), self::batches(&sizes).into(), format!("{verbs}{soak}").into()]);
        rest = if folded > 0 { &rest[folded * 3..] } else { after };
    }
    table.render(view)
}

/// How many batches come next that are taken out of the traffic and let in again, three stages each.
fn drained(plan: &v1::Plan, rest: &[v1::Stage]) -> usize {
    let first = plan.stages.len() - rest.len();
    let is = |index: &usize| {
        let until = u32::try_from(first + index * 3 + 2).unwrap_or(0);
        rest.get(index * 3).is_some_and(|stage| stage.held_until == until)
            && rest.get(index * 3 + 2).is_some()
            && stage_word(&rest[index * 3].name) == "drain"
    };
    (0..).take_while(is).count()
}

/// `restore` of `restore crm-b1`.
fn stage_word(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

/// `1, then 2, then 2`; many of the same size are counted.
fn batches(sizes: &[usize]) -> String {
    match sizes {
        [all] => format!("all {all}"),
        [first, rest @ ..]
            if rest.len() > 2 && rest[..rest.len() - 1].iter().all(|size| size == &rest[0]) =>
        {
            format!("{first}, then {} × {}", rest.len(), rest[0])
        }
        sizes => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", then "),
    }
}

/// Each verb once, hooks by their names, in the order in which they come on the host that has most to do.
fn verbs(stage: &v1::Stage) -> String {
    let mut tracks: Vec<&v1::Track> =
        stage.batches.iter().flat_map(|batch| &batch.tracks).collect();
    tracks.sort_by_key(|track| std::cmp::Reverse(track.steps.len()));
    let mut seen: Vec<String> = Vec::new();
    for step in tracks.into_iter().flat_map(|track| &track.steps) {
        let word = match step.hook.as_str() {
            "" if step.component == words::TRAFFIC => {
                words::step(step.verb, &step.component, "", step.weights.as_ref())
            }
            "" => words::verb(step.verb),
            hook => format!("{}:{}", words::verb(step.verb), clean(hook)),
        };
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen.join(", ")
}

/// Hosts of which the same is true share a row, so that the plan of a large fleet stays readable.
fn hosts(view: &View, plan: &v1::Plan) -> String {
    let mut rows: Vec<(&v1::PlannedHost, Vec<&str>)> = Vec::new();
    let mut index: BTreeMap<(&str, &str, &str, &str, bool), usize> = BTreeMap::new();
    for host in &plan.hosts {
        let key = (
            host.group.as_str(),
            host.from_release.as_str(),
            host.to_release.as_str(),
            host.left_out.as_str(),
            host.reachable,
        );
        let row = *index.entry(key).or_insert_with(|| {
            rows.push((host, Vec::new()));
            rows.len() - 1
        });
        rows[row].1.push(&host.host);
    }
    let edges = edges(plan);
    let mut table = Table::new(["GROUP", "HOSTS", "NOW", "THEN"]);
    for (host, names) in rows {
        let target = if edges.contains(host.host.as_str()) {
            "divides the traffic".to_owned()
        } else {
            or_dash(&host.to_release)
        };
        let then = match (host.left_out.as_str(), host.reachable) {
            ("", true) => target.into(),
            ("", false) => styled(WARN, format!("{target}; out of reach now")),
            (why, _) if why.starts_with("left out") => styled(DIM, clean(why)),
            (why, _) => styled(DIM, format!("left out: {}", clean(why))),
        };
        let names = some_of(names.iter().copied(), 30);
        table.row([
            clean(&host.group).into(),
            names.into(),
            or_dash(&host.from_release).into(),
            then,
        ]);
    }
    table.render(view)
}

/// Whether a plan tries a release on a few hosts first.
pub(super) fn is_canary(plan: &v1::Plan) -> bool {
    plan.stages.iter().any(|stage| stage.gate.is_some())
}

/// Hosts that only divide the traffic: nothing runs there that has a release.
pub(super) fn edges(plan: &v1::Plan) -> BTreeSet<&str> {
    let tracks =
        || plan.stages.iter().flat_map(|stage| &stage.batches).flat_map(|batch| &batch.tracks);
    let traffic = |track: &&v1::Track| {
        track.steps.iter().all(|step| step.component == words::TRAFFIC) && !track.steps.is_empty()
    };
    let mut edges: BTreeSet<&str> =
        tracks().filter(traffic).map(|track| track.host.as_str()).collect();
    for track in tracks().filter(|track| !traffic(track)) {
        edges.remove(track.host.as_str());
    }
    edges
}

fn afterwards(plan: &v1::Plan) -> String {
    let bad = plan.marks_from_bad.then(|| format!("{} is marked bad", or_dash(&plan.from_release)));
    let frozen = plan.freezes.then(|| format!("new deploys to {} are frozen", clean(&plan.fleet)));
    let parts: Vec<String> = bad.into_iter().chain(frozen).collect();
    parts.join("; ")
}

/// What ends it early, by the stage that cuts capacity.
fn halts(plan: &v1::Plan) -> String {
    let stage = plan.stages.iter().find(|stage| stage.cuts_capacity).or(plan.stages.first());
    let Some(budget) = stage.and_then(|stage| stage.budget) else { return String::new() };
    let more = |number: u32, word: &str| match number {
        0 => format!("any host {word}"),
        number => format!("more than {} {word}", count(number as usize, "host")),
    };
    format!(
        "when {} or {}, or after {}",
        more(budget.failed, "failed"),
        more(budget.unknown, "unknown"),
        duration_ms(plan.deadline_ms)
    )
}

fn takes(plan: &v1::Plan) -> String {
    match plan.expected_ms {
        0 => String::new(),
        expected => format!("about {}, as last time", duration_ms(expected)),
    }
}

/// A style per word, so that wrapping does not leave one open at the end of a line.
fn paint_words(text: &str) -> String {
    text.split(' ').map(|word| paint(WARN, word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    fn step(verb: v1::Verb) -> v1::Step {
        let (release, snapshot) = ("v1.4.2".to_owned(), "5d2e77".to_owned());
        v1::Step {
            verb: verb.into(),
            component: "crm".to_owned(),
            release,
            snapshot,
            deadline_ms: 60_000,
            hook: String::new(),
            ..v1::Step::default()
        }
    }

    fn stage(name: &str, batches: &[&[&str]], verbs: &[v1::Verb], cuts: bool) -> v1::Stage {
        let track = |host: &&str| v1::Track {
            host: (*host).to_owned(),
            steps: verbs.iter().copied().map(step).collect(),
        };
        v1::Stage {
            name: name.to_owned(),
            batches: batches
                .iter()
                .map(|hosts| v1::Batch { tracks: hosts.iter().map(track).collect() })
                .collect(),
            budget: Some(v1::Budget { failed: u32::from(cuts), unknown: 1, out: 2 }),
            soak_ms: 0,
            cuts_capacity: cuts,
            ..v1::Stage::default()
        }
    }

    /// A rollback of five hosts and one that is left out.
    pub(crate) fn example() -> v1::Plan {
        use v1::Verb::{Preflight, Stage, Start, Stop, Switch, Verify};
        let host = |host: &str, group: &str, left_out: &str| v1::PlannedHost {
            host: host.to_owned(),
            group: group.to_owned(),
            from_release: if left_out.is_empty() { "v1.4.3".to_owned() } else { String::new() },
            to_release: if left_out.is_empty() { "v1.4.2".to_owned() } else { String::new() },
            left_out: left_out.to_owned(),
            reachable: host != "crm-g2",
        };
        v1::Plan {
            id: "8f21c0de".to_owned(),
            hash: "8f21c0de".repeat(8),
            kind: v1::OperationKind::Rollback.into(),
            fleet: "prod".to_owned(),
            app: "ace-crm".to_owned(),
            from_release: "v1.4.3".to_owned(),
            to_release: "v1.4.2".to_owned(),
            why_target: "newest release older than v1.4.3 that is proven good; whole on 5 of 5 hosts".to_owned(),
            stages: vec![
                stage("prepare", &[&["crm-b1", "crm-b2", "crm-c1", "crm-g1", "crm-g2"]], &[Preflight, Stage], false),
                stage("restore", &[&["crm-c1"], &["crm-b1", "crm-b2"], &["crm-g1", "crm-g2"]], &[Stop, Switch, Start, Verify], true),
            ],
            hosts: vec![
                host("crm-b1", "blue", ""),
                host("crm-b2", "blue", ""),
                host("crm-c1", "canary", ""),
                host("lb-1", "edge", "has no component of the app"),
                host("crm-g1", "green", ""),
                host("crm-g2", "green", ""),
            ],
            marks_from_bad: true,
            freezes: true,
            interruption: vec!["each host is out from stop to start; 1, then 2, then 2 at a time, never more than 2 of 5".to_owned()],
            not_rolled_back: vec!["data that the app wrote: databases, `keep` paths, mail already sent".to_owned()],
            warnings: vec!["crm-g2 is out of reach: it counts as unknown".to_owned()],
            deadline_ms: 300_000,
            expected_ms: 100_000,
            valid_until_unix_ms: view().now.as_millisecond() + 600_000,
            nothing_to_do: false,
            production: true,
            ..v1::Plan::default()
        }
    }

    #[test]
    fn a_rollback() {
        let run_it = "ctl rollback --fleet prod --plan 8f21c0de --confirm prod";
        insta::assert_snapshot!(plain(&plan(&view(), &example(), run_it)));
    }

    /// The same with a proxy that reloads, hooks, and a second edge host that is in place.
    pub(crate) fn with_edge() -> v1::Plan {
        use v1::Verb::{Hook, Preflight, Reload, Stage, Start, Stop, Switch, Verify};
        let mut plan = example();
        let mut apps = stage(
            "restore",
            &[&["crm-c1"], &["crm-b1", "crm-b2"], &["crm-g1", "crm-g2"]],
            &[Hook, Stop, Switch, Hook, Start, Verify],
            true,
        );
        for track in apps.batches.iter_mut().flat_map(|batch| &mut batch.tracks) {
            "drain".clone_into(&mut track.steps[0].hook);
            "clear-cache".clone_into(&mut track.steps[3].hook);
        }
        plan.stages = vec![
            stage(
                "prepare",
                &[&["crm-b1", "crm-b2", "crm-c1", "crm-g1", "crm-g2", "lb-1"]],
                &[Preflight, Stage],
                false,
            ),
            apps,
            stage("restore edge", &[&["lb-1"]], &[Switch, Reload, Verify], true),
            stage("verify from the edge", &[&["lb-2"]], &[Verify], false),
        ];
        let edge = |host: &str, from: &str| v1::PlannedHost {
            host: host.to_owned(),
            group: "edge".to_owned(),
            from_release: from.to_owned(),
            to_release: "v1.4.2".to_owned(),
            left_out: String::new(),
            reachable: true,
        };
        plan.hosts.retain(|host| host.host != "lb-1");
        plan.hosts.extend([edge("lb-1", "v1.4.3"), edge("lb-2", "v1.4.2")]);
        plan
    }

    #[test]
    fn stages_come_in_order_with_hooks_reloads_and_the_look_from_the_edge() {
        insta::assert_snapshot!(plain(&plan(&view(), &with_edge(), "")));
    }

    /// A deploy of ten hosts behind an edge, each batch drained before it and let in again after it.
    pub(crate) fn drained() -> v1::Plan {
        use v1::Verb::{Drain, Preflight, SetWeights, Stage, Start, Stop, Switch, Verify};
        let blue = |out: &[&str]| v1::Weights {
            groups: vec![v1::GroupWeight { group: "blue".to_owned(), percent: 100 }],
            out: out.iter().map(|host| (*host).to_owned()).collect(),
        };
        let traffic = |name: &str, verbs: &[v1::Verb], out: &[&str]| {
            let mut stage = stage(name, &[&["lb-1"]], verbs, true);
            for step in stage.batches.iter_mut().flat_map(|batch| &mut batch.tracks) {
                for step in &mut step.steps {
                    words::TRAFFIC.clone_into(&mut step.component);
                    step.weights = Some(blue(out));
                }
            }
            stage
        };
        let names: Vec<String> = (1..=10).map(|n| format!("crm-b{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut stages = vec![stage("prepare", &[&names], &[Preflight, Stage], false)];
        let batches: [&[&str]; 4] = [&names[..1], &names[1..4], &names[4..7], &names[7..]];
        for (index, batch) in batches.into_iter().enumerate() {
            let list = batch.join(", ");
            let until = u32::try_from(stages.len() + 2).unwrap();
            let held_until = until;
            let drain = traffic(&format!("drain {list}"), &[SetWeights, Drain], batch);
            stages.push(v1::Stage { held_until, ..drain });
            let deploy = [Stop, Switch, Start, Verify];
            stages.push(v1::Stage {
                soak_ms: 30_000,
                ..stage(&format!("deploy {list}"), &[batch], &deploy, true)
            });
            let last: &[v1::Verb] = if index == 3 { &[SetWeights, Verify] } else { &[SetWeights] };
            stages.push(v1::Stage {
                mitigates: index == 3,
                ..traffic(&format!("traffic to {list}"), last, &[])
            });
        }
        let mut plan = v1::Plan {
            kind: v1::OperationKind::Deploy.into(),
            from_release: "v1.4.3".to_owned(),
            to_release: "v1.4.4".to_owned(),
            why_target: "v1.4.4 goes live, host by host".to_owned(),
            stages,
            marks_from_bad: false,
            freezes: false,
            warnings: Vec::new(),
            weights_before: Some(blue(&[])),
            weights_after: Some(blue(&[])),
            ..example()
        };
        let app = v1::PlannedHost {
            group: "blue".to_owned(),
            from_release: "v1.4.3".to_owned(),
            to_release: "v1.4.4".to_owned(),
            reachable: true,
            ..v1::PlannedHost::default()
        };
        let host = |name: &&str| v1::PlannedHost { host: (*name).to_owned(), ..app.clone() };
        plan.hosts = names.iter().map(host).collect();
        plan.hosts.push(v1::PlannedHost {
            host: "lb-1".to_owned(),
            group: "edge".to_owned(),
            from_release: String::new(),
            ..app.clone()
        });
        plan
    }

    #[test]
    fn batches_that_are_drained_share_a_row() {
        insta::assert_snapshot!(plain(&plan(&view(), &drained(), "")));
    }

    /// Users are moved first, and the side that they left is put in order after.
    pub(crate) fn traffic_first() -> v1::Plan {
        use v1::Verb::{Drain, Preflight, SetWeights, Stage, Start, Stop, Switch, Verify};
        let all_to = |group: &str| v1::Weights {
            groups: vec![v1::GroupWeight { group: group.to_owned(), percent: 100 }],
            out: Vec::new(),
        };
        let edge = |name: &str, verbs: &[v1::Verb], mitigates| {
            let mut stage = stage(name, &[&["lb-1"]], verbs, mitigates);
            for track in stage.batches.iter_mut().flat_map(|batch| &mut batch.tracks) {
                for step in &mut track.steps {
                    words::TRAFFIC.clone_into(&mut step.component);
                    step.weights = Some(all_to("green"));
                }
            }
            v1::Stage { mitigates, ..stage }
        };
        let mut plan = example();
        plan.stages = vec![
            stage("check green", &[&["crm-g1", "crm-g2"]], &[Verify], false),
            edge("shift traffic", &[SetWeights, Verify], true),
            edge("drain", &[Drain], false),
            stage("prepare", &[&["crm-b1", "crm-b2"]], &[Preflight, Stage], false),
            stage(
                "restore canary, blue",
                &[&["crm-c1", "crm-b1", "crm-b2"]],
                &[Stop, Switch, Start, Verify],
                true,
            ),
        ];
        // It is on the release already: it only looks, and comes first.
        plan.stages[4].batches[0].tracks[0].steps.drain(..3);
        (plan.weights_before, plan.weights_after) = (Some(all_to("blue")), Some(all_to("green")));
        plan.warnings.clear();
        plan.interruption =
            vec!["none for users: the traffic moves to green 100 %, and hosts change while they get none".to_owned()];
        for host in &mut plan.hosts {
            host.reachable = true;
            if host.host == "lb-1" {
                (host.left_out, host.to_release) = (String::new(), "v1.4.2".to_owned());
            }
            if host.group == "green" {
                host.from_release = "v1.4.2".to_owned();
            }
        }
        plan
    }

    #[test]
    fn users_first_hosts_after() {
        insta::assert_snapshot!(plain(&plan(&view(), &traffic_first(), "")));
    }

    /// A release that goes to the canary and to the side without traffic, and then to everybody.
    pub(crate) fn canary() -> v1::Plan {
        use v1::Verb::{Preflight, SetWeights, Stage, Start, Stop, Switch, Verify};
        let share = |group: &str, percent| v1::GroupWeight { group: group.to_owned(), percent };
        let to =
            |groups: &[v1::GroupWeight]| v1::Weights { groups: groups.to_vec(), out: Vec::new() };
        let edge = |name: &str, verbs: &[v1::Verb], weights: &v1::Weights| {
            let mut stage = stage(name, &[&["lb-1"]], verbs, false);
            let tracks = stage.batches.iter_mut().flat_map(|batch| &mut batch.tracks);
            for step in tracks.flat_map(|track| &mut track.steps) {
                words::TRAFFIC.clone_into(&mut step.component);
                step.weights = Some(weights.clone());
            }
            stage
        };
        let gated = |weight: u32, asks| {
            let weights = to(&[share("blue", 100 - weight), share("canary", weight)]);
            let measures = vec!["errors".to_owned(), "p95".to_owned()];
            let gate = v1::Gate { canary: "canary".to_owned(), weight, asks, measures };
            v1::Stage {
                gate: Some(gate),
                soak_ms: 600_000,
                held_until: 4,
                ..edge(&format!("canary {weight} %"), &[SetWeights], &weights)
            }
        };
        let green = to(&[share("green", 100)]);
        let hosts = ["crm-c1", "crm-g1", "crm-g2"];
        let mut plan = drained();
        plan.id = "4b1e77aa".to_owned();
        plan.why_target =
            "v1.4.3 goes live, on a few hosts with a rising share of the traffic first".to_owned();
        plan.stages = vec![
            stage("prepare canary, green", &[&hosts], &[Preflight, Stage], false),
            stage("deploy canary, green", &[&hosts], &[Stop, Switch, Start, Verify], true),
            gated(5, false),
            gated(50, true),
            edge("shift traffic", &[SetWeights, Verify], &green),
        ];
        let app = plan.hosts[0].clone();
        let host = |host: &str, group: &str, left_out: &str| v1::PlannedHost {
            host: host.to_owned(),
            group: group.to_owned(),
            left_out: left_out.to_owned(),
            ..app.clone()
        };
        plan.hosts = vec![
            host("crm-b1", "blue", "stays as it is: the way back"),
            host("crm-b2", "blue", "stays as it is: the way back"),
            host("crm-c1", "canary", ""),
            host("crm-g1", "green", ""),
            host("crm-g2", "green", ""),
        ];
        (plan.weights_before, plan.weights_after) = (Some(to(&[share("blue", 100)])), Some(green));
        plan.interruption = vec![
            "none for most users: 5 % of the traffic meets the new release first; the others once the judge says pass".to_owned(),
        ];
        plan.deadline_ms = 90_000_000;
        plan
    }

    #[test]
    fn a_canary_says_what_each_weight_waits_for() {
        insta::assert_snapshot!(plain(&plan(&view(), &canary(), "")));
    }

    #[test]
    fn nothing_to_do_says_why() {
        let why_target =
            "v1.4.2 was put there by rb-0193; to go further back, name a release with --to"
                .to_owned();
        let example = v1::Plan { nothing_to_do: true, why_target, ..example() };
        insta::assert_snapshot!(plain(&plan(&view(), &example, "")));
    }

    #[test]
    fn a_large_fleet_stays_on_one_screen() {
        let mut example = example();
        let hosts: Vec<String> = (0..500).map(|n| format!("web-{n:03}")).collect();
        example.hosts = hosts
            .iter()
            .map(|host| v1::PlannedHost {
                host: host.clone(),
                group: "web".to_owned(),
                ..example.hosts[0].clone()
            })
            .collect();
        let track = |host: &String| v1::Track {
            host: host.clone(),
            ..example.stages[1].batches[0].tracks[0].clone()
        };
        let tracks: Vec<v1::Track> = hosts.iter().map(track).collect();
        example.stages[1].batches =
            tracks.chunks(50).map(|tracks| v1::Batch { tracks: tracks.to_vec() }).collect();
        let text = plain(&plan(&view(), &example, ""));
        assert!(text.lines().count() < 24, "{text}");
        assert!(text.contains("50, then 9 × 50"), "{text}");
    }
}
