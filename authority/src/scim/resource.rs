//! A user or a group in normal form, read from a provider's body and written to its answer.

use std::collections::HashSet;

use scim_rs::ResourceKind;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::discovery::name;
use super::error::{ScimError, ScimType};
use super::schema::{Attribute, Kind, Mutability, Shape};
use super::version::etag;

/// What a client may say of a resource, each attribute spelled, typed and bounded. Nothing in it is null or empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub(super) kind: ResourceKind,
    pub(super) map: Map<String, Value>,
}

/// What the server alone says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Ours, never reused.
    pub id: String,
    /// Rises with each change.
    pub version: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// The same, of the last change.
    pub modified_ms: u64,
    /// Groups of a user: id and display name.
    pub groups: Vec<(String, String)>,
}

impl Resource {
    /// From the body of a POST. A user is active unless it says otherwise.
    ///
    /// # Errors
    /// `invalidSyntax` for another shape, `invalidValue` for a missing or mistyped value.
    pub fn create(kind: ResourceKind, body: &Value) -> Result<Self, ScimError> {
        let mut read = Self::read(kind, body)?;
        if kind == ResourceKind::User {
            read.map.entry("active").or_insert(Value::Bool(true));
        }
        Ok(read)
    }

    /// From the body of a PUT over this one. What is absent is cleared, but for `active`: a body that does not name it
    /// asserts nothing about it, and must not wake whom another request put to sleep.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn replaced(&self, body: &Value) -> Result<Self, ScimError> {
        let mut read = Self::read(self.kind, body)?;
        if let (None, Some(active)) = (read.map.get("active"), self.map.get("active")) {
            read.map.insert("active".into(), active.clone());
        }
        Ok(read)
    }

    fn read(kind: ResourceKind, body: &Value) -> Result<Self, ScimError> {
        let shape = Shape::of(kind);
        let syntax = |detail: String| ScimError::new(ScimType::InvalidSyntax, detail);
        let object = body.as_object().ok_or_else(|| syntax("the body is no object".into()))?;
        let (mut map, mut named) = (Map::new(), false);
        for (key, value) in object {
            if let Some((urn, attributes)) = shape.extension(key) {
                once(&mut map, urn, object_of(attributes, value, urn)?)?;
            } else if key.eq_ignore_ascii_case("schemas") {
                let all = value.as_array().ok_or_else(|| syntax("`schemas` is no list".into()))?;
                named = all.iter().filter_map(Value::as_str).any(|urn| shape.is_core_urn(urn));
            } else if let Some(attribute) = shape.core(key).filter(|a| a.mutability != Mutability::ReadOnly) {
                once(&mut map, attribute.name, coerce(attribute, value)?)?;
            }
            // Others' extensions and attributes: accepted and ignored (scim.md §2).
        }
        if !named {
            return Err(syntax(format!("`schemas` does not name {}", kind.schema_urn())));
        }
        map.retain(|_, v| !v.is_null());
        let read = Self { kind, map };
        read.check()?;
        Ok(read)
    }

    /// From storage: what [`Self::to_value`] gave.
    ///
    /// # Errors
    /// As [`Self::create`], of a row that nobody wrote through here.
    pub fn from_stored(kind: ResourceKind, value: &Value) -> Result<Self, ScimError> {
        let mut named = value.clone();
        if let Some(map) = named.as_object_mut() {
            map.insert("schemas".into(), json!([kind.schema_urn()]));
        }
        Self::read(kind, &named)
    }

    /// As it is stored.
    pub fn to_value(&self) -> Value {
        Value::Object(self.map.clone())
    }

    /// What holds of each resource, however it came to be.
    pub(super) fn check(&self) -> Result<(), ScimError> {
        let invalid = |detail: String| Err(ScimError::new(ScimType::InvalidValue, detail));
        for attribute in &Shape::of(self.kind).core {
            let value = self.map.get(attribute.name);
            if attribute.required && value.is_none_or(|v| v.as_str().is_some_and(|s| s.trim().is_empty())) {
                return invalid(format!("{} is missing", attribute.name));
            }
            if let Some(Value::Array(list)) = value {
                check_list(attribute, list)?;
            }
        }
        Ok(())
    }

    /// Of which kind.
    pub const fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// A user's login name, a group's none.
    pub fn user_name(&self) -> Option<&str> {
        self.text("userName")
    }

    /// What uniqueness is judged by, in one case: a user's `userName`, a group's `displayName`.
    pub fn unique_name(&self) -> String {
        let name = match self.kind {
            ResourceKind::User => self.text("userName"),
            ResourceKind::Group => self.text("displayName"),
        };
        fold_text(name.unwrap_or_default())
    }

    /// The provider's key.
    pub fn external_id(&self) -> Option<&str> {
        self.text("externalId")
    }

    /// True only of a user who is said to be active: absent is no.
    pub fn is_active(&self) -> bool {
        self.map.get("active") == Some(&Value::Bool(true))
    }

    /// Ids of a group's members, each once.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.map.get("members").and_then(Value::as_array).into_iter().flatten().filter_map(|m| m.get("value")).filter_map(Value::as_str)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.map.get(name).and_then(Value::as_str)
    }

    /// The whole answer, before projection. `base` is the URL up to `/scim/v2`.
    pub fn answer(&self, stored: &Stored, base: &str) -> Value {
        let mut map = self.map.clone();
        let extension = Shape::of(self.kind).extension.as_ref().map(|(urn, _)| *urn).filter(|urn| map.contains_key(*urn));
        map.insert("schemas".into(), [self.kind.schema_urn()].into_iter().chain(extension).collect());
        map.insert("id".into(), stored.id.clone().into());
        let groups: Vec<Value> = stored
            .groups
            .iter()
            .map(|(id, display)| json!({ "value": id, "display": display, "type": "direct", "$ref": format!("{base}/Groups/{id}") }))
            .collect();
        if self.kind == ResourceKind::User && !groups.is_empty() {
            map.insert("groups".into(), groups.into());
        }
        let meta = json!({
            "resourceType": name(self.kind),
            "created": moment(stored.created_ms),
            "lastModified": moment(stored.modified_ms),
            "location": format!("{base}{}/{}", self.kind.endpoint(), stored.id),
            "version": etag(stored.version),
        });
        map.insert("meta".into(), meta);
        Value::Object(map)
    }

    /// What filters are judged on, in memory and in each database: the answer with caseless text in one case and moments as
    /// milliseconds. So no database folds or compares text in its own way.
    pub fn searched(&self, stored: &Stored) -> Value {
        let answer = self.answer(stored, "");
        let shape = Shape::of(self.kind);
        let Value::Object(map) = answer else { return Value::Null };
        map.into_iter()
            .map(|(key, value)| match shape.extension(&key) {
                Some((urn, attributes)) => (urn.to_owned(), fold_object(attributes, value)),
                None => {
                    let folded = shape.core(&key).map_or(Value::Null, |a| fold(a, value));
                    (key, folded)
                }
            })
            .collect()
    }
}

