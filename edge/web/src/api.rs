//! What the server asks of the appliance.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// The appliance, as the server sees it.
///
/// [`Api::is_alive`] and [`Api::readiness`] are called on the server's own thread and must not wait
/// for a disk, a broker or a worker. The others may block; each is called on another thread.
pub trait Api: Send + Sync {
    /// Whether frames are being worked on. The error says what stands still.
    ///
    /// # Errors
    /// A loop that should run stands still.
    fn is_alive(&self) -> Result<(), String>;

    /// How far it is.
    fn readiness(&self) -> Readiness;

    /// The status document.
    fn status(&self) -> Value;

    /// All metrics, in Prometheus' text format 0.0.4.
    fn metrics(&self) -> String;

    /// Carries out a command, waiting for its answer.
    ///
    /// # Errors
    /// Why it was not carried out.
    fn command(&self, verb: &str, args: Map<String, Value>) -> Answer;

    /// The file of a ready clip; `None` if there is no such clip.
    fn clip_file(&self, id: &str) -> Option<PathBuf>;

    /// Whether that very file is H.264, which every browser plays.
    fn is_h264(&self, id: &str) -> bool;
}

/// What came of a command.
pub type Answer = Result<Value, ApiError>;

/// How far the appliance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Sources are being opened and models loaded.
    Starting,
    /// It works, and nothing is wrong.
    Ready,
    /// It works, and `health` names a problem.
    Degraded,
    /// It is ending.
    Stopping,
}

impl Readiness {
    /// As it is written in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
        }
    }

    /// Whether work can be given to it.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// A word to branch on; [`crate::status_of`] gives its HTTP status.
    pub code: String,
    /// What is wrong and what to do, for a person.
    pub message: String,
}

impl ApiError {
    /// From a code and a text.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}
