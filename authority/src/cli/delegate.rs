//! `procura delegate`: a grant, in words that are hashed into the log.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use procura_verifier::claims::{Capability, Limit, Name, Pattern};
use procura_verifier::ids::AgentId;
use serde_json::json;

use super::door::{At, field};
use super::outcome::Usage;
use super::units::seconds;
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
        (Some(file), ..) => capabilities(file)?,
        (None, Some(tool), Some(action), Some(resource)) => {
            if args.at_most.is_empty() && !args.unlimited {
                return Err(Usage("expected --at-most ARGUMENT=AMOUNT, or --unlimited said by name".to_owned()).into());
            }
            vec![Capability::new(tool.clone(), action.clone(), resource.clone(), args.at_most.clone())?]
        }
        _ => return Err(Usage("expected --tool, --action and --resource, or --capabilities FILE".to_owned()).into()),
    };
    let body = json!({ "agent": args.agent, "audiences": args.services, "capabilities": capabilities, "ttl_secs": args.ttl, "depth": args.depth });
    let granted = args.at.open(http).await?.post("/v1/delegations", &body).await?;
    if args.at.json {
        println!("{granted}");
    } else {
        println!(
            "{}\n\n{}\nThe agent mints a token: procura token mint --agent {} --key FILE --delegation {}",
            field(&granted, "summary")?,
            field(&granted, "delegation")?,
            args.agent,
            field(&granted, "delegation")?
        );
    }
    Ok(())
}

/// The capabilities in a JSON file: a list, each with tool, action, resource and limits.
pub fn capabilities(file: &std::path::Path) -> anyhow::Result<Vec<Capability>> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    opened.take(MAX_FILE).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", file.display()))?;
    crate::strict_json::from_slice(&bytes, MAX_FILE as usize).with_context(|| format!("{} is not a JSON list of capabilities", file.display()))
}

/// Eight capabilities with all their limits take less.
const MAX_FILE: u64 = 64 * 1024;
