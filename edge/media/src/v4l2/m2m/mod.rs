//! The board's video encoder: V4L2's memory-to-memory stateful encoder interface.
//!
//! ```text
//! M2mEncoder (encoder) ── frames, H.264, key pictures, which packet is whose
//!      └─ Session (session) ── the two queues: who owns which buffer, what is inside
//!           └─ CodecDevice (device) ◀── kernel: the calls
//! Places (raw) ── where a picture's planes lie in the driver's memory
//! ```
//!
//! Written after the kernel's own description (Memory-to-Memory Stateful Video Encoder Interface).
//! Only `encoder` knows H.264; the coded format is a parameter of the rest, so that any stateful
//! encoder a kernel offers can run it. Why it is like this: `docs/design/clips.md`.

mod device;
mod encoder;
mod kernel;
mod raw;
#[cfg(test)]
mod scripted;
mod session;
#[cfg(test)]
mod tests;
mod trial;

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use v4l::FourCC;

use self::device::{CodecDevice, Queue};
use self::kernel::KernelCodec;
use super::formats::text;
use super::identity::Places;

pub(crate) use encoder::M2mEncoder;
pub use trial::{Trial, TrialPacket};

/// Of ITU-T H.264 with start codes.
const H264: FourCC = FourCC { repr: *b"H264" };

/// Why the hardware does not encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum M2mError {
    /// The board has none.
    #[error("no /dev/video* takes pictures and gives {coded}{}", may_not_be_opened(.denied))]
    None {
        /// The format.
        coded: String,
        /// Nodes that may not be opened.
        denied: Vec<PathBuf>,
    },
    /// A call failed.
    #[error("{device}: {what}: {}", std::io::Error::from(*.errno))]
    Failed {
        /// The node and its driver.
        device: String,
        /// The call.
        what: String,
        /// What it said.
        errno: Errno,
    },
    /// It can't take such pictures.
    #[error("{device}: asked for pictures of {width}x{height}, it takes {theirs}")]
    Size {
        /// The node and its driver.
        device: String,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What it takes.
        theirs: String,
    },
    /// Nothing came out.
    #[error("{device}: {inside} pictures are inside and none has come out for {ms} ms")]
    Stalled {
        /// The node and its driver.
        device: String,
        /// How many.
        inside: usize,
        /// For how long.
        ms: i32,
    },
    /// It does not do what the interface asks for.
    #[error("{device}: {what}")]
    Broken {
        /// The node and its driver.
        device: String,
        /// What it does.
        what: String,
    },
}

fn may_not_be_opened(nodes: &[PathBuf]) -> String {
    match nodes {
        [] => String::new(),
        nodes => {
            let nodes: Vec<_> = nodes.iter().map(|n| n.display().to_string()).collect();
            format!(
                "; {} may not be opened (is the user in the group `video`?)",
                nodes.join(", ")
            )
        }
    }
}

/// The first node that makes `coded` of pictures we can write.
fn find(coded: FourCC) -> Result<Box<dyn CodecDevice>, M2mError> {
    let mut denied = Vec::new();
    for node in Places::default().nodes() {
        if is_usb_camera(&node) {
            continue;
        }
        match KernelCodec::open(&node) {
            Ok(Some(device)) if makes(&device, coded) => return Ok(Box::new(device)),
            Err(Errno::ACCESS | Errno::PERM) => denied.push(node),
            Ok(_) => {}
            Err(errno) => tracing::debug!(node = %node.display(), %errno, "not looked at"),
        }
    }
    Err(M2mError::None {
        coded: text(coded),
        denied,
    })
}

/// Opening one would wake the camera up.
fn is_usb_camera(node: &Path) -> bool {
    let Some(name) = node.file_name() else {
        return false;
    };
    let driver = Path::new("/sys/class/video4linux")
        .join(name)
        .join("device/driver");
    std::fs::read_link(driver).is_ok_and(|to| to.file_name() == Some("uvcvideo".as_ref()))
}

fn makes(device: &dyn CodecDevice, coded: FourCC) -> bool {
    let has = |queue, wanted: &dyn Fn(FourCC) -> bool| {
        device
            .formats(queue)
            .is_ok_and(|formats| formats.iter().any(|f| wanted(*f)))
    };
    has(Queue::Coded, &|f| f == coded) && has(Queue::Raw, &raw::is_known)
}

/// See [`crate::encode::hardware_encoder`].
pub(crate) fn hardware_encoder() -> Option<String> {
    find(H264).ok().map(|device| device.name())
}
