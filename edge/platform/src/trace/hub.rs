//! The hub: takes records from anywhere and hands them to every sink's queue.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::lane::{Lane, LaneOptions, SinkProblem, TraceSink, since_ns};
use super::record::{Level, Record};

/// How long [`ObservabilityHub::configure`], [`ObservabilityHub::remove_sink`] and dropping wait
/// for a sink's thread.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names one sink of one hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SinkId(u64);

/// Where trace records are given, and the sinks they go to.
///
/// With no sink, or at [`Level::Off`], nothing is spawned and nothing is built: everything asks
/// [`enabled`](Self::enabled) first. A sink's thread starts when the level is raised.
pub struct ObservabilityHub {
    shared: Arc<Shared>,
    zero: Instant,
}

/// What the sinks' threads see of the hub.
pub(super) struct Shared {
    /// The level, [`Level::Off`] while no sink is there to take anything.
    effective: AtomicU8,
    state: RwLock<State>,
}

struct State {
    level: Level,
    lanes: Vec<Lane>,
    next: u64,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out again whether anybody takes records.
    pub fn refresh(&self) {
        // Not a read lock: two that find out at a time could store in the wrong order.
        let state = self.write();
        let wanted = state.lanes.iter().any(Lane::is_alive);
        let level = if wanted { state.level } else { Level::Off };
        self.effective.store(level as u8, Ordering::Relaxed);
    }
}

impl ObservabilityHub {
    /// A hub without sinks.
    pub fn new(level: Level) -> Self {
        Self {
            shared: Arc::new(Shared {
                effective: AtomicU8::new(Level::Off as u8),
                state: RwLock::new(State {
                    level,
                    lanes: Vec::new(),
                    next: 0,
                }),
            }),
            zero: Instant::now(),
        }
    }

    /// The one of this process, for apps that want one; off until configured.
    pub fn global() -> &'static Arc<Self> {
        static GLOBAL: OnceLock<Arc<ObservabilityHub>> = OnceLock::new();
        GLOBAL.get_or_init(|| Arc::new(Self::new(Level::Off)))
    }

    /// Whether a record of `level` would reach anybody. One relaxed load.
    pub fn enabled(&self, level: Level) -> bool {
        level as u8 <= self.shared.effective.load(Ordering::Relaxed) && level != Level::Off
    }

    /// The level asked for.
    pub fn level(&self) -> Level {
        self.shared.read().level
    }

    /// Monotonic nanoseconds since the hub was made, for `timestamp_ns`.
    pub fn now_ns(&self) -> i64 {
        since_ns(self.zero)
    }

    /// Hands a record to every sink. Never waits.
    pub fn emit(&self, record: Record) {
        self.emit_with(record.level(), || record);
    }

    /// The same with a record that is built only if `level` is [enabled](Self::enabled).
    pub fn emit_with(&self, level: Level, record: impl FnOnce() -> Record) {
        if self.enabled(level) {
            let record = Arc::new(record());
            for lane in &self.shared.read().lanes {
                lane.offer(&record);
            }
        }
    }

    /// Sets the level and replaces all sinks. The old ones first write what they have (two may name
    /// one file), for at most two seconds, in which records reach nobody; the names of threads left
    /// behind are given back.
    pub fn configure(&self, level: Level, sinks: Vec<Box<dyn TraceSink>>) -> Vec<String> {
        let old = {
            let mut state = self.shared.write();
            state.level = level;
            std::mem::take(&mut state.lanes)
        };
        let stragglers = close(old, PATIENCE);
        for sink in sinks {
            self.add_sink(sink);
        }
        self.start();
        stragglers
    }

    /// Adds a sink. Whatever goes wrong with it is in [`problems`](Self::problems).
    pub fn add_sink(&self, sink: Box<dyn TraceSink>) -> SinkId {
        self.add_sink_with(sink, LaneOptions::default())
    }

    /// The same with other bounds.
    pub fn add_sink_with(&self, sink: Box<dyn TraceSink>, options: LaneOptions) -> SinkId {
        let id = {
            let mut state = self.shared.write();
            let id = state.next;
            state.next += 1;
            state.lanes.push(Lane::new(id, sink, options));
            id
        };
        self.start();
        SinkId(id)
    }

    /// Removes a sink: it writes what it has, for at most two seconds. The error is the name of its
    /// thread, left behind.
    pub fn remove_sink(&self, id: SinkId) -> Result<(), String> {
        let lane = {
            let mut state = self.shared.write();
            let at = state.lanes.iter().position(|l| l.id == id.0);
            at.map(|i| state.lanes.remove(i))
        };
        self.shared.refresh();
        match close(lane.into_iter().collect(), PATIENCE).pop() {
            Some(name) => Err(name),
            None => Ok(()),
        }
    }

    /// Waits until what was emitted before is where it belongs; `false` if not within `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let flushers: Vec<_> = {
            let state = self.shared.read();
            state.lanes.iter().filter_map(Lane::flusher).collect()
        };
        let mut all = true;
        for flusher in flushers {
            all &= flusher.flush(deadline);
        }
        all
    }

    /// Ends all sinks, together within `limit`; gives the names of the threads left behind.
    pub fn close(&self, limit: Duration) -> Vec<String> {
        let lanes = std::mem::take(&mut self.shared.write().lanes);
        self.shared.refresh();
        close(lanes, limit)
    }

    /// What is wrong, sink by sink.
    pub fn problems(&self) -> Vec<SinkProblem> {
        let state = self.shared.read();
        state.lanes.iter().filter_map(Lane::problem).collect()
    }

    /// The newest records of the memory sinks, oldest first.
    pub fn recent(&self) -> Vec<Arc<Record>> {
        let state = self.shared.read();
        let memories = state.lanes.iter().filter_map(Lane::memory);
        memories.flat_map(super::MemoryRecords::records).collect()
    }

    /// Starts what is wanted and has not been started.
    fn start(&self) {
        let mut failed = None;
        let mut state = self.shared.write();
        if state.level != Level::Off {
            for lane in &mut state.lanes {
                let started = lane.start(self.zero, Arc::downgrade(&self.shared));
                failed = failed.or(started.err());
            }
        }
        drop(state);
        self.shared.refresh();
        if let Some(error) = failed {
            tracing::error!(%error, "a trace sink's thread could not be started");
        }
    }
}

impl Drop for ObservabilityHub {
    fn drop(&mut self) {
        let stragglers = self.close(PATIENCE);
        if !stragglers.is_empty() {
            tracing::error!(
                ?stragglers,
                "trace sinks did not end in time and are left behind"
            );
        }
    }
}

fn close(lanes: Vec<Lane>, limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    // All are told before any is waited for.
    let closing: Vec<_> = lanes.into_iter().map(Lane::close).collect();
    closing
        .into_iter()
        .filter_map(|c| c.join(deadline).err())
        .collect()
}
