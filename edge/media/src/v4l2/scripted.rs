//! A camera that does what a script says, with any errno, and that notices whoever touches a
//! buffer it has.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use v4l::FourCC;
use visualpath_core::{Clock, ManualClock};
use visualpath_frames::FramePool;

use super::bus::{Bus, Opened};
use super::device::{Capability, CaptureDevice, Dequeued, Memory, PixFormat, PlaneFormat};
use super::identity::{Identity, Links, Places};
use super::look;
use super::sys::{Mapping, Ready};
use crate::devices::{
    CameraFormat, CameraSize, ControlInfo, ControlKind, DeviceError, Planes, Rates, SizeRange,
};

/// One picture's interval.
pub(super) const INTERVAL_NS: i64 = 40_000_000;
pub(super) const SIZE: (u32, u32) = (64, 48);

/// What the camera does at the next `poll`; a picture when the script is over.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Picture,
    /// With the error flag.
    Damaged,
    /// Fewer bytes than a picture.
    Short,
    /// The sequence goes on without a picture.
    Skips(u32),
    PollError,
    PollGone,
    /// Nothing, for so long.
    Silence(i64),
    /// `poll` says that there is a picture and DQBUF says this.
    Dequeue(Errno),
    /// `poll` fails.
    Poll(Errno),
    /// The next QBUF fails.
    Queue(Errno),
    /// The next STREAMON, S_FMT, REQBUFS, open fails (after the device was opened again).
    Start(Errno),
    SetFormat(Errno),
    Request(Errno),
    Open(Errno),
    /// The next STREAMOFF fails.
    Stop(Errno),
    /// DQBUF names a buffer it never had.
    Nonsense,
    /// Unplugged, and back after so long under another node.
    Unplugged(i64),
    /// The event: another input format.
    SourceChange,
    /// From now on S_FMT answers with this size.
    Resized(u32, u32),
    /// Another program set another format as soon as we stopped; then the stream breaks.
    Reformatted(u32, u32),
}

/// Everything there is outside the process.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) script: VecDeque<Step>,
    pub(super) formats: Vec<CameraFormat>,
    pub(super) controls: Vec<ControlInfo>,
    pub(super) userptr: bool,
    pub(super) card: String,
    pub(super) node: PathBuf,
    size: (u32, u32),
    /// S_FMT of another program, in force at the next G_FMT of a fresh start.
    foreign: Option<(u32, u32)>,
    format: Option<PixFormat>,
    away_until_ns: Option<i64>,
    fail_start: Option<Errno>,
    fail_set_format: Option<Errno>,
    fail_request: Option<Errno>,
    pub(super) fail_open: VecDeque<Errno>,
    fail_queue: Option<Errno>,
    fail_stop: Option<Errno>,
    pub(super) opens: usize,
    pub(super) closes: usize,
    pub(super) starts: usize,
    pub(super) sequence: u32,
    streaming: bool,
    stop_tried: bool,
    mapped: Vec<Arc<OwnedFd>>,
    /// What the driver has, in order: index and, of a user's, address and length.
    pub(super) has: VecDeque<(u32, Option<(usize, usize)>)>,
    done: VecDeque<Dequeued>,
    dequeue: Option<Errno>,
    pub(super) violations: Vec<String>,
    pub(super) set: BTreeMap<u32, i64>,
    /// The pool whose slots are lent.
    pub(super) pool: Option<FramePool>,
}

