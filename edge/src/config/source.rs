//! `[source.<name>]`: a camera, a stream or a file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use visualpath_core::PixelFormat;
use visualpath_media::source::{ControlValue, Controls, WantedFormat, synthetic};

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
    /// Planar Y, interleaved VU.
    Nv21,
    /// Planar Y, U, V.
    I420,
    /// Packed YUV 4:2:2.
    Yuyv,
    /// Packed YUV 4:2:2, chroma first.
    Uyvy,
    /// Packed RGB.
    Rgb,
    /// Packed BGR.
    Bgr,
    /// Luma only.
    Grey,
}

/// How a network camera sends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum StreamTransport {
    /// Inside the connection: nothing is lost on the way.
    #[default]
    Tcp,
    /// As datagrams of their own: less delay on a bad network, with gaps.
    Udp,
}

/// A value for a camera's control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ControlSetting {
    /// Of a switch.
    Switch(bool),
    /// A number; of a menu, the item's.
    Number(i64),
    /// The text of a menu's item; case does not matter.
    Text(String),
}

impl JsonSchema for ControlSetting {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "ControlSetting".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "string"}]})
    }
}

/// One camera or file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What to read: a video file, `/dev/videoN` or a by-id path, `libcamera:0` (Raspberry Pi's
    /// own camera), `argus:0` (Jetson's), `rtsp://`, `exec:CMD`, `camera:0`, `synthetic:`. A
    /// relative path is relative to the working directory.
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
    /// Controls of a camera (`/dev/…`, `camera:`) to set, by the names that `visualpath devices`
    /// lists, e.g. `power_line_frequency = "50 Hz"`: an integer, true or false, or the text of a
    /// menu's item.
    #[serde(default)]
    pub controls: BTreeMap<String, ControlSetting>,
    /// User name at a network camera (`rtsp://`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password (its first line) at a network camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How a network camera sends: `tcp` loses nothing, `udp` has less delay. Default: `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<StreamTransport>,
    /// Files: paced by their own time stamps (true) or as fast as everything can follow (false;
    /// results are then the same on every run).
    #[serde(default = "yes")]
    pub realtime: bool,
    /// Files: begin again at the end; source time goes on.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
}

fn yes() -> bool {
    true
}

impl SourceConfig {
    /// This, with every other key at its default.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            width: None,
            height: None,
            fps: None,
            format: SourceFormat::Auto,
            controls: BTreeMap::new(),
            username: None,
            password_file: None,
            transport: None,
            realtime: yes(),
            repeat: false,
        }
    }

    /// What its `uri` names.
    pub fn kind(&self) -> SourceKind {
        SourceKind::of(&self.uri)
    }

    /// `format`, as sources take it.
    pub fn wanted_format(&self) -> WantedFormat {
        let pixels = match self.format {
            SourceFormat::Auto => return WantedFormat::Auto,
            SourceFormat::Mjpeg => return WantedFormat::Mjpeg,
            SourceFormat::H264 => return WantedFormat::H264,
            SourceFormat::Nv12 => PixelFormat::Nv12,
            SourceFormat::Nv21 => PixelFormat::Nv21,
            SourceFormat::I420 => PixelFormat::I420,
            SourceFormat::Yuyv => PixelFormat::Yuyv,
            SourceFormat::Uyvy => PixelFormat::Uyvy,
            SourceFormat::Rgb => PixelFormat::Rgb,
            SourceFormat::Bgr => PixelFormat::Bgr,
            SourceFormat::Grey => PixelFormat::Grey,
        };
        WantedFormat::Pixels(pixels)
    }

    /// `controls`, as sources take them.
    pub fn wanted_controls(&self) -> Controls {
        let value = |setting: &ControlSetting| match setting {
            ControlSetting::Switch(on) => ControlValue::Number(i64::from(*on)),
            ControlSetting::Number(number) => ControlValue::Number(*number),
            ControlSetting::Text(text) => ControlValue::Text(text.clone()),
        };
        let each = self.controls.iter();
        each.map(|(name, setting)| (name.clone(), value(setting)))
            .collect()
    }

    /// The password: the first line of `password_file`; `None` if there is no such key.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn password(&self) -> std::io::Result<Option<String>> {
        let Some(file) = &self.password_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// Whether what it delivers may be encoded already, and so be kept as it comes.
    pub(super) fn may_pass_through(&self) -> bool {
        let pixels = matches!(self.wanted_format(), WantedFormat::Pixels(_));
        match self.kind() {
            SourceKind::File | SourceKind::Synthetic => false,
            SourceKind::Device | SourceKind::Camera => !pixels,
            SourceKind::Rtsp | SourceKind::Child => true,
        }
    }
}

