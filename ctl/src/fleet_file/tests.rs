//! The examples are read and rendered; bad files are answered with line, column and mend.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use proptest::prelude::*;
use proto::{
    policy::{self as agent, Policy},
    span::Span,
};

use super::*;

mod bad;

const ACE_CRM: &str = include_str!("../../../deploy/examples/ace-crm.fleet.yaml");
const TWO_HOSTS: &str = include_str!("../../../deploy/examples/two-hosts.fleet.yaml");

fn read(text: &str) -> FleetFile {
    parse(text).unwrap_or_else(|problems| panic!("{}", shown(&problems)))
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.in_file("fleet.yaml") + "\n").collect()
}

fn hashes(fleet: &FleetFile) -> BTreeMap<String, String> {
    let hash = |host: &str| agent::hash(render_policy(&policy(fleet, host).unwrap()).as_bytes());
    fleet.all_hosts().map(|host| (host.to_owned(), hash(host))).collect()
}

#[test]
fn the_ace_crm_example_is_read_and_says_what_is_not_acted_upon() {
    let fleet = read(ACE_CRM);
    assert_eq!(fleet.all_hosts().count(), 6);
    assert_eq!(fleet.group_of("crm-g2"), Some("green"));
    assert_eq!(fleet.rollback, Rollback::default(), "the example writes the defaults out");
    assert_eq!(fleet.not_acted_upon(), ["approvals", "notify"]);
    assert_eq!(
        warnings(&fleet),
        ["trigger `payment` can never fire: no component has a check `payment`"]
    );
    assert_eq!(read(TWO_HOSTS).not_acted_upon(), [""; 0]);
}

#[test]
fn the_control_part_of_the_example() {
    let fleet = read(ACE_CRM);
    let control = control(&fleet, &hashes(&fleet));
    let services: Vec<&[String]> =
        control.components.iter().map(|component| component.services.as_slice()).collect();
    assert_eq!(
        services,
        [&["ace-crm-backend", "ace-crm-frontend", "ace-crm-client-portal"][..], &["nginx"][..]]
    );
    assert_eq!(control.components[0].stop_within_ms, (30 + 10 + 10) * 1000 + 5000);
    assert_eq!(control.components[1].needs, ["crm"]);
    assert_eq!(control.policy_hashes.len(), 6);
    let rollback = control.rollback.unwrap();
    assert_eq!(rollback.batches, ["1", "50%"]);
    assert_eq!(
        (rollback.deadline_ms, rollback.soak_ms, rollback.unknown_after_ms),
        (300_000, 0, 15_000)
    );
}

#[test]
fn the_control_part_holds_no_path_no_command_and_no_unit() {
    for text in [ACE_CRM, TWO_HOSTS] {
        let fleet = read(text);
        let control = format!("{:?}", control(&fleet, &hashes(&fleet)));
        // The one address is that of a Prometheus server, which the coordinator itself asks.
        let control = control.replace("http://prom:9090", "");
        for word in
            ["/var", "/srv", "/etc", "/usr", "server.js", ".service", "http", "www-data", "PORT"]
        {
            assert!(!control.contains(word), "{word} in {control}");
        }
    }
}

#[test]
fn canary_and_triggers_go_to_the_coordinator_as_they_are_written() {
    let fleet = read(ACE_CRM);
    let control = control(&fleet, &hashes(&fleet));
    insta::assert_snapshot!(format!("{:#?}\n{:#?}", control.canary, control.triggers));
    let text = ACE_CRM.replace(
        "compare: [errors, p95]",
        "group: canary\n  compare: [errors]\n  errors_at_most: 0.05\n  latency_ratio: 2\n  false_alarm: 0.05\n  \
         min_requests: 500\n  stale_after: 1m\n  wait_at_most: 2h\n  source: { prometheus: \"http://prom:9090\", \
         requests: 'sum(r{host=~\"$side\"})', errors: 'sum(e{host=~\"$side\"})' }",
    );
    let text =
        text.replace("{ weight: 50, hold: 15m }, { weight: 100 }", "{ weight: 50, hold: ask }");
    let canary = super::control(&read(&text), &BTreeMap::new()).canary.unwrap();
    let analysis = canary.analysis.unwrap();
    assert_eq!(
        canary.steps.last(),
        Some(&proto::v1::CanaryStep { weight: 50, hold_ms: 0, asks: true })
    );
    assert_eq!(
        (analysis.errors_at_most, analysis.latency_ratio, analysis.false_alarm),
        (Some(0.05), 2.0, 0.05)
    );
    assert_eq!((analysis.min_requests, analysis.stale_after_ms), (500, 60_000));
    assert_eq!(canary.wait_at_most_ms, 7_200_000);
}

