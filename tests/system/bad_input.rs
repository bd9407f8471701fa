//! Wrong, missing, oversized, duplicated, non-UTF-8, unknown and contradictory input on every route: one clear sentence
//! and its code, never our failure, and nobody else notices.

use std::time::Instant;

use serde_json::{Value, json};

use super::support::raw::{self, Answer, Request};
use super::support::{Authority, PATIENCE, Person, beside_others, delegated, key, resident_kib, rng};

/// Routes with a JSON body: a body of the right shape, and whose session it takes.
fn posts() -> Vec<(&'static str, Value, &'static str)> {
    let id = "00112233445566778899aabbccddeeff";
    let (key, nonce, signature) = ("aa".repeat(32), "bb".repeat(32), "cc".repeat(64));
    let assertion = json!({ "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion": "a.b.c" });
    let mint = {
        let mut body = assertion.clone();
        body["delegation"] = json!(format!("dlg_{id}"));
        body["audiences"] = json!(["payments"]);
        body["ttl_secs"] = json!(60);
        body
    };
    let capability = json!({ "tool": "payments", "action": "transfer", "resource": "acct/eu/*",
        "limits": [{ "kind": "at_most", "arg": "amount", "max": 1, "unit": "EUR" }] });
    vec![
        ("/v1/agents/challenges", json!({}), "alice"),
        ("/v1/agents", json!({ "name": "bot", "key": key, "challenge": nonce, "signature": signature }), "alice"),
        (
            "/v1/delegations",
            json!({ "agent": format!("agt_{id}"), "audiences": ["payments"], "capabilities": [capability], "ttl_secs": 60, "depth": 1, "class_max": "restricted" }),
            "alice",
        ),
        ("/v1/revocations", json!({ "what": "delegation", "id": format!("dlg_{id}"), "reason": "drill" }), "sam"),
        ("/v1/verifiers", json!({ "audience": "payments/1", "key": key }), "sam"),
        ("/v1/receipts", json!({ "receipts": ["AAAA"], "denials": [] }), "nobody"),
        ("/v1/token", mint, "nobody"),
        ("/v1/card", assertion, "nobody"),
    ]
}

const GETS: &[&str] = &[
    "/healthz",
    "/readyz",
    "/checkpoint",
    "/tile/0/000.p/1",
    "/tile/entries/000.p/1",
    "/v1/keys",
    "/v1/me",
    "/v1/agents",
    "/v1/delegations",
    "/v1/log/bundle",
    "/v1/feed?tenant=acme&nonce=00112233445566778899aabbccddeeff",
    "/v1/feed/head?tenant=acme&nonce=00112233445566778899aabbccddeeff",
    "/v1/feed/tail?tenant=acme&epoch=1&from=1",
];

/// Pages for people: a sentence in plain text.
const PAGES: &[&str] = &["/login", "/login/cli", "/oidc/callback"];

