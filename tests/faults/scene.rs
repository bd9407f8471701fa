//! One fault: verifiers that decide without pause, revocations before, during and after it, and what must hold.

use std::time::Duration;

use procura_verifier::ids::{Clock as _, SystemClock};
use tokio::time::{Instant, sleep};

use crate::channel::{MANGLED, Publisher};
use crate::fault::{Fault, Needs};
use crate::load::Load;
use crate::mangle::Mangler;
use crate::site::{Revoked, Site};
use crate::support::redis::RedisProcess;
use crate::watcher::{Ears, Status, Watcher};
use crate::wire::{Way, Wire};

/// Who verifies, and by which way.
pub struct Scene {
    pub site: Site,
    /// The first verifier's way to the authority.
    pub wire: Wire,
    /// The second's.
    pub mangler: Mangler,
    /// The third's, where there is a Redis.
    pub pulls: Wire,
    /// From Redis to those who listen there.
    pub hearing: Option<Wire>,
    /// Somebody who publishes there.
    pub publisher: Option<Publisher>,
    pub load: Option<Load>,
    /// One behind the wire, one behind the relay that mangles, one with nothing between. Where there is a Redis, the first hears that as well,
    /// and the third holds no stream: it lives of Redis, and of pulls when that is silent.
    pub watchers: Vec<Watcher>,
    /// Resident memory of each when the fault began, in KiB.
    memory: Vec<u64>,
    canaries: Vec<Canary>,
    next: usize,
    _front: Wire,
}

struct Canary {
    tid: String,
    token: Vec<u8>,
    revoked: Option<Revoked>,
    asked: u64,
    /// Whether each verifier must have allowed it first.
    shown: bool,
}

/// One line of the report.
#[derive(Debug, Default)]
pub struct Outcome {
    pub revocations: usize,
    pub late_allows: u64,
    /// Latest allow after a commit, in milliseconds.
    pub latest_ms: f64,
    pub stale: u64,
    /// Longest time for which one verifier was stale without a pause.
    pub longest_stale: Duration,
    pub full_view: Duration,
    pub problems: Vec<String>,
}

impl Scene {
    pub async fn set(site: Site, canaries: usize, fault: &Fault) -> Self {
        let (wire, pulls, front) = (Wire::among(site.all()).await, Wire::among(site.all()).await, Wire::among(site.all()).await);
        let mangler = Mangler::to(front.at).await;
        let (mut hearing, mut publisher) = (None, None);
        let mut ears = vec![Ears::stream(wire.url()), Ears::stream(mangler.url.clone()), Ears::stream(site.url())];
        if let Some(redis) = &site.redis {
            let way = Wire::to(([127, 0, 0, 1], redis.port).into()).await;
            let prefix = if fault.is_relayed() {
                publisher = Some(Publisher::relay(&redis.url()).await);
                Some(MANGLED.to_owned())
            } else {
                None
            };
            let redis = Some((format!("redis://{}", way.at), prefix));
            ears[0].redis.clone_from(&redis);
            ears[2] = Ears { authority: pulls.url(), stream: false, redis };
            hearing = Some(way);
        }
        if let Some((stream, head)) = &site.hour_old {
            mangler.recorded(stream, head.clone());
            publisher.iter().for_each(|p| p.recording.lock().unwrap().clone_from(stream));
        }
        let watchers = ears.iter().map(|ears| Watcher::start(ears, &site.trust(), fault.control)).collect();
        let mut scene =
            Self { site, wire, mangler, pulls, hearing, publisher, load: None, watchers, memory: Vec::new(), canaries: Vec::new(), next: 1, _front: front };
        for _ in 0..canaries {
            let (tid, token) = scene.site.mint().await;
            scene.canary(tid, token, true).await;
        }
        // The first is never revoked.
        scene.until("everybody allows everything", |s| s.canaries.iter().all(|(_, verdict, _)| verdict == "allow")).await;
        scene
    }

    pub fn redis(&mut self) -> &mut RedisProcess {
        self.site.redis.as_mut().expect("a site with Redis")
    }

    pub fn hearing(&self) -> &Wire {
        self.hearing.as_ref().expect("a site with Redis")
    }

    pub fn publisher(&self) -> &Publisher {
        self.publisher.as_ref().expect("a relay")
    }

    /// Of those who hear Redis: streams, pulls, tail.
    pub fn http(&self, way: Way) {
        self.wire.set(way, way);
        self.pulls.set(way, way);
    }

