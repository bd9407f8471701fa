//! Forged tokens: protobuf and Ed25519 by hand, past every check of ours. The forger holds whatever keys the caller gives it.

use biscuit_auth::format::schema::{self, proof::Content};
use ed25519_dalek::{Signer as _, SigningKey};
use prost::Message as _;

use crate::fixtures::{ROOT, key, public};

/// A token under construction, with the secrets of all its next keys.
#[derive(Clone)]
pub struct Forged {
    /// The protobuf as it stands; change what you like.
    pub proto: schema::Biscuit,
    /// The secret of each block's next key, where the forger has it.
    pub next: Vec<Option<SigningKey>>,
}

impl Forged {
    /// Takes up a token. The forger knows the last next key of an unsealed one, and none of a sealed one.
    pub fn of(token: &[u8]) -> Self {
        let proto = schema::Biscuit::decode(token).unwrap();
        let mut next = vec![None; proto.blocks.len() + 1];
        if let Some(Content::NextSecret(seed)) = &proto.proof.content {
            *next.last_mut().unwrap() = Some(SigningKey::from_bytes(seed.as_slice().try_into().unwrap()));
        }
        Self { proto, next }
    }

    /// A token of this block 0, signed by root key `root`, with the hint that a mint would write.
    pub fn root(payload: Vec<u8>, root: u8) -> Self {
        let mut authority = unsigned(payload, 200);
        authority.signature = key(root).sign(&message(&authority, None)).to_bytes().to_vec();
        let [a, b, c, d, ..] = *public(root).as_bytes();
        let root_key_id = Some(u32::from_be_bytes([a, b, c, d]));
        Self { proto: schema::Biscuit { root_key_id, authority, blocks: vec![], proof: open(200) }, next: vec![Some(key(200))] }
    }

    /// With one more block, signed by the last next key.
    pub fn append(self, payload: Vec<u8>) -> Self {
        self.push(payload, None)
    }

    /// With one more block that `signer` has signed as a third party.
    pub fn link(self, payload: Vec<u8>, signer: u8) -> Self {
        let signature = key(signer).sign(&external(&payload, self.last_signature())).to_bytes().to_vec();
        let public_key = schema::PublicKey { algorithm: 0, key: public(signer).as_bytes().to_vec() };
        self.push(payload, Some(schema::ExternalSignature { signature, public_key }))
    }

    /// With one more block whose external signature somebody else once made.
    pub fn push(mut self, payload: Vec<u8>, external_signature: Option<schema::ExternalSignature>) -> Self {
        let n = 201 + u8::try_from(self.proto.blocks.len() % 50).unwrap();
        let mut block = unsigned(payload, n);
        block.external_signature = external_signature;
        let signer = self.next.last().unwrap().clone().expect("the forger has no secret to append with");
        block.signature = signer.sign(&message(&block, Some(self.last_signature()))).to_bytes().to_vec();
        self.proto.blocks.push(block);
        self.proto.proof = open(n);
        self.next.push(Some(key(n)));
        self
    }

