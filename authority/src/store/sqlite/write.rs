//! One transaction: lock the head, look up what the batch asks, plan, write, commit.
//!
//! Whatever a batch holds, the number of statements is bounded: lists travel as one JSON parameter each.

use procura_verifier::claims::Name;
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, VerifierId};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Sqlite, SqliteConnection, Transaction};

use super::{Writer, session, unavailable, used};
use crate::domain::delegation::DelegationState;
use crate::domain::human::Subject;
use crate::log::tree::Tree;
use crate::store::plan::{Facts, Needs, Plan};
use crate::store::rows::{HeadRow, agent_state, agent_state_text, delegation_state, fixed, int, key_state, key_state_text, number, scope_bytes};
use crate::store::used::Merged;
use crate::store::{Batch, CommitError, Committed, Head, JtiHash, Placed, ReceiptSlot, Row, StoreError, partial_tiles, restored};

pub(super) async fn commit(tenant: &Tenant, options: &SqliteConnectOptions, writer: &mut Writer, batch: &Batch) -> Result<Committed, CommitError> {
    let connection = match &mut writer.connection {
        Some(connection) => connection,
        none => none.insert(SqliteConnection::connect_with(options).await.map_err(unavailable)?),
    };
    #[cfg(feature = "failpoints")]
    if let Some(pages) = crate::failpoint::max_pages() {
        // A PRAGMA takes no parameter; the number is ours.
        let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(limit).execute(&mut *connection).await.map_err(unavailable)?;
    }
    // IMMEDIATE: the write lock first, so that nothing read here can be out of date.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)?;
    let row: HeadRow = sqlx::query_as("SELECT tree_size, tree_root, feed_epoch, feed_seq, feed_hash FROM head WHERE tenant = ?1")
        .bind(tenant.as_str())
        .fetch_one(&mut *tx)
        .await
        .map_err(unavailable)?;
    let head = Head::try_from(row)?;
    let tree = match writer.tree.take() {
        Some((at, tree)) if at == head => tree,
        _ => restore(&mut tx, tenant, head).await?,
    };
    let facts = look_up(&mut tx, tenant, &Needs::of(batch)).await?;
    let plan = Plan::make(tenant, head, tree, facts, batch);
    write(&mut tx, tenant, batch, &plan, head).await.map_err(unavailable)?;
    if writer.commits.is_multiple_of(COLLECT_EVERY) {
        collect(&mut tx, batch).await.map_err(unavailable)?;
    }
    writer.commits += 1;
    if let Err(e) = tx.commit().await {
        // COMMIT itself failed: only reading tells whether it took.
        return Err(CommitError::Unknown(Box::new(plan.committed), e.to_string()));
    }
    writer.tree = Some((plan.committed.head, plan.tree));
    Ok(plan.committed)
}

type Tx<'a> = Transaction<'a, Sqlite>;

async fn restore(tx: &mut Tx<'_>, tenant: &Tenant, head: Head) -> Result<Tree, StoreError> {
    let mut tiles = std::collections::HashMap::new();
    for (level, index) in partial_tiles(head.tree.size) {
        let hashes: Option<Vec<u8>> = sqlx::query_scalar("SELECT hashes FROM tile WHERE tenant = ?1 AND level = ?2 AND place = ?3")
            .bind(tenant.as_str())
            .bind(i64::from(level))
            .bind(int(index))
            .fetch_optional(&mut **tx)
            .await
            .map_err(unavailable)?;
        tiles.insert((level, index), hashes);
    }
    restored(head, |level, index| tiles.remove(&(level, index)).flatten())
}

