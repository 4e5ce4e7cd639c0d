//! The machine's cameras: what there is, what it can do, what to do when it can't be had.
//!
//! The types are plain data and always there; the functions look at the kernel's V4L2 devices and
//! answer [`DeviceError::NotBuilt`] without the feature `v4l2`.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::source::{ControlValue, WantedFormat};

/// One capture device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Camera {
    /// `/dev/video0`; may be another after a reboot or a replug.
    pub node: PathBuf,
    /// Its link by maker, model and serial number; stays the same wherever it is plugged in.
    pub by_id: Option<PathBuf>,
    /// Its link by port; stays the same whatever is plugged in there.
    pub by_path: Option<PathBuf>,
    /// The USB serial number.
    pub serial: Option<String>,
    /// The driver's name of the device.
    pub card: String,
    /// The driver.
    pub driver: String,
    /// Where it is connected, as `usb-0000:01:00.0-1.2`.
    pub bus_info: String,
    /// Which of the two capture interfaces it has.
    pub planes: Planes,
    /// What it delivers.
    pub formats: Vec<CameraFormat>,
    /// What can be set.
    pub controls: Vec<ControlInfo>,
    /// It gives a sensor's raw mosaic, which needs a camera stack to become pictures.
    pub raw_bayer: bool,
    /// What to write as `uri` instead of a raw mosaic's node.
    pub instead: Option<String>,
    /// Which other process has it open.
    pub busy: Option<String>,
}

/// The kernel's two capture interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Planes {
    /// Single-planar.
    Single,
    /// Multi-planar.
    Multi,
}

/// One pixel format of a camera.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CameraFormat {
    /// The kernel's four letters, as `YUYV`.
    pub fourcc: String,
    /// The driver's words.
    pub description: String,
    /// Packets rather than pixels.
    pub compressed: bool,
    /// This version makes frames of it.
    pub usable: bool,
    /// Sizes, and the rates of each. Empty where the driver lists none.
    pub sizes: Vec<CameraSize>,
}

/// One size (or range of sizes) of a format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CameraSize {
    /// The size.
    pub size: SizeRange,
    /// Pictures a second; of a range of sizes, at its largest.
    pub fps: Rates,
}

/// Sizes in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SizeRange {
    /// This one.
    Discrete {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// From `min` to `max` in steps, each (across, down).
    Stepwise {
        /// Smallest.
        min: (u32, u32),
        /// Largest.
        max: (u32, u32),
        /// Step.
        step: (u32, u32),
    },
}

impl SizeRange {
    /// The size in it that is closest to (`width`, `height`).
    pub fn closest(&self, width: u32, height: u32) -> (u32, u32) {
        let snap = |want: u32, min: u32, max: u32, step: u32| {
            let (min, max, step) = (min.min(max), max, step.max(1));
            let want = want.clamp(min, max);
            let steps = (want - min + step / 2) / step;
            min.saturating_add(steps * step).min(max)
        };
        match *self {
            Self::Discrete { width, height } => (width, height),
            Self::Stepwise { min, max, step } => (
                snap(width, min.0, max.0, step.0),
                snap(height, min.1, max.1, step.1),
            ),
        }
    }

    /// The largest size in it.
    pub fn largest(&self) -> (u32, u32) {
        match *self {
            Self::Discrete { width, height } => (width, height),
            Self::Stepwise { max, .. } => max,
        }
    }
}

/// Pictures a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rates {
    /// These, fastest first. Empty where the driver lists none.
    Listed(Vec<f64>),
    /// Any between.
    Range {
        /// Slowest.
        min: f64,
        /// Fastest.
        max: f64,
    },
}

impl Rates {
    /// The fastest; `None` where nothing is known.
    pub fn fastest(&self) -> Option<f64> {
        match self {
            Self::Listed(rates) => rates.iter().copied().reduce(f64::max),
            Self::Range { max, .. } => Some(*max),
        }
    }

    /// The rate closest to `fps`, rather a faster than a slower one; `None` where nothing is
    /// known.
    pub fn closest(&self, fps: f64) -> Option<f64> {
        match self {
            Self::Listed(rates) => {
                let enough = |r: &&f64| **r >= fps * 0.999;
                rates
                    .iter()
                    .filter(enough)
                    .copied()
                    .reduce(f64::min)
                    .or_else(|| self.fastest())
            }
            Self::Range { min, max } => Some(fps.max(*min).min(*max)),
        }
    }
}

