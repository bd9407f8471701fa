//! `procura login`: authorization code and PKCE on a loopback redirect (RFC 8252), ending in a session of the authority.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::extract::{Query, State};
use axum::response::Html;
use procura_verifier::ids::HumanId;
use rand::SeedableRng as _;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;

use super::door::Unreachable;
use super::outcome::Usage;
use crate::secret;

/// A signed-in human at one authority. A credential: `Debug` shows no secret.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSession {
    /// The authority's URL.
    pub authority: String,
    /// The session secret, sent as `Authorization: Bearer`.
    pub session: String,
    /// Who.
    pub human: HumanId,
    /// For display.
    pub name: Option<String>,
}

impl std::fmt::Debug for SavedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SavedSession({} at {})", self.human, self.authority)
    }
}

/// What `procura login` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The authority's URL
    #[arg(long, default_value = "http://127.0.0.1:7300", env = "PROCURA_AUTHORITY")]
    authority: String,
    /// Where to keep the session (mode 0600)
    #[arg(long)]
    session: Option<PathBuf>,
    /// Print JSON: one line with the page to open, one when somebody has signed in
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args, http: reqwest::Client) -> anyhow::Result<()> {
    let path = match args.session {
        Some(path) => path,
        None => default_path()?,
    };
    let json = args.json;
    let authority = args.authority.trim_end_matches('/').to_owned();
    // Somebody who follows a link that leads nowhere would wait ten minutes here.
    let answer = http.get(format!("{authority}/healthz")).send().await;
    answer.map_err(|e| if e.is_builder() { not_a_url(&authority) } else { Unreachable::from_http(format!("the authority at {authority}"), &e).into() })?;
    let session = sign_in(&http, &authority, |url| async move {
        match json {
            true => println!("{}", serde_json::json!({ "open": url })),
            false => println!("Open this page in a browser on this machine to sign in:\n\n  {url}\n"),
        }
        Ok(())
    })
    .await?;
    save(&session, &path)?;
    if json {
        println!("{}", serde_json::json!({ "human": session.human, "name": session.name, "authority": session.authority, "session": path }));
        return Ok(());
    }
    println!("Signed in as {} ({}). The session is kept in {}.", session.name.as_deref().unwrap_or("somebody"), session.human, path.display());
    Ok(())
}

/// Signs a person in: `open` shows the URL to their browser. Waits at most ten minutes.
pub async fn sign_in<F: Future<Output = anyhow::Result<()>>>(
    http: &reqwest::Client,
    authority: &str,
    open: impl FnOnce(reqwest::Url) -> F,
) -> anyhow::Result<SavedSession> {
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let (verifier, state) = (secret::draw(&mut rng), secret::draw(&mut rng));
    let challenge = secret::base64url(&secret::digest(verifier.expose_secret()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no loopback port for the redirect")?;
    let redirect = format!("http://{}/callback", listener.local_addr()?);
    let mut url = reqwest::Url::parse(&format!("{authority}/login/cli")).map_err(|_| not_a_url(authority))?;
    url.query_pairs_mut()
        .append_pair("redirect_uri", &redirect)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .append_pair("state", state.expose_secret());

    let (found, mut answers) = mpsc::channel::<Answer>(1);
    let router = axum::Router::new().route("/callback", axum::routing::get(callback)).with_state(found);
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let answer = tokio::time::timeout(LONGEST_WAIT, async {
        open(url).await?;
        answers.recv().await.context("the browser's answer was lost")
    })
    .await;
    server.abort();
    let answer = answer.context("nobody signed in within ten minutes")??;
    if !secret::same(&secret::digest(&answer.state), &secret::digest(state.expose_secret())) {
        bail!("the browser came back with another sign-in's state");
    }
    // RFC 9207: a code of another server is not for this one.
    if answer.iss != authority {
        bail!("the answer is from `{}`, expected `{authority}`", answer.iss);
    }
    let Some(code) = answer.code else { bail!("the sign-in was refused: {}", answer.error.unwrap_or_default()) };
    let form = [("code", code.as_str()), ("code_verifier", verifier.expose_secret())];
    let reply = http.post(format!("{authority}/login/cli/token")).form(&form).send().await;
    let reply = reply.map_err(|e| Unreachable::from_http(format!("the authority at {authority}"), &e))?;
    if !reply.status().is_success() {
        bail!("the authority refused the sign-in: {}", reply.text().await.unwrap_or_default());
    }
    let got: Exchanged = reply.json().await.context("the authority answered something unexpected")?;
    Ok(SavedSession { authority: authority.to_owned(), session: got.session, human: got.human, name: got.name })
}

fn not_a_url(authority: &str) -> anyhow::Error {
    Usage(format!("expected the authority's URL such as https://procura.example, got `{authority}`")).into()
}

#[derive(serde::Deserialize)]
struct Exchanged {
    session: String,
    human: HumanId,
    name: Option<String>,
}

#[derive(serde::Deserialize)]
struct Answer {
    code: Option<String>,
    error: Option<String>,
    state: String,
    iss: String,
}

async fn callback(State(found): State<mpsc::Sender<Answer>>, Query(answer): Query<Answer>) -> Html<&'static str> {
    // A second answer finds the channel full or closed: the first one counts.
    _ = found.try_send(answer);
    Html("<!doctype html><html lang=\"en\"><title>Procura</title><p>You can close this page and go back to the terminal.</p></html>")
}

/// Where sessions are kept: `$XDG_CONFIG_HOME/procura/session.json`.
pub fn default_path() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".config")));
    Ok(base.context("neither XDG_CONFIG_HOME nor HOME is set: say --session FILE")?.join("procura/session.json"))
}

/// The session in a file that nobody else may read.
pub fn load(path: &Path) -> anyhow::Result<SavedSession> {
    use std::os::unix::fs::MetadataExt as _;
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("nobody is signed in (no {}): run `procura login`, or say --data DIR", path.display()),
        _ => anyhow::anyhow!("cannot read {}: {e}", path.display()),
    })?;
    if std::fs::metadata(path)?.mode() & 0o077 != 0 {
        bail!("{} may be read by others: expected mode 0600; sign in again", path.display());
    }
    // What the parser says could repeat what is in the file.
    serde_json::from_slice(&bytes).map_err(|_| anyhow::anyhow!("{} is not a session file: sign in again", path.display()))
}

fn save(session: &SavedSession, path: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Written aside and renamed: never half a session, never one that others may read.
    let aside = path.with_extension("new");
    _ = std::fs::remove_file(&aside);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).with_context(|| format!("cannot write {}", aside.display()))?;
    file.write_all(&serde_json::to_vec_pretty(session)?)?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}

const LONGEST_WAIT: Duration = Duration::from_secs(600);
