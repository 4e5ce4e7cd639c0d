//! The path thread of one source: frames in, fusion results out.
//!
//! ```text
//! captured ─▶ gate, rate, limiter per extractor ─▶ worker ─▶ outcome ─▶ aligner ─▶ fusion per path ─▶ PathSink
//!                   ▲                                          │
//!                   └──── dependents wait for the outcome ─────┘
//! ```
//!
//! Everything that decides anything about a source happens on this one thread, in this file; the
//! workers only answer. With `realtime = false` no decision reads the clock: a frame is taken only
//! when every extractor has room for it, and settles only when all have answered.
//!
//! An extractor is a *lane*, known by its index. What every lane says of a frame is *resolved*
//! exactly once, as skipped, observed or lost; that is what dependents wait for.

mod change;
mod children;
mod lane;
mod late;
mod settle;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select};
use visualpath_core::{
    Clock, DropReason, Fusion, FusionInput, FusionResult, NS_PER_S, Name, Outcome, StopFlag,
};
use visualpath_frames::Frame;

use crate::aligner::{Aligner, MAX_EXTRACTORS, PathSpec};
use crate::bell::{Bell, BellSender};
use crate::depends::{Deps, Resolved, Verdict};
use crate::limiter::{Admitted, DropPolicy};
use crate::trace::FlowTrace;
use crate::worker::{Job, Leaving, Reply, SpawnError, Ticket};

use change::Fused;
use lane::{InFlight, Lane, Worker};
pub use lane::{LaneGate, LaneSpec, LaneStats, LaneWorker, Skip};
use late::Answer;
pub use late::Lateness;

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
    /// A looping file starts again; source time goes on.
    Wrapped,
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
    fn fused(&mut self, path: &Name, input: FusionInput<'_>, result: FusionResult, times: Times);

    /// An extractor went on Hold.
    fn held(&mut self, extractor: &Name, why: &str);

    /// An extractor's process died and comes again (`Some` with the reason), or is there.
    fn restarting(&mut self, _extractor: &Name, _why: Option<&str>) {}

    /// An extractor's observations have been coming too late for ten seconds (or do so no more).
    fn late(&mut self, _extractor: &Name, _lateness: Option<Lateness>) {}
}

/// A fusion and what it wants.
pub type FlowPath = (PathSpec, Box<dyn Fusion>);

/// Everything one path thread is made of.
pub struct FlowSpec {
    /// The source's name.
    pub source: Name,
    /// Whether frames come at their own pace.
    pub realtime: bool,
    /// Its extractors; path specs and `depends` refer to them by index.
    pub lanes: Vec<LaneSpec>,
    /// Its paths.
    pub paths: Vec<FlowPath>,
    /// Frames that may wait in the aligner.
    pub pending: usize,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Wall time of a source time, nanoseconds since 1970 UTC.
    pub unix_ns: Arc<dyn Fn(i64) -> i64 + Send + Sync>,
    /// Wakes the path thread when it waits for child processes: whoever sends frames or changes
    /// must ring it ([`Bell::channel`]).
    pub bell: Bell,
    /// Changes while it runs, applied between two frames.
    pub changes: Receiver<FlowChange>,
    /// Records what happens.
    pub trace: FlowTrace,
    /// Set to stop: frames that wait are dropped instead of worked off.
    pub stop: StopFlag,
    /// How long in-flight frames are waited for when stopping.
    pub stop_grace_ns: i64,
}

/// Another set of lanes and paths, from the next frame on. What it does not name goes on.
#[derive(Default)]
pub struct FlowChange {
    /// Lanes put in place of these indices, or taken away. Whoever depends on a lane that goes
    /// must go in the same change.
    pub lanes: Vec<(usize, Option<LaneSpec>)>,
    /// Paths put in place of these indices, or taken away.
    pub paths: Vec<(usize, Option<FlowPath>)>,
    /// Dropped once the change is in force, for whoever waits for that.
    pub in_force: Option<Sender<()>>,
}

/// Counters of one source's flow, shared with whoever reports them.
#[derive(Debug, Default)]
pub struct FlowStats {
    /// Frames taken over from capture.
    pub frames: AtomicU64,
    /// Fusions that panicked (and were reset).
    pub fusion_panics: AtomicU64,
    /// Frames settled early because too many were pending.
    pub overflow: AtomicU64,
    lanes: RwLock<Vec<(Name, Arc<LaneStats>)>>,
}

