//! The three instances of the sample tool, each a process of its own behind a proxy of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ed25519_dalek::SigningKey;
use procura_sdk::caller::{Answered, ToolInstance, Wish};
use procura_sdk::held::SealedToken;
use procura_verifier::call::Arguments;
use procura_verifier::ids::{Clock as _, SystemClock, VerifierId};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::proxy::Proxy;

/// One running instance.
pub struct Tool {
    /// Its public door.
    pub instance: ToolInstance,
    /// What stands between it and the authority.
    pub proxy: Proxy,
    url: String,
    http: reqwest::Client,
    child: Child,
}

/// What a tool needs to start.
pub struct Start<'a> {
    /// The data folder, for the key file.
    pub folder: &'a Path,
    /// The trust file.
    pub trust: &'a Path,
    /// The authority.
    pub authority: &'a str,
    /// Its audience.
    pub audience: &'a str,
    /// Its enrolment.
    pub verifier: VerifierId,
    /// Its key.
    pub key: &'a SigningKey,
}

impl Tool {
    /// Starts a process of this very binary.
    pub async fn start(http: &reqwest::Client, start: &Start<'_>) -> anyhow::Result<Self> {
        let proxy = Proxy::start(start.authority.to_owned(), http.clone()).await?;
        let key = start.folder.join(format!("verifier-{}.key", start.audience.replace('/', "-")));
        crate::signer::file::write_key(&key, start.key)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("sample-tool")
            .args(["--authority", &proxy.url, "--audience", start.audience, "--verifier", &start.verifier.to_string()])
            .arg("--trust")
            .arg(start.trust)
            .arg("--key")
            .arg(&key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the sample tool")?;
        let stdout = child.stdout.take().context("the sample tool has no output")?;
        let url = BufReader::new(stdout).lines().next_line().await?.context("the sample tool ended before it served")?;
        let instance = ToolInstance::new(http.clone(), url.clone(), start.audience.parse()?);
        Ok(Self { instance, proxy, url, http: http.clone(), child })
    }

    /// Asks for a transfer with a fresh proof. The first allow of a fresh instance costs a second proof: it draws its challenge at start.
    pub async fn transfer(&self, token: &SealedToken, key: &SigningKey, wish: &Wish) -> anyhow::Result<(Answered, Duration)> {
        let began = Instant::now();
        let answer = self.instance.call(&path(wish), token, key, wish, SystemClock.wall(), &mut StdRng::from_os_rng()).await?;
        Ok((answer, began.elapsed()))
    }

    /// The cause of the newest denial that this instance told nobody but its operator.
    pub async fn denials(&self) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
        Ok(self.http.get(format!("{}/denials", self.url)).send().await?.json().await?)
    }

    /// Lets the process deliver its receipts and end.
    pub async fn close(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.context("the sample tool did not end")??;
        anyhow::ensure!(status.success(), "the sample tool ended with {status}");
        Ok(())
    }
}

/// Where the sample tool takes this wish.
pub fn path(wish: &Wish) -> String {
    format!("/{}/{}/{}", wish.tenant, wish.action, wish.resource)
}

/// A transfer of `minor` euro cents to an account.
pub fn transfer_to(resource: &str, minor: i64) -> anyhow::Result<Wish> {
    wish("acme", "transfer", resource, &format!(r#"{{"amount":{{"minor":{minor},"unit":"EUR"}}}}"#))
}

/// Any wish.
pub fn wish(tenant: &str, action: &str, resource: &str, args: &str) -> anyhow::Result<Wish> {
    Ok(Wish {
        tenant: tenant.parse()?,
        tool: "payments".parse()?,
        action: action.parse()?,
        resource: resource.parse()?,
        args: Arguments::from_json(args.as_bytes())?,
    })
}
