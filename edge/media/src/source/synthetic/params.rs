//! What a `synthetic:` URI asks for, checked.

use visualpath_core::{NS_PER_MS, PixelFormat, nearest};
use visualpath_frames::MAX_SIDE;

use super::code;
use super::font;

/// The URI's scheme.
pub const SCHEME: &str = "synthetic:";

/// Smallest side: room for one shape.
const MIN_SIDE: u32 = 16;
/// Pictures that can be numbered: the width of the number in the block code.
const MAX_FRAMES: u64 = 1 << code::FRAME_BITS;

const KEYS: [&str; 20] = [
    "width",
    "height",
    "fps",
    "frames",
    "seed",
    "format",
    "scene",
    "shapes",
    "shape",
    "size",
    "speed",
    "shapes_at",
    "jitter_ms",
    "gap_every",
    "gap_frames",
    "light_at",
    "light_pct",
    "noise",
    "code",
    "text",
];

/// What is to be seen beside the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// Bright shapes on known ways.
    Shapes,
    /// Nothing.
    Empty,
    /// A soft shadow on a known way, of nothing.
    Shadow,
}

/// What is drawn as a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Rectangles and discs in turns.
    Both,
    /// Rectangles.
    Rect,
    /// Discs.
    Disc,
}

/// A synthetic scene, checked: everything that is drawn follows from it and a picture's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Pictures in 1000 seconds.
    pub fps_milli: u32,
    /// Pictures of one round; 0 is endless.
    pub frames: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Pixel format.
    pub format: PixelFormat,
    /// What is to be seen.
    pub scene: Scene,
    /// Number of shapes.
    pub shapes: u32,
    /// Kind of shapes.
    pub kinds: Kinds,
    /// Side of a shape, percent of the picture's shorter side.
    pub size_pct: u32,
    /// Speed of a shape along each axis, percent of that side per second.
    pub speed_pct: u32,
    /// First picture of a round with shapes (or the shadow) in it.
    pub shapes_at: u64,
    /// Most that a time stamp is off, either way, nanoseconds.
    pub jitter_ns: i64,
    /// Of so many pictures the last [`gap_frames`](Self::gap_frames) are lost; 0 loses none.
    pub gap_every: u64,
    /// Pictures lost in a row.
    pub gap_frames: u64,
    /// First picture of a round under another light.
    pub light_at: Option<u64>,
    /// That light, percent of the one before.
    pub light_pct: u32,
    /// Standard deviation of the camera noise, hundredths of a level.
    pub noise_centi: u32,
    /// Whether number and time are drawn as a block code.
    pub code: bool,
    /// Whether number and time are drawn as text.
    pub text: bool,
}

/// Sizes and rate asked for outside the URI (`[source.<name>]` of the config).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Asked {
    /// Pixels across.
    pub width: Option<u32>,
    /// Pixels down.
    pub height: Option<u32>,
    /// Pictures a second.
    pub fps: Option<f64>,
}

/// Which parameter is wrong, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {message}")]
pub struct ParamError {
    /// The parameter.
    pub key: String,
    /// What was expected.
    pub message: String,
}

fn wrong(key: &str, message: impl Into<String>) -> ParamError {
    ParamError {
        key: key.to_owned(),
        message: message.into(),
    }
}