async fn look_up(tx: &mut Tx<'_>, tenant: &Tenant, needs: &Needs) -> Result<Facts, StoreError> {
    let mut f = Facts::default();
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM key_list WHERE tenant = ?1").bind(tenant.as_str()).fetch_one(&mut **tx).await.map_err(unavailable)?;
    f.key_list = number(version.unwrap_or(0), "key_list", "version")?;
    if !needs.scopes.is_empty() {
        let by_bytes: std::collections::HashMap<_, _> = needs.scopes.iter().map(|s| (scope_bytes(s), s)).collect();
        let rows: Vec<(Vec<u8>, i64)> =
            sqlx::query_as("SELECT scope, generation FROM generation WHERE tenant = ?1 AND scope IN (SELECT unhex(value) FROM json_each(?2))")
                .bind(tenant.as_str())
                .bind(hexes(by_bytes.keys()))
                .fetch_all(&mut **tx)
                .await
                .map_err(unavailable)?;
        for (scope, generation) in rows {
            if let Some(scope) = by_bytes.get(&scope) {
                f.generations.insert(**scope, number(generation, "generation", "generation")?);
            }
        }
    }
    if !needs.agents.is_empty() {
        let rows: Vec<(Vec<u8>, String)> = sqlx::query_as("SELECT id, state FROM agent WHERE tenant = ?1 AND id IN (SELECT unhex(value) FROM json_each(?2))")
            .bind(tenant.as_str())
            .bind(hexes(needs.agents.iter().map(AgentId::as_bytes)))
            .fetch_all(&mut **tx)
            .await
            .map_err(unavailable)?;
        for (id, state) in rows {
            let state = agent_state(&state).ok_or_else(|| StoreError::Inconsistent { table: "agent", column: "state", id: hex::encode(&id) })?;
            f.agents.insert(AgentId::from_bytes(fixed(&id, "agent", "id")?), state);
        }
    }
    if !needs.names.is_empty() {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT a.name, a.id FROM json_each(?2) w CROSS JOIN agent a WHERE a.tenant = ?1 AND a.name = w.value")
                .bind(tenant.as_str())
                .bind(json!(needs.names.iter().map(Name::as_str).collect::<Vec<_>>()).to_string())
                .fetch_all(&mut **tx)
                .await
                .map_err(unavailable)?;
        for (name, id) in rows {
            let name = name.parse().map_err(|_| StoreError::Inconsistent { table: "agent", column: "name", id: hex::encode(&id) })?;
            f.names.insert(name, AgentId::from_bytes(fixed(&id, "agent", "id")?));
        }
    }
    if !needs.keys.is_empty() {
        let wanted = hexes(needs.keys.iter().map(Key::as_bytes));
        let rows: Vec<(Vec<u8>, Vec<u8>, String)> =
            sqlx::query_as("SELECT key, agent, state FROM agent_key WHERE tenant = ?1 AND key IN (SELECT unhex(value) FROM json_each(?2))")
                .bind(tenant.as_str())
                .bind(&wanted)
                .fetch_all(&mut **tx)
                .await
                .map_err(unavailable)?;
        for (key, agent, state) in rows {
            let state = key_state(&state).ok_or_else(|| StoreError::Inconsistent { table: "agent_key", column: "state", id: hex::encode(&key) })?;
            f.keys.insert(Key::from_bytes(fixed(&key, "agent_key", "key")?), (AgentId::from_bytes(fixed(&agent, "agent_key", "agent")?), state));
        }
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT key FROM verifier WHERE tenant = ?1 AND key IN (SELECT unhex(value) FROM json_each(?2))")
            .bind(tenant.as_str())
            .bind(&wanted)
            .fetch_all(&mut **tx)
            .await
            .map_err(unavailable)?;
        for (key,) in rows {
            f.verifier_keys.insert(Key::from_bytes(fixed(&key, "verifier", "key")?));
        }
    }
    if !needs.root_keys.is_empty() {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT key FROM killed_root_key WHERE tenant = ?1 AND key IN (SELECT unhex(value) FROM json_each(?2))")
            .bind(tenant.as_str())
            .bind(hexes(needs.root_keys.iter().map(Key::as_bytes)))
            .fetch_all(&mut **tx)
            .await
            .map_err(unavailable)?;
        for (key,) in rows {
            f.killed_root_keys.insert(Key::from_bytes(fixed(&key, "killed_root_key", "key")?));
        }
    }
    if !needs.delegations.is_empty() {
        let rows: Vec<(Vec<u8>, i64, Option<i64>)> =
            sqlx::query_as("SELECT id, version, revoked_ms FROM delegation WHERE tenant = ?1 AND id IN (SELECT unhex(value) FROM json_each(?2))")
                .bind(tenant.as_str())
                .bind(hexes(needs.delegations.iter().map(DelegationId::as_bytes)))
                .fetch_all(&mut **tx)
                .await
                .map_err(unavailable)?;
        for (id, version, revoked) in rows {
            let version = u32::try_from(version).map_err(|_| StoreError::Inconsistent { table: "delegation", column: "version", id: hex::encode(&id) })?;
            f.delegations.insert(DelegationId::from_bytes(fixed(&id, "delegation", "id")?), (version, delegation_state(revoked)?));
        }
    }
    if !needs.jtis.is_empty() {
        let wanted: Vec<_> = needs.jtis.iter().map(|(agent, jti)| json!([hex::encode(agent.as_bytes()), hex::encode(jti.0)])).collect();
        // CROSS: the short list drives, not the table.
        let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT j.agent, j.hash FROM json_each(?2) w CROSS JOIN jti j WHERE j.tenant = ?1 AND j.agent = unhex(w.value ->> 0) AND j.hash = unhex(w.value ->> 1)",
        )
        .bind(tenant.as_str())
        .bind(Value::from(wanted).to_string())
        .fetch_all(&mut **tx)
        .await
        .map_err(unavailable)?;
        for (agent, hash) in rows {
            f.jtis.insert((AgentId::from_bytes(fixed(&agent, "jti", "agent")?), JtiHash(fixed(&hash, "jti", "hash")?)));
        }
    }
    for subject in &needs.subjects {
        let id: Option<Vec<u8>> = sqlx::query_scalar("SELECT id FROM human WHERE tenant = ?1 AND issuer = ?2 AND subject = ?3")
            .bind(tenant.as_str())
            .bind(&subject.issuer)
            .bind(&subject.subject)
            .fetch_optional(&mut **tx)
            .await
            .map_err(unavailable)?;
        if let Some(id) = id {
            f.subjects.insert(Subject::clone(subject), HumanId::from_bytes(fixed(&id, "human", "id")?));
        }
    }
    if !needs.verifiers.is_empty() {
        let rows: Vec<(Vec<u8>,)> =
            sqlx::query_as("SELECT id FROM verifier WHERE tenant = ?1 AND retired_ms IS NULL AND id IN (SELECT unhex(value) FROM json_each(?2))")
                .bind(tenant.as_str())
                .bind(hexes(needs.verifiers.iter().map(VerifierId::as_bytes)))
                .fetch_all(&mut **tx)
                .await
                .map_err(unavailable)?;
        for (id,) in rows {
            f.verifiers.insert(VerifierId::from_bytes(fixed(&id, "verifier", "id")?));
        }
    }
    for audience in &needs.audiences {
        let id: Option<Vec<u8>> = sqlx::query_scalar("SELECT id FROM verifier WHERE tenant = ?1 AND audience = ?2 AND retired_ms IS NULL")
            .bind(tenant.as_str())
            .bind(audience.as_str())
            .fetch_optional(&mut **tx)
            .await
            .map_err(unavailable)?;
        if id.is_some() {
            f.audiences.insert(audience.clone());
        }
    }
    if !needs.receipts.is_empty() {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT slot FROM receipt WHERE tenant = ?1 AND slot IN (SELECT unhex(value) FROM json_each(?2))")
            .bind(tenant.as_str())
            .bind(hexes(needs.receipts.iter().map(|s| s.0)))
            .fetch_all(&mut **tx)
            .await
            .map_err(unavailable)?;
        for (slot,) in rows {
            f.receipts.insert(ReceiptSlot(fixed(&slot, "receipt", "slot")?));
        }
    }
    if !needs.answers.is_empty() {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT key FROM answer WHERE tenant = ?1 AND key IN (SELECT unhex(value) FROM json_each(?2))")
            .bind(tenant.as_str())
            .bind(hexes(&needs.answers))
            .fetch_all(&mut **tx)
            .await
            .map_err(unavailable)?;
        for (key,) in rows {
            f.answers.insert(fixed(&key, "answer", "key")?);
        }
    }
    f.spent = session::spent(tx, tenant, &needs.spent).await?;
    Ok(f)
}

