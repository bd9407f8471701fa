//! `procura completions`: what a shell needs to complete commands and options.

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

/// What `procura completions` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// Print JSON: the script as one text
    #[arg(long)]
    json: bool,
}

/// Prints the script.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command::Cli::command(), "procura", &mut script);
    let script = String::from_utf8(script)?;
    if args.json {
        println!("{}", json!({ "shell": args.shell.to_string(), "script": script }));
    } else {
        print!("{script}");
    }
    Ok(())
}
