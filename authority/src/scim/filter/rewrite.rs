//! Entra's `emails[type eq "work"].value eq "x"`, which the RFC's grammar has in paths alone.

use std::borrow::Cow;

/// `a[F].s op v` as `a[(F) and s op v]`, `a[F].s pr` likewise. Text inside quotes is left as it is; what does not look so is
/// left for the parser to refuse.
pub(super) fn element_values_inside(text: &str) -> Cow<'_, str> {
    let (mut out, mut done, mut open) = (String::new(), 0, None);
    let mut scan = Scan { text, at: 0 };
    while let Some((at, byte)) = scan.next_outside_quotes() {
        match byte {
            b'[' => open = Some(at),
            b']' => {
                let Some(start) = open.take() else { continue };
                let Some(end) = comparison_end(text, at + 1) else { continue };
                let (Some(before), Some(inner), Some(rest)) = (text.get(done..=start), text.get(start + 1..at), text.get(at + 2..end)) else { continue };
                out.extend([before, "(", inner, ") and ", rest, "]"]);
                (done, scan.at) = (end, end);
            }
            _ => {}
        }
    }
    match text.get(done..) {
        Some(rest) if done > 0 => Cow::Owned(out + rest),
        _ => Cow::Borrowed(text),
    }
}

/// Where `.sub op value` or `.sub pr` ends, if that is what begins at `from`.
fn comparison_end(text: &str, from: usize) -> Option<usize> {
    let rest = text.get(from..)?.strip_prefix('.')?;
    let op = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let word = op.trim_start();
    if word.len() == op.len() {
        return None;
    }
    let after = word.get(2..)?;
    if word.get(..2)?.eq_ignore_ascii_case("pr") {
        return Some(text.len() - after.len());
    }
    let value = after.trim_start();
    if value.len() == after.len() {
        return None;
    }
    let start = text.len() - value.len();
    if value.starts_with('"') {
        let mut escaped = false;
        let close = value.bytes().enumerate().skip(1).find(|(_, b)| {
            let closes = *b == b'"' && !escaped;
            escaped = *b == b'\\' && !escaped;
            closes
        });
        return close.map(|(n, _)| start + n + 1);
    }
    let word = value.find(|c: char| c.is_whitespace() || matches!(c, ')' | ']')).unwrap_or(value.len());
    Some(start + word)
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn next_outside_quotes(&mut self) -> Option<(usize, u8)> {
        let bytes = self.text.as_bytes();
        let (mut quoted, mut escaped) = (false, false);
        loop {
            let (at, byte) = (self.at, *bytes.get(self.at)?);
            self.at += 1;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if !quoted => return Some((at, byte)),
                _ => {}
            }
        }
    }
}
