//! The authority's side: processes of the binary on one database, a person, an agent and its tokens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_authority::demo::people::{Agent, Person, delegation, expect, field};
use procura_sdk::client::{AgentClient, ClientError, MintRequest};
use procura_verifier::feed::message::Heartbeat;
use procura_verifier::feed::{Message, SignedMessage};
use procura_verifier::ids::{DelegationId, SystemClock};
use procura_verifier::wire::Canonical as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::shared::Shared;
use crate::support::redis::RedisProcess;
use crate::support::{binary, http, key, procura, rng, text};
use crate::wire::Wire;

/// An authority. Everything ends when dropped.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub replicas: Vec<Replica>,
    /// Which replica people and agents ask.
    pub asked: usize,
    /// What its replicas share; none for `procura dev`.
    pub shared: Option<Shared>,
    /// Beside the streams.
    pub redis: Option<RedisProcess>,
    /// The replicas' way to it.
    pub redis_way: Option<Wire>,
    /// Where verifiers listen already, and the replicas will publish.
    pub next_redis: Option<RedisProcess>,
    /// What the authority said an hour ago: messages of a stream, and an answer for the head.
    pub hour_old: Option<(Vec<Vec<u8>>, Vec<u8>)>,
    /// Longer than this and the outcome of a revocation counts as unknown.
    pub(crate) answer_wait: Duration,
    public_url: String,
    alice: Option<Person>,
    pub key: SigningKey,
    agent: Option<(Agent, DelegationId)>,
}

