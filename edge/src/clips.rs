//! The clips there are, for `visualpath clip` and for commands: the one place that knows how they
//! are kept.
//!
//! What is here reads the files themselves: `<state_dir>/<clip.dir>/YYYY-MM-DD/<stem>.mp4` with a
//! `.json` that says everything the clip message says, and an empty `.pin` beside a clip that must
//! not be deleted for room. So it works beside a running appliance, and without one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use visualpath_core::Name;
use visualpath_media::clip::{ClipResult, ClipState};

use crate::config::Config;

/// What one clip leaves, the sidecar last: a deletion that is cut off is seen and can be repeated.
const ENDINGS: [&str; 4] = ["mp4", "jpg", "pin", "json"];
/// Fewest last characters of an id that stand for all of it: file names end in 8.
const SHORTEST_ID: usize = 6;
/// Largest sidecar read.
const MAX_SIDECAR: u64 = 4 << 20;

/// What is known of one clip.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipEntry {
    /// Its id.
    pub id: String,
    /// Of the trigger that asked for it; empty if it was asked for by command.
    pub trigger_id: String,
    /// The camera.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// The label.
    pub label: Name,
    /// When the event began, source time in nanoseconds.
    pub event_ns: i64,
    /// The same, nanoseconds since 1970 UTC.
    pub wall_ns: i64,
    /// What became of it.
    pub state: EntryState,
    /// The file of one that is ready, relative to the state directory.
    pub file: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// It is not deleted for room.
    pub is_pinned: bool,
    /// Everything about one that is ready or failed.
    pub result: Option<ClipResult>,
}

/// What became of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// Being written.
    Open,
    /// There.
    Ready,
    /// Not there, with a reason.
    Failed,
}

impl EntryState {
    /// As in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// Why something can't be done with the clips.
#[derive(Debug, thiserror::Error)]
pub enum ClipsError {
    /// A file operation failed.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No such clip.
    #[error("there is no clip `{id}`: `visualpath clip list` shows those there are")]
    Unknown {
        /// As asked.
        id: String,
    },
    /// Several clips end so.
    #[error("`{id}` stands for {count} clips: give more of it")]
    Ambiguous {
        /// As asked.
        id: String,
        /// How many.
        count: usize,
    },
    /// It has no file.
    #[error("clip {id} has no file: it is {state}")]
    NoFile {
        /// Which.
        id: String,
        /// `open` or `failed`.
        state: &'static str,
    },
    /// It must not be deleted.
    #[error("clip {id} is pinned: unpin it first")]
    Pinned {
        /// Which.
        id: String,
    },
}

/// The clips of an appliance, however they are kept.
pub trait ClipArchive: Send {
    /// Every clip that is known, oldest first.
    ///
    /// # Errors
    /// If the clips can't be read.
    fn entries(&self) -> Result<Vec<ClipEntry>, ClipsError>;

    /// Keeps a clip from being deleted for room, or no longer.
    ///
    /// # Errors
    /// If there is no such clip, or it can't be written down.
    fn pin(&self, id: &str, on: bool) -> Result<(), ClipsError>;

    /// Deletes a clip that is not pinned.
    ///
    /// # Errors
    /// If there is no such clip, it is pinned, or its files can't be deleted.
    fn delete(&self, id: &str) -> Result<(), ClipsError>;
}

/// The clips of a config's state directory.
pub fn archive(config: &Config) -> ClipFiles {
    ClipFiles {
        state_dir: config.device.state_dir.clone(),
        dir: config.clip.dir.clone(),
    }
}

/// The one clip that an id, or its last 6 or more characters, stands for.
///
/// # Errors
/// If there is none, or several.
pub fn find<'a>(entries: &'a [ClipEntry], id: &str) -> Result<&'a ClipEntry, ClipsError> {
    if let Some(entry) = entries.iter().find(|e| e.id == id) {
        return Ok(entry);
    }
    let by_end: Vec<&ClipEntry> = match id.len() >= SHORTEST_ID {
        true => entries.iter().filter(|e| e.id.ends_with(id)).collect(),
        false => Vec::new(),
    };
    match by_end.as_slice() {
        [one] => Ok(one),
        [] => Err(ClipsError::Unknown { id: id.to_owned() }),
        many => Err(ClipsError::Ambiguous {
            id: id.to_owned(),
            count: many.len(),
        }),
    }
}

/// A file in the clip directory that is no whole clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

/// Clips as files.
#[derive(Debug, Clone)]
pub struct ClipFiles {
    state_dir: PathBuf,
    dir: PathBuf,
}

impl ClipFiles {
    /// The file of a clip.
    pub fn path(&self, file: &str) -> PathBuf {
        self.state_dir.join(file)
    }

