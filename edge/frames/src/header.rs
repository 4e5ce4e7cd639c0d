//! The slot header: what a process that maps the pool can check before it trusts a slot.
//!
//! A reader is told which slot to look at by a message, and the slot stays leased until it
//! answers; the header takes no part in that. It is an assertion: if `generation` is not the
//! one in the message, one of the two processes is broken and the reader must not go on.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use visualpath_core::{FrameMeta, PixelFormat};

/// Bytes from one slot header to the next.
pub const SLOT_HEADER_BYTES: usize = 128;
/// `magic` of every published slot: "VPSH" in memory order on a little-endian machine.
pub const SLOT_MAGIC: u32 = u32::from_le_bytes(*b"VPSH");
/// `version` of the layout below.
pub const SLOT_VERSION: u32 = 1;

/// One slot's header, in the machine's byte order, at `slot × 128` from the start of the pool.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | u32 | `magic`, [`SLOT_MAGIC`]; 0 until the slot is first published |
/// | 4 | u32 | `version`, [`SLOT_VERSION`] |
/// | 8 | u64 | `generation`, never the same for two fillings of a pool's slots; 0 while being filled |
/// | 16 | u64 | `frame_id` |
/// | 24 | i64 | `t_ns`, the source's monotonic time |
/// | 32 | u64 | `pixels_offset`, bytes from the start of the pool |
/// | 40 | u64 | `pixels_bytes`, bytes of the native image |
/// | 48 | u32 | `pool_id` |
/// | 52 | u32 | `slot` |
/// | 56 | u32 | `epoch` |
/// | 60 | u32 | `width`, pixels |
/// | 64 | u32 | `height`, pixels |
/// | 68 | u32 | `format`, the V4L2 four-character code |
/// | 72 | – | zero |
///
/// The fields are atomics because a broken reader may look while the parent writes; it then
/// gets a wrong number, not undefined behaviour. Readers only ever load.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct SlotHeader {
    magic: AtomicU32,
    version: AtomicU32,
    generation: AtomicU64,
    frame_id: AtomicU64,
    t_ns: AtomicI64,
    pixels_offset: AtomicU64,
    pixels_bytes: AtomicU64,
    pool_id: AtomicU32,
    slot: AtomicU32,
    epoch: AtomicU32,
    width: AtomicU32,
    height: AtomicU32,
    format: AtomicU32,
}

const _: () = assert!(size_of::<SlotHeader>() == SLOT_HEADER_BYTES);

/// Where a slot lies, for its header.
pub(crate) struct SlotPlace {
    pub(crate) pool_id: u32,
    pub(crate) slot: usize,
    pub(crate) pixels_offset: usize,
    pub(crate) pixels_bytes: usize,
}

impl SlotHeader {
    /// The filling this header describes; 0 while the slot is being filled. Loaded with acquire:
    /// the other fields are at least as new.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a header of this version was ever published here.
    pub fn is_valid(&self) -> bool {
        self.magic.load(Ordering::Relaxed) == SLOT_MAGIC
            && self.version.load(Ordering::Relaxed) == SLOT_VERSION
    }

    /// Identity of the frame.
    pub fn frame_id(&self) -> u64 {
        self.frame_id.load(Ordering::Relaxed)
    }

    /// Instant of the frame, nanoseconds of the source's monotonic time.
    pub fn t_ns(&self) -> i64 {
        self.t_ns.load(Ordering::Relaxed)
    }

    /// Bytes from the start of the pool to the native pixels, and how many there are.
    pub fn pixels(&self) -> (u64, u64) {
        (
            self.pixels_offset.load(Ordering::Relaxed),
            self.pixels_bytes.load(Ordering::Relaxed),
        )
    }

    /// Which pool and which slot of it.
    pub fn pool_and_slot(&self) -> (u32, u32) {
        (
            self.pool_id.load(Ordering::Relaxed),
            self.slot.load(Ordering::Relaxed),
        )
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (
            self.width.load(Ordering::Relaxed),
            self.height.load(Ordering::Relaxed),
        )
    }

    /// V4L2 four-character code of the native pixels.
    pub fn format(&self) -> u32 {
        self.format.load(Ordering::Relaxed)
    }

    /// Said at the start of a filling: from here on no earlier generation matches.
    pub(crate) fn begin(&self) {
        self.generation.store(0, Ordering::Release);
    }

    /// Said at the end of a filling, the generation last.
    pub(crate) fn publish(&self, place: &SlotPlace, meta: &FrameMeta, generation: u64) {
        let relaxed = Ordering::Relaxed;
        self.magic.store(SLOT_MAGIC, relaxed);
        self.version.store(SLOT_VERSION, relaxed);
        self.frame_id.store(meta.frame_id, relaxed);
        self.t_ns.store(meta.t_ns, relaxed);
        self.pixels_offset
            .store(place.pixels_offset as u64, relaxed);
        self.pixels_bytes.store(place.pixels_bytes as u64, relaxed);
        self.pool_id.store(place.pool_id, relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "slots are bounded by MAX_SLOTS"
        )]
        self.slot.store(place.slot as u32, relaxed);
        self.epoch.store(meta.epoch, relaxed);
        self.width.store(meta.layout.width, relaxed);
        self.height.store(meta.layout.height, relaxed);
        self.format.store(fourcc(meta.layout.format), relaxed);
        self.generation.store(generation, Ordering::Release);
    }
}

/// The V4L2 code of a format (linux/videodev2.h).
fn fourcc(format: PixelFormat) -> u32 {
    u32::from_le_bytes(match format {
        PixelFormat::I420 => *b"YU12",
        PixelFormat::Nv12 => *b"NV12",
        PixelFormat::Yuyv => *b"YUYV",
        PixelFormat::Rgb => *b"RGB3",
        PixelFormat::Bgr => *b"BGR3",
        PixelFormat::Grey => *b"GREY",
        PixelFormat::Uyvy => *b"UYVY",
        PixelFormat::Nv21 => *b"NV21",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_fields_lie_where_the_table_above_says() {
        assert_eq!(offset_of!(SlotHeader, magic), 0);
        assert_eq!(offset_of!(SlotHeader, version), 4);
        assert_eq!(offset_of!(SlotHeader, generation), 8);
        assert_eq!(offset_of!(SlotHeader, frame_id), 16);
        assert_eq!(offset_of!(SlotHeader, t_ns), 24);
        assert_eq!(offset_of!(SlotHeader, pixels_offset), 32);
        assert_eq!(offset_of!(SlotHeader, pixels_bytes), 40);
        assert_eq!(offset_of!(SlotHeader, pool_id), 48);
        assert_eq!(offset_of!(SlotHeader, slot), 52);
        assert_eq!(offset_of!(SlotHeader, epoch), 56);
        assert_eq!(offset_of!(SlotHeader, width), 60);
        assert_eq!(offset_of!(SlotHeader, height), 64);
        assert_eq!(offset_of!(SlotHeader, format), 68);
    }
}
