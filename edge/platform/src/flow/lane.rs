//! One extractor of one source as the path thread keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visualpath_core::{DropReason, Held, Name, Outcome};
use visualpath_frames::{Frame, Holder};

use heapless::Deque;

use super::late::LateWatch;
use crate::depends::Dependencies;
use crate::isolation::ChildWorker;
use crate::limiter::{DropPolicy, FlowLimiter, MAX_QUEUE};
use crate::rules::Gate;
use crate::worker::{Isolation, Job, Leaving, Runner, ThreadWorker};

/// One extractor of the source.
pub struct LaneSpec {
    /// The extractor, and where it runs.
    pub worker: LaneWorker,
    /// Rate, queue and drop policy.
    pub limiter: FlowLimiter<Job>,
    /// Lanes whose answers about the same frame it wants.
    pub depends: Vec<usize>,
    /// It is offered frames only while this holds.
    pub gate: Option<LaneGate>,
    /// Its answers are too old for gates after this time, nanoseconds of source time.
    pub stale_ns: i64,
    /// Answer expected within this time; ignored inline and when not realtime.
    pub timeout_ns: i64,
    /// Silent for so long, it is put on Hold.
    pub hang_ns: i64,
}

/// An extractor, and where it runs.
pub enum LaneWorker {
    /// On the path thread.
    Inline(Box<Runner>),
    /// On a thread of its own.
    Thread(Box<Runner>),
    /// In a process of its own, started with the bell of the flow.
    Child(Box<ChildWorker>),
}

impl LaneWorker {
    /// In this process: inline, or on a thread for any stronger isolation.
    pub fn local(runner: Runner, isolation: Isolation) -> Self {
        match isolation {
            Isolation::Inline => Self::Inline(Box::new(runner)),
            _ => Self::Thread(Box::new(runner)),
        }
    }

    /// The extractor's name in the config.
    pub fn name(&self) -> &Name {
        match self {
            Self::Inline(runner) | Self::Thread(runner) => runner.name(),
            Self::Child(child) => child.name(),
        }
    }
}

/// A gate and where it reads.
pub struct LaneGate {
    /// The condition.
    pub gate: Gate,
    /// The lane of each extractor it was compiled with.
    pub lanes: Vec<usize>,
}

impl LaneGate {
    /// The lanes it reads.
    pub(super) fn reads(&self) -> Vec<usize> {
        let of = |i: &usize| self.lanes.get(*i).copied();
        self.gate.reads().iter().filter_map(of).collect()
    }
}

/// Why a frame was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The rate limit.
    Rate,
    /// The gate was closed.
    Gate,
    /// An extractor it depends on skipped the frame.
    Dependency,
}

impl Skip {
    /// The word used in metrics and traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Gate => "gate",
            Self::Dependency => "dependency",
        }
    }
}

