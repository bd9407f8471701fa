//! A real PostgreSQL for tests: made in a temporary folder, spoken to over its socket there, gone with the test process.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// A running server.
pub(crate) struct Server {
    folder: PathBuf,
    /// Its standard input is what the server lives by: closed, however this process ends, the shell ends the server.
    _shell: Child,
    databases: AtomicU32,
}

impl Server {
    /// The one that the tests of this binary share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of one's own, for tests that change its settings. Panics by name where PostgreSQL is missing.
    pub(crate) fn start() -> Self {
        let bin = binaries().unwrap_or_else(|| panic!("no PostgreSQL 15 or later under /usr/lib/postgresql: `scripts/test` installs Debian's `postgresql`"));
        // It refuses to run as root.
        let user = if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0 {
            "setpriv --reuid postgres --regid postgres --init-groups"
        } else {
            ""
        };
        let script = format!(
            r#"set -eu
            dir=$({user} mktemp -d /tmp/procura-pg-XXXXXX)
            trap 'rm -rf "$dir"' EXIT
            trap '' INT
            cd "$dir"
            {user} '{bin}/initdb' -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >&2
            {user} '{bin}/postgres' -D "$dir/data" -k "$dir" -c listen_addresses='' -c shared_buffers=32MB -c max_connections=200 -c fsync=off </dev/null >&2 &
            pid=$!
            until '{bin}/pg_isready' -q -h "$dir"; do kill -0 $pid; sleep 0.05; done
            echo "$dir"
            cat >/dev/null
            kill -QUIT $pid
            wait $pid || true"#,
            bin = bin.display()
        );
        let mut shell = Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut folder = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut folder).unwrap();
        let mut said = BufReader::new(shell.stderr.take().unwrap());
        if folder.is_empty() {
            panic!("PostgreSQL did not start: {}", std::io::read_to_string(said).unwrap());
        }
        // Read on, so that the server never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { folder: folder.trim_end().into(), _shell: shell, databases: AtomicU32::new(0) }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }

    /// A connection past our code.
    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.url(database)).await.unwrap()
    }

    /// An empty database: its name and URL.
    pub(crate) async fn database(&self) -> (String, SecretString) {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut self.connect("postgres").await).await.unwrap();
        let url = self.url(&name).into();
        (name, url)
    }
}

/// The newest installed version's programs.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|v| Some(v.ok()?.path())).filter_map(|p| Some((number(&p)?, p))).filter(|(n, _)| *n >= 15).max()?;
    let bin = newest.1.join("bin");
    bin.join("initdb").exists().then_some(bin)
}
