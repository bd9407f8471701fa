//! `procura agent …`: an agent, the keys it is known by, and its life.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use procura_sdk::client::AgentClient;
use procura_verifier::challenge;
use procura_verifier::claims::Name;
use procura_verifier::ids::{AgentId, Key, SystemClock, Tenant, UtcMillis};
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use serde_json::{Value, json};

use super::door::{At, Door, field, list, number};
use super::paint::{paint, tone};
use super::units::seconds;

/// `procura agent …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Register an agent of yours, showing that you hold its key
    ///
    /// Example: procura agent create --name invoice-bot --key invoice-bot.key
    Create {
        /// What people call it; one of a kind in the tenant
        #[arg(long)]
        name: Name,
        /// The agent's private key, from `procura keygen`
        #[arg(long)]
        key: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// List your agents
    ///
    /// Example: procura agent list --json
    List {
        #[command(flatten)]
        at: At,
    },
    /// Show an agent: its state, its keys, and the delegations that wait to be confirmed
    ///
    /// Example: procura agent show agt_…
    Show {
        /// Which
        agent: AgentId,
        #[command(flatten)]
        at: At,
    },
    /// Give an agent of yours its next key; the keys of now go on for an overlap and are then revoked
    ///
    /// Example: procura agent rotate-key agt_… --key next.key --overlap 10m
    RotateKey {
        /// Which
        agent: AgentId,
        /// The next private key, from `procura keygen`
        #[arg(long)]
        key: PathBuf,
        /// How long the keys of now go on, such as 10m or 2h; at most 24h
        #[arg(long, default_value = "1h", value_parser = seconds, conflicts_with = "now")]
        overlap: u64,
        /// Revoke the keys of now at once: for one that was stolen
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        at: At,
    },
    /// Stop an agent until it is resumed: no token, no card, no new delegation, and all its tokens are dead
    ///
    /// Example: procura agent suspend agt_… --reason 'odd calls at night'
    Suspend(Life),
    /// Make a stopped agent active again; each delegator then confirms what they had delegated to it
    ///
    /// Who stopped it may, and the role security. No token of before comes back.
    ///
    /// Example: procura agent resume agt_… --reason 'it was the test run'
    Resume(Life),
    /// Stop an agent for ever: its keys are revoked, its id and name are never used again
    ///
    /// Example: procura agent retire agt_… --reason 'replaced by invoice-bot-2'
    Retire(Life),
    /// Fetch a fresh card with the agent's key: what another agent needs to pass a token on to it. The card alone on standard output
    ///
    /// Example: procura agent card --agent agt_… --key invoice-bot.key > invoice-bot.card
    Card {
        /// The authority's URL
        #[arg(long, default_value = "http://127.0.0.1:7300", env = "PROCURA_AUTHORITY")]
        authority: String,
        /// The agent
        #[arg(long)]
        agent: AgentId,
        /// The agent's private key
        #[arg(long)]
        key: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which agent, and why.
#[derive(clap::Args, Debug)]
pub struct Life {
    /// Which
    agent: AgentId,
    /// Why; only its salted hash stands in the log
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    at: At,
}

/// Runs the command.
pub async fn run(command: &Command, http: &reqwest::Client) -> anyhow::Result<()> {
    match command {
        Command::Create { name, key, at } => create(name, key, at, http).await,
        Command::List { at } => list_all(at, http).await,
        Command::Show { agent, at } => show(*agent, at, http).await,
        Command::RotateKey { agent, key, overlap, now, at } => rotate(*agent, key, if *now { 0 } else { *overlap }, at, http).await,
        Command::Suspend(life) => {
            let done = change(life, "suspend", http).await?;
            say(life, &done, &format!("{} is suspended, and all its tokens are dead. Resume it: procura agent resume {} --reason …", life.agent, life.agent));
            Ok(())
        }
        Command::Retire(life) => {
            let done = change(life, "retire", http).await?;
            say(life, &done, &format!("{} is retired for ever; its keys are revoked.", life.agent));
            Ok(())
        }
        Command::Resume(life) => {
            let done = change(life, "resume", http).await?;
            say(life, &done, &format!("{} is active again. No token of before comes back.", life.agent));
            if !life.at.json {
                say_waiting(&done);
            }
            Ok(())
        }
        Command::Card { authority, agent, key, json } => {
            let client = AgentClient::new(http.clone(), authority, *agent, crate::signer::file::read_key(key)?, SystemClock);
            let card = client.card(&mut rand::rngs::StdRng::from_os_rng()).await?;
            let text = BASE64.encode(card.to_bytes());
            if *json {
                println!("{}", json!({ "card": text, "agent": agent, "holder": card.claimed().holder, "expires_secs": card.claimed().expires_secs }));
            } else {
                println!("{text}");
            }
            Ok(())
        }
    }
}

async fn create(name: &Name, key: &std::path::Path, at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let signing = crate::signer::file::read_key(key)?;
    let door = at.open(http).await?;
    let (public, mut body) = shown(&door, &signing).await?;
    if let Some(body) = body.as_object_mut() {
        body.insert("name".to_owned(), json!(name));
    }
    let registered = door.post("/v1/agents", &body).await?;
    if at.json {
        println!("{registered}");
    } else {
        println!(
            "{name} is {}, with key {public}.\nGrant it something: procura delegate --agent {} --help",
            field(&registered, "agent")?,
            field(&registered, "agent")?
        );
    }
    Ok(())
}

/// The public key, and the body that shows possession of the private one.
async fn shown(door: &Door, signing: &SigningKey) -> anyhow::Result<(Key, Value)> {
    let public = Key::of(signing);
    let drawn = door.post("/v1/agents/challenges", &json!({})).await?;
    let mut nonce = [0; 32];
    hex::decode_to_slice(field(&drawn, "challenge")?, &mut nonce)?;
    let tenant: Tenant = field(&drawn, "tenant")?.parse()?;
    let signature = hex::encode(signing.sign(&challenge::message(&tenant, &nonce, &public)).to_bytes());
    Ok((public, json!({ "key": public, "challenge": hex::encode(nonce), "signature": signature })))
}

async fn list_all(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let agents = at.open(http).await?.get("/v1/agents").await?;
    if at.json {
        println!("{agents}");
        return Ok(());
    }
    let agents = list(&agents, "agents");
    if agents.is_empty() {
        println!("You have no agents. Register one: procura agent create --name NAME --key FILE");
    }
    for agent in agents {
        let state = field(agent, "state")?;
        println!("{}  {}  {}", field(agent, "agent")?, paint(&format!("{state:<9}"), tone(state)), field(agent, "name")?);
    }
    Ok(())
}

async fn show(agent: AgentId, at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let shown = at.open(http).await?.get(&format!("/v1/agents/{agent}")).await?;
    if at.json {
        println!("{shown}");
        return Ok(());
    }
    let revoked = shown.get("revoked").and_then(Value::as_bool).unwrap_or_default();
    let state = if revoked { "revoked: it gets no card until it is resumed" } else { field(&shown, "state")? };
    println!("{}  {}  {}", field(&shown, "agent")?, field(&shown, "name")?, paint(state, tone(state)));
    println!("owner       {}", field(&shown, "owner")?);
    println!("registered  {}", UtcMillis(number(&shown, "created_ms")));
    println!("generation  {}", number(&shown, "generation"));
    for key in list(&shown, "keys") {
        let state = field(key, "state")?;
        let ends = key.get("ends_ms").and_then(Value::as_u64).filter(|_| state == "live");
        let until = ends.map(|ms| format!(", until {}", UtcMillis(ms))).unwrap_or_default();
        println!("key         {}  {}{until}", field(key, "key")?, paint(state, tone(state)));
    }
    say_waiting(&shown);
    Ok(())
}

async fn rotate(agent: AgentId, key: &std::path::Path, overlap_secs: u64, at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let signing = crate::signer::file::read_key(key)?;
    let door = at.open(http).await?;
    let (public, mut body) = shown(&door, &signing).await?;
    if let Some(body) = body.as_object_mut() {
        body.insert("overlap_ms".to_owned(), overlap_secs.saturating_mul(1000).into());
    }
    let rotated = door.post(&format!("/v1/agents/{agent}/keys"), &body).await?;
    if at.json {
        println!("{rotated}");
        return Ok(());
    }
    println!("{agent} has key {public}.");
    for replaced in list(&rotated, "replaces") {
        let old = field(replaced, "key")?;
        match overlap_secs {
            0 => println!("Key {old} is revoked."),
            _ => println!("Key {old} goes on until {} and is then revoked.", UtcMillis(number(replaced, "until_ms"))),
        }
    }
    Ok(())
}

async fn change(life: &Life, to: &str, http: &reqwest::Client) -> anyhow::Result<Value> {
    life.at.open(http).await?.post(&format!("/v1/agents/{}/{to}", life.agent), &json!({ "reason": life.reason })).await
}

fn say(life: &Life, done: &Value, sentence: &str) {
    if life.at.json { println!("{done}") } else { println!("{sentence}") }
}

fn say_waiting(answer: &Value) {
    let waiting = list(answer, "waiting");
    if waiting.is_empty() {
        return;
    }
    println!("Delegations that wait for their delegators, each by `procura delegations confirm`:");
    for d in waiting {
        let text = |name: &str| d.get(name).and_then(Value::as_str).unwrap_or_default();
        println!("  {}  of {}", text("delegation"), text("human"));
    }
}
