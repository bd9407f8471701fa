//! One process per data folder, for as long as the process lives.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Holds the folder. The kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why the folder cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process is on it.
    #[error("data folder {0} is in use by another process, expected to be the only one")]
    Held(PathBuf),
    /// The file system says no.
    #[error("lock file {0}: {1}")]
    Io(PathBuf, std::io::Error),
}

impl FolderLock {
    /// Takes the exclusive lock on `<folder>/lock`.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|e| LockError::Io(path.clone(), e))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held(folder.to_owned())),
            Err(e) => Err(LockError::Io(path, e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        // `flock` belongs to the open file, so a second one in this process stands for a second process.
        assert!(matches!(FolderLock::take(folder.path()), Err(LockError::Held(_))));
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
