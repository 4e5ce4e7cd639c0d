//! The publisher: a handle for those who have something to say, and the thread `mqtt` that says it.
//!
//! [`PublisherHandle::trigger`] puts the event into the outbox and returns; it never waits for the
//! network. The thread connects, sends what the outbox holds, and connects again, for ever.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use visualpath_core::{Clock, NS_PER_S, Name};

use crate::command::{Answers, CommandOptions, CommandResponse, Inbox};
use crate::hearing::Hearing;
use crate::link::{Ended, Link, LinkError, Loss, until};
use crate::outbox::OutboxLimits;
use crate::outbox::{EventKind, MemoryOutbox, NewEvent, Outbox, OutboxError, Position, new_id};
use crate::payload::{
    CLIP_SCHEMA, ClipBody, ClipPayload, Health, Info, TRIGGER_SCHEMA, TriggerBody, TriggerPayload,
};
use crate::topics::{ExtractorStatus, SourceStatus, Topic, Topics};
use crate::url::{BrokerUrl, Scheme};

pub(crate) const ONLINE: &str = "online";
pub(crate) const OFFLINE: &str = "offline";
/// Largest message in bytes. A broker that refuses a message closes the connection, and the same
/// message would close the next one: what is too large must not get into the outbox.
pub const MAX_MESSAGE: usize = 256 << 10;
/// Largest MQTT packet: a message, its topic and headers.
pub(crate) const MAX_PACKET: usize = MAX_MESSAGE + (8 << 10);
/// Largest packet that is read. Anybody may publish at `cmd`: what is too large for a command is
/// refused with an answer, and only what would take the memory ends the connection.
pub(crate) const MAX_READ: usize = 8 << 20;
/// Retained topics at most; a device has a few per source, extractor and label.
const MAX_RETAINED: usize = 1024;
/// An absent broker is reported this often at most.
const REPORT_EVERY_NS: i64 = 60 * NS_PER_S;
/// Connections in a row that died over the same event before it is named in the log.
const SUSPICIOUS: u32 = 5;
/// What `finish` grants the thread beyond its deadline.
const GRACE: Duration = Duration::from_secs(2);

/// What a publisher is made with.
#[derive(Debug, Clone)]
pub struct MqttOptions {
    /// The broker.
    pub url: BrokerUrl,
    /// Prefix and device.
    pub topics: Topics,
    /// MQTT client id; a second client with the same one throws this one out.
    pub client_id: String,
    /// Seconds of silence after which the broker is asked whether it lives (twice that: lost).
    pub keep_alive_s: u16,
    /// Wins over the URL's.
    pub username: Option<String>,
    /// Wins over the URL's.
    pub password: Option<String>,
    /// Events sent but not yet acknowledged, at most.
    pub in_flight: u16,
    /// TCP connect, CONNECT and CONNACK together; whole seconds.
    pub connect_timeout: Duration,
    /// First wait after a lost connection; doubles, with jitter, …
    pub backoff_min: Duration,
    /// … up to this.
    pub backoff_max: Duration,
    /// Of the outbox in memory.
    pub limits: OutboxLimits,
    /// Who executes commands; without it none are taken.
    pub commands: Option<CommandOptions>,
}

impl MqttOptions {
    /// Defaults for a broker; the client id is `<prefix>-<device>` of the topics.
    pub fn new(url: BrokerUrl, topics: Topics) -> Self {
        Self {
            client_id: format!("visualpath-{}", topics.device()),
            url,
            topics,
            keep_alive_s: 15,
            username: None,
            password: None,
            in_flight: 16,
            connect_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            limits: OutboxLimits::default(),
            commands: None,
        }
    }

    pub(crate) fn credentials(&self) -> (Option<String>, Option<String>) {
        if self.username.is_some() {
            (self.username.clone(), self.password.clone())
        } else {
            (self.url.username.clone(), self.url.password.clone())
        }
    }
}

