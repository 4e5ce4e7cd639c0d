//! The config as Rust types: every section and key, its unit, bounds and default.
//!
//! This is the one place where a key is defined. The JSON Schema is made from these types, the
//! checks read that schema, and the tables of `docs/reference/config.md` are made from it too, so
//! the doc comments here are the reference's text.

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use super::fusion::{
    ExpectedTrigger, FusionConfig, FusionSettings, FusionWorker, RuleConfig, RuleTest, RulesConfig,
};
pub use super::source::{ControlSetting, SourceConfig, SourceFormat, SourceKind, StreamTransport};
pub use super::values::{DEVICE_PATTERN, DeviceId, NAME_PATTERN, OneOrMany};
use super::values::{auto_integer, name, name_or_names, named, names};
pub use super::watch::WatchConfig;
use crate::commands::CommandVerb;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use visualpath_core::Auto;
use visualpath_core::{Anchor, MaskKind, Name};
use visualpath_platform::trace::DEFAULT_MAX_BYTES;
/// How much is traced.
pub use visualpath_platform::trace::Level as TraceLevel;

/// The number of the config's form this build reads.
pub const SCHEMA: u32 = 1;

/// A whole config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Form of this file.
    #[schemars(range(min = 1, max = 1))]
    pub schema: u32,
    /// The machine.
    pub device: DeviceConfig,
    /// Where extractors run unless they say otherwise.
    pub isolation: IsolationConfig,
    /// The interpreter of Python plugins.
    pub python: PythonConfig,
    /// Cameras and files, by name.
    #[schemars(schema_with = "named::<SourceConfig>")]
    pub source: BTreeMap<Name, SourceConfig>,
    /// What looks at frames, by name.
    #[schemars(schema_with = "named::<ExtractorConfig>")]
    pub extractor: BTreeMap<Name, ExtractorConfig>,
    /// Polygons of a source's picture, by name.
    #[schemars(schema_with = "named::<ZoneConfig>")]
    pub zone: BTreeMap<Name, ZoneConfig>,
    /// Parts of a source's picture that are not looked at, by name.
    #[schemars(schema_with = "named::<MaskConfig>")]
    pub mask: BTreeMap<Name, MaskConfig>,
    /// Which source, extractors and fusion go together, by name.
    #[schemars(schema_with = "named::<PathConfig>")]
    pub path: BTreeMap<Name, PathConfig>,
    /// What makes triggers of observations, by name.
    #[schemars(schema_with = "named::<FusionConfig>")]
    pub fusion: BTreeMap<Name, FusionConfig>,
    /// What to watch for, in short: each makes extractor, path and rule. Empty once loaded: what
    /// they make stands in the other sections.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "named::<WatchConfig>")]
    pub watch: BTreeMap<Name, WatchConfig>,
    /// Clips around triggers.
    pub clip: ClipConfig,
    /// Where triggers are published.
    pub mqtt: MqttConfig,
    /// Trace records.
    pub observability: ObservabilityConfig,
    /// Health, metrics, status and clips over HTTP.
    pub web: WebConfig,
    /// Updates over the air.
    pub ota: OtaConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            device: DeviceConfig::default(),
            isolation: IsolationConfig::default(),
            python: PythonConfig::default(),
            source: BTreeMap::new(),
            extractor: BTreeMap::new(),
            zone: BTreeMap::new(),
            mask: BTreeMap::new(),
            path: BTreeMap::new(),
            fusion: BTreeMap::new(),
            watch: BTreeMap::new(),
            clip: ClipConfig::default(),
            mqtt: MqttConfig::default(),
            observability: ObservabilityConfig::default(),
            web: WebConfig::default(),
            ota: OtaConfig::default(),
        }
    }
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceConfig {
    /// Name of this machine in topics and messages: a lower-case letter, then lower-case letters,
    /// digits, `_` or `-`, at most 64. Default: host name + 6 hex of a hash of machine-id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<DeviceId>,
    /// Directory of everything kept: clips, outbox, models, plugins.
    pub state_dir: PathBuf,
    /// IANA name of the time zone (`Europe/Berlin`) of the hours in which rules are `active`.
    /// Default: the system's, else UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            id: None,
            state_dir: "/var/lib/visualpath".into(),
            timezone: None,
        }
    }
}

/// How far an extractor is kept from the appliance, weakest first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Isolation {
    /// On the path's thread: for cheap work, can't be timed out.
    #[default]
    Inline,
    /// On a thread of its own.
    Thread,
    /// In a child process.
    Process,
    /// In a child process of a Python venv.
    Venv,
}

