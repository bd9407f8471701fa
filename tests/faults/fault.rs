//! The list (`reference` names: revocation, section 8): how each fault begins, goes on and ends.

use std::time::Duration;

use crate::channel::{Intrusion, Publisher};
use crate::load::Load;
use crate::remint::kill_while_minting;
use crate::scene::Scene;
use crate::site::{Site, signal};
use crate::support::redis::RedisProcess;
use crate::twist::Mangling;
use crate::watcher::Ears;
use crate::wire::Way;

/// One fault.
pub struct Fault {
    pub name: &'static str,
    kind: Kind,
    pub needs: Needs,
    /// How long it lasts in the bounded run and in the whole one; nothing: not in the bounded run.
    pub lasts: (Duration, Duration),
    /// Which verifiers it is about: 0 behind the wire, 1 behind the mangler, 2 with nothing between; where there is a Redis, 0 hears it as well
    /// and 2 lives of it.
    pub on: &'static [usize],
    /// Somebody must turn stale, or it was no fault.
    pub bites: bool,
    /// Who must not be stale for more than a moment: another way is open to them.
    pub unharmed: &'static [usize],
    /// The first verifier takes every view for fresh: its late allows must be found, or this harness finds nothing.
    pub control: bool,
}

/// Where a fault takes place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// `procura dev` on SQLite, streams alone; one for each fault.
    Sqlite,
    /// The same with a Redis, and a recording of an hour ago: by the authority's wall clock, which was an hour behind in a first life of its.
    HourOld,
    /// Two `procura serve` on PostgreSQL and Redis; goes from fault to fault.
    Shared,
}

