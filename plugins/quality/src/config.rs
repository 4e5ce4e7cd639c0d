//! `[extractor.<name>.config]` of the plugin.

use serde_json::{Map, Value};
use visualpath_core::{PluginError, nearest};

const KEYS: [&str; 6] = [
    "min_blur",
    "min_brightness",
    "max_brightness",
    "min_contrast",
    "width",
    "height",
];

/// The config as used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Config {
    /// Least variance of the Laplacian.
    pub min_blur: Option<f64>,
    /// Least mean level.
    pub min_brightness: Option<f64>,
    /// Largest mean level.
    pub max_brightness: Option<f64>,
    /// Least spread of levels.
    pub min_contrast: Option<f64>,
    /// Of the view.
    pub width: u32,
    /// Of the view.
    pub height: u32,
}

fn config_error(key: &str, message: String) -> PluginError {
    PluginError::Config {
        key: key.to_owned(),
        message,
    }
}

impl Config {
    pub(crate) fn parse(config: &Map<String, Value>) -> Result<Self, PluginError> {
        if let Some(key) = config.keys().find(|k| !KEYS.contains(&k.as_str())) {
            let near = nearest(key, KEYS);
            let hint = if near.is_empty() {
                String::new()
            } else {
                format!("did you mean `{}`? ", near.join("` or `"))
            };
            let known = KEYS.join(", ");
            return Err(config_error(
                key,
                format!("unknown key; {hint}known: {known}"),
            ));
        }
        let this = Self {
            min_blur: number(config, "min_blur", 1e6)?,
            min_brightness: number(config, "min_brightness", 255.0)?,
            max_brightness: number(config, "max_brightness", 255.0)?,
            min_contrast: number(config, "min_contrast", 255.0)?,
            width: side(config, "width")?.unwrap_or(320),
            height: side(config, "height")?.unwrap_or(240),
        };
        if let (Some(least), Some(most)) = (this.min_brightness, this.max_brightness)
            && least >= most
        {
            return Err(config_error(
                "max_brightness",
                format!("{most} is not above min_brightness ({least}): no picture would pass"),
            ));
        }
        Ok(this)
    }
}

fn number(config: &Map<String, Value>, key: &str, most: f64) -> Result<Option<f64>, PluginError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    match value.as_f64().filter(|v| (0.0..=most).contains(v)) {
        Some(v) => Ok(Some(v)),
        None => Err(config_error(
            key,
            format!("expected a number in 0-{most}, found {value}"),
        )),
    }
}

fn side(config: &Map<String, Value>, key: &str) -> Result<Option<u32>, PluginError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    let good = value.as_u64().and_then(|v| u32::try_from(v).ok());
    match good.filter(|v| (32..=1024).contains(v)) {
        Some(v) => Ok(Some(v)),
        None => Err(config_error(
            key,
            format!("expected a whole number in 32-1024, found {value}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_values_name_their_key_and_what_was_expected() {
        for (config, says) in [
            (
                json!({"min_blurr": 4}),
                "min_blurr: unknown key; did you mean `min_blur`? known: min_blur, min_brightness",
            ),
            (
                json!({"min_blur": -1}),
                "min_blur: expected a number in 0-1000000, found -1",
            ),
            (
                json!({"min_contrast": "a"}),
                "min_contrast: expected a number in 0-255, found \"a\"",
            ),
            (
                json!({"min_brightness": 90, "max_brightness": 80}),
                "max_brightness: 80 is not above min_brightness (90)",
            ),
            (
                json!({"width": 5000}),
                "width: expected a whole number in 32-1024, found 5000",
            ),
        ] {
            let error = Config::parse(config.as_object().unwrap()).unwrap_err();
            assert!(error.to_string().starts_with(says), "{config}: {error}");
        }
        assert!(Config::parse(&Map::new()).is_ok());
    }
}
