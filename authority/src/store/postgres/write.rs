//! One transaction: lock the head, look up what the batch asks, plan, write, commit.
//!
//! Whatever a batch holds, the number of statements is bounded for what a busy authority writes: lists travel as arrays.
//! The connection is owned while it is in use: whatever fails, and whoever stops waiting, it is closed and the server rolls back.

use std::collections::HashMap;
use std::time::Duration;

use procura_verifier::claims::{Audience, Name};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, VerifierId};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use super::shared::CHANNEL;
use super::{ANSWER_WAIT, session, standby, text, within};
use crate::domain::delegation::DelegationState;
use crate::domain::human::Subject;
use crate::log::tree::Tree;
use crate::store::plan::{Facts, Needs, Plan};
use crate::store::rows::{HeadRow, agent_state, agent_state_text, delegation_state, fixed, int, key_state, key_state_text, number, scope_bytes};
use crate::store::{Answer, Batch, CommitError, Committed, Head, JtiHash, Placed, ReceiptSlot, Row, StoreError, TokenRecord, partial_tiles, restored};

/// The writing connection and what this process knows of its last commit. Empty after every failure: nothing is assumed then.
pub(super) struct Writer {
    connection: Option<PgConnection>,
    tree: Option<(Head, Tree)>,
    commits: u64,
}

impl Writer {
    pub(super) fn new(connection: PgConnection) -> Self {
        Self { connection: Some(connection), tree: None, commits: 0 }
    }
}

pub(super) async fn commit(tenant: &Tenant, options: &PgConnectOptions, writer: &mut Writer, batch: &Batch) -> Result<Committed, CommitError> {
    let prepared = tokio::time::timeout(ANSWER_WAIT, prepare(tenant, options, writer, batch)).await;
    let (mut connection, plan, standbys) = prepared.map_err(|_| StoreError::Unavailable("no answer before COMMIT".to_owned()))??;
    let sent = within(sqlx::raw_sql("COMMIT").execute(&mut connection)).await;
    if let Err(e) = sent {
        // Its answer is lost, or it failed: only reading tells whether it took.
        return Err(CommitError::Unknown(Box::new(plan.committed), e.to_string()));
    }
    // COMMIT says yes as well when its wait was cancelled: nobody is told before the standbys have it.
    if standbys > 0
        && let Err(e) = standby::settled(&mut connection).await
    {
        return Err(CommitError::Unknown(Box::new(plan.committed), e.to_string()));
    }
    writer.connection = Some(connection);
    writer.tree = Some((plan.committed.head, plan.tree));
    Ok(plan.committed)
}

/// Everything before COMMIT, and how many standbys that will wait for.
async fn prepare(tenant: &Tenant, options: &PgConnectOptions, writer: &mut Writer, batch: &Batch) -> Result<(PgConnection, Plan, i64), StoreError> {
    let (mut connection, head) = lock(tenant, options, writer.connection.take()).await?;
    let c = &mut connection;
    let tree = match writer.tree.take() {
        Some((at, tree)) if at == head => tree,
        // Another process wrote since, or this one failed: the tree's right edge is what the tiles say.
        _ => restore(c, tenant, head).await?,
    };
    let facts = look_up(c, tenant, &Needs::of(batch)).await?;
    let plan = Plan::make(tenant, head, tree, facts, batch);
    let standbys = write(c, tenant, batch, &plan, head).await?;
    if writer.commits.is_multiple_of(COLLECT_EVERY) {
        collect(c, tenant, batch).await?;
    }
    writer.commits += 1;
    Ok((connection, plan, standbys))
}

