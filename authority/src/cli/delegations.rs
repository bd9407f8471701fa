//! `procura delegations …`: what was granted, what came of it, and what waits to be confirmed.

use procura_verifier::ids::{DelegationId, UtcMillis};
use serde_json::{Value, json};

use super::door::{At, field, list, number};
use super::paint::{Tone, paint, tone};
use super::units::span;

/// What `procura delegations` takes; without a command it lists.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// List what you have granted, newest first
    ///
    /// Example: procura delegations list
    List(At),
    /// Show your newest 100 delegations as a tree: the tokens and links that receipts have shown, what time is left, the last use
    ///
    /// Example: procura delegations tree
    Tree(At),
    /// Show one delegation: every bound, how it stands, and what receipts have shown of it
    ///
    /// Example: procura delegations show dlg_…
    Show {
        /// Which
        delegation: DelegationId,
        #[command(flatten)]
        at: At,
    },
    /// Say that a delegation of yours still holds, after its agent was resumed or you were signed out everywhere
    ///
    /// It becomes its next version with the same terms. No token of before comes back.
    ///
    /// Example: procura delegations confirm dlg_…
    Confirm {
        /// Which
        delegation: DelegationId,
        #[command(flatten)]
        at: At,
    },
}

/// Runs the command.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<()> {
    match &args.command {
        None => list_all(&args.at, http).await,
        Some(Command::List(at)) => list_all(at, http).await,
        Some(Command::Tree(at)) => {
            let answer = at.open(http).await?.get("/v1/delegations/tree").await?;
            if at.json {
                println!("{answer}");
                return Ok(());
            }
            let all = list(&answer, "delegations");
            if all.is_empty() {
                println!("{NOTHING}");
            }
            all.iter().try_for_each(|d| say_tree(d, number(&answer, "now_ms")))
        }
        Some(Command::Show { delegation, at }) => {
            let answer = at.open(http).await?.get(&format!("/v1/delegations/{delegation}")).await?;
            if at.json {
                println!("{answer}");
                return Ok(());
            }
            println!("{}\n", field(&answer, "summary")?);
            println!("granted     {} by {}, version {}", UtcMillis(number(&answer, "created_ms")), field(&answer, "human")?, number(&answer, "version"));
            println!("agent       {} ({}, {})", field(&answer, "agent")?, field(&answer, "agent_name")?, field(&answer, "agent_state")?);
            say_tree(&answer, number(&answer, "now_ms"))
        }
        Some(Command::Confirm { delegation, at }) => {
            let answer = at.open(http).await?.post(&format!("/v1/delegations/{delegation}/confirm"), &json!({})).await?;
            if at.json {
                println!("{answer}");
            } else {
                println!("{}\n\n{delegation} is live again, as version {}.", field(&answer, "summary")?, number(&answer, "version"));
            }
            Ok(())
        }
    }
}

async fn list_all(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let answer = at.open(http).await?.get("/v1/delegations").await?;
    if at.json {
        println!("{answer}");
        return Ok(());
    }
    let all = list(&answer, "delegations");
    if all.is_empty() {
        println!("{NOTHING}");
    }
    for d in all {
        let standing = field(d, "standing")?;
        println!("{}  {}  {}", field(d, "delegation")?, paint(&format!("{standing:<8}"), tone(standing)), field(d, "agent_name")?);
        for line in field(d, "summary")?.lines() {
            println!("    {line}");
        }
    }
    Ok(())
}

fn say_tree(d: &Value, now_ms: u64) -> anyhow::Result<()> {
    let standing = field(d, "standing")?;
    let left = match standing {
        "live" => format!(", {} left", span(number(d, "not_after_ms").saturating_sub(now_ms) / 1000)),
        _ => d.get("since_ms").and_then(Value::as_u64).map(|at| format!(" since {}", UtcMillis(at))).unwrap_or_default(),
    };
    let used = d.get("last_used_ms").and_then(Value::as_u64).map_or_else(|| "never used".to_owned(), |at| format!("last used {} ago", ago(now_ms, at)));
    println!("{}  {}{left}  to {}, {used}", field(d, "delegation")?, paint(standing, tone(standing)), field(d, "agent_name")?);
    let tokens = list(d, "tokens");
    say_branches(tokens, "", now_ms)?;
    if d.get("whole").and_then(Value::as_bool) == Some(false) {
        println!("{}", paint("   … and more, used longer ago", Tone::Faint));
    }
    Ok(())
}

fn say_branches(branches: &[Value], indent: &str, now_ms: u64) -> anyhow::Result<()> {
    for (n, b) in branches.iter().enumerate() {
        let last = n + 1 == branches.len();
        let (turn, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let link = b.get("lid").and_then(Value::as_str);
        let holder = b.get("agent").and_then(Value::as_str).map_or_else(|| format!("a bare key {}", field(b, "holder").unwrap_or_default()), str::to_owned);
        let ends = number(b, "expires_secs");
        let left = match ends.saturating_sub(now_ms / 1000) {
            0 => "over".to_owned(),
            secs => format!("{} left", span(secs)),
        };
        let what = link.map_or_else(|| field(b, "tid").map(|tid| format!("{tid} of {holder}")), |lid| Ok(format!("{lid} passed on to {holder}")))?;
        let counts = match (number(b, "allowed"), number(b, "denied")) {
            (0, 0) => "not presented itself".to_owned(),
            (allowed, 0) => format!("{allowed} allowed"),
            (allowed, denied) => format!("{allowed} allowed, {denied} denied"),
        };
        let ago = ago(now_ms, number(b, "last_used_ms"));
        println!("{indent}{turn}{what}: {left}, {counts}, last {ago} ago (leaf {})", number(b, "leaf_index"));
        say_branches(list(b, "links"), &format!("{indent}{below}"), now_ms)?;
    }
    Ok(())
}

fn ago(now_ms: u64, at_ms: u64) -> String {
    span(now_ms.saturating_sub(at_ms) / 1000)
}

const NOTHING: &str = "You have granted nothing. Grant something: procura delegate --help";
