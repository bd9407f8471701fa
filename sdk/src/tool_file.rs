//! The tool file: all that one instance of a tool is started from, so that protecting it takes one line.
//!
//! ```json
//! { "version": 1, "audience": "payments/1", "verifier": "vrf_…", "trust": "trust.json", "key": "payments-1.key" }
//! ```
//!
//! `procura verifiers enroll --out` writes one. Paths are relative to the file's own folder. The trust file is where key lists are
//! kept as they are accepted; each instance has a file, a key and an audience of its own.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use procura_verifier::claims::Audience;
use procura_verifier::decision::ToolPolicy;
use procura_verifier::ids::{SystemClock, VerifierId};
use procura_verifier::trust::{TrustError, TrustFile};
use zeroize::Zeroizing;

use crate::guard::{Guard, GuardConfig, StartError};

/// What a tool file says.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolFile {
    /// Of this form: 1.
    pub version: u32,
    /// The service and instance that this tool is; no other process may have it.
    pub audience: Audience,
    /// The enrolment of its key.
    pub verifier: VerifierId,
    /// The trust file.
    pub trust: PathBuf,
    /// The private key: PKCS#8 PEM, which nobody else may be able to read.
    pub key: PathBuf,
    /// Redis beside the stream; its URL may hold a password, so the file must then be as private as the key.
    #[cfg(feature = "redis")]
    #[serde(default)]
    pub redis: Option<procura_verifier::feed::redis::RedisConfig>,
}

/// Why a tool does not start from a file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system says no.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Not the documented JSON.
    #[error("tool file {path}: {why}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What was expected.
        why: String,
    },
    /// Others may read what is secret.
    #[error("{path} has mode {mode:o}, expected 600: others may have read it")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file.
    #[error("{0} does not hold an Ed25519 private key in PKCS#8 PEM")]
    NotAKey(PathBuf),
    /// The trust file.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Where Redis is.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Redis(#[from] procura_verifier::feed::redis::RedisConfigError),
    /// The HTTP client.
    #[error("no HTTP client: {0}")]
    Http(String),
    /// The guard.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl ToolFile {
    /// Longest file read, in bytes.
    const MAX_BYTES: u64 = 16 * 1024;

    /// The file at `path`, its paths made relative to where it lies. An unknown field is refused.
    pub fn read(path: &Path) -> Result<Self, OpenError> {
        let malformed = |why: String| OpenError::Malformed { path: path.to_owned(), why };
        let (text, mode) = read(path, Self::MAX_BYTES)?;
        let mut file: Self = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        if file.version != 1 {
            return Err(malformed(format!("expected version 1, got {}", file.version)));
        }
        #[cfg(feature = "redis")]
        if file.redis.is_some() {
            private(path, mode)?;
        }
        #[cfg(not(feature = "redis"))]
        let _ = mode;
        let folder = path.parent().unwrap_or(Path::new("."));
        (file.trust, file.key) = (folder.join(&file.trust), folder.join(&file.key));
        Ok(file)
    }

    /// What a guard is made from: strict, with the usual bounds. Change it and give it to [`Guard::start`].
    pub fn config(&self) -> Result<GuardConfig, OpenError> {
        let (pem, mode) = read(&self.key, 1024)?;
        private(&self.key, mode)?;
        let (trust, _) = read(&self.trust, TrustFile::MAX_BYTES as u64 + 1)?;
        let trust = TrustFile::from_json(trust.as_bytes())?;
        Ok(GuardConfig {
            authority: trust.authority.clone(),
            trust,
            trust_path: Some(self.trust.clone()),
            audience: self.audience.clone(),
            verifier: self.verifier,
            key: SigningKey::from_pkcs8_pem(&pem).map_err(|_| OpenError::NotAKey(self.key.clone()))?,
            policy: ToolPolicy::STRICT,
            max_proofs: 100_000,
            max_tokens: 4_096,
            cold_per_second: 200,
            #[cfg(feature = "redis")]
            redis: self.redis.as_ref().map(procura_verifier::feed::redis::RedisConfig::open).transpose()?,
        })
    }
}

impl Guard {
    /// Starts from a [tool file](ToolFile): the machine's clock, an HTTP client of its own, every law in its strict form.
    ///
    /// Needs a tokio runtime. Installs ring as the process's TLS provider if there is none. Blocks while it reads three small files.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, OpenError> {
        let config = ToolFile::read(path.as_ref())?.config()?;
        // Another may have been installed meanwhile: any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = procura_verifier::feed::sse::http_client().map_err(|e| OpenError::Http(e.to_string()))?;
        Ok(Self::start(config, http, Arc::new(SystemClock))?)
    }
}

/// Text of at most `max` bytes, and the mode of the file it was read from.
fn read(path: &Path, max: u64) -> Result<(Zeroizing<String>, u32), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(max).unwrap_or(0)));
    file.take(max).read_to_string(&mut text).map_err(io)?;
    Ok((text, mode))
}

fn private(path: &Path, mode: u32) -> Result<(), OpenError> {
    if mode & 0o077 == 0 { Ok(()) } else { Err(OpenError::Mode { path: path.to_owned(), mode }) }
}

#[cfg(test)]
mod tests;
