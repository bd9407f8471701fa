//! PostgreSQL and its streaming standby: failover, lost commits, partitions, poolers. `healed` of each line is the moment from which the
//! full view is counted; it stands in the line's name.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::pair::{ANSWER_WAIT, Commits, Pair};
use crate::scene::Outcome;
use crate::site::Revoked;
use crate::wire::Way;

/// One line of the report.
pub struct Line {
    pub name: &'static str,
    fault: Fault,
}

#[derive(Clone, Copy)]
enum Fault {
    Failover,
    LostCommits,
    Backup,
    OldPrimary,
    Unfenced,
    HotStandby,
    WaitCancelled,
    PrimaryStopped,
    StandbyStopped,
    Restart,
    Partition,
}

/// All of them.
pub const LINES: &[Line] = &[
    Line { name: "primary SIGKILL, synchronous standby promoted (healed: poolers point to it)", fault: Fault::Failover },
    Line { name: "asynchronous commits lost by a failover (healed: recovered, replicas serve)", fault: Fault::LostCommits },
    Line { name: "PostgreSQL: restored old backup (healed: the newest database again, replicas serve)", fault: Fault::Backup },
    Line { name: "old primary isolated but alive, synchronous (healed: its replica's pooler points to the new one)", fault: Fault::OldPrimary },
    Line { name: "(control: old primary alive, asynchronous, not fenced)", fault: Fault::Unfenced },
    Line { name: "pooler routed to a hot standby (healed: routed back)", fault: Fault::HotStandby },
    Line { name: "synchronous wait cancelled (healed: the standby goes on)", fault: Fault::WaitCancelled },
    Line { name: "primary SIGSTOP (healed: SIGCONT)", fault: Fault::PrimaryStopped },
    Line { name: "synchronous standby SIGSTOP (healed: SIGCONT)", fault: Fault::StandbyStopped },
    Line { name: "PostgreSQL restarted at once under load (healed: it takes connections)", fault: Fault::Restart },
    Line { name: "verifier cut off by its network namespace (healed: the link is up)", fault: Fault::Partition },
];

impl Line {
    pub fn is_named(&self, names: &[&String]) -> bool {
        names.is_empty() || names.iter().any(|n| self.name.contains(n.as_str()))
    }

    pub async fn run(&self, long: bool) -> Outcome {
        let commits = match self.fault {
            Fault::LostCommits | Fault::Backup | Fault::Unfenced | Fault::Partition => Commits::Asynchronous,
            _ => Commits::Synchronous,
        };
        let (canaries, lasting) = if long { (60, Duration::from_secs(15)) } else { (16, Duration::from_secs(2)) };
        let mut pair = Pair::set(canaries, commits).await;
        for _ in 0..3 {
            pair.revoke_next().await;
        }
        let mut stale = pair.mark().await;
        let healed = match self.fault {
            Fault::Failover => failover(&mut pair, lasting).await,
            Fault::LostCommits => lost_commits(&mut pair).await,
            Fault::Backup => backup(&mut pair).await,
            Fault::OldPrimary => old_primary(&mut pair, lasting).await,
            Fault::Unfenced => return unfenced(&mut pair, lasting).await,
            Fault::HotStandby => hot_standby(&mut pair, lasting).await,
            Fault::WaitCancelled => wait_cancelled(&mut pair).await,
            Fault::PrimaryStopped => {
                pair.primary.signal("STOP").await;
                pair.during(0, lasting).await;
                pair.primary.signal("CONT").await;
                Instant::now()
            }
            Fault::StandbyStopped => {
                pair.standby.signal("STOP").await;
                pair.during(0, lasting).await;
                pair.standby.signal("CONT").await;
                Instant::now()
            }
            Fault::Restart => restart(&mut pair).await,
            Fault::Partition => match partition(&mut pair, lasting, &mut stale).await {
                Ok(healed) => healed,
                Err(outcome) => return outcome,
            },
        };
        let outcome = pair.healed(healed, stale, true).await;
        match self.fault {
            // Both halves once more: the old primary, built anew, follows the new one, and COMMIT waits for it.
            Fault::Failover => rebuilt(&mut pair, outcome).await,
            Fault::LostCommits => alarmed(&mut pair, outcome).await,
            _ => outcome,
        }
    }
}

/// Everything answered was on the standby: nothing is lost, nothing has to be said.
async fn failover(pair: &mut Pair, lasting: Duration) -> Instant {
    pair.primary.kill().await;
    pair.during(0, lasting).await;
    pair.promote().await;
    pair.poolers.iter().for_each(|p| p.point(pair.primary.at));
    Instant::now()
}

