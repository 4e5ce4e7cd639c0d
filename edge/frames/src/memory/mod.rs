//! The one module with `unsafe`: from a token of the lease table to the bytes it stands for.
//!
//! Every slice made here covers one of these, which never overlap (`PoolLayout`): the native
//! pixels of a slot, or one view of a slot. Why no slice is ever written while another looks:
//!
//! | bytes | `&mut [u8]` for | `&[u8]` for | and these exclude each other because |
//! |---|---|---|---|
//! | native pixels | `Writing` | `Lease` (also inside `Making`, `Ready`) | a slot has one `Writing` or some `Lease`s |
//! | a view | `Making` | `Ready` | a view has one `Making`, then it is `Ready`; both borrow a `Lease`, and it is only made anew after every `Lease` is gone |
//!
//! Slot headers are atomics and are only ever shared. The parent is the only process that can
//! write (the seals, `memfd.rs`); children read what they were given a lease for.
#![allow(unsafe_code)]

mod heap;
mod memfd;
mod reader;

use std::ops::Range;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use heap::Heap;
pub(crate) use memfd::Memfd;
pub use memfd::MemfdError;
use memfd::step;
pub use reader::PoolReader;

use crate::header::SlotHeader;
use crate::lease::{Lease, Making, Ready, Writing};
use crate::pool::PoolParts;

/// Memory for a pool.
///
/// # Safety
/// For as long as the value lives, `base()` points to `len()` zero-initialised bytes, aligned to
/// 128 at least, always the same ones, readable and writable by this process and written by
/// nobody but through this pointer.
pub(crate) unsafe trait SlotMemory: Send + Sync {
    /// Its first byte.
    fn base(&self) -> NonNull<u8>;
    /// Its bytes.
    fn len(&self) -> usize;
    /// The descriptor by which other processes can read it.
    fn read_only_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Where `range` starts in memory. Checked for real: memory safety must not hang on the
/// arithmetic of `PoolLayout`.
fn at(memory: &dyn SlotMemory, range: &Range<usize>) -> NonNull<u8> {
    assert!(
        range.start <= range.end && range.end <= memory.len(),
        "bytes {range:?} of a pool of {}",
        memory.len()
    );
    // SAFETY: within the memory, by the line above and the contract of `SlotMemory`.
    unsafe { memory.base().add(range.start) }
}

/// # Safety
/// Nobody writes these bytes while the slice lives.
unsafe fn bytes(memory: &dyn SlotMemory, range: Range<usize>) -> &[u8] {
    let start = at(memory, &range);
    // SAFETY: in bounds and initialised (`at`, `SlotMemory`); not written (the caller).
    unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) }
}

/// # Safety
/// Nobody else reads or writes these bytes while the slice lives.
#[expect(
    clippy::mut_from_ref,
    reason = "exclusiveness comes from the caller's token, not from the borrow of the memory"
)]
unsafe fn bytes_mut(memory: &dyn SlotMemory, range: Range<usize>) -> &mut [u8] {
    let start = at(memory, &range);
    // SAFETY: in bounds and initialised (`at`, `SlotMemory`); exclusive (the caller).
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), range.len()) }
}

fn native_range(parts: &PoolParts, slot: usize) -> Range<usize> {
    let start = parts.layout.pixels_offset(slot);
    start..start + parts.layout.native_bytes()
}

fn view_range(parts: &PoolParts, slot: usize, index: usize) -> Range<usize> {
    let view = &parts.layout.views()[index];
    let start = parts.layout.pixels_offset(slot) + view.offset_in_slot;
    start..start + view.layout.bytes()
}

impl Writing<PoolParts> {
    /// The native pixels, to be filled. They hold an earlier frame.
    pub(crate) fn pixels_mut(&mut self) -> &mut [u8] {
        let slot = self.slot();
        let parts = self.table().payload();
        // SAFETY: `self` is the slot's only token, and is borrowed mutably for the slice's life.
        unsafe { bytes_mut(&*parts.memory, native_range(parts, slot)) }
    }

    /// The native pixels and the room behind them.
    pub(crate) fn room_mut(&mut self) -> &mut [u8] {
        let slot = self.slot();
        let parts = self.table().payload();
        let start = parts.layout.pixels_offset(slot);
        let range = start..start + parts.layout.native_room();
        // SAFETY: `self` is the slot's only token, and is borrowed mutably for the slice's life;
        // the room belongs to the native pixels alone (`PoolLayout`).
        unsafe { bytes_mut(&*parts.memory, range) }
    }

    /// The slot's header.
    pub(crate) fn header(&self) -> &SlotHeader {
        let parts = self.table().payload();
        let start = parts.layout.header_offset(self.slot());
        let start = at(&*parts.memory, &(start..start + size_of::<SlotHeader>()));
        // SAFETY: in bounds; aligned, since the memory and every header offset are to 128;
        // zeroes are valid atomics; and only atomics are ever made of these bytes.
        unsafe { start.cast::<SlotHeader>().as_ref() }
    }
}

impl Lease<PoolParts> {
    /// The native pixels.
    pub(crate) fn pixels(&self) -> &[u8] {
        let parts = self.table().payload();
        // SAFETY: while this lease lives the slot has no `Writing`, so nobody writes them.
        unsafe { bytes(&*parts.memory, native_range(parts, self.slot())) }
    }
}

impl Making<'_, PoolParts> {
    /// The native pixels, and the view to be filled from them. It holds an earlier frame's.
    pub(crate) fn source_and_view(&mut self) -> (&[u8], &mut [u8]) {
        let lease = self.lease();
        let parts = lease.table().payload();
        let range = view_range(parts, lease.slot(), self.index());
        // SAFETY: `self` is the only right to the view's bytes, is borrowed mutably for the
        // slice's life, and no `Ready` of the view exists before it is gone. They do not overlap
        // the native pixels.
        let view = unsafe { bytes_mut(&*parts.memory, range) };
        (lease.pixels(), view)
    }
}

impl<'a> Ready<'a, PoolParts> {
    /// The view's bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        let lease = self.lease();
        let parts = lease.table().payload();
        // SAFETY: the view was made and is not made again while a lease of the slot lives, and
        // the one this borrows does for all of 'a.
        unsafe {
            bytes(
                &*parts.memory,
                view_range(parts, lease.slot(), self.index()),
            )
        }
    }
}

/// The descriptor by which a worker's parent passes pools to it.
const INHERITED: i32 = 3;

/// Takes descriptor 3, if it is a socket of the kind a worker is started with; once per process.
pub(crate) fn inherited_socket() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: only asked what it is; if it is not open, that is the answer.
    let descriptor = unsafe { BorrowedFd::borrow_raw(INHERITED) };
    let is_ours = rustix::net::sockopt::socket_type(descriptor)
        == Ok(rustix::net::SocketType::SEQPACKET)
        && rustix::net::sockopt::socket_domain(descriptor) == Ok(rustix::net::AddressFamily::UNIX);
    if !is_ours || TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    // Not for whatever this process starts. The flag is a promise, not a need.
    if rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC).is_err() {
        return None;
    }
    // SAFETY: open, of the kind that a worker inherits at this number, and taken only once: nobody
    // else in this process owns it.
    Some(unsafe { OwnedFd::from_raw_fd(INHERITED) })
}
