//! Replicas of `procura serve` on one configuration, and the provider that they sign people in with.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use procura_authority::demo::people::Person;
use procura_verifier::trust::TrustFile;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{PATIENCE, binary, http};

/// One configuration, its provider, and where its replicas' folders are.
pub struct Site {
    folder: PathBuf,
    pub public_url: String,
    provider: Child,
    issuer: String,
    environment: Vec<(&'static str, String)>,
}

/// One process of `procura serve`. Killed when dropped.
pub struct Replica {
    child: Child,
    pub url: String,
    pub data: PathBuf,
    /// Sends whatever URL is asked for to this replica: all have one public URL.
    pub http: reqwest::Client,
    pub public_url: String,
}

impl Site {
    /// Writes the configuration for a database URL. `port` is the first replica's, and part of the public URL.
    pub async fn new(folder: &Path, database: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let public_url = format!("http://{free}");
        let secret = folder.join("client-secret");
        std::fs::write(&secret, "a secret of a test\n").unwrap();
        let (provider, issuer) = provider(folder, &public_url, "127.0.0.1:0").await;
        let text = format!(
            r#"
            [server]
            listen = "{free}"
            public_url = "{public_url}"
            tenant = "acme"
            data = "{folder}/one"
            [database]
            url = "{database}"
            [keys]
            folder = "{folder}/keys"
            [issuer]
            url = "{issuer}"
            client_id = "procura"
            client_secret_file = "{secret}"
            algorithms = ["EdDSA"]
            [[grants]]
            human = {{ issuer = "{issuer}", subject = "dev-alice" }}
            max_ttl_secs = 28800
            max_depth = 3
            class_max = "restricted"
            capabilities = [{{ tool = "payments", action = "transfer", resource = "acct/*", limits = [{{ kind = "at_most", arg = "amount", max = 100000, unit = "EUR" }}] }}]
            [[grants]]
            human = {{ issuer = "{issuer}", subject = "dev-sam" }}
            roles = ["security", "admin", "auditor"]
            "#,
            folder = folder.display(),
            secret = secret.display(),
        );
        std::fs::write(folder.join("procura.toml"), text).unwrap();
        Self { folder: folder.to_owned(), public_url, provider, issuer, environment: Vec::new() }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("procura.toml")
    }

    /// Adds sections to the configuration.
    pub fn add(&self, sections: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), format!("{text}\n{sections}")).unwrap();
    }

    /// Gives all later replicas a certificate for 127.0.0.1, and says where it and its key are.
    pub fn with_tls(&mut self) -> [PathBuf; 2] {
        let files = ["tls.pem", "tls.key"].map(|name| self.folder.join(name));
        self.add(&format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n", files[0].display(), files[1].display()));
        self.public_url = self.public_url.replace("http://", "https://");
        let public_url = self.public_url.clone();
        self.set("PROCURA_SERVER__PUBLIC_URL", &public_url);
        files
    }

    /// A variable in the environment of all later replicas.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    /// The provider is gone.
    pub async fn end_provider(&mut self) {
        self.provider.kill().await.unwrap();
    }

    /// It comes, where it was.
    pub async fn start_provider(&mut self) {
        let (provider, issuer) = provider(&self.folder, &self.public_url, self.issuer.strip_prefix("http://").unwrap()).await;
        assert_eq!(issuer, self.issuer);
        self.provider = provider;
    }

    /// A replica with the folder of this name, not yet started.
    pub fn command(&self, name: &str) -> Command {
        let mut serve = Command::new(binary());
        serve.args(["serve", "--json", "--config"]).arg(self.folder.join("procura.toml"));
        serve.env("PROCURA_SERVER__DATA", self.folder.join(name)).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        // Nothing happens there until a test writes into it.
        serve.env("PROCURA_FAILPOINTS", self.folder.join(name).with_extension("failpoints"));
        if name != "one" {
            serve.env("PROCURA_SERVER__LISTEN", "127.0.0.1:0");
        }
        // One agent, one person and one address ask here for all there are. Tests of the limits set their own.
        for rate in ["MINT", "MINT_PER_AGENT", "PERSON", "HEAD", "STREAM"] {
            serve.env(format!("PROCURA_LIMITS__{rate}_PER_SECOND"), "1000000");
        }
        serve.envs(self.environment.iter().map(|(name, value)| (name, value)));
        serve
    }

    /// Starts a replica with a folder of its own. The one called `one` listens at the public URL.
    pub async fn replica(&self, name: &str, args: &[&str]) -> Replica {
        self.replica_with(name, args, &[]).await
    }

    /// The same with settings of its own, by the environment.
    pub async fn replica_with(&self, name: &str, args: &[&str], settings: &[(&str, String)]) -> Replica {
        let data = self.folder.join(name);
        let said = data.with_extension("stderr");
        let mut command = self.command(name);
        command.envs(settings.iter().map(|(k, v)| (k, v)));
        let mut child = command.args(args).stderr(std::fs::File::options().create(true).append(true).open(&said).unwrap()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("`procura serve` starts").unwrap();
        let line = line.unwrap_or_else(|| panic!("`procura serve` ended: {}", std::fs::read_to_string(&said).unwrap_or_default()));
        let at: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
        let url = at["url"].as_str().unwrap().to_owned();
        _ = http();
        let http = reqwest::Client::builder().tcp_nodelay(true).timeout(PATIENCE).proxy(reqwest::Proxy::http(&url).unwrap()).build().unwrap();
        Replica { child, url, data, http, public_url: self.public_url.clone() }
    }

    /// The error of a replica that does not start.
    pub async fn refused(&self, name: &str, args: &[&str]) -> String {
        self.refused_with(name, args).await.1
    }

    /// The same with its exit code.
    pub async fn refused_with(&self, name: &str, args: &[&str]) -> (Option<i32>, String) {
        let ran = self.command(name).args(args).stderr(Stdio::piped()).output();
        let ran = tokio::time::timeout(PATIENCE, ran).await.expect("it ends").unwrap();
        assert!(!ran.status.success(), "it started");
        (ran.status.code(), super::text(&ran.stderr))
    }
}

/// The provider for development as a process, and its issuer.
async fn provider(folder: &Path, public_url: &str, listen: &str) -> (Child, String) {
    let mut provider = Command::new(binary())
        .args(["dev-idp", "--listen", listen, "--redirect-url", &format!("{public_url}/oidc/callback"), "--client-secret-file"])
        .arg(folder.join("client-secret"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(provider.stdout.take().unwrap()).lines();
    let issuer = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the provider starts").unwrap().expect("its issuer");
    (provider, issuer)
}

impl Replica {
    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// What it wrote to standard error so far, in all its lives on this folder.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("stderr")).unwrap_or_default()
    }

    /// A number on its metrics page; 0 if it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.get("/metrics").await;
        page.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// A signal by name. The process may go on.
    pub fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Returns when it has ended of itself.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap()
    }

    pub async fn person(&self, name: &str) -> Person {
        Person::sign_in(&self.http, &self.public_url, name).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("{}{path}", self.public_url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub fn trust(&self) -> TrustFile {
        TrustFile::from_json(&std::fs::read(self.data.join("trust.json")).unwrap()).unwrap()
    }
}
