//! `visualpath plugins`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use visualpath_core::{ExtractorPlugin, FusionPlugin, Name};
use visualpath_platform::discovery::{self, External, MANIFEST};
use visualpath_platform::{Found, Isolation, Registry, RegistryError};

use super::scaffold::{self, Lang};
use super::{complain, complain_line, extras, fail, say, say_json};
use crate::builtin;
use crate::config::{self, Config, LoadOptions};
use crate::exit::Exit;
use crate::plugins;
use crate::venv::{self, Recipe};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum PluginsVerb {
    /// Every plugin, linked in or discovered, with its version, origin and possible isolations.
    List {
        /// The config that says where to look. Default: as of `run`; none is needed.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run one plugin alone over a source and print its observations.
    Test {
        /// The plugin.
        name: String,
        /// The source.
        #[arg(long, value_name = "URI")]
        source: String,
        /// A key of its config, e.g. `threshold=0.5`; TOML values. Can be repeated.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Stop after this many frames.
        #[arg(long)]
        frames: Option<u64>,
        /// The venv of a Python plugin. Default: the one `plugins venv` made.
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
        /// The config that says where plugins and venvs are. Default: as of `run`.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// One observation per line as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a new plugin into ./NAME: small, complete, working.
    New {
        /// Its name: lower-case letters, digits and _.
        name: String,
        /// Its language.
        #[arg(long, value_enum, default_value_t = Lang::Rust)]
        lang: Lang,
        /// The SDK's source directory, for a Rust plugin that is built beside a checkout.
        #[arg(long, value_name = "PATH")]
        sdk: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build or repair the venv of a Python plugin: <state_dir>/venvs/NAME.
    Venv {
        /// The plugin.
        name: String,
        /// Offline: take every package from this directory of wheels.
        #[arg(long, value_name = "DIR")]
        wheels: Option<PathBuf>,
        /// The Python to make it with. Default: [python] interpreter of the config, else python3.
        #[arg(long, value_name = "PY")]
        python: Option<PathBuf>,
        /// The wheel or source directory of visualpath-edge. Default: the wheel in --wheels.
        #[arg(long, value_name = "PATH")]
        sdk: Option<PathBuf>,
        /// The config that says where plugins and venvs are. Default: as of `run`.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs a verb.
pub fn run(verb: PluginsVerb) -> Exit {
    match verb {
        PluginsVerb::List { config, json } => done(list(config, json)),
        PluginsVerb::Test {
            name,
            source,
            settings,
            frames,
            venv,
            config,
            json,
        } => done(load(config).map(|config| {
            let alone = extras::Alone {
                plugin: name,
                uri: source,
                settings,
                venv,
                frames,
                json,
            };
            extras::plugins_test(&alone, config)
        })),
        PluginsVerb::New {
            name,
            lang,
            sdk,
            json,
        } => done(new(&name, lang, sdk.as_deref(), json)),
        PluginsVerb::Venv {
            name,
            wheels,
            python,
            sdk,
            config,
            json,
        } => done(load(config).and_then(|config| {
            let python = python.or_else(|| config.python.interpreter.clone());
            let recipe = recipe(&config, &name, python, wheels, sdk)?;
            build_venv(&recipe, json)
        })),
    }
}

fn done(result: Result<Exit, Exit>) -> Exit {
    result.unwrap_or_else(|exit| exit)
}

/// The config, or without one the defaults.
fn load(file: Option<PathBuf>) -> Result<Config, Exit> {
    let Some(path) = file.or_else(config::find_default) else {
        return Ok(Config::default());
    };
    match config::load(&LoadOptions::new(path)) {
        Ok(loaded) => Ok(loaded.config),
        Err(findings) => {
            complain(&findings);
            Err(Exit::Config)
        }
    }
}

fn linked() -> Result<Registry, Exit> {
    builtin::registry().map_err(|e| fail(Exit::Plugin, &e.to_string()))
}

/// One line of `plugins list`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    version: String,
    kind: &'static str,
    origin: String,
    /// The weakest it is content with.
    isolation: &'static str,
    /// What it can have.
    allowed: Vec<&'static str>,
    /// Why it can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn list(config: Option<PathBuf>, json: bool) -> Result<Exit, Exit> {
    let config = load(config)?;
    let registry = linked()?;
    let clashes = plugins::discover(&registry, &config);
    let mut rows = linked_rows(&registry);
    for external in registry.externals() {
        rows.push(external_row(&external));
    }
    for clash in &clashes {
        for row in rows.iter_mut().filter(|row| claims(clash, row)) {
            row.problem = Some(clash.to_string());
        }
    }
    for problem in registry.problems() {
        if problem.error.is_warning() {
            complain_line(&format!("warning: {}", problem.error));
            continue;
        }
        rows.push(Row {
            name: problem.plugin.unwrap_or_default(),
            version: String::new(),
            kind: "",
            origin: problem
                .venv
                .map(|v| v.display().to_string())
                .unwrap_or_default(),
            isolation: "",
            allowed: Vec::new(),
            problem: Some(problem.error.to_string()),
        });
    }
    let bad = rows.iter().any(|row| row.problem.is_some());
    let said = match json {
        true => say_json(&rows),
        false => say(&table(&rows)),
    };
    match (said, bad) {
        (Exit::Ok, true) => Err(Exit::Plugin),
        (said, _) => Ok(said),
    }
}

fn claims(clash: &RegistryError, row: &Row) -> bool {
    matches!(clash, RegistryError::Duplicate { kind, name, .. } if *kind == row.kind && *name == row.name)
}

fn linked_rows(registry: &Registry) -> Vec<Row> {
    let row = |name: &str, version: &str, kind, origin: String, allowed| Row {
        name: name.to_owned(),
        version: version.to_owned(),
        kind,
        origin,
        isolation: Isolation::Inline.as_str(),
        allowed,
        problem: None,
    };
    let mut rows = Vec::new();
    for (origin, plugin) in registry.extractors() {
        let allowed = words(&Found::<dyn ExtractorPlugin>::Linked(plugin.clone()));
        let origin = origin.to_string();
        rows.push(row(
            plugin.name(),
            plugin.version(),
            "extractor",
            origin,
            allowed,
        ));
    }
    for (origin, plugin) in registry.fusions() {
        let allowed = words(&Found::<dyn FusionPlugin>::Linked(plugin.clone()));
        let origin = origin.to_string();
        rows.push(row(
            plugin.name(),
            plugin.version(),
            "fusion",
            origin,
            allowed,
        ));
    }
    let version = env!("CARGO_PKG_VERSION");
    let inline = vec![Isolation::Inline.as_str()];
    rows.push(row(
        "rules",
        version,
        "fusion",
        "built in".to_owned(),
        inline,
    ));
    rows
}

fn external_row(external: &External) -> Row {
    let allowed = discovery::ISOLATIONS.into_iter();
    let allowed = allowed.filter(|i| discovery::allowed_of(external, *i).is_ok());
    Row {
        name: external.name.clone(),
        version: external.version.clone(),
        kind: external.kind.as_str(),
        origin: external.origin.to_string(),
        isolation: external.isolation.as_str(),
        allowed: allowed.map(Isolation::as_str).collect(),
        problem: None,
    }
}

fn words<P: ?Sized>(found: &Found<P>) -> Vec<&'static str> {
    let cells = discovery::cells(found).into_iter();
    cells.map(Isolation::as_str).collect()
}

/// Columns as wide as their longest entry.
fn table(rows: &[Row]) -> String {
    let heads = ["name", "version", "kind", "isolation", "can be", "origin"].map(str::to_owned);
    let cells = |row: &Row| {
        let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        [
            dash(&row.name),
            dash(&row.version),
            dash(row.kind),
            dash(row.isolation),
            dash(&row.allowed.join(" ")),
            row.origin.clone(),
        ]
    };
    let mut lines = vec![heads];
    lines.extend(rows.iter().map(cells));
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
    let text = |(n, line): (usize, &[String; 6])| {
        let cells = line.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let mut text = padded.join("  ").trim_end().to_owned();
        if let Some(problem) = n.checked_sub(1).and_then(|n| rows[n].problem.as_ref()) {
            text.push_str(&format!(
                "\n    PROBLEM: {}",
                problem.replace('\n', "\n    ")
            ));
        }
        text
    };
    lines
        .iter()
        .enumerate()
        .map(text)
        .collect::<Vec<_>>()
        .join("\n")
}

/// What `plugins new` made.
#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    lang: Lang,
    dir: String,
    files: Vec<String>,
}

fn new(name: &str, lang: Lang, sdk: Option<&Path>, json: bool) -> Result<Exit, Exit> {
    let name = Name::new(name).map_err(|e| fail(Exit::Usage, &e.to_string()))?;
    let dir = Path::new(".").join(name.as_str());
    let files =
        scaffold::write(&name, lang, sdk, &dir).map_err(|e| fail(Exit::Failed, &e.to_string()))?;
    if json {
        return Ok(say_json(&Made {
            name: name.as_str(),
            lang,
            dir: dir.display().to_string(),
            files,
        }));
    }
    Ok(say(&format!(
        "{}: {}; what to do next is in {}",
        dir.display(),
        files.join(", "),
        dir.join("README.md").display()
    )))
}

/// Finds what the venv is to be made of.
fn recipe(
    config: &Config,
    name: &str,
    python: Option<PathBuf>,
    wheels: Option<PathBuf>,
    sdk: Option<PathBuf>,
) -> Result<Recipe, Exit> {
    let usage = |message: String| fail(Exit::Usage, &message);
    let name = Name::new(name).map_err(|e| usage(e.to_string()))?;
    let wheels = match wheels {
        Some(dir) => {
            let found = dir.canonicalize();
            Some(found.map_err(|e| usage(format!("--wheels {}: {e}", dir.display())))?)
        }
        None => None,
    };
    let registry = linked()?;
    let mut places = plugins::places(config);
    // What is installed already does not matter here, nor does a broken venv.
    places.venvs.clear();
    places.interpreter = None;
    registry.set_discovered(discovery::discover(&places));
    let extractor = registry.find_extractor(name.as_str(), None).map(external);
    let fusion = || registry.find_fusion(name.as_str(), None).map(external);
    let (folder, entry_point) = match extractor.or_else(|e| fusion().map_err(|_| e)) {
        Ok(Some(plugin)) => match (plugin.entry_point(), plugin.dir.clone()) {
            (Some(entry_point), Some(dir)) => (dir, Some(entry_point.to_owned())),
            _ => {
                return Err(usage(format!(
                    "`{name}` is an executable and needs no venv"
                )));
            }
        },
        Ok(None) => {
            let message = format!("`{name}` is linked into this program and needs no venv");
            return Err(usage(message));
        }
        Err(error) => match bare_package(&places, &name) {
            Some(dir) => (dir, None),
            None => {
                let message = format!(
                    "{error}; a Python plugin's folder with a {MANIFEST}, a pyproject.toml, a \
                     wheel or requirements goes into {}",
                    config.device.state_dir.join("plugins").display()
                );
                return Err(fail(Exit::Plugin, &message));
            }
        },
    };
    Ok(Recipe {
        name,
        state_dir: config.device.state_dir.clone(),
        folder,
        entry_point,
        python: python.unwrap_or_else(|| "python3".into()),
        wheels,
        sdk,
    })
}

fn external<P: ?Sized>(found: Found<P>) -> Option<std::sync::Arc<External>> {
    match found {
        Found::External(external) => Some(external),
        Found::Linked(_) => None,
    }
}

/// A folder of that name with a package but without a manifest.
fn bare_package(places: &discovery::Places, name: &Name) -> Option<PathBuf> {
    let dirs = places.named_plugins.iter().chain(&places.plugins);
    let mut folders = dirs.filter_map(|dir| dir.join(name.as_str()).canonicalize().ok());
    folders.find(|dir| !dir.join(MANIFEST).exists() && discovery::is_python_package(dir))
}

/// What `plugins venv` made.
#[derive(Serialize)]
struct Ready<'a> {
    name: &'a str,
    venv: String,
    python: &'a str,
    built: bool,
}

fn build_venv(recipe: &Recipe, json: bool) -> Result<Exit, Exit> {
    let mut tell = |step: &str| complain_line(&format!("{}: {step}", recipe.name));
    let venv = venv::build(recipe, &mut tell)
        .map_err(|e| fail(Exit::Plugin, &format!("venv `{}`: {e}", recipe.name)))?;
    if json {
        return Ok(say_json(&Ready {
            name: recipe.name.as_str(),
            venv: venv.path.display().to_string(),
            python: &venv.python,
            built: venv.built,
        }));
    }
    let how = if venv.built { "built" } else { "nothing to do" };
    Ok(say(&format!(
        "{}: {how}; Python {}, plugin `{}`",
        venv.path.display(),
        venv.python,
        recipe.name
    )))
}
