//! A warm decision allocates nothing: its time does not depend on an allocator that other threads hold.

use std::sync::Arc;

use procura_tests::case::{At, Known, KnownView, boot};
use procura_tests::fixtures::{AGENT, CallText, Held, NOW, NOW_SECS, SUB, SUB_SUB, block0, key_list, link_to, proof, public, with_call};
use procura_verifier::call::Call;
use procura_verifier::claims::Restriction;
use procura_verifier::decision::{Asked, Cause, Decision, ToolPolicy, decide};
use procura_verifier::ids::{BootTime, UtcMillis};
use procura_verifier::key_list::KeyList;
use procura_verifier::revocation::{Frozen, Lineage, Lookup, RevocationView};
use procura_verifier::token::UnverifiedToken;

/// Knows nothing against anybody: a look-up costs what the view makes of it, which is not measured here.
struct Quiet(Arc<KeyList>);

impl RevocationView for Quiet {
    fn fresh_as_of(&self) -> Option<BootTime> {
        Some(boot(NOW))
    }
    fn lookup(&self, _: &Lineage<'_>) -> Lookup {
        Lookup::Live
    }
    fn frozen(&self, _: &Lineage<'_>, _: UtcMillis) -> Frozen {
        Frozen::NOT
    }
    fn was_complete(&self) -> bool {
        true
    }
    fn key_list(&self) -> Arc<KeyList> {
        self.0.clone()
    }
    fn utc(&self, _: BootTime) -> Option<UtcMillis> {
        Some(NOW)
    }
}

fn decided(token: &[u8], signer: u8, call: &Call<'_>) -> (Decision, u64) {
    let token_bytes = token;
    let token = UnverifiedToken::parse(token_bytes).unwrap().verify(&key_list()).unwrap();
    let proof = proof(token_bytes, signer, CallText::default(), NOW).verify(&public(signer), token.hash(), call).unwrap();
    let view = Quiet(Arc::new(key_list()));
    let mut decision = Decision::Deny(Cause::Unavailable);
    let counted = allocation_counter::measure(|| {
        decision = decide(&token, Asked::Proven(proof.proven()), &ToolPolicy::STRICT, &view, &At(NOW), boot(NOW));
    });
    (decision, counted.count_total)
}

#[test]
fn a_warm_decision_allocates_nothing_whatever_the_depth() {
    with_call(CallText::default(), |call| {
        let plain = Held::mint(&block0());
        let deep = plain.narrow(&[Restriction::Until(NOW_SECS + 60)]).link(&link_to(SUB, 1), AGENT).link(&link_to(SUB_SUB, 0), SUB);
        for (token, signer) in [(plain.seal(), AGENT), (deep.seal(), SUB_SUB)] {
            let (decision, allocations) = decided(&token, signer, call);
            assert!(matches!(decision, Decision::Allow(_)), "{decision:?}");
            assert_eq!(allocations, 0);
            // A denial neither.
            let (decision, allocations) = decided(&token, 77, call);
            assert_eq!(decision, Decision::Deny(Cause::Holder));
            assert_eq!(allocations, 0);
        }
    });
}

/// Nor does a look-up in a real view, whether its ids came last or are merged: hits and misses.
#[test]
fn a_lookup_allocates_nothing() {
    use procura_verifier::claims::{Generations, HumanRef};
    use procura_verifier::feed::message::Item;
    use procura_verifier::ids::{AgentId, DelegationId, HumanId, Tid};
    let view = procura_verifier::revocation::View::new("payments".parse().unwrap(), key_list());
    let id = |n: u16| Tid::from_bytes([n.to_be_bytes(); 8].concat().try_into().unwrap());
    let items: Vec<_> = (0..2000).map(|n| (0, Item::Tid { tid: id(n), exp_secs: u64::MAX })).collect();
    view.apply(1, &items[..1000]);
    view.merge(BootTime(0));
    view.apply(2, &items[1000..]);
    for (n, revoked) in [(5, true), (1500, true), (3000, false)] {
        let tids = [id(n)];
        let agents = [(AgentId::from_bytes([1; 16]), 0)];
        let (human, delegation) = (HumanRef::Id(HumanId::from_bytes([1; 16])), DelegationId::from_bytes([1; 16]));
        let (root, generations) = (procura_verifier::ids::Key::from_bytes([1; 32]), Generations::default());
        let lineage = Lineage { root: &root, tids: &tids, lids: &[], blocks: &[], holders: &[], human, agents: &agents, delegation, generations };
        let mut found = Lookup::Behind;
        let counted = allocation_counter::measure(|| found = view.lookup(&lineage));
        assert_eq!((matches!(found, Lookup::Revoked(_)), counted.count_total), (revoked, 0), "id {n}");
    }
}

/// The counter counts: it would see an allocation if there were one.
#[test]
fn the_counter_sees_an_allocation() {
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 10]))).count_total > 0);
    let known = Known::fresh();
    let view = KnownView { known: &known, service: &"payments".parse().unwrap(), keys: Arc::new(key_list()), utc: NOW };
    assert_eq!(allocation_counter::measure(|| drop(view.key_list())).count_total, 0);
}
