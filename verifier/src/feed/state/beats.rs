//! Judging heartbeats: what the head at a moment says of the history known here (F7, F8, F11, F12).

use super::{FeedState, Need};
use crate::feed::message::Heartbeat;
use crate::feed::state::Alarm;
use crate::ids::{BootTime, Key, UtcMillis};
use crate::receipt::Relied;
use crate::revocation::RevocationView as _;

/// What is left of a heartbeat once its clock is mapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beat {
    fresh: BootTime,
    epoch: u64,
    seq: u64,
    hash: [u8; 32],
    utc: UtcMillis,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct WantedList {
    version: u64,
    hash: [u8; 32],
    pub(super) said_by: Key,
}

impl FeedState {
    pub(super) fn heartbeat(&mut self, h: &Heartbeat, key: Key, now: BootTime) -> Need {
        self.counters.heartbeats += 1;
        // F11: only an answer to our own nonce maps a clock.
        self.nonces.retain(|(asked, left)| {
            let answered = h.nonces.iter().any(|n| n == asked);
            let in_time = now.micros_since(*left) <= ANSWER_WAIT_US;
            if answered && in_time {
                self.clocks.map(h.clock, h.t_us, *left);
            }
            !answered && in_time
        });
        let Some(fresh) = self.clocks.fresh(h.clock, h.t_us, now) else {
            self.counters.unmapped += 1;
            return self.hint(h);
        };
        if !self.clocks.advance(h.clock, h.t_us) {
            // An answer older than what this clock said since: it mapped the clock better, and that was all it could do.
            return Need::Nothing;
        }
        self.heard = Some(now);

        let keys = self.view.key_list();
        let held = keys.payload().version;
        if h.key_list_version > held || (h.key_list_version == held && h.key_list_hash != *keys.hash()) {
            // F8: a key may be dead that this view still trusts.
            if h.key_list_version == held {
                self.alarm(Alarm::KeyList { version: held });
            }
            if self.wanted_list.is_none_or(|w| w.version <= h.key_list_version) {
                self.wanted_list = Some(WantedList { version: h.key_list_version, hash: h.key_list_hash, said_by: key });
            }
            self.view.fence();
        }
        let in_time = match self.began {
            Some(began) => self.view.observe_utc_after(began, h.utc, now),
            None => self.view.observe_utc(h.utc, now),
        };
        if !in_time {
            if !self.clock_alarm {
                self.clock_alarm = true;
                let known = self.view.utc(now).unwrap_or_default();
                self.alarm(Alarm::Clock { said: h.utc, known });
            }
            // The epoch start that confirms it may stand in the tail.
            return self.hint(h);
        }
        if h.epoch == self.epoch {
            self.began = None;
        }
        self.clock_alarm = false;
        let beat = Beat { fresh, epoch: h.epoch, seq: h.head_seq, hash: h.head_hash, utc: h.utc };
        self.judge(beat, now)
    }

    /// Of a heartbeat that proves nothing: that there may be more, no more than that.
    fn hint(&self, h: &Heartbeat) -> Need {
        let more = h.epoch > self.epoch || (h.epoch == self.epoch && h.head_seq > self.seq());
        if more { self.tail() } else { Need::Nothing }
    }

    /// F7: the head at a moment, against what is known here.
    fn judge(&mut self, beat: Beat, now: BootTime) -> Need {
        let (epoch, seq, _) = self.watermark();
        if beat.epoch < epoch {
            // Taken after this epoch was known here: that authority has gone back.
            return if beat.fresh >= self.entered { self.fork_in(beat.epoch, beat.seq, now) } else { Need::Nothing };
        }
        if beat.epoch > epoch || beat.seq > seq {
            self.wait(beat);
            return self.tail();
        }
        // Below the watermark is no fork while the heartbeat may be older than the batches above it; it is one as soon as it cannot.
        let after = beat.seq.max(self.base.saturating_sub(1)).saturating_add(1);
        let gone_back = beat.seq < seq && self.link(after).is_some_and(|l| l.reached <= beat.fresh);
        let known = self.link(beat.seq).map(|l| l.hash);
        if gone_back || known.is_some_and(|hash| hash != beat.hash) {
            return self.fork(beat.seq, now);
        }
        if known.is_none() {
            return Need::Nothing;
        }
        if self.list_is_behind() {
            self.wait(beat);
            return Need::KeyList;
        }
        self.view.publish(beat.fresh, Relied { epoch: beat.epoch, seq: beat.seq, hash: beat.hash, utc: beat.utc });
        self.counters.published += 1;
        Need::Nothing
    }

    /// Judges again what waited.
    pub(super) fn settle(&mut self, now: BootTime) -> Need {
        let mut need = Need::Nothing;
        for beat in std::mem::take(&mut self.waiting) {
            let forks = self.counters.forks;
            let next = self.judge(beat, now);
            if self.counters.forks != forks {
                return next;
            }
            if next != Need::Nothing {
                need = next;
            }
        }
        need
    }

    fn wait(&mut self, beat: Beat) {
        // The oldest are settled first and the newest is worth most: what gives way is between them.
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_back();
        }
        self.waiting.push_back(beat);
    }

    fn list_is_behind(&mut self) -> bool {
        let Some(wanted) = self.wanted_list else { return false };
        let keys = self.view.key_list();
        let held = keys.payload().version;
        let behind = held < wanted.version || (held == wanted.version && *keys.hash() != wanted.hash);
        if !behind {
            self.wanted_list = None;
        }
        behind
    }
}

/// No request waits longer. The first answer sets authority time: held back for longer, it would make every later one seem ahead.
const ANSWER_WAIT_US: u64 = 2_000_000;
const MAX_WAITING: usize = 16;
