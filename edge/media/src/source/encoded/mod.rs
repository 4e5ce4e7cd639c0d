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
mod pictures;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use visualpath_core::{Clock, ColorSpec, ImageLayout, Name, PixelFormat};
use visualpath_frames::FramePool;

use super::live::LiveTimeline;
use super::publish::{Losses, Publisher};
use super::{
    EndInfo, GapCause, Needs, Outage, Source, SourceError, SourceEvent, SourceInfo, SourceOptions,
    Start, StopFlag,
};
use crate::encode::{Codec, Packet};

use backoff::Backoff;
pub(super) use connect::{
    Connect, ConnectError, Incoming, PacketStream, StreamError, Unit, UnitTime,
};
use pictures::Decoding;

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
    start_limit: Duration,
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
            uri: super::redacted(&opts.uri),
            connect,
            info,
            timeline: LiveTimeline::new(clock),
            publisher: Publisher::new(opts),
            losses: Losses::default(),
            needs: Needs::default(),
            is_private: !opts.privacy.is_empty(),
            threads: opts.decode_threads,
            interval: asked.map(|fps| Duration::from_secs_f64(1.0 / fps)),
            start_limit: START_LIMIT,
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

    /// Gives a connection less time to its first pictures.
    #[cfg(test)]
    pub(super) fn with_start_limit(mut self, limit: Duration) -> Self {
        self.start_limit = limit;
        self
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
        let (asked, start_limit) = (self.interval, self.start_limit);
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
                // Before the first key packet nothing was captured that could be lost.
                if !up.had_key {
                    return;
                }
                up.waits_for_key = true;
                self.decoding.waits_for_key = true;
                self.timeline.skip(lost);
                let now = self.timeline.now_ns();
                self.lose(lost, now, GapCause::Missed);
            }
            Ok(Unit::Waiting) => {
                if let Some(waited) = up.stalled(asked, start_limit) {
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
        self.decoding.params = None;
        self.decoding.decoder = None;
        self.give_up_pending(cause);
        if std::mem::take(&mut self.is_online) {
            // One gap, that ends with the frame after it, however long that takes.
            let now = self.timeline.now_ns();
            self.lose(0, now, cause);
            self.timeline.new_epoch();
        }
        if self.outage.as_ref() != Some(&outage) {
            self.outage = Some(outage.clone());
            self.told.push_back(SourceEvent::Offline(outage));
        }
    }

    fn give_up_pending(&mut self, cause: GapCause) {
        let lost = self.decoding.pending.give_up();
        if lost > 0 {
            let now = self.timeline.now_ns();
            self.lose(lost, now, cause);
        }
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
    fn stalled(&self, asked: Option<Duration>, start_limit: Duration) -> Option<Duration> {
        let interval = self.interval.max(asked.unwrap_or_default());
        let limit = match self.units {
            // How often something comes is not known yet.
            0..=2 => start_limit.max(interval * 10),
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
