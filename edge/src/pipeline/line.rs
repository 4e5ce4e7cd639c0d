//! One source and everything that is its own: capture thread, path thread, workers, evidence.
//!
//! ```text
//! LineMaker::prepare ─▶ Ready (source open, models loaded) ─▶ go() ─▶ Line (threads run)
//! ```
//!
//! A line shares no thread and no queue with another but the events thread's inbox, so that a slow
//! or dying source does not touch the rest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use visualpath_core::{Clock, ModelUse, Name, StopFlag};
use visualpath_frames::FramePool;
use visualpath_media::clip::{ClipResult, EvidenceLane, Finish};
use visualpath_media::encode::Codec;
use visualpath_media::ring::Shortfall;
use visualpath_media::source::{
    self, RtspOptions, RtspTransport, SourceInfo, SourceOptions, Start,
};
use visualpath_platform::trace::{FlowTrace, ObservabilityHub};
use visualpath_platform::{
    Bell, BellSender, Captured, Flow, FlowChange, FlowSpec, FlowStats, Leaving,
};

use super::build::{Nursery, Pace};
use super::capture::{Capture, CaptureStats, Ended, PassThrough, PoolPlan, Pools, Wanted};
use super::live::Live;
use super::plan::LinePlan;
use super::shape::{PathFacts, Reshape, Shape};
use super::sink::{LineSink, ToEvents};
use super::stop::Stopping;
use super::wall::WallClock;
use super::{BETWEEN, PENDING, StartError, evidence, spawn};
use crate::config::{ClipCodec, Config, SourceConfig, StreamTransport};

/// What the threads of a line and the events thread know of it.
pub struct LineShared {
    /// The source.
    pub source: Name,
    /// Its wall times.
    pub wall: WallClock,
    evidence: OnceLock<EvidenceLane>,
    /// The longest time that a clip may begin before its rule fires, nanoseconds.
    pre_roll_ns: AtomicI64,
    paths: RwLock<HashMap<Name, PathFacts>>,
}

impl LineShared {
    /// Without evidence and paths yet.
    pub fn new(source: Name, wall: WallClock) -> Self {
        Self {
            source,
            wall,
            evidence: OnceLock::new(),
            pre_roll_ns: AtomicI64::new(0),
            paths: RwLock::default(),
        }
    }

    /// With evidence, but no path.
    #[cfg(test)]
    pub fn with_evidence(self, lane: EvidenceLane) -> Self {
        assert!(self.evidence.set(lane).is_ok(), "it has some");
        self
    }

    /// Cuts clips, once any rule wants some.
    pub fn evidence(&self) -> Option<&EvidenceLane> {
        self.evidence.get()
    }

    /// By how much the ring can't hold the longest pre-roll; `None` if it can, or that is not known.
    pub fn ring_shortfall(&self) -> Option<Shortfall> {
        let ring = self.evidence()?.stats().ring;
        ring.shortfall(self.pre_roll_ns.load(Ordering::Relaxed))
    }

    fn set_pre_roll(&self, longest_s: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let ns = (longest_s * 1e9) as i64;
        self.pre_roll_ns.store(ns, Ordering::Relaxed);
    }

    /// The models a path's extractors use.
    pub fn models(&self, path: &Name) -> Vec<ModelUse> {
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        paths
            .get(path)
            .map(|p| p.models.clone())
            .unwrap_or_default()
    }

    /// All models in use.
    pub fn all_models(&self) -> Vec<ModelUse> {
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        paths.values().flat_map(|p| p.models.clone()).collect()
    }

