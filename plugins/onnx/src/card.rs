//! Model cards: the only place that says what a model is and how to read it.
//!
//! A card is `<name>.toml` beside the model's file; docs/reference/model-card.md describes its
//! keys. A key this reader does not know is an error, because a misspelt `bias` would otherwise
//! only show as a detector that finds nothing.
//!
//! The decoder's own table (`[ssd]` for `decoder = "ssd"`) belongs to the plugin that decodes:
//! it asks for it with [`ModelCard::decoder`], naming the keys it knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use visualpath_core::{Filter, Fit, PixelFormat, ViewFormat, ViewSpec, nearest};

/// The version of the card format this reader understands.
const SCHEMA: u32 = 1;
/// Largest card read; a real one has 3 KB.
const MAX_CARD_BYTES: u64 = 1 << 20;
/// Protobuf can't hold more than 2 GiB.
const MAX_MODEL_BYTES: u64 = 1 << 31;
/// Largest side of an input picture.
const MAX_SIDE: u32 = 8192;

/// One model: identity, licences, file, input, outputs, labels.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// Name, the same as the card's file name without `.toml`.
    pub name: String,
    /// Version of the model, not of the card's format.
    pub version: String,
    /// One line for people.
    pub title: String,
    /// What it does, e.g. `object-detection`.
    pub task: String,
    /// Licences of code, weights and training data.
    pub licence: Licence,
    /// The file used.
    pub file: FileSpec,
    /// What goes in.
    pub input: InputSpec,
    /// Name of the decoder that reads the outputs, e.g. `ssd`.
    pub decoder: String,
    /// Role (as the decoder calls it) → the output's name in the model.
    pub outputs: BTreeMap<String, String>,
    /// Defaults of a detector.
    pub detect: DetectDefaults,
    /// Class names by index; empty where the model has no classes.
    pub labels: Vec<String>,
    /// Where the card was read.
    pub path: PathBuf,
    text: String,
}

/// Licences, SPDX where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Licence {
    /// Of the model's code.
    pub code: String,
    /// Of the weights.
    pub weights: String,
    /// Of the data it was trained on.
    pub data: String,
}

/// The file used, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FileSpec {
    /// File name, beside the card.
    pub name: String,
    /// Lower-case hex.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
    /// `onnx`.
    #[serde(default = "onnx")]
    pub format: String,
    /// ONNX operator set it is written in.
    #[serde(default)]
    pub opset: Option<u32>,
}

fn onnx() -> String {
    "onnx".to_owned()
}

/// What the model eats: one picture as `1 × channels × height × width` f32,
/// value = pixel × scale + bias.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct InputSpec {
    /// The input's name in the model.
    pub name: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `rgb`, `bgr` or `grey`.
    pub format: ViewFormat,
    /// `nchw`.
    #[serde(default = "nchw")]
    pub layout: String,
    /// How the frame is brought to that shape.
    #[serde(default)]
    pub fit: Fit,
    /// How pixels are resampled.
    #[serde(default)]
    pub filter: Filter,
    /// Factor, one for all channels or one each.
    pub scale: PerChannel,
    /// Added after scaling.
    pub bias: PerChannel,
}

fn nchw() -> String {
    "nchw".to_owned()
}

/// One number for all channels, or one per channel in the view's order.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum PerChannel {
    /// For all.
    One(f64),
    /// For each of three.
    Three([f64; 3]),
}

impl PerChannel {
    /// The value of channel `index`.
    pub fn get(&self, index: usize) -> f64 {
        match self {
            Self::One(v) => *v,
            Self::Three(v) => v.get(index).copied().unwrap_or(v[2]),
        }
    }

    fn all(&self, test: impl Fn(f64) -> bool) -> bool {
        (0..3).all(|i| test(self.get(i)))
    }
}

/// What a detector uses where its config says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
pub struct DetectDefaults {
    /// Least score, 0–1.
    pub threshold: Option<f64>,
    /// Largest overlap (intersection over union) of two boxes of one class that both stay.
    pub nms_iou: Option<f64>,
    /// Most objects of a frame.
    pub max_objects: Option<usize>,
}

/// Why a card can't be used. Names the file, the line and the key.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CardError {
    /// It can't be read at all.
    #[error("{}: {message}", path.display())]
    Read {
        /// The card.
        path: PathBuf,
        /// The system's reason.
        message: String,
    },
    /// It is not TOML, or a key is missing or has the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The card.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's reason.
        message: String,
    },
    /// A key nobody knows.
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), hint(nearest))]
    UnknownKey {
        /// The card.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Dotted key.
        key: String,
        /// Known keys that look like it, best first.
        nearest: Vec<String>,
    },
    /// A value that makes no sense.
    #[error("{}: {key}: {message}", path.display())]
    Value {
        /// The card.
        path: PathBuf,
        /// Dotted key.
        key: String,
        /// What was expected.
        message: String,
    },
}

/// ` (did you mean `x`?)`, or nothing.
pub(crate) fn hint(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nearest.iter().map(|n| format!("`{n}`")).collect();
    format!(" (did you mean {}?)", names.join(" or "))
}

