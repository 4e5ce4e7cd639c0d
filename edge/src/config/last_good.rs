//! The last config that started, kept for the day the next one is broken.
//!
//! After a successful start the merged config (files and overrides, `${…}` replaced, no defaults)
//! is written to `<state_dir>/config/<hash of the config's path>.toml`. A secret is never in it:
//! secrets are named by `*_file` keys, and a password in a URL is refused. It is written beside,
//! synced and renamed, so it is whole after a power cut at any instant.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::diagnostic::{Diagnostic, Severity};
use super::layers::{self, LoadOptions, OVERRIDE_PREFIX};
use super::model::DeviceConfig;
use super::tree::{Origin, parse_what_can_be};
use super::{Loaded, expand, load, load_layers, show};

/// What to run with.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one is made, once, at start")]
pub enum Start {
    /// The config asked for.
    Asked(Loaded),
    /// The last one that started, because the one asked for is broken.
    LastGood {
        /// What runs.
        loaded: Box<Loaded>,
        /// Where it was kept.
        file: PathBuf,
        /// What is wrong with the one asked for; for the log and `health`.
        broken: Vec<Diagnostic>,
    },
}

/// Why the config could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("the last good config can't be written to {file}: {source}")]
pub struct LastGoodError {
    /// Where to.
    pub file: PathBuf,
    /// The cause.
    pub source: std::io::Error,
}

/// Loads the config asked for, or else the last one that started. With neither, everything that is
/// wrong with the one asked for (exit 3).
pub fn load_or_last_good(options: &LoadOptions) -> Result<Start, Vec<Diagnostic>> {
    let mut broken = match load(options) {
        Ok(loaded) => return Ok(Start::Asked(loaded)),
        Err(broken) => broken,
    };
    let file = last_good_file(&state_dir_of_broken(options), &options.path);
    if !file.exists() {
        return Err(broken);
    }
    let kept = LoadOptions {
        path: file.clone(),
        env: options
            .env
            .iter()
            .filter(|(name, _)| !name.starts_with(OVERRIDE_PREFIX))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        not_utf8: Vec::new(),
        source_uri: options.source_uri.clone(),
        machine: options.machine.clone(),
    };
    match layers::read(&kept, false).and_then(|layers| load_layers(&kept, layers)) {
        Ok(loaded) => Ok(Start::LastGood {
            loaded: Box::new(loaded),
            file,
            broken,
        }),
        Err(faults) => {
            let origin = Origin::Argument(file.display().to_string().into());
            broken.push(Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::error(&origin, "", "the last good config can't be used either")
            });
            broken.extend(faults);
            Err(broken)
        }
    }
}

/// Keeps a config that has started. Returns where; `None` if `--source` was given: such a run is a
/// trial, not what the machine shall come back with.
pub fn save_last_good(
    options: &LoadOptions,
    loaded: &Loaded,
) -> Result<Option<PathBuf>, LastGoodError> {
    if options.source_uri.is_some() {
        return Ok(None);
    }
    let file = last_good_file(&loaded.config.device.state_dir, &options.path);
    let text = format!(
        "# The last config that started, kept by visualpath {}; do not edit.\n# From: {:?}\n\n{}",
        env!("CARGO_PKG_VERSION"),
        options.path,
        show::in_force(&loaded.origins.written),
    );
    write_whole(&file, text.as_bytes())
        .map(|()| Some(file.clone()))
        .map_err(|source| LastGoodError { file, source })
}

/// Where the last good config of `config` is kept.
pub fn last_good_file(state_dir: &Path, config: &Path) -> PathBuf {
    // The directory's real path and the file's own name: found again when the file is gone, and
    // when it is a link that was pointed elsewhere.
    let parent = match config.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
    let whole = parent.join(config.file_name().unwrap_or_default());
    let hex: String = Sha256::digest(whole.as_os_str().as_bytes())
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    state_dir.join("config").join(format!("{hex}.toml"))
}

/// The state directory as far as a broken config tells it.
fn state_dir_of_broken(options: &LoadOptions) -> PathBuf {
    let by_env = options
        .env
        .get(&format!("{OVERRIDE_PREFIX}DEVICE__STATE_DIR"));
    if let Some(dir) = by_env {
        return dir.trim_matches('"').into();
    }
    let mut files = vec![options.path.clone()];
    files.extend(layers::conf_d(&options.path).unwrap_or_default());
    files
        .iter()
        .rev()
        .find_map(|file| {
            let text = layers::read_file(file).ok()?;
            let mut root = parse_what_can_be("", &text).ok()?;
            // A text that can't be expanded stays as written and leads nowhere.
            expand::expand(&mut root, &options.env, "", &mut Vec::new());
            let dir = root.get("device")?.get("state_dir")?.as_str()?;
            Some(PathBuf::from(dir))
        })
        .unwrap_or_else(|| DeviceConfig::default().state_dir)
}

/// Writes beside, syncs, renames, syncs the directory. Does nothing if the bytes are there already.
fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if fs::read(file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let dir = file.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    let beside = file.with_extension("toml.part");
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&beside, file)?;
    File::open(dir)?.sync_all()
}
