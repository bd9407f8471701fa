//! Which attributes an answer shows (RFC 7644 §3.9). `schemas` and `id` are shown whatever is asked.

use serde_json::Value;

use super::filter::{Path, locate};
use super::schema::Shape;
use super::{ResourceKind, ScimError, ScimType};

/// What `attributes` and `excludedAttributes` ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Projection {
    /// All.
    #[default]
    Whole,
    /// Only these.
    Only(Vec<Path>),
    /// All but these.
    Without(Vec<Path>),
}

impl Projection {
    /// From the two parameters, each a comma-separated list. A name that the resource does not have shows nothing.
    ///
    /// # Errors
    /// `invalidValue` if both are given, or more than [`MAX_NAMES`] names.
    pub fn parse(kind: ResourceKind, attributes: Option<&str>, excluded: Option<&str>) -> Result<Self, ScimError> {
        match (attributes.filter(|a| !a.trim().is_empty()), excluded.filter(|a| !a.trim().is_empty())) {
            (None, None) => Ok(Self::Whole),
            (Some(names), None) => Ok(Self::Only(paths(kind, names)?)),
            (None, Some(names)) => Ok(Self::Without(paths(kind, names)?)),
            (Some(_), Some(_)) => Err(ScimError::new(ScimType::InvalidValue, "attributes and excludedAttributes exclude each other")),
        }
    }

    /// True if the answer has no use for this core attribute, so that a store need not read ten thousand members.
    pub fn hides(&self, name: &str) -> bool {
        match self {
            Self::Whole => false,
            Self::Only(paths) => !paths.iter().any(|p| p.first() == Some(&name)),
            Self::Without(paths) => paths.iter().any(|p| p.as_slice() == [name]),
        }
    }

    /// The answer as asked for.
    pub fn of(&self, kind: ResourceKind, answer: Value) -> Value {
        let shape = Shape::of(kind);
        let always = |name: &str| shape.core(name).is_some_and(|a| a.always);
        let Value::Object(map) = answer else { return answer };
        match self {
            Self::Whole => Value::Object(map),
            Self::Only(paths) => {
                let shown = map.into_iter().filter_map(|(name, value)| {
                    let shown = if always(&name) { Some(value) } else { only(&tails(paths, &name), value) };
                    shown.map(|value| (name, value))
                });
                Value::Object(shown.collect())
            }
            Self::Without(paths) => {
                let shown = map.into_iter().filter_map(|(name, value)| {
                    let shown = if always(&name) { Some(value) } else { without(&tails(paths, &name), value) };
                    shown.map(|value| (name, value))
                });
                Value::Object(shown.collect())
            }
        }
    }
}

fn paths(kind: ResourceKind, names: &str) -> Result<Vec<Path>, ScimError> {
    let shape = Shape::of(kind);
    let list: Vec<&str> = names.split(',').map(str::trim).filter(|n| !n.is_empty()).take(MAX_NAMES + 1).collect();
    if list.len() > MAX_NAMES {
        return Err(ScimError::new(ScimType::InvalidValue, format!("more than {MAX_NAMES} attributes are named")));
    }
    Ok(list.into_iter().filter_map(|name| path(shape, name)).collect())
}

fn path(shape: &'static Shape, name: &str) -> Option<Path> {
    if let Some((urn, _)) = shape.extension(name) {
        return Some(vec![urn]);
    }
    let scim_v2::filter::PatchPath::Attr(parsed) = name.parse().ok()? else { return None };
    let (mut path, _, sub) = locate(shape, &parsed)?;
    path.extend(sub.map(|s| s.name));
    Some(path)
}

/// What is left of the paths that begin with this name.
fn tails<'a>(paths: &[impl AsRef<[&'a str]>], name: &str) -> Vec<Vec<&'a str>> {
    paths.iter().filter_map(|p| p.as_ref().split_first().filter(|(first, _)| **first == name).map(|(_, rest)| rest.to_vec())).collect()
}

fn only(tails: &[Vec<&str>], value: Value) -> Option<Value> {
    if tails.is_empty() {
        return None;
    }
    if tails.iter().any(Vec::is_empty) {
        return Some(value);
    }
    match value {
        Value::Array(list) => some_list(list.into_iter().filter_map(|v| only(tails, v))),
        Value::Object(map) => some_object(map.into_iter().filter_map(|(name, v)| only(&self::tails(tails, &name), v).map(|v| (name, v)))),
        _ => None,
    }
}

fn without(tails: &[Vec<&str>], value: Value) -> Option<Value> {
    if tails.iter().any(Vec::is_empty) {
        return None;
    }
    if tails.is_empty() {
        return Some(value);
    }
    match value {
        Value::Array(list) => some_list(list.into_iter().filter_map(|v| without(tails, v))),
        Value::Object(map) => some_object(map.into_iter().filter_map(|(name, v)| without(&self::tails(tails, &name), v).map(|v| (name, v)))),
        other => Some(other),
    }
}

fn some_list(values: impl Iterator<Item = Value>) -> Option<Value> {
    let list: Vec<Value> = values.collect();
    (!list.is_empty()).then_some(Value::Array(list))
}

fn some_object(values: impl Iterator<Item = (String, Value)>) -> Option<Value> {
    let map: serde_json::Map<String, Value> = values.collect();
    (!map.is_empty()).then_some(Value::Object(map))
}

/// Most names in one list.
pub const MAX_NAMES: usize = 64;
