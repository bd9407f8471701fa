//! A person signs in: (issuer, subject) becomes a pseudonym, drawn the first time.

use procura_verifier::ids::{HumanId, UtcMillis};

use super::{ATTEMPTS, Context, Unavailable};
use crate::domain::human::{Human, Subject};
use crate::domain::principal::Principal;
use crate::log::event;
use crate::oidc::SignedIn;
use crate::store::{Change, Refused, Row};
use crate::writer::WriteError;

/// Who a provider says has signed in, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Who.
    pub subject: Subject,
    /// When the provider authenticated them, if it says.
    pub auth_time: Option<UtcMillis>,
    /// Authentication context class.
    pub acr: Option<String>,
    /// Authentication methods.
    pub amr: Vec<String>,
}

impl From<&SignedIn> for Identity {
    fn from(s: &SignedIn) -> Self {
        Self {
            subject: Subject { issuer: s.issuer().to_owned(), subject: s.subject().to_owned() },
            auth_time: s.auth_time(),
            acr: s.acr().map(str::to_owned),
            amr: s.amr().to_vec(),
        }
    }
}

/// Why nobody is signed in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// Issuer or subject are missing or too long.
    #[error("expected an issuer and a subject of 1 to 255 bytes without control characters")]
    Subject,
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The person as a principal, with the roles that the table of grants gives. Recorded in the log before it returns.
pub async fn sign_in(ctx: &Context, who: &Identity) -> Result<Principal, SignInError> {
    if !who.subject.fits() {
        return Err(SignInError::Subject);
    }
    for _ in 0..ATTEMPTS {
        let known = ctx.store.find_human_by_subject(&who.subject).await.map_err(Unavailable::from)?;
        let first = known.is_none();
        let human = known.unwrap_or_else(|| Human { id: HumanId::from_bytes(ctx.random()), subject: who.subject.clone() });
        let id = human.id;
        let now = ctx.now();
        let auth_time = who.auth_time.unwrap_or(now);
        let leaf = event::SignIn { human: id, first, auth_time: auth_time.secs(), acr: who.acr.clone(), amr: who.amr.clone() };
        let rows = if first { vec![Row::Human(human)] } else { Vec::new() };
        let change = Change { rows, leaves: vec![ctx.leaf(leaf, now)?], ..Change::default() };
        match ctx.writer.submit(change).await {
            Ok(_) => return Ok(Principal::Human { id, roles: ctx.grants.of(&who.subject).roles, auth_time }),
            // The same person signs in for the first time in two windows: one draws the pseudonym, the other reads it.
            Err(WriteError::Refused(Refused::HumanKnown)) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::domain::human::Role;

    #[tokio::test]
    async fn a_person_keeps_the_pseudonym_of_the_first_sign_in() {
        let app = app().await;
        let first = sign_in(&app.ctx, &identity("alice")).await.unwrap();
        let again = sign_in(&app.ctx, &identity("alice")).await.unwrap();
        let sam = sign_in(&app.ctx, &identity("sam")).await.unwrap();
        assert_eq!(first, again);
        assert_ne!(first.human(), sam.human());
        assert!(sam.has(Role::Security) && !first.has(Role::Security));
        let firsts: Vec<_> = app.events().await.into_iter().filter_map(|e| if let event::Event::SignIn(s) = e { Some(s.first) } else { None }).collect();
        assert_eq!(firsts, [true, false, true]);
    }

    #[tokio::test]
    async fn two_first_sign_ins_at_once_are_one_person() {
        let app = app().await;
        let (alice, again) = (identity("alice"), identity("alice"));
        let (a, b) = tokio::join!(sign_in(&app.ctx, &alice), sign_in(&app.ctx, &again));
        assert_eq!(a.unwrap(), b.unwrap());
    }

    #[tokio::test]
    async fn a_subject_that_is_none_is_refused() {
        let app = app().await;
        for bad in ["", "a\u{0}b", &"x".repeat(256)] {
            assert_eq!(sign_in(&app.ctx, &identity(bad)).await, Err(SignInError::Subject));
        }
    }
}
