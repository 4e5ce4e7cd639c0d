//! What a runtime must be able to do: load a model, run it, say what it is.
//!
//! A [`Model`] is what is big and the same for all who use it: graph and weights. A [`Session`] is
//! one user's access to it with what a run needs of its own. Users of one model know nothing of
//! each other; where a runtime can't run one model twice at once, its sessions take turns.

use std::fmt;
#[cfg(any(feature = "tract", feature = "ort"))]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(any(feature = "tract", feature = "ort"))]
use visualpath_core::nearest;

use crate::card::{ModelCard, hint};
use crate::locate::ModelFile;

/// An inference runtime.
pub trait Backend: Send + Sync {
    /// Loads `model`, optimised for the one input shape of `options`.
    fn load(&self, model: &ModelFile, options: &LoadOptions) -> Result<Arc<dyn Model>, LoadError>;

    /// What it is.
    fn info(&self) -> RuntimeInfo;
}

/// A loaded model, for any number of users.
pub trait Model: Send + Sync {
    /// One user's session of it.
    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, LoadError>;
}

/// One user's access to a loaded model, with the working memory of a run.
pub trait Session: Send {
    /// Runs the model on `input`, a dense tensor of the shape it was loaded for. The outputs are
    /// those of [`LoadOptions::outputs`], in that order, valid until the next run of this session.
    /// May wait for runs of other sessions of the model, first come, first served.
    fn run(&mut self, input: &[f32]) -> Result<Outputs<'_>, InferError>;
}

/// How a model is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadOptions {
    /// Threads one run may use; 1 is the caller's own.
    pub threads: usize,
    /// Name of the model's input.
    pub input: String,
    /// Its shape.
    pub input_shape: Vec<usize>,
    /// Names of the outputs wanted, in the order they are wanted.
    pub outputs: Vec<String>,
    /// ONNX Runtime's library, instead of looking for one. One library per process: a second
    /// path is an error once the first is open.
    pub ort_library: Option<PathBuf>,
}

impl LoadOptions {
    /// One thread, the input of `card`, these outputs.
    pub fn new(card: &ModelCard, outputs: &[&str]) -> Self {
        Self {
            threads: 1,
            input: card.input.name.clone(),
            input_shape: card.input_shape().to_vec(),
            outputs: outputs.iter().map(|o| (*o).to_owned()).collect(),
            ort_library: None,
        }
    }
}

/// A runtime as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `tract` or `onnxruntime`.
    pub name: &'static str,
    /// Its version, `unknown` where the library does not tell.
    pub version: String,
    /// What computes, e.g. `cpu`.
    pub provider: String,
    /// The library it was loaded from, where it is not built in.
    pub library: Option<PathBuf>,
}

impl fmt::Display for RuntimeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// One output tensor, dense, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorView<'a> {
    /// Its shape.
    pub shape: &'a [usize],
    /// Its values.
    pub data: &'a [f32],
}

/// The outputs of one run.
#[derive(Debug)]
pub struct Outputs<'a>(Vec<TensorView<'a>>);

impl<'a> Outputs<'a> {
    /// Of these tensors.
    pub fn new(tensors: Vec<TensorView<'a>>) -> Self {
        Self(tensors)
    }

    /// Output number `index` in the order of [`LoadOptions::outputs`].
    pub fn get(&self, index: usize) -> Result<TensorView<'a>, InferError> {
        self.0.get(index).copied().ok_or(InferError::NoOutput {
            index,
            count: self.0.len(),
        })
    }
}

/// Why one run failed; the next may succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The input has the wrong number of values.
    #[error("the input has {got} values, the model was loaded for {need}")]
    InputLength {
        /// Given.
        got: usize,
        /// Needed.
        need: usize,
    },
    /// There are fewer outputs.
    #[error("output {index} was asked for, the model gave {count}")]
    NoOutput {
        /// Asked for.
        index: usize,
        /// Given.
        count: usize,
    },
    /// The runtime's own error.
    #[error("{runtime}: {message}")]
    Runtime {
        /// Which runtime.
        runtime: &'static str,
        /// Its words.
        message: String,
    },
}

