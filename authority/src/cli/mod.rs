//! The command line: one file per command.

pub mod agent;
pub mod delegate;
pub mod dev_idp;
pub mod door;
pub mod drill;
pub mod keygen;
pub mod keys;
pub mod log;
pub mod login;
pub mod redis;
pub mod revoke;
pub mod sample_tool;
pub mod serve;
pub mod session;
pub mod token;
pub mod verifiers;
