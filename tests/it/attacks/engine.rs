//! The judgement has no engine: what it costs is bounded by the size of the token, whatever the token says.

use std::path::{Path, PathBuf};
use std::time::Instant;

use procura_tests::case::Case;
use procura_tests::fixtures::{AGENT, Held, ROOT, block0};
use procura_tests::forge::{Forged, block0_of, later_of, source};
use procura_verifier::token::UnverifiedToken;

/// In the verifier crate outside tests, biscuit-auth is its wire structs and nothing else: no Datalog can run.
#[test]
fn the_verifier_uses_the_wire_structs_of_biscuit_auth_and_not_its_engine() {
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../verifier/src"), &mut files);
    let mut uses = 0;
    for path in files {
        if path.file_name().is_some_and(|n| n == "tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().take_while(|l| !l.contains("#[cfg(test)]")) {
            if line.trim_start().starts_with("//") || !line.contains("biscuit_auth") {
                continue;
            }
            uses += 1;
            assert_eq!(line.trim(), "use biscuit_auth::format::schema;", "{}", path.display());
        }
    }
    assert!(uses > 0, "nothing was looked at");
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Less than a kilobyte of joins runs for seconds in the engine under a limit of one millisecond; reading it costs less than that.
#[test]
fn a_bomb_costs_no_more_than_its_bytes() {
    let held = Held::mint(&block0());
    let facts: String = (0..25).map(|n| format!("n({n});")).collect();
    let join = facts + "check if n($a), n($b), n($c), n($d), n($e), n($f), n($g), n($h), $a + $b + $c + $d + $e + $f + $g + $h == 10000";
    let bombs = [Forged::of(&held.0).append(later_of(&held.0, &join)).seal(), Forged::root(block0_of(&(source(&held.0, 0) + "\n" + &join)), ROOT).seal()];
    for bomb in bombs {
        let start = Instant::now();
        for _ in 0..1_000 {
            assert!(UnverifiedToken::parse(&bomb).is_err());
        }
        assert!(start.elapsed().as_millis() < 5_000, "1,000 refusals took {} ms", start.elapsed().as_millis());
    }
    assert!(Case::of(held.seal(), AGENT).judge().is_ok());
}
