//! `procura token inspect|verify|mint`: what a token says, whether it holds (both offline), and a new one.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_sdk::client::{AgentClient, MintRequest};
use procura_verifier::claims::{HumanRef, Possession, Restriction};
use procura_verifier::decision::in_time;
use procura_verifier::ids::{AgentId, Clock as _, DelegationId, SystemClock, UtcMillis};
use procura_verifier::key_list::KeyUse;
use procura_verifier::token::{MAX_TOKEN_BYTES, UnverifiedToken};
use procura_verifier::trust::TrustFile;
use rand::SeedableRng as _;
use serde_json::{Value, json};

/// `procura token …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Show what a token says, without believing it
    ///
    /// Example: procura token inspect < token.txt
    Inspect(Input),
    /// Check a token's signatures, keys and time against a trust file; exit 1 if it does not hold
    ///
    /// Example: procura token verify --trust authority/trust.json < token.txt
    Verify {
        #[command(flatten)]
        input: Input,
        /// The trust file
        #[arg(long)]
        trust: PathBuf,
    },
    /// Mint a token with an agent's key; the token alone on standard output
    ///
    /// Example: procura token mint --agent agt_… --key invoice-bot.key --delegation dlg_… > token.txt
    Mint {
        /// The authority's URL
        #[arg(long, default_value = "http://127.0.0.1:7300", env = "PROCURA_AUTHORITY")]
        authority: String,
        /// The agent
        #[arg(long)]
        agent: AgentId,
        /// The agent's private key
        #[arg(long)]
        key: PathBuf,
        /// The delegation to mint under
        #[arg(long)]
        delegation: DelegationId,
        /// How long it lives, in seconds; as long as the delegation allows if absent
        #[arg(long)]
        ttl_secs: Option<u64>,
    },
}

/// Where the token comes from. Not an argument: other users of the machine see those.
#[derive(clap::Args, Debug)]
pub struct Input {
    /// A file with the token in base64url; standard input if absent
    #[arg(long)]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Input {
    fn read(&self) -> anyhow::Result<UnverifiedToken> {
        let limit = MAX_TOKEN_BYTES as u64 * 2;
        let mut text = String::new();
        match &self.file {
            Some(path) => std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?.take(limit).read_to_string(&mut text)?,
            None => std::io::stdin().take(limit).read_to_string(&mut text)?,
        };
        let text = text.trim();
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        let bytes = BASE64.decode(text).context("expected a token in base64url without padding")?;
        Ok(UnverifiedToken::parse(&bytes)?)
    }
}

/// Runs the command. False if the token does not hold.
pub async fn run(command: &Command, http: reqwest::Client) -> anyhow::Result<bool> {
    match command {
        Command::Mint { authority, agent, key, delegation, ttl_secs } => {
            let client = AgentClient::new(http, authority, *agent, crate::signer::file::read_key(key)?, SystemClock);
            let request = MintRequest { delegation: *delegation, ttl_secs: *ttl_secs };
            let token = client.mint(&request, &mut rand::rngs::StdRng::from_os_rng()).await?;
            println!("{}", token.to_text());
            Ok(true)
        }
        Command::Inspect(input) => {
            let token = input.read()?;
            if input.json {
                println!("{}", describe(&token));
            } else {
                println!("Not verified: this is what the token says of itself.\n{}", in_words(&token));
            }
            Ok(true)
        }
        Command::Verify { input, trust } => {
            let token = input.read()?;
            let bytes = std::fs::read(trust).with_context(|| format!("cannot read {}", trust.display()))?;
            let verdict = verify(&token, &TrustFile::from_json(&bytes)?, SystemClock.wall());
            if input.json {
                println!("{}", json!({ "holds": verdict.is_ok(), "cause": verdict.as_ref().err(), "token": describe(&token) }));
            } else {
                match &verdict {
                    Ok(()) => println!("The token holds: signatures, keys and time. Whether it was revoked only a live feed can say.\n{}", in_words(&token)),
                    Err(cause) => println!("The token does not hold: {cause}"),
                }
            }
            Ok(verdict.is_ok())
        }
    }
}

