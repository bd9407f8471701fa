//! Snapshots in SQLite, over a connection of their own: a megabyte at a time, so that a commit waits a few milliseconds at most.

use std::collections::HashSet;

use futures_util::{FutureExt as _, TryFutureExt as _};
use procura_verifier::ids::UtcMillis;
use sqlx::{Connection as _, SqliteConnection};

use super::{Sqlite, unavailable};
use crate::store::rows::int;
use crate::store::snapshot::{Columns, ORPHAN_MS, SnapshotRow, SnapshotStore, kept, named, row};
use crate::store::{Answering, StoreError};

impl SnapshotStore for Sqlite {
    fn snapshot(&self) -> Answering<'_, Option<SnapshotRow>> {
        async {
            let found: Option<Columns> =
                sqlx::query_as("SELECT epoch, seq, payload, key FROM snapshot WHERE tenant = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1")
                    .bind(self.tenant.as_str())
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(unavailable)?;
            found.map(row).transpose()
        }
        .boxed()
    }

    fn segment(&self, hash: [u8; 32]) -> Answering<'_, Option<Vec<u8>>> {
        async move {
            sqlx::query_scalar("SELECT bytes FROM segment WHERE tenant = ?1 AND hash = ?2")
                .bind(self.tenant.as_str())
                .bind(hash.to_vec())
                .fetch_optional(&self.readers)
                .map_err(unavailable)
                .await
        }
        .boxed()
    }

    fn put_segment<'a>(&'a self, hash: [u8; 32], bytes: &'a [u8], at: UtcMillis) -> Answering<'a, ()> {
        async move {
            let mut connection = SqliteConnection::connect_with(&self.options).await.map_err(unavailable)?;
            sqlx::query("INSERT INTO segment (tenant, hash, bytes, stored_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET stored_ms = max(stored_ms, excluded.stored_ms)")
                .bind(self.tenant.as_str())
                .bind(hash.to_vec())
                .bind(bytes)
                .bind(int(at.0))
                .execute(&mut connection)
                .await
                .map_err(unavailable)?;
            Ok(())
        }
        .boxed()
    }

    fn put_snapshot<'a>(&'a self, page: &'a SnapshotRow, at: UtcMillis) -> Answering<'a, bool> {
        async move { put(self, page, at).await }.boxed()
    }
}

async fn put(store: &Sqlite, page: &SnapshotRow, at: UtcMillis) -> Result<bool, StoreError> {
    let tenant = store.tenant.as_str();
    let mut connection = SqliteConnection::connect_with(&store.options).await.map_err(unavailable)?;
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)?;
    let stored: Vec<(Vec<u8>, i64)> =
        sqlx::query_as("SELECT hash, stored_ms FROM segment WHERE tenant = ?1 AND hash >= x''").bind(tenant).fetch_all(&mut *tx).await.map_err(unavailable)?;
    let here: HashSet<&[u8]> = stored.iter().map(|(hash, _)| hash.as_slice()).collect();
    if !named(page)?.iter().all(|hash| here.contains(hash.as_slice())) {
        return Ok(false);
    }
    sqlx::query("INSERT INTO snapshot (tenant, epoch, seq, payload, key) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET payload = excluded.payload, key = excluded.key")
        .bind(tenant)
        .bind(int(page.epoch))
        .bind(int(page.seq))
        .bind(&page.payload)
        .bind(page.key.as_bytes().as_slice())
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
    let pages: Vec<Columns> =
        sqlx::query_as("SELECT epoch, seq, payload, key FROM snapshot WHERE tenant = ?1 AND epoch >= 1 ORDER BY epoch DESC, seq DESC LIMIT 8")
            .bind(tenant)
            .fetch_all(&mut *tx)
            .await
            .map_err(unavailable)?;
    let (wanted, from) = kept(pages.into_iter().map(row).collect::<Result<_, _>>()?)?;
    sqlx::query("DELETE FROM snapshot WHERE tenant = ?1 AND (epoch, seq) < (?2, ?3)")
        .bind(tenant)
        .bind(int(from.0))
        .bind(int(from.1))
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
    let orphans = stored.iter().filter(|(hash, ms)| *ms < int(at.0.saturating_sub(ORPHAN_MS)) && !wanted.iter().any(|w| w.as_slice() == hash.as_slice()));
    let hashes: Vec<_> = orphans.map(|(hash, _)| hex::encode(hash)).collect();
    sqlx::query("DELETE FROM segment WHERE tenant = ?1 AND hash IN (SELECT unhex(value) FROM json_each(?2))")
        .bind(tenant)
        .bind(serde_json::json!(hashes).to_string())
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
    tx.commit().await.map_err(unavailable)?;
    Ok(true)
}
