//! A primary and a streaming standby, each a real PostgreSQL as its own user, on loopback ports.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;
use super::postgres::binaries;

/// A folder that PostgreSQL's user may write. Gone when this process ends, in whatever way.
pub struct Folder {
    pub path: PathBuf,
    _shell: Child,
}

impl Folder {
    pub async fn new() -> Self {
        let script = r#"set -eu; dir=$("$@" mktemp -d /tmp/procura-pg-XXXXXX); trap '' INT; echo "$dir"; cat >/dev/null; sleep 1; rm -rf "$dir""#;
        let (path, shell) = said(Command::new("sh").args(["-c", script, "sh"]).args(user())).await;
        Self { path: path.into(), _shell: shell }
    }
}

/// One server, running or not. Ends when dropped.
pub struct Node {
    data: PathBuf,
    bin: PathBuf,
    pub at: SocketAddr,
    /// Its standard input is what the server lives by: closed, however this process ends, the shell ends the server.
    running: Option<(Child, u32)>,
}

impl Node {
    /// A running server with one empty database, `procura`.
    pub async fn primary(folder: &Folder, name: &str) -> Self {
        let mut node = Self::beside(folder, name);
        node.ran("initdb", &["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"], true).await;
        node.start().await;
        node.ran("createdb", &["-U", "postgres", "-h", "127.0.0.1", "-p", &node.at.port().to_string(), "procura"], false).await;
        node
    }

    /// One that does not run and has no data yet.
    pub fn beside(folder: &Folder, name: &str) -> Self {
        let bin = binaries().expect("PostgreSQL 15 or later under /usr/lib/postgresql: `scripts/test` installs Debian's `postgresql`");
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { data: folder.path.join(name), bin, at, running: None }
    }

    pub fn url(at: SocketAddr) -> String {
        format!("postgres://postgres@{at}/procura")
    }

    /// Everything it has is taken anew from a primary, which it follows from then on, as `standby` and by a slot.
    pub async fn follow(&mut self, primary: SocketAddr) {
        assert!(self.running.is_none(), "it runs");
        _ = std::fs::remove_dir_all(&self.data);
        let from = format!("host={} port={} user=postgres application_name=standby", primary.ip(), primary.port());
        self.ran("pg_basebackup", &["-d", &from, "-R", "-X", "stream", "-C", "-S", "standby", "-c", "fast", "--no-sync", "-D"], true).await;
        self.start().await;
    }

    /// Returns when it answers.
    pub async fn start(&mut self) {
        let script = r#"set -eu
            trap '' INT
            data=$1; port=$2; ready=$3; server=$4; shift 4
            cd "$(dirname "$data")"
            "$@" "$server" -D "$data" -p "$port" -k "$(dirname "$data")" -c listen_addresses=127.0.0.1 -c shared_buffers=32MB -c max_connections=200 -c fsync=off -c wal_retrieve_retry_interval=100ms </dev/null >>"$data.log" 2>&1 &
            pid=$!
            until "$ready" -q -h 127.0.0.1 -p "$port"; do kill -0 $pid; sleep 0.02; done
            echo $pid
            cat >/dev/null
            for child in $(cat /proc/$pid/task/$pid/children 2>/dev/null); do kill -KILL $child || true; done
            kill -KILL $pid 2>/dev/null || true
            wait $pid || true"#;
        let mut start = Command::new("sh");
        start.args(["-c", script, "sh"]).arg(&self.data).arg(self.at.port().to_string()).arg(self.bin.join("pg_isready")).arg(self.bin.join("postgres"));
        let (pid, shell) = said(start.args(user())).await;
        let log = || std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
        self.running = Some((shell, pid.parse().unwrap_or_else(|_| panic!("PostgreSQL does not start: {}", log()))));
    }

    /// SIGKILL to all of it at once; returns when it is gone.
    pub async fn kill(&mut self) {
        // Stopped first: no child is started meanwhile.
        self.signal("STOP").await;
        let all = self.processes();
        send("KILL", &all).await;
        self.gone().await;
    }

