//! The pool: memory, layout and lease table put together.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visualpath_core::{ImageLayout, ViewSpec};

use crate::frame::SlotMut;
use crate::holder::{Holder, HolderNames};
use crate::layout::{MAX_POOL_BYTES, MAX_SIDE, MAX_SLOTS, MAX_VIEWS, PoolLayout, PoolSpec, ViewId};
use crate::lease::LeaseTable;
use crate::memory::{Heap, Memfd, MemfdError, SlotMemory};
use crate::sync::Arc;
use crate::view::ViewMaker;

/// Why a pool cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No slot, or too many.
    #[error("a pool of {asked} slots: it must be 1 to {MAX_SLOTS}")]
    Slots {
        /// As asked.
        asked: usize,
    },
    /// A picture without pixels, or a huge one.
    #[error("{what} of {width}×{height}: each side must be 1 to {MAX_SIDE} pixels")]
    Sides {
        /// Whose size.
        what: &'static str,
        /// As asked.
        width: u32,
        /// As asked.
        height: u32,
    },
    /// An image layout whose planes contradict each other.
    #[error("the planes of {layout:?} are not inside a picture")]
    Planes {
        /// The culprit.
        layout: ImageLayout,
    },
    /// Too many different views.
    #[error("more than {MAX_VIEWS} different views: let extractors share input sizes")]
    Views,
    /// More bytes than a pool may have.
    #[error(
        "{slots} slots of {width}×{height} with {views} views need more than {MAX_POOL_BYTES} bytes: \
         take fewer slots, a smaller picture or smaller views"
    )]
    TooLarge {
        /// As asked.
        slots: usize,
        /// Of the native picture.
        width: u32,
        /// Of the native picture.
        height: u32,
        /// As asked.
        views: usize,
    },
    /// The kernel refused the shared memory.
    #[error("shared memory of {bytes} bytes for frames: {source}")]
    Memfd {
        /// Bytes of the pool.
        bytes: usize,
        /// Which step, and why.
        source: MemfdError,
    },
    /// The heap has not so much.
    #[error("no {bytes} bytes of memory for frames: take fewer slots or smaller views")]
    NoMemory {
        /// Bytes of the pool.
        bytes: usize,
    },
}

/// Counts since the pool was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Slots given out for filling.
    pub acquired: u64,
    /// Times there was no free slot (after waiting, where the caller waits).
    pub exhausted: u64,
    /// Views made.
    pub views_made: u64,
    /// Copies of whole pictures, as counted by whoever copies.
    pub copies: u64,
}

/// What the pool keeps beside the lease table.
pub(crate) struct PoolParts {
    pub(crate) layout: PoolLayout,
    pub(crate) memory: Box<dyn SlotMemory>,
    pub(crate) maker: StdArc<dyn ViewMaker>,
    pub(crate) copies: AtomicU64,
    holders: HolderNames,
}

/// Slots for frames in one piece of memory; clones are the same pool. It lives as long as any
/// clone, [`SlotMut`] or [`Frame`](crate::Frame) of it.
#[derive(Clone)]
pub struct FramePool {
    pub(crate) table: Arc<LeaseTable<PoolParts>>,
}

impl FramePool {
    /// A pool in a sealed memfd, which other processes can read ([`FramePool::read_only_fd`]).
    ///
    /// # Errors
    /// When the spec is out of bounds or the kernel refuses.
    pub fn memfd(spec: &PoolSpec, maker: StdArc<dyn ViewMaker>) -> Result<Self, PoolError> {
        let layout = PoolLayout::plan(spec)?;
        let bytes = layout.total_bytes();
        let memory = Memfd::new(bytes).map_err(|source| PoolError::Memfd { bytes, source })?;
        Ok(Self::new(layout, Box::new(memory), maker))
    }

