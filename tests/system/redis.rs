//! Redis beside the stream, and in its place: a real redis-server, `procura dev` as a process, and the verifier's own client in this one.
//!
//! Of every fault: the stream (or the pull) keeps the verifier fresh, no decision is wrong, and Redis comes back by itself.

mod rights;
mod site;

use std::time::Duration;

use procura_authority::demo::proxy::{Open, Proxy};
use procura_verifier::feed::sse::StreamUse;
use procura_verifier::ids::{Clock as _, SystemClock};
use procura_verifier::revocation::RevocationView as _;

use self::site::{CHANNEL, Site, until};
use super::support::redis::RedisProcess;
use super::support::{beside_others, http, resident_kib};

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_started_again_is_heard_again_and_was_not_missed() {
    let _machine = beside_others().await;
    let mut site = Site::start(RedisProcess::start("")).await;
    let verifier = site.verifier(|_| {});
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;

    site.redis.kill();
    until("the loss is seen", || !verifier.status().redis.subscribed).await;
    // The stream alone.
    site.revoked_in_time(&verifier).await;
    // The fault of the list: down for a second, then back at the same port, empty.
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.redis.restart();
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
    assert_eq!(verifier.status().counters.forks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_or_forgets_its_subscribers_is_left_and_found_again() {
    let _machine = beside_others().await;
    let site = Site::start(RedisProcess::start("")).await;
    let verifier = site.verifier(|_| {});
    site.until_over_redis(&verifier).await;

    // SIGSTOP: connections stand, nothing comes, nothing is refused.
    site.redis.stop();
    until("the silence is noticed", || !verifier.status().redis.subscribed).await;
    site.revoked_in_time(&verifier).await;
    site.redis.resume();
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;

    // Everything is forgotten, and the subscribers are thrown out.
    let before = verifier.status().redis.subscriptions;
    assert_eq!(site.redis.cli(&["FLUSHALL"]), "OK");
    assert!(site.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).parse::<u32>().unwrap() >= 1);
    until("subscribed anew", || verifier.status().redis.subscriptions > before).await;
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_old_messages_on_the_channel_cost_nothing() {
    let _machine = beside_others().await;
    let mut site = Site::start(RedisProcess::start("")).await;
    let verifier = site.verifier(|_| {});
    site.until_over_redis(&verifier).await;
    let mut recorder = site.record().await;
    site.revoked_in_time(&verifier).await;
    let recorded = recorder.take(40).await;

    // Neither empty nor endless, neither text nor a forged message: refused, one by one.
    let mut garbage: Vec<Vec<u8>> = vec![vec![], b"hello".to_vec(), vec![0x83; 100], vec![0x83; 64 * 1024], vec![0x83; 64 * 1024 + 1], vec![0xff; 900_000]];
    for message in &recorded {
        for at in [0, 1, message.len() / 2, message.len() - 1] {
            let mut flipped = message.clone();
            flipped[at] ^= 1;
            garbage.push(flipped);
        }
        garbage.push(message[..message.len() - 1].to_vec());
    }
    let before = verifier.status().redis;
    for message in &garbage {
        site.publish(message).await;
        // Below what is taken for a flood.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A known message with a broken signature is dropped as known (F4); what has not the shape, or is cut, is refused.
    until("all looked at", || verifier.status().redis.received - before.received >= garbage.len() as u64).await;
    assert!(verifier.status().redis.refused - before.refused >= 80, "{:?}", verifier.status().redis);
    assert_eq!(verifier.status().counters.forks, 0);
    site.revoked_in_time(&verifier).await;

    // Another process of the authority, other clock: what the first one said is replayed, in whatever order, to a verifier that was not there.
    site.restart_authority().await;
    let newcomer = site.verifier(|_| {});
    site.until_over_redis(&newcomer).await;
    for message in recorded.iter().rev() {
        site.publish(message).await;
    }
    for verifier in [&verifier, &newcomer] {
        site.revoked_in_time(verifier).await;
        assert_eq!(verifier.status().counters.forks, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_off_and_the_stream_goes_on() {
    let _machine = beside_others().await;
    let site = Site::start(RedisProcess::start("")).await;
    let verifier = site.verifier(|_| {});
    site.until_over_redis(&verifier).await;
    let before = resident_kib(std::process::id());

    let flood = site.flood(50_000).await;
    until("cut off", || verifier.status().redis.floods >= 1).await;
    site.revoked_in_time(&verifier).await;
    flood.await.unwrap();
    let status = verifier.status().redis;
    assert!(status.refused < 25_000, "refused one by one: {status:?}");
    let grown = resident_kib(std::process::id()).saturating_sub(before);
    assert!(grown < 128 * 1024, "grown by {grown} KiB");
    // Left alone for a while, then taken up again.
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_alone_carries_revocations_and_freshness_and_without_it_the_pull_does() {
    let _machine = beside_others().await;
    let mut site = Site::start(RedisProcess::start("")).await;
    let door = Proxy::start(site.authority.url.clone(), http()).await.unwrap();
    let verifier = site.verifier(|config| {
        config.authority = door.url.clone();
        config.stream = StreamUse::None;
    });
    until("mapped by a pull", || verifier.view().fresh_as_of().is_some()).await;
    site.until_over_redis(&verifier).await;

    // No HTTP at all from here on: what is fresh is fresh by Redis, and so is what is revoked.
    door.set(Open::Nothing);
    let cut = SystemClock.boot();
    until("fresh without HTTP", || verifier.view().fresh_as_of().is_some_and(|f| f.micros_since(cut) > 1_000_000)).await;
    site.revoked_in_time(&verifier).await;

    // Neither: stale, and fenced.
    site.redis.kill();
    until("stale", || verifier.view().fresh_as_of().is_none_or(|f| SystemClock.boot().micros_since(f) > 150_000)).await;
    verifier.refresh().await;
    assert!(verifier.view().fresh_as_of().is_none_or(|f| SystemClock.boot().micros_since(f) > 150_000));

    // HTTP again, Redis not: pulls.
    door.set(Open::All);
    site.revoked_in_time(&verifier).await;
    assert_eq!((verifier.status().streams, verifier.status().redis.subscribed), (0, false));
    site.redis.restart();
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
}

/// No stream, so no sign-in: what stands in the ledger comes from acknowledgements alone (A3).
#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_on_redis_alone_acknowledges_and_is_waited_for_by_name() {
    let _machine = beside_others().await;
    let site = Site::start(RedisProcess::start("")).await;
    let enrolled = site.enrolled().await;
    let (id, run) = (enrolled.verifier.to_string(), hex::encode(enrolled.run));
    let verifier = site.verifier(|config| {
        config.stream = StreamUse::None;
        config.enrolment = Some(enrolled);
    });
    site.until_over_redis(&verifier).await;
    until("the first acknowledgement", || verifier.status().acks >= 1).await;
    // Confirmed within its bound; a busy machine may take longer, and then it is fenced by its own.
    for attempt in 1.. {
        let coverage = site.revoke_and_wait().await;
        let row = &coverage["verifiers"][0];
        assert_eq!(
            (coverage["verifiers"].as_array().unwrap().len(), &row["verifier"], &row["run"]),
            (1, &id.clone().into(), &run.clone().into()),
            "{coverage}"
        );
        assert!(coverage["covered"] == true && coverage["anonymous"] == 0, "{coverage}");
        if row["state"] == "confirmed" {
            break;
        }
        assert!(attempt < 50, "never confirmed: {coverage}");
    }
    assert_eq!((verifier.status().streams, verifier.status().redis.subscribed), (0, true));
    // The twin: gone, it is presumed fenced and nothing else.
    drop(verifier);
    let coverage = site.revoke_and_wait().await;
    assert_eq!(coverage["verifiers"][0]["state"], "fenced", "{coverage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_listener_on_either_path_nothing_is_beaten() {
    let _machine = beside_others().await;
    let site = Site::start(RedisProcess::start("")).await;
    let published = || site.redis.cli(&["INFO", "commandstats"]).lines().any(|l| l.starts_with("cmdstat_publish:"));
    // The publisher asks who listens, five times a second.
    until("asked", || site.redis.cli(&["INFO", "commandstats"]).contains("cmdstat_pubsub|numsub:calls=")).await;
    assert!(!published(), "a beat that nobody hears");
    // The twin: one who listens, to Redis alone.
    let mut recorder = site.record().await;
    recorder.take(3).await;
    assert!(published());
    assert_eq!(CHANNEL, "procura:rev:{acme}");
}
