//! PostgreSQL: any number of processes on one database, one writing connection in each, a few reading ones.
//!
//! The head row's lock is the queue of all writers (`write.rs`). Nothing is kept between commits but the tree, and that
//! only as long as the head is still the one it belongs to. Statements are prepared: a pooler between must keep sessions.

mod receipts;
#[cfg(test)]
pub(crate) mod server;
mod session;
mod shared;
mod snapshot;
mod standby;
#[cfg(test)]
mod tests;
mod used;
mod write;

use std::ops::Range;
use std::str::FromStr as _;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use procura_verifier::claims::{Audience, Name};
use procura_verifier::feed::message::{FloorScope, genesis_hash};
use procura_verifier::ids::{AgentId, ClockId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::{Mutex, watch};

use self::shared::Beats;
use self::write::Writer;
use super::rows::{AgentKeyRow, AgentRow, AnswerRow, DelegationRow, HeadRow, TokenRow, VerifierRow, feed_row, fixed, int, number, scope_bytes};
use super::shared::{Beaten, Hint, Shared, Standby};
use super::used::Used;
use super::{Answered, Answering, Batch, CommitError, Committed, FeedRow, Head, ReceiptSlot, Store, StoreError, Taken, TokenRecord};
use crate::domain::agent::{Agent, AgentKey};
use crate::domain::delegation::Delegation;
use crate::domain::human::{Human, Subject};
use crate::domain::opening::Opening;
use crate::domain::session::{FoundSession, HashedToken, Session};
use crate::domain::verifier::Verifier;
use crate::log::tree::empty_root;

/// One tenant's state in a PostgreSQL database that other processes may use at the same time.
pub struct Postgres {
    tenant: Tenant,
    options: PgConnectOptions,
    readers: PgPool,
    writer: Mutex<Writer>,
    beats: Beats,
}

/// Why the database could not be opened. Never says the URL: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not read as one.
    #[error("database URL does not parse, expected `postgres://user@host/database`")]
    Url,
    /// Too old, or made for text that is not ours.
    #[error("database is PostgreSQL {version} with encoding {encoding}, expected 15 or later with UTF8")]
    Unfit {
        /// What it says it is.
        version: String,
        /// Of its text.
        encoding: String,
    },
    /// It cannot be reached.
    #[error("database: {0}")]
    Database(String),
    /// Its schema is not ours.
    #[error("database: {0}")]
    Schema(String),
}

impl Postgres {
    /// Connects and brings the schema up to date; processes that start together wait for each other.
    ///
    /// A host that is not this machine is spoken to over TLS with its name checked, unless the URL names another `sslmode`.
    pub async fn open(url: &SecretString, tenant: Tenant) -> Result<Self, OpenError> {
        // The parser's words may repeat what it could not parse.
        let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| OpenError::Url)?.application_name("procura");
        let options = encrypted(options);
        let failed = |e: &dyn std::fmt::Display| OpenError::Database(e.to_string());
        let mut connection = within(PgConnection::connect_with(&options)).await.map_err(|e| failed(&e))?;
        let (number, version, encoding, standby_names): (i32, String, String, String) = within(
            sqlx::query_as("SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'), current_setting('synchronous_standby_names')")
                .fetch_one(&mut connection),
        )
        .await
        .map_err(|e| failed(&e))?;
        if number < OLDEST || encoding != "UTF8" {
            return Err(OpenError::Unfit { version, encoding });
        }
        let ours = sqlx::migrate!("../migrations/postgres");
        ours.run(&mut connection).await.map_err(|e| OpenError::Schema(super::schema_sentence(&ours, &e)))?;
        let head =
            sqlx::query("INSERT INTO head (tenant, tree_size, tree_root, feed_epoch, feed_seq, feed_hash) VALUES ($1, 0, $2, 1, 0, $3) ON CONFLICT DO NOTHING")
                .bind(tenant.as_str())
                .bind(empty_root().to_vec())
                .bind(genesis_hash(&tenant, 1).to_vec());
        within(head.execute(&mut connection)).await.map_err(|e| failed(&e))?;
        let readers = PgPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(2))
            .after_connect(|connection, _| Box::pin(async move { connection.execute(READING).await.map(drop) }))
            .connect_lazy_with(options.clone());
        let beats = Beats::start(tenant.clone(), options.clone());
        beats.note_standbys(&standby_names);
        Ok(Self { tenant, options, readers, writer: Mutex::new(Writer::new(connection)), beats })
    }
}

