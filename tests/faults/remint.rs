//! Agents that re-mint in a loop while their human is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use procura_sdk::client::{ClientError, MintRequest};
use procura_verifier::ids::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::scene::Scene;
use crate::support::rng;

/// One answered mint.
struct Minted {
    tid: String,
    token: Vec<u8>,
    asked: u64,
}

/// Mints at every replica, kills the human over a replica's socket, and goes on minting. What was minted is for everybody to decide on.
pub async fn kill_while_minting(scene: &mut Scene, problems: &mut Vec<String>) {
    let (put, mut take) = mpsc::channel(1024);
    let (end, ended) = watch::channel(false);
    let refused = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for replica in 0..scene.site.all().len() {
        for _ in 0..AGENTS {
            let (agent, delegation) = scene.site.agent(replica);
            let (put, ended, refused) = (put.clone(), ended.clone(), Arc::clone(&refused));
            tasks.push(tokio::spawn(async move {
                while !*ended.borrow() {
                    let asked = SystemClock.boot().0;
                    match agent.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await {
                        Ok(held) => {
                            let (tid, token) = (held.claims().claimed().tid.to_string(), held.seal().unwrap().as_bytes().to_vec());
                            put.send(Minted { tid, token, asked }).await.unwrap();
                        }
                        Err(ClientError::Refused { status: 403 | 409, .. }) => _ = refused.fetch_add(1, Ordering::Relaxed),
                        Err(ClientError::Refused { status: 503, .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                    sleep(BETWEEN).await;
                }
            }));
        }
    }
    drop(put);
    let mut asked = Vec::new();
    for _ in 0..BEFORE {
        let minted: Minted = take.recv().await.expect("agents mint");
        asked.push(minted.asked);
        scene.canary(minted.tid, minted.token, false).await;
    }
    let human = scene.site.alice().human();
    let operator = scene.site.operator(0);
    let killing = tokio::spawn(async move {
        let body = json!({ "what": "human", "id": human, "reason": "faults" });
        let answer = operator.post("http://localhost/v1/revocations").json(&body).send().await.unwrap().error_for_status().unwrap();
        answer.json::<Value>().await.unwrap()["committed_us"].as_u64().expect("the moment of its COMMIT")
    });
    // Whatever is answered meanwhile and for some time afterwards.
    let until = Instant::now() + AFTERWARDS;
    while let Ok(Some(minted)) = timeout(until.saturating_duration_since(Instant::now()), take.recv()).await {
        asked.push(minted.asked);
        scene.canary(minted.tid, minted.token, false).await;
    }
    let committed = killing.await.unwrap();
    end.send_replace(true);
    for task in tasks {
        task.await.unwrap();
    }
    while let Some(minted) = take.recv().await {
        asked.push(minted.asked);
        scene.canary(minted.tid, minted.token, false).await;
    }
    let after = asked.iter().filter(|asked| **asked > committed).count();
    if after > 0 {
        problems.push(format!("{after} tokens minted on requests after the COMMIT of the kill"));
    }
    if refused.load(Ordering::Relaxed) == 0 {
        problems.push("no mint was refused: the agents had stopped before the kill".to_owned());
    }
    scene.all_revoked_at(committed);
}

const AGENTS: usize = 2;
const BETWEEN: Duration = Duration::from_millis(3);
const BEFORE: usize = 20;
const AFTERWARDS: Duration = Duration::from_millis(700);
