//! What an agent and a tool link.
//!
//! An **agent** mints at its authority ([`client`]), narrows and links offline ([`held`]), and signs each call.
//! A **tool** puts one layer in front of its routes ([`layer`]); the layer decides in process, from what the feed has
//! told it, and asks nobody on the way.
//!
//! ```
//! use procura_sdk::held::HeldToken;
//!
//! // What is not a token is refused with one sentence, offline.
//! let error = HeldToken::from_text("AAAA").err().map(|e| e.to_string());
//! assert_eq!(error.as_deref(), Some("outside the profile: expected a block in the one form of `spec/token.md`"));
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

#[cfg(feature = "client")]
pub mod caller;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "axum")]
pub mod guard;
pub mod held;
#[cfg(feature = "axum")]
pub mod layer;
#[cfg(feature = "axum")]
mod limiter;
#[cfg(feature = "axum")]
mod receipts;
#[cfg(feature = "axum")]
pub mod tool_file;