#[test]
fn what_is_judged_by_probes_has_hosts_asked_all_the_time() {
    let sampled = |text: &str, host: &str| {
        let policy = policy(&read(text), host).unwrap();
        policy.components.into_values().find_map(|component| component.samples)
    };
    let default = Some(agent::SamplesPolicy { every: Span::seconds(1), checks: Vec::new() });
    assert_eq!(sampled(ACE_CRM, "crm-b1"), default);
    assert_eq!(sampled(ACE_CRM, "lb-1"), None, "a proxy only passes requests on");
    assert_eq!(sampled(TWO_HOSTS, "web-1"), None, "nothing is judged there");
    let named = ACE_CRM.replace(
        "    ready_within: 60s",
        "    samples: { checks: [backend] }\n    ready_within: 60s",
    );
    assert_eq!(sampled(&named, "crm-c1").unwrap().checks, ["backend"]);
    let trigger = "triggers: { down: { source: probes, breach: \"available < 1\", for: 1m, severity: low, then: propose } }\n";
    let triggered = format!("{TWO_HOSTS}{trigger}");
    assert_eq!(sampled(&triggered, "web-1"), default);
    let closed = triggered.replace(
        "http: \"http://127.0.0.1:5000/health\", expect: { version_at: /version }",
        "tcp: \"127.0.0.1:5000\"",
    );
    assert_eq!(sampled(&closed, "web-1"), None);
    assert_eq!(warnings(&read(&closed)).len(), 1, "{:?}", warnings(&read(&closed)));
}

#[test]
fn a_step_that_holds_for_no_time_is_told_and_not_refused() {
    let quick = ACE_CRM.replace("{ weight: 5, hold: 10m }", "{ weight: 5 }");
    assert_eq!(
        warnings(&read(&quick))[0],
        "canary 5 % holds for no time: it goes on at the judge's first pass, after 100 requests"
    );
    let asks = ACE_CRM.replace("{ weight: 5, hold: 10m }", "{ weight: 5, hold: ask }");
    assert_eq!(warnings(&read(&asks)).len(), 1, "only the trigger");
}

#[test]
fn components_come_after_what_they_need() {
    let text = "version: 1\nfleet: f\nenvironment: e\napp: a\nhosts: { g: [h] }\ncomponents:\n\
        \x20 a: { hosts: [g], needs: [b], services: [{ systemd: a.service }] }\n\
        \x20 b: { hosts: [g], needs: [c], services: [{ systemd: b.service }] }\n\
        \x20 c: { hosts: [g], services: [{ systemd: c.service }] }\n";
    let control = control(&read(text), &BTreeMap::new());
    let order: Vec<&str> =
        control.components.iter().map(|component| component.name.as_str()).collect();
    assert_eq!(order, ["c", "b", "a"]);
}

#[test]
fn each_policy_is_rendered_as_published_and_read_back_by_the_agent() {
    for (text, host) in
        [(ACE_CRM, "crm-b1"), (ACE_CRM, "lb-1"), (TWO_HOSTS, "web-1"), (TWO_HOSTS, "web-2")]
    {
        let policy = policy(&read(text), host).unwrap();
        let rendered = render_policy(&policy);
        assert_eq!(rendered, render_policy(&policy));
        assert_eq!(Policy::parse(&rendered).unwrap(), policy, "{rendered}");
        insta::assert_snapshot!(format!("policy-of-{host}"), rendered);
    }
}

#[test]
fn a_host_that_is_not_of_the_fleet_has_no_policy() {
    assert_eq!(policy(&read(TWO_HOSTS), "web-9"), Err(UnknownHost("web-9".to_owned())));
}

#[test]
fn sources_go_to_every_host_with_a_component_and_to_no_coordinator() {
    let text = "version: 1\nfleet: f\nenvironment: e\napp: a\nhosts: { g: [h], idle: [i] }\n\
        sources:\n  builds: { directory: /srv/builds }\n  code: { git: { repository: /srv/git/a, user: deploy } }\n\
        components: { a: { hosts: [g], files: [{ tree: /srv/a, from: dist }] } }\n";
    let fleet = read(text);
    let here = policy(&fleet, "h").unwrap();
    assert_eq!(here.sources.keys().collect::<Vec<_>>(), ["builds", "code"]);
    assert_eq!(Policy::parse(&render_policy(&here)).unwrap(), here);
    assert!(policy(&fleet, "i").unwrap().sources.is_empty());
    let control = format!("{:?}", control(&fleet, &hashes(&fleet)));
    assert!(!control.contains("/srv") && !control.contains("deploy,"), "{control}");
    let bad = text.replace("/srv/builds", "builds").replace("from: dist", "from: ../dist");
    let told = shown(&parse(&bad).unwrap_err());
    assert!(told.contains("path `builds` is not absolute"), "{told}");
    assert!(told.contains("`../dist` is no directory of an artefact"), "{told}");
}

