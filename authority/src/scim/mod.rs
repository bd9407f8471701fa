//! SCIM 2.0 (RFC 7643, RFC 7644) as values: what an identity provider sends in, the resource or the refusal out. No I/O.
//!
//! A resource is JSON in normal form ([`resource::Resource`]): names spelled as the schema spells them, types checked, nothing
//! null or empty, nothing that only the server may say. Two providers' dialects therefore meet in one stored form, and the
//! cascade looks at stored transitions, never at the shape of an operation.
//!
//! The grammar of filters and paths is scim_v2's, as are the schema documents; it evaluates and applies nothing.

pub mod discovery;
pub mod error;
pub mod filter;
pub mod list;
pub mod patch;
pub mod projection;
pub mod resource;
pub mod schema;
pub mod version;

pub use error::{ScimError, ScimType};
pub use scim_rs::ResourceKind;

#[cfg(test)]
mod tests;

/// Media type of every answer; `application/json` is taken too.
pub const MEDIA_TYPE: &str = "application/scim+json";
/// Longest body of a request.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
