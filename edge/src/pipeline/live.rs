//! What goes on now, for whoever asks: HTTP, `health`, SIGUSR1.
//!
//! Every thread goes on counting where it always has; [`Live`] only knows where. What is *said*
//! (a status, a problem, a trigger) passes [`super::out::Out`], which notes it here on its way. No
//! lock is held while anything waits.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use visualpath_core::Name;
use visualpath_media::clip::{ClipStore, StoreError};
use visualpath_mqtt::payload::{InfoModel, PhaseWord, Problem, RingStatus, SourceHealth};
use visualpath_mqtt::{ExtractorStatus, PublisherHandle, TriggerBody};

use super::events::Counts;
use super::evidence::Clips;
use super::line::{LineShared, LineStats};
use super::status::{
    ClipsState, ExtractorState, MqttState, STATUS_SCHEMA, SourceState, Stage, Status, TriggerCount,
};
use super::{summary, wall};
use crate::config::Config;

/// A path thread that takes no frame for so long while some wait is stuck: an inline extractor that
/// never returns. A worker that hangs is killed or held long before.
const STUCK: Duration = Duration::from_secs(120);
/// How often frames are counted, …
const SAMPLE: Duration = Duration::from_secs(1);
/// … and over what time a rate is.
const RATE: Duration = Duration::from_secs(5);

/// What goes on now.
pub struct Live {
    started: Instant,
    device: String,
    boot_id: String,
    quota_bytes: u64,
    stage: AtomicU8,
    lines: Mutex<Vec<LiveLine>>,
    said: Mutex<Said>,
    counts: Arc<Counts>,
    store: Arc<OnceLock<Clips>>,
    /// State directory and directory of clips, …
    kept_at: (PathBuf, String),
    /// … read once somebody asks while no rule wants clips: there may be older ones.
    read_only: OnceLock<Arc<ClipStore>>,
    publisher: Option<Arc<PublisherHandle>>,
}

/// A line that runs, or did.
struct LiveLine {
    shared: Weak<LineShared>,
    stats: LineStats,
    /// Frames captured, by when.
    samples: VecDeque<(Instant, u64)>,
    /// Frames the path thread has taken, and since when it is so many or none waits.
    taken: (u64, Instant),
}

/// What was last said.
#[derive(Default)]
struct Said {
    problems: Vec<Problem>,
    /// By source and extractor.
    workers: BTreeMap<(String, String), WorkerState>,
    /// By path and label.
    triggers: BTreeMap<(String, String), u64>,
    /// By path.
    latencies: BTreeMap<String, Latencies>,
    models: Vec<InfoModel>,
}

#[derive(Clone)]
struct WorkerState {
    status: ExtractorStatus,
    restarts: u64,
}

/// Seconds from a frame's arrival to its trigger, counted by size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latencies {
    /// How many were at most [`Latencies::BOUNDS_S`], each, and not at most the bound before.
    pub counts: [u64; 10],
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum_s: f64,
}

impl Latencies {
    /// Upper bounds.
    pub const BOUNDS_S: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

    fn add(&mut self, seconds: f64) {
        let at = Self::BOUNDS_S.iter().position(|bound| seconds <= *bound);
        if let Some(n) = at.and_then(|at| self.counts.get_mut(at)) {
            *n += 1;
        }
        self.count += 1;
        self.sum_s += seconds;
    }
}

impl Live {
    /// Of an appliance that starts.
    pub fn new(
        config: &Config,
        counts: Arc<Counts>,
        store: Arc<OnceLock<Clips>>,
        publisher: Option<Arc<PublisherHandle>>,
    ) -> Self {
        Self {
            started: Instant::now(),
            device: config.device_id().to_owned(),
            boot_id: wall::boot_id(),
            quota_bytes: config.clip.quota_bytes,
            stage: AtomicU8::new(STARTING),
            lines: Mutex::default(),
            said: Mutex::default(),
            counts,
            store,
            kept_at: (
                config.device.state_dir.clone(),
                config.clip.dir.to_string_lossy().into_owned(),
            ),
            read_only: OnceLock::new(),
            publisher,
        }
    }

    /// Its threads run.
    pub fn running(&self) {
        self.stage.store(RUNNING, Ordering::Relaxed);
    }

    /// It ends.
    pub fn stopping(&self) {
        self.stage.store(STOPPING, Ordering::Relaxed);
    }

