//! The authority's side: processes of the binary on one database, a person, an agent and its tokens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_authority::demo::people::{Agent, Person, delegation, expect, field};
use procura_sdk::client::MintRequest;
use procura_verifier::feed::{Message, SignedMessage};
use procura_verifier::ids::DelegationId;
use procura_verifier::wire::Canonical as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{binary, http, key, procura, rng, text};

/// An authority. Everything ends when dropped.
pub struct Site {
    pub folder: tempfile::TempDir,
    replicas: Vec<Replica>,
    http: reqwest::Client,
    alice: Option<Person>,
    pub key: SigningKey,
    agent: Option<(Agent, DelegationId)>,
}

/// One process of the binary, and the arguments with which it starts again.
struct Replica {
    child: Option<Child>,
    args: Vec<String>,
    pub at: SocketAddr,
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy)]
pub enum Revoked {
    /// COMMIT returned at this moment of the boot clock, in microseconds.
    At(u64),
    /// It had been committed before it was asked for again.
    Before,
    /// Nobody answered: it may have been committed or not.
    Unknown,
}

impl Site {
    /// `procura dev` on SQLite.
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("failpoints")).unwrap();
        let data = folder.path().join("authority").display().to_string();
        let mut site = Self { folder, replicas: Vec::new(), http: http(), alice: None, key: key(&mut rng()), agent: None };
        site.start(["dev", "--json", "--data", &data].map(str::to_owned).to_vec(), "127.0.0.1:0".parse().unwrap()).await;
        site.people().await;
        site
    }

    async fn start(&mut self, args: Vec<String>, listen: SocketAddr) {
        let mut replica = Replica { child: None, args, at: listen };
        self.spawn(&mut replica).await;
        self.replicas.push(replica);
    }

    async fn spawn(&self, replica: &mut Replica) {
        let log = self.folder.path().join("authority.stderr");
        let stderr = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = Command::new(binary())
            .args(&replica.args)
            .args(["--listen", &replica.at.to_string()])
            .env("PROCURA_FAILPOINTS", self.folder.path().join("failpoints"))
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the authority starts").unwrap();
        let line = line.unwrap_or_else(|| panic!("the authority ended: {}", std::fs::read_to_string(&log).unwrap_or_default()));
        let said: Value = serde_json::from_str(&line).expect("one line of JSON");
        replica.at = field(&said, "url").unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        replica.child = Some(child);
    }

    async fn people(&mut self) {
        let alice = Person::sign_in(&self.http, &self.url(), "alice").await.unwrap();
        let agent = alice.register("bot", &self.key, &"acme".parse().unwrap()).await.unwrap();
        let granted = expect(alice.delegate(&agent, 50_000).await.unwrap()).unwrap();
        self.agent = Some((agent, delegation(&granted).unwrap()));
        self.alice = Some(alice);
    }

    pub fn at(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].at
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at(0))
    }

    pub fn trust(&self) -> PathBuf {
        self.folder.path().join("authority/trust.json")
    }

    pub fn pid(&self, replica: usize) -> u32 {
        self.replicas[replica].child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill(&mut self, replica: usize) {
        if let Some(mut child) = self.replicas[replica].child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Returns when the process has ended by itself.
    pub async fn ended(&mut self, replica: usize) {
        if let Some(mut child) = self.replicas[replica].child.take() {
            tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends by itself: the binary is built with --all-features").unwrap();
        }
    }

    /// Once more, at the same address.
    pub async fn again(&mut self, replica: usize) {
        let mut one = self.replicas.remove(replica);
        self.spawn(&mut one).await;
        self.replicas.insert(replica, one);
    }

    /// What it says on standard error when it starts and ends at once.
    pub async fn refuses(&self, replica: usize) -> String {
        let one = &self.replicas[replica];
        let run = Command::new(binary()).args(&one.args).args(["--listen", &one.at.to_string()]).kill_on_drop(true).output();
        let ran = tokio::time::timeout(PATIENCE, run).await.expect("it ends").unwrap();
        assert!(!ran.status.success());
        text(&ran.stderr)
    }

    /// The files of the database as they are, while nobody writes them.
    pub fn copy_database(&self, name: &str) {
        let to = self.folder.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for file in self.database_files() {
            std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }

    pub fn restore_database(&self, name: &str) {
        self.database_files().iter().for_each(|file| std::fs::remove_file(file).unwrap());
        for kept in std::fs::read_dir(self.folder.path().join(name)).unwrap() {
            let kept = kept.unwrap();
            std::fs::copy(kept.path(), self.folder.path().join("authority").join(kept.file_name())).unwrap();
        }
    }

    /// Database, write-ahead log and its index.
    fn database_files(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.folder.path().join("authority")).unwrap().map(|e| e.unwrap().path());
        let found: Vec<_> = all.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("procura.db"))).collect();
        assert!(!found.is_empty(), "a database in the data folder");
        found
    }

    /// A next key list by the command line: new keys of every use, or the feed key dead.
    pub async fn rotate(&self, what: &str) {
        let data = self.folder.path().join("authority");
        let file = self.folder.path().join("list");
        let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
        let anchor = format!("{data}/keys/anchor.key");
        let list = keys(&["list", "--data", data]).await;
        let feed = list["keys"].as_array().unwrap().iter().find(|k| k["usage"] == "feed").expect("a feed key")["key"].as_str().unwrap().to_owned();
        let wanted: &[&str] = if what == "dead" { &["--dead", &feed] } else { &["--rotate", "root,feed,event,log,card"] };
        keys(&[&["prepare", "--data", data, "--out", file], wanted].concat()).await;
        keys(&["sign", "--anchor", &anchor, file, "--yes"]).await;
        keys(&["publish", "--data", data, file]).await;
    }

    /// Arms or disarms, or sets the step of the wall clock in milliseconds.
    pub fn failpoint(&self, name: &str, content: Option<&str>) {
        let file = self.folder.path().join("failpoints").join(name);
        match content {
            Some(content) => {
                // Whole or not at all: it is read at any moment.
                let aside = file.with_extension("new");
                std::fs::write(&aside, content).and_then(|()| std::fs::rename(&aside, &file)).unwrap();
            }
            None => _ = std::fs::remove_file(file),
        }
    }

    /// When a failpoint ended the process.
    pub fn failed_at(&self, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.folder.path().join("failpoints").join(name).with_extension("at")).ok()?.parse().ok()
    }

    /// A sealed token and its id.
    pub async fn mint(&self) -> (String, Vec<u8>) {
        let (agent, delegation) = self.agent.as_ref().unwrap();
        let held = agent.at(&self.http, &self.url()).mint(&MintRequest { delegation: *delegation, ttl_secs: None }, &mut rng()).await.unwrap();
        (held.claims().claimed().tid.to_string(), held.seal().unwrap().as_bytes().to_vec())
    }

    /// Revokes a token. Whose session ended with a step of the clock signs in again, once.
    pub async fn revoke(&mut self, tid: &str) -> Revoked {
        match self.ask_to_revoke(tid).await {
            Some((401, _)) => self.alice = Some(Person::sign_in(&self.http, &self.url(), "alice").await.unwrap()),
            Some((_, answer)) => return answer,
            None => return Revoked::Unknown,
        }
        self.ask_to_revoke(tid).await.map_or(Revoked::Unknown, |(_, answer)| answer)
    }

    /// Status and answer; none if there was none.
    pub async fn ask_to_revoke(&self, tid: &str) -> Option<(u16, Revoked)> {
        let body = serde_json::json!({ "what": "token", "id": tid, "reason": "faults" });
        let session = &self.alice.as_ref().unwrap().session().session;
        let asked = self.http.post(format!("{}/v1/revocations", self.url())).bearer_auth(session).json(&body).timeout(ANSWER_WAIT).send().await.ok()?;
        let status = asked.status();
        let answer = asked.json::<Value>().await.ok()?;
        // Only the store's trouble leaves it open; anything else is the harness's own mistake.
        assert!(status.is_success() || status.is_server_error() || status.as_u16() == 401, "revocation refused with {status}: {answer}");
        let revoked = match answer["committed_us"].as_u64() {
            Some(at) => Revoked::At(at),
            None if status.is_success() => Revoked::Before,
            None => Revoked::Unknown,
        };
        Some((status.as_u16(), revoked))
    }

    /// Epoch and number of the head, and its hash, by a signed answer.
    pub async fn head(&self) -> Option<((u64, u64), String)> {
        let nonce = hex::encode([9; 16]);
        let asked = self.http.get(format!("{}/v1/feed/head?tenant=acme&nonce={nonce}", self.url())).timeout(ANSWER_WAIT).send().await.ok()?;
        let answer: Value = asked.json().await.ok()?;
        let signed = SignedMessage::from_bytes(&BASE64.decode(answer["message"].as_str()?).unwrap()).unwrap();
        let Ok(Message::Heartbeat(beat)) = Message::from_bytes(signed.unverified_payload()) else { panic!("the head is a heartbeat") };
        Some(((beat.epoch, beat.head_seq), hex::encode(beat.head_hash)))
    }
}

/// `procura keys …`
async fn keys(args: &[&str]) -> Value {
    let ran = procura(&[&["keys"], args, &["--json"]].concat()).await;
    assert!(ran.status.success(), "keys {args:?}: {}", text(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap_or_default()
}

/// Sends a signal to a process of ours.
pub async fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().await.unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}

const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than this and the outcome counts as unknown.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