    /// The paths that have an extractor.
    pub fn paths_with(&self, extractor: &Name) -> Vec<Name> {
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<Name> = paths
            .iter()
            .filter(|(_, p)| p.extractors.contains(extractor))
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    fn set_paths(&self, paths: HashMap<Name, PathFacts>) {
        *self.paths.write().unwrap_or_else(PoisonError::into_inner) = paths;
    }
}

/// What all lines are made with.
pub struct LineMaker {
    /// Where trace records go.
    pub hub: Arc<ObservabilityHub>,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// The events thread's inbox.
    pub events: ToEvents,
    /// Where clips' results go.
    pub clip_results: Sender<ClipResult>,
    /// Every line's shared part, for the clock.
    pub walls: Arc<Mutex<Vec<Weak<LineShared>>>>,
    /// The clip directory, once a rule wants clips.
    pub store: Arc<OnceLock<evidence::Clips>>,
    /// Wall time of source time 0, if not now.
    pub wall_start: Option<jiff::Timestamp>,
    /// Who tells what goes on.
    pub live: Arc<Live>,
}

/// A line whose source is open and whose models are loaded.
pub struct Ready {
    line: Line,
    flow: Flow<LineSink>,
    capture: Capture,
    captured: Receiver<Captured>,
    pool: FramePool,
    /// It goes on where an earlier line of its source was.
    continues: bool,
}

/// A running line.
pub struct Line {
    /// What others know of it.
    pub shared: Arc<LineShared>,
    /// Its source's settings.
    pub settings: SourceConfig,
    /// How its source was opened.
    options: SourceOptions,
    /// Its lanes and paths.
    pub shape: Shape,
    /// Its source as lanes see it.
    pub pace: Pace,
    /// Its counters.
    pub stats: LineStats,
    /// Set to stop it.
    pub stop: StopFlag,
    /// What became of its source; `None` while it runs.
    pub ended: Option<Ended>,
    /// Of its first frames.
    epoch: u32,
    pool_plan: Arc<PoolPlan>,
    changes: BellSender<FlowChange>,
    /// Wakes its path thread.
    bell: Bell,
    capture: Option<JoinHandle<Ended>>,
    path: Option<JoinHandle<PathEnd>>,
}

/// What a path thread leaves: its sink and its workers' threads.
type PathEnd = (LineSink, Vec<(Name, Leaving)>);

/// Counters of one line.
#[derive(Clone)]
pub struct LineStats {
    /// The source.
    pub source: Name,
    /// Of the capture thread.
    pub capture: Arc<CaptureStats>,
    /// Of the path thread.
    pub flow: Arc<FlowStats>,
}

/// How long a path thread may take to make a change: an inline extractor may be at work.
const PATIENCE: Duration = Duration::from_secs(10);
/// Changes that may wait for the path thread.
const CHANGES: usize = 16;

impl LineMaker {
    /// Opens the source and loads the models. `before` is the line that this one goes on for.
    ///
    /// # Errors
    /// If the source can't be opened or an extractor can't be made.
    pub fn prepare(
        &self,
        config: &Config,
        plan: LinePlan,
        before: Option<&Line>,
    ) -> Result<Ready, StartError> {
        let source_name = plan.source.clone();
        let settings = plan.settings.clone();
        let options = source_options(config, &source_name, &settings)?;
        let mut source = source::open(&options, Arc::clone(&self.clock)).map_err(|error| {
            StartError::Source {
                source_name: source_name.clone(),
                error,
            }
        })?;
        let mut pace = pace(&source_name, &settings, source.info());
        // A camera that the line before still has in use can't be asked yet.
        pace.fps = pace.fps.or(before.and_then(|line| line.pace.fps));
        let (slots, wants_clips) = (plan.slots(), plan.wants_clips());
        let longest_pre_s = plan.longest_pre_s();
        let bell = Bell::new().map_err(|e| StartError::Thread(e.to_string()))?;
        let nursery = Nursery {
            config,
            bell: &bell,
            work_dir: None,
        };
        let reshape = Reshape::prepare(&Shape::default(), plan, &pace, &nursery)?;
        let views = reshape.shape.views();
        let shared = Arc::new(LineShared::new(
            source_name.clone(),
            self.wall(before, settings.realtime),
        ));
        shared.set_paths(reshape.paths);
        shared.set_pre_roll(longest_pre_s);
        if wants_clips {
            self.start_evidence(config, &shared, &pace)?;
        }
        let stop = StopFlag::new();
        let (changes, changed) = bell.channel(CHANGES);
        let wall = Arc::clone(&shared);
        let (lanes, paths) = whole(reshape.change);
        let pending = pending(&paths, pace.fps);
        let flow = Flow::new(
            FlowSpec {
                source: source_name.clone(),
                realtime: settings.realtime,
                lanes,
                paths,
                pending,
                clock: Arc::clone(&self.clock),
                unix_ns: Arc::new(move |t_ns| wall.wall.unix_ns(t_ns)),
                bell: bell.clone(),
                changes: changed,
                trace: FlowTrace::new(Arc::clone(&self.hub), source_name.clone()),
                stop: stop.clone(),
                stop_grace_ns: 5_000_000_000,
            },
            LineSink {
                events: self.events.for_line(),
                line: Arc::clone(&shared),
            },
        )
        .map_err(|e| StartError::Thread(e.to_string()))?;
        let pool_plan = Arc::new(PoolPlan::new(Wanted {
            slots,
            views,
            clips: wants_clips,
            pass_through: pass_through(config, &options),
            controls: options.controls.clone(),
        }));
        let mut pools = Pools::new(Arc::clone(&pool_plan));
        let pool = pools.make(&mut *source).map_err(|e| StartError::Pool {
            source_name: source_name.clone(),
            error: Box::new(e),
        })?;
        tracing::info!(source = %source_name, slots, bytes = pool.layout().total_bytes(), "frame pool");
        let (to_path, captured) = bell.channel(BETWEEN);
        let capture_stats = Arc::new(CaptureStats::default());
        capture_stats.set_format(&source.info().description);
        let stats = LineStats {
            source: source_name,
            capture: Arc::clone(&capture_stats),
            flow: flow.stats(),
        };
        let capture = Capture {
            source,
            pools,
            to_path,
            shared: Arc::clone(&shared),
            events: self.events.for_line(),
            realtime: settings.realtime,
            stop: stop.clone(),
            stats: capture_stats,
        };
        let line = Line {
            shared,
            settings,
            options,
            shape: reshape.shape,
            pace,
            stats,
            stop,
            ended: None,
            epoch: before.map_or(0, |b| b.epoch.saturating_add(1)),
            pool_plan,
            changes,
            bell,
            capture: None,
            path: None,
        };
        Ok(Ready {
            line,
            flow,
            capture,
            captured,
            pool,
            continues: false,
        })
    }

