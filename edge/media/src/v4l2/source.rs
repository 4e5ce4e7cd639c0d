//! A camera as a [`Source`]: opened, streaming, away and back again.
//!
//! ```text
//! Away ──opened, set up──▶ Ready ──a pool that fits──▶ Running
//!  ▲                         │                            │
//!  └── can't be had ─────────┴──── recovery table ────────┘
//! ```

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use visualpath_core::{Clock, ColorSpec, ImageLayout, Name, PixelFormat};
use visualpath_frames::FramePool;

use super::bus::{Bus, Machine, Opened};
use super::device::{CaptureDevice, Memory};
use super::identity::Identity;
use super::negotiate::DEFAULT_SIZE;
use super::packets::Decoding;
use super::rate::{self, RateWatch};
use super::recovery::{Action, Phase, action};
use super::run::Running;
use super::setup::{self, Plan};
use super::stream::{Failed, Stream};
use crate::devices::{DeviceError, Wanted};
use crate::source::file::same_bytes;
use crate::source::live::LiveTimeline;
use crate::source::publish::{Losses, Publisher};
use crate::source::{
    Controls, EndInfo, GapCause, Needs, Outage, Source, SourceError, SourceEvent, SourceInfo,
    SourceOptions, Start, StopFlag,
};

/// A device that is away is looked for this often, and whenever something is plugged in.
const LOOK_NS: i64 = 250_000_000;
/// An outage that takes longer is told.
const TELL_NS: i64 = 1_000_000_000;
/// So many refused slots, each within so many frames of the last, and the driver is not asked
/// again.
const MAX_REFUSALS: u32 = 3;
const SOON_FRAMES: u64 = 250;
/// Between two looks at the stop flag.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// See the module's text.
pub(crate) struct CameraSource {
    pub(super) name: Name,
    pub(super) wanted: Wanted,
    controls: Controls,
    pub(super) needs: Needs,
    pub(super) is_private: bool,
    threads: u32,
    pub(super) bus: Box<dyn Bus>,
    identity: Identity,
    pub(super) info: SourceInfo,
    /// The info is a guess: no device was seen yet.
    provisional: bool,
    pub(super) timeline: LiveTimeline,
    pub(super) publisher: Publisher,
    pub(super) losses: Losses,
    pub(super) rate: RateWatch,
    state: State,
    /// Since the last frame something went wrong.
    outage: Option<Trouble>,
    /// Decided, but something else has to be reported first.
    pub(super) told: VecDeque<SourceEvent>,
    pub(super) delivered: u64,
    /// The driver said no to memory it had accepted when asked.
    no_userptr: bool,
    /// How often it did lately, and at which frame.
    refused: u32,
    refused_at: u64,
}

enum State {
    /// No device; looked for at this source time.
    Away {
        look_at_ns: i64,
    },
    /// Set up; starts with the next call's pool.
    Ready(Box<Ready>),
    Running(Box<Running>),
    Ended,
}

struct Ready {
    node: PathBuf,
    device: Box<dyn CaptureDevice>,
    plan: Plan,
}

/// What went wrong since the last frame.
struct Trouble {
    since_ns: i64,
    cause: GapCause,
    outage: Outage,
    /// [`SourceEvent::Offline`] was given.
    told: bool,
}

impl CameraSource {
    /// Opens the camera `opts.uri` names. One that is absent or busy is waited for.
    ///
    /// # Errors
    /// What waiting does not mend: no permission, no camera, no format.
    pub(crate) fn open(opts: &SourceOptions, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        Self::on(Box::new(Machine::new()), opts, clock)
    }

