//! L6 revoked, L7 fresh, L11 said.

use procura_verifier::claims::{Block0, Generations, HumanRef, Restriction};
use procura_verifier::ids::{AgentId, DelegationId, FreezeId, HumanId, Tid, UtcMillis};

use super::{Law, held, honest, presenting};
use crate::case::{Case, Dead, Expect, Floor, Frozen, Known};
use crate::fixtures::{AGENT, FOREIGN_ROOT, Held, NOW, NOW_SECS, ROOT, STRANGER, SUB, SUB_SUB, block0, card, key_list, link_to, public};
use crate::forge::Forged;
use procura_verifier::token::UnverifiedToken;

fn revoked(mut case: Case, id: &impl std::fmt::Display, seq: u64) -> Case {
    case.view.revoked.push(Dead { id: id.to_string(), seq });
    case
}

fn floor(mut case: Case, of: &impl std::fmt::Display, generation: u64, seq: u64) -> Case {
    case.view.floors.push(Floor { of: of.to_string(), generation, seq });
    case
}

pub fn l6() -> Law {
    let mut law = Law::new("L6");
    let b = block0();
    let HumanRef::Id(hid) = b.human else { unreachable!("the fixture names its human by id") };
    law.pass("nothing_revoked", "the floors are the token's generations", honest());
    let mut gone = |name: &str, about: &str, case: Case, by: &str, seq: u64| law.push(name, about, case, Expect::revoked(by, seq), None);

    gone("own_id", "the token's own id", revoked(honest(), &b.tid, 7), "tid", 7);
    let reminted = || presenting(Held::mint(&Block0 { ancestors: vec![Tid::from_bytes([1; 16]), Tid::from_bytes([2; 16])], ..block0() }).seal());
    gone("ancestor", "a token that it was re-minted from", revoked(reminted(), &Tid::from_bytes([1; 16]), 8), "ancestor", 8);
    gone("holder_key", "the agent's key", revoked(honest(), &public(AGENT), 9), "holder_key", 9);
    let linked = || held().link(&link_to(SUB, 1), AGENT).link(&link_to(SUB_SUB, 0), SUB);
    let presented = || Case::of(linked().seal(), SUB_SUB);
    gone("first_holder_key_of_a_chain", "the first agent's key, after two links", revoked(presented(), &public(AGENT), 10), "holder_key", 10);
    gone("middle_holder_key_of_a_chain", "the key in the middle", revoked(presented(), &public(SUB), 11), "holder_key", 11);
    gone("root_key", "the root key that signed block 0, whatever the token says", revoked(honest(), &format!("root:{}", public(ROOT)), 6), "root_key", 6);
    gone("link", "the first of two links", revoked(presented(), &link_to(SUB, 1).lid, 12), "lid", 12);

    // The signature of a link does not cover its next key: whoever holds the token before the link can wrap it again.
    let rewrapped = {
        let honest = Forged::of(&held().link(&link_to(SUB, 1), AGENT).0);
        let mut forged = Forged::of(&held().0).push(honest.payload(1), honest.block(1).external_signature.clone());
        forged.proto.blocks[0].next_key.key = public(STRANGER).as_bytes().to_vec();
        let previous = forged.proto.authority.signature.clone();
        let message = crate::forge::message(&forged.proto.blocks[0], Some(&previous));
        forged.proto.blocks[0].signature = ed25519_dalek::Signer::sign(&crate::fixtures::key(200), &message).to_bytes().to_vec();
        *forged.next.last_mut().unwrap() = Some(crate::fixtures::key(STRANGER));
        Case::of(forged.seal(), SUB)
    };
    gone(
        "link_wrapped_again",
        "the same link under a new next key, after its lid was revoked",
        revoked(rewrapped.clone(), &link_to(SUB, 1).lid, 13),
        "lid",
        13,
    );

    let narrowed = held().narrow(&[Restriction::Until(NOW_SECS + 60)]);
    let block_id = UnverifiedToken::parse(&narrowed.0).unwrap().verify(&key_list()).unwrap().block_ids()[0];
    gone("narrowing_block", "the id of a narrowing block", revoked(presenting(narrowed.seal()), &block_id, 14), "block", 14);

    for (name, of, generation, by) in [
        ("global_floor", "global".to_owned(), 1, "global_floor"),
        ("tenant_floor", "tenant".to_owned(), 1, "tenant_floor"),
        ("human_floor", hid.to_string(), 3, "human_floor"),
        ("agent_floor", b.agent.to_string(), 2, "agent_floor"),
        ("delegation_floor", b.delegation.to_string(), 1, "delegation_floor"),
    ] {
        gone(name, "a floor one above the token's generation", floor(honest(), &of, generation, 20), by, 20);
    }
    gone("agent_floor_of_a_link", "the sub-agent was killed, whoever linked to it", floor(presented(), &card(SUB).agent, 1, 21), "agent_floor", 21);
    let hidden = HumanRef::pairwise(hid, &"payments".parse().unwrap());
    let pairwise = || presenting(Held::mint(&Block0 { human: hidden, ..block0() }).seal());
    gone(
        "human_floor_of_a_pairwise_token",
        "the feed names the human, the token only what this service can derive",
        floor(pairwise(), &hid, 3, 22),
        "human_floor",
        22,
    );
    law.pass("pairwise_human", "a token that names its human for one service alone", pairwise());
    law.pass("rewrapped_link", "a link wrapped again is the same link while its lid lives", rewrapped);

    let mut other = revoked(honest(), &Tid::from_bytes([0x72; 16]), 7);
    other = floor(other, &HumanId::from_bytes([0xa2; 16]), 9, 8);
    law.pass("others_revoked", "another token's id, another human's floor", revoked(other, &public(SUB), 9));
    let other = revoked(revoked(honest(), &format!("root:{}", public(FOREIGN_ROOT)), 7), &public(ROOT), 8);
    law.pass("another_root_key", "another root key, and a holder key that is no holder's", other);

    // A generation above the known floor: the view lacks something, or the token lies.
    let ahead = || presenting(Held::mint(&Block0 { generations: Generations { delegation: 1, ..block0().generations }, ..block0() }).seal());
    law.fail("generation_from_the_future", "above the floor, and the view is fresh as of before the request: pull first", ahead(), "stale");
    let mut pulled = ahead();
    pulled.view.fresh_as_of = Some(pulled.arrived);
    law.fail("generation_still_above_after_a_pull", "above the floor though the view is fresh as of the request", pulled.clone(), "malformed");
    law.pass("generation_known_after_a_pull", "the pull brought the floor", floor(pulled, &b.delegation, 1, 30));
    law
}

