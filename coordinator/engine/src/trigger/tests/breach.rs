//! What may be written, what it means, and what is said of anything else.

use super::{errors, prometheus, trigger};
use crate::trigger::{Bound, Breach, Comparison, Metric, TriggerSource};

#[test]
fn texts_of_the_fleet_file_are_read_and_written() {
    for (text, metric, comparison, bound) in [
        ("error_rate > 0.1", Metric::ErrorRate, Comparison::Above, Bound::Number(0.1)),
        ("available < 1", Metric::Available, Comparison::Below, Bound::Number(1.0)),
        ("p95 > 1.5 * baseline", Metric::P95, Comparison::Above, Bound::TimesBaseline(1.5)),
        ("p50 >= 200", Metric::P50, Comparison::AtLeast, Bound::Number(200.0)),
        ("p99 <= 0", Metric::P99, Comparison::AtMost, Bound::Number(0.0)),
        (
            "error_rate > 3 * baseline",
            Metric::ErrorRate,
            Comparison::Above,
            Bound::TimesBaseline(3.0),
        ),
        ("> 0.02", Metric::Value, Comparison::Above, Bound::Number(0.02)),
        ("< -4", Metric::Value, Comparison::Below, Bound::Number(-4.0)),
        ("> 1.5 * baseline", Metric::Value, Comparison::Above, Bound::TimesBaseline(1.5)),
    ] {
        let breach: Breach = text.parse().unwrap();
        assert_eq!(breach, Breach::Measured { metric, comparison, bound });
        assert_eq!(breach.to_string(), text);
        let source = if metric == Metric::Value { prometheus() } else { TriggerSource::Probes };
        assert_eq!(Breach::of(&source, Some(text)), Ok(breach));
    }
    for source in [TriggerSource::Check("pay".to_owned()), TriggerSource::Alert("Down".to_owned())]
    {
        assert_eq!(Breach::of(&source, None), Ok(Breach::Fails));
        assert_eq!(Breach::of(&source, Some("")), Ok(Breach::Fails));
    }
}

#[test]
fn anything_else_is_refused_with_what_is_allowed() {
    let check = TriggerSource::Check("pay".to_owned());
    let alert = TriggerSource::Alert("Down".to_owned());
    let probes = TriggerSource::Probes;
    for (source, text, told) in [
        (&probes, Some("errors > 0.1"), "write error_rate, available, p50, p95 or p99"),
        (&probes, Some("error_rate = 0.1"), "write >, >=, < or <="),
        (&probes, Some("error_rate > ten"), "write one like 0.10"),
        (&probes, Some("error_rate > NaN"), "write one like 0.10"),
        (&probes, Some("error_rate > inf"), "write one like 0.10"),
        (&probes, Some("error_rate > -0.1"), "not below 0"),
        (&probes, Some("error_rate > 10"), "for 10 % write 0.10"),
        (&probes, Some("error_rate >"), "`NUMBER * baseline` are allowed too"),
        (&probes, Some("error_rate > 2 * canary"), "`NUMBER * baseline` are allowed too"),
        (&probes, Some("error_rate > 0.1 * baseline * 2"), "`NUMBER * baseline`"),
        (&probes, Some("> 0.1"), "say which, like `error_rate > 0.10`"),
        (&probes, None, "write it like `error_rate > 0.10`"),
        (&prometheus(), Some("error_rate > 0.1"), "write `> 0.02`, without `error_rate`"),
        (&prometheus(), None, "write it like `> 0.02`"),
        (&check, Some("> 1"), "a check is breached when it fails: leave `breach` out"),
        (&alert, Some("> 1"), "an alert is breached when it is posted: leave `breach` out"),
    ] {
        let error = Breach::of(source, text).unwrap_err().to_string();
        assert!(error.contains(told), "{text:?}: {error}");
    }
    assert!("  ".parse::<Breach>().is_err());
}

#[test]
fn a_rule_is_told_in_the_words_of_the_file() {
    assert_eq!(errors().rule(), "error_rate > 0.1 for 30s");
    let check = TriggerSource::Check("payment".to_owned());
    assert_eq!(trigger(check, None, 60).rule(), "check payment fails for 60s");
    let alert = TriggerSource::Alert("Down".to_owned());
    assert_eq!(trigger(alert, None, 0).rule(), "alert Down is posted for 0s");
}

#[test]
fn comparisons_are_what_they_say() {
    for (text, below, equal, above) in [
        ("> 2", false, false, true),
        (">= 2", false, true, true),
        ("< 2", true, false, false),
        ("<= 2", true, true, false),
    ] {
        let breach: Breach = text.parse().unwrap();
        let passes = [1.0, 2.0, 3.0].map(|value| breach.passes(value, 2.0));
        assert_eq!(passes, [below, equal, above], "{text}");
    }
}
