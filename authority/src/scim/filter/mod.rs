//! Filters (RFC 7644 §3.4.2.2): parsed by scim_v2, bound to the schema here, judged in memory or as SQL with bound parameters.
//!
//! Nothing a client writes becomes SQL text: attribute names come from the schema, values are parameters.
//! `ne` is the contrary of `eq`, so it holds of what is absent; a comparison of a list holds if it holds of one element.

pub mod postgres;
mod rewrite;
pub mod sqlite;
pub mod table;

use std::cmp::Ordering;

use scim_v2::filter::{AttrExp, AttrPath, CompValue, CompareOp, Filter as Parsed, ValFilter};
use serde_json::Value;

use super::resource::{fold_text, parse_moment};
use super::schema::{Attribute, Kind, Shape};
use super::{ResourceKind, ScimError, ScimType};

/// Names from the top of a resource, or of an element, down to a value.
pub type Path = Vec<&'static str>;

/// A filter whose names and types the schema knows.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All hold.
    All(Vec<Filter>),
    /// One holds.
    Any(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
    /// There is a value.
    Present(Path),
    /// A single value compares so.
    Test(Path, Op, Operand),
    /// One element of this list satisfies it.
    Element(Path, Box<Filter>),
}

/// How a value compares. `ne` is [`Filter::Not`] of `Equal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain words")]
pub enum Op {
    Equal,
    Contains,
    StartsWith,
    EndsWith,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What is compared with: text in one case already where the attribute is caseless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// Ordered by bytes.
    Text(String),
    /// Only equal or not.
    Bool(bool),
    /// Milliseconds since 1970.
    Moment(i64),
}

impl Filter {
    /// The filter that a client wrote about this kind of resource.
    ///
    /// # Errors
    /// `invalidFilter`: grammar (an unquoted value too), bounds, unknown attribute, a comparison that its type does not have.
    pub fn parse(kind: ResourceKind, text: &str) -> Result<Self, ScimError> {
        if text.len() > MAX_BYTES {
            return Err(invalid(format!("the filter is {} bytes long, expected at most {MAX_BYTES}", text.len())));
        }
        let parsed: Parsed =
            rewrite::element_values_inside(text).parse().map_err(|e: scim_v2::filter::ParseError| invalid(format!("expected a filter: {e}")))?;
        let mut bounds = Bounds { terms: 0 };
        bounds.filter(Shape::of(kind), &parsed, 1)
    }

    /// The filter inside `[...]` of a path, about elements of this list.
    pub(super) fn of_elements(list: &'static Attribute, filter: &ValFilter) -> Result<Self, ScimError> {
        Bounds { terms: 0 }.element(list, filter, 1)
    }

    /// Judges a [`super::resource::Resource::searched`] document, or an element folded likewise.
    pub fn holds(&self, document: &Value) -> bool {
        match self {
            Self::All(all) => all.iter().all(|f| f.holds(document)),
            Self::Any(any) => any.iter().any(|f| f.holds(document)),
            Self::Not(inner) => !inner.holds(document),
            Self::Present(path) => at(document, path).is_some(),
            Self::Test(path, op, operand) => at(document, path).is_some_and(|v| compares(v, *op, operand)),
            Self::Element(path, inner) => at(document, path).and_then(Value::as_array).is_some_and(|list| list.iter().any(|v| inner.holds(v))),
        }
    }

    /// The `sub eq value` pairs if the filter is nothing but these: what an added element begins with.
    pub(super) fn equalities(&self) -> Option<Vec<(&'static str, &Operand)>> {
        match self {
            Self::Test(path, Op::Equal, operand) => match path.as_slice() {
                [name] => Some(vec![(*name, operand)]),
                _ => None,
            },
            Self::All(all) => all.iter().map(Self::equalities).collect::<Option<Vec<_>>>().map(|pairs| pairs.concat()),
            _ => None,
        }
    }
}

fn at<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, name| value.get(name))
}

