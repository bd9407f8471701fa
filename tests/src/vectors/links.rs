//! L4 links.

use procura_verifier::card::AgentCard;
use procura_verifier::claims::{Block0, Hops, Possession};
use procura_verifier::ids::{Lid, Tid, UtcMillis};
use procura_verifier::key_list::KeyUse;
use procura_verifier::vocabulary::LinkClaims;

use super::{Law, Stage, held};
use crate::case::Case;
use crate::fixtures::{AGENT, CARD, Held, NOW_SECS, ROOT, STRANGER, SUB, SUB_SUB, block0, card, key, link_to, public};
use crate::forge::{Forged, edit, source, third_party_of};

/// The token with this link, presented by `by`.
fn linked(link: &LinkClaims, by: u8) -> Case {
    Case::of(held().link(link, AGENT).seal(), by)
}

/// A link's payload as the verifier crate writes it, though the token it will stand in would be refused.
///
/// It is first made under a block 0 that allows anything.
fn payload(link: &LinkClaims) -> Vec<u8> {
    let lax = Held::mint(&Block0 { hops: Hops::Any, depth: 8, ..block0() });
    Forged::of(&lax.link(link, AGENT).0).payload(1)
}

/// The payload of a link that the verifier crate would not write, from its Datalog.
fn replaced(link: &LinkClaims, from: &str, to: &str) -> Vec<u8> {
    let text = source(&Held::mint(&block0()).link(link, AGENT).0, 1);
    assert!(text.contains(from), "no `{from}` in {text}");
    third_party_of(&text.replacen(from, to, 1))
}

/// Appended by the holder of the token, signed as third party by `signer`.
fn wrapped(payload: Vec<u8>, signer: u8, by: u8) -> Case {
    Case::of(Forged::of(&held().0).link(payload, signer).seal(), by)
}

fn with_card(link: LinkClaims, card: &AgentCard, signer: u8) -> LinkClaims {
    LinkClaims { card: Some(card.sign(&key(signer))), ..link }
}

