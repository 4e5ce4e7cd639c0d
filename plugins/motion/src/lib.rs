//! Built-in plugin `motion`: what moves in front of a camera that does not.
//!
//! ```text
//! grey view ─ mask ─ smooth ─▶ Background.compare ─▶ changed ─┬─ light switch? ─▶ learn anew, score 0
//!                            ▲                         └─▶ Cells: soft shadows out, regions ─▶ Observation
//!                            └── learns slowly, by source time ◀── what has not changed, or stands still
//! ```
//!
//! One observation per frame: `score` (share of the picture that moves), `count` (regions),
//! `score@<zone>` (share of the zone that moves), `light_switch`, and an object per region.
//!
//! Shares are of what is not masked.
//!
//! Method, numbers and limits: `docs/reference/motion.md`.
#![forbid(unsafe_code)]

mod background;
mod cells;
mod config;
mod extractor;
mod light;
mod masked;
mod plugin;
mod shadow;
mod smooth;
mod zones;

pub use plugin::plugin;
