//! What the kernel refuses on a pool's memory, asked of the real kernel, and that another process
//! really reads what was published.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::mm::MprotectFlags;
use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, PixelFormat, ViewFormat, ViewSpec};

use super::*;
use crate::{FramePool, PoolSpec, SlotHeader, ViewError, ViewMaker};

const GREY: ViewSpec = ViewSpec {
    format: ViewFormat::Grey,
    size: Some((4, 3)),
    fit: visualpath_core::Fit::Stretch,
    filter: visualpath_core::Filter::Bilinear,
};

struct Invert;

impl ViewMaker for Invert {
    fn make(
        &self,
        _: &ViewSpec,
        _: &ImageLayout,
        src: &[u8],
        _: &ImageLayout,
        dst: &mut [u8],
    ) -> Result<(), ViewError> {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = !s;
        }
        Ok(())
    }
}

fn pool() -> FramePool {
    let spec = PoolSpec {
        pool_id: 7,
        slots: 3,
        native: ImageLayout::packed(PixelFormat::Rgb, 40, 30, ColorSpec::default()),
        native_room: 0,
        views: vec![GREY],
    };
    FramePool::memfd(&spec, Arc::new(Invert)).expect("a memfd pool")
}

fn fd(pool: &FramePool) -> BorrowedFd<'_> {
    pool.read_only_fd().expect("a memfd pool has one")
}

/// What a hostile child can make of the descriptor it was given.
fn reopened_for_writing(pool: &FramePool) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd(pool).as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("opened")
}

fn map(fd: BorrowedFd<'_>, len: usize, prot: ProtFlags) -> Result<*mut c_void, Errno> {
    // SAFETY: a new mapping, at an address of the kernel's choice.
    unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }
}

fn mprotect(at: *mut c_void, len: usize) -> Result<(), Errno> {
    // SAFETY: the test's own mapping, to which it has no references.
    unsafe { rustix::mm::mprotect(at, len, MprotectFlags::READ | MprotectFlags::WRITE) }
}

#[test]
fn the_memory_is_sealed_against_resizing_writing_and_unsealing() {
    let pool = pool();
    let seals = rustix::fs::fcntl_get_seals(fd(&pool)).expect("seals");
    assert!(seals.contains(SEALS), "{seals:?}");
    assert_eq!(
        rustix::fs::fcntl_add_seals(reopened_for_writing(&pool), SealFlags::WRITE),
        Err(Errno::PERM)
    );
}

#[test]
fn no_descriptor_maps_the_memory_writable() {
    let pool = pool();
    let len = pool.layout().total_bytes();
    let both = ProtFlags::READ | ProtFlags::WRITE;
    assert_eq!(map(fd(&pool), len, both), Err(Errno::ACCESS));
    let reopened = reopened_for_writing(&pool);
    assert_eq!(map(reopened.as_fd(), len, both), Err(Errno::PERM));
}

#[test]
fn a_readable_mapping_cannot_be_made_writable() {
    let pool = pool();
    let len = pool.layout().total_bytes();
    let reopened = reopened_for_writing(&pool);
    for fd in [fd(&pool), reopened.as_fd()] {
        let at = map(fd, len, ProtFlags::READ).expect("mapped");
        assert_eq!(mprotect(at, len), Err(Errno::ACCESS));
        unmap(at, len);
    }
}

#[test]
fn nothing_else_changes_a_byte_or_the_size() {
    let pool = pool();
    let len = pool.layout().total_bytes() as u64;
    assert_eq!(rustix::io::pwrite(fd(&pool), b"x", 0), Err(Errno::BADF));
    let reopened = reopened_for_writing(&pool);
    assert_eq!(rustix::io::pwrite(&reopened, b"x", 0), Err(Errno::PERM));
    for size in [0, len - 1, len + 1] {
        assert_eq!(rustix::fs::ftruncate(&reopened, size), Err(Errno::PERM));
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(
        rustix::fs::fallocate(&reopened, hole, 0, 4096),
        Err(Errno::PERM)
    );
    assert_eq!(
        rustix::fs::fstat(fd(&pool)).expect("stat").st_size as u64,
        len
    );
}

#[test]
fn the_memory_has_no_name_anywhere() {
    let pool = pool();
    let stat = rustix::fs::fstat(fd(&pool)).expect("stat");
    assert_eq!(stat.st_nlink, 0, "no directory entry");
    for dir in ["/dev/shm", "/tmp"] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            assert!(
                (meta.dev(), meta.ino()) != (stat.st_dev as u64, stat.st_ino as u64),
                "{:?} is the pool",
                entry.path()
            );
        }
    }
}

