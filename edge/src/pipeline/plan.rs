//! From a config to what each source needs: plugins, views, workers, rules. Loads no model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use visualpath_core::{
    ExtractorPlugin, ExtractorSignals, Fusion, FusionContext, Mask, Name, PluginContext,
    PluginError, ViewSpec, Zone,
};
use visualpath_media::source::Polygon;
use visualpath_platform::discovery::allowed;
use visualpath_platform::rules::{Gate, Rules};
use visualpath_platform::{Found, Isolation, MAX_EXTRACTORS, Registry};

use super::StartError;
use super::build::ns;
use crate::config::{self, Config, ExtractorConfig, FusionConfig, PathConfig, SourceConfig};
use crate::plugins;
use crate::workers::{self, Runs};

/// What a config asks for, checked: plugins exist, their configs are good, rules fit the signals.
pub struct Plan {
    /// One per source that has a path.
    pub lines: Vec<LinePlan>,
}

/// What a config asks of one source.
pub struct LinePlan {
    /// The source.
    pub source: Name,
    /// Its settings.
    pub settings: SourceConfig,
    /// What is painted over in every picture of it.
    pub privacy: Vec<Polygon>,
    /// The extractors its paths need, each after those it needs itself.
    pub extractors: Vec<Planned>,
    /// Its paths.
    pub paths: Vec<PlannedPath>,
    /// It keeps its video also if no path wants clips.
    pub keeps_video: bool,
}

/// One extractor of one source, without its model.
pub struct Planned {
    /// Its name.
    pub name: Name,
    /// Makes it.
    pub plugin: Arc<dyn ExtractorPlugin>,
    /// With this.
    pub context: PluginContext,
    /// The view it wants.
    pub view: ViewSpec,
    /// The signals it declares.
    pub signals: Vec<String>,
    /// Where it runs.
    pub isolation: Isolation,
    /// What its process runs, if it has one.
    pub runs: Runs,
    /// Its settings.
    pub settings: ExtractorConfig,
    /// Indices of those it depends on.
    pub depends: Vec<usize>,
    /// Indices of everybody it waits for: those, and those its gate reads.
    pub needs: Vec<usize>,
    /// Its gate, compiled against all extractors of the source.
    pub gate: Option<Gate>,
}

/// One path of one source.
pub struct PlannedPath {
    /// Its name.
    pub name: Name,
    /// Its settings.
    pub settings: PathConfig,
    /// Its fusion's settings.
    pub fusion_settings: FusionConfig,
    /// Indices of its extractors.
    pub extractors: Vec<usize>,
    /// Its fusion.
    pub fusion: PlannedFusion,
    /// Whether its triggers may want clips.
    pub wants_clips: bool,
    /// `stale_ms`, where the fusion has it.
    pub stale_ms: Option<u64>,
}

/// The fusion of a path.
pub enum PlannedFusion {
    /// In this process.
    Here(Box<dyn Fusion>),
    /// In a process of its own, which is not started yet.
    Child(Runs, Box<FusionContext>),
}

impl LinePlan {
    /// Whether any of its paths, or a command, may want clips.
    pub fn wants_clips(&self) -> bool {
        self.keeps_video || self.paths.iter().any(|p| p.wants_clips)
    }

    /// The longest time that a clip may begin before its rule fires, seconds.
    pub fn longest_pre_s(&self) -> f64 {
        let rules = self.paths.iter().filter_map(|p| p.fusion_settings.rules());
        let rules = rules.flat_map(|r| &r.rule).filter(|r| r.clip);
        let each = rules.map(|r| r.pre_s + Duration::from_millis(r.for_ms).as_secs_f64());
        each.fold(0.0, f64::max)
    }

