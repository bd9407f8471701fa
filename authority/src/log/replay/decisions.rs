//! Receipts: in order, by their verifier, and their verdicts derived again.

use std::collections::{HashMap, HashSet};

use procura_verifier::claims::Block0;
use procura_verifier::decision::{Cause, lineage};
use procura_verifier::denials::SignedDenials;
use procura_verifier::ids::{Key, UtcMillis, VerifierId};
use procura_verifier::key_list::KeyList;
use procura_verifier::proof::WINDOW_MS;
use procura_verifier::receipt::{Receipt, SignedReceipt};
use procura_verifier::revocation::Lookup;
use procura_verifier::token::{UnverifiedToken, VerifiedToken, block0_hash};
use procura_verifier::wire::Canonical as _;

use super::super::event;
use super::feed::Taken;

/// What the receipts so far have shown of each run of each verifier.
#[derive(Default)]
pub(super) struct Receipts {
    runs: HashMap<(VerifierId, [u8; 16]), Run>,
    /// Proofs spent, by holder and nonce: once in all, whoever allowed.
    spent: HashSet<(Key, [u8; 32])>,
    /// Denials as replay whose allow has not been seen: two calls at once may be recorded in either order.
    owed: Vec<Owed>,
}

struct Owed {
    leaf: u64,
    run: (VerifierId, [u8; 16]),
    number: u64,
    spent: (Key, [u8; 32]),
}

#[derive(Default)]
struct Run {
    receipts: u64,
    denials: u64,
}

/// The token of a receipt, verified again, and the hash of its block 0.
pub(super) fn reopen(receipt: &Receipt, keys: &KeyList) -> Result<(VerifiedToken, [u8; 32]), String> {
    let token = UnverifiedToken::parse(&receipt.token).map_err(|e| e.to_string())?;
    let verified = token.verify(keys).map_err(|e| e.to_string())?;
    Ok((verified, block0_hash(&token)))
}

impl Receipts {
    /// Opens a receipt: signed by the enrolled key, for the enrolled audience, the next of its run.
    pub(super) fn open(&mut self, verifier: &event::Verifier, bytes: &[u8]) -> Result<Receipt, String> {
        let signed = SignedReceipt::from_bytes(bytes).map_err(|e| e.to_string())?;
        let receipt = signed.open(&verifier.key).map_err(|e| e.to_string())?;
        if receipt.verifier != verifier.verifier || receipt.audience.as_str() != enrolled_audience(verifier) {
            return Err(format!(
                "receipt is of {} for {}, expected {} for {}",
                receipt.verifier,
                receipt.audience,
                verifier.verifier,
                enrolled_audience(verifier)
            ));
        }
        let run = self.runs.entry((receipt.verifier, receipt.run)).or_default();
        run.receipts += 1;
        if receipt.number != run.receipts {
            return Err(format!("receipt has number {}, expected {} of its run", receipt.number, run.receipts));
        }
        Ok(receipt)
    }

