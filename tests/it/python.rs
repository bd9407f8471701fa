//! biscuit-python (PyPI) as a third judge: a library that we neither wrote nor link gives the same verdict on scope, limits and TTL.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use procura_tests::fixtures::{ROOT, STRANGER, key_list, public};
use procura_tests::random::{asked, rng, token};
use procura_verifier::claims::Restriction;
use procura_verifier::decision::{in_time, within};
use procura_verifier::token::UnverifiedToken;

/// `PROCURA_PYTHON`, or the virtual environment that `scripts/test` makes. Missing is a failure, not a skip.
fn python() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let python = std::env::var_os("PROCURA_PYTHON").map_or_else(|| target.join("venv/bin/python"), PathBuf::from);
    assert!(python.exists(), "{} is missing: run `scripts/test`, which installs biscuit-python there", python.display());
    python
}

#[test]
fn biscuit_python_comes_to_the_same_verdict() {
    let mut r = rng(8);
    let (mut requests, mut ours) = (String::new(), Vec::new());
    for _ in 0..40 {
        let token = token(&mut r);
        let sealed = token.held.seal();
        let verified = UnverifiedToken::parse(&sealed).unwrap().verify(&key_list()).unwrap();
        for _ in 0..10 {
            let asked = asked(&mut r, &token);
            let (last, before) = token.holders.split_last().unwrap();
            let signer = if asked.signed_by_last { *last } else { STRANGER };
            let service = asked.audience.service();
            let listed = |r: &Restriction| !matches!(r, Restriction::Audiences(a) if !a.contains(service));
            let addressed = asked.tenant == token.block0.tenant && token.block0.audiences.contains(service) && token.restrictions.iter().all(listed);
            ours.push(addressed && asked.signed_by_last && within(&verified, &asked.call()).is_ok() && in_time(&verified, asked.now).is_ok());
            let request = serde_json::json!({
                "token": BASE64_URL_SAFE.encode(&sealed),
                "root": public(ROOT).to_string(),
                "now_secs": asked.now.secs(),
                "tenant": asked.tenant,
                "service": service,
                "tool": asked.tool,
                "action": asked.action,
                "resource": asked.resource.segments(),
                "data_class": asked.data_class as u8,
                "args": asked.args.to_json(),
                "holders": before.iter().chain([&signer]).map(|n| public(*n).to_string()).collect::<Vec<_>>(),
            });
            requests += &(request.to_string() + "\n");
        }
    }
    let theirs = ask(&requests);
    assert_eq!(theirs.len(), ours.len(), "an answer for each request");
    for (i, (line, ours)) in theirs.iter().zip(&ours).enumerate() {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["allowed"], *ours, "{answer}\n{}", requests.lines().nth(i).unwrap());
    }
    let allowed = ours.iter().filter(|o| **o).count();
    println!("{} verdicts, {allowed} allows", ours.len());
    assert!((40..=60).contains(&(allowed * 100 / ours.len())), "{allowed} allows of {}: out of balance", ours.len());
}

fn ask(requests: &str) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/read_token.py");
    let mut child = Command::new(python()).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
    let mut stdin = child.stdin.take().unwrap();
    let requests = requests.to_owned();
    // Both pipes are bounded: one thread writes while this one reads.
    let writer = std::thread::spawn(move || stdin.write_all(requests.as_bytes()));
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "read_token.py failed");
    writer.join().unwrap().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}
