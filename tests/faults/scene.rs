//! One fault: verifiers that decide without pause, revocations before, during and after it, and what must hold.

use std::time::Duration;

use procura_verifier::ids::{Clock as _, SystemClock};
use tokio::time::{Instant, sleep};

use crate::fault::Fault;
use crate::mangle::Mangler;
use crate::site::{Revoked, Site};
use crate::watcher::{Status, Watcher};
use crate::wire::Wire;

/// Who verifies, and by which way.
pub struct Scene {
    pub site: Site,
    /// The first verifier's way.
    pub wire: Wire,
    /// The second's.
    pub mangler: Mangler,
    /// One behind the wire, one behind the relay that mangles, one with nothing between.
    pub watchers: Vec<Watcher>,
    canaries: Vec<Canary>,
    next: usize,
}

struct Canary {
    tid: String,
    revoked: Option<Revoked>,
    asked: u64,
}

/// One line of the report.
#[derive(Debug)]
pub struct Outcome {
    pub revocations: usize,
    pub late_allows: u64,
    /// Latest allow after a commit, in milliseconds.
    pub latest_ms: f64,
    pub stale: u64,
    pub full_view: Duration,
    pub problems: Vec<String>,
}

impl Scene {
    pub async fn set(canaries: usize, control: bool) -> Self {
        let site = Site::sqlite().await;
        let (wire, mangler) = (Wire::to(site.at(0)).await, Mangler::to(site.at(0)).await);
        let mut watchers: Vec<_> = [wire.url(), mangler.url.clone(), site.url()].iter().map(|url| Watcher::start(url, &site.trust(), control)).collect();
        let mut all = Vec::new();
        for number in 0..canaries {
            let (tid, token) = site.mint().await;
            for watcher in &mut watchers {
                watcher.canary(number, &token, &site.key).await;
            }
            all.push(Canary { tid, revoked: None, asked: 0 });
        }
        // The first is never revoked.
        let mut scene = Self { site, wire, mangler, watchers, canaries: all, next: 1 };
        scene.until("everybody allows everything", |s| s.canaries.iter().all(|(_, verdict, _)| verdict == "allow")).await;
        scene
    }

    pub async fn run(mut self, fault: &Fault, lasting: Duration) -> Outcome {
        for _ in 0..3 {
            self.revoke_next().await;
        }
        let stale_before = self.stale(fault).await;
        fault.begin(&mut self).await;
        let ends = Instant::now() + lasting;
        while Instant::now() < ends && self.next + AFTER < self.canaries.len() {
            let gap = lasting / u32::try_from(self.canaries.len() - AFTER).unwrap();
            let due = Instant::now() + gap;
            self.revoke_next().await;
            fault.during(&mut self).await;
            sleep(due.saturating_duration_since(Instant::now())).await;
        }
        sleep(ends.saturating_duration_since(Instant::now())).await;
        fault.end(&mut self).await;
        let healed = Instant::now();
        let mut problems = Vec::new();
        let stale = self.stale(fault).await - stale_before;
        self.ask_again().await;
        let head = self.head().await;
        let gone: Vec<_> = self.canaries.iter().map(|c| c.revoked.is_some()).collect();
        let whole = |s: &Status| {
            let same = s.canaries.iter().zip(&gone).all(|((_, verdict, _), gone)| if *gone { verdict == "revoked" } else { verdict == "allow" });
            same && (s.watermark, s.hash.clone()) == head
        };
        let full_view = if self.try_until(whole).await { healed.elapsed() } else { VIEW_WAIT };
        if full_view > HEAL_WITHIN {
            problems.push(format!("full view after {:.1} s: {}", full_view.as_secs_f64(), self.told(&head).await));
        }
        for _ in 0..AFTER {
            self.revoke_next().await;
        }
        // Long enough to see an allow that comes too late.
        sleep(Duration::from_millis(300)).await;
        // A machine that is busy makes a verifier stale for a moment at any time: judged is what it says in the end.
        let gone: Vec<_> = self.canaries.iter().map(|c| c.revoked.is_some()).collect();
        self.try_until(|s| s.canaries.iter().zip(&gone).all(|((_, verdict, _), gone)| verdict == if *gone { "revoked" } else { "allow" })).await;
        self.judge(fault, stale, full_view, problems).await
    }

