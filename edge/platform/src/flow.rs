//! The path thread of one source: frames in, fusion results out.
//!
//! ```text
//! captured ─▶ limiter per extractor ─▶ worker ─▶ outcome ─▶ aligner ─▶ fusion per path ─▶ PathSink
//! ```
//!
//! Everything that decides anything about a source happens on this one thread, in this file; the
//! workers only answer. With `realtime = false` no decision reads the clock: a frame is taken only
//! when every extractor has room for it, and settles only when all have answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use visualpath_core::{
    Clock, DropReason, Fusion, FusionInput, FusionResult, Name, Outcome, StopFlag,
};
use visualpath_frames::{Frame, Holder};

use crate::aligner::{Aligner, PathSpec};
use crate::limiter::{DropPolicy, FlowLimiter, Offer};
use crate::trace::FlowTrace;
use crate::worker::{Isolation, Reply, Runner, SpawnError, ThreadWorker};

/// What the capture thread sends.
pub enum Captured {
    /// A frame.
    Frame(Frame),
    /// Pictures were lost between these source times.
    Gap {
        /// Time of the last frame before.
        from_ns: i64,
        /// Time of the first frame after.
        to_ns: i64,
    },
    /// Nothing follows.
    End,
}

/// When a frame passed the path thread, on the monotonic clock; all 0 for sources that are not
/// realtime, and `dequeued_ns` is 0 for gaps and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Taken over from capture.
    pub dequeued_ns: i64,
    /// Settled: handed to the fusion.
    pub settled_ns: i64,
    /// The fusion has answered.
    pub fused_ns: i64,
}

