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
//! 2. the finished bytes, synced, renamed to `….mp4` (never over another file), directory synced;
//! 3. `….json`, the sidecar, written the same way. Only then is the clip reported.
//!
//! **Quota.** Before every write, clips are deleted, oldest name first, until the new bytes fit.
//! Everything in the directory counts: clips, sidecars, files being written, and the `.part` files
//! of an earlier run, which are logged and are the first to go in their turn.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use visualpath_core::Name;

use crate::mp4::Patch;

/// Files of one clip: the name up to the first dot, then one of these.
const ENDINGS: [&str; 4] = ["mp4", "json", "mp4.part", "json.part"];
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
        "the clip quota of {quota} bytes has no room for {need} more, and no finished clip is left to delete: raise [clip] quota_bytes"
    )]
    Quota {
        /// Configured.
        quota: u64,
        /// Wanted.
        need: u64,
    },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// The directory of all clips. Shared by all lanes of a process; one process per directory.
#[derive(Debug)]
pub struct ClipStore {
    root: PathBuf,
    /// `root` relative to the state directory, as messages name it.
    relative: String,
    quota_bytes: u64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// Finished clips (and left-overs) by `YYYY-MM-DD/stem`, which is their age order, with bytes.
    finished: BTreeMap<String, u64>,
    /// All bytes, those being written included.
    bytes: u64,
}

impl ClipStore {
    /// The store at `state_dir/dir`, with what is there already. The directory is made with the
    /// first clip; one that can't be read or made does not stop the appliance, but fails each clip.
    ///
    /// # Errors
    /// `dir` is not a plain relative path.
    pub fn open(state_dir: &Path, dir: &str, quota_bytes: u64) -> Result<Arc<Self>, StoreError> {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if dir.is_empty() || !Path::new(dir).components().all(plain) {
            return Err(StoreError::Dir { dir: dir.into() });
        }
        let relative: PathBuf = Path::new(dir).components().collect();
        let store = Self {
            root: state_dir.join(&relative),
            relative: relative.to_string_lossy().into_owned(),
            quota_bytes,
            index: Mutex::new(Index::default()),
        };
        match store.scan() {
            Ok(index) => *store.lock() = index,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!(dir = %store.root.display(), error = %e,
                "can't read the clip directory: old clips are not counted in the quota"),
        }
        Ok(Arc::new(store))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self) -> io::Result<Index> {
        let mut index = Index::default();
        for day in fs::read_dir(&self.root)? {
            let day = day?;
            let name = day.file_name().to_string_lossy().into_owned();
            if !day.file_type()?.is_dir() || !is_day(&name) {
                continue;
            }
            for file in fs::read_dir(day.path())? {
                let file = file?;
                let file_name = file.file_name().to_string_lossy().into_owned();
                let Some((stem, ending)) = file_name.split_once('.') else {
                    continue;
                };
                if !ENDINGS.contains(&ending) {
                    continue;
                }
                if ending == "mp4.part" {
                    tracing::warn!(file = %file.path().display(),
                        "a clip of an earlier run was not finished; it is kept until its turn in the quota");
                }
                let bytes = file.metadata()?.len();
                index.bytes += bytes;
                *index.finished.entry(format!("{name}/{stem}")).or_default() += bytes;
            }
        }
        Ok(index)
    }

    /// Bytes of everything in the store.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Finished clips, oldest first, as `YYYY-MM-DD/name` without ending.
    pub fn clips(&self) -> Vec<String> {
        self.lock().finished.keys().cloned().collect()
    }

    /// Makes room for `need` bytes and counts them; not if there is no room for them.
    fn reserve(&self, need: u64) -> Result<(), StoreError> {
        let mut index = self.lock();
        if self.make_room(&mut index, need) {
            index.bytes += need;
            return Ok(());
        }
        let quota = self.quota_bytes;
        Err(StoreError::Quota { quota, need })
    }

    /// Counts `need` bytes that belong to a clip whose media is there already: a file's tables and
    /// its sidecar, a few kilobytes for which it would be wrong to lose it.
    fn reserve_anyway(&self, need: u64) {
        let mut index = self.lock();
        self.make_room(&mut index, need);
        index.bytes += need;
    }

    /// Deletes the oldest clips until `need` bytes fit; whether they do.
    fn make_room(&self, index: &mut Index, need: u64) -> bool {
        while index.bytes.saturating_add(need) > self.quota_bytes {
            let Some((stem, bytes)) = index.finished.pop_first() else {
                return false;
            };
            match self.delete(&stem) {
                Ok(()) => {
                    index.bytes = index.bytes.saturating_sub(bytes);
                    tracing::info!(clip = %stem, bytes, "deleted the oldest clip to stay within the quota");
                }
                // Still there, so still counted, but not tried again in this run.
                Err(e) => tracing::warn!(clip = %stem, error = %e, "can't delete the oldest clip"),
            }
        }
        true
    }

    fn release(&self, bytes: u64) {
        let mut index = self.lock();
        index.bytes = index.bytes.saturating_sub(bytes);
    }

