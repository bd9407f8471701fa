//! What a decision costs, beside what no verifier can avoid (Ed25519) and beside the stock Biscuit library on the same tokens.
//!
//! `cargo bench -p procura-benches --bench verify [-- --quick]` prints a markdown table. All lines are measured in one run, a
//! sample of each in turn, so that a busy neighbour slows them alike: read the ratios. `--quick` only shows that it works.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench: a failure here is a failed run")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use ed25519_dalek::Signer as _;
use procura_tests::case::{At, Known, boot};
use procura_tests::fixtures::{AGENT, CHALLENGE, CallText, Held, NOW, NOW_SECS, block0, key, key_list, link_to, public, with_call};
use procura_tests::stock;
use procura_verifier::cache::TokenCache;
use procura_verifier::call::{Call, Seed};
use procura_verifier::claims::{Block0, Restriction};
use procura_verifier::decision::{Asked, Decision, ToolPolicy, decide};
use procura_verifier::feed::message::Item;
use procura_verifier::ids::Tid;
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::revocation::View;
use procura_verifier::token::{UnverifiedToken, mint};

const DEPTHS: [u8; 4] = [0, 1, 3, 5];

/// Bytes of the sealed token at each depth. A byte more is a hop less in an 8 KiB header: a changed number here wants a reason.
const SIZES: [usize; 4] = [1_160, 1_715, 2_825, 3_935];

/// One line of the table.
struct Line<'a> {
    what: &'static str,
    depth: u8,
    /// Bytes made or read.
    bytes: usize,
    /// How many Ed25519 verifications the format demands of it.
    signatures: u32,
    /// How many runs make a sample.
    batch: u32,
    run: Box<dyn FnMut() + 'a>,
    samples: Vec<Duration>,
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let (known, budget) = if quick { (1_000, Duration::from_secs(2)) } else { (1_000_000, Duration::from_secs(120)) };
    with_call(CallText::default(), |call| {
        let view = busy_view(known);
        let mut lines = lines(call, &view);
        let start = Instant::now();
        while start.elapsed() < budget {
            for line in &mut lines {
                let begun = Instant::now();
                (0..line.batch).for_each(|_| (line.run)());
                line.samples.push(begun.elapsed() / line.batch);
            }
        }
        print(&mut lines, known, quick);
    });
}

/// A fresh view of a verifier that knows `known` revoked tokens.
fn busy_view(known: u64) -> View {
    let view = Known { fresh_as_of: Some(NOW), ..Known::fresh() }.learnt(&"payments".parse().unwrap(), key_list(), NOW);
    for n in 0..known {
        let mut id = [0xee; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        view.apply(n + 1, &[(0, Item::Tid { tid: Tid::from_bytes(id), exp_secs: NOW_SECS + 3_600 })]);
    }
    view
}

/// A token with `depth` links, each with its card.
fn linked(depth: u8) -> Held {
    let roots = Block0 { depth: 8, ..block0() };
    (0..depth).fold(Held::mint(&roots), |held, n| held.link(&link_to(AGENT + n + 1, 7 - n), AGENT + n))
}

fn lines<'a>(call: &'a Call<'a>, view: &'a View) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let mut add = |what, depth, bytes, signatures, batch, run: Box<dyn FnMut() + 'a>| {
        lines.push(Line { what, depth, bytes, signatures, batch, run, samples: Vec::new() });
    };

    let message = vec![7_u8; 420];
    let signature = key(AGENT).sign(&message);
    let verifying = key(AGENT).verifying_key();
    add(RAW, 0, 420, 1, 1, Box::new(move || black_box(&verifying).verify_strict(black_box(&message), &signature).unwrap()));

    for (depth, size) in DEPTHS.into_iter().zip(SIZES) {
        let held = linked(depth);
        let sealed = held.seal();
        assert_eq!(sealed.len(), size, "bytes of the sealed token at depth {depth}");
        // Blocks, seal, and for each link the holder's signature and the card.
        let signatures = 2 + 3 * u32::from(depth);
        let last = AGENT + depth;
        let token: &'static [u8] = sealed.leak();
        let keys = key_list();
        let verified = UnverifiedToken::parse(token).unwrap().verify(&keys).unwrap();
        let proof = UnverifiedProof::sign(&key(last), verified.hash(), call, NOW, &CHALLENGE, [1; 16], Seed::from_bytes([2; 32]));
        let proven = proof.clone().verify(&public(last), verified.hash(), call).unwrap();
        let allowed = move |verified: &_, asked: Asked<'_>| {
            let decision = decide(verified, asked, &ToolPolicy::STRICT, view, &At(NOW), boot(NOW));
            assert!(matches!(black_box(decision), Decision::Allow(_)), "{decision:?}");
        };

        let holders: Vec<_> = (AGENT..=last).map(public).collect();
        let facts = stock::ambient(call, NOW, &holders);
        // The stock library knows nothing of cards: a signature less for each link.
        add(STOCK, depth, size, signatures - u32::from(depth), 1, {
            let root = stock::root();
            let facts = facts.clone();
            Box::new(move || {
                let token = biscuit_auth::Biscuit::from(black_box(token), root).unwrap();
                assert!(stock::allows(&token, &facts));
            })
        });
        add(COLD, depth, size, signatures, 1, {
            let (proven, keys) = (proven.clone(), keys.clone());
            Box::new(move || {
                let verified = UnverifiedToken::parse(black_box(token)).unwrap().verify(&keys).unwrap();
                allowed(&verified, Asked::Proven(proven.proven()));
            })
        });
        add(PARSE, depth, size, 0, 10, Box::new(move || drop(black_box(UnverifiedToken::parse(black_box(token)).unwrap()))));
        let cache = TokenCache::new(16);
        cache.insert(token, std::sync::Arc::new(verified.clone()));
        add(FOUND, depth, size, 0, 200, {
            let proven = proven.clone();
            Box::new(move || allowed(&*cache.find(black_box(token)).unwrap(), Asked::Proven(proven.proven())))
        });
        add(PROVEN, depth, size, 1, 1, {
            let verified = verified.clone();
            Box::new(move || {
                let proven = proof.clone().verify(verified.last_holder(), verified.hash(), call).unwrap();
                allowed(&verified, Asked::Proven(proven.proven()));
            })
        });
        add(WARM, depth, size, 0, 500, Box::new(move || allowed(&verified, Asked::Proven(proven.proven()))));

        let parsed = UnverifiedToken::parse(&held.0).unwrap();
        if depth == 0 {
            let (block, root) = (Block0 { depth: 8, ..block0() }, key(procura_tests::fixtures::ROOT));
            add(MINT, 0, held.0.len(), 0, 1, Box::new(move || drop(black_box(mint(&block, &root, [9; 32]).unwrap()))));
        }
        let (narrower, link) = ([Restriction::Until(NOW_SECS + 60)], link_to(last + 1, 7 - depth));
        let sizes = [parsed.narrow(&narrower, [99; 32]).unwrap().len(), parsed.link(&link, &key(last), [99; 32]).unwrap().len()];
        let (a, b) = (parsed.clone(), parsed.clone());
        add(NARROW, depth, sizes[0], 0, 1, Box::new(move || drop(black_box(a.narrow(&narrower, [99; 32]).unwrap()))));
        let holder = key(last);
        add(LINK, depth, sizes[1], 0, 1, Box::new(move || drop(black_box(b.link(&link, &holder, [99; 32]).unwrap()))));
        add(SEAL, depth, size, 0, 1, Box::new(move || drop(black_box(parsed.seal()))));
    }
    lines
}