    /// Opens counts of denials, and says how many there were.
    pub(super) fn counts(&mut self, verifier: &event::Verifier, bytes: &[u8]) -> Result<u64, String> {
        let signed = SignedDenials::from_bytes(bytes).map_err(|e| e.to_string())?;
        let denials = signed.open(&verifier.key).map_err(|e| e.to_string())?;
        let run = self.runs.entry((denials.verifier, denials.run)).or_default();
        run.denials += 1;
        if denials.verifier != verifier.verifier || denials.number != run.denials {
            return Err(format!("counts have number {}, expected {} of their run", denials.number, run.denials));
        }
        Ok(denials.counts.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n)))
    }

    /// Derives the verdict again. What only the verifier's own state can give is compared with the evidence.
    ///
    /// `recorded` is place and time of the receipt's leaf: nothing that came after it can have been known.
    pub(super) fn judge(&mut self, receipt: &Receipt, token: &VerifiedToken, keys: &KeyList, taken: &Taken, recorded: (u64, UtcMillis)) -> Result<(), String> {
        let lineage = lineage(token);
        let upto = match &receipt.relied {
            None => (1, 0),
            Some(relied) => {
                // A head that this log never had: a fork, or an invention.
                let upto = taken.known_up_to((relied.epoch, relied.seq), &relied.hash).filter(|at| taken.is_logged_before(*at, recorded.0));
                upto.ok_or_else(|| format!("relies on number {} of epoch {}, which this feed does not have with that hash", relied.seq, relied.epoch))?
            }
        };
        let mut lookup = taken.lookup(&lineage, &receipt.audience, upto);
        if let Err(Cause::Revoked(by)) = receipt.verdict {
            // It may have heard more than the heartbeat it relied on: then the feed must say so.
            if !taken.bears_out(&lineage, &receipt.audience, by, recorded.0) {
                return Err(format!("denies as revoked by {} at feed seq {}, which the feed does not bear out", by.what.word(), by.seq));
            }
            lookup = Lookup::Revoked(by);
        }
        let (certain, possible) = if receipt.time.0 == 0 {
            // Without any authority time nobody can say what a window holds.
            (None, Vec::new())
        } else {
            taken.frozen(&lineage, &receipt.audience, receipt.time, (upto, recorded.0))
        };
        let frozen = match receipt.verdict {
            Err(Cause::Frozen { id }) if possible.contains(&id) => Some(id),
            Err(Cause::Frozen { id }) => return Err(format!("denies as frozen by {id}, which the feed does not bear out at {}", receipt.time)),
            _ => certain,
        };
        let derived = receipt.rederive(token, keys, lookup, frozen);
        let fits = match (derived, receipt.verdict) {
            (Ok(()), Ok(())) => {
                if lookup == Lookup::Behind {
                    return Err("allows a token of a generation that the feed had not reached".to_owned());
                }
                self.allow(receipt, token, taken, recorded.1)?;
                true
            }
            (Ok(()), Err(Cause::Replay)) => self.replay_fits(receipt, token, recorded.0),
            (Ok(()), Err(Cause::Stale | Cause::Budget | Cause::EngineLimit | Cause::Unavailable)) => true,
            // A generation that the feed had not reached comes before every other cause (law 11).
            (_, Err(Cause::Malformed)) if lookup == Lookup::Behind => true,
            (Ok(()), Err(Cause::Malformed)) => false,
            (Err(derived), Err(said)) => derived == said,
            _ => false,
        };
        let words = |v: Result<(), Cause>| v.map_or_else(|c| format!("denied: {c}"), |()| "allowed".to_owned());
        if fits { Ok(()) } else { Err(format!("says `{}`, and its own evidence says `{}`", words(receipt.verdict), words(derived))) }
    }

    fn allow(&mut self, receipt: &Receipt, token: &VerifiedToken, taken: &Taken, recorded: UtcMillis) -> Result<(), String> {
        let relied = receipt.relied.ok_or("allows without having known anything of revocations")?;
        // Law 7: no tool makes a token's bound longer, and none forgives all age where block 0 does not name that.
        let most = token.block0().freshness_ms;
        match receipt.mode.bound_ms() {
            Some(ms) if ms > most => return Err(format!("allows under a bound of {ms} ms, expected at most the token's {most} ms")),
            None if most != Block0::BEST_EFFORT_MS => return Err(format!("allows by best effort, expected a bound of at most the token's {most} ms")),
            _ => {}
        }
        // Authority time may run up to 2 s ahead of a heartbeat before it is doubted (law 7). It never falls, and 0 is none at all.
        if receipt.time.plus(CLOCK_SLACK_MS) < relied.utc || receipt.time > recorded.plus(CLOCK_SLACK_MS) {
            return Err(format!("allows at {}, on a heartbeat of {}, in a leaf of {recorded}", receipt.time, relied.utc));
        }
        // An authority that says *at t the head was n* has not begun number n + 1 before t.
        if let Some(next) = taken.went_on((relied.epoch, relied.seq)).filter(|next| relied.utc > next.plus(CLOCK_SLACK_MS)) {
            return Err(format!("allows on a heartbeat of {} with head {}, but the feed went on at {next}", relied.utc, relied.seq));
        }
        if let Some(ms) = receipt.mode.bound_ms()
            && receipt.time > relied.utc.plus(u64::from(ms)).plus(CLOCK_SLACK_MS)
        {
            return Err(format!("allows at {} on knowledge of {}, with a bound of {ms} ms", receipt.time, relied.utc));
        }
        let Some(proof) = &receipt.proof else { return Ok(()) };
        if proof.time.0.abs_diff(receipt.time.0) > WINDOW_MS || !proof.nonce.starts_with(&receipt.challenge) {
            return Err("allows a proof outside its window or for another challenge".to_owned());
        }
        if !self.spent.insert((*token.last_holder(), proof.nonce)) {
            return Err("allows a proof that was spent before".to_owned());
        }
        Ok(())
    }

    /// A denial as replay: spent before, outside the window, or for another challenge.
    fn replay_fits(&mut self, receipt: &Receipt, token: &VerifiedToken, index: u64) -> bool {
        let Some(proof) = &receipt.proof else { return false };
        let spent = (*token.last_holder(), proof.nonce);
        let fits = self.spent.contains(&spent) || proof.time.0.abs_diff(receipt.time.0) > WINDOW_MS || !proof.nonce.starts_with(&receipt.challenge);
        if !fits {
            self.owed.push(Owed { leaf: index, run: (receipt.verifier, receipt.run), number: receipt.number, spent });
        }
        true
    }

    /// The first denial as replay of a proof that was never spent, by its leaf. The last receipts of a run may still owe
    /// the allow: it was not delivered when the bundle was made.
    pub(super) fn unexplained(&self) -> Option<u64> {
        let ended = |o: &&Owed| self.runs.get(&o.run).is_some_and(|run| run.receipts >= o.number + OPEN_END);
        self.owed.iter().filter(ended).find(|o| !self.spent.contains(&o.spent)).map(|o| o.leaf)
    }
}

fn enrolled_audience(verifier: &event::Verifier) -> String {
    if verifier.instance.is_empty() { verifier.service.clone() } else { format!("{}/{}", verifier.service, verifier.instance) }
}

pub(super) const CLOCK_SLACK_MS: u64 = 2_000;
/// How many receipts later an allow made at the same moment stands in the log for certain.
const OPEN_END: u64 = 16;
