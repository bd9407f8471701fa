use procura_verifier::ids::{SystemClock, Tenant};

use super::*;
use crate::usecase::fixture::{HandClock, signing};

const STRICT: Mode = Mode::Strict { ms: 150 };

pub(crate) fn ack(run: u8, number: u64, seq: u64) -> Ack {
    let tenant: Tenant = "acme".parse().unwrap();
    Ack {
        tenant,
        verifier: VerifierId::from_bytes([1; 16]),
        run: [run; 16],
        number,
        epoch: 1,
        seq,
        hash: [0; 32],
        fresh_age_ms: 20,
        utc: UtcMillis(1_900_000_000_000),
        mode: STRICT,
    }
}

pub(crate) fn signed(ack: &Ack) -> Vec<u8> {
    Signed::sign(ack, &signing(9)).to_bytes()
}

#[tokio::test]
async fn a_newer_acknowledgement_replaces_an_older_one_and_wakes_who_waits() {
    let watch = Watch::start(Arc::new(SystemClock), None);
    let mut waiting = watch.begin_wait().await;
    assert!(watch.enter(ack(1, 2, 7), vec![]));
    tokio::time::timeout(Duration::from_secs(5), waiting.moved()).await.unwrap();
    assert!(!watch.enter(ack(1, 1, 9), vec![]), "older");
    assert!(!watch.enter(ack(1, 2, 9), vec![]), "the same again");
    let seen = watch.runs().remove(0).seen.unwrap();
    assert!(seen.has(1, 7) && !seen.has(1, 8) && !seen.has(2, 1));
    assert!(watch.enter(ack(1, 3, 8), vec![]));
    assert!(watch.runs().remove(0).seen.unwrap().has(1, 8));
}

#[tokio::test]
async fn runs_and_streams_of_one_verifier_are_few() {
    let clock = HandClock::new();
    let watch = Watch::start(clock.clone(), None);
    for run in 1..=10 {
        clock.advance_ms(10);
        watch.enter(ack(run, 1, 1), vec![]);
    }
    let runs: Vec<_> = watch.runs().iter().map(|h| h.run[0]).collect();
    assert_eq!(runs, [7, 8, 9, 10], "the newest");
    assert_eq!(watch.gone().len(), 1, "six made room, and may still allow");
    clock.advance_ms(memory_ms(STRICT) + 1);
    watch.enter(ack(11, 1, 1), vec![]);
    assert_eq!(watch.runs().len(), 1, "the others are long silent");
    assert_eq!(watch.gone(), []);

    let run = (VerifierId::from_bytes([1; 16]), [11; 16]);
    let until = clock.wall().plus(60_000);
    let admit = |nonce: u8| watch.admit(run, &[nonce; 16], until, STRICT);
    let mut places: Vec<_> = (0..4).map(|n| admit(n).unwrap()).collect();
    assert!(matches!(admit(4), Err(NoPlace::Run)));
    places.pop();
    assert_eq!(watch.signed_in_streams(), 3);
    places.push(admit(4).unwrap());
    assert!(matches!(admit(0), Err(NoPlace::Used)), "replayed");
    clock.advance_ms(60_001);
    places.pop();
    assert!(admit(0).is_ok(), "forgotten when its time is over: then the time itself refuses it");
}

#[tokio::test]
async fn one_key_takes_few_places_whatever_runs_it_names() {
    let watch = Watch::start(HandClock::new(), None);
    let admit = |verifier: u8, run: u8, nonce: u8| {
        let run = (VerifierId::from_bytes([verifier; 16]), [run; 16]);
        watch.admit(run, &[nonce; 16], UtcMillis(u64::MAX), STRICT)
    };
    let mut places: Vec<_> = (0..).map_while(|n| admit(1, n, n).ok()).take(1000).collect();
    assert_eq!(places.len(), MAX_STREAMS_OF_ONE, "the runs that were forgotten hold their streams still");
    assert!(matches!(admit(1, 99, 99), Err(NoPlace::Verifier)));
    assert!(admit(2, 1, 1).is_ok(), "another's");
    places.pop();
    assert!(admit(1, 99, 99).is_ok());
    places.clear();
    assert!(watch.ledger().streams.is_empty());
}

#[tokio::test]
async fn strangers_hold_a_part_of_the_streams_only() {
    let watch = Watch::start(Arc::new(SystemClock), None);
    let mut places: Vec<_> = (0..MAX_ANONYMOUS_STREAMS).map(|_| watch.admit_anonymous().unwrap()).collect();
    assert!(matches!(watch.admit_anonymous(), Err(NoPlace::Anonymous)));
    assert_eq!(watch.anonymous_streams(), MAX_ANONYMOUS_STREAMS);
    let run = (VerifierId::from_bytes([1; 16]), [11; 16]);
    assert!(watch.admit(run, &[1; 16], UtcMillis(u64::MAX), STRICT).is_ok(), "a signed-in verifier's place is not theirs");
    places.pop();
    assert!(watch.admit_anonymous().is_ok());
}

/// A run that may allow for longer than others is remembered for longer, also where later ones take its place.
#[tokio::test]
async fn a_silent_run_is_remembered_until_its_own_bound_is_over() {
    let clock = HandClock::new();
    let watch = Watch::start(clock.clone(), None);
    let slow = Mode::Bounded { ms: 300_000 };
    watch.enter(Ack { mode: slow, ..ack(1, 1, 1) }, vec![]);
    let at = |ms: u64| watch.0.clock.boot().plus_micros(ms * 1000);
    let until = at(memory_ms(slow));
    clock.advance_ms(RUN_MEMORY_MS + 1_000);
    watch.enter(ack(2, 1, 1), vec![]);
    assert_eq!(watch.runs().len(), 2, "a strict run would be forgotten by now");
    for run in 3..=9 {
        clock.advance_ms(10);
        watch.enter(ack(run, 1, 1), vec![]);
    }
    assert_eq!(watch.runs().len(), MAX_RUNS);
    let verifier = VerifierId::from_bytes([1; 16]);
    assert_eq!(watch.gone(), [(verifier, Gone { until, mode: slow })], "no place, and not forgotten: the weakest of those that made room");
    clock.advance_ms(memory_ms(slow));
    assert_eq!(watch.gone(), []);
    watch.enter(ack(10, 1, 1), vec![]);
    assert!(watch.ledger().gone.is_empty(), "one entry a verifier at most, and none for ever");
    // Retired with some that made room.
    (20..30).for_each(|run| assert!(watch.enter(Ack { mode: Mode::BestEffort, ..ack(run, 1, 1) }, vec![])));
    assert_eq!(watch.gone().first().map(|(_, g)| g.mode), Some(Mode::BestEffort));
    watch.forget(verifier);
    assert_eq!((watch.gone(), watch.runs().len()), (vec![], 0));
}
