//! How an agent shows who it is: the possession challenge at registration, `private_key_jwt` (RFC 7523) afterwards.

use procura_verifier::challenge;
use procura_verifier::ids::{AgentId, HumanId, Key, Tenant, UtcMillis};
use rand::RngCore;
use serde::Deserialize;

use crate::domain::session::{HashedToken, SecretKind, Spend};
use crate::seal::Seals;
use crate::secret;

/// Why possession of a key was not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PossessionError {
    /// Never drawn, used, too old, or drawn for someone else.
    #[error("expected a challenge drawn for you in the last 5 minutes and not used yet")]
    Nonce,
    /// Not by this key over this challenge.
    #[error("the signature is not by the agent's key over this challenge")]
    Signature,
}

/// Draws the nonce for an agent that `owner` is about to register: time, randomness, and a tag under a key that only the
/// authority's replicas have, so that none of them need remember it.
pub fn draw_challenge(seals: &Seals, now: UtcMillis, rng: &mut dyn RngCore, owner: HumanId) -> [u8; 32] {
    let (at, mut random) = (now.0.to_be_bytes(), [0; 8]);
    rng.fill_bytes(&mut random);
    let tag = seals.challenge_tag(&[&at, &random, owner.as_bytes()]);
    let mut bytes = at.into_iter().chain(random).chain(tag);
    std::array::from_fn(|_| bytes.next().unwrap_or(0))
}

/// Checks that the nonce was drawn for `owner` in the last 5 minutes and the signature over [`challenge::message`]. Gives
/// what the caller spends in the transaction that registers the agent: a nonce is good once.
pub fn redeem_challenge(
    seals: &Seals,
    now: UtcMillis,
    owner: HumanId,
    tenant: &Tenant,
    nonce: &[u8; 32],
    key: &Key,
    signature: &[u8; 64],
) -> Result<Spend, PossessionError> {
    let (drawn, tag) = nonce.split_at(16);
    let (at, random) = drawn.split_at(8);
    let expected = seals.challenge_tag(&[at, random, owner.as_bytes()]);
    // In constant time: how far a guess fits says nothing.
    let differ = tag.iter().zip(expected).fold(0, |d, (a, b)| d | (a ^ b));
    let at = UtcMillis(at.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    let until = at.plus(CHALLENGE_LIFE_MS);
    if differ != 0 || now >= until || at > now.plus(LEEWAY_MS) {
        return Err(PossessionError::Nonce);
    }
    if !key.verifies(&challenge::message(tenant, nonce, key), signature) {
        return Err(PossessionError::Signature);
    }
    Ok((HashedToken::of(SecretKind::Challenge, nonce), until))
}

/// An agent that has shown its key. The caller spends (`agent`, `jti`) once, in the transaction that acts on it,
/// and keeps it until `exp`: no leeway is given beyond that moment, so nothing can come back later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// Who.
    pub agent: AgentId,
    /// The assertion's own name, 1 to 64 printable ASCII characters.
    pub jti: String,
    /// Its end.
    pub exp: UtcMillis,
}

