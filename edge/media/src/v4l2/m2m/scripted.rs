//! An encoder that does what a script says, with any errno, and that notices whoever touches a
//! buffer it has. What it gives is real H.264: OpenH264 encodes what lies in its buffers.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use v4l::FourCC;
use v4l::v4l_sys as raw;
use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, PixelFormat};

use super::device::{Asked, CodecDevice, Done, Filled, Queue};
use crate::encode::{Encoder, EncoderOptions, OpenH264, Packet};
use crate::source::v4l2::device::{PixFormat, PlaneFormat};
use crate::source::v4l2::sys::{Mapping, Ready};

/// What becomes of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// With the error flag.
    Damaged,
    /// A buffer without bytes.
    Empty,
    /// It never comes out.
    Swallowed,
    /// Nothing comes out from here on.
    Hangs,
    /// With a stamp that no picture had.
    WrongStamp,
    /// A key picture without parameter sets.
    NoHeader,
    /// Parameter sets in a buffer of their own.
    HeaderApart,
    /// Bytes that are no H.264.
    Nonsense,
    /// The node is gone.
    Gone,
    /// DQBUF names a buffer it never had.
    WrongBuffer,
}

/// What a coded buffer is to hold.
struct Out {
    data: Vec<u8>,
    stamp_us: i64,
    is_key: bool,
    error: bool,
}

pub(super) struct World {
    pub(super) raw_formats: Vec<FourCC>,
    /// Added to the width and height of raw buffers.
    pub(super) pad: (u32, u32),
    pub(super) crops: bool,
    /// With least and most.
    pub(super) controls: BTreeMap<u32, (i64, i64)>,
    pub(super) set: Vec<(u32, i32)>,
    /// By the number of the picture, from the device's first.
    pub(super) faults: BTreeMap<u64, Fault>,
    /// A call fails once, at its nth time.
    pub(super) fail: Option<(&'static str, usize, Errno)>,
    /// Pictures that it keeps.
    pub(super) holds: usize,
    pub(super) drains: bool,
    pub(super) violations: Vec<String>,
    pub(super) opens: usize,
    pub(super) closes: usize,
    pub(super) silent_ms: i32,
    format: Option<PixFormat>,
    visible: (u32, u32),
    memory: BTreeMap<(bool, u32), Arc<File>>,
    has_raw: VecDeque<(u32, Filled)>,
    has_coded: VecDeque<u32>,
    done: [VecDeque<Done>; 2],
    waiting: VecDeque<Out>,
    started: [bool; 2],
    draining: bool,
    ended: bool,
    hangs: bool,
    gone: bool,
    encoder: Option<OpenH264>,
    pictures: u64,
    calls: BTreeMap<&'static str, usize>,
}

/// A handle on the world; every open device has one.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new() -> Self {
        let bits = |most: i64| (0, most);
        Self(Arc::new(Mutex::new(World {
            raw_formats: vec![FourCC { repr: *b"NV12" }, FourCC { repr: *b"YU12" }],
            pad: (0, 0),
            crops: true,
            controls: BTreeMap::from([
                (raw::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME, (0, 0)),
                (raw::V4L2_CID_MPEG_VIDEO_BITRATE, (25_000, 25_000_000)),
                (raw::V4L2_CID_MPEG_VIDEO_H264_I_PERIOD, bits(1000)),
                (raw::V4L2_CID_MPEG_VIDEO_H264_PROFILE, bits(4)),
            ]),
            set: Vec::new(),
            faults: BTreeMap::new(),
            fail: None,
            holds: 0,
            drains: true,
            violations: Vec::new(),
            opens: 0,
            closes: 0,
            silent_ms: 0,
            format: None,
            visible: (0, 0),
            memory: BTreeMap::new(),
            has_raw: VecDeque::new(),
            has_coded: VecDeque::new(),
            done: Default::default(),
            waiting: VecDeque::new(),
            started: [false; 2],
            draining: false,
            ended: false,
            hangs: false,
            gone: false,
            encoder: None,
            pictures: 0,
            calls: BTreeMap::new(),
        })))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn open(&self) -> Box<dyn CodecDevice> {
        let mut world = self.world();
        world.opens += 1;
        assert_eq!(world.opens, world.closes + 1, "opened twice at a time");
        world.has_raw.clear();
        world.has_coded.clear();
        world.done = Default::default();
        world.waiting.clear();
        world.memory.clear();
        (world.started, world.draining, world.ended) = ([false; 2], false, false);
        (world.hangs, world.gone, world.encoder) = (false, false, None);
        drop(world);
        Box::new(Scripted(self.clone()))
    }
}

impl World {
    fn call(&mut self, name: &'static str) -> Result<(), Errno> {
        if self.gone {
            return Err(Errno::NODEV);
        }
        let count = self.calls.entry(name).or_default();
        *count += 1;
        let count = *count;
        match self.fail {
            Some((call, nth, errno)) if call == name && count == nth => {
                self.fail = None;
                Err(errno)
            }
            _ => Ok(()),
        }
    }

