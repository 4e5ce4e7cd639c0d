//! The contract between the platform and whatever looks at frames.

use std::path::PathBuf;

use crate::mask::Mask;
use crate::name::Name;
use crate::observation::Observation;
use crate::view::{FrameView, ViewSpec};
use crate::zone::Zone;

/// Looks at one frame at a time. One instance serves one source, so it may keep state.
pub trait Extractor: Send {
    /// Observations of `frame`; an empty vector is a good answer ("looked, found nothing").
    ///
    /// `deps` are the observations, for the same frame, of the extractors named in `depends`.
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        deps: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError>;

    /// Forgets what it remembers of earlier frames: a new epoch, a loop's wrap, a long gap.
    fn reset(&mut self) {}

    /// The models in use, for `info` and the trigger's `models`.
    fn models(&self) -> Vec<ModelUse> {
        Vec::new()
    }
}

/// An extractor's error on one frame; the next frame is offered all the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ExtractError(pub String);

/// A model as it is really run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelUse {
    /// The card's name, or the file's.
    pub name: String,
    /// The card's version; empty for a bare file.
    pub version: String,
    /// Of the file used, lower-case hex.
    pub sha256: String,
    /// The runtime that really runs it, e.g. `tract 0.23.9` or `onnxruntime 1.32.0`.
    pub runtime: String,
}

/// What a plugin is made with.
#[derive(Debug, Clone)]
pub struct PluginContext {
    /// The extractor's name in the config.
    pub name: Name,
    /// `[extractor.<name>.config]`, unchanged.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Zones of the source it looks at.
    pub zones: Vec<Zone>,
    /// What of that source's picture does not count. Those of kind `objects` are applied to what
    /// the extractor says; those of kind `privacy` are painted over before, and are not here.
    pub masks: Vec<Mask>,
    /// Where model cards and files are looked up, first match wins.
    pub model_dirs: Vec<PathBuf>,
}

/// Makes extractors of one kind. Registered under its name.
pub trait ExtractorPlugin: Send + Sync {
    /// The name the config refers to.
    fn name(&self) -> &str;

    /// The plugin's version.
    fn version(&self) -> &str;

    /// The view it wants with this config (the model's card wins over the plugin's default).
    /// Reads cards, loads no model.
    fn input(&self, cx: &PluginContext) -> Result<ViewSpec, PluginError>;

    /// The signals it can give with this config; empty means it does not declare them.
    fn signals(&self, cx: &PluginContext) -> Result<Vec<String>, PluginError>;

    /// Loads models and makes the extractor.
    fn create(&self, cx: &PluginContext) -> Result<Box<dyn Extractor>, PluginError>;
}

/// Why a plugin can't be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PluginError {
    /// A key of its config is wrong; `key` is relative to `[extractor.<name>.config]`.
    #[error("{key}: {message}")]
    Config {
        /// The key at fault.
        key: String,
        /// What was expected, with the nearest known name where there is one.
        message: String,
    },
    /// A model is missing, damaged, or not what its card says.
    #[error("model `{model}`: {message}")]
    Model {
        /// The model as the config names it.
        model: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The inference runtime asked for can't be had.
    #[error("runtime `{runtime}`: {message}")]
    Runtime {
        /// The runtime as the config names it.
        runtime: String,
        /// What is wrong and what to do.
        message: String,
    },
}
