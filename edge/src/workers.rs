//! How this process starts workers: which program, in which sandbox, with which environment.
//!
//! What is spawned is always the `visualpath` program as the stage (`visualpath worker`): it puts
//! itself into the sandbox, then becomes the plugin, or goes on as it where the plugin is built in.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};

use visualpath_core::{
    Extractor, ExtractorPlugin, PluginContext, PluginError, ViewFormat, ViewSpec,
};
use visualpath_platform::discovery::{self, External, Launch};
use visualpath_platform::isolation::Program;
use visualpath_platform::{Found, Isolation, Origin, Registry};
use visualpath_sandbox::{
    Delegation, Exec, LayerState, Policy, STAGE_ENV, Stage, StageError, Trust, WorkerCgroup,
};

use crate::config::{self, Config, ExtractorConfig, FusionWorker, SandboxConfig};

/// What a worker process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    /// A plugin linked into this program, by name.
    BuiltIn(String),
    /// Another program.
    Other {
        /// Absolute path.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Directories it needs to read: its own, its venv's, its interpreter's.
        read: Vec<PathBuf>,
    },
}

/// Why a worker process can't be started here at all.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The program that is the stage.
    #[error("no `visualpath` program is found to start worker processes with: put it beside {}, into PATH, or name it in VISUALPATH_WORKER", .0.display())]
    NoProgram(PathBuf),
    /// Its working directory.
    #[error("{}: {error}: a worker process needs it as its working directory", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What the stage is told.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A layer that it must not run without.
    #[error("trust = \"untrusted\" needs what does not work here: {layer}")]
    Mandatory {
        /// Which, why, and what to do.
        layer: String,
    },
}

/// Names the stage's program where it is not found by itself.
const PROGRAM_ENV: &str = "VISUALPATH_WORKER";

/// Counts cgroups, so that no two have one name.
static LEAVES: AtomicU64 = AtomicU64::new(0);

/// Threads and processes of one worker at most, where there are cgroups.
const MOST_TASKS: u64 = 512;

/// The cgroup that the service manager handed over, looked for once. Only a service has one to give
/// away: a program that was started by hand shares its cgroup with others.
fn cgroups() -> &'static Result<Delegation, String> {
    static CGROUPS: OnceLock<Result<Delegation, String>> = OnceLock::new();
    CGROUPS.get_or_init(|| {
        if std::env::var_os("INVOCATION_ID").is_none() {
            return Err("not started as a service".to_owned());
        }
        let mut delegation = Delegation::look().map_err(|e| e.to_string())?;
        delegation.prepare().map_err(|e| e.to_string())?;
        Ok(delegation)
    })
}

/// Says once which layers of the sandbox work here.
fn tell_layers() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        for layer in visualpath_sandbox::probe() {
            match &layer.state {
                LayerState::Working(how) => {
                    tracing::debug!(layer = %layer.name, how, "sandbox layer works");
                }
                LayerState::Missing { why, fix } => {
                    tracing::info!(layer = %layer.name, why, fix, "sandbox layer is missing: workers run without it");
                }
            }
        }
        if let Err(why) = cgroups() {
            tracing::debug!(why, "workers have no cgroups of their own");
        }
    });
}

/// What the config grants a worker.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    /// How much it is trusted.
    pub trust: config::Trust,
    /// Devices it may use.
    pub devices: &'a [PathBuf],
    /// What else it may do.
    pub sandbox: &'a SandboxConfig,
}

impl<'a> From<&'a ExtractorConfig> for Rights<'a> {
    fn from(settings: &'a ExtractorConfig) -> Self {
        Self {
            trust: settings.trust,
            devices: &settings.devices,
            sandbox: &settings.sandbox,
        }
    }
}

impl<'a> From<&'a FusionWorker> for Rights<'a> {
    fn from(settings: &'a FusionWorker) -> Self {
        Self {
            trust: settings.trust,
            devices: &[],
            sandbox: &settings.sandbox,
        }
    }
}

/// How this process starts workers.
#[derive(Debug, Clone)]
pub struct Host {
    program: PathBuf,
    work_dir: PathBuf,
    model_dirs: Vec<PathBuf>,
}

impl Host {
    /// For the workers of a config.
    ///
    /// # Errors
    /// If the stage's program is not found.
    pub fn new(config: &Config) -> Result<Self, HostError> {
        tell_layers();
        Ok(Self {
            program: stage_program()?,
            work_dir: config.device.state_dir.join("work"),
            model_dirs: crate::pipeline::plan::model_dirs(config),
        })
    }

