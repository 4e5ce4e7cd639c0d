//! ONNX Runtime, opened at run time where its library is found.
//!
//! One library and one environment per process, opened at the first use and kept until the end.
//! `ort` is built for API 17 (ONNX Runtime 1.17): the version it asks the library for is
//! `17 + one per enabled feature api-18…`, and calls newer than that are not even compiled, so any
//! library from 1.17 on will do.
//!
//! `Session::run` of `ort` wants the session for itself (its authors saw memory corruption with
//! concurrent runs of some execution providers), so those who share a model take turns. All that
//! touches the session or its memory happens within a turn: outputs are copied out of it.
//!
//! A library that is not there, too old, damaged or something else is an error here, never a
//! crash: [`crate::elf`] looks at the file before the loader may map it.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::CPU;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, TensorRef, ValueType};

use crate::backend::{
    Backend, DeclaredInput, InferError, LoadError, LoadOptions, Model, Outputs, RuntimeInfo,
    Session, TensorView, check_input, panic_text, select_outputs,
};
use crate::elf;
use crate::locate::{ModelFile, cache_dir};
use crate::turn::TurnLock;

const NAME: &str = "onnxruntime";
/// The oldest library that has every call compiled in: feature `api-17`.
const OLDEST_MINOR: u32 = ort::MINOR_VERSION;
const SYSTEM_DIR: &str = "/usr/lib/visualpath";
const LIBRARY: &str = "libonnxruntime.so";
/// Most files of one directory that are looked at.
const MAX_ENTRIES: usize = 1000;

/// Where a library may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Candidate {
    /// Named by the user: nothing else is tried.
    Asked(PathBuf),
    /// Found in one of our directories.
    Found(PathBuf),
    /// Left to the system's loader.
    Loader(&'static str),
}

impl Candidate {
    fn path(&self) -> &Path {
        match self {
            Self::Asked(path) | Self::Found(path) => path,
            Self::Loader(name) => Path::new(name),
        }
    }
}

/// Where ONNX Runtime's library is looked for, in order: `ORT_DYLIB_PATH` (then nowhere else),
/// `runtime/libonnxruntime.so*` of the user's cache, `/usr/lib/visualpath/libonnxruntime.so*`, the
/// system's loader.
pub fn default_library_candidates() -> Vec<PathBuf> {
    candidates(None, |key| std::env::var_os(key))
        .iter()
        .map(|c| c.path().to_owned())
        .collect()
}

fn candidates(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Vec<Candidate> {
    if let Some(path) = explicit {
        return vec![Candidate::Asked(path.to_owned())];
    }
    if let Some(path) = env("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        return vec![Candidate::Asked(path.into())];
    }
    let cache = cache_dir(&env).map(|d| d.join("runtime"));
    let mut all: Vec<Candidate> = cache
        .into_iter()
        .chain([PathBuf::from(SYSTEM_DIR)])
        .flat_map(|dir| libraries_in(&dir))
        .map(Candidate::Found)
        .collect();
    all.push(Candidate::Loader(LIBRARY));
    all.push(Candidate::Loader("libonnxruntime.so.1"));
    all
}

/// `libonnxruntime.so` of `dir` first, then versioned names, the highest first; each file once.
fn libraries_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<(Vec<u32>, PathBuf)> = entries
        .take(MAX_ENTRIES)
        .filter_map(Result::ok)
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let rest = name.strip_prefix(LIBRARY)?;
            let plain = rest.is_empty();
            let version: Vec<u32> = rest.split('.').filter_map(|n| n.parse().ok()).collect();
            // The plain name is the administrator's choice: before any version.
            let rank = if plain { vec![u32::MAX] } else { version };
            Some((rank, e.path()))
        })
        .collect();
    names.sort_by(|a, b| b.cmp(a));
    let mut seen = Vec::new();
    names
        .into_iter()
        .map(|(_, path)| path)
        .filter(|path| {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            let new = !seen.contains(&real);
            seen.push(real);
            new
        })
        .collect()
}

/// ONNX Runtime, open.
#[derive(Debug, Clone)]
pub struct OrtBackend {
    environment: Environment,
    info: RuntimeInfo,
    /// As asked for, to notice a second, different wish.
    path: PathBuf,
}

/// What became of opening the library: once open (or half open), it stays so.
enum State {
    Closed,
    Open(OrtBackend),
    Broken(String),
}

static STATE: Mutex<State> = Mutex::new(State::Closed);

fn unavailable(message: String) -> LoadError {
    LoadError::Unavailable {
        runtime: NAME,
        message,
    }
}