/// Where extractors run unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IsolationConfig {
    /// Isolation of extractors without a key of their own; a plugin that recommends a stronger one
    /// gets the stronger.
    pub default: Isolation,
}

/// The interpreter of Python plugins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PythonConfig {
    /// Python for plugins with `isolation = "process"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<PathBuf>,
}

impl ExtractorConfig {
    /// This plugin, with every other key at its default.
    pub fn new(plugin: impl Into<String>) -> Self {
        Self {
            plugin: plugin.into(),
            isolation: None,
            venv: None,
            fallback: Fallback::default(),
            transport: Transport::default(),
            pixels: MessagePixels::default(),
            trust: Trust::default(),
            devices: Vec::new(),
            sandbox: SandboxConfig::default(),
            depends: Vec::new(),
            fps: None,
            queue: queue(),
            drop: None,
            nth: nth(),
            gate: None,
            gate_hold_ms: 0,
            timeout_ms: Auto::Auto,
            hang_ms: hang_ms(),
            start_timeout_s: start_timeout_s(),
            config: serde_json::Map::new(),
        }
    }
}

/// What to do when an isolated worker can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Fallback {
    /// The extractor stays on Hold.
    #[default]
    Hold,
    /// It runs inline.
    Inline,
    /// It runs in a process without a venv.
    Process,
}

/// How pixels reach an isolated worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Transport {
    /// Shared memory, no copy.
    #[default]
    Shm,
    /// Inside the message.
    Message,
}

/// How pixels travel inside a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum MessagePixels {
    /// As they are.
    #[default]
    Raw,
    /// As a JPEG.
    Jpeg,
}

/// How much the code of a plugin is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Trust {
    /// It may have bugs, but nobody wrote it to do harm.
    #[default]
    Normal,
    /// It may be hostile: it runs only where every layer of the sandbox that it needs works.
    Untrusted,
}

/// What a plugin in a process of its own may do beyond looking at frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// Memory it may take, MiB. Default: half of the machine's. Not limited by this where
    /// `devices` are granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub memory_mb: Option<u64>,
    /// Files and directories it may read, beyond the system's, its own and the models'.
    pub read: Vec<PathBuf>,
    /// Files and directories it may write, beyond its own working directory.
    pub write: Vec<PathBuf>,
    /// It may open internet connections.
    pub network: bool,
    /// It may start processes.
    pub processes: bool,
}

/// Which frame goes when an extractor's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DropPolicy {
    /// The oldest waiting one.
    Oldest,
    /// Those between the first and the newest.
    Intermediate,
    /// All but every nth.
    EveryNth,
    /// None: the file reader waits.
    None,
}

/// One extractor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtractorConfig {
    /// The plugin's name, as `visualpath plugins list` shows it.
    #[schemars(extend("examples" = ["object"]))]
    pub plugin: String,
    /// Where it runs. Default: the stronger of `isolation.default` and the plugin's
    /// recommendation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The venv's directory, with `isolation = "venv"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub venv: Option<PathBuf>,
    /// What to do when the isolated worker can't be had.
    #[serde(default)]
    pub fallback: Fallback,
    /// How pixels reach an isolated worker.
    #[serde(default)]
    pub transport: Transport,
    /// With `transport = "message"`: as they are, or as a JPEG (smaller, and altered).
    #[serde(default)]
    pub pixels: MessagePixels,
    /// How much a plugin in a process of its own is trusted.
    #[serde(default)]
    pub trust: Trust,
    /// Devices that a plugin in a process of its own may use, e.g. `/dev/dri/renderD128`; the last
    /// part may hold one `*`.
    #[serde(default)]
    pub devices: Vec<PathBuf>,
    /// What else a plugin in a process of its own may do.
    #[serde(default)]
    pub sandbox: SandboxConfig,
    /// Other extractors whose observations of the same frame it wants.
    #[serde(default)]
    #[schemars(schema_with = "names")]
    pub depends: Vec<Name>,
    /// At most this rate, by source time, without drift. Default: every frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub fps: Option<f64>,
    /// Frames waiting beside the one in flight.
    #[serde(default = "queue")]
    #[schemars(range(min = 1, max = 64))]
    pub queue: u32,
    /// Which frame goes when the queue is full. Default: `none` when its source has
    /// `realtime = false`, else `oldest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<DropPolicy>,
    /// With `drop = "every_nth"`: n.
    #[serde(default = "nth")]
    #[schemars(range(min = 2, max = 1000))]
    pub nth: u32,
    /// CEL condition; the extractor is offered frames only while it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// The gate stays open this long after its condition was last true.
    #[serde(default)]
    #[schemars(range(min = 0, max = 600_000))]
    pub gate_hold_ms: u64,
    /// Longest time for one frame; `auto` is 4 × the 99th percentile of the warm-up, from 1000 to
    /// 30000. Not used when `realtime = false`; an inline extractor can't be timed out.
    #[serde(default)]
    #[schemars(schema_with = "auto_integer::<1, 600_000>")]
    pub timeout_ms: Auto<u64>,
    /// Silent this long: killed, or put on Hold if it is a thread.
    #[serde(default = "hang_ms")]
    #[schemars(range(min = 100, max = 3_600_000))]
    pub hang_ms: u64,
    /// Longest time for starting and loading models.
    #[serde(default = "start_timeout_s")]
    #[schemars(range(min = 1, max = 3600))]
    pub start_timeout_s: f64,
    /// Handed to the plugin unchanged; its keys are the plugin's.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// One zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZoneConfig {
    /// The source whose picture it lies in.
    #[schemars(schema_with = "name", extend("examples" = ["cam0"]))]
    pub source: Name,
    /// Corners in order, at least three, each `[x, y]` as a share (0–1) of the picture.
    #[schemars(extend("examples" = [[[0.1, 0.4], [0.3, 0.4], [0.3, 1.0]]]))]
    pub polygon: Vec<[f64; 2]>,
    /// The point of an object's box that decides.
    #[serde(default)]
    pub anchor: Anchor,
}

