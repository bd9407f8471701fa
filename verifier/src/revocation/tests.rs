use super::*;
use crate::feed::fixture;
use crate::feed::message::FloorScope;
use crate::ids::HumanId;

const HUMAN: HumanId = HumanId::from_bytes([4; 16]);
const AGENT: AgentId = AgentId::from_bytes([5; 16]);
const HELPER: AgentId = AgentId::from_bytes([6; 16]);
const ROOT: Key = Key::from_bytes([8; 32]);
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
            root: &ROOT,
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
        (RevokedWhat::RootKey, Item::RootKey { key: ROOT }),
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
        // A root key is no holder key, nor the other way round.
        Item::HolderKey { key: ROOT },
        Item::RootKey { key: Key::from_bytes([2; 32]) },
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
    assert_eq!(view.known(), Known { ids: 2, holder_keys: 1, floors: 1, ..Known::default() });
    view.collect(now.plus_micros(400_000_000));
    assert_eq!(view.known(), Known { ids: 0, holder_keys: 1, floors: 1, ..Known::default() });
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
fn an_epoch_start_heard_late_confirms_a_jump_by_no_more_than_it_may_be_late() {
    let at = |s: u64| BootTime(s * 1_000_000);
    let jumped = |s: u64| fixture::UTC.plus(3_600_000 + s * 1000);
    let known = |s: u64| {
        let view = view();
        assert!(view.observe_utc(fixture::UTC.plus(s * 1000), at(s)));
        assert!(!view.observe_utc(jumped(s + 60), at(s + 60)), "nobody has confirmed an hour");
        view
    };
    // Begun at second 20, heard at second 60: forty more than the start says.
    let view = known(10);
    view.confirm_utc(jumped(20), at(60));
    assert!(!view.observe_utc(jumped(60), at(60)), "without the epoch that it belongs to");
    assert!(view.observe_utc_after(jumped(20), jumped(60), at(60)));
    assert_eq!(view.utc(at(60)), Some(jumped(60)));
    // The last one counted at second 10: nothing that began after it began longer ago.
    let view = known(10);
    assert!(!view.observe_utc_after(jumped(20), jumped(20 + 50 + 3), at(60)), "ahead even of that");
    assert!(view.observe_utc_after(jumped(20), jumped(20 + 50 + 1), at(60)));
    // Heard so late that by what is known here it lies in the past.
    let view = known(10);
    view.confirm_utc(jumped(20), at(9_000));
    assert!(view.observe_utc_after(jumped(20), jumped(9_000), at(9_000)));
    // A start of long ago, read again, confirms nothing.
    let view = known(10);
    assert!(!view.observe_utc_after(UtcMillis(fixture::UTC.0 - 86_400_000), jumped(60), at(60)));
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

mod freezes {
    use super::*;
    use crate::feed::message::Freeze;
    use crate::ids::FreezeId;

    fn freeze(id: u8, scope: FloorScope, from: u64, until: u64, version: u64) -> Freeze {
        Freeze { id: FreezeId::from_bytes([id; 16]), scope, from: UtcMillis(from), until: UtcMillis(until), version }
    }

    fn knowing(freezes: &[Freeze]) -> View {
        let view = view();
        for f in freezes {
            view.apply(1, &[(0, Item::Freeze(*f))]);
        }
        view
    }

    fn at(view: &View, token: &Token, ms: u64) -> (Option<u8>, u64) {
        let frozen = view.frozen(&token.lineage(), UtcMillis(ms));
        (frozen.by.map(|id| id.as_bytes()[0]), frozen.holds_until.0)
    }

    #[test]
    fn each_scope_stops_its_own_and_nobody_else() {
        let other = [9; 16];
        for (mine, others) in [
            (FloorScope::Global, None),
            (FloorScope::Tenant, None),
            (FloorScope::Human(HUMAN), Some(FloorScope::Human(HumanId::from_bytes(other)))),
            (FloorScope::Agent(AGENT), Some(FloorScope::Agent(AgentId::from_bytes(other)))),
            (FloorScope::Agent(HELPER), None),
            (FloorScope::Delegation(DELEGATION), Some(FloorScope::Delegation(DelegationId::from_bytes(other)))),
        ] {
            let view = knowing(&[freeze(1, mine, 100, 200, 1)]);
            assert_eq!(at(&view, &token(), 150), (Some(1), 200), "{mine:?}");
            assert_eq!(view.lookup(&token().lineage()), Lookup::Live, "frozen is not revoked");
            if let Some(scope) = others {
                assert_eq!(at(&knowing(&[freeze(1, scope, 100, 200, 1)]), &token(), 150), (None, u64::MAX));
            }
        }
        let mut hidden = token();
        hidden.human = HumanRef::pairwise(HUMAN, &"payments".parse().unwrap());
        assert_eq!(at(&knowing(&[freeze(1, FloorScope::Human(HUMAN), 100, 200, 1)]), &hidden, 150).0, Some(1));
        hidden.human = HumanRef::pairwise(HUMAN, &"ledger".parse().unwrap());
        assert_eq!(at(&knowing(&[freeze(1, FloorScope::Human(HUMAN), 100, 200, 1)]), &hidden, 150).0, None);
    }

    #[test]
    fn a_window_is_from_its_first_moment_to_before_its_last_and_an_answer_says_how_long_it_holds() {
        let view = knowing(&[freeze(1, FloorScope::Tenant, 100, 200, 1), freeze(2, FloorScope::Global, 300, 400, 1)]);
        let answers = [(99, None, 100), (100, Some(1), 200), (199, Some(1), 200), (200, None, 300), (300, Some(2), 400), (400, None, u64::MAX)];
        for (ms, by, until) in answers {
            assert_eq!(at(&view, &token(), ms), (by, until), "{ms}");
        }
    }

    #[test]
    fn the_first_scope_names_and_then_the_lowest_id() {
        let both = [freeze(3, FloorScope::Tenant, 0, 9, 1), freeze(2, FloorScope::Delegation(DELEGATION), 0, 9, 1), freeze(4, FloorScope::Tenant, 0, 9, 1)];
        let mut turned = both;
        turned.reverse();
        for freezes in [both, turned] {
            assert_eq!(at(&knowing(&freezes), &token(), 5).0, Some(3));
        }
    }

    #[test]
    fn the_highest_version_holds_in_any_order_and_an_empty_window_lifts() {
        let (first, lifted, again) =
            (freeze(1, FloorScope::Tenant, 0, 900, 1), freeze(1, FloorScope::Tenant, 0, 0, 2), freeze(1, FloorScope::Agent(AGENT), 500, 600, 3));
        for (known, expected) in [
            (vec![first], Some(1)),
            (vec![first, lifted], None),
            (vec![lifted, first], None),
            (vec![again, lifted, first], Some(1)),
            (vec![first, again, lifted], Some(1)),
        ] {
            assert_eq!(at(&knowing(&known), &token(), 550).0, expected, "{known:?}");
        }
        // Moved as a whole: the tenant is free again, before and after the agent's window.
        assert_eq!(at(&knowing(&[first, again]), &token(), 100).0, None);
    }

    #[test]
    fn of_two_under_one_version_the_longer_stop_wins_whatever_came_first() {
        let lift = freeze(1, FloorScope::Tenant, u64::MAX, u64::MAX, 1);
        let (short, long) = (freeze(1, FloorScope::Tenant, 0, 100, 1), freeze(1, FloorScope::Agent(HELPER), 0, 200, 1));
        for pair in [[lift, short], [short, lift]] {
            assert_eq!(at(&knowing(&pair), &token(), 50).0, Some(1));
        }
        for pair in [[long, short], [short, long]] {
            assert_eq!(at(&knowing(&pair), &token(), 150).0, Some(1));
        }
    }

    #[test]
    fn what_a_view_says_of_root_keys_and_freezes_makes_the_same_view() {
        let full = knowing(&[freeze(1, FloorScope::Human(HUMAN), 100, 200, 1), freeze(2, FloorScope::Tenant, 0, 0, 7)]);
        full.apply(9, &[(0, Item::RootKey { key: ROOT })]);
        assert_eq!((full.known().root_keys, full.known().freezes), (1, 2));
        let copy = view();
        for (seq, item) in full.root_keys_and_freezes() {
            copy.apply(seq, &[(0, item)]);
        }
        assert!(copy.knows_the_same_as(&full));
        assert_eq!(copy.lookup(&token().lineage()), Lookup::Revoked(RevokedBy { what: RevokedWhat::RootKey, seq: 9 }));
    }
}

#[test]
fn a_merge_that_panicked_is_done_again() {
    let view = std::sync::Arc::new(view());
    let now = BootTime(1_000_000);
    assert!(view.observe_utc(fixture::UTC, now));
    assert!(view.wants_merge(now), "an hour may be forgotten");
    let broken = std::sync::Arc::clone(&view);
    let panicked = std::thread::spawn(move || {
        let _merging = broken.merging.lock().unwrap();
        panic!("in the middle of it");
    });
    assert!(panicked.join().is_err());
    assert!(view.wants_merge(now));
    view.merge(now);
    assert!(!view.wants_merge(now));
}
