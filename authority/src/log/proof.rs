//! Inclusion and consistency proofs (RFC 6962 §2.1.1, §2.1.2), made from stored tiles and checked without them (RFC 9162 §2.1).
//!
//! Our own, though the crate `tlog_tiles` has them: its arithmetic asserts, and sizes come from strangers. It checks ours in the tests.

use std::collections::BTreeMap;

use super::tree::{Hash, TILE_WIDTH, empty_root, node_hash, subtree};

/// Why a proof could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError<E> {
    /// The index or the older size is not inside the tree.
    #[error("{asked} is outside a tree of size {size}")]
    Outside {
        /// What was asked for.
        asked: u64,
        /// The tree's size.
        size: u64,
    },
    /// The store could not read a tile.
    #[error("tile {level}/{index}: {cause}")]
    Read {
        /// Level of the tile.
        level: u8,
        /// Its place.
        index: u64,
        /// What the store said.
        cause: E,
    },
    /// A tile is narrower than the size of the tree implies.
    #[error("tile {level}/{index} is {got} bytes long, expected {expected}")]
    Width {
        /// Level of the tile.
        level: u8,
        /// Its place.
        index: u64,
        /// Bytes read.
        got: usize,
        /// Bytes that the size implies.
        expected: usize,
    },
}