/// Why a model can't be loaded, or a runtime can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The runtime is not there, too old, or damaged.
    #[error("{runtime} can't be used: {message}")]
    Unavailable {
        /// Which runtime.
        runtime: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// The runtime does not take the file.
    #[error("{} is not an ONNX model that {runtime} can load: {message}", file.display())]
    Refused {
        /// The model.
        file: PathBuf,
        /// Which runtime.
        runtime: &'static str,
        /// Its words.
        message: String,
    },
    /// The model's input is not what the card says.
    #[error(
        "{}: the card says input `{name}` is {}, the model has {found}", file.display(), dims(card)
    )]
    Input {
        /// The model.
        file: PathBuf,
        /// The card's input name.
        name: String,
        /// The card's shape.
        card: Vec<usize>,
        /// The model's inputs.
        found: String,
    },
    /// The model has no output of that name.
    #[error(
        "{}: the card names output `{name}`, the model has {}{}",
        file.display(), found.join(", "), hint(nearest)
    )]
    Output {
        /// The model.
        file: PathBuf,
        /// The card's output name.
        name: String,
        /// What the model has.
        found: Vec<String>,
        /// Those with a like name.
        nearest: Vec<String>,
    },
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
}

/// `1×3×300×300`; an unknown dimension is `?`.
pub(crate) fn dims<T: fmt::Display>(shape: &[T]) -> String {
    let parts: Vec<String> = shape.iter().map(T::to_string).collect();
    parts.join("×")
}

/// An input as the model declares it; `None` is a dimension left open.
#[cfg(any(feature = "tract", feature = "ort"))]
pub(crate) struct DeclaredInput {
    pub name: String,
    pub shape: Option<Vec<Option<usize>>>,
}

#[cfg(any(feature = "tract", feature = "ort"))]
impl fmt::Display for DeclaredInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = self.shape.as_ref().map_or("of any shape".to_owned(), |s| {
            let parts: Vec<String> = s
                .iter()
                .map(|d| d.map_or("?".to_owned(), |d| d.to_string()))
                .collect();
            parts.join("×")
        });
        write!(f, "`{}` {shape}", self.name)
    }
}

/// Checks the model's declared inputs against the options: exactly one, the card's name, and every
/// dimension that the model fixes as the card says.
#[cfg(any(feature = "tract", feature = "ort"))]
pub(crate) fn check_input(
    file: &Path,
    declared: &[DeclaredInput],
    options: &LoadOptions,
) -> Result<(), LoadError> {
    if options.threads == 0 {
        return Err(LoadError::Options("threads must be at least 1".to_owned()));
    }
    let fits = |input: &DeclaredInput| {
        input.shape.as_ref().is_none_or(|shape| {
            shape.len() == options.input_shape.len()
                && shape
                    .iter()
                    .zip(&options.input_shape)
                    .all(|(d, card)| d.is_none_or(|d| d == *card))
        })
    };
    match declared {
        [input] if input.name == options.input && fits(input) => Ok(()),
        _ => Err(LoadError::Input {
            file: file.to_owned(),
            name: options.input.clone(),
            card: options.input_shape.clone(),
            found: if declared.is_empty() {
                "no input".to_owned()
            } else {
                let all: Vec<String> = declared.iter().map(ToString::to_string).collect();
                all.join(", ")
            },
        }),
    }
}

/// Positions of the wanted outputs among those the model has.
#[cfg(any(feature = "tract", feature = "ort"))]
pub(crate) fn select_outputs(
    file: &Path,
    found: &[String],
    options: &LoadOptions,
) -> Result<Vec<usize>, LoadError> {
    options
        .outputs
        .iter()
        .map(|name| {
            found
                .iter()
                .position(|f| f == name)
                .ok_or_else(|| LoadError::Output {
                    file: file.to_owned(),
                    name: name.clone(),
                    found: found.to_vec(),
                    nearest: nearest(name, found.iter().map(String::as_str))
                        .into_iter()
                        .map(str::to_owned)
                        .collect(),
                })
        })
        .collect()
}

/// What a caught panic said.
#[cfg(any(feature = "tract", feature = "ort"))]
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "panic without a message".to_owned())
}
