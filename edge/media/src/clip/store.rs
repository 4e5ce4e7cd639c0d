//! Where clips lie on the disk, what they are called, and how much room they may take.
//!
//! `<state_dir>/<dir>/YYYY-MM-DD/HHMMSSZ_<path>_<label>_<id8>.mp4`: UTC wall time of the event, and
//! the **last** 8 hexadecimal digits of the clip's id (a UUIDv7 begins with the time, so the first
//! digits of neighbouring clips are the same; the last are random). Should a name be taken all the
//! same, `_2`, `_3`, … is appended: the `.part` file is made with `O_EXCL`, so no two clips share one.
//!
//! A clip passes through these states, each durable before the next begins:
//!
//! 1. `….mp4.part`, made exclusively, its directory synced; fragments appended and synced;
//! 2. the finished bytes, synced; `….json`, the sidecar, written, synced and renamed;
//! 3. renamed to `….mp4` (never over another file). So an `.mp4` always has its sidecar;
//! 4. `ready` in the index. Only then is the clip reported.
//!
//! A `….pin` beside it, an empty file, keeps a clip from being deleted for room (`room.rs`).
//!
//! **Safe mode.** A sync that failed says that something was not written, not what, and a second one
//! would say that all is well (the kernel drops what it could not write). From then on the store
//! takes no clips until the appliance is started again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;
use visualpath_core::Name;

use super::books::IndexTrouble;
use super::disk::{Disk, RealDisk};
use super::index::{Index, IndexError, SqliteIndex};
use super::part::PartFile;
use super::room::{Kept, KeptClip};
use super::{ClipEnd, Unheard};

/// Files of one clip: the name up to the first dot, then one of these. In the order in which they
/// are deleted: what is left by a power cut in between is known to be a left-over.
pub(super) const ENDINGS: [&str; 9] = [
    "mp4",
    "mp4.part",
    "json",
    "json.part",
    "jpg",
    "jpg.part",
    "h264.mp4",
    "h264.mp4.part",
    "pin",
];
/// Longest share of a path's or label's name in a file name, so that the whole stays below the 255
/// bytes a file system takes.
const LONGEST_NAME: usize = 64;
/// Attempts at a free name.
const MOST_SUFFIXES: u32 = 1000;
/// Why a clip could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configured directory leads out of the state directory.
    #[error("[clip] dir = \"{dir}\": must be a plain relative path below the state directory")]
    Dir {
        /// As configured.
        dir: String,
    },
    /// Another process writes clips there.
    #[error(
        "{dir}: another visualpath writes its clips there; give each its own [device] state_dir"
    )]
    InUse {
        /// The directory of clips.
        dir: PathBuf,
    },
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
    /// The id has no 8 hexadecimal digits.
    #[error("clip id `{id}` is not a UUID")]
    Id {
        /// The id.
        id: String,
    },
    /// No clip has this id.
    #[error("there is no clip `{id}` in {dir}")]
    Unknown {
        /// The id.
        id: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// It is not to be deleted.
    #[error("clip {id} is pinned: unpin it first")]
    Pinned {
        /// The id.
        id: String,
    },
    /// The wall time is no date.
    #[error("wall time {wall_ns} ns is not a date")]
    Time {
        /// Nanoseconds since 1970.
        wall_ns: i64,
    },
    /// Every name was taken.
    #[error("{path} and {MOST_SUFFIXES} names like it are taken")]
    Names {
        /// The first one tried.
        path: PathBuf,
    },
    /// Nothing is left to delete.
    #[error(
        "the clip quota of {quota} bytes has no room for {need} more, and no finished clip that is not pinned is left to delete: raise [clip] quota_bytes"
    )]
    Quota {
        /// Configured.
        quota: u64,
        /// Wanted.
        need: u64,
    },
    /// The file system is full of other things.
    #[error(
        "{free} bytes are free on the file system of {dir}, {reserve} are not to be used, and no finished clip that is not pinned is left to delete: free some space"
    )]
    Full {
        /// The directory of clips.
        dir: PathBuf,
        /// Free.
        free: u64,
        /// To be left.
        reserve: u64,
    },
    /// A sync failed earlier.
    #[error("no clips are kept since {reason}: check the disk, then start visualpath again")]
    SafeMode {
        /// What failed.
        reason: String,
    },
    /// The index can't be used.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl StoreError {
    /// How a clip ends that has whole fragments when this happens to the next one; `None` if it can't
    /// be trusted any more.
    pub(super) fn end(&self) -> Option<ClipEnd> {
        match self {
            Self::Quota { .. } => Some(ClipEnd::Quota),
            Self::Full { .. } => Some(ClipEnd::DiskFull),
            Self::Io {
                what: "write",
                source,
                ..
            } => match Errno::from_io_error(source) {
                Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Some(ClipEnd::DiskFull),
                _ => Some(ClipEnd::DiskError),
            },
            _ => None,
        }
    }
}