/// What kind of value a control takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// A number.
    Integer,
    /// 0 or 1.
    Boolean,
    /// One of `menu`, by index or text.
    Menu,
    /// One of `menu`, whose texts are numbers.
    IntegerMenu,
    /// Something that happens when it is set.
    Button,
    /// Bits.
    Bitmask,
    /// Anything else; it can't be set here.
    Other,
}

/// One control of a camera.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControlInfo {
    /// The name in the config: the driver's in lower case, with `_` for what is neither letter
    /// nor digit, as `v4l2-ctl` prints it.
    pub name: String,
    /// The kernel's number.
    pub id: u32,
    /// What it takes.
    pub kind: ControlKind,
    /// Smallest value.
    pub min: i64,
    /// Largest value.
    pub max: i64,
    /// Values are `min` plus multiples of this.
    pub step: i64,
    /// Value after power-up.
    pub default: i64,
    /// Value now; `None` if it can't be read.
    pub value: Option<i64>,
    /// Of a menu: index and text.
    pub menu: Vec<(i64, String)>,
    /// It can't be set.
    pub read_only: bool,
    /// It has no effect while another one (as an automatic) is on.
    pub inactive: bool,
}

impl ControlInfo {
    /// The number to set for `value`.
    ///
    /// # Errors
    /// [`DeviceError::ControlValue`], which says what it takes.
    pub fn number(&self, node: &Path, value: &ControlValue) -> Result<i64, DeviceError> {
        let wrong = |given: String, takes: String| DeviceError::ControlValue {
            node: node.to_owned(),
            name: self.name.clone(),
            given,
            takes,
        };
        if self.read_only || self.kind == ControlKind::Other {
            return Err(wrong(shown(value), "nothing: it can only be read".into()));
        }
        match value {
            ControlValue::Number(n) if self.menu.is_empty() => {
                // A bit mask's maximum is its bits; a button takes anything.
                let range = self.min..=self.max;
                let any = self.kind == ControlKind::Button;
                if any || range.contains(n) {
                    Ok(*n)
                } else {
                    Err(wrong(n.to_string(), format!("{}–{}", self.min, self.max)))
                }
            }
            ControlValue::Number(n) => {
                let known = self.menu.iter().any(|(index, _)| index == n);
                known
                    .then_some(*n)
                    .ok_or_else(|| wrong(n.to_string(), self.menu_text()))
            }
            ControlValue::Text(text) => {
                if self.kind == ControlKind::Boolean {
                    match text.to_ascii_lowercase().as_str() {
                        "true" | "on" | "yes" => return Ok(1),
                        "false" | "off" | "no" => return Ok(0),
                        _ => {}
                    }
                }
                let item = self
                    .menu
                    .iter()
                    .find(|(_, item)| item.eq_ignore_ascii_case(text.trim()));
                match item {
                    Some((index, _)) => Ok(*index),
                    None if self.menu.is_empty() => Err(wrong(
                        format!("`{text}`"),
                        format!("a number, {}–{}", self.min, self.max),
                    )),
                    None => Err(wrong(format!("`{text}`"), self.menu_text())),
                }
            }
        }
    }

    fn menu_text(&self) -> String {
        let items: Vec<_> = self
            .menu
            .iter()
            .map(|(index, text)| format!("{index} ({text})"))
            .collect();
        items.join(", ")
    }
}

fn shown(value: &ControlValue) -> String {
    match value {
        ControlValue::Number(n) => n.to_string(),
        ControlValue::Text(text) => format!("`{text}`"),
    }
}

/// How often the pixels of a picture are copied between the driver and the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Copies {
    /// The driver writes into the frame itself (USERPTR).
    Direct,
    /// The driver wants memory of its own (MMAP).
    Copied,
    /// The camera gives packets; the decoder writes into the frame itself.
    Decoded,
}

impl Copies {
    /// The number.
    pub fn per_frame(self) -> u32 {
        match self {
            Self::Direct | Self::Decoded => 0,
            Self::Copied => 1,
        }
    }
}

/// What is asked of a camera. The default asks for nothing in particular.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// Form.
    pub format: WantedFormat,
    /// Pixels across and down.
    pub size: Option<(u32, u32)>,
    /// Pictures a second.
    pub fps: Option<f64>,
}

