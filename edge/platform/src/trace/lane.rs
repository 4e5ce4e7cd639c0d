//! One sink with its thread and its queue.
//!
//! ```text
//! offer ─try_send─▶ [queue] ─▶ thread: write … flush each second … close
//!    └─ full: counted, and said at this place as `dropped_records`
//! ```
//!
//! The thread is the only one that ever touches the sink. When the sink fails, the thread goes on
//! taking records and counts them, and tries the sink again after a while; when it panics, the
//! thread ends; when it blocks, the queue fills up. None of this is seen by who offers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::hub::Shared;
use super::record::{DroppedRecords, Record};
use super::sinks::MemoryRecords;

/// Why a sink did not take a record.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It can't take any now; it is tried again after a while.
    #[error("{what}: {error}")]
    Io {
        /// What it tried, with the file.
        what: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It can't take this one; the next may do.
    #[error("a {record_type} record was refused: {why}")]
    Refused {
        /// Which.
        record_type: &'static str,
        /// Why.
        why: String,
    },
}

/// Where records go. Called on a thread of its own, so it may block; it had better not for ever.
pub trait TraceSink: Send {
    /// What it is, in one word: its thread is called `trace-<kind>`.
    fn kind(&self) -> &str;

    /// Where to, for people; e.g. the file.
    fn target(&self) -> String {
        String::new()
    }

    /// Takes one record. On an error the record counts as lost.
    fn write(&mut self, record: &Arc<Record>) -> Result<(), SinkError>;

    /// Called about once a second while records come, and at the end: what was taken is to be
    /// where it belongs.
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Records taken that are not yet where they belong.
    fn pending(&self) -> u64 {
        0
    }

    /// The records kept, of a sink that keeps them in memory.
    fn memory(&self) -> Option<MemoryRecords> {
        None
    }
}

/// Bounds of a sink's lane.
#[derive(Debug, Clone, Copy)]
pub struct LaneOptions {
    /// Records that may wait.
    pub queue: usize,
    /// Longest time between two flushes.
    pub flush: Duration,
    /// A failing sink is tried again after this long, then twice as long …
    pub retry: Duration,
    /// … up to this.
    pub retry_at_most: Duration,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            queue: 4096,
            flush: Duration::from_secs(1),
            retry: Duration::from_secs(1),
            retry_at_most: Duration::from_secs(60),
        }
    }
}

/// What is wrong with a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkProblem {
    /// Its thread, e.g. `trace-file`.
    pub thread: String,
    /// Where it writes.
    pub target: String,
    /// Records it did not take, so far.
    pub lost: u64,
    /// Its last error, while it lasts.
    pub error: Option<String>,
}

/// What the lane's two sides share.
#[derive(Debug, Default)]
struct Health {
    /// Lost before the queue and not said in the trace yet.
    overflowed: AtomicU64,
    /// Lost in all.
    lost: AtomicU64,
    ended: AtomicBool,
    error: Mutex<Option<String>>,
}