/// Why a publisher can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// `embedded://` without a broker behind it.
    #[error("{0}: start the embedded broker first and publish to the address it reports")]
    Embedded(BrokerUrl),
    /// No thread, or no runtime in it.
    #[error("the thread `mqtt` can't be started: {0}")]
    Thread(#[from] std::io::Error),
    /// A message that no broker would take.
    #[error("{topic}: the message of {bytes} bytes is larger than {MAX_MESSAGE}")]
    TooLarge {
        /// Where it was to go.
        topic: Topic,
        /// Its size.
        bytes: usize,
    },
    /// A payload that can't be written as JSON.
    #[error("{topic}: the message can't be written as JSON: {source}")]
    Json {
        /// Where it was to go.
        topic: Topic,
        /// Why.
        source: serde_json::Error,
    },
    /// Too many retained topics.
    #[error("{topic}: {MAX_RETAINED} retained topics are the most this appliance keeps")]
    Retained {
        /// The one too many.
        topic: Topic,
    },
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// What was left when the publisher ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishReport {
    /// Messages the broker acknowledged since the start.
    pub delivered: u64,
    /// Messages still in the outbox; those of a memory outbox are lost.
    pub undelivered: u64,
    /// Events that a gap message stood for.
    pub evicted: u64,
}

/// Handle and thread share this.
pub(crate) struct Shared {
    pub outbox: Mutex<Box<dyn Outbox>>,
    pub retained: Mutex<Retained>,
    /// Takes commands, if anybody executes them.
    pub inbox: Option<Mutex<Inbox>>,
    pub answers: Mutex<Answers>,
    pub hearing: Mutex<Hearing>,
    /// Something changed: an event, a retained value, an answer, `stop`.
    pub wake: Notify,
    pub connected: AtomicBool,
    pub delivered: AtomicU64,
    stop: Mutex<Option<Instant>>,
}

impl Shared {
    /// The deadline, once the publisher is to stop.
    pub fn stop_at(&self) -> Option<Instant> {
        *lock(&self.stop)
    }

    /// An answer to a command, to be sent.
    pub fn answer(&self, bytes: Vec<u8>) {
        lock(&self.answers).push(bytes);
        self.wake.notify_one();
    }

    fn stop(&self, at: Instant) {
        let mut stop = lock(&self.stop);
        *stop = Some(stop.map_or(at, |s| s.min(at)));
        drop(stop);
        self.wake.notify_one();
    }
}

/// A panic elsewhere must not silence the events: what these locks guard is whole between calls.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The latest value of each retained topic, sent anew on each connection.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    values: BTreeMap<Topic, (u64, Vec<u8>)>,
    version: u64,
}

impl Retained {
    fn set(&mut self, topic: Topic, value: Vec<u8>) -> Result<bool, PublisherError> {
        match self.values.get(&topic) {
            Some((_, old)) if *old == value => return Ok(false),
            None if self.values.len() >= MAX_RETAINED => {
                return Err(PublisherError::Retained { topic });
            }
            _ => {}
        }
        self.version += 1;
        self.values.insert(topic, (self.version, value));
        Ok(true)
    }

    /// The oldest change behind `version`: of a topic that changed twice, only the last.
    pub fn after(&self, version: u64) -> Option<(Topic, Vec<u8>, u64)> {
        if version >= self.version {
            return None;
        }
        self.values
            .iter()
            .filter(|(_, (v, _))| *v > version)
            .min_by_key(|(_, (v, _))| *v)
            .map(|(topic, (v, value))| (topic.clone(), value.clone(), *v))
    }
}

/// Starts publishers.
#[derive(Debug)]
pub struct Publisher;

