//! Whether a person means it.
//!
//! ```text
//!                 --confirm F      --yes            a terminal             neither
//! production      F is the fleet   refused          type the fleet's name  exit 2, with the line to run
//! anything else   F is the fleet   yes              y/N                    exit 2, with the line to run
//! ```
//!
//! Invariant: a production fleet is never touched without its name having been typed.

use crate::{error::CtlError, out::Out};

/// What is to be confirmed.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// `rollback of prod`.
    pub what: &'a str,
    pub fleet: &'a str,
    /// Its name has to be typed.
    pub production: bool,
    /// The line that does the same without a terminal.
    pub command: &'a str,
}

/// What the command line said already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    pub confirm: Option<&'a str>,
    pub yes: bool,
}

/// Returns when it is confirmed.
///
/// # Errors
/// [`CtlError::Usage`] for the wrong name or a `--yes` that does not count, [`CtlError::Declined`],
/// [`CtlError::NotConfirmed`] where there is nobody to ask.
pub fn confirm(out: &mut Out, question: &Question<'_>, given: Given<'_>) -> Result<(), CtlError> {
    let Question { what, fleet, production, command } = question;
    match given {
        Given { confirm: Some(name), .. } if name == *fleet => return Ok(()),
        Given { confirm: Some(name), .. } => {
            let what = format!("--confirm says `{name}`, but the plan is for `{fleet}`");
            return Err(CtlError::Usage { what, next: vec![(*command).to_owned()] });
        }
        Given { yes: true, .. } if *production => {
            let what = format!("--yes does not count for {fleet}, which is in production");
            return Err(CtlError::Usage { what, next: vec![(*command).to_owned()] });
        }
        Given { yes: true, .. } => return Ok(()),
        Given { confirm: None, yes: false } => {}
    }
    let asked = if *production {
        out.ask("Type the fleet name to start (Ctrl-C changes nothing): ")
    } else {
        out.ask(&format!("Start the {what}? [y/N] "))
    };
    match asked {
        None => {
            let (what, command) = ((*what).to_owned(), (*command).to_owned());
            Err(CtlError::NotConfirmed { what, command })
        }
        Some(answer) if *production && answer == *fleet => Ok(()),
        Some(answer) if !*production && matches!(answer.as_str(), "y" | "Y" | "yes") => Ok(()),
        Some(answer) if *production && !answer.is_empty() => {
            Err(CtlError::Declined { why: format!("`{answer}` is not `{fleet}`") })
        }
        Some(_) => Err(CtlError::Declined { why: "the answer was no".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exit::Exit,
        out::{Captured, Manner},
    };

    fn question(production: bool) -> Question<'static> {
        Question {
            what: "rollback of prod",
            fleet: "prod",
            production,
            command: "ctl rollback --plan 8f21 --confirm prod",
        }
    }

    fn asked(
        production: bool,
        given: Given<'_>,
        answer: Option<&'static str>,
    ) -> (Result<(), CtlError>, Captured) {
        let (out, captured) = Out::captured(Manner::default());
        let mut out = match answer {
            Some(answer) => out.with_input(answer.as_bytes()),
            None => out,
        };
        (confirm(&mut out, &question(production), given), captured)
    }

    #[test]
    fn without_a_terminal_the_exact_line_to_run_is_given_and_nothing_is_started() {
        for production in [true, false] {
            let (result, _) = asked(production, Given::default(), None);
            let error = result.unwrap_err();
            assert_eq!(error.exit(), Exit::Usage);
            assert_eq!(error.told().next, ["ctl rollback --plan 8f21 --confirm prod"]);
        }
    }

    #[test]
    fn production_wants_its_name_and_nothing_else() {
        for (answer, ok) in [
            ("prod\n", true),
            ("prod", true),
            ("y\n", false),
            ("yes\n", false),
            ("pro\n", false),
            ("\n", false),
            ("", false),
        ] {
            let (result, captured) = asked(true, Given::default(), Some(answer));
            assert_eq!(result.is_ok(), ok, "{answer:?}");
            assert!(captured.stderr().starts_with("Type the fleet name"));
            assert!(
                result.is_ok() || matches!(result, Err(error) if error.exit() == Exit::Refused)
            );
        }
    }

    #[test]
    fn elsewhere_yes_is_enough_and_nothing_means_no() {
        for (answer, ok) in
            [("y\n", true), ("yes\n", true), ("n\n", false), ("\n", false), ("prod\n", false)]
        {
            assert_eq!(asked(false, Given::default(), Some(answer)).0.is_ok(), ok, "{answer:?}");
        }
    }

    #[test]
    fn the_command_line_confirms_by_name_and_yes_only_outside_production() {
        let named = |name| Given { confirm: Some(name), yes: false };
        let yes = Given { confirm: None, yes: true };
        for (production, given, code) in [
            (true, named("prod"), 0),
            (true, named("staging"), 2),
            (true, yes, 2),
            (false, named("prod"), 0),
            (false, yes, 0),
        ] {
            let (result, captured) = asked(production, given, Some("prod\n"));
            assert_eq!(result.err().map_or(0, |error| error.exit().code()), code, "{given:?}");
            assert_eq!(captured.stderr(), "", "nobody was asked");
        }
    }
}
