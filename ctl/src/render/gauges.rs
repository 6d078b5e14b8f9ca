//! What the app says of itself on both sides of a canary.
//!
//! Invariant: it is said to be that, and stands apart from what the judge compares.
//! Invariant: no number is cut.

use proto::v1;

use super::{
    DIM, View, field, paint,
    table::{Cell, Table, styled},
    words::{clean, clock},
};

/// What the app says of itself, apart from what the judge says.
pub(super) fn gauges(view: &View, canary: &v1::CanaryView) -> String {
    let sides = |row: &v1::CanaryGauge| row.canary.into_iter().chain(row.baseline);
    let Some(oldest) = canary.gauges.iter().flat_map(sides).map(|side| side.oldest_unix_ms).min()
    else {
        return String::new();
    };
    let says = "of itself, over a time that it alone knows; the judge does not compare it";
    let mut text = field(view, "App says", says);
    for row in &canary.gauges {
        let name = format!("{} {} {}", row.component, row.check, row.pointer);
        text += &field(view, "", &format!("{}: wanted {}", clean(&name), wanted(row)));
        let mut table = Table::new(["", "MEDIAN", "LOWEST", "HIGHEST", "HOSTS"]);
        for (side, said) in [("canary", row.canary), ("rest", row.baseline)] {
            let figure = |of: fn(v1::GaugeSide) -> f64| match said {
                Some(said) => Cell::from(number(of(said))),
                None => Cell::from("-"),
            };
            table.row([
                side.into(),
                figure(|said| said.median),
                figure(|said| said.lowest),
                figure(|said| said.highest),
                styled(DIM, said.map_or("none says it".to_owned(), hosts)),
            ]);
        }
        text += &table.render(view);
    }
    text + &field(view, "", &paint(DIM, &format!("the oldest is of {}", clock(view, oldest))))
}

/// `3 of 4`, where not all have said it.
fn hosts(side: v1::GaugeSide) -> String {
    let v1::GaugeSide { hosts, of_hosts, .. } = side;
    if hosts == of_hosts { hosts.to_string() } else { format!("{hosts} of {of_hosts}") }
}

/// As the policies say: `at most 0.05`.
fn wanted(row: &v1::CanaryGauge) -> String {
    let bounds = [("at most", row.at_most), ("at least", row.at_least)];
    let words = bounds.map(|(words, bound)| Some(format!("{words} {}", number(bound?))));
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Any number in a few characters: four places, none of them an idle zero.
fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e7).contains(&value.abs()) {
        return format!("{value:.2e}");
    }
    // Without the sign of a zero.
    let text = format!("{:.4}", value + 0.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    /// An app that says nothing good of itself on the canary, and of which one host of the rest says nothing.
    pub(crate) fn example() -> v1::CanaryGauge {
        let side = |[lowest, median, highest]: [f64; 3], hosts, of_hosts| v1::GaugeSide {
            lowest,
            median,
            highest,
            hosts,
            of_hosts,
            oldest_unix_ms: view().now.as_millisecond() - 1_000,
        };
        v1::CanaryGauge {
            component: "crm".to_owned(),
            check: "backend".to_owned(),
            pointer: "/errorRate".to_owned(),
            canary: Some(side([0.25, 0.25, 0.25], 1, 1)),
            baseline: Some(side([0.0, 0.002, 0.0104], 3, 4)),
            at_most: Some(0.05),
            at_least: None,
        }
    }

    #[test]
    fn what_the_app_says_of_itself_is_told_as_that() {
        let silent = v1::CanaryGauge {
            check: "a-check-with-a-rather-long-name".to_owned(),
            pointer: "/stats/of\u{1b}[31m/the/last/minute/errorRate".to_owned(),
            canary: None,
            at_least: Some(-1e-9),
            ..example()
        };
        let gauges_of = |rows| v1::CanaryView { gauges: rows, ..v1::CanaryView::default() };
        insta::assert_snapshot!(plain(&gauges(&view(), &gauges_of(vec![example(), silent]))));
        assert_eq!(gauges(&view(), &gauges_of(Vec::new())), "");
    }

    #[test]
    fn a_number_is_short_and_loses_nothing_that_matters() {
        let table = [
            (0.0, "0"),
            (-0.0, "0"),
            (0.05, "0.05"),
            (0.002_04, "0.002"),
            (4.0, "4"),
            (120.0, "120"),
            (-3.5, "-3.5"),
            (9_999_999.0, "9999999"),
            (1e300, "1.00e300"),
            (0.000_25, "2.50e-4"),
        ];
        for (value, expected) in table {
            assert_eq!(number(value), expected);
        }
    }
}
