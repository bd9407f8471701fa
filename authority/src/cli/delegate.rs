//! `procura delegate` and `procura delegations`: a grant, in words before it is made, and what was granted.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use procura_verifier::claims::{Capability, Limit, Name, Pattern};
use procura_verifier::ids::AgentId;
use serde_json::{Value, json};

use super::door::{At, field};
use crate::domain::limit_text::at_most;

/// What `procura delegate` takes: one capability by options, or several from a file.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The agent that receives it
    #[arg(long)]
    agent: AgentId,
    /// A service that may accept its tokens; may be given several times
    #[arg(long = "service", required = true)]
    services: Vec<Name>,
    /// The tool
    #[arg(long, required_unless_present = "capabilities")]
    tool: Option<Name>,
    /// The action
    #[arg(long, required_unless_present = "capabilities")]
    action: Option<Name>,
    /// The resources: exactly one, or all below a prefix (acct/eu/*)
    #[arg(long, required_unless_present = "capabilities")]
    resource: Option<Pattern>,
    /// A limit such as amount=500.00EUR, or rows=100 for a bare count; may be given several times
    #[arg(long = "at-most", value_parser = at_most)]
    at_most: Vec<Limit>,
    /// Say that there is no limit
    #[arg(long, conflicts_with = "at_most")]
    unlimited: bool,
    /// A JSON file with a list of capabilities, instead of the options above
    #[arg(long, conflicts_with_all = ["tool", "action", "resource", "at_most", "unlimited"])]
    capabilities: Option<PathBuf>,
    /// How long a token lives, such as 1h, 30m or 90s
    #[arg(long, value_parser = seconds)]
    ttl: u64,
    /// How many times it may be passed on
    #[arg(long, default_value_t = 0)]
    depth: u8,
    #[command(flatten)]
    at: At,
}

/// Grants, and says in plain words what was granted.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<()> {
    let capabilities: Vec<Capability> = match (&args.capabilities, &args.tool, &args.action, &args.resource) {
        (Some(file), ..) => serde_json::from_slice(&std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?)?,
        (None, Some(tool), Some(action), Some(resource)) => {
            if args.at_most.is_empty() && !args.unlimited {
                bail!("expected --at-most ARGUMENT=AMOUNT, or --unlimited said by name");
            }
            vec![Capability::new(tool.clone(), action.clone(), resource.clone(), args.at_most.clone())?]
        }
        _ => bail!("expected --tool, --action and --resource, or --capabilities FILE"),
    };
    let body = json!({ "agent": args.agent, "audiences": args.services, "capabilities": capabilities, "ttl_secs": args.ttl, "depth": args.depth });
    let granted = args.at.open(http)?.post("/v1/delegations", &body).await?;
    if args.at.json {
        println!("{granted}");
    } else {
        println!("{}\n\n{}", field(&granted, "summary")?, field(&granted, "delegation")?);
    }
    Ok(())
}

/// Lists what the person has granted.
pub async fn list(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let answer = at.open(http)?.get("/v1/delegations").await?;
    if at.json {
        println!("{answer}");
        return Ok(());
    }
    let all = answer.get("delegations").and_then(Value::as_array).cloned().unwrap_or_default();
    if all.is_empty() {
        println!("You have granted nothing. Grant something: procura delegate --help");
    }
    for d in &all {
        println!("{}  {:<8}  {}", field(d, "delegation")?, field(d, "standing")?, field(d, "agent_name")?);
        for line in field(d, "summary")?.lines() {
            println!("    {line}");
        }
    }
    Ok(())
}

fn seconds(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a time such as 1h, 30m or 90s, got `{text}`");
    let factor = match text.chars().last() {
        Some('h') => 3600,
        Some('m') => 60,
        Some('s') => 1,
        _ => return Err(expected()),
    };
    let number: u64 = text.get(..text.len() - 1).and_then(|n| n.parse().ok()).ok_or_else(expected)?;
    number.checked_mul(factor).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_unit_only() {
        assert_eq!((seconds("1h"), seconds("30m"), seconds("90s")), (Ok(3600), Ok(1800), Ok(90)));
        for bad in ["1", "h", "1d", "-1s", "é", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
