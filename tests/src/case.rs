//! A case: a token, what the tool knows and is asked, and the outcome that the spec demands. Its JSON is a vector (`spec/vectors`).
//!
//! [`Case::judge`] is the whole way of a presentation, in the order in which a tool goes it: parse, signatures, proof, decision, replay.

use std::sync::Arc;

use procura_verifier::call::{Arguments, Call};
use procura_verifier::claims::{Audience, DataClass, HumanRef, Name};
use procura_verifier::decision::{Accept, Asked, Cause, Decision, Freshness, Mode, ToolPolicy, decide, lineage};
use procura_verifier::feed::message::{FloorScope, Freeze, Item};
use procura_verifier::ids::{BootTime, Clock, FreezeId, Key, UtcMillis};
use procura_verifier::key_list::{Anchors, KeyList, KeyListPayload, UnverifiedKeyList};
use procura_verifier::proof::{ReplayCache, UnverifiedProof};
use procura_verifier::receipt::Relied;
use procura_verifier::revocation::{Frozen as FrozenBy, Lineage, Lookup, RevocationView, RevokedBy, RevokedWhat, View};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::Canonical as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fixtures::{self, CallText};
use text::{base64url, base64url_option, hex_bytes, rfc3339, rfc3339_option};

mod text;

/// One vector.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Which law it is for: `L1` to `L11`.
    pub law: String,
    /// What is special here, in one line.
    pub about: String,
    /// What the tool starts from.
    pub trust: Trust,
    /// The presented bytes.
    #[serde(with = "base64url")]
    pub token: Vec<u8>,
    /// Authority UTC at the decision.
    #[serde(with = "rfc3339")]
    pub now: UtcMillis,
    /// When the request came in.
    #[serde(with = "rfc3339")]
    pub arrived: UtcMillis,
    /// What is asked.
    pub request: Request,
    /// What the tool insists on.
    pub tool: Tool,
    /// What it knows of revocations.
    pub view: Known,
    /// What must come out.
    pub expect: Expect,
}

/// What a tool starts from: the anchors, and the key list it last accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The anchors' keys.
    pub anchors: Vec<Key>,
    /// How many must sign.
    pub threshold: usize,
    /// The tool's tenant.
    pub tenant: String,
    /// The signed list.
    #[serde(with = "base64url")]
    pub key_list: Vec<u8>,
}

/// What is asked, as text: a part that cannot be read is malformed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The tenant of the resource, from the tool's records.
    pub tenant: String,
    /// Service and instance that decides.
    pub audience: String,
    /// The tool.
    pub tool: String,
    /// The action.
    pub action: String,
    /// The resource.
    pub resource: String,
    /// The arguments, byte for byte as they were written.
    pub args: Box<RawValue>,
    /// The class of data touched, by the tool's labels.
    pub data_class: DataClass,
    /// The holder's proof.
    #[serde(with = "base64url_option")]
    pub proof: Option<Vec<u8>>,
    /// How many times it is presented; the outcome is the last one's.
    pub times: u32,
}

/// The tool's own policy and challenge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Freshness bound in milliseconds; `null` is strict.
    pub freshness_ms: Option<u32>,
    /// Says best effort by name, and no bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub best_effort: bool,
    /// Takes bearer tokens.
    pub bearer: bool,
    /// Takes tokens that can still be extended.
    pub unsealed: bool,
    /// What nonces must start with.
    #[serde(with = "hex_bytes")]
    pub challenge: [u8; 16],
}

/// What is known of revocations, and how fresh.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Dead ids and keys.
    pub revoked: Vec<Dead>,
    /// Lowest generations still valid.
    pub floors: Vec<Floor>,
    /// Freezes, every version that was heard, in the order of arrival.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<Frozen>,
    /// Up to when everything was known before the view was fenced: it is known no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// Up to when everything is known; `null` before the first heartbeat.
    #[serde(with = "rfc3339_option")]
    pub fresh_as_of: Option<UtcMillis>,
}

/// One dead id or key, in its text form: `tid_…`, `lid_…`, `blk_…`, the hex of a holder key, or `root:` and the hex of a root key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dead {
    /// The id.
    pub id: String,
    /// The feed number that said so.
    pub seq: u64,
}

