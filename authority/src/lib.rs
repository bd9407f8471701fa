//! The authority: signs humans in, records what they delegate, mints tokens, takes them back, and keeps the log of it all.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

pub mod agent_auth;
pub mod app;
pub mod checkpoints;
pub mod cli;
pub mod config;
pub mod demo;
pub mod dev_idp;
pub mod domain;
pub mod expiring;
mod failpoint;
pub mod feed;
pub mod http;
pub mod keys;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod oidc;
pub mod scim;
pub mod seal;
pub mod secret;
pub mod signer;
pub mod store;
pub mod strict_json;
pub mod telemetry;
pub mod usecase;
pub mod watch;
pub mod writer;
