//! Sessions and secrets spent, in PostgreSQL.

use std::collections::HashSet;

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{HumanId, Tenant, UtcMillis};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;

use super::write::{all, big};
use super::{text, within};
use crate::domain::human::Subject;
use crate::domain::session::{FoundSession, HashedToken, MAX_PER_HUMAN, Session, SessionChange};
use crate::store::StoreError;
use crate::store::rows::{FloorRow, SessionRow, fixed, scope_bytes};

#[derive(sqlx::FromRow)]
struct FoundRow {
    #[sqlx(flatten)]
    session: SessionRow,
    #[sqlx(flatten)]
    floors: FloorRow,
    issuer: Option<Vec<u8>>,
    subject: Option<Vec<u8>>,
}

pub(super) async fn find(tenant: &Tenant, readers: &PgPool, secret: HashedToken) -> Result<Option<FoundSession>, StoreError> {
    // A human's scope is the byte 2, then the id (`rows::scope_bytes`). `LATERAL … OFFSET 0`: by the index, however small the table is.
    let row: Option<FoundRow> = within(
        sqlx::query_as(
            "SELECT s.secret, s.human, s.how, s.global_generation, s.tenant_generation, s.human_generation, s.created_ms, s.idle_until_ms, s.ends_ms, h.issuer, h.subject, coalesce((SELECT g.generation FROM generation g WHERE g.tenant = $1 AND g.scope = $3), 0) AS global_floor, coalesce((SELECT g.generation FROM generation g WHERE g.tenant = $1 AND g.scope = $4), 0) AS tenant_floor, coalesce((SELECT g.generation FROM generation g WHERE g.tenant = $1 AND g.scope = decode('02', 'hex') || s.human), 0) AS human_floor FROM session s LEFT JOIN LATERAL (SELECT issuer, subject FROM human WHERE tenant = $1 AND id = s.human OFFSET 0) h ON true WHERE s.tenant = $1 AND s.secret = $2",
        )
        .bind(tenant.as_str())
        .bind(secret.as_bytes().as_slice())
        .bind(scope_bytes(&FloorScope::Global))
        .bind(scope_bytes(&FloorScope::Tenant))
        .fetch_optional(readers),
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let subject = match row.issuer.zip(row.subject) {
        Some((issuer, subject)) => Some(Subject { issuer: text(issuer, "human", "issuer")?, subject: text(subject, "human", "subject")? }),
        None => None,
    };
    Ok(Some(FoundSession { session: row.session.try_into()?, subject, floors: row.floors.try_into()? }))
}

pub(super) async fn of(tenant: &Tenant, readers: &PgPool, human: HumanId) -> Result<Vec<Session>, StoreError> {
    let rows: Vec<SessionRow> = within(
        sqlx::query_as(
            "SELECT secret, human, how, global_generation, tenant_generation, human_generation, created_ms, idle_until_ms, ends_ms FROM session WHERE tenant = $1 AND human = $2 ORDER BY created_ms DESC, secret",
        )
        .bind(tenant.as_str())
        .bind(human.as_bytes().as_slice())
        .fetch_all(readers),
    )
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Which of these are spent.
pub(super) async fn spent(c: &mut PgConnection, t: &str, asked: &HashSet<HashedToken>) -> Result<HashSet<HashedToken>, StoreError> {
    if asked.is_empty() {
        return Ok(HashSet::new());
    }
    let rows: Vec<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM spent WHERE tenant = $1 AND hash = ANY($2)")
        .bind(t)
        .bind(all(asked.iter().map(HashedToken::as_bytes)))
        .fetch_all(c)
        .await?;
    rows.into_iter().map(|hash| Ok(HashedToken::from_bytes(fixed(&hash, "spent", "hash")?))).collect()
}

pub(super) async fn spend(c: &mut PgConnection, t: &str, secret: &HashedToken, expires: UtcMillis) -> Result<(), StoreError> {
    let insert = sqlx::query("INSERT INTO spent (tenant, hash, expires_ms) VALUES ($1, $2, $3)");
    insert.bind(t).bind(secret.as_bytes().as_slice()).bind(big(expires.0)?).execute(c).await?;
    Ok(())
}

pub(super) async fn write(c: &mut PgConnection, t: &str, change: &SessionChange) -> Result<(), StoreError> {
    let query = match change {
        SessionChange::Began(s) => {
            sqlx::query("INSERT INTO session (tenant, secret, human, how, global_generation, tenant_generation, human_generation, created_ms, idle_until_ms, ends_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
                .bind(t)
                .bind(s.secret.as_bytes().as_slice())
                .bind(s.human.as_bytes().as_slice())
                .bind(json!(s.assurance).to_string())
                .bind(big(s.generations.global)?)
                .bind(big(s.generations.tenant)?)
                .bind(big(s.generations.human)?)
                .bind(big(s.created.0)?)
                .bind(big(s.idle_until.0)?)
                .bind(big(s.ends.0)?)
                .execute(&mut *c)
                .await?;
            sqlx::query("DELETE FROM session WHERE tenant = $1 AND secret = ANY(ARRAY(SELECT secret FROM session WHERE tenant = $1 AND human = $2 ORDER BY created_ms DESC, secret OFFSET $3))")
                .bind(t)
                .bind(s.human.as_bytes().as_slice())
                .bind(big(MAX_PER_HUMAN as u64)?)
        }
        SessionChange::Used(secret, until) => sqlx::query("UPDATE session SET idle_until_ms = greatest(idle_until_ms, $3) WHERE tenant = $1 AND secret = $2")
            .bind(t)
            .bind(secret.as_bytes().as_slice())
            .bind(big(until.0)?),
        SessionChange::Ended(secret) => sqlx::query("DELETE FROM session WHERE tenant = $1 AND secret = $2").bind(t).bind(secret.as_bytes().as_slice()),
        SessionChange::AllEnded(human) => sqlx::query("DELETE FROM session WHERE tenant = $1 AND human = $2").bind(t).bind(human.as_bytes().as_slice()),
    };
    query.execute(c).await?;
    Ok(())
}

pub(super) async fn collect(c: &mut PgConnection, tenant: &Tenant, before_ms: i64) -> Result<(), sqlx::Error> {
    for sql in [
        "DELETE FROM session WHERE ctid = ANY(ARRAY(SELECT ctid FROM session WHERE tenant = $1 AND idle_until_ms < $2 LIMIT 8192))",
        "DELETE FROM spent WHERE ctid = ANY(ARRAY(SELECT ctid FROM spent WHERE tenant = $1 AND expires_ms < $2 LIMIT 8192))",
    ] {
        sqlx::query(sql).bind(tenant.as_str()).bind(before_ms).execute(&mut *c).await?;
    }
    Ok(())
}
