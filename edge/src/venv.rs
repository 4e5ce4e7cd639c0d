//! `visualpath plugins venv`: the venv of a Python plugin, built or repaired.
//!
//! ```text
//! plugin folder ─ requirements.lock | requirements.txt | wheel | pyproject ─┐
//! visualpath-edge ─ --sdk | --wheels ───────────────────────────────────────┼▶ .face.8 ─ pip check ─ import ─▶ face → .face.8
//! Python ───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The hard idea: a venv can't be moved, because its scripts hold its absolute path, and it can't
//! be built in place, because a worker may be running from it or be restarted at any moment. So
//! each build is a directory of its own that never moves (`.face.8`), and `face` is a link to the
//! newest good one, switched in one step after everything was tried. Whatever goes wrong before,
//! also power loss, leaves the link at the old one. The build before is kept until the next, so that
//! workers which run from it go on.
//!
//! The SDK is installed first and the plugin's requirements over it, so that a lock file has the
//! last word; whether the SDK can live with that is what `pip check` is for.

mod inputs;
mod shelf;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use visualpath_core::Name;
use visualpath_platform::discovery::{
    self, Bounds, Discovered, RunError, Tail, ask_version, read_venv,
};

use inputs::{Inputs, Package, Sdk};
use shelf::Shelf;

/// The name of the Python SDK's distribution.
const SDK: &str = "visualpath-edge";
/// Says in a venv what it was made of.
const STAMP: &str = "visualpath-venv.json";
/// Of what pip says when it fails.
const SHOWN_LINES: usize = 15;
const KEEP_BYTES: usize = 1 << 20;
/// What pip says when there is nothing to build with.
const UNBUILT: [&str; 2] = ["bdist_wheel", "BackendUnavailable"];
/// Hang guards, not expectations: wheels may be compiled on a slow board.
const PIP_TIMEOUT: Duration = Duration::from_secs(3600);
const PYTHON_TIMEOUT: Duration = Duration::from_secs(600);

/// Imports the SDK's host and, as that does, every entry point given after the plugin's folder.
const IMPORT: &str = r"
import importlib, sys
if sys.argv[1]:
    sys.path.append(sys.argv[1])
import visualpath_edge.worker
from visualpath_edge import shims
shims.install()
for point in sys.argv[2:]:
    module, _, attribute = point.partition(':')
    thing = importlib.import_module(module)
    for part in attribute.split('.'):
        thing = getattr(thing, part)
";

/// What to make a venv of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The plugin's name, and the venv's.
    pub name: Name,
    /// The venv is made under `<state_dir>/venvs`.
    pub state_dir: PathBuf,
    /// The plugin's folder.
    pub folder: PathBuf,
    /// The object its manifest names; without a manifest whatever its package offers.
    pub entry_point: Option<String>,
    /// The Python to make it with: a path, or a name in `PATH`.
    pub python: PathBuf,
    /// Offline: packages come from this directory only.
    pub wheels: Option<PathBuf>,
    /// The SDK's wheel or source directory.
    pub sdk: Option<PathBuf>,
}

/// A venv that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Venv {
    /// `<state_dir>/venvs/<name>`.
    pub path: PathBuf,
    /// Version of its Python.
    pub python: String,
    /// False if it was there already, made of the same, and still worked.
    pub built: bool,
}

