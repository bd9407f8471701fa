//! L5 possession.

use procura_verifier::claims::{Block0, Possession, Restriction};
use procura_verifier::ids::UtcMillis;
use procura_verifier::wire::Canonical as _;
use serde_json::value::RawValue;

use super::{Law, held, honest};
use crate::case::{Case, Request};
use crate::fixtures::{AGENT, ARGS, CallText, Held, NOW, NOW_SECS, STRANGER, SUB, block0, link_to, proof};

fn args(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// The honest request, changed after it was signed.
fn after_signing(change: impl FnOnce(&mut Request)) -> Case {
    let mut case = honest();
    change(&mut case.request);
    case
}

pub fn l5() -> Law {
    let mut law = Law::new("L5");
    law.pass("signed_by_the_holder", "the agent of block 0 signs the call", honest());
    law.fail("no_proof", "the token alone", after_signing(|r| r.proof = None), "holder");
    law.fail("proof_of_a_stranger", "somebody who saw the token signs", Case::of(held().seal(), STRANGER), "holder");

    let linked = held().link(&link_to(SUB, 1), AGENT);
    law.pass("signed_by_the_last_holder", "the sub-agent signs for the linked token", Case::of(linked.seal(), SUB));
    law.fail("first_holder_for_a_linked_token", "the agent that linked signs for the linked token", Case::of(linked.seal(), AGENT), "holder");
    law.fail("stripped_link", "the link is gone, the sub-agent signs", Case::of(held().seal(), SUB), "holder");

    law.fail("proof_for_other_arguments", "signed for 120.00, asked for 130.00", after_signing(|r| r.args = args(&ARGS.replace("12000", "13000"))), "holder");
    law.fail(
        "argument_added_after_signing",
        "an argument more than was signed",
        after_signing(|r| r.args = args(&ARGS.replace("{\"amount\"", "{\"memo\":null,\"amount\""))),
        "holder",
    );
    law.fail(
        "argument_dropped_after_signing",
        "an argument less than was signed",
        after_signing(|r| r.args = args(r#"{"amount":{"minor":12000,"unit":"EUR"}}"#)),
        "holder",
    );
    law.fail("proof_for_another_action", "signed for another action", signed_for(CallText { action: "refund", ..CallText::default() }), "holder");
    law.fail("proof_for_another_tool", "signed for another tool", signed_for(CallText { tool: "ledger", ..CallText::default() }), "holder");
    law.fail("proof_for_another_resource", "signed for another account", signed_for(CallText { resource: "acct/eu/8", ..CallText::default() }), "holder");
    law.fail(
        "proof_for_another_tenant",
        "signed for the same account of another tenant",
        signed_for(CallText { tenant: "globex", ..CallText::default() }),
        "holder",
    );
    law.fail(
        "proof_for_another_instance",
        "signed for the second instance, presented at the first",
        signed_for(CallText { audience: "payments/2", ..CallText::default() }),
        "audience",
    );
    let reordered = after_signing(|r| r.args = args(r#"{ "note": "invoice 7", "amount": { "unit": "EUR", "minor": 12000 } }"#));
    law.pass("arguments_in_another_order", "order and spaces of the JSON are not signed, names and values are", reordered);

    let mut other = honest();
    other.token = held().narrow(&[Restriction::Until(NOW_SECS + 60)]).seal();
    law.fail("proof_for_another_token", "signed for the token as minted, presented with it narrowed", other, "holder");

    let mut twice = honest();
    twice.request.times = 2;
    law.fail("the_same_proof_again", "a proof is spent once", twice, "replay");
    let mut other = honest();
    other.tool.challenge = [8; 16];
    law.fail("another_challenge", "the nonce does not start with the instance's challenge", other, "replay");
    let made_at = |ms: u64| {
        let mut case = honest();
        case.request.proof = Some(proof(&case.token, AGENT, CallText::default(), UtcMillis(ms)).to_bytes());
        case
    };
    law.pass("proof_30_s_old", "at the edge of the window", made_at(NOW.0 - 30_000));
    law.fail("proof_too_old", "30.001 s old", made_at(NOW.0 - 30_001), "replay");
    law.pass("proof_30_s_ahead", "at the other edge of the window", made_at(NOW.0 + 30_000));
    law.fail("proof_from_the_future", "30.001 s ahead of authority time", made_at(NOW.0 + 30_001), "replay");

    let bearer = Held::mint(&Block0 { possession: Possession::Bearer, depth: 0, ..block0() }).seal();
    let mut taken = Case::of(bearer.clone(), AGENT);
    taken.request.proof = None;
    law.fail("bearer_at_a_tool_that_takes_none", "block 0 says bearer, the tool does not", taken.clone(), "holder");
    taken.tool.bearer = true;
    law.pass("bearer", "block 0 says bearer and the tool takes it by name", taken);
    law.pass("bearer_with_a_proof", "a bearer token whose holder signs all the same", Case::of(bearer, AGENT));
    let mut proofless = after_signing(|r| r.proof = None);
    proofless.tool.bearer = true;
    law.fail("no_proof_at_a_tool_that_takes_bearers", "the tool takes bearers, block 0 is none", proofless, "holder");

    for (name, about, json) in [
        ("float", "a float", r#"{"amount":120.5}"#),
        ("integer_beyond_i64", "an integer beyond i64", r#"{"amount":9223372036854775808}"#),
        ("argument_twice", "one name, two values", r#"{"amount":1,"amount":2}"#),
        ("key_twice_inside", "one key twice inside a value", r#"{"amount":{"minor":1,"minor":900000,"unit":"EUR"}}"#),
        ("arguments_no_object", "a list of arguments", "[1,2]"),
        ("argument_named_in_capitals", "a name that is none", r#"{"Amount":1}"#),
        ("nested_nine_deep", "a value nested too deep", r#"{"a":[[[[[[[[1]]]]]]]]}"#),
    ] {
        law.fail(name, about, after_signing(|r| r.args = args(json)), "malformed");
    }
    let half = honest().request.proof.unwrap();
    law.fail("half_a_proof", "the proof is cut", after_signing(|r| r.proof = Some(half[..half.len() / 2].to_vec())), "malformed");
    let longer = [half, vec![0]].concat();
    law.fail("proof_with_a_byte_more", "something follows the proof", after_signing(|r| r.proof = Some(longer)), "malformed");
    law
}

/// The honest request with a proof for another call.
fn signed_for(call: CallText<'_>) -> Case {
    let mut case = honest();
    case.request.proof = Some(proof(&case.token, AGENT, call, UtcMillis(NOW.0 - 1_000)).to_bytes());
    case
}
