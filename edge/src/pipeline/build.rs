//! From a plan to running parts: extractors with their models, pools, lanes, fusions.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use visualpath_core::{
    Clock, ColorSpec, FrameMeta, Fusion, FusionContext, ImageLayout, ModelUse, NS_PER_MS, Name,
    Outcome, PixelFormat, PluginContext, PluginError, RateGate, ViewSpec,
};
use visualpath_frames::{Frame, FramePool, PoolError, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::source::SourceInfo;
use visualpath_platform::isolation::{
    ChildEvent, ChildFusion, ChildSpec, ChildWorker, ErrorKind, Launcher, NotRunning, Patience,
    Pixels,
};
use visualpath_platform::{
    Bell, DropPolicy, FlowLimiter, FlowPath, Isolation, Job, LaneGate, LaneSpec, LaneWorker,
    Merger, PathSpec, Runner,
};

use super::StartError;
use super::plan::{Planned, PlannedFusion, PlannedPath};
use crate::config::{self, Config};
use crate::workers::{Host, HostError, Rights, Runs};

/// An extractor with its model loaded, and what it says of itself.
pub struct Loaded {
    /// Its name.
    pub name: Name,
    /// Ready to run, or a process that comes again.
    pub worker: LaneWorker,
    /// The models it uses.
    pub models: Vec<ModelUse>,
    /// The view it wants.
    pub view: ViewSpec,
}

/// What worker processes are started with.
pub struct Nursery<'a> {
    /// The config they belong to.
    pub config: &'a Config,
    /// Wakes the path thread that will own them.
    pub bell: &'a Bell,
    /// Their working directories, if not in the state directory.
    pub work_dir: Option<&'a Path>,
}

impl Nursery<'_> {
    fn host(&self) -> Result<Host, HostError> {
        let host = Host::new(self.config)?;
        Ok(match self.work_dir {
            Some(work_dir) => host.in_directory(work_dir),
            None => host,
        })
    }
}

/// Loads an extractor's model, in a process of its own where the config wants it there.
///
/// # Errors
/// What the plugin says, or that no process can be started.
pub fn load(
    planned: &mut Planned,
    source: &Name,
    nursery: &Nursery<'_>,
) -> Result<Loaded, StartError> {
    let loaded = match planned.isolation {
        Isolation::Inline | Isolation::Thread => load_here(planned)?,
        Isolation::Process | Isolation::Venv => match load_in_child(planned, source, nursery) {
            Err(StartError::Worker { message, .. })
                if planned.settings.fallback == config::Fallback::Inline =>
            {
                fall_back(planned, &message)?
            }
            loaded => loaded?,
        },
    };
    planned.view = loaded.view;
    for m in &loaded.models {
        tracing::info!(extractor = %loaded.name, model = m.name, version = m.version, runtime = m.runtime, "model loaded");
    }
    Ok(loaded)
}

fn load_here(planned: &Planned) -> Result<Loaded, StartError> {
    let name = planned.name.clone();
    let (plugin, context) = (Arc::clone(&planned.plugin), planned.context.clone());
    let merger = Merger::of(&context);
    let factory = Box::new(move || plugin.create(&context));
    let runner = Runner::new(name.clone(), planned.view, merger, factory).map_err(|error| {
        StartError::Plugin {
            extractor: name.clone(),
            error,
        }
    })?;
    let models = runner.models();
    Ok(Loaded {
        name,
        worker: LaneWorker::local(runner, planned.isolation),
        models,
        view: planned.view,
    })
}

/// What the config wants where a process can't be had.
fn fall_back(planned: &mut Planned, why: &str) -> Result<Loaded, StartError> {
    tracing::warn!(extractor = %planned.name, why, "its process can't be had: it runs inline, as `fallback` says");
    planned.isolation = Isolation::Inline;
    load_here(planned)
}

/// Starts the process and waits until it is ready, or has died a first time: then it goes on trying
/// while the pipeline runs, unless the config has a fallback.
fn load_in_child(
    planned: &mut Planned,
    source: &Name,
    nursery: &Nursery<'_>,
) -> Result<Loaded, StartError> {
    let name = planned.name.clone();
    let failed = |message: String| StartError::Worker {
        extractor: name.clone(),
        message,
    };
    let host = nursery.host().map_err(|e| failed(e.to_string()))?;
    let place = format!("{source}.{name}");
    let program = host.program(&planned.runs, &place, &Rights::from(&planned.settings));
    let program = program.map_err(|e| failed(e.to_string()))?;
    let spec = ChildSpec {
        source: source.clone(),
        start_timeout: Duration::from_secs_f64(planned.settings.start_timeout_s),
        ..ChildSpec::new(planned.context.clone(), program)
    };
    let merger = Merger::of(&planned.context);
    let pixels = match (planned.settings.transport, planned.settings.pixels) {
        (config::Transport::Shm, _) => Pixels::Slot,
        (config::Transport::Message, config::MessagePixels::Raw) => Pixels::Raw,
        (config::Transport::Message, config::MessagePixels::Jpeg) => jpeg(),
    };
    let launcher = Launcher::global().map_err(|e| failed(e.to_string()))?;
    let bell = nursery.bell;
    let mut child = ChildWorker::start(launcher, spec, planned.view, pixels, merger, bell);
    let reason = loop {
        match child.wait(None) {
            Some(ChildEvent::Up(facts)) => {
                if let Some(view) = facts.input {
                    child.set_view(view);
                }
                return Ok(Loaded {
                    name,
                    view: child.view(),
                    worker: LaneWorker::Child(Box::new(child)),
                    models: facts.models,
                });
            }
            Some(ChildEvent::Down(reason, _) | ChildEvent::Hold(reason, _)) => break reason,
            _ => {}
        }
    };
    if let Some(error) = fault_of(&reason) {
        return Err(StartError::Plugin {
            extractor: name,
            error,
        });
    }
    if planned.settings.fallback == config::Fallback::Inline {
        return fall_back(planned, &reason.why);
    }
    Ok(Loaded {
        name,
        view: child.view(),
        worker: LaneWorker::Child(Box::new(child)),
        models: Vec::new(),
    })
}

