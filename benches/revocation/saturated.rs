//! Revocations while agents mint as fast as the authority answers them: from the request to the return of COMMIT.
//!
//! Minting and taking back share one head row, so a revocation waits for the batch that is being written. That is all that it may
//! wait for, whatever stands in the queue: revocations have a lane of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use procura_sdk::client::{ClientError, MintRequest};
use procura_verifier::ids::{Clock as _, SystemClock};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::measure::Asker;
use crate::site::Running;

/// Prints one line: `samples` revocations at random moments beside `minters` agents that each ask for the next token when they have
/// the last one. What would worry us: a p99 above 50 ms, or one that grows with the number of minters.
pub async fn run(running: &Running, store: &str, samples: usize, minters: usize, rng: &mut StdRng) -> anyhow::Result<()> {
    let canaries = running.canaries(samples).await;
    let asker = Arc::new(Asker { http: running.http(), url: running.url(), session: running.session() });
    let (stop, minted, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut agents = tokio::task::JoinSet::new();
    for _ in 0..minters {
        let (client, delegation) = running.minter();
        let (stop, minted, refused) = (Arc::clone(&stop), Arc::clone(&minted), Arc::clone(&refused));
        agents.spawn(async move {
            let mut rng = crate::support::rng();
            while !stop.load(Ordering::Relaxed) {
                match client.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng).await {
                    Ok(_) => minted.fetch_add(1, Ordering::Relaxed),
                    // Too much at once: part of what saturation is, and counted.
                    Err(ClientError::Refused { status: 503, .. }) => refused.fetch_add(1, Ordering::Relaxed),
                    Err(e) => panic!("{e}"),
                };
            }
        });
    }
    tokio::time::sleep(WARM).await;
    let (before, began) = (minted.load(Ordering::Relaxed), SystemClock.boot());
    let mut due = tokio::time::Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for canary in canaries {
        // Moments that wait for nobody: a stall is felt by all who come during it.
        due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / RATE);
        let asker = Arc::clone(&asker);
        asked.spawn(async move {
            tokio::time::sleep_until(due).await;
            let asked = SystemClock.boot().0;
            let committed = asker.revoke("token", &canary.token.block0().tid.to_string()).await?;
            ensure!(committed >= asked, "committed before it was asked for: two clocks");
            Ok(committed - asked)
        });
    }
    let mut took = Histogram::<u64>::new(3)?;
    while let Some(done) = asked.join_next().await {
        took.record(done.context("a revocation panicked")??)?;
    }
    let secs = SystemClock.boot().micros_since(began) as f64 / 1e6;
    let rate = (minted.load(Ordering::Relaxed) - before) as f64 / secs;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = agents.join_next().await {
        ended.context("an agent panicked")?;
    }
    let ms = |q| took.value_at_quantile(q) as f64 / 1000.0;
    println!(
        "| {store}, {minters} agents minting, {rate:.0} mints/s, {} refused | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
        refused.load(Ordering::Relaxed),
        took.len(),
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(0.999),
        took.max() as f64 / 1000.0,
    );
    Ok(())
}

/// Head of the table.
pub const HEAD: &str = "| request to commit of a revocation under issuance | n | p50 ms | p90 | p99 | p99.9 | max |\n|---|---|---|---|---|---|---|";

/// Until queues are as long as they get.
const WARM: Duration = Duration::from_secs(3);
/// Revocations a second.
const RATE: f64 = 20.0;