/// Receives what the fusions say, on the path thread: hand it on, don't work.
pub trait PathSink: Send {
    /// One fusion's answer to one input.
    fn fused(&mut self, path: usize, input: FusionInput<'_>, result: FusionResult, times: Times);

    /// An extractor went on Hold.
    fn held(&mut self, extractor: &Name, why: &str);
}

/// One extractor of the source.
pub struct LaneSpec {
    /// The extractor.
    pub runner: Runner,
    /// Where it runs.
    pub isolation: Isolation,
    /// Rate, queue and drop policy.
    pub limiter: FlowLimiter<Frame>,
    /// Answer expected within this time; ignored inline and when not realtime.
    pub timeout_ns: i64,
    /// Silent for so long, it is put on Hold.
    pub hang_ns: i64,
}

/// Everything one path thread is made of.
pub struct FlowSpec {
    /// The source's name.
    pub source: Name,
    /// Whether frames come at their own pace.
    pub realtime: bool,
    /// Its extractors; path specs refer to them by index.
    pub lanes: Vec<LaneSpec>,
    /// Its paths.
    pub paths: Vec<(PathSpec, Box<dyn Fusion>)>,
    /// Frames that may wait in the aligner.
    pub pending: usize,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Set to stop: frames that wait are dropped instead of worked off.
    pub stop: StopFlag,
    /// How long in-flight frames are waited for when stopping.
    pub stop_grace_ns: i64,
}

/// Counters of one extractor of one source, readable while it runs.
#[derive(Debug, Default)]
pub struct LaneStats {
    /// Skipped by rate: no outcome.
    pub skipped: AtomicU64,
    /// Admitted: equals the sum of the outcomes below once everything has been worked off.
    pub admitted: AtomicU64,
    /// Outcome Observed.
    pub observed: AtomicU64,
    /// Outcome Failed.
    pub failed: AtomicU64,
    /// Outcome TimedOut.
    pub timed_out: AtomicU64,
    /// Outcome Dropped: queue full.
    pub dropped_queue_full: AtomicU64,
    /// Outcome Dropped: worker on Hold.
    pub dropped_held: AtomicU64,
    /// Outcome Dropped: stopping.
    pub dropped_stopping: AtomicU64,
    /// Outcome Dropped: dependency.
    pub dropped_dependency: AtomicU64,
    /// Observations that came after their frame was settled or timed out.
    pub late: AtomicU64,
    /// Nanoseconds spent in the extractor.
    pub busy_ns: AtomicU64,
}

impl LaneStats {
    fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Observed(_) => &self.observed,
            Outcome::Failed(_) => &self.failed,
            Outcome::TimedOut => &self.timed_out,
            Outcome::Dropped(reason) => self.dropped(*reason),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counter of one drop reason.
    pub fn dropped(&self, reason: DropReason) -> &AtomicU64 {
        match reason {
            DropReason::QueueFull => &self.dropped_queue_full,
            DropReason::WorkerHeld => &self.dropped_held,
            DropReason::Stopping => &self.dropped_stopping,
            DropReason::Dependency => &self.dropped_dependency,
        }
    }
}

/// Counters of one source's flow, shared with whoever reports them.
#[derive(Debug)]
pub struct FlowStats {
    /// Frames taken over from capture.
    pub frames: AtomicU64,
    /// Fusions that panicked (and were reset).
    pub fusion_panics: AtomicU64,
    /// Frames settled early because too many were pending.
    pub overflow: AtomicU64,
    /// Per extractor, in lane order.
    pub lanes: Vec<(Name, LaneStats)>,
}

struct InFlight {
    frame_id: u64,
    since_ns: i64,
    /// Its TimedOut is recorded; the answer, when it comes, is late.
    timed_out: bool,
}

enum Worker {
    Inline(Box<Runner>),
    Thread(ThreadWorker),
}

struct Lane {
    name: Name,
    limiter: FlowLimiter<Frame>,
    worker: Worker,
    in_flight: Option<InFlight>,
    held: bool,
    holder: Option<(u32, Holder)>,
    timeout_ns: i64,
    hang_ns: i64,
}

/// One source's limiters, workers, aligner and fusions.
pub struct Flow<S> {
    realtime: bool,
    lanes: Vec<Lane>,
    aligner: Aligner,
    fusions: Vec<Box<dyn Fusion>>,
    sink: S,
    clock: Arc<dyn Clock>,
    /// Lane indices, those with a thread first: they can work while an inline one does.
    order: Vec<usize>,
    stop: StopFlag,
    stop_grace_ns: i64,
    replies: Receiver<(usize, Reply)>,
    stats: Arc<FlowStats>,
    ended: bool,
    /// Set once stopping.
    stop_deadline_ns: Option<i64>,
    /// Idle waiting without a clock (not realtime), for `hang_ms`.
    idle_ns: i64,
    /// The trace, with the paths' names.
    trace: Option<(FlowTrace, Vec<Name>)>,
}

/// How long the thread sleeps at most when nothing happens.
const TICK: Duration = Duration::from_millis(250);

impl<S: PathSink> Flow<S> {
    /// Starts the worker threads.
    pub fn new(spec: FlowSpec, sink: S) -> Result<Self, SpawnError> {
        let names: Vec<Name> = spec.lanes.iter().map(|l| l.runner.name().clone()).collect();
        // One answer per worker can be under way: sending never blocks a worker.
        let (reply_tx, replies): (Sender<(usize, Reply)>, _) = bounded(spec.lanes.len().max(1) * 2);
        let mut lanes = Vec::with_capacity(spec.lanes.len());
        for (index, lane) in spec.lanes.into_iter().enumerate() {
            let name = lane.runner.name().clone();
            let worker = match lane.isolation {
                Isolation::Inline => Worker::Inline(Box::new(lane.runner)),
                Isolation::Thread => {
                    Worker::Thread(ThreadWorker::start(lane.runner, index, reply_tx.clone())?)
                }
            };
            lanes.push(Lane {
                name,
                limiter: lane.limiter,
                worker,
                in_flight: None,
                held: false,
                holder: None,
                timeout_ns: lane.timeout_ns,
                hang_ns: lane.hang_ns,
            });
        }
        let threads = |l: &Lane| matches!(l.worker, Worker::Thread(_));
        let mut order: Vec<usize> = (0..lanes.len()).collect();
        order.sort_by_key(|i| !threads(&lanes[*i]));
        let (paths, fusions): (Vec<_>, Vec<_>) = spec.paths.into_iter().unzip();
        Ok(Self {
            realtime: spec.realtime,
            aligner: Aligner::new(lanes.len(), spec.pending, paths),
            lanes,
            fusions,
            sink,
            clock: spec.clock,
            order,
            stop: spec.stop,
            stop_grace_ns: spec.stop_grace_ns,
            replies,
            stats: Arc::new(FlowStats {
                frames: AtomicU64::new(0),
                fusion_panics: AtomicU64::new(0),
                overflow: AtomicU64::new(0),
                lanes: names
                    .into_iter()
                    .map(|n| (n, LaneStats::default()))
                    .collect(),
            }),
            ended: false,
            stop_deadline_ns: None,
            idle_ns: 0,
            trace: None,
        })
    }

    /// Records what happens; `paths` are the names of the paths, in the spec's order.
    #[must_use]
    pub fn trace(mut self, mut trace: FlowTrace, paths: Vec<Name>) -> Self {
        for (name, window_ns) in paths.iter().zip(self.aligner.windows()) {
            trace.window(name, window_ns);
        }
        self.trace = Some((trace, paths));
        self
    }

