//! From a plan to running parts: extractors with their models, pools, lanes, fusions.

use std::sync::Arc;

use visualpath_core::{
    Clock, ColorSpec, FrameMeta, ImageLayout, ModelUse, NS_PER_MS, Name, PixelFormat, RateGate,
    ViewSpec,
};
use visualpath_frames::{FramePool, PoolError, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::source::SourceInfo;
use visualpath_platform::{
    DropPolicy, FlowLimiter, FlowPath, LaneGate, LaneSpec, Merger, PathSpec, Runner,
};

use super::StartError;
use super::plan::{Planned, PlannedPath};
use crate::config::{self, Config};

/// An extractor with its model loaded, and what it says of itself.
pub struct Loaded {
    /// Its name.
    pub name: Name,
    /// Ready to run.
    pub runner: Runner,
    /// The models it uses.
    pub models: Vec<ModelUse>,
}

/// Loads an extractor's model.
///
/// # Errors
/// What the plugin says.
pub fn load(planned: &Planned) -> Result<Loaded, StartError> {
    let name = planned.name.clone();
    let (plugin, context) = (Arc::clone(&planned.plugin), planned.context.clone());
    let merger = Merger::new(name.clone(), context.zones.clone());
    let factory = Box::new(move || plugin.create(&context));
    let runner = Runner::new(name.clone(), planned.view, merger, factory).map_err(|error| {
        StartError::Plugin {
            extractor: name.clone(),
            error,
        }
    })?;
    let models = runner.models();
    for m in &models {
        tracing::info!(extractor = %name, model = m.name, version = m.version, runtime = m.runtime, "model loaded");
    }
    Ok(Loaded {
        name,
        runner,
        models,
    })
}

/// The pool for frames of one format, with every view the extractors want.
///
/// # Errors
/// If there is no memory for it, or a view can't be made of this format.
pub fn pool(
    info: &SourceInfo,
    pool_id: u32,
    slots: usize,
    views: &[ViewSpec],
) -> Result<FramePool, PoolError> {
    let spec = PoolSpec {
        pool_id,
        slots,
        native: info.layout,
        views: views.to_vec(),
    };
    FramePool::memfd(&spec, Arc::new(Converter::new()))
}

/// Warm-up looks; the first, slow one is not counted.
const WARM_UPS: usize = 5;

/// Lets an extractor look at a grey picture a few times. Gives the slowest look, nanoseconds.
///
/// # Errors
/// What the extractor says of it.
pub fn warm_up(loaded: &mut Loaded, view: ViewSpec) -> Result<i64, StartError> {
    let failed = |message: String| StartError::WarmUp {
        extractor: loaded.name.clone(),
        message,
    };
    let native = ImageLayout::packed(PixelFormat::I420, 640, 480, ColorSpec::default());
    let spec = PoolSpec {
        pool_id: u32::MAX,
        slots: 1,
        native,
        views: vec![view],
    };
    let pool =
        FramePool::heap(&spec, Arc::new(Converter::new())).map_err(|e| failed(e.to_string()))?;
    let Some(mut slot) = pool.try_acquire() else {
        return Err(failed("its pool has no slot".to_owned()));
    };
    slot.pixels_mut().fill(128);
    let meta = FrameMeta {
        frame_id: 0,
        t_ns: 0,
        epoch: 0,
        layout: native,
    };
    let frame = slot.publish(meta, pool.holder("warm-up"));
    loaded
        .runner
        .warm_up(&frame, WARM_UPS)
        .map_err(|e| failed(e.to_string()))
}

/// Bounds of `timeout_ms = "auto"`, which is 4 × the slowest warm-up look.
const AUTO_TIMEOUT_NS: (i64, i64) = (1000 * NS_PER_MS, 30_000 * NS_PER_MS);
/// The shortest `window_ms = "auto"`.
const AUTO_WINDOW_NS: i64 = 100 * NS_PER_MS;
/// The shortest `stale_ms = "auto"`.
const AUTO_STALE_NS: i64 = 200 * NS_PER_MS;

/// Milliseconds as nanoseconds.
pub fn ns(ms: u64) -> i64 {
    i64::try_from(ms)
        .unwrap_or(i64::MAX / NS_PER_MS)
        .saturating_mul(NS_PER_MS)
}

/// A source as its lanes and paths see it.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Its name.
    pub source: Name,
    /// Whether frames come at their own pace.
    pub realtime: bool,
    /// Its rate, as far as known.
    pub fps: Option<f64>,
}