    pub(super) fn on(
        bus: Box<dyn Bus>,
        opts: &SourceOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SourceError> {
        let wanted = Wanted {
            format: opts.format,
            size: opts.width.zip(opts.height),
            fps: opts.fps,
        };
        let uri = opts.uri.as_str();
        let path = uri
            .strip_prefix("file://")
            .or(uri.strip_prefix("file:"))
            .unwrap_or(uri);
        let identity = Identity::of(Path::new(path));
        let (width, height) = wanted.size.unwrap_or(DEFAULT_SIZE);
        let guess = ImageLayout::packed(PixelFormat::Nv12, width, height, ColorSpec::default());
        let mut source = Self {
            name: opts.name.clone(),
            wanted,
            controls: opts.controls.clone(),
            needs: Needs::default(),
            is_private: !opts.privacy.is_empty(),
            threads: opts.decode_threads,
            bus,
            identity,
            info: SourceInfo::new(guess, format!("waiting for {path}")),
            provisional: true,
            timeline: LiveTimeline::new(clock),
            publisher: Publisher::new(opts),
            losses: Losses::default(),
            rate: RateWatch::new(None),
            state: State::Away {
                look_at_ns: i64::MIN,
            },
            outage: None,
            told: VecDeque::new(),
            delivered: 0,
            no_userptr: false,
            refused: 0,
            refused_at: 0,
        };
        match source.acquire() {
            Ok(ready) => {
                source.info = source.info_of(&ready.plan);
                source.provisional = false;
                source.state = State::Ready(Box::new(ready));
            }
            Err(error) if error.may_pass() => source.away(&error, GapCause::Disconnected, 0),
            Err(error) => return Err(SourceError::Device(error)),
        }
        Ok(source)
    }

    /// Opens and sets up the device.
    fn acquire(&mut self) -> Result<Ready, DeviceError> {
        let Opened { node, device } = self.bus.open(&mut self.identity)?;
        self.prepare(node, device)
    }

    fn prepare(
        &mut self,
        node: PathBuf,
        device: Box<dyn CaptureDevice>,
    ) -> Result<Ready, DeviceError> {
        let (mut device, plan) =
            setup::set_up(&*self.bus, &node, device, &self.wanted, self.no_userptr)?;
        let mut controls = self.controls.clone();
        controls.extend(self.needs.controls.clone());
        setup::apply_controls(&node, &mut *device, &controls);
        Ok(Ready { node, device, plan })
    }

    pub(super) fn info_of(&self, plan: &Plan) -> SourceInfo {
        let info = plan.info();
        SourceInfo {
            encoded: info.encoded.filter(|_| !self.is_private),
            ..info
        }
    }

    /// The device is set up again: tells of its format if that is another one.
    fn ready(&mut self, ready: Ready) {
        tracing::info!(source = %self.name, device = %ready.node.display(), "{}", ready.plan.description);
        let mut info = self.info_of(&ready.plan);
        if info.encoded.is_some() && info.encoded == self.info.encoded && !self.provisional {
            // What the decoder makes of its packets is only known with the first of them.
            info.layout = self.info.layout;
        }
        let differs = info.layout != self.info.layout
            || info.native_room != self.info.native_room
            || info.driver_slots != self.info.driver_slots
            || info.encoded != self.info.encoded;
        if differs || self.provisional {
            self.told.push_back(SourceEvent::NewFormat(info.clone()));
        }
        self.info = info;
        self.provisional = false;
        self.state = State::Ready(Box::new(ready));
    }

    /// Begins to stream into `pool`.
    fn start(&mut self, ready: Ready, pool: &FramePool) -> Result<(), SourceError> {
        let Ready { node, device, plan } = ready;
        self.check(&node, pool)?;
        let memory = if plan.memory == Memory::UserPtr && pool.layout().native_room() < plan.room {
            tracing::warn!(
                source = %self.name,
                room = pool.layout().native_room(),
                needed = plan.room,
                "the slots are too small for the driver; each picture is copied"
            );
            Memory::Mmap
        } else {
            plan.memory
        };
        let unchanged = device.format().is_ok_and(|now| {
            (now.fourcc, now.width, now.height, &now.planes)
                == (
                    plan.format.fourcc,
                    plan.format.width,
                    plan.format.height,
                    &plan.format.planes,
                )
        });
        if !unchanged {
            tracing::info!(source = %self.name, "another program has changed the camera's format");
            drop(device);
            self.lost(GapCause::Stalled, "its format was changed", "nothing to do");
            return Ok(());
        }
        let now_ns = self.timeline.now_ns();
        let started = Stream::new(device, memory, plan.buffers).and_then(|mut stream| {
            stream.feed(pool)?;
            stream.start()?;
            Ok(stream)
        });
        match started {
            Ok(stream) => {
                self.rate.restart(plan.fps);
                let decoding = Decoding::new(&plan, self.needs.at_least, self.threads);
                let running = Running::new(node, stream, plan, decoding, now_ns);
                self.state = State::Running(Box::new(running));
            }
            Err(failed) => self.failed(&node, failed),
        }
        Ok(())
    }

    /// The pool must be for what the source gives.
    pub(super) fn check(&self, node: &Path, pool: &FramePool) -> Result<(), SourceError> {
        let have = pool.layout().native();
        if same_bytes(&self.info.layout, have) {
            return Ok(());
        }
        Err(SourceError::Slot {
            file: node.to_owned(),
            need: self.info.layout.bytes(),
            have: have.bytes(),
        })
    }

    /// Acts on a failed call, or another sign, by the table. The stream is closed by now, or is
    /// about to be dropped by the caller.
    fn failed(&mut self, node: &Path, failed: Failed) {
        let errno = setup::errno_of(&failed);
        let error = self.bus.failure(node, failed.what, errno);
        self.refusals(failed.phase, errno);
        match action(failed.phase, failed.sign) {
            Action::Retry | Action::DropPicture | Action::Reopen | Action::Renegotiate => {
                self.stalled(&error);
            }
            Action::Gone => self.away(&error, GapCause::Disconnected, 0),
            Action::Wait => self.away(&error, GapCause::Stalled, LOOK_NS),
        }
    }

    /// A driver may take the slots it was asked about and refuse others. Once is an accident, of
    /// which opening again is the cure; a habit is an answer.
    fn refusals(&mut self, phase: Phase, errno: Errno) {
        let about_memory = [Errno::INVAL, Errno::FAULT, Errno::NOMEM, Errno::OPNOTSUPP];
        if phase != Phase::Queueing || !about_memory.contains(&errno) || self.no_userptr {
            return;
        }
        let soon = self.delivered.saturating_sub(self.refused_at) < SOON_FRAMES;
        self.refused = if soon { self.refused + 1 } else { 1 };
        self.refused_at = self.delivered;
        if self.refused >= MAX_REFUSALS {
            tracing::warn!(source = %self.name, %errno, "the driver does not write into frames after all; each picture is copied");
            self.no_userptr = true;
        }
    }

    /// Opened again at once if there was a frame since the last time, else soon.
    fn stalled(&mut self, error: &DeviceError) {
        let wait_ns = if self.outage.is_some() { LOOK_NS } else { 0 };
        let (detail, advice) = said(error);
        self.lost_for(GapCause::Stalled, detail, advice, wait_ns);
    }

    fn lost(&mut self, cause: GapCause, detail: &str, advice: &str) {
        let wait_ns = if self.outage.is_some() { LOOK_NS } else { 0 };
        self.lost_for(cause, detail.to_owned(), advice.to_owned(), wait_ns);
    }

    /// The device can't be had: said at once.
    fn away(&mut self, error: &DeviceError, cause: GapCause, wait_ns: i64) {
        let (detail, advice) = said(error);
        self.lost_for(cause, detail, advice, wait_ns);
        self.tell();
    }

    fn lost_for(&mut self, cause: GapCause, detail: String, advice: String, wait_ns: i64) {
        let first_look = self.provisional && self.delivered == 0;
        // Source time begins with the first `next`.
        let now_ns = if first_look
            && matches!(
                self.state,
                State::Away {
                    look_at_ns: i64::MIN
                }
            ) {
            i64::MIN
        } else {
            self.timeline.now_ns()
        };
        tracing::warn!(source = %self.name, cause = cause.as_str(), "{detail}; {advice}");
        let outage = Outage { detail, advice };
        match &mut self.outage {
            // The newest reason is the one that still holds.
            Some(trouble) => {
                if trouble.told && trouble.outage != outage {
                    self.told.push_back(SourceEvent::Offline(outage.clone()));
                }
                trouble.outage = outage;
                if cause == GapCause::Disconnected {
                    trouble.cause = cause;
                }
            }
            None => {
                self.outage = Some(Trouble {
                    since_ns: now_ns,
                    cause,
                    outage,
                    told: false,
                });
                if self.delivered > 0 {
                    self.gap(0, now_ns, cause);
                    self.timeline.new_epoch();
                }
            }
        }
        self.state = State::Away {
            look_at_ns: now_ns.saturating_add(wait_ns),
        };
    }

    /// Says that the source is offline, once per outage.
    fn tell(&mut self) {
        if let Some(trouble) = self.outage.as_mut().filter(|t| !t.told) {
            trouble.told = true;
            self.told
                .push_back(SourceEvent::Offline(trouble.outage.clone()));
        }
    }

    /// An outage goes on: told when it has taken a second, and its gap in pieces of a second.
    fn goes_on(&mut self) {
        let now_ns = self.timeline.now_ns();
        let Some(trouble) = &self.outage else { return };
        let cause = trouble.cause;
        if now_ns.saturating_sub(trouble.since_ns) > TELL_NS {
            self.tell();
        }
        if self.delivered > 0 {
            let reported = self.losses.lose_many(0, now_ns, cause);
            self.told.extend(reported.map(SourceEvent::Gap));
        }
    }

    /// Counts lost pictures.
    pub(super) fn gap(&mut self, lost: u64, t_ns: i64, cause: GapCause) {
        let reported = self.losses.lose_many(lost, t_ns, cause);
        self.told.extend(reported.map(SourceEvent::Gap));
    }

    /// A frame is there: what was wrong is over. To be called before the frame counts as
    /// delivered.
    pub(super) fn came(&mut self, t_ns: i64) {
        let trouble = self.outage.take();
        if self.delivered == 0 || trouble.as_ref().is_some_and(|t| t.told) {
            self.told.push_back(SourceEvent::Online);
        }
        if let Some(trouble) = trouble.filter(|_| self.delivered > 0) {
            self.gap(0, t_ns, trouble.cause);
        }
    }

    /// Looks for the device when it is time to.
    fn look(&mut self, look_at_ns: i64) {
        let now_ns = self.timeline.now_ns();
        if now_ns < look_at_ns {
            self.goes_on();
            if self.told.is_empty() && self.bus.wait(SLICE) {
                self.state = State::Away { look_at_ns: now_ns };
            }
            return;
        }
        match self.acquire() {
            Ok(ready) => self.ready(ready),
            Err(error) => {
                let same = |t: &Trouble| t.outage.detail == said(&error).0;
                if !self.outage.as_ref().is_some_and(same) {
                    let cause = self
                        .outage
                        .as_ref()
                        .map_or(GapCause::Disconnected, |t| t.cause);
                    let (detail, advice) = said(&error);
                    self.lost_for(cause, detail, advice, LOOK_NS);
                }
                self.state = State::Away {
                    look_at_ns: now_ns.saturating_add(LOOK_NS),
                };
                self.tell();
            }
        }
    }

    fn turn(&mut self, pool: &FramePool) -> Result<(), SourceError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Ok(()),
            State::Away { look_at_ns } => {
                self.state = State::Away { look_at_ns };
                self.look(look_at_ns);
                Ok(())
            }
            State::Ready(ready) => self.start(*ready, pool),
            State::Running(mut running) => {
                if self.outage.is_some() {
                    self.goes_on();
                }
                match running.step(self, pool) {
                    Ok(()) => {
                        self.state = State::Running(running);
                        Ok(())
                    }
                    Err(super::run::Stop::Failed(failed)) => {
                        self.broken(*running, failed);
                        Ok(())
                    }
                    Err(super::run::Stop::Fatal(error)) => Err(error),
                }
            }
        }
    }

    /// The stream is of no more use.
    fn broken(&mut self, running: Running, failed: Failed) {
        let inside = running.inside();
        if inside > 0 {
            let now_ns = self.timeline.now_ns();
            self.gap(inside, now_ns, GapCause::Undecodable);
        }
        let (node, stream) = running.into_parts();
        if action(failed.phase, failed.sign) != Action::Renegotiate {
            // Everything is given back before anything else is done.
            drop(stream);
            return self.failed(&node, failed);
        }
        let kept = stream.stop();
        self.failed(&node, failed);
        let Some(device) = kept else { return };
        match self.prepare(node, device) {
            Ok(ready) => self.ready(ready),
            Err(error) => self.away(&error, GapCause::Stalled, LOOK_NS),
        }
    }

    /// A rate that is far too low is said, with what helps.
    pub(super) fn watch_rate(&mut self, captured: u64, t_ns: i64, stream: &mut Stream) {
        let Some(fps) = self.rate.captured(captured, t_ns) else {
            return;
        };
        let asked = self.info.nominal_fps.unwrap_or_default();
        let dynamic = stream
            .device()
            .ok()
            .and_then(|device| device.controls().ok())
            .is_some_and(|controls| {
                controls
                    .iter()
                    .any(|c| c.name == "exposure_dynamic_framerate" && c.value == Some(1))
            });
        tracing::warn!(
            source = %self.name,
            "the camera gives {fps:.1} of {asked:.1} pictures a second; {}",
            rate::cure(dynamic)
        );
    }

    fn end(&self) -> SourceEvent {
        SourceEvent::End(EndInfo {
            frames: self.delivered,
            lost: self.losses.total(),
            last_t_ns: self.timeline.last_ns(),
        })
    }

    fn close(&mut self) {
        self.state = State::Ended;
        self.told.clear();
    }
}