pub(super) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// The directory of all clips. Shared by all lanes of a process; one process writes to it.
#[derive(Debug)]
pub struct ClipStore {
    pub(super) root: PathBuf,
    pub(super) state_dir: PathBuf,
    /// `root` relative to the state directory, as messages name it.
    pub(super) relative: String,
    pub(super) quota_bytes: u64,
    pub(super) disk: Arc<dyn Disk>,
    kept: Mutex<Kept>,
    /// There once this process has taken the directory over.
    pub(super) index: Mutex<Option<Box<dyn Index>>>,
    pub(super) index_trouble: Mutex<Option<IndexTrouble>>,
    /// Held as long as this process may write.
    lock: OnceLock<std::fs::File>,
    /// The first sync that failed.
    unsafe_since: OnceLock<String>,
}

impl ClipStore {
    /// The store at `state_dir/dir`, with what is there already. The directory is made with the
    /// first clip; one that can't be read or made does not stop the appliance, but fails each clip.
    ///
    /// # Errors
    /// `dir` is not a plain relative path.
    pub fn open(state_dir: &Path, dir: &str, quota_bytes: u64) -> Result<Arc<Self>, StoreError> {
        Self::on(Arc::new(RealDisk), state_dir, dir, quota_bytes)
    }

    pub(super) fn on(
        disk: Arc<dyn Disk>,
        state_dir: &Path,
        dir: &str,
        quota_bytes: u64,
    ) -> Result<Arc<Self>, StoreError> {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if dir.is_empty() || !Path::new(dir).components().all(plain) {
            return Err(StoreError::Dir { dir: dir.into() });
        }
        let relative: PathBuf = Path::new(dir).components().collect();
        let store = Self {
            root: state_dir.join(&relative),
            state_dir: state_dir.to_owned(),
            relative: relative.to_string_lossy().into_owned(),
            quota_bytes,
            disk,
            kept: Mutex::new(Kept::default()),
            index: Mutex::new(None),
            index_trouble: Mutex::new(None),
            lock: OnceLock::new(),
            unsafe_since: OnceLock::new(),
        };
        match store.scan() {
            Ok(kept) => *store.kept() = kept,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!(dir = %store.root.display(), error = %e,
                "can't read the clip directory: old clips are not counted in the quota"),
        }
        Ok(Arc::new(store))
    }

    /// Makes this process the one that writes: finishes what an earlier one left behind, opens the
    /// index and makes it agree with the files. Returns the results that nobody was told of; each is
    /// to be told, and then [`ClipStore::told`].
    ///
    /// An index that can't be used is no reason to keep no clips; it is logged.
    ///
    /// # Errors
    /// Another process writes there.
    pub fn take_over(self: &Arc<Self>) -> Result<Vec<Unheard>, StoreError> {
        self.lock_directory()?;
        let index: Option<Box<dyn Index>> = match SqliteIndex::open(&self.state_dir, &self.relative)
        {
            Ok(index) => Some(Box::new(index)),
            Err(e) => {
                tracing::error!(error = %e, "clips are kept without an index: one that is being written when the appliance is killed may be forgotten");
                self.no_index(&e);
                None
            }
        };
        Ok(self.take_over_with(index))
    }