    /// The counters.
    pub fn stats(&self) -> Arc<FlowStats> {
        Arc::clone(&self.stats)
    }

    /// Works until the end came and every frame has settled. Gives back the sink and the worker
    /// threads, to be joined with a deadline: one that hangs does not keep the path waiting.
    pub fn run(mut self, captured: &Receiver<Captured>) -> (S, Vec<(Name, JoinHandle<()>)>) {
        let nothing = never();
        loop {
            let now_ns = self.now_ns();
            self.look_for_stop();
            self.expire(now_ns);
            self.settle(now_ns);
            if self.ended && self.aligner.is_empty() && self.lanes.iter().all(Lane::idle) {
                break;
            }
            let source = if self.can_take() { captured } else { &nothing };
            let replies = &self.replies;
            select! {
                recv(replies) -> reply => {
                    // This flow holds no sender, but every worker does; all gone means all ended.
                    if let Ok((index, reply)) = reply {
                        self.idle_ns = 0;
                        self.answered(index, reply);
                    } else {
                        self.workers_gone();
                    }
                }
                recv(source) -> item => {
                    self.idle_ns = 0;
                    // A capture thread that died without a word is an end too.
                    self.take(item.unwrap_or(Captured::End));
                }
                default(self.patience(now_ns)) => self.idle(),
            }
        }
        let threads = self
            .lanes
            .into_iter()
            .filter_map(|lane| match lane.worker {
                Worker::Inline(_) => None,
                Worker::Thread(t) => t.close().map(|h| (lane.name, h)),
            })
            .collect();
        (self.sink, threads)
    }

    /// Whether the next frame may be taken over. Live sources never wait.
    fn can_take(&self) -> bool {
        let must_wait =
            |l: &Lane| !l.held && l.limiter.policy() == DropPolicy::None && !l.limiter.has_room();
        if self.ended || self.stop_deadline_ns.is_some() {
            // While stopping the inbox is only emptied, down to its end.
            return !self.ended;
        }
        !self.lanes.iter().any(must_wait) && (self.realtime || self.aligner.has_room())
    }

    fn take(&mut self, item: Captured) {
        match item {
            // Never offered: a frame that comes while stopping leaves no outcome.
            Captured::Frame(_) if self.stop_deadline_ns.is_some() => {}
            Captured::Frame(frame) => self.offer(&frame),
            Captured::Gap { from_ns, to_ns } => self.aligner.gap(from_ns, to_ns),
            Captured::End => {
                self.ended = true;
                self.aligner.end();
            }
        }
    }

    fn look_for_stop(&mut self) {
        if self.stop_deadline_ns.is_none() && self.stop.is_set() {
            self.stop_deadline_ns = Some(self.clock.now_ns().saturating_add(self.stop_grace_ns));
            for i in 0..self.lanes.len() {
                self.give_up_waiting(i, DropReason::Stopping);
            }
        }
    }

    fn offer(&mut self, frame: &Frame) {
        let meta = *frame.meta();
        self.stats.frames.fetch_add(1, Ordering::Relaxed);
        self.aligner.frame(meta.frame_id, meta.t_ns, self.now_ns());
        if let Some((trace, _)) = &mut self.trace {
            trace.tick(meta.t_ns);
        }
        for k in 0..self.order.len() {
            let i = self.order[k];
            let lane = &mut self.lanes[i];
            let stats = &self.stats.lanes[i].1;
            if lane.held {
                if lane.limiter.wants(meta.t_ns) {
                    stats.admitted.fetch_add(1, Ordering::Relaxed);
                    self.aligner.admitted(meta.frame_id, i);
                    self.outcome(i, meta.frame_id, Outcome::Dropped(DropReason::WorkerHeld));
                } else {
                    stats.skipped.fetch_add(1, Ordering::Relaxed);
                    if let Some((trace, _)) = &mut self.trace {
                        trace.skipped(&lane.name, meta.frame_id, "rate");
                    }
                }
                continue;
            }
            let holder = lane.holder(frame);
            let offer = lane.limiter.offer(meta.t_ns, || frame.lease(holder));
            if matches!(offer, Offer::Skipped) {
                stats.skipped.fetch_add(1, Ordering::Relaxed);
                if let Some((trace, _)) = &mut self.trace {
                    trace.skipped(&lane.name, meta.frame_id, "rate");
                }
                continue;
            }
            stats.admitted.fetch_add(1, Ordering::Relaxed);
            self.aligner.admitted(meta.frame_id, i);
            match offer {
                Offer::Skipped | Offer::Queued => {}
                Offer::Dispatch(frame) => self.dispatch(i, frame),
                Offer::QueuedDropping(old) | Offer::Full(old) => {
                    self.outcome(
                        i,
                        old.meta().frame_id,
                        Outcome::Dropped(DropReason::QueueFull),
                    );
                }
            }
        }
        self.aligner.offered(meta.frame_id);
    }

