//! Receipts: a verifier's signed record of one decision, from which an auditor derives the verdict again.
//!
//! ```text
//! receipt   = [payload bytes, signature]         signature by the verifier's enrolled key over "procura-receipt/1\0" || payload
//! payload   = [1, verifier, run, number, challenge, tenant, audience, token, proof | null, tool, action, [segment, …], class,
//!              [[name, commitment | [salt, value]], …], time_ms, bound_ms | null, [verdict, …], [epoch, seq, hash, utc_ms] | null, key list version]
//! verdict   = [0] | [1, cause word] | [1, "revoked", what, seq] | [1, "frozen", id]
//! ```
//! A receipt holds the sealed token and the holder's signature: a verifier cannot invent a use. The arguments that
//! checks read are disclosed with their salts, the others stay commitments; the seed never enters.

use minicbor::Decoder;
use sha2::{Digest as _, Sha256};

use crate::call::{Arguments, Call, Value, call_hash, commit};
use crate::claims::{Audience, DataClass, Limit, Name, Resource, Restriction};
use crate::decision::{self, Accept, Asked, Cause, Decision, Freshness, Mode, ToolPolicy};
use crate::ids::{FreezeId, Key, Tenant, UtcMillis, VerifierId};
use crate::key_list::KeyList;
use crate::proof::{Challenge, SignedProof, VerifiedProof};
use crate::revocation::{Lookup, RevokedBy, RevokedWhat};
use crate::token::{MAX_TOKEN_BYTES, UnverifiedToken, VerifiedToken};
use crate::wire::{Canonical, Enc, Malformed, array, fixed, list};

/// The feed position that a decision relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relied {
    /// The feed's epoch.
    pub epoch: u64,
    /// Up to which message everything was known.
    pub seq: u64,
    /// The hash of that message.
    pub hash: [u8; 32],
    /// Authority time of the heartbeat that said so.
    pub utc: UtcMillis,
}

/// One argument in a receipt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiptArg {
    /// Only the commitment.
    Hidden([u8; 32]),
    /// What a check read, and the salt that opens its commitment.
    Disclosed {
        /// The salt of this argument alone.
        salt: [u8; 32],
        /// The value.
        value: Value,
    },
}

/// The record of one decision on a verified token and, where there was one, a verified proof.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The enrolled verifier.
    pub verifier: VerifierId,
    /// The run of the verifier's process that made it: random.
    pub run: [u8; 16],
    /// The run's receipts, counted from 1 without gaps.
    pub number: u64,
    /// The challenge in force, with which the nonces of proofs must start.
    pub challenge: Challenge,
    /// The tenant of the resource.
    pub tenant: Tenant,
    /// The service and instance.
    pub audience: Audience,
    /// The presented token.
    pub token: Vec<u8>,
    /// The holder's proof, unless a bearer token was taken.
    pub proof: Option<SignedProof>,
    /// The tool.
    pub tool: Name,
    /// The action.
    pub action: Name,
    /// The resource.
    pub resource: Resource,
    /// The class of data, by the tool's labels.
    pub data_class: DataClass,
    /// The arguments, sorted by name.
    pub args: Vec<(Name, ReceiptArg)>,
    /// Authority time of the decision, as the verifier knew it; 0 if it knew none.
    pub time: UtcMillis,
    /// The mode of freshness in force.
    pub mode: Mode,
    /// What was decided.
    pub verdict: Result<(), Cause>,
    /// What it relied on; none if it knew nothing yet.
    pub relied: Option<Relied>,
    /// The version of the key list in force.
    pub key_list_version: u64,
}

/// What a receipt is made from, beside the call.
pub struct Evidence<'a> {
    /// The verifier, its run, and the receipt's number in the run.
    pub from: (VerifierId, [u8; 16], u64),
    /// The challenge in force.
    pub challenge: Challenge,
    /// The presented bytes and what they say.
    pub token: (&'a [u8], &'a VerifiedToken),
    /// The proof.
    pub proof: Option<&'a VerifiedProof<'a>>,
    /// What the tool insists on.
    pub policy: &'a ToolPolicy,
    /// Authority time.
    pub time: UtcMillis,
    /// The position relied on: read *before* the decision, so that it claims no more than was looked at.
    pub relied: Option<Relied>,
    /// The version of the key list.
    pub key_list_version: u64,
}

