//! The appliance: sources, their extractors and paths, clips and messages.
//!
//! ```text
//! Source ─▶ slot ─┬▶ limiter ─▶ worker ─▶ outcome ─▶ aligner ─▶ rules ─▶ trigger ─▶ outbox ─▶ MQTT
//!                 └▶ encoder ─▶ packet ring ─────────────────────────────────┴▶ clip ─▶ outbox
//! ```
//!
//! What is a source's own is a [`line`]; [`Pipeline::run`] makes the parts, starts the lines,
//! watches over them, and stops them in the order frames flow: source, workers and fusion, clips,
//! outbox.

pub mod app;
#[doc(hidden)]
pub mod build;
#[doc(hidden)]
pub mod capture;
mod clip_events;
#[doc(hidden)]
pub mod events;
#[doc(hidden)]
pub mod evidence;
mod executor;
mod info;
#[doc(hidden)]
pub mod line;
#[doc(hidden)]
pub mod live;
pub mod out;
#[doc(hidden)]
pub mod plan;
pub mod reload;
#[doc(hidden)]
pub mod shape;
mod sink;
mod start_error;
#[doc(hidden)]
pub mod status;
mod stop;
#[doc(hidden)]
pub mod summary;
#[doc(hidden)]
pub mod trace;
#[doc(hidden)]
pub mod wall;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use visualpath_core::{Name, StopFlag};
use visualpath_mqtt::payload::{HEALTH_SCHEMA, HealthState, InfoSource, Problem};
use visualpath_mqtt::{
    Event as Line, ExtractorStatus, Health, SourceStatus, Summary, Topics, TriggerPayload,
};
use visualpath_platform::Registry;

use crate::broker::Broker;
use crate::commands::{self, Asked, Commands};
use crate::config::{Config, SourceConfig};
#[cfg(feature = "web")]
use crate::web::Web;
use app::{App, AppContext, OnTrigger};
use capture::Ended;
pub(crate) use clip_events::word;
use events::{Counts, Events};
use executor::Executor;
use line::{LineMaker, LineStats};
use live::Live;
use out::{Out, Print};
use reload::Request;
use sink::ToEvents;
pub use start_error::StartError;
use stop::Stopping;

/// Frames that may lie between the capture thread and the path thread.
const BETWEEN: usize = 2;
/// Events that may wait for the events thread; then the path thread waits, because events are
/// never dropped.
const EVENTS: usize = 256;
/// Frames that may wait for outcomes.
const PENDING: usize = 256;

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// What it came to.
    pub summary: Summary,
    /// Why the source ended, if not at its end or by request.
    pub error: Option<StartError>,
    /// Threads that did not stop in time.
    pub stragglers: Vec<String>,
}

/// An appliance, ready to run.
pub struct Pipeline {
    config: Config,
    registry: Registry,
    print: Print,
    on_trigger: Option<OnTrigger>,
    on_started: Option<Box<dyn FnOnce() + Send>>,
    problems: Vec<Problem>,
    stop: StopFlag,
    wall_start: Option<jiff::Timestamp>,
    requests: (Sender<Request>, Receiver<Request>),
    commands: (Commands, Receiver<Asked>),
}

impl Pipeline {
    /// For a checked config.
    pub fn new(config: Config, registry: Registry) -> Self {
        Self {
            config,
            registry,
            print: Print::Nothing,
            on_trigger: None,
            on_started: None,
            problems: Vec::new(),
            stop: StopFlag::new(),
            wall_start: None,
            requests: bounded(1),
            commands: commands::channel(),
        }
    }

    /// Prints events on standard output.
    #[must_use]
    pub fn print(mut self, print: Print) -> Self {
        self.print = print;
        self
    }

    /// Calls `told` with every trigger, once it is in the outbox, on a thread of its own.
    #[must_use]
    pub fn on_trigger(
        mut self,
        told: impl FnMut(&TriggerPayload, &AppContext) + Send + 'static,
    ) -> Self {
        self.on_trigger = Some(Box::new(told));
        self
    }

    /// Calls `told` once everything is running.
    #[must_use]
    pub fn on_started(mut self, told: Box<dyn FnOnce() + Send>) -> Self {
        self.on_started = Some(told);
        self
    }

    /// Something the operator should know, for `health`.
    #[must_use]
    pub fn problem(mut self, problem: Problem) -> Self {
        self.problems.push(problem);
        self
    }

