//! Workers: one running extractor for one source, at one isolation level.
//!
//! [`Runner`] is the extractor with everything that must happen around it (view, panic boundary,
//! merging); inline it is called on the path thread, [`ThreadWorker`] gives it a thread of its own.
//! Later levels put the same `Runner` at the other end of a socket.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use visualpath_core::{Extractor, Name, Outcome, PluginError, ViewSpec};
use visualpath_frames::Frame;

use crate::depends::Deps;
use crate::observe::Merger;

/// Where an extractor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// On the path thread: for cheap work; can't be timed out.
    Inline,
    /// On a thread of its own.
    Thread,
    /// In a child process.
    Process,
    /// In a child process of a Python venv.
    Venv,
}

impl Isolation {
    /// The word used in config, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Thread => "thread",
            Self::Process => "process",
            Self::Venv => "venv",
        }
    }
}

/// One frame for one extractor.
#[derive(Debug)]
pub struct Job {
    /// The frame.
    pub frame: Frame,
    /// What the extractors it depends on said of it, in the order of `depends`.
    pub deps: Deps,
    /// What the extractor remembers of earlier frames is void: it is reset first.
    pub reset: bool,
    /// When the path thread took the frame over, on the monotonic clock; 0 when not realtime.
    pub dequeued_ns: i64,
}

impl Job {
    /// A frame for an extractor that depends on nothing.
    pub fn new(frame: Frame) -> Self {
        Self {
            frame,
            deps: Deps::new(),
            reset: false,
            dequeued_ns: 0,
        }
    }
}

/// Makes the extractor: at start, and again after a panic.
pub type ExtractorFactory = Box<dyn FnMut() -> Result<Box<dyn Extractor>, PluginError> + Send>;

/// Panics within [`PANIC_WINDOW_NS`] after which a worker is put on Hold.
const PANICS_TO_HOLD: usize = 5;
/// Source time, so that a run on a file holds (or not) on every machine alike.
const PANIC_WINDOW_NS: i64 = 60_000_000_000;

/// An extractor behind its panic boundary.
pub struct Runner {
    name: Name,
    factory: ExtractorFactory,
    extractor: Option<Box<dyn Extractor>>,
    view: ViewSpec,
    merger: Merger,
    /// For views that a pool has no place for.
    scratch: Vec<u8>,
    panics: Vec<i64>,
    held: Option<Arc<str>>,
    epoch: Option<u32>,
}

impl Runner {
    /// Makes the extractor (loads its model).
    pub fn new(
        name: Name,
        view: ViewSpec,
        merger: Merger,
        mut factory: ExtractorFactory,
    ) -> Result<Self, PluginError> {
        let extractor = Some(factory()?);
        Ok(Self {
            name,
            factory,
            extractor,
            view,
            merger,
            scratch: Vec::new(),
            panics: Vec::new(),
            held: None,
            epoch: None,
        })
    }

    /// The extractor's name in the config.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The models it uses.
    pub fn models(&self) -> Vec<visualpath_core::ModelUse> {
        self.extractor
            .as_ref()
            .map(|e| e.models())
            .unwrap_or_default()
    }

    /// Why it is on Hold, if it is.
    pub fn held(&self) -> Option<&Arc<str>> {
        self.held.as_ref()
    }

    /// Lets the extractor look at `frame` a few times before the first real one, so that lazy
    /// set-up is not counted, then resets it. Gives the slowest of the later looks, nanoseconds.
    ///
    /// # Errors
    /// What the extractor said, if it failed.
    pub fn warm_up(&mut self, frame: &Frame, looks: usize) -> Result<i64, Arc<str>> {
        let mut slowest_ns = 0;
        for look in 0..looks.max(2) {
            let reply = self.run(&Job::new(
                frame.lease(frame.pool().holder(self.name.as_str())),
            ));
            if let Outcome::Failed(why) = reply.outcome {
                return Err(why);
            }
            if look > 0 {
                slowest_ns = slowest_ns.max(reply.took_ns);
            }
        }
        if let Some(extractor) = &mut self.extractor
            && catch_unwind(AssertUnwindSafe(|| extractor.reset())).is_err()
        {
            return Err("panicked in reset()".into());
        }
        self.epoch = None;
        Ok(slowest_ns)
    }

    /// Looks at one frame. Never panics; takes as long as the extractor takes.
    pub fn run(&mut self, job: &Job) -> Reply {
        let meta = *job.frame.meta();
        let started = Instant::now();
        let outcome = self.outcome(job, started);
        Reply {
            frame_id: meta.frame_id,
            outcome,
            took_ns: elapsed_ns(started),
            held: self.held.clone(),
        }
    }

    fn outcome(&mut self, job: &Job, started: Instant) -> Outcome {
        match catch_unwind(AssertUnwindSafe(|| self.look(job, started))) {
            Ok(outcome) => outcome,
            Err(payload) => self.panicked(payload.as_ref(), job.frame.meta().t_ns),
        }
    }

