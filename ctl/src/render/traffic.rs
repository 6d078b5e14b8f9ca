//! How the traffic is divided, in words.

use proto::v1;

use super::{
    View, WARN, field, paint,
    words::{self, clean, day_and_time, duration_ms},
};

/// `blue 95 %, canary 5 % without b2`.
pub(super) fn weights(weights: &v1::Weights) -> String {
    let shares: Vec<String> = weights
        .groups
        .iter()
        .map(|row| format!("{} {} %", clean(&row.group), row.percent))
        .collect();
    let out: Vec<String> = weights.out.iter().map(|host| clean(host)).collect();
    let without =
        if out.is_empty() { String::new() } else { format!(" without {}", out.join(", ")) };
    shares.join(", ") + &without
}

/// What a plan does to the traffic, in one line; empty where it does nothing.
pub(super) fn planned(plan: &v1::Plan) -> String {
    match (&plan.weights_before, &plan.weights_after) {
        (_, None) => String::new(),
        (Some(before), Some(after)) if before == after && moves_any(plan) => {
            format!("stays {}; each host is taken out of it before it is touched", weights(after))
        }
        (Some(before), Some(after)) if before == after => {
            format!("stays {}", weights(after))
        }
        (Some(before), Some(after)) => format!("{} → {}", weights(before), weights(after)),
        (None, Some(after)) => format!("unset, or not alike on all edges → {}", weights(after)),
    }
}

/// `mitigated after 2.1s: users are on v1.4.2`.
pub(super) fn mitigated(plan: &v1::Plan, after_ms: u64) -> String {
    let (to, after) = (clean(&plan.to_release), duration_ms(after_ms));
    if takes_back(plan) {
        format!("mitigated after {after}: users are on {to}")
    } else {
        format!("users are on {to} after {after}")
    }
}

fn takes_back(plan: &v1::Plan) -> bool {
    matches!(plan.kind(), v1::OperationKind::Rollback | v1::OperationKind::Undo)
}

/// When users were safe, and when everything was done.
pub(super) fn times(view: &View, operation: &v1::Operation, plan: &v1::Plan) -> String {
    let since = |at: i64| duration_ms(words::between_ms(operation.started_unix_ms, at));
    if operation.mitigated_unix_ms == 0 {
        return String::new();
    }
    let mitigated = since(operation.mitigated_unix_ms);
    let words = match (takes_back(plan), operation.result()) {
        (true, v1::OperationResult::Verified) => {
            let restored = since(operation.ended_unix_ms);
            format!("mitigated after {mitigated}, restored after {restored}")
        }
        (false, v1::OperationResult::Verified) => {
            let done = since(operation.ended_unix_ms);
            format!("users were on it after {mitigated}, done after {done}")
        }
        // What was put back took the traffic back as well.
        (_, v1::OperationResult::PutBack | v1::OperationResult::Refused) => return String::new(),
        (true, _) => format!("mitigated after {mitigated}"),
        (false, _) => format!("users were on it after {mitigated}"),
    };
    field(view, "Times", &words)
}

/// Whether a plan touches the traffic at all, if only to give it back.
fn moves_any(plan: &v1::Plan) -> bool {
    let tracks = plan.stages.iter().flat_map(|stage| &stage.batches).flat_map(|b| &b.tracks);
    tracks.flat_map(|track| &track.steps).any(|step| step.component == words::TRAFFIC)
}

/// Where the traffic goes now, for `ctl status`; nothing where no edge divides it. `ctl` begins each command.
pub(super) fn now(view: &View, traffic: &v1::TrafficView, ctl: &str) -> String {
    let shares = match &traffic.observed {
        Some(observed) => weights(observed),
        None if is_unset(traffic) => {
            let slot = traffic.slots.first().map_or("SLOT", String::as_str);
            format!("no edge divides it yet: {ctl} switch --to {}", clean(slot))
        }
        None => paint(WARN, "not known as one"),
    };
    let mut text = field(view, "Traffic", &shares);
    for edge in &traffic.edges {
        for line in edge_lines(traffic, edge) {
            text += &field(view, "", &line);
        }
        for problem in edge.status.iter().flat_map(|status| &status.problems) {
            let (name, mend) = (clean(&edge.host), clean(&problem.mend));
            text += &field(view, "", &format!("{name}: {}; mend: {mend}", clean(&problem.what)));
        }
    }
    text + &idle(view, traffic)
}

/// What the edges say now, for the end of an operation that did not succeed.
pub(super) fn told(traffic: &v1::TrafficView) -> Vec<String> {
    match &traffic.observed {
        Some(observed) => vec![format!("the traffic goes to {}", weights(observed))],
        None => {
            let lines = traffic.edges.iter().flat_map(|edge| edge_lines(traffic, edge));
            lines.map(|line| anstream::adapter::strip_str(&line).to_string()).collect()
        }
    }
}

/// Nobody has asked an edge for anything yet. An edge that cannot be asked may have been.
fn is_unset(traffic: &v1::TrafficView) -> bool {
    let unset = |edge: &v1::EdgeView| {
        let status = edge.status.as_ref();
        status.is_some_and(|status| status.observed.is_none() && status.asked.is_none())
    };
    !traffic.edges.is_empty() && traffic.edges.iter().all(unset)
}