    /// Encodes what it has, and fills the buffers it has.
    fn work(&mut self) {
        if self.started != [true; 2] || self.hangs {
            return;
        }
        while let Some((index, filled)) = self.has_raw.pop_front() {
            let number = self.pictures;
            self.pictures += 1;
            let fault = self.faults.get(&number).copied();
            match fault {
                Some(Fault::Hangs) => {
                    self.hangs = true;
                    return;
                }
                Some(Fault::Gone) => {
                    self.gone = true;
                    return;
                }
                _ => {}
            }
            let named = if fault == Some(Fault::WrongBuffer) {
                77
            } else {
                index
            };
            self.done[0].push_back(done(named, 0, filled.stamp_us));
            let packet = self.encode(index, filled.stamp_us);
            self.give(&packet, filled.stamp_us, fault);
        }
        let keeps = if self.draining { 0 } else { self.holds };
        while self.waiting.len() > keeps
            && let Some(index) = self.has_coded.pop_front()
        {
            let Some(out) = self.waiting.pop_front() else {
                break;
            };
            self.memory[&(true, index)]
                .write_all_at(&out.data, 0)
                .unwrap();
            let mut done = done(index, out.data.len(), out.stamp_us);
            (done.is_key, done.error) = (out.is_key, out.error);
            self.done[1].push_back(done);
        }
        if self.draining
            && !self.ended
            && self.waiting.is_empty()
            && let Some(index) = self.has_coded.pop_front()
        {
            self.ended = true;
            self.done[1].push_back(Done {
                last: true,
                ..done(index, 0, 0)
            });
        }
    }

    /// What lies in the visible part of a raw buffer, in YU12.
    fn encode(&mut self, index: u32, stamp_us: i64) -> Packet {
        let format = self.format.clone().unwrap();
        let (stride, height) = (format.planes[0].stride as usize, format.height as usize);
        let places = [
            (0, stride),
            (stride * height, stride / 2),
            (stride * height * 5 / 4, stride / 2),
        ];
        let (w, h) = self.visible;
        let layout =
            ImageLayout::placed(PixelFormat::I420, w, h, ColorSpec::default(), &places).unwrap();
        let mut pixels = vec![0; stride * height * 3 / 2];
        self.memory[&(false, index)]
            .read_exact_at(&mut pixels, 0)
            .unwrap();
        let encoder = self.encoder.get_or_insert_with(|| {
            OpenH264::new(EncoderOptions {
                gop_ns: i64::MAX,
                ..EncoderOptions::default()
            })
        });
        let force = raw::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME;
        if self.set.last().is_some_and(|(id, _)| *id == force) {
            encoder.restart();
            self.set.push((0, 0));
        }
        let meta = FrameMeta {
            frame_id: 0,
            t_ns: stamp_us * 1000,
            epoch: 0,
            layout,
        };
        let mut packets = Vec::new();
        encoder.encode(&meta, &pixels, &mut packets).unwrap();
        packets.pop().unwrap()
    }

    /// As a byte stream.
    fn give(&mut self, packet: &Packet, stamp_us: i64, fault: Option<Fault>) {
        let mut header = Vec::new();
        if packet.is_key && fault != Some(Fault::NoHeader) {
            for set in [&packet.params.sps, &packet.params.pps] {
                header.extend([0, 0, 0, 1]);
                header.extend_from_slice(set);
            }
        }
        let mut out = Out {
            data: Vec::new(),
            stamp_us,
            is_key: packet.is_key,
            error: fault == Some(Fault::Damaged),
        };
        if fault == Some(Fault::HeaderApart) {
            self.waiting.push_back(Out {
                data: std::mem::take(&mut header),
                stamp_us: 0,
                is_key: false,
                error: false,
            });
        }
        out.data.append(&mut header);
        let mut rest = &packet.data[..];
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (nal, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
            out.data.extend([0, 0, 0, 1]);
            out.data.extend_from_slice(nal);
            rest = tail;
        }
        match fault {
            Some(Fault::Swallowed) => return,
            Some(Fault::Empty) => out.data.clear(),
            Some(Fault::Nonsense) => out.data = vec![0, 0, 1, 0x41, 0xFF, 0xFF],
            Some(Fault::WrongStamp) => out.stamp_us += 7,
            _ => {}
        }
        self.waiting.push_back(out);
    }
}

fn done(index: u32, bytes: usize, stamp_us: i64) -> Done {
    Done {
        index,
        used: std::iter::once((0, bytes)).collect(),
        error: false,
        last: false,
        is_key: false,
        stamp_us,
    }
}

struct Scripted(Shared);

impl Drop for Scripted {
    fn drop(&mut self) {
        self.0.world().closes += 1;
    }
}

fn at(queue: Queue) -> usize {
    usize::from(queue == Queue::Coded)
}

impl CodecDevice for Scripted {
    fn name(&self) -> String {
        "/dev/video11 (scripted)".to_owned()
    }

    fn formats(&self, queue: Queue) -> Result<Vec<FourCC>, Errno> {
        let mut world = self.0.world();
        world.call("ENUM_FMT")?;
        Ok(match queue {
            Queue::Raw => world.raw_formats.clone(),
            Queue::Coded => vec![super::H264],
        })
    }

