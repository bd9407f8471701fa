//! The language of Procura's tokens, and the judgement.
//!
//! A *token* is a Biscuit of a closed profile (`spec/token.md`): block 0 says who granted what to whom, later blocks only
//! narrow or pass on, and nothing else can stand in one. A tool goes five steps:
//!
//! 1. **Parse**: [`token::UnverifiedToken::parse`]. Bytes that are not of the profile end here, before any signature and
//!    without any Datalog.
//! 2. **Prove**: [`proof::UnverifiedProof::verify`]. The last holder signed this very call, for this instance.
//! 3. **Verify**: [`token::UnverifiedToken::verify`] makes the only [`token::VerifiedToken`] there is. Keep it in a
//!    [`cache::TokenCache`].
//! 4. **Decide**: [`decision::decide`] against a [`revocation::View`] that the [`feed`] keeps fresh: an allow with its last
//!    moment, or one [`decision::Cause`].
//! 5. **Spend and record**: [`proof::ReplayCache::spend`], then a [`receipt::Receipt`], then the clock once more, then the effect.
//!
//! The SDK's guard does all five. Nothing here does I/O unless feature `sse` is on; nothing here reads a clock or draws a
//! random number that it was not given.
//!
//! ```
//! use procura_verifier::call::{Arguments, Call};
//! use procura_verifier::claims::*;
//! use procura_verifier::decision::{Cause, within};
//! use procura_verifier::ids::*;
//! use procura_verifier::key_list::*;
//! use procura_verifier::token::{UnverifiedToken, mint};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let signing = |n: u8| ed25519_dalek::SigningKey::from_bytes(&[n; 32]);
//! # let (anchor, root, holder) = (signing(1), signing(2), signing(3));
//! // The authority mints: 500.00 EUR per transfer to accounts below acct/eu.
//! let limit = Limit::AtMost { arg: "amount".parse()?, max: 50_000, unit: "EUR".parse()? };
//! let block = Block0 {
//!     tenant: "acme".parse()?,
//!     capabilities: vec![Capability::new("payments".parse()?, "transfer".parse()?, "acct/eu/*".parse()?, vec![limit])?],
//!     audiences: vec!["payments".parse()?],
//!     holder: Key::of(&holder),
//!     not_before_secs: 1_000,
//!     expires_secs: 4_600,
//! #   tid: Tid::from_bytes([1; 16]), ancestors: vec![], delegation: DelegationId::from_bytes([2; 16]),
//! #   human: HumanRef::Id(HumanId::from_bytes([3; 16])), agent: AgentId::from_bytes([4; 16]), possession: Possession::Proof,
//! #   class_max: DataClass::Restricted, depth: 2, hops: Hops::Registered, freshness_ms: 150, generations: Generations::default(),
//!     // … and the rest of what a token must say
//! };
//! let minted = mint(&block, &root, [7; 32])?;
//!
//! // The agent narrows it to 100.00 EUR, offline, and seals it.
//! let hundred = Restriction::Limit(Limit::AtMost { arg: "amount".parse()?, max: 10_000, unit: "EUR".parse()? });
//! let narrowed = UnverifiedToken::parse(&minted)?.narrow(&[hundred], [8; 32])?;
//! let presented = UnverifiedToken::parse(&narrowed)?.seal();
//!
//! // The tool knows the root key from a key list that the anchors signed.
//! # let listed = ListedKey { usage: KeyUse::Root, key: Key::of(&root), from: UtcMillis(0), until: UtcMillis(u64::MAX) };
//! # let payload = KeyListPayload { tenant: block.tenant.clone(), version: 1, issued: UtcMillis(0), max_ttl_secs: 86_400, keys: vec![listed], dead: vec![] };
//! # let signed_list = UnverifiedKeyList::sign(&payload, &[&anchor]);
//! let keys = Anchors::new(vec![Key::of(&anchor)], 1)?.accept(&signed_list, &block.tenant)?;
//! let token = UnverifiedToken::parse(&presented)?.verify(&keys)?;
//!
//! let args = |json: &str| Arguments::from_json(json.as_bytes());
//! let (tool, action, resource, audience) = ("payments".parse()?, "transfer".parse()?, "acct/eu/7".parse()?, "payments/1".parse()?);
//! let ask = |args: &Arguments| within(&token, &Call { tenant: &block.tenant, audience: &audience, tool: &tool, action: &action, resource: &resource, args, data_class: DataClass::Restricted });
//! assert_eq!(ask(&args(r#"{"amount":{"minor":9900,"unit":"EUR"}}"#)?), Ok(()));
//! assert_eq!(ask(&args(r#"{"amount":{"minor":10001,"unit":"EUR"}}"#)?), Err(Cause::Limit));
//! assert_eq!(ask(&args("{}")?), Err(Cause::Limit)); // missing under a limit
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

pub mod cache;
pub mod call;
pub mod card;
pub mod challenge;
pub mod claims;
pub mod decision;
pub mod denials;
pub mod feed;
pub mod ids;
pub mod key_list;
pub mod proof;
pub mod receipt;
pub mod revocation;
pub mod token;
pub mod trust;
pub mod vocabulary;
#[cfg(feature = "sse")]
pub mod watch;
pub mod wire;