impl FlowStats {
    /// Per extractor, in lane order; those that were taken away too.
    pub fn lanes(&self) -> Vec<(Name, Arc<LaneStats>)> {
        // Nothing panics while it is held.
        self.lanes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, name: &Name, stats: &Arc<LaneStats>) {
        self.lanes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name.clone(), Arc::clone(stats)));
    }
}

/// Why a flow could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// A worker thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// More extractors than one source can have.
    #[error("{0} extractors on one source, at most {MAX_EXTRACTORS}: spread them over several")]
    TooMany(usize),
}

/// One source's limiters, workers, aligner and fusions.
pub struct Flow<S> {
    realtime: bool,
    lanes: Vec<Lane>,
    aligner: Aligner,
    fusions: Vec<Fused>,
    sink: S,
    clock: Arc<dyn Clock>,
    unix_ns: Arc<dyn Fn(i64) -> i64 + Send + Sync>,
    /// Lanes that wait for nobody, those with a thread first: they can work while an inline one
    /// does.
    roots: Vec<usize>,
    /// Lanes that wait for others.
    waiting: Vec<usize>,
    /// Lanes in processes of their own.
    children: Vec<usize>,
    bell: Bell,
    trace: FlowTrace,
    stop: StopFlag,
    stop_grace_ns: i64,
    /// Given to every new worker; this also keeps the channel open.
    reply_to: BellSender<(Ticket, Reply)>,
    replies: Receiver<(Ticket, Reply)>,
    changes: Receiver<FlowChange>,
    stats: Arc<FlowStats>,
    /// Frames that went to make room, before they get their outcome.
    dropped: Vec<Job>,
    serial: u64,
    dequeued_ns: i64,
    /// The newest frame taken over.
    last_frame: Option<u64>,
    /// Since when no frame has come, if pictures were lost since.
    gap_since_ns: Option<i64>,
    ended: bool,
    /// Set once stopping.
    stop_deadline_ns: Option<i64>,
    /// Idle waiting without a clock (not realtime), for `hang_ms`.
    idle_ns: i64,
    /// When a frame or an answer last came, and when that was last looked at; of sources with
    /// worker processes, whose sleep is broken by other things.
    moved_at: Instant,
    looked_at: Instant,
    /// Workers of lanes that were taken away.
    retired: Vec<(Name, Leaving)>,
}

/// How long the thread sleeps at most when nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// A gap longer than this voids what extractors remember.
const LONG_GAP_NS: i64 = 5 * NS_PER_S;

impl<S: PathSink> Flow<S> {
    /// Starts the worker threads.
    pub fn new(spec: FlowSpec, sink: S) -> Result<Self, FlowError> {
        if spec.lanes.len() > MAX_EXTRACTORS {
            return Err(FlowError::TooMany(spec.lanes.len()));
        }
        // One answer per worker can be under way, and one of a worker that was replaced meanwhile.
        let (reply_to, replies) = spec.bell.channel(MAX_EXTRACTORS * 2);
        let mut spec = spec;
        for (path, _) in &spec.paths {
            spec.trace.window(&path.name, path.window_ns);
        }
        let (paths, fusions): (Vec<_>, Vec<_>) = spec
            .paths
            .into_iter()
            .map(|(path, fusion)| (path.clone(), Fused::new(path.name, fusion)))
            .unzip();
        let mut flow = Self {
            realtime: spec.realtime,
            aligner: Aligner::new(spec.lanes.len(), spec.pending, paths),
            lanes: Vec::with_capacity(spec.lanes.len()),
            fusions,
            sink,
            clock: spec.clock,
            unix_ns: spec.unix_ns,
            roots: Vec::new(),
            waiting: Vec::new(),
            children: Vec::new(),
            bell: spec.bell,
            trace: spec.trace,
            stop: spec.stop,
            stop_grace_ns: spec.stop_grace_ns,
            reply_to,
            replies,
            changes: spec.changes,
            stats: Arc::new(FlowStats::default()),
            dropped: Vec::with_capacity(MAX_EXTRACTORS),
            serial: 0,
            dequeued_ns: 0,
            last_frame: None,
            gap_since_ns: None,
            ended: false,
            stop_deadline_ns: None,
            idle_ns: 0,
            moved_at: Instant::now(),
            looked_at: Instant::now(),
            retired: Vec::new(),
        };
        for lane in spec.lanes {
            let lane = flow.lane(flow.lanes.len(), lane)?;
            flow.lanes.push(lane);
        }
        flow.sort_lanes();
        Ok(flow)
    }

