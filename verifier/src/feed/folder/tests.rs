use super::*;
use crate::feed::fixture;
use crate::feed::message::{Batch, Item, genesis_hash};
use crate::feed::snapshot::{Manifest, SegmentEntry, SegmentKind};
use crate::ids::Tid;
use crate::revocation::IdKind;
use std::sync::Arc;

const NOW: BootTime = BootTime(1_000_000);

fn chain(from: u64, mut prev: [u8; 32], ids: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    (from..)
        .zip(ids)
        .map(|(seq, n)| {
            let items = vec![(seq, Item::Tid { tid: Tid::from_bytes([n; 16]), exp_secs: u64::MAX })];
            let batch = Batch { tenant: fixture::tenant(), epoch: 1, seq, prev, issued: fixture::UTC, items };
            let signed = SignedMessage::sign(&Message::Batch(batch), &fixture::feed_key());
            prev = signed.hash();
            signed.to_bytes()
        })
        .collect()
}

/// A process that another test starts at this moment holds what is open here until it is another program: its copy of the lock too.
fn open(path: &Path) -> Folder {
    for _ in 0..1000 {
        match Folder::open(path) {
            Err(FolderError::Held) => std::thread::sleep(std::time::Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
    panic!("held for a second");
}

fn start() -> FeedState {
    FeedState::new(Arc::new(View::new("payments".parse().unwrap(), fixture::key_list(1, &[]))))
}

fn load(path: &Path) -> (FeedState, Result<usize, FolderError>, Folder) {
    let mut state = start();
    let view = Arc::clone(state.view());
    let mut folder = open(path);
    let loaded = folder.load(&view, || NOW, |with| with(&mut state));
    (state, loaded, folder)
}

/// Five messages, the first three of them in a snapshot.
fn filled(path: &Path) {
    let messages = chain(1, genesis_hash(&fixture::tenant(), 1), 1..6);
    let hash = SignedMessage::from_bytes(&messages[2]).unwrap().hash();
    let ids = [[1; 16], [2; 16], [3; 16]].concat();
    let segment = SegmentEntry::of(SegmentKind::Ids(IdKind::Tid), u64::MAX / 3600, 3, &ids);
    let manifest = Manifest { tenant: fixture::tenant(), epoch: 1, seq: 3, hash, issued: fixture::UTC, segments: vec![segment] };
    let signed = SignedMessage::sign(&Message::Manifest(manifest), &fixture::feed_key());
    let snapshot = Snapshot::verify(&signed, &fixture::key_list(1, &[])).unwrap();
    let mut folder = open(path);
    folder.append(&messages).unwrap();
    folder.put_segment(&segment.sha256, &ids).unwrap();
    folder.put_segment(&[7; 32], b"of an older one").unwrap();
    folder.adopt(&signed, &snapshot).unwrap();
    folder.put_utc(fixture::UTC).unwrap();
    assert!(!folder.has_segment(&[7; 32]));
}

#[test]
fn a_warm_start_knows_what_was_known() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let (state, loaded, _) = load(dir.path());
    assert_eq!(loaded.unwrap(), 2, "those after the manifest");
    assert_eq!((state.watermark().1, state.view().known().ids), (5, 5));
    assert!(state.view().fresh_as_of().is_none(), "knowing is not being fresh");
    assert!(state.view().observe_utc(UtcMillis(fixture::UTC.0 - 60_000), NOW));
    assert_eq!(state.view().utc(NOW), Some(fixture::UTC), "authority time does not fall over a restart");
}

#[test]
fn a_torn_tail_costs_the_last_message_and_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let messages = chain(1, genesis_hash(&fixture::tenant(), 1), 1..4);
    open(dir.path()).append(&messages).unwrap();
    let path = dir.path().join(MESSAGES);
    let all = fs::read(&path).unwrap();
    let last = all.len() - messages[2].len() - 8;
    for cut in last..all.len() {
        fs::write(&path, &all[..cut]).unwrap();
        let (state, loaded, mut folder) = load(dir.path());
        assert_eq!((loaded.unwrap(), state.watermark().1), (2, 2), "cut at {cut}");
        folder.append(&messages[2..]).unwrap();
        drop(folder);
        assert_eq!(load(dir.path()).1.unwrap(), 3);
    }
}

#[test]
fn a_file_that_was_made_longer_and_never_filled_costs_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let messages = chain(1, genesis_hash(&fixture::tenant(), 1), 1..4);
    open(dir.path()).append(&messages).unwrap();
    let path = dir.path().join(MESSAGES);
    let whole = fs::metadata(&path).unwrap().len();
    for zeros in [1, 3, 4, 8, 12, 4096] {
        File::options().write(true).open(&path).unwrap().set_len(whole + zeros).unwrap();
        let (state, loaded, _) = load(dir.path());
        assert_eq!((loaded.unwrap(), state.watermark().1, fs::metadata(&path).unwrap().len()), (3, 3, whole), "{zeros} zeros");
    }
    // Its twin: zeros where a message stood are damage.
    let mut bytes = fs::read(&path).unwrap();
    bytes[..100].fill(0);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(load(dir.path()).1, Err(FolderError::Damaged(_))));
}

