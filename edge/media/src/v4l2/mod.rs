//! Cameras of the kernel's V4L2.
//!
//! ```text
//! sys ── the calls, typed ── kernel ── one node as a CaptureDevice
//! ```
//!
//! Why it is like this: `docs/design/capture.md`.

mod device;
mod formats;
mod identity;
mod kernel;
mod look;
mod sys;

use std::path::Path;

use crate::devices::{Copies, DeviceError, Wanted};

pub(crate) use look::{camera, cameras, set_control};

pub(crate) fn probe_memory(node: &Path, wanted: &Wanted) -> Result<Copies, DeviceError> {
    let _ = (node, wanted);
    Err(DeviceError::NotBuilt)
}
