//! A verifier as a process: follows the feed, decides on canaries without pause, and answers what it saw.
//!
//! ```text
//! canary N TOKEN KEY     decide on it from now on (base64url, hex)
//! wall MS                its wall clock is off by so much from now on
//! mark                   the longest staleness is counted from now on
//! status                 one line of JSON
//! ```

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_verifier::call::{Arguments, Call, Seed};
use procura_verifier::claims::{Audience, DataClass};
use procura_verifier::decision::{Asked, Cause, Decision, ToolPolicy, decide};
use procura_verifier::feed::redis::{RedisConfig, RedisStatus};
use procura_verifier::feed::sse::{FeedClient, FeedConfig, StreamUse, http_client};
use procura_verifier::ids::{BootTime, Clock, SystemClock, UtcMillis};
use procura_verifier::key_list::KeyList;
use procura_verifier::proof::{UnverifiedProof, VerifiedProof};
use procura_verifier::revocation::{Frozen, Lineage, Lookup, RevocationView, View};
use procura_verifier::token::{UnverifiedToken, VerifiedToken};
use procura_verifier::trust::TrustFile;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// By which ways a verifier hears.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub struct Ears {
    /// Pulls, tail and, if `stream`, an event stream.
    pub authority: String,
    pub stream: bool,
    /// URL, and what the channel's name begins with if not as usual.
    pub redis: Option<(String, Option<String>)>,
}

impl Ears {
    /// A stream alone.
    pub fn stream(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), stream: true, redis: None }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap()
    }
}

/// What one verifier saw.
#[derive(Serialize, Deserialize, Debug, Default, Clone)]
pub struct Status {
    /// Epoch and number.
    pub watermark: (u64, u64),
    pub hash: String,
    /// By number: microseconds of the boot clock inside the last allow, the word of the last verdict, and allows after a denial as revoked.
    pub canaries: Vec<(u64, String, u64)>,
    /// Denials for want of freshness.
    pub stale: u64,
    /// Longest time, in microseconds, for which the first canary was denied as stale without a pause, since the last mark.
    pub longest_stale_us: u64,
    pub sweeps: u64,
    /// Numbered messages read one by one: not those that a snapshot stood for.
    pub batches: u64,
    /// Messages that came over Redis, of these refused, and times that it was left alone for a flood.
    pub redis: (u64, u64, u64),
    pub alarms: Vec<String>,
    pub last_error: Option<String>,
}

/// The process, from outside. Killed when dropped.
pub struct Watcher {
    /// When it was started, by the boot clock.
    pub born: u64,
    child: Child,
    tell: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Watcher {
    pub fn start(ears: &Ears, trust: &Path, control: bool) -> Self {
        let mode = if control { "verifier-without-bound" } else { "verifier" };
        Self::spawn(Command::new(std::env::current_exe().unwrap()).args([mode, &ears.to_json()]).arg(trust))
    }

    /// The same with a folder, from which it hands back what an authority has lost.
    pub fn start_keeping(ears: &Ears, trust: &Path, folder: &Path) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()).args(["verifier", &ears.to_json()]).arg(trust).env(KEPT, folder))
    }

    /// The same, its process begun by another program.
    pub fn start_by(program: &[&str], ears: &Ears, trust: &Path) -> Self {
        Self::spawn(Command::new(program[0]).args(&program[1..]).arg(std::env::current_exe().unwrap()).args(["verifier", &ears.to_json()]).arg(trust))
    }

    fn spawn(command: &mut Command) -> Self {
        let born = SystemClock.boot().0;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let tell = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { born, child, tell, said }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn resident_kib(&self) -> u64 {
        crate::support::resident_kib(self.pid())
    }

    pub async fn tell(&mut self, line: &str) {
        self.tell.write_all(format!("{line}\n").as_bytes()).await.expect("the verifier listens");
    }

    pub async fn canary(&mut self, number: usize, token: &[u8], key: &SigningKey) {
        self.tell(&format!("canary {number} {} {}", BASE64.encode(token), hex::encode(key.to_bytes()))).await;
    }

    pub async fn status(&mut self) -> Status {
        self.tell("status").await;
        let line = tokio::time::timeout(Duration::from_secs(10), self.said.next_line()).await.expect("the verifier answers").unwrap();
        serde_json::from_str(&line.expect("the verifier runs")).unwrap()
    }
}

/// Whether decisions heed the age of the view.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Kept,
    /// For the control: a verifier as no one should write it.
    Ignored,
}

impl Bound {
    pub fn of(mode: &str) -> Option<Self> {
        match mode {
            "verifier" => Some(Self::Kept),
            "verifier-without-bound" => Some(Self::Ignored),
            _ => None,
        }
    }
}

/// The view, always fresh.
struct Unbound<'a>(&'a View);

