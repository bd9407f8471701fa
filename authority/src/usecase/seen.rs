//! What a receipt shows of a delegation: its token, and each link under it.

use std::collections::HashMap;
use std::sync::Arc;

use procura_verifier::ids::UtcMillis;
use procura_verifier::key_list::KeyList;
use procura_verifier::receipt::Receipt;
use procura_verifier::token::UnverifiedToken;
use sha2::{Digest as _, Sha256};

use crate::store::Row;
use crate::store::used::Used;

/// Tokens of one delivery, each verified once: a verifier repeats them.
pub(super) struct Seen {
    keys: Arc<KeyList>,
    now: UtcMillis,
    known: HashMap<[u8; 32], Vec<Used>>,
}

impl Seen {
    pub fn new(keys: Arc<KeyList>, now: UtcMillis) -> Self {
        Self { keys, now, known: HashMap::new() }
    }

    /// A row for the token and for each of its links. None for a token that this authority did not sign: a verifier's word
    /// alone makes no branch in anybody's tree.
    pub fn rows(&mut self, receipt: &Receipt) -> Vec<Row> {
        let hops = self.known.entry(Sha256::digest(&receipt.token).into()).or_insert_with(|| hops(&receipt.token, &self.keys));
        // A verifier may say any time; later than now is none.
        let last = if receipt.time.0 == 0 { self.now } else { receipt.time.min(self.now) };
        let at = hops.len();
        let used = |(n, hop): (usize, &Used)| {
            let presented = n + 1 == at;
            let (allowed, denied) = (u64::from(presented && receipt.verdict.is_ok()), u64::from(presented && receipt.verdict.is_err()));
            Row::Used(Used { allowed, denied, last, ..hop.clone() })
        };
        hops.iter().enumerate().map(used).collect()
    }
}

fn hops(token: &[u8], keys: &KeyList) -> Vec<Used> {
    let Ok(read) = UnverifiedToken::parse(token) else { return Vec::new() };
    let Ok(verified) = read.verify(keys) else { return Vec::new() };
    let block = verified.block0();
    let mut hops = vec![Used {
        delegation: block.delegation,
        tid: block.tid,
        lid: None,
        parent: None,
        agent: Some(block.agent),
        holder: block.holder,
        expires_secs: block.expires_secs,
        allowed: 0,
        denied: 0,
        last: UtcMillis(0),
        leaf: 0,
    }];
    for link in read.claimed_links() {
        let before = hops.last().map_or((None, block.expires_secs), |h| (h.lid, h.expires_secs));
        let card = link.card.as_ref().map(|c| c.claimed());
        hops.extend(hops.first().cloned().map(|token| Used {
            lid: Some(link.lid),
            parent: before.0,
            agent: card.map(|c| c.agent),
            holder: link.holder,
            expires_secs: card.map_or(before.1, |c| c.expires_secs.min(before.1)),
            ..token
        }));
    }
    if let Some(last) = hops.last_mut() {
        last.expires_secs = last.expires_secs.min(verified.expires_secs());
    }
    hops
}
