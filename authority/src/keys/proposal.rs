//! The file that a key list travels in between whoever prepares it, the anchors and the authority.
//!
//! ```json
//! { "format": "procura-key-list/1", "before": "<base64url>" or null, "key_list": "<base64url, signed or not yet>", "reason": "…" or null }
//! ```
//! `before` is the list that it follows, so that an anchor sees offline what changes. Nothing in the file is secret.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::key_list::{KeyListPayload, UnverifiedKeyList};
use procura_verifier::wire::{Canonical as _, Malformed};

use super::change;

/// A key list on its way, with the one it follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The list in force when this one was prepared.
    pub before: Option<UnverifiedKeyList>,
    /// The next one, with the signatures so far.
    pub list: UnverifiedKeyList,
    /// Why, in somebody's words.
    pub reason: Option<String>,
}

/// Why a file holds no key list.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    /// It could not be read.
    #[error("key list file: {0}")]
    Io(#[from] std::io::Error),
    /// It is not one.
    #[error("key list file: {0}")]
    Malformed(String),
}

impl From<Malformed> for ProposalError {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e.to_string())
    }
}

impl Proposal {
    /// Longest file read, in bytes.
    pub const MAX_BYTES: usize = 128 * 1024;

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ProposalError> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(Self::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Self::from_json(&bytes)
    }

    /// The file in these bytes, if every field is there and none is unknown.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ProposalError> {
        let text: Text = crate::strict_json::from_slice(bytes, Self::MAX_BYTES).map_err(|e| ProposalError::Malformed(e.to_string()))?;
        if text.format != FORMAT {
            return Err(ProposalError::Malformed(format!("expected format `{FORMAT}`")));
        }
        let list = |text: &str| {
            let bytes = BASE64.decode(text).map_err(|_| ProposalError::Malformed("expected base64url without padding".to_owned()))?;
            let list = UnverifiedKeyList::from_bytes(&bytes)?;
            // Read whole here, so that nobody signs what nobody can read.
            list.unverified_payload()?;
            Ok::<_, ProposalError>(list)
        };
        Ok(Self { before: text.before.as_deref().map(list).transpose()?, list: list(&text.key_list)?, reason: text.reason })
    }

    /// The file as [`Proposal::from_json`] reads it.
    pub fn to_json(&self) -> Result<String, ProposalError> {
        let text = Text {
            format: FORMAT.to_owned(),
            before: self.before.as_ref().map(|l| BASE64.encode(l.to_bytes())),
            key_list: BASE64.encode(self.list.to_bytes()),
            reason: self.reason.clone(),
        };
        serde_json::to_string_pretty(&text).map(|t| t + "\n").map_err(|e| ProposalError::Malformed(e.to_string()))
    }

    /// Takes over the signatures of another copy of the same list.
    pub fn merge(&mut self, other: &Self) -> Result<(), ProposalError> {
        Ok(self.list.merge(&other.list)?)
    }

    /// What the list says.
    pub fn payload(&self) -> Result<KeyListPayload, ProposalError> {
        Ok(self.list.unverified_payload()?)
    }

    /// What the list does, one sentence a line, and its fingerprint.
    pub fn summary(&self) -> Result<Vec<String>, ProposalError> {
        let before = self.before.as_ref().map(UnverifiedKeyList::unverified_payload).transpose()?;
        let mut said = change::summary(before.as_ref(), &self.payload()?);
        // What somebody else wrote goes to a terminal: no control characters.
        said.extend(self.reason.as_ref().map(|r| format!("Reason given: {}", r.escape_debug())));
        said.push(format!("Fingerprint: {}", hex::encode(self.list.fingerprint())));
        Ok(said)
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: String,
    before: Option<String>,
    key_list: String,
    reason: Option<String>,
}

const FORMAT: &str = "procura-key-list/1";

#[cfg(test)]
mod tests {
    use super::*;
    use procura_verifier::ids::{Key, UtcMillis};
    use procura_verifier::key_list::KeyUse;

    fn proposal() -> Proposal {
        let payload = change::first("acme".parse().unwrap(), &[(KeyUse::Root, Key::from_bytes([1; 32]))], 60, 1000, UtcMillis(1_900_000_000_000));
        let next = KeyListPayload { version: 2, ..payload.clone() };
        let reason = Some("stolen\u{1b}[2J".to_owned());
        Proposal { before: Some(UnverifiedKeyList::sign(&payload, &[])), list: UnverifiedKeyList::sign(&next, &[]), reason }
    }

    #[test]
    fn a_file_reads_what_it_writes_and_nothing_else() {
        let json = proposal().to_json().unwrap();
        assert_eq!(Proposal::from_json(json.as_bytes()).unwrap(), proposal());
        for (from, to) in [("list/1", "list/2"), ("\"before\"", "\"after\""), ("\"key_list\": \"", "\"key_list\": \"!"), ("{", "{\"more\":1,")] {
            let bad = json.replacen(from, to, 1);
            assert_ne!(bad, json, "{from}");
            assert!(Proposal::from_json(bad.as_bytes()).is_err(), "{from}");
        }
        assert!(Proposal::from_json(&vec![b' '; Proposal::MAX_BYTES + 1]).is_err());
        let said = proposal().summary().unwrap().join("\n");
        assert!(said.contains("version 2") && said.contains(&hex::encode(proposal().list.fingerprint())) && !said.contains('\u{1b}'), "{said}");
    }
}
