//! The appliance: one source, its extractors, its paths, clips and messages.
//!
//! ```text
//! Source ─▶ slot ─┬▶ limiter ─▶ worker ─▶ outcome ─▶ aligner ─▶ rules ─▶ trigger ─▶ outbox ─▶ MQTT
//!                 └▶ encoder ─▶ packet ring ─────────────────────────────────┴▶ clip ─▶ outbox
//! ```
//!
//! [`Pipeline::run`] is that drawing as code: it makes the parts, starts one thread for each arrow
//! that needs one, waits, and stops them in the order frames flow: source, workers and fusion,
//! clips, outbox.

pub mod build;
pub mod capture;
pub mod events;
pub mod evidence;
pub mod out;
mod sink;
mod stop;
pub mod summary;
pub mod trace;
pub mod wall;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use visualpath_core::{Name, PluginError};
use visualpath_frames::PoolError;
use visualpath_media::clip::Finish;
use visualpath_media::source::{self, SourceError, SourceOptions, StopFlag};
use visualpath_mqtt::payload::{HEALTH_SCHEMA, HealthState, INFO_SCHEMA, Problem};
use visualpath_mqtt::{
    Event as Line, ExtractorStatus, Health, Info, SourceStatus, Summary, Topics,
};
use visualpath_platform::trace::FlowTrace;
use visualpath_platform::{Flow, FlowSpec, Registry};

use crate::broker::{Broker, BrokerStartError};
use crate::config::Config;
use capture::{Capture, CaptureStats, Ended};
use events::{Counts, Events, OnTrigger, PathInfo};
use out::{Out, Print};
use sink::ToEvents;
use stop::Stopping;
use wall::WallClock;

/// Frames that may lie between the capture thread and the path thread.
const BETWEEN: usize = 2;
/// Events that may wait for the events thread; then the path thread waits, because events are
/// never dropped.
const EVENTS: usize = 256;
/// Frames that may wait for outcomes.
const PENDING: usize = 256;

