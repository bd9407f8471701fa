//! Sessions: what a request carries becomes who asks; a command line's code becomes a session; a sign-out ends one.

use procura_verifier::ids::HumanId;

use super::{Context, Unavailable};
use crate::domain::principal::Principal;
use crate::domain::session::{Assurance, HashedToken, SecretKind, Session, SessionChange, SignInGenerations, Spend};
use crate::store::{Change, Refused, Require, Row};
use crate::writer::WriteError;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// Used before, by whomever.
    #[error("the sign-in was used before")]
    Spent,
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] super::SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What is kept of the secret that a browser or a command line holds.
pub fn hashed(secret: &str) -> HashedToken {
    HashedToken::of(SecretKind::Session, secret.as_bytes())
}

/// The person behind a session's secret, with the roles of this moment; none if it ended or a kill ended it. One query.
///
/// A commit of theirs requires the same again ([`super::standing`]): a kill may come between.
pub async fn find(ctx: &Context, unverified_secret: &str) -> Result<Option<Principal>, Unavailable> {
    if unverified_secret.len() != SECRET_CHARS {
        return Ok(None);
    }
    let now = ctx.now();
    let Some(found) = ctx.store.find_session(hashed(unverified_secret)).await?.filter(|f| f.is_alive(now)) else { return Ok(None) };
    // A pseudonym without a person (erased) is nobody who could be signed in.
    let Some(subject) = &found.subject else { return Ok(None) };
    if let Some(until) = found.prolonged(now) {
        // Nobody waits for it: lost, the next use writes it.
        ctx.writer.post(Change { rows: vec![Row::Session(SessionChange::Used(found.session.secret, until))], ..Change::default() });
    }
    let Session { human: id, assurance, generations, .. } = found.session;
    Ok(Some(Principal::Human { id, roles: ctx.grants.of(subject).roles, auth_time: assurance.auth_time.unwrap_or_default(), generations }))
}

/// Ends the session of this secret, if there is one. Durable when it returns.
pub async fn end(ctx: &Context, unverified_secret: &str) -> Result<(), Unavailable> {
    let secret = hashed(unverified_secret);
    // Looked for first: strangers' guesses write nothing.
    if unverified_secret.len() == SECRET_CHARS && ctx.store.find_session(secret).await?.is_some() {
        submit(ctx, vec![], vec![Row::Session(SessionChange::Ended(secret))]).await.map_err(Unavailable::from_write)?;
    }
    Ok(())
}

/// A session for a sign-in that ended elsewhere, at a replica or some seconds ago. Spends what stood for it, and is refused
/// if the human was killed meanwhile.
pub async fn begin(
    ctx: &Context,
    human: HumanId,
    assurance: Assurance,
    generations: SignInGenerations,
    spends: Spend,
    secret: HashedToken,
) -> Result<(), BeginError> {
    let requires = generations.of(human).map(|(scope, g)| Require::NotBelowFloor(scope, g)).to_vec();
    let session = Session::begin(secret, human, assurance, generations, ctx.now());
    let rows = vec![Row::Spent(spends.0, spends.1), Row::Session(SessionChange::Began(session))];
    submit(ctx, requires, rows).await.map_err(|e| match e {
        WriteError::Refused(Refused::Killed(_)) => super::SignedOut.into(),
        WriteError::Refused(Refused::Spent) => BeginError::Spent,
        e => Unavailable::from_write(e).into(),
    })
}

/// Uses a secret up without anything in return.
pub async fn spend(ctx: &Context, spends: Spend) -> Result<(), Unavailable> {
    match submit(ctx, vec![], vec![Row::Spent(spends.0, spends.1)]).await {
        Ok(()) | Err(WriteError::Refused(Refused::Spent)) => Ok(()),
        Err(e) => Err(Unavailable::from_write(e)),
    }
}

async fn submit(ctx: &Context, requires: Vec<Require>, rows: Vec<Row>) -> Result<(), WriteError> {
    ctx.writer.submit(Change { requires, rows, ..Change::default() }).await.map(drop)
}

/// 32 bytes in base64url.
const SECRET_CHARS: usize = 43;

#[cfg(test)]
mod tests {
    use procura_verifier::ids::AgentId;

