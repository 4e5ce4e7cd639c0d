//! visualpath edge: a vision appliance in one binary, and the library it is made of.
//!
//! - [`Pipeline`] is the appliance: sources, extractors, paths, clips and messages. Made from a
//!   file ([`Pipeline::from_config`]) or without one ([`Pipeline::builder`]); the app hears of
//!   triggers by [`Pipeline::on_trigger`].
//! - Step by step: [`FrameReader`] gives frames, [`WorkerLauncher`] workers, [`Path`] and
//!   [`PathOrchestrator`] fusion results. Nothing is dropped, no thread but the workers' own.
//! - Plugins: an [`Extractor`] and its [`ExtractorPlugin`], a [`Fusion`] and its [`FusionPlugin`],
//!   registered in a [`Registry`] before or during a run.
//!
//! The platform contains no action: what to do with a trigger is the app's.

#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod broker;
pub mod builder;
pub mod builtin;
#[doc(hidden)]
pub mod cli;
mod clip_check;
pub mod clips;
pub mod commands;
pub mod config;
#[doc(hidden)]
pub mod exit;
#[doc(hidden)]
pub mod models;
pub mod pipeline;
#[doc(hidden)]
pub mod plugins;
pub mod reader;
#[doc(hidden)]
pub mod rule_tests;
#[doc(hidden)]
pub mod venv;
#[doc(hidden)]
pub mod version;
#[cfg(feature = "web")]
#[doc(hidden)]
pub mod web;
pub mod workers;

pub use builder::{BuildError, ConfigError, PipelineBuilder};
pub use exit::Exit;
pub use pipeline::app::{AppContext, Clip, ClipError, PendingClip};
pub use pipeline::reload::{ReloadError, Reloaded};
pub use pipeline::{Handle, Pipeline, Report, StartError};
pub use reader::{FrameReader, ReadError};
pub use visualpath_core::{
    Aligned, AlignedEntry, EndReason, ExtractError, Extractor, ExtractorPlugin, ExtractorSignals,
    FrameView, Fusion, FusionContext, FusionInput, FusionPlugin, FusionResult, Name, Object,
    Observation, Phase, PluginContext, PluginError, Signals, Trigger, TriggerKind, ViewFormat,
    ViewSpec,
};
pub use visualpath_frames::Frame;
pub use visualpath_mqtt::{ClipPayload, TriggerPayload};
pub use visualpath_platform::{
    CompositeMapper, Isolation, JsonMapper, ObservationMapper, Origin, Path, PathOrchestrator,
    Registry, RegistryError, StepError, Worker, WorkerLauncher, WorkerResult,
};
