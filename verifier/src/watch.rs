//! Effects that last: a future that resolves with the cause as soon as what was allowed no longer would be (law 7).
//!
//! One task looks at all watches: when something was taken back, frozen or ended in the view, and when the bound or the life
//! of one of them runs out. Nothing is polled in between but once a second. Needs a tokio runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::decision::{Cause, STRICT_MS, ToolPolicy, standing};
use crate::ids::{BootTime, Clock};
use crate::revocation::View;
use crate::token::VerifiedToken;

/// All watches on one view, at most so many at once. Dropped, it ends them as `unavailable`.
pub struct Watches {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

struct Shared {
    view: Arc<View>,
    clock: Arc<dyn Clock>,
    pull: Box<dyn Fn() + Send + Sync>,
    watched: Mutex<Vec<Watched>>,
    changed: Arc<Notify>,
    places: Arc<Semaphore>,
    most: usize,
}

struct Watched {
    token: Arc<VerifiedToken>,
    policy: ToolPolicy,
    /// Up to when it was found to stand.
    until: BootTime,
    /// Since when the view is stale.
    doubted: Option<BootTime>,
    tell: oneshot::Sender<Cause>,
}

/// Resolves with the cause when the effect must end: taken back, expired, frozen, its keys dead, or `stale` because nobody
/// vouches any more within the bound in force. Dropping it ends the watch.
#[must_use = "a watch that nobody awaits ends nothing"]
#[derive(Debug)]
pub struct Watch {
    told: oneshot::Receiver<Cause>,
    _place: OwnedSemaphorePermit,
}

/// As many effects are watched as may be: begin no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many watches at once, expected at most {most}")]
pub struct TooManyWatches {
    /// The limit.
    pub most: usize,
}

impl Watches {
    /// Begins to look at a view. `pull` starts a pull and returns at once ([`crate::feed::sse::FeedClient::puller`]): it is
    /// called when two thirds of a bound are over, so that the answer is here before the effect has to end.
    pub fn start(view: Arc<View>, clock: Arc<dyn Clock>, pull: impl Fn() + Send + Sync + 'static, most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        view.on_change(move || notify.notify_one());
        let places = Arc::new(Semaphore::new(most));
        let shared = Arc::new(Shared { view, clock, pull: Box::new(pull), watched: Mutex::default(), changed, places, most });
        let task = tokio::spawn(look(Arc::clone(&shared))).abort_handle();
        Self { shared, task }
    }

    /// Watches a token that was allowed until `allowed_until` under this policy.
    pub fn watch(&self, token: Arc<VerifiedToken>, policy: ToolPolicy, allowed_until: BootTime) -> Result<Watch, TooManyWatches> {
        let place = Arc::clone(&self.shared.places).try_acquire_owned();
        let place = place.map_err(|_| TooManyWatches { most: self.shared.most })?;
        let (tell, told) = oneshot::channel();
        self.shared.lock().push(Watched { token, policy, until: allowed_until, doubted: None, tell });
        // What came between the decision and now counts.
        self.shared.changed.notify_one();
        Ok(Watch { told, _place: place })
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever still waits is told by the end of its sender.
        self.shared.lock().clear();
    }
}

impl Future for Watch {
    type Output = Cause;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Cause> {
        // Nobody looks any more: nothing says that it may go on.
        Pin::new(&mut self.told).poll(context).map(|told| told.unwrap_or(Cause::Unavailable))
    }
}

async fn look(shared: Arc<Shared>) {
    loop {
        let now = shared.clock.boot();
        let next = shared.judge(now).min(now.plus_micros(LOOK_US));
        // A storm of revocations is looked at in portions.
        tokio::time::sleep(GAP).await;
        let wait = Duration::from_micros(next.micros_since(shared.clock.boot()));
        // Either is reason enough to look again.
        let _ = tokio::time::timeout(wait, shared.changed.notified()).await;
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Watched>> {
        // Each entry is whole by itself.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every watch that has ended; the next moment to look.
    fn judge(&self, now: BootTime) -> BootTime {
        let mut watched = self.lock();
        let (mut next, mut pull) = (BootTime(u64::MAX), false);
        let mut left = Vec::with_capacity(watched.len());
        for mut w in watched.drain(..) {
            if w.tell.is_closed() {
                continue;
            }
            match self.stands(&mut w, now) {
                Ok((look_at, wants)) => {
                    next = next.min(look_at);
                    pull |= wants;
                    left.push(w);
                }
                // Whoever no longer waits has ended by itself.
                Err(cause) => _ = w.tell.send(cause),
            }
        }
        *watched = left;
        drop(watched);
        if pull {
            (self.pull)();
        }
        next
    }

    /// When to look at this one again, and whether a pull is due.
    fn stands(&self, w: &mut Watched, now: BootTime) -> Result<(BootTime, bool), Cause> {
        match standing(&w.token, &w.policy, &self.view, &*self.clock) {
            Ok(allow) => {
                (w.until, w.doubted) = (allow.valid_until, None);
                let ask_at = allow.mode.bound_ms().zip(allow.fresh_as_of).map(|(ms, fresh)| fresh.plus_micros(u64::from(ms) * 1000 * 2 / 3));
                Ok(match ask_at {
                    Some(at) if now < at => (at.min(allow.valid_until), false),
                    asked => (allow.valid_until.plus_micros(1), asked.is_some()),
                })
            }
            Err(Cause::Stale) => {
                // The view was fenced: for a new key list, a pause, a fork. One pull may mend it, and no effect lasts longer for it than it would have.
                let since = *w.doubted.get_or_insert(now);
                let end = w.until.min(since.plus_micros(u64::from(STRICT_MS) * 1000));
                if now > end { Err(Cause::Stale) } else { Ok((end.plus_micros(1), true)) }
            }
            Err(cause) => Err(cause),
        }
    }
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches").field("watched", &self.shared.lock().len()).finish_non_exhaustive()
    }
}

/// At least so often: authority time is not exactly this machine's.
const LOOK_US: u64 = 1_000_000;
const GAP: Duration = Duration::from_millis(2);

#[cfg(all(test, not(loom)))]
mod tests;