    /// The bytes, still to be extended.
    pub fn open(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// The bytes, sealed with the last next key.
    pub fn seal(mut self) -> Vec<u8> {
        let signer = self.next.last().unwrap().clone().expect("the forger has no secret to seal with");
        let last = self.proto.blocks.last().unwrap_or(&self.proto.authority);
        let message = [last.block.as_slice(), &last.next_key.algorithm.to_le_bytes(), &last.next_key.key, &last.signature].concat();
        self.proto.proof = schema::Proof { content: Some(Content::FinalSignature(signer.sign(&message).to_bytes().to_vec())) };
        self.proto.encode_to_vec()
    }

    /// The payload of a block.
    pub fn payload(&self, index: usize) -> Vec<u8> {
        self.block(index).block.clone()
    }

    /// A block as it was signed.
    pub fn block(&self, index: usize) -> &schema::SignedBlock {
        if index == 0 { &self.proto.authority } else { &self.proto.blocks[index - 1] }
    }

    fn last_signature(&self) -> &[u8] {
        &self.proto.blocks.last().unwrap_or(&self.proto.authority).signature
    }
}

/// A payload, changed field by field.
pub fn edit(payload: &[u8], change: impl FnOnce(&mut schema::Block)) -> Vec<u8> {
    let mut block = schema::Block::decode(payload).unwrap();
    change(&mut block);
    block.encode_to_vec()
}

/// The Datalog of a block, as a stock library prints it.
pub fn source(token: &[u8], index: usize) -> String {
    biscuit_auth::UnverifiedBiscuit::from(token).unwrap().print_block_source(index).unwrap()
}

/// The payload of a block 0 of this Datalog, as a stock library writes it; said to be Datalog 3.3 as ours are.
pub fn block0_of(datalog: &str) -> Vec<u8> {
    let root = biscuit_auth::KeyPair::from(&biscuit_auth::PrivateKey::from_bytes(&[ROOT; 32], biscuit_auth::Algorithm::Ed25519).unwrap());
    let token = biscuit_auth::Biscuit::builder().code(datalog).unwrap().build(&root).unwrap().to_vec().unwrap();
    edit(&Forged::of(&token).payload(0), |b| b.version = Some(6))
}

/// The payload of a later block of this Datalog, as a stock library appends it to `token` (its symbols go on from there).
pub fn later_of(token: &[u8], datalog: &str) -> Vec<u8> {
    let block = biscuit_auth::BlockBuilder::new().code(datalog).unwrap();
    let token = biscuit_auth::UnverifiedBiscuit::from(token).unwrap().append(block).unwrap().to_vec().unwrap();
    let forged = Forged::of(&token);
    edit(&forged.payload(forged.proto.blocks.len()), |b| b.version = Some(6))
}

/// The payload of a third-party block of this Datalog (its symbols are its own).
pub fn third_party_of(datalog: &str) -> Vec<u8> {
    block0_of(datalog)
}

/// A varint in one byte more than it needs.
pub fn padded_varint(n: u8) -> [u8; 2] {
    assert!(n < 0x80);
    [n | 0x80, 0]
}

fn unsigned(payload: Vec<u8>, next: u8) -> schema::SignedBlock {
    let next_key = schema::PublicKey { algorithm: 0, key: public(next).as_bytes().to_vec() };
    schema::SignedBlock { block: payload, next_key, signature: vec![], external_signature: None, version: Some(1) }
}

fn open(next: u8) -> schema::Proof {
    schema::Proof { content: Some(Content::NextSecret(vec![next; 32])) }
}

/// Biscuit's signed bytes of a block: version 1, or version 0 where the block says so.
pub fn message(block: &schema::SignedBlock, previous: Option<&[u8]>) -> Vec<u8> {
    let algorithm = block.next_key.algorithm.to_le_bytes();
    let external = block.external_signature.as_ref().map(|e| e.signature.as_slice());
    match block.version {
        Some(1) => {
            let mut m =
                [b"\0BLOCK\0\0VERSION\0\x01\0\0\0\0PAYLOAD\0", block.block.as_slice(), b"\0ALGORITHM\0", &algorithm, b"\0NEXTKEY\0", &block.next_key.key]
                    .concat();
            if let Some(previous) = previous {
                m.extend([b"\0PREVSIG\0".as_slice(), previous].concat());
            }
            if let Some(external) = external {
                m.extend([b"\0EXTERNALSIG\0".as_slice(), external].concat());
            }
            m
        }
        _ => [block.block.as_slice(), external.unwrap_or_default(), &algorithm, &block.next_key.key].concat(),
    }
}

/// Biscuit's signed bytes of a third party, version 1.
pub fn external(payload: &[u8], previous: &[u8]) -> Vec<u8> {
    [b"\0EXTERNAL\0\0VERSION\0\x01\0\0\0\0PAYLOAD\0".as_slice(), payload, b"\0PREVSIG\0", previous].concat()
}
