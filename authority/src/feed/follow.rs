//! What other processes commit: read, signed here, published in order (Ed25519 is deterministic: the same bytes as theirs).

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{FeedUnavailable, Inner, MAX_TAIL};
use crate::checkpoints::{Checkpoints, FollowError};
use crate::signer::released::ReleaseError;
use crate::store::shared::{Hint, settled};
use crate::store::{FeedRow, StoreError};

impl Inner {
    /// True if the head is further than what was published, by a beat or by another process's word.
    pub(super) fn is_behind(&self) -> bool {
        // The only writer publishes what it writes.
        let Some(shared) = self.store.shared() else { return false };
        let (head, hint) = (self.pulse.head(), shared.hints().borrow().feed);
        let published = self.published();
        hint.max((head.epoch, head.seq)) > (published.epoch, published.seq)
    }

    /// What is stored after a number, and durable: what no beat and no commit of this process has shown to be is asked about.
    pub(super) async fn read(&self, epoch: u64, seq: u64) -> Result<Vec<FeedRow>, FeedUnavailable> {
        let down = |e: StoreError| FeedUnavailable::Store(e.to_string());
        let rows = self.store.feed_since(epoch, seq, MAX_TAIL).await.map_err(down)?;
        let head = self.pulse.head();
        if rows.last().is_some_and(|last| (last.epoch, last.seq) > (head.epoch, head.seq)) {
            settled(&*self.store).await.map_err(down)?;
        }
        Ok(rows)
    }

    /// Publishes what is stored after what was published last.
    pub(super) async fn catch_up(&self) -> Result<(), FeedUnavailable> {
        let reading = async {
            let _one = self.following.lock().await;
            self.read_on().await
        };
        timeout(CATCH_UP_WAIT, reading).await.unwrap_or(Err(FeedUnavailable::HeadUnknown))
    }

    /// The same for a crowd that asks for it at once: one reads for all.
    pub(super) async fn catch_up_once(&self) -> Result<(), FeedUnavailable> {
        let reading = async {
            let _one = self.following.lock().await;
            if self.is_behind() { self.read_on().await } else { Ok(()) }
        };
        timeout(CATCH_UP_WAIT, reading).await.unwrap_or(Err(FeedUnavailable::HeadUnknown))
    }

    async fn read_on(&self) -> Result<(), FeedUnavailable> {
        loop {
            let (epoch, seq, list) = {
                let published = self.published();
                (published.epoch, published.seq, published.list)
            };
            let rows = self.read(epoch, seq).await?;
            for row in &rows {
                // A hole means that this process's own writer was faster: what it published is skipped on the next round.
                if !self.send_next(row.epoch, row.seq, self.signed(row)?, list) {
                    break;
                }
            }
            if rows.len() < MAX_TAIL as usize {
                return Ok(());
            }
        }
    }
}

/// Looks when another process says that it has committed, when the writer or a beat saw that one has, and now and then.
/// Ends with the feed.
pub(super) async fn run(inner: Weak<Inner>, checkpoints: Arc<Checkpoints>) {
    let Some(feed) = inner.upgrade() else { return };
    let (mut hints, shared) = match feed.store.shared() {
        Some(shared) => (shared.hints(), true),
        // Nobody else writes: only an own message that could not be sent is ever behind.
        None => (watch::Sender::new(Hint::default()).subscribe(), false),
    };
    let behind = Arc::clone(&feed.behind);
    drop(feed);
    let mut now_and_then = interval(LOOK_EVERY);
    now_and_then.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut may_show = Instant::now();
    let mut must_show = false;
    loop {
        let mut asked = false;
        tokio::select! {
            heard = hints.changed(), if shared => {
                // The store has gone, and with it the feed soon.
                if heard.is_err() {
                    return;
                }
                must_show = true;
            }
            () = behind.notified() => asked = true,
            _ = now_and_then.tick() => asked = shared,
            () = sleep_until(may_show), if must_show => {}
        }
        must_show |= asked;
        let Some(feed) = inner.upgrade() else { return };
        let heard = *hints.borrow_and_update();
        if (asked || heard.feed == (0, 0) || feed.is_behind())
            && let Err(e) = feed.catch_up().await
        {
            tracing::warn!(error = %e, "commits of others are not published yet");
        }
        must_show &= heard.size == 0 || heard.size > checkpoints.known().size;
        // Each costs a write to disk: not one for every commit of others.
        if must_show && Instant::now() >= may_show {
            may_show = Instant::now() + SHOW_EVERY;
            match checkpoints.follow(&*feed.store).await {
                Ok(()) => must_show = false,
                Err(FollowError::Release(ReleaseError::Fork { .. } | ReleaseError::Stopped)) => return,
                Err(e) => tracing::warn!(error = %e, "checkpoint of others' commits is not shown yet"),
            }
        }
    }
}

/// How often the store is looked at although nobody said anything.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a checkpoint of others' commits is shown at most.
const SHOW_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for the store before streams go on without.
const CATCH_UP_WAIT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use crate::domain::principal::Principal;
    use crate::usecase::fixture::{app, key};
    use crate::usecase::revoke::{Target, revoke};

    #[tokio::test]
    async fn what_was_signed_before_a_key_list_came_into_force_is_sent_and_not_kept() {
        let app = app().await;
        revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(key(1)), None, None).await.unwrap();
        let feed = &app.ctx.feed;
        let signed = feed.tail(1, 0).await.unwrap().remove(0);
        let (before, heard) = (feed.lists(), feed.subscribe());
        feed.key_list_changed(1, [0; 32]);
        assert!(feed.recent(1, 0).is_none());
        assert!(feed.0.send_next(1, 2, signed.clone(), before));
        assert!(feed.recent(1, 1).is_none(), "its key may be dead by now");
        assert!(feed.0.send_next(1, 3, signed, feed.lists()));
        assert_eq!(feed.recent(1, 2).map(|kept| kept.messages.len()), Some(1));
        drop(heard);
    }
}
