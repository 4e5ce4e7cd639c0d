//! From an open device to what it will deliver: the format it took, the layout of frames, whose
//! memory.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use visualpath_core::{ImageLayout, PixelFormat};
use visualpath_frames::{FramePool, PoolSpec};

use super::bus::Bus;
use super::device::{CaptureDevice, Memory, PixFormat};
use super::formats::{self, Kind};
use super::look;
use super::negotiate::{self, DEFAULT_FPS};
use super::recovery::{Phase, Sign};
use super::stream::{Failed, Stream};
use crate::convert::Converter;
use crate::devices::{CameraFormat, Copies, DeviceError, Wanted, control};
use crate::source::{Controls, SourceInfo, WantedFormat};

/// Buffers asked for: one is filled, one waits, one is being looked at, one to spare.
pub(super) const BUFFERS: u32 = 4;
/// Choices tried before giving up: a driver that refuses so many refuses all.
const MAX_TRIES: usize = 8;

/// What a device will deliver.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) format: PixFormat,
    pub(super) kind: Kind,
    pub(super) memory: Memory,
    /// Of raw pictures, in a slot. Of packets: of the decoded picture, as far as can be told
    /// before one was decoded.
    pub(super) layout: ImageLayout,
    /// Bytes the driver writes.
    pub(super) room: usize,
    /// Buffers the driver works with.
    pub(super) buffers: u32,
    /// As the driver says.
    pub(super) fps: Option<f64>,
    pub(super) description: String,
}

impl Plan {
    pub(super) fn info(&self) -> SourceInfo {
        let direct = self.memory == Memory::UserPtr;
        SourceInfo {
            native_room: if direct { self.room } else { 0 },
            driver_slots: if direct { self.buffers as usize } else { 0 },
            nominal_fps: self.fps,
            encoded: match self.kind {
                Kind::Packets(codec) => Some(codec),
                Kind::Pixels(_) => None,
            },
            ..SourceInfo::new(self.layout, self.description.clone())
        }
    }

    pub(super) fn interval_ns(&self) -> i64 {
        crate::source::file::interval_ns(self.fps.unwrap_or(DEFAULT_FPS))
    }

    pub(super) fn copies(&self) -> Copies {
        match (self.kind, self.memory) {
            (Kind::Packets(_), _) => Copies::Decoded,
            (_, Memory::UserPtr) => Copies::Direct,
            (_, Memory::Mmap) => Copies::Copied,
        }
    }
}

/// Negotiates and sets the format, the rate and the controls; tries whose memory the driver takes.
/// The device is left with no buffers.
pub(super) fn set_up(
    bus: &dyn Bus,
    node: &Path,
    device: Box<dyn CaptureDevice>,
    wanted: &Wanted,
    no_userptr: bool,
) -> Result<(Box<dyn CaptureDevice>, Plan), DeviceError> {
    let mut device = device;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno| bus.failure(node, &what, errno)
    };
    let capability = device.capability().map_err(failed("asking what it is"))?;
    let formats = device.formats().map_err(failed("listing its formats"))?;
    if look::gives_raw(&capability.driver, &formats) {
        return Err(DeviceError::RawBayer {
            node: node.to_owned(),
            formats: listed(&formats),
            instead: bus.instead(&capability.driver, &capability.bus_info),
        });
    }
    let choices = negotiate::choices(&formats, wanted);
    if choices.is_empty() {
        return Err(no_format(node, &formats, wanted));
    }
    let mut refused = None;
    for choice in choices.into_iter().take(MAX_TRIES) {
        let asked = PixFormat::asked(choice.fourcc, choice.width, choice.height);
        let format = match device.set_format(&asked) {
            Ok(format) => format,
            Err(errno @ Errno::INVAL) => {
                refused.get_or_insert(errno);
                continue;
            }
            Err(errno) => return Err(failed("setting its format")(errno)),
        };
        // A driver answers with what it can do, which may be another format.
        let Some((kind, layout)) = frames_of(&format).filter(|(kind, _)| *kind == choice.kind)
        else {
            continue;
        };
        let fps = device
            .set_rate(Some(choice.fps.or(wanted.fps).unwrap_or(DEFAULT_FPS)))
            .map_err(failed("setting its rate"))?;
        let room = format
            .planes
            .iter()
            .map(|plane| plane.bytes as usize)
            .max()
            .unwrap_or(0);
        let one_buffer = format.planes.len() == 1;
        let (memory, buffers) = if no_userptr || !one_buffer || matches!(kind, Kind::Packets(_)) {
            (Memory::Mmap, BUFFERS)
        } else {
            let again = |f: Failed| failed(f.what)(errno_of(&f));
            let (mut kept, mut memory) = try_memory(device, layout, room).map_err(again)?;
            // An accident must not cost a copy of every picture from here on.
            if memory.is_none() {
                (kept, memory) = try_memory(kept, layout, room).map_err(again)?;
            }
            device = kept;
            match memory {
                Some(buffers) => (Memory::UserPtr, buffers),
                None => (Memory::Mmap, BUFFERS),
            }
        };
        let mut plan = Plan {
            format,
            kind,
            memory,
            layout,
            room,
            buffers,
            fps,
            description: String::new(),
        };
        plan.description = describe(&capability.card, &plan, choice.why);
        return Ok((device, plan));
    }
    match refused {
        Some(errno) => Err(failed("setting its format")(errno)),
        None => Err(no_format(node, &formats, wanted)),
    }
}

