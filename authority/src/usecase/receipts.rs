//! Takes in what verifiers recorded: signed receipts, and counts of earlier denials. One leaf each.

use procura_verifier::decision::Cause;
use procura_verifier::denials::SignedDenials;
use procura_verifier::ids::VerifierId;
use procura_verifier::receipt::SignedReceipt;
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::{Canonical as _, Malformed};
use sha2::{Digest as _, Sha256};

use super::seen::Seen;
use super::{Context, Unavailable};
use crate::domain::verifier::Verifier;
use crate::log::event::{self, Event};
use crate::store::{Change, Delivered, ReceiptSlot, Refused, Require, Row};
use crate::writer::WriteError;

/// Most records in one delivery.
pub const MAX_RECORDS: usize = 256;

/// One record as it was delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A [`SignedReceipt`].
    Receipt(&'a [u8]),
    /// [`SignedDenials`].
    Denials(&'a [u8]),
}

/// Why a record was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not the documented bytes, or not signed by the enrolled key.
    #[error("record: {0}")]
    Malformed(#[from] Malformed),
    /// Longer than a leaf holds.
    #[error("record is {0} bytes long, expected at most {max}", max = event::Encoded::MAX_BYTES)]
    TooLong(usize),
    /// Nobody enrolled under that id.
    #[error("verifier {0} is not enrolled")]
    NotEnrolled(VerifierId),
    /// Of another tenant, or for an audience that the verifier does not judge for.
    #[error("receipt is for another tenant or audience than the verifier's")]
    Elsewhere,
    /// The one before it in its run is missing: deliver in order.
    #[error("record {0} of its run came before the one before it")]
    Gap(u64),
    /// Its number was given to something else: the verifier contradicts itself.
    #[error("record {0} of its run was delivered before with other content")]
    Conflict(u64),
    /// More than [`MAX_RECORDS`].
    #[error("{0} records at once, expected at most {MAX_RECORDS}")]
    TooMany(usize),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Takes records in, in this order; says for each where its leaf stands. A record delivered before is answered as before.
///
/// Records of a run must come in the order of their numbers: a gap would stand in the log for ever.
pub async fn take(ctx: &Context, records: &[Record<'_>]) -> Result<Vec<Result<u64, ReceiptError>>, ReceiptError> {
    if records.len() > MAX_RECORDS {
        return Err(ReceiptError::TooMany(records.len()));
    }
    let mut prepared = Vec::with_capacity(records.len());
    let mut seen = Seen::new(ctx.keys.load(), ctx.now());
    for record in records {
        prepared.push(prepare(ctx, *record, &mut seen).await);
    }
    let changes = prepared.iter().filter_map(|p| p.as_ref().ok()).map(|p| p.change.clone()).collect();
    let mut written = ctx.writer.submit_all(changes).await.into_iter();
    let mut answers = Vec::with_capacity(records.len());
    for prepared in prepared {
        answers.push(match prepared {
            Err(e) => Err(e),
            Ok(p) => match written.next() {
                Some(Ok(w)) => Ok(w.placed.leaves.start),
                Some(Err(e)) => settle(ctx, &p, e).await,
                None => Err(Unavailable::Busy.into()),
            },
        });
    }
    Ok(answers)
}

struct Prepared {
    change: Change,
    slot: ReceiptSlot,
    hash: [u8; 32],
    number: u64,
}

/// Opens a record and makes its leaf.
async fn prepare(ctx: &Context, record: Record<'_>, seen: &mut Seen) -> Result<Prepared, ReceiptError> {
    let (Record::Receipt(bytes) | Record::Denials(bytes)) = record;
    if bytes.len() > event::Encoded::MAX_BYTES {
        return Err(ReceiptError::TooLong(bytes.len()));
    }
    let encoded = event::Encoded(bytes.to_vec());
    let mut rows = Vec::new();
    let mut delegation = None;
    let (verifier, run, number, kind, event): (VerifierId, [u8; 16], u64, u8, Event) = match record {
        Record::Receipt(bytes) => {
            let signed = SignedReceipt::from_bytes(bytes)?;
            let verifier = enrolled(ctx, signed.claimed()?.verifier).await?;
            let r = signed.open(&verifier.key)?;
            // A receipt for another tenant's resource can only say that the token was refused there.
            let elsewhere = r.tenant != ctx.tenant && r.verdict != Err(Cause::Tenant);
            if elsewhere || r.audience != verifier.audience {
                return Err(ReceiptError::Elsewhere);
            }
            rows = seen.rows(&r);
            // As it claims: whoever shows it to that person verifies the token (`usecase::decisions`).
            delegation = UnverifiedToken::parse(&r.token).ok().map(|t| t.claimed().delegation);
            (r.verifier, r.run, r.number, 0, event::Receipt { receipt: encoded, verifier: r.verifier }.into())
        }
        Record::Denials(bytes) => {
            let signed = SignedDenials::from_bytes(bytes)?;
            let verifier = enrolled(ctx, signed.claimed()?.verifier).await?;
            let d = signed.open(&verifier.key)?;
            (d.verifier, d.run, d.number, 1, event::Denials { denials: encoded, verifier: d.verifier }.into())
        }
    };
    if number == 0 {
        return Err(Malformed::new("expected records numbered from 1").into());
    }
    let (slot, hash) = (slot(verifier, run, kind, number), Sha256::digest(bytes).into());
    let after = (number > 1).then(|| self::slot(verifier, run, kind, number - 1));
    rows.push(Row::Receipt(Delivered { slot, after, hash, delegation }));
    let change = Change { requires: vec![Require::Enrolled(verifier)], rows, leaves: vec![ctx.leaf(event, ctx.now())?], ..Change::default() };
    Ok(Prepared { change, slot, hash, number })
}

async fn enrolled(ctx: &Context, claimed: VerifierId) -> Result<Verifier, ReceiptError> {
    let found = ctx.store.find_verifier(claimed).await.map_err(Unavailable::from)?;
    // What it signed before it was retired and delivers after, nobody can tell from what was signed since.
    found.filter(|v| v.retired.is_none()).ok_or(ReceiptError::NotEnrolled(claimed))
}

async fn settle(ctx: &Context, p: &Prepared, e: WriteError) -> Result<u64, ReceiptError> {
    match e {
        WriteError::Refused(Refused::ReceiptKnown) => match ctx.store.find_receipt(p.slot).await.map_err(Unavailable::from)? {
            Some(taken) if taken.hash == p.hash => Ok(taken.leaf),
            _ => Err(ReceiptError::Conflict(p.number)),
        },
        WriteError::Refused(Refused::ReceiptGap) => Err(ReceiptError::Gap(p.number)),
        e => Err(Unavailable::from_write(e).into()),
    }
}

fn slot(verifier: VerifierId, run: [u8; 16], kind: u8, number: u64) -> ReceiptSlot {
    let hash = Sha256::new_with_prefix(b"procura-receipt-slot/1\0")
        .chain_update(verifier.as_bytes())
        .chain_update(run)
        .chain_update([kind])
        .chain_update(number.to_be_bytes());
    ReceiptSlot(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::domain::principal::Principal;
    use crate::usecase::enroll_verifier::enroll_verifier;
    use procura_verifier::denials::Denials;

    fn denials(verifier: VerifierId, number: u64, count: u64, signed_by: u8) -> Vec<u8> {
        let d = Denials { verifier, run: [1; 16], number, minute: 5, counts: vec![("malformed".into(), count)] };
        d.sign(&signing(signed_by)).to_bytes()
    }

    #[tokio::test]
    async fn records_come_in_order_and_twice_is_once() {
        let app = app().await;
        let id = enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
        let one = async |bytes: Vec<u8>| take(&app.ctx, &[Record::Denials(&bytes)]).await.unwrap().remove(0);
        assert_eq!(one(denials(id, 2, 1, 9)).await, Err(ReceiptError::Gap(2)));
        let first = one(denials(id, 1, 1, 9)).await.unwrap();
        assert_eq!(one(denials(id, 1, 1, 9)).await, Ok(first));
        assert_eq!(one(denials(id, 1, 7, 9)).await, Err(ReceiptError::Conflict(1)));
        let (b, c) = (denials(id, 2, 1, 9), denials(id, 3, 1, 9));
        let both = take(&app.ctx, &[Record::Denials(&b), Record::Denials(&c)]).await.unwrap();
        assert_eq!(both, [Ok(first + 1), Ok(first + 2)]);
        let events = app.events().await.into_iter().filter(|e| matches!(e, Event::Denials(_))).count();
        assert_eq!(events, 3);
    }

    #[tokio::test]
    async fn what_an_enrolled_key_did_not_sign_is_refused() {
        let app = app().await;
        let id = enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
        let stranger = VerifierId::from_bytes([7; 16]);
        let (forged, unknown, zero, long) = (denials(id, 1, 1, 8), denials(stranger, 1, 1, 9), denials(id, 0, 1, 9), vec![0; 36_000]);
        let answers = take(
            &app.ctx,
            &[
                Record::Denials(&forged),
                Record::Denials(&unknown),
                Record::Denials(&zero),
                Record::Denials(&long),
                Record::Receipt(&forged),
                Record::Denials(b"x"),
            ],
        )
        .await
        .unwrap();
        assert!(matches!(&answers[0], Err(ReceiptError::Malformed(e)) if e.to_string().contains("not signed")));
        assert_eq!(answers[1], Err(ReceiptError::NotEnrolled(stranger)));
        assert!(matches!(answers[2], Err(ReceiptError::Malformed(_))));
        assert_eq!(answers[3], Err(ReceiptError::TooLong(36_000)));
        assert!(matches!(answers[4], Err(ReceiptError::Malformed(_))));
        assert!(matches!(answers[5], Err(ReceiptError::Malformed(_))));
        assert!(!app.events().await.iter().any(|e| matches!(e, Event::Denials(_) | Event::Receipt(_))));
    }
}