/// Begins and takes the head's lock. Nothing has been asked for before, so it may be tried again: a kept connection may
/// have died since, and a process that was stopped while it held the lock loses it after its idle timeout.
async fn lock(tenant: &Tenant, options: &PgConnectOptions, mut kept: Option<PgConnection>) -> Result<(PgConnection, Head), StoreError> {
    let mut attempt = 1;
    loop {
        let locked: Result<_, sqlx::Error> = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => tokio::time::timeout(CONNECT_WAIT, PgConnection::connect_with(options))
                    .await
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??,
            };
            sqlx::raw_sql(BEGIN).execute(&mut connection).await?;
            let row: HeadRow = sqlx::query_as("SELECT tree_size, tree_root, feed_epoch, feed_seq, feed_hash FROM head WHERE tenant = $1 FOR UPDATE")
                .bind(tenant.as_str())
                .fetch_one(&mut connection)
                .await?;
            Ok((connection, row))
        }
        .await;
        match locked {
            Ok((connection, row)) => return Ok((connection, row.try_into()?)),
            Err(e) if attempt < LOCK_ATTEMPTS => tracing::warn!(error = %e, attempt, "head row not locked"),
            Err(e) => return Err(e.into()),
        }
        attempt += 1;
    }
}

/// `LATERAL … OFFSET 0`, here and below: the short list drives, one look into the index for each, whatever the planner
/// believes about the table.
async fn restore(c: &mut PgConnection, tenant: &Tenant, head: Head) -> Result<Tree, StoreError> {
    let (levels, places): (Vec<_>, Vec<_>) = partial_tiles(head.tree.size).map(|(level, place)| (i64::from(level), int(place))).unzip();
    let rows: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT t.* FROM unnest($2::bigint[], $3::bigint[]) w(level, place) CROSS JOIN LATERAL (SELECT level, place, hashes FROM tile WHERE tenant = $1 AND level = w.level AND place = w.place OFFSET 0) t",
    )
    .bind(tenant.as_str())
    .bind(levels)
    .bind(places)
    .fetch_all(c)
    .await?;
    let mut tiles: HashMap<_, _> = rows.into_iter().map(|(level, place, hashes)| ((level, place), hashes)).collect();
    restored(head, |level, place| tiles.remove(&(i64::from(level), int(place))))
}