    use super::super::delegate::{DelegateError, delegate};
    use super::super::fixture::*;
    use super::super::register_agent::{RegisterError, Registration, challenge, register_agent};
    use super::super::revoke::{RevokeError, Target, revoke};
    use super::super::{SignedOut, sign_in, standing};
    use super::*;
    use crate::domain::delegation::tests::terms;
    use crate::domain::session::{IDLE_MS, LIFE_MS, MAX_PER_HUMAN};

    /// A session's secret for somebody, by way of a sign-in.
    async fn signed_in(app: &App, name: &str) -> String {
        let secret = crate::secret::base64url(&app.ctx.random::<32>());
        let journey = sign_in::Journey { opens: Some(hashed(&secret)), ..app.journey().await };
        sign_in::sign_in(&app.ctx, &identity(name), &journey).await.unwrap();
        secret
    }

    async fn human(app: &App, secret: &str) -> Option<Principal> {
        find(&app.ctx, secret).await.unwrap()
    }

    #[tokio::test]
    async fn a_session_lives_by_use_for_eight_hours_and_until_it_is_ended() {
        let app = app().await;
        let (used, idle, ended) = (signed_in(&app, "alice").await, signed_in(&app, "alice").await, signed_in(&app, "sam").await);
        assert_eq!(human(&app, &used).await, Some(app.person("alice").await));
        end(&app.ctx, &ended).await.unwrap();
        assert_eq!(human(&app, &ended).await, None);
        for guess in ["", "guess", &"A".repeat(43), &used[..42]] {
            assert_eq!(human(&app, guess).await, None);
            end(&app.ctx, guess).await.unwrap();
        }
        for _ in 0..LIFE_MS / (IDLE_MS / 2) - 1 {
            app.clock.advance_ms(IDLE_MS / 2);
            assert!(human(&app, &used).await.is_some());
            // The use is written behind the answer: the next commit is after it.
            app.person("sam").await;
        }
        assert_eq!(human(&app, &idle).await, None);
        app.clock.advance_ms(IDLE_MS / 2);
        assert_eq!(human(&app, &used).await, None, "eight hours");
    }

    #[tokio::test]
    async fn one_human_has_at_most_sixteen_sessions() {
        let app = app().await;
        let mut secrets = Vec::new();
        for _ in 0..=MAX_PER_HUMAN {
            secrets.push(signed_in(&app, "alice").await);
            app.clock.advance_ms(1);
        }
        assert_eq!(human(&app, &secrets[0]).await, None, "the oldest gave way");
        for secret in &secrets[1..] {
            assert!(human(&app, secret).await.is_some());
        }
    }

    #[tokio::test]
    async fn a_kill_of_human_tenant_or_everything_ends_sessions_and_of_others_does_not() {
        let app = app().await;
        let alice = app.person("alice").await.human().unwrap();
        let sam = app.person("sam").await.human().unwrap();
        let killed = async |target| revoke(&app.ctx, &Principal::LocalOperator, target, None, None).await.unwrap();
        for target in [Target::Human(alice), Target::Tenant, Target::Everything] {
            let before = signed_in(&app, "alice").await;
            killed(Target::Human(sam)).await;
            assert!(human(&app, &before).await.is_some(), "another's kill");
            killed(target).await;
            assert_eq!(human(&app, &before).await, None, "{target:?}");
            let after = signed_in(&app, "alice").await;
            assert!(human(&app, &after).await.is_some(), "signed in after {target:?}");
        }
        assert_eq!(app.ctx.store.sessions_of(alice).await.unwrap().len(), 5, "a human's kill took theirs away in its own commit, the others die by the floor");
    }

