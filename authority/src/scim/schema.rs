//! What attributes there are, from the schema documents of RFC 7643 that scim_v2 carries.

use std::sync::LazyLock;

use scim_rs::{CORE_GROUP_SCHEMA, CORE_USER_SCHEMA, ENTERPRISE_USER_SCHEMA, ResourceKind};
use scim_v2::models::scim_schema::{Attributes, Schema, SubAttributes, get_schemas};

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text: string, reference, binary.
    Text,
    /// True or false.
    Boolean,
    /// A moment.
    Moment,
    /// An object with sub-attributes.
    Complex,
}

/// Who may say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutability {
    /// The client.
    ReadWrite,
    /// The client, once: a member comes and goes whole, and no path leads into it.
    Immutable,
    /// The server alone: what a client says of it is ignored in a body and refused as a path (RFC 7644 §3.5).
    ReadOnly,
}

/// One attribute or sub-attribute.
#[derive(Debug, PartialEq, Eq)]
pub struct Attribute {
    /// As it is spelled in answers.
    pub name: &'static str,
    /// Type of the value, or of each value.
    pub kind: Kind,
    /// A list.
    pub multi: bool,
    /// Compared with case.
    pub case_exact: bool,
    /// Must be there.
    pub required: bool,
    /// Shown whatever is asked (RFC 7643 §7 `returned`).
    pub always: bool,
    /// Who may say it.
    pub mutability: Mutability,
    /// Parts of a complex one.
    pub subs: Vec<Attribute>,
}

impl Attribute {
    /// The sub-attribute of this name, in any case (RFC 7643 §2.1).
    pub fn sub(&self, name: &str) -> Option<&Attribute> {
        by_name(&self.subs, name)
    }
}

/// What a resource may hold: the attributes of its core schema, and of its extension.
#[derive(Debug)]
pub struct Shape {
    /// Whose it is.
    pub kind: ResourceKind,
    /// At the top.
    pub core: Vec<Attribute>,
    /// Under its URN.
    pub extension: Option<(&'static str, Vec<Attribute>)>,
}

impl Shape {
    /// Of this kind of resource.
    pub fn of(kind: ResourceKind) -> &'static Shape {
        match kind {
            ResourceKind::User => &USER,
            ResourceKind::Group => &GROUP,
        }
    }

    /// The core attribute of this name, in any case.
    pub fn core(&self, name: &str) -> Option<&Attribute> {
        by_name(&self.core, name)
    }

    /// The extension's attributes if `urn` is its name, in any case.
    pub fn extension(&self, urn: &str) -> Option<(&'static str, &[Attribute])> {
        self.extension.as_ref().filter(|(name, _)| name.eq_ignore_ascii_case(urn)).map(|(name, attributes)| (*name, attributes.as_slice()))
    }

    /// True of the core schema's own URN, in any case.
    pub fn is_core_urn(&self, urn: &str) -> bool {
        self.kind.schema_urn().eq_ignore_ascii_case(urn)
    }
}

/// The attribute of this name among these, in any case.
pub fn by_name<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a Attribute> {
    attributes.iter().find(|a| a.name.eq_ignore_ascii_case(name))
}

/// The schema documents as served: without what is not kept here (`password`).
pub fn documents() -> &'static [Schema] {
    &DOCUMENTS
}

#[expect(clippy::expect_used, reason = "the documents are compiled into scim_v2, and a test reads them")]
static DOCUMENTS: LazyLock<Vec<Schema>> = LazyLock::new(|| {
    let mut documents = get_schemas(vec!["user", "group", "enterprise_user"]).expect("embedded documents");
    for document in &mut documents {
        // A random password is sent by some; nobody signs in with it here and it is not kept.
        document.attributes.retain(|a| a.name != "password");
        // Two groups of one name: which one a provider means is then a guess (scim.md §2).
        for a in document.attributes.iter_mut().filter(|a| document.id == CORE_GROUP_SCHEMA && a.name == "displayName") {
            (a.required, a.uniqueness) = (Some(true), Some("server".into()));
        }
    }
    documents
});
static USER: LazyLock<Shape> = LazyLock::new(|| Shape {
    kind: ResourceKind::User,
    core: with_common(CORE_USER_SCHEMA),
    extension: Some((ENTERPRISE_USER_SCHEMA, attributes(ENTERPRISE_USER_SCHEMA))),
});
static GROUP: LazyLock<Shape> = LazyLock::new(|| Shape { kind: ResourceKind::Group, core: with_common(CORE_GROUP_SCHEMA), extension: None });

/// The common attributes of RFC 7643 §3.1, which no schema document lists, then the schema's own.
fn with_common(urn: &str) -> Vec<Attribute> {
    let read_only = |name, kind| Attribute {
        name,
        kind,
        multi: false,
        case_exact: true,
        required: false,
        always: false,
        mutability: Mutability::ReadOnly,
        subs: Vec::new(),
    };
    let meta = ["resourceType", "created", "lastModified", "location", "version"]
        .map(|name| read_only(name, if matches!(name, "created" | "lastModified") { Kind::Moment } else { Kind::Text }));
    let mut all = vec![
        Attribute { multi: true, always: true, case_exact: false, ..read_only("schemas", Kind::Text) },
        Attribute { always: true, ..read_only("id", Kind::Text) },
        Attribute { mutability: Mutability::ReadWrite, ..read_only("externalId", Kind::Text) },
        Attribute { subs: meta.into(), ..read_only("meta", Kind::Complex) },
    ];
    all.extend(attributes(urn));
    all
}

fn attributes(urn: &str) -> Vec<Attribute> {
    DOCUMENTS.iter().filter(|d| d.id == urn).flat_map(|d| &d.attributes).map(attribute).collect()
}

fn attribute(a: &'static Attributes) -> Attribute {
    Attribute {
        name: &a.name,
        kind: kind(&a.r#type),
        multi: a.multi_valued,
        case_exact: a.case_exact.unwrap_or(false),
        required: a.required.unwrap_or(false),
        always: a.returned.as_deref() == Some("always"),
        mutability: mutability(a.mutability.as_deref()),
        subs: a.sub_attributes.as_slice().iter().map(sub).collect(),
    }
}

fn sub(a: &'static SubAttributes) -> Attribute {
    Attribute {
        name: &a.name,
        kind: kind(&a.r#type),
        multi: a.multi_valued,
        case_exact: a.case_exact.unwrap_or(false),
        required: false,
        always: false,
        mutability: mutability(a.mutability.as_deref()),
        subs: Vec::new(),
    }
}

fn kind(word: &str) -> Kind {
    match word {
        "boolean" => Kind::Boolean,
        "dateTime" => Kind::Moment,
        "complex" => Kind::Complex,
        _ => Kind::Text,
    }
}

fn mutability(word: Option<&str>) -> Mutability {
    match word {
        Some("readOnly") => Mutability::ReadOnly,
        Some("immutable") => Mutability::Immutable,
        _ => Mutability::ReadWrite,
    }
}
