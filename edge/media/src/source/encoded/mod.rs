//! The live encoded source: packets from a connection that may break at any time, kept as evidence
//! and decoded for analysis. What `exec:` and `rtsp://` have in common.
//!
//! ```text
//! Connect ─▶ PacketStream ─ Unit ─▶ stamp ─▶ Packet (evidence)
//!                                     └────▶ Decoder ─▶ slot ─▶ Frame
//! ```
//!
//! | what happens | what is done |
//! |---|---|
//! | packets before the first key packet | dropped; nothing was captured yet |
//! | packets lost on the way (`Missed`) | packets and pictures are dropped up to the next key packet |
//! | a packet can't be decoded (`Undecodable`) | pictures up to the next key packet are lost; evidence goes on |
//! | the decoder dies | a new one from the next key packet on, with back-off |
//! | other parameter sets | a new decoder, `NewFormat` if the pictures differ |
//! | no free slot (`PoolExhausted`) | the picture is dropped |
//! | the connection ends (`Disconnected`), or gives nothing for max(2 s, 10 intervals) (`Stalled`) | closed; `Offline`; connected again with back-off 0.5 → 30 s; new epoch, and a gap before the next frame |
//! | no key packet for 20 s | the same: it may come back with one |
//!
//! Time is never reset: source time is the machine's clock (`live.rs`).

mod backoff;
mod connect;
mod pending;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use visualpath_core::{Clock, ColorSpec, FrameMeta, ImageLayout, Name, PixelFormat};
use visualpath_frames::{FramePool, SlotMut};

use super::file::same_bytes;
use super::live::LiveTimeline;
use super::publish::{Losses, Publisher};
use super::{
    EndInfo, GapCause, Needs, Outage, Source, SourceError, SourceEvent, SourceInfo, SourceOptions,
    Start, StopFlag,
};
use crate::decode::{self, DecodeError, Decoded, Decoder};
use crate::encode::{Codec, CodecParams, Packet};

use backoff::Backoff;
pub(super) use connect::{
    Connect, ConnectError, Incoming, PacketStream, StreamError, Unit, UnitTime,
};
use pending::Pending;

/// Between two looks at the stop flag.
const SLICE: Duration = Duration::from_millis(50);
/// The same while a decoder works on something.
const LATE_SLICE: Duration = Duration::from_millis(4);
/// A connection may take so long to its first pictures: cameras start slowly.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A running one is never given up before this.
const STALL_FLOOR: Duration = Duration::from_secs(2);
/// Without a key packet for so long, the connection is made anew.
const KEY_LIMIT: Duration = Duration::from_secs(20);
/// A connection that held so long worked; the next failure waits the shortest time again.
const PROVEN: Duration = Duration::from_secs(10);
/// Until the first picture says otherwise.
const PROVISIONAL: (u32, u32) = (1280, 720);

/// See the module's text.
pub(super) struct EncodedSource<C> {
    name: Name,
    uri: String,
    connect: C,
    info: SourceInfo,
    timeline: LiveTimeline,
    publisher: Publisher,
    losses: Losses,
    needs: Needs,
    /// Parts of the picture are painted over, and packets can't be.
    is_private: bool,
    threads: u32,
    interval: Option<Duration>,
    link: Link,
    backoff: Backoff,
    decoding: Decoding,
    staged: Option<Staged>,
    /// Decided, but something else had to be reported first.
    told: VecDeque<SourceEvent>,
    is_online: bool,
    /// The outage last told.
    outage: Option<Outage>,
    delivered: u64,
    last_frame_ns: Option<i64>,
}

enum Link {
    Down { retry_at: Instant },
    Up(Up),
    Ended,
}

struct Up {
    stream: Box<dyn PacketStream>,
    since: Instant,
    last_unit: Instant,
    units: u64,
    /// Between two units, smoothed.
    interval: Duration,
    /// Packets are dropped up to the next key packet.
    waits_for_key: bool,
    had_key: bool,
    last_key: Instant,
}