async fn look_up(c: &mut PgConnection, tenant: &Tenant, needs: &Needs) -> Result<Facts, StoreError> {
    let t = tenant.as_str();
    let mut f = Facts::default();
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM key_list WHERE tenant = $1").bind(t).fetch_one(&mut *c).await?;
    f.key_list = number(version.unwrap_or(0), "key_list", "version")?;
    if !needs.scopes.is_empty() {
        let by_bytes: HashMap<_, _> = needs.scopes.iter().map(|s| (scope_bytes(s), s)).collect();
        let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as("SELECT scope, generation FROM generation WHERE tenant = $1 AND scope = ANY($2)")
            .bind(t)
            .bind(all(by_bytes.keys()))
            .fetch_all(&mut *c)
            .await?;
        for (scope, generation) in rows {
            if let Some(scope) = by_bytes.get(&scope) {
                f.generations.insert(**scope, number(generation, "generation", "generation")?);
            }
        }
    }
    if !needs.agents.is_empty() {
        let rows: Vec<(Vec<u8>, String)> = sqlx::query_as("SELECT id, state FROM agent WHERE tenant = $1 AND id = ANY($2)")
            .bind(t)
            .bind(all(needs.agents.iter().map(AgentId::as_bytes)))
            .fetch_all(&mut *c)
            .await?;
        for (id, state) in rows {
            let state = agent_state(&state).ok_or_else(|| StoreError::Inconsistent { table: "agent", column: "state", id: hex::encode(&id) })?;
            f.agents.insert(AgentId::from_bytes(fixed(&id, "agent", "id")?), state);
        }
    }
    if !needs.names.is_empty() {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as("SELECT name, id FROM agent WHERE tenant = $1 AND name = ANY($2)")
            .bind(t)
            .bind(needs.names.iter().map(Name::as_str).collect::<Vec<_>>())
            .fetch_all(&mut *c)
            .await?;
        for (name, id) in rows {
            let name = name.parse().map_err(|_| StoreError::Inconsistent { table: "agent", column: "name", id: hex::encode(&id) })?;
            f.names.insert(name, AgentId::from_bytes(fixed(&id, "agent", "id")?));
        }
    }
    if !needs.keys.is_empty() {
        let wanted = all(needs.keys.iter().map(Key::as_bytes));
        let rows: Vec<(Vec<u8>, Vec<u8>, String)> =
            sqlx::query_as("SELECT key, agent, state FROM agent_key WHERE tenant = $1 AND key = ANY($2)").bind(t).bind(&wanted).fetch_all(&mut *c).await?;
        for (key, agent, state) in rows {
            let state = key_state(&state).ok_or_else(|| StoreError::Inconsistent { table: "agent_key", column: "state", id: hex::encode(&key) })?;
            f.keys.insert(Key::from_bytes(fixed(&key, "agent_key", "key")?), (AgentId::from_bytes(fixed(&agent, "agent_key", "agent")?), state));
        }
        for key in ids(c, "SELECT key FROM verifier WHERE tenant = $1 AND key = ANY($2)", t, wanted).await? {
            f.verifier_keys.insert(Key::from_bytes(fixed(&key, "verifier", "key")?));
        }
    }
    if !needs.root_keys.is_empty() {
        let wanted = all(needs.root_keys.iter().map(Key::as_bytes));
        for key in ids(c, "SELECT key FROM killed_root_key WHERE tenant = $1 AND key = ANY($2)", t, wanted).await? {
            f.killed_root_keys.insert(Key::from_bytes(fixed(&key, "killed_root_key", "key")?));
        }
    }
    if !needs.delegations.is_empty() {
        let rows: Vec<(Vec<u8>, i64, Option<i64>)> = sqlx::query_as("SELECT id, version, revoked_ms FROM delegation WHERE tenant = $1 AND id = ANY($2)")
            .bind(t)
            .bind(all(needs.delegations.iter().map(DelegationId::as_bytes)))
            .fetch_all(&mut *c)
            .await?;
        for (id, version, revoked) in rows {
            let version = u32::try_from(version).map_err(|_| StoreError::Inconsistent { table: "delegation", column: "version", id: hex::encode(&id) })?;
            f.delegations.insert(DelegationId::from_bytes(fixed(&id, "delegation", "id")?), (version, delegation_state(revoked)?));
        }
    }
    if !needs.jtis.is_empty() {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT j.* FROM unnest($2::bytea[], $3::bytea[]) w(agent, hash) CROSS JOIN LATERAL (SELECT agent, hash FROM jti WHERE tenant = $1 AND agent = w.agent AND hash = w.hash OFFSET 0) j",
        )
        .bind(t)
        .bind(all(needs.jtis.iter().map(|(agent, _)| agent.as_bytes())))
        .bind(all(needs.jtis.iter().map(|(_, jti)| jti.0)))
        .fetch_all(&mut *c)
        .await?;
        for (agent, hash) in rows {
            f.jtis.insert((AgentId::from_bytes(fixed(&agent, "jti", "agent")?), JtiHash(fixed(&hash, "jti", "hash")?)));
        }
    }
    if !needs.subjects.is_empty() {
        let rows: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT h.* FROM unnest($2::bytea[], $3::bytea[]) w(issuer, subject) CROSS JOIN LATERAL (SELECT issuer, subject, id FROM human WHERE tenant = $1 AND issuer = w.issuer AND subject = w.subject OFFSET 0) h",
        )
        .bind(t)
        .bind(all(needs.subjects.iter().map(|s| &s.issuer)))
        .bind(all(needs.subjects.iter().map(|s| &s.subject)))
        .fetch_all(&mut *c)
        .await?;
        for (issuer, subject, id) in rows {
            let subject = Subject { issuer: text(issuer, "human", "issuer")?, subject: text(subject, "human", "subject")? };
            f.subjects.insert(subject, HumanId::from_bytes(fixed(&id, "human", "id")?));
        }
    }
    if !needs.verifiers.is_empty() {
        let wanted = all(needs.verifiers.iter().map(VerifierId::as_bytes));
        // Not `IS NULL`: the planner would walk the index of all that are in force.
        for id in ids(c, "SELECT id FROM verifier WHERE tenant = $1 AND id = ANY($2) AND coalesce(retired_ms, 0) = 0", t, wanted).await? {
            f.verifiers.insert(VerifierId::from_bytes(fixed(&id, "verifier", "id")?));
        }
    }
    if !needs.audiences.is_empty() {
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT v.* FROM unnest($2::text[]) w(audience) CROSS JOIN LATERAL (SELECT audience FROM verifier WHERE tenant = $1 AND audience = w.audience AND retired_ms IS NULL OFFSET 0) v",
        )
        .bind(t)
        .bind(needs.audiences.iter().map(Audience::as_str).collect::<Vec<_>>())
        .fetch_all(&mut *c)
        .await?;
        f.audiences.extend(needs.audiences.iter().filter(|a| found.iter().any(|f| f == a.as_str())).cloned());
    }
    if !needs.receipts.is_empty() {
        for slot in ids(c, "SELECT slot FROM receipt WHERE tenant = $1 AND slot = ANY($2)", t, all(needs.receipts.iter().map(|s| s.0))).await? {
            f.receipts.insert(ReceiptSlot(fixed(&slot, "receipt", "slot")?));
        }
    }
    if !needs.answers.is_empty() {
        for key in ids(c, "SELECT key FROM answer WHERE tenant = $1 AND key = ANY($2)", t, all(&needs.answers)).await? {
            f.answers.insert(fixed(&key, "answer", "key")?);
        }
    }
    f.spent = session::spent(c, t, &needs.spent).await?;
    Ok(f)
}

