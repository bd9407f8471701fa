//! Faults between real processes, one line each: revocations survived, late allows (0), seconds to full view.
//!
//! ```text
//! cargo build -p procura-authority --all-features --bin procura
//! cargo test -p procura-tests --all-features --test faults                     the bounded form
//! cargo test -p procura-tests --all-features --test faults -- --long           the whole
//! cargo test -p procura-tests --all-features --test faults -- 'black hole'     by name
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod channel;
mod fault;
mod load;
mod mangle;
mod namespace;
mod pair;
mod remint;
mod scene;
mod shared;
mod site;
mod standby;
#[allow(dead_code, unused_imports, reason = "the system tests use the rest")]
#[path = "../system/support/mod.rs"]
mod support;
mod twist;
mod watcher;
mod wire;

use std::process::ExitCode;
use std::time::Instant;

use fault::{FAULTS, Needs};
use scene::{Outcome, Scene};
use site::Site;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, ears, trust] = &args[..]
        && let Some(bound) = watcher::Bound::of(mode)
    {
        watcher::run(ears, trust, bound);
        return ExitCode::SUCCESS;
    }
    let long = args.iter().any(|a| a == "--long");
    // Other flags are the test runner's.
    let names: Vec<_> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<_> = FAULTS.iter().filter(|f| names.is_empty() || names.iter().any(|n| f.name.contains(n.as_str()))).collect();
    if args.iter().any(|a| a == "--list") {
        chosen.iter().for_each(|f| println!("{}: test", f.name));
        standby::LINES.iter().filter(|l| l.is_named(&names)).for_each(|l| println!("{}: test", l.name));
        return ExitCode::SUCCESS;
    }
    let standby: Vec<_> = standby::LINES.iter().filter(|l| l.is_named(&names)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&chosen, &standby, long))
}

async fn run(chosen: &[&fault::Fault], standby: &[&standby::Line], long: bool) -> ExitCode {
    let began = Instant::now();
    println!(
        "| fault | revocations survived | late allows | latest allow after commit, ms | stale denials | longest stale, ms | full view after, s |\n|---|---|---|---|---|---|---|"
    );
    let (mut failed, mut count) = (0, 0);
    // Starting what replicas share takes seconds.
    let mut kept: Option<Site> = None;
    for fault in chosen {
        let lasting = if long { fault.lasts.1 } else { fault.lasts.0 };
        if lasting.is_zero() {
            continue;
        }
        count += 1;
        let site = match kept.take_if(|_| fault.needs == Needs::Shared) {
            Some(site) => site,
            None => fault.needs.site().await,
        };
        let (outcome, site) = Scene::set(site, if long { 60 } else { 16 }, fault).await.run(fault, lasting).await;
        kept = site;
        failed += report(fault.name, &outcome);
    }
    drop(kept);
    for line in standby {
        count += 1;
        failed += report(line.name, &line.run(long).await);
    }
    println!("{count} faults, {failed} failed, {:.0} s", began.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a line; 1 if it failed.
fn report(name: &str, o: &Outcome) -> usize {
    let (view, latest, longest) = (o.full_view.as_secs_f64(), o.latest_ms, o.longest_stale.as_millis());
    println!("| {name} | {} | {} | {latest:.1} | {} | {longest} | {view:.2} |", o.revocations, o.late_allows, o.stale);
    for problem in &o.problems {
        println!("  FAILED: {problem}");
    }
    usize::from(!o.problems.is_empty())
}
