//! What must hold of the checks that are asked all the time.

use std::{collections::BTreeSet, time::Duration};

use super::super::{
    CheckPolicy, ProbePolicy, SamplesPolicy,
    yaml::{At, Report, mend_word},
};

/// More would be a load of its own on the app.
const EVERY_MIN: Duration = Duration::from_millis(20);
/// Less says nothing in the time in which a canary is judged.
const EVERY_MAX: Duration = Duration::from_secs(60);

/// Checks what of a component is asked all the time.
pub fn samples(samples: &SamplesPolicy, checks: &[CheckPolicy], at: At<'_>, report: &mut Report) {
    let every = samples.every;
    if !(EVERY_MIN..=EVERY_MAX).contains(&every.0) {
        let what = format!("the app cannot be asked every {every}: it is 20ms to 1m");
        report.add(at.key("every"), what, "write one in between, such as `1s`");
    }
    let mut seen = BTreeSet::new();
    for (index, name) in samples.checks.iter().enumerate() {
        let at = at.key("checks").item(index);
        if !seen.insert(name) {
            report.add(at, format!("check `{name}` is given twice"), "give it once");
        }
        match checks.iter().find(|check| check.name == *name).map(|check| &check.probe) {
            Some(ProbePolicy::Http(_)) => {}
            Some(ProbePolicy::Tcp(_) | ProbePolicy::Command(_)) => report.add(
                at,
                format!("check `{name}` is not one of HTTP: it has no answers to count"),
                "name a check with `http`, or leave it out",
            ),
            None => {
                let names = checks.iter().map(|check| check.name.as_str());
                let mend = mend_word(name, names);
                report.add(at, format!("there is no check `{name}` in this component"), mend);
            }
        }
    }
    if samples.checks.is_empty() && samples.chosen(checks).next().is_none() {
        let mend = "add a check with `http`, name one in `checks`, or leave `samples` out";
        report.add(at, "no check of this component asks over HTTP with GET", mend);
    }
}

#[cfg(test)]
mod tests {
    use crate::{policy::Policy, span::Span};

    const GOOD: &str = "version: 1
fleet: prod
host: web-1
components:
  app:
    checks:
      - { name: up, tcp: \"127.0.0.1:80\" }
      - { name: contacts, http: \"http://127.0.0.1/contacts\" }
      - { name: login, http: \"http://127.0.0.1/login\", method: POST }
    samples: {}
    ready_within: 1m
    stable_for: 10s
";

    fn parse(samples: &str) -> Result<Policy, String> {
        let text = GOOD.replace("samples: {}", samples);
        Policy::parse(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_every_check_that_only_reads_once_a_second() {
        let chosen = |samples: &str| -> Vec<String> {
            let policy = parse(samples).unwrap();
            let app = &policy.components["app"];
            let samples = app.samples.as_ref().unwrap();
            samples.chosen(&app.checks).map(|check| check.name.clone()).collect()
        };
        assert_eq!(chosen("samples: {}"), ["contacts"]);
        assert_eq!(chosen("samples: { checks: [login] }"), ["login"]);
        let policy = parse("samples: { every: 20ms }").unwrap();
        assert_eq!(
            policy.components["app"].samples.as_ref().unwrap().every,
            "20ms".parse().unwrap()
        );
        let policy = parse("samples: {}").unwrap();
        assert_eq!(policy.components["app"].samples.as_ref().unwrap().every, Span::seconds(1));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_its_place_and_mend() {
        for (samples, expected) in [
            ("samples: { every: 19ms }", "10:23: the app cannot be asked every 19ms"),
            ("samples: { every: 61s }", "10:23: the app cannot be asked every 1m1s"),
            (
                "samples: { checks: [contact] }",
                "10:25: there is no check `contact` in this component; mend: did you mean `contacts`?",
            ),
            ("samples: { checks: [up] }", "10:25: check `up` is not one of HTTP"),
            ("samples: { checks: [login, login] }", "10:32: check `login` is given twice"),
            ("samples: { evry: 1s }", "10:16: unknown key `evry`"),
        ] {
            let error = parse(samples).unwrap_err();
            assert!(error.lines().any(|line| line.starts_with(expected)), "{samples}: {error}");
        }
        let none = GOOD
            .replace("http://127.0.0.1/contacts\"", "http://127.0.0.1/contacts\", method: HEAD");
        let error = Policy::parse(&none).unwrap_err().to_string();
        assert!(
            error.starts_with("10:14: no check of this component asks over HTTP with GET"),
            "{error}"
        );
    }
}
