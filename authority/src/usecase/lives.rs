//! Agents over their life: keys that follow each other, stops and resumes, and what replay makes of the log of them.

use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{AgentId, DelegationId, Key, UtcMillis};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::Canonical as _;

use super::card::{CardError, card};
use super::confirm_delegation::{ConfirmError, confirm};
use super::delegate::{DelegateError, delegate};
use super::end_keys::end_keys;
use super::fixture::*;
use super::issue::{IssueError, Mint, issue};
use super::register_agent::challenge;
use super::resume_agent::{ResumeError, resume};
use super::revoke::{Target, revoke};
use super::rotate_key::{RotateError, Rotated, Rotation, rotate};
use super::show_agent::show;
use super::stop_agent::{StopError, retire, suspend};
use crate::app::export;
use crate::domain::agent::{AgentState, KeyState, MAX_OVERLAP_MS};
use crate::domain::delegation::tests::terms;
use crate::domain::principal::Principal;
use crate::log::bundle::{Bundle, Limits};
use crate::log::event::{self, Actor, Event, Replaced};
use crate::log::finding::{Finding, FindingClass};
use crate::log::replay::{Summary, replay};
use crate::store::Change;

impl App {
    async fn rotate(&self, by: &Principal, agent: AgentId, n: u8, overlap_ms: u64) -> Result<Rotated, RotateError> {
        let nonce = challenge(&self.ctx, by).unwrap();
        rotate(&self.ctx, by, &Rotation { agent, key: key(n), nonce, signature: possession(&nonce, key(n), n), overlap_ms }).await
    }

    async fn mint_for(&self, agent: AgentId, delegation: DelegationId, holder: Key) -> Result<Vec<u8>, IssueError> {
        let asked = Mint { delegation, holder, audiences: vec![], ttl_secs: None };
        issue(&self.ctx, &self.assertion(agent), &asked).await.map(|i| i.token)
    }

    async fn replayed(&self) -> Result<Summary, Finding> {
        let bytes = export(&self.ctx, &self.ctx.writer.checkpoint()).await.unwrap();
        replay(&Bundle::read(&bytes, &self.anchors, &self.ctx.tenant, Limits::default()).unwrap())
    }

    async fn forge(&self, event: impl Into<Event>, items: Vec<Item>) {
        let mut leaves: Vec<_> = items
            .iter()
            .map(|i| {
                let e = event::Revoke { item: event::Encoded(i.to_bytes()), by: Actor::LocalOperator, reason_hash: None, delegation: None };
                self.ctx.leaf(e, self.ctx.now()).unwrap()
            })
            .collect();
        leaves.push(self.ctx.leaf(event, self.ctx.now()).unwrap());
        self.ctx.writer.submit(Change { items, leaves, ..Change::default() }).await.unwrap();
    }

    async fn keys(&self, agent: AgentId) -> Vec<(Key, KeyState)> {
        self.ctx.store.keys_of(agent).await.unwrap().into_iter().map(|k| (k.key, k.state)).collect()
    }
}

#[tokio::test]
async fn a_key_that_is_followed_goes_on_for_its_overlap_and_is_then_revoked() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let done = app.rotate(&alice, bot, 2, 60_000).await.unwrap();
    assert_eq!(done.replaces, [Replaced { key: key(1), until: NOW.plus(60_000) }]);
    assert_eq!(done.card.unwrap().claimed().holder, key(2));
    app.mint_for(bot, grant, key(1)).await.unwrap();
    app.mint_for(bot, grant, key(2)).await.unwrap();
    app.clock.advance_ms(59_999);
    assert_eq!(end_keys(&app.ctx).await, Ok(0));
    app.mint_for(bot, grant, key(1)).await.unwrap();
    app.clock.advance_ms(1);
    let found = app.ctx.store.find_agent_key(key(1)).await.unwrap().unwrap();
    assert!(!found.holds_at(app.ctx.now()), "not accepted from the first moment on");
    let (a, b) = tokio::join!(end_keys(&app.ctx), end_keys(&app.ctx));
    assert_eq!(a.unwrap() + b.unwrap(), 1, "of two replicas one");
    assert_eq!(app.mint_for(bot, grant, key(1)).await, Err(IssueError::NotActive));
    app.mint_for(bot, grant, key(2)).await.unwrap();
    assert_eq!(app.keys(bot).await, [(key(2), KeyState::Live), (key(1), KeyState::Revoked)]);
    assert!(matches!(app.events().await.iter().rev().nth(1), Some(Event::Revoke(e)) if e.by == Actor::OverlapEnded));
    assert_eq!(app.replayed().await.unwrap().revocations, 1);
}

