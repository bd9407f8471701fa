//! Two replicas of `procura serve` before a primary and its streaming standby, each replica by a pooler of its own, and a verifier at each.

use std::collections::BTreeSet;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use procura_sdk::client::MintRequest;
use procura_verifier::ids::DelegationId;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::namespace::Cable;
use crate::scene::Outcome;
use crate::site::Revoked;
use crate::support::serve::{Replica, Site};
use crate::support::standby::{Folder, Node};
use crate::support::{Agent, PATIENCE, delegated, key, procura, rng, text};
use crate::watcher::{Ears, Status, Watcher};
use crate::wire::Wire;

/// Whether COMMIT waits for the standby.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    Synchronous,
    Asynchronous,
}

/// All of it. Ends when dropped.
pub struct Pair {
    pub replicas: [Option<Replica>; 2],
    /// The verifier at each. The first keeps what it hears in a folder.
    pub watchers: Vec<Watcher>,
    pub cables: Vec<Cable>,
    /// Each replica's way to the database.
    pub poolers: [Wire; 2],
    /// The standby's way to the primary.
    pub link: Wire,
    pub primary: Node,
    pub standby: Node,
    site: Site,
    agent: Option<(Agent, DelegationId)>,
    holder: SigningKey,
    listen: [String; 2],
    canaries: Vec<Canary>,
    next: usize,
    folder: tempfile::TempDir,
    _files: Folder,
}

struct Canary {
    tid: String,
    token: Vec<u8>,
    revoked: Option<Revoked>,
}

impl Pair {
    pub async fn set(canaries: usize, commits: Commits) -> Self {
        let files = Folder::new().await;
        let primary = Node::primary(&files, "a").await;
        let mut standby = Node::beside(&files, "b");
        let link = Wire::to(primary.at).await;
        standby.follow(link.at).await;
        if commits == Commits::Synchronous {
            primary.require_standby().await;
        }
        let poolers = [Wire::to(primary.at).await, Wire::to(primary.at).await];
        let folder = tempfile::tempdir().unwrap();
        let site = Site::new(folder.path(), &Node::url(poolers[0].at)).await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let listen = [site.public_url.strip_prefix("http://").unwrap().to_owned(), free];
        let mut pair = Self {
            replicas: [None, None],
            watchers: Vec::new(),
            cables: Vec::new(),
            poolers,
            link,
            primary,
            standby,
            site,
            agent: None,
            holder: key(&mut rng()),
            listen,
            canaries: Vec::new(),
            next: 1,
            folder,
            _files: files,
        };
        pair.serve(0, &["--init-single-anchor"]).await;
        pair.serve(1, &[]).await;
        let alice = pair.replica(0).person("alice").await;
        pair.agent = Some(delegated(&alice, "bot", &pair.holder).await);
        let kept = pair.folder.path().join("kept");
        let trust = pair.replica(0).data.join("trust.json");
        pair.watchers.push(Watcher::start_keeping(&Ears::stream(&pair.replica(0).url), &trust, &kept));
        pair.watchers.push(Watcher::start(&Ears::stream(&pair.replica(1).url), &trust, false));
        for number in 0..canaries {
            let (tid, token) = pair.mint(0).await.expect("a token");
            for watcher in &mut pair.watchers {
                watcher.canary(number, &token, &pair.holder).await;
            }
            pair.canaries.push(Canary { tid, token, revoked: None });
        }
        // The first is never revoked.
        assert!(pair.all(|s| s.canaries.iter().all(|(_, verdict, _)| verdict == "allow")).await, "everybody allows everything");
        pair
    }

