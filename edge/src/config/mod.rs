//! The config: TOML files and overrides in, a checked [`Config`] or every fault out.
//!
//! ```text
//! file, conf.d, env, --source ─▶ tree (each key with its place) ─▶ ${…} ─▶ [watch] ─▶ schema ─▶ Config ─▶ sense
//!                                  └──────────────── findings: file:line:column: key: … ◀─┴────┴────────────┘
//! ```
//!
//! The hard idea: faults are found on the tree, which knows places, not by the deserialiser, which
//! stops at the first. The schema check cuts faulty parts out of the tree, so what is left always
//! deserialises and the checks for sense still run: one run tells everything that is wrong.
//!
//! Keys are defined in [`model`], once; the schema, the checks, the reference and the default text
//! follow from it. What a key needs that this build has not is in [`not_built`].

mod answers;
mod check;
mod conform;
mod diagnostic;
mod expand;
mod fusion;
mod last_good;
mod layers;
mod machine;
pub mod model;
pub mod not_built;
mod schema;
mod show;
mod source;
mod tree;
mod values;
mod watch;
mod web;

use std::path::PathBuf;

pub use diagnostic::{Diagnostic, Severity};
pub use last_good::{LastGoodError, Start, last_good_file, load_or_last_good, save_last_good};
pub use layers::{LoadOptions, find_default};
pub use machine::Machine;
pub use model::{
    Auto, ClipCodec, ClipConfig, ClipDelivery, ClipEncoder, Config, ControlSetting, DropPolicy,
    ExpectedTrigger, ExtractorConfig, Fallback, FusionConfig, FusionSettings, FusionWorker,
    Isolation, MaskConfig, MessagePixels, MqttConfig, ObservabilityConfig, OneOrMany, PathConfig,
    RuleConfig, RuleTest, RulesConfig, SandboxConfig, SinkConfig, SinkKind, SourceConfig,
    SourceFormat, SourceKind, StreamTransport, TraceLevel, Transport, Trust, WatchConfig,
    WebConfig, ZoneConfig,
};
pub use schema::{KeyInfo, SECTIONS, keys, schema};
pub use show::{ShownKey, show, show_text};
pub use tree::Origin;

use tree::{Node, Value};

/// A config that can run.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// Where each key was set.
    pub origins: Origins,
    /// What may not be as meant.
    pub warnings: Vec<Diagnostic>,
    /// The files read, in order.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// Where the value of `key` (e.g. `fusion.visitor.config.rule[0].when`) was set; of a key
    /// nobody set, where its section begins.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.of(key)
    }

    /// An error found later (a rule, a plugin's config), told at its key.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        self.origins.error_at(key, message)
    }

    /// The same as a warning.
    pub fn warning_at(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(&self.origins.of(key), key, message)
    }
}

/// Where each key was set.
#[derive(Debug, Clone)]
pub struct Origins {
    /// What is in force, without defaults.
    root: Node,
    /// The same as somebody wrote it: before each `[watch]` became other sections.
    written: Node,
}

impl Origins {
    /// See [`Loaded::origin`].
    pub fn of(&self, key: &str) -> Origin {
        self.root.origin_of(&tree::parse_path(key)).clone()
    }

    /// Whether a file, variable or argument sets `key`.
    pub fn is_set(&self, key: &str) -> bool {
        self.root.at(&tree::parse_path(key)).is_some()
    }

    /// See [`Loaded::error_at`].
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.of(key), key, message)
    }
}

/// Loads and checks. The error is everything found, errors and warnings, in the order of the
/// files.
pub fn load(options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
    load_layers(options, layers::read(options, true)?)
}

/// Checks a config an app has made. Places are `the app`; the environment is not looked at.
///
/// # Errors
/// Everything found, errors and warnings.
pub fn check_built(config: &Config) -> Result<Loaded, Vec<Diagnostic>> {
    let origin = Origin::Argument("the app".into());
    let tree = serde_json::to_value(config).map_err(|e| e.to_string());
    let root = tree.and_then(|json| Node::from_json(&json, &origin).ok_or_else(String::new));
    let root = root.map_err(|e| vec![Diagnostic::error(&origin, String::new(), e)])?;
    let options = LoadOptions {
        machine: Machine::this(),
        ..LoadOptions::default()
    };
    let files = Vec::new();
    load_layers(&options, layers::Layers { root, files })
}

fn load_layers(options: &LoadOptions, layers: layers::Layers) -> Result<Loaded, Vec<Diagnostic>> {
    let layers::Layers { mut root, files } = layers;
    let mut found = Vec::new();
    layers::apply_env(&mut root, options, &mut found);
    if let Some(uri) = &options.source_uri {
        layers::apply_source(&mut root, uri, &mut found);
    }
    let before = found.len();
    expand::expand(&mut root, &options.env, "", &mut found);
    // What is wrong with a text that could not be expanded is told once.
    let unexpanded: Vec<String> = found[before..].iter().map(|d| d.key.clone()).collect();
    let told = found.len();
    if let Some(other) = other_schema(&root) {
        // Of another form nothing more can be said.
        return Err(vec![other]);
    }

    let written = root.clone();
    watch::expand(&mut root, &mut found);
    let mut clean = root.clone();
    conform::conform(&mut clean, &mut found);
    let json = clean.to_json();
    match serde_path_to_error::deserialize::<_, Config>(json) {
        Ok(mut config) => {
            check::check(&config, &root, &written, &mut found);
            not_built::report(&clean, &mut found);
            let mut index = 0;
            found.retain(|d| {
                index += 1;
                index <= told || !unexpanded.contains(&d.key)
            });
            config.resolve(&options.machine);
            sort(&mut found, &files);
            if found.iter().any(Diagnostic::is_error) {
                return Err(found);
            }
            Ok(Loaded {
                config,
                origins: Origins { root, written },
                warnings: found,
                files,
            })
        }
        Err(e) => {
            // Only if schema and types disagree; never silent.
            let key = e.path().to_string();
            let key = if key == "." { String::new() } else { key };
            let origin = root.origin_of(&tree::parse_path(&key)).clone();
            found.push(Diagnostic::error(&origin, key, e.inner().to_string()));
            sort(&mut found, &files);
            Err(found)
        }
    }
}

fn other_schema(root: &Node) -> Option<Diagnostic> {
    let node = root.get("schema")?;
    match node.value {
        Value::Integer(i) if i != i64::from(model::SCHEMA) => {
            let message = format!("this build reads schema = {}, got {i}", model::SCHEMA);
            Some(Diagnostic::error(&node.origin, "schema", message).hint(
                "update visualpath, or write the config in its form (`visualpath config default`)",
            ))
        }
        _ => None,
    }
}

/// In the order of files, then of lines; what has no line comes last.
fn sort(found: &mut [Diagnostic], files: &[PathBuf]) {
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    found.sort_by_key(|d| {
        let file = names.iter().position(|n| *n == d.file);
        (
            file.unwrap_or(names.len()),
            d.line.unwrap_or(u32::MAX),
            d.column.unwrap_or(u32::MAX),
        )
    });
}

/// A commented config with every key.
pub fn default_text() -> &'static str {
    include_str!("default.toml")
}
