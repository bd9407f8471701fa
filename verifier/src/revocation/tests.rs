use super::*;
use crate::feed::fixture;
use crate::feed::message::FloorScope;
use crate::ids::HumanId;

const HUMAN: HumanId = HumanId::from_bytes([4; 16]);
const AGENT: AgentId = AgentId::from_bytes([5; 16]);
const HELPER: AgentId = AgentId::from_bytes([6; 16]);
const DELEGATION: DelegationId = DelegationId::from_bytes([7; 16]);

fn view() -> View {
    View::new("payments".parse().unwrap(), fixture::key_list(1, &[]))
}

struct Token {
    tids: Vec<Tid>,
    lids: Vec<Lid>,
    blocks: Vec<BlockId>,
    holders: Vec<Key>,
    human: HumanRef,
    agents: Vec<(AgentId, u64)>,
    generations: Generations,
}

fn token() -> Token {
    Token {
        tids: vec![Tid::from_bytes([1; 16]), Tid::from_bytes([2; 16])],
        lids: vec![Lid::from_bytes([1; 16])],
        blocks: vec![BlockId::from_bytes([1; 16])],
        holders: vec![Key::from_bytes([1; 32]), Key::from_bytes([2; 32])],
        human: HumanRef::Id(HUMAN),
        agents: vec![(AGENT, 0), (HELPER, 0)],
        generations: Generations::default(),
    }
}

impl Token {
    fn lineage(&self) -> Lineage<'_> {
        Lineage {
            tids: &self.tids,
            lids: &self.lids,
            blocks: &self.blocks,
            holders: &self.holders,
            human: self.human,
            agents: &self.agents,
            delegation: DELEGATION,
            generations: self.generations,
        }
    }
}

fn floor(scope: FloorScope, generation: u64) -> Item {
    Item::Floor { scope, generation }
}

#[test]
fn each_thing_in_a_lineage_can_be_taken_back_and_is_named() {
    let exp_secs = 9_000_000_000;
    let cases = [
        (RevokedWhat::Tid, Item::Tid { tid: Tid::from_bytes([1; 16]), exp_secs }),
        (RevokedWhat::Ancestor, Item::Tid { tid: Tid::from_bytes([2; 16]), exp_secs }),
        (RevokedWhat::Lid, Item::Lid { lid: Lid::from_bytes([1; 16]), exp_secs }),
        (RevokedWhat::Block, Item::Block { block: BlockId::from_bytes([1; 16]), exp_secs }),
        (RevokedWhat::HolderKey, Item::HolderKey { key: Key::from_bytes([2; 32]) }),
        (RevokedWhat::GlobalFloor, floor(FloorScope::Global, 1)),
        (RevokedWhat::TenantFloor, floor(FloorScope::Tenant, 1)),
        (RevokedWhat::HumanFloor, floor(FloorScope::Human(HUMAN), 1)),
        (RevokedWhat::AgentFloor, floor(FloorScope::Agent(AGENT), 1)),
        (RevokedWhat::AgentFloor, floor(FloorScope::Agent(HELPER), 1)),
        (RevokedWhat::DelegationFloor, floor(FloorScope::Delegation(DELEGATION), 1)),
    ];
    for (what, item) in cases {
        let view = view();
        let token = token();
        assert_eq!(view.lookup(&token.lineage()), Lookup::Live);
        view.apply(3, &[(1, item)]);
        assert_eq!(view.lookup(&token.lineage()), Lookup::Revoked(RevokedBy { what, seq: 3 }));
        assert_eq!(RevokedWhat::from_word(what.word()), Some(what));
    }
    // Their twins: the same items about something else.
    let view = view();
    let other = [9; 16];
    let items = [
        Item::Tid { tid: Tid::from_bytes(other), exp_secs },
        Item::Lid { lid: Lid::from_bytes(other), exp_secs },
        Item::Block { block: BlockId::from_bytes(other), exp_secs },
        Item::HolderKey { key: Key::from_bytes([9; 32]) },
        floor(FloorScope::Human(HumanId::from_bytes(other)), 1),
        floor(FloorScope::Agent(AgentId::from_bytes(other)), 1),
        floor(FloorScope::Delegation(DelegationId::from_bytes(other)), 1),
    ];
    view.apply(1, &items.map(|i| (0, i)));
    assert_eq!(view.lookup(&token().lineage()), Lookup::Live);
}

