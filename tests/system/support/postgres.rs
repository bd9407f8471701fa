//! A real PostgreSQL as its own user, in a folder of its own, spoken to over its socket there.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// A running server with one empty database, `procura`. Gone when dropped.
pub struct Postgres {
    pub folder: PathBuf,
    bin: PathBuf,
    /// Its standard input is what the server lives by: closed, however this process ends, the shell ends the server.
    _shell: Child,
}

impl Postgres {
    /// No test takes the machine's power away: without fsync, somebody else's use of the disk does not stop it for seconds.
    pub async fn start() -> Self {
        Self::with("-c fsync=off").await
    }

    /// As one runs it: every figure of a bench has its writes on disk.
    #[allow(dead_code, reason = "of the benches")]
    pub async fn durable() -> Self {
        Self::with("").await
    }

    async fn with(settings: &str) -> Self {
        let bin = binaries().expect("PostgreSQL 15 or later under /usr/lib/postgresql: `scripts/test` installs Debian's `postgresql`");
        let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
        // It refuses to run as root.
        let user = if root { "setpriv --reuid postgres --regid postgres --init-groups" } else { "" };
        let script = format!(
            r#"set -eu
            dir=$({user} mktemp -d /tmp/procura-pg-XXXXXX)
            trap 'rm -rf "$dir"' EXIT
            trap '' INT
            cd "$dir"
            {user} '{bin}/initdb' -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >&2
            {user} '{bin}/postgres' -D "$dir/data" -k "$dir" -c listen_addresses='' -c shared_buffers=32MB -c max_connections=200 {settings} </dev/null >&2 &
            pid=$!
            until '{bin}/pg_isready' -q -h "$dir"; do kill -0 $pid; sleep 0.05; done
            '{bin}/createdb' -h "$dir" -U postgres procura
            echo "$dir"
            cat >/dev/null
            kill -QUIT $pid
            wait $pid || true"#,
            bin = bin.display()
        );
        let mut shell = Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let folder = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("PostgreSQL starts").unwrap().expect("its folder");
        Self { folder: folder.into(), bin, _shell: shell }
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/procura?host={}", self.folder.display())
    }

    /// One statement past our code; the answer as unaligned text.
    pub async fn sql(&self, sql: &str) -> String {
        let mut run = Command::new(self.bin.join("psql"));
        run.args(["-XAtq", "-U", "postgres", "-d", "procura", "-v", "ON_ERROR_STOP=1", "-h"]).arg(&self.folder).args(["-c", sql]);
        let ran = tokio::time::timeout(PATIENCE, run.output()).await.expect("psql ends").unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

/// The newest installed version's programs.
pub(super) fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|v| Some(v.ok()?.path())).filter_map(|p| Some((number(&p)?, p))).filter(|(n, _)| *n >= 15).max()?;
    let bin = newest.1.join("bin");
    bin.join("initdb").exists().then_some(bin)
}
