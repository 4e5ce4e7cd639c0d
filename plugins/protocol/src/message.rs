//! The messages and what is in them. One struct is the body in both codecs; the order of its fields
//! is `postcard/1`'s. So nothing here may be flattened, skipped, defaulted or untagged, and any
//! change of a struct is `postcard/2` (see `PROTOCOL.md`, "What may change").
//!
//! A field that is an `Option` may be absent in JSON.

use serde::{Deserialize, Serialize};
use visualpath_core::{
    Anchor, ColorSpec, Filter, Fit, MaskKind, Phase, PixelFormat, Signals, TriggerKind, ViewFormat,
};

use crate::bounds::{self, *};
use crate::json_object::JsonObject;
use crate::lists::{
    ByExtractor, Extractors, Masks, ModelDirs, Models, SignalNames, States, signals,
};

/// Makes the enum of one direction, and says each message's name in JSON and number in postcard.
macro_rules! direction {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident($body:ty) = $number:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($body),)+
        }

        impl crate::codec::Message for $name {
            fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $text,)+ }
            }
        }

        impl crate::codec::Body for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];

            fn number(&self) -> u16 {
                match self { $(Self::$variant(_) => $number,)+ }
            }

            fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
                match self { $(Self::$variant(body) => serde_json::to_writer(out, body),)+ }
            }

            fn write_postcard(&self, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
                match self { $(Self::$variant(body) => postcard::to_io(body, out).map(|_| ()),)+ }
            }

            fn read_json(name: &str, bytes: &[u8]) -> Option<Result<Self, serde_json::Error>> {
                match name {
                    $($text => Some(serde_json::from_slice(bytes).map(Self::$variant)),)+
                    _ => None,
                }
            }

            fn read_postcard(number: u16, bytes: &[u8]) -> Option<Result<(Self, &[u8]), postcard::Error>> {
                match number {
                    $($number => Some(
                        postcard::take_from_bytes(bytes).map(|(body, rest)| (Self::$variant(body), rest)),
                    ),)+
                    _ => None,
                }
            }
        }

        impl crate::check::Check for $name {
            fn check(&self, tally: &mut crate::check::Tally) -> Result<(), crate::check::Broken> {
                match self { $(Self::$variant(body) => crate::check::Check::check(body, tally),)+ }
            }
        }
    };
}

direction! {
    /// What a child says. Numbers begin at 1.
    FromChild {
        /// The first message of all; always JSON.
        Hello(ChildHello) = 1 "hello",
        /// It is loading; extends `start_timeout_s`.
        Progress(Progress) = 2 "progress",
        /// It takes frames from now on. Answers the parent's hello.
        Ready(Ready) = 3 "ready",
        /// Answers `ping`.
        Pong(Pong) = 4 "pong",
        /// Answers `extract`.
        Observations(Observations) = 5 "observations",
        /// Answers any request that could not be met.
        Error(ErrorReport) = 6 "error",
        /// Answers `fuse`, `gap` and `end`.
        Result(FusionAnswer) = 7 "result",
        /// Answers `reset` and `pool`.
        Ok(Nothing) = 8 "ok",
        /// A record for the parent's hub.
        Trace(TraceRecord) = 9 "trace",
        /// A line for the parent's log; rate-capped.
        Log(Log) = 10 "log",
    }
}

direction! {
    /// What a parent says. Numbers begin at 101, so that a message read in the wrong direction is
    /// of an unknown type.
    FromParent {
        /// Answers the child's hello with what was chosen; always JSON.
        Hello(ParentHello) = 101 "hello",
        /// Asks for `pong`. Not sent while an extract is in flight.
        Ping(Nothing) = 102 "ping",
        /// Asks for the observations of one frame.
        Extract(Box<Extract>) = 103 "extract",
        /// Asks a fusion about one settled frame.
        Fuse(Fuse) = 104 "fuse",
        /// Forget earlier frames; answered by `ok`.
        Reset(Nothing) = 105 "reset",
        /// A new pool, whose descriptor comes over fd 3; answered by `ok`.
        Pool(Pool) = 106 "pool",
        /// Finish and exit 0.
        Shutdown(Nothing) = 107 "shutdown",
        /// The child's message was refused: its hello, an unknown type, a broken body. No answer.
        Error(ErrorReport) = 108 "error",
        /// Tells a fusion that pictures are missing, so that what it has open can close.
        Gap(Gap) = 109 "gap",
        /// Tells a fusion that nothing follows; what it has open closes here.
        End(End) = 110 "end",
    }
}