    /// A line that begins.
    pub fn add(&self, shared: &Arc<LineShared>, stats: &LineStats) {
        self.lines().push(LiveLine {
            shared: Arc::downgrade(shared),
            stats: stats.clone(),
            samples: VecDeque::new(),
            taken: (0, Instant::now()),
        });
    }

    /// An extractor is running, restarting or held.
    pub fn worker(&self, source: &Name, extractor: &Name, status: ExtractorStatus) {
        let mut said = self.said();
        let key = (source.to_string(), extractor.to_string());
        let state = said.workers.entry(key).or_insert(WorkerState {
            status,
            restarts: 0,
        });
        state.restarts += u64::from(status == ExtractorStatus::Restarting);
        state.status = status;
    }

    /// What is wrong now.
    pub fn problems(&self, problems: &[Problem]) {
        self.said().problems = problems.to_vec();
    }

    /// The models in use.
    pub fn models(&self, models: &[InfoModel]) {
        self.said().models = models.to_vec();
    }

    /// A trigger that is kept. A RANGE counts when it starts.
    pub fn trigger(&self, body: &TriggerBody) {
        if body.phase == Some(PhaseWord::End) {
            return;
        }
        let mut said = self.said();
        let key = (body.path.clone(), body.label.clone());
        *said.triggers.entry(key).or_insert(0) += 1;
        let latencies = said.latencies.entry(body.path.clone()).or_default();
        latencies.add(body.latency_ms.total / 1e3);
    }

    /// Counts frames; called again and again.
    pub fn look(&self, now: Instant) {
        for line in self.lines().iter_mut() {
            line.look(now);
        }
    }

