//! Somebody who may publish to Redis: a relay between two channels that does not mean well, and an intruder on the real one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::twist::{Mangling, Recording, Twist, flipped, junk, record, truncated};

/// What an intruder publishes beside what the authority says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intrusion {
    /// A hundred a second: what was said, cut or with a bit flipped, and bytes of nobody's.
    Garbage,
    /// A thousand a second of what was said, in any order.
    Recorded,
    /// Ten thousand a second of nobody's.
    Flood,
}

impl Intrusion {
    /// It was none if it published less.
    pub const fn least(self) -> u64 {
        match self {
            Self::Garbage => 50,
            Self::Recorded => 500,
            Self::Flood => 5000,
        }
    }
}

/// Ends when dropped.
pub struct Publisher {
    tasks: Vec<JoinHandle<()>>,
    how: watch::Sender<Mangling>,
    pub recording: Arc<Recording>,
    sent: Arc<AtomicU64>,
}

impl Publisher {
    /// Carries what is said on the authority's channel to the one that begins with [`MANGLED`].
    pub async fn relay(url: &str) -> Self {
        let (how, is) = watch::channel(Mangling::None);
        let (recording, sent) = (Arc::new(Mutex::default()), Arc::new(AtomicU64::new(0)));
        let (mut heard, mut connection) = (listen(url).await, connect(url).await);
        let task = {
            let (recording, sent) = (Arc::clone(&recording), Arc::clone(&sent));
            tokio::spawn(async move {
                let (mut twist, channel) = (Twist::default(), format!("{MANGLED}{TENANT}"));
                while let Some(message) = heard.next().await {
                    let how = *is.borrow();
                    sent.fetch_add(publish(&mut connection, &channel, twist.of(how, message, &recording)).await, Ordering::Relaxed);
                }
            })
        };
        Self { tasks: vec![task], how, recording, sent }
    }

    /// Publishes on the authority's own channel.
    pub async fn intrude(url: &str, what: Intrusion) -> Self {
        let (recording, sent) = (Arc::new(Recording::default()), Arc::new(AtomicU64::new(0)));
        let (mut heard, mut connection) = (listen(url).await, connect(url).await);
        let listening = tokio::spawn({
            let recording = Arc::clone(&recording);
            async move {
                while let Some(message) = heard.next().await {
                    // Its own echo would be louder than the authority.
                    if recording.lock().unwrap().len() < ENOUGH {
                        record(&recording, &message);
                    }
                }
            }
        });
        let publishing = tokio::spawn({
            let (recording, sent) = (Arc::clone(&recording), Arc::clone(&sent));
            async move {
                let (mut rng, channel) = (StdRng::from_os_rng(), format!("{USUAL}{TENANT}"));
                let mut ticks = interval(Duration::from_millis(10));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let heard = recording.lock().unwrap().clone();
                    let messages = match (what, heard.choose(&mut rng)) {
                        (Intrusion::Flood, _) => junk(100).collect(),
                        (_, None) => continue,
                        (Intrusion::Garbage, Some(one)) => {
                            let garbage = [truncated(one), flipped(one.clone()), junk(1).next().unwrap_or_default()];
                            garbage.choose(&mut rng).cloned().into_iter().collect()
                        }
                        (Intrusion::Recorded, Some(_)) => {
                            let mut some: Vec<_> = heard.choose_multiple(&mut rng, 10).cloned().collect();
                            some.shuffle(&mut rng);
                            some
                        }
                    };
                    sent.fetch_add(publish(&mut connection, &channel, messages).await, Ordering::Relaxed);
                }
            }
        });
        Self { tasks: vec![listening, publishing], how: watch::Sender::new(Mangling::None), recording, sent }
    }

    pub fn set(&self, how: Mangling) {
        self.how.send_replace(how);
    }

    /// Messages that Redis took from it.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What is said on the authority's channel.
pub async fn listen(url: &str) -> impl futures_util::Stream<Item = Vec<u8>> + Send + Unpin + use<> {
    let mut subscription = redis::Client::open(url).unwrap().get_async_pubsub().await.unwrap();
    subscription.subscribe(format!("{USUAL}{TENANT}")).await.unwrap();
    Box::pin(subscription.into_on_message().map(|m| m.get_payload_bytes().to_vec()))
}

async fn connect(url: &str) -> MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// How many were taken.
async fn publish(connection: &mut MultiplexedConnection, channel: &str, messages: Vec<Vec<u8>>) -> u64 {
    let mut pipe = redis::pipe();
    for message in &messages {
        pipe.cmd("PUBLISH").arg(channel).arg(&message[..]).ignore();
    }
    if messages.is_empty() || pipe.exec_async(connection).await.is_err() {
        return 0;
    }
    messages.len() as u64
}

/// What the channel's name begins with where the relay speaks.
pub const MANGLED: &str = "mangled:";
const USUAL: &str = "procura:rev:";
const TENANT: &str = "{acme}";
/// Messages that an intruder learns from: of two replicas, a second or two.
const ENOUGH: usize = 60;