impl Health {
    fn say(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

enum Item {
    Record(Arc<Record>),
    /// So many are missing here.
    Lost(u64),
    /// Flush, then drop this.
    Flush(Sender<()>),
}

struct Running {
    queue: Sender<Item>,
    thread: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// A sink and, once it is wanted, its thread.
pub(super) struct Lane {
    pub id: u64,
    thread_name: String,
    target: String,
    memory: Option<MemoryRecords>,
    options: LaneOptions,
    health: Arc<Health>,
    /// Until its thread starts. The lock only makes the lane shareable: sinks need not be.
    parked: Mutex<Option<Box<dyn TraceSink>>>,
    running: Option<Running>,
}

impl Lane {
    pub fn new(id: u64, sink: Box<dyn TraceSink>, options: LaneOptions) -> Self {
        Self {
            id,
            thread_name: format!("trace-{}", sink.kind()),
            target: sink.target(),
            memory: sink.memory(),
            options,
            health: Arc::default(),
            parked: Mutex::new(Some(sink)),
            running: None,
        }
    }

    /// Whether its thread takes records.
    pub fn is_alive(&self) -> bool {
        self.running.is_some() && !self.health.ended.load(Ordering::Relaxed)
    }

    pub fn memory(&self) -> Option<&MemoryRecords> {
        self.memory.as_ref()
    }

    /// Starts the thread, if it has not been.
    pub fn start(&mut self, zero: Instant, hub: Weak<Shared>) -> std::io::Result<()> {
        let parked = self
            .parked
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = parked.take() else {
            return Ok(());
        };
        let (queue, items) = bounded(self.options.queue.max(1));
        let (alive, ended) = bounded::<()>(0);
        let writer = Writer {
            sink,
            items,
            options: self.options,
            health: Arc::clone(&self.health),
            zero,
            thread: self.thread_name.clone(),
            target: self.target.clone(),
            skipped: 0,
            failures: 0,
            wait: self.options.retry,
            retry_at: None,
        };
        let started = std::thread::Builder::new()
            .name(self.thread_name.clone())
            .spawn(move || {
                writer.run();
                if let Some(hub) = hub.upgrade() {
                    hub.refresh();
                }
                drop(alive);
            });
        match started {
            Ok(thread) => {
                self.running = Some(Running {
                    queue,
                    thread,
                    ended,
                });
                Ok(())
            }
            Err(e) => {
                self.health
                    .say(Some(format!("its thread could not be started: {e}")));
                Err(e)
            }
        }
    }

    /// Puts a record into the queue, or counts it. Never waits.
    pub fn offer(&self, record: &Arc<Record>) {
        let Some(running) = &self.running else {
            return;
        };
        let overflowed = &self.health.overflowed;
        if overflowed.load(Ordering::Relaxed) > 0 {
            // Said first, so that it stands where they are missing.
            let lost = overflowed.swap(0, Ordering::Relaxed);
            if lost > 0 && running.queue.try_send(Item::Lost(lost)).is_err() {
                overflowed.fetch_add(lost + 1, Ordering::Relaxed);
                self.health.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let item = Item::Record(Arc::clone(record));
        if running.queue.try_send(item).is_err() {
            overflowed.fetch_add(1, Ordering::Relaxed);
            self.health.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The way to ask its thread for a flush; used outside the hub's lock.
    pub fn flusher(&self) -> Option<Flusher> {
        let running = self.running.as_ref()?;
        Some(Flusher(running.queue.clone()))
    }

    /// Lets it write what waits and end. Call [`Closing::join`] after all have been asked.
    pub fn close(self) -> Closing {
        let Some(running) = self.running else {
            return Closing {
                name: self.thread_name,
                waits_for: None,
            };
        };
        drop(running.queue);
        Closing {
            name: self.thread_name,
            waits_for: Some((running.thread, running.ended)),
        }
    }

    pub fn problem(&self) -> Option<SinkProblem> {
        let lost = self.health.lost.load(Ordering::Relaxed);
        let error = self
            .health
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        (lost > 0 || error.is_some()).then(|| SinkProblem {
            thread: self.thread_name.clone(),
            target: self.target.clone(),
            lost,
            error,
        })
    }
}

/// Asks one lane for a flush.
pub(super) struct Flusher(Sender<Item>);

impl Flusher {
    /// Waits until all offered before has been written and flushed, at most until `deadline`.
    pub fn flush(self, deadline: Instant) -> bool {
        let (done, all) = bounded::<()>(0);
        self.0.send_deadline(Item::Flush(done), deadline).is_ok()
            && all.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }
}

/// A lane that has been told to end.
pub(super) struct Closing {
    name: String,
    waits_for: Option<(JoinHandle<()>, Receiver<()>)>,
}

impl Closing {
    /// Waits for its thread; one that does not make it is named and left behind.
    pub fn join(self, deadline: Instant) -> Result<(), String> {
        let Some((thread, ended)) = self.waits_for else {
            return Ok(());
        };
        if ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            return Err(self.name);
        }
        // Panics of the sink were caught and told; one of ours has been printed.
        thread.join().map_err(|_| self.name)
    }
}

/// The thread's side.
struct Writer {
    sink: Box<dyn TraceSink>,
    items: Receiver<Item>,
    options: LaneOptions,
    health: Arc<Health>,
    zero: Instant,
    thread: String,
    target: String,
    /// Lost since the last `dropped_records`.
    skipped: u64,
    failures: u64,
    wait: Duration,
    retry_at: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            self.work();
            self.finish();
        }));
        let health = Arc::clone(&self.health);
        let (thread, target) = (self.thread.clone(), self.target.clone());
        // Its drop may panic too.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(self)));
        if caught.is_err() || dropped.is_err() {
            tracing::error!(
                sink = thread,
                target,
                "a trace sink panicked; it gets no more records"
            );
            health.say(Some("it panicked; it gets no more records".to_owned()));
        }
        health.ended.store(true, Ordering::Relaxed);
    }

    fn work(&mut self) {
        let mut flush_at: Option<Instant> = None;
        loop {
            let item = match flush_at {
                Some(at) => self.items.recv_deadline(at),
                None => self
                    .items
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
            };
            match item {
                Ok(Item::Record(record)) => self.write(&record),
                Ok(Item::Lost(n)) => self.missing(n),
                Ok(Item::Flush(done)) => {
                    self.overflowed();
                    self.flush();
                    flush_at = None;
                    drop(done);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.overflowed();
                    self.flush();
                    // Again only when there is something to do: a failing sink is retried.
                    flush_at = self.retry_at;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            match flush_at {
                // Records that keep coming must not put it off.
                Some(at) if at <= now => {
                    self.flush();
                    flush_at = Some(now + self.options.flush);
                }
                Some(_) => {}
                None => flush_at = Some(now + self.options.flush),
            }
        }
    }

    fn finish(&mut self) {
        self.overflowed();
        self.retry_at = None;
        if self.skipped > 0 && !self.write_missing() {
            tracing::debug!(sink = self.thread, "what is missing could not be said");
        }
        if let Err(e) = self.sink.flush() {
            self.failed(&e);
        }
        let unwritten = self.sink.pending();
        self.health.lost.fetch_add(unwritten, Ordering::Relaxed);
        let lost = self.health.lost.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                sink = self.thread,
                target = self.target,
                lost,
                "trace records were lost"
            );
        }
    }

    /// What overflowed and has not been said, because nothing was offered since.
    fn overflowed(&mut self) {
        if self.items.is_empty() {
            let lost = self.health.overflowed.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.missing(lost);
            }
        }
    }

    /// `n` are missing at this place; they are in the total already.
    fn missing(&mut self, n: u64) {
        if self.skipped == 0 {
            tracing::debug!(
                sink = self.thread,
                n,
                "the trace queue was full; records are missing"
            );
        }
        self.skipped = self.skipped.saturating_add(n);
        if self.may_try() {
            self.write_missing();
        }
    }

    fn write(&mut self, record: &Arc<Record>) {
        if !self.may_try() || (self.skipped > 0 && !self.write_missing()) {
            self.skip();
            return;
        }
        match self.sink.write(record) {
            Ok(()) => {}
            Err(e @ SinkError::Refused { .. }) => {
                self.skip();
                self.failures += 1;
                if self.failures.is_power_of_two() {
                    tracing::warn!(sink = self.thread, error = %e, "a trace record is lost");
                }
            }
            Err(e) => {
                self.skip();
                self.failed(&e);
            }
        }
    }

    fn flush(&mut self) {
        if !self.may_try() {
            return;
        }
        match self.sink.flush() {
            Ok(()) => self.works(),
            Err(e) => self.failed(&e),
        }
    }

    fn may_try(&self) -> bool {
        self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Says what is missing here. `false` if not even that could be written.
    fn write_missing(&mut self) -> bool {
        let record = Record::DroppedRecords(DroppedRecords {
            timestamp_ns: since_ns(self.zero),
            count: self.skipped,
        });
        match self.sink.write(&Arc::new(record)) {
            Ok(()) => {
                self.skipped = 0;
                true
            }
            Err(e) => {
                self.failed(&e);
                false
            }
        }
    }

    fn skip(&mut self) {
        self.skipped = self.skipped.saturating_add(1);
        self.health.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts, says it ever more seldom, and waits longer each time.
    fn failed(&mut self, error: &SinkError) {
        self.failures += 1;
        let text = error.to_string();
        if self.failures.is_power_of_two() {
            tracing::warn!(
                sink = self.thread,
                error = text,
                failures = self.failures,
                "trace records can't be written; trying again later"
            );
        }
        self.health.say(Some(text));
        self.retry_at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(self.options.retry_at_most);
    }

    fn works(&mut self) {
        if self.retry_at.take().is_some() {
            tracing::info!(
                sink = self.thread,
                target = self.target,
                "trace records are written again"
            );
            self.health.say(None);
            self.wait = self.options.retry;
            self.failures = 0;
        }
    }
}

/// Nanoseconds since `zero`, on the monotonic clock.
pub(super) fn since_ns(zero: Instant) -> i64 {
    i64::try_from(zero.elapsed().as_nanos()).unwrap_or(i64::MAX)
}
