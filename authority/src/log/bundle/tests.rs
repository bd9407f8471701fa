use std::io::Read as _;

use procura_verifier::ids::VerifierId;
use procura_verifier::key_list::{Anchors, KeyListPayload, ListedKey};

use super::super::event::{Denials, Encoded, Event, KeyListRecorded};
use super::super::finding::{Finding, FindingClass, Place};
use super::super::leaf::SignedLeaf;
use super::*;

const ANCHOR: u8 = 1;
const EVENT: u8 = 2;
const LOG: u8 = 3;
/// The next event and log keys.
const NEXT: (u8, u8) = (4, 5);
const NOW: u64 = 1000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn acme() -> Tenant {
    "acme".parse().unwrap()
}

fn anchors() -> Anchors {
    Anchors::new(vec![Key::of(&key(ANCHOR))], 1).unwrap()
}

fn listed(usage: KeyUse, n: u8, from: u64, until: u64) -> ListedKey {
    ListedKey { usage, key: Key::of(&key(n)), from: UtcMillis(from), until: UtcMillis(until) }
}

fn list(version: u64, mut keys: Vec<ListedKey>, dead: &[u8]) -> UnverifiedKeyList {
    keys.sort_by_key(|k| (k.usage, k.key));
    let mut dead: Vec<_> = dead.iter().map(|n| Key::of(&key(*n))).collect();
    dead.sort();
    UnverifiedKeyList::sign(&KeyListPayload { tenant: acme(), version, issued: UtcMillis(1), max_ttl_secs: 60, keys, dead }, &[&key(ANCHOR)])
}

/// The list of the passing twin: both keys hold from 0 to 2000.
fn first_list() -> UnverifiedKeyList {
    list(1, vec![listed(KeyUse::Event, EVENT, 0, 2000), listed(KeyUse::Log, LOG, 0, 2000)], &[])
}

fn recorded(list: &UnverifiedKeyList) -> Event {
    let version = anchors().accept(list, &acme()).unwrap().payload().version;
    KeyListRecorded { version, hash: Digest(key_list_hash(list)), key_list: Encoded(list.to_bytes()) }.into()
}

fn denials(n: u64) -> Event {
    Denials { denials: Encoded(n.to_be_bytes().to_vec()), verifier: VerifierId::from_bytes([7; 16]) }.into()
}

fn leaf(event: &Event, at: u64, n: u8) -> Vec<u8> {
    SignedLeaf::sign(event, &acme(), UtcMillis(at), &key(n)).unwrap().into_bytes()
}

/// A log whose every part a test may bend before it is written.
struct Log {
    list: UnverifiedKeyList,
    leaves: Vec<Vec<u8>>,
    feed: Vec<Vec<u8>>,
    log_key: u8,
}

impl Log {
    fn of(size: u64) -> Self {
        let first = leaf(&recorded(&first_list()), NOW, EVENT);
        let leaves = std::iter::once(first).chain((1..size).map(|n| leaf(&denials(n), NOW + n / 10, EVENT))).collect();
        Self { list: first_list(), leaves, feed: vec![b"one".to_vec(), b"another".to_vec()], log_key: LOG }
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut tree = Tree::new();
        for leaf in &self.leaves {
            tree.append(leaf_hash(leaf));
        }
        Checkpoint { origin: "procura.example/acme".parse().unwrap(), size: tree.size(), root: tree.root() }
    }

    fn write(&self) -> Vec<u8> {
        self.write_at(NOW).unwrap()
    }

    fn write_at(&self, exported: u64) -> Result<Vec<u8>, ExportError> {
        let accepted = anchors().accept(&self.list, &acme()).unwrap();
        let mut writer = BundleWriter::new(&accepted, &self.list)?;
        for leaf in &self.leaves {
            writer.leaf(leaf)?;
        }
        for message in &self.feed {
            writer.feed_message(message)?;
        }
        writer.finish(self.checkpoint().sign(&key(self.log_key))?.as_bytes(), UtcMillis(exported), &key(self.log_key))
    }
}

fn read(bytes: &[u8]) -> Result<Bundle, Finding> {
    Bundle::read(bytes, &anchors(), &acme(), Limits::default())
}

