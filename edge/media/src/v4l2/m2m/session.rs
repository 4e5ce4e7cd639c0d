//! The two queues of an encoder: pictures in, coded ones out.
//!
//! **Order.** Formats (coded first, raw second), controls, buffers, all coded buffers queued, both
//! queues started: the kernel's own order. A buffer belongs to the driver from QBUF until DQBUF names
//! it, or STREAMOFF; its memory is reached through [`Buffers`] only, which knows.
//!
//! **Whose packet is it.** A raw buffer's time stamp is copied to the coded buffer; stamps are
//! strictly increasing microseconds, so one names one picture. What was queued before a picture that
//! came out, and did not come out itself, is lost, and counted.
//!
//! **Waiting.** After each picture is queued its coded one is waited for: nothing else is there to
//! do, and the evidence is whole at every instant. A driver that wants more pictures before it gives
//! the first, or that swallows one, is found out by waiting [`HOLDS_BACK_MS`] in vain, and from then
//! on may keep one more inside. With all its buffers in use, [`STALL_MS`] without any buffer is a
//! failure.

use std::collections::VecDeque;

use rustix::io::Errno;
use v4l::FourCC;
use v4l::v4l_sys as raw;
use visualpath_core::ColorSpec;

use super::M2mError;
use super::device::{Asked, CodecDevice, Done, Filled, Queue};
use super::raw::{KNOWN, Places};
use crate::encode::i420::Picture;
use crate::source::v4l2::device::PixFormat;
use crate::source::v4l2::formats::text;
use crate::source::v4l2::sys::Mapping;

/// Asked for of each queue; the driver may give others.
const BUFFERS: u32 = 4;
/// One wait.
const STEP_MS: i32 = 50;
/// See the module's text.
pub(super) const HOLDS_BACK_MS: i32 = 300;
/// See the module's text. A 4K picture takes a slow encoder a tenth of it.
pub(super) const STALL_MS: i32 = 2000;
/// Macroblocks of level 4.0 (H.264 table A-1): per second and per picture.
const LEVEL_4_0: (f64, u32) = (245_760.0, 8_192);

/// What comes out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coding {
    pub(super) fourcc: FourCC,
    /// Whether a buffer holds a picture; otherwise it is a header.
    pub(super) has_picture: fn(&[u8]) -> bool,
}

/// What is asked of the encoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) coding: Coding,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) color: ColorSpec,
    pub(super) bits_per_s: u32,
    /// Distance of key pictures.
    pub(super) gop_frames: u32,
    pub(super) fps: f64,
}

/// A coded picture, or a header of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coded {
    /// Of the picture; of a header, whatever the driver says.
    pub(super) stamp_us: i64,
    pub(super) data: Vec<u8>,
    pub(super) has_picture: bool,
    /// The driver says that it is a key picture.
    pub(super) is_key: bool,
}

/// See the module's text.
pub(super) struct Session {
    device: Box<dyn CodecDevice>,
    places: Places,
    raws: Buffers,
    codeds: Buffers,
    has_picture: fn(&[u8]) -> bool,
    /// It makes key pictures when told to.
    pub(super) can_force: bool,
    /// What it does not do, of what was asked.
    pub(super) refused: Vec<&'static str>,
    /// Stamps of the pictures that did not come out yet.
    inside: VecDeque<i64>,
    /// How many may be inside without being waited for.
    lag: usize,
    /// The last one of a drained stream came out.
    ended: bool,
    out: VecDeque<Coded>,
    lost: u64,
}

impl Session {
    /// Sets the device up and starts it.
    pub(super) fn begin(
        mut device: Box<dyn CodecDevice>,
        wanted: &Wanted,
    ) -> Result<Self, M2mError> {
        let places = set_formats(device.as_mut(), wanted)?;
        if let Err(errno) = device.set_rate(wanted.fps) {
            tracing::debug!(device = %device.name(), %errno, "the encoder takes no rate");
        }
        let (can_force, refused) = set_controls(device.as_mut(), wanted);
        let raws = Buffers::new(device.as_mut(), Queue::Raw)?;
        let codeds = Buffers::new(device.as_mut(), Queue::Coded)?;
        let mut session = Self {
            device,
            places,
            raws,
            codeds,
            has_picture: wanted.coding.has_picture,
            can_force,
            refused,
            inside: VecDeque::new(),
            lag: 0,
            ended: false,
            out: VecDeque::new(),
            lost: 0,
        };
        while let Some(index) = session.codeds.free() {
            session.queue(Queue::Coded, index, &Filled::default())?;
        }
        for queue in [Queue::Raw, Queue::Coded] {
            let started = session.device.start(queue);
            started.map_err(|e| session.failed("starting it (STREAMON)", e))?;
        }
        Ok(session)
    }

