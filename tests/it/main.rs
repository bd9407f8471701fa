//! The integration tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod attacks;
mod differential;
mod no_allocation;
mod properties;
mod python;
mod readme;
mod vectors;
