//! The append-only Merkle tree (RFC 6962 §2.1), of which memory holds only the right edge.
//!
//! In tiles of 256 hashes (C2SP tlog-tiles): per level at most 255 hashes wait here for their tile to fill.

use sha2::{Digest as _, Sha256};

/// A SHA-256 of the tree.
pub type Hash = [u8; 32];

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 256;

/// Levels of tiles that a tree of at most 2^64 leaves has.
pub const MAX_LEVELS: u8 = 8;

/// The hash of a leaf's bytes.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

/// The hash of two subtrees.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A tile to be stored: full ones never change again, a partial one replaces the narrower one at its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TileUpdate {
    /// 0 holds leaf hashes; each level above holds the hashes of full tiles below.
    pub level: u8,
    /// Place within the level.
    pub index: u64,
    /// 1 to 256 hashes of 32 bytes.
    pub hashes: Vec<u8>,
}

impl TileUpdate {
    /// Hashes in it: 1 to 256.
    pub fn width(&self) -> u64 {
        self.hashes.len() as u64 / 32
    }
}

/// Why stored tiles are not those of a tree of that size.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// The store could not read a tile.
    #[error("tile {level}/{index} of width {width}: {cause}")]
    Read {
        /// Level of the tile.
        level: u8,
        /// Its place.
        index: u64,
        /// Hashes asked for.
        width: u64,
        /// What the store said.
        cause: E,
    },
    /// A tile has another width than the size says.
    #[error("tile {level}/{index} is {got} bytes long, expected {expected}")]
    Width {
        /// Level of the tile.
        level: u8,
        /// Its place.
        index: u64,
        /// Bytes read.
        got: usize,
        /// Bytes that the size of the tree implies.
        expected: usize,
    },
}

/// The tree. A clone is cheap (at most 64 KiB): the writer appends to a clone and keeps it when the transaction commits.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tree {
    size: u64,
    /// Per level the hashes of the tile that is not full: 0 to 255.
    edge: Vec<Level>,
    /// Tiles that filled since the last take.
    full: Vec<TileUpdate>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Level {
    hashes: Vec<Hash>,
    /// Full tiles to the left of it.
    full: u64,
    changed: bool,
}

impl Tree {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree whose partial tiles `read(level, index, width)` gives back. Its root is *not* proven to be the one that
    /// was signed: the caller compares [`Tree::root`] with the checkpoint of the committed row.
    pub fn restore<E>(size: u64, mut read: impl FnMut(u8, u64, u64) -> Result<Vec<u8>, E>) -> Result<Self, RestoreError<E>> {
        let mut edge = Vec::new();
        for level in 0..MAX_LEVELS {
            let hashes = size >> (8 * level);
            if hashes == 0 {
                break;
            }
            let (index, width) = (hashes / TILE_WIDTH, hashes % TILE_WIDTH);
            let bytes = if width == 0 { Vec::new() } else { read(level, index, width).map_err(|cause| RestoreError::Read { level, index, width, cause })? };
            let (hashes, rest) = bytes.as_chunks::<32>();
            if hashes.len() as u64 != width || !rest.is_empty() {
                return Err(RestoreError::Width { level, index, got: bytes.len(), expected: width as usize * 32 });
            }
            edge.push(Level { hashes: hashes.to_vec(), full: index, changed: false });
        }
        Ok(Self { size, edge, full: Vec::new() })
    }

    /// Leaves in it.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its [`leaf_hash`]; returns its index.
    pub fn append(&mut self, leaf: Hash) -> u64 {
        let mut hash = leaf;
        for number in 0..MAX_LEVELS {
            let at = usize::from(number);
            if self.edge.len() == at {
                self.edge.push(Level::default());
            }
            let Some(level) = self.edge.get_mut(at) else { break };
            level.hashes.push(hash);
            level.changed = true;
            if (level.hashes.len() as u64) < TILE_WIDTH {
                break;
            }
            hash = subtree(&level.hashes);
            self.full.push(TileUpdate { level: number, index: level.full, hashes: level.hashes.concat() });
            *level = Level { hashes: Vec::new(), full: level.full + 1, changed: false };
        }
        self.size += 1;
        self.size - 1
    }

    /// The root: what a checkpoint signs. At most 255 hashes per level are computed.
    pub fn root(&self) -> Hash {
        // The subtrees of a tree are the bits of its size: small ones right. Fold from the right.
        let mut root: Option<Hash> = None;
        for level in &self.edge {
            let mut rest = level.hashes.as_slice();
            while !rest.is_empty() {
                let (left, last) = rest.split_at(rest.len() - (1 << rest.len().trailing_zeros()));
                let hash = subtree(last);
                root = Some(root.map_or(hash, |right| node_hash(&hash, &right)));
                rest = left;
            }
        }
        root.unwrap_or_else(empty_root)
    }

