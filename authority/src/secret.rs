//! Opaque secrets that the authority hands out: 32 random bytes, text outside, SHA-256 inside.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

/// Randomness that outlives one call. Tests give a seeded one.
pub type Rng = Box<dyn RngCore + Send>;

/// 32 random bytes.
pub fn draw_bytes(rng: &mut dyn RngCore) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// 32 random bytes as 43 characters of base64url.
pub fn draw(rng: &mut dyn RngCore) -> SecretString {
    base64url(&draw_bytes(rng)).into()
}

/// Base64url without padding.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a base64url text without padding; one text per value, other forms are `None`.
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// What is kept of a secret, and the key it is found under: a memory dump or the time of a lookup says nothing about it.
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// True if the digests are equal, in constant time.
pub fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}
