//! What the tests, the vectors and the benches share: a small world with known keys, cases that judge themselves,
//! forged tokens, random tokens, and the stock Biscuit library as a second judge.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test fixtures: a failure here is a failed test")]

pub mod case;
pub mod fixtures;
pub mod forge;
pub mod random;
pub mod stock;
pub mod vectors;
