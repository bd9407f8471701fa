//! Resources, and patterns over them: one spelling each (law 9).

use std::fmt;
use std::str::FromStr;

use crate::wire::Malformed;

/// A resource: 1 to 16 segments of `a-z`, `0-9`, `_`, `-`, `.`, `~`, `:`, `@`, `+`, written with `/` between them (law 9).
///
/// One resource has one spelling: no empty segment, no `.` or `..`, no upper case, no percent signs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(Box<[Box<str>]>);

impl Resource {
    /// Longest resource as text, in bytes.
    pub const MAX_BYTES: usize = 192;
    const MAX_SEGMENTS: usize = 16;

    /// The segments, in order.
    pub fn segments(&self) -> &[Box<str>] {
        &self.0
    }

    fn from_segments<'a>(segments: impl Iterator<Item = &'a str>) -> Result<Self, Malformed> {
        let mut out: Vec<Box<str>> = Vec::new();
        let mut bytes = 0;
        for segment in segments {
            let normal = !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.' | b'~' | b':' | b'@' | b'+'));
            bytes += segment.len() + 1;
            if !normal || out.len() == Self::MAX_SEGMENTS || bytes > Self::MAX_BYTES + 1 {
                return Err(Malformed::new("expected a resource of 1 to 16 segments of a-z, 0-9, `_-.~:@+` in normal form, at most 192 bytes"));
            }
            out.push(segment.into());
        }
        if out.is_empty() { Err(Malformed::new("expected a resource of at least one segment")) } else { Ok(Self(out.into())) }
    }
}

impl FromStr for Resource {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::from_segments(text.split('/'))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            f.write_str(segment)?;
        }
        Ok(())
    }
}

/// Which resources: one exactly (`acct/eu/7`), or all strictly below a prefix of whole segments (`acct/eu/*`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// This resource.
    Exact(Resource),
    /// Every resource with these first segments and at least one more.
    Below(Resource),
}

impl Pattern {
    /// True if the pattern covers the resource.
    pub fn covers(&self, resource: &Resource) -> bool {
        match self {
            Self::Exact(r) => r == resource,
            Self::Below(prefix) => resource.segments().len() > prefix.segments().len() && resource.segments().starts_with(prefix.segments()),
        }
    }

    /// True if every resource that `other` covers is covered by this pattern.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(r)) => self.covers(r),
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(a), Self::Below(b)) => b.segments().starts_with(a.segments()),
        }
    }

    /// A pattern from segments as a token holds them.
    pub(crate) fn from_segments<'a>(segments: impl Iterator<Item = &'a str>, below: bool) -> Result<Self, Malformed> {
        let resource = Resource::from_segments(segments)?;
        Ok(if below { Self::Below(resource) } else { Self::Exact(resource) })
    }
}

impl FromStr for Pattern {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.strip_suffix("/*") {
            Some(prefix) => Ok(Self::Below(prefix.parse()?)),
            None => Ok(Self::Exact(text.parse()?)),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(r) => r.fmt(f),
            Self::Below(r) => write!(f, "{r}/*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_one_spelling() {
        for good in ["acct/eu/7", "a", "x.y/z@1"] {
            assert_eq!(good.parse::<Resource>().expect(good).to_string(), good);
        }
        for bad in ["", "/acct", "acct/", "acct//eu", "acct/../us", "acct/./eu", "Acct/eu", "acct/%65u", "acct/*", "acct\\eu", "acct/eu ", "é"] {
            assert!(bad.parse::<Resource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_covers_what_is_below_and_not_beside() {
        let p: Pattern = "acct/eu/*".parse().expect("a pattern");
        assert!(p.covers(&"acct/eu/7".parse().expect("a resource")));
        assert!(p.covers(&"acct/eu/7/8".parse().expect("a resource")));
        for outside in ["acct/eu", "acct/europe/7", "acct/us/7"] {
            assert!(!p.covers(&outside.parse().expect(outside)), "{outside}");
        }
        for bad in ["*", "acct/*/7", "acct/e*", "acct/eu/**"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
