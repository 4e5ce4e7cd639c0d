//! The config as Rust types: every section and key, its unit, bounds and default.
//!
//! This is the one place where a key is defined. The JSON Schema is made from these types, the
//! checks read that schema, and the tables of `docs/reference/config.md` are made from it too, so
//! the doc comments here are the reference's text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
pub use visualpath_core::Auto;
use visualpath_core::{Anchor, Name};
pub use visualpath_platform::rules::{RuleConfig, RulesConfig};

/// The number of the config's form this build reads.
pub const SCHEMA: u32 = 1;

/// Form of a name; the schema's patterns are this or [`DEVICE_PATTERN`].
pub const NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";
/// Form of a device id.
pub const DEVICE_PATTERN: &str = "^[a-z][a-z0-9_-]{0,63}$";

/// Most entries of one kind; what walks `depends` may recurse.
const MAX_ENTRIES: u32 = 256;

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
    /// Which source, extractors and fusion go together, by name.
    #[schemars(schema_with = "named::<PathConfig>")]
    pub path: BTreeMap<Name, PathConfig>,
    /// What makes triggers of observations, by name.
    #[schemars(schema_with = "named::<FusionConfig>")]
    pub fusion: BTreeMap<Name, FusionConfig>,
    /// Clips around triggers.
    pub clip: ClipConfig,
    /// Where triggers are published.
    pub mqtt: MqttConfig,
    /// Trace records.
    pub observability: ObservabilityConfig,
    /// Status page and metrics.
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
            path: BTreeMap::new(),
            fusion: BTreeMap::new(),
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
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            id: None,
            state_dir: "/var/lib/visualpath".into(),
        }
    }
}

/// A checked device id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// Checks the form; the error says what was expected.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut chars = text.bytes();
        let form = chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'))
            && text.len() <= 64;
        if form {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is not a device id: expected a lower-case letter, then lower-case letters, digits, _ or -, at most 64"
            ))
        }
    }

    /// For ids made of a checked alphabet.
    pub(super) fn unchecked(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl JsonSchema for DeviceId {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "DeviceId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": DEVICE_PATTERN})
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

/// Pixel or stream format asked of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum SourceFormat {
    /// The cheapest the camera and the extractors agree on.
    #[default]
    Auto,
    /// Motion JPEG.
    Mjpeg,
    /// H.264.
    H264,
    /// Planar Y, interleaved UV.
    Nv12,
    /// Packed YUV 4:2:2.
    Yuyv,
    /// Packed RGB.
    Rgb,
    /// Luma only.
    Grey,
}

/// One camera or file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What to read: a video file, `/dev/videoN` or a by-id path, `rtsp://`, `exec:CMD`,
    /// `camera:0`, `synthetic:`. A relative path is relative to the working directory.
    #[schemars(extend("examples" = ["video.mp4"]))]
    pub uri: String,
    /// Wanted width of a camera's picture; what was negotiated is logged and in status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16384))]
    pub width: Option<u32>,
    /// Wanted height of a camera's picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16384))]
    pub height: Option<u32>,
    /// Wanted frame rate. Of a file: at most this rate; time stamps stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub fps: Option<f64>,
    /// Wanted format of a camera.
    #[serde(default)]
    pub format: SourceFormat,
    /// Files: paced by their own time stamps (true) or as fast as everything can follow (false;
    /// results are then the same on every run).
    #[serde(default = "yes")]
    pub realtime: bool,
    /// Files: begin again at the end; source time goes on.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
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

/// One value or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
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

/// One fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawFusion")]
pub struct FusionConfig {
    /// The plugin's name; `rules` is built in.
    pub plugin: String,
    /// Its config.
    pub config: FusionSettings,
}

/// A fusion's config.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FusionSettings {
    /// Of `plugin = "rules"`.
    Rules(RulesConfig),
    /// Of any other plugin, unchanged.
    Other(serde_json::Map<String, serde_json::Value>),
}

impl FusionConfig {
    /// The rules, if this is a `rules` fusion.
    pub fn rules(&self) -> Option<&RulesConfig> {
        match &self.config {
            FusionSettings::Rules(rules) => Some(rules),
            FusionSettings::Other(_) => None,
        }
    }
}

/// [`FusionConfig`] before its plugin is known.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawFusion {
    /// The plugin's name; `rules` is built in.
    #[schemars(extend("examples" = ["rules"]))]
    plugin: String,
    /// The plugin's config; of `rules`: `rule` and `stale_ms`.
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
}

impl TryFrom<RawFusion> for FusionConfig {
    type Error = serde_json::Error;
    fn try_from(raw: RawFusion) -> Result<Self, Self::Error> {
        let config = if raw.plugin == "rules" {
            FusionSettings::Rules(serde_json::from_value(raw.config.into())?)
        } else {
            FusionSettings::Other(raw.config)
        };
        Ok(Self {
            plugin: raw.plugin,
            config,
        })
    }
}

impl JsonSchema for FusionConfig {
    fn schema_name() -> Cow<'static, str> {
        "FusionConfig".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rules = generator.subschema_for::<RulesConfig>();
        let mut schema = RawFusion::json_schema(generator);
        schema.insert(
            "if".into(),
            serde_json::json!({"properties": {"plugin": {"const": "rules"}}}),
        );
        schema.insert(
            "then".into(),
            serde_json::json!({"properties": {"config": rules}}),
        );
        schema
    }
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