/// Why an assertion was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Not a JWT of the documented form.
    #[error("assertion: {0}")]
    Malformed(&'static str),
    /// For someone else.
    #[error("assertion: expected `aud` to be the string `{0}`")]
    Audience(String),
    /// By none of the agent's keys.
    #[error("assertion: the signature is by none of the agent's keys")]
    Signature,
    /// Outside its time.
    #[error("assertion: {0}")]
    Time(&'static str),
}

/// The agent that a JWT *claims* to be from: good for looking up keys, for nothing else.
pub fn claimed_agent(unverified_jwt: &str) -> Result<AgentId, AssertionError> {
    let claims = read(unverified_jwt)?.claims;
    claims.sub.parse().map_err(|_| AssertionError::Malformed("expected `sub` to be an agent id"))
}

/// The agent, if `jwt` is an RFC 7523 client assertion for `issuer` signed by one of `keys`.
///
/// `keys` are those of the record of [`claimed_agent`], never anything the JWT says; the header's `kid` is ignored.
/// Only EdDSA exists here, so there is no algorithm to confuse. The signature is checked with `verify_strict` like every
/// other of ours (a general JWT library accepts small-order keys and second forms).
/// `aud` is the issuer as one string: an assertion that also names the token endpoint, or another server, could be
/// replayed there (rfc7523bis). It lives at most 5 minutes; `iat` and `nbf` may be up to 30 s ahead.
pub fn verify_assertion(jwt: &str, issuer: &str, keys: &[Key], now: UtcMillis) -> Result<Assertion, AssertionError> {
    let Unverified { claims, signed, signature } = read(jwt)?;
    if !keys.iter().any(|key| key.verifies(signed.as_bytes(), &signature)) {
        return Err(AssertionError::Signature);
    }
    if claims.aud.as_str() != Some(issuer) {
        return Err(AssertionError::Audience(issuer.to_owned()));
    }
    if claims.iss != claims.sub {
        return Err(AssertionError::Malformed("expected `iss` and `sub` to be the same agent id"));
    }
    let agent = claims.sub.parse().map_err(|_| AssertionError::Malformed("expected `sub` to be an agent id"))?;
    if !(1..=MAX_JTI).contains(&claims.jti.len()) || !claims.jti.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(AssertionError::Malformed("expected `jti` of 1 to 64 printable ASCII characters"));
    }
    let exp = millis(claims.exp);
    if exp <= now {
        return Err(AssertionError::Time("it has expired"));
    }
    if exp > now.plus(MAX_LIFE_MS) {
        return Err(AssertionError::Time("expected `exp` at most 5 minutes ahead"));
    }
    if claims.iat.into_iter().chain(claims.nbf).any(|t| millis(t) > now.plus(LEEWAY_MS)) {
        return Err(AssertionError::Time("expected `iat` and `nbf` not in the future"));
    }
    Ok(Assertion { agent, jti: claims.jti, exp })
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
    /// RFC 7515 §4.1.11: extensions that must be understood; none is.
    crit: Option<serde::de::IgnoredAny>,
}

// Duplicate members are refused by the derived reader.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: serde_json::Value,
    exp: u64,
    iat: Option<u64>,
    nbf: Option<u64>,
    jti: String,
}

struct Unverified<'a> {
    claims: Claims,
    signed: &'a str,
    signature: [u8; 64],
}

fn read(jwt: &str) -> Result<Unverified<'_>, AssertionError> {
    use AssertionError::Malformed;
    if jwt.len() > MAX_JWT_BYTES {
        return Err(Malformed("longer than 4096 bytes"));
    }
    let three = || Malformed("expected three parts of base64url without padding");
    let (signed, signature) = jwt.rsplit_once('.').ok_or_else(three)?;
    let (header, claims) = signed.split_once('.').ok_or_else(three)?;
    let bytes = |part| secret::from_base64url(part).ok_or_else(three);
    let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| Malformed("expected a header with `alg` and `typ`"))?;
    if header.alg != "EdDSA" || header.typ != "JWT" || header.crit.is_some() {
        return Err(Malformed("expected a header with `alg` EdDSA, `typ` JWT and no `crit`"));
    }
    let claims =
        serde_json::from_slice(&bytes(claims)?).map_err(|_| Malformed("expected each once: `iss`, `sub`, `aud`, `exp`, `jti`, with times in whole seconds"))?;
    let signature = bytes(signature)?.try_into().map_err(|_| Malformed("expected a signature of 64 bytes"))?;
    Ok(Unverified { claims, signed, signature })
}

const fn millis(secs: u64) -> UtcMillis {
    UtcMillis(secs.saturating_mul(1000))
}