/// Counters of one extractor of one source, readable while it runs.
#[derive(Debug, Default)]
pub struct LaneStats {
    /// Skipped by rate: no outcome.
    pub skipped: AtomicU64,
    /// Skipped by its gate: no outcome.
    pub skipped_gate: AtomicU64,
    /// Skipped because an extractor it depends on skipped the frame: no outcome.
    pub skipped_dependency: AtomicU64,
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
    pub(super) fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Observed(_) => &self.observed,
            Outcome::Failed(_) => &self.failed,
            Outcome::TimedOut => &self.timed_out,
            Outcome::Dropped(reason) => self.dropped(*reason),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_skip(&self, why: Skip) {
        let counter = match why {
            Skip::Rate => &self.skipped,
            Skip::Gate => &self.skipped_gate,
            Skip::Dependency => &self.skipped_dependency,
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

/// Answers a lane keeps for gates: on a file, where every frame is looked at, no lane is further
/// ahead of a gated one than that one's queue, the frame in flight and the one being taken.
const RECENT: usize = MAX_QUEUE + 2;

/// How long a process has to end by itself.
const CHILD_GRACE: Duration = Duration::from_secs(6);

pub(super) struct InFlight {
    pub frame_id: u64,
    pub since_ns: i64,
    pub dequeued_ns: i64,
    /// Its TimedOut is recorded; the answer, when it comes, is late.
    pub timed_out: bool,
}

pub(super) enum Worker {
    Inline(Box<Runner>),
    Thread(ThreadWorker),
    Child(Box<ChildWorker>),
    /// Taken away; the index is free for another lane.
    Gone,
}

pub(super) struct Lane {
    pub name: Name,
    pub serial: u64,
    pub limiter: FlowLimiter<Job>,
    pub worker: Worker,
    pub in_flight: Option<InFlight>,
    pub held: bool,
    /// Its process is not there: it comes again, or it is on Hold.
    pub down: bool,
    /// The frame that waits for the process to come (not realtime): the limiter has given it out.
    pub parked: Option<Job>,
    holder: Option<(u32, Holder)>,
    pub timeout_ns: i64,
    pub hang_ns: i64,
    pub stale_ns: i64,
    /// Frames that wait for the lanes this one depends on or whose answers its gate reads.
    /// Each with the time it was dequeued.
    pub waiting: Dependencies<(Frame, i64)>,
    pub gate: Option<LaneGate>,
    /// Lanes that wait for this one, as bits.
    pub dependents: u64,
    /// What gates read of it, oldest first.
    recent: Deque<Arc<Held>, RECENT>,
    /// The first frame after this one finds it reset.
    pub reset_after: Option<u64>,
    pub late: LateWatch,
    pub stats: Arc<LaneStats>,
}

impl Lane {
    pub fn new(
        name: Name,
        serial: u64,
        worker: Worker,
        limiter: FlowLimiter<Job>,
        rest: LaneRest,
        realtime: bool,
    ) -> Self {
        // Live, a gate goes by what is known: waiting for it would hold frames that nobody else
        // holds. On a file it waits, so that nothing depends on who was faster.
        let reads = match &rest.gate {
            Some(gate) if !realtime => gate.reads(),
            _ => Vec::new(),
        };
        Self {
            waiting: Dependencies::new(&rest.depends, &reads),
            name,
            serial,
            limiter,
            worker,
            in_flight: None,
            held: false,
            down: false,
            parked: None,
            holder: None,
            timeout_ns: rest.timeout_ns,
            hang_ns: rest.hang_ns,
            stale_ns: rest.stale_ns,
            gate: rest.gate,
            dependents: 0,
            recent: Deque::new(),
            reset_after: None,
            late: LateWatch::default(),
            stats: Arc::new(LaneStats::default()),
        }
    }

    /// In place of one that could not be started, so that the others keep their indices.
    pub fn gone(name: Name) -> Self {
        let rest = LaneRest {
            depends: Vec::new(),
            gate: None,
            stale_ns: 0,
            timeout_ns: i64::MAX,
            hang_ns: i64::MAX,
        };
        let limiter = FlowLimiter::new(None, DropPolicy::Oldest, 0);
        Self::new(name, 0, Worker::Gone, limiter, rest, true)
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.worker, Worker::Gone)
    }

    pub fn idle(&self) -> bool {
        self.in_flight.is_none() && self.parked.is_none() && self.waiting.is_empty()
    }

    /// Takes the worker away and tells it to end.
    pub fn leave(&mut self) -> Option<Leaving> {
        match std::mem::replace(&mut self.worker, Worker::Gone) {
            Worker::Inline(_) | Worker::Gone => None,
            Worker::Thread(thread) => thread.close().map(Leaving::Thread),
            Worker::Child(child) => Some(Leaving::Child(child.close(CHILD_GRACE))),
        }
    }

    /// Its tag in the frame's pool, registered once per pool.
    pub fn holder(&mut self, frame: &Frame) -> Holder {
        match self.holder {
            Some((id, holder)) if id == frame.pool_id() => holder,
            _ => {
                let holder = frame.pool().holder(self.name.as_str());
                self.holder = Some((frame.pool_id(), holder));
                holder
            }
        }
    }

    pub fn remember(&mut self, new: &Arc<Held>) {
        if self
            .recent
            .back()
            .is_some_and(|old| old.frame_id >= new.frame_id)
        {
            return;
        }
        if self.recent.is_full() {
            self.recent.pop_front();
        }
        if self.recent.push_back(Arc::clone(new)).is_err() {
            debug_assert!(false, "there is room");
        }
    }

    /// Its newest answer at or before a frame.
    pub fn newest_at(&self, frame_id: u64) -> Option<&Arc<Held>> {
        self.recent
            .iter()
            .rev()
            .find(|held| held.frame_id <= frame_id)
    }
}

/// What of a [`LaneSpec`] becomes neither worker nor limiter.
pub(super) struct LaneRest {
    pub depends: Vec<usize>,
    pub gate: Option<LaneGate>,
    pub stale_ns: i64,
    pub timeout_ns: i64,
    pub hang_ns: i64,
}
