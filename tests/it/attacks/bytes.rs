//! Bytes from outside: every length, every bit, noise. Never a panic, never an allow.

use procura_tests::case::Case;
use procura_tests::fixtures::{AGENT, Held, SUB, block0, card, key, key_list, link_to, proof, signed};
use procura_tests::fixtures::{CARD, CallText, NOW, key_list_payload};
use procura_tests::random::rng;
use procura_verifier::call::Arguments;
use procura_verifier::card::SignedCard;
use procura_verifier::claims::Restriction;
use procura_verifier::key_list::UnverifiedKeyList;
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::token::{MAX_TOKEN_BYTES, UnverifiedToken};
use procura_verifier::wire::Canonical as _;
use rand::Rng as _;

fn linked() -> Vec<u8> {
    Held::mint(&block0()).narrow(&[Restriction::Until(NOW.secs() + 60)]).link(&link_to(SUB, 1), AGENT).seal()
}

fn passes(token: &[u8]) -> bool {
    UnverifiedToken::parse(token).is_ok_and(|t| t.verify(&key_list()).is_ok())
}

#[test]
fn a_token_cut_at_any_length_is_refused() {
    let token = linked();
    assert!(passes(&token));
    for length in 0..token.len() {
        assert!(UnverifiedToken::parse(&token[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_token_with_any_bit_changed_is_refused() {
    let token = linked();
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut changed = token.clone();
            changed[at] ^= 1 << bit;
            assert!(!passes(&changed), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_token_with_a_byte_more_or_less_anywhere_is_refused() {
    let token = linked();
    for at in 0..=token.len() {
        for byte in [0, 1, 0x7a, 0xff] {
            let mut longer = token.clone();
            longer.insert(at, byte);
            // A byte beside its equal gives the same token only if it is the token.
            assert!(!passes(&longer), "{byte:#x} before byte {at}");
        }
    }
    for at in 0..token.len() {
        let mut shorter = token.clone();
        shorter.remove(at);
        assert!(!passes(&shorter), "without byte {at}");
    }
}

#[test]
fn noise_is_refused_and_costs_little() {
    let mut r = rng(1);
    let token = linked();
    for _ in 0..20_000 {
        let mut noise = if r.random() { token.clone() } else { (0..r.random_range(0..600)).map(|_| r.random()).collect() };
        for _ in 0..r.random_range(1..8) {
            let at = r.random_range(0..=noise.len());
            match r.random_range(0..3) {
                0 => noise.truncate(at),
                1 => noise.splice(at..at, std::iter::repeat_n(r.random(), r.random_range(0..40))).for_each(drop),
                _ => noise.get_mut(at).into_iter().for_each(|b| *b = r.random()),
            }
        }
        assert!(noise == token || !passes(&noise));
    }
    let big = vec![0x0a; 16 * 1024 * 1024];
    assert!(UnverifiedToken::parse(&big).is_err());
    assert!(UnverifiedToken::parse(&big[..MAX_TOKEN_BYTES]).is_err());
}

#[test]
fn proofs_cards_key_lists_and_arguments_cut_at_any_length_are_refused() {
    let token = linked();
    let whole = proof(&token, SUB, CallText::default(), NOW).to_bytes();
    assert!(UnverifiedProof::from_bytes(&whole).is_ok());
    let card = card(SUB).sign(&key(CARD)).to_bytes();
    assert!(SignedCard::from_bytes(&card).is_ok());
    let list = signed(&key_list_payload());
    assert!(UnverifiedKeyList::from_bytes(&list).is_ok());
    let json = procura_tests::fixtures::ARGS.as_bytes();
    assert!(Arguments::from_json(json).is_ok());
    (0..whole.len()).for_each(|n| assert!(UnverifiedProof::from_bytes(&whole[..n]).is_err(), "{n} bytes of a proof"));
    (0..card.len()).for_each(|n| assert!(SignedCard::from_bytes(&card[..n]).is_err(), "{n} bytes of a card"));
    (0..list.len()).for_each(|n| assert!(UnverifiedKeyList::from_bytes(&list[..n]).is_err(), "{n} bytes of a key list"));
    (0..json.len()).for_each(|n| assert!(Arguments::from_json(&json[..n]).is_err(), "{n} bytes of arguments"));
}

/// One message, one form: a changed proof may read, and then its signature does not hold.
#[test]
fn a_proof_with_any_bit_changed_is_refused() {
    let honest = Case::of(linked(), SUB);
    assert!(honest.judge().is_ok());
    let proof = honest.request.proof.clone().unwrap();
    for at in 0..proof.len() {
        for bit in 0..8 {
            let mut case = honest.clone();
            case.request.proof.as_mut().unwrap()[at] ^= 1 << bit;
            assert!(case.judge().is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn arguments_of_any_shape_are_refused_within_bounds() {
    for json in ["[".repeat(30_000), "{\"a\":".repeat(8_000), "\"".to_owned() + &"x".repeat(40_000), format!("{{\"a\":\"{}\"}}", "x".repeat(33_000))] {
        assert!(Arguments::from_json(json.as_bytes()).is_err());
    }
    let many: Vec<String> = (0..65).map(|n| format!("\"a{n}\":1")).collect();
    assert!(Arguments::from_json(format!("{{{}}}", many.join(",")).as_bytes()).is_err());
    assert!(Arguments::from_json(format!("{{{}}}", many[1..].join(",")).as_bytes()).is_ok());
}
