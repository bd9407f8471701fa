//! How often one client may come to a costly door: token buckets, bounded in number.
//!
//! A bucket is one time (GCRA): until when it is used up. One that is full again says nothing and is forgotten first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use procura_verifier::ids::{AgentId, BootTime, HumanId, VerifierId};

use super::trail::Client;
use super::{ApiError, AppState};
use crate::config::Limits;
use crate::listen::proxy::household;
use crate::metrics::Metrics;

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// Pages and answers of signing in.
    SignIn,
    /// Tokens and cards.
    Mint,
    /// Pulls of the feed's head.
    Head,
    /// What else of the feed is pulled.
    Tail,
    /// Streams opened.
    Stream,
    /// What verifiers deliver.
    Deliver,
    /// What people ask who are signed in.
    Person,
    /// Everything else.
    Other,
}

/// Whose limit it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Who {
    /// A client address; of IPv6 its /64.
    Address(IpAddr),
    /// Who is signed in.
    Human(HumanId),
    /// Whose assertion was verified.
    Agent(AgentId),
    /// Whose sign-in was verified.
    Verifier(VerifierId),
}

/// The buckets of all doors.
pub struct Rates {
    doors: Option<Vec<(Door, Bucket, Mutex<Table>)>>,
    metrics: Arc<Metrics>,
}

/// Microseconds for one request, and how far ahead of the clock a bucket may be.
#[derive(Clone, Copy)]
struct Bucket {
    address_us: u64,
    known_us: u64,
}

#[derive(Default)]
struct Table {
    used_up_until: HashMap<Who, u64>,
    /// Of all for whom there was no room.
    others: u64,
    swept: u64,
}

impl Rates {
    /// As configured.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let each = |per_second: u32| 1_000_000 / u64::from(per_second.clamp(1, 1_000_000));
        let door = |door, address: u32, known: u32| (door, Bucket { address_us: each(address), known_us: each(known) }, Mutex::default());
        let l = limits;
        let doors = vec![
            door(Door::SignIn, l.sign_in_per_second, l.sign_in_per_second),
            door(Door::Mint, l.mint_per_second, l.mint_per_agent_per_second),
            door(Door::Head, l.head_per_second, l.head_per_second),
            door(Door::Tail, l.tail_per_second, l.tail_per_second),
            door(Door::Stream, l.stream_per_second, l.stream_per_verifier_per_second),
            door(Door::Deliver, l.deliver_per_second, l.deliver_per_second),
            door(Door::Person, l.person_per_second, l.person_per_second),
            door(Door::Other, l.other_per_second, l.other_per_second),
        ];
        Self { doors: Some(doors), metrics }
    }

    /// No limits: for an authority that only this machine reaches.
    pub const fn none(metrics: Arc<Metrics>) -> Self {
        Self { doors: None, metrics }
    }

    /// Takes one from the bucket, or says when there is one again.
    pub fn take(&self, door: Door, who: Who, now: BootTime) -> Result<(), ApiError> {
        let Some((_, bucket, table)) = self.doors.iter().flatten().find(|(d, ..)| *d == door) else { return Ok(()) };
        let (who, each_us, per) = match who {
            Who::Address(address) => (Who::Address(household(address)), bucket.address_us, "address"),
            Who::Human(_) => (who, bucket.known_us, "human"),
            Who::Agent(_) => (who, bucket.known_us, "agent"),
            Who::Verifier(_) => (who, bucket.known_us, "verifier"),
        };
        let waits = table.lock().unwrap_or_else(PoisonError::into_inner).take(who, each_us, now.0);
        waits.map_err(|us| {
            self.metrics.http.limited(door.word(), per);
            ApiError::too_many(us.div_ceil(1_000_000))
        })
    }
}