/// One floor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// `global`, `tenant`, `hid_…`, `agt_…` or `dlg_…`.
    pub of: String,
    /// The lowest generation still valid.
    pub generation: u64,
    /// The feed number that said so.
    pub seq: u64,
}

/// One version of a freeze.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// `frz_…`.
    pub id: FreezeId,
    /// Whom: `global`, `tenant`, `hid_…`, `agt_…` or `dlg_…`.
    pub of: String,
    /// First moment.
    #[serde(with = "rfc3339")]
    pub from: UtcMillis,
    /// First moment after it.
    #[serde(with = "rfc3339")]
    pub until: UtcMillis,
    /// The version.
    pub version: u64,
}

/// What a text names as subject of a floor or a freeze.
fn scope(of: &str) -> FloorScope {
    match of {
        "global" => FloorScope::Global,
        "tenant" => FloorScope::Tenant,
        _ => (of.parse().map(FloorScope::Human))
            .or_else(|_| of.parse().map(FloorScope::Agent))
            .or_else(|_| of.parse().map(FloorScope::Delegation))
            .unwrap_or_else(|_| panic!("`{of}` is no subject")),
    }
}

impl Known {
    /// The view of a verifier that learnt all this from its feed.
    pub fn learnt(&self, service: &Name, keys: KeyList, now: UtcMillis) -> View {
        let view = View::new(service.clone(), keys);
        for dead in &self.revoked {
            let (id, exp_secs) = (&dead.id, now.secs() + 86_400);
            let item = (id.parse().map(|tid| Item::Tid { tid, exp_secs }))
                .or_else(|_| id.parse().map(|lid| Item::Lid { lid, exp_secs }))
                .or_else(|_| id.parse().map(|block| Item::Block { block, exp_secs }))
                .or_else(|_| id.parse().map(|key| Item::HolderKey { key }))
                .or_else(|e| id.strip_prefix("root:").map_or(Err(e), |key| key.parse().map(|key| Item::RootKey { key })));
            view.apply(dead.seq, &[(0, item.unwrap_or_else(|_| panic!("`{id}` is no id")))]);
        }
        for floor in &self.floors {
            view.apply(floor.seq, &[(0, Item::Floor { scope: scope(&floor.of), generation: floor.generation })]);
        }
        for f in &self.freezes {
            view.apply(1, &[(0, Item::Freeze(Freeze { id: f.id, scope: scope(&f.of), from: f.from, until: f.until, version: f.version }))]);
        }
        if let Some(at) = self.fresh_as_of {
            assert!(view.observe_utc(now, boot(now)));
            view.publish(boot(at), Relied { epoch: 1, seq: 100, hash: [0; 32], utc: at });
        }
        if self.fenced {
            view.fence();
        }
        view
    }

    /// Fresh as of 20 ms ago; the floors are the generations of [`fixtures::block0`], nothing is revoked.
    pub fn fresh() -> Self {
        let block = fixtures::block0();
        let HumanRef::Id(human) = block.human else { panic!("the fixture names its human by id") };
        Self {
            revoked: vec![],
            floors: vec![
                Floor { of: human.to_string(), generation: block.generations.human, seq: 3 },
                Floor { of: block.agent.to_string(), generation: block.generations.agent, seq: 4 },
            ],
            freezes: vec![],
            fenced: false,
            fresh_as_of: Some(UtcMillis(fixtures::NOW.0 - 20)),
        }
    }
}

/// What must come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, untagged)]
pub enum Expect {
    /// An allow.
    Allowed {
        /// Always true.
        allowed: bool,
        /// Until when the effect may begin, where the vector is about that.
        #[serde(with = "rfc3339_option", skip_serializing_if = "Option::is_none", default)]
        valid_until: Option<UtcMillis>,
        /// The mode of freshness in force, where the vector is about that.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        mode: Option<String>,
    },
    /// A denial.
    Refused {
        /// The cause's word (law 11).
        refused: String,
        /// By what, of `revoked`; by which, of `frozen`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        by: Option<String>,
        /// The feed number, of `revoked`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        seq: Option<u64>,
    },
}

