//! L3 narrow only, in one form; L10 unknown is no.

use biscuit_auth::format::schema::{self, op::Content as Op, term::Content as Term};
use procura_verifier::claims::Restriction;
use procura_verifier::ids::Tid;
use prost::Message as _;

use super::{Law, Stage, held, honest, presenting};
use crate::case::Case;
use crate::fixtures::{AGENT, Held, NOW_SECS, ROOT, STRANGER, at_most, block0, capability, key};
use crate::forge::{Forged, block0_of, edit, later_of, message, padded_varint, source, third_party_of};

/// Block 0 of this payload under the real root key.
fn root(payload: Vec<u8>) -> Case {
    presenting(Forged::root(payload, ROOT).seal())
}

/// Block 0 with these lines of Datalog added.
fn root_with(datalog: &str) -> Case {
    root(block0_of(&(source(&held().0, 0) + "\n" + datalog)))
}

/// Block 0 with one text of its Datalog replaced.
fn root_replaced(from: &str, to: &str) -> Case {
    let text = source(&held().0, 0);
    assert!(text.contains(from), "no `{from}` in {text}");
    root(block0_of(&text.replacen(from, to, 1)))
}

/// Block 0 with its protobuf changed.
fn root_edited(change: impl FnOnce(&mut schema::Block)) -> Case {
    root(edit(&Forged::of(&held().0).payload(0), change))
}

/// A later block of this Datalog, appended by the agent.
fn later(datalog: &str) -> Case {
    presenting(Forged::of(&held().0).append(later_of(&held().0, datalog)).seal())
}

fn until(secs: u64) -> Restriction {
    Restriction::Until(secs)
}

fn narrowed() -> Held {
    held().narrow(&[until(NOW_SECS + 60)])
}

/// The honest narrowing block with its protobuf changed.
fn later_edited(change: impl FnOnce(&mut schema::Block)) -> Case {
    presenting(Forged::of(&held().0).append(edit(&Forged::of(&narrowed().0).payload(1), change)).seal())
}

