//! The contract's sentences about sessions and secrets that are good once.

use super::*;
use crate::domain::session::{Assurance, IDLE_MS, MAX_PER_HUMAN, SecretKind, SignInGenerations};

fn hash(n: u8) -> HashedToken {
    HashedToken::of(SecretKind::Session, &[n])
}
fn session(n: u8, human: HumanId) -> Session {
    let assurance = Assurance { auth_time: Some(NOW), acr: Some("a\u{0}b \"2\"".into()), amr: vec!["pwd".into(), "otp".into()] };
    let generations = SignInGenerations { global: 0, tenant: 0, human: 1 };
    Session::begin(hash(n), human, assurance, generations, NOW.plus(u64::from(n)))
}
fn began(n: u8, human: HumanId) -> Row {
    Row::Session(SessionChange::Began(session(n, human)))
}
fn change(change: SessionChange) -> Change {
    rows(vec![Row::Session(change)])
}
async fn found(store: &dyn Store, n: u8) -> Option<Session> {
    store.find_session(hash(n)).await.unwrap().map(|f| f.session)
}
const OTHER: HumanId = HumanId::from_bytes([11; 16]);

pub(super) async fn sessions_read_back_and_end(store: Arc<dyn Store>) {
    one(&*store, 1, registered()).await.unwrap();
    one(&*store, 2, rows(vec![began(1, HUMAN), began(2, HUMAN), began(3, OTHER)])).await.unwrap();
    let first = store.find_session(hash(1)).await.unwrap().unwrap();
    assert_eq!((&first.session, first.subject, first.floors), (&session(1, HUMAN), Some(subject("alice")), SignInGenerations::default()));
    assert_eq!(store.find_session(hash(3)).await.unwrap().unwrap().subject, None, "a human without a row");
    assert_eq!(store.find_session(hash(9)).await.unwrap(), None);
    assert_eq!(store.sessions_of(HUMAN).await.unwrap(), [session(2, HUMAN), session(1, HUMAN)]);

    for (n, until, expected) in [(3, 5, 5), (4, 4, 5)] {
        one(&*store, n, change(SessionChange::Used(hash(1), NOW.plus(IDLE_MS + until)))).await.unwrap();
        assert_eq!(found(&*store, 1).await.unwrap().idle_until, NOW.plus(IDLE_MS + expected), "use never shortens");
    }
    one(&*store, 5, change(SessionChange::Ended(hash(1)))).await.unwrap();
    one(&*store, 6, change(SessionChange::Used(hash(1), NOW.plus(IDLE_MS * 2)))).await.unwrap();
    assert_eq!(found(&*store, 1).await, None, "use wakes nobody");
    one(&*store, 7, change(SessionChange::Ended(hash(1)))).await.unwrap();
    one(&*store, 8, change(SessionChange::AllEnded(HUMAN))).await.unwrap();
    assert_eq!((found(&*store, 2).await, found(&*store, 3).await), (None, Some(session(3, OTHER))));
}

pub(super) async fn of_more_sessions_than_a_human_may_have_the_oldest_go(store: Arc<dyn Store>) {
    one(&*store, 1, rows(vec![began(0, OTHER)])).await.unwrap();
    let most = u8::try_from(MAX_PER_HUMAN).unwrap();
    for n in 1..=most + 1 {
        one(&*store, 1 + n, rows(vec![began(n, HUMAN)])).await.unwrap();
    }
    assert_eq!((found(&*store, 1).await, found(&*store, 0).await), (None, Some(session(0, OTHER))));
    let expected: Vec<_> = (2..=most + 1).rev().map(|n| session(n, HUMAN)).collect();
    assert_eq!(store.sessions_of(HUMAN).await.unwrap(), expected);
}

pub(super) async fn a_session_is_found_with_the_floors_of_its_human_tenant_and_everything(store: Arc<dyn Store>) {
    one(&*store, 1, rows(vec![began(1, HUMAN), began(2, OTHER)])).await.unwrap();
    let floors = async |n| store.find_session(hash(n)).await.unwrap().unwrap().floors;
    let raised = |scope, to| rows(vec![Row::Generation(scope, to)]);
    one(&*store, 2, raised(FloorScope::Human(HUMAN), 3)).await.unwrap();
    assert_eq!((floors(1).await, floors(2).await), (SignInGenerations { human: 3, ..Default::default() }, SignInGenerations::default()));
    one(&*store, 3, raised(FloorScope::Tenant, 4)).await.unwrap();
    one(&*store, 4, raised(FloorScope::Global, 5)).await.unwrap();
    // Of an agent with the same id: another's.
    one(&*store, 5, raised(FloorScope::Agent(AgentId::from_bytes(*HUMAN.as_bytes())), 6)).await.unwrap();
    assert_eq!(floors(1).await, SignInGenerations { global: 5, tenant: 4, human: 3 });
    assert_eq!(floors(2).await, SignInGenerations { global: 5, tenant: 4, human: 0 });
}

