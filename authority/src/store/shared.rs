//! What a database has to say that other processes write, too (`DESIGN.md` section 8).

use procura_verifier::ids::{ClockId, UtcMillis};
use tokio::sync::watch;

use super::{Answering, Head, Store, StoreError};

/// What one beat transaction saw. It was committed after it had seen it, on the primary, and on the synchronous standbys
/// where there are some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beaten {
    /// The head, read after the transaction began.
    pub head: Head,
    /// Version and hash of the newest key list.
    pub key_list: (u64, [u8; 32]),
    /// The database's clock at that moment.
    pub database_clock: UtcMillis,
}

/// Where another process's commits have come to, by its word: a reason to look, never more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hint {
    /// Epoch and number of the newest feed message heard of.
    pub feed: (u64, u64),
    /// Leaves in the log, as heard of.
    pub size: u64,
    /// Counts what was heard, lost connections included: any change is a reason to look.
    pub heard: u64,
}

/// Whether a commit outlives the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standby {
    /// COMMIT waits for so many standbys.
    Synchronous(u32),
    /// A failover may lose what was answered.
    None,
}

/// [`Shared::settled`] where other processes write; where this one is alone, what can be read is durable.
pub async fn settled(store: &dyn Store) -> Result<(), StoreError> {
    match store.shared() {
        Some(shared) => shared.settled().await,
        None => Ok(()),
    }
}

/// A store that several processes write.
pub trait Shared: Send + Sync {
    /// One beat transaction, begun after this call. An error proves nothing, and nothing may be signed then.
    fn beat(&self, replica: ClockId) -> Answering<'_, Beaten>;
    /// Says when somebody, this process included, may have committed.
    fn hints(&self) -> watch::Receiver<Hint>;
    /// Returns once all that was readable when this was called is where COMMIT waits for it to be. A commit whose wait for
    /// its standby was cancelled can be read before it is there: nobody may be told of it until then.
    fn settled(&self) -> Answering<'_, ()>;
    /// What was so at the last beat or at the start.
    fn standby(&self) -> Standby;
}