    /// A source that goes on where another was keeps its clock.
    fn wall(&self, before: Option<&Line>, realtime: bool) -> WallClock {
        match (before, self.wall_start) {
            (Some(line), _) => WallClock::continuing(&line.shared.wall, realtime),
            (None, Some(time)) => WallClock::starting_at(time, false),
            (None, None) => WallClock::starting_now(realtime),
        }
    }

    /// Starts a line's encoder, once.
    ///
    /// # Errors
    /// If the clip directory can't be used or there is no encoder.
    pub fn start_evidence(
        &self,
        config: &Config,
        shared: &LineShared,
        pace: &Pace,
    ) -> Result<(), StartError> {
        if shared.evidence().is_some() {
            return Ok(());
        }
        let store = match self.store.get() {
            Some(clips) => Arc::clone(&clips.store),
            None => {
                let (clips, unheard) = evidence::store(config)?;
                let store = Arc::clone(&self.store.get_or_init(|| clips).store);
                // Afterwards: whoever tells of them looks for the store.
                if !unheard.is_empty() {
                    self.events.send(super::events::Event::Earlier(unheard));
                }
                store
            }
        };
        let (clock, results) = (Arc::clone(&self.clock), self.clip_results.clone());
        let lane = evidence::start(config, store, pace, clock, results)?;
        if shared.evidence.set(lane).is_err() {
            tracing::error!(source = %shared.source, "the encoder was started twice");
        }
        Ok(())
    }
}

/// Frames that may wait for outcomes: as many as come within the longest window.
fn pending(paths: &[visualpath_platform::FlowPath], fps: Option<f64>) -> usize {
    let windows = paths.iter().filter_map(|(spec, _)| spec.window_ns);
    let longest_ns = windows.max().unwrap_or(0);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a small number"
    )]
    let frames = (longest_ns as f64 / 1e9 * fps.unwrap_or(30.0)) as usize;
    (frames + frames / 4).clamp(PENDING, 16 * PENDING)
}

