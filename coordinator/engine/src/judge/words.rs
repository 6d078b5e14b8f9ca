//! Numbers and sentences for a tired person.

use super::{
    bet::Tally,
    check::{Check, ERRORS_MARGIN, Numbers, What},
    ruling::Figure,
};
use crate::time::Timestamp;

/// `errors: canary 25 % (13 of 52), baseline 0.5 % (5 of 1,010): worse beyond doubt (…)`, where that is proven.
pub(super) fn worse(check: &Check) -> Option<String> {
    check.proof.as_ref().map(|numbers| {
        let compared = compared(check.what, numbers);
        let (chance, limit) = (chance(numbers.evidence), chance(check.limit));
        let word = match check.what {
            What::Errors | What::Latency { .. } => "worse",
            What::ErrorsAtMost(_) => "above it",
        };
        format!("{compared}: {word} beyond doubt ({chance} by chance; limit {limit})")
    })
}

/// The same where nothing speaks against the canary.
pub(super) fn no_worse(check: &Check, numbers: &Numbers) -> String {
    let word = match check.what {
        What::Errors | What::Latency { .. } => "no worse",
        What::ErrorsAtMost(_) => "not above it",
    };
    format!("{}: {word}", compared(check.what, numbers))
}

/// Both sides in numbers.
pub(super) fn compared(what: What, numbers: &Numbers) -> String {
    let Numbers { canary, baseline, .. } = numbers;
    let name = what.name();
    match what {
        What::Errors => {
            format!("{name}: canary {}, baseline {}", of_all(*canary), of_all(*baseline))
        }
        What::ErrorsAtMost(most) => {
            let (canary, baseline) = (of_all(*canary), of_all(*baseline));
            format!("{name} {}: canary {canary}, baseline {baseline}", percent(most))
        }
        What::Latency { .. } => {
            let (one, other) = numbers.quantiles.unwrap_or_default();
            let shown = |us: Option<f64>| us.map_or_else(|| "unknown".to_owned(), latency);
            let (one, other) = (shown(one), shown(other));
            let bound = shown(numbers.bounds.map(|bounds| bounds.canary_us as f64));
            let (slow, all) = (of_all(*canary), of_all(*baseline));
            format!(
                "{name}: canary {one}, baseline {other}, bound {bound}; {slow} of the canary's answers were \
                 above its bound, {all} of the baseline's above theirs"
            )
        }
    }
}

/// One check as numbers.
pub(super) fn figure(check: &Check, numbers: &Numbers) -> Figure {
    let Numbers { canary, baseline, .. } = numbers;
    let ms = |us: f64| us / 1000.0;
    let (one, other, bound) = match check.what {
        What::Errors => {
            let other = baseline.share();
            (canary.share(), other, other.map(|share| share + ERRORS_MARGIN))
        }
        What::ErrorsAtMost(most) => (canary.share(), baseline.share(), Some(most)),
        What::Latency { .. } => {
            let (one, other) = numbers.quantiles.unwrap_or_default();
            let bound = numbers.bounds.map(|bounds| ms(bounds.canary_us as f64));
            (one.map(ms), other.map(ms), bound)
        }
    };
    Figure {
        name: check.what.name().to_owned(),
        canary: one,
        baseline: other,
        bound,
        canary_requests: canary.all,
        baseline_requests: baseline.all,
        evidence: numbers.evidence,
        limit: check.limit,
    }
}

/// `25 % (13 of 52)`.
fn of_all(tally: Tally) -> String {
    match tally.share() {
        None => "nothing measured".to_owned(),
        Some(share) => format!("{} ({} of {})", percent(share), count(tally.bad), count(tally.all)),
    }
}

/// `0.5 %`: two digits that matter.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent >= 9.95 || percent == 0.0 {
        format!("{percent:.0}")
    } else if percent >= 0.995 {
        format!("{percent:.1}")
    } else if percent >= 0.0095 {
        format!("{percent:.2}")
    } else {
        "under 0.01".to_owned()
    };
    let text = if text.contains('.') && !text.starts_with('u') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text} %")
}

/// `1,010`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `180 ms`, from microseconds.
pub(super) fn latency(us: f64) -> String {
    if us >= 999_500.0 {
        let text = format!("{:.2}", us / 1e6);
        format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
    } else if us >= 9_950.0 {
        format!("{:.0} ms", us / 1e3)
    } else {
        let text = format!("{:.1}", us / 1e3);
        format!("{} ms", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// `1 in 4,200`: to two digits, and no further than anybody would believe.
pub(super) fn chance(evidence: f64) -> String {
    if evidence >= 1e6 {
        return "less than 1 in 1,000,000".to_owned();
    }
    let whole = evidence.max(1.0).floor() as u64;
    let mut unit = 1;
    while whole / unit >= 100 {
        unit *= 10;
    }
    format!("1 in {}", count(whole / unit * unit))
}

/// `14:02:05 UTC`.
pub(crate) fn clock(at: Timestamp) -> String {
    let seconds = at.0.div_euclid(1000).rem_euclid(24 * 60 * 60);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
}

/// `12 s`, `3 min`, `2 h`.
pub(crate) fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200.. => format!("{} h", seconds / 3600),
    }
}