async fn rebuilt(pair: &mut Pair, mut outcome: Outcome) -> Outcome {
    pair.standby.follow(pair.primary.at).await;
    pair.primary.require_standby().await;
    let again = pair.healed(Instant::now(), 0, false).await;
    outcome.problems.extend(again.problems);
    outcome.late_allows += again.late_allows;
    outcome.revocations = again.revocations;
    outcome
}

/// The standby is cut off, what is revoked meanwhile is answered all the same, and then the standby is promoted without it. The old primary
/// is dead before: with asynchronous commits P4 rests on that (see the control).
async fn lost_commits(pair: &mut Pair) -> Instant {
    let before = pair.head().await;
    pair.link.set(Way::Silent, Way::Silent);
    for _ in 0..4 {
        assert!(matches!(pair.revoke_at(0, Duration::from_secs(5)).await, Some(Revoked::At(_))), "nobody waits for the standby");
    }
    pair.known().await;
    pair.all_shown().await;
    pair.primary.kill().await;
    pair.promote().await;
    assert_eq!(pair.head().await, before, "lost");
    pair.poolers.iter().for_each(|p| p.point(pair.primary.at));
    // Whoever signed for the old primary signs nothing for this one, and does not start on it.
    pair.signs_nothing(0).await;
    pair.signs_nothing(1).await;
    assert!(matches!(pair.revoke_at(0, ANSWER_WAIT).await, Some(Revoked::Unknown)), "answered for a database that lost what was released");
    pair.kill_replicas().await;
    pair.refused().await;
    pair.recover().await;
    pair.serve(0, &[]).await;
    pair.serve(1, &[]).await;
    Instant::now()
}

async fn alarmed(pair: &mut Pair, mut outcome: Outcome) -> Outcome {
    for who in 0..2 {
        let alarms = pair.alarms(who).await;
        if !alarms.iter().any(|a| a.starts_with("Loss")) {
            outcome.problems.push(format!("verifier {who} did not find the loss: {alarms:?}"));
        }
    }
    if pair.head().await.0.0 != 2 {
        outcome.problems.push("no new epoch".to_owned());
    }
    outcome
}

/// The files of an hour ago; and then the right ones, since nothing was to be given up.
async fn backup(pair: &mut Pair) -> Instant {
    // It would be ahead of the old files; this line is not about it.
    pair.standby.kill().await;
    pair.primary.shut_down("INT").await;
    pair.primary.copy_data("old");
    pair.primary.start().await;
    for _ in 0..3 {
        pair.revoke_at(0, Duration::from_secs(5)).await;
    }
    pair.known().await;
    pair.all_shown().await;
    pair.primary.shut_down("INT").await;
    pair.primary.copy_data("new");
    pair.primary.restore_data("old");
    pair.primary.start().await;
    pair.signs_nothing(0).await;
    pair.signs_nothing(1).await;
    pair.kill_replicas().await;
    pair.refused().await;
    pair.primary.shut_down("INT").await;
    pair.primary.restore_data("new");
    pair.primary.start().await;
    pair.serve(0, &[]).await;
    pair.serve(1, &[]).await;
    Instant::now()
}

/// The second replica reaches only the old primary, whose standby has left it.
async fn isolated(pair: &mut Pair) {
    pair.link.set(Way::Silent, Way::Silent);
    pair.promote().await;
    pair.poolers[0].point(pair.primary.at);
}

async fn old_primary(pair: &mut Pair, lasting: Duration) -> Instant {
    isolated(pair).await;
    // What is asked of the old primary is never answered: its COMMIT waits for a standby that has gone.
    let asked = pair.revoke_at(1, ANSWER_WAIT).await;
    assert!(matches!(asked, Some(Revoked::Unknown)), "answered by a primary without its standby: {asked:?}");
    pair.during(0, lasting).await;
    assert_eq!(pair.replica(1).get("/readyz").await.0, 503, "vouches for a primary without its standby");
    pair.standby.kill().await;
    pair.poolers[1].point(pair.primary.at);
    Instant::now()
}

