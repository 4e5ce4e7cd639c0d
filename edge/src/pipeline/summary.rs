//! What a run came to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visualpath_core::DropReason;
use visualpath_mqtt::Summary;
use visualpath_mqtt::payload::ClipCounts;
use visualpath_platform::{FlowStats, LaneStats};

use super::capture::CaptureStats;
use super::events::Counts;

/// Where the numbers come from.
pub struct Parts<'a> {
    /// The source's counters.
    pub capture: &'a CaptureStats,
    /// The path thread's counters.
    pub flow: &'a FlowStats,
    /// The events thread's counters.
    pub counts: &'a Counts,
    /// Events the broker did not acknowledge.
    pub undelivered: u64,
    /// Wall time of the run, start-up included.
    pub wall: Duration,
    /// CPU time of this process and its children.
    pub cpu_s: f64,
}

/// Adds the numbers up.
pub fn summary(parts: &Parts<'_>) -> Summary {
    let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
    let mut dropped = BTreeMap::new();
    let mut drop = |reason: &str, n: u64| {
        if n > 0 {
            *dropped.entry(reason.to_owned()).or_insert(0) += n;
        }
    };
    drop("pool_exhausted", read(&parts.capture.pool_exhausted));
    drop("undecodable", read(&parts.capture.undecodable));
    drop("path_busy", read(&parts.capture.path_busy));
    for (_, lane) in &parts.flow.lanes {
        for reason in [
            DropReason::QueueFull,
            DropReason::WorkerHeld,
            DropReason::Stopping,
            DropReason::Dependency,
        ] {
            drop(reason.as_str(), read(lane.dropped(reason)));
        }
    }
    let frames = read(&parts.capture.frames);
    let wall_s = parts.wall.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let fps = if wall_s > 0.0 {
        frames as f64 / wall_s
    } else {
        0.0
    };
    let of = |count: fn(&LaneStats) -> u64| -> BTreeMap<String, u64> {
        let all = parts
            .flow
            .lanes
            .iter()
            .map(|(name, lane)| (name.to_string(), count(lane)));
        all.filter(|(_, n)| *n > 0).collect()
    };
    Summary {
        frames,
        fps,
        dropped,
        triggers: read(&parts.counts.triggers),
        clips: ClipCounts {
            ready: read(&parts.counts.ready),
            failed: read(&parts.counts.failed),
        },
        observations: parts
            .flow
            .lanes
            .iter()
            .map(|(name, lane)| (name.to_string(), read(&lane.observed)))
            .collect(),
        failed: of(|l| l.failed.load(Ordering::Relaxed)),
        timed_out: of(|l| l.timed_out.load(Ordering::Relaxed)),
        late: of(|l| l.late.load(Ordering::Relaxed)),
        evidence_lost: read(&parts.capture.encoder_busy) + read(&parts.capture.no_evidence),
        wall_s,
        cpu_s: parts.cpu_s,
        events_undelivered: parts.undelivered + read(&parts.counts.refused),
    }
}

/// CPU seconds, user and system, of this process and the children it has waited for; 0 where
/// /proc does not say.
pub fn cpu_seconds() -> f64 {
    // proc(5): fields 14 to 17, after the command name in parentheses, in clock ticks of 1/100 s
    // (USER_HZ is 100 on every architecture this is built for).
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return 0.0;
    };
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    let ticks: f64 = rest
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}