impl Publisher {
    /// Starts the thread `mqtt` with an outbox in memory. The broker need not be there.
    pub fn start(
        options: MqttOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<PublisherHandle, PublisherError> {
        let outbox = MemoryOutbox::new(options.limits, options.topics.gap());
        Self::start_with(options, clock, Box::new(outbox))
    }

    /// The same with an outbox of the caller's.
    pub fn start_with(
        options: MqttOptions,
        clock: Arc<dyn Clock>,
        outbox: Box<dyn Outbox>,
    ) -> Result<PublisherHandle, PublisherError> {
        if options.url.scheme == Scheme::Embedded {
            return Err(PublisherError::Embedded(options.url));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let topics = options.topics.clone();
        let commands = options.commands.clone();
        let inbox = commands.map(|commands| Inbox::new(commands, &topics));
        let shared = Arc::new(Shared {
            outbox: Mutex::new(outbox),
            retained: Mutex::default(),
            inbox: inbox.map(Mutex::new),
            answers: Mutex::default(),
            hearing: Mutex::default(),
            wake: Notify::new(),
            connected: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            stop: Mutex::new(None),
        });
        let (ended_sender, ended) = bounded(1);
        let thread = std::thread::Builder::new().name("mqtt".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(publish_until_stopped(&shared, &options, &*clock));
                // A name being looked up may hang on a dead resolver; it holds nothing of ours.
                runtime.shutdown_background();
                drop(ended_sender);
            }
        })?;
        Ok(PublisherHandle {
            shared,
            topics,
            thread: Mutex::new(Some(thread)),
            ended,
        })
    }
}

/// Takes events and retained values from any thread; share it in an `Arc`.
pub struct PublisherHandle {
    shared: Arc<Shared>,
    topics: Topics,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Closed when the thread is done.
    ended: Receiver<()>,
}

impl PublisherHandle {
    /// Keeps a trigger and gives it its id and `seq`. When this returns, the event will be
    /// delivered or accounted for, as far as the outbox outlives what happens.
    ///
    /// An empty `trigger_id` becomes the message's own id. Numbers that JSON can't say are taken
    /// out; a message too large for a broker loses `metadata`, then `objects`, and says so.
    pub fn trigger(
        &self,
        path: &Name,
        trigger: TriggerBody,
    ) -> Result<TriggerPayload, PublisherError> {
        self.trigger_as(path, new_id(), trigger)
    }

    /// The same, with an `id` (a UUIDv7) that something else is known by already.
    ///
    /// # Errors
    /// Those of [`PublisherHandle::trigger`].
    pub fn trigger_as(
        &self,
        path: &Name,
        id: String,
        mut trigger: TriggerBody,
    ) -> Result<TriggerPayload, PublisherError> {
        let topic = self.topics.trigger(path);
        if trigger.trigger_id.is_empty() {
            trigger.trigger_id.clone_from(&id);
        }
        let dropped = trigger.drop_non_finite();
        if !dropped.is_empty() {
            tracing::warn!(%topic, ?dropped, "a trigger held numbers that are not finite");
        }
        let body = trimmed_json(&topic, &mut trigger)?;
        let (stream, seq) = {
            let mut outbox = lock(&self.shared.outbox);
            let appended = outbox.append(NewEvent {
                kind: EventKind::Trigger,
                topic,
                id: id.clone(),
                body,
            })?;
            (outbox.stream().to_owned(), appended.seq)
        };
        self.shared.wake.notify_one();
        Ok(TriggerPayload {
            schema: TRIGGER_SCHEMA.to_owned(),
            id,
            stream,
            seq: seq.unwrap_or_default(),
            replayed: false,
            trigger,
        })
    }

    /// Keeps what became of the clip `id`.
    pub fn clip(
        &self,
        path: &Name,
        id: &str,
        clip: ClipBody,
    ) -> Result<ClipPayload, PublisherError> {
        let topic = self.topics.clip(path);
        let body = json(&topic, &clip)?;
        lock(&self.shared.outbox).append(NewEvent {
            kind: EventKind::Clip,
            topic,
            id: id.to_owned(),
            body,
        })?;
        self.shared.wake.notify_one();
        Ok(ClipPayload {
            schema: CLIP_SCHEMA.to_owned(),
            id: id.to_owned(),
            replayed: false,
            clip,
        })
    }