    /// Set it to stop the run gracefully.
    pub fn stop_flag(&self) -> StopFlag {
        self.stop.clone()
    }

    /// Source time 0 of every source is at this wall time, instead of now: for files whose rules
    /// ask for the time of day.
    #[must_use]
    pub fn starting_at(mut self, time: jiff::Timestamp) -> Self {
        self.wall_start = Some(time);
        self
    }

    /// Changes and stops the pipeline while it runs, from any thread.
    pub fn handle(&self) -> Handle {
        Handle {
            stop: self.stop.clone(),
            requests: self.requests.0.clone(),
        }
    }

    /// Asks the pipeline to do something while it runs, from any thread.
    pub fn commands(&self) -> Commands {
        self.commands.0.clone()
    }

    /// Runs until every source has ended or the stop flag is set.
    ///
    /// # Errors
    /// What keeps it from starting. What ends a source later is in the [`Report`].
    pub fn run(self) -> Result<Report, StartError> {
        let started = Instant::now();
        let cpu_before = summary::cpu_seconds();
        let clock = build::clock();
        let plan = plan::plan(&self.config, &self.registry)?;
        make_state_dir(&self.config)?;

        // The broker first: a subscriber may come while models load.
        let (to_executor, over_mqtt) = bounded(commands::QUEUE);
        let broker = Broker::start(&self.config, Arc::clone(&clock), Some(to_executor))?;
        let counts = Arc::new(Counts::default());
        let store = Arc::default();
        let live = Live::new(
            &self.config,
            Arc::clone(&counts),
            Arc::clone(&store),
            broker.publisher(),
        );
        let live = Arc::new(live);
        let out = Out::new(broker.publisher(), self.print).noting(&live);
        let ready = broker.ready();
        #[cfg(feature = "web")]
        let web = Web::start(&self.config, &live)?;
        #[cfg(feature = "web")]
        web.carry_out(self.commands());
        #[cfg(feature = "web")]
        let ready = ready.with_web(web.address());
        #[cfg(feature = "web")]
        let no_web = web.problem().cloned();
        #[cfg(not(feature = "web"))]
        let no_web: Option<Problem> = None;
        let problems: Vec<Problem> = self.problems.into_iter().chain(no_web).collect();
        out.print_json(&ready);
        let (to_events, from_all) = bounded(EVENTS);
        // Bounded by the requests: each has exactly one result.
        let (clip_results, clips) = unbounded();
        let hub = trace::hub(&self.config);
        trace::session_start(&hub, &self.config, &plan);
        let maker = LineMaker {
            hub: Arc::clone(&hub),
            clock,
            events: ToEvents::new(to_events),
            clip_results,
            walls: Arc::default(),
            store,
            wall_start: self.wall_start,
            live: Arc::clone(&live),
        };
        let ready = plan
            .lines
            .into_iter()
            .map(|line| maker.prepare(&self.config, line, None))
            .collect::<Result<Vec<_>, _>>()?;

        let models = ready.iter().flat_map(|r| r.shared().all_models()).collect();
        out.info(&info::message(&self.config, models, Vec::new()));
        out.health(health_message(self.config.device_id(), problems.clone()));
        for ready in &ready {
            out.source_status(ready.source(), SourceStatus::Online);
            for name in ready.extractors() {
                out.extractor_status(ready.source(), name, ExtractorStatus::Running);
            }
        }
        let (app, app_thread) = match self.on_trigger {
            Some(told) => {
                let (app, thread) = App::start(told, &self.config.device.state_dir)?;
                (Some(app), Some(thread))
            }
            None => (None, None),
        };
        let events = Events {
            out,
            device: self.config.device_id().to_owned(),
            boot_id: wall::boot_id(),
            problems,
            app,
            open: HashMap::new(),
            on: HashMap::new(),
            asked: HashMap::new(),
            commanded: HashMap::new(),
            store: Arc::clone(&maker.store),
            walls: Arc::clone(&maker.walls),
            hub: Arc::clone(&hub),
            sink_losses: HashMap::new(),
            counts: Arc::clone(&counts),
        };
        let events = spawn("events", move || events.run(&from_all, &clips))?;
        let executor = Executor {
            config: self.config.clone(),
            walls: Arc::clone(&maker.walls),
            store: Arc::clone(&maker.store),
            events: maker.events.clone(),
            publisher: broker.publisher(),
        };
        let (stop_executor, stopped) = bounded::<()>(0);
        let (own, asked) = self.commands;
        let executor = spawn("commands", move || {
            executor.run(&over_mqtt, &asked, &stopped)
        })?;
        let mut running = Running {
            config: self.config,
            registry: self.registry,
            out: Out::new(broker.publisher(), Print::Nothing).noting(&live),
            stopping: Stopping::new(self.stop.clone()),
            stop: self.stop,
            lines: Vec::new(),
            formats: Vec::new(),
            gone: Vec::new(),
            lost: Vec::new(),
            read: HashMap::new(),
            error: None,
            maker,
        };
        for ready in ready {
            running.lines.push(ready.go(&running.maker)?);
        }
        if let Some(told) = self.on_started {
            told();
        }
        live.running();
        let (_, requests) = self.requests;
        running.supervise(&events, &requests);
        live.stopping();
        // Who still asks is told that nobody is there.
        drop((requests, own, stop_executor));
        running.stop_lines();
        let Running {
            mut stopping,
            maker,
            gone,
            error,
            stop,
            ..
        } = running;
        // Nothing may be asked of the events thread after its end.
        stopping.join("commands", executor, |_| ());
        maker.events.end(stopping.left());
        let asked_to_stop = stop.is_set();
        // An events thread that ends late ends the process late, but not for ever.
        stop.stop();
        let kept = stopping.join("events", events, |_| ()).is_some();
        if let Some(thread) = app_thread {
            stopping.join("app", thread, |_| ());
        }
        #[cfg(feature = "web")]
        web.stop();
        let print = if kept { self.print } else { Print::Nothing };
        let out = Out::new(broker.publisher(), print);
        let undelivered = broker.finish(stopping.left());
        let summary = summary::summary(&summary::Parts {
            lines: &gone,
            counts: &counts,
            undelivered,
            wall: started.elapsed(),
            cpu_s: summary::cpu_seconds() - cpu_before,
        });
        out.print(&Line::Summary(summary.clone()));
        let reason = match (&error, asked_to_stop) {
            (Some(_), _) => "failed",
            (None, true) => "stopped",
            (None, false) => "end",
        };
        trace::session_end(&hub, reason, summary.frames, summary.triggers);
        let left = hub.close(stopping.left());
        stopping.stragglers.extend(left);
        Ok(report(summary, stopping, error))
    }
}

