//! The guard of a tool: headers and an action go in, a permit or one cause comes out.
//!
//! Order of work: find the token by its bytes, or verify the proof under the key the token claims, and only then, and
//! within a bound per that key, the token's own signatures. Decide; refresh once where the view is stale; after an
//! allow spend the proof, write the receipt. The layer compares `valid_until` right before the effect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::cache::TokenCache;
use procura_verifier::call::{Arguments, Call};
use procura_verifier::claims::{Audience, DataClass, Name, Resource};
use procura_verifier::decision::{Accept, Asked, Cause, Decision, Freshness, Mode, STRICT_MS, ToolPolicy, decide_at};
use procura_verifier::feed::Alarm;
use procura_verifier::feed::sse::{Enrolment, FeedClient, FeedConfig};
use procura_verifier::ids::{BootTime, Clock, Tenant};
use procura_verifier::proof::{Challenge, ReplayCache, UnverifiedProof, VerifiedProof};
use procura_verifier::revocation::{RevocationView as _, View};
use procura_verifier::token::{MAX_TOKEN_BYTES, UnverifiedToken, VerifiedToken};
use procura_verifier::watch::{TooManyWatches, Watch, Watches};
use procura_verifier::wire::Canonical as _;
use rand::TryRngCore as _;

use crate::limiter::Limiter;
use crate::receipts::{Known, Receipts};

/// What a tool is asked to do, as its own mapping of the request says it. The tool runs this, not the original bytes.
#[derive(Clone, Debug)]
pub struct Action {
    /// The tenant of the resource, from the tool's own records.
    pub tenant: Tenant,
    /// The tool.
    pub tool: Name,
    /// The action.
    pub action: Name,
    /// The resource.
    pub resource: Resource,
    /// Every argument.
    pub args: Arguments,
    /// The class of data touched; unlabelled is [`DataClass::Restricted`].
    pub data_class: DataClass,
}

/// What came with the request.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `Procura-Proof` header.
    pub proof: Option<&'a str>,
    /// Who connected; bounds cold verifications where there is no valid proof.
    pub peer: Option<IpAddr>,
}

/// Go ahead, until `valid_until`.
#[derive(Clone)]
pub struct Permit {
    valid_until: BootTime,
    token: Arc<VerifiedToken>,
    clock: Arc<dyn Clock>,
    policy: ToolPolicy,
    mode: Mode,
    watches: Arc<Watches>,
}

impl Permit {
    /// Whether the effect may begin now. The layer asks right before the handler; a handler that waits asks again.
    pub fn is_valid(&self) -> bool {
        self.clock.boot() <= self.valid_until
    }

    /// For an effect that lasts: resolves with the cause when it must end, within the bound in force. End a stream with
    /// `stream.take_until(permit.watch()?)`.
    pub fn watch(&self) -> Result<Watch, TooManyWatches> {
        self.watches.watch(self.token.clone(), self.policy, self.valid_until)
    }

    /// The mode of freshness in which it was given.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The token that was presented: human, agents, delegation.
    pub fn token(&self) -> &VerifiedToken {
        &self.token
    }
}

/// Do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why. For the receipt and the holder.
    pub cause: Cause,
    /// Who may be told the cause: strangers see one word.
    pub audience: Told,
    /// What nonces for this instance must start with.
    pub challenge: Challenge,
}

/// To whom an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The last holder of a token that the authority signed, by a proof of now: learns the cause.
    Holder,
    /// Anybody else: learns that it was refused.
    Stranger,
}

/// Decides calls for one instance of a service.
pub struct Guard {
    pub(crate) audience: Audience,
    pub(crate) policy: ToolPolicy,
    pub(crate) view: Arc<View>,
    pub(crate) feed: FeedClient,
    pub(crate) cache: TokenCache,
    pub(crate) replay: Arc<ReplayCache>,
    pub(crate) cold: Limiter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) receipts: Receipts,
    watches: Arc<Watches>,
    modes: [AtomicU64; 3],
    deliverer: tokio::task::AbortHandle,
}

