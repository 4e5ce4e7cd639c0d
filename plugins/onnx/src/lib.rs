//! Model cards and inference.
//!
//! A *card* (TOML, one per model) says what a model is, which bytes it is, what goes in and how its
//! outputs are read. A [`ModelLocator`] finds card and file and checks the bytes; a [`Backend`]
//! makes a [`Session`] of them; a [`Normalizer`] turns a view's bytes into the tensor it eats:
//!
//! ```text
//! "ssd-oidv4" ─▶ ModelLocator ─▶ ModelCard + ModelFile ─▶ load(runtime, …) ─▶ LoadedModel
//!                                                                                │ run
//!                        FrameView pixels ─▶ Normalizer ─▶ &[f32] ───────────────┴─▶ Outputs
//! ```
//!
//! Who loads the same model the same way gets a session of the same [`Model`]: weights are in
//! memory once, however many extractors and sources use them.
//!
//! Two backends: `tract` is built in; `ort` opens ONNX Runtime's shared library where one is found,
//! and is about twice as fast (docs/design/inference.md). [`Runtime::Auto`] takes the faster one
//! that works and logs which.
#![forbid(unsafe_code)]

mod backend;
mod card;
#[cfg(feature = "ort")]
mod elf;
mod locate;
mod normalize;
#[cfg(feature = "ort")]
mod ort_backend;
mod runtime;
#[cfg_attr(
    not(any(feature = "tract", feature = "ort")),
    expect(dead_code, reason = "without a runtime nothing is ever loaded")
)]
mod shared;
#[cfg(feature = "tract")]
mod tract_backend;
#[cfg(feature = "ort")]
mod turn;

pub use backend::{
    Backend, InferError, LoadError, LoadOptions, Model, Outputs, RuntimeInfo, Session, TensorView,
};
pub use card::{CardError, DetectDefaults, FileSpec, InputSpec, Licence, ModelCard, PerChannel};
pub use locate::{ModelError, ModelFile, ModelLocator, default_model_dirs};
pub use normalize::{NormalizeError, Normalizer};
#[cfg(feature = "ort")]
pub use ort_backend::{OrtBackend, default_library_candidates};
pub use runtime::{LoadedModel, Runtime, RuntimeStatus, available_runtimes, load};
#[cfg(feature = "tract")]
pub use tract_backend::TractBackend;