impl Receipt {
    /// Records a decision.
    pub fn record(call: &Call<'_>, evidence: &Evidence<'_>, verdict: Result<(), Cause>) -> Self {
        let (bytes, token) = evidence.token;
        let read = arguments_read(token);
        let disclose = |(name, value): (&Name, &Value)| {
            // A bearer call has no seed: its arguments are committed to under none, and only those read are kept.
            let salt = evidence.proof.map_or([0; 32], |p| p.seed().salt(name));
            let arg = if read.contains(&name) { ReceiptArg::Disclosed { salt, value: value.clone() } } else { ReceiptArg::Hidden(commit(&salt, name, value)) };
            (name.clone(), arg)
        };
        Self {
            verifier: evidence.from.0,
            run: evidence.from.1,
            number: evidence.from.2,
            challenge: evidence.challenge,
            tenant: call.tenant.clone(),
            audience: call.audience.clone(),
            token: bytes.to_vec(),
            proof: evidence.proof.map(|p| p.signed().clone()),
            tool: call.tool.clone(),
            action: call.action.clone(),
            resource: call.resource.clone(),
            data_class: call.data_class,
            args: call.args.iter().filter(|(n, _)| evidence.proof.is_some() || read.contains(n)).map(disclose).collect(),
            time: evidence.time,
            mode: evidence.policy.mode(token.block0().freshness_ms),
            verdict,
            relied: evidence.relied,
            key_list_version: evidence.key_list_version,
        }
    }

    /// Signs with the verifier's key.
    pub fn sign(&self, key: &ed25519_dalek::SigningKey) -> SignedReceipt {
        use ed25519_dalek::Signer as _;
        let payload = self.to_bytes();
        let signature = key.sign(&signed_bytes(&payload)).to_bytes();
        SignedReceipt { payload, signature }
    }

    /// The token, its signatures checked again under a key list.
    pub fn reopen_token(&self, keys: &KeyList) -> Result<VerifiedToken, Cause> {
        UnverifiedToken::parse(&self.token).map_err(|_| Cause::Malformed)?.verify(keys).map_err(|_| Cause::Signature)
    }

    /// The verdict derived again from what the receipt holds, up to the causes that only the verifier's own state can
    /// give (`stale`, `replay`, `budget`, `engine_limit`, `unavailable`): for those `Ok`, and the caller checks the evidence.
    ///
    /// `lookup` and `frozen` are what the feed says of the token's lineage as of the position relied on.
    pub fn rederive(&self, token: &VerifiedToken, keys: &KeyList, lookup: Lookup, frozen: Option<FreezeId>) -> Result<(), Cause> {
        let args = self.disclosed()?;
        let call = Call {
            tenant: &self.tenant,
            audience: &self.audience,
            tool: &self.tool,
            action: &self.action,
            resource: &self.resource,
            args: &args,
            data_class: self.data_class,
        };
        let proven = match &self.proof {
            Some(proof) if proof.audience == self.audience => proof.prove(token.last_holder(), token.hash(), call, &self.call_hash()),
            _ => None,
        };
        let asked = proven.as_ref().map_or(Asked::Bearer(&call), Asked::Proven);
        // What the tool takes by name shows in its having written a receipt at all.
        let policy = ToolPolicy { freshness: Freshness::Strict, bearer: Accept::Yes, unsealed: Accept::Yes };
        decision::before_time(token, asked, &policy, keys, lookup)?;
        // Without any authority time a verifier says nothing of validity, but all that comes after it (law 11).
        if self.time.0 != 0 {
            decision::in_time(token, self.time)?;
        }
        decision::within(token, &call)?;
        frozen.map_or(Ok(()), |id| Err(Cause::Frozen { id }))
    }

    /// The call hash, from disclosed values and commitments.
    pub fn call_hash(&self) -> [u8; 32] {
        let commitments = self.args.iter().map(|(name, arg)| {
            let commitment = match arg {
                ReceiptArg::Hidden(commitment) => *commitment,
                ReceiptArg::Disclosed { salt, value } => commit(salt, name, value),
            };
            (name, commitment)
        });
        call_hash(&self.tenant, &self.audience, &self.tool, &self.action, &self.resource, commitments)
    }

    fn disclosed(&self) -> Result<Arguments, Cause> {
        let mut args = Arguments::default();
        for (name, arg) in &self.args {
            if let ReceiptArg::Disclosed { value, .. } = arg {
                args.insert(name.clone(), value.clone()).map_err(|_| Cause::Malformed)?;
            }
        }
        Ok(args)
    }
}

