//! Places that each household may take a bounded number of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::address::household;

/// Counts what is held by household: an IPv4 address, or an IPv6 /56. It remembers those alone that hold something.
#[derive(Debug, Clone, Default)]
pub struct Households {
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One place among those of a household; given back when dropped.
#[derive(Debug)]
pub struct Held {
    of: IpAddr,
    households: Households,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.households.lock();
        if let Some(count) = held.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.of);
            }
        }
    }
}

impl Households {
    /// How many places this address's household holds.
    pub fn count(&self, address: IpAddr) -> usize {
        self.lock().get(&household(address)).copied().unwrap_or(0)
    }

    /// A place for this address; `None` where its household holds `most` already.
    pub fn place(&self, address: IpAddr, most: usize) -> Option<Held> {
        let of = household(address);
        let mut held = self.lock();
        let count = held.get(&of).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        held.insert(of, count + 1);
        Some(Held { of, households: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_holds_so_many_places_and_gives_them_back() {
        let households = Households::default();
        let place = |from: &str| households.place(from.parse().expect("an address"), 2);
        let (one, two) = (place("2001:db8:0:ff00::1"), place("2001:db8:0:ff01::2"));
        assert!(one.is_some() && two.is_some());
        assert!(place("2001:db8:0:ff02::3").is_none());
        assert!(place("192.0.2.1").is_some() && place("::ffff:192.0.2.1").is_some());
        drop(one);
        assert!(place("2001:db8:0:ff02::3").is_some());
        drop(two);
        assert!(households.lock().is_empty());
    }
}
