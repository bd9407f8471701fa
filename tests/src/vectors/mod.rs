//! The vectors of `spec/vectors`, as code: what each law passes and refuses, and the forged tokens.
//!
//! Expectations are written by hand here, never taken from the verifier. Everything is a function of fixed keys and a fixed time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::case::{Case, Expect};
use crate::fixtures::{AGENT, Held, block0};

mod decisions;
pub mod feed;
mod links;
mod possession;
mod profile;
mod root;
mod views;

/// Where a forged token is stopped. Nothing before or in these stages is Datalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Reading the bytes.
    Parse,
    /// Checking the signatures.
    Signature,
    /// The decision.
    Decision,
}

/// A vector with its name, and for forged tokens where it must be stopped and its honest twin.
pub struct Entry {
    /// `L3/facts_in_a_later_block`.
    pub name: String,
    /// The vector.
    pub case: Case,
    /// For forged tokens: the stage, and the same presentation without the forgery, which passes.
    pub forged: Option<(Stage, Case)>,
}

/// Vectors of one law.
pub struct Law {
    law: &'static str,
    entries: Vec<Entry>,
}

impl Law {
    fn new(law: &'static str) -> Self {
        Self { law, entries: Vec::new() }
    }

    fn push(&mut self, name: &str, about: &str, mut case: Case, expect: Expect, forged: Option<(Stage, Case)>) {
        case.law = self.law.into();
        case.about = about.into();
        case.expect = expect;
        self.entries.push(Entry { name: format!("{}/{name}", self.law), case, forged });
    }

    /// A case that is allowed.
    fn pass(&mut self, name: &str, about: &str, case: Case) {
        self.push(name, about, case, Expect::allowed(), None);
    }

    /// A case that is refused with this cause.
    fn fail(&mut self, name: &str, about: &str, case: Case, cause: &str) {
        self.push(name, about, case, Expect::refused(cause), None);
    }

    /// A forged token beside its honest twin. `cause` is `malformed` at [`Stage::Parse`], `signature` at [`Stage::Signature`].
    fn forged(&mut self, name: &str, about: &str, stage: Stage, case: Case, twin: Case) {
        let cause = if stage == Stage::Parse { "malformed" } else { "signature" };
        self.push(name, about, case, Expect::refused(cause), Some((stage, twin)));
    }
}

/// Every vector.
pub fn all() -> Vec<Entry> {
    let laws = [
        root::l1(),
        root::l2(),
        profile::l3(),
        links::l4(),
        possession::l5(),
        views::l6(),
        views::l7(),
        decisions::l8(),
        decisions::l9(),
        profile::l10(),
        views::l11(),
    ];
    laws.into_iter().flat_map(|l| l.entries).collect()
}

/// The folder of the vectors.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors")
}

/// Every file of the folder as it should be: relative path to content.
pub fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in all() {
        let text = serde_json::to_string_pretty(&entry.case).unwrap() + "\n";
        assert!(files.insert(format!("{}.json", entry.name), text).is_none(), "two vectors are named {}", entry.name);
    }
    for (name, case) in feed::all() {
        let text = serde_json::to_string_pretty(&case).unwrap() + "\n";
        assert!(files.insert(name.clone(), text).is_none(), "two vectors are named {name}");
    }
    files
}

/// Every file of the folder as it is.
pub fn found() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder()).unwrap().to_str().unwrap().replace('\\', "/");
                found.insert(name, std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display())));
            }
        }
    }
    found
}

/// The honest presentation: the demo's token, sealed, with its holder's proof.
fn honest() -> Case {
    Case::of(held().seal(), AGENT)
}

fn held() -> Held {
    Held::mint(&block0())
}

/// The same presentation of other token bytes, with a new proof by the same agent.
fn presenting(token: Vec<u8>) -> Case {
    Case::of(token, AGENT)
}
