//! Who was told of a revocation: retired verifiers, answers to those who waited, drills.

use std::collections::{HashMap, HashSet};

use procura_verifier::feed::ack::{Ack, Signed};
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{DelegationId, HumanId, Tid, VerifierId};
use procura_verifier::wire::Canonical as _;

use super::super::event::{self, Standing};
use super::super::leaf::OpenedLeaf;
use super::feed::Taken;

/// What the log has said so far of those who listen.
#[derive(Default)]
pub(super) struct Watched {
    retired: HashSet<VerifierId>,
    canaries: HashSet<HumanId>,
    /// The answer that is being read: its last leaf, and the counts of its parts so far.
    open: Option<(u64, event::Coverage, Counts)>,
    /// Whole answers by revocation: the newest.
    answers: HashMap<u64, event::Coverage>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    confirmed: u64,
    fenced: u64,
    not_covered: u64,
}

impl Watched {
    pub(super) fn is_in_force(&self, id: VerifierId) -> bool {
        !self.retired.contains(&id)
    }

    pub(super) fn is_canary(&self, human: HumanId) -> bool {
        self.canaries.contains(&human)
    }

    /// False if it was drawn before.
    pub(super) fn canary(&mut self, human: HumanId) -> bool {
        self.canaries.insert(human)
    }

    pub(super) fn retire(&mut self, e: &event::VerifierRetired, enrolled: &HashMap<VerifierId, event::Verifier>) -> Result<(), String> {
        if enrolled.contains_key(&e.verifier) && self.retired.insert(e.verifier) {
            Ok(())
        } else {
            Err(format!("{} is retired twice, or was never enrolled", e.verifier))
        }
    }

    /// One part of an answer: of a revocation that stands before it, with the word of each who is said to have confirmed.
    pub(super) fn coverage(
        &mut self,
        e: &event::Coverage,
        index: u64,
        taken: &Taken,
        enrolled: &HashMap<VerifierId, event::Verifier>,
        leaf: &OpenedLeaf,
    ) -> Result<(), String> {
        if e.revocation >= index || taken.place_of(e.revocation) != Some((e.epoch, e.seq)) {
            return Err(format!("answers about leaf {} with number {}, which is not its feed message", e.revocation, e.seq));
        }
        let mut counts = match self.open.take() {
            None if e.part == 0 => Counts::default(),
            Some((last, before, counts)) if last + 1 == index && before.revocation == e.revocation && before.part + 1 == e.part && before.parts == e.parts => {
                counts
            }
            _ => return Err(format!("part {} of an answer does not follow the one before", e.part)),
        };
        for v in &e.verifiers {
            let named = enrolled.get(&v.verifier).filter(|_| self.is_in_force(v.verifier));
            let named = named.ok_or_else(|| format!("names {}, which is not enrolled, or retired", v.verifier))?;
            match &v.standing {
                Standing::Confirmed { ack, .. } => {
                    let said = Signed::<Ack>::from_bytes(&ack.0).and_then(|a| a.open(&named.key)).map_err(|e| e.to_string())?;
                    let whose = said.verifier == v.verifier && v.run.as_ref().is_some_and(|r| r.0 == said.run) && said.tenant == leaf.tenant;
                    let is_ours = taken.hash((said.epoch, said.seq)) == Some(&said.hash);
                    if !whose || !is_ours || (said.epoch, said.seq) < (e.epoch, e.seq) {
                        return Err(format!("{} is said to have confirmed number {}, and its own word says number {}", v.verifier, e.seq, said.seq));
                    }
                    counts.confirmed += 1;
                }
                Standing::Fenced { bound_ms } => {
                    if *bound_ms > e.waited_ms {
                        return Err(format!("{} is presumed to deny after {} ms, and its bound is {bound_ms} ms", v.verifier, e.waited_ms));
                    }
                    counts.fenced += 1;
                }
                Standing::NotCovered { .. } => counts.not_covered += 1,
            }
        }
        if e.part + 1 < e.parts {
            self.open = Some((index, e.clone(), counts));
            return Ok(());
        }
        let claimed = Counts { confirmed: e.confirmed, fenced: e.fenced, not_covered: e.not_covered };
        let named = [counts.confirmed, counts.fenced, counts.not_covered].iter().fold(0_u64, |a, b| a.saturating_add(*b));
        let total = [e.confirmed, e.fenced, e.not_covered].iter().fold(0_u64, |a, b| a.saturating_add(*b));
        let fits = named.checked_add(e.unnamed) == Some(total) && (e.unnamed > 0 || counts == claimed);
        if e.part + 1 != e.parts || !fits {
            return Err("the counts of an answer are not those of its parts".to_owned());
        }
        self.answers.insert(e.revocation, e.clone());
        Ok(())
    }

    /// A drill: the canary's delegation, a token under it, the revocation of the one, and what was answered.
    pub(super) fn drill(
        &self,
        e: &event::Drill,
        index: u64,
        taken: &Taken,
        delegations: &HashMap<DelegationId, event::Delegation>,
        tokens: &HashMap<Tid, event::Issue>,
    ) -> Result<(), String> {
        let canary = delegations.get(&e.delegation).is_some_and(|d| self.is_canary(d.human));
        if !canary || tokens.get(&e.tid).is_none_or(|t| t.delegation != e.delegation) {
            return Err(format!("a drill on {}, which is not the canary's with that token", e.delegation));
        }
        let killed = matches!(taken.at_leaf(e.revocation), Some(Item::Floor { scope: FloorScope::Delegation(id), .. }) if *id == e.delegation);
        if !killed || e.revocation >= index {
            return Err(format!("a drill on {} whose revocation is not leaf {}", e.delegation, e.revocation));
        }
        let answer = self.answers.get(&e.revocation).ok_or("a drill without the answer to its revocation")?;
        let same = (answer.confirmed, answer.fenced, answer.not_covered, answer.anonymous) == (e.confirmed, e.fenced, e.not_covered, e.anonymous);
        if same { Ok(()) } else { Err("a drill with other counts than the answer to its revocation".to_owned()) }
    }
}
