//! A disk in memory that remembers every call, can lose its power between any two of them, and can
//! fail any of them.
//!
//! What survives a power cut: a file's bytes and length as of its last sync, and of what was written
//! after that any 512-byte sectors, or none; names as of their directory's last sync, and of what
//! was done to them after that any number, in order. Lost sectors read as zeros or as rubbish.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::disk::{Disk, DiskFile, Entry, Space};
use super::index::{Asked, Index, IndexError, Row};
use super::{ClipResult, ClipState};
use crate::mp4::ReadAt;

const SECTOR: usize = 512;

/// One call, or something that the test wants to find again between two calls.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "some hundreds of them, in a test"
)]
pub(super) enum Op {
    MakeDir(PathBuf),
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveDir(PathBuf),
    SyncDir(PathBuf),
    Write(usize, u64, Vec<u8>),
    SetLen(usize, u64),
    SyncFile(usize),
    Asked(Asked),
    EndSet(String, i64, Option<i64>),
    Joined(Asked),
    Finished(Asked, ClipResult),
    Told(String),
    Forgot(String),
    /// Its trigger has been told of.
    Named(String),
    /// The newest picture that was given to the clips.
    Pushed(i64),
    /// The beginning of this clip has been written.
    Begun(String),
}

#[derive(Debug, Clone, Default)]
struct State {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    files: Vec<Vec<u8>>,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// The call that fails, counted from 0.
    pub(super) at: usize,
    /// And all that write after it.
    pub(super) for_good: bool,
    pub(super) errno: Errno,
}

#[derive(Debug, Default)]
struct Inner {
    /// What was durable when this disk was made.
    base: State,
    now: State,
    log: Vec<Op>,
    calls: usize,
    fault: Option<Fault>,
    /// No byte can be written.
    is_full: bool,
    hits: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct ModelDisk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct ModelFile {
    disk: ModelDisk,
    file: usize,
}

/// Not cryptographic, the same on every run.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }
}

impl State {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::MakeDir(dir) => {
                self.dirs.insert(dir.clone());
            }
            Op::Create(path, file) => {
                self.names.insert(path.clone(), *file);
            }
            Op::Rename(from, to) => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Op::Remove(path) => {
                self.names.remove(path);
            }
            Op::RemoveDir(dir) => {
                self.dirs.remove(dir);
            }
            Op::Write(file, at, bytes) => {
                let file = self.file(*file);
                let (from, to) = range(*at, bytes.len());
                if file.len() < to {
                    file.resize(to, 0);
                }
                file[from..to].copy_from_slice(bytes);
            }
            Op::SetLen(file, len) => {
                let len = usize::try_from(*len).unwrap();
                self.file(*file).resize(len, 0);
            }
            Op::SyncDir(_) | Op::SyncFile(_) | Op::Named(_) | Op::Pushed(_) | Op::Begun(_) => {}
            Op::Asked(asked) => {
                let id = asked.request.id.clone();
                self.rows.entry(id).or_insert_with(|| Row {
                    asked: asked.clone(),
                    result: None,
                    is_told: false,
                });
            }
            Op::EndSet(id, end_ns, best_ns) => {
                if let Some(row) = self.rows.get_mut(id).filter(|r| r.result.is_none()) {
                    row.asked.request.ends_at(*end_ns, *best_ns);
                }
            }
            Op::Joined(asked) => {
                let id = asked.request.id.clone();
                let row = self.rows.entry(id).or_insert_with(|| Row {
                    asked: asked.clone(),
                    result: None,
                    is_told: false,
                });
                if row.result.is_none() {
                    row.asked.merged_into.clone_from(&asked.merged_into);
                }
            }
            Op::Finished(asked, result) => {
                let row = self.rows.entry(result.id.clone()).or_insert_with(|| Row {
                    asked: asked.clone(),
                    result: None,
                    is_told: false,
                });
                row.result = Some(result.clone());
            }
            Op::Told(id) => {
                if let Some(row) = self.rows.get_mut(id) {
                    row.is_told = true;
                }
            }
            Op::Forgot(id) => {
                if self.rows.get(id).is_some_and(|r| r.is_told) {
                    self.rows.remove(id);
                }
            }
        }
    }

    fn file(&mut self, file: usize) -> &mut Vec<u8> {
        if self.files.len() <= file {
            self.files.resize(file + 1, Vec::new());
        }
        &mut self.files[file]
    }
}