    /// Agents at these replicas, at work when this returns.
    pub async fn work(&mut self, replicas: &[usize], pause: Duration) {
        let load = Load::tokens(&self.site, replicas, 2, pause);
        load.reached(10).await;
        self.load = Some(load);
    }

    /// One more token for everybody to decide on.
    pub async fn canary(&mut self, tid: String, token: Vec<u8>, shown: bool) {
        for watcher in &mut self.watchers {
            watcher.canary(self.canaries.len(), &token, &self.site.key).await;
        }
        self.canaries.push(Canary { tid, token, revoked: None, asked: 0, shown });
    }

    /// A verifier that begins to listen now, cold.
    pub async fn newcomer(&mut self, ears: &Ears) {
        let mut watcher = Watcher::start(ears, &self.site.trust(), false);
        for (number, canary) in self.canaries.iter().enumerate() {
            watcher.canary(number, &canary.token, &self.site.key).await;
        }
        self.memory.push(watcher.resident_kib());
        self.watchers.push(watcher);
    }

    /// Gives the site back, if it is as it was.
    pub async fn run(mut self, fault: &Fault, lasting: Duration) -> (Outcome, Option<Site>) {
        for _ in 0..3 {
            self.revoke_next().await;
        }
        self.memory = self.watchers.iter().map(Watcher::resident_kib).collect();
        for watcher in &mut self.watchers {
            watcher.tell("mark").await;
        }
        let stale_before = self.stale(fault).await;
        let mut problems = Vec::new();
        fault.begin(&mut self, &mut problems).await;
        let ends = Instant::now() + lasting;
        while Instant::now() < ends && self.next + AFTER < self.canaries.len() {
            let gap = lasting / u32::try_from(self.canaries.len() - AFTER).unwrap();
            let due = Instant::now() + gap;
            self.revoke_next().await;
            fault.during(&mut self).await;
            sleep(due.saturating_duration_since(Instant::now())).await;
        }
        sleep(ends.saturating_duration_since(Instant::now())).await;
        self.load.iter().for_each(Load::stop);
        fault.end(&mut self, &mut problems).await;
        let healed = Instant::now();
        if let Some(load) = self.load.take() {
            load.ended(&mut problems).await;
        }
        let stale = self.stale(fault).await - stale_before;
        self.ask_again().await;
        let head = self.head().await;
        let gone: Vec<_> = self.canaries.iter().map(|c| c.revoked.is_some()).collect();
        let whole = |s: &Status| {
            let same = s.canaries.iter().zip(&gone).all(|((_, verdict, _), gone)| verdict == expected(*gone));
            same && (s.watermark, s.hash.clone()) == head
        };
        let full_view = if self.try_until(whole).await.is_ok() { healed.elapsed() } else { VIEW_WAIT };
        if full_view > HEAL_WITHIN {
            problems.push(format!("full view after {:.1} s: {}", full_view.as_secs_f64(), self.told(&head).await));
        }
        let longest_stale = self.harm(fault, lasting, &mut problems).await;
        for _ in 0..AFTER {
            self.revoke_next().await;
        }
        // Long enough to see an allow that comes too late.
        sleep(Duration::from_millis(300)).await;
        let outcome = Outcome { stale, longest_stale, full_view, ..self.judge(fault, stale, problems).await };
        let reusable = fault.needs == Needs::Shared && !fault.is_kill() && outcome.problems.is_empty();
        (outcome, reusable.then_some(self.site))
    }

    /// What the fault did to those whom it should not have touched, and to anybody's memory.
    async fn harm(&mut self, fault: &Fault, lasting: Duration, problems: &mut Vec<String>) -> Duration {
        // What a busy machine does to anybody is shorter; what a fault does lasts as long as it does.
        let (moment, mut longest) = (MOMENT.min(lasting / 2), Duration::ZERO);
        for (who, watcher) in self.watchers.iter_mut().enumerate().take(ORIGINAL) {
            let status = watcher.status().await;
            let stale = Duration::from_micros(status.longest_stale_us);
            if stale > moment && fault.unharmed.contains(&who) {
                problems.push(format!("verifier {who} was stale for {} ms, although another way was open", stale.as_millis()));
            }
            if !fault.forks() && status.alarms.iter().any(|alarm| alarm.starts_with("Fork")) {
                problems.push(format!("verifier {who} took it for a fork: {:?}", status.alarms));
            }
            longest = longest.max(stale);
        }
        for (who, (watcher, before)) in self.watchers.iter().zip(&self.memory).enumerate() {
            let grown = watcher.resident_kib().saturating_sub(*before);
            if grown > MAX_GROWN_KIB {
                problems.push(format!("verifier {who} grew by {grown} KiB"));
            }
        }
        longest
    }

