//! The language of Procura's tokens, and the judgement.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

pub mod cache;
pub mod call;
pub mod card;
pub mod challenge;
pub mod claims;
pub mod decision;
pub mod feed;
pub mod ids;
pub mod key_list;
pub mod proof;
pub mod receipt;
pub mod revocation;
pub mod token;
pub mod trust;
pub mod vocabulary;
pub mod wire;
