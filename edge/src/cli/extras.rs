//! `visualpath plugins test` and `visualpath models`.

use visualpath_core::{Name, Outcome, PluginContext};
use visualpath_media::source::{self, SourceEvent, SourceOptions, StopFlag};
use visualpath_onnx::{ModelLocator, default_model_dirs};
use visualpath_platform::{Job, Merger, Runner};

use super::{fail, say, say_json};
use crate::builtin;
use crate::exit::Exit;
use crate::models;
use crate::pipeline::build;

pub fn plugins_test(
    plugin: &str,
    uri: &str,
    settings: &[String],
    frames: Option<u64>,
    json: bool,
) -> Exit {
    match look(plugin, uri, settings, frames, json) {
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

fn look(
    plugin: &str,
    uri: &str,
    settings: &[String],
    frames: Option<u64>,
    json: bool,
) -> Result<(), Failed> {
    let wrong = |exit: Exit| move |e: &dyn std::fmt::Display| (exit, e.to_string());
    let registry = builtin::registry().map_err(|e| wrong(Exit::Plugin)(&e))?;
    let plugin = registry
        .extractor(plugin)
        .map_err(|e| wrong(Exit::Plugin)(&e))?;
    let name = Name::new("test").map_err(|e| wrong(Exit::Failed)(&e))?;
    let cx = PluginContext {
        name: name.clone(),
        config: parse_settings(settings)?,
        zones: Vec::new(),
        model_dirs: default_model_dirs(None),
    };
    let view = plugin.input(&cx).map_err(|e| wrong(Exit::Plugin)(&e))?;
    let factory = Box::new(move || plugin.create(&cx));
    let merger = Merger::new(name.clone(), Vec::new());
    let mut runner =
        Runner::new(name.clone(), view, merger, factory).map_err(|e| wrong(Exit::Plugin)(&e))?;
    let mut source = source::open(&SourceOptions::new(name, uri), build::clock())
        .map_err(|e| wrong(Exit::Source)(&e))?;
    let mut pool =
        build::pool(source.info(), 1, 2, &[view]).map_err(|e| wrong(Exit::Failed)(&e))?;
    let stop = StopFlag::new();
    let mut seen = 0;
    while frames.is_none_or(|n| seen < n) {
        match source
            .next(&pool, &stop)
            .map_err(|e| wrong(Exit::Source)(&e))?
        {
            SourceEvent::Frame(frame) => {
                seen += 1;
                let reply = runner.run(&Job::new(frame));
                match reply.outcome {
                    Outcome::Observed(held) => {
                        for o in &held.observations {
                            let exit = if json { say_json(o) } else { say(&describe(o)) };
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
            SourceEvent::Gap(_) | SourceEvent::Wrapped => {}
            SourceEvent::End(_) | SourceEvent::Stopped => break,
        }
    }
    Ok(())
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
