//! An agent mints a token under a delegation.

use procura_verifier::claims::{Block0, HumanRef, Name};
use procura_verifier::ids::{DelegationId, Key, Tid, UtcMillis};
use procura_verifier::key_list::KeyUse;
use procura_verifier::token::{UnverifiedToken, block0_hash};
use sha2::{Digest as _, Sha256};

use super::{Context, Unavailable, log_generations};
use crate::agent_auth::Assertion;
use crate::domain::delegation::{Delegation, DelegationState};
use crate::log::event;
use crate::signer::SignError;
use crate::store::{Change, JtiHash, Refused, Require, Row, TokenRecord};
use crate::writer::WriteError;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mint {
    /// Under which grant.
    pub delegation: DelegationId,
    /// For which of the agent's keys.
    pub holder: Key,
    /// At which services; none for all of the grant's.
    pub audiences: Vec<Name>,
    /// For how long, in seconds; none for as long as the grant allows.
    pub ttl_secs: Option<u64>,
}

/// A token whose event is committed.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token: a secret until it is sealed.
    pub token: Vec<u8>,
    /// Its id.
    pub tid: Tid,
    /// First second after its validity.
    pub expires_secs: u64,
    /// Where the log says so.
    pub leaf: u64,
}

// The token holds the means to append to it.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued({})", self.tid)
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Not a grant to this agent, as far as the agent is told.
    #[error("no delegation {0} to this agent")]
    NoDelegation(DelegationId),
    /// Something that the grant rests on was revoked. Only a new grant gives life again.
    #[error("the delegation, or something it rests on, was revoked")]
    Revoked,
    /// Its end has come.
    #[error("the delegation ended at {0}")]
    Ended(UtcMillis),
    /// Suspended or retired, or the key is not one of its live ones.
    #[error("the agent or its key is not active")]
    NotActive,
    /// A service that the grant does not name.
    #[error("audience `{0}` is not one of the delegation's")]
    Audience(Name),
    /// The root key was revoked, and there is no other: tokens under it are refused everywhere.
    #[error(
        "the root key was revoked and no other holds for so long: publish a key list with a new root key (`procura keys prepare --rotate root …`, `procura keys sign`, `procura keys publish`)"
    )]
    RootKeyRevoked,
    /// Nothing or too much.
    #[error("expected a life of at least one second and 1 to 8 audiences, none twice")]
    Request,
    /// The assertion has done its work.
    #[error("the assertion was used before")]
    Replayed,
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A token under the grant, with the grant's own generations. It leaves only after its event is committed.
pub async fn issue(ctx: &Context, by: &Assertion, asked: &Mint) -> Result<Issued, IssueError> {
    let found = ctx.store.find_delegation(asked.delegation).await.map_err(Unavailable::from)?;
    let d = found.filter(|d| d.agent == by.agent).ok_or(IssueError::NoDelegation(asked.delegation))?;
    // Asked again inside the transaction. Here it keeps an agent that loops after a kill from costing signatures and a place in the queue.
    if d.state != DelegationState::Live || is_killed(ctx, &d).await? {
        return Err(IssueError::Revoked);
    }
    let now = ctx.now();
    let block = block0(ctx, &d, asked, now)?;
    let (token, root) = match ctx.signer.mint(&block, ctx.random()) {
        Err(SignError::NoKey { .. }) if ctx.a_root_key_was_killed() => return Err(IssueError::RootKeyRevoked),
        minted => minted.map_err(|e| Unavailable::Store(format!("token: {e}")))?,
    };
    let parsed = UnverifiedToken::parse(&token).map_err(|e| Unavailable::Store(format!("token: {e}")))?;
    let (tid, expires_secs) = (block.tid, block.expires_secs);
    let leaf = event::Issue {
        tid,
        delegation: d.id,
        agent: d.agent,
        holder: asked.holder,
        block0_sha256: event::Digest(block0_hash(&parsed)),
        expires: UtcMillis(expires_secs * 1000),
        ancestors: Vec::new(),
        generations: log_generations(&d.generations),
    };
    let mut requires: Vec<_> = d.recorded().into_iter().map(|(scope, g)| Require::NotBelowFloor(scope, g)).collect();
    requires.extend([Require::DelegationLive(d.id, d.version), Require::AgentActive(d.agent), Require::KeyLive(d.agent, asked.holder)]);
    // A mint that was signed before the kill committed must not commit after it.
    requires.push(Require::RootKeyLives(root));
    let record = TokenRecord { tid, delegation: d.id, expires_secs, ancestors: Vec::new(), revoked: None };
    let rows = vec![Row::Token(record), Row::Jti(by.agent, jti_hash(&by.jti), by.exp)];
    let written = ctx.writer.submit(Change { requires, rows, leaves: vec![ctx.leaf(leaf, now)?], items: Vec::new() }).await.map_err(|e| match e {
        WriteError::Refused(Refused::Killed(_) | Refused::DelegationNotLive) => IssueError::Revoked,
        // Narrowed in between: the next attempt reads the narrower version.
        WriteError::Refused(Refused::DelegationMoved(_)) => Unavailable::Busy.into(),
        WriteError::Refused(Refused::AgentNotActive | Refused::KeyNotLive) => IssueError::NotActive,
        WriteError::Refused(Refused::JtiSpent) => IssueError::Replayed,
        WriteError::Refused(Refused::RootKeyKilled(key)) => {
            // Killed here in between, or at another replica: from now on another key signs, if there is one.
            ctx.keys.kill_root(key);
            let ms = |secs: u64| UtcMillis(secs.saturating_mul(1000));
            match ctx.signer.key_for(KeyUse::Root, ms(block.not_before_secs), ms(expires_secs)) {
                Some(_) => Unavailable::Busy.into(),
                None => IssueError::RootKeyRevoked,
            }
        }
        e => Unavailable::from_write(e).into(),
    })?;
    Ok(Issued { token, tid, expires_secs, leaf: written.placed.leaves.start })
}

