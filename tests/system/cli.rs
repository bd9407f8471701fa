//! The command line as people and scripts meet it: exit codes, JSON, files, and help that shows how.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use procura_authority::demo::people::expect;
use procura_sdk::client::MintRequest;
use procura_verifier::claims::Restriction;
use procura_verifier::ids::{Clock as _, SystemClock};
use serde_json::Value;

use super::support::{Authority, beside_others, delegated, key, mint, procura, procura_fed, rng, text};

#[tokio::test(flavor = "multi_thread")]
async fn keygen_writes_a_key_for_its_owner_alone_and_never_over_another() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("bot.key");
    let out = file.to_str().unwrap();
    let made = procura(&["keygen", "--json", "--out", out]).await;
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let said: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = procura_authority::signer::file::read_key(&file).unwrap();
    assert_eq!(said["public_key"], procura_verifier::ids::Key::of(&written).to_string());
    let (bytes, private) = (std::fs::read(&file).unwrap(), hex::encode(written.to_bytes()));
    assert!(!text(&made.stdout).contains(&private) && !text(&made.stderr).contains(&private), "the private key is in the file only");

    let again = procura(&["keygen", "--out", out]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains(out), "{}", text(&again.stderr));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    std::os::unix::fs::symlink(scratch.path().join("elsewhere"), scratch.path().join("link.key")).unwrap();
    let linked = procura(&["keygen", "--out", scratch.path().join("link.key").to_str().unwrap()]).await;
    assert_eq!(linked.status.code(), Some(1), "through a link that somebody planted");
    assert!(!scratch.path().join("elsewhere").exists());
    let nowhere = procura(&["keygen", "--out", scratch.path().join("no/such/folder.key").to_str().unwrap()]).await;
    assert_eq!(nowhere.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_and_checked_by_exit_code_and_json() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::start(&scratch.path().join("authority")).await;
    let other = Authority::start(&scratch.path().join("other")).await;
    let alice = authority.person("alice").await;
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let token = mint(&authority, &bot, delegation).await;
    let ended = token.narrow(&[Restriction::Until(SystemClock.wall().secs() - 1)], &mut rng()).unwrap();
    let good = token.to_text();
    let (trust, others) = (authority.trust_path(), other.trust_path());
    let (trust, others) = (trust.to_str().unwrap(), others.to_str().unwrap());

    let shown = procura_fed(&["token", "inspect", "--json"], good.as_bytes()).await;
    assert_eq!(shown.status.code(), Some(0));
    let said: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert!(text(&shown.stdout).contains(&token.claims().claimed().tid.to_string()), "{said}");
    let words = procura_fed(&["token", "inspect"], format!("Bearer {good}\n").as_bytes()).await;
    assert_eq!(words.status.code(), Some(0));
    assert!(text(&words.stdout).starts_with("Not verified"), "{}", text(&words.stdout));

    let mut bent = good.clone().into_bytes();
    let middle = bent.len() / 2;
    bent[middle] = if bent[middle] == b'A' { b'B' } else { b'A' };
    let cases = [
        ("whole", good.clone(), trust, 0),
        ("sealed", token.seal().unwrap().authorization(), trust, 0),
        ("ended", ended.to_text(), trust, 1),
        ("another authority's", good.clone(), others, 1),
        ("bent", text(&bent), trust, 1),
        ("cut", good[..good.len() / 2].to_owned(), trust, 1),
        ("empty", String::new(), trust, 1),
        ("no base64", "{}".to_owned(), trust, 1),
        ("endless", "A".repeat(1_000_000), trust, 1),
    ];
    for (what, input, trust, code) in cases {
        let file = scratch.path().join("token");
        std::fs::write(&file, &input).unwrap();
        for args in [
            vec!["token", "verify", "--trust", trust],
            vec!["token", "verify", "--json", "--trust", trust],
            vec!["token", "verify", "--trust", trust, "--file", file.to_str().unwrap()],
        ] {
            let ran = procura_fed(&args, input.as_bytes()).await;
            let said = format!("{what}, {args:?}: {}{}", text(&ran.stdout), text(&ran.stderr));
            assert_eq!(ran.status.code(), Some(code), "{said}");
            assert!(!ran.stdout.is_empty() || !ran.stderr.is_empty(), "{said}");
            assert!(!said.contains("panicked"), "{said}");
            if args.contains(&"--json") && !ran.stdout.is_empty() {
                let verdict: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{said}: {e}"));
                assert_eq!(verdict["holds"], code == 0, "{said}");
            }
        }
    }
    // Whoever may end a token's life may not read its means to be extended from the process list: no argument takes it.
    assert_eq!(procura(&["token", "verify", "--trust", trust, &good]).await.status.code(), Some(2));
    let missing = procura_fed(&["token", "verify", "--trust", "/no/such/file"], good.as_bytes()).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/no/such/file"));
}

struct Audit {
    bundle: Vec<u8>,
    trust: PathBuf,
    others: PathBuf,
    scratch: tempfile::TempDir,
}