/// One mask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskConfig {
    /// The source whose picture it lies in, or a list of them.
    #[schemars(schema_with = "name_or_names", extend("examples" = ["cam0"]))]
    pub source: OneOrMany<Name>,
    /// Corners in order, at least three, each `[x, y]` as a share (0–1) of the picture.
    #[schemars(extend("examples" = [[[0.0, 0.0], [1.0, 0.0], [1.0, 0.2], [0.0, 0.2]]]))]
    pub polygon: Vec<[f64; 2]>,
    /// `motion`: what moves in it is no motion. `objects`: objects that stand in it (centre of the
    /// box's lower edge) are not there. `privacy`: it is painted over before anything else gets the
    /// picture: no plugin, clip, preview or trace has it, and the source's own encoding is not kept.
    #[schemars(extend("examples" = ["privacy"]))]
    pub kind: MaskKind,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathConfig {
    /// The source, or a list of them.
    #[schemars(schema_with = "name_or_names", extend("examples" = ["cam0"]))]
    pub source: OneOrMany<Name>,
    /// The extractors whose observations its fusion gets.
    #[schemars(schema_with = "names", extend("minItems" = 1, "examples" = [["person"]]))]
    pub extractors: Vec<Name>,
    /// The fusion.
    #[schemars(schema_with = "name", extend("examples" = ["visitor"]))]
    pub fusion: Name,
    /// How long a frame waits for its observations; `auto` is the longest chain of `depends`
    /// timeouts + 20 %, from 100. Not used when `realtime = false`.
    #[serde(default)]
    #[schemars(schema_with = "auto_integer::<1, 600_000>")]
    pub window_ms: Auto<u64>,
}

/// How clips are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ClipCodec {
    /// As the source delivers it if it is encoded, else H.264.
    #[default]
    Auto,
    /// H.264.
    H264,
    /// Motion JPEG.
    Mjpeg,
}

/// What is done for those who watch clips in a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ClipDelivery {
    /// An H.264 copy of what no browser plays (MJPEG), made when there is nothing else to do.
    #[default]
    Auto,
    /// Nothing.
    Off,
}

/// What makes H.264.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ClipEncoder {
    /// The board's encoder where it has one, else OpenH264.
    #[default]
    Auto,
    /// The board's encoder; that OpenH264 has to stand in for it is a warning.
    Hardware,
    /// OpenH264, built from source.
    OpenH264,
    /// OpenH264, Cisco's own binary (`clip.openh264_library`), never the one built from source.
    #[serde(rename = "openh264-lib")]
    OpenH264Lib,
}

