//! A tar of exactly one form: ustar, files only, mode 0644, owner 0, time 0, two zero blocks at the end and nothing after.
//!
//! Written by hand: a reader that regenerates each header and compares it is stricter than one that interprets it, and shorter.

use super::finding::{Finding, FindingClass, Place};

const BLOCK: usize = 512;
const MAX_PATH_BYTES: usize = 100;
/// Eleven octal digits.
const MAX_FILE_BYTES: u64 = (1 << 33) - 1;

/// Appends a member. `None` if its path is empty or too long, or its bytes are: the caller's paths are not.
pub fn push(tar: &mut Vec<u8>, path: &str, bytes: &[u8]) -> Option<()> {
    tar.extend(header(path, bytes.len() as u64)?);
    tar.extend(bytes);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    Some(())
}

/// Ends the tar.
pub fn finish(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 2 * BLOCK, 0);
}

/// A member: path and bytes.
pub type Member<'a> = (&'a str, &'a [u8]);

/// The members, in order, of a tar that [`push`] and [`finish`] wrote. Paths are text but otherwise unchecked.
pub fn read(tar: &[u8]) -> Result<Vec<Member<'_>>, Finding> {
    let mut members = Vec::new();
    let mut rest = tar;
    loop {
        let at = (tar.len() - rest.len()) as u64;
        let wrong = |place: Place, sentence: &str| Finding::new(FindingClass::Container, place, sentence);
        let Some((head, after)) = rest.split_first_chunk::<BLOCK>() else {
            return Err(wrong(Place::Byte(at), "the file ends, expected a member or the two zero blocks of the end"));
        };
        if head.iter().all(|b| *b == 0) {
            if after.len() == BLOCK && after.iter().all(|b| *b == 0) {
                return Ok(members);
            }
            return Err(wrong(Place::Byte(at), "expected exactly two zero blocks at the end"));
        }
        let (path, size) = name_and_size(head).ok_or_else(|| wrong(Place::Byte(at), "expected the header of a member"))?;
        if header(path, size).as_ref() != Some(head) {
            return Err(wrong(Place::member(path.escape_default()), "its header is not the one that export writes"));
        }
        let cut = || wrong(Place::member(path.escape_default()), "the file ends inside it");
        let size = usize::try_from(size).map_err(|_| cut())?;
        let (bytes, after) = after.split_at_checked(size).ok_or_else(cut)?;
        let (padding, after) = after.split_at_checked(size.next_multiple_of(BLOCK) - size).ok_or_else(cut)?;
        if padding.iter().any(|b| *b != 0) {
            return Err(wrong(Place::member(path.escape_default()), "expected zeros between its end and the next block"));
        }
        members.push((path, bytes));
        rest = after;
    }
}

/// The one header of a file with that path and size.
fn header(path: &str, size: u64) -> Option<[u8; BLOCK]> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') || size > MAX_FILE_BYTES {
        return None;
    }
    let fields = |checksum: &str| {
        let mut head = Vec::with_capacity(BLOCK);
        head.extend(path.as_bytes());
        head.resize(100, 0);
        head.extend(b"0000644\x000000000\x000000000\0"); // mode, uid, gid
        head.extend(format!("{size:011o}\0").bytes());
        head.extend(b"00000000000\0"); // time of change
        head.extend(checksum.bytes());
        head.extend(b"0"); // a file
        head.resize(257, 0); // no link
        head.extend(b"ustar\x0000");
        head.resize(329, 0); // no names of owners
        head.extend(b"0000000\x000000000\0"); // no device
        head.resize(BLOCK, 0); // no prefix
        <[u8; BLOCK]>::try_from(head).ok()
    };
    let sum: u32 = fields("        ")?.iter().map(|b| u32::from(*b)).sum();
    fields(&format!("{sum:06o}\0 "))
}

fn name_and_size(head: &[u8; BLOCK]) -> Option<(&str, u64)> {
    let name = head.get(..100)?.split(|b| *b == 0).next()?;
    let size = std::str::from_utf8(head.get(124..135)?).ok()?;
    Some((std::str::from_utf8(name).ok()?, u64::from_str_radix(size, 8).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn two() -> Vec<u8> {
        let mut tar = Vec::new();
        push(&mut tar, "a", b"hello").unwrap();
        push(&mut tar, "tile/entries/x001/234.p/5", &[7; 512]).unwrap();
        finish(&mut tar);
        tar
    }

    #[test]
    fn what_is_written_is_read_here_and_by_the_tar_crate() {
        let tar = two();
        assert_eq!(read(&tar), Ok(vec![("a", &b"hello"[..]), ("tile/entries/x001/234.p/5", &[7; 512])]));
        let mut theirs = tar::Archive::new(tar.as_slice());
        let files = theirs.entries().unwrap().map(|e| {
            let mut e = e.unwrap();
            assert_eq!((e.header().mode().unwrap(), e.header().mtime().unwrap(), e.header().uid().unwrap()), (0o644, 0, 0));
            let mut bytes = Vec::new();
            e.read_to_end(&mut bytes).unwrap();
            (e.path().unwrap().to_string_lossy().into_owned(), bytes)
        });
        assert_eq!(files.collect::<Vec<_>>(), [("a".to_owned(), b"hello".to_vec()), ("tile/entries/x001/234.p/5".to_owned(), vec![7; 512])]);
    }

    #[test]
    fn every_bit_outside_the_contents_and_every_cut_is_found() {
        let tar = two();
        let contents = |at: usize| (512..517).contains(&at) || (1536..2048).contains(&at);
        for bit in (0..tar.len() * 8).filter(|bit| !contents(bit / 8)) {
            let mut flipped = tar.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..tar.len() {
            assert!(read(&tar[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read(&[&tar[..], &[0]].concat()).is_err());
        assert!(read(&[&tar[..], &[0; 512]].concat()).is_err());
    }

    #[test]
    fn links_and_folders_and_other_tars_are_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut head = tar::Header::new_ustar();
        head.set_size(0);
        head.set_mode(0o644);
        head.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut head, "a", "/etc/passwd").unwrap();
        assert!(read(&builder.into_inner().unwrap()).is_err());
        let mut tar = Vec::new();
        assert!(push(&mut tar, &"a".repeat(101), b"").is_none());
        assert!(push(&mut tar, "", b"").is_none());
        assert!(push(&mut tar, &"a".repeat(100), b"").is_some());
    }
}
