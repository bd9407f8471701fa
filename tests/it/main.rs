//! The integration tests.
#![forbid(unsafe_code)]

mod attacks;
mod differential;
mod no_allocation;
mod properties;
mod python;
mod vectors;
