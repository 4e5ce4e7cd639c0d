//! **Room.** Before every write, clips are deleted, oldest name first, until the new bytes fit into
//! the quota and leave the file system its reserve (5 % and 256 MiB, a quarter of a small one).
//! Everything in the directory counts: clips, sidecars, files being written.

use std::collections::BTreeMap;

use super::disk::Space;
use super::store::{ClipStore, StoreError};

/// What is left of the file system, beside 5 % of it.
const RESERVE: u64 = 256 << 20;

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

impl ClipStore {
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
    pub(super) fn reserve_anyway(&self, need: u64) {
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
            for id in clip.ids {
                self.with_index("forget", |index| index.forget(&id));
            }
        }
        true
    }

    pub(super) fn release(&self, bytes: u64) {
        let mut kept = self.kept();
        kept.bytes = kept.bytes.saturating_sub(bytes);
    }
}
