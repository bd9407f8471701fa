//! The outbox against an authority that takes records in order, and that is restored from backups.

use std::collections::HashMap;

use procura_verifier::decision::Mode;
use procura_verifier::denials::SignedDenials;
use procura_verifier::receipt::Receipt;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const RUN: [u8; 16] = [1; 16];

fn signer() -> Signer {
    Signer { verifier: VerifierId::from_bytes([5; 16]), key: SigningKey::from_bytes(&[11; 32]) }
}

/// The `what`-th decision: its number in the run aside, what stands in the log of it.
fn push(queue: &mut Queue, what: u64) {
    let (run, number) = queue.next_receipt();
    let receipt = Receipt {
        verifier: signer().verifier,
        run,
        number,
        challenge: [7; 16],
        tenant: "acme".parse().unwrap(),
        audience: "payments/1".parse().unwrap(),
        token: vec![],
        proof: None,
        tool: "payments".parse().unwrap(),
        action: "transfer".parse().unwrap(),
        resource: "acct/7".parse().unwrap(),
        data_class: Default::default(),
        args: vec![],
        time: UtcMillis(what),
        mode: Mode::Strict { ms: 150 },
        verdict: Ok(()),
        relied: None,
        key_list_version: 1,
    };
    queue.push(BASE64.encode(receipt.sign(&signer().key).to_bytes()));
}

/// What the authority has: of each run of receipts what they are of, of each run of counts how many.
#[derive(Default, Clone)]
struct Log {
    receipts: HashMap<[u8; 16], Vec<u64>>,
    counted: HashMap<[u8; 16], Vec<u64>>,
}

impl Log {
    /// As `usecase::receipts` does: in order, and what is known is known.
    fn take(&mut self, parcel: &Parcel) -> Result<(), ()> {
        let enter = |of: &mut HashMap<[u8; 16], Vec<u64>>, run, number: u64, what| {
            let at = usize::try_from(number).unwrap() - 1;
            let known = of.get(&run).map_or(&[][..], Vec::as_slice);
            match known.get(at) {
                Some(known) if *known == what => Ok(()),
                None if at == known.len() => {
                    of.entry(run).or_default().push(what);
                    Ok(())
                }
                _ => Err(()),
            }
        };
        let key = procura_verifier::ids::Key::of(&signer().key);
        for text in &parcel.receipts {
            let signed = SignedReceipt::from_bytes(&BASE64.decode(text).unwrap()).unwrap();
            let r = signed.claimed().unwrap();
            // Of some, for time's sake.
            assert!(r.number % 16 != 1 || signed.open(&key).is_ok());
            enter(&mut self.receipts, r.run, r.number, r.time.0)?;
        }
        for text in &parcel.denials {
            let d = SignedDenials::from_bytes(&BASE64.decode(text).unwrap()).unwrap().open(&key).unwrap();
            enter(&mut self.counted, d.run, d.number, d.counts[0].1)?;
        }
        Ok(())
    }

    /// One delivery; false when there is nothing to deliver.
    fn visit(&mut self, queue: &mut Queue) -> bool {
        let Some(parcel) = queue.parcel(&signer(), UtcMillis(0)) else { return false };
        match self.take(&parcel) {
            Ok(()) => queue.taken(parcel),
            Err(()) => queue.broken(&parcel),
        }
        true
    }

    fn all(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.receipts.values().flatten().copied().collect();
        all.sort_unstable();
        all
    }
}

#[test]
fn what_a_restored_backup_lost_is_delivered_again() {
    let (mut queue, mut log) = (Queue::of_run(RUN), Log::default());
    (0..100).for_each(|n| push(&mut queue, n));
    while log.visit(&mut queue) {}
    let backup = log.clone();
    (100..300).for_each(|n| push(&mut queue, n));
    while log.visit(&mut queue) {}
    assert!(queue.is_empty());

    // Found by the gap before the next receipt.
    log = backup.clone();
    push(&mut queue, 300);
    for _ in 0..10 {
        log.visit(&mut queue);
    }
    assert!(queue.is_empty());
    assert_eq!(log.receipts, HashMap::from([(RUN, (0..301).collect())]));

    // Found by the feed: before anything else happens.
    log = backup;
    queue.deliver_again();
    while log.visit(&mut queue) {}
    assert_eq!(log.receipts, HashMap::from([(RUN, (0..301).collect())]));
}