    /// A pool on the heap, for this process only.
    ///
    /// # Errors
    /// When the spec is out of bounds or there is not so much memory.
    pub fn heap(spec: &PoolSpec, maker: StdArc<dyn ViewMaker>) -> Result<Self, PoolError> {
        let layout = PoolLayout::plan(spec)?;
        let bytes = layout.total_bytes();
        let memory = Heap::new(bytes, layout.page_bytes()).ok_or(PoolError::NoMemory { bytes })?;
        Ok(Self::new(layout, Box::new(memory), maker))
    }

    fn new(layout: PoolLayout, memory: Box<dyn SlotMemory>, maker: StdArc<dyn ViewMaker>) -> Self {
        let (slots, views) = (layout.slots(), layout.views().len());
        let parts = PoolParts {
            layout,
            memory,
            maker,
            copies: AtomicU64::new(0),
            holders: HolderNames::new(),
        };
        Self {
            table: LeaseTable::new(parts, slots, views),
        }
    }

    /// A free slot to fill; `None` when there is none (counted in [`PoolStats::exhausted`];
    /// [`FramePool::holders`] says who has them).
    pub fn try_acquire(&self) -> Option<SlotMut> {
        LeaseTable::try_acquire(&self.table).map(SlotMut::new)
    }

    /// A free slot to fill, waited for at most `limit`; woken by the release of one. For sources
    /// that may wait for their consumers: files with `drop = "none"`.
    pub fn acquire_timeout(&self, limit: Duration) -> Option<SlotMut> {
        LeaseTable::acquire_timeout(&self.table, limit).map(SlotMut::new)
    }

    /// The view that gives what `spec` asks for; `None` if the pool was not made for it.
    pub fn view_id(&self, spec: &ViewSpec) -> Option<ViewId> {
        self.layout().view_id(spec)
    }

    /// The tag for leases taken by `name`; the same name gives the same tag. When all
    /// [`MAX_HOLDERS`](crate::MAX_HOLDERS) are taken, [`Holder::OTHER`].
    pub fn holder(&self, name: &str) -> Holder {
        self.parts().holders.tag(name)
    }

    /// The name a tag of this pool was registered with.
    pub fn holder_name(&self, holder: Holder) -> Option<String> {
        self.parts().holders.name(holder)
    }

    /// Who holds leases now, and how many.
    pub fn holders(&self) -> Vec<(Holder, usize)> {
        Holder::all()
            .map(|h| (h, self.table.leases_of(h)))
            .filter(|(_, leases)| *leases > 0)
            .map(|(h, leases)| (h, usize::try_from(leases).unwrap_or(usize::MAX)))
            .collect()
    }

    /// Who holds leases now, by name, for a log line: `encoder 2, person 1`.
    pub fn held_by(&self) -> String {
        let mut text = String::new();
        for (holder, leases) in self.holders() {
            let name = self.holder_name(holder).unwrap_or_else(|| "?".into());
            let comma = if text.is_empty() { "" } else { ", " };
            text.push_str(&format!("{comma}{name} {leases}"));
        }
        text
    }

    /// The pool's name in messages.
    pub fn pool_id(&self) -> u32 {
        self.layout().pool_id()
    }

    /// Where everything lies.
    pub fn layout(&self) -> &PoolLayout {
        &self.parts().layout
    }

    /// Free slots now.
    pub fn available(&self) -> usize {
        self.table.available()
    }

    /// Counts since the pool was made.
    pub fn stats(&self) -> PoolStats {
        let counts = self.table.counts();
        PoolStats {
            acquired: counts.acquired,
            exhausted: counts.exhausted,
            views_made: counts.views_made,
            copies: self.parts().copies.load(Ordering::Relaxed),
        }
    }

    /// The descriptor by which other processes can read the pool, and nothing more; `None` for a
    /// pool on the heap. It is close-on-exec: it is passed over a socket.
    pub fn read_only_fd(&self) -> Option<BorrowedFd<'_>> {
        self.parts().memory.read_only_fd()
    }

    fn parts(&self) -> &PoolParts {
        self.table.payload()
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool")
            .field("pool_id", &self.pool_id())
            .field("slots", &self.layout().slots())
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}
