//! Enrols a tool's verifier: its key is in the log from then on.

use procura_verifier::claims::Audience;
use procura_verifier::ids::{Key, VerifierId};

use super::{Context, SignedOut, Unavailable, standing};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::domain::verifier::Verifier;
use crate::log::event::{self, Actor};
use crate::store::{Change, Refused, Row};
use crate::writer::WriteError;

/// A verifier enrolled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enrolled {
    /// Its id.
    pub verifier: VerifierId,
    /// Where the log says so.
    pub leaf: u64,
}

/// Why none is enrolled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrollError {
    /// Only the role admin enrols.
    #[error("only the role admin enrols verifiers")]
    Forbidden,
    /// Another one judges there.
    #[error("a verifier is enrolled for `{0}` already")]
    AudienceTaken(Audience),
    /// An agent has this key, or a verifier.
    #[error("key {0} is registered already")]
    KeyTaken(Key),
    /// A verifier has this id.
    #[error("verifier {0} is known already")]
    IdTaken(VerifierId),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Enrols a key as the verifier of a service's instance.
pub async fn enroll_verifier(ctx: &Context, by: &Principal, audience: Audience, key: Key) -> Result<Enrolled, EnrollError> {
    enroll_as(ctx, by, VerifierId::from_bytes(ctx.random()), audience, key).await
}

/// Enrols under the id that a verifier had before a restored backup lost its enrolment: what it has signed since is taken in then.
pub async fn enroll_again(ctx: &Context, by: &Principal, id: VerifierId, audience: Audience, key: Key) -> Result<Enrolled, EnrollError> {
    // For admins alone; who is retired stays so.
    if by.has(Role::Admin) && ctx.store.find_verifier(id).await.map_err(Unavailable::from)?.is_some() {
        return Err(EnrollError::IdTaken(id));
    }
    enroll_as(ctx, by, id, audience, key).await
}

async fn enroll_as(ctx: &Context, by: &Principal, id: VerifierId, audience: Audience, key: Key) -> Result<Enrolled, EnrollError> {
    let actor = match by {
        _ if !by.has(Role::Admin) => return Err(EnrollError::Forbidden),
        Principal::Human { id, .. } => Actor::Human(*id),
        _ => Actor::LocalOperator,
    };
    // A canary's token is good for a service that nobody may be.
    if audience.service().as_str() == super::drill::NAME {
        return Err(EnrollError::AudienceTaken(audience));
    }
    let now = ctx.now();
    let instance = audience.as_str().split_once('/').map_or("", |(_, instance)| instance).to_owned();
    let leaf = event::Verifier { verifier: id, key, service: audience.service().to_string(), instance, by: actor };
    let verifier = Verifier { id, key, audience: audience.clone(), enrolled: now, retired: None };
    let change = Change { requires: standing(by), rows: vec![Row::Verifier(verifier)], leaves: vec![ctx.leaf(leaf, now)?], ..Change::default() };
    let written = ctx.writer.submit(change).await;
    match written {
        Ok(w) => Ok(Enrolled { verifier: id, leaf: w.placed.leaves.start }),
        Err(WriteError::Refused(Refused::Killed(_))) => Err(SignedOut.into()),
        Err(WriteError::Refused(Refused::AudienceTaken)) => Err(EnrollError::AudienceTaken(audience)),
        Err(WriteError::Refused(Refused::KeyTaken)) => Err(EnrollError::KeyTaken(key)),
        Err(e) => Err(Unavailable::from_write(e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    #[tokio::test]
    async fn an_admin_enrols_one_verifier_for_each_audience() {
        let app = app().await;
        let (alice, root) = (app.person("alice").await, Principal::LocalOperator);
        let audience: Audience = "payments/1".parse().unwrap();
        assert_eq!(enroll_verifier(&app.ctx, &alice, audience.clone(), key(9)).await, Err(EnrollError::Forbidden));
        let done = enroll_verifier(&app.ctx, &root, audience.clone(), key(9)).await.unwrap();
        assert!(
            matches!(app.events().await.last(), Some(event::Event::Verifier(e)) if e.verifier == done.verifier && e.service == "payments" && e.instance == "1")
        );
        assert_eq!(enroll_verifier(&app.ctx, &root, audience.clone(), key(8)).await, Err(EnrollError::AudienceTaken(audience)));
        let other: Audience = "payments/2".parse().unwrap();
        assert_eq!(enroll_verifier(&app.ctx, &root, other.clone(), key(9)).await, Err(EnrollError::KeyTaken(key(9))));
        enroll_verifier(&app.ctx, &root, other, key(8)).await.unwrap();

        // Under the id of before, which nobody has now.
        let (lost, third): (_, Audience) = (VerifierId::from_bytes([9; 16]), "payments/3".parse().unwrap());
        assert_eq!(enroll_again(&app.ctx, &alice, lost, third.clone(), key(7)).await, Err(EnrollError::Forbidden));
        assert_eq!(enroll_again(&app.ctx, &alice, done.verifier, third.clone(), key(7)).await, Err(EnrollError::Forbidden), "who may not ask is not told");
        assert_eq!(enroll_again(&app.ctx, &root, lost, third.clone(), key(7)).await.unwrap().verifier, lost);
        for known in [lost, done.verifier] {
            assert_eq!(enroll_again(&app.ctx, &root, known, "payments/4".parse().unwrap(), key(6)).await, Err(EnrollError::IdTaken(known)));
        }
    }
}