/// A body without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nothing {}

// -- child → parent ------------------------------------------------------------------------------

/// `hello` of the child.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ChildHello {
    /// As given in its environment: that this is the child which was started.
    pub token: String,
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// Protocols it speaks.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_OFFERS>")]
    pub protocols: Vec<u32>,
    /// Codecs it speaks, by name.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_OFFERS>")]
    pub codecs: Vec<String>,
    /// Signals it declares without knowing its config; none: it declares none.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_SIGNALS>")]
    pub signals: Vec<String>,
    /// The view it wants without knowing its config; `None`: its manifest's, or `ready` says.
    pub input: Option<Input>,
}

/// The view an extractor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Input {
    /// Pixel format.
    pub format: ViewFormat,
    /// Pixels across; absent with `height`: full size.
    pub width: Option<u32>,
    /// Pixels down.
    pub height: Option<u32>,
    /// How the frame is brought to that shape; absent: stretch.
    pub fit: Option<Fit>,
    /// How pixels are resampled; absent: bilinear.
    pub filter: Option<Filter>,
}

/// `progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0–100 of the start, as far as known.
    pub percent: f64,
    /// What it does now.
    pub text: String,
}

/// `ready`. What is absent is as the child's hello said it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ready {
    /// Signals it declares with this config.
    pub signals: Option<SignalNames>,
    /// The view it wants with this config.
    pub input: Option<Input>,
    /// Models it runs.
    pub models: Option<Models>,
}

/// A model as it is really run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The card's name, or the file's.
    pub name: String,
    /// The card's version; empty for a bare file.
    pub version: String,
    /// Of the file used, lower-case hex.
    pub sha256: String,
    /// The runtime that really runs it.
    pub runtime: String,
}

/// `pong`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The extractor's name.
    pub extractor: String,
}

/// `observations`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observations {
    /// What was seen; nothing is a good answer.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_OBSERVATIONS>")]
    pub items: Vec<Observation>,
    /// How long it took.
    pub timing: Timing,
}

/// How long an answer took in the child, by its monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// Nanoseconds inside the extractor.
    pub extract_ns: i64,
    /// Nanoseconds from the request read to the answer written.
    pub total_ns: i64,
}

/// What one extractor says about one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Extractor. The parent replaces it by the name in the config.
    pub extractor: String,
    /// The frame it is about.
    pub frame_id: u64,
    /// Source time, nanoseconds; absent: the frame's.
    pub t_ns: Option<i64>,
    /// Numbers for rules.
    #[serde(deserialize_with = "signals")]
    pub signals: Signals,
    /// `objects` (see [`Object`]) and anything else.
    pub data: JsonObject,
    /// Facts about the observation itself.
    pub metadata: JsonObject,
    /// The extractor's own confidence, 0–1.
    pub confidence: Option<f64>,
    /// Nanoseconds the extractor took.
    pub timing_ns: Option<i64>,
}

/// `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// What went wrong, in one line.
    pub error: String,
    /// Where, as the language prints it.
    pub traceback: Option<String>,
    /// Whose fault; absent: the plugin's.
    pub kind: Option<ErrorKind>,
}

/// What an error is about; what is done about it depends on this and never on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// The plugin's code failed on this request; the next one is sent all the same.
    Plugin,
    /// A key of its config is wrong.
    Config,
    /// A model is missing, damaged or not what its card says.
    Model,
    /// The inference runtime asked for can't be had.
    Runtime,
    /// The message could not be understood.
    Protocol,
}

/// `result`, a fusion's answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FusionAnswer {
    /// What fired.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_TRIGGERS>")]
    pub triggers: Vec<Trigger>,
    /// The largest score of the triggers.
    pub score: f64,
    /// Why, in words.
    pub reason: String,
    /// Observations read for this answer.
    pub observations_used: u32,
    /// Anything else.
    pub metadata: JsonObject,
    /// Labels that went ON or OFF; absent: none.
    pub states: Option<States>,
}

