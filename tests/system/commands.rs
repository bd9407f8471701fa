//! What a person does with the command line alone, from the first sign-in to the replay of the log.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use procura_authority::demo::browser::sign_in_at;
use procura_authority::signer::file::read_key;
use procura_sdk::caller::Answered;
use procura_sdk::held::HeldToken;
use procura_verifier::ids::{Clock as _, SystemClock};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::support::{Authority, PATIENCE, Tool, beside_others, binary, path, procura, procura_fed, rng, text, wish};

/// A folder of somebody who types commands, signed in by them.
pub struct Desk {
    pub scratch: tempfile::TempDir,
    pub authority: Authority,
}

impl Desk {
    pub async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let authority = Authority::start(&scratch.path().join("authority")).await;
        Self { scratch, authority }
    }

    pub fn file(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn data(&self) -> &str {
        self.authority.data.to_str().unwrap()
    }

    /// `procura login` as a process, and a browser that follows its link.
    pub async fn login(&self, name: &str) -> String {
        let session = self.file(&format!("{name}.session"));
        let mut child = Command::new(binary())
            .args(["login", "--json", "--authority", &self.authority.url, "--session", &session])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a link").unwrap().expect("a line");
        let open: Value = serde_json::from_str(&line).unwrap();
        sign_in_at(open["open"].as_str().unwrap().parse().unwrap(), name).await.unwrap();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("signed in").unwrap().expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap();
        assert!(said["human"].as_str().unwrap().starts_with("hid_") && !line.contains("secret"), "{said}");
        assert!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
        session
    }

    /// An agent with its key in a file.
    pub async fn agent(&self, session: &str, name: &str) -> (String, String) {
        let file = self.file(&format!("{name}.key"));
        json(&["keygen", "--json", "--out", &file]).await;
        let made = json(&["agent", "create", "--json", "--name", name, "--key", &file, "--session", session]).await;
        (made["agent"].as_str().unwrap().to_owned(), file)
    }

    pub async fn delegate(&self, session: &str, agent: &str) -> String {
        let terms = ["--service", "payments", "--tool", "payments", "--action", "transfer", "--resource", "acct/eu/*", "--at-most", "amount=500.00EUR"];
        let rest = ["--ttl", "1h", "--depth", "2", "--session", session, "--json"];
        let granted = json(&[&["delegate", "--agent", agent][..], &terms, &rest].concat()).await;
        granted["delegation"].as_str().unwrap().to_owned()
    }

    pub async fn mint(&self, agent: &str, key: &str, delegation: &str) -> Output {
        procura(&["token", "mint", "--authority", &self.authority.url, "--agent", agent, "--key", key, "--delegation", delegation]).await
    }
}

/// A command that succeeds, and the JSON it prints.
pub async fn json(args: &[&str]) -> Value {
    let ran = procura(args).await;
    assert_eq!(ran.status.code(), Some(0), "{args:?}: {}", text(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&ran.stdout)))
}

