//! Takes authority back: a token, a delegation, an agent, a person, a key, a tenant, everything.

use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{AgentId, BootTime, DelegationId, HumanId, Key, Tid};
use procura_verifier::key_list::KeyUse;
use procura_verifier::wire::Canonical as _;
use serde::{Deserialize, Serialize};

use super::{ATTEMPTS, Context, Once, OtherRequest, RecallError, SignedOut, Unavailable, standing};
use crate::domain::agent::{AgentKey, KeyState};
use crate::domain::delegation::DelegationState;
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::domain::session::SessionChange;
use crate::log::event::{self, Actor};
use crate::store::{Change, Refused, Require, Row, TokenRecord};
use crate::writer::WriteError;

/// What is taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Target {
    /// A token and all re-minted from it. To stop the agent, take its delegation.
    Token(Tid),
    /// A delegation and everything under it.
    Delegation(DelegationId),
    /// An agent, as holder of tokens and of links.
    Agent(AgentId),
    /// A person: everything resting on their authority.
    Human(HumanId),
    /// A holder key; if the key list names it as a root key, all that it signed.
    HolderKey(Key),
    /// Everything of the tenant.
    Tenant,
    /// Everything.
    Everything,
}

impl Target {
    /// What it is, as the command line, the API and metrics say it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Delegation(_) => "delegation",
            Self::Agent(_) => "agent",
            Self::Human(_) => "human",
            Self::HolderKey(_) => "key",
            Self::Tenant => "tenant",
            Self::Everything => "all",
        }
    }
}

/// Taken back, durably; verifiers are being told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// The feed message that says so.
    pub feed_seq: u64,
    /// Where the log says so.
    pub leaf: u64,
    /// This process's boot-time clock right after COMMIT returned; none for an answer given again.
    pub committed: Option<BootTime>,
}

