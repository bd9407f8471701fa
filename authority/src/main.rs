//! `procura`: the authority and everything one does with it.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use procura_authority::cli::command::{self, Cli};
use procura_authority::cli::outcome;

#[tokio::main]
async fn main() -> ExitCode {
    // `procura … | head`: whoever reads has read enough, and that is no failure to tell of.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match info.payload_as_str() {
        Some(said) if said.starts_with("failed printing to stdout") => std::process::exit(i32::from(outcome::OK)),
        _ => usual(info),
    }));
    let filter = tracing_subscriber::EnvFilter::try_from_env("PROCURA_LOG").unwrap_or_else(|_| "warn".into());
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("procura: a TLS provider was installed twice");
        return ExitCode::from(outcome::FAILED);
    }
    // What is asked before the parser has an opinion: errors of its own take this form, too.
    let json = std::env::args_os().skip(1).take_while(|a| a != "--").any(|a| a == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let is_error = e.use_stderr();
            if is_error && json { eprintln!("{}", command::usage(&e)) } else { _ = e.print() }
            return ExitCode::from(if is_error { outcome::USAGE } else { outcome::OK });
        }
    };
    let code = match command::run(cli).await {
        Ok(code) => code,
        Err(e) => {
            if json { eprintln!("{}", outcome::describe(&e)) } else { eprintln!("procura: {}", outcome::sentence(&e)) }
            outcome::code(&e)
        }
    };
    _ = std::io::stdout().flush();
    ExitCode::from(code)
}