/// Fresh as of `ms` before the decision.
fn aged(mut case: Case, ms: u64) -> Case {
    case.view.fresh_as_of = Some(UtcMillis(NOW.0 - ms));
    case.arrived = UtcMillis(NOW.0 - ms);
    case
}

fn bounded(freshness_ms: u32) -> Case {
    presenting(Held::mint(&Block0 { freshness_ms, ..block0() }).seal())
}

pub fn l7() -> Law {
    let mut law = Law::new("L7");
    let mut until = |name: &str, about: &str, case: Case, valid_until: u64| {
        let expect = Expect::Allowed { allowed: true, valid_until: Some(UtcMillis(valid_until)), mode: None };
        law.push(name, about, case, expect, None);
    };
    until("fresh", "everything known as of 20 ms ago: good for 130 ms", aged(honest(), 20), NOW.0 + 130);
    until("as_old_as_allowed", "as of 150 ms ago: good for this moment", aged(honest(), 150), NOW.0);
    until("token_shortens", "the token says 50 ms", aged(bounded(50), 20), NOW.0 + 30);
    let mut tool = honest();
    tool.tool.freshness_ms = Some(100);
    until("tool_shortens", "the tool says 100 ms", aged(tool, 20), NOW.0 + 80);
    let mut both = bounded(1_000);
    both.tool.freshness_ms = Some(2_000);
    until("lengthened_by_both", "tool and token both say so, by name: the shorter one counts", aged(both.clone(), 800), NOW.0 + 200);
    let mut ending = honest();
    ending.now = UtcMillis(block0().expires_secs * 1000 - 30);
    ending.arrived = ending.now;
    ending.view.fresh_as_of = Some(ending.now);
    ending.sign(AGENT);
    until("no_longer_than_the_token", "30 ms before expiry: good for 30 ms", ending, block0().expires_secs * 1000);

    law.fail("one_millisecond_too_old", "as of 151 ms ago", aged(honest(), 151), "stale");
    law.fail("token_shortens_below", "the token says 50 ms, as of 51 ms ago", aged(bounded(50), 51), "stale");
    law.fail("lengthened_by_both_and_older", "both say 1 s, as of 1.001 s ago", aged(both, 1_001), "stale");
    law.fail("lengthened_by_the_token_only", "the token says 1 s, the tool is strict", aged(bounded(1_000), 800), "stale");
    let mut tool = honest();
    tool.tool.freshness_ms = Some(1_000);
    law.fail("lengthened_by_the_tool_only", "the tool says 1 s, the token 150 ms", aged(tool, 800), "stale");
    let mut never = honest();
    never.view.fresh_as_of = None;
    law.fail("never_heard_anything", "no heartbeat yet", never, "stale");

    let best_effort = |mut case: Case| {
        case.tool.best_effort = true;
        case
    };
    let named = || bounded(Block0::BEST_EFFORT_MS);
    let mut mode = |name: &str, about: &str, case: Case, valid_until: u64, mode: &str| {
        law.push(name, about, case, Expect::Allowed { allowed: true, valid_until: Some(UtcMillis(valid_until)), mode: Some(mode.into()) }, None);
    };
    let life = block0().expires_secs * 1000;
    mode("mode_strict", "the token would allow any age, the tool is strict", aged(named(), 20), NOW.0 + 130, "strict");
    mode("mode_bounded", "the token says 1 s, the tool best effort: what both allow", aged(best_effort(bounded(1_000)), 800), NOW.0 + 200, "bounded");
    mode("mode_best_effort", "token and tool both say best effort: as of an hour ago", aged(best_effort(named()), 3_600_000), life, "best_effort");
    let mut fenced = best_effort(named());
    fenced.view.fenced = true;
    mode("best_effort_after_a_fence", "known once, and nobody vouches any more", fenced.clone(), life, "best_effort");
    fenced.tool.best_effort = false;
    fenced.tool.freshness_ms = Some(Block0::MAX_FRESHNESS_MS);
    law.fail("bounded_after_a_fence", "the longest bound is none where nobody vouches", fenced, "stale");
    law.fail("best_effort_by_the_tool_only", "the tool says best effort, the token 150 ms, as of 151 ms ago", aged(best_effort(honest()), 151), "stale");
    law.fail(
        "best_effort_by_the_token_only",
        "the token says best effort, the tool 5 min, as of 5 min and 1 ms ago",
        {
            let mut case = aged(named(), 300_001);
            case.tool.freshness_ms = Some(Block0::MAX_FRESHNESS_MS);
            case
        },
        "stale",
    );
    law.fail(
        "best_effort_that_never_heard_anything",
        "no heartbeat yet: nothing is known to go by",
        {
            let mut case = best_effort(named());
            case.view.fresh_as_of = None;
            case
        },
        "stale",
    );
    let ahead = Block0 { freshness_ms: Block0::BEST_EFFORT_MS, generations: Generations { delegation: 1, ..block0().generations }, ..block0() };
    let ahead = aged(best_effort(presenting(Held::mint(&ahead).seal())), 3_600_000);
    let ahead = Case { arrived: UtcMillis(NOW.0 - 2), ..ahead };
    law.fail("best_effort_forgives_no_unknown_generation", "above the floor: the view lacks something for certain", ahead, "stale");
    law
}