#[tokio::test]
async fn at_once_the_keys_before_are_revoked_with_it() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    app.rotate(&alice, bot, 2, MAX_OVERLAP_MS).await.unwrap();
    app.rotate(&alice, bot, 3, 0).await.unwrap();
    for n in [1, 2] {
        assert_eq!(app.mint_for(bot, grant, key(n)).await, Err(IssueError::NotActive), "{n}");
    }
    app.mint_for(bot, grant, key(3)).await.unwrap();
    assert_eq!(app.replayed().await.unwrap().revocations, 2);
}

#[tokio::test]
async fn who_may_rotate_to_what() {
    let app = app().await;
    let (alice, bot, _) = app.granted().await;
    let (bob, sam) = (app.person("bob").await, app.person("sam").await);
    assert_eq!(app.rotate(&bob, bot, 2, 0).await, Err(RotateError::Forbidden));
    assert_eq!(app.rotate(&sam, bot, 2, 0).await, Err(RotateError::Forbidden), "security stops, and gives nobody a key");
    assert_eq!(app.rotate(&alice, AgentId::from_bytes([9; 16]), 2, 0).await, Err(RotateError::Forbidden));
    assert_eq!(app.rotate(&alice, bot, 1, 0).await, Err(RotateError::KeyTaken(key(1))));
    assert_eq!(app.rotate(&alice, bot, 2, MAX_OVERLAP_MS + 1).await, Err(RotateError::Overlap(86_400)));
    let nonce = challenge(&app.ctx, &alice).unwrap();
    let forged = Rotation { agent: bot, key: key(2), nonce, signature: possession(&nonce, key(2), 1), overlap_ms: 0 };
    assert!(matches!(rotate(&app.ctx, &alice, &forged).await, Err(RotateError::Possession(_))), "the old key does not speak for the new one");
    for n in 2..5 {
        app.rotate(&alice, bot, n, 60_000).await.unwrap();
    }
    assert_eq!(app.rotate(&alice, bot, 5, 60_000).await, Err(RotateError::TooMany));
    app.rotate(&alice, bot, 5, 0).await.unwrap();
    app.killed(&alice).await;
    assert_eq!(app.rotate(&alice, bot, 6, 0).await, Err(RotateError::SignedOut(super::SignedOut)));
    app.replayed().await.unwrap();
}

#[tokio::test]
async fn rotations_and_a_retirement_at_once_leave_no_key_behind() {
    let app = app().await;
    let (alice, bot, _) = app.granted().await;
    let (a, b, gone) = tokio::join!(app.rotate(&alice, bot, 2, 60_000), app.rotate(&alice, bot, 3, 60_000), retire(&app.ctx, &alice, bot, "done".to_owned()));
    gone.unwrap();
    assert!(a.is_ok() || a == Err(RotateError::Retired), "{a:?}");
    assert!(b.is_ok() || b == Err(RotateError::Retired), "{b:?}");
    assert!(app.keys(bot).await.iter().all(|(_, state)| *state == KeyState::Revoked));
    app.replayed().await.unwrap();
}

#[tokio::test]
async fn a_suspended_agent_gets_nothing_and_its_tokens_are_dead() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let before = UnverifiedToken::parse(&app.mint_for(bot, grant, key(1)).await.unwrap()).unwrap().claimed().generations.agent;
    let stopped = suspend(&app.ctx, &alice, bot, "odd calls".to_owned()).await.unwrap();
    assert!(before < stopped.generation, "below the floor");
    assert_eq!(app.mint_for(bot, grant, key(1)).await, Err(IssueError::Revoked));
    assert_eq!(delegate(&app.ctx, &alice, bot, terms(), None).await, Err(DelegateError::NoAgent(bot)));
    assert_eq!(card(&app.ctx, &app.assertion(bot), key(1)).await, Err(CardError::Revoked));
    assert_eq!(suspend(&app.ctx, &alice, bot, "again".to_owned()).await, Err(StopError::Already(AgentState::Suspended)));
    assert_eq!(confirm(&app.ctx, &alice, grant).await, Err(ConfirmError::AgentStopped));
    app.replayed().await.unwrap();
}

