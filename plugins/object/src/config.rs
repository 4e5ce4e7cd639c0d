//! `[extractor.<name>.config]` of the plugin.

use serde_json::{Map, Value};
use visualpath_core::{PluginError, nearest};
use visualpath_onnx::{ModelCard, Runtime};

/// The model used where the config names none.
pub(crate) const DEFAULT_MODEL: &str = "ssd-oidv4";
/// Where neither config nor card says.
const DEFAULT_THRESHOLD: f64 = 0.5;
const DEFAULT_NMS: f64 = 0.5;
const DEFAULT_MAX_OBJECTS: usize = 100;
/// More threads than any camera has.
const MAX_THREADS: u64 = 64;
const MAX_OBJECTS: u64 = 10_000;

const KEYS: [&str; 7] = [
    "model",
    "threshold",
    "classes",
    "runtime",
    "nms",
    "threads",
    "max_objects",
];

/// The config as written, each value checked on its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub model: String,
    pub threshold: Option<f64>,
    pub classes: Option<Vec<String>>,
    pub runtime: Runtime,
    pub nms: Option<f64>,
    pub threads: usize,
    pub max_objects: Option<usize>,
}

fn config_error(key: impl Into<String>, message: impl Into<String>) -> PluginError {
    PluginError::Config {
        key: key.into(),
        message: message.into(),
    }
}

fn did_you_mean(word: &str, known: &[&str]) -> String {
    let near: Vec<String> = nearest(word, known.iter().copied())
        .into_iter()
        .map(|n| format!("`{n}`"))
        .collect();
    if near.is_empty() {
        String::new()
    } else {
        format!("did you mean {}? ", near.join(" or "))
    }
}

impl Config {
    pub(crate) fn parse(config: &Map<String, Value>) -> Result<Self, PluginError> {
        if let Some(key) = config.keys().find(|k| !KEYS.contains(&k.as_str())) {
            return Err(config_error(
                key,
                format!(
                    "unknown key; {}known: {}",
                    did_you_mean(key, &KEYS),
                    KEYS.join(", ")
                ),
            ));
        }
        Ok(Self {
            model: text(config, "model")?.unwrap_or(DEFAULT_MODEL).to_owned(),
            threshold: number(
                config,
                "threshold",
                |t| t > 0.0 && t < 1.0,
                "between 0 and 1",
            )?,
            classes: classes(config)?,
            runtime: match text(config, "runtime")? {
                Some(word) => word
                    .parse()
                    .map_err(|e: String| config_error("runtime", e))?,
                None => Runtime::Auto,
            },
            nms: number(config, "nms", |t| (0.0..=1.0).contains(&t), "in 0-1")?,
            threads: whole(config, "threads", MAX_THREADS)?.unwrap_or(1),
            max_objects: whole(config, "max_objects", MAX_OBJECTS)?,
        })
    }

    /// Least score.
    pub(crate) fn threshold(&self, card: &ModelCard) -> f64 {
        self.threshold
            .or(card.detect.threshold)
            .unwrap_or(DEFAULT_THRESHOLD)
    }

    /// Largest overlap of two boxes of one class.
    pub(crate) fn nms(&self, card: &ModelCard) -> f64 {
        self.nms.or(card.detect.nms_iou).unwrap_or(DEFAULT_NMS)
    }

    /// Most objects of a frame.
    pub(crate) fn max_objects(&self, card: &ModelCard) -> usize {
        self.max_objects
            .or(card.detect.max_objects)
            .unwrap_or(DEFAULT_MAX_OBJECTS)
    }

    /// Indices of the enabled classes among `labels`, in their order, `background` never.
    pub(crate) fn enabled(
        &self,
        labels: &[String],
        background: Option<usize>,
    ) -> Result<Vec<usize>, PluginError> {
        let all: Vec<usize> = (0..labels.len())
            .filter(|i| Some(*i) != background)
            .collect();
        let Some(wanted) = &self.classes else {
            return Ok(all);
        };
        let mut enabled = Vec::with_capacity(wanted.len());
        for (position, word) in wanted.iter().enumerate() {
            let lower = word.to_lowercase();
            match all.iter().find(|i| labels[**i].to_lowercase() == lower) {
                Some(index) => enabled.push(*index),
                None => return Err(unknown_class(position, word, &all, labels)),
            }
        }
        enabled.sort_unstable();
        enabled.dedup();
        Ok(enabled)
    }
}

