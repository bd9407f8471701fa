//! Deterministic CBOR: the one encoding of everything Procura signs outside a Biscuit.
//!
//! A value is read only from the bytes it would be written as (RFC 8949 §4.2.1: shortest heads, definite lengths).
//! So one meaning has one form, and a signature over bytes is a signature over the meaning.

use minicbor::{Decoder, Encoder};

/// Why bytes are not a message of the kind expected. One clear sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) std::borrow::Cow<'static, str>);

impl Malformed {
    /// The sentence.
    pub const fn new(sentence: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(sentence))
    }
}

impl From<minicbor::decode::Error> for Malformed {
    fn from(_: minicbor::decode::Error) -> Self {
        Self::new("expected deterministic CBOR of the documented shape")
    }
}

/// The encoder in use: into memory, which cannot fail.
pub type Enc = Encoder<Vec<u8>>;

/// A value with exactly one encoding.
pub trait Canonical: Sized {
    /// Longest encoding accepted, in bytes.
    const MAX_BYTES: usize;

    /// Appends the encoding.
    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>;

    /// Reads one value; need not check canonicity, [`Canonical::from_bytes`] does.
    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed>;

    /// The encoding.
    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        match self.write(&mut e) {
            Ok(()) => e.into_writer(),
            // `Vec` is an infallible writer and no `write` here makes a message error; empty bytes decode as nothing.
            Err(_) => Vec::new(),
        }
    }

    /// The value of which these bytes are *the* encoding.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(Malformed(format!("{} bytes long, expected at most {}", bytes.len(), Self::MAX_BYTES).into()));
        }
        let mut d = Decoder::new(bytes);
        let value = Self::read(&mut d)?;
        if d.position() != bytes.len() || value.to_bytes() != bytes {
            return Err(Malformed::new("expected deterministic CBOR, got another form of the same message"));
        }
        Ok(value)
    }
}

/// Reads an array head and insists on its length.
pub fn array(d: &mut Decoder<'_>, len: u64) -> Result<(), Malformed> {
    if d.array()? == Some(len) { Ok(()) } else { Err(Malformed(format!("expected an array of {len} fields").into())) }
}

/// Reads an array head of at most `max` elements; the count is bounded before anything is allocated.
pub fn list(d: &mut Decoder<'_>, max: usize) -> Result<usize, Malformed> {
    let n = d.array()?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= max);
    n.ok_or_else(|| Malformed(format!("expected a list of at most {max} elements").into()))
}

/// Reads a byte string of exactly `N` bytes.
pub fn fixed<const N: usize>(d: &mut Decoder<'_>) -> Result<[u8; N], Malformed> {
    d.bytes()?.try_into().map_err(|_| Malformed(format!("expected a byte string of {N} bytes").into()))
}
