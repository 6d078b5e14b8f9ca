//! A host's way in and out, step by step, and with crashes between the steps.

use super::*;
use crate::journal::memory::{CrashPoint, MemoryDisk, MemoryJournal};

const TOKEN: &str = "lgj_one";

fn at(minute: i64) -> Timestamp {
    Timestamp(minute * 60_000)
}

fn made(token: &str, minute: i64) -> IdentityEvent {
    let (hash, by) = (TokenHash::of(token), "mira".to_owned());
    IdentityEvent::TokenMade { hash, by, at: at(minute), expires: at(minute + 15) }
}

fn issued(serial: &str, key: &str, cause: Cause, minute: i64) -> IdentityEvent {
    let certificate = Certificate {
        serial: serial.to_owned(),
        key: key.to_owned(),
        pem: format!("pem of {serial}"),
        at: at(minute),
        ends: at(minute + 60 * 24 * 30),
    };
    IdentityEvent::Issued { certificate, cause }
}

fn revoked(minute: i64) -> IdentityEvent {
    let (by, reason) = ("mira".to_owned(), "stolen".to_owned());
    IdentityEvent::Revoked { by, reason, at: at(minute) }
}

fn show(serial: &str, minute: i64) -> Shown<'_> {
    Shown { serial, key: "", issued: at(minute), ends: at(minute + 60 * 24 * 30) }
}

fn after(events: &[IdentityEvent]) -> HostIdentity {
    let mut state = HostIdentity::default();
    events.iter().for_each(|event| state.apply(event));
    state
}

/// Acknowledges and applies what comes of it.
fn acknowledge(state: &mut HostIdentity, serial: &str, minute: i64) {
    let event = state.acknowledge(show(serial, minute), at(minute)).unwrap();
    state.apply(&event.expect("something happened"));
}

/// A host that joined with certificate `c1` of key `k1` in minute 2.
fn joined() -> HostIdentity {
    let mut state = after(&[made(TOKEN, 0), issued("c1", "k1", Cause::Token, 1)]);
    acknowledge(&mut state, "c1", 2);
    state
}

#[test]
fn a_token_lets_in_once_and_only_after_the_acknowledgement_it_is_used_up() {
    let token = TokenHash::of(TOKEN);
    let mut state = after(&[made(TOKEN, 0)]);
    assert_eq!(state.join(token, "k1", at(1)), Ok(Answer::Issue));
    state.apply(&issued("c1", "k1", Cause::Token, 1));
    assert_eq!(state.standing(show("c1", 1)), Standing::Pending);
    assert_eq!(state.current(), None, "a certificate that was not acknowledged does not count");
    // The answer was lost: the same again, without a second certificate.
    let Ok(Answer::Again(again)) = state.join(token, "k1", at(2)) else { panic!() };
    assert_eq!(again.serial, "c1");
    acknowledge(&mut state, "c1", 2);
    assert_eq!(state.standing(show("c1", 1)), Standing::Good);
    assert_eq!(state.acknowledge(show("c1", 1), at(3)), Ok(None), "once more changes nothing");
    // The answer to the acknowledgement was lost: who has the key hears the same, another one does not.
    assert!(matches!(state.join(token, "k1", at(4)), Ok(Answer::Again(_))));
    assert_eq!(state.join(token, "k2", at(4)), Err(TokenError::Used));
}

#[test]
fn p09_of_two_joins_with_one_token_exactly_one_becomes_the_host() {
    let token = TokenHash::of(TOKEN);
    let mut state = after(&[made(TOKEN, 0), issued("c1", "k1", Cause::Token, 1)]);
    assert_eq!(state.join(token, "k2", at(1)), Err(TokenError::Raced));
    acknowledge(&mut state, "c1", 2);
    assert_eq!(state.join(token, "k2", at(2)), Err(TokenError::Used));
    assert_eq!(state.current().unwrap().serial, "c1");
}