    async fn judge(mut self, fault: &Fault, stale: u64, full_view: Duration, mut problems: Vec<String>) -> Outcome {
        let (mut late_allows, mut latest) = (0, 0);
        let revocations = self.canaries.iter().filter(|c| c.revoked.is_some()).count();
        for (who, watcher) in self.watchers.iter_mut().enumerate() {
            let status = watcher.status().await;
            for (canary, (last_allow, verdict, after_revoked)) in self.canaries.iter().zip(&status.canaries) {
                if *last_allow == 0 {
                    problems.push(format!("verifier {who} never allowed {}", canary.tid));
                }
                late_allows += after_revoked;
                let expected = if canary.revoked.is_some() { "revoked" } else { "allow" };
                if verdict != expected {
                    problems.push(format!("verifier {who} says {verdict} of {}, expected {expected}", canary.tid));
                }
                if let Some(Revoked::At(committed)) = canary.revoked {
                    late_allows += u64::from(*last_allow > committed + LATE_US);
                    latest = latest.max(last_allow.saturating_sub(committed));
                }
            }
        }
        if fault.control {
            // What is found here is no failure of the system; not to find it would be one of this harness.
            problems.clear();
            if late_allows == 0 {
                problems.push("late allows of a verifier without a bound were not found".to_owned());
            }
            return Outcome { revocations, late_allows, latest_ms: latest as f64 / 1000.0, stale, full_view, problems };
        }
        if late_allows > 0 {
            problems.push(format!("{late_allows} late allows"));
        }
        if fault.bites && stale == 0 {
            problems.push("nobody was stale: the fault did nothing".to_owned());
        }
        Outcome { revocations, late_allows, latest_ms: latest as f64 / 1000.0, stale, full_view, problems }
    }

    /// One more, at the authority itself.
    pub async fn revoke_next(&mut self) {
        let Some(canary) = self.canaries.get_mut(self.next) else { return };
        self.next += 1;
        canary.asked = SystemClock.boot().0;
        canary.revoked = Some(self.site.revoke(&canary.tid).await);
    }

    /// Asks for some at once and returns when one of them has been answered.
    pub async fn burst(&mut self, count: usize) {
        let asking: Vec<_> = self.canaries.iter_mut().skip(self.next).take(count).collect();
        self.next += asking.len();
        let mut told = futures_util::stream::FuturesUnordered::new();
        for canary in asking {
            canary.asked = SystemClock.boot().0;
            canary.revoked = Some(Revoked::Unknown);
            let (site, tid) = (&self.site, canary.tid.clone());
            told.push(async move { site.ask_to_revoke(&tid).await.map(|(_, answer)| canary.revoked = Some(answer)) });
        }
        futures_util::StreamExt::next(&mut told).await;
    }

    /// What nobody answered is asked for again: from then on it is revoked for certain.
    async fn ask_again(&mut self) {
        for canary in &mut self.canaries {
            if matches!(canary.revoked, Some(Revoked::Unknown)) {
                canary.revoked = Some(self.site.revoke(&canary.tid).await);
                assert!(!matches!(canary.revoked, Some(Revoked::Unknown)), "the authority answers after the fault");
            }
        }
    }

    /// A revocation whose process ended right after its COMMIT had returned at this moment.
    pub fn was_committed(&mut self, at: u64) {
        let open = self.canaries.iter_mut().rev().find(|c| matches!(c.revoked, Some(Revoked::Unknown)) && c.asked <= at);
        open.expect("a revocation without an answer").revoked = Some(Revoked::At(at));
    }

    async fn head(&self) -> ((u64, u64), String) {
        let began = Instant::now();
        loop {
            if let Some(head) = self.site.head().await {
                return head;
            }
            assert!(began.elapsed() < VIEW_WAIT, "the authority says its head after the fault");
        }
    }

    async fn stale(&mut self, fault: &Fault) -> u64 {
        let mut sum = 0;
        for who in fault.on {
            sum += self.watchers[*who].status().await.stale;
        }
        sum
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Status) -> bool) {
        assert!(self.try_until(is_so).await, "{what}");
    }

    async fn try_until(&mut self, is_so: impl Fn(&Status) -> bool) -> bool {
        let began = Instant::now();
        'again: while began.elapsed() < VIEW_WAIT {
            for watcher in &mut self.watchers {
                if !is_so(&watcher.status().await) {
                    sleep(Duration::from_millis(5)).await;
                    continue 'again;
                }
            }
            return true;
        }
        false
    }

    async fn told(&mut self, head: &((u64, u64), String)) -> String {
        let mut text = format!("head {:?}", head.0);
        for (who, watcher) in self.watchers.iter_mut().enumerate() {
            let s = watcher.status().await;
            let verdicts: Vec<_> = s.canaries.iter().map(|(_, verdict, _)| &verdict[..1]).collect();
            text += &format!("; verifier {who} at {:?}, verdicts {}, alarms {:?}, {:?}", s.watermark, verdicts.concat(), s.alarms, s.last_error);
        }
        text
    }
}

/// Revocations after the fault.
const AFTER: usize = 2;
/// The promise (P4).
const LATE_US: u64 = 200_000;
const VIEW_WAIT: Duration = Duration::from_secs(20);
/// Within this of healing, everybody knows everything.
const HEAL_WITHIN: Duration = Duration::from_secs(1);
