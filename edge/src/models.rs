//! Models as the appliance sees them: cards with their licences, and whether their files are whole.

use std::time::Instant;

use serde::Serialize;
use visualpath_core::ModelUse;
use visualpath_mqtt::payload::{InfoModel, ModelRef};
use visualpath_onnx::{LoadOptions, ModelLocator, Runtime, load};

use crate::config::Config;
use crate::pipeline::plan::model_dirs;

/// A model in use, with the licences its card states.
pub fn with_licences(config: &Config, used: &ModelUse) -> InfoModel {
    let locator = ModelLocator::new(model_dirs(config));
    let licence = locator.card(&used.name).ok().map(|c| c.licence);
    InfoModel {
        model: ModelRef::from(used),
        code_license: licence.as_ref().map(|l| l.code.clone()),
        weights_license: licence.as_ref().map(|l| l.weights.clone()),
        data_license: licence.map(|l| l.data),
    }
}

/// One row of `visualpath models`.
#[derive(Debug, Serialize)]
pub struct ModelRow {
    /// The card's name.
    pub name: String,
    /// The card's version.
    pub version: String,
    /// Licence of the code, SPDX.
    pub code_license: String,
    /// Licence of the weights.
    pub weights_license: String,
    /// Licence of the data it was trained on.
    pub data_license: String,
    /// The card.
    pub card: String,
    /// What is wrong with the card or its file; absent if nothing is (only `verify` reads the
    /// file).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Every card found; with `verify` every file's size and sha256 are checked.
pub fn list(locator: &ModelLocator, verify: bool) -> Vec<ModelRow> {
    locator
        .known()
        .into_iter()
        .map(|name| match locator.card(&name) {
            Ok(card) => ModelRow {
                problem: if verify {
                    locator.open(&name).err().map(|e| e.to_string())
                } else {
                    None
                },
                name,
                version: card.version.clone(),
                code_license: card.licence.code.clone(),
                weights_license: card.licence.weights.clone(),
                data_license: card.licence.data.clone(),
                card: card.path.display().to_string(),
            },
            Err(e) => ModelRow {
                name,
                version: String::new(),
                code_license: String::new(),
                weights_license: String::new(),
                data_license: String::new(),
                card: String::new(),
                problem: Some(e.to_string()),
            },
        })
        .collect()
}

/// One row of `visualpath models bench`.
#[derive(Debug, Serialize)]
pub struct ModelBench {
    /// The model.
    pub model: String,
    /// What ran it.
    pub runtime: String,
    /// Median of the runs, milliseconds.
    pub p50_ms: f64,
    /// Runs counted; the first, slow one is not.
    pub n: usize,
    /// Why it could not be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Runs a model on an empty picture with every runtime, one thread.
pub fn bench(locator: &ModelLocator, name: &str, runs: usize) -> Vec<ModelBench> {
    let file = match locator.open(name) {
        Ok(file) => file,
        Err(e) => return vec![failed(name, "", &e.to_string())],
    };
    [Runtime::Tract, Runtime::Ort]
        .into_iter()
        .map(|runtime| {
            let outputs: Vec<&str> = file.card.outputs.values().map(String::as_str).collect();
            let mut model = match load(runtime, &file, &LoadOptions::new(&file.card, &outputs)) {
                Ok(model) => model,
                Err(e) => return failed(name, &runtime.to_string(), &e.to_string()),
            };
            let input = vec![0.0; file.card.input_shape().iter().product()];
            let mut times = Vec::with_capacity(runs);
            for run in 0..=runs {
                let started = Instant::now();
                if let Err(e) = model.run(&input) {
                    return failed(name, &runtime.to_string(), &e.to_string());
                }
                if run > 0 {
                    times.push(started.elapsed().as_secs_f64() * 1e3);
                }
            }
            times.sort_by(f64::total_cmp);
            let info = model.info();
            ModelBench {
                model: name.to_owned(),
                runtime: format!("{} {}", info.name, info.version),
                p50_ms: times.get(times.len() / 2).copied().unwrap_or(0.0),
                n: times.len(),
                problem: None,
            }
        })
        .collect()
}

fn failed(model: &str, runtime: &str, problem: &str) -> ModelBench {
    ModelBench {
        model: model.to_owned(),
        runtime: runtime.to_owned(),
        p50_ms: 0.0,
        n: 0,
        problem: Some(problem.to_owned()),
    }
}
