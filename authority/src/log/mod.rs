//! The log: signed events as leaves of an append-only tree, its checkpoints, and bundles that replay offline (`spec/log.md`).
//!
//! C2SP forms verbatim (signed-note, tlog-checkpoint, tlog-tiles), so that anybody's tool reads what stands here.
//! No I/O: the store keeps tiles and leaves, the writer appends, HTTP serves; this module says what the bytes are.

pub mod bundle;
pub mod checkpoint;
mod dsse;
pub mod event;
pub mod explain;
pub mod finding;
pub mod leaf;
pub mod proof;
pub mod replay;
pub mod tile;
pub mod tree;
mod ustar;