/// Why a camera can't be had. The text names the device and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device.
    #[error("`{}`: there is no such camera; {there_are}", node.display())]
    Missing {
        /// The node or link asked for.
        node: PathBuf,
        /// Which there are.
        there_are: String,
    },
    /// The user may not open it.
    #[error(
        "`{}`: no permission to open it; add the user running this to the group `video` (`usermod -aG video USER`, then log in again)",
        node.display()
    )]
    Denied {
        /// The device.
        node: PathBuf,
    },
    /// Somebody else has it.
    #[error("`{}` is busy: {by} has it; end that, or name another camera", node.display())]
    Busy {
        /// The device.
        node: PathBuf,
        /// Which process, as far as it can be seen.
        by: String,
    },
    /// It is something else.
    #[error("`{}` is not a camera: {what}; `visualpath devices` lists the cameras", node.display())]
    NotCapture {
        /// The device.
        node: PathBuf,
        /// What it is.
        what: String,
    },
    /// A sensor without a camera stack.
    #[error("`{}` gives a sensor's raw mosaic ({formats}), not pictures; write uri = \"{instead}\"", node.display())]
    RawBayer {
        /// The device.
        node: PathBuf,
        /// What it gives.
        formats: String,
        /// What to write as `uri`.
        instead: String,
    },
    /// None of its formats becomes a frame here.
    #[error("`{}` gives {formats} and none of it can be used for `format = \"{asked}\"`; {usable}", node.display())]
    Format {
        /// The device.
        node: PathBuf,
        /// What it gives.
        formats: String,
        /// What was asked.
        asked: String,
        /// What could be asked instead.
        usable: String,
    },
    /// The bus has no room for the stream.
    #[error(
        "`{}`: the USB bus has no bandwidth left for {what}; ask for a smaller size or rate, for format = \"mjpeg\", or plug the camera into another USB controller",
        node.display()
    )]
    Bandwidth {
        /// The device.
        node: PathBuf,
        /// The format that was started.
        what: String,
    },
    /// It has no such control.
    #[error("`{}` has no control `{name}`{}", node.display(), near_text(near))]
    UnknownControl {
        /// The device.
        node: PathBuf,
        /// As asked.
        name: String,
        /// Names that look alike, or all there are.
        near: Vec<String>,
    },
    /// The control does not take this value.
    #[error("`{}`: control `{name}` can't be {given}; it takes {takes}", node.display())]
    ControlValue {
        /// The device.
        node: PathBuf,
        /// The control.
        name: String,
        /// The value given.
        given: String,
        /// What it takes.
        takes: String,
    },
    /// The driver refused something.
    #[error("`{}`: {what}: {cause}", node.display())]
    Failed {
        /// The device.
        node: PathBuf,
        /// Which call, or what for.
        what: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// This build has no cameras.
    #[error("this build has no cameras: it was built without the feature `v4l2`")]
    NotBuilt,
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() {
        return "; it has none that can be set".to_owned();
    }
    format!("; it has {}", near.join(", "))
}

impl DeviceError {
    /// Whether it may go by itself or by plugging something: worth waiting for.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Busy { .. }
            | Self::Bandwidth { .. }
            | Self::Failed { .. } => true,
            Self::Denied { .. }
            | Self::NotCapture { .. }
            | Self::RawBayer { .. }
            | Self::Format { .. }
            | Self::UnknownControl { .. }
            | Self::ControlValue { .. }
            | Self::NotBuilt => false,
        }
    }
}

/// The control called `name` among `controls`.
///
/// # Errors
/// [`DeviceError::UnknownControl`] with the nearest names, or all if none is near.
pub fn control<'a>(
    node: &Path,
    controls: &'a [ControlInfo],
    name: &str,
) -> Result<&'a ControlInfo, DeviceError> {
    if let Some(found) = controls.iter().find(|c| c.name == name) {
        return Ok(found);
    }
    let names = || controls.iter().map(|c| c.name.as_str());
    let mut near = visualpath_core::nearest(name, names());
    if near.is_empty() {
        near = names().collect();
    }
    Err(DeviceError::UnknownControl {
        node: node.to_owned(),
        name: name.to_owned(),
        near: near.into_iter().map(str::to_owned).collect(),
    })
}

/// The kernel's name of a control as the config has it.
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug.truncate(slug.trim_end_matches('_').len());
    slug
}

/// Every camera of the machine, by node, or why it can't be looked at. Nodes that are no cameras
/// (metadata, codecs, image processors) are left out.
pub fn cameras() -> Vec<Result<Camera, DeviceError>> {
    #[cfg(feature = "v4l2")]
    return crate::source::v4l2::cameras();
    #[cfg(not(feature = "v4l2"))]
    return vec![Err(DeviceError::NotBuilt)];
}

