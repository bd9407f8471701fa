//! `procura drill`: try the kill switch on a delegation of its own.

use serde_json::{Value, json};

use super::door::{At, field};
use super::revoke::{code, milliseconds, say_coverage};

/// What `procura drill` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How long to wait for verifiers, such as 500ms or 2s
    #[arg(long, default_value = "1s", value_parser = milliseconds)]
    wait: u64,
    #[command(flatten)]
    at: At,
}

/// Runs a drill. The exit code is that of `procura revoke --wait`.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<u8> {
    let drilled = args.at.open(http).await?.post("/v1/drills", &json!({ "wait_ms": args.wait })).await?;
    if args.at.json {
        println!("{drilled}");
    } else {
        let number = |name: &str| drilled.get(name).and_then(Value::as_u64).unwrap_or_default();
        println!("Drill on {}: revoked as feed number {}, log leaf {}.", field(&drilled, "delegation")?, number("feed_seq"), number("leaf_index"));
        say_coverage(&drilled);
    }
    Ok(code(&drilled))
}
