//! What is pruned: every snapshot of every host with its reason, what that frees, and how far back one can go then.

use proto::v1;

use super::{
    BAD, BOLD, DIM, View, WARN,
    lists::{short, size},
    paint,
    table::{Cell, Table, styled},
    words::{clean, count, day_and_time, horizon, or_dash},
    wrap,
};

/// Whether it is said before it is done, or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tense {
    /// Every snapshot is shown, those that stay too.
    Would,
    /// Only what went.
    Did,
}

/// The answer of `ctl snapshot prune`.
pub fn prune(view: &View, answer: &v1::PruneSnapshotsResponse, tense: Tense) -> String {
    let mut text = String::new();
    for host in &answer.hosts {
        text += &self::host(view, host, tense);
    }
    text + &closing(view, answer, tense)
}

fn host(view: &View, host: &v1::HostPruned, tense: Tense) -> String {
    let mut text = format!("{}\n", paint(BOLD, &clean(&host.host)));
    if !host.failed.is_empty() {
        text += &line(view, &paint(BAD, "✗"), &clean(&host.failed));
        return text;
    }
    let shown: Vec<&v1::PrunedRow> =
        host.rows.iter().filter(|row| tense == Tense::Would || row.goes).collect();
    let several = shown.iter().any(|row| row.component != shown[0].component);
    let mut table = if several {
        Table::new(["COMPONENT", "RELEASE", "SNAPSHOT", "SIZE", "TAKEN", ""])
    } else {
        Table::new(["RELEASE", "SNAPSHOT", "SIZE", "TAKEN", ""])
    };
    for row in &shown {
        let releases = match row.releases.join(", ") {
            none if none.is_empty() => "(no name)".to_owned(),
            names => clean(&names),
        };
        let taken = match row.taken_at_unix_ms {
            0 => or_dash(""),
            at => day_and_time(view, at),
        };
        let (snapshot, size) = (short(&row.snapshot), size(row.size_bytes));
        let fate = fate(row, tense);
        if several {
            let component = clean(&row.component).into();
            table.row([
                component,
                releases.into(),
                snapshot.into(),
                size.into(),
                taken.into(),
                fate,
            ]);
        } else {
            table.row([releases.into(), snapshot.into(), size.into(), taken.into(), fate]);
        }
    }
    let rows = table.render(view);
    text += if rows.is_empty() {
        match tense {
            Tense::Would => "  no snapshot\n",
            Tense::Did => "  nothing went\n",
        }
    } else {
        &rows
    };
    for failure in &host.failures {
        text += &line(view, &paint(BAD, "✗"), &format!("not pruned: {}", clean(failure)));
    }
    for note in &host.notes {
        text += &line(view, &paint(WARN, "!"), &clean(note));
    }
    text
}

fn fate(row: &v1::PrunedRow, tense: Tense) -> Cell {
    let why = clean(&row.why);
    match (row.goes, tense) {
        (true, Tense::Would) => styled(WARN, format!("goes: {why}")),
        (true, Tense::Did) => styled(WARN, format!("gone: {why}")),
        (false, _) => styled(DIM, format!("stays: {why}")),
    }
}

fn line(view: &View, mark: &str, text: &str) -> String {
    let lines = wrap(text, view.width.saturating_sub(4));
    let mark_first = |(index, line): (usize, &String)| {
        let mark = if index == 0 { mark } else { " " };
        format!("  {mark} {line}\n")
    };
    lines.iter().enumerate().map(mark_first).collect()
}

/// What is freed, and the horizon.
fn closing(view: &View, answer: &v1::PruneSnapshotsResponse, tense: Tense) -> String {
    let all = answer.hosts.iter().map(|host| host.rows.len()).sum();
    let rows = answer.hosts.iter().flat_map(|host| &host.rows);
    let goes = rows.filter(|row| row.goes).count();
    let freed: u64 = answer.hosts.iter().map(|host| host.freed_bytes).sum();
    let of = count(all, "snapshot");
    let what = match (goes, tense) {
        (0, _) => format!("Nothing goes: {of}, and every one has a reason to stay."),
        (goes, Tense::Would) => {
            format!("{goes} of {of} would go, with {} that no other needs.", size(freed))
        }
        (goes, Tense::Did) => {
            format!("{goes} of {of} went, with {} that no other needs.", size(freed))
        }
    };
    let reach = match (horizon(answer.horizon.as_ref()), tense) {
        (none, _) if none.is_empty() => String::new(),
        (reach, Tense::Would) if goes > 0 => format!("Horizon then: {reach}."),
        (reach, _) => format!("Horizon: {reach}."),
    };
    let lines = [what, reach].into_iter().flat_map(|text| wrap(&text, view.width));
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    fn row(component: &str, releases: &[&str], goes: bool, why: &str) -> v1::PrunedRow {
        v1::PrunedRow {
            component: component.to_owned(),
            snapshot: "5d2e".repeat(16),
            releases: releases.iter().map(|name| (*name).to_owned()).collect(),
            size_bytes: 451_000_000,
            taken_at_unix_ms: view().now.as_millisecond() - 3_600_000,
            goes,
            why: why.to_owned(),
        }
    }

    pub(crate) fn answer() -> v1::PruneSnapshotsResponse {
        let host = |host: &str, rows: Vec<v1::PrunedRow>| v1::HostPruned {
            host: host.to_owned(),
            rows,
            freed_bytes: 64 << 20,
            ..v1::HostPruned::default()
        };
        let plain = vec![
            row("crm", &["v1.4.3"], false, "live"),
            row("crm", &["v1.4.2", "v1.4.2-again"], false, "last good"),
            row("crm", &["v1.4.1"], false, "pinned by anna: \"the audit of 2026 looks at it\""),
            row("crm", &["v1.4.0"], true, "beyond 2 releases"),
            row("crm", &[], true, "older than 30d"),
        ];
        let mut two = host(
            "crm-b2",
            vec![
                row("crm", &["v1.4.0"], true, "beyond 2 releases"),
                row("proxy", &["v1.4.0"], false, "within the limits"),
            ],
        );
        two.notes = vec!["proxy takes 21GiB, more than 20GiB: the rest must stay".to_owned()];
        two.failures = vec!["crm: component `crm` is held in a switch".to_owned()];
        let mut silent = host("crm-b3", Vec::new());
        silent.failed = "its agent is not connected".to_owned();
        silent.freed_bytes = 0;
        v1::PruneSnapshotsResponse {
            fleet: "prod".to_owned(),
            production: true,
            hosts: vec![host("crm-b1", plain), two, silent],
            horizon: Some(v1::Horizon { releases: 5, age_ms: 9 * 86_400_000 }),
        }
    }

    #[test]
    fn every_snapshot_has_its_reason_and_the_end_says_how_far_back_one_can_go() {
        insta::assert_snapshot!(plain(&prune(&view(), &answer(), Tense::Would)));
        insta::assert_snapshot!("what_went", plain(&prune(&view(), &answer(), Tense::Did)));
    }
}
