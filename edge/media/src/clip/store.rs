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
//! A `….pin` beside it, an empty file, keeps a clip from being deleted for room.
//!
//! **Room.** Before every write, clips are deleted, oldest name first, until the new bytes fit into
//! the quota and leave the file system its reserve (5 % and 256 MiB, a quarter of a small one).
//! Everything in the directory counts: clips, sidecars, files being written.
//!
//! **Safe mode.** A sync that failed says that something was not written, not what, and a second one
//! would say that all is well (the kernel drops what it could not write). From then on the store
//! takes no clips until the appliance is started again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;
use sha2::{Digest, Sha256};
use visualpath_core::Name;

use super::disk::{Disk, DiskFile, RealDisk, Space};
use super::index::{Asked, Index, IndexError, SqliteIndex};
use super::{ClipEnd, ClipRequest, ClipResult, ClipState, Unheard};
use crate::mp4::Patch;

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
/// What is left of the file system, beside 5 % of it.
const RESERVE: u64 = 256 << 20;

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
    state_dir: PathBuf,
    /// `root` relative to the state directory, as messages name it.
    pub(super) relative: String,
    quota_bytes: u64,
    pub(super) disk: Arc<dyn Disk>,
    kept: Mutex<Kept>,
    /// There once this process has taken the directory over.
    pub(super) index: Mutex<Option<Box<dyn Index>>>,
    /// Held as long as this process may write.
    lock: OnceLock<std::fs::File>,
    /// The first sync that failed.
    unsafe_since: OnceLock<String>,
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Finished clips by `YYYY-MM-DD/stem`, which is their age order.
    pub(super) clips: BTreeMap<String, KeptClip>,
    /// All bytes, those being written included.
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct KeptClip {
    pub(super) bytes: u64,
    /// As far as it is known.
    pub(super) id: Option<String>,
}

