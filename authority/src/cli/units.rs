//! Times as people type and read them.

/// `1h`, `30m`, `90s`: whole seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a time such as 1h, 30m or 90s, got `{text}`");
    let factor = match text.chars().last() {
        Some('h') => 3600,
        Some('m') => 60,
        Some('s') => 1,
        _ => return Err(expected()),
    };
    let number = text.get(..text.len() - 1).filter(|n| n.bytes().all(|b| b.is_ascii_digit())).ok_or_else(expected)?;
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(expected)
}

/// How long something is or was, to two units: `1 h 5 min`, `12 s`.
pub fn span(secs: u64) -> String {
    let (d, h, m, s) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60, secs % 60);
    let two = |a: String, n: u64, unit: &str| if n == 0 { a } else { format!("{a} {n} {unit}") };
    match (d, h, m) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, m) => two(format!("{m} min"), s, "s"),
        (0, h, m) => two(format!("{h} h"), m, "min"),
        (d, h, _) => two(format!("{d} d"), h, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_unit_only() {
        assert_eq!((seconds("1h"), seconds("30m"), seconds("90s")), (Ok(3600), Ok(1800), Ok(90)));
        for bad in ["1", "h", "1d", "-1s", "+1s", "é", "", "99999999999999999999s", "9999999999999999999h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_span_is_said_to_two_units() {
        assert_eq!([0, 59, 60, 3_725, 3_600, 90_061].map(span), ["0 s", "59 s", "1 min", "1 h 2 min", "1 h", "1 d 1 h"].map(str::to_owned));
    }
}
