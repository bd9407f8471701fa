//! Turns at something costly that strangers may ask for: few at a time, and of one client a few that wait.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// On whose behalf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Client {
    /// This process's own, or an operator's over the socket.
    Ours,
    /// Whoever is at this address; of IPv6 at this network, since one machine has all of it. A proxy is one client.
    At(IpAddr),
}

impl Client {
    /// The client behind a connection; none for the socket in the folder.
    pub fn of(peer: Option<IpAddr>) -> Self {
        match peer.map(|ip| ip.to_canonical()) {
            None => Self::Ours,
            Some(IpAddr::V6(ip)) => Self::At(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()),
            Some(ip) => Self::At(ip),
        }
    }
}

/// How many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Under way at once.
    pub at_once: usize,
    /// Waiting and under way, of strangers together.
    pub waiting: usize,
    /// The same of one client.
    pub of_one: usize,
}

/// Too many wait, or too many of this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many ask for the same kind of work at once, try again")]
pub struct Crowded;

/// Who works and who waits. Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    work: Arc<Semaphore>,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    taken: usize,
    of: HashMap<IpAddr, usize>,
}

/// A place among those who wait; given back when dropped.
struct Seat(Turns, IpAddr);

/// The right to work, until it is dropped. It goes where the work goes: whoever stops waiting for the answer does not free it.
pub struct Turn {
    _seat: Option<Seat>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.0.seats();
        seats.taken = seats.taken.saturating_sub(1);
        if let Some(held) = seats.of.get_mut(&self.1) {
            *held -= 1;
            if *held == 0 {
                seats.of.remove(&self.1);
            }
        }
    }
}

impl Turns {
    /// Nobody waits yet.
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner { bounds, work: Arc::new(Semaphore::new(bounds.at_once)), seats: Mutex::default() }))
    }

    /// Waits for a turn, in the order of asking. Refused at once where too many wait; what is ours is never refused.
    pub async fn take(&self, client: Client) -> Result<Turn, Crowded> {
        let seat = match client {
            Client::Ours => None,
            Client::At(ip) => {
                let mut seats = self.seats();
                let of_one = seats.of.get(&ip).copied().unwrap_or(0);
                if seats.taken >= self.0.bounds.waiting || of_one >= self.0.bounds.of_one {
                    return Err(Crowded);
                }
                seats.taken += 1;
                seats.of.insert(ip, of_one + 1);
                drop(seats);
                Some(Seat(self.clone(), ip))
            }
        };
        // Never closed.
        let permit = Arc::clone(&self.0.work).acquire_owned().await.map_err(|_| Crowded)?;
        Ok(Turn { _seat: seat, _permit: permit })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Client {
        Client::of(Some(text.parse().unwrap()))
    }

    #[test]
    fn one_machine_is_one_client_whatever_address_it_takes() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(Client::of(None), Client::Ours);
    }

    #[tokio::test]
    async fn few_work_few_wait_and_one_client_is_not_all_of_them() {
        let turns = Turns::new(Bounds { at_once: 1, waiting: 3, of_one: 2 });
        let (one, other, third) = (at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3"));
        let working = turns.take(one).await.unwrap();
        let waits = turns.take(one);
        tokio::pin!(waits);
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        assert_eq!(turns.take(one).await.err(), Some(Crowded), "a third of one client");
        let others = turns.take(other);
        tokio::pin!(others);
        assert!(futures_util::poll!(others.as_mut()).is_pending(), "another's waits");
        assert_eq!(turns.take(third).await.err(), Some(Crowded), "all seats are taken");
        let ours = turns.take(Client::Ours);
        tokio::pin!(ours);
        assert!(futures_util::poll!(ours.as_mut()).is_pending(), "ours is never refused");
        drop(working);
        let second = waits.await.unwrap();
        assert!(futures_util::poll!(others.as_mut()).is_pending());
        drop(second);
        drop(others.await.unwrap());
        drop(ours.await.unwrap());
        assert!(turns.seats().of.is_empty() && turns.seats().taken == 0, "whoever has gone is forgotten");
    }

    #[tokio::test]
    async fn who_stops_waiting_gives_the_seat_back_and_who_works_does_not() {
        let turns = Turns::new(Bounds { at_once: 1, waiting: 2, of_one: 2 });
        let one = at("192.0.2.1");
        let working = turns.take(one).await.unwrap();
        {
            let gone = turns.take(one);
            tokio::pin!(gone);
            assert!(futures_util::poll!(gone.as_mut()).is_pending());
            assert_eq!(turns.take(one).await.err(), Some(Crowded));
        }
        let waits = turns.take(one);
        tokio::pin!(waits);
        assert!(futures_util::poll!(waits.as_mut()).is_pending(), "the seat is free, the work is not");
        drop(working);
        waits.await.unwrap();
    }
}
