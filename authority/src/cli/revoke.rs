//! `procura revoke`: take back a token, a delegation, an agent, a human, a key, or everything.

use serde_json::json;

use super::door::At;

/// What `procura revoke` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to take back
    #[arg(value_enum)]
    what: What,
    /// Its id; `tenant` and `all` have none
    id: Option<String>,
    /// Why; only its salted hash stands in the log
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    at: At,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// One token and all re-minted from it
    Token,
    /// A delegation and everything under it
    Delegation,
    /// An agent, as holder of tokens and of links
    Agent,
    /// A person: everything resting on their authority
    Human,
    /// A holder key
    Key,
    /// Everything of the tenant
    Tenant,
    /// Everything
    All,
}

/// Runs the command. It is durable when this says so; verifiers hear of it right after.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<()> {
    use clap::ValueEnum as _;
    let value = args.what.to_possible_value();
    let what = value.as_ref().map_or("", |v| v.get_name());
    let mut body = json!({ "what": what, "reason": args.reason });
    if let (Some(id), Some(body)) = (&args.id, body.as_object_mut()) {
        body.insert("id".to_owned(), id.as_str().into());
    }
    let revoked = args.at.open(http)?.post("/v1/revocations", &body).await?;
    if args.at.json {
        println!("{revoked}");
    } else {
        let number = |name| revoked.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
        println!("Revoked: feed number {}, log leaf {}.", number("feed_seq"), number("leaf_index"));
    }
    Ok(())
}
