//! A person signs in: (issuer, subject) becomes a pseudonym, drawn the first time.

use procura_verifier::feed::message::{FloorScope, Item, Message};
use procura_verifier::ids::HumanId;
use procura_verifier::wire::Canonical as _;

use super::{ATTEMPTS, Context, SignedOut, Unavailable};
use crate::domain::human::{Human, Subject};
use crate::domain::principal::Principal;
use crate::domain::session::{Assurance, HashedToken, Session, SessionChange, SignInGenerations, Spend};
use crate::log::event;
use crate::oidc::SignedIn;
use crate::store::{Change, FeedHead, Refused, Require, Row, StoreError};
use crate::writer::WriteError;

/// Who a provider says has signed in, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Who.
    pub subject: Subject,
    /// How.
    pub assurance: Assurance,
}

impl From<&SignedIn> for Identity {
    fn from(s: &SignedIn) -> Self {
        Self {
            subject: Subject { issuer: s.issuer().to_owned(), subject: s.subject().to_owned() },
            assurance: Assurance { auth_time: s.auth_time(), acr: s.acr().map(str::to_owned), amr: s.amr().to_vec() },
        }
    }
}

/// A moment before the provider was asked to vouch: a kill after it counts against the sign-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before(FeedHead);

/// What a sign-in rests on, uses up and leaves behind, all in the transaction of its record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journey {
    /// Read before the provider was asked.
    pub before: Before,
    /// The `state` it uses up.
    pub spends: Spend,
    /// The secret of the session that it begins, if it begins one here.
    pub opens: Option<HashedToken>,
    /// The session that this browser had: one browser, one session.
    pub ends: Option<HashedToken>,
}

/// Why nobody is signed in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// Issuer or subject are missing or too long.
    #[error("expected an issuer and a subject of 1 to 255 bytes without control characters")]
    Subject,
    /// The journey was finished before.
    #[error("the sign-in was finished before: begin again")]
    Spent,
    /// Killed while the provider vouched.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Where the feed ends, for [`Journey::before`].
pub async fn before(ctx: &Context) -> Result<Before, Unavailable> {
    Ok(Before(ctx.store.head().await?.feed))
}

