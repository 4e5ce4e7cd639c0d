//! Why a source can't be opened, or stopped giving frames.

use std::io;
use std::path::PathBuf;

/// What went wrong with a source. The text names the culprit and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such file.
    #[error("`{}`: no such file; check `uri` (relative paths count from the working directory)", file.display())]
    NotFound {
        /// The file asked for.
        file: PathBuf,
    },
    /// The file is there, but may not or cannot be read.
    #[error("`{}`: cannot be read: {cause}; check that the user running this may read it", file.display())]
    Unreadable {
        /// The file asked for.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A directory, a socket or another thing that is not a file of bytes.
    #[error("`{}` is {what}, not a video file; name the file itself", file.display())]
    NotAFile {
        /// The path asked for.
        file: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The file holds no pictures: empty, text, audio only, an unknown format.
    #[error("`{}` is not a video: {detail}; try to play it with `ffplay`, or name another file", file.display())]
    NotAVideo {
        /// The file asked for.
        file: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// The file is truncated or has wrong bytes in it. Every picture that could be decoded was
    /// delivered before this.
    #[error("`{}` is damaged: {detail} ({frames_delivered} frames were delivered before this was reported); fetch or record it again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Frames this source has delivered since it was opened.
        frames_delivered: u64,
        /// The decoder's first complaints.
        detail: String,
    },
    /// A program this source needs at run time is not installed.
    #[error("`{program}` is needed for `{}` and was not found: {cause}; install it (Debian, Ubuntu: `apt install ffmpeg`) or put it on PATH", file.display())]
    FfmpegMissing {
        /// `ffmpeg` or `ffprobe`.
        program: &'static str,
        /// The file that needs it.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The decoder process broke off, for a reason that does not lie in the file.
    #[error("decoding `{}` with {program} failed after {frames_delivered} frames: {detail}", file.display())]
    Decoder {
        /// The program.
        program: &'static str,
        /// The file.
        file: PathBuf,
        /// Frames this source has delivered since it was opened.
        frames_delivered: u64,
        /// Its exit status and its last words, or what we could not understand.
        detail: String,
    },
    /// The decoder process gave no byte for a long time.
    #[error("decoding `{}` with {program} has stalled: nothing for {waited_s} s; is the file on a network or a sleeping disk?", file.display())]
    Stalled {
        /// The program.
        program: &'static str,
        /// The file.
        file: PathBuf,
        /// Seconds waited.
        waited_s: u64,
    },
    /// This version has no source for this kind of URI.
    #[error("`{uri}`: {detail}")]
    Unsupported {
        /// The URI asked for.
        uri: String,
        /// What is not supported, and what is.
        detail: String,
    },
    /// A parameter of a synthetic source is wrong.
    #[error("`{uri}`: {error}")]
    Parameter {
        /// The URI asked for.
        uri: String,
        /// Which, and what was expected.
        error: super::synthetic::ParamError,
    },
    /// A camera can't be had, and waiting would not help.
    #[error(transparent)]
    Device(#[from] crate::devices::DeviceError),
    /// The pool's slots are smaller than a picture.
    #[error("`{}`: a picture takes {need} bytes and a slot of the frame pool has {have}; make the pool for the layout in `SourceInfo`", file.display())]
    Slot {
        /// The file.
        file: PathBuf,
        /// Bytes of one picture.
        need: usize,
        /// Bytes of one slot.
        have: usize,
    },
    /// The pool did not take the picture.
    #[error("`{}`: the frame pool refused a frame: {detail}", file.display())]
    Pool {
        /// The file.
        file: PathBuf,
        /// What the pool said.
        detail: String,
    },
}