    /// How many slots its pool needs so that nobody waits for another: the one being filled, what
    /// lies between capture and the path thread, per worker one in flight and its queue, what the
    /// encoder may hold, and two.
    pub fn slots(&self) -> usize {
        let workers: usize = self
            .extractors
            .iter()
            .map(|e| 1 + e.settings.queue as usize)
            .sum();
        let encoder = if self.wants_clips() {
            super::evidence::QUEUE + 1
        } else {
            0
        };
        1 + super::BETWEEN + workers + encoder + 2
    }
}

/// Checks everything that can be checked without loading a model.
///
/// # Errors
/// Every key that is wrong, or the first plugin that can't answer.
pub fn plan(config: &Config, registry: &Registry) -> Result<Plan, StartError> {
    for clash in plugins::discover(registry, config) {
        tracing::warn!(error = %clash, "plugins");
    }
    for problem in registry.problems() {
        tracing::warn!(error = %problem.error, "plugins");
    }
    let mut wrong = Vec::new();
    let mut lines = Vec::new();
    for (source, settings) in &config.source {
        if config.paths_of(source).next().is_none() {
            continue;
        }
        let areas = Areas::of(config, source);
        let extractors = extractors(config, registry, source, &areas, &mut wrong)?;
        if extractors.len() > MAX_EXTRACTORS {
            wrong.push((format!("source.{source}"), super::shape::too_many(source)));
        }
        // Rules can't be judged by extractors that are wrong themselves.
        let paths = if wrong.is_empty() {
            paths(
                config,
                registry,
                source,
                &extractors,
                &areas.zones,
                &mut wrong,
            )?
        } else {
            Vec::new()
        };
        lines.push(LinePlan {
            source: source.clone(),
            settings: settings.clone(),
            privacy: config.privacy_of(source.as_str()),
            extractors,
            paths,
            keeps_video: config.clip.always,
        });
    }
    // An extractor or rule that is wrong is so on every source that uses it.
    let mut told: Vec<(String, String)> = Vec::new();
    for fault in wrong {
        if !told.contains(&fault) {
            told.push(fault);
        }
    }
    if !told.is_empty() {
        return Err(StartError::Config(told));
    }
    if lines.is_empty() {
        return Err(StartError::config("source", "no path has a source"));
    }
    Ok(Plan { lines })
}

/// One extractor of a config by itself, as it would be planned for `source`.
///
/// # Errors
/// Every key of it that is wrong.
pub fn alone(
    config: &Config,
    registry: &Registry,
    name: &Name,
    source: &Name,
) -> Result<Planned, StartError> {
    plugins::discover(registry, config);
    let missing = || StartError::config(&format!("extractor.{name}"), "there is no such extractor");
    let settings = config.extractor.get(name).ok_or_else(missing)?;
    extractor(config, registry, name, settings, &Areas::of(config, source))?
        .map_err(|fault| StartError::Config(vec![fault]))
}

/// Where models are looked up.
pub fn model_dirs(config: &Config) -> Vec<PathBuf> {
    visualpath_onnx::default_model_dirs(Some(&config.device.state_dir))
}

/// The parts of a source's picture that have a name.
struct Areas {
    zones: Vec<Zone>,
    masks: Vec<Mask>,
}

impl Areas {
    fn of(config: &Config, source: &Name) -> Self {
        Self {
            zones: config.zones_of(source.as_str()),
            masks: config.masks_of(source.as_str()),
        }
    }
}

/// A key that is wrong, and what is wrong with it.
type Fault = (String, String);

type Wrong = Vec<Fault>;

