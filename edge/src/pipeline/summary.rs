//! What a run came to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visualpath_core::DropReason;
use visualpath_mqtt::Summary;
use visualpath_mqtt::payload::{ClipCounts, SourceSummary};
use visualpath_platform::Skip;

use super::capture::CaptureStats;
use super::events::Counts;
use super::line::LineStats;

/// Where the numbers come from.
pub struct Parts<'a> {
    /// The sources' counters, also of those that have gone.
    pub lines: &'a [LineStats],
    /// The events thread's counters.
    pub counts: &'a Counts,
    /// Events the broker did not acknowledge.
    pub undelivered: u64,
    /// Wall time of the run, start-up included.
    pub wall: Duration,
    /// CPU time of this process and its children.
    pub cpu_s: f64,
}

type ByName = BTreeMap<String, u64>;

fn add(map: &mut ByName, key: &str, n: u64) {
    if n > 0 {
        *map.entry(key.to_owned()).or_insert(0) += n;
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Adds the numbers up.
pub fn summary(parts: &Parts<'_>) -> Summary {
    let mut sources: BTreeMap<String, SourceSummary> = BTreeMap::new();
    let (mut failed, mut timed_out, mut late) = (ByName::new(), ByName::new(), ByName::new());
    let mut evidence_lost = 0;
    for line in parts.lines {
        source(line, sources.entry(line.source.to_string()).or_default());
        for (name, lane) in line.flow.lanes() {
            add(&mut failed, name.as_str(), read(&lane.failed));
            add(&mut timed_out, name.as_str(), read(&lane.timed_out));
            add(&mut late, name.as_str(), read(&lane.late));
        }
        evidence_lost += read(&line.capture.encoder_busy) + read(&line.capture.no_evidence);
    }
    let (mut dropped, mut observations) = (ByName::new(), ByName::new());
    for source in sources.values() {
        for (reason, n) in &source.dropped {
            add(&mut dropped, reason, *n);
        }
        for (name, n) in &source.observations {
            *observations.entry(name.clone()).or_insert(0) += n;
        }
    }
    let frames = sources.values().map(|s| s.frames).sum();
    let wall_s = parts.wall.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let fps = if wall_s > 0.0 {
        frames as f64 / wall_s
    } else {
        0.0
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
        observations,
        sources,
        failed,
        timed_out,
        late,
        evidence_lost,
        wall_s,
        cpu_s: parts.cpu_s,
        events_undelivered: parts.undelivered + read(&parts.counts.refused),
    }
}

/// Why an admitted frame may not reach its extractor.
pub const DROPS: [DropReason; 4] = [
    DropReason::QueueFull,
    DropReason::WorkerHeld,
    DropReason::Stopping,
    DropReason::Dependency,
];

/// Pictures lost before any extractor, by reason.
pub fn capture_drops(capture: &CaptureStats) -> [(&'static str, u64); 6] {
    [
        ("pool_exhausted", read(&capture.pool_exhausted)),
        ("undecodable", read(&capture.undecodable)),
        ("driver_error", read(&capture.driver_error)),
        ("missed", read(&capture.missed)),
        ("disconnected", read(&capture.disconnected)),
        ("path_busy", read(&capture.path_busy)),
    ]
}

/// Adds one line's numbers to those of its source (a source that was restarted had several lines).
fn source(line: &LineStats, sum: &mut SourceSummary) {
    let capture = &line.capture;
    sum.frames += read(&capture.frames);
    for (reason, n) in capture_drops(capture) {
        add(&mut sum.dropped, reason, n);
    }
    for (name, lane) in line.flow.lanes() {
        for reason in DROPS {
            add(
                &mut sum.dropped,
                reason.as_str(),
                read(lane.dropped(reason)),
            );
        }
        *sum.observations.entry(name.to_string()).or_insert(0) += read(&lane.observed);
        *sum.busy_ms.entry(name.to_string()).or_insert(0) += read(&lane.busy_ns) / 1_000_000;
        let skipped = sum.skipped.entry(name.to_string()).or_default();
        for (why, n) in [
            (Skip::Rate, &lane.skipped),
            (Skip::Gate, &lane.skipped_gate),
            (Skip::Dependency, &lane.skipped_dependency),
        ] {
            add(skipped, why.as_str(), read(n));
        }
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
