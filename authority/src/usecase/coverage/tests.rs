use procura_verifier::decision::Mode;
use procura_verifier::feed::ack::{Ack, Signed};
use procura_verifier::wire::Canonical as _;

use super::super::acknowledge::acknowledge;
use super::super::enroll_verifier::enroll_verifier;
use super::super::fixture::*;
use super::super::retire_verifier::retire_verifier;
use super::*;
use crate::app::export;
use crate::log::bundle::{Bundle, Limits};
use crate::log::event::Event;
use crate::log::replay::replay;
use crate::store::contract::tenant;

/// Enrolled verifiers with keys 101, 102, … for payments/1, payments/2, …
async fn enrolled(app: &App, n: u8) -> Vec<VerifierId> {
    let mut ids = Vec::new();
    for i in 1..=n {
        let audience = format!("payments/{i}").parse().unwrap();
        ids.push(enroll_verifier(&app.ctx, &Principal::LocalOperator, audience, key(100 + i)).await.unwrap().verifier);
    }
    ids
}

/// What the verifier with that key says of the head of this moment.
async fn ack(app: &App, verifier: VerifierId, by: u8, number: u64, mode: Mode) {
    let head = app.ctx.feed.head();
    let (epoch, seq, hash, utc) = (head.epoch, head.seq, head.hash, app.ctx.now());
    let said = Ack { tenant: tenant(), verifier, run: [by; 16], number, epoch, seq, hash, fresh_age_ms: 10, utc, mode };
    acknowledge(&app.ctx, &Signed::sign(&said, &signing(by)).to_bytes()).await.unwrap();
}

async fn replays(app: &App) -> crate::log::replay::Summary {
    let bytes = export(&app.ctx, &app.ctx.writer.checkpoint()).await.unwrap();
    replay(&Bundle::read(&bytes, &app.anchors, &app.ctx.tenant, Limits::default()).unwrap()).unwrap()
}

