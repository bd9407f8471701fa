//! Private keys in files of mode 0600, PKCS#8 PEM.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::claims::Block0;
use procura_verifier::feed::message::{Message, SignedMessage};
use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{KeyList, KeyListPayload, KeyUse, ListedKey, UnverifiedKeyList};
use zeroize::Zeroizing;

use super::{SignError, Signer};
use crate::keys::Keys;
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
    #[error("key folder {folder} has no {} key, expected one of each use", usage.name())]
    Missing {
        /// Which folder.
        folder: PathBuf,
        /// Which use.
        usage: KeyUse,
    },
    /// Named after another key than it holds.
    #[error("key file {0} holds another key than its name says")]
    OtherName(PathBuf),
    /// More than a key list could name.
    #[error("key folder {0} holds more than {MAX_KEYS} keys")]
    TooMany(PathBuf),
    /// Not a key.
    #[error("key file {0} is not an Ed25519 key in PKCS#8 PEM")]
    NotAKey(PathBuf),
    /// Not a secret.
    #[error("secret file {0} does not hold 32 bytes in hex")]
    NotASecret(PathBuf),
}

/// The authority's keys from its key folder: files `<use>-<public key>.key`, or `<use>.key`, as many of a use as there are.
pub struct FileSigner {
    folder: PathBuf,
    at_hand: RwLock<Arc<AtHand>>,
    keys: OnceLock<Arc<Keys>>,
}

/// What lay in the folder. At least one key of each use.
struct AtHand {
    keys: BTreeMap<(KeyUse, Key), SigningKey>,
    /// Signs feed messages where no window holds them: they are refused, as they must be.
    last_feed: SigningKey,
}

impl FileSigner {
    /// Reads the keys in `folder`, making one of each use of which there is none.
    pub fn open(folder: &Path, rng: &mut impl rand::CryptoRng) -> Result<Self, KeyFileError> {
        let there = scan(folder)?;
        for usage in KeyUse::ALL {
            if !there.keys().any(|(u, _)| *u == usage) {
                make_key(folder, usage, rng)?;
            }
        }
        Self::load(folder)
    }

    /// Reads the keys in `folder`, where there has to be one of each use: nothing is made.
    pub fn load(folder: &Path) -> Result<Self, KeyFileError> {
        let at_hand = RwLock::new(Arc::new(AtHand::of(folder)?));
        Ok(Self { folder: folder.to_owned(), at_hand, keys: OnceLock::new() })
    }

    /// All public keys at hand as a key list holds them, each with the same window, in a list's order.
    pub fn listed(&self, from: UtcMillis, until: UtcMillis) -> Vec<ListedKey> {
        self.at_hand().keys.keys().map(|(usage, key)| ListedKey { usage: *usage, key: *key, from, until }).collect()
    }