    /// The node and its driver.
    pub(super) fn device(&self) -> String {
        self.device.name()
    }

    /// Pictures that did not come out yet.
    pub(super) fn inside(&self) -> usize {
        self.inside.len()
    }

    /// Pictures that never will; since this was last asked.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// What came out, in order.
    pub(super) fn pop(&mut self) -> Option<Coded> {
        self.out.pop_front()
    }

    /// Queues a picture and waits for what is to come out of it. Stamps increase strictly.
    pub(super) fn submit(
        &mut self,
        picture: &Picture<'_>,
        stamp_us: i64,
        force_key: bool,
    ) -> Result<(), M2mError> {
        let index = self.free_raw()?;
        let places = &self.places;
        let written = self
            .raws
            .write(index, |memory| places.write(picture, memory));
        if written.is_none() {
            let what = format!(
                "its buffers are too small for a picture of {}x{}",
                picture.width, picture.height
            );
            return Err(self.broken(what));
        }
        if force_key && self.can_force {
            self.device
                .set_control(raw::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME, 1)
                .map_err(|e| self.failed("forcing a key picture", e))?;
        }
        let mut filled = Filled {
            stamp_us,
            ..Filled::default()
        };
        for (to, bytes) in filled.bytes.iter_mut().zip(&self.places.bytes) {
            *to = *bytes;
        }
        self.queue(Queue::Raw, index, &filled)?;
        self.inside.push_back(stamp_us);
        self.settle()
    }

    /// Everything inside comes out; nothing goes in any more.
    pub(super) fn drain(&mut self) -> Result<(), M2mError> {
        match self.device.drain() {
            Ok(()) => {
                let mut waited_ms = 0;
                while !self.ended {
                    self.wait(&mut waited_ms)?;
                    if waited_ms >= STALL_MS {
                        return Err(self.stalled());
                    }
                }
            }
            // A driver without the command can only be waited for.
            Err(Errno::NOTTY | Errno::INVAL) => {
                let mut waited_ms = 0;
                while !self.inside.is_empty() && waited_ms < HOLDS_BACK_MS {
                    self.wait(&mut waited_ms)?;
                }
            }
            Err(e) => return Err(self.failed("draining it (ENC_CMD_STOP)", e)),
        }
        self.lost += self.inside.drain(..).count() as u64;
        Ok(())
    }

    /// Waits until no more is inside than the driver is known to keep.
    fn settle(&mut self) -> Result<(), M2mError> {
        let mut waited_ms = 0;
        while self.inside.len() > self.lag {
            self.wait(&mut waited_ms)?;
            if waited_ms >= HOLDS_BACK_MS && self.lag + 1 < self.raws.len() {
                (self.lag, waited_ms) = (self.lag + 1, 0);
                tracing::info!(device = %self.device(), pictures = self.lag, "the encoder holds pictures back");
            } else if waited_ms >= STALL_MS {
                return Err(self.stalled());
            }
        }
        Ok(())
    }

    fn free_raw(&mut self) -> Result<u32, M2mError> {
        let mut waited_ms = 0;
        loop {
            if let Some(index) = self.raws.free() {
                return Ok(index);
            }
            self.wait(&mut waited_ms)?;
            if waited_ms >= STALL_MS {
                return Err(self.stalled());
            }
        }
    }

