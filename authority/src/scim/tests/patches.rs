//! PATCH and PUT, by provider.

use super::*;

#[test]
fn each_providers_deactivation_leaves_the_user_inactive() {
    let put = |active: Value| json!({ "schemas": [USER], "userName": "bjensen@example.com", "active": active });
    for (whose, operation) in [
        ("okta catalog", json!({ "op": "replace", "value": { "active": false } })),
        ("entra default", json!({ "op": "Replace", "path": "active", "value": "False" })),
        ("entra lower case", json!({ "op": "replace", "path": "active", "value": "false" })),
        ("entra with the flag", json!({ "op": "replace", "path": "active", "value": false })),
        ("entra add", json!({ "op": "Add", "path": "active", "value": "False" })),
        ("any case", json!({ "OP": "rEpLaCe", "Path": "ACTIVE", "VALUE": "FALSE" })),
        ("urn", json!({ "op": "replace", "path": format!("{USER}:active"), "value": false })),
        ("urn as key", json!({ "op": "replace", "value": { format!("{USER}:active"): "False" } })),
        ("core object as key", json!({ "op": "replace", "value": { USER: { "active": false } } })),
        // Absent is not active: what nobody asserts gives nobody authority.
        ("removal", json!({ "op": "remove", "path": "active" })),
        ("null", json!({ "op": "replace", "path": "active", "value": null })),
        ("null as key", json!({ "op": "replace", "value": { "active": null } })),
    ] {
        let after = patch(&bjensen(), json!([operation])).unwrap_or_else(|e| panic!("{whose}: {e}"));
        assert!(!after.is_active(), "{whose}");
        assert_eq!(after.user_name(), bjensen().user_name(), "{whose}");
    }
    for active in [json!(false), json!("False")] {
        assert!(!bjensen().replaced(&put(active)).unwrap().is_active(), "okta custom app");
    }
    // The twins: said to be active, or nothing said.
    for active in [json!(true), json!("True"), Value::Null] {
        assert!(bjensen().replaced(&put(active)).unwrap().is_active());
    }
    let asleep = patch(&bjensen(), json!([{ "op": "replace", "value": { "active": false } }])).unwrap();
    assert!(!asleep.replaced(&json!({ "schemas": [USER], "userName": "x" })).unwrap().is_active(), "a PUT that is silent wakes nobody");
    assert!(patch(&asleep, json!([{ "op": "Replace", "path": "active", "value": "True" }])).unwrap().is_active());
    for wrong in [json!("no"), json!(0), json!([false]), json!({})] {
        assert_eq!(refusal(patch(&bjensen(), json!([{ "op": "replace", "path": "active", "value": wrong }]))), (400, "invalidValue"), "{wrong}");
    }
}