fn compares(value: &Value, op: Op, operand: &Operand) -> bool {
    let ordering = match operand {
        Operand::Bool(b) => return op == Op::Equal && value.as_bool() == Some(*b),
        Operand::Moment(ms) => value.as_i64().map(|v| v.cmp(ms)),
        Operand::Text(text) => match (value.as_str(), op) {
            (Some(v), Op::Contains) => return v.contains(text.as_str()),
            (Some(v), Op::StartsWith) => return v.starts_with(text.as_str()),
            (Some(v), Op::EndsWith) => return v.ends_with(text.as_str()),
            (v, _) => v.map(|v| v.cmp(text.as_str())),
        },
    };
    ordering.is_some_and(|o| match op {
        Op::Equal => o == Ordering::Equal,
        Op::Greater => o == Ordering::Greater,
        Op::GreaterOrEqual => o != Ordering::Less,
        Op::Less => o == Ordering::Less,
        Op::LessOrEqual => o != Ordering::Greater,
        Op::Contains | Op::StartsWith | Op::EndsWith => false,
    })
}

/// Where a name leads: the path to the attribute, the attribute, and the sub-attribute if one is named.
pub(super) type Located = (Path, &'static Attribute, Option<&'static Attribute>);

/// Finds what a path names, with or without URN, in any case.
pub(super) fn locate(shape: &'static Shape, path: &AttrPath) -> Option<Located> {
    let (mut prefix, attribute) = match path.uri.as_deref() {
        None => (Vec::new(), shape.core(&path.name)?),
        Some(urn) if shape.is_core_urn(urn) => (Vec::new(), shape.core(&path.name)?),
        Some(urn) => {
            let (urn, attributes) = shape.extension(urn)?;
            (vec![urn], super::schema::by_name(attributes, &path.name)?)
        }
    };
    prefix.push(attribute.name);
    let sub = match &path.sub_attr {
        None => None,
        Some(name) => Some(attribute.sub(name)?),
    };
    Some((prefix, attribute, sub))
}

/// Counts while it binds. The parser has bounds of its own, wider than a database should be asked.
struct Bounds {
    terms: usize,
}

impl Bounds {
    fn filter(&mut self, shape: &'static Shape, parsed: &Parsed, depth: usize) -> Result<Filter, ScimError> {
        deep(depth)?;
        Ok(match parsed {
            Parsed::And(all) => Filter::All(all.iter().map(|f| self.filter(shape, f, depth + 1)).collect::<Result<_, _>>()?),
            Parsed::Or(any) => Filter::Any(any.iter().map(|f| self.filter(shape, f, depth + 1)).collect::<Result<_, _>>()?),
            Parsed::Not(inner) => Filter::Not(Box::new(self.filter(shape, inner, depth + 1)?)),
            Parsed::ValuePath(value) => {
                let (path, list, None) = locate(shape, &value.attr).ok_or_else(|| unknown(&value.attr))? else { return Err(unknown(&value.attr)) };
                if !list.multi || list.kind != Kind::Complex {
                    return Err(invalid(format!("{} is no list of objects", list.name)));
                }
                Filter::Element(path, Box::new(self.element(list, &value.filter, depth + 1)?))
            }
            Parsed::Attr(expression) => {
                let (mut path, attribute, sub) = locate(shape, name(expression)).ok_or_else(|| unknown(name(expression)))?;
                match (attribute.multi, sub) {
                    (true, None) if matches!(expression, AttrExp::Present(_)) => {
                        self.term()?;
                        Filter::Present(path)
                    }
                    (true, sub) => {
                        let value = sub.or_else(|| attribute.sub("value"));
                        let inner = value.map_or_else(Vec::new, |s| vec![s.name]);
                        Filter::Element(path, Box::new(self.test(inner, value.unwrap_or(attribute), expression)?))
                    }
                    (false, Some(sub)) => {
                        path.push(sub.name);
                        self.test(path, sub, expression)?
                    }
                    (false, None) => self.test(path, attribute, expression)?,
                }
            }
        })
    }

