//! `procura serve`: one replica of an authority, from a configuration.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::ids::{Clock, SystemClock};
use procura_verifier::key_list::{Anchors, UnverifiedKeyList};
use procura_verifier::trust::TrustFile;
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Assembly, Operation, Running, export, private_folder, write_whole};
use crate::config::{Config, DatabaseUrl};
use crate::feed::Feed;
use crate::feed::redis::RedisBus;
use crate::http::rates::Rates;
use crate::keys::proposal::Proposal;
use crate::listen::proxy::Proxies;
use crate::listen::tls::Certificates;
use crate::oidc::provider::Provider;
use crate::seal::SessionSecret;
use crate::signer::file::{AnchorFile, FileSigner};
use crate::signer::released::Released;
use crate::store::Store;
use crate::store::lock::FolderLock;
use crate::store::postgres::Postgres;
use crate::store::sqlite::Sqlite;
use crate::telemetry::Exporter;
use crate::usecase::bootstrap::{Start, Started, bootstrap};
use crate::usecase::recover::{Recovered, recover};
use crate::writer;

/// What a start on a database without a key list may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstStart {
    /// Take the signed list that the configuration names, or refuse.
    SignedList,
    /// Make the keys that are missing and a single anchor beside them, which signs the list: for tests and small sites.
    SingleAnchor,
}

/// Runs one replica. Settings that weaken a promise are said as warnings.
pub async fn serve(config: &Config, first: FirstStart) -> anyhow::Result<Running> {
    for weakness in config.weaknesses()? {
        tracing::warn!("{weakness}");
    }
    let folder = config.server.data.as_path();
    private_folder(folder)?;
    let lock = FolderLock::take(folder)?;
    let certificates = config.tls.as_ref().map(Certificates::load).transpose()?.map(Arc::new);
    let listener = bind(config.server.listen).await?;
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    let clock: Arc<dyn Clock> = crate::failpoint::clock();
    let opening = async {
        let (store, lock) = open_store(config, lock).await?;
        anyhow::Ok((open(config, first, store).await?, lock))
    };
    // It may be down: nothing but signing in waits for it, least of all a revocation.
    let finding = async { anyhow::Ok(Provider::seek(config.issuer()?, clock, Box::new(StdRng::from_os_rng())).await?) };
    let ((opened, lock), provider) = tokio::try_join!(opening, finding)?;
    carry_beside(config, &opened.context.feed)?;
    let (stop, stopping) = watch::channel(false);
    let public_url = config.server.public_url.as_str();
    let (context, limits) = (Arc::clone(&opened.context), config.limits.clone());
    let traces = config.traces.as_ref().map(Exporter::start).transpose()?;
    let operation = Operation {
        proxies: Proxies::from(config.proxies.as_ref()),
        rates: Rates::new(&limits, Arc::clone(&context.metrics)),
        limits: limits.clone(),
        certificates: certificates.clone(),
        traces: traces.clone(),
    };
    let assembly = Assembly { folder, url: public_url, listener, provider, operation, stopping };
    let servers = assembly.serve(opened)?;
    let last = Duration::from_secs(limits.stop_secs.into());
    Ok(Running { url, provider: config.issuer.url.clone(), folder: folder.to_owned(), stop, servers, context, last, certificates, traces, _lock: lock })
}

async fn bind(at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => anyhow!("server.listen: expected {at} to be free, but another process listens there"),
        _ => anyhow::Error::new(e).context(format!("server.listen: cannot listen on {at}")),
    })
}

/// Opens a new origin and a new epoch after the database was found older than its log. No replica may run.
pub async fn recover_served(config: &Config, reason: String) -> anyhow::Result<Recovered> {
    let lock = FolderLock::take(&config.server.data)?;
    let (store, _lock) = open_store(config, lock).await?;
    if store.key_list().await?.is_none() {
        bail!("the database has no key list: it is new, and nothing of the log is left to go on from");
    }
    let (start, _) = prepare(config, FirstStart::SignedList, store).await?;
    Ok(recover(start, reason).await?)
}

/// The whole log of a deployment of `serve` in whose data folder nobody runs, as [`super::export`] gives it. On PostgreSQL other
/// replicas may run. Nothing is made: neither keys nor a first key list.
pub async fn export_served(config: &Config) -> anyhow::Result<Vec<u8>> {
    if !config.server.data.exists() {
        bail!("there is no data folder {}: nothing was served from here", config.server.data.display());
    }
    let lock = FolderLock::take(&config.server.data)?;
    let (store, _lock) = open_store(config, lock).await?;
    if store.key_list().await?.is_none() {
        bail!("the database has no key list: it is new, and there is no log to export");
    }
    let ctx = open(config, FirstStart::SignedList, store).await?.context;
    export(&ctx, &ctx.writer.checkpoint()).await
}

/// The store, and the folder's lock where the store does not hold it.
async fn open_store(config: &Config, lock: FolderLock) -> anyhow::Result<(Arc<dyn Store>, Option<FolderLock>)> {
    let tenant = config.server.tenant.clone();
    Ok(match config.database_url()? {
        DatabaseUrl::Sqlite => (Arc::new(Sqlite::open_held(lock, &config.server.data, tenant).await?), None),
        DatabaseUrl::Postgres(url) => (Arc::new(Postgres::open(&url, tenant).await?), Some(lock)),
    })
}