impl OrtBackend {
    /// Opens the library at `explicit`, or the first of the usual places that works.
    pub fn open(explicit: Option<&Path>) -> Result<Self, LoadError> {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Open(open) => {
                if explicit.is_some_and(|asked| asked != open.path) {
                    return Err(unavailable(format!(
                        "{} is already open, and a process can open only one",
                        open.path.display()
                    )));
                }
                return Ok(open.clone());
            }
            State::Broken(message) => return Err(unavailable(message.clone())),
            State::Closed => {}
        }
        let candidates = candidates(explicit, |key| std::env::var_os(key));
        let mut tried = Vec::new();
        for candidate in &candidates {
            match open_library(candidate) {
                Ok(open) => {
                    *state = State::Open(open.clone());
                    return Ok(open);
                }
                Err(Opening::NotThis(message)) => {
                    if matches!(candidate, Candidate::Found(_)) {
                        tracing::warn!(library = %candidate.path().display(), "skipped: {message}");
                    }
                    tried.push(format!("{}: {message}", candidate.path().display()));
                }
                Err(Opening::Final(message)) => {
                    let message = format!("{}: {message}", candidate.path().display());
                    *state = State::Broken(message.clone());
                    return Err(unavailable(message));
                }
            }
        }
        Err(unavailable(format!(
            "{}; run cross/setup.sh, or set ORT_DYLIB_PATH to libonnxruntime.so of ONNX Runtime 1.{OLDEST_MINOR} or newer",
            tried.join("; ")
        )))
    }
}

/// Why a library did not open.
enum Opening {
    /// Another one may.
    NotThis(String),
    /// It is open but useless, and can't be exchanged any more.
    Final(String),
}

fn open_library(candidate: &Candidate) -> Result<OrtBackend, Opening> {
    let path = candidate.path();
    let mut version = None;
    if !matches!(candidate, Candidate::Loader(_)) {
        version = elf::inspect(path).map_err(Opening::NotThis)?;
        if let Some(version) = version.as_deref().filter(|v| is_too_old(v)) {
            return Err(Opening::NotThis(too_old(version)));
        }
    }
    // The loader needs an absolute path: a relative one is looked up beside the program.
    let path = if matches!(candidate, Candidate::Loader(_)) {
        path.to_owned()
    } else {
        std::path::absolute(path).map_err(|e| Opening::NotThis(e.to_string()))?
    };
    // `ort` panics on a library that answers its first calls with null.
    let builder = catch_unwind(|| ort::init_from(&path))
        .map_err(|panic| Opening::Final(panic_text(panic.as_ref())))?
        .map_err(|e| {
            Opening::NotThis(match e {
                ort::LoadDynamicError::BadVersion { version_str, .. } => too_old(&version_str),
                ort::LoadDynamicError::MissingApi { .. } => {
                    "it is not ONNX Runtime (no OrtGetApiBase)".to_owned()
                }
                other => other.to_string(),
            })
        })?;
    let environment = catch_unwind(AssertUnwindSafe(|| {
        builder
            .with_name("visualpath")
            .with_telemetry(false)
            .with_logger(Arc::new(forward_log))
            .build()
    }))
    .map_err(|panic| Opening::Final(panic_text(panic.as_ref())))?
    .map_err(|e| Opening::Final(e.to_string()))?;
    environment.set_log_level(LogLevel::Warning);

    let library = if matches!(candidate, Candidate::Loader(_)) {
        mapped_library()
    } else {
        Some(path)
    };
    if version.is_none() {
        version = library.as_deref().and_then(|l| elf::inspect(l).ok()?);
    }
    Ok(OrtBackend {
        environment,
        info: RuntimeInfo {
            name: NAME,
            version: version.unwrap_or_else(|| "unknown".to_owned()),
            provider: "cpu".to_owned(),
            library,
        },
        path: candidate.path().to_owned(),
    })
}

/// `1.16.3` is, `1.17.0` is not; what does not look like a version is left to the library.
fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(1), Some(minor)) => minor < OLDEST_MINOR,
        (Some(0), _) => true,
        _ => false,
    }
}

fn too_old(version: &str) -> String {
    format!("it is ONNX Runtime {version}, too old: 1.{OLDEST_MINOR} or newer is needed")
}

/// The library the system's loader picked, from the list of mapped files.
fn mapped_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|path| {
            path.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(LIBRARY))
        })
        .map(Path::to_owned)
}

/// The library's own log, one level quieter: what goes wrong also comes back as an error, and its
/// warnings are about hardware that a camera does not have.
fn forward_log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => {
            tracing::warn!(target: "onnxruntime", category, location, "{message}");
        }
        LogLevel::Warning => {
            tracing::debug!(target: "onnxruntime", category, location, "{message}")
        }
        LogLevel::Verbose | LogLevel::Info => {
            tracing::trace!(target: "onnxruntime", category, location, "{message}");
        }
    }
}

impl Backend for OrtBackend {
    fn load(&self, model: &ModelFile, options: &LoadOptions) -> Result<Arc<dyn Model>, LoadError> {
        let session = self
            .session(model, options)
            .map_err(|e| LoadError::Refused {
                file: model.path.clone(),
                runtime: NAME,
                message: e.to_string(),
            })?;
        let declared: Vec<DeclaredInput> = session.inputs().iter().map(declared_input).collect();
        check_input(&model.path, &declared, options)?;
        let names: Vec<String> = session
            .outputs()
            .iter()
            .map(|o| o.name().to_owned())
            .collect();
        let selected = select_outputs(&model.path, &names, options)?;
        Ok(Arc::new(OrtModel {
            session: TurnLock::new(session),
            selected,
            input_shape: options.input_shape.clone(),
        }))
    }

