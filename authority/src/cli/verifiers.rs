//! `procura verifiers`: who is enrolled, who listens, how far each has applied the feed; enrol and retire.

use std::path::PathBuf;

use anyhow::bail;
use procura_verifier::claims::Audience;
use procura_verifier::ids::{Key, VerifierId};
use serde_json::{Value, json};

use super::door::{At, field};

/// What `procura verifiers` takes; without a command it lists.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Enrol the key of a tool's instance
    ///
    /// Example: procura verifiers enroll --audience payments/1 --key payments-1.key
    Enroll {
        /// The service and instance that it judges for
        #[arg(long)]
        audience: Audience,
        /// The private key, from `procura keygen`; only its public half is sent
        #[arg(long, conflicts_with = "public_key")]
        key: Option<PathBuf>,
        /// The public key, in hex
        #[arg(long)]
        public_key: Option<Key>,
        #[command(flatten)]
        at: At,
    },
    /// Take nothing more that a verifier's key signs; its audience is free for the next one
    ///
    /// Example: procura verifiers retire vrf_… --reason 'moved to another site'
    Retire {
        /// Which
        verifier: VerifierId,
        /// Why; only its salted hash stands in the log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        at: At,
    },
}

/// Runs the command.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<()> {
    match &args.command {
        None => list(&args.at, http).await,
        Some(Command::Enroll { audience, key, public_key, at }) => {
            let key = match (key, public_key) {
                (Some(file), None) => Key::of(&crate::signer::file::read_key(file)?),
                (None, Some(key)) => *key,
                _ => bail!("expected --key FILE or --public-key HEX"),
            };
            let enrolled = at.open(http).await?.post("/v1/verifiers", &json!({ "audience": audience, "key": key })).await?;
            if at.json {
                println!("{enrolled}");
            } else {
                println!("{audience} is {}, with key {key}.", field(&enrolled, "verifier")?);
            }
            Ok(())
        }
        Some(Command::Retire { verifier, reason, at }) => {
            let retired = at.open(http).await?.post("/v1/verifiers/retire", &json!({ "verifier": verifier, "reason": reason })).await?;
            if at.json {
                println!("{retired}");
            } else {
                println!("{verifier} is retired.");
            }
            Ok(())
        }
    }
}

async fn list(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let answer = at.open(http).await?.get("/v1/verifiers").await?;
    if at.json {
        println!("{answer}");
        return Ok(());
    }
    let number = |v: &Value, at: &str| v.pointer(at).and_then(Value::as_u64);
    println!("Feed at {}/{}.", number(&answer, "/head/epoch").unwrap_or_default(), number(&answer, "/head/seq").unwrap_or_default());
    let all = answer.get("verifiers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        println!("No verifier is enrolled: procura verifiers enroll --help");
    }
    for v in all {
        println!("{:<24} {:<10} {}", field(v, "audience")?, field(v, "state")?, field(v, "verifier")?);
        for run in v.get("runs").and_then(Value::as_array).into_iter().flatten() {
            let word = |name: &str| run.get(name).and_then(Value::as_str).unwrap_or_default();
            let applied = match (number(run, "/acknowledged/epoch"), number(run, "/acknowledged/seq"), number(run, "/acknowledged/fresh_age_ms")) {
                (Some(epoch), Some(seq), Some(age)) => format!("applied {epoch}/{seq}, {age} ms fresh"),
                _ => "nothing acknowledged".to_owned(),
            };
            let bound = number(run, "/bound_ms").map(|ms| format!(" {ms} ms")).unwrap_or_default();
            let ago = number(run, "/heard_ms_ago").unwrap_or_default();
            println!("    {applied}; {}{bound}; heard {ago} ms ago by {}; run {}", word("mode"), word("path"), word("run"));
        }
    }
    let anonymous = number(&answer, "/anonymous_streams").unwrap_or_default();
    if anonymous > 0 {
        println!("{anonymous} streams of verifiers that did not sign in.");
    }
    Ok(())
}