/// Opens the keys, compares them with the key list in force, and writes the trust file.
async fn open(config: &Config, first: FirstStart, store: Arc<dyn Store>) -> anyhow::Result<Started> {
    let (start, list) = prepare(config, first, store).await?;
    let anchors = start.anchors.clone();
    let started = bootstrap(start, |_| list).await?;
    let trust = TrustFile { anchors, authority: config.server.public_url.clone(), tenant: config.server.tenant.clone(), key_list: started.key_list.clone() };
    write_whole(&config.server.data.join("trust.json"), &trust.to_json())?;
    Ok(started)
}

/// What a start needs, and the key list: the one in force, or for a new database the first.
async fn prepare(config: &Config, first: FirstStart, store: Arc<dyn Store>) -> anyhow::Result<(Start, UnverifiedKeyList)> {
    let folder = config.keys_folder();
    let mut rng = StdRng::from_os_rng();
    let stored = store.key_list().await?.map(|(_, bytes)| UnverifiedKeyList::from_bytes(&bytes)).transpose()?;
    let is_new = stored.is_none();
    if first == FirstStart::SingleAnchor && !config.keys.anchors.is_empty() {
        bail!("--init-single-anchor makes an anchor, but keys.anchors names others: expected one of the two");
    }
    let make = is_new && first == FirstStart::SingleAnchor;
    let anchor = if make { Some(AnchorFile::open(&folder, &mut rng)?) } else { AnchorFile::find(&folder)? };
    let anchors = match &anchor {
        _ if !config.keys.anchors.is_empty() => config.anchors()?,
        Some(anchor) => Anchors::new(vec![anchor.public()], 1)?,
        None => bail!(
            "nobody is named whose signature on a key list counts: name the anchors' public keys as `keys.anchors`, or start the first time with --init-single-anchor"
        ),
    };
    if let Some(stored) = &stored {
        // What is signed now would be older than the list it is signed under, and verifiers' time never falls (L7).
        let (issued, now) = (anchors.accept(stored, &config.server.tenant)?.payload().issued, crate::failpoint::clock().wall());
        if now.plus(CLOCK_SLACK_MS) < issued {
            bail!("this machine's clock says {now}, and the key list in force was issued {issued}: expected a clock that is not behind it");
        }
    }
    let signer = if make { FileSigner::open(&folder, &mut rng) } else { FileSigner::load(&folder) };
    let signer = Arc::new(signer.context("the service keys, which every replica has alike")?);
    let list = match (stored, &config.keys.first_list, &anchor) {
        (Some(stored), ..) => stored,
        (None, Some(path), _) => read_list(path)?,
        (None, None, Some(anchor)) if make => anchor.first_list(&signer, &config.server.tenant, SystemClock.wall(), config.server.max_ttl_secs),
        _ => bail!(
            "the database has no key list, so it is new or not the one that was served before. If it is new: `procura keys prepare`, let the anchors `procura keys sign`, name the file as `keys.first_list` and start again; or, with one anchor beside the service keys, start once with --init-single-anchor"
        ),
    };
    let start = Start {
        store,
        signer,
        anchors,
        clock: crate::failpoint::clock(),
        rngs: [Box::new(StdRng::from_os_rng()), Box::new(StdRng::from_os_rng())],
        session_secret: SessionSecret::open(&folder, &mut rng)?,
        released: Released::open(&config.server.data.join("released-checkpoint"))?,
        origin: writer::origin(&config.server.public_url, &config.server.tenant)?,
        grants: config.grants(),
    };
    Ok((start, list))
}

/// A signed key list: the file that `procura keys sign` writes, the list's bytes, or those as base64url.
fn read_list(path: &Path) -> anyhow::Result<UnverifiedKeyList> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read keys.first_list {}", path.display()))?;
    file.take(MAX_LIST_BYTES).read_to_end(&mut bytes)?;
    if let Ok(proposal) = Proposal::from_json(&bytes) {
        return Ok(proposal.list);
    }
    if let Ok(list) = UnverifiedKeyList::from_bytes(&bytes) {
        return Ok(list);
    }
    let decoded = std::str::from_utf8(&bytes).ok().and_then(|text| BASE64.decode(text.trim()).ok()).unwrap_or_default();
    UnverifiedKeyList::from_bytes(&decoded).with_context(|| format!("keys.first_list {} is not a signed key list", path.display()))
}

/// The other way of the feed, beside its streams: the one place where it is set going.
fn carry_beside(config: &Config, feed: &Feed) -> anyhow::Result<()> {
    if let Some(redis) = &config.redis {
        feed.carry_beside(Arc::new(RedisBus::start(&redis.transport()?, &config.server.tenant, Box::new(StdRng::from_os_rng()))?));
    }
    Ok(())
}

const CLOCK_SLACK_MS: u64 = 60_000;
const MAX_LIST_BYTES: u64 = 256 * 1024;
