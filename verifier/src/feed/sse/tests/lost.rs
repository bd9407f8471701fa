//! Handing back what an authority lost (F20): messages, manifest and segments of the folder.

use axum::extract::Path;
use sha2::Digest as _;

use super::*;
use crate::feed::snapshot::{Manifest, SegmentEntry, SegmentKind};
use crate::revocation::IdKind;

pub(super) async fn snapshot(State(a): State<Arc<Authority>>) -> Response {
    match &*lock(&a.snapshot) {
        Some((manifest, _)) => Json(serde_json::json!({ "message": text(manifest) })).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(super) async fn segment(State(a): State<Arc<Authority>>, Path(hash): Path<String>) -> Response {
    match &*lock(&a.snapshot) {
        Some((_, bytes)) if hash == hex::encode(sha2::Sha256::digest(bytes)) => bytes.clone().into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(super) async fn lost(State(a): State<Arc<Authority>>, Json(body): Json<serde_json::Value>) -> Response {
    if a.lost_refused.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let wanted = body["manifest"].as_str().is_some_and(|text| {
        let signed = SignedMessage::from_bytes(&BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
        let Ok(Message::Manifest(manifest)) = Message::from_bytes(signed.unverified_payload()) else { panic!("expected a manifest") };
        !lock(&a.history).iter().any(|m| m.hash() == manifest.hash)
    });
    lock(&a.lost).push(body);
    Json(serde_json::json!({ "taken": 0, "known": 0, "wanted": wanted })).into_response()
}

impl Authority {
    /// Cuts a snapshot of the first so many messages.
    fn cut(&self, upto: usize) {
        let of = |m: &SignedMessage| match Message::from_bytes(m.unverified_payload()) {
            Ok(Message::Batch(Batch { items, .. })) => {
                items.into_iter().map(|(_, item)| if let Item::Tid { tid, .. } = item { *tid.as_bytes() } else { panic!("{item:?}") })
            }
            other => panic!("{other:?}"),
        };
        let bytes = lock(&self.history).iter().take(upto).flat_map(of).collect::<Vec<_>>().concat();
        let entry = SegmentEntry::of(SegmentKind::Ids(IdKind::Tid), u64::MAX / 3600, bytes.len() as u64 / 16, &bytes);
        let hash = lock(&self.history)[upto - 1].hash();
        let manifest = Manifest { tenant: fixture::tenant(), epoch: 1, seq: upto as u64, hash, issued: fixture::UTC, segments: vec![entry] };
        *lock(&self.snapshot) = Some((SignedMessage::sign(&Message::Manifest(manifest), &fixture::feed_key()), bytes));
    }

    fn handed_messages(&self) -> Vec<String> {
        let lost = lock(&self.lost);
        lost.iter().filter_map(|b| b["messages"].as_array()).flatten().map(|m| m.as_str().unwrap().to_owned()).collect()
    }
}

/// Eight messages, the first seven of them in the snapshot that the client begins with.
async fn begun(authority: &Arc<Authority>, address: &str, folder: &std::path::Path) -> (FeedClient, Arc<Mutex<Vec<Alarm>>>) {
    (1..=8).for_each(|n| authority.commit(n));
    authority.cut(7);
    let alarms = Arc::<Mutex<Vec<Alarm>>>::default();
    let heard = Arc::clone(&alarms);
    let client = client_with(address, |c| {
        c.folder = Some(folder.to_owned());
        c.on_alarm = Box::new(move |alarm| lock(&heard).push(alarm.clone()));
    });
    until("all of it", || client.status().watermark.1 == 8 && client.view().fresh_as_of().is_some()).await;
    until("kept", || folder.join("manifest").exists()).await;
    (client, alarms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fork_messages_manifest_and_segments_are_handed_back() {
    let (authority, dir) = (Authority::new(1), tempfile::tempdir().unwrap());
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let (client, alarms) = begun(&authority, &address, dir.path()).await;
    let last = text(lock(&authority.history).last().unwrap());
    let (manifest, segment) = authority.snapshot.lock().unwrap().clone().unwrap();
    assert!(lock(&authority.lost).is_empty(), "nothing is lost yet");

    // A backup of the first two, without the snapshot.
    *lock(&authority.snapshot) = None;
    lock(&authority.history).truncate(2);
    until("handed back", || lock(&authority.lost).iter().any(|b| b["segment"].is_string())).await;
    assert!(lock(&alarms).iter().any(|a| matches!(a, Alarm::Fork { epoch: 1, .. })));
    assert!(authority.handed_messages().contains(&last), "what no snapshot holds");
    let bodies = lock(&authority.lost).clone();
    let asked = serde_json::json!({ "manifest": text(&manifest) });
    let given = serde_json::json!({ "manifest": text(&manifest), "segment": BASE64_URL_SAFE_NO_PAD.encode(&segment) });
    let (first, then) = (bodies.iter().position(|b| *b == asked), bodies.iter().position(|b| *b == given));
    assert!(first.is_some() && first < then, "the manifest is shown before a segment is sent: {bodies:?}");
    assert!(client.view().known().ids >= 8, "nothing is forgotten");
    let now = SystemClock.boot();
    until("fresh in the other history", || is_fresh_since(&client, now)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_the_authority_still_has_is_shown_and_its_segments_are_kept_here() {
    let (authority, dir) = (Authority::new(1), tempfile::tempdir().unwrap());
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let (client, _alarms) = begun(&authority, &address, dir.path()).await;
    let last = text(&lock(&authority.history).pop().unwrap());
    until("shown", || lock(&authority.lost).iter().any(|b| b["manifest"].is_string())).await;
    assert!(authority.handed_messages().contains(&last));
    let now = SystemClock.boot();
    until("fresh", || is_fresh_since(&client, now)).await;
    assert!(!lock(&authority.lost).iter().any(|b| b["segment"].is_string()));
}

/// The other history has a newer manifest than the one in the folder: it is begun with, and takes the place of nothing that is
/// still to be handed back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_manifest_of_the_other_history_waits_until_all_is_handed_back() {
    let (authority, dir) = (Authority::new(1), tempfile::tempdir().unwrap());
    let (address, server) = authority.serve("127.0.0.1:0").await;
    let (client, alarms) = begun(&authority, &address, dir.path()).await;
    let (last, old) = (text(lock(&authority.history).last().unwrap()), std::fs::read(dir.path().join("manifest")).unwrap());
    let old_manifest = lock(&authority.snapshot).clone().unwrap().0;
    assert_eq!(old, old_manifest.to_bytes());

    // Another process with the restored database, that has gone on, and refuses at first.
    drop(server);
    let second = Authority::new(2);
    lock(&second.history).extend(lock(&authority.history)[..2].iter().cloned());
    (21..=32).for_each(|n| second.commit(n));
    second.cut(13);
    second.lost_refused.store(true, Ordering::SeqCst);
    let (_, _server) = second.serve(&address).await;
    until("the fork", || lock(&alarms).iter().any(|a| matches!(a, Alarm::Fork { .. }))).await;
    until("the other history", || client.status().watermark.1 == 14 && client.view().fresh_as_of().is_some()).await;
    until("refused", || client.status().last_error.is_some_and(|e| e.contains("503"))).await;
    assert_eq!(std::fs::read(dir.path().join("manifest")).unwrap(), old);
    assert!(lock(&second.lost).is_empty());

    second.lost_refused.store(false, Ordering::SeqCst);
    until("handed back", || lock(&second.lost).iter().any(|b| b["segment"].is_string())).await;
    assert!(second.handed_messages().contains(&last));
    assert!(lock(&second.lost).iter().any(|b| b["manifest"] == text(&old_manifest)));
}

/// Under a limit on the size of files, in a process of its own.
#[test]
fn what_a_full_disk_does_not_take_waits_on() {
    const NAME: &str = "feed::sse::tests::lost::what_a_full_disk_does_not_take_waits_on";
    let Some(path) = std::env::var_os("PROCURA_FULL_DISK") else {
        let dir = tempfile::tempdir().unwrap();
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        let done = limited.args(["--exact", NAME]).env("PROCURA_FULL_DISK", dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
        return;
    };
    let disk = resync::Disk::open(std::path::Path::new(&path)).unwrap();
    disk.push(vec![vec![1; 100]]);
    disk.write().unwrap();
    assert_eq!(disk.waiting(), vec![] as Vec<Vec<u8>>);
    disk.push(vec![vec![2; 1000]; 100]);
    disk.write().expect_err("a limit of 16 KiB at most");
    disk.push(vec![vec![3; 100]]);
    disk.write().expect_err("as before");
    assert_eq!(disk.waiting(), [vec![vec![2; 1000]; 100], vec![vec![3; 100]]].concat(), "all of it, in order");
}
