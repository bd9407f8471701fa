//! What a verifier keeps on disk: the last signed manifest with its segments, and every signed message since (`spec/feed.md`, F19).
//!
//! It is believed for its signatures and hashes alone, all of which are verified again at a start. With it a verifier starts
//! warm, and gives back what an authority lost. All calls block.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::message::{MAX_MESSAGE_BYTES, Message, SignedMessage};
use super::snapshot::{Loading, MAX_SEGMENT_BYTES, Snapshot};
use super::state::FeedState;
use crate::ids::{BootTime, UtcMillis};
use crate::revocation::{RevocationView as _, View};
use crate::wire::Canonical as _;

/// The folder of one verifier, which holds its lock for as long as the value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    messages: File,
    /// Length of its whole frames.
    bytes: u64,
    /// Something that is no frame may stand after them.
    torn: bool,
    /// Place of the manifest in it.
    manifest: Option<(u64, u64)>,
    _lock: File,
}

/// Why a folder is not believed. It is set aside, and the feed is read again.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be read or written.
    #[error("folder: {0}")]
    Io(#[from] io::Error),
    /// Another process has it.
    #[error("folder is held by another process")]
    Held,
    /// Something in it is not what a feed key signed.
    #[error("folder holds {0}")]
    Damaged(String),
}