impl RevocationView for Unbound<'_> {
    fn fresh_as_of(&self) -> Option<BootTime> {
        Some(SystemClock.boot())
    }
    fn lookup(&self, lineage: &Lineage<'_>) -> Lookup {
        self.0.lookup(lineage)
    }
    fn frozen(&self, lineage: &Lineage<'_>, utc: UtcMillis) -> Frozen {
        self.0.frozen(lineage, utc)
    }
    fn was_complete(&self) -> bool {
        self.0.was_complete()
    }
    fn key_list(&self) -> Arc<KeyList> {
        self.0.key_list()
    }
    fn utc(&self, now: BootTime) -> Option<UtcMillis> {
        self.0.utc(now)
    }
}

struct Canary {
    token: VerifiedToken,
    proof: VerifiedProof<'static>,
    last_allow: u64,
    verdict: &'static str,
    revoked: bool,
    after_revoked: u64,
}

/// The wall clock can be stepped, and what the boot clock last said is kept: an allow is timed by the last reading inside `decide`.
struct TestClock {
    wall_ms: AtomicI64,
    last: AtomicU64,
}

impl Clock for TestClock {
    fn boot(&self) -> BootTime {
        let now = SystemClock.boot();
        self.last.store(now.0, Ordering::Relaxed);
        now
    }
    fn wall(&self) -> UtcMillis {
        UtcMillis(SystemClock.wall().0.saturating_add_signed(self.wall_ms.load(Ordering::Relaxed)))
    }
}

#[derive(Default)]
struct Seen {
    canaries: Mutex<Vec<Canary>>,
    stale: AtomicU64,
    sweeps: AtomicU64,
    stop: AtomicBool,
    alarms: Mutex<Vec<String>>,
    /// Since when the first canary has been denied as stale, and for how long at most; microseconds, 0 for not at all.
    stale_since: AtomicU64,
    longest_stale: AtomicU64,
}

impl Seen {
    /// The first canary's verdict: it is never revoked.
    fn first(&self, stale: bool) {
        let now = SystemClock.boot().0;
        let since = self.stale_since.load(Ordering::Relaxed);
        match (stale, since) {
            (true, 0) => self.stale_since.store(now, Ordering::Relaxed),
            (true, since) => _ = self.longest_stale.fetch_max(now.saturating_sub(since), Ordering::Relaxed),
            (false, _) => self.stale_since.store(0, Ordering::Relaxed),
        }
    }
}

/// The process, from inside. Ends with its standard input.
pub fn run(ears: &str, trust: &str, bound: Bound) {
    let ears: Ears = serde_json::from_str(ears).unwrap();
    rustls::crypto::ring::default_provider().install_default().expect("the first TLS provider");
    let trust = TrustFile::from_json(&std::fs::read(PathBuf::from(trust)).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let clock = Arc::new(TestClock { wall_ms: AtomicI64::new(0), last: AtomicU64::new(0) });
    let view = Arc::new(View::new("payments".parse().unwrap(), trust.keys().unwrap()));
    let seen = Arc::new(Seen::default());
    let mut config = FeedConfig::new(ears.authority, trust.anchors, http_client().unwrap());
    config.stream = if ears.stream { StreamUse::Held } else { StreamUse::None };
    config.redis = ears.redis.map(|(url, prefix)| {
        let mut redis = RedisConfig::at(url.parse().unwrap());
        redis.channel_prefix = prefix.unwrap_or(redis.channel_prefix);
        redis.open().unwrap()
    });
    config.folder = std::env::var_os(KEPT).map(PathBuf::from);
    // The spinner notes readings of its own clock only.
    config.clock = Arc::new(Walled(Arc::clone(&clock)));
    config.on_alarm = Box::new({
        let seen = Arc::clone(&seen);
        move |alarm| seen.alarms.lock().unwrap().push(format!("{alarm:?}"))
    });
    let client = {
        let _inside = runtime.enter();
        FeedClient::start(config, Arc::clone(&view))
    };
    let spinner = std::thread::spawn({
        let (view, clock, seen) = (Arc::clone(&view), Arc::clone(&clock), Arc::clone(&seen));
        let (inside, pull) = (runtime.handle().clone(), client.puller());
        move || {
            let _inside = inside.enter();
            spin(&view, &clock, &seen, bound, pull);
        }
    });
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["canary", number, token, key] => {
                let canary = canary(&BASE64.decode(token).unwrap(), key, &view);
                let mut canaries = seen.canaries.lock().unwrap();
                assert_eq!(canaries.len(), number.parse::<usize>().unwrap(), "canaries come in order");
                canaries.push(canary);
            }
            ["wall", ms] => clock.wall_ms.store(ms.parse().unwrap(), Ordering::Relaxed),
            ["mark"] => {
                seen.stale_since.store(0, Ordering::Relaxed);
                seen.longest_stale.store(0, Ordering::Relaxed);
            }
            ["status"] => println!("{}", serde_json::to_string(&status(&seen, &client)).unwrap()),
            _ => panic!("what is `{line}`"),
        }
    }
    seen.stop.store(true, Ordering::Relaxed);
    spinner.join().unwrap();
}

