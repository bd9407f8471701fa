//! `procura log export|replay`: the auditor's file, and what it shows.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use procura_verifier::trust::TrustFile;
use serde_json::json;

use crate::app;
use crate::config::Config;
use crate::log::bundle::{Bundle, Limits, LoadError};
use crate::log::finding::Finding;
use crate::log::replay::{Summary, replay};

/// `procura log …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Write the whole log of an authority into one file that replays offline
    ///
    /// A running authority is asked over the socket in its data folder; where none runs the database is read.
    ///
    /// Example: procura log export --data authority --out bundle.tar
    #[command(group(clap::ArgGroup::new("whose").required(true).args(["data", "config"])))]
    Export {
        /// The data folder of `procura dev`, or that of a running `procura serve`
        #[arg(long)]
        data: Option<PathBuf>,
        /// The configuration file of `procura serve`
        #[arg(long)]
        config: Option<PathBuf>,
        /// Where to write the bundle
        #[arg(long)]
        out: PathBuf,
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
pub async fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Export { data, config, out } => {
            let bundle = match (data, config) {
                (Some(data), _) => match ask(&data).await? {
                    Some(bundle) => bundle,
                    None => app::export_at_rest(&data).await?,
                },
                (None, Some(path)) => {
                    let config = loaded(&path)?;
                    match ask(&config.server.data).await? {
                        Some(bundle) => bundle,
                        None => app::export_served(&config).await?,
                    }
                }
                (None, None) => bail!("expected --data or --config"),
            };
            write(&out, &bundle)?;
            println!("{} bytes written to {}", bundle.len(), out.display());
            Ok(0)
        }
        Command::Recover { data, config, reason } => {
            let recovered = match (data, config) {
                (Some(data), _) => app::recover_at_rest(&data, reason).await?,
                (None, Some(path)) => {
                    app::recover_served(&loaded(&path)?, reason).await?
                }
                (None, None) => bail!("expected --data or --config"),
            };
            println!("{}", recovered.in_words());
            Ok(0)
        }
        Command::Replay { bundle, trust, json } => {
            let trust_bytes = std::fs::read(&trust).with_context(|| format!("cannot read {}", trust.display()))?;
            let trust = TrustFile::from_json(&trust_bytes)?;
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

/// The bundle of the authority that runs on this folder; none if nobody runs: nobody listens, or the lock on the folder says otherwise.
async fn ask(data: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let socket = data.join(app::SOCKET);
    let http = reqwest::Client::builder().unix_socket(socket.clone()).build()?;
    match http.get("http://localhost/v1/log/bundle").send().await {
        Ok(answer) if answer.status().is_success() => Ok(Some(answer.bytes().await.context("the authority's answer broke off")?.into())),
        Ok(answer) => bail!("the running authority refused with {}: {}", answer.status(), answer.text().await.unwrap_or_default()),
        Err(_) => Ok(None),
    }
}

fn write(out: &Path, bundle: &[u8]) -> anyhow::Result<()> {
    // Aside and renamed: never half a bundle under the name that was asked for.
    let aside = out.with_extension("part");
    let mut file = std::fs::File::create(&aside).with_context(|| format!("cannot write {}", aside.display()))?;
    file.write_all(bundle)?;
    file.sync_all()?;
    std::fs::rename(&aside, out).with_context(|| format!("cannot write {}", out.display()))
}