/// What turns packets into pictures, and what is inside it.
#[derive(Default)]
struct Decoding {
    decoder: Option<Box<dyn Decoder>>,
    params: Option<Arc<CodecParams>>,
    pending: Pending,
    /// Pictures are lost up to the next key packet.
    waits_for_key: bool,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

/// A unit that is being worked on, over several calls.
enum Staged {
    Packet {
        packet: Packet,
        pushed: bool,
    },
    Picture {
        layout: ImageLayout,
        frame_id: u64,
        t_ns: i64,
    },
}

impl<C: Connect> EncodedSource<C> {
    /// Connecting begins with the first `next`.
    pub(super) fn new(opts: &SourceOptions, clock: Arc<dyn Clock>, connect: C) -> Self {
        let (width, height) = (
            opts.width.unwrap_or(PROVISIONAL.0),
            opts.height.unwrap_or(PROVISIONAL.1),
        );
        let layout = ImageLayout::packed(PixelFormat::I420, width, height, ColorSpec::default());
        let info = SourceInfo {
            nominal_fps: opts.fps,
            ..SourceInfo::new(layout, connect.describe())
        };
        let asked = opts.fps.filter(|fps| fps.is_finite() && *fps > 0.001);
        Self {
            name: opts.name.clone(),
            uri: opts.uri.clone(),
            connect,
            info,
            timeline: LiveTimeline::new(clock),
            publisher: Publisher::new(opts),
            losses: Losses::default(),
            needs: Needs::default(),
            is_private: !opts.privacy.is_empty(),
            threads: opts.decode_threads,
            interval: asked.map(|fps| Duration::from_secs_f64(1.0 / fps)),
            link: Link::Down {
                retry_at: Instant::now(),
            },
            backoff: Backoff::default(),
            decoding: Decoding::default(),
            staged: None,
            told: VecDeque::new(),
            is_online: false,
            outage: None,
            delivered: 0,
            last_frame_ns: None,
        }
    }

    fn run(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, SourceError> {
        loop {
            if stop.is_set() {
                self.close();
                return Ok(SourceEvent::Stopped);
            }
            if let Some(event) = self.told.pop_front() {
                return Ok(event);
            }
            if let Some(event) = self.work(pool, stop)? {
                return Ok(event);
            }
            if !self.told.is_empty() {
                continue;
            }
            match &self.link {
                Link::Down { retry_at } => {
                    let left = retry_at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        self.connect(stop);
                    } else {
                        std::thread::sleep(left.min(SLICE));
                    }
                }
                Link::Up(_) => self.listen(),
                Link::Ended => return Ok(self.end()),
            }
        }
    }

    fn connect(&mut self, stop: &StopFlag) {
        match self.connect.connect(stop) {
            Ok(stream) => {
                tracing::info!(source = %self.name, "connected to {}", self.connect.describe());
                let now = Instant::now();
                self.link = Link::Up(Up {
                    stream,
                    since: now,
                    last_unit: now,
                    units: 0,
                    interval: Duration::ZERO,
                    waits_for_key: true,
                    had_key: false,
                    last_key: now,
                });
            }
            Err(ConnectError::Stopped) => {}
            Err(ConnectError::Failed(outage)) => self.down(outage, GapCause::Disconnected),
        }
    }