/// The person as a principal, with the roles that the table of grants gives. Recorded in the log before it returns.
pub async fn sign_in(ctx: &Context, who: &Identity, journey: &Journey) -> Result<Principal, SignInError> {
    if !who.subject.fits() {
        return Err(SignInError::Subject);
    }
    for _ in 0..ATTEMPTS {
        let known = ctx.store.find_human_by_subject(&who.subject).await.map_err(Unavailable::from)?;
        let first = known.is_none();
        let human = known.unwrap_or_else(|| Human { id: HumanId::from_bytes(ctx.random()), subject: who.subject.clone() });
        let id = human.id;
        let generations = match ctx.store.generations(&SignInGenerations::scopes(id)).await.map_err(Unavailable::from)?.as_slice() {
            &[global, tenant, human] => SignInGenerations { global, tenant, human },
            _ => return Err(Unavailable::Store("expected three generations".to_owned()).into()),
        };
        // After the generations were read: a kill that they know is in the feed, one that they do not know moves them.
        if is_killed_since(ctx, journey.before, id).await? {
            return Err(SignedOut.into());
        }
        let now = ctx.now();
        let auth_time = who.assurance.auth_time.unwrap_or(now);
        let leaf = event::SignIn { human: id, first, auth_time: auth_time.secs(), acr: who.assurance.acr.clone(), amr: who.assurance.amr.clone() };
        let mut rows = vec![Row::Spent(journey.spends.0, journey.spends.1)];
        rows.extend(first.then_some(Row::Human(human)));
        rows.extend(journey.ends.map(|old| Row::Session(SessionChange::Ended(old))));
        // A new secret at each sign-in: nobody can plant one and wait.
        rows.extend(journey.opens.map(|secret| Row::Session(SessionChange::Began(Session::begin(secret, id, who.assurance.clone(), generations, now)))));
        let requires = generations.of(id).map(|(scope, g)| Require::GenerationIs(scope, g)).to_vec();
        match ctx.writer.submit(Change { requires, rows, leaves: vec![ctx.leaf(leaf, now)?], ..Change::default() }).await {
            Ok(_) => return Ok(Principal::Human { id, roles: ctx.grants.of(&who.subject).roles, auth_time, generations }),
            // The same person signs in for the first time in two windows: one draws the pseudonym, the other reads it.
            Err(WriteError::Refused(Refused::HumanKnown | Refused::GenerationMoved(..))) => {}
            Err(WriteError::Refused(Refused::Spent)) => return Err(SignInError::Spent),
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

/// True if the feed holds a kill of this human, the tenant or everything after that moment. A feed that grew by more than
/// can be looked through here gives no answer: begin again.
async fn is_killed_since(ctx: &Context, Before(head): Before, id: HumanId) -> Result<bool, Unavailable> {
    let kills = |item: &Item| match item {
        Item::Floor { scope: FloorScope::Global | FloorScope::Tenant, .. } => true,
        Item::Floor { scope: FloorScope::Human(human), .. } => *human == id,
        _ => false,
    };
    let (mut epoch, mut seq) = (head.epoch, head.seq);
    for _ in 0..MAX_PAGES {
        let messages = ctx.store.feed_since(epoch, seq, PAGE).await?;
        for row in &messages {
            let unreadable = |_| StoreError::Inconsistent { table: "feed", column: "payload", id: row.seq.to_string() };
            if let Message::Batch(batch) = Message::from_bytes(&row.payload).map_err(unreadable)?
                && batch.items.iter().any(|(_, item)| kills(item))
            {
                return Ok(true);
            }
            (epoch, seq) = (row.epoch, row.seq);
        }
        if messages.len() < PAGE as usize {
            // Before a new epoch something was lost, and nobody knows what.
            return if ctx.store.head().await?.feed.epoch == head.epoch { Ok(false) } else { Err(Unavailable::Busy) };
        }
    }
    Err(Unavailable::Busy)
}

const PAGE: u32 = 256;
/// The provider answers within seconds; thousands of revocations a second come in batches.
const MAX_PAGES: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::revoke::{Target, revoke};
    use super::*;
    use crate::domain::human::Role;

    #[tokio::test]
    async fn a_person_keeps_the_pseudonym_of_the_first_sign_in() {
        let app = app().await;
        let first = app.person("alice").await;
        let again = app.person("alice").await;
        let sam = app.person("sam").await;
        assert_eq!(first, again);
        assert_ne!(first.human(), sam.human());
        assert!(sam.has(Role::Security) && !first.has(Role::Security));
        let firsts: Vec<_> = app.events().await.into_iter().filter_map(|e| if let event::Event::SignIn(s) = e { Some(s.first) } else { None }).collect();
        assert_eq!(firsts, [true, false, true]);
    }

    #[tokio::test]
    async fn two_first_sign_ins_at_once_are_one_person() {
        let app = app().await;
        let (a, b) = tokio::join!(app.person("alice"), app.person("alice"));
        assert_eq!(a, b);
    }

    #[tokio::test]
    async fn a_subject_that_is_none_is_refused() {
        let app = app().await;
        for bad in ["", "a\u{0}b", &"x".repeat(256)] {
            assert_eq!(sign_in(&app.ctx, &identity(bad), &app.journey().await).await, Err(SignInError::Subject));
        }
    }

    #[tokio::test]
    async fn a_journey_ends_once_and_ends_the_browsers_old_session() {
        let app = app().await;
        let hash = |n: u8| HashedToken::from_bytes([n; 32]);
        let journey = Journey { opens: Some(hash(1)), ..app.journey().await };
        let again = Journey { opens: Some(hash(2)), ..journey.clone() };
        let (alice, sam) = (identity("alice"), identity("sam"));
        let (a, b) = tokio::join!(sign_in(&app.ctx, &alice, &journey), sign_in(&app.ctx, &sam, &again));
        assert_eq!([&a, &b].iter().filter(|r| ***r == Err(SignInError::Spent)).count(), 1, "{a:?} {b:?}");
        let id = a.or(b).unwrap().human().unwrap();
        let [session] = app.ctx.store.sessions_of(id).await.unwrap().try_into().unwrap();
        assert_eq!((session.human, session.assurance), (id, alice.assurance.clone()));
        let next = Journey { opens: Some(hash(3)), ends: Some(session.secret), ..app.journey().await };
        sign_in(&app.ctx, &alice, &next).await.unwrap();
        assert_eq!(app.ctx.store.find_session(session.secret).await.unwrap(), None);
        assert!(app.ctx.store.find_session(hash(3)).await.unwrap().is_some());
    }

    /// The provider vouched for somebody who was killed while it did.
    #[tokio::test]
    async fn a_kill_while_the_provider_vouches_refuses_the_sign_in_and_one_before_does_not() {
        let app = app().await;
        let (alice, sam) = (app.person("alice").await.human().unwrap(), app.person("sam").await.human().unwrap());
        let kill = async |target| revoke(&app.ctx, &Principal::LocalOperator, target, None, None).await.unwrap();
        for target in [Target::Human(alice), Target::Tenant, Target::Everything] {
            let journey = app.journey().await;
            kill(target).await;
            assert_eq!(sign_in(&app.ctx, &identity("alice"), &journey).await, Err(SignInError::SignedOut(SignedOut)), "{target:?}");
            let journey = app.journey().await;
            kill(Target::Human(sam)).await;
            sign_in(&app.ctx, &identity("alice"), &journey).await.unwrap();
        }
    }
}
