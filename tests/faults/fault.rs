//! The list (`reference` names: revocation, section 8): how each fault begins, goes on and ends.

use std::time::Duration;

use crate::mangle::Mangling;
use crate::scene::Scene;
use crate::site::signal;
use crate::wire::Way;

/// One fault.
pub struct Fault {
    pub name: &'static str,
    kind: Kind,
    /// How long it lasts in the bounded run and in the whole one.
    pub lasts: (Duration, Duration),
    /// Which verifiers it is about: 0 behind the wire, 1 behind the mangler, 2 with nothing between.
    pub on: &'static [usize],
    /// Somebody must turn stale, or it was no fault.
    pub bites: bool,
    /// The first verifier takes every view for fresh: its late allows must be found, or this harness finds nothing.
    pub control: bool,
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
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn fault(name: &'static str, kind: Kind, short: u64, long: u64, on: &'static [usize], bites: bool) -> Fault {
    Fault { name, kind, lasts: (ms(short), ms(long)), on, bites, control: false }
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
];

const HOUR: i64 = 3_600_000;

impl Fault {
    pub async fn begin(&self, scene: &mut Scene) {
        match self.kind {
            Kind::Nothing | Kind::Flaky => {}
            Kind::Wire(up, down) => scene.wire.set(up, down),
            Kind::Mangle(how) => scene.mangler.set(how),
            Kind::AuthorityKilled => scene.site.kill(0).await,
            Kind::AuthorityKilledAfterCommit => scene.site.failpoint("committed", Some("")),
            Kind::AuthorityStopped => signal(scene.site.pid(0), "STOP").await,
            Kind::VerifierStopped => signal(scene.watchers[0].pid(), "STOP").await,
            Kind::VerifierClock(by) => scene.watchers[0].tell(&format!("wall {by}")).await,
            Kind::AuthorityClock(by) => scene.site.failpoint("wall-ms", Some(&by.to_string())),
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
        }
    }

    /// After each revocation.
    pub async fn during(&self, scene: &mut Scene) {
        if let Kind::Flaky = self.kind {
            scene.wire.reset();
        }
    }

    pub async fn end(&self, scene: &mut Scene) {
        match self.kind {
            Kind::Nothing | Kind::Flaky | Kind::Rotation(_) => {}
            Kind::Wire(..) => scene.wire.set(Way::Open, Way::Open),
            Kind::Mangle(_) => scene.mangler.set(Mangling::None),
            Kind::AuthorityKilled | Kind::Burst => scene.site.again(0).await,
            Kind::Backup => {
                scene.site.restore_database("new");
                scene.site.again(0).await;
            }
            Kind::AuthorityKilledAfterCommit => {
                scene.site.ended(0).await;
                scene.was_committed(scene.site.failed_at("committed").expect("it ended there"));
                scene.site.failpoint("committed", None);
                scene.site.again(0).await;
            }
            Kind::AuthorityStopped => signal(scene.site.pid(0), "CONT").await,
            Kind::VerifierStopped => signal(scene.watchers[0].pid(), "CONT").await,
            Kind::VerifierClock(_) => scene.watchers[0].tell("wall 0").await,
            Kind::AuthorityClock(_) => scene.site.failpoint("wall-ms", None),
        }
    }
}