    /// The counters.
    pub fn stats(&self) -> Arc<FlowStats> {
        Arc::clone(&self.stats)
    }

    /// Works until the end came and every frame has settled. Gives back the sink and the workers
    /// that end, to be joined with a deadline: one that hangs does not keep the path waiting.
    pub fn run(mut self, captured: &Receiver<Captured>) -> (S, Vec<(Name, Leaving)>) {
        let nothing = never();
        self.say_down();
        loop {
            let now_ns = self.now_ns();
            self.look_for_stop();
            self.expire(now_ns);
            self.settle(now_ns);
            if self.ended && self.aligner.is_empty() && self.lanes.iter().all(Lane::idle) {
                break;
            }
            let source = if self.can_take() { captured } else { &nothing };
            if !self.children.is_empty() {
                self.turn(source, now_ns);
                continue;
            }
            let (replies, changes) = (&self.replies, &self.changes);
            select! {
                // Never closed: this flow holds a sender itself.
                recv(replies) -> reply => self.replied(reply.ok()),
                recv(changes) -> change => self.changed(change.ok()),
                // A capture thread that died without a word is an end too.
                recv(source) -> item => self.came(item.unwrap_or(Captured::End)),
                default(self.patience(now_ns)) => self.idle(),
            }
        }
        let mut leaving = self.retired;
        for lane in &mut self.lanes {
            leaving.extend(lane.leave().map(|l| (lane.name.clone(), l)));
        }
        (self.sink, leaving)
    }

    fn replied(&mut self, reply: Option<(Ticket, Reply)>) {
        let Some((ticket, reply)) = reply else { return };
        self.moved();
        if self.lanes[ticket.lane].serial == ticket.serial {
            self.answered(ticket.lane, reply);
        }
    }

    fn changed(&mut self, change: Option<FlowChange>) {
        match change {
            Some(change) => self.change(change),
            // Nobody is left who could change anything.
            None => self.changes = never(),
        }
    }

    /// A frame or an answer came.
    fn moved(&mut self) {
        self.idle_ns = 0;
        self.moved_at = Instant::now();
    }

    fn came(&mut self, item: Captured) {
        self.moved();
        self.take(item);
    }

