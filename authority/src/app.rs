//! The only file that knows every adapter: folder and address in, a running authority out. [`serve`] is beside it.

mod serve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Extension;
use procura_verifier::feed::redis::RedisConfig;
use procura_verifier::ids::Clock;
use procura_verifier::key_list::Anchors;
use procura_verifier::trust::TrustFile;
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use secrecy::SecretString;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use self::serve::{FirstStart, export_served, recover_served, serve};
use crate::config::{self, Limits};
use crate::dev_idp::{Client, DevIdp};
use crate::feed::redis::RedisBus;
use crate::feed::turns::Turns;
use crate::http::rates::Rates;
use crate::http::{AppState, LOST, Live, MAX_STREAMS, OverSocket, Shared, router};
use crate::listen::Door;
use crate::listen::proxy::Proxies;
use crate::listen::tls::Certificates;
use crate::log::bundle::BundleWriter;
use crate::log::checkpoint::Origin;
use crate::oidc::provider::Provider;
use crate::oidc::relying_party::{Algorithm, IssuerConfig, RelyingParty, Retry};
use crate::oidc::routes::{Cookies, OidcState};
use crate::seal::SessionSecret;
use crate::secret;
use crate::signer::file::{AnchorFile, FileSigner};
use crate::signer::released::Released;
use crate::store::lock::FolderLock;
use crate::store::sqlite::Sqlite;
use crate::telemetry::Exporter;
use crate::usecase::Context;
use crate::usecase::bootstrap::{Start, Started, bootstrap};
use crate::usecase::recover::{Recovered, recover};
use crate::writer::{self, ReleasedCheckpoint};

/// The socket in the data folder, mode 0600: whoever may open it could read the keys anyway.
pub const SOCKET: &str = "procura.sock";

/// An authority that serves.
pub struct Running {
    /// Where it answers.
    pub url: String,
    /// The provider for development beside it.
    pub provider: String,
    folder: PathBuf,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    context: Arc<Context>,
    /// What requests under way have when it stops.
    last: Duration,
    certificates: Option<Arc<Certificates>>,
    traces: Option<Exporter>,
    /// Where the store does not hold it.
    _lock: Option<FolderLock>,
}

impl Running {
    /// What a person reads at the start.
    pub fn welcome(&self) -> String {
        format!(
            "Authority:    {}\nSign in as alice, bob or sam at {}/login (provider for development: {})\nTrust file:   {}\nEnd with Ctrl-C.",
            self.url,
            self.url,
            self.provider,
            self.folder.join("trust.json").display()
        )
    }

    /// The same for a program: one line of JSON.
    pub fn welcome_json(&self) -> String {
        serde_json::json!({ "url": self.url, "provider": self.provider, "data": self.folder }).to_string()
    }

    /// Reads the certificate again. Says so in log and metrics; the one in use stays where the new one is none.
    pub fn reload(&self) {
        match &self.certificates {
            Some(certificates) => certificates.reload_and_say(&self.context.metrics),
            None => tracing::warn!("there is no certificate to read again: this server speaks in the clear"),
        }
    }

    /// True while there is something that a restart would not mend: the writer takes changes.
    pub fn is_well(&self) -> bool {
        self.context.writer.is_running()
    }

    /// Stops accepting, ends streams with a word, finishes what is under way within the time for it, writes what was taken
    /// on, and lets go of the folder.
    pub async fn stop(self) {
        _ = self.stop.send(true);
        let until = tokio::time::Instant::now() + self.last + CUT_OFF;
        for mut server in self.servers {
            if tokio::time::timeout_at(until, &mut server).await.is_err() {
                server.abort();
                _ = server.await;
            }
        }
        // Whoever hung up before the answer did not take the change back.
        if tokio::time::timeout(LAST_WRITES, self.context.writer.end()).await.is_err() {
            tracing::error!(after_secs = LAST_WRITES.as_secs(), "the writer did not end: what it had not committed is not written");
        }
        if let Some(traces) = self.traces {
            traces.end(LAST_TRACES).await;
        }
        _ = std::fs::remove_file(self.folder.join(SOCKET));
    }
}