    /// With the workers' directories somewhere else: for verbs that try something out.
    #[must_use]
    pub fn in_directory(mut self, work_dir: &Path) -> Self {
        work_dir.clone_into(&mut self.work_dir);
        self
    }

    /// The program of one worker, to be started again and again. `place` names its working directory
    /// and is that of no other.
    ///
    /// # Errors
    /// If it could not be started even once.
    pub fn program(
        &self,
        runs: &Runs,
        place: &str,
        rights: &Rights<'_>,
    ) -> Result<Program, HostError> {
        let directory = self.directory(place)?;
        let policy = self.policy(runs, rights)?;
        let environment = environment(matches!(runs, Runs::BuiltIn(_)));
        let (program, runs) = (self.program.clone(), runs.clone());
        let (args, exec) = match runs {
            Runs::BuiltIn(plugin) => (vec!["--plugin".to_owned(), plugin], None),
            Runs::Other { program, args, .. } => (Vec::new(), Some((program, args))),
        };
        let memory = policy.memory_bytes;
        let place = place.to_owned();
        // Of the incarnation that runs; the one before is removed before the next is made.
        let mut cgroup: Option<WorkerCgroup> = None;
        Ok(Box::new(move |meet| {
            drop(cgroup.take());
            if let Ok(delegation) = cgroups() {
                // One of a worker that is about to leave may still be there.
                let leaf = format!("{place}-{}", LEAVES.fetch_add(1, Ordering::Relaxed));
                let made = delegation.worker(&leaf, memory, MOST_TASKS);
                cgroup = Some(made.map_err(io::Error::other)?);
            }
            // What the plugin finds, whether it is exec'ed or this program itself.
            let mut environment = environment.clone();
            environment.extend(meet.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            let stage = Stage {
                policy: Policy {
                    cgroup: cgroup.as_ref().map(|c| c.path().to_path_buf()),
                    ..policy.clone()
                },
                dir: directory.clone(),
                exec: exec.clone().map(|(program, args)| Exec {
                    program,
                    args,
                    env: environment.clone(),
                }),
                parent_pid: std::process::id(),
                socket_on_stdin: true,
            };
            let mut command = Command::new(&program);
            command
                .arg("worker")
                .args(&args)
                .env_clear()
                .envs(environment)
                .env(STAGE_ENV, stage.to_env().map_err(io::Error::other)?);
            Ok(command)
        }))
    }

    /// The worker's own directory, which stays over restarts: caches that libraries write there are
    /// found again.
    fn directory(&self, place: &str) -> Result<PathBuf, HostError> {
        let path = self.work_dir.join(place);
        let failed = |error| HostError::Directory {
            path: path.clone(),
            error,
        };
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed)?;
        path.canonicalize().map_err(failed)
    }

    fn policy(&self, runs: &Runs, rights: &Rights<'_>) -> Result<Policy, HostError> {
        let mut read = self.model_dirs.clone();
        read.extend(runtime_dirs());
        read.push(self.program.clone());
        if let Runs::Other {
            program, read: own, ..
        } = runs
        {
            read.push(program.clone());
            read.extend(own.iter().cloned());
        }
        read.extend(rights.sandbox.read.iter().cloned());
        // One that is not there needs no grant.
        let mut read: Vec<PathBuf> = read.iter().filter_map(|p| p.canonicalize().ok()).collect();
        read.sort();
        read.dedup();
        let memory = rights
            .sandbox
            .memory_mb
            .map(|mb| mb << 20)
            .or_else(half_of_memory);
        let policy = Policy {
            trust: match rights.trust {
                crate::config::Trust::Normal => Trust::Normal,
                crate::config::Trust::Untrusted => Trust::Untrusted,
            },
            read,
            write: rights.sandbox.write.clone(),
            devices: rights.devices.to_vec(),
            memory_bytes: memory,
            network: rights.sandbox.network,
            processes: rights.sandbox.processes,
            ..Policy::default()
        };
        if policy.trust == Trust::Untrusted {
            let layers = visualpath_sandbox::probe();
            if let Some(layer) = policy.mandatory_missing(&layers).first() {
                return Err(HostError::Mandatory {
                    layer: layer.to_string(),
                });
            }
        }
        Ok(policy)
    }
}

/// The weakest isolation that a plugin which is not linked in is content with.
pub fn recommended(external: &External) -> config::Isolation {
    match (external.isolation, external.venv()) {
        (Isolation::Venv, _) | (_, Some(_)) => config::Isolation::Venv,
        _ => config::Isolation::Process,
    }
}

/// Whether a plugin was registered by the app, and so is not known to the program of workers.
pub fn is_the_apps(registry: &Registry, plugin: &str) -> bool {
    let all = registry.extractors();
    all.iter()
        .any(|(origin, p)| *origin == Origin::App && p.name() == plugin)
}