/// The parameters as written.
struct Written<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Written<'a> {
    fn split(uri: &'a str) -> Result<Self, ParamError> {
        let rest = uri.strip_prefix(SCHEME).unwrap_or(uri);
        let Some(list) = rest.strip_prefix('?') else {
            return if rest.is_empty() {
                Ok(Self(Vec::new()))
            } else {
                let form = "parameters follow a `?`: `synthetic:?width=640&height=360`";
                Err(wrong(rest, form))
            };
        };
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in list.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| wrong(part, "expected `key=value`"))?;
            if !KEYS.contains(&key) {
                let near = nearest(key, KEYS);
                let hint = if near.is_empty() {
                    String::new()
                } else {
                    format!("did you mean `{}`? ", near.join("` or `"))
                };
                let known = KEYS.join(", ");
                return Err(wrong(
                    key,
                    format!("unknown parameter; {hint}known: {known}"),
                ));
            }
            if pairs.iter().any(|(k, _)| *k == key) {
                return Err(wrong(key, "given twice"));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(k, _)| *k == key);
        found.map(|(_, value)| *value)
    }

    fn whole(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, ParamError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match text.parse().ok().filter(|v| (least..=most).contains(v)) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(
                key,
                format!("expected a whole number in {least}-{most}, got `{text}`"),
            )),
        }
    }

    fn small(&self, key: &str, least: u32, most: u32) -> Result<Option<u32>, ParamError> {
        let value = self.whole(key, least.into(), most.into())?;
        Ok(value.and_then(|v| u32::try_from(v).ok()))
    }

    /// A number times `scale`, to the nearest whole one.
    fn scaled(
        &self,
        key: &str,
        least: f64,
        most: f64,
        scale: f64,
    ) -> Result<Option<u32>, ParamError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match text
            .parse()
            .ok()
            .filter(|v: &f64| (least..=most).contains(v))
        {
            Some(value) => Ok(Some(to_whole(value * scale))),
            None => Err(wrong(
                key,
                format!("expected a number in {least}-{most}, got `{text}`"),
            )),
        }
    }

    fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, ParamError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(text, names.iter().copied());
        let hint = if near.is_empty() {
            String::new()
        } else {
            format!(" (did you mean `{}`?)", near.join("` or `"))
        };
        Err(wrong(
            key,
            format!("expected {}, got `{text}`{hint}", names.join(" | ")),
        ))
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, ParamError> {
        self.word(key, &[("0", false), ("1", true)])
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 10^6: checked by the caller"
)]
fn to_whole(value: f64) -> u32 {
    value.round() as u32
}

/// The URI's value or the config's; both are fine if they are the same.
fn agreed<T: PartialEq + Copy>(
    key: &str,
    in_uri: Option<T>,
    in_config: Option<T>,
    tell: impl Fn(T) -> String,
) -> Result<Option<T>, ParamError> {
    match (in_uri, in_config) {
        (Some(a), Some(b)) if a != b => Err(wrong(
            key,
            format!(
                "the URI says {} and the source's own key says {}; leave one out",
                tell(a),
                tell(b)
            ),
        )),
        (a, b) => Ok(a.or(b)),
    }
}

impl Params {
    /// Whether `uri` names a synthetic source.
    pub fn is_uri(uri: &str) -> bool {
        uri.starts_with(SCHEME)
    }

