//! Pages of a list (RFC 7644 §3.4.2), asked by query string or by `/.search`.

use serde_json::{Map, Value, json};

use super::filter::Filter;
use super::projection::Projection;
use super::resource::keys;
use super::{ResourceKind, ScimError, ScimType};

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// First one, from 1.
    pub start: u64,
    /// At most so many; 0 asks for the total alone.
    pub count: u64,
}

impl Page {
    /// As asked: below 1 is 1, negative is 0, above [`MAX_RESULTS`] is that (§3.4.2.4).
    ///
    /// # Errors
    /// `invalidValue` for what is no integer.
    pub fn parse(start: Option<&str>, count: Option<&str>) -> Result<Self, ScimError> {
        let number = |name: &str, text: Option<&str>, default: i64| match text {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| ScimError::new(ScimType::InvalidValue, format!("{name} is `{text}`, expected an integer"))),
        };
        Ok(Self::clamped(number("startIndex", start, 1)?, number("count", count, DEFAULT_RESULTS)?))
    }

    fn clamped(start: i64, count: i64) -> Self {
        Self { start: u64::try_from(start).unwrap_or(1).max(1), count: u64::try_from(count).unwrap_or(0).min(MAX_RESULTS) }
    }

    /// How many to skip in the store.
    pub const fn offset(&self) -> u64 {
        self.start.saturating_sub(1)
    }
}

/// A list's question.
#[derive(Debug)]
pub struct Query {
    /// Which.
    pub filter: Option<Filter>,
    /// How much of each.
    pub projection: Projection,
    /// Which part.
    pub page: Page,
}

impl Query {
    /// From the body of `POST …/.search` (§3.4.3). Sorting is not offered (ServiceProviderConfig says so) and is ignored.
    ///
    /// # Errors
    /// `invalidSyntax` for another message, else as each part says.
    pub fn from_search(kind: ResourceKind, body: &Value) -> Result<Self, ScimError> {
        let syntax = |detail: String| ScimError::new(ScimType::InvalidSyntax, detail);
        let map = keys(body, &["schemas", "filter", "attributes", "excludedAttributes", "startIndex", "count", "sortBy", "sortOrder"])?;
        if !names_schema(&map, SEARCH_URN) {
            return Err(syntax(format!("`schemas` does not name {SEARCH_URN}")));
        }
        let integer = |name: &str, default| match map.get(name) {
            None => Ok(default),
            Some(v) => v.as_i64().ok_or_else(|| ScimError::new(ScimType::InvalidValue, format!("{name} is no integer"))),
        };
        let names = |name: &str| match map.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                let list: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                list.map(|l| Some(l.join(","))).ok_or_else(|| syntax(format!("{name} is no list of strings")))
            }
            Some(_) => Err(syntax(format!("{name} is no list of strings"))),
        };
        let filter = match map.get("filter") {
            None => None,
            Some(Value::String(text)) => Some(Filter::parse(kind, text)?),
            Some(_) => return Err(ScimError::new(ScimType::InvalidFilter, "filter is no string")),
        };
        Ok(Self {
            filter,
            projection: Projection::parse(kind, names("attributes")?.as_deref(), names("excludedAttributes")?.as_deref())?,
            page: Page::clamped(integer("startIndex", 1)?, integer("count", DEFAULT_RESULTS)?),
        })
    }
}

/// A `ListResponse`. Always 200, also when nothing was found: Entra takes a 404 for an outage.
pub fn response(total: u64, page: Page, resources: Vec<Value>) -> Value {
    json!({ "schemas": [LIST_URN], "totalResults": total, "startIndex": page.start, "itemsPerPage": resources.len(), "Resources": resources })
}

/// True if the message names this schema, in any case.
pub(super) fn names_schema(message: &Map<String, Value>, urn: &str) -> bool {
    let schemas = message.get("schemas").and_then(Value::as_array);
    schemas.is_some_and(|all| all.iter().filter_map(Value::as_str).any(|s| s.eq_ignore_ascii_case(urn)))
}

/// Most resources of one answer, as ServiceProviderConfig says.
pub const MAX_RESULTS: u64 = 200;
const DEFAULT_RESULTS: i64 = 100;
const LIST_URN: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
const SEARCH_URN: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";