    fn delete(&self, stem: &str) -> Result<(), StoreError> {
        for ending in ENDINGS {
            let path = self.root.join(format!("{stem}.{ending}"));
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("delete", &path)(e));
                }
                _ => {}
            }
        }
        if let Some((day, _)) = stem.split_once('/') {
            // The last clip of a day takes the directory with it; else it is not empty.
            drop(fs::remove_dir(self.root.join(day)));
        }
        Ok(())
    }

    /// The directory of a day, durable in its parents when it is new.
    fn make_dir(&self, dir: &Path) -> Result<(), StoreError> {
        if dir.is_dir() {
            return Ok(());
        }
        let made = DirBuilder::new().recursive(true).mode(0o750).create(dir);
        made.map_err(io_error("make the clip directory", dir))?;
        sync_dir(&self.root)?;
        self.root.parent().map_or(Ok(()), sync_dir)
    }

    /// Begins a clip's file: exclusive, durable in its directory, empty.
    pub(super) fn create(
        self: &Arc<Self>,
        wall_ns: i64,
        path: &Name,
        label: &Name,
        id: &str,
    ) -> Result<PartFile, StoreError> {
        let stem = stem(wall_ns, path, label, id)?;
        let (day, _) = stem.split_once('/').unwrap_or_default();
        let dir = self.root.join(day);
        self.make_dir(&dir)?;
        for n in 1..=MOST_SUFFIXES {
            let stem = match n {
                1 => stem.clone(),
                n => format!("{stem}_{n}"),
            };
            let path = self.root.join(format!("{stem}.mp4.part"));
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o640)
                .open(&path);
            let file = match opened {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(io_error("make", &path)(e)),
            };
            let part = PartFile {
                store: Arc::clone(self),
                dir: dir.clone(),
                stem,
                file,
                bytes: 0,
                counted: 0,
                owned: vec![path],
            };
            // Only the owner of the .part makes the .mp4, so this check can't be overtaken.
            if part.path("mp4").exists() || part.path("json").exists() {
                continue;
            }
            sync_dir(&dir)?;
            return Ok(part);
        }
        let path = self.root.join(stem);
        Err(StoreError::Names { path })
    }
}

/// A clip's file while it is being written. Dropped without [`PartFile::commit`], it is deleted.
pub(super) struct PartFile {
    store: Arc<ClipStore>,
    dir: PathBuf,
    stem: String,
    file: File,
    bytes: u64,
    counted: u64,
    /// Files to remove if this does not become a clip.
    owned: Vec<PathBuf>,
}

/// A file that is whole, durable and under its final name.
pub(super) struct Committed {
    /// Relative to the state directory.
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl PartFile {
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
        self.store.reserve_anyway(bytes as u64);
        self.counted += bytes as u64;
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path("mp4.part");
        if let Err(e) = self.file.write_all_at(bytes, self.bytes) {
            drop(self.file.set_len(self.bytes));
            return Err(io_error("write", &path)(e));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        let path = self.path("mp4.part");
        self.file.sync_data().map_err(io_error("sync", &path))
    }

    /// Overwrites bytes that are there already.
    pub(super) fn patch(&mut self, patch: &Patch) -> Result<(), StoreError> {
        let path = self.path("mp4.part");
        let done = self.file.write_all_at(&patch.bytes, patch.offset);
        done.map_err(io_error("write", &path))
    }

    /// The whole way from `.part` to a clip with its sidecar, whose text `sidecar` makes. Whatever
    /// fails, no file of the clip is left.
    pub(super) fn commit(
        mut self,
        sidecar: impl FnOnce(&Committed) -> Vec<u8>,
    ) -> Result<Committed, StoreError> {
        let part = self.path("mp4.part");
        self.file.sync_all().map_err(io_error("sync", &part))?;
        let committed = Committed {
            file: format!("{}/{}.mp4", self.store.relative, self.stem),
            bytes: self.bytes,
            sha256: self.sha256().map_err(io_error("read", &part))?,
        };
        let (mp4, json) = (self.path("mp4"), self.path("json"));
        rename_new(&part, &mp4).map_err(io_error("rename to", &mp4))?;
        self.owned = vec![mp4];
        sync_dir(&self.dir)?;

        let text = sidecar(&committed);
        self.count_anyway(text.len());
        let json_part = self.path("json.part");
        self.owned.push(json_part.clone());
        let written = File::create(&json_part).and_then(|mut f| {
            f.write_all(&text)?;
            f.sync_all()
        });
        written.map_err(io_error("write", &json_part))?;
        fs::rename(&json_part, &json).map_err(io_error("rename to", &json))?;
        self.owned.push(json);
        sync_dir(&self.dir)?;

        self.owned.clear();
        let mut index = self.store.lock();
        index.finished.insert(self.stem.clone(), self.counted);
        Ok(committed)
    }

    /// Of the file as it is, read back: bytes at the front were patched after later ones were
    /// written, and what counts is what a reader will get.
    fn sha256(&mut self) -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            match self.file.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        let digest = hash.finalize();
        Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if self.owned.is_empty() {
            return;
        }
        for path in &self.owned {
            match fs::remove_file(path) {
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

/// Makes new and renamed entries of a directory durable.
fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(io_error("sync the directory", dir))
}

/// Renames, but never over another file.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that can't (some FUSE and network ones).
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.try_exists()? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        other => Ok(other?),
    }
}
