//! Bodies of POST in, answers out.

use scim_v2::models::group::Group;
use scim_v2::models::user::User;
use scim_v2::{Response, Strict};

use super::*;
use crate::scim::projection::Projection;

fn create(body: &Value) -> Result<Resource, ScimError> {
    Resource::create(ResourceKind::User, body)
}

#[test]
fn each_providers_new_user_and_group_come_to_one_form() {
    let okta = json!({
        "schemas": [USER], "userName": "a@b.c", "externalId": "00u1", "name": { "givenName": "A", "familyName": "B" },
        "emails": [{ "primary": true, "value": "a@b.c", "type": "work" }], "displayName": "A B", "locale": "en-US",
        "groups": [], "password": "1mz050nq", "active": true,
    });
    let entra = json!({
        "schemas": [USER, ENTERPRISE], "externalId": "00u1", "userName": "a@b.c", "active": "True", "displayName": "A B", "locale": "en-US",
        "emails": [{ "primary": "True", "type": "work", "value": "a@b.c" }], "meta": { "resourceType": "User" },
        "name": { "formatted": null, "givenName": "A", "familyName": "B" }, "roles": [], ENTERPRISE: {},
    });
    assert_eq!(create(&okta).unwrap(), create(&entra).unwrap());
    assert!(!create(&okta).unwrap().to_value().to_string().contains("1mz050nq"), "a password is not kept");
    assert!(create(&json!({ "schemas": [USER], "userName": "x" })).unwrap().is_active());
    assert!(!create(&json!({ "schemas": [USER], "userName": "x", "active": "False" })).unwrap().is_active());

    let entra_group = json!({
        "schemas": [GROUP, "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"],
        "externalId": "8aa1", "displayName": "Payments", "meta": { "resourceType": "Group" },
    });
    let okta_group = json!({ "schemas": [GROUP], "externalId": "8aa1", "displayName": "Payments", "members": [] });
    let [a, b] = [entra_group, okta_group].map(|body| Resource::create(ResourceKind::Group, &body).unwrap());
    assert_eq!(a, b);
}

#[test]
fn the_server_alone_says_id_meta_and_groups() {
    let body = json!({ "schemas": [USER], "userName": "x", "id": "usr_admin", "meta": { "version": "9" }, "groups": [{ "value": "grp_admin" }] });
    let answer = create(&body).unwrap().answer(&stored(), BASE);
    assert_eq!((&answer["id"], &answer["meta"]["version"], &answer["groups"][0]["value"]), (&json!("usr_1"), &json!("W/\"3\""), &json!("grp_1")));
}

#[test]
fn a_body_that_says_something_wrong_is_refused() {
    let with = |key: &str, value: Value| {
        let mut body = json!({ "schemas": [USER], "userName": "x" });
        body[key] = value;
        body
    };
    create(&with("title", json!("x"))).unwrap();
    for (body, expected) in [
        (json!([]), "invalidSyntax"),
        (json!({ "userName": "x" }), "invalidSyntax"),
        (json!({ "schemas": [GROUP], "userName": "x" }), "invalidSyntax"),
        (json!({ "schemas": USER, "userName": "x" }), "invalidSyntax"),
        (with("USERNAME", json!("y")), "invalidSyntax"),
        (with("userName", Value::Null), "invalidValue"),
        (with("userName", json!("  ")), "invalidValue"),
        (with("userName", json!(["x"])), "invalidValue"),
        (with("active", json!("maybe")), "invalidValue"),
        (with("name", json!("Barbara")), "invalidValue"),
        (with("title", json!("x".repeat(16_385))), "invalidValue"),
        (with("emails", json!(vec![json!({ "value": "x" }); 257])), "invalidValue"),
        (with("emails", json!([{ "value": "a", "primary": true }, { "value": "b", "primary": true }])), "invalidValue"),
        (with(ENTERPRISE, json!("x")), "invalidValue"),
    ] {
        assert_eq!(refusal(create(&body)), (400, expected), "{}", body.to_string().chars().take(80).collect::<String>());
    }
}

#[test]
fn what_is_stored_reads_back_and_answers_please_a_strict_reader() {
    let (user, group) = (bjensen(), group(&["usr_1"]));
    for resource in [&user, &group] {
        assert_eq!(&Resource::from_stored(resource.kind(), &resource.to_value()).unwrap(), resource);
    }
    serde_json::from_value::<Strict<User<String>, Response>>(user.answer(&stored(), BASE)).unwrap();
    serde_json::from_value::<Strict<Group<String>, Response>>(group.answer(&stored(), BASE)).unwrap();
    let answer = user.answer(&stored(), BASE);
    assert_eq!(answer["schemas"], json!([USER, ENTERPRISE]));
    assert_eq!(
        answer["meta"],
        json!({ "resourceType": "User", "created": "2023-11-14T22:13:20Z", "lastModified": "2023-11-14T22:13:21Z",
            "location": "https://authority.test/scim/v2/Users/usr_1", "version": "W/\"3\"" })
    );
    assert_eq!(user.unique_name(), "bjensen@example.com");
}

#[test]
fn an_answer_shows_what_is_asked() {
    let shown = |attributes: Option<&str>, excluded: Option<&str>| {
        let projection = Projection::parse(ResourceKind::User, attributes, excluded).unwrap();
        projection.of(ResourceKind::User, bjensen().answer(&stored(), BASE))
    };
    let ids = json!({ "schemas": [USER, ENTERPRISE], "id": "usr_1" });
    let also = |more: Value| {
        let mut all = ids.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let department = format!("{ENTERPRISE}:department");
    for (attributes, expected) in [
        ("userName", also(json!({ "userName": "BJensen@Example.com" }))),
        ("USERNAME, name.givenName", also(json!({ "userName": "BJensen@Example.com", "name": { "givenName": "Barbara" } }))),
        ("emails.type", also(json!({ "emails": [{ "type": "work" }, { "type": "home" }] }))),
        ("nonsense", ids.clone()),
        (department.as_str(), also(json!({ ENTERPRISE: { "department": "Tours" } }))),
        (ENTERPRISE, also(json!({ ENTERPRISE: { "department": "Tours", "employeeNumber": "701" } }))),
    ] {
        assert_eq!(shown(Some(attributes), None), expected, "{attributes}");
    }
    let mut whole = bjensen().answer(&stored(), BASE);
    assert_eq!(shown(None, None), whole);
    assert_eq!(shown(None, Some("id,schemas")), whole, "always shown");
    whole.as_object_mut().unwrap().remove("title");
    whole["name"] = json!({ "familyName": "Jensen" });
    assert_eq!(shown(None, Some("title,name.givenName")), whole);
    assert_eq!(refusal(Projection::parse(ResourceKind::User, Some("title"), Some("name"))), (400, "invalidValue"));
    assert_eq!(refusal(Projection::parse(ResourceKind::User, Some(&"title,".repeat(65)), None)), (400, "invalidValue"));

    let members = Projection::parse(ResourceKind::Group, None, Some("members")).unwrap();
    assert!(members.hides("members") && !members.hides("displayName") && !Projection::Whole.hides("members"));
    assert_eq!(members.of(ResourceKind::Group, group(&["a"]).answer(&stored(), BASE)).get("members"), None);
}