/// `prefer`, the default, would go on in the clear with whoever answers.
fn encrypted(options: PgConnectOptions) -> PgConnectOptions {
    let here =
        options.get_socket().is_some() || options.get_host().starts_with('/') || ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&options.get_host());
    if !here && matches!(options.get_ssl_mode(), PgSslMode::Prefer) { options.ssl_mode(PgSslMode::VerifyFull) } else { options }
}

impl Store for Postgres {
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    fn head(&self) -> Answering<'_, Head> {
        async {
            let row: HeadRow = within(
                sqlx::query_as("SELECT tree_size, tree_root, feed_epoch, feed_seq, feed_hash FROM head WHERE tenant = $1")
                    .bind(self.tenant.as_str())
                    .fetch_one(&self.readers),
            )
            .await?;
            row.try_into()
        }
        .boxed()
    }

    fn leaves(&self, from: u64, limit: u32) -> Answering<'_, Vec<Vec<u8>>> {
        within(
            sqlx::query_scalar("SELECT bytes FROM leaf WHERE tenant = $1 AND place >= $2 AND place < $3 ORDER BY place")
                .bind(self.tenant.as_str())
                .bind(int(from))
                .bind(int(from.saturating_add(u64::from(limit))))
                .fetch_all(&self.readers),
        )
        .boxed()
    }

    fn tile(&self, level: u8, index: u64) -> Answering<'_, Option<Vec<u8>>> {
        within(
            sqlx::query_scalar("SELECT hashes FROM tile WHERE tenant = $1 AND level = $2 AND place = $3")
                .bind(self.tenant.as_str())
                .bind(i64::from(level))
                .bind(int(index))
                .fetch_optional(&self.readers),
        )
        .boxed()
    }

    fn feed_since(&self, epoch: u64, seq: u64, limit: u32) -> Answering<'_, Vec<FeedRow>> {
        async move {
            let rows: Vec<(i64, i64, Vec<u8>, Vec<u8>)> = within(
                sqlx::query_as("SELECT epoch, seq, payload, key FROM feed WHERE tenant = $1 AND (epoch, seq) > ($2, $3) ORDER BY epoch, seq LIMIT $4")
                    .bind(self.tenant.as_str())
                    .bind(int(epoch))
                    .bind(int(seq))
                    .bind(i64::from(limit))
                    .fetch_all(&self.readers),
            )
            .await?;
            rows.into_iter().map(feed_row).collect()
        }
        .boxed()
    }

    fn key_list(&self) -> Answering<'_, Option<(u64, Vec<u8>)>> {
        async {
            let row: Option<(i64, Vec<u8>)> = within(
                sqlx::query_as("SELECT version, signed FROM key_list WHERE tenant = $1 ORDER BY version DESC LIMIT 1")
                    .bind(self.tenant.as_str())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(|(version, signed)| Ok((number(version, "key_list", "version")?, signed))).transpose()
        }
        .boxed()
    }

    fn killed_root_keys(&self) -> Answering<'_, Vec<Key>> {
        async {
            let rows: Vec<Vec<u8>> = within(
                sqlx::query_scalar("SELECT key FROM killed_root_key WHERE tenant = $1 ORDER BY key LIMIT 4096")
                    .bind(self.tenant.as_str())
                    .fetch_all(&self.readers),
            )
            .await?;
            rows.iter().map(|key| Ok(Key::from_bytes(fixed(key, "killed_root_key", "key")?))).collect()
        }
        .boxed()
    }

    fn generations<'a>(&'a self, of: &'a [FloorScope]) -> Answering<'a, Vec<u64>> {
        async move {
            // One statement, hence one moment.
            let rows: Vec<(i64,)> = within(
                sqlx::query_as(
                    "SELECT coalesce((SELECT g.generation FROM generation g WHERE g.tenant = $1 AND g.scope = w.scope), 0) FROM unnest($2::bytea[]) WITH ORDINALITY w(scope, nth) ORDER BY w.nth",
                )
                .bind(self.tenant.as_str())
                .bind(of.iter().map(scope_bytes).collect::<Vec<_>>())
                .fetch_all(&self.readers),
            )
            .await?;
            rows.into_iter().map(|(g,)| number(g, "generation", "generation")).collect()
        }
        .boxed()
    }

    fn find_human(&self, id: HumanId) -> Answering<'_, Option<Human>> {
        async move {
            let row: Option<(Vec<u8>, Vec<u8>)> = within(
                sqlx::query_as("SELECT issuer, subject FROM human WHERE tenant = $1 AND id = $2")
                    .bind(self.tenant.as_str())
                    .bind(id.as_bytes().as_slice())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(|(issuer, subject)| {
                Ok(Human { id, subject: Subject { issuer: text(issuer, "human", "issuer")?, subject: text(subject, "human", "subject")? } })
            })
            .transpose()
        }
        .boxed()
    }

    fn find_human_by_subject<'a>(&'a self, subject: &'a Subject) -> Answering<'a, Option<Human>> {
        async move {
            let id: Option<Vec<u8>> = within(
                sqlx::query_scalar("SELECT id FROM human WHERE tenant = $1 AND issuer = $2 AND subject = $3")
                    .bind(self.tenant.as_str())
                    .bind(subject.issuer.as_bytes())
                    .bind(subject.subject.as_bytes())
                    .fetch_optional(&self.readers),
            )
            .await?;
            id.map(|id| Ok(Human { id: HumanId::from_bytes(fixed(&id, "human", "id")?), subject: subject.clone() })).transpose()
        }
        .boxed()
    }

    fn find_agent(&self, id: AgentId) -> Answering<'_, Option<Agent>> {
        async move {
            let row: Option<AgentRow> = within(
                sqlx::query_as("SELECT id, name, owner, state, generation, created_ms, stopped_by FROM agent WHERE tenant = $1 AND id = $2")
                    .bind(self.tenant.as_str())
                    .bind(id.as_bytes().as_slice())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn find_agent_by_name<'a>(&'a self, name: &'a Name) -> Answering<'a, Option<Agent>> {
        async move {
            let row: Option<AgentRow> = within(
                sqlx::query_as("SELECT id, name, owner, state, generation, created_ms, stopped_by FROM agent WHERE tenant = $1 AND name = $2")
                    .bind(self.tenant.as_str())
                    .bind(name.as_str())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn find_agent_key(&self, key: Key) -> Answering<'_, Option<AgentKey>> {
        async move {
            let row: Option<AgentKeyRow> = within(
                sqlx::query_as("SELECT key, agent, state, added_ms, ends_ms FROM agent_key WHERE tenant = $1 AND key = $2")
                    .bind(self.tenant.as_str())
                    .bind(key.as_bytes().as_slice())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn keys_of(&self, agent: AgentId) -> Answering<'_, Vec<AgentKey>> {
        async move {
            let rows: Vec<AgentKeyRow> = within(
                sqlx::query_as(
                    "SELECT key, agent, state, added_ms, ends_ms FROM agent_key WHERE tenant = $1 AND agent = $2 ORDER BY state, added_ms DESC, key LIMIT 64",
                )
                .bind(self.tenant.as_str())
                .bind(agent.as_bytes().as_slice())
                .fetch_all(&self.readers),
            )
            .await?;
            rows.into_iter().map(TryInto::try_into).collect()
        }
        .boxed()
    }

    fn agents_of(&self, owner: HumanId) -> Answering<'_, Vec<Agent>> {
        async move {
            let rows: Vec<AgentRow> = within(
                sqlx::query_as(
                    "SELECT id, name, owner, state, generation, created_ms, stopped_by FROM agent WHERE tenant = $1 AND owner = $2 ORDER BY name LIMIT 1000",
                )
                .bind(self.tenant.as_str())
                .bind(owner.as_bytes().as_slice())
                .fetch_all(&self.readers),
            )
            .await?;
            rows.into_iter().map(TryInto::try_into).collect()
        }
        .boxed()
    }

    fn find_delegation(&self, id: DelegationId) -> Answering<'_, Option<Delegation>> {
        async move {
            let row: Option<DelegationRow> = within(
                sqlx::query_as("SELECT id, human, agent, terms, generations, version, revoked_ms, created_ms FROM delegation WHERE tenant = $1 AND id = $2")
                    .bind(self.tenant.as_str())
                    .bind(id.as_bytes().as_slice())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(|r| r.into_domain(&self.tenant)).transpose()
        }
        .boxed()
    }

    fn delegations_of(&self, human: HumanId) -> Answering<'_, Vec<Delegation>> {
        async move {
            let rows: Vec<DelegationRow> = within(sqlx::query_as(
                "SELECT id, human, agent, terms, generations, version, revoked_ms, created_ms FROM delegation WHERE tenant = $1 AND human = $2 ORDER BY created_ms DESC, id LIMIT 1000",
            )
            .bind(self.tenant.as_str())
            .bind(human.as_bytes().as_slice())
            .fetch_all(&self.readers)).await?;
            rows.into_iter().map(|r| r.into_domain(&self.tenant)).collect()
        }
        .boxed()
    }

    fn delegations_to(&self, agent: AgentId) -> Answering<'_, Vec<Delegation>> {
        async move {
            let rows: Vec<DelegationRow> = within(sqlx::query_as(
                "SELECT id, human, agent, terms, generations, version, revoked_ms, created_ms FROM delegation WHERE tenant = $1 AND agent = $2 ORDER BY created_ms DESC, id LIMIT 1000",
            )
            .bind(self.tenant.as_str())
            .bind(agent.as_bytes().as_slice())
            .fetch_all(&self.readers)).await?;
            rows.into_iter().map(|r| r.into_domain(&self.tenant)).collect()
        }
        .boxed()
    }

    fn find_token(&self, tid: Tid) -> Answering<'_, Option<TokenRecord>> {
        async move {
            let row: Option<TokenRow> = within(
                sqlx::query_as("SELECT delegation, expires_secs, ancestors, revoked_ms FROM token WHERE tenant = $1 AND id = $2")
                    .bind(self.tenant.as_str())
                    .bind(tid.as_bytes().as_slice())
                    .fetch_optional(&self.readers),
            )
            .await?;
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
            let row: Option<(i64, i64)> =
                within(sqlx::query_as("SELECT at_ms, leaf FROM drill WHERE tenant = $1").bind(self.tenant.as_str()).fetch_optional(&self.readers)).await?;
            row.map(|(at, leaf)| Ok((UtcMillis(number(at, "drill", "at_ms")?), number(leaf, "drill", "leaf")?))).transpose()
        }
        .boxed()
    }

    fn board(&self) -> Option<std::sync::Arc<dyn crate::watch::Board>> {
        Some(std::sync::Arc::new(crate::watch::postgres::PgBoard::new(self.tenant.clone(), self.options.clone())))
    }

    fn find_verifier(&self, id: VerifierId) -> Answering<'_, Option<Verifier>> {
        async move {
            let row: Option<VerifierRow> = within(
                sqlx::query_as("SELECT id, key, audience, enrolled_ms, retired_ms FROM verifier WHERE tenant = $1 AND id = $2")
                    .bind(self.tenant.as_str())
                    .bind(id.as_bytes().as_slice())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn find_verifier_of<'a>(&'a self, audience: &'a Audience) -> Answering<'a, Option<Verifier>> {
        async move {
            let row: Option<VerifierRow> = within(
                sqlx::query_as("SELECT id, key, audience, enrolled_ms, retired_ms FROM verifier WHERE tenant = $1 AND audience = $2 AND retired_ms IS NULL")
                    .bind(self.tenant.as_str())
                    .bind(audience.as_str())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(TryInto::try_into).transpose()
        }
        .boxed()
    }

    fn verifiers(&self) -> Answering<'_, Vec<Verifier>> {
        async move {
            let rows: Vec<VerifierRow> = within(
                sqlx::query_as(
                    "SELECT id, key, audience, enrolled_ms, retired_ms FROM verifier WHERE tenant = $1 AND retired_ms IS NULL ORDER BY audience LIMIT 20000",
                )
                .bind(self.tenant.as_str())
                .fetch_all(&self.readers),
            )
            .await?;
            rows.into_iter().map(TryInto::try_into).collect()
        }
        .boxed()
    }

    fn find_receipt(&self, slot: ReceiptSlot) -> Answering<'_, Option<Taken>> {
        async move {
            let row: Option<(Vec<u8>, i64)> = within(
                sqlx::query_as("SELECT hash, leaf FROM receipt WHERE tenant = $1 AND slot = $2")
                    .bind(self.tenant.as_str())
                    .bind(slot.0.to_vec())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(|(hash, leaf)| Ok(Taken { hash: fixed(&hash, "receipt", "hash")?, leaf: number(leaf, "receipt", "leaf")? })).transpose()
        }
        .boxed()
    }

    fn receipts(&self, of: Option<HumanId>, places: Range<u64>, limit: u32) -> Answering<'_, Vec<(u64, Vec<u8>)>> {
        receipts::newest(&self.tenant, &self.readers, of, places, limit).boxed()
    }

    fn find_opening(&self, hash: [u8; 32]) -> Answering<'_, Option<Opening>> {
        async move {
            let row: Option<(Vec<u8>, Vec<u8>)> = within(
                sqlx::query_as("SELECT salt, text FROM opening WHERE tenant = $1 AND hash = $2")
                    .bind(self.tenant.as_str())
                    .bind(hash.to_vec())
                    .fetch_optional(&self.readers),
            )
            .await?;
            row.map(|(salt, opened)| Ok(Opening { salt: fixed(&salt, "opening", "salt")?, text: text(opened, "opening", "text")? })).transpose()
        }
        .boxed()
    }

    fn find_answer(&self, key: [u8; 32]) -> Answering<'_, Option<Answered>> {
        async move {
            let row: Option<AnswerRow> = within(
                sqlx::query_as("SELECT request, body, expires_ms, leaf_from, leaf_until, feed_seq FROM answer WHERE tenant = $1 AND key = $2")
                    .bind(self.tenant.as_str())
                    .bind(key.to_vec())
                    .fetch_optional(&self.readers),
            )
            .await?;
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
            let mut connection = within(self.readers.acquire()).await?;
            let found = within(async {
                let mut tx = connection.begin_with(write::BEGIN).await?;
                // The commit that is asked about may still be on its way, or waiting for its standby: it holds this lock until
                // it is decided, and loses it after its idle timeout. A standby that lags cannot give the lock, so it cannot say no.
                sqlx::query_scalar::<_, i64>("SELECT tree_size FROM head WHERE tenant = $1 FOR UPDATE").bind(self.tenant.as_str()).fetch_one(&mut *tx).await?;
                let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM batch WHERE tenant = $1 AND id = $2)")
                    .bind(self.tenant.as_str())
                    .bind(id.to_vec())
                    .fetch_one(&mut *tx)
                    .await?;
                tx.rollback().await?;
                Ok(found)
            })
            .await?;
            // Visible here is not durable: its wait for the standby may have been cancelled. Without the lock, others go on.
            if found {
                standby::settled(&mut connection).await?;
            }
            Ok(found)
        }
        .boxed()
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Committed, CommitError>> {
        async move { write::commit(&self.tenant, &self.options, &mut *self.writer.lock().await, batch).await }.boxed()
    }
}