/// The kernel cuts a write short, as a full disk does: under a limit on the size of files, in a process of its own.
#[test]
fn what_a_full_disk_tears_is_cut_off_and_the_next_message_is_kept() {
    const NAME: &str = "feed::folder::tests::what_a_full_disk_tears_is_cut_off_and_the_next_message_is_kept";
    let messages = chain(1, genesis_hash(&fixture::tenant(), 1), 1..200);
    if let Some(path) = std::env::var_os("PROCURA_FULL_DISK") {
        let mut folder = open(Path::new(&path));
        folder.append(&messages[..1]).unwrap();
        let whole = folder.messages_bytes();
        folder.append(&messages[1..]).expect_err("a limit of 16 KiB at most");
        assert_eq!((folder.messages_bytes(), fs::metadata(Path::new(&path).join(MESSAGES)).unwrap().len()), (whole, whole));
        folder.append(&messages[1..2]).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut limited = std::process::Command::new("sh");
    // Blocks of 512 or 1,024 bytes, as the shell has it.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    let done = limited.args(["--exact", NAME]).env("PROCURA_FULL_DISK", dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let (state, loaded, _) = load(dir.path());
    assert_eq!((loaded.unwrap(), state.watermark().1), (2, 2));
}

#[test]
fn each_damaged_byte_is_noticed_and_the_folder_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut files = vec![dir.path().join(MANIFEST), dir.path().join(MESSAGES), dir.path().join(UTC)];
    files.extend(fs::read_dir(dir.path().join(SEGMENTS)).unwrap().map(|e| e.unwrap().path()));
    for file in &files {
        let good = fs::read(file).unwrap();
        for at in (0..good.len()).step_by(good.len() / 40 + 1) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(file, &bad).unwrap();
            let (state, loaded, _) = load(dir.path());
            // The length and the last frame can look torn: then less is known, and nothing else.
            assert!(loaded.is_err() || state.watermark().1 < 5, "{} byte {at}", file.display());
        }
        fs::write(file, &good).unwrap();
    }
    fs::write(&files[0], b"junk").unwrap();
    let (_, loaded, mut folder) = load(dir.path());
    assert!(matches!(loaded, Err(FolderError::Damaged(_))));
    folder.set_aside().unwrap();
    drop(folder);
    let (state, loaded, _) = load(dir.path());
    assert_eq!((loaded.unwrap(), state.watermark().1), (0, 0));
}

#[test]
fn a_folder_of_another_authority_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let other = ed25519_dalek::SigningKey::from_bytes(&[99; 32]);
    let signed = SignedMessage::from_bytes(&fs::read(dir.path().join(MANIFEST)).unwrap()).unwrap();
    let forged = SignedMessage::sign(&Message::from_bytes(signed.unverified_payload()).unwrap(), &other);
    fs::write(dir.path().join(MANIFEST), forged.to_bytes()).unwrap();
    let (state, loaded, _) = load(dir.path());
    assert!(matches!(loaded, Err(FolderError::Damaged(_))));
    assert_eq!(state.view().known().ids, 0);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let held = open(dir.path());
    assert!(matches!(Folder::open(dir.path()), Err(FolderError::Held)));
    drop(held);
    open(dir.path());
}
