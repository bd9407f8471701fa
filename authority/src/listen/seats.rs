//! So many connections for each client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::proxy::household;

/// Who holds how many. No larger than there are connections.
pub(super) struct Seats {
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place for one connection; given back when dropped.
pub(super) struct Seat(Arc<Mutex<HashMap<IpAddr, usize>>>, IpAddr);

impl Seats {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    pub(super) fn take(&self, client: IpAddr) -> Option<Seat> {
        let client = household(client);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat(Arc::clone(&self.taken), client))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_and_another_its_own() {
        let seats = Seats::new(2);
        let [a, b, of_a]: [IpAddr; 3] = ["2001:db8::1", "2001:db8:0:1::1", "2001:db8::2"].map(|t| t.parse().unwrap());
        let held = [seats.take(a), seats.take(of_a)];
        assert!(held.iter().all(Option::is_some) && seats.take(a).is_none() && seats.take(b).is_some());
        drop(held);
        assert!(seats.take(a).is_some() && seats.taken.lock().unwrap().is_empty());
    }
}
