//! `procura token …`: a new token, a narrower one, one for another agent, and what it says and whether it holds; all but
//! the minting offline.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_sdk::client::{AgentClient, MintRequest};
use procura_sdk::held::HeldToken;
use procura_verifier::card::SignedCard;
use procura_verifier::decision::in_time;
use procura_verifier::ids::{AgentId, Clock as _, DelegationId, Key, SystemClock, UtcMillis};
use procura_verifier::key_list::KeyUse;
use procura_verifier::token::{MAX_TOKEN_BYTES, UnverifiedToken};
use procura_verifier::trust::TrustFile;
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::narrow::Narrow;
use super::outcome::Usage;
use super::paint::{Tone, paint};
use super::token_words::{describe, in_words};
use super::units::seconds;

/// `procura token …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
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
        /// How long it lives, such as 10m; as long as the delegation allows if absent
        #[arg(long, value_parser = seconds, conflicts_with = "ttl_secs")]
        ttl: Option<u64>,
        /// The same in seconds
        #[arg(long)]
        ttl_secs: Option<u64>,
        /// Print JSON, the token in it
        #[arg(long)]
        json: bool,
    },
    /// Narrow a token, offline; the new one on standard output, what is left of it on standard error
    ///
    /// Example: procura token attenuate --at-most amount=120.00EUR --for 10m < token.txt > narrow.txt
    Attenuate {
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        narrow: Narrow,
    },
    /// Pass a token on to another agent by its card, narrowed or not, offline; the new one on standard output
    ///
    /// It works with the other agent's key only, and as long as the card is valid.
    ///
    /// Example: procura token link --key invoice-bot.key --card fx-helper.card --at-most amount=50.00EUR < token.txt > linked.txt
    #[command(group(clap::ArgGroup::new("to").required(true).args(["card", "to_key"])))]
    Link {
        #[command(flatten)]
        input: Input,
        /// The private key of the token's present holder
        #[arg(long)]
        key: PathBuf,
        /// The next holder's card, from `procura agent card`
        #[arg(long)]
        card: Option<PathBuf>,
        /// A bare public key in hex, where the delegation allows agents that are not registered
        #[arg(long)]
        to_key: Option<Key>,
        /// How many times it may be passed on after this
        #[arg(long, default_value_t = 0)]
        depth: u8,
        #[command(flatten)]
        narrow: Narrow,
    },
    /// Show what a token says, from the human to its holder, without believing it
    ///
    /// Example: procura token inspect < token.txt
    Inspect(Input),
    /// Check a token's signatures, keys and time against a trust file; exit 1 if it does not hold
    ///
    /// Whether it was revoked only a live feed can say: that a tool's guard knows.
    ///
    /// Example: procura token verify --trust authority/trust.json < token.txt
    Verify {
        #[command(flatten)]
        input: Input,
        /// The trust file
        #[arg(long)]
        trust: PathBuf,
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
    fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let text = match &self.file {
            Some(path) => bounded(std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?),
            None => bounded(std::io::stdin()),
        };
        let text = text.context("expected a token in base64url, and it is not text")?;
        let text = text.trim();
        if text.len() > MAX_TEXT {
            bail!("the token is more than {MAX_TEXT} characters long, expected at most {}", MAX_TOKEN_BYTES.div_ceil(3) * 4);
        }
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        if text.is_empty() {
            bail!("expected a token in base64url, and nothing came");
        }
        BASE64.decode(text).map_err(|_| anyhow::anyhow!("expected a token in base64url without padding, and it has other characters or an odd end"))
    }

    fn read(&self) -> anyhow::Result<UnverifiedToken> {
        Ok(UnverifiedToken::parse(&self.bytes()?)?)
    }

    /// One that something can be appended to.
    fn held(&self) -> anyhow::Result<HeldToken> {
        let held = HeldToken::from_bytes(self.bytes()?)?;
        if held.claims().is_sealed() {
            bail!("the token is sealed: nothing can be appended, expected the one that was minted or passed on");
        }
        Ok(held)
    }
}

fn bounded(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(MAX_TEXT as u64 + 64).read_to_string(&mut text)?;
    Ok(text)
}

