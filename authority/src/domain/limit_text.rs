//! Limits as people type them.

use procura_verifier::claims::{Amount, Limit, Unit};

/// `amount=500.00EUR`: the decimals that the unit has, never fewer digits dropped.
pub fn at_most(text: &str) -> Result<Limit, String> {
    let expected = || format!("expected ARGUMENT=AMOUNT such as amount=500.00EUR or rows=100, got `{text}`");
    let (arg, amount) = text.split_once('=').ok_or_else(expected)?;
    let digits = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
    let (number, unit) = amount.split_at(digits);
    let unit: Unit = unit.parse().map_err(|_| expected())?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let minor: i64 = format!("{whole}{decimals}").parse().map_err(|_| expected())?;
    // Written back it must be the same: 500EUR or 500.0EUR could mean five euros to somebody.
    let written = Amount(minor, &unit).to_string().replace(' ', "");
    if written != amount {
        return Err(format!("expected an amount in the unit's own form, such as `{}`, got `{amount}`", Amount(50_000, &unit)));
    }
    Ok(Limit::AtMost { arg: arg.parse().map_err(|_| expected())?, max: minor, unit })
}

/// The same backwards; none for a limit of another kind.
pub fn text(limit: &Limit) -> Option<String> {
    match limit {
        Limit::AtMost { arg, max, unit } => Some(format!("{arg}={}", Amount(*max, unit).to_string().replace(' ', ""))),
        Limit::AtLeast { .. } | Limit::OneOf { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_read_in_its_own_form_only() {
        let max = |text| at_most(text).map(|l| l.to_string());
        assert_eq!(max("amount=500.00EUR").unwrap(), "amount at most 500.00 EUR");
        assert_eq!(max("amount=500JPY").unwrap(), "amount at most 500 JPY");
        assert_eq!(max("rows=100").unwrap(), "rows at most 100");
        for bad in [
            "amount=500EUR",
            "amount=500.0EUR",
            "amount=5,00EUR",
            "amount=-1",
            "amount",
            "=5",
            "amount=1.5",
            "Amount=1",
            "amount=99999999999999999999",
            "amount=0500.00EUR",
        ] {
            assert!(max(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_reads_what_it_wrote() {
        for typed in ["amount=500.00EUR", "amount=500JPY", "rows=100"] {
            assert_eq!(at_most(typed).ok().and_then(|l| text(&l)).as_deref(), Some(typed));
        }
    }
}