fn extractors(
    config: &Config,
    registry: &Registry,
    source: &Name,
    areas: &Areas,
    wrong: &mut Wrong,
) -> Result<Vec<Planned>, StartError> {
    let mut extractors: Vec<Planned> = Vec::new();
    for name in config.extractors_on(source) {
        let Some((name, settings)) = config.extractor.get_key_value(name) else {
            continue;
        };
        match extractor(config, registry, name, settings, areas)? {
            Err(fault) => wrong.push(fault),
            Ok(mut planned) => {
                let at = |dep: &Name| extractors.iter().position(|e| e.name == *dep);
                planned.depends = settings.depends.iter().filter_map(at).collect();
                planned.needs = config
                    .needs_of(settings)
                    .into_iter()
                    .filter_map(at)
                    .collect();
                extractors.push(planned);
            }
        }
    }
    let known: Vec<ExtractorSignals> = extractors
        .iter()
        .map(|e| e.declared(&areas.zones))
        .collect();
    for planned in &mut extractors {
        let Some(text) = &planned.settings.gate else {
            continue;
        };
        match Gate::compile(text, ns(planned.settings.gate_hold_ms), &known) {
            Ok(gate) => planned.gate = Some(gate),
            Err(message) => wrong.push((format!("extractor.{}.gate", planned.name), message)),
        }
    }
    Ok(extractors)
}

/// The inner error is a fault of the config.
fn extractor(
    config: &Config,
    registry: &Registry,
    name: &Name,
    settings: &ExtractorConfig,
    areas: &Areas,
) -> Result<Result<Planned, (String, String)>, StartError> {
    let fault = |key: &str, message: String| Ok(Err((format!("extractor.{name}.{key}"), message)));
    let found = match registry.find_extractor(&settings.plugin, settings.venv.as_deref()) {
        Ok(found) => found,
        Err(e) => return fault("plugin", e.to_string()),
    };
    let context = PluginContext {
        name: name.clone(),
        config: settings.config.clone(),
        zones: areas.zones.clone(),
        masks: areas.masks.clone(),
        model_dirs: model_dirs(config),
    };
    let recommended = match &found {
        Found::Linked(_) => config::Isolation::Inline,
        Found::External(external) => workers::recommended(external),
    };
    let mut isolation = workers::isolation(config.isolation_of(settings, recommended));
    if isolation == Isolation::Process && workers::is_the_apps(registry, &settings.plugin) {
        return fault(
            "isolation",
            format!(
                "`{}` is registered by this app, which is not the program that worker processes are \
                 made of: use \"thread\", or make it a program of its own with \
                 `visualpath_plugin::main` and a plugin.toml",
                settings.plugin
            ),
        );
    }
    if let Err(why) = allowed(&found, isolation) {
        return fault("isolation", format!("`{}`: {why}", settings.plugin));
    }
    if settings.fallback == config::Fallback::Inline
        && let Err(why) = allowed(&found, Isolation::Inline)
    {
        return fault("fallback", format!("`{}`: {why}", settings.plugin));
    }
    if isolation == Isolation::Venv
        && settings.fallback == config::Fallback::Process
        && let Err((_, why)) = workers::runs(
            &found,
            isolation,
            settings.venv.as_deref(),
            config,
            &settings.plugin,
        )
    {
        tracing::warn!(extractor = %name, why, "its venv can't be had: it runs in a process without, as `fallback` says");
        isolation = Isolation::Process;
    }
    let runs = match workers::runs(
        &found,
        isolation,
        settings.venv.as_deref(),
        config,
        &settings.plugin,
    ) {
        Ok(runs) => runs,
        Err((key, why)) => return fault(key, why),
    };
    let plugin = workers::as_plugin(found);
    let asked = plugin
        .input(&context)
        .and_then(|view| Ok((view, plugin.signals(&context)?)));
    match asked {
        Ok((view, signals)) => Ok(Ok(Planned {
            name: name.clone(),
            plugin,
            context,
            view,
            signals,
            isolation,
            runs,
            settings: settings.clone(),
            depends: Vec::new(),
            needs: Vec::new(),
            gate: None,
        })),
        Err(PluginError::Config { key, message }) => fault(&format!("config.{key}"), message),
        Err(error) => Err(StartError::Plugin {
            extractor: name.clone(),
            error,
        }),
    }
}

