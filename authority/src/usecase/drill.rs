//! Tries the kill switch: a delegation and a token of the drill's own are made, revoked, and the answer is put on record.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use procura_verifier::claims::{Capability, DataClass, Hops, Name, Pattern, Possession};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tid};
use procura_verifier::wire::Malformed;

use super::coverage::{Coverage, actor, record, revoke_and_look};
use super::delegate::{Granting, Which, granting};
use super::issue::{IssueError, Mint, issue};
use super::revoke::{RevokeError, Revoked, Target};
use super::{ATTEMPTS, Context, SignedOut, Unavailable, standing};
use crate::agent_auth::Assertion;
use crate::domain::agent::{Agent, AgentKey, AgentState, KeyState};
use crate::domain::delegation::{Terms, TermsError};
use crate::domain::human::{Human, Role, Subject};
use crate::domain::principal::Principal;
use crate::log::event;
use crate::store::{Change, Refused, Row};
use crate::writer::WriteError;

/// The drill's agent, tool and service: nobody else's may be called so.
pub const NAME: &str = "procura-drill";

/// A drill that was run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drilled {
    /// What was granted and revoked.
    pub delegation: DelegationId,
    /// What was minted under it.
    pub tid: Tid,
    /// The revocation.
    pub revoked: Revoked,
    /// Who heard of it; its leaf is followed by the drill's own.
    pub coverage: Coverage,
}

/// Why there was no drill, or none on record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrillError {
    /// Only the role security.
    #[error("only the role security runs drills")]
    Forbidden,
    /// Somebody's agent has the drill's name.
    #[error("an agent of somebody's is called `{NAME}`")]
    NameTaken,
    /// The canary could not be made.
    #[error("canary: {0}")]
    Canary(String),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again. What was granted is revoked, or is worth nothing to anybody.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<TermsError> for DrillError {
    fn from(e: TermsError) -> Self {
        Self::Canary(e.to_string())
    }
}

/// Runs a drill. The canary's token is good for no tool and its key is thrown away: nothing is left behind but the record.
pub async fn drill(ctx: &Context, by: &Principal, patience: Duration) -> Result<Drilled, DrillError> {
    if !by.has(Role::Security) {
        return Err(DrillError::Forbidden);
    }
    let human = canary(ctx, by).await?;
    let (agent, holder) = agent(ctx, by, human).await?;
    let delegation = grant(ctx, by, human, &agent).await?;
    let assertion = Assertion { agent: agent.id, jti: hex::encode(ctx.random::<16>()), exp: ctx.now().plus(TTL_SECS * 1000) };
    let asked = Mint { delegation, holder, audiences: Vec::new(), ttl_secs: None };
    let tid = match issue(ctx, &assertion, &asked).await {
        Ok(issued) => issued.tid,
        Err(IssueError::Unavailable(e)) => return Err(e.into()),
        // Somebody kills the canary, or everything, at this moment.
        Err(e) => return Err(DrillError::Canary(e.to_string())),
    };
    let reason = Some("drill".to_owned());
    let (revoked, coverage) = revoke_and_look(ctx, by, Target::Delegation(delegation), reason, None, patience).await.map_err(|e| match e {
        RevokeError::Unavailable(e) => e.into(),
        RevokeError::SignedOut(e) => e.into(),
        e => DrillError::Canary(e.to_string()),
    })?;
    let mut coverage = coverage?;
    let (confirmed, fenced, not_covered) = coverage.counts();
    let leaf = event::Drill {
        delegation,
        tid,
        revocation: revoked.leaf,
        confirmed,
        fenced,
        not_covered,
        anonymous: coverage.anonymous,
        slowest_ms: coverage.slowest_ms(),
        by: actor(by),
    };
    let now = ctx.now();
    // The drill's leaf is the change's last, and one that no drill precedes: the table keeps the change's first.
    let more = |ctx: &Context| Ok((vec![ctx.leaf(leaf, now)?], vec![Row::Drill(now)]));
    coverage.leaf = Some(record(ctx, &revoked, &coverage, actor(by), more).await?);
    ctx.metrics.drilled(if coverage.is_whole() { "covered" } else { "not_covered" });
    Ok(Drilled { delegation, tid, revoked, coverage })
}

