//! JSON with one reading: what serde_json alone lets through is refused here first.
//!
//! Two readers that disagree about a duplicate key or a large number disagree about what was signed or asked. So no
//! duplicate keys at any depth, no floats, integers within i64 or u64, nesting of at most [`MAX_DEPTH`], nothing after the value.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 32;

/// Why bytes are not the JSON expected. One clear sentence, without the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

impl JsonError {
    /// The sentence of a reader that looks closer than the shape.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// The value that these bytes say, and nothing else. At most `max_bytes` are looked at.
///
/// Unknown fields are refused by `T` itself: every `T` read here carries `deny_unknown_fields`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], max_bytes: usize) -> Result<T, JsonError> {
    if bytes.len() > max_bytes {
        return Err(JsonError(format!("JSON is {} bytes long, expected at most {max_bytes}", bytes.len())));
    }
    let sentence = |e: serde_json::Error| JsonError(format!("expected strict JSON of the documented shape: {}", bounded(e.to_string())));
    let mut walk = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0 }.deserialize(&mut walk).map_err(sentence)?;
    walk.end().map_err(sentence)?;
    serde_json::from_slice(bytes).map_err(sentence)
}

/// serde_json quotes the value or the key it did not expect, however long: a sentence is no echo of megabytes.
fn bounded(mut sentence: String) -> String {
    if sentence.len() > MAX_SENTENCE {
        sentence.truncate(sentence.floor_char_boundary(MAX_SENTENCE));
        sentence.push('…');
    }
    sentence
}

/// Walks a value and keeps nothing but the keys of the objects it is inside of.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a boolean, an integer of 64 bits, a string, an array or an object")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    // `visit_f64` is missing on purpose: 1.0, 1e3, -0 and integers beyond 64 bits arrive there and are refused.
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while seq.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        let mut seen = HashSet::new();
        // Keys are compared after escapes are undone: `a` and `\u0061` are one key.
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(deeper)?;
            if !seen.insert(key) {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(())
    }
}

const MAX_SENTENCE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<serde_json::Value, JsonError> {
        from_slice(text.as_bytes(), 1000)
    }

    #[test]
    fn one_reading_or_none() {
        for good in [r#"{"a":1,"b":{"a":1}}"#, "-9223372036854775808", "18446744073709551615", r#"[null,true,"x"]"#, " {} "] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"x":{"a":1,"a":2}}]"#,
            "1.0",
            "1e3",
            "-0",
            "18446744073709551616",
            "-9223372036854775809",
            "{} {}",
            "{},",
            "",
            "\"\u{1}\"",
            r#""\ud800""#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(from_slice::<serde_json::Value>(b"\"\xff\"", 1000).is_err());
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        assert!(read(&nested(MAX_DEPTH + 1)).is_err());
        assert!(from_slice::<serde_json::Value>(b"[1]", 3).is_ok());
        assert!(from_slice::<serde_json::Value>(b"[1]", 2).is_err());
        let quoted = from_slice::<u8>(format!("\"{}\"", "ü".repeat(5_000)).as_bytes(), 20_000).unwrap_err().to_string();
        assert!(quoted.len() < 400, "{} bytes long", quoted.len());
    }
}
