//! The provider for development as a process of its own: what a `procura serve` of a test signs people in with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use procura_verifier::ids::SystemClock;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;

use crate::config;
use crate::dev_idp::{Client, DevIdp};

/// What `procura dev-idp` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to listen; loopback only
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The callback of its one client, `procura`
    #[arg(long)]
    redirect_url: String,
    /// A file with that client's secret
    #[arg(long)]
    client_secret_file: PathBuf,
}

/// Prints the issuer and serves until it is asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let secret = std::fs::read_to_string(&args.client_secret_file).with_context(|| format!("cannot read {}", args.client_secret_file.display()))?;
    let client = Client { client_id: "procura".to_owned(), secret: Some(secret.trim_end().into()), redirect_uris: vec![args.redirect_url] };
    let idp = DevIdp::new(listener, config::dev_people(), vec![client], Arc::new(SystemClock), Box::new(StdRng::from_os_rng()))?;
    println!("{}", idp.issuer());
    idp.serve(async { _ = super::serve::asked_to_end().await }).await?;
    Ok(())
}
