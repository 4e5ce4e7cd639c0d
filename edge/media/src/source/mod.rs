//! Sources: where frames come from.
//!
//! ```text
//! open(uri) ─▶ FileSource ── next() ─▶ Frame | Gap | Wrapped | NewFormat | End | Stopped
//!                  │
//!                  ├─ Timeline: frame_id, t_ns, over loops
//!                  ├─ Pacer:    waits until a picture is due (realtime)
//!                  └─ Pictures: decodes, straight into the slot
//!                       ├─ ffmpeg     any file, through a child process, over NUT
//!                       ├─ mjpeg      a bare sequence of JPEGs, in this process
//!                       └─ synthetic  drawn, with known ground truth
//! ```
//!
//! Why it is like this: `docs/design/sources.md`.

pub(crate) mod annexb;
mod camera;
mod encoded;
mod error;
mod exec;
mod ffmpeg;
mod file;
mod jpeg;
mod live;
mod mjpeg;
pub mod nut;
mod private;
mod probe;
mod publish;
mod rtsp;
pub mod synthetic;
mod timeline;
// Beside this folder, because it is as large; a child of this module, because it shares `live` and
// `publish` with the other live sources.
#[cfg(feature = "v4l2")]
#[path = "../v4l2/mod.rs"]
pub(crate) mod v4l2;
mod y4m;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use visualpath_core::{Clock, ImageLayout, Name, PixelFormat};
use visualpath_frames::{Frame, FramePool};

use crate::encode::{Codec, Packet};

pub use error::SourceError;
pub use jpeg::{JpegSplitter, Piece};
pub use rtsp::{RtspOptions, RtspTransport, redacted};
pub use visualpath_core::StopFlag;

/// What to open, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceOptions {
    /// The source's name in the config; for threads, logs and the frames' holder tag.
    pub name: Name,
    /// A path, `file:` and a path, or `synthetic:` and parameters. Cameras and streams are not in
    /// this version.
    pub uri: String,
    /// Pace pictures by their time stamps, and drop one for which there is no free slot. Otherwise:
    /// as fast as the consumer takes them, waiting for a slot.
    pub realtime: bool,
    /// Start again at the end, for ever.
    pub loop_: bool,
    /// Width wanted of a camera or a synthetic source; of no effect on files.
    pub width: Option<u32>,
    /// Height wanted of a camera or a synthetic source; of no effect on files.
    pub height: Option<u32>,
    /// Format wanted of a camera.
    pub format: WantedFormat,
    /// Camera controls to set, by the names `visualpath devices` lists.
    pub controls: Controls,
    /// Parts of every picture that nobody may see: painted over before the frame is published.
    pub privacy: Vec<Polygon>,
    /// Rate wanted of a camera or a synthetic source, pictures a second. Of a file: at most this rate, by its own time
    /// stamps, which stay as they are. On a file without time stamps (`.mjpeg`): its rate, 25 if
    /// absent.
    pub fps: Option<f64>,
    /// Threads of the decoder; 0 lets it choose. 1 by default: the other cores belong to the
    /// extractors, and a decoder with several threads holds back as many pictures.
    pub decode_threads: u32,
    /// What to know of an RTSP server besides its address.
    pub rtsp: RtspOptions,
}

/// What the first frame of a source is called. All zero unless it goes on where an earlier source
/// of the same name was: `frame_id` and source time never go back while the appliance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// Its `frame_id`.
    pub frame_id: u64,
    /// Its source time.
    pub t_ns: i64,
    /// Its epoch.
    pub epoch: u32,
}

impl SourceOptions {
    /// Options with every default: as fast as possible, once, one decoder thread.
    pub fn new(name: Name, uri: impl Into<String>) -> Self {
        Self {
            name,
            uri: uri.into(),
            realtime: false,
            loop_: false,
            width: None,
            height: None,
            format: WantedFormat::Auto,
            controls: Controls::new(),
            privacy: Vec::new(),
            fps: None,
            decode_threads: 1,
            rtsp: RtspOptions::default(),
        }
    }
}

/// The form in which a camera is asked to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WantedFormat {
    /// The cheapest that serves everybody.
    #[default]
    Auto,
    /// One JPEG per picture.
    Mjpeg,
    /// H.264.
    H264,
    /// These pixels.
    Pixels(PixelFormat),
}

/// A value for a camera's control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlValue {
    /// A number; of a menu, the item's index; of a switch, 0 or 1.
    Number(i64),
    /// The text of a menu's item; case does not matter.
    Text(String),
}

/// Controls to set, by name.
pub type Controls = BTreeMap<String, ControlValue>;

/// Corners in units of the picture, 0–1.
pub type Polygon = Vec<[f64; 2]>;