/// Changes and stops a running pipeline.
#[derive(Clone)]
pub struct Handle {
    stop: StopFlag,
    requests: Sender<Request>,
}

/// A pipeline whose threads run, as its main thread keeps it.
struct Running {
    config: Config,
    registry: Registry,
    out: Out,
    maker: LineMaker,
    stop: StopFlag,
    stopping: Stopping,
    lines: Vec<line::Line>,
    /// What `info` says of the sources.
    formats: Vec<InfoSource>,
    /// Counters of lines that have ended.
    gone: Vec<LineStats>,
    /// Lines whose source failed: a reload may find it again.
    lost: Vec<line::Line>,
    /// Sources that were read to their end.
    read: HashMap<Name, SourceConfig>,
    /// What the first source died of.
    error: Option<StartError>,
}

/// How often the main thread looks at the others.
const LOOK: Duration = Duration::from_millis(20);

impl Running {
    /// Until a stop is asked for or every source has ended.
    fn supervise(&mut self, events: &JoinHandle<()>, requests: &Receiver<Request>) {
        while !self.stop.is_set() && !self.lines.is_empty() {
            // Frames nobody takes, or events nobody keeps, are no appliance.
            if events.is_finished() || self.lines.iter().any(line::Line::is_broken) {
                self.stop.stop();
                return;
            }
            while let Some(i) = self.lines.iter().position(line::Line::is_over) {
                let line = self.lines.remove(i);
                self.finish(line);
            }
            self.maker.live.look(Instant::now());
            self.say_formats();
            if let Ok(request) = requests.recv_timeout(LOOK) {
                self.answer(request);
            }
        }
    }

    /// From here on everything ends by itself, in the order frames flow.
    fn stop_lines(&mut self) {
        for line in &self.lines {
            line.stop.stop();
        }
        let mut lines = std::mem::take(&mut self.lines);
        // All of the stop has one deadline, this part of it and what follows.
        join_lines(&mut self.stopping, &self.maker, &mut lines);
        for line in lines {
            self.part_with(line);
        }
    }