    /// Takes the next unit from the connection.
    fn listen(&mut self) {
        let late = self.decoding.is_late();
        let asked = self.interval;
        let Link::Up(up) = &mut self.link else { return };
        match up.stream.next(if late { LATE_SLICE } else { SLICE }) {
            Ok(Unit::Packet(incoming)) => {
                up.came();
                self.on_packet(incoming);
            }
            Ok(Unit::Picture { layout, time, fps }) => {
                up.came();
                let (frame_id, t_ns) = self.stamp(time);
                if fps.is_some() {
                    self.info.nominal_fps = fps;
                }
                self.online();
                self.staged = Some(Staged::Picture {
                    layout,
                    frame_id,
                    t_ns,
                });
            }
            Ok(Unit::Lost(lost)) => {
                up.came();
                up.waits_for_key = true;
                self.decoding.waits_for_key = true;
                self.timeline.skip(lost);
                let now = self.timeline.now_ns();
                self.lose(lost, now, GapCause::Missed);
            }
            Ok(Unit::Waiting) => {
                if let Some(waited) = up.stalled(asked) {
                    let outage = Outage {
                        detail: format!(
                            "{}: nothing for {:.1} s",
                            self.connect.describe(),
                            waited.as_secs_f64()
                        ),
                        advice: "it is started again; see what it logs".to_owned(),
                    };
                    self.down(outage, GapCause::Stalled);
                }
            }
            Ok(Unit::End) => {
                let outage = Outage {
                    detail: format!("{}: the stream has ended", self.connect.describe()),
                    advice: "it is started again".to_owned(),
                };
                self.down(outage, GapCause::Disconnected);
            }
            // The loop looks at the flag.
            Err(StreamError::Stopped) => {}
            Err(StreamError::Failed(outage)) => self.down(outage, GapCause::Disconnected),
        }
    }

    fn on_packet(&mut self, incoming: Incoming) {
        let codec = incoming.params.codec;
        let changed = self.decoding.params.as_deref() != Some(&*incoming.params);
        let Link::Up(up) = &mut self.link else { return };
        if incoming.is_key {
            up.waits_for_key = false;
            up.had_key = true;
            up.last_key = Instant::now();
        } else if up.last_key.elapsed() > KEY_LIMIT && up.waits_for_key {
            let outage = Outage {
                detail: format!(
                    "{}: no key picture for {} s",
                    self.connect.describe(),
                    KEY_LIMIT.as_secs()
                ),
                advice: "set a key picture every 2 s (`--intra`, `iframeinterval`, GOP length)"
                    .to_owned(),
            };
            return self.down(outage, GapCause::Stalled);
        }
        if up.waits_for_key {
            if up.had_key {
                let (_, t_ns) = self.stamp(incoming.time);
                self.lose(1, t_ns, GapCause::Undecodable);
            }
            return;
        }
        if changed {
            self.decoding.decoder = None;
            self.decoding.waits_for_key = true;
            self.decoding.params = Some(Arc::clone(&incoming.params));
            self.give_up_pending(GapCause::Undecodable);
        }
        let (frame_id, dts_ns) = self.stamp(incoming.time);
        self.online();
        self.staged = Some(Staged::Packet {
            packet: Packet {
                data: incoming.data,
                is_key: incoming.is_key || codec == Codec::Mjpeg,
                pts_ns: dts_ns.saturating_add(incoming.shown_after_ns),
                dts_ns,
                frame_id,
                params: incoming.params,
            },
            pushed: false,
        });
    }

    fn stamp(&mut self, time: UnitTime) -> (u64, i64) {
        match time {
            UnitTime::Arrival => self.timeline.stamp_now(),
            UnitTime::Aged(age_ns) => self.timeline.stamp_aged(age_ns),
            UnitTime::Device(device_ns) => self.timeline.stamp_device(device_ns),
        }
    }

    /// What can be done without waiting: the staged unit, then pictures that are ready.
    fn work(
        &mut self,
        pool: &FramePool,
        stop: &StopFlag,
    ) -> Result<Option<SourceEvent>, SourceError> {
        match self.staged.take() {
            Some(Staged::Packet { packet, pushed }) => {
                if let Some(event) = self.work_on_packet(packet, pushed)? {
                    return Ok(Some(event));
                }
            }
            Some(Staged::Picture {
                layout,
                frame_id,
                t_ns,
            }) => {
                if let Some(event) = self.announce(layout, None) {
                    self.staged = Some(Staged::Picture {
                        layout,
                        frame_id,
                        t_ns,
                    });
                    return Ok(Some(event));
                }
                return self.take_raw(frame_id, t_ns, pool, stop);
            }
            None => {}
        }
        self.take_decoded(pool)
    }

