//! `procura revoke`: take back a token, a delegation, an agent, a human, a key, or everything.

use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tid};
use serde_json::{Value, json};

use super::door::At;
use super::outcome::{NOT_COVERED, UNAVAILABLE, Usage};
use super::paint;

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
    /// Wait until every verifier has confirmed or is presumed to deny, at most so long (1s if not said), and name them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1s", value_parser = milliseconds)]
    wait: Option<u64>,
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
    /// A holder key, or a root key with all it signed
    Key,
    /// Everything of the tenant
    Tenant,
    /// Everything
    All,
}

impl What {
    /// Asked before anybody else is.
    fn reads(self, id: &str) -> Result<(), String> {
        let said = |e: &dyn std::fmt::Display| format!("`{id}`: {e}");
        match self {
            Self::Token => id.parse::<Tid>().map(drop).map_err(|e| said(&e)),
            Self::Delegation => id.parse::<DelegationId>().map(drop).map_err(|e| said(&e)),
            Self::Agent => id.parse::<AgentId>().map(drop).map_err(|e| said(&e)),
            Self::Human => id.parse::<HumanId>().map(drop).map_err(|e| said(&e)),
            Self::Key => id.parse::<Key>().map(drop).map_err(|e| said(&e)),
            Self::Tenant | Self::All => Ok(()),
        }
    }
}

/// Runs the command. It is durable when this says so; verifiers hear of it right after.
///
/// Exit codes: 0 revoked, and with `--wait` everyone has confirmed or is presumed to deny; 3 the authority is not
/// available; 4 revoked, and some are not covered.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<u8> {
    use clap::ValueEnum as _;
    match (&args.id, args.what) {
        (None, What::Tenant | What::All) | (Some(_), What::Token | What::Delegation | What::Agent | What::Human | What::Key) => {}
        (Some(id), _) => return Err(Usage(format!("`tenant` and `all` have no id, got `{id}`")).into()),
        (None, _) => return Err(Usage("expected the id of what to take back".to_owned()).into()),
    }
    if let Some(Err(e)) = args.id.as_deref().map(|id| args.what.reads(id)) {
        return Err(Usage(e).into());
    }
    let value = args.what.to_possible_value();
    let what = value.as_ref().map_or("", |v| v.get_name());
    let mut body = json!({ "what": what, "reason": args.reason });
    if let (Some(id), Some(body)) = (&args.id, body.as_object_mut()) {
        body.insert("id".to_owned(), id.as_str().into());
    }
    if let (Some(wait), Some(body)) = (args.wait, body.as_object_mut()) {
        body.insert("wait_ms".to_owned(), wait.into());
    }
    let door = args.at.open(http).await?;
    if args.wait.is_some() && paint::somebody_watches() {
        eprintln!("Waiting until every verifier has confirmed or is presumed to deny …");
    }
    let revoked = door.post("/v1/revocations", &body).await?;
    if args.at.json {
        println!("{revoked}");
    } else {
        let number = |name| revoked.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
        println!("Revoked: feed number {}, log leaf {}.", number("feed_seq"), number("leaf_index"));
        say_coverage(&revoked);
    }
    Ok(code(&revoked))
}

/// The exit code for an answer that may hold a coverage.
pub(super) fn code(answer: &Value) -> u8 {
    let Some(coverage) = answer.get("coverage") else { return 0 };
    match coverage.get("covered").and_then(Value::as_bool) {
        // Not on record is not answered: the log is what an auditor sees.
        Some(true) if coverage.get("leaf_index").is_some_and(Value::is_u64) => 0,
        Some(false) => NOT_COVERED,
        _ => UNAVAILABLE,
    }
}

/// The table of who has heard.
pub(super) fn say_coverage(answer: &Value) {
    let Some(coverage) = answer.get("coverage") else { return };
    let number = |v: &Value, name: &str| v.get(name).and_then(Value::as_u64);
    let Some(confirmed) = number(coverage, "confirmed") else {
        println!("Who has heard of it is not known: the authority could not look.");
        return;
    };
    for v in coverage.get("verifiers").and_then(Value::as_array).into_iter().flatten() {
        let word = |name: &str| v.get(name).and_then(Value::as_str).unwrap_or_default();
        let standing = match (word("state"), number(v, "after_ms"), number(v, "bound_ms"), word("why")) {
            ("confirmed", Some(ms), ..) => format!("confirmed after {ms} ms"),
            ("fenced", _, Some(ms), _) => format!("presumed fenced: silent for longer than its bound of {ms} ms"),
            (.., "best_effort") => "not covered: best effort".to_owned(),
            (.., "never_seen") => "not covered: enrolled, never heard of".to_owned(),
            _ => "not covered: its bound is longer than the wait".to_owned(),
        };
        println!("  {:<24} {}  {standing}", word("audience"), word("verifier"));
    }
    let count = |name| number(coverage, name).unwrap_or_default();
    if confirmed + count("fenced") + count("not_covered") + count("anonymous") == 0 {
        println!("No verifier is enrolled, and nobody listens: nobody had to hear of it.");
    }
    println!(
        "{confirmed} confirmed, {} presumed fenced, {} not covered, {} streams of nobody known, after {} ms.",
        count("fenced"),
        count("not_covered"),
        count("anonymous"),
        count("waited_ms")
    );
    if number(coverage, "leaf_index").is_none() {
        println!("This answer could not be written to the log.");
    }
}

/// `500ms`, `2s`.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a time of at most 15s such as 500ms or 2s, got `{text}`");
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => return Err(expected()),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|ms| *ms <= 15_000);
    ms.filter(|_| number.bytes().all(|b| b.is_ascii_digit())).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_its_own_form_only() {
        assert_eq!((milliseconds("500ms"), milliseconds("2s"), milliseconds("15s")), (Ok(500), Ok(2_000), Ok(15_000)));
        for bad in ["", "1", "s", "16s", "+1s", "-1s", "1m", "99999999999999999999s"] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_answer_on_record_that_covers_everyone_is_good() {
        let answer = |covered: Value, leaf: Value| json!({ "coverage": { "covered": covered, "leaf_index": leaf } });
        assert_eq!(code(&json!({ "feed_seq": 1 })), 0, "nobody waited");
        assert_eq!(code(&answer(true.into(), 7.into())), 0);
        assert_eq!(code(&answer(false.into(), 7.into())), NOT_COVERED);
        assert_eq!(code(&answer(true.into(), Value::Null)), UNAVAILABLE);
        assert_eq!(code(&json!({ "coverage": { "unavailable": true } })), UNAVAILABLE);
    }
}
