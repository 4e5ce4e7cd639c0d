//! The handle of one source's evidence: starts, feeds, asks and stops the two threads.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use visualpath_core::{Clock, MonotonicClock, NS_PER_S, Name};
use visualpath_frames::Frame;

use super::encoding::Encoding;
use super::feed::{Feed, Handover, wait};
use super::merge::Merging;
use super::open::failed;
use super::store::ClipStore;
use super::writer::{Command, Evidence, Writer};
use super::{ClipEnd, ClipRequest, ClipResult};
use crate::encode::{Bitrate, Encoder, EncoderKind, EncoderOptions, H264Options, Packet};
use crate::ring::{GapCause, Ring, RingState};

/// Packets between the threads: what a disk that does not answer may hold up before the encoder,
/// and then the source, notices. 8 s at 30 per second.
pub(super) const PACKET_QUEUE: usize = 256;
/// Requests and corrections waiting for the clip thread.
const COMMAND_QUEUE: usize = 1024;

/// What a lane needs to know.
pub struct LaneOptions {
    /// The camera.
    pub source: Name,
    /// Live: `offer` never waits and the clock limits every wait. Otherwise `offer` waits for room
    /// and no clock is read.
    pub realtime: bool,
    /// The ring's budget.
    pub ring_bytes: usize,
    /// What frames are encoded with, of a source that gives no packets.
    pub codec: EncoderKind,
    /// By what H.264 is made, and with how many threads.
    pub h264: H264Options,
    /// Longest time between key pictures that are encoded here, and length of the ring's GOPs where
    /// every picture is a key.
    pub gop_s: f64,
    /// Bits to spend.
    pub bitrate: Bitrate,
    /// The source's nominal rate, a hint for the bit rate.
    pub fps: f64,
    /// Clips that overlap or touch share a file, as long as it is no longer than this, as asked for,
    /// in nanoseconds. `None`: each has its own.
    pub merge_max_ns: Option<i64>,
    /// Frames that may wait for the encoder; each holds a slot.
    pub queue: usize,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Where clips go.
    pub store: Arc<ClipStore>,
}

impl LaneOptions {
    /// The defaults of the `[clip]` table.
    pub fn new(source: Name, store: Arc<ClipStore>) -> Self {
        Self {
            source,
            realtime: true,
            ring_bytes: 64 << 20,
            codec: EncoderKind::H264,
            h264: H264Options::default(),
            gop_s: 2.0,
            bitrate: Bitrate::Auto,
            fps: 30.0,
            merge_max_ns: None,
            queue: 4,
            clock: Arc::new(MonotonicClock::new()),
            store,
        }
    }

    /// `gop_s` within bounds.
    fn gop_ns(&self) -> i64 {
        let gop_s = if self.gop_s.is_finite() {
            self.gop_s.clamp(0.04, 60.0)
        } else {
            2.0
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 60 s")]
        let gop_ns = (gop_s * NS_PER_S as f64) as i64;
        gop_ns
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        self.codec.build(EncoderOptions {
            gop_ns: self.gop_ns(),
            bitrate: self.bitrate,
            fps: self.fps,
            h264: self.h264.clone(),
        })
    }
}

/// Why a lane is not running, or did not stop.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The system gave no thread.
    #[error("can't start thread `{thread}`: {source}")]
    Thread {
        /// Its name.
        thread: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Threads were still running at the deadline; they end by themselves when what they wait for
    /// (the disk, as a rule) answers.
    #[error("still running after {waited_ms} ms: {threads}")]
    Straggler {
        /// Their names.
        threads: String,
        /// How long they were waited for.
        waited_ms: u128,
    },
}

/// What became of an offered frame or packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Offered {
    /// It will be evidence; of a frame, it or its packet.
    Taken,
    /// There is no room, or nothing could decode it; it will be reported as part of a
    /// [`Gap`](crate::ring::Gap).
    Lost,
    /// The lane is stopping.
    Stopped,
}

/// Why a lane is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The source has no more.
    SourceEnd,
    /// The appliance stops.
    Stopped,
}

/// Counts and levels of a lane.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LaneStats {
    /// Frames taken for encoding.
    pub taken: u64,
    /// Packets taken as the device made them.
    pub passed: u64,
    /// Frames lost because the encoder was behind, and packets lost because the disk was.
    pub lost_busy: u64,
    /// Packets not taken because nothing could decode them: something before them was lost.
    pub lost_undecodable: u64,
    /// Frames lost because the encoder failed on them.
    pub lost_error: u64,
    /// Packets made or taken.
    pub packets: u64,
    /// Bytes of them.
    pub packet_bytes: u64,
    /// Clips asked for.
    pub requested: u64,
    /// Clips ready.
    pub ready: u64,
    /// Clips failed.
    pub failed: u64,
    /// The ring.
    pub ring: RingState,
}

