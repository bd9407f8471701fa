//! The last checkpoint that left this process, in a small file beside the keys: the log's memory outside its database.
//!
//! A database restored from a backup does not know what was released after it. Signing then would give two roots for one
//! size, which is a fork; this file is how the signer knows, and stops.

use std::cmp::Ordering;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest as _, Sha256};

/// Size and root of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeHead {
    /// How many leaves.
    pub size: u64,
    /// RFC 6962 root.
    pub root: [u8; 32],
}

/// Why a checkpoint is not released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It contradicts one that is out.
    #[error("log head is size {got}, but a checkpoint of size {released} was released: the database is older than the log, run `procura log recover`")]
    Fork {
        /// What the database says.
        got: u64,
        /// What was released.
        released: u64,
    },
    /// The database is of an epoch before the last recovery.
    #[error("the database is of epoch {got}, but checkpoints of epoch {released} were released: it is older than the log, run `procura log recover`")]
    Epoch {
        /// What the database says.
        got: u64,
        /// What was released.
        released: u64,
    },
    /// This process has stopped signing.
    #[error("nothing is signed any more: end this process")]
    Stopped,
    /// The log was recovered by another process since this one started.
    #[error("the log was recovered into epoch {0} by another process: start this one anew")]
    Recovered(u64),
    /// The file cannot be read or written.
    #[error("released-checkpoint file: {0}")]
    Io(#[from] io::Error),
    /// Both halves of the file are damaged.
    #[error("released-checkpoint file is damaged, expected at least one whole record")]
    Damaged,
}

/// The file, and the record that counts.
#[derive(Debug)]
pub struct Released {
    file: File,
    last: Option<TreeHead>,
    slot: u64,
    path: PathBuf,
    epoch: u64,
}

impl Released {
    /// Opens the newest file: `path`, or after recoveries `path.EPOCH` with the highest number; makes `path` if there is none.
    pub fn open(path: &Path) -> Result<Self, ReleaseError> {
        let (folder, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".");
        let mut epoch = 1;
        for entry in fs::read_dir(folder)? {
            let found = entry?.file_name();
            let number = found.to_str().and_then(|f| f.strip_prefix(&name)).and_then(|n| n.parse().ok());
            epoch = number.map_or(epoch, |n: u64| epoch.max(n));
        }
        Self::open_epoch(path, epoch)
    }

    /// The file for a database of this epoch. One of an epoch before this file's is older than the log.
    pub fn of_epoch(self, epoch: u64) -> Result<Self, ReleaseError> {
        match epoch.cmp(&self.epoch) {
            Ordering::Less => Err(ReleaseError::Epoch { got: epoch, released: self.epoch }),
            Ordering::Equal => Ok(self),
            // Recovered since, here or by another replica: nothing of that origin was released here yet.
            Ordering::Greater => Self::open_epoch(&self.path, epoch),
        }
    }

