//! A file as a source: pictures from a decoder, in order, with their times, into slots.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use visualpath_core::{Clock, FrameMeta, ImageLayout, Name, RateGate};
use visualpath_frames::{Frame, FramePool, SlotMut};

use super::publish::{Losses, Publisher};
use super::timeline::{Pacer, Timeline};
use super::{
    EndInfo, GapCause, Source, SourceError, SourceEvent, SourceInfo, SourceOptions, StopFlag,
};

/// Nominal interval of a file that does not say its rate.
const DEFAULT_INTERVAL_NS: i64 = 40_000_000;

/// Decodes a file, picture by picture, in presentation order.
pub(super) trait Pictures: Send {
    /// What it delivers; changes only by [`Step::NewFormat`].
    fn info(&self) -> &SourceInfo;
    /// Goes to the next picture.
    fn step(&mut self, stop: &StopFlag) -> Result<Step, Fault>;
    /// Puts the current picture into a slot; called at most once per step.
    fn fill(&mut self, slot: &mut SlotMut, stop: &StopFlag) -> Result<(), Fault>;
    /// Back to the first picture.
    fn rewind(&mut self) -> Result<(), SourceError>;
}

/// Where a decoder stands.
pub(super) enum Step {
    /// A picture is there to be filled in, or passed over. `None`: it has no time stamp.
    Picture { pts_ns: Option<i64> },
    /// A picture is lost, but not the place.
    Lost { pts_ns: Option<i64> },
    /// The info has changed; the picture that shows it comes with the next step.
    NewFormat,
    /// No more pictures.
    End {
        /// What was wrong with the file, if anything.
        damage: Option<String>,
    },
}

/// Why a decoder can't go on.
pub(super) enum Fault {
    /// The stop flag.
    Stopped,
    /// This picture's bytes are damaged; the next may be good.
    Undecodable,
    /// The end of it. `frames_delivered` in it is filled in by [`FileSource`].
    Fatal(SourceError),
}

/// A file as a [`Source`].
pub(super) struct FileSource<P> {
    name: Name,
    file: PathBuf,
    realtime: bool,
    loop_: bool,
    clock: Arc<dyn Clock>,
    pictures: P,
    timeline: Timeline,
    /// Pictures it does not admit are passed over: they are not captured, use up no `frame_id`,
    /// and the others keep their times.
    rate: Option<RateGate>,
    pacer: Pacer,
    epoch: u32,
    publisher: Publisher,
    losses: Losses,
    /// Decided, but something else had to be reported first.
    held_back: Option<Frame>,
    delivered: u64,
    in_this_round: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Running,
    /// The last gap is reported; what comes next is known.
    Ending(Option<SourceError>),
    Ended,
}

impl<P: Pictures> FileSource<P> {
    pub(super) fn new(
        opts: &SourceOptions,
        file: PathBuf,
        clock: Arc<dyn Clock>,
        pictures: P,
    ) -> Self {
        let nominal_ns = pictures
            .info()
            .nominal_fps
            .map_or(DEFAULT_INTERVAL_NS, interval_ns);
        Self {
            name: opts.name.clone(),
            file,
            realtime: opts.realtime,
            loop_: opts.loop_,
            clock,
            pictures,
            timeline: Timeline::new(nominal_ns),
            rate: None,
            pacer: Pacer::default(),
            epoch: 0,
            publisher: Publisher::new(opts),
            losses: Losses::default(),
            held_back: None,
            delivered: 0,
            in_this_round: 0,
            state: State::Running,
        }
    }

    /// Captures at most `fps` pictures per second of source time, if given.
    pub(super) fn limited(mut self, fps: Option<f64>) -> Self {
        self.rate = fps.and_then(RateGate::new);
        self
    }