/// Why there is no new venv. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum VenvError {
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// Two at once.
    #[error("another `visualpath plugins venv {0}` is at work; wait for it to end")]
    Busy(Name),
    /// Something else is in the venv's place.
    #[error(
        "{} was not made by `visualpath plugins venv`; move it away, or name it in the config \
         (`venv = \"…\"`)", .0.display()
    )]
    NotOurs(PathBuf),
    /// Python can't be used.
    #[error("{}: {message}; choose another with --python", python.display())]
    Python {
        /// Which.
        python: PathBuf,
        /// Why.
        message: String,
    },
    /// No SDK.
    #[error(
        "there is no wheel of {SDK} in {}; give --sdk PATH, or --wheels DIR with one in it",
        list(.0)
    )]
    NoSdk(Vec<PathBuf>),
    /// The plugin's folder holds too much, or what it holds is ambiguous.
    #[error("{}: {message}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What, and what to do.
        message: String,
    },
    /// A step failed.
    #[error("{step} failed: {why}{}", shown(.lines))]
    Step {
        /// Which.
        step: String,
        /// How, and what to do.
        why: String,
        /// The last lines it said.
        lines: Vec<String>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

fn shown(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> VenvError {
    let path = path.to_owned();
    move |error| VenvError::Io { path, error }
}

/// What a venv was made of.
#[derive(Serialize, Deserialize)]
struct Stamp {
    /// See [`inputs::fingerprint`].
    inputs: String,
    /// Version of its Python.
    python: String,
}

/// Builds the venv, or finds that there is nothing to do. `tell` hears of each step.
///
/// # Errors
/// Why not; then the venv that was there is untouched.
pub fn build(recipe: &Recipe, tell: &mut dyn FnMut(&str)) -> Result<Venv, VenvError> {
    let python = ask_version(&recipe.python).map_err(|message| VenvError::Python {
        python: recipe.python.clone(),
        message,
    })?;
    let inputs = inputs::find(recipe)?;
    let stamp = Stamp {
        inputs: inputs::fingerprint(recipe, &inputs, &python)?,
        python: python.clone(),
    };
    let shelf = Shelf::open(&recipe.state_dir, &recipe.name)?;
    let venv = |built| Venv {
        path: shelf.link(),
        python: python.clone(),
        built,
    };
    if let Some(current) = shelf.current()? {
        let same = read_stamp(&current).is_some_and(|old| old.inputs == stamp.inputs);
        match same.then(|| try_imports(recipe, &current)) {
            Some(Ok(())) => return Ok(venv(false)),
            Some(Err(why)) => tell(&format!("it is damaged: {why}")),
            None => tell("what it is made of has changed"),
        }
    }
    let draft = shelf.begin()?;
    let kitchen = Kitchen {
        recipe,
        dir: draft.dir(),
    };
    kitchen.cook(&inputs, tell)?;
    write_stamp(draft.dir(), &stamp)?;
    draft.publish()?;
    Ok(venv(true))
}

fn read_stamp(venv: &Path) -> Option<Stamp> {
    let text = fs::read_to_string(venv.join(STAMP)).ok()?;
    serde_json::from_str(&text).ok()
}

fn write_stamp(venv: &Path, stamp: &Stamp) -> Result<(), VenvError> {
    let path = venv.join(STAMP);
    let json = serde_json::to_vec(stamp).map_err(|e| io(&path)(e.into()))?;
    let mut file = fs::File::create(&path).map_err(io(&path))?;
    file.write_all(&json).map_err(io(&path))
}

/// One build.
struct Kitchen<'r> {
    recipe: &'r Recipe,
    /// The venv that is being made.
    dir: &'r Path,
}

impl Kitchen<'_> {
    fn cook(&self, inputs: &Inputs, tell: &mut dyn FnMut(&str)) -> Result<(), VenvError> {
        tell("making an empty venv");
        self.empty()?;
        tell(&format!("installing {SDK}"));
        match &inputs.sdk {
            Sdk::Wheels(dir) => {
                let from = ["--find-links".as_ref(), dir.as_os_str()];
                self.install(&format!("installing {SDK}"), |pip| pip.args(from).arg(SDK))?;
            }
            Sdk::Path(path) => self.install_path(path, &format!("installing {SDK}"), false)?,
        }
        if let Some(requirements) = &inputs.requirements {
            let step = format!("installing {}", requirements.display());
            tell(&step);
            self.install(&step, |pip| pip.arg("-r").arg(requirements))?;
        }
        // What the package needs is in its requirements file, if there is one.
        let complete = inputs.requirements.is_some();
        if let Some(package) = &inputs.package {
            tell("installing the plugin's package");
            let step = "installing the plugin's package";
            match package {
                Package::Wheel(path) | Package::Source(path) => {
                    self.install_path(path, step, complete)?;
                }
                Package::Named(name) => self.install(step, |pip| {
                    pip.args(complete.then_some("--no-deps")).arg(name)
                })?,
            }
        }
        tell("checking it");
        run("pip check", self.pip("check"), PIP_TIMEOUT, |_| {
            "packages do not fit each other; change the plugin's requirements".to_owned()
        })?;
        try_imports(self.recipe, self.dir).map(drop)
    }

    fn empty(&self) -> Result<(), VenvError> {
        let mut command = Command::new(&self.recipe.python);
        command.args(["-I", "-m", "venv"]).arg(self.dir);
        run(
            "making an empty venv",
            command,
            PYTHON_TIMEOUT,
            |said| match said.contains("ensurepip") {
                true => "this Python lacks ensurepip; install the system's package of it \
                         (Debian: python3-venv)"
                    .to_owned(),
                false => format!("`{} -m venv`", self.recipe.python.display()),
            },
        )
    }

    /// Installs a wheel as it is, or a source directory from a copy: building writes into it.
    fn install_path(&self, path: &Path, step: &str, complete: bool) -> Result<(), VenvError> {
        let no_deps = complete.then_some("--no-deps");
        if path.is_file() {
            return self.install(step, |pip| pip.args(no_deps).arg(path));
        }
        let copy = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
        inputs::copy(path, copy.path())?;
        // Offline an isolated build finds its tools only if they are among the wheels.
        let tools = match &self.recipe.wheels {
            Some(wheels) if !inputs::has_wheel(wheels, "setuptools") => {
                Some("--no-build-isolation")
            }
            _ => None,
        };
        self.install(step, |pip| pip.args(no_deps).args(tools).arg(copy.path()))
    }

    fn install(
        &self,
        step: &str,
        what: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<(), VenvError> {
        let mut pip = self.pip("install");
        pip.args(["--progress-bar", "off"]);
        if let Some(wheels) = &self.recipe.wheels {
            pip.args(["--no-index", "--find-links"]).arg(wheels);
        }
        what(&mut pip);
        let offline = self.recipe.wheels.as_ref();
        run(step, pip, PIP_TIMEOUT, |said| match offline {
            Some(wheels) if said.contains("No matching distribution") => {
                format!("a wheel is missing in {}", wheels.display())
            }
            Some(wheels) if UNBUILT.iter().any(|sign| said.contains(sign)) => {
                format!(
                    "it can't be built offline; put its wheel, or that of its build tool, into {}",
                    wheels.display()
                )
            }
            Some(_) => "offline, with --wheels".to_owned(),
            None => "without network use --wheels DIR".to_owned(),
        })
    }

    fn pip(&self, verb: &str) -> Command {
        let mut pip = Command::new(python_of(self.dir));
        pip.args([
            "-I",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "--no-color",
        ]);
        pip.arg(verb).current_dir(&self.recipe.folder);
        // Where to install is not for the environment to say.
        for name in [
            "PIP_USER",
            "PIP_TARGET",
            "PIP_PREFIX",
            "PIP_ROOT",
            "PIP_DRY_RUN",
        ] {
            pip.env_remove(name);
        }
        pip
    }
}

fn python_of(venv: &Path) -> PathBuf {
    venv.join("bin").join("python")
}

/// Whether the SDK and the plugin can be imported in a venv.
fn try_imports(recipe: &Recipe, venv: &Path) -> Result<(), VenvError> {
    let points = match &recipe.entry_point {
        Some(point) => vec![point.clone()],
        None => entry_points(venv)?,
    };
    let mut command = Command::new(python_of(venv));
    command.args(["-I", "-c", IMPORT]);
    match recipe.entry_point {
        Some(_) => command.arg(&recipe.folder),
        None => command.arg(""),
    };
    command.args(&points);
    let step = format!("importing {SDK} and {}", points.join(", "));
    run(&step, command, PYTHON_TIMEOUT, |_| {
        "the plugin does not start in this venv".to_owned()
    })
}

/// What a package without a manifest offers.
fn entry_points(venv: &Path) -> Result<Vec<String>, VenvError> {
    let mut found = Discovered::default();
    read_venv(venv, &mut found);
    let points: Vec<String> = found
        .externals
        .iter()
        .filter_map(|e| e.entry_point().map(str::to_owned))
        .collect();
    if points.is_empty() {
        return Err(VenvError::Step {
            step: "looking for plugins in the venv".to_owned(),
            why: "no package in it has an entry point in the groups visualpath.extractors or \
                  visualpath.fusions"
                .to_owned(),
            lines: found.problems.iter().map(|p| p.error.to_string()).collect(),
        });
    }
    Ok(points)
}

fn run(
    step: &str,
    command: Command,
    timeout: Duration,
    hint: impl FnOnce(&str) -> String,
) -> Result<(), VenvError> {
    let bounds = Bounds {
        timeout,
        keep_bytes: KEEP_BYTES,
        own_group: false,
    };
    let failed = |why: String, lines: Vec<String>| VenvError::Step {
        step: step.to_owned(),
        why,
        lines,
    };
    match discovery::run(command, bounds) {
        Ok(answer) if answer.status.success() => Ok(()),
        Ok(answer) => {
            // pip says errors on one, `pip check` on the other.
            let said = |tail: &Tail| tail.last_lines(SHOWN_LINES);
            let lines = match said(&answer.stderr) {
                lines if lines.is_empty() => said(&answer.stdout),
                lines => lines,
            };
            let text = answer.stderr.text() + &answer.stdout.text();
            Err(failed(hint(&text), lines))
        }
        Err(e) => {
            let why = e.to_string();
            let lines = match e {
                RunError::TimedOut { said, .. } => said,
                RunError::Start { .. } | RunError::Watch { .. } => Vec::new(),
            };
            Err(failed(why, lines))
        }
    }
}
