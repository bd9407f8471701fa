//! How a command ends: the exit code, and what went wrong in one sentence (`spec/cli.md`).

use procura_sdk::client::ClientError;
use serde_json::{Value, json};

use super::door::{Refused, Unreachable};
use crate::app::NotRunning;

/// Done; of a question, yes.
pub const OK: u8 = 0;
/// Not done; of a question, no.
pub const FAILED: u8 = 1;
/// The command line is not one.
pub const USAGE: u8 = 2;
/// The authority does not answer, or cannot do it just now.
pub const UNAVAILABLE: u8 = 3;
/// Taken back, and not everyone is known to deny.
pub const NOT_COVERED: u8 = 4;

/// The options do not go together in a way that only we can see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code of an error.
pub fn code(e: &anyhow::Error) -> u8 {
    let is_ours = |status: u16| status >= 500;
    for cause in e.chain() {
        // A URL that is none.
        let not_sent = |e: &reqwest::Error| e.is_builder();
        let wrong = cause.downcast_ref::<reqwest::Error>().is_some_and(not_sent)
            || matches!(cause.downcast_ref::<ClientError>(), Some(ClientError::Unreachable(e)) if not_sent(e));
        if cause.is::<Usage>() || wrong {
            return USAGE;
        }
        let ours = cause.downcast_ref::<Refused>().is_some_and(|r| is_ours(r.status))
            || cause.is::<Unreachable>()
            || cause.is::<NotRunning>()
            || cause.is::<reqwest::Error>()
            || match cause.downcast_ref::<ClientError>() {
                Some(ClientError::Refused { status, .. }) => is_ours(*status),
                Some(ClientError::Unreachable(_)) => true,
                _ => false,
            };
        if ours {
            return UNAVAILABLE;
        }
    }
    FAILED
}

/// The error as the API says errors: `code`, `message`, and `request_id` where there was a request.
pub fn describe(e: &anyhow::Error) -> Value {
    let mut body = match e.chain().find_map(|c| c.downcast_ref::<Refused>()) {
        Some(refused) => json!({ "code": refused.code, "message": refused.message, "request_id": refused.request_id }),
        None => {
            let word = match (e.chain().find_map(|c| c.downcast_ref::<ClientError>()), code(e)) {
                (Some(ClientError::Refused { code, .. }), _) => code.clone(),
                (_, USAGE) => "usage".to_owned(),
                (_, UNAVAILABLE) => "unavailable".to_owned(),
                _ => "failed".to_owned(),
            };
            json!({ "code": word, "message": sentence(e) })
        }
    };
    if let Some(body) = body.as_object_mut() {
        body.retain(|_, v| !v.is_null());
    }
    body
}

/// One line, each cause once.
pub fn sentence(e: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in e.chain() {
        let text = cause.to_string().replace(['\n', '\r'], " ");
        // Many errors say their cause themselves.
        if said.is_empty() {
            said = text;
        } else if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn refused(status: u16) -> anyhow::Error {
        Refused { status, code: "forbidden".into(), message: "not yours".into(), request_id: Some("r-1".into()) }.into()
    }

    #[test]
    fn whose_fault_it_is_shows_in_the_exit_code() {
        let cases = [
            (anyhow!("no such file"), FAILED),
            (refused(403), FAILED),
            (refused(409), FAILED),
            (refused(503), UNAVAILABLE),
            (refused(503).context("while listing"), UNAVAILABLE),
            (Unreachable { what: "the authority".into(), why: "refused".into() }.into(), UNAVAILABLE),
            (Usage("expected one".into()).into(), USAGE),
        ];
        for (e, expected) in cases {
            assert_eq!(code(&e), expected, "{e:?}");
        }
    }

    #[test]
    fn an_error_has_the_form_of_the_apis() {
        assert_eq!(describe(&refused(403)), json!({ "code": "forbidden", "message": "not yours", "request_id": "r-1" }));
        assert_eq!(describe(&anyhow!("two\nlines")), json!({ "code": "failed", "message": "two lines" }));
        assert_eq!(describe(&Usage("which".into()).into())["code"], "usage");
        let nested = anyhow!("refused").context("cannot read: refused");
        assert_eq!(sentence(&nested), "cannot read: refused", "each cause once");
    }
}