/// What is known of one clip.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipEntry {
    /// Its id.
    pub id: String,
    /// Of the trigger that asked for it.
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

    /// Does something with the index, if there is one; an error is logged.
    pub(super) fn with_index(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut dyn Index) -> Result<(), IndexError>,
    ) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = index.as_mut()
            && let Err(error) = act(&mut **index)
        {
            tracing::error!(%error, what, "the clip index could not be written");
        }
    }

    /// Notes that a clip is asked for, durably: after a crash it is answered for.
    pub fn asked(&self, source: &Name, request: &ClipRequest) {
        let asked = Asked {
            source: source.clone(),
            request: request.clone(),
        };
        self.with_index("open", |index| index.open(&asked));
    }

    /// A clip that was asked for is not wanted any more.
    pub(super) fn withdraw(&self, id: &str) {
        self.with_index("withdraw", |index| {
            index.told(id)?;
            index.forget(id)
        });
    }

    /// Notes what became of a clip, durably.
    pub(super) fn answered(&self, source: &Name, request: &ClipRequest, result: &ClipResult) {
        let asked = Asked {
            source: source.clone(),
            request: request.clone(),
        };
        self.with_index("finish", |index| index.finish(&asked, result));
    }

    /// Whoever had to know of this clip's result does: it is not told again.
    pub fn told(&self, id: &str) {
        self.with_index("told", |index| index.told(id));
    }

    /// Whether clips are answered for after a crash.
    pub fn has_index(&self) -> bool {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.is_some()
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

    fn safe(&self) -> Result<(), StoreError> {
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
                kept.clips.insert(stem, KeptClip { bytes, id: None });
            }
        }
        Ok(kept)
    }

    /// Bytes of everything in the store.
    pub fn bytes(&self) -> u64 {
        self.kept().bytes
    }

    /// Finished clips, oldest first, as `YYYY-MM-DD/name` without ending.
    pub fn clips(&self) -> Vec<String> {
        self.kept().clips.keys().cloned().collect()
    }

    /// What is known of every clip, oldest first: the index's, and the files' where it has none.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn entries(&self) -> Result<Vec<ClipEntry>, StoreError> {
        let rows = self.rows();
        let mut entries = BTreeMap::new();
        for row in rows {
            let r = row.asked.request;
            let ready = match row.result.as_ref().map(|r| &r.state) {
                Some(ClipState::Ready(ready)) => Some((ready.file.clone(), ready.bytes)),
                _ => None,
            };
            let state = match (&row.result, &ready) {
                (None, _) => EntryState::Open,
                (_, Some(_)) => EntryState::Ready,
                _ => EntryState::Failed,
            };
            let (file, bytes) = ready.unzip();
            let entry = ClipEntry {
                id: r.id.clone(),
                trigger_id: r.trigger_id,
                source: row.asked.source,
                path: r.path,
                label: r.label,
                event_ns: r.event_ns,
                wall_ns: r.wall_ns,
                state,
                file,
                bytes: bytes.unwrap_or(0),
                is_pinned: false,
                result: row.result,
            };
            entries.insert(r.id, entry);
        }
        let files = match self.files() {
            Ok(files) => files,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(io_error("list", &self.root)(e)),
        };
        let mut there = std::collections::BTreeSet::new();
        for (stem, endings) in &files {
            if !endings.contains_key("mp4") {
                continue;
            }
            let Some((asked, result)) = self.sidecar(stem) else {
                continue;
            };
            let ClipState::Ready(ready) = &result.state else {
                continue;
            };
            let r = &asked.request;
            there.insert(r.id.clone());
            let entry = entries.entry(r.id.clone()).or_insert_with(|| ClipEntry {
                id: r.id.clone(),
                trigger_id: r.trigger_id.clone(),
                source: asked.source.clone(),
                path: r.path.clone(),
                label: r.label.clone(),
                event_ns: r.event_ns,
                wall_ns: r.wall_ns,
                state: EntryState::Ready,
                file: Some(ready.file.clone()),
                bytes: ready.bytes,
                is_pinned: false,
                result: Some(result.clone()),
            });
            entry.is_pinned = endings.contains_key("pin");
        }
        let mut entries: Vec<ClipEntry> = entries.into_values().collect();
        // What was deleted meanwhile is no clip any more.
        entries.retain(|e| e.state != EntryState::Ready || there.contains(&e.id));
        entries.sort_by(|a, b| (a.wall_ns, &a.id).cmp(&(b.wall_ns, &b.id)));
        Ok(entries)
    }

    /// The rows of the index: of this process's, or, without one, as they are on the disk.
    fn rows(&self) -> Vec<super::index::Row> {
        let mut own = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = match own.as_mut() {
            Some(index) => index.rows(),
            None => SqliteIndex::existing(&self.state_dir, &self.relative)
                .and_then(|index| index.map_or_else(|| Ok(vec![]), |mut i| i.rows())),
        };
        rows.unwrap_or_else(|error| {
            tracing::warn!(%error, "clips are listed by their files alone");
            Vec::new()
        })
    }

    /// Keeps a clip from being deleted for room, or no longer.
    ///
    /// # Errors
    /// There is no such clip, or the disk failed.
    pub fn pin(&self, id: &str, on: bool) -> Result<(), StoreError> {
        let stem = self.find(id)?;
        let path = self.root.join(format!("{stem}.pin"));
        let dir = self.day_of(&stem);
        let there = self.disk.exists(&path).map_err(io_error("find", &path))?;
        match (on, there) {
            (true, false) => {
                let file = self.disk.create(&path).map_err(io_error("make", &path))?;
                self.synced("sync", &path, file.sync_all())?;
                // It may have been deleted for room at this very moment.
                let mp4 = self.root.join(format!("{stem}.mp4"));
                if !self.disk.exists(&mp4).map_err(io_error("find", &mp4))? {
                    self.remove(&stem)?;
                    return Err(StoreError::Unknown {
                        id: id.to_owned(),
                        dir: self.root.clone(),
                    });
                }
            }
            (false, true) => self.disk.remove(&path).map_err(io_error("delete", &path))?,
            _ => return Ok(()),
        }
        self.synced("sync the directory", &dir, self.disk.sync_dir(&dir))
    }

    /// Deletes a clip and everything beside it.
    ///
    /// # Errors
    /// There is no such clip, or the disk failed.
    pub fn delete(&self, id: &str) -> Result<(), StoreError> {
        let stem = self.find(id)?;
        self.remove(&stem)?;
        let mut kept = self.kept();
        if let Some(clip) = kept.clips.remove(&stem) {
            kept.bytes = kept.bytes.saturating_sub(clip.bytes);
        }
        drop(kept);
        self.with_index("forget", |index| index.forget(id));
        Ok(())
    }

    fn find(&self, id: &str) -> Result<String, StoreError> {
        let entries = self.entries()?;
        let file = entries
            .into_iter()
            .find(|e| e.id == id)
            .and_then(|e| e.file);
        let stem = file.as_deref().and_then(|f| {
            let below = f.strip_prefix(&self.relative)?.strip_prefix('/')?;
            below.strip_suffix(".mp4")
        });
        stem.map(str::to_owned).ok_or_else(|| StoreError::Unknown {
            id: id.to_owned(),
            dir: self.root.clone(),
        })
    }

    fn day_of(&self, stem: &str) -> PathBuf {
        let (day, _) = stem.split_once('/').unwrap_or_default();
        self.root.join(day)
    }

    /// Makes room for `need` bytes and counts them; not if there is no room for them.
    pub(super) fn reserve(&self, need: u64) -> Result<(), StoreError> {
        self.safe()?;
        let mut kept = self.kept();
        self.make_room(&mut kept, need)?;
        kept.bytes += need;
        Ok(())
    }

    /// Counts `need` bytes that belong to a clip whose media is there already: a file's tables and
    /// its sidecar, a few kilobytes for which it would be wrong to lose it.
    fn reserve_anyway(&self, need: u64) {
        let mut kept = self.kept();
        if let Err(e) = self.make_room(&mut kept, need) {
            tracing::debug!(error = %e, "a clip is finished all the same");
        }
        kept.bytes += need;
    }

    /// Why `need` bytes more do not fit, and how many have to go.
    fn lacking(&self, kept: &Kept, need: u64) -> Option<(StoreError, u64)> {
        let over = kept
            .bytes
            .saturating_add(need)
            .saturating_sub(self.quota_bytes);
        if over > 0 {
            let quota = self.quota_bytes;
            return Some((StoreError::Quota { quota, need }, over));
        }
        match self.disk.space(&self.root) {
            Ok(Space { free, total }) => {
                let reserve = (total / 20).saturating_add(RESERVE).min(total / 4);
                let over = reserve.saturating_add(need).saturating_sub(free);
                let dir = self.root.clone();
                (over > 0).then_some((StoreError::Full { dir, free, reserve }, over))
            }
            Err(e) => {
                tracing::debug!(dir = %self.root.display(), error = %e, "free space is unknown");
                None
            }
        }
    }

    /// Deletes the oldest clips that are not pinned until `need` bytes fit; none, if that would not
    /// be enough.
    fn make_room(&self, kept: &mut Kept, need: u64) -> Result<(), StoreError> {
        // Both may lack, one after the other.
        for _ in 0..2 {
            let Some((lacking, over)) = self.lacking(kept, need) else {
                return Ok(());
            };
            let mut going: Vec<String> = Vec::new();
            let mut bytes = 0_u64;
            for (stem, clip) in &kept.clips {
                if bytes >= over {
                    break;
                }
                // The marker counts, not a memory of it: `visualpath clip pin` is another process.
                let pin = self.root.join(format!("{stem}.pin"));
                if !self.disk.exists(&pin).unwrap_or(true) {
                    bytes += clip.bytes;
                    going.push(stem.clone());
                }
            }
            if bytes < over {
                return Err(lacking);
            }
            let mut failed = false;
            for stem in going {
                failed |= !self.delete_oldest(kept, &stem);
            }
            // The file system may count what was freed only later.
            if !failed && !matches!(lacking, StoreError::Quota { .. }) {
                return Ok(());
            }
        }
        self.lacking(kept, need)
            .map_or(Ok(()), |(lacking, _)| Err(lacking))
    }

    /// Whether it is gone.
    fn delete_oldest(&self, kept: &mut Kept, stem: &str) -> bool {
        if let Err(e) = self.remove(stem) {
            // Still there, so still counted.
            tracing::warn!(clip = %stem, error = %e, "can't delete the oldest clip");
            return false;
        }
        if let Some(clip) = kept.clips.remove(stem) {
            kept.bytes = kept.bytes.saturating_sub(clip.bytes);
            tracing::info!(clip = %stem, bytes = clip.bytes, "deleted the oldest clip to make room");
            if let Some(id) = clip.id {
                self.with_index("forget", |index| index.forget(&id));
            }
        }
        true
    }

    fn release(&self, bytes: u64) {
        let mut kept = self.kept();
        kept.bytes = kept.bytes.saturating_sub(bytes);
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
            let part = PartFile {
                store: Arc::clone(self),
                dir: dir.clone(),
                stem,
                id: id.to_owned(),
                file,
                bytes: 0,
                counted: 0,
                owned: vec![path],
                is_left: false,
            };
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

/// A clip's file while it is being written. Dropped without [`PartFile::commit`], it is deleted.
#[derive(Debug)]
pub(super) struct PartFile {
    store: Arc<ClipStore>,
    dir: PathBuf,
    stem: String,
    id: String,
    pub(super) file: Box<dyn DiskFile>,
    bytes: u64,
    counted: u64,
    /// Files to remove if this does not become a clip.
    owned: Vec<PathBuf>,
    /// Of an earlier process: it is evidence. If it can't be finished now it stays, and nothing is
    /// deleted for the little that finishing it takes.
    is_left: bool,
}

/// A file that is whole and durable, under the name it is about to get.
pub(super) struct Committed {
    /// Relative to the state directory.
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl PartFile {
    /// One that an earlier process left behind. Its bytes are counted already.
    pub(super) fn adopt(
        store: &Arc<ClipStore>,
        stem: &str,
        id: &str,
        file: Box<dyn DiskFile>,
        bytes: u64,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            dir: store.day_of(stem),
            stem: stem.to_owned(),
            id: id.to_owned(),
            file,
            bytes,
            // All are counted anew when recovery is done.
            counted: 0,
            owned: Vec::new(),
            is_left: true,
        }
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.store.root.join(format!("{}.{ending}", self.stem))
    }

    /// Appends media, within the quota. After an error the file ends where it ended before.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.reserve(bytes.len() as u64)?;
        self.counted += bytes.len() as u64;
        self.write(bytes)
    }

    /// Appends the tables of media that is there already.
    pub(super) fn append_tables(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.count_anyway(bytes.len());
        self.write(bytes)
    }

    fn count_anyway(&mut self, bytes: usize) {
        if self.is_left {
            return;
        }
        self.store.reserve_anyway(bytes as u64);
        self.counted += bytes as u64;
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path("mp4.part");
        if let Err(e) = self.file.write_all_at(bytes, self.bytes) {
            // `commit` sees to it again.
            drop(self.file.set_len(self.bytes));
            return Err(io_error("write", &path)(e));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.store.safe()?;
        let path = self.path("mp4.part");
        self.store.synced("sync", &path, self.file.sync_data())
    }

    /// Overwrites bytes that are there already.
    pub(super) fn patch(&mut self, patch: &Patch) -> Result<(), StoreError> {
        let path = self.path("mp4.part");
        let done = self.file.write_all_at(&patch.bytes, patch.offset);
        done.map_err(io_error("write", &path))
    }

    fn own(&mut self, path: PathBuf) {
        if !self.is_left {
            self.owned.push(path);
        }
    }

    /// The whole way from `.part` to a clip with its sidecar, whose text `sidecar` makes. Whatever
    /// fails, no file of the clip is left.
    pub(super) fn commit(
        mut self,
        sidecar: impl FnOnce(&Committed) -> Vec<u8>,
    ) -> Result<Committed, StoreError> {
        let store = Arc::clone(&self.store);
        store.safe()?;
        let part = self.path("mp4.part");
        if self
            .file
            .len()
            .map_err(io_error("find the size of", &part))?
            != self.bytes
        {
            let cut = self.file.set_len(self.bytes);
            cut.map_err(io_error("cut", &part))?;
        }
        store.synced("sync", &part, self.file.sync_all())?;
        let committed = Committed {
            file: format!("{}/{}.mp4", store.relative, self.stem),
            bytes: self.bytes,
            sha256: sha256(&*self.file).map_err(io_error("read", &part))?,
        };
        let text = sidecar(&committed);
        self.count_anyway(text.len());
        let (json_part, json) = (self.path("json.part"), self.path("json"));
        self.own(json_part.clone());
        let written = store.disk.create(&json_part).and_then(|f| {
            f.write_all_at(&text, 0)?;
            Ok(f)
        });
        let file = written.map_err(io_error("write", &json_part))?;
        store.synced("sync", &json_part, file.sync_all())?;
        let renamed = store.disk.rename(&json_part, &json);
        renamed.map_err(io_error("rename to", &json))?;
        self.own(json);
        store.synced(
            "sync the directory",
            &self.dir,
            store.disk.sync_dir(&self.dir),
        )?;
        let mp4 = self.path("mp4");
        let renamed = store.disk.rename(&part, &mp4);
        renamed.map_err(io_error("rename to", &mp4))?;
        self.own(mp4);
        store.synced(
            "sync the directory",
            &self.dir,
            store.disk.sync_dir(&self.dir),
        )?;

        self.owned.clear();
        let clip = KeptClip {
            bytes: self.counted,
            id: Some(self.id.clone()),
        };
        store.kept().clips.insert(self.stem.clone(), clip);
        self.counted = 0;
        Ok(committed)
    }
}

/// Of a file as it is, read back: bytes at the front were patched after later ones were written, and
/// what counts is what a reader will get.
pub(super) fn sha256(file: &dyn DiskFile) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut at = 0;
    loop {
        let piece = file.read_at(at, 128 * 1024)?;
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        at += piece.len() as u64;
    }
    let digest = hash.finalize();
    Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
}