    /// The race: the request was past its session check when the kill committed. The commit asks again.
    #[tokio::test]
    async fn what_is_past_the_session_check_when_a_kill_commits_is_refused_by_its_own_commit() {
        let app = app().await;
        let secret = signed_in(&app, "alice").await;
        let alice = human(&app, &secret).await.unwrap();
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap().agent;
        let nonce = challenge(&app.ctx, &alice).unwrap();
        let asked = Registration { name: "late-bot".parse().unwrap(), key: key(2), nonce, signature: possession(&nonce, key(2), 2) };

        revoke(&app.ctx, &Principal::LocalOperator, Target::Human(alice.human().unwrap()), None, None).await.unwrap();
        // Each reads the generations of after the kill; only the sign-in's tells that it was asked for before.
        assert_eq!(delegate(&app.ctx, &alice, bot, terms(), None).await, Err(DelegateError::SignedOut(SignedOut)));
        assert_eq!(register_agent(&app.ctx, &alice, &asked).await, Err(RegisterError::SignedOut(SignedOut)));
        assert_eq!(revoke(&app.ctx, &alice, Target::Agent(bot), None, None).await, Err(RevokeError::SignedOut(SignedOut)));
        assert_eq!(app.ctx.store.agents_of(alice.human().unwrap()).await.unwrap().len(), 1);
        assert!(app.ctx.store.delegations_of(alice.human().unwrap()).await.unwrap().is_empty());

        let again = human(&app, &signed_in(&app, "alice").await).await.unwrap();
        assert_eq!((again.human(), again == alice), (alice.human(), false));
        delegate(&app.ctx, &again, bot, terms(), None).await.unwrap();
        register_agent(&app.ctx, &again, &asked).await.unwrap();
        revoke(&app.ctx, &again, Target::Agent(bot), None, None).await.unwrap();
    }

    /// The same with both on their way at once, the kill and the grant in the writer's queues.
    #[tokio::test]
    async fn a_grant_that_waits_behind_a_kill_is_refused_and_one_that_waits_behind_anothers_kill_is_not() {
        for killed in ["alice", "sam"] {
            let store = std::sync::Arc::new(crate::store::memory::Memory::new(crate::store::contract::tenant()));
            let folder = tempfile::tempdir().unwrap();
            let app = start(store.clone(), folder.path()).await.unwrap();
            let alice = human(&app, &signed_in(&app, "alice").await).await.unwrap();
            let bot = app.register(&alice, "invoice-bot", 1).await.unwrap().agent;
            let target = Target::Human(app.person(killed).await.human().unwrap());
            store.hold();
            let kill = revoke(&app.ctx, &Principal::LocalOperator, target, None, None);
            let grant = delegate(&app.ctx, &alice, bot, terms(), None);
            let let_through = async {
                // Until the kill stands at the store's gate and the grant behind it.
                while store.waiting() == 0 {
                    tokio::task::yield_now().await;
                }
                store.let_through(8);
            };
            let (kill, grant, ()) = tokio::join!(kill, grant, let_through);
            kill.unwrap();
            let expected = killed == "alice";
            assert_eq!(grant == Err(DelegateError::SignedOut(SignedOut)), expected, "{killed} killed: {grant:?}");
            assert_eq!(grant.is_err(), expected);
        }
    }

    #[tokio::test]
    async fn a_code_begins_one_session_and_none_after_a_kill() {
        let app = app().await;
        let alice = app.person("alice").await;
        let Principal::Human { id, generations, .. } = alice else { panic!("{alice:?}") };
        let spends = |n: u8| (HashedToken::of(SecretKind::CliCode, &[n]), app.ctx.now().plus(60_000));
        let begin = |code, secret: &str| begin(&app.ctx, id, Assurance::default(), generations, spends(code), hashed(secret));
        let (a, b) = ("a".repeat(43), "b".repeat(43));
        let (first, second) = tokio::join!(begin(1, &a), begin(1, &b));
        assert_eq!([first, second].iter().filter(|r| **r == Err(BeginError::Spent)).count(), 1, "of two who redeem a code one gets the session");
        assert_eq!(app.ctx.store.sessions_of(id).await.unwrap().len(), 1);
        spend(&app.ctx, spends(2)).await.unwrap();
        spend(&app.ctx, spends(2)).await.unwrap();
        assert_eq!(begin(2, &"c".repeat(43)).await, Err(BeginError::Spent));
        revoke(&app.ctx, &Principal::LocalOperator, Target::Human(id), None, None).await.unwrap();
        assert_eq!(begin(3, &"d".repeat(43)).await, Err(BeginError::SignedOut(SignedOut)));
        assert_eq!(app.ctx.store.sessions_of(id).await.unwrap(), []);
    }

    #[tokio::test]
    async fn standing_is_asked_of_people_only() {
        let app = app().await;
        assert_eq!(standing(&app.person("alice").await).len(), 3);
        assert!(standing(&Principal::LocalOperator).is_empty() && standing(&Principal::Agent(AgentId::from_bytes([1; 16]))).is_empty());
    }
}