fn range(at: u64, len: usize) -> (usize, usize) {
    let from = usize::try_from(at).unwrap();
    (from, from + len)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap().to_owned()
}

/// The directory whose sync makes it durable.
fn directory(op: &Op) -> Option<PathBuf> {
    match op {
        Op::MakeDir(p) | Op::Create(p, _) | Op::Rename(p, _) | Op::Remove(p) | Op::RemoveDir(p) => {
            Some(parent(p))
        }
        _ => None,
    }
}

impl ModelDisk {
    fn inner<T>(&self, with: impl FnOnce(&mut Inner) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    pub(super) fn failing(fault: Option<Fault>) -> Self {
        let disk = Self::default();
        disk.inner(|i| i.fault = fault);
        disk
    }

    /// From now on.
    pub(super) fn fail(&self, fault: Fault) {
        self.inner(|i| i.fault = Some(fault));
    }

    /// From now on it takes names, but no bytes.
    pub(super) fn fill(&self) {
        self.inner(|i| i.is_full = true);
    }

    /// Everything works again.
    pub(super) fn mended(&self) {
        self.inner(|i| (i.fault, i.is_full) = (None, false));
    }

    /// Which calls were made to fail.
    pub(super) fn hits(&self) -> Vec<String> {
        self.inner(|i| i.hits.clone())
    }

    pub(super) fn calls(&self) -> usize {
        self.inner(|i| i.calls)
    }

    pub(super) fn mark(&self, op: Op) {
        self.inner(|i| {
            i.now.apply(&op);
            i.log.push(op);
        });
    }

    pub(super) fn log(&self) -> Vec<Op> {
        self.inner(|i| i.log.clone())
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.inner(|i| i.now.names.keys().cloned().collect())
    }

    pub(super) fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        self.inner(|i| i.now.names.get(path).map(|f| i.now.files[*f].clone()))
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.inner(|i| i.now.rows.values().cloned().collect())
    }

    pub(super) fn index(&self) -> Option<Box<dyn Index>> {
        Some(Box::new(self.clone()))
    }

    /// The index is lost, as well.
    pub(super) fn without_rows(self) -> Self {
        self.inner(|i| {
            i.base.rows.clear();
            i.now.rows.clear();
        });
        self
    }

    /// The bytes that the files were sure to have when the power went after `calls` of the log.
    pub(super) fn durable(&self, calls: usize) -> Self {
        self.cut(calls, &mut |_| 0)
    }

    /// The power goes after `calls` of the log. `any` of n says which of n things that may happen
    /// does.
    pub(super) fn cut(&self, calls: usize, any: &mut dyn FnMut(usize) -> usize) -> Self {
        let (mut state, log) = self.inner(|i| (i.base.clone(), i.log[..calls].to_vec()));
        // Names: per directory, what was synced and a part of the rest, in order.
        let mut upto: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (n, op) in log.iter().enumerate() {
            if let Op::SyncDir(dir) = op {
                upto.insert(dir.clone(), n);
            }
        }
        let dirs: BTreeSet<PathBuf> = log.iter().filter_map(directory).collect();
        for dir in dirs {
            let synced = upto.get(&dir).copied().map_or(0, |n| n + 1);
            let later = |(n, op): &(usize, &Op)| *n >= synced && directory(op) == Some(dir.clone());
            let rest: Vec<usize> = log
                .iter()
                .enumerate()
                .filter(later)
                .map(|(n, _)| n)
                .collect();
            let end = match any(rest.len() + 1) {
                0 => synced,
                kept => rest[kept - 1] + 1,
            };
            upto.insert(dir, end);
        }
        for (n, op) in log.iter().enumerate() {
            match directory(op) {
                Some(dir) if n < upto[&dir] => state.apply(op),
                None if !matches!(op, Op::Write(..) | Op::SetLen(..)) => state.apply(op),
                _ => {}
            }
        }
        // Bytes.
        let mut synced: BTreeMap<usize, usize> = BTreeMap::new();
        for (n, op) in log.iter().enumerate() {
            if let Op::SyncFile(file) = op {
                synced.insert(*file, n);
            }
        }
        for (n, op) in log.iter().enumerate() {
            let (Op::Write(file, ..) | Op::SetLen(file, _)) = op else {
                continue;
            };
            if synced.get(file).is_some_and(|s| n < *s) {
                state.apply(op);
                continue;
            }
            match op {
                Op::Write(file, at, bytes) => torn(state.file(*file), *at, bytes, any),
                other => {
                    if any(2) == 1 {
                        state.apply(other);
                    }
                }
            }
        }
        // A directory does not go before what is in it.
        let needed: Vec<PathBuf> = state.names.keys().map(|n| parent(n)).collect();
        state.dirs.extend(needed);
        // Each file keeps its number.
        let most = log.iter().filter_map(|op| match op {
            Op::Create(_, file) => Some(*file),
            _ => None,
        });
        if let Some(most) = most.chain(state.names.values().copied()).max() {
            state.file(most);
        }
        let disk = Self::default();
        disk.inner(|i| {
            i.base = state.clone();
            i.now = state;
        });
        disk
    }

