//! Colours, on a terminal only (`NO_COLOR` is heeded, `CLICOLOR_FORCE` is not: what is piped is for programs).

use std::io::IsTerminal as _;

/// What a word means for whoever reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Wary,
    /// Dead, refused.
    Bad,
    /// Beside the point.
    Faint,
}

/// The text for standard output in this tone.
pub fn paint(text: &str, tone: Tone) -> String {
    if on(&std::io::stdout()) { coloured(text, tone) } else { text.to_owned() }
}

/// The tone of a state of an agent, a delegation or a verifier.
pub fn tone(state: &str) -> Tone {
    match state {
        "live" | "active" | "confirmed" | "connected" => Tone::Good,
        "suspended" | "killed" | "ended" => Tone::Wary,
        _ => Tone::Bad,
    }
}

/// True if colours are welcome there.
pub fn on(to: &impl std::io::IsTerminal) -> bool {
    // no-color.org: present and not empty.
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// True if there is somebody to tell how it goes.
pub fn somebody_watches() -> bool {
    std::io::stderr().is_terminal()
}

fn coloured(text: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Wary => "33",
        Tone::Bad => "31",
        Tone::Faint => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_ends_where_its_word_ends() {
        assert_eq!(coloured("live", tone("live")), "\x1b[32mlive\x1b[0m");
        assert_eq!(coloured("x", Tone::Bad), "\x1b[31mx\x1b[0m");
        assert_eq!(paint("live", Tone::Good), "live", "a test's output is no terminal");
    }
}
