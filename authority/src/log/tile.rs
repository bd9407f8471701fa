//! Where tiles stand (C2SP tlog-tiles paths) and how leaves are packed into entry bundles.

use std::fmt;
use std::str::FromStr;

use super::tree::{MAX_LEVELS, TILE_WIDTH};

/// Longest leaf, in bytes: entry bundles carry lengths of 16 bits.
pub const MAX_LEAF_BYTES: usize = 65_535;

/// What a tile holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Layer {
    /// Hashes of one level, 0 to 7.
    Hashes(u8),
    /// The leaves under a tile of level 0.
    Entries,
}

/// A tile's place: `tile/0/x001/234.p/5` or `tile/entries/000`. Only places that a tree of 2^64 leaves can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TilePath {
    layer: Layer,
    index: u64,
    width: u64,
}

/// Why a text or three numbers are no place of a tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a tile path of C2SP tlog-tiles, such as `tile/0/x001/234.p/5`")]
pub struct TilePathError;

impl TilePath {
    /// The place; `width` is 1 to 256.
    pub fn new(layer: Layer, index: u64, width: u64) -> Result<Self, TilePathError> {
        let level = match layer {
            Layer::Hashes(level) => level,
            Layer::Entries => 0,
        };
        let most = u64::MAX.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
        if level >= MAX_LEVELS || index > most || width == 0 || width > TILE_WIDTH {
            return Err(TilePathError);
        }
        Ok(Self { layer, index, width })
    }

    /// What it holds.
    pub const fn layer(&self) -> Layer {
        self.layer
    }
    /// Its place within the layer.
    pub const fn index(&self) -> u64 {
        self.index
    }
    /// Hashes or leaves in it: 256 when full.
    pub const fn width(&self) -> u64 {
        self.width
    }

    /// True if a tree of `size` leaves has all of it.
    pub const fn is_within(&self, size: u64) -> bool {
        let hashes = match self.layer {
            Layer::Hashes(level) => match size.checked_shr(8 * level as u32) {
                Some(n) => n,
                None => 0,
            },
            Layer::Entries => size,
        };
        // The index is bounded by `new`: this cannot overflow.
        self.index * TILE_WIDTH + self.width <= hashes
    }

    /// All tiles of one layer of a tree of `size` leaves, left to right.
    pub fn all(layer: Layer, size: u64) -> impl Iterator<Item = Self> {
        let hashes = match layer {
            Layer::Hashes(level) => size.checked_shr(8 * u32::from(level)).unwrap_or(0),
            Layer::Entries => size,
        };
        (0..hashes.div_ceil(TILE_WIDTH)).map(move |index| Self { layer, index, width: (hashes - index * TILE_WIDTH).min(TILE_WIDTH) })
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Layer::Hashes(level) => write!(f, "tile/{level}/")?,
            Layer::Entries => f.write_str("tile/entries/")?,
        }
        let groups: Vec<u64> = std::iter::successors(Some(self.index), |n| (*n >= 1000).then_some(n / 1000)).collect();
        for (place, group) in groups.iter().enumerate().rev() {
            let last = place == 0;
            write!(f, "{}{:03}{}", if last { "" } else { "x" }, group % 1000, if last { "" } else { "/" })?;
        }
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

impl FromStr for TilePath {
    type Err = TilePathError;

    fn from_str(text: &str) -> Result<Self, TilePathError> {
        let body = text.strip_prefix("tile/").filter(|_| text.len() <= MAX_PATH_BYTES).ok_or(TilePathError)?;
        let (layer, body) = body.split_once('/').ok_or(TilePathError)?;
        let layer = if layer == "entries" { Layer::Entries } else { Layer::Hashes(layer.parse().map_err(|_| TilePathError)?) };
        let (groups, width) = match body.split_once(".p/") {
            Some((groups, width)) => (groups, width.parse().map_err(|_| TilePathError)?),
            None => (body, TILE_WIDTH),
        };
        let mut index = 0_u64;
        for group in groups.split('/') {
            let digits: u64 = group.strip_prefix('x').unwrap_or(group).parse().map_err(|_| TilePathError)?;
            index = index.checked_mul(1000).and_then(|n| n.checked_add(digits)).ok_or(TilePathError)?;
        }
        let path = Self::new(layer, index, width)?;
        // One text per place: leading zeros, signs, a width of 256 and groups out of form all end here.
        if path.to_string() == text { Ok(path) } else { Err(TilePathError) }
    }
}

/// Why bytes are not an entry bundle of that width.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntriesError {
    /// A leaf is too long to be written.
    #[error("leaf is {0} bytes long, expected at most {MAX_LEAF_BYTES}")]
    TooLong(usize),
    /// The bytes end inside entry number `.0` of the bundle.
    #[error("ends inside entry {0}")]
    Truncated(u64),
    /// Bytes follow the last entry.
    #[error("{0} bytes follow the last entry")]
    Trailing(usize),
}