/// The same clocks, without leaving a note.
struct Walled(Arc<TestClock>);

impl Clock for Walled {
    fn boot(&self) -> BootTime {
        SystemClock.boot()
    }
    fn wall(&self) -> UtcMillis {
        self.0.wall()
    }
}

fn canary(token: &[u8], key: &str, view: &View) -> Canary {
    let mut seed = [0; 32];
    hex::decode_to_slice(key, &mut seed).unwrap();
    // Kept for as long as the process lives.
    let audience: &'static Audience = Box::leak(Box::new("payments/1".parse().unwrap()));
    let args: &'static Arguments = Box::leak(Box::new(Arguments::from_json(br#"{"amount":{"minor":100,"unit":"EUR"}}"#).unwrap()));
    let call = Call {
        tenant: Box::leak(Box::new(view.tenant().clone())),
        audience,
        tool: Box::leak(Box::new("payments".parse().unwrap())),
        action: Box::leak(Box::new("transfer".parse().unwrap())),
        resource: Box::leak(Box::new("acct/eu/7".parse().unwrap())),
        args,
        data_class: DataClass::Internal,
    };
    let token = UnverifiedToken::parse(token).unwrap().verify(&view.key_list()).expect("a token of the authority");
    let proof = UnverifiedProof::sign(&SigningKey::from_bytes(&seed), token.hash(), &call, SystemClock.wall(), &[7; 16], [5; 16], Seed::from_bytes([3; 32]));
    let proof = proof.verify(token.last_holder(), token.hash(), Box::leak(Box::new(call))).expect("a proof");
    Canary { token, proof, last_allow: 0, verdict: "none", revoked: false, after_revoked: 0 }
}

/// A stale view is pulled, as the layer of a tool does it; many ask for one pull.
fn spin(view: &View, clock: &TestClock, seen: &Seen, bound: Bound, pull: impl Fn()) {
    while !seen.stop.load(Ordering::Relaxed) {
        let sweep = seen.sweeps.fetch_add(1, Ordering::Relaxed);
        for (number, canary) in seen.canaries.lock().unwrap().iter_mut().enumerate() {
            // What is known as revoked is looked at now and then: only an allow would still be news.
            if canary.revoked && !sweep.is_multiple_of(16) {
                continue;
            }
            let arrived = SystemClock.boot();
            let asked = Asked::Proven(canary.proof.proven());
            let decision = match bound {
                Bound::Kept => decide(&canary.token, asked, &ToolPolicy::STRICT, view, clock, arrived),
                Bound::Ignored => decide(&canary.token, asked, &ToolPolicy::STRICT, &Unbound(view), clock, arrived),
            };
            match decision {
                Decision::Allow(_) => {
                    canary.last_allow = clock.last.load(Ordering::Relaxed);
                    canary.verdict = "allow";
                    canary.after_revoked += u64::from(canary.revoked);
                }
                Decision::Deny(cause) => {
                    canary.verdict = match cause {
                        Cause::Revoked(_) => "revoked",
                        Cause::Stale => "stale",
                        _ => "other",
                    };
                    canary.revoked |= canary.verdict == "revoked";
                    seen.stale.fetch_add(u64::from(cause == Cause::Stale), Ordering::Relaxed);
                }
            }
            if number == 0 {
                seen.first(canary.verdict == "stale");
                if canary.verdict == "stale" {
                    pull();
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn status(seen: &Seen, client: &FeedClient) -> Status {
    let feed = client.status();
    let (epoch, seq, hash) = feed.watermark;
    let RedisStatus { received, refused, floods, .. } = feed.redis;
    Status {
        watermark: (epoch, seq),
        hash: hex::encode(hash),
        canaries: seen.canaries.lock().unwrap().iter().map(|c| (c.last_allow, c.verdict.to_owned(), c.after_revoked)).collect(),
        stale: seen.stale.load(Ordering::Relaxed),
        longest_stale_us: seen.longest_stale.load(Ordering::Relaxed),
        batches: feed.counters.batches,
        redis: (received, refused, floods),
        sweeps: seen.sweeps.load(Ordering::Relaxed),
        alarms: seen.alarms.lock().unwrap().clone(),
        last_error: feed.last_error,
    }
}

/// Where it keeps what it hears; nowhere if it is not named.
const KEPT: &str = "PROCURA_WATCHER_FOLDER";
const PAUSE: Duration = Duration::from_micros(500);
