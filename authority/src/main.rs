//! `procura`: the authority and everything one does with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use procura_authority::{app, cli, config, demo, telemetry};

/// Authority for AI agents: who authorised this, within what bounds, and how fast can it be taken back
#[derive(clap::Parser)]
#[command(name = "procura", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
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
        redis: cli::redis::RedisArgs,
    },
    /// Run one replica of an authority from a configuration
    ///
    /// Example: procura serve --config procura.toml
    Serve(cli::serve::Args),
    /// Make an Ed25519 key for an agent or a verifier
    ///
    /// Example: procura keygen --out invoice-bot.key
    Keygen(cli::keygen::Args),
    /// Sign in at an authority with a browser on this machine
    ///
    /// Example: procura login --authority http://127.0.0.1:7300
    Login(cli::login::Args),
    /// Say who is signed in
    ///
    /// Example: procura whoami
    Whoami(cli::door::At),
    /// Sign out, here and at the authority
    ///
    /// Example: procura logout
    Logout(cli::door::At),
    /// Register and list your agents
    #[command(subcommand)]
    Agent(cli::agent::Command),
    /// Grant a bounded part of your own authority to an agent
    ///
    /// Example: procura delegate --agent agt_… --service payments --tool payments --action transfer --resource 'acct/eu/*' --at-most amount=500.00EUR --ttl 1h
    Delegate(cli::delegate::Args),
    /// List what you have granted
    ///
    /// Example: procura delegations
    Delegations(cli::door::At),
    /// Take something back; every tool hears of it within 200 ms, or denies
    ///
    /// Example: procura revoke delegation dlg_… --reason 'the month is over'
    Revoke(cli::revoke::Args),
    /// The key list: rotate keys, sign it with the anchors, put it in force
    #[command(subcommand)]
    Keys(cli::keys::Command),
    /// Try the kill switch on a delegation of its own, and put the answer on record
    ///
    /// Example: procura drill --data ./authority
    Drill(cli::drill::Args),
    /// List who listens to revocations and how far each has applied them; enrol and retire
    ///
    /// Example: procura verifiers --data ./authority
    Verifiers(cli::verifiers::Args),
    /// Export and replay the log
    #[command(subcommand)]
    Log(cli::log::Command),
    /// Look at tokens, and mint them
    #[command(subcommand)]
    Token(cli::token::Command),
    /// One instance of the demo's sample tool
    #[command(hide = true)]
    SampleTool(cli::sample_tool::Args),
    /// The provider for development alone
    #[command(hide = true)]
    DevIdp(cli::dev_idp::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // `serve` writes as its configuration says.
    if !matches!(command, Command::Serve(_)) {
        telemetry::init(&config::Log::default());
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("procura: a TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    match run(command).await {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("procura: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<u8> {
    let http = || reqwest::Client::builder().tcp_nodelay(true).timeout(std::time::Duration::from_secs(30)).build().context("no HTTP client");
    let held = |holds: bool| u8::from(!holds);
    match command {
        Command::Demo(args) => Ok(held(demo::run(args, http()?).await?)),
        Command::Dev { listen, data, json, redis } => {
            let running = app::dev(&data, listen, redis.config()?).await?;
            println!("{}", if json { running.welcome_json() } else { running.welcome() });
            cli::serve::asked_to_end().await?;
            running.stop().await;
            Ok(0)
        }
        Command::Serve(args) => cli::serve::run(&args).await,
        Command::DevIdp(args) => cli::dev_idp::run(args).await.map(|()| 0),
        Command::Keygen(args) => cli::keygen::run(&args).map(|()| 0),
        Command::Login(args) => cli::login::run(args, http()?).await.map(|()| 0),
        Command::Whoami(at) => cli::session::whoami(&at, &http()?).await.map(|()| 0),
        Command::Logout(at) => cli::session::logout(&at, &http()?).await.map(|()| 0),
        Command::Agent(command) => cli::agent::run(&command, &http()?).await.map(|()| 0),
        Command::Delegate(args) => cli::delegate::run(&args, &http()?).await.map(|()| 0),
        Command::Delegations(at) => cli::delegate::list(&at, &http()?).await.map(|()| 0),
        Command::Revoke(args) => cli::revoke::run(&args, &http()?).await,
        Command::Keys(command) => cli::keys::run(command, &http()?).await.map(|()| 0),
        Command::Drill(args) => cli::drill::run(&args, &http()?).await,
        Command::Verifiers(args) => cli::verifiers::run(&args, &http()?).await.map(|()| 0),
        Command::Log(command) => cli::log::run(command).await,
        Command::Token(command) => cli::token::run(&command, http()?).await.map(held),
        // Streams of the feed have no end: no overall timeout.
        Command::SampleTool(args) => cli::sample_tool::run(args, reqwest::Client::builder().tcp_nodelay(true).build()?).await.map(|()| 0),
    }
}