#[test]
fn each_providers_change_of_members_does_what_it_says() {
    let cases: &[(&str, Value, &[&str], &[&str])] = &[
        ("okta add", json!({ "op": "add", "path": "members", "value": [{ "value": "c", "display": "x@y" }] }), &["a"], &["a", "c"]),
        ("entra add", json!({ "op": "Add", "path": "members", "value": [{ "$ref": null, "value": "c" }] }), &["a"], &["a", "c"]),
        ("add without a path", json!({ "op": "add", "value": { "members": [{ "value": "c" }] } }), &["a"], &["a", "c"]),
        ("add twice", json!({ "op": "add", "path": "members", "value": [{ "value": "a" }, { "value": "a" }] }), &["a"], &["a"]),
        ("one object", json!({ "op": "add", "path": "members", "value": { "value": "c" } }), &["a"], &["a", "c"]),
        ("okta remove", json!({ "op": "remove", "path": "members[value eq \"a\"]" }), &["a", "b"], &["b"]),
        ("entra default remove", json!({ "op": "Remove", "path": "members", "value": [{ "value": "a" }] }), &["a", "b"], &["b"]),
        ("entra with the flag", json!({ "op": "remove", "path": "members[value eq \"b\"]" }), &["a", "b"], &["a"]),
        ("remove two", json!({ "op": "remove", "path": "members[value eq \"a\" or value eq \"c\"]" }), &["a", "b", "c"], &["b"]),
        ("remove nobody", json!({ "op": "remove", "path": "members", "value": [] }), &["a"], &["a"]),
        ("remove a stranger", json!({ "op": "remove", "path": "members[value eq \"z\"]" }), &["a"], &["a"]),
        ("remove a stranger by value", json!({ "op": "Remove", "path": "members", "value": [{ "value": "z" }] }), &["a"], &["a"]),
        ("remove all", json!({ "op": "remove", "path": "members" }), &["a", "b"], &[]),
        ("okta replace", json!({ "op": "replace", "path": "members", "value": [{ "value": "b" }, { "value": "c" }] }), &["a", "b"], &["b", "c"]),
        ("replace by none", json!({ "op": "replace", "path": "members", "value": [] }), &["a"], &[]),
        ("okta rename", json!({ "op": "replace", "value": { "id": "abf4", "displayName": "New" } }), &["a"], &["a"]),
    ];
    for (whose, operation, before, expected) in cases {
        let after = patch(&group(before), json!([operation])).unwrap_or_else(|e| panic!("{whose}: {e}"));
        assert_eq!(after.members().collect::<Vec<_>>(), *expected, "{whose}");
    }
    let renamed = patch(&group(&[]), json!([{ "op": "replace", "value": { "id": "abf4", "displayName": "New" } }])).unwrap();
    assert_eq!(renamed.unique_name(), "new");
    let put = json!({ "schemas": [GROUP], "displayName": "Payments", "members": [{ "value": "b" }] });
    assert_eq!(group(&["a", "b"]).replaced(&put).unwrap().members().collect::<Vec<_>>(), ["b"]);
    // A group's members are no secret default: who is not named in a PUT is out.
    assert_eq!(group(&["a"]).replaced(&json!({ "schemas": [GROUP], "displayName": "Payments" })).unwrap().members().count(), 0);
    for wrong in [json!({ "op": "add", "path": "members", "value": [{ "display": "x" }] }), json!({ "op": "Remove", "path": "members", "value": [{}] })] {
        assert_eq!(refusal(patch(&group(&["a", "b"]), json!([wrong]))), (400, "invalidValue"), "{wrong}");
    }
    // A member goes whole: a path into it would empty or swap it by the way.
    for wrong in [json!({ "op": "remove", "path": "members.value" }), json!({ "op": "replace", "path": "members[value eq \"a\"].value", "value": "b" })] {
        assert_eq!(refusal(patch(&group(&["a", "b"]), json!([wrong]))), (400, "mutability"), "{wrong}");
    }
}