impl Audit {
    /// A log with one of everything that has no tool in it, exported from the authority while it runs and at rest.
    async fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut authority = Authority::start(&scratch.path().join("authority")).await;
        let other = Authority::start(&scratch.path().join("other")).await;
        let (alice, sam) = (authority.person("alice").await, authority.person("sam").await);
        let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
        mint(&authority, &bot, delegation).await;
        expect(alice.revoke("delegation", &delegation.to_string(), "done").await.unwrap()).unwrap();
        assert!(bot.at(&authority.http, &authority.url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await.is_err());
        sam.enrol("payments/1", &key(&mut rng())).await.unwrap();
        expect(sam.revoke("human", &alice.human(), "drill").await.unwrap()).unwrap();

        let running = authority.export("running.tar").await;
        let trust = scratch.path().join("auditor-trust.json");
        std::fs::copy(authority.trust_path(), &trust).unwrap();
        authority.kill().await;
        let at_rest = authority.export("rest.tar").await;
        let this = Self { bundle: std::fs::read(&running).unwrap(), trust, others: other.trust_path(), scratch };
        assert_eq!(this.replay(&this.trust, &std::fs::read(at_rest).unwrap()).await.0, 0, "an export at rest replays");
        this
    }

    /// Exit code and JSON of `procura log replay`.
    async fn replay(&self, trust: &Path, bundle: &[u8]) -> (i32, Value, String) {
        let file = self.scratch.path().join("bundle.tar");
        std::fs::write(&file, bundle).unwrap();
        let ran = procura(&["log", "replay", file.to_str().unwrap(), "--json", "--trust", trust.to_str().unwrap()]).await;
        let stderr = text(&ran.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        (ran.status.code().expect("an exit code"), serde_json::from_slice(&ran.stdout).unwrap_or_default(), stderr)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_says_by_exit_code_what_is_wrong_with_a_bundle() {
    let _machine = beside_others().await;
    let audit = Audit::start().await;
    let good = &audit.bundle;
    let (code, said, _) = audit.replay(&audit.trust, good).await;
    assert_eq!((code, &said["ok"]), (0, &Value::Bool(true)), "{said}");

    let at = |n: usize| good[..n].to_vec();
    let longer = [&good[..], &[0; 512]].concat();
    let container = [
        ("empty", at(0)),
        ("one byte", at(1)),
        ("cut in its first member", at(600)),
        ("cut in half", at(good.len() / 2)),
        ("cut before its end", at(good.len() - 512)),
        ("with a block more", longer),
        ("text", b"not a bundle".repeat(100)),
    ];
    for (what, bytes) in container {
        let (code, said, _) = audit.replay(&audit.trust, &bytes).await;
        assert_eq!((code, said["finding"]["class"].as_str()), (10, Some("container")), "{what}: {said}");
        assert!(said["sentence"].as_str().is_some_and(|s| !s.is_empty()), "{what}: {said}");
    }
    let (code, said, _) = audit.replay(&audit.others, good).await;
    assert_eq!((code, said["finding"]["class"].as_str()), (11, Some("signature")), "another authority's trust file: {said}");

    // A flipped byte anywhere: found, with a place. The in-process test flips every bit; here each exit code is the binary's.
    for i in 0..48 {
        let mut bytes = good.clone();
        let place = i * (good.len() - 1) / 47;
        bytes[place] ^= 1;
        let (code, said, _) = audit.replay(&audit.trust, &bytes).await;
        assert!((10..=16).contains(&code), "byte {place}: exit {code}, {said}");
        assert!(said["ok"] == false && !said["finding"]["place"].is_null(), "byte {place}: {said}");
    }

    // What is no finding about the bundle: exit 1 and a sentence.
    for (what, bytes) in [("empty", Vec::new()), ("no JSON", b"{".to_vec()), ("too long", vec![b' '; 100_000])] {
        let trust = audit.scratch.path().join("bad-trust.json");
        std::fs::write(&trust, bytes).unwrap();
        let (code, _, stderr) = audit.replay(&trust, good).await;
        assert!(code == 1 && stderr.contains("trust file"), "trust file {what}: exit {code}, {stderr}");
    }
    let missing = procura(&["log", "replay", "/no/such/bundle", "--trust", audit.trust.to_str().unwrap()]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/no/such/bundle"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_from_a_folder_that_is_none_makes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, out) = (scratch.path().join("empty"), scratch.path().join("out.tar"));
    std::fs::create_dir(&folder).unwrap();
    for (data, code) in [(folder.clone(), 3), (scratch.path().join("missing"), 1)] {
        let ran = procura(&["log", "export", "--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()]).await;
        // An empty folder may be of a `procura serve` that does not run.
        assert_eq!(ran.status.code(), Some(code), "{}", text(&ran.stderr));
        assert!(text(&ran.stderr).contains(data.to_str().unwrap()), "{}", text(&ran.stderr));
    }
    assert!(!out.exists());
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "looking at a folder leaves nothing in it");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_of_each_command_shows_an_example_and_what_is_unknown_is_refused() {
    let commands: [&[&str]; 8] =
        [&["demo"], &["dev"], &["keygen"], &["login"], &["log", "export"], &["log", "replay"], &["token", "inspect"], &["token", "verify"]];
    for command in commands {
        let ran = procura(&[command, &["--help"]].concat()).await;
        let said = text(&ran.stdout);
        assert_eq!(ran.status.code(), Some(0));
        assert!(said.contains(&format!("Example: procura {}", command.join(" "))), "{command:?}: {said}");
        // The flag that nobody knows is named, and nothing is done.
        let ran = procura(&[command, &["--unheard-of"]].concat()).await;
        assert_eq!(ran.status.code(), Some(2), "{command:?}");
        assert!(text(&ran.stderr).contains("--unheard-of"), "{command:?}");
    }
    let ran = procura(&["--help"]).await;
    assert!(!text(&ran.stdout).contains("sample-tool"), "hidden");
    assert_eq!(procura(&[]).await.status.code(), Some(2));
    assert_eq!(procura(&["conquer"]).await.status.code(), Some(2));
}