#[tokio::test]
async fn after_a_resume_each_delegator_confirms_theirs_and_no_old_token_comes_back() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let old = app.mint_for(bot, grant, key(1)).await.unwrap();
    suspend(&app.ctx, &alice, bot, "odd calls".to_owned()).await.unwrap();
    let (a, b) = tokio::join!(resume(&app.ctx, &alice, bot, "explained".to_owned()), resume(&app.ctx, &alice, bot, "explained".to_owned()));
    let one = [&a, &b].into_iter().filter(|r| r.is_ok()).count();
    assert_eq!((one, [&a, &b].into_iter().filter(|r| **r == Err(ResumeError::Active)).count()), (1, 1));
    let resumed = a.or(b).unwrap();
    assert_eq!(resumed.waiting.iter().map(|d| d.id).collect::<Vec<_>>(), [grant]);
    card(&app.ctx, &app.assertion(bot), key(1)).await.unwrap();
    assert_eq!(app.mint_for(bot, grant, key(1)).await, Err(IssueError::Revoked), "not by itself");
    let bob = app.person("bob").await;
    assert_eq!(confirm(&app.ctx, &bob, grant).await, Err(ConfirmError::Forbidden));
    assert_eq!(confirm(&app.ctx, &alice, grant).await.unwrap().version, 2);
    assert_eq!(confirm(&app.ctx, &alice, grant).await, Err(ConfirmError::Live));
    let new = UnverifiedToken::parse(&app.mint_for(bot, grant, key(1)).await.unwrap()).unwrap();
    assert_eq!((UnverifiedToken::parse(&old).unwrap().claimed().generations.agent, new.claimed().generations.agent), (0, 1));
    assert_eq!(show(&app.ctx, &alice, bot).await.unwrap().unwrap().waiting, []);
    app.replayed().await.unwrap();
}

#[tokio::test]
async fn a_stop_of_securitys_is_not_for_the_owner_to_lift() {
    let app = app().await;
    let (alice, bot, _) = app.granted().await;
    let (sam, bob) = (app.person("sam").await, app.person("bob").await);
    for target in [None, Some(Target::Agent(bot))] {
        match target {
            None => drop(suspend(&app.ctx, &sam, bot, "incident".to_owned()).await.unwrap()),
            Some(target) => drop(revoke(&app.ctx, &sam, target, None, None).await.unwrap()),
        }
        // Stopping it once more does not make it hers to resume.
        revoke(&app.ctx, &alice, Target::Agent(bot), None, None).await.unwrap();
        let asked = |by| resume(&app.ctx, by, bot, "please".to_owned());
        assert_eq!(asked(&alice).await, Err(ResumeError::NotTheirStop), "{target:?}");
        assert_eq!(asked(&bob).await, Err(ResumeError::Forbidden));
        asked(&sam).await.unwrap();
        assert_eq!(asked(&sam).await, Err(ResumeError::Active));
    }
    revoke(&app.ctx, &alice, Target::Agent(bot), None, None).await.unwrap();
    resume(&app.ctx, &alice, bot, "a mistake".to_owned()).await.unwrap();
    app.replayed().await.unwrap();
}

#[tokio::test]
async fn retired_is_for_ever() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let (bob, sam) = (app.person("bob").await, app.person("sam").await);
    assert_eq!(retire(&app.ctx, &bob, bot, "mine".to_owned()).await, Err(StopError::Forbidden));
    assert_eq!(retire(&app.ctx, &alice, bot, " ".to_owned()).await, Err(StopError::Reason(1)));
    suspend(&app.ctx, &alice, bot, "first".to_owned()).await.unwrap();
    retire(&app.ctx, &alice, bot, "replaced".to_owned()).await.unwrap();
    assert_eq!(app.mint_for(bot, grant, key(1)).await, Err(IssueError::Revoked));
    for by in [&alice, &sam, &Principal::LocalOperator] {
        assert_eq!(resume(&app.ctx, by, bot, "please".to_owned()).await, Err(ResumeError::Retired));
        assert_eq!(suspend(&app.ctx, by, bot, "please".to_owned()).await, Err(StopError::Already(AgentState::Retired)));
    }
    assert_eq!(app.rotate(&alice, bot, 2, 0).await, Err(RotateError::Retired));
    assert_eq!(confirm(&app.ctx, &alice, grant).await, Err(ConfirmError::AgentStopped));
    assert_eq!(retire(&app.ctx, &sam, AgentId::from_bytes([9; 16]), "who".to_owned()).await, Err(StopError::Unknown(AgentId::from_bytes([9; 16]))));
    app.replayed().await.unwrap();
}