/// Runs the command. False if the token does not hold.
pub async fn run(command: &Command, http: reqwest::Client) -> anyhow::Result<bool> {
    let now = SystemClock.wall();
    match command {
        Command::Mint { authority, agent, key, delegation, ttl, ttl_secs, json } => {
            let client = AgentClient::new(http, authority.trim_end_matches('/'), *agent, crate::signer::file::read_key(key)?, SystemClock);
            let request = MintRequest { delegation: *delegation, ttl_secs: ttl.or(*ttl_secs) };
            let token = client.mint(&request, &mut StdRng::from_os_rng()).await?;
            hand_out(&token, *json, None);
            Ok(true)
        }
        Command::Attenuate { input, narrow } => {
            let restrictions = narrow.restrictions(now)?;
            if restrictions.is_empty() {
                return Err(Usage("expected something to narrow, such as --at-most or --for".to_owned()).into());
            }
            let token = input.held()?.narrow(&restrictions, &mut StdRng::from_os_rng())?;
            hand_out(&token, input.json, Some("Narrowed. What the token says now:"));
            Ok(true)
        }
        Command::Link { input, key, card, to_key, depth, narrow } => {
            let (held, holder, restrictions) = (input.held()?, crate::signer::file::read_key(key)?, narrow.restrictions(now)?);
            if held.claims().claimed_holder() != Key::of(&holder) {
                bail!("the key is not that of the token's holder, expected the one of {}", held.claims().claimed_holder());
            }
            let rng = &mut StdRng::from_os_rng();
            let token = match (card, to_key) {
                (Some(file), _) => {
                    let card = read_card(file)?;
                    if !card.is_current(now) {
                        bail!("the card in {} has ended: fetch a fresh one with `procura agent card`", file.display());
                    }
                    held.link(&card, *depth, restrictions, &holder, rng)?
                }
                (None, Some(next)) => held.link_unregistered(*next, *depth, restrictions, &holder, rng)?,
                (None, None) => return Err(Usage("expected --card FILE or --to-key HEX".to_owned()).into()),
            };
            hand_out(&token, input.json, Some("Passed on. What the token says now:"));
            Ok(true)
        }
        Command::Inspect(input) => {
            let token = input.read()?;
            if input.json {
                println!("{}", describe(&token));
            } else {
                println!("Not verified: this is what the token says of itself.\n\n{}", in_words(&token));
            }
            Ok(true)
        }
        Command::Verify { input, trust } => {
            let trust = read_trust(trust)?;
            let token = input.read()?;
            let verdict = verify(&token, &trust, now);
            if input.json {
                println!("{}", json!({ "holds": verdict.is_ok(), "cause": verdict.as_ref().err(), "token": describe(&token) }));
            } else {
                match &verdict {
                    Ok(()) => println!(
                        "{}: signatures, keys and time. Whether it was revoked only a live feed can say.\n\n{}",
                        paint("The token holds", Tone::Good),
                        in_words(&token)
                    ),
                    Err(cause) => println!("{}: {cause}", paint("The token does not hold", Tone::Bad)),
                }
            }
            Ok(verdict.is_ok())
        }
    }
}

/// The token on standard output, and for a person beside it what it says.
fn hand_out(token: &HeldToken, json: bool, heading: Option<&str>) {
    if json {
        println!("{}", json!({ "token": token.to_text(), "says": describe(token.claims()) }));
        return;
    }
    if let Some(heading) = heading {
        eprintln!("{heading}\n\n{}\n", in_words(token.claims()));
    }
    println!("{}", token.to_text());
}

fn read_card(file: &Path) -> anyhow::Result<SignedCard> {
    let text = bounded(std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?);
    let bytes = text.ok().and_then(|t| BASE64.decode(t.trim()).ok()).and_then(|b| SignedCard::from_bytes(&b).ok());
    bytes.with_context(|| format!("{} is not an agent's card, expected what `procura agent card` prints", file.display()))
}

/// The trust file at a path.
pub fn read_trust(path: &Path) -> anyhow::Result<TrustFile> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(TrustFile::from_json(&bytes)?)
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

/// Longest text that may be a token.
const MAX_TEXT: usize = MAX_TOKEN_BYTES * 2;