/// One process of the binary.
pub struct Replica {
    /// The name of its folder.
    name: String,
    child: Option<Child>,
    pub at: SocketAddr,
    /// Reaches it by whatever URL.
    pub http: reqwest::Client,
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
        let mut site = Self::empty();
        site.first(&[]).await;
        site.people().await;
        site
    }

    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (replicas, key) = (Vec::new(), key(&mut rng()));
        Self {
            folder,
            replicas,
            asked: 0,
            shared: None,
            redis: None,
            redis_way: None,
            next_redis: None,
            hour_old: None,
            answer_wait: Duration::from_millis(500),
            public_url: String::new(),
            alice: None,
            key,
            agent: None,
        }
    }

    /// Starts the replica that gives the authority its URL.
    pub(crate) async fn first(&mut self, args: &[&str]) {
        let listen = self.shared.as_ref().map_or("127.0.0.1:0", |s| s.serve.public_url.strip_prefix("http://").unwrap());
        self.start("authority", listen.parse().unwrap(), args).await;
        self.public_url = format!("http://{}", self.at(0));
    }

    /// The same with its wall clock off by so much.
    pub(crate) async fn first_at(&mut self, wall_ms: i64) {
        let folder = self.failpoints("authority");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("wall-ms"), wall_ms.to_string()).unwrap();
        self.first(&[]).await;
    }

    /// Starts one more.
    pub(crate) async fn start(&mut self, name: &str, listen: SocketAddr, args: &[&str]) {
        let mut replica = Replica { name: name.to_owned(), child: None, at: listen, http: http() };
        std::fs::create_dir_all(self.failpoints(name)).unwrap();
        if self.shared.is_some() {
            std::fs::write(self.failpoints(name).join("snapshot-messages"), SNAPSHOT_MESSAGES).unwrap();
        }
        self.spawn(&mut replica, args).await;
        if self.shared.is_some() {
            let proxy = reqwest::Proxy::http(format!("http://{}", replica.at)).unwrap();
            replica.http = reqwest::Client::builder().tcp_nodelay(true).timeout(PATIENCE).proxy(proxy).build().unwrap();
        }
        self.replicas.push(replica);
    }

    fn command(&self, replica: &Replica) -> Command {
        let listen = replica.at.to_string();
        let redis = self.redis_way.as_ref().map(|way| format!("redis://{}", way.at));
        let mut command = match &self.shared {
            Some(shared) => {
                let mut serve = shared.serve.command(&replica.name);
                serve.env("PROCURA_SERVER__LISTEN", listen);
                if let Some(url) = redis {
                    serve.env("PROCURA_REDIS__URL", url);
                }
                serve
            }
            None => {
                let mut dev = Command::new(binary());
                dev.args(["dev", "--json", "--listen", &listen, "--data"]).arg(self.data(&replica.name));
                if let Some(url) = redis {
                    dev.args(["--redis", &url]);
                }
                dev
            }
        };
        command.env("PROCURA_FAILPOINTS", self.failpoints(&replica.name)).kill_on_drop(true);
        command
    }

    async fn spawn(&self, replica: &mut Replica, args: &[&str]) {
        let log = self.folder.path().join("authority.stderr");
        let stderr = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = self.command(replica).args(args).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the authority starts").unwrap();
        let line = line.unwrap_or_else(|| panic!("the authority ended: {}", std::fs::read_to_string(&log).unwrap_or_default()));
        let said: Value = serde_json::from_str(&line).expect("one line of JSON");
        replica.at = field(&said, "url").unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        replica.child = Some(child);
    }

    /// Alice, her agent, and what it may do.
    pub(crate) async fn people(&mut self) {
        let alice = Person::sign_in(self.http(), &self.public_url, "alice").await.unwrap();
        let agent = alice.register("bot", &self.key, &"acme".parse().unwrap()).await.unwrap();
        let granted = expect(alice.delegate(&agent, 50_000).await.unwrap()).unwrap();
        self.agent = Some((agent, delegation(&granted).unwrap()));
        self.alice = Some(alice);
    }

    pub fn at(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].at
    }

    /// Where its replicas are.
    pub fn all(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|r| r.at).collect()
    }

    /// To the replica that is asked.
    fn http(&self) -> &reqwest::Client {
        &self.replicas[self.asked].http
    }

    /// The same whichever replica it is.
    pub fn url(&self) -> &str {
        &self.public_url
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn failpoints(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}-failpoints"))
    }

    /// The socket of a replica, for whoever operates it.
    pub fn operator(&self, replica: usize) -> reqwest::Client {
        let socket = self.data(&self.replicas[replica].name).join("procura.sock");
        reqwest::Client::builder().unix_socket(socket).timeout(PATIENCE).build().unwrap()
    }

    /// Her session and pseudonym.
    pub fn alice(&self) -> &Person {
        self.alice.as_ref().unwrap()
    }

    /// The agent at a replica, and its delegation.
    pub fn agent(&self, replica: usize) -> (AgentClient<SystemClock>, DelegationId) {
        let (agent, delegation) = self.agent.as_ref().unwrap();
        (agent.at(&self.replicas[replica].http, &self.public_url), *delegation)
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
            tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends by itself, with --all-features at a failpoint").unwrap();
        }
    }

    /// Once more, at the same address.
    pub async fn again(&mut self, replica: usize) {
        let mut one = self.replicas.remove(replica);
        self.spawn(&mut one, &[]).await;
        self.replicas.insert(replica, one);
    }

    /// SIGTERM; returns when it has ended.
    pub async fn terminate(&mut self, replica: usize) {
        signal(self.pid(replica), "TERM").await;
        self.ended(replica).await;
    }

    /// What it says on standard error when it starts and ends at once.
    pub async fn refuses(&self, replica: usize) -> String {
        let one = &self.replicas[replica];
        let run = self.command(one).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
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
    pub fn failpoint(&self, replica: usize, name: &str, content: Option<&str>) {
        let file = self.failpoints(&self.replicas[replica].name).join(name);
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
    pub fn failed_at(&self, replica: usize, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.failpoints(&self.replicas[replica].name).join(name).with_extension("at")).ok()?.parse().ok()
    }

    /// A sealed token and its id.
    pub async fn mint(&self) -> (String, Vec<u8>) {
        let (agent, delegation) = self.agent(self.asked);
        let began = Instant::now();
        let held = loop {
            match agent.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await {
                Ok(held) => break held,
                // Nothing was written: to be tried again.
                Err(ClientError::Refused { status: 503, .. }) if began.elapsed() < PATIENCE => {}
                Err(other) => panic!("{other}: {}", std::fs::read_to_string(self.folder.path().join("authority.stderr")).unwrap_or_default()),
            }
        };
        (held.claims().claimed().tid.to_string(), held.seal().unwrap().as_bytes().to_vec())
    }

    /// Revokes a token. Whose session ended with a step of the clock signs in again, once.
    pub async fn revoke(&mut self, tid: &str) -> Revoked {
        match self.ask_to_revoke(tid).await {
            Some((401, _)) => self.alice = Some(Person::sign_in(self.http(), &self.public_url, "alice").await.unwrap()),
            Some((_, answer)) => return answer,
            None => return Revoked::Unknown,
        }
        self.ask_to_revoke(tid).await.map_or(Revoked::Unknown, |(_, answer)| answer)
    }

    /// Status and answer; none if there was none.
    pub async fn ask_to_revoke(&self, tid: &str) -> Option<(u16, Revoked)> {
        let body = serde_json::json!({ "what": "token", "id": tid, "reason": "faults" });
        let session = &self.alice().session().session;
        let asked = self.http().post(format!("{}/v1/revocations", self.url())).bearer_auth(session).json(&body).timeout(self.answer_wait).send().await.ok()?;
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

    /// Epoch and number of the head, and its hash: by the database, or by a signed answer.
    pub async fn head(&self) -> Option<((u64, u64), String)> {
        if let Some(shared) = &self.shared {
            return Some(shared.head().await);
        }
        let beat = heartbeat(&self.signed_head().await?);
        Some(((beat.epoch, beat.head_seq), hex::encode(beat.head_hash)))
    }

    pub(crate) async fn signed_head(&self) -> Option<Vec<u8>> {
        let nonce = hex::encode([9; 16]);
        let asked = self.http().get(format!("{}/v1/feed/head?tenant=acme&nonce={nonce}", self.url())).timeout(self.answer_wait).send().await.ok()?;
        let answer: Value = asked.json().await.ok()?;
        Some(BASE64.decode(answer["message"].as_str()?).unwrap())
    }
}

pub fn heartbeat(message: &[u8]) -> Heartbeat {
    let signed = SignedMessage::from_bytes(message).unwrap();
    match Message::from_bytes(signed.unverified_payload()) {
        Ok(Message::Heartbeat(beat)) => beat,
        other => panic!("expected a heartbeat, got {other:?}"),
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

/// Instead of some thousand, so that there are snapshots within seconds.
const SNAPSHOT_MESSAGES: &str = "200";
const PATIENCE: Duration = Duration::from_secs(30);
