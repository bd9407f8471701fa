//! Who has heard of a revocation, as a table.

use crate::log::event::{NotCovered, Standing};
use crate::usecase::Unavailable;
use crate::usecase::coverage::{Coverage, Standpoint};
use crate::usecase::revoke::Revoked;

pub(super) struct Board {
    /// Where the log says what was taken back.
    pub revocation: u64,
    /// None if it could not be asked: the revocation stands all the same.
    pub answer: Option<Answer>,
}

pub(super) struct Answer {
    pub whole: bool,
    pub waited_ms: u64,
    pub confirmed: u64,
    pub fenced: u64,
    pub not_covered: u64,
    pub anonymous: u64,
    pub slowest_ms: Option<u64>,
    pub leaf: Option<u64>,
    pub rows: Vec<Row>,
}

pub(super) struct Row {
    pub audience: String,
    pub verifier: String,
    pub state: &'static str,
    pub class: &'static str,
    pub detail: String,
}

impl Board {
    pub fn of(revoked: &Revoked, covered: Result<Coverage, Unavailable>) -> Self {
        let answer = covered.inspect_err(|e| tracing::error!(error = %e, "page.no_coverage")).ok().map(|c| {
            let (confirmed, fenced, not_covered) = c.counts();
            Answer {
                whole: c.is_whole(),
                waited_ms: c.waited_ms,
                confirmed,
                fenced,
                not_covered,
                anonymous: c.anonymous,
                slowest_ms: c.slowest_ms(),
                leaf: c.leaf,
                rows: c.runs.iter().map(row).collect(),
            }
        });
        Self { revocation: revoked.leaf, answer }
    }
}

fn row(s: &Standpoint) -> Row {
    let (state, class, detail) = match &s.standing {
        Standing::Confirmed { after_ms, .. } => ("confirmed", "good", format!("denies since {after_ms} ms after the commit at the latest")),
        Standing::Fenced { bound_ms } => ("fenced", "fair", format!("silent for longer than its own bound of {bound_ms} ms: it has heard, or it denies")),
        Standing::NotCovered { why } => ("not covered", "bad", format!("may go on allowing: {}", reason(*why))),
    };
    Row { audience: s.audience.to_string(), verifier: s.verifier.to_string(), state, class, detail }
}

const fn reason(why: NotCovered) -> &'static str {
    match why {
        NotCovered::LongerBound => "its bound is longer than was waited",
        NotCovered::BestEffort => "it is set to best effort",
        NotCovered::NeverSeen => "it is enrolled and was never heard of",
    }
}