/// Why the old primary must be fenced before the promotion where COMMIT waits for nobody: it goes on vouching. The late allows must be found.
async fn unfenced(pair: &mut Pair, lasting: Duration) -> Outcome {
    let stale = pair.mark().await;
    // Up to date, so that nothing is lost: it is the fence alone that is missing.
    let head = pair.head().await.0.1;
    pair.standby.until(&format!("SELECT feed_seq >= {head} FROM head")).await;
    isolated(pair).await;
    pair.during(0, lasting).await;
    sleep(Duration::from_millis(300)).await;
    let (late_allows, latest_ms) = pair.late(&mut Vec::new()).await;
    let missed = "late allows of a replica at an unfenced asynchronous primary were not found".to_owned();
    let problems = if late_allows == 0 { vec![missed] } else { Vec::new() };
    let (stale, longest_stale) = (pair.stale().await - stale, pair.longest_stale().await);
    Outcome { revocations: pair.revoked(), late_allows, latest_ms, stale, longest_stale, full_view: Duration::ZERO, problems }
}

async fn hot_standby(pair: &mut Pair, lasting: Duration) -> Instant {
    pair.poolers[1].point(pair.standby.at);
    let before = pair.head().await.0.1;
    // Nothing is written there, and it says so.
    let asked = pair.revoke_at(1, Duration::from_secs(5)).await;
    assert!(matches!(asked, Some(Revoked::Unknown)), "a hot standby took a commit: {asked:?}");
    assert_eq!(pair.head().await.0.1, before);
    pair.during(0, lasting).await;
    assert_eq!(pair.replica(1).get("/readyz").await.0, 503, "vouches for a hot standby");
    pair.poolers[1].point(pair.primary.at);
    Instant::now()
}

/// COMMIT reports success, everybody can read the row, and nobody may say so.
async fn wait_cancelled(pair: &mut Pair) -> Instant {
    let shown = pair.all_shown().await;
    pair.standby.signal("STOP").await;
    let before = pair.head().await.0.1;
    let (number, asking) = pair.revoking(0, Duration::from_secs(20)).expect("a canary");
    let mut asking = tokio::spawn(asking);
    // Whoever waits for the standby is cancelled, beats included, until the row can be read.
    while pair.head().await.0.1 == before {
        pair.primary.sql("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'procura%'").await;
    }
    let early = timeout(Duration::from_millis(1500), &mut asking).await;
    assert!(early.is_err(), "answered before the standby had it: {early:?}");
    // Neither do the replicas publish it, nor another one's operator.
    for which in 0..2 {
        let tail = pair.replica(which).get(&format!("/v1/feed/tail?tenant=acme&epoch=1&from={}", before + 1)).await;
        assert!(tail.0 == 503 || tail.1.contains(r#""messages":[]"#), "{tail:?}");
        assert_eq!(pair.shown(which).await, shown, "a checkpoint of what may be lost");
    }
    pair.standby.signal("CONT").await;
    let healed = Instant::now();
    let answer = asking.await.unwrap();
    assert!(matches!(answer, Revoked::At(_)), "answered when the standby goes on: {answer:?}");
    pair.answered(number, answer);
    healed
}

/// An immediate shutdown while tokens are minted and revoked at both replicas.
async fn restart(pair: &mut Pair) -> Instant {
    let load = [pair.minting(0), pair.minting(1)];
    let mut asking: Vec<_> = (0..6).filter_map(|n| pair.revoking(n % 2, ANSWER_WAIT)).map(|(n, asking)| (n, tokio::spawn(asking))).collect();
    // One is answered, so that the others are on their way.
    let (number, first) = asking.remove(0);
    let answer = first.await.unwrap();
    pair.answered(number, answer);
    pair.primary.shut_down("QUIT").await;
    for (number, asking) in asking {
        let answer = asking.await.unwrap();
        pair.answered(number, answer);
    }
    pair.primary.start().await;
    let healed = Instant::now();
    load.iter().for_each(tokio::task::JoinHandle::abort);
    healed
}

/// One more verifier, at the end of a cable. Where the kernel gives no namespace the line says so: the relay's black hole stands in then.
async fn partition(pair: &mut Pair, lasting: Duration, stale: &mut u64) -> Result<Instant, Outcome> {
    let cable = match pair.by_cable().await {
        Ok(cable) => cable,
        Err(why) => {
            eprintln!(
                "\n*** NOT RUN: no network namespaces on this machine ({why}). In their place stand the lines of `wire.rs`: black hole, one-way partitions. ***\n"
            );
            println!("  NOT RUN: {why}");
            return Err(Outcome {
                revocations: 0,
                late_allows: 0,
                latest_ms: 0.0,
                stale: 0,
                longest_stale: Duration::ZERO,
                full_view: Duration::ZERO,
                problems: Vec::new(),
            });
        }
    };
    *stale = pair.mark().await;
    cable.cut().await;
    pair.during(0, lasting).await;
    cable.join().await;
    let healed = Instant::now();
    pair.cables.push(cable);
    Ok(healed)
}
