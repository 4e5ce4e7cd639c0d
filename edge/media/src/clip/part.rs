//! A clip's file while it is being written, and its way to a name.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::disk::DiskFile;
use super::room::KeptClip;
use super::store::{ClipStore, StoreError, io_error};
use crate::mp4::Patch;

/// A clip's file while it is being written. Dropped without [`PartFile::commit`], it is deleted.
#[derive(Debug)]
pub(super) struct PartFile {
    store: Arc<ClipStore>,
    dir: PathBuf,
    stem: String,
    ids: Vec<String>,
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
    /// One that was just made at `path`, empty.
    pub(super) fn new(
        store: &Arc<ClipStore>,
        stem: &str,
        id: &str,
        file: Box<dyn DiskFile>,
        path: PathBuf,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            dir: store.day_of(stem),
            stem: stem.to_owned(),
            ids: vec![id.to_owned()],
            file,
            bytes: 0,
            counted: 0,
            owned: vec![path],
            is_left: false,
        }
    }

    /// One that an earlier process left behind. Its bytes are counted already.
    pub(super) fn adopt(
        store: &Arc<ClipStore>,
        stem: &str,
        id: &str,
        file: Box<dyn DiskFile>,
        bytes: u64,
    ) -> Self {
        // All are counted anew when recovery is done.
        let mut part = Self::new(store, stem, id, file, PathBuf::new());
        part.owned.clear();
        part.bytes = bytes;
        part.is_left = true;
        part
    }

    /// It answers these requests, too.
    pub(super) fn answers<'a>(&mut self, ids: impl Iterator<Item = &'a String>) {
        self.ids.extend(ids.cloned());
    }

    pub(super) fn path(&self, ending: &str) -> PathBuf {
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
            ids: std::mem::take(&mut self.ids),
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
