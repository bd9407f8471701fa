//! Sign-ins and acknowledgements, byte for byte (A1, A3).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::Signer as _;
use procura_verifier::feed::ack::{Ack, SignIn, Signed, Statement};
use procura_verifier::ids::Key;
use procura_verifier::wire::{Canonical as _, Malformed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cbor::{array, bytes, text, uint};
use super::{FeedVector, Outcome};
use crate::fixtures::{NOW, key, public};

/// One vector: a statement as it travels, and the key enrolled.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementCase {
    /// The rule.
    pub rule: String,
    /// What is special here, in one line.
    pub about: String,
    /// `sign-in` or `acknowledgement`: what it is taken as.
    pub taken_as: String,
    /// The verifier's enrolled key.
    pub enrolled: Key,
    /// The statement, base64url.
    pub statement: String,
    /// What comes out.
    pub expect: Outcome,
}

impl StatementCase {
    pub(super) fn check(&self) -> Result<(), String> {
        let statement = BASE64.decode(&self.statement).map_err(|e| e.to_string())?;
        let got = match self.taken_as.as_str() {
            "sign-in" => self.open::<SignIn>(&statement, |s| {
                json!({
                    "tenant": s.tenant, "verifier": s.verifier, "run": hex::encode(s.run), "audience": s.audience.as_str(), "nonce": hex::encode(&s.nonce),
                    "utc_ms": s.utc, "bound_ms": s.mode.bound_ms(),
                })
            }),
            "acknowledgement" => self.open::<Ack>(&statement, |a| {
                json!({
                    "tenant": a.tenant, "verifier": a.verifier, "run": hex::encode(a.run), "number": a.number, "epoch": a.epoch, "seq": a.seq,
                    "hash": hex::encode(a.hash), "fresh_age_ms": a.fresh_age_ms, "utc_ms": a.utc, "bound_ms": a.mode.bound_ms(),
                })
            }),
            other => return Err(format!("there is no statement `{other}`")),
        };
        self.expect.compare(&got, &self.about)
    }

    fn open<T: Statement>(&self, statement: &[u8], described: impl Fn(&T) -> Value) -> Outcome {
        match Signed::<T>::from_bytes(statement).and_then(|signed| signed.open(&self.enrolled)) {
            Ok(said) => Outcome::Read { read: described(&said) },
            Err(e) if e == Malformed::new(T::UNSIGNED) => Outcome::refused("signature"),
            Err(_) => Outcome::refused("malformed"),
        }
    }
}

const VERIFIER: u8 = 33;
const SIGN_IN: &[u8] = b"procura-sign-in/1\0";
const ACK: &[u8] = b"procura-ack/1\0";

fn signed(prefix: &[u8], payload: &[u8], by: u8) -> Vec<u8> {
    array(&[bytes(payload), bytes(&key(by).sign(&[prefix, payload].concat()).to_bytes())])
}

fn bound(ms: Option<u64>) -> Vec<u8> {
    ms.map_or(vec![0xf6], uint)
}

fn head(version: u64) -> Vec<Vec<u8>> {
    vec![uint(version), text("acme"), bytes(&[1; 16]), bytes(&[2; 16])]
}

fn sign_in(audience: &str, nonce: &[u8], ms: Option<u64>) -> Vec<u8> {
    array(&[head(1), vec![text(audience), bytes(nonce), uint(NOW.0), bound(ms)]].concat())
}

fn ack(number: u64, epoch: u64, ms: Option<u64>) -> Vec<u8> {
    array(&[head(1), vec![uint(number), uint(epoch), uint(4), bytes(&[5; 32]), uint(60), uint(NOW.0), bound(ms)]].concat())
}

