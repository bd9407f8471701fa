//! Decides without pause on tokens that are about to be revoked, for every verifier, and notes the last allow and the first deny after it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use procura_verifier::decision::{Asked, Cause, Decision, ToolPolicy, decide};
use procura_verifier::ids::{BootTime, Clock, SystemClock, UtcMillis};
use procura_verifier::proof::VerifiedProof;
use procura_verifier::revocation::View;
use procura_verifier::token::VerifiedToken;

/// One token with the proof of one call.
pub struct Canary {
    pub token: VerifiedToken,
    pub proof: VerifiedProof<'static>,
}

/// What the spinner saw of one canary.
#[derive(Clone, Debug)]
pub struct Seen {
    /// For each verifier: the reading of the clock inside the last allow, and of the first deny after it.
    pub verifiers: Vec<(u64, Option<u64>)>,
    /// Denials for want of freshness, by verifier.
    pub stale: Vec<u64>,
}

/// Under watch, by place in the list of canaries.
struct Watched {
    canary: Arc<Canary>,
    seen: Seen,
    sweeps: u64,
}

/// Shared between whoever revokes and the thread that spins.
pub struct Spinner {
    views: Vec<Arc<View>>,
    watched: Mutex<HashMap<usize, Watched>>,
    stop: AtomicBool,
    /// Decisions a second beside the canaries' own.
    background: u64,
    /// Microseconds from one look at a canary to the next: the measuring error.
    pub sweeps: Mutex<hdrhistogram::Histogram<u64>>,
    pub decisions: AtomicU64,
}

impl Spinner {
    pub fn start(views: Vec<Arc<View>>, load: Option<(Arc<Canary>, u64)>) -> (Arc<Self>, std::thread::JoinHandle<()>) {
        let spinner = Arc::new(Self {
            views,
            watched: Mutex::default(),
            stop: AtomicBool::new(false),
            background: load.as_ref().map_or(0, |(_, rate)| *rate),
            sweeps: Mutex::new(hdrhistogram::Histogram::new(3).expect("three digits")),
            decisions: AtomicU64::new(0),
        });
        let thread = std::thread::spawn({
            let spinner = Arc::clone(&spinner);
            move || spinner.spin(load.map(|(canary, _)| canary))
        });
        (spinner, thread)
    }

    /// From now on the canary is decided on in every sweep.
    pub fn watch(&self, index: usize, canary: Arc<Canary>) {
        let seen = Seen { verifiers: vec![(0, None); self.views.len()], stale: vec![0; self.views.len()] };
        self.watched().insert(index, Watched { canary, seen, sweeps: 0 });
    }

    /// What was seen of it, and no more of it.
    pub fn take(&self, index: usize) -> Option<Seen> {
        self.watched().remove(&index).map(|w| w.seen)
    }

    /// True once every verifier has allowed it.
    pub fn all_allow(&self, index: usize) -> bool {
        self.watched().get(&index).is_some_and(|w| w.seen.verifiers.iter().all(|(allowed, denied)| *allowed > 0 && denied.is_none()))
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spin(&self, load: Option<Arc<Canary>>) {
        let clock = Noting { inner: SystemClock, last: AtomicU64::new(0) };
        let (mut before, mut owed, mut turn) = (clock.inner.boot().0, 0.0, 0_usize);
        while !self.stop.load(Ordering::Relaxed) {
            for watched in self.watched().values_mut() {
                watched.sweeps += 1;
                for ((view, seen), stale) in self.views.iter().zip(&mut watched.seen.verifiers).zip(&mut watched.seen.stale) {
                    // What denied once is looked at in every eighth sweep: only an allow after it would still be news.
                    if seen.1.is_some() && !watched.sweeps.is_multiple_of(8) {
                        continue;
                    }
                    let decision = one(&watched.canary, view, &clock);
                    let at = clock.last.load(Ordering::Relaxed);
                    match decision {
                        Decision::Allow(_) => *seen = (at, None),
                        Decision::Deny(cause) => {
                            *stale += u64::from(cause == Cause::Stale);
                            seen.1.get_or_insert(at);
                        }
                    }
                    self.decisions.fetch_add(1, Ordering::Relaxed);
                }
            }
            let now = clock.inner.boot().0;
            _ = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).record(now - before);
            if let Some(canary) = &load {
                owed += (now - before) as f64 * self.background as f64 / 1e6;
                while owed >= 1.0 && !self.views.is_empty() {
                    turn = (turn + 1) % self.views.len();
                    _ = std::hint::black_box(one(canary, &self.views[turn], &clock));
                    owed -= 1.0;
                }
            }
            before = now;
            // Two cores are shared with the authority, its database, Redis and the verifiers' own tasks.
            std::thread::sleep(PAUSE);
        }
    }
}

fn one(canary: &Canary, view: &View, clock: &Noting) -> Decision {
    let arrived = clock.inner.boot();
    decide(&canary.token, Asked::Proven(canary.proof.proven()), &ToolPolicy::STRICT, view, clock, arrived)
}

/// The machine's clock, and what it last said: an allow is timed by the last reading inside `decide`.
struct Noting {
    inner: SystemClock,
    last: AtomicU64,
}

impl Clock for Noting {
    fn boot(&self) -> BootTime {
        let now = self.inner.boot();
        self.last.store(now.0, Ordering::Relaxed);
        now
    }
    fn wall(&self) -> UtcMillis {
        self.inner.wall()
    }
}

const PAUSE: Duration = Duration::from_micros(100);
