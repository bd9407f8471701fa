//! Any order, repetition and loss, then the tail: the same view.

use proptest::prelude::*;

use super::*;
use crate::feed::message::{FloorScope, Freeze};
use crate::ids::{AgentId, FreezeId, HumanId};

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<u8>),
    Beat,
    NewEpoch,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..3).prop_map(Step::Commit),
        3 => Just(Step::Beat),
        1 => Just(Step::NewEpoch),
        2 => (1_u64..40).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..25)
}

fn item(n: u8) -> Item {
    match n % 6 {
        0 => Item::Floor { scope: FloorScope::Agent(AgentId::from_bytes([n % 3; 16])), generation: u64::from(n / 4) },
        1 => Item::Floor { scope: FloorScope::Human(HumanId::from_bytes([n % 5; 16])), generation: u64::from(n / 4) },
        2 => Item::HolderKey { key: Key::from_bytes([n / 16; 32]) },
        3 => Item::RootKey { key: Key::from_bytes([n / 32; 32]) },
        // Few ids, so that versions meet; few versions, so that two of one meet; every third lifts.
        4 => Item::Freeze(Freeze {
            id: FreezeId::from_bytes([n / 128; 16]),
            scope: if n & 64 == 0 { FloorScope::Human(HumanId::from_bytes([n % 5; 16])) } else { FloorScope::Tenant },
            from: UtcMillis(u64::from(n % 7)),
            until: UtcMillis(if n.is_multiple_of(3) { 0 } else { u64::from(n) + 10 }),
            version: u64::from(n / 8 % 4),
        }),
        _ => tid(u64::from(n / 8)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Any permutation, repetition and loss, then the tail: the same view as in order. And on the way, never fresh with a hole.
    #[test]
    fn order_repetition_and_loss_cost_freshness_and_nothing_else(steps in steps(), picks in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..30), 0..60)) {
        let mut w = world();
        let _ = w.pull();
        // All that travels, with the moment it was made.
        let mut made: Vec<SignedMessage> = vec![];
        for step in steps {
            match step {
                Step::Commit(items) => made.push(w.commit(items.into_iter().map(item).collect())),
                Step::Beat => made.push(w.signed_beat(&[])),
                Step::NewEpoch => {
                    let (epoch, seq, hash) = (w.epoch + 1, w.seq, w.hash);
                    made.push(w.begin_epoch(epoch, seq, hash));
                }
                Step::Pass(ms) => { w.pass(ms); }
            }
            w.pass(1);
        }
        let mut here: Vec<Vec<u8>> = vec![];
        for (pick, delay) in picks {
            if made.is_empty() { break }
            w.pass(delay);
            let message = pick.get(&made).clone();
            let _ = w.receive(&message);
            here.push(message.to_bytes());
            if let Some(fresh) = w.fresh() {
                for (committed, message) in &w.batches {
                    prop_assert!(*committed > fresh.0 || here.contains(&message.to_bytes()), "fresh as of {fresh:?} with a hole at {committed}");
                }
            }
        }
        let need = w.pull();
        prop_assert_eq!(w.follow(need), Need::Nothing);
        prop_assert_eq!(w.state.watermark(), (w.epoch, w.seq, w.hash));
        prop_assert!(w.fresh().is_some());
        prop_assert_eq!(w.state.counters().forks, 0);

        let ordered = View::new("payments".parse().unwrap(), fixture::key_list(1, &[]));
        for (_, message) in &w.batches {
            if let Ok(Message::Batch(b)) = Message::from_bytes(message.unverified_payload()) {
                ordered.apply(b.seq, &b.items);
            }
        }
        prop_assert!(w.state.view().knows_the_same_as(&ordered));
    }
}
