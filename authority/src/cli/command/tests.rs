//! The whole tree of commands, walked: every leaf says JSON, shows an example, and the example is one.

use clap::{CommandFactory as _, Parser as _};

use super::*;

/// Every command that does something, with its path.
fn leaves() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(path: &[String], command: &clap::Command, found: &mut Vec<(Vec<String>, clap::Command)>) {
        let below: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help").collect();
        if below.is_empty() || (!path.is_empty() && !command.is_subcommand_required_set()) {
            found.push((path.to_vec(), command.clone()));
        }
        for c in below {
            walk(&[path, &[c.get_name().to_owned()]].concat(), c, found);
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut found = Vec::new();
    walk(&[], &root, &mut found);
    found
}

#[test]
fn the_tree_is_well_formed() {
    Cli::command().debug_assert();
    let paths: Vec<String> = leaves().into_iter().map(|(p, _)| p.join(" ")).collect();
    // What the issue asks for by name.
    for wanted in [
        "keygen",
        "login",
        "logout",
        "whoami",
        "agent create",
        "agent list",
        "agent show",
        "agent rotate-key",
        "agent suspend",
        "agent resume",
        "agent retire",
        "delegate",
        "delegations",
        "delegations list",
        "delegations tree",
        "delegations show",
        "token mint",
        "token attenuate",
        "token link",
        "token inspect",
        "token verify",
        "revoke",
        "drill",
        "keys list",
        "keys prepare",
        "keys sign",
        "keys publish",
        "verifiers",
        "log checkpoint",
        "log export",
        "log replay",
        "log explain",
        "completions",
    ] {
        assert!(paths.iter().any(|p| p == wanted), "{wanted} is not among {paths:?}");
    }
}

#[test]
fn every_command_says_json_and_shows_an_example_that_parses() {
    let all = leaves();
    assert!(all.len() > 35, "{}", all.len());
    for (path, mut command) in all {
        let name = path.join(" ");
        assert!(command.get_arguments().any(|a| a.get_long() == Some("json")), "{name} has no --json");
        let help = command.render_long_help().to_string();
        let example = help.lines().map(str::trim).find_map(|l| l.strip_prefix("Example: ")).unwrap_or_else(|| panic!("{name} shows no example:\n{help}"));
        let example = example.trim_matches('`');
        assert!(example.starts_with(&format!("procura {name}")), "{name}: {example}");
        let words = words(example);
        assert!(Cli::try_parse_from(&words).is_ok(), "{name}: {example}: {}", Cli::try_parse_from(&words).err().map(|e| e.to_string()).unwrap_or_default());
        for form in [&["--json"][..], &["--json", "--unheard-of"]] {
            // The same with --json is one too, unless it needs more; what nobody knows is refused.
            let asked = Cli::try_parse_from(words.iter().map(String::as_str).chain(form.iter().copied()));
            let missing = asked.as_ref().err().is_some_and(|e| e.kind() == clap::error::ErrorKind::MissingRequiredArgument);
            let twice = asked.as_ref().err().is_some_and(|e| e.kind() == clap::error::ErrorKind::ArgumentConflict);
            assert!(if form.len() == 1 { asked.is_ok() || missing || twice } else { asked.is_err() }, "{name} {form:?}");
        }
    }
}

/// As a shell takes a line apart; what it would redirect is left out, and `…` stands for what nobody types.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quoted) {
            ('\'' | '"', None) => quoted = Some(c),
            (c, Some(q)) if c == q => quoted = None,
            (' ', None) => words.push(std::mem::take(&mut word)),
            (c, _) => word.push(c),
        }
    }
    words.push(word);
    let until = words.iter().position(|w| w == "<" || w == ">").unwrap_or(words.len());
    words.truncate(until);
    let spell = |w: String| match w.strip_suffix('…') {
        Some(prefix) if prefix.ends_with('_') => format!("{prefix}{}", "0".repeat(32)),
        Some(prefix) => format!("{prefix}{}", "0".repeat(64 - prefix.len())),
        None => w,
    };
    words.into_iter().map(spell).collect()
}

#[test]
fn each_shell_has_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(Cli::try_parse_from(["procura", "completions", shell]).is_ok(), "{shell}");
    }
    assert!(Cli::try_parse_from(["procura", "completions", "dos"]).is_err());
}
