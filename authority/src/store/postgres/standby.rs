//! Whether what is committed is on the synchronous standbys as well.
//!
//! COMMIT reports success, too, when its wait for them was cancelled: by an administrator, or by a server that was restarted
//! while it waited. The driver does not hand on the warning. What the standbys say they have is the proof.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::ANSWER_WAIT;
use crate::store::StoreError;

/// How many standbys a value of `synchronous_standby_names` makes COMMIT wait for.
pub(super) fn required(names: &str) -> i64 {
    let names = names.trim();
    if names.is_empty() {
        return 0;
    }
    let Some((before, _)) = names.split_once('(') else { return 1 };
    // `FIRST 2 (…)`, `ANY 2 (…)`, `2 (…)`.
    before.split_whitespace().next_back().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// What a role sees of the standbys without the right to.
pub(super) fn unseen() -> StoreError {
    StoreError::Unavailable("the database's role may not see its standbys: GRANT pg_read_all_stats to it".to_owned())
}

/// Returns once everything that could be read when this began is on as many standbys as COMMIT waits for. An error proves nothing.
///
/// One question as a rule. Where others commit meanwhile, the standbys are asked again until they have come as far.
pub(super) async fn settled(c: &mut PgConnection) -> Result<(), StoreError> {
    timeout(ANSWER_WAIT, ask(c)).await.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer about the standbys".to_owned())))
}

async fn ask(c: &mut PgConnection) -> Result<(), StoreError> {
    let (names, position, mut have, may_see): (String, String, i64, bool) = sqlx::query_as(SETTLED).fetch_one(&mut *c).await?;
    let required = required(&names);
    let until = Instant::now() + SETTLE_WAIT;
    while have < required {
        if !may_see {
            return Err(unseen());
        }
        if Instant::now() >= until {
            return Err(StoreError::Unavailable(format!("{have} of {required} synchronous standbys have what is committed here")));
        }
        sleep(ASK_AGAIN).await;
        have = sqlx::query_scalar(FLUSHED).bind(&position).fetch_one(&mut *c).await?;
    }
    Ok(())
}

/// What is visible was flushed here before, so the position is behind all of it. On a standby it is an error.
const SETTLED: &str = "WITH here AS MATERIALIZED (SELECT pg_current_wal_flush_lsn() AS lsn) \
    SELECT current_setting('synchronous_standby_names'), here.lsn::text, \
        (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= here.lsn), \
        pg_has_role('pg_read_all_stats', 'USAGE') FROM here";
const FLUSHED: &str = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= $1::text::pg_lsn";

/// Longest wait for standbys that are a little behind; one that is gone is asked for anew by whoever needs it.
const SETTLE_WAIT: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_says_how_many_standbys_count() {
        for (names, count) in [("", 0), ("  ", 0), ("*", 1), ("a, b", 1), ("FIRST 2 (a, b, c)", 2), ("any 3(a,b,c)", 3), ("2 (a, b)", 2), ("(x", 1)] {
            assert_eq!(required(names), count, "{names}");
        }
    }
}
