//! TLS, users and clusters: with the very files that `docs/operations.md` shows.

use std::path::{Path, PathBuf};

use procura_verifier::feed::redis::{RedisConfig, RedisUrl};
use procura_verifier::feed::sse::StreamUse;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::site::{CHANNEL, Site, until};
use crate::support::beside_others;
use crate::support::redis::RedisProcess;

/// The documented files, with the places changed to this folder.
fn documented() -> RedisProcess {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis");
    let folder = std::env::temp_dir().join(format!("procura-redis-acl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(docs.join("users.acl"), folder.join("users.acl")).unwrap();
    certify(&folder);
    let config = std::fs::read_to_string(docs.join("redis.conf")).unwrap();
    RedisProcess::start_in(folder, &config.replace("tls-port 6379", "tls-port {port}").replace("/etc/redis/", "{folder}/"))
}

/// A CA, a certificate for localhost by it, and a CA that has nothing to do with either.
fn certify(folder: &Path) {
    let authority = |name: &str| {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    };
    let ((ca, ca_pem), (_, other_pem)) = (authority("ca of the test"), authority("another"));
    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    server.distinguished_name.push(DnType::CommonName, "redis of the test");
    let pem = server.signed_by(&key, &ca).unwrap().pem();
    for (name, text) in [("ca.pem", ca_pem), ("other-ca.pem", other_pem), ("redis.pem", pem), ("redis.key", key.serialize_pem())] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn over_tls(redis: &RedisProcess, user: &str) -> (RedisUrl, PathBuf) {
    (format!("rediss://{user}@localhost:{}", redis.port).parse().unwrap(), redis.folder.join("ca.pem"))
}

#[test]
fn the_documentation_shows_the_files_that_are_tested() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    for file in ["redis/users.acl", "redis/redis.conf"] {
        assert!(read("operations.md").contains(&format!("```\n{}```", read(file))), "docs/operations.md shows another {file}");
    }
}

const AUTHORITY: &str = "procura-authority:authority-password";
const VERIFIER: &str = "procura-verifier:verifier-password";

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_users_do_what_they_are_for_over_tls_and_nothing_else() {
    let _machine = beside_others().await;
    let redis = documented();
    let (url, ca) = over_tls(&redis, VERIFIER);
    let config = RedisConfig { ca: Some(ca.clone()), ..RedisConfig::at(url) };
    let authoritys = format!("rediss://{AUTHORITY}@localhost:{}", redis.port);
    let arguments = vec!["--redis".to_owned(), authoritys, "--redis-ca".to_owned(), ca.display().to_string()];
    let site = Site::start_as(redis, config.clone(), arguments).await;
    let verifier = site.verifier(|_| {});
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;

    // What each may not do; beside it, what it may.
    let as_user = |user: &str, args: &[&str]| {
        let (name, password) = user.split_once(':').unwrap();
        site.redis.cli(&[&["--no-auth-warning", "--user", name, "--pass", password], args].concat())
    };
    for refused in [
        as_user(VERIFIER, &["PUBLISH", CHANNEL, "x"]),
        as_user(VERIFIER, &["SPUBLISH", CHANNEL, "x"]),
        as_user(VERIFIER, &["SUBSCRIBE", "another"]),
        as_user(VERIFIER, &["PSUBSCRIBE", "*"]),
        as_user(VERIFIER, &["CLIENT", "LIST"]),
        as_user(VERIFIER, &["GET", "key"]),
        as_user(AUTHORITY, &["PUBLISH", "another", "x"]),
        as_user(AUTHORITY, &["SUBSCRIBE", CHANNEL]),
        as_user(AUTHORITY, &["PUBSUB", "CHANNELS"]),
        as_user(AUTHORITY, &["CONFIG", "GET", "*"]),
        as_user(AUTHORITY, &["SET", "key", "value"]),
    ] {
        assert!(refused.starts_with("NOPERM"), "{refused}");
    }
    assert_eq!(as_user(VERIFIER, &["PING"]), "PONG");
    assert!(as_user(AUTHORITY, &["PUBLISH", CHANNEL, "x"]).parse::<u64>().is_ok());
    assert!(site.redis.cli(&["PING"]).starts_with("NOAUTH"), "the default user is off");
    // The size of what is published is bounded where it comes in.
    let publisher = RedisConfig { url: over_tls(&site.redis, AUTHORITY).0, ..config.clone() }.open().unwrap();
    for (bytes, taken) in [(64 * 1024, true), (1024 * 1024 + 1, false)] {
        let mut connection = publisher.client(None).unwrap().get_multiplexed_async_connection().await.unwrap();
        let answer = redis::cmd("PUBLISH").arg(CHANNEL).arg(vec![0x83_u8; bytes]).query_async::<u64>(&mut connection).await;
        assert_eq!(answer.is_ok(), taken, "{bytes} bytes: {answer:?}");
    }

    // A verifier that may not, or that trusts another CA: Redis says no, the stream carries, and no secret is told.
    let (nobody, _) = over_tls(&site.redis, "procura-verifier:wrong");
    let (publisher, _) = over_tls(&site.redis, AUTHORITY);
    let other_ca = Some(site.redis.folder.join("other-ca.pem"));
    for wrong in [
        RedisConfig { url: nobody, ..config.clone() },
        RedisConfig { url: publisher, ..config.clone() },
        RedisConfig { ca: other_ca, ..config.clone() },
        RedisConfig { ca: None, ..config.clone() },
        RedisConfig { url: format!("redis://{VERIFIER}@localhost:{}", site.redis.port).parse().unwrap(), ca: None, ..config.clone() },
    ] {
        let client = site.verifier(|c| c.redis = Some(wrong.open().unwrap()));
        until("a refusal", || client.status().redis.last_error.is_some()).await;
        site.revoked_in_time(&client).await;
        let status = client.status();
        assert_eq!((status.redis.subscriptions, status.redis.subscribed), (0, false), "{wrong:?}");
        assert!(!format!("{status:?}").contains("password"), "{status:?}");
    }
    assert!(!site.authority.said().contains("password"), "{}", site.authority.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_carries_the_feed_by_sharded_channels() {
    let _machine = beside_others().await;
    let redis = RedisProcess::start("cluster-enabled yes\ncluster-config-file nodes.conf");
    assert_eq!(redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    until("the cluster stands", || redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")).await;
    let config = RedisConfig { sharded: true, ..RedisConfig::at(redis.url().parse().unwrap()) };
    let arguments = vec!["--redis".to_owned(), redis.url(), "--redis-sharded".to_owned()];
    let mut site = Site::start_as(redis, config, arguments).await;
    let verifier = site.verifier(|_| {});
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
    assert!(site.redis.cli(&["PUBSUB", "SHARDNUMSUB", CHANNEL]).ends_with('1'));
    assert!(site.redis.cli(&["PUBSUB", "NUMSUB", CHANNEL]).ends_with('0'));

    // The node falls and stands up again: it knows its slots from its own file.
    site.redis.kill();
    until("the loss is seen", || !verifier.status().redis.subscribed).await;
    site.revoked_in_time(&verifier).await;
    site.redis.restart();
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_a_cluster_names_is_followed() {
    let _machine = beside_others().await;
    // Two nodes that share the slots: whichever one is asked, the channel lives on one of them.
    let nodes = [0, 1].map(|_| RedisProcess::start("cluster-enabled yes\ncluster-config-file nodes.conf"));
    let [first, second] = &nodes;
    assert_eq!(first.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]), "OK");
    assert_eq!(second.cli(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]), "OK");
    assert_eq!(first.cli(&["CLUSTER", "MEET", "127.0.0.1", &second.port.to_string()]), "OK");
    until("the cluster stands", || nodes.iter().all(|n| n.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))).await;
    // Ask the one on which the channel does not live.
    let slot: u16 = first.cli(&["CLUSTER", "KEYSLOT", CHANNEL]).parse().unwrap();
    let [first, second] = nodes;
    let (asked, home) = if slot < 8192 { (second, first) } else { (first, second) };
    assert!(asked.cli(&["SPUBLISH", CHANNEL, "x"]).starts_with("MOVED"));
    let config = RedisConfig { sharded: true, ..RedisConfig::at(asked.url().parse().unwrap()) };
    let arguments = vec!["--redis".to_owned(), asked.url(), "--redis-sharded".to_owned()];
    let site = Site::start_as(asked, config, arguments).await;
    // One without a stream: it alone makes the authority beat, on a node that the authority has to find first.
    let verifier = site.verifier(|config| config.stream = StreamUse::None);
    site.until_over_redis(&verifier).await;
    site.revoked_in_time(&verifier).await;
    assert!(home.cli(&["PUBSUB", "SHARDNUMSUB", CHANNEL]).ends_with('1'));
}