/// Clips around triggers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipConfig {
    /// Directory, under `device.state_dir`.
    pub dir: PathBuf,
    /// Encoding.
    pub codec: ClipCodec,
    /// Encoded video kept in memory per source, so that a clip can begin before its event.
    #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64))]
    pub ring_bytes: u64,
    /// Distance of key frames when encoding here.
    #[schemars(range(min = 0.1, max = 10))]
    pub gop_s: f64,
    /// Of the encoder, bits per second.
    #[schemars(schema_with = "auto_integer::<10_000, 200_000_000>")]
    pub bitrate: Auto<u64>,
    /// Most the directory may hold; the oldest unpinned clips go first.
    #[schemars(range(min = 16_777_216, max = 1_125_899_906_842_624_u64))]
    pub quota_bytes: u64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            dir: "clips".into(),
            codec: ClipCodec::Auto,
            ring_bytes: 64 << 20,
            gop_s: 2.0,
            bitrate: Auto::Auto,
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
            homeassistant: false,
        }
    }
}

/// How much is traced.
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
pub enum TraceLevel {
    /// Nothing.
    #[default]
    Off,
    /// Sessions, triggers, clips.
    Minimal,
    /// And one record per frame.
    Normal,
    /// And every observation and decision.
    Verbose,
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
    pub path: Option<PathBuf>,
}

/// Status page and metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port; anything but loopback demands a token. Without it there is no server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
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

fn yes() -> bool {
    true
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

fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": NAME_PATTERN})
}

fn names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}})
}

fn name_or_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"type": "string", "pattern": NAME_PATTERN},
        {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "minItems": 1},
    ]})
}

fn auto_integer<const MIN: u64, const MAX: u64>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"const": "auto"},
        {"type": "integer", "minimum": MIN, "maximum": MAX},
    ]})
}

fn named<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<T>();
    json_schema!({
        "type": "object",
        "propertyNames": {"pattern": NAME_PATTERN},
        "maxProperties": MAX_ENTRIES,
        "additionalProperties": item,
    })
}

impl Config {
    /// The device's id. [`super::load`] always fills it in.
    pub fn device_id(&self) -> &str {
        self.device.id.as_ref().map_or("device", DeviceId::as_str)
    }

    /// Where clips go.
    pub fn clip_dir(&self) -> PathBuf {
        self.device.state_dir.join(&self.clip.dir)
    }

    /// The isolation of an extractor whose plugin recommends `recommended` at least.
    pub fn isolation_of(&self, extractor: &ExtractorConfig, recommended: Isolation) -> Isolation {
        extractor
            .isolation
            .unwrap_or_else(|| recommended.max(self.isolation.default))
    }

    /// The source an extractor looks at: that of the first path that has it, itself or through
    /// `depends`; else the only source.
    pub fn source_of(&self, extractor: &str) -> Option<(&Name, &SourceConfig)> {
        self.path
            .values()
            .find(|path| self.extractors_of(path).contains(&extractor))
            .and_then(|path| path.source.as_slice().first())
            .and_then(|name| self.source.get_key_value(name))
            .or_else(|| self.source.iter().next().filter(|_| self.source.len() == 1))
    }

    /// The extractors a path needs: its own and, before each, those it depends on.
    pub fn extractors_of<'a>(&'a self, path: &'a PathConfig) -> Vec<&'a str> {
        fn visit<'a>(
            config: &'a Config,
            name: &'a str,
            on_way: &mut Vec<&'a str>,
            out: &mut Vec<&'a str>,
        ) {
            if out.contains(&name) || on_way.contains(&name) {
                return;
            }
            on_way.push(name);
            if let Some(extractor) = config.extractor.get(name) {
                for dep in &extractor.depends {
                    visit(config, dep.as_str(), on_way, out);
                }
            }
            on_way.pop();
            out.push(name);
        }
        let mut out = Vec::new();
        for name in &path.extractors {
            visit(self, name.as_str(), &mut Vec::new(), &mut out);
        }
        out
    }

    /// Which frame goes when the extractor's queue is full.
    pub fn drop_policy_of(&self, extractor: &str) -> DropPolicy {
        let chosen = self.extractor.get(extractor).and_then(|e| e.drop);
        let realtime = self.source_of(extractor).is_none_or(|(_, s)| s.realtime);
        chosen.unwrap_or(if realtime {
            DropPolicy::Oldest
        } else {
            DropPolicy::None
        })
    }

    /// The zones of a source, checked before by [`super::load`].
    pub fn zones_of(&self, source: &str) -> Vec<visualpath_core::Zone> {
        self.zone
            .iter()
            .filter(|(_, zone)| zone.source == *source)
            .filter_map(|(name, zone)| {
                visualpath_core::Zone::new(name.clone(), zone.polygon.clone(), zone.anchor).ok()
            })
            .collect()
    }

    /// Fills in the defaults that depend on the machine or on other keys.
    pub(super) fn resolve(&mut self, machine: &super::Machine) {
        if self.device.id.is_none() {
            self.device.id = Some(machine.device_id());
        }
        let policies: Vec<(Name, DropPolicy)> = self
            .extractor
            .keys()
            .map(|name| (name.clone(), self.drop_policy_of(name.as_str())))
            .collect();
        for (name, policy) in policies {
            if let Some(extractor) = self.extractor.get_mut(&name) {
                extractor.drop = Some(policy);
            }
        }
    }
}
