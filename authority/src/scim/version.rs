//! A resource's version on the wire: a weak ETag (RFC 7644 §3.14), and the two conditions.

use super::ScimError;

/// `W/"7"`.
pub fn etag(version: u64) -> String {
    format!("W/\"{version}\"")
}

/// Refuses a write whose `If-Match` names other versions than the stored one. No header: no condition.
///
/// # Errors
/// 412, also for what is no list of tags: a condition that cannot be read does not hold.
pub fn if_match(header: Option<&str>, version: u64) -> Result<(), ScimError> {
    match header {
        Some(header) if !names(header, version) => Err(ScimError::plain(412, format!("the version is {}, which `If-Match` does not name", etag(version)))),
        _ => Ok(()),
    }
}

/// True if the reader has this version already: answer 304.
pub fn not_modified(if_none_match: Option<&str>, version: u64) -> bool {
    if_none_match.is_some_and(|header| names(header, version))
}

/// Weak comparison: Entra and the testers drop the `W/`.
fn names(header: &str, version: u64) -> bool {
    let wanted = etag(version);
    header.len() <= MAX_HEADER && header.split(',').map(str::trim).any(|tag| tag == "*" || tag == wanted || wanted.strip_prefix("W/") == Some(tag))
}

const MAX_HEADER: usize = 1024;