impl Case {
    /// The agent of block 0 asks for what the demo's token allows, at [`fixtures::NOW`], with a fresh view and a proof of `holder`.
    pub fn of(token: Vec<u8>, holder: u8) -> Self {
        let call = CallText::default();
        let mut case = Self {
            law: String::new(),
            about: String::new(),
            trust: Trust {
                anchors: vec![fixtures::public(fixtures::ANCHOR)],
                threshold: 1,
                tenant: "acme".into(),
                key_list: fixtures::signed(&fixtures::key_list_payload()),
            },
            token,
            now: fixtures::NOW,
            arrived: UtcMillis(fixtures::NOW.0 - 2),
            request: Request {
                tenant: call.tenant.into(),
                audience: call.audience.into(),
                tool: call.tool.into(),
                action: call.action.into(),
                resource: call.resource.into(),
                args: RawValue::from_string(call.args.into()).unwrap(),
                data_class: call.data_class,
                proof: None,
                times: 1,
            },
            tool: Tool { freshness_ms: None, best_effort: false, bearer: false, unsealed: false, challenge: fixtures::CHALLENGE },
            view: Known::fresh(),
            expect: Expect::allowed(),
        };
        case.sign(holder);
        case
    }

    /// Signs the present request and token with key `holder`, one second ago.
    pub fn sign(&mut self, holder: u8) {
        let r = &self.request;
        let call = CallText {
            tenant: &r.tenant,
            audience: &r.audience,
            tool: &r.tool,
            action: &r.action,
            resource: &r.resource,
            args: r.args.get(),
            data_class: r.data_class,
        };
        self.request.proof = Some(fixtures::proof(&self.token, holder, call, UtcMillis(self.now.0 - 1_000)).to_bytes());
    }

    /// The same with another key list, signed by the anchor.
    pub fn with_keys(mut self, change: impl FnOnce(&mut KeyListPayload)) -> Self {
        let mut payload = fixtures::key_list_payload();
        change(&mut payload);
        self.trust.key_list = fixtures::signed(&payload);
        self
    }

    /// The same with another request, signed again by `holder`.
    pub fn asking(mut self, holder: u8, change: impl FnOnce(&mut Request)) -> Self {
        change(&mut self.request);
        self.sign(holder);
        self
    }

    /// The key list that the trust gives.
    pub fn key_list(&self) -> KeyList {
        let anchors = Anchors::new(self.trust.anchors.clone(), self.trust.threshold).expect("anchors");
        let list = UnverifiedKeyList::from_bytes(&self.trust.key_list).expect("a key list");
        anchors.accept(&list, &self.trust.tenant.parse().expect("a tenant")).expect("an accepted key list")
    }

    /// What comes out: the moment until which it holds, or the first cause.
    pub fn judge(&self) -> Result<(UtcMillis, Mode), Cause> {
        let r = &self.request;
        let call = || {
            Ok::<_, procura_verifier::wire::Malformed>((
                r.audience.parse()?,
                r.tool.parse()?,
                r.action.parse()?,
                r.resource.parse()?,
                Arguments::from_json(r.args.get().as_bytes())?,
            ))
        };
        let (audience, tool, action, resource, args) = call().map_err(|_| Cause::Malformed)?;
        let tenant = r.tenant.parse().map_err(|_| Cause::Malformed)?;
        let call = Call { tenant: &tenant, audience: &audience, tool: &tool, action: &action, resource: &resource, args: &args, data_class: r.data_class };

        let keys = self.key_list();
        let token = UnverifiedToken::parse(&self.token).map_err(|_| Cause::Malformed)?;
        let proof = r.proof.as_ref().map(|p| UnverifiedProof::from_bytes(p).map_err(|_| Cause::Malformed)).transpose()?;
        let token = token.verify(&keys).map_err(|_| Cause::Signature)?;
        let proof = proof.ok_or(Cause::Holder).and_then(|p| p.verify(token.last_holder(), token.hash(), &call));

        let policy = ToolPolicy {
            freshness: match self.tool.freshness_ms {
                _ if self.tool.best_effort => Freshness::BestEffort,
                Some(ms) => Freshness::Bounded { ms },
                None => Freshness::Strict,
            },
            bearer: accept(self.tool.bearer),
            unsealed: accept(self.tool.unsealed),
        };
        let asked = proof.as_ref().map_or(Asked::Bearer(&call), |p| Asked::Proven(p.proven()));
        let view = self.view.learnt(audience.service(), keys, self.now);
        let replay = ReplayCache::new(self.tool.challenge, 64);
        let mut outcome = Err(Cause::Unavailable);
        for _ in 0..self.request.times {
            outcome = match decide(&token, asked, &policy, &view, &At(self.now), boot(self.arrived)) {
                Decision::Allow(allow) => match &proof {
                    Ok(proof) => replay.spend(proof, self.now).map(|()| (utc(allow.valid_until), allow.mode)),
                    Err(_) => Ok((utc(allow.valid_until), allow.mode)),
                },
                // A proof for another instance is named as such where nothing that comes earlier in law 11 stands.
                Decision::Deny(Cause::Holder) => Err(proof.as_ref().err().copied().unwrap_or(Cause::Holder)),
                Decision::Deny(cause) => Err(cause),
            };
        }
        outcome
    }

