//! The board in PostgreSQL: an unlogged table outside the head's lock, and NOTIFY as a hint.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use procura_verifier::ids::{Tenant, UtcMillis};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::sync::Mutex;

use super::{Board, Notice, Seen, memory_ms};
use crate::store::{Answering, StoreError};

/// One tenant's board, seen from one process.
pub struct PgBoard {
    tenant: Tenant,
    pool: PgPool,
    /// In notices, so that a process does not hear itself.
    me: String,
    listener: Mutex<Option<PgListener>>,
}

impl PgBoard {
    /// Connects when first used. Three connections at most, apart from those that commit and decide.
    pub fn new(tenant: Tenant, options: PgConnectOptions) -> Self {
        use rand::{RngCore as _, SeedableRng as _};
        let me = rand::rngs::StdRng::from_os_rng().next_u64();
        let pool = PgPoolOptions::new().max_connections(3).acquire_timeout(WAIT).connect_lazy_with(options);
        Self { tenant, pool, me: format!("{me:016x}"), listener: Mutex::new(None) }
    }

    async fn notify(&self, word: &str) -> Result<(), StoreError> {
        let said = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(format!("{word} {} {}", self.me, self.tenant)).execute(&self.pool);
        within(said).await.map(drop)
    }

    /// None for what is somebody else's, or our own.
    fn read_notice(&self, payload: &str) -> Option<Notice> {
        let mut words = payload.split(' ');
        let (word, who, tenant) = (words.next()?, words.next()?, words.next()?);
        if who == self.me || tenant != self.tenant.as_str() {
            return None;
        }
        match word {
            ASKED => Some(Notice::Asked),
            POSTED => Some(Notice::Posted),
            _ => None,
        }
    }
}

impl Board for PgBoard {
    fn post<'a>(&'a self, rows: &'a [Seen]) -> Answering<'a, ()> {
        async move {
            if rows.is_empty() {
                return Ok(());
            }
            let all = |f: fn(&Seen) -> i64| rows.iter().map(f).collect::<Vec<_>>();
            // Sorted: two replicas that post the same runs lock their rows in one order. (The ledger gives them by run.)
            let posted = sqlx::query(
                "INSERT INTO watch (tenant, verifier, run, number, since_ms, acked_ms, streams, ack, keep_ms, posted) SELECT $1, *, clock_timestamp() FROM unnest($2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::boolean[], $8::bytea[], $9::bigint[]) ON CONFLICT (tenant, verifier, run) DO UPDATE SET number = excluded.number, since_ms = least(watch.since_ms, excluded.since_ms), acked_ms = excluded.acked_ms, streams = excluded.streams, ack = excluded.ack, posted = excluded.posted, keep_ms = excluded.keep_ms WHERE excluded.number > watch.number",
            )
            .bind(self.tenant.as_str())
            .bind(rows.iter().map(|r| r.ack.verifier.as_bytes().to_vec()).collect::<Vec<_>>())
            .bind(rows.iter().map(|r| r.ack.run.to_vec()).collect::<Vec<_>>())
            .bind(all(|r| int(r.ack.number)))
            .bind(all(|r| int(r.since.0)))
            .bind(all(|r| int(r.acked.0)))
            .bind(rows.iter().map(|r| r.streams).collect::<Vec<_>>())
            .bind(rows.iter().map(|r| r.signed.clone()).collect::<Vec<_>>())
            .bind(all(|r| int(memory_ms(r.ack.mode))))
            .execute(&self.pool);
            within(posted).await?;
            self.notify(POSTED).await
        }
        .boxed()
    }

    fn read(&self, since: Duration) -> Answering<'_, Vec<Seen>> {
        async move {
            // What was just posted is found by its index; the day and what is remembered for longer is the table.
            let sql = if since < LONG {
                "SELECT ack, since_ms, acked_ms, streams FROM watch WHERE tenant = $1 AND posted > clock_timestamp() - $2 * interval '1 ms' ORDER BY posted DESC LIMIT 20000"
            } else {
                "SELECT ack, since_ms, acked_ms, streams FROM watch WHERE tenant = $1 AND posted > clock_timestamp() - greatest($2, keep_ms) * interval '1 ms' ORDER BY posted DESC LIMIT 20000"
            };
            let rows = sqlx::query_as(sql)
            .bind(self.tenant.as_str())
            .bind(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            .fetch_all(&self.pool);
            let rows: Vec<(Vec<u8>, i64, i64, bool)> = within(rows).await?;
            rows.into_iter()
                .map(|(signed, since, acked, streams)| {
                    let at = |ms: i64| UtcMillis(u64::try_from(ms).unwrap_or(0));
                    Seen::stored(signed, at(since), at(acked), streams).map_err(|e| StoreError::Inconsistent { table: "watch", column: "ack", id: e.to_string() })
                })
                .collect()
        }
        .boxed()
    }

