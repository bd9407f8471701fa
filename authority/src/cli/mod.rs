//! The command line: one file per command.

pub mod agent;
pub mod command;
pub mod completions;
pub mod delegate;
pub mod delegations;
pub mod dev_idp;
pub mod door;
pub mod drill;
pub mod keygen;
pub mod keys;
pub mod log;
pub mod login;
pub mod narrow;
pub mod outcome;
pub mod paint;
pub mod redis;
pub mod revoke;
pub mod sample_tool;
pub mod serve;
pub mod session;
pub mod token;
pub mod token_words;
pub mod units;
pub mod verifiers;
