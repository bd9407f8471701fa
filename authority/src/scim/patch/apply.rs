//! One operation after the other.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{Operation, Target, Verb};
use crate::scim::filter::{Filter, Operand};
use crate::scim::resource::{Resource, coerce, fold, object_of, one};
use crate::scim::schema::{Attribute, Kind, Mutability, Shape};
use crate::scim::{ScimError, ScimType};

/// The copy that operations change, and how many elements they may still walk over.
pub(super) struct Work {
    pub(super) resource: Resource,
    pub(super) left: usize,
}

impl Work {
    pub(super) fn run(&mut self, operation: &Operation) -> Result<(), ScimError> {
        let needed = || ScimError::new(ScimType::InvalidValue, "`value` is missing");
        match (&operation.target, operation.verb) {
            (None, Verb::Remove) => Err(ScimError::new(ScimType::NoTarget, "remove needs a path")),
            (None, verb) => self.keys(verb, operation.value.as_ref().ok_or_else(needed)?),
            (Some(target), Verb::Remove) => self.at(Verb::Remove, target, operation.value.as_ref()),
            // A replacement by nothing removes (RFC 7643 §2.5: null and unassigned are one).
            (Some(target), Verb::Replace) if operation.value.is_none() => self.at(Verb::Remove, target, None),
            (Some(target), verb) => self.at(verb, target, Some(operation.value.as_ref().ok_or_else(needed)?)),
        }
    }

    /// Without a path: each key is one.
    fn keys(&mut self, verb: Verb, value: &Value) -> Result<(), ScimError> {
        let Value::Object(object) = value else { return Err(ScimError::new(ScimType::InvalidValue, "without a path `value` must be an object")) };
        let shape = Shape::of(self.resource.kind);
        for (key, value) in object {
            if let Some(attribute) = shape.core(key) {
                if attribute.mutability == Mutability::ReadOnly {
                    continue;
                }
            } else if shape.is_core_urn(key) {
                // Nested once more by some: an object of core attributes.
                if !matches!(value, Value::Object(inner) if inner.keys().any(|k| shape.is_core_urn(k))) {
                    self.keys(verb, value)?;
                }
                continue;
            }
            let target = match Target::parse(shape, key) {
                Ok(target) => target,
                // What a POST ignores, a PATCH without a path ignores.
                Err(e) if matches!(e.scim_type, Some(ScimType::InvalidPath | ScimType::Mutability)) => continue,
                Err(e) => return Err(e),
            };
            let verb = if value.is_null() { Verb::Remove } else { verb };
            self.at(verb, &target, Some(value).filter(|v| !v.is_null()))?;
        }
        Ok(())
    }

    fn at(&mut self, verb: Verb, target: &Target, value: Option<&Value>) -> Result<(), ScimError> {
        match target {
            Target::Extension(urn, attributes) => self.extension(verb, urn, attributes, value),
            Target::Attribute { path, attribute, filter: Some(filter), sub } => {
                let mut list = self.take_list(path)?;
                elements(&mut list, verb, attribute, filter, *sub, value)?;
                self.put(path, (!list.is_empty()).then_some(Value::Array(list)));
                Ok(())
            }
            Target::Attribute { path, attribute, filter: None, sub: None } if attribute.multi => {
                let old = self.take_list(path)?;
                let new = list(old, verb, attribute, value)?;
                self.put(path, (!new.is_empty()).then_some(Value::Array(new)));
                Ok(())
            }
            Target::Attribute { path, attribute, filter: None, sub: Some(sub) } if attribute.multi => {
                // `emails.type`: of every element.
                let mut list = self.take_list(path)?;
                let part = value.map(|v| one(sub, v)).transpose()?.flatten();
                for element in &mut list {
                    set_part(element, sub, part.clone().filter(|_| verb != Verb::Remove));
                }
                list.retain(|e| e.as_object().is_none_or(|o| !o.is_empty()));
                self.put(path, (!list.is_empty()).then_some(Value::Array(list)));
                Ok(())
            }
            Target::Attribute { path, attribute, sub: Some(sub), .. } => {
                let mut whole = self.take(path).unwrap_or_else(|| json!({}));
                let part = value.map(|v| coerce(sub, v)).transpose()?.flatten();
                set_part(&mut whole, sub, part.filter(|_| verb != Verb::Remove));
                debug_assert_eq!(attribute.kind, Kind::Complex);
                self.put(path, whole.as_object().is_some_and(|o| !o.is_empty()).then_some(whole));
                Ok(())
            }
            Target::Attribute { path, attribute, .. } => {
                let old = self.take(path);
                let new = value.filter(|_| verb != Verb::Remove).map(|v| coerce(attribute, v)).transpose()?.flatten();
                let new = match (verb, old, new) {
                    (Verb::Add, Some(Value::Object(old)), Some(Value::Object(new))) => Some(Value::Object(merged(old, new))),
                    (_, _, new) => new,
                };
                if new.is_none() && attribute.required {
                    return Err(ScimError::new(ScimType::Mutability, format!("{} cannot be removed", attribute.name)));
                }
                self.put(path, new);
                Ok(())
            }
        }
    }

