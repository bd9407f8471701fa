//! SQLite: one file in the data folder, WAL, `synchronous=FULL`, one writing connection, a few reading ones.

mod receipts;
mod session;
mod snapshot;
mod used;
mod write;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use procura_verifier::claims::{Audience, Name};
use procura_verifier::feed::message::{FloorScope, genesis_hash};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;

use super::lock::{FolderLock, LockError};
use super::rows::{AgentKeyRow, AgentRow, AnswerRow, DelegationRow, HeadRow, TokenRow, VerifierRow, feed_row, fixed, int, number, scope_bytes};
use super::used::Used;
use super::{Answered, Answering, Batch, CommitError, Committed, FeedRow, Head, ReceiptSlot, Store, StoreError, Taken, TokenRecord};
use crate::domain::agent::{Agent, AgentKey};
use crate::domain::delegation::Delegation;
use crate::domain::human::{Human, Subject};
use crate::domain::opening::Opening;
use crate::domain::session::{FoundSession, HashedToken, Session};
use crate::domain::verifier::Verifier;
use crate::log::tree::{Tree, empty_root};

/// One tenant's state in `<folder>/procura.db`.
pub struct Sqlite {
    tenant: Tenant,
    options: SqliteConnectOptions,
    readers: SqlitePool,
    writer: Mutex<Writer>,
    _lock: FolderLock,
}

/// The writing connection and what it knows of the last commit. Emptied after every failure: nothing is assumed then.
#[derive(Default)]
struct Writer {
    connection: Option<SqliteConnection>,
    tree: Option<(Head, Tree)>,
    commits: u64,
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It cannot be read.
    #[error("database {0}: {1}")]
    Database(std::path::PathBuf, String),
    /// Its schema is not ours.
    #[error("database {0}: {1}")]
    Schema(std::path::PathBuf, String),
}

impl Sqlite {
    /// Opens or makes the database, takes the folder's lock for as long as the value lives, and brings the schema up to date.
    pub async fn open(folder: &Path, tenant: Tenant) -> Result<Self, OpenError> {
        Self::open_held(FolderLock::take(folder)?, folder, tenant).await
    }

    /// [`Sqlite::open`] in a folder that is held already.
    pub async fn open_held(lock: FolderLock, folder: &Path, tenant: Tenant) -> Result<Self, OpenError> {
        let path = folder.join("procura.db");
        let failed = |e: &dyn std::fmt::Display| OpenError::Database(path.clone(), e.to_string());
        // SQLite makes its files with the process's umask; they hold who is who.
        create_private(&path).map_err(|e| failed(&e))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_millis(500));
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(|e| failed(&e))?;
        let ours = sqlx::migrate!("../migrations/sqlite");
        ours.run(&mut connection).await.map_err(|e| OpenError::Schema(path.clone(), super::schema_sentence(&ours, &e)))?;
        sqlx::query("INSERT INTO head (tenant, tree_size, tree_root, feed_epoch, feed_seq, feed_hash) VALUES (?1, 0, ?2, 1, 0, ?3) ON CONFLICT DO NOTHING")
            .bind(tenant.as_str())
            .bind(empty_root().to_vec())
            .bind(genesis_hash(&tenant, 1).to_vec())
            .execute(&mut connection)
            .await
            .map_err(|e| failed(&e))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(2))
            // A file does not hang up: asking each connection whether it lives costs as much as the query.
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true))
            .await
            .map_err(|e| failed(&e))?;
        let writer = Mutex::new(Writer { connection: Some(connection), ..Writer::default() });
        Ok(Self { tenant, options, readers, writer, _lock: lock })
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