/// The run in which a verifier goes on when the authority has lost receipts of this one that it had acknowledged, `last` of them at most:
/// the first 16 bytes of SHA-256 over tag, run and number. Whoever knows how much of a run is in the log tells by trying how much is lost.
pub fn run_after(run: [u8; 16], last: u64) -> [u8; 16] {
    let [hash @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _]: [u8; 32] =
        Sha256::new_with_prefix(b"procura-run-after/1\0").chain_update(run).chain_update(last.to_be_bytes()).finalize().into();
    hash
}

/// The names of the arguments that the token's checks read.
fn arguments_read(token: &VerifiedToken) -> Vec<&Name> {
    let of_narrowings = token.narrowings().iter().flat_map(|r| match r {
        Restriction::Limit(l) => vec![l.arg()],
        Restriction::Capabilities(c) => c.iter().flat_map(|c| c.limits()).map(Limit::arg).collect(),
        _ => vec![],
    });
    token.block0().capabilities.iter().flat_map(|c| c.limits()).map(Limit::arg).chain(of_narrowings).collect()
}

/// The verdict as receipts hold it: an allow that was not taken back before the effect.
pub const fn verdict(decision: &Decision) -> Result<(), Cause> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(cause) => Err(*cause),
    }
}

/// A receipt as it travels and as a leaf holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    payload: Vec<u8>,
    signature: [u8; 64],
}

impl SignedReceipt {
    /// The receipt, if this verifier's key signed it.
    pub fn open(&self, key: &Key) -> Result<Receipt, Malformed> {
        if !key.verifies(&signed_bytes(&self.payload), &self.signature) {
            return Err(Malformed::new("receipt is not signed by the verifier's enrolled key"));
        }
        Receipt::from_bytes(&self.payload)
    }

    /// What it claims: whose key to look up.
    pub fn claimed(&self) -> Result<Receipt, Malformed> {
        Receipt::from_bytes(&self.payload)
    }

    /// SHA-256 of the payload: names the decision (`DECISION_ID`).
    pub fn id(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }
}

impl Canonical for SignedReceipt {
    const MAX_BYTES: usize = Receipt::MAX_BYTES + 128;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(2)?.bytes(&self.payload)?.bytes(&self.signature)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 2)?;
        Ok(Self { payload: d.bytes()?.to_vec(), signature: fixed(d)? })
    }
}