/// Runs an authority for development on SQLite in `folder`: keys, trust file and socket are made there. Loopback only.
pub async fn dev(folder: &Path, listen: SocketAddr, redis: Option<RedisConfig>) -> anyhow::Result<Running> {
    if !listen.ip().is_loopback() {
        bail!("procura dev asks for no password: expected a loopback address, got {listen}");
    }
    private_folder(folder)?;
    // Before anything else in the folder: a second process hears that it is the second, not that some port is taken.
    let lock = FolderLock::take(folder)?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let url = format!("http://{}", listener.local_addr()?);
    let clock: Arc<dyn Clock> = crate::failpoint::clock();
    let (stop, stopping) = watch::channel(false);

    let idp_listener = provider_listener(folder).await?;
    let client_secret = SecretString::from(secret::base64url(&secret::draw_bytes(&mut StdRng::from_os_rng())));
    let redirect_url = format!("{url}/oidc/callback");
    let client = Client { client_id: "procura".to_owned(), secret: Some(client_secret.clone()), redirect_uris: vec![redirect_url.clone()] };
    let idp = DevIdp::new(idp_listener, config::dev_people(), vec![client], clock.clone(), rng())?;
    let provider = idp.issuer().to_owned();
    let idp = tokio::spawn({
        let stopped = until(stopping.clone());
        async move {
            if let Err(e) = idp.serve(stopped).await {
                tracing::error!(error = %e, "provider.ended");
            }
        }
    });
    let issuer = IssuerConfig {
        issuer: provider.clone(),
        client_id: "procura".to_owned(),
        client_secret: Some(client_secret),
        redirect_url,
        algorithms: vec![Algorithm::EdDSA],
    };
    let provider_found = RelyingParty::discover(issuer, clock.wall(), Retry::default()).await?.into();

    let opened = open(lock, folder, &url, &provider).await?;
    if let Some(redis) = redis {
        opened.context.feed.carry_beside(Arc::new(RedisBus::start(&redis, &opened.context.tenant, rng())?));
    }
    let context = Arc::clone(&opened.context);
    // Nobody but this machine comes in: how often it comes is its own affair.
    let rates = Rates::none(Arc::clone(&context.metrics));
    let operation = Operation { proxies: Proxies::default(), rates, limits: Limits { stop_secs: 2, ..Limits::default() }, certificates: None, traces: None };
    let assembly = Assembly { folder, url: &url, listener, provider: provider_found, operation, stopping };
    let mut servers = assembly.serve(opened)?;
    servers.push(idp);
    Ok(Running { url, provider, folder: folder.to_owned(), stop, servers, context, last: LAST_REQUESTS, certificates: None, traces: None, _lock: None })
}

/// What `dev` and `serve` have in common once keys and store are open.
struct Assembly<'a> {
    folder: &'a Path,
    url: &'a str,
    listener: TcpListener,
    provider: Provider,
    operation: Operation,
    stopping: watch::Receiver<bool>,
}

/// How the door on the network is kept.
struct Operation {
    proxies: Proxies,
    rates: Rates,
    limits: Limits,
    certificates: Option<Arc<Certificates>>,
    traces: Option<Exporter>,
}

impl Assembly<'_> {
    /// Answers on the listener and on the folder's socket.
    fn serve(self, opened: Started) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let Self { folder, url, listener, provider, operation, stopping } = self;
        let Operation { proxies, rates, limits, certificates, traces } = operation;
        let metrics = Arc::clone(&opened.context.metrics);
        let ctx = opened.context;
        let oidc = OidcState::new(url, provider, ctx.clone())?;
        let app = AppState::new(Shared {
            origin: opened.origin,
            authority: url.to_owned(),
            cookies: Cookies::for_address(url)?,
            oidc: Some(Arc::new(oidc)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            live: Live::default(),
            proxies: proxies.clone(),
            rates,
            body_time: Duration::from_secs(limits.body_secs.into()),
            traces,
            stopping: stopping.clone(),
            lost: Turns::new(LOST),
            ctx,
        });

        let socket = folder.join(SOCKET);
        // The folder is ours alone (its lock is held): a socket that is there is a dead process's.
        _ = std::fs::remove_file(&socket);
        let unix = UnixListener::bind(&socket).with_context(|| format!("cannot make {}", socket.display()))?;
        set_mode(&socket, 0o600)?;
        let over_socket = router(app.clone()).layer(Extension(OverSocket));
        let unix = axum::serve(unix, over_socket).with_graceful_shutdown(until(stopping.clone()));
        let mut servers = vec![tokio::spawn(async move { _ = unix.await })];
        if let Some(certificates) = &certificates {
            servers.push(tokio::spawn(Arc::clone(certificates).keep_fresh(Arc::clone(&metrics), stopping.clone())));
        }
        let door = Door { listener, certificates, proxies, limits, metrics };
        servers.push(tokio::spawn(door.serve(router(app), stopping)));
        Ok(servers)
    }
}

