//! `procura`: the authority and everything one does with it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use procura_authority::cli::command::{self, Cli};
use procura_authority::cli::outcome;
use procura_authority::{config, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    // `procura … | head`: whoever reads has read enough, and that is no failure to tell of.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match info.payload_as_str() {
        Some(said) if said.starts_with("failed printing to stdout") => std::process::exit(i32::from(outcome::OK)),
        _ => usual(info),
    }));
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
            if is_error && json {
                eprintln!("{}", command::usage(&e))
            } else {
                _ = e.print()
            }
            return ExitCode::from(if is_error { outcome::USAGE } else { outcome::OK });
        }
    };
    // `serve` writes as its configuration says.
    if !cli.is_serve() {
        telemetry::init(&config::Log::default());
    }
    let code = match command::run(cli).await {
        Ok(code) => code,
        Err(e) => {
            if json {
                eprintln!("{}", outcome::describe(&e))
            } else {
                eprintln!("procura: {}", outcome::sentence(&e))
            }
            outcome::code(&e)
        }
    };
    _ = std::io::stdout().flush();
    ExitCode::from(code)
}