/// How many decisions were made in each mode of freshness.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Modes {
    /// Within 150 ms: the promise of P4.
    pub strict: u64,
    /// Under a longer bound.
    pub bounded: u64,
    /// Under none.
    pub best_effort: u64,
}

/// How far a presentation got before the decision.
struct Opened<'a> {
    bytes: Vec<u8>,
    token: Arc<VerifiedToken>,
    /// The proof, or why there is none that counts.
    proof: Result<VerifiedProof<'a>, Cause>,
}

impl Guard {
    /// Decides one call. Cancelling it after the proof was spent spends the proof.
    pub async fn check(&self, presented: Presented<'_>, action: &Action) -> Result<Permit, Refusal> {
        let arrived = self.clock.boot();
        let call = Call {
            tenant: &action.tenant,
            audience: &self.audience,
            tool: &action.tool,
            action: &action.action,
            resource: &action.resource,
            args: &action.args,
            data_class: action.data_class,
        };
        let refuse = |cause, audience| Refusal { cause, audience, challenge: self.replay.challenge() };
        let opened = self.present(presented, &call, arrived).map_err(|cause| {
            self.receipts.count(cause);
            refuse(cause, Told::Stranger)
        })?;
        self.decide(&opened, &call, arrived).await.map_err(|cause| {
            let utc = self.view.utc(self.clock.boot());
            // L11: whoever recorded a call can show it again later, and would learn what became of the token.
            let is_holder = opened.proof.as_ref().is_ok_and(|p| self.replay.is_current(p, utc));
            refuse(cause, if is_holder { Told::Holder } else { Told::Stranger })
        })
    }

    async fn decide(&self, opened: &Opened<'_>, call: &Call<'_>, arrived: BootTime) -> Result<Permit, Cause> {
        let asked = opened.proof.as_ref().map_or(Asked::Bearer(call), |p| Asked::Proven(p.proven()));
        // Read before the decision: a receipt must not claim more than was looked at.
        let mut relied = self.view.relied();
        let judge = || decide_at(&opened.token, asked, &self.policy, &*self.view, &*self.clock, arrived);
        let (mut decision, mut utc) = judge();
        if decision == Decision::Deny(Cause::Stale) {
            self.feed.refresh().await;
            relied = self.view.relied();
            (decision, utc) = judge();
        }
        let utc = utc.unwrap_or_default();
        let mode = self.policy.mode(opened.token.block0().freshness_ms);
        self.counter(mode).fetch_add(1, Ordering::Relaxed);
        let mut challenge = self.replay.challenge();
        let verdict = match (&decision, &opened.proof) {
            // A place for the record first: a proof spent without one would be nobody's.
            (Decision::Allow(allow), proof) => self.receipts.reserve().and_then(|place| {
                if let Ok(proof) = proof {
                    let (spent, by) = self.replay.spend_noting(proof, utc);
                    challenge = by;
                    spent?;
                }
                Ok((allow.valid_until, place))
            }),
            // A proof for another instance is named as such, where nothing that comes earlier in law 11 stands.
            (Decision::Deny(Cause::Holder), Err(cause)) => Err(*cause),
            (Decision::Deny(cause), _) => Err(*cause),
        };
        // A receipt stands on the holder's signature, or on a bearer token that was taken as one; the rest is counted.
        let bearer = opened.token.is_bearer() && self.policy.bearer == Accept::Yes;
        // The authority takes another tenant's resource only where the token was refused for that.
        let ours = call.tenant == self.view.tenant() || matches!(verdict, Err(Cause::Tenant));
        // An unsealed token is never written down: it is the means to extend itself.
        if (opened.proof.is_ok() || bearer) && opened.token.is_sealed() && ours {
            let said = verdict.as_ref().map(|_| ()).map_err(|cause| *cause);
            self.receipts.record(self, call, opened.evidence(), said, Known { challenge, relied, time: utc })?;
        } else if let Err(cause) = &verdict {
            self.receipts.count(*cause);
        }
        let (valid_until, _) = verdict?;
        let (policy, watches) = (self.policy, self.watches.clone());
        Ok(Permit { valid_until, token: opened.token.clone(), clock: self.clock.clone(), policy, mode, watches })
    }

