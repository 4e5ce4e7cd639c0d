//! Cameras of the kernel's V4L2.
//!
//! ```text
//! source ── Away, Ready, Running; the events           recovery ── what to do about what
//!   ├─ bus ── nodes, uevents ── identity ── which node is the camera now
//!   ├─ setup ── negotiate, formats ── the plan: format, layout, whose memory
//!   └─ run ── stream ── who owns which buffer
//!        └─ packets ── encoded cameras
//! CaptureDevice (device) ◀── kernel, listing ── sys: the calls
//! ```
//!
//! `m2m` is the other thing V4L2 has here: the board's video encoder. `look` is what [`crate::devices`] says of the machine's cameras. Why it is like this:
//! `docs/design/capture.md`.

mod bus;
mod device;
mod formats;
mod identity;
mod kernel;
mod listing;
mod look;
mod m2m;
mod negotiate;
mod packets;
mod rate;
mod recovery;
#[cfg(test)]
mod rig;
mod run;
#[cfg(test)]
mod scripted;
mod setup;
mod source;
mod stream;
mod sys;
#[cfg(test)]
mod tests;

pub(crate) use look::{camera, cameras, probe_memory, set_control};
pub(crate) use m2m::{M2mEncoder, hardware_encoder};
pub use m2m::{Trial, TrialPacket};
pub(crate) use source::CameraSource;