pub(super) fn all() -> Vec<(String, FeedVector)> {
    let mut all = Vec::new();
    let mut put = |rule: &str, name: &str, about: &str, statement: Vec<u8>, expect: Outcome| {
        let taken_as = if rule == "A1" { "sign-in" } else { "acknowledgement" };
        let case = StatementCase {
            rule: rule.to_owned(),
            about: about.to_owned(),
            taken_as: taken_as.to_owned(),
            enrolled: public(VERIFIER),
            statement: BASE64.encode(statement),
            expect,
        };
        all.push((format!("feed/{rule}/{name}.json"), FeedVector::Statement(case)));
    };
    let verifier = format!("vrf_{}", "01".repeat(16));
    for (name, about, audience, nonce, ms) in [
        ("strict", "the bound of strict is the mode strict", "payments/1", vec![7; 32], Some(150)),
        ("bounded", "a service without instances, and the shortest nonce", "payments", vec![7; 16], Some(2_000)),
        ("best_effort", "no bound", "payments/1", vec![7; 32], None),
    ] {
        let read = json!({
            "tenant": "acme", "verifier": verifier, "run": "02".repeat(16), "audience": audience, "nonce": hex::encode(&nonce), "utc_ms": NOW.0, "bound_ms": ms,
        });
        put("A1", name, about, signed(SIGN_IN, &sign_in(audience, &nonce, ms), VERIFIER), Outcome::Read { read });
    }
    for (name, about, number, ms) in
        [("strict", "the first of its run", 1, Some(150)), ("bounded", "a longer bound", 70_000, Some(2_000)), ("best_effort", "no bound", 3, None)]
    {
        let read = json!({
            "tenant": "acme", "verifier": verifier, "run": "02".repeat(16), "number": number, "epoch": 1, "seq": 4, "hash": "05".repeat(32),
            "fresh_age_ms": 60, "utc_ms": NOW.0, "bound_ms": ms,
        });
        put("A3", name, about, signed(ACK, &ack(number, 1, ms), VERIFIER), Outcome::Read { read });
    }

    let (good_in, good_ack) = (sign_in("payments/1", &[7; 32], Some(150)), ack(1, 1, Some(150)));
    for (rule, prefix, other, good) in [("A1", SIGN_IN, ACK, &good_in), ("A3", ACK, SIGN_IN, &good_ack)] {
        let mut flipped = signed(prefix, good, VERIFIER);
        *flipped.last_mut().unwrap() ^= 1;
        let of_version_2 = array(&[head(2), vec![]].concat());
        let more = [good.clone(), vec![0]].concat();
        for (name, about, statement, word) in [
            ("by_another_key", "not the one enrolled", signed(prefix, good, VERIFIER + 1), "signature"),
            ("signature_flipped", "one bit", flipped, "signature"),
            ("without_prefix", "over the payload alone", signed(b"", good, VERIFIER), "signature"),
            ("under_the_other_prefix", "a sign-in is no acknowledgement, nor the reverse", signed(other, good, VERIFIER), "signature"),
            ("under_the_prefix_of_receipts", "nor is a receipt either", signed(b"procura-receipt/1\0", good, VERIFIER), "signature"),
            ("version_2", "another version", signed(prefix, &of_version_2, VERIFIER), "malformed"),
            ("payload_with_more", "one byte more, signed", signed(prefix, &more, VERIFIER), "malformed"),
            ("with_more", "one byte more, not signed", [signed(prefix, good, VERIFIER), vec![0]].concat(), "malformed"),
        ] {
            put(rule, name, about, statement, Outcome::refused(word));
        }
    }
    let long_bound = [good_in[..good_in.len() - 2].to_vec(), vec![0x19, 0, 150]].concat();
    for (name, about, payload) in [
        ("nonce_of_15_bytes", "too short", sign_in("payments/1", &[7; 15], Some(150))),
        ("nonce_of_33_bytes", "too long", sign_in("payments/1", &[7; 33], Some(150))),
        ("audience_in_capitals", "no audience", sign_in("Payments/1", &[7; 32], Some(150))),
        ("bound_in_a_longer_form", "150 in three bytes", long_bound),
        ("bound_above_32_bits", "no bound is as long", sign_in("payments/1", &[7; 32], Some(1 << 32))),
    ] {
        put("A1", name, about, signed(SIGN_IN, &payload, VERIFIER), Outcome::refused("malformed"));
    }
    for (name, about, payload) in
        [("number_0", "acknowledgements count from 1", ack(0, 1, Some(150))), ("epoch_0", "epochs count from 1", ack(1, 0, Some(150)))]
    {
        put("A3", name, about, signed(ACK, &payload, VERIFIER), Outcome::refused("malformed"));
    }
    all
}
