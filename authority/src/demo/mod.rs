//! `procura demo`: the main job, once, on real sockets. Every line is the outcome of a call on the public API.

pub mod browser;
pub mod people;
pub mod proxy;
mod report;
mod tools;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ed25519_dalek::SigningKey;
use procura_sdk::caller::{Answered, Wish};
use procura_sdk::client::{ClientError, MintRequest};
use procura_sdk::held::{HeldToken, SealedToken};
use procura_verifier::claims::{Limit, Restriction};
use procura_verifier::ids::{Clock as _, DelegationId, SystemClock};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

use self::people::{Agent, Answer, Person, delegation, expect, field};
use self::proxy::Open;
use self::report::Report;
use self::tools::{Start, Tool, path, transfer_to, wish};
use crate::app::{self, Running};

/// What `procura demo` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
    /// Keep the data folder here instead of in a temporary folder that is removed
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Runs the demo. True if every step came out as stated.
pub async fn run(args: Args, http: reqwest::Client) -> anyhow::Result<bool> {
    let scratch = tempfile::tempdir().context("no temporary folder")?;
    let folder = args.data.unwrap_or_else(|| scratch.path().join("authority"));
    let mut demo = Demo::start(&folder, http, Report::new(args.json)).await?;
    demo.grants().await?;
    demo.decisions().await?;
    demo.links().await?;
    demo.revocation().await?;
    demo.kill_switch().await?;
    demo.cut_off().await?;
    demo.replay(scratch.path()).await
}

struct Demo {
    http: reqwest::Client,
    folder: PathBuf,
    authority: Running,
    report: Report,
    rng: StdRng,
    alice: Person,
    bob: Person,
    sam: Person,
    bot: Agent,
    helper: Agent,
    tools: Vec<Tool>,
    delegation: DelegationId,
    /// Under the first delegation.
    token: HeldToken,
}

const GRANT: &str = "Alice delegates";
const DECIDE: &str = "Three tools decide";
const LINK: &str = "The agent passes it on, offline";
const REVOKE: &str = "Alice takes it back";
const KILL: &str = "Security pulls the kill switch";
const CUT: &str = "A tool loses its authority";
const AUDIT: &str = "An auditor replays it, offline";

impl Demo {
    /// Starts the authority and everybody who takes part.
    async fn start(folder: &Path, http: reqwest::Client, mut report: Report) -> anyhow::Result<Self> {
        let mut rng = StdRng::from_os_rng();
        report.chapter("The authority starts, people sign in, agents and tools are registered");
        let began = Instant::now();
        let authority = app::dev(folder, "127.0.0.1:0".parse()?, None).await?;
        let url = authority.url.clone();
        let ready = http.get(format!("{url}/readyz")).send().await?.status();
        report.step(GRANT, format!("authority at {url}, SQLite in {}", folder.display()), "200 OK", ready.to_string(), began.elapsed());

        let began = Instant::now();
        let alice = Person::sign_in(&http, &url, "alice").await?;
        report.step(GRANT, "Alice signs in (OpenID Connect, code + PKCE)", "signed in", "signed in", began.elapsed());
        let (bob, sam) = (Person::sign_in(&http, &url, "bob").await?, Person::sign_in(&http, &url, "sam").await?);

        let tenant = "acme".parse()?;
        let began = Instant::now();
        let bot = alice.register("invoice-bot", &key(&mut rng), &tenant).await?;
        let helper = alice.register("fx-helper", &key(&mut rng), &tenant).await?;
        report.step(GRANT, "agents invoice-bot and fx-helper prove their keys", "two cards", "two cards", began.elapsed());

        let mut tools = Vec::new();
        for audience in ["payments/1", "payments/2", "payments/3"] {
            let verifier_key = key(&mut rng);
            let verifier = sam.enrol(audience, &verifier_key).await?;
            let trust = folder.join("trust.json");
            let start = Start { folder, trust: &trust, authority: &url, audience, verifier, key: &verifier_key };
            tools.push(Tool::start(&http, &start).await?);
        }

        report.chapter(GRANT);
        let began = Instant::now();
        let refused = alice.delegate(&bot, 250_000).await?;
        let named = refused.as_ref().err().is_some_and(|(_, _, m)| m.contains("beyond your maximum"));
        if let Err((_, _, message)) = &refused {
            report.note(message);
        }
        report.step(
            GRANT,
            "2500.00 EUR is more than Alice may delegate",
            "403, names the maximum",
            said(&refused, if named { ", names the maximum" } else { "" }),
            began.elapsed(),
        );
        let began = Instant::now();
        let granted = expect(alice.delegate(&bot, 50_000).await?)?;
        report.note(field(&granted, "summary")?);
        report.step(GRANT, "500.00 EUR per transfer to invoice-bot", "granted", "granted", began.elapsed());
        let delegation = delegation(&granted)?;
        let began = Instant::now();
        let token = bot.at(&http, &url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng).await?;
        report.step(GRANT, "invoice-bot authenticates by its key and mints a token", "logged, then given", "logged, then given", began.elapsed());
        Ok(Self { http, folder: folder.to_owned(), authority, report, rng, alice, bob, sam, bot, helper, tools, delegation, token })
    }