    /// Decoder, format, evidence: in this order, so that who keeps evidence knows what it is of.
    fn work_on_packet(
        &mut self,
        packet: Packet,
        mut pushed: bool,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let codec = packet.params.codec;
        if !pushed {
            pushed = true;
            if !self.push(&packet)? {
                return Ok(None);
            }
            let layout = match self.decoding.peek() {
                Some(picture) => picture.layout,
                None if codec == Codec::Mjpeg => self.info.layout,
                None => ImageLayout::packed(
                    PixelFormat::I420,
                    packet.params.width,
                    packet.params.height,
                    packet.params.color,
                ),
            };
            if let Some(event) = self.announce(layout, Some(codec)) {
                self.staged = Some(Staged::Packet { packet, pushed });
                return Ok(Some(event));
            }
        }
        let wanted = self.needs.packets && !self.is_private;
        Ok(wanted.then(|| SourceEvent::Packet(packet)))
    }

    /// Gives the packet to the decoder. False if the packet itself is good for nothing.
    fn push(&mut self, packet: &Packet) -> Result<bool, SourceError> {
        if packet.is_key {
            self.decoding.waits_for_key = false;
        }
        if self.decoding.retry_at.is_some_and(|at| Instant::now() < at) {
            self.decoding.waits_for_key = true;
        }
        if self.decoding.waits_for_key {
            self.lose(1, packet.pts_ns, GapCause::Undecodable);
            return Ok(true);
        }
        if self.decoding.decoder.is_none() {
            match decode::open(&packet.params, self.threads) {
                Ok(mut decoder) => {
                    tracing::info!(source = %self.name, "decoding {} with {}", packet.params.codec.as_str(), decoder.name());
                    decoder.at_least(self.needs.at_least);
                    self.decoding.decoder = Some(decoder);
                }
                Err(e) => {
                    self.lose(1, packet.pts_ns, GapCause::Undecodable);
                    self.decoder_failed(e)?;
                    return Ok(true);
                }
            }
        }
        let Some(decoder) = self.decoding.decoder.as_mut() else {
            return Ok(true);
        };
        self.decoding.pending.push(packet.frame_id, packet.pts_ns);
        let Err(e) = decoder.push(packet) else {
            return Ok(true);
        };
        self.decoding.pending.remove(packet.pts_ns);
        self.lose(1, packet.pts_ns, GapCause::Undecodable);
        let damaged_jpeg = packet.params.codec == Codec::Mjpeg;
        self.decoder_failed(e)?;
        Ok(!damaged_jpeg)
    }

    /// What follows from a decoder's error; the picture it is about is counted already.
    fn decoder_failed(&mut self, error: DecodeError) -> Result<(), SourceError> {
        match error {
            DecodeError::Damaged(why) => {
                tracing::debug!(source = %self.name, "a picture is lost: {why}");
            }
            DecodeError::Gone(why) => {
                let wait = self.decoding.backoff.next();
                tracing::warn!(source = %self.name, "the decoder is gone, a new one comes in {:.1} s: {why}", wait.as_secs_f64());
                self.decoding.retry_at = Some(Instant::now() + wait);
                self.decoding.decoder = None;
                self.give_up_pending(GapCause::Undecodable);
            }
            DecodeError::Unsupported(detail) => {
                self.close();
                return Err(SourceError::Unsupported {
                    uri: self.uri.clone(),
                    detail,
                });
            }
        }
        let intra_only = |p: &Arc<CodecParams>| p.codec == Codec::Mjpeg;
        self.decoding.waits_for_key = !self.decoding.params.as_ref().is_some_and(intra_only);
        Ok(())
    }