fn once(map: &mut Map<String, Value>, name: &str, value: Option<Value>) -> Result<(), ScimError> {
    // Null is kept until all keys are seen: `active` and `ACTIVE` are one attribute said twice (RFC 7643 §2.1).
    match map.insert(name.to_owned(), value.unwrap_or_default()) {
        None => Ok(()),
        Some(_) => Err(ScimError::new(ScimType::InvalidSyntax, format!("{name} is said twice"))),
    }
}

/// The keys of a message in the RFC's spelling; nulls and what is not known are left out.
pub(super) fn keys(body: &Value, known: &[&str]) -> Result<Map<String, Value>, ScimError> {
    let object = body.as_object().ok_or_else(|| ScimError::new(ScimType::InvalidSyntax, "expected an object"))?;
    let mut map = Map::new();
    for (key, value) in object {
        if let Some(name) = known.iter().find(|name| name.eq_ignore_ascii_case(key)) {
            once(&mut map, name, Some(value.clone()))?;
        }
    }
    map.retain(|_, v| !v.is_null());
    Ok(map)
}

/// A value of this attribute in normal form; none if it says nothing.
///
/// # Errors
/// `invalidValue` for another type.
pub(super) fn coerce(attribute: &Attribute, value: &Value) -> Result<Option<Value>, ScimError> {
    if !attribute.multi {
        return one(attribute, value);
    }
    let one_only = std::slice::from_ref(value);
    let list = value.as_array().map_or(one_only, Vec::as_slice);
    let mut all: Vec<Value> = list.iter().filter_map(|v| one(attribute, v).transpose()).collect::<Result<_, _>>()?;
    if attribute.name == "members" {
        if all.len() < list.iter().filter(|v| !v.is_null()).count() {
            return Err(ScimError::new(ScimType::InvalidValue, "a member without value"));
        }
        let mut seen = HashSet::new();
        all.retain(|m| m.get("value").and_then(Value::as_str).is_none_or(|id| seen.insert(id.to_owned())));
    }
    check_list(attribute, &all)?;
    Ok((!all.is_empty()).then_some(Value::Array(all)))
}

