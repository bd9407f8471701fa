use std::sync::Arc;

use procura_verifier::feed::message::{Item, Message};
use procura_verifier::ids::UtcMillis;
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};

use super::server::Server;
use super::*;
use crate::log::tree::{Tree, leaf_hash};
use crate::signer::released::TreeHead;
use crate::store::contract::{batch, floor, leaf, one, rows, tenant};
use crate::store::{Change, JtiHash, Placed, Row};

async fn open(url: &SecretString) -> Arc<Postgres> {
    Arc::new(Postgres::open(url, tenant()).await.unwrap())
}

async fn run(c: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(c).await.unwrap();
}

/// The server process of our connection that waits for this, once one does.
async fn waiting(c: &mut PgConnection, event: &str) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'procura' AND $1 IN (wait_event, wait_event_type)";
    for _ in 0..2000 {
        if let Some(pid) = sqlx::query_scalar(sql).bind(event).fetch_optional(&mut *c).await.unwrap() {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("nothing waits for {event}");
}

fn commit(store: &Arc<Postgres>, batch: Batch) -> tokio::task::JoinHandle<Result<Committed, CommitError>> {
    let store = store.clone();
    tokio::spawn(async move { store.commit(&batch).await })
}

async fn kill(c: &mut PgConnection, pid: i32) {
    assert!(sqlx::query_scalar::<_, bool>("SELECT pg_terminate_backend($1)").bind(pid).fetch_one(c).await.unwrap());
}

/// The whole of it: places and numbers without holes, one tree over the leaves, one chain over the messages.
async fn assert_whole(store: &Postgres) -> Head {
    let head = store.head().await.unwrap();
    let leaves = store.leaves(0, 100_000).await.unwrap();
    let mut tree = Tree::new();
    leaves.iter().for_each(|l| _ = tree.append(leaf_hash(l)));
    assert_eq!(head.tree, TreeHead { size: leaves.len() as u64, root: tree.root() });
    for tile in tree.take_changed_tiles() {
        assert_eq!(store.tile(tile.level, tile.index).await.unwrap(), Some(tile.hashes), "{}/{}", tile.level, tile.index);
    }
    let mut prev = genesis_hash(&tenant(), 1);
    for (row, seq) in store.feed_since(1, 0, 100_000).await.unwrap().iter().zip(1..) {
        let Message::Batch(message) = Message::from_bytes(&row.payload).unwrap() else { panic!("{row:?}") };
        assert_eq!((row.seq, message.seq, message.prev), (seq, seq, prev));
        prev = Sha256::digest(&row.payload).into();
    }
    assert_eq!(prev, head.feed.hash);
    head
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_at_once_give_numbers_without_holes_and_one_tree() {
    let (_, url) = Server::shared().database().await;
    let mut writers = Vec::new();
    for process in 0..3_u8 {
        let store = open(&url).await;
        writers.push(tokio::spawn(async move {
            let mut placed: Vec<Placed> = Vec::new();
            for n in 0..40_u8 {
                let kill = Change { items: vec![Item::HolderKey { key: Key::from_bytes([n; 32]) }], leaves: vec![vec![process, n]], ..Change::default() };
                let changes = std::iter::repeat_n(leaf(n), usize::from(n % 7)).chain([kill]).collect();
                let mut batch = batch(n, changes);
                batch.id[0] = 100 + process;
                let done = store.commit(&batch).await.unwrap();
                placed.extend(done.outcomes.into_iter().map(Result::unwrap));
            }
            placed
        }));
    }
    let mut placed = Vec::new();
    for writer in writers {
        placed.extend(writer.await.unwrap());
    }
    let head = assert_whole(&*open(&url).await).await;
    let mut leaves: Vec<_> = placed.iter().flat_map(|p| p.leaves.clone()).collect();
    leaves.sort_unstable();
    assert_eq!(leaves, (0..head.tree.size).collect::<Vec<_>>());
    placed.sort_by_key(|p| p.leaves.start);
    let seqs: Vec<_> = placed.iter().filter_map(|p| p.feed_seq).collect();
    assert_eq!(seqs, (1..=120).collect::<Vec<_>>(), "feed order is log order");
    assert_eq!(head.feed.seq, 120);
}

#[tokio::test]
async fn a_tree_goes_on_from_what_another_process_wrote() {
    let (_, url) = Server::shared().database().await;
    let (a, b) = (open(&url).await, open(&url).await);
    for round in 0..6_u8 {
        // Over a tile's border, and the right edge that each remembers is out of date every time.
        for (n, store) in [(round * 2, &a), (round * 2 + 1, &b)] {
            let changes = (0..37 + n).map(leaf).collect();
            store.commit(&batch(n, changes)).await.unwrap();
        }
        assert_whole(&b).await;
    }
    drop((a, b));
    let reopened = open(&url).await;
    one(&*reopened, 99, floor(1)).await.unwrap();
    assert_whole(&reopened).await;
}

#[tokio::test]
async fn processes_that_start_together_on_an_empty_database_all_come_up() {
    let (_, url) = Server::shared().database().await;
    let (a, b, c) = tokio::join!(open(&url), open(&url), open(&url));
    for (n, store) in [a, b, c].iter().enumerate() {
        assert_eq!(one(&**store, n as u8, leaf(1)).await.unwrap().leaves.start, n as u64);
    }
}

#[tokio::test]
async fn tenants_share_a_database_and_nothing_else() {
    let (_, url) = Server::shared().database().await;
    let acme = open(&url).await;
    let other = Postgres::open(&url, "other".parse().unwrap()).await.unwrap();
    one(&*acme, 1, floor(1)).await.unwrap();
    let head = other.head().await.unwrap();
    assert_eq!((head.tree.size, head.feed.seq), (0, 0));
    // Even a batch id.
    assert!(!other.has_batch([1; 16]).await.unwrap());
    assert_eq!(one(&other, 1, floor(1)).await.unwrap(), Placed { leaves: 0..1, feed_seq: Some(1) });
    assert_whole(&acme).await;
}

#[tokio::test]
async fn a_connection_killed_while_it_waits_for_the_lock_is_made_anew() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    let mut other = Server::shared().connect(&name).await;
    run(&mut other, "BEGIN; SELECT FROM head FOR UPDATE").await;
    let committing = commit(&store, batch(1, vec![leaf(1)]));
    let mut c = Server::shared().connect(&name).await;
    let pid = waiting(&mut c, "Lock").await;
    kill(&mut c, pid).await;
    run(&mut other, "ROLLBACK").await;
    assert_eq!(committing.await.unwrap().unwrap().head.tree.size, 1);
    assert_whole(&store).await;
}

#[tokio::test]
async fn a_kept_connection_that_died_meanwhile_costs_nothing() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    one(&*store, 1, leaf(1)).await.unwrap();
    let mut c = Server::shared().connect(&name).await;
    run(&mut c, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").await;
    assert_eq!(one(&*store, 2, leaf(2)).await.unwrap().leaves, 1..2);
    assert_whole(&store).await;
}

/// DESIGN section 11: one second, whoever was stopped while holding the lock.
#[tokio::test]
async fn a_process_stopped_while_it_holds_the_lock_loses_it() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    let mut stopped = Server::shared().connect(&name).await;
    run(&mut stopped, write::BEGIN).await;
    let began = std::time::Instant::now();
    run(&mut stopped, "SELECT FROM head FOR UPDATE").await;
    one(&*store, 1, floor(1)).await.unwrap();
    let took = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
    // When it runs again its transaction is gone.
    assert!(sqlx::raw_sql("COMMIT").execute(&mut stopped).await.is_err());
    assert_whole(&store).await;
}