    /// The lock goes with the process.
    fn lock_directory(&self) -> Result<(), StoreError> {
        let path = self.root.join(".lock");
        let opened = self.make_dir(&self.root).and_then(|()| {
            std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(io_error("open", &path))
        });
        match opened {
            Ok(file) => {
                use rustix::fs::{FlockOperation, flock};
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Err(Errno::WOULDBLOCK) => {
                        return Err(StoreError::InUse {
                            dir: self.root.clone(),
                        });
                    }
                    // File systems without locks: nothing to hold.
                    Err(e) => {
                        tracing::debug!(file = %path.display(), error = %e, "can't be locked")
                    }
                    Ok(()) => {}
                }
                if self.lock.set(file).is_err() {
                    tracing::debug!("the clip directory is locked already");
                }
            }
            // A read-only disk: every clip will say so.
            Err(e) => tracing::warn!(error = %e, "the clip directory can't be locked"),
        }
        Ok(())
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no clips are kept any more, if that is so.
    pub fn trouble(&self) -> Option<&str> {
        self.unsafe_since.get().map(String::as_str)
    }

    /// After a failed sync nothing is what it seems.
    pub(super) fn synced(
        &self,
        what: &'static str,
        path: &Path,
        done: io::Result<()>,
    ) -> Result<(), StoreError> {
        done.map_err(|source| {
            // A directory that is gone with its last clip has nothing to sync.
            let is_gone = source.kind() == io::ErrorKind::NotFound;
            let error = io_error(what, path)(source);
            if !is_gone && self.unsafe_since.set(error.to_string()).is_ok() {
                tracing::error!(%error, "no more clips are kept: what a failed sync did not write is unknown, and trying again would hide it");
            }
            error
        })
    }

    pub(super) fn safe(&self) -> Result<(), StoreError> {
        match self.trouble() {
            None => Ok(()),
            Some(reason) => Err(StoreError::SafeMode {
                reason: reason.to_owned(),
            }),
        }
    }