    /// Whether the call works, and takes note of it.
    fn call(&self, op: Option<Op>) -> io::Result<()> {
        self.inner(|i| {
            let n = i.calls;
            i.calls += 1;
            if let Some(fault) = i.fault
                && (n == fault.at || (n > fault.at && fault.for_good && op.is_some()))
            {
                let what = format!("{op:?}");
                i.hits.push(what.chars().take(60).collect());
                return Err(fault.errno.into());
            }
            if i.is_full && matches!(op, Some(Op::Write(..))) {
                return Err(Errno::NOSPC.into());
            }
            if let Some(op) = op {
                i.now.apply(&op);
                i.log.push(op);
            }
            Ok(())
        })
    }
}

/// A write of which any sectors arrive.
fn torn(file: &mut Vec<u8>, at: u64, bytes: &[u8], any: &mut dyn FnMut(usize) -> usize) {
    let (from, to) = range(at, bytes.len());
    // 0: nothing of it; 1: all of it; else sector by sector.
    let how = any(4);
    if how == 0 {
        return;
    }
    let was = file.len();
    if file.len() < to {
        file.resize(to, 0);
    }
    let mut last = was;
    let mut sector = from / SECTOR * SECTOR;
    while sector < to {
        let (start, end) = (sector.max(from), (sector + SECTOR).min(to));
        if how == 1 || any(2) == 1 {
            file[start..end].copy_from_slice(&bytes[start - from..end - from]);
            last = last.max(end);
        } else if start >= was && any(2) == 1 {
            file[start..end].fill(0xA5);
        }
        sector += SECTOR;
    }
    // The length may have arrived, or not.
    if any(2) == 0 {
        file.truncate(last.max(was));
    }
}

fn not_found<T>() -> io::Result<T> {
    Err(Errno::NOENT.into())
}