    fn dispatch(&mut self, i: usize, frame: Frame) {
        let since_ns = self.now_ns();
        let frame_id = frame.meta().frame_id;
        let lane = &mut self.lanes[i];
        lane.in_flight = Some(InFlight {
            frame_id,
            since_ns,
            timed_out: false,
        });
        match &mut lane.worker {
            Worker::Inline(runner) => {
                let reply = runner.run(&frame);
                drop(frame);
                self.answered(i, reply);
            }
            Worker::Thread(thread) => {
                if !thread.dispatch(frame) {
                    self.hold(i, "its thread is gone");
                }
            }
        }
    }

    fn answered(&mut self, i: usize, reply: Reply) {
        let (frame_id, took_ns) = (reply.frame_id, reply.took_ns);
        self.stats.lanes[i]
            .1
            .busy_ns
            .fetch_add(took_ns.unsigned_abs(), Ordering::Relaxed);
        let lane = &mut self.lanes[i];
        let timed_out = lane
            .in_flight
            .take()
            .is_none_or(|f| f.frame_id != frame_id || f.timed_out);
        if timed_out {
            self.aligner.late(i, &reply.outcome);
            self.stats.lanes[i].1.late.fetch_add(1, Ordering::Relaxed);
        } else {
            self.outcome_after(i, frame_id, reply.outcome, took_ns);
        }
        if let Some(why) = reply.held {
            self.hold(i, &why);
        } else if !self.lanes[i].held
            && let Some(next) = self.lanes[i].limiter.completed()
        {
            self.dispatch(i, next);
        }
    }

    /// Records the outcome of an admitted frame, once.
    fn outcome(&mut self, i: usize, frame_id: u64, outcome: Outcome) {
        self.outcome_after(i, frame_id, outcome, 0);
    }

    fn outcome_after(&mut self, i: usize, frame_id: u64, outcome: Outcome, took_ns: i64) {
        if let Some((trace, _)) = &mut self.trace {
            let lane = &self.lanes[i];
            let t_ns = self.aligner.t_ns(frame_id).unwrap_or(0);
            // How many wait is the limiter's to say, once it can.
            trace.outcome(&lane.name, frame_id, t_ns, &outcome, took_ns, 0);
        }
        let stats = &self.stats.lanes[i].1;
        stats.count(&outcome);
        if let Outcome::Failed(why) = &outcome {
            // Said ever more seldom: an extractor may fail on every frame for weeks.
            let failed = stats.failed.load(Ordering::Relaxed);
            if failed.is_power_of_two() {
                let extractor = &self.lanes[i].name;
                tracing::warn!(%extractor, frame_id, why = &**why, failed, "extractor failed on a frame");
            }
        }
        let late = self.aligner.stats().late[i];
        self.aligner.outcome(frame_id, i, outcome);
        stats
            .late
            .fetch_add(self.aligner.stats().late[i] - late, Ordering::Relaxed);
    }

    /// Time-outs and hangs of realtime sources, and the deadline of a stop.
    fn expire(&mut self, now_ns: i64) {
        let stop = self
            .stop_deadline_ns
            .is_some_and(|d| self.clock.now_ns() >= d);
        for i in 0..self.lanes.len() {
            let lane = &mut self.lanes[i];
            let Some(f) = &mut lane.in_flight else {
                continue;
            };
            let silent_ns = now_ns.saturating_sub(f.since_ns);
            let hung = self.realtime && silent_ns >= lane.hang_ns;
            if stop || hung {
                let why = if stop {
                    "still busy when stopping"
                } else {
                    "silent past hang_ms"
                };
                self.hold(i, why);
            } else if self.realtime && silent_ns >= lane.timeout_ns && !f.timed_out {
                f.timed_out = true;
                let frame_id = f.frame_id;
                self.outcome(i, frame_id, Outcome::TimedOut);
            }
        }
    }