    /// Every file of a clip, by day and stem, with its endings and bytes.
    pub(super) fn files(&self) -> io::Result<BTreeMap<String, BTreeMap<&'static str, u64>>> {
        let mut files: BTreeMap<String, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for day in self.disk.list(&self.root)? {
            if !day.is_dir || !is_day(&day.name) {
                continue;
            }
            for file in self.disk.list(&self.root.join(&day.name))? {
                let Some((stem, ending)) = file.name.split_once('.') else {
                    continue;
                };
                if let Some(ending) = ENDINGS.iter().find(|e| **e == ending) {
                    let stem = format!("{}/{stem}", day.name);
                    files.entry(stem).or_default().insert(ending, file.bytes);
                }
            }
        }
        Ok(files)
    }

    pub(super) fn scan(&self) -> io::Result<Kept> {
        let mut kept = Kept::default();
        for (stem, endings) in self.files()? {
            let bytes = endings.values().sum();
            kept.bytes += bytes;
            // What is not finished is not there to be deleted.
            if endings.contains_key("mp4") && !endings.contains_key("mp4.part") {
                kept.clips.insert(stem, KeptClip { bytes, ids: vec![] });
            }
        }
        Ok(kept)
    }

    /// Bytes of everything in the store.
    pub fn bytes(&self) -> u64 {
        self.kept().bytes
    }

    /// How many finished clips there are.
    pub fn clip_count(&self) -> u64 {
        self.kept().clips.len() as u64
    }

    /// Finished clips, oldest first, as `YYYY-MM-DD/name` without ending.
    pub fn clips(&self) -> Vec<String> {
        self.kept().clips.keys().cloned().collect()
    }

    pub(super) fn day_of(&self, stem: &str) -> PathBuf {
        let (day, _) = stem.split_once('/').unwrap_or_default();
        self.root.join(day)
    }

    /// Keeps other processes from pinning or deleting a clip, for a moment. Those of this process
    /// are kept from it by `kept`, which is locked first.
    pub(super) fn alone(&self) -> Result<Option<std::fs::File>, StoreError> {
        self.disk
            .lock(&self.root)
            .map_err(io_error("lock", &self.root))
    }

    /// Whether the file of a clip is there.
    pub(super) fn is_there(&self, stem: &str) -> Result<bool, StoreError> {
        let path = self.root.join(format!("{stem}.mp4"));
        self.disk.exists(&path).map_err(io_error("find", &path))
    }

    /// Deletes a clip, unless it is pinned; whether it did. The marker is looked at when nobody can
    /// make one any more.
    pub(super) fn remove_unpinned(&self, _: &mut Kept, stem: &str) -> Result<bool, StoreError> {
        let pin = self.root.join(format!("{stem}.pin"));
        let _alone = self.alone()?;
        if self.disk.exists(&pin).map_err(io_error("find", &pin))? {
            return Ok(false);
        }
        self.remove(stem)?;
        Ok(true)
    }

    /// Deletes all files of a clip.
    pub(super) fn remove(&self, stem: &str) -> Result<(), StoreError> {
        for ending in ENDINGS {
            let path = self.root.join(format!("{stem}.{ending}"));
            match self.disk.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("delete", &path)(e));
                }
                _ => {}
            }
        }
        // The last clip of a day takes the directory with it; else it is not empty.
        drop(self.disk.remove_dir(&self.day_of(stem)));
        Ok(())
    }

    /// The directory of a day, durable in its parents when it is new.
    fn make_dir(&self, dir: &Path) -> Result<(), StoreError> {
        if self.disk.exists(dir).unwrap_or(false) {
            return Ok(());
        }
        let made = self.disk.make_dir(dir);
        made.map_err(io_error("make the clip directory", dir))?;
        // From the state directory down: each may be new.
        for above in dir.ancestors().skip(1) {
            self.synced("sync the directory", above, self.disk.sync_dir(above))?;
            if above == self.state_dir {
                break;
            }
        }
        Ok(())
    }

    /// Begins a clip's file: exclusive, durable in its directory, empty.
    pub(super) fn create(
        self: &Arc<Self>,
        wall_ns: i64,
        path: &Name,
        label: &Name,
        id: &str,
    ) -> Result<PartFile, StoreError> {
        self.safe()?;
        let stem = stem(wall_ns, path, label, id)?;
        let dir = self.day_of(&stem);
        for n in 1..=MOST_SUFFIXES {
            // Each time: the last clip of a day takes its directory with it.
            self.make_dir(&dir)?;
            let stem = match n {
                1 => stem.clone(),
                n => format!("{stem}_{n}"),
            };
            let path = self.root.join(format!("{stem}.mp4.part"));
            let file = match self.disk.create(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound && n < MOST_SUFFIXES => continue,
                Err(e) => return Err(io_error("make", &path)(e)),
            };
            let part = PartFile::new(self, &stem, id, file, path);
            // Only the owner of the .part makes the .mp4, so this check can't be overtaken.
            let taken = |ending| self.disk.exists(&part.path(ending)).unwrap_or(true);
            if taken("mp4") || taken("json") {
                continue;
            }
            self.synced("sync the directory", &dir, self.disk.sync_dir(&dir))?;
            return Ok(part);
        }
        let path = self.root.join(stem);
        Err(StoreError::Names { path })
    }
}

/// `YYYY-MM-DD/HHMMSSZ_<path>_<label>_<id8>`.
fn stem(wall_ns: i64, path: &Name, label: &Name, id: &str) -> Result<String, StoreError> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(wall_ns))
        .map_err(|_| StoreError::Time { wall_ns })?
        .to_zoned(jiff::tz::TimeZone::UTC);
    if !is_uuid(id) {
        return Err(StoreError::Id { id: id.to_owned() });
    }
    let hex = id.chars().filter(|c| *c != '-');
    let id8: String = hex.skip(24).map(|c| c.to_ascii_lowercase()).collect();
    // A name is ASCII without separators and dots, so it can be cut anywhere and can't lead away.
    let cut = |n: &Name| n.as_str().chars().take(LONGEST_NAME).collect::<String>();
    let (path, label) = (cut(path), cut(label));
    Ok(format!(
        "{}/{}_{path}_{label}_{id8}",
        time.strftime("%Y-%m-%d"),
        time.strftime("%H%M%SZ"),
    ))
}

/// 32 hexadecimal digits, and dashes.
pub(super) fn is_uuid(id: &str) -> bool {
    let mut hex = id.chars().filter(|c| *c != '-');
    hex.clone().count() == 32 && hex.all(|c| c.is_ascii_hexdigit())
}

fn is_day(name: &str) -> bool {
    let form = |(i, b): (usize, u8)| match i {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    };
    name.len() == 10 && name.bytes().enumerate().all(form)
}