    /// Waits for any buffer; adds to `waited_ms` if there is none, and clears it if there is.
    fn wait(&mut self, waited_ms: &mut i32) -> Result<(), M2mError> {
        if self.collect()? {
            *waited_ms = 0;
            return Ok(());
        }
        let ready = self
            .device
            .poll(STEP_MS)
            .map_err(|e| self.failed("waiting for it (poll)", e))?;
        if ready.gone {
            return Err(self.failed("waiting for it (poll)", Errno::NODEV));
        }
        if self.collect()? {
            *waited_ms = 0;
        } else if ready.error {
            return Err(self.broken("it signals an error".to_owned()));
        } else {
            *waited_ms += STEP_MS;
        }
        Ok(())
    }

    /// Takes back every buffer the driver is done with; whether there was any.
    fn collect(&mut self) -> Result<bool, M2mError> {
        let mut any = false;
        for _ in 0..self.raws.len() {
            let Some(done) = self.dequeue(Queue::Raw)? else {
                break;
            };
            any = true;
            self.take_back(Queue::Raw, &done)?;
        }
        for _ in 0..self.codeds.len() {
            if self.ended {
                break;
            }
            let Some(done) = self.dequeue(Queue::Coded)? else {
                break;
            };
            any = true;
            self.take_back(Queue::Coded, &done)?;
            self.coded(&done)?;
            if self.ended {
                break;
            }
            self.queue(Queue::Coded, done.index, &Filled::default())?;
        }
        Ok(any)
    }

    fn coded(&mut self, done: &Done) -> Result<(), M2mError> {
        self.ended |= done.last;
        if done.error {
            return Err(self.broken("a coded picture is damaged".to_owned()));
        }
        let data = self.codeds.read(done).map(<[u8]>::to_vec);
        let Some(data) = data else {
            return Err(self.broken("a coded picture is larger than its buffer".to_owned()));
        };
        if data.is_empty() {
            if done.last {
                return Ok(());
            }
            return Err(self.broken("it gave an empty picture".to_owned()));
        }
        let has_picture = (self.has_picture)(&data);
        if has_picture {
            let place = self.inside.iter().position(|s| *s == done.stamp_us);
            let Some(place) = place else {
                let stamp = done.stamp_us;
                let what =
                    format!("a coded picture has time stamp {stamp} µs, which no picture had");
                return Err(self.broken(what));
            };
            self.lost += self.inside.drain(..=place).count() as u64 - 1;
        }
        self.out.push_back(Coded {
            stamp_us: done.stamp_us,
            data,
            has_picture,
            is_key: done.is_key,
        });
        Ok(())
    }

    fn dequeue(&mut self, queue: Queue) -> Result<Option<Done>, M2mError> {
        match self.device.dequeue(queue) {
            Ok(done) => Ok(Some(done)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::PIPE) if queue == Queue::Coded => {
                self.ended = true;
                Ok(None)
            }
            Err(e) => Err(self.failed("taking a buffer (DQBUF)", e)),
        }
    }

    fn take_back(&mut self, queue: Queue, done: &Done) -> Result<(), M2mError> {
        let buffers = match queue {
            Queue::Raw => &mut self.raws,
            Queue::Coded => &mut self.codeds,
        };
        if buffers.take_back(done.index) {
            return Ok(());
        }
        let what = format!("it gave back buffer {}, which it did not have", done.index);
        Err(self.broken(what))
    }

    fn queue(&mut self, queue: Queue, index: u32, filled: &Filled) -> Result<(), M2mError> {
        self.device
            .queue(queue, index, filled)
            .map_err(|e| self.failed("handing it a buffer (QBUF)", e))?;
        match queue {
            Queue::Raw => self.raws.handed(index),
            Queue::Coded => self.codeds.handed(index),
        }
        Ok(())
    }

    fn failed(&self, what: &str, errno: Errno) -> M2mError {
        failed(self.device.as_ref(), what, errno)
    }

    fn broken(&self, what: String) -> M2mError {
        let device = self.device();
        M2mError::Broken { device, what }
    }