#[test]
fn a_gap_that_cannot_be_closed_ends_the_run_and_the_next_one_says_how_many_are_lost() {
    let (mut queue, mut log) = (Queue::of_run(RUN), Log::default());
    let many = MAX_KEPT as u64 + 500;
    (0..many).for_each(|n| push(&mut queue, n));
    while log.visit(&mut queue) {}
    log = Log { receipts: HashMap::from([(RUN, (0..100).collect())]), ..Log::default() };
    push(&mut queue, many);
    for _ in 0..40 {
        log.visit(&mut queue);
    }
    assert!(queue.is_empty(), "the tool goes on");
    // 400 are in neither: the log's 100 are followed by a run that follows 500.
    let next = run_after(RUN, 500);
    assert_eq!(log.receipts, HashMap::from([(RUN, (0..100).collect()), (next, (500..=many).collect())]));
    push(&mut queue, many + 1);
    log.visit(&mut queue);
    assert_eq!((queue.is_empty(), log.receipts[&next].len()), (true, MAX_KEPT + 2));
}

#[test]
fn counts_and_receipts_do_not_wait_for_each_others_gaps() {
    let (mut queue, mut log) = (Queue::of_run(RUN), Log::default());
    for n in 0..3 {
        push(&mut queue, n);
        queue.count(Cause::Malformed);
        while log.visit(&mut queue) {}
    }
    // The counts are lost, the receipts are not.
    log.counted.clear();
    queue.count(Cause::Malformed);
    push(&mut queue, 3);
    for _ in 0..6 {
        log.visit(&mut queue);
    }
    assert!(queue.is_empty());
    assert_eq!((log.receipts[&RUN].as_slice(), &log.counted), ([0, 1, 2, 3].as_slice(), &HashMap::from([(run_after(RUN, 3), vec![1])])));
}

#[test]
fn an_authority_that_always_finds_a_gap_costs_a_run_each_time_and_nothing_else() {
    let (mut queue, mut log) = (Queue::of_run(RUN), Log::default());
    (0..100).for_each(|n| push(&mut queue, n));
    for _ in 0..20 {
        let parcel = queue.parcel(&signer(), UtcMillis(0)).unwrap();
        queue.broken(&parcel);
    }
    assert_eq!(queue.waiting(), 100);
    while log.visit(&mut queue) {}
    assert_eq!((log.all(), log.receipts.len()), ((0..100).collect(), 1));
    // One that takes some, and then contradicts itself.
    (100..300).for_each(|n| push(&mut queue, n));
    log.visit(&mut queue);
    for _ in 0..20 {
        if let Some(parcel) = queue.parcel(&signer(), UtcMillis(0)) {
            queue.broken(&parcel);
        }
        log.visit(&mut queue);
    }
    while log.visit(&mut queue) {}
    let all = log.all();
    assert!((0..300).all(|n| all.contains(&n)));
}

/// Whatever the order of decisions, deliveries and restored backups: each run is whole, nothing stands twice, and nothing is
/// lost that was not acknowledged.
#[test]
fn restored_again_and_again_it_loses_only_what_was_acknowledged_long_ago() {
    for seed in 30..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut queue, mut log, mut next) = (Queue::of_run(RUN), Log::default(), 0);
        let (mut backup, mut at_risk) = (log.clone(), 0);
        for _ in 0..60 {
            match rng.random_range(0..10) {
                0..4 => {
                    for _ in 0..rng.random_range(1..90) {
                        push(&mut queue, next);
                        next += 1;
                    }
                }
                4..8 => _ = log.visit(&mut queue),
                8 => backup = log.clone(),
                _ => {
                    // What was lost and is no longer kept.
                    at_risk += log.all().len().saturating_sub(backup.all().len()).saturating_sub(MAX_KEPT);
                    log = backup.clone();
                    if rng.random() {
                        queue.deliver_again();
                    }
                }
            }
        }
        push(&mut queue, next);
        for _ in 0..400 {
            log.visit(&mut queue);
        }
        assert!(queue.is_empty(), "seed {seed}");
        let all = log.all();
        assert!(all.windows(2).all(|w| w[0] < w[1]), "seed {seed}: twice");
        let lost = (0..=next).filter(|n| all.binary_search(n).is_err()).count();
        assert!(lost <= at_risk, "seed {seed}: {lost} lost, {at_risk} expected at most");
    }
}
