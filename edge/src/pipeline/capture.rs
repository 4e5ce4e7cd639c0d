//! The capture thread of one source: frames to the path thread and to the evidence lane.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, TrySendError};
use visualpath_core::ViewSpec;
use visualpath_frames::{Frame, FramePool, Holder, PoolError};
use visualpath_media::clip::Offered;
use visualpath_media::encode::{Codec, Packet};
use visualpath_media::source::{
    Controls, EndInfo, Gap, GapCause, Needs, Outage, Source, SourceError, SourceEvent, SourceInfo,
    StopFlag,
};
use visualpath_platform::{BellSender, Captured};

use super::build;
use super::line::LineShared;
use super::problem;
use super::sink::ToEvents;

/// Counters of one source, readable while it runs.
#[derive(Debug, Default)]
pub struct CaptureStats {
    /// Frames captured.
    pub frames: AtomicU64,
    /// The newest frame's id, plus one.
    pub next_frame_id: AtomicU64,
    /// Its source time.
    pub last_t_ns: AtomicI64,
    /// Nothing follows: the path thread may end before this one has.
    pub ending: AtomicBool,
    /// Frames that the path thread was too busy to take over (a slow inline extractor).
    pub path_busy: AtomicU64,
    /// Pictures lost because no slot was free.
    pub pool_exhausted: AtomicU64,
    /// Pictures that could not be decoded.
    pub undecodable: AtomicU64,
    /// Pictures that the driver marked as damaged.
    pub driver_error: AtomicU64,
    /// Pictures that the device counted and nobody got.
    pub missed: AtomicU64,
    /// Pictures lost while the device was gone or stalled, as far as that is known.
    pub disconnected: AtomicU64,
    /// Frames that the encoder was too busy to take.
    pub encoder_busy: AtomicU64,
    /// Frames that came when the encoder had ended.
    pub no_evidence: AtomicU64,
    /// What the source delivers, for people.
    format: Mutex<String>,
    /// It gives nothing for now.
    pub offline: AtomicBool,
}

impl CaptureStats {
    /// What the source delivers.
    pub fn set_format(&self, description: &str) {
        let mut format = self.format.lock().unwrap_or_else(PoisonError::into_inner);
        description.clone_into(&mut format);
    }

    /// The same, for whoever shows it.
    pub fn format(&self) -> String {
        let format = self.format.lock().unwrap_or_else(PoisonError::into_inner);
        format.clone()
    }

    /// Whether it is this.
    pub fn is_format(&self, known: &str) -> bool {
        let format = self.format.lock().unwrap_or_else(PoisonError::into_inner);
        *format == known
    }
}

/// How a source ended.
#[derive(Debug)]
pub enum Ended {
    /// The file is at its end.
    End(EndInfo),
    /// As asked.
    Stopped,
    /// With an error, after every good frame.
    Failed(SourceError),
    /// The pool for a new format could not be made.
    NoPool(PoolError),
}

/// What the consumers of a source want of it. It may change while the source runs; capture then
/// goes on with other pools, and the source in another way, from the next frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// Slots of a pool, the driver's own not counted.
    pub slots: usize,
    /// The views extractors want.
    pub views: Vec<ViewSpec>,
    /// Clips are wanted.
    pub clips: bool,
    /// What the source encoded itself may be kept as it is.
    pub pass_through: PassThrough,
    /// Camera controls to set.
    pub controls: Controls,
}

/// Which packets of a source are kept as evidence just as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PassThrough {
    /// None: a part of every picture must not be seen.
    #[default]
    Never,
    /// All.
    Any,
    /// Those of this codec; another is decoded, and encoded anew.
    Only(Codec),
}

impl PassThrough {
    fn takes(self, codec: Codec) -> bool {
        match self {
            Self::Never => false,
            Self::Any => true,
            Self::Only(only) => only == codec,
        }
    }
}

impl Wanted {
    /// Whether the evidence of a source like this is its packets.
    fn packets(&self, info: &SourceInfo) -> bool {
        info.encoded
            .is_some_and(|codec| self.pass_through.takes(codec))
    }

    /// What a source that delivers `info` has to do.
    pub fn needs(&self, info: &SourceInfo) -> Needs {
        let packets = self.clips && self.packets(info);
        // What is encoded here is encoded at full size.
        let any_size = packets || !self.clips;
        Needs {
            packets,
            at_least: any_size.then(|| self.largest_view(info)).flatten(),
            controls: self.controls.clone(),
        }
    }

