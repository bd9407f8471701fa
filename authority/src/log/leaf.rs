//! A leaf: the stored bytes of a DSSE envelope, signed by the event key, around an in-toto Statement v1 about one [`Event`].

use ed25519_dalek::SigningKey;
use procura_verifier::ids::{Key, Tenant, UtcMillis};

use super::dsse;
pub use super::dsse::{EnvelopeError, claimed_key_id, key_id};
use super::event::{Event, Stated};
use super::tile::MAX_LEAF_BYTES;
use super::tree::{Hash, leaf_hash};

/// Why bytes are not a leaf, or an event does not fit one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The envelope is not one, or not by a known key.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// What it holds is not a statement about a known event.
    #[error("statement: {0}")]
    Statement(String),
    /// No event key at hand has a window that holds it. Written all the same, no auditor could open the log again.
    #[error("no event key at hand is inside its window at {0}")]
    NoKey(UtcMillis),
    /// Longer than an entry bundle can carry.
    #[error("leaf is {0} bytes long, expected at most {MAX_LEAF_BYTES}")]
    TooLong(usize),
}

/// A leaf ready to be stored. The bytes are what is verified ever after: store them as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedLeaf {
    bytes: Vec<u8>,
    hash: Hash,
}

impl SignedLeaf {
    /// Signs that `event` happened in `tenant` at `at`.
    pub fn sign(event: &Event, tenant: &Tenant, at: UtcMillis, event_key: &SigningKey) -> Result<Self, LeafError> {
        let statement = event.write(tenant, at).map_err(|e| LeafError::Statement(e.to_string()))?;
        let bytes = dsse::seal(PAYLOAD_TYPE, &statement, event_key)?;
        if bytes.len() > MAX_LEAF_BYTES {
            return Err(LeafError::TooLong(bytes.len()));
        }
        Ok(Self { hash: leaf_hash(&bytes), bytes })
    }

    /// The bytes to store.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash to append.
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// The bytes to store.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A leaf whose form and signature hold. Whether its key was live then is for the reader of the log to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenedLeaf {
    /// What happened.
    pub event: Event,
    /// Whose log it belongs to.
    pub tenant: Tenant,
    /// When, by the authority's clock.
    pub at: UtcMillis,
    /// The event key that signed it.
    pub key: Key,
    /// Its hash in the tree.
    pub hash: Hash,
}

/// A leaf of the right form, by nobody yet.
pub struct UnverifiedLeaf {
    envelope: dsse::UnverifiedEnvelope,
    stated: Stated,
    hash: Hash,
}

impl UnverifiedLeaf {
    /// Reads stored bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > MAX_LEAF_BYTES {
            return Err(LeafError::TooLong(bytes.len()));
        }
        let envelope = dsse::UnverifiedEnvelope::parse(bytes, MAX_LEAF_BYTES, PAYLOAD_TYPE)?;
        let statement = envelope.unverified_payload();
        let kind = super::event::kind(statement, MAX_LEAF_BYTES).map_err(LeafError::Statement)?;
        let stated = Event::read(&kind, statement, MAX_LEAF_BYTES)
            .ok_or_else(|| LeafError::Statement(format!("unknown kind of event `{}`", kind.escape_default().take(40).collect::<String>())))?
            .map_err(|e| LeafError::Statement(e.to_string()))?;
        Ok(Self { envelope, stated, hash: leaf_hash(bytes) })
    }

    /// What somebody claims: a key list names keys of its own, and the anchors answer for it.
    pub const fn unverified_event(&self) -> &Event {
        &self.stated.event
    }

    /// When somebody claims it happened.
    pub const fn unverified_at(&self) -> UtcMillis {
        self.stated.at
    }

    /// The statement, as somebody signed it.
    pub fn unverified_statement(&self) -> &[u8] {
        self.envelope.unverified_payload()
    }

    /// Checks the signature. `find` gives the event key for a [`key_id`], if the reader has reason to trust it.
    pub fn verify(self, find: impl FnOnce(&str) -> Option<Key>) -> Result<OpenedLeaf, LeafError> {
        let (_, key) = self.envelope.verify(find)?;
        let Stated { tenant, at, event } = self.stated;
        Ok(OpenedLeaf { event, tenant, at, key, hash: self.hash })
    }
}

impl OpenedLeaf {
    /// Reads stored bytes and checks the signature: [`UnverifiedLeaf::parse`] and [`UnverifiedLeaf::verify`].
    pub fn open(bytes: &[u8], find: impl FnOnce(&str) -> Option<Key>) -> Result<Self, LeafError> {
        UnverifiedLeaf::parse(bytes)?.verify(find)
    }
}

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

#[cfg(test)]
mod tests {
    use procura_verifier::ids::{AgentId, DelegationId, HumanId, Tid, VerifierId};

    use super::super::event::*;
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn known(id: &str) -> Option<Key> {
        (id == key_id(&Key::of(&key()))).then(|| Key::of(&key()))
    }

