//! The main job, as `procura demo --json` tells it.

use serde_json::Value;

use super::support::{alone, procura, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_comes_out_as_stated_and_says_so_in_one_json_document() {
    let _machine = alone().await;
    let ran = procura(&["demo", "--json"]).await;
    let said = text(&ran.stdout);
    let document: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("stdout is not one JSON document ({e}): {said}\n{}", text(&ran.stderr)));
    let steps = document["steps"].as_array().expect("steps");
    let wrong: Vec<_> = steps.iter().filter(|s| s["ok"] != true).collect();
    assert!(wrong.is_empty(), "not as stated: {wrong:#?}");
    assert!(steps.len() > 40, "{} steps", steps.len());
    assert_eq!(document["late_allows"].as_u64(), Some(0));
    let measured: Vec<f64> = document["commit_to_deny_ms"].as_array().expect("a list").iter().map(|ms| ms.as_f64().expect("a number")).collect();
    // Two revocations, three tools.
    assert_eq!(measured.len(), 6);
    assert!(measured.iter().all(|ms| *ms < 200.0), "{measured:?}");
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert_eq!(text(&ran.stderr), "", "a demo that went well has nothing to complain of");
}
