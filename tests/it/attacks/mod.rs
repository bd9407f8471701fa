//! Forged tokens, made with raw Biscuit builders and raw signatures by a forger who holds the real root key or a real
//! holder's key where such an attacker would. Each is stopped by its law, before any Datalog, beside a twin that passes.
//!
//! The forgeries themselves are vectors (`tests/src/vectors`); here they are held to *where* they are stopped.

mod bytes;
mod engine;

use procura_tests::case::{Case, Expect};
use procura_tests::vectors::{Stage, all};
use procura_verifier::token::UnverifiedToken;

/// How far a token gets.
fn stage(case: &Case) -> Stage {
    match UnverifiedToken::parse(&case.token) {
        Err(_) => Stage::Parse,
        Ok(token) if token.verify(&case.key_list()).is_err() => Stage::Signature,
        Ok(_) => Stage::Decision,
    }
}

#[test]
fn every_forged_token_is_stopped_in_its_stage_and_its_twin_passes() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in all() {
        let Some((expected, twin)) = &entry.forged else { continue };
        count += 1;
        let reached = stage(&entry.case);
        if reached != *expected {
            wrong.push(format!("{}: stopped at {reached:?}, expected {expected:?}", entry.name));
        }
        if let Err(cause) = twin.judge() {
            wrong.push(format!("{}: its twin is refused: {cause}", entry.name));
        }
        if twin.token == entry.case.token {
            wrong.push(format!("{}: the forged token is the honest one", entry.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 100, "only {count} forged tokens");
}

/// The issue's list, each by the name of its vector: none of them may quietly go.
#[test]
fn the_forgeries_that_the_issue_names_are_there() {
    let names: Vec<String> = all().into_iter().filter(|e| !e.case.expect.is_allow()).map(|e| e.name).collect();
    for name in [
        "L3/fact_in_a_later_block",
        "L3/time_in_block_0",
        "L3/holder_proof_in_a_later_block",
        "L3/number_in_a_later_block",
        "L3/rule_in_block_0",
        "L3/cross_join",
        "L3/a_hundred_blocks",
        "L3/nested_parentheses",
        "L3/nested_arrays",
        "L4/signed_by_a_stranger",
        "L1/p256_root",
        "L3/p256_next_key",
        "L1/root_key_id_swapped",
        "L1/root_key_id_stripped",
        "L3/signature_version_0_of_block_0",
        "L3/block_of_another_branch",
        "L3/block_of_another_token",
        "L4/no_card",
        "L4/card_of_another_agent",
        "L4/card_expired",
        "L4/card_signed_by_the_agent",
        "L6/link_wrapped_again",
        "L5/stripped_link",
        "L3/block_appended_by_a_tool",
        "L6/generation_from_the_future",
        "L6/generation_still_above_after_a_pull",
        "L1/root_key_of_another_tenant",
        "L1/expiry_beyond_the_root_key",
        "L9/dot_dot",
        "L8/limit_of_another_capability",
        "L8/limits_in_a_check_of_their_own",
        "L2/unlimited_not_said",
        "L2/nine_ancestors",
        "L2/ttl_above_the_maximum",
        "L4/back_to_a_holder",
        "L4/depth_exceeded",
        "L4/bearer_with_a_link",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is gone");
    }
}

/// A forgery that a stock library would take shows that the profile, not luck, refuses it.
#[test]
fn a_stock_library_would_take_many_of_them() {
    let taken: Vec<String> = all()
        .into_iter()
        .filter(|e| matches!(e.forged, Some((Stage::Parse, _))) && e.case.expect == Expect::refused("malformed"))
        .filter(|e| biscuit_auth::Biscuit::from(&e.case.token, procura_tests::stock::root()).is_ok())
        .map(|e| e.name)
        .collect();
    for name in [
        "L3/time_in_block_0",
        "L3/unknown_field_appended",
        "L3/cross_join",
        "L3/signature_version_0_of_block_0",
        "L4/no_card",
        "L8/limits_in_a_check_of_their_own",
    ] {
        assert!(taken.iter().any(|n| n == name), "a stock library refuses {name} already: the forgery proves nothing");
    }
    assert!(taken.len() >= 60, "only {} forgeries verify at all: {taken:?}", taken.len());
}
