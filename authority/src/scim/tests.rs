//! What providers send (`scim.md` §2), what attackers send, and what the RFC says.

mod filters;
mod messages;
mod patches;
mod resources;

use serde_json::{Value, json};

use super::patch::Patch;
use super::resource::{Resource, Stored};
use super::{ResourceKind, ScimError};

const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
const BASE: &str = "https://authority.test/scim/v2";

fn stored() -> Stored {
    Stored { id: "usr_1".into(), version: 3, created_ms: 1_700_000_000_000, modified_ms: 1_700_000_001_000, groups: vec![("grp_1".into(), "Payments".into())] }
}

/// One with everything that the tables below touch.
fn bjensen() -> Resource {
    let body = json!({
        "schemas": [USER, ENTERPRISE],
        "externalId": "Ext-7",
        "userName": "BJensen@Example.com",
        "active": true,
        "title": "Tour Guide",
        "name": { "givenName": "Barbara", "familyName": "Jensen" },
        "emails": [
            { "value": "bj@work.example", "type": "work", "primary": true },
            { "value": "babs@home.example", "type": "home" },
        ],
        ENTERPRISE: { "employeeNumber": "701", "department": "Tours" },
    });
    Resource::create(ResourceKind::User, &body).unwrap()
}

fn group(members: &[&str]) -> Resource {
    let members: Vec<Value> = members.iter().map(|id| json!({ "value": id })).collect();
    Resource::create(ResourceKind::Group, &json!({ "schemas": [GROUP], "displayName": "Payments", "members": members })).unwrap()
}

fn patch(resource: &Resource, operations: Value) -> Result<Resource, ScimError> {
    let body = json!({ "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": operations });
    Patch::parse(resource.kind(), &body)?.applied(resource)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ScimError>) -> (u16, &'static str) {
    let error = result.unwrap_err();
    (error.status, error.scim_type.map_or("", super::ScimType::as_str))
}
