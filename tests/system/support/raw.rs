//! HTTP/1.1 by hand: any method, any bytes in target, headers and body.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::PATIENCE;

#[derive(Clone)]
pub struct Request {
    pub method: &'static str,
    pub target: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &'static str, target: impl AsRef<[u8]>) -> Self {
        Self { method, target: target.as_ref().to_vec(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(self, body: impl Into<Vec<u8>>) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    pub fn session(self, secret: &str) -> Self {
        self.header("authorization", format!("Bearer {secret}"))
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let mut out = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\nhost: ", host.as_bytes(), b"\r\nconnection: close\r\n"].concat();
        for (name, value) in &self.headers {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if !self.body.is_empty() || self.method == "POST" {
            out.extend(format!("content-length: {}\r\n", self.body.len()).into_bytes());
        }
        out.extend(b"\r\n");
        out.extend(&self.body);
        out
    }

    /// Sends it and reads to the end. `None` if the server closed without a word.
    pub async fn send(&self, address: &str) -> Option<Answer> {
        send_bytes(address, self.bytes(address)).await
    }
}

/// Sends exactly these bytes on a connection of their own.
pub async fn send_bytes(address: &str, bytes: Vec<u8>) -> Option<Answer> {
    let work = async {
        let (mut from, mut to) = TcpStream::connect(address).await.expect("the server accepts").into_split();
        // A server that has seen enough stops reading and answers: written beside, and a broken pipe is its good right.
        let write = tokio::spawn(async move {
            _ = to.write_all(&bytes).await;
            to
        });
        let mut answer = Vec::new();
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(n) = from.read(&mut chunk).await {
            answer.extend(&chunk[..n]);
            // Streams have no end; no answer that is looked at here is longer.
            if n == 0 || answer.len() > 4 << 20 || is_stream(&answer[..answer.len().min(1024)]) {
                break;
            }
        }
        write.abort();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, work).await.expect("an answer in time");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).expect("a head in UTF-8");
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: answer[end + 4..].to_vec() })
}

fn is_stream(answer: &[u8]) -> bool {
    answer.windows(17).any(|w| w.eq_ignore_ascii_case(b"text/event-stream"))
}

impl Answer {
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The one error form of the authority: `code`, `message`, `request_id`, nothing else.
    pub fn is_error_form(&self) -> bool {
        let Some(Value::Object(body)) = self.json() else { return false };
        let said = |k: &str| body.get(k).and_then(Value::as_str).is_some_and(|t| !t.is_empty());
        body.len() == 3 && said("code") && said("message") && said("request_id")
    }
}
