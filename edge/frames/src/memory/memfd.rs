//! Slots in a sealed memfd: for frames that other processes read.
//!
//! The order matters. The parent maps the memory writable once, for life; then the seals make
//! sure that nobody, the parent included, can ever write to it any other way or change its size;
//! then it is opened anew for reading only, and that is the only descriptor that stays. A child
//! that gets it can even open it for writing again through /proc: every way to write through
//! that is refused as well. Nothing has a name, so nothing is left behind by a SIGKILL.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::SlotMemory;

/// What is refused from the moment the pool exists: to shrink it, to grow it, any new way of
/// writing to it, and to change these seals.
pub(crate) const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// Which step of making the memory the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct MemfdError {
    step: &'static str,
    errno: Errno,
}

pub(super) fn step(step: &'static str) -> impl FnOnce(Errno) -> MemfdError {
    move |errno| MemfdError { step, errno }
}

/// A shared mapping of a sealed memfd, and the descriptor for its readers.
pub(crate) struct Memfd {
    base: NonNull<u8>,
    len: usize,
    read_only: OwnedFd,
}

impl Memfd {
    pub(crate) fn new(len: usize) -> Result<Self, MemfdError> {
        let writable = create()?;
        rustix::fs::ftruncate(&writable, len as u64).map_err(step("setting its size"))?;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &writable,
                0,
            )
        }
        .map_err(step("mapping it"))?;
        let unmap = Unmap(base, len);
        rustix::fs::fcntl_add_seals(&writable, SEALS)
            .map_err(step("sealing it (F_SEAL_FUTURE_WRITE needs Linux 5.1)"))?;
        let read_only = rustix::fs::open(
            format!("/proc/self/fd/{}", writable.as_raw_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(step("opening it for reading through /proc/self/fd"))?;
        let base = NonNull::new(base.cast()).ok_or(MemfdError {
            step: "mapping it",
            errno: Errno::FAULT,
        })?;
        std::mem::forget(unmap);
        Ok(Self {
            base,
            len,
            read_only,
        })
    }
}

/// The memfd, without the right to be executed where the kernel knows how (Linux 6.3).
fn create() -> Result<OwnedFd, MemfdError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let name = "visualpath-frames";
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
    .map_err(step("memfd_create"))
}

/// Unmaps when a later step fails.
struct Unmap(*mut c_void, usize);

impl Drop for Unmap {
    fn drop(&mut self) {
        unmap(self.0, self.1);
    }
}

fn unmap(base: *mut c_void, len: usize) {
    // SAFETY: called once per mapping made by `Memfd::new`, by its owner, who hands out nothing
    // that outlives it.
    let result = unsafe { rustix::mm::munmap(base, len) };
    debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
}

impl Drop for Memfd {
    fn drop(&mut self) {
        unmap(self.base.as_ptr().cast(), self.len);
    }
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Memfd {}
// SAFETY: `&Memfd` gives out only the address, the length and a descriptor.
unsafe impl Sync for Memfd {}

// SAFETY: a shared mapping of a new memfd is `len` zeroed bytes from a page boundary, until drop;
// the seals keep its size, and keep every other writer out.
unsafe impl SlotMemory for Memfd {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read_only_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.read_only.as_fd())
    }
}

#[cfg(all(test, not(miri), not(loom)))]
mod tests;
