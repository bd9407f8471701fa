//! Our certificate and its key, from files, read again without a restart.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::config;
use crate::metrics::Metrics;

/// HTTP/2 in ALPN.
pub(super) const H2: &[u8] = b"h2";

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file system says no.
    #[error("{field} {path}: {why}")]
    File {
        /// The setting.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// What it said.
        why: std::io::Error,
    },
    /// Others may read the key, or write it.
    #[error("tls.key {path} has mode {mode:o}, expected 600, 400 or 640: others may have read it")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not PEM of that kind.
    #[error("{field} {path}: expected {expected} in PEM, found none that can be read")]
    Pem {
        /// The setting.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// They do not belong together, or are of a kind that is not served.
    #[error("tls.certificate {certificate} with tls.key {key}: {why}")]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        why: rustls::Error,
    },
}

/// The pair in use.
pub struct Certificates {
    files: config::Tls,
    current: RwLock<Arc<ServerConfig>>,
}

impl Certificates {
    /// Reads both files.
    pub fn load(files: &config::Tls) -> Result<Self, TlsError> {
        Ok(Self { files: files.clone(), current: RwLock::new(Arc::new(read(files)?)) })
    }

    /// For the next handshake.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads both files again. On an error the pair in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Reads them again whenever one has changed and then rested for one look, since the two are not written at once.
    pub async fn keep_fresh(self: Arc<Self>, metrics: Arc<Metrics>, mut stopping: watch::Receiver<bool>) {
        let mut tried = self.stamps();
        let mut seen = tried;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            let now = self.stamps();
            if now != tried && now == seen {
                tried = now;
                self.reload_and_say(&metrics);
            }
            seen = now;
        }
    }

    /// [`Certificates::reload`], counted and written down.
    pub fn reload_and_say(&self, metrics: &Metrics) {
        match self.reload() {
            Ok(()) => {
                metrics.http.tls_reloaded("accepted");
                tracing::info!("tls.reloaded");
            }
            Err(e) => {
                metrics.http.tls_reloaded("refused");
                tracing::error!(error = %e, "tls.not_reloaded: the certificate in use stays");
            }
        }
    }

    fn stamps(&self) -> [Option<(u64, u64, i64, i64)>; 2] {
        let stamp = |m: Metadata| (m.ino(), m.size(), m.mtime(), m.mtime_nsec());
        [&self.files.certificate, &self.files.key].map(|path| std::fs::metadata(path).ok().map(stamp))
    }
}

fn read(files: &config::Tls) -> Result<ServerConfig, TlsError> {
    let chain = pem("tls.certificate", &files.certificate, |_| Ok(()))?;
    let chain: Option<Vec<_>> = CertificateDer::pem_slice_iter(&chain).map(Result::ok).collect();
    let missing = |field, path: &Path, expected| TlsError::Pem { field, path: path.to_owned(), expected };
    let chain = chain.filter(|c| !c.is_empty()).ok_or_else(|| missing("tls.certificate", &files.certificate, "certificates"))?;
    let key = pem("tls.key", &files.key, |mode| {
        // A group may read it (Debian's ssl-cert, fsGroup); beyond that it is no secret.
        if mode & 0o037 == 0 { Ok(()) } else { Err(TlsError::Mode { path: files.key.clone(), mode }) }
    })?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| missing("tls.key", &files.key, "a private key"))?;
    let pair = |why| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), why };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS).map_err(pair)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A file's bytes, after a look at the mode of the very file that is read.
fn pem(field: &'static str, path: &Path, may: impl FnOnce(u32) -> Result<(), TlsError>) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |why| TlsError::File { field, path: path.to_owned(), why };
    let file = File::open(path).map_err(failed)?;
    may(file.metadata().map_err(failed)?.mode() & 0o777)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_PEM_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

const MAX_PEM_BYTES: u64 = 256 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> (Self, config::Tls) {
            let folder = Self(tempfile::tempdir().unwrap());
            let files = config::Tls { certificate: folder.0.path().join("tls.pem"), key: folder.0.path().join("tls.key") };
            (folder, files)
        }
    }

    fn write(files: &config::Tls, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_pair_is_read_again_and_a_bad_one_changes_nothing() {
        let (_folder, files) = Folder::new();
        write(&files, "one.example");
        let held = Certificates::load(&files).unwrap();
        let before = held.current();
        write(&files, "two.example");
        held.reload().unwrap();
        let after = held.current();
        assert!(!Arc::ptr_eq(&before, &after));
        // The certificate alone was renewed.
        std::fs::write(&files.certificate, rcgen::generate_simple_self_signed(["three.example".to_owned()]).unwrap().cert.pem()).unwrap();
        let said = held.reload().unwrap_err().to_string();
        assert!(said.starts_with("tls.certificate ") && Arc::ptr_eq(&after, &held.current()), "{said}");
    }

    #[test]
    fn what_is_no_pair_is_refused_by_name() {
        let (_folder, files) = Folder::new();
        let said = |files: &config::Tls| Certificates::load(files).map(|_| ()).unwrap_err().to_string();
        assert!(said(&files).starts_with("tls.certificate "));
        write(&files, "one.example");
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o666, false)] {
            std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Certificates::load(&files).is_ok(), good, "{mode:o}");
        }
        let said_of_mode = said(&files);
        assert!(said_of_mode.contains("has mode 666, expected 600"), "{said_of_mode}");
        write(&files, "one.example");
        let swapped = config::Tls { certificate: files.key.clone(), key: files.certificate.clone() };
        assert!(said(&swapped).contains("expected certificates"));
        std::fs::write(&files.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n").unwrap();
        assert!(said(&files).contains("expected a private key"));
    }
}
