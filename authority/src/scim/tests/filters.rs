//! Filters, judged in memory.

use super::*;
use crate::scim::filter::table::{Condition, Table};
use crate::scim::filter::{Filter, MAX_TERMS, Operand, postgres, sqlite};

fn holds(filter: &str) -> bool {
    Filter::parse(ResourceKind::User, filter).unwrap_or_else(|e| panic!("{filter}: {e}")).holds(&bjensen().searched(&stored()))
}

/// Each with its twin that does not hold.
pub(crate) const PAIRS: &[(&str, &str)] = &[
    (r#"userName eq "bjensen@example.com""#, r#"userName eq "bjensen""#),
    (r#"USERNAME EQ "BJENSEN@EXAMPLE.COM""#, r#"userName ne "bJensen@example.com""#),
    (r#"externalId eq "Ext-7""#, r#"externalId eq "ext-7""#),
    (r#"id eq "usr_1""#, r#"id eq "USR_1""#),
    (r#"emails[type eq "work"].value eq "BJ@work.example""#, r#"emails[type eq "home"].value eq "bj@work.example""#),
    (r#"emails[type eq "work" or type eq "x"].value sw "bj""#, r#"emails[type eq "x" or type eq "home"].value sw "bj""#),
    (r#"(emails[type eq "work"].value eq "bj@work.example") and active eq true"#, r#"(emails[type eq "]"].value eq "bj@work.example") and active eq true"#),
    (r#"emails[type eq "work"].primary pr"#, r#"emails[type eq "home"].primary pr"#),
    (r#"emails[type eq "work" and value co "@work"]"#, r#"emails[type eq "home" and value co "@work"]"#),
    (r#"emails[not (type eq "work")]"#, r#"emails[not (type eq "work") and value co "work"]"#),
    (r#"emails.value ew "home.example""#, r#"emails.value ew "home""#),
    (r#"emails co "babs""#, r#"emails co "zz""#),
    (r#"emails pr and name pr and name.givenName pr"#, r#"phoneNumbers pr"#),
    (r#"active eq true"#, r#"active eq false"#),
    (r#"active eq "True""#, r#"active ne "True""#),
    (r#"title eq null or title pr"#, r#"title eq null"#),
    (r#"nickName ne "x" and not (nickName eq "x")"#, r#"nickName eq "x""#),
    (r#"nickName eq null"#, r#"nickName ne null"#),
    (r#"title sw "tour" and title ew "guide" and title co "r g""#, r#"title sw "guide""#),
    (r#"title sw "" and title ew "" and title co """#, r#"nickName co """#),
    (r#"title ew "tour guide""#, r#"title ew "a tour guide""#),
    (r#"title gt "tour" and title ge "tour guide" and title le "tour guide" and title lt "tp""#, r#"title gt "tour guide""#),
    (r#"meta.created ge "2023-11-14T22:13:20Z""#, r#"meta.created gt "2023-11-14T22:13:20Z""#),
    (r#"meta.lastModified eq "2023-11-14T23:13:21+01:00""#, r#"meta.lastModified lt "2023-11-14T22:13:21.000Z""#),
    (r#"meta.resourceType eq "User""#, r#"meta.resourceType eq "Group""#),
    (r#"groups.value eq "grp_1""#, r#"groups.display eq "grp_1""#),
    (r#"schemas eq "urn:ietf:params:scim:schemas:core:2.0:User""#, r#"schemas eq "urn""#),
    (
        r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq "tours""#,
        r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq "x""#,
    ),
    (r#"urn:ietf:params:scim:schemas:core:2.0:User:name.familyName eq "JENSEN""#, r#"name.familyName eq "x""#),
    (r#"userName eq "x" or title pr and active eq true"#, r#"(userName eq "x" or title pr) and active eq false"#),
    // SQL in a filter is text like any other.
    (r#"userName ne "' OR '1'='1""#, r#"userName eq "' OR '1'='1""#),
    (r#"not (userName eq "\"; DROP TABLE scim_user; --")"#, r#"userName eq "x') OR 1=1 --""#),
    (r#"not (userName co "%")"#, r#"userName sw "_jensen""#),
];

#[test]
fn a_filter_holds_of_what_it_names() {
    for (yes, no) in PAIRS {
        assert!(holds(yes), "{yes}");
        assert!(!holds(no), "{no}");
    }
}

#[test]
fn what_is_no_filter_is_refused() {
    let terms = |n: usize| vec![r#"title eq "x""#; n].join(" or ");
    let nested = |n: usize| format!("{}title pr{}", "not (".repeat(n), ")".repeat(n));
    for filter in [
        "",
        "externalId eq jyoung",
        "userName eq 'x'",
        r#"userName eq "x" OR 1=1"#,
        r#"userName eq "x"; DROP TABLE scim_user"#,
        r#"userName" eq "x""#,
        r#"nonsense eq "x""#,
        r#"password eq "x""#,
        r#"name eq "x""#,
        r#"name.nonsense eq "x""#,
        r#"emails[nonsense eq "x"]"#,
        r#"emails[type eq "work""#,
        r#"emails[type eq "work"].value"#,
        r#"emails[type eq work].value eq x"#,
        r#"title[value eq "x"]"#,
        r#"urn:other:User:title eq "x""#,
        "active gt true",
        "active co \"t\"",
        "userName eq 7",
        "userName gt null",
        r#"userName eq "a\u0000b""#,
        r#"meta.created gt "yesterday""#,
        r#"meta.created co "2023-11-14T22:13:20Z""#,
        &terms(MAX_TERMS + 1),
        &nested(16),
        &nested(100_000),
        &format!(r#"userName eq "{}""#, "x".repeat(2048)),
    ] {
        let shown: String = filter.chars().take(60).collect();
        assert_eq!(refusal(Filter::parse(ResourceKind::User, filter)), (400, "invalidFilter"), "{shown}");
    }
    for filter in [terms(MAX_TERMS), nested(15), r#"userName eq "x""#.into()] {
        Filter::parse(ResourceKind::User, &filter).unwrap();
    }
}

#[test]
fn a_group_is_found_by_name_and_member() {
    let document = group(&["usr_1", "usr_2"]).searched(&Stored { groups: Vec::new(), ..stored() });
    for (filter, expected) in
        [(r#"displayName eq "payments""#, true), (r#"members[value eq "usr_2"]"#, true), (r#"members.value eq "usr_3""#, false), ("members pr", true)]
    {
        assert_eq!(Filter::parse(ResourceKind::Group, filter).unwrap().holds(&document), expected, "{filter}");
    }
    assert_eq!(refusal(Filter::parse(ResourceKind::Group, r#"userName eq "x""#)), (400, "invalidFilter"));
}

pub(crate) const TABLE: Table = Table {
    document: "r.searched",
    columns: &[(&["userName"], "r.unique_name"), (&["externalId"], "r.external_id")],
    members: Some(("member m WHERE m.group_id = r.id", "m.member")),
};

#[test]
fn what_a_client_writes_becomes_parameters_in_their_order() {
    let filter = r#"userName eq "B" and (emails[type eq "w'ork" and primary eq true] or not (meta.created gt "1970-01-01T00:00:01Z"))"#;
    let filter = Filter::parse(ResourceKind::User, filter).unwrap();
    let binds = vec![Operand::Text("b".into()), Operand::Text("w'ork".into()), Operand::Bool(true), Operand::Moment(1000)];
    let lite = r#"(r.unique_name = ?3 AND (EXISTS (SELECT 1 FROM json_each(r.searched, '$."emails"') AS e1 WHERE (json_extract(e1.value, '$."type"') = ?4 AND json_extract(e1.value, '$."primary"') = ?5)) OR NOT ((json_extract(r.searched, '$."meta"."created"') > ?6) IS TRUE)))"#;
    assert_eq!(sqlite::condition(&filter, &TABLE, 3), Condition { sql: lite.into(), binds: binds.clone() });
    let pg = r#"(r.unique_name = $3 AND (EXISTS (SELECT 1 FROM jsonb_array_elements(r.searched #> '{"emails"}') AS e1(v) WHERE ((e1.v #>> '{"type"}') COLLATE "C" = $4 AND (e1.v #>> '{"primary"}')::boolean = $5)) OR NOT (((r.searched #>> '{"meta","created"}')::bigint > $6) IS TRUE)))"#;
    assert_eq!(postgres::condition(&filter, &TABLE, 3), Condition { sql: pg.into(), binds });

    let filter = Filter::parse(ResourceKind::Group, r#"members[value eq "Usr_1"]"#).unwrap();
    let expected = |p: &str| Condition {
        sql: format!("EXISTS (SELECT 1 FROM member m WHERE m.group_id = r.id AND (m.member = {p}))"),
        binds: vec![Operand::Text("usr_1".into())],
    };
    assert_eq!(sqlite::condition(&filter, &TABLE, 1), expected("?1"));
    assert_eq!(postgres::condition(&filter, &TABLE, 1), expected("$1"));
}