async fn write(tx: &mut Tx<'_>, tenant: &Tenant, batch: &Batch, plan: &Plan, before: Head) -> Result<(), sqlx::Error> {
    let t = tenant.as_str();
    let mut many = Many::default();
    for at in &plan.accepted {
        let (Some(change), Some(Ok(placed))) = (batch.changes.get(*at), plan.committed.outcomes.get(*at)) else { continue };
        for (leaf, place) in change.leaves.iter().zip(placed.leaves.clone()) {
            many.leaves.push(json!([int(place), hex::encode(leaf)]));
        }
        for row in &change.rows {
            many.push(tx, t, row, placed).await?;
        }
    }
    many.write(tx, t).await?;
    for m in &plan.committed.messages {
        sqlx::query("INSERT INTO feed (tenant, epoch, seq, payload, key) VALUES (?1, ?2, ?3, ?4, ?5)")
            .bind(t)
            .bind(int(plan.committed.head.feed.epoch))
            .bind(int(m.seq))
            .bind(&m.payload)
            .bind(m.key.as_bytes().as_slice())
            .execute(&mut **tx)
            .await?;
    }
    for tile in &plan.tiles {
        sqlx::query("INSERT INTO tile (tenant, level, place, hashes) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (tenant, level, place) DO UPDATE SET hashes = excluded.hashes WHERE length(excluded.hashes) > length(tile.hashes)")
            .bind(t)
            .bind(i64::from(tile.level))
            .bind(int(tile.index))
            .bind(&tile.hashes)
            .execute(&mut **tx)
            .await?;
    }
    let head = plan.committed.head;
    let moved =
        sqlx::query("UPDATE head SET tree_size = ?2, tree_root = ?3, feed_seq = ?4, feed_hash = ?5, feed_epoch = ?8 WHERE tenant = ?1 AND tree_size = ?6 AND feed_seq = ?7 AND feed_epoch = ?9")
            .bind(t)
            .bind(int(head.tree.size))
            .bind(head.tree.root.to_vec())
            .bind(int(head.feed.seq))
            .bind(head.feed.hash.to_vec())
            .bind(int(before.tree.size))
            .bind(int(before.feed.seq))
            .bind(int(head.feed.epoch))
            .bind(int(before.feed.epoch))
            .execute(&mut **tx)
            .await?;
    if moved.rows_affected() != 1 {
        return Err(sqlx::Error::RowNotFound);
    }
    sqlx::query("INSERT INTO batch (tenant, id) VALUES (?1, ?2)").bind(t).bind(batch.id.to_vec()).execute(&mut **tx).await?;
    Ok(())
}

