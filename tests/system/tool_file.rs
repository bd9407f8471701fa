//! A tool as the README has it: enrolled by the command line, started from its file, guarded by one layer.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use procura_sdk::caller::{Answered, ToolInstance};
use procura_sdk::guard::Guard;
use procura_sdk::layer::{ProcuraLayer, by_path};
use procura_verifier::ids::{Clock as _, SystemClock};

use super::support::{Authority, PATIENCE, beside_others, delegated, http, key, mint, path, procura, rng, text, wish};

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_starts_from_the_file_that_enrolment_writes() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let authority = Authority::start(&scratch.path().join("authority")).await;
    let data = at("authority");
    std::fs::copy(authority.trust_path(), at("trust.json")).unwrap();
    assert!(procura(&["keygen", "--out", &at("payments-1.key")]).await.status.success());

    let (key_file, trust, out) = (at("payments-1.key"), at("trust.json"), at("payments-1.json"));
    let enroll = ["verifiers", "enroll", "--audience", "payments/1", "--key", &key_file, "--trust", &trust, "--out", &out, "--data", &data];
    let enrolled = procura(&enroll).await;
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    // Its paths are names beside it: the folder can be moved to the tool's machine as it is.
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!((file["trust"].as_str(), file["key"].as_str()), (Some("trust.json"), Some("payments-1.key")));
    // Nothing is written over, and nothing enrolled for a file that cannot be written.
    let again = procura(&enroll).await;
    assert!(!again.status.success() && text(&again.stderr).contains("is there already"), "{}", text(&again.stderr));

    let guard = Guard::open(&out).unwrap();
    let app =
        Router::new().route("/{tenant}/{action}/{*resource}", post(async || "done")).layer(ProcuraLayer::new(guard, by_path("payments".parse().unwrap())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });

    let holder = key(&mut rng());
    let alice = authority.person("alice").await;
    let (bot, delegation) = delegated(&alice, "bot", &holder).await;
    let token = mint(&authority, &bot, delegation).await.seal().unwrap();
    let instance = ToolInstance::new(http(), format!("http://{address}"), "payments/1".parse().unwrap());
    let call = async |minor: i64| {
        let wish = wish("acme", "acct/eu/7", minor);
        instance.call(&path(&wish), &token, &holder, &wish, SystemClock.wall(), &mut rng()).await.unwrap()
    };
    let began = std::time::Instant::now();
    while !matches!(call(100).await, Answered::Done(_)) {
        assert!(began.elapsed() < PATIENCE, "the tool does not allow what it should");
    }
    assert!(matches!(call(6_000_000).await, Answered::Refused { .. }), "above the limit of the delegation");
}
