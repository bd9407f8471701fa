//! One cell of the matrix: revocations at random moments, whoever waits for whom, and what every verifier then did.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use procura_verifier::ids::{Clock as _, SystemClock};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::spinner::{Canary, Spinner};

/// What came out of one cell. Microseconds.
pub struct Outcome {
    pub commit_to_deny: Histogram<u64>,
    pub request_to_deny: Histogram<u64>,
    pub request_to_commit: Histogram<u64>,
    /// Allows after commit + 200 ms, over all verifiers.
    pub late_allows: u64,
    /// Denials for want of freshness before the revocation was heard.
    pub stale: u64,
    /// Pairs of revocation and verifier without an allow before, for want of freshness.
    pub fenced: u64,
    pub sweeps: Histogram<u64>,
    pub decisions: u64,
}

/// Who asks for revocations.
pub struct Asker {
    pub http: reqwest::Client,
    pub url: String,
    pub session: String,
}

impl Asker {
    /// Revokes; when COMMIT returned, by the authority's boot clock, which is this machine's.
    pub async fn revoke(&self, what: &str, id: &str) -> anyhow::Result<u64> {
        let body = json!({ "what": what, "id": id, "reason": "bench" });
        let answer = self.http.post(format!("{}/v1/revocations", self.url)).bearer_auth(&self.session).json(&body).send().await?;
        let status = answer.status();
        let answer: Value = answer.json().await.context("the authority answered something that is not JSON")?;
        ensure!(status.is_success(), "revocation refused: {answer}");
        answer["committed_us"].as_u64().context("no `committed_us` in the answer")
    }
}

/// Revokes every canary at moments of a Poisson process of `rate` a second, whether earlier ones have been answered or not.
pub async fn run(spinner: &Arc<Spinner>, canaries: Vec<Arc<Canary>>, asker: Arc<Asker>, rate: f64, rng: &mut StdRng) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome {
        commit_to_deny: Histogram::new(3)?,
        request_to_deny: Histogram::new(3)?,
        request_to_commit: Histogram::new(3)?,
        late_allows: 0,
        stale: 0,
        fenced: 0,
        sweeps: Histogram::new(3)?,
        decisions: 0,
    };
    spinner.sweeps.lock().expect("nobody panics").reset();
    let decisions = spinner.decisions.load(std::sync::atomic::Ordering::Relaxed);
    let mut due = tokio::time::Instant::now() + LEAD;
    let mut running = tokio::task::JoinSet::new();
    for (index, canary) in canaries.into_iter().enumerate() {
        // Exponential gaps: moments that wait for nobody, so that a stall is felt by all who come during it.
        due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate);
        let (spinner, asker) = (Arc::clone(spinner), Arc::clone(&asker));
        running.spawn(async move {
            tokio::time::sleep_until(due - LEAD).await;
            let tid = canary.token.block0().tid.to_string();
            spinner.watch(index, canary);
            tokio::time::sleep_until(due).await;
            let asked = SystemClock.boot().0;
            let committed = asker.revoke("token", &tid).await?;
            let heard = async {
                // Long enough to see an allow that comes too late.
                tokio::time::sleep(AFTER).await;
                spinner.take(index).context("the canary is watched")
            };
            anyhow::Ok((asked, committed, heard.await?))
        });
        while let Some(done) = running.try_join_next() {
            outcome.add(done??)?;
        }
    }
    while let Some(done) = running.join_next().await {
        outcome.add(done??)?;
    }
    outcome.sweeps = spinner.sweeps.lock().expect("nobody panics").clone();
    outcome.decisions = spinner.decisions.load(std::sync::atomic::Ordering::Relaxed) - decisions;
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, (asked, committed, seen): (u64, u64, crate::spinner::Seen)) -> anyhow::Result<()> {
        ensure!(committed >= asked, "committed before it was asked for: two clocks");
        let mut last = 0;
        for (n, (allowed, denied)) in seen.verifiers.iter().enumerate() {
            if *allowed == 0 && seen.stale.get(n).is_some_and(|stale| *stale > 0) {
                // Fenced from before the revocation until it was heard: nothing to time, and said in a column of its own.
                self.fenced += 1;
                continue;
            }
            ensure!(*allowed > 0, "verifier {n} never decided on the token before it was revoked: nothing was measured");
            let denied = denied.with_context(|| format!("verifier {n} never denied the revoked token"))?;
            self.late_allows += u64::from(*allowed > committed + LATE_US);
            last = last.max(denied);
        }
        self.stale += seen.stale.iter().sum::<u64>();
        self.request_to_commit.record(committed - asked)?;
        // Heard by all before COMMIT returned here? Then nought.
        self.commit_to_deny.record(last.saturating_sub(committed))?;
        self.request_to_deny.record(last.saturating_sub(asked))?;
        Ok(())
    }

    /// A line of the table.
    pub fn line(&self, cell: &str) -> String {
        let ms = |h: &Histogram<u64>| {
            let at = |q| h.value_at_quantile(q) as f64 / 1000.0;
            format!("{:.1} | {:.1} | {:.1} | {:.1} | {:.1}", at(0.5), at(0.9), at(0.99), at(0.999), h.max() as f64 / 1000.0)
        };
        let commit = self.request_to_commit.value_at_quantile(0.99) as f64 / 1000.0;
        let error = (self.sweeps.value_at_quantile(0.5) as f64 / 1000.0, self.sweeps.value_at_quantile(0.99) as f64 / 1000.0);
        format!(
            "| {cell} | {} | {} | {} | {commit:.1} | **{}** | {} | {} | {:.2} / {:.2} |",
            self.commit_to_deny.len(),
            ms(&self.commit_to_deny),
            ms(&self.request_to_deny),
            self.late_allows,
            self.stale,
            self.fenced,
            error.0,
            error.1,
        )
    }
}

/// Heads of the table.
pub const HEAD: &str = "| cell | n | commit to last deny: p50 | p90 | p99 | p99.9 | max | request to last deny: p50 | p90 | p99 | p99.9 | max | request to commit p99 | late allows | stale denials | fenced | sweep p50 / p99 |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// How long a canary is watched before it is revoked, so that each verifier has allowed it.
const LEAD: Duration = Duration::from_millis(100);
/// How long it is watched after.
const AFTER: Duration = Duration::from_millis(300);
/// The promise (P4).
pub const LATE_US: u64 = 200_000;
