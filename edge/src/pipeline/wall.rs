//! Wall time, attached at the edge: nothing inside the pipeline depends on it but rules that ask
//! for the time of day.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use visualpath_mqtt::payload::ClockQuality;

/// A wall clock that is off by more than this has been set; less is drift or a slow look at it.
const STEP: Duration = Duration::from_millis(500);

/// The wall time of one source's times: source time 0 is the moment the source began, at first.
/// When the machine's clock is set (a board without a battery learns the time after it booted),
/// the wall times of a live source follow; source times, durations and order never do.
#[derive(Debug)]
pub struct WallClock {
    /// Unix time of source time 0, nanoseconds.
    zero_ns: AtomicI64,
    /// Where it began, on both clocks.
    began: Mutex<(Instant, i64)>,
    live: bool,
}

impl WallClock {
    /// Source time 0 is now. One that is not `live` (a file read at its own speed) keeps what it
    /// began with.
    pub fn starting_now(live: bool) -> Self {
        Self::starting_at(Timestamp::now(), live)
    }

    /// Source time 0 was at `time`.
    pub fn starting_at(time: Timestamp, live: bool) -> Self {
        let zero_ns = unix_ns(time);
        Self {
            zero_ns: AtomicI64::new(zero_ns),
            began: Mutex::new((Instant::now(), zero_ns)),
            live,
        }
    }

    /// Goes on where `before` is.
    pub fn continuing(before: &Self, live: bool) -> Self {
        Self {
            zero_ns: AtomicI64::new(before.zero_ns.load(Ordering::Relaxed)),
            began: Mutex::new(before.began()),
            live,
        }
    }

    /// Wall time of a source time, nanoseconds since 1970 UTC.
    pub fn unix_ns(&self, t_ns: i64) -> i64 {
        self.zero_ns.load(Ordering::Relaxed).saturating_add(t_ns)
    }

    /// Wall time of a source time, whole microseconds.
    pub fn at(&self, t_ns: i64) -> Timestamp {
        let exact = Timestamp::UNIX_EPOCH
            .saturating_add(SignedDuration::from_nanos(self.unix_ns(t_ns)))
            .unwrap_or(Timestamp::UNIX_EPOCH);
        exact.round(jiff::Unit::Microsecond).unwrap_or(exact)
    }

    /// The source begins now, and not when it was made: models were loaded meanwhile. Of no effect
    /// on one that is not live.
    pub fn begin(&self) {
        if self.live {
            let zero_ns = unix_ns(Timestamp::now());
            self.zero_ns.store(zero_ns, Ordering::Relaxed);
            *self.began.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), zero_ns);
        }
    }

    fn began(&self) -> (Instant, i64) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Source time of now, for a source that goes on where an earlier one was.
    pub fn elapsed_ns(&self) -> i64 {
        i64::try_from(self.began().0.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// Looks at the machine's clock. True if it has been set since the last look.
    pub fn follow(&self) -> bool {
        self.live && self.follow_to(unix_ns(Timestamp::now()), self.elapsed_ns())
    }

    fn follow_to(&self, now_ns: i64, elapsed_ns: i64) -> bool {
        let zero_ns = now_ns.saturating_sub(elapsed_ns);
        let off = zero_ns.abs_diff(self.zero_ns.load(Ordering::Relaxed));
        let stepped = u128::from(off) > STEP.as_nanos();
        if stepped {
            self.zero_ns.store(zero_ns, Ordering::Relaxed);
        }
        stepped
    }

    /// Whether the machine says its clock is synchronised. systemd-timesyncd leaves this file once
    /// it has been; without that service the answer is a cautious no.
    pub fn quality() -> ClockQuality {
        ClockQuality {
            synced: Path::new("/run/systemd/timesync/synchronized").exists(),
            err_ms: None,
        }
    }
}

/// Nanoseconds since 1970; 2262 is far enough.
pub fn unix_ns(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// This boot's id; `unknown` where the kernel does not say.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_moves_wall_times_and_drift_does_not() {
        let wall = WallClock::starting_at(Timestamp::from_second(1000).unwrap(), true);
        let s = 1_000_000_000;
        assert!(!wall.follow_to(1010 * s + 400_000_000, 10 * s));
        assert_eq!(wall.unix_ns(5 * s), 1005 * s);
        assert!(wall.follow_to(1_700_000_020 * s, 20 * s));
        assert_eq!(wall.unix_ns(5 * s), 1_700_000_005 * s);
        assert!(!wall.follow_to(1_700_000_030 * s, 30 * s));
    }
}