/// What the process of a plugin runs at this isolation; the error is a key of the extractor (or
/// fusion) and what is wrong with it.
///
/// # Errors
/// If there is no interpreter for a Python plugin.
pub fn runs<P: ?Sized>(
    found: &Found<P>,
    isolation: Isolation,
    venv: Option<&Path>,
    config: &Config,
    name: &str,
) -> Result<Runs, (&'static str, String)> {
    let external = match found {
        Found::Linked(_) => return Ok(Runs::BuiltIn(name.to_owned())),
        Found::External(external) => external,
    };
    let folder = external.dir.clone();
    match &external.launch {
        Launch::Exec { program, args } => Ok(Runs::Other {
            program: program.clone(),
            args: args.clone(),
            read: folder.into_iter().collect(),
        }),
        Launch::Python { entry_point } => {
            let interpreter = if isolation == Isolation::Venv {
                let made = || discovery::venv_dir(&config.device.state_dir, &external.name);
                let venv = venv.or(external.venv());
                let venv = venv.map_or_else(made, Path::to_path_buf);
                let python = discovery::venv_python(&venv);
                if !python.exists() {
                    let name = &external.name;
                    let why = format!(
                        "{} is no venv: make one with `visualpath plugins venv {name}`, or name one",
                        venv.display()
                    );
                    return Err(("venv", why));
                }
                python
            } else {
                let wanted = "a Python plugin in a process needs `[python] interpreter`; or use isolation = \"venv\"";
                let interpreter = config.python.interpreter.clone();
                interpreter.ok_or_else(|| ("isolation", wanted.to_owned()))?
            };
            let kind = external.kind.as_str();
            Ok(python(&interpreter, kind, entry_point, folder))
        }
    }
}

/// A Python plugin, by `module:Class`; `folder` is where its modules are if not installed.
pub fn python(interpreter: &Path, kind: &str, entry_point: &str, folder: Option<PathBuf>) -> Runs {
    // -I: nothing of the appliance's Python is this one's.
    let words = ["-I", "-m", "visualpath_edge.worker", "--kind", kind];
    let words = words.into_iter().chain(["--entry-point", entry_point]);
    let mut args: Vec<String> = words.map(str::to_owned).collect();
    let mut read = interpreter_dirs(interpreter);
    if let Some(folder) = folder {
        args.extend(["--path".to_owned(), folder.to_string_lossy().into_owned()]);
        read.push(folder);
    }
    Runs::Other {
        program: interpreter.to_path_buf(),
        args,
        read,
    }
}

/// What an interpreter reads: its venv, and the Python that the venv was made from. Never a directory
/// in which others' things are, such as `/` for `/bin/python3`: the system's own is granted anyway.
fn interpreter_dirs(interpreter: &Path) -> Vec<PathBuf> {
    let prefix_of = |path: &Path| path.parent().and_then(Path::parent).map(Path::to_path_buf);
    // bin/python of a venv is a link to the one it was made from.
    let real = interpreter.canonicalize().ok();
    let prefixes = [Some(interpreter.to_path_buf()), real];
    let prefixes = prefixes.into_iter().flatten();
    let is_python =
        |prefix: &PathBuf| prefix.join("pyvenv.cfg").is_file() || has_standard_library(prefix);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    prefixes
        .filter_map(|p| prefix_of(&p))
        .filter(|prefix| prefix.parent().is_some() && Some(prefix) != home.as_ref())
        .filter(is_python)
        .collect()
}

/// Whether `lib/python3.*/os.py` is there.
fn has_standard_library(prefix: &Path) -> bool {
    let Ok(entries) = fs::read_dir(prefix.join("lib")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("python3") && entry.path().join("os.py").is_file()
    })
}

/// A plugin that is not linked in, as far as its manifest says.
struct Elsewhere(Arc<External>);

impl ExtractorPlugin for Elsewhere {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn version(&self) -> &str {
        &self.0.version
    }

    fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
        // What a Python extractor expects that says nothing; the process may say otherwise.
        let bgr = ViewSpec {
            format: ViewFormat::Bgr,
            ..ViewSpec::default()
        };
        let default = match self.0.launch {
            Launch::Python { .. } => bgr,
            Launch::Exec { .. } => ViewSpec::default(),
        };
        Ok(self.0.input.unwrap_or(default))
    }

    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(self.0.signals.clone())
    }

    fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        Err(PluginError::Runtime {
            runtime: "inline".to_owned(),
            message: "this plugin runs in a process of its own only".to_owned(),
        })
    }
}