    /// A picture that the decoder has ready.
    fn take_decoded(&mut self, pool: &FramePool) -> Result<Option<SourceEvent>, SourceError> {
        let Some(decoder) = self.decoding.decoder.as_mut() else {
            return Ok(None);
        };
        let picture = match decoder.ready() {
            Ok(Some(picture)) => picture,
            Ok(None) => return Ok(None),
            Err(e) => return self.decoder_failed(e).map(|()| None),
        };
        let codec = self.decoding.params.as_ref().map(|p| p.codec);
        if let Some(event) = self.announce(picture.layout, codec) {
            return Ok(Some(event));
        }
        let slot = self.slot(pool, &picture.layout)?;
        let Some(decoder) = self.decoding.decoder.as_mut() else {
            return Ok(None);
        };
        let Some((frame_id, lost)) = self.decoding.pending.come(picture.pts_ns) else {
            decoder.skip();
            return Ok(None);
        };
        let t_ns = picture
            .pts_ns
            .max(self.last_frame_ns.map_or(i64::MIN, |t| t + 1));
        let Some(mut slot) = slot else {
            decoder.skip();
            self.lose(lost, t_ns, GapCause::Undecodable);
            self.lose(1, t_ns, GapCause::PoolExhausted);
            return Ok(None);
        };
        let taken = decoder.take(slot.pixels_mut());
        self.lose(lost, t_ns, GapCause::Undecodable);
        if let Err(e) = taken {
            self.lose(1, t_ns, GapCause::Undecodable);
            return self.decoder_failed(e).map(|()| None);
        }
        self.decoding.backoff.reset();
        self.decoding.retry_at = None;
        self.deliver(pool, slot, frame_id, t_ns);
        Ok(self.told.pop_front())
    }

    /// A raw picture, from the connection into the slot.
    fn take_raw(
        &mut self,
        frame_id: u64,
        t_ns: i64,
        pool: &FramePool,
        stop: &StopFlag,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let layout = self.info.layout;
        let Some(mut slot) = self.slot(pool, &layout)? else {
            self.lose(1, t_ns, GapCause::PoolExhausted);
            return Ok(None);
        };
        let Link::Up(up) = &mut self.link else {
            return Ok(None);
        };
        match up.stream.fill(slot.pixels_mut(), stop) {
            Ok(()) => {
                self.deliver(pool, slot, frame_id, t_ns);
                Ok(self.told.pop_front())
            }
            Err(StreamError::Stopped) => Ok(None),
            Err(StreamError::Failed(outage)) => {
                self.lose(1, t_ns, GapCause::Undecodable);
                self.down(outage, GapCause::Disconnected);
                Ok(None)
            }
        }
    }

    fn deliver(&mut self, pool: &FramePool, slot: SlotMut, frame_id: u64, t_ns: i64) {
        let meta = FrameMeta {
            frame_id,
            t_ns,
            epoch: self.timeline.epoch(),
            layout: self.info.layout,
        };
        let frame = self.publisher.publish(pool, slot, meta);
        self.delivered += 1;
        self.last_frame_ns = Some(t_ns);
        if let Some(gap) = self.losses.delivered(t_ns) {
            self.told.push_back(SourceEvent::Gap(gap));
        }
        self.told.push_back(SourceEvent::Frame(frame));
    }

    /// A slot for a picture of `layout`; `None` if it has to be dropped.
    fn slot(&self, pool: &FramePool, layout: &ImageLayout) -> Result<Option<SlotMut>, SourceError> {
        let have = pool.layout().native();
        if !same_bytes(layout, have) {
            return Err(SourceError::Slot {
                file: PathBuf::from(&self.uri),
                need: layout.bytes(),
                have: have.bytes(),
            });
        }
        Ok(pool.try_acquire())
    }

    /// Tells of another format, if it is one.
    fn announce(&mut self, layout: ImageLayout, codec: Option<Codec>) -> Option<SourceEvent> {
        let encoded = codec.filter(|_| !self.is_private);
        if self.info.layout == layout && self.info.encoded == encoded {
            return None;
        }
        let what = codec.map_or("raw", Codec::as_str);
        let description = format!(
            "{} {what} {}x{}",
            self.connect.describe(),
            layout.width,
            layout.height
        );
        tracing::info!(source = %self.name, "{description}");
        self.info = SourceInfo {
            nominal_fps: self.info.nominal_fps,
            encoded,
            ..SourceInfo::new(layout, description)
        };
        if self.delivered > 0 {
            self.timeline.new_epoch();
        }
        Some(SourceEvent::NewFormat(self.info.clone()))
    }