    fn tool(&self, i: usize) -> anyhow::Result<&Tool> {
        self.tools.get(i).context("no such tool")
    }

    #[expect(clippy::too_many_arguments, reason = "a row of the demo's table")]
    /// What a tool makes of a call; strangers learn one word, so their cause is read where its operator reads it.
    async fn ask(
        &mut self,
        chapter: &'static str,
        what: &str,
        tool: usize,
        token: &SealedToken,
        key: &SigningKey,
        wish: &Wish,
        expected: &str,
    ) -> anyhow::Result<()> {
        let before = self.tool(tool)?.denials().await?;
        let (answer, took) = self.tool(tool)?.transfer(token, key, wish).await?;
        let came = self.came(tool, &answer, &before).await?;
        self.report.step(chapter, what, expected, came, took);
        Ok(())
    }

    async fn came(&self, tool: usize, answer: &Answered, before: &std::collections::BTreeMap<String, u64>) -> anyhow::Result<String> {
        Ok(match answer {
            Answered::Done(_) => "allowed".to_owned(),
            Answered::Refused { code, .. } if code == "denied" => {
                let after = self.tool(tool)?.denials().await?;
                let cause = after.iter().find(|(word, n)| before.get(*word).copied().unwrap_or(0) < **n);
                format!("denied: {}", cause.map_or("nothing was counted", |(word, _)| word))
            }
            Answered::Refused { code, .. } => format!("denied: {code}"),
        })
    }

    /// Step 3: the agent authenticates and mints.
    async fn grants(&mut self) -> anyhow::Result<()> {
        // Tools that have just started wait for the feed; after this every answer is about the call.
        let token = self.token.seal()?;
        let wish = transfer_to("acct/eu/7", 1)?;
        for i in 0..self.tools.len() {
            self.until_allowed(i, &token, &self.bot.key.clone(), &wish).await?;
        }
        Ok(())
    }