/// Rows of the tables that a busy authority writes to, each written by one statement.
#[derive(Default)]
struct Many {
    leaves: Vec<Value>,
    tokens: Vec<Value>,
    jtis: Vec<Value>,
    receipts: Vec<Value>,
    answers: Vec<Value>,
    used: Merged,
}

impl Many {
    async fn push(&mut self, tx: &mut Tx<'_>, t: &str, row: &Row, placed: &Placed) -> Result<(), sqlx::Error> {
        let query = match row {
            Row::Token(r) => {
                let ancestors: Vec<u8> = r.ancestors.iter().flat_map(|a| *a.as_bytes()).collect();
                self.tokens.push(json!([hex::encode(r.tid.as_bytes()), hex::encode(r.delegation.as_bytes()), int(r.expires_secs), hex::encode(ancestors), r.revoked.map(|at| int(at.0))]));
                return Ok(());
            }
            Row::Jti(agent, jti, expires) => {
                self.jtis.push(json!([hex::encode(agent.as_bytes()), hex::encode(jti.0), int(expires.0)]));
                return Ok(());
            }
            Row::Receipt(r) => {
                self.receipts.push(json!([hex::encode(r.slot.0), hex::encode(r.hash), int(placed.leaves.start), r.delegation.map(|d| hex::encode(d.as_bytes()))]));
                return Ok(());
            }
            Row::Answer(a) => {
                let places = [int(placed.leaves.start), int(placed.leaves.end)];
                self.answers.push(json!([hex::encode(a.key), hex::encode(a.request), a.body, int(a.expires.0), places[0], places[1], placed.feed_seq.map(int)]));
                return Ok(());
            }
            Row::Used(u) => {
                self.used.push(u, placed.leaves.start);
                return Ok(());
            }
            // The plan wrote its message.
            Row::EpochStart(..) => return Ok(()),
            Row::Session(change) => return session::write(tx, t, change).await,
            Row::Spent(secret, expires) => return session::spend(tx, t, secret, *expires).await,
            Row::Human(h) => sqlx::query("INSERT INTO human (tenant, id, issuer, subject) VALUES (?1, ?2, ?3, ?4)")
                .bind(t)
                .bind(h.id.as_bytes().to_vec())
                .bind(h.subject.issuer.clone())
                .bind(h.subject.subject.clone()),
            Row::Agent(a) => sqlx::query("INSERT INTO agent (tenant, id, name, owner, state, generation, created_ms, stopped_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (tenant, id) DO UPDATE SET name = excluded.name, owner = excluded.owner, state = excluded.state, generation = excluded.generation, stopped_by = excluded.stopped_by")
                .bind(t)
                .bind(a.id.as_bytes().to_vec())
                .bind(a.name.as_str().to_owned())
                .bind(a.owner.as_bytes().to_vec())
                .bind(agent_state_text(a.state))
                .bind(int(a.generation))
                .bind(int(a.created.0))
                .bind(a.stopped_by.map(|id| id.as_bytes().to_vec())),
            Row::AgentKey(k) => sqlx::query("INSERT INTO agent_key (tenant, key, agent, state, added_ms, ends_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (tenant, key) DO UPDATE SET state = excluded.state, ends_ms = excluded.ends_ms")
                .bind(t)
                .bind(k.key.as_bytes().to_vec())
                .bind(k.agent.as_bytes().to_vec())
                .bind(key_state_text(k.state))
                .bind(int(k.added.0))
                .bind(k.ends.map(|at| int(at.0))),
            Row::Delegation(d) => {
                let revoked = match d.state {
                    DelegationState::Live => None,
                    DelegationState::Revoked { at } => Some(int(at.0)),
                };
                sqlx::query("INSERT INTO delegation (tenant, id, human, agent, terms, generations, version, revoked_ms, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (tenant, id) DO UPDATE SET terms = excluded.terms, generations = excluded.generations, version = excluded.version, revoked_ms = excluded.revoked_ms")
                    .bind(t)
                    .bind(d.id.as_bytes().to_vec())
                    .bind(d.human.as_bytes().to_vec())
                    .bind(d.agent.as_bytes().to_vec())
                    .bind(json!(d.terms).to_string())
                    .bind(json!(d.generations).to_string())
                    .bind(i64::from(d.version))
                    .bind(revoked)
                    .bind(int(d.created.0))
            }
            Row::Generation(scope, to) => sqlx::query("INSERT INTO generation (tenant, scope, generation) VALUES (?1, ?2, ?3) ON CONFLICT (tenant, scope) DO UPDATE SET generation = excluded.generation")
                .bind(t)
                .bind(scope_bytes(scope))
                .bind(int(*to)),
            Row::KeyList(version, signed) => sqlx::query("INSERT INTO key_list (tenant, version, signed) VALUES (?1, ?2, ?3)").bind(t).bind(int(*version)).bind(signed.clone()),
            Row::RootKeyKilled(key) => sqlx::query("INSERT INTO killed_root_key (tenant, key) VALUES (?1, ?2) ON CONFLICT DO NOTHING").bind(t).bind(key.as_bytes().to_vec()),
            Row::Verifier(v) => sqlx::query("INSERT INTO verifier (tenant, id, key, audience, enrolled_ms, retired_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (tenant, id) DO UPDATE SET retired_ms = excluded.retired_ms")
                .bind(t)
                .bind(v.id.as_bytes().to_vec())
                .bind(v.key.as_bytes().to_vec())
                .bind(v.audience.as_str().to_owned())
                .bind(int(v.enrolled.0))
                .bind(v.retired.map(|at| int(at.0))),
            Row::Drill(at) => sqlx::query("INSERT INTO drill (tenant, at_ms, leaf) VALUES (?1, ?2, ?3) ON CONFLICT (tenant) DO UPDATE SET at_ms = excluded.at_ms, leaf = excluded.leaf")
                .bind(t)
                .bind(int(at.0))
                .bind(int(placed.leaves.start)),
            Row::Opening(o) => sqlx::query("INSERT INTO opening (tenant, hash, salt, text) VALUES (?1, ?2, ?3, ?4)")
                .bind(t)
                .bind(o.hash().to_vec())
                .bind(o.salt.to_vec())
                .bind(o.text.clone()),
        };
        query.execute(&mut **tx).await.map(drop)
    }

