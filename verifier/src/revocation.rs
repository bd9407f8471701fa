//! (lead's minimal shape; the feed helper's file replaces it at merge)
use std::sync::Arc;
use crate::claims::{Generations, HumanRef};
use crate::ids::*;
use crate::key_list::KeyList;
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RevokedWhat { Tid, Ancestor, Lid, Block, HolderKey, GlobalFloor, TenantFloor, HumanFloor, AgentFloor, DelegationFloor }
impl RevokedWhat { pub const fn word(self) -> &'static str { "x" } }
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RevokedBy { pub what: RevokedWhat, pub seq: u64 }
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup { Live, Revoked(RevokedBy), Behind }
pub struct Lineage<'a> { pub tids: &'a [Tid], pub lids: &'a [Lid], pub blocks: &'a [BlockId], pub holders: &'a [Key], pub human: HumanRef, pub agents: &'a [(AgentId, u64)], pub delegation: DelegationId, pub generations: Generations }
pub trait RevocationView {
    fn fresh_as_of(&self) -> Option<BootTime>;
    fn lookup(&self, lineage: &Lineage<'_>) -> Lookup;
    fn key_list(&self) -> Arc<KeyList>;
    fn utc(&self, now: BootTime) -> Option<UtcMillis>;
}
impl RevokedWhat { #[allow(missing_docs)] pub fn from_word(_: &str) -> Option<Self> { Some(Self::Tid) } }