impl Store for Sqlite {
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    fn head(&self) -> Answering<'_, Head> {
        async {
            let row: HeadRow = sqlx::query_as("SELECT tree_size, tree_root, feed_epoch, feed_seq, feed_hash FROM head WHERE tenant = ?1")
                .bind(self.tenant.as_str())
                .fetch_one(&self.readers)
                .await
                .map_err(unavailable)?;
            row.try_into()
        }
        .boxed()
    }

    fn leaves(&self, from: u64, limit: u32) -> Answering<'_, Vec<Vec<u8>>> {
        sqlx::query_scalar("SELECT bytes FROM leaf WHERE tenant = ?1 AND place >= ?2 AND place < ?3 ORDER BY place")
            .bind(self.tenant.as_str())
            .bind(int(from))
            .bind(int(from.saturating_add(u64::from(limit))))
            .fetch_all(&self.readers)
            .map_err(unavailable)
            .boxed()
    }

    fn tile(&self, level: u8, index: u64) -> Answering<'_, Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT hashes FROM tile WHERE tenant = ?1 AND level = ?2 AND place = ?3")
            .bind(self.tenant.as_str())
            .bind(i64::from(level))
            .bind(int(index))
            .fetch_optional(&self.readers)
            .map_err(unavailable)
            .boxed()
    }

    fn feed_since(&self, epoch: u64, seq: u64, limit: u32) -> Answering<'_, Vec<FeedRow>> {
        async move {
            let rows: Vec<(i64, i64, Vec<u8>, Vec<u8>)> =
                sqlx::query_as("SELECT epoch, seq, payload, key FROM feed WHERE tenant = ?1 AND (epoch, seq) > (?2, ?3) ORDER BY epoch, seq LIMIT ?4")
                    .bind(self.tenant.as_str())
                    .bind(int(epoch))
                    .bind(int(seq))
                    .bind(i64::from(limit))
                    .fetch_all(&self.readers)
                    .await
                    .map_err(unavailable)?;
            rows.into_iter().map(feed_row).collect()
        }
        .boxed()
    }

    fn key_list(&self) -> Answering<'_, Option<(u64, Vec<u8>)>> {
        async {
            let row: Option<(i64, Vec<u8>)> = sqlx::query_as("SELECT version, signed FROM key_list WHERE tenant = ?1 ORDER BY version DESC LIMIT 1")
                .bind(self.tenant.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(|(version, signed)| Ok((number(version, "key_list", "version")?, signed))).transpose()
        }
        .boxed()
    }

    fn killed_root_keys(&self) -> Answering<'_, Vec<Key>> {
        async {
            let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT key FROM killed_root_key WHERE tenant = ?1 ORDER BY key LIMIT 4096")
                .bind(self.tenant.as_str())
                .fetch_all(&self.readers)
                .await
                .map_err(unavailable)?;
            rows.iter().map(|(key,)| Ok(Key::from_bytes(fixed(key, "killed_root_key", "key")?))).collect()
        }
        .boxed()
    }

    fn generations<'a>(&'a self, of: &'a [FloorScope]) -> Answering<'a, Vec<u64>> {
        async move {
            // One statement, hence one moment.
            let wanted: Vec<_> = of.iter().map(|s| hex::encode(scope_bytes(s))).collect();
            let rows: Vec<(i64,)> = sqlx::query_as(
                "SELECT coalesce(g.generation, 0) FROM json_each(?2) j LEFT JOIN generation g ON g.tenant = ?1 AND g.scope = unhex(j.value) ORDER BY j.key",
            )
            .bind(self.tenant.as_str())
            .bind(serde_json::json!(wanted).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
            rows.into_iter().map(|(g,)| number(g, "generation", "generation")).collect()
        }
        .boxed()
    }

    fn find_human(&self, id: HumanId) -> Answering<'_, Option<Human>> {
        async move {
            let row: Option<(String, String)> = sqlx::query_as("SELECT issuer, subject FROM human WHERE tenant = ?1 AND id = ?2")
                .bind(self.tenant.as_str())
                .bind(id.as_bytes().as_slice())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            Ok(row.map(|(issuer, subject)| Human { id, subject: Subject { issuer, subject } }))
        }
        .boxed()
    }

    fn find_human_by_subject<'a>(&'a self, subject: &'a Subject) -> Answering<'a, Option<Human>> {
        async move {
            let id: Option<Vec<u8>> = sqlx::query_scalar("SELECT id FROM human WHERE tenant = ?1 AND issuer = ?2 AND subject = ?3")
                .bind(self.tenant.as_str())
                .bind(&subject.issuer)
                .bind(&subject.subject)
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            id.map(|id| Ok(Human { id: HumanId::from_bytes(fixed(&id, "human", "id")?), subject: subject.clone() })).transpose()
        }
        .boxed()
    }

    fn find_agent(&self, id: AgentId) -> Answering<'_, Option<Agent>> {
        async move {
            let row: Option<AgentRow> =
                sqlx::query_as("SELECT id, name, owner, state, generation, created_ms, stopped_by FROM agent WHERE tenant = ?1 AND id = ?2")
                    .bind(self.tenant.as_str())
                    .bind(id.as_bytes().as_slice())
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(unavailable)?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn find_agent_by_name<'a>(&'a self, name: &'a Name) -> Answering<'a, Option<Agent>> {
        async move {
            let row: Option<AgentRow> =
                sqlx::query_as("SELECT id, name, owner, state, generation, created_ms, stopped_by FROM agent WHERE tenant = ?1 AND name = ?2")
                    .bind(self.tenant.as_str())
                    .bind(name.as_str())
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(unavailable)?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn find_agent_key(&self, key: Key) -> Answering<'_, Option<AgentKey>> {
        async move {
            let row: Option<AgentKeyRow> = sqlx::query_as("SELECT key, agent, state, added_ms, ends_ms FROM agent_key WHERE tenant = ?1 AND key = ?2")
                .bind(self.tenant.as_str())
                .bind(key.as_bytes().as_slice())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn keys_of(&self, agent: AgentId) -> Answering<'_, Vec<AgentKey>> {
        async move {
            let rows: Vec<AgentKeyRow> = sqlx::query_as(
                "SELECT key, agent, state, added_ms, ends_ms FROM agent_key WHERE tenant = ?1 AND agent = ?2 ORDER BY state, added_ms DESC, key LIMIT 64",
            )
            .bind(self.tenant.as_str())
            .bind(agent.as_bytes().as_slice())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
            rows.into_iter().map(TryInto::try_into).collect()
        }
        .boxed()
    }

    fn agents_of(&self, owner: HumanId) -> Answering<'_, Vec<Agent>> {
        async move {
            let rows: Vec<AgentRow> = sqlx::query_as(
                "SELECT id, name, owner, state, generation, created_ms, stopped_by FROM agent WHERE tenant = ?1 AND owner = ?2 ORDER BY name LIMIT 1000",
            )
            .bind(self.tenant.as_str())
            .bind(owner.as_bytes().as_slice())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
            rows.into_iter().map(TryInto::try_into).collect()
        }
        .boxed()
    }

    fn find_delegation(&self, id: DelegationId) -> Answering<'_, Option<Delegation>> {
        async move {
            let row: Option<DelegationRow> =
                sqlx::query_as("SELECT id, human, agent, terms, generations, version, revoked_ms, created_ms FROM delegation WHERE tenant = ?1 AND id = ?2")
                    .bind(self.tenant.as_str())
                    .bind(id.as_bytes().as_slice())
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(unavailable)?;
            row.map(|r| r.into_domain(&self.tenant)).transpose()
        }
        .boxed()
    }

    fn delegations_of(&self, human: HumanId) -> Answering<'_, Vec<Delegation>> {
        async move {
            let rows: Vec<DelegationRow> = sqlx::query_as(
                "SELECT id, human, agent, terms, generations, version, revoked_ms, created_ms FROM delegation WHERE tenant = ?1 AND human = ?2 ORDER BY created_ms DESC, id LIMIT 1000",
            )
            .bind(self.tenant.as_str())
            .bind(human.as_bytes().as_slice())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
            rows.into_iter().map(|r| r.into_domain(&self.tenant)).collect()
        }
        .boxed()
    }

    fn delegations_to(&self, agent: AgentId) -> Answering<'_, Vec<Delegation>> {
        async move {
            let rows: Vec<DelegationRow> = sqlx::query_as(
                "SELECT id, human, agent, terms, generations, version, revoked_ms, created_ms FROM delegation WHERE tenant = ?1 AND agent = ?2 ORDER BY created_ms DESC, id LIMIT 1000",
            )
            .bind(self.tenant.as_str())
            .bind(agent.as_bytes().as_slice())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
            rows.into_iter().map(|r| r.into_domain(&self.tenant)).collect()
        }
        .boxed()
    }

    fn find_token(&self, tid: Tid) -> Answering<'_, Option<TokenRecord>> {
        async move {
            let row: Option<TokenRow> = sqlx::query_as("SELECT delegation, expires_secs, ancestors, revoked_ms FROM token WHERE tenant = ?1 AND id = ?2")
                .bind(self.tenant.as_str())
                .bind(tid.as_bytes().as_slice())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(|r| r.into_domain(tid)).transpose()
        }
        .boxed()
    }

    fn ending_keys(&self, before: UtcMillis) -> Answering<'_, Vec<AgentKey>> {
        used::ending(&self.tenant, &self.readers, before).boxed()
    }

    fn uses_of(&self, delegation: DelegationId) -> Answering<'_, Vec<Used>> {
        used::of(&self.tenant, &self.readers, delegation).boxed()
    }

    fn last_drill(&self) -> Answering<'_, Option<(UtcMillis, u64)>> {
        async move {
            let row: Option<(i64, i64)> = sqlx::query_as("SELECT at_ms, leaf FROM drill WHERE tenant = ?1")
                .bind(self.tenant.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(|(at, leaf)| Ok((UtcMillis(number(at, "drill", "at_ms")?), number(leaf, "drill", "leaf")?))).transpose()
        }
        .boxed()
    }

    fn find_verifier(&self, id: VerifierId) -> Answering<'_, Option<Verifier>> {
        async move {
            let row: Option<VerifierRow> = sqlx::query_as("SELECT id, key, audience, enrolled_ms, retired_ms FROM verifier WHERE tenant = ?1 AND id = ?2")
                .bind(self.tenant.as_str())
                .bind(id.as_bytes().as_slice())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn find_verifier_of<'a>(&'a self, audience: &'a Audience) -> Answering<'a, Option<Verifier>> {
        async move {
            let row: Option<VerifierRow> =
                sqlx::query_as("SELECT id, key, audience, enrolled_ms, retired_ms FROM verifier WHERE tenant = ?1 AND audience = ?2 AND retired_ms IS NULL")
                    .bind(self.tenant.as_str())
                    .bind(audience.as_str())
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(unavailable)?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn verifiers(&self) -> Answering<'_, Vec<Verifier>> {
        async move {
            let rows: Vec<VerifierRow> = sqlx::query_as(
                "SELECT id, key, audience, enrolled_ms, retired_ms FROM verifier WHERE tenant = ?1 AND retired_ms IS NULL ORDER BY audience LIMIT 20000",
            )
            .bind(self.tenant.as_str())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
            rows.into_iter().map(TryInto::try_into).collect()
        }
        .boxed()
    }

    fn find_receipt(&self, slot: ReceiptSlot) -> Answering<'_, Option<Taken>> {
        async move {
            let row: Option<(Vec<u8>, i64)> = sqlx::query_as("SELECT hash, leaf FROM receipt WHERE tenant = ?1 AND slot = ?2")
                .bind(self.tenant.as_str())
                .bind(slot.0.to_vec())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(|(hash, leaf)| Ok(Taken { hash: fixed(&hash, "receipt", "hash")?, leaf: number(leaf, "receipt", "leaf")? })).transpose()
        }
        .boxed()
    }

    fn receipts(&self, of: Option<HumanId>, places: Range<u64>, limit: u32) -> Answering<'_, Vec<(u64, Vec<u8>)>> {
        receipts::newest(&self.tenant, &self.readers, of, places, limit).boxed()
    }

    fn find_opening(&self, hash: [u8; 32]) -> Answering<'_, Option<Opening>> {
        async move {
            let row: Option<(Vec<u8>, String)> = sqlx::query_as("SELECT salt, text FROM opening WHERE tenant = ?1 AND hash = ?2")
                .bind(self.tenant.as_str())
                .bind(hash.to_vec())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            row.map(|(salt, text)| Ok(Opening { salt: fixed(&salt, "opening", "salt")?, text })).transpose()
        }
        .boxed()
    }

    fn find_answer(&self, key: [u8; 32]) -> Answering<'_, Option<Answered>> {
        async move {
            let row: Option<AnswerRow> =
                sqlx::query_as("SELECT request, body, expires_ms, leaf_from, leaf_until, feed_seq FROM answer WHERE tenant = ?1 AND key = ?2")
                    .bind(self.tenant.as_str())
                    .bind(key.to_vec())
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(unavailable)?;
            row.map(|r| r.into_domain(key)).transpose()
        }
        .boxed()
    }

    fn find_session(&self, secret: HashedToken) -> Answering<'_, Option<FoundSession>> {
        session::find(&self.tenant, &self.readers, secret).boxed()
    }

    fn sessions_of(&self, human: HumanId) -> Answering<'_, Vec<Session>> {
        session::of(&self.tenant, &self.readers, human).boxed()
    }

    fn has_batch(&self, id: [u8; 16]) -> Answering<'_, bool> {
        async move {
            let found: Option<i64> = sqlx::query_scalar("SELECT number FROM batch WHERE tenant = ?1 AND id = ?2")
                .bind(self.tenant.as_str())
                .bind(id.to_vec())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
            Ok(found.is_some())
        }
        .boxed()
    }

    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Committed, CommitError>> {
        async move {
            let mut writer = self.writer.lock().await;
            let done = write::commit(&self.tenant, &self.options, &mut writer, batch).await;
            if done.is_err() {
                // The connection may hold a broken transaction, the tree may be ahead of the database.
                *writer = Writer { commits: writer.commits, ..Writer::default() };
            }
            done
        }
        .boxed()
    }
}

fn unavailable(e: sqlx::Error) -> StoreError {
    StoreError::Unavailable(e.to_string())
}
