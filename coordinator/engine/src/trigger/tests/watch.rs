//! How a trigger stands, reading by reading.

use super::{at, errors, prometheus, trigger};
use crate::trigger::{Fired, Reading, TriggerSource, TriggerStands, Watch};

fn read(second: i64, value: f64) -> Reading {
    Reading { at: at(second), value: Some(value), requests: 1_204, why_none: None }
}

fn none(second: i64, why: &str) -> Reading {
    Reading { at: at(second), value: None, requests: 0, why_none: Some(why.to_owned()) }
}

fn armed() -> Watch {
    let mut watch = Watch::new(errors(), at(-10));
    watch.arm(at(0), Some(at(1000)));
    watch
}

fn stands(watch: &Watch) -> (TriggerStands, i64) {
    let (stands, since, _) = watch.stands();
    (stands, (since.0 - at(0).0) / 1000)
}

/// Takes the same value every second, and says when it fired.
fn every_second(watch: &mut Watch, seconds: std::ops::RangeInclusive<i64>, value: f64) -> Vec<i64> {
    let fired = |second| watch.take(&read(second, value), None, None).map(|_| second);
    seconds.filter_map(fired).collect()
}

#[test]
fn it_fires_once_when_the_breach_has_lasted() {
    let mut watch = armed();
    assert_eq!(stands(&watch), (TriggerStands::Blind, 0));
    assert_eq!(every_second(&mut watch, 1..=5, 0.01), [0; 0]);
    assert_eq!(stands(&watch), (TriggerStands::Well, 1));
    assert_eq!(every_second(&mut watch, 6..=35, 0.23), [0; 0]);
    assert_eq!(stands(&watch), (TriggerStands::Breached, 6));
    let fired = watch.take(&read(36, 0.23), None, None);
    let sentence = "error_rate 23 % of 1,204 requests (bound 10 %), for 30 s";
    let expected = Fired {
        at: at(36),
        since: at(6),
        value: 0.23,
        bound: 0.1,
        control: None,
        control_as_bad: None,
        sentence: sentence.to_owned(),
    };
    assert_eq!(fired, Some(expected));
    assert_eq!(stands(&watch), (TriggerStands::Fired, 36));
    assert_eq!(every_second(&mut watch, 37..=200, 0.23), [0; 0]);
    // It was well: the next breach is another one.
    assert_eq!(every_second(&mut watch, 201..=201, 0.1), [0; 0]);
    assert_eq!(stands(&watch), (TriggerStands::Well, 201));
    assert_eq!(every_second(&mut watch, 202..=300, 0.23), [232]);
}

#[test]
fn one_good_reading_begins_the_clock_anew() {
    let mut watch = armed();
    assert_eq!(every_second(&mut watch, 1..=30, 0.23), [0; 0]);
    assert_eq!(every_second(&mut watch, 31..=31, 0.02), [0; 0]);
    assert_eq!(every_second(&mut watch, 32..=70, 0.23), [62]);
}

#[test]
fn missing_data_neither_begins_nor_ends_a_breach() {
    let mut watch = armed();
    for second in 1..=60 {
        assert_eq!(watch.take(&none(second, "no host answers"), None, None), None);
    }
    assert_eq!(stands(&watch), (TriggerStands::Blind, 0));
    assert_eq!(watch.stands().2, "no data: no host answers");
    assert_eq!(every_second(&mut watch, 61..=70, 0.23), [0; 0]);
    for second in 71..=90 {
        assert_eq!(watch.take(&none(second, "no host answers"), None, None), None);
    }
    assert_eq!(stands(&watch), (TriggerStands::Breached, 61));
    assert_eq!(watch.stands().2, "no data (no host answers); breached before it");
    // Not on missing data, however long it lasts; on the next bad reading.
    for second in 91..=120 {
        assert_eq!(watch.take(&none(second, "no host answers"), None, None), None);
    }
    let fired = watch.take(&read(121, 0.23), None, None).unwrap();
    let sentence =
        "error_rate 23 % of 1,204 requests (bound 10 %), for 60 s, without data for 50 s of it";
    assert_eq!(fired.sentence, sentence);
    assert_eq!(watch.take(&none(122, "no host answers"), None, None), None);
    assert_eq!(stands(&watch), (TriggerStands::Fired, 121));
}

#[test]
fn time_in_which_nobody_looked_is_no_breach() {
    let mut watch =
        Watch::new(trigger(TriggerSource::Probes, Some("error_rate > 0.1"), 300), at(0));
    watch.arm(at(0), None);
    // Readings an hour apart, or a clock that jumped: each counts for a minute at most.
    for hour in 1..=5 {
        assert_eq!(watch.take(&read(hour * 3600, 0.5), None, None), None, "hour {hour}");
    }
    // A clock that goes back takes nothing away.
    assert_eq!(watch.take(&read(60, 0.5), None, None), None);
    assert!(watch.take(&read(120, 0.5), None, None).is_some());
}

#[test]
fn too_few_requests_and_no_number_are_missing_data() {
    let mut watch = armed();
    for (reading, detail) in [
        (Reading { requests: 99, ..read(1, 0.5) }, "no data: 99 requests; 100 are enough to judge"),
        (read(2, f64::NAN), "no data: the source answers with no number"),
        (Reading { value: None, ..read(3, 0.0) }, "no data: nothing was measured"),
    ] {
        assert_eq!(watch.take(&reading, None, None), None);
        let (stands, _, told) = watch.stands();
        assert_eq!((stands, told), (TriggerStands::Blind, detail));
    }
    // A query counts no requests.
    let mut watch = Watch::new(trigger(prometheus(), Some("> 0.02"), 0), at(0));
    watch.arm(at(0), None);
    assert!(watch.take(&Reading { requests: 0, ..read(1, 0.5) }, None, None).is_some());
}