/// Makes COMMIT take this long: deferred triggers run in it.
async fn slow_down(c: &mut PgConnection, seconds: &str) {
    let sql = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(SECONDS); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON batch DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.replace("SECONDS", seconds))).execute(c).await.unwrap();
}

#[tokio::test]
async fn a_connection_killed_in_its_commit_is_read_as_not_written() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    one(&*store, 1, leaf(1)).await.unwrap();
    let mut c = Server::shared().connect(&name).await;
    slow_down(&mut c, "60").await;
    let committing = commit(&store, batch(2, vec![floor(1)]));
    let pid = waiting(&mut c, "PgSleep").await;
    kill(&mut c, pid).await;
    assert!(matches!(committing.await.unwrap(), Err(CommitError::Unknown(..))));
    run(&mut c, "DROP TRIGGER slow ON batch").await;
    assert!(!store.has_batch([2; 16]).await.unwrap());
    // What the lost attempt took, nobody misses.
    assert_eq!(one(&*store, 2, floor(1)).await.unwrap(), Placed { leaves: 1..2, feed_seq: Some(1) });
    assert_whole(&store).await;
}

/// On a server whose standby never answers: the local commit is done, its waiter is killed.
#[tokio::test]
async fn a_connection_killed_after_its_commit_is_read_as_written() {
    let server = Server::start();
    let (name, url) = server.database().await;
    let store = open(&url).await;
    one(&*store, 1, leaf(1)).await.unwrap();
    let mut c = server.connect(&name).await;
    run(&mut c, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    run(&mut c, "SELECT pg_reload_conf()").await;
    // The writing connection hears of it some time later: its first commit after that waits.
    let mut n = 1;
    let (pid, committing) = loop {
        n += 1;
        let committing = commit(&store, batch(n, vec![leaf(n)]));
        let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let pid = loop {
            match sqlx::query_scalar::<_, i32>(sql).fetch_optional(&mut c).await.unwrap() {
                None if !committing.is_finished() => tokio::task::yield_now().await,
                found => break found,
            }
        };
        match pid {
            Some(pid) => break (pid, committing),
            // COMMIT hears of it later still: until then it does not wait, and the standby is found not to have it.
            None => assert!(matches!(committing.await.unwrap(), Ok(_) | Err(CommitError::Unknown(..)))),
        }
    };
    // Nobody sees what the standby has not confirmed, and nobody is told that it was not written.
    assert_eq!(store.head().await.unwrap().tree.size, u64::from(n) - 1);
    assert!(store.has_batch([n; 16]).await.is_err());
    kill(&mut c, pid).await;
    let Err(CommitError::Unknown(would_be, _)) = committing.await.unwrap() else { panic!("expected an unknown outcome") };
    // Everybody sees it now, and a failover would lose it: neither yes nor no.
    assert_eq!(store.head().await.unwrap(), would_be.head);
    assert!(store.has_batch([n; 16]).await.unwrap_err().to_string().contains("0 of 1 synchronous standbys"));
    assert!(store.settled().await.is_err());
    run(&mut c, "ALTER SYSTEM RESET synchronous_standby_names").await;
    run(&mut c, "SELECT pg_reload_conf()").await;
    while store.settled().await.is_err() {}
    assert!(store.has_batch([n; 16]).await.unwrap());
    assert_eq!(one(&*store, n + 1, leaf(9)).await.unwrap().leaves, u64::from(n)..u64::from(n) + 1);
    assert_whole(&store).await;
}

/// On a server whose standby never answers: COMMIT reports success when its wait is cancelled.
#[tokio::test]
async fn a_commit_whose_wait_for_the_standby_was_cancelled_is_neither_yes_nor_no() {
    let server = Server::start();
    let (name, url) = server.database().await;
    let mut c = server.connect(&name).await;
    // Opening makes the schema; what is not ours waits for nobody.
    run(&mut c, "SET synchronous_commit = local; ALTER ROLE postgres SET synchronous_commit = local").await;
    run(&mut c, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    run(&mut c, "SELECT pg_reload_conf()").await;
    while sqlx::query_scalar::<_, String>("SHOW synchronous_standby_names").fetch_one(&mut server.connect(&name).await).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let store = open(&url).await;
    let committing = commit(&store, batch(1, vec![floor(1)]));
    let pid = waiting(&mut c, "SyncRep").await;
    assert!(sqlx::query_scalar::<_, bool>("SELECT pg_cancel_backend($1)").bind(pid).fetch_one(&mut c).await.unwrap());
    let Err(CommitError::Unknown(would_be, why)) = committing.await.unwrap() else { panic!("expected an unknown outcome") };
    assert!(why.contains("0 of 1 synchronous standbys"), "{why}");
    assert_eq!(store.head().await.unwrap(), would_be.head, "visible");
    assert!(store.has_batch([1; 16]).await.is_err());
    // A role that may not see its standbys finds out before it writes anything.
    let sql = format!(
        "CREATE ROLE clerk LOGIN; ALTER ROLE clerk SET synchronous_commit = local; GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk; ALTER DATABASE {name} OWNER TO clerk"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut c).await.unwrap();
    let blind = open(&url.expose_secret().replace("//postgres@", "//clerk@").into()).await;
    let said = blind.commit(&batch(2, vec![floor(2)])).await;
    assert!(matches!(&said, Err(CommitError::Unavailable(e)) if e.to_string().contains("pg_read_all_stats")), "{said:?}");
    // Its twin: nobody is waited for any more.
    run(&mut c, "ALTER SYSTEM RESET synchronous_standby_names").await;
    run(&mut c, "SELECT pg_reload_conf()").await;
    while store.settled().await.is_err() {}
    assert!(store.has_batch([1; 16]).await.unwrap());
    assert_eq!(one(&*blind, 2, floor(2)).await.unwrap().feed_seq, Some(2));
    assert_whole(&store).await;
}

/// The caller goes away; the server, which does not know, commits 300 ms later.
#[tokio::test]
async fn whether_a_batch_was_written_is_said_only_once_it_is_decided() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    let mut c = Server::shared().connect(&name).await;
    slow_down(&mut c, "0.3").await;
    let committing = commit(&store, batch(1, vec![floor(1)]));
    waiting(&mut c, "PgSleep").await;
    committing.abort();
    assert_eq!(store.head().await.unwrap().tree.size, 0, "not decided yet");
    assert!(store.has_batch([1; 16]).await.unwrap());
    assert_whole(&store).await;
}

#[tokio::test]
async fn the_log_cannot_be_rewritten_by_plain_sql_not_even_by_a_superuser() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    one(&*store, 1, floor(1)).await.unwrap();
    let mut c = Server::shared().connect(&name).await;
    for role in ["origin", "replica"] {
        sqlx::query("SELECT set_config('session_replication_role', $1, false)").bind(role).execute(&mut c).await.unwrap();
        for sql in [
            "UPDATE leaf SET bytes = ''",
            "DELETE FROM leaf",
            "TRUNCATE leaf",
            "UPDATE feed SET seq = 9",
            "DELETE FROM feed",
            "TRUNCATE feed",
            "UPDATE generation SET generation = 1",
            "DELETE FROM generation",
            "TRUNCATE generation",
        ] {
            assert!(sqlx::query(sql).execute(&mut c).await.is_err(), "{sql} as {role}");
        }
    }
    assert_whole(&store).await;
    assert_eq!(one(&*store, 2, floor(2)).await.unwrap().feed_seq, Some(2));
}

