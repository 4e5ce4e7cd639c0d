//! When to subscribe to commands: at once, unless that has cost the connection again and again.
//!
//! A broker may close the connection of whoever may not subscribe, and a message that is larger than
//! the client takes ends it too; a retained one would do so for ever. Triggers are worth more than
//! commands: after [`STRIKES`] such losses the next connections publish for a while before they
//! subscribe, longer each time.

use std::time::Duration;

use tokio::time::Instant;

/// A connection that ends this soon after it subscribed may have ended because of it.
const SOON: Duration = Duration::from_secs(3);
/// Losses in a row before it is believed.
const STRIKES: u32 = 3;
/// The first time without commands, doubled each time, …
const SILENCE: Duration = Duration::from_secs(60);
/// … and the longest.
const LONGEST: Duration = Duration::from_secs(3600);

/// What the connections so far have taught.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    strikes: u32,
}

/// What is to be done next on a connection, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Subscribe.
    Subscribe(Instant),
    /// It has lasted: all is well.
    Well(Instant),
    /// Nothing.
    Nothing,
}

impl Next {
    /// When.
    pub fn at(self) -> Option<Instant> {
        match self {
            Self::Subscribe(at) | Self::Well(at) => Some(at),
            Self::Nothing => None,
        }
    }
}

impl Hearing {
    /// On a connection that has just come up.
    pub fn begin(&self, now: Instant) -> Next {
        Next::Subscribe(now + self.silence())
    }

    /// It has just subscribed.
    pub fn subscribed(now: Instant) -> Next {
        Next::Well(now + SOON)
    }

    /// The subscription has lasted, or something was heard.
    pub fn well(&mut self) {
        self.strikes = 0;
    }

    /// The connection is lost. True if commands are given up for a while.
    pub fn lost(&mut self, next: Next) -> bool {
        if matches!(next, Next::Well(_)) {
            self.strikes = self.strikes.saturating_add(1);
        }
        !self.silence().is_zero()
    }

    /// Whether commands are not heard for now.
    pub fn is_off(&self) -> bool {
        !self.silence().is_zero()
    }

    fn silence(&self) -> Duration {
        match self.strikes.checked_sub(STRIKES) {
            None => Duration::ZERO,
            Some(more) => (SILENCE * 2_u32.saturating_pow(more.min(10))).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_loses_every_connection_by_subscribing_publishes_in_between_and_longer_each_time() {
        let mut hearing = Hearing::default();
        let now = Instant::now();
        let waits: Vec<u64> = (0..12)
            .map(|_| {
                let wait = hearing.begin(now).at().unwrap() - now;
                hearing.lost(Hearing::subscribed(now + wait));
                wait.as_secs()
            })
            .collect();
        assert_eq!(
            waits,
            [0, 0, 0, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        );
        assert!(hearing.is_off());
        // A loss before it subscribed says nothing, one that lasted says all is well.
        let before = hearing.begin(now);
        assert!(hearing.lost(before));
        assert_eq!(hearing.begin(now), before);
        hearing.well();
        assert_eq!(hearing.begin(now), Next::Subscribe(now));
        assert!(!hearing.is_off());
    }
}
