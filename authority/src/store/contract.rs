//! The store's contract, sentence by sentence: one list of tests, run on every backend.

mod agents;
mod receipts;
mod session;

use std::sync::Arc;

use procura_verifier::claims::Generations;
use procura_verifier::feed::message::{FloorScope, Item, Message, genesis_hash};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};

use self::agents::*;
use self::receipts::*;
use self::session::*;
use super::*;
use crate::domain::agent::{AgentState, KeyState};
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::tests::terms;
use crate::log::tree::{empty_root, leaf_hash};

pub(crate) fn tenant() -> Tenant {
    "acme".parse().unwrap()
}
const HUMAN: HumanId = HumanId::from_bytes([1; 16]);
const AGENT: AgentId = AgentId::from_bytes([2; 16]);
const DELEGATION: DelegationId = DelegationId::from_bytes([3; 16]);
const KEY: Key = Key::from_bytes([4; 32]);
const NOW: UtcMillis = UtcMillis(1_900_000_000_000);

fn subject(name: &str) -> Subject {
    Subject { issuer: "https://idp".into(), subject: name.into() }
}
fn agent() -> Agent {
    Agent { id: AGENT, name: "invoice-bot".parse().unwrap(), owner: HUMAN, state: AgentState::Active, generation: 3, created: NOW, stopped_by: None }
}
fn agent_key() -> AgentKey {
    AgentKey { key: KEY, agent: AGENT, state: KeyState::Live, added: NOW, ends: None }
}
fn delegation() -> Delegation {
    let generations = Generations { human: 1, ..Generations::default() };
    Delegation {
        id: DELEGATION,
        tenant: tenant(),
        human: HUMAN,
        agent: AGENT,
        terms: terms(),
        generations,
        version: 1,
        state: DelegationState::Live,
        created: NOW,
    }
}
pub(super) fn token(n: u8) -> TokenRecord {
    TokenRecord {
        tid: Tid::from_bytes([n; 16]),
        delegation: DELEGATION,
        expires_secs: NOW.secs() + 60,
        ancestors: vec![Tid::from_bytes([n + 1; 16]), Tid::from_bytes([n + 2; 16])],
        revoked: None,
    }
}
fn verifier() -> Verifier {
    Verifier { id: VerifierId::from_bytes([7; 16]), key: Key::from_bytes([8; 32]), audience: "payments/1".parse().unwrap(), enrolled: NOW, retired: None }
}
pub(super) fn leaf(n: u8) -> Change {
    Change { leaves: vec![vec![n; 10]], ..Change::default() }
}
pub(super) fn rows(rows: Vec<Row>) -> Change {
    Change { rows, ..Change::default() }
}
fn receipt(n: u8, after: Option<u8>, hash: u8) -> Row {
    Row::Receipt(Delivered { slot: ReceiptSlot([n; 32]), after: after.map(|n| ReceiptSlot([n; 32])), hash: [hash; 32], delegation: None })
}
pub(crate) fn batch(n: u8, changes: Vec<Change>) -> Batch {
    Batch { id: [n; 16], at: NOW, feed_key: Key::from_bytes([70; 32]), changes }
}
pub(super) fn floor(generation: u64) -> Change {
    let scope = FloorScope::Human(HUMAN);
    Change {
        requires: vec![Require::GenerationIs(scope, generation - 1)],
        rows: vec![Row::Generation(scope, generation)],
        items: vec![Item::Floor { scope, generation }],
        leaves: vec![vec![0xF0; 8]],
    }
}
pub(super) fn registered() -> Change {
    rows(vec![Row::Human(Human { id: HUMAN, subject: subject("alice") }), Row::Agent(agent()), Row::AgentKey(agent_key()), Row::Delegation(delegation())])
}

pub(super) async fn one(store: &dyn Store, n: u8, change: Change) -> Result<Placed, Refused> {
    store.commit(&batch(n, vec![change])).await.unwrap().outcomes.remove(0)
}

