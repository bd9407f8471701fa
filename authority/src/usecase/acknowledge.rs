//! Takes verifiers' word: who opens a stream, and how far each has applied the feed.

use std::cmp::Ordering;

use procura_verifier::feed::ack::{Ack, SignIn, Signed};
use procura_verifier::ids::{UtcMillis, VerifierId};
use procura_verifier::wire::{Canonical as _, Malformed};

use super::{Context, Unavailable};
use crate::domain::verifier::Verifier;
use crate::watch::{NoPlace, Place};

/// Why a verifier's word is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// Not the documented bytes, or not signed by the enrolled key.
    #[error("verifier's word: {0}")]
    Malformed(#[from] Malformed),
    /// Nobody enrolled under that id, or retired.
    #[error("verifier {0} is not enrolled, or retired")]
    NotEnrolled(VerifierId),
    /// Of another tenant, or for another audience than it was enrolled for.
    #[error("the verifier's word is for another tenant or audience than its own")]
    Elsewhere,
    /// Signed over another request's nonce.
    #[error("the sign-in is for another request")]
    OtherNonce,
    /// Too far from now: recorded, or of a clock that is wrong.
    #[error("the verifier's word is of {said}, expected within 30 s of {now}")]
    Time {
        /// What it says.
        said: UtcMillis,
        /// Authority UTC.
        now: UtcMillis,
    },
    /// The run has said something newer.
    #[error("acknowledgement {0} of its run came after a newer one")]
    Old(u64),
    /// It claims what was never committed: it lies, or this database has lost what was committed.
    #[error("number {seq} of epoch {epoch} is acknowledged and the feed does not have it")]
    AboveHead {
        /// The epoch it names.
        epoch: u64,
        /// The number it names.
        seq: u64,
    },
    /// No place for another stream.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A place for a stream whose request carries this header (if any) and this nonce.
pub async fn sign_in_stream(ctx: &Context, header: Option<&[u8]>, nonce: &[u8]) -> Result<Place, WordError> {
    let Some(signed) = header else { return Ok(ctx.watch.admit_anonymous()?) };
    let place = signed_in(ctx, signed, nonce).await;
    ctx.metrics.signed_in(if place.is_ok() { "accepted" } else { "refused" });
    place
}

async fn signed_in(ctx: &Context, signed: &[u8], nonce: &[u8]) -> Result<Place, WordError> {
    let signed = Signed::<SignIn>::from_bytes(signed)?;
    let verifier = in_force(ctx, signed.claimed()?.verifier).await?;
    let s = signed.open(&verifier.key)?;
    if s.tenant != ctx.tenant || s.audience != verifier.audience {
        return Err(WordError::Elsewhere);
    }
    if s.nonce != nonce {
        return Err(WordError::OtherNonce);
    }
    in_time(ctx, s.utc)?;
    // Spent for as long as its time could be said again.
    Ok(ctx.watch.admit((s.verifier, s.run), &s.nonce, s.utc.plus(WINDOW_MS + 1), s.mode)?)
}

/// Enters a verifier's acknowledgement in the ledger.
pub async fn acknowledge(ctx: &Context, signed: &[u8]) -> Result<(), WordError> {
    let taken = take(ctx, signed).await;
    ctx.metrics.acknowledged(match &taken {
        Ok(()) => "accepted",
        Err(WordError::Old(_)) => "old",
        Err(WordError::AboveHead { .. }) => "above_head",
        Err(_) => "refused",
    });
    taken
}

async fn take(ctx: &Context, bytes: &[u8]) -> Result<(), WordError> {
    let signed = Signed::<Ack>::from_bytes(bytes)?;
    let verifier = in_force(ctx, signed.claimed()?.verifier).await?;
    let ack = signed.open(&verifier.key)?;
    if ack.tenant != ctx.tenant {
        return Err(WordError::Elsewhere);
    }
    in_time(ctx, ack.utc)?;
    if !is_ours(ctx, &ack).await? {
        let (epoch, seq) = (ack.epoch, ack.seq);
        tracing::error!(verifier = %ack.verifier, epoch, seq, "ack.above_head");
        return Err(WordError::AboveHead { epoch, seq });
    }
    let number = ack.number;
    if ctx.watch.enter(ack, bytes.to_vec()) { Ok(()) } else { Err(WordError::Old(number)) }
}

/// True if this feed has what is acknowledged, with that hash: a verifier that followed a primary which was cut off has
/// numbers of another history, and to have those says nothing of ours.
async fn is_ours(ctx: &Context, ack: &Ack) -> Result<bool, Unavailable> {
    let place = (ack.epoch, ack.seq);
    let mut head = ctx.feed.head();
    // Another replica's commit may have reached the verifier before this process.
    if place > (head.epoch, head.seq) {
        head = ctx.store.head().await?.feed;
    }
    match place.cmp(&(head.epoch, head.seq)) {
        Ordering::Greater => Ok(false),
        Ordering::Equal => Ok(ack.hash == head.hash),
        // Where an epoch begins there is no message of it yet.
        Ordering::Less if ack.seq == 0 => Ok(true),
        Ordering::Less => Ok(ctx.feed.hash_at(ack.epoch, ack.seq).await? == Some(ack.hash)),
    }
}

async fn in_force(ctx: &Context, claimed: VerifierId) -> Result<Verifier, WordError> {
    let found = ctx.store.find_verifier(claimed).await.map_err(Unavailable::from)?;
    found.filter(|v| v.retired.is_none()).ok_or(WordError::NotEnrolled(claimed))
}

fn in_time(ctx: &Context, said: UtcMillis) -> Result<(), WordError> {
    let now = ctx.now();
    if said.0.abs_diff(now.0) > WINDOW_MS { Err(WordError::Time { said, now }) } else { Ok(()) }
}

/// How far a verifier's word may be from now.
const WINDOW_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use procura_verifier::decision::Mode;

    use super::super::enroll_verifier::enroll_verifier;
    use super::super::fixture::*;
    use super::super::retire_verifier::retire_verifier;
    use super::super::revoke::{Target, revoke};
    use super::*;
    use crate::domain::principal::Principal;
    use crate::store::contract::tenant;

    struct Site {
        app: App,
        id: VerifierId,
    }

    async fn site() -> Site {
        let app = app().await;
        let id = enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
        enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/2".parse().unwrap(), key(8)).await.unwrap();
        Site { app, id }
    }

    impl Site {
        fn sign_in(&self) -> SignIn {
            let audience = "payments/1".parse().unwrap();
            let utc = self.app.ctx.now();
            SignIn { tenant: tenant(), verifier: self.id, run: [2; 16], audience, nonce: vec![7; 16], utc, mode: Mode::Strict { ms: 150 } }
        }
        fn ack(&self, number: u64) -> Ack {
            let head = self.app.ctx.feed.head();
            let utc = self.app.ctx.now();
            Ack {
                tenant: tenant(),
                verifier: self.id,
                run: [2; 16],
                number,
                epoch: head.epoch,
                seq: head.seq,
                hash: head.hash,
                fresh_age_ms: 10,
                utc,
                mode: Mode::Strict { ms: 150 },
            }
        }
        async fn opens(&self, s: &SignIn, by: u8) -> Result<Place, WordError> {
            sign_in_stream(&self.app.ctx, Some(&Signed::sign(s, &signing(by)).to_bytes()), &[7; 16]).await
        }
        async fn acks(&self, a: &Ack, by: u8) -> Result<(), WordError> {
            acknowledge(&self.app.ctx, &Signed::sign(a, &signing(by)).to_bytes()).await
        }
        fn counted(&self, line: &str) -> bool {
            self.app.ctx.metrics.page(&Default::default()).unwrap().lines().any(|l| l == line)
        }
    }

    #[tokio::test]
    async fn a_stream_opens_to_its_own_signature_once() {
        let site = site().await;
        let good = site.sign_in();
        let refused = async |s: SignIn, by| site.opens(&s, by).await.err();
        assert!(matches!(refused(good.clone(), 8).await, Some(WordError::Malformed(e)) if e.to_string().contains("not signed")), "another verifier's key");
        let stranger = VerifierId::from_bytes([1; 16]);
        assert_eq!(refused(SignIn { verifier: stranger, ..good.clone() }, 9).await, Some(WordError::NotEnrolled(stranger)));
        assert_eq!(refused(SignIn { audience: "payments/2".parse().unwrap(), ..good.clone() }, 9).await, Some(WordError::Elsewhere));
        assert_eq!(refused(SignIn { tenant: "other".parse().unwrap(), ..good.clone() }, 9).await, Some(WordError::Elsewhere));
        assert_eq!(refused(SignIn { nonce: vec![8; 16], ..good.clone() }, 9).await, Some(WordError::OtherNonce));
        assert!(matches!(refused(SignIn { utc: good.utc.plus(30_001), ..good.clone() }, 9).await, Some(WordError::Time { .. })));
        assert!(matches!(sign_in_stream(&site.app.ctx, Some(b"junk"), &[7; 16]).await, Err(WordError::Malformed(_))));
        assert_eq!(site.app.ctx.watch.signed_in_streams(), 0);
        let place = site.opens(&good, 9).await.unwrap();
        assert_eq!(site.app.ctx.watch.signed_in_streams(), 1);
        assert_eq!(refused(good.clone(), 9).await, Some(WordError::NoPlace(NoPlace::Used)), "replayed while it stands");
        drop(place);
        assert_eq!(refused(good.clone(), 9).await, Some(WordError::NoPlace(NoPlace::Used)), "and after");
        site.app.clock.advance_ms(30_001);
        assert!(matches!(refused(good, 9).await, Some(WordError::Time { .. })), "then its time refuses it");
        assert!(sign_in_stream(&site.app.ctx, None, &[7; 16]).await.is_ok(), "strangers have a part");
        assert!(site.counted("procura_sign_ins_total{result=\"accepted\"} 1") && site.counted("procura_sign_ins_total{result=\"refused\"} 10"));
    }

    #[tokio::test]
    async fn an_acknowledgement_is_the_verifiers_own_newer_and_of_what_was_committed() {
        let site = site().await;
        let (_, _, grant) = site.app.granted().await;
        revoke(&site.app.ctx, &Principal::LocalOperator, Target::Delegation(grant), None, None).await.unwrap();
        let good = site.ack(5);
        let refused = async |a: Ack, by| site.acks(&a, by).await.err();
        assert!(matches!(refused(good.clone(), 8).await, Some(WordError::Malformed(_))), "forged by another verifier");
        let other = site.app.ctx.store.find_verifier_of(&"payments/2".parse().unwrap()).await.unwrap().unwrap().id;
        assert!(matches!(refused(Ack { verifier: other, ..good.clone() }, 9).await, Some(WordError::Malformed(_))), "in another's name");
        assert_eq!(refused(Ack { tenant: "other".parse().unwrap(), ..good.clone() }, 9).await, Some(WordError::Elsewhere));
        assert!(matches!(refused(Ack { utc: good.utc.plus(30_001), ..good.clone() }, 9).await, Some(WordError::Time { .. })));
        for lie in [Ack { seq: 2, ..good.clone() }, Ack { epoch: 2, seq: 0, ..good.clone() }, Ack { hash: [0; 32], ..good.clone() }] {
            assert_eq!(refused(lie.clone(), 9).await, Some(WordError::AboveHead { epoch: lie.epoch, seq: lie.seq }));
        }
        assert!(site.counted("procura_acknowledgements_total{result=\"above_head\"} 3"));
        assert!(site.app.ctx.watch.runs().is_empty());
        site.acks(&good, 9).await.unwrap();
        assert_eq!(refused(good.clone(), 9).await, Some(WordError::Old(5)), "replayed");
        assert_eq!(refused(Ack { number: 4, seq: 0, ..good.clone() }, 9).await, Some(WordError::Old(4)));
        site.acks(&Ack { number: 6, ..good.clone() }, 9).await.unwrap();
        revoke(&site.app.ctx, &Principal::LocalOperator, Target::HolderKey(key(1)), None, None).await.unwrap();
        let elsewhere = Ack { number: 7, hash: [1; 32], ..good.clone() };
        assert!(matches!(refused(elsewhere, 9).await, Some(WordError::AboveHead { seq: 1, .. })), "below the head, of another history");
        assert_eq!(refused(Ack { number: 6, ..good.clone() }, 9).await, Some(WordError::Old(6)), "the same of ours");
        let seen = site.app.ctx.watch.runs().remove(0).seen.unwrap();
        assert!(seen.has(1, 1) && seen.ack.number == 6);
    }

    #[tokio::test]
    async fn a_retired_verifier_is_nobody() {
        let site = site().await;
        let place = site.opens(&site.sign_in(), 9).await.unwrap();
        site.acks(&site.ack(1), 9).await.unwrap();
        retire_verifier(&site.app.ctx, &Principal::LocalOperator, site.id, "moved away".into()).await.unwrap();
        assert_eq!(site.acks(&site.ack(2), 9).await, Err(WordError::NotEnrolled(site.id)));
        assert_eq!(site.opens(&SignIn { nonce: vec![7; 16], ..site.sign_in() }, 9).await.err(), Some(WordError::NotEnrolled(site.id)));
        assert!(site.app.ctx.watch.runs().is_empty());
        drop(place);
    }
}
