//! The command line: one file per command.

pub mod keygen;
pub mod log;
pub mod login;
pub mod sample_tool;
pub mod token;