    /// One event of each kind.
    fn events() -> Vec<Event> {
        let (human, agent) = (HumanId::from_bytes([1; 16]), AgentId::from_bytes([2; 16]));
        let (delegation, verifier) = (DelegationId::from_bytes([3; 16]), VerifierId::from_bytes([4; 16]));
        let (generations, holder) = (Generations { human: 1, ..Generations::default() }, Key::from_bytes([9; 32]));
        let head = FeedHead { epoch: 1, seq: 9, hash: Digest([5; 32]) };
        vec![
            KeyListRecorded { version: 1, hash: Digest([6; 32]), key_list: Encoded(vec![1, 2]) }.into(),
            SignIn { human, first: true, auth_time: 1, acr: None, amr: vec!["pwd".into()] }.into(),
            Agent { agent, owner: human, name_salted_hash: Digest([7; 32]), key: holder, generation: 0 }.into(),
            AgentKey { agent, key: Key::from_bytes([10; 32]), replaces: vec![Replaced { key: holder, until: UtcMillis(8) }], by: Actor::Human(human) }.into(),
            AgentState { agent, state: crate::domain::agent::AgentState::Suspended, generation: 1, by: Actor::LocalOperator, reason_hash: Digest([9; 32]) }
                .into(),
            Delegation {
                delegation,
                version: 1,
                human,
                agent,
                capabilities: vec![
                    serde_json::from_str(
                        r#"{"tool":"payments","action":"transfer","resource":"acct/eu/*","limits":[{"kind":"one_of","arg":"kind","values":["wage"]}]}"#,
                    )
                    .unwrap(),
                ],
                audiences: vec!["payments".parse().unwrap()],
                class_max: procura_verifier::claims::DataClass::Internal,
                ttl_secs: 3600,
                not_after: UtcMillis(9),
                depth: 2,
                unregistered_hops: false,
                bearer: false,
                freshness_ms: 150,
                generations,
                text_hash: Digest([8; 32]),
            }
            .into(),
            Issue {
                tid: Tid::from_bytes([5; 16]),
                delegation,
                agent,
                holder,
                block0_sha256: Digest([1; 32]),
                expires: UtcMillis(8),
                ancestors: vec![Tid::from_bytes([6; 16])],
                generations,
            }
            .into(),
            Revoke { item: Encoded(vec![1, 2, 3]), by: Actor::Human(human), reason_hash: Some(Digest([2; 32])), delegation: None }.into(),
            Verifier { verifier, key: holder, service: "payments".into(), instance: "1".into(), by: Actor::LocalOperator }.into(),
            Receipt { receipt: Encoded(vec![]), verifier }.into(),
            Denials { denials: Encoded(vec![3]), verifier }.into(),
            EpochStart { epoch: 2, previous: Some(head), by: Actor::LocalOperator }.into(),
            Recovered {
                origin: "a/acme/2".into(),
                previous: "a/acme".into(),
                released: TreeHead { size: 9, root: Digest([1; 32]) },
                kept: TreeHead { size: 5, root: Digest([2; 32]) },
                reason_hash: Digest([3; 32]),
                by: Actor::LocalOperator,
            }
            .into(),
            VerifierRetired { verifier, by: Actor::LocalOperator, reason_hash: Digest([3; 32]) }.into(),
            Coverage {
                revocation: 5,
                epoch: 1,
                seq: 2,
                part: 0,
                parts: 1,
                waited_ms: 200,
                verifiers: vec![
                    Covered { verifier, run: None, standing: Standing::NotCovered { why: NotCovered::NeverSeen } },
                    Covered { verifier, run: Some(Encoded(vec![7; 16])), standing: Standing::Fenced { bound_ms: 150 } },
                    Covered { verifier, run: Some(Encoded(vec![8; 16])), standing: Standing::Confirmed { after_ms: 9, ack: Encoded(vec![4]) } },
                ],
                confirmed: 1,
                fenced: 1,
                not_covered: 1,
                unnamed: 0,
                anonymous: 0,
                by: Actor::Human(human),
            }
            .into(),
            Canary { human, by: Actor::LocalOperator }.into(),
            Drill {
                delegation,
                tid: Tid::from_bytes([5; 16]),
                revocation: 5,
                confirmed: 1,
                fenced: 0,
                not_covered: 0,
                anonymous: 0,
                slowest_ms: Some(9),
                by: Actor::LocalOperator,
            }
            .into(),
        ]
    }

    fn of_kind(kind: &str) -> Event {
        events().into_iter().find(|e| e.kind() == kind).unwrap()
    }

    fn signed(event: &Event) -> SignedLeaf {
        SignedLeaf::sign(event, &"acme".parse().unwrap(), UtcMillis(77), &key()).unwrap()
    }

    fn statement(event: &Event) -> String {
        String::from_utf8(event.write(&"acme".parse().unwrap(), UtcMillis(77)).unwrap()).unwrap()
    }