const TOP: [&str; 11] = [
    "schema", "name", "version", "title", "task", "licence", "source", "file", "input", "output",
    "detect",
];
const LABELS: &str = "labels";
/// Tables with their keys. `[source]` is for set-up; the reader only checks its spelling.
const TABLES: [(&str, &[&str]); 6] = [
    ("licence", &["code", "weights", "data"]),
    (
        "source",
        &[
            "registry",
            "package",
            "version",
            "package_sha256",
            "platform",
            "python",
            "file",
            "file_sha256",
            "bytes",
            "format",
            "sha256",
        ],
    ),
    ("file", &["name", "format", "opset", "sha256", "bytes"]),
    (
        "input",
        &[
            "name", "width", "height", "format", "layout", "fit", "filter", "scale", "bias",
        ],
    ),
    ("detect", &["threshold", "nms_iou", "max_objects"]),
    (LABELS, &["names"]),
];

/// The card as written; what it means is checked afterwards.
#[derive(Deserialize)]
struct RawCard {
    schema: u32,
    name: String,
    version: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    task: String,
    licence: Licence,
    file: FileSpec,
    input: InputSpec,
    output: BTreeMap<String, String>,
    #[serde(default)]
    detect: DetectDefaults,
    #[serde(default)]
    labels: RawLabels,
}

#[derive(Deserialize, Default)]
struct RawLabels {
    names: Vec<String>,
}

