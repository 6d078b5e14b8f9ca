//! How the traffic is divided, in words.

use proto::v1;

use super::{
    View, WARN, field, paint,
    words::{clean, day_and_time, duration_ms, some_of},
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
        (Some(before), Some(after)) if before == after => {
            format!("stays {}; each host is taken out of it before it is touched", weights(after))
        }
        (Some(before), Some(after)) => format!("{} → {}", weights(before), weights(after)),
        (None, Some(after)) => format!("not set yet → {}", weights(after)),
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
    let since = |at: i64| u64::try_from(at.saturating_sub(operation.started_unix_ms)).unwrap_or(0);
    if operation.mitigated_unix_ms == 0 {
        return String::new();
    }
    let (mitigated, ended) = (
        duration_ms(since(operation.mitigated_unix_ms)),
        duration_ms(since(operation.ended_unix_ms)),
    );
    let words = if takes_back(plan) {
        format!("mitigated after {mitigated}, restored after {ended}")
    } else {
        format!("users were on it after {mitigated}, done after {ended}")
    };
    field(view, "Times", &words)
}

/// Where the traffic goes now, for `ctl status`; nothing where no edge divides it.
pub(super) fn now(view: &View, traffic: &v1::TrafficView, ctl: &str) -> String {
    let shares = match &traffic.observed {
        Some(observed) => weights(observed),
        None => paint(WARN, "not known as one"),
    };
    let mut text = field(view, "Traffic", &shares);
    let set = traffic.edges.iter().filter_map(|edge| edge.status.as_ref()?.observed.as_ref());
    if traffic.observed.is_none() && set.count() == 0 && !traffic.edges.is_empty() {
        let slot = traffic.slots.first().map_or("SLOT", String::as_str);
        text +=
            &field(view, "", &format!("no edge divides it yet: {ctl} switch --to {}", clean(slot)));
    }
    for edge in &traffic.edges {
        let name = clean(&edge.host);
        match &edge.status {
            None => text += &field(view, "", &paint(WARN, &format!("{name} is out of reach"))),
            Some(status) => {
                if let (None, Some(own)) = (&traffic.observed, &status.observed) {
                    text += &field(view, "", &format!("{name}: {}", weights(own)));
                }
                for problem in &status.problems {
                    let words =
                        format!("{name}: {}; mend: {}", clean(&problem.what), clean(&problem.mend));
                    text += &field(view, "", &words);
                }
            }
        }
    }
    text + &idle(view, traffic)
}

/// The sides without traffic, and the one that is kept as the way back.
fn idle(view: &View, traffic: &v1::TrafficView) -> String {
    let Some(observed) = &traffic.observed else { return String::new() };
    let served = |slot: &&String| observed.groups.iter().any(|row| row.group == **slot);
    let idle: Vec<&str> =
        traffic.slots.iter().filter(|slot| !served(slot)).map(String::as_str).collect();
    let mut parts = Vec::new();
    if !idle.is_empty() {
        parts.push(format!("{} without traffic", some_of(idle.iter().copied(), 40)));
    }
    if !traffic.warm.is_empty() {
        let until = day_and_time(view, traffic.warm_until_unix_ms);
        let (warm, release) = (clean(&traffic.warm), clean(&traffic.warm_release));
        parts.push(format!("{warm} is kept with {release} as the way back until {}", until.trim()));
    }
    field(view, "", &parts.join("; "))
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
        let unset = v1::TrafficView {
            edges: vec![edge("lb-1", None)],
            slots: slots(),
            ..v1::TrafficView::default()
        };
        let views = [good, differ, unset].map(|traffic| plain(&now(&view(), &traffic, "ctl")));
        insta::assert_snapshot!(views.join("\n"));
    }
}