    /// Nothing came for a whole patience. Without a clock this is how a hung worker is found.
    fn idle(&mut self) {
        if self.realtime {
            return;
        }
        self.idle_ns = self
            .idle_ns
            .saturating_add(i64::try_from(TICK.as_nanos()).unwrap_or(i64::MAX));
        for i in 0..self.lanes.len() {
            if self.lanes[i].in_flight.is_some() && self.idle_ns >= self.lanes[i].hang_ns {
                self.hold(i, "silent past hang_ms");
            }
        }
    }

    fn workers_gone(&mut self) {
        for i in 0..self.lanes.len() {
            if matches!(self.lanes[i].worker, Worker::Thread(_)) && !self.lanes[i].held {
                self.hold(i, "its thread is gone");
            }
        }
        // The closed channel would be ready for ever; from here on nobody answers.
        self.replies = never();
    }

    /// The worker gets no more frames; what it owes is settled now. The frame it has stays leased
    /// until it answers.
    fn hold(&mut self, i: usize, why: &str) {
        let lane = &mut self.lanes[i];
        if !lane.held {
            lane.held = true;
            let name = lane.name.clone();
            if self.stop_deadline_ns.is_none() {
                tracing::error!(extractor = %name, why, "extractor on Hold; the pipeline goes on without it");
                self.sink.held(&name, why);
                if let Some((trace, _)) = &mut self.trace {
                    trace.worker(&name, "held", why);
                }
            }
        }
        if let Some(f) = self.lanes[i].in_flight.take()
            && !f.timed_out
        {
            self.outcome(i, f.frame_id, Outcome::TimedOut);
        }
        self.give_up_waiting(i, DropReason::WorkerHeld);
    }

    fn give_up_waiting(&mut self, i: usize, reason: DropReason) {
        while let Some(frame) = self.lanes[i].limiter.take_waiting() {
            self.outcome(i, frame.meta().frame_id, Outcome::Dropped(reason));
        }
    }

    fn settle(&mut self, now_ns: i64) {
        let Self {
            aligner,
            fusions,
            sink,
            stats,
            clock,
            realtime,
            trace,
            ..
        } = self;
        let read = || if *realtime { clock.now_ns() } else { 0 };
        aligner.settle(now_ns, |path, input, dequeued_ns| {
            let fusion = &mut fusions[path];
            let settled_ns = read();
            match catch_unwind(AssertUnwindSafe(|| fusion.update(input))) {
                Ok(result) => {
                    let times = Times {
                        dequeued_ns,
                        settled_ns,
                        fused_ns: read(),
                    };
                    if let Some((trace, paths)) = trace {
                        trace.fused(&paths[path], &input, &result, &times);
                    }
                    sink.fused(path, input, result, times);
                }
                Err(_) => {
                    if let Some((trace, paths)) = trace {
                        trace.fusion_panicked(&paths[path], &input);
                    }
                    // A fusion that panicked starts again; its path goes on.
                    stats.fusion_panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        path,
                        "fusion panicked; it is reset, and what it had open stays open"
                    );
                    if catch_unwind(AssertUnwindSafe(|| fusion.reset())).is_err() {
                        tracing::error!(path, "fusion panicked again while it was reset");
                    }
                }
            }
        });
        stats
            .overflow
            .store(aligner.stats().overflow, Ordering::Relaxed);
    }

    /// 0 when not realtime, so that nothing can depend on it.
    fn now_ns(&self) -> i64 {
        if self.realtime {
            self.clock.now_ns()
        } else {
            0
        }
    }

    /// How long to wait for the next message: until the next window, time-out or hang.
    fn patience(&self, now_ns: i64) -> Duration {
        if !self.realtime {
            return TICK;
        }
        let lanes = self.lanes.iter().filter_map(|l| {
            let f = l.in_flight.as_ref()?;
            f.since_ns
                .checked_add(if f.timed_out { l.hang_ns } else { l.timeout_ns })
        });
        let next_ns = self
            .aligner
            .next_deadline_ns()
            .into_iter()
            .chain(lanes)
            .min();
        next_ns.map_or(TICK, |at| {
            Duration::from_nanos(at.saturating_sub(now_ns).max(0).unsigned_abs()).min(TICK)
        })
    }
}

impl Lane {
    fn idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Its tag in the frame's pool, registered once per pool.
    fn holder(&mut self, frame: &Frame) -> Holder {
        match self.holder {
            Some((id, holder)) if id == frame.pool_id() => holder,
            _ => {
                let holder = frame.pool().holder(self.name.as_str());
                self.holder = Some((frame.pool_id(), holder));
                holder
            }
        }
    }
}
