//! After a crash: what an earlier process left behind becomes clips, or is answered for.
//!
//! | found | done | told |
//! |---|---|---|
//! | `.mp4.part` with a whole fragment | cut behind the last whole one, finished like any other | `ready`, `partial` |
//! | `.mp4.part` without one | removed | `failed` |
//! | `.mp4.part` and its `.json` | it was finished: renamed | `ready` |
//! | `.mp4` without a whole `.json` | sidecar made again from the file's note | – |
//! | anything else without its `.mp4` | removed: a deletion that was cut off | – |
//! | asked for, no file | – | `failed` |
//! | asked for, joined to a clip (`merge.rs`) | answered by its file, if that shows anything of it | `ready`, `failed` |
//! | a result nobody was told of | – | that result |
//!
//! A file that can't be read or finished now (a full disk, a read-only one) stays, and is tried
//! again at the next start.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};

use super::finish::{Head, Written, read_sidecar};
use super::index::{Asked, Index, Row};
use super::open::{ClipError, failed};
use super::part::{PartFile, sha256};
use super::store::{ClipStore, StoreError, io_error};
use super::{ClipEnd, ClipRequest, ClipResult, ClipState, Unheard};
use crate::mp4::{Left, Mp4Error, TIMESCALE};
use crate::ring::Gap;

/// Largest sidecar that is read.
const MOST_SIDECAR: usize = 4 << 20;

/// The file's clock.
const TICK_NS: u64 = 1_000_000_000 / TIMESCALE as u64;

/// What a file that was left behind has become.
enum Found {
    /// A clip of an earlier run, known or not, and those that share its file.
    Kept(Vec<(Asked, ClipResult)>),
    /// One that this run has finished.
    Finished(Vec<(Asked, ClipResult)>),
    /// Nothing to keep, of this clip if it is known.
    Nothing(Option<Asked>),
    /// It stays as it is.
    Left,
}

/// Whether a file of this name is that of the clip `id`.
fn names(stem: &str, id: &str) -> bool {
    let id8 = id.get(id.len().saturating_sub(8)..).unwrap_or(id);
    stem.contains(&format!("_{}", id8.to_ascii_lowercase()))
}

fn unheard(asked: Asked, result: ClipResult) -> Unheard {
    Unheard {
        request: asked.request,
        result,
    }
}