/// The token that a command printed: on standard output and nothing else there.
fn token(ran: &Output) -> String {
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let said = text(&ran.stdout);
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_granted_narrowed_passed_on_used_and_explained() {
    let _machine = beside_others().await;
    let desk = Desk::new().await;
    let alice = desk.login("alice").await;
    let who = json(&["whoami", "--json", "--session", &alice]).await;
    let (bot, bot_key) = desk.agent(&alice, "invoice-bot").await;
    let (helper, helper_key) = desk.agent(&alice, "fx-helper").await;
    let grant = desk.delegate(&alice, &bot).await;
    let minted = token(&desk.mint(&bot, &bot_key, &grant).await);

    // Narrowed: the token alone on standard output, what is left of it for the person beside it.
    let ran = procura_fed(&["token", "attenuate", "--at-most", "amount=120.00EUR", "--for", "10m"], minted.as_bytes()).await;
    let narrow = token(&ran);
    assert!(text(&ran.stderr).contains("amount at most 120.00 EUR"), "{}", text(&ran.stderr));

    // Passed on by the helper's card.
    let card = procura(&["agent", "card", "--authority", &desk.authority.url, "--agent", &helper, "--key", &helper_key]).await;
    std::fs::write(desk.file("helper.card"), &card.stdout).unwrap();
    let card = desk.file("helper.card");
    let linking = ["token", "link", "--key", &bot_key, "--card", &card, "--resource", "acct/eu/7", "--tool", "payments", "--action", "transfer"];
    let ran = procura_fed(&linking, narrow.as_bytes()).await;
    let linked = token(&ran);
    assert!(text(&ran.stderr).contains(&format!("to {helper} with key")), "{}", text(&ran.stderr));

    let trust = desk.authority.trust_path();
    let trust = trust.to_str().unwrap();
    let said = procura_fed(&["token", "verify", "--trust", trust], linked.as_bytes()).await;
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stdout));
    let words = text(&procura_fed(&["token", "inspect"], linked.as_bytes()).await.stdout);
    let human = who["human"].as_str().unwrap();
    for (n, part) in [human, &grant, &bot, "narrowed", "120.00", &helper, "acct/eu/7", "not sealed"].iter().enumerate() {
        assert!(words.contains(part), "part {n} `{part}` in {words}");
    }
    let order: Vec<_> = [human, &grant, "which was narrowed", "which was passed on"].iter().map(|p| words.find(p)).collect();
    assert!(order.is_sorted(), "from the human to the holder: {words}");

    // At a tool: allowed within, denied beyond.
    let sam = desk.login("sam").await;
    let tool_key = desk.file("tool.key");
    json(&["keygen", "--json", "--out", &tool_key]).await;
    let enrolled = json(&["verifiers", "enroll", "--audience", "payments/1", "--key", &tool_key, "--session", &sam, "--json"]).await;
    let verifier = enrolled["verifier"].as_str().unwrap().parse().unwrap();
    let tool = Tool::start(Path::new(trust), desk.scratch.path(), &desk.authority.url, "payments/1", verifier, &read_key(Path::new(&tool_key)).unwrap()).await;
    let sealed = HeldToken::from_text(linked.trim()).unwrap().seal().unwrap();
    let holder = read_key(Path::new(&helper_key)).unwrap();
    for (minor, allowed) in [(11_999, true), (12_001, false)] {
        let wish = wish("acme", "acct/eu/7", minor);
        let answer = tool.instance.call(&path(&wish), &sealed, &holder, &wish, SystemClock.wall(), &mut rng()).await.unwrap();
        assert_eq!(matches!(answer, Answered::Done(_)), allowed, "{answer:?}");
    }

    // Receipts come by themselves; the tree shows what they show.
    let tree = tokio::time::timeout(PATIENCE, async {
        loop {
            let tree = json(&["delegations", "tree", "--json", "--session", &alice]).await;
            let link = &tree["delegations"][0]["tokens"][0]["links"][0];
            // The first call did not know the tool's challenge yet: one denial before the one beyond the limit.
            if link["allowed"] == 1 && link["denied"] == 2 {
                return tree;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("receipts are delivered");
    let shown = &tree["delegations"][0];
    assert_eq!((shown["delegation"].as_str(), shown["standing"].as_str()), (Some(&*grant), Some("live")));
    assert_eq!((shown["tokens"][0]["allowed"].as_u64(), shown["tokens"][0]["agent"].as_str()), (Some(0), Some(&*bot)));
    assert_eq!(shown["tokens"][0]["links"][0]["agent"].as_str(), Some(&*helper));
    let words = text(&procura(&["delegations", "tree", "--session", &alice]).await.stdout);
    assert!(words.contains("└─ ") && words.contains(&helper) && words.contains("1 allowed, 2 denied") && words.contains("left"), "{words}");
    let one = text(&procura(&["delegations", "show", &grant, "--session", &alice]).await.stdout);
    assert!(one.contains("500.00 EUR") && one.contains(&helper), "{one}");

    // Two decisions explained, from the authority and from a file: the denial is the last leaf.
    let last = shown["tokens"][0]["leaf_index"].as_u64().unwrap();
    let bundle = desk.file("bundle.tar");
    json(&["log", "export", "--data", desk.data(), "--out", &bundle, "--json"]).await;
    let from_file = json(&["log", "explain", &last.to_string(), "--bundle", &bundle, "--trust", trust, "--json"]).await;
    let from_server = json(&["log", "explain", &last.to_string(), "--data", desk.data(), "--json"]).await;
    assert_eq!(from_file, from_server);
    let id = from_file["decision"].as_str().unwrap();
    assert_eq!(json(&["log", "explain", id, "--bundle", &bundle, "--trust", trust, "--json"]).await, from_file, "by its id");
    assert!(from_file["allowed"] == false && from_file["cause"].as_str().unwrap().contains("limit"), "{from_file}");
    let words = text(&procura(&["log", "explain", id, "--bundle", &bundle, "--trust", trust]).await.stdout);
    for part in ["DENIED", human, &grant, "minted", "narrowed it: ", "passed it on", &helper, "amount 120.01 EUR", "payments/1"] {
        assert!(words.contains(part), "`{part}` in {words}");
    }
    assert!(!words.contains('\x1b'), "no colours into a pipe");
    let nothing = procura(&["log", "explain", "0", "--bundle", &bundle, "--trust", trust]).await;
    assert_eq!(nothing.status.code(), Some(1), "{}", text(&nothing.stdout));

    // The checkpoint is the log's, and another authority's anchors vouch for none of it.
    let signed = json(&["log", "checkpoint", "--data", desk.data(), "--json"]).await;
    assert!(signed["verified"]["size"].as_u64().unwrap() > last, "{signed}");
    let other = Authority::start(&desk.scratch.path().join("other")).await;
    let foreign = procura(&["log", "checkpoint", "--data", desk.data(), "--trust", other.trust_path().to_str().unwrap()]).await;
    assert_eq!(foreign.status.code(), Some(1), "{}{}", text(&foreign.stdout), text(&foreign.stderr));

    // Taken back: nothing is minted any more, and the whole replays.
    let revoked = json(&["revoke", "delegation", &grant, "--reason", "done", "--wait", "--json", "--session", &alice]).await;
    assert_eq!(revoked["coverage"]["confirmed"], 1, "{revoked}");
    assert_eq!(desk.mint(&bot, &bot_key, &grant).await.status.code(), Some(1));
    json(&["log", "export", "--data", desk.data(), "--out", &bundle, "--json"]).await;
    let replayed = json(&["log", "replay", &bundle, "--trust", trust, "--json"]).await;
    assert!(replayed["summary"]["decisions"].as_u64().unwrap() >= 2, "{replayed}");
    assert_eq!(json(&["logout", "--json", "--session", &alice]).await["signed_out"], true);
    assert_eq!(procura(&["whoami", "--session", &alice]).await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_life_from_its_first_key_to_its_retirement() {
    let _machine = beside_others().await;
    let desk = Desk::new().await;
    let (alice, sam) = (desk.login("alice").await, desk.login("sam").await);
    let (bot, first) = desk.agent(&alice, "invoice-bot").await;
    let grant = desk.delegate(&alice, &bot).await;
    let [next, third] = ["next.key", "third.key"].map(|n| desk.file(n));
    for file in [&next, &third] {
        json(&["keygen", "--json", "--out", file]).await;
    }
    let with = async |key: &str| desk.mint(&bot, key, &grant).await;
    let minted = |ran: Output| ran.status.code() == Some(0);

    // Both keys hold, until the first one's end: two seconds.
    let rotated = json(&["agent", "rotate-key", &bot, "--key", &next, "--overlap", "2s", "--json", "--session", &alice]).await;
    assert_eq!(rotated["replaces"].as_array().unwrap().len(), 1);
    assert!(minted(with(&next).await));
    let shown = json(&["agent", "show", &bot, "--json", "--session", &alice]).await;
    assert_eq!(shown["keys"].as_array().unwrap().len(), 2);
    tokio::time::timeout(PATIENCE, async {
        loop {
            let shown = json(&["agent", "show", &bot, "--json", "--session", &alice]).await;
            let revoked = shown["keys"].as_array().unwrap().iter().filter(|k| k["state"] == "revoked").count();
            if revoked == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the overlap ends by itself");
    assert!(!minted(with(&first).await) && minted(with(&next).await));
    json(&["agent", "rotate-key", &bot, "--key", &third, "--now", "--json", "--session", &alice]).await;
    assert!(!minted(with(&next).await) && minted(with(&third).await), "at once");

    // Suspended by security: its owner cannot lift it. Suspended by the owner: the owner can.
    let token = text(&with(&third).await.stdout);
    json(&["agent", "suspend", &bot, "--reason", "odd calls", "--json", "--session", &sam]).await;
    assert!(!minted(with(&third).await));
    let refused = procura(&["agent", "resume", &bot, "--reason", "please", "--session", &alice]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("somebody else"), "{}", text(&refused.stderr));
    let resumed = json(&["agent", "resume", &bot, "--reason", "explained", "--json", "--session", &sam]).await;
    assert_eq!(resumed["waiting"][0]["delegation"].as_str(), Some(&*grant));
    assert!(!minted(with(&third).await), "the delegator has not said so yet");
    let confirmed = json(&["delegations", "confirm", &grant, "--json", "--session", &alice]).await;
    assert_eq!(confirmed["version"], 2);
    let anew = with(&third).await;
    let generation = |t: &str| HeldToken::from_text(t.trim()).unwrap().claims().claimed().generations.agent;
    assert_eq!((generation(&token), generation(&text(&anew.stdout))), (0, 1), "the old token stays below the floor");

    json(&["agent", "suspend", &bot, "--reason", "lunch", "--json", "--session", &alice]).await;
    json(&["agent", "resume", &bot, "--reason", "back", "--json", "--session", &alice]).await;
    let said = procura(&["agent", "retire", &bot, "--reason", "replaced", "--session", &alice]).await;
    assert!(said.status.success() && text(&said.stdout).contains("for ever"), "{}", text(&said.stdout));
    assert_eq!(procura(&["agent", "resume", &bot, "--reason", "no", "--session", &sam]).await.status.code(), Some(1));
    let shown = text(&procura(&["agent", "show", &bot, "--session", &alice]).await.stdout);
    assert!(shown.contains("retired") && !shown.contains("live"), "{shown}");
    assert!(text(&procura(&["agent", "list", "--session", &alice]).await.stdout).contains("retired"));

    let bundle = desk.file("bundle.tar");
    json(&["log", "export", "--data", desk.data(), "--out", &bundle, "--json"]).await;
    let trust = desk.authority.trust_path();
    let replayed = json(&["log", "replay", &bundle, "--trust", trust.to_str().unwrap(), "--json"]).await;
    assert_eq!(replayed["ok"], true, "{replayed}");
}

/// `--data` asks whoever runs there, and opens the folder itself where nobody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_asked_over_its_socket_or_opened_where_nobody_runs() {
    let _machine = beside_others().await;
    let mut desk = Desk::new().await;
    let alice = desk.login("alice").await;
    let (bot, bot_key) = desk.agent(&alice, "invoice-bot").await;
    let grant = desk.delegate(&alice, &bot).await;
    assert!(desk.mint(&bot, &bot_key, &grant).await.status.success());
    let data = desk.data().to_owned();
    assert_eq!(json(&["whoami", "--json", "--data", &data]).await["principal"], "local-operator");
    desk.authority.kill().await;

    assert_eq!(json(&["whoami", "--json", "--data", &data]).await["principal"], "local-operator");
    assert_eq!(json(&["agent", "show", &bot, "--json", "--data", &data]).await["state"], "active");
    let revoked = json(&["revoke", "delegation", &grant, "--reason", "while nobody runs", "--json", "--data", &data]).await;
    assert!(revoked["feed_seq"].as_u64().is_some(), "{revoked}");
    assert_eq!(json(&["delegations", "show", &grant, "--json", "--data", &data]).await["standing"], "revoked");
    json(&["agent", "suspend", &bot, "--reason", "while nobody runs", "--json", "--data", &data]).await;
    assert!(json(&["log", "checkpoint", "--json", "--data", &data]).await["verified"]["size"].as_u64().is_some());
    // A person's session has nobody to ask.
    let nobody = procura(&["whoami", "--json", "--session", &alice]).await;
    assert_eq!(nobody.status.code(), Some(3));
    let said: Value = serde_json::from_slice(&nobody.stderr).expect("one line of JSON");
    assert_eq!(said["code"], "unavailable", "{said}");

    // It holds after the next start, for everybody.
    let again = Authority::start_at(Path::new(&data), desk.authority.address()).await;
    let shown = json(&["delegations", "show", &grant, "--json", "--session", &alice]).await;
    assert_eq!((shown["standing"].as_str(), shown["agent_state"].as_str()), (Some("revoked"), Some("suspended")));
    assert_eq!(desk.mint(&bot, &bot_key, &grant).await.status.code(), Some(1));
    drop(again);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_name_the_commands_in_each_shells_words() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef procura"), ("fish", "complete -c procura")] {
        let ran = procura(&["completions", shell]).await;
        let script = text(&ran.stdout);
        assert_eq!(ran.status.code(), Some(0));
        assert!(script.contains(mark) && script.contains("rotate-key") && script.contains("attenuate"), "{shell}");
    }
    let said = json(&["completions", "bash", "--json"]).await;
    assert!(said["script"].as_str().is_some_and(|s| s.contains("rotate-key")));
    assert_eq!(procura(&["completions", "dos"]).await.status.code(), Some(2));
    // What bash reads is a script.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &procura(&["completions", "bash"]).await.stdout).unwrap();
    let checked = Command::new("bash").arg("-n").arg(PathBuf::from(file.path())).output().await.unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}
