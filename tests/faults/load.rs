//! Work at the replicas while a fault goes on: agents that mint, their tokens taken back, holder keys revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use procura_sdk::client::MintRequest;
use procura_verifier::ids::Key;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::site::Site;
use crate::support::{PATIENCE, key, rng};

/// Goes on whatever is refused or left without an answer, until it is ended.
pub struct Load {
    end: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    answered: Arc<AtomicU64>,
}

impl Load {
    /// So many agents at each of these replicas: a token, and it is taken back, and again.
    pub fn tokens(site: &Site, replicas: &[usize], agents: usize, pause: Duration) -> Self {
        let load = Self::new();
        let tasks = replicas.iter().flat_map(|replica| std::iter::repeat_n(*replica, agents)).map(|replica| {
            let ((agent, delegation), http) = (site.agent(replica), site.replicas[replica].http.clone());
            let (url, session) = (format!("{}/v1/revocations", site.url()), site.alice().session().session.clone());
            let (ended, answered) = (load.end.subscribe(), Arc::clone(&load.answered));
            tokio::spawn(async move {
                while !*ended.borrow() {
                    sleep(pause).await;
                    let Ok(token) = agent.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await else { continue };
                    let body = json!({ "what": "token", "id": token.claims().claimed().tid, "reason": "load" });
                    let asked = http.post(&url).bearer_auth(&session).json(&body).send().await;
                    answered.fetch_add(u64::from(asked.is_ok_and(|a| a.status().is_success())), Ordering::Relaxed);
                }
            })
        });
        Self { tasks: tasks.collect(), ..load }
    }

    /// Whoever operates each of these replicas revokes holder keys, one after the other.
    pub fn keys(site: &Site, replicas: &[usize], at_once: usize) -> Self {
        let load = Self::new();
        let tasks = replicas.iter().flat_map(|replica| std::iter::repeat_n(*replica, at_once)).map(|replica| {
            let operator = site.operator(replica);
            let (ended, answered) = (load.end.subscribe(), Arc::clone(&load.answered));
            tokio::spawn(async move {
                while !*ended.borrow() {
                    let body = json!({ "what": "key", "id": Key::of(&key(&mut rng())), "reason": "load" });
                    let asked = operator.post("http://localhost/v1/revocations").json(&body).send().await;
                    answered.fetch_add(u64::from(asked.is_ok_and(|a| a.status().is_success())), Ordering::Relaxed);
                }
            })
        });
        Self { tasks: tasks.collect(), ..load }
    }

    fn new() -> Self {
        Self { end: watch::Sender::new(false), tasks: Vec::new(), answered: Arc::default() }
    }

    /// Until so many revocations have been answered.
    pub async fn reached(&self, answers: u64) {
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < answers {
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("there is load");
    }

    pub fn stop(&self) {
        self.end.send_replace(true);
    }

    /// Returns when it has been stopped and the last has its answer.
    pub async fn ended(self, problems: &mut Vec<String>) {
        for task in self.tasks {
            task.await.unwrap();
        }
        if self.answered.load(Ordering::Relaxed) == 0 {
            problems.push("there was no load".to_owned());
        }
    }
}
