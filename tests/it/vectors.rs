//! The runner of `spec/vectors`: it reads what lies there, not what the generator means.

use std::collections::BTreeMap;

use procura_tests::case::Case;
use procura_tests::vectors::feed::FeedVector;
use procura_tests::vectors::{all, files, found};

const LAWS: [&str; 11] = ["L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "L11"];

#[test]
fn every_vector_comes_out_as_it_says() {
    let mut laws: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, text) in found().into_iter().filter(|(name, _)| !name.starts_with("feed/")) {
        let case: Case = match serde_json::from_str(&text) {
            Ok(case) => case,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        if name.split_once('/').map(|(law, _)| law) != Some(case.law.as_str()) || !name.ends_with(".json") {
            wrong.push(format!("{name} lies outside the folder of its law {}", case.law));
        }
        let (passing, failing) = laws.entry(case.law.clone()).or_default();
        *if case.expect.is_allow() { passing } else { failing } += 1;
        if let Err(difference) = case.check() {
            wrong.push(format!("{name}: {difference}"));
        }
    }
    for law in LAWS {
        let (passing, failing) = laws.remove(law).unwrap_or_default();
        if passing == 0 || failing == 0 {
            wrong.push(format!("{law} has {passing} passing and {failing} failing vectors, expected at least one of each"));
        }
    }
    wrong.extend(laws.into_keys().map(|law| format!("there is no law {law}")));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Messages, segments and statements of the feed: read as they say, refused by the word. Histories: the watermark, and no alarm or this one.
#[test]
fn every_feed_vector_comes_out_as_it_says() {
    let mut rules: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, text) in found().into_iter().filter(|(name, _)| name.starts_with("feed/")) {
        let case: FeedVector = match serde_json::from_str(&text) {
            Ok(case) => case,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        if !name.starts_with(&format!("feed/{}/", case.rule())) || !name.ends_with(".json") {
            wrong.push(format!("{name} lies outside the folder of its rule {}", case.rule()));
        }
        let (taken, refused) = rules.entry(case.rule().to_owned()).or_default();
        *if case.is_taken() { taken } else { refused } += 1;
        if let Err(difference) = case.check() {
            wrong.push(format!("{name}: {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(rules.keys().collect::<Vec<_>>(), ["A1", "A3", "F1", "F16", "F22", "F3", "F6", "F9"]);
    assert!(rules.values().all(|(taken, refused)| *taken > 0 && *refused > 0), "{rules:?}: each rule has both");
}

/// Law 6 is written twice: with indexes in the verifier, as plain lists here.
#[test]
fn two_views_say_the_same_of_every_vector() {
    let mut compared = 0;
    for entry in all() {
        if let Some([view, plain]) = entry.case.lookups() {
            assert_eq!(view, plain, "{}", entry.name);
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} tokens were looked up");
}

#[test]
fn the_folder_is_what_the_generator_writes() {
    let (wanted, found) = (files(), found());
    assert!(wanted.keys().eq(found.keys()), "run `cargo run -p procura-tests --bin vectors`");
    for (name, text) in wanted {
        assert_eq!(found[&name], text, "{name}: run `cargo run -p procura-tests --bin vectors`; a changed byte is a protocol change");
    }
}

#[test]
fn a_vector_with_an_unknown_or_missing_field_is_refused() {
    let text = files().remove("L1/signed_by_the_root_key.json").unwrap();
    assert!(serde_json::from_str::<Case>(&text).is_ok());
    let unknown = text.replacen("\"law\"", "\"note\": \"\",\n  \"law\"", 1);
    assert!(serde_json::from_str::<Case>(&unknown).is_err());
    let inside = text.replacen("\"audience\"", "\"spare\": 0,\n    \"audience\"", 1);
    assert!(serde_json::from_str::<Case>(&inside).is_err());
    let missing = text.replacen("\"about\"", "\"regarding\"", 1);
    assert!(serde_json::from_str::<Case>(&missing).is_err());
    let both = text.replacen("\"allowed\": true", "\"allowed\": true,\n    \"refused\": \"scope\"", 1);
    assert!(serde_json::from_str::<Case>(&both).is_err());
}

#[test]
fn spec_token_md_cites_only_vectors_that_exist() {
    let spec = std::fs::read_to_string(procura_tests::vectors::folder().join("../token.md")).unwrap();
    let found = found();
    let cited: Vec<_> = spec.split('`').filter(|w| w.starts_with('L') && w.contains('/')).collect();
    assert!(cited.len() >= LAWS.len(), "each law cites a vector");
    for name in cited {
        assert!(found.contains_key(&format!("{name}.json")), "spec/token.md cites `{name}`, which is not there");
    }
    for law in LAWS {
        assert!(spec.contains(&format!("`vectors/{law}/`")), "spec/token.md does not name the folder of {law}");
    }
}