impl Table {
    /// Microseconds to wait, if there is none.
    fn take(&mut self, who: Who, each_us: u64, now: u64) -> Result<(), u64> {
        if self.used_up_until.len() >= MAX_CLIENTS && !self.used_up_until.contains_key(&who) && now.saturating_sub(self.swept) >= SWEEP_EVERY_US {
            self.swept = now;
            self.used_up_until.retain(|_, until| *until > now);
        }
        let until = if self.used_up_until.len() < MAX_CLIENTS || self.used_up_until.contains_key(&who) {
            self.used_up_until.entry(who).or_default()
        } else {
            &mut self.others
        };
        let next = (*until).max(now) + each_us;
        // Two seconds' worth at once, and always one.
        let most = now + BURST_US.max(each_us);
        if next > most {
            return Err(next - most);
        }
        *until = next;
        Ok(())
    }
}

impl Door {
    const fn word(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::Mint => "mint",
            Self::Head => "head",
            Self::Tail => "tail",
            Self::Stream => "stream",
            Self::Deliver => "deliver",
            Self::Person => "person",
            Self::Other => "other",
        }
    }

    /// The door that a route is, by its place in the route table.
    fn of(route: &str, method: &Method) -> Self {
        match route {
            "/v1/token" | "/v1/card" => Self::Mint,
            "/v1/feed/head" => Self::Head,
            "/v1/feed/tail" | "/v1/feed/snapshot" | "/v1/feed/segment/{sha256}" | "/v1/feed/lost" => Self::Tail,
            "/v1/keys" if method == Method::GET => Self::Tail,
            "/v1/feed" => Self::Stream,
            "/v1/feed/acks" | "/v1/receipts" => Self::Deliver,
            "/logout" | "/oidc/callback" => Self::SignIn,
            sign_in if sign_in.starts_with("/login") || sign_in.contains("/device") => Self::SignIn,
            _ => Self::Other,
        }
    }
}

/// Limits each client address before anything is read of a request. What comes over the folder's socket has no address.
pub(super) async fn limited(State(app): State<AppState>, request: Request, next: Next) -> Result<Response, ApiError> {
    if let Some(Client(Some(address))) = request.extensions().get() {
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        app.rates.take(Door::of(route, request.method()), Who::Address(*address), app.ctx.clock.boot())?;
    }
    Ok(next.run(request).await)
}

/// Most buckets of one door: 64 bytes each. Beyond, newcomers share one until some are full again.
const MAX_CLIENTS: usize = 65_536;
const SWEEP_EVERY_US: u64 = 1_000_000;
const BURST_US: u64 = 2_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> Who {
        Who::Address(IpAddr::V4(n.into()))
    }

    #[test]
    fn a_bucket_gives_twice_its_rate_at_once_and_then_its_rate() {
        let mut table = Table::default();
        let each = 50_000;
        let taken = (0..100).filter(|_| table.take(address(1), each, 7).is_ok()).count();
        assert_eq!(taken, 40, "two seconds' worth of 20/s");
        assert_eq!(table.take(address(1), each, 7), Err(50_000));
        assert_eq!(table.take(address(1), each, 50_006), Err(1));
        table.take(address(1), each, 50_007).unwrap();
        table.take(address(2), each, 7).unwrap();
        // For a minute at its rate, and none is refused.
        assert!((0..1200_u64).all(|n| table.take(address(3), each, 7 + n * each).is_ok()));
        // One in ten seconds is still one.
        table.take(address(4), 10_000_000, 0).unwrap();
        assert_eq!(table.take(address(4), 10_000_000, 0), Err(10_000_000));
    }

    #[test]
    fn a_flood_of_addresses_takes_no_memory_and_nobodys_bucket() {
        let mut table = Table::default();
        let each = 1_000_000;
        table.take(address(0), each, 1).unwrap();
        table.take(address(0), each, 1).unwrap();
        let flood = (1..1_000_000).filter(|n| table.take(address(*n), each, 1).is_ok()).count();
        assert!(table.used_up_until.len() <= MAX_CLIENTS && flood < MAX_CLIENTS + 2, "{flood}");
        assert!(table.take(address(0), each, 1).is_err(), "kept through the flood");
        // When the flood's buckets are full again they make room.
        let later = 3_000_000;
        table.take(address(5_000_000), each, later).unwrap();
        assert_eq!(table.used_up_until.len(), 1);
    }
}