/// Why nothing was taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// Not theirs to take back, or nothing that they may know of.
    #[error("not yours to revoke")]
    Forbidden,
    /// There is no such thing. Said only to those who may revoke anything.
    #[error("nothing known by that id")]
    Unknown,
    /// The reason is too long.
    #[error("reason is {0} bytes long, expected at most {MAX_REASON}")]
    Reason(usize),
    /// Idempotency.
    #[error(transparent)]
    OtherRequest(#[from] OtherRequest),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 512;

/// Revokes a target. Durable when it returns, published right after the commit; a second time is as good as the first.
///
/// A delegator may take back their own delegations and the tokens under them, an agent's owner the agent, its keys and
/// what was delegated to it, a person with the role security anything.
pub async fn revoke(ctx: &Context, by: &Principal, target: Target, reason: Option<String>, once: Option<Once>) -> Result<Revoked, RevokeError> {
    if let Some(long) = reason.as_ref().filter(|r| r.len() > MAX_REASON) {
        return Err(RevokeError::Reason(long.len()));
    }
    let actor = match by {
        Principal::Human { id, .. } => Actor::Human(*id),
        Principal::LocalOperator => Actor::LocalOperator,
        Principal::Agent(_) | Principal::Verifier(_) => return Err(RevokeError::Forbidden),
    };
    for _ in 0..ATTEMPTS {
        match ctx.recall::<()>(once).await {
            Ok(None) => {}
            Ok(Some(((), placed))) => return Ok(Revoked { feed_seq: placed.feed_seq.unwrap_or(0), leaf: placed.leaves.start, committed: None }),
            Err(RecallError::OtherRequest) => return Err(OtherRequest.into()),
            Err(RecallError::Unavailable(e)) => return Err(e.into()),
        }
        let Taking { item, requires, mut rows, delegation } = prepare(ctx, by, target).await?;
        let reason_hash = reason.clone().map(|text| {
            let (opening, hash) = ctx.salted(text);
            rows.push(opening);
            hash
        });
        rows.extend(ctx.remember(once, &()));
        let requires = [standing(by), requires].concat();
        let leaf = ctx.leaf(event::Revoke { item: event::Encoded(item.to_bytes()), by: actor, reason_hash, delegation }, ctx.now())?;
        let killed_root = if let Item::RootKey { key } = &item { Some(*key) } else { None };
        match ctx.writer.submit(Change { requires, rows, items: vec![item], leaves: vec![leaf] }).await {
            Ok(w) => {
                if let Some(key) = killed_root {
                    ctx.keys.kill_root(key);
                }
                ctx.metrics.revoked(target.word());
                return Ok(Revoked { feed_seq: w.placed.feed_seq.unwrap_or(0), leaf: w.placed.leaves.start, committed: Some(w.committed) });
            }
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            // Somebody else revokes the same at the same moment: read again, so that each stands in the log with its own floor.
            Err(WriteError::Refused(Refused::GenerationMoved(..) | Refused::DelegationMoved(_) | Refused::DelegationNotLive | Refused::Answered)) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

struct Taking {
    item: Item,
    requires: Vec<Require>,
    rows: Vec<Row>,
    delegation: Option<DelegationId>,
}

/// What to write, if this principal may have it written.
async fn prepare(ctx: &Context, by: &Principal, target: Target) -> Result<Taking, RevokeError> {
    let security = by.has(Role::Security);
    let missing = || if security { RevokeError::Unknown } else { RevokeError::Forbidden };
    let allowed = |yes: bool| if yes || security { Ok(()) } else { Err(RevokeError::Forbidden) };
    match target {
        Target::Token(tid) => {
            let token = ctx.store.find_token(tid).await.map_err(Unavailable::from)?.ok_or_else(missing)?;
            allowed(is_theirs(ctx, by, token.delegation).await?)?;
            let item = Item::Tid { tid, exp_secs: token.expires_secs };
            let delegation = Some(token.delegation);
            let revoked = token.revoked.or_else(|| Some(ctx.now()));
            Ok(Taking { item, requires: Vec::new(), rows: vec![Row::Token(TokenRecord { revoked, ..token })], delegation })
        }
        Target::Delegation(id) => {
            let d = ctx.store.find_delegation(id).await.map_err(Unavailable::from)?.ok_or_else(missing)?;
            allowed(is_theirs(ctx, by, id).await?)?;
            let mut taking = floor(ctx, FloorScope::Delegation(id)).await?;
            taking.delegation = Some(id);
            if d.state == DelegationState::Live {
                taking.requires.push(Require::DelegationLive(id, d.version));
                taking.rows.push(Row::Delegation(d.revoked(ctx.now())));
            }
            Ok(taking)
        }
        Target::Agent(id) => {
            let agent = ctx.store.find_agent(id).await.map_err(Unavailable::from)?.ok_or_else(missing)?;
            allowed(by.human() == Some(agent.owner))?;
            floor(ctx, FloorScope::Agent(id)).await
        }
        Target::Human(id) => {
            allowed(false)?;
            // A person whose row was erased can still be killed as long as anything rests on them.
            let known = ctx.store.find_human(id).await.map_err(Unavailable::from)?.is_some()
                || !ctx.store.delegations_of(id).await.map_err(Unavailable::from)?.is_empty();
            let mut taking = if known { floor(ctx, FloorScope::Human(id)).await? } else { return Err(RevokeError::Unknown) };
            // Their sessions are dead by the floor; in the same transaction they are gone.
            taking.rows.push(Row::Session(SessionChange::AllEnded(id)));
            Ok(taking)
        }
        // A root key is killed by its public key, whatever tokens say: by the key list it is one, and all it signed falls.
        Target::HolderKey(key) if ctx.keys.load().find(KeyUse::Root, &key).is_some() => {
            allowed(false)?;
            Ok(Taking { item: Item::RootKey { key }, requires: Vec::new(), rows: vec![Row::RootKeyKilled(key)], delegation: None })
        }
        Target::HolderKey(key) => {
            let known = ctx.store.find_agent_key(key).await.map_err(Unavailable::from)?;
            let owner = match &known {
                Some(k) => ctx.store.find_agent(k.agent).await.map_err(Unavailable::from)?.map(|a| a.owner),
                None => None,
            };
            allowed(owner.is_some() && by.human() == owner)?;
            // A key that no agent registered may hold a link all the same.
            let rows = known.map(|k| Row::AgentKey(AgentKey { state: KeyState::Revoked, ..k }));
            Ok(Taking { item: Item::HolderKey { key }, requires: Vec::new(), rows: rows.into_iter().collect(), delegation: None })
        }
        Target::Tenant => {
            allowed(false)?;
            floor(ctx, FloorScope::Tenant).await
        }
        // This tenant's feed carries it; an authority of several tenants writes it into each of theirs (DESIGN.md section 7).
        Target::Everything => {
            allowed(false)?;
            floor(ctx, FloorScope::Global).await
        }
    }
}

/// Raises a generation by one, with its floor: whatever was made before is below it.
async fn floor(ctx: &Context, scope: FloorScope) -> Result<Taking, RevokeError> {
    let now = ctx.generation(scope).await.map_err(Unavailable::from)?;
    let generation = now + 1;
    Ok(Taking {
        item: Item::Floor { scope, generation },
        requires: vec![Require::GenerationIs(scope, now)],
        rows: vec![Row::Generation(scope, generation)],
        delegation: None,
    })
}

/// True for the human who granted, and for the owner of the agent it was granted to.
async fn is_theirs(ctx: &Context, by: &Principal, delegation: DelegationId) -> Result<bool, Unavailable> {
    let Some(human) = by.human() else { return Ok(false) };
    let Some(d) = ctx.store.find_delegation(delegation).await? else { return Ok(false) };
    if d.human == human {
        return Ok(true);
    }
    Ok(ctx.store.find_agent(d.agent).await?.is_some_and(|a| a.owner == human))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use procura_verifier::feed::message::Message;

    async fn items(app: &App) -> Vec<Item> {
        let rows = app.ctx.store.feed_since(1, 0, 1000).await.unwrap();
        let batches = rows.iter().map(|r| match Message::from_bytes(&r.payload).unwrap() {
            Message::Batch(b) => b.items,
            other => panic!("{other:?}"),
        });
        batches.flatten().map(|(_, item)| item).collect()
    }

    #[tokio::test]
    async fn who_may_take_back_what() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let bob = app.person("bob").await;
        let tid = app.mint(bot, grant).await.unwrap().tid;
        let human = alice.human().unwrap();
        let all = [
            Target::Token(tid),
            Target::Delegation(grant),
            Target::Agent(bot),
            Target::HolderKey(key(1)),
            Target::Human(human),
            Target::Tenant,
            Target::Everything,
        ];
        for target in all {
            assert_eq!(revoke(&app.ctx, &bob, target, None, None).await, Err(RevokeError::Forbidden), "{target:?}");
            assert_eq!(revoke(&app.ctx, &Principal::Agent(bot), target, None, None).await, Err(RevokeError::Forbidden), "{target:?}");
        }
        for target in &all[4..] {
            assert_eq!(revoke(&app.ctx, &alice, *target, None, None).await, Err(RevokeError::Forbidden), "{target:?}");
        }
        assert_eq!(items(&app).await, []);
        for target in &all[..4] {
            revoke(&app.ctx, &alice, *target, None, None).await.unwrap();
        }
        for target in all {
            // Who stops the tenant has stopped themselves.
            let sam = app.person("sam").await;
            revoke(&app.ctx, &sam, target, None, None).await.unwrap();
        }
        let sam = app.person("sam").await;
        // To those who may not, what does not exist looks like what is not theirs.
        let nothing = Target::Delegation(DelegationId::from_bytes([99; 16]));
        assert_eq!(revoke(&app.ctx, &alice, nothing, None, None).await, Err(RevokeError::Forbidden));
        assert_eq!(revoke(&app.ctx, &sam, nothing, None, None).await, Err(RevokeError::Unknown));
    }

    #[tokio::test]
    async fn each_kind_is_one_item_in_the_feed_beside_one_leaf() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let issued = app.mint(bot, grant).await.unwrap();
        let human = alice.human().unwrap();
        let floor = |scope| Item::Floor { scope, generation: 1 };
        let cases = [
            (Target::Token(issued.tid), Item::Tid { tid: issued.tid, exp_secs: issued.expires_secs }),
            (Target::Delegation(grant), floor(FloorScope::Delegation(grant))),
            (Target::Agent(bot), floor(FloorScope::Agent(bot))),
            (Target::Human(human), floor(FloorScope::Human(human))),
            (Target::HolderKey(key(1)), Item::HolderKey { key: key(1) }),
            (Target::Tenant, floor(FloorScope::Tenant)),
            (Target::Everything, floor(FloorScope::Global)),
        ];
        for (n, (target, item)) in (1..).zip(cases) {
            let sam = app.person("sam").await;
            let done = revoke(&app.ctx, &sam, target, Some("drill".into()), None).await.unwrap();
            assert_eq!(done.feed_seq, n);
            assert_eq!(items(&app).await.pop(), Some(item.clone()), "{target:?}");
            let Some(event::Event::Revoke(e)) = app.events().await.pop() else { panic!("no event") };
            assert_eq!(e.item.0, item.to_bytes());
            assert_eq!(e.by, Actor::Human(sam.human().unwrap()));
            assert!(e.reason_hash.is_some());
        }
    }

    #[tokio::test]
    async fn a_key_that_the_list_names_as_root_falls_with_all_it_signed() {
        let app = app().await;
        let (alice, ..) = app.granted().await;
        let sam = app.person("sam").await;
        let root = app.ctx.signer.key_for(KeyUse::Root, app.ctx.now(), app.ctx.now()).unwrap();
        assert_eq!(revoke(&app.ctx, &alice, Target::HolderKey(root), None, None).await, Err(RevokeError::Forbidden));
        revoke(&app.ctx, &sam, Target::HolderKey(root), None, None).await.unwrap();
        assert_eq!(items(&app).await, [Item::RootKey { key: root }]);
        revoke(&app.ctx, &sam, Target::HolderKey(key(1)), None, None).await.unwrap();
        assert_eq!(items(&app).await.pop(), Some(Item::HolderKey { key: key(1) }));
    }

    #[tokio::test]
    async fn kills_at_once_each_raise_the_floor_by_one() {
        let app = app().await;
        let (alice, ..) = app.granted().await;
        let sam = app.person("sam").await;
        let target = Target::Human(alice.human().unwrap());
        let kill = || revoke(&app.ctx, &sam, target, None, None);
        let done = tokio::join!(kill(), kill(), kill(), kill());
        for done in [done.0, done.1, done.2, done.3] {
            done.unwrap();
        }
        let floors: Vec<_> = items(&app).await.into_iter().map(|i| if let Item::Floor { generation, .. } = i { generation } else { 0 }).collect();
        assert_eq!(floors, [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_repeated_request_revokes_once() {
        let app = app().await;
        let (alice, _, grant) = app.granted().await;
        let once = Some(Once { key: [1; 32], request: [2; 32] });
        let first = revoke(&app.ctx, &alice, Target::Delegation(grant), None, once).await.unwrap();
        let again = revoke(&app.ctx, &alice, Target::Delegation(grant), None, once).await.unwrap();
        assert_eq!((first.feed_seq, first.leaf), (again.feed_seq, again.leaf));
        assert_eq!(items(&app).await.len(), 1);
    }
}
