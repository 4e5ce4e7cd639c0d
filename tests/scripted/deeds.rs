//! What a worker should not do. What its sandbox must refuse is tried and told as signals: the
//! errno, or 0 if it succeeded.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "the test worker's misdeeds are system calls that no safe wrapper offers"
)]

use std::ffi::CString;
use std::io::Write;
use std::time::Duration;

use rustix::process::{Signal, getpid, getppid, kill_process};
use visualpath_core::{ExtractError, Signals};

/// One misdeed and its number.
#[derive(Debug, Clone)]
pub struct Deed(&'static str, u64);

const KNOWN: &[&str] = &[
    "error",
    "panic",
    "nan",
    "sigkill",
    "sigsegv",
    "sigstop",
    "sigabrt",
    "exit",
    "last_words",
    "sleep",
    "late",
    "memory",
    "forks",
    "files",
    "stderr",
    "write_frame",
    "forbidden",
];

impl Deed {
    /// By name; `None` if there is no such deed.
    pub fn new(word: &str, arg: u64) -> Option<Self> {
        let known = KNOWN.iter().find(|k| **k == word)?;
        Some(Self(known, arg))
    }
}

/// Does it.
///
/// # Errors
/// If that is what it was told.
///
/// # Panics
/// The same.
pub fn act(deed: &Deed, pixels: &[u8], signals: &mut Signals) -> Result<(), ExtractError> {
    let Deed(word, arg) = *deed;
    match word {
        "error" => return Err(ExtractError("told to fail".to_owned())),
        "panic" => panic!("told to panic"),
        "nan" => signals.set("broken", f64::NAN),
        "sigkill" => signal(Signal::KILL),
        "sigstop" => signal(Signal::STOP),
        "sigabrt" => std::process::abort(),
        // SAFETY: none: nothing is mapped there, and the fault is what is wanted.
        "sigsegv" => unsafe { std::ptr::dangling_mut::<u64>().write_volatile(1) },
        "exit" => std::process::exit(arg as i32),
        "last_words" => {
            eprintln!("ERROR the lens is dirty");
            std::process::exit(3);
        }
        "sleep" => loop {
            std::thread::sleep(Duration::from_secs(1000));
        },
        "late" => std::thread::sleep(Duration::from_millis(arg)),
        "memory" => {
            let gigabyte = vec![1_u8; 1 << 30];
            signals.set("memory", f64::from(gigabyte[gigabyte.len() - 1]));
        }
        "forks" => forks(signals),
        "files" => files(signals),
        "stderr" => chat(),
        "write_frame" => {
            // SAFETY: none: the mapping is read-only, and the fault is what is wanted.
            unsafe { pixels.as_ptr().cast_mut().write_volatile(255) };
        }
        "forbidden" => {
            for (name, errno) in forbidden(pixels) {
                signals.set(name, f64::from(errno));
            }
        }
        other => return Err(ExtractError(format!("`{other}` is not done yet"))),
    }
    Ok(())
}

fn signal(signal: Signal) {
    if let Err(e) = kill_process(getpid(), signal) {
        eprintln!("ERROR it could not signal itself: {e}");
    }
}

/// 10 MB in lines.
fn chat() {
    let line = [b"chat ".as_slice(), &[b'x'; 994], b"\n"].concat();
    let mut stderr = std::io::stderr().lock();
    for _ in 0..10_000 {
        if stderr.write_all(&line).is_err() {
            return;
        }
    }
}

fn files(signals: &mut Signals) {
    let mut open = Vec::new();
    let errno = loop {
        match std::fs::File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(e) => break e.raw_os_error().unwrap_or(-1),
        }
        if open.len() == 10_000 {
            break 0;
        }
    };
    signals.set("files", open.len() as f64);
    signals.set("files_errno", f64::from(errno));
}

/// A bomb of two hundred, should it go off.
fn forks(signals: &mut Signals) {
    let (mut made, mut last) = (0, 0);
    for _ in 0..200 {
        // SAFETY: the child does nothing but wait for its end.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: as above.
                unsafe { libc::sleep(100) };
            },
            -1 => last = errno(),
            _ => made += 1,
        }
    }
    signals.set("forks", f64::from(made));
    signals.set("forks_errno", f64::from(last));
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
}