impl Shared for Postgres {
    fn beat(&self, replica: ClockId) -> Answering<'_, Beaten> {
        self.beats.beat(replica).boxed()
    }

    fn hints(&self) -> watch::Receiver<Hint> {
        self.beats.hints()
    }

    fn standby(&self) -> Standby {
        self.beats.standby()
    }

    fn settled(&self) -> Answering<'_, ()> {
        async move { standby::settled(&mut *within(self.readers.acquire()).await?).await }.boxed()
    }
}

/// A read, or that there is no answer: a database that is cut off says nothing at all.
async fn within<T>(read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER_WAIT, read).await {
        Ok(read) => Ok(read?),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", ANSWER_WAIT.as_secs()))),
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        Self::Unavailable(e.to_string())
    }
}

fn text(bytes: Vec<u8>, table: &'static str, column: &'static str) -> Result<String, StoreError> {
    String::from_utf8(bytes).map_err(|_| StoreError::Inconsistent { table, column, id: "not UTF-8".to_owned() })
}

/// Longest wait for a read, for a connection, for everything before COMMIT, and for COMMIT.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// What a reading connection is told first: it writes nothing, the server gives up when we have, and a plan made while a
/// table was small does not walk it once it is big.
const READING: &str = "SET default_transaction_read_only = on; SET statement_timeout = '5s'; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off";
/// Most connections that read.
const READERS: u32 = 8;
/// The oldest PostgreSQL that is tested, as its `server_version_num`.
const OLDEST: i32 = 150_000;
