//! Step by step: the same workers, alignment and fusions without the path thread, for apps that
//! have frames of their own and for tests.
//!
//! ```text
//! frame ─▶ Worker::process ─▶ WorkerResult                       one extractor
//! frame ─▶ Path::process ─▶ FusionResult                         a path
//! frame ─▶ PathOrchestrator::process_all ─▶ path → FusionResult  several, sharing extractors
//! ```
//!
//! Nothing is dropped and nothing times out here: each call looks at its frame and answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use visualpath_core::{
    ExtractorPlugin, Fusion, FusionResult, Held, Name, Observation, Outcome, PluginContext,
    PluginError, ViewSpec,
};
use visualpath_frames::Frame;

use crate::aligner::{Aligner, MAX_EXTRACTORS, PathSpec, Settled};
use crate::bell::{Bell, BellSender};
use crate::depends::{Deps, MAX_DEPENDS};
use crate::isolation::{
    ChildEvent, ChildSpec, ChildWorker, Launcher, LauncherError, NotRunning, Pixels, Program,
};
use crate::observe::Merger;
use crate::worker::{Isolation, Job, Reply, Runner, SpawnError, ThreadWorker, Ticket};

/// What a worker is made of.
pub struct WorkerSpec {
    plugin: Arc<dyn ExtractorPlugin>,
    context: PluginContext,
    program: Option<Program>,
}

impl WorkerSpec {
    /// Started by this program where it is isolated in a process.
    #[must_use]
    pub fn with_program(mut self, program: Program) -> Self {
        self.program = Some(program);
        self
    }
}

impl From<(Arc<dyn ExtractorPlugin>, PluginContext)> for WorkerSpec {
    fn from((plugin, context): (Arc<dyn ExtractorPlugin>, PluginContext)) -> Self {
        Self {
            plugin,
            context,
            program: None,
        }
    }
}

/// Why a worker could not be had, or a frame not be given to it.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The plugin said no.
    #[error("extractor `{extractor}`: {error}")]
    Plugin {
        /// Which.
        extractor: Name,
        /// Why.
        error: PluginError,
    },
    /// No program to start it with.
    #[error(
        "extractor `{extractor}`: to run it in a process, say which program starts it (WorkerSpec::with_program)"
    )]
    NoProgram {
        /// Which.
        extractor: Name,
    },
    /// It did not come up.
    #[error("extractor `{extractor}`: {error}")]
    NotRunning {
        /// Which.
        extractor: Name,
        /// Why.
        error: NotRunning,
    },
    /// No bell for its owner, or no thread that starts processes.
    #[error("extractor `{extractor}`: {error}")]
    NoLauncher {
        /// Which.
        extractor: Name,
        /// Why.
        error: Arc<LauncherError>,
    },
    /// No thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// More than can be handled.
    #[error("at most {most} {what}")]
    TooMany {
        /// Of these.
        what: &'static str,
        /// So many.
        most: usize,
    },
    /// A path or a dependency names a worker there is not.
    #[error("there is no worker `{wanted}`; add it before `{by}`")]
    NoWorker {
        /// The name wanted.
        wanted: String,
        /// By whom.
        by: Name,
    },
}

/// Starts workers.
pub struct WorkerLauncher;

impl WorkerLauncher {
    /// Makes the extractor (loads its model) and the worker it runs in.
    ///
    /// # Errors
    /// What the plugin says, or that there is no thread.
    pub fn create(
        extractor: impl Into<WorkerSpec>,
        isolation: Isolation,
    ) -> Result<Worker, StepError> {
        let WorkerSpec {
            plugin,
            context,
            program,
        } = extractor.into();
        let name = context.name.clone();
        let failed = |error| StepError::Plugin {
            extractor: name.clone(),
            error,
        };
        let view = plugin.input(&context).map_err(failed)?;
        let merger = Merger::of(&context);
        let bell = Bell::new().map_err(|e| StepError::NoLauncher {
            extractor: name.clone(),
            error: Arc::new(e.into()),
        })?;
        let (reply_to, replies) = bell.channel(1);
        let place = match isolation {
            Isolation::Inline | Isolation::Thread => {
                let factory = Box::new(move || plugin.create(&context));
                let runner = Runner::new(name.clone(), view, merger, factory).map_err(failed)?;
                if isolation == Isolation::Inline {
                    Place::Inline(Box::new(runner), reply_to)
                } else {
                    let ticket = Ticket { lane: 0, serial: 0 };
                    Place::Thread(ThreadWorker::start(runner, ticket, reply_to)?)
                }
            }
            Isolation::Process | Isolation::Venv => {
                let Some(program) = program else {
                    return Err(StepError::NoProgram { extractor: name });
                };
                let spec = ChildSpec::new(context, program);
                Place::Child(Box::new(child(spec, view, merger, &bell)?))
            }
        };
        Ok(Worker {
            name,
            view,
            place,
            replies,
            waiting: false,
        })
    }
}