    fn at_hand(&self) -> Arc<AtHand> {
        Arc::clone(&self.at_hand.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What `f` makes with the key for that time.
    fn with<T>(&self, usage: KeyUse, from: UtcMillis, until: UtcMillis, f: impl FnOnce(&SigningKey) -> T) -> Option<T> {
        let at_hand = self.at_hand();
        let key = self.keys.get()?.choose(usage, from, until, |k| at_hand.keys.contains_key(&(usage, *k)))?;
        at_hand.keys.get(&(usage, key)).map(f)
    }
}

impl AtHand {
    fn of(folder: &Path) -> Result<Self, KeyFileError> {
        let keys = scan(folder)?;
        let missing = |usage: KeyUse| KeyFileError::Missing { folder: folder.to_owned(), usage };
        if let Some(usage) = KeyUse::ALL.into_iter().find(|usage| !keys.keys().any(|(u, _)| u == usage)) {
            return Err(missing(usage));
        }
        let last_feed = keys.iter().rev().find(|((usage, _), _)| *usage == KeyUse::Feed).map(|(_, key)| key.clone());
        Ok(Self { keys, last_feed: last_feed.ok_or_else(|| missing(KeyUse::Feed))? })
    }
}

/// Every authority key in a folder. A folder that is not there holds none.
pub fn scan(folder: &Path) -> Result<BTreeMap<(KeyUse, Key), SigningKey>, KeyFileError> {
    let io = |source| KeyFileError::Io { path: folder.to_owned(), source };
    let mut keys = BTreeMap::new();
    let files = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(keys),
        other => other.map_err(io)?,
    };
    for file in files {
        let path = file.map_err(io)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".key")).unwrap_or_default();
        let (usage, named) = name.split_once('-').map_or((name, None), |(usage, key)| (usage, Some(key)));
        // Anchors, agents' keys and half-written files may lie beside ours.
        let Ok(usage) = usage.parse::<KeyUse>() else { continue };
        let key = read_key(&path)?;
        let public = Key::of(&key);
        // A file that was renamed would be listed, or taken away, as another than it is.
        if named.is_some_and(|named| named != public.to_string()) {
            return Err(KeyFileError::OtherName(path));
        }
        keys.insert((usage, public), key);
        if keys.len() > MAX_KEYS {
            return Err(KeyFileError::TooMany(folder.to_owned()));
        }
    }
    Ok(keys)
}

/// Makes a key of that use in the folder, under its name. Mode 0600; nothing is ever overwritten.
pub fn make_key(folder: &Path, usage: KeyUse, rng: &mut impl rand::CryptoRng) -> Result<Key, KeyFileError> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    rng.fill_bytes(seed.as_mut());
    let key = SigningKey::from_bytes(&seed);
    let public = Key::of(&key);
    make_folder(folder).map_err(|source| KeyFileError::Io { path: folder.to_owned(), source })?;
    write_key(&folder.join(format!("{}-{public}.key", usage.name())), &key)?;
    Ok(public)
}

// Keys print as nothing but their holder's name.
impl std::fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileSigner")
    }
}