/// Clips around triggers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipConfig {
    /// Directory, under `device.state_dir`.
    pub dir: PathBuf,
    /// Encoding.
    pub codec: ClipCodec,
    /// What makes H.264.
    pub encoder: ClipEncoder,
    /// Cisco's own binary of OpenH264, as `libopenh264-2.6.0-linux-arm64.8.so`. With it the one
    /// built from source encodes no clip unless `encoder = "openh264"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/var/lib/visualpath/libopenh264.so"]))]
    pub openh264_library: Option<PathBuf>,
    /// Threads that OpenH264 may take.
    #[schemars(range(min = 1, max = 4))]
    pub threads: u16,
    /// Keep the video of every source in memory, also where no rule wants clips: for the command
    /// `clip`. It is encoded all the time.
    pub always: bool,
    /// Encoded video kept in memory per source, so that a clip can begin before its event.
    #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64))]
    pub ring_bytes: u64,
    /// Distance of key frames when encoding here.
    #[schemars(range(min = 0.1, max = 10))]
    pub gop_s: f64,
    /// Of the encoder, bits per second.
    #[schemars(schema_with = "auto_integer::<10_000, 200_000_000>")]
    pub bitrate: Auto<u64>,
    /// A still picture beside each clip, `….jpg`: the one that shows the event best (the rule's score).
    pub still: bool,
    /// A copy beside each clip that no browser plays, `….h264.mp4`.
    pub deliver: ClipDelivery,
    /// Clips of one source that overlap, or lie no more than `gop_s` apart, become one file while
    /// the first is still being written. Each trigger still gets its own answer.
    pub merge: bool,
    /// Longest file that `merge` makes, as asked for; what would be longer begins a new one.
    #[schemars(range(min = 1, max = 3600))]
    pub merge_max_s: f64,
    /// Most the directory may hold; the oldest unpinned clips go first.
    #[schemars(range(min = 16_777_216, max = 1_125_899_906_842_624_u64))]
    pub quota_bytes: u64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            dir: "clips".into(),
            codec: ClipCodec::Auto,
            encoder: ClipEncoder::Auto,
            openh264_library: None,
            threads: 1,
            always: false,
            ring_bytes: 64 << 20,
            gop_s: 2.0,
            bitrate: Auto::Auto,
            still: true,
            deliver: ClipDelivery::Auto,
            merge: false,
            merge_max_s: 300.0,
            quota_bytes: 2 << 30,
        }
    }
}

/// Where triggers are published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Broker: `mqtt://host:1883`, `mqtts://host:8883`, `embedded://127.0.0.1:1883` for one
    /// inside this process (port 0: any free one), or `off` to publish nothing.
    pub url: String,
    /// First level of every topic.
    pub prefix: String,
    /// User name at the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password (its first line).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// What may be asked for at `<prefix>/<device>/cmd`, by everybody whom the broker lets publish
    /// there. Empty: nothing.
    pub commands: Vec<CommandVerb>,
    /// Announce the device to Home Assistant.
    pub homeassistant: bool,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".to_owned(),
            prefix: "visualpath".to_owned(),
            username: None,
            password_file: None,
            commands: vec![
                CommandVerb::Clip,
                CommandVerb::ClipList,
                CommandVerb::ClipPin,
                CommandVerb::ClipUnpin,
            ],
            homeassistant: false,
        }
    }
}

/// Kind of a trace sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum SinkKind {
    /// JSON lines in a file.
    File,
    /// Standard error.
    Console,
    /// The newest records in memory.
    Memory,
    /// Nowhere.
    Null,
}

/// Trace records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObservabilityConfig {
    /// How much.
    pub level: TraceLevel,
    /// Where to.
    pub sink: Vec<SinkConfig>,
}

/// One trace sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// What it is.
    #[schemars(extend("examples" = ["file"]))]
    pub kind: SinkKind,
    /// Of a file, under `<state_dir>/trace` unless absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["trace.jsonl"]))]
    pub path: Option<PathBuf>,
    /// Of a file: when it has this many bytes it becomes `<path>.1`, which is replaced, and a new
    /// one begins.
    #[serde(default = "max_bytes")]
    #[schemars(range(min = 65_536, max = 1_099_511_627_776_u64))]
    pub max_bytes: u64,
}

/// Health, metrics, status and clips over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port; anything but loopback demands a token. `off`: no server. Default:
    /// `127.0.0.1:8080`, if it is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["127.0.0.1:8080"]))]
    pub listen: Option<String>,
    /// A file whose first line is the token that every request must carry, 16 bytes at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/visualpath/web-token"]))]
    pub token_file: Option<PathBuf>,
}

/// Updates over the air.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtaConfig {
    /// URL or directory of a signed repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Install what is new by itself.
    pub auto: bool,
}

fn max_bytes() -> u64 {
    DEFAULT_MAX_BYTES
}
fn queue() -> u32 {
    1
}
fn nth() -> u32 {
    3
}
fn hang_ms() -> u64 {
    60_000
}
fn start_timeout_s() -> f64 {
    120.0
}