type Report = Box<dyn Fn(ClipResult) + Send + Sync>;

/// What the handle and the threads share.
pub(super) struct Shared {
    source: Name,
    store: Arc<ClipStore>,
    report: Report,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Requests without a result, so that none is forgotten even if a thread dies.
    open: BTreeMap<String, ClipRequest>,
    /// The clip thread takes no more requests.
    closed: bool,
    stopped: bool,
    stats: LaneStats,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self, change: impl FnOnce(&mut LaneStats)) {
        change(&mut self.lock().stats);
    }

    pub(super) fn source(&self) -> &Name {
        &self.source
    }

    pub(super) fn packet_counted(&self, packet: &Packet) {
        let bytes = packet.data.len() as u64;
        self.stats(|s| {
            s.packets += 1;
            s.packet_bytes += bytes;
        });
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    pub(super) fn end_reason(&self) -> ClipEnd {
        match self.lock().stopped {
            true => ClipEnd::Stopped,
            false => ClipEnd::SourceEnd,
        }
    }

    /// Gives the request its result, unless it has one.
    pub(super) fn report(&self, result: ClipResult) {
        let mut state = self.lock();
        let Some(request) = state.open.remove(&result.id) else {
            return;
        };
        match result.state {
            super::ClipState::Ready(_) => state.stats.ready += 1,
            super::ClipState::Failed { .. } => state.stats.failed += 1,
        }
        drop(state);
        self.tell(&request, result);
    }

    fn tell(&self, request: &ClipRequest, result: ClipResult) {
        // First where it outlives this process.
        self.store.answered(&self.source, request, &result);
        if let super::ClipState::Failed { reason } = &result.state {
            tracing::error!(source = %self.source, clip = %result.id, %reason, "clip failed");
        }
        (self.report)(result);
    }

    /// After the clip thread ended, in whatever way.
    fn fail_the_rest(&self, reason: &str) {
        self.close();
        loop {
            let Some((_, request)) = self.lock().open.pop_first() else {
                return;
            };
            self.stats(|s| s.failed += 1);
            self.tell(
                &request,
                failed(request.clone(), self.source.clone(), &reason),
            );
        }
    }
}

/// The two threads of one source.
#[derive(Default)]
struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Disconnected when both threads have ended.
    ended: Option<Receiver<()>>,
    stop: Option<Sender<()>>,
}

/// The evidence of one source: encoder thread, ring, clip thread. Dropped without
/// [`EvidenceLane::finish`] it stops gracefully and waits for its threads.
pub struct EvidenceLane {
    shared: Arc<Shared>,
    realtime: bool,
    feed: Arc<Mutex<Feed>>,
    commands: Sender<Command>,
    /// Disconnected when the lane stops.
    stopping: Receiver<()>,
    threads: Mutex<Threads>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EvidenceLane {
    /// Starts the lane with the encoder that the options name. `report` is called with every result, on the clip
    /// thread (or on the caller's, for a request that comes too late); it should only hand it on.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn start(
        options: LaneOptions,
        report: impl Fn(ClipResult) + Send + Sync + 'static,
    ) -> Result<Self, LaneError> {
        let encoder = options.encoder();
        Self::start_with(options, encoder, report)
    }