/// Starts a child and waits until it is up.
fn child(
    spec: ChildSpec,
    view: ViewSpec,
    merger: Merger,
    bell: &Bell,
) -> Result<ChildWorker, StepError> {
    let extractor = spec.name.clone();
    let launcher = Launcher::global().map_err(|error| StepError::NoLauncher {
        extractor: extractor.clone(),
        error,
    })?;
    let mut child = ChildWorker::start(launcher, spec, view, Pixels::Slot, merger, bell);
    loop {
        match child.wait(None) {
            Some(ChildEvent::Up(_)) => return Ok(child),
            Some(ChildEvent::Down(error, _) | ChildEvent::Hold(error, _)) => {
                return Err(StepError::NotRunning { extractor, error });
            }
            _ => {}
        }
    }
}

enum Place {
    Inline(Box<Runner>, BellSender<(Ticket, Reply)>),
    Thread(ThreadWorker),
    Child(Box<ChildWorker>),
}

/// One running extractor.
pub struct Worker {
    name: Name,
    view: ViewSpec,
    place: Place,
    replies: Receiver<(Ticket, Reply)>,
    /// An answer is under way.
    waiting: bool,
}

/// A worker's answer for one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerResult {
    /// What it saw; empty if nothing, or if it failed.
    pub observations: Vec<Observation>,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// How long it took, milliseconds.
    pub timing_ms: f64,
    /// The observations with their signals merged, as rules see them; `None` if it failed.
    pub held: Option<Arc<Held>>,
}

impl Worker {
    /// The extractor's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The view it wants; a pool made with it spares a conversion per frame.
    pub fn view(&self) -> ViewSpec {
        self.view
    }

    /// Looks at a frame and waits for the answer.
    pub fn process(&mut self, frame: &Frame) -> WorkerResult {
        self.process_with(frame, &[])
    }

    /// The same with the answers it depends on, for the same frame, at most [`MAX_DEPENDS`].
    pub fn process_with(&mut self, frame: &Frame, deps: &[Arc<Held>]) -> WorkerResult {
        match self.start(frame, deps) {
            Ok(()) => self.answer(None).unwrap_or_else(|| gone(&self.name)),
            Err(result) => result,
        }
    }

    /// Gives it a frame and goes on; [`PendingResult::wait`] has the answer. An inline worker
    /// looks at it at once.
    pub fn process_async(&mut self, frame: &Frame) -> PendingResult<'_> {
        let early = self.start(frame, &[]).err();
        PendingResult {
            worker: self,
            early,
        }
    }

    /// The error is the answer: it can't take the frame.
    fn start(&mut self, frame: &Frame, deps: &[Arc<Held>]) -> Result<(), WorkerResult> {
        if self.waiting {
            // An answer nobody waited for.
            self.answer(None);
        }
        let deps: Deps = deps.iter().take(MAX_DEPENDS).cloned().collect();
        let holder = frame.pool().holder(self.name.as_str());
        let job = Job {
            deps,
            ..Job::new(frame.lease(holder))
        };
        let taken = match &mut self.place {
            Place::Inline(runner, reply_to) => {
                let reply = runner.run(&job);
                let ticket = Ticket { lane: 0, serial: 0 };
                reply_to.try_send((ticket, reply)).is_ok()
            }
            Place::Thread(thread) => thread.dispatch(job),
            // The answer may also be that it is not there.
            Place::Child(child) => {
                child.dispatch(job);
                true
            }
        };
        if !taken {
            return Err(gone(&self.name));
        }
        self.waiting = true;
        Ok(())
    }

    /// `None` if it does not come within `limit`.
    fn answer(&mut self, limit: Option<Duration>) -> Option<WorkerResult> {
        if let Place::Child(child) = &mut self.place {
            let until = limit.map(|l| Instant::now() + l);
            loop {
                let left = until.map(|u| u.saturating_duration_since(Instant::now()));
                match child.wait(left)? {
                    ChildEvent::Reply(reply)
                    | ChildEvent::Down(_, Some(reply))
                    | ChildEvent::Hold(_, Some(reply)) => {
                        self.waiting = false;
                        return Some(result(reply));
                    }
                    // Its own log says so; the next frame is answered accordingly.
                    ChildEvent::Up(_)
                    | ChildEvent::Down(_, None)
                    | ChildEvent::Hold(_, None)
                    | ChildEvent::Trace(_) => {}
                }
            }
        }
        let reply = match limit {
            Some(limit) => self.replies.recv_timeout(limit).ok()?,
            None => match self.replies.recv() {
                Ok(reply) => reply,
                Err(_) => return Some(gone(&self.name)),
            },
        };
        self.waiting = false;
        Some(result(reply.1))
    }
}

