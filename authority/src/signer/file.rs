//! Private keys in files of mode 0600, PKCS#8 PEM.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::claims::Block0;
use procura_verifier::feed::message::{Message, SignedMessage};
use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{KeyListPayload, KeyUse, ListedKey, UnverifiedKeyList};
use procura_verifier::wire::Malformed;
use zeroize::Zeroizing;

use super::Signer;
use crate::log::bundle::{BundleWriter, ExportError};
use crate::log::checkpoint::{Checkpoint, CheckpointError};
use crate::log::event::Event;
use crate::log::leaf::{LeafError, SignedLeaf};

/// Why keys could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system says no.
    #[error("key file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("key file {path} has mode {mode:o}, expected 600: others may have read it")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// One use has no key.
    #[error("key folder {folder} has no {name}.key, expected one of each use")]
    Missing {
        /// Which folder.
        folder: PathBuf,
        /// Which use.
        name: &'static str,
    },
    /// Not a key.
    #[error("key file {0} is not an Ed25519 key in PKCS#8 PEM")]
    NotAKey(PathBuf),
}

/// The authority's keys from `<data>/keys`.
pub struct FileSigner {
    root: SigningKey,
    feed: SigningKey,
    event: SigningKey,
    log: SigningKey,
    card: SigningKey,
    approval: SigningKey,
}

impl FileSigner {
    /// Reads the keys in `folder`, making those that are missing.
    pub fn open(folder: &Path, rng: &mut impl rand::CryptoRng) -> Result<Self, KeyFileError> {
        let mut key = |name| load_or_make(folder, name, rng);
        Ok(Self { root: key("root")?, feed: key("feed")?, event: key("event")?, log: key("log")?, card: key("card")?, approval: key("approval")? })
    }

    /// Reads the keys in `folder`, where there has to be one of each use: nothing is made.
    pub fn load(folder: &Path) -> Result<Self, KeyFileError> {
        let key = |name| load(&folder.join(format!("{name}.key")))?.ok_or_else(|| KeyFileError::Missing { folder: folder.to_owned(), name });
        Ok(Self { root: key("root")?, feed: key("feed")?, event: key("event")?, log: key("log")?, card: key("card")?, approval: key("approval")? })
    }

    /// All public keys as a key list holds them, each with the same window.
    pub fn listed(&self, from: UtcMillis, until: UtcMillis) -> Vec<ListedKey> {
        let uses = [KeyUse::Root, KeyUse::Feed, KeyUse::Event, KeyUse::Log, KeyUse::Card, KeyUse::Approval];
        uses.into_iter().map(|usage| ListedKey { usage, key: self.public(usage), from, until }).collect()
    }

    const fn of(&self, usage: KeyUse) -> &SigningKey {
        match usage {
            KeyUse::Root => &self.root,
            KeyUse::Feed => &self.feed,
            KeyUse::Event => &self.event,
            KeyUse::Log => &self.log,
            KeyUse::Card => &self.card,
            KeyUse::Approval => &self.approval,
        }
    }
}

// Keys print as nothing but their holder's name.
impl std::fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileSigner")
    }
}

impl Signer for FileSigner {
    fn public(&self, usage: KeyUse) -> Key {
        Key::of(self.of(usage))
    }
    fn mint(&self, block: &Block0, next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed> {
        procura_verifier::token::mint(block, &self.root, next_seed)
    }
    fn card(&self, card: &AgentCard) -> SignedCard {
        card.sign(&self.card)
    }
    fn leaf(&self, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError> {
        SignedLeaf::sign(event, tenant, at, &self.event)
    }
    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        checkpoint.sign(&self.log)
    }
    fn bundle(&self, bundle: BundleWriter<'_>, checkpoint: &[u8], exported: UtcMillis) -> Result<Vec<u8>, ExportError> {
        bundle.finish(checkpoint, exported, &self.log)
    }
    fn feed(&self, message: &Message) -> SignedMessage {
        SignedMessage::sign(message, &self.feed)
    }
}

/// The key that signs key lists. In `dev` it lies beside the others; in production it is offline and this file does not exist.
pub struct AnchorFile(SigningKey);

impl AnchorFile {
    /// Reads `<folder>/anchor.key`, making it if missing.
    pub fn open(folder: &Path, rng: &mut impl rand::CryptoRng) -> Result<Self, KeyFileError> {
        Ok(Self(load_or_make(folder, "anchor", rng)?))
    }
    /// Reads `<folder>/anchor.key` if it is there: nothing is made.
    pub fn find(folder: &Path) -> Result<Option<Self>, KeyFileError> {
        Ok(load(&folder.join("anchor.key"))?.map(Self))
    }
    /// Its public key.
    pub fn public(&self) -> Key {
        Key::of(&self.0)
    }
    /// The first list: the signer's keys from a minute ago, so that a verifier whose clock lags starts too, for a year.
    pub fn first_list(&self, signer: &FileSigner, tenant: &Tenant, now: UtcMillis, max_ttl_secs: u64) -> UnverifiedKeyList {
        let mut keys = signer.listed(UtcMillis(now.0.saturating_sub(60_000)), now.plus(365 * 24 * 3_600_000));
        keys.sort_unstable_by_key(|k| (k.usage, k.key));
        let payload = KeyListPayload { tenant: tenant.clone(), version: 1, issued: now, max_ttl_secs, keys, dead: Vec::new() };
        UnverifiedKeyList::sign(&payload, &[&self.0])
    }
}

impl std::fmt::Debug for AnchorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnchorFile")
    }
}

