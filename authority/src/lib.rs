//! The authority: grants, tokens, revocations, and the log of them all.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

pub mod agent_auth;
pub mod dev_idp;
pub mod expiring;
pub mod log;
pub mod oidc;
pub mod secret;
pub mod strict_json;