fn check_list(attribute: &Attribute, list: &[Value]) -> Result<(), ScimError> {
    let invalid = |detail: String| Err(ScimError::new(ScimType::InvalidValue, detail));
    let most = if attribute.name == "members" { MAX_MEMBERS } else { MAX_VALUES };
    if list.len() > most {
        return invalid(format!("{} has {} values, expected at most {most}", attribute.name, list.len()));
    }
    if list.iter().filter(|v| v.get("primary") == Some(&Value::Bool(true))).count() > 1 {
        return invalid(format!("{} has two primary values", attribute.name));
    }
    if attribute.name == "members" {
        let mut seen = HashSet::with_capacity(list.len());
        match list.iter().map(|m| m.get("value").and_then(Value::as_str)).find(|id| id.is_none_or(|id| !seen.insert(id))) {
            Some(None) => return invalid("a member without value".into()),
            Some(Some(_)) => return invalid("one member twice".into()),
            None => {}
        }
    }
    Ok(())
}

/// One value of this attribute, one element if it is a list.
pub(super) fn one(attribute: &Attribute, value: &Value) -> Result<Option<Value>, ScimError> {
    let wrong = |expected: &str| Err(ScimError::new(ScimType::InvalidValue, format!("{} is no {expected}", attribute.name)));
    match (attribute.kind, value) {
        (_, Value::Null) => Ok(None),
        (Kind::Boolean, Value::Bool(_)) => Ok(Some(value.clone())),
        // Entra without the compatibility flag.
        (Kind::Boolean, Value::String(s)) if s.eq_ignore_ascii_case("true") => Ok(Some(Value::Bool(true))),
        (Kind::Boolean, Value::String(s)) if s.eq_ignore_ascii_case("false") => Ok(Some(Value::Bool(false))),
        (Kind::Boolean, _) => wrong("boolean"),
        (Kind::Complex, Value::Object(_)) => object_of(&attribute.subs, value, attribute.name),
        // Entra's `manager` and role lists: the bare value of a complex one.
        (Kind::Complex, Value::String(_)) => match attribute.sub("value") {
            Some(sub) => Ok(one(sub, value)?.map(|v| json!({ sub.name: v }))),
            None => wrong("object"),
        },
        (Kind::Complex, _) => wrong("object"),
        (Kind::Text, Value::String(s)) if s.len() > MAX_TEXT => wrong("string of at most 16384 bytes"),
        // PostgreSQL's JSON cannot hold it, and no name needs it.
        (Kind::Text, Value::String(s)) if s.contains('\0') => wrong("string without the NUL character"),
        (Kind::Text, Value::String(s)) => Ok((!s.is_empty()).then(|| value.clone())),
        (Kind::Text, _) => wrong("string"),
        (Kind::Moment, Value::String(s)) if parse_moment(s).is_some() => Ok(Some(value.clone())),
        (Kind::Moment, _) => wrong("moment"),
    }
}

/// An object with these attributes; what it does not know or the server alone says is left out.
pub(super) fn object_of(attributes: &[Attribute], value: &Value, called: &str) -> Result<Option<Value>, ScimError> {
    let object = match value {
        Value::Null => return Ok(None),
        Value::Object(object) => object,
        _ => return Err(ScimError::new(ScimType::InvalidValue, format!("{called} is no object"))),
    };
    let mut map = Map::new();
    for (key, value) in object {
        if let Some(attribute) = super::schema::by_name(attributes, key).filter(|a| a.mutability != Mutability::ReadOnly) {
            once(&mut map, attribute.name, coerce(attribute, value)?)?;
        }
    }
    map.retain(|_, v| !v.is_null());
    Ok((!map.is_empty()).then_some(Value::Object(map)))
}

/// A value of this attribute as filters see it.
pub(super) fn fold(attribute: &Attribute, value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(|v| fold(attribute, v)).collect(),
        Value::Object(_) => fold_object(&attribute.subs, value),
        Value::String(s) if attribute.kind == Kind::Moment => parse_moment(&s).map_or(Value::Null, Value::from),
        Value::String(s) if !attribute.case_exact => fold_text(&s).into(),
        other => other,
    }
}

fn fold_object(attributes: &[Attribute], value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    map.into_iter()
        .map(|(key, value)| {
            let folded = super::schema::by_name(attributes, &key).map_or(Value::Null, |a| fold(a, value));
            (key, folded)
        })
        .collect()
}

/// Text in one case: the same for stored values and for what is sought.
pub fn fold_text(text: &str) -> String {
    text.to_lowercase()
}

pub(super) fn parse_moment(text: &str) -> Option<i64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

fn moment(ms: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    moment.and_then(|m| m.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Most members of one group.
pub const MAX_MEMBERS: usize = 100_000;
/// Most values of any other list.
pub const MAX_VALUES: usize = 256;
const MAX_TEXT: usize = 16_384;
