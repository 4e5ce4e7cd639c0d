//! `[fusion.<name>]`: its `config` has the form its plugin gives it. That of the built-in `rules`
//! is known here, so its keys are checked like all others; any other plugin's is left as it is.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
pub use visualpath_platform::rules::{ExpectedTrigger, RuleConfig, RuleTest, RulesConfig};

/// One fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawFusion")]
pub struct FusionConfig {
    /// The plugin's name; `rules` is built in.
    pub plugin: String,
    /// Its config.
    pub config: FusionSettings,
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
