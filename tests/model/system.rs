//! The whole: databases, replicas, a network that delays, drops, repeats and reorders, verifiers, and time.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::history::{History, Item, Says};
use crate::verifier::{BOUND, CLOCKS, Heartbeat, Verifier};

/// Ticks since the start. Every step takes none; any number may pass between two.
pub type Time = u8;

/// What proves a heartbeat (`authority/src/feed/beat.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The head in memory of the only writer: SQLite.
    Memory,
    /// A beat transaction on the primary, whose standby is ...
    Transaction(Standby),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standby {
    /// COMMIT returns when the standby has it.
    Synchronous,
    /// It follows when it can. The old primary is fenced before the standby is promoted.
    Asynchronous,
}

/// One rule not kept: each must have a counterexample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The signer reads its clock after the head.
    ClockAfterHead,
    /// In memory: a commit under way is not marked, so what has returned and is not entered yet is not looked for.
    NoMark,
    /// A nonce is answered that came after the clock was read.
    LateNonce,
    /// A verifier pairs an answer with its arrival instead of the moment when its request left.
    MapAtArrival,
    /// A beat is signed before its transaction has committed.
    SignBeforeCommit,
    /// A hot standby serves the beat transaction.
    StandbyBeats,
    /// With an asynchronous standby: the old primary is not fenced and its replica goes on.
    OldPrimaryBeats,
    /// Freshness is published before the items that it vouches for are applied.
    PublishBeforeApply,
    /// A fork empties the view.
    ForkForgets,
    /// A head below what was here before is no fork.
    GoneBackIsFine,
}