/// An answer that is under way.
pub struct PendingResult<'a> {
    worker: &'a mut Worker,
    early: Option<WorkerResult>,
}

impl PendingResult<'_> {
    /// Waits for it.
    pub fn wait(mut self) -> WorkerResult {
        match self.early.take() {
            Some(early) => early,
            // An earlier wait had the answer.
            None if !self.worker.waiting => gone(&self.worker.name),
            None => {
                let answer = self.worker.answer(None);
                answer.unwrap_or_else(|| gone(&self.worker.name))
            }
        }
    }

    /// Waits for it no longer than this; `None` if it has not come. Ask again, or go on: the next
    /// frame waits for it.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<WorkerResult> {
        if self.early.is_none() && !self.worker.waiting {
            return None;
        }
        self.early
            .take()
            .or_else(|| self.worker.answer(Some(limit)))
    }
}

fn gone(name: &Name) -> WorkerResult {
    WorkerResult {
        observations: Vec::new(),
        error: Some(format!("the worker of `{name}` is gone")),
        timing_ms: 0.0,
        held: None,
    }
}

fn result(reply: Reply) -> WorkerResult {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    let timing_ms = reply.took_ns as f64 / 1e6;
    let (held, error) = match reply.outcome {
        Outcome::Observed(held) => (Some(held), None),
        Outcome::Failed(why) => (None, Some(why.to_string())),
        Outcome::TimedOut => (None, Some("timed out".to_owned())),
        Outcome::Dropped(reason) => (None, Some(format!("dropped: {}", reason.as_str()))),
    };
    WorkerResult {
        observations: held
            .as_ref()
            .map(|h| h.observations.clone())
            .unwrap_or_default(),
        error,
        timing_ms,
        held,
    }
}

/// Several paths over one stream of frames. An extractor that several of them use looks at each
/// frame once.
pub struct PathOrchestrator {
    source: Name,
    workers: Vec<(Worker, Vec<usize>)>,
    fusions: Vec<(Name, Box<dyn Fusion>)>,
    specs: Vec<PathSpec>,
    aligner: Option<Aligner>,
}

impl PathOrchestrator {
    /// Over the frames of `source`.
    pub fn new(source: Name) -> Self {
        Self {
            source,
            workers: Vec::new(),
            fusions: Vec::new(),
            specs: Vec::new(),
            aligner: None,
        }
    }

    /// Adds an extractor that depends on the workers `depends`, which are there already.
    ///
    /// # Errors
    /// If one is not, or there are too many.
    pub fn add_worker(&mut self, worker: Worker, depends: &[&str]) -> Result<(), StepError> {
        if self.workers.len() == MAX_EXTRACTORS {
            return Err(StepError::TooMany {
                what: "workers",
                most: MAX_EXTRACTORS,
            });
        }
        if depends.len() > MAX_DEPENDS {
            return Err(StepError::TooMany {
                what: "dependencies",
                most: MAX_DEPENDS,
            });
        }
        let depends = self.indices(depends, worker.name())?;
        self.workers.push((worker, depends));
        self.aligner = None;
        Ok(())
    }

    /// Adds a path over workers that are there already. An answer is held for `stale_ns` of source
    /// time.
    ///
    /// # Errors
    /// If a worker is not there.
    pub fn add_path(
        &mut self,
        path: Name,
        workers: &[&str],
        fusion: Box<dyn Fusion>,
        stale_ns: i64,
    ) -> Result<(), StepError> {
        let indices = self.indices(workers, &path)?;
        let named = |i: usize| (i, self.workers[i].0.name.clone(), stale_ns);
        self.specs.push(PathSpec {
            name: path.clone(),
            source: self.source.clone(),
            extractors: indices.into_iter().map(named).collect(),
            window_ns: None,
        });
        self.fusions.push((path, fusion));
        self.aligner = None;
        Ok(())
    }