    const fn counter(&self, mode: Mode) -> &AtomicU64 {
        let [strict, bounded, best_effort] = &self.modes;
        match mode {
            Mode::Strict { .. } => strict,
            Mode::Bounded { .. } => bounded,
            Mode::BestEffort => best_effort,
        }
    }

    /// From headers to a verified token, with the bounds on cold work.
    fn present<'a>(&self, presented: Presented<'_>, call: &Call<'a>, now: BootTime) -> Result<Opened<'a>, Cause> {
        let text = presented.authorization.and_then(|h| h.strip_prefix("Bearer ")).ok_or(Cause::Malformed)?;
        if text.len() > MAX_TOKEN_BYTES * 4 / 3 + 4 {
            return Err(Cause::Malformed);
        }
        let bytes = BASE64.decode(text).map_err(|_| Cause::Malformed)?;
        let proof = presented.proof.map(|p| BASE64.decode(p).ok().and_then(|p| UnverifiedProof::from_bytes(&p).ok()).ok_or(Cause::Malformed)).transpose()?;
        let check = |holder, hash| proof.clone().ok_or(Cause::Holder).and_then(|p: UnverifiedProof| p.verify(holder, hash, call));

        if let Some(token) = self.cache.find(&bytes) {
            let proof = check(token.last_holder(), token.hash());
            return Ok(Opened { bytes, token, proof });
        }
        let unverified = UnverifiedToken::parse(&bytes).map_err(|_| Cause::Malformed)?;
        let holder = unverified.claimed_holder();
        let proof = check(&holder, unverified.hash());
        let within = match &proof {
            Ok(_) => self.cold.take(("holder", holder), now),
            Err(_) => self.cold.take(("peer", presented.peer), now),
        };
        if !within {
            return Err(Cause::Unavailable);
        }
        let token = Arc::new(unverified.verify(&self.view.key_list()).map_err(|_| Cause::Signature)?);
        self.cache.insert(&bytes, token.clone());
        Ok(Opened { bytes, token, proof })
    }
}

impl<'a> Opened<'a> {
    fn evidence(&self) -> (&[u8], &VerifiedToken, Option<&VerifiedProof<'a>>) {
        (&self.bytes, &self.token, self.proof.as_ref().ok())
    }
}

/// What a guard is made from.
pub struct GuardConfig {
    /// Anchors, tenant, and the last key list accepted.
    pub trust: procura_verifier::trust::TrustFile,
    /// The trust file that keeps each key list accepted from now on; none: a restart begins with the list of `trust`.
    pub trust_path: Option<PathBuf>,
    /// Where the authority answers; usually the trust file's.
    pub authority: String,
    /// The service and instance that this guard is: proofs are made for it, and no other process may have it.
    pub audience: Audience,
    /// The enrolment of the key.
    pub verifier: procura_verifier::ids::VerifierId,
    /// The verifier's key: signs receipts, sign-ins and acknowledgements.
    pub key: ed25519_dalek::SigningKey,
    /// What this tool insists on.
    pub policy: ToolPolicy,
    /// Most proofs remembered per minute; full means `unavailable`.
    pub max_proofs: usize,
    /// Most verified tokens kept.
    pub max_tokens: usize,
    /// Cold verifications per second and holder.
    pub cold_per_second: u32,
    /// Redis beside the stream.
    #[cfg(feature = "redis")]
    pub redis: Option<procura_verifier::feed::redis::RedisServer>,
}

/// Why a guard does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The trust file's key list is not its anchors'.
    #[error(transparent)]
    Trust(#[from] procura_verifier::key_list::KeyListError),
    /// Each decision is to have a receipt, and a receipt cannot hold the means to extend a token.
    #[error("a guard that writes receipts takes sealed tokens only")]
    Unsealed,
    /// No randomness from the operating system.
    #[error("no randomness for the challenge of this instance")]
    Randomness,
}

