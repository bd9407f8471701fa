//! Beat transactions, and word of what others commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use procura_verifier::ids::{ClockId, Tenant, UtcMillis};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use super::standby::{required, unseen};
use crate::signer::released::TreeHead;
use crate::store::rows::{fixed, number};
use crate::store::shared::{Beaten, Hint, Standby};
use crate::store::{FeedHead, Head, StoreError};

/// Where a commit says that it was one: tenant, epoch, number, size. Sent within its transaction, so never of one that failed.
pub(super) const CHANNEL: &str = "procura_commit";

/// The beating connection and what it learnt.
pub(super) struct Beats {
    tenant: Tenant,
    options: PgConnectOptions,
    connection: Arc<Mutex<Option<PgConnection>>>,
    /// How many standbys COMMIT waits for.
    standbys: Arc<AtomicI64>,
    hints: watch::Sender<Hint>,
    listening: JoinHandle<()>,
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Beats {
    /// Begins to listen; nothing is beaten yet.
    pub(super) fn start(tenant: Tenant, options: PgConnectOptions) -> Self {
        let hints = watch::Sender::new(Hint::default());
        let listening = tokio::spawn(listen(tenant.clone(), options.clone(), hints.clone()));
        Self { tenant, options, connection: Arc::default(), standbys: Arc::new(AtomicI64::new(0)), hints, listening }
    }

    pub(super) fn hints(&self) -> watch::Receiver<Hint> {
        self.hints.subscribe()
    }

    pub(super) fn standby(&self) -> Standby {
        match u32::try_from(self.standbys.load(Ordering::Relaxed)) {
            Ok(n) if n > 0 => Standby::Synchronous(n),
            _ => Standby::None,
        }
    }

    /// Remembers what the setting says.
    pub(super) fn note_standbys(&self, names: &str) {
        self.standbys.store(required(names), Ordering::Relaxed);
    }

    /// One beat transaction. It goes on when the caller has given up: while a COMMIT waits for its standby, no other is
    /// begun, since each would keep a server process waiting for as long.
    pub(super) async fn beat(&self, replica: ClockId) -> Result<Beaten, StoreError> {
        let unanswered = |what: &str| StoreError::Unavailable(format!("{what} within {} ms", BEAT_WAIT.as_millis()));
        let free = tokio::time::timeout(BEAT_WAIT, Arc::clone(&self.connection).lock_owned());
        let kept = free.await.map_err(|_| unanswered("the beat before this one has no answer"))?;
        let (tenant, options, standbys) = (self.tenant.clone(), self.options.clone(), Arc::clone(&self.standbys));
        let beating = tokio::spawn(async move {
            let told = tokio::time::timeout(STUCK, transact(kept, &tenant, &options, replica, &standbys)).await;
            told.unwrap_or_else(|_| Err(StoreError::Unavailable("a beat had no answer and was given up".to_owned())))
        });
        match tokio::time::timeout(BEAT_WAIT, beating).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(StoreError::Unavailable("the beat was ended".to_owned())),
            Err(_) => Err(unanswered("the beat has no answer")),
        }
    }
}

/// The connection is taken out while it is in use: whatever fails closes it.
async fn transact(
    mut kept: OwnedMutexGuard<Option<PgConnection>>,
    tenant: &Tenant,
    options: &PgConnectOptions,
    replica: ClockId,
    standbys: &AtomicI64,
) -> Result<Beaten, StoreError> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(options, replica).await?,
    };
    let c = &mut connection;
    sqlx::raw_sql(BEGIN).execute(&mut *c).await?;
    let saw: Saw = sqlx::query_as(BEAT).bind(tenant.as_str()).bind(replica.as_bytes().as_slice()).fetch_one(&mut *c).await?;
    sqlx::raw_sql("COMMIT").execute(&mut *c).await?;
    let required = required(&saw.standby_names);
    standbys.store(required, Ordering::Relaxed);
    if required > 0 {
        // COMMIT reports success as well when its wait for the standby was cancelled; the driver does not hand on the
        // warning. What the standbys say they have is the proof: something that was written after this beat began.
        let (have, may_see): (i64, bool) = sqlx::query_as(HAVE).bind(&saw.position).fetch_one(&mut *c).await?;
        if have < required {
            let cancelled = || StoreError::Unavailable(format!("{have} of {required} synchronous standbys have this beat: its wait was cancelled"));
            return Err(if may_see { cancelled() } else { unseen() });
        }
    }
    *kept = Some(connection);
    saw.beaten()
}

async fn connect(options: &PgConnectOptions, replica: ClockId) -> Result<PgConnection, StoreError> {
    let name = format!("procura beat {}", hex::encode(replica.as_bytes()));
    let options = options.clone().application_name(&name);
    let connecting = PgConnection::connect_with(&options);
    let mut connection = tokio::time::timeout(BEAT_WAIT, connecting).await.map_err(|_| StoreError::Unavailable("no connection".to_owned()))??;
    // A server process that a beat was given up on may wait for its standby for ever, and holds this replica's row.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()";
    sqlx::query(end).bind(&name).execute(&mut connection).await?;
    sqlx::query("DELETE FROM beat WHERE at < now() - interval '1 day'").execute(&mut connection).await?;
    Ok(connection)
}

