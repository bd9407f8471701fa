//! A verifier: `FeedState` with its `ClockMap` and `View` (`verifier/src/feed/state.rs`, `clock.rs`, `verifier/src/revocation.rs`),
//! without bytes, signatures, key lists, UTC and pauses. Functions are named as there.

use std::collections::BTreeSet;

use crate::history::{History, Item, Says};
use crate::system::{Broken, Time};

/// Ticks for which freshness allows: the 150 ms.
pub const BOUND: Time = 1;
/// Clock ids: one a replica, or one a life of the only process.
pub const CLOCKS: usize = 2;
const MAX_WAITING: usize = 2;

/// "At my clock's `t` the head was `head`", and whose question of which moment it answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Heartbeat {
    pub clock: u8,
    pub t: Time,
    pub head: History,
    pub nonce: Option<Nonce>,
}

/// A verifier and the moment when its request left: there is one request a moment.
pub type Nonce = (u8, Time);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Verifier {
    me: u8,
    /// Bits of what was applied.
    pub items: u8,
    pub fresh: Option<Time>,
    entered: Time,
    /// This epoch's messages from number 0 to the watermark, and when each was here with all before it.
    pub chain: Vec<(History, Time)>,
    ahead: BTreeSet<History>,
    next: Option<History>,
    waiting: Vec<(Time, History)>,
    /// `left - t` of the best mapping of each clock.
    mapped: [Option<i16>; CLOCKS],
    newest: [Option<Time>; CLOCKS],
    pub asked: Option<Time>,
    pub fork: bool,
    pub loss: bool,
}

impl Verifier {
    pub fn new(me: u8) -> Self {
        let mut v = Self {
            me,
            items: 0,
            fresh: None,
            entered: 0,
            chain: Vec::new(),
            ahead: BTreeSet::new(),
            next: None,
            waiting: Vec::new(),
            mapped: [None; CLOCKS],
            newest: [None; CLOCKS],
            asked: None,
            fork: false,
            loss: false,
        };
        v.restart(0, None);
        v
    }

    /// L7, at the last reading of the clock.
    pub fn allows(&self, now: Time) -> bool {
        self.fresh.is_some_and(|f| now <= f + BOUND)
    }

    pub fn knows(&self, item: Item) -> bool {
        self.items & 1 << item != 0
    }

    pub fn is_alarmed(&self) -> bool {
        self.fork || self.loss
    }

    /// F11: noted right before the request leaves.
    pub fn ask(&mut self, now: Time) {
        self.asked = Some(now);
    }

    /// F5.
    pub fn apply(&mut self, message: History) {
        if let Some(Says::Batch(item)) = message.says() {
            self.items |= 1 << item;
        }
    }

    /// `batch` and `epoch_start` after their items were applied.
    pub fn place(&mut self, message: History, now: Time, broken: Option<Broken>) {
        let (epoch, seq) = (message.epoch(), message.seq());
        if message.says() == Some(Says::EpochStart) {
            if epoch == self.epoch() && self.chain[0].0 != message {
                return self.fork(now, broken);
            }
            if epoch != self.epoch() + 1 {
                return;
            }
            self.next = Some(message);
            return self.advance(now, broken);
        }
        if epoch != self.epoch() {
            return;
        }
        if seq <= self.seq() {
            if self.link(seq) != Some(message) {
                self.fork(now, broken);
            }
            return;
        }
        if self.ahead.iter().any(|a| a.seq() == seq && *a != message) {
            return self.fork(now, broken);
        }
        self.ahead.insert(message);
        self.advance(now, broken);
    }

    /// F6.
    fn advance(&mut self, now: Time, broken: Option<Broken>) {
        loop {
            let seq = self.seq();
            if let Some(start) = self.next.take_if(|s| s.prev().seq() <= seq) {
                if self.link(start.prev().seq()) != Some(start.prev()) {
                    return self.fork(now, broken);
                }
                self.loss |= start.prev().seq() < seq;
                self.enter(start, now);
                continue;
            }
            let Some(next) = self.ahead.iter().copied().find(|a| a.seq() == seq + 1) else { break };
            self.ahead.remove(&next);
            if Some(next.prev()) != self.link(seq) {
                return self.fork(now, broken);
            }
            self.chain.push((next, now));
        }
        self.settle(now, broken);
    }

    fn enter(&mut self, start: History, now: Time) {
        self.entered = now;
        self.chain = vec![(start, now)];
        self.ahead.clear();
    }

    pub fn heartbeat(&mut self, h: Heartbeat, now: Time, broken: Option<Broken>) {
        let clock = usize::from(h.clock);
        if let Some((who, left)) = h.nonce
            && who == self.me
            && self.asked == Some(left)
        {
            self.asked = None;
            let paired = if broken == Some(Broken::MapAtArrival) { now } else { left };
            self.mapped[clock] = self.mapped[clock].max(Some(i16::from(paired) - i16::from(h.t)));
        }
        let Some(fresh) = self.mapped[clock].map(|m| m + i16::from(h.t)) else { return };
        if fresh > i16::from(now) {
            self.mapped[clock] = None;
            return;
        }
        // Before the start of the model: nothing to be fresh about.
        let Ok(fresh) = Time::try_from(fresh) else { return };
        if self.newest[clock].is_some_and(|newest| h.t <= newest) {
            return;
        }
        self.newest[clock] = Some(h.t);
        self.judge(fresh, h.head, now, broken);
    }

    /// F7. The code compares with `<=`, what it compares is a microsecond older than the truth at least; here, a tick is no shorter than that.
    fn judge(&mut self, fresh: Time, head: History, now: Time, broken: Option<Broken>) {
        let (epoch, seq) = (head.epoch(), head.seq());
        if epoch < self.epoch() {
            if fresh > self.entered && broken != Some(Broken::GoneBackIsFine) {
                self.fork(now, broken);
            }
            return;
        }
        if epoch > self.epoch() || seq > self.seq() {
            if self.waiting.len() == MAX_WAITING {
                self.waiting.pop();
            }
            self.waiting.push((fresh, head));
            return;
        }
        let gone_back = self.chain.get(usize::from(seq) + 1).is_some_and(|(_, reached)| *reached < fresh);
        if (gone_back && broken != Some(Broken::GoneBackIsFine)) || self.link(seq) != Some(head) {
            return self.fork(now, broken);
        }
        // `View::publish`.
        self.fresh = self.fresh.max(Some(fresh));
    }

    fn settle(&mut self, now: Time, broken: Option<Broken>) {
        for (fresh, head) in std::mem::take(&mut self.waiting) {
            let (chain, forked) = (self.chain.len(), std::mem::take(&mut self.fork));
            self.judge(fresh, head, now, broken);
            let again = self.fork;
            self.fork |= forked;
            if again {
                return;
            }
            debug_assert_eq!(chain, self.chain.len());
        }
    }

    fn fork(&mut self, now: Time, broken: Option<Broken>) {
        self.fork = true;
        // `View::fence`.
        self.fresh = None;
        self.restart(now, broken);
    }

    fn restart(&mut self, now: Time, broken: Option<Broken>) {
        self.entered = now;
        self.chain = vec![(History::GENESIS, now)];
        self.ahead.clear();
        self.next = None;
        self.waiting.clear();
        if broken == Some(Broken::ForkForgets) {
            self.items = 0;
        }
    }

    fn epoch(&self) -> u8 {
        self.chain[0].0.epoch()
    }

    fn seq(&self) -> u8 {
        self.chain.len() as u8 - 1
    }

    fn link(&self, seq: u8) -> Option<History> {
        self.chain.get(usize::from(seq)).map(|(h, _)| *h)
    }
}
