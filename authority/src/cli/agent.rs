//! `procura agent create|list`: an agent and the key it is known by.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::Signer as _;
use procura_verifier::challenge;
use procura_verifier::claims::Name;
use procura_verifier::ids::{Key, Tenant};
use serde_json::{Value, json};

use super::door::{At, field};

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
}

/// Runs the command.
pub async fn run(command: &Command, http: &reqwest::Client) -> anyhow::Result<()> {
    match command {
        Command::Create { name, key, at } => {
            let door = at.open(http)?;
            let signing = crate::signer::file::read_key(key)?;
            let public = Key::of(&signing);
            let drawn = door.post("/v1/agents/challenges", &json!({})).await?;
            let mut nonce = [0; 32];
            hex::decode_to_slice(field(&drawn, "challenge")?, &mut nonce)?;
            let tenant: Tenant = field(&drawn, "tenant")?.parse()?;
            let signature = hex::encode(signing.sign(&challenge::message(&tenant, &nonce, &public)).to_bytes());
            let body = json!({ "name": name, "key": public, "challenge": hex::encode(nonce), "signature": signature });
            let registered = door.post("/v1/agents", &body).await?;
            if at.json {
                println!("{registered}");
            } else {
                let card = BASE64.decode(field(&registered, "card")?)?;
                println!(
                    "{} is {}, with key {public}. Its card ({} bytes) is good for at most 24 hours; the agent fetches the next one itself.",
                    name,
                    field(&registered, "agent")?,
                    card.len()
                );
            }
        }
        Command::List { at } => {
            let agents = at.open(http)?.get("/v1/agents").await?;
            if at.json {
                println!("{agents}");
                return Ok(());
            }
            let agents = agents.get("agents").and_then(Value::as_array).cloned().unwrap_or_default();
            if agents.is_empty() {
                println!("You have no agents. Register one: procura agent create --name NAME --key FILE");
            }
            for agent in &agents {
                println!("{}  {}  {}", field(agent, "agent")?, field(agent, "state")?, field(agent, "name")?);
            }
        }
    }
    Ok(())
}