pub(super) async fn a_secret_is_spent_once(store: Arc<dyn Store>) {
    let spend = |n: u8| rows(vec![Row::Spent(hash(n), NOW.plus(1))]);
    let within = store.commit(&batch(1, vec![spend(1), spend(2), spend(1)])).await.unwrap();
    assert_eq!(within.outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(one(&*store, 2, spend(1)).await, Err(Refused::Spent));
    // What it was spent for is not written a second time.
    let twice = rows(vec![Row::Spent(hash(2), NOW), began(7, HUMAN)]);
    assert_eq!(one(&*store, 3, twice).await, Err(Refused::Spent));
    assert_eq!(found(&*store, 7).await, None);
    one(&*store, 4, rows(vec![Row::Spent(hash(3), NOW), began(7, HUMAN)])).await.unwrap();
    assert!(found(&*store, 7).await.is_some());
}

pub(super) async fn a_change_without_items_and_leaves_does_not_move_the_head(store: Arc<dyn Store>) {
    one(&*store, 1, leaf(1)).await.unwrap();
    one(&*store, 2, floor(1)).await.unwrap();
    let before = store.head().await.unwrap();
    let done = store.commit(&batch(3, vec![rows(vec![began(1, HUMAN)]), rows(vec![Row::Spent(hash(2), NOW)])])).await.unwrap();
    assert_eq!((done.head, done.messages.len()), (before, 0));
    assert_eq!(done.outcomes, [Ok(Placed { leaves: 2..2, feed_seq: None }), Ok(Placed { leaves: 2..2, feed_seq: None })]);
    assert_eq!(store.head().await.unwrap(), before);
    assert!(store.has_batch([3; 16]).await.unwrap());
    assert_eq!(one(&*store, 4, leaf(2)).await.unwrap().leaves, 2..3, "and the next leaf follows the last");
}

pub(super) async fn what_a_session_does_is_refused_behind_a_kill_in_the_same_batch(store: Arc<dyn Store>) {
    let act = |human, n| Change { requires: vec![Require::NotBelowFloor(FloorScope::Human(human), 0)], rows: vec![began(n, human)], ..leaf(n) };
    let done = store.commit(&batch(1, vec![act(HUMAN, 1), floor(1), act(HUMAN, 2), act(OTHER, 3)])).await.unwrap();
    let refusals: Vec<_> = done.outcomes.into_iter().map(Result::err).collect();
    assert_eq!(refusals, [None, None, Some(Refused::Killed(FloorScope::Human(HUMAN))), None]);
    assert_eq!((found(&*store, 2).await, found(&*store, 3).await.is_some()), (None, true));
    assert_eq!(store.leaves(0, 9).await.unwrap(), [vec![1; 10], vec![0xF0; 8], vec![3; 10]]);
}

pub(super) async fn sessions_and_spent_secrets_are_forgotten_an_hour_after_their_end(store: Arc<dyn Store>) {
    let spent = |n: u8, at| Row::Spent(hash(n), at);
    one(&*store, 1, rows(vec![began(1, HUMAN), began(100, OTHER), spent(1, NOW), spent(2, NOW.plus(100))])).await.unwrap();
    let later = async |first: u8, at| {
        // As many commits as go by between two collections.
        for n in first..first + 64 {
            store.commit(&Batch { at, ..batch(n, vec![leaf(n)]) }).await.unwrap();
        }
    };
    let hour = 3_600_000;
    later(10, NOW.plus(hour)).await;
    assert_eq!(one(&*store, 100, rows(vec![spent(1, NOW)])).await, Err(Refused::Spent), "not yet");
    later(110, NOW.plus(hour + 50)).await;
    one(&*store, 200, rows(vec![spent(1, NOW.plus(10 * hour))])).await.unwrap();
    assert_eq!(one(&*store, 201, rows(vec![spent(2, NOW)])).await, Err(Refused::Spent));
    for (n, at) in (0..64).map(|n| (n, NOW.plus(IDLE_MS + hour + 50))) {
        let mut late = Batch { at, ..batch(n, vec![leaf(n)]) };
        late.id[0] = 255;
        store.commit(&late).await.unwrap();
    }
    assert_eq!((found(&*store, 1).await, found(&*store, 100).await), (None, Some(session(100, OTHER))));
}