struct Site {
    authority: Authority,
    alice: Person,
    sam: Person,
    _scratch: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let authority = Authority::start(&scratch.path().join("authority")).await;
        let (alice, sam) = (authority.person("alice").await, authority.person("sam").await);
        Self { authority, alice, sam, _scratch: scratch }
    }

    fn signed_in(&self, request: Request, who: &str) -> Request {
        match who {
            "alice" => request.session(&self.alice.session().session),
            "sam" => request.session(&self.sam.session().session),
            _ => request,
        }
    }

    async fn send(&self, request: &Request) -> Answer {
        let began = Instant::now();
        let answer = request.send(self.authority.address()).await.unwrap_or_else(|| panic!("no answer to {} {}", request.method, show(&request.target)));
        assert!(began.elapsed() < PATIENCE / 2, "{} {} took {:?}", request.method, show(&request.target), began.elapsed());
        answer
    }

    /// A refusal by the one form, and the caller's fault.
    async fn refuses(&self, request: &Request, why: &str) -> Answer {
        let answer = self.send(request).await;
        let said = format!("{} {} with {why}: {} {}", request.method, show(&request.target), answer.status, show(&answer.body));
        assert!((400..500).contains(&answer.status), "{said}");
        assert!(answer.is_error_form(), "{said}");
        assert!(answer.body.len() <= LONGEST_SENTENCE, "{} bytes long: {said}", answer.body.len());
        answer
    }

    /// Whatever it is, it is not our failure.
    async fn survives(&self, request: &Request, why: &str) {
        let answer = self.send(request).await;
        let said = format!("{} {} with {why}: {} {}", request.method, show(&request.target), answer.status, show(&answer.body));
        assert!(answer.status < 500, "{said}");
        assert!(answer.status < 400 || answer.is_error_form() && answer.body.len() <= LONGEST_SENTENCE, "{} bytes long: {said}", answer.body.len());
    }

    /// Nobody else noticed: it serves, grants and mints, and said nothing of a panic.
    async fn is_well(&self) {
        assert_eq!(self.authority.get("/readyz").await.0, 200);
        let mut rng = rng();
        let (bot, delegation) = delegated(&self.alice, &format!("bot-{}", rand::Rng::random::<u32>(&mut rng)), &key(&mut rng)).await;
        super::support::mint(&self.authority, &bot, delegation).await;
        let said = self.authority.said();
        assert!(!said.contains("panicked") && !said.contains("ERROR"), "{said}");
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

/// Bodies that no route takes.
fn bad_bodies(good: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let text = good.to_string();
    let mut unknown = good.clone();
    unknown["unheard_of"] = json!(1);
    let with = |member: &str| if text == "{}" { format!("{{{member}}}") } else { text.replacen('{', &format!("{{{member},"), 1) };
    let twice = match good.as_object().and_then(|o| o.iter().next()) {
        Some((name, value)) => with(&format!("\"{name}\":{value}")),
        None => r#"{"a":1,"a":1}"#.to_owned(),
    };
    vec![
        ("an empty body", Vec::new()),
        ("something that is not JSON", b"grant=everything".to_vec()),
        ("half a body", text.as_bytes()[..text.len() - 1].to_vec()),
        ("two bodies", format!("{text}{text}").into_bytes()),
        ("an array", format!("[{text}]").into_bytes()),
        ("null", b"null".to_vec()),
        ("an unknown field", unknown.to_string().into_bytes()),
        ("a key twice", twice.into_bytes()),
        ("a float", with(r#""x":1.5"#).into_bytes()),
        ("a huge number", with(r#""x":1e400"#).into_bytes()),
        ("an integer beyond 64 bits", with(r#""x":123456789012345678901234567890"#).into_bytes()),
        ("bytes that are not UTF-8", [b"{\"\xff\xfe\":1,", &text.as_bytes()[1..]].concat()),
        ("a lone surrogate", with(r#""x":"\ud800""#).into_bytes()),
        ("a NUL byte", [text.as_bytes(), b"\0"].concat()),
        ("a byte order mark", [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("deep nesting of arrays", with(&format!("\"x\":{}{}", "[".repeat(100_000), "]".repeat(100_000))).into_bytes()),
        ("deep nesting of objects", format!("{}1{}", "{\"x\":".repeat(100_000), "}".repeat(100_000)).into_bytes()),
        ("deep nesting without end", "[".repeat(3_000_000).into_bytes()),
        ("5 MB of spaces", vec![b' '; 5_000_000]),
        ("5 MB of a string", with(&format!("\"x\":\"{}\"", "y".repeat(5_000_000))).into_bytes()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_takes_a_body_that_is_not_its_own() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    for (path, good, who) in posts() {
        for (why, body) in bad_bodies(&good) {
            site.refuses(&site.signed_in(Request::new("POST", path), who).json(body), why).await;
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data", "application/json/../x", ""] {
            let request = site.signed_in(Request::new("POST", path), who).header("content-type", kind).body(good.to_string());
            site.refuses(&request, &format!("the content type `{kind}`")).await;
        }
        site.refuses(&site.signed_in(Request::new("POST", path), who).body(good.to_string()), "no content type").await;
        let encoded = site.signed_in(Request::new("POST", path), who).header("content-encoding", "gzip").json(b"\x1f\x8b\x08\0".to_vec());
        site.refuses(&encoded, "a compressed body").await;
    }
    site.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_with_a_value_that_is_not_its_own_is_refused_or_harmless() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("\u{0}"),
        json!("ü".repeat(600)),
        json!("x".repeat(1_000_000)),
        json!("dlg_00112233445566778899AABBCCDDEEFF"),
        json!("../../etc/passwd"),
        json!("'; drop table delegations; --"),
        json!([]),
        json!([[]]),
        json!({}),
        json!(vec!["payments"; 100_000]),
        json!(vec![json!({}); 10_000]),
        json!({ "a": { "b": {} } }),
    ];
    for (path, good, who) in posts() {
        for name in good.as_object().unwrap().keys() {
            for value in &odd {
                let mut body = good.clone();
                body[name] = value.clone();
                let request = site.signed_in(Request::new("POST", path), who).json(body.to_string());
                site.survives(&request, &format!("`{name}` = {}", show(value.to_string().as_bytes()))).await;
            }
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(name);
            let request = site.signed_in(Request::new("POST", path), who).json(body.to_string());
            site.survives(&request, &format!("no `{name}`")).await;
        }
    }
    site.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_with_parts_out_of_bounds_is_refused() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let mut rng = rng();
    let bot = site.alice.register("bounds", &key(&mut rng), &"acme".parse().unwrap()).await.unwrap();
    let (_, good, _) = posts().into_iter().find(|(p, ..)| *p == "/v1/delegations").unwrap();
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        body["agent"] = json!(bot.id);
        *body.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        body
    };
    let granted = site.send(&site.signed_in(Request::new("POST", "/v1/delegations"), "alice").json(with("/ttl_secs", json!(60)).to_string())).await;
    assert_eq!(granted.status, 201, "the twin of all below: {}", show(&granted.body));
    let capability = good["capabilities"][0].clone();
    let limit = capability["limits"][0].clone();
    let cases = [
        ("/ttl_secs", json!(0)),
        ("/ttl_secs", json!(u64::MAX)),
        ("/ttl_secs", json!(8 * 3600 + 1)),
        ("/depth", json!(4)),
        ("/depth", json!(255)),
        ("/depth", json!(256)),
        ("/audiences", json!([])),
        ("/audiences", json!(vec!["payments"; 1000])),
        ("/audiences/0", json!("Payments")),
        ("/audiences/0", json!("payments/1")),
        ("/audiences/0", json!("p".repeat(65))),
        ("/capabilities", json!([])),
        ("/capabilities", json!(vec![capability.clone(); 1000])),
        ("/capabilities/0/resource", json!("acct/eu/../us/*")),
        ("/capabilities/0/resource", json!("acct//*")),
        ("/capabilities/0/resource", json!("*")),
        ("/capabilities/0/resource", json!("acct/%65u/*")),
        ("/capabilities/0/resource", json!("ACCT/eu/*")),
        ("/capabilities/0/resource", json!("acct/".repeat(200))),
        ("/capabilities/0/action", json!("*")),
        ("/capabilities/0/tool", json!("crm")),
        ("/capabilities/0/limits", json!(vec![limit.clone(); 1000])),
        ("/capabilities/0/limits", json!([])),
        ("/capabilities/0/limits/0/max", json!(100_001)),
        ("/capabilities/0/limits/0/max", json!(u64::MAX)),
        ("/capabilities/0/limits/0/unit", json!("USD")),
        ("/capabilities/0/limits/0/unit", json!("")),
        ("/capabilities/0/limits/0/kind", json!("at_least")),
        ("/class_max", json!("unheard_of")),
    ];
    for (pointer, value) in cases {
        let why = format!("{pointer} = {}", show(value.to_string().as_bytes()));
        site.refuses(&site.signed_in(Request::new("POST", "/v1/delegations"), "alice").json(with(pointer, value).to_string()), &why).await;
    }
    site.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_paths_and_parameters_are_refused_in_the_one_form() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let sam = |request: Request| site.signed_in(request, "sam");
    for (path, good, who) in posts() {
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let answer = site.refuses(&site.signed_in(Request::new(method, path), who).json(good.to_string()), "another method").await;
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
    for target in GETS {
        for method in ["PUT", "DELETE", "PATCH", "BREW"] {
            let answer = site.refuses(&sam(Request::new(method, target)).json("{}"), "another method").await;
            assert_eq!(answer.status, 405, "{method} {target}");
        }
        let twin = site.send(&sam(Request::new("GET", target))).await;
        assert_eq!(twin.status, 200, "GET {target}: {}", show(&twin.body));
    }
    let long = "a".repeat(20_000);
    let nonce = "00112233445566778899aabbccddeeff";
    let unknown = [
        "/",
        "/v1",
        "/v1/",
        "/v1/tokens",
        "/V1/token",
        "/v1/token/",
        "//v1/token",
        "/v1/../v1/keys",
        "/v1/keys/..",
        "/t/umbrella/checkpoint",
        "/checkpoint/",
        "/%00",
        "/.env",
    ];
    for path in unknown.into_iter().map(str::to_owned).chain([format!("/{long}")]) {
        assert_eq!(site.refuses(&sam(Request::new("GET", &path)), "an unknown path").await.status, 404, "{}", show(path.as_bytes()));
    }
    let tiles = [
        "0/001",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/999999999999999999999",
        "0/x000/000",
        "9/000",
        "-1/000",
        "entries/../../../etc/passwd",
        "0/%30%30%30.p/1x",
        "entries/999",
        "%ff",
        "",
    ];
    for tile in tiles {
        site.refuses(&sam(Request::new("GET", format!("/tile/{tile}"))), "a tile that is not there").await;
    }
    let queries = [
        "/v1/feed/head".to_owned(),
        "/v1/feed/head?tenant=acme".to_owned(),
        format!("/v1/feed/head?nonce={nonce}"),
        format!("/v1/feed/head?tenant=acme&nonce={nonce}&nonce={nonce}"),
        format!("/v1/feed/head?tenant=acme&tenant=acme&nonce={nonce}"),
        format!("/v1/feed/head?tenant=umbrella&nonce={nonce}"),
        format!("/v1/feed/head?tenant=ACME&nonce={nonce}"),
        format!("/v1/feed/head?tenant=%ff%fe&nonce={nonce}"),
        "/v1/feed/head?tenant=acme&nonce=".to_owned(),
        "/v1/feed/head?tenant=acme&nonce=zz".to_owned(),
        format!("/v1/feed/head?tenant=acme&nonce={}", "a".repeat(30)),
        format!("/v1/feed/head?tenant=acme&nonce={}", "a".repeat(66)),
        format!("/v1/feed/head?tenant=acme&nonce={long}"),
        "/v1/feed?tenant=acme&nonce=00".to_owned(),
        format!("/v1/feed?tenant=acme&nonce={nonce}&nonce={nonce}"),
        "/v1/feed/tail?tenant=acme&epoch=1".to_owned(),
        "/v1/feed/tail?tenant=acme&epoch=1&from=0".to_owned(),
        "/v1/feed/tail?tenant=acme&epoch=-1&from=1".to_owned(),
        "/v1/feed/tail?tenant=acme&epoch=1&from=1e3".to_owned(),
        "/v1/feed/tail?tenant=acme&epoch=1&from=18446744073709551616".to_owned(),
        "/v1/feed/tail?tenant=acme&epoch=1&epoch=2&from=1".to_owned(),
        "/v1/feed/tail?tenant=umbrella&epoch=1&from=1".to_owned(),
    ];
    for target in queries {
        site.refuses(&Request::new("GET", &target), "a bad parameter").await;
    }
    // Numbers beyond anything there are no reason to fail.
    for target in ["/v1/feed/tail?tenant=acme&epoch=18446744073709551615&from=1", "/v1/feed/tail?tenant=acme&epoch=1&from=18446744073709551615"] {
        site.survives(&Request::new("GET", target), "a far number").await;
    }
    site.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_for_people_answer_nonsense_with_a_sentence() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let long = "a".repeat(20_000);
    let queries = [
        "",
        "?",
        "?code=x",
        "?state=x&code=y",
        "?state=x&state=y",
        "?error=access_denied&state=x",
        "?redirect_uri=https://evil.example/&code_challenge=x&state=y",
        "?%ff=%fe",
        &format!("?state={long}"),
    ];
    for page in PAGES {
        for query in queries {
            let answer = site.send(&Request::new("GET", format!("{page}{query}"))).await;
            let said = format!("{page}{}: {} {}", show(query.as_bytes()), answer.status, show(&answer.body));
            assert!(answer.status < 500, "{said}");
            assert!(*page == "/login" || (400..500).contains(&answer.status), "{said}");
            // Never on to where a stranger's parameter points.
            assert!(!answer.head.contains("evil.example"), "{said}");
            assert!(answer.status < 400 || !answer.body.is_empty(), "{said}");
        }
    }
    for body in ["", "code=x", "code=x&code=y&code_verifier=z", "code=x&code_verifier=%ff", "code=x&code_verifier=y", &format!("code={long}&code_verifier=y")] {
        let answer = site.send(&Request::new("POST", "/login/cli/token").header("content-type", "application/x-www-form-urlencoded").body(body)).await;
        assert!((400..500).contains(&answer.status), "{}: {} {}", show(body.as_bytes()), answer.status, show(&answer.body));
    }
    site.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_headers_and_broken_http_harm_nobody() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let address = site.authority.address();
    // Warm before it is weighed.
    site.is_well().await;
    let before = resident_kib(site.authority.pid());
    let secret = &site.sam.session().session;
    let odd: [&[u8]; 9] = [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer \xff\xfe",
        b"bearer x",
        b"Basic YTpi",
        b"Bearer x y",
        b"Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        &[b'A'; 30_000],
    ];
    for value in odd {
        let answer = site.refuses(&Request::new("GET", "/v1/me").header("authorization", value), "an odd authorization").await;
        assert_eq!(answer.status, 401);
    }
    // Of two sessions neither is taken for the other.
    let twice = Request::new("GET", "/v1/me").header("authorization", "Bearer x").session(secret);
    assert_eq!(site.refuses(&twice, "two authorizations, the first wrong").await.status, 401);
    let planted = Request::new("GET", "/v1/me").header("cookie", format!("procura_dev={secret}; procura_dev={secret}"));
    assert_eq!(site.refuses(&planted, "the session cookie twice").await.status, 401);
    let forged = site.refuses(&Request::new("GET", "/v1/me").header("x-request-id", "of-another"), "a request id from outside").await;
    assert_ne!(forged.json().unwrap()["request_id"], "of-another");
    for size in [100_000, 300_000, 2_000_000] {
        // Refused before there is a request: by the HTTP library, without a body.
        let answer = Request::new("GET", "/v1/me").header("x-long", vec![b'a'; size]).send(address).await;
        assert!(answer.is_none_or(|a| matches!(a.status, 401 | 431)), "a header of {size} bytes");
    }
    let many = (0..5_000).fold(Request::new("GET", "/v1/me"), |r, i| r.header(&format!("x-{i}"), "a"));
    assert!(many.send(address).await.is_none_or(|a| matches!(a.status, 401 | 431)), "5,000 headers");
    let target = Request::new("GET", format!("/v1/feed/head?x={}", "a".repeat(1_000_000)));
    assert!(target.send(address).await.is_none_or(|a| matches!(a.status, 400 | 414 | 431)), "a target of 1 MB");
    let broken: [&[u8]; 10] = [
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/card HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/card HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/card HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /v1/card HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    for bytes in broken {
        let mut bytes = bytes.to_vec();
        bytes.extend(b"\r\nconnection: close\r\n\r\n");
        let answer = tokio::time::timeout(PATIENCE / 10, raw::send_bytes(address, bytes.clone())).await;
        if let Ok(Some(answer)) = answer {
            assert!((400..506).contains(&answer.status) && answer.status != 500, "{}: {}", show(&bytes), answer.status);
        }
    }
    site.is_well().await;
    let after = resident_kib(site.authority.pid());
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} KiB after");
}

/// A refusal is a sentence, not an echo. In bytes, with its frame.
const LONGEST_SENTENCE: usize = 1024;