#[test]
fn dropping_the_pool_closes_its_descriptor_and_unmaps_it() {
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        maps.lines()
            .filter(|l| l.contains("visualpath-frames"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let pool = pool();
    let ino = rustix::fs::fstat(fd(&pool)).expect("stat").st_ino;
    // The inode is the fifth column.
    let ours = |lines: Vec<String>| {
        lines
            .iter()
            .filter(|l| l.split_whitespace().nth(4) == Some(&ino.to_string()))
            .count()
    };
    assert_eq!(ours(mapped()), 1);
    let frame = publish(&pool, 1);
    drop(pool);
    assert_eq!(ours(mapped()), 1, "a frame keeps its pool");
    drop(frame);
    assert_eq!(ours(mapped()), 0);
}

/// The byte at `i` of the picture below.
fn pattern(i: usize) -> u8 {
    u8::try_from(i % 251).expect("below 251")
}

fn publish(pool: &FramePool, frame_id: u64) -> crate::Frame {
    let mut slot = pool.try_acquire().expect("free");
    for (i, byte) in slot.pixels_mut().iter_mut().enumerate() {
        *byte = pattern(i);
    }
    let layout = *slot.layout();
    let meta = FrameMeta {
        frame_id,
        t_ns: -5,
        epoch: 2,
        layout,
    };
    slot.publish(meta, pool.holder("test"))
}

/// What the parent tells the child: `len header pixels view generation frame_id`.
const TOLD: &str = "VISUALPATH_FRAMES_TEST_CHILD";

#[test]
fn another_process_reads_header_pixels_and_view_through_the_descriptor() {
    let pool = pool();
    let _first = publish(&pool, 41);
    let frame = publish(&pool, 42);
    let view = pool.view_id(&GREY).expect("declared");
    frame.view(view).expect("made");
    let layout = pool.layout();
    let told = [
        layout.total_bytes() as u64,
        layout.header_offset(frame.slot()) as u64,
        layout.pixels_offset(frame.slot()) as u64,
        layout.view_offset(frame.slot(), view).expect("ours") as u64,
        frame.generation(),
        42,
    ]
    .map(|n| n.to_string())
    .join(" ");
    let output = Command::new(std::env::current_exe().expect("test binary"))
        .args(["memory::memfd::tests::in_the_child", "--exact"])
        .args(["--ignored", "--nocapture"])
        .env(TOLD, told)
        .stdin(Stdio::from(fd(&pool).try_clone_to_owned().expect("dup")))
        .output()
        .expect("child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "the child looked: {text}");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn in_the_child() {
    let told: Vec<usize> = std::env::var(TOLD)
        .expect("run by the test above")
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let [len, header, pixels, view, generation, frame_id] = told[..] else {
        panic!("{told:?}")
    };
    let stdin = std::io::stdin();
    let at = map(stdin.as_fd(), len, ProtFlags::READ).expect("mapped");
    // SAFETY: mapped above; the parent leases the slot to us until we exit, so nobody writes.
    let bytes = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) };
    // SAFETY: in bounds, aligned to 128, and made of atomics.
    let header = unsafe { &*at.cast::<u8>().add(header).cast::<SlotHeader>() };
    assert!(header.is_valid());
    assert_eq!(header.generation(), generation as u64);
    assert_eq!(header.frame_id(), frame_id as u64);
    assert_eq!(header.t_ns(), -5);
    assert_eq!(header.pool_and_slot().0, 7);
    assert_eq!(header.size(), (40, 30));
    assert_eq!(header.format().to_le_bytes(), *b"RGB3");
    assert_eq!(header.pixels(), (pixels as u64, 40 * 30 * 3));
    for (i, byte) in bytes[pixels..pixels + 3600].iter().enumerate() {
        assert_eq!(*byte, pattern(i), "pixel byte {i}");
    }
    for (i, byte) in bytes[view..view + 12].iter().enumerate() {
        assert_eq!(*byte, !pattern(i), "view byte {i}");
    }
    // And it cannot write, neither so nor through a file it opens itself.
    let both = ProtFlags::READ | ProtFlags::WRITE;
    assert_eq!(map(stdin.as_fd(), len, both), Err(Errno::ACCESS));
    let mut reopened = File::options()
        .write(true)
        .open("/proc/self/fd/0")
        .expect("opened");
    assert!(reopened.write_all(b"x").is_err());
    unmap(at, len);
}