impl Signer for FileSigner {
    fn follow(&self, keys: Arc<Keys>) {
        // Once: a signer serves one tenant.
        let _ = self.keys.set(keys);
    }
    fn reload(&self) -> Result<(), KeyFileError> {
        let found = Arc::new(AtHand::of(&self.folder)?);
        *self.at_hand.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }
    fn holds(&self, usage: KeyUse, key: &Key) -> bool {
        self.at_hand().keys.contains_key(&(usage, *key))
    }
    fn key_for(&self, usage: KeyUse, from: UtcMillis, until: UtcMillis) -> Option<Key> {
        self.with(usage, from, until, Key::of)
    }
    fn mint(&self, block: &Block0, next_seed: [u8; 32]) -> Result<(Vec<u8>, Key), SignError> {
        let ms = |secs: u64| UtcMillis(secs.saturating_mul(1000));
        let (from, until) = (ms(block.not_before_secs), ms(block.expires_secs));
        let minted = self.with(KeyUse::Root, from, until, |key| Ok((procura_verifier::token::mint(block, key, next_seed)?, Key::of(key))));
        minted.ok_or(SignError::NoKey { usage: KeyUse::Root, from, until })?
    }
    fn card(&self, card: &AgentCard, by: &Key) -> Option<SignedCard> {
        self.at_hand().keys.get(&(KeyUse::Card, *by)).map(|key| card.sign(key))
    }
    fn leaf(&self, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError> {
        self.with(KeyUse::Event, at, at, |key| SignedLeaf::sign(event, tenant, at, key)).ok_or(LeafError::NoKey(at))?
    }
    fn key_list_leaf(&self, list: &KeyList, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError> {
        let at_hand = self.at_hand();
        let key = list.of(KeyUse::Event).filter(|k| k.from <= at && at <= k.until).find_map(|k| at_hand.keys.get(&(KeyUse::Event, k.key)));
        SignedLeaf::sign(event, tenant, at, key.ok_or(LeafError::NoKey(at))?)
    }
    fn checkpoint(&self, checkpoint: &Checkpoint, at: UtcMillis) -> Result<String, CheckpointError> {
        let (at_hand, list) = (self.at_hand(), self.keys.get().map(|k| k.load()));
        let holding = list.iter().flat_map(|l| l.of(KeyUse::Log)).filter(|k| k.from <= at && at <= k.until);
        let keys: Vec<_> = holding.filter_map(|k| at_hand.keys.get(&(KeyUse::Log, k.key))).collect();
        if keys.is_empty() {
            return Err(CheckpointError::NoKey(at));
        }
        checkpoint.sign_by(&keys)
    }
    fn bundle(&self, bundle: BundleWriter<'_>, checkpoint: &[u8], exported: UtcMillis) -> Result<Vec<u8>, ExportError> {
        let signed = self.with(KeyUse::Log, exported, exported, |key| bundle.finish(checkpoint, exported, key));
        signed.ok_or(ExportError::NoKey(exported))?
    }
    fn feed(&self, message: &Message) -> SignedMessage {
        let at = message.utc();
        let signed = self.with(KeyUse::Feed, at, at, |key| SignedMessage::sign(message, key));
        signed.unwrap_or_else(|| SignedMessage::sign(message, &self.at_hand().last_feed))
    }
    fn feed_again(&self, message: &Message, row_key: &Key) -> Option<SignedMessage> {
        let (at, at_hand) = (message.utc(), self.at_hand());
        let lives = self.keys.get()?.load().is_live(KeyUse::Feed, row_key, at);
        match at_hand.keys.get(&(KeyUse::Feed, *row_key)) {
            Some(key) if lives => Some(SignedMessage::sign(message, key)),
            _ => self.with(KeyUse::Feed, at, at, |key| SignedMessage::sign(message, key)),
        }
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
        let keys = signer.listed(UtcMillis(now.0.saturating_sub(60_000)), now.plus(365 * 24 * 3_600_000));
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

/// Reads the 32 bytes in `<folder>/<name>`, in hex; draws them where there are none. Of two processes that start together
/// on one empty folder one may fail to start; never do both go on with different secrets.
pub fn load_or_make_secret(folder: &Path, name: &str, rng: &mut impl rand::CryptoRng) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let path = folder.join(name);
    let io = |source| KeyFileError::Io { path: path.clone(), source };
    if read_private(&path)?.is_none() {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rng.fill_bytes(bytes.as_mut());
        make_folder(folder).map_err(io)?;
        match write_new(folder, &path, Zeroizing::new(hex::encode(bytes.as_slice())).as_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => done.map_err(io)?,
        }
    }
    let text = read_private(&path)?.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    let mut bytes = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim_ascii_end(), bytes.as_mut_slice()).map_err(|_| KeyFileError::NotASecret(path.clone()))?;
    Ok(bytes)
}

fn load(path: &Path) -> Result<Option<SigningKey>, KeyFileError> {
    let Some(pem) = read_private(path)? else { return Ok(None) };
    SigningKey::from_pkcs8_pem(&pem).map(Some).map_err(|_| KeyFileError::NotAKey(path.to_owned()))
}

/// At most 1024 bytes of a file that nobody else may read.
fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, KeyFileError> {
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
    let mut text = Zeroizing::new(String::with_capacity(1024));
    (&mut file).take(1024).read_to_string(&mut text).map_err(io)?;
    Ok(Some(text))
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

/// Twice what a key list holds: ended keys may lie on for a while.
const MAX_KEYS: usize = 512;

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
        assert_eq!(first.listed(UtcMillis(0), UtcMillis(1)), again.listed(UtcMillis(0), UtcMillis(1)));
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 6);
        for file in fs::read_dir(&keys).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(format!("{first:?}"), "FileSigner");

        let named = |usage| first.listed(UtcMillis(0), UtcMillis(1)).into_iter().find(|k| k.usage == usage).unwrap().key;
        let root = keys.join(format!("root-{}.key", named(KeyUse::Root)));
        fs::set_permissions(&root, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(FileSigner::open(&keys, &mut rng), Err(KeyFileError::Open { mode: 0o640, .. })));
        fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
        let whole = fs::read(&root).unwrap();
        fs::write(&root, "x").unwrap();
        assert!(matches!(FileSigner::open(&keys, &mut rng), Err(KeyFileError::NotAKey(_))));
        fs::write(&root, whole).unwrap();
        fs::rename(&root, keys.join(format!("root-{}.key", named(KeyUse::Feed)))).unwrap();
        assert!(matches!(FileSigner::open(&keys, &mut rng), Err(KeyFileError::OtherName(_))));
        fs::rename(keys.join(format!("root-{}.key", named(KeyUse::Feed))), keys.join("root.key")).unwrap();
        assert!(FileSigner::load(&keys).unwrap().holds(KeyUse::Root, &named(KeyUse::Root)), "a name without its key is fine");
        fs::remove_file(keys.join("root.key")).unwrap();
        assert!(matches!(FileSigner::load(&keys), Err(KeyFileError::Missing { usage: KeyUse::Root, .. })));
        assert!(matches!(first.reload(), Err(KeyFileError::Missing { .. })) && first.holds(KeyUse::Root, &named(KeyUse::Root)), "the old ones stay");
    }

