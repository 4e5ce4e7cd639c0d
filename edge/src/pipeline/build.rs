//! From a config to the parts of a pipeline: plugins, views, pool, workers, rules.

use std::path::PathBuf;
use std::sync::Arc;

use visualpath_core::{
    Clock, ColorSpec, ExtractorPlugin, FrameMeta, Fusion, ImageLayout, ModelUse, NS_PER_MS, Name,
    PixelFormat, PluginContext, PluginError, RateGate, ViewSpec, Zone,
};
use visualpath_frames::{FramePool, PoolError, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::source::SourceInfo;
use visualpath_platform::rules::{ExtractorSignals, Rules};
use visualpath_platform::{
    DropPolicy, FlowLimiter, Isolation, LaneSpec, Merger, PathSpec, Registry, Runner,
};

use super::StartError;
use crate::config::{self, Config};

/// One extractor of the source, checked but without its model.
pub struct Planned {
    /// Its name.
    pub name: Name,
    plugin: Arc<dyn ExtractorPlugin>,
    context: PluginContext,
    /// The view it wants.
    pub view: ViewSpec,
    /// The signals it declares.
    pub signals: Vec<String>,
    /// Where it runs.
    pub isolation: Isolation,
    zones: Vec<Zone>,
}

/// One path of the source.
pub struct PlannedPath {
    /// Its name.
    pub name: Name,
    /// Indices of its extractors.
    pub extractors: Vec<usize>,
    /// Its rules, compiled.
    pub rules: Rules,
    /// Whether one of them wants clips.
    pub wants_clips: bool,
    stale_ms: Option<u64>,
    window_ms: Option<u64>,
}

/// What a config asks of one source.
pub struct Plan {
    /// The source.
    pub source: Name,
    /// The extractors its paths need.
    pub extractors: Vec<Planned>,
    /// Its paths.
    pub paths: Vec<PlannedPath>,
}

/// Where models are looked up.
pub fn model_dirs(config: &Config) -> Vec<PathBuf> {
    visualpath_onnx::default_model_dirs(Some(&config.device.state_dir))
}

/// Checks everything that can be checked without loading a model: plugins, their configs, the
/// views they want, the rules against their signals.
pub fn plan(config: &Config, registry: &Registry) -> Result<Plan, StartError> {
    let Some((source, _)) = config.source.iter().next() else {
        return Err(StartError::config("source", "no source is configured"));
    };
    let zones = config.zones_of(source.as_str());
    let mut wrong = Vec::new();
    let mut extractors: Vec<Planned> = Vec::new();
    for (name, extractor) in &config.extractor {
        if !config.path.values().any(|p| p.extractors.contains(name)) {
            continue;
        }
        let plugin = match registry.extractor(&extractor.plugin) {
            Ok(plugin) => Arc::clone(plugin),
            Err(e) => {
                wrong.push((format!("extractor.{name}.plugin"), e.to_string()));
                continue;
            }
        };
        let context = PluginContext {
            name: name.clone(),
            config: extractor.config.clone(),
            zones: zones.clone(),
            model_dirs: model_dirs(config),
        };
        let isolation = match config.isolation_of(extractor, config::Isolation::Inline) {
            config::Isolation::Inline => Isolation::Inline,
            config::Isolation::Thread => Isolation::Thread,
            other => {
                let message = format!("`{other:?}` is not in this build yet (inline | thread)")
                    .to_lowercase();
                wrong.push((format!("extractor.{name}.isolation"), message));
                continue;
            }
        };
        let asked = plugin
            .input(&context)
            .and_then(|view| Ok((view, plugin.signals(&context)?)));
        let (view, signals) = match asked {
            Ok(asked) => asked,
            Err(PluginError::Config { key, message }) => {
                wrong.push((format!("extractor.{name}.config.{key}"), message));
                continue;
            }
            Err(error) => {
                return Err(StartError::Plugin {
                    extractor: name.clone(),
                    error,
                });
            }
        };
        let zones = zones.clone();
        extractors.push(Planned {
            name: name.clone(),
            plugin,
            context,
            view,
            signals,
            isolation,
            zones,
        });
    }
    if !wrong.is_empty() {
        return Err(StartError::Config(wrong));
    }
    let paths = plan_paths(config, &extractors, &zones)?;
    Ok(Plan {
        source: source.clone(),
        extractors,
        paths,
    })
}

fn plan_paths(
    config: &Config,
    extractors: &[Planned],
    zones: &[Zone],
) -> Result<Vec<PlannedPath>, StartError> {
    let mut wrong = Vec::new();
    let mut paths = Vec::new();
    for (name, path) in &config.path {
        let indices: Vec<usize> = path
            .extractors
            .iter()
            .filter_map(|e| extractors.iter().position(|p| p.name == *e))
            .collect();
        let known: Vec<ExtractorSignals> = indices
            .iter()
            .map(|i| ExtractorSignals {
                name: extractors[*i].name.clone(),
                signals: extractors[*i].signals.clone(),
                zones: zones.iter().map(|z| z.name.clone()).collect(),
            })
            .collect();
        let Some(rules) = config.fusion.get(&path.fusion).and_then(|f| f.rules()) else {
            let plugin = format!("fusion.{}.plugin", path.fusion);
            wrong.push((plugin, "only `rules` is in this build".to_owned()));
            continue;
        };
        let wants_clips = rules.rule.iter().any(|r| r.clip);
        match Rules::compile(rules.clone(), &known, config.timezone()) {
            Ok(compiled) => paths.push(PlannedPath {
                name: name.clone(),
                extractors: indices,
                rules: compiled,
                wants_clips,
                stale_ms: rules.stale_ms.value(),
                window_ms: path.window_ms.value(),
            }),
            Err(errors) => wrong.extend(errors.into_iter().map(|e| {
                (
                    format!("fusion.{}.config.{}", path.fusion, e.path()),
                    e.message,
                )
            })),
        }
    }
    if wrong.is_empty() {
        Ok(paths)
    } else {
        Err(StartError::Config(wrong))
    }
}

/// An extractor with its model loaded, and what it says of itself.
pub struct Loaded {
    /// Its name.
    pub name: Name,
    /// Ready to run.
    pub runner: Runner,
    /// The models it uses.
    pub models: Vec<ModelUse>,
    isolation: Isolation,
}

/// Loads every extractor's model.
pub fn load(plan: &Plan) -> Result<Vec<Loaded>, StartError> {
    plan.extractors
        .iter()
        .map(|e| {
            let (plugin, context) = (Arc::clone(&e.plugin), e.context.clone());
            let merger = Merger::new(e.name.clone(), e.zones.clone());
            let factory = Box::new(move || plugin.create(&context));
            let runner = Runner::new(e.name.clone(), e.view, merger, factory)
                .map_err(|error| StartError::Plugin { extractor: e.name.clone(), error })?;
            let models = runner.models();
            for m in &models {
                tracing::info!(extractor = %e.name, model = m.name, version = m.version, runtime = m.runtime, "model loaded");
            }
            Ok(Loaded { name: e.name.clone(), models, runner, isolation: e.isolation })
        })
        .collect()
}

/// How many slots a pool needs so that nobody waits for another: the one being filled, what lies
/// between capture and the path thread, per worker one in flight and its queue, what the encoder
/// may hold, and two.
pub fn pool_slots(config: &Config, plan: &Plan) -> usize {
    let workers: usize = plan
        .extractors
        .iter()
        .filter_map(|e| config.extractor.get(&e.name))
        .map(|e| 1 + e.queue as usize)
        .sum();
    let clips = plan.paths.iter().any(|p| p.wants_clips);
    let encoder = if clips { super::evidence::QUEUE + 1 } else { 0 };
    1 + super::BETWEEN + workers + encoder + 2
}

/// The pool for frames of one format, with every view the extractors want.
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

fn ns(ms: u64) -> i64 {
    i64::try_from(ms)
        .unwrap_or(i64::MAX / NS_PER_MS)
        .saturating_mul(NS_PER_MS)
}

/// The lanes of the path thread. Live sources are warmed up for their automatic time-outs.
pub fn lanes(
    config: &Config,
    plan: &Plan,
    loaded: Vec<Loaded>,
    realtime: bool,
) -> Result<Vec<LaneSpec>, StartError> {
    let mut lanes = Vec::with_capacity(loaded.len());
    for (mut extractor, planned) in loaded.into_iter().zip(&plan.extractors) {
        let name = extractor.name.clone();
        let Some(settings) = config.extractor.get(&name) else {
            continue;
        };
        let timeout_ns = match settings.timeout_ms.value() {
            Some(ms) => ns(ms),
            None if realtime => {
                let slowest = warm_up(&mut extractor, planned.view)?;
                slowest
                    .saturating_mul(4)
                    .clamp(AUTO_TIMEOUT_NS.0, AUTO_TIMEOUT_NS.1)
            }
            None => AUTO_TIMEOUT_NS.1,
        };
        let policy = match config.drop_policy_of(name.as_str()) {
            config::DropPolicy::None => DropPolicy::None,
            _ => DropPolicy::Oldest,
        };
        lanes.push(LaneSpec {
            runner: extractor.runner,
            isolation: extractor.isolation,
            limiter: FlowLimiter::new(
                settings.fps.and_then(RateGate::new),
                policy,
                settings.queue as usize,
            ),
            timeout_ns,
            hang_ns: ns(settings.hang_ms),
        });
    }
    Ok(lanes)
}

/// The paths as the aligner wants them, with their fusions.
pub fn paths(
    config: &Config,
    plan: Plan,
    lanes: &[LaneSpec],
    realtime: bool,
    source_fps: Option<f64>,
) -> Vec<(PathSpec, Box<dyn Fusion>)> {
    let source = plan.source;
    plan.paths
        .into_iter()
        .map(|path| {
            let slowest = path
                .extractors
                .iter()
                .map(|i| lanes[*i].timeout_ns)
                .max()
                .unwrap_or(0);
            let auto_window = slowest.saturating_add(slowest / 5).max(AUTO_WINDOW_NS);
            let extractors = path
                .extractors
                .iter()
                .map(|i| {
                    let name = plan.extractors[*i].name.clone();
                    let fps = config.extractor.get(&name).and_then(|e| e.fps);
                    let stale = path
                        .stale_ms
                        .map_or_else(|| auto_stale_ns(fps, source_fps), ns);
                    (*i, name, stale)
                })
                .collect();
            let spec = PathSpec {
                source: source.clone(),
                extractors,
                window_ns: realtime.then(|| path.window_ms.map_or(auto_window, ns)),
            };
            (spec, Box::new(path.rules) as Box<dyn Fusion>)
        })
        .collect()
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
