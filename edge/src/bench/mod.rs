//! `visualpath bench`: what things cost, as ratios to floors measured in the same run.
//!
//! On a small, shared machine a time alone says little; a ratio of two things measured in turns in
//! one run does. Each row has its own numbers and, where it has a floor, the ratio to it: the
//! median over rounds.

mod clip;
mod handoff;
pub(crate) mod isolation;
mod motion;
mod overhead;
mod pipeline;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use visualpath_mqtt::payload::Machine;

/// What to measure.
#[derive(Debug, Default)]
pub struct Options {
    /// Names; all if empty.
    pub names: Vec<String>,
    /// Video of `pipeline`; without it that bench is left out.
    pub video: Option<PathBuf>,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// Command that runs the same loop in Python.
    pub python_loop: Option<String>,
    /// An interpreter with the package `visualpath-edge`.
    pub python: Option<PathBuf>,
}

/// One bench.
#[derive(Debug, Serialize)]
pub struct Bench {
    bench: &'static str,
    machine: Machine,
    commit: Option<String>,
    rows: Vec<Row>,
}

/// One row. Fields a bench has no word for are absent.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Row {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
    n: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us: Option<f64>,
    /// Written to the disk; of a picture or packet, what it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<f64>,
    /// Heap allocations per trip or frame, extractor and sink included; only in a build with the
    /// feature `count-allocations`.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    video: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extractor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms_per_frame: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// To the floor of the same run: the median over rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// What `ratio` is to.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<&'static str>,
}

/// Measures.
pub fn run(options: &Options) -> anyhow::Result<Vec<Bench>> {
    if let Ok(how) = std::env::var(isolation::ECHO_ENV) {
        isolation::echo(&how)?;
        return Ok(Vec::new());
    }
    const ALL: [&str; 6] = ["handoff", "overhead", "motion", "trace", "clip", "pipeline"];
    for name in &options.names {
        anyhow::ensure!(
            ALL.contains(&name.as_str()),
            "no bench is called `{name}`; known: {}",
            ALL.join(", ")
        );
    }
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|n| n == name);
    let mut benches = Vec::new();
    let mut add = |bench, rows| {
        benches.push(Bench {
            bench,
            machine: crate::version::machine(),
            commit: crate::version::commit(),
            rows,
        });
    };
    if wanted("handoff") {
        let mut rows = handoff::rows(options.rounds)?;
        rows.extend(isolation::rows(options)?);
        add("handoff", rows);
    }
    if wanted("overhead") {
        add("overhead", overhead::rows(options.rounds)?);
    }
    if wanted("motion") {
        add("motion", motion::rows(options.rounds)?);
    }
    if wanted("trace") {
        add("trace", trace::rows(options.rounds)?);
    }
    if wanted("clip") {
        add("clip", clip::rows(options.rounds)?);
    }
    if wanted("pipeline") {
        match &options.video {
            Some(video) => add("pipeline", pipeline::rows(video, options)?),
            None => anyhow::ensure!(
                options.names.is_empty(),
                "pipeline: give a video with --video FILE"
            ),
        }
    }
    Ok(benches)
}

impl std::fmt::Display for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({} cores, {})",
            self.bench, self.machine.cores, self.machine.arch
        )?;
        for r in &self.rows {
            write!(f, "\n  {:44}", r.name)?;
            if let (Some(p50), Some(p99)) = (r.p50_us, r.p99_us) {
                write!(f, " p50 {p50:9.2} µs  p99 {p99:9.2} µs")?;
            }
            if let (Some(fps), Some(cpu)) = (r.fps, r.cpu_ms_per_frame) {
                write!(f, " {fps:6.1} fps  {cpu:6.2} CPU-ms/frame")?;
            }
            if let Some(bytes) = r.bytes {
                write!(f, "  {bytes:.0} bytes")?;
                if let Some(cpu) = r.cpu_us {
                    write!(f, "  {:.2} CPU-ms", cpu / 1e3)?;
                }
            }
            if let Some(allocs) = r.allocs {
                write!(f, "  {allocs:.1} allocs")?;
            }
            if let Some(rss) = r.rss_mb {
                write!(f, "  {rss:.0} MB")?;
            }
            if let (Some(ratio), Some(floor)) = (r.ratio, r.floor) {
                write!(f, "  {ratio:.3} × {floor}")?;
            }
            write!(f, "  n {}", r.n)?;
        }
        Ok(())
    }
}

#[cfg(feature = "count-allocations")]
#[global_allocator]
static COUNTING: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Heap allocations of the process so far, where they are counted.
fn allocations() -> Option<usize> {
    #[cfg(feature = "count-allocations")]
    return Some({
        let stats = COUNTING.stats();
        stats.allocations + stats.reallocations
    });
    #[cfg(not(feature = "count-allocations"))]
    None
}

/// What one of `n` took of the allocations since `before`.
#[expect(clippy::cast_precision_loss, reason = "a mean")]
fn allocations_since(before: Option<usize>, n: usize) -> Option<f64> {
    Some(allocations()?.saturating_sub(before?) as f64 / n.max(1) as f64)
}

/// Times of one thing, in microseconds.
#[derive(Debug, Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    /// The value below which this share of the samples lies.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
        sorted.get(index).copied().unwrap_or(0.0)
    }
}

fn median(values: &[f64]) -> f64 {
    Samples(values.to_vec()).quantile(0.5)
}

/// Memory of this process that is resident now, MB.
fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}
