//! The real device: a node of the kernel's V4L2, single- or multi-planar.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use v4l::v4l_sys as raw;

use super::device::{
    Capability, CaptureDevice, Dequeued, MAX_PLANES, Memory, PixFormat, PlaneFormat,
};
use super::listing::{MANY, per_second, text};
use super::sys::{self, Mapping, Ready};
use crate::devices::{CameraFormat, ControlInfo, Planes};

/// One open node.
pub(super) struct KernelDevice {
    fd: OwnedFd,
    capability: Capability,
}

/// Why a node is not a [`KernelDevice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// The system said no.
    Errno(Errno),
    /// It is something else.
    NotCapture(String),
}

impl From<Errno> for NotOpened {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl KernelDevice {
    pub(super) fn open(node: &Path) -> Result<Self, NotOpened> {
        let fd = sys::open(node)?;
        let mut cap = sys::zeroed::<raw::v4l2_capability>();
        match sys::call(fd.as_fd(), &sys::QUERYCAP, &mut cap) {
            Ok(()) => {}
            Err(Errno::NOTTY | Errno::INVAL) => {
                return Err(NotOpened::NotCapture("not a V4L2 device".into()));
            }
            Err(errno) => return Err(errno.into()),
        }
        let caps = if cap.capabilities & raw::V4L2_CAP_DEVICE_CAPS == 0 {
            cap.capabilities
        } else {
            cap.device_caps
        };
        let driver = text(&cap.driver);
        let planes = planes_of(caps, &driver).map_err(|what| {
            NotOpened::NotCapture(format!("`{}` ({driver}) is {what}", text(&cap.card)))
        })?;
        let device = Self {
            fd,
            capability: Capability {
                card: text(&cap.card),
                driver,
                bus_info: text(&cap.bus_info),
                planes,
            },
        };
        device.subscribe();
        Ok(device)
    }

