//! What the streaming loop needs of a capture device, as a trait: the kernel's
//! ([`super::kernel`]) and the tests' scripted one.

use rustix::io::Errno;
use v4l::FourCC;

use super::sys::{Mapping, Ready};
use crate::devices::{CameraFormat, ControlInfo, Planes};

/// Who the device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capability {
    pub(super) card: String,
    pub(super) driver: String,
    pub(super) bus_info: String,
    pub(super) planes: Planes,
}

/// Bytes per row and bytes at all of one plane of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PlaneFormat {
    pub(super) stride: u32,
    pub(super) bytes: u32,
}

/// A format as the driver has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PixFormat {
    pub(super) fourcc: FourCC,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Planes of memory, which are not those of the picture: NV12 in one buffer has one.
    pub(super) planes: Vec<PlaneFormat>,
    /// `enum v4l2_colorspace`.
    pub(super) colorspace: u32,
    /// `enum v4l2_ycbcr_encoding`.
    pub(super) ycbcr_enc: u32,
    /// `enum v4l2_quantization`.
    pub(super) quantization: u32,
    /// `enum v4l2_field`.
    pub(super) field: u32,
}

impl PixFormat {
    /// To ask for; the driver fills in the rest.
    pub(super) fn asked(fourcc: FourCC, width: u32, height: u32) -> Self {
        Self {
            fourcc,
            width,
            height,
            planes: Vec::new(),
            colorspace: 0,
            ycbcr_enc: 0,
            quantization: 0,
            field: 0,
        }
    }
}

/// Whose memory the driver writes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    /// The driver's.
    Mmap,
    /// Ours.
    UserPtr,
}

/// The kernel's limit.
pub(super) const MAX_PLANES: usize = 8;

/// Of each plane of memory: the first used byte and the one behind the last. Fixed in size, because
/// there is one per picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Used {
    parts: [(usize, usize); MAX_PLANES],
    count: usize,
}

impl Used {
    pub(super) fn parts(&self) -> &[(usize, usize)] {
        self.parts.get(..self.count).unwrap_or_default()
    }
}

impl FromIterator<(usize, usize)> for Used {
    /// Of the first [`MAX_PLANES`].
    fn from_iter<I: IntoIterator<Item = (usize, usize)>>(parts: I) -> Self {
        let mut used = Self::default();
        for (place, part) in used.parts.iter_mut().zip(parts) {
            *place = part;
            used.count += 1;
        }
        used
    }
}

/// A buffer that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dequeued {
    pub(super) index: u32,
    /// Of each plane of memory.
    pub(super) used: Used,
    /// The driver says its content is damaged.
    pub(super) error: bool,
    /// On CLOCK_MONOTONIC, if the driver says that it is.
    pub(super) monotonic_ns: Option<i64>,
    pub(super) sequence: u32,
}

/// One open capture device. Dropping it closes it.
pub(super) trait CaptureDevice: Send {
    fn capability(&self) -> Result<Capability, Errno>;
    /// Every format with its sizes and rates.
    fn formats(&self) -> Result<Vec<CameraFormat>, Errno>;
    fn format(&self) -> Result<PixFormat, Errno>;
    /// Answers what the driver made of it.
    fn set_format(&mut self, asked: &PixFormat) -> Result<PixFormat, Errno>;
    /// Answers the rate the driver chose, `None` where it has none.
    fn set_rate(&mut self, fps: Option<f64>) -> Result<Option<f64>, Errno>;
    /// Asks for `count` buffers (0: gives them back) and answers how many there are.
    fn request(&mut self, memory: Memory, count: u32) -> Result<u32, Errno>;
    /// Maps every plane of an MMAP buffer.
    fn map(&mut self, index: u32) -> Result<Vec<Mapping>, Errno>;
    /// Hands an MMAP buffer to the driver.
    fn queue_mapped(&mut self, index: u32) -> Result<(), Errno>;
    /// Hands memory to the driver.
    ///
    /// # Safety
    /// `len` bytes at `start` are the driver's alone until [`CaptureDevice::dequeue`] answers with
    /// this index, [`CaptureDevice::stop`] has succeeded, or the device is closed; not if this
    /// answers an error.
    #[allow(unsafe_code)]
    unsafe fn queue_user(&mut self, index: u32, start: *mut u8, len: usize) -> Result<(), Errno>;
    /// The next filled buffer, if there is one; `AGAIN` otherwise.
    fn dequeue(&mut self, memory: Memory) -> Result<Dequeued, Errno>;
    fn start(&mut self) -> Result<(), Errno>;
    /// After it has succeeded the driver has no buffer.
    fn stop(&mut self) -> Result<(), Errno>;
    fn poll(&mut self, limit_ms: i32) -> Result<Ready, Errno>;
    /// Takes every event that is there; answers whether one of them was a change of the source.
    fn source_changed(&mut self) -> Result<bool, Errno>;
    fn controls(&self) -> Result<Vec<ControlInfo>, Errno>;
    fn set_control(&mut self, id: u32, value: i64) -> Result<(), Errno>;
}