    /// Starts the lane with another encoder.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn start_with(
        options: LaneOptions,
        encoder: Box<dyn Encoder>,
        report: impl Fn(ClipResult) + Send + Sync + 'static,
    ) -> Result<Self, LaneError> {
        let shared = Arc::new(Shared {
            source: options.source.clone(),
            store: Arc::clone(&options.store),
            report: Box::new(report),
            state: Mutex::new(State::default()),
        });
        let (jobs, job_queue) = bounded(options.queue.max(1));
        let (packets, evidence) = bounded(PACKET_QUEUE);
        let (commands, command_queue) = bounded(COMMAND_QUEUE);
        let (stop, stopping) = bounded::<()>(0);
        let (alive, ended) = bounded::<()>(0);
        let (evidence_ends, direct) = (packets.clone(), packets.clone());
        let gop_ns = options.gop_ns();

        let encoding = Encoding {
            encoder,
            jobs: job_queue,
            out: packets,
            shared: Arc::clone(&shared),
            last_ns: None,
            failing: None,
            frames: 0,
        };
        let writer = Writer {
            source: options.source.clone(),
            store: options.store,
            clock: options.realtime.then_some(options.clock),
            ring: Ring::new(options.ring_bytes, gop_ns),
            clips: Vec::new(),
            merging: options.merge_max_ns.map(|max_ns| Merging {
                gap_ns: gop_ns,
                max_ns,
            }),
            left: VecDeque::new(),
            evidence,
            held: VecDeque::new(),
            encoded: 0,
            needs_key: false,
            commands: command_queue,
            shared: Arc::clone(&shared),
            encoder_error: None,
        };
        let lane = Self {
            shared: Arc::clone(&shared),
            realtime: options.realtime,
            feed: Arc::new(Mutex::new(Feed::new(jobs, direct))),
            commands,
            stopping,
            threads: Mutex::new(Threads {
                handles: Vec::new(),
                ended: Some(ended),
                stop: Some(stop),
            }),
        };
        let (encoder_alive, encoding_shared) = (alive.clone(), Arc::clone(&shared));
        let feed = Arc::clone(&lane.feed);
        let source = &options.source;
        // Should the second thread not start, dropping the lane ends the first.
        lane.spawn(format!("clip-{source}"), move || {
            let run = catch_unwind(AssertUnwindSafe(|| writer.run()));
            let reason = match run {
                Ok(()) => "the clip thread has ended",
                Err(_) => "the clip thread panicked: please report this with the log",
            };
            shared.fail_the_rest(reason);
            drop(alive);
        })?;
        lane.spawn(format!("encode-{source}"), move || {
            if catch_unwind(AssertUnwindSafe(|| encoding.run())).is_err() {
                let source = &encoding_shared.source;
                tracing::error!(%source, "the encoder panicked: no more evidence from this source");
                // What it left is finished as it is; that is not the source's end.
                encoding_shared.lock().stopped = true;
                lock(&feed).close();
            }
            drop(evidence_ends);
            drop(encoder_alive);
        })?;
        Ok(lane)
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), LaneError> {
        let spawned = std::thread::Builder::new().name(name.clone()).spawn(body);
        let thread = name;
        let handle = spawned.map_err(|source| LaneError::Thread { thread, source })?;
        lock(&self.threads).handles.push(handle);
        Ok(())
    }

    /// Gives a frame (the lane's own lease of it) to the encoder. In realtime mode it never waits;
    /// otherwise it waits until there is room or the lane stops. One thread offers, in frame order.
    ///
    /// A frame whose packet was offered already is evidence by that, and is dropped.
    pub fn offer(&self, frame: Frame) -> Offered {
        let t_ns = frame.meta().t_ns;
        let mut feed = lock(&self.feed);
        let before = feed.frames();
        let offered = match feed.frame(frame, self.realtime) {
            Handover::Done(offered) => offered,
            // `gap` and `finish` must not wait for the encoder.
            Handover::Frame(jobs, job) => {
                drop(feed);
                let sent = wait(&jobs, job, &self.stopping);
                feed = lock(&self.feed);
                match sent {
                    true => {
                        feed.frame_taken(t_ns);
                        Offered::Taken
                    }
                    false => Offered::Stopped,
                }
            }
            Handover::Packet(..) => Offered::Stopped,
        };
        let encoded = feed.frames() > before;
        drop(feed);
        match offered {
            Offered::Taken if encoded => self.shared.stats(|s| s.taken += 1),
            Offered::Lost => self.shared.stats(|s| s.lost_busy += 1),
            Offered::Taken | Offered::Stopped => {}
        }
        offered
    }

    /// Hands over a picture that the device encoded itself: it becomes evidence as it is, bit for
    /// bit. In realtime mode it never waits; otherwise it waits until there is room or the lane
    /// stops. One thread offers frames and packets, in the order in which they are decoded.
    ///
    /// A packet that nothing could decode (something before it is missing, and it is no key) is
    /// `Lost`, and part of a [`Gap`].
    pub fn offer_packet(&self, packet: Packet) -> Offered {
        let mut feed = lock(&self.feed);
        let bytes = packet.data.len();
        let offered = match feed.packet(packet, self.realtime) {
            Handover::Done(offered) => offered,
            Handover::Packet(evidence, direct) => {
                drop(feed);
                let packet = direct.packet.clone();
                let sent = wait(&evidence, Evidence::Direct(direct), &self.stopping);
                feed = lock(&self.feed);
                match sent {
                    true => {
                        feed.packet_taken(&packet);
                        Offered::Taken
                    }
                    false => Offered::Stopped,
                }
            }
            Handover::Frame(..) => Offered::Stopped,
        };
        let cause = feed.lost_by();
        drop(feed);
        self.shared.stats(|s| match (offered, cause) {
            (Offered::Taken, _) => {
                s.passed += 1;
                s.packets += 1;
                s.packet_bytes += bytes as u64;
            }
            (Offered::Lost, Some(GapCause::WriterBusy)) => s.lost_busy += 1,
            (Offered::Lost, _) => s.lost_undecodable += 1,
            (Offered::Stopped, _) => {}
        });
        offered
    }

    /// Records that the source lost pictures between these times, before the next offered one.
    /// `lost` is 0 if it can't tell how many. Never waits. A gap of so many pictures whose packets
    /// were offered is none of evidence, and is ignored.
    pub fn gap(&self, from_ns: i64, to_ns: i64, lost: u64) {
        lock(&self.feed).gap(from_ns, to_ns, lost);
    }

    /// Notes durably that a clip will be asked for. If the process ends before it has its result, the
    /// next one answers for it.
    pub fn announce(&self, request: &ClipRequest) {
        self.shared.store.asked(&self.shared.source, request);
    }

    /// A clip that was announced is not asked for after all, and nobody has heard of it.
    pub fn withdraw(&self, request: &ClipRequest) {
        self.shared.store.withdraw(&request.id);
    }

    /// Asks for a clip. Never waits; exactly one result follows.
    pub fn request(&self, request: ClipRequest) {
        let refuse = |request: ClipRequest, reason: &str| {
            self.shared.stats(|s| s.failed += 1);
            let result = failed(request.clone(), self.shared.source.clone(), &reason);
            self.shared.tell(&request, result);
        };
        let mut state = self.shared.lock();
        state.stats.requested += 1;
        if state.closed {
            drop(state);
            return refuse(request, "the source's evidence has been stopped");
        }
        if state.open.contains_key(&request.id) {
            drop(state);
            return refuse(request, "a clip with this id is being written already");
        }
        // Within the lock, so that the clip thread either sees it or has closed.
        match self.commands.try_send(Command::Request(request.clone())) {
            Ok(()) => {
                state.open.insert(request.id.clone(), request);
            }
            Err(_) => {
                drop(state);
                refuse(request, "too many clips are waiting for the disk");
            }
        }
    }

    /// Says when a clip really ends (the end of a RANGE) and, if it is known, when its event was
    /// seen best ([`ClipRequest::best_ns`]). Durable when it returns; without effect if the clip has
    /// its result. Waits for nothing but the index.
    pub fn set_end(&self, id: &str, end_ns: i64, best_ns: Option<i64>) {
        let is_open = |state: &State| !state.closed && state.open.contains_key(id);
        if !is_open(&self.shared.lock()) {
            return;
        }
        // First where it outlives this process, and not while everybody waits for the lock.
        self.shared.store.end_known(id, end_ns, best_ns);
        let mut state = self.shared.lock();
        if let Some(request) = state.open.get_mut(id) {
            request.ends_at(end_ns, best_ns);
        }
        if !is_open(&state) {
            return;
        }
        let id = id.to_owned();
        let command = Command::SetEnd {
            id,
            end_ns,
            best_ns,
        };
        if let Err(e) = self.commands.try_send(command) {
            // The clip gets its latest possible end: longer than asked, never shorter.
            tracing::warn!(source = %self.shared.source, error = %e, "the end of a clip could not be set");
        }
    }

    /// Counts and levels now.
    pub fn stats(&self) -> LaneStats {
        self.shared.lock().stats.clone()
    }

    /// Encodes what was taken, finishes every clip and ends the threads; all results have been
    /// reported when it returns `Ok`. A second call waits again.
    ///
    /// # Errors
    /// Threads that are still running after `limit`, by name.
    pub fn finish(&self, why: Finish, limit: Duration) -> Result<(), LaneError> {
        let begun = Instant::now();
        self.close(why);
        let ended = lock(&self.threads).ended.clone();
        if let Some(ended) = ended {
            // Nothing is ever sent: it disconnects when both threads are gone.
            let timed_out = matches!(
                ended.recv_timeout(limit),
                Err(crossbeam_channel::RecvTimeoutError::Timeout)
            );
            if timed_out {
                // Left behind: dropping the lane must not wait for a disk that is gone.
                let handles = std::mem::take(&mut lock(&self.threads).handles);
                let running = handles.iter().filter(|h| !h.is_finished());
                let names: Vec<&str> = running.filter_map(|h| h.thread().name()).collect();
                return Err(LaneError::Straggler {
                    threads: names.join(", "),
                    waited_ms: begun.elapsed().as_millis(),
                });
            }
        }
        self.join();
        Ok(())
    }

    fn close(&self, why: Finish) {
        if why == Finish::Stopped {
            self.shared.lock().stopped = true;
        }
        lock(&self.threads).stop = None;
        lock(&self.feed).close();
    }

    fn join(&self) {
        let handles = std::mem::take(&mut lock(&self.threads).handles);
        for handle in handles {
            // Panics were caught and logged inside.
            drop(handle.join());
        }
    }
}

impl Drop for EvidenceLane {
    fn drop(&mut self) {
        let already = lock(&self.threads).stop.is_none();
        if !already {
            self.close(Finish::Stopped);
        }
        self.join();
    }
}