#[test]
fn every_form_of_path_reaches_its_value() {
    let email = |kind: &str| format!("emails[type eq \"{kind}\"]");
    let cases = [
        (json!({ "op": "replace", "path": "title", "value": "Chief" }), "/title", json!("Chief")),
        (json!({ "op": "add", "path": "TITLE", "value": "Chief" }), "/title", json!("Chief")),
        (json!({ "op": "remove", "path": "title" }), "/title", Value::Null),
        (json!({ "op": "replace", "path": "name.givenName", "value": "Babs" }), "/name", json!({ "givenName": "Babs", "familyName": "Jensen" })),
        (json!({ "op": "remove", "path": "name.givenName" }), "/name", json!({ "familyName": "Jensen" })),
        (json!({ "op": "replace", "path": format!("{USER}:name.familyName"), "value": "J" }), "/name/familyName", json!("J")),
        (json!({ "op": "add", "path": "name", "value": { "middleName": "M" } }), "/name/familyName", json!("Jensen")),
        (json!({ "op": "replace", "path": "name", "value": { "middleName": "M" } }), "/name", json!({ "middleName": "M" })),
        (json!({ "op": "Replace", "path": format!("{}.value", email("work")), "value": "w@x" }), "/emails/0/value", json!("w@x")),
        (json!({ "op": "replace", "path": email("home"), "value": { "value": "h@x" } }), "/emails/1", json!({ "value": "h@x" })),
        (json!({ "op": "add", "path": email("home"), "value": { "display": "H" } }), "/emails/1/value", json!("babs@home.example")),
        (json!({ "op": "Add", "path": format!("{}.value", email("other")), "value": "o@x" }), "/emails/2", json!({ "type": "other", "value": "o@x" })),
        (json!({ "op": "remove", "path": email("work") }), "/emails/0/type", json!("home")),
        (json!({ "op": "remove", "path": "emails[type eq \"WORK\" and value co \"WORK\"].primary" }), "/emails/0/primary", Value::Null),
        (json!({ "op": "add", "path": "emails", "value": [{ "value": "n@x", "primary": true }] }), "/emails/0/primary", json!(false)),
        (json!({ "op": "replace", "path": format!("{}.primary", email("home")), "value": "True" }), "/emails/0/primary", json!(false)),
        (json!({ "op": "replace", "path": "emails.type", "value": "x" }), "/emails/1/type", json!("x")),
        (
            json!({ "op": "Add", "path": format!("{ENTERPRISE}:department"), "value": "Sales" }),
            "/urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/department",
            json!("Sales"),
        ),
        (
            json!({ "op": "Add", "path": format!("{ENTERPRISE}:manager"), "value": "usr_9" }),
            "/urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/manager",
            json!({ "value": "usr_9" }),
        ),
        (
            json!({ "op": "replace", "path": ENTERPRISE, "value": { "division": "D" } }),
            "/urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/employeeNumber",
            json!("701"),
        ),
        (json!({ "op": "remove", "path": ENTERPRISE }), "/urn:ietf:params:scim:schemas:extension:enterprise:2.0:User", Value::Null),
        // Entra with the flag: dotted and URN keys inside a value.
        (json!({ "op": "replace", "value": { "name.givenName": "Z", format!("{ENTERPRISE}:employeeNumber"): "9" } }), "/name/givenName", json!("Z")),
        (
            json!({ "op": "replace", "value": { format!("{ENTERPRISE}:employeeNumber"): "9" } }),
            "/urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/employeeNumber",
            json!("9"),
        ),
        (
            json!({ "op": "add", "value": { ENTERPRISE: { "employeeNumber": "9" } } }),
            "/urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/department",
            json!("Tours"),
        ),
        (json!({ "op": "replace", "value": { "emails[type eq \"work\"].value": "w@x", "unknown": 1, "meta": {} } }), "/emails/0/value", json!("w@x")),
    ];
    for (operation, pointer, expected) in cases {
        let after = patch(&bjensen(), json!([operation])).unwrap_or_else(|e| panic!("{operation}: {e}")).to_value();
        assert_eq!(after.pointer(pointer).cloned().unwrap_or_default(), expected, "{operation}");
    }
}