    /// A driver without source changes refuses; nothing is lost by it.
    fn subscribe(&self) {
        let mut sub = sys::zeroed::<raw::v4l2_event_subscription>();
        sub.type_ = raw::V4L2_EVENT_SOURCE_CHANGE;
        if let Err(errno) = sys::call(self.fd(), &sys::SUBSCRIBE_EVENT, &mut sub) {
            tracing::trace!(%errno, "no events of source changes");
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn multi(&self) -> bool {
        self.capability.planes == Planes::Multi
    }

    pub(super) fn buf_type(&self) -> u32 {
        if self.multi() {
            raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE
        } else {
            raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE
        }
    }

    fn buffer(
        &self,
        memory: Memory,
        index: u32,
    ) -> (raw::v4l2_buffer, [raw::v4l2_plane; MAX_PLANES]) {
        // SAFETY: plain C structures of integers; a null pointer is a value too.
        let (mut buffer, planes): (raw::v4l2_buffer, _) = unsafe { std::mem::zeroed() };
        buffer.index = index;
        buffer.type_ = self.buf_type();
        buffer.memory = match memory {
            Memory::Mmap => raw::v4l2_memory_V4L2_MEMORY_MMAP,
            Memory::UserPtr => raw::v4l2_memory_V4L2_MEMORY_USERPTR,
        };
        (buffer, planes)
    }

    /// Calls with a buffer whose planes, if it has any, are the ones given.
    ///
    /// # Safety
    /// The user pointers in it must be good, as [`CaptureDevice::queue_user`] says.
    unsafe fn with_planes(
        &self,
        request: &sys::Request<raw::v4l2_buffer>,
        buffer: &mut raw::v4l2_buffer,
        planes: &mut [raw::v4l2_plane; MAX_PLANES],
    ) -> Result<(), Errno> {
        if self.multi() {
            buffer.m.planes = planes.as_mut_ptr();
            #[expect(clippy::cast_possible_truncation, reason = "8")]
            let count = MAX_PLANES as u32;
            buffer.length = count;
        }
        // SAFETY: the planes live until the call is over, which is as long as the kernel looks
        // at them; user pointers are the caller's promise.
        unsafe { sys::call_raw(self.fd(), request, buffer) }
    }
}

impl CaptureDevice for KernelDevice {
    fn capability(&self) -> Result<Capability, Errno> {
        Ok(self.capability.clone())
    }

    fn formats(&self) -> Result<Vec<CameraFormat>, Errno> {
        self.list_formats()
    }

    fn format(&self) -> Result<PixFormat, Errno> {
        let mut format = sys::zeroed::<raw::v4l2_format>();
        format.type_ = self.buf_type();
        sys::call(self.fd(), &sys::G_FMT, &mut format)?;
        Ok(from_raw(&format, self.multi()))
    }

    fn set_format(&mut self, asked: &PixFormat) -> Result<PixFormat, Errno> {
        let mut format = sys::zeroed::<raw::v4l2_format>();
        format.type_ = self.buf_type();
        let field = raw::v4l2_field_V4L2_FIELD_NONE;
        if self.multi() {
            // SAFETY: the structure is all zeros, a value of this variant.
            let pix = unsafe { &mut format.fmt.pix_mp };
            (pix.width, pix.height) = (asked.width, asked.height);
            (pix.pixelformat, pix.field) = (asked.fourcc.into(), field);
        } else {
            // SAFETY: likewise.
            let pix = unsafe { &mut format.fmt.pix };
            (pix.width, pix.height) = (asked.width, asked.height);
            (pix.pixelformat, pix.field) = (asked.fourcc.into(), field);
        }
        sys::call(self.fd(), &sys::S_FMT, &mut format)?;
        Ok(from_raw(&format, self.multi()))
    }

    fn set_rate(&mut self, fps: Option<f64>) -> Result<Option<f64>, Errno> {
        let mut parm = sys::zeroed::<raw::v4l2_streamparm>();
        parm.type_ = self.buf_type();
        match sys::call(self.fd(), &sys::G_PARM, &mut parm) {
            Ok(()) => {}
            Err(Errno::NOTTY | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        // SAFETY: a capture type; integers.
        let can = unsafe { parm.parm.capture.capability } & raw::V4L2_CAP_TIMEPERFRAME != 0;
        if let Some(fps) = fps.filter(|fps| can && fps.is_finite() && *fps > 0.0) {
            // SAFETY: as above.
            let capture = unsafe { &mut parm.parm.capture };
            capture.timeperframe = interval(fps);
            match sys::call(self.fd(), &sys::S_PARM, &mut parm) {
                Ok(()) | Err(Errno::NOTTY | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        // SAFETY: as above.
        Ok(per_second(unsafe { parm.parm.capture.timeperframe }))
    }

    fn request(&mut self, memory: Memory, count: u32) -> Result<u32, Errno> {
        let mut request = sys::zeroed::<raw::v4l2_requestbuffers>();
        (request.count, request.type_) = (count, self.buf_type());
        request.memory = self.buffer(memory, 0).0.memory;
        sys::call(self.fd(), &sys::REQBUFS, &mut request)?;
        Ok(request.count)
    }

    fn map(&mut self, index: u32) -> Result<Vec<Mapping>, Errno> {
        let (mut buffer, mut planes) = self.buffer(Memory::Mmap, index);
        // SAFETY: no user pointers.
        unsafe { self.with_planes(&sys::QUERYBUF, &mut buffer, &mut planes)? };
        map_all(self.fd(), &buffer, self.multi().then_some(&planes))
    }

    fn queue_mapped(&mut self, index: u32) -> Result<(), Errno> {
        let (mut buffer, mut planes) = self.buffer(Memory::Mmap, index);
        // Without the number of planes of this very format the kernel refuses none: it takes
        // what the queue has.
        // SAFETY: no user pointers.
        unsafe { self.with_planes(&sys::QBUF, &mut buffer, &mut planes) }
    }

    unsafe fn queue_user(&mut self, index: u32, start: *mut u8, len: usize) -> Result<(), Errno> {
        let (mut buffer, mut planes) = self.buffer(Memory::UserPtr, index);
        let len = u32::try_from(len).map_err(|_| Errno::OVERFLOW)?;
        let address = start.expose_provenance() as libc::c_ulong;
        if self.multi() {
            planes[0].m.userptr = address;
            planes[0].length = len;
        } else {
            buffer.m.userptr = address;
            buffer.length = len;
        }
        // SAFETY: the caller's promise.
        unsafe { self.with_planes(&sys::QBUF, &mut buffer, &mut planes) }
    }

    fn dequeue(&mut self, memory: Memory) -> Result<Dequeued, Errno> {
        let (mut buffer, mut planes) = self.buffer(memory, 0);
        // SAFETY: the kernel only writes here.
        unsafe { self.with_planes(&sys::DQBUF, &mut buffer, &mut planes)? };
        let part = |from: u32, to: u32| (from as usize, to as usize);
        let used = if self.multi() {
            let count = usize::try_from(buffer.length).unwrap_or(MAX_PLANES);
            planes
                .iter()
                .take(count)
                .map(|plane| part(plane.data_offset, plane.bytesused))
                .collect()
        } else {
            std::iter::once(part(0, buffer.bytesused)).collect()
        };
        let monotonic = buffer.flags & raw::V4L2_BUF_FLAG_TIMESTAMP_MASK
            == raw::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        #[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
        let (s, us) = (
            i64::from(buffer.timestamp.tv_sec),
            i64::from(buffer.timestamp.tv_usec),
        );
        let stamp_ns = s
            .saturating_mul(1_000_000_000)
            .saturating_add(us.saturating_mul(1_000));
        Ok(Dequeued {
            index: buffer.index,
            used,
            error: buffer.flags & raw::V4L2_BUF_FLAG_ERROR != 0,
            monotonic_ns: (monotonic && stamp_ns > 0).then_some(stamp_ns),
            sequence: buffer.sequence,
        })
    }

    fn start(&mut self) -> Result<(), Errno> {
        sys::call(
            self.fd(),
            &sys::STREAMON,
            &mut self.buf_type().cast_signed(),
        )
    }

    fn stop(&mut self) -> Result<(), Errno> {
        sys::call(
            self.fd(),
            &sys::STREAMOFF,
            &mut self.buf_type().cast_signed(),
        )
    }

    fn poll(&mut self, limit_ms: i32) -> Result<Ready, Errno> {
        sys::poll(self.fd(), limit_ms)
    }

    fn source_changed(&mut self) -> Result<bool, Errno> {
        let mut changed = false;
        for _ in 0..MANY {
            let mut event = sys::zeroed::<raw::v4l2_event>();
            match sys::call(self.fd(), &sys::DQEVENT, &mut event) {
                Ok(()) => changed |= event.type_ == raw::V4L2_EVENT_SOURCE_CHANGE,
                Err(Errno::NOENT | Errno::AGAIN | Errno::NOTTY | Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(changed)
    }

    fn controls(&self) -> Result<Vec<ControlInfo>, Errno> {
        self.list_controls()
    }

    fn set_control(&mut self, id: u32, value: i64) -> Result<(), Errno> {
        self.write_control(id, value)
    }
}

/// Which interface these capabilities have, or what the device is instead.
fn planes_of(caps: u32, driver: &str) -> Result<Planes, &'static str> {
    let has = |cap: u32| caps & cap != 0;
    if has(raw::V4L2_CAP_VIDEO_M2M) || has(raw::V4L2_CAP_VIDEO_M2M_MPLANE) {
        return Err("a codec or converter, from memory to memory");
    }
    // Image processors of the Raspberry Pi, whose input is another of their nodes.
    if ["bcm2835-isp", "pispbe"].contains(&driver) {
        return Err("an image processor, which needs a camera stack");
    }
    let multi = has(raw::V4L2_CAP_VIDEO_CAPTURE_MPLANE);
    if !multi && !has(raw::V4L2_CAP_VIDEO_CAPTURE) {
        return Err(if has(raw::V4L2_CAP_META_CAPTURE) {
            "the metadata of a camera; its pictures come from another node"
        } else if has(raw::V4L2_CAP_VIDEO_OUTPUT) || has(raw::V4L2_CAP_VIDEO_OUTPUT_MPLANE) {
            "an output"
        } else {
            "without video capture"
        });
    }
    if !has(raw::V4L2_CAP_STREAMING) {
        return Err("a camera without streaming, which only `read` could serve");
    }
    Ok(if multi { Planes::Multi } else { Planes::Single })
}

pub(super) fn from_raw(format: &raw::v4l2_format, multi: bool) -> PixFormat {
    if multi {
        // SAFETY: the variant of the type; integers. The structure is packed: copied.
        let pix = unsafe { format.fmt.pix_mp };
        let count = usize::from(pix.num_planes).clamp(1, MAX_PLANES);
        let planes = pix.plane_fmt;
        return PixFormat {
            fourcc: pix.pixelformat.into(),
            width: pix.width,
            height: pix.height,
            planes: planes[..count]
                .iter()
                .map(|p| PlaneFormat {
                    stride: p.bytesperline,
                    bytes: p.sizeimage,
                })
                .collect(),
            colorspace: pix.colorspace,
            // SAFETY: two names of one integer.
            ycbcr_enc: unsafe { pix.__bindgen_anon_1.ycbcr_enc }.into(),
            quantization: pix.quantization.into(),
            field: pix.field,
        };
    }
    // SAFETY: the variant of the type; integers.
    let pix = unsafe { format.fmt.pix };
    // Before the fields behind `priv` existed, they held anything.
    let extended = pix.priv_ == raw::V4L2_PIX_FMT_PRIV_MAGIC;
    PixFormat {
        fourcc: pix.pixelformat.into(),
        width: pix.width,
        height: pix.height,
        planes: vec![PlaneFormat {
            stride: pix.bytesperline,
            bytes: pix.sizeimage,
        }],
        colorspace: pix.colorspace,
        ycbcr_enc: if extended {
            // SAFETY: two names of one integer.
            unsafe { pix.__bindgen_anon_1.ycbcr_enc }
        } else {
            0
        },
        quantization: if extended { pix.quantization } else { 0 },
        field: pix.field,
    }
}

/// Maps the memory of an MMAP buffer that `QUERYBUF` has filled in: of its planes, if it has any.
pub(super) fn map_all(
    fd: BorrowedFd<'_>,
    buffer: &raw::v4l2_buffer,
    planes: Option<&[raw::v4l2_plane; MAX_PLANES]>,
) -> Result<Vec<Mapping>, Errno> {
    let map = |offset: u32, len: u32| {
        let len = usize::try_from(len).map_err(|_| Errno::OVERFLOW)?;
        Mapping::new(fd, offset.into(), len)
    };
    let Some(planes) = planes else {
        // SAFETY: an MMAP buffer has an offset.
        return Ok(vec![map(unsafe { buffer.m.offset }, buffer.length)?]);
    };
    let count = usize::try_from(buffer.length).unwrap_or(MAX_PLANES);
    planes
        .iter()
        .take(count)
        // SAFETY: as above.
        .map(|plane| map(unsafe { plane.m.mem_offset }, plane.length))
        .collect()
}

/// The interval of a rate, as a fraction drivers recognise: 1/30 and 1001/30000, not 333333/10⁷.
pub(super) fn interval(fps: f64) -> raw::v4l2_fract {
    let near = |numerator: u32| {
        let denominator = (fps * f64::from(numerator)).round();
        let off = (denominator / f64::from(numerator) - fps).abs();
        (off < fps * 1e-4 && (1.0..=4e9).contains(&denominator)).then_some((numerator, denominator))
    };
    let (numerator, denominator) = near(1)
        .or_else(|| near(2))
        .or_else(|| near(1001))
        .unwrap_or((1000, (fps * 1000.0).round().clamp(1.0, 4e9)));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped"
    )]
    let denominator = denominator as u32;
    raw::v4l2_fract {
        numerator,
        denominator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_the_fractions_drivers_list() {
        for (fps, numerator, denominator) in [
            (30.0, 1, 30),
            (29.97, 1001, 30000),
            (7.5, 2, 15),
            (59.94, 1001, 60000),
            (0.1, 1000, 100),
        ] {
            let i = interval(fps);
            assert_eq!(
                (i.numerator, i.denominator),
                (numerator, denominator),
                "{fps}"
            );
        }
    }

    #[test]
    fn a_node_is_a_camera_only_if_pictures_are_captured_from_it() {
        let streaming = raw::V4L2_CAP_STREAMING;
        let single = raw::V4L2_CAP_VIDEO_CAPTURE | streaming;
        assert_eq!(planes_of(single, "uvcvideo"), Ok(Planes::Single));
        let multi = raw::V4L2_CAP_VIDEO_CAPTURE_MPLANE | streaming;
        assert_eq!(planes_of(multi, "vivid"), Ok(Planes::Multi));
        assert!(planes_of(single, "bcm2835-isp").is_err());
        assert!(planes_of(raw::V4L2_CAP_META_CAPTURE | streaming, "uvcvideo").is_err());
        assert!(planes_of(raw::V4L2_CAP_VIDEO_M2M_MPLANE | streaming, "codec").is_err());
        assert!(planes_of(raw::V4L2_CAP_VIDEO_CAPTURE, "old").is_err());
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let no = |path: &str| KernelDevice::open(Path::new(path)).err().unwrap();
        assert_eq!(no("/dev/video-none"), NotOpened::Errno(Errno::NOENT));
        assert!(matches!(no("/dev/null"), NotOpened::NotCapture(_)));
    }
}
