//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// 0.5 s, twice as long each time, at most 30 s; each a quarter more or less, so that many
/// appliances behind one power cut do not come back at one instant.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failed: u32,
}

impl Backoff {
    /// The wait before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let plain = FIRST.saturating_mul(1 << self.failed.min(10)).min(LONGEST);
        self.failed = self.failed.saturating_add(1);
        // A fresh hasher is keyed at random.
        let random = RandomState::new().hash_one(self.failed) % 1000;
        let percent = 75 + u32::try_from(random).unwrap_or(0) / 20;
        plain * percent / 100
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_half_a_second_to_half_a_minute_and_begin_anew() {
        let mut backoff = Backoff::default();
        for plain_ms in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            let ms = backoff.next().as_millis();
            assert!((plain_ms * 3 / 4..=plain_ms * 5 / 4).contains(&ms), "{ms}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(625));
    }
}
