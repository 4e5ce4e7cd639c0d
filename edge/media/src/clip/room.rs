//! **Room.** Before every write, clips are deleted, oldest name first, until the new bytes fit into
//! the quota and leave the file system its reserve (5 % and 256 MiB, a quarter of a small one).
//! Everything in the directory counts: clips, sidecars, files being written.

use std::collections::BTreeMap;

use super::disk::Space;
use super::store::{ClipStore, StoreError};

/// What is left of the file system, beside 5 % of it.
const RESERVE: u64 = 256 << 20;
/// How often room is made for one write: two things may lack one after the other, and a clip may be
/// pinned at the very moment in which it was to be deleted.
const ROUNDS: usize = 4;

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
    /// Of everything that was asked for and is in it, as far as it is known.
    pub(super) ids: Vec<String>,
}

impl Kept {
    /// A clip that is gone.
    pub(super) fn uncount(&mut self, stem: &str) -> Option<KeptClip> {
        let clip = self.clips.remove(stem)?;
        self.bytes = self.bytes.saturating_sub(clip.bytes);
        Some(clip)
    }
}

impl ClipStore {
    /// Makes room for `need` bytes and counts them; not if there is no room for them.
    pub(super) fn reserve(&self, need: u64) -> Result<(), StoreError> {
        self.safe()?;
        self.make_room(need, |kept, made| {
            if made.is_ok() {
                kept.bytes += need;
            }
            made
        })
    }

    /// Counts `need` bytes that belong to a clip whose media is there already: a file's tables and
    /// its sidecar, a few kilobytes for which it would be wrong to lose it.
    pub(super) fn reserve_anyway(&self, need: u64) {
        self.make_room(need, |kept, made| {
            if let Err(e) = made {
                tracing::debug!(error = %e, "a clip is finished all the same");
            }
            kept.bytes += need;
        });
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

    /// Makes room for `need` bytes, if there is some to be made, and lets `count` count them.
    fn make_room<T>(
        &self,
        need: u64,
        count: impl FnOnce(&mut Kept, Result<(), StoreError>) -> T,
    ) -> T {
        let mut deleted = Vec::new();
        let mut kept = self.kept();
        let made = self.delete_for(&mut kept, need, &mut deleted);
        let counted = count(&mut kept, made);
        // Every write waits for `kept`; for the index only this one does.
        drop(kept);
        self.forget(&deleted);
        counted
    }

    /// Deletes the oldest clips that are not pinned until `need` bytes fit; none, if that would not
    /// be enough. Gives the ids of what is deleted.
    fn delete_for(
        &self,
        kept: &mut Kept,
        need: u64,
        deleted: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        if self.lacking(kept, need).is_none() {
            return Ok(());
        }
        self.uncount_deleted(kept, deleted);
        for _ in 0..ROUNDS {
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
                failed |= !self.delete_oldest(kept, &stem, deleted);
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
    fn delete_oldest(&self, kept: &mut Kept, stem: &str, deleted: &mut Vec<String>) -> bool {
        match self.remove_unpinned(kept, stem) {
            Ok(true) => {}
            Ok(false) => {
                tracing::debug!(clip = %stem, "it was pinned when it was about to be deleted");
                return false;
            }
            Err(e) => {
                // Still there, so still counted.
                tracing::warn!(clip = %stem, error = %e, "can't delete the oldest clip");
                return false;
            }
        }
        if let Some(clip) = kept.uncount(stem) {
            tracing::info!(clip = %stem, bytes = clip.bytes, "deleted the oldest clip to make room");
            deleted.extend(clip.ids);
        }
        true
    }

    /// What another process deleted (`visualpath clip delete`) takes no room any more.
    fn uncount_deleted(&self, kept: &mut Kept, deleted: &mut Vec<String>) {
        let is_gone = |stem: &&String| matches!(self.is_there(stem), Ok(false));
        let gone: Vec<String> = kept.clips.keys().filter(is_gone).cloned().collect();
        for stem in gone {
            let clip = kept.uncount(&stem).unwrap_or_default();
            tracing::debug!(clip = %stem, bytes = clip.bytes, "deleted by another process");
            deleted.extend(clip.ids);
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        let mut kept = self.kept();
        kept.bytes = kept.bytes.saturating_sub(bytes);
    }
}