/// Which of these ids are there.
async fn ids(c: &mut PgConnection, sql: &'static str, t: &str, wanted: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar(sql).bind(t).bind(wanted).fetch_all(c).await?)
}

/// Gives how many standbys COMMIT will wait for.
async fn write(c: &mut PgConnection, tenant: &Tenant, batch: &Batch, plan: &Plan, before: Head) -> Result<i64, StoreError> {
    let t = tenant.as_str();
    let mut many = Many::default();
    for at in &plan.accepted {
        let (Some(change), Some(Ok(placed))) = (batch.changes.get(*at), plan.committed.outcomes.get(*at)) else { continue };
        many.leaves.extend(placed.leaves.clone().zip(change.leaves.iter().map(Vec::as_slice)));
        for row in &change.rows {
            one(c, t, row, placed, &mut many).await?;
        }
    }
    let head = plan.committed.head;
    many.write(c, t).await?;
    if !plan.committed.messages.is_empty() {
        let messages = &plan.committed.messages;
        sqlx::query("INSERT INTO feed (tenant, epoch, seq, payload, key) SELECT $1, $2, * FROM unnest($3::bigint[], $4::bytea[], $5::bytea[])")
            .bind(t)
            .bind(big(head.feed.epoch)?)
            .bind(bigs(messages.iter().map(|m| m.seq))?)
            .bind(messages.iter().map(|m| m.payload.as_slice()).collect::<Vec<_>>())
            .bind(all(messages.iter().map(|m| m.key.as_bytes())))
            .execute(&mut *c)
            .await?;
    }
    if !plan.tiles.is_empty() {
        sqlx::query("INSERT INTO tile (tenant, level, place, hashes) SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bytea[]) ON CONFLICT (tenant, level, place) DO UPDATE SET hashes = excluded.hashes WHERE octet_length(excluded.hashes) > octet_length(tile.hashes)")
            .bind(t)
            .bind(plan.tiles.iter().map(|tile| i64::from(tile.level)).collect::<Vec<_>>())
            .bind(bigs(plan.tiles.iter().map(|tile| tile.index))?)
            .bind(plan.tiles.iter().map(|tile| tile.hashes.as_slice()).collect::<Vec<_>>())
            .execute(&mut *c)
            .await?;
    }
    let moved =
        sqlx::query("UPDATE head SET tree_size = $2, tree_root = $3, feed_seq = $4, feed_hash = $5, feed_epoch = $8 WHERE tenant = $1 AND tree_size = $6 AND feed_seq = $7 AND feed_epoch = $9")
            .bind(t)
            .bind(big(head.tree.size)?)
            .bind(head.tree.root.to_vec())
            .bind(big(head.feed.seq)?)
            .bind(head.feed.hash.to_vec())
            .bind(big(before.tree.size)?)
            .bind(big(before.feed.seq)?)
            .bind(big(head.feed.epoch)?)
            .bind(big(before.feed.epoch)?)
            .execute(&mut *c)
            .await?;
    if moved.rows_affected() != 1 {
        return Err(StoreError::Unavailable("the head row moved under its lock".to_owned()));
    }
    // Other processes hear of it when this is committed, and only then.
    let (_, names, may_see): (String, String, bool) = sqlx::query_as(
        "WITH b AS (INSERT INTO batch (tenant, id) VALUES ($1, $2)) SELECT pg_notify($3, $4)::text, current_setting('synchronous_standby_names'), pg_has_role('pg_read_all_stats', 'USAGE')",
    )
    .bind(t)
    .bind(batch.id.as_slice())
    .bind(CHANNEL)
    .bind(format!("{t} {} {} {}", head.feed.epoch, head.feed.seq, head.tree.size))
    .fetch_one(c)
    .await?;
    let required = standby::required(&names);
    // Found out now, nothing is written; after COMMIT it would be neither yes nor no.
    if required > 0 && !may_see {
        return Err(standby::unseen());
    }
    Ok(required)
}