#[tokio::test]
async fn an_ordinary_role_that_owns_its_database_suffices_and_has_no_right_to_rewrite_the_log() {
    let (name, url) = Server::shared().database().await;
    let sql = format!("CREATE ROLE clerk LOGIN; ALTER DATABASE {name} OWNER TO clerk");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut Server::shared().connect(&name).await).await.unwrap();
    let url = url.expose_secret().replace("//postgres@", "//clerk@");
    let store = open(&url.clone().into()).await;
    one(&*store, 1, floor(1)).await.unwrap();
    assert_whole(&store).await;
    let mut clerk = PgConnection::connect(&url).await.unwrap();
    for sql in ["UPDATE leaf SET bytes = ''", "DELETE FROM leaf", "TRUNCATE leaf", "DELETE FROM feed"] {
        let refused = sqlx::query(sql).execute(&mut clerk).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied for table"), "{sql}: {refused}");
    }
}

#[tokio::test]
async fn what_has_been_over_for_an_hour_is_forgotten_and_nothing_else() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    let now = batch(0, Vec::new()).at.0;
    let agent = AgentId::from_bytes([9; 16]);
    let spent = |n, at| Row::Jti(agent, JtiHash([n; 32]), UtcMillis(at));
    one(&*store, 1, rows(vec![spent(1, now - 3_600_001), spent(2, now - 3_599_000), spent(3, now + 1)])).await.unwrap();
    for n in 2..=17 {
        one(&*store, n, leaf(n)).await.unwrap();
    }
    let mut c = Server::shared().connect(&name).await;
    let left: Vec<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM jti ORDER BY hash").fetch_all(&mut c).await.unwrap();
    assert_eq!(left, [vec![2; 32], vec![3; 32]]);
    assert!(store.has_batch([1; 16]).await.unwrap());
    run(&mut c, "UPDATE batch SET begun = begun - interval '61 minutes' WHERE id = decode(repeat('01', 16), 'hex')").await;
    for n in 18..=33 {
        one(&*store, n, leaf(n)).await.unwrap();
    }
    assert!(!store.has_batch([1; 16]).await.unwrap());
    assert!(store.has_batch([2; 16]).await.unwrap());
}