    fn set_format(&mut self, queue: Queue, asked: &Asked) -> Result<PixFormat, Errno> {
        let mut world = self.0.world();
        world.call("S_FMT")?;
        let mut format = PixFormat::asked(asked.fourcc, asked.width, asked.height);
        if queue == Queue::Coded {
            format.planes = vec![PlaneFormat {
                stride: 0,
                bytes: asked.bytes,
            }];
            return Ok(format);
        }
        format.width += world.pad.0;
        format.height += world.pad.1;
        let stride = format.width.next_multiple_of(8);
        format.planes = vec![PlaneFormat {
            stride,
            bytes: stride * format.height * 3 / 2,
        }];
        world.visible = (format.width, format.height);
        world.format = Some(format.clone());
        Ok(format)
    }

    fn set_crop(&mut self, width: u32, height: u32) -> Result<(u32, u32), Errno> {
        let mut world = self.0.world();
        world.call("S_SELECTION")?;
        if world.crops {
            world.visible = (width, height);
        }
        Ok(world.visible)
    }

    fn set_rate(&mut self, _fps: f64) -> Result<(), Errno> {
        self.0.world().call("S_PARM")
    }

    fn control_range(&self, id: u32) -> Result<(i64, i64), Errno> {
        let world = self.0.world();
        world.controls.get(&id).copied().ok_or(Errno::INVAL)
    }

    fn set_control(&mut self, id: u32, value: i32) -> Result<(), Errno> {
        let mut world = self.0.world();
        world.call("S_CTRL")?;
        world.set.push((id, value));
        Ok(())
    }

    fn request(&mut self, queue: Queue, count: u32) -> Result<u32, Errno> {
        let mut world = self.0.world();
        world.call("REQBUFS")?;
        let raw_bytes = world.format.as_ref().map_or(0, |f| f.planes[0].bytes);
        for index in 0..count {
            let file = rustix::fs::memfd_create("codec", MemfdFlags::CLOEXEC)?;
            let bytes = if queue == Queue::Raw {
                raw_bytes
            } else {
                1 << 20
            };
            rustix::fs::ftruncate(&file, bytes.into())?;
            world
                .memory
                .insert((queue == Queue::Coded, index), Arc::new(file.into()));
        }
        Ok(count)
    }

    fn map(&mut self, queue: Queue, index: u32) -> Result<Vec<Mapping>, Errno> {
        let mut world = self.0.world();
        world.call("mmap")?;
        let file = Arc::clone(&world.memory[&(queue == Queue::Coded, index)]);
        let len = usize::try_from(rustix::fs::fstat(&*file)?.st_size).unwrap();
        Ok(vec![Mapping::new(file.as_fd(), 0, len)?])
    }

    fn queue(&mut self, queue: Queue, index: u32, filled: &Filled) -> Result<(), Errno> {
        let mut world = self.0.world();
        world.call("QBUF")?;
        let has = match queue {
            Queue::Raw => world.has_raw.iter().any(|(i, _)| *i == index),
            Queue::Coded => world.has_coded.contains(&index),
        };
        if has || world.done[at(queue)].iter().any(|d| d.index == index) {
            world
                .violations
                .push(format!("{queue:?} buffer {index} was queued twice"));
        }
        match queue {
            Queue::Raw => {
                let need = world.format.as_ref().map_or(0, |f| f.planes[0].bytes);
                if filled.bytes[0] != need {
                    world
                        .violations
                        .push(format!("{} of {need} bytes", filled.bytes[0]));
                }
                if world.draining {
                    world
                        .violations
                        .push("a picture after the drain".to_owned());
                }
                world.has_raw.push_back((index, *filled));
            }
            Queue::Coded => world.has_coded.push_back(index),
        }
        world.work();
        Ok(())
    }

    fn dequeue(&mut self, queue: Queue) -> Result<Done, Errno> {
        let mut world = self.0.world();
        world.call("DQBUF")?;
        world.done[at(queue)].pop_front().ok_or(Errno::AGAIN)
    }

    fn start(&mut self, queue: Queue) -> Result<(), Errno> {
        let mut world = self.0.world();
        world.call("STREAMON")?;
        world.started[at(queue)] = true;
        Ok(())
    }

    fn stop(&mut self, queue: Queue) -> Result<(), Errno> {
        let mut world = self.0.world();
        world.call("STREAMOFF")?;
        world.started[at(queue)] = false;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Errno> {
        let mut world = self.0.world();
        world.call("ENC_CMD")?;
        if !world.drains {
            return Err(Errno::NOTTY);
        }
        world.draining = true;
        world.work();
        Ok(())
    }

    fn poll(&mut self, limit_ms: i32) -> Result<Ready, Errno> {
        let mut world = self.0.world();
        world.call("poll")?;
        let frame = world.done.iter().any(|d| !d.is_empty());
        if !frame {
            world.silent_ms += limit_ms;
        }
        Ok(Ready {
            frame,
            ..Ready::default()
        })
    }
}
