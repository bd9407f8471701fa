//! The signed root of the log: a C2SP tlog-checkpoint in a C2SP signed note.
//!
//! ```text
//! procura.example/acme
//! 20852163
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — procura.example/acme Az3grl…
//! ```
//!
//! Ed25519 is deterministic: any replica that signs a committed row gives the same bytes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use procura_verifier::ids::{Key, UtcMillis};
use signed_note::{Note, Signature, VerifierList, key_id};

use super::tree::Hash;

/// Longest checkpoint read, in bytes: room for the cosignatures of 100 witnesses.
pub const MAX_CHECKPOINT_BYTES: usize = 16 * 1024;

/// Why a text is not a checkpoint of the log expected. One clear sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the one form.
    #[error("checkpoint: {0}")]
    Malformed(&'static str),
    /// Longer than [`MAX_CHECKPOINT_BYTES`].
    #[error("checkpoint is {0} bytes long, expected at most {MAX_CHECKPOINT_BYTES}")]
    TooLong(usize),
    /// A signature line names a known key and is not by it.
    #[error("checkpoint carries a wrong signature by key `{0}`")]
    Signature(String),
    /// No log key at hand has a window that holds the last leaf.
    #[error("no log key at hand is inside its window at {0}, the time of the last leaf")]
    NoKey(UtcMillis),
    /// No known log key signed it.
    #[error("checkpoint carries no signature by a known log key")]
    Unsigned,
}

/// The name of a log: the URL it is served under without scheme, such as `procura.example/acme`. 1 to 128 visible ASCII, no `+`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin(Box<str>);

impl Origin {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name after recoveries: of epoch 1 as it is, of a later one with `/` and its number.
    pub fn of_epoch(&self, epoch: u64) -> Result<Self, CheckpointError> {
        if epoch <= 1 { Ok(self.clone()) } else { format!("{self}/{epoch}").parse() }
    }
}

