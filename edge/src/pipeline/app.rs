//! The app's subscriber: `on_trigger`, on a thread of its own.
//!
//! ```text
//! events thread ─ trigger, kept ─▶ queue ─▶ app thread: on_trigger(&trigger, &cx)
//!               └ clip message ──▶ ClipBoard ◀── cx.clip(&trigger)?.wait(…)
//! ```
//!
//! A subscriber may take its time, wait for a clip or panic: events go on. Only when it is
//! [`QUEUE`] triggers behind is it not told of more, which is counted and logged; the messages on
//! MQTT are complete all the same.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use visualpath_mqtt::payload::ClipState;
use visualpath_mqtt::{ClipPayload, TriggerPayload};

use super::StartError;

/// Triggers that may wait for the subscriber.
pub const QUEUE: usize = 1024;
/// Clip results kept for subscribers that ask late.
const RESULTS: usize = 1024;

/// Called with every trigger once it is in the outbox.
pub type OnTrigger = Box<dyn FnMut(&TriggerPayload, &AppContext) + Send>;

/// What a subscriber can ask for.
#[derive(Debug, Clone)]
pub struct AppContext {
    board: Arc<ClipBoard>,
    clips: std::path::PathBuf,
}

/// Why there is no clip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClipError {
    /// The rule does not ask for one.
    #[error("trigger {trigger} has no clip: its rule says clip = false")]
    NotAsked {
        /// The trigger.
        trigger: String,
    },
    /// It was not made.
    #[error("clip {id} failed: {reason}")]
    Failed {
        /// The clip.
        id: String,
        /// Why.
        reason: String,
    },
    /// It is not ready yet.
    #[error("clip {id} is not ready after {waited:?}")]
    NotReady {
        /// The clip.
        id: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The pipeline stopped before it was told about.
    #[error("the pipeline stopped before clip {id} was done")]
    Stopped {
        /// The clip.
        id: String,
    },
}

/// A clip that has been asked for.
#[derive(Debug, Clone)]
pub struct PendingClip {
    id: String,
    cx: AppContext,
}

/// A finished clip.
#[derive(Debug, Clone)]
pub struct Clip {
    /// The whole path of its file.
    pub file: std::path::PathBuf,
    /// Its message.
    pub message: ClipPayload,
}

impl AppContext {
    /// The clip of a trigger. It is cut after its post-roll: [`PendingClip::wait`] for it.
    ///
    /// # Errors
    /// [`ClipError::NotAsked`].
    pub fn clip(&self, trigger: &TriggerPayload) -> Result<PendingClip, ClipError> {
        match &trigger.trigger.clip {
            Some(clip) => Ok(PendingClip {
                id: clip.id.clone(),
                cx: self.clone(),
            }),
            None => Err(ClipError::NotAsked {
                trigger: trigger.id.clone(),
            }),
        }
    }
}

impl PendingClip {
    /// Its id, as in the messages.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until it is ready, at most `limit`. Waiting inside `on_trigger` keeps the next
    /// trigger from being told; a subscriber with many clips waits on threads of its own.
    ///
    /// # Errors
    /// When it failed, is not ready in time, or the pipeline stopped.
    pub fn wait(&self, limit: Duration) -> Result<Clip, ClipError> {
        let board = &self.cx.board;
        let until = Instant::now() + limit;
        let mut state = board.lock();
        loop {
            if let Some(message) = state.results.get(&self.id) {
                return self.result(message.clone());
            }
            let id = self.id.clone();
            if state.closed {
                return Err(ClipError::Stopped { id });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClipError::NotReady { id, waited: limit });
            }
            let waited = board.news.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn result(&self, message: ClipPayload) -> Result<Clip, ClipError> {
        match (message.clip.state, &message.clip.file) {
            (ClipState::Ready, Some(file)) => Ok(Clip {
                file: self.cx.clips.join(file),
                message,
            }),
            (_, _) => Err(ClipError::Failed {
                id: self.id.clone(),
                reason: message.clip.reason.unwrap_or_default(),
            }),
        }
    }
}

/// Clip results on their way to the subscriber.
#[derive(Debug, Default)]
struct ClipBoard {
    state: Mutex<Board>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Board {
    results: HashMap<String, ClipPayload>,
    order: VecDeque<String>,
    closed: bool,
}

impl ClipBoard {
    // Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events thread's end of the app thread.
pub struct App {
    queue: Sender<TriggerPayload>,
    board: Arc<ClipBoard>,
    untold: AtomicU64,
}

impl App {
    /// Starts the app thread. Clip files are relative to `state_dir`.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn start(
        told: OnTrigger,
        state_dir: &std::path::Path,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        let (queue, triggers) = bounded(QUEUE);
        let board = Arc::new(ClipBoard::default());
        let cx = AppContext {
            board: Arc::clone(&board),
            clips: state_dir.to_owned(),
        };
        let thread = super::spawn("app", move || run(&triggers, told, &cx))?;
        let app = Self {
            queue,
            board,
            untold: AtomicU64::new(0),
        };
        Ok((app, thread))
    }

    /// Tells the subscriber of a trigger that is in the outbox.
    pub fn tell(&self, payload: &TriggerPayload) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(payload.clone()) {
            let untold = self.untold.fetch_add(1, Ordering::Relaxed) + 1;
            if untold.is_power_of_two() {
                tracing::error!(untold, "on_trigger does not keep up and is not told of all");
            }
        }
    }

    /// Whoever waits for this clip goes on.
    pub fn clip(&self, payload: &ClipPayload) {
        let mut state = self.board.lock();
        let id = payload.id.clone();
        if state.results.insert(id.clone(), payload.clone()).is_none() {
            state.order.push_back(id);
        }
        if state.order.len() > RESULTS
            && let Some(oldest) = state.order.pop_front()
        {
            state.results.remove(&oldest);
        }
        drop(state);
        self.board.news.notify_all();
    }
}

impl Drop for App {
    /// No further clip is told about: who waits for one is told that.
    fn drop(&mut self) {
        self.board.lock().closed = true;
        self.board.news.notify_all();
    }
}

/// A panicking subscriber is not called again.
fn run(triggers: &Receiver<TriggerPayload>, mut told: OnTrigger, cx: &AppContext) {
    for trigger in triggers {
        if catch_unwind(AssertUnwindSafe(|| told(&trigger, cx))).is_err() {
            tracing::error!("on_trigger panicked and is not called again");
            return;
        }
    }
}