    async fn write(self, tx: &mut Tx<'_>, t: &str) -> Result<(), sqlx::Error> {
        for (rows, sql) in [
            (self.leaves, "INSERT INTO leaf (tenant, place, bytes) SELECT ?1, value ->> 0, unhex(value ->> 1) FROM json_each(?2)"),
            (
                self.tokens,
                "INSERT INTO token (tenant, id, delegation, expires_secs, ancestors, revoked_ms) SELECT ?1, unhex(value ->> 0), unhex(value ->> 1), value ->> 2, unhex(value ->> 3), value ->> 4 FROM json_each(?2) WHERE true ON CONFLICT (tenant, id) DO UPDATE SET revoked_ms = excluded.revoked_ms",
            ),
            (self.jtis, "INSERT INTO jti (tenant, agent, hash, expires_ms) SELECT ?1, unhex(value ->> 0), unhex(value ->> 1), value ->> 2 FROM json_each(?2)"),
            (
                self.receipts,
                "INSERT INTO receipt (tenant, slot, hash, leaf, human) SELECT ?1, unhex(value ->> 0), unhex(value ->> 1), value ->> 2, (SELECT human FROM delegation WHERE tenant = ?1 AND id = unhex(value ->> 3)) FROM json_each(?2)",
            ),
            (
                self.answers,
                "INSERT INTO answer (tenant, key, request, body, expires_ms, leaf_from, leaf_until, feed_seq) SELECT ?1, unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 FROM json_each(?2)",
            ),
        ] {
            if !rows.is_empty() {
                sqlx::query(sql).bind(t).bind(Value::from(rows).to_string()).execute(&mut **tx).await?;
            }
        }
        used::write(tx, t, self.used).await
    }
}

