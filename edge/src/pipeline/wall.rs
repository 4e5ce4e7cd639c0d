//! Wall time, attached at the edge: nothing inside the pipeline depends on it.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use visualpath_mqtt::payload::ClockQuality;

/// The wall time of source times: source time 0 is the moment the run began. A clock step during
/// the run changes no message of that run; a file read faster than its own pace keeps its own time.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    zero: Timestamp,
}

impl WallClock {
    /// Source time 0 is now.
    pub fn starting_now() -> Self {
        Self {
            zero: Timestamp::now(),
        }
    }

    /// Source time 0 is `zero`: for recordings.
    pub fn starting_at(zero: Timestamp) -> Self {
        Self { zero }
    }

    /// Wall time of a source time, whole microseconds.
    pub fn at(&self, t_ns: i64) -> Timestamp {
        let exact = self
            .zero
            .saturating_add(SignedDuration::from_nanos(t_ns))
            .unwrap_or(self.zero);
        exact.round(jiff::Unit::Microsecond).unwrap_or(exact)
    }

    /// Whether the machine says its clock is synchronised. systemd-timesyncd leaves this file once
    /// it has been; without that service the answer is a cautious no.
    pub fn quality(&self) -> ClockQuality {
        ClockQuality {
            synced: Path::new("/run/systemd/timesync/synchronized").exists(),
            err_ms: None,
        }
    }
}

/// This boot's id; `unknown` where the kernel does not say.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}
