//! Token bytes against biscuit-auth: what we write, it reads and verifies, and its own writing of our words is ours.

use super::*;
use crate::card::AgentCard;
use crate::claims::{Capability, DataClass, Generations, HumanRef, Limit};
use crate::ids::{DelegationId, HumanId, UtcMillis};
use crate::key_list::{Anchors, KeyListPayload, ListedKey, UnverifiedKeyList};

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn key_list() -> KeyList {
    let window = |usage, n| ListedKey { usage, key: Key::of(&key(n)), from: UtcMillis(0), until: UtcMillis(u64::MAX) };
    let payload = KeyListPayload {
        tenant: "acme".parse().unwrap(),
        version: 1,
        issued: UtcMillis(0),
        max_ttl_secs: 86_400,
        keys: vec![window(KeyUse::Root, 1), window(KeyUse::Card, 2)],
        dead: vec![],
    };
    Anchors::new(vec![Key::of(&key(9))], 1).unwrap().accept(&UnverifiedKeyList::sign(&payload, &[&key(9)]), &payload.tenant).unwrap()
}

pub(crate) fn block0() -> Block0 {
    let limit = Limit::AtMost { arg: "amount".parse().unwrap(), max: 50_000, unit: "EUR".parse().unwrap() };
    let capability = Capability::new("payments".parse().unwrap(), "transfer".parse().unwrap(), "acct/eu/*".parse().unwrap(), vec![limit]).unwrap();
    Block0 {
        tenant: "acme".parse().unwrap(),
        tid: Tid::from_bytes([1; 16]),
        ancestors: vec![Tid::from_bytes([2; 16])],
        delegation: DelegationId::from_bytes([3; 16]),
        human: HumanRef::Id(HumanId::from_bytes([4; 16])),
        agent: AgentId::from_bytes([5; 16]),
        holder: Key::of(&key(10)),
        possession: Possession::Proof,
        audiences: vec!["payments".parse().unwrap()],
        capabilities: vec![capability],
        class_max: DataClass::Restricted,
        not_before_secs: 1_000,
        expires_secs: 4_600,
        depth: 2,
        hops: Hops::Registered,
        freshness_ms: 150,
        generations: Generations::default(),
    }
}

pub(crate) fn link_to(n: u8, depth: u8) -> LinkClaims {
    let card = AgentCard { tenant: "acme".parse().unwrap(), agent: AgentId::from_bytes([n; 16]), holder: Key::of(&key(n)), generation: 0, expires_secs: 4_000 };
    LinkClaims { lid: Lid::from_bytes([n; 16]), holder: Key::of(&key(n)), depth, card: Some(card.sign(&key(2))), restrictions: vec![] }
}

#[test]
fn biscuit_auth_reads_and_verifies_what_we_write() {
    let minted = mint(&block0(), &key(1), [7; 32]).unwrap();
    let narrowed = UnverifiedToken::parse(&minted).unwrap().narrow(&[Restriction::Until(3_000)], [8; 32]).unwrap();
    let linked = UnverifiedToken::parse(&narrowed).unwrap().link(&link_to(11, 1), &key(10), [9; 32]).unwrap();
    let sealed = UnverifiedToken::parse(&linked).unwrap().seal();
    let root = biscuit_auth::PublicKey::from_bytes(Key::of(&key(1)).as_bytes(), biscuit_auth::Algorithm::Ed25519).unwrap();
    for (bytes, blocks) in [(&minted, 1), (&narrowed, 2), (&linked, 3), (&sealed, 3)] {
        assert_eq!(biscuit_auth::Biscuit::from(bytes, root).unwrap().block_count(), blocks);
        let token = UnverifiedToken::parse(bytes).unwrap().verify(&key_list()).unwrap();
        assert_eq!(token.holders().len(), if blocks == 3 { 2 } else { 1 });
    }
    println!("sizes: {} minted, {} narrowed, {} linked, {} sealed", minted.len(), narrowed.len(), linked.len(), sealed.len());
    // A byte more here is a hop less in an 8 KiB header.
    assert!(minted.len() <= 1_153 && narrowed.len() - minted.len() <= 150 && linked.len() - narrowed.len() <= 550);
}

