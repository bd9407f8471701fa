//! The trust file: what a verifier or an auditor starts from. Whoever can change it can change whom is believed.
//!
//! ```json
//! { "version": 1, "tenant": "acme", "authority": "https://procura.example", "anchors": ["<hex>"], "threshold": 1, "key_list": "<base64url>" }
//! ```

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

use crate::ids::{Key, Tenant};
use crate::key_list::{Anchors, KeyList, KeyListError, UnverifiedKeyList};
use crate::wire::{Canonical as _, Malformed};

/// Anchors, the authority's address, the tenant, and the last key list accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustFile {
    /// Who signs key lists.
    pub anchors: Anchors,
    /// Where the authority answers: `http` or `https`, without a trailing slash.
    pub authority: String,
    /// Whose authority.
    pub tenant: Tenant,
    /// The last key list accepted.
    pub key_list: UnverifiedKeyList,
}

/// Why a trust file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not the documented JSON.
    #[error("trust file: {0}")]
    Malformed(String),
    /// Its anchors or its key list.
    #[error("trust file: {0}")]
    KeyList(#[from] KeyListError),
}

impl From<Malformed> for TrustError {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e.to_string())
    }
}

impl TrustFile {
    /// Longest file accepted, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// The file, if every field is there, none is unknown, and the anchors signed the key list it holds.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TrustError> {
        let malformed = |text: String| TrustError::Malformed(text);
        if bytes.len() > Self::MAX_BYTES {
            return Err(malformed(format!("{} bytes long, expected at most {}", bytes.len(), Self::MAX_BYTES)));
        }
        let text: Text = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if text.version != 1 {
            return Err(malformed(format!("expected version 1, got {}", text.version)));
        }
        let is_url = text.authority.starts_with("https://") || text.authority.starts_with("http://");
        if !is_url || text.authority.ends_with('/') || text.authority.len() > 256 || text.authority.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(malformed("expected the authority as an http or https URL of at most 256 bytes without a trailing slash".to_owned()));
        }
        let list = BASE64.decode(&text.key_list).map_err(|_| malformed("expected the key list in base64url without padding".to_owned()))?;
        let file = Self {
            anchors: Anchors::new(text.anchors, text.threshold)?,
            authority: text.authority,
            tenant: text.tenant,
            key_list: UnverifiedKeyList::from_bytes(&list)?,
        };
        file.keys()?;
        Ok(file)
    }

    /// The file as [`TrustFile::from_json`] reads it.
    pub fn to_json(&self) -> String {
        let text = Text {
            version: 1,
            tenant: self.tenant.clone(),
            authority: self.authority.clone(),
            anchors: self.anchors.keys().to_vec(),
            threshold: self.anchors.threshold(),
            key_list: BASE64.encode(self.key_list.to_bytes()),
        };
        // Strings, numbers and lists of strings only: this cannot fail, and an empty file is refused.
        serde_json::to_string_pretty(&text).map(|t| t + "\n").unwrap_or_default()
    }

    /// The keys that the anchors signed.
    pub fn keys(&self) -> Result<KeyList, KeyListError> {
        self.anchors.accept(&self.key_list, &self.tenant)
    }
}