#[test]
fn p09_wrong_and_expired_tokens_let_nobody_in() {
    let state = after(&[made(TOKEN, 0)]);
    assert_eq!(state.token(TokenHash::of("lgj_other"), at(1)), Err(TokenError::Unknown));
    assert_eq!(state.token(TokenHash::of(TOKEN), at(15)), Ok(()));
    assert_eq!(state.token(TokenHash::of(TOKEN), at(16)), Err(TokenError::Expired));
    assert_eq!(state.awaited_until(at(15)), Some(at(15)));
    assert_eq!(state.awaited_until(at(16)), None);
    let nobody = HostIdentity::default();
    assert_eq!(nobody.token(TokenHash::of(TOKEN), at(1)), Err(TokenError::Unknown));
    // A new token ends the one before, and a certificate that was waiting for it.
    let state = after(&[made(TOKEN, 0), issued("c1", "k1", Cause::Token, 1), made("two", 2)]);
    assert_eq!(state.token(TokenHash::of(TOKEN), at(3)), Err(TokenError::Unknown));
    assert_eq!(state.standing(show("c1", 1)), Standing::Dropped);
    assert_eq!(state.acknowledge(show("c1", 1), at(3)), Err(Standing::Dropped));
}

#[test]
fn p09_a_certificate_that_was_issued_here_never_counts_by_being_forgotten() {
    // Were it taken for one that was issued beside the CA, it would.
    let state = after(&[made(TOKEN, 0), issued("c1", "k1", Cause::Token, 1), revoked(2)]);
    assert!(matches!(state.standing(show("c1", 1)), Standing::Revoked { .. }));
    let mut state = joined();
    state.apply(&issued("c2", "k2", Cause::Renewal, 10));
    state.apply(&issued("c3", "k3", Cause::Renewal, 11));
    assert_eq!(state.standing(show("c2", 10)), Standing::Dropped);
    assert_eq!(state.standing(show("c3", 11)), Standing::Pending);
}

#[test]
fn a_renewed_certificate_counts_from_its_first_use_and_the_old_one_until_then() {
    let mut state = joined();
    assert_eq!(state.renew(show("c1", 1), "k2"), Ok(Answer::Issue));
    state.apply(&issued("c2", "k2", Cause::Renewal, 10));
    assert_eq!(state.standing(show("c1", 1)), Standing::Good);
    assert_eq!(state.standing(show("c2", 10)), Standing::Pending);
    assert!(matches!(state.renew(show("c1", 1), "k2"), Ok(Answer::Again(c)) if c.serial == "c2"));
    assert_eq!(state.renew(show("c2", 10), "k3"), Err(Standing::Pending));
    acknowledge(&mut state, "c2", 11);
    assert_eq!(state.standing(show("c2", 10)), Standing::Good);
    let replaced = Standing::Replaced { at: at(11), by: Cause::Renewal };
    assert_eq!(state.standing(show("c1", 1)), replaced);
    assert_eq!(state.renew(show("c1", 1), "k4"), Err(replaced));
}

#[test]
fn p09_a_revoked_host_is_out_until_a_new_token_lets_it_in() {
    let mut state = joined();
    state.apply(&issued("c2", "k2", Cause::Renewal, 10));
    state.apply(&made("two", 11));
    state.apply(&revoked(12));
    for serial in ["c1", "c2", "by-hand"] {
        let standing = state.standing(show(serial, 20));
        assert!(matches!(standing, Standing::Revoked { .. }), "{serial}: {standing:?}");
    }
    assert_eq!(state.token(TokenHash::of("two"), at(12)), Err(TokenError::Unknown));
    state.apply(&made("three", 13));
    assert!(matches!(state.standing(show("c1", 1)), Standing::Revoked { .. }));
    state.apply(&issued("c3", "k3", Cause::Token, 14));
    assert!(matches!(state.standing(show("c1", 1)), Standing::Revoked { .. }));
    acknowledge(&mut state, "c3", 15);
    assert_eq!(state.standing(show("c3", 14)), Standing::Good);
    assert_eq!(state.revoked(), None);
    // What was stolen stays out, and what somebody kept who issues by hand.
    assert!(matches!(state.standing(show("c1", 1)), Standing::Replaced { .. }));
    assert_eq!(state.standing(show("c2", 10)), Standing::Dropped);
    assert_eq!(state.standing(show("by-hand", 20)), Standing::ByHand);
}

