//! What this server says of itself (RFC 7643 §5 to §7): only what holds.

use scim_rs::{ENTERPRISE_USER_SCHEMA, ResourceKind};
use serde_json::{Value, json};

use super::list::MAX_RESULTS;
use super::schema::documents;

/// `/ServiceProviderConfig`; `base` is the URL up to `/scim/v2`.
pub fn service_provider_config(base: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": { "supported": true },
        "bulk": { "supported": false, "maxOperations": 0, "maxPayloadSize": 0 },
        "filter": { "supported": true, "maxResults": MAX_RESULTS },
        "changePassword": { "supported": false },
        "sort": { "supported": false },
        "etag": { "supported": true },
        "authenticationSchemes": [{
            "type": "oauthbearertoken",
            "name": "Bearer token",
            "description": "The token of this connection, made with `procura scim token create`",
            "specUri": "https://www.rfc-editor.org/info/rfc6750",
            "primary": true
        }],
        "meta": { "resourceType": "ServiceProviderConfig", "location": format!("{base}/ServiceProviderConfig") }
    })
}

/// `/ResourceTypes`, in order.
pub fn resource_types(base: &str) -> Vec<Value> {
    [ResourceKind::User, ResourceKind::Group]
        .into_iter()
        .map(|kind| {
            let name = name(kind);
            let mut document = json!({
                "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
                "id": name,
                "name": name,
                "endpoint": kind.endpoint(),
                "schema": kind.schema_urn(),
                "meta": { "resourceType": "ResourceType", "location": format!("{base}/ResourceTypes/{name}") }
            });
            if let (ResourceKind::User, Some(document)) = (kind, document.as_object_mut()) {
                document.insert("schemaExtensions".into(), json!([{ "schema": ENTERPRISE_USER_SCHEMA, "required": false }]));
            }
            document
        })
        .collect()
}

/// `/Schemas`, in order.
pub fn schemas(base: &str) -> Vec<Value> {
    documents()
        .iter()
        .map(|document| {
            let mut value = json!(document);
            if let Some(map) = value.as_object_mut() {
                map.insert("schemas".into(), json!(["urn:ietf:params:scim:schemas:core:2.0:Schema"]));
                map.insert("meta".into(), json!({ "resourceType": "Schema", "location": format!("{base}/Schemas/{}", document.id) }));
            }
            value
        })
        .collect()
}

/// `meta.resourceType`.
pub const fn name(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::User => "User",
        ResourceKind::Group => "Group",
    }
}