/// The drill's own human, drawn at the first drill. No provider has this name, so nobody signs in as this one.
async fn canary(ctx: &Context, by: &Principal) -> Result<HumanId, DrillError> {
    let subject = Subject { issuer: "procura:drill".to_owned(), subject: ctx.tenant.to_string() };
    for _ in 0..ATTEMPTS {
        if let Some(known) = ctx.store.find_human_by_subject(&subject).await.map_err(Unavailable::from)? {
            return Ok(known.id);
        }
        let human = Human { id: HumanId::from_bytes(ctx.random()), subject: subject.clone() };
        let leaf = ctx.leaf(event::Canary { human: human.id, by: actor(by) }, ctx.now())?;
        let id = human.id;
        match ctx.writer.submit(Change { requires: standing(by), rows: vec![Row::Human(human)], leaves: vec![leaf], ..Change::default() }).await {
            Ok(_) => return Ok(id),
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            Err(WriteError::Refused(Refused::HumanKnown)) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

/// The drill's agent with a key that lives: the one it has, or a fresh one.
async fn agent(ctx: &Context, by: &Principal, human: HumanId) -> Result<(Agent, Key), DrillError> {
    let name: Name = NAME.parse().map_err(|_| DrillError::Canary("the drill's name is no name".to_owned()))?;
    for _ in 0..ATTEMPTS {
        let known = ctx.store.find_agent_by_name(&name).await.map_err(Unavailable::from)?;
        if known.as_ref().is_some_and(|a| a.owner != human) {
            return Err(DrillError::NameTaken);
        }
        if let Some(agent) = &known {
            let keys = ctx.store.keys_of(agent.id).await.map_err(Unavailable::from)?;
            if let Some(live) = keys.iter().find(|k| k.state == KeyState::Live) {
                return Ok((agent.clone(), live.key));
            }
        }
        let now = ctx.now();
        let scope = procura_verifier::feed::message::FloorScope::Agent;
        let agent = match known {
            Some(agent) => agent,
            None => Agent {
                id: AgentId::from_bytes(ctx.random()),
                name: name.clone(),
                owner: human,
                state: AgentState::Active,
                generation: 0,
                created: now,
                stopped_by: None,
            },
        };
        // The private half is dropped here: whoever reads the drill's token can do nothing with it.
        let key = Key::of(&SigningKey::from_bytes(&ctx.random()));
        let generation = ctx.generation(scope(agent.id)).await.map_err(Unavailable::from)?;
        let (opening, name_salted_hash) = ctx.salted(NAME.to_owned());
        let leaf = event::Agent { agent: agent.id, owner: human, name_salted_hash, key, generation };
        let row = AgentKey { key, agent: agent.id, state: KeyState::Live, added: now, ends: None };
        let requires = [standing(by), vec![crate::store::Require::GenerationIs(scope(agent.id), generation)]].concat();
        let change =
            Change { requires, rows: vec![Row::Agent(agent.clone()), Row::AgentKey(row), opening], leaves: vec![ctx.leaf(leaf, now)?], items: Vec::new() };
        match ctx.writer.submit(change).await {
            Ok(_) => return Ok((agent, key)),
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            // Another drill at the same moment.
            Err(WriteError::Refused(Refused::NameTaken | Refused::GenerationMoved(..))) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

async fn grant(ctx: &Context, by: &Principal, human: HumanId, agent: &Agent) -> Result<DelegationId, DrillError> {
    let wrong = |e: &dyn std::fmt::Display| DrillError::Canary(e.to_string());
    let name: Name = NAME.parse().map_err(|e: Malformed| wrong(&e))?;
    let canary: Name = CANARY.parse().map_err(|e: Malformed| wrong(&e))?;
    let resource: Pattern = CANARY.parse().map_err(|e: Malformed| wrong(&e))?;
    let capability = Capability::new(name.clone(), canary, resource, Vec::new()).map_err(|e| wrong(&e))?;
    let terms = Terms {
        capabilities: vec![capability],
        audiences: vec![name],
        ttl_secs: TTL_SECS.min(ctx.keys.load().payload().max_ttl_secs),
        not_after: ctx.now().plus(TTL_SECS * 1000),
        depth: 0,
        hops: Hops::Registered,
        possession: Possession::Proof,
        freshness_ms: procura_verifier::decision::STRICT_MS,
        class_max: DataClass::Public,
    };
    let terms = terms.normal(ctx.now())?;
    for _ in 0..ATTEMPTS {
        let Granting { id, mut change, .. } = granting(ctx, human, agent, terms.clone(), Which::New).await?;
        change.requires.splice(0..0, standing(by));
        match ctx.writer.submit(change).await {
            Ok(_) => return Ok(id),
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            Err(WriteError::Refused(Refused::GenerationMoved(..))) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

/// Its action and resource.
const CANARY: &str = "canary";
/// A canary's life.
const TTL_SECS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::app::export;
    use crate::log::bundle::{Bundle, Limits};
    use crate::log::event::Event;
    use crate::log::replay::replay;

    #[tokio::test]
    async fn a_drill_leaves_a_record_that_replays_and_an_age() {
        let app = app().await;
        let (alice, sam) = (app.person("alice").await, app.person("sam").await);
        assert_eq!(drill(&app.ctx, &alice, Duration::from_secs(1)).await, Err(DrillError::Forbidden));
        assert_eq!(app.ctx.store.last_drill().await.unwrap(), None);
        let first = drill(&app.ctx, &sam, Duration::from_secs(1)).await.unwrap();
        assert!(first.coverage.is_whole() && first.coverage.runs.is_empty(), "nobody is enrolled");
        app.clock.advance_ms(5_000);
        let second = drill(&app.ctx, &Principal::LocalOperator, Duration::from_secs(1)).await.unwrap();
        assert_ne!(first.delegation, second.delegation);
        assert_eq!(app.ctx.store.last_drill().await.unwrap(), Some((NOW.plus(5_000), second.coverage.leaf.unwrap())));
        let events = app.events().await;
        let Some(Event::Drill(e)) = events.last() else { panic!("no drill") };
        assert_eq!((e.delegation, e.tid, e.revocation), (second.delegation, second.tid, second.revoked.leaf));
        assert_eq!(events.iter().filter(|e| matches!(e, Event::Canary(_) | Event::Agent(_))).count(), 2, "one human and one agent for all drills");

        let bytes = export(&app.ctx, &app.ctx.writer.checkpoint()).await.unwrap();
        let bundle = Bundle::read(&bytes, &app.anchors, &app.ctx.tenant, Limits::default()).unwrap();
        assert_eq!(replay(&bundle).unwrap().drills, 2);
    }

    #[tokio::test]
    async fn who_was_killed_meanwhile_runs_no_drill_and_leaves_no_canary() {
        let app = app().await;
        let sam = app.person("sam").await;
        app.killed(&sam).await;
        let before = app.events().await.len();
        assert_eq!(drill(&app.ctx, &sam, Duration::from_secs(1)).await, Err(DrillError::SignedOut(SignedOut)));
        assert_eq!(app.events().await.len(), before);
        drill(&app.ctx, &app.person("sam").await, Duration::from_secs(1)).await.unwrap();
        let before = app.events().await.len();
        assert_eq!(drill(&app.ctx, &sam, Duration::from_secs(1)).await, Err(DrillError::SignedOut(SignedOut)), "though the canary is there");
        assert_eq!(app.events().await.len(), before);
    }

    #[tokio::test]
    async fn the_drills_name_is_nobody_elses() {
        let app = app().await;
        let alice = app.person("alice").await;
        assert!(app.register(&alice, NAME, 1).await.is_err());
        app.register(&alice, "procura-drills", 1).await.unwrap();
        let root = Principal::LocalOperator;
        let enrol = async |audience: &str, n| super::super::enroll_verifier::enroll_verifier(&app.ctx, &root, audience.parse().unwrap(), key(n)).await;
        assert!(enrol("procura-drill/1", 8).await.is_err());
        enrol("payments/1", 8).await.unwrap();
    }
}