/// What the consumers of a source need of it. It may change while the source runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// Packets are kept as evidence: an encoded source gives [`SourceEvent::Packet`].
    pub packets: bool,
    /// Decoded pictures need not be larger than this, both ways; `None`: full size. A source that
    /// can decode at a smaller scale (JPEG) takes the smallest that is not below it.
    pub at_least: Option<(u32, u32)>,
    /// Controls to set.
    pub controls: Controls,
}

/// What a source delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceInfo {
    /// Layout of every frame, until [`SourceEvent::NewFormat`].
    pub layout: ImageLayout,
    /// Bytes a driver wants to write into a slot, where that is more than the layout takes;
    /// otherwise 0.
    pub native_room: usize,
    /// Slots a driver holds while it captures into them.
    pub driver_slots: usize,
    /// Pictures a second, as the file says; `None` if it does not.
    pub nominal_fps: Option<f64>,
    /// Length of one round, as the file says.
    pub duration_ns: Option<i64>,
    /// For people: `ffmpeg msmpeg4v3 768x576 10 fps`.
    pub description: String,
    /// The encoded form the source hands on as packets, without decoding, when asked to
    /// ([`Needs::packets`]).
    pub encoded: Option<Codec>,
}

impl SourceInfo {
    /// Of decoded pictures that no driver writes, with nothing else known.
    pub fn new(layout: ImageLayout, description: String) -> Self {
        Self {
            layout,
            native_room: 0,
            driver_slots: 0,
            nominal_fps: None,
            duration_ns: None,
            description,
            encoded: None,
        }
    }
}

/// Why a live source gives nothing for the time being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// What happened and to which device, for people.
    pub detail: String,
    /// What to do about it.
    pub advice: String,
}

/// Pictures that were captured and could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// How many. Each has used up a `frame_id`. 0 where nobody can tell.
    pub lost: u64,
    /// Source time of the last frame before the gap, or of the first lost one if there is none.
    pub from_ns: i64,
    /// Source time of the first frame after the gap, or of the last lost one so far.
    pub to_ns: i64,
    /// Why.
    pub cause: GapCause,
}

/// Why pictures were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// No slot of the pool was free.
    PoolExhausted,
    /// The picture's bytes are damaged, or a synthetic source was asked to lose it.
    Undecodable,
    /// The driver marked the picture as damaged.
    DriverError,
    /// The device's own count of pictures went on without them.
    Missed,
    /// The device, the child or the server was gone.
    Disconnected,
    /// The device gave nothing, without saying why, and was opened again.
    Stalled,
}

impl GapCause {
    /// The word used in metrics, traces and summaries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PoolExhausted => "pool_exhausted",
            Self::Undecodable => "undecodable",
            Self::DriverError => "driver_error",
            Self::Missed => "missed",
            Self::Disconnected => "disconnected",
            Self::Stalled => "stalled",
        }
    }
}

/// What became of a source that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndInfo {
    /// Frames delivered, over all rounds.
    pub frames: u64,
    /// Pictures lost, over all rounds.
    pub lost: u64,
    /// Source time of the last picture.
    pub last_t_ns: Option<i64>,
}

/// The next thing that happened at a source.
#[derive(Debug)]
pub enum SourceEvent {
    /// A picture, in a slot of the pool given to `next`.
    Frame(Frame),
    /// An encoded picture as the device made it, if asked for. It comes before the frame that was
    /// decoded from it, which has the same `frame_id`.
    Packet(Packet),
    /// Pictures were lost; reported before the frame that follows them.
    Gap(Gap),
    /// A live source gives nothing for now and tries to come back by itself.
    Offline(Outage),
    /// It gives pictures again, or for the first time.
    Online,
    /// A looping file starts again; time goes on, one nominal interval later.
    Wrapped,
    /// The following frames have another layout: `next` must be called with a pool for it. They
    /// begin a new epoch.
    NewFormat(SourceInfo),
    /// Nothing follows. Every further call gives this again.
    End(EndInfo),
    /// As asked by the stop flag. The source is closed; every further call gives `End`.
    Stopped,
}

/// Yields frames, and says what it lost.
pub trait Source: Send {
    /// What is delivered now.
    fn info(&self) -> &SourceInfo;

    /// Where its numbers and times begin, instead of at 0. Before the first `next`
    /// only: what is known late is when an earlier source of the name ended.
    fn begin(&mut self, start: Start);

    /// What its consumers need from now on. Of no effect on sources that have no choice. Called
    /// before the first `next` and whenever it changes; a source may answer with `NewFormat`.
    fn adjust(&mut self, needs: &Needs) {
        let _ = needs;
    }

