//! What is known of every clip: of the index, and of the files where the index does not know them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use visualpath_core::Name;

use super::index::Index;
use super::index::{Row, SqliteIndex};
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
        let mut there = BTreeSet::new();
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
    fn rows(&self) -> Vec<Row> {
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

    /// The file of a finished clip; `None` if there is none. Reads one sidecar, not all.
    pub fn file_of(&self, id: &str) -> Option<PathBuf> {
        // A name ends with the last digits of the id, or those and a number.
        let digits = id.get(id.len().saturating_sub(8)..)?;
        let may_be = |stem: &str, known: Option<&str>| match known {
            Some(known) => known == id,
            None => stem.contains(&format!("_{digits}")),
        };
        let stems: Vec<String> = self
            .kept()
            .clips
            .iter()
            .filter(|(stem, clip)| may_be(stem, clip.id.as_deref()))
            .map(|(stem, _)| stem.clone())
            .collect();
        stems.iter().find_map(|stem| {
            let (asked, _) = self.sidecar(stem)?;
            (asked.request.id == id).then(|| self.root.join(format!("{stem}.mp4")))
        })
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
}