#[tokio::test]
async fn a_mint_and_a_suspension_at_once_are_in_order() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let asked = Mint { delegation: grant, holder: key(1), audiences: vec![], ttl_secs: None };
    let assertion = app.assertion(bot);
    let (stopped, minted) = tokio::join!(suspend(&app.ctx, &alice, bot, "now".to_owned()), issue(&app.ctx, &assertion, &asked));
    match minted {
        Ok(issued) => assert!(issued.leaf < stopped.unwrap().leaf),
        Err(e) => assert!(matches!(e, IssueError::Revoked | IssueError::NotActive), "{e}"),
    }
    app.replayed().await.unwrap();
}

/// Whoever holds the event key may write any leaf; replay says which ones cannot be.
#[tokio::test]
async fn replay_finds_what_no_life_of_an_agent_has() {
    let human = |p: &Principal| p.human().unwrap();
    let cases = ["stays dead", "no rise", "after retirement", "living key", "too long", "moved out", "not the owner", "not yet", "grant"];
    for case in cases {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let (by, hash) = (Actor::Human(human(&alice)), event::Digest([7; 32]));
        let state = |state, generation| event::AgentState { agent: bot, state, generation, by, reason_hash: hash };
        let follow = |n: u8, until: UtcMillis, by| event::AgentKey { agent: bot, key: key(n), replaces: vec![Replaced { key: key(1), until }], by };
        let floor = |generation| Item::Floor { scope: FloorScope::Agent(bot), generation };
        app.replayed().await.unwrap();
        let word = match case {
            "stays dead" => {
                // Suspended in the log, and a mint all the same.
                app.forge(state(AgentState::Suspended, 1), vec![floor(1)]).await;
                let mut d = app.events().await.into_iter().find_map(|e| if let Event::Delegation(d) = e { Some(d) } else { None }).unwrap();
                d.version = 2;
                d.generations.agent = 1;
                app.forge(d, vec![]).await;
                "which is suspended"
            }
            "no rise" => {
                app.forge(state(AgentState::Suspended, 0), vec![]).await;
                "cannot become suspended"
            }
            "after retirement" => {
                retire(&app.ctx, &alice, bot, "done".to_owned()).await.unwrap();
                app.forge(state(AgentState::Active, 1), vec![]).await;
                "cannot become active"
            }
            "living key" => {
                app.forge(state(AgentState::Retired, 1), vec![floor(1)]).await;
                "lives on"
            }
            "too long" => {
                app.forge(follow(2, NOW.plus(MAX_OVERLAP_MS + 1), by), vec![]).await;
                "later than it may"
            }
            "moved out" => {
                app.rotate(&alice, bot, 2, 1_000).await.unwrap();
                app.forge(follow(3, NOW.plus(2_000), by), vec![]).await;
                "later than it may"
            }
            "not the owner" => {
                let bob = app.person("bob").await;
                app.forge(follow(2, NOW.plus(1), Actor::Human(human(&bob))), vec![]).await;
                "another than its owner"
            }
            "not yet" => {
                app.rotate(&alice, bot, 2, 60_000).await.unwrap();
                let item = Item::HolderKey { key: key(1) };
                let e = event::Revoke { item: event::Encoded(item.to_bytes()), by: Actor::OverlapEnded, reason_hash: None, delegation: None };
                let leaf = app.ctx.leaf(e, app.ctx.now()).unwrap();
                app.ctx.writer.submit(Change { items: vec![item], leaves: vec![leaf], ..Change::default() }).await.unwrap();
                "overlap"
            }
            _ => {
                // A key that was stated to have ended is used for a mint two minutes later.
                app.rotate(&alice, bot, 2, 1_000).await.unwrap();
                let issued = app.mint(bot, grant).await.unwrap();
                let mut e = app.events().await.into_iter().find_map(|e| if let Event::Issue(i) = e { Some(i) } else { None }).unwrap();
                assert_eq!(e.tid, issued.tid);
                e.tid = procura_verifier::ids::Tid::from_bytes([5; 16]);
                app.clock.advance_ms(120_000);
                app.forge(e, vec![]).await;
                "ended at"
            }
        };
        let found = app.replayed().await.expect_err(case);
        assert!(found.class == FindingClass::State && found.sentence.contains(word), "{case}: {found}");
    }
}