/// Reads the key `<folder>/<name>.key`; makes it where there is none. The folder is of mode 0700.
pub fn load_or_make(folder: &Path, name: &str, rng: &mut impl rand::CryptoRng) -> Result<SigningKey, KeyFileError> {
    let path = folder.join(format!("{name}.key"));
    let io = |source| KeyFileError::Io { path: path.clone(), source };
    match load(&path)? {
        Some(key) => Ok(key),
        None => {
            let mut seed = Zeroizing::new([0_u8; 32]);
            rng.fill_bytes(seed.as_mut());
            let key = SigningKey::from_bytes(&seed);
            let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyFileError::NotAKey(path.clone()))?;
            make_folder(folder).map_err(io)?;
            write_new(folder, &path, pem.as_bytes()).map_err(io)?;
            Ok(key)
        }
    }
}

/// Writes a key to a file that is not there yet, mode 0600.
pub fn write_key(path: &Path, key: &SigningKey) -> Result<(), KeyFileError> {
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyFileError::NotAKey(path.to_owned()))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    write_new(folder, path, pem.as_bytes()).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
}

/// Reads a key file, which nobody else may be able to read.
pub fn read_key(path: &Path) -> Result<SigningKey, KeyFileError> {
    load(path)?.ok_or_else(|| KeyFileError::Io { path: path.to_owned(), source: io::ErrorKind::NotFound.into() })
}

fn load(path: &Path) -> Result<Option<SigningKey>, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    // O_NOFOLLOW: a link could point at a file whose mode somebody else rules.
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut file = match OpenOptions::new().read(true).custom_flags(no_follow).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    // Asked of the open file, so that it cannot be exchanged between question and reading.
    let mode = file.metadata().map_err(io)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode });
    }
    let mut pem = Zeroizing::new(String::with_capacity(1024));
    (&mut file).take(1024).read_to_string(&mut pem).map_err(io)?;
    SigningKey::from_pkcs8_pem(&pem).map(Some).map_err(|_| KeyFileError::NotAKey(path.to_owned()))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Whole and durable, or not there: a crash in the middle leaves a temporary file, which the next start replaces.
fn write_new(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("key.new");
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    // A link, not a rename: it fails where a key stands already.
    fs::hard_link(&temporary, path)?;
    fs::remove_file(&temporary)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_with_mode_0600_and_refused_when_others_may_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let first = FileSigner::open(&keys, &mut rng).unwrap();
        let again = FileSigner::open(&keys, &mut rng).unwrap();
        for listed in first.listed(UtcMillis(0), UtcMillis(1)) {
            assert_eq!(listed.key, again.public(listed.usage));
        }
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 6);
        for file in fs::read_dir(&keys).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(format!("{first:?}"), "FileSigner");

        let root = keys.join("root.key");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(FileSigner::open(&keys, &mut rng), Err(KeyFileError::Open { mode: 0o640, .. })));
        fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&root, "x").unwrap();
        assert!(matches!(FileSigner::open(&keys, &mut rng), Err(KeyFileError::NotAKey(_))));
    }

    #[test]
    fn the_first_list_is_accepted_under_its_anchor_and_names_every_use() {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let (signer, anchor) = (FileSigner::open(folder.path(), &mut rng).unwrap(), AnchorFile::open(folder.path(), &mut rng).unwrap());
        let tenant: Tenant = "acme".parse().unwrap();
        let now = UtcMillis(1_000_000_000_000);
        let anchors = procura_verifier::key_list::Anchors::new(vec![anchor.public()], 1).unwrap();
        let list = anchors.accept(&anchor.first_list(&signer, &tenant, now, 86_400), &tenant).unwrap();
        for k in signer.listed(now, now) {
            assert!(list.is_live(k.usage, &k.key, now));
        }
    }
}
