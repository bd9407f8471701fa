//! What every [`Transport`] keeps, told once and run over each: within the process, and over a real Redis.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use procura_verifier::feed::genesis_hash;
use procura_verifier::feed::message::{Batch, Message, SignedMessage};
use procura_verifier::feed::redis::RedisConfig;
use procura_verifier::ids::UtcMillis;
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::bus::{Bus, Heard, Transport};
use super::redis::RedisBus;
use crate::store::contract::tenant;

#[path = "../../../tests/system/support/redis.rs"]
#[allow(dead_code, reason = "the system tests use the rest")]
mod server;

/// A transport and how one listens to it.
trait Way {
    fn transport(&self) -> &dyn Transport;
    async fn listen(&self) -> Listener;
}

struct Listener {
    messages: mpsc::Receiver<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Listener {
    async fn next(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.messages.recv()).await.expect("a message").expect("a message")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Local(Bus);

impl Way for Local {
    fn transport(&self) -> &dyn Transport {
        &self.0
    }

    async fn listen(&self) -> Listener {
        let mut subscription = self.0.subscribe();
        let (tell, messages) = mpsc::channel(1024);
        let task = tokio::spawn(async move {
            while let Some(Heard::Message(message)) = subscription.next().await {
                tell.send(message.to_bytes()).await.unwrap();
            }
        });
        Listener { messages, task }
    }
}

struct OverRedis {
    bus: RedisBus,
    url: String,
}

impl OverRedis {
    fn start(server: &server::RedisProcess) -> Self {
        let config = RedisConfig::at(server.url().parse().unwrap());
        let rng = Box::new(rand::rngs::StdRng::seed_from_u64(1));
        Self { bus: RedisBus::start(&config, &tenant(), rng).unwrap(), url: server.url() }
    }
}

impl Way for OverRedis {
    fn transport(&self) -> &dyn Transport {
        &self.bus
    }

    async fn listen(&self) -> Listener {
        let mut subscription = redis::Client::open(self.url.as_str()).unwrap().get_async_pubsub().await.unwrap();
        subscription.subscribe(format!("procura:rev:{{{}}}", tenant())).await.unwrap();
        let (tell, messages) = mpsc::channel(1024);
        let task = tokio::spawn(async move {
            let mut coming = subscription.into_on_message();
            while let Some(message) = coming.next().await {
                tell.send(message.get_payload_bytes().to_vec()).await.unwrap();
            }
        });
        Listener { messages, task }
    }
}

fn message(seq: u64) -> Arc<SignedMessage> {
    let batch = Batch { tenant: tenant(), epoch: 1, seq, prev: genesis_hash(&tenant(), 1), issued: UtcMillis(1), items: vec![] };
    Arc::new(SignedMessage::sign(&Message::Batch(batch), &ed25519_dalek::SigningKey::from_bytes(&[7; 32])))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn contract(way: &impl Way) {
    // Nobody listens: nothing is known to, and publishing is no error.
    assert!(!way.transport().has_listeners());
    way.transport().publish(message(1));

    // Everyone who listens gets the same bytes.
    let (mut one, mut two) = (way.listen().await, way.listen().await);
    until("listeners", || way.transport().has_listeners()).await;
    for seq in 2..=100 {
        way.transport().publish(message(seq));
    }
    for listener in [&mut one, &mut two] {
        let mut first = listener.next().await;
        // What was published before anybody listened may come or not.
        if first == message(1).to_bytes() {
            first = listener.next().await;
        }
        assert_eq!(first, message(2).to_bytes());
        for seq in 3..=100 {
            assert_eq!(listener.next().await, message(seq).to_bytes());
        }
    }

    // Who goes is missed.
    drop((one, two));
    until("nobody listens", || {
        // A way may learn of it only by sending.
        way.transport().publish(message(101));
        !way.transport().has_listeners()
    })
    .await;
    // And who comes later is found.
    let _three = way.listen().await;
    until("a listener again", || way.transport().has_listeners()).await;
}

#[tokio::test]
async fn within_the_process() {
    contract(&Local(Bus::new())).await;
}

#[tokio::test]
async fn over_redis() {
    let server = server::RedisProcess::start("");
    contract(&OverRedis::start(&server)).await;
}

#[tokio::test]
async fn a_redis_that_is_down_costs_nothing_and_is_found_again() {
    let mut server = server::RedisProcess::start("");
    let way = OverRedis::start(&server);
    until("connected", || way.bus.status().connected).await;
    server.kill();
    until("lost", || !way.bus.status().connected).await;
    // As many as would be published in minutes: none waits, and what is kept is bounded.
    for seq in 1..=10_000 {
        way.transport().publish(message(seq));
    }
    assert_eq!(way.bus.status().dropped, 10_000 - 256);
    assert!(!way.transport().has_listeners(), "nobody is known to listen where Redis is gone");
    assert!(way.bus.status().last_error.is_some_and(|e| e.starts_with("redis: ")));
    server.restart();
    until("connected again", || way.bus.status().connected).await;
    let mut listener = way.listen().await;
    until("a listener", || way.transport().has_listeners()).await;
    way.transport().publish(message(10_001));
    while listener.next().await != message(10_001).to_bytes() {}
}

const PATIENCE: Duration = Duration::from_secs(20);