    /// View, extractor and merging; may panic.
    fn look(&mut self, job: &Job, started: Instant) -> Outcome {
        let frame = &job.frame;
        if let Some(why) = &self.held {
            return Outcome::Failed(Arc::clone(why));
        }
        let meta = *frame.meta();
        let view = match frame.pool().view_id(&self.view).map(|id| frame.view(id)) {
            Some(Ok(view)) => view,
            Some(Err(e)) => return Outcome::Failed(format!("view: {e}").into()),
            // The pool is older than this extractor; the next one will have its view.
            None => match frame.view_in(&self.view, &mut self.scratch) {
                Ok(view) => view,
                Err(e) => return Outcome::Failed(format!("view: {e}").into()),
            },
        };
        let Some(extractor) = &mut self.extractor else {
            return Outcome::Failed("the extractor could not be made again after a panic".into());
        };
        let epoch = self.epoch.replace(meta.epoch);
        if job.reset || epoch.is_some_and(|old| old != meta.epoch) {
            extractor.reset();
        }
        let joined;
        let deps = match job.deps.as_slice() {
            [] => &[],
            // The usual case copies nothing.
            [one] => one.observations.as_slice(),
            several => {
                joined = several
                    .iter()
                    .flat_map(|held| held.observations.iter().cloned())
                    .collect::<Vec<_>>();
                joined.as_slice()
            }
        };
        match extractor.extract(&view, deps) {
            Ok(observations) => match self.merger.merge(&meta, observations, elapsed_ns(started)) {
                Ok(held) => Outcome::Observed(Arc::new(held)),
                Err(e) => Outcome::Failed(e.to_string().into()),
            },
            Err(e) => Outcome::Failed(e.0.into()),
        }
    }

    /// The extractor's state can't be trusted after a panic: it is made again.
    fn panicked(&mut self, payload: &(dyn Any + Send), t_ns: i64) -> Outcome {
        let text = panic_text(payload);
        tracing::error!(extractor = %self.name, panic = text, "extractor panicked; making it again");
        // Dropping it may panic as well.
        let old = self.extractor.take();
        if catch_unwind(AssertUnwindSafe(|| drop(old))).is_err() {
            tracing::error!(extractor = %self.name, "extractor panicked again while being dropped");
        }
        self.panics
            .retain(|t| t_ns.saturating_sub(*t) < PANIC_WINDOW_NS);
        self.panics.push(t_ns);
        if self.panics.len() >= PANICS_TO_HOLD {
            self.hold(format!("{PANICS_TO_HOLD} panics in 60 s, the last: {text}"));
        } else {
            match catch_unwind(AssertUnwindSafe(|| (self.factory)())) {
                Ok(Ok(extractor)) => self.extractor = Some(extractor),
                Ok(Err(e)) => self.hold(format!("could not be made again after a panic: {e}")),
                Err(p) => self.hold(format!(
                    "panicked while being made again: {}",
                    panic_text(p.as_ref())
                )),
            }
        }
        Outcome::Failed(format!("panicked: {text}").into())
    }

    fn hold(&mut self, why: String) {
        tracing::error!(extractor = %self.name, why, "extractor on Hold; the pipeline goes on without it");
        self.held = Some(why.into());
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

fn elapsed_ns(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX)
}

/// Who an answer is from. A lane that takes another's place has a ticket of its own, so that a
/// late answer of its predecessor is not taken for its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the lane.
    pub lane: usize,
    /// Counts the lanes there have been.
    pub serial: u64,
}

/// A worker's answer for one frame.
#[derive(Debug)]
pub struct Reply {
    /// The frame it is about.
    pub frame_id: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// How long the extractor took, including making its view.
    pub took_ns: i64,
    /// Set from the frame on which the worker was put on Hold.
    pub held: Option<Arc<str>>,
}

/// A [`Runner`] on a thread of its own. Dropping it closes the inbox; the thread ends after the
/// frame it is at.
pub struct ThreadWorker {
    inbox: Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

/// Why a thread worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("extractor `{name}`: its thread could not be started: {source}")]
pub struct SpawnError {
    name: Name,
    source: std::io::Error,
}

impl SpawnError {
    /// For isolations that run no thread.
    pub(crate) fn not_built(name: Name, isolation: Isolation) -> Self {
        let why = format!(
            "isolation `{}` is not in this build yet",
            isolation.as_str()
        );
        Self {
            name,
            source: std::io::Error::other(why),
        }
    }
}

impl ThreadWorker {
    /// Starts the thread. It answers on `replies` under its `ticket`.
    pub fn start(
        mut runner: Runner,
        ticket: Ticket,
        replies: Sender<(Ticket, Reply)>,
    ) -> Result<Self, SpawnError> {
        let name = runner.name().clone();
        // At most one frame is in flight, so one place is enough and sending never blocks.
        let (inbox, jobs): (Sender<Job>, Receiver<Job>) = bounded(1);
        let thread = std::thread::Builder::new()
            .name(format!("x-{name}"))
            .spawn(move || {
                for job in jobs {
                    let reply = runner.run(&job);
                    drop(job);
                    if replies.send((ticket, reply)).is_err() {
                        return; // the path thread is gone: nobody wants answers
                    }
                }
            })
            .map_err(|source| SpawnError { name, source })?;
        Ok(Self {
            inbox,
            thread: Some(thread),
        })
    }

    /// Hands over a frame. False if the thread is gone or (never, with one frame in flight) still
    /// busy; then the lease has been given back.
    #[must_use]
    pub fn dispatch(&self, job: Job) -> bool {
        self.inbox.try_send(job).is_ok()
    }

    /// Whether its thread has ended; it never does by itself.
    pub fn is_gone(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Closes the inbox and gives the thread's handle, to be joined with a deadline.
    pub fn close(mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}
