//! Which runtime runs a model: asked for, or the fastest that works.

use std::fmt;
use std::str::FromStr;

use visualpath_core::{ModelUse, nearest};

#[cfg(any(feature = "tract", feature = "ort"))]
use crate::backend::Backend;
use crate::backend::{InferError, LoadError, LoadOptions, Outputs, RuntimeInfo, Session};
use crate::locate::ModelFile;

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

/// A model ready to run, and what runs it.
pub struct LoadedModel {
    session: Box<dyn Session>,
    info: RuntimeInfo,
    model: ModelUse,
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("model", &self.model)
            .field("info", &self.info)
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
        &self.info
    }

    /// What to tell about it in `info` and in triggers.
    pub fn model_use(&self) -> &ModelUse {
        &self.model
    }
}

/// Loads `model` with the runtime asked for and logs the one really in use.
///
/// `Auto` falls back to tract where ONNX Runtime can't be had or does not take the model, and logs
/// why; `Ort` and `Tract` never fall back.
pub fn load(
    runtime: Runtime,
    model: &ModelFile,
    options: &LoadOptions,
) -> Result<LoadedModel, LoadError> {
    let (session, info) = match runtime {
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
    tracing::info!(
        model = %model.card.name,
        version = %model.card.version,
        runtime = %info,
        provider = %info.provider,
        threads = options.threads,
        library = info.library.as_ref().map(|l| l.display().to_string()),
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
        info,
    })
}

type Loaded = (Box<dyn Session>, RuntimeInfo);

#[cfg(feature = "tract")]
fn with_tract(model: &ModelFile, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let backend = crate::TractBackend;
    Ok((backend.load(model, options)?, backend.info()))
}

#[cfg(not(feature = "tract"))]
fn with_tract(_: &ModelFile, _: &LoadOptions) -> Result<Loaded, LoadError> {
    Err(not_built("tract"))
}

#[cfg(feature = "ort")]
fn with_ort(model: &ModelFile, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let backend = crate::OrtBackend::open(options.ort_library.as_deref())?;
    Ok((backend.load(model, options)?, backend.info()))
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