/// What the beat's statement gives.
#[derive(sqlx::FromRow)]
struct Saw {
    tree_size: i64,
    tree_root: Vec<u8>,
    feed_epoch: i64,
    feed_seq: i64,
    feed_hash: Vec<u8>,
    version: i64,
    hash: Vec<u8>,
    clock_ms: i64,
    standby_names: String,
    position: String,
}

impl Saw {
    fn beaten(self) -> Result<Beaten, StoreError> {
        Ok(Beaten {
            head: Head {
                tree: TreeHead { size: number(self.tree_size, "head", "tree_size")?, root: fixed(&self.tree_root, "head", "tree_root")? },
                feed: FeedHead {
                    epoch: number(self.feed_epoch, "head", "feed_epoch")?,
                    seq: number(self.feed_seq, "head", "feed_seq")?,
                    hash: fixed(&self.feed_hash, "head", "feed_hash")?,
                },
            },
            key_list: (number(self.version, "key_list", "version")?, fixed(&self.hash, "key_list", "signed")?),
            database_clock: UtcMillis(number(self.clock_ms, "beat", "at")?),
        })
    }
}

/// Hears of commits until it is aborted. A broken connection is made anew without end; what was said meanwhile is not
/// known, so it counts as news.
async fn listen(tenant: Tenant, options: PgConnectOptions, hints: watch::Sender<Hint>) {
    let options = options.application_name("procura listen");
    let mut pause = FIRST_PAUSE;
    loop {
        let listening = async {
            let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None).connect_with(options.clone()).await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            hints.send_modify(|h| *h = Hint { heard: h.heard + 1, ..Hint::default() });
            loop {
                match listener.try_recv().await? {
                    Some(said) => note(&tenant, said.payload(), &hints),
                    None => return Ok::<_, sqlx::Error>(()),
                }
            }
        };
        let began = tokio::time::Instant::now();
        match listening.await {
            Ok(()) => tracing::warn!("the connection that hears of others' commits was lost"),
            Err(e) => tracing::warn!(error = %e, "no connection that hears of others' commits"),
        }
        hints.send_modify(|h| *h = Hint { heard: h.heard + 1, ..Hint::default() });
        if began.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Anybody who may connect may say anything here: it is a reason to look, and what does not read is one, too.
fn note(tenant: &Tenant, said: &str, hints: &watch::Sender<Hint>) {
    let mut words = said.split(' ');
    if words.next() != Some(tenant.as_str()) {
        return;
    }
    let mut number = || words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let (epoch, seq, size) = (number(), number(), number());
    hints.send_modify(|h| *h = Hint { feed: (epoch, seq), size, heard: h.heard + 1 });
}

/// As for commits (`write.rs`): no statement timeout, since it would end the wait for the standby and report success.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE; \
    SET LOCAL lock_timeout = '500ms'; SET LOCAL idle_in_transaction_session_timeout = '500ms'; SET LOCAL statement_timeout = 0; \
    SET LOCAL synchronous_commit = on";
/// The row is written so that COMMIT has something to wait for. The position is of a moment after the snapshot: whatever
/// the snapshot shows lies before it, and what lies behind it was written after the beat began.
const BEAT: &str = "WITH mine AS (INSERT INTO beat (replica, at) VALUES ($2, now()) ON CONFLICT (replica) DO UPDATE SET at = excluded.at RETURNING 1) \
    SELECT h.tree_size, h.tree_root, h.feed_epoch, h.feed_seq, h.feed_hash, coalesce(k.version, 0) AS version, \
        coalesce(sha256(k.signed), sha256('')) AS hash, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock_ms, \
        current_setting('synchronous_standby_names') AS standby_names, pg_current_wal_insert_lsn()::text AS position \
    FROM head h LEFT JOIN LATERAL (SELECT version, signed FROM key_list WHERE tenant = h.tenant ORDER BY version DESC LIMIT 1) k ON true \
    WHERE h.tenant = $1";
/// The role needs `pg_read_all_stats` to see what a standby has.
const HAVE: &str = "SELECT count(*) FILTER (WHERE sync_state IN ('sync', 'quorum') AND flush_lsn > $1::text::pg_lsn), \
    pg_has_role('pg_read_all_stats', 'USAGE') FROM pg_stat_replication";

/// Longest wait for one beat; a verifier has long turned stale by then.
const BEAT_WAIT: Duration = Duration::from_secs(1);
/// A beat without an answer for so long is given up with its connection, which may be cut off without a word.
const STUCK: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{floor, leaf, one, tenant};
    use crate::store::postgres::Postgres;
    use crate::store::postgres::server::Server;
    use crate::store::shared::Shared as _;
    use crate::store::{Row, Store as _};

    const ME: ClockId = ClockId::from_bytes([7; 16]);

    async fn run(c: &mut PgConnection, sql: &'static str) {
        sqlx::raw_sql(sql).execute(c).await.unwrap();
    }

    #[tokio::test]
    async fn a_beat_sees_what_was_committed_before_it_by_anybody() {
        let (name, url) = Server::shared().database().await;
        let (a, b) = (Postgres::open(&url, tenant()).await.unwrap(), Postgres::open(&url, tenant()).await.unwrap());
        for n in 1..5_u8 {
            one(&a, n, floor(u64::from(n))).await.unwrap();
            let beaten = b.beat(ME).await.unwrap();
            assert_eq!(beaten.head, a.head().await.unwrap());
            assert_eq!(beaten.head.feed.seq, u64::from(n));
        }
        let list = b"a signed list".to_vec();
        let change = crate::store::Change { rows: vec![Row::KeyList(1, list.clone())], ..leaf(1) };
        one(&a, 9, change).await.unwrap();
        let hash = <sha2::Sha256 as sha2::Digest>::digest(&list).into();
        assert_eq!(b.beat(ME).await.unwrap().key_list, (1, hash));
        // Written, since a transaction that writes nothing waits for nobody.
        let mut c = Server::shared().connect(&name).await;
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM beat").fetch_one(&mut c).await.unwrap();
        assert_eq!(rows, 1);
    }

    #[tokio::test]
    async fn commits_are_heard_of_by_others_also_after_the_connection_was_lost() {
        let (name, url) = Server::shared().database().await;
        let (a, b) = (Postgres::open(&url, tenant()).await.unwrap(), Postgres::open(&url, tenant()).await.unwrap());
        let mut hints = b.hints();
        // The first word is that it listens.
        hints.wait_for(|h| h.heard > 0).await.unwrap();
        let placed = one(&a, 1, floor(1)).await.unwrap();
        let heard = *hints.wait_for(|h| h.size > 0).await.unwrap();
        assert_eq!((heard.feed, heard.size), ((1, 1), placed.leaves.end));
        // A listener that lost its connection says so, and hears again.
        let mut c = Server::shared().connect(&name).await;
        run(&mut c, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'procura listen' AND datname = current_database()").await;
        hints.wait_for(|h| h.size == 0).await.unwrap();
        // It says so again once it listens anew.
        let heard = hints.borrow().heard;
        hints.wait_for(|h| h.heard > heard).await.unwrap();
        let placed = one(&a, 2, floor(2)).await.unwrap();
        hints.wait_for(|h| h.size == placed.leaves.end).await.unwrap();
    }

    /// A standby that is named and not there: COMMIT waits, and a cancelled wait reports success.
    #[tokio::test]
    async fn a_beat_whose_wait_for_the_standby_was_cancelled_is_none() {
        let server = Server::start();
        let (name, url) = server.database().await;
        let store = Arc::new(Postgres::open(&url, tenant()).await.unwrap());
        store.beat(ME).await.unwrap();
        assert_eq!(store.standby(), Standby::None);
        let mut c = server.connect(&name).await;
        run(&mut c, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
        run(&mut c, "SELECT pg_reload_conf()").await;
        while sqlx::query_scalar::<_, String>("SHOW synchronous_standby_names").fetch_one(&mut server.connect(&name).await).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let beating = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.beat(ME).await }
        });
        let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'procura beat%'";
        let pid: i32 = loop {
            if let Some(pid) = sqlx::query_scalar(waits).fetch_optional(&mut c).await.unwrap() {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        // A caller that gives up leaves the one beat under way, and begins no other.
        let early = store.beat(ME).await.unwrap_err().to_string();
        assert!(early.contains("no answer"), "{early}");
        assert!(beating.await.unwrap().is_err(), "it waits longer than anybody");
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetch_one(&mut c).await.unwrap();
        assert_eq!(waiting, 1);
        // Cancelled: COMMIT says that all went well. The next beat is given up by its canceller as well.
        assert!(sqlx::query_scalar::<_, bool>("SELECT pg_cancel_backend($1)").bind(pid).fetch_one(&mut c).await.unwrap());
        let cancelled = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.beat(ME).await }
        });
        let first = pid;
        let pid: i32 = loop {
            match sqlx::query_scalar(waits).fetch_optional(&mut c).await.unwrap() {
                Some(pid) if pid != first => break pid,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        sqlx::query("SELECT pg_cancel_backend($1)").bind(pid).execute(&mut c).await.unwrap();
        let said = cancelled.await.unwrap().unwrap_err().to_string();
        assert!(said.contains("0 of 1 synchronous standbys"), "{said}");
        assert_eq!(store.standby(), Standby::Synchronous(1));
        // Its twin: the setting gone, the same store beats.
        run(&mut c, "ALTER SYSTEM RESET synchronous_standby_names").await;
        run(&mut c, "SELECT pg_reload_conf()").await;
        while store.beat(ME).await.is_err() {}
        assert_eq!(store.standby(), Standby::None);
    }
}
