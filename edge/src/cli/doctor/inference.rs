//! What runs the models, and whether they are there and whole: by loading them, as a run would.

use std::path::Path;

use visualpath_core::{Name, PluginError};
use visualpath_onnx::{ModelError, ModelLocator, Runtime, available_runtimes};
use visualpath_platform::{Bell, LaneWorker};

use super::finding::{Code, Finding};
use crate::config::Config;
use crate::pipeline::StartError;
use crate::pipeline::build::{self, Loaded, Nursery};
use crate::pipeline::plan::{self, Planned};

/// The runtimes of this build, as `auto` would choose among them.
pub fn runtimes() -> Vec<Finding> {
    let all = available_runtimes();
    let ort = all
        .iter()
        .find(|r| r.runtime == Runtime::Ort)
        .map(|r| &r.state);
    let tract = all
        .iter()
        .find(|r| r.runtime == Runtime::Tract)
        .map(|r| &r.state);
    match (ort, tract) {
        (Some(Ok(info)), _) => {
            let library = info
                .library
                .as_ref()
                .map_or_else(String::new, |l| format!(", {}", l.display()));
            let detail = format!("{info} on {}{library}", info.provider);
            vec![Finding::new(Code::Runtime, "auto", detail)]
        }
        (Some(Err(why)), Some(Ok(info))) => vec![
            Finding::new(
                Code::RuntimeFallback,
                "auto",
                format!("{info}, about half as fast as ONNX Runtime: {why}"),
            )
            .advise(
                "put libonnxruntime.so into /usr/lib/visualpath, or name it in ORT_DYLIB_PATH; runtime = \"tract\" says that this is meant",
            ),
        ],
        (_, Some(Ok(info))) => vec![Finding::new(Code::Runtime, "auto", info.to_string())],
        (ort, tract) => {
            let said = |s: Option<&Result<_, visualpath_onnx::LoadError>>| {
                s.and_then(|s| s.as_ref().err())
                    .map_or_else(String::new, ToString::to_string)
            };
            let detail = format!("{}; {}", said(ort), said(tract));
            vec![
                Finding::new(Code::RuntimeMissing, "auto", detail)
                    .advise("install ONNX Runtime, or a build with tract"),
            ]
        }
    }
}

/// Loads the extractors of one source; those that can't be had are told of and left out.
pub fn load(
    config: &Config,
    source: &Name,
    extractors: Vec<Planned>,
    bell: &Bell,
    work_dir: &Path,
) -> (Vec<Loaded>, Vec<Finding>) {
    let nursery = Nursery {
        config,
        bell,
        work_dir: Some(work_dir),
    };
    let (mut all, mut found) = (Vec::new(), Vec::new());
    for mut planned in extractors {
        let name = planned.name.clone();
        match build::load(&mut planned, source, &nursery) {
            Ok(loaded) => {
                if let LaneWorker::Child(child) = &loaded.worker
                    && let Some(gone) = child.gone()
                {
                    found.push(died(&name, &gone.why.to_string()));
                    continue;
                }
                found.extend(loaded_well(&planned, &loaded));
                all.push(loaded);
            }
            Err(error) => found.push(of(config, &error)),
        }
    }
    (all, found)
}

/// What a plan that fails as a whole says of each extractor by itself.
pub fn one_by_one(
    config: &Config,
    registry: &visualpath_platform::Registry,
    error: &StartError,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in config.extractor.keys() {
        let sources = config.sources_of(name.as_str());
        let Some((source, _)) = sources.first() else {
            continue;
        };
        if let Err(e) = plan::alone(config, registry, name, source) {
            found.push(of(config, &e));
        }
    }
    if found.is_empty() {
        found.push(of(config, error));
    }
    found
}

fn loaded_well(planned: &Planned, loaded: &Loaded) -> Vec<Finding> {
    let subject = format!("extractor.{}", loaded.name);
    if loaded.models.is_empty() {
        let detail = format!(
            "`{}` runs {}",
            planned.settings.plugin,
            planned.isolation.as_str()
        );
        return vec![Finding::new(Code::Extractor, subject, detail)];
    }
    let one = |m: &visualpath_core::ModelUse| {
        let version = match m.version.as_str() {
            "" => String::new(),
            v => format!(" {v}"),
        };
        let sha256 = m.sha256.get(..12).unwrap_or(&m.sha256);
        let detail = format!(
            "`{}`{version}, sha256 {sha256}… as its card says, runs {} on {}",
            m.name,
            planned.isolation.as_str(),
            m.runtime
        );
        Finding::new(Code::Model, &subject, detail)
    };
    loaded.models.iter().map(one).collect()
}

fn died(name: &Name, why: &str) -> Finding {
    Finding::new(
        Code::ExtractorFailed,
        format!("extractor.{name}"),
        format!("its process can't be kept running: {why}"),
    )
    .advise(format!(
        "`visualpath validate --plugins` starts it alone; its standard error is in the log. Nothing of `{name}` works until it does"
    ))
}

/// What an extractor that can't be had is about.
pub fn of(config: &Config, error: &StartError) -> Finding {
    let at = |extractor: &Name| format!("extractor.{extractor}");
    match error {
        StartError::Plugin { extractor, error } => match error {
            PluginError::Model { model, message } => {
                let (code, advice) = why_no_model(config, model);
                Finding::new(code, at(extractor), format!("model `{model}`: {message}"))
                    .advise(advice)
            }
            PluginError::Runtime { runtime, message } => Finding::new(
                Code::RuntimeMissing,
                at(extractor),
                format!("runtime `{runtime}`: {message}"),
            )
            .advise("install it where `visualpath version` looks, or set runtime = \"auto\""),
            PluginError::Config { key, message } => Finding::new(
                Code::ConfigInvalid,
                format!("{}.config.{key}", at(extractor)),
                message,
            )
            .advise("`visualpath validate` points to the line"),
        },
        StartError::Worker { extractor, message } => died(extractor, message),
        StartError::WarmUp { extractor, message } => Finding::new(
            Code::ExtractorFailed,
            at(extractor),
            format!("failed on a picture: {message}"),
        )
        .advise("`visualpath plugins test` shows what it does with a source"),
        other => Finding::new(Code::ConfigInvalid, "config", other.to_string())
            .advise("`visualpath validate` points to the line"),
    }
}

/// By the model itself: the plugin's error is only a text.
fn why_no_model(config: &Config, model: &str) -> (Code, &'static str) {
    let fetch = "run cross/setup.sh, or copy the card and its file into <state_dir>/models";
    match ModelLocator::new(plan::model_dirs(config)).open(model) {
        Err(
            ModelError::NotFound { .. }
            | ModelError::FileMissing { .. }
            | ModelError::NoSuchFile { .. }
            | ModelError::NoCard { .. },
        ) => (Code::ModelMissing, fetch),
        Err(ModelError::Size { .. } | ModelError::Sha256 { .. }) => (
            Code::ModelDamaged,
            "fetch it again: run cross/setup.sh, or copy it from where it is whole",
        ),
        _ => (
            Code::ModelUnusable,
            "`visualpath models verify` and `models bench` tell more",
        ),
    }
}