    /// Reads a URI; what it leaves open comes from `asked`, then from the defaults.
    ///
    /// # Errors
    /// The first parameter that is unknown, given twice, out of bounds, or contradicts another or
    /// `asked`.
    pub fn parse(uri: &str, asked: &Asked) -> Result<Self, ParamError> {
        let written = Written::split(uri)?;
        let side = |key, config: Option<u32>| -> Result<Option<u32>, ParamError> {
            let in_uri = written.small(key, MIN_SIDE, MAX_SIDE)?;
            let side = agreed(key, in_uri, config, |v| v.to_string())?;
            match side {
                Some(v) if !(MIN_SIDE..=MAX_SIDE).contains(&v) => Err(wrong(
                    key,
                    format!("expected {MIN_SIDE}-{MAX_SIDE} pixels, got {v}"),
                )),
                side => Ok(side),
            }
        };
        let width = side("width", asked.width)?.unwrap_or(640);
        let height = side("height", asked.height)?.unwrap_or(360);
        let asked_fps = match asked.fps {
            Some(fps) if !(0.01..=1000.0).contains(&fps) => {
                return Err(wrong("fps", format!("expected 0.01-1000, got {fps}")));
            }
            fps => fps.map(|f| to_whole(f * 1000.0)),
        };
        let fps = written.scaled("fps", 0.01, 1000.0, 1000.0)?;
        let tell = |milli: u32| (f64::from(milli) / 1000.0).to_string();
        let fps_milli = agreed("fps", fps, asked_fps, tell)?.unwrap_or(30_000);

        let jitter_us = written.scaled("jitter_ms", 0.0, 1000.0, 1000.0)?;
        let jitter_ns = i64::from(jitter_us.unwrap_or(0)) * (NS_PER_MS / 1000);
        let interval_ns = 1_000_000_000_000 / i64::from(fps_milli);
        if 2 * jitter_ns >= interval_ns {
            return Err(wrong(
                "jitter_ms",
                "must be less than half the time between two pictures, or they would change places",
            ));
        }
        let (gap_every, gap_frames) = gaps(&written)?;
        let light_at = written.whole("light_at", 1, MAX_FRAMES)?;
        let light = written.small("light_pct", 10, 400)?;
        if light.is_some() && light_at.is_none() {
            return Err(wrong("light_pct", "has no effect without `light_at`"));
        }
        let (code, text) = writing(&written, width, height)?;
        let formats = [
            ("i420", PixelFormat::I420),
            ("nv12", PixelFormat::Nv12),
            ("nv21", PixelFormat::Nv21),
            ("yuyv", PixelFormat::Yuyv),
            ("uyvy", PixelFormat::Uyvy),
            ("rgb", PixelFormat::Rgb),
            ("bgr", PixelFormat::Bgr),
            ("grey", PixelFormat::Grey),
        ];
        let scenes = [
            ("shapes", Scene::Shapes),
            ("empty", Scene::Empty),
            ("shadow", Scene::Shadow),
        ];
        let kinds = [
            ("both", Kinds::Both),
            ("rect", Kinds::Rect),
            ("disc", Kinds::Disc),
        ];
        Ok(Self {
            width,
            height,
            fps_milli,
            frames: written.whole("frames", 0, MAX_FRAMES)?.unwrap_or(0),
            seed: written.whole("seed", 0, u64::MAX)?.unwrap_or(1),
            format: written
                .word("format", &formats)?
                .unwrap_or(PixelFormat::I420),
            scene: written.word("scene", &scenes)?.unwrap_or(Scene::Shapes),
            shapes: written.small("shapes", 0, 32)?.unwrap_or(2),
            kinds: written.word("shape", &kinds)?.unwrap_or(Kinds::Both),
            size_pct: written.small("size", 1, 90)?.unwrap_or(20),
            speed_pct: written.small("speed", 0, 1000)?.unwrap_or(20),
            shapes_at: written.whole("shapes_at", 0, MAX_FRAMES)?.unwrap_or(0),
            jitter_ns,
            gap_every,
            gap_frames,
            light_at,
            light_pct: light.unwrap_or(140),
            noise_centi: written.scaled("noise", 0.0, 50.0, 100.0)?.unwrap_or(0),
            code,
            text,
        })
    }

    /// Pictures a second.
    pub fn fps(&self) -> f64 {
        f64::from(self.fps_milli) / 1000.0
    }

    /// Rows at the top that belong to number and time; shapes stay below them.
    pub(super) fn header(&self) -> u32 {
        if self.code {
            code::HEIGHT + 8
        } else if self.text {
            font::height(font::scale(self.width, 0)) + 8
        } else {
            0
        }
    }
}

fn gaps(written: &Written<'_>) -> Result<(u64, u64), ParamError> {
    let every = written.whole("gap_every", 2, MAX_FRAMES)?;
    let frames = written.whole("gap_frames", 1, MAX_FRAMES)?;
    match (every, frames) {
        (None, None) => Ok((0, 0)),
        (None, Some(_)) => Err(wrong("gap_frames", "has no effect without `gap_every`")),
        (Some(every), frames) => {
            let frames = frames.unwrap_or(1);
            if frames >= every {
                return Err(wrong(
                    "gap_frames",
                    format!("must be less than gap_every ({every}), or no picture is left"),
                ));
            }
            Ok((every, frames))
        }
    }
}

/// Whether code and text are drawn: as asked, else if there is room.
fn writing(written: &Written<'_>, width: u32, height: u32) -> Result<(bool, bool), ParamError> {
    let room = width >= code::WIDTH && height >= code::HEIGHT + 48;
    let code = match written.switch("code")? {
        Some(true) if !room => {
            return Err(wrong(
                "code",
                format!(
                    "needs a picture of at least {}x{}, this one is {width}x{height}",
                    code::WIDTH,
                    code::HEIGHT + 48
                ),
            ));
        }
        asked => asked.unwrap_or(room),
    };
    let from = if code { code::WIDTH } else { 0 };
    let scale = font::scale(width, from);
    let room = scale > 0 && height >= font::height(scale) + 48;
    let text = match written.switch("text")? {
        Some(true) if !room => {
            return Err(wrong(
                "text",
                format!("does not fit into a picture of {width}x{height}"),
            ));
        }
        asked => asked.unwrap_or(room),
    };
    Ok((code, text))
}