/// Rows of the tables that a busy authority writes to, each table written by one statement.
#[derive(Default)]
struct Many<'a> {
    leaves: Vec<(u64, &'a [u8])>,
    /// The last one of a token: one statement cannot write a row twice.
    tokens: HashMap<Tid, &'a TokenRecord>,
    jtis: Vec<(AgentId, JtiHash, u64)>,
    receipts: Vec<(ReceiptSlot, [u8; 32], u64)>,
    answers: Vec<(&'a Answer, &'a Placed)>,
}

/// Writes a row, or keeps it for a statement of many.
async fn one<'a>(c: &mut PgConnection, t: &str, row: &'a Row, placed: &'a Placed, many: &mut Many<'a>) -> Result<(), StoreError> {
    let query = match row {
        // The plan wrote its message.
        Row::EpochStart(..) => return Ok(()),
        Row::Token(r) => {
            many.tokens.insert(r.tid, r);
            return Ok(());
        }
        Row::Jti(agent, jti, expires) => {
            many.jtis.push((*agent, *jti, expires.0));
            return Ok(());
        }
        Row::Receipt(r) => {
            many.receipts.push((r.slot, r.hash, placed.leaves.start));
            return Ok(());
        }
        Row::Answer(a) => {
            many.answers.push((a, placed));
            return Ok(());
        }
        Row::Session(change) => return session::write(c, t, change).await,
        Row::Spent(secret, expires) => return session::spend(c, t, secret, *expires).await,
        Row::Human(h) => sqlx::query("INSERT INTO human (tenant, id, issuer, subject) VALUES ($1, $2, $3, $4)")
            .bind(t)
            .bind(h.id.as_bytes().as_slice())
            .bind(h.subject.issuer.as_bytes())
            .bind(h.subject.subject.as_bytes()),
        Row::Agent(a) => sqlx::query("INSERT INTO agent (tenant, id, name, owner, state, generation, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, id) DO UPDATE SET name = excluded.name, owner = excluded.owner, state = excluded.state, generation = excluded.generation")
            .bind(t)
            .bind(a.id.as_bytes().as_slice())
            .bind(a.name.as_str())
            .bind(a.owner.as_bytes().as_slice())
            .bind(agent_state_text(a.state))
            .bind(big(a.generation)?)
            .bind(big(a.created.0)?),
        Row::AgentKey(k) => sqlx::query("INSERT INTO agent_key (tenant, key, agent, state, added_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, key) DO UPDATE SET state = excluded.state")
            .bind(t)
            .bind(k.key.as_bytes().as_slice())
            .bind(k.agent.as_bytes().as_slice())
            .bind(key_state_text(k.state))
            .bind(big(k.added.0)?),
        Row::Delegation(d) => {
            let revoked = match d.state {
                DelegationState::Live => None,
                DelegationState::Revoked { at } => Some(big(at.0)?),
            };
            sqlx::query("INSERT INTO delegation (tenant, id, human, agent, terms, generations, version, revoked_ms, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, id) DO UPDATE SET terms = excluded.terms, generations = excluded.generations, version = excluded.version, revoked_ms = excluded.revoked_ms")
                .bind(t)
                .bind(d.id.as_bytes().as_slice())
                .bind(d.human.as_bytes().as_slice())
                .bind(d.agent.as_bytes().as_slice())
                .bind(json!(d.terms).to_string())
                .bind(json!(d.generations).to_string())
                .bind(i64::from(d.version))
                .bind(revoked)
                .bind(big(d.created.0)?)
        }
        Row::Generation(scope, to) => sqlx::query("INSERT INTO generation (tenant, scope, generation) VALUES ($1, $2, $3) ON CONFLICT (tenant, scope) DO UPDATE SET generation = excluded.generation")
            .bind(t)
            .bind(scope_bytes(scope))
            .bind(big(*to)?),
        Row::KeyList(version, signed) => sqlx::query("INSERT INTO key_list (tenant, version, signed) VALUES ($1, $2, $3)").bind(t).bind(big(*version)?).bind(signed),
        Row::RootKeyKilled(key) => {
            sqlx::query("INSERT INTO killed_root_key (tenant, key) VALUES ($1, $2) ON CONFLICT DO NOTHING").bind(t).bind(key.as_bytes().as_slice())
        }
        Row::Verifier(v) => sqlx::query("INSERT INTO verifier (tenant, id, key, audience, enrolled_ms, retired_ms) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, id) DO UPDATE SET retired_ms = excluded.retired_ms")
            .bind(t)
            .bind(v.id.as_bytes().as_slice())
            .bind(v.key.as_bytes().as_slice())
            .bind(v.audience.as_str())
            .bind(big(v.enrolled.0)?)
            .bind(v.retired.map(|at| big(at.0)).transpose()?),
        Row::Drill(at) => sqlx::query("INSERT INTO drill (tenant, at_ms, leaf) VALUES ($1, $2, $3) ON CONFLICT (tenant) DO UPDATE SET at_ms = excluded.at_ms, leaf = excluded.leaf")
            .bind(t)
            .bind(big(at.0)?)
            .bind(big(placed.leaves.start)?),
        Row::Opening(o) => sqlx::query("INSERT INTO opening (tenant, hash, salt, text) VALUES ($1, $2, $3, $4)")
            .bind(t)
            .bind(o.hash().to_vec())
            .bind(o.salt.as_slice())
            .bind(o.text.as_bytes()),
    };
    query.execute(c).await?;
    Ok(())
}

