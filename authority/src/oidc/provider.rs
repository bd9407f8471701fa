//! The provider as the authority finds it: it may be down when the authority starts, and comes when it comes. Taking back,
//! minting and heartbeats do not wait for it; signing in does.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use procura_verifier::ids::Clock;
use tokio::time::{sleep, timeout};

use super::relying_party::{DiscoverError, IssuerConfig, LoginError, RelyingParty, Retry};
use crate::secret::Rng;

/// One provider, found or looked for. Cheap to clone; it is looked for until the last clone is gone.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

#[derive(Default)]
struct Inner {
    found: OnceLock<RelyingParty>,
    /// Why nobody can sign in at this moment, as far as it is known.
    trouble: Mutex<Option<String>>,
}

impl From<RelyingParty> for Provider {
    fn from(found: RelyingParty) -> Self {
        Self(Arc::new(Inner { found: OnceLock::from(found), trouble: Mutex::default() }))
    }
}

impl Provider {
    /// Asks the provider for its metadata; where it does not answer well within two seconds, asks again without end, with
    /// pauses that double to half a minute. An error is one of configuration: waiting would not mend it.
    pub async fn seek(config: IssuerConfig, clock: Arc<dyn Clock>, rng: Rng) -> Result<Self, DiscoverError> {
        let provider = Self(Arc::default());
        match timeout(FIRST_WAIT, discover(&config, &*clock)).await {
            Ok(Ok(found)) => return Ok(found.into()),
            Ok(Err(e @ DiscoverError::Config(..))) => return Err(e),
            Ok(Err(e @ DiscoverError::Provider(..))) => provider.trouble(&e.to_string()),
            Err(_) => provider.trouble(&format!("OpenID provider `{}`: no answer within {} s", config.issuer, FIRST_WAIT.as_secs())),
        }
        tokio::spawn(keep_seeking(Arc::downgrade(&provider.0), config, clock, rng));
        Ok(provider)
    }

    /// Our end towards it; none until it has answered once.
    pub fn relying_party(&self) -> Option<&RelyingParty> {
        self.0.found.get()
    }

    /// Why nobody can sign in, as one sentence; none if the last one who tried could, or nobody has since it was found.
    pub fn why_not(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came of a sign-in: whether the provider answers is seen by asking it, and by nothing else.
    pub(super) fn asked<T>(&self, outcome: &Result<T, LoginError>) {
        match outcome {
            Err(e @ LoginError::Unavailable(_)) => self.trouble(&e.to_string()),
            Ok(_) | Err(LoginError::Exchange(_)) => *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None,
            // Refused before it was asked.
            Err(_) => {}
        }
    }

    /// Said once for as long as it stays the same.
    fn trouble(&self, why: &str) {
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_deref() != Some(why) {
            tracing::warn!(error = why, "provider.unavailable");
            *trouble = Some(why.to_owned());
        }
    }
}

async fn discover(config: &IssuerConfig, clock: &dyn Clock) -> Result<RelyingParty, DiscoverError> {
    RelyingParty::discover(config.clone(), clock.wall(), Retry { tries: 1, pause: Duration::ZERO }).await
}

async fn keep_seeking(inner: Weak<Inner>, config: IssuerConfig, clock: Arc<dyn Clock>, mut rng: Rng) {
    let mut pause = FIRST_PAUSE;
    loop {
        let half = pause / 2;
        sleep(half + half.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        if inner.strong_count() == 0 {
            return;
        }
        let answer = discover(&config, &*clock).await;
        let Some(provider) = inner.upgrade().map(Provider) else { return };
        match answer {
            Ok(found) => {
                // Set here alone.
                let _ = provider.0.found.set(found);
                *provider.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                tracing::info!(issuer = config.issuer, "provider.found");
                return;
            }
            Err(e) => provider.trouble(&e.to_string()),
        }
    }
}

/// An authority that is started beside a provider that hangs is not held up by it.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
