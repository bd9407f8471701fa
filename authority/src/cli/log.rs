//! `procura log …`: the signed root, the auditor's file, what it shows, and one decision in plain words.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::key_list::{KeyUse, UnverifiedKeyList};
use procura_verifier::trust::TrustFile;
use procura_verifier::wire::Canonical as _;
use serde_json::json;

use super::door::{At, Door, field};
use super::outcome::Usage;
use super::paint::{Tone, paint};
use super::token::read_trust;
use crate::app;
use crate::config::Config;
use crate::log::bundle::{Bundle, Limits, LoadError};
use crate::log::checkpoint::{Checkpoint as LogCheckpoint, Origin, Vkey};
use crate::log::explain::{Which, explain};
use crate::log::finding::Finding;
use crate::log::replay::{Summary, replay};

/// `procura log …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Print the log's newest checkpoint: a signed note of size and root. Keep it: two that contradict each other are evidence
    ///
    /// Example: procura log checkpoint --data authority
    Checkpoint {
        /// Check its signature from this trust file; by default from the one in the data folder
        #[arg(long)]
        trust: Option<PathBuf>,
        #[command(flatten)]
        at: At,
    },
    /// Write the whole log of an authority into one file that replays offline
    ///
    /// A running authority is asked over the socket in its data folder; where none runs the database is read.
    ///
    /// Example: procura log export --data authority --out bundle.tar
    Export {
        /// The configuration file of `procura serve`, whose database is read where it does not run
        #[arg(long, conflicts_with_all = ["data", "session"])]
        config: Option<PathBuf>,
        /// Where to write the bundle
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Say how one decision came about, from the human to the tool, after checking all that it rests on
    ///
    /// From a bundle, or from an authority's whole log, which is fetched and checked in the same way. The decision is named by
    /// its id or by the number of the leaf with its receipt (`procura delegations tree`).
    ///
    /// Example: procura log explain 42 --bundle bundle.tar --trust trust.json
    Explain {
        /// Which
        decision: Which,
        /// The bundle
        #[arg(long, conflicts_with_all = ["data", "session"], requires = "trust")]
        bundle: Option<PathBuf>,
        /// The trust file; by default the one in the data folder
        #[arg(long)]
        trust: Option<PathBuf>,
        #[command(flatten)]
        at: At,
    },
    /// Go on after a restored backup or lost commits: a new origin that names the break, and a new epoch of the feed
    ///
    /// For a database that is older than what was released from it, on which the authority refuses to start. End every
    /// replica first, start them again afterwards. Verifiers that kept what was lost hand it back by themselves.
    ///
    /// Example: procura log recover --data authority --reason "restored the backup of Tuesday"
    #[command(group(clap::ArgGroup::new("which").required(true).args(["data", "config"])))]
    Recover {
        /// The data folder of `procura dev`
        #[arg(long)]
        data: Option<PathBuf>,
        /// The configuration file of `procura serve`
        #[arg(long)]
        config: Option<PathBuf>,
        /// Why, at most 512 bytes; its salted hash goes into the log
        #[arg(long)]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a bundle from a trust file alone: signatures, hashes, and every decision derived again
    ///
    /// Exit 0 if everything follows, 10 to 16 by class of finding (spec/log.md).
    ///
    /// Example: procura log replay bundle.tar --trust trust.json
    Replay {
        /// The bundle
        bundle: PathBuf,
        /// The trust file
        #[arg(long)]
        trust: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command, and says the exit code.
pub async fn run(command: Command, http: &reqwest::Client) -> anyhow::Result<u8> {
    match command {
        Command::Checkpoint { trust, at } => checkpoint(trust.or_else(|| at.trust_file()), &at, http).await,
        Command::Export { config, out, at } => {
            let bundle = match config {
                None => at.open(http).await?.fetch(BUNDLE).await?,
                Some(path) => {
                    let config = loaded(&path)?;
                    match Door::running_on(&config.server.data).await? {
                        Some(door) => door.fetch(BUNDLE).await?,
                        None => app::export_served(&config).await?,
                    }
                }
            };
            write(&out, &bundle)?;
            if at.json {
                println!("{}", json!({ "file": out, "bytes": bundle.len() }));
            } else {
                println!("{} bytes written to {}", bundle.len(), out.display());
            }
            Ok(0)
        }
        Command::Explain { decision, bundle, trust, at } => {
            let trust = trust.or_else(|| at.trust_file()).ok_or_else(|| Usage("expected --trust FILE".to_owned()))?;
            let trust = read_trust(&trust)?;
            let bytes = match &bundle {
                Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
                None => at.open(http).await?.fetch(BUNDLE).await?,
            };
            explained(&bytes, &trust, decision, at.json)
        }
        Command::Recover { data, config, reason, json } => {
            let recovered = match (data, config) {
                (Some(data), _) => app::recover_at_rest(&data, reason).await?,
                (None, Some(path)) => app::recover_served(&loaded(&path)?, reason).await?,
                (None, None) => bail!("expected --data or --config"),
            };
            println!("{}", if json { json!({ "sentence": recovered.in_words() }).to_string() } else { recovered.in_words() });
            Ok(0)
        }
        Command::Replay { bundle, trust, json } => {
            let trust = read_trust(&trust)?;
            let file = std::fs::File::open(&bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
            match check(file, &trust)? {
                Ok(summary) => {
                    if json {
                        println!("{}", json!({ "ok": true, "summary": summary }));
                    } else {
                        println!("{}", in_words(&summary));
                    }
                    Ok(0)
                }
                Err(finding) => {
                    if json {
                        println!("{}", json!({ "ok": false, "finding": finding, "sentence": finding.to_string() }));
                    } else {
                        println!("found: {finding}");
                    }
                    Ok(finding.class.exit_code())
                }
            }
        }
    }
}

fn check(file: std::fs::File, trust: &TrustFile) -> anyhow::Result<Result<Summary, Finding>> {
    match Bundle::load(file, &trust.anchors, &trust.tenant, Limits::default()) {
        Ok(bundle) => Ok(replay(&bundle)),
        Err(LoadError::Finding(finding)) => Ok(Err(finding)),
        Err(e) => Err(e.into()),
    }
}

fn in_words(s: &Summary) -> String {
    let witnesses = if s.witnesses.is_empty() { "unwitnessed".to_owned() } else { format!("witnessed by {}", s.witnesses.join(", ")) };
    let breaks =
        s.breaks.iter().map(|b| format!("; at leaf {} the log goes on as {}: {} leaves released as {} are lost", b.leaf, b.origin, b.lost, b.previous));
    let breaks: String = breaks.collect();
    format!(
        "everything follows: {} leaves, {} delegations, {} tokens, {} revocations, {} decisions derived again ({} allowed), {} denials counted; {witnesses}{breaks}",
        s.leaves, s.delegations, s.tokens, s.revocations, s.decisions, s.allowed, s.counted_denials
    )
}

/// A configuration with what the environment overrides.
fn loaded(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))?)
}

fn explained(bytes: &[u8], trust: &TrustFile, decision: Which, as_json: bool) -> anyhow::Result<u8> {
    let checked = Bundle::read(bytes, &trust.anchors, &trust.tenant, Limits::default()).and_then(|bundle| replay(&bundle).map(|_| bundle));
    let bundle = match checked {
        Ok(bundle) => bundle,
        // What does not follow is not explained.
        Err(finding) => {
            if as_json {
                println!("{}", json!({ "ok": false, "finding": finding, "sentence": finding.to_string() }));
            } else {
                println!("found: {finding}");
            }
            return Ok(finding.class.exit_code());
        }
    };
    let explanation = explain(&bundle, decision).context("the log holds no receipt of that decision: it may not have been delivered yet")?;
    if as_json {
        println!("{}", serde_json::to_string(&explanation)?);
        return Ok(0);
    }
    let verdict = if explanation.allowed { paint("ALLOWED", Tone::Good) } else { paint("DENIED", Tone::Bad) };
    let cause = explanation.cause.as_ref().map(|c| format!(": {c}")).unwrap_or_default();
    println!("Decision {}: {verdict}{cause}\n", explanation.decision);
    for (n, step) in (1..).zip(&explanation.steps) {
        let from = match (step.leaf, step.at) {
            (Some(leaf), Some(at)) => format!(" (leaf {leaf}, {at})"),
            _ => String::new(),
        };
        println!("{n:>2}. {}{}", step.sentence, paint(&from, Tone::Faint));
    }
    println!("\nEverything that this rests on was checked again: signatures, the log's tree, and the verdict itself.");
    Ok(0)
}

async fn checkpoint(trust: Option<PathBuf>, at: &At, http: &reqwest::Client) -> anyhow::Result<u8> {
    let door = at.open(http).await?;
    let note = door.fetch("/checkpoint").await?;
    let by = match trust {
        None => None,
        Some(path) => {
            let trust = read_trust(&path)?;
            // A newer list than the trust file's counts if the same anchors signed it.
            let served = BASE64.decode(field(&door.get("/v1/keys").await?, "key_list")?).context("the authority's key list is not base64url")?;
            let list = trust.anchors.accept(&UnverifiedKeyList::from_bytes(&served)?, &trust.tenant)?;
            let origin: Origin = std::str::from_utf8(&note).ok().and_then(|n| n.lines().next()).context("the checkpoint is not text")?.parse()?;
            let keys: Vec<_> = list.of(KeyUse::Log).map(|k| Vkey { origin: origin.clone(), key: k.key }).collect();
            Some(LogCheckpoint::open(&note, &keys)?)
        }
    };
    let text = String::from_utf8(note).context("the checkpoint is not text")?;
    if at.json {
        let signed = by.as_ref().map(|(c, keys)| json!({ "origin": c.origin.as_str(), "size": c.size, "root": hex::encode(c.root), "signed_by": keys.iter().map(ToString::to_string).collect::<Vec<_>>() }));
        println!("{}", json!({ "note": text, "verified": signed }));
        return Ok(0);
    }
    print!("{text}");
    match by {
        Some((c, keys)) => eprintln!("{} leaves; signed by {} log key(s) that the anchors vouch for.", c.size, keys.len()),
        None => eprintln!("Not verified: say --trust FILE to check its signature."),
    }
    Ok(0)
}

fn write(out: &Path, bundle: &[u8]) -> anyhow::Result<()> {
    // Aside and renamed: never half a bundle under the name that was asked for.
    let aside = out.with_extension("part");
    let mut file = std::fs::File::create(&aside).with_context(|| format!("cannot write {}", aside.display()))?;
    file.write_all(bundle)?;
    file.sync_all()?;
    std::fs::rename(&aside, out).with_context(|| format!("cannot write {}", out.display()))
}

const BUNDLE: &str = "/v1/log/bundle";
