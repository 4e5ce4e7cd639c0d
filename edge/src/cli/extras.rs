//! `visualpath plugins test` and `visualpath models`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use visualpath_core::{Name, Outcome};
use visualpath_frames::Frame;
use visualpath_media::source::{self, SourceEvent, SourceOptions, StopFlag};
use visualpath_onnx::{ModelLocator, default_model_dirs};
use visualpath_platform::isolation::ChildEvent;
use visualpath_platform::worker::Reply;
use visualpath_platform::{Bell, Job, LaneWorker};

use super::{fail, say, say_json};
use crate::builtin;
use crate::config::{Config, ExtractorConfig};
use crate::exit::Exit;
use crate::models;
use crate::pipeline::StartError;
use crate::pipeline::build::{self, Nursery};
use crate::pipeline::plan;

/// What `plugins test` is asked for.
pub struct Alone {
    /// The plugin.
    pub plugin: String,
    /// The source.
    pub uri: String,
    /// Keys of its config.
    pub settings: Vec<String>,
    /// The venv of a Python plugin.
    pub venv: Option<PathBuf>,
    /// Frames at most.
    pub frames: Option<u64>,
    /// JSON.
    pub json: bool,
}

pub fn plugins_test(alone: &Alone, config: Config) -> Exit {
    match look(alone, config) {
        Ok(()) => Exit::Ok,
        Err((exit, message)) => fail(exit, &message),
    }
}

type Failed = (Exit, String);

fn parse_settings(
    settings: &[String],
) -> Result<serde_json::Map<String, serde_json::Value>, Failed> {
    let usage = |s: &str, e: &str| (Exit::Usage, format!("--set {s}: {e}"));
    let mut config = serde_json::Map::new();
    for s in settings {
        let (key, value) = s
            .split_once('=')
            .ok_or_else(|| usage(s, "expected KEY=VALUE"))?;
        // A word without quotes is a string, as in an override by environment.
        let parsed: serde_json::Value = match toml::from_str::<toml::Table>(&format!("v = {value}"))
        {
            Ok(mut table) => table
                .remove("v")
                .and_then(|v| serde_json::to_value(v).ok())
                .ok_or_else(|| usage(s, "not a value"))?,
            Err(_) => value.into(),
        };
        config.insert(key.to_owned(), parsed);
    }
    Ok(config)
}

fn look(alone: &Alone, mut config: Config) -> Result<(), Failed> {
    let wrong = |exit: Exit| move |e: &dyn std::fmt::Display| (exit, e.to_string());
    let registry = builtin::registry().map_err(|e| wrong(Exit::Plugin)(&e))?;
    let name = Name::new("test").map_err(|e| wrong(Exit::Failed)(&e))?;
    // As the config has it, if it does: its venv, its rights, its own keys.
    let known = config.extractor.values().find(|e| e.plugin == alone.plugin);
    let mut settings = known
        .cloned()
        .unwrap_or_else(|| ExtractorConfig::new(&alone.plugin));
    settings.venv = alone.venv.clone().or(settings.venv);
    settings.config.extend(parse_settings(&alone.settings)?);
    settings.depends.clear();
    settings.gate = None;
    config.extractor.insert(name.clone(), settings);
    let refused = |e: StartError| match e {
        // There is no config to point into: it is the plugin that can't be had so.
        StartError::Config(faults) => {
            let told = faults.into_iter().map(|(_, message)| message);
            (Exit::Plugin, told.collect::<Vec<_>>().join("; "))
        }
        e => (super::exit_of(&e), e.to_string()),
    };
    let mut planned = plan::alone(&config, &registry, &name, &name).map_err(refused)?;
    let bell = Bell::new().map_err(|e| wrong(Exit::Failed)(&e))?;
    // Nothing of a trial is left in the appliance's own directories.
    let work = tempfile::tempdir().map_err(|e| wrong(Exit::Failed)(&e))?;
    let nursery = Nursery {
        config: &config,
        bell: &bell,
        work_dir: Some(work.path()),
    };
    let mut loaded = build::load(&mut planned, &name, &nursery).map_err(refused)?;
    if let LaneWorker::Child(child) = &loaded.worker
        && let Some(gone) = child.gone()
    {
        return Err((Exit::Plugin, gone.why.to_string()));
    }
    let view = loaded.view;
    let mut source = source::open(&SourceOptions::new(name, &alone.uri), build::clock())
        .map_err(|e| wrong(Exit::Source)(&e))?;
    let mut pool =
        build::pool(source.info(), 1, 2, &[view]).map_err(|e| wrong(Exit::Failed)(&e))?;
    let stop = StopFlag::new();
    let mut seen = 0;
    while alone.frames.is_none_or(|n| seen < n) {
        match source
            .next(&pool, &stop)
            .map_err(|e| wrong(Exit::Source)(&e))?
        {
            SourceEvent::Frame(frame) => {
                seen += 1;
                let reply = one_look(&mut loaded.worker, frame, None)?;
                match reply.outcome {
                    Outcome::Observed(held) => {
                        for o in &held.observations {
                            let exit = match alone.json {
                                true => say_json(o),
                                false => say(&describe(o)),
                            };
                            if exit != Exit::Ok {
                                return Err((exit, "standard output".to_owned()));
                            }
                        }
                    }
                    Outcome::Failed(why) => {
                        return Err((Exit::Plugin, format!("frame {}: {why}", reply.frame_id)));
                    }
                    Outcome::TimedOut | Outcome::Dropped(_) => {}
                }
            }
            SourceEvent::NewFormat(info) => {
                pool = build::pool(&info, pool.pool_id() + 1, 2, &[view])
                    .map_err(|e| wrong(Exit::Failed)(&e))?;
            }
            SourceEvent::Offline(outage) => {
                tracing::warn!(detail = outage.detail, advice = outage.advice, "offline");
            }
            SourceEvent::Gap(_)
            | SourceEvent::Wrapped
            | SourceEvent::Packet(_)
            | SourceEvent::Online => {}
            SourceEvent::End(_) | SourceEvent::Stopped => break,
        }
    }
    if let LaneWorker::Child(child) = loaded.worker {
        // Nothing is ever sent: it disconnects when the process is gone.
        let ended = child.close(CHILD_GRACE).recv();
        tracing::debug!(?ended, "worker process ended");
    }
    Ok(())
}