/// What an error says, and what it says to do.
fn said(error: &DeviceError) -> (String, String) {
    let text = error.to_string();
    match text.split_once("; ") {
        Some((detail, advice)) => (detail.to_owned(), advice.to_owned()),
        None => (
            text,
            "it is opened again; if that goes on, see `dmesg`, its cable and its power".to_owned(),
        ),
    }
}

impl Source for CameraSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn begin(&mut self, start: Start) {
        self.timeline.begin(start);
    }

    fn adjust(&mut self, needs: &Needs) {
        let changed = self.needs.controls != needs.controls;
        self.needs = needs.clone();
        let (node, device) = match &mut self.state {
            State::Ready(ready) => (ready.node.as_path(), &mut ready.device),
            State::Running(running) => {
                running.at_least(needs.at_least);
                let (node, stream) = running.parts();
                match stream.device() {
                    Ok(device) => (node, device),
                    Err(_) => return,
                }
            }
            State::Away { .. } | State::Ended => return,
        };
        if changed {
            setup::apply_controls(node, &mut **device, &needs.controls);
        }
    }

    fn next(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, SourceError> {
        if matches!(self.state, State::Ended) {
            return Ok(self.end());
        }
        // Source time begins with the first call.
        self.timeline.now_ns();
        loop {
            if stop.is_set() {
                self.close();
                return Ok(SourceEvent::Stopped);
            }
            if let Some(event) = self.told.pop_front() {
                return Ok(event);
            }
            if let Err(error) = self.turn(pool) {
                self.close();
                return Err(error);
            }
        }
    }
}
