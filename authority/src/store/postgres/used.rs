//! What receipts have shown, and keys that end, in PostgreSQL.

use procura_verifier::ids::{DelegationId, Tenant, UtcMillis};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;

use super::within;
use super::write::{all, big};
use crate::domain::agent::AgentKey;
use crate::store::StoreError;
use crate::store::rows::{AgentKeyRow, int};
use crate::store::used::{KEPT_MS, Merged, Used, UsedRow, link_bytes};

pub(super) async fn of(tenant: &Tenant, readers: &PgPool, delegation: DelegationId) -> Result<Vec<Used>, StoreError> {
    let rows: Vec<UsedRow> = within(
        sqlx::query_as(
            "SELECT tid, lid, parent, agent, holder, expires_secs, allowed, denied, last_ms, last_leaf FROM used WHERE tenant = $1 AND delegation = $2 ORDER BY last_ms DESC, tid, lid LIMIT 256",
        )
        .bind(tenant.as_str())
        .bind(delegation.as_bytes().as_slice())
        .fetch_all(readers),
    )
    .await?;
    rows.into_iter().map(|r| r.into_domain(delegation)).collect()
}

pub(super) async fn ending(tenant: &Tenant, readers: &PgPool, before: UtcMillis) -> Result<Vec<AgentKey>, StoreError> {
    let rows: Vec<AgentKeyRow> = within(
        sqlx::query_as(
            "SELECT key, agent, state, added_ms, ends_ms FROM agent_key WHERE tenant = $1 AND state = 'live' AND ends_ms IS NOT NULL AND ends_ms <= $2 ORDER BY ends_ms LIMIT 256",
        )
        .bind(tenant.as_str())
        .bind(int(before.0))
        .fetch_all(readers),
    )
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn write(c: &mut PgConnection, t: &str, used: Merged) -> Result<(), StoreError> {
    if used.is_empty() {
        return Ok(());
    }
    let rows: Vec<&Used> = used.rows().collect();
    let numbers = |of: fn(&Used) -> u64| rows.iter().map(|u| big(of(u))).collect::<Result<Vec<_>, _>>();
    sqlx::query(
        "INSERT INTO used (tenant, delegation, tid, lid, parent, agent, holder, expires_secs, allowed, denied, last_ms, last_leaf) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]) ON CONFLICT (tenant, delegation, tid, lid) DO UPDATE SET allowed = used.allowed + excluded.allowed, denied = used.denied + excluded.denied, last_leaf = CASE WHEN excluded.last_ms >= used.last_ms THEN excluded.last_leaf ELSE used.last_leaf END, last_ms = greatest(used.last_ms, excluded.last_ms)",
    )
    .bind(t)
    .bind(all(rows.iter().map(|u| u.delegation.as_bytes())))
    .bind(all(rows.iter().map(|u| u.tid.as_bytes())))
    .bind(rows.iter().map(|u| link_bytes(u.lid)).collect::<Vec<_>>())
    .bind(rows.iter().map(|u| link_bytes(u.parent)).collect::<Vec<_>>())
    .bind(rows.iter().map(|u| u.agent.map(|id| id.as_bytes().to_vec())).collect::<Vec<_>>())
    .bind(all(rows.iter().map(|u| u.holder.as_bytes())))
    .bind(numbers(|u| u.expires_secs)?)
    .bind(numbers(|u| u.allowed)?)
    .bind(numbers(|u| u.denied)?)
    .bind(numbers(|u| u.last.0)?)
    .bind(numbers(|u| u.leaf)?)
    .execute(c)
    .await?;
    Ok(())
}

pub(super) async fn collect(c: &mut PgConnection, tenant: &Tenant, before_ms: i64) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM used WHERE ctid = ANY(ARRAY(SELECT ctid FROM used WHERE tenant = $1 AND expires_secs < $2 LIMIT 8192))")
        .bind(tenant.as_str())
        .bind((before_ms - KEPT_MS) / 1000)
        .execute(c)
        .await
        .map(drop)
}