/// What is to be said of an edge; nothing where it does what it was asked for, as all do.
fn edge_lines(traffic: &v1::TrafficView, edge: &v1::EdgeView) -> Vec<String> {
    let name = clean(&edge.host);
    let Some(status) = &edge.status else {
        return vec![paint(WARN, &format!("{name} is out of reach"))];
    };
    match (&status.asked, &status.observed) {
        (Some(asked), Some(own)) if asked != own => {
            let (asked, own) = (weights(asked), weights(own));
            vec![paint(WARN, &format!("{name} divides {own}; it was asked for {asked}"))]
        }
        (Some(asked), None) => {
            let asked = weights(asked);
            vec![paint(WARN, &format!("{name} does not tell; it was asked for {asked}"))]
        }
        (_, Some(own)) if traffic.observed.is_none() => vec![format!("{name}: {}", weights(own))],
        (None, None) if !is_unset(traffic) => vec![format!("{name} does not divide it yet")],
        (_, Some(_)) | (None, None) => Vec::new(),
    }
}

/// Whether traffic reaches a host.
pub(super) fn reaches(observed: &v1::Weights, host: &v1::HostView) -> bool {
    let share = observed.groups.iter().any(|row| row.group == host.group && row.percent > 0);
    share && !observed.out.contains(&host.host)
}

/// The sides without traffic, and how long one is kept as the way back.
fn idle(view: &View, traffic: &v1::TrafficView) -> String {
    let Some(observed) = &traffic.observed else { return String::new() };
    let served =
        |slot: &&String| observed.groups.iter().any(|row| row.group == **slot && row.percent > 0);
    let side = |slot: &String| {
        let name = clean(slot);
        if *slot != traffic.warm {
            return format!("{name} has none");
        }
        let until = day_and_time(view, traffic.warm_until_unix_ms);
        let release = clean(&traffic.warm_release);
        format!("{name} has none, and is kept on {release} as the way back until {}", until.trim())
    };
    let idle: Vec<String> = traffic.slots.iter().filter(|slot| !served(slot)).map(side).collect();
    field(view, "", &idle.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    fn shares(rows: &[(&str, u32)], out: &[&str]) -> v1::Weights {
        let share = |(group, percent): &(&str, u32)| v1::GroupWeight {
            group: (*group).to_owned(),
            percent: *percent,
        };
        v1::Weights {
            groups: rows.iter().map(share).collect(),
            out: out.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    fn edge(host: &str, observed: Option<v1::Weights>) -> v1::EdgeView {
        let status = v1::TrafficStatus { observed, ..v1::TrafficStatus::default() };
        v1::EdgeView { host: host.to_owned(), status: Some(status) }
    }

    #[test]
    fn what_a_plan_does_to_the_traffic() {
        let plan = |before, after| v1::Plan {
            weights_before: before,
            weights_after: after,
            ..v1::Plan::default()
        };
        let (blue, green) = (shares(&[("blue", 100)], &[]), shares(&[("green", 100)], &[]));
        let lines = [
            planned(&plan(None, None)),
            planned(&plan(Some(blue.clone()), Some(green.clone()))),
            planned(&plan(Some(blue.clone()), Some(blue))),
            planned(&plan(None, Some(green))),
            planned(&crate::render::plan::tests::drained()),
        ];
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn where_the_traffic_goes_now() {
        let slots = || vec!["blue".to_owned(), "green".to_owned()];
        let both = shares(&[("blue", 95), ("canary", 5)], &["crm-b2"]);
        let good = v1::TrafficView {
            observed: Some(both.clone()),
            edges: vec![edge("lb-1", Some(both))],
            slots: slots(),
            warm: "green".to_owned(),
            warm_release: "v1.4.2".to_owned(),
            warm_until_unix_ms: view().now.as_millisecond() + 600_000,
        };
        let mut differ = v1::TrafficView {
            edges: vec![
                edge("lb-1", Some(shares(&[("blue", 100)], &[]))),
                edge("lb-2", Some(shares(&[("green", 100)], &[]))),
                v1::EdgeView { host: "lb-3".to_owned(), status: None },
            ],
            slots: slots(),
            ..v1::TrafficView::default()
        };
        let problem = v1::Problem {
            what: "the include file was changed by somebody".to_owned(),
            mend: "ctl switch --to SLOT".to_owned(),
            warns: true,
        };
        if let Some(status) = &mut differ.edges[0].status {
            status.problems.push(problem);
        }
        let mut strayed = good.clone();
        if let Some(status) = &mut strayed.edges[0].status {
            status.asked = Some(shares(&[("green", 100)], &[]));
        }
        let mut mute = v1::TrafficView { observed: None, ..strayed.clone() };
        if let Some(status) = &mut mute.edges[0].status {
            status.observed = None;
        }
        let away = v1::TrafficView {
            edges: vec![v1::EdgeView { host: "lb-1".to_owned(), status: None }],
            slots: slots(),
            ..v1::TrafficView::default()
        };
        let unset = v1::TrafficView {
            edges: vec![edge("lb-1", None)],
            slots: slots(),
            ..v1::TrafficView::default()
        };
        let views = [good, differ, strayed, mute, away, unset]
            .map(|traffic| plain(&now(&view(), &traffic, "ctl")));
        insta::assert_snapshot!(views.join("\n"));
    }
}