    #[test]
    fn each_signature_is_by_a_key_whose_window_holds_what_is_signed() {
        use procura_verifier::feed::message::{Batch, Message};
        let folder = tempfile::tempdir().unwrap();
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        let (signer, anchor) = (FileSigner::open(folder.path(), &mut rng).unwrap(), AnchorFile::open(folder.path(), &mut rng).unwrap());
        let tenant: Tenant = "acme".parse().unwrap();
        let anchors = procura_verifier::key_list::Anchors::new(vec![anchor.public()], 1).unwrap();
        let old = signer.listed(UtcMillis(0), UtcMillis(100_000));
        let new_feed = make_key(folder.path(), KeyUse::Feed, &mut rng).unwrap();
        let list = |version, keys: &[ListedKey], dead: Vec<Key>| {
            let payload = KeyListPayload { tenant: tenant.clone(), version, issued: UtcMillis(0), max_ttl_secs: 60, keys: keys.to_vec(), dead };
            UnverifiedKeyList::sign(&payload, &[&anchor.0])
        };
        let keys = Arc::new(Keys::new(anchors, tenant.clone(), list(1, &old, vec![])).unwrap());
        signer.follow(keys.clone());
        let batch = |issued| Message::Batch(Batch { tenant: tenant.clone(), epoch: 1, seq: 1, prev: [0; 32], issued: UtcMillis(issued), items: vec![] });
        let old_feed = old.iter().find(|k| k.usage == KeyUse::Feed).unwrap().key;
        assert_eq!(signer.feed(&batch(50)).claimed_key(), &old_feed);
        assert_eq!(signer.feed_again(&batch(100_001), &old_feed), None, "nobody vouches for it");

        let mut next = old.clone();
        next.push(ListedKey { usage: KeyUse::Feed, key: new_feed, from: UtcMillis(0), until: UtcMillis(200_000) });
        next.sort_unstable_by_key(|k| (k.usage, k.key));
        signer.reload().unwrap();
        assert!(keys.accept(&list(2, &next, vec![old_feed]), UtcMillis(60_000)).unwrap());
        let again = signer.feed_again(&batch(50), &old_feed).unwrap();
        assert_eq!((again.claimed_key(), again.hash()), (&new_feed, SignedMessage::sign(&batch(50), &anchor.0).hash()), "the hash stays");
        assert!(again.verify(&keys.load(), None).is_ok());
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
