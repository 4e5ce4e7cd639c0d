//! The store keeps its books: what is asked for, joined, answered and told goes into the index.
//!
//! An index that can't be written is no reason to keep no clips. But what it does not know may be
//! forgotten by a crash, so that is a trouble one can ask for, until it is over.

use std::sync::PoisonError;

use visualpath_core::Name;

use super::index::{Asked, Index, IndexError};
use super::store::ClipStore;
use super::{ClipRequest, ClipResult};

/// What is wrong with the index.
#[derive(Debug)]
pub(super) struct IndexTrouble {
    /// The first error.
    error: String,
    /// A write that works later says nothing about the one that did not.
    lasts: bool,
}

/// What came of a write to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// It is durable.
    Rows,
    /// It concerned no row.
    NoRow,
    /// There is no index, or it failed.
    Not,
}

impl ClipStore {
    /// Does something with the index, if there is one; an error is logged, and kept for
    /// [`ClipStore::index_trouble`]. Says what came of it.
    pub(super) fn with_index(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut dyn Index) -> Result<bool, IndexError>,
    ) -> Wrote {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = index.as_mut() else {
            return Wrote::Not;
        };
        match act(&mut **index) {
            Ok(true) => {
                let mut known = self.known_trouble();
                if known.as_ref().is_some_and(|t| !t.lasts) {
                    *known = None;
                }
                Wrote::Rows
            }
            // A full disk, say, does not mind that.
            Ok(false) => Wrote::NoRow,
            Err(error) => {
                tracing::error!(%error, what, "the clip index could not be written");
                self.trouble_with_index(&error, error.lasts());
                Wrote::Not
            }
        }
    }

    /// The files of these clips are gone.
    pub(super) fn forget(&self, ids: &[String]) {
        if !ids.is_empty() {
            self.with_index("forget", |index| index.forget(ids));
        }
    }

    fn known_trouble(&self) -> std::sync::MutexGuard<'_, Option<IndexTrouble>> {
        let known = self.index_trouble.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble_with_index(&self, error: &IndexError, lasts: bool) {
        let mut known = self.known_trouble();
        let error = error.to_string();
        match known.as_mut() {
            None => *known = Some(IndexTrouble { error, lasts }),
            // Worse than what it was.
            Some(known) if lasts && !known.lasts => *known = IndexTrouble { error, lasts },
            Some(_) => {}
        }
    }

    /// It can't be used at all, before the next start.
    pub(super) fn no_index(&self, error: &IndexError) {
        self.trouble_with_index(error, true);
    }

    /// Why clips may be forgotten by a crash, if the index could not be written: the first error.
    /// Over when a later write has written something; after an error of the disk, only with the next start.
    pub fn index_trouble(&self) -> Option<String> {
        self.known_trouble().as_ref().map(|t| t.error.clone())
    }

    /// Notes that a clip is asked for, durably: after a crash it is answered for.
    pub fn asked(&self, source: &Name, request: &ClipRequest) {
        let asked = Asked::new(source, request);
        self.with_index("open", |index| index.open(&asked));
    }

    /// Notes, durably, whose file is to answer a request: that of `host`, or its own.
    pub(super) fn joined(&self, source: &Name, request: &ClipRequest, host: Option<&str>) {
        let mut asked = Asked::new(source, request);
        asked.merged_into = host.map(str::to_owned);
        self.with_index("join", |index| index.join(&asked));
    }

    /// Notes, durably, when the event of a clip that is open ended, and when it was seen best.
    pub(super) fn end_known(&self, id: &str, end_ns: i64, best_ns: Option<i64>) {
        let wrote = self.with_index("set the end", |index| index.set_end(id, end_ns, best_ns));
        if wrote == Wrote::NoRow {
            tracing::warn!(clip = %id, "the clip index has no open clip of this id: after a crash its end is not known");
        }
    }

    /// A clip that was asked for is not wanted any more.
    pub(super) fn withdraw(&self, id: &str) {
        self.with_index("withdraw", |index| {
            let is_known = index.told(id)?;
            index.forget(&[id.to_owned()])?;
            Ok(is_known)
        });
    }

    /// Notes what became of a clip, durably.
    pub(super) fn answered(&self, source: &Name, request: &ClipRequest, result: &ClipResult) {
        let asked = Asked::new(source, request);
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::io::Errno;
    use visualpath_core::NS_PER_S;

    use super::super::model::{Fault, ModelDisk};
    use super::*;

    fn request(n: u32) -> (Name, ClipRequest) {
        let name = |text: &str| Name::new(text).unwrap();
        let request = ClipRequest {
            id: format!("00000000-0000-7000-8000-{n:012x}"),
            trigger_id: format!("trigger-{n}"),
            path: name("yard"),
            label: name("seen"),
            event_ns: 0,
            wall_ns: 1_795_377_600 * NS_PER_S,
            start_ns: 0,
            end_ns: 1,
            best_ns: None,
        };
        (name("cam0"), request)
    }

    #[test]
    fn an_index_that_is_locked_is_a_trouble_until_it_can_be_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
        assert_eq!(store.take_over().unwrap(), []);
        let (source, first) = request(1);
        store.asked(&source, &first);
        assert_eq!(store.index_trouble(), None);
        // Another process that does not let go.
        let other = rusqlite::Connection::open(dir.path().join("outbox/events.sqlite")).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        store.told(&first.id);
        let said = store.index_trouble().unwrap();
        assert!(
            said.contains("locked") && said.contains("events.sqlite"),
            "{said}"
        );
        other.execute_batch("ROLLBACK").unwrap();
        store.told(&request(9).1.id);
        store.forget(&[request(9).1.id]);
        let still = store.index_trouble();
        assert_eq!(still, Some(said), "there was nothing to write");
        store.asked(&source, &request(2).1);
        assert_eq!(store.index_trouble(), None, "it is over");
    }

    #[test]
    fn an_error_of_the_disk_stays_a_trouble_and_want_of_room_does_not() {
        for (errno, lasts) in [
            (Errno::IO, true),
            (Errno::NOSPC, false),
            (Errno::ROFS, false),
        ] {
            let disk = ModelDisk::default();
            let on: Arc<dyn super::super::disk::Disk> = Arc::new(disk.clone());
            let store = ClipStore::on(on, "/state".as_ref(), "clips", 1 << 30).unwrap();
            store.take_over_with(disk.index());
            disk.fail(Fault {
                at: disk.calls(),
                for_good: false,
                errno,
            });
            let (source, first) = request(1);
            store.asked(&source, &first);
            assert!(store.index_trouble().is_some(), "{errno:?}");
            store.asked(&source, &request(2).1);
            assert_eq!(store.index_trouble().is_some(), lasts, "{errno:?}");
        }
    }

    #[test]
    fn an_index_that_can_not_be_opened_is_a_trouble() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outbox"), "not a directory").unwrap();
        let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
        assert_eq!(store.take_over().unwrap(), []);
        assert!(!store.has_index());
        assert!(store.index_trouble().unwrap().contains("outbox"));
    }
}