/// How long the plugin's process has to end by itself.
const CHILD_GRACE: Duration = Duration::from_secs(5);

/// One look, wherever the extractor runs; a process that does not answer within `limit` is given up.
pub(super) fn one_look(
    worker: &mut LaneWorker,
    frame: Frame,
    limit: Option<Duration>,
) -> Result<Reply, Failed> {
    let job = Job::new(frame);
    match worker {
        LaneWorker::Inline(runner) | LaneWorker::Thread(runner) => Ok(runner.run(&job)),
        LaneWorker::Child(child) => {
            child.dispatch(job);
            let give_up = limit.map(|l| (Instant::now() + l, l));
            loop {
                let left = give_up.map(|(at, _)| at.saturating_duration_since(Instant::now()));
                match (child.wait(left), give_up) {
                    (Some(ChildEvent::Reply(reply)), _) => return Ok(reply),
                    (Some(ChildEvent::Down(why, _) | ChildEvent::Hold(why, _)), _) => {
                        return Err((Exit::Plugin, why.to_string()));
                    }
                    (None, Some((_, limit))) => {
                        let why = format!("no answer within {} s", limit.as_secs());
                        return Err((Exit::Plugin, why));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn describe(o: &visualpath_core::Observation) -> String {
    let signals: Vec<String> = o
        .signals
        .iter()
        .filter(|(_, v)| *v != 0.0)
        .map(|(n, v)| format!("{n}={v:.2}"))
        .collect();
    format!(
        "frame {:6}  {:6.1} ms  {}",
        o.frame_id,
        ms(o.timing_ns),
        signals.join(" ")
    )
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

pub fn models_list(verify: bool, json: bool) -> Exit {
    let locator = ModelLocator::new(default_model_dirs(None));
    let rows = models::list(&locator, verify);
    let bad = rows.iter().any(|r| r.problem.is_some());
    let said = if json {
        say_json(&rows)
    } else if rows.is_empty() {
        let dirs: Vec<String> = locator
            .dirs
            .iter()
            .map(|d| d.display().to_string())
            .collect();
        say(&format!(
            "no model cards in {}; run cross/setup.sh",
            dirs.join(", ")
        ))
    } else {
        let line = |r: &models::ModelRow| {
            let state = match (&r.problem, verify) {
                (Some(problem), _) => format!("  PROBLEM: {problem}"),
                (None, true) => "  file verified".to_owned(),
                (None, false) => String::new(),
            };
            format!(
                "{} {}  code {}, weights {}, data {}  {}{state}",
                r.name, r.version, r.code_license, r.weights_license, r.data_license, r.card
            )
        };
        say(&rows.iter().map(line).collect::<Vec<_>>().join("\n"))
    };
    if bad && said == Exit::Ok {
        Exit::Plugin
    } else {
        said
    }
}

pub fn models_bench(name: Option<&str>, runs: usize, json: bool) -> Exit {
    let locator = ModelLocator::new(default_model_dirs(None));
    let names = name.map_or_else(|| locator.known(), |n| vec![n.to_owned()]);
    let rows: Vec<models::ModelBench> = names
        .iter()
        .flat_map(|n| models::bench(&locator, n, runs))
        .collect();
    let bad = rows.is_empty() || rows.iter().all(|r| r.problem.is_some());
    let said = if json {
        say_json(&rows)
    } else {
        let line = |r: &models::ModelBench| match &r.problem {
            Some(problem) => format!("{:12} {:20} {problem}", r.model, r.runtime),
            None => format!(
                "{:12} {:20} p50 {:.1} ms (n = {})",
                r.model, r.runtime, r.p50_ms, r.n
            ),
        };
        say(&rows.iter().map(line).collect::<Vec<_>>().join("\n"))
    };
    if bad && said == Exit::Ok {
        Exit::Plugin
    } else {
        said
    }
}