    /// Blocks until the next event. `stop` is looked at every 100 ms or more often.
    ///
    /// # Errors
    /// What ended the source; every frame that could be decoded was delivered before. Every
    /// further call gives [`SourceEvent::End`].
    fn next(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, SourceError>;
}

/// Opens what `opts.uri` names, deciding by its content (and, for bare JPEG sequences, its name).
///
/// # Errors
/// When there is nothing to read, no video in it, or no decoder for it. Bounded: a decoder that
/// says nothing for 30 s is an error too.
pub fn open(opts: &SourceOptions, clock: Arc<dyn Clock>) -> Result<Box<dyn Source>, SourceError> {
    let source = if synthetic::Params::is_uri(&opts.uri) {
        let pictures = synthetic::SyntheticPictures::open(opts)?;
        let file = PathBuf::from(&opts.uri);
        Box::new(file::FileSource::new(opts, file, clock, pictures)) as Box<dyn Source>
    } else if rtsp::is_uri(&opts.uri) {
        rtsp::open(opts, clock)?
    } else if camera::is_uri(&opts.uri) {
        camera::open(opts, clock)?
    } else if is_camera(&opts.uri) {
        open_camera(opts, clock)?
    } else if exec::is_uri(&opts.uri) {
        exec::open(opts, clock)?
    } else {
        open_file(opts, clock)?
    };
    tracing::info!(source = %opts.name, uri = %redacted(&opts.uri), "{}", source.info().description);
    Ok(match opts.privacy.is_empty() {
        true => source,
        false => Box::new(private::PrivateSource::new(opts, source)),
    })
}

/// Whether a URI names a V4L2 node, or a link to one.
fn is_camera(uri: &str) -> bool {
    let path = uri
        .strip_prefix("file://")
        .or(uri.strip_prefix("file:"))
        .unwrap_or(uri);
    path.starts_with("/dev/video") || path.starts_with("/dev/v4l/")
}

#[cfg(feature = "v4l2")]
fn open_camera(
    opts: &SourceOptions,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(v4l2::CameraSource::open(opts, clock)?))
}

#[cfg(not(feature = "v4l2"))]
fn open_camera(_: &SourceOptions, _: Arc<dyn Clock>) -> Result<Box<dyn Source>, SourceError> {
    Err(SourceError::Device(crate::devices::DeviceError::NotBuilt))
}

fn open_file(opts: &SourceOptions, clock: Arc<dyn Clock>) -> Result<Box<dyn Source>, SourceError> {
    let file = file_of(&opts.uri)?;
    let head = readable(&file)?;
    let named_mjpeg = file
        .extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ["mjpeg", "mjpg"].contains(&e.to_ascii_lowercase().as_str()));
    Ok(if named_mjpeg && head.starts_with(&[0xFF, 0xD8]) {
        let pictures = mjpeg::MjpegPictures::open(&file, opts.fps)?;
        Box::new(file::FileSource::new(opts, file, clock, pictures))
    } else {
        let pictures = ffmpeg::FfmpegPictures::open(&file, opts.decode_threads, &head)?;
        Box::new(file::FileSource::new(opts, file, clock, pictures).limited(opts.fps))
    })
}

/// The file a URI names.
fn file_of(uri: &str) -> Result<PathBuf, SourceError> {
    let unsupported = |detail: &str| {
        Err(SourceError::Unsupported {
            uri: redacted(uri),
            detail: detail.to_owned(),
        })
    };
    if let Some(path) = uri.strip_prefix("file://").or(uri.strip_prefix("file:")) {
        return Ok(PathBuf::from(path));
    }
    if uri.is_empty() {
        return unsupported("is empty; give the path of a video file");
    }
    for later in ["http://", "https://"] {
        if uri.starts_with(later) {
            return unsupported("network streams are not supported yet; give a video file");
        }
    }
    Ok(PathBuf::from(uri))
}

/// The file's first bytes, if it is one that can be read.
fn readable(path: &Path) -> Result<Vec<u8>, SourceError> {
    let file = path.to_owned();
    let failed = |cause: std::io::Error| match cause.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => SourceError::NotFound {
            file: path.to_owned(),
        },
        _ => SourceError::Unreadable {
            file: path.to_owned(),
            cause,
        },
    };
    // Looked at before it is opened: opening a FIFO nobody writes to would block.
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.is_dir() {
        let what = "a directory";
        return Err(SourceError::NotAFile { file, what });
    }
    if !meta.is_file() {
        let what = "a device, a pipe or a socket";
        return Err(SourceError::NotAFile { file, what });
    }
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(64).read_to_end(&mut head))
        .map_err(failed)?;
    if head.is_empty() {
        let detail = "it is empty".to_owned();
        return Err(SourceError::NotAVideo { file, detail });
    }
    Ok(head)
}
