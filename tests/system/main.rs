//! The system as its users meet it: the binary `procura` as processes, on real sockets.
//!
//! `scripts/test` builds the binary first; by hand: `cargo build -p procura-authority`. `PROCURA_BIN` names another one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bad_input;
mod bad_server;
mod browser;
mod cli;
mod commands;
mod commands_wrong;
mod demo;
mod keys;
mod kill;
mod parts;
mod recover;
mod redis;
mod replicas;
mod roles;
mod server;
mod sessions;
mod standby;
mod support;
mod tls;
mod tool;
mod tool_file;
mod watch;