    fn info(&self) -> RuntimeInfo {
        self.info.clone()
    }
}

impl OrtBackend {
    fn session(
        &self,
        model: &ModelFile,
        options: &LoadOptions,
    ) -> ort::Result<ort::session::Session> {
        ort::session::Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads.max(1))?
            .with_inter_threads(1)?
            // Spinning threads are quick to wake and eat a core each while there is nothing to do.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // The arena costs no memory that can be measured here and saves none by being off.
            .with_execution_providers([CPU::default().with_arena_allocator(true).build()])?
            .commit_from_memory(&model.bytes)
    }
}

fn declared_input(input: &ort::value::Outlet) -> DeclaredInput {
    DeclaredInput {
        name: input.name().to_owned(),
        shape: match input.dtype() {
            ValueType::Tensor { shape, .. } => Some(
                shape
                    .iter()
                    .map(|d| usize::try_from(*d).ok().filter(|d| *d > 0))
                    .collect(),
            ),
            _ => None,
        },
    }
}

/// One session of the library, for whose turn it is.
struct OrtModel {
    session: TurnLock<ort::session::Session>,
    /// Positions of the wanted outputs among the model's.
    selected: Vec<usize>,
    input_shape: Vec<usize>,
}

impl Model for OrtModel {
    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, LoadError> {
        Ok(Box::new(OrtSession {
            values: Vec::new(),
            outputs: self.selected.iter().map(|_| Output::default()).collect(),
            model: self,
        }))
    }
}

/// One user's outputs.
struct OrtSession {
    model: Arc<OrtModel>,
    /// What a run gave; empty outside a turn, because its memory is the session's.
    values: Vec<DynValue>,
    outputs: Vec<Output>,
}

#[derive(Default)]
struct Output {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Session for OrtSession {
    fn run(&mut self, input: &[f32]) -> Result<Outputs<'_>, InferError> {
        let Self {
            model,
            values,
            outputs,
        } = self;
        let need = model.input_shape.iter().product();
        if input.len() != need {
            return Err(InferError::InputLength {
                got: input.len(),
                need,
            });
        }
        // The library reads the caller's memory: nothing is copied on the way in.
        let tensor = TensorRef::from_array_view((&model.input_shape[..], input)).map_err(infer)?;
        model.session.with(|session| {
            let done = session.run(ort::inputs![tensor]).map_err(infer)?;
            values.extend(done.into_iter().map(|(_, value)| value));
            let copied = copy(values, &model.selected, outputs);
            values.clear();
            copied
        })?;
        Ok(Outputs::new(
            outputs
                .iter()
                .map(|o| TensorView {
                    shape: &o.shape,
                    data: &o.data,
                })
                .collect(),
        ))
    }
}

fn copy(values: &[DynValue], selected: &[usize], to: &mut [Output]) -> Result<(), InferError> {
    for (index, output) in selected.iter().zip(to) {
        let value = values.get(*index).ok_or(InferError::NoOutput {
            index: *index,
            count: values.len(),
        })?;
        let (shape, data) = value.try_extract_tensor::<f32>().map_err(infer)?;
        output.shape.clear();
        output
            .shape
            .extend(shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)));
        output.data.clear();
        output.data.extend_from_slice(data);
    }
    Ok(())
}

fn infer(e: ort::Error) -> InferError {
    InferError::Runtime {
        runtime: NAME,
        message: e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_newer_api_than_1_17_is_asked_for() {
        assert_eq!(OLDEST_MINOR, 17);
        assert!(is_too_old("1.16.3") && is_too_old("0.5"));
        assert!(!is_too_old("1.17.0") && !is_too_old("1.32.0") && !is_too_old("2.0.0"));
    }

    #[test]
    fn libraries_are_looked_for_in_the_promised_order() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("visualpath/runtime");
        std::fs::create_dir_all(&dir).unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime_providers_shared.so",
            "notes.txt",
        ] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("libonnxruntime.so.1.9.0", dir.join("libonnxruntime.so"))
            .unwrap();
        let env = |key: &str| (key == "XDG_CACHE_HOME").then(|| cache.path().into());
        let found: Vec<PathBuf> = candidates(None, env)
            .iter()
            .filter(|c| c.path().starts_with(&dir))
            .map(|c| c.path().to_owned())
            .collect();
        assert_eq!(
            found,
            [
                dir.join("libonnxruntime.so"),
                dir.join("libonnxruntime.so.1.32.0")
            ],
            "the plain name first, each file once, no other library"
        );
        let all = candidates(None, env);
        assert_eq!(all.last(), Some(&Candidate::Loader("libonnxruntime.so.1")));
        let only = candidates(None, |k| (k == "ORT_DYLIB_PATH").then(|| "/x.so".into()));
        assert_eq!(only, [Candidate::Asked("/x.so".into())]);
    }
}