/// Why a pipeline could not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys of the config that only plugins, rules or the build can judge.
    #[error("{}", .0.iter().map(|(k, m)| format!("{k}: {m}")).collect::<Vec<_>>().join("\n"))]
    Config(Vec<(String, String)>),
    /// A plugin or its model.
    #[error("extractor `{extractor}`: {error}")]
    Plugin {
        /// Which.
        extractor: Name,
        /// Why.
        error: PluginError,
    },
    /// A model that loads but does not run.
    #[error("extractor `{extractor}` failed on a test picture: {message}")]
    WarmUp {
        /// Which.
        extractor: Name,
        /// What it said.
        message: String,
    },
    /// The source.
    #[error("source `{source_name}`: {error}")]
    Source {
        /// Which.
        source_name: Name,
        /// Why.
        error: SourceError,
    },
    /// The frame pool.
    #[error("source `{source_name}`: {error}")]
    Pool {
        /// Which.
        source_name: Name,
        /// Why.
        error: Box<PoolError>,
    },
    /// The broker address, or the embedded broker.
    #[error(transparent)]
    Broker(#[from] BrokerStartError),
    /// The state directory.
    #[error("device.state_dir: {path} can't be used: {error}; make it, or choose another")]
    StateDir {
        /// The directory.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The evidence lane.
    #[error("clips: {0}")]
    Evidence(String),
    /// A thread.
    #[error("a thread could not be started: {0}")]
    Thread(String),
}

impl StartError {
    pub(crate) fn config(key: &str, message: &str) -> Self {
        Self::Config(vec![(key.to_owned(), message.to_owned())])
    }
}

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
        }
    }

    /// Prints events on standard output.
    #[must_use]
    pub fn print(mut self, print: Print) -> Self {
        self.print = print;
        self
    }

    /// Calls `told` with every trigger, once it is in the outbox, on the events thread.
    #[must_use]
    pub fn on_trigger(mut self, told: OnTrigger) -> Self {
        self.on_trigger = Some(told);
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

    /// Runs until the source ends or the stop flag is set.
    pub fn run(self) -> Result<Report, StartError> {
        let Self {
            config,
            registry,
            print,
            on_trigger,
            on_started,
            problems,
            stop,
        } = self;
        let started = Instant::now();
        let cpu_before = summary::cpu_seconds();
        let clock = build::clock();
        let plan = build::plan(&config, &registry)?;
        make_state_dir(&config)?;

        // The broker first: a subscriber may come while models load.
        let broker = Broker::start(&config, Arc::clone(&clock))?;
        let out = Out::new(broker.publisher(), print);
        out.print_json(&broker.ready());
        let (source_name, settings) = match config.source.iter().next() {
            Some((name, settings)) => (name.clone(), settings.clone()),
            None => return Err(StartError::config("source", "no source is configured")),
        };
        let options = SourceOptions {
            realtime: settings.realtime,
            loop_: settings.repeat,
            width: settings.width,
            height: settings.height,
            fps: settings.fps,
            ..SourceOptions::new(source_name.clone(), settings.uri.clone())
        };
        let failed = |error| StartError::Source {
            source_name: source_name.clone(),
            error,
        };
        let source = source::open(&options, Arc::clone(&clock)).map_err(failed)?;
        let info = source.info().clone();

        let realtime = settings.realtime;
        let wants_clips = plan.paths.iter().any(|p| p.wants_clips);
        let slots = build::pool_slots(&config, &plan);
        let views: Vec<_> = plan.extractors.iter().map(|e| e.view).collect();
        let loaded = build::load(&plan)?;
        let names: Vec<Name> = loaded.iter().map(|l| l.name.clone()).collect();
        let paths_info: Vec<PathInfo> = plan
            .paths
            .iter()
            .map(|p| PathInfo {
                name: p.name.clone(),
                source: source_name.clone(),
                models: p
                    .extractors
                    .iter()
                    .flat_map(|i| loaded[*i].models.clone())
                    .collect(),
            })
            .collect();
        out.info(&info_message(&config, &paths_info));
        out.health(&health_message(config.device_id(), problems.clone()));
        let hub = trace::hub(&config);
        trace::session_start(&hub, &config, &plan);
        let lanes = build::lanes(&config, &plan, loaded, realtime)?;
        let fps = match (settings.fps, info.nominal_fps) {
            (Some(asked), Some(nominal)) => Some(asked.min(nominal)),
            (asked, nominal) => asked.or(nominal),
        };
        let paths = build::paths(&config, plan, &lanes, realtime, fps);

        let wall = WallClock::starting_now();
        let (to_events, from_all) = bounded(EVENTS);
        // Bounded by the requests: each has exactly one result.
        let (clip_results, clips) = unbounded();
        let evidence = if wants_clips {
            Some(Arc::new(evidence::start(
                &config,
                &source_name,
                realtime,
                fps,
                Arc::clone(&clock),
                clip_results,
            )?))
        } else {
            None
        };
        let flow = Flow::new(
            FlowSpec {
                source: source_name.clone(),
                realtime,
                lanes,
                paths,
                pending: PENDING,
                clock: Arc::clone(&clock),
                stop: stop.clone(),
                stop_grace_ns: 5_000_000_000,
            },
            ToEvents::new(to_events.clone()),
        )
        .map_err(|e| StartError::Thread(e.to_string()))?;
        let flow = flow.trace(
            FlowTrace::new(Arc::clone(&hub), source_name.clone()),
            paths_info.iter().map(|p| p.name.clone()).collect(),
        );
        let flow_stats = flow.stats();
        let capture_stats = Arc::new(CaptureStats::default());
        let mut next_pool = 0;
        let mut make_pool = move |info: &source::SourceInfo| {
            next_pool += 1;
            build::pool(info, next_pool, slots, &views)
        };
        let pool = make_pool(&info).map_err(|e: PoolError| StartError::Pool {
            source_name: source_name.clone(),
            error: Box::new(e),
        })?;
        tracing::info!(source = %source_name, slots, bytes = pool.layout().total_bytes(), "frame pool");

        out.source_status(&source_name, SourceStatus::Online);
        for name in &names {
            out.extractor_status(&source_name, name, ExtractorStatus::Running);
        }
        let (to_path, captured) = bounded(BETWEEN);
        let counts = Arc::new(Counts::default());
        let control = ToEvents::new(to_events.clone());
        let events = Events {
            out,
            paths: paths_info,
            evidence: evidence.clone(),
            wall,
            device: config.device_id().to_owned(),
            boot_id: wall::boot_id(),
            problems,
            on_trigger,
            open: HashMap::new(),
            asked: HashMap::new(),
            counts: Arc::clone(&counts),
        };
        let capture = Capture {
            source,
            make_pool: Box::new(make_pool),
            to_path,
            evidence: evidence.clone(),
            events: ToEvents::new(to_events),
            realtime,
            stop: stop.clone(),
            stats: Arc::clone(&capture_stats),
        };

        let events = spawn("events", move || events.run(&from_all, &clips))?;
        let path = spawn(&format!("path-{source_name}"), move || flow.run(&captured))?;
        let capture = spawn(&format!("cap-{source_name}"), move || capture.run(pool))?;
        if let Some(told) = on_started {
            told();
        }

        // From here on everything ends by itself, in the order frames flow.
        let mut stopping = Stopping::new(stop.clone());
        let ended = stopping.join("cap", capture, |late| {
            // Frames nobody takes, or events nobody keeps, are no appliance.
            if path.is_finished() || events.is_finished() {
                stop.stop();
            }
            if late && let Some(evidence) = &evidence {
                // Capture may be waiting for an encoder that waits for a dead disk.
                drop(evidence.finish(Finish::Stopped, Duration::ZERO));
            }
        });
        if let Some((_, workers)) = stopping.join("path", path, |_| ()) {
            stopping.join_all("x-", workers);
        }
        // Every trigger has asked for its clip before the clips are told that nothing follows.
        control.flush(stopping.left());
        if let Some(evidence) = &evidence {
            let why = match ended {
                Some(Ended::End(_) | Ended::Failed(_)) => Finish::SourceEnd,
                _ => Finish::Stopped,
            };
            if let Err(e) = evidence.finish(why, stopping.left()) {
                stopping.stragglers.push(e.to_string());
            }
        }
        control.end(stopping.left());
        // An events thread that ends late ends the process late, but not for ever.
        stop.stop();
        let kept = stopping.join("events", events, |_| ()).is_some();
        let out = Out::new(
            broker.publisher(),
            if kept { print } else { Print::Nothing },
        );
        out.source_status(&source_name, SourceStatus::Offline);
        let undelivered = broker.finish(stopping.left());
        let reason = match &ended {
            Some(Ended::End(_)) => "end",
            Some(Ended::Stopped) => "stopped",
            Some(Ended::Failed(_) | Ended::NoPool(_)) | None => "failed",
        };
        let frames = capture_stats.frames.load(Ordering::Relaxed);
        let triggers = counts.triggers.load(Ordering::Relaxed);
        trace::session_end(&hub, reason, frames, triggers);
        let left = hub.close(stopping.left());
        stopping.stragglers.extend(left);
        let Stopping {
            stragglers,
            panicked,
            ..
        } = stopping;
        if !stragglers.is_empty() {
            tracing::error!(?stragglers, "did not stop in time and are left behind");
        }
        let summary = summary::summary(&summary::Parts {
            capture: &capture_stats,
            flow: &flow_stats,
            counts: &counts,
            undelivered,
            wall: started.elapsed(),
            cpu_s: summary::cpu_seconds() - cpu_before,
        });
        out.print(&Line::Summary(summary.clone()));
        let error = match ended {
            _ if !panicked.is_empty() => Some(StartError::Thread(format!(
                "panicked: {}; see the log",
                panicked.join(", ")
            ))),
            Some(Ended::Failed(error)) => Some(StartError::Source { source_name, error }),
            Some(Ended::NoPool(error)) => Some(StartError::Pool {
                source_name,
                error: Box::new(error),
            }),
            Some(Ended::End(_) | Ended::Stopped) | None => None,
        };
        Ok(Report {
            summary,
            error,
            stragglers,
        })
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

fn info_message(config: &Config, paths: &[PathInfo]) -> Info {
    let mut models = Vec::new();
    for used in paths.iter().flat_map(|p| &p.models) {
        let model = crate::models::with_licences(config, used);
        if !models.contains(&model) {
            models.push(model);
        }
    }
    Info {
        schema: INFO_SCHEMA.to_owned(),
        device: config.device_id().to_owned(),
        boot_id: wall::boot_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: crate::version::commit(),
        target: crate::version::target(),
        capabilities: crate::version::capabilities(),
        models,
        machine: crate::version::machine(),
    }
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
        time: jiff::Timestamp::now().to_string(),
    }
}

/// Topics of this device, for whoever publishes or subscribes.
pub fn topics(config: &Config) -> Result<Topics, visualpath_mqtt::TopicError> {
    Topics::new(&config.mqtt.prefix, config.device_id())
}