fn freeze(mut case: Case, id: u8, of: &impl std::fmt::Display, from_ms: i64, until_ms: i64, version: u64) -> Case {
    let at = |ms| UtcMillis(NOW.0.saturating_add_signed(ms));
    case.view.freezes.push(Frozen { id: FreezeId::from_bytes([id; 16]), of: of.to_string(), from: at(from_ms), until: at(until_ms), version });
    case
}

/// Freezes: their place in the order, their windows, and how versions join.
fn freezes(law: &mut Law) {
    const HOUR: i64 = 3_600_000;
    let b = block0();
    let HumanRef::Id(hid) = b.human else { unreachable!("the fixture names its human by id") };
    let id = FreezeId::from_bytes([0x66; 16]);
    let mut frozen = |name: &str, about: &str, case: Case| law.push(name, about, case, Expect::frozen(&id), None);
    let mut passes = Vec::new();
    for (name, of, other) in [
        ("frozen_global", "global".to_owned(), None),
        ("frozen_tenant", "tenant".to_owned(), None),
        ("frozen_human", hid.to_string(), Some(HumanId::from_bytes([0xa2; 16]).to_string())),
        ("frozen_agent", b.agent.to_string(), Some(AgentId::from_bytes([0xa2; 16]).to_string())),
        ("frozen_delegation", b.delegation.to_string(), Some(DelegationId::from_bytes([0xa2; 16]).to_string())),
    ] {
        frozen(name, "inside the window", freeze(honest(), 0x66, &of, -HOUR, HOUR, 1));
        if let Some(other) = other {
            passes.push((format!("not_{name}"), "the same freeze of another", freeze(honest(), 0x66, &other, -HOUR, HOUR, 1)));
        }
    }
    let linked = || Case::of(held().link(&link_to(SUB, 1), AGENT).link(&link_to(SUB_SUB, 0), SUB).seal(), SUB_SUB);
    frozen("frozen_agent_of_a_link", "the sub-agent is frozen, whoever linked to it", freeze(linked(), 0x66, &card(SUB).agent, -HOUR, HOUR, 1));
    let hidden = HumanRef::pairwise(hid, &"payments".parse().unwrap());
    let pairwise = presenting(Held::mint(&Block0 { human: hidden, ..block0() }).seal());
    frozen(
        "frozen_human_of_a_pairwise_token",
        "the freeze names the human, the token only what this service can derive",
        freeze(pairwise, 0x66, &hid, -HOUR, HOUR, 1),
    );
    frozen("frozen_from_this_moment", "the first moment of the window", freeze(honest(), 0x66, &"tenant", 0, HOUR, 1));
    frozen("frozen_until_the_next_millisecond", "the last moment of the window", freeze(honest(), 0x66, &"tenant", -HOUR, 1, 1));
    frozen("frozen_though_stale", "a known freeze is named even when the view is old", aged(freeze(honest(), 0x66, &"tenant", -HOUR, HOUR, 1), 10_000));
    frozen(
        "an_older_lift_comes_late",
        "version 3 freezes again; the lift of version 2 arrives after it",
        freeze(freeze(honest(), 0x66, &"tenant", -HOUR, HOUR, 3), 0x66, &"tenant", 0, 0, 2),
    );
    frozen(
        "two_under_one_version",
        "the longer stop wins, whatever came first",
        freeze(freeze(honest(), 0x66, &"tenant", -HOUR, HOUR, 1), 0x66, &"tenant", 0, 0, 1),
    );
    passes.push(("freeze_over".to_owned(), "the first moment after the window", freeze(honest(), 0x66, &"tenant", -HOUR, 0, 1)));
    passes.push((
        "freeze_lifted".to_owned(),
        "version 2 has an empty window; version 1 arrives after it",
        freeze(freeze(honest(), 0x66, &"tenant", 0, 0, 2), 0x66, &"tenant", -HOUR, HOUR, 1),
    ));
    for (name, about, case) in passes {
        law.pass(&name, about, case);
    }
    let expect = Expect::Allowed { allowed: true, valid_until: Some(UtcMillis(NOW.0 + 40)), mode: None };
    law.push("freeze_in_40_ms", "an allow ends where a known freeze begins", freeze(honest(), 0x66, &"tenant", 40, HOUR, 1), expect, None);
    let over = |r: &mut crate::case::Request| r.args = serde_json::value::RawValue::from_string(r#"{"amount":{"minor":50001,"unit":"EUR"}}"#.into()).unwrap();
    law.fail("limit_before_frozen", "over the limit, and frozen", freeze(honest(), 0x66, &"tenant", -HOUR, HOUR, 1).asking(AGENT, over), "limit");
    let revoked_too = revoked(freeze(honest(), 0x66, &"tenant", -HOUR, HOUR, 1), &b.tid, 7);
    law.push("revoked_before_frozen", "revoked, and frozen", revoked_too, Expect::revoked("tid", 7), None);
}

pub fn l11() -> Law {
    let mut law = Law::new("L11");
    freezes(&mut law);
    law.pass("nothing_stands_against_it", "no cause at all", honest());
    let stale = |case: Case| aged(case, 10_000);
    let expired = || held().narrow(&[Restriction::Until(NOW_SECS - 1)]).seal();
    let over =
        |case: Case| case.asking(AGENT, |r| r.args = serde_json::value::RawValue::from_string(r#"{"amount":{"minor":50001,"unit":"EUR"}}"#.into()).unwrap());

    let mut both = Forged::root([Forged::of(&held().0).payload(0).as_slice(), &[0x7a, 0]].concat(), FOREIGN_ROOT);
    both.proto.root_key_id = None;
    law.fail("malformed_before_signature", "outside the profile and signed by nobody known", presenting(both.seal()), "malformed");
    let mut case = Forged::of(&held().seal());
    case.proto.authority.signature[0] ^= 1;
    let foreign = presenting(case.open()).asking(AGENT, |r| r.tenant = "globex".into());
    law.fail("signature_before_tenant", "a bad signature, and another tenant's resource", foreign, "signature");
    let tenant = honest().asking(STRANGER, |r| (r.tenant, r.audience) = ("globex".into(), "ledger/1".into()));
    law.fail("tenant_before_audience", "another tenant, another service, a stranger's proof", tenant, "tenant");
    let audience = honest().asking(STRANGER, |r| r.audience = "ledger/1".into());
    law.fail("audience_before_holder", "another service, and a stranger's proof", audience, "audience");
    law.fail("holder_before_revoked", "a stranger learns nothing of revocations", revoked(Case::of(held().seal(), STRANGER), &block0().tid, 7), "holder");
    law.push("revoked_before_expired", "revoked and expired", revoked(presenting(expired()), &block0().tid, 7), Expect::revoked("tid", 7), None);
    law.push(
        "revoked_though_stale",
        "a known revocation is named even when the view is old",
        stale(revoked(honest(), &block0().tid, 7)),
        Expect::revoked("tid", 7),
        None,
    );
    law.fail("expired_before_scope", "expired, and another account", presenting(expired()).asking(AGENT, |r| r.resource = "acct/us/7".into()), "expired");
    law.fail("scope_before_limit", "another account, and over the limit", over(honest()).asking(AGENT, |r| r.resource = "acct/us/7".into()), "scope");
    law.fail("limit_before_stale", "over the limit, and an old view", stale(over(honest())), "limit");
    let mut spent = stale(honest());
    spent.tool.challenge = [8; 16];
    law.fail("stale_before_replay", "an old view, and another challenge", spent, "stale");
    let mut case = honest();
    case.view = Known { fresh_as_of: None, ..Known::fresh() };
    law.fail("limit_before_stale_without_time", "over the limit, and no heartbeat yet", over(case), "limit");
    let ahead = Held::mint(&Block0 { generations: Generations { delegation: 1, ..block0().generations }, ..block0() }).seal();
    let mut ahead = presenting(ahead);
    ahead.view.fresh_as_of = Some(ahead.arrived);
    law.fail(
        "malformed_before_scope",
        "a generation from the future after a pull, and another account",
        ahead.asking(AGENT, |r| r.resource = "acct/us/7".into()),
        "malformed",
    );
    law
}
