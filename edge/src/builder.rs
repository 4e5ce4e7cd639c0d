//! A pipeline without TOML: the same keys, the same checks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use visualpath_core::{ExtractorPlugin, FusionPlugin, Name};
use visualpath_platform::{Origin, Registry, RegistryError};

use crate::builtin;
use crate::config::{
    self, Config, Diagnostic, ExtractorConfig, FusionConfig, FusionSettings, LoadOptions,
    OneOrMany, PathConfig, RulesConfig, SourceConfig, WebConfig,
};
use crate::pipeline::Pipeline;

/// Why a config is none.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// Everything found, errors and warnings.
    pub findings: Vec<Diagnostic>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, finding) in self.findings.iter().filter(|d| d.is_error()).enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

/// Why a pipeline could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two plugins of one name.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] visualpath_core::NameError),
}

/// Builds a [`Pipeline`] key by key.
///
/// ```
/// use visualpath::config::{ExtractorConfig, RuleConfig, SourceConfig};
/// use visualpath::{Pipeline, PipelineBuilder};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = std::env::temp_dir().join(format!("visualpath-doc-{}", std::process::id()));
/// let seen = RuleConfig {
///     clip: false,
///     ..RuleConfig::new("seen".parse()?, "moving.score >= 0.0")
/// };
/// let mut source = SourceConfig::new("synthetic:?frames=20&fps=10");
/// source.realtime = false;
/// let report = Pipeline::builder()
///     .state_dir(&dir)
///     .source("cam0", source)?
///     .extractor("moving", ExtractorConfig::new("motion"))?
///     .rules("busy", [seen])?
///     .path("yard", &["cam0"], &["moving"], "busy")?
///     .build()?
///     .run()?;
/// assert_eq!(report.summary.frames, 20);
/// assert_eq!(report.summary.triggers, 1);
/// # std::fs::remove_dir_all(dir)?;
/// # Ok(())
/// # }
/// ```
pub struct PipelineBuilder {
    config: Config,
    registry: Option<Registry>,
    more: Vec<Plugin>,
}

enum Plugin {
    Extractor(Arc<dyn ExtractorPlugin>),
    Fusion(Arc<dyn FusionPlugin>),
}

impl Default for PipelineBuilder {
    fn default() -> Self {
        let mut config = Config::default();
        // An app hears of triggers by on_trigger; a broker is something to ask for.
        crate::broker::OFF.clone_into(&mut config.mqtt.url);
        // So is a server.
        config.web = WebConfig::off();
        Self {
            config,
            registry: None,
            more: Vec::new(),
        }
    }
}

impl PipelineBuilder {
    /// Nothing yet; no broker, and nothing over HTTP.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where clips and everything else is kept.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.device.state_dir = dir.into();
        self
    }

    /// The broker, as `mqtt.url`.
    #[must_use]
    pub fn mqtt(mut self, url: &str) -> Self {
        url.clone_into(&mut self.config.mqtt.url);
        self
    }

    /// Adds a source.
    ///
    /// # Errors
    /// If the name is none.
    pub fn source(mut self, name: &str, source: SourceConfig) -> Result<Self, BuildError> {
        self.config.source.insert(Name::new(name)?, source);
        Ok(self)
    }

    /// Adds an extractor.
    ///
    /// # Errors
    /// If the name is none.
    pub fn extractor(mut self, name: &str, extractor: ExtractorConfig) -> Result<Self, BuildError> {
        self.config.extractor.insert(Name::new(name)?, extractor);
        Ok(self)
    }

    /// Adds a `rules` fusion.
    ///
    /// # Errors
    /// If the name is none.
    pub fn rules(
        self,
        name: &str,
        rules: impl IntoIterator<Item = config::RuleConfig>,
    ) -> Result<Self, BuildError> {
        let rules = RulesConfig {
            rule: rules.into_iter().collect(),
            ..RulesConfig::default()
        };
        self.put_fusion(name, "rules", FusionSettings::Rules(rules))
    }

    /// Adds a fusion of another plugin with its config.
    ///
    /// # Errors
    /// If the name is none.
    pub fn fusion(
        self,
        name: &str,
        plugin: &str,
        config: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, BuildError> {
        self.put_fusion(name, plugin, FusionSettings::Other(config))
    }

    fn put_fusion(
        mut self,
        name: &str,
        plugin: &str,
        config: FusionSettings,
    ) -> Result<Self, BuildError> {
        let fusion = FusionConfig::new(plugin, config);
        self.config.fusion.insert(Name::new(name)?, fusion);
        Ok(self)
    }

    /// Adds a path.
    ///
    /// # Errors
    /// If a name is none.
    pub fn path(
        mut self,
        name: &str,
        sources: &[&str],
        extractors: &[&str],
        fusion: &str,
    ) -> Result<Self, BuildError> {
        let names = |all: &[&str]| all.iter().map(|n| Name::new(n)).collect::<Result<_, _>>();
        let path = PathConfig {
            source: OneOrMany::Many(names(sources)?),
            extractors: names(extractors)?,
            fusion: Name::new(fusion)?,
            window_ms: config::Auto::Auto,
        };
        self.config.path.insert(Name::new(name)?, path);
        Ok(self)
    }

    /// Any other key: changes the config itself.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// An extractor plugin of the app's.
    #[must_use]
    pub fn register_extractor(mut self, plugin: Arc<dyn ExtractorPlugin>) -> Self {
        self.more.push(Plugin::Extractor(plugin));
        self
    }

    /// A fusion plugin of the app's.
    #[must_use]
    pub fn register_fusion(mut self, plugin: Arc<dyn FusionPlugin>) -> Self {
        self.more.push(Plugin::Fusion(plugin));
        self
    }

    /// Another registry than that of the built-in plugins. Clones share one table: keep one to
    /// register more while the pipeline runs.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Checks everything as a file would be.
    ///
    /// # Errors
    /// Everything that is wrong with the keys, or two plugins of one name. What only plugins can
    /// judge is told by [`Pipeline::run`].
    pub fn build(self) -> Result<Pipeline, BuildError> {
        let registry = match self.registry {
            Some(registry) => registry,
            None => builtin::registry()?,
        };
        for plugin in self.more {
            match plugin {
                Plugin::Extractor(p) => registry.register_extractor(Origin::App, p)?,
                Plugin::Fusion(p) => registry.register_fusion(Origin::App, p)?,
            }
        }
        let loaded =
            config::check_built(&self.config).map_err(|findings| ConfigError { findings })?;
        Ok(Pipeline::new(loaded.config, registry))
    }
}

impl Pipeline {
    /// A pipeline of the built-in plugins, as `visualpath run -c file` would run it.
    ///
    /// # Errors
    /// Everything that is wrong with the config, each with file, line and column.
    pub fn from_config(file: impl AsRef<Path>) -> Result<Self, BuildError> {
        Self::from_config_with(file, builtin::registry()?)
    }

    /// The same with plugins of the app's.
    ///
    /// # Errors
    /// As [`Pipeline::from_config`].
    pub fn from_config_with(
        file: impl AsRef<Path>,
        registry: Registry,
    ) -> Result<Self, BuildError> {
        let loaded = config::load(&LoadOptions::new(file.as_ref()))
            .map_err(|findings| ConfigError { findings })?;
        Ok(Self::new(loaded.config, registry))
    }

    /// A pipeline without a file.
    pub fn builder() -> PipelineBuilder {
        PipelineBuilder::new()
    }
}
