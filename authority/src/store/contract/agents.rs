//! What receipts have shown of a delegation, and keys that end.

use procura_verifier::ids::Lid;

use super::super::used::Used;
use super::*;

fn used(tid: u8, lid: Option<u8>, last: u64) -> Used {
    Used {
        delegation: DELEGATION,
        tid: Tid::from_bytes([tid; 16]),
        lid: lid.map(|n| Lid::from_bytes([n; 16])),
        parent: None,
        agent: lid.is_none().then_some(AGENT),
        holder: KEY,
        expires_secs: NOW.secs() + 60,
        allowed: 1,
        denied: 2,
        last: NOW.plus(last),
        leaf: 0,
    }
}

pub(super) async fn uses_add_up_and_keep_their_newest_leaf(store: Arc<dyn Store>) {
    let one_leaf = |n: u8, u: Used| Change { leaves: vec![vec![n]], ..rows(vec![Row::Used(u)]) };
    // Two of the same link in one batch, a later one with an older time, and one of another token.
    let done = store.commit(&batch(1, vec![one_leaf(0, used(1, Some(9), 5)), one_leaf(1, used(1, Some(9), 7)), one_leaf(2, used(2, None, 1))])).await.unwrap();
    assert!(done.outcomes.iter().all(Result::is_ok));
    one(&*store, 2, one_leaf(3, used(1, Some(9), 6))).await.unwrap();
    one(&*store, 3, one_leaf(4, used(2, None, 8))).await.unwrap();
    let read = store.uses_of(DELEGATION).await.unwrap();
    let expected = [Used { allowed: 2, denied: 4, leaf: 4, ..used(2, None, 8) }, Used { allowed: 3, denied: 6, leaf: 1, ..used(1, Some(9), 7) }];
    assert_eq!(read, expected);
    assert_eq!(store.uses_of(DelegationId::from_bytes([99; 16])).await.unwrap(), []);
}

pub(super) async fn keys_that_end_are_found_until_they_are_revoked(store: Arc<dyn Store>) {
    one(&*store, 1, registered()).await.unwrap();
    assert_eq!(store.ending_keys(NOW.plus(1_000_000)).await.unwrap(), []);
    let ending = AgentKey { ends: Some(NOW.plus(10)), ..agent_key() };
    let next = AgentKey { key: Key::from_bytes([61; 32]), added: NOW.plus(1), ..agent_key() };
    let suspended = Agent { state: AgentState::Suspended, stopped_by: Some(HUMAN), ..agent() };
    one(&*store, 2, rows(vec![Row::AgentKey(ending.clone()), Row::AgentKey(next.clone()), Row::Agent(suspended.clone())])).await.unwrap();
    assert_eq!(store.find_agent(AGENT).await.unwrap(), Some(suspended));
    assert_eq!(store.keys_of(AGENT).await.unwrap(), [next.clone(), ending.clone()]);
    assert_eq!(store.ending_keys(NOW.plus(9)).await.unwrap(), []);
    assert_eq!(store.ending_keys(NOW.plus(10)).await.unwrap(), std::slice::from_ref(&ending));
    let gone = AgentKey { state: KeyState::Revoked, ..ending };
    let newest = AgentKey { state: KeyState::Revoked, added: NOW.plus(2), key: Key::from_bytes([62; 32]), ..agent_key() };
    one(&*store, 3, rows(vec![Row::AgentKey(gone.clone()), Row::AgentKey(newest.clone())])).await.unwrap();
    assert_eq!(store.ending_keys(NOW.plus(10)).await.unwrap(), []);
    assert_eq!(store.keys_of(AGENT).await.unwrap(), [next, newest, gone], "living ones first");
}
