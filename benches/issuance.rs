//! How many tokens an authority mints over HTTP, each answered after its event and checkpoint are committed.
//!
//! `cargo build --release --bin procura && cargo bench -p procura-benches --bench issuance [-- --quick]` prints a markdown table. The client is on
//! the same machine and shares its cores: requests are made before the clock starts, each with an assertion of its own that was signed
//! then, and sent over connections that stay. *As fast as possible*: each connection asks again as soon as it is answered. *At a rate*: requests
//! are due at the moments of a Poisson process, whether earlier ones were answered or not; latency counts from when one was due.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench: a failure here is a failed run")]

#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../tests/system/support/mod.rs"]
mod support;

use std::time::Duration;

use hdrhistogram::Histogram;
use procura_sdk::client::assertion;
use procura_verifier::ids::SystemClock;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use support::Agent;
use support::postgres::Postgres;
use support::serve::{Replica, Site};

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let seconds = if quick { 1 } else { 10 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("| store | load | asked | minted/s | p50 ms | p99 | p99.9 | max | events in the log |\n|---|---|---|---|---|---|---|---|---|");
    runtime.block_on(async {
        for name in ["SQLite", "PostgreSQL"] {
            let folder = tempfile::tempdir().unwrap();
            let postgres = if name == "PostgreSQL" { Some(Postgres::durable().await) } else { None };
            let site = Site::new(folder.path(), &postgres.as_ref().map_or("sqlite:".to_owned(), Postgres::url)).await;
            let replica = site.replica("one", &["--init-single-anchor"]).await;
            let alice = replica.person("alice").await;
            let (agent, delegation) = support::delegated(&alice, "minter", &support::key(&mut support::rng())).await;
            let office = Office { replica, agent, delegation: delegation.to_string() };
            for (connections, rate) in [(64, None), (1, None), (256, Some(1_000)), (256, Some(2_500)), (256, Some(5_000))] {
                let asked = seconds * rate.unwrap_or(if connections == 1 { 1_000 } else { 7_500 });
                office.measure(name, connections, rate, asked).await;
            }
        }
    });
}

struct Office {
    replica: Replica,
    agent: Agent,
    delegation: String,
}

impl Office {
    async fn measure(&self, store: &str, connections: usize, rate: Option<usize>, asked: usize) {
        let mut requests: Vec<Vec<u8>> = (0..asked).map(|_| self.request()).collect();
        let before = self.log_size().await;
        let (done, mut told) = mpsc::unbounded_channel();
        let mut rng = StdRng::seed_from_u64(7);
        let begun = Instant::now();
        let mut due = begun;
        // Dealt out in turn: with a rate each has its moment, without one its turn.
        let mut hands: Vec<Vec<(Option<Instant>, Vec<u8>)>> = (0..connections).map(|_| Vec::new()).collect();
        for (n, request) in requests.drain(..).enumerate() {
            let at = rate.map(|rate| {
                due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate as f64);
                due
            });
            hands[n % connections].push((at, request));
        }
        for hand in hands {
            let (address, done) = (self.address(), done.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await;
                for (at, request) in hand {
                    if let Some(at) = at {
                        sleep_until(at).await;
                    }
                    let from = at.unwrap_or_else(Instant::now);
                    connection.ask(&request).await;
                    done.send(from.elapsed()).unwrap();
                }
            });
        }
        drop(done);
        let mut took = Histogram::<u64>::new(3).unwrap();
        while let Some(time) = told.recv().await {
            took.record(u64::try_from(time.as_micros()).unwrap()).unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!(took.len(), asked as u64, "every request was answered with a token");
        let events = self.log_size().await - before;
        // Not answered before it is durable: each has its leaf under a signed checkpoint by now.
        assert!(events >= asked as u64, "{events} events of {asked} mints");
        let ms = |q| took.value_at_quantile(q) as f64 / 1000.0;
        let load = rate.map_or(format!("as fast as possible, {connections} connections"), |rate| format!("{rate}/s"));
        println!(
            "| {store} | {load} | {asked} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {events} |",
            asked as f64 / seconds,
            ms(0.5),
            ms(0.99),
            ms(0.999),
            took.max() as f64 / 1000.0
        );
    }

    fn address(&self) -> String {
        self.replica.url.strip_prefix("http://").expect("plain HTTP").to_owned()
    }

    fn request(&self) -> Vec<u8> {
        let signed = assertion(&self.replica.public_url, self.agent.id, &self.agent.key, &SystemClock, &mut support::rng());
        let body = json!({
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": signed,
            "delegation": self.delegation,
        })
        .to_string();
        let host = self.replica.public_url.strip_prefix("http://").expect("plain HTTP");
        format!("POST /v1/token HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// Leaves under the newest checkpoint: its second line.
    async fn log_size(&self) -> u64 {
        let (status, checkpoint) = self.replica.get("/checkpoint").await;
        assert_eq!(status, 200);
        checkpoint.lines().nth(1).and_then(|n| n.parse().ok()).expect("a checkpoint")
    }
}

/// HTTP/1.1 on a connection that stays, as cheap as can be: the client's work is on the authority's cores.
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::with_capacity(8192) }
    }

    async fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.read.clear();
        let whole = loop {
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "the authority hung up");
            let Some(head) = self.read.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.read[..head]).unwrap();
            let length = text.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>().unwrap()));
            break head + 4 + length.expect("content-length");
        };
        while self.read.len() < whole {
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "the authority hung up");
        }
        assert!(self.read.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.read));
    }
}