#[test]
fn a_generation_from_the_future_is_behind_unless_something_is_revoked() {
    let view = view();
    let raise: [fn(&mut Token); 6] = [
        |t| t.generations.global = 1,
        |t| t.generations.tenant = 1,
        |t| t.generations.human = 1,
        |t| t.generations.delegation = 1,
        |t| {
            t.generations.agent = 1;
            t.agents[0].1 = 1;
        },
        |t| t.agents[1].1 = 1,
    ];
    for raise in raise {
        let mut token = token();
        raise(&mut token);
        assert_eq!(view.lookup(&token.lineage()), Lookup::Behind);
    }
    let mut ahead = token();
    ahead.generations.global = 1;
    view.apply(5, &[(0, floor(FloorScope::Delegation(DELEGATION), 1))]);
    assert_eq!(view.lookup(&ahead.lineage()), Lookup::Revoked(RevokedBy { what: RevokedWhat::DelegationFloor, seq: 5 }));
    view.apply(6, &[(0, floor(FloorScope::Global, 1))]);
    ahead.generations.delegation = 1;
    assert_eq!(view.lookup(&ahead.lineage()), Lookup::Live, "granted anew after the kill");
}

#[test]
fn two_different_generations_of_one_agent_are_never_live() {
    let view = view();
    view.apply(1, &[(0, floor(FloorScope::Agent(AGENT), 1))]);
    let mut token = token();
    token.generations.agent = 1;
    assert!(matches!(view.lookup(&token.lineage()), Lookup::Revoked(_)));
    token.generations.agent = 0;
    token.agents[0].1 = 1;
    assert!(matches!(view.lookup(&token.lineage()), Lookup::Revoked(_)));
    token.generations.agent = 2;
    assert_eq!(view.lookup(&token.lineage()), Lookup::Behind);
}

#[test]
fn an_empty_lineage_is_no_reason_to_allow() {
    let view = view();
    let token = token();
    assert_eq!(view.lookup(&Lineage { tids: &[], ..token.lineage() }), Lookup::Behind);
    assert_eq!(view.lookup(&Lineage { agents: &[], ..token.lineage() }), Lookup::Behind);
}

#[test]
fn a_human_floor_reaches_tokens_that_name_the_human_pairwise() {
    let view = view();
    let mut token = token();
    token.human = HumanRef::pairwise(HUMAN, &"payments".parse().unwrap());
    assert_eq!(view.lookup(&token.lineage()), Lookup::Live);
    view.apply(2, &[(0, floor(FloorScope::Human(HUMAN), 3))]);
    assert_eq!(view.lookup(&token.lineage()), Lookup::Revoked(RevokedBy { what: RevokedWhat::HumanFloor, seq: 2 }));
    token.generations.human = 3;
    assert_eq!(view.lookup(&token.lineage()), Lookup::Live);
}

#[test]
fn floors_only_rise_and_an_id_keeps_its_lowest_number() {
    let view = view();
    view.apply(9, &[(0, floor(FloorScope::Global, 4))]);
    view.apply(10, &[(0, floor(FloorScope::Global, 2))]);
    view.apply(8, &[(0, floor(FloorScope::Global, 4))]);
    let mut token = token();
    token.generations.global = 3;
    assert_eq!(view.lookup(&token.lineage()), Lookup::Revoked(RevokedBy { what: RevokedWhat::GlobalFloor, seq: 8 }));
}

#[test]
fn an_unknown_item_leaves_the_view_stale_for_good() {
    let view = view();
    let relied = Relied { epoch: 1, seq: 0, hash: [0; 32], utc: fixture::UTC };
    view.publish(BootTime(0), relied);
    assert_eq!(view.fresh_as_of(), Some(BootTime(0)));
    view.apply(1, &[(0, Item::Tid { tid: Tid::from_bytes([1; 16]), exp_secs: 1 }), (0, Item::Unknown { kind: 77, body: vec![1] })]);
    assert!(matches!(view.lookup(&token().lineage()), Lookup::Revoked(_)), "what is understood beside it counts");
    view.publish(BootTime(5), relied);
    assert_eq!(view.fresh_as_of(), None);
}