    /// What the two writings of law 6 say of the token: that of the verifier, and the plain one of [`KnownView`]. None if it does not verify.
    pub fn lookups(&self) -> Option<[(Lookup, Option<FreezeId>); 2]> {
        let service = self.request.audience.parse::<Audience>().ok()?;
        let token = UnverifiedToken::parse(&self.token).ok()?.verify(&self.key_list()).ok()?;
        let plain = KnownView { known: &self.view, service: service.service(), keys: Arc::new(self.key_list()), utc: self.now };
        let learnt = self.view.learnt(service.service(), self.key_list(), self.now);
        let both = lineage(&token);
        Some([(learnt.lookup(&both), learnt.frozen(&both, self.now).by), (plain.lookup(&both), plain.frozen(&both, self.now).by)])
    }

    /// Judges, and compares with what is expected; the difference as one sentence.
    pub fn check(&self) -> Result<(), String> {
        let got = self.judge();
        let as_expected = match (&self.expect, got) {
            (Expect::Allowed { allowed: true, valid_until, mode }, Ok((until, in_force))) => {
                valid_until.is_none_or(|u| u == until) && mode.as_ref().is_none_or(|m| m == in_force.word())
            }
            (Expect::Refused { refused, by, seq }, Err(cause)) => {
                let (said_by, said_seq) = match cause {
                    Cause::Revoked(r) => (Some(r.what.word().to_owned()), Some(r.seq)),
                    Cause::Frozen { id } => (Some(id.to_string()), None),
                    _ => (None, None),
                };
                refused == cause.word() && (by, seq) == (&said_by, &said_seq)
            }
            _ => false,
        };
        if as_expected { Ok(()) } else { Err(format!("expected {:?}, got {got:?}: {}", self.expect, self.about)) }
    }
}

impl Expect {
    /// An allow.
    pub const fn allowed() -> Self {
        Self::Allowed { allowed: true, valid_until: None, mode: None }
    }
    /// A denial with this cause.
    pub fn refused(word: &str) -> Self {
        Self::Refused { refused: word.into(), by: None, seq: None }
    }
    /// `revoked`.
    pub fn revoked(by: &str, seq: u64) -> Self {
        Self::Refused { refused: "revoked".into(), by: Some(by.into()), seq: Some(seq) }
    }
    /// `frozen`.
    pub fn frozen(by: &FreezeId) -> Self {
        Self::Refused { refused: "frozen".into(), by: Some(by.to_string()), seq: None }
    }
    /// True for an allow.
    pub const fn is_allow(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

const fn accept(yes: bool) -> Accept {
    if yes { Accept::Yes } else { Accept::No }
}

/// In cases the tool's machine was booted when 2029 began, and both clocks run alike.
const BOOTED: UtcMillis = UtcMillis(1_861_920_000_000);

/// The boot clock's reading at this moment.
pub const fn boot(utc: UtcMillis) -> BootTime {
    BootTime((utc.0 - BOOTED.0) * 1000)
}

const fn utc(boot: BootTime) -> UtcMillis {
    BOOTED.plus(boot.0 / 1000)
}

/// A clock that stands still.
pub struct At(pub UtcMillis);

impl Clock for At {
    fn boot(&self) -> BootTime {
        boot(self.0)
    }
    fn wall(&self) -> UtcMillis {
        self.0
    }
}

/// Law 6 written a second time, from the lists of a vector and without an index: the runner holds `revocation::View` against it.
pub struct KnownView<'a> {
    /// The lists.
    pub known: &'a Known,
    /// The verifier's own service.
    pub service: &'a Name,
    /// The key list in force.
    pub keys: Arc<KeyList>,
    /// Authority UTC.
    pub utc: UtcMillis,
}

impl KnownView<'_> {
    fn dead(&self, id: &impl std::fmt::Display) -> Option<u64> {
        let id = id.to_string();
        self.known.revoked.iter().filter(|d| d.id == id).map(|d| d.seq).min()
    }

