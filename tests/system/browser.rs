//! The pages in a real browser: `tests/browser/run.mjs` drives Debian's Chromium, this side holds what is not the browser's:
//! the authority, the agents' keys and calls, and the tools.
//!
//! They talk in lines of JSON: the script asks `{"do": …}` and is answered. Screenshots stay in the target folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use procura_sdk::caller::Answered;
use procura_sdk::client::{AgentClient, MintRequest};
use procura_sdk::held::HeldToken;
use procura_verifier::ids::{AgentId, Clock as _, Key, SystemClock};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::support::{Authority, PATIENCE, Tool, alone, binary, http, key, path, rng, wish};

/// How long the whole may take beside others on two busy cores; alone it takes a quarter of that.
const WHOLE: Duration = Duration::from_secs(480);

#[tokio::test(flavor = "multi_thread")]
async fn people_find_their_way_with_a_mouse_with_keys_alone_and_without_script() {
    let _machine = alone().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    assert!(script.join("node_modules/playwright-core").is_dir(), "run `npm ci` in {} first (`scripts/test` does)", script.display());
    let chromium = chromium();
    let shots = binary().parent().unwrap().join("screenshots");
    _ = std::fs::remove_dir_all(&shots);
    std::fs::create_dir_all(&shots).unwrap();

    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::start(scratch.path()).await;
    let mut child = Command::new("node")
        .arg(script.join("run.mjs"))
        .env("PROCURA_URL", &site.authority.url)
        .env("PROCURA_CHROMIUM", chromium)
        .env("PROCURA_SHOTS", &shots)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts: `scripts/test` installs it");
    let mut answers = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let talk = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let asked: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the script says `{line}`"));
            let answer = site.answer(&asked).await;
            answers.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    };
    tokio::time::timeout(WHOLE, talk).await.unwrap_or_else(|_| panic!("not done after {} s; screenshots so far: {}", WHOLE.as_secs(), shots.display()));
    let ended = child.wait().await.unwrap();
    assert!(ended.success(), "the script ended with {ended}: it says above what it missed; screenshots: {}", shots.display());
}

/// Debian's, or the one that is named.
fn chromium() -> PathBuf {
    let named = std::env::var_os("PROCURA_CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    assert!(named.is_file(), "expected Chromium at {}: `scripts/test` installs it", named.display());
    named
}

/// An authority, two tools that listen, and one verifier that was enrolled and never heard of.
struct Site {
    authority: Authority,
    tools: Vec<Tool>,
    keys: HashMap<String, SigningKey>,
    tokens: HashMap<String, HeldToken>,
}

impl Site {
    async fn start(scratch: &Path) -> Self {
        let authority = Authority::start(&scratch.join("authority")).await;
        let sam = authority.person("sam").await;
        let mut tools = Vec::new();
        for audience in ["payments/1", "payments/2"] {
            let verifier_key = key(&mut rng());
            let verifier = sam.enrol(audience, &verifier_key).await.unwrap();
            tools.push(Tool::start(&authority.trust_path(), scratch, &authority.url, audience, verifier, &verifier_key).await);
        }
        sam.enrol("payments/3", &key(&mut rng())).await.unwrap();
        Self { authority, tools, keys: HashMap::new(), tokens: HashMap::new() }
    }

    async fn answer(&mut self, asked: &Value) -> Value {
        let text = |field: &str| asked[field].as_str().unwrap_or_else(|| panic!("no `{field}` in {asked}")).to_owned();
        match text("do").as_str() {
            "key" => json!({ "key": Key::of(self.keys.entry(text("agent")).or_insert_with(|| key(&mut rng()))) }),
            "sign" => {
                let signed = self.keys[&text("agent")].sign(&hex::decode(text("message")).unwrap());
                json!({ "signature": hex::encode(signed.to_bytes()) })
            }
            "mint" => {
                let request = MintRequest { delegation: text("delegation").parse().unwrap(), ttl_secs: None };
                let token = self.agent(&text("agent"), &text("id")).mint(&request, &mut rng()).await.unwrap();
                self.tokens.insert(text("agent"), token);
                json!({})
            }
            // To another agent, by its card: offline, and nobody knows until a receipt shows it.
            "pass_on" => {
                let (from, to) = (text("from"), text("to"));
                let card = self.agent(&to, &text("id")).card(&mut rng()).await.unwrap();
                let linked = self.tokens[&from].link(&card, 1, vec![], &self.keys[&from], &mut rng()).unwrap();
                self.tokens.insert(to, linked);
                json!({})
            }
            "call" => self.call(&text("agent"), &text("resource"), asked["minor"].as_i64().unwrap()).await,
            "pause" => self.signal("-STOP"),
            "resume" => self.signal("-CONT"),
            other => panic!("the script asks for `{other}`"),
        }
    }

    fn agent(&self, name: &str, id: &str) -> AgentClient<SystemClock> {
        AgentClient::new(http(), &self.authority.url, id.parse::<AgentId>().unwrap(), self.keys[name].clone(), SystemClock)
    }

    /// Until the first tool has an answer of its own: one that has just started waits for the feed.
    async fn call(&self, agent: &str, resource: &str, minor: i64) -> Value {
        let (token, wish, began) = (self.tokens[agent].seal().unwrap(), wish("acme", resource, minor), Instant::now());
        loop {
            let tool = &self.tools[0].instance;
            match tool.call(&path(&wish), &token, &self.keys[agent], &wish, SystemClock.wall(), &mut rng()).await.unwrap() {
                Answered::Done(_) => return json!({ "status": 200 }),
                Answered::Refused { status, code, .. } if !matches!(code.as_str(), "stale" | "unavailable" | "replay") => {
                    return json!({ "status": status, "code": code });
                }
                Answered::Refused { .. } => assert!(began.elapsed() < PATIENCE, "the tool does not answer"),
            }
        }
    }

    /// The second tool's process: stopped, it says nothing and can allow nothing.
    fn signal(&self, signal: &str) -> Value {
        let sent = std::process::Command::new("kill").args([signal, &self.tools[1].pid().to_string()]).status().unwrap();
        assert!(sent.success());
        json!({})
    }
}