pub fn l4() -> Law {
    let mut law = Law::new("L4");
    let twin = || linked(&link_to(SUB, 1), SUB);
    law.pass("linked_to_a_card", "the sub-agent presents", twin());
    let twice = || held().link(&link_to(SUB, 1), AGENT).link(&link_to(SUB_SUB, 0), SUB);
    law.pass("linked_twice", "as deep as block 0 allows", Case::of(twice().seal(), SUB_SUB));
    law.pass("linked_with_no_further_depth", "a link may give up more depth than one", linked(&link_to(SUB, 0), SUB));

    let forged = |law: &mut Law, name: &str, about: &str, case: Case| law.forged(name, about, Stage::Parse, case, twin());
    forged(
        &mut law,
        "link_facts_without_a_signature",
        "a link appended as if it narrowed",
        Case::of(Forged::of(&held().0).append(payload(&link_to(SUB, 1))).seal(), SUB),
    );
    let narrow = Forged::of(&held().narrow(&[procura_verifier::claims::Restriction::Until(NOW_SECS + 60)]).0).payload(1);
    forged(&mut law, "signature_without_link_facts", "a narrowing block signed as a third party", wrapped(narrow, AGENT, AGENT));
    forged(&mut law, "signed_by_a_stranger", "a key that holds nothing signs the link", wrapped(payload(&link_to(SUB, 1)), STRANGER, SUB));
    forged(&mut law, "signed_by_its_receiver", "the sub-agent signs its own link", wrapped(payload(&link_to(SUB, 1)), SUB, SUB));
    forged(&mut law, "signed_by_the_root_key", "the authority is no holder", wrapped(payload(&link_to(SUB, 1)), ROOT, SUB));

    let mut claimed = Forged::of(&held().0).link(payload(&link_to(SUB, 1)), STRANGER);
    claimed.proto.blocks[0].external_signature.as_mut().unwrap().public_key.key = public(AGENT).as_bytes().to_vec();
    law.forged(
        "signature_of_a_stranger_under_the_holders_name",
        "the link names the holder; somebody else signed",
        Stage::Signature,
        Case::of(claimed.seal(), SUB),
        twin(),
    );

    let bare = LinkClaims { card: None, ..link_to(SUB, 1) };
    let any = Held::mint(&Block0 { hops: Hops::Any, ..block0() }).link(&bare, AGENT).seal();
    law.forged("no_card", "the delegation allows registered agents only", Stage::Parse, wrapped(payload(&bare), AGENT, SUB), Case::of(any.clone(), SUB));
    law.pass("no_card_where_the_delegation_says_so", "an unregistered key under the agent", Case::of(any, SUB));

    let theirs = replaced(&link_to(SUB_SUB, 1), &hex::encode(public(SUB_SUB).as_bytes()), &hex::encode(public(SUB).as_bytes()));
    forged(&mut law, "card_of_another_agent", "the link's key is not the card's", wrapped(theirs, AGENT, SUB));
    let globex = AgentCard { tenant: "globex".parse().unwrap(), ..card(SUB) };
    let lax = Held::mint(&Block0 { tenant: "globex".parse().unwrap(), ..block0() }).link(&with_card(link_to(SUB, 1), &globex, CARD), AGENT);
    forged(&mut law, "card_of_another_tenant", "the card names globex", wrapped(Forged::of(&lax.0).payload(1), AGENT, SUB));
    law.forged(
        "card_signed_by_the_agent",
        "the agent writes a card itself",
        Stage::Signature,
        linked(&with_card(link_to(SUB, 1), &card(SUB), AGENT), SUB),
        twin(),
    );
    law.forged(
        "card_signed_by_the_root_key",
        "a listed key of another use",
        Stage::Signature,
        linked(&with_card(link_to(SUB, 1), &card(SUB), ROOT), SUB),
        twin(),
    );
    law.fail("card_key_dead", "the card key was killed", twin().with_keys(|k| k.dead = vec![public(CARD)]), "signature");
    let until = |secs: u64| {
        twin().with_keys(|k| {
            for listed in &mut k.keys {
                if listed.usage == KeyUse::Card {
                    listed.until = UtcMillis(secs * 1000);
                }
            }
        })
    };
    law.pass("card_inside_its_keys_window", "the card key ends with the card", until(card(SUB).expires_secs));
    law.fail("card_beyond_its_keys_window", "the card key ends a second before the card", until(card(SUB).expires_secs - 1), "signature");

    let ended = AgentCard { expires_secs: NOW_SECS - 1, ..card(SUB) };
    law.fail("card_expired", "the link ended with its card a second ago", linked(&with_card(link_to(SUB, 1), &ended, CARD), SUB), "expired");
    let same = AgentCard { expires_secs: NOW_SECS + 1, ..card(SUB) };
    law.pass("card_in_its_last_second", "the link ends with its card in a second", linked(&with_card(link_to(SUB, 1), &same, CARD), SUB));
    forged(
        &mut law,
        "link_outlives_its_card",
        "the check says an hour more than the card",
        wrapped(replaced(&link_to(SUB, 1), "2030-01-01T06:00:00Z", "2030-01-01T07:00:00Z"), AGENT, SUB),
    );
    let check = format!("check if holder_proof(hex:{})", hex::encode(public(SUB).as_bytes()));
    let stranger = format!("check if holder_proof(hex:{})", hex::encode(public(STRANGER).as_bytes()));
    forged(
        &mut law,
        "holder_check_names_another_key",
        "link and card name the sub-agent, the check a stranger",
        wrapped(replaced(&link_to(SUB, 1), &check, &stranger), AGENT, SUB),
    );
    forged(
        &mut law,
        "no_lid",
        "a link that nothing could revoke",
        wrapped(edit(&payload(&link_to(SUB, 1)), |b| drop(b.facts[0].predicate.terms.remove(0))), AGENT, SUB),
    );
    forged(
        &mut law,
        "two_links_in_a_block",
        "the link fact twice",
        wrapped(edit(&payload(&link_to(SUB, 1)), |b| b.facts.insert(1, b.facts[0].clone())), AGENT, SUB),
    );

    forged(&mut law, "depth_not_less", "block 0 leaves two, the link leaves two", wrapped(payload(&link_to(SUB, 2)), AGENT, SUB));
    forged(&mut law, "depth_more", "the link gives itself more", wrapped(payload(&link_to(SUB, 7)), AGENT, SUB));
    forged(&mut law, "depth_exceeded", "a third link where two were left", Case::of(Forged::of(&twice().0).link(payload(&link_to(13, 0)), SUB_SUB).seal(), 13));
    forged(
        &mut law,
        "back_to_a_holder",
        "the sub-agent links to the agent: one key in two places",
        Case::of(Forged::of(&held().link(&link_to(SUB, 1), AGENT).0).link(payload_for(&link_to(AGENT, 0)), SUB).seal(), AGENT),
    );
    let again = LinkClaims { lid: Lid::from_bytes([SUB; 16]), ..link_to(SUB_SUB, 0) };
    forged(
        &mut law,
        "lid_twice",
        "two links under one id",
        Case::of(Forged::of(&held().link(&link_to(SUB, 1), AGENT).0).link(payload(&again), SUB).seal(), SUB_SUB),
    );
    let bearer = Held::mint(&Block0 { possession: Possession::Bearer, depth: 0, ..block0() });
    forged(&mut law, "bearer_with_a_link", "a bearer token is linked", Case::of(Forged::of(&bearer.0).link(payload(&link_to(SUB, 0)), AGENT).seal(), SUB));

    // The signature of a link is over the signature before it.
    let other = Held::mint(&Block0 { tid: Tid::from_bytes([9; 16]), ..block0() });
    let external = Forged::of(&held().link(&link_to(SUB, 1), AGENT).0).block(1).external_signature.clone();
    let moved = Forged::of(&other.0).push(payload(&link_to(SUB, 1)), external);
    law.forged("link_of_another_token", "payload and signature of a link under another block 0", Stage::Signature, Case::of(moved.seal(), SUB), twin());
    let mut dropped = Forged::of(&twice().0);
    dropped.proto.blocks.remove(0);
    law.forged("middle_link_dropped", "the second link without the first", Stage::Parse, Case::of(dropped.seal(), SUB_SUB), Case::of(twice().seal(), SUB_SUB));
    law
}

/// The payload of a link back to the agent, which no verifier crate would append to its own token.
fn payload_for(link: &LinkClaims) -> Vec<u8> {
    let other = Held::mint(&Block0 { holder: public(STRANGER), depth: 8, ..block0() });
    Forged::of(&other.link(link, STRANGER).0).payload(1)
}
