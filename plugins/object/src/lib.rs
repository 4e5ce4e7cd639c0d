//! Built-in plugin `object`: finds persons and things with an ONNX detector.
//!
//! ```text
//! FrameView ─▶ Normalizer ─▶ model ─▶ SsdDecoder (threshold, boxes, NMS) ─▶ Observation
//! ```
//!
//! One observation per frame: `data.objects[]` with label, score, box and area; signals `count`,
//! `max_confidence` and `<class>_count` for every enabled class, zeros included, so that a rule's
//! `person.car_count == 0.0` holds when there is no car.
#![forbid(unsafe_code)]

mod config;
mod extractor;
mod plugin;
mod ssd;

pub use plugin::plugin;
pub use ssd::{Anchor, Detection, SsdDecoder, SsdError, SsdSettings};
