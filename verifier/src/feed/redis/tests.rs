//! What can be said of Redis without one. The rest is in `tests/system/redis.rs`, with real servers.

use super::*;

fn url(text: &str) -> RedisUrl {
    text.parse().unwrap()
}

#[test]
fn a_password_shows_nowhere() {
    let mut config = RedisConfig::at(url("rediss://verifier:s3cret@redis.example:6390/0"));
    assert_eq!(format!("{:?}", config.url), "rediss://redis.example:6390");
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!format!("{:?}", RedisConfig::at(url("redis://verifier:s3cret@[::1]:1/")).open().unwrap()).contains("s3cret"));
    config.ca = Some("/nowhere/s3cret-free.pem".into());
    assert!(matches!(config.open(), Err(RedisConfigError::Ca { .. })));
    for wrong in ["s3cret", "http://x:s3cret@h/", "redis://:s3cret@h:99999/", "rediss://x:s3cret@h/#insecure", "redis://:s3cret@0.0.0.0/", "unix:///s3cret"] {
        let error = wrong.parse::<RedisUrl>().unwrap_err();
        assert!(!error.to_string().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{wrong}");
    }
}

#[test]
fn a_configuration_is_read_whole_or_not_at_all() {
    let read = |text: &str| serde_json::from_str::<RedisConfig>(text);
    let config = read(r#"{"url":"redis://127.0.0.1:6379"}"#).unwrap();
    assert_eq!((config.channel_prefix.as_str(), config.sharded, &config.ca), ("procura:rev:", false, &None));
    assert_eq!(config.open().unwrap().channel(&"acme".parse().unwrap()), "procura:rev:{acme}");
    assert!(read(r#"{"url":"redis://127.0.0.1:6379","tls_insecure":true}"#).is_err());
    let refused = read(r#"{"url":"rediss://a:s3cret@h/#insecure"}"#).unwrap_err();
    assert!(!refused.to_string().contains("s3cret"));
    // Certificates that nothing is checked against.
    let config = read(r#"{"url":"redis://127.0.0.1:6379","ca":"/etc/ssl/redis.pem"}"#).unwrap();
    assert_eq!(config.open().unwrap_err(), RedisConfigError::CaWithoutTls);
    for prefix in ["", "a b", "ü:", &"x".repeat(65)] {
        let config = RedisConfig { channel_prefix: prefix.to_owned(), ..RedisConfig::at(url("redis://127.0.0.1")) };
        assert!(matches!(config.open(), Err(RedisConfigError::Prefix(_))), "{prefix}");
    }
}

#[test]
fn a_cluster_is_followed_to_the_node_it_names() {
    let server = RedisConfig::at(url("redis://127.0.0.1:7001")).open().unwrap();
    let said = |text: &str| redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap().extract_error().unwrap_err();
    let node = |host: &str, port| Some(Node { host: host.to_owned(), port });
    assert_eq!(server.moved(&said("MOVED 7365 10.0.0.2:7002"), None), node("10.0.0.2", 7002));
    assert_eq!(server.moved(&said("MOVED 7365 :7002"), None), node("127.0.0.1", 7002));
    assert_eq!(server.moved(&said("MOVED 7365 :7003"), node("10.0.0.2", 7002).as_ref()), node("10.0.0.2", 7003));
    assert_eq!(server.moved(&said("MOVED 7365 10.0.0.2:port"), None), None);
    assert_eq!(server.moved(&said("NOPERM this user has no permissions"), None), None);
    assert_eq!(describe(&said("NOPERM this user has no permissions")), "redis: NOPERM");
}