impl ClipStore {
    /// See [`ClipStore::take_over`].
    pub(super) fn take_over_with(
        self: &Arc<Self>,
        mut index: Option<Box<dyn Index>>,
    ) -> Vec<Unheard> {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        match index.as_mut().map(|index| index.rows()) {
            Some(Ok(all)) => rows.extend(all.into_iter().map(|r| (r.asked.request.id.clone(), r))),
            // Half an index is worse than none: it would call clips told that are not.
            Some(Err(error)) => {
                tracing::error!(%error, "the clip index can't be read, and is not used");
                self.no_index(&error);
                index = None;
            }
            None => {}
        }
        // An index that was lost knows of nothing; its clips were told of long ago.
        let is_new = rows.is_empty();
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = index;

        let files = match self.files() {
            Ok(files) => files,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => {
                tracing::error!(dir = %self.root.display(), error = %e, "the clip directory can't be read");
                return Vec::new();
            }
        };
        let mut tell = Vec::new();
        // Clips that are there, or may be with the next start: id → stem.
        let mut there: BTreeMap<String, String> = BTreeMap::new();
        let mut known_again = Vec::new();
        for (stem, endings) in files {
            let found = match self.look_at(&stem, &endings, &rows) {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(clip = %stem, %error, "a clip that was left behind can't be finished; it is tried again at the next start");
                    Found::Left
                }
            };
            match found {
                Found::Kept(all) => {
                    for (asked, result) in all {
                        there.insert(result.id.clone(), stem.clone());
                        match rows.get(&result.id) {
                            None if is_new => known_again.push((asked, result)),
                            Some(row) if row.result.is_some() && row.is_told => {}
                            row => {
                                // Finished, but the index had not heard of it.
                                if row.is_none_or(|r| r.result.is_none()) {
                                    self.with_index("finish", |i| i.finish(&asked, &result));
                                }
                                tell.push(unheard(asked, result));
                            }
                        }
                    }
                }
                Found::Finished(all) => {
                    for (asked, result) in all {
                        tracing::warn!(clip = %stem, id = %result.id, "a clip of an earlier run was finished");
                        self.with_index("finish", |index| index.finish(&asked, &result));
                        there.insert(result.id.clone(), stem.clone());
                        tell.push(unheard(asked, result));
                    }
                }
                Found::Nothing(asked) => {
                    // Its row, if there is one, is answered below.
                    if let Some(asked) = asked.filter(|a| !rows.contains_key(&a.request.id)) {
                        tell.push(self.lost(asked));
                    }
                }
                // Whose it is, its name says. Its row stays open.
                Found::Left => {
                    let of = rows
                        .iter()
                        .filter(|(_, row)| names(&stem, row.asked.host()));
                    there.extend(of.map(|(id, _)| (id.clone(), stem.clone())));
                }
            }
        }
        if !known_again.is_empty() {
            self.with_index("rebuild", |index| index.rebuild(&known_again));
        }
        self.count(&there);
        let mut deleted = Vec::new();
        for (id, row) in rows {
            if there.contains_key(&id) {
                continue;
            }
            match (row.result, row.is_told) {
                (None, _) => tell.push(self.lost(row.asked)),
                (Some(result), false) => tell.push(unheard(row.asked, result)),
                // Deleted by hand.
                (Some(result), true) => {
                    if matches!(result.state, ClipState::Ready(_)) {
                        deleted.push(id);
                    }
                }
            }
        }
        self.forget(&deleted);
        if is_new && !there.is_empty() {
            tracing::info!(
                clips = there.len(),
                "the clip index was made from the clips' files"
            );
        }
        tell
    }

    /// Counts anew what is there now.
    fn count(&self, there: &BTreeMap<String, String>) {
        match self.scan() {
            Ok(mut kept) => {
                for (id, stem) in there {
                    if let Some(clip) = kept.clips.get_mut(stem) {
                        clip.ids.push(id.clone());
                    }
                }
                *self.kept() = kept;
            }
            Err(e) => {
                tracing::warn!(dir = %self.root.display(), error = %e, "clips are not counted anew");
            }
        }
    }

    /// A clip that there is nothing of.
    fn lost(&self, asked: Asked) -> Unheard {
        let reason =
            "the appliance was killed or lost its power before a picture of it was on the disk";
        let result = failed(asked.request.clone(), asked.source.clone(), &reason);
        self.with_index("finish", |index| index.finish(&asked, &result));
        unheard(asked, result)
    }

    /// What the sidecar of a clip says, if it has a whole one.
    pub(super) fn sidecar(&self, stem: &str) -> Option<(Asked, ClipResult)> {
        self.sidecars(stem).into_iter().next()
    }

    /// The same, and what it says of the clips that share the file.
    pub(super) fn sidecars(&self, stem: &str) -> Vec<(Asked, ClipResult)> {
        self.read_sidecar(stem).ok().flatten().unwrap_or_default()
    }

    fn read_sidecar(&self, stem: &str) -> Result<Option<Vec<(Asked, ClipResult)>>, StoreError> {
        let path = self.root.join(format!("{stem}.json"));
        let file = match self.disk.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error("open", &path))?,
        };
        let text = file
            .read_at(0, MOST_SIDECAR)
            .map_err(io_error("read", &path))?;
        Ok(read_sidecar(&text))
    }

    fn look_at(
        self: &Arc<Self>,
        stem: &str,
        endings: &BTreeMap<&'static str, u64>,
        rows: &BTreeMap<String, Row>,
    ) -> Result<Found, ClipError> {
        let has = |ending: &str| endings.contains_key(ending);
        let path = |ending: &str| self.root.join(format!("{stem}.{ending}"));
        let day = path("mp4").parent().map(std::path::Path::to_owned);
        let day = day.unwrap_or_else(|| self.root.clone());
        let has_failed = |asked: &Asked| {
            let row = rows.get(&asked.request.id);
            let result = row.and_then(|r| r.result.as_ref());
            result.is_some_and(|r| matches!(r.state, ClipState::Failed { .. }))
        };
        for half in ["json.part", "jpg.part", "h264.mp4.part"] {
            if has(half) {
                let path = path(half);
                self.disk.remove(&path).map_err(io_error("delete", &path))?;
            }
        }
        if has("mp4") && !has("mp4.part") {
            if let Some(all) = self.read_sidecar(stem)? {
                return Ok(Found::Kept(all));
            }
            // The note in the file says what the sidecar would; finishing it again changes nothing
            // but the times' last digits.
            let (from, to) = (path("mp4"), path("mp4.part"));
            let file = self.disk.open(&from).map_err(io_error("open", &from))?;
            if self
                .head(&*file)
                .map_err(io_error("read", &from))?
                .is_none()
            {
                tracing::warn!(file = %from.display(), "not a clip of this appliance; it is left alone");
                return Ok(Found::Left);
            }
            if has("json") {
                let json = path("json");
                self.disk.remove(&json).map_err(io_error("delete", &json))?;
            }
            self.disk
                .rename(&from, &to)
                .map_err(io_error("rename to", &to))?;
            return Ok(match self.finish_part(stem, rows, &|_| false)? {
                Found::Finished(all) => Found::Kept(all),
                other => other,
            });
        }
        if !has("mp4.part") {
            self.remove(stem)?;
            return Ok(Found::Nothing(None));
        }
        if has("json") {
            // The sidecar is only made of a file that is whole.
            if let Some(all) = self.read_sidecar(stem)?
                && let Some((_, result)) = all.first()
                && self.is_whole(stem, result)?
            {
                let (from, to) = (path("mp4.part"), path("mp4"));
                self.disk
                    .rename(&from, &to)
                    .map_err(io_error("rename to", &to))?;
                self.synced("sync the directory", &day, self.disk.sync_dir(&day))?;
                return Ok(Found::Kept(all));
            }
            let json = path("json");
            self.disk.remove(&json).map_err(io_error("delete", &json))?;
        }
        self.finish_part(stem, rows, &has_failed)
    }

    /// Whether the unfinished file is what the sidecar says.
    fn is_whole(&self, stem: &str, result: &ClipResult) -> Result<bool, StoreError> {
        let path = self.root.join(format!("{stem}.mp4.part"));
        let file = self.disk.open(&path).map_err(io_error("open", &path))?;
        let sum = sha256(&*file).map_err(io_error("read", &path))?;
        Ok(matches!(&result.state, ClipState::Ready(ready) if ready.sha256 == sum))
    }

    fn head(&self, file: &dyn super::disk::DiskFile) -> io::Result<Option<(Left, Head)>> {
        let left = Left::read(file)?;
        Ok(left.and_then(|left| {
            let head = serde_json::from_slice(&left.note).ok()?;
            Some((left, head))
        }))
    }

    /// Finishes an unfinished file, or removes it if there is nothing in it.
    fn finish_part(
        self: &Arc<Self>,
        stem: &str,
        rows: &BTreeMap<String, Row>,
        has_failed: &dyn Fn(&Asked) -> bool,
    ) -> Result<Found, ClipError> {
        let path = self.root.join(format!("{stem}.mp4.part"));
        let reading = |e| io_error("read", &path)(e);
        let file = self.disk.open(&path).map_err(io_error("open", &path))?;
        let Some((left, mut head)) = self.head(&*file).map_err(reading)? else {
            self.remove(stem)?;
            return Ok(Found::Nothing(None));
        };
        // The end of a RANGE became known after its file began: the index has it.
        if let Some(row) = rows.get(&head.asked.request.id) {
            let known = &row.asked.request;
            head.asked.request.ends_at(known.end_ns, known.best_ns);
        }
        let asked = head.asked.clone();
        let times = (head.first_dts_ns, head.start_ns);
        let whole = left
            .finish(&*file, head.params(), times.0, times.1)
            .map_err(reading)?;
        // One that failed, and could not be removed then, has been answered.
        let whole = whole.filter(|_| !has_failed(&asked));
        let Some((mux, notes)) = whole else {
            self.remove(stem)?;
            return Ok(Found::Nothing(Some(asked)));
        };
        // The file's clock is coarser than the source's: what is the same to a tick is the same.
        // Who was joined to it, only the index knows.
        let joined = rows.values().map(|row| &row.asked);
        let joined = joined.filter(|a| a.merged_into.as_ref() == Some(&asked.request.id));
        let joined = joined.filter(|a| !has_failed(a)).map(|a| a.request.clone());
        let joined: Vec<ClipRequest> = joined.collect();
        let ends = joined.iter().map(|r| r.end_ns);
        let end_ns = ends.fold(asked.request.end_ns, i64::max);
        let all = std::iter::once(&asked.request).chain(&joined);
        let asked_for = all.flat_map(|r| [r.end_ns, r.still_at_ns()]);
        let known: Vec<i64> = [head.first_ns, head.start_ns]
            .into_iter()
            .chain(asked_for)
            .collect();
        let exact = |t: i64| known.iter().find(|k| t.abs_diff(**k) * 2 <= TICK_NS);
        let shown = mux.shown_ns().into_iter();
        let shown = shown.map(|t| exact(t).copied().unwrap_or(t));
        let shown: Vec<i64> = shown.collect();
        // Later pictures may be shown before the end was reached only where they are reordered, and
        // then a fragment's end says nothing; the asked end is what counts.
        let is_complete = shown.iter().any(|t| *t >= end_ns);
        let gaps: Vec<Gap> = notes
            .iter()
            .filter_map(|n| serde_json::from_slice::<Vec<Gap>>(n).ok())
            .flatten()
            .collect();
        file.set_len(mux.written())
            .map_err(io_error("cut", &path))?;
        let part = PartFile::adopt(self, stem, &asked.request.id, file, mux.written());
        let written = Written {
            head,
            part,
            mux,
            shown,
            gaps,
        };
        let end = match is_complete {
            true => ClipEnd::Complete,
            false => ClipEnd::Interrupted,
        };
        match written.complete(end, &joined, None) {
            Ok(settled) => {
                let of = |result: ClipResult| {
                    let request = joined.iter().find(|r| r.id == result.id);
                    let joined = request.map(|r| Asked::new(&asked.source, r));
                    let joined = joined.map(|a| a.into_file_of(&asked.request.id));
                    (joined.unwrap_or_else(|| asked.clone()), result)
                };
                Ok(Found::Finished(
                    settled.results.into_iter().map(of).collect(),
                ))
            }
            // The pictures up to the asked start are all there is.
            Err(ClipError::NothingShown | ClipError::Mp4(Mp4Error::Empty)) => {
                self.remove(stem)?;
                Ok(Found::Nothing(Some(asked)))
            }
            Err(e) => Err(e),
        }
    }
}
