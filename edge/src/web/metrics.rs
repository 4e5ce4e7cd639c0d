//! Every metric, in one table; `docs/reference/metrics.md` is made from it.

use std::collections::BTreeMap;

use super::text::Text;
use crate::pipeline::live::Latencies;
use crate::pipeline::status::{SourceState, Status};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name; units are base units.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it counts.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Up, from 0 when the process begins.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word in the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        help,
        labels,
    }
}

use Kind::{Counter, Gauge, Histogram};

const CAPTURED: Metric = metric(
    "visualpath_frames_captured_total",
    Counter,
    &["source"],
    "Frames captured.",
);
const DROPPED: Metric = metric(
    "visualpath_frames_dropped_total",
    Counter,
    &["source", "extractor", "reason"],
    "Frames that did not reach an extractor; with an empty extractor, any.",
);
const ONLINE: Metric = metric(
    "visualpath_source_online",
    Gauge,
    &["source"],
    "1 while a source gives frames.",
);
const LATENCY: Metric = metric(
    "visualpath_trigger_latency_seconds",
    Histogram,
    &["path"],
    "From a frame's arrival to the trigger it caused.",
);
const TRIGGERS: Metric = metric(
    "visualpath_triggers_total",
    Counter,
    &["path", "label"],
    "Triggers fired; a RANGE counts once.",
);
const UP: Metric = metric(
    "visualpath_worker_up",
    Gauge,
    &["extractor", "source"],
    "1 while an extractor answers; 0 while it restarts or is held.",
);
const RESTARTS: Metric = metric(
    "visualpath_worker_restarts_total",
    Counter,
    &["extractor", "source", "reason"],
    "How often an extractor's process was started again; the reason is in the log and in health.",
);
const CLIPS: Metric = metric(
    "visualpath_clips_total",
    Counter,
    &["state"],
    "Clips by what became of them: ready, failed.",
);
const RING_BYTES: Metric = metric(
    "visualpath_ring_bytes",
    Gauge,
    &["source"],
    "Encoded video kept in memory for what was before a trigger.",
);
const RING_SECONDS: Metric = metric(
    "visualpath_ring_seconds",
    Gauge,
    &["source"],
    "The same, from its oldest picture to its newest: while pictures come, the age of the oldest.",
);
const CONNECTED: Metric = metric(
    "visualpath_mqtt_connected",
    Gauge,
    &[],
    "1 while the broker is there; absent if publishing is off.",
);
const OUTBOX: Metric = metric(
    "visualpath_outbox_messages",
    Gauge,
    &[],
    "Messages the broker has not acknowledged yet.",
);
const BUILD: Metric = metric(
    "visualpath_build_info",
    Gauge,
    &["version", "commit", "target"],
    "Always 1.",
);
const MODEL: Metric = metric(
    "visualpath_model_info",
    Gauge,
    &["name", "version", "sha256", "runtime"],
    "Always 1, for each model in use.",
);

/// All of them, in the order they are written.
pub const METRICS: &[Metric] = &[
    CAPTURED,
    DROPPED,
    ONLINE,
    LATENCY,
    TRIGGERS,
    UP,
    RESTARTS,
    CLIPS,
    RING_BYTES,
    RING_SECONDS,
    CONNECTED,
    OUTBOX,
    BUILD,
    MODEL,
];

/// Why a process is started again. (Whoever counts them is told no more than that it ended.)
const DIED: &str = "died";