fn told(result: i64) -> i32 {
    if result == -1 { errno() } else { 0 }
}

/// Every forbidden thing by name, with its errno or 0.
pub fn forbidden(pixels: &[u8]) -> Vec<(&'static str, i32)> {
    let parent = getppid().map_or(0, |p| p.as_raw_nonzero().get());
    let open = |path: &str, flags: i32| {
        let path = CString::new(path).unwrap_or_default();
        // SAFETY: a path that ends with NUL.
        told(unsafe { libc::open(path.as_ptr(), flags) }.into())
    };
    let page = pixels.as_ptr() as usize & !4095;
    let (at, writable) = (
        page as *mut libc::c_void,
        libc::PROT_READ | libc::PROT_WRITE,
    );
    // SAFETY: each call is expected to be refused; were it not, it harms this process or its
    // parent, and the test fails.
    unsafe {
        vec![
            ("mprotect", told(libc::mprotect(at, 4096, writable).into())),
            ("own_mem", open("/proc/self/mem", libc::O_RDWR)),
            (
                "parent_mem",
                open(&format!("/proc/{parent}/mem"), libc::O_RDWR),
            ),
            (
                "parent_environ",
                open(&format!("/proc/{parent}/environ"), libc::O_RDONLY),
            ),
            ("shadow", open("/etc/shadow", libc::O_RDONLY)),
            (
                "tcp",
                told(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into()),
            ),
            (
                "udp6",
                told(libc::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0).into()),
            ),
            (
                "ptrace",
                told(libc::ptrace(libc::PTRACE_SEIZE, parent, 0_usize, 0_usize)),
            ),
            ("kill", told(libc::kill(parent, libc::SIGTERM).into())),
            ("kill_group", told(libc::kill(-1, 0).into())),
            ("setsid", told(libc::setsid().into())),
            (
                "pdeathsig",
                told(libc::prctl(libc::PR_SET_PDEATHSIG, 0).into()),
            ),
            (
                "made_file",
                open(
                    "/var/tmp/visualpath-should-not-be",
                    libc::O_CREAT | libc::O_WRONLY,
                ),
            ),
            (
                "shm",
                open(
                    "/dev/shm/visualpath-should-not-be",
                    libc::O_CREAT | libc::O_RDWR,
                ),
            ),
        ]
    }
}

/// What somebody who kept the descriptor of a pool can do with it.
pub fn steal(pool: std::os::fd::BorrowedFd<'_>) -> Vec<(&'static str, i32)> {
    use std::os::fd::AsRawFd;
    let fd = pool.as_raw_fd();
    let reopened = CString::new(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let map = |flags, protection| {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, fd, 0) };
        (at, if at == libc::MAP_FAILED { errno() } else { 0 })
    };
    let (_, shared) = map(libc::MAP_SHARED, writable);
    let (readable, reads) = map(libc::MAP_SHARED, libc::PROT_READ);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let zeros = [0_u8; 8];
    // SAFETY: on a mapping of our own and descriptors of our own; expected to be refused.
    unsafe {
        let mut tried = vec![
            ("map_writable", shared),
            ("map_readable", reads),
            (
                "mprotect",
                told(libc::mprotect(readable, 4096, writable).into()),
            ),
            (
                "write",
                told(libc::write(fd, zeros.as_ptr().cast(), 8) as i64),
            ),
            ("truncate", told(libc::ftruncate(fd, 4096).into())),
            (
                "unseal",
                told(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SEAL).into()),
            ),
        ];
        // Whoever owns the file may open it anew for writing; the seals hold all the same.
        let again = libc::open(reopened.as_ptr(), libc::O_RDWR);
        let null = std::ptr::null_mut();
        let at = libc::mmap(null, 4096, writable, libc::MAP_SHARED, again, 0);
        let mapped = if at == libc::MAP_FAILED { errno() } else { 0 };
        tried.extend([
            ("again_map", mapped),
            (
                "again_write",
                told(libc::pwrite(again, zeros.as_ptr().cast(), 8, 0) as i64),
            ),
            ("again_truncate", told(libc::ftruncate(again, 4096).into())),
            (
                "again_punch",
                told(libc::fallocate(again, punch, 0, 4096).into()),
            ),
        ]);
        tried
    }
}
