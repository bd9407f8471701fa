//! Sessions outlive the process, and nothing else does: kill -9, a start on the same folder, and the same secrets.

use procura_authority::demo::people::Person;
use serde_json::json;

use super::support::raw::Request;
use super::support::{Authority, beside_others};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_a_kill_of_the_process_and_a_killed_humans_does_not() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut authority = Authority::start(&scratch.path().join("authority")).await;
    let address = authority.address().to_owned();
    let (alice, bob, sam) = (authority.person("alice").await, authority.person("bob").await, authority.person("sam").await);
    let gone = authority.person("bob").await;
    let out = Request::new("POST", "/logout").session(&gone.session().session).send(authority.address()).await.unwrap();
    assert_eq!(out.status, 204);
    assert_eq!(sam.revoke("human", &bob.human(), "drill").await.unwrap().map(drop), Ok(()));

    authority.kill().await;
    authority = Authority::start_at(&authority.data.clone(), &address).await;
    let me = async |who: &Person| authority.get_as(who, "/v1/me").await.0;
    assert_eq!((me(&alice).await, me(&sam).await), (200, 200), "as if nothing had happened");
    assert_eq!((me(&bob).await, me(&gone).await), (401, 401), "killed, and signed out");
    let again = authority.person("bob").await;
    assert_eq!((me(&again).await, again.human()), (200, bob.human()));
    assert!(alice.post("/v1/agents/challenges", &json!({})).await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_signs_nobody_out() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::start(&scratch.path().join("authority")).await;
    let alice = authority.person("alice").await;
    let cookie = format!("procura_dev={}", alice.session().session);
    let logout = || Request::new("POST", "/logout").header("cookie", &cookie);
    for origin in ["null", "https://evil.example", &format!("{}/", authority.url)] {
        assert_eq!(logout().header("origin", origin).send(authority.address()).await.unwrap().status, 403, "{origin}");
    }
    assert_eq!(logout().send(authority.address()).await.unwrap().status, 403, "no origin");
    assert_eq!(Request::new("POST", "/logout").send(authority.address()).await.unwrap().status, 403, "no cookie: the answer would take it away");
    assert_eq!(authority.get_as(&alice, "/v1/me").await.0, 200);
    assert_eq!(logout().header("origin", &authority.url).send(authority.address()).await.unwrap().status, 204);
    assert_eq!(authority.get_as(&alice, "/v1/me").await.0, 401);
}
