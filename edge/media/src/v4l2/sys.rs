//! The kernel's calls, one safe function each. All go through libc's symbols (`ioctl`, `poll`,
//! `mmap`, `munmap`), not through the bare system call, so that preloaded libraries see them.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;

use rustix::io::Errno;
use v4l::v4l_sys as raw;

/// A request's number together with the structure it takes.
pub(super) struct Request<T> {
    code: u32,
    arg: PhantomData<fn(&mut T)>,
}

const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of `asm-generic/ioctl.h`, which is that of x86 and ARM.
const fn request<T>(direction: u32, number: u32) -> Request<T> {
    assert!(size_of::<T>() < 1 << 14, "the size has 14 bits");
    #[expect(clippy::cast_possible_truncation, reason = "asserted just above")]
    let size = size_of::<T>() as u32;
    Request {
        code: direction << 30 | size << 16 | (b'V' as u32) << 8 | number,
        arg: PhantomData,
    }
}

pub(super) const QUERYCAP: Request<raw::v4l2_capability> = request(READ, 0);
pub(super) const ENUM_FMT: Request<raw::v4l2_fmtdesc> = request(READ | WRITE, 2);
pub(super) const G_FMT: Request<raw::v4l2_format> = request(READ | WRITE, 4);
pub(super) const S_FMT: Request<raw::v4l2_format> = request(READ | WRITE, 5);
pub(super) const REQBUFS: Request<raw::v4l2_requestbuffers> = request(READ | WRITE, 8);
pub(super) const QUERYBUF: Request<raw::v4l2_buffer> = request(READ | WRITE, 9);
pub(super) const QBUF: Request<raw::v4l2_buffer> = request(READ | WRITE, 15);
pub(super) const DQBUF: Request<raw::v4l2_buffer> = request(READ | WRITE, 17);
pub(super) const STREAMON: Request<libc::c_int> = request(WRITE, 18);
pub(super) const STREAMOFF: Request<libc::c_int> = request(WRITE, 19);
pub(super) const G_PARM: Request<raw::v4l2_streamparm> = request(READ | WRITE, 21);
pub(super) const S_PARM: Request<raw::v4l2_streamparm> = request(READ | WRITE, 22);
pub(super) const S_CTRL: Request<raw::v4l2_control> = request(READ | WRITE, 28);
pub(super) const QUERYMENU: Request<raw::v4l2_querymenu> = request(READ | WRITE, 37);
pub(super) const G_EXT_CTRLS: Request<raw::v4l2_ext_controls> = request(READ | WRITE, 71);
pub(super) const S_EXT_CTRLS: Request<raw::v4l2_ext_controls> = request(READ | WRITE, 72);
pub(super) const ENUM_FRAMESIZES: Request<raw::v4l2_frmsizeenum> = request(READ | WRITE, 74);
pub(super) const ENUM_FRAMEINTERVALS: Request<raw::v4l2_frmivalenum> = request(READ | WRITE, 75);
pub(super) const ENCODER_CMD: Request<raw::v4l2_encoder_cmd> = request(READ | WRITE, 77);
pub(super) const DQEVENT: Request<raw::v4l2_event> = request(READ, 89);
pub(super) const SUBSCRIBE_EVENT: Request<raw::v4l2_event_subscription> = request(WRITE, 90);
pub(super) const S_SELECTION: Request<raw::v4l2_selection> = request(READ | WRITE, 95);
pub(super) const QUERY_EXT_CTRL: Request<raw::v4l2_query_ext_ctrl> = request(READ | WRITE, 103);

/// A structure of the kernel's for which all zeros are a value and in which, as this module's
/// users fill it, the kernel follows no pointer.
///
/// # Safety
/// Both must hold.
pub(super) unsafe trait Plain {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => {
        $(
            // SAFETY: plain C structures of integers. `v4l2_format` has variants with pointers
            // (overlays); `type` is one of the capture or output types wherever one is made.
            unsafe impl Plain for $t {}
        )*
    };
}

plain!(
    libc::c_int,
    raw::v4l2_capability,
    raw::v4l2_control,
    raw::v4l2_encoder_cmd,
    raw::v4l2_event,
    raw::v4l2_event_subscription,
    raw::v4l2_fmtdesc,
    raw::v4l2_format,
    raw::v4l2_frmivalenum,
    raw::v4l2_frmsizeenum,
    raw::v4l2_query_ext_ctrl,
    raw::v4l2_querymenu,
    raw::v4l2_requestbuffers,
    raw::v4l2_selection,
    raw::v4l2_streamparm,
);

