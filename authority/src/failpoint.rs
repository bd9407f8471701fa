//! Places where a test ends the process, a wall clock that a test steps, and snapshots sooner than usual. Only with the feature
//! `failpoints`, which no shipped binary has, and in a folder that `PROCURA_FAILPOINTS` names; otherwise nothing of it is there.

use std::sync::Arc;

use procura_verifier::ids::{Clock, SystemClock};

use crate::feed::snapshot::Policy;

/// Ends the process without a word, as SIGKILL would, if the folder holds a file of this name. When is left in `NAME.at`, in
/// microseconds of the boot clock.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    let Some(file) = std::env::var_os(FOLDER).map(|folder| std::path::Path::new(&folder).join(name)) else { return };
    if file.exists() {
        _ = std::fs::write(file.with_extension("at"), SystemClock.boot().0.to_string());
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reach(_: &str) {}

/// How many pages the database may have, where the file `max-pages` says: a full disk that is emptied when the file is gone.
#[cfg(feature = "failpoints")]
pub(crate) fn max_pages() -> Option<u32> {
    let path = std::path::Path::new(&std::env::var_os(FOLDER)?).join("max-pages");
    Some(std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u32::MAX - 1))
}

/// The machine's clock.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// The machine's clock, its wall clock off by what the file `wall-ms` says.
#[cfg(feature = "failpoints")]
pub(crate) fn clock() -> Arc<dyn Clock> {
    struct Stepped(std::path::PathBuf);
    impl Clock for Stepped {
        fn boot(&self) -> procura_verifier::ids::BootTime {
            SystemClock.boot()
        }
        fn wall(&self) -> procura_verifier::ids::UtcMillis {
            let by: i64 = std::fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
            procura_verifier::ids::UtcMillis(SystemClock.wall().0.saturating_add_signed(by))
        }
    }
    match std::env::var_os(FOLDER) {
        Some(folder) => Arc::new(Stepped(std::path::Path::new(&folder).join("wall-ms"))),
        None => Arc::new(SystemClock),
    }
}

/// When snapshots of the feed are cut: as always.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn snapshots() -> Policy {
    Policy::default()
}

/// When snapshots of the feed are cut: as always, or after as few messages as the file `snapshot-messages` says, looked at five times a second.
#[cfg(feature = "failpoints")]
pub(crate) fn snapshots() -> Policy {
    let file = std::env::var_os(FOLDER).map(|folder| std::path::Path::new(&folder).join("snapshot-messages"));
    let messages = file.and_then(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    let few = |messages| Policy { messages, look_every: std::time::Duration::from_millis(200), ..Policy::default() };
    messages.map_or_else(Policy::default, few)
}

#[cfg(feature = "failpoints")]
const FOLDER: &str = "PROCURA_FAILPOINTS";