    async fn judge(&mut self, fault: &Fault, stale: u64, mut problems: Vec<String>) -> Outcome {
        let gone: Vec<_> = self.canaries.iter().map(|c| c.revoked.is_some()).collect();
        // A machine that is busy makes a verifier stale for a moment at any time: what is judged is each one's word when all of it was right.
        let right = |s: &Status| s.canaries.iter().zip(&gone).all(|((_, verdict, _), gone)| verdict == expected(*gone));
        if let Err((who, status)) = self.try_until(right).await {
            for ((_, verdict, _), (canary, gone)) in status.canaries.iter().zip(self.canaries.iter().zip(&gone)) {
                if verdict != expected(*gone) {
                    problems.push(format!("verifier {who} says {verdict} of {}, expected {}", canary.tid, expected(*gone)));
                }
            }
        }
        let (mut late_allows, mut latest) = (0, 0);
        let revocations = gone.iter().filter(|gone| **gone).count();
        for (who, watcher) in self.watchers.iter_mut().enumerate() {
            let status = watcher.status().await;
            if who >= ORIGINAL && status.batches >= status.watermark.1 {
                problems.push(format!("verifier {who} read {} messages and no snapshot", status.batches));
            }
            for (canary, (last_allow, _, after_revoked)) in self.canaries.iter().zip(&status.canaries) {
                late_allows += after_revoked;
                if let Some(Revoked::At(committed)) = canary.revoked {
                    // A newcomer knows nothing or everything: what was revoked before its time it never allows.
                    let bound = if committed < watcher.born { 0 } else { committed + LATE_US };
                    late_allows += u64::from(*last_allow > bound);
                    latest = latest.max(last_allow.saturating_sub(committed));
                }
                if *last_allow == 0 && canary.shown && who < ORIGINAL {
                    problems.push(format!("verifier {who} never allowed {}", canary.tid));
                }
            }
        }
        if let Some(shared) = &self.site.shared
            && !fault.is_kill()
        {
            let revoked = shared.revoked().await;
            for (canary, gone) in self.canaries.iter().zip(&gone) {
                if revoked.contains(&canary.tid) != *gone {
                    problems.push(format!("{} is not in the database what it is here: {}", canary.tid, expected(*gone)));
                }
            }
        }
        if fault.control {
            // What is found here is no failure of the system; not to find it would be one of this harness.
            problems.clear();
            if late_allows == 0 {
                problems.push("late allows of a verifier without a bound were not found".to_owned());
            }
        } else if late_allows > 0 {
            problems.push(format!("{late_allows} late allows"));
        }
        if fault.bites && stale == 0 {
            problems.push("nobody was stale: the fault did nothing".to_owned());
        }
        Outcome { revocations, late_allows, latest_ms: latest as f64 / 1000.0, problems, ..Outcome::default() }
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

    /// Everything here went with one kill, committed at this moment.
    pub fn all_revoked_at(&mut self, at: u64) {
        self.canaries.iter_mut().filter(|c| c.revoked.is_none()).for_each(|c| c.revoked = Some(Revoked::At(at)));
        self.next = self.canaries.len();
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
        if let Err((who, status)) = self.try_until(is_so).await {
            panic!("{what}: verifier {who}: {status:?}");
        }
    }

    /// Until each has said so once; or who has not, and what it says.
    async fn try_until(&mut self, is_so: impl Fn(&Status) -> bool) -> Result<(), (usize, Status)> {
        let began = Instant::now();
        for (who, watcher) in self.watchers.iter_mut().enumerate() {
            loop {
                let status = watcher.status().await;
                if is_so(&status) {
                    break;
                }
                if began.elapsed() > VIEW_WAIT {
                    return Err((who, status));
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
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

/// The verdict on what is revoked, or is not.
const fn expected(gone: bool) -> &'static str {
    if gone { "revoked" } else { "allow" }
}

/// Verifiers that were there from the beginning.
const ORIGINAL: usize = 3;
/// How long somebody may be stale who has another way open.
const MOMENT: Duration = Duration::from_secs(1);
const MAX_GROWN_KIB: u64 = 64 * 1024;
/// Revocations after the fault.
const AFTER: usize = 2;
/// The promise (P4).
const LATE_US: u64 = 200_000;
const VIEW_WAIT: Duration = Duration::from_secs(20);
/// Within this of healing, everybody knows everything.
const HEAL_WITHIN: Duration = Duration::from_secs(1);