    /// One more verifier, at the second replica, by a cable.
    pub async fn by_cable(&mut self) -> Result<Cable, String> {
        let trust = self.replica(0).data.join("trust.json");
        let at = self.listen[1].parse().expect("an address");
        let (cable, mut watcher) = Cable::verifier(at, &trust).await?;
        for (number, canary) in self.canaries.iter().enumerate() {
            watcher.canary(number, &canary.token, &self.holder).await;
        }
        self.watchers.push(watcher);
        let gone = self.gone();
        assert!(self.all(|s| verdicts(s, &gone)).await, "it allows what it should");
        Ok(cable)
    }

    /// Starts a replica, at the address that it always has.
    pub async fn serve(&mut self, which: usize, args: &[&str]) {
        let database = ("PROCURA_DATABASE__URL", Node::url(self.poolers[which].at));
        let listen = ("PROCURA_SERVER__LISTEN", self.listen[which].clone());
        self.replicas[which] = Some(self.site.replica_with(NAMES[which], args, &[database, listen]).await);
    }

    pub fn replica(&self, which: usize) -> &Replica {
        self.replicas[which].as_ref().expect("it runs")
    }

    pub async fn kill_replicas(&mut self) {
        for mut replica in self.replicas.iter_mut().filter_map(Option::take) {
            replica.kill().await;
        }
    }

    /// Both replicas refuse this database, and say what to do.
    pub async fn refused(&self) {
        for name in NAMES {
            let said = self.site.refused(name, &[]).await;
            assert!(said.contains("the database is older than the log") && said.contains("procura log recover"), "{said}");
        }
    }

    /// Returns once a replica has found that its database lost what was released, and signs nothing any more.
    pub async fn signs_nothing(&self, which: usize) {
        let began = Instant::now();
        while !self.log_of(which).contains("nothing is signed any more") {
            assert!(began.elapsed() < PATIENCE, "it goes on: {}", self.log_of(which));
            sleep(Duration::from_millis(20)).await;
        }
        let nonce = hex::encode([7; 16]);
        assert_eq!(self.replica(which).get(&format!("/v1/feed/head?tenant=acme&nonce={nonce}")).await.0, 503);
        assert_eq!(self.replica(which).get("/readyz").await.0, 503);
    }