impl Many<'_> {
    async fn write(self, c: &mut PgConnection, t: &str) -> Result<(), StoreError> {
        if !self.leaves.is_empty() {
            sqlx::query("INSERT INTO leaf (tenant, place, bytes) SELECT $1, * FROM unnest($2::bigint[], $3::bytea[])")
                .bind(t)
                .bind(bigs(self.leaves.iter().map(|l| l.0))?)
                .bind(self.leaves.iter().map(|l| l.1).collect::<Vec<_>>())
                .execute(&mut *c)
                .await?;
        }
        if !self.tokens.is_empty() {
            let tokens: Vec<_> = self.tokens.into_values().collect();
            sqlx::query("INSERT INTO token (tenant, id, delegation, expires_secs, ancestors, revoked_ms) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[], $6::bigint[]) ON CONFLICT (tenant, id) DO UPDATE SET revoked_ms = excluded.revoked_ms")
                .bind(t)
                .bind(all(tokens.iter().map(|r| r.tid.as_bytes())))
                .bind(all(tokens.iter().map(|r| r.delegation.as_bytes())))
                .bind(bigs(tokens.iter().map(|r| r.expires_secs))?)
                .bind(tokens.iter().map(|r| r.ancestors.iter().flat_map(|a| *a.as_bytes()).collect()).collect::<Vec<Vec<u8>>>())
                .bind(tokens.iter().map(|r| r.revoked.map(|at| big(at.0)).transpose()).collect::<Result<Vec<_>, _>>()?)
                .execute(&mut *c)
                .await?;
        }
        if !self.jtis.is_empty() {
            sqlx::query("INSERT INTO jti (tenant, agent, hash, expires_ms) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::bigint[])")
                .bind(t)
                .bind(all(self.jtis.iter().map(|j| *j.0.as_bytes())))
                .bind(all(self.jtis.iter().map(|j| j.1.0)))
                .bind(bigs(self.jtis.iter().map(|j| j.2))?)
                .execute(&mut *c)
                .await?;
        }
        if !self.receipts.is_empty() {
            sqlx::query("INSERT INTO receipt (tenant, slot, hash, leaf) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::bigint[])")
                .bind(t)
                .bind(all(self.receipts.iter().map(|r| r.0.0)))
                .bind(all(self.receipts.iter().map(|r| r.1)))
                .bind(bigs(self.receipts.iter().map(|r| r.2))?)
                .execute(&mut *c)
                .await?;
        }
        if !self.answers.is_empty() {
            sqlx::query("INSERT INTO answer (tenant, key, request, body, expires_ms, leaf_from, leaf_until, feed_seq) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])")
                .bind(t)
                .bind(all(self.answers.iter().map(|(a, _)| a.key)))
                .bind(all(self.answers.iter().map(|(a, _)| a.request)))
                .bind(self.answers.iter().map(|(a, _)| a.body.as_str()).collect::<Vec<_>>())
                .bind(bigs(self.answers.iter().map(|(a, _)| a.expires.0))?)
                .bind(bigs(self.answers.iter().map(|(_, p)| p.leaves.start))?)
                .bind(bigs(self.answers.iter().map(|(_, p)| p.leaves.end))?)
                .bind(self.answers.iter().map(|(_, p)| p.feed_seq.map(big).transpose()).collect::<Result<Vec<_>, _>>()?)
                .execute(&mut *c)
                .await?;
        }
        Ok(())
    }
}

