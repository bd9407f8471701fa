//! The newest receipts, of one person's authority or of all.

use std::ops::Range;

use procura_verifier::ids::{HumanId, Tenant};
use sqlx::postgres::PgPool;

use super::within;
use crate::store::StoreError;
use crate::store::rows::{int, number};

pub(super) async fn newest(tenant: &Tenant, readers: &PgPool, of: Option<HumanId>, places: Range<u64>, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let (tenant, from, before, limit) = (tenant.as_str(), int(places.start), int(places.end), i64::from(limit));
    let query = match of {
        Some(human) => sqlx::query_as(
            "SELECT r.leaf, l.bytes FROM receipt r JOIN leaf l ON l.tenant = r.tenant AND l.place = r.leaf WHERE r.tenant = $1 AND r.leaf >= $2 AND r.leaf < $3 AND r.human = $5 ORDER BY r.leaf DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(from)
        .bind(before)
        .bind(limit)
        .bind(human.as_bytes().to_vec()),
        None => sqlx::query_as(
            "SELECT r.leaf, l.bytes FROM receipt r JOIN leaf l ON l.tenant = r.tenant AND l.place = r.leaf WHERE r.tenant = $1 AND r.leaf >= $2 AND r.leaf < $3 ORDER BY r.leaf DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(from)
        .bind(before)
        .bind(limit),
    };
    let rows: Vec<(i64, Vec<u8>)> = within(query.fetch_all(readers)).await?;
    rows.into_iter().map(|(leaf, bytes)| Ok((number(leaf, "receipt", "leaf")?, bytes))).collect()
}