    /// A smart (`TERM`), fast (`INT`) or immediate (`QUIT`) shutdown; returns when it is gone.
    pub async fn shut_down(&mut self, name: &str) {
        let pid = self.running.as_ref().expect("it runs").1;
        send(name, &[pid]).await;
        let ended = async {
            // Its shell has not taken leave of it yet: it stays as a zombie.
            while !std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.rsplit(") ").next().is_some_and(|s| s.starts_with('Z'))) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("PostgreSQL ends");
        self.gone().await;
    }

    async fn gone(&mut self) {
        if let Some((mut shell, _)) = self.running.take() {
            drop(shell.stdin.take());
            tokio::time::timeout(PATIENCE, shell.wait()).await.expect("the shell ends").unwrap();
        }
    }

    /// SIGSTOP or SIGCONT to all of it.
    pub async fn signal(&self, name: &str) {
        // The postmaster first, so that it starts no other.
        send(name, &self.processes()[..1]).await;
        send(name, &self.processes()[1..]).await;
    }

    fn processes(&self) -> Vec<u32> {
        let pid = self.running.as_ref().expect("it runs").1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().map(|c| c.parse().unwrap())).collect()
    }

    /// From a standby to a primary.
    pub async fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote(true, 20)").await, "t");
    }

    /// COMMIT waits for `standby` from now on; returns once there is one that it waits for.
    pub async fn require_standby(&self) {
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'").await;
        self.sql("SELECT pg_reload_conf()").await;
        self.until("SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'").await;
        // Each server process hears of the setting when it next does something.
        self.until("SELECT current_setting('synchronous_standby_names') <> ''").await;
    }

    /// Asks until it says yes.
    pub async fn until(&self, sql: &str) {
        let asking = async {
            while self.sql(sql).await != "t" {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{sql}"));
    }

    /// One statement past our code; the answer as unaligned text. Waits for no standby.
    pub async fn sql(&self, sql: &str) -> String {
        let mut run = Command::new(self.bin.join("psql"));
        run.args(["-XAtq", "-U", "postgres", "-d", "procura", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.at.port().to_string(), "-c", sql]);
        let ran = tokio::time::timeout(PATIENCE, run.env("PGOPTIONS", "-c synchronous_commit=local").output()).await.expect("psql ends").unwrap();
        assert!(ran.status.success(), "{sql}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Its files under another name, while it does not run.
    pub fn copy_data(&self, name: &str) {
        assert!(self.running.is_none(), "it runs");
        copy(&self.data, &self.data.with_file_name(name));
    }

    /// Those files again.
    pub fn restore_data(&self, name: &str) {
        assert!(self.running.is_none(), "it runs");
        std::fs::remove_dir_all(&self.data).unwrap();
        copy(&self.data.with_file_name(name), &self.data);
    }

    /// A program of PostgreSQL's, as its user; the data folder is its last argument where it wants one.
    async fn ran(&self, program: &str, args: &[&str], on_data: bool) {
        let mut command = vec![self.bin.join(program).display().to_string()];
        command.splice(0..0, user());
        let mut run = Command::new(&command[0]);
        run.args(&command[1..]).args(args).current_dir(self.data.parent().unwrap());
        if on_data {
            run.arg(&self.data);
        }
        let ran = tokio::time::timeout(PATIENCE * 2, run.output()).await.unwrap_or_else(|_| panic!("{program} ends")).unwrap();
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((mut shell, _)) = self.running.take() {
            // The shell ends the server when its input does.
            drop(shell.stdin.take());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// PostgreSQL refuses to run as root.
fn user() -> Vec<String> {
    let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let words: &[&str] = if root { &["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"] } else { &["env"] };
    words.iter().map(|&w| w.to_owned()).collect()
}

async fn send(name: &str, pids: &[u32]) {
    // One that ended meanwhile is no mistake.
    let pids = pids.iter().map(u32::to_string);
    Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status().await.unwrap();
}

/// Starts a shell that lives by its standard input, and its first line.
async fn said(command: &mut Command) -> (String, Child) {
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the shell starts").unwrap();
    (line.unwrap_or_default(), shell)
}