impl Guard {
    /// Starts following the feed and delivering receipts. Until the first answer of the authority is here it denies `stale`.
    ///
    /// Needs a tokio runtime, and a process-wide rustls provider where the authority is https. `http` must not have an
    /// overall timeout: the feed is one answer without end.
    pub fn start(config: GuardConfig, http: reqwest::Client, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        if config.policy.unsealed == Accept::Yes {
            return Err(StartError::Unsealed);
        }
        let view = Arc::new(View::new(config.audience.service().clone(), config.trust.keys()?));
        let replay = Arc::new(ReplayCache::new(random()?, config.max_proofs));
        let mut feed = FeedConfig::new(config.authority.clone(), config.trust.anchors, http.clone());
        feed.clock = clock.clone();
        feed.trust_path = config.trust_path;
        #[cfg(feature = "redis")]
        {
            feed.redis = config.redis;
        }
        let run = random()?;
        let mode = Mode::of(match config.policy.freshness {
            Freshness::Strict => Some(STRICT_MS),
            Freshness::Bounded { ms } => Some(ms),
            Freshness::BestEffort => None,
        });
        feed.enrolment = Some(Enrolment { verifier: config.verifier, audience: config.audience.clone(), run, key: config.key.clone(), mode });
        let receipts = Receipts::new(config.verifier, run, config.key);
        let (paused, doubted) = (replay.clone(), receipts.clone());
        feed.on_alarm = Box::new(move |alarm| match alarm {
            // L7: after a pause nobody knows what was forgotten; older proofs are refused.
            Alarm::Paused => {
                if let Ok(challenge) = random() {
                    paused.renew(challenge);
                }
            }
            // Who has lost revocations has lost receipts.
            Alarm::Fork { .. } | Alarm::Loss { .. } => doubted.deliver_again(),
            _ => {}
        });
        match config.policy.freshness {
            Freshness::Strict => {}
            Freshness::Bounded { ms } => tracing::info!(audience = %config.audience, bound_ms = ms, "freshness mode bounded"),
            // A weaker setting that nobody sees is nobody's choice.
            Freshness::BestEffort => {
                tracing::warn!(audience = %config.audience, "freshness mode best_effort: tokens that name it are taken without knowing what was revoked");
            }
        }
        let (at, time) = (view.clone(), clock.clone());
        let deliverer = tokio::spawn(receipts.clone().deliver(http, config.authority, move || at.utc(time.boot())));
        let feed = FeedClient::start(feed, view.clone());
        Ok(Arc::new(Self {
            audience: config.audience,
            policy: config.policy,
            watches: Arc::new(Watches::start(view.clone(), clock.clone(), feed.puller(), MAX_WATCHES)),
            modes: Default::default(),
            feed,
            view,
            cache: TokenCache::new(config.max_tokens),
            replay,
            cold: Limiter::new(config.cold_per_second),
            clock,
            receipts,
            deliverer: deliverer.abort_handle(),
        }))
    }

    /// The freshness that this tool chose by name. What is in force for a token is the lesser of this and what its block 0 says.
    pub const fn mode(&self) -> Freshness {
        self.policy.freshness
    }

    /// Decisions since the start by the mode in force: what is not strict is not under the promise of 200 ms.
    pub fn modes(&self) -> Modes {
        let [strict, bounded, best_effort] = self.modes.each_ref().map(|n| n.load(Ordering::Relaxed));
        Modes { strict, bounded, best_effort }
    }

    /// Denials without a receipt since the start, by cause.
    pub fn denials(&self) -> BTreeMap<&'static str, u64> {
        self.receipts.denials()
    }

    /// Waits until the authority has acknowledged every receipt and count, at most ten seconds. True if it has.
    pub async fn close(&self) -> bool {
        tokio::time::timeout(CLOSE_WAIT, self.receipts.delivered()).await.is_ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.deliverer.abort();
    }
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|_| StartError::Randomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;

/// Most effects watched at once.
const MAX_WATCHES: usize = 4096;
const CLOSE_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