/// What frames of this format are.
fn frames_of(format: &PixFormat) -> Option<(Kind, ImageLayout)> {
    let kind = formats::kind(format.fourcc)?;
    let layout = match kind {
        // Pictures in several buffers are put together on the way into the slot.
        Kind::Pixels(pixels) if format.planes.len() > 1 => {
            ImageLayout::packed(pixels, format.width, format.height, formats::color(format))
        }
        Kind::Pixels(pixels) => formats::layout_in_buffer(format, pixels)?,
        Kind::Packets(_) => ImageLayout::packed(
            PixelFormat::I420,
            format.width,
            format.height,
            formats::color(format),
        ),
    };
    (layout.width > 0 && layout.height > 0).then_some((kind, layout))
}

/// Offers the driver memory of the kind frames lie in. How many buffers it works with if it takes
/// that.
fn try_memory(
    device: Box<dyn CaptureDevice>,
    layout: ImageLayout,
    room: usize,
) -> Result<(Box<dyn CaptureDevice>, Option<u32>), Failed> {
    let spec = PoolSpec {
        pool_id: 0,
        slots: 1,
        native: layout,
        native_room: room,
        views: Vec::new(),
    };
    let mut device = device;
    let Ok(pool) = FramePool::memfd(&spec, Arc::new(Converter::new())) else {
        return Ok((device, None));
    };
    let buffers = match device.request(Memory::UserPtr, BUFFERS) {
        Ok(buffers @ 1..) => buffers,
        // As the specification has it, and as some drivers do.
        Ok(0) | Err(Errno::INVAL | Errno::NOTTY | Errno::NOMEM) => return Ok((device, None)),
        Err(errno) => return Err(Failed::of(Phase::SettingUp, "asking for buffers")(errno)),
    };
    let mut stream = Stream::new(device, Memory::UserPtr, buffers)?;
    let fed = stream.feed(&pool);
    let kept = Failed::of(Phase::SettingUp, "taking back a frame's memory");
    let device = stream.stop().ok_or_else(|| kept(Errno::IO))?;
    match fed {
        Ok(_) => Ok((device, Some(buffers))),
        Err(failed) => match errno_of(&failed) {
            Errno::NODEV | Errno::NXIO => Err(failed),
            errno => {
                tracing::debug!(%errno, "the driver does not write into frames itself");
                Ok((device, None))
            }
        },
    }
}

/// The errno of a failed call.
pub(super) fn errno_of(failed: &Failed) -> Errno {
    match failed.sign {
        Sign::Errno(errno) => errno,
        _ => Errno::IO,
    }
}

/// Sets controls by name. What can't be set is said and left: a picture with the wrong exposure is
/// better than none.
pub(super) fn apply_controls(node: &Path, device: &mut dyn CaptureDevice, controls: &Controls) {
    if controls.is_empty() {
        return;
    }
    let known = match device.controls() {
        Ok(known) => known,
        Err(errno) => {
            tracing::warn!(device = %node.display(), %errno, "its controls can't be listed; none is set");
            return;
        }
    };
    for (name, value) in controls {
        let number = control(node, &known, name)
            .and_then(|control| Ok((control, control.number(node, value)?)));
        match number {
            Ok((control, number)) => {
                if let Err(errno) = device.set_control(control.id, number) {
                    let hint = if control.inactive {
                        "; it has no effect while its automatic is on"
                    } else {
                        ""
                    };
                    tracing::warn!(device = %node.display(), control = %name, number, %errno, "the control could not be set{hint}");
                }
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

fn describe(card: &str, plan: &Plan, why: &str) -> String {
    let fps = plan
        .fps
        .map_or(String::new(), |fps| format!(" {} fps", trimmed(fps)));
    let into = match plan.copies() {
        Copies::Direct => "the driver writes into frames, 0 copies",
        Copies::Copied => "1 copy",
        Copies::Decoded => "decoded into frames",
    };
    let format = &plan.format;
    format!(
        "{card}: {} {}x{}{fps}, {into} ({why})",
        formats::text(format.fourcc),
        format.width,
        format.height,
    )
}

fn trimmed(fps: f64) -> String {
    let text = format!("{fps:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn listed(formats: &[CameraFormat]) -> String {
    if formats.is_empty() {
        return "no format at all".to_owned();
    }
    let words: Vec<_> = formats.iter().map(|f| f.fourcc.as_str()).collect();
    words.join(", ")
}

fn no_format(node: &Path, formats: &[CameraFormat], wanted: &Wanted) -> DeviceError {
    let usable: Vec<CameraFormat> = formats.iter().filter(|f| f.usable).cloned().collect();
    DeviceError::Format {
        node: node.to_owned(),
        formats: listed(formats),
        asked: match wanted.format {
            WantedFormat::Auto => "auto".to_owned(),
            WantedFormat::Mjpeg => "mjpeg".to_owned(),
            WantedFormat::H264 => "h264".to_owned(),
            WantedFormat::Pixels(pixels) => format!("{pixels:?}").to_lowercase(),
        },
        usable: if usable.is_empty() {
            "name another camera".to_owned()
        } else {
            format!("write format = \"auto\" (it has {})", listed(&usable))
        },
    }
}