#[tokio::test]
async fn a_damaged_tile_stops_writing() {
    let (name, url) = Server::shared().database().await;
    let store = open(&url).await;
    one(&*store, 1, leaf(1)).await.unwrap();
    run(&mut Server::shared().connect(&name).await, "UPDATE tile SET hashes = decode(repeat('00', 32), 'hex')").await;
    let store = open(&url).await;
    assert!(matches!(store.commit(&batch(2, vec![leaf(2)])).await, Err(CommitError::Unavailable(StoreError::Inconsistent { table: "tile", .. }))));
}

#[tokio::test]
async fn what_cannot_hold_our_text_is_refused() {
    let (name, _) = Server::shared().database().await;
    let mut c = Server::shared().connect(&name).await;
    run(&mut c, "CREATE DATABASE bytes_only ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'").await;
    let refused = Postgres::open(&Server::shared().url("bytes_only").into(), tenant()).await;
    assert!(matches!(refused, Err(OpenError::Unfit { encoding, .. }) if encoding == "SQL_ASCII"));
}

#[tokio::test]
async fn a_url_is_not_repeated_in_errors() {
    for url in ["postgres://me:hunter2@", "hunter2", "postgres://me:hunter2@127.0.0.1:1/x"] {
        let Err(error) = Postgres::open(&url.to_owned().into(), tenant()).await else { panic!("{url}") };
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn another_machine_is_spoken_to_in_the_clear_only_by_name() {
    let mode = |url: &str| encrypted(url.parse().unwrap()).get_ssl_mode();
    assert!(matches!(mode("postgres://me@db.example/x"), PgSslMode::VerifyFull));
    assert!(matches!(mode("postgres://me@db.example/x?sslmode=disable"), PgSslMode::Disable));
    assert!(matches!(mode("postgres://me@127.0.0.1/x"), PgSslMode::Prefer));
}

#[test]
fn both_databases_have_the_same_migrations() {
    let list = |folder: &str| {
        let entries = std::fs::read_dir(format!("{}/../migrations/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list("sqlite"), list("postgres"));
    assert!(!list("sqlite").is_empty());
}

/// A batch costs what is in it, not what is in the tables: under the settings of a commit no statement walks a table,
/// with plans made while the tables are empty.
#[tokio::test]
async fn every_statement_finds_its_rows_by_an_index() {
    let (name, url) = Server::shared().database().await;
    open(&url).await;
    let mut c = Server::shared().connect(&name).await;
    run(&mut c, write::BEGIN).await;
    run(&mut c, "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL idle_in_transaction_session_timeout = 0").await;
    let sources = [include_str!("../postgres.rs"), include_str!("write.rs"), include_str!("session.rs"), include_str!("used.rs")].concat();
    let statements: Vec<_> = sources.split('"').filter(|text| ["SELECT ", "UPDATE ", "DELETE ", "INSERT "].iter().any(|verb| text.starts_with(verb))).collect();
    assert!(statements.len() > 50, "{} statements", statements.len());
    for (n, sql) in statements.into_iter().enumerate() {
        // Whose tables are short: one row a key list, one a verifier, one a revoked root key. `verifiers()` and `killed_root_keys()`
        // want them all.
        let short = sql.contains("FROM key_list")
            || sql.contains("FROM verifier WHERE tenant = $1 AND retired_ms IS NULL ORDER")
            || sql.contains("FROM drill")
            || sql.contains("FROM killed_root_key WHERE tenant = $1 ORDER");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PREPARE p{n} AS {sql}"))).execute(&mut c).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
        let arguments = (1..=12).filter(|i| sql.contains(&format!("${i}"))).map(|_| "NULL").collect::<Vec<_>>().join(", ");
        let arguments = if arguments.is_empty() { arguments } else { format!("({arguments})") };
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE p{n}{arguments}"))).fetch_all(&mut c).await.unwrap();
        for step in &plan {
            let step = step.trim();
            let walks = step.contains("Seq Scan") || (step.starts_with("Index Cond") && !step.contains(" AND ") && step.contains("(tenant = "));
            let walks = walks && !plan.iter().any(|s| s.contains("on head") || s.contains("head_pkey"));
            assert!(short || !walks, "{step} in {sql}\n{}", plan.join("\n"));
        }
    }
}
