//! A pool as another process sees it: mapped for reading, nothing more.

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

use super::step;
use crate::MemfdError;
use crate::header::{SLOT_HEADER_BYTES, SlotHeader};
use crate::layout::{MAX_POOL_BYTES, MAX_SLOTS};

/// A read-only mapping of a pool that another process made.
///
/// The maker goes on writing to slots that this process was not told to look at. Whoever takes
/// [`PoolReader::bytes`] must have been told so (by a message) and not yet have answered: then the
/// slot is leased, and a leased slot is not written to.
#[derive(Debug)]
pub struct PoolReader {
    base: NonNull<u8>,
    len: usize,
}

impl PoolReader {
    /// Maps the whole pool behind a descriptor that came from its maker. The descriptor is not
    /// needed any more afterwards.
    ///
    /// # Errors
    /// When it is no pool, or the kernel refuses.
    pub fn map(pool: &OwnedFd) -> Result<Self, MemfdError> {
        let size = rustix::fs::fstat(pool)
            .map_err(step("asking its size"))?
            .st_size;
        let len = usize::try_from(size).unwrap_or(0);
        if !(SLOT_HEADER_BYTES..=MAX_POOL_BYTES).contains(&len) {
            return Err(step("its size is no pool's")(rustix::io::Errno::INVAL));
        }
        // The maker sealed it; without the seals it could shrink under us, and reading beyond its
        // end is a SIGBUS.
        let seals = rustix::fs::fcntl_get_seals(pool).map_err(step("asking its seals"))?;
        if !seals.contains(super::memfd::SEALS) {
            return Err(step("it is not sealed")(rustix::io::Errno::PERM));
        }
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                pool,
                0,
            )
        }
        .map_err(step("mapping it"))?;
        let base = NonNull::new(base.cast())
            .ok_or_else(|| step("mapping it")(rustix::io::Errno::FAULT))?;
        Ok(Self { base, len })
    }

    /// Bytes of the whole pool.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a pool has at least a header.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset`; `None` when they are not all inside the pool.
    pub fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as `self`; written by nobody while the
        // caller has been told to look at the slot and not yet answered (the type's contract,
        // kept by the maker's lease).
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), len) })
    }

    /// The header of a slot; `None` when there is no such slot.
    pub fn header(&self, slot: u32) -> Option<&SlotHeader> {
        let slot = usize::try_from(slot).ok().filter(|s| *s < MAX_SLOTS)?;
        let start = slot * SLOT_HEADER_BYTES;
        if start + SLOT_HEADER_BYTES > self.len {
            return None;
        }
        // SAFETY: inside the mapping; aligned, since mappings begin at a page and every header at a
        // multiple of 128; any bytes are valid atomics, and only ever loaded from here.
        Some(unsafe { self.base.add(start).cast::<SlotHeader>().as_ref() })
    }
}

impl Drop for PoolReader {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, unmapped only here; nothing that borrows it
        // outlives it.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
    }
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for PoolReader {}
// SAFETY: `&PoolReader` only reads.
unsafe impl Sync for PoolReader {}