/// A change from nothing is a whole.
fn whole(
    change: FlowChange,
) -> (
    Vec<visualpath_platform::LaneSpec>,
    Vec<visualpath_platform::FlowPath>,
) {
    let lanes = change.lanes.into_iter().filter_map(|(_, l)| l).collect();
    let paths = change.paths.into_iter().filter_map(|(_, p)| p).collect();
    (lanes, paths)
}

/// How a source is opened.
///
/// # Errors
/// If its password can't be read.
pub fn source_options(
    config: &Config,
    name: &Name,
    settings: &SourceConfig,
) -> Result<SourceOptions, StartError> {
    let password = settings.password().map_err(|e| {
        let file = settings.password_file.clone().unwrap_or_default();
        let why = format!("`{}` can't be read: {e}", file.display());
        StartError::config(&format!("source.{name}.password_file"), &why)
    })?;
    Ok(SourceOptions {
        realtime: settings.realtime,
        loop_: settings.repeat,
        width: settings.width,
        height: settings.height,
        fps: settings.fps,
        format: settings.wanted_format(),
        controls: settings.wanted_controls(),
        privacy: config.privacy_of(name.as_str()),
        rtsp: RtspOptions {
            transport: match settings.transport {
                None | Some(StreamTransport::Tcp) => RtspTransport::Tcp,
                Some(StreamTransport::Udp) => RtspTransport::Udp,
            },
            username: settings.username.clone(),
            password,
        },
        ..SourceOptions::new(name.clone(), settings.uri.clone())
    })
}

/// What of a source may be kept as it was encoded.
fn pass_through(config: &Config, options: &SourceOptions) -> PassThrough {
    if !options.privacy.is_empty() {
        return PassThrough::Never;
    }
    match config.clip.codec {
        ClipCodec::Auto => PassThrough::Any,
        ClipCodec::H264 => PassThrough::Only(Codec::H264),
        ClipCodec::Mjpeg => PassThrough::Only(Codec::Mjpeg),
    }
}

fn pace(source: &Name, settings: &SourceConfig, info: &SourceInfo) -> Pace {
    let fps = match (settings.fps, info.nominal_fps) {
        (Some(asked), Some(nominal)) => Some(asked.min(nominal)),
        (asked, nominal) => asked.or(nominal),
    };
    Pace {
        source: source.clone(),
        realtime: settings.realtime,
        fps,
    }
}

impl Ready {
    /// The source's name.
    pub fn source(&self) -> &Name {
        &self.line.shared.source
    }

    /// What others know of the line.
    pub fn shared(&self) -> &Arc<LineShared> {
        &self.line.shared
    }

    /// Its extractors.
    pub fn extractors(&self) -> impl Iterator<Item = &Name> {
        self.line.shape.extractors()
    }

    /// Goes on where `before`, which has ended, was.
    pub fn after(mut self, before: &Line) -> Self {
        let start = before.next_start();
        self.capture.source.begin(start);
        let stats = &self.capture.stats;
        stats.next_frame_id.store(start.frame_id, Ordering::Relaxed);
        stats.last_t_ns.store(start.t_ns, Ordering::Relaxed);
        self.continues = true;
        self
    }

    /// Starts its threads.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn go(self, maker: &LineMaker) -> Result<Line, StartError> {
        if !self.continues && maker.wall_start.is_none() {
            self.line.shared.wall.begin();
        }
        let Self {
            mut line,
            flow,
            capture,
            captured,
            pool,
            continues: _,
        } = self;
        let source = &line.shared.source;
        let mut walls = maker.walls.lock().unwrap_or_else(PoisonError::into_inner);
        walls.retain(|w| w.strong_count() > 0);
        walls.push(Arc::downgrade(&line.shared));
        drop(walls);
        maker.live.add(&line.shared, &line.stats);
        line.path = Some(spawn(&format!("path-{source}"), move || {
            flow.run(&captured)
        })?);
        line.capture = Some(spawn(&format!("cap-{source}"), move || capture.run(pool))?);
        Ok(line)
    }
}