fn refused(bytes: &[u8]) -> (FindingClass, Place) {
    let finding = read(bytes).expect_err("a finding");
    (finding.class, finding.place)
}

/// What somebody with a log key can make of a bundle: any members, listed as they are.
fn resealed(bytes: &[u8], signer: u8, change: impl FnOnce(&mut Manifest, &mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let mut members: Vec<(String, Vec<u8>)> = ustar::read(bytes).unwrap().into_iter().map(|(p, b)| (p.to_owned(), b.to_vec())).collect();
    let envelope = dsse::UnverifiedEnvelope::parse(&members.remove(0).1, MAX_MANIFEST_BYTES, MANIFEST_TYPE).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(envelope.unverified_payload()).unwrap();
    change(&mut manifest, &mut members);
    manifest.members = members.iter().map(|(path, b)| Listed { path: path.clone(), size: b.len() as u64, sha256: Digest::of(b) }).collect();
    with_manifest(&manifest.seal(&key(signer)).unwrap(), &members)
}

fn with_manifest(manifest: &[u8], members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Vec::new();
    ustar::push(&mut tar, MANIFEST, manifest).unwrap();
    for (path, b) in members {
        ustar::push(&mut tar, path, b).unwrap();
    }
    ustar::finish(&mut tar);
    tar
}

fn edit(bytes: &[u8], path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    resealed(bytes, LOG, |_, members| change(&mut members.iter_mut().find(|(p, _)| p == path).expect("the member").1))
}

fn member(path: &str) -> Place {
    Place::Member(path.to_owned())
}

#[test]
fn what_export_writes_replay_reads_at_every_shape_of_the_tree() {
    for size in [1, 2, 255, 256, 257, 266, 512, 600] {
        let log = Log::of(size);
        let bytes = log.write();
        assert_eq!(bytes, log.write(), "deterministic at {size}");
        let bundle = read(&bytes).unwrap_or_else(|f| panic!("size {size}: {f}"));
        assert_eq!(bundle.leaves().len() as u64, size);
        assert_eq!((bundle.checkpoint(), bundle.feed()), (&log.checkpoint(), &log.feed[..]));
        assert_eq!(bundle.leaves().last().map(|l| l.hash), log.leaves.last().map(|l| leaf_hash(l)));
        assert_eq!(bundle.key_list_at(size).unwrap().hash(), bundle.key_list().hash());
        assert_eq!((bundle.manifest().tree_size, bundle.manifest().exported_ms), (size, UtcMillis(NOW)));
    }
}

#[test]
fn the_tar_crate_finds_the_paths_of_c2sp_in_it() {
    let bytes = Log::of(300).write();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let files: Vec<(String, Vec<u8>)> = archive
        .entries()
        .unwrap()
        .map(|e| {
            let (mut e, mut b) = (e.unwrap(), Vec::new());
            e.read_to_end(&mut b).unwrap();
            (e.path().unwrap().to_string_lossy().into_owned(), b)
        })
        .collect();
    let vkey = format!("keys/{}.vkey", Key::of(&key(LOG)));
    let paths: Vec<_> = files.iter().map(|(p, _)| p.as_str()).collect();
    let expected = [
        "manifest.json",
        "checkpoint",
        "feed",
        "keys/list",
        &vkey,
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
    ];
    assert_eq!(paths, expected);
    // Their key file opens the checkpoint in somebody else's reader.
    let verifier = signed_note::StandardVerifier::new(std::str::from_utf8(&files[4].1).unwrap().trim_end()).unwrap();
    let note = signed_note::Note::from_bytes(&files[1].1).unwrap();
    assert!(note.verify(&signed_note::VerifierList::new(vec![Box::new(verifier)])).is_ok());
}

#[test]
fn every_flipped_byte_is_found() {
    let bytes = Log::of(6).write();
    assert!(read(&bytes).is_ok());
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(read(&flipped).is_err(), "byte {at}");
    }
    for cut in (0..bytes.len()).step_by(61) {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(read(&[&bytes[..], b"\0"].concat()).is_err());
}

#[test]
fn a_flipped_byte_is_named() {
    let bytes = Log::of(6).write();
    for (path, body) in ustar::read(&bytes).unwrap() {
        let mut flipped = bytes.clone();
        let at = body.as_ptr() as usize - bytes.as_ptr() as usize;
        flipped[at + body.len() / 2] ^= 1;
        assert_eq!(refused(&flipped).1, member(path));
    }
    let mut flipped = bytes.clone();
    let body = find_body(&bytes, "tile/entries/000.p/6");
    flipped[body + 2] ^= 1;
    let finding = read(&flipped).unwrap_err();
    assert_eq!(finding.class.exit_code(), 10);
    let sentence = finding.to_string();
    assert!(sentence.starts_with("member `tile/entries/000.p/6`: has sha256 ") && sentence.contains(", expected "), "{sentence}");
}

fn find_body(bytes: &[u8], path: &str) -> usize {
    let members = ustar::read(bytes).unwrap();
    members.iter().find(|(p, _)| *p == path).unwrap().1.as_ptr() as usize - bytes.as_ptr() as usize
}

#[test]
fn members_missing_added_moved_or_escaping_are_found() {
    let bytes = Log::of(6).write();
    assert!(read(&resealed(&bytes, LOG, |_, _| ())).is_ok());
    let found = |change: fn(&mut Vec<(String, Vec<u8>)>)| refused(&resealed(&bytes, LOG, |_, m| change(m)));
    assert_eq!(found(|m| drop(m.remove(1))), (FindingClass::Container, member("feed")));
    assert_eq!(found(|m| m.swap(0, 1)), (FindingClass::Container, member("checkpoint")));
    assert_eq!(found(|m| m.push(("more".into(), vec![]))), (FindingClass::Container, member("more")));
    assert_eq!(found(|m| m.push(("../../etc/passwd".into(), vec![]))), (FindingClass::Container, member("../../etc/passwd")));
    assert_eq!(found(|m| m[5].0 = "tile/entries/000.p/7".into()), (FindingClass::Container, member("tile/entries/000.p/6")));
    assert_eq!(found(|m| m.push(m[0].clone())), (FindingClass::Container, member("checkpoint")));
    assert_eq!(found(|m| m[3].1.push(b'\n')).0, FindingClass::Container);
    // Listed but absent, and the other way round.
    let members: Vec<(String, Vec<u8>)> = ustar::read(&bytes).unwrap().into_iter().map(|(p, b)| (p.to_owned(), b.to_vec())).collect();
    assert_eq!(refused(&with_manifest(&members[0].1, &members[1..6])), (FindingClass::Container, member("tile/entries/000.p/6")));
    let more = [&members[1..], &[("more".into(), vec![])]].concat();
    assert_eq!(refused(&with_manifest(&members[0].1, &more)), (FindingClass::Container, member("more")));
}

#[test]
fn leaves_dropped_doubled_swapped_or_rewritten_change_the_root() {
    let log = Log::of(6);
    let bytes = log.write();
    let entries = |leaves: &[Vec<u8>]| {
        let mut bundle = Vec::new();
        leaves.iter().for_each(|l| push_entry(&mut bundle, l).unwrap());
        bundle
    };
    for n in 1..5 {
        let mut swapped = log.leaves.clone();
        swapped.swap(n, n + 1);
        let mut doubled = log.leaves.clone();
        doubled[n + 1] = doubled[n].clone();
        // The event key alone rewrites no history.
        let mut rewritten = log.leaves.clone();
        rewritten[n] = leaf(&denials(99), NOW, EVENT);
        for leaves in [swapped, doubled, rewritten] {
            let bad = edit(&bytes, "tile/entries/000.p/6", |b| *b = entries(&leaves));
            assert_eq!(refused(&bad), (FindingClass::Root, member("tile/0/000.p/6")));
            // Nor when the tiles are made to fit.
            let hashes: Vec<u8> = leaves.iter().flat_map(|l| leaf_hash(l)).collect();
            let bad = edit(&bad, "tile/0/000.p/6", |b| *b = hashes);
            assert_eq!(refused(&bad), (FindingClass::Root, member("checkpoint")));
        }
        let mut dropped = log.leaves.clone();
        dropped.remove(n);
        let bad = edit(&bytes, "tile/entries/000.p/6", |b| *b = entries(&dropped));
        assert_eq!(refused(&bad), (FindingClass::Root, member("tile/entries/000.p/6")));
    }
    let bad = edit(&bytes, "tile/0/000.p/6", |b| b[40] ^= 1);
    assert_eq!(read(&bad).unwrap_err().to_string(), "member `tile/0/000.p/6`: its hash 1 is not that of the leaves under it");
    let bad = edit(&bytes, "tile/0/000.p/6", |b| b.extend([0; 32]));
    assert_eq!(refused(&bad).0, FindingClass::Root);
}

#[test]
fn a_checkpoint_of_another_key_size_or_log_is_refused() {
    let log = Log::of(6);
    let bytes = log.write();
    let sign = |c: Checkpoint, n: u8| edit(&bytes, "checkpoint", |b| *b = c.sign(&key(n)).unwrap().into_bytes());
    assert!(read(&sign(log.checkpoint(), LOG)).is_ok());
    assert_eq!(refused(&sign(log.checkpoint(), EVENT)), (FindingClass::Signature, member("checkpoint")));
    assert_eq!(refused(&sign(Checkpoint { size: 5, ..log.checkpoint() }, LOG)), (FindingClass::Root, member("checkpoint")));
    assert_eq!(refused(&sign(Checkpoint { root: [0; 32], ..log.checkpoint() }, LOG)), (FindingClass::Root, member("checkpoint")));
    let other = Checkpoint { origin: "procura.example/other".parse().unwrap(), ..log.checkpoint() };
    assert_eq!(refused(&sign(other, LOG)), (FindingClass::Signature, member("checkpoint")));
}

#[test]
fn the_manifest_is_signed_by_a_log_key_in_its_window() {
    let log = Log::of(6);
    let bytes = log.write();
    assert_eq!(refused(&resealed(&bytes, EVENT, |_, _| ())), (FindingClass::Signature, member("manifest.json")));
    assert!(log.write_at(2000).is_ok_and(|b| read(&b).is_ok()));
    assert!(matches!(log.write_at(2001), Err(ExportError::ManifestKey(_))));
    let late = resealed(&bytes, LOG, |m, _| m.exported_ms = UtcMillis(2001));
    assert_eq!(refused(&late), (FindingClass::Signature, member("manifest.json")));
    for bad in [
        resealed(&bytes, LOG, |m, _| m.format = "procura-bundle/2".into()),
        resealed(&bytes, LOG, |m, _| m.tenant = "other".parse().unwrap()),
        resealed(&bytes, LOG, |m, _| m.tree_size = 0),
        resealed(&bytes, LOG, |m, _| m.tree_size = u64::MAX),
    ] {
        assert_eq!(refused(&bad), (FindingClass::Container, member("manifest.json")));
    }
    // The same manifest in another form of JSON, under a good signature.
    let members: Vec<(String, Vec<u8>)> = ustar::read(&bytes).unwrap().into_iter().map(|(p, b)| (p.to_owned(), b.to_vec())).collect();
    let envelope = dsse::UnverifiedEnvelope::parse(&members[0].1, MAX_MANIFEST_BYTES, MANIFEST_TYPE).unwrap();
    let spaced = [envelope.unverified_payload(), b" "].concat();
    let bad = with_manifest(&dsse::seal(MANIFEST_TYPE, &spaced, &key(LOG)).unwrap(), &members[1..]);
    assert_eq!(refused(&bad), (FindingClass::Container, member("manifest.json")));
    let bad = with_manifest(&[&members[0].1[..], b" "].concat(), &members[1..]);
    assert_eq!(refused(&bad), (FindingClass::Container, member("manifest.json")));
}

#[test]
fn keys_come_from_the_anchors_and_from_nowhere_else() {
    let bytes = Log::of(6).write();
    let strangers = Anchors::new(vec![Key::of(&key(9))], 1).unwrap();
    let finding = Bundle::read(&bytes, &strangers, &acme(), Limits::default()).unwrap_err();
    assert_eq!((finding.class, finding.place), (FindingClass::Signature, member("keys/list")));
    let finding = Bundle::read(&bytes, &anchors(), &"other".parse().unwrap(), Limits::default()).unwrap_err();
    assert_eq!((finding.class, finding.place), (FindingClass::Signature, member("keys/list")));
    let vkey = format!("keys/{}.vkey", Key::of(&key(LOG)));
    let mine = Vkey { origin: "procura.example/acme".parse().unwrap(), key: Key::of(&key(9)) };
    assert_eq!(refused(&edit(&bytes, &vkey, |b| *b = vkey_member(&mine).into_bytes())), (FindingClass::Container, member(&vkey)));
}

#[test]
fn leaves_open_under_the_list_in_force_where_they_stand() {
    let with = |change: fn(&mut Log)| {
        let mut log = Log::of(4);
        change(&mut log);
        read(&log.write()).map(|b| b.leaves().len()).map_err(|f| (f.class, f.place))
    };
    assert_eq!(with(|_| ()), Ok(4));
    assert_eq!(with(|l| l.leaves[2] = leaf(&denials(2), NOW, LOG)), Err((FindingClass::Leaf, Place::Leaf(2))));
    assert_eq!(with(|l| l.leaves[2] = b"{}".to_vec()), Err((FindingClass::Leaf, Place::Leaf(2))));
    assert_eq!(with(|l| l.leaves[2] = leaf(&denials(2), 2000, EVENT)), Ok(4));
    assert_eq!(with(|l| l.leaves[2] = leaf(&denials(2), 2001, EVENT)), Err((FindingClass::Leaf, Place::Leaf(2))));
    assert_eq!(with(|l| drop(l.leaves.remove(0))), Err((FindingClass::Leaf, Place::Leaf(0))));
    let foreign = |l: &mut Log| l.leaves[2] = SignedLeaf::sign(&denials(2), &"other".parse().unwrap(), UtcMillis(NOW), &key(EVENT)).unwrap().into_bytes();
    assert_eq!(with(foreign), Err((FindingClass::Leaf, Place::Leaf(2))));
    // The checkpoint was signed when its last leaf was: here after the end of the log key.
    let late = |l: &mut Log| {
        l.list = list(1, vec![listed(KeyUse::Event, EVENT, 0, 3000), listed(KeyUse::Log, LOG, 0, 2000)], &[]);
        l.leaves = vec![leaf(&recorded(&l.list), NOW, EVENT), leaf(&denials(1), 2001, EVENT)];
    };
    assert_eq!(with(late), Err((FindingClass::Signature, member("checkpoint"))));
}

#[test]
fn a_key_that_dies_vouches_for_what_stands_before() {
    let second = || {
        let keys = vec![
            listed(KeyUse::Event, EVENT, 0, 2000),
            listed(KeyUse::Event, NEXT.0, 0, 2000),
            listed(KeyUse::Log, LOG, 0, 2000),
            listed(KeyUse::Log, NEXT.1, 0, 2000),
        ];
        list(2, keys, &[EVENT, LOG])
    };
    let rotated = || {
        let mut log = Log::of(3);
        log.leaves.push(leaf(&recorded(&second()), NOW, NEXT.0));
        log.leaves.push(leaf(&denials(9), NOW, NEXT.0));
        Log { list: second(), log_key: NEXT.1, ..log }
    };
    let bundle = read(&rotated().write()).unwrap();
    assert_eq!((bundle.key_list_at(2).unwrap().payload().version, bundle.key_list_at(3).unwrap().payload().version), (1, 2));

    let mut after = rotated();
    after.leaves[4] = leaf(&denials(9), NOW, EVENT);
    assert_eq!(refused(&after.write()), (FindingClass::Leaf, Place::Leaf(4)));
    let mut by_the_dead = rotated();
    by_the_dead.leaves[3] = leaf(&recorded(&second()), NOW, EVENT);
    assert_eq!(refused(&by_the_dead.write()), (FindingClass::Leaf, Place::Leaf(3)));
    assert!(matches!(Log { log_key: LOG, ..rotated() }.write_at(NOW), Err(ExportError::ManifestKey(_))));
    // A list that the log recorded and the bundle hides, and the other way round.
    assert_eq!(refused(&Log { list: first_list(), log_key: LOG, ..rotated() }.write()), (FindingClass::State, member("keys/list")));
    let mut unrecorded = rotated();
    unrecorded.leaves.truncate(3);
    assert_eq!(refused(&unrecorded.write()), (FindingClass::State, member("keys/list")));
    // Versions only rise.
    let mut again = rotated();
    again.leaves.push(leaf(&recorded(&first_list()), NOW, EVENT));
    assert_eq!(refused(&again.write()), (FindingClass::State, Place::Leaf(5)));
    // A list by strangers, recorded with the true event key.
    let strange = UnverifiedKeyList::sign(&KeyListPayload { version: 3, ..anchors().accept(&second(), &acme()).unwrap().payload().clone() }, &[&key(9)]);
    let mut forged = rotated();
    forged.leaves.push(leaf(&KeyListRecorded { version: 3, hash: Digest(key_list_hash(&strange)), key_list: Encoded(strange.to_bytes()) }.into(), NOW, NEXT.0));
    assert_eq!(refused(&forged.write()), (FindingClass::Signature, Place::Leaf(5)));
}

#[test]
fn the_feed_is_whole_messages() {
    let bytes = Log::of(3).write();
    let feed = |b: &'static [u8]| edit(&bytes, "feed", |f| *f = b.to_vec());
    assert!(read(&feed(b"")).is_ok_and(|b| b.feed().is_empty()));
    assert!(read(&feed(b"\0\0\0\x01a")).is_ok_and(|b| b.feed() == [b"a"]));
    for bad in [&b"\0\0\0"[..], b"\0\0\0\0", b"\0\0\0\x02a", b"\0\x01\0\x01a", b"\xff\xff\xff\xffa"] {
        assert_eq!(refused(&feed(bad)), (FindingClass::Feed, Place::FeedMessage(0)), "{bad:?}");
    }
    assert_eq!(refused(&feed(b"\0\0\0\x01a\0")), (FindingClass::Feed, Place::FeedMessage(1)));
}

#[test]
fn size_is_bounded_before_anything_is_read() {
    let bytes = Log::of(1).write();
    let load = |max_bytes: u64, file: &[u8]| Bundle::load(file, &anchors(), &acme(), Limits { max_bytes });
    assert!(load(bytes.len() as u64, &bytes).is_ok());
    assert!(matches!(load(bytes.len() as u64 - 1, &bytes), Err(LoadError::Finding(Finding { class: FindingClass::Container, .. }))));
    let endless = Bundle::load(std::io::repeat(0), &anchors(), &acme(), Limits { max_bytes: 10_000 });
    assert!(matches!(endless, Err(LoadError::Finding(_))));
}

#[test]
fn export_writes_no_bundle_that_replay_refuses() {
    let accepted = anchors().accept(&first_list(), &acme()).unwrap();
    let other = list(2, vec![listed(KeyUse::Log, LOG, 0, 2000)], &[]);
    assert!(matches!(BundleWriter::new(&accepted, &other), Err(ExportError::KeyList)));
    let log = Log::of(2);
    let writer = || BundleWriter::new(&accepted, &log.list).unwrap();
    let note = log.checkpoint().sign(&key(LOG)).unwrap();
    let finish = |w: BundleWriter<'_>| w.finish(note.as_bytes(), UtcMillis(NOW), &key(LOG));
    assert!(matches!(finish(writer()), Err(ExportError::Empty)));
    let mut one = writer();
    one.leaf(&log.leaves[0]).unwrap();
    assert!(matches!(finish(one), Err(ExportError::Root { got: 1, expected: 2 })));
    assert!(matches!(writer().feed_message(b""), Err(ExportError::FeedMessage(0))));
    assert!(matches!(writer().feed_message(&vec![0; MAX_FEED_MESSAGE_BYTES + 1]), Err(ExportError::FeedMessage(_))));
}
