//! Built-in plugin `quality`: is the picture any good?
//!
//! ```text
//! grey view ─▶ Measures: histogram, Laplacian ─▶ blur, brightness, contrast ─▶ quality_score, quality_gate
//! ```
//!
//! One observation per frame, without objects. Definitions, formulas and typical values:
//! `docs/reference/quality.md`.
#![forbid(unsafe_code)]

mod config;
mod extractor;
mod measure;
mod plugin;

pub use plugin::plugin;