    fn element(&mut self, list: &'static Attribute, parsed: &ValFilter, depth: usize) -> Result<Filter, ScimError> {
        deep(depth)?;
        Ok(match parsed {
            ValFilter::And(all) => Filter::All(all.iter().map(|f| self.element(list, f, depth + 1)).collect::<Result<_, _>>()?),
            ValFilter::Or(any) => Filter::Any(any.iter().map(|f| self.element(list, f, depth + 1)).collect::<Result<_, _>>()?),
            ValFilter::Not(inner) => Filter::Not(Box::new(self.element(list, inner, depth + 1)?)),
            ValFilter::Attr(expression) => {
                let path = name(expression);
                let (None, None, Some(sub)) = (&path.uri, &path.sub_attr, list.sub(&path.name)) else { return Err(unknown(path)) };
                self.test(vec![sub.name], sub, expression)?
            }
        })
    }

    fn test(&mut self, path: Path, attribute: &'static Attribute, expression: &AttrExp) -> Result<Filter, ScimError> {
        self.term()?;
        let (op, value) = match expression {
            AttrExp::Present(_) => return Ok(Filter::Present(path)),
            AttrExp::Comparison(_, op, value) => (op, value),
        };
        if *value == CompValue::Null {
            return match op {
                CompareOp::Eq => Ok(Filter::Not(Box::new(Filter::Present(path)))),
                CompareOp::Ne => Ok(Filter::Present(path)),
                _ => Err(invalid(format!("{} is compared with null by order", attribute.name))),
            };
        }
        let operand = operand(attribute, value)?;
        let text = matches!(operand, Operand::Text(_));
        let ordered = !matches!(operand, Operand::Bool(_));
        let (op, allowed) = match op {
            CompareOp::Eq => (Op::Equal, true),
            CompareOp::Ne => return Ok(Filter::Not(Box::new(Filter::Test(path, Op::Equal, operand)))),
            CompareOp::Co => (Op::Contains, text),
            CompareOp::Sw => (Op::StartsWith, text),
            CompareOp::Ew => (Op::EndsWith, text),
            CompareOp::Gt => (Op::Greater, ordered),
            CompareOp::Ge => (Op::GreaterOrEqual, ordered),
            CompareOp::Lt => (Op::Less, ordered),
            CompareOp::Le => (Op::LessOrEqual, ordered),
        };
        if allowed { Ok(Filter::Test(path, op, operand)) } else { Err(invalid(format!("{} cannot be compared that way", attribute.name))) }
    }

    fn term(&mut self) -> Result<(), ScimError> {
        self.terms += 1;
        if self.terms > MAX_TERMS { Err(invalid(format!("the filter has more than {MAX_TERMS} comparisons"))) } else { Ok(()) }
    }
}

fn operand(attribute: &Attribute, value: &CompValue) -> Result<Operand, ScimError> {
    let wrong = || invalid(format!("{} is compared with a value of another type", attribute.name));
    match (attribute.kind, value) {
        (Kind::Text, CompValue::Str(s)) if s.contains('\0') => Err(wrong()),
        (Kind::Text, CompValue::Str(s)) => Ok(Operand::Text(if attribute.case_exact { s.clone() } else { fold_text(s) })),
        (Kind::Boolean, CompValue::True) => Ok(Operand::Bool(true)),
        (Kind::Boolean, CompValue::False) => Ok(Operand::Bool(false)),
        // The habit of bodies holds in filters.
        (Kind::Boolean, CompValue::Str(s)) if s.eq_ignore_ascii_case("true") => Ok(Operand::Bool(true)),
        (Kind::Boolean, CompValue::Str(s)) if s.eq_ignore_ascii_case("false") => Ok(Operand::Bool(false)),
        (Kind::Moment, CompValue::Str(s)) => parse_moment(s).map(Operand::Moment).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn name(expression: &AttrExp) -> &AttrPath {
    match expression {
        AttrExp::Present(path) | AttrExp::Comparison(path, _, _) => path,
    }
}

fn deep(depth: usize) -> Result<(), ScimError> {
    if depth > MAX_DEPTH { Err(invalid(format!("the filter is nested deeper than {MAX_DEPTH}"))) } else { Ok(()) }
}

fn unknown(path: &AttrPath) -> ScimError {
    invalid(format!("`{path}` is no attribute of this resource"))
}

fn invalid(detail: String) -> ScimError {
    ScimError::new(ScimType::InvalidFilter, detail)
}

/// Longest filter.
pub const MAX_BYTES: usize = 2048;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 16;
/// Most comparisons.
pub const MAX_TERMS: usize = 64;