/// A label that went ON or OFF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The label.
    pub label: String,
    /// Whether it is ON now.
    pub on: bool,
}

/// What a fusion emits. Times are source times in nanoseconds; fields as of
/// [`visualpath_core::Trigger`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// The rule's label.
    pub label: String,
    /// Point or range.
    pub kind: TriggerKind,
    /// First, last or only message.
    pub phase: Phase,
    /// Counts this label's events.
    pub event: u64,
    /// First frame of the event.
    pub frame_id: u64,
    /// Its time.
    pub t_ns: i64,
    /// Time of the frame at which it fired.
    pub fired_ns: i64,
    /// When the condition began to hold.
    pub event_start_ns: i64,
    /// Until when it held.
    pub event_end_ns: i64,
    /// Clip asked for: start; may be negative.
    pub t_start_ns: i64,
    /// Clip asked for: end.
    pub t_end_ns: i64,
    /// 0–1.
    pub score: f64,
    /// Why, in words.
    pub reason: String,
    /// Observations read when it fired.
    pub observations_used: u32,
    /// Signals it was decided by, as `extractor.signal`.
    #[serde(deserialize_with = "signals")]
    pub signals: Signals,
    /// Objects it was decided by.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_OBJECTS>")]
    pub objects: Vec<Object>,
    /// Whether a clip is wanted.
    pub clip: bool,
    /// Anything else.
    pub metadata: JsonObject,
}

/// One thing found in a frame. In an observation objects are in `data.objects`, where `area`,
/// `zones` and `keypoints` may be absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// The track it belongs to.
    pub track_id: Option<u64>,
    /// Class name.
    pub label: String,
    /// 0–1.
    pub score: f64,
    /// Left, top, right, bottom, 0–1 of the frame.
    pub bbox: [f64; 4],
    /// Share of the frame, 0–1.
    pub area: f64,
    /// Names of the zones it lies in.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_ZONES>")]
    pub zones: Vec<String>,
    /// Points `x, y, score`, 0–1 of the frame.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_KEYPOINTS>")]
    pub keypoints: Vec<[f64; 3]>,
}

/// `trace`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TraceRecord {
    /// A trace record: `record_type`, `timestamp_ns`, then its fields.
    pub record: JsonObject,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// How bad.
    pub level: Level,
    /// The line.
    pub msg: String,
}

/// How bad a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For whoever debugs the plugin.
    Trace,
    /// For whoever configures it.
    Debug,
    /// Worth a line.
    Info,
    /// Something is not as it should be, and it goes on.
    Warn,
    /// Something failed.
    Error,
}

// -- parent → child ------------------------------------------------------------------------------

/// `hello` of the parent. The envelope's `v` is the protocol chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ParentHello {
    /// The codec chosen, of those offered.
    pub codec: String,
    /// `[extractor.<name>.config]` or `[fusion.<name>.config]`, unchanged.
    pub config: JsonObject,
    /// Zones of the source.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_ZONES>")]
    pub zones: Vec<Zone>,
    /// Pools whose descriptors come over fd 3, in this order.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_POOLS>")]
    pub pools: Vec<Pool>,
    /// The extractor's or fusion's name in the config; absent: the plugin's.
    pub name: Option<String>,
    /// Where model cards and files are looked up, first match wins; absent: nowhere.
    pub model_dirs: Option<ModelDirs>,
    /// To a fusion: the extractors of its path, in the config's order; absent: it is an extractor's.
    pub extractors: Option<Extractors>,
    /// Parts of the source's picture that do not count; absent: none.
    pub masks: Option<Masks>,
}

/// One extractor of a path, as its fusion may refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExtractorSignals {
    /// Its name in the config.
    pub name: String,
    /// The signals its plugin declares; empty: it declares none.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_SIGNALS>")]
    pub signals: Vec<String>,
    /// Zones of the source it looks at.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_ZONES>")]
    pub zones: Vec<String>,
}

/// A named polygon of a source's picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name in the config.
    pub name: String,
    /// Corners `x, y` in order, 0–1 of the frame, at least three.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_CORNERS>")]
    pub polygon: Vec<[f64; 2]>,
    /// The deciding point of a box.
    pub anchor: Anchor,
}

