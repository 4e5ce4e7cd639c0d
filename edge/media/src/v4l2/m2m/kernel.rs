//! The real device: a node of the kernel's V4L2 with both queues, single- or multi-planar.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use v4l::FourCC;
use v4l::v4l_sys as raw;
use visualpath_core::{ColorMatrix, ColorRange};

use super::device::{Asked, CodecDevice, Done, Filled, Queue};
use crate::source::v4l2::device::{MAX_PLANES, PixFormat};
use crate::source::v4l2::kernel::{from_raw, interval, map_all};
use crate::source::v4l2::listing::{MANY, text};
use crate::source::v4l2::sys::{self, Mapping, Ready};

/// One open node.
pub(super) struct KernelCodec {
    fd: OwnedFd,
    multi: bool,
    name: String,
}

type Planes = [raw::v4l2_plane; MAX_PLANES];

impl KernelCodec {
    /// `None` if the node does not go from memory to memory.
    pub(super) fn open(node: &Path) -> Result<Option<Self>, Errno> {
        let fd = sys::open(node)?;
        let mut cap = sys::zeroed::<raw::v4l2_capability>();
        sys::call(fd.as_fd(), &sys::QUERYCAP, &mut cap)?;
        let caps = if cap.capabilities & raw::V4L2_CAP_DEVICE_CAPS == 0 {
            cap.capabilities
        } else {
            cap.device_caps
        };
        let multi = caps & raw::V4L2_CAP_VIDEO_M2M_MPLANE != 0;
        let m2m = multi || caps & raw::V4L2_CAP_VIDEO_M2M != 0;
        let name = format!("{} ({})", node.display(), text(&cap.driver));
        Ok((m2m && caps & raw::V4L2_CAP_STREAMING != 0).then_some(Self { fd, multi, name }))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn buf_type(&self, queue: Queue) -> u32 {
        match (queue, self.multi) {
            (Queue::Raw, false) => raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_OUTPUT,
            (Queue::Raw, true) => raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE,
            (Queue::Coded, false) => raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE,
            (Queue::Coded, true) => raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE,
        }
    }

    fn buffer(&self, queue: Queue, index: u32) -> (raw::v4l2_buffer, Planes) {
        // SAFETY: plain C structures of integers; a null pointer is a value too.
        let (mut buffer, planes): (raw::v4l2_buffer, Planes) = unsafe { std::mem::zeroed() };
        buffer.index = index;
        buffer.type_ = self.buf_type(queue);
        buffer.memory = raw::v4l2_memory_V4L2_MEMORY_MMAP;
        (buffer, planes)
    }

    /// Calls with a buffer whose planes, if it has any, are the ones given.
    fn with_planes(
        &self,
        request: &sys::Request<raw::v4l2_buffer>,
        buffer: &mut raw::v4l2_buffer,
        planes: &mut Planes,
    ) -> Result<(), Errno> {
        if self.multi {
            buffer.m.planes = planes.as_mut_ptr();
            #[expect(clippy::cast_possible_truncation, reason = "8")]
            let count = MAX_PLANES as u32;
            buffer.length = count;
        }
        // SAFETY: the planes live until the call is over, which is as long as the kernel looks
        // at them; all buffers are the driver's own, there are no user pointers.
        unsafe { sys::call_raw(self.fd(), request, buffer) }
    }

    fn format(&self, queue: Queue, asked: &Asked) -> raw::v4l2_format {
        let mut format = sys::zeroed::<raw::v4l2_format>();
        format.type_ = self.buf_type(queue);
        let field = raw::v4l2_field_V4L2_FIELD_NONE;
        let (space, encoding) = match asked.color.matrix {
            ColorMatrix::Bt601 => (
                raw::v4l2_colorspace_V4L2_COLORSPACE_SMPTE170M,
                raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_601,
            ),
            ColorMatrix::Bt709 => (
                raw::v4l2_colorspace_V4L2_COLORSPACE_REC709,
                raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_709,
            ),
        };
        let quantization = match asked.color.range {
            ColorRange::Limited => raw::v4l2_quantization_V4L2_QUANTIZATION_LIM_RANGE,
            ColorRange::Full => raw::v4l2_quantization_V4L2_QUANTIZATION_FULL_RANGE,
        };
        let byte = |n: u32| u8::try_from(n).unwrap_or_default();
        if self.multi {
            // SAFETY: the structure is all zeros, a value of this variant.
            let pix = unsafe { &mut format.fmt.pix_mp };
            (pix.width, pix.height) = (asked.width, asked.height);
            (pix.pixelformat, pix.field) = (asked.fourcc.into(), field);
            (pix.colorspace, pix.quantization) = (space, byte(quantization));
            pix.__bindgen_anon_1.ycbcr_enc = byte(encoding);
            if asked.bytes > 0 {
                pix.num_planes = 1;
                pix.plane_fmt[0].sizeimage = asked.bytes;
            }
        } else {
            // SAFETY: likewise.
            let pix = unsafe { &mut format.fmt.pix };
            (pix.width, pix.height) = (asked.width, asked.height);
            (pix.pixelformat, pix.field) = (asked.fourcc.into(), field);
            pix.priv_ = raw::V4L2_PIX_FMT_PRIV_MAGIC;
            (pix.colorspace, pix.quantization) = (space, quantization);
            pix.__bindgen_anon_1.ycbcr_enc = encoding;
            pix.sizeimage = asked.bytes;
        }
        format
    }
}

impl CodecDevice for KernelCodec {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn formats(&self, queue: Queue) -> Result<Vec<FourCC>, Errno> {
        let mut all = Vec::new();
        for index in 0..MANY {
            let mut format = sys::zeroed::<raw::v4l2_fmtdesc>();
            (format.index, format.type_) = (index, self.buf_type(queue));
            match sys::call(self.fd(), &sys::ENUM_FMT, &mut format) {
                Ok(()) => all.push(FourCC::from(format.pixelformat)),
                Err(Errno::INVAL | Errno::NOTTY) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(all)
    }

    fn set_format(&mut self, queue: Queue, asked: &Asked) -> Result<PixFormat, Errno> {
        let mut format = self.format(queue, asked);
        sys::call(self.fd(), &sys::S_FMT, &mut format)?;
        Ok(from_raw(&format, self.multi))
    }

    fn set_crop(&mut self, width: u32, height: u32) -> Result<(u32, u32), Errno> {
        let mut selection = sys::zeroed::<raw::v4l2_selection>();
        // Selections have one type for both interfaces.
        selection.type_ = raw::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_OUTPUT;
        selection.target = raw::V4L2_SEL_TGT_CROP;
        (selection.r.width, selection.r.height) = (width, height);
        sys::call(self.fd(), &sys::S_SELECTION, &mut selection)?;
        match (selection.r.left, selection.r.top) {
            (0, 0) => Ok((selection.r.width, selection.r.height)),
            _ => Err(Errno::RANGE),
        }
    }

    fn set_rate(&mut self, fps: f64) -> Result<(), Errno> {
        let mut parm = sys::zeroed::<raw::v4l2_streamparm>();
        parm.type_ = self.buf_type(Queue::Raw);
        // SAFETY: the variant of an output type; integers, all zeros.
        unsafe { &mut parm.parm.output }.timeperframe = interval(fps);
        sys::call(self.fd(), &sys::S_PARM, &mut parm)
    }

    fn control_range(&self, id: u32) -> Result<(i64, i64), Errno> {
        let mut query = sys::zeroed::<raw::v4l2_query_ext_ctrl>();
        query.id = id;
        sys::call(self.fd(), &sys::QUERY_EXT_CTRL, &mut query)?;
        if query.flags & raw::V4L2_CTRL_FLAG_DISABLED != 0 {
            return Err(Errno::INVAL);
        }
        Ok((query.minimum, query.maximum))
    }

    fn set_control(&mut self, id: u32, value: i32) -> Result<(), Errno> {
        let mut control = sys::zeroed::<raw::v4l2_control>();
        (control.id, control.value) = (id, value);
        sys::call(self.fd(), &sys::S_CTRL, &mut control)
    }

    fn request(&mut self, queue: Queue, count: u32) -> Result<u32, Errno> {
        let mut request = sys::zeroed::<raw::v4l2_requestbuffers>();
        (request.count, request.type_) = (count, self.buf_type(queue));
        request.memory = raw::v4l2_memory_V4L2_MEMORY_MMAP;
        sys::call(self.fd(), &sys::REQBUFS, &mut request)?;
        Ok(request.count)
    }

    fn map(&mut self, queue: Queue, index: u32) -> Result<Vec<Mapping>, Errno> {
        let (mut buffer, mut planes) = self.buffer(queue, index);
        self.with_planes(&sys::QUERYBUF, &mut buffer, &mut planes)?;
        map_all(self.fd(), &buffer, self.multi.then_some(&planes))
    }

    fn queue(&mut self, queue: Queue, index: u32, filled: &Filled) -> Result<(), Errno> {
        let (mut buffer, mut planes) = self.buffer(queue, index);
        if queue == Queue::Raw {
            buffer.field = raw::v4l2_field_V4L2_FIELD_NONE;
            let (s, us) = (
                filled.stamp_us.div_euclid(1_000_000),
                filled.stamp_us.rem_euclid(1_000_000),
            );
            #[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
            {
                buffer.timestamp.tv_sec = s.try_into().map_err(|_| Errno::OVERFLOW)?;
                buffer.timestamp.tv_usec = us.try_into().map_err(|_| Errno::OVERFLOW)?;
            }
            buffer.bytesused = filled.bytes[0];
            for (plane, bytes) in planes.iter_mut().zip(filled.bytes) {
                plane.bytesused = bytes;
            }
        }
        self.with_planes(&sys::QBUF, &mut buffer, &mut planes)
    }

    fn dequeue(&mut self, queue: Queue) -> Result<Done, Errno> {
        let (mut buffer, mut planes) = self.buffer(queue, 0);
        self.with_planes(&sys::DQBUF, &mut buffer, &mut planes)?;
        let part = |from: u32, to: u32| (from as usize, to as usize);
        let used = if self.multi {
            let count = usize::try_from(buffer.length).unwrap_or(MAX_PLANES);
            planes
                .iter()
                .take(count)
                .map(|plane| part(plane.data_offset, plane.bytesused))
                .collect()
        } else {
            std::iter::once(part(0, buffer.bytesused)).collect()
        };
        #[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
        let (s, us) = (
            i64::from(buffer.timestamp.tv_sec),
            i64::from(buffer.timestamp.tv_usec),
        );
        let has = |flag: u32| buffer.flags & flag != 0;
        Ok(Done {
            index: buffer.index,
            used,
            error: has(raw::V4L2_BUF_FLAG_ERROR),
            last: has(raw::V4L2_BUF_FLAG_LAST),
            is_key: has(raw::V4L2_BUF_FLAG_KEYFRAME),
            stamp_us: s.saturating_mul(1_000_000).saturating_add(us),
        })
    }

    fn start(&mut self, queue: Queue) -> Result<(), Errno> {
        let mut kind = self.buf_type(queue).cast_signed();
        sys::call(self.fd(), &sys::STREAMON, &mut kind)
    }

    fn stop(&mut self, queue: Queue) -> Result<(), Errno> {
        let mut kind = self.buf_type(queue).cast_signed();
        sys::call(self.fd(), &sys::STREAMOFF, &mut kind)
    }

    fn drain(&mut self) -> Result<(), Errno> {
        let mut command = sys::zeroed::<raw::v4l2_encoder_cmd>();
        command.cmd = raw::V4L2_ENC_CMD_STOP;
        sys::call(self.fd(), &sys::ENCODER_CMD, &mut command)
    }

    fn poll(&mut self, limit_ms: i32) -> Result<Ready, Errno> {
        sys::poll_both(self.fd(), limit_ms)
    }
}
