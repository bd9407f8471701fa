//! A client of TLS that shows what it was given: certificate, protocol, answer.

use std::path::Path;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

/// Writes a fresh pair for 127.0.0.1.
pub fn make_pair(files: &[std::path::PathBuf; 2]) {
    use std::os::unix::fs::PermissionsExt as _;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&files[0], made.cert.pem()).unwrap();
    std::fs::write(&files[1], made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files[1], std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// An open connection over TLS.
pub enum Connection {
    H1(http1::SendRequest<String>),
    H2(http2::SendRequest<String>),
}

/// Connects, trusting nothing but this certificate; `None` if the handshake fails.
pub async fn connect(address: &str, trusted: &CertificateDer<'static>, protocol: &[u8]) -> Option<Connection> {
    let _provider = super::support::http();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(protocol));
    if protocol == b"h2" {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Some(Connection::H2(sender))
    } else {
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Some(Connection::H1(sender))
    }
}

impl Connection {
    /// GET, and the answer's body as text.
    pub async fn get(&mut self, url: &str) -> (u16, String) {
        let request = hyper::Request::get(url).header("host", "127.0.0.1").body(String::new()).unwrap();
        let answer = match self {
            Self::H1(sender) => sender.send_request(request).await,
            Self::H2(sender) => sender.send_request(request).await,
        };
        let answer = answer.unwrap();
        (answer.status().as_u16(), whole(answer.into_body()).await)
    }
}

async fn whole(mut body: Incoming) -> String {
    let mut text = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.unwrap().into_data() {
            text.extend_from_slice(&data);
        }
    }
    String::from_utf8(text).unwrap()
}