/// The metrics of this moment, as they are scraped.
pub fn text(status: &Status, latencies: &BTreeMap<String, Latencies>) -> String {
    let mut text = Text::default();
    for metric in METRICS {
        text.metric(metric);
        samples(&mut text, metric, status, latencies);
    }
    text.into_string()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are f64: exact up to 2^53"
)]
fn samples(
    text: &mut Text,
    metric: &Metric,
    status: &Status,
    latencies: &BTreeMap<String, Latencies>,
) {
    let sources = status.sources.iter();
    let rings = sources.clone().filter_map(|s| Some((s, s.ring.as_ref()?)));
    let yes = |yes: bool| f64::from(u8::from(yes));
    let mut put = |values: &[&str], number: f64| text.sample(metric, values, number);
    match *metric {
        CAPTURED => sources.for_each(|s| put(&[&s.source], s.frames as f64)),
        DROPPED => sources.for_each(|s| dropped(s, &mut put)),
        ONLINE => sources.for_each(|s| put(&[&s.source], yes(s.online))),
        LATENCY => {
            for (path, latencies) in latencies {
                histogram(text, metric, path, latencies);
            }
        }
        TRIGGERS => {
            let mut all = status.triggers.iter();
            all.by_ref()
                .for_each(|t| put(&[&t.path, &t.label], t.count as f64));
        }
        UP => workers(sources, |s, e, status, _| {
            put(&[e, s], yes(status == "running"));
        }),
        RESTARTS => workers(sources, |s, e, _, restarts| {
            put(&[e, s, DIED], restarts as f64);
        }),
        CLIPS => {
            put(&["ready"], status.clips.ready as f64);
            put(&["failed"], status.clips.failed as f64);
        }
        RING_BYTES => rings.for_each(|(s, ring)| put(&[&s.source], ring.bytes as f64)),
        RING_SECONDS => rings.for_each(|(s, ring)| put(&[&s.source], ring.held_ms as f64 / 1e3)),
        CONNECTED => status.mqtt.iter().for_each(|m| put(&[], yes(m.connected))),
        OUTBOX => {
            let mqtt = status.mqtt.iter();
            mqtt.for_each(|m| put(&[], m.undelivered as f64));
        }
        BUILD => {
            let commit = status.commit.as_deref().unwrap_or_default();
            put(&[&status.version, commit, &status.target], 1.0);
        }
        MODEL => status.models.iter().for_each(|m| {
            let m = &m.model;
            put(&[&m.name, &m.version, &m.sha256, &m.runtime], 1.0);
        }),
        // A metric of the table that is not written here: the test of the table finds it.
        _ => {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "as above")]
fn dropped(source: &SourceState, put: &mut impl FnMut(&[&str], f64)) {
    for (reason, n) in &source.dropped {
        put(&[&source.source, "", reason], *n as f64);
    }
    for extractor in &source.extractors {
        for (reason, n) in &extractor.dropped {
            put(&[&source.source, &extractor.extractor, reason], *n as f64);
        }
    }
}

/// Every extractor there is, with its source, its status and its restarts.
fn workers<'a>(
    sources: impl Iterator<Item = &'a SourceState>,
    mut put: impl FnMut(&str, &str, &str, u64),
) {
    for source in sources {
        for e in &source.extractors {
            if let Some(status) = &e.status {
                put(&source.source, &e.extractor, status, e.restarts);
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "as above")]
fn histogram(text: &mut Text, metric: &Metric, path: &str, latencies: &Latencies) {
    let name = metric.name;
    let path = ("path", path);
    let mut below = 0;
    for (bound, n) in Latencies::BOUNDS_S.iter().zip(latencies.counts) {
        below += n;
        let bound = bound.to_string();
        let labels = [path, ("le", bound.as_str())];
        text.named(&format!("{name}_bucket"), labels.into_iter(), below as f64);
    }
    let all = latencies.count as f64;
    let labels = [path, ("le", "+Inf")];
    text.named(&format!("{name}_bucket"), labels.into_iter(), all);
    text.named(&format!("{name}_sum"), [path].into_iter(), latencies.sum_s);
    text.named(&format!("{name}_count"), [path].into_iter(), all);
}

/// The reference page.
pub fn reference() -> String {
    let mut page = "# Metrics\n\n\
        `GET /metrics` ([http.md](http.md)), in Prometheus' text format 0.0.4. Made from \
        `edge/src/web/metrics.rs`. Counters begin with the process.\n\n\
        | metric | kind | labels | what |\n|---|---|---|---|\n"
        .to_owned();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let Metric { name, help, .. } = metric;
        let (kind, labels) = (metric.kind.as_str(), labels.join(" "));
        page += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_the_table() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        if std::env::var_os("VISUALPATH_WRITE_DOCS").is_some() {
            std::fs::write(file, reference()).expect("the page can be written");
        }
        let page = std::fs::read_to_string(file).unwrap_or_default();
        assert_eq!(page, reference(), "write it with VISUALPATH_WRITE_DOCS=1");
    }

    #[test]
    fn names_are_ours_and_counters_are_called_totals() {
        for metric in METRICS {
            let Metric { name, kind, .. } = metric;
            assert!(name.starts_with("visualpath_"), "{name}");
            assert_eq!(*kind == Counter, name.ends_with("_total"), "{name}");
            let others = METRICS.iter().filter(|m| m.name == *name).count();
            assert_eq!(others, 1, "{name}");
        }
    }
}