/// All zeros.
pub(super) fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` promises that this is a value.
    unsafe { std::mem::zeroed() }
}

/// Calls the driver; EINTR is tried again.
pub(super) fn call<T: Plain>(
    fd: BorrowedFd<'_>,
    request: &Request<T>,
    arg: &mut T,
) -> Result<(), Errno> {
    // SAFETY: `Plain` promises that the kernel reads and writes nothing but `arg`.
    unsafe { call_raw(fd, request, arg) }
}

/// Calls the driver with a structure that has pointers; EINTR is tried again.
///
/// # Safety
/// What the structure points to must be valid for what the kernel does with it, for as long as it
/// does it: of a queued buffer, until it is dequeued or the stream has stopped.
pub(super) unsafe fn call_raw<T>(
    fd: BorrowedFd<'_>,
    request: &Request<T>,
    arg: &mut T,
) -> Result<(), Errno> {
    loop {
        // SAFETY: the number says how large the structure is, and `Request` ties it to `T`; what
        // it points to is the caller's promise.
        let done =
            unsafe { libc::ioctl(fd.as_raw_fd(), request.code as _, std::ptr::from_mut(arg)) };
        if done >= 0 {
            return Ok(());
        }
        match last_error() {
            Errno::INTR => {}
            error => return Err(error),
        }
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Opens a device node: for reading and writing, without blocking, closed on exec.
pub(super) fn open(node: &Path) -> Result<OwnedFd, Errno> {
    let file: io::Result<File> = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(node);
    match file {
        Ok(file) => Ok(file.into()),
        Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    }
}

/// What `poll` said of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ready {
    /// A buffer is there.
    pub(super) frame: bool,
    /// An event is there.
    pub(super) event: bool,
    /// The driver signals an error.
    pub(super) error: bool,
    /// The device is gone.
    pub(super) gone: bool,
}

/// Waits at most `limit_ms` for a buffer or an event. EINTR counts as nothing there.
pub(super) fn poll(fd: BorrowedFd<'_>, limit_ms: i32) -> Result<Ready, Errno> {
    poll_for(fd, libc::POLLIN | libc::POLLPRI, limit_ms)
}

/// The same for a device with two queues, whichever of them has a buffer.
pub(super) fn poll_both(fd: BorrowedFd<'_>, limit_ms: i32) -> Result<Ready, Errno> {
    poll_for(fd, libc::POLLIN | libc::POLLOUT, limit_ms)
}

fn poll_for(fd: BorrowedFd<'_>, events: libc::c_short, limit_ms: i32) -> Result<Ready, Errno> {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one structure, as said.
    let count = unsafe { libc::poll(&raw mut polled, 1, limit_ms) };
    if count < 0 {
        return match last_error() {
            Errno::INTR => Ok(Ready::default()),
            error => Err(error),
        };
    }
    let has = |bit: libc::c_short| polled.revents & bit != 0;
    Ok(Ready {
        frame: has(libc::POLLIN) || has(libc::POLLOUT),
        event: has(libc::POLLPRI),
        error: has(libc::POLLERR),
        gone: has(libc::POLLHUP) || has(libc::POLLNVAL),
    })
}

/// A driver's buffer in our address space.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Told when it is unmapped.
    #[cfg(test)]
    pub(super) witness: Option<Box<dyn Send>>,
}

// SAFETY: a piece of memory nobody else knows the address of.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: i64, len: usize) -> Result<Self, Errno> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: the kernel chooses the address; nothing of ours is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(last_error());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::FAULT)?;
        Ok(Self {
            start,
            len,
            #[cfg(test)]
            witness: None,
        })
    }

    /// Its bytes.
    ///
    /// # Safety
    /// The driver must not have the buffer while the slice lives.
    pub(super) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: mapped from `start`, `len` bytes, until drop; nobody writes, says the caller.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its bytes, to write.
    ///
    /// # Safety
    /// The driver must not have the buffer while the slice lives.
    pub(super) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; nobody reads either, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, from `mmap`, and no slice of it outlives this value.
        if unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) } != 0 {
            tracing::error!(error = %last_error(), "a driver's buffer could not be unmapped");
        }
    }
}

/// Nanoseconds of the clock drivers stamp buffers with.
pub(super) fn monotonic_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        // From linux/videodev2.h on a 64-bit machine.
        if cfg!(target_pointer_width = "64") {
            assert_eq!(QUERYCAP.code, 0x8068_5600);
            assert_eq!(S_FMT.code, 0xc0d0_5605);
            assert_eq!(REQBUFS.code, 0xc014_5608);
            assert_eq!(QBUF.code, 0xc058_560f);
            assert_eq!(DQBUF.code, 0xc058_5611);
            assert_eq!(STREAMON.code, 0x4004_5612);
            assert_eq!(S_PARM.code, 0xc0cc_5616);
            assert_eq!(DQEVENT.code, 0x8088_5659);
            assert_eq!(SUBSCRIBE_EVENT.code, 0x4020_565a);
            assert_eq!(QUERY_EXT_CTRL.code, 0xc0e8_5667);
            assert_eq!(S_CTRL.code, 0xc008_561c);
            assert_eq!(ENCODER_CMD.code, 0xc028_564d);
            assert_eq!(S_SELECTION.code, 0xc040_565f);
        }
    }
}