#[test]
fn what_a_patch_must_not_say_is_refused_in_the_protocols_words() {
    for (operation, expected) in [
        (json!({ "op": "remove" }), (400, "noTarget")),
        (json!({ "op": "replace", "path": "emails[type eq \"fax\"].value", "value": "x" }), (400, "noTarget")),
        (json!({ "op": "add", "path": "emails[type co \"fax\"].value", "value": "x" }), (400, "noTarget")),
        (json!({ "op": "replace", "path": "id", "value": "other" }), (400, "mutability")),
        (json!({ "op": "replace", "path": "meta.version", "value": "9" }), (400, "mutability")),
        (json!({ "op": "add", "path": "groups", "value": [{ "value": "grp_admin" }] }), (400, "mutability")),
        (json!({ "op": "remove", "path": "userName" }), (400, "mutability")),
        (json!({ "op": "replace", "path": "userName", "value": " " }), (400, "invalidValue")),
        (json!({ "op": "replace", "value": { "userName": null } }), (400, "mutability")),
        (json!({ "op": "replace", "path": "nonsense", "value": 1 }), (400, "invalidPath")),
        (json!({ "op": "replace", "path": "emails[type eq work].value", "value": 1 }), (400, "invalidPath")),
        (json!({ "op": "replace", "path": "emails[nonsense eq \"x\"].value", "value": "1" }), (400, "invalidFilter")),
        (json!({ "op": "replace", "path": "a.b.c", "value": 1 }), (400, "invalidPath")),
        (json!({ "op": "replace", "path": "title[value eq \"x\"]", "value": 1 }), (400, "invalidPath")),
        (json!({ "op": "replace", "path": ["title"], "value": 1 }), (400, "invalidPath")),
        (json!({ "op": "replace", "path": "urn:other:User:title", "value": 1 }), (400, "invalidPath")),
        (json!({ "op": "replace", "path": "title", "value": 1 }), (400, "invalidValue")),
        (json!({ "op": "replace", "path": "title", "value": "a\u{0}b" }), (400, "invalidValue")),
        (json!({ "op": "add", "value": [] }), (400, "invalidValue")),
        (json!({ "op": "add", "path": "title" }), (400, "invalidValue")),
        (json!({ "op": "copy", "path": "title" }), (400, "invalidSyntax")),
        (json!({ "path": "title", "value": "x" }), (400, "invalidSyntax")),
        (json!({ "op": "add", "OP": "remove", "path": "title", "value": "x" }), (400, "invalidSyntax")),
        (json!("remove"), (400, "invalidSyntax")),
    ] {
        assert_eq!(refusal(patch(&bjensen(), json!([operation]))), expected, "{operation}");
    }
}

#[test]
fn a_patch_without_operations_or_with_too_many_is_refused() {
    let urn = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
    let noop = json!({ "op": "replace", "path": "title", "value": "x" });
    let many = |n: usize| Value::Array(vec![noop.clone(); n]);
    for (body, expected) in [
        (json!({ "schemas": [urn] }), (400, "invalidSyntax")),
        (json!({ "schemas": [urn], "Operations": [] }), (400, "invalidSyntax")),
        (json!({ "schemas": [urn], "Operations": noop }), (400, "invalidSyntax")),
        (json!({ "Operations": [noop] }), (400, "invalidSyntax")),
        (json!({ "schemas": [USER], "Operations": [noop] }), (400, "invalidSyntax")),
        (json!({ "schemas": [urn], "Operations": [noop], "operations": [noop] }), (400, "invalidSyntax")),
        (json!([]), (400, "invalidSyntax")),
        (json!({ "schemas": [urn], "Operations": many(1001) }), (413, "")),
        (json!({ "schemas": [urn], "Operations": many(10_000) }), (413, "")),
    ] {
        assert_eq!(refusal(Patch::parse(ResourceKind::User, &body)), expected);
    }
    for body in [json!({ "schemas": [urn], "Operations": many(1000) }), json!({ "SCHEMAS": [urn], "operations": [noop] })] {
        Patch::parse(ResourceKind::User, &body).unwrap().applied(&bjensen()).unwrap();
    }
}

#[test]
fn an_operation_that_fails_takes_the_ones_before_it_along() {
    let before = bjensen();
    let good = json!({ "op": "replace", "path": "active", "value": false });
    let bad = json!({ "op": "replace", "path": "emails[type eq \"fax\"].value", "value": "x" });
    assert_eq!(refusal(patch(&before, json!([good, bad]))), (400, "noTarget"));
    assert_eq!(before, bjensen());
    assert!(!patch(&before, json!([good])).unwrap().is_active());
}

#[test]
fn operations_over_a_large_group_are_bounded_together() {
    let ids: Vec<String> = (0..30_000).map(|n| format!("u{n}")).collect();
    let large = group(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let touch = json!({ "op": "Remove", "path": "members", "value": [{ "value": "z" }] });
    assert_eq!(refusal(patch(&large, Value::Array(vec![touch.clone(); 134]))), (413, ""));
    assert_eq!(patch(&large, Value::Array(vec![touch; 3])).unwrap(), large);
}
