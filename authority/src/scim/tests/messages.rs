//! Errors, lists, versions and discovery.

use super::*;
use crate::scim::list::{Page, Query, response};
use crate::scim::version::{if_match, not_modified};
use crate::scim::{ScimType, discovery};

#[test]
fn an_error_has_the_protocols_form_and_is_no_echo() {
    let error = ScimError::new(ScimType::Uniqueness, "userName is taken");
    let urn = "urn:ietf:params:scim:api:messages:2.0:Error";
    assert_eq!(error.body(), json!({ "schemas": [urn], "status": "409", "scimType": "uniqueness", "detail": "userName is taken" }));
    assert_eq!(ScimError::plain(404, "no such user").body(), json!({ "schemas": [urn], "status": "404", "detail": "no such user" }));
    assert!(ScimError::plain(400, "é".repeat(100_000)).detail.len() <= 512);
    serde_json::from_value::<scim_v2::models::errors::ScimHttpError>(error.body()).unwrap();
}

#[test]
fn a_page_is_clamped_not_refused() {
    for (start, count, expected) in [
        (None, None, (1, 100)),
        (Some("0"), Some("10"), (1, 10)),
        (Some("-5"), Some("-1"), (1, 0)),
        (Some("101"), Some("0"), (101, 0)),
        (Some("9223372036854775807"), Some("100000"), (9_223_372_036_854_775_807, 200)),
    ] {
        let page = Page::parse(start, count).unwrap();
        assert_eq!((page.start, page.count), expected);
    }
    for wrong in ["", "x", "1.5", "99999999999999999999"] {
        assert_eq!(refusal(Page::parse(Some(wrong), None)), (400, "invalidValue"), "{wrong}");
    }
    let empty = response(0, Page::parse(None, None).unwrap(), Vec::new());
    let urn = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
    assert_eq!(empty, json!({ "schemas": [urn], "totalResults": 0, "startIndex": 1, "itemsPerPage": 0, "Resources": [] }));
}

#[test]
fn a_search_says_what_a_query_string_says() {
    let urn = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";
    let search = |body: Value| Query::from_search(ResourceKind::User, &body);
    let query = search(json!({ "schemas": [urn], "filter": "title pr", "attributes": ["userName"], "startIndex": 2, "count": 1000 })).unwrap();
    assert!(query.filter.unwrap().holds(&bjensen().searched(&stored())) && query.projection.hides("title"));
    assert_eq!((query.page.start, query.page.count, query.page.offset()), (2, 200, 1));
    for (body, expected) in [
        (json!({ "filter": "title pr" }), "invalidSyntax"),
        (json!({ "schemas": [urn], "filter": 7 }), "invalidFilter"),
        (json!({ "schemas": [urn], "filter": "title eq x" }), "invalidFilter"),
        (json!({ "schemas": [urn], "count": "7" }), "invalidValue"),
        (json!({ "schemas": [urn], "attributes": "userName" }), "invalidSyntax"),
    ] {
        assert_eq!(refusal(search(body)), (400, expected));
    }
}

#[test]
fn a_write_under_another_version_is_refused() {
    for header in ["W/\"3\"", "\"3\"", "W/\"2\", W/\"3\"", "*"] {
        if_match(Some(header), 3).unwrap();
        assert!(not_modified(Some(header), 3));
    }
    if_match(None, 3).unwrap();
    for header in ["W/\"2\"", "3", "", "W/\"33\"", "nonsense"] {
        assert_eq!(refusal(if_match(Some(header), 3)), (412, ""), "{header}");
        assert!(!not_modified(Some(header), 3));
    }
    assert!(!not_modified(None, 3));
}

#[test]
fn discovery_reads_as_the_types_of_others_and_holds_no_null() {
    fn no_null(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(list) => list.iter().all(no_null),
            Value::Object(map) => map.values().all(no_null),
            _ => true,
        }
    }
    let config = discovery::service_provider_config(BASE);
    serde_json::from_value::<scim_v2::models::service_provider_config::ServiceProviderConfig>(config.clone()).unwrap();
    let types = discovery::resource_types(BASE);
    for document in &types {
        serde_json::from_value::<scim_v2::models::resource_types::ResourceType>(document.clone()).unwrap();
    }
    let schemas = discovery::schemas(BASE);
    assert_eq!(schemas.iter().map(|s| s["id"].as_str().unwrap()).collect::<Vec<_>>(), [USER, GROUP, ENTERPRISE]);
    assert!(schemas.iter().chain(&types).chain([&config]).all(no_null));
    assert!(!json!(schemas).to_string().contains("\"password\""));
}
