//! Workers: one running extractor for one source, at one isolation level.
//!
//! [`Runner`] is the extractor with everything that must happen around it (view, panic boundary,
//! merging); inline it is called on the path thread, [`ThreadWorker`] gives it a thread of its own.
//! Later levels put the same `Runner` at the other end of a socket.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use visualpath_core::{
    ExtractorFactory, Guarded, Name, Observation, Outcome, PluginError, Trouble, ViewSpec,
    panic_text,
};
use visualpath_frames::Frame;

use crate::bell::BellSender;
use crate::depends::Deps;
use crate::observe::Merger;

/// Where an extractor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// On the path thread: for cheap work; can't be timed out.
    Inline,
    /// On a thread of its own.
    Thread,
    /// In a process of its own.
    Process,
    /// In a process of its own, a Python one with packages of its own.
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

/// An extractor behind its panic boundary.
pub struct Runner {
    name: Name,
    extractor: Guarded,
    view: ViewSpec,
    merger: Merger,
    /// For views that a pool has no place for.
    scratch: Vec<u8>,
    epoch: Option<u32>,
}

impl Runner {
    /// Makes the extractor (loads its model).
    pub fn new(
        name: Name,
        view: ViewSpec,
        merger: Merger,
        factory: ExtractorFactory,
    ) -> Result<Self, PluginError> {
        Ok(Self {
            name,
            extractor: Guarded::new(factory)?,
            view,
            merger,
            scratch: Vec::new(),
            epoch: None,
        })
    }

    /// The extractor's name in the config.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The models it uses.
    pub fn models(&self) -> Vec<visualpath_core::ModelUse> {
        self.extractor.models()
    }

    /// Why it is on Hold, if it is.
    pub fn held(&self) -> Option<&str> {
        self.extractor.held()
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
        let reset = self.extractor.reset(frame.meta().t_ns);
        reset.map_err(|trouble| Arc::from(format!("in reset(): {trouble}")))?;
        self.epoch = None;
        Ok(slowest_ns)
    }

    /// Looks at one frame. Never panics; takes as long as the extractor takes.
    pub fn run(&mut self, job: &Job) -> Reply {
        let meta = *job.frame.meta();
        let started = Instant::now();
        let was_held = self.held().is_some();
        // Making a view is not the extractor's work, but nor may it end this thread.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.look(job, started)));
        let outcome = outcome.unwrap_or_else(|payload| {
            Outcome::Failed(format!("view: panicked: {}", panic_text(payload.as_ref())).into())
        });
        let held = self.extractor.held().map(Arc::from);
        if let Some(why) = held.as_deref().filter(|_| !was_held) {
            tracing::error!(extractor = %self.name, why, "extractor on Hold; the pipeline goes on without it");
        }
        Reply {
            frame_id: meta.frame_id,
            outcome,
            took_ns: elapsed_ns(started),
            held,
        }
    }

    /// View, extractor and merging.
    fn look(&mut self, job: &Job, started: Instant) -> Outcome {
        let frame = &job.frame;
        let meta = *frame.meta();
        let view = match frame.pool().view_id(&self.view).map(|id| frame.view(id)) {
            Some(view) => view,
            // The pool is older than this extractor; the next one will have its view.
            None => frame.view_in(&self.view, &mut self.scratch),
        };
        let view = match view {
            Ok(view) => view,
            Err(e) => return Outcome::Failed(format!("view: {e}").into()),
        };
        let epoch = self.epoch.replace(meta.epoch);
        let reset = job.reset || epoch.is_some_and(|old| old != meta.epoch);
        let observations = with_deps(&job.deps, |deps| self.extractor.extract(&view, deps, reset));
        match observations {
            Ok(observations) => match self.merger.merge(&meta, observations, elapsed_ns(started)) {
                Ok(held) => Outcome::Observed(Arc::new(held)),
                Err(e) => Outcome::Failed(e.to_string().into()),
            },
            Err(trouble) => {
                if let Trouble::Panicked(text) = &trouble {
                    tracing::error!(extractor = %self.name, panic = text, "extractor panicked; making it again");
                }
                Outcome::Failed(trouble.to_string().into())
            }
        }
    }
}

/// What a frame's dependencies observed, as one list. The usual cases copy nothing.
fn with_deps<R>(deps: &Deps, then: impl FnOnce(&[Observation]) -> R) -> R {
    match deps.as_slice() {
        [] => then(&[]),
        [one] => then(&one.observations),
        several => {
            let all = several.iter().flat_map(|held| held.observations.iter());
            then(&all.cloned().collect::<Vec<_>>())
        }
    }
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

impl ThreadWorker {
    /// Starts the thread. It answers on `replies` under its `ticket`.
    pub fn start(
        mut runner: Runner,
        ticket: Ticket,
        replies: BellSender<(Ticket, Reply)>,
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

/// A worker that has been told to end.
pub enum Leaving {
    /// Its thread ends after the frame it is at.
    Thread(JoinHandle<()>),
    /// Its process is told to end, then killed; the channel closes once it is reaped.
    Child(Receiver<()>),
}

impl Leaving {
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.is_finished(),
            Self::Child(gone) => gone.try_recv() == Err(TryRecvError::Disconnected),
        }
    }

    /// Waits for its end. False if it panicked.
    pub fn join(self) -> bool {
        match self {
            Self::Thread(thread) => thread.join().is_ok(),
            // Nothing is ever sent.
            Self::Child(gone) => gone.recv().is_err(),
        }
    }
}