/// Why a key list was not kept.
#[cfg(feature = "sse")]
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file cannot be read, written or replaced.
    #[error("trust file: {0}")]
    Io(#[from] std::io::Error),
    /// What lies there is no trust file, or its anchors did not sign the list.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Writes a key list into the trust file at `path`, if it is a later one than the file holds and the file's own anchors signed
/// it: true if it was. Durable on return; whoever reads sees the old file or the new one, whole.
///
/// Blocks. Several processes may keep one file: they take turns by a lock on `path` with `.lock` appended, and versions only rise.
#[cfg(feature = "sse")]
pub fn keep(path: &std::path::Path, list: &UnverifiedKeyList) -> Result<bool, KeepError> {
    use std::io::{Read as _, Write as _};
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::path::PathBuf::from(name)
    };
    let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(beside(".lock"))?;
    lock.lock()?;
    let mut bytes = Vec::new();
    let held = std::fs::File::open(path)?;
    // One byte more than a file may have: refused as too long, and not as cut off.
    (&held).take(TrustFile::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let mut file = TrustFile::from_json(&bytes)?;
    let version = |list| Ok::<_, TrustError>(file.anchors.accept(list, &file.tenant)?.payload().version);
    if version(list)? <= version(&file.key_list)? {
        return Ok(false);
    }
    file.key_list = list.clone();
    let new = beside(".new");
    let mut written = std::fs::File::create(&new)?;
    written.set_permissions(held.metadata()?.permissions())?;
    written.write_all(file.to_json().as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&new, path)?;
    // The rename is durable with its folder.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    std::fs::File::open(folder)?.sync_all()?;
    Ok(true)
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    tenant: Tenant,
    authority: String,
    anchors: Vec<Key>,
    threshold: usize,
    key_list: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UtcMillis;
    use crate::key_list::KeyListPayload;

    #[test]
    fn a_trust_file_reads_what_it_writes_and_refuses_what_its_anchors_did_not_sign() {
        let (anchor, other) = (ed25519_dalek::SigningKey::from_bytes(&[1; 32]), ed25519_dalek::SigningKey::from_bytes(&[2; 32]));
        let tenant: Tenant = "acme".parse().unwrap();
        let payload = KeyListPayload { tenant: tenant.clone(), version: 1, issued: UtcMillis(1), max_ttl_secs: 60, keys: vec![], dead: vec![] };
        let file = |signer| TrustFile {
            anchors: Anchors::new(vec![Key::of(&anchor)], 1).unwrap(),
            authority: "http://127.0.0.1:7777".into(),
            tenant: tenant.clone(),
            key_list: UnverifiedKeyList::sign(&payload, &[signer]),
        };
        let json = file(&anchor).to_json();
        assert_eq!(TrustFile::from_json(json.as_bytes()), Ok(file(&anchor)));
        assert!(matches!(TrustFile::from_json(file(&other).to_json().as_bytes()), Err(TrustError::KeyList(KeyListError::Signatures { .. }))));
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"tenant\"", "\"tenants\""),
            ("http://", "ftp://"),
            ("7777", "7777/"),
            ("\"threshold\": 1", "\"threshold\": 2"),
        ] {
            let bad = json.replacen(from, to, 1);
            assert_ne!(bad, json, "{from}");
            assert!(TrustFile::from_json(bad.as_bytes()).is_err(), "{from}");
        }
        assert!(TrustFile::from_json(&[b' '; TrustFile::MAX_BYTES + 1]).is_err());
    }

    #[cfg(feature = "sse")]
    #[test]
    fn a_trust_file_keeps_only_later_lists_of_its_own_anchors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust.json");
        let (anchor, other) = (ed25519_dalek::SigningKey::from_bytes(&[1; 32]), ed25519_dalek::SigningKey::from_bytes(&[2; 32]));
        let tenant: Tenant = "acme".parse().unwrap();
        let list = |version, signer| {
            let payload = KeyListPayload { tenant: tenant.clone(), version, issued: UtcMillis(1), max_ttl_secs: 60, keys: vec![], dead: vec![] };
            UnverifiedKeyList::sign(&payload, &[signer])
        };
        let anchors = Anchors::new(vec![Key::of(&anchor)], 1).unwrap();
        let file = TrustFile { anchors, authority: "http://127.0.0.1:7777".into(), tenant: tenant.clone(), key_list: list(3, &anchor) };
        std::fs::write(&path, file.to_json()).unwrap();
        let version = || TrustFile::from_json(&std::fs::read(&path).unwrap()).unwrap().keys().unwrap().payload().version;

        assert!(!keep(&path, &list(2, &anchor)).unwrap() && !keep(&path, &list(3, &anchor)).unwrap());
        assert!(matches!(keep(&path, &list(9, &other)), Err(KeepError::Trust(TrustError::KeyList(KeyListError::Signatures { .. })))));
        assert_eq!(version(), 3);
        assert!(keep(&path, &list(5, &anchor)).unwrap());
        assert!(!keep(&path, &list(4, &anchor)).unwrap());
        assert_eq!(version(), 5);

        // Many at once: the highest is left, and the file is whole whenever it is read.
        std::thread::scope(|s| {
            for n in 6..30 {
                let (list, path) = (list(n, &anchor), &path);
                s.spawn(move || keep(path, &list).unwrap());
            }
            for _ in 0..50 {
                assert!(version() >= 5);
            }
        });
        assert_eq!(version(), 29);
        // What is there must be a trust file: nothing is made up.
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(keep(&path, &list(40, &anchor)), Err(KeepError::Trust(TrustError::Malformed(_)))));
        assert!(matches!(keep(&folder.path().join("none.json"), &list(40, &anchor)), Err(KeepError::Io(_))));
    }
}
