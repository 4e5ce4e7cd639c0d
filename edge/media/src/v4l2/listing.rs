//! What a node lists: formats, sizes, rates, controls.
#![allow(unsafe_code)]

use rustix::io::Errno;
use v4l::FourCC;
use v4l::v4l_sys as raw;

use super::kernel::KernelDevice;
use super::{formats, sys};
use crate::devices::{CameraFormat, CameraSize, ControlInfo, ControlKind, Rates, SizeRange, slug};

/// No driver has so many formats, sizes, rates or controls: an end for enumerations that have
/// none.
pub(super) const MANY: u32 = 512;

impl KernelDevice {
    /// Every format with its sizes and rates.
    pub(super) fn list_formats(&self) -> Result<Vec<CameraFormat>, Errno> {
        let listed = Self::each(|index| {
            let mut format = sys::zeroed::<raw::v4l2_fmtdesc>();
            (format.index, format.type_) = (index, self.buf_type());
            sys::call(self.fd(), &sys::ENUM_FMT, &mut format)?;
            Ok(format)
        })?;
        listed
            .into_iter()
            .map(|format| {
                let fourcc = FourCC::from(format.pixelformat);
                Ok(CameraFormat {
                    fourcc: formats::text(fourcc),
                    description: text(&format.description),
                    compressed: format.flags & raw::V4L2_FMT_FLAG_COMPRESSED != 0,
                    usable: formats::kind(fourcc).is_some(),
                    sizes: self.sizes(format.pixelformat)?,
                })
            })
            .collect()
    }

