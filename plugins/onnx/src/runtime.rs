//! Which runtime runs a model: asked for, or the fastest that works.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use visualpath_core::{ModelUse, nearest};

#[cfg(any(feature = "tract", feature = "ort"))]
use crate::backend::Backend;
use crate::backend::{InferError, LoadError, LoadOptions, Outputs, RuntimeInfo, Session};
use crate::locate::ModelFile;
use crate::shared::Shared;
#[cfg(any(feature = "tract", feature = "ort"))]
use crate::shared::get_or_load;

/// The runtime a config asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Runtime {
    /// ONNX Runtime where its library is found and works, else tract.
    #[default]
    Auto,
    /// tract, built in.
    Tract,
    /// ONNX Runtime; an error where it can't be had.
    Ort,
}

impl Runtime {
    /// The words of the config.
    pub const NAMES: [&'static str; 3] = ["auto", "tract", "ort"];
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tract => "tract",
            Self::Ort => "ort",
        })
    }
}

impl FromStr for Runtime {
    type Err = String;

    /// The error says what was expected, with the nearest word.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tract" => Ok(Self::Tract),
            "ort" => Ok(Self::Ort),
            _ => Err(format!(
                "`{text}` is not a runtime; expected auto, tract or ort{}",
                crate::card::hint(
                    &nearest(text, Self::NAMES)
                        .into_iter()
                        .map(str::to_owned)
                        .collect::<Vec<_>>()
                )
            )),
        }
    }
}

/// A model ready to run by one user, and what runs it.
pub struct LoadedModel {
    session: Box<dyn Session>,
    shared: Arc<Shared>,
    model: ModelUse,
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("model", &self.model)
            .field("info", self.info())
            .field("load_number", &self.load_number())
            .finish_non_exhaustive()
    }
}

impl LoadedModel {
    /// Runs it; see [`Session::run`].
    pub fn run(&mut self, input: &[f32]) -> Result<Outputs<'_>, InferError> {
        self.session.run(input)
    }

    /// The runtime really in use.
    pub fn info(&self) -> &RuntimeInfo {
        &self.shared.info
    }

    /// Which load of this process it was, counted from 1: those with the same number share one
    /// model in memory.
    pub fn load_number(&self) -> u64 {
        self.shared.number
    }

    /// What to tell about it in `info` and in triggers.
    pub fn model_use(&self) -> &ModelUse {
        &self.model
    }
}

/// A session of `model` with the runtime asked for; logs the one really in use.
///
/// The model itself is loaded once for all who want the same bytes, runtime and options, and
/// freed when the last of their [`LoadedModel`]s is dropped. Who comes while it is being loaded
/// waits. An error is not remembered: the next call tries again.
///
/// `Auto` falls back to tract where ONNX Runtime can't be had or does not take the model, and logs
/// why; `Ort` and `Tract` never fall back.
pub fn load(
    runtime: Runtime,
    model: &ModelFile,
    options: &LoadOptions,
) -> Result<LoadedModel, LoadError> {
    let (session, shared) = match runtime {
        Runtime::Tract => with_tract(model, options)?,
        Runtime::Ort => with_ort(model, options)?,
        Runtime::Auto => match with_ort(model, options) {
            Ok(loaded) => loaded,
            Err(reason) => {
                let loaded = with_tract(model, options)?;
                tracing::info!(
                    model = %model.card.name,
                    "runtime = \"auto\" takes tract, which is slower: {reason}"
                );
                loaded
            }
        },
    };
    let info = &shared.info;
    tracing::info!(
        model = %model.card.name,
        version = %model.card.version,
        runtime = %info,
        provider = %info.provider,
        threads = options.threads,
        library = info.library.as_ref().map(|l| l.display().to_string()),
        // The same number again: shared with those who had it before.
        load = shared.number,
        "model loaded"
    );
    Ok(LoadedModel {
        model: ModelUse {
            name: model.card.name.clone(),
            version: model.card.version.clone(),
            sha256: model.card.file.sha256.clone(),
            runtime: info.to_string(),
        },
        session,
        shared,
    })
}

type Loaded = (Box<dyn Session>, Arc<Shared>);

#[cfg(feature = "tract")]
fn with_tract(model: &ModelFile, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let backend = crate::TractBackend;
    // It runs on one thread whatever is asked for, so that is no difference between two models.
    let same = LoadOptions {
        threads: options.threads.min(1),
        ..options.clone()
    };
    let load = || backend.load(model, options);
    let shared = get_or_load(model, &backend.info(), &same, load)?;
    Ok((Arc::clone(&shared.model).session()?, shared))
}

#[cfg(not(feature = "tract"))]
fn with_tract(_: &ModelFile, _: &LoadOptions) -> Result<Loaded, LoadError> {
    Err(not_built("tract"))
}

#[cfg(feature = "ort")]
fn with_ort(model: &ModelFile, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let backend = crate::OrtBackend::open(options.ort_library.as_deref())?;
    let load = || backend.load(model, options);
    let shared = get_or_load(model, &backend.info(), options, load)?;
    Ok((Arc::clone(&shared.model).session()?, shared))
}

#[cfg(not(feature = "ort"))]
fn with_ort(_: &ModelFile, _: &LoadOptions) -> Result<Loaded, LoadError> {
    Err(not_built("onnxruntime"))
}

#[cfg(not(all(feature = "tract", feature = "ort")))]
fn not_built(runtime: &'static str) -> LoadError {
    LoadError::Unavailable {
        runtime,
        message: "this program was built without it".to_owned(),
    }
}

/// One runtime, for `visualpath version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// The config's word: `tract` or `ort`.
    pub runtime: Runtime,
    /// What it is, or why it can't be had.
    pub state: Result<RuntimeInfo, LoadError>,
}

/// Every runtime with what it is or why it can't be had; opens ONNX Runtime's library.
pub fn available_runtimes() -> Vec<RuntimeStatus> {
    #[cfg(feature = "tract")]
    let tract = Ok(crate::TractBackend.info());
    #[cfg(not(feature = "tract"))]
    let tract = Err(not_built("tract"));
    #[cfg(feature = "ort")]
    let ort = crate::OrtBackend::open(None).map(|backend| backend.info());
    #[cfg(not(feature = "ort"))]
    let ort = Err(not_built("onnxruntime"));
    vec![
        RuntimeStatus {
            runtime: Runtime::Tract,
            state: tract,
        },
        RuntimeStatus {
            runtime: Runtime::Ort,
            state: ort,
        },
    ]
}