    /// The clips, and what lies there and is none. `.part` files are neither: they are being
    /// written, or waiting for the appliance to make them whole.
    ///
    /// # Errors
    /// If a directory can't be read.
    pub fn read(&self) -> Result<(Vec<ClipEntry>, Vec<Stray>), ClipsError> {
        let root = self.state_dir.join(&self.dir);
        let (mut entries, mut strays) = (Vec::new(), Vec::new());
        for day in names(&root)? {
            let dir = root.join(&day);
            if !is_day(&day) || !dir.is_dir() {
                continue;
            }
            for name in names(&dir)? {
                let path = dir.join(&name);
                match name.split_once('.') {
                    Some((_, "json")) => match self.entry(&path) {
                        Ok(entry) => entries.push(entry),
                        // Deleted between the two looks at it.
                        Err(_) if !path.exists() => {}
                        Err(problem) => strays.push(Stray { path, problem }),
                    },
                    Some((_, "mp4")) if !path.with_extension("json").exists() && path.exists() => {
                        let problem = "has no .json beside it: the appliance was cut off while \
                                       finishing it, and makes it whole at its next start; else \
                                       delete it"
                            .to_owned();
                        strays.push(Stray { path, problem });
                    }
                    _ => {}
                }
            }
        }
        entries.sort_by(|a, b| (a.wall_ns, &a.id).cmp(&(b.wall_ns, &b.id)));
        Ok((entries, strays))
    }

    /// What a sidecar says.
    fn entry(&self, sidecar: &Path) -> Result<ClipEntry, String> {
        #[derive(serde::Deserialize)]
        struct Sidecar {
            event_ns: i64,
            time: jiff::Timestamp,
            #[serde(flatten)]
            result: ClipResult,
        }
        let advice = "delete it with its .mp4";
        let length = fs::metadata(sidecar).map_err(|e| e.to_string())?.len();
        if length > MAX_SIDECAR {
            return Err(format!("has {length} bytes and is no sidecar; {advice}"));
        }
        let text = fs::read(sidecar).map_err(|e| format!("can't be read: {e}"))?;
        let read: Sidecar =
            serde_json::from_slice(&text).map_err(|e| format!("says no clip ({e}); {advice}"))?;
        let file = sidecar.with_extension("mp4");
        let relative = file.strip_prefix(&self.state_dir).unwrap_or(&file);
        let (state, file, bytes) = match &read.result.state {
            // Where it lies, not where it once lay: a state directory may have been copied.
            ClipState::Ready(ready) => (
                EntryState::Ready,
                Some(relative.to_string_lossy().into_owned()),
                ready.bytes,
            ),
            ClipState::Failed { .. } => (EntryState::Failed, None, 0),
        };
        Ok(ClipEntry {
            id: read.result.id.clone(),
            trigger_id: read.result.trigger_id.clone(),
            source: read.result.source.clone(),
            path: read.result.path.clone(),
            label: read.result.label.clone(),
            event_ns: read.event_ns,
            wall_ns: i64::try_from(read.time.as_nanosecond()).unwrap_or(i64::MAX),
            state,
            file,
            bytes,
            is_pinned: sidecar.with_extension("pin").exists(),
            result: Some(read.result),
        })
    }

    fn file_of(&self, id: &str) -> Result<(ClipEntry, PathBuf), ClipsError> {
        let (entries, _) = self.read()?;
        let entry = find(&entries, id)?.clone();
        match &entry.file {
            Some(file) => {
                let path = self.path(file);
                Ok((entry, path))
            }
            None => Err(ClipsError::NoFile {
                id: entry.id,
                state: entry.state.word(),
            }),
        }
    }
}

impl ClipArchive for ClipFiles {
    fn entries(&self) -> Result<Vec<ClipEntry>, ClipsError> {
        Ok(self.read()?.0)
    }

    fn pin(&self, id: &str, on: bool) -> Result<(), ClipsError> {
        let (_, file) = self.file_of(id)?;
        let pin = file.with_extension("pin");
        if on {
            let made = fs::File::create(&pin).and_then(|f| f.sync_all());
            made.map_err(io_error("make", &pin))?;
        } else {
            remove(&pin)?;
        }
        sync_parent(&pin)
    }

    fn delete(&self, id: &str) -> Result<(), ClipsError> {
        let (entry, file) = self.file_of(id)?;
        if entry.is_pinned {
            return Err(ClipsError::Pinned { id: entry.id });
        }
        for ending in ENDINGS {
            remove(&file.with_extension(ending))?;
        }
        sync_parent(&file)
    }
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ClipsError + 'a {
    move |source| ClipsError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn remove(path: &Path) -> Result<(), ClipsError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("delete", path)(e)),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), ClipsError> {
    let dir = path.parent().unwrap_or(path);
    let synced = fs::File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(io_error("sync", dir))
}

/// The names in a directory, in order; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>, ClipsError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("read", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("read", dir))?;
        // Ours are ASCII.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `YYYY-MM-DD`.
fn is_day(name: &str) -> bool {
    name.len() == 10 && name.parse::<jiff::civil::Date>().is_ok()
}