/// The provider's address is its issuer, and with it half of everybody's name: the same at every start on a folder.
async fn provider_listener(folder: &Path) -> anyhow::Result<TcpListener> {
    let path = folder.join(PROVIDER_ADDRESS);
    if let Ok(kept) = std::fs::read_to_string(&path) {
        let kept = kept.trim();
        return TcpListener::bind(kept)
            .await
            .with_context(|| format!("the provider for development served at {kept} before, and people are known by that; it is taken now"));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no loopback port for the provider")?;
    write_whole(&path, &listener.local_addr()?.to_string())?;
    Ok(listener)
}

/// Opens the folder's keys and database, and writes the trust file.
async fn open(lock: FolderLock, folder: &Path, url: &str, provider: &str) -> anyhow::Result<Started> {
    let (start, anchor, signer) = prepare(lock, folder, url, provider).await?;
    let (anchors, tenant) = (start.anchors.clone(), start.store.tenant().clone());
    let started = bootstrap(start, |now| anchor.first_list(&signer, &tenant, now, config::MAX_TTL_SECS)).await?;
    let trust = TrustFile { anchors, authority: url.to_owned(), tenant, key_list: started.key_list.clone() };
    write_whole(&folder.join("trust.json"), &trust.to_json())?;
    Ok(started)
}

/// What a start on the folder needs.
async fn prepare(lock: FolderLock, folder: &Path, url: &str, provider: &str) -> anyhow::Result<(Start, AnchorFile, Arc<FileSigner>)> {
    let tenant = config::dev_tenant()?;
    let store = Sqlite::open_held(lock, folder, tenant.clone()).await?;
    let keys = folder.join("keys");
    let mut rng = StdRng::from_os_rng();
    let (signer, anchor) = (FileSigner::open(&keys, &mut rng)?, AnchorFile::open(&keys, &mut rng)?);
    let anchors = Anchors::new(vec![anchor.public()], 1)?;
    let signer = Arc::new(signer);
    let start = Start {
        store: Arc::new(store),
        signer: signer.clone(),
        anchors,
        clock: crate::failpoint::clock(),
        rngs: [Box::new(StdRng::from_os_rng()), Box::new(StdRng::from_os_rng())],
        released: Released::open(&folder.join("released-checkpoint"))?,
        session_secret: SessionSecret::open(&keys, &mut rng)?,
        origin: origin(url)?,
        grants: config::dev_grants(provider)?,
    };
    Ok((start, anchor, signer))
}

/// Opens a new origin and a new epoch after the database of a folder of `dev` was found older than its log.
pub async fn recover_at_rest(folder: &Path, reason: String) -> anyhow::Result<Recovered> {
    if !folder.join(PROVIDER_ADDRESS).exists() {
        bail!("{} is not of `procura dev`: name the file of `procura serve` with --config", folder.display());
    }
    let (start, ..) = prepare(FolderLock::take(folder)?, folder, &authority_of(folder)?, "").await?;
    Ok(recover(start, reason).await?)
}

/// The whole log as an auditor's bundle: leaves and feed up to one released checkpoint.
pub async fn export(ctx: &Context, checkpoint: &ReleasedCheckpoint) -> anyhow::Result<Vec<u8>> {
    // The list of that checkpoint's log, whatever was published since.
    let list = ctx.keys.anchors().accept(&checkpoint.key_list, &ctx.tenant)?;
    let mut bundle = BundleWriter::new(&list, &checkpoint.key_list)?;
    let size = checkpoint.tree.size;
    let mut at = 0;
    while at < size {
        let want = u32::try_from((size - at).min(LEAVES_AT_ONCE))?;
        let leaves = ctx.store.leaves(at, want).await?;
        if leaves.is_empty() {
            bail!("the store ends at leaf {at}, the checkpoint at {size}");
        }
        at += leaves.len() as u64;
        leaves.iter().try_for_each(|leaf| bundle.leaf(leaf))?;
    }
    let mut after = (1, 0);
    loop {
        let messages = ctx.feed.tail(after.0, after.1).await?;
        let Some(last) = messages.last() else { break };
        for message in &messages {
            // What was committed after the checkpoint belongs to the next export.
            if !is_within(message, size) {
                break;
            }
            bundle.feed_message(&message.to_bytes())?;
        }
        if !is_within(last, size) {
            break;
        }
        after = place(last).unwrap_or((u64::MAX, u64::MAX));
    }
    Ok(ctx.signer.bundle(bundle, checkpoint.note.as_bytes(), ctx.clock.wall())?)
}

fn is_within(message: &procura_verifier::feed::SignedMessage, size: u64) -> bool {
    use procura_verifier::feed::Message;
    match Message::from_bytes(message.unverified_payload()) {
        Ok(Message::Batch(batch)) => batch.items.iter().all(|(index, _)| *index < size),
        _ => true,
    }
}

/// Epoch and number of a batch or an epoch start.
fn place(message: &procura_verifier::feed::SignedMessage) -> Option<(u64, u64)> {
    use procura_verifier::feed::Message;
    match Message::from_bytes(message.unverified_payload()) {
        Ok(Message::Batch(batch)) => Some((batch.epoch, batch.seq)),
        Ok(Message::EpochStart(start)) => Some((start.epoch, 0)),
        _ => None,
    }
}

/// The API over a folder in which nobody runs, for its operator. The folder is held as long as this lives.
pub async fn api_at_rest(folder: &Path) -> anyhow::Result<axum::Router> {
    if !folder.join(PROVIDER_ADDRESS).exists() {
        return Err(NotRunning(folder.to_owned()).into());
    }
    let url = authority_of(folder)?;
    let opened = open(FolderLock::take(folder)?, folder, &url, "").await?;
    let app = AppState::new(Shared {
        origin: opened.origin,
        cookies: Cookies::for_address(&url)?,
        authority: url,
        oidc: None,
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        live: Live::default(),
        // Nobody comes over a network.
        proxies: Proxies::default(),
        rates: Rates::none(Arc::clone(&opened.context.metrics)),
        body_time: Duration::from_secs(Limits::default().body_secs.into()),
        traces: None,
        stopping: watch::channel(false).1,
        lost: Turns::new(LOST),
        ctx: opened.context,
    });
    Ok(router(app).layer(Extension(OverSocket)))
}

/// Where the database of `serve` is, only its configuration says.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not of `procura dev`, and nobody answers at its socket: start `procura serve` and ask again, or, for the log, name its file with --config")]
pub struct NotRunning(PathBuf);

fn authority_of(folder: &Path) -> anyhow::Result<String> {
    let trust = std::fs::read(folder.join("trust.json")).with_context(|| format!("{} is not an authority's data folder", folder.display()))?;
    Ok(TrustFile::from_json(&trust)?.authority)
}

/// The log's name does not change with the port: an authority for development has one name.
fn origin(_url: &str) -> anyhow::Result<Origin> {
    Ok(writer::origin("http://procura.dev", &config::dev_tenant()?)?)
}

fn private_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Aside and renamed: a process that is killed leaves the whole file or none.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path)).with_context(|| format!("cannot write {}", path.display()))
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Until the server is to stop.
pub(crate) async fn until(mut stopping: watch::Receiver<bool>) {
    _ = stopping.wait_for(|stop| *stop).await;
}

fn rng() -> secret::Rng {
    Box::new(StdRng::from_os_rng())
}

/// What a folder of `dev` has and one of `serve` has not.
const PROVIDER_ADDRESS: &str = "provider-address";
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// For what is cut off to end.
const CUT_OFF: Duration = Duration::from_millis(500);
const LAST_WRITES: Duration = Duration::from_secs(5);
const LAST_TRACES: Duration = Duration::from_secs(2);
const LEAVES_AT_ONCE: u64 = 1024;