/// Appends a leaf to an entry bundle.
pub fn push_entry(bundle: &mut Vec<u8>, leaf: &[u8]) -> Result<(), EntriesError> {
    let len = u16::try_from(leaf.len()).map_err(|_| EntriesError::TooLong(leaf.len()))?;
    bundle.extend(len.to_be_bytes());
    bundle.extend(leaf);
    Ok(())
}

/// The `width` leaves of an entry bundle; no more, no less.
pub fn read_entries(bundle: &[u8], width: u64) -> Result<Vec<&[u8]>, EntriesError> {
    let mut rest = bundle;
    let mut leaves = Vec::new();
    for n in 0..width {
        let (len, body) = rest.split_first_chunk::<2>().ok_or(EntriesError::Truncated(n))?;
        let (leaf, after) = body.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(EntriesError::Truncated(n))?;
        leaves.push(leaf);
        rest = after;
    }
    if rest.is_empty() { Ok(leaves) } else { Err(EntriesError::Trailing(rest.len())) }
}

/// Longer than the longest path: an index has at most 17 digits.
const MAX_PATH_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_tlog_tiles_and_read_back() {
        for index in [0, 7, 999, 1000, 1234, 1_234_067, 999_999_999, u64::MAX >> 8] {
            for width in [1, 17, 255, 256] {
                let path = TilePath::new(Layer::Hashes(0), index, width).unwrap();
                // The crate writes the older form, `tile/8/0/…` with the height.
                let theirs = tlog_tiles::Tile::new(8, 0, index, width as u32, false).path().replacen("tile/8/", "tile/", 1);
                assert_eq!(path.to_string(), theirs);
                assert_eq!(theirs.parse(), Ok(path));
                let entries = TilePath::new(Layer::Entries, index, width).unwrap();
                assert_eq!(entries.to_string(), theirs.replacen("tile/0/", "tile/entries/", 1));
                assert_eq!(entries.to_string().parse(), Ok(entries));
            }
        }
    }

    #[test]
    fn one_text_per_place() {
        for good in ["tile/0/x001/234", "tile/0/x001/234.p/5", "tile/entries/000.p/255", "tile/7/000.p/1"] {
            assert!(good.parse::<TilePath>().is_ok(), "{good}");
        }
        for bad in [
            "tile/0/001/234",
            "tile/0/x000/234",
            "tile/0/x001/x234",
            "tile/00/000",
            "tile/+0/000",
            "tile/8/000",
            "tile/0/1",
            "tile/0/+01",
            "tile/0/0001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/05",
            "tile/0/000.p/5/",
            "tile/0/000/",
            "/tile/0/000",
            "tile/0/../000",
            "tile/data/000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/7/001",
            "",
        ] {
            assert!(bad.parse::<TilePath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_says_its_tiles() {
        let paths = |layer, size| TilePath::all(layer, size).map(|p| p.to_string()).collect::<Vec<_>>();
        assert_eq!(paths(Layer::Hashes(1), 70_000), ["tile/1/000", "tile/1/001.p/17"]);
        assert_eq!(paths(Layer::Hashes(2), 70_000), ["tile/2/000.p/1"]);
        assert_eq!(paths(Layer::Entries, 256), ["tile/entries/000"]);
        assert_eq!(TilePath::all(Layer::Hashes(0), 70_000).count(), 274);
        assert_eq!(TilePath::all(Layer::Hashes(3), 70_000).count(), 0);
    }

    #[test]
    fn entries_read_what_was_written_and_nothing_else() {
        let mut bundle = Vec::new();
        let long = vec![7; MAX_LEAF_BYTES];
        for leaf in [&b"a"[..], b"", &long] {
            push_entry(&mut bundle, leaf).unwrap();
        }
        assert_eq!(read_entries(&bundle, 3), Ok(vec![&b"a"[..], b"", &long]));
        assert_eq!(read_entries(&bundle, 2), Err(EntriesError::Trailing(2 + MAX_LEAF_BYTES)));
        assert_eq!(read_entries(&bundle, 4), Err(EntriesError::Truncated(3)));
        assert_eq!(read_entries(&bundle[..4], 2), Err(EntriesError::Truncated(1)));
        assert_eq!(push_entry(&mut bundle, &vec![7; MAX_LEAF_BYTES + 1]), Err(EntriesError::TooLong(65_536)));
    }
}