    fn log_of(&self, which: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(NAMES[which]).with_extension("stderr")).unwrap_or_default()
    }

    /// `procura log recover` with the first replica's folder.
    pub async fn recover(&self) {
        let config = self.folder.path().join("procura.toml");
        let ran = procura(&["log", "recover", "--config", config.to_str().unwrap(), "--reason", "the asynchronous standby was promoted"]).await;
        assert!(ran.status.success() && text(&ran.stdout).contains("/acme/2"), "{}{}", text(&ran.stdout), text(&ran.stderr));
    }

    /// The database's end of it: who was the standby is the primary now.
    pub async fn promote(&mut self) {
        self.standby.promote().await;
        std::mem::swap(&mut self.primary, &mut self.standby);
    }

    pub async fn mint(&self, which: usize) -> Option<(String, Vec<u8>)> {
        let (agent, delegation) = self.agent.as_ref().unwrap();
        let replica = self.replica(which);
        let minted = agent.at(&replica.http, &replica.public_url).mint(&MintRequest { delegation: *delegation, ttl_secs: None }, &mut rng()).await.ok()?;
        Some((minted.claims().claimed().tid.to_string(), minted.seal().unwrap().as_bytes().to_vec()))
    }

    /// Mints at a replica without end, until it is aborted.
    pub fn minting(&self, which: usize) -> tokio::task::JoinHandle<()> {
        let (agent, delegation) = self.agent.as_ref().unwrap();
        let (client, delegation) = (agent.at(&self.replica(which).http, &self.replica(which).public_url), *delegation);
        tokio::spawn(async move {
            loop {
                if client.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await.is_err() {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        })
    }

    /// One more, by the operator at this replica. What nobody answers in time is open.
    pub async fn revoke_at(&mut self, which: usize, patience: Duration) -> Option<Revoked> {
        let (number, asking) = self.revoking(which, patience)?;
        let answer = asking.await;
        self.canaries[number].revoked = Some(answer);
        Some(answer)
    }

    pub async fn revoke_next(&mut self) {
        self.revoke_at(0, ANSWER_WAIT).await;
    }

    /// The same to be awaited elsewhere, and whose answer it is: see [`Self::answered`].
    pub fn revoking(&mut self, which: usize, patience: Duration) -> Option<(usize, impl Future<Output = Revoked> + Send + use<>)> {
        let number = self.next;
        let canary = self.canaries.get_mut(number)?;
        canary.revoked = Some(Revoked::Unknown);
        let tid = canary.tid.clone();
        self.next += 1;
        Some((number, asked(self.replica(which).data.join("procura.sock"), tid, patience)))
    }

    pub fn answered(&mut self, number: usize, answer: Revoked) {
        self.canaries[number].revoked = Some(answer);
    }

    /// Revocations at a replica until this much time is over.
    pub async fn during(&mut self, which: usize, lasting: Duration) {
        let ends = Instant::now() + lasting;
        let gap = lasting / u32::try_from(self.canaries.len()).unwrap();
        while Instant::now() < ends && self.next + AFTER < self.canaries.len() {
            let due = Instant::now() + gap;
            self.revoke_at(which, ANSWER_WAIT).await;
            sleep(due.saturating_duration_since(Instant::now())).await;
        }
        sleep(ends.saturating_duration_since(Instant::now())).await;
    }

    /// Everything that was revoked is denied as that, everywhere.
    pub async fn known(&mut self) {
        let gone = self.gone();
        let all = self.all(|s| s.canaries.iter().zip(&gone).all(|((_, verdict, _), gone)| !gone || verdict == "revoked")).await;
        assert!(all, "everybody hears of what was revoked");
    }

    fn gone(&self) -> Vec<bool> {
        self.canaries.iter().map(|c| c.revoked.is_some()).collect()
    }

    pub fn revoked(&self) -> usize {
        self.gone().iter().filter(|g| **g).count()
    }

    /// Returns when both replicas show all that is committed: its size.
    pub async fn all_shown(&self) -> String {
        let size = self.primary.sql("SELECT tree_size FROM head").await;
        let began = Instant::now();
        while self.shown(0).await != size || self.shown(1).await != size {
            assert!(began.elapsed() < PATIENCE, "not all is shown");
            sleep(Duration::from_millis(10)).await;
        }
        size
    }

    /// The size of the newest checkpoint that a replica shows.
    pub async fn shown(&self, which: usize) -> String {
        let (status, note) = self.replica(which).get("/checkpoint").await;
        assert_eq!(status, 200, "{note}");
        note.lines().nth(1).unwrap_or_default().to_owned()
    }

    /// Epoch and number of the feed's end, and its hash: the database's own word.
    pub async fn head(&self) -> ((u64, u64), String) {
        let said = self.primary.sql("SELECT feed_epoch, feed_seq, encode(feed_hash, 'hex') FROM head").await;
        let [epoch, seq, hash] = said.split('|').collect::<Vec<_>>()[..] else { panic!("{said}") };
        ((epoch.parse().unwrap(), seq.parse().unwrap()), hash.to_owned())
    }

    /// Denials for want of freshness; the longest stale time is counted from here on.
    pub async fn mark(&mut self) -> u64 {
        for watcher in &mut self.watchers {
            watcher.tell("mark").await;
        }
        self.stale().await
    }

    /// Longest time for which one verifier was stale without a pause.
    pub async fn longest_stale(&mut self) -> Duration {
        let mut longest = 0;
        for watcher in &mut self.watchers {
            longest = longest.max(watcher.status().await.longest_stale_us);
        }
        Duration::from_micros(longest)
    }

    pub async fn stale(&mut self) -> u64 {
        let mut sum = 0;
        for watcher in &mut self.watchers {
            sum += watcher.status().await.stale;
        }
        sum
    }

    /// After the fault: until everybody sees everything, revocations beyond, and what must hold.
    pub async fn healed(&mut self, healed: Instant, stale_before: u64, bites: bool) -> Outcome {
        let mut problems = Vec::new();
        let stale = self.stale().await - stale_before;
        self.ask_again().await;
        let full_view = self.full_view(healed).await;
        if full_view > HEAL_WITHIN {
            problems.push(format!("full view after {:.1} s: {}", full_view.as_secs_f64(), self.told().await));
        }
        let longest_stale = self.longest_stale().await;
        for _ in 0..AFTER {
            self.revoke_at(1, PATIENCE).await;
        }
        // Long enough to see an allow that comes too late.
        sleep(Duration::from_millis(300)).await;
        if self.full_view(Instant::now()).await >= VIEW_WAIT {
            problems.push(format!("no full view in the end: {}", self.told().await));
        }
        self.compare(&mut problems).await;
        if bites && stale == 0 {
            problems.push("nobody was stale: the fault did nothing".to_owned());
        }
        let (late_allows, latest_ms) = self.late(&mut problems).await;
        if late_allows > 0 {
            problems.push(format!("{late_allows} late allows"));
        }
        Outcome { revocations: self.revoked(), late_allows, latest_ms, stale, longest_stale, full_view, problems }
    }

    /// What nobody answered is asked for again: from then on it is revoked for certain.
    async fn ask_again(&mut self) {
        for number in 0..self.canaries.len() {
            if matches!(self.canaries[number].revoked, Some(Revoked::Unknown)) {
                let answer = asked(self.replica(0).data.join("procura.sock"), self.canaries[number].tid.clone(), PATIENCE).await;
                assert!(!matches!(answer, Revoked::Unknown), "the authority answers after the fault");
                self.canaries[number].revoked = Some(answer);
            }
        }
    }

    /// How long after that moment every verifier has the head of the database, and denies what was revoked and nothing else.
    async fn full_view(&mut self, since: Instant) -> Duration {
        let gone = self.gone();
        let began = Instant::now();
        while began.elapsed() < VIEW_WAIT {
            // What verifiers hand back moves it.
            let head = self.head().await;
            let whole = |s: &Status| verdicts(s, &gone) && (s.watermark, s.hash.clone()) == head;
            if self.once(&whole).await && head == self.head().await {
                return since.elapsed();
            }
            sleep(Duration::from_millis(5)).await;
        }
        VIEW_WAIT
    }

    /// A verifier that never heard anything learns the same from the authority alone, and the authority has it all in its tables.
    async fn compare(&mut self, problems: &mut Vec<String>) {
        let trust = self.replica(0).data.join("trust.json");
        let mut fresh = Watcher::start(&Ears::stream(&self.replica(1).url), &trust, false);
        for (number, canary) in self.canaries.iter().enumerate() {
            fresh.canary(number, &canary.token, &self.holder).await;
        }
        let (gone, began) = (self.gone(), Instant::now());
        loop {
            let said = fresh.status().await;
            if verdicts(&said, &gone) {
                break;
            }
            if began.elapsed() > VIEW_WAIT {
                problems.push(format!("a verifier that starts now says {:?} at {:?}", said.canaries, said.watermark));
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        let rows = self.primary.sql("SELECT encode(id, 'hex') FROM token WHERE revoked_ms IS NOT NULL").await;
        let stored: BTreeSet<_> = rows.lines().map(str::to_owned).collect();
        let asked: BTreeSet<_> = self.canaries.iter().filter(|c| c.revoked.is_some()).map(|c| hex_of(&c.tid)).collect();
        if stored != asked {
            problems.push(format!("the database has {} tokens as revoked, expected {}", stored.len(), asked.len()));
        }
    }

    /// Late allows, and the latest allow after a commit in milliseconds.
    pub async fn late(&mut self, problems: &mut Vec<String>) -> (u64, f64) {
        let (mut late, mut latest) = (0, 0);
        for (who, watcher) in self.watchers.iter_mut().enumerate() {
            let status = watcher.status().await;
            for (canary, (last_allow, _, after_revoked)) in self.canaries.iter().zip(&status.canaries) {
                // Whoever came later may not have met it alive.
                if *last_allow == 0 && who < 2 {
                    problems.push(format!("verifier {who} never allowed {}", canary.tid));
                }
                late += after_revoked;
                if let Some(Revoked::At(committed)) = canary.revoked {
                    late += u64::from(*last_allow > committed + LATE_US);
                    latest = latest.max(last_allow.saturating_sub(committed));
                }
            }
        }
        (late, latest as f64 / 1000.0)
    }

    async fn all(&mut self, is_so: impl Fn(&Status) -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < VIEW_WAIT {
            if self.once(&is_so).await {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
        false
    }

    async fn once(&mut self, is_so: &impl Fn(&Status) -> bool) -> bool {
        for watcher in &mut self.watchers {
            if !is_so(&watcher.status().await) {
                return false;
            }
        }
        true
    }

    /// What a verifier was alarmed by.
    pub async fn alarms(&mut self, who: usize) -> Vec<String> {
        self.watchers[who].status().await.alarms
    }

    async fn told(&mut self) -> String {
        let mut said = format!("head {:?}", self.head().await.0);
        for (who, watcher) in self.watchers.iter_mut().enumerate() {
            let s = watcher.status().await;
            let verdicts: String = s.canaries.iter().map(|(_, verdict, _)| &verdict[..1]).collect();
            said += &format!("; verifier {who} at {:?}, verdicts {verdicts}, alarms {:?}, {:?}", s.watermark, s.alarms, s.last_error);
        }
        for (which, name) in NAMES.into_iter().enumerate() {
            let log = self.log_of(which);
            let lines: Vec<_> = log.lines().rev().take(8).collect();
            said += &lines.into_iter().rev().map(|line| format!("\n    {name}: {line}")).collect::<String>();
        }
        said
    }
}

fn verdicts(s: &Status, gone: &[bool]) -> bool {
    s.canaries.iter().zip(gone).all(|((_, verdict, _), gone)| verdict == if *gone { "revoked" } else { "allow" })
}

/// The bytes of an id in hex, as SQL prints them.
fn hex_of(tid: &str) -> String {
    let tid: procura_verifier::ids::Tid = tid.parse().unwrap();
    hex::encode(tid.as_bytes())
}

async fn asked(socket: std::path::PathBuf, tid: String, patience: Duration) -> Revoked {
    let http = reqwest::Client::builder().unix_socket(socket).timeout(patience).build().unwrap();
    let body = json!({ "what": "token", "id": tid, "reason": "faults" });
    let Ok(said) = http.post("http://localhost/v1/revocations").json(&body).send().await else { return Revoked::Unknown };
    let status = said.status();
    let answer = said.json::<Value>().await.unwrap_or_default();
    // Only the store's trouble leaves it open; anything else is the harness's own mistake.
    assert!(status.is_success() || status.is_server_error(), "revocation refused with {status}: {answer}");
    match answer["committed_us"].as_u64() {
        Some(at) => Revoked::At(at),
        None if status.is_success() => Revoked::Before,
        None => Revoked::Unknown,
    }
}

const NAMES: [&str; 2] = ["one", "two"];
/// Revocations after the fault.
const AFTER: usize = 2;
/// The promise (P4).
const LATE_US: u64 = 200_000;
const VIEW_WAIT: Duration = Duration::from_secs(20);
/// Within this of healing, everybody knows everything.
const HEAL_WITHIN: Duration = Duration::from_secs(1);
/// Longer than this and the outcome counts as unknown.
pub const ANSWER_WAIT: Duration = Duration::from_millis(500);
