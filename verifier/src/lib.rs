//! The language of Procura's tokens, and the judgement.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests"))]

pub mod card;
pub mod claims;
pub mod ids;
pub mod key_list;
pub mod token;
pub mod vocabulary;
pub mod wire;
