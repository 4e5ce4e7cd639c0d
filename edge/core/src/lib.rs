//! The words of visualpath edge, as types.
//!
//! One frame's way through them:
//!
//! ```text
//! Source ─▶ FrameMeta + pixels ─▶ FrameView ─▶ Extractor ─▶ Outcome ─▶ Aligned ─▶ Fusion ─▶ Trigger
//! ```
//!
//! Nothing here reads a clock, a file or a socket, and nothing spawns a thread; that is what lets
//! the same fusion run live, on a file and in a replay with the same answer.
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "small numbers in tests")
)]
#![forbid(unsafe_code)]

pub mod auto;
pub mod clock;
pub mod extractor;
pub mod frame;
pub mod fusion;
pub mod guard;
pub mod mask;
pub mod name;
pub mod observation;
pub mod rate;
pub mod stop;
pub mod view;
pub mod zone;

pub use auto::Auto;
pub use clock::{Clock, ManualClock, MonotonicClock};
pub use extractor::{
    ExtractError, Extractor, ExtractorPlugin, ModelUse, PluginContext, PluginError,
};
pub use frame::{ColorMatrix, ColorRange, ColorSpec, FrameMeta, ImageLayout, PixelFormat, Plane};
pub use fusion::{
    Aligned, AlignedEntry, EndReason, ExtractorSignals, Fusion, FusionContext, FusionInput,
    FusionPlugin, FusionResult, Phase, Trigger, TriggerKind,
};
pub use guard::{ExtractorFactory, Guarded, Trouble, panic_text};
pub use mask::{Mask, MaskKind};
pub use name::{Name, NameError, nearest};
pub use observation::{
    Data, DropReason, Held, NotFinite, Object, Observation, Outcome, Signals, class_slug,
};
pub use rate::RateGate;
pub use stop::StopFlag;
pub use view::{Filter, Fit, FrameView, Roi, ViewFormat, ViewSpec};
pub use zone::{Anchor, Zone, ZoneError, check_polygon};

/// Nanoseconds in a millisecond, for the many conversions at the edges.
pub const NS_PER_MS: i64 = 1_000_000;
/// Nanoseconds in a second.
pub const NS_PER_S: i64 = 1_000_000_000;
