//! `[extractor.<name>.config]` of the plugin.

use serde_json::{Map, Value};
use visualpath_core::{NS_PER_S, PluginError, nearest};

const KEYS: [&str; 7] = [
    "threshold",
    "min_area",
    "learn_s",
    "history_s",
    "shadows",
    "width",
    "height",
];

/// The config as used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Config {
    /// Least change of a pixel, levels of 255.
    pub threshold: u8,
    /// Least region, share of the picture.
    pub min_area: f64,
    /// Start-up, and how fast slow change is followed.
    pub learn_ns: i64,
    /// What has stood still so long is background.
    pub history_ns: i64,
    /// Whether soft shadows and soft light are told apart.
    pub shadows: bool,
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
        let seconds = |key, least, most, default| -> Result<i64, PluginError> {
            Ok(ns(number(config, key, least, most)?.unwrap_or(default)))
        };
        Ok(Self {
            threshold: whole(config, "threshold", 2, 128)?
                .and_then(|v| u8::try_from(v).ok())
                .unwrap_or(12),
            min_area: number(config, "min_area", 0.0, 0.5)?.unwrap_or(0.001),
            learn_ns: seconds("learn_s", 0.1, 60.0, 2.0)?,
            history_ns: seconds("history_s", 1.0, 3600.0, 20.0)?,
            shadows: switch(config, "shadows")?.unwrap_or(true),
            width: whole(config, "width", 32, 1024)?.unwrap_or(320),
            height: whole(config, "height", 32, 1024)?.unwrap_or(240),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "at most an hour"
)]
fn ns(seconds: f64) -> i64 {
    (seconds * NS_PER_S as f64).round() as i64
}

fn number(
    config: &Map<String, Value>,
    key: &str,
    least: f64,
    most: f64,
) -> Result<Option<f64>, PluginError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    match value.as_f64().filter(|v| (least..=most).contains(v)) {
        Some(v) => Ok(Some(v)),
        None => Err(config_error(
            key,
            format!("expected a number in {least}-{most}, found {value}"),
        )),
    }
}

fn whole(
    config: &Map<String, Value>,
    key: &str,
    least: u32,
    most: u32,
) -> Result<Option<u32>, PluginError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    let good = value.as_u64().and_then(|v| u32::try_from(v).ok());
    match good.filter(|v| (least..=most).contains(v)) {
        Some(v) => Ok(Some(v)),
        None => Err(config_error(
            key,
            format!("expected a whole number in {least}-{most}, found {value}"),
        )),
    }
}

fn switch(config: &Map<String, Value>, key: &str) -> Result<Option<bool>, PluginError> {
    match config.get(key) {
        None => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(*on)),
        Some(other) => Err(config_error(
            key,
            format!("expected true or false, found {other}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(json: Value) -> Result<Config, PluginError> {
        Config::parse(json.as_object().unwrap())
    }

    #[test]
    fn an_empty_config_works() {
        let c = parse(json!({})).unwrap();
        assert_eq!(
            (c.threshold, c.width, c.height, c.shadows),
            (12, 320, 240, true)
        );
        assert_eq!((c.learn_ns, c.history_ns), (2_000_000_000, 20_000_000_000));
        let c = parse(json!({"learn_s": 0.5, "min_area": 0, "threshold": 30})).unwrap();
        assert_eq!((c.learn_ns, c.threshold), (500_000_000, 30));
    }

    #[test]
    fn wrong_values_name_their_key_and_what_was_expected() {
        for (config, says) in [
            (
                json!({"treshold": 4}),
                "treshold: unknown key; did you mean `threshold`? known: threshold, min_area",
            ),
            (
                json!({"colour": 4}),
                "colour: unknown key; known: threshold",
            ),
            (
                json!({"threshold": 0}),
                "threshold: expected a whole number in 2-128, found 0",
            ),
            (
                json!({"threshold": 9.5}),
                "threshold: expected a whole number in 2-128, found 9.5",
            ),
            (
                json!({"min_area": 2}),
                "min_area: expected a number in 0-0.5, found 2",
            ),
            (
                json!({"learn_s": "2"}),
                "learn_s: expected a number in 0.1-60, found \"2\"",
            ),
            (
                json!({"history_s": 0.5}),
                "history_s: expected a number in 1-3600, found 0.5",
            ),
            (
                json!({"shadows": 1}),
                "shadows: expected true or false, found 1",
            ),
            (
                json!({"width": 16}),
                "width: expected a whole number in 32-1024, found 16",
            ),
        ] {
            let error = parse(config.clone()).unwrap_err().to_string();
            assert!(error.starts_with(says), "{config}: {error}");
        }
    }
}