    /// Whether every path thread takes the frames that wait for it.
    ///
    /// # Errors
    /// Which one does not.
    pub fn is_alive(&self, now: Instant) -> Result<(), String> {
        for line in self.lines().iter_mut() {
            line.look(now);
            let still = now.saturating_duration_since(line.taken.1);
            if line.runs() && still > STUCK {
                let (source, s) = (&line.stats.source, still.as_secs());
                return Err(format!(
                    "path-{source}: no frame has been taken for {s} s, and some wait"
                ));
            }
        }
        Ok(())
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            STARTING => Stage::Starting,
            RUNNING if self.said().problems.is_empty() => Stage::Ready,
            RUNNING => Stage::Degraded,
            _ => Stage::Stopping,
        }
    }

    /// The rings of the sources that run, for `health`.
    pub fn rings(&self) -> Vec<SourceHealth> {
        let mut sources: Vec<SourceHealth> = self
            .lines()
            .iter()
            .filter_map(|line| line.shared.upgrade().filter(|_| line.runs()))
            .map(|shared| SourceHealth {
                source: shared.source.to_string(),
                ring: shared.ring(),
            })
            .collect();
        sources.sort_by(|a, b| a.source.cmp(&b.source));
        sources
    }

    /// Seconds from frames to triggers, by path.
    pub fn latencies(&self) -> BTreeMap<String, Latencies> {
        self.said().latencies.clone()
    }

    /// The directory of clips, also if no rule wants any now. The first call then reads it.
    ///
    /// # Errors
    /// `clip.dir` is not a plain relative path.
    pub fn clips(&self) -> Result<&ClipStore, StoreError> {
        if let Some(clips) = self.store.get() {
            return Ok(&clips.store);
        }
        if let Some(store) = self.read_only.get() {
            return Ok(store);
        }
        let (state_dir, dir) = &self.kept_at;
        let opened = ClipStore::open(state_dir, dir, self.quota_bytes)?;
        // Another may have been faster; theirs is as good.
        Ok(self.read_only.get_or_init(|| opened))
    }

    /// Everything, as one document.
    pub fn status(&self) -> Status {
        self.look(Instant::now());
        let stage = self.stage();
        let sources = self.sources();
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let clips = self.store.get();
        let clips = ClipsState {
            ready: read(&self.counts.ready),
            failed: read(&self.counts.failed),
            count: clips.map_or(0, |c| c.store.clip_count()),
            bytes: clips.map_or(0, |c| c.store.bytes()),
            quota_bytes: self.quota_bytes,
        };
        let mqtt = self.publisher.as_ref().map(|publisher| MqttState {
            connected: publisher.connected(),
            undelivered: publisher.pending() as u64,
        });
        let said = self.said();
        let triggers = said
            .triggers
            .iter()
            .map(|((path, label), count)| TriggerCount {
                path: path.clone(),
                label: label.clone(),
                count: *count,
            });
        Status {
            schema: STATUS_SCHEMA.to_owned(),
            device: self.device.clone(),
            boot_id: self.boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::version::commit(),
            target: crate::version::target(),
            time: jiff::Timestamp::now().to_string(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            state: stage,
            problems: said.problems.clone(),
            sources,
            triggers: triggers.collect(),
            clips,
            mqtt,
            models: said.models.clone(),
        }
    }

    /// Each source with all lines it had; one that was restarted had several.
    fn sources(&self) -> Vec<SourceState> {
        let workers = self.said().workers.clone();
        let mut sources: BTreeMap<String, SourceState> = BTreeMap::new();
        for line in self.lines().iter() {
            let name = line.stats.source.to_string();
            let state = sources.entry(name.clone()).or_insert_with(|| SourceState {
                source: name,
                ..SourceState::default()
            });
            line.add_to(state, &workers);
        }
        sources.into_values().collect()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<LiveLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const STARTING: u8 = 0;
const RUNNING: u8 = 1;
const STOPPING: u8 = 2;

impl LiveLine {
    fn look(&mut self, now: Instant) {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let capture = &self.stats.capture;
        // The path thread's first: it never has more than capture gave.
        let taken = read(&self.stats.flow.frames);
        let gave = read(&capture.frames).saturating_sub(read(&capture.path_busy));
        if taken != self.taken.0 || gave <= taken {
            self.taken = (taken, now);
        }
        let newest = self.samples.back().map(|(at, _)| *at);
        if newest.is_none_or(|at| now.saturating_duration_since(at) >= SAMPLE) {
            self.samples.push_back((now, read(&capture.frames)));
        }
        let is_old = |at: Instant| now.saturating_duration_since(at) > RATE;
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.samples.pop_front();
        }
    }

    /// Frames a second, measured; `None` before a second was seen.
    fn fps(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let frames = last.1.saturating_sub(first.1) as f64;
        (seconds > 0.0).then(|| frames / seconds)
    }

    /// Whether frames of it may come.
    fn runs(&self) -> bool {
        !self.stats.capture.ending.load(Ordering::Relaxed) && self.shared.strong_count() > 0
    }

    fn add_to(&self, state: &mut SourceState, workers: &BTreeMap<(String, String), WorkerState>) {
        let capture = &self.stats.capture;
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        state.frames += read(&capture.frames);
        state.evidence_lost += read(&capture.encoder_busy) + read(&capture.no_evidence);
        for (reason, n) in summary::capture_drops(capture) {
            *state.dropped.entry(reason.to_owned()).or_insert(0) += n;
        }
        let shared = self.shared.upgrade().filter(|_| self.runs());
        if let Some(shared) = &shared {
            state.online = !capture.offline.load(Ordering::Relaxed);
            state.format = capture.format();
            state.fps = self.fps();
            state.ring = shared.ring();
        }
        for (name, lane) in self.stats.flow.lanes() {
            let known = state
                .extractors
                .iter()
                .position(|e| e.extractor == name.as_str());
            let at = known.unwrap_or_else(|| {
                state.extractors.push(ExtractorState {
                    extractor: name.to_string(),
                    ..ExtractorState::default()
                });
                state.extractors.len() - 1
            });
            let Some(extractor) = state.extractors.get_mut(at) else {
                continue;
            };
            extractor.observed += read(&lane.observed);
            extractor.failed += read(&lane.failed);
            extractor.timed_out += read(&lane.timed_out);
            extractor.late += read(&lane.late);
            extractor.busy_ms += read(&lane.busy_ns) / 1_000_000;
            for reason in summary::DROPS {
                let n = read(lane.dropped(reason));
                *extractor
                    .dropped
                    .entry(reason.as_str().to_owned())
                    .or_insert(0) += n;
            }
            let said = workers.get(&(state.source.clone(), name.to_string()));
            extractor.restarts = said.map_or(0, |w| w.restarts);
            // One that a reload took away is in no path any more.
            let there = shared
                .as_ref()
                .is_some_and(|s| !s.paths_with(&name).is_empty());
            extractor.status = match (there, said) {
                (false, _) => None,
                (true, said) => {
                    let status = said.map_or(ExtractorStatus::Running, |w| w.status);
                    Some(status.as_str().to_owned())
                }
            };
        }
    }
}

impl LineShared {
    /// The state of its ring; `None` if no rule wants clips.
    pub fn ring(&self) -> Option<RingStatus> {
        let ring = self.evidence()?.stats().ring;
        Some(super::status::ring(&ring, self.ring_shortfall().as_ref()))
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
