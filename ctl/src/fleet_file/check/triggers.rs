//! What must hold of the section `triggers`: each rule by itself.

use proto::policy::{
    check,
    yaml::{At, Report, meant, mend_word},
};

use super::{AT_THE_COORDINATOR, text};
use crate::fleet_file::{FleetFile, Source, Trigger};

/// What the agents' probes tell of a fleet.
const METRICS: [&str; 5] = ["error_rate", "available", "p50", "p95", "p99"];

pub(super) fn check(fleet: &FleetFile, trigger: &Trigger, at: At<'_>, report: &mut Report) {
    source(fleet, &trigger.source, at.key("source"), report);
    match &trigger.source {
        Source::Probes => breach(trigger, true, at, report),
        Source::Prometheus { .. } => breach(trigger, false, at, report),
        Source::Check(_) => no_breach(trigger, "a check is breached when it fails", at, report),
        Source::Alert(_) => {
            no_breach(trigger, "an alert is breached when it is posted", at, report)
        }
    }
    match (&trigger.source, trigger.lasting) {
        (Source::Alert(_), Some(_)) => {
            let what = "an alert has lasted already when it is posted";
            report.add(at.key("for"), what, "leave `for` out; Alertmanager's own rule has one");
        }
        (Source::Probes | Source::Prometheus { .. } | Source::Check(_), None) => {
            let what = "the trigger does not say how long a breach must last";
            report.add(at, what, "add `for: 1m`");
        }
        (_, Some(_) | None) => {}
    }
}

fn source(fleet: &FleetFile, source: &Source, at: At<'_>, report: &mut Report) {
    match source {
        Source::Probes => {}
        Source::Prometheus { url, query } => {
            check::url(url, AT_THE_COORDINATOR, at.key("prometheus"), report);
            text(query, at.key("query"), report);
        }
        Source::Alert(name) => text(name, at.key("alert"), report),
        Source::Check(name) => {
            let checks = fleet.checks().map(|(_, check)| check.name.as_str());
            // A slip of the pen is refused. Another name may come with a later file: that is a warning.
            let slip = meant(name, checks.clone()).is_some();
            if slip && !checks.clone().any(|known| known == name) {
                report.add(
                    at.key("check"),
                    format!("no component has a check `{name}`"),
                    mend_word(name, checks),
                );
            }
        }
    }
}

fn no_breach(trigger: &Trigger, why: &str, at: At<'_>, report: &mut Report) {
    if trigger.breach.is_some() {
        report.add(at.key("breach"), why, "leave `breach` out");
    }
    if trigger.min_requests > 0 {
        let what = "no requests are counted for it";
        report.add(at.key("min_requests"), what, "leave `min_requests` out");
    }
}

fn breach(trigger: &Trigger, own_metric: bool, at: At<'_>, report: &mut Report) {
    let Some(breach) = &trigger.breach else {
        let mend = "add `breach: \"…\"`";
        return report.add(at, "the trigger does not say when it is breached", mend);
    };
    let at = at.key("breach");
    if !is_breach(breach, own_metric) {
        let example =
            if own_metric { "`error_rate > 0.10`" } else { "`> 0.02` or `> 1.5 * baseline`" };
        return report.add(
            at,
            format!("`{breach}` is not a condition on this source"),
            format!("write it like {example}"),
        );
    }
    let words: Vec<&str> = breach.split_whitespace().collect();
    let Some(metric) = words.first().filter(|_| own_metric) else { return };
    if !METRICS.contains(metric) {
        let mend = mend_word(metric, METRICS);
        report.add(at, format!("the agents' probes do not measure `{metric}`"), mend);
    }
    let number = words.get(2).and_then(|number| number.parse::<f64>().ok()).unwrap_or_default();
    if number < 0.0 {
        let mend = "write a number of 0 or more";
        report.add(at, format!("`{metric}` is never below 0"), mend);
    }
    let of_baseline = words.len() > 3;
    if *metric == "error_rate" && !of_baseline && number > 1.0 {
        let what = "`error_rate` is a share from 0 to 1, which can never be more";
        report.add(at, what, "for 10 % write `0.10`");
    }
}

/// `[metric] (> | >= | < | <=) number [* baseline]`, the metric where the source has several.
fn is_breach(breach: &str, own_metric: bool) -> bool {
    let mut words = breach.split_whitespace().peekable();
    if own_metric
        && !words
            .next()
            .is_some_and(|metric| metric.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        return false;
    }
    let compares = matches!(words.next(), Some(">" | ">=" | "<" | "<="));
    let number =
        words.next().and_then(|number| number.parse::<f64>().ok()).is_some_and(f64::is_finite);
    let rest: Vec<&str> = words.collect();
    compares && number && (rest.is_empty() || rest == ["*", "baseline"])
}