impl Folder {
    /// Opens or makes it, mode 0700.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join(SEGMENTS))?;
        let lock = private().append(true).create(true).open(path.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| FolderError::Held)?;
        let messages = private().read(true).append(true).create(true).open(path.join(MESSAGES))?;
        let bytes = messages.metadata()?.len();
        Ok(Self { path: path.to_owned(), messages, bytes, torn: false, manifest: None, _lock: lock })
    }

    /// Loads all that it holds: manifest and segments into the view, then the messages through `state`. Returns how many messages.
    ///
    /// On an error what was loaded until then stays: it was signed. Call [`Self::set_aside`] then.
    pub fn load(&mut self, view: &View, now: impl Fn() -> BootTime, mut with_state: impl FnMut(&mut dyn FnMut(&mut FeedState))) -> Result<usize, FolderError> {
        if let Some(utc) = self.utc()? {
            view.restore_utc(utc);
        }
        if let Some((_, snapshot)) = self.snapshot(view)? {
            let place = (snapshot.manifest().epoch, snapshot.manifest().seq);
            let hashes: HashSet<_> = snapshot.manifest().segments.iter().map(|s| s.sha256).collect();
            let mut loading = Loading::new(snapshot, view, now());
            for hash in hashes {
                let bytes = self.segment(&hash)?.ok_or_else(|| FolderError::Damaged("a manifest without its segments".to_owned()))?;
                loading.segment(&bytes).map_err(|e| FolderError::Damaged(e.to_string()))?;
            }
            let loaded = loading.finish().map_err(|e| FolderError::Damaged(e.to_string()))?;
            with_state(&mut |state| _ = state.reach(&loaded, now()));
            self.manifest = Some(place);
        }
        let (messages, whole) = self.read()?;
        if whole < self.bytes {
            // A write that a crash cut short.
            self.messages.set_len(whole)?;
            self.bytes = whole;
        }
        for bytes in &messages {
            let mut result = Ok(());
            with_state(&mut |state| result = state.restore(bytes, now()).map(drop));
            result.map_err(|e| FolderError::Damaged(e.to_string()))?;
        }
        Ok(messages.len())
    }

    /// Moves what it holds into a folder `refused` beside it, over what was there, and begins anew.
    pub fn set_aside(&mut self) -> io::Result<()> {
        let refused = self.path.join("refused");
        if refused.exists() {
            fs::remove_dir_all(&refused)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&refused)?;
        for name in [MANIFEST, MESSAGES, SEGMENTS, UTC] {
            let from = self.path.join(name);
            if from.exists() {
                fs::rename(from, refused.join(name))?;
            }
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.path.join(SEGMENTS))?;
        self.messages = private().read(true).append(true).create(true).open(self.path.join(MESSAGES))?;
        (self.bytes, self.torn, self.manifest) = (0, false, None);
        Ok(())
    }

    /// Adds signed messages, durably: all of them or, with an error, none.
    pub fn append(&mut self, messages: &[Vec<u8>]) -> io::Result<()> {
        let frames = frames(messages);
        self.mend()?;
        self.torn = true;
        let written = self.messages.write_all(&frames).and_then(|()| self.messages.sync_data());
        if written.is_ok() {
            self.torn = false;
            self.bytes += frames.len() as u64;
        } else {
            // What cannot be cut now is cut before the next frame.
            _ = self.mend();
        }
        written
    }

    /// Cuts off what a full disk left of frames: one that stands behind a torn one is never found again.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.messages.set_len(self.bytes)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Length of the messages, in bytes: when it is time for a newer manifest.
    pub const fn messages_bytes(&self) -> u64 {
        self.bytes
    }

    /// Where its manifest stands in the feed.
    pub const fn manifest_place(&self) -> Option<(u64, u64)> {
        self.manifest
    }

    /// True if the segment is here already. It is hashed when it is loaded.
    pub fn has_segment(&self, hash: &[u8; 32]) -> bool {
        self.segment_path(hash).exists()
    }

    /// Stores a segment; its hash must have been compared.
    pub fn put_segment(&self, hash: &[u8; 32], bytes: &[u8]) -> io::Result<()> {
        write_whole(&self.segment_path(hash), bytes)
    }

    /// A segment, if it is here.
    pub fn segment(&self, hash: &[u8; 32]) -> io::Result<Option<Vec<u8>>> {
        match File::open(self.segment_path(hash)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX_SEGMENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Goes on from a newer manifest, whose segments are here: older messages and unnamed segments are dropped.
    pub fn adopt(&mut self, signed: &SignedMessage, snapshot: &Snapshot) -> io::Result<()> {
        let m = snapshot.manifest();
        write_whole(&self.path.join(MANIFEST), &signed.to_bytes())?;
        self.manifest = Some((m.epoch, m.seq));
        let (messages, _) = self.read()?;
        let later = |bytes: &Vec<u8>| {
            let signed = SignedMessage::from_bytes(bytes).ok();
            match signed.and_then(|s| Message::from_bytes(s.unverified_payload()).ok()) {
                Some(Message::Batch(b)) => (b.epoch, b.seq) > (m.epoch, m.seq),
                Some(Message::EpochStart(s)) => s.epoch > m.epoch,
                _ => false,
            }
        };
        let kept: Vec<_> = messages.into_iter().filter(later).collect();
        let aside = self.path.join("messages.new");
        let mut file = private().read(true).append(true).create(true).truncate(false).open(&aside)?;
        file.set_len(0)?;
        let frames = frames(&kept);
        file.write_all(&frames)?;
        file.sync_data()?;
        fs::rename(&aside, self.path.join(MESSAGES))?;
        // Not before: until here the old file is the one that is found again.
        (self.messages, self.bytes, self.torn) = (file, frames.len() as u64, false);
        let named: HashSet<_> = m.segments.iter().map(|s| hex::encode(s.sha256)).collect();
        for entry in fs::read_dir(self.path.join(SEGMENTS))? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !named.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Every whole message, as it was signed.
    pub fn messages(&self) -> io::Result<Vec<Vec<u8>>> {
        self.read().map_or_else(|e| if let FolderError::Io(e) = e { Err(e) } else { Ok(Vec::new()) }, |(messages, _)| Ok(messages))
    }

    /// The manifest that it holds, if a feed key vouches for it.
    pub fn snapshot(&self, view: &View) -> Result<Option<(SignedMessage, Snapshot)>, FolderError> {
        let bytes = match fs::read(self.path.join(MANIFEST)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let signed = SignedMessage::from_bytes(&bytes).map_err(|e| FolderError::Damaged(e.to_string()))?;
        let snapshot = Snapshot::verify(&signed, &view.key_list()).map_err(|e| FolderError::Damaged(e.to_string()))?;
        Ok(Some((signed, snapshot)))
    }

    /// Remembers authority UTC, which must not fall over a restart (L7).
    pub fn put_utc(&self, utc: UtcMillis) -> io::Result<()> {
        let bytes = utc.0.to_be_bytes();
        write_whole(&self.path.join(UTC), &[bytes.as_slice(), &sum(&bytes)].concat())
    }

    fn utc(&self) -> Result<Option<UtcMillis>, FolderError> {
        match fs::read(self.path.join(UTC)) {
            Ok(bytes) => match bytes.split_first_chunk::<8>() {
                Some((ms, rest)) if rest == sum(ms) => Ok(Some(UtcMillis(u64::from_be_bytes(*ms)))),
                _ => Err(FolderError::Damaged("a time that is none".to_owned())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The whole frames, and where the last of them ends.
    fn read(&self) -> Result<(Vec<Vec<u8>>, u64), FolderError> {
        let bytes = fs::read(self.path.join(MESSAGES))?;
        let (mut messages, mut rest) = (Vec::new(), bytes.as_slice());
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if len > MAX_MESSAGE_BYTES {
                return Err(FolderError::Damaged("a message that is too long".to_owned()));
            }
            // A file that was made longer and never filled: no message is empty.
            if rest.iter().all(|b| *b == 0) {
                break;
            }
            let Some((message, after)) = after.split_at_checked(len) else { break };
            let Some((kept, after)) = after.split_first_chunk::<4>() else { break };
            if *kept != sum(message) {
                if after.is_empty() {
                    break;
                }
                return Err(FolderError::Damaged("a message that was changed".to_owned()));
            }
            messages.push(message.to_vec());
            rest = after;
        }
        Ok((messages, (bytes.len() - rest.len()) as u64))
    }

    fn segment_path(&self, hash: &[u8; 32]) -> PathBuf {
        self.path.join(SEGMENTS).join(hex::encode(hash))
    }
}

impl From<FolderError> for io::Error {
    fn from(e: FolderError) -> Self {
        match e {
            FolderError::Io(e) => e,
            other => Self::other(other.to_string()),
        }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Aside, synced and renamed: a crash leaves the old file or the whole new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = private().write(true).create(true).truncate(true).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&aside, path)
}

fn frames(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut frames = Vec::new();
    for message in messages {
        let Ok(len) = u32::try_from(message.len()) else { continue };
        frames.extend_from_slice(&len.to_be_bytes());
        frames.extend_from_slice(message);
        frames.extend_from_slice(&sum(message));
    }
    frames
}

/// Tells a torn or rotten frame; the signature tells a forged one.
fn sum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(bytes));
    [a, b, c, d]
}

const MANIFEST: &str = "manifest";
const MESSAGES: &str = "messages";
const SEGMENTS: &str = "segments";
const UTC: &str = "utc";

#[cfg(all(test, not(loom)))]
mod tests;