    /// Whether the next frame may be taken over. Live sources never wait.
    fn can_take(&self) -> bool {
        // Frames that a dependent has not decided on yet may still need its places.
        let must_wait = |l: &Lane| {
            !l.held
                && !l.is_gone()
                && l.limiter.policy() == DropPolicy::None
                && l.limiter.room() <= l.waiting.len()
        };
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
            Captured::Gap { from_ns, to_ns } => {
                self.aligner.gap(from_ns, to_ns);
                // A source tells of a long one in pieces.
                let since_ns = *self.gap_since_ns.get_or_insert(from_ns);
                if to_ns.saturating_sub(since_ns) > LONG_GAP_NS {
                    self.reset_extractors();
                }
            }
            Captured::Wrapped => self.reset_extractors(),
            Captured::End => {
                self.ended = true;
                self.aligner.end();
            }
        }
    }

    /// Before their next frame, extractors forget what they remember.
    fn reset_extractors(&mut self) {
        for lane in &mut self.lanes {
            lane.reset_after = self.last_frame;
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
        self.dequeued_ns = self.now_ns();
        self.last_frame = Some(meta.frame_id);
        self.gap_since_ns = None;
        self.trace.tick(meta.t_ns);
        let unix_ns = (self.unix_ns)(meta.t_ns);
        self.aligner
            .frame(meta.frame_id, meta.t_ns, unix_ns, self.dequeued_ns);
        for k in 0..self.waiting.len() {
            let i = self.waiting[k];
            let lane = &mut self.lanes[i];
            let holder = lane.holder(frame);
            let waiting = (frame.lease(holder), self.dequeued_ns);
            lane.waiting.push(meta.frame_id, meta.t_ns, waiting);
            self.aligner.undecided(meta.frame_id, i);
        }
        for k in 0..self.roots.len() {
            self.decide(self.roots[k], frame, self.dequeued_ns, Deps::new());
        }
        self.aligner.offered(meta.frame_id);
    }

    /// Offers a frame to a lane everybody before which has been asked.
    fn decide(&mut self, i: usize, frame: &Frame, dequeued_ns: i64, deps: Deps) {
        let meta = *frame.meta();
        if !self.gate_open(i, meta.frame_id, meta.t_ns) {
            return self.skip(i, meta.frame_id, Skip::Gate);
        }
        if !self.lanes[i].limiter.wants(meta.t_ns) {
            return self.skip(i, meta.frame_id, Skip::Rate);
        }
        let lane = &mut self.lanes[i];
        lane.stats.admitted.fetch_add(1, Ordering::Relaxed);
        self.aligner.admitted(meta.frame_id, i);
        let stopping = self.stop_deadline_ns.is_some();
        // A live source does not wait for a process to come again.
        let refused = match lane.held || (lane.down && self.realtime) {
            true => Some(DropReason::WorkerHeld),
            false => stopping.then_some(DropReason::Stopping),
        };
        if let Some(reason) = refused {
            return self.outcome(i, meta.frame_id, Outcome::Dropped(reason), None);
        }
        let holder = lane.holder(frame);
        let job = Job {
            frame: frame.lease(holder),
            deps,
            reset: false,
            dequeued_ns,
        };
        let admitted = lane.limiter.admit(job, &mut self.dropped);
        let mut dropped = std::mem::take(&mut self.dropped);
        for old in dropped.drain(..) {
            let id = old.frame.meta().frame_id;
            self.outcome(i, id, Outcome::Dropped(DropReason::QueueFull), None);
        }
        self.dropped = dropped;
        match admitted {
            Admitted::Taken => {}
            Admitted::Dispatch(job) => self.dispatch(i, job),
            Admitted::Full(_) => {
                let dropped = Outcome::Dropped(DropReason::QueueFull);
                self.outcome(i, meta.frame_id, dropped, None);
            }
        }
    }

    fn gate_open(&mut self, i: usize, frame_id: u64, t_ns: i64) -> bool {
        let Some(mut gate) = self.lanes[i].gate.take() else {
            return true;
        };
        let LaneGate { gate: open, lanes } = &mut gate;
        let open = open.open(t_ns, &mut |extractor| {
            let lane = self.lanes.get(*lanes.get(extractor)?)?;
            let held = lane.newest_at(frame_id)?;
            (t_ns.saturating_sub(held.t_ns) <= lane.stale_ns).then(|| Arc::clone(held))
        });
        self.lanes[i].gate = Some(gate);
        open
    }

    fn skip(&mut self, i: usize, frame_id: u64, why: Skip) {
        let lane = &self.lanes[i];
        lane.stats.count_skip(why);
        self.trace.skipped(&lane.name, frame_id, why.as_str());
        self.aligner.skipped(frame_id, i);
        self.resolve(i, frame_id, Resolved::Skipped);
    }

    /// Lane `by` is done with the frame: who waited for that, and for nobody else, is offered it.
    fn resolve(&mut self, by: usize, frame_id: u64, how: Resolved<'_>) {
        let mut dependents = self.lanes[by].dependents;
        while dependents != 0 {
            let d = dependents.trailing_zeros() as usize;
            dependents &= dependents - 1;
            self.lanes[d].waiting.resolve(frame_id, by, how);
            while let Some(decided) = self.lanes[d].waiting.decided() {
                match decided.verdict {
                    Verdict::Offer((frame, dequeued_ns), deps) => {
                        self.decide(d, &frame, dequeued_ns, deps);
                    }
                    Verdict::Skip => self.skip(d, decided.frame_id, Skip::Dependency),
                    Verdict::Drop => self.drop_dependent(d, decided.frame_id, decided.t_ns),
                }
            }
        }
    }

    /// What the lane depends on failed on a frame that the lane itself would have taken.
    fn drop_dependent(&mut self, i: usize, frame_id: u64, t_ns: i64) {
        if !self.gate_open(i, frame_id, t_ns) {
            return self.skip(i, frame_id, Skip::Gate);
        }
        let lane = &mut self.lanes[i];
        if !lane.limiter.wants(t_ns) {
            return self.skip(i, frame_id, Skip::Rate);
        }
        lane.stats.admitted.fetch_add(1, Ordering::Relaxed);
        self.aligner.admitted(frame_id, i);
        let dropped = Outcome::Dropped(DropReason::Dependency);
        self.outcome(i, frame_id, dropped, None);
    }

    fn dispatch(&mut self, i: usize, mut job: Job) {
        let lane = &mut self.lanes[i];
        if lane.down {
            lane.parked = Some(job);
            return;
        }
        let id = job.frame.meta().frame_id;
        job.reset = lane.reset_after.take_if(|after| id > *after).is_some();
        lane.in_flight = Some(InFlight {
            frame_id: id,
            since_ns: if self.realtime {
                self.clock.now_ns()
            } else {
                0
            },
            dequeued_ns: job.dequeued_ns,
            timed_out: false,
        });
        match &mut lane.worker {
            Worker::Inline(runner) => {
                let reply = runner.run(&job);
                drop(job);
                self.answered(i, reply);
            }
            Worker::Thread(thread) => {
                if !thread.dispatch(job) {
                    self.hold(i, "its thread is gone");
                }
            }
            Worker::Child(child) => {
                child.dispatch(job);
                self.hear(i);
            }
            Worker::Gone => {}
        }
    }

    fn answered(&mut self, i: usize, reply: Reply) {
        let (frame_id, took_ns) = (reply.frame_id, reply.took_ns);
        let now_ns = self.now_ns();
        let lane = &mut self.lanes[i];
        lane.stats
            .busy_ns
            .fetch_add(took_ns.unsigned_abs(), Ordering::Relaxed);
        let flight = lane.in_flight.take().filter(|f| f.frame_id == frame_id);
        match flight {
            Some(f) if !f.timed_out => {
                let answer = (f.dequeued_ns, took_ns);
                self.outcome(i, frame_id, reply.outcome, Some(answer));
            }
            flight => {
                lane.stats.late.fetch_add(1, Ordering::Relaxed);
                if let Some(f) = flight {
                    let took = now_ns.saturating_sub(f.since_ns);
                    lane.late.note(now_ns, Answer::AfterTimeout(took));
                }
                if let Outcome::Observed(new) = &reply.outcome {
                    lane.remember(new);
                }
                self.aligner.late(i, &reply.outcome);
            }
        }
        if let Some(why) = reply.held {
            self.hold(i, &why);
        } else if !self.lanes[i].held
            && let Some(next) = self.lanes[i].limiter.completed()
        {
            self.dispatch(i, next);
        }
    }

    /// Records the outcome of an admitted frame, once. Of an answer, `answer` says when its frame
    /// was dequeued and how long it took.
    fn outcome(&mut self, i: usize, frame_id: u64, outcome: Outcome, answer: Option<(i64, i64)>) {
        let now_ns = self.now_ns();
        let lane = &mut self.lanes[i];
        lane.stats.count(&outcome);
        let t_ns = self.aligner.t_ns(frame_id).unwrap_or(0);
        let (took_ns, waiting) = (answer.map_or(0, |(_, took)| took), lane.limiter.waiting());
        self.trace
            .outcome(&lane.name, frame_id, t_ns, &outcome, took_ns, waiting);
        if let Outcome::Failed(why) = &outcome {
            // Said ever more seldom: an extractor may fail on every frame for weeks.
            let failed = lane.stats.failed.load(Ordering::Relaxed);
            if failed.is_power_of_two() {
                let extractor = &lane.name;
                tracing::warn!(%extractor, frame_id, why = &**why, failed, "extractor failed on a frame");
            }
        }
        let new = match &outcome {
            Outcome::Observed(new) => {
                lane.remember(new);
                Some(Arc::clone(new))
            }
            _ => None,
        };
        let before = self.aligner.stats().late[i];
        self.aligner.outcome(frame_id, i, outcome);
        let late = self.aligner.stats().late[i] - before;
        lane.stats.late.fetch_add(late, Ordering::Relaxed);
        if let Some((dequeued_ns, _)) = answer.filter(|_| self.realtime) {
            let took = now_ns.saturating_sub(dequeued_ns);
            let answer = if late > 0 {
                Answer::AfterWindow(took)
            } else {
                Answer::InTime
            };
            lane.late.note(now_ns, answer);
        }
        let how = new.as_ref().map_or(Resolved::Lost, Resolved::Observed);
        self.resolve(i, frame_id, how);
    }

    /// 0 when not realtime, so that nothing can depend on it.
    fn now_ns(&self) -> i64 {
        if self.realtime {
            self.clock.now_ns()
        } else {
            0
        }
    }
}