#[test]
fn an_override_replaces_its_lists_on_its_host_only() {
    let fleet = read(TWO_HOSTS);
    let driver =
        |host: &str| policy(&fleet, host).unwrap().components["hello"].services[0].driver.clone();
    assert!(matches!(driver("web-1"), agent::ServiceDriver::Process(_)));
    assert_eq!(driver("web-2"), agent::ServiceDriver::Systemd("hello.service".to_owned()));
    assert_eq!(policy(&fleet, "web-2").unwrap().components["hello"].checks.len(), 1);
}

#[test]
fn batches_are_read_quoted_or_not() {
    let text = TWO_HOSTS.to_owned()
        + "rollback: { batches: [1, \"5\", 20%, \"100%\"], budget: { failed: 0, out: 2 } }\n";
    let rollback = read(&text).rollback;
    let batches: Vec<String> = rollback.batches.iter().map(ToString::to_string).collect();
    assert_eq!(batches, ["1", "5", "20%", "100%"]);
    assert_eq!(rollback.budget, Budget { failed: 0, unknown: 1, out: Amount::Hosts(2) });
    assert_eq!(rollback.soak, Span::seconds(0));
}

/// Regenerate with `UPDATE=1 cargo test -p ctl published_schema`.
#[test]
fn the_published_schema_is_the_one_of_the_types() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/schema/fleet.schema.json");
    let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == schema,
        "run `UPDATE=1 cargo test -p ctl published_schema` and commit deploy/schema"
    );
}

#[test]
fn every_key_of_the_schema_is_described() {
    fn walk(value: &serde_json::Value, place: &str, missing: &mut String) {
        if let Some(properties) =
            value.get("properties").and_then(|properties| properties.as_object())
        {
            for (name, property) in
                properties.iter().filter(|(_, property)| property.get("description").is_none())
            {
                writeln!(missing, "{place}.{name}: {property}").unwrap();
            }
        }
        for (key, inner) in value.as_object().into_iter().flatten() {
            walk(inner, &format!("{place}.{key}"), missing);
        }
    }
    let mut missing = String::new();
    walk(&schema(), "", &mut missing);
    assert_eq!(missing, "");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn damaged_text_is_refused_or_read_but_never_panics(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[-a-z0-9:{}\\[\\]\"'&*!|>%#, \n\t.]{0,8}"), 1..4),
    ) {
        let mut text: Vec<char> = ACE_CRM.chars().collect();
        for (at, length, put) in cuts {
            let from = at.index(text.len());
            let to = (from + length).min(text.len());
            text.splice(from..to, put.chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(fleet) => for host in fleet.all_hosts() {
                let policy = policy(&fleet, host).unwrap();
                prop_assert_eq!(Policy::parse(&render_policy(&policy)), Ok(policy));
            },
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.line >= 1 && problem.column >= 1 && !problem.mend.is_empty(), "{}", problem);
                }
            }
        }
    }

    #[test]
    fn what_is_rendered_is_read_back_whatever_the_values_are(
        body in "(\\PC|\n|\t){0,120}",
        arguments in prop::collection::vec("(\\PC|\n){0,100}", 0..4),
        values in prop::collection::vec("\\PC{0,20}|yes|null|~|0x1F|1_000|1e3|012|\\.inf|2026-01-01|<<", 0..4),
        tree in "/[^/\\p{C}]{1,40}",
        json in json(),
        factor in 0.01f64..1e9,
        span in 1u64..100_000_000,
    ) {
        prop_assume!(!tree.ends_with("/.") && !tree.ends_with("/.."));
        let mut policy = policy(&read(TWO_HOSTS), "web-1").unwrap();
        let component = policy.components.get_mut("hello").unwrap();
        component.files = vec![agent::FilesPolicy::Tree(agent::TreePolicy {
            tree: tree.into(), switch: agent::SwitchMode::Link, keep: vec!["a b".into(), "#c".into()], privileged_files: false, from: None })];
        component.ready_within = Span(std::time::Duration::from_millis(span));
        component.services[0].driver = agent::ServiceDriver::Process(agent::ProcessPolicy {
            command: ["/bin/x".to_owned()].into_iter().chain(arguments).collect(),
            directory: "/srv/a: b".into(),
            environment: values.into_iter().enumerate().map(|(index, value)| (format!("V{index}"), value)).collect(),
            user: None,
        });
        let agent::ProbePolicy::Http(probe) = &mut component.checks[0].probe else { unreachable!() };
        probe.body = Some(body);
        probe.expect.json = [("/x".to_owned(), json)].into();
        probe.expect.p95_over_baseline = Some(factor);
        let rendered = render_policy(&policy);
        prop_assert_eq!(Policy::parse(&rendered).map_err(|error| TestCaseError::fail(format!("{error}\n{rendered}")))?, policy);
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        prop_assert!(parse(&text).is_err());
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e12f64..1e12).prop_map(Into::into),
        "\\PC{0,12}|true|null|5|~|1.5".prop_map(Into::into),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            prop::collection::btree_map("[a-z~5 ]{1,4}", inner, 0..3)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}