/// What a source's URI names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A video file.
    File,
    /// Drawn, with known ground truth.
    Synthetic,
    /// A V4L2 device node, or a link to one.
    Device,
    /// `camera:N`: what the system's own camera interface has.
    Camera,
    /// A network camera.
    Rtsp,
    /// A program that writes video: `exec:`, `libcamera:`, `argus:`.
    Child,
}

impl SourceKind {
    /// URIs that are no file, by how they begin.
    const BEGINNINGS: [(&'static str, Self); 7] = [
        ("/dev/", Self::Device),
        ("camera:", Self::Camera),
        ("rtsp://", Self::Rtsp),
        ("rtsps://", Self::Rtsp),
        ("exec:", Self::Child),
        ("libcamera:", Self::Child),
        ("argus:", Self::Child),
    ];

    /// What `uri` names; all that is nothing else is a file.
    pub fn of(uri: &str) -> Self {
        if synthetic::Params::is_uri(uri) {
            return Self::Synthetic;
        }
        let begins = |(start, _): &&(&str, Self)| uri.starts_with(start);
        Self::BEGINNINGS
            .iter()
            .find(begins)
            .map_or(Self::File, |(_, kind)| *kind)
    }

    /// Whether it goes on by itself, whoever looks.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::File | Self::Synthetic)
    }

    /// What it is, after "on".
    pub(super) fn as_text(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Synthetic => "a synthetic source",
            Self::Device | Self::Camera => "a camera",
            Self::Rtsp => "a network camera",
            Self::Child => "a program",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_tells_its_kind_and_whether_it_is_live() {
        for (uri, kind) in [
            ("video.mp4", SourceKind::File),
            ("file:/dev/video0", SourceKind::File),
            ("synthetic:?fps=5", SourceKind::Synthetic),
            ("/dev/v4l/by-id/x", SourceKind::Device),
            ("camera:0", SourceKind::Camera),
            ("rtsps://h/s", SourceKind::Rtsp),
            ("exec:cat a.h264", SourceKind::Child),
            ("libcamera:1", SourceKind::Child),
            ("argus:0", SourceKind::Child),
        ] {
            assert_eq!(SourceKind::of(uri), kind, "{uri}");
        }
        assert!(SourceKind::Child.is_live() && !SourceKind::Synthetic.is_live());
    }

    #[test]
    fn formats_and_controls_are_said_as_sources_take_them() {
        let mut source = SourceConfig::new("/dev/video0");
        assert_eq!(source.wanted_format(), WantedFormat::Auto);
        assert!(source.may_pass_through());
        source.format = SourceFormat::Uyvy;
        assert_eq!(
            source.wanted_format(),
            WantedFormat::Pixels(PixelFormat::Uyvy)
        );
        assert!(!source.may_pass_through(), "it will not be encoded");
        let set = [
            ("a", ControlSetting::Switch(true)),
            ("b", ControlSetting::Number(-7)),
            ("c", ControlSetting::Text("50 Hz".to_owned())),
        ];
        source.controls = set.map(|(k, v)| (k.to_owned(), v)).into();
        let wanted: Vec<ControlValue> = source.wanted_controls().into_values().collect();
        assert_eq!(
            wanted,
            [
                ControlValue::Number(1),
                ControlValue::Number(-7),
                ControlValue::Text("50 Hz".to_owned())
            ]
        );
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let mut source = SourceConfig::new("rtsp://h/s");
        assert_eq!(source.password().unwrap(), None);
        let dir = tempfile::tempdir().unwrap();
        source.password_file = Some(dir.path().join("pw"));
        assert!(source.password().is_err());
        std::fs::write(dir.path().join("pw"), "hunter2 \nnot this\n").unwrap();
        assert_eq!(source.password().unwrap().as_deref(), Some("hunter2 "));
    }
}
