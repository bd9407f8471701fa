//! A token in plain words: from the human to whoever may use it now.

use procura_verifier::claims::{Block0, HumanRef, Possession, Restriction};
use procura_verifier::ids::UtcMillis;
use procura_verifier::token::{Step, UnverifiedToken};
use procura_verifier::vocabulary::LinkClaims;
use serde_json::{Value, json};

use crate::log::explain::restriction;

/// The chain, a line for each hand it went through.
pub fn in_words(token: &UnverifiedToken) -> String {
    let b = token.claimed();
    let mut lines = vec![
        format!("{} of tenant `{}`", human(&b.human), b.tenant),
        format!("granted {} to {}", b.delegation, b.agent),
        format!("which minted {} for its key {}", b.tid, b.holder),
    ];
    lines.extend(b.capabilities.iter().map(|c| format!("  may       {c}")));
    lines.push(format!("  at        {}, with data up to {:?}", list(b.audiences.iter()), b.class_max));
    lines.push(format!("  valid     {} to {}", date(b.not_before_secs), date(b.expires_secs)));
    lines.push(match (b.depth, b.possession) {
        (_, Possession::Bearer) => "  use       WHOEVER HAS IT may use it, and nobody may pass it on".to_owned(),
        (0, _) => "  use       each call signed by the holder; not to be passed on".to_owned(),
        (n, _) => format!("  use       each call signed by the holder; may be passed on {n} times"),
    });
    if b.freshness_ms > 150 {
        lines.push(format!("  fresh     tools may know of revocations {}", age(b.freshness_ms)));
    }
    for step in token.claimed_steps() {
        match step {
            Step::Narrow(restrictions) => {
                lines.push("which was narrowed".to_owned());
                lines.extend(restrictions.iter().map(|r| format!("  only      {}", restriction(r))));
            }
            Step::Link(link) => {
                let to = link.card.as_ref().map_or_else(
                    || format!("a bare key {}", link.holder),
                    |c| format!("{} with key {}, by a card until {}", c.claimed().agent, link.holder, date(c.claimed().expires_secs)),
                );
                lines.push(format!("which was passed on ({}) to {to}", link.lid));
                lines.extend(link.restrictions.iter().map(|r| format!("  only      {}", restriction(r))));
                lines.push(match link.depth {
                    0 => "  use       not to be passed on any further".to_owned(),
                    n => format!("  use       may be passed on {n} more times"),
                });
            }
        }
    }
    lines.push(match token.is_sealed() {
        true => "sealed: nothing can be appended".to_owned(),
        false => "not sealed: whoever has it can narrow it, and its holder can pass it on".to_owned(),
    });
    lines.join("\n")
}

/// The same for programs.
pub fn describe(token: &UnverifiedToken) -> Value {
    let b = token.claimed();
    let narrow = |all: &[Restriction]| all.iter().map(restriction).collect::<Vec<_>>();
    let link = |l: &LinkClaims| json!({ "lid": l.lid, "holder": l.holder, "depth": l.depth, "agent": l.card.as_ref().map(|c| c.claimed().agent) });
    let step = |s: Step<'_>| match s {
        Step::Narrow(all) => json!({ "only": narrow(all) }),
        Step::Link(l) => json!({ "link": link(l), "only": narrow(&l.restrictions) }),
    };
    json!({
        "tid": b.tid, "tenant": b.tenant, "human": human(&b.human), "delegation": b.delegation, "agent": b.agent, "holder": b.holder,
        "ancestors": b.ancestors, "audiences": b.audiences, "capabilities": b.capabilities, "class_max": b.class_max,
        "not_before_secs": b.not_before_secs, "expires_secs": b.expires_secs, "depth": b.depth, "hops": b.hops, "possession": b.possession,
        "freshness_ms": b.freshness_ms, "generations": b.generations, "sealed": token.is_sealed(), "steps": token.claimed_steps().map(step).collect::<Vec<_>>(),
        "restrictions": token.claimed_restrictions().map(restriction).collect::<Vec<_>>(),
        "links": token.claimed_links().map(link).collect::<Vec<_>>(),
    })
}

fn human(human: &HumanRef) -> String {
    match human {
        HumanRef::Id(id) => id.to_string(),
        HumanRef::Pairwise(hash) => format!("pairwise {}", hex::encode(hash)),
    }
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

fn age(freshness_ms: u32) -> String {
    if freshness_ms == Block0::BEST_EFFORT_MS { "by BEST EFFORT only".to_owned() } else { format!("up to {freshness_ms} ms late") }
}

fn date(secs: u64) -> UtcMillis {
    UtcMillis(secs.saturating_mul(1000))
}