    /// Calls `f` with 0, 1, 2 … until the driver says that there are no more.
    fn each<T>(mut f: impl FnMut(u32) -> Result<T, Errno>) -> Result<Vec<T>, Errno> {
        let mut all = Vec::new();
        for index in 0..MANY {
            match f(index) {
                Ok(one) => all.push(one),
                // ENOTTY: the driver does not enumerate this at all.
                Err(Errno::INVAL | Errno::NOTTY) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(all)
    }

    fn sizes(&self, fourcc: u32) -> Result<Vec<CameraSize>, Errno> {
        let sizes = Self::each(|index| {
            let mut size = sys::zeroed::<raw::v4l2_frmsizeenum>();
            (size.index, size.pixel_format) = (index, fourcc);
            sys::call(self.fd(), &sys::ENUM_FRAMESIZES, &mut size)?;
            // SAFETY: `type` says which variant it is; both are integers.
            let (discrete, step) = unsafe {
                let of = &size.__bindgen_anon_1;
                (of.discrete, of.stepwise)
            };
            Ok(
                if size.type_ == raw::v4l2_frmsizetypes_V4L2_FRMSIZE_TYPE_DISCRETE {
                    SizeRange::Discrete {
                        width: discrete.width,
                        height: discrete.height,
                    }
                } else {
                    SizeRange::Stepwise {
                        min: (step.min_width, step.min_height),
                        max: (step.max_width, step.max_height),
                        step: (step.step_width, step.step_height),
                    }
                },
            )
        })?;
        let mut listed = Vec::new();
        for size in sizes {
            listed.push(CameraSize {
                size,
                fps: self.rates(fourcc, size.largest())?,
            });
            // A range is the only one.
            if matches!(size, SizeRange::Stepwise { .. }) {
                break;
            }
        }
        Ok(listed)
    }

    fn rates(&self, fourcc: u32, (width, height): (u32, u32)) -> Result<Rates, Errno> {
        let mut range = None;
        let mut rates = Self::each(|index| {
            if range.is_some() {
                return Err(Errno::INVAL);
            }
            let mut rate = sys::zeroed::<raw::v4l2_frmivalenum>();
            (rate.index, rate.pixel_format) = (index, fourcc);
            (rate.width, rate.height) = (width, height);
            sys::call(self.fd(), &sys::ENUM_FRAMEINTERVALS, &mut rate)?;
            // SAFETY: as in `sizes`.
            let (discrete, step) = unsafe {
                let of = &rate.__bindgen_anon_1;
                (of.discrete, of.stepwise)
            };
            if rate.type_ == raw::v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_DISCRETE {
                return Ok(per_second(discrete));
            }
            range = per_second(step.max).zip(per_second(step.min));
            Ok(None)
        })?;
        if let Some((min, max)) = range {
            return Ok(Rates::Range { min, max });
        }
        rates.sort_by(|a, b| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal));
        Ok(Rates::Listed(rates.into_iter().flatten().collect()))
    }

    /// Every control with its value.
    pub(super) fn list_controls(&self) -> Result<Vec<ControlInfo>, Errno> {
        let mut controls = Vec::new();
        let mut id = 0_u32;
        for _ in 0..MANY {
            let mut query = sys::zeroed::<raw::v4l2_query_ext_ctrl>();
            query.id = id | raw::V4L2_CTRL_FLAG_NEXT_CTRL;
            match sys::call(self.fd(), &sys::QUERY_EXT_CTRL, &mut query) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOTTY) => break,
                Err(errno) => return Err(errno),
            }
            if query.id <= id {
                break;
            }
            id = query.id;
            let class = query.type_ == raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_CTRL_CLASS;
            if class || query.flags & raw::V4L2_CTRL_FLAG_DISABLED != 0 {
                continue;
            }
            let kind = control_kind(query.type_, query.elems);
            let name = query.name.map(libc_char_to_u8);
            let wide = query.type_ == raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER64;
            let readable = query.flags & raw::V4L2_CTRL_FLAG_WRITE_ONLY == 0
                && !matches!(kind, ControlKind::Other | ControlKind::Button);
            let is_menu = matches!(kind, ControlKind::Menu | ControlKind::IntegerMenu);
            controls.push(ControlInfo {
                name: slug(&text(&name)),
                id,
                kind,
                min: query.minimum,
                max: query.maximum,
                step: i64::try_from(query.step).unwrap_or(i64::MAX),
                default: query.default_value,
                value: readable
                    .then(|| self.control_value(id, wide, None).ok())
                    .flatten(),
                menu: if is_menu {
                    self.menu(id, kind, query.minimum, query.maximum)
                } else {
                    Vec::new()
                },
                read_only: query.flags & raw::V4L2_CTRL_FLAG_READ_ONLY != 0,
                inactive: query.flags & raw::V4L2_CTRL_FLAG_INACTIVE != 0,
            });
        }
        Ok(controls)
    }

    pub(super) fn write_control(&self, id: u32, value: i64) -> Result<(), Errno> {
        let mut query = sys::zeroed::<raw::v4l2_query_ext_ctrl>();
        query.id = id;
        sys::call(self.fd(), &sys::QUERY_EXT_CTRL, &mut query)?;
        let wide = query.type_ == raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER64;
        if control_kind(query.type_, query.elems) == ControlKind::Other {
            return Err(Errno::INVAL);
        }
        self.control_value(id, wide, Some(value)).map(drop)
    }

    fn control_value(&self, id: u32, wide: bool, set: Option<i64>) -> Result<i64, Errno> {
        // SAFETY: plain C structures.
        let (mut control, mut all): (raw::v4l2_ext_control, raw::v4l2_ext_controls) =
            unsafe { std::mem::zeroed() };
        control.id = id;
        if let Some(value) = set {
            if wide {
                control.__bindgen_anon_1.value64 = value;
            } else {
                control.__bindgen_anon_1.value = i32::try_from(value).map_err(|_| Errno::RANGE)?;
            }
        }
        all.count = 1;
        all.controls = &raw mut control;
        let request = if set.is_some() {
            &sys::S_EXT_CTRLS
        } else {
            &sys::G_EXT_CTRLS
        };
        // SAFETY: one control, which lives until the call is over; it has no payload (only
        // scalar kinds are asked for).
        unsafe { sys::call_raw(self.fd(), request, &mut all)? };
        // `v4l2_ext_control` is packed: copied out, not borrowed.
        let of = control.__bindgen_anon_1;
        // SAFETY: integers.
        Ok(unsafe { if wide { of.value64 } else { of.value.into() } })
    }

    fn menu(&self, id: u32, kind: ControlKind, min: i64, max: i64) -> Vec<(i64, String)> {
        let mut items = Vec::new();
        // Menus have holes: the driver says EINVAL for what it leaves out.
        for index in min.max(0)..=max.min(i64::from(MANY)) {
            let Ok(wanted) = u32::try_from(index) else {
                continue;
            };
            let mut item = sys::zeroed::<raw::v4l2_querymenu>();
            (item.id, item.index) = (id, wanted);
            if sys::call(self.fd(), &sys::QUERYMENU, &mut item).is_err() {
                continue;
            }
            // `v4l2_querymenu` is packed: copied out, not borrowed.
            let of = item.__bindgen_anon_1;
            // SAFETY: bytes and an integer, both always values.
            let (name, value) = unsafe { (of.name, of.value) };
            items.push((
                index,
                match kind {
                    ControlKind::IntegerMenu => value.to_string(),
                    _ => text(&name),
                },
            ));
        }
        items
    }
}

fn control_kind(kind: u32, elems: u32) -> ControlKind {
    if elems > 1 {
        return ControlKind::Other;
    }
    match kind {
        raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER
        | raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER64 => ControlKind::Integer,
        raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_BOOLEAN => ControlKind::Boolean,
        raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_MENU => ControlKind::Menu,
        raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER_MENU => ControlKind::IntegerMenu,
        raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_BUTTON => ControlKind::Button,
        raw::v4l2_ctrl_type_V4L2_CTRL_TYPE_BITMASK => ControlKind::Bitmask,
        _ => ControlKind::Other,
    }
}

/// The rate of an interval; `None` for one of 0.
pub(super) fn per_second(interval: raw::v4l2_fract) -> Option<f64> {
    (interval.numerator != 0 && interval.denominator != 0)
        .then(|| f64::from(interval.denominator) / f64::from(interval.numerator))
}

#[allow(clippy::unnecessary_cast, reason = "signed on some machines")]
fn libc_char_to_u8(c: std::os::raw::c_char) -> u8 {
    c as u8
}

/// A C string in a fixed field.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}
