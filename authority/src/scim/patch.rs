//! PATCH (RFC 7644 §3.5.2) on a copy: all operations or none.
//!
//! Leniences, each a provider's habit (`scim.md` §2): verbs in any case; `"False"` for false; `remove` of a list with a `value`
//! takes only these; without a path, keys are paths (`name.givenName`, `urn:…:User:department`) and what the server alone says
//! (`id`) is ignored; removing what is not there is done already; a bare string for a complex attribute is its `value`.

mod apply;

use scim_v2::filter::{PatchPath, PatchValuePath};
use serde_json::Value;

use super::filter::{Filter, Path, locate};
use super::list::names_schema;
use super::resource::{Resource, keys};
use super::schema::{Attribute, Kind, Mutability, Shape};
use super::{ResourceKind, ScimError, ScimType};

/// A request's operations, read and bounded. Nothing is applied yet.
#[derive(Debug)]
pub struct Patch {
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    verb: Verb,
    /// None: the resource itself.
    target: Option<Target>,
    value: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Remove,
    Replace,
}

/// Where an operation acts.
#[derive(Debug)]
enum Target {
    /// A whole extension.
    Extension(&'static str, &'static [Attribute]),
    /// An attribute, or a part of it, or the elements of it that a filter holds of, or a part of these.
    Attribute { path: Path, attribute: &'static Attribute, filter: Option<Filter>, sub: Option<&'static Attribute> },
}

impl Patch {
    /// From a request's body.
    ///
    /// # Errors
    /// `invalidSyntax` for another message or missing `Operations`, 413 above [`MAX_OPERATIONS`], `invalidPath`, `invalidFilter`,
    /// `mutability` for a path to what the server alone says, `noTarget` for `remove` without a path.
    pub fn parse(kind: ResourceKind, body: &Value) -> Result<Self, ScimError> {
        let syntax = |detail: String| ScimError::new(ScimType::InvalidSyntax, detail);
        let message = keys(body, &["schemas", "Operations"])?;
        if !names_schema(&message, URN) {
            return Err(syntax(format!("`schemas` does not name {URN}")));
        }
        let Some(Value::Array(list)) = message.get("Operations") else { return Err(syntax("`Operations` is missing or no list".into())) };
        if list.is_empty() {
            return Err(syntax("`Operations` is empty".into()));
        }
        if list.len() > MAX_OPERATIONS {
            return Err(ScimError::plain(413, format!("{} operations came, expected at most {MAX_OPERATIONS}", list.len())));
        }
        let shape = Shape::of(kind);
        let mut operations = Vec::with_capacity(list.len());
        for operation in list {
            let mut map = keys(operation, &["op", "path", "value"])?;
            let verb = match map.get("op").and_then(Value::as_str) {
                Some(op) if op.eq_ignore_ascii_case("add") => Verb::Add,
                Some(op) if op.eq_ignore_ascii_case("remove") => Verb::Remove,
                Some(op) if op.eq_ignore_ascii_case("replace") => Verb::Replace,
                _ => return Err(syntax("`op` is missing, expected add, remove or replace".into())),
            };
            let target = match map.get("path") {
                None => None,
                Some(Value::String(text)) => Some(Target::parse(shape, text)?),
                Some(_) => return Err(ScimError::new(ScimType::InvalidPath, "`path` is no string")),
            };
            operations.push(Operation { verb, target, value: map.remove("value") });
        }
        Ok(Self { operations })
    }

    /// The resource after all operations. The one given is untouched: an error leaves nothing half done.
    ///
    /// # Errors
    /// `noTarget`, `invalidValue`, `mutability`, `invalidPath` as RFC 7644 §3.12 says; 413 when the lists touched add up to
    /// more than [`MAX_WORK`] elements.
    pub fn applied(&self, to: &Resource) -> Result<Resource, ScimError> {
        let mut copy = apply::Work { resource: to.clone(), left: MAX_WORK };
        for operation in &self.operations {
            copy.run(operation)?;
        }
        copy.resource.check()?;
        Ok(copy.resource)
    }
}

impl Target {
    fn parse(shape: &'static Shape, text: &str) -> Result<Self, ScimError> {
        let bad = || ScimError::new(ScimType::InvalidPath, format!("`{text}` is no path of this resource"));
        if text.len() > super::filter::MAX_BYTES {
            return Err(ScimError::new(ScimType::InvalidPath, format!("the path is {} bytes long, expected at most {}", text.len(), super::filter::MAX_BYTES)));
        }
        if let Some((urn, attributes)) = shape.extension(text.trim()) {
            return Ok(Self::Extension(urn, attributes));
        }
        let (path, filter, named) = match text.parse::<PatchPath>().map_err(|_| bad())? {
            PatchPath::Attr(path) => (path, None, None),
            PatchPath::Value(PatchValuePath { attr, filter, sub_attr }) => (attr, Some(filter), sub_attr),
        };
        let (path, attribute, mut sub) = locate(shape, &path).ok_or_else(bad)?;
        let filter = match filter {
            None => None,
            Some(filter) if sub.is_none() && attribute.multi && attribute.kind == Kind::Complex => Some(Filter::of_elements(attribute, &filter)?),
            Some(_) => return Err(bad()),
        };
        if let Some(named) = named {
            sub = Some(attribute.sub(&named).ok_or_else(bad)?);
        }
        if attribute.mutability == Mutability::ReadOnly || sub.is_some_and(|s| s.mutability != Mutability::ReadWrite) {
            return Err(ScimError::new(ScimType::Mutability, format!("`{text}` is not for a client to change")));
        }
        Ok(Self::Attribute { path, attribute, filter, sub })
    }
}

/// Schema of the message.
pub const URN: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
/// Most operations of one request.
pub const MAX_OPERATIONS: usize = 1000;
/// Most elements that the operations of one request may walk over: a thousand times a large group is minutes otherwise.
pub const MAX_WORK: usize = 4_000_000;