impl Planned {
    fn declared(&self, zones: &[Zone]) -> ExtractorSignals {
        ExtractorSignals {
            name: self.name.clone(),
            signals: self.signals.clone(),
            zones: zones.iter().map(|z| z.name.clone()).collect(),
        }
    }
}

fn paths(
    config: &Config,
    registry: &Registry,
    source: &Name,
    extractors: &[Planned],
    zones: &[Zone],
    wrong: &mut Wrong,
) -> Result<Vec<PlannedPath>, StartError> {
    let mut paths = Vec::new();
    for (name, settings) in config.paths_of(source) {
        let indices: Vec<usize> = settings
            .extractors
            .iter()
            .filter_map(|e| extractors.iter().position(|p| p.name == *e))
            .collect();
        let known: Vec<ExtractorSignals> = indices
            .iter()
            .map(|i| extractors[*i].declared(zones))
            .collect();
        let Some(fusion_settings) = config.fusion.get(&settings.fusion) else {
            continue;
        };
        let key = |k: &str| format!("fusion.{}.{k}", settings.fusion);
        let mut wants_clips = true;
        let fusion = if let Some(rules) = fusion_settings.rules() {
            match Rules::compile(rules.clone(), &known, config.timezone()) {
                Ok(rules) => PlannedFusion::Here(Box::new(rules)),
                Err(errors) => {
                    let fault = |e: visualpath_platform::rules::RuleError| {
                        (key(&format!("config.{}", e.path())), e.message)
                    };
                    wrong.extend(errors.into_iter().map(fault));
                    continue;
                }
            }
        } else {
            let context = FusionContext {
                name: settings.fusion.clone(),
                config: fusion_settings.other().cloned().unwrap_or_default(),
                extractors: known,
            };
            match other_fusion(config, registry, context, fusion_settings)? {
                Ok((fusion, wants)) => {
                    wants_clips = wants;
                    fusion
                }
                Err((k, message)) => {
                    wrong.push((key(&k), message));
                    continue;
                }
            }
        };
        let rules = fusion_settings.rules();
        paths.push(PlannedPath {
            name: name.clone(),
            settings: settings.clone(),
            fusion_settings: fusion_settings.clone(),
            extractors: indices,
            fusion,
            wants_clips: rules.map_or(wants_clips, |r| r.rule.iter().any(|rule| rule.clip)),
            stale_ms: rules.and_then(|r| r.stale_ms.value()),
        });
    }
    Ok(paths)
}

/// A fusion other than `rules`, and whether it may want clips. The inner error is a fault of the
/// config: its key, relative to the fusion's, and what is wrong.
fn other_fusion(
    config: &Config,
    registry: &Registry,
    context: FusionContext,
    settings: &FusionConfig,
) -> Result<Result<(PlannedFusion, bool), Fault>, StartError> {
    let venv = settings.worker.venv.as_deref();
    let found = match registry.find_fusion(&settings.plugin, venv) {
        Ok(found) => found,
        Err(e) => return Ok(Err(("plugin".to_owned(), e.to_string()))),
    };
    let plugin = match &found {
        Found::Linked(plugin) => plugin,
        Found::External(external) => {
            let isolation = workers::isolation(workers::recommended(external));
            let runs = workers::runs(&found, isolation, venv, config, &settings.plugin);
            return Ok(match runs {
                // What it wants is not known before it speaks.
                Ok(runs) => Ok((PlannedFusion::Child(runs, Box::new(context)), true)),
                Err((key, why)) => Err((key.to_owned(), why)),
            });
        }
    };
    let wants_clips = plugin.wants_clips(&context);
    match plugin.create(&context) {
        Ok(fusion) => Ok(Ok((PlannedFusion::Here(fusion), wants_clips))),
        Err(PluginError::Config { key, message }) => Ok(Err((format!("config.{key}"), message))),
        Err(error) => Err(StartError::Fusion {
            fusion: context.name,
            error,
        }),
    }
}