pub fn l3() -> Law {
    let mut law = Law::new("L3");
    let twin = || presenting(narrowed().seal());
    law.pass("narrowed_to_a_minute", "a block that ends the token earlier, inside its time", twin());
    law.fail("narrowed_life_is_over", "a block that ended the token a second ago", presenting(held().narrow(&[until(NOW_SECS - 1)]).seal()), "expired");
    let wider = vec![capability("payments", "transfer", "acct/*", vec![at_most("amount", 900_000, "EUR")])];
    let widened = presenting(held().narrow(&[until(NOW_SECS + 999_999), Restriction::Capabilities(wider)]).seal());
    law.pass("a_looser_block_changes_nothing", "a block that says more than block 0 is harmless", widened.clone());
    let beyond = widened.asking(AGENT, |r| r.resource = "acct/us/7".into());
    law.fail("a_looser_block_widens_nothing", "what only the looser block would allow", beyond, "scope");

    for (name, about, datalog) in [
        ("fact_in_a_later_block", "a holder adds a fact", r#"capability(9, "payments", "transfer", ["acct"], true)"#),
        ("tenant_in_a_later_block", "a holder adds another tenant", r#"tenant("globex")"#),
        ("time_in_a_later_block", "a holder says what time it is", "time(2030-01-01T00:00:01Z)"),
        ("holder_proof_in_a_later_block", "a holder says that a proof was given", &format!("holder_proof(hex:{})", hex::encode([7; 32]))),
        ("number_in_a_later_block", "a holder says what the amount is", r#"number("amount", 1, "EUR")"#),
        ("rule_in_a_later_block", "a rule that makes facts", r#"tool("payments") <- action($a)"#),
        ("reject_if_in_a_later_block", "another kind of check", r#"reject if tool("ledger")"#),
        ("check_all_in_a_later_block", "another kind of check", "check all time($time), $time < 2030-01-01T00:01:00Z"),
        (
            "trusting_in_a_later_block",
            "a scope of its own",
            &format!("check if time($time), $time < 2030-01-01T00:01:00Z trusting ed25519/{}", hex::encode(key(STRANGER).verifying_key().to_bytes())),
        ),
        ("or_over_time", "a second query under the check", "check if time($time), $time < 2030-01-01T00:01:00Z or true"),
        ("parentheses", "the same bound, in parentheses", "check if time($time), ($time < 2030-01-01T00:01:00Z)"),
        ("other_variable", "the same bound over another variable", "check if time($t), $t < 2030-01-01T00:01:00Z"),
        ("not_strictly", "another operator", "check if time($time), $time <= 2030-01-01T00:01:00Z"),
        ("holder_check_in_a_narrowing_block", "a check that only links carry", &format!("check if holder_proof(hex:{})", hex::encode([7; 32]))),
    ] {
        law.forged(name, about, Stage::Parse, later(datalog), twin());
    }
    for (name, about, datalog) in [
        ("time_in_block_0", "it would satisfy its own expiry check", "time(2030-01-01T00:00:01Z);"),
        (
            "holder_proof_in_block_0",
            "it would satisfy its own holder check",
            &format!("holder_proof(hex:{});", hex::encode(key(AGENT).verifying_key().to_bytes())),
        ),
        ("number_in_block_0", "it would satisfy a limit on a missing argument", r#"number("amount", 1, "EUR");"#),
        ("resource_in_block_0", "it would satisfy every scope", r#"resource(["acct", "eu", "7"]);"#),
        ("rule_in_block_0", "a rule that makes facts", r#"tool("payments") <- action($a);"#),
        (
            "capability_under_two_numbers",
            "a capability twice",
            &source(&held().0, 0).lines().find(|l| l.starts_with("capability(")).unwrap().replace("capability(0", "capability(1"),
        ),
        ("check_more_in_block_0", "a check that no fact asks for", r#"check if tool("payments");"#),
    ] {
        law.forged(name, about, Stage::Parse, root_with(datalog), honest());
    }

    let previous = later_edited(|b| b.scope.push(schema::Scope { content: Some(schema::scope::Content::ScopeType(1)) }));
    law.forged("trusting_previous_in_a_later_block", "a block that trusts earlier blocks", Stage::Parse, previous, twin());

    // The engine would run for seconds on less than a kilobyte of this (reference/biscuit.md).
    let facts: String = (0..20).map(|n| format!("n({n});")).collect();
    let join = format!("{facts}check if n($a), n($b), n($c), n($d), n($e), n($f), n($g), $a + $b + $c + $d + $e + $f + $g == 1000");
    law.forged("cross_join", "facts and a check that join to 20^7 rows", Stage::Parse, later(&join), twin());
    law.forged(
        "cross_join_over_ambient_facts",
        "without facts of its own",
        Stage::Parse,
        later("check if number($a, $x, $u), number($b, $y, $v), number($c, $z, $w), text($t, $q), $x + $y + $z == 7"),
        twin(),
    );
    let deep = |n: usize| format!("check if time($time), {}$time < 2030-01-01T00:01:00Z{}", "(".repeat(n), ")".repeat(n));
    law.forged("nested_parentheses", "90 pairs of parentheses in one expression", Stage::Parse, later(&deep(90)), twin());
    law.forged("nested_arrays", "an array 200 deep in a check", Stage::Parse, later_edited(|b| b.checks[0].queries[0].body[0].terms[0] = nested(200)), twin());
    let mut many = Forged::of(&held().0);
    for _ in 0..100 {
        many = many.append(edit(&Forged::of(&narrowed().0).payload(1), |b| b.symbols.clear()));
    }
    law.forged("a_hundred_blocks", "100 narrowing blocks", Stage::Parse, presenting(many.clone().seal()), twin());
    let mut sixteen = held();
    for _ in 0..16 {
        sixteen = sixteen.narrow(&[until(NOW_SECS + 60)]);
    }
    law.pass("sixteen_blocks", "as many as there may be", presenting(sixteen.seal()));
    let one_more = Forged::of(&sixteen.0).append(Forged::of(&sixteen.0).payload(16));
    law.forged("seventeen_blocks", "one more", Stage::Parse, presenting(one_more.seal()), presenting(sixteen.seal()));

    bytes(&mut law, &twin);
    signatures(&mut law, &twin);
    law
}

/// One meaning, one spelling.
fn bytes(law: &mut Law, twin: &dyn Fn() -> Case) {
    let sealed = held().seal();
    law.forged("unknown_field_appended", "field 15 after the envelope", Stage::Parse, presenting([sealed.as_slice(), &[0x7a, 0]].concat()), honest());
    let mut proto = Forged::of(&sealed).proto;
    proto.proof = schema::Proof::default();
    law.forged("no_proof_part", "neither secret nor seal", Stage::Parse, presenting(proto.encode_to_vec()), honest());
    // `version: 1` of block 0 is the last field of the authority message: tag 0x28, value 1.
    let authority = Forged::of(&sealed).proto.authority.encode_to_vec();
    assert_eq!(authority[authority.len() - 2..], [0x28, 1]);
    let padded = [&authority[..authority.len() - 1], &padded_varint(1)].concat();
    law.forged("non_minimal_varint", "the same number in one byte more", Stage::Parse, presenting(envelope(&sealed, &padded)), honest());
    let repeated = [authority.as_slice(), &[0x28, 1]].concat();
    law.forged("field_twice", "the same field again: the last one counts", Stage::Parse, presenting(envelope(&sealed, &repeated)), honest());

    law.forged(
        "unknown_field_in_block_0",
        "field 15 after the payload, signed",
        Stage::Parse,
        root([Forged::of(&held().0).payload(0).as_slice(), &[0x7a, 0]].concat()),
        honest(),
    );
    law.forged("facts_reordered", "expiry before holder, signed", Stage::Parse, root_edited(|b| b.facts.swap(2, 5)), honest());
    law.forged("fact_twice", "the tenant twice, signed", Stage::Parse, root_edited(|b| b.facts.insert(1, b.facts[1].clone())), honest());
    law.forged("check_missing", "no check for the capabilities", Stage::Parse, root_edited(|b| drop(b.checks.pop())), honest());
    law.forged("checks_reordered", "the same checks in another order", Stage::Parse, root_edited(|b| b.checks.swap(0, 1)), honest());
    law.forged(
        "check_ends_later_than_the_fact",
        "facts say 00:50, the check says 02:00",
        Stage::Parse,
        root_replaced("$time < 2030-01-01T00:50:00Z", "$time < 2030-01-01T02:00:00Z"),
        honest(),
    );
    law.forged(
        "check_allows_more_than_the_fact",
        "facts say 500.00, the check says 5000.00",
        Stage::Parse,
        root_replaced("$0 <= 50000", "$0 <= 500000"),
        honest(),
    );
    law.forged(
        "check_names_another_holder",
        "the fact names the agent, the check somebody else",
        Stage::Parse,
        root_replaced(
            &format!("holder_proof(hex:{}", hex::encode(key(AGENT).verifying_key().to_bytes())),
            &format!("holder_proof(hex:{}", hex::encode(key(STRANGER).verifying_key().to_bytes())),
        ),
        honest(),
    );

    law.forged("symbol_twice", "one word under two numbers", Stage::Parse, root_edited(|b| b.symbols.push(b.symbols[0].clone())), honest());
    law.forged("default_symbol_declared_again", "`time` under a number of its own", Stage::Parse, root_edited(|b| b.symbols.push("time".into())), honest());
    law.forged("symbol_unused", "a word that nothing says", Stage::Parse, root_edited(|b| b.symbols.push("spare".into())), honest());
    law.forged("symbols_reordered", "two words change places", Stage::Parse, root_edited(|b| b.symbols.swap(0, 1)), honest());
    law.forged("symbol_of_no_table", "a number beyond the table", Stage::Parse, root_edited(|b| b.facts[0].predicate.name = 5_000), honest());
    law.forged(
        "symbol_between_the_tables",
        "a number between default and own symbols",
        Stage::Parse,
        root_edited(|b| b.facts[0].predicate.name = 500),
        honest(),
    );
    law.forged(
        "symbol_shadowed_in_a_later_block",
        "a word of block 0 declared again",
        Stage::Parse,
        later_edited(|b| b.symbols.push("procura".into())),
        twin(),
    );

    law.forged("context_present", "a free text in the block", Stage::Parse, root_edited(|b| b.context = Some("hello".into())), honest());
    law.forged(
        "public_keys_present",
        "a key table in the block",
        Stage::Parse,
        root_edited(|b| b.public_keys.push(schema::PublicKey { algorithm: 0, key: vec![7; 32] })),
        honest(),
    );
    law.forged(
        "scope_present",
        "a block that trusts earlier blocks",
        Stage::Parse,
        root_edited(|b| b.scope.push(schema::Scope { content: Some(schema::scope::Content::ScopeType(1)) })),
        honest(),
    );
    law.forged(
        "query_with_a_scope",
        "a query that trusts earlier blocks",
        Stage::Parse,
        root_edited(|b| b.checks[1].queries[0].scope.push(schema::Scope { content: Some(schema::scope::Content::ScopeType(1)) })),
        honest(),
    );
    law.forged("check_kind_spelled_out", "`check if` written as a number", Stage::Parse, root_edited(|b| b.checks[0].kind = Some(0)), honest());
    law.forged("datalog_3_2", "another version of Datalog", Stage::Parse, root_edited(|b| b.version = Some(5)), honest());
    law.forged("datalog_unsaid", "no version of Datalog", Stage::Parse, root_edited(|b| b.version = None), honest());
    law.forged(
        "foreign_function",
        "a call out of the engine",
        Stage::Parse,
        later_edited(|b| {
            let call = schema::OpBinary { kind: schema::op_binary::Kind::LessThan as i32, ffi_name: Some(1_024) };
            b.checks[0].queries[0].expressions[0].ops[2].content = Some(Op::Binary(call));
        }),
        twin(),
    );
    law.forged(
        "closure",
        "a closure in an expression",
        Stage::Parse,
        later_edited(|b| {
            b.checks[0].queries[0].expressions[0].ops[0].content = Some(Op::Closure(schema::OpClosure { params: vec![], ops: vec![] }));
        }),
        twin(),
    );
    law.forged(
        "empty_narrowing_block",
        "a block that says nothing",
        Stage::Parse,
        later_edited(|b| {
            b.checks.clear();
            b.symbols.clear();
        }),
        twin(),
    );
    law.forged("oversize", "5 KiB and one byte", Stage::Parse, presenting([sealed.as_slice(), &vec![0; 5 * 1024 + 1 - sealed.len()]].concat()), honest());
    law.forged("empty", "no bytes at all", Stage::Parse, presenting(vec![]), honest());
    law.forged("first_half", "cut in the middle", Stage::Parse, presenting(sealed[..sealed.len() / 2].to_vec()), honest());
}

/// Every block is bound to the one before it; a sealed token cannot grow.
fn signatures(law: &mut Law, twin: &dyn Fn() -> Case) {
    let mut forged = Forged::of(&held().0);
    forged.proto.authority.version = None;
    forged.proto.authority.signature = ed25519_dalek::Signer::sign(&key(ROOT), &message(&forged.proto.authority, None)).to_bytes().to_vec();
    law.forged("signature_version_0_of_block_0", "the root key signs without binding", Stage::Parse, presenting(forged.seal()), honest());
    let mut forged = Forged::of(&narrowed().0);
    forged.proto.blocks[0].version = Some(0);
    forged.proto.blocks[0].signature = ed25519_dalek::Signer::sign(&key(200), &message(&forged.proto.blocks[0], None)).to_bytes().to_vec();
    law.forged("signature_version_0_of_a_later_block", "such a block fits under any block before it", Stage::Parse, presenting(forged.seal()), twin());
    let mut forged = Forged::of(&held().0);
    forged.proto.authority.next_key = schema::PublicKey { algorithm: 1, key: vec![2; 33] };
    law.forged("p256_next_key", "a next key whose signatures have two forms", Stage::Parse, presenting(forged.open()), honest());

    // Two branches of one token: the second is narrower in its first block. Its second block moves to the first branch.
    let branch = |secs| held().narrow(&[until(secs)]);
    let (wide, slim) = (branch(NOW_SECS + 600), branch(NOW_SECS + 60).narrow(&[until(NOW_SECS + 30)]));
    let mut moved = Forged::of(&slim.0);
    moved.proto.blocks[0] = Forged::of(&wide.0).proto.blocks[0].clone();
    law.forged(
        "block_of_another_branch",
        "the last block of one branch after the first of another",
        Stage::Signature,
        presenting(moved.seal()),
        presenting(slim.seal()),
    );
    let other = Held::mint(&procura_verifier::claims::Block0 { tid: Tid::from_bytes([9; 16]), ..block0() });
    let mut moved = Forged::of(&narrowed().0);
    moved.proto.authority = Forged::of(&other.0).proto.authority.clone();
    law.forged("block_of_another_token", "a narrowing block under another block 0 with the same next key", Stage::Signature, presenting(moved.seal()), twin());
    let mut dropped = Forged::of(&slim.0);
    dropped.proto.blocks.remove(0);
    law.forged("block_dropped", "the first narrowing block is gone", Stage::Signature, presenting(dropped.seal()), presenting(slim.seal()));

    let mut stripped = Forged::of(&narrowed().seal());
    stripped.proto.blocks.clear();
    law.forged(
        "last_block_dropped_from_a_sealed_token",
        "a tool drops the narrowing block, seal as it was",
        Stage::Signature,
        presenting(stripped.open()),
        twin(),
    );
    let mut unsealed = Forged::of(&held().seal());
    unsealed.proto.proof.content = Some(schema::proof::Content::NextSecret(vec![STRANGER; 32]));
    law.forged("seal_replaced_by_a_secret", "a tool puts a secret of its own for the seal", Stage::Signature, presenting(unsealed.open()), honest());
    let mut appended = Forged::of(&held().seal());
    appended.next = vec![Some(key(STRANGER))];
    let appended = appended.append(Forged::of(&narrowed().0).payload(1));
    law.forged(
        "block_appended_by_a_tool",
        "a tool appends to a sealed token with a key of its own, and seals",
        Stage::Signature,
        presenting(appended.seal()),
        twin(),
    );
    let mut zero = Forged::of(&held().seal());
    zero.proto.proof.content = Some(schema::proof::Content::FinalSignature(vec![0; 64]));
    law.forged("seal_of_zeros", "a seal of 64 zero bytes", Stage::Signature, presenting(zero.open()), honest());
    let small = |mut forged: Forged| {
        // The neutral element as a key: a lax verifier accepts (R = neutral, s = 0) over any message.
        let mut neutral = vec![0; 32];
        neutral[0] = 1;
        forged.proto.authority.next_key.key.clone_from(&neutral);
        forged.proto.authority.signature = ed25519_dalek::Signer::sign(&key(ROOT), &message(&forged.proto.authority, None)).to_bytes().to_vec();
        forged.proto.proof.content = Some(schema::proof::Content::FinalSignature([neutral, vec![0; 32]].concat()));
        forged
    };
    law.forged(
        "small_order_next_key",
        "a next key under which everybody can sign",
        Stage::Signature,
        presenting(small(Forged::of(&held().0)).open()),
        honest(),
    );
    law.fail("unsealed", "whoever sees it could extend it", presenting(held().0), "malformed");
    let mut unsealed = presenting(held().0);
    unsealed.tool.unsealed = true;
    law.pass("unsealed_where_the_tool_takes_it", "the tool takes unsealed tokens by name", unsealed);
}

pub fn l10() -> Law {
    let mut law = Law::new("L10");
    law.pass("known_words_only", "everything said is known", honest());
    law.forged("another_version", "vocabulary version 2", Stage::Parse, root_replaced("procura(1)", "procura(2)"), honest());
    law.forged("unknown_fact", "a fact of a later version", Stage::Parse, root_with(r#"budget("b1", 1000);"#), honest());
    law.forged("singleton_twice", "two tenants", Stage::Parse, root_replaced(r#"tenant("acme");"#, "tenant(\"acme\");\ntenant(\"globex\");"), honest());
    law.forged("unknown_hops", "a word that links know nothing of", Stage::Parse, root_replaced(r#""registered""#, r#""anyone""#), honest());
    law.forged("unknown_limit", "a limit of a later version", Stage::Parse, root_replaced(r#""at_most""#, r#""below""#), honest());
    law.forged("unknown_data_class", "a class above the highest", Stage::Parse, root_replaced("class_max(2)", "class_max(4)"), honest());
    law.forged("fact_with_a_term_more", "a known fact, longer", Stage::Parse, root_replaced("fresh_ms(150)", "fresh_ms(150, 1)"), honest());
    law.forged("fact_with_another_type", "a number where bytes must be", Stage::Parse, root_replaced("generations(0,", "generations(\"0\","), honest());
    law.forged("negative_generation", "a generation below nothing", Stage::Parse, root_replaced("generations(0,", "generations(-1,"), honest());
    law.forged("freshness_of_a_day", "a bound longer than any token may carry", Stage::Parse, root_replaced("fresh_ms(150)", "fresh_ms(86400000)"), honest());
    let narrowed = || presenting(narrowed().seal());
    law.forged("unknown_block_kind", "a block that asks for an approval", Stage::Parse, later(r#"check if approved("transfer")"#), narrowed());
    let foreign = third_party_of(r#"approval("transfer")"#);
    law.forged(
        "unknown_third_party_block",
        "a third-party block that is no link",
        Stage::Parse,
        presenting(Forged::of(&held().0).link(foreign, AGENT).seal()),
        honest(),
    );
    let mut unknown = honest();
    unknown.request.proof.as_mut().unwrap()[1] = 2;
    law.fail("proof_of_another_version", "version 2 of the proof", unknown, "malformed");
    law
}

/// `[[…[1]…]]`.
fn nested(depth: usize) -> schema::Term {
    let mut term = schema::Term { content: Some(Term::Integer(1)) };
    for _ in 0..depth {
        term = schema::Term { content: Some(Term::Array(schema::Array { array: vec![term] })) };
    }
    term
}

/// The token with other bytes for its authority block.
fn envelope(token: &[u8], authority: &[u8]) -> Vec<u8> {
    let mut proto = Forged::of(token).proto;
    let before = schema::Biscuit { authority: schema::SignedBlock::default(), ..proto.clone() }.encode_to_vec();
    proto.root_key_id = None;
    let empty = schema::Biscuit { authority: schema::SignedBlock::default(), ..proto }.encode_to_vec();
    let hint = &before[..before.len() - empty.len()];
    // An empty authority still has its own header; what follows it is the rest of the envelope.
    let empty_authority = schema::SignedBlock::default().encode_to_vec();
    let rest = &empty[2 + empty_authority.len()..];
    let length = u64::try_from(authority.len()).unwrap();
    let mut out = [hint, &[0x12]].concat();
    prost::encoding::encode_varint(length, &mut out);
    [out.as_slice(), authority, rest].concat()
}