impl Drop for PartFile {
    fn drop(&mut self) {
        for path in &self.owned {
            match self.store.disk.remove(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = %path.display(), error = %e, "can't remove an unfinished clip");
                }
                _ => {}
            }
        }
        self.store.release(self.counted);
    }
}

/// `YYYY-MM-DD/HHMMSSZ_<path>_<label>_<id8>`.
fn stem(wall_ns: i64, path: &Name, label: &Name, id: &str) -> Result<String, StoreError> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(wall_ns))
        .map_err(|_| StoreError::Time { wall_ns })?
        .to_zoned(jiff::tz::TimeZone::UTC);
    let hex: Vec<char> = id.chars().filter(|c| *c != '-').collect();
    let is_uuid = hex.len() == 32 && hex.iter().all(char::is_ascii_hexdigit);
    if !is_uuid {
        return Err(StoreError::Id { id: id.to_owned() });
    }
    let id8: String = hex[24..].iter().map(char::to_ascii_lowercase).collect();
    // A name is ASCII without separators and dots, so it can be cut anywhere and can't lead away.
    let cut = |n: &Name| n.as_str().chars().take(LONGEST_NAME).collect::<String>();
    let (path, label) = (cut(path), cut(label));
    Ok(format!(
        "{}/{}_{path}_{label}_{id8}",
        time.strftime("%Y-%m-%d"),
        time.strftime("%H%M%SZ"),
    ))
}

fn is_day(name: &str) -> bool {
    let form = |(i, b): (usize, u8)| match i {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    };
    name.len() == 10 && name.bytes().enumerate().all(form)
}
