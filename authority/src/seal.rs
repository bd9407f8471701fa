//! What is handed to a browser, a command line or an agent and must come back unchanged: sealed under a key that all
//! replicas share, so that any of them takes it back and a flood of strangers fills no memory of ours.
//!
//! The key lives in the file `session-secret` of the key folder, mode 0600, made at the first start; replicas mount the
//! same file. Losing it costs the sign-ins of the last minutes, nothing else: sessions are in the store.

use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use procura_verifier::ids::Tenant;
use rand::RngCore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::secret;
use crate::signer::file::{KeyFileError, load_or_make_secret};

/// 32 random bytes that every replica of an authority has.
pub struct SessionSecret(Zeroizing<[u8; 32]>);

impl SessionSecret {
    /// Reads `<folder>/session-secret`, making it if missing.
    pub fn open(folder: &Path, rng: &mut impl rand::CryptoRng) -> Result<Self, KeyFileError> {
        load_or_make_secret(folder, "session-secret", rng).map(Self)
    }
}

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecret")
    }
}

/// What is sealed: each under a key of its own, so that one never opens as another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// A sign-in under way, in the cookie of the browser that began it.
    Login,
    /// A sign-in done, in the code on its way to a command line.
    CliCode,
}

/// Seals and opens for one tenant.
pub struct Seals {
    login: XChaCha20Poly1305,
    cli_code: XChaCha20Poly1305,
    challenge: Zeroizing<[u8; 32]>,
    forms: Zeroizing<[u8; 32]>,
}

impl Seals {
    /// Keys by HKDF-SHA256 (RFC 5869) from the secret, one for each use and tenant.
    pub fn new(secret: &SessionSecret, tenant: &Tenant) -> Self {
        let from = Hkdf::<Sha256>::new(None, secret.0.as_slice());
        let derive = |usage: &str| {
            let mut key = Zeroizing::new([0; 32]);
            // Only an output beyond 255 hashes is refused.
            let _ = from.expand_multi_info(&[b"procura/seal/1\0", usage.as_bytes(), b"\0", tenant.as_str().as_bytes()], key.as_mut_slice());
            key
        };
        let cipher = |usage| XChaCha20Poly1305::new(&Key::from(*derive(usage)));
        Self { login: cipher("login"), cli_code: cipher("cli-code"), challenge: derive("challenge"), forms: derive("forms") }
    }

    /// The value as one word of base64url that says nothing to whoever carries it. Nonces are 24 random bytes: drawn
    /// by any number of replicas for ever, none comes twice.
    pub fn seal(&self, usage: Sealed, rng: &mut dyn RngCore, value: &impl Serialize) -> Option<String> {
        let plain = Zeroizing::new(serde_json::to_vec(value).ok()?);
        let mut sealed = vec![0; NONCE_BYTES];
        rng.fill_bytes(&mut sealed);
        let nonce = XNonce::try_from(sealed.as_slice()).ok()?;
        sealed.extend(self.cipher(usage).encrypt(&nonce, Payload { msg: &plain, aad: &[] }).ok()?);
        let text = secret::base64url(&sealed);
        (text.len() <= MAX_SEALED).then_some(text)
    }

    /// The value, if we sealed it for this use. Its age is for the caller to judge.
    pub fn open<T: DeserializeOwned>(&self, usage: Sealed, unverified: &str) -> Option<T> {
        if unverified.len() > MAX_SEALED {
            return None;
        }
        let sealed = secret::from_base64url(unverified)?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let plain = self.cipher(usage).decrypt(&XNonce::try_from(nonce).ok()?, Payload { msg: sealed, aad: &[] }).ok()?;
        serde_json::from_slice(&Zeroizing::new(plain)).ok()
    }

    /// The tag of a possession challenge over its parts, each of fixed length.
    pub fn challenge_tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        tag(&self.challenge, parts)
    }

    /// The tag of a form over its parts, each of fixed length: what comes back with it came from us.
    pub fn form_tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        tag(&self.forms, parts)
    }

    const fn cipher(&self, usage: Sealed) -> &XChaCha20Poly1305 {
        match usage {
            Sealed::Login => &self.login,
            Sealed::CliCode => &self.cli_code,
        }
    }
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seals")
    }
}

fn tag(key: &Zeroizing<[u8; 32]>, parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length.
    let Ok(mut mac) = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key.as_slice()) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

const NONCE_BYTES: usize = 24;
/// A cookie of a browser holds 4096 bytes with name and attributes.
const MAX_SEALED: usize = 3584;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rand::SeedableRng as _;

    use super::*;

    fn seals(tenant: &str, n: u8) -> Seals {
        Seals::new(&SessionSecret(Zeroizing::new([n; 32])), &tenant.parse().unwrap())
    }

    #[test]
    fn what_is_sealed_opens_for_its_use_tenant_and_secret_only() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let acme = seals("acme", 1);
        let text = acme.seal(Sealed::Login, &mut rng, &"journey").unwrap();
        assert!(!text.contains("journey") && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let open = |seals: &Seals, usage, text: &str| seals.open::<String>(usage, text);
        assert_eq!(open(&acme, Sealed::Login, &text).as_deref(), Some("journey"));
        assert_eq!(open(&seals("acme", 1), Sealed::Login, &text).as_deref(), Some("journey"), "another replica");
        assert_eq!(open(&acme, Sealed::CliCode, &text), None, "another use");
        assert_eq!(open(&seals("other", 1), Sealed::Login, &text), None, "another tenant");
        assert_eq!(open(&seals("acme", 2), Sealed::Login, &text), None, "another secret");
        assert_ne!(acme.seal(Sealed::Login, &mut rng, &"journey").unwrap(), text);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(open(&acme, Sealed::Login, std::str::from_utf8(&bytes).unwrap()), None, "character {at}");
        }
        for bad in ["", "AAAA", &text[..text.len() - 4], &format!("{text}AAAA"), &"A".repeat(5000)] {
            assert_eq!(open(&acme, Sealed::Login, bad), None);
        }
        assert_eq!(acme.seal(Sealed::Login, &mut rng, &"x".repeat(4000)), None, "no browser would keep it");
    }

    #[test]
    fn the_secret_is_made_once_with_mode_0600_and_refused_when_others_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let first = SessionSecret::open(&keys, &mut rng).unwrap();
        assert_eq!(SessionSecret::open(&keys, &mut rng).unwrap().0, first.0);
        assert_eq!(format!("{first:?}"), "SessionSecret");
        let path = keys.join("session-secret");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        mode(0o644);
        assert!(matches!(SessionSecret::open(&keys, &mut rng), Err(KeyFileError::Open { mode: 0o644, .. })));
        mode(0o600);
        for bad in ["", "00", &"g".repeat(64)] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(SessionSecret::open(&keys, &mut rng), Err(KeyFileError::NotASecret(_))), "`{bad}`");
        }
    }
}