impl Canonical for Receipt {
    const MAX_BYTES: usize = MAX_TOKEN_BYTES + Arguments::MAX_BYTES + 4096;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(19)?
            .u8(1)?
            .bytes(self.verifier.as_bytes())?
            .bytes(&self.run)?
            .u64(self.number)?
            .bytes(&self.challenge)?
            .str(self.tenant.as_str())?
            .str(self.audience.as_str())?
            .bytes(&self.token)?;
        match &self.proof {
            None => e.null()?,
            Some(p) => e.array(4)?.str(p.audience.as_str())?.u64(p.time.0)?.bytes(&p.nonce)?.bytes(&p.signature)?,
        };
        e.str(self.tool.as_str())?.str(self.action.as_str())?.array(self.resource.segments().len() as u64)?;
        for segment in self.resource.segments() {
            e.str(segment)?;
        }
        e.u8(self.data_class as u8)?.array(self.args.len() as u64)?;
        for (name, arg) in &self.args {
            e.array(2)?.str(name.as_str())?;
            match arg {
                ReceiptArg::Hidden(commitment) => e.bytes(commitment)?,
                ReceiptArg::Disclosed { salt, value } => e.array(2)?.bytes(salt)?.bytes(&value.to_bytes())?,
            };
        }
        e.u64(self.time.0)?;
        // The bound says the mode: one form for each.
        match self.mode.bound_ms() {
            Some(ms) => e.u32(ms)?,
            None => e.null()?,
        };
        match self.verdict {
            Ok(()) => e.array(1)?.u8(0)?,
            Err(Cause::Revoked(by)) => e.array(4)?.u8(1)?.str("revoked")?.str(by.what.word())?.u64(by.seq)?,
            Err(Cause::Frozen { id }) => e.array(3)?.u8(1)?.str("frozen")?.bytes(id.as_bytes())?,
            Err(cause) => e.array(2)?.u8(1)?.str(cause.word())?,
        };
        match &self.relied {
            None => e.null()?,
            Some(r) => e.array(4)?.u64(r.epoch)?.u64(r.seq)?.bytes(&r.hash)?.u64(r.utc.0)?,
        };
        e.u64(self.key_list_version)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 19)?;
        if d.u8()? != 1 {
            return Err(Malformed::new("expected a receipt of version 1"));
        }
        let (verifier, run, number, challenge) = (VerifierId::from_bytes(fixed(d)?), fixed(d)?, d.u64()?, fixed(d)?);
        let tenant = d.str()?.parse().map_err(|_| Malformed::new("expected a tenant name"))?;
        let audience = d.str()?.parse()?;
        let token = d.bytes()?.to_vec();
        let proof = if is_null(d)? {
            None
        } else {
            array(d, 4)?;
            Some(SignedProof { audience: d.str()?.parse()?, time: UtcMillis(d.u64()?), nonce: fixed(d)?, signature: fixed(d)? })
        };
        let (tool, action) = (d.str()?.parse()?, d.str()?.parse()?);
        let segments = (0..list(d, 16)?).map(|_| Ok(d.str()?)).collect::<Result<Vec<_>, Malformed>>()?;
        let resource = segments.join("/").parse()?;
        let data_class = DataClass::from_number(d.u8()?.into()).ok_or(Malformed::new("expected a data class from 0 to 3"))?;
        let args = (0..list(d, Arguments::MAX)?).map(|_| read_arg(d)).collect::<Result<Vec<_>, _>>()?;
        if !args.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Malformed::new("expected arguments sorted by name, one each"));
        }
        let time = UtcMillis(d.u64()?);
        let mode = Mode::of(if is_null(d)? { None } else { Some(d.u32()?) });
        let verdict = read_verdict(d)?;
        let relied = if is_null(d)? {
            None
        } else {
            array(d, 4)?;
            Some(Relied { epoch: d.u64()?, seq: d.u64()?, hash: fixed(d)?, utc: UtcMillis(d.u64()?) })
        };
        Ok(Self {
            verifier,
            run,
            number,
            challenge,
            tenant,
            audience,
            token,
            proof,
            tool,
            action,
            resource,
            data_class,
            args,
            time,
            mode,
            verdict,
            relied,
            key_list_version: d.u64()?,
        })
    }
}

fn read_arg(d: &mut Decoder<'_>) -> Result<(Name, ReceiptArg), Malformed> {
    array(d, 2)?;
    let name = d.str()?.parse()?;
    let arg = if d.datatype()? == minicbor::data::Type::Bytes {
        ReceiptArg::Hidden(fixed(d)?)
    } else {
        array(d, 2)?;
        ReceiptArg::Disclosed { salt: fixed(d)?, value: Value::from_bytes(d.bytes()?)? }
    };
    Ok((name, arg))
}

fn read_verdict(d: &mut Decoder<'_>) -> Result<Result<(), Cause>, Malformed> {
    let wrong = Malformed::new("expected a verdict");
    let fields = list(d, 4)?;
    Ok(match (d.u8()?, fields) {
        (0, 1) => Ok(()),
        (1, _) => Err(match d.str()? {
            "revoked" => Cause::Revoked(RevokedBy { what: RevokedWhat::from_word(d.str()?).ok_or(wrong)?, seq: d.u64()? }),
            "frozen" => Cause::Frozen { id: FreezeId::from_bytes(fixed(d)?) },
            word => PLAIN_CAUSES.into_iter().find(|c| c.word() == word).ok_or(wrong)?,
        }),
        _ => return Err(wrong),
    })
}

fn is_null(d: &mut Decoder<'_>) -> Result<bool, Malformed> {
    let null = d.datatype()? == minicbor::data::Type::Null;
    if null {
        d.null()?;
    }
    Ok(null)
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [b"procura-receipt/1\0".as_slice(), payload].concat()
}