    fn open_statement(text: &str) -> Result<OpenedLeaf, LeafError> {
        OpenedLeaf::open(&dsse::seal(PAYLOAD_TYPE, text.as_bytes(), &key()).unwrap(), known)
    }

    #[test]
    fn each_kind_reads_what_it_wrote() {
        let events = events();
        assert_eq!(events.iter().map(Event::kind).collect::<Vec<_>>(), Event::KINDS);
        for event in events {
            let leaf = signed(&event);
            let opened = OpenedLeaf::open(leaf.bytes(), known).unwrap();
            assert_eq!((&opened.event, opened.at, opened.key, opened.hash), (&event, UtcMillis(77), Key::of(&key()), leaf.hash()));
            assert_eq!(leaf, signed(&event));
        }
    }

    #[test]
    fn a_statement_is_in_toto_v1_and_stable() {
        let expected = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"name":"epoch/2","digest":{{"sha256":"{}"}}}}],"predicateType":"https://procura.dev/attest/epoch_start/v1","predicate":{{"tenant":"acme","at_ms":77,"event":{{"epoch":2,"previous":{{"epoch":1,"seq":9,"hash":"{}"}},"by":"local-operator"}}}}}}"#,
            Digest::of(b"epoch/2"),
            "05".repeat(32)
        );
        assert_eq!(statement(&of_kind("epoch_start")), expected);
    }

    #[test]
    fn a_statement_of_another_form_is_refused() {
        let text = statement(&of_kind("epoch_start"));
        assert!(open_statement(&text).is_ok());
        let subject = Digest::of(b"epoch/2").to_string();
        for (bad, why) in [
            (text.replacen('{', "{\"more\":1,", 1), "an unknown field"),
            (text.replace("\"epoch\":2", "\"epoch\":2,\"more\":1"), "an unknown field of the event"),
            (text.replace("\"epoch\":2", "\"epoch\":2,\"epoch\":2"), "a duplicate key"),
            (text.replace("\"seq\":9", "\"seq\":9,\"s\\u0065q\":9"), "a duplicate key further down"),
            (text.replace("\"seq\":9", "\"seq\":9.0"), "a float"),
            (text.replace("\"seq\":9", "\"seq\":-9"), "a negative number"),
            (text.replace("\"epoch\":2,", ""), "a missing field"),
            (text.replace("epoch_start/v1", "epoch_start/v2"), "another version"),
            (text.replace("epoch_start/v1", "unheard/v1"), "an unknown kind"),
            (text.replace("epoch_start/v1", "receipt/v1"), "another kind"),
            (text.replace("local-operator", "somebody"), "an unknown actor"),
            (text.replace("Statement/v1", "Statement/v0.1"), "another statement"),
            (text.replace(&subject, &"0".repeat(64)), "another subject"),
            (text.replace(&subject, &subject.to_uppercase()), "upper-case hex"),
            (text.replace("acme", "Acme"), "no tenant"),
            (format!("{text}{text}"), "two statements"),
            (String::new(), "nothing"),
        ] {
            assert!(matches!(open_statement(&bad), Err(LeafError::Statement(_))), "{why}: {:?}", open_statement(&bad));
        }
        let receipt = statement(&Receipt { receipt: Encoded(vec![0]), verifier: VerifierId::from_bytes([4; 16]) }.into());
        assert!(receipt.contains("\"AA\"") && open_statement(&receipt).is_ok());
        for wrong in ["\"AA==\"", "\"AB\"", "\"+A\""] {
            assert!(open_statement(&receipt.replace("\"AA\"", wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_or_another_leaf() {
        let leaf = signed(&events()[7]);
        for bit in 0..leaf.bytes().len() * 8 {
            let mut flipped = leaf.bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The tree finds what the signature does not cover; here nothing is left to it.
            assert!(OpenedLeaf::open(&flipped, known).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_leaf_fits_an_entry_bundle_or_is_not_made() {
        let receipt = |len: usize| Receipt { receipt: Encoded(vec![0; len]), verifier: VerifierId::from_bytes([4; 16]) }.into();
        let sign = |event: &Event| SignedLeaf::sign(event, &"acme".parse().unwrap(), UtcMillis(77), &key());
        assert!(sign(&receipt(Encoded::MAX_BYTES)).is_ok());
        let encoded = || Encoded(vec![0; Encoded::MAX_BYTES]);
        assert!(sign(&KeyListRecorded { version: u64::MAX, hash: Digest([6; 32]), key_list: encoded() }.into()).is_ok());
        let (human, delegation) = (HumanId::from_bytes([1; 16]), Some(DelegationId::from_bytes([3; 16])));
        assert!(sign(&Revoke { item: encoded(), by: Actor::Human(human), reason_hash: Some(Digest([2; 32])), delegation }.into()).is_ok());
        assert!(matches!(sign(&receipt(38_000)), Err(LeafError::TooLong(_))));
        assert_eq!(OpenedLeaf::open(&vec![b' '; MAX_LEAF_BYTES + 1], known), Err(LeafError::TooLong(MAX_LEAF_BYTES + 1)));
    }
}