/// Quality of pictures inside messages: what OpenCV takes.
const JPEG_QUALITY: i32 = 95;

/// Pixels as a JPEG beside the message.
pub fn jpeg() -> Pixels {
    Pixels::Jpeg(Arc::new(|view| {
        visualpath_media::jpeg::encode(view, JPEG_QUALITY).map_err(|e| e.to_string())
    }))
}

/// What a child said of its config or model is told as if it ran here.
fn fault_of(reason: &NotRunning) -> Option<PluginError> {
    let why = reason.why.clone();
    let (head, tail) = why.split_once(": ").unwrap_or(("", &why));
    let quoted = head.split('`').nth(1).unwrap_or(head).to_owned();
    Some(match reason.kind? {
        ErrorKind::Config => PluginError::Config {
            key: head.to_owned(),
            message: tail.to_owned(),
        },
        ErrorKind::Model => PluginError::Model {
            model: quoted,
            message: tail.to_owned(),
        },
        ErrorKind::Runtime => PluginError::Runtime {
            runtime: quoted,
            message: tail.to_owned(),
        },
        ErrorKind::Plugin | ErrorKind::Protocol => return None,
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
        native_room: info.native_room,
        views: views.to_vec(),
    };
    FramePool::memfd(&spec, Arc::new(Converter::new()))
}

/// Warm-up looks; the first, slow one is not counted.
const WARM_UPS: usize = 5;

/// Lets an extractor look at a grey picture a few times. Gives the slowest look, nanoseconds; `None`
/// of a process that is not there.
///
/// # Errors
/// What the extractor says of it.
pub fn warm_up(loaded: &mut Loaded) -> Result<Option<i64>, StartError> {
    let failed = |message: String| StartError::WarmUp {
        extractor: loaded.name.clone(),
        message,
    };
    let native = ImageLayout::packed(PixelFormat::I420, 640, 480, ColorSpec::default());
    let spec = PoolSpec {
        pool_id: u32::MAX,
        slots: 1,
        native,
        native_room: 0,
        views: vec![loaded.view],
    };
    // Shared, as the real one will be: a process maps it, too.
    let pool =
        FramePool::memfd(&spec, Arc::new(Converter::new())).map_err(|e| failed(e.to_string()))?;
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
    match &mut loaded.worker {
        LaneWorker::Inline(runner) | LaneWorker::Thread(runner) => runner
            .warm_up(&frame, WARM_UPS)
            .map(Some)
            .map_err(|e| failed(e.to_string())),
        LaneWorker::Child(child) => warm_up_child(child, &frame).map_err(failed),
    }
}

/// Longest time a process may take for one of its first looks.
const FIRST_LOOK: Duration = Duration::from_secs(120);

/// The slowest look of a process, the first not counted; `None` if it is not there.
fn warm_up_child(child: &mut ChildWorker, frame: &Frame) -> Result<Option<i64>, String> {
    let mut slowest_ns = 0;
    for look in 0..WARM_UPS {
        if !child.is_up() {
            return Ok(None);
        }
        let lease = frame.lease(frame.pool().holder(child.name().as_str()));
        // The last one leaves nothing behind that a first real frame would see.
        child.dispatch(Job {
            reset: look > 0,
            ..Job::new(lease)
        });
        loop {
            match child.wait(Some(FIRST_LOOK)) {
                Some(
                    ChildEvent::Reply(reply)
                    | ChildEvent::Down(_, Some(reply))
                    | ChildEvent::Hold(_, Some(reply)),
                ) => {
                    if let Outcome::Failed(why) = reply.outcome {
                        // A death is not the picture's fault, and it comes again.
                        if !child.is_up() {
                            return Ok(None);
                        }
                        return Err(why.to_string());
                    }
                    if look > 0 {
                        slowest_ns = slowest_ns.max(reply.took_ns);
                    }
                    break;
                }
                Some(_) => {}
                None => return Err(format!("no answer within {} s", FIRST_LOOK.as_secs())),
            }
        }
    }
    child.forget();
    Ok(Some(slowest_ns))
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
        None if pace.realtime => warm_up(&mut loaded)?.map_or(AUTO_TIMEOUT_NS.1, |slowest_ns| {
            slowest_ns
                .saturating_mul(4)
                .clamp(AUTO_TIMEOUT_NS.0, AUTO_TIMEOUT_NS.1)
        }),
        None => AUTO_TIMEOUT_NS.1,
    };
    let policy = match Config::drop_policy_of(settings, pace.realtime) {
        config::DropPolicy::None => DropPolicy::None,
        config::DropPolicy::Oldest => DropPolicy::Oldest,
        config::DropPolicy::Intermediate => DropPolicy::Intermediate,
        config::DropPolicy::EveryNth => DropPolicy::EveryNth(settings.nth),
    };
    let rate = settings.fps.and_then(RateGate::new);
    if let LaneWorker::Child(child) = &mut loaded.worker {
        let limit = u64::try_from(timeout_ns).ok().filter(|_| pace.realtime);
        child.set_deadline(limit.map(Duration::from_nanos));
    }
    Ok(LaneSpec {
        worker: loaded.worker,
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
///
/// # Errors
/// If its fusion's process can't be started, or refuses its config.
pub fn path(
    pace: &Pace,
    path: PlannedPath,
    lanes: &[LaneFacts],
    nursery: &Nursery<'_>,
) -> Result<FlowPath, StartError> {
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
    let fusion = match path.fusion {
        PlannedFusion::Here(fusion) => fusion,
        PlannedFusion::Child(runs, context) => {
            child_fusion(
                pace,
                &spec.name,
                &runs,
                *context,
                &path.fusion_settings,
                nursery,
            )?
            .0
        }
    };
    Ok((spec, fusion))
}

/// Starts the process of a path's fusion, if it has one, and ends it again.
///
/// # Errors
/// If it can't be started, or dies.
pub fn try_fusion(
    source: &Name,
    path: PlannedPath,
    nursery: &Nursery<'_>,
) -> Result<(), StartError> {
    let PlannedFusion::Child(runs, context) = path.fusion else {
        return Ok(());
    };
    let pace = Pace {
        source: source.clone(),
        realtime: false,
        fps: None,
    };
    let fusion = context.name.clone();
    let settings = &path.fusion_settings;
    match child_fusion(&pace, &path.name, &runs, *context, settings, nursery)?.1 {
        Some(died) => Err(StartError::FusionWorker {
            fusion,
            message: died.to_string(),
        }),
        None => Ok(()),
    }
}

/// How long a file waits for a fusion that died to come again: the longest pause and its start.
const COMING: Duration = Duration::from_secs(150);

/// Silent this long on a file, a fusion is killed.
const HANG: Duration = Duration::from_secs(60);

/// Starts a fusion's process and waits until it is ready, or has died a first time.
fn child_fusion(
    pace: &Pace,
    path: &Name,
    runs: &Runs,
    context: FusionContext,
    settings: &config::FusionConfig,
    nursery: &Nursery<'_>,
) -> Result<(Box<dyn Fusion>, Option<NotRunning>), StartError> {
    let fusion = context.name.clone();
    let failed = |message: String| StartError::FusionWorker {
        fusion: fusion.clone(),
        message,
    };
    let host = nursery.host().map_err(|e| failed(e.to_string()))?;
    let rights = Rights::from(&settings.worker);
    // Each path has a fusion of its own, and an extractor may have its name.
    let place = format!("{}.{path}.fusion.{fusion}", pace.source);
    let program = host.program(runs, &place, &rights);
    let program = program.map_err(|e| failed(e.to_string()))?;
    let plugin = PluginContext {
        name: fusion.clone(),
        config: context.config,
        zones: nursery.config.zones_of(pace.source.as_str()),
        masks: nursery.config.masks_of(pace.source.as_str()),
        model_dirs: super::plan::model_dirs(nursery.config),
    };
    let spec = ChildSpec {
        source: pace.source.clone(),
        ..ChildSpec::new(plugin, program)
    };
    let patience = Patience {
        // On a file nothing may depend on how long it takes: only a hang ends it.
        answer: match pace.realtime {
            true => Duration::from_millis(settings.worker.timeout_ms),
            false => HANG,
        },
        coming: match pace.realtime {
            true => Duration::ZERO,
            false => COMING,
        },
    };
    let launcher = Launcher::global().map_err(|e| failed(e.to_string()))?;
    let child = ChildFusion::start(launcher, spec, &context.extractors, patience);
    let mut child = child.map_err(|e| failed(e.to_string()))?;
    let died = child.wait_until_up().err();
    match died.as_ref().and_then(fault_of) {
        Some(error) => Err(StartError::Fusion { fusion, error }),
        // One that died comes again, or the log says that it does not.
        None => Ok((Box::new(child), died)),
    }
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
    /// The view it wants.
    pub view: ViewSpec,
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