    fn ask(&self) -> Answering<'_, ()> {
        self.notify(ASKED).boxed()
    }

    fn collect(&self) -> Answering<'_, ()> {
        async move {
            let replaced = sqlx::query(
                "DELETE FROM watch w WHERE w.tenant = $1 AND w.posted < clock_timestamp() - w.keep_ms * interval '1 ms' AND (EXISTS (SELECT FROM watch n WHERE n.tenant = w.tenant AND n.verifier = w.verifier AND n.posted > w.posted) OR NOT EXISTS (SELECT FROM verifier v WHERE v.tenant = w.tenant AND v.id = w.verifier AND v.retired_ms IS NULL))",
            )
            .bind(self.tenant.as_str())
            .execute(&self.pool);
            within(replaced).await.map(drop)
        }
        .boxed()
    }

    fn heard(&self) -> BoxFuture<'_, Result<Notice, StoreError>> {
        async move {
            let mut held = self.listener.lock().await;
            loop {
                let listener = match &mut *held {
                    Some(listener) => listener,
                    none => {
                        let mut listener = within(PgListener::connect_with(&self.pool)).await?;
                        within(listener.listen(CHANNEL)).await?;
                        none.insert(listener)
                    }
                };
                match listener.recv().await {
                    Ok(said) => {
                        if let Some(notice) = self.read_notice(said.payload()) {
                            return Ok(notice);
                        }
                    }
                    Err(e) => {
                        *held = None;
                        return Err(StoreError::Unavailable(e.to_string()));
                    }
                }
            }
        }
        .boxed()
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(WAIT, asked).await.map_err(|_| StoreError::Unavailable("the database does not answer".to_owned()))?;
    answer.map_err(|e| StoreError::Unavailable(e.to_string()))
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

const CHANNEL: &str = "procura_watch";
const ASKED: &str = "asked";
const POSTED: &str = "posted";
const LONG: Duration = Duration::from_secs(24 * 3600);
/// A board that is slow is no board: who waits goes on with what it hears itself.
const WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use procura_verifier::ids::SystemClock;

    use super::super::Watch;
    use super::super::tests::{ack, signed};
    use super::*;
    use crate::store::Store as _;
    use crate::store::contract::tenant;
    use crate::store::postgres::Postgres;
    use crate::store::postgres::server::Server;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_at_one_replica_sees_what_another_hears() {
        let (_, url) = Server::shared().database().await;
        let open = async || Watch::start(Arc::new(SystemClock), Postgres::open(&url, tenant()).await.unwrap().board());
        let (one, other) = (open().await, open().await);
        let has = |w: &Watch, seq| w.runs().iter().any(|h| h.seen.as_ref().is_some_and(|s| s.has(1, seq)));

        assert!(one.enter(ack(1, 1, 4), signed(&ack(1, 1, 4))));
        // Unasked it comes with the next second.
        while !has(&other, 4) {
            other.refresh().await;
            tokio::task::yield_now().await;
        }
        let mut waiting = other.begin_wait().await;
        // A notice that is lost costs a second, no more.
        assert!(one.enter(ack(1, 2, 5), signed(&ack(1, 2, 5))));
        let began = std::time::Instant::now();
        while !has(&other, 5) {
            tokio::time::timeout(Duration::from_secs(5), waiting.moved()).await.expect("the other replica's word");
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let seen = other.runs().remove(0).seen.unwrap();
        assert_eq!((seen.signed, seen.ack), (signed(&ack(1, 2, 5)), ack(1, 2, 5)), "as it was signed");
    }

    #[tokio::test]
    async fn an_older_number_changes_nothing_and_another_tenants_is_not_read() {
        let (_, url) = Server::shared().database().await;
        let store = Postgres::open(&url, tenant()).await.unwrap();
        let board = store.board().unwrap();
        let seen = |number, seq| Seen::stored(signed(&ack(1, number, seq)), UtcMillis(1), UtcMillis(2), true).unwrap();
        board.post(&[seen(2, 9)]).await.unwrap();
        board.post(&[seen(1, 8)]).await.unwrap();
        let read = board.read(Duration::from_secs(60)).await.unwrap();
        assert_eq!(read, [seen(2, 9)]);
        board.post(&[seen(3, 10)]).await.unwrap();
        assert_eq!(board.read(Duration::from_secs(60)).await.unwrap(), [seen(3, 10)]);
        let elsewhere = Postgres::open(&url, "other".parse().unwrap()).await.unwrap().board().unwrap();
        assert_eq!(elsewhere.read(Duration::from_secs(60)).await.unwrap(), []);
    }
}
