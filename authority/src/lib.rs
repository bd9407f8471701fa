//! The service: who may grant what to which agent, the one writer, the log and the feed.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

pub mod domain;
pub mod signer;
