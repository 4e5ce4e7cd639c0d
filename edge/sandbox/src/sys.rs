//! The system calls that no safe wrapper exists for. All `unsafe` of this crate is here.
//!
//! Everything in here is for a process with one thread that holds no descriptor it still needs
//! by another owner: the stage, first thing in `main`.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Ignores a signal, for this process and what it execs.
pub(crate) fn ignore(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: SIG_IGN installs no code.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes `to` a copy of `from` that outlives exec. What `to` was before is closed.
pub(crate) fn copy_onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: numbers only; the stage holds nothing that lives at `to` (see the module's page).
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: closes by number; the stage holds nothing from `first` on (see the module's page).
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Linux before 5.9, or a container that does not know it.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            close_listed(first)
        }
        error => Err(error),
    }
}

fn close_listed(first: u32) -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(fd) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            open.push(fd);
        }
    }
    for fd in open.into_iter().filter(|fd: &RawFd| {
        // Negative ones do not exist.
        u32::try_from(*fd).is_ok_and(|fd| fd >= first)
    }) {
        // SAFETY: as in `close_from`. The directory itself is closed by now: EBADF, harmless.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// The Landlock ABI of the running kernel; the error of one without.
pub(crate) fn landlock_abi() -> io::Result<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel reads no memory of ours.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// Whether the kernel has seccomp filters that can answer with an errno.
pub(crate) fn seccomp_errno_available() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads the four bytes of `action`, which outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0_u32,
            &raw const action,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Removes an environment variable. Only with one thread.
pub(crate) fn remove_env(key: &str) {
    // SAFETY: the stage has one thread (`Stage::enter` and `Stage::from_env` check it).
    unsafe { std::env::remove_var(key) }
}

/// Sets an environment variable. Only with one thread.
pub(crate) fn set_env(key: &str, value: &OsStr) {
    // SAFETY: as in `remove_env`.
    unsafe { std::env::set_var(key, value) }
}