    /// Sets a retained topic; the same value again is of no effect. Between two sends only the
    /// latest value counts, and each new connection is sent all of them.
    pub fn retained(&self, topic: Topic, value: impl Into<Vec<u8>>) -> Result<(), PublisherError> {
        let value = value.into();
        if value.len() > MAX_MESSAGE {
            let bytes = value.len();
            return Err(PublisherError::TooLarge { topic, bytes });
        }
        if lock(&self.shared.retained).set(topic, value)? {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Retained `info`.
    pub fn info(&self, info: &Info) -> Result<(), PublisherError> {
        let topic = self.topics.info();
        let value = json(&topic, info)?;
        self.retained(topic, value)
    }

    /// Retained `health`.
    pub fn health(&self, health: &Health) -> Result<(), PublisherError> {
        let topic = self.topics.health();
        let value = json(&topic, health)?;
        self.retained(topic, value)
    }

    /// Retained `source/<source>/status`.
    pub fn source_status(&self, source: &Name, status: SourceStatus) -> Result<(), PublisherError> {
        self.retained(self.topics.source_status(source), status.as_str())
    }

    /// Retained `source/<source>/extractor/<extractor>/status`.
    pub fn extractor_status(
        &self,
        source: &Name,
        extractor: &Name,
        status: ExtractorStatus,
    ) -> Result<(), PublisherError> {
        let topic = self.topics.extractor_status(source, extractor);
        self.retained(topic, status.as_str())
    }

    /// Retained `path/<path>/state/<label>`.
    pub fn state(&self, path: &Name, label: &Name, on: bool) -> Result<(), PublisherError> {
        let value = if on { "ON" } else { "OFF" };
        self.retained(self.topics.state(path, label), value)
    }

    /// Answers a command. Sent while a broker is there; not kept over the end of the process.
    pub fn respond(&self, response: &CommandResponse) {
        let bytes = response.to_bytes();
        if let (Some(inbox), Some(id)) = (&self.shared.inbox, &response.id) {
            lock(inbox).answered(id, &bytes);
        }
        self.shared.answer(bytes);
    }

    /// Whether a broker has accepted the present connection.
    pub fn connected(&self) -> bool {
        self.shared.connected.load(Ordering::SeqCst)
    }

    /// Whether commands are not heard for a while, because hearing them has cost connection after
    /// connection.
    pub fn is_deaf(&self) -> bool {
        self.shared.inbox.is_some() && lock(&self.shared.hearing).is_off()
    }

    /// Messages not yet acknowledged; a gap is one.
    pub fn pending(&self) -> usize {
        lock(&self.shared.outbox).len()
    }

    /// Id of the outbox.
    pub fn stream(&self) -> String {
        lock(&self.shared.outbox).stream().to_owned()
    }

    /// Sends what is left, then `offline` and DISCONNECT, for at most `deadline`. Past it the
    /// connection is cut, and the broker publishes `offline` as the last will. Events given after
    /// this call may stay behind. Calling it again only reports.
    pub fn finish(&self, deadline: Duration) -> FinishReport {
        self.shared.stop(Instant::now() + deadline);
        let ended = self.ended.recv_timeout(deadline + GRACE);
        if ended == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the thread `mqtt` did not end in time and is left behind");
        } else if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread `mqtt` panicked");
        }
        let outbox = lock(&self.shared.outbox);
        FinishReport {
            delivered: self.shared.delivered.load(Ordering::SeqCst),
            undelivered: u64::try_from(outbox.len()).unwrap_or(u64::MAX),
            evicted: outbox.evicted(),
        }
    }
}

impl Drop for PublisherHandle {
    /// Without `finish`: the thread ends by itself and the broker publishes the last will.
    fn drop(&mut self) {
        self.shared.stop(Instant::now());
    }
}

fn json<T: Serialize>(topic: &Topic, value: &T) -> Result<Vec<u8>, PublisherError> {
    let json = serde_json::to_vec(value).map_err(|source| PublisherError::Json {
        topic: topic.clone(),
        source,
    })?;
    if json.len() > MAX_MESSAGE - STAMP {
        return Err(PublisherError::TooLarge {
            topic: topic.clone(),
            bytes: json.len(),
        });
    }
    Ok(json)
}

/// What the outbox adds to a body, generously.
const STAMP: usize = 1 << 10;

fn trimmed_json(topic: &Topic, trigger: &mut TriggerBody) -> Result<Vec<u8>, PublisherError> {
    loop {
        match json(topic, trigger) {
            Err(PublisherError::TooLarge { .. }) if !trigger.metadata.is_empty() => {
                trigger.metadata.clear();
                trigger.trimmed.push("metadata".to_owned());
            }
            Err(PublisherError::TooLarge { .. }) if !trigger.objects.is_empty() => {
                trigger.objects.clear();
                trigger.trimmed.push("objects".to_owned());
            }
            other => {
                if !trigger.trimmed.is_empty() {
                    tracing::warn!(%topic, trimmed = ?trigger.trimmed, "a trigger was too large");
                }
                return other;
            }
        }
    }
}

