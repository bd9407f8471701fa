//! Snapshots in PostgreSQL: any replica cuts them, all serve them.

use std::collections::HashSet;

use futures_util::FutureExt as _;
use procura_verifier::ids::UtcMillis;
use sqlx::{Connection as _, PgConnection};

use super::{Postgres, within};
use crate::store::rows::int;
use crate::store::snapshot::{Columns, ORPHAN_MS, SnapshotRow, SnapshotStore, kept, named, row};
use crate::store::{Answering, StoreError};

impl SnapshotStore for Postgres {
    fn snapshot(&self) -> Answering<'_, Option<SnapshotRow>> {
        async {
            let found: Option<Columns> = within(
                sqlx::query_as("SELECT epoch, seq, payload, key FROM snapshot WHERE tenant = $1 ORDER BY epoch DESC, seq DESC LIMIT 1")
                    .bind(self.tenant.as_str())
                    .fetch_optional(&self.readers),
            )
            .await?;
            found.map(row).transpose()
        }
        .boxed()
    }

    fn segment(&self, hash: [u8; 32]) -> Answering<'_, Option<Vec<u8>>> {
        async move {
            let query = sqlx::query_scalar("SELECT bytes FROM segment WHERE tenant = $1 AND hash = $2").bind(self.tenant.as_str()).bind(hash.to_vec());
            within(query.fetch_optional(&self.readers)).await
        }
        .boxed()
    }

    fn put_segment<'a>(&'a self, hash: [u8; 32], bytes: &'a [u8], at: UtcMillis) -> Answering<'a, ()> {
        async move {
            let mut connection = within(PgConnection::connect_with(&self.options)).await?;
            let insert = sqlx::query(
                "INSERT INTO segment (tenant, hash, bytes, stored_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (tenant, hash) DO UPDATE SET stored_ms = greatest(segment.stored_ms, excluded.stored_ms)",
            )
            .bind(self.tenant.as_str())
            .bind(hash.to_vec())
            .bind(bytes)
            .bind(int(at.0));
            within(insert.execute(&mut connection)).await?;
            Ok(())
        }
        .boxed()
    }

    fn put_snapshot<'a>(&'a self, page: &'a SnapshotRow, at: UtcMillis) -> Answering<'a, bool> {
        async move { put(self, page, at).await }.boxed()
    }
}

async fn put(store: &Postgres, page: &SnapshotRow, at: UtcMillis) -> Result<bool, StoreError> {
    let tenant = store.tenant.as_str();
    let mut connection = within(PgConnection::connect_with(&store.options)).await?;
    let mut tx = within(connection.begin()).await?;
    // One replica at a time: none drops what another is about to name.
    within(sqlx::query("SELECT pg_advisory_xact_lock(hashtext('procura snapshot ' || $1))").bind(tenant).execute(&mut *tx)).await?;
    let stored: Vec<(Vec<u8>, i64)> = within(sqlx::query_as("SELECT hash, stored_ms FROM segment WHERE tenant = $1").bind(tenant).fetch_all(&mut *tx)).await?;
    let here: HashSet<&[u8]> = stored.iter().map(|(hash, _)| hash.as_slice()).collect();
    if !named(page)?.iter().all(|hash| here.contains(hash.as_slice())) {
        return Ok(false);
    }
    let insert = sqlx::query(
        "INSERT INTO snapshot (tenant, epoch, seq, payload, key) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (tenant, epoch, seq) DO UPDATE SET payload = excluded.payload, key = excluded.key",
    )
    .bind(tenant)
    .bind(int(page.epoch))
    .bind(int(page.seq))
    .bind(&page.payload)
    .bind(page.key.as_bytes().as_slice());
    within(insert.execute(&mut *tx)).await?;
    let pages: Vec<Columns> = within(
        sqlx::query_as("SELECT epoch, seq, payload, key FROM snapshot WHERE tenant = $1 ORDER BY epoch DESC, seq DESC LIMIT 8")
            .bind(tenant)
            .fetch_all(&mut *tx),
    )
    .await?;
    let (wanted, from) = kept(pages.into_iter().map(row).collect::<Result<_, _>>()?)?;
    let old = sqlx::query("DELETE FROM snapshot WHERE tenant = $1 AND (epoch, seq) < ($2, $3)").bind(tenant).bind(int(from.0)).bind(int(from.1));
    within(old.execute(&mut *tx)).await?;
    let before = int(at.0.saturating_sub(ORPHAN_MS));
    let orphans = stored.iter().filter(|(hash, ms)| *ms < before && !wanted.iter().any(|w| w.as_slice() == hash.as_slice()));
    let hashes: Vec<_> = orphans.map(|(hash, _)| hash.clone()).collect();
    // The age is asked again: a replica may have noted meanwhile that it wants one.
    let orphans = sqlx::query("DELETE FROM segment WHERE tenant = $1 AND hash = ANY($2) AND stored_ms < $3").bind(tenant).bind(hashes).bind(before);
    within(orphans.execute(&mut *tx)).await?;
    within(tx.commit()).await?;
    Ok(true)
}