    fn stalled(&self) -> M2mError {
        M2mError::Stalled {
            device: self.device(),
            inside: self.inside.len(),
            ms: STALL_MS,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for queue in [Queue::Raw, Queue::Coded] {
            if let Err(errno) = self.device.stop(queue) {
                tracing::debug!(device = %self.device(), %errno, "the encoder was not stopped");
            }
        }
    }
}

fn failed(device: &dyn CodecDevice, what: &str, errno: Errno) -> M2mError {
    M2mError::Failed {
        device: device.name(),
        what: what.to_owned(),
        errno,
    }
}

/// Agrees on both formats; answers where the planes of a picture go.
fn set_formats(device: &mut dyn CodecDevice, wanted: &Wanted) -> Result<Places, M2mError> {
    let Wanted { width, height, .. } = *wanted;
    let set = |device: &mut dyn CodecDevice,
               queue,
               fourcc: FourCC,
               bytes|
     -> Result<PixFormat, M2mError> {
        let asked = Asked {
            fourcc,
            width,
            height,
            bytes,
            color: wanted.color,
        };
        let what = format!("setting {} {width}x{height} (S_FMT)", text(fourcc));
        let got = device
            .set_format(queue, &asked)
            .map_err(|e| failed(device, &what, e))?;
        if got.fourcc == fourcc {
            return Ok(got);
        }
        Err(M2mError::Broken {
            device: device.name(),
            what: format!("asked for {}, it set {}", text(fourcc), text(got.fourcc)),
        })
    };
    // No coded picture is larger than two thirds of the raw one.
    let bytes = width.saturating_mul(height).saturating_add(1 << 16);
    set(device, Queue::Coded, wanted.coding.fourcc, bytes)?;
    let known = device
        .formats(Queue::Raw)
        .map_err(|e| failed(device, "listing its formats", e))?;
    let Some(fourcc) = KNOWN.into_iter().find(|f| known.contains(f)) else {
        return Err(M2mError::Broken {
            device: device.name(),
            what: "it takes none of YU12, YM12, NV12, NM12".to_owned(),
        });
    };
    let raw = set(device, Queue::Raw, fourcc, 0)?;
    let refuse = |device: &dyn CodecDevice, theirs: String| M2mError::Size {
        device: device.name(),
        width,
        height,
        theirs,
    };
    if raw.fourcc != fourcc || raw.width < width || raw.height < height {
        let theirs = format!("{} {}x{}", text(raw.fourcc), raw.width, raw.height);
        return Err(refuse(device, theirs));
    }
    if (raw.width, raw.height) != (width, height) {
        let cropped = device.set_crop(width, height);
        if cropped != Ok((width, height)) {
            let theirs = format!("{}x{} and no part of it", raw.width, raw.height);
            return Err(refuse(device, theirs));
        }
    }
    Places::new(&raw).ok_or_else(|| M2mError::Broken {
        device: device.name(),
        what: format!("its format makes no sense: {raw:?}"),
    })
}

/// Sets what there is to set. Answers whether it makes key pictures when told to, and what it does
/// not do.
fn set_controls(device: &mut dyn CodecDevice, wanted: &Wanted) -> (bool, Vec<&'static str>) {
    let number = |n: u32| i64::from(n);
    let mut set = |id: u32, value: i64| {
        let Ok((least, most)) = device.control_range(id) else {
            return false;
        };
        let value = value.clamp(least, most.max(least));
        let Ok(value) = i32::try_from(value) else {
            return false;
        };
        match device.set_control(id, value) {
            Ok(()) => true,
            Err(errno) => {
                tracing::debug!(device = %device.name(), id, value, %errno, "a control is not taken");
                false
            }
        }
    };
    let can_force = set(raw::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME, 1);
    // Key pictures come by source time; the driver's own count of pictures must not come first.
    let period = number(wanted.gop_frames) * if can_force { 4 } else { 1 };
    // Only drivers with rate control have both.
    set(raw::V4L2_CID_MPEG_VIDEO_FRAME_RC_ENABLE, 1);
    let has_rate = set(raw::V4L2_CID_MPEG_VIDEO_BITRATE, number(wanted.bits_per_s));
    let has_gop = set(raw::V4L2_CID_MPEG_VIDEO_GOP_SIZE, period)
        | set(raw::V4L2_CID_MPEG_VIDEO_H264_I_PERIOD, period);
    set(raw::V4L2_CID_MPEG_VIDEO_B_FRAMES, 0);
    let joined = raw::v4l2_mpeg_video_header_mode_V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME;
    set(raw::V4L2_CID_MPEG_VIDEO_HEADER_MODE, number(joined));
    set(raw::V4L2_CID_MPEG_VIDEO_REPEAT_SEQ_HEADER, 1);
    let high = raw::v4l2_mpeg_video_h264_profile_V4L2_MPEG_VIDEO_H264_PROFILE_HIGH;
    set(raw::V4L2_CID_MPEG_VIDEO_H264_PROFILE, number(high));
    if let Some(level) = level(wanted) {
        set(raw::V4L2_CID_MPEG_VIDEO_H264_LEVEL, number(level));
    }
    let refused = [
        (has_rate, "a bit rate"),
        (can_force, "key pictures by time"),
        (has_gop || can_force, "a distance of key pictures"),
    ];
    let refused = refused.iter().filter(|(has, _)| !has);
    (can_force, refused.map(|(_, what)| *what).collect())
}

/// Drivers begin at level 4.0, which is 1080p30; `None` where that is enough.
fn level(wanted: &Wanted) -> Option<u32> {
    let blocks = wanted.width.div_ceil(16) * wanted.height.div_ceil(16);
    let per_s = f64::from(blocks) * wanted.fps;
    if blocks > LEVEL_4_0.1 {
        Some(raw::v4l2_mpeg_video_h264_level_V4L2_MPEG_VIDEO_H264_LEVEL_5_1)
    } else if per_s > LEVEL_4_0.0 {
        Some(raw::v4l2_mpeg_video_h264_level_V4L2_MPEG_VIDEO_H264_LEVEL_4_2)
    } else {
        None
    }
}

/// The buffers of one queue: their memory, and whose they are.
struct Buffers {
    memory: Vec<Vec<Mapping>>,
    ours: Vec<bool>,
}

impl Buffers {
    fn new(device: &mut dyn CodecDevice, queue: Queue) -> Result<Self, M2mError> {
        let count = device
            .request(queue, BUFFERS)
            .map_err(|e| failed(device, "asking for buffers (REQBUFS)", e))?;
        if count == 0 {
            return Err(M2mError::Broken {
                device: device.name(),
                what: "it has no buffers".to_owned(),
            });
        }
        let memory: Result<Vec<_>, _> = (0..count).map(|i| device.map(queue, i)).collect();
        let memory = memory.map_err(|e| failed(device, "mapping its buffers", e))?;
        let ours = vec![true; memory.len()];
        Ok(Self { memory, ours })
    }

