//! What replicas share: a PostgreSQL and a Redis, both real, and a configuration.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::feed::Message;
use procura_verifier::feed::message::Item;
use procura_verifier::ids::{Clock as _, SystemClock};
use procura_verifier::wire::Canonical as _;
use tokio::time::sleep;

use crate::site::{Site, heartbeat, signal};
use crate::support::PATIENCE;
use crate::support::postgres::Postgres;
use crate::support::redis::RedisProcess;
use crate::support::serve;
use crate::wire::Wire;

pub struct Shared {
    pub database: Postgres,
    pub serve: serve::Site,
}

impl Site {
    /// `procura serve` on PostgreSQL and Redis, so many replicas.
    pub async fn shared(replicas: usize) -> Self {
        let database = Postgres::start().await;
        let url = database.url();
        Self::on(database, &url, replicas).await
    }

    /// The same on this database, which the replicas reach by that URL.
    pub async fn on(database: Postgres, url: &str, replicas: usize) -> Self {
        let mut site = Self::empty();
        site.with_redis().await;
        site.answer_wait = Duration::from_secs(2);
        site.shared = Some(Shared { database, serve: serve::Site::new(site.folder.path(), url).await });
        site.first(&["--init-single-anchor"]).await;
        for number in 1..replicas {
            site.start(&format!("replica-{number}"), "127.0.0.1:0".parse().unwrap(), &[]).await;
        }
        site.people().await;
        site
    }

    /// `procura dev` with a Redis, and what it said when its wall clock was an hour behind, in a life before this one.
    pub async fn with_hour_old_recording() -> Self {
        let mut site = Self::empty();
        site.with_redis().await;
        site.first_at(-HOUR_MS).await;
        let (http, url) = (&site.replicas[0].http, format!("{}/v1/feed?tenant=acme&nonce={}", site.url(), hex::encode([8; 16])));
        let mut answer = http.get(url).header("accept", "text/event-stream").send().await.unwrap().error_for_status().unwrap();
        let mut said = String::new();
        while said.matches("\n\n").count() < RECORDED {
            said += &String::from_utf8(answer.chunk().await.unwrap().expect("the stream goes on").to_vec()).unwrap();
        }
        let whole = said.rsplit_once("\n\n").unwrap().0;
        let messages = whole.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(|data| BASE64.decode(data.trim_end()).unwrap());
        let messages: Vec<_> = messages.collect();
        let head = site.signed_head().await.expect("an answer");
        let age_ms = SystemClock.wall().0 - heartbeat(&head).utc.0;
        assert!(messages.len() > RECORDED / 2 && age_ms.abs_diff(HOUR_MS.unsigned_abs()) < 60_000, "{} messages, {age_ms} ms old", messages.len());
        site.hour_old = Some((messages, head));
        site.kill(0).await;
        site.failpoint(0, "wall-ms", None);
        site.again(0).await;
        site.people().await;
        site
    }

    /// A Redis, and the replicas' way there.
    pub(crate) async fn with_redis(&mut self) {
        let redis = RedisProcess::start("");
        self.redis_way = Some(Wire::to(([127, 0, 0, 1], redis.port).into()).await);
        self.redis = Some(redis);
    }

    /// The replicas publish where verifiers listen; the old one is gone.
    pub fn follow_failover(&mut self) {
        let empty = self.next_redis.take().expect("a failover");
        self.redis_way.as_ref().unwrap().point(([127, 0, 0, 1], empty.port).into());
        self.redis = Some(empty);
    }

    /// Until there is a snapshot that goes so far.
    pub async fn until_snapshot(&self, seq: u64) {
        let database = &self.shared.as_ref().expect("a database").database;
        let cut = async {
            while database.sql("SELECT coalesce(max(seq), 0) FROM snapshot").await.parse::<u64>().unwrap() < seq {
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, cut).await.expect("a snapshot");
    }

    /// Stops a replica that has work between the lock of the head and its COMMIT: PostgreSQL says that somebody who holds the lock has long
    /// said nothing. Its own limit ends that after half a second.
    pub async fn stop_with_lock(&self, replica: usize) {
        let database = &self.shared.as_ref().expect("a database").database;
        let idle = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 'head'::regclass AND l.mode = 'RowShareLock' \
             AND a.state LIKE 'idle in transaction%' AND a.application_name = 'procura' AND clock_timestamp() - a.state_change > interval '25 ms'";
        for attempt in 0..100_u64 {
            signal(self.pid(replica), "STOP").await;
            sleep(Duration::from_millis(25)).await;
            if database.sql(idle).await != "0" {
                return;
            }
            signal(self.pid(replica), "CONT").await;
            // Another moment of its work each time.
            sleep(Duration::from_micros(20_000 + attempt * 137)).await;
        }
        panic!("never stopped with the lock");
    }
}

impl Shared {
    /// Epoch and number of the head, and its hash, as they were committed.
    pub async fn head(&self) -> ((u64, u64), String) {
        let row = self.database.sql("SELECT feed_epoch, feed_seq, encode(feed_hash, 'hex') FROM head").await;
        let fields: Vec<_> = row.split('|').collect();
        let [epoch, seq, hash] = fields[..] else { panic!("the head is `{row}`") };
        ((epoch.parse().unwrap(), seq.parse().unwrap()), hash.to_owned())
    }

    /// The tokens that the database has as revoked.
    pub async fn revoked(&self) -> BTreeSet<String> {
        let rows = self.database.sql("SELECT encode(payload, 'hex') FROM feed").await;
        let messages = rows.lines().map(|row| Message::from_bytes(&hex::decode(row).unwrap()).unwrap());
        let batches = messages.filter_map(|m| if let Message::Batch(batch) = m { Some(batch) } else { None });
        let items = batches.flat_map(|batch| batch.items);
        items.filter_map(|(_, item)| if let Item::Tid { tid, .. } = item { Some(tid.to_string()) } else { None }).collect()
    }
}

const HOUR_MS: i64 = 3_600_000;
const RECORDED: usize = 30;
