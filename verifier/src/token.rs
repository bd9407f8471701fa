//! Tokens: bytes become an [`UnverifiedToken`] when they are of the closed profile, and a [`VerifiedToken`] when the
//! authority's root key and the holders signed them. Minting, narrowing, linking and sealing write the same bytes.
//!
//! Signatures are checked here and not by biscuit-auth, because the profile needs the order (structure first, then
//! signatures, Datalog never) and the figures need each key decoded once; tests hold the two to the same verdicts.

use biscuit_auth::format::schema;
use ed25519_dalek::{Signer as _, SigningKey};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::card;
use crate::claims::{Block0, Hops, Possession, Restriction, has_twice};
use crate::ids::{AgentId, BlockId, Key, Lid, Tid};
use crate::key_list::{KeyList, KeyUse};
use crate::vocabulary::{self, LinkClaims, OUTSIDE, Symbols};
use crate::wire::Malformed;

/// Longest token, in bytes: with Base64 and a proof it fits an 8 KiB header (`spec/token.md`, limits).
pub const MAX_TOKEN_BYTES: usize = 5 * 1024;

/// Most blocks after block 0.
pub const MAX_BLOCKS: usize = 16;

/// A token whose bytes are of the profile. Nobody's signature has been checked: what it says is a claim.
#[derive(Clone)]
pub struct UnverifiedToken {
    hash: [u8; 32],
    envelope: Envelope,
    block0: Block0,
    later: Vec<Later>,
    symbols: Symbols,
}

