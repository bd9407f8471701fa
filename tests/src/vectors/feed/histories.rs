//! Messages one after the other: where the watermark stands then, and what people are told (F6, F22).

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::feed::{Alarm, FeedState};
use procura_verifier::ids::{BootTime, Key};
use procura_verifier::revocation::View;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cbor::{array, bytes, uint};
use super::{FEED, FeedVector, accepted, item, list, payload, travelling};
use crate::fixtures::{ANCHOR, NOW, public};

/// One vector: messages in the order in which they arrive at a verifier that has heard nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryCase {
    /// The rule.
    pub rule: String,
    /// What is special here, in one line.
    pub about: String,
    /// The key list, signed by the anchor, base64url.
    pub key_list: String,
    /// The anchor's key.
    pub anchor: Key,
    /// The messages as they travel, base64url.
    pub messages: Vec<String>,
    /// What comes out.
    pub expect: Standing,
}

/// Where a verifier stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Epoch, number and hash (hex).
    pub watermark: (u64, u64, String),
    /// Each with its epoch and number.
    pub alarms: Vec<(String, u64, u64)>,
    /// Token ids that count as revoked.
    pub ids: usize,
}

impl HistoryCase {
    pub(super) fn check(&self) -> Result<(), String> {
        let view = Arc::new(View::new("payments".parse().unwrap(), accepted(&self.key_list, self.anchor)?));
        let mut state = FeedState::new(Arc::clone(&view));
        for message in &self.messages {
            let message = BASE64.decode(message).map_err(|e| e.to_string())?;
            let _ = state.receive(&message, BootTime(1_000_000_000), NOW).map_err(|e| e.to_string())?;
        }
        let (epoch, seq, hash) = state.watermark();
        let word = |alarm: Alarm| match alarm {
            Alarm::Fork { epoch, seq } => ("feed fork".to_owned(), epoch, seq),
            Alarm::Loss { epoch, from_seq } => ("feed loss".to_owned(), epoch, from_seq),
            other => (format!("{other:?}"), 0, 0),
        };
        let alarms = state.take_alarms().into_iter().map(word).collect();
        let got = Standing { watermark: (epoch, seq, hex::encode(hash)), alarms, ids: view.known().ids };
        if got == self.expect { Ok(()) } else { Err(format!("expected {:?}, got {got:?}: {}", self.expect, self.about)) }
    }
}

/// Payload and hash.
type Made = (Vec<u8>, [u8; 32]);

fn made(payload: Vec<u8>) -> Made {
    let hash = Sha256::digest(&payload).into();
    (payload, hash)
}

fn genesis() -> [u8; 32] {
    Sha256::digest([b"procura-feed-genesis/1\0acme".as_slice(), &1_u64.to_be_bytes()].concat()).into()
}

/// Takes back the token with this number, 16 times the byte.
fn batch(epoch: u64, seq: u64, prev: [u8; 32], id: u8) -> Made {
    let items = array(&[item(seq, 1, &[bytes(&[id; 16]), uint(1_893_459_600)])]);
    made(payload(1, vec![uint(epoch), uint(seq), bytes(&prev), uint(NOW.0), items]))
}

fn start(epoch: u64, prev_epoch: u64, last_seq: u64, last_hash: [u8; 32]) -> Made {
    made(payload(3, vec![uint(epoch), uint(prev_epoch), uint(last_seq), bytes(&last_hash), uint(NOW.0)]))
}

pub(super) fn all() -> Vec<(String, FeedVector)> {
    let mut all = Vec::new();
    let mut put = |name: &str, about: &str, messages: &[&Made], (epoch, seq, hash): (u64, u64, [u8; 32]), alarms: &[(&str, u64, u64)], ids: usize| {
        let case = HistoryCase {
            rule: name.split('/').next().unwrap_or_default().to_owned(),
            about: about.to_owned(),
            key_list: BASE64.encode(list()),
            anchor: public(ANCHOR),
            messages: messages.iter().map(|(payload, _)| BASE64.encode(travelling(payload, FEED))).collect(),
            expect: Standing {
                watermark: (epoch, seq, hex::encode(hash)),
                alarms: alarms.iter().map(|(word, epoch, seq)| ((*word).to_owned(), *epoch, *seq)).collect(),
                ids,
            },
        };
        all.push((format!("feed/{name}.json"), FeedVector::History(case)));
    };
    let one = batch(1, 1, genesis(), 1);
    let two = batch(1, 2, one.1, 2);
    let three = batch(1, 3, two.1, 3);
    let again = (1, 0, genesis());

    put("F6/in_order", "each continues the one before", &[&one, &two], (1, 2, two.1), &[], 2);
    put("F6/out_of_order", "the second arrives first", &[&two, &one], (1, 2, two.1), &[], 2);
    put("F6/with_a_hole", "the third counts, and the watermark stays before the hole", &[&one, &three], (1, 1, one.1), &[], 2);
    put("F6/repeated", "what is known changes nothing", &[&one, &two, &one, &two], (1, 2, two.1), &[], 2);
    let stranger = batch(1, 2, [9; 32], 9);
    put("F6/that_continues_another", "its `prev` does not fit: read again from the start", &[&one, &stranger], again, &[("feed fork", 1, 2)], 2);
    let twin = batch(1, 1, genesis(), 9);
    put("F6/another_at_its_number", "two that were signed as number 1", &[&one, &twin], again, &[("feed fork", 1, 1)], 2);

    let second = start(2, 1, 2, two.1);
    put("F6/a_new_epoch", "it grows from all that is known", &[&one, &two, &second], (2, 0, second.1), &[], 2);
    let after = batch(2, 1, second.1, 4);
    put("F6/numbers_begin_anew", "number 1 of epoch 2 continues its start", &[&one, &two, &second, &after], (2, 1, after.1), &[], 3);
    put("F6/its_start_came_late", "number 1 of epoch 2 counts before, and its place is read again", &[&one, &two, &after, &second], (2, 0, second.1), &[], 3);
    let short = start(2, 1, 1, one.1);
    put("F6/a_new_epoch_below", "the authority lost number 2, which counts here for good", &[&one, &two, &short], (2, 0, short.1), &[("feed loss", 1, 2)], 2);
    let other = start(2, 1, 2, [9; 32]);
    put("F6/a_new_epoch_of_another_history", "number 2 is another one there", &[&one, &two, &other], again, &[("feed fork", 1, 2)], 2);
    put("F6/a_new_epoch_above", "it waits for what it grew from", &[&one, &second], (1, 1, one.1), &[], 1);

    let third = start(3, 1, 2, two.1);
    put("F22/an_epoch_number_left_out", "epoch 2 was begun and lost: it never begins again", &[&one, &two, &third], (3, 0, third.1), &[], 2);
    put(
        "F22/grown_from_before",
        "epoch 3 grew from epoch 1 although epoch 2 is known",
        &[&one, &two, &second, &after, &third],
        again,
        &[("feed fork", 1, 2)],
        3,
    );
    let twice = start(2, 1, 1, one.1);
    put("F22/begun_twice", "epoch 2 has begun otherwise", &[&one, &two, &second, &twice], again, &[("feed fork", 2, 0)], 2);
    put(
        "F22/an_epoch_that_is_over",
        "its start, once more, after the next one's",
        &[&one, &two, &second, &after, &start(3, 2, 1, after.1), &second],
        (3, 0, start(3, 2, 1, after.1).1),
        &[],
        3,
    );
    all
}
