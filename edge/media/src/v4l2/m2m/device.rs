//! What encoding needs of a memory-to-memory device, as a trait: the kernel's ([`super::kernel`])
//! and the tests' scripted one.

use rustix::io::Errno;
use v4l::FourCC;
use visualpath_core::ColorSpec;

use crate::source::v4l2::device::{MAX_PLANES, PixFormat, Used};
use crate::source::v4l2::sys::{Mapping, Ready};

/// Which of its two queues. (The kernel's names are from the driver's point of view: raw pictures
/// are "output", coded ones "capture".)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// Pictures go in.
    Raw,
    /// Coded ones come out.
    Coded,
}

/// A format to ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) fourcc: FourCC,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Of a coded buffer, bytes; 0 for the driver's own choice.
    pub(super) bytes: u32,
    /// What raw samples mean, for the stream's header.
    pub(super) color: ColorSpec,
}

/// What goes in with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Filled {
    /// Bytes of each plane of memory; none for a buffer to fill.
    pub(super) bytes: [u32; MAX_PLANES],
    /// Copied to the coded buffer, microseconds.
    pub(super) stamp_us: i64,
}

/// A buffer that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) index: u32,
    /// Of each plane of memory.
    pub(super) used: Used,
    /// The driver says its content is damaged.
    pub(super) error: bool,
    /// The last of a drained stream.
    pub(super) last: bool,
    /// The driver says that it is a key picture.
    pub(super) is_key: bool,
    pub(super) stamp_us: i64,
}

/// One open encoder. Dropping it closes it.
pub(super) trait CodecDevice: Send {
    /// The node and its driver, for people.
    fn name(&self) -> String;
    fn formats(&self, queue: Queue) -> Result<Vec<FourCC>, Errno>;
    /// Answers what the driver made of it.
    fn set_format(&mut self, queue: Queue, asked: &Asked) -> Result<PixFormat, Errno>;
    /// Which part of the raw buffers is the picture, from their upper left; answers the driver's.
    fn set_crop(&mut self, width: u32, height: u32) -> Result<(u32, u32), Errno>;
    /// A hint for rate control.
    fn set_rate(&mut self, fps: f64) -> Result<(), Errno>;
    /// Least and most of a control; INVAL if there is none.
    fn control_range(&self, id: u32) -> Result<(i64, i64), Errno>;
    fn set_control(&mut self, id: u32, value: i32) -> Result<(), Errno>;
    /// Asks for `count` buffers (0: gives them back) and answers how many there are.
    fn request(&mut self, queue: Queue, count: u32) -> Result<u32, Errno>;
    /// Maps every plane of a buffer.
    fn map(&mut self, queue: Queue, index: u32) -> Result<Vec<Mapping>, Errno>;
    /// Hands a buffer to the driver.
    fn queue(&mut self, queue: Queue, index: u32, filled: &Filled) -> Result<(), Errno>;
    /// The next buffer the driver is done with; AGAIN if there is none, PIPE behind the last.
    fn dequeue(&mut self, queue: Queue) -> Result<Done, Errno>;
    fn start(&mut self, queue: Queue) -> Result<(), Errno>;
    /// After it has succeeded the driver has no buffer of the queue.
    fn stop(&mut self, queue: Queue) -> Result<(), Errno>;
    /// What is inside comes out, the last of it marked.
    fn drain(&mut self) -> Result<(), Errno>;
    /// Waits for a buffer of either queue.
    fn poll(&mut self, limit_ms: i32) -> Result<Ready, Errno>;
}