    fn extension(&mut self, verb: Verb, urn: &'static str, attributes: &[Attribute], value: Option<&Value>) -> Result<(), ScimError> {
        let old = self.resource.map.remove(urn);
        let new = value.filter(|_| verb != Verb::Remove).map(|v| object_of(attributes, v, urn)).transpose()?.flatten();
        // Each attribute named is replaced, the others stay (RFC 7644 §3.5.2.3).
        let whole = match (old, new) {
            _ if verb == Verb::Remove => None,
            (Some(Value::Object(old)), Some(Value::Object(new))) => Some(Value::Object(merged(old, new))),
            (old, new) => new.or(old),
        };
        if let Some(whole) = whole {
            self.resource.map.insert(urn.to_owned(), whole);
        }
        Ok(())
    }

    fn take_list(&mut self, path: &[&'static str]) -> Result<Vec<Value>, ScimError> {
        let list = match self.take(path) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        self.left = self
            .left
            .checked_sub(list.len())
            .ok_or_else(|| ScimError::plain(413, "these operations on lists of this length are too much for one request: send fewer at once"))?;
        Ok(list)
    }

    fn take(&mut self, path: &[&'static str]) -> Option<Value> {
        match path {
            [name] => self.resource.map.remove(*name),
            [urn, name] => self.resource.map.get_mut(*urn)?.as_object_mut()?.remove(*name),
            _ => None,
        }
    }

    fn put(&mut self, path: &[&'static str], value: Option<Value>) {
        let map = &mut self.resource.map;
        match (path, value) {
            ([name], Some(value)) => drop(map.insert((*name).to_owned(), value)),
            ([urn, name], Some(value)) => {
                if let Some(inner) = map.entry(*urn).or_insert_with(|| json!({})).as_object_mut() {
                    inner.insert((*name).to_owned(), value);
                }
            }
            // An extension without attributes is none.
            ([urn, _], None) if map.get(*urn).and_then(Value::as_object).is_some_and(Map::is_empty) => drop(map.remove(*urn)),
            _ => {}
        }
    }
}

/// A whole list.
fn list(mut old: Vec<Value>, verb: Verb, attribute: &Attribute, value: Option<&Value>) -> Result<Vec<Value>, ScimError> {
    let given = match value.map(|v| coerce(attribute, v)).transpose()?.flatten() {
        Some(Value::Array(given)) => given,
        _ => Vec::new(),
    };
    match (verb, value) {
        (Verb::Remove, None) => Ok(Vec::new()),
        // Entra: only these. A server that reads the RFC by its letter empties the group.
        (Verb::Remove, Some(_)) => {
            let gone: HashSet<String> = given.iter().map(|g| identity(attribute, g)).collect();
            old.retain(|o| !gone.contains(&identity(attribute, o)));
            Ok(old)
        }
        (Verb::Replace, _) => Ok(given),
        (Verb::Add, _) => {
            let mut have: HashSet<String> = old.iter().map(|o| identity(attribute, o)).collect();
            let new: Vec<Value> = given.into_iter().filter(|g| have.insert(identity(attribute, g))).collect();
            demote(&mut old, &new);
            old.extend(new);
            Ok(old)
        }
    }
}

/// What makes two elements the same: a member's id, else everything. Text in one case.
fn identity(attribute: &Attribute, element: &Value) -> String {
    match (attribute.name, element.get("value")) {
        ("members", Some(Value::String(id))) => id.clone(),
        _ => fold(attribute, element.clone()).to_string(),
    }
}

/// The elements that a filter holds of.
fn elements(
    list: &mut Vec<Value>,
    verb: Verb,
    attribute: &Attribute,
    filter: &Filter,
    sub: Option<&'static Attribute>,
    value: Option<&Value>,
) -> Result<(), ScimError> {
    let holds = |element: &Value| filter.holds(&fold(attribute, element.clone()));
    if verb == Verb::Remove {
        match sub {
            None => list.retain(|e| !holds(e)),
            Some(sub) => list.iter_mut().filter(|e| holds(e)).for_each(|e| set_part(e, sub, None)),
        }
        list.retain(|e| e.as_object().is_none_or(|o| !o.is_empty()));
        return Ok(());
    }
    let part = match (sub, value) {
        (Some(sub), Some(value)) => coerce(sub, value)?.map(|v| json!({ sub.name: v })),
        (None, Some(value)) => one(attribute, value)?,
        (_, None) => None,
    };
    let Some(Value::Object(part)) = part else { return Err(ScimError::new(ScimType::InvalidValue, format!("{} is given no value", attribute.name))) };
    // Judged before a primary value is demoted.
    let chosen: Vec<bool> = list.iter().map(holds).collect();
    if !chosen.contains(&true) {
        // Entra adds a first work address so. A replacement finds nothing to replace (RFC 7644 §3.5.2.3).
        let (Verb::Add, Some(pairs)) = (verb, filter.equalities()) else {
            return Err(ScimError::new(ScimType::NoTarget, format!("the filter holds of no value of {}", attribute.name)));
        };
        let begun: Map<String, Value> = pairs
            .into_iter()
            .map(|(name, operand)| {
                let value = match operand {
                    Operand::Text(text) => text.clone().into(),
                    Operand::Bool(b) => (*b).into(),
                    Operand::Moment(_) => Value::Null,
                };
                (name.to_owned(), value)
            })
            .collect();
        let new = Value::Object(merged(begun, part));
        demote(list, std::slice::from_ref(&new));
        list.push(new);
        return Ok(());
    }
    if part.get("primary") == Some(&Value::Bool(true)) {
        demote(list, &[json!({ "primary": true })]);
    }
    for (element, chosen) in list.iter_mut().zip(chosen) {
        if let (true, Value::Object(map)) = (chosen, element) {
            let old = std::mem::take(map);
            *map = if verb == Verb::Replace && sub.is_none() { part.clone() } else { merged(old, part.clone()) };
        }
    }
    Ok(())
}

/// A new primary value takes the place of the old one (RFC 7644 §3.5.2).
fn demote(old: &mut [Value], new: &[Value]) {
    if new.iter().any(|v| v.get("primary") == Some(&Value::Bool(true))) {
        for map in old.iter_mut().filter_map(Value::as_object_mut).filter(|m| m.contains_key("primary")) {
            map.insert("primary".into(), Value::Bool(false));
        }
    }
}

fn set_part(whole: &mut Value, sub: &Attribute, part: Option<Value>) {
    if let Some(map) = whole.as_object_mut() {
        match part {
            Some(part) => drop(map.insert(sub.name.to_owned(), part)),
            None => drop(map.remove(sub.name)),
        }
    }
}

fn merged(mut old: Map<String, Value>, new: Map<String, Value>) -> Map<String, Value> {
    old.extend(new);
    old
}
