//! Places: who may be connected, and how often.
//!
//! A connection takes its place before anybody knows who asks; so silent strangers must not take
//! them all. Some places are for this machine alone (its watchdog, its proxy), and no other machine
//! has more than a few.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::server::Limits;

/// Connections from other machines, by machine.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere(BTreeMap<IpAddr, usize>);

impl Elsewhere {
    /// Whether one more from `peer` may come. This machine always may; all together are bounded.
    fn admits(&self, peer: IpAddr, limits: &Limits) -> bool {
        let Some(machine) = machine(peer) else {
            return true;
        };
        let all: usize = self.0.values().sum();
        let its = self.0.get(&machine).copied().unwrap_or(0);
        all < limits.connections.saturating_sub(limits.local) && its < limits.per_peer
    }

    fn come(&mut self, peer: IpAddr) {
        if let Some(machine) = machine(peer) {
            *self.0.entry(machine).or_insert(0) += 1;
        }
    }

    fn go(&mut self, peer: IpAddr) {
        let Some(machine) = machine(peer) else {
            return;
        };
        let its = self.0.get(&machine).copied().unwrap_or(0);
        match its.saturating_sub(1) {
            0 => drop(self.0.remove(&machine)),
            left => drop(self.0.insert(machine, left)),
        }
    }
}

/// Which machine that is; `None` for this one. With IPv6 one machine has a whole /64 of addresses.
fn machine(peer: IpAddr) -> Option<IpAddr> {
    match peer.to_canonical() {
        peer if peer.is_loopback() => None,
        IpAddr::V6(v6) => {
            let network = Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64);
            Some(IpAddr::V6(network))
        }
        v4 @ IpAddr::V4(_) => Some(v4),
    }
}

/// A connection's place; dropped, it is free.
pub(crate) struct Place {
    peer: IpAddr,
    elsewhere: Arc<Mutex<Elsewhere>>,
    _slot: OwnedSemaphorePermit,
}

impl Place {
    /// A place for `peer`, out of `slot`; `None` if it has too many, or all that are not reserved
    /// are taken.
    pub fn take(
        peer: IpAddr,
        slot: OwnedSemaphorePermit,
        elsewhere: &Arc<Mutex<Elsewhere>>,
        limits: &Limits,
    ) -> Option<Self> {
        let mut there = lock(elsewhere);
        if !there.admits(peer, limits) {
            return None;
        }
        there.come(peer);
        Some(Self {
            peer,
            elsewhere: Arc::clone(elsewhere),
            _slot: slot,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.elsewhere).go(self.peer);
    }
}

fn lock(elsewhere: &Mutex<Elsewhere>) -> MutexGuard<'_, Elsewhere> {
    elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::DEFAULT;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// How many of these are let in, in this order.
    fn let_in(there: &mut Elsewhere, peers: impl Iterator<Item = IpAddr>) -> usize {
        let mut n = 0;
        for peer in peers {
            if there.admits(peer, &LIMITS) {
                there.come(peer);
                n += 1;
            }
        }
        n
    }

    #[test]
    fn however_many_strangers_come_this_machine_has_places_left() {
        let mut there = Elsewhere::default();
        let crowd = (0..200).map(|n| ip(&format!("192.168.1.{n}")));
        let n = let_in(&mut there, crowd);
        assert_eq!(n, LIMITS.connections - LIMITS.local);
        assert!(n + 8 <= LIMITS.connections, "eight are left");
        assert!(!there.admits(ip("10.0.0.1"), &LIMITS));
        for here in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert!(there.admits(ip(here), &LIMITS), "{here}");
        }
        there.go(ip("192.168.1.0"));
        assert!(there.admits(ip("10.0.0.1"), &LIMITS), "one went");
    }

    #[test]
    fn no_other_machine_takes_the_places_of_the_others() {
        let many = |text: &str| std::iter::repeat_n(ip(text), 100);
        let mut there = Elsewhere::default();
        assert_eq!(let_in(&mut there, many("192.168.1.5")), LIMITS.per_peer);
        // The same machine, seen by a socket that listens on IPv6.
        assert_eq!(let_in(&mut there, many("::ffff:192.168.1.5")), 0);
        assert_eq!(let_in(&mut there, many("192.168.1.6")), LIMITS.per_peer);
        let mut there = Elsewhere::default();
        let own_network = (0..100).map(|n| ip(&format!("2001:db8::{n:x}")));
        assert_eq!(let_in(&mut there, own_network), LIMITS.per_peer);
        assert!(there.admits(ip("2001:db8:0:1::1"), &LIMITS));
        assert_eq!(let_in(&mut Elsewhere::default(), many("::1")), 100);
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let mut there = Elsewhere::default();
        for n in 0..=255 {
            there.come(ip(&format!("10.0.0.{n}")));
            there.go(ip(&format!("10.0.0.{n}")));
        }
        // What never came.
        there.go(ip("10.0.0.1"));
        assert!(there.0.is_empty());
    }
}