fn verify(token: &UnverifiedToken, trust: &TrustFile, now: UtcMillis) -> Result<(), String> {
    let keys = trust.keys().map_err(|e| e.to_string())?;
    let verified = token.verify(&keys).map_err(|e| e.to_string())?;
    if verified.block0().tenant != trust.tenant {
        return Err(format!("tenant: expected `{}`, got `{}`", trust.tenant, verified.block0().tenant));
    }
    let root = keys.find(KeyUse::Root, verified.root());
    if !root.is_some_and(|k| k.from.secs() <= verified.block0().not_before_secs && verified.block0().expires_secs <= k.until.secs()) {
        return Err("signature: the token is outside its root key's window".to_owned());
    }
    in_time(&verified, now).map_err(|cause| cause.to_string())
}

fn in_words(token: &UnverifiedToken) -> String {
    let b = token.claimed();
    let date = |secs: u64| UtcMillis(secs * 1000);
    let mut lines = vec![
        format!("token       {}", b.tid),
        format!("tenant      {}", b.tenant),
        format!("human       {}", human(&b.human)),
        format!("delegation  {}", b.delegation),
        format!("agent       {} with key {}", b.agent, b.holder),
        format!("for         {}", b.audiences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        format!("valid       {} to {}", date(b.not_before_secs), date(b.expires_secs)),
        format!("links       {} may follow", b.depth),
    ];
    lines.extend(b.capabilities.iter().map(|c| format!("may         {c}")));
    lines.extend(token.claimed_restrictions().map(|r| format!("but only    {}", restriction(r))));
    for link in token.claimed_links() {
        let to =
            link.card.as_ref().map_or_else(|| format!("an unregistered key {}", link.holder), |c| format!("{} with key {}", c.claimed().agent, link.holder));
        lines.push(format!("linked to   {to}, {} more may follow ({})", link.depth, link.lid));
    }
    if b.possession == Possession::Bearer {
        lines.push("bearer      whoever has it may use it".to_owned());
    }
    lines.push(format!("sealed      {}", if token.is_sealed() { "yes: nothing can be appended" } else { "no: whoever has it can append" }));
    lines.join("\n")
}

fn describe(token: &UnverifiedToken) -> Value {
    let b = token.claimed();
    json!({
        "tid": b.tid, "tenant": b.tenant, "human": human(&b.human), "delegation": b.delegation, "agent": b.agent, "holder": b.holder,
        "ancestors": b.ancestors, "audiences": b.audiences, "capabilities": b.capabilities, "class_max": b.class_max,
        "not_before_secs": b.not_before_secs, "expires_secs": b.expires_secs, "depth": b.depth, "hops": b.hops, "possession": b.possession,
        "freshness_ms": b.freshness_ms, "generations": b.generations, "sealed": token.is_sealed(),
        "restrictions": token.claimed_restrictions().map(restriction).collect::<Vec<_>>(),
        "links": token.claimed_links().map(|l| json!({ "lid": l.lid, "holder": l.holder, "depth": l.depth, "agent": l.card.as_ref().map(|c| c.claimed().agent) })).collect::<Vec<_>>(),
    })
}

fn human(human: &HumanRef) -> String {
    match human {
        HumanRef::Id(id) => id.to_string(),
        HumanRef::Pairwise(hash) => format!("pairwise {}", hex::encode(hash)),
    }
}

fn restriction(r: &Restriction) -> String {
    let list = |items: Vec<String>| items.join(" or ");
    match r {
        Restriction::Until(secs) => format!("until {}", UtcMillis(secs * 1000)),
        Restriction::Audiences(a) => format!("for {}", list(a.iter().map(ToString::to_string).collect())),
        Restriction::ClassMax(class) => format!("data up to {class:?}"),
        Restriction::Capabilities(c) => list(c.iter().map(ToString::to_string).collect()),
        Restriction::Limit(l) => l.to_string(),
    }
}