/// Waits for the revocation to be in the feed.
async fn committed(app: &App, seq: u64) {
    while app.ctx.feed.head().seq < seq {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn everyone_is_named_as_confirmed_fenced_or_not_covered() {
    let app = app().await;
    let (alice, _, grant) = app.granted().await;
    let ids = enrolled(&app, 5).await;
    ack(&app, ids[0], 101, 1, Mode::Strict { ms: 150 }).await;
    ack(&app, ids[1], 102, 1, Mode::Strict { ms: 150 }).await;
    ack(&app, ids[2], 103, 1, Mode::Bounded { ms: 60_000 }).await;
    ack(&app, ids[3], 104, 1, Mode::BestEffort).await;
    let stranger = app.ctx.watch.admit_anonymous().unwrap();
    let asked = revoke_and_wait(&app.ctx, &alice, Target::Delegation(grant), Some("drill".into()), None, Duration::from_millis(500));
    let confirms = async {
        committed(&app, 1).await;
        app.clock.advance_ms(7);
        ack(&app, ids[0], 101, 2, Mode::Strict { ms: 150 }).await;
        // One step at a time: nobody is fenced before its bound has run out.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            app.clock.advance_ms(30);
        }
    };
    let (asked, ()) = tokio::join!(asked, confirms);
    let coverage = asked.unwrap().1.unwrap();
    let standing = |n: usize| &coverage.runs.iter().find(|s| s.verifier == ids[n]).unwrap().standing;
    assert!(matches!(standing(0), Standing::Confirmed { after_ms: 7..=200, .. }), "{:?}", standing(0));
    assert_eq!(*standing(1), Standing::Fenced { bound_ms: 150 });
    assert_eq!(*standing(2), Standing::NotCovered { why: NotCovered::LongerBound });
    assert_eq!(*standing(3), Standing::NotCovered { why: NotCovered::BestEffort });
    assert_eq!(*standing(4), Standing::NotCovered { why: NotCovered::NeverSeen });
    assert_eq!((coverage.counts(), coverage.anonymous, coverage.is_whole()), ((1, 1, 3), 1, false));
    assert!(coverage.waited_ms >= 500 && matches!(coverage.runs[0].standing, Standing::NotCovered { .. }), "exceptions first");
    assert!(matches!(app.events().await.last(), Some(Event::Coverage(e)) if (e.confirmed, e.fenced, e.not_covered, e.anonymous) == (1, 1, 3, 1)));
    replays(&app).await;
    drop(stranger);
}

/// A verifier that was restarted: the run before is silent, cut off, and may allow for five minutes on what it knew.
#[tokio::test]
async fn a_silent_run_with_a_longer_bound_than_the_ledger_remembers_is_named_until_its_bound_is_over() {
    let app = app().await;
    let (alice, bot, _) = app.granted().await;
    let ids = enrolled(&app, 2).await;
    let slow = Mode::Bounded { ms: 300_000 };
    let by = async |verifier: VerifierId, signer: u8, run: u8, number: u64, mode: Mode| {
        let head = app.ctx.feed.head();
        let (epoch, seq, hash, utc) = (head.epoch, head.seq, head.hash, app.ctx.now());
        let said = Ack { tenant: tenant(), verifier, run: [run; 16], number, epoch, seq, hash, fresh_age_ms: 10, utc, mode };
        acknowledge(&app.ctx, &Signed::sign(&said, &signing(signer)).to_bytes()).await.unwrap();
    };
    let kill = async || {
        let grant = super::super::delegate::delegate(&app.ctx, &alice, bot, crate::domain::delegation::tests::terms(), None).await.unwrap().delegation;
        revoke_and_wait(&app.ctx, &alice, Target::Delegation(grant), Some("drill".into()), None, Duration::ZERO).await.unwrap().1.unwrap()
    };
    let of = |c: &Coverage, n: usize| c.runs.iter().filter(|s| s.verifier == ids[n]).map(|s| (s.run.map(|r| r[0]), s.standing.clone())).collect::<Vec<_>>();
    let longer = Standing::NotCovered { why: NotCovered::LongerBound };

    by(ids[0], 101, 1, 1, slow).await;
    by(ids[1], 102, 1, 1, Mode::Strict { ms: 150 }).await;
    // Both are started anew, and only the new ones are heard of.
    app.clock.advance_ms(crate::watch::RUN_MEMORY_MS + 1_000);
    by(ids[0], 101, 2, 1, slow).await;
    by(ids[1], 102, 2, 1, Mode::Strict { ms: 150 }).await;
    let coverage = kill().await;
    assert_eq!(of(&coverage, 0), [(Some(1), longer.clone()), (Some(2), longer.clone())]);
    assert_eq!(of(&coverage, 1).len(), 1, "the strict one's twin has denied for a minute");
    // It has no place among the newest runs: named all the same.
    for run in 3..=8 {
        app.clock.advance_ms(10);
        by(ids[0], 101, run, 1, slow).await;
    }
    let coverage = kill().await;
    assert_eq!(of(&coverage, 0).iter().filter(|(run, _)| run.is_none()).collect::<Vec<_>>(), [&(None, longer)]);
    assert!(!coverage.is_whole());
    // Its bound is over, and that of all the others but the one that goes on.
    app.clock.advance_ms(crate::watch::memory_ms(slow) + 1);
    by(ids[0], 101, 8, 2, slow).await;
    assert_eq!(of(&kill().await, 0).len(), 1);
    replays(&app).await;
}

#[tokio::test]
async fn with_everyone_confirmed_the_answer_comes_at_once_and_without_anyone_too() {
    let app = app().await;
    let (alice, _, grant) = app.granted().await;
    let wait = async |target| revoke_and_wait(&app.ctx, &alice, target, Some("drill".into()), None, Duration::from_secs(15)).await.unwrap();
    let (_, nobody) = wait(Target::Delegation(grant)).await;
    let nobody = nobody.unwrap();
    assert_eq!((nobody.counts(), nobody.is_whole(), nobody.waited_ms), ((0, 0, 0), true, 0));
    let ids = enrolled(&app, 2).await;
    for (n, id) in (101..).zip(&ids) {
        ack(&app, *id, n, 1, Mode::Strict { ms: 150 }).await;
    }
    let confirms = async {
        committed(&app, 2).await;
        app.clock.advance_ms(3);
        for (n, id) in (101..).zip(&ids) {
            ack(&app, *id, n, 2, Mode::Strict { ms: 150 }).await;
        }
    };
    let ((_, coverage), ()) = tokio::join!(wait(Target::Delegation(grant)), confirms);
    let coverage = coverage.unwrap();
    assert_eq!((coverage.counts(), coverage.slowest_ms(), coverage.is_whole()), ((2, 0, 0), Some(3), true));
    // A retired one is nobody to wait for.
    retire_verifier(&app.ctx, &Principal::LocalOperator, ids[1], "gone".into()).await.unwrap();
    let confirms = async {
        committed(&app, 3).await;
        ack(&app, ids[0], 101, 3, Mode::Strict { ms: 150 }).await;
    };
    let ((_, coverage), ()) = tokio::join!(wait(Target::Delegation(grant)), confirms);
    assert_eq!(coverage.unwrap().counts(), (1, 0, 0));
    replays(&app).await;
}

#[tokio::test]
async fn who_may_not_revoke_waits_for_nothing() {
    let app = app().await;
    let (_, _, grant) = app.granted().await;
    let bob = app.person("bob").await;
    let asked = revoke_and_wait(&app.ctx, &bob, Target::Delegation(grant), Some("x".into()), None, Duration::from_secs(1)).await;
    assert_eq!(asked.unwrap_err(), RevokeError::Forbidden);
    assert!(!app.events().await.iter().any(|e| matches!(e, Event::Coverage(_))));
}

#[tokio::test]
async fn an_answer_about_many_takes_several_leaves_that_replay() {
    let app = app().await;
    let (alice, _, grant) = app.granted().await;
    enrolled(&app, 100).await;
    let (_, coverage) = revoke_and_wait(&app.ctx, &alice, Target::Delegation(grant), Some("drill".into()), None, Duration::ZERO).await.unwrap();
    assert_eq!(coverage.unwrap().counts(), (0, 0, 100));
    let parts: Vec<_> =
        app.events().await.into_iter().filter_map(|e| if let Event::Coverage(e) = e { Some((e.part, e.parts, e.verifiers.len())) } else { None }).collect();
    assert_eq!(parts, [(0, 2, 64), (1, 2, 36)]);
    replays(&app).await;
}

/// A leaf of somebody who holds the event key and says what was not so.
#[tokio::test]
async fn an_answer_that_claims_more_than_was_said_is_found_by_replay() {
    type Lie = (&'static str, fn(&mut event::Coverage));
    let lies: [Lie; 8] = [
        ("counts", |e| e.confirmed += 1),
        ("not its feed message", |e| e.revocation = 0),
        ("not its feed message", |e| e.seq += 1),
        ("does not follow", |e| e.part = 1),
        ("not enrolled", |e| e.verifiers[0].verifier = VerifierId::from_bytes([1; 16])),
        ("its bound is", |e| e.verifiers[0].standing = Standing::Fenced { bound_ms: e.waited_ms + 1 }),
        ("not signed by", |e| e.verifiers[0].standing = e.verifiers[1].standing.clone()),
        ("its own word", |e| {
            // What the verifier has really signed before it heard.
            let Standing::Confirmed { ack, .. } = &mut e.verifiers[0].standing else { panic!("not confirmed") };
            let said = Signed::<Ack>::from_bytes(&ack.0).unwrap().claimed().unwrap();
            let old = Ack { seq: 0, hash: procura_verifier::feed::genesis_hash(&said.tenant, 1), number: 1, ..said };
            *ack = Encoded(Signed::sign(&old, &signing(101)).to_bytes());
        }),
    ];
    for (sentence, lie) in lies {
        let app = app().await;
        let (alice, _, grant) = app.granted().await;
        let ids = enrolled(&app, 2).await;
        for (n, id) in (101..).zip(&ids) {
            ack(&app, *id, n, 1, Mode::Strict { ms: 150 }).await;
        }
        let confirms = async {
            committed(&app, 1).await;
            for (n, id) in (101..).zip(&ids) {
                ack(&app, *id, n, 2, Mode::Strict { ms: 150 }).await;
            }
        };
        let wait = revoke_and_wait(&app.ctx, &alice, Target::Delegation(grant), Some("x".into()), None, Duration::from_secs(15));
        let (done, ()) = tokio::join!(wait, confirms);
        assert_eq!(done.unwrap().1.unwrap().counts(), (2, 0, 0));
        let Some(Event::Coverage(honest)) = app.events().await.pop() else { panic!("no answer") };
        replays(&app).await;
        let mut event = honest;
        lie(&mut event);
        let leaf = app.ctx.signer.leaf(&event.into(), &app.ctx.tenant, app.ctx.now()).unwrap().into_bytes();
        app.ctx.writer.submit(Change { leaves: vec![leaf], ..Change::default() }).await.unwrap();
        let bytes = export(&app.ctx, &app.ctx.writer.checkpoint()).await.unwrap();
        let found = replay(&Bundle::read(&bytes, &app.anchors, &app.ctx.tenant, Limits::default()).unwrap()).unwrap_err();
        assert!(found.to_string().contains(sentence), "{found}: expected {sentence}");
    }
}