    fn run(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, Fault> {
        loop {
            if stop.is_set() {
                return Err(Fault::Stopped);
            }
            match self.pictures.step(stop)? {
                Step::Picture { pts_ns } => {
                    let (frame_id, t_ns) = self.stamp(pts_ns);
                    if self.rate.as_mut().is_some_and(|rate| !rate.admits(t_ns)) {
                        self.timeline.take_back_id();
                        continue;
                    }
                    if self.realtime && !self.pacer.wait(t_ns, &*self.clock, stop) {
                        return Err(Fault::Stopped);
                    }
                    let Some(mut slot) = self.slot(pool, stop)? else {
                        if let Some(gap) = self.losses.lose(t_ns, GapCause::PoolExhausted) {
                            return Ok(SourceEvent::Gap(gap));
                        }
                        continue;
                    };
                    match self.pictures.fill(&mut slot, stop) {
                        Ok(()) => return Ok(self.publish(pool, slot, frame_id, t_ns)),
                        Err(Fault::Undecodable) => {
                            if let Some(gap) = self.losses.lose(t_ns, GapCause::Undecodable) {
                                return Ok(SourceEvent::Gap(gap));
                            }
                        }
                        Err(fault) => return Err(fault),
                    }
                }
                Step::Lost { pts_ns } => {
                    let (_, t_ns) = self.stamp(pts_ns);
                    if let Some(gap) = self.losses.lose(t_ns, GapCause::Undecodable) {
                        return Ok(SourceEvent::Gap(gap));
                    }
                }
                Step::NewFormat => {
                    self.epoch += 1;
                    return Ok(SourceEvent::NewFormat(self.pictures.info().clone()));
                }
                Step::End { damage } => return self.end_of_round(damage),
            }
        }
    }

    fn stamp(&mut self, pts_ns: Option<i64>) -> (u64, i64) {
        self.in_this_round += 1;
        self.timeline.stamp(pts_ns)
    }

    /// A slot for the current picture; `None` if it has to be dropped.
    fn slot(&self, pool: &FramePool, stop: &StopFlag) -> Result<Option<SlotMut>, Fault> {
        let need = self.pictures.info().layout;
        let have = pool.layout().native();
        if !same_bytes(&need, have) {
            return Err(Fault::Fatal(SourceError::Slot {
                file: self.file.clone(),
                need: need.bytes(),
                have: have.bytes(),
            }));
        }
        if self.realtime {
            return Ok(pool.try_acquire());
        }
        loop {
            if let Some(slot) = pool.acquire_timeout(Duration::from_millis(100)) {
                return Ok(Some(slot));
            }
            if stop.is_set() {
                return Err(Fault::Stopped);
            }
        }
    }

    fn publish(
        &mut self,
        pool: &FramePool,
        slot: SlotMut,
        frame_id: u64,
        t_ns: i64,
    ) -> SourceEvent {
        let meta = FrameMeta {
            frame_id,
            t_ns,
            epoch: self.epoch,
            layout: self.pictures.info().layout,
        };
        let frame = self.publisher.publish(pool, slot, meta);
        self.delivered += 1;
        match self.losses.delivered(t_ns) {
            Some(gap) => {
                self.held_back = Some(frame);
                SourceEvent::Gap(gap)
            }
            None => SourceEvent::Frame(frame),
        }
    }

    fn end_of_round(&mut self, damage: Option<String>) -> Result<SourceEvent, Fault> {
        let empty = self.in_this_round == 0;
        self.in_this_round = 0;
        let error = match damage {
            Some(detail) => Some(SourceError::Damaged {
                file: self.file.clone(),
                frames_delivered: self.delivered,
                detail,
            }),
            None if empty => Some(SourceError::NotAVideo {
                file: self.file.clone(),
                detail: "there is no picture in it".to_owned(),
            }),
            None => None,
        };
        if error.is_none() && self.loop_ {
            self.pictures.rewind().map_err(Fault::Fatal)?;
            self.timeline.wrap();
            // What extractors remember of the file's end says nothing about its beginning.
            self.epoch += 1;
            return Ok(SourceEvent::Wrapped);
        }
        if self.timeline.disordered() > 0 {
            tracing::warn!(
                source = %self.name,
                pictures = self.timeline.disordered(),
                "time stamps did not increase; each was put 1 ns behind the one before"
            );
        }
        self.state = State::Ending(error);
        if let Some(gap) = self.losses.take() {
            return Ok(SourceEvent::Gap(gap));
        }
        self.ending().map_err(Fault::Fatal)
    }

    fn ending(&mut self) -> Result<SourceEvent, SourceError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ending(Some(error)) => Err(error),
            _ => Ok(SourceEvent::End(EndInfo {
                frames: self.delivered,
                lost: self.losses.total(),
                last_t_ns: self.timeline.last_ns(),
            })),
        }
    }
}

impl<P: Pictures> Source for FileSource<P> {
    fn info(&self) -> &SourceInfo {
        self.pictures.info()
    }

    fn begin(&mut self, start: super::Start) {
        self.timeline.begin(start);
        self.epoch = start.epoch;
    }

    fn next(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, SourceError> {
        if !matches!(self.state, State::Running) {
            return self.ending();
        }
        if stop.is_set() {
            self.held_back = None;
            self.state = State::Ended;
            return Ok(SourceEvent::Stopped);
        }
        if let Some(frame) = self.held_back.take() {
            return Ok(SourceEvent::Frame(frame));
        }
        let fault = match self.run(pool, stop) {
            Ok(event) => return Ok(event),
            Err(fault) => fault,
        };
        self.state = State::Ended;
        match fault {
            Fault::Stopped => Ok(SourceEvent::Stopped),
            Fault::Undecodable => Err(SourceError::Damaged {
                file: self.file.clone(),
                frames_delivered: self.delivered,
                detail: "a picture could not be decoded".to_owned(),
            }),
            Fault::Fatal(mut error) => {
                if let SourceError::Damaged {
                    frames_delivered, ..
                }
                | SourceError::Decoder {
                    frames_delivered, ..
                } = &mut error
                {
                    *frames_delivered = self.delivered;
                }
                Err(error)
            }
        }
    }
}

/// Whether a picture of layout `a` may be written as one of layout `b`.
pub(super) fn same_bytes(a: &ImageLayout, b: &ImageLayout) -> bool {
    (a.format, a.width, a.height, a.planes()) == (b.format, b.width, b.height, b.planes())
}

/// Nanoseconds between two pictures at `fps`.
pub(super) fn interval_ns(fps: f64) -> i64 {
    let ns = 1e9 / fps;
    if ns.is_finite() && (1.0..=1e15).contains(&ns) {
        #[expect(clippy::cast_possible_truncation, reason = "within 1..=1e15")]
        let ns = ns.round() as i64;
        ns
    } else {
        DEFAULT_INTERVAL_NS
    }
}
