//! Why a pipeline could not start, or ended badly: each names its culprit, and has an exit code.

use visualpath_core::{Name, PluginError};
use visualpath_frames::PoolError;
use visualpath_media::source::SourceError;

use crate::broker::BrokerStartError;

/// Why a pipeline could not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys of the config that only plugins, rules or the build can judge.
    #[error("{}", .0.iter().map(|(k, m)| format!("{k}: {m}")).collect::<Vec<_>>().join("\n"))]
    Config(Vec<(String, String)>),
    /// A plugin or its model.
    #[error("extractor `{extractor}`: {error}")]
    Plugin {
        /// Which.
        extractor: Name,
        /// Why.
        error: PluginError,
    },
    /// A fusion plugin.
    #[error("fusion `{fusion}`: {error}")]
    Fusion {
        /// Which.
        fusion: Name,
        /// Why.
        error: PluginError,
    },
    /// A model that loads but does not run.
    #[error("extractor `{extractor}` failed on a test picture: {message}")]
    WarmUp {
        /// Which.
        extractor: Name,
        /// What it said.
        message: String,
    },
    /// The source.
    #[error("source `{source_name}`: {error}")]
    Source {
        /// Which.
        source_name: Name,
        /// Why.
        error: SourceError,
    },
    /// The frame pool.
    #[error("source `{source_name}`: {error}")]
    Pool {
        /// Which.
        source_name: Name,
        /// Why.
        error: Box<PoolError>,
    },
    /// The broker address, or the embedded broker.
    #[error(transparent)]
    Broker(#[from] BrokerStartError),
    /// The state directory.
    #[error("device.state_dir: {path} can't be used: {error}; make it, or choose another")]
    StateDir {
        /// The directory.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A worker process.
    #[error("extractor `{extractor}`: its process: {message}")]
    Worker {
        /// Whose.
        extractor: Name,
        /// Why not, and what to do.
        message: String,
    },
    /// The process of a fusion.
    #[error("fusion `{fusion}`: its process: {message}")]
    FusionWorker {
        /// Whose.
        fusion: Name,
        /// Why not, and what to do.
        message: String,
    },
    /// The evidence lane.
    #[error("clips: {0}")]
    Evidence(String),
    /// A thread.
    #[error("a thread could not be started: {0}")]
    Thread(String),
}

impl StartError {
    pub(crate) fn config(key: &str, message: &str) -> Self {
        Self::Config(vec![(key.to_owned(), message.to_owned())])
    }
}