/// Causes that carry nothing.
pub(crate) const PLAIN_CAUSES: [Cause; 15] = [
    Cause::Malformed,
    Cause::Signature,
    Cause::Tenant,
    Cause::Audience,
    Cause::Holder,
    Cause::NotYetValid,
    Cause::Expired,
    Cause::Scope,
    Cause::Limit,
    Cause::Approval,
    Cause::Stale,
    Cause::Replay,
    Cause::Budget,
    Cause::EngineLimit,
    Cause::Unavailable,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Seed;
    use crate::token::mint;
    use crate::token::tests::{block0, key, key_list};

    fn receipt(json: &str, verdict: Result<(), Cause>) -> Receipt {
        let token = UnverifiedToken::parse(&mint(&block0(), &key(1), [7; 32]).unwrap()).unwrap().seal();
        let verified = UnverifiedToken::parse(&token).unwrap().verify(&key_list()).unwrap();
        let (tenant, audience, tool, action, resource) =
            ("acme".parse().unwrap(), "payments/1".parse().unwrap(), "payments".parse().unwrap(), "transfer".parse().unwrap(), "acct/eu/7".parse().unwrap());
        let args = Arguments::from_json(json.as_bytes()).unwrap();
        let call =
            Call { tenant: &tenant, audience: &audience, tool: &tool, action: &action, resource: &resource, args: &args, data_class: DataClass::Restricted };
        let proof = crate::proof::UnverifiedProof::sign(&key(10), verified.hash(), &call, UtcMillis(2_000_000), &[7; 16], [1; 16], Seed::from_bytes([3; 32]));
        let proof = proof.verify(verified.last_holder(), verified.hash(), &call).unwrap();
        let relied = Some(Relied { epoch: 1, seq: 4, hash: [5; 32], utc: UtcMillis(1_999_950) });
        let evidence = Evidence {
            from: (VerifierId::from_bytes([6; 16]), [8; 16], 1),
            challenge: [7; 16],
            token: (&token, &verified),
            proof: Some(&proof),
            policy: &ToolPolicy::STRICT,
            time: UtcMillis(2_000_000),
            relied,
            key_list_version: 1,
        };
        Receipt::record(&call, &evidence, verdict)
    }

    #[test]
    fn a_receipt_discloses_what_checks_read_and_derives_its_verdict_again() {
        let signed = receipt(r#"{"amount":{"minor":12000,"unit":"EUR"},"note":"private"}"#, Ok(())).sign(&key(20));
        let wire = signed.to_bytes();
        let opened = SignedReceipt::from_bytes(&wire).unwrap().open(&Key::of(&key(20))).unwrap();
        assert!(opened.args.iter().all(|(n, a)| (n.as_str() == "amount") == matches!(a, ReceiptArg::Disclosed { .. })));
        assert!(!wire.windows(7).any(|w| w == b"private"));
        let keys = key_list();
        let token = opened.reopen_token(&keys).unwrap();
        assert_eq!(opened.rederive(&token, &keys, Lookup::Live, None), Ok(()));
        let id = FreezeId::from_bytes([4; 16]);
        assert_eq!(opened.rederive(&token, &keys, Lookup::Live, Some(id)), Err(Cause::Frozen { id }));
        let by = RevokedBy { what: RevokedWhat::Tid, seq: 3 };
        assert_eq!(opened.rederive(&token, &keys, Lookup::Revoked(by), Some(id)), Err(Cause::Revoked(by)));
        assert!(SignedReceipt::from_bytes(&wire).unwrap().open(&Key::of(&key(21))).is_err());
    }

    #[test]
    fn a_receipt_says_the_mode_by_its_bound_and_a_freeze_by_its_id() {
        for mode in [Mode::Strict { ms: 150 }, Mode::Strict { ms: 20 }, Mode::Bounded { ms: 151 }, Mode::BestEffort] {
            let mut receipt = receipt("{}", Err(Cause::Frozen { id: FreezeId::from_bytes([4; 16]) }));
            receipt.mode = mode;
            let read = Receipt::from_bytes(&receipt.to_bytes()).unwrap();
            assert_eq!((read.mode, read.verdict), (mode, receipt.verdict));
        }
    }

    #[test]
    fn a_receipt_that_says_otherwise_is_found() {
        let keys = key_list();
        let high = receipt(r#"{"amount":{"minor":60000,"unit":"EUR"}}"#, Ok(()));
        let token = high.reopen_token(&keys).unwrap();
        assert_eq!(high.rederive(&token, &keys, Lookup::Live, None), Err(Cause::Limit), "claims an allow over the limit");
        let mut invented = receipt(r#"{"amount":{"minor":12000,"unit":"EUR"}}"#, Ok(()));
        invented.args[0].1 = ReceiptArg::Disclosed { salt: [0; 32], value: Value::Int(1) };
        assert_eq!(invented.rederive(&token, &keys, Lookup::Live, None), Err(Cause::Holder), "the holder did not sign this");
    }
}
