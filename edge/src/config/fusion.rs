//! `[fusion.<name>]`: its `config` has the form its plugin gives it. That of the built-in `rules`
//! is known here, so its keys are checked like all others; any other plugin's is left as it is.

use std::borrow::Cow;
use std::path::PathBuf;

use super::model::{SandboxConfig, Trust};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use visualpath_platform::rules::{ExpectedTrigger, RuleConfig, RuleTest, RulesConfig};

/// One fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawFusion")]
pub struct FusionConfig {
    /// The plugin's name; `rules` is built in.
    pub plugin: String,
    /// Of a plugin in a process of its own: how it runs there.
    #[serde(flatten)]
    pub worker: FusionWorker,
    /// Its config.
    pub config: FusionSettings,
}

impl FusionConfig {
    /// This plugin with this config, every other key at its default.
    pub fn new(plugin: impl Into<String>, config: FusionSettings) -> Self {
        Self {
            plugin: plugin.into(),
            worker: FusionWorker::default(),
            config,
        }
    }
}

/// How a fusion runs whose plugin is in a process of its own: an executable, or Python.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FusionWorker {
    /// The venv's directory of a Python fusion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub venv: Option<PathBuf>,
    /// Longest time for one answer; the path waits for it.
    pub timeout_ms: u64,
    /// How much it is trusted.
    pub trust: Trust,
    /// What else it may do.
    pub sandbox: SandboxConfig,
}

impl Default for FusionWorker {
    fn default() -> Self {
        Self {
            venv: None,
            timeout_ms: timeout_ms(),
            trust: Trust::default(),
            sandbox: SandboxConfig::default(),
        }
    }
}

fn timeout_ms() -> u64 {
    1000
}

/// A fusion's config.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FusionSettings {
    /// Of `plugin = "rules"`.
    Rules(RulesConfig),
    /// Of any other plugin, unchanged.
    Other(serde_json::Map<String, serde_json::Value>),
}

impl FusionConfig {
    /// The rules, if this is a `rules` fusion.
    pub fn rules(&self) -> Option<&RulesConfig> {
        match &self.config {
            FusionSettings::Rules(rules) => Some(rules),
            FusionSettings::Other(_) => None,
        }
    }
}

impl FusionConfig {
    /// The config of any other fusion plugin.
    pub fn other(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        match &self.config {
            FusionSettings::Rules(_) => None,
            FusionSettings::Other(config) => Some(config),
        }
    }
}

/// [`FusionConfig`] before its plugin is known.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawFusion {
    /// The plugin's name; `rules` is built in.
    #[schemars(extend("examples" = ["rules"]))]
    plugin: String,
    /// The venv's directory, where the plugin is Python's.
    #[serde(default)]
    venv: Option<PathBuf>,
    /// Longest time for one answer of a plugin in a process of its own: its path waits for it.
    #[serde(default = "timeout_ms")]
    #[schemars(range(min = 1, max = 60_000))]
    timeout_ms: u64,
    /// How much a plugin in a process of its own is trusted.
    #[serde(default)]
    trust: Trust,
    /// What else a plugin in a process of its own may do.
    #[serde(default)]
    sandbox: SandboxConfig,
    /// The plugin's config; of `rules`: `rule`, `test` and `stale_ms`.
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
}

impl TryFrom<RawFusion> for FusionConfig {
    type Error = serde_json::Error;
    fn try_from(raw: RawFusion) -> Result<Self, Self::Error> {
        let config = if raw.plugin == "rules" {
            FusionSettings::Rules(serde_json::from_value(raw.config.into())?)
        } else {
            FusionSettings::Other(raw.config)
        };
        Ok(Self {
            plugin: raw.plugin,
            worker: FusionWorker {
                venv: raw.venv,
                timeout_ms: raw.timeout_ms,
                trust: raw.trust,
                sandbox: raw.sandbox,
            },
            config,
        })
    }
}

impl JsonSchema for FusionConfig {
    fn schema_name() -> Cow<'static, str> {
        "FusionConfig".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rules = generator.subschema_for::<RulesConfig>();
        let mut schema = RawFusion::json_schema(generator);
        schema.insert(
            "if".into(),
            serde_json::json!({"properties": {"plugin": {"const": "rules"}}}),
        );
        schema.insert(
            "then".into(),
            serde_json::json!({"properties": {"config": rules}}),
        );
        schema
    }
}
