//! The platform layer: from frames to fusion results.
//!
//! ```text
//! captured ─▶ FlowLimiter ─▶ Worker ─▶ Outcome ─▶ Aligner ─▶ Fusion ─▶ PathSink
//! ```
//!
//! [`flow`] is the page to read first: it is the path thread, and everything else here is a part
//! it uses. There is no action in the platform: what to do with a trigger is the app's.

#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "small numbers in tests")
)]
pub mod aligner;
pub mod bell;
pub mod depends;
pub mod discovery;
pub mod flow;
pub mod isolation;
pub mod limiter;
pub mod mapper;
pub mod observe;
pub mod registry;
pub mod rules;
pub mod steps;
pub mod trace;
pub mod worker;

pub use aligner::{MAX_EXTRACTORS, PathSpec};
pub use bell::{Bell, BellSender};
pub use depends::MAX_DEPENDS;
pub use discovery::{Discovered, External, Kind, Launch, Places, allowed};
pub use flow::{
    Captured, Flow, FlowChange, FlowError, FlowPath, FlowSpec, FlowStats, LaneGate, LaneSpec,
    LaneStats, LaneWorker, Lateness, PathSink, Skip, Times,
};
pub use limiter::{DropPolicy, FlowLimiter, MAX_QUEUE};
pub use mapper::{CompositeMapper, JsonMapper, MapError, ObservationMapper};
pub use observe::Merger;
pub use registry::{Found, Origin, Registry, RegistryError};
pub use steps::{
    Path, PathOrchestrator, PendingResult, StepError, Worker, WorkerLauncher, WorkerResult,
    WorkerSpec,
};
pub use visualpath_core::ExtractorFactory;
pub use worker::{Isolation, Job, Leaving, Runner};