/// A part of a source's picture that does not count. One that nobody may see is painted over and
/// needs no word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mask {
    /// Its name in the config.
    pub name: String,
    /// For whom.
    pub kind: MaskKind,
    /// Corners `x, y` in order, 0–1 of the frame, at least three.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_CORNERS>")]
    pub polygon: Vec<[f64; 2]>,
}

/// `pool`, and one of a hello's: one shared memory of frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Names it in every frame.
    pub pool_id: u32,
    /// Frames it holds at once.
    pub slots: u32,
    /// Bytes from one slot's pixels to the next slot's.
    pub slot_bytes: u64,
    /// The source's own pictures.
    pub layout: Layout,
}

/// Size, format and row length of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Pixel format.
    pub format: PixelFormat,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Bytes from one row of the first plane to the next.
    pub stride: u32,
    /// Meaning of YUV samples; absent: BT.601, limited range.
    pub color: Option<ColorSpec>,
}

/// `extract`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Extract {
    /// The frame, as the extractor wants to see it.
    pub frame: FrameRef,
    /// Observations of the same frame by the extractors it depends on.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_OBSERVATIONS>")]
    pub deps: Vec<Observation>,
    /// Milliseconds from now after which nobody waits for the answer; absent: somebody always does.
    pub deadline_ms: Option<u32>,
}

/// One view of one frame, and where its pixels are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FrameRef {
    /// Which pool.
    pub pool_id: u32,
    /// Which slot of it.
    pub slot: u32,
    /// How often the slot was used: equal to that in its header, or something is broken.
    pub generation: u64,
    /// The frame.
    pub frame_id: u64,
    /// Source time, nanoseconds.
    pub t_ns: i64,
    /// Pixels of the view across.
    pub width: u32,
    /// Pixels of the view down.
    pub height: u32,
    /// Its pixel format.
    pub format: PixelFormat,
    /// Bytes from one row of its first plane to the next.
    pub stride: u32,
    /// Which of the pool's views; absent: the picture as the source delivered it.
    pub view: Option<u32>,
    /// Bytes from the start of the pool's memory to the view's first pixel.
    pub offset: u64,
    /// Pixels of the whole frame across.
    pub frame_width: u32,
    /// Pixels of the whole frame down.
    pub frame_height: u32,
    /// The view's rectangle in units of the frame: left, top, right, bottom. A letterbox reaches
    /// beyond 0–1.
    pub roi: [f64; 4],
    /// Pixel format of the whole frame; absent: the view's.
    pub frame_format: Option<PixelFormat>,
    /// Meaning of YUV samples; absent: BT.601, limited range.
    pub color: Option<ColorSpec>,
    /// Counts the source's discontinuities; absent: 0.
    pub epoch: Option<u32>,
    /// Where the pixels are; absent: in the slot.
    pub pixels: Option<PixelsIn>,
}

/// Where a frame's pixels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelsIn {
    /// In the pool.
    Slot,
    /// Beside the message, as they are (`transport = "message"`).
    Raw,
    /// Beside the message, as a JPEG of `width` × `height`.
    Jpeg,
}

/// `fuse`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Fuse {
    /// The settled frame.
    pub frame_id: u64,
    /// Its source time, nanoseconds: the fusion's clock.
    pub t_ns: i64,
    /// What was observed.
    pub observations: ByExtractor,
    /// Extractors of the path without an observation of this frame.
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_EXTRACTORS>")]
    pub missing: Vec<String>,
    /// The source it came from; absent: there is only one.
    pub source: Option<String>,
    /// The wall time of `t_ns`, nanoseconds since 1970 UTC, for conditions such as "at night"; it
    /// steps when the machine's clock does. Absent: not known.
    pub unix_ns: Option<i64>,
}

/// `gap`: the source lost pictures between these source times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gap {
    /// Time of the last frame before, nanoseconds.
    pub from_ns: i64,
    /// Time of the first frame after, nanoseconds.
    pub to_ns: i64,
}

/// `end`: nothing follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct End {
    /// Source time of the last frame, nanoseconds.
    pub t_ns: i64,
}