fn unknown_class(position: usize, word: &str, all: &[usize], labels: &[String]) -> PluginError {
    let known: Vec<&str> = all.iter().map(|i| labels[*i].as_str()).collect();
    let lower: Vec<String> = known.iter().map(|k| k.to_lowercase()).collect();
    // Compared in lower case, told as the card writes it.
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let near: Vec<&str> = nearest(&word.to_lowercase(), lower.iter().copied())
        .into_iter()
        .filter_map(|n| lower.iter().position(|l| *l == n).map(|i| known[i]))
        .collect();
    let hint = if near.is_empty() {
        String::new()
    } else {
        format!("did you mean `{}`? ", near.join("` or `"))
    };
    config_error(
        format!("classes[{position}]"),
        format!(
            "the model knows no class `{word}`; {hint}it knows: {}",
            known.join(", ")
        ),
    )
}

fn text<'a>(config: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, PluginError> {
    match config.get(key) {
        None => Ok(None),
        Some(Value::String(s)) if !s.is_empty() => Ok(Some(s)),
        Some(other) => Err(config_error(
            key,
            format!("expected a text in quotes, found {other}"),
        )),
    }
}

fn number(
    config: &Map<String, Value>,
    key: &str,
    good: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<Option<f64>, PluginError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    match value.as_f64().filter(|v| good(*v)) {
        Some(v) => Ok(Some(v)),
        None => Err(config_error(
            key,
            format!("expected a number {expected}, found {value}"),
        )),
    }
}

fn whole(config: &Map<String, Value>, key: &str, most: u64) -> Result<Option<usize>, PluginError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    value
        .as_u64()
        .filter(|v| (1..=most).contains(v))
        .and_then(|v| usize::try_from(v).ok())
        .map(Some)
        .ok_or_else(|| {
            config_error(
                key,
                format!("expected a whole number in 1-{most}, found {value}"),
            )
        })
}

fn classes(config: &Map<String, Value>) -> Result<Option<Vec<String>>, PluginError> {
    let Some(value) = config.get("classes") else {
        return Ok(None);
    };
    let words: Option<Vec<String>> = value
        .as_array()
        .and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    match words {
        Some(words) if !words.is_empty() => Ok(Some(words)),
        Some(_) => Err(config_error(
            "classes",
            "is empty, so nothing would ever be found; leave it out to get all classes",
        )),
        None => Err(config_error(
            "classes",
            format!("expected a list of class names, e.g. [\"person\"], found {value}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> Result<Config, PluginError> {
        Config::parse(json.as_object().unwrap())
    }

    fn labels() -> Vec<String> {
        ["???", "Person", "Coffee cup", "Car"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn an_empty_config_works() {
        let config = parse(serde_json::json!({})).unwrap();
        assert_eq!((config.model.as_str(), config.threads), (DEFAULT_MODEL, 1));
        assert_eq!(config.enabled(&labels(), Some(0)).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn wrong_values_name_their_key_and_what_was_expected() {
        use serde_json::json;
        for (config, says) in [
            (
                json!({"treshold": 0.4}),
                "treshold: unknown key; did you mean `threshold`?",
            ),
            (
                json!({"colour": 1}),
                "colour: unknown key; known: model, threshold",
            ),
            (
                json!({"threshold": 0}),
                "threshold: expected a number between 0 and 1, found 0",
            ),
            (json!({"threshold": "0.4"}), "threshold: expected a number"),
            (json!({"model": 7}), "model: expected a text"),
            (json!({"model": ""}), "model: expected a text"),
            (
                json!({"runtime": "trakt"}),
                "runtime: `trakt` is not a runtime; expected auto, tract or ort (did you mean `tract`?)",
            ),
            (
                json!({"nms": 1.5}),
                "nms: expected a number in 0-1, found 1.5",
            ),
            (
                json!({"threads": 0}),
                "threads: expected a whole number in 1-64, found 0",
            ),
            (json!({"threads": 1.5}), "threads: expected a whole number"),
            (
                json!({"max_objects": -1}),
                "max_objects: expected a whole number in 1-10000",
            ),
            (json!({"classes": "person"}), "classes: expected a list"),
            (json!({"classes": [1]}), "classes: expected a list"),
            (json!({"classes": []}), "classes: is empty"),
        ] {
            let error = parse(config.clone()).unwrap_err().to_string();
            assert!(error.contains(says), "{config}: {error}");
        }
    }

    #[test]
    fn classes_are_found_whatever_their_case() {
        let config = parse(serde_json::json!({"classes": ["CAR", "coffee Cup", "car"]})).unwrap();
        assert_eq!(config.enabled(&labels(), Some(0)).unwrap(), [2, 3]);
    }

    #[test]
    fn an_unknown_class_gets_the_nearest_and_the_list() {
        for (word, says) in [
            (
                "persn",
                "classes[1]: the model knows no class `persn`; did you mean `Person`? it knows: Person, Coffee cup, Car",
            ),
            (
                "???",
                "classes[1]: the model knows no class `???`; it knows",
            ),
        ] {
            let config = parse(serde_json::json!({"classes": ["car", word]})).unwrap();
            let error = config.enabled(&labels(), Some(0)).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
