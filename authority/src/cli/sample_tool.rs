//! The sample tool of the demo: a payment service that moves nothing, guarded by the SDK's layer. Hidden; one process
//! is one instance. It ends when its standard input does, after its receipts are delivered.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use procura_sdk::guard::{Action, Guard, GuardConfig};
use procura_sdk::layer::{ProcuraLayer, by_path};
use procura_verifier::claims::Audience;
use procura_verifier::decision::ToolPolicy;
use procura_verifier::ids::{SystemClock, VerifierId};
use procura_verifier::trust::TrustFile;
use tokio::io::AsyncReadExt as _;

use super::redis::RedisArgs;

/// What the hidden command takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(long)]
    trust: PathBuf,
    #[arg(long)]
    authority: String,
    #[arg(long)]
    audience: Audience,
    #[arg(long)]
    verifier: VerifierId,
    #[arg(long)]
    key: PathBuf,
    #[command(flatten)]
    redis: RedisArgs,
}

/// Runs one instance on a free loopback port; the first line on standard output is its URL.
pub async fn run(args: Args, http: reqwest::Client) -> anyhow::Result<()> {
    let trust = TrustFile::from_json(&std::fs::read(&args.trust).with_context(|| format!("cannot read {}", args.trust.display()))?)?;
    let config = GuardConfig {
        trust,
        // Several instances start from this file, and the authority writes it: none of them keeps lists in it.
        trust_path: None,
        authority: args.authority,
        audience: args.audience,
        verifier: args.verifier,
        key: crate::signer::file::read_key(&args.key)?,
        policy: ToolPolicy::STRICT,
        max_proofs: 100_000,
        max_tokens: 4_096,
        cold_per_second: 200,
        redis: args.redis.config()?.map(|redis| redis.open()).transpose()?,
    };
    let guard = Guard::start(config, http, Arc::new(SystemClock))?;
    let guarded = Router::new().route("/{tenant}/{action}/{*resource}", post(act)).layer(ProcuraLayer::new(guard.clone(), by_path("payments".parse()?)));
    let router = guarded.route("/denials", get(denials)).with_state(guard.clone());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let end = async {
        _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    };
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).with_graceful_shutdown(end).await?;
    anyhow::ensure!(guard.close().await, "the authority did not acknowledge all receipts within ten seconds");
    Ok(())
}

/// The effect: here it is only said. What runs is what was hashed.
async fn act(Extension(action): Extension<Action>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "done": action.action, "resource": action.resource, "arguments": action.args.to_json() }))
}

/// How many denials of each cause this instance has counted, told to whoever runs it.
async fn denials(State(guard): State<Arc<Guard>>) -> Json<std::collections::BTreeMap<&'static str, u64>> {
    Json(guard.denials())
}