impl Disk for ModelDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<PathBuf> = dir
            .ancestors()
            .filter(|d| !d.as_os_str().is_empty())
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        for dir in missing {
            if !self.inner(|i| i.now.dirs.contains(&dir)) && dir.parent().is_some() {
                self.call(Some(Op::MakeDir(dir)))?;
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (there, dir, file) = self.inner(|i| {
            let dir = i.now.dirs.contains(&parent(path));
            let file = i.now.files.len();
            i.now.files.push(Vec::new());
            (i.now.names.contains_key(path), dir, file)
        });
        match (there, dir) {
            (true, _) => return Err(Errno::EXIST.into()),
            (_, false) => return not_found(),
            _ => self.call(Some(Op::Create(path.to_owned(), file)))?,
        }
        let disk = self.clone();
        Ok(Box::new(ModelFile { disk, file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.call(None)?;
        let Some(file) = self.inner(|i| i.now.names.get(path).copied()) else {
            return not_found();
        };
        let disk = self.clone();
        Ok(Box::new(ModelFile { disk, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = self.inner(|i| {
            let names = &i.now.names;
            (names.contains_key(from), names.contains_key(to))
        });
        match (source, target) {
            (false, _) => not_found(),
            (_, true) => Err(Errno::EXIST.into()),
            _ => self.call(Some(Op::Rename(from.to_owned(), to.to_owned()))),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.inner(|i| i.now.names.contains_key(path)) {
            true => self.call(Some(Op::Remove(path.to_owned()))),
            false => not_found(),
        }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let is_empty = self.inner(|i| i.now.names.keys().all(|n| parent(n) != dir));
        match is_empty {
            true => self.call(Some(Op::RemoveDir(dir.to_owned()))),
            false => Err(Errno::NOTEMPTY.into()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Some(Op::SyncDir(dir.to_owned())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.inner(|i| {
            if !i.now.dirs.contains(dir) {
                return not_found();
            }
            let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
            let dirs = i.now.dirs.iter().filter(|d| d.parent() == Some(dir));
            let dirs = dirs.map(|d| Entry {
                name: name(d),
                is_dir: true,
                bytes: 0,
            });
            let files = i.now.names.iter().filter(|(p, _)| p.parent() == Some(dir));
            let files = files.map(|(p, f)| Entry {
                name: name(p),
                is_dir: false,
                bytes: i.now.files[*f].len() as u64,
            });
            Ok(dirs.chain(files).collect())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.inner(|i| i.now.names.contains_key(path) || i.now.dirs.contains(path)))
    }

    fn lock(&self, _: &Path) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space {
            free: 1 << 40,
            total: 1 << 41,
        })
    }
}

impl ReadAt for ModelFile {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk.call(None)?;
        self.disk.inner(|i| {
            let bytes = &i.now.files[self.file];
            let from = usize::try_from(offset).unwrap().min(bytes.len());
            Ok(bytes[from..(from + len).min(bytes.len())].to_vec())
        })
    }
}

impl DiskFile for ModelFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let op = Op::Write(self.file, offset, bytes.to_vec());
        self.disk.call(Some(op)).inspect_err(|_| {
            // A write that fails may have written some of it.
            let half = bytes[..bytes.len() / 2].to_vec();
            self.disk.mark(Op::Write(self.file, offset, half));
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.call(Some(Op::SetLen(self.file, len)))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner(|i| i.now.files[self.file].len() as u64))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.call(Some(Op::SyncFile(self.file)))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Index for ModelDisk {
    fn open(&mut self, asked: &Asked) -> Result<bool, IndexError> {
        self.call(Some(Op::Asked(asked.clone())))
            .map(|()| true)
            .map_err(IndexError::Injected)
    }

    fn set_end(&mut self, id: &str, end_ns: i64, best_ns: Option<i64>) -> Result<bool, IndexError> {
        self.call(Some(Op::EndSet(id.to_owned(), end_ns, best_ns)))
            .map(|()| true)
            .map_err(IndexError::Injected)
    }

    fn join(&mut self, asked: &Asked) -> Result<bool, IndexError> {
        self.call(Some(Op::Joined(asked.clone())))
            .map(|()| true)
            .map_err(IndexError::Injected)
    }

    fn finish(&mut self, asked: &Asked, result: &ClipResult) -> Result<bool, IndexError> {
        self.call(Some(Op::Finished(asked.clone(), result.clone())))
            .map(|()| true)
            .map_err(IndexError::Injected)
    }

    fn told(&mut self, id: &str) -> Result<bool, IndexError> {
        self.call(Some(Op::Told(id.to_owned())))
            .map(|()| true)
            .map_err(IndexError::Injected)
    }

    fn rebuild(&mut self, clips: &[(Asked, ClipResult)]) -> Result<bool, IndexError> {
        for (asked, result) in clips {
            self.finish(asked, result)?;
            self.told(&result.id)?;
        }
        Ok(!clips.is_empty())
    }

    fn forget(&mut self, ids: &[String]) -> Result<bool, IndexError> {
        for id in ids {
            self.call(Some(Op::Forgot(id.clone())))
                .map_err(IndexError::Injected)?;
        }
        Ok(!ids.is_empty())
    }

    fn rows(&mut self) -> Result<Vec<Row>, IndexError> {
        Ok(Self::rows(self))
    }
}

/// Whether it is there.
pub(super) fn is_ready(result: &ClipResult) -> bool {
    matches!(result.state, ClipState::Ready(_))
}
