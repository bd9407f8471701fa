//! Feed, epoch, heartbeat and failover, checked exhaustively in small scope (`docs/design/feed-model.md`).
//!
//! `PROCURA_MODEL=large cargo test -p procura-tests --test model --release -- --nocapture` looks further.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod history;
mod system;
mod verifier;

use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model as _};
use system::{Broken, NOTICED, P4, Proof, STAYS, Scope, Standby};

const SYNC: Proof = Proof::Transaction(Standby::Synchronous);
const ASYNC: Proof = Proof::Transaction(Standby::Asynchronous);

fn scope(proof: Proof, items: u8, verifiers: u8, beats: u8, until: u8) -> Scope {
    Scope { proof, items, verifiers, beats, until, broken: None }
}

/// All of it, in every order: no counterexample, and each thing that should happen somewhere does.
fn holds(small: Scope, large: &[Scope]) {
    let all = std::env::var_os("PROCURA_MODEL").is_some_and(|v| v == "large");
    for scope in std::iter::once(&small).chain(large.iter().filter(|_| all)) {
        let began = Instant::now();
        let checker = scope.clone().checker().threads(2).spawn_bfs().join();
        println!("{} states, {} steps deep, {:.1} s, {scope:?}", checker.unique_state_count(), checker.max_depth(), began.elapsed().as_secs_f64());
        assert!(checker.is_done());
        checker.assert_properties();
    }
}

#[test]
fn a_head_in_memory_keeps_the_promise() {
    holds(scope(Proof::Memory, 1, 1, 2, 4), &[scope(Proof::Memory, 2, 1, 2, 3), scope(Proof::Memory, 1, 1, 3, 3), scope(Proof::Memory, 1, 2, 2, 3)]);
}

#[test]
fn beat_transactions_with_a_synchronous_standby_keep_the_promise() {
    holds(scope(SYNC, 1, 1, 2, 2), &[scope(SYNC, 1, 1, 2, 3), scope(SYNC, 2, 1, 1, 3), scope(SYNC, 2, 1, 2, 2)]);
}

#[test]
fn lost_commits_are_noticed_and_un_revoke_nothing() {
    holds(scope(ASYNC, 1, 1, 2, 2), &[scope(ASYNC, 1, 1, 2, 3), scope(ASYNC, 2, 1, 1, 3), scope(ASYNC, 2, 1, 2, 2), scope(ASYNC, 1, 2, 1, 2)]);
}

/// Each rule is needed: without it there is a way to break the promise, found in the same model.
fn needed(broken: Broken, scope: Scope, property: &'static str) {
    let checker = Scope { broken: Some(broken), ..scope }.checker().threads(2).finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let path =
        checker.discovery(property).unwrap_or_else(|| panic!("{broken:?}: no counterexample of `{property}` in {} states", checker.unique_state_count()));
    println!("{broken:?}: {} steps of {} states\n  {:?}", path.clone().into_actions().len(), checker.unique_state_count(), path.into_actions());
}

#[test]
fn without_any_one_rule_there_is_a_counterexample() {
    let least = |broken, proof| if broken == Broken::ClockAfterHead { scope(proof, 1, 1, 2, 2) } else { scope(proof, 1, 1, 1, 2) };
    for (broken, proof, property) in [
        (Broken::ClockAfterHead, Proof::Memory, P4),
        (Broken::ClockAfterHead, SYNC, P4),
        (Broken::NoMark, Proof::Memory, P4),
        (Broken::LateNonce, Proof::Memory, P4),
        (Broken::LateNonce, SYNC, P4),
        (Broken::MapAtArrival, Proof::Memory, P4),
        (Broken::MapAtArrival, SYNC, P4),
        (Broken::SignBeforeCommit, SYNC, P4),
        (Broken::StandbyBeats, ASYNC, P4),
        (Broken::OldPrimaryBeats, ASYNC, P4),
        (Broken::PublishBeforeApply, Proof::Memory, P4),
        (Broken::ForkForgets, ASYNC, STAYS),
        (Broken::GoneBackIsFine, ASYNC, NOTICED),
    ] {
        needed(broken, least(broken, proof), property);
    }
}
