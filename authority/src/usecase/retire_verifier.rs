//! Retires a tool's verifier: nothing that its key signs is taken any more.

use procura_verifier::ids::VerifierId;

use super::{Context, SignedOut, Unavailable, standing};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::domain::verifier::Verifier;
use crate::log::event::{self, Actor};
use crate::store::{Change, Refused, Row};
use crate::usecase::revoke::MAX_REASON;
use crate::writer::WriteError;

/// Why it stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetireError {
    /// Only the role admin retires.
    #[error("only the role admin retires verifiers")]
    Forbidden,
    /// Never enrolled, or retired before.
    #[error("no verifier {0} is in force")]
    Unknown(VerifierId),
    /// Missing or too long.
    #[error("reason is {0} bytes long, expected 1 to {MAX_REASON}")]
    Reason(usize),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Retires it; says where the log says so. Receipts that it delivered before stand, its audience is free for the next.
///
/// It is not stopped by that: what it has heard of revocations it goes on obeying, and a tool that is to stop is to be stopped.
pub async fn retire_verifier(ctx: &Context, by: &Principal, id: VerifierId, reason: String) -> Result<u64, RetireError> {
    let actor = match by {
        _ if !by.has(Role::Admin) => return Err(RetireError::Forbidden),
        Principal::Human { id, .. } => Actor::Human(*id),
        _ => Actor::LocalOperator,
    };
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        return Err(RetireError::Reason(reason.len()));
    }
    let found = ctx.store.find_verifier(id).await.map_err(Unavailable::from)?;
    let verifier = found.filter(|v| v.retired.is_none()).ok_or(RetireError::Unknown(id))?;
    let now = ctx.now();
    let (opening, reason_hash) = ctx.salted(reason);
    let leaf = ctx.leaf(event::VerifierRetired { verifier: id, by: actor, reason_hash }, now)?;
    let rows = vec![Row::Verifier(Verifier { retired: Some(now), ..verifier }), opening];
    match ctx.writer.submit(Change { requires: standing(by), rows, leaves: vec![leaf], ..Change::default() }).await {
        Ok(w) => {
            ctx.watch.forget(id);
            Ok(w.placed.leaves.start)
        }
        Err(WriteError::Refused(Refused::Killed(_))) => Err(SignedOut.into()),
        Err(WriteError::Refused(Refused::NotEnrolled)) => Err(RetireError::Unknown(id)),
        Err(e) => Err(Unavailable::from_write(e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::enroll_verifier::enroll_verifier;
    use super::super::fixture::*;
    use super::super::receipts::{ReceiptError, Record, take};
    use super::*;
    use procura_verifier::denials::Denials;
    use procura_verifier::wire::Canonical as _;

    #[tokio::test]
    async fn what_a_retired_key_signs_is_refused_and_its_place_is_free() {
        let app = app().await;
        let (alice, root) = (app.person("alice").await, Principal::LocalOperator);
        let audience: procura_verifier::claims::Audience = "payments/1".parse().unwrap();
        let id = enroll_verifier(&app.ctx, &root, audience.clone(), key(9)).await.unwrap().verifier;
        let deliver = async |number| {
            let d = Denials { verifier: id, run: [1; 16], number, minute: 5, counts: vec![("malformed".into(), 1)] }.sign(&signing(9)).to_bytes();
            take(&app.ctx, &[Record::Denials(&d)]).await.unwrap().remove(0)
        };
        deliver(1).await.unwrap();
        let retire = async |by: &Principal, id, reason: &str| retire_verifier(&app.ctx, by, id, reason.into()).await;
        assert_eq!(retire(&alice, id, "gone").await, Err(RetireError::Forbidden));
        assert_eq!(retire(&root, id, " ").await, Err(RetireError::Reason(1)));
        assert_eq!(retire(&root, id, &"x".repeat(513)).await, Err(RetireError::Reason(513)));
        let nobody = VerifierId::from_bytes([1; 16]);
        assert_eq!(retire(&root, nobody, "gone").await, Err(RetireError::Unknown(nobody)));
        deliver(2).await.unwrap();
        retire(&root, id, "gone").await.unwrap();
        assert_eq!(deliver(3).await, Err(ReceiptError::NotEnrolled(id)));
        assert_eq!(retire(&root, id, "gone").await, Err(RetireError::Unknown(id)), "twice");
        assert_eq!(enroll_verifier(&app.ctx, &root, audience.clone(), key(9)).await.unwrap_err().to_string(), format!("key {} is registered already", key(9)));
        let next = enroll_verifier(&app.ctx, &root, audience.clone(), key(8)).await.unwrap().verifier;
        assert_eq!(app.ctx.store.find_verifier_of(&audience).await.unwrap().unwrap().id, next);
        assert_eq!(app.ctx.store.verifiers().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn who_was_killed_meanwhile_retires_nobody() {
        let app = app().await;
        let id = enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
        let admin = app.admin().await;
        app.killed(&admin).await;
        assert_eq!(retire_verifier(&app.ctx, &admin, id, "gone".into()).await, Err(RetireError::SignedOut(SignedOut)));
        assert!(app.ctx.store.find_verifier(id).await.unwrap().unwrap().retired.is_none());
        retire_verifier(&app.ctx, &app.admin().await, id, "gone".into()).await.unwrap();
    }
}