impl ModelCard {
    /// Reads the card at `path`.
    pub fn read(path: &Path) -> Result<Self, CardError> {
        let fail = |message: String| CardError::Read {
            path: path.to_owned(),
            message,
        };
        let size = std::fs::metadata(path)
            .map_err(|e| fail(e.to_string()))?
            .len();
        if size > MAX_CARD_BYTES {
            return Err(fail(format!(
                "{size} bytes is too large for a model card (at most {MAX_CARD_BYTES})"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        Self::parse(path, &text)
    }

    /// Parses the text of the card at `path` (used for messages only).
    pub fn parse(path: &Path, text: &str) -> Result<Self, CardError> {
        let document = DeTable::parse(text).map_err(|e| syntax(path, text, &e))?;
        let raw: RawCard = toml::from_str(text).map_err(|e| syntax(path, text, &e))?;
        let mut outputs = raw.output;
        let decoder = outputs.remove("decoder").unwrap_or_default();
        let card = Self {
            name: raw.name,
            version: raw.version,
            title: raw.title,
            task: raw.task,
            licence: raw.licence,
            file: raw.file,
            input: raw.input,
            decoder,
            outputs,
            detect: raw.detect,
            labels: raw.labels.names,
            path: path.to_owned(),
            text: text.to_owned(),
        };
        card.check_keys(document.get_ref())?;
        card.check_values(raw.schema)?;
        Ok(card)
    }

    fn check_keys(&self, document: &DeTable<'_>) -> Result<(), CardError> {
        // First, because it is what makes the decoder's table a known one.
        if self.decoder.is_empty() {
            return Err(self.value_error(
                "output.decoder",
                "is missing: it names the decoder that reads the outputs, e.g. \"ssd\"".to_owned(),
            ));
        }
        let top: Vec<&str> = TOP
            .into_iter()
            .chain([LABELS, self.decoder.as_str()])
            .collect();
        self.check_table(document, "", &top)?;
        for (name, keys) in TABLES {
            if let Some(table) = table_of(document, name) {
                self.check_table(table, name, keys)?;
            }
        }
        Ok(())
    }

    fn check_table(
        &self,
        table: &DeTable<'_>,
        name: &str,
        known: &[&str],
    ) -> Result<(), CardError> {
        for key in table.keys() {
            let text: &str = key.get_ref();
            if !known.contains(&text) {
                return Err(CardError::UnknownKey {
                    path: self.path.clone(),
                    line: line_of(&self.text, key.span().start),
                    key: dotted(name, text),
                    nearest: nearest(text, known.iter().copied())
                        .into_iter()
                        .map(|k| dotted(name, k))
                        .collect(),
                });
            }
        }
        Ok(())
    }

    fn check_values(&self, schema: u32) -> Result<(), CardError> {
        let check = |ok: bool, key: &str, message: String| {
            if ok {
                Ok(())
            } else {
                Err(self.value_error(key, message))
            }
        };
        check(
            schema == SCHEMA,
            "schema",
            format!("{schema} is not a version this program reads (it reads {SCHEMA})"),
        )?;
        check(!self.name.is_empty(), "name", "is empty".to_owned())?;
        let file = &self.file;
        check(
            is_plain_name(&file.name),
            "file.name",
            format!("`{}` is not a plain file name beside the card", file.name),
        )?;
        check(
            file.format == "onnx",
            "file.format",
            format!("`{}` can't be run, only `onnx`", file.format),
        )?;
        check(
            file.sha256.len() == 64
                && file
                    .sha256
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
            "file.sha256",
            "must be 64 lower-case hexadecimal digits".to_owned(),
        )?;
        check(
            (1..=MAX_MODEL_BYTES).contains(&file.bytes),
            "file.bytes",
            format!("{} is not in 1-{MAX_MODEL_BYTES}", file.bytes),
        )?;
        let input = &self.input;
        for (key, side) in [("input.width", input.width), ("input.height", input.height)] {
            check(
                (1..=MAX_SIDE).contains(&side),
                key,
                format!("{side} is not in 1-{MAX_SIDE}"),
            )?;
        }
        check(
            input.format != ViewFormat::Native,
            "input.format",
            "must be `rgb`, `bgr` or `grey`".to_owned(),
        )?;
        check(
            input.layout == "nchw",
            "input.layout",
            format!("`{}` is not known, only `nchw`", input.layout),
        )?;
        check(
            input.scale.all(|v| v.is_finite() && v != 0.0),
            "input.scale",
            "must be a finite number other than 0, or three".to_owned(),
        )?;
        check(
            input.bias.all(f64::is_finite),
            "input.bias",
            "must be a finite number, or three".to_owned(),
        )?;
        let detect = &self.detect;
        check(
            detect.threshold.is_none_or(|t| t > 0.0 && t < 1.0),
            "detect.threshold",
            "must lie between 0 and 1".to_owned(),
        )?;
        check(
            detect.nms_iou.is_none_or(|t| (0.0..=1.0).contains(&t)),
            "detect.nms_iou",
            "must lie in 0-1".to_owned(),
        )?;
        check(
            detect.max_objects.is_none_or(|n| (1..=10_000).contains(&n)),
            "detect.max_objects",
            "must lie in 1-10000".to_owned(),
        )
    }

    /// The table of the decoder named `name`, whose keys are `keys` and whose outputs play the
    /// roles `roles`; fails if the card is for another decoder, has a key or role beyond these, or
    /// lacks a role.
    pub fn decoder<T: DeserializeOwned>(
        &self,
        name: &str,
        keys: &[&str],
        roles: &[&str],
    ) -> Result<T, CardError> {
        if self.decoder != name {
            return Err(self.value_error(
                "output.decoder",
                format!(
                    "the model's outputs are read by `{}`, this plugin has `{name}`",
                    self.decoder
                ),
            ));
        }
        let document =
            DeTable::parse(&self.text).map_err(|e| syntax(&self.path, &self.text, &e))?;
        if let Some(table) = table_of(document.get_ref(), "output") {
            let known: Vec<&str> = roles.iter().copied().chain(["decoder"]).collect();
            self.check_table(table, "output", &known)?;
        }
        for role in roles {
            if !self.outputs.contains_key(*role) {
                return Err(self.value_error(&dotted("output", role), "is missing".to_owned()));
            }
        }
        let Some(table) = table_of(document.get_ref(), name) else {
            return Err(self.value_error(name, format!("the table [{name}] is missing")));
        };
        self.check_table(table, name, keys)?;
        let mut tables: BTreeMap<String, toml::Value> =
            toml::from_str(&self.text).map_err(|e| syntax(&self.path, &self.text, &e))?;
        tables
            .remove(name)
            .unwrap_or(toml::Value::Table(toml::Table::new()))
            .try_into()
            .map_err(|e| self.value_error(name, e.message().to_owned()))
    }

    /// The name in the model of the output that plays `role`.
    pub fn output(&self, role: &str) -> Result<&str, CardError> {
        self.outputs
            .get(role)
            .map(String::as_str)
            .ok_or_else(|| self.value_error(&dotted("output", role), "is missing".to_owned()))
    }

    /// The view of a frame the model wants.
    pub fn view(&self) -> ViewSpec {
        ViewSpec {
            format: self.input.format,
            size: Some((self.input.width, self.input.height)),
            fit: self.input.fit,
            filter: self.input.filter,
        }
    }

    /// Pixel format of that view.
    pub fn pixel_format(&self) -> PixelFormat {
        match self.input.format {
            ViewFormat::Bgr => PixelFormat::Bgr,
            ViewFormat::Grey => PixelFormat::Grey,
            // `Native` is refused when the card is read.
            ViewFormat::Rgb | ViewFormat::Native => PixelFormat::Rgb,
        }
    }

    /// Shape of the input tensor, `1 × channels × height × width`.
    pub fn input_shape(&self) -> [usize; 4] {
        let channels = if self.pixel_format() == PixelFormat::Grey {
            1
        } else {
            3
        };
        [
            1,
            channels,
            self.input.height as usize,
            self.input.width as usize,
        ]
    }

    /// An error about one of this card's values.
    pub fn value_error(&self, key: &str, message: String) -> CardError {
        CardError::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            message,
        }
    }
}

fn table_of<'a, 'i>(document: &'a DeTable<'i>, name: &str) -> Option<&'a DeTable<'i>> {
    document
        .iter()
        .find(|(key, _)| key.get_ref() == name)
        .and_then(|(_, value)| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        })
}

fn dotted(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> CardError {
    CardError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |s| line_of(text, s.start)),
        message: error.message().to_owned(),
    }
}

#[cfg(test)]
#[path = "card_tests.rs"]
mod tests;