    /// The smallest picture that no view magnifies; `None` if one wants the picture as it is.
    fn largest_view(&self, info: &SourceInfo) -> Option<(u32, u32)> {
        let mut largest = (1, 1);
        for view in &self.views {
            view.size?;
            let (width, height) = view.content(&info.layout);
            largest = (largest.0.max(width), largest.1.max(height));
        }
        Some(largest)
    }
}

/// What is wanted now.
#[derive(Debug)]
pub struct PoolPlan {
    generation: AtomicU64,
    wanted: Mutex<Wanted>,
}

impl PoolPlan {
    /// From the first frame on.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            generation: AtomicU64::new(0),
            wanted: Mutex::new(wanted),
        }
    }

    /// From the next frame on.
    pub fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.lock();
        let before = wanted.clone();
        change(&mut wanted);
        if *wanted != before {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    // Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the pools of one source, one after the other.
#[derive(Debug)]
pub struct Pools {
    plan: Arc<PoolPlan>,
    made: u32,
    generation: u64,
    /// Evidence is the source's packets, not its frames.
    packets: bool,
}

impl Pools {
    /// As the plan says.
    pub fn new(plan: Arc<PoolPlan>) -> Self {
        Self {
            plan,
            made: 0,
            generation: 0,
            packets: false,
        }
    }

    /// Tells the source what is wanted of it, and makes a pool for what it then delivers.
    ///
    /// # Errors
    /// If there is no memory for it, or a view can't be laid out.
    pub fn make(&mut self, source: &mut dyn Source) -> Result<FramePool, PoolError> {
        self.generation = self.plan.generation();
        let wanted = self.plan.lock().clone();
        self.packets = wanted.packets(source.info());
        source.adjust(&wanted.needs(source.info()));
        let info = source.info();
        self.made += 1;
        let slots = wanted.slots + info.driver_slots;
        build::pool(info, self.made, slots, &wanted.views)
    }

    fn outdated(&self) -> bool {
        self.generation != self.plan.generation()
    }
}

/// Everything the capture thread owns.
pub struct Capture {
    /// Where frames come from.
    pub source: Box<dyn Source>,
    /// Makes a pool for a format; another when the format or the extractors change.
    pub pools: Pools,
    /// The path thread's inbox.
    pub to_path: BellSender<Captured>,
    /// With the evidence lane, once any rule wants clips.
    pub shared: Arc<LineShared>,
    /// Where problems are told.
    pub events: ToEvents,
    /// Whether frames come at their own pace: then capture never waits for anybody.
    pub realtime: bool,
    /// Says when to stop.
    pub stop: StopFlag,
    /// Counters.
    pub stats: Arc<CaptureStats>,
}

/// The problem's code while a source gives nothing.
pub const OFFLINE: &str = "source_offline";

/// How often a waiting capture thread looks at the stop flag.
const PATIENCE: Duration = Duration::from_millis(100);

impl Capture {
    /// Captures until the source ends or the stop flag is set, and tells both lanes.
    pub fn run(mut self, mut pool: FramePool) -> Ended {
        let mut encoder = pool.holder("encoder");
        let ended = loop {
            if self.pools.outdated() {
                match self.pools.make(&mut *self.source) {
                    Ok(new) => {
                        encoder = new.holder("encoder");
                        pool = new;
                    }
                    // The old one does: extractors it has no view for make their own.
                    Err(e) => tracing::error!(error = %e, "no new frame pool; the old one stays"),
                }
            }
            match self.source.next(&pool, &self.stop) {
                Ok(SourceEvent::Frame(frame)) => self.frame(frame, encoder),
                Ok(SourceEvent::Gap(gap)) => self.gap(&gap, &pool),
                Ok(SourceEvent::Packet(packet)) => self.packet(packet),
                Ok(SourceEvent::Offline(outage)) => self.offline(&outage),
                Ok(SourceEvent::Online) => self.online(),
                Ok(SourceEvent::Wrapped) => {
                    tracing::debug!("the file starts again");
                    self.send(Captured::Wrapped);
                }
                Ok(SourceEvent::NewFormat(info)) => {
                    tracing::info!(source = %self.shared.source, "{}", info.description);
                    self.stats.set_format(&info.description);
                    match self.pools.make(&mut *self.source) {
                        Ok(new) => {
                            encoder = new.holder("encoder");
                            pool = new;
                        }
                        Err(e) => break Ended::NoPool(e),
                    }
                }
                Ok(SourceEvent::End(info)) => break Ended::End(info),
                Ok(SourceEvent::Stopped) => break Ended::Stopped,
                Err(e) => break Ended::Failed(e),
            }
        };
        self.stats.ending.store(true, Ordering::Release);
        self.send(Captured::End);
        ended
    }

    fn gap(&self, gap: &Gap, pool: &FramePool) {
        let counter = match gap.cause {
            GapCause::PoolExhausted => &self.stats.pool_exhausted,
            GapCause::Undecodable => &self.stats.undecodable,
            GapCause::DriverError => &self.stats.driver_error,
            GapCause::Missed => &self.stats.missed,
            GapCause::Disconnected | GapCause::Stalled => &self.stats.disconnected,
        };
        let before = counter.fetch_add(gap.lost, Ordering::Relaxed);
        // Said ever more seldom: an overload lasts, and its log must not add to it. An outage, of
        // which nobody knows how many were lost, is told when it begins.
        if gap.lost > 0 && (before == 0 || before.ilog2() != (before + gap.lost).ilog2()) {
            let cause = gap.cause.as_str();
            tracing::warn!(
                lost = before + gap.lost,
                cause,
                source = %self.shared.source,
                holders = pool.held_by(),
                "pictures lost"
            );
        }
        if let Some(evidence) = self.shared.evidence() {
            evidence.gap(gap.from_ns, gap.to_ns, gap.lost);
        }
        self.send(Captured::Gap {
            from_ns: gap.from_ns,
            to_ns: gap.to_ns,
        });
    }

    /// Evidence as the device made it.
    fn packet(&self, packet: Packet) {
        if let Some(evidence) = self.shared.evidence() {
            // The lane reports a loss as a gap of the clips concerned.
            self.offered(evidence.offer_packet(packet));
        }
    }

    /// Counts what the evidence lane did not take.
    fn offered(&self, offered: Offered) {
        match offered {
            Offered::Taken => {}
            // The lane reports it as a gap of the clips concerned.
            Offered::Lost => {
                self.stats.encoder_busy.fetch_add(1, Ordering::Relaxed);
            }
            Offered::Stopped => {
                if self.stats.no_evidence.fetch_add(1, Ordering::Relaxed) == 0
                    && !self.stop.is_set()
                {
                    let advice = "see the log; restart visualpath";
                    self.events.problem(problem(
                        "no_clips",
                        "encoder",
                        "the encoder has ended",
                        advice,
                    ));
                }
            }
        }
    }

    /// The rest of the appliance goes on.
    fn offline(&self, outage: &Outage) {
        let source = &self.shared.source;
        let Outage { detail, advice } = outage;
        tracing::error!(%source, detail, advice, "offline");
        self.stats.offline.store(true, Ordering::Relaxed);
        self.events.source(source, false);
        self.events
            .problem(problem(OFFLINE, source.as_str(), detail, advice));
    }

    fn online(&self) {
        let source = &self.shared.source;
        tracing::info!(%source, "online");
        self.stats.offline.store(false, Ordering::Relaxed);
        self.events.source(source, true);
        self.events.solved(OFFLINE, source.as_str());
    }

    fn frame(&self, frame: Frame, encoder: Holder) {
        self.stats.frames.fetch_add(1, Ordering::Relaxed);
        self.stats
            .next_frame_id
            .store(frame.meta().frame_id + 1, Ordering::Relaxed);
        self.stats
            .last_t_ns
            .store(frame.meta().t_ns, Ordering::Relaxed);
        if let Some(evidence) = self.shared.evidence().filter(|_| !self.pools.packets) {
            self.offered(evidence.offer(frame.lease(encoder)));
        }
        if self.realtime {
            match self.to_path.try_send(Captured::Frame(frame)) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(_)) => {
                    self.stats.path_busy.fetch_add(1, Ordering::Relaxed);
                }
            }
        } else {
            self.send(Captured::Frame(frame));
        }
    }

    /// Hands over, waiting for room. The end and gaps are worth waiting for also when live: the
    /// path thread empties its inbox within one inline extraction.
    fn send(&self, mut item: Captured) {
        loop {
            match self.to_path.send_timeout(item, PATIENCE) {
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
                Err(SendTimeoutError::Timeout(back)) => {
                    if self.stop.is_set() && matches!(back, Captured::Frame(_)) {
                        return;
                    }
                    item = back;
                }
            }
        }
    }
}