/// A lane of the path thread. On a live source the extractor is warmed up for its automatic
/// time-out. `slots` gives the lane index of each extractor of the plan.
///
/// # Errors
/// If the warm-up fails.
pub fn lane(
    pace: &Pace,
    planned: &mut Planned,
    mut loaded: Loaded,
    slots: &[usize],
) -> Result<LaneSpec, StartError> {
    let settings = &planned.settings;
    let timeout_ns = match settings.timeout_ms.value() {
        Some(ms) => ns(ms),
        None if pace.realtime => warm_up(&mut loaded, planned.view)?
            .saturating_mul(4)
            .clamp(AUTO_TIMEOUT_NS.0, AUTO_TIMEOUT_NS.1),
        None => AUTO_TIMEOUT_NS.1,
    };
    let policy = match Config::drop_policy_of(settings, pace.realtime) {
        config::DropPolicy::None => DropPolicy::None,
        config::DropPolicy::Oldest => DropPolicy::Oldest,
        config::DropPolicy::Intermediate => DropPolicy::Intermediate,
        config::DropPolicy::EveryNth => DropPolicy::EveryNth(settings.nth),
    };
    let rate = settings.fps.and_then(RateGate::new);
    Ok(LaneSpec {
        runner: loaded.runner,
        isolation: planned.isolation,
        limiter: FlowLimiter::new(rate, policy, settings.queue as usize),
        depends: planned.depends.iter().map(|i| slots[*i]).collect(),
        gate: planned.gate.take().map(|gate| LaneGate {
            gate,
            lanes: slots.to_vec(),
        }),
        stale_ns: auto_stale_ns(settings.fps, pace.fps),
        timeout_ns,
        hang_ns: ns(settings.hang_ms),
    })
}

/// A path as the path thread wants it. `lanes` has the facts of each extractor of the plan.
pub fn path(pace: &Pace, path: PlannedPath, lanes: &[LaneFacts]) -> FlowPath {
    let chains = path.extractors.iter().map(|i| lanes[*i].chain_ns);
    let slowest = chains.max().unwrap_or(0);
    let auto_window = slowest.saturating_add(slowest / 5).max(AUTO_WINDOW_NS);
    let extractors = path
        .extractors
        .iter()
        .map(|i| {
            let lane = &lanes[*i];
            let auto = || auto_stale_ns(lane.fps, pace.fps);
            let stale_ns = path.stale_ms.map_or_else(auto, ns);
            (lane.slot, lane.name.clone(), stale_ns)
        })
        .collect();
    let window_ns = path.settings.window_ms.value().map_or(auto_window, ns);
    let spec = PathSpec {
        name: path.name,
        source: pace.source.clone(),
        extractors,
        window_ns: pace.realtime.then_some(window_ns),
    };
    (spec, path.fusion)
}

/// What paths need to know of a lane.
#[derive(Debug, Clone)]
pub struct LaneFacts {
    /// Its index on the path thread.
    pub slot: usize,
    /// Its name.
    pub name: Name,
    /// Its rate limit.
    pub fps: Option<f64>,
    /// The longest chain of time-outs that ends with it, nanoseconds.
    pub chain_ns: i64,
}

/// 2.5 × the extractor's nominal interval, at least 200 ms.
fn auto_stale_ns(fps: Option<f64>, source_fps: Option<f64>) -> i64 {
    let rate = match (fps, source_fps) {
        (Some(a), Some(b)) => a.min(b),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return 10 * AUTO_STALE_NS,
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates; rates are checked positive"
    )]
    let ns = (2.5e9 / rate) as i64;
    ns.max(AUTO_STALE_NS)
}

/// Monotonic time for everything in one pipeline.
pub fn clock() -> Arc<dyn Clock> {
    Arc::new(visualpath_core::MonotonicClock::new())
}
