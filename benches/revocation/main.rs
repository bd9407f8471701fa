//! How long after COMMIT the last verifier denies, beside what no feed can avoid (a commit to disk, a round trip).
//!
//! `cargo build --release --bin procura && cargo bench -p procura-benches --bench revocation [-- --quick | --headline | --kills | --saturated | CELL…]` prints a
//! markdown table; `--saturated` that of revocations beside agents that mint without pause, which the whole run ends with. Real processes on one machine: `procura serve`, PostgreSQL, redis-server; the verifiers are feed clients in this process, each with
//! streams, subscription and view of its own. Revocations come at the moments of a Poisson process, whether earlier ones have been
//! answered or not. One thread decides on every canary at every verifier, again and again; how long one round of that takes is the measuring
//! error, and is printed. *Fenced* counts pairs of revocation and verifier where the verifier was stale all along: there is nothing to time. Both ends of every figure are readings of the one boot-time clock of the machine.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench: a failure here is a failed run")]

mod measure;
mod saturated;
mod site;
mod spinner;
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../../tests/system/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use procura_verifier::revocation::RevocationView as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use measure::Asker;
use site::{Paths, Running, Store};
use spinner::Spinner;

#[derive(Clone, Copy)]
struct Cell {
    store: Store,
    paths: Paths,
    verifiers: usize,
    /// Decisions a second beside the canaries' own.
    load: u64,
}

impl Cell {
    fn name(&self) -> String {
        let load = if self.load == 0 { "idle".to_owned() } else { format!("{} decisions/s", self.load) };
        format!("{}, {}, {} verifiers, {load}", self.store.name(), self.paths.name(), self.verifiers)
    }

    fn is_headline(&self) -> bool {
        matches!((self.store, self.paths, self.verifiers, self.load), (Store::Postgres, Paths::Both, 100, 0))
    }
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for store in [Store::Postgres, Store::Sqlite] {
        for paths in [Paths::Both, Paths::Stream, Paths::Redis] {
            for verifiers in [1, 10, 100] {
                cells.extend([0, 10_000].map(|load| Cell { store, paths, verifiers, load }));
            }
        }
    }
    cells
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
    let all = wanted.is_empty() && !args.iter().any(|a| ["--headline", "--kills", "--saturated"].contains(&a.as_str()));
    let chosen = |cell: &Cell| match (has("--headline"), wanted.is_empty()) {
        _ if has("--saturated") || has("--kills") => false,
        (true, _) => cell.is_headline(),
        (false, true) => true,
        (false, false) => wanted.iter().all(|w| cell.name().contains(w.as_str())),
    };
    let samples = |cell: &Cell| match (has("--quick"), cell.is_headline()) {
        (true, _) => 50,
        (false, true) => 10_000,
        (false, false) => 1_000,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        limits().await;
        println!("\n{}", measure::HEAD);
        let mut late = 0;
        for store in [Store::Postgres, Store::Sqlite] {
            let cells: Vec<Cell> = cells().into_iter().filter(|c| c.store as u8 == store as u8 && chosen(c)).collect();
            let kills = store == Store::Postgres && (all || has("--kills"));
            if cells.is_empty() && !kills {
                continue;
            }
            let running = Running::start(store).await;
            for cell in cells {
                late += one(&running, &cell, samples(&cell)).await;
            }
            if kills {
                late += site::kills(&running, if has("--quick") { 10_000 } else { 1_000_000 }).await;
            }
        }
        if all || has("--saturated") {
            println!("\n{}", saturated::HEAD);
            for store in [Store::Postgres, Store::Sqlite] {
                let running = Running::start(store).await;
                for minters in [0, 64, 256] {
                    let mut rng = StdRng::seed_from_u64(11);
                    let many = if has("--quick") { 50 } else { 1_000 };
                    saturated::run(&running, store.name(), many, minters, &mut rng).await.unwrap_or_else(|e| panic!("{}: {e:#}", store.name()));
                }
            }
        }
        println!("\nlate allows, all cells: {late}");
        assert_eq!(late, 0, "an allow came later than 200 ms after a COMMIT");
    });
}

/// Measures one cell, and prints its line.
async fn one(running: &Running, cell: &Cell, samples: usize) -> u64 {
    let mut rng = StdRng::seed_from_u64(7);
    let verifiers = running.verifiers(cell.paths, cell.verifiers).await;
    let views: Vec<_> = verifiers.iter().map(|client| Arc::clone(client.view())).collect();
    let mut canaries = running.canaries(samples + 1).await;
    let steady = canaries.pop().expect("one more than samples");
    let (spinner, thread) = Spinner::start(views, (cell.load > 0).then_some((steady, cell.load)));
    let asker = Arc::new(Asker { http: running.http(), url: running.url(), session: running.session() });
    let outcome = measure::run(&spinner, canaries, asker, RATE, &mut rng).await.unwrap_or_else(|e| panic!("{}: {e:#}", cell.name()));
    spinner.stop();
    thread.join().expect("the spinner ends");
    println!("{}", outcome.line(&cell.name()));
    outcome.late_allows
}

/// What stands under every figure on this machine: one write that is on disk, one request that does nothing.
async fn limits() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("page")).unwrap();
    let mut synced = hdrhistogram::Histogram::<u64>::new(3).unwrap();
    for _ in 0..500 {
        use std::io::Write as _;
        let begun = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        synced.record(begun.elapsed().as_micros() as u64).unwrap();
    }
    let ms = |h: &hdrhistogram::Histogram<u64>, q| h.value_at_quantile(q) as f64 / 1000.0;
    println!("a page on disk (write, fdatasync): p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", ms(&synced, 0.5), ms(&synced, 0.99), synced.max() as f64 / 1000.0);
}

/// Until every view is fresh.
async fn all_fresh(views: &[Arc<procura_verifier::revocation::View>]) {
    let begun = Instant::now();
    while views.iter().any(|view| view.fresh_as_of().is_none()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "a verifier does not become fresh");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Revocations a second.
const RATE: f64 = 50.0;