/// What is kept of an assertion's `jti`.
pub(super) fn jti_hash(jti: &str) -> JtiHash {
    JtiHash(Sha256::new_with_prefix(b"procura-jti/1\0").chain_update(jti).finalize().into())
}

async fn is_killed(ctx: &Context, d: &Delegation) -> Result<bool, Unavailable> {
    let recorded = d.recorded();
    let floors = ctx.store.generations(&recorded.map(|(scope, _)| scope)).await?;
    Ok(recorded.iter().zip(floors).any(|((_, recorded), floor)| *recorded < floor))
}

fn block0(ctx: &Context, d: &Delegation, asked: &Mint, now: UtcMillis) -> Result<Block0, IssueError> {
    let not_before_secs = now.secs();
    let rest = d.terms.not_after.secs().saturating_sub(not_before_secs);
    if rest == 0 {
        return Err(IssueError::Ended(d.terms.not_after));
    }
    let wished = asked.ttl_secs.unwrap_or(u64::MAX);
    let ttl = wished.min(d.terms.ttl_secs).min(rest).min(ctx.keys.load().payload().max_ttl_secs);
    let expires_secs = not_before_secs + ttl;
    // Nothing may live on that could not be taken back any more, for want of a key to log or to tell it.
    let end = ctx.takes_back_until(now);
    if expires_secs * 1000 > end.0 {
        return Err(Unavailable::Store(format!("event, feed and log keys hold until {end} only: publish a key list with new ones")).into());
    }
    let mut audiences = asked.audiences.clone();
    audiences.sort_unstable();
    if audiences.is_empty() {
        audiences.clone_from(&d.terms.audiences);
    }
    if let Some(foreign) = audiences.iter().find(|a| !d.terms.audiences.contains(a)) {
        return Err(IssueError::Audience(foreign.clone()));
    }
    let block = Block0 {
        tenant: ctx.tenant.clone(),
        tid: Tid::from_bytes(ctx.random()),
        ancestors: Vec::new(),
        delegation: d.id,
        human: HumanRef::Id(d.human),
        agent: d.agent,
        holder: asked.holder,
        possession: d.terms.possession,
        audiences,
        capabilities: d.terms.capabilities.clone(),
        class_max: d.terms.class_max,
        not_before_secs,
        expires_secs,
        depth: d.terms.depth,
        hops: d.terms.hops,
        freshness_ms: d.terms.freshness_ms,
        generations: d.generations,
    };
    block.check().map_err(|_| IssueError::Request)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::domain::delegation::Terms;
    use crate::domain::delegation::tests::terms;
    use crate::usecase::delegate::delegate;
    use crate::usecase::revoke::{Target, revoke};

    #[tokio::test]
    async fn a_token_says_what_the_grant_says_and_its_event_is_in_the_log() {
        let app = app().await;
        let (_, bot, grant) = app.granted().await;
        let issued = app.mint(bot, grant).await.unwrap();
        let token = UnverifiedToken::parse(&issued.token).unwrap();
        let verified = token.verify(&app.ctx.keys.load()).unwrap();
        let block = verified.block0();
        assert_eq!((block.tid, block.delegation, block.agent, block.holder), (issued.tid, grant, bot, key(1)));
        assert_eq!(block.capabilities, terms().capabilities);
        assert_eq!(block.expires_secs, NOW.secs() + 3600);
        let Some(event::Event::Issue(e)) = app.events().await.pop() else { panic!("no event") };
        assert_eq!((e.tid, e.block0_sha256.0), (issued.tid, block0_hash(&token)));
        assert_eq!(app.ctx.store.find_token(issued.tid).await.unwrap().map(|t| t.delegation), Some(grant));
    }

    #[tokio::test]
    async fn what_the_grant_does_not_give_is_not_minted() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let other = app.register(&alice, "fx-helper", 2).await.unwrap().agent;
        let mint = Mint { delegation: grant, holder: key(1), audiences: vec![], ttl_secs: None };
        let ask = async |by, asked: &Mint| issue(&app.ctx, &app.assertion(by), asked).await;
        assert_eq!(ask(other, &mint).await, Err(IssueError::NoDelegation(grant)));
        assert_eq!(ask(bot, &Mint { holder: key(2), ..mint.clone() }).await, Err(IssueError::NotActive));
        assert_eq!(ask(bot, &Mint { audiences: vec!["ledger".parse().unwrap()], ..mint.clone() }).await, Err(IssueError::Audience("ledger".parse().unwrap())));
        assert_eq!(ask(bot, &Mint { audiences: vec!["payments".parse().unwrap(); 2], ..mint.clone() }).await, Err(IssueError::Request));
        assert_eq!(ask(bot, &Mint { ttl_secs: Some(0), ..mint.clone() }).await, Err(IssueError::Request));
        let short = ask(bot, &Mint { ttl_secs: Some(60), ..mint.clone() }).await.unwrap();
        assert_eq!(short.expires_secs, NOW.secs() + 60);
        let long = ask(bot, &Mint { ttl_secs: Some(1_000_000), ..mint }).await.unwrap();
        assert_eq!(long.expires_secs, NOW.secs() + 3600);
    }

    #[tokio::test]
    async fn a_token_ends_with_its_grant_and_none_is_minted_after() {
        let app = app().await;
        let alice = app.person("alice").await;
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap().agent;
        let ends = NOW.plus(90_500);
        let grant = delegate(&app.ctx, &alice, bot, Terms { not_after: ends, ..terms() }, None).await.unwrap().delegation;
        assert_eq!(app.mint(bot, grant).await.unwrap().expires_secs, NOW.secs() + 90);
        app.clock.advance_ms(90_000);
        assert_eq!(app.mint(bot, grant).await, Err(IssueError::Ended(ends)));
    }

    #[tokio::test]
    async fn an_assertion_mints_once() {
        let app = app().await;
        let (_, bot, grant) = app.granted().await;
        let (by, mint) = (app.assertion(bot), Mint { delegation: grant, holder: key(1), audiences: vec![], ttl_secs: None });
        let (a, b) = tokio::join!(issue(&app.ctx, &by, &mint), issue(&app.ctx, &by, &mint));
        assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|ok| **ok).count(), 1);
        assert_eq!(a.err().or(b.err()), Some(IssueError::Replayed));
    }

    #[tokio::test]
    async fn after_a_kill_only_a_new_grant_gives_life() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let sam = app.person("sam").await;
        app.mint(bot, grant).await.unwrap();
        revoke(&app.ctx, &sam, Target::Human(alice.human().unwrap()), Some("laptop stolen".into()), None).await.unwrap();
        for _ in 0..5 {
            assert_eq!(app.mint(bot, grant).await, Err(IssueError::Revoked));
        }
        let alice = app.person("alice").await;
        let anew = delegate(&app.ctx, &alice, bot, terms(), None).await.unwrap().delegation;
        let token = app.mint(bot, anew).await.unwrap();
        let parsed = UnverifiedToken::parse(&token.token).unwrap();
        assert_eq!(parsed.verify(&app.ctx.keys.load()).unwrap().block0().generations.human, 1);
        assert_eq!(app.mint(bot, grant).await, Err(IssueError::Revoked), "the old grant stays dead");
    }

    #[tokio::test]
    async fn every_kind_of_kill_stops_the_mint() {
        for n in 0..6 {
            let app = app().await;
            let (alice, bot, grant) = app.granted().await;
            let sam = app.person("sam").await;
            app.mint(bot, grant).await.unwrap();
            let target = match n {
                0 => Target::Delegation(grant),
                1 => Target::Agent(bot),
                2 => Target::Human(alice.human().unwrap()),
                3 => Target::Tenant,
                4 => Target::Everything,
                _ => Target::HolderKey(key(1)),
            };
            revoke(&app.ctx, &sam, target, None, None).await.unwrap();
            let expected = if n == 5 { IssueError::NotActive } else { IssueError::Revoked };
            assert_eq!(app.mint(bot, grant).await, Err(expected), "{target:?}");
        }
    }

    #[tokio::test]
    async fn a_kill_that_commits_between_reading_and_writing_stops_the_mint() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let sam = app.person("sam").await;
        let human = alice.human().unwrap();
        // Both are under way at once; whichever order the writer gives them, no token is left that outlives the kill:
        // its event stands before the revocation, or there is none.
        let (killed, minted) = tokio::join!(revoke(&app.ctx, &sam, Target::Human(human), None, None), app.mint(bot, grant));
        let killed = killed.unwrap();
        match minted {
            Ok(issued) => assert!(issued.leaf < killed.leaf),
            Err(e) => assert_eq!(e, IssueError::Revoked),
        }
    }
}
