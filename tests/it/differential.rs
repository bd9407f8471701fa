//! The native decision beside the stock Biscuit library, on the same tokens and calls: the Datalog in a token means what we say it means.

use std::collections::BTreeMap;
use std::sync::Arc;

use procura_tests::case::{At, Known, KnownView, boot};
use procura_tests::fixtures::{CHALLENGE, STRANGER, key, key_list, public};
use procura_tests::random::{Asked, Token, asked, rng, token};
use procura_tests::stock;
use procura_verifier::call::Seed;
use procura_verifier::decision::{Asked as Presented, Cause, Decision, ToolPolicy, decide, in_time, within};
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::token::{UnverifiedToken, VerifiedToken};

const TOKENS: usize = 700;
const CALLS: usize = 9;

/// The native decision, with a fresh view in which nothing is revoked.
fn native(verified: &VerifiedToken, asked: &Asked, signer: u8) -> Result<(), Cause> {
    let call = asked.call();
    let proof = UnverifiedProof::sign(&key(signer), verified.hash(), &call, asked.now, &CHALLENGE, [1; 16], Seed::from_bytes([2; 32]));
    // Whoever signed is shown as the signer: that it is not the last holder is for the decision to say.
    let proof = proof.verify(&public(signer), verified.hash(), &call).unwrap();
    let known = Known { fresh_as_of: Some(asked.now), ..Known::fresh() };
    let view = KnownView { known: &known, service: asked.audience.service(), keys: Arc::new(key_list()), utc: asked.now };
    match decide(verified, Presented::Proven(proof.proven()), &ToolPolicy::STRICT, &view, &At(asked.now), boot(asked.now)) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(cause) => Err(cause),
    }
}

/// Who signed each link and the call: the ambient `holder_proof` facts.
fn signers(token: &Token, asked: &Asked) -> (u8, Vec<procura_verifier::ids::Key>) {
    let (last, before) = token.holders.split_last().unwrap();
    let signer = if asked.signed_by_last { *last } else { STRANGER };
    (signer, before.iter().chain([&signer]).map(|n| public(*n)).collect())
}

#[test]
fn the_stock_library_comes_to_the_same_verdict() {
    let mut r = rng(5);
    let (mut allows, mut denies) = (0_usize, 0_usize);
    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..TOKENS {
        let token = token(&mut r);
        let sealed = token.held.seal();
        let verified = UnverifiedToken::parse(&sealed).unwrap().verify(&key_list()).unwrap();
        let stock_token = stock::read(&sealed);
        for _ in 0..CALLS {
            let asked = asked(&mut r, &token);
            let (signer, holders) = signers(&token, &asked);
            let ours = native(&verified, &asked, signer);
            let theirs = stock::judge(&stock_token, &stock::ambient(&asked.call(), asked.now, &holders));
            assert_eq!(ours.is_ok(), theirs == stock::Failed::default(), "{ours:?} beside {theirs:?}: {asked:?}\n{}", stock_token.print());
            // Not the verdict alone: each kind of check fails natively exactly where its Datalog fails.
            assert_eq!(theirs.time, in_time(&verified, asked.now).is_err(), "{asked:?}\n{}", stock_token.print());
            assert_eq!(theirs.within, within(&verified, &asked.call()).is_err(), "{asked:?}\n{}", stock_token.print());
            assert_eq!(theirs.tenant, asked.tenant != token.block0.tenant);
            assert_eq!(theirs.holder, !asked.signed_by_last);
            *if ours.is_ok() { &mut allows } else { &mut denies } += 1;
            *causes.entry(ours.err().map_or("allowed", Cause::word)).or_default() += 1;
        }
    }
    let total = allows + denies;
    println!("{total} comparisons, {allows} allows: {causes:?}");
    assert!(total >= 5_000);
    assert!((40..=60).contains(&(allows * 100 / total)), "{allows} allows of {total}: out of balance");
    for cause in ["tenant", "audience", "holder", "not_yet_valid", "expired", "scope", "limit"] {
        assert!(causes.get(cause).is_some_and(|n| *n >= 30), "`{cause}` hardly occurred: {causes:?}");
    }
}

/// No check is vacuous: take one kind of ambient fact away and what was allowed is refused.
#[test]
fn the_stock_library_denies_without_any_one_of_the_ambient_facts() {
    let mut r = rng(6);
    let mut missed: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..150 {
        let token = token(&mut r);
        let stock_token = stock::read(&token.held.seal());
        let asked = asked(&mut r, &token);
        let facts = stock::ambient(&asked.call(), asked.now, &signers(&token, &asked).1);
        if !stock::allows(&stock_token, &facts) {
            continue;
        }
        for kind in ["time", "at_tenant", "at_service", "tool", "action", "resource", "data_class", "holder_proof"] {
            let fewer: Vec<_> = facts.iter().filter(|f| !f.to_string().starts_with(&format!("{kind}("))).cloned().collect();
            assert!(!stock::allows(&stock_token, &fewer), "allowed without `{kind}`:\n{}", stock_token.print());
            *missed.entry(kind).or_default() += 1;
        }
        assert!(!stock::allows(&stock_token, &[]));
    }
    assert!(missed.values().all(|n| *n >= 40), "{missed:?}");
}

/// The same of `number` and `text`, which only limits ask for.
#[test]
fn the_stock_library_denies_a_limited_call_without_its_arguments() {
    let mut r = rng(7);
    let mut compared = 0;
    for _ in 0..200 {
        let token = token(&mut r);
        let sealed = token.held.seal();
        let (verified, stock_token) = (UnverifiedToken::parse(&sealed).unwrap().verify(&key_list()).unwrap(), stock::read(&sealed));
        let mut asked = asked(&mut r, &token);
        let before = within(&verified, &asked.call());
        asked.args = procura_verifier::call::Arguments::default();
        let after = within(&verified, &asked.call());
        let theirs = stock::judge(&stock_token, &stock::ambient(&asked.call(), asked.now, &signers(&token, &asked).1));
        assert_eq!(theirs.within, after.is_err());
        compared += usize::from(before.is_ok() && after.is_err());
    }
    assert!(compared >= 30, "only {compared} calls depended on their arguments");
}
