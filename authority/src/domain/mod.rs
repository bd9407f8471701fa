//! What the authority knows and what may be: plain values and rules, no I/O.

pub mod agent;
pub mod delegation;
pub mod grants;
pub mod human;
pub mod limit_text;
pub mod opening;
pub mod principal;
pub mod session;
pub mod verifier;