/// One block after block 0, as it claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// It narrows.
    Narrow(&'a [Restriction]),
    /// It passes the token on.
    Link(&'a LinkClaims),
}

#[derive(Clone)]
enum Later {
    Narrow(Vec<Restriction>),
    Link(Box<LinkClaims>),
}

/// The signed parts, with every length and algorithm checked.
#[derive(Clone)]
struct Envelope {
    root_hint: Option<u32>,
    blocks: Vec<SignedBlock>,
    end: End,
}

#[derive(Clone)]
struct SignedBlock {
    payload: Vec<u8>,
    next: Key,
    signature: [u8; 64],
    /// Signer and signature, of a link.
    external: Option<(Key, [u8; 64])>,
}

#[derive(Clone)]
enum End {
    Sealed([u8; 64]),
    Open([u8; 32]),
}

impl UnverifiedToken {
    /// Reads a token. All of law 3's form is checked here, before any signature and without any Datalog.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(Malformed(format!("token is {} bytes long, expected at most {MAX_TOKEN_BYTES}", bytes.len()).into()));
        }
        let proto = schema::Biscuit::decode(bytes).map_err(|_| OUTSIDE)?;
        // L3: one token, one spelling: no unknown fields, no second form of a number, no other field order.
        if proto.encode_to_vec() != bytes {
            return Err(OUTSIDE);
        }
        let envelope = Envelope::read(proto)?;
        let mut symbols = Symbols::default();
        let (first, rest) = envelope.blocks.split_first().ok_or(OUTSIDE)?;
        let block0 = vocabulary::read_block0(&first.payload, &mut symbols)?;
        let later = rest
            .iter()
            .map(|b| {
                // L4: an external signature and link facts come together or not at all.
                if b.external.is_some() {
                    vocabulary::read_link(&b.payload).map(|l| Later::Link(Box::new(l)))
                } else {
                    vocabulary::read_narrow(&b.payload, &mut symbols).map(Later::Narrow)
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let token = Self { hash: Sha256::digest(bytes).into(), envelope, block0, later, symbols };
        token.check_links()?;
        Ok(token)
    }

    /// L4: each link is signed by the holder before it, is one step less deep, and goes to the holder of its card.
    fn check_links(&self) -> Result<(), Malformed> {
        let (mut holder, mut depth) = (self.block0.holder, self.block0.depth);
        let mut holders = vec![holder];
        for (block, later) in self.envelope.blocks.iter().skip(1).zip(&self.later) {
            let Later::Link(link) = later else { continue };
            if block.external.as_ref().is_none_or(|(signer, _)| *signer != holder) {
                return Err(Malformed::new("link is not signed by the holder before it"));
            }
            if link.depth >= depth {
                return Err(Malformed::new("link goes deeper than the token allows"));
            }
            match &link.card {
                Some(card) if card.claimed().holder != link.holder || card.claimed().tenant != self.block0.tenant => {
                    return Err(Malformed::new("link names another key or tenant than its card"));
                }
                None if self.block0.hops == Hops::Registered => {
                    return Err(Malformed::new("link has no card and the delegation allows registered agents only"));
                }
                _ => {}
            }
            (holder, depth) = (link.holder, link.depth);
            holders.push(holder);
        }
        // L5: otherwise one key could sign for two places of a chain; and a holder key never signs blocks.
        if has_twice(&holders) || self.envelope.blocks.iter().any(|b| holders.contains(&b.next)) {
            return Err(Malformed::new("holder key occurs twice in the chain, or as the next key of a block"));
        }
        let lids: Vec<Lid> = self.links().map(|l| l.lid).collect();
        if has_twice(&lids) {
            return Err(Malformed::new("link id occurs twice in the chain"));
        }
        Ok(())
    }

    fn links(&self) -> impl Iterator<Item = &LinkClaims> {
        self.later.iter().filter_map(|l| if let Later::Link(link) = l { Some(&**link) } else { None })
    }

    /// The key whose proof the call must carry, as the token claims it.
    pub fn claimed_holder(&self) -> Key {
        self.links().last().map_or(self.block0.holder, |l| l.holder)
    }

    /// What block 0 claims.
    pub const fn claimed(&self) -> &Block0 {
        &self.block0
    }

    /// What the links claim, in order.
    pub fn claimed_links(&self) -> impl Iterator<Item = &LinkClaims> {
        self.links()
    }

    /// The restrictions that later blocks claim, in order.
    pub fn claimed_restrictions(&self) -> impl Iterator<Item = &Restriction> {
        self.later.iter().flat_map(|l| match l {
            Later::Narrow(r) => r.as_slice(),
            Later::Link(link) => link.restrictions.as_slice(),
        })
    }

    /// What the blocks after block 0 claim, in order.
    pub fn claimed_steps(&self) -> impl Iterator<Item = Step<'_>> {
        self.later.iter().map(|l| match l {
            Later::Narrow(restrictions) => Step::Narrow(restrictions),
            Later::Link(link) => Step::Link(link),
        })
    }

    /// SHA-256 of the presented bytes: what a proof signs. Not an identity (law 6).
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// True if nobody can append to it any more.
    pub const fn is_sealed(&self) -> bool {
        matches!(self.envelope.end, End::Sealed(_))
    }

    /// Checks every signature: root, blocks, links by their holders, cards, seal (laws 1, 3, 4).
    ///
    /// Costs one Ed25519 verification per block, one per link, one per card, one for the seal.
    pub fn verify(&self, keys: &KeyList) -> Result<VerifiedToken, BadSignature> {
        // L1: the hint says which root keys to try; those of the list, and nothing else, can be right.
        let hint = self.envelope.root_hint.ok_or(BadSignature)?.to_be_bytes();
        let (first, rest) = self.envelope.blocks.split_first().ok_or(BadSignature)?;
        let message = first.message(None);
        let root = keys.signer(KeyUse::Root, hint, &message, &first.signature).ok_or(BadSignature)?;
        let (mut signer, mut previous) = (first.next, &first.signature);
        for block in rest {
            if !signer.verifies(&block.message(Some(previous)), &block.signature) {
                return Err(BadSignature);
            }
            if let Some((holder, signature)) = &block.external
                && !holder.verifies(&external_message(&block.payload, previous), signature)
            {
                return Err(BadSignature);
            }
            (signer, previous) = (block.next, &block.signature);
        }
        let last = rest.last().unwrap_or(first);
        let ends = match &self.envelope.end {
            End::Sealed(signature) => signer.verifies(&last.seal_message(), signature),
            End::Open(seed) => Key::of(&SigningKey::from_bytes(seed)) == signer,
        };
        if !ends {
            return Err(BadSignature);
        }
        let cards = self.links().filter_map(|l| l.card.as_ref());
        let cards = cards.map(|c| Ok((c.verify(keys).ok_or(BadSignature)?, c.claimed().expires_secs))).collect::<Result<Vec<_>, _>>()?;
        Ok(self.compile(root, cards))
    }

    fn compile(&self, root: Key, card_keys: Vec<(Key, u64)>) -> VerifiedToken {
        let b = &self.block0;
        let mut token = VerifiedToken {
            hash: self.hash,
            sealed: self.is_sealed(),
            root,
            card_keys,
            tids: std::iter::once(b.tid).chain(b.ancestors.iter().copied()).collect(),
            lids: Vec::new(),
            block_ids: Vec::new(),
            holders: vec![b.holder],
            agents: vec![(b.agent, b.generations.agent)],
            expires_secs: b.expires_secs,
            class_max: b.class_max,
            narrowings: Vec::new(),
            block0: b.clone(),
        };
        for (block, later) in self.envelope.blocks.iter().skip(1).zip(&self.later) {
            match later {
                Later::Narrow(_) => token.block_ids.push(block_id(&block.signature)),
                Later::Link(link) => {
                    token.lids.push(link.lid);
                    token.holders.push(link.holder);
                    if let Some(card) = &link.card {
                        let card = card.claimed();
                        token.agents.push((card.agent, card.generation));
                        token.expires_secs = token.expires_secs.min(card.expires_secs);
                    }
                }
            }
        }
        for restriction in self.claimed_restrictions() {
            match restriction {
                Restriction::Until(secs) => token.expires_secs = token.expires_secs.min(*secs),
                Restriction::ClassMax(class) => token.class_max = token.class_max.min(*class),
                other => token.narrowings.push(other.clone()),
            }
        }
        token
    }

    /// The bytes with one more block that narrows. `next_seed` is fresh and random; it can append the next block.
    ///
    /// Fails on a sealed token, and where the result would be outside the profile.
    pub fn narrow(&self, restrictions: &[Restriction], next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed> {
        let payload = vocabulary::write_narrow(restrictions, &mut self.symbols.clone());
        self.append(payload, None, next_seed)
    }

    /// The bytes with one more link, signed by the present holder.
    pub fn link(&self, link: &LinkClaims, holder: &SigningKey, next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed> {
        let payload = vocabulary::write_link(link);
        let previous = self.envelope.blocks.last().ok_or(OUTSIDE)?;
        let signature = holder.sign(&external_message(&payload, &previous.signature)).to_bytes();
        self.append(payload, Some((Key::of(holder), signature)), next_seed)
    }

    fn append(&self, payload: Vec<u8>, external: Option<(Key, [u8; 64])>, next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed> {
        let End::Open(seed) = &self.envelope.end else { return Err(Malformed::new("token is sealed: nothing can be appended")) };
        let mut envelope = self.envelope.clone();
        let previous = envelope.blocks.last().ok_or(OUTSIDE)?.signature;
        let mut block = SignedBlock { payload, next: Key::of(&SigningKey::from_bytes(&next_seed)), signature: [0; 64], external };
        block.signature = SigningKey::from_bytes(seed).sign(&block.message(Some(&previous))).to_bytes();
        envelope.blocks.push(block);
        envelope.end = End::Open(next_seed);
        let bytes = envelope.to_bytes();
        // What a verifier would refuse is never handed out.
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// The bytes sealed: what is presented, so that the tool cannot append (law 5).
    pub fn seal(&self) -> Vec<u8> {
        let mut envelope = self.envelope.clone();
        if let (End::Open(seed), Some(last)) = (&self.envelope.end, envelope.blocks.last()) {
            envelope.end = End::Sealed(SigningKey::from_bytes(seed).sign(&last.seal_message()).to_bytes());
        }
        envelope.to_bytes()
    }
}

/// Mints a token: block 0 signed by a root key. `next_seed` is fresh and random.
pub fn mint(block: &Block0, root: &SigningKey, next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed> {
    block.check()?;
    let payload = vocabulary::write_block0(block, &mut Symbols::default());
    let mut first = SignedBlock { payload, next: Key::of(&SigningKey::from_bytes(&next_seed)), signature: [0; 64], external: None };
    first.signature = root.sign(&first.message(None)).to_bytes();
    let root_hint = Some(u32::from_be_bytes(card::hint(&Key::of(root))));
    let bytes = Envelope { root_hint, blocks: vec![first], end: End::Open(next_seed) }.to_bytes();
    UnverifiedToken::parse(&bytes)?;
    Ok(bytes)
}

/// SHA-256 of the payload of block 0 of a well-formed token: how the log names what was issued.
pub fn block0_hash(token: &UnverifiedToken) -> [u8; 32] {
    token.envelope.blocks.first().map_or([0; 32], |b| Sha256::digest(&b.payload).into())
}

impl Envelope {
    fn read(proto: schema::Biscuit) -> Result<Self, Malformed> {
        if proto.blocks.len() > MAX_BLOCKS {
            return Err(Malformed::new("token has more than 16 blocks after block 0"));
        }
        let root_hint = proto.root_key_id;
        let blocks = std::iter::once(proto.authority).chain(proto.blocks).map(SignedBlock::read).collect::<Result<Vec<_>, _>>()?;
        if blocks.first().is_some_and(|b| b.external.is_some()) {
            return Err(OUTSIDE);
        }
        let end = match proto.proof.content {
            Some(schema::proof::Content::FinalSignature(s)) => End::Sealed(s.try_into().map_err(|_| OUTSIDE)?),
            Some(schema::proof::Content::NextSecret(s)) => End::Open(s.try_into().map_err(|_| OUTSIDE)?),
            None => return Err(OUTSIDE),
        };
        Ok(Self { root_hint, blocks, end })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut blocks = self.blocks.iter().map(SignedBlock::to_proto);
        let authority = blocks.next().unwrap_or_default();
        let content = Some(match &self.end {
            End::Sealed(signature) => schema::proof::Content::FinalSignature(signature.to_vec()),
            End::Open(seed) => schema::proof::Content::NextSecret(seed.to_vec()),
        });
        schema::Biscuit { root_key_id: self.root_hint, authority, blocks: blocks.collect(), proof: schema::Proof { content } }.encode_to_vec()
    }
}

impl SignedBlock {
    fn read(proto: schema::SignedBlock) -> Result<Self, Malformed> {
        // L3: only signature version 1 binds a block to the one before it.
        if proto.version != Some(SIGNATURE_VERSION) {
            return Err(Malformed::new("block has another signature version, expected 1"));
        }
        let external =
            proto.external_signature.map(|e| Ok::<_, Malformed>((ed25519(e.public_key)?, e.signature.try_into().map_err(|_| OUTSIDE)?))).transpose()?;
        Ok(Self { payload: proto.block, next: ed25519(proto.next_key)?, signature: proto.signature.try_into().map_err(|_| OUTSIDE)?, external })
    }

    fn to_proto(&self) -> schema::SignedBlock {
        let key = |k: &Key| schema::PublicKey { algorithm: 0, key: k.as_bytes().to_vec() };
        schema::SignedBlock {
            block: self.payload.clone(),
            next_key: key(&self.next),
            signature: self.signature.to_vec(),
            external_signature: self.external.as_ref().map(|(k, s)| schema::ExternalSignature { signature: s.to_vec(), public_key: key(k) }),
            version: Some(SIGNATURE_VERSION),
        }
    }

    /// Biscuit's signed bytes of a block, signature version 1.
    fn message(&self, previous: Option<&[u8; 64]>) -> Vec<u8> {
        let mut m = Vec::with_capacity(self.payload.len() + 256);
        m.extend_from_slice(b"\0BLOCK\0\0VERSION\0\x01\0\0\0\0PAYLOAD\0");
        m.extend_from_slice(&self.payload);
        m.extend_from_slice(b"\0ALGORITHM\0\0\0\0\0\0NEXTKEY\0");
        m.extend_from_slice(self.next.as_bytes());
        if let Some(previous) = previous {
            m.extend_from_slice(b"\0PREVSIG\0");
            m.extend_from_slice(previous);
        }
        if let Some((_, external)) = &self.external {
            m.extend_from_slice(b"\0EXTERNALSIG\0");
            m.extend_from_slice(external);
        }
        m
    }

    /// Biscuit's signed bytes of a seal.
    fn seal_message(&self) -> Vec<u8> {
        [self.payload.as_slice(), &[0; 4], self.next.as_bytes(), &self.signature].concat()
    }
}

/// Biscuit's signed bytes of a third-party block, signature version 1.
fn external_message(payload: &[u8], previous: &[u8; 64]) -> Vec<u8> {
    [b"\0EXTERNAL\0\0VERSION\0\x01\0\0\0\0PAYLOAD\0".as_slice(), payload, b"\0PREVSIG\0", previous].concat()
}

fn ed25519(key: schema::PublicKey) -> Result<Key, Malformed> {
    // Another algorithm would bring signatures with two forms (P-256: (r, s) and (r, n-s)).
    if key.algorithm != 0 {
        return Err(Malformed::new("token uses another algorithm, expected Ed25519"));
    }
    Ok(Key::from_bytes(key.key.try_into().map_err(|_| OUTSIDE)?))
}

/// How a narrowing block is named for revocation: its Ed25519 signature has one form, and is signed over by what follows.
fn block_id(signature: &[u8; 64]) -> BlockId {
    let hash: [u8; 32] = Sha256::new_with_prefix(b"procura-block/1\0").chain_update(signature).finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(hash.split_at(16).0);
    BlockId::from_bytes(id)
}

const SIGNATURE_VERSION: u32 = 1;

/// A signature of the token is not what it must be. No more is said: which one would help a forger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token carries a signature that does not verify")]
pub struct BadSignature;

/// A token that the authority and every holder signed. Only [`UnverifiedToken::verify`] makes one.
///
/// Says nothing about now: time, revocation, freshness and the state of keys are asked at each decision.
#[derive(Clone)]
pub struct VerifiedToken {
    hash: [u8; 32],
    sealed: bool,
    block0: Block0,
    root: Key,
    card_keys: Vec<(Key, u64)>,
    tids: Vec<Tid>,
    lids: Vec<Lid>,
    block_ids: Vec<BlockId>,
    holders: Vec<Key>,
    agents: Vec<(AgentId, u64)>,
    expires_secs: u64,
    class_max: crate::claims::DataClass,
    narrowings: Vec<Restriction>,
}

impl VerifiedToken {
    /// What block 0 says.
    pub const fn block0(&self) -> &Block0 {
        &self.block0
    }
    /// SHA-256 of the presented bytes.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
    /// True if nobody can append to it.
    pub const fn is_sealed(&self) -> bool {
        self.sealed
    }
    /// The root key that signed it.
    pub const fn root(&self) -> &Key {
        &self.root
    }
    /// The keys that signed its cards, in order, each with its card's expiry in seconds.
    pub fn card_keys(&self) -> &[(Key, u64)] {
        &self.card_keys
    }
    /// Its own id, then its ancestors'.
    pub fn tids(&self) -> &[Tid] {
        &self.tids
    }
    /// The ids of its links, in order.
    pub fn lids(&self) -> &[Lid] {
        &self.lids
    }
    /// The ids of its narrowing blocks, in order.
    pub fn block_ids(&self) -> &[BlockId] {
        &self.block_ids
    }
    /// The holders, from block 0's to the last.
    pub fn holders(&self) -> &[Key] {
        &self.holders
    }
    /// The key whose proof a call must carry.
    pub fn last_holder(&self) -> &Key {
        self.holders.last().unwrap_or(&self.block0.holder)
    }
    /// The agents in the chain with the generations they were vouched for at.
    pub fn agents(&self) -> &[(AgentId, u64)] {
        &self.agents
    }
    /// First second after its validity, all blocks and cards considered.
    pub const fn expires_secs(&self) -> u64 {
        self.expires_secs
    }
    /// Ceiling on the class of data, all blocks considered.
    pub const fn class_max(&self) -> crate::claims::DataClass {
        self.class_max
    }
    /// What later blocks narrow beside time and class.
    pub fn narrowings(&self) -> &[Restriction] {
        &self.narrowings
    }
    /// True if the holder's proof is not asked for.
    pub fn is_bearer(&self) -> bool {
        self.block0.possession == Possession::Bearer
    }
}

// Tokens are credentials: neither form shows its bytes.
impl std::fmt::Debug for UnverifiedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UnverifiedToken({})", self.block0.tid)
    }
}
impl std::fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifiedToken({})", self.block0.tid)
    }
}

#[cfg(test)]
pub(crate) mod tests;