impl Needs {
    pub async fn site(self) -> Site {
        match self {
            Self::Sqlite => Site::sqlite().await,
            Self::HourOld => Site::with_hour_old_recording().await,
            Self::Shared => Site::shared(2).await,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Wire(Way, Way),
    Flaky,
    Mangle(Mangling),
    AuthorityKilled,
    AuthorityKilledAfterCommit,
    AuthorityStopped,
    VerifierStopped,
    VerifierClock(i64),
    AuthorityClock(i64),
    Backup,
    Rotation(&'static str),
    Burst,
    RedisKilled,
    RedisStopped,
    RedisFlushed,
    RedisFailover,
    RedisWire(Way),
    RedisFlaky,
    /// Nothing but Redis, or not even that.
    Http(Way),
    Cut,
    RedisMangle(Mangling),
    Intruder(Intrusion),
    /// By stream and by Redis.
    Recording,
    ReplicaKilled,
    ReplicaKilledAfterCommit,
    ReplicaStopped,
    ReplicaStoppedWithLock,
    RollingRestart,
    ColdStart,
    KillWhileMinting,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn fault(name: &'static str, kind: Kind, short: u64, long: u64, on: &'static [usize], bites: bool) -> Fault {
    Fault { name, kind, needs: Needs::Sqlite, lasts: (ms(short), ms(long)), on, bites, unharmed: &[], control: false }
}

const fn shared(name: &'static str, kind: Kind, (short, long): (u64, u64), on: &'static [usize], bites: bool, unharmed: &'static [usize]) -> Fault {
    Fault { needs: Needs::Shared, unharmed, ..fault(name, kind, short, long, on, bites) }
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    fault("no fault", Kind::Nothing, 1000, 10_000, &[0, 1, 2], false),
    fault("black hole without RST", Kind::Wire(Way::Silent, Way::Silent), 2000, 60_000, &[0], true),
    fault("one-way partition, authority to verifier", Kind::Wire(Way::Open, Way::Silent), 2000, 60_000, &[0], true),
    fault("one-way partition, verifier to authority", Kind::Wire(Way::Silent, Way::Open), 2000, 60_000, &[0], false),
    fault("round trip of 80 ms", Kind::Wire(Way::Late(ms(40)), Way::Late(ms(40))), 2000, 20_000, &[0], false),
    fault("delayed relay", Kind::Wire(Way::Open, Way::Late(ms(1500))), 2500, 60_000, &[0], true),
    fault("10 kB/s", Kind::Wire(Way::Slow(10_000), Way::Slow(10_000)), 2500, 30_000, &[0], false),
    fault("slow consumer", Kind::Wire(Way::Open, Way::Unread), 2500, 60_000, &[0], true),
    fault("connections reset", Kind::Flaky, 2000, 20_000, &[0], false),
    fault("messages repeated", Kind::Mangle(Mangling::Repeat), 1500, 10_000, &[1], false),
    fault("messages reordered", Kind::Mangle(Mangling::Shuffle), 1500, 10_000, &[1], false),
    fault("messages truncated", Kind::Mangle(Mangling::Truncate), 1500, 10_000, &[1], true),
    fault("a bit of each message flipped", Kind::Mangle(Mangling::Flip), 1500, 30_000, &[1], true),
    fault("junk flood", Kind::Mangle(Mangling::Junk), 1500, 10_000, &[1], false),
    fault("replay of a recording", Kind::Mangle(Mangling::Replay), 2000, 30_000, &[1], true),
    fault("authority SIGKILL", Kind::AuthorityKilled, 1500, 20_000, &[0, 1, 2], true),
    fault("authority SIGKILL between COMMIT and publish", Kind::AuthorityKilledAfterCommit, 1500, 5000, &[0, 1, 2], true),
    fault("authority SIGSTOP", Kind::AuthorityStopped, 2000, 10_000, &[0, 1, 2], true),
    fault("verifier SIGSTOP", Kind::VerifierStopped, 2000, 10_000, &[0], false),
    fault("verifier's clock an hour ahead", Kind::VerifierClock(HOUR), 1500, 5000, &[0], false),
    fault("verifier's clock an hour back", Kind::VerifierClock(-HOUR), 1500, 5000, &[0], false),
    fault("authority's clock an hour ahead", Kind::AuthorityClock(HOUR), 1500, 5000, &[0, 1, 2], true),
    Fault { control: true, ..fault("(control: a verifier without a bound)", Kind::Wire(Way::Silent, Way::Silent), 1500, 1500, &[0], false) },
    fault("authority SIGKILL during a burst", Kind::Burst, 1500, 5000, &[0, 1, 2], true),
    fault("restored old backup", Kind::Backup, 1500, 5000, &[0, 1, 2], true),
    fault("all keys rotated", Kind::Rotation("rotate"), 2000, 10_000, &[0, 1, 2], false),
    fault("the feed key declared dead", Kind::Rotation("dead"), 2000, 10_000, &[0, 1, 2], false),
    fault("authority's clock an hour back", Kind::AuthorityClock(-HOUR), 1500, 5000, &[0, 1, 2], false),
    Fault { unharmed: &[1], ..fault("junk flood in the stream", Kind::Mangle(Mangling::Flood), 2500, 30_000, &[1], false) },
    Fault { unharmed: &[1], ..fault("flood of known messages in the stream", Kind::Mangle(Mangling::Echo), 2500, 30_000, &[1], false) },
    Fault { needs: Needs::HourOld, unharmed: &[0, 2], ..fault("replay of an hour-old recording, stream and Redis", Kind::Recording, 2000, 30_000, &[1], true) },
    shared("no fault, two replicas on PostgreSQL, Redis", Kind::Nothing, (1500, 10_000), &[0, 1, 2], false, &[0, 1, 2]),
    shared("Redis SIGKILL, back after 1 s", Kind::RedisKilled, (1000, 1000), &[2], false, &[0, 1]),
    shared("Redis SIGKILL, back after 20 s", Kind::RedisKilled, (0, 20_000), &[2], false, &[0, 1]),
    shared("Redis SIGSTOP", Kind::RedisStopped, (2000, 20_000), &[2], false, &[0, 1]),
    shared("Redis FLUSHALL, subscribers thrown out", Kind::RedisFlushed, (1500, 10_000), &[2], false, &[0, 1]),
    shared("Redis failover to an empty one, publishers later", Kind::RedisFailover, (2000, 20_000), &[2], false, &[0, 1]),
    shared("Redis to verifier: black hole", Kind::RedisWire(Way::Silent), (2500, 30_000), &[2], false, &[0, 1]),
    shared("Redis to verifier: connections reset", Kind::RedisFlaky, (2000, 20_000), &[2], false, &[0, 1]),
    shared("Redis to verifier: 2 kB/s", Kind::RedisWire(Way::Slow(2000)), (2500, 30_000), &[2], false, &[0, 1]),
    shared("Redis to verifier: a second late", Kind::RedisWire(Way::Late(ms(1000))), (2500, 30_000), &[2], false, &[0, 1]),
    shared("HTTP black hole, Redis alone", Kind::Http(Way::Silent), (2500, 15_000), &[0, 2], false, &[0, 1, 2]),
    shared("HTTP and Redis black hole", Kind::Cut, (2000, 60_000), &[0, 2], true, &[1]),
    shared("garbage in the Redis channel", Kind::Intruder(Intrusion::Garbage), (2000, 30_000), &[2], false, &[0, 1]),
    shared("recorded messages in the Redis channel", Kind::Intruder(Intrusion::Recorded), (2000, 30_000), &[2], false, &[0, 1]),
    shared("junk flood of 10,000/s in the Redis channel", Kind::Intruder(Intrusion::Flood), (2500, 30_000), &[2], false, &[0, 1]),
    shared("Redis messages repeated", Kind::RedisMangle(Mangling::Repeat), (1500, 10_000), &[2], false, &[0, 1]),
    shared("Redis messages reordered", Kind::RedisMangle(Mangling::Shuffle), (1500, 10_000), &[2], false, &[0, 1]),
    shared("Redis messages, a bit of each flipped", Kind::RedisMangle(Mangling::Flip), (1500, 10_000), &[2], false, &[0, 1]),
    shared("Redis says a recording", Kind::RedisMangle(Mangling::Replay), (2000, 30_000), &[2], false, &[0, 1]),
    shared("replica SIGKILL under load", Kind::ReplicaKilled, (2000, 20_000), &[0, 1, 2], false, &[0, 1, 2]),
    shared("replica SIGKILL between COMMIT and publish", Kind::ReplicaKilledAfterCommit, (1500, 5000), &[0, 1, 2], false, &[0, 1, 2]),
    shared("replica SIGSTOP under load", Kind::ReplicaStopped, (2000, 20_000), &[0, 1, 2], false, &[0, 1, 2]),
    shared("replica SIGSTOP with the head's lock", Kind::ReplicaStoppedWithLock, (2000, 10_000), &[0, 1, 2], false, &[0, 1, 2]),
    shared("replicas restarted one after the other", Kind::RollingRestart, (1500, 10_000), &[0, 1, 2], false, &[0, 1, 2]),
    shared("verifier's cold start while revocations stream", Kind::ColdStart, (1500, 10_000), &[0, 1, 2], false, &[]),
    shared("kill of a human whose agents re-mint in a loop", Kind::KillWhileMinting, (500, 500), &[0, 1, 2], false, &[]),
];

const HOUR: i64 = 3_600_000;

impl Fault {
    /// Two histories are signed for.
    pub const fn forks(&self) -> bool {
        matches!(self.kind, Kind::Backup)
    }

    /// Redis is heard through a relay.
    pub const fn is_relayed(&self) -> bool {
        matches!(self.kind, Kind::RedisMangle(_) | Kind::Recording)
    }

    /// The human is gone in the end, and with her all that she granted.
    pub const fn is_kill(&self) -> bool {
        matches!(self.kind, Kind::KillWhileMinting)
    }

    pub async fn begin(&self, scene: &mut Scene, problems: &mut Vec<String>) {
        match self.kind {
            Kind::Nothing | Kind::Flaky | Kind::RedisFlaky | Kind::RedisFlushed => {}
            Kind::Wire(up, down) => scene.wire.set(up, down),
            Kind::Mangle(how) => scene.mangler.set(how),
            Kind::AuthorityKilled => scene.site.kill(0).await,
            Kind::AuthorityKilledAfterCommit => scene.site.failpoint(0, "committed", Some("")),
            Kind::AuthorityStopped => signal(scene.site.pid(0), "STOP").await,
            Kind::VerifierStopped => signal(scene.watchers[0].pid(), "STOP").await,
            Kind::VerifierClock(by) => scene.watchers[0].tell(&format!("wall {by}")).await,
            Kind::AuthorityClock(by) => scene.site.failpoint(0, "wall-ms", Some(&by.to_string())),
            Kind::Backup => {
                scene.site.kill(0).await;
                scene.site.copy_database("old");
                scene.site.again(0).await;
                for _ in 0..3 {
                    scene.revoke_next().await;
                }
                scene.site.kill(0).await;
                scene.site.copy_database("new");
                scene.site.restore_database("old");
                // It knows what was released, and signs nothing for a database that does not.
                let said = scene.site.refuses(0).await;
                assert!(said.contains("the database is older than the log"), "{said}");
            }
            Kind::Rotation(what) => scene.site.rotate(what).await,
            Kind::Burst => {
                scene.burst(4).await;
                scene.site.kill(0).await;
            }
            Kind::RedisKilled => scene.redis().kill(),
            Kind::RedisStopped => scene.redis().stop(),
            Kind::RedisFailover => {
                let empty = RedisProcess::start("");
                scene.hearing().point(([127, 0, 0, 1], empty.port).into());
                scene.site.next_redis = Some(empty);
            }
            Kind::RedisWire(way) => scene.hearing().set(Way::Open, way),
            Kind::Http(way) => scene.http(way),
            Kind::Cut => {
                scene.http(Way::Silent);
                scene.hearing().set(Way::Silent, Way::Silent);
            }
            Kind::RedisMangle(how) => scene.publisher().set(how),
            Kind::Recording => {
                scene.mangler.set(Mangling::Replay);
                scene.publisher().set(Mangling::Replay);
            }
            Kind::Intruder(what) => {
                let url = scene.redis().url();
                scene.publisher = Some(Publisher::intrude(&url, what).await);
            }
            Kind::ReplicaKilled => {
                scene.work(&[0, 1], ms(5)).await;
                scene.site.kill(0).await;
                scene.site.asked = 1;
            }
            Kind::ReplicaKilledAfterCommit => {
                scene.site.failpoint(0, "committed", Some(""));
                scene.revoke_next().await;
                scene.site.ended(0).await;
                scene.was_committed(scene.site.failed_at(0, "committed").expect("it ended there"));
                scene.site.failpoint(0, "committed", None);
                scene.site.asked = 1;
            }
            Kind::ReplicaStopped => {
                scene.work(&[0, 1], ms(5)).await;
                signal(scene.site.pid(0), "STOP").await;
                scene.site.asked = 1;
            }
            Kind::ReplicaStoppedWithLock => {
                scene.work(&[0], Duration::ZERO).await;
                scene.site.stop_with_lock(0).await;
                scene.site.asked = 1;
            }
            Kind::RollingRestart => {
                for replica in [0, 1] {
                    scene.site.asked = 1 - replica;
                    scene.site.terminate(replica).await;
                    for _ in 0..2 {
                        scene.revoke_next().await;
                    }
                    scene.site.again(replica).await;
                }
            }
            Kind::ColdStart => {
                let load = Load::keys(&scene.site, &[0, 1], 1);
                load.reached(TAIL_IS_LONG).await;
                scene.site.until_snapshot(TAIL_IS_LONG).await;
                scene.load = Some(load);
                let redis = Some((format!("redis://{}", scene.hearing().at), None));
                for ears in [Ears::stream(scene.site.url()), Ears { redis, ..Ears::stream(scene.wire.url()) }] {
                    scene.newcomer(&ears).await;
                    scene.revoke_next().await;
                }
            }
            Kind::KillWhileMinting => kill_while_minting(scene, problems).await,
        }
    }

    /// After each revocation.
    pub async fn during(&self, scene: &mut Scene) {
        match self.kind {
            Kind::Flaky => scene.wire.reset(),
            Kind::RedisFlaky => scene.hearing().reset(),
            Kind::RedisFlushed => {
                assert_eq!(scene.redis().cli(&["FLUSHALL"]), "OK");
                scene.redis().cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
            _ => {}
        }
    }

    pub async fn end(&self, scene: &mut Scene, problems: &mut Vec<String>) {
        match self.kind {
            Kind::Nothing | Kind::Flaky | Kind::Rotation(_) | Kind::RedisFlaky | Kind::RedisFlushed => {}
            Kind::RollingRestart | Kind::KillWhileMinting | Kind::ColdStart => {}
            Kind::Wire(..) => scene.wire.set(Way::Open, Way::Open),
            Kind::Mangle(how) => {
                scene.mangler.set(Mangling::None);
                let least = match how {
                    // The stream is given up after 16.
                    Mangling::Flood => 100,
                    Mangling::Echo => 5000,
                    _ => 0,
                };
                if scene.mangler.flooded() < least {
                    problems.push(format!("{} messages are no flood, expected {least}", scene.mangler.flooded()));
                }
            }
            Kind::AuthorityKilled | Kind::Burst => scene.site.again(0).await,
            Kind::Backup => {
                scene.site.restore_database("new");
                scene.site.again(0).await;
            }
            Kind::AuthorityKilledAfterCommit => {
                scene.site.ended(0).await;
                scene.was_committed(scene.site.failed_at(0, "committed").expect("it ended there"));
                scene.site.failpoint(0, "committed", None);
                scene.site.again(0).await;
            }
            Kind::AuthorityStopped => signal(scene.site.pid(0), "CONT").await,
            Kind::VerifierStopped => signal(scene.watchers[0].pid(), "CONT").await,
            Kind::VerifierClock(_) => scene.watchers[0].tell("wall 0").await,
            Kind::AuthorityClock(_) => scene.site.failpoint(0, "wall-ms", None),
            Kind::RedisKilled => scene.redis().restart(),
            Kind::RedisStopped => scene.redis().resume(),
            Kind::RedisFailover => scene.site.follow_failover(),
            Kind::RedisWire(_) => scene.hearing().set(Way::Open, Way::Open),
            Kind::Http(_) => scene.http(Way::Open),
            Kind::Cut => {
                scene.http(Way::Open);
                scene.hearing().set(Way::Open, Way::Open);
            }
            Kind::RedisMangle(_) => scene.publisher().set(Mangling::None),
            Kind::Recording => {
                scene.mangler.set(Mangling::None);
                scene.publisher().set(Mangling::None);
            }
            Kind::Intruder(what) => {
                let sent = scene.publisher.take().expect("an intruder").sent();
                let refused = scene.watchers[2].status().await.redis;
                if sent < what.least() || refused == (0, 0, 0) {
                    problems.push(format!("{sent} messages published by the intruder, of these {refused:?} came, were refused, were a flood"));
                }
            }
            Kind::ReplicaKilled | Kind::ReplicaKilledAfterCommit => {
                scene.site.again(0).await;
                scene.site.asked = 0;
            }
            Kind::ReplicaStopped | Kind::ReplicaStoppedWithLock => {
                signal(scene.site.pid(0), "CONT").await;
                scene.site.asked = 0;
            }
        }
    }
}

/// More than a verifier reads one by one before it asks for a snapshot.
const TAIL_IS_LONG: u64 = 600;