    /// The epoch of the log that it is about.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Two records are kept and written in turn, so that a torn write loses only the newer,
    /// which had then not been released.
    fn open_epoch(base: &Path, epoch: u64) -> Result<Self, ReleaseError> {
        let mut name = base.as_os_str().to_owned();
        if epoch > 1 {
            name.push(format!(".{epoch}"));
        }
        let path = Path::new(&name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() == 0 {
            file.set_len(2 * RECORD as u64)?;
            file.sync_all()?;
            if let Some(folder) = path.parent() {
                fs::File::open(folder)?.sync_all()?;
            }
        }
        let records = [read(&file, 0)?, read(&file, 1)?];
        let [a, b] = match records {
            [Slot::Damaged, Slot::Damaged] => return Err(ReleaseError::Damaged),
            // One record whole and the other torn: the whole one is the last release.
            slots => slots.map(Slot::head),
        };
        let (last, slot) = if a.map(|h| h.size) > b.map(|h| h.size) { (a, 1) } else { (b, 0) };
        Ok(Self { file, last, slot, path: base.to_owned(), epoch })
    }

    /// What was released last.
    pub const fn last(&self) -> Option<TreeHead> {
        self.last
    }

    /// Records `head` durably; only after `Ok(true)` may its checkpoint leave. Refuses a second root for a size.
    ///
    /// `known` is what was released before `head` was read from the database: a head below that is a database older than
    /// the log. One that is merely late, because another process's commit was released since, is `Ok(false)`.
    pub fn release(&mut self, head: TreeHead, known: Option<TreeHead>) -> Result<bool, ReleaseError> {
        for before in self.last.iter().chain(&known) {
            before.may_precede(head, known.is_some_and(|k| k == *before))?;
        }
        match self.last {
            Some(last) if last == head => return Ok(true),
            Some(last) if head.size < last.size => return Ok(false),
            _ => {}
        }
        let mut record = [0; RECORD];
        let (body, sum) = record.split_at_mut(BODY);
        let (size, root) = body.split_at_mut(8);
        size.copy_from_slice(&head.size.to_be_bytes());
        root.copy_from_slice(&head.root);
        sum.copy_from_slice(&checksum(body));
        self.file.write_all_at(&record, self.slot * RECORD as u64)?;
        self.file.sync_data()?;
        self.slot ^= 1;
        self.last = Some(head);
        Ok(true)
    }
}

impl TreeHead {
    /// Refuses a second root for this size; and, if this was released before `head` was read, a smaller tree.
    pub(crate) fn may_precede(self, head: Self, released_before: bool) -> Result<(), ReleaseError> {
        let shrunk = released_before && head.size < self.size;
        if shrunk || (head.size == self.size && head.root != self.root) {
            return Err(ReleaseError::Fork { got: head.size, released: self.size });
        }
        Ok(())
    }
}

enum Slot {
    Empty,
    Whole(TreeHead),
    Damaged,
}

impl Slot {
    const fn head(self) -> Option<TreeHead> {
        match self {
            Self::Whole(head) => Some(head),
            Self::Empty | Self::Damaged => None,
        }
    }
}

fn read(file: &File, slot: u64) -> io::Result<Slot> {
    let mut record = [0; RECORD];
    match file.read_exact_at(&mut record, slot * RECORD as u64) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Slot::Damaged),
        other => other?,
    }
    if record == [0; RECORD] {
        return Ok(Slot::Empty);
    }
    let (body, sum) = record.split_at(BODY);
    let (size, root) = body.split_at(8);
    if sum != checksum(body) {
        return Ok(Slot::Damaged);
    }
    Ok(match (size.try_into(), root.try_into()) {
        (Ok(size), Ok(root)) => Slot::Whole(TreeHead { size: u64::from_be_bytes(size), root }),
        _ => Slot::Damaged,
    })
}

fn checksum(body: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(b"procura-released/1\0").chain_update(body).finalize().into()
}

const BODY: usize = 40;
const RECORD: usize = BODY + 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(size: u64, root: u8) -> TreeHead {
        TreeHead { size, root: [root; 32] }
    }

    #[test]
    fn never_two_roots_for_one_size_and_never_a_smaller_tree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("released-checkpoint");
        let mut released = Released::open(&path).unwrap();
        for size in 1..=5 {
            assert!(released.release(head(size, 1), None).unwrap());
        }
        assert!(released.release(head(5, 1), Some(head(5, 1))).unwrap());
        assert!(matches!(released.release(head(5, 2), None), Err(ReleaseError::Fork { .. })));
        assert!(matches!(released.release(head(4, 1), Some(head(5, 1))), Err(ReleaseError::Fork { got: 4, released: 5 })));
        // Read before 5 was released by another's commit: late, not forked, and nothing is taken back.
        assert!(!released.release(head(4, 1), Some(head(3, 1))).unwrap());
        assert!(!released.release(head(4, 1), None).unwrap());
        drop(released);
        let mut again = Released::open(&path).unwrap();
        assert_eq!(again.last(), Some(head(5, 1)));
        assert!(again.release(head(5, 2), None).is_err());
        assert!(again.release(head(6, 2), None).unwrap());
    }

    #[test]
    fn after_a_recovery_the_file_of_its_epoch_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("released-checkpoint");
        let mut first = Released::open(&path).unwrap();
        first.release(head(5, 1), None).unwrap();
        let mut second = first.of_epoch(2).unwrap();
        assert_eq!((second.epoch(), second.last()), (2, None));
        second.release(head(3, 2), None).unwrap();
        drop(second);
        let again = Released::open(&path).unwrap();
        assert_eq!((again.epoch(), again.last()), (2, Some(head(3, 2))));
        let again = again.of_epoch(2).unwrap();
        // Twelve is not between one and two.
        let later = again.of_epoch(12).unwrap();
        drop(later);
        assert!(matches!(Released::open(&path).unwrap().of_epoch(3), Err(ReleaseError::Epoch { got: 3, released: 12 })));
    }

    #[test]
    fn a_torn_write_keeps_the_release_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("released-checkpoint");
        let mut released = Released::open(&path).unwrap();
        released.release(head(1, 1), None).unwrap();
        released.release(head(2, 1), None).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[RECORD + 3] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let mut again = Released::open(&path).unwrap();
        assert_eq!(again.last(), Some(head(1, 1)));
        again.release(head(2, 1), None).unwrap();
        assert_eq!(Released::open(&path).unwrap().last(), Some(head(2, 1)));
        bytes[3] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(Released::open(&path), Err(ReleaseError::Damaged)));
    }
}