/// The hashes that prove leaf `index` to be in the tree of `size` leaves. `read(level, index, width)` gives a tile's
/// first `width` hashes (32 bytes each); each tile is asked for once.
pub fn inclusion_proof<E>(size: u64, index: u64, read: impl FnMut(u8, u64, u64) -> Result<Vec<u8>, E>) -> Result<Vec<Hash>, ProofError<E>> {
    if index >= size {
        return Err(ProofError::Outside { asked: index, size });
    }
    let mut tiles = Tiles { size, read, seen: BTreeMap::new() };
    let (mut lo, mut hi, mut proof) = (0, size, Vec::new());
    while hi - lo > 1 {
        let middle = lo + split(hi - lo);
        if index < middle {
            proof.push(tiles.hash(middle, hi)?);
            hi = middle;
        } else {
            proof.push(tiles.hash(lo, middle)?);
            lo = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The hashes that prove the tree of `old` leaves to be the beginning of the tree of `size` leaves.
pub fn consistency_proof<E>(size: u64, old: u64, read: impl FnMut(u8, u64, u64) -> Result<Vec<u8>, E>) -> Result<Vec<Hash>, ProofError<E>> {
    if old > size {
        return Err(ProofError::Outside { asked: old, size });
    }
    if old == 0 {
        return Ok(Vec::new());
    }
    let mut tiles = Tiles { size, read, seen: BTreeMap::new() };
    let (mut lo, mut hi, mut proof) = (0, size, Vec::new());
    while hi != old {
        let middle = lo + split(hi - lo);
        if old <= middle {
            proof.push(tiles.hash(middle, hi)?);
            hi = middle;
        } else {
            proof.push(tiles.hash(lo, middle)?);
            lo = middle;
        }
    }
    // The old root itself is known to the checker.
    if lo > 0 {
        proof.push(tiles.hash(lo, hi)?);
    }
    proof.reverse();
    Ok(proof)
}

/// True if `proof` shows that `leaf` stands at `index` under `root`.
pub fn verify_inclusion(size: u64, index: u64, leaf: &Hash, root: &Hash, proof: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            climb(&mut node, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// True if `proof` shows that the tree of `old` leaves with `old_root` is the beginning of the other.
pub fn verify_consistency(size: u64, root: &Hash, old: u64, old_root: &Hash, proof: &[Hash]) -> bool {
    if old > size {
        return false;
    }
    if old == size {
        return proof.is_empty() && root == old_root;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    let (mut node, mut last) = (old - 1, size - 1);
    let low = node.trailing_ones();
    node >>= low;
    last >>= low;
    // A complete old tree is itself the first hash.
    let (start, rest) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let Some((first, rest)) = proof.split_first() else { return false };
        (first, rest)
    };
    let (mut was, mut is) = (*start, *start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            was = node_hash(sibling, &was);
            is = node_hash(sibling, &is);
            climb(&mut node, &mut last);
        } else {
            is = node_hash(&is, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && was == *old_root && is == *root
}

/// Skips the levels at which a right-most node has no sibling.
fn climb(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        *node >>= 1;
        *last >>= 1;
    }
}

/// The largest power of two below `n`, for n ≥ 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

struct Tiles<R> {
    size: u64,
    read: R,
    seen: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<E, R: FnMut(u8, u64, u64) -> Result<Vec<u8>, E>> Tiles<R> {
    /// The hash over the leaves `lo..hi`, where `lo` is a multiple of the largest power of two in `hi - lo`.
    fn hash(&mut self, lo: u64, hi: u64) -> Result<Hash, ProofError<E>> {
        let mut subtrees = Vec::new();
        let mut at = lo;
        while at < hi {
            let height = (hi - at).ilog2();
            subtrees.push(self.complete(height, at >> height)?);
            at += 1 << height;
        }
        Ok(subtrees.into_iter().rev().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root))
    }

    /// The hash of the `n`-th complete subtree of 2^height leaves.
    fn complete(&mut self, height: u32, n: u64) -> Result<Hash, ProofError<E>> {
        let (level, inside) = ((height / 8) as u8, height % 8);
        let first = n << inside;
        let index = first / TILE_WIDTH;
        let tile = match self.seen.entry((level, index)) {
            std::collections::btree_map::Entry::Occupied(seen) => seen.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let width = ((self.size >> (8 * level)) - index * TILE_WIDTH).min(TILE_WIDTH);
                let bytes = (self.read)(level, index, width).map_err(|cause| ProofError::Read { level, index, cause })?;
                let (hashes, rest) = bytes.as_chunks::<32>();
                if hashes.len() as u64 != width || !rest.is_empty() {
                    return Err(ProofError::Width { level, index, got: bytes.len(), expected: width as usize * 32 });
                }
                place.insert(hashes.to_vec())
            }
        };
        let from = (first % TILE_WIDTH) as usize;
        let hashes = tile.get(from..from + (1 << inside));
        // The subtree is complete within `size`, so the tile checked above holds all of it.
        hashes.map(subtree).ok_or(ProofError::Width { level, index, got: tile.len() * 32, expected: (from + (1 << inside)) * 32 })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::tree::tests::{Oracle, Tiles, keep};
    use super::super::tree::{Tree, leaf_hash};
    use super::*;

    /// A log of `size` leaves as a store holds it, and as the other implementation does.
    fn log(size: u64) -> (Oracle, Tiles, Vec<Hash>) {
        let (oracle, mut tree, mut tiles) = (Oracle::default(), Tree::new(), Tiles::new());
        let mut roots = vec![tree.root()];
        for n in 0..size {
            oracle.append(n, &n.to_be_bytes());
            tree.append(leaf_hash(&n.to_be_bytes()));
            if size < 1000 {
                roots.push(tree.root());
            }
        }
        keep(&mut tree, &mut tiles);
        (oracle, tiles, roots)
    }

    /// Reads the first `width` hashes: a store answers for older sizes from wider tiles.
    fn reader(tiles: &Tiles) -> impl FnMut(u8, u64, u64) -> Result<Vec<u8>, Infallible> {
        |level, index, width| Ok(tiles[&(level, index)][..width as usize * 32].to_vec())
    }

    fn theirs(proof: &[Hash]) -> Vec<tlog_tiles::Hash> {
        proof.iter().map(|h| tlog_tiles::Hash(*h)).collect()
    }

    fn check_inclusion(oracle: &Oracle, tiles: &Tiles, size: u64, root: &Hash, index: u64) {
        let leaf = leaf_hash(&index.to_be_bytes());
        let proof = inclusion_proof(size, index, reader(tiles)).unwrap();
        assert_eq!(theirs(&proof), tlog_tiles::prove_record(size, index, &oracle).unwrap());
        tlog_tiles::check_record(&theirs(&proof), size, tlog_tiles::Hash(*root), index, tlog_tiles::Hash(leaf)).unwrap();
        assert!(verify_inclusion(size, index, &leaf, root, &proof));
        assert!(!verify_inclusion(size, index, &leaf_hash(b"other"), root, &proof));
        assert!(!verify_inclusion(size, index, &leaf, root, &[&proof[..], &[leaf]].concat()));
        if let Some((_, short)) = proof.split_last() {
            assert!(!verify_inclusion(size, index, &leaf, root, short));
            assert!(!verify_inclusion(size, (index + 1) % size, &leaf, root, &proof));
        }
    }

    fn check_consistency(oracle: &Oracle, tiles: &Tiles, size: u64, root: &Hash, old: u64, old_root: &Hash) {
        let proof = consistency_proof(size, old, reader(tiles)).unwrap();
        assert_eq!(theirs(&proof), tlog_tiles::prove_tree(size, old, &oracle).unwrap());
        tlog_tiles::check_tree(&theirs(&proof), size, tlog_tiles::Hash(*root), old, tlog_tiles::Hash(*old_root)).unwrap();
        assert!(verify_consistency(size, root, old, old_root, &proof));
        assert!(!verify_consistency(size, root, old, &[9; 32], &proof));
        assert!(!verify_consistency(size, &[9; 32], old, old_root, &proof));
        assert!(!verify_consistency(size, root, old, old_root, &[&proof[..], &[*root]].concat()));
        if let Some((_, short)) = proof.split_last() {
            assert!(!verify_consistency(size, root, old, old_root, short));
        }
    }

    #[test]
    fn proofs_of_every_size_to_70_and_of_600_are_those_of_tlog_tiles() {
        let (oracle, tiles, roots) = log(600);
        for size in (1..=70).chain([255, 256, 257, 511, 512, 513, 600]) {
            let root = roots[size as usize];
            for index in (0..size).filter(|i| size <= 70 || i % 31 == 0 || *i == size - 1) {
                check_inclusion(&oracle, &tiles, size, &root, index);
                check_consistency(&oracle, &tiles, size, &root, index + 1, &roots[index as usize + 1]);
            }
        }
    }

    #[test]
    fn proofs_hold_across_a_second_level_of_tiles() {
        for size in [65_535, 65_536, 65_537, 66_000] {
            let (oracle, tiles, _) = log(size);
            let root = oracle.root(size);
            for at in [0, 1, 255, 256, 32_768, 65_279, 65_280, 65_534, size - 1] {
                check_inclusion(&oracle, &tiles, size, &root, at);
                check_consistency(&oracle, &tiles, size, &root, at + 1, &oracle.root(at + 1));
            }
        }
    }

    #[test]
    fn what_is_outside_has_no_proof_and_hostile_sizes_end() {
        let (_, tiles, roots) = log(5);
        assert!(inclusion_proof(5, 4, reader(&tiles)).is_ok());
        assert!(matches!(inclusion_proof(5, 5, reader(&tiles)), Err(ProofError::Outside { asked: 5, size: 5 })));
        assert!(consistency_proof(5, 5, reader(&tiles)).unwrap().is_empty());
        assert!(consistency_proof(5, 6, reader(&tiles)).is_err());
        assert!(inclusion_proof(5, 0, |_, _, _| Ok::<_, Infallible>(vec![0; 96])).is_err());
        assert!(verify_consistency(5, &roots[5], 0, &roots[0], &[]));
        assert!(!verify_consistency(5, &roots[5], 0, &roots[1], &[]));
        for proof in [vec![], vec![[0; 32]; 64], vec![[0; 32]; 200]] {
            for (size, at) in [(u64::MAX, 0), (u64::MAX, u64::MAX - 1), (u64::MAX, u64::MAX), (1, u64::MAX), (0, 0)] {
                assert!(!verify_inclusion(size, at, &[0; 32], &[1; 32], &proof));
                assert!(!verify_consistency(size, &[0; 32], at, &[1; 32], &proof));
            }
        }
    }
}