/// A handle on the world; the bus and every open device have one.
#[derive(Clone)]
pub(super) struct Shared(pub(super) Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(clock: Arc<ManualClock>, fourccs: &[&str]) -> Self {
        let format = |fourcc: &&str| CameraFormat {
            fourcc: (*fourcc).to_owned(),
            description: String::new(),
            compressed: false,
            usable: true,
            sizes: vec![CameraSize {
                size: SizeRange::Discrete {
                    width: SIZE.0,
                    height: SIZE.1,
                },
                fps: Rates::Listed(vec![25.0]),
            }],
        };
        Self(Arc::new(Mutex::new(World {
            clock,
            script: VecDeque::new(),
            formats: fourccs.iter().map(format).collect(),
            controls: vec![ControlInfo {
                name: "gain".into(),
                id: 7,
                kind: ControlKind::Integer,
                min: 0,
                max: 100,
                step: 1,
                default: 0,
                value: Some(0),
                menu: Vec::new(),
                read_only: false,
                inactive: false,
            }],
            userptr: true,
            card: "Scripted".into(),
            node: "/dev/video0".into(),
            size: SIZE,
            foreign: None,
            format: None,
            away_until_ns: None,
            fail_start: None,
            fail_set_format: None,
            fail_request: None,
            fail_open: VecDeque::new(),
            fail_queue: None,
            fail_stop: None,
            opens: 0,
            closes: 0,
            starts: 0,
            sequence: 100,
            streaming: false,
            stop_tried: false,
            mapped: Vec::new(),
            has: VecDeque::new(),
            done: VecDeque::new(),
            dequeue: None,
            violations: Vec::new(),
            set: BTreeMap::new(),
            pool: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The bytes of picture `sequence`.
pub(super) fn picture(sequence: u32) -> u8 {
    u8::try_from(sequence % 251).unwrap()
}

impl World {
    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    fn present(&mut self) -> bool {
        if self.away_until_ns.is_some_and(|t| self.clock.now_ns() >= t) {
            self.away_until_ns = None;
        }
        self.away_until_ns.is_none()
    }

    fn alive(&mut self) -> Result<(), Errno> {
        if self.present() {
            Ok(())
        } else {
            Err(Errno::NODEV)
        }
    }

    /// The driver forgets every buffer. Until now nobody may have had them back.
    fn let_go(&mut self) {
        let lent = self.has.iter().filter(|(_, user)| user.is_some()).count();
        // A probe lends a slot of a pool of its own, and streams nothing.
        if let Some(pool) = self.pool.as_ref().filter(|_| self.streaming)
            && pool.available() + lent > pool.layout().slots()
        {
            self.violation("slots were freed while the driver had them".into());
        }
        self.streaming = false;
        self.has.clear();
        self.done.clear();
        self.dequeue = None;
    }

    fn bytes(&self) -> usize {
        let format = self.format.as_ref().unwrap();
        format.planes[0].bytes as usize
    }

    /// A picture into the first buffer it has.
    fn capture(&mut self, error: bool, short: bool) -> bool {
        self.sequence = self.sequence.wrapping_add(1);
        let Some((index, user)) = self.has.pop_front() else {
            return false;
        };
        let encoded = self.format.as_ref().unwrap().fourcc == FourCC::new(b"MJPG");
        let content = if encoded {
            jpeg(picture(self.sequence))
        } else {
            vec![picture(self.sequence); self.bytes()]
        };
        let used = if short {
            content.len() / 2
        } else {
            content.len()
        };
        match user {
            Some((address, len)) => {
                assert!(content.len() <= len, "a slot smaller than a picture");
                // SAFETY: whoever queued it promised that it is ours until it is dequeued.
                let to = unsafe {
                    std::slice::from_raw_parts_mut(
                        std::ptr::with_exposed_provenance_mut::<u8>(address),
                        len,
                    )
                };
                to[..content.len()].copy_from_slice(&content);
            }
            None => {
                let file = File::from(self.mapped[index as usize].try_clone().unwrap());
                file.write_all_at(&content, 0).unwrap();
            }
        }
        self.done.push_back(Dequeued {
            index,
            used: [(0, used)].into_iter().collect(),
            error,
            monotonic_ns: Some(self.clock.now_ns()),
            sequence: self.sequence,
        });
        true
    }

    fn format_of(&self, fourcc: FourCC, (width, height): (u32, u32)) -> PixFormat {
        // A stride longer than a row, as drivers have.
        let stride = width + 32;
        let bytes = match &fourcc.repr {
            b"YUYV" => (width * 2 + 32) * height,
            b"MJPG" => 20_000,
            _ => stride * height * 3 / 2,
        };
        let stride = match &fourcc.repr {
            b"YUYV" => width * 2 + 32,
            b"MJPG" => 0,
            _ => stride,
        };
        PixFormat {
            planes: vec![PlaneFormat { stride, bytes }],
            ..PixFormat::asked(fourcc, width, height)
        }
    }
}

/// A grey JPEG.
pub(super) fn jpeg(value: u8) -> Vec<u8> {
    let pixels = vec![value; (SIZE.0 * SIZE.1 * 3) as usize];
    let layout = visualpath_core::ImageLayout::packed(
        visualpath_core::PixelFormat::Rgb,
        SIZE.0,
        SIZE.1,
        visualpath_core::ColorSpec::default(),
    );
    let meta = visualpath_core::FrameMeta {
        frame_id: 0,
        t_ns: 0,
        epoch: 0,
        layout,
    };
    let view = visualpath_core::FrameView {
        meta,
        layout,
        roi: visualpath_core::Roi::FULL,
        pixels: &pixels,
    };
    crate::jpeg::encode(&view, 90).unwrap()
}

/// The scripted machine.
pub(super) struct ScriptedBus(pub(super) Shared);

impl Bus for ScriptedBus {
    fn open(&mut self, identity: &mut Identity) -> Result<Opened, DeviceError> {
        let mut world = self.0.lock();
        let failed = world.fail_open.pop_front();
        if let Some(errno) = failed.or((!world.present()).then_some(Errno::NOENT)) {
            drop(world);
            return Err(self.failure(&identity.asked, "opening it", errno));
        }
        let capability = Capability {
            card: world.card.clone(),
            driver: "scripted".into(),
            bus_info: "bus".into(),
            planes: Planes::Single,
        };
        if !identity.is(&capability, &Links::default()) {
            drop(world);
            return Err(self.failure(&identity.asked, "opening it", Errno::NOENT));
        }
        identity.learn(&world.node.clone(), &capability, Links::default());
        world.opens += 1;
        world.stop_tried = false;
        let node = world.node.clone();
        drop(world);
        let device = Box::new(ScriptedDevice(self.0.clone()));
        Ok(Opened { node, device })
    }

    fn wait(&mut self, limit: Duration) -> bool {
        let limit = i64::try_from(limit.as_nanos()).unwrap();
        self.0.lock().clock.advance(limit);
        false
    }

    fn monotonic_ns(&self) -> i64 {
        self.0.lock().clock.now_ns()
    }

    fn failure(&self, node: &Path, what: &str, errno: Errno) -> DeviceError {
        let nowhere = Places {
            dev: "/nowhere".into(),
            sys: "/nowhere".into(),
            proc: "/nowhere".into(),
        };
        look::failure(&nowhere, node, what, errno)
    }

    fn instead(&self, _: &str, _: &str) -> String {
        "libcamera:0".into()
    }
}

/// One open handle.
struct ScriptedDevice(Shared);

impl Drop for ScriptedDevice {
    fn drop(&mut self) {
        let mut world = self.0.lock();
        world.closes += 1;
        world.let_go();
    }
}

/// Tells when a buffer is unmapped.
struct Witness(Shared, u32);

impl Drop for Witness {
    fn drop(&mut self) {
        let mut world = self.0.lock();
        let has = world.has.iter().any(|(index, _)| *index == self.1);
        if has && world.streaming && !world.stop_tried {
            let text = format!("buffer {} unmapped while the driver has it", self.1);
            world.violation(text);
        }
    }
}

impl ScriptedDevice {
    fn queue(&self, index: u32, user: Option<(usize, usize)>) -> Result<(), Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        let twice = world.has.iter().any(|(i, _)| *i == index)
            || world.done.iter().any(|done| done.index == index);
        let overlaps = user.is_some_and(|(start, len)| {
            world
                .has
                .iter()
                .any(|(_, other)| other.is_some_and(|(s, l)| s < start + len && start < s + l))
        });
        if twice || overlaps {
            let text = format!("buffer {index} queued while the driver has it or its memory");
            world.violation(text);
        }
        if let Some(errno) = world.fail_queue.take() {
            return Err(errno);
        }
        world.has.push_back((index, user));
        Ok(())
    }
}

impl CaptureDevice for ScriptedDevice {
    fn capability(&self) -> Result<Capability, Errno> {
        Ok(Capability {
            card: self.0.lock().card.clone(),
            driver: "scripted".into(),
            bus_info: "bus".into(),
            planes: Planes::Single,
        })
    }

    fn formats(&self) -> Result<Vec<CameraFormat>, Errno> {
        self.0.lock().alive()?;
        Ok(self.0.lock().formats.clone())
    }

    fn format(&self) -> Result<PixFormat, Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        if let Some(size) = world.foreign.take() {
            let fourcc = world.format.as_ref().unwrap().fourcc;
            world.format = Some(world.format_of(fourcc, size));
        }
        Ok(world.format.clone().unwrap())
    }

    fn set_format(&mut self, asked: &PixFormat) -> Result<PixFormat, Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        if let Some(errno) = world.fail_set_format.take() {
            return Err(errno);
        }
        if world.streaming || !world.has.is_empty() {
            return Err(Errno::BUSY);
        }
        let format = world.format_of(asked.fourcc, world.size);
        world.format = Some(format.clone());
        Ok(format)
    }

    fn set_rate(&mut self, fps: Option<f64>) -> Result<Option<f64>, Errno> {
        self.0.lock().alive()?;
        Ok(fps)
    }

    fn request(&mut self, memory: Memory, count: u32) -> Result<u32, Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        if let Some(errno) = world.fail_request.take() {
            return Err(errno);
        }
        if memory == Memory::UserPtr && !world.userptr {
            return Err(Errno::INVAL);
        }
        world.let_go();
        world.mapped = (0..count)
            .map(|_| {
                let fd = rustix::fs::memfd_create("buffer", MemfdFlags::CLOEXEC).unwrap();
                rustix::fs::ftruncate(&fd, 65_536).unwrap();
                Arc::new(fd)
            })
            .collect();
        Ok(count)
    }

    fn map(&mut self, index: u32) -> Result<Vec<Mapping>, Errno> {
        let fd = Arc::clone(&self.0.lock().mapped[index as usize]);
        let mut mapping = Mapping::new(fd.as_fd(), 0, 65_536)?;
        mapping.witness = Some(Box::new(Witness(self.0.clone(), index)));
        Ok(vec![mapping])
    }

    fn queue_mapped(&mut self, index: u32) -> Result<(), Errno> {
        self.queue(index, None)
    }

    unsafe fn queue_user(&mut self, index: u32, start: *mut u8, len: usize) -> Result<(), Errno> {
        self.queue(index, Some((start.expose_provenance(), len)))
    }

    fn dequeue(&mut self, _: Memory) -> Result<Dequeued, Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        if let Some(errno) = world.dequeue.take() {
            return Err(errno);
        }
        world.done.pop_front().ok_or(Errno::AGAIN)
    }

    fn start(&mut self) -> Result<(), Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        if let Some(errno) = world.fail_start.take() {
            return Err(errno);
        }
        world.streaming = true;
        world.stop_tried = false;
        world.starts += 1;
        // Many drivers count anew.
        world.sequence = 0;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        let mut world = self.0.lock();
        world.stop_tried = true;
        world.alive()?;
        if let Some(errno) = world.fail_stop.take() {
            return Err(errno);
        }
        world.let_go();
        Ok(())
    }

    fn poll(&mut self, limit_ms: i32) -> Result<Ready, Errno> {
        let mut world = self.0.lock();
        let frame = Ready {
            frame: true,
            ..Ready::default()
        };
        let gone = Ready {
            event: true,
            error: true,
            gone: true,
            ..Ready::default()
        };
        if !world.present() {
            return Ok(gone);
        }
        if !world.streaming {
            world.violation("polled while not streaming".into());
        }
        if !world.done.is_empty() {
            return Ok(frame);
        }
        let limit_ns = i64::from(limit_ms) * 1_000_000;
        let step = world.script.pop_front().unwrap_or(Step::Picture);
        let (mut damaged, mut short) = (false, false);
        match step {
            Step::Silence(ns) => {
                world.clock.advance(limit_ns);
                if ns > limit_ns {
                    world.script.push_front(Step::Silence(ns - limit_ns));
                }
                return Ok(Ready::default());
            }
            Step::PollError => {
                return Ok(Ready {
                    error: true,
                    ..Ready::default()
                });
            }
            Step::PollGone => {
                return Ok(Ready {
                    gone: true,
                    ..Ready::default()
                });
            }
            Step::Poll(errno) => return Err(errno),
            Step::Dequeue(errno) => {
                world.dequeue = Some(errno);
                return Ok(frame);
            }
            Step::Nonsense => {
                world.done.push_back(Dequeued {
                    index: 77,
                    used: [(0, usize::MAX)].into_iter().collect(),
                    error: false,
                    monotonic_ns: Some(i64::MIN),
                    sequence: u32::MAX,
                });
                return Ok(frame);
            }
            Step::Unplugged(ns) => {
                world.away_until_ns = Some(world.clock.now_ns() + ns);
                let number = world.opens;
                world.node = format!("/dev/video{number}").into();
                return Ok(gone);
            }
            Step::SourceChange => {
                return Ok(Ready {
                    event: true,
                    ..Ready::default()
                });
            }
            Step::Resized(width, height) => world.size = (width, height),
            Step::Reformatted(width, height) => {
                world.foreign = Some((width, height));
                return Err(Errno::IO);
            }
            Step::Skips(pictures) => world.sequence = world.sequence.wrapping_add(pictures),
            Step::Queue(errno) => world.fail_queue = Some(errno),
            Step::Start(errno) => world.fail_start = Some(errno),
            Step::SetFormat(errno) => world.fail_set_format = Some(errno),
            Step::Request(errno) => world.fail_request = Some(errno),
            Step::Open(errno) => world.fail_open.push_back(errno),
            Step::Stop(errno) => world.fail_stop = Some(errno),
            Step::Damaged => damaged = true,
            Step::Short => short = true,
            Step::Picture => {}
        }
        world.clock.advance(INTERVAL_NS);
        let captured = world.capture(damaged, short);
        Ok(if captured { frame } else { Ready::default() })
    }

    fn source_changed(&mut self) -> Result<bool, Errno> {
        self.0.lock().alive()?;
        Ok(true)
    }

    fn controls(&self) -> Result<Vec<ControlInfo>, Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        Ok(world.controls.clone())
    }

    fn set_control(&mut self, id: u32, value: i64) -> Result<(), Errno> {
        let mut world = self.0.lock();
        world.alive()?;
        world.set.insert(id, value);
        Ok(())
    }
}
