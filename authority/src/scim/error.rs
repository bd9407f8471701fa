//! The error of RFC 7644 §3.12.

use serde_json::{Value, json};

/// What went wrong, as the provider's administrator reads it. The sentence names attributes and shapes, never stored values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ScimError {
    /// HTTP status.
    pub status: u16,
    /// The keyword, where the RFC has one.
    pub scim_type: Option<ScimType>,
    /// One sentence of at most 512 bytes.
    pub detail: String,
}

/// The keywords of RFC 7644 §3.12, table 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own words")]
pub enum ScimType {
    InvalidFilter,
    TooMany,
    Uniqueness,
    Mutability,
    InvalidSyntax,
    InvalidPath,
    NoTarget,
    InvalidValue,
    InvalidVers,
    Sensitive,
}

impl ScimType {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidFilter => "invalidFilter",
            Self::TooMany => "tooMany",
            Self::Uniqueness => "uniqueness",
            Self::Mutability => "mutability",
            Self::InvalidSyntax => "invalidSyntax",
            Self::InvalidPath => "invalidPath",
            Self::NoTarget => "noTarget",
            Self::InvalidValue => "invalidValue",
            Self::InvalidVers => "invalidVers",
            Self::Sensitive => "sensitive",
        }
    }
}

impl ScimError {
    /// A request that says something it must not: 400, 409 for uniqueness.
    pub fn new(scim_type: ScimType, detail: impl Into<String>) -> Self {
        let status = if scim_type == ScimType::Uniqueness { 409 } else { 400 };
        Self { status, scim_type: Some(scim_type), detail: bounded(detail.into()) }
    }

    /// One without a keyword: 401, 404, 412, 413 and so on.
    pub fn plain(status: u16, detail: impl Into<String>) -> Self {
        Self { status, scim_type: None, detail: bounded(detail.into()) }
    }

    /// The body. `status` is a string (§3.12).
    pub fn body(&self) -> Value {
        let mut body = json!({ "schemas": [URN], "status": self.status.to_string(), "detail": self.detail });
        if let (Some(scim_type), Some(body)) = (self.scim_type, body.as_object_mut()) {
            body.insert("scimType".into(), scim_type.as_str().into());
        }
        body
    }
}

/// A sentence quotes what came, and what came may be a megabyte.
fn bounded(mut sentence: String) -> String {
    if sentence.len() > MAX_SENTENCE {
        sentence.truncate(sentence.floor_char_boundary(MAX_SENTENCE - '…'.len_utf8()));
        sentence.push('…');
    }
    sentence
}

/// Schema of an error.
pub const URN: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
const MAX_SENTENCE: usize = 512;
