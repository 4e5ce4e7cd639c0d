//! Discovery: the plugins that are not linked in.
//!
//! ```text
//! plugin folders ── plugin.toml ───────────────┐
//! venvs ── *.dist-info/entry_points.txt ───────┼─▶ External … ─▶ Registry::set_discovered
//! [python] interpreter ── asked once ──────────┘   Problem …  ─▶ the log, `plugins list`
//! ```
//!
//! The hard idea: discovery starts nothing it finds. A manifest is text, and so is what a venv says
//! of its packages; both are read as hostile input, bounded, and a broken one costs only itself. The
//! one program that is run is the configured interpreter, because only it knows where it looks for
//! packages; it says so in bounded time and bytes, and it runs no plugin for it.
//!
//! Which isolation a plugin can have follows from what it is: [`allowed`].

mod child;
mod entry_points;
mod files;
mod interpreter;
mod manifest;
mod matrix;
mod site_packages;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use visualpath_core::ViewSpec;

pub use child::{Answer, Bounds, RunError, Tail, run};
pub use entry_points::normalized;
pub use interpreter::{ask, ask_version};
pub use matrix::{ISOLATIONS, allowed, allowed_of, cells};
pub use site_packages::{read_venv, venv_python};

use crate::registry::Origin;
use crate::worker::Isolation;

/// Where packages of a device put plugin folders.
const SYSTEM_PLUGINS: &str = "/usr/lib/visualpath/plugins";
/// Directories that hold plugin folders, separated by colons.
pub const PLUGIN_PATH: &str = "VISUALPATH_PLUGIN_PATH";
/// The file that makes a folder a plugin.
pub const MANIFEST: &str = "plugin.toml";
/// Most entries read of one directory.
const MAX_ENTRIES: usize = 10_000;

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Looks at frames.
    Extractor,
    /// Makes triggers of observations.
    Fusion,
}

impl Kind {
    /// The word used in manifests and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Extractor => "extractor",
            Self::Fusion => "fusion",
        }
    }
}

/// What has to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// A program that speaks the worker protocol.
    Exec {
        /// The program, absolute, without links.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A class that the Python host finds and runs.
    Python {
        /// `package.module:Class`.
        entry_point: String,
    },
}

/// A plugin that is not linked in.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// The name the config refers to. From a manifest it is a name like all others; a Python entry
    /// point may have upper-case letters, `-` and `.` in it too.
    pub name: String,
    /// Its version; of a Python entry point that of its distribution, empty if that says none.
    pub version: String,
    /// What it does.
    pub kind: Kind,
    /// Where it was found.
    pub origin: Origin,
    /// What has to be started.
    pub launch: Launch,
    /// The view it wants, if its manifest says; else its `hello` or `ready` does.
    pub input: Option<ViewSpec>,
    /// The signals it declares; empty: it declares none.
    pub signals: Vec<String>,
    /// The weakest isolation it is content with.
    pub isolation: Isolation,
    /// The plugin's folder, without links. The Python host looks for modules there last.
    pub dir: Option<PathBuf>,
}

