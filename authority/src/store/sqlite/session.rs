//! Sessions and secrets spent, in SQLite.

use std::collections::HashSet;

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{HumanId, Tenant, UtcMillis};
use serde_json::json;
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, Transaction};

use super::unavailable;
use crate::domain::human::Subject;
use crate::domain::session::{FoundSession, HashedToken, MAX_PER_HUMAN, Session, SessionChange};
use crate::store::StoreError;
use crate::store::rows::{FloorRow, SessionRow, fixed, int, scope_bytes};

type Tx<'a> = Transaction<'a, Sqlite>;

#[derive(sqlx::FromRow)]
struct FoundRow {
    #[sqlx(flatten)]
    session: SessionRow,
    #[sqlx(flatten)]
    floors: FloorRow,
    issuer: Option<String>,
    subject: Option<String>,
}

pub(super) async fn find(tenant: &Tenant, readers: &SqlitePool, secret: HashedToken) -> Result<Option<FoundSession>, StoreError> {
    // A human's scope is the byte 2, then the id (`rows::scope_bytes`).
    let row: Option<FoundRow> = sqlx::query_as(
        "SELECT s.secret, s.human, s.how, s.global_generation, s.tenant_generation, s.human_generation, s.created_ms, s.idle_until_ms, s.ends_ms, h.issuer, h.subject, coalesce((SELECT g.generation FROM generation g WHERE g.tenant = ?1 AND g.scope = ?3), 0) AS global_floor, coalesce((SELECT g.generation FROM generation g WHERE g.tenant = ?1 AND g.scope = ?4), 0) AS tenant_floor, coalesce((SELECT g.generation FROM generation g WHERE g.tenant = ?1 AND g.scope = unhex('02' || hex(s.human))), 0) AS human_floor FROM session s LEFT JOIN human h ON h.tenant = s.tenant AND h.id = s.human WHERE s.tenant = ?1 AND s.secret = ?2",
    )
    .bind(tenant.as_str())
    .bind(secret.as_bytes().as_slice())
    .bind(scope_bytes(&FloorScope::Global))
    .bind(scope_bytes(&FloorScope::Tenant))
    .fetch_optional(readers)
    .await
    .map_err(unavailable)?;
    let Some(row) = row else { return Ok(None) };
    let subject = row.issuer.zip(row.subject).map(|(issuer, subject)| Subject { issuer, subject });
    Ok(Some(FoundSession { session: row.session.try_into()?, subject, floors: row.floors.try_into()? }))
}

pub(super) async fn of(tenant: &Tenant, readers: &SqlitePool, human: HumanId) -> Result<Vec<Session>, StoreError> {
    let rows: Vec<SessionRow> = sqlx::query_as(
        "SELECT secret, human, how, global_generation, tenant_generation, human_generation, created_ms, idle_until_ms, ends_ms FROM session WHERE tenant = ?1 AND human = ?2 ORDER BY created_ms DESC, secret",
    )
    .bind(tenant.as_str())
    .bind(human.as_bytes().as_slice())
    .fetch_all(readers)
    .await
    .map_err(unavailable)?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Which of these are spent.
pub(super) async fn spent(tx: &mut Tx<'_>, tenant: &Tenant, asked: &HashSet<HashedToken>) -> Result<HashSet<HashedToken>, StoreError> {
    if asked.is_empty() {
        return Ok(HashSet::new());
    }
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT hash FROM spent WHERE tenant = ?1 AND hash IN (SELECT unhex(value) FROM json_each(?2))")
        .bind(tenant.as_str())
        .bind(json!(asked.iter().map(|h| hex::encode(h.as_bytes())).collect::<Vec<_>>()).to_string())
        .fetch_all(&mut **tx)
        .await
        .map_err(unavailable)?;
    rows.into_iter().map(|(hash,)| Ok(HashedToken::from_bytes(fixed(&hash, "spent", "hash")?))).collect()
}

pub(super) async fn spend(tx: &mut Tx<'_>, t: &str, secret: &HashedToken, expires: UtcMillis) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO spent (tenant, hash, expires_ms) VALUES (?1, ?2, ?3)");
    insert.bind(t).bind(secret.as_bytes().as_slice()).bind(int(expires.0)).execute(&mut **tx).await.map(drop)
}

pub(super) async fn write(tx: &mut Tx<'_>, t: &str, change: &SessionChange) -> Result<(), sqlx::Error> {
    let query = match change {
        SessionChange::Began(s) => {
            sqlx::query("INSERT INTO session (tenant, secret, human, how, global_generation, tenant_generation, human_generation, created_ms, idle_until_ms, ends_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")
                .bind(t)
                .bind(s.secret.as_bytes().as_slice())
                .bind(s.human.as_bytes().as_slice())
                .bind(json!(s.assurance).to_string())
                .bind(int(s.generations.global))
                .bind(int(s.generations.tenant))
                .bind(int(s.generations.human))
                .bind(int(s.created.0))
                .bind(int(s.idle_until.0))
                .bind(int(s.ends.0))
                .execute(&mut **tx)
                .await?;
            sqlx::query("DELETE FROM session WHERE tenant = ?1 AND secret IN (SELECT secret FROM session WHERE tenant = ?1 AND human = ?2 ORDER BY created_ms DESC, secret LIMIT -1 OFFSET ?3)")
                .bind(t)
                .bind(s.human.as_bytes().as_slice())
                .bind(int(MAX_PER_HUMAN as u64))
        }
        SessionChange::Used(secret, until) => sqlx::query("UPDATE session SET idle_until_ms = max(idle_until_ms, ?3) WHERE tenant = ?1 AND secret = ?2")
            .bind(t)
            .bind(secret.as_bytes().as_slice())
            .bind(int(until.0)),
        SessionChange::Ended(secret) => sqlx::query("DELETE FROM session WHERE tenant = ?1 AND secret = ?2").bind(t).bind(secret.as_bytes().as_slice()),
        SessionChange::AllEnded(human) => sqlx::query("DELETE FROM session WHERE tenant = ?1 AND human = ?2").bind(t).bind(human.as_bytes().as_slice()),
    };
    query.execute(&mut **tx).await.map(drop)
}

pub(super) async fn collect(tx: &mut Tx<'_>, before_ms: i64) -> Result<(), sqlx::Error> {
    for sql in [
        "DELETE FROM session WHERE rowid IN (SELECT rowid FROM session WHERE idle_until_ms < ?1 LIMIT 20000)",
        "DELETE FROM spent WHERE rowid IN (SELECT rowid FROM spent WHERE expires_ms < ?1 LIMIT 20000)",
    ] {
        sqlx::query(sql).bind(before_ms).execute(&mut **tx).await?;
    }
    Ok(())
}