/// What plans are made with.
pub fn as_plugin(found: Found) -> Arc<dyn ExtractorPlugin> {
    match found {
        Found::Linked(plugin) => plugin,
        Found::External(external) => Arc::new(Elsewhere(external)),
    }
}

/// This program, or the one installed beside the app that uses the library.
fn stage_program() -> Result<PathBuf, HostError> {
    let named = std::env::var_os(PROGRAM_ENV).filter(|p| !p.is_empty());
    if let Some(named) = named {
        return Ok(named.into());
    }
    let this = std::env::current_exe().unwrap_or_default();
    if this.file_name().is_some_and(|n| n == "visualpath") {
        return Ok(this);
    }
    let beside = this.ancestors().skip(1).take(2).map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = beside.chain(std::env::split_paths(&path));
    let mut programs = dirs.map(|d| d.join("visualpath"));
    programs
        .find(|p| p.is_file())
        .ok_or(HostError::NoProgram(this))
}

/// Variables a worker may know; secrets of the appliance are not among them.
const KNOWN: &[&str] = &[
    "PATH",
    "LANG",
    "TZ",
    "LD_LIBRARY_PATH",
    "ORT_DYLIB_PATH",
    "RUST_BACKTRACE",
    "VISUALPATH_MODEL_PATH",
];
/// … and those that begin so.
const FAMILIES: &[&str] = &[
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "MKL_",
    "PYTHON",
    "NUMBA_",
    "TORCH_",
];

fn environment(built_in: bool) -> Vec<(String, String)> {
    let known = |name: &str| KNOWN.contains(&name) || FAMILIES.iter().any(|f| name.starts_with(f));
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        // One that is no text is none that a worker needs.
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| known(name))
        .collect();
    if let Some(cache) = cache_home().filter(|_| built_in) {
        // HOME is the worker's own directory; models and the inference runtime are in the user's.
        let cache = cache.to_string_lossy().into_owned();
        variables.push(("XDG_CACHE_HOME".to_owned(), cache));
    }
    variables
}

fn cache_home() -> Option<PathBuf> {
    let set = |name: &str| -> Option<OsString> { std::env::var_os(name).filter(|v| !v.is_empty()) };
    set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|h| PathBuf::from(h).join(".cache")))
}

/// Where the inference runtime's library may lie.
fn runtime_dirs() -> Vec<PathBuf> {
    let cache = cache_home().map(|c| c.join("visualpath"));
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let linked = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    cache
        .into_iter()
        .chain(named)
        .chain(std::env::split_paths(&linked).filter(|p| p.is_absolute()))
        .collect()
}

fn half_of_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024 / 2)
}

/// The whole of `visualpath worker`: into the sandbox, then the plugin. Called before anything else
/// in `main`, while there is one thread.
pub fn main(arguments: &[OsString]) -> ExitCode {
    // With a program to become it does not return.
    let _entered = visualpath_sandbox::enter_or_exit();
    let plugin = match arguments {
        [flag, plugin] if flag == "--plugin" => plugin.to_string_lossy(),
        _ => return complain("`visualpath worker` is started by visualpath itself"),
    };
    let registry = match crate::builtin::registry() {
        Ok(registry) => registry,
        Err(e) => return complain(&e.to_string()),
    };
    if plugin == crate::bench::isolation::GLANCE
        && let Err(e) =
            registry.register_extractor(Origin::BuiltIn, crate::bench::isolation::plugin())
    {
        return complain(&e.to_string());
    }
    log_to_stderr();
    serve(&registry, &plugin)
}

fn serve(registry: &Registry, plugin: &str) -> ExitCode {
    match registry.extractor(plugin) {
        Ok(plugin) => match visualpath_plugin::serve(plugin) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                complain(&e.to_string());
                ExitCode::from(e.exit_code())
            }
        },
        Err(e) => complain(&e.to_string()),
    }
}

/// One line, which the parent logs.
fn complain(text: &str) -> ExitCode {
    #[expect(clippy::print_stderr, reason = "standard error is a worker's log")]
    {
        eprintln!("ERROR {text}");
    }
    ExitCode::FAILURE
}

/// Lines that begin with their level, as the parent reads them.
fn log_to_stderr() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_max_level(tracing::Level::INFO)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        complain("the log was set up twice");
    }
}

/// The words of the config as the platform's.
pub fn isolation(isolation: crate::config::Isolation) -> Isolation {
    match isolation {
        crate::config::Isolation::Inline => Isolation::Inline,
        crate::config::Isolation::Thread => Isolation::Thread,
        crate::config::Isolation::Process => Isolation::Process,
        crate::config::Isolation::Venv => Isolation::Venv,
    }
}
