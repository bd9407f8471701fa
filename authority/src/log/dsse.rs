//! DSSE v1 envelopes: `{"payload": base64, "payloadType": …, "signatures": [{"keyid": …, "sig": base64}]}`.
//!
//! What is verified is the bytes that came, never a second serialisation of them. One signature, by one key.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use procura_verifier::ids::Key;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::strict_json;

/// Why bytes are not an envelope of that type by a known key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not strict JSON of the shape, or wrong base64.
    #[error("envelope: {0}")]
    Malformed(String),
    /// Signed by a key that the reader does not know.
    #[error("envelope is signed by unknown key `{0}`")]
    UnknownKey(String),
    /// The signature is not by the key it names.
    #[error("envelope carries a wrong signature by key `{0}`")]
    Signature(String),
}

/// The lower-case hex SHA-256 of a public key, by which envelopes name their signer.
pub fn key_id(key: &Key) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// The envelope around a payload.
pub fn seal(payload_type: &str, payload: &[u8], key: &SigningKey) -> Result<Vec<u8>, EnvelopeError> {
    write(payload_type, payload, key_id(&Key::of(key)), &key.sign(&pre_authentication(payload_type, payload)).to_bytes())
}

fn write(payload_type: &str, payload: &[u8], keyid: String, signature: &[u8; 64]) -> Result<Vec<u8>, EnvelopeError> {
    let envelope = Envelope {
        payload: BASE64_STANDARD.encode(payload),
        payload_type: payload_type.to_owned(),
        signatures: vec![OneSignature { keyid, sig: BASE64_STANDARD.encode(signature) }],
    };
    serde_json::to_vec(&envelope).map_err(|e| EnvelopeError::Malformed(e.to_string()))
}

/// The key id in bytes that `seal` wrote, read from its fixed place without reading the rest. None for anything else.
pub fn claimed_key_id(sealed: &[u8]) -> Option<&str> {
    let (rest, _) = sealed.strip_suffix(b"\"}]}")?.split_at_checked(sealed.len().checked_sub(4 + SIG_CHARS)?)?;
    let rest = rest.strip_suffix(b"\",\"sig\":\"")?;
    let (rest, id) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
    rest.ends_with(b"\"signatures\":[{\"keyid\":\"").then_some(())?;
    std::str::from_utf8(id).ok()
}

/// 64 bytes in padded base64.
const SIG_CHARS: usize = 88;

/// An envelope of the right form, by nobody yet.
pub struct UnverifiedEnvelope {
    payload_type: &'static str,
    payload: Vec<u8>,
    keyid: String,
    signature: [u8; 64],
}

impl UnverifiedEnvelope {
    /// The envelope in these bytes, if it is one and of that type.
    pub fn parse(bytes: &[u8], max_bytes: usize, payload_type: &'static str) -> Result<Self, EnvelopeError> {
        let malformed = |e: &dyn std::fmt::Display| EnvelopeError::Malformed(e.to_string());
        let envelope: Envelope = strict_json::from_slice(bytes, max_bytes).map_err(|e| malformed(&e))?;
        if envelope.payload_type != payload_type {
            return Err(malformed(&format_args!("expected payloadType `{payload_type}`")));
        }
        let signatures = envelope.signatures.len();
        let Ok([OneSignature { keyid, sig }]) = <[OneSignature; 1]>::try_from(envelope.signatures) else {
            return Err(malformed(&format_args!("{signatures} signatures, expected one")));
        };
        if keyid.len() != 64 || keyid.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(malformed(&"expected a keyid of 64 lower-case hex digits"));
        }
        // The standard engine refuses missing padding and stray bits: one text per value.
        let signature = BASE64_STANDARD.decode(sig).ok().and_then(|s| s.try_into().ok());
        let signature = signature.ok_or_else(|| malformed(&"expected 64 bytes of base64 as signature"))?;
        let payload = BASE64_STANDARD.decode(&envelope.payload).map_err(|_| malformed(&"expected base64 as payload"))?;
        Ok(Self { payload_type, payload, keyid, signature })
    }

    /// The bytes that [`seal`] would have written: for a reader that accepts no others.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        write(self.payload_type, &self.payload, self.keyid.clone(), &self.signature)
    }

    /// What somebody claims.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if `find` knows the key that signed it, and that key.
    pub fn verify(self, find: impl FnOnce(&str) -> Option<Key>) -> Result<(Vec<u8>, Key), EnvelopeError> {
        let Some(key) = find(&self.keyid).filter(|k| key_id(k) == self.keyid) else {
            return Err(EnvelopeError::UnknownKey(self.keyid));
        };
        if key.verifies(&pre_authentication(self.payload_type, &self.payload), &self.signature) {
            Ok((self.payload, key))
        } else {
            Err(EnvelopeError::Signature(self.keyid))
        }
    }
}

