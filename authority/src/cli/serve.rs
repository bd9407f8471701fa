//! `procura serve`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, FirstStart, Running};
use crate::config::{Config, ConfigError, Redis};
use crate::listen::tls::{Certificates, TlsError};
use crate::oidc::relying_party::DiscoverError;
use crate::signer::file::{FileSigner, KeyFileError};
use crate::store::StoreError;
use crate::store::postgres::OpenError;
use crate::telemetry;

/// What `procura serve` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration, TOML; `PROCURA_SECTION__FIELD` overrides a field of it
    #[arg(long)]
    config: PathBuf,
    /// Print the settings in effect, without secrets, and what weakens a promise; then end. 0: valid, 2: not valid
    #[arg(long)]
    check: bool,
    /// With --check: 1 if something weakens a promise
    #[arg(long, requires = "check")]
    strict: bool,
    /// On a new database: make the service keys and a single anchor beside them. Who takes the one takes the other:
    /// for tests and small sites
    #[arg(long)]
    init_single_anchor: bool,
    /// Say where it serves as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command until it is asked to end. 0: ended as asked; 1: it cannot run, or was asked twice; 2: the configuration
/// is wrong; 3: what it needs is not there just now.
pub async fn run(args: &Args) -> anyhow::Result<u8> {
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let ran = match Config::load(&args.config, environment) {
        Ok(config) if args.check => check(args, &config),
        Ok(config) => serve(args, &config).await,
        Err(e) => Err(e.into()),
    };
    ran.or_else(|e| {
        eprintln!("procura: {e:#}");
        Ok(exit_code(&e))
    })
}

fn check(args: &Args, config: &Config) -> anyhow::Result<u8> {
    // What a start would read, as far as it is there.
    config.issuer()?;
    config.redis.as_ref().map(Redis::transport).transpose()?;
    config.tls.as_ref().map(Certificates::load).transpose()?;
    if let Err(e @ KeyFileError::Open { .. }) = FileSigner::load(&config.keys_folder()) {
        return Err(e.into());
    }
    let weaknesses = config.weaknesses()?;
    println!("{}", serde_json::to_string_pretty(&json!({ "settings": config.effective()?, "weakens": weaknesses }))?);
    Ok(u8::from(args.strict && !weaknesses.is_empty()))
}

async fn serve(args: &Args, config: &Config) -> anyhow::Result<u8> {
    telemetry::init(&config.log);
    // From here on a signal finds us, however long the start takes.
    let mut signals = Signals::new()?;
    let first = if args.init_single_anchor { FirstStart::SingleAnchor } else { FirstStart::SignedList };
    let running = tokio::select! {
        running = app::serve(config, first) => running?,
        () = signals.ended() => return Ok(0),
    };
    if args.json {
        println!("{}", running.welcome_json());
    } else {
        println!("Serving {} at {}.", config.server.public_url, running.url);
    }
    tell(&[NotifyState::Ready]);
    until_asked_to_end(&running, &mut signals).await;
    tell(&[NotifyState::Stopping]);
    tokio::select! {
        () = running.stop() => Ok(0),
        () = signals.ended() => {
            eprintln!("procura: asked to end twice: ended before everything under way was");
            Ok(1)
        }
    }
}

/// Reads the certificate again when asked to, and tells systemd's watchdog that the writer runs.
async fn until_asked_to_end(running: &Running, signals: &mut Signals) {
    let mut watchdog = tokio::time::interval(sd_notify::watchdog_enabled().map_or(NEVER, |within| within / 2));
    watchdog.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Signals { terminate, interrupt, reload } = signals;
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = reload.recv() => {
                if let Ok(now) = NotifyState::monotonic_usec_now() {
                    tell(&[NotifyState::Reloading, now]);
                }
                running.reload();
                tell(&[NotifyState::Ready]);
            }
            _ = watchdog.tick() => if running.is_well() {
                tell(&[NotifyState::Watchdog]);
            }
        }
    }
}

/// Whoever started us may listen; if nobody does, nothing is lost.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!(error = %e, "systemd was not told");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, reload: listen(SignalKind::hangup())? })
    }

    async fn ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn exit_code(e: &anyhow::Error) -> u8 {
    if e.is::<ConfigError>() || e.is::<TlsError>() || e.is::<KeyFileError>() || e.is::<DiscoverError>() {
        return 2;
    }
    let is_away = |e: &(dyn std::error::Error + 'static)| {
        matches!(e.downcast_ref(), Some(StoreError::Unavailable(_))) || matches!(e.downcast_ref(), Some(OpenError::Database(_)))
    };
    if e.chain().any(is_away) { 3 } else { 1 }
}

/// Until SIGTERM or Ctrl-C.
pub async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended,
        _ = terminate.recv() => Ok(()),
    }
}

const NEVER: Duration = Duration::from_secs(24 * 3600);