impl FromStr for Origin {
    type Err = CheckpointError;
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'+') {
            Ok(Self(text.into()))
        } else {
            Err(CheckpointError::Malformed("expected an origin of 1 to 128 visible ASCII characters without `+`"))
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl serde::Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> serde::Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A log key under its name: as text `name+hash+base64(0x01 || key)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vkey {
    /// The log it signs for.
    pub origin: Origin,
    /// The Ed25519 key.
    pub key: Key,
}

impl Vkey {
    /// The first half of the SHA-256 that the note format keys signatures by.
    pub fn id(&self) -> u32 {
        key_id(self.origin.as_str(), &self.encoded())
    }

    fn encoded(&self) -> Vec<u8> {
        [&[ED25519][..], self.key.as_bytes()].concat()
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.origin, self.id(), BASE64_STANDARD.encode(self.encoded()))
    }
}

impl FromStr for Vkey {
    type Err = CheckpointError;
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let wrong = CheckpointError::Malformed("expected a key as `name+hash+base64` of an Ed25519 key");
        let mut parts = text.splitn(3, '+');
        let (Some(origin), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong) };
        let bytes = BASE64_STANDARD.decode(key).map_err(|_| wrong.clone())?;
        let Ok([ED25519, key @ ..]) = <[u8; 33]>::try_from(bytes) else { return Err(wrong) };
        let vkey = Self { origin: origin.parse()?, key: Key::from_bytes(key) };
        // The hash of name and key is checked here too: it stands in the text.
        if vkey.to_string() == text { Ok(vkey) } else { Err(wrong) }
    }
}

impl signed_note::Verifier for Vkey {
    fn name(&self) -> &str {
        self.origin.as_str()
    }
    fn key_id(&self) -> u32 {
        self.id()
    }
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        signature.try_into().is_ok_and(|s| self.key.verifies(message, s))
    }
}

/// How large the log is, and its root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log.
    pub origin: Origin,
    /// Leaves in it.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The signed note. Only for a committed row: two roots signed for one size are proof of a fork.
    pub fn sign(&self, key: &SigningKey) -> Result<String, CheckpointError> {
        self.sign_by(&[key])
    }

    /// The note with one line for each key: while two log keys hold, a reader who knows only one of them reads on.
    pub fn sign_by(&self, keys: &[&SigningKey]) -> Result<String, CheckpointError> {
        let text = self.text();
        let malformed = |_| CheckpointError::Malformed("expected a text that a signed note can hold");
        let line = |key: &&SigningKey| {
            let id = Vkey { origin: self.origin.clone(), key: Key::of(key) }.id();
            Signature::new(self.origin.as_str().to_owned(), id, key.sign(text.as_bytes()).to_bytes().to_vec()).map_err(malformed)
        };
        let signatures = keys.iter().map(line).collect::<Result<Vec<_>, _>>()?;
        let note = Note::new(text.as_bytes(), &signatures).map_err(malformed)?;
        String::from_utf8(note.to_bytes()).map_err(|_| CheckpointError::Malformed("expected UTF-8"))
    }

    /// The checkpoint that at least one of `keys` signed, and those that did, in the order of their lines.
    ///
    /// Signatures of unknown keys (witnesses) are passed over; a wrong one of a known key is an error, and so is a second line
    /// by the same key, an extension line, and every text that is not the one form of what it says.
    pub fn open(note: &[u8], keys: &[Vkey]) -> Result<(Self, Vec<Vkey>), CheckpointError> {
        if note.len() > MAX_CHECKPOINT_BYTES {
            return Err(CheckpointError::TooLong(note.len()));
        }
        let parsed = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed("expected a C2SP signed note"))?;
        let text = std::str::from_utf8(parsed.text()).map_err(|_| CheckpointError::Malformed("expected UTF-8"))?;
        let this = Self::parse(text)?;
        let known = keys.iter().filter(|k| k.origin == this.origin).map(|k| Box::new(k.clone()) as Box<dyn signed_note::Verifier>);
        let (signed, others) = parsed.verify(&VerifierList::new(known.collect())).map_err(|e| match e {
            signed_note::NoteError::InvalidSignature { name, id } => CheckpointError::Signature(format!("{name}+{id:08x}")),
            signed_note::NoteError::UnverifiedNote => CheckpointError::Unsigned,
            _ => CheckpointError::Malformed("expected signatures by distinct keys"),
        })?;
        // `verify` skips what it has seen; a second signature by one key would be read by nobody.
        let lines = note.split(|b| *b == b'\n').filter(|l| l.starts_with("— ".as_bytes())).count();
        if lines != signed.len() + others.len() || parsed.to_bytes() != note {
            return Err(CheckpointError::Malformed("expected each signature once and in its one form"));
        }
        let by = |s: &Signature| keys.iter().find(|k| k.origin.as_str() == s.name() && k.id() == s.id()).cloned();
        Ok((this, signed.iter().filter_map(by).collect()))
    }

    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }

    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let wrong = CheckpointError::Malformed("expected the lines origin, size and root, and no other");
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else { return Err(wrong) };
        let size = size.parse().map_err(|_| wrong.clone())?;
        let root = BASE64_STANDARD.decode(root).ok().and_then(|r| r.try_into().ok()).ok_or(wrong.clone())?;
        let this = Self { origin: origin.parse()?, size, root };
        if this.text() == text { Ok(this) } else { Err(wrong) }
    }
}

/// The algorithm byte of the note format.
const ED25519: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "procura.example/acme".parse().unwrap(), size: 42, root: [7; 32] }
    }

    fn vkey(n: u8) -> Vkey {
        Vkey { origin: checkpoint().origin, key: Key::of(&signing(n)) }
    }

    #[test]
    fn a_checkpoint_opens_for_its_key_and_for_no_other() {
        let note = checkpoint().sign(&signing(1)).unwrap();
        assert_eq!(note, checkpoint().sign(&signing(1)).unwrap());
        assert_eq!(Checkpoint::open(note.as_bytes(), &[vkey(2), vkey(1)]), Ok((checkpoint(), vec![vkey(1)])));
        assert_eq!(Checkpoint::open(note.as_bytes(), &[vkey(2)]), Err(CheckpointError::Unsigned));
        let elsewhere = Vkey { origin: "procura.example/other".parse().unwrap(), ..vkey(1) };
        assert_eq!(Checkpoint::open(note.as_bytes(), &[elsewhere]), Err(CheckpointError::Unsigned));
    }

    #[test]
    fn while_two_keys_hold_either_opens_it_and_a_wrong_line_spoils_it() {
        let note = checkpoint().sign_by(&[&signing(1), &signing(2)]).unwrap();
        for known in [vec![vkey(1)], vec![vkey(2)], vec![vkey(1), vkey(2)]] {
            assert_eq!(Checkpoint::open(note.as_bytes(), &known), Ok((checkpoint(), known)));
        }
        assert_eq!(Checkpoint::open(note.as_bytes(), &[vkey(3)]), Err(CheckpointError::Unsigned));
        let theirs = signed_note::StandardVerifier::new(&vkey(2).to_string()).unwrap();
        let parsed = Note::from_bytes(note.as_bytes()).unwrap();
        assert_eq!(parsed.verify(&VerifierList::new(vec![Box::new(theirs)])).unwrap().0.len(), 1);
        let other = Checkpoint { root: [8; 32], ..checkpoint() }.sign_by(&[&signing(2)]).unwrap();
        let mixed = format!("{}{}\n", checkpoint().sign(&signing(1)).unwrap(), other.trim_end().rsplit('\n').next().unwrap());
        assert!(matches!(Checkpoint::open(mixed.as_bytes(), &[vkey(1), vkey(2)]), Err(CheckpointError::Signature(_))));
    }

    #[test]
    fn other_implementations_read_it() {
        let note = checkpoint().sign(&signing(1)).unwrap();
        let theirs = signed_note::StandardVerifier::new(&vkey(1).to_string()).unwrap();
        assert_eq!(vkey(1).to_string(), signed_note::new_ed25519_verifier_key("procura.example/acme", &signing(1).verifying_key()));
        let parsed = Note::from_bytes(note.as_bytes()).unwrap();
        let (signed, _) = parsed.verify(&VerifierList::new(vec![Box::new(theirs)])).unwrap();
        assert_eq!(signed.len(), 1);
        let tree = tlog_tiles::Checkpoint::from_bytes(parsed.text()).unwrap();
        assert_eq!((tree.origin(), tree.size(), tree.hash().0), ("procura.example/acme", 42, [7; 32]));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let note = checkpoint().sign(&signing(1)).unwrap().into_bytes();
        for at in 0..note.len() * 8 {
            let mut flipped = note.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Checkpoint::open(&flipped, &[vkey(1)]).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_witness_is_passed_over_and_a_doubled_or_wrong_line_is_not() {
        let note = checkpoint().sign(&signing(1)).unwrap();
        let line = |name: &str, id: u32, n: u8| {
            let signature = signing(n).sign(checkpoint().text().as_bytes()).to_bytes().to_vec();
            String::from_utf8(Signature::new(name.into(), id, signature).unwrap().to_bytes()).unwrap()
        };
        let open = |text: String| Checkpoint::open(text.as_bytes(), &[vkey(1)]);
        assert!(open(format!("{note}{}", line("witness.example", 5, 3))).is_ok());
        assert!(open(format!("{note}{}", line("procura.example/acme", vkey(1).id(), 1))).is_err());
        let wrong = line("procura.example/acme", vkey(1).id(), 3);
        assert!(matches!(open(format!("{}\n{wrong}", checkpoint().text())), Err(CheckpointError::Signature(_))));
        assert_eq!(open(format!("{note}{}", "x".repeat(MAX_CHECKPOINT_BYTES))), Err(CheckpointError::TooLong(note.len() + MAX_CHECKPOINT_BYTES)));
    }

    #[test]
    fn only_the_three_lines_in_their_one_form() {
        let signed = |text: &str| {
            let signature = Signature::new("procura.example/acme".into(), vkey(1).id(), signing(1).sign(text.as_bytes()).to_bytes().to_vec());
            let note = Note::new(text.as_bytes(), &[signature.unwrap()]).unwrap().to_bytes();
            Checkpoint::open(&note, &[vkey(1)])
        };
        let text = checkpoint().text();
        assert!(signed(&text).is_ok());
        for bad in [
            format!("{text}extension\n"),
            text.replace("\n42\n", "\n042\n"),
            text.replace("\n42\n", "\n+42\n"),
            text.replace("\n42\n", "\n\n42\n"),
            text.replace("=\n", "\n"),
        ] {
            assert!(matches!(signed(&bad), Err(CheckpointError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn a_key_has_one_text() {
        let text = vkey(1).to_string();
        assert_eq!(text.parse(), Ok(vkey(1)));
        for bad in [text.replace("acme", "acne"), text.replacen('+', "++", 1), format!("{text} "), text.replace('+', "+0"), text[..text.len() - 1].to_owned()] {
            assert!(bad.parse::<Vkey>().is_err(), "{bad}");
        }
        assert!("a b".parse::<Origin>().is_err() && "a+b".parse::<Origin>().is_err() && "".parse::<Origin>().is_err());
    }
}