    fn online(&mut self) {
        if !self.is_online {
            self.is_online = true;
            self.outage = None;
            self.told.push_back(SourceEvent::Online);
        }
    }

    /// The connection is over. It is made again after a while.
    fn down(&mut self, outage: Outage, cause: GapCause) {
        let wait = match std::mem::replace(&mut self.link, Link::Ended) {
            Link::Up(up) if up.units > 0 && up.since.elapsed() >= PROVEN => {
                self.backoff.reset();
                self.backoff.next()
            }
            _ => self.backoff.next(),
        };
        self.link = Link::Down {
            retry_at: Instant::now() + wait,
        };
        tracing::warn!(source = %self.name, "{}; again in {:.1} s", outage.detail, wait.as_secs_f64());
        self.staged = None;
        let params = self.decoding.params.take();
        self.decoding.decoder = None;
        self.give_up_pending(cause);
        if self.is_online || self.delivered > 0 || params.is_some() {
            let now = self.timeline.now_ns();
            self.lose(0, now, cause);
        }
        if self.is_online {
            self.timeline.new_epoch();
        }
        self.is_online = false;
        if self.outage.as_ref() != Some(&outage) {
            self.outage = Some(outage.clone());
            self.told.push_back(SourceEvent::Offline(outage));
        }
    }

    fn give_up_pending(&mut self, cause: GapCause) {
        let lost = self.decoding.pending.give_up();
        let now = self.timeline.now_ns();
        self.lose(lost, now, cause);
    }

    fn lose(&mut self, lost: u64, t_ns: i64, cause: GapCause) {
        let is_outage = matches!(
            cause,
            GapCause::Disconnected | GapCause::Stalled | GapCause::Missed
        );
        if lost == 0 && !is_outage {
            return;
        }
        if let Some(gap) = self.losses.lose_many(lost, t_ns, cause) {
            self.told.push_back(SourceEvent::Gap(gap));
        }
    }

    fn close(&mut self) {
        self.link = Link::Ended;
        self.decoding = Decoding::default();
        self.staged = None;
        self.told.clear();
    }

    fn end(&self) -> SourceEvent {
        SourceEvent::End(EndInfo {
            frames: self.delivered,
            lost: self.losses.total(),
            last_t_ns: self.timeline.last_ns(),
        })
    }
}

impl Decoding {
    fn peek(&mut self) -> Option<Decoded> {
        // One that is late says nothing about this packet; the others have no errors here.
        let decoder = self.decoder.as_mut().filter(|d| !d.is_late())?;
        decoder.ready().ok().flatten()
    }

    fn is_late(&self) -> bool {
        !self.pending.is_empty() && self.decoder.as_ref().is_some_and(|d| d.is_late())
    }
}

impl Up {
    fn came(&mut self) {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.last_unit);
        self.interval = match self.units {
            0 => Duration::ZERO,
            1 => since,
            _ => (self.interval * 7 + since) / 8,
        };
        self.last_unit = now;
        self.units += 1;
    }

    /// How long nothing came, if that is too long.
    fn stalled(&self, asked: Option<Duration>) -> Option<Duration> {
        let interval = self.interval.max(asked.unwrap_or_default());
        let limit = match self.units {
            // How often something comes is not known yet.
            0..=2 => START_LIMIT.max(interval * 10),
            _ => STALL_FLOOR.max(interval * 10),
        };
        let waited = self.last_unit.elapsed();
        (waited >= limit).then_some(waited)
    }
}

impl<C: Connect> Source for EncodedSource<C> {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn begin(&mut self, start: Start) {
        self.timeline.begin(start);
    }

    fn adjust(&mut self, needs: &Needs) {
        if let Some(decoder) = &mut self.decoding.decoder {
            decoder.at_least(needs.at_least);
        }
        self.needs = needs.clone();
    }

    fn next(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, SourceError> {
        if matches!(self.link, Link::Ended) {
            return Ok(self.end());
        }
        // Source time begins with the first call.
        self.timeline.now_ns();
        let outcome = self.run(pool, stop);
        if outcome.is_err() {
            self.close();
        }
        outcome
    }
}