/// The camera at this node or link.
///
/// # Errors
/// When it can't be opened, or is no camera.
pub fn camera(node: &Path) -> Result<Camera, DeviceError> {
    #[cfg(feature = "v4l2")]
    return crate::source::v4l2::camera(node);
    #[cfg(not(feature = "v4l2"))]
    return not_built(node);
}

/// Tries how pictures of this kind would come into frames: negotiates, and offers the driver a
/// page of ours. Nothing is streamed. Sets the device's format.
///
/// # Errors
/// When it can't be opened, is busy, or has no such format.
pub fn probe_memory(node: &Path, wanted: &Wanted) -> Result<Copies, DeviceError> {
    #[cfg(feature = "v4l2")]
    return crate::source::v4l2::probe_memory(node, wanted);
    #[cfg(not(feature = "v4l2"))]
    return not_built((node, wanted));
}

/// Sets a control, also while another process captures.
///
/// # Errors
/// When there is no such device or control, or it does not take the value.
pub fn set_control(node: &Path, name: &str, value: &ControlValue) -> Result<(), DeviceError> {
    #[cfg(feature = "v4l2")]
    return crate::source::v4l2::set_control(node, name, value);
    #[cfg(not(feature = "v4l2"))]
    return not_built((node, name, value));
}

#[cfg(not(feature = "v4l2"))]
fn not_built<T, U>(_: T) -> Result<U, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: ControlKind, menu: &[(i64, &str)]) -> ControlInfo {
        ControlInfo {
            name: "power_line_frequency".into(),
            id: 1,
            kind,
            min: 0,
            max: 2,
            step: 1,
            default: 1,
            value: Some(1),
            menu: menu.iter().map(|(i, t)| (*i, (*t).to_owned())).collect(),
            read_only: false,
            inactive: false,
        }
    }

    #[test]
    fn a_controls_name_is_the_one_v4l2_ctl_prints() {
        for (kernel, ours) in [
            ("Brightness", "brightness"),
            ("White Balance, Automatic", "white_balance_automatic"),
            ("Exposure (Absolute)", "exposure_absolute"),
            ("  Focus, Auto ", "focus_auto"),
            ("", ""),
        ] {
            assert_eq!(slug(kernel), ours);
        }
    }

    #[test]
    fn a_menu_takes_its_texts_and_its_numbers_and_says_them() {
        let node = Path::new("/dev/video3");
        let menu = info(ControlKind::Menu, &[(0, "Disabled"), (2, "60 Hz")]);
        let text = |t: &str| ControlValue::Text(t.to_owned());
        assert_eq!(menu.number(node, &text("60 hz")).unwrap(), 2);
        assert_eq!(menu.number(node, &ControlValue::Number(0)).unwrap(), 0);
        let error = menu.number(node, &ControlValue::Number(1)).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("2 (60 Hz)") && said.contains("/dev/video3"),
            "{said}"
        );
        let switch = info(ControlKind::Boolean, &[]);
        assert_eq!(switch.number(node, &text("On")).unwrap(), 1);
        let number = info(ControlKind::Integer, &[]);
        let said = number
            .number(node, &ControlValue::Number(3))
            .unwrap_err()
            .to_string();
        assert!(said.contains("can't be 3; it takes 0–2"), "{said}");
    }

    #[test]
    fn an_unknown_control_is_answered_with_the_nearest_names() {
        let controls = [info(ControlKind::Menu, &[])];
        let node = Path::new("/dev/video3");
        let near = control(node, &controls, "power_line_freqency").unwrap_err();
        assert!(
            near.to_string().contains("it has power_line_frequency"),
            "{near}"
        );
        assert!(control(node, &controls, "power_line_frequency").is_ok());
    }

    #[test]
    fn sizes_and_rates_snap_to_what_the_driver_lists() {
        let range = SizeRange::Stepwise {
            min: (16, 16),
            max: (1000, 700),
            step: (16, 4),
        };
        assert_eq!(range.closest(641, 481), (640, 480));
        assert_eq!(range.closest(5000, 1), (1000, 16));
        let listed = Rates::Listed(vec![30.0, 29.97, 15.0]);
        assert_eq!(listed.closest(20.0), Some(29.97));
        assert_eq!(listed.closest(15.0), Some(15.0));
        assert_eq!(listed.closest(60.0), Some(30.0));
        assert_eq!(Rates::Listed(vec![]).closest(30.0), None);
        let any = Rates::Range {
            min: 1.0,
            max: 50.0,
        };
        assert_eq!(any.closest(60.0), Some(50.0));
    }
}