    /// The floor and its number; 0 if none is known.
    fn floor(&self, of: &str) -> (u64, u64) {
        self.known.floors.iter().filter(|f| f.of == of).map(|f| (f.generation, f.seq)).max_by_key(|f| f.0).unwrap_or_default()
    }

    fn human_floor(&self, human: &HumanRef) -> (u64, u64) {
        match human {
            HumanRef::Id(hid) => self.floor(&hid.to_string()),
            HumanRef::Pairwise(_) => {
                let named = self.known.floors.iter().filter(|f| f.of.parse().is_ok_and(|hid| HumanRef::pairwise(hid, self.service) == *human));
                named.map(|f| (f.generation, f.seq)).max_by_key(|f| f.0).unwrap_or_default()
            }
        }
    }
}

impl RevocationView for KnownView<'_> {
    fn fresh_as_of(&self) -> Option<BootTime> {
        self.known.fresh_as_of.filter(|_| !self.known.fenced).map(boot)
    }

    fn lookup(&self, l: &Lineage<'_>) -> Lookup {
        let g = l.generations;
        let ids = (l.tids.iter().enumerate())
            .map(|(i, id)| (if i == 0 { RevokedWhat::Tid } else { RevokedWhat::Ancestor }, self.dead(id)))
            .chain(l.lids.iter().map(|id| (RevokedWhat::Lid, self.dead(id))))
            .chain(l.blocks.iter().map(|id| (RevokedWhat::Block, self.dead(id))))
            .chain(l.holders.iter().map(|key| (RevokedWhat::HolderKey, self.dead(key))))
            .chain([(RevokedWhat::RootKey, self.dead(&format!("root:{}", l.root)))]);
        let generations: Vec<_> = [
            (RevokedWhat::GlobalFloor, g.global, self.floor("global")),
            (RevokedWhat::TenantFloor, g.tenant, self.floor("tenant")),
            (RevokedWhat::HumanFloor, g.human, self.human_floor(&l.human)),
        ]
        .into_iter()
        .chain(l.agents.iter().map(|(agent, n)| (RevokedWhat::AgentFloor, *n, self.floor(&agent.to_string()))))
        .chain([(RevokedWhat::DelegationFloor, g.delegation, self.floor(&l.delegation.to_string()))])
        .collect();
        let floors = generations.iter().map(|(what, generation, (floor, seq))| (*what, (generation < floor).then_some(*seq)));
        if let Some(by) = ids.chain(floors).find_map(|(what, seq)| Some(RevokedBy { what, seq: seq? })) {
            return Lookup::Revoked(by);
        }
        if generations.iter().any(|(_, generation, (floor, _))| generation > floor) { Lookup::Behind } else { Lookup::Live }
    }

    fn frozen(&self, l: &Lineage<'_>, utc: UtcMillis) -> FrozenBy {
        let stops = |of: &str| match scope(of) {
            FloorScope::Global | FloorScope::Tenant => true,
            FloorScope::Human(hid) => l.human == HumanRef::Id(hid) || l.human == HumanRef::pairwise(hid, self.service),
            FloorScope::Agent(agent) => l.agents.iter().any(|(a, _)| *a == agent),
            FloorScope::Delegation(id) => l.delegation == id,
        };
        let all = &self.known.freezes;
        let newest = |f: &&Frozen| !all.iter().any(|other| other.id == f.id && other.version > f.version);
        let held = all.iter().filter(newest).filter(|f| f.from <= utc && utc < f.until && stops(&f.of));
        // Re-asked at once: this view keeps no windows. In vectors all that are in force at once are of one scope.
        FrozenBy { by: held.map(|f| f.id).min(), holds_until: utc }
    }

    fn was_complete(&self) -> bool {
        self.known.fresh_as_of.is_some()
    }

    fn key_list(&self) -> Arc<KeyList> {
        self.keys.clone()
    }

    fn utc(&self, _: BootTime) -> Option<UtcMillis> {
        self.known.fresh_as_of.map(|_| self.utc)
    }
}