#[test]
fn freshness_does_not_go_back_but_by_a_fence() {
    let view = view();
    let relied = |seq| Relied { epoch: 1, seq, hash: [0; 32], utc: fixture::UTC };
    view.publish(BootTime(7), relied(2));
    view.publish(BootTime(5), relied(1));
    assert_eq!((view.fresh_as_of(), view.relied()), (Some(BootTime(7)), Some(relied(2))));
    view.fence();
    assert_eq!(view.fresh_as_of(), None);
    view.publish(BootTime(6), relied(1));
    assert_eq!(view.fresh_as_of(), Some(BootTime(6)));
}

#[test]
fn collection_keeps_floors_keys_and_what_may_still_be_presented() {
    let view = view();
    let now = BootTime(1_000_000);
    assert!(view.observe_utc(fixture::UTC, now));
    let secs = fixture::UTC.secs();
    let id = |n| Tid::from_bytes([n; 16]);
    view.apply(
        1,
        &[
            (0, Item::Tid { tid: id(1), exp_secs: secs - 200 }),
            (0, Item::Tid { tid: id(2), exp_secs: secs - 59 }),
            (0, Item::Tid { tid: id(3), exp_secs: secs - 200 }),
            (0, Item::Lid { lid: Lid::from_bytes([1; 16]), exp_secs: secs - 200 }),
            (0, Item::HolderKey { key: Key::from_bytes([9; 32]) }),
            (0, floor(FloorScope::Agent(AGENT), 1)),
        ],
    );
    view.apply(2, &[(0, Item::Tid { tid: id(3), exp_secs: secs + 100 })]);
    view.collect(now);
    assert_eq!(view.known(), Known { ids: 2, holder_keys: 1, floors: 1 });
    view.collect(now.plus_micros(400_000_000));
    assert_eq!(view.known(), Known { ids: 0, holder_keys: 1, floors: 1 });
}

#[test]
fn authority_time_follows_the_boot_clock_never_falls_and_does_not_jump() {
    let view = view();
    let at = |s: u64| BootTime(s * 1_000_000);
    assert_eq!(view.utc(at(1)), None);
    assert!(view.observe_utc(fixture::UTC, at(10)));
    assert_eq!(view.utc(at(12)), Some(fixture::UTC.plus(2000)));
    assert!(view.observe_utc(fixture::UTC.plus(1000), at(12)), "late on its way, or set back");
    assert_eq!(view.utc(at(12)), Some(fixture::UTC.plus(2000)));
    assert!(view.utc(at(13)) >= Some(fixture::UTC.plus(2998)));
    assert!(!view.observe_utc(fixture::UTC.plus(3000 + 2002), at(13)), "over 2 s ahead");
    assert!(view.observe_utc(fixture::UTC.plus(3000 + 1990), at(13)));
    view.confirm_utc(fixture::UTC.plus(3_600_000), at(13));
    assert_eq!(view.utc(at(13)), Some(fixture::UTC.plus(3_600_000)));
}

#[test]
fn an_old_epoch_start_is_no_clock_to_a_verifier_that_knows_no_time_yet() {
    let view = view();
    let now = BootTime(10_000_000);
    view.confirm_utc(UtcMillis(fixture::UTC.0 - 86_400_000), now);
    assert_eq!(view.utc(now), None);
    assert!(view.observe_utc(fixture::UTC, now), "the authority's true time is not ahead of a recording");
    assert_eq!(view.utc(now), Some(fixture::UTC));
}

#[test]
fn a_slow_local_clock_does_not_leave_authority_time_ahead_for_good() {
    let view = view();
    // The boot clock runs 100 ppm fast: an hour of heartbeats, one per second.
    for s in 0..3600_u64 {
        assert!(view.observe_utc(fixture::UTC.plus(s * 1000), BootTime(s * 1_000_100)));
    }
    let utc = view.utc(BootTime(3599 * 1_000_100)).unwrap();
    assert!(utc.0.abs_diff(fixture::UTC.0 + 3_599_000) < 5, "{utc}");
}

#[test]
fn key_lists_only_get_newer() {
    let view = View::new("payments".parse().unwrap(), fixture::key_list(2, &[]));
    assert_eq!(view.replace_key_list(fixture::key_list(1, &[])), Err(KeyListStays::Older { got: 1, held: 2 }));
    assert_eq!(view.replace_key_list(fixture::key_list(2, &[Key::from_bytes([1; 32])])), Err(KeyListStays::Differs { version: 2 }));
    assert_eq!(view.replace_key_list(fixture::key_list(3, &[])), Ok(()));
    assert_eq!(view.key_list().payload().version, 3);
}