#[test]
fn a_certificate_by_hand_counts_until_something_newer_does() {
    let mut state = HostIdentity::default();
    assert_eq!(state.standing(show("h1", 0)), Standing::Good);
    acknowledge(&mut state, "h1", 0);
    assert_eq!(state.current().unwrap().origin, Origin::Hand);
    for event in [made(TOKEN, 5), issued("c1", "k1", Cause::Token, 6)] {
        state.apply(&event);
    }
    acknowledge(&mut state, "c1", 7);
    assert!(matches!(state.standing(show("h1", 0)), Standing::Replaced { .. }));
    assert!(
        matches!(state.standing(show("h0", 3)), Standing::Replaced { .. }),
        "never seen, but older"
    );
    assert_eq!(
        state.standing(show("h2", 8)),
        Standing::Good,
        "the way out when this one cannot issue"
    );
    acknowledge(&mut state, "h2", 8);
    assert!(matches!(state.standing(show("c1", 6)), Standing::Replaced { .. }));
}

#[test]
fn what_has_long_ended_is_forgotten() {
    let mut state = joined();
    let month = 60 * 24 * 31;
    for round in 1..40 {
        let serial = format!("r{round}");
        state.apply(&issued(&serial, "k", Cause::Renewal, round * month));
        acknowledge(&mut state, &serial, round * month);
    }
    assert!(matches!(state.standing(show("r38", 38 * month)), Standing::Replaced { .. }));
    let debug = format!("{state:?}");
    assert!(!debug.contains("\"r10\"") && debug.contains("\"r38\""), "{debug}");
}

#[tokio::test]
async fn p08_a_crash_between_any_two_steps_leaves_what_was_acknowledged_and_nothing_else() {
    let host = HostName::new("h1").unwrap();
    let steps = [
        made(TOKEN, 0),
        issued("c1", "k1", Cause::Token, 1),
        IdentityEvent::Acknowledged { serial: "c1".to_owned(), at: at(2) },
        issued("c2", "k2", Cause::Renewal, 10),
        IdentityEvent::Acknowledged { serial: "c2".to_owned(), at: at(11) },
        revoked(12),
    ];
    for crash in 0..steps.len() {
        for point in [CrashPoint::Before(crash as u64), CrashPoint::After(crash as u64)] {
            let disk = MemoryDisk::default();
            let journal = MemoryJournal::open(&disk, 0);
            journal.crash_at(point);
            let identities = Identities::load(Arc::new(journal)).unwrap();
            let mut answered = 0;
            for step in &steps {
                let step = step.clone();
                let change =
                    identities.change(&host, |_| Ok::<_, IdentitiesError>((vec![step], ()))).await;
                if change.is_err() {
                    break;
                }
                answered += 1;
            }
            assert_eq!(answered, crash, "the one that crashed was not acknowledged");
            let found = Identities::load(Arc::new(MemoryJournal::open(&disk, 0))).unwrap();
            let there = if matches!(point, CrashPoint::After(_)) { crash + 1 } else { crash };
            let wanted = format!("{:?}", after(&steps[..there]));
            assert_eq!(found.read(&host, |state| format!("{state:?}")), wanted);
        }
    }
}

#[tokio::test]
async fn p11_no_token_is_on_record() {
    let host = HostName::new("h1").unwrap();
    let disk = MemoryDisk::default();
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::open(&disk, 0));
    let identities = Identities::load(journal.clone()).unwrap();
    let change = |_: &_| Ok::<_, IdentitiesError>((vec![made(TOKEN, 0)], ()));
    identities.change(&host, change).await.unwrap();
    let records = journal.replay(&Stream::new("identity/h1").unwrap()).unwrap();
    let text = String::from_utf8(records.concat()).unwrap();
    assert!(!text.contains(TOKEN) && text.contains("token_made"), "{text}");
}