const CHALLENGE_LIFE_MS: u64 = 5 * 60 * 1000;
const MAX_JWT_BYTES: usize = 4096;
const MAX_JTI: usize = 64;
const MAX_LIFE_MS: u64 = 5 * 60 * 1000;
const LEEWAY_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use ed25519_dalek::pkcs8::EncodePrivateKey as _;
    use ed25519_dalek::{Signer as _, SigningKey};
    use jsonwebtoken::{Algorithm, EncodingKey};
    use rand::SeedableRng as _;
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://authority.example";
    const NOW: UtcMillis = UtcMillis(1_900_000_000_000);
    const AGENT: &str = "agt_00112233445566778899aabbccddeeff";

    fn agent_key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn claims() -> Value {
        json!({ "iss": AGENT, "sub": AGENT, "aud": ISSUER, "exp": NOW.secs() + 60, "iat": NOW.secs(), "jti": "j-1" })
    }

    /// Written by a library that is not ours, so that both sides do not share one mistake.
    fn jwt(header: &jsonwebtoken::Header, claims: &Value, key: &SigningKey) -> String {
        let der = key.to_pkcs8_der().expect("a key");
        jsonwebtoken::encode(header, claims, &EncodingKey::from_ed_der(der.as_bytes())).expect("a JWT")
    }

    fn judge(header: &jsonwebtoken::Header, claims: &Value, key: &SigningKey) -> Result<Assertion, AssertionError> {
        verify_assertion(&jwt(header, claims, key), ISSUER, &[Key::from_bytes([1; 32]), Key::of(&agent_key())], NOW)
    }

    fn with(name: &str, value: Value) -> Result<Assertion, AssertionError> {
        let mut claims = claims();
        claims[name] = value;
        judge(&eddsa(), &claims, &agent_key())
    }

    fn eddsa() -> jsonwebtoken::Header {
        jsonwebtoken::Header::new(Algorithm::EdDSA)
    }

    #[test]
    fn an_assertion_by_the_agents_key_is_accepted() {
        let good = judge(&eddsa(), &claims(), &agent_key()).expect("accepted");
        assert_eq!(good, Assertion { agent: AGENT.parse().unwrap(), jti: "j-1".into(), exp: NOW.plus(60_000) });
        assert_eq!(claimed_agent(&jwt(&eddsa(), &claims(), &agent_key())), Ok(AGENT.parse().unwrap()));
        let named = jsonwebtoken::Header { kid: Some("another".into()), ..eddsa() };
        assert!(judge(&named, &claims(), &agent_key()).is_ok(), "kid chooses nothing");
    }

    #[test]
    fn the_audience_is_the_issuer_as_one_string() {
        assert!(with("aud", json!(ISSUER)).is_ok());
        for aud in [json!(format!("{ISSUER}/v1/token")), json!([ISSUER, "https://other.example"]), json!([ISSUER]), json!("")] {
            assert_eq!(with("aud", aud), Err(AssertionError::Audience(ISSUER.into())));
        }
    }

    #[test]
    fn it_lives_at_most_five_minutes_and_ends_without_leeway() {
        let now = NOW.secs();
        assert!(with("exp", json!(now + 300)).is_ok());
        for exp in [now + 301, now, now - 1, u64::MAX] {
            assert!(matches!(with("exp", json!(exp)), Err(AssertionError::Time(_))), "{exp}");
        }
        for name in ["iat", "nbf"] {
            assert!(with(name, json!(now + 30)).is_ok());
            assert!(matches!(with(name, json!(now + 31)), Err(AssertionError::Time(_))));
        }
        for odd in [json!(-1), json!(1.5), json!("1900000060"), json!(null)] {
            assert!(matches!(with("exp", odd), Err(AssertionError::Malformed(_))));
        }
    }

    #[test]
    fn another_key_or_a_changed_byte_is_refused() {
        assert_eq!(judge(&eddsa(), &claims(), &SigningKey::from_bytes(&[8; 32])), Err(AssertionError::Signature));
        let good = jwt(&eddsa(), &claims(), &agent_key());
        assert_eq!(verify_assertion(&good, ISSUER, &[], NOW), Err(AssertionError::Signature));
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify_assertion(&changed, ISSUER, &[Key::of(&agent_key())], NOW).is_err(), "byte {at}");
        }
    }

    #[test]
    fn no_algorithm_but_eddsa_is_read() {
        let public = Key::of(&agent_key());
        // The public key as an HMAC secret: what a library that trusts the header would accept.
        let hmac = jsonwebtoken::encode(&jsonwebtoken::Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(public.as_bytes())).unwrap();
        let part = |v: Value| secret::base64url(v.to_string().as_bytes());
        let none = format!("{}.{}.", part(json!({ "alg": "none", "typ": "JWT" })), part(claims()));
        for forged in [hmac, none] {
            assert!(matches!(verify_assertion(&forged, ISSUER, &[public], NOW), Err(AssertionError::Malformed(_))));
        }
        for header in [json!({ "alg": "EdDSA", "typ": "dpop+jwt" }), json!({ "alg": "EdDSA", "typ": "JWT", "crit": ["b64"] }), json!({ "alg": "EdDSA" })] {
            let signed = format!("{}.{}", part(header), part(claims()));
            let forged = format!("{signed}.{}", secret::base64url(&agent_key().sign(signed.as_bytes()).to_bytes()));
            assert!(matches!(verify_assertion(&forged, ISSUER, &[public], NOW), Err(AssertionError::Malformed(_))));
        }
    }

    #[test]
    fn names_must_agree_and_be_there() {
        assert!(matches!(with("iss", json!("agt_ffffffffffffffffffffffffffffffff")), Err(AssertionError::Malformed(_))));
        assert!(with("jti", json!("j".repeat(64))).is_ok());
        for jti in [json!(""), json!("j".repeat(65)), json!("a b"), json!(7), json!(null)] {
            assert!(matches!(with("jti", jti), Err(AssertionError::Malformed(_))));
        }
        let mut human = claims();
        human["iss"] = json!("hid_00112233445566778899aabbccddeeff");
        human["sub"] = human["iss"].clone();
        assert!(matches!(judge(&eddsa(), &human, &agent_key()), Err(AssertionError::Malformed(_))));
        for text in ["", ".", "..", "a.b.c", "....", &"a".repeat(5000)] {
            assert!(matches!(claimed_agent(text), Err(AssertionError::Malformed(_))));
        }
        let twice = format!(r#"{{"iss":"{AGENT}","sub":"{AGENT}","sub":"{AGENT}","aud":"{ISSUER}","exp":{},"jti":"j"}}"#, NOW.secs() + 60);
        let signed = format!("{}.{}", secret::base64url(br#"{"alg":"EdDSA","typ":"JWT"}"#), secret::base64url(twice.as_bytes()));
        let forged = format!("{signed}.{}", secret::base64url(&agent_key().sign(signed.as_bytes()).to_bytes()));
        assert!(matches!(verify_assertion(&forged, ISSUER, &[Key::of(&agent_key())], NOW), Err(AssertionError::Malformed(_))));
    }

    #[test]
    fn a_challenge_is_answered_by_the_key_for_its_owner_and_tenant() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let folder = tempfile::tempdir().unwrap();
        let seals = Seals::new(&crate::seal::SessionSecret::open(folder.path(), &mut rng).unwrap(), &"acme".parse().unwrap());
        let (alice, bob) = (HumanId::from_bytes([1; 16]), HumanId::from_bytes([2; 16]));
        let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let key = Key::of(&agent_key());
        let sign = |tenant: &Tenant, nonce: &[u8; 32]| agent_key().sign(&challenge::message(tenant, nonce, &key)).to_bytes();
        let redeem = |now, owner, nonce: &[u8; 32], key: &Key, signature: &[u8; 64]| redeem_challenge(&seals, now, owner, &acme, nonce, key, signature);

        let nonce = draw_challenge(&seals, NOW, &mut rng, alice);
        assert_ne!(draw_challenge(&seals, NOW, &mut rng, alice), nonce);
        let good = sign(&acme, &nonce);
        let spends = redeem(NOW, alice, &nonce, &key, &good).expect("redeemed");
        assert_eq!(spends, (HashedToken::of(SecretKind::Challenge, &nonce), NOW.plus(300_000)));
        assert_eq!(redeem(NOW, bob, &nonce, &key, &good), Err(PossessionError::Nonce));
        assert_eq!(redeem(NOW, alice, &nonce, &key, &sign(&other, &nonce)), Err(PossessionError::Signature));
        let stranger = Key::of(&SigningKey::from_bytes(&[8; 32]));
        assert_eq!(redeem(NOW, alice, &nonce, &stranger, &good), Err(PossessionError::Signature));
        assert!(redeem(NOW.plus(299_999), alice, &nonce, &key, &good).is_ok());
        assert_eq!(redeem(NOW.plus(300_000), alice, &nonce, &key, &good), Err(PossessionError::Nonce));
        assert_eq!(redeem(UtcMillis(NOW.0 - 30_001), alice, &nonce, &key, &good), Err(PossessionError::Nonce), "from the future");
        for bit in 0..256 {
            let mut changed = nonce;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(redeem(NOW, alice, &changed, &key, &sign(&acme, &changed)), Err(PossessionError::Nonce), "bit {bit}");
        }
    }
}