    fn len(&self) -> usize {
        self.ours.len()
    }

    fn free(&self) -> Option<u32> {
        let index = self.ours.iter().position(|ours| *ours)?;
        u32::try_from(index).ok()
    }

    fn handed(&mut self, index: u32) {
        if let Some(ours) = self.ours.get_mut(index as usize) {
            *ours = false;
        }
    }

    /// Whether the driver had it.
    fn take_back(&mut self, index: u32) -> bool {
        match self.ours.get_mut(index as usize) {
            Some(ours) if !*ours => {
                *ours = true;
                true
            }
            _ => false,
        }
    }

    /// Calls with the memory of a buffer that is ours.
    #[allow(unsafe_code)]
    fn write<R>(
        &mut self,
        index: u32,
        write: impl FnOnce(&mut [&mut [u8]]) -> Option<R>,
    ) -> Option<R> {
        let index = index as usize;
        if !*self.ours.get(index)? {
            return None;
        }
        let planes = self.memory.get_mut(index)?.iter_mut();
        // SAFETY: the buffer is ours: the driver gave it back, or never had it.
        let mut planes: Vec<&mut [u8]> = planes.map(|p| unsafe { p.bytes_mut() }).collect();
        write(&mut planes)
    }

    /// The used bytes of a buffer that came back.
    #[allow(unsafe_code)]
    fn read(&self, done: &Done) -> Option<&[u8]> {
        let index = done.index as usize;
        if !*self.ours.get(index)? {
            return None;
        }
        let (from, to) = *done.used.parts().first()?;
        // SAFETY: as in `write`.
        let bytes = unsafe { self.memory.get(index)?.first()?.bytes() };
        bytes.get(from..to.max(from))
    }
}