/// The thread's life: connect, publish, wait, again.
async fn publish_until_stopped(shared: &Arc<Shared>, options: &MqttOptions, clock: &dyn Clock) {
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    let mut reporter = Reporter::default();
    loop {
        let began = Instant::now();
        let loss = match Link::run(shared, options).await {
            Ended::Finished | Ended::OutOfTime => return,
            Ended::Lost(loss) => loss,
        };
        // A broker that accepts a connection and drops it at once is not yet well.
        if loss.delivered || (loss.was_up && began.elapsed() > options.backoff_max) {
            backoff.reset();
        }
        reporter.report(&loss, shared, options, clock.now_ns());
        if !wait(shared, backoff.next()).await {
            return;
        }
    }
}

/// Waits before the next attempt; false if there is nothing more to attempt.
async fn wait(shared: &Shared, delay: Duration) -> bool {
    let mut until_at = Instant::now() + delay;
    loop {
        let stop = shared.stop_at();
        if let Some(stop) = stop {
            if lock(&shared.outbox).is_empty() || Instant::now() >= stop {
                return false;
            }
            // Little time is left: use it.
            until_at = until_at.min(Instant::now() + Duration::from_millis(100));
        }
        tokio::select! {
            () = until(Some(until_at)) => return true,
            () = until(stop) => return false,
            () = shared.wake.notified() => {}
        }
    }
}

/// Doubling delays with jitter, so that a hundred appliances do not return in the same instant.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: RandomState,
    draws: u64,
}

impl Backoff {
    fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
            random: RandomState::new(),
            draws: 0,
        }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    /// Between half the delay and all of it.
    fn next(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        self.draws += 1;
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.draws);
        let share = hasher.finish() % 1000;
        delay / 2 + delay / 2 * u32::try_from(share).unwrap_or_default() / 1000
    }
}

/// Says that the broker is gone: at once, then once a minute, with what to do about it.
#[derive(Default)]
struct Reporter {
    last_ns: Option<i64>,
    suspect: Option<(Position, u32)>,
}

impl Reporter {
    fn report(&mut self, loss: &Loss, shared: &Shared, options: &MqttOptions, now_ns: i64) {
        self.suspect = match (loss.oldest, self.suspect) {
            (Some(p), Some((q, n))) if p == q => Some((p, n + 1)),
            (Some(p), _) => Some((p, 1)),
            (None, suspect) => suspect,
        };
        if loss.was_up {
            self.last_ns = None;
        }
        if self.last_ns.is_some_and(|l| now_ns - l < REPORT_EVERY_NS) {
            return;
        }
        self.last_ns = Some(now_ns);
        let waiting = lock(&shared.outbox).len();
        let (broker, error) = (&options.url, &loss.error);
        match error {
            LinkError::Mqtt(rumqttc::ConnectionError::ConnectionRefused(code)) => tracing::error!(
                %broker, waiting,
                "the MQTT broker refuses this client ({code:?}): check user, password and client \
                 id `{}`. Events are kept and it is tried again", options.client_id
            ),
            _ if !loss.was_up => tracing::warn!(
                %broker, waiting,
                "the MQTT broker can't be reached ({error}): start it, or set mqtt.url \
                 (embedded://127.0.0.1:1883 runs one inside). Events are kept and sent when it is there"
            ),
            _ => match self.suspect {
                Some((_, n)) if n >= SUSPICIOUS => tracing::error!(
                    %broker, waiting,
                    "the MQTT connection was lost {n} times over the same message ({error}): \
                     check the broker's log and its message size limit (a message has up to \
                     {MAX_MESSAGE} bytes), and that no other client is called `{}`",
                    options.client_id
                ),
                _ => tracing::warn!(
                    %broker, waiting,
                    "the MQTT connection was lost ({error}); it is tried again"
                ),
            },
        }
    }
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
