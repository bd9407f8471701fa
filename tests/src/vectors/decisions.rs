//! L8 magnitude, L9 resources.

use procura_verifier::claims::{Block0, Capability, DataClass, Restriction};
use serde_json::value::RawValue;

use super::{Law, Stage, held, honest, presenting};
use crate::case::Case;
use crate::fixtures::{AGENT, Held, ROOT, at_least, at_most, block0, capability, one_of};
use crate::forge::{Forged, block0_of, source};

fn with(capabilities: Vec<Capability>) -> Case {
    presenting(Held::mint(&Block0 { capabilities, ..block0() }).seal())
}

fn args(case: Case, json: &str) -> Case {
    case.asking(AGENT, |r| r.args = RawValue::from_string(json.to_owned()).unwrap())
}

fn amount(case: Case, minor: i64, unit: &str) -> Case {
    args(case, &format!(r#"{{"amount":{{"minor":{minor},"unit":"{unit}"}}}}"#))
}

pub fn l8() -> Law {
    let mut law = Law::new("L8");
    law.pass("at_the_limit", "exactly 500.00 EUR", amount(honest(), 50_000, "EUR"));
    law.fail("above_the_limit", "500.01 EUR", amount(honest(), 50_001, "EUR"), "limit");
    law.pass("negative_under_an_upper_limit", "a lower limit is a limit of its own", amount(honest(), -1, "EUR"));
    law.fail("missing_argument", "no amount at all", args(honest(), r#"{"note":"invoice 7"}"#), "limit");
    law.fail("null_argument", "the amount is null", args(honest(), r#"{"amount":null}"#), "limit");
    law.fail("another_unit", "500.00 of another currency", amount(honest(), 50_000, "USD"), "limit");
    law.fail("no_unit", "a bare integer where euros are limited", args(honest(), r#"{"amount":100}"#), "limit");
    law.fail("text_for_a_number", "the amount as a text", args(honest(), r#"{"amount":"100"}"#), "limit");
    law.fail("list_for_a_number", "two amounts in a list", args(honest(), r#"{"amount":[{"minor":1,"unit":"EUR"}]}"#), "limit");
    law.fail("quantity_with_a_key_more", "an object that is no quantity", args(honest(), r#"{"amount":{"minor":1,"unit":"EUR","x":0}}"#), "limit");

    let between = || with(vec![capability("payments", "transfer", "acct/eu/*", vec![at_most("count", 10, ""), at_least("count", 2, "")])]);
    law.pass("count_within_both_bounds", "a bare count at the lower bound", args(between(), r#"{"count":2}"#));
    law.fail("count_below", "a bare count below the lower bound", args(between(), r#"{"count":1}"#), "limit");
    law.fail("count_with_a_unit", "a quantity where a bare count is limited", args(between(), r#"{"count":{"minor":5,"unit":"EUR"}}"#), "limit");
    let texts = || with(vec![capability("payments", "transfer", "acct/eu/*", vec![one_of("kind", &["refund", "wage"])])]);
    law.pass("one_of_the_texts", "a text on the list", args(texts(), r#"{"kind":"wage"}"#));
    law.fail("none_of_the_texts", "a text in capitals", args(texts(), r#"{"kind":"Wage"}"#), "limit");
    law.fail("number_for_a_text", "a number where texts are listed", args(texts(), r#"{"kind":1}"#), "limit");

    let two = vec![
        capability("payments", "transfer", "acct/eu/*", vec![at_most("amount", 50_000, "EUR")]),
        capability("payments", "transfer", "acct/us/*", vec![at_most("amount", 900_000, "EUR")]),
    ];
    law.pass(
        "each_capability_its_own_limit",
        "9000.00 on the account that allows it",
        amount(with(two.clone()), 900_000, "EUR").asking(AGENT, |r| r.resource = "acct/us/7".into()),
    );
    law.fail("limit_of_another_capability", "9000.00 on the account that allows 500.00", amount(with(two.clone()), 900_000, "EUR"), "limit");
    let crossed = source(&Held::mint(&Block0 { capabilities: two.clone(), ..block0() }).0, 0);
    let line = crossed.lines().find(|l| l.starts_with("check if tool(")).unwrap();
    let scopes = r#"check if tool("payments"), action("transfer"), resource($resource), $resource.starts_with(["acct"]);"#;
    let limits = r#"check if number("amount", $0, "EUR"), $0 <= 50000 or number("amount", $0, "EUR"), $0 <= 900000;"#;
    let crossed = block0_of(&crossed.replace(line, &format!("{scopes}\n{limits}")));
    law.forged(
        "limits_in_a_check_of_their_own",
        "scope and limits in two checks, so that any limit goes with any scope",
        Stage::Parse,
        presenting(Forged::root(crossed, ROOT).seal()),
        with(two),
    );

    let tight = || presenting(held().narrow(&[Restriction::Limit(at_most("amount", 10_000, "EUR"))]).seal());
    law.pass("narrowed_limit", "100.00 where the holder narrowed to 100.00", amount(tight(), 10_000, "EUR"));
    law.fail("above_the_narrowed_limit", "100.01", amount(tight(), 10_001, "EUR"), "limit");
    law.pass("highest_class_allowed", "data of the ceiling's class", honest().asking(AGENT, |r| r.data_class = DataClass::Confidential));
    law.fail("class_above_the_ceiling", "data above the ceiling", honest().asking(AGENT, |r| r.data_class = DataClass::Restricted), "limit");
    let public = presenting(held().narrow(&[Restriction::ClassMax(DataClass::Public)]).seal());
    law.fail("class_above_a_narrowed_ceiling", "internal data where the holder narrowed to public", public, "limit");
    law
}

pub fn l9() -> Law {
    let mut law = Law::new("L9");
    let on = |resource: &str| {
        let mut case = honest();
        case.request.resource = resource.into();
        if resource.parse::<procura_verifier::claims::Resource>().is_ok() {
            case.sign(AGENT);
        }
        case
    };
    law.pass("below_the_pattern", "acct/eu/* covers acct/eu/7", on("acct/eu/7"));
    law.pass("far_below_the_pattern", "and acct/eu/7/sub/1", on("acct/eu/7/sub/1"));
    law.fail("the_prefix_itself", "but not acct/eu", on("acct/eu"), "scope");
    law.fail("beside_the_pattern", "nor acct/us/7", on("acct/us/7"), "scope");
    law.fail("half_a_segment", "nor acct/europe/7", on("acct/europe/7"), "scope");
    for (name, about, resource) in [
        ("dot_dot", "a way up and out", "acct/eu/../us"),
        ("dot", "a segment that means nothing", "acct/eu/./7"),
        ("empty_segment", "two slashes", "acct/eu//7"),
        ("leading_slash", "a slash before", "/acct/eu/7"),
        ("trailing_slash", "a slash behind", "acct/eu/7/"),
        ("percent", "a percent sign", "acct/eu/%2e%2e/us"),
        ("capitals", "another case", "Acct/EU/7"),
        ("star", "a pattern for a resource", "acct/eu/*"),
        ("backslash", "another slash", r"acct/eu\..\us"),
        ("space", "a space", "acct/eu/7 "),
        ("nothing", "nothing", ""),
        ("not_ascii", "a letter that looks like another", "acct/\u{435}u/7"),
        ("nul", "a zero byte", "acct/eu/7\u{0}"),
        ("too_many_segments", "17 segments", "a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a"),
    ] {
        law.fail(name, about, on(resource), "malformed");
    }
    let pattern = |to: &str| {
        let text = source(&held().0, 0).replace(r#"["acct", "eu"]"#, to);
        presenting(Forged::root(block0_of(&text), ROOT).seal())
    };
    for (name, about, segments) in [
        ("pattern_with_dot_dot", "acct/eu/../* in block 0", r#"["acct", "eu", ".."]"#),
        ("pattern_with_an_empty_segment", "acct//* in block 0", r#"["acct", ""]"#),
        ("pattern_in_capitals", "acct/EU/* in block 0", r#"["acct", "EU"]"#),
        ("pattern_with_a_slash_inside", "one segment that looks like two", r#"["acct/eu"]"#),
        ("pattern_of_everything", "no segment at all", "[]"),
    ] {
        law.forged(name, about, Stage::Parse, pattern(segments), honest());
    }
    let exact = || presenting(Held::mint(&Block0 { capabilities: vec![capability("payments", "transfer", "acct/eu/7", vec![])], ..block0() }).seal());
    law.pass("exactly", "an exact pattern covers its resource", exact());
    law.fail("below_an_exact_pattern", "and nothing below", exact().asking(AGENT, |r| r.resource = "acct/eu/7/8".into()), "scope");
    law.fail("another_tool", "the same action of another tool", honest().asking(AGENT, |r| r.tool = "ledger".into()), "scope");
    law.fail("another_action", "another action of the same tool", honest().asking(AGENT, |r| r.action = "refund".into()), "scope");
    law
}