impl External {
    /// The venv it was found in.
    pub fn venv(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Venv(venv) => Some(venv),
            _ => None,
        }
    }

    /// The Python object to run, if it is a Python plugin.
    pub fn entry_point(&self) -> Option<&str> {
        match &self.launch {
            Launch::Python { entry_point } => Some(entry_point),
            Launch::Exec { .. } => None,
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Directories of plugin folders; one that is not there is no problem.
    pub plugins: Vec<PathBuf>,
    /// The same, but named by the operator: one that is not there is told.
    pub named_plugins: Vec<PathBuf>,
    /// Venvs.
    pub venvs: Vec<PathBuf>,
    /// The configured interpreter.
    pub interpreter: Option<PathBuf>,
}

impl Places {
    /// Those of this machine: `VISUALPATH_PLUGIN_PATH`, `<state_dir>/plugins`,
    /// `/usr/lib/visualpath/plugins`, and the venvs that `visualpath plugins venv` made.
    pub fn new(state_dir: &Path) -> Self {
        let path = std::env::var_os(PLUGIN_PATH).unwrap_or_default();
        Self {
            plugins: vec![state_dir.join("plugins"), PathBuf::from(SYSTEM_PLUGINS)],
            named_plugins: std::env::split_paths(&path)
                .filter(|dir| !dir.as_os_str().is_empty())
                .collect(),
            venvs: made_venvs(state_dir),
            interpreter: None,
        }
    }
}

/// Where `visualpath plugins venv` makes the venv of a plugin.
pub fn venv_dir(state_dir: &Path, plugin: &str) -> PathBuf {
    state_dir.join("venvs").join(plugin)
}

/// What does not exist yet is no problem; what can't be read is told when it is used.
fn made_venvs(state_dir: &Path) -> Vec<PathBuf> {
    let Ok(names) = files::names(&state_dir.join("venvs"), MAX_ENTRIES) else {
        return Vec::new();
    };
    names
        .into_iter()
        .map(|name| state_dir.join("venvs").join(name))
        .filter(|dir| dir.is_symlink() || dir.join("pyvenv.cfg").is_file())
        .collect()
}

/// Everything found, and what was wrong.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// The plugins, in the order of places, then of names.
    pub externals: Vec<External>,
    /// What could not be read, or not be read in full.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The plugin it is about, as far as that is known; else the name of its folder.
    pub plugin: Option<String>,
    /// The venv it is about.
    pub venv: Option<PathBuf>,
    /// What.
    pub error: DiscoveryError,
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DiscoveryError {
    /// A manifest is wrong.
    #[error("{}", lines(.0))]
    Manifest(Vec<Finding>),
    /// A file or directory can't be read.
    #[error("{}: {message}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// Not a venv, or a broken one.
    #[error("{}: {message}", path.display())]
    Venv {
        /// Its directory.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// One installed distribution, or an entry point of it, can't be used; the others can.
    #[error("{}: {message}", path.display())]
    Distribution {
        /// The file at fault.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The configured interpreter did not say what it has.
    #[error("{}: {message}", path.display())]
    Interpreter {
        /// The interpreter.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
}

impl DiscoveryError {
    /// Whether every other plugin of the same place could be read all the same, and this is about
    /// something the appliance did not bring there.
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::Distribution { .. })
    }
}

/// One fault of a manifest: `file:line:column: error: key: message; hint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The manifest.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key at fault; empty for the whole file.
    pub key: String,
    /// What was expected and what is there.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, line, column) = (self.file.display(), self.line, self.column);
        write!(f, "{file}:{line}:{column}: error: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    lines.join("\n")
}

/// Looks everywhere. Never fails: what is broken is a [`Problem`], the rest is found.
pub fn discover(places: &Places) -> Discovered {
    let mut found = Discovered::default();
    let mut seen = Vec::new();
    for dir in &places.named_plugins {
        plugin_folders(dir, true, &mut seen, &mut found);
    }
    for dir in &places.plugins {
        plugin_folders(dir, false, &mut seen, &mut found);
    }
    let mut seen = Vec::new();
    for venv in &places.venvs {
        if is_new(venv, &mut seen) {
            read_venv(venv, &mut found);
        }
    }
    if let Some(interpreter) = &places.interpreter {
        ask(interpreter, &mut found);
    }
    found
}

/// Whether a directory was not looked at yet under this or another name.
fn is_new(dir: &Path, seen: &mut Vec<PathBuf>) -> bool {
    let dir = resolved(dir);
    let new = !seen.contains(&dir);
    if new {
        seen.push(dir);
    }
    new
}

/// Without links; as it is if it is not there.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Every plugin folder of a directory.
fn plugin_folders(dir: &Path, named: bool, seen: &mut Vec<PathBuf>, found: &mut Discovered) {
    if !is_new(dir, seen) {
        return;
    }
    let names = match files::names(dir, MAX_ENTRIES) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return,
        Err(e) => {
            let message = if named {
                format!("{e}; {PLUGIN_PATH} names it")
            } else {
                e.to_string()
            };
            let path = dir.to_owned();
            found.problem(None, DiscoveryError::Read { path, message });
            return;
        }
    };
    for name in names {
        let folder = dir.join(&name);
        let file = folder.join(MANIFEST);
        // A Python package that was put there for `plugins venv` needs no manifest, and a file
        // that lies about is nobody's business.
        if !folder.is_dir() || (!exists(&file) && is_python_package(&folder)) {
            continue;
        }
        match manifest::read(&file) {
            Ok(external) => found.externals.push(external),
            Err((named, error)) => {
                let plugin = named.unwrap_or_else(|| name.to_string_lossy().into_owned());
                found.problem(Some(plugin), error);
            }
        }
    }
}

/// Also if it is a link to nowhere: that is a broken manifest, not none.
fn exists(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

/// Whether a folder holds something that pip can install.
pub fn is_python_package(folder: &Path) -> bool {
    let sources = ["requirements.lock", "requirements.txt", "pyproject.toml"];
    sources.iter().any(|name| folder.join(name).is_file())
        || files::names(folder, MAX_ENTRIES).is_ok_and(|names| {
            names
                .iter()
                .any(|n| Path::new(n).extension() == Some("whl".as_ref()))
        })
}

impl Discovered {
    fn problem(&mut self, plugin: Option<String>, error: DiscoveryError) {
        self.problems.push(Problem {
            plugin,
            venv: None,
            error,
        });
    }
}