    async fn until_allowed(&self, tool: usize, token: &SealedToken, key: &SigningKey, wish: &Wish) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            if let (Answered::Done(_), _) = self.tool(tool)?.transfer(token, key, wish).await? {
                return Ok(began.elapsed());
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "tool {} does not allow", tool + 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Step 4: what three instances make of good and bad calls.
    async fn decisions(&mut self) -> anyhow::Result<()> {
        self.report.chapter(DECIDE);
        let (token, key) = (self.token.seal()?, self.bot.key.clone());
        let good = transfer_to("acct/eu/7", 12_000)?;
        self.ask(DECIDE, "120.00 EUR to acct/eu/7 at payments/1", 0, &token, &key, &good, "allowed").await?;
        self.ask(DECIDE, "120.00 EUR to acct/eu/7 at payments/2", 1, &token, &key, &good, "allowed").await?;
        self.ask(DECIDE, "500.01 EUR: over the limit", 0, &token, &key, &transfer_to("acct/eu/7", 50_001)?, "denied: limit").await?;
        self.ask(DECIDE, "to acct/us/7: another account", 1, &token, &key, &transfer_to("acct/us/7", 12_000)?, "denied: scope").await?;
        self.ask(
            DECIDE,
            "refund: another action",
            2,
            &token,
            &key,
            &wish("acme", "refund", "acct/eu/7", r#"{"amount":{"minor":1,"unit":"EUR"}}"#)?,
            "denied: scope",
        )
        .await?;
        self.ask(DECIDE, "no amount: an argument is missing", 0, &token, &key, &wish("acme", "transfer", "acct/eu/7", "{}")?, "denied: limit").await?;
        self.ask(
            DECIDE,
            "another tenant's account",
            1,
            &token,
            &key,
            &wish("umbrella", "transfer", "acct/eu/7", r#"{"amount":{"minor":1,"unit":"EUR"}}"#)?,
            "denied: tenant",
        )
        .await?;

        self.raw(DECIDE, "no signature of the holder", 0, &token.authorization(), None, &good, "denied: holder").await?;
        let proof = self.tool(0)?.instance.prove(&token, &key, &good, SystemClock.wall(), &mut StdRng::from_os_rng());
        self.raw(DECIDE, "a call with its proof", 0, &token.authorization(), Some(&proof), &good, "allowed").await?;
        self.raw(DECIDE, "the same proof again, same instance", 0, &token.authorization(), Some(&proof), &good, "denied: replay").await?;
        self.raw(DECIDE, "the same proof at another instance", 1, &token.authorization(), Some(&proof), &good, "denied: audience").await?;
        let proof = self.tool(0)?.instance.prove(&token, &key, &good, SystemClock.wall(), &mut StdRng::from_os_rng());
        self.raw(DECIDE, "a proof for other arguments", 0, &token.authorization(), Some(&proof), &transfer_to("acct/eu/7", 12_001)?, "denied: holder").await?;

        let ended = self.token.narrow(&[Restriction::Until(SystemClock.wall().secs().saturating_sub(1))], &mut self.rng)?.seal()?;
        self.ask(DECIDE, "a token that ended a second ago", 1, &ended, &key, &good, "denied: expired").await?;
        // Eight characters before the end: inside the seal, which nothing follows.
        let mut bent = token.authorization().into_bytes();
        let at = bent.len().saturating_sub(8);
        if let Some(byte) = bent.get_mut(at) {
            *byte = if *byte == b'A' { b'B' } else { b'A' };
        }
        self.raw(DECIDE, "one byte of the token changed", 2, std::str::from_utf8(&bent)?, Some(&proof), &good, "denied: signature").await?;
        let unsealed = format!("Bearer {}", self.token.to_text());
        self.raw(DECIDE, "a token that the tool could extend: unsealed", 2, &unsealed, None, &good, "denied: malformed").await
    }

    /// Sends exactly these bytes.
    #[expect(clippy::too_many_arguments, reason = "a row of the demo's table")]
    async fn raw(
        &mut self,
        chapter: &'static str,
        what: &str,
        tool: usize,
        authorization: &str,
        proof: Option<&str>,
        wish: &Wish,
        expected: &str,
    ) -> anyhow::Result<()> {
        let before = self.tool(tool)?.denials().await?;
        let began = Instant::now();
        let answer = self.tool(tool)?.instance.send(&path(wish), authorization, proof, &wish.args).await?;
        let took = began.elapsed();
        let came = self.came(tool, &answer, &before).await?;
        self.report.step(chapter, what, expected, came, took);
        Ok(())
    }

    /// Step 5: narrowing and linking.
    async fn links(&mut self) -> anyhow::Result<()> {
        self.report.chapter(LINK);
        let hundred = Restriction::Limit(Limit::AtMost { arg: "amount".parse()?, max: 10_000, unit: "EUR".parse()? });
        let began = Instant::now();
        let linked = self.token.narrow(std::slice::from_ref(&hundred), &mut self.rng)?.link(&self.helper.card, 1, vec![], &self.bot.key, &mut self.rng)?;
        self.report.step(LINK, "invoice-bot narrows to 100.00 EUR and links to fx-helper's card", "linked", "linked", began.elapsed());
        let (sealed, key) = (linked.seal()?, self.helper.key.clone());
        self.ask(LINK, "fx-helper: 99.00 EUR", 0, &sealed, &key, &transfer_to("acct/eu/7", 9_900)?, "allowed").await?;
        self.ask(LINK, "fx-helper: 100.01 EUR", 1, &sealed, &key, &transfer_to("acct/eu/7", 10_001)?, "denied: limit").await?;
        let thousand = Restriction::Limit(Limit::AtMost { arg: "amount".parse()?, max: 100_000, unit: "EUR".parse()? });
        let widened = linked.narrow(&[thousand], &mut self.rng)?.seal()?;
        self.ask(LINK, "fx-helper appends a looser limit, then 100.01 EUR", 2, &widened, &key, &transfer_to("acct/eu/7", 10_001)?, "denied: limit").await?;
        let began = Instant::now();
        let third = key_card(&self.bot, &mut self.rng);
        let deeper = linked.link(&third, 1, vec![], &key, &mut self.rng);
        let came = deeper.map_or_else(|e| e.to_string(), |_| "linked".to_owned());
        self.report.step(LINK, "fx-helper links on as if depth were unlimited", "link goes deeper than the token allows", came, began.elapsed());
        self.ask(LINK, "invoice-bot's key on the linked token", 0, &sealed, &self.bot.key.clone(), &transfer_to("acct/eu/7", 100)?, "denied: holder").await
    }

    /// Step 6, first half: revocation of a delegation.
    async fn revocation(&mut self) -> anyhow::Result<()> {
        self.report.chapter(REVOKE);
        let (token, key) = (self.token.seal()?, self.bot.key.clone());
        let id = self.delegation.to_string();
        let alice = self.alice.revoke("delegation", &id, "the month's invoices are paid");
        let measured = commit_to_deny(&self.tools, &token, &key, alice).await?;
        self.say_denied(REVOKE, "Alice revokes the delegation", &measured);
        let began = Instant::now();
        let again = self.bot.at(&self.http, &self.authority.url).mint(&MintRequest { delegation: self.delegation, ttl_secs: None }, &mut self.rng).await;
        self.report.step(REVOKE, "invoice-bot asks for a new token under it", "refused", minted(&again), began.elapsed());
        Ok(())
    }

    fn say_denied(&mut self, chapter: &'static str, what: &str, measured: &[Denied]) {
        for (i, denied) in measured.iter().enumerate() {
            let came = if denied.cause == "revoked" { "denied: revoked".to_owned() } else { format!("denied: {}", denied.cause) };
            self.report.step(
                chapter,
                format!("{what}: commit to deny at payments/{}", i + 1),
                "denied: revoked",
                came,
                Duration::from_secs_f64(denied.ms / 1000.0),
            );
            self.report.revoked(denied.ms, denied.late_allows);
        }
    }

    /// Step 6, second half: the kill switch on a human.
    async fn kill_switch(&mut self) -> anyhow::Result<()> {
        self.report.chapter(KILL);
        let url = self.authority.url.clone();
        let second = delegation(&expect(self.alice.delegate(&self.bot, 50_000).await?)?)?;
        let token = self.bot.at(&self.http, &url).mint(&MintRequest { delegation: second, ttl_secs: None }, &mut self.rng).await?;
        let linked = token.link(&self.helper.card, 1, vec![], &self.bot.key, &mut self.rng)?.seal()?;
        let wish = transfer_to("acct/eu/7", 100)?;
        self.ask(KILL, "a second delegation, linked to fx-helper", 0, &linked, &self.helper.key.clone(), &wish, "allowed").await?;

        let alice = self.alice.human();
        let began = Instant::now();
        let refused = self.bob.revoke("human", &alice, "curious").await?;
        self.report.step(KILL, "Bob, who has no role, tries it", "403", said(&refused, ""), began.elapsed());

        let sealed = token.seal()?;
        let kill = self.sam.revoke("human", &alice, "laptop stolen");
        let measured = commit_to_deny(&self.tools, &sealed, &self.bot.key, kill).await?;
        self.say_denied(KILL, "Sam (security) stops Alice", &measured);
        self.ask(KILL, "the linked token under it", 1, &linked, &self.helper.key.clone(), &wish, "denied: revoked").await?;
        let (mut tried, mut given) = (0, 0);
        let began = Instant::now();
        while tried < 50 {
            tried += 1;
            given += u32::from(self.bot.at(&self.http, &url).mint(&MintRequest { delegation: second, ttl_secs: None }, &mut self.rng).await.is_ok());
        }
        self.report.step(KILL, "invoice-bot asks for a token 50 times in a loop", "0 given", format!("{given} given"), began.elapsed());

        // The kill ended her session too: what she grants now rests on a sign-in after it.
        self.alice = Person::sign_in(&self.http, &url, "alice").await?;
        let anew = delegation(&expect(self.alice.delegate(&self.bot, 50_000).await?)?)?;
        self.token = self.bot.at(&self.http, &url).mint(&MintRequest { delegation: anew, ttl_secs: None }, &mut self.rng).await?;
        let token = self.token.seal()?;
        self.ask(KILL, "Alice signs in and grants anew, and a new token", 2, &token, &self.bot.key.clone(), &wish, "allowed").await
    }

    /// Step 6, the end: a tool without stream, and one without authority.
    async fn cut_off(&mut self) -> anyhow::Result<()> {
        self.report.chapter(CUT);
        let (token, key) = (self.token.seal()?, self.bot.key.clone());
        let wish = transfer_to("acct/eu/7", 100)?;
        self.tool(2)?.proxy.set(Open::NoStream);
        let began = Instant::now();
        let mut answers = Vec::new();
        while began.elapsed() < Duration::from_secs(1) {
            answers.push(matches!(self.tool(2)?.transfer(&token, &key, &wish).await?.0, Answered::Done(_)));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let allowed = answers.iter().all(|a| *a);
        self.report.step(
            CUT,
            "payments/3 loses its stream for a second, keeps its pull",
            "allowed throughout",
            if allowed { "allowed throughout" } else { "denied in between" },
            began.elapsed(),
        );

        self.tool(2)?.proxy.set(Open::Nothing);
        let began = Instant::now();
        let (answer, at) = loop {
            let asked = began.elapsed();
            let (answer, _) = self.tool(2)?.transfer(&token, &key, &wish).await?;
            if !matches!(answer, Answered::Done(_)) || asked > PATIENCE {
                break (answer, asked);
            }
        };
        // The request that was refused was sent at `at`: by then nothing newer than the cut was known.
        let came = match answer {
            Answered::Refused { code, .. } if at <= Duration::from_millis(200) => format!("denied: {code}"),
            Answered::Refused { code, .. } => format!("denied: {code}, but late"),
            Answered::Done(_) => "allowed".to_owned(),
        };
        self.report.step(CUT, "payments/3 is cut off altogether", "denied: stale", came, at);
        self.ask(CUT, "payments/1 beside it", 0, &token, &key, &wish, "allowed").await?;
        self.tool(2)?.proxy.set(Open::All);
        let took = self.until_allowed(2, &token, &key, &wish).await?;
        self.report.step(CUT, "payments/3 is connected again", "allowed", "allowed", took);
        Ok(())
    }

    /// Step 7: export, replay, tamper.
    async fn replay(mut self, scratch: &Path) -> anyhow::Result<bool> {
        self.report.chapter(AUDIT);
        let began = Instant::now();
        for tool in std::mem::take(&mut self.tools) {
            tool.close().await?;
        }
        self.report.step(AUDIT, "the tools deliver their receipts and end", "delivered", "delivered", began.elapsed());
        let bundle = scratch.join("bundle.tar");
        // The auditor has the trust file and the bundle, and nothing else.
        let trust = scratch.join("auditor-trust.json");
        std::fs::copy(self.folder.join("trust.json"), &trust)?;
        let (data, bundle_arg, trust_arg) =
            (self.folder.to_string_lossy().into_owned(), bundle.to_string_lossy().into_owned(), trust.to_string_lossy().into_owned());
        let began = Instant::now();
        let (ok, _) = procura(&["log", "export", "--data", &data, "--out", &bundle_arg]).await?;
        self.report.step(AUDIT, "procura log export", "exit 0", if ok { "exit 0" } else { "failed" }, began.elapsed());
        self.authority.stop().await;

        let began = Instant::now();
        let (ok, said) = procura(&["log", "replay", &bundle_arg, "--trust", &trust_arg]).await?;
        self.report.note(said.trim());
        self.report.step(AUDIT, "procura log replay: every verdict derived again", "exit 0", if ok { "exit 0" } else { "failed" }, began.elapsed());

        let mut bytes = std::fs::read(&bundle)?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        std::fs::write(&bundle, &bytes)?;
        let began = Instant::now();
        let (ok, said) = procura(&["log", "replay", &bundle_arg, "--trust", &trust_arg]).await?;
        self.report.note(said.trim());
        self.report.step(
            AUDIT,
            "one byte of the bundle flipped",
            "found and named",
            if !ok && !said.trim().is_empty() { "found and named" } else { "not found" },
            began.elapsed(),
        );
        Ok(self.report.finish())
    }
}

/// How one tool took a revocation.
struct Denied {
    ms: f64,
    cause: String,
    late_allows: u64,
}

/// Revokes while each tool is asked again and again, and says for each how long after the commit it first denied.
///
/// An allow is late if the request for it was sent 200 ms after the commit: stricter than the promise, whose clock is inside `decide`.
async fn commit_to_deny(
    tools: &[Tool],
    token: &SealedToken,
    key: &SigningKey,
    revoke: impl Future<Output = anyhow::Result<Answer>>,
) -> anyhow::Result<Vec<Denied>> {
    let wish = transfer_to("acct/eu/7", 100)?;
    let spin = |tool| spin(tool, token, key, &wish);
    let spinners = futures_util::future::try_join_all(tools.iter().map(spin));
    let (answer, spun) = tokio::join!(revoke, spinners);
    let committed_us = expect(answer?)?.get("committed_us").and_then(serde_json::Value::as_u64).context("no `committed_us` in the answer")?;
    let measured = spun?.into_iter().map(|asked| {
        // From the last allow on: a tool that heard too little in between has fenced itself off, and an allow after that would count.
        let denials: Vec<_> = asked.iter().rev().map_while(|a| a.refused.as_ref().map(|code| (a.answered_us, code))).collect();
        let (at, first) = denials.last().copied().context("the tool never denied")?;
        let cause = denials.iter().map(|(_, code)| *code).find(|code| *code == "revoked").unwrap_or(first);
        let late_allows = asked.iter().filter(|a| a.refused.is_none() && a.sent_us > committed_us + 200_000).count() as u64;
        Ok(Denied { ms: at.saturating_sub(committed_us) as f64 / 1000.0, cause: cause.clone(), late_allows })
    });
    measured.collect()
}

struct Asked {
    sent_us: u64,
    answered_us: u64,
    refused: Option<String>,
}

/// Asks until a while after the first denial that names the revocation: an allow after it would be late too.
async fn spin(tool: &Tool, token: &SealedToken, key: &SigningKey, wish: &Wish) -> anyhow::Result<Vec<Asked>> {
    let began = Instant::now();
    let (mut asked, mut denied_at) = (Vec::new(), None::<Instant>);
    while denied_at.is_none_or(|d| d.elapsed() < Duration::from_millis(300)) && began.elapsed() < PATIENCE {
        let sent_us = SystemClock.boot().0;
        let (answer, _) = tool.transfer(token, key, wish).await?;
        let refused = match answer {
            Answered::Done(_) => None,
            Answered::Refused { code, .. } => Some(code),
        };
        if refused.as_deref() == Some("revoked") && denied_at.is_none() {
            denied_at = Some(Instant::now());
        }
        asked.push(Asked { sent_us, answered_us: SystemClock.boot().0, refused });
    }
    Ok(asked)
}

/// Runs this very binary and returns whether it exited with 0, and what it said.
async fn procura(args: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = tokio::process::Command::new(std::env::current_exe()?).args(args).output().await?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

fn said(answer: &Answer, more: &str) -> String {
    match answer {
        Ok(_) => "granted".to_owned(),
        Err((status, _, _)) => format!("{status}{more}"),
    }
}

fn minted(answer: &Result<HeldToken, ClientError>) -> String {
    match answer {
        Ok(_) => "given".to_owned(),
        Err(ClientError::Refused { .. }) => "refused".to_owned(),
        Err(e) => e.to_string(),
    }
}

fn key(rng: &mut StdRng) -> SigningKey {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    SigningKey::from_bytes(&seed)
}

/// A card that claims a key of nobody's: what a link beyond the depth would go to.
fn key_card(of: &Agent, rng: &mut StdRng) -> procura_verifier::card::SignedCard {
    let stranger = key(rng);
    let claimed = of.card.claimed();
    let card = procura_verifier::card::AgentCard { holder: procura_verifier::ids::Key::of(&stranger), ..claimed.clone() };
    card.sign(&stranger)
}

const PATIENCE: Duration = Duration::from_secs(10);
