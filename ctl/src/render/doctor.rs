//! Whether a rollback would work right now: the answer first, then each host, then what is in the way.

use proto::v1;

use super::{
    BAD, BOLD, DIM, GOOD, View, WARN, field,
    lists::size,
    paint,
    table::{Cell, Table, styled},
    words::{age, clean, count, duration_ms, horizon, or_dash},
    wrap,
};

/// The answer of `ctl doctor`. `ctl` begins each command.
pub fn doctor(view: &View, answer: &v1::DoctorResponse, ctl: &str) -> String {
    let mut text = verdict(view, answer);
    text += &hosts(view, &answer.hosts);
    for finding in &answer.findings {
        text += &self::finding(view, finding);
    }
    let next = if answer.ready && answer.way_back_is_live {
        String::new()
    } else if answer.ready {
        format!("{ctl} rollback --fleet {} --dry-run", clean(&answer.fleet))
    } else {
        format!("mend what is marked ✗, then: {ctl} doctor --fleet {}", clean(&answer.fleet))
    };
    text += &field(view, "Horizon", &horizon(answer.horizon.as_ref()));
    text + &field(view, "Next", &next)
}

fn verdict(view: &View, answer: &v1::DoctorResponse) -> String {
    let fleet = clean(&answer.fleet);
    let whole = answer.hosts.iter().filter(|host| host.ready).count();
    let of = format!("{whole} of {} ready", count(answer.hosts.len(), "host"));
    let (style, words) = match (answer.ready, answer.way_back.as_str()) {
        (false, "") => (BAD, format!("✗ {fleet} has no way back now")),
        (false, way) => {
            (BAD, format!("✗ a rollback of {fleet} to {} would not work now", clean(way)))
        }
        (true, way) if answer.way_back_is_live => {
            let words = format!("✓ {fleet} is on {}; a deploy can be taken back to it", clean(way));
            (if whole < answer.hosts.len() { WARN } else { GOOD }, words)
        }
        (true, way) if whole < answer.hosts.len() => {
            (WARN, format!("! a rollback of {fleet} to {} would begin now", clean(way)))
        }
        (true, way) => (GOOD, format!("✓ a rollback of {fleet} to {} would work now", clean(way))),
    };
    let expected = match answer.expected_ms {
        0 => String::new(),
        ms => format!("; the last one took {}", duration_ms(ms)),
    };
    let lines = wrap(&format!("{words}: {of}{expected}"), view.width);
    let lines: Vec<String> =
        lines.iter().map(|line| format!("{}\n", paint(style, &paint(BOLD, line)))).collect();
    lines.concat()
}

fn hosts(view: &View, hosts: &[v1::HostReadiness]) -> String {
    let mut table =
        Table::new(["HOST", "GROUP", "LIVE", "WAY BACK", "READ BACK", "FREE", "OUTAGE"]);
    for host in hosts {
        table.row([
            clean(&host.host).into(),
            clean(&host.group).into(),
            or_dash(&host.live_release).into(),
            way_back(host),
            read_back(view, host.verified_at_unix_ms),
            if host.free_bytes == 0 { styled(DIM, "-") } else { size(host.free_bytes).into() },
            match host.expected_cut_ms {
                0 => styled(DIM, "-"),
                ms => duration_ms(ms).into(),
            },
        ]);
    }
    table.render(view)
}

fn way_back(host: &v1::HostReadiness) -> Cell {
    match (host.ready, host.staged) {
        (false, _) => styled(BAD, "not ready"),
        (true, true) => styled(GOOD, "staged"),
        (true, false) => styled(GOOD, format!("{} to copy", size(host.bytes_needed))),
    }
}

fn read_back(view: &View, unix_ms: i64) -> Cell {
    match unix_ms {
        0 => styled(WARN, "never"),
        at => format!("{} ago", age(view, at)).into(),
    }
}

fn finding(view: &View, finding: &v1::Finding) -> String {
    let (style, mark) = match finding.severity() {
        v1::Severity::Blocking => (BAD, "✗"),
        v1::Severity::Warning => (WARN, "!"),
        v1::Severity::Note | v1::Severity::Unspecified => (DIM, "·"),
    };
    let about: Vec<String> = [&finding.host, &finding.component]
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(|name| clean(name))
        .collect();
    let about = if about.is_empty() { String::new() } else { format!("{}: ", about.join(" ")) };
    let room = view.width.saturating_sub(4).max(20);
    let mut text = String::new();
    for (index, line) in wrap(&format!("{about}{}", clean(&finding.what)), room).iter().enumerate()
    {
        let mark = if index == 0 { paint(style, mark) } else { " ".to_owned() };
        text += &format!("  {mark} {line}\n");
    }
    if !finding.mend.is_empty() {
        for line in wrap(&format!("mend: {}", clean(&finding.mend)), room) {
            text += &format!("    {}\n", paint(DIM, &line));
        }
    }
    text
}

/// The word of a severity, for documents.
pub fn severity(severity: i32) -> String {
    match v1::Severity::try_from(severity) {
        Ok(v1::Severity::Note) => "note".to_owned(),
        Ok(v1::Severity::Warning) => "warning".to_owned(),
        Ok(v1::Severity::Blocking) => "blocking".to_owned(),
        Ok(v1::Severity::Unspecified) | Err(_) => format!("severity-{severity}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    fn host(name: &str, ready: bool) -> v1::HostReadiness {
        v1::HostReadiness {
            host: name.to_owned(),
            group: "green".to_owned(),
            ready,
            live_release: "v1.4.3".to_owned(),
            staged: ready,
            bytes_needed: 0,
            free_bytes: 19 << 30,
            verified_at_unix_ms: 0,
            certificate_ends_unix_ms: 0,
            expected_cut_ms: 1_400,
        }
    }

    #[test]
    fn the_answer_comes_first_and_each_mend_stands_under_what_it_mends() {
        let finding = |host: &str, severity: v1::Severity, what: &str, mend: &str| v1::Finding {
            host: host.to_owned(),
            component: "crm".to_owned(),
            severity: severity.into(),
            what: what.to_owned(),
            mend: mend.to_owned(),
        };
        let answer = v1::DoctorResponse {
            fleet: "prod".to_owned(),
            ready: false,
            way_back: "v1.4.2".to_owned(),
            hosts: vec![host("crm-g1", true), host("crm-g2", false)],
            findings: vec![
                finding(
                    "crm-g2",
                    v1::Severity::Blocking,
                    "unit ace-crm-backend.service is masked",
                    "on the host: systemctl unmask ace-crm-backend.service",
                ),
                finding(
                    "crm-g1",
                    v1::Severity::Warning,
                    "v1.4.2 was never read back there",
                    "ctl snapshot verify v1.4.2",
                ),
            ],
            expected_ms: 96_000,
            way_back_is_live: false,
            horizon: Some(v1::Horizon { releases: 5, age_ms: 9 * 86_400_000 }),
        };
        insta::assert_snapshot!(plain(&doctor(&view(), &answer, "ctl")));
        assert!(
            plain(&doctor(&view(), &answer, "ctl")).lines().all(|line| line.chars().count() <= 80)
        );
    }
}