/// The bytes signed: type and payload with their lengths, so that no pair of them reads as another.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<OneSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneSignature {
    keyid: String,
    sig: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8], max_bytes: usize, payload_type: &'static str, find: impl FnOnce(&str) -> Option<Key>) -> Result<(Vec<u8>, Key), EnvelopeError> {
        UnverifiedEnvelope::parse(bytes, max_bytes, payload_type)?.verify(find)
    }

    #[test]
    fn the_signed_bytes_are_those_of_the_dsse_specification() {
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(pre_authentication("http://example.com/HelloWorld", b"hello world"), expected);
    }

    #[test]
    fn an_envelope_opens_for_its_type_and_key_only() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let sealed = seal("a/b", b"hello", &key).unwrap();
        let text = String::from_utf8(sealed.clone()).unwrap();
        let find = |id: &str| (id == key_id(&Key::of(&key))).then(|| Key::of(&key));
        assert_eq!(claimed_key_id(&sealed), Some(key_id(&Key::of(&key)).as_str()));
        assert_eq!(claimed_key_id(&sealed[1..]), claimed_key_id(&sealed));
        assert_eq!((claimed_key_id(&sealed[..sealed.len() - 1]), claimed_key_id(b""), claimed_key_id(&[b'x'; 300])), (None, None, None));
        assert_eq!(open(&sealed, 1000, "a/b", find), Ok((b"hello".to_vec(), Key::of(&key))));
        assert!(open(&sealed, 1000, "a/c", find).is_err());
        assert!(open(&sealed, sealed.len() - 1, "a/b", find).is_err());
        assert!(matches!(open(&sealed, 1000, "a/b", |_| None), Err(EnvelopeError::UnknownKey(_))));
        // A lookup that answers with another key than was asked for.
        let other = Key::of(&SigningKey::from_bytes(&[2; 32]));
        assert!(matches!(open(&sealed, 1000, "a/b", |_| Some(other)), Err(EnvelopeError::UnknownKey(_))));
        let signature = &text[text.find("\"sig\":\"").unwrap() + 7..text.len() - 4];
        for (bad, why) in [
            (text.replace("aGVsbG8=", "aGVsbG8"), "no padding"),
            (text.replace("aGVsbG8=", "aGVsbG9="), "stray bits"),
            (text.replace("aGVsbG8=", "aGVsbG4="), "another payload"),
            (text.replace(signature, &BASE64_STANDARD.encode([0; 64])), "another signature"),
            (text.replace(signature, &BASE64_STANDARD.encode([0; 63])), "a short signature"),
            (text.replacen('{', "{\"more\":1,", 1), "an unknown field"),
            (text.replacen('{', "{\"payload\":\"aGVsbG8=\",", 1), "a duplicate key"),
            (text.replace("[{", "[{\"keyid\":\"x\",\"sig\":\"y\"},{"), "two signatures"),
            (format!("{text} x"), "trailing bytes"),
        ] {
            assert!(open(bad.as_bytes(), 1000, "a/b", find).is_err(), "{why}");
        }
    }
}
