//! Pictures and evidence: sources, pixel conversion, encoder, packet ring, clipper, MP4.
pub mod clip;
pub mod convert;
pub mod decode;
pub mod devices;
pub mod encode;
pub mod jpeg;
pub mod mp4;
mod process;
pub mod ring;
pub mod source;
