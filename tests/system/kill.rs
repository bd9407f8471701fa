//! kill -9 under load: what was answered stands, and the folder starts and replays.
//!
//! `PROCURA_KILL_ROUNDS` asks for a longer run than the default.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use procura_authority::log::event::Event;
use procura_authority::log::tree::Tree;
use procura_sdk::client::{ClientError, MintRequest};
use procura_verifier::feed::{Message, SignedMessage};
use procura_verifier::ids::{DelegationId, Tid};
use procura_verifier::trust::TrustFile;
use procura_verifier::wire::Canonical as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::process::Command;
use tokio::sync::watch;

use super::support::{Agent, Authority, Person, beside_others, binary, delegated, expect, key, load, mint, procura, rng, text};

/// What the authority has told somebody.
#[derive(Default)]
struct Answered {
    tokens: BTreeSet<Tid>,
    newest: Option<Tid>,
    /// Number in the feed, index in the log.
    revocations: Vec<(u64, u64)>,
    /// Size and root of the newest checkpoint.
    checkpoint: (u64, String),
    count: u64,
}

impl Answered {
    fn minted(&mut self, tid: Tid) {
        self.tokens.insert(tid);
        self.newest = Some(tid);
    }
}

type Book = Arc<Mutex<Answered>>;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_kill_stands_after_it() {
    let _machine = beside_others().await;
    let rounds: u64 = std::env::var("PROCURA_KILL_ROUNDS").map_or(8, |n| n.parse().expect("a number of rounds"));
    let seed = rng().random();
    println!("seed {seed}");
    let mut moments = StdRng::seed_from_u64(seed);
    let scratch = tempfile::tempdir().unwrap();
    let mut authority = Authority::start(&scratch.path().join("authority")).await;
    let address = authority.address().to_owned();
    // The auditor's: from the first start, never read again.
    let trust = authority.trust();
    let trust_path = scratch.path().join("auditor-trust.json");
    std::fs::copy(authority.trust_path(), &trust_path).unwrap();
    let book = Book::default();
    for round in 0..rounds {
        let load = Load::start(&authority, round, &book).await;
        let human = load.human.clone();
        load.after(moments.random_range(1..80)).await;
        // Anywhere between two answers: the moment is drawn, nothing is waited for.
        tokio::time::sleep(Duration::from_micros(moments.random_range(0..6_000))).await;
        load.killed.send_replace(true);
        authority.kill().await;
        let (bot, live, dead) = load.end().await;

        authority = Authority::start_at(&authority.data.clone(), &address).await;
        assert_eq!(authority.address(), address);
        check(&authority, &book, &trust, &trust_path).await;
        // The state itself survived, not only its record.
        assert_eq!(authority.person("alice").await.human(), human, "who she is does not hang on a process");
        let mint = async |delegation| bot.at(&authority.http, &authority.url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await;
        let again = mint(live).await.expect("a delegation that was answered still gives tokens");
        book.lock().unwrap().minted(again.claims().claimed().tid);
        let refused = mint(dead).await;
        assert!(matches!(refused, Err(ClientError::Refused { status: 409, .. })), "{refused:?}");
    }
    let said = authority.said();
    assert!(!said.contains("panicked"), "{said}");
    let book = book.lock().unwrap();
    println!("{rounds} kills, {} tokens, {} revocations answered", book.tokens.len(), book.revocations.len());
    assert!(book.tokens.len() as u64 > rounds && book.revocations.len() as u64 > rounds, "there was load");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_the_first_start_leaves_a_folder_that_starts() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let began = Instant::now();
    drop(Authority::start(&scratch.path().join("unharmed")).await);
    let whole = began.elapsed();
    for round in 0..12 {
        let data = scratch.path().join(format!("authority-{round}"));
        let mut first =
            Command::new(binary()).args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(&data).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Each twelfth of a start in turn.
        tokio::time::sleep(whole * round / 12).await;
        first.kill().await.unwrap();

        let authority = Authority::start(&data).await;
        let alice = authority.person("alice").await;
        let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
        mint(&authority, &bot, delegation).await;
        let bundle = authority.export(&format!("{round}.tar")).await;
        let ran = procura(&["log", "replay", bundle.to_str().unwrap(), "--trust", authority.trust_path().to_str().unwrap()]).await;
        assert_eq!(ran.status.code(), Some(0), "killed after {round} twelfths: {}{}", text(&ran.stdout), text(&ran.stderr));
    }
}

/// Everything that was answered is in log and feed, and the log goes on where it was.
async fn check(authority: &Authority, book: &Book, trust: &TrustFile, trust_path: &Path) {
    let bundle_path = authority.export("bundle.tar").await;
    let ran = procura(&["log", "replay", bundle_path.to_str().unwrap(), "--trust", trust_path.to_str().unwrap()]).await;
    assert_eq!(ran.status.code(), Some(0), "replay: {}{}", text(&ran.stdout), text(&ran.stderr));
    let bundle = load(&bundle_path, trust);
    let now = checkpoint(&text(&authority.get("/checkpoint").await.1));
    let book = book.lock().unwrap();

    let logged: BTreeSet<Tid> = bundle.leaves().iter().filter_map(|l| if let Event::Issue(e) = &l.event { Some(e.tid) } else { None }).collect();
    let lost: Vec<_> = book.tokens.difference(&logged).collect();
    assert!(lost.is_empty(), "answered tokens that the log does not know: {lost:?}");

    for (seq, leaf) in &book.revocations {
        let Event::Revoke(revoke) = &bundle.leaves()[*leaf as usize].event else { panic!("leaf {leaf} is no revocation") };
        let signed = SignedMessage::from_bytes(&bundle.feed()[*seq as usize - 1]).unwrap();
        let Message::Batch(batch) = Message::from_bytes(signed.unverified_payload()).unwrap() else { panic!("feed {seq} is no batch") };
        assert_eq!(batch.seq, *seq);
        assert!(batch.items.iter().any(|(at, item)| at == leaf && item.to_bytes() == revoke.item.0), "revocation {seq} is not in the feed as it was answered");
    }

    let (size, root) = &book.checkpoint;
    assert!(now.0 >= *size, "the checkpoint went back from {size} to {}", now.0);
    let mut tree = Tree::new();
    for leaf in bundle.leaves().iter().take(*size as usize) {
        tree.append(leaf.hash);
    }
    assert_eq!((&tree.size(), &base64(&tree.root())), (size, root), "the log that was signed before the kill is no prefix of the log after it");
}

/// Agents that mint, a person who revokes, somebody who watches the log: until the authority is gone.
struct Load {
    book: Book,
    counted: watch::Receiver<u64>,
    killed: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    human: String,
    bot: Agent,
    live: DelegationId,
    dead: DelegationId,
}

#[derive(Clone)]
struct Worker {
    book: Book,
    count: Arc<watch::Sender<u64>>,
    killed: watch::Receiver<bool>,
}

impl Worker {
    fn note(&self, note: impl FnOnce(&mut Answered)) {
        let mut book = self.book.lock().unwrap();
        note(&mut book);
        book.count += 1;
        self.count.send_replace(book.count);
    }

    /// An answer that did not come is the kill's doing; before the kill every answer comes.
    fn is_over(&self, error: &dyn std::fmt::Debug) -> bool {
        assert!(*self.killed.borrow(), "failed before the kill: {error:?}");
        true
    }
}

impl Load {
    async fn start(authority: &Authority, round: u64, book: &Book) -> Self {
        let mut rng = rng();
        let alice = authority.person("alice").await;
        let (bot, live) = delegated(&alice, &format!("bot-{round}"), &key(&mut rng)).await;
        let (other, dead) = delegated(&alice, &format!("other-{round}"), &key(&mut rng)).await;
        let of_bot = expect(alice.delegate(&bot, 50_000).await.unwrap()).unwrap();
        let dead_of_bot: DelegationId = of_bot["delegation"].as_str().unwrap().parse().unwrap();
        let start = {
            let mut book = book.lock().unwrap();
            book.newest = None;
            book.count
        };
        let (count, counted) = watch::channel(start);
        let (killed, is_killed) = watch::channel(false);
        let worker = Worker { book: book.clone(), count: Arc::new(count), killed: is_killed };
        let human = alice.human();
        // Answered before the load: revoked for certain.
        revoke(&worker, &alice, "delegation", &dead_of_bot.to_string()).await;
        let mut tasks = Vec::new();
        for (agent, delegation) in [(&bot, live), (&bot, live), (&other, dead), (&other, dead)] {
            let client = agent.at(&authority.http, &authority.url);
            let worker = worker.clone();
            tasks.push(tokio::spawn(async move {
                let mut rng = StdRng::from_os_rng();
                loop {
                    match client.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng).await {
                        Ok(token) => worker.note(|b| b.minted(token.claims().claimed().tid)),
                        Err(ClientError::Unreachable(e)) if worker.is_over(&e) => return,
                        Err(e) => panic!("{e}"),
                    }
                }
            }));
        }
        let (w, url, http) = (worker.clone(), authority.url.clone(), authority.http.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let newest = w.book.lock().unwrap().newest;
                let Some(tid) = newest else {
                    let (mut counted, mut killed) = (w.count.subscribe(), w.killed.clone());
                    tokio::select! {
                        _ = counted.changed() => continue,
                        _ = killed.wait_for(|k| *k) => return,
                    }
                };
                if !revoke(&w, &alice, "token", &tid.to_string()).await {
                    return;
                }
                let Ok(answer) = http.get(format!("{url}/checkpoint")).send().await else { break };
                let Ok(note) = answer.text().await else { break };
                let now = checkpoint(&note);
                w.note(|b| {
                    if now.0 > b.checkpoint.0 {
                        b.checkpoint = now
                    }
                });
            }
            w.is_over(&"/checkpoint did not answer");
        }));
        Self { book: book.clone(), counted, killed, tasks, human, bot, live, dead: dead_of_bot }
    }

    /// Returns when this many more answers have come.
    async fn after(&self, more: u64) {
        let start = self.book.lock().unwrap().count;
        self.counted.clone().wait_for(|n| *n >= start + more).await.unwrap();
    }

    async fn end(self) -> (Agent, DelegationId, DelegationId) {
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.bot, self.live, self.dead)
    }
}

/// False if the authority is gone.
async fn revoke(worker: &Worker, who: &Person, what: &str, id: &str) -> bool {
    match who.revoke(what, id, "drill").await {
        Ok(Ok(body)) => {
            let number = |field: &str| body[field].as_u64().unwrap();
            worker.note(|b| b.revocations.push((number("feed_seq"), number("leaf_index"))));
            true
        }
        Ok(Err(refused)) => panic!("{refused:?}"),
        Err(e) => !worker.is_over(&e),
    }
}

/// Size and root of a checkpoint.
fn checkpoint(note: &str) -> (u64, String) {
    let mut lines = note.lines().skip(1);
    (lines.next().unwrap().parse().unwrap(), lines.next().unwrap().to_owned())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