impl Line {
    /// Where a source of this name would go on now.
    fn next_start(&self) -> Start {
        let capture = &self.stats.capture;
        let after = capture.last_t_ns.load(Ordering::Relaxed).saturating_add(1);
        Start {
            frame_id: capture.next_frame_id.load(Ordering::Relaxed),
            // A file read faster than its own pace has a clock of its own.
            t_ns: match self.pace.realtime {
                true => after.max(self.shared.wall.elapsed_ns()),
                false => after,
            },
            epoch: self.epoch.saturating_add(1),
        }
    }

    /// Whether its source can go on under these settings: all that differs, if anything, are
    /// controls, which are set while it runs.
    ///
    /// # Errors
    /// If a file that belongs to the settings can't be read.
    pub fn serves(&self, config: &Config, settings: &SourceConfig) -> Result<bool, StartError> {
        let new = source_options(config, &self.shared.source, settings)?;
        let controls = self.options.controls.clone();
        Ok(SourceOptions { controls, ..new } == self.options)
    }

    /// Takes over the settings of a source that goes on. True if controls were changed.
    pub fn set_controls(&mut self, settings: &SourceConfig) -> bool {
        let controls = settings.wanted_controls();
        let changed = controls != self.options.controls;
        self.pool_plan
            .change(|wanted| wanted.controls.clone_from(&controls));
        self.options.controls = controls;
        self.settings = settings.clone();
        changed
    }

    /// Wakes its path thread.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Goes on with other lanes and paths from the next frame on.
    pub fn reshape(&mut self, reshape: Reshape, slots: usize, longest_pre_s: f64) {
        self.shared.set_pre_roll(longest_pre_s);
        let views = reshape.shape.views();
        let clips = self.shared.evidence().is_some();
        self.pool_plan.change(|wanted| {
            wanted.slots = slots;
            wanted.views = views;
            wanted.clips = clips;
        });
        self.shared.set_paths(reshape.paths);
        let (in_force, done) = bounded(0);
        let change = FlowChange {
            in_force: Some(in_force),
            ..reshape.change
        };
        self.shape = reshape.shape;
        if self.changes.send_timeout(change, PATIENCE).is_err() {
            // It has just ended, or it will never take anything again and the run ends with it.
            tracing::warn!(source = %self.shared.source, "a source that ends takes no changes");
            return;
        }
        // Nothing is ever sent: it disconnects when the change has been made.
        if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(source = %self.shared.source, "an extractor is at work: the change follows");
        }
    }

    /// Whether its source has ended and nothing of it is left to do.
    pub fn is_over(&self) -> bool {
        let done = |thread: Option<bool>| thread.unwrap_or(true);
        done(self.capture.as_ref().map(JoinHandle::is_finished))
            && done(self.path.as_ref().map(JoinHandle::is_finished))
    }

    /// Whether the path thread ended while capture goes on: frames nobody takes.
    pub fn is_broken(&self) -> bool {
        let ending = self.stats.capture.ending.load(Ordering::Acquire);
        !ending && self.path.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for capture to end; with the stop flag set, within the deadline.
    pub fn join_capture(&mut self, stopping: &mut Stopping) {
        let Some(capture) = self.capture.take() else {
            return;
        };
        let shared = &self.shared;
        let name = format!("cap-{}", shared.source);
        self.ended = stopping.join(&name, capture, |late| {
            if late && let Some(evidence) = shared.evidence() {
                // Capture may be waiting for an encoder that waits for a dead disk.
                drop(evidence.finish(Finish::Stopped, Duration::ZERO));
            }
        });
    }

    /// Waits for the path thread and its workers.
    pub fn join_path(&mut self, stopping: &mut Stopping) {
        let Some(path) = self.path.take() else {
            return;
        };
        let name = format!("path-{}", self.shared.source);
        if let Some((_, workers)) = stopping.join(&name, path, |_| ()) {
            stopping.join_all("x-", workers);
        }
    }

    /// Finishes every clip. Every trigger must have asked for its clip before.
    pub fn finish_clips(&self, stopping: &mut Stopping) {
        let Some(evidence) = self.shared.evidence() else {
            return;
        };
        let why = match self.ended {
            Some(Ended::End(_) | Ended::Failed(_)) => Finish::SourceEnd,
            _ => Finish::Stopped,
        };
        if let Err(e) = evidence.finish(why, stopping.left()) {
            stopping.stragglers.push(e.to_string());
        }
    }
}