async fn an_empty_store_has_the_empty_head(store: Arc<dyn Store>) {
    let head = store.head().await.unwrap();
    assert_eq!(head.tree, TreeHead { size: 0, root: empty_root() });
    assert_eq!(head.feed, FeedHead { epoch: 1, seq: 0, hash: genesis_hash(&tenant(), 1) });
    assert_eq!(store.leaves(0, 10).await.unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(store.tile(0, 0).await.unwrap(), None);
    assert_eq!(store.key_list().await.unwrap(), None);
    assert!(!store.has_batch([1; 16]).await.unwrap());
}

async fn what_is_written_reads_back(store: Arc<dyn Store>) {
    let answer = Answer { key: [1; 32], request: [2; 32], body: "{\"tid\":1}".into(), expires: NOW.plus(1) };
    let opening = Opening { salt: [5; 16], text: "invoice-bot".into() };
    let mut change = registered();
    change.rows.extend([
        Row::Token(token(20)),
        Row::KeyList(1, vec![9; 100]),
        Row::Verifier(verifier()),
        receipt(3, None, 4),
        Row::Answer(answer.clone()),
        Row::Opening(opening.clone()),
    ]);
    change.leaves = vec![vec![1; 3], vec![2; 3]];
    store.commit(&batch(1, vec![leaf(0)])).await.unwrap();
    let placed = one(&*store, 2, change).await.unwrap();
    assert_eq!(placed, Placed { leaves: 1..3, feed_seq: None });

    let alice = Human { id: HUMAN, subject: subject("alice") };
    assert_eq!(store.find_human(HUMAN).await.unwrap(), Some(alice.clone()));
    assert_eq!(store.find_human_by_subject(&alice.subject).await.unwrap(), Some(alice));
    assert_eq!(store.find_human_by_subject(&subject("bob")).await.unwrap(), None);
    assert_eq!(store.find_agent(AGENT).await.unwrap(), Some(agent()));
    assert_eq!(store.find_agent_by_name(&agent().name).await.unwrap(), Some(agent()));
    assert_eq!(store.agents_of(HUMAN).await.unwrap(), [agent()]);
    assert_eq!(store.find_agent_key(KEY).await.unwrap(), Some(agent_key()));
    assert_eq!(store.keys_of(AGENT).await.unwrap(), [agent_key()]);
    assert_eq!(store.find_delegation(DELEGATION).await.unwrap(), Some(delegation()));
    assert_eq!(store.delegations_of(HUMAN).await.unwrap(), [delegation()]);
    assert_eq!(store.delegations_to(AGENT).await.unwrap(), [delegation()]);
    assert_eq!(store.find_token(token(20).tid).await.unwrap(), Some(token(20)));
    assert_eq!(store.find_token(token(21).tid).await.unwrap(), None);
    assert_eq!(store.key_list().await.unwrap(), Some((1, vec![9; 100])));
    assert_eq!(store.find_verifier(verifier().id).await.unwrap(), Some(verifier()));
    assert_eq!(store.find_verifier_of(&verifier().audience).await.unwrap(), Some(verifier()));
    assert_eq!(store.verifiers().await.unwrap(), [verifier()]);
    assert_eq!(store.last_drill().await.unwrap(), None);
    assert_eq!(store.find_receipt(ReceiptSlot([3; 32])).await.unwrap(), Some(Taken { hash: [4; 32], leaf: 1 }));
    assert_eq!(store.find_opening(opening.hash()).await.unwrap(), Some(opening));
    assert_eq!(store.find_answer([1; 32]).await.unwrap(), Some(Answered { answer, placed }));
    assert!(store.has_batch([2; 16]).await.unwrap());

    let mut revoked = delegation().revoked(NOW);
    revoked.version = 2;
    let mut off = agent();
    off.state = AgentState::Suspended;
    let key = AgentKey { state: KeyState::Revoked, ..agent_key() };
    let dead = TokenRecord { revoked: Some(NOW), ..token(20) };
    one(&*store, 4, rows(vec![Row::Token(dead.clone())])).await.unwrap();
    assert_eq!(store.find_token(dead.tid).await.unwrap(), Some(dead));
    one(&*store, 3, rows(vec![Row::Delegation(revoked.clone()), Row::Agent(off.clone()), Row::AgentKey(key.clone())])).await.unwrap();
    assert_eq!(store.find_delegation(DELEGATION).await.unwrap(), Some(revoked));
    assert_eq!(store.find_agent(AGENT).await.unwrap(), Some(off));
    assert_eq!(store.find_agent_key(KEY).await.unwrap(), Some(key));
}

async fn a_retired_verifier_leaves_its_place_and_keeps_its_key(store: Arc<dyn Store>) {
    let retired = Verifier { retired: Some(NOW.plus(5)), ..verifier() };
    let next = Verifier { id: VerifierId::from_bytes([64; 16]), key: Key::from_bytes([64; 32]), ..verifier() };
    let early = store.commit(&batch(1, vec![rows(vec![Row::Verifier(retired.clone())])])).await.unwrap();
    assert_eq!(early.outcomes[0], Err(Refused::NotEnrolled));
    one(&*store, 2, rows(vec![Row::Verifier(verifier())])).await.unwrap();
    let done = store
        .commit(&batch(
            3,
            vec![
                rows(vec![Row::Verifier(retired.clone())]),
                needs(Require::Enrolled(verifier().id)),
                rows(vec![Row::Verifier(Verifier { key: verifier().key, ..next.clone() })]),
                rows(vec![Row::Verifier(next.clone())]),
            ],
        ))
        .await
        .unwrap();
    assert_eq!(done.outcomes.iter().map(|o| o.clone().err()).collect::<Vec<_>>(), [None, Some(Refused::NotEnrolled), Some(Refused::KeyTaken), None]);
    assert_eq!(store.find_verifier(verifier().id).await.unwrap(), Some(retired.clone()));
    assert_eq!(store.find_verifier_of(&verifier().audience).await.unwrap(), Some(next.clone()));
    assert_eq!(store.verifiers().await.unwrap(), std::slice::from_ref(&next));
    let again = store.commit(&batch(4, vec![rows(vec![Row::Verifier(retired)]), needs(Require::Enrolled(next.id))])).await.unwrap();
    assert_eq!(again.outcomes.iter().map(|o| o.clone().err()).collect::<Vec<_>>(), [Some(Refused::NotEnrolled), None]);
    for (n, at) in [(5, 1), (6, 9)] {
        one(&*store, n, Change { leaves: vec![vec![n]], ..rows(vec![Row::Drill(NOW.plus(at))]) }).await.unwrap();
    }
    assert_eq!(store.last_drill().await.unwrap(), Some((NOW.plus(9), 1)));
}

async fn leaves_and_tiles_are_those_of_the_head(store: Arc<dyn Store>) {
    let mut tree = Tree::new();
    // Over two tile borders, in batches of uneven size.
    for (n, count) in [(1, 1), (2, 254), (3, 1), (4, 300), (5, 0), (6, 3)] {
        let changes: Vec<_> = (0..count).map(|i: u32| Change { leaves: vec![format!("{n}/{i}").into_bytes()], ..Change::default() }).collect();
        for change in &changes {
            tree.append(leaf_hash(&change.leaves[0]));
        }
        let committed = store.commit(&batch(n, changes)).await.unwrap();
        assert_eq!(committed.head.tree, TreeHead { size: tree.size(), root: tree.root() });
        assert_eq!(store.head().await.unwrap(), committed.head);
    }
    assert_eq!(tree.size(), 559);
    for tile in tree.take_changed_tiles() {
        assert_eq!(store.tile(tile.level, tile.index).await.unwrap(), Some(tile.hashes), "{}/{}", tile.level, tile.index);
    }
    let leaves = store.leaves(0, 1000).await.unwrap();
    assert_eq!(leaves.len(), 559);
    assert_eq!(leaves[256], b"4/0");
    assert_eq!(store.leaves(255, 2).await.unwrap(), [b"3/0".to_vec(), b"4/0".to_vec()]);
    assert_eq!(store.leaves(559, 2).await.unwrap().len(), 0);
}

async fn feed_messages_are_numbered_and_chained_without_holes(store: Arc<dyn Store>) {
    let genesis = store.head().await.unwrap().feed;
    let first = store.commit(&batch(1, vec![leaf(1), floor(1), leaf(2), floor(2)])).await.unwrap();
    // A change that is refused takes no number.
    let refused = store.commit(&batch(2, vec![floor(1)])).await.unwrap();
    assert_eq!(refused.outcomes, [Err(Refused::GenerationMoved(FloorScope::Human(HUMAN), 2))]);
    assert_eq!((refused.head, refused.messages.len()), (first.head, 0));
    let second = store.commit(&batch(3, vec![floor(3)])).await.unwrap();

    assert_eq!(first.outcomes[1], Ok(Placed { leaves: 1..2, feed_seq: Some(1) }));
    let rows = store.feed_since(1, 0, 10).await.unwrap();
    assert_eq!(rows, [first.messages, second.messages].concat());
    assert_eq!(store.feed_since(1, 1, 10).await.unwrap(), rows[1..]);
    assert_eq!(store.feed_since(1, 0, 1).await.unwrap(), rows[..1]);
    assert_eq!(store.feed_since(2, 0, 10).await.unwrap(), []);
    let read = |row: &FeedRow| match Message::from_bytes(&row.payload).unwrap() {
        Message::Batch(b) => b,
        other => panic!("{other:?}"),
    };
    let (a, b) = (read(&rows[0]), read(&rows[1]));
    assert_eq!((a.epoch, a.seq, a.prev, a.issued), (1, 1, genesis.hash, NOW));
    let scope = FloorScope::Human(HUMAN);
    assert_eq!(a.items, [(1, Item::Floor { scope, generation: 1 }), (3, Item::Floor { scope, generation: 2 })]);
    assert_eq!((b.seq, b.prev), (2, first.head.feed.hash));
    assert_eq!(b.items, [(4, Item::Floor { scope, generation: 3 })]);
    assert_eq!(store.head().await.unwrap().feed.seq, 2);
    assert_eq!(store.generations(&[FloorScope::Tenant, scope, FloorScope::Global]).await.unwrap(), [0, 3, 0]);
}

async fn a_refused_change_leaves_the_others_and_writes_nothing(store: Arc<dyn Store>) {
    let dead = DelegationId::from_bytes([99; 16]);
    let bad = Change {
        requires: vec![Require::DelegationLive(dead, 1)],
        rows: vec![Row::Human(Human { id: HUMAN, subject: subject("alice") })],
        items: vec![Item::HolderKey { key: KEY }],
        leaves: vec![vec![66; 4]],
    };
    let done = store.commit(&batch(1, vec![leaf(1), bad, leaf(2)])).await.unwrap();
    assert_eq!(done.outcomes[0], Ok(Placed { leaves: 0..1, feed_seq: None }));
    assert_eq!(done.outcomes[1], Err(Refused::DelegationNotLive));
    assert_eq!(done.outcomes[2], Ok(Placed { leaves: 1..2, feed_seq: None }));
    assert_eq!(store.leaves(0, 9).await.unwrap(), [vec![1; 10], vec![2; 10]]);
    assert_eq!(store.find_human(HUMAN).await.unwrap(), None);
    assert_eq!(store.head().await.unwrap().feed.seq, 0);
}

async fn each_condition_is_asked(store: Arc<dyn Store>) {
    one(&*store, 1, registered()).await.unwrap();
    one(&*store, 2, floor(1)).await.unwrap();
    let root = Row::RootKeyKilled(Key::from_bytes([71; 32]));
    one(&*store, 3, rows(vec![Row::Verifier(verifier()), Row::Jti(AGENT, JtiHash([1; 32]), NOW), receipt(1, None, 0), Row::KeyList(1, vec![1]), root]))
        .await
        .unwrap();
    let (human, other) = (FloorScope::Human(HUMAN), AgentId::from_bytes([50; 16]));
    let cases: Vec<(Change, Refused, Change)> = vec![
        (needs(Require::GenerationIs(human, 0)), Refused::GenerationMoved(human, 1), needs(Require::GenerationIs(human, 1))),
        (needs(Require::NotBelowFloor(human, 0)), Refused::Killed(human), needs(Require::NotBelowFloor(human, 1))),
        (needs(Require::AgentActive(other)), Refused::AgentNotActive, needs(Require::AgentActive(AGENT))),
        (needs(Require::KeyLive(other, KEY)), Refused::KeyNotLive, needs(Require::KeyLive(AGENT, KEY))),
        (needs(Require::KeyLive(AGENT, Key::from_bytes([9; 32]))), Refused::KeyNotLive, needs(Require::KeyLive(AGENT, KEY))),
        (needs(Require::DelegationLive(DELEGATION, 2)), Refused::DelegationMoved(1), needs(Require::DelegationLive(DELEGATION, 1))),
        (
            needs(Require::RootKeyLives(Key::from_bytes([71; 32]))),
            Refused::RootKeyKilled(Key::from_bytes([71; 32])),
            needs(Require::RootKeyLives(Key::from_bytes([72; 32]))),
        ),
        (needs(Require::Enrolled(VerifierId::from_bytes([1; 16]))), Refused::NotEnrolled, needs(Require::Enrolled(verifier().id))),
        (
            rows(vec![Row::Human(Human { id: HumanId::from_bytes([60; 16]), subject: subject("alice") })]),
            Refused::HumanKnown,
            rows(vec![Row::Human(Human { id: HumanId::from_bytes([60; 16]), subject: subject("bob") })]),
        ),
        (
            rows(vec![Row::Agent(Agent { id: other, ..agent() })]),
            Refused::NameTaken,
            rows(vec![Row::Agent(Agent { id: other, name: "fx-helper".parse().unwrap(), ..agent() })]),
        ),
        (
            rows(vec![Row::AgentKey(AgentKey { agent: other, ..agent_key() })]),
            Refused::KeyTaken,
            rows(vec![Row::AgentKey(AgentKey { agent: other, key: Key::from_bytes([61; 32]), ..agent_key() })]),
        ),
        (
            rows(vec![Row::AgentKey(AgentKey { key: verifier().key, ..agent_key() })]),
            Refused::KeyTaken,
            rows(vec![Row::AgentKey(AgentKey { key: Key::from_bytes([62; 32]), ..agent_key() })]),
        ),
        (
            rows(vec![Row::Delegation(Delegation { tenant: "other".parse().unwrap(), id: DelegationId::from_bytes([63; 16]), ..delegation() })]),
            Refused::OtherTenant("other".parse().unwrap()),
            rows(vec![Row::Delegation(Delegation { id: DelegationId::from_bytes([63; 16]), ..delegation() })]),
        ),
        (rows(vec![Row::Generation(human, 1)]), Refused::GenerationMoved(human, 1), rows(vec![Row::Generation(human, 2)])),
        (rows(vec![Row::Jti(AGENT, JtiHash([1; 32]), NOW)]), Refused::JtiSpent, rows(vec![Row::Jti(other, JtiHash([1; 32]), NOW)])),
        (rows(vec![Row::KeyList(1, vec![2])]), Refused::KeyListMoved(2), rows(vec![Row::KeyList(2, vec![2])])),
        (
            rows(vec![Row::Verifier(Verifier { id: VerifierId::from_bytes([64; 16]), key: Key::from_bytes([64; 32]), ..verifier() })]),
            Refused::AudienceTaken,
            rows(vec![Row::Verifier(Verifier {
                id: VerifierId::from_bytes([64; 16]),
                key: Key::from_bytes([64; 32]),
                audience: "payments/2".parse().unwrap(),
                ..verifier()
            })]),
        ),
        (
            rows(vec![Row::Verifier(Verifier { id: VerifierId::from_bytes([65; 16]), key: KEY, audience: "payments/3".parse().unwrap(), ..verifier() })]),
            Refused::KeyTaken,
            rows(vec![Row::Verifier(Verifier {
                id: VerifierId::from_bytes([65; 16]),
                key: Key::from_bytes([65; 32]),
                audience: "payments/3".parse().unwrap(),
                ..verifier()
            })]),
        ),
        (rows(vec![receipt(1, None, 0)]), Refused::ReceiptKnown, rows(vec![receipt(2, Some(1), 0)])),
        (rows(vec![receipt(4, Some(3), 0)]), Refused::ReceiptGap, rows(vec![receipt(3, Some(2), 0)])),
        (Change { leaves: vec![vec![0; 65_536]], ..Change::default() }, Refused::TooBig, Change { leaves: vec![vec![0; 65_535]], ..Change::default() }),
        (
            Change { items: vec![Item::HolderKey { key: KEY }], ..Change::default() },
            Refused::TooBig,
            Change { items: vec![Item::HolderKey { key: KEY }], leaves: vec![vec![0]], ..Change::default() },
        ),
    ];
    for (n, (bad, expected, good)) in cases.into_iter().enumerate() {
        let done = store.commit(&batch(10 + n as u8, vec![bad, good])).await.unwrap();
        assert_eq!(done.outcomes[0], Err(expected.clone()), "case {n}");
        assert!(done.outcomes[1].is_ok(), "case {n}: {:?}", done.outcomes[1]);
    }
    let mut revoked = delegation().revoked(NOW);
    revoked.version = 1;
    let done = store.commit(&batch(9, vec![rows(vec![Row::Delegation(revoked)]), needs(Require::DelegationLive(DELEGATION, 1))])).await.unwrap();
    assert_eq!(done.outcomes[1], Err(Refused::DelegationNotLive), "a condition sees what was accepted before it in the batch");
}

fn needs(require: Require) -> Change {
    Change { requires: vec![require], ..Change::default() }
}

async fn a_killed_root_key_stays_killed_and_stops_what_follows_it_in_the_batch(store: Arc<dyn Store>) {
    let (key, lives) = (Key::from_bytes([71; 32]), Require::RootKeyLives(Key::from_bytes([71; 32])));
    assert_eq!(store.killed_root_keys().await.unwrap(), []);
    let kill = || rows(vec![Row::RootKeyKilled(key)]);
    let done = store.commit(&batch(1, vec![needs(lives.clone()), kill(), needs(lives.clone()), kill()])).await.unwrap();
    assert_eq!(done.outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(done.outcomes[2], Err(Refused::RootKeyKilled(key)));
    assert_eq!(one(&*store, 2, needs(lives)).await, Err(Refused::RootKeyKilled(key)));
    assert!(one(&*store, 3, kill()).await.is_ok(), "a second time");
    assert_eq!(store.killed_root_keys().await.unwrap(), [key]);
}

async fn within_a_batch_the_first_wins(store: Arc<dyn Store>) {
    let jti = || rows(vec![Row::Jti(AGENT, JtiHash([1; 32]), NOW)]);
    let alice = |n| rows(vec![Row::Human(Human { id: HumanId::from_bytes([n; 16]), subject: subject("alice") })]);
    let answer = |n| rows(vec![Row::Answer(Answer { key: [1; 32], request: [n; 32], body: String::new(), expires: NOW })]);
    let done = store.commit(&batch(1, vec![jti(), jti(), floor(1), floor(1), alice(1), alice(2), answer(1), answer(2)])).await.unwrap();
    let scope = FloorScope::Human(HUMAN);
    let refusals: Vec<_> = done.outcomes.into_iter().map(Result::err).collect();
    assert_eq!(
        refusals,
        [None, Some(Refused::JtiSpent), None, Some(Refused::GenerationMoved(scope, 1)), None, Some(Refused::HumanKnown), None, Some(Refused::Answered)]
    );
    assert_eq!(store.find_human_by_subject(&subject("alice")).await.unwrap().map(|h| h.id), Some(HumanId::from_bytes([1; 16])));
}

async fn a_batch_is_committed_at_most_once(store: Arc<dyn Store>) {
    let once = batch(1, vec![leaf(1)]);
    store.commit(&once).await.unwrap();
    let before = store.head().await.unwrap();
    assert!(matches!(store.commit(&once).await, Err(CommitError::Unavailable(_))));
    assert_eq!(store.head().await.unwrap(), before);
    // A failure leaves the store usable.
    assert_eq!(one(&*store, 2, leaf(2)).await.unwrap().leaves, 1..2);
}

async fn a_row_written_twice_in_a_batch_is_as_the_last_says(store: Arc<dyn Store>) {
    let mut changes = vec![registered(), rows(vec![Row::Token(token(20))])];
    let dead = |at| TokenRecord { revoked: Some(NOW.plus(at)), ..token(20) };
    // Two people take the same token back at once.
    changes.extend([1, 2].map(|at| rows(vec![Row::Token(dead(at)), Row::Agent(Agent { generation: at, ..agent() })])));
    let done = store.commit(&batch(1, changes)).await.unwrap();
    assert!(done.outcomes.iter().all(Result::is_ok), "{:?}", done.outcomes);
    assert_eq!(store.find_token(token(20).tid).await.unwrap(), Some(dead(2)));
    assert_eq!(store.find_agent(AGENT).await.unwrap().map(|a| a.generation), Some(2));
}

async fn many_items_are_split_over_messages_that_a_reader_accepts(store: Arc<dyn Store>) {
    let items: Vec<_> = (0..1200_u16).map(|n| Item::HolderKey { key: Key::from_bytes([(n % 251) as u8; 32]) }).collect();
    let change = Change { leaves: items.iter().map(|_| vec![1]).collect(), items: items.clone(), ..Change::default() };
    assert_eq!(one(&*store, 1, change).await.unwrap(), Placed { leaves: 0..1200, feed_seq: Some(3) });
    let mut read = Vec::new();
    for row in store.feed_since(1, 0, 10).await.unwrap() {
        match Message::from_bytes(&row.payload).unwrap() {
            Message::Batch(b) => read.extend(b.items),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, (0..).zip(items).collect::<Vec<_>>());
}

async fn an_epoch_begins_where_the_feed_ends_and_only_there(store: Arc<dyn Store>) {
    one(&*store, 1, floor(1)).await.unwrap();
    let before = store.head().await.unwrap().feed;
    let start = |epoch, from| Change { leaves: vec![vec![7]], ..rows(vec![Row::EpochStart(epoch, from)]) };
    // Elsewhere, not later, beside an item, beside another change.
    for (n, wrong) in [start(2, FeedHead { seq: 0, ..before }), start(1, before), Change { items: floor(2).items, ..start(2, before) }].into_iter().enumerate()
    {
        assert_eq!(one(&*store, 10 + n as u8, wrong).await, Err(Refused::EpochMoved(before)));
    }
    let beside = store.commit(&batch(20, vec![start(2, before), floor(2)])).await.unwrap();
    assert_eq!(beside.outcomes[0], Err(Refused::EpochMoved(before)));
    let before = store.head().await.unwrap().feed;
    // Numbers of epochs may be left out: another database had them.
    let begun = store.commit(&batch(21, vec![start(4, before)])).await.unwrap();
    let [row] = &begun.messages[..] else { panic!("{begun:?}") };
    assert_eq!((row.epoch, row.seq, begun.head.feed.epoch, begun.head.feed.seq), (4, 0, 4, 0));
    assert_eq!(begun.head.feed.hash, <[u8; 32]>::from(Sha256::digest(&row.payload)));
    match Message::from_bytes(&row.payload).unwrap() {
        Message::EpochStart(s) => assert_eq!((s.epoch, s.prev_epoch, s.last_seq, s.last_hash), (4, 1, before.seq, before.hash)),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.head().await.unwrap(), begun.head);
    assert_eq!(one(&*store, 22, start(4, before)).await, Err(Refused::EpochMoved(begun.head.feed)));
    assert_eq!(one(&*store, 23, floor(3)).await.unwrap().feed_seq, Some(1));
    // One walk over both.
    let places = |rows: Vec<FeedRow>| rows.iter().map(|r| (r.epoch, r.seq)).collect::<Vec<_>>();
    let all = places(store.feed_since(1, 0, 10).await.unwrap());
    assert_eq!(all, [(1, 1), (1, 2), (4, 0), (4, 1)]);
    assert_eq!(places(store.feed_since(1, 2, 1).await.unwrap()), [(4, 0)]);
    assert_eq!(places(store.feed_since(3, u64::MAX, 10).await.unwrap()), [(4, 0), (4, 1)]);
    assert_eq!(places(store.feed_since(4, 0, 10).await.unwrap()), [(4, 1)]);
}

/// Runs every sentence on a backend. `$open` makes a fresh store each time and what must live as long.
macro_rules! holds_on {
    ($name:ident, $open:expr, [$($sentence:ident),* $(,)?]) => {
        mod $name {
            $(#[tokio::test]
            async fn $sentence() {
                let (store, _keep) = $open.await;
                super::$sentence(store).await;
            })*
        }
    };
    ($name:ident, $open:expr) => {
        holds_on!($name, $open, [
            an_empty_store_has_the_empty_head,
            what_is_written_reads_back,
            uses_add_up_and_keep_their_newest_leaf,
            keys_that_end_are_found_until_they_are_revoked,
            a_retired_verifier_leaves_its_place_and_keeps_its_key,
            leaves_and_tiles_are_those_of_the_head,
            feed_messages_are_numbered_and_chained_without_holes,
            a_refused_change_leaves_the_others_and_writes_nothing,
            each_condition_is_asked,
            a_killed_root_key_stays_killed_and_stops_what_follows_it_in_the_batch,
            within_a_batch_the_first_wins,
            a_batch_is_committed_at_most_once,
            a_row_written_twice_in_a_batch_is_as_the_last_says,
            many_items_are_split_over_messages_that_a_reader_accepts,
            an_epoch_begins_where_the_feed_ends_and_only_there,
            receipts_are_read_newest_first_by_whose_authority_they_show,
            sessions_read_back_and_end,
            of_more_sessions_than_a_human_may_have_the_oldest_go,
            a_session_is_found_with_the_floors_of_its_human_tenant_and_everything,
            a_secret_is_spent_once,
            a_change_without_items_and_leaves_does_not_move_the_head,
            what_a_session_does_is_refused_behind_a_kill_in_the_same_batch,
            sessions_and_spent_secrets_are_forgotten_an_hour_after_their_end,
        ]);
    };
}

pub(crate) async fn memory() -> (Arc<dyn Store>, ()) {
    (Arc::new(memory::Memory::new(tenant())), ())
}

pub(crate) async fn sqlite() -> (Arc<dyn Store>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Arc::new(sqlite::Sqlite::open(folder.path(), tenant()).await.unwrap()), folder)
}

pub(crate) async fn postgres() -> (Arc<dyn Store>, ()) {
    let (_, url) = postgres::server::Server::shared().database().await;
    (Arc::new(postgres::Postgres::open(&url, tenant()).await.unwrap()), ())
}

holds_on!(on_memory, super::memory());
holds_on!(on_sqlite, super::sqlite());
holds_on!(on_postgres, super::postgres());

mod only_sqlite {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening_and_the_tree_goes_on_from_its_tiles() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        for round in 0..4_u8 {
            let store = sqlite::Sqlite::open(folder.path(), tenant()).await.unwrap();
            assert_eq!(store.head().await.unwrap().tree, TreeHead { size: tree.size(), root: tree.root() });
            let changes: Vec<_> = (0..130_u8).map(|n| Change { leaves: vec![vec![round, n]], ..Change::default() }).collect();
            changes.iter().for_each(|c| _ = tree.append(leaf_hash(&c.leaves[0])));
            let done = store.commit(&batch(round, changes)).await.unwrap();
            assert_eq!(done.head.tree.root, tree.root());
        }
    }

    #[tokio::test]
    async fn a_second_process_is_refused() {
        let (_store, folder) = sqlite().await;
        assert!(matches!(sqlite::Sqlite::open(folder.path(), tenant()).await, Err(sqlite::OpenError::Lock(_))));
    }

    #[tokio::test]
    async fn the_file_is_private_and_its_log_cannot_be_rewritten_by_plain_sql() {
        use std::os::unix::fs::MetadataExt as _;
        let (store, folder) = sqlite().await;
        one(&*store, 1, floor(1)).await.unwrap();
        drop(store);
        for file in ["procura.db", "procura.db-wal"] {
            if let Ok(m) = std::fs::metadata(folder.path().join(file)) {
                assert_eq!(m.mode() & 0o077, 0, "{file}");
            }
        }
        let mut c = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite://{}/procura.db", folder.path().display())).await.unwrap();
        for sql in ["UPDATE leaf SET bytes = x'00'", "DELETE FROM leaf", "DELETE FROM feed", "UPDATE feed SET seq = 9", "UPDATE generation SET generation = 1"]
        {
            assert!(sqlx::query(sql).execute(&mut c).await.is_err(), "{sql}");
        }
    }

    #[tokio::test]
    async fn a_damaged_tile_stops_writing() {
        let (store, folder) = sqlite().await;
        one(&*store, 1, leaf(1)).await.unwrap();
        drop(store);
        let mut c = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite://{}/procura.db", folder.path().display())).await.unwrap();
        sqlx::query("UPDATE tile SET hashes = zeroblob(32)").execute(&mut c).await.unwrap();
        let store = sqlite::Sqlite::open(folder.path(), tenant()).await.unwrap();
        assert!(matches!(store.commit(&batch(2, vec![leaf(2)])).await, Err(CommitError::Unavailable(StoreError::Inconsistent { table: "tile", .. }))));
    }

    /// A batch costs what is in it, not what is in the tables: no statement walks a table.
    #[tokio::test]
    async fn every_statement_finds_its_rows_by_an_index() {
        let (_store, folder) = sqlite().await;
        let mut c = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite://{}/procura.db", folder.path().display())).await.unwrap();
        let sources = [
            include_str!("sqlite.rs"),
            include_str!("sqlite/write.rs"),
            include_str!("sqlite/session.rs"),
            include_str!("sqlite/used.rs"),
            include_str!("sqlite/receipts.rs"),
        ]
        .concat();
        let statements: Vec<_> = sources.split('"').filter(|text| ["SELECT ", "UPDATE ", "DELETE "].iter().any(|verb| text.starts_with(verb))).collect();
        assert!(statements.len() > 30, "{} statements", statements.len());
        for sql in statements {
            // Whose tables are short: one row a tenant, one a key list, one a verifier. `verifiers()` wants them all.
            let short = ["head", "key_list", "verifier", "drill", "killed_root_key"]
                .iter()
                .any(|t| sql.contains(&format!("FROM {t} WHERE tenant = ?1")) || sql.starts_with("UPDATE head"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&mut c).await.unwrap();
            for (.., step) in plan {
                let walks = (step.starts_with("SCAN ") && !step.contains("VIRTUAL TABLE") && !step.contains("CONSTANT ROW")) || step.ends_with("(tenant=?)");
                assert!(short || !walks, "{step} in {sql}");
            }
        }
    }
}