/// The wire is Datalog: a stock library that is given our words as text writes our bytes.
#[test]
fn biscuit_auth_writes_the_same_block_from_the_text_of_the_spec() {
    let ours = mint(&block0(), &key(1), [7; 32]).unwrap();
    let proto = schema::Biscuit::decode(ours.as_slice()).unwrap();
    let root = biscuit_auth::PublicKey::from_bytes(Key::of(&key(1)).as_bytes(), biscuit_auth::Algorithm::Ed25519).unwrap();
    let text = biscuit_auth::Biscuit::from(&ours, root).unwrap().print_block_source(0).unwrap();
    let stock = biscuit_auth::Biscuit::builder()
        .code(&text)
        .unwrap()
        .build(&biscuit_auth::KeyPair::from(&biscuit_auth::PrivateKey::from_bytes(&[1; 32], biscuit_auth::Algorithm::Ed25519).unwrap()))
        .unwrap();
    let mut stock = schema::Block::decode(schema::Biscuit::decode(stock.to_vec().unwrap().as_slice()).unwrap().authority.block.as_slice()).unwrap();
    // biscuit-auth 6.0 does not count arrays among the features of Datalog 3.3; we say 3.3 always.
    stock.version = Some(6);
    assert_eq!(stock.encode_to_vec(), proto.authority.block, "{text}");
}

#[test]
fn one_changed_bit_anywhere_is_refused() {
    let minted = mint(&block0(), &key(1), [7; 32]).unwrap();
    let linked = UnverifiedToken::parse(&minted).unwrap().link(&link_to(11, 1), &key(10), [9; 32]).unwrap();
    let sealed = UnverifiedToken::parse(&linked).unwrap().seal();
    let keys = key_list();
    for at in 0..sealed.len() {
        let mut forged = sealed.clone();
        forged[at] ^= 1 << (at % 8);
        let accepted = UnverifiedToken::parse(&forged).is_ok_and(|t| t.verify(&keys).is_ok());
        assert!(!accepted, "bit {} of byte {at}", at % 8);
    }
    assert!(UnverifiedToken::parse(&sealed).unwrap().verify(&keys).is_ok());
}

#[test]
fn links_are_signed_by_the_holder_one_step_less_deep_and_carry_their_card() {
    let minted = UnverifiedToken::parse(&mint(&block0(), &key(1), [7; 32]).unwrap()).unwrap();
    let once = minted.link(&link_to(11, 1), &key(10), [8; 32]).unwrap();
    let twice = UnverifiedToken::parse(&once).unwrap().link(&link_to(12, 0), &key(11), [9; 32]).unwrap();
    assert!(UnverifiedToken::parse(&twice).unwrap().verify(&key_list()).is_ok());

    assert!(minted.link(&link_to(11, 1), &key(12), [8; 32]).is_err(), "signed by a stranger");
    assert!(minted.link(&link_to(11, 2), &key(10), [8; 32]).is_err(), "not one step less deep");
    assert!(minted.link(&LinkClaims { card: None, ..link_to(11, 1) }, &key(10), [8; 32]).is_err(), "without a card");
    assert!(minted.link(&LinkClaims { card: link_to(12, 1).card, ..link_to(11, 1) }, &key(10), [8; 32]).is_err(), "with another agent's card");
    assert!(minted.link(&link_to(10, 1), &key(10), [8; 32]).is_err(), "back to a holder of the chain");
    assert!(UnverifiedToken::parse(&twice).unwrap().link(&link_to(13, 0), &key(12), [9; 32]).is_err(), "deeper than the token allows");
}
