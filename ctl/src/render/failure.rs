//! The failure block: what failed, why, how things stand, what to type.

use super::{BAD, BOLD, View, labelled, paint, words::clean, wrap};
use crate::error::Failure;

/// How wide its labels are.
pub(super) const LABEL_WIDTH: usize = 8;
/// More lines of cause than this are counted, not shown.
const CAUSE_LINES_MAX: usize = 12;

/// The block, several lines.
pub fn failure(view: &View, failure: &Failure) -> String {
    let mut text = String::new();
    for (index, line) in
        wrap(&clean(&failure.what), view.width.saturating_sub(2)).iter().enumerate()
    {
        let mark = if index == 0 { paint(BAD, "✗") } else { " ".to_owned() };
        text += &format!("{mark} {}\n", paint(BOLD, line));
    }
    text + &rest(view, failure)
}

/// The block without its first line.
pub(super) fn rest(view: &View, failure: &Failure) -> String {
    let mut text = String::new();
    for (index, cause) in failure.cause.iter().take(CAUSE_LINES_MAX).enumerate() {
        let label = if index == 0 { "Cause" } else { "" };
        text += &labelled(view, label, LABEL_WIDTH, &clean(cause));
    }
    if let Some(more @ 1..) = failure.cause.len().checked_sub(CAUSE_LINES_MAX) {
        text += &labelled(view, "", LABEL_WIDTH, &format!("… and {more} more (all with -o json)"));
    }
    for (index, now) in failure.now.iter().enumerate() {
        text += &labelled(view, if index == 0 { "Now" } else { "" }, LABEL_WIDTH, &clean(now));
    }
    text + &next(&failure.next)
}

/// Commands are never wrapped: they are there to be copied.
fn next(commands: &[String]) -> String {
    let mut text = String::new();
    for (index, command) in commands.iter().enumerate() {
        let label = if index == 0 { "Next" } else { "" };
        let number = if commands.len() > 1 { format!("{}. ", index + 1) } else { String::new() };
        text += &format!("  {label:<LABEL_WIDTH$}{number}{command}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use proto::{
        status::{StatusKind, status},
        tls::DialError,
    };
    use tonic::Code;

    use super::*;
    use crate::{
        error::CtlError,
        fleet_file::Problem,
        render::tests::{plain, view},
    };

    fn shown(error: &CtlError) -> String {
        plain(&failure(&view(), &error.told()))
    }

    #[test]
    fn no_way_back_names_every_candidate_and_why_not() {
        let details = [
            "v1.4.3: it is live now",
            "v1.4.2: it is marked bad",
            "v1.4.1: it is not whole on crm-b2: no snapshot of crm",
        ];
        let details = details.map(str::to_owned);
        let status = status(
            StatusKind::Refused,
            Code::FailedPrecondition,
            "no earlier good release to go back to",
            &details,
            "ctl releases --fleet prod",
        );
        insta::assert_snapshot!(shown(&CtlError::call("make a plan")(status)));
    }

    #[test]
    fn a_coordinator_out_of_reach() {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let address = "lastgood.example.com:7443".to_owned();
        insta::assert_snapshot!(shown(&CtlError::Dial(DialError::Reach { address, source })));
    }

    #[test]
    fn a_certificate_that_is_not_accepted_behind_a_lost_connection() {
        let (address, why) = (
            "c:7443".to_owned(),
            "it has expired, or one of the two clocks is wrong; get a new one".to_owned(),
        );
        let mut status = tonic::Status::unavailable("connect");
        status.set_source(Arc::new(DialError::Refused { address, why }));
        insta::assert_snapshot!(shown(&CtlError::call("make a plan")(status)));
    }

    #[test]
    fn a_busy_fleet_names_the_holder() {
        let status = status(
            StatusKind::Busy,
            Code::Aborted,
            "rb-0193 of mira holds prod since 2m",
            &[],
            "ctl watch rb-0193",
        );
        insta::assert_snapshot!(shown(&CtlError::call("start the plan")(status)));
    }

    #[test]
    fn no_terminal_gives_the_line_to_run() {
        let command = "ctl rollback --fleet prod --plan 8f21c0de --confirm prod".to_owned();
        let what = "rollback of prod".to_owned();
        insta::assert_snapshot!(shown(&CtlError::NotConfirmed { what, command }));
    }

    #[test]
    fn a_lost_answer_to_the_start_says_that_it_may_run() {
        let mut status = tonic::Status::unavailable("");
        status.set_source(Arc::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        let error = CtlError::StartUnknown {
            plan: "8f21c0de".to_owned(),
            again: "ctl rollback --plan 8f21c0de --confirm prod --idempotency-key 1f".to_owned(),
            status: Box::new(status),
        };
        let text = anstream::adapter::strip_str(&failure(&view(), &error.told())).to_string();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_problem_of_a_fleet_file_has_its_place() {
        let problem = |line, what: &str, mend: &str| Problem {
            line,
            column: 3,
            what: what.to_owned(),
            mend: mend.to_owned(),
        };
        let problems = vec![
            problem(7, "unknown key `neeeds`", "did you mean `needs`?"),
            problem(
                12,
                "host `crm-b1` is in two groups, `blue` and `green`",
                "leave it in one of them",
            ),
        ];
        let error = CtlError::FleetFile { file: "fleet.yaml".to_owned(), problems };
        insta::assert_snapshot!(shown(&error));
    }
}