    /// One line that has ended, or was told to, while the others go on: it has time of its own.
    fn join_line(stopping: &mut Stopping, maker: &LineMaker, line: &mut line::Line) {
        let mut own = Stopping::new(line.stop.clone());
        join_lines(&mut own, maker, std::slice::from_mut(line));
        stopping.absorb(own);
    }

    fn finish(&mut self, mut line: line::Line) {
        Self::join_line(&mut self.stopping, &self.maker, &mut line);
        self.part_with(line);
    }

    /// Its last word; what was wrong with it is over, too.
    fn say_gone(&self, source: &Name) {
        self.out.source_status(source, SourceStatus::Offline);
        self.maker.events.solved(capture::OFFLINE, source.as_str());
    }

    /// A line whose threads have ended, or were left behind.
    fn part_with(&mut self, line: line::Line) {
        let source = line.shared.source.clone();
        self.say_gone(&source);
        self.account_for(line);
    }

    /// Its numbers, and what its source died of.
    fn account_for(&mut self, mut line: line::Line) {
        let source = line.shared.source.clone();
        self.gone.push(line.stats.clone());
        let ended = line.ended.take();
        if let Some(Ended::End(_)) = ended {
            self.read.insert(source.clone(), line.settings.clone());
        }
        if let Some(error) = failure(&source, ended) {
            self.failed(&source, error);
            self.lost.push(line);
        }
    }

    /// The others go on.
    fn failed(&mut self, source: &Name, error: StartError) {
        tracing::error!(%source, error = %error, "source lost");
        let advice = "see the log; correct [source] and reload, or restart visualpath";
        let problem = problem("source_lost", source.as_str(), &error.to_string(), advice);
        self.maker.events.problem(problem);
        self.error.get_or_insert(error);
    }
}

/// Source, path, workers, clips, in this order. One that does not end is left behind.
fn join_lines(stopping: &mut Stopping, maker: &LineMaker, lines: &mut [line::Line]) {
    if lines.is_empty() {
        return;
    }
    for line in lines.iter_mut() {
        line.join_capture(stopping);
    }
    for line in lines.iter_mut() {
        line.join_path(stopping);
    }
    // Every trigger has asked for its clip before the clips are told that nothing follows.
    maker.events.flush(stopping.left());
    for line in lines {
        line.finish_clips(stopping);
    }
}

/// What a source died of, if it did not end at its end or by request.
fn failure(source: &Name, ended: Option<Ended>) -> Option<StartError> {
    let source_name = source.clone();
    match ended? {
        Ended::Failed(error) => Some(StartError::Source { source_name, error }),
        Ended::NoPool(error) => Some(StartError::Pool {
            source_name,
            error: Box::new(error),
        }),
        Ended::End(_) | Ended::Stopped => None,
    }
}

fn report(summary: Summary, stopping: Stopping, error: Option<StartError>) -> Report {
    let Stopping {
        stragglers,
        panicked,
        ..
    } = stopping;
    if !stragglers.is_empty() {
        tracing::error!(?stragglers, "did not stop in time and are left behind");
    }
    let error = if panicked.is_empty() {
        error
    } else {
        let panicked = panicked.join(", ");
        Some(StartError::Thread(format!(
            "panicked: {panicked}; see the log"
        )))
    };
    Report {
        summary,
        error,
        stragglers,
    }
}

fn make_state_dir(config: &Config) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = &config.device.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)
        .map_err(|error| StartError::StateDir {
            path: dir.display().to_string(),
            error,
        })
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| StartError::Thread(format!("{name}: {e}")))
}

/// A problem seen now.
pub fn problem(code: &str, subject: &str, detail: &str, advice: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        subject: subject.to_owned(),
        since: jiff::Timestamp::now().to_string(),
        detail: detail.to_owned(),
        advice: advice.to_owned(),
    }
}

fn health_message(device: &str, problems: Vec<Problem>) -> Health {
    Health {
        schema: HEALTH_SCHEMA.to_owned(),
        device: device.to_owned(),
        state: if problems.is_empty() {
            HealthState::Ok
        } else {
            HealthState::Degraded
        },
        problems,
        sources: Vec::new(),
        time: jiff::Timestamp::now().to_string(),
    }
}

/// Topics of this device, for whoever publishes or subscribes.
pub fn topics(config: &Config) -> Result<Topics, visualpath_mqtt::TopicError> {
    Topics::new(&config.mqtt.prefix, config.device_id())
}