    fn indices(&self, names: &[&str], by: &Name) -> Result<Vec<usize>, StepError> {
        let index = |wanted: &&str| {
            let at = self.workers.iter().position(|(w, _)| w.name == **wanted);
            at.ok_or_else(|| StepError::NoWorker {
                wanted: (*wanted).to_owned(),
                by: by.clone(),
            })
        };
        names.iter().map(index).collect()
    }

    /// Every worker's answer about the frame, each after those it depends on. One whose dependency
    /// failed does not look and says so.
    pub fn extract_all(&mut self, frame: &Frame) -> Vec<(Name, WorkerResult)> {
        let mut all: Vec<(Name, WorkerResult)> = Vec::with_capacity(self.workers.len());
        for (worker, depends) in &mut self.workers {
            let deps: Vec<Arc<Held>> = depends
                .iter()
                .filter_map(|i| all[*i].1.held.clone())
                .collect();
            let result = if deps.len() == depends.len() {
                worker.process_with(frame, &deps)
            } else {
                WorkerResult {
                    observations: Vec::new(),
                    error: Some("dropped: dependency".to_owned()),
                    timing_ms: 0.0,
                    held: None,
                }
            };
            all.push((worker.name.clone(), result));
        }
        all
    }

    /// What every path says to the frame, by path name.
    pub fn process_all(&mut self, frame: &Frame) -> BTreeMap<Name, FusionResult> {
        let answers = self.extract_all(frame);
        let meta = *frame.meta();
        let aligner = self.aligner();
        aligner.frame(meta.frame_id, meta.t_ns, meta.t_ns, 0);
        for i in 0..answers.len() {
            aligner.admitted(meta.frame_id, i);
        }
        aligner.offered(meta.frame_id);
        for (i, (_, result)) in answers.into_iter().enumerate() {
            let outcome = match (result.held, result.error) {
                (Some(held), _) => Outcome::Observed(held),
                (None, error) => Outcome::Failed(error.unwrap_or_default().into()),
            };
            aligner.outcome(meta.frame_id, i, outcome);
        }
        self.settle()
    }

    /// Nothing follows: what is open is closed.
    pub fn end(&mut self) -> BTreeMap<Name, FusionResult> {
        self.aligner().end();
        self.settle()
    }

    fn aligner(&mut self) -> &mut Aligner {
        let (workers, specs) = (self.workers.len(), &self.specs);
        self.aligner
            .get_or_insert_with(|| Aligner::new(workers, 2, specs.clone()))
    }

    fn settle(&mut self) -> BTreeMap<Name, FusionResult> {
        let mut results = BTreeMap::new();
        let fusions = &mut self.fusions;
        if let Some(aligner) = &mut self.aligner {
            aligner.settle(0, |path, settled| {
                if let Settled::Input(input, _) = settled {
                    let (name, fusion) = &mut fusions[path];
                    results.insert(name.clone(), fusion.update(input));
                }
            });
        }
        results
    }
}

/// One path, step by step.
pub struct Path {
    name: Name,
    steps: PathOrchestrator,
}

impl Path {
    /// A path over workers that do not depend on each other; see [`PathOrchestrator`] for those
    /// that do. An answer is held for `stale_ns` of source time.
    ///
    /// # Errors
    /// If there are too many workers.
    pub fn new(
        name: Name,
        source: Name,
        workers: Vec<Worker>,
        fusion: Box<dyn Fusion>,
        stale_ns: i64,
    ) -> Result<Self, StepError> {
        let mut steps = PathOrchestrator::new(source);
        let names: Vec<Name> = workers.iter().map(|w| w.name.clone()).collect();
        for worker in workers {
            steps.add_worker(worker, &[])?;
        }
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        steps.add_path(name.clone(), &names, fusion, stale_ns)?;
        Ok(Self { name, steps })
    }

    /// Every worker's answer about the frame.
    pub fn extract_all(&mut self, frame: &Frame) -> Vec<(Name, WorkerResult)> {
        self.steps.extract_all(frame)
    }

    /// What the path's fusion says to the frame.
    pub fn process(&mut self, frame: &Frame) -> FusionResult {
        let mut all = self.steps.process_all(frame);
        all.remove(&self.name).unwrap_or_default()
    }

    /// Nothing follows: what is open is closed.
    pub fn end(&mut self) -> FusionResult {
        let mut all = self.steps.end();
        all.remove(&self.name).unwrap_or_default()
    }
}
