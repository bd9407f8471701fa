//! `procura serve`.

use std::path::PathBuf;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, FirstStart};
use crate::config::Config;

/// What `procura serve` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration, TOML; `PROCURA_SECTION__FIELD` overrides a field of it
    #[arg(long)]
    config: PathBuf,
    /// Print the settings in effect, without secrets, and what weakens a promise; then end
    #[arg(long)]
    check: bool,
    /// On a new database: make the service keys and a single anchor beside them. Who takes the one takes the other:
    /// for tests and small sites
    #[arg(long)]
    init_single_anchor: bool,
    /// Say where it serves as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command until it is asked to end.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(&args.config, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))?;
    if args.check {
        let weaknesses = config.weaknesses()?;
        println!("{}", serde_json::to_string_pretty(&json!({ "settings": config.effective()?, "weakens": weaknesses }))?);
        return Ok(());
    }
    let first = if args.init_single_anchor { FirstStart::SingleAnchor } else { FirstStart::SignedList };
    let running = app::serve(&config, first).await?;
    if args.json {
        println!("{}", running.welcome_json());
    } else {
        println!("Serving {} at {}.", config.server.public_url, running.url);
    }
    asked_to_end().await?;
    running.stop().await;
    Ok(())
}

/// Until SIGTERM or Ctrl-C.
pub async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended,
        _ = terminate.recv() => Ok(()),
    }
}
