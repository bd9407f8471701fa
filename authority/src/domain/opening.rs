//! Personal text behind a hash in the log: the log keeps the hash, an erasable table keeps what opens it.

use sha2::{Digest as _, Sha256};

/// A text and the salt of its hash. Erased, the hash says nothing any more.
#[derive(Clone, PartialEq, Eq)]
pub struct Opening {
    /// 16 random bytes: without them nobody can guess their way from the hash to the text.
    pub salt: [u8; 16],
    /// The text.
    pub text: String,
}

impl Opening {
    /// What the log says.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::new_with_prefix(b"procura-salted/1\0").chain_update(self.salt).chain_update(&self.text).finalize().into()
    }
}

// Personal data: logs and error chains must not carry it.
impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opening")
    }
}