/// Forgets what has been over for an hour: until then a clock set back finds assertions still spent.
async fn collect(tx: &mut Tx<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    let before = int(batch.at.0.saturating_sub(3_600_000));
    sqlx::query("DELETE FROM jti WHERE rowid IN (SELECT rowid FROM jti WHERE expires_ms < ?1 LIMIT 20000)").bind(before).execute(&mut **tx).await?;
    sqlx::query("DELETE FROM answer WHERE rowid IN (SELECT rowid FROM answer WHERE expires_ms < ?1 LIMIT 20000)").bind(before).execute(&mut **tx).await?;
    sqlx::query("DELETE FROM token WHERE rowid IN (SELECT rowid FROM token WHERE expires_secs < ?1 LIMIT 20000)")
        .bind(before / 1000 - 86_400)
        .execute(&mut **tx)
        .await?;
    session::collect(tx, before).await?;
    used::collect(tx, before).await?;
    sqlx::query("DELETE FROM batch WHERE number <= (SELECT max(number) FROM batch) - 1000").execute(&mut **tx).await?;
    Ok(())
}

fn hexes(ids: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    json!(ids.into_iter().map(hex::encode).collect::<Vec<_>>()).to_string()
}

/// How many commits go by between two collections.
const COLLECT_EVERY: u64 = 64;
