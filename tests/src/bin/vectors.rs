//! Writes `spec/vectors` anew. With `--check` it writes nothing and exits 1 if a file would change, appear or go.
#![allow(clippy::unwrap_used, reason = "a generator run by hand and by CI")]

use std::process::ExitCode;

use procura_tests::vectors::{files, folder, found};

fn main() -> ExitCode {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => {
            eprintln!("expected nothing or `--check`, got `{}`", other.join(" "));
            return ExitCode::FAILURE;
        }
    };
    let (wanted, found) = (files(), found());
    let stale: Vec<_> = found.keys().filter(|name| !wanted.contains_key(*name)).collect();
    let changed: Vec<_> = wanted.iter().filter(|(name, text)| found.get(*name) != Some(text)).collect();
    if check {
        for name in stale.iter().copied().chain(changed.iter().map(|(name, _)| *name)) {
            eprintln!("spec/vectors/{name} differs from what the generator writes: a changed byte is a protocol change and needs a version");
        }
        return if stale.is_empty() && changed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    for name in &stale {
        std::fs::remove_file(folder().join(name)).unwrap();
    }
    for (name, text) in &changed {
        let path = folder().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    println!("{} vectors, {} written, {} removed", wanted.len(), changed.len(), stale.len());
    ExitCode::SUCCESS
}
