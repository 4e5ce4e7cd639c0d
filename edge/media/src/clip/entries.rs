//! What is known of every clip: of the index, and of the files where the index does not know them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use visualpath_core::Name;

use super::index::{Asked, Index, Row, SqliteIndex};
use super::store::{ClipStore, StoreError, io_error};
use super::{ClipResult, ClipState};

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
    /// The file's size. Clips that share a file (`merged_into`) have the same.
    pub bytes: u64,
    /// The clip whose file it is, if it was joined to another.
    pub merged_into: Option<String>,
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

/// A file in the clip directory that belongs to no clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrayFile {
    /// The file, with the state directory.
    pub file: PathBuf,
    /// What is wrong with it, and what to do.
    pub problem: &'static str,
}

impl ClipStore {
    /// What lies there and belongs to no clip. Files being written, or waiting for the next start to
    /// be finished, are none of these.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn strays(&self) -> Result<Vec<StrayFile>, StoreError> {
        let mut strays = Vec::new();
        for (stem, endings) in self.all_files()? {
            let has = |ending| endings.contains_key(ending);
            let (ending, problem) = match (has("mp4"), has("mp4.part")) {
                (_, true) => continue,
                (true, false) if self.sidecar(&stem).is_some() => continue,
                (true, false) => (
                    "mp4",
                    "has no .json beside it that says what it is: the next start of the appliance \
                     makes it whole; else delete it",
                ),
                (false, false) => match endings.keys().next() {
                    Some(ending) => (
                        *ending,
                        "belongs to no clip: the next start of the appliance deletes it",
                    ),
                    None => continue,
                },
            };
            let file = self.root.join(format!("{stem}.{ending}"));
            // Finished or deleted between the two looks at it.
            let there = |ending: &str| {
                self.disk
                    .exists(&self.root.join(format!("{stem}.{ending}")))
            };
            let path_is_there = self.disk.exists(&file).map_err(io_error("find", &file))?;
            let is_finished = ending != "mp4" && there("mp4").unwrap_or(false);
            if path_is_there && !is_finished {
                strays.push(StrayFile { file, problem });
            }
        }
        Ok(strays)
    }

    /// Files by clip; none where there is no directory yet.
    fn all_files(&self) -> Result<BTreeMap<String, BTreeMap<&'static str, u64>>, StoreError> {
        match self.files() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            files => files.map_err(io_error("list", &self.root)),
        }
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
            let merged_into = row.asked.merged_into;
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
                merged_into,
                is_pinned: false,
                result: row.result,
            };
            entries.insert(r.id, entry);
        }
        let files = self.all_files()?;
        let mut there = BTreeSet::new();
        for (stem, endings) in &files {
            if !endings.contains_key("mp4") {
                continue;
            }
            for (asked, result) in self.sidecars(stem) {
                let id = result.id.clone();
                there.insert(id.clone());
                let entry = entries.entry(id).or_insert_with(|| of_file(asked, result));
                entry.is_pinned = endings.contains_key("pin");
            }
        }
        let mut entries: Vec<ClipEntry> = entries.into_values().collect();
        // What was deleted meanwhile is no clip any more.
        entries.retain(|e| e.state != EntryState::Ready || there.contains(&e.id));
        entries.sort_by(|a, b| (a.wall_ns, &a.id).cmp(&(b.wall_ns, &b.id)));
        Ok(entries)
    }

    /// The rows of the index, as they are on the disk; if they can't be read there, this process's.
    /// There may be many, and whoever writes one is not to wait for the reader.
    fn rows(&self) -> Vec<Row> {
        let existing = SqliteIndex::existing(&self.state_dir, &self.relative);
        let rows = existing.and_then(|index| index.map(|mut i| i.rows()).transpose());
        if let Ok(Some(rows)) = rows {
            return rows;
        }
        let mut own = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.as_mut().map(|index| index.rows());
        match own.transpose().and_then(|own| Ok(own.or(rows?))) {
            Ok(rows) => rows.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "clips are listed by their files alone");
                Vec::new()
            }
        }
    }

    /// Keeps a clip from being deleted for room, or no longer.
    ///
    /// # Errors
    /// There is no such clip, or the disk failed.
    pub fn pin(&self, id: &str, on: bool) -> Result<(), StoreError> {
        let stem = self.find(id)?;
        let path = self.root.join(format!("{stem}.pin"));
        let dir = self.day_of(&stem);
        // Whoever deletes looks for the marker with both held: what is there now stays.
        let kept = self.kept();
        let alone = self.alone()?;
        if !self.is_there(&stem)? {
            return Err(self.unknown(id));
        }
        let there = self.disk.exists(&path).map_err(io_error("find", &path))?;
        let made = match (on, there) {
            (true, false) => Some(self.disk.create(&path).map_err(io_error("make", &path))?),
            (false, true) => {
                let removed = self.disk.remove(&path);
                removed.map_err(io_error("delete", &path))?;
                None
            }
            _ => return Ok(()),
        };
        drop((alone, kept));
        if let Some(file) = made {
            self.synced("sync", &path, file.sync_all())?;
        }
        self.synced("sync the directory", &dir, self.disk.sync_dir(&dir))
    }

    /// Deletes a clip that is not pinned and everything beside it, and with its file the clips that share it.
    ///
    /// # Errors
    /// There is no such clip, it is pinned, or the disk failed.
    pub fn delete(&self, id: &str) -> Result<(), StoreError> {
        let stem = self.find(id)?;
        let mut kept = self.kept();
        if !self.remove_unpinned(&mut kept, &stem)? {
            return Err(StoreError::Pinned { id: id.to_owned() });
        }
        let mut ids = kept.uncount(&stem).unwrap_or_default().ids;
        drop(kept);
        if !ids.iter().any(|i| i == id) {
            ids.push(id.to_owned());
        }
        self.forget(&ids);
        Ok(())
    }

    /// The file of a finished clip; `None` if there is none. Reads one sidecar, as a rule.
    pub fn file_of(&self, id: &str) -> Option<PathBuf> {
        let stem = self.stem_of(id)?;
        Some(self.root.join(format!("{stem}.mp4")))
    }

    fn stem_of(&self, id: &str) -> Option<String> {
        // A name ends with the last digits of its first id, or those and a number.
        let digits = format!("_{}", id.get(id.len().saturating_sub(8)..)?);
        let kept = self.kept();
        let (known, unknown): (Vec<_>, Vec<_>) = kept
            .clips
            .iter()
            .partition(|(_, clip)| !clip.ids.is_empty());
        let known = known
            .into_iter()
            .filter(|(_, c)| c.ids.iter().any(|i| i == id));
        let (likely, others): (Vec<_>, Vec<_>) = unknown
            .into_iter()
            .partition(|(stem, _)| stem.contains(&digits));
        let stems: Vec<String> = known
            .chain(likely)
            .chain(others)
            .map(|(stem, _)| stem.clone())
            .collect();
        drop(kept);
        stems.into_iter().find(|stem| {
            let all = self.sidecars(stem);
            all.iter().any(|(asked, _)| asked.request.id == id)
        })
    }

    fn find(&self, id: &str) -> Result<String, StoreError> {
        let stem = self.stem_of(id).ok_or_else(|| self.unknown(id))?;
        match self.is_there(&stem)? {
            true => Ok(stem),
            false => Err(self.unknown(id)),
        }
    }

    fn unknown(&self, id: &str) -> StoreError {
        StoreError::Unknown {
            id: id.to_owned(),
            dir: self.root.clone(),
        }
    }
}

/// One that the index does not know.
fn of_file(asked: Asked, result: ClipResult) -> ClipEntry {
    let (file, bytes) = match &result.state {
        ClipState::Ready(ready) => (Some(ready.file.clone()), ready.bytes),
        ClipState::Failed { .. } => (None, 0),
    };
    let r = asked.request;
    ClipEntry {
        id: r.id,
        trigger_id: r.trigger_id,
        source: asked.source,
        path: r.path,
        label: r.label,
        event_ns: r.event_ns,
        wall_ns: r.wall_ns,
        state: EntryState::Ready,
        file,
        bytes,
        merged_into: asked.merged_into,
        is_pinned: false,
        result: Some(result),
    }
}