/// How far it is looked.
#[derive(Clone, Debug)]
pub struct Scope {
    pub proof: Proof,
    pub items: Item,
    pub verifiers: u8,
    /// Heartbeats that are signed, at most.
    pub beats: u8,
    /// The last tick.
    pub until: Time,
    pub broken: Option<Broken>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub now: Time,
    /// The first is the primary, the second its standby.
    pub databases: [Database; 2],
    pub promoted: Option<Time>,
    replicas: [Replica; 2],
    beats_left: u8,
    asked_for: u8,
    /// When COMMIT of an item returned; none for what a failover lost since.
    pub committed: [Option<Time>; 3],
    pub lost: u8,
    /// All that was ever signed. The network delivers any of it at any time to anyone, as often as it likes, or never.
    messages: BTreeSet<History>,
    heartbeats: BTreeSet<Heartbeat>,
    pub verifiers: Vec<Verifier>,
    /// What each verifier ever had applied.
    ever: Vec<u8>,
    /// An allow past the bound was possible between two steps.
    late: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Database {
    pub history: History,
    /// Its COMMIT is under way.
    flushed: Option<Item>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Replica {
    /// The database it is connected to.
    on: usize,
    clock: u8,
    beating: Option<Beating>,
    /// In memory: `State::head` and `in_flight` of `Pulse`.
    head: History,
    in_flight: Option<Time>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Beating {
    /// When the question arrived, by this replica's clock.
    arrived: Time,
    t: Option<Time>,
    head: Option<History>,
    nonce: Option<(u8, Time)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Tick,
    /// `Writer`: the batch goes to the database; `Pulse::begin`.
    Begin(usize, Item),
    /// COMMIT returns.
    Commit(usize),
    /// `Pulse::settle`, then `Feed::publish`.
    Settle,
    /// SIGKILL of the only process, and its next life: another clock id, the head as the database has it.
    Restart,
    /// The standby receives one more message.
    Replicate,
    /// The standby becomes the primary; with a new epoch, or nobody noticed that anything was lost.
    Promote {
        new_epoch: bool,
    },
    Reconnect(u8),
    /// A verifier with an alarm hands back what the authority lost: taken in again under a new epoch.
    HandBack(u8, Item),
    /// `Pulse::look` or `transact`, first half: the clock is read. Answers the nonce that verifier has sent, if any.
    Look(u8, Option<u8>),
    /// Second half: the head is read; in memory it is signed at once.
    Read(u8),
    /// The beat transaction's COMMIT has returned: `Pulse::sign`.
    Sign(u8, Option<u8>),
    /// `FeedState::ask`.
    Ask(u8),
    /// `FeedState::receive` of a batch or an epoch start.
    Receive(u8, History),
    /// `FeedState::receive` of a heartbeat.
    Heartbeat(u8, Heartbeat),
}

impl Scope {
    fn breaks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    fn in_memory(&self) -> bool {
        self.proof == Proof::Memory
    }

    fn is_sync(&self) -> bool {
        self.proof == Proof::Transaction(Standby::Synchronous)
    }

    /// Where transactions may begin that write.
    fn is_writable(&self, s: &State, database: usize) -> bool {
        match database {
            0 => s.promoted.is_none() || self.is_sync() || self.breaks(Broken::OldPrimaryBeats),
            _ => s.promoted.is_some(),
        }
    }

    /// Where COMMIT returns: a synchronous standby that has been promoted answers its old primary no more.
    fn commits(&self, s: &State, database: usize) -> bool {
        self.is_writable(s, database) && !(database == 0 && s.promoted.is_some() && self.is_sync())
    }

    fn clock(&self, s: &State, replica: u8) -> Time {
        // No two clocks agree, and none with the verifiers'.
        s.now + 40 * (s.replicas[usize::from(replica)].clock + 1)
    }

    fn begin(&self, s: &mut State, database: usize, item: Item) {
        s.databases[database].flushed = Some(item);
        if self.in_memory() {
            s.replicas[0].in_flight = Some(self.clock(s, 0));
        } else if self.is_sync() && database == 0 && s.promoted.is_none() {
            s.databases[1].history = s.databases[1].history.then(Says::Batch(item));
        }
    }

    fn send(&self, s: &mut State, replica: u8, beating: &Beating) {
        let (Some(t), Some(head)) = (beating.t, beating.head) else { return };
        let clock = s.replicas[usize::from(replica)].clock;
        s.heartbeats.insert(Heartbeat { clock, t, head, nonce: beating.nonce });
    }

    fn nonce(s: &State, of: Option<u8>) -> Option<(u8, Time)> {
        of.and_then(|v| s.verifiers[usize::from(v)].asked.map(|left| (v, left)))
    }

    fn do_step(&self, s: &mut State, step: Step) {
        let now = s.now;
        match step {
            Step::Tick => s.now += 1,
            Step::Begin(database, item) => {
                s.asked_for |= 1 << item;
                self.begin(s, database, item);
            }
            Step::Commit(database) => {
                let Some(item) = s.databases[database].flushed.take() else { return };
                s.databases[database].history = s.databases[database].history.then(Says::Batch(item));
                s.committed[usize::from(item)] = Some(now);
                s.lost &= !(1 << item);
                if !self.in_memory() {
                    s.publish(database);
                }
            }
            Step::Settle => {
                s.replicas[0].head = s.databases[0].history;
                s.replicas[0].in_flight = None;
                s.publish(0);
            }
            Step::Restart => {
                s.databases[0].flushed = None;
                s.replicas[0] = Replica { clock: 1, ..Replica::on(0, s.databases[0].history) };
                s.publish(0);
            }
            Step::Replicate => {
                let next = s.databases[0].history.back().find(|h| h.prev() == s.databases[1].history && h.says().is_some());
                s.databases[1].history = next.unwrap_or(s.databases[1].history);
            }
            Step::Promote { new_epoch } => {
                s.promoted = Some(now);
                if new_epoch {
                    s.databases[1].history = s.databases[1].history.then(Says::EpochStart);
                }
                for item in 0..self.items {
                    if s.committed[usize::from(item)].is_some() && !s.databases[1].history.contains(item) {
                        s.committed[usize::from(item)] = None;
                        s.lost |= 1 << item;
                    }
                }
                s.publish(1);
            }
            Step::Reconnect(r) => s.replicas[usize::from(r)] = Replica { clock: r, ..Replica::on(1, History::GENESIS) },
            Step::HandBack(_, item) => {
                if s.databases[1].history.epoch() == 1 {
                    s.databases[1].history = s.databases[1].history.then(Says::EpochStart);
                    s.publish(1);
                }
                self.begin(s, 1, item);
            }
            Step::Look(r, nonce) => {
                let arrived = self.clock(s, r);
                let mut beating = Beating { arrived, t: Some(arrived), head: None, nonce: Self::nonce(s, nonce) };
                if self.breaks(Broken::ClockAfterHead) {
                    let in_flight = s.replicas[usize::from(r)].in_flight;
                    beating = Beating { t: in_flight, head: Some(s.head_at(r, self.in_memory())), ..beating };
                }
                s.replicas[usize::from(r)].beating = Some(beating);
                s.beats_left -= 1;
            }
            Step::Read(r) => {
                let replica = &s.replicas[usize::from(r)];
                let in_flight = replica.in_flight.filter(|_| !self.breaks(Broken::NoMark));
                let Some(mut beating) = replica.beating.clone() else { return };
                if self.breaks(Broken::ClockAfterHead) {
                    beating.t = beating.t.or(Some(self.clock(s, r)));
                } else {
                    beating.head = Some(s.head_at(r, self.in_memory()));
                    beating.t = in_flight.or(beating.t);
                }
                if self.in_memory() {
                    self.send(s, r, &beating);
                    s.replicas[usize::from(r)].beating = None;
                } else {
                    s.replicas[usize::from(r)].beating = Some(beating);
                }
            }
            Step::Sign(r, late) => {
                let Some(mut beating) = s.replicas[usize::from(r)].beating.take() else { return };
                beating.nonce = beating.nonce.or(Self::nonce(s, late));
                self.send(s, r, &beating);
            }
            Step::Ask(v) => s.verifiers[usize::from(v)].ask(now),
            Step::Receive(v, message) => {
                let v = usize::from(v);
                // A decision may fall between the two.
                if self.breaks(Broken::PublishBeforeApply) {
                    s.verifiers[v].place(message, now, self.broken);
                    s.observe(self);
                    s.verifiers[v].apply(message);
                } else {
                    s.verifiers[v].apply(message);
                    s.observe(self);
                    s.verifiers[v].place(message, now, self.broken);
                }
            }
            Step::Heartbeat(v, h) => s.verifiers[usize::from(v)].heartbeat(h, now, self.broken),
        }
    }

    fn authority_steps(&self, s: &State, steps: &mut Vec<Step>) {
        // What is committed in the last tick is late for nobody within it.
        if s.now == self.until {
            return;
        }
        for (at, database) in s.databases.iter().enumerate() {
            match database.flushed {
                Some(_) if self.commits(s, at) => steps.push(Step::Commit(at)),
                None if self.is_writable(s, at) && s.replicas[0].in_flight.is_none() => {
                    steps.extend((0..self.items).find(|i| s.asked_for & 1 << i == 0).map(|i| Step::Begin(at, i)));
                }
                _ => {}
            }
        }
        if self.in_memory() {
            if s.replicas[0].in_flight.is_some() && s.databases[0].flushed.is_none() {
                steps.push(Step::Settle);
            }
            if usize::from(s.replicas[0].clock) + 1 < CLOCKS {
                steps.push(Step::Restart);
            }
            return;
        }
        if s.promoted.is_none() {
            if !self.is_sync() && s.databases[0].history != s.databases[1].history {
                steps.push(Step::Replicate);
            }
            steps.extend([true, false].map(|new_epoch| Step::Promote { new_epoch }));
            return;
        }
        steps.extend((0..2).filter(|r| s.replicas[usize::from(*r)].on == 0).map(Step::Reconnect));
        if s.databases[1].flushed.is_none() {
            for v in 0..self.verifiers {
                let of = &s.verifiers[usize::from(v)];
                let lost = (0..self.items).filter(|i| of.is_alarmed() && of.knows(*i) && s.lost & 1 << i != 0);
                steps.extend(lost.map(|i| Step::HandBack(v, i)));
            }
        }
    }

    fn replica_steps(&self, s: &State, r: u8, steps: &mut Vec<Step>) {
        let replica = &s.replicas[usize::from(r)];
        let sign = |steps: &mut Vec<Step>| {
            steps.push(Step::Sign(r, None));
            if self.breaks(Broken::LateNonce) {
                steps.extend((0..self.verifiers).map(|v| Step::Sign(r, Some(v))));
            }
        };
        match &replica.beating {
            // The beat writes this replica's row first: a hot standby refuses.
            None if s.beats_left > 0 && (self.is_writable(s, replica.on) || self.breaks(Broken::StandbyBeats)) => {
                steps.push(Step::Look(r, None));
                let asking = (0..self.verifiers).filter(|v| s.verifiers[usize::from(*v)].asked.is_some());
                steps.extend(asking.map(|v| Step::Look(r, Some(v))));
            }
            None => {}
            Some(b) if self.in_memory() => {
                // An answer waits for a moment after its question.
                let claims = match b.head {
                    Some(_) => b.t,
                    None => replica.in_flight.filter(|_| !self.breaks(Broken::NoMark)).or(b.t),
                };
                if b.nonce.is_none() || claims.is_none_or(|t| t >= b.arrived) || self.breaks(Broken::LateNonce) {
                    steps.push(Step::Read(r));
                }
            }
            Some(b) if b.t.is_none() || b.head.is_none() => {
                let may = self.is_writable(s, replica.on) || self.breaks(Broken::StandbyBeats);
                steps.extend(may.then_some(Step::Read(r)));
            }
            Some(_) => {
                let standby = replica.on == 1 && s.promoted.is_none() && self.breaks(Broken::StandbyBeats);
                if self.commits(s, replica.on) || self.breaks(Broken::SignBeforeCommit) || standby {
                    sign(steps);
                }
            }
        }
    }
}

impl Model for Scope {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let database = Database { history: History::GENESIS, flushed: None };
        // The second replica sits behind a pooler that sends it to the standby, where nothing can be written.
        let replicas = [Replica::on(0, History::GENESIS), Replica { clock: 1, ..Replica::on(1, History::GENESIS) }];
        vec![State {
            now: 0,
            databases: [database.clone(), database],
            promoted: None,
            replicas,
            beats_left: self.beats,
            asked_for: 0,
            committed: [None; 3],
            lost: 0,
            messages: BTreeSet::new(),
            heartbeats: BTreeSet::new(),
            verifiers: (0..self.verifiers).map(Verifier::new).collect(),
            ever: vec![0; usize::from(self.verifiers)],
            late: false,
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        if s.now < self.until {
            steps.push(Step::Tick);
        }
        self.authority_steps(s, steps);
        for r in 0..if self.in_memory() { 1 } else { 2 } {
            self.replica_steps(s, r, steps);
        }
        for v in 0..self.verifiers {
            if (s.beats_left > 0 || s.replicas.iter().any(|r| r.beating.is_some())) && s.verifiers[usize::from(v)].asked.is_none() {
                steps.push(Step::Ask(v));
            }
            steps.extend(s.messages.iter().map(|m| Step::Receive(v, *m)));
            steps.extend(s.heartbeats.iter().map(|h| Step::Heartbeat(v, *h)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut s = last.clone();
        self.do_step(&mut s, step);
        s.observe(self);
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(P4, |_, s: &State| !s.late),
            Property::always(STAYS, |_, s: &State| s.verifiers.iter().zip(&s.ever).all(|(v, ever)| v.items & ever == *ever)),
            Property::always(NOTICED, |_, s: &State| s.verifiers.iter().all(|v| !s.forked_unnoticed(v))),
            Property::always(NOT_ACCUSED, |_, s: &State| s.promoted.is_some() || !s.verifiers.iter().any(Verifier::is_alarmed)),
            Property::sometimes("an allow after a commit that it knows", |_, s: &State| {
                s.verifiers.iter().any(|v| v.items != 0 && v.allows(s.now) && s.committed[0].is_some_and(|c| s.now > c + BOUND))
            }),
            Property::sometimes("stale while an item is unknown", |_, s: &State| {
                s.verifiers.iter().any(|v| v.items == 0 && !v.allows(s.now) && v.fresh.is_some() && s.committed[0].is_some_and(|c| s.now > c + BOUND))
            }),
        ];
        if !self.in_memory() {
            properties
                .push(Property::sometimes("fresh after a failover", |_, s: &State| s.verifiers.iter().any(|v| v.fresh > s.promoted && s.promoted.is_some())));
        }
        if self.proof == Proof::Transaction(Standby::Asynchronous) {
            properties.push(Property::sometimes("a fork", |_, s: &State| s.verifiers.iter().any(|v| v.fork)));
            properties.push(Property::sometimes("a loss", |_, s: &State| s.verifiers.iter().any(|v| v.loss)));
            properties.push(Property::sometimes("what was handed back is committed", |_, s: &State| {
                s.databases[1].history.epoch() == 2 && s.verifiers.iter().any(|v| v.is_alarmed() && v.allows(s.now)) && s.databases[1].history.seq() > 0
            }));
        }
        properties
    }
}

pub const P4: &str = "no allow past commit + bound without the item (P4)";
pub const STAYS: &str = "what was applied stays";
pub const NOTICED: &str = "a fork is noticed";
pub const NOT_ACCUSED: &str = "nobody is accused wrongly";

impl Replica {
    fn on(database: usize, head: History) -> Self {
        Self { on: database, clock: 0, beating: None, head, in_flight: None }
    }
}

impl State {
    /// After the commit, and for whoever asks for the tail at any time later.
    fn publish(&mut self, database: usize) {
        self.messages.extend(self.databases[database].history.back().filter(|h| h.says().is_some()));
    }

    fn head_at(&self, replica: u8, in_memory: bool) -> History {
        let replica = &self.replicas[usize::from(replica)];
        if in_memory { replica.head } else { self.databases[replica.on].history }
    }

    /// Somebody decides now.
    fn observe(&mut self, scope: &Scope) {
        for (v, ever) in self.verifiers.iter().zip(&mut self.ever) {
            *ever |= v.items;
            let late = |item: Item| !v.knows(item) && self.committed[usize::from(item)].is_some_and(|c| self.now > c + BOUND);
            self.late |= v.allows(self.now) && (0..scope.items).any(late);
        }
    }

    /// It rests on a heartbeat from after the failover, and on a message of before that the database no longer has.
    fn forked_unnoticed(&self, v: &Verifier) -> bool {
        let (Some(promoted), Some(fresh)) = (self.promoted, v.fresh) else { return false };
        let live = self.databases[1].history;
        !v.is_alarmed() && fresh > promoted && v.chain.iter().any(|(link, reached)| fresh > *reached && !live.grew_from(*link))
    }
}
