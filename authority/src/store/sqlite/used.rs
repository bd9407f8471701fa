//! What receipts have shown, and keys that end, in SQLite.

use procura_verifier::ids::{DelegationId, Tenant, UtcMillis};
use serde_json::{Value, json};
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, Transaction};

use super::unavailable;
use crate::domain::agent::AgentKey;
use crate::store::StoreError;
use crate::store::rows::{AgentKeyRow, int};
use crate::store::used::{KEPT_MS, Merged, Used, UsedRow, link_bytes};

pub(super) async fn of(tenant: &Tenant, readers: &SqlitePool, delegation: DelegationId) -> Result<Vec<Used>, StoreError> {
    let rows: Vec<UsedRow> = sqlx::query_as(
        "SELECT tid, lid, parent, agent, holder, expires_secs, allowed, denied, last_ms, last_leaf FROM used WHERE tenant = ?1 AND delegation = ?2 ORDER BY last_ms DESC, tid, lid LIMIT 256",
    )
    .bind(tenant.as_str())
    .bind(delegation.as_bytes().as_slice())
    .fetch_all(readers)
    .await
    .map_err(unavailable)?;
    rows.into_iter().map(|r| r.into_domain(delegation)).collect()
}

pub(super) async fn ending(tenant: &Tenant, readers: &SqlitePool, before: UtcMillis) -> Result<Vec<AgentKey>, StoreError> {
    let rows: Vec<AgentKeyRow> = sqlx::query_as(
        "SELECT key, agent, state, added_ms, ends_ms FROM agent_key WHERE tenant = ?1 AND state = 'live' AND ends_ms IS NOT NULL AND ends_ms <= ?2 ORDER BY ends_ms LIMIT 256",
    )
    .bind(tenant.as_str())
    .bind(int(before.0))
    .fetch_all(readers)
    .await
    .map_err(unavailable)?;
    rows.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn write(tx: &mut Transaction<'_, Sqlite>, t: &str, used: Merged) -> Result<(), sqlx::Error> {
    if used.is_empty() {
        return Ok(());
    }
    let row = |u: &Used| {
        json!([
            hex::encode(u.delegation.as_bytes()),
            hex::encode(u.tid.as_bytes()),
            hex::encode(link_bytes(u.lid)),
            hex::encode(link_bytes(u.parent)),
            u.agent.map(|id| hex::encode(id.as_bytes())),
            hex::encode(u.holder.as_bytes()),
            int(u.expires_secs),
            int(u.allowed),
            int(u.denied),
            int(u.last.0),
            int(u.leaf)
        ])
    };
    let rows: Vec<Value> = used.rows().map(row).collect();
    sqlx::query(
        "INSERT INTO used (tenant, delegation, tid, lid, parent, agent, holder, expires_secs, allowed, denied, last_ms, last_leaf) SELECT ?1, unhex(value ->> 0), unhex(value ->> 1), unhex(value ->> 2), unhex(value ->> 3), unhex(value ->> 4), unhex(value ->> 5), value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10 FROM json_each(?2) WHERE true ON CONFLICT (tenant, delegation, tid, lid) DO UPDATE SET allowed = used.allowed + excluded.allowed, denied = used.denied + excluded.denied, last_leaf = CASE WHEN excluded.last_ms >= used.last_ms THEN excluded.last_leaf ELSE used.last_leaf END, last_ms = max(used.last_ms, excluded.last_ms)",
    )
    .bind(t)
    .bind(Value::from(rows).to_string())
    .execute(&mut **tx)
    .await
    .map(drop)
}

pub(super) async fn collect(tx: &mut Transaction<'_, Sqlite>, before_ms: i64) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM used WHERE rowid IN (SELECT rowid FROM used WHERE expires_secs < ?1 LIMIT 20000)")
        .bind((before_ms - KEPT_MS) / 1000)
        .execute(&mut **tx)
        .await
        .map(drop)
}