/// Forgets what has been over for an hour: until then a clock set back finds assertions still spent.
/// Of this tenant only: nobody else writes its rows now, so that collecting waits for nobody.
async fn collect(c: &mut PgConnection, tenant: &Tenant, batch: &Batch) -> Result<(), sqlx::Error> {
    let before = int(batch.at.0.saturating_sub(3_600_000));
    for (sql, before) in [
        ("DELETE FROM jti WHERE ctid = ANY(ARRAY(SELECT ctid FROM jti WHERE tenant = $1 AND expires_ms < $2 LIMIT 8192))", before),
        ("DELETE FROM answer WHERE ctid = ANY(ARRAY(SELECT ctid FROM answer WHERE tenant = $1 AND expires_ms < $2 LIMIT 8192))", before),
        ("DELETE FROM token WHERE ctid = ANY(ARRAY(SELECT ctid FROM token WHERE tenant = $1 AND expires_secs < $2 LIMIT 8192))", before / 1000 - 86_400),
    ] {
        sqlx::query(sql).bind(tenant.as_str()).bind(before).execute(&mut *c).await?;
    }
    session::collect(c, tenant, before).await?;
    // By the database's clock, the only one that all replicas share.
    let sql = "DELETE FROM batch WHERE ctid = ANY(ARRAY(SELECT ctid FROM batch WHERE tenant = $1 AND begun < now() - interval '1 hour' LIMIT 8192))";
    sqlx::query(sql).bind(tenant.as_str()).execute(c).await.map(drop)
}

pub(super) fn all(ids: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Vec<u8>> {
    ids.into_iter().map(|id| id.as_ref().to_vec()).collect()
}

fn bigs(numbers: impl Iterator<Item = u64>) -> Result<Vec<i64>, StoreError> {
    numbers.map(big).collect()
}

/// Written numbers are never pinned or wrapped: a place or a floor that is not the one that was signed is worse than none.
pub(super) fn big(n: u64) -> Result<i64, StoreError> {
    i64::try_from(n).map_err(|_| StoreError::Unavailable(format!("{n} does not fit, expected less than 2^63")))
}

/// READ COMMITTED, so that what is read after the lock was waited for is what its last holder wrote.
///
/// - Both timeouts bound what a stopped or cut-off process costs the others.
/// - No statement timeout, whatever the role's default is: on COMMIT it would end the wait for the synchronous standby
///   and report success.
/// - A plan made while a table was small must not walk it once it is big.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE; \
    SET LOCAL lock_timeout = '500ms'; SET LOCAL idle_in_transaction_session_timeout = '500ms'; SET LOCAL statement_timeout = 0; \
    SET LOCAL synchronous_commit = on; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off";
/// A stopped holder costs at most one idle timeout, a dead connection one attempt.
const LOCK_ATTEMPTS: u32 = 3;
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// How many commits go by between two collections, and so many of the biggest batches does each collection make up for.
const COLLECT_EVERY: u64 = 16;