    /// The tiles that changed since the last call: full ones first, each level's partial one after them.
    pub fn take_changed_tiles(&mut self) -> Vec<TileUpdate> {
        let mut tiles = std::mem::take(&mut self.full);
        for (number, level) in (0..MAX_LEVELS).zip(&mut self.edge) {
            if std::mem::take(&mut level.changed) {
                tiles.push(TileUpdate { level: number, index: level.full, hashes: level.hashes.concat() });
            }
        }
        tiles
    }
}

/// The root over hashes whose number is a power of two.
pub(super) fn subtree(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            node_hash(&subtree(left), &subtree(right))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    /// Another implementation's storage of the same log.
    #[derive(Default)]
    pub struct Oracle(pub RefCell<Vec<tlog_tiles::Hash>>);

    impl tlog_tiles::HashReader for &Oracle {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
            let stored = self.0.borrow();
            Ok(indexes.iter().map(|i| stored[*i as usize]).collect())
        }
    }

    impl Oracle {
        pub fn append(&self, n: u64, leaf: &[u8]) {
            let new = tlog_tiles::stored_hashes(n, leaf, &self).expect("hashes");
            self.0.borrow_mut().extend(new);
        }
        pub fn root(&self, size: u64) -> Hash {
            tlog_tiles::tree_hash(size, &self).expect("root").0
        }
    }

    /// What a store keeps: the widest bytes at each place.
    pub type Tiles = BTreeMap<(u8, u64), Vec<u8>>;

    pub fn keep(tree: &mut Tree, tiles: &mut Tiles) {
        for t in tree.take_changed_tiles() {
            tiles.insert((t.level, t.index), t.hashes);
        }
    }

    fn check_tiles(oracle: &Oracle, tiles: &Tiles, size: u64) {
        let mut places = 0;
        for tile in tlog_tiles::Tile::new_tiles(8, 0, size) {
            let expected = tile.read_data(&oracle).expect("tile");
            assert_eq!(tiles[&(tile.level(), tile.level_index())], expected, "size {size}, tile {tile:?}");
            places += 1;
        }
        assert_eq!(tiles.len(), places, "size {size}");
    }

    #[test]
    fn every_size_to_600_and_around_65_536_has_the_tiles_and_root_of_tlog_tiles() {
        let (oracle, mut tree, mut tiles) = (Oracle::default(), Tree::new(), Tiles::new());
        assert_eq!(tree.root(), oracle.root(0));
        for n in 0..65_536 + 520_u64 {
            let leaf = n.to_be_bytes();
            oracle.append(n, &leaf);
            assert_eq!(tree.append(leaf_hash(&leaf)), n);
            let size = n + 1;
            if size <= 600 || (65_536 - 3..=65_536 + 3).contains(&size) || size == 65_536 + 520 {
                keep(&mut tree, &mut tiles);
                assert_eq!(tree.root(), oracle.root(size), "size {size}");
                check_tiles(&oracle, &tiles, size);
                let again = Tree::restore(size, |l, i, w| {
                    let tile = tiles[&(l, i)].clone();
                    assert_eq!(tile.len() as u64, w * 32);
                    Ok::<_, Infallible>(tile)
                });
                assert_eq!(again.expect("restored"), tree, "size {size}");
            }
        }
    }

    #[test]
    fn a_batch_gives_each_changed_tile_once() {
        let mut tree = Tree::new();
        for n in 0..600_u64 {
            tree.append(leaf_hash(&n.to_be_bytes()));
        }
        let places: Vec<_> = tree.take_changed_tiles().iter().map(|t| (t.level, t.index, t.width())).collect();
        assert_eq!(places, [(0, 0, 256), (0, 1, 256), (0, 2, 88), (1, 0, 2)]);
        assert_eq!(tree.take_changed_tiles(), []);
        tree.append([0; 32]);
        let places: Vec<_> = tree.take_changed_tiles().iter().map(|t| (t.level, t.index, t.width())).collect();
        assert_eq!(places, [(0, 2, 89)]);
    }

    #[test]
    fn a_stored_tile_of_the_wrong_width_is_refused() {
        let tile = |bytes: usize| Tree::restore(3, |_, _, _| Ok::<_, Infallible>(vec![0; bytes]));
        assert!(tile(96).is_ok());
        for wrong in [0, 64, 95, 97, 128] {
            assert!(matches!(tile(wrong), Err(RestoreError::Width { expected: 96, .. })), "{wrong}");
        }
        let lost = Tree::restore(3, |_, _, _| Err::<Vec<u8>, _>("no such row"));
        assert_eq!(lost.unwrap_err().to_string(), "tile 0/0 of width 3: no such row");
    }
}