#[test]
fn it_is_quiet_while_an_operation_runs_and_begins_anew_after() {
    let mut watch = armed();
    assert_eq!(every_second(&mut watch, 1..=25, 0.23), [0; 0]);
    for second in 26..=50 {
        assert_eq!(watch.take(&read(second, 0.9), None, Some("dp-0007 runs")), None);
    }
    assert_eq!(stands(&watch), (TriggerStands::Held, 26));
    assert_eq!(watch.stands().2, "dp-0007 runs");
    assert_eq!(every_second(&mut watch, 51..=100, 0.23), [81]);
    // What has fired does not fire again only because an operation ran.
    assert_eq!(watch.take(&read(101, 0.9), None, Some("rb-0008 runs")), None);
    assert_eq!(every_second(&mut watch, 102..=200, 0.23), [0; 0]);
    assert_eq!(stands(&watch), (TriggerStands::Fired, 102));
}

#[test]
fn it_is_armed_only_until_its_time_is_over() {
    let mut watch = Watch::new(errors(), at(0));
    assert_eq!(every_second(&mut watch, 1..=100, 0.9), [0; 0]);
    assert_eq!(stands(&watch), (TriggerStands::Off, 0));
    watch.arm(at(100), Some(at(120)));
    assert_eq!(watch.armed_until(), Some(at(120)));
    assert_eq!(every_second(&mut watch, 101..=200, 0.9), [0; 0]);
    assert_eq!(stands(&watch), (TriggerStands::Off, 120));
    assert_eq!(watch.stands().2, "the time for which it was armed is over");
    // Armed anew by another deploy, also where it had fired.
    watch.arm(at(200), None);
    assert_eq!(every_second(&mut watch, 201..=240, 0.9), [231]);
    watch.arm(at(300), None);
    assert_eq!(every_second(&mut watch, 301..=340, 0.9), [331]);
    watch.disarm(at(400), "a person took it back");
    assert_eq!(stands(&watch), (TriggerStands::Off, 400));
    assert_eq!(every_second(&mut watch, 401..=440, 0.9), [0; 0]);
}

#[test]
fn the_control_group_is_measured_by_the_same_bound() {
    for (control, value, as_bad) in [
        (Some(read(1, 0.01)), Some(0.01), Some(false)),
        (Some(read(1, 0.2)), Some(0.2), Some(true)),
        (Some(none(1, "no host answers")), None, None),
        // Nobody is known to be well by a handful of requests.
        (Some(Reading { requests: 99, ..read(1, 0.0) }), None, None),
        (None, None, None),
    ] {
        let mut watch =
            Watch::new(trigger(TriggerSource::Probes, Some("error_rate > 0.1"), 0), at(0));
        watch.arm(at(0), None);
        let fired = watch.take(&read(1, 0.5), control.as_ref(), None).unwrap();
        assert_eq!((fired.control, fired.control_as_bad), (value, as_bad));
    }
}

#[test]
fn a_multiple_of_the_baseline_needs_the_baseline() {
    let slow = trigger(TriggerSource::Probes, Some("p95 > 1.5 * baseline"), 0);
    let mut watch = Watch::new(slow, at(0));
    watch.arm(at(0), None);
    assert_eq!(watch.take(&read(1, 900.0), None, None), None);
    assert_eq!(watch.stands().2, "no data: the baseline: there is none");
    assert_eq!(watch.take(&read(2, 900.0), Some(&none(2, "no host answers")), None), None);
    assert_eq!(watch.stands().2, "no data: the baseline: no host answers");
    assert_eq!(watch.take(&read(3, 270.0), Some(&read(3, 180.0)), None), None);
    assert_eq!(stands(&watch).0, TriggerStands::Well);
    let fired = watch.take(&read(4, 412.0), Some(&read(4, 180.0)), None).unwrap();
    assert_eq!(fired.sentence, "p95 412 ms (bound 270 ms, 1.5 times the baseline), for 0 s");
    // That it was better before says nothing of the hosts without the release.
    assert_eq!(fired.control_as_bad, None);
    let slow = trigger(TriggerSource::Probes, Some("p95 > 1.5 * baseline"), 0);
    assert_eq!(fired.clone().against(&slow, Some(&read(4, 180.0))).control_as_bad, Some(false));
    assert_eq!(fired.clone().against(&slow, Some(&read(4, 400.0))).control_as_bad, Some(true));
    assert_eq!(fired.against(&slow, None).control_as_bad, None);
}

#[test]
fn a_check_is_breached_while_it_fails() {
    let mut watch = Watch::new(trigger(TriggerSource::Check("pay".to_owned()), None, 0), at(0));
    watch.arm(at(0), None);
    assert_eq!(watch.take(&Reading { requests: 0, ..read(1, 0.0) }, None, None), None);
    assert_eq!(watch.stands().2, "check pay passes");
    let fired = watch.take(&Reading { requests: 0, ..read(2, 2.0) }, None, None).unwrap();
    assert_eq!(fired.sentence, "check pay fails on 2 hosts, for 0 s");
}
