//! Tracing, from the config: the hub with its sinks, and what a session says of itself.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use visualpath_platform::trace::record::{
    SCHEMA, SessionEnd, SessionExtractor, SessionPath, SessionStart,
};
use visualpath_platform::trace::{
    ConsoleSink, FileSink, Level, MemorySink, NullSink, ObservabilityHub, Record, TraceSink,
};

use super::plan::{LinePlan, Plan};
use super::wall;
use crate::config::{Config, SinkConfig, SinkKind};

/// Records that a memory sink keeps.
const IN_MEMORY: usize = 1024;

/// A hub with the config's level and sinks. At level off, or without a sink, it starts nothing.
pub fn hub(config: &Config) -> Arc<ObservabilityHub> {
    let hub = ObservabilityHub::new(config.observability.level);
    for settings in &config.observability.sink {
        if let Some(sink) = sink(config, settings) {
            hub.add_sink(sink);
        }
    }
    Arc::new(hub)
}

/// `None` of a file without a path, which the config check refuses.
fn sink(config: &Config, settings: &SinkConfig) -> Option<Box<dyn TraceSink>> {
    Some(match settings.kind {
        SinkKind::File => {
            // An absolute path replaces the directory.
            let dir = config.device.state_dir.join("trace");
            let path = dir.join(settings.path.as_ref()?);
            Box::new(FileSink::new(path, settings.max_bytes))
        }
        SinkKind::Console => Box::new(ConsoleSink::default()),
        SinkKind::Memory => Box::new(MemorySink::new(IN_MEMORY)),
        SinkKind::Null => Box::new(NullSink),
    })
}

/// Records `session_start`: what a replay must know of the run.
pub fn session_start(hub: &ObservabilityHub, config: &Config, plan: &Plan) {
    hub.emit_with(Level::Minimal, || {
        Record::SessionStart(SessionStart {
            timestamp_ns: hub.now_ns(),
            unix_ns: unix_ns(),
            schema: SCHEMA.to_owned(),
            level: config.observability.level,
            device: config.device_id().to_owned(),
            boot_id: wall::boot_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: config_sha256(config),
            continued: false,
            paths: session_paths(config, plan),
        })
    });
}

/// Records `session_end`.
pub fn session_end(hub: &ObservabilityHub, reason: &str, frames: u64, triggers: u64) {
    hub.emit_with(Level::Minimal, || {
        Record::SessionEnd(SessionEnd {
            timestamp_ns: hub.now_ns(),
            unix_ns: unix_ns(),
            reason: reason.to_owned(),
            frames,
            triggers,
        })
    });
}

fn session_paths(config: &Config, plan: &Plan) -> Vec<SessionPath> {
    let lines = plan.lines.iter();
    lines.flat_map(|line| line_paths(config, line)).collect()
}

fn line_paths(config: &Config, plan: &LinePlan) -> Vec<SessionPath> {
    let zones = config.zones_of(plan.source.as_str());
    let extractor = |i: &usize| {
        let planned = plan.extractors.get(*i)?;
        Some(SessionExtractor {
            extractor: planned.name.clone(),
            signals: planned.signals.clone(),
            zones: zones.iter().map(|z| z.name.clone()).collect(),
        })
    };
    let paths = plan.paths.iter().filter_map(|path| {
        Some(SessionPath {
            path: path.name.clone(),
            source: plan.source.clone(),
            fusion: config.path.get(&path.name)?.fusion.clone(),
            extractors: path.extractors.iter().filter_map(extractor).collect(),
        })
    });
    paths.collect()
}

/// sha256 of the config in force, as JSON with its keys in order; secrets are in files of their own.
pub fn config_sha256(config: &Config) -> String {
    let json = serde_json::to_vec(config).unwrap_or_default();
    let sum = Sha256::digest(&json);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
