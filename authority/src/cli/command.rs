//! The tree of commands: what `procura --help` shows, and where each goes.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::{
    agent, completions, delegate, delegations, dev_idp, door, drill, keygen, keys, log, login, outcome, redis, revoke, sample_tool, serve, session, token,
    verifiers,
};
use crate::{app, demo};

/// Authority for AI agents: who authorised this, within what bounds, and how fast can it be taken back
#[derive(clap::Parser)]
#[command(name = "procura", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// True for what writes its log as a configuration says.
    pub const fn is_serve(&self) -> bool {
        matches!(self.command, Command::Serve(_))
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the main job once on this machine, on a temporary folder, and say what came of each step
    ///
    /// Example: procura demo --json
    Demo(demo::Args),
    /// Run an authority for development, with an OpenID provider that asks for no password; loopback only
    ///
    /// Example: procura dev --data ./authority
    Dev {
        /// Where to listen; loopback only
        #[arg(long, default_value = "127.0.0.1:7300")]
        listen: SocketAddr,
        /// The data folder: database, keys (mode 0600), trust.json, socket
        #[arg(long, default_value = "./procura-data")]
        data: PathBuf,
        /// Say where it serves as one line of JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        redis: redis::RedisArgs,
    },
    /// Run one replica of an authority from a configuration
    ///
    /// Example: procura serve --config procura.toml
    Serve(serve::Args),
    /// Make an Ed25519 key for an agent or a verifier
    ///
    /// Example: procura keygen --out invoice-bot.key
    Keygen(keygen::Args),
    /// Sign in at an authority with a browser on this machine
    ///
    /// Example: procura login --authority http://127.0.0.1:7300
    Login(login::Args),
    /// Say who is signed in
    ///
    /// Example: procura whoami
    Whoami(door::At),
    /// Sign out, here and at the authority
    ///
    /// Example: procura logout
    Logout(door::At),
    /// Agents of yours: register, list, show, rotate keys, suspend, resume, retire
    #[command(subcommand)]
    Agent(agent::Command),
    /// Grant a bounded part of your own authority to an agent
    ///
    /// Example: procura delegate --agent agt_… --service payments --tool payments --action transfer --resource 'acct/eu/*' --at-most amount=500.00EUR --ttl 1h
    Delegate(delegate::Args),
    /// What you have granted: list, tree, show, confirm
    ///
    /// Example: procura delegations
    Delegations(delegations::Args),
    /// Take something back; every tool hears of it within 200 ms, or denies
    ///
    /// With --wait the exit code is 4 where it is taken back and not everyone is known to deny.
    ///
    /// Example: procura revoke delegation dlg_… --reason 'the month is over' --wait
    Revoke(revoke::Args),
    /// The key list: rotate keys, sign it with the anchors, put it in force
    #[command(subcommand)]
    Keys(keys::Command),
    /// Try the kill switch on a delegation of its own, and put the answer on record
    ///
    /// Example: procura drill --data ./authority
    Drill(drill::Args),
    /// List who listens to revocations and how far each has applied them; enrol and retire
    ///
    /// Example: procura verifiers --data ./authority
    Verifiers(verifiers::Args),
    /// The log: its checkpoint, an export that replays offline, the replay, one decision explained
    #[command(subcommand)]
    Log(log::Command),
    /// Tokens: mint, and offline narrow, pass on, inspect, verify
    #[command(subcommand)]
    Token(token::Command),
    /// Print what a shell needs to complete commands and options
    ///
    /// Example: procura completions bash > ~/.local/share/bash-completion/completions/procura
    Completions(completions::Args),
    /// One instance of the demo's sample tool
    #[command(hide = true)]
    SampleTool(sample_tool::Args),
    /// The provider for development alone
    #[command(hide = true)]
    DevIdp(dev_idp::Args),
}

const EXIT_CODES: &str = "Exit codes: 0 done or yes, 1 failed or no, 2 not a command line, 3 the authority is unavailable (`revoke` and `drill` also 4, `log replay` and `log explain` 10 to 16). \
With --json an error is one line of JSON on standard error: {\"code\", \"message\", \"request_id\"}.";

const LONGEST_EXPORT: std::time::Duration = std::time::Duration::from_secs(3600);

/// Runs a command line; says the exit code. The process has its TLS provider.
pub async fn run(cli: Cli) -> anyhow::Result<u8> {
    let http = || reqwest::Client::builder().tcp_nodelay(true).timeout(std::time::Duration::from_secs(30)).build().context("no HTTP client");
    let held = |holds: bool| if holds { outcome::OK } else { outcome::FAILED };
    let done = |()| outcome::OK;
    match cli.command {
        Command::Demo(args) => Ok(held(demo::run(args, http()?).await?)),
        Command::Dev { listen, data, json, redis } => {
            let running = app::dev(&data, listen, redis.config()?).await?;
            println!("{}", if json { running.welcome_json() } else { running.welcome() });
            serve::asked_to_end().await?;
            running.stop().await;
            Ok(outcome::OK)
        }
        Command::Serve(args) => serve::run(&args).await,
        Command::DevIdp(args) => dev_idp::run(args).await.map(done),
        Command::Keygen(args) => keygen::run(&args).map(done),
        Command::Login(args) => login::run(args, http()?).await.map(done),
        Command::Whoami(at) => session::whoami(&at, &http()?).await.map(done),
        Command::Logout(at) => session::logout(&at, &http()?).await.map(done),
        Command::Agent(command) => agent::run(&command, &http()?).await.map(done),
        Command::Delegate(args) => delegate::run(&args, &http()?).await.map(done),
        Command::Delegations(args) => delegations::run(&args, &http()?).await.map(done),
        Command::Revoke(args) => revoke::run(&args, &http()?).await,
        Command::Keys(command) => keys::run(command, &http()?).await.map(done),
        Command::Drill(args) => drill::run(&args, &http()?).await,
        Command::Verifiers(args) => verifiers::run(&args, &http()?).await.map(done),
        // A bundle takes as long as the log is long.
        Command::Log(command) => log::run(command, &reqwest::Client::builder().tcp_nodelay(true).timeout(LONGEST_EXPORT).build()?).await,
        Command::Token(command) => token::run(&command, http()?).await.map(held),
        Command::Completions(args) => completions::run(&args).map(done),
        // Streams of the feed have no end: no overall timeout.
        Command::SampleTool(args) => sample_tool::run(args, reqwest::Client::builder().tcp_nodelay(true).build()?).await.map(done),
    }
}

/// An error of the command line's own parser, as the API says errors.
pub fn usage(e: &clap::Error) -> serde_json::Value {
    let text = e.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    json!({ "code": "usage", "message": line })
}

#[cfg(test)]
mod tests;
