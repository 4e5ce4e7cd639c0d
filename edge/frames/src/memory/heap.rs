//! Slots on the heap: for Miri, for tests, and for a pool that no other process will read.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use super::SlotMemory;

/// Zeroed, page-aligned heap memory.
pub(crate) struct Heap {
    base: NonNull<u8>,
    layout: Layout,
}

impl Heap {
    /// `None` if there is not so much memory, or `page_bytes` is not a power of two, or `len` is 0.
    pub(crate) fn new(len: usize, page_bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len, page_bytes).ok()?;
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the size is not 0.
        let base = unsafe { alloc_zeroed(layout) };
        Some(Self {
            base: NonNull::new(base)?,
            layout,
        })
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: the memory belongs to this value alone and is not tied to a thread.
unsafe impl Send for Heap {}
// SAFETY: `&Heap` gives out only the address and the length.
unsafe impl Sync for Heap {}

// SAFETY: `alloc_zeroed` gave `len` zeroed bytes aligned to a page, which live until drop.
unsafe impl SlotMemory for Heap {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.layout.size()
    }

    fn read_only_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
