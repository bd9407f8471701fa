//! A real redis-server on a free loopback port, with its files in a folder of its own. Standard library alone, so that other crates' tests may
//! include this file by its path.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running server. Killed when dropped, and also when the test process ends in whatever way.
pub struct RedisProcess {
    /// Its standard input is what the server lives by: closed, however this process ends, the shell ends the server.
    shell: Child,
    pid: u32,
    pub port: u16,
    pub folder: PathBuf,
    /// Lines of the configuration beyond port and folder.
    config: String,
    plain: bool,
}

impl RedisProcess {
    /// With these lines of configuration. Panics by name where redis-server is missing.
    pub fn start(config: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!("procura-redis-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder).unwrap();
        Self::start_in(folder, config)
    }

    /// The same with files that stand in the folder already. `{folder}` in the configuration is the folder, `{port}` its port.
    pub fn start_in(folder: PathBuf, config: &str) -> Self {
        // A cluster's nodes speak to each other 10,000 ports higher.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = std::iter::repeat_with(free).find(|p| *p < 55_000).unwrap();
        let (shell, pid) = spawn(&folder, port, config);
        Self { shell, pid, port, folder, config: config.to_owned(), plain: !config.contains("tls-port") }
    }

    /// Without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL; returns when the process is gone and its port is free.
    pub fn kill(&mut self) {
        self.signal("KILL");
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }

    /// At the same port, empty.
    pub fn restart(&mut self) {
        (self.shell, self.pid) = spawn(&self.folder, self.port, &self.config);
    }

    /// SIGSTOP: it holds its connections and answers nothing.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().unwrap();
        assert!(sent.success(), "redis-server {} is gone", self.pid);
    }

    /// One command by redis-cli, past our code: what it printed.
    pub fn cli(&self, args: &[&str]) -> String {
        let tls = ["--tls".to_owned(), "--cacert".to_owned(), self.folder.join("ca.pem").display().to_string()];
        let tls: &[String] = if self.plain { &[] } else { &tls };
        let host = if self.plain { "127.0.0.1" } else { "localhost" };
        let ran = Command::new("redis-cli").args(["-h", host, "-p", &self.port.to_string()]).args(tls).args(args).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr)).trim().to_owned()
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &Path, port: u16, config: &str) -> (Child, u32) {
    let listen = if config.contains("tls-port") { String::new() } else { format!("port {port}\n") };
    let config = config.replace("{folder}", &folder.display().to_string()).replace("{port}", &port.to_string());
    let text = format!("bind 127.0.0.1\n{listen}dir {}\nsave \"\"\nappendonly no\nlogfile redis.log\n{config}\n", folder.display());
    std::fs::write(folder.join("redis.conf"), text).unwrap();
    // A stopped server ends by SIGKILL alone.
    let script =
        "redis-server redis.conf </dev/null >/dev/null 2>redis.err & pid=$!; echo $pid; cat >/dev/null; kill -KILL $pid 2>/dev/null; wait $pid; exit 0";
    let mut shell =
        Command::new("sh").arg("-c").arg(script).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut pid).unwrap();
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || ["redis.err", "redis.log"].map(|f| std::fs::read_to_string(folder.join(f)).unwrap_or_default()).concat();
        assert!(began.elapsed() < Duration::from_secs(10), "redis-server (`scripts/test` installs it) does not start: {}", said());
        std::thread::sleep(Duration::from_millis(10));
    }
    (shell, pid.trim().parse().unwrap())
}
