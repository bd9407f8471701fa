//! Processes of the binary, people at their API, and requests past any client's manners.

pub mod postgres;
pub mod raw;
pub mod redis;
pub mod serve;
#[allow(dead_code, reason = "the fault lines use the rest")]
pub mod standby;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Once;
use std::time::Duration;

use ed25519_dalek::SigningKey;
pub use procura_authority::demo::people::{Agent, Person, expect, field};
use procura_authority::log::bundle::{Bundle, Limits};
use procura_sdk::caller::{ToolInstance, Wish};
use procura_sdk::client::MintRequest;
use procura_sdk::held::HeldToken;
use procura_verifier::call::Arguments;
use procura_verifier::ids::{DelegationId, VerifierId};
use procura_verifier::trust::TrustFile;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests that measure milliseconds run alone, the others beside each other.
static MACHINE: RwLock<()> = RwLock::const_new(());

pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

pub async fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// The binary, beside the folder of this test's own, built from the sources of this moment.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("PROCURA_BIN") {
        return named.into();
    }
    let path = std::env::current_exe().unwrap().parent().and_then(Path::parent).expect("a target folder").join("procura");
    let build = "run `cargo build -p procura-authority` first (`scripts/test` does)";
    assert!(path.is_file(), "the system tests need the binary {}: {build}", path.display());
    // A test of yesterday's binary shows nothing. What it was built from stands in cargo's list beside it.
    let changed = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let sources = std::fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    let newer = sources.split_whitespace().skip(1).find(|source| changed(Path::new(source)) > changed(&path));
    assert_eq!(newer, None, "{} is older than this source: {build}", path.display());
    path
}

pub fn http() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| rustls::crypto::ring::default_provider().install_default().expect("the first TLS provider"));
    reqwest::Client::builder().tcp_nodelay(true).timeout(PATIENCE).build().unwrap()
}

/// Runs a command to its end.
pub async fn procura(args: &[&str]) -> Output {
    let run = Command::new(binary()).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(PATIENCE * 4, run).await.expect("the command ends").unwrap()
}

/// Runs a command on what stands in `stdin`.
pub async fn procura_fed(args: &[&str], stdin: &[u8]) -> Output {
    use tokio::io::AsyncWriteExt as _;
    let mut child = Command::new(binary()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    // A command that has read enough closes its end.
    _ = child.stdin.take().unwrap().write_all(stdin).await;
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the command ends").unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `procura dev` as a process. Killed when dropped.
pub struct Authority {
    child: Child,
    pub url: String,
    pub data: PathBuf,
    said: PathBuf,
    pub http: reqwest::Client,
}

impl Authority {
    pub async fn start(data: &Path) -> Self {
        Self::start_at(data, "127.0.0.1:0").await
    }

    pub async fn start_at(data: &Path, listen: &str) -> Self {
        Self::start_with(data, listen, &[]).await
    }

    /// With more arguments.
    pub async fn start_with(data: &Path, listen: &str, more: &[&str]) -> Self {
        let said = data.with_extension("stderr");
        let stderr = std::fs::File::options().create(true).append(true).open(&said).unwrap();
        let mut child = Command::new(binary())
            .args(["dev", "--json", "--listen", listen, "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("`procura dev` starts").unwrap();
        let line = line.unwrap_or_else(|| panic!("`procura dev` ended: {}", std::fs::read_to_string(&said).unwrap_or_default()));
        let at: Value = serde_json::from_str(&line).expect("one line of JSON");
        Self { child, url: field(&at, "url").unwrap().to_owned(), data: data.to_owned(), said, http: http() }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What it wrote to standard error so far, in all its lives on this folder.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub fn trust_path(&self) -> PathBuf {
        self.data.join("trust.json")
    }

    pub fn trust(&self) -> TrustFile {
        TrustFile::from_json(&std::fs::read(self.trust_path()).unwrap()).unwrap()
    }

    pub async fn person(&self, name: &str) -> Person {
        Person::sign_in(&self.http, &self.url, name).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    pub async fn get_as(&self, who: &Person, path: &str) -> (u16, Vec<u8>) {
        let answer = self.http.get(format!("{}{path}", self.url)).bearer_auth(&who.session().session).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    /// `procura log export` over the socket in the data folder.
    pub async fn export(&self, name: &str) -> PathBuf {
        let out = self.data.with_file_name(name);
        let ran = procura(&["log", "export", "--data", self.data.to_str().unwrap(), "--out", out.to_str().unwrap()]).await;
        assert!(ran.status.success(), "log export: {}", text(&ran.stderr));
        out
    }
}

/// A bundle, checked up to its leaves.
pub fn load(bundle: &Path, trust: &TrustFile) -> Bundle {
    Bundle::load(std::fs::File::open(bundle).unwrap(), &trust.anchors, &trust.tenant, Limits::default()).expect("a bundle")
}

/// Alice's agent with 500.00 EUR per transfer, one hour, two links.
pub async fn delegated(alice: &Person, name: &str, key: &SigningKey) -> (Agent, DelegationId) {
    let agent = alice.register(name, key, &"acme".parse().unwrap()).await.unwrap();
    let granted = expect(alice.delegate(&agent, 50_000).await.unwrap()).unwrap();
    (agent, field(&granted, "delegation").unwrap().parse().unwrap())
}

pub async fn mint(authority: &Authority, agent: &Agent, delegation: DelegationId) -> HeldToken {
    agent.at(&authority.http, &authority.url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await.unwrap()
}

/// One instance of the sample tool as a process. Killed when dropped.
pub struct Tool {
    child: Child,
    pub url: String,
    pub instance: ToolInstance,
}

impl Tool {
    pub async fn start(trust: &Path, key_folder: &Path, authority: &str, audience: &str, verifier: VerifierId, key: &SigningKey) -> Self {
        let key_file = key_folder.join(format!("verifier-{}.key", audience.replace('/', "-")));
        procura_authority::signer::file::write_key(&key_file, key).unwrap();
        let mut child = Command::new(binary())
            .args(["sample-tool", "--authority", authority, "--audience", audience, "--verifier", &verifier.to_string(), "--trust"])
            .arg(trust)
            .arg("--key")
            .arg(&key_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the tool starts").unwrap().expect("its URL");
        let instance = ToolInstance::new(http(), url.clone(), audience.parse().unwrap());
        Self { child, url, instance }
    }

    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A transfer of euro cents to an account of a tenant.
pub fn wish(tenant: &str, resource: &str, minor: i64) -> Wish {
    let args = Arguments::from_json(format!(r#"{{"amount":{{"minor":{minor},"unit":"EUR"}}}}"#).as_bytes()).unwrap();
    Wish { tenant: tenant.parse().unwrap(), tool: "payments".parse().unwrap(), action: "transfer".parse().unwrap(), resource: resource.parse().unwrap(), args }
}

pub fn path(wish: &Wish) -> String {
    format!("/{}/{}/{}", wish.tenant, wish.action, wish.resource)
}

pub fn rng() -> StdRng {
    StdRng::from_os_rng()
}

pub fn key(rng: &mut StdRng) -> SigningKey {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    SigningKey::from_bytes(&seed)
}

/// How long anything may take on a busy machine before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);