fn print(lines: &mut [Line<'_>], known: u64, quick: bool) {
    let medians: Vec<f64> = lines
        .iter_mut()
        .map(|line| {
            line.samples.sort_unstable();
            line.samples[line.samples.len() / 2].as_secs_f64() * 1e6
        })
        .collect();
    let raw = medians[0];
    let stock = |depth| lines.iter().zip(&medians).find(|(l, _)| l.what == STOCK && l.depth == depth).map_or(f64::NAN, |(_, m)| *m);
    println!("{} samples of each line in turn, medians; {known} revoked ids in the view\n", lines[0].samples.len());
    println!("| what | depth | bytes | µs | × one Ed25519 | × its signatures | stock ÷ this |");
    println!("|---|---|---|---|---|---|---|");
    for (line, median) in lines.iter().zip(&medians) {
        let of_signatures = if line.signatures == 0 { "–".to_owned() } else { format!("{:.2}", median / raw / f64::from(line.signatures)) };
        let beside = if [COLD, PROVEN, WARM, FOUND].contains(&line.what) { format!("{:.1}", stock(line.depth) / median) } else { "–".to_owned() };
        println!("| {} | {} | {} | {median:.2} | {:.3} | {of_signatures} | {beside} |", line.what, line.depth, line.bytes, median / raw);
    }
    println!();
    for (what, worry) in WORRIES {
        println!("- {what}: {worry}");
    }
    if quick {
        println!("\n`--quick`: too few samples to keep.");
    }
}

const RAW: &str = "Ed25519 verify_strict, 420 B";
const STOCK: &str = "stock: Biscuit::from + authorize";
const COLD: &str = "cold: parse + verify + decide";
const PARSE: &str = "parse";
const FOUND: &str = "warm: cache + decide";
const PROVEN: &str = "warm: proof + decide";
const WARM: &str = "warm: decide";
const MINT: &str = "mint";
const NARROW: &str = "narrow";
const LINK: &str = "link";
const SEAL: &str = "seal";

const WORRIES: [(&str, &str); 11] = [
    (RAW, "above 60 µs the machine is too busy or the curve's fast backend is off: keep nothing of the run"),
    (STOCK, "below 1.1 × its signatures the stock library has learnt to batch, and our cold path is no longer ahead"),
    (COLD, "above 1.1 × its signatures we do more than the format demands"),
    (PARSE, "above half an Ed25519 verification a flood of malformed tokens costs more than one of forged ones"),
    (FOUND, "above 2 µs hashing the bytes costs more than deciding"),
    (PROVEN, "above 1.15 × one Ed25519 verification something beside the proof is slow"),
    (WARM, "above 1 µs at depth 0 or 2 µs at depth 5 a lock, a lookup or an allocation has crept in"),
    (MINT, "above 3 × one Ed25519 verification issuance is bound by more than its signature"),
    (NARROW, "growing faster than the token, it reads the chain more than once"),
    (LINK, "above narrowing and one signature, cards are read twice"),
    (SEAL, "above one signature and a copy of the token, something is parsed that need not be"),
];
