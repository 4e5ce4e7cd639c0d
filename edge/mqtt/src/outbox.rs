//! The outbox: events that no broker has acknowledged yet.
//!
//! Events never vanish. An event is in the outbox before anyone is told it happened, and leaves it
//! only by a PUBACK, or, when the outbox is full, by becoming part of a *gap*: one message that
//! stands in the evicted events' place and says exactly how many and which they were.
//!
//! The hard idea is what may be evicted. Events that are in flight on the present connection stay:
//! their acknowledgement may be on its way, and a gap that names a delivered event would be wrong.
//! They are the oldest and few (at most the in-flight limit), so what is evicted is the oldest
//! event behind them, and the gap stays one message however much it swallows:
//!
//! ```text
//! in flight │ gap 17..=203 │ 204 205 206 …            ◀─ append
//! ```

use std::collections::VecDeque;

use serde::Serialize;
use uuid::Uuid;

use crate::payload::{CLIP_SCHEMA, GAP_SCHEMA, GapPayload, TRIGGER_SCHEMA};
use crate::topics::Topic;

/// Where an event stands in the outbox's order. Never reused; later is larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before every event.
    pub const START: Self = Self(0);
}

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Gets the next `seq`.
    Trigger,
    /// Belongs to a trigger and has no `seq`: a reader of triggers alone must see no hole.
    Clip,
}

/// An event to keep. The outbox adds `schema`, `id`, `stream`, `seq` and `replayed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What it is.
    pub kind: EventKind,
    /// Where it goes.
    pub topic: Topic,
    /// Its id, which consumers de-duplicate by.
    pub id: String,
    /// A JSON object with at least one field: the rest of the message.
    pub body: Vec<u8>,
}

/// An event that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place.
    pub position: Position,
    /// Its number, if it is a trigger.
    pub seq: Option<u64>,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its place.
    pub position: Position,
    /// Where it goes.
    pub topic: Topic,
    /// The whole message.
    pub payload: Vec<u8>,
}

/// Why an outbox could not do it.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The body is not a JSON object with a field.
    #[error("event {id}: the body is not a JSON object with at least one field")]
    Body {
        /// The event.
        id: String,
    },
    /// The store failed; the event is not kept.
    #[error("the outbox at {place} failed: {source}. Check the disk's free space and health")]
    Store {
        /// File or table.
        place: String,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Keeps events in order until they are acknowledged.
///
/// A reader walks it with [`next_after`](Self::next_after) and a cursor of its own, so a store can
/// serve two lanes (new events, and the backlog of a long outage) with two cursors.
pub trait Outbox: Send {
    /// Id of this outbox: a new one exactly when the numbering begins anew.
    fn stream(&self) -> &str;

    /// Keeps an event. Returns only when it is as durable as this outbox makes it.
    fn append(&mut self, event: NewEvent) -> Result<Appended, OutboxError>;

    /// The first message behind `after`, in order, with `replayed` true if an earlier connection
    /// (or, in a durable outbox, maybe an earlier process) was given it.
    fn next_after(&mut self, after: Position) -> Result<Option<Pending>, OutboxError>;

    /// The message is given to the present connection: it can't be evicted until acknowledged or
    /// until [`connection_lost`](Self::connection_lost). Called in order of position. A durable
    /// outbox need not store it, if it then takes everything for sent after a restart.
    fn sent(&mut self, position: Position) -> Result<(), OutboxError>;

    /// The broker acknowledged it: it is removed. Unknown positions are of no effect.
    fn delivered(&mut self, position: Position) -> Result<(), OutboxError>;

    /// What was in flight may or may not have arrived; it will be sent again.
    fn connection_lost(&mut self) -> Result<(), OutboxError>;

    /// Messages kept; a gap is one.
    fn len(&self) -> usize;

    /// Whether nothing is kept.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes kept.
    fn bytes(&self) -> usize;

    /// Events evicted since this outbox was opened.
    fn evicted(&self) -> u64;
}

/// How much an outbox keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of messages, topics and bookkeeping.
    pub bytes: usize,
}

impl Default for OutboxLimits {
    /// 10 000 messages, 16 MiB: a trigger every 10 s with its clip for 14 hours.
    fn default() -> Self {
        Self {
            messages: 10_000,
            bytes: 16 << 20,
        }
    }
}

/// An outbox that lives and dies with the process.
///
/// `limits` hold except for what is in flight, one gap and the newest event, which are never
/// evicted.
#[derive(Debug)]
pub struct MemoryOutbox {
    limits: OutboxLimits,
    stream: String,
    gap_topic: Topic,
    /// In order of position; those in flight are a prefix.
    entries: VecDeque<Entry>,
    bytes: usize,
    last_position: u64,
    last_seq: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Entry {
    position: Position,
    in_flight: bool,
    /// An earlier connection was given it.
    sent_before: bool,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Event { event: NewEvent, seq: Option<u64> },
    Gap(Gap),
}

#[derive(Debug, Clone)]
struct Gap {
    id: String,
    seqs: Option<(u64, u64)>,
    triggers: u64,
    clips: u64,
    maybe_delivered: u64,
}

/// Bookkeeping per entry, roughly; a gap is about twice that on the wire.
const ENTRY_BYTES: usize = 128;

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match &self.content {
                Content::Event { event, .. } => {
                    event.body.len() + event.topic.as_str().len() + event.id.len()
                }
                Content::Gap(_) => ENTRY_BYTES,
            }
    }

    fn into_gap(self) -> Gap {
        match self.content {
            Content::Gap(gap) => gap,
            Content::Event { event, seq } => Gap {
                id: new_id(),
                seqs: seq.map(|s| (s, s)),
                triggers: u64::from(event.kind == EventKind::Trigger),
                clips: u64::from(event.kind == EventKind::Clip),
                maybe_delivered: u64::from(self.sent_before),
            },
        }
    }
}

impl Gap {
    /// Takes in the gap right behind this one.
    fn absorb(&mut self, next: &Gap) {
        self.seqs = match (self.seqs, next.seqs) {
            (Some((from, _)), Some((_, to))) => Some((from, to)),
            (a, b) => a.or(b),
        };
        self.triggers += next.triggers;
        self.clips += next.clips;
        self.maybe_delivered += next.maybe_delivered;
    }
}

/// A UUIDv7: ids made later sort later.
pub(crate) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

impl MemoryOutbox {
    /// An empty outbox with a new stream. Gaps go to `gap_topic`.
    pub fn new(limits: OutboxLimits, gap_topic: Topic) -> Self {
        Self {
            limits,
            stream: new_id(),
            gap_topic,
            entries: VecDeque::new(),
            bytes: 0,
            last_position: 0,
            last_seq: 0,
            evicted: 0,
        }
    }

    fn make_room(&mut self, bytes: usize) {
        while self.entries.len() >= self.limits.messages || self.bytes + bytes > self.limits.bytes {
            if !self.evict_one() {
                return;
            }
        }
    }

    /// Turns the oldest event not in flight into a gap, or lets the gap there swallow the next.
    fn evict_one(&mut self) -> bool {
        let Some(at) = self.entries.iter().position(|e| !e.in_flight) else {
            return false;
        };
        let first_is_gap = matches!(self.entries[at].content, Content::Gap(_));
        let next = if first_is_gap {
            let Some(next) = self.entries.remove(at + 1) else {
                return false;
            };
            self.bytes -= next.bytes();
            Some(next)
        } else {
            None
        };
        let Some(first) = self.entries.remove(at) else {
            return false;
        };
        self.bytes -= first.bytes();

        let mut position = first.position;
        let sent_before = first.sent_before;
        let mut gap = first.into_gap();
        match next {
            None => self.evicted += 1,
            Some(next) => {
                if matches!(next.content, Content::Event { .. }) {
                    self.evicted += 1;
                }
                position = next.position;
                gap.absorb(&next.into_gap());
                // Who has seen the smaller gap would take the larger one for a repetition.
                if sent_before {
                    gap.id = new_id();
                }
            }
        }
        let entry = Entry {
            position,
            in_flight: false,
            sent_before: false,
            content: Content::Gap(gap),
        };
        self.bytes += entry.bytes();
        self.entries.insert(at, entry);
        true
    }

    fn index_of(&self, position: Position) -> Option<usize> {
        self.entries
            .binary_search_by_key(&position, |e| e.position)
            .ok()
    }

    fn message(&self, entry: &Entry) -> Pending {
        let (topic, payload) = match &entry.content {
            Content::Event { event, seq } => (
                event.topic.clone(),
                stamped(event, &self.stream, *seq, entry.sent_before),
            ),
            Content::Gap(gap) => (
                self.gap_topic.clone(),
                json(&GapPayload {
                    schema: GAP_SCHEMA.to_owned(),
                    id: gap.id.clone(),
                    stream: self.stream.clone(),
                    seq_from: gap.seqs.map(|s| s.0),
                    seq_to: gap.seqs.map(|s| s.1),
                    count: gap.triggers + gap.clips,
                    triggers: gap.triggers,
                    clips: gap.clips,
                    maybe_delivered: gap.maybe_delivered,
                    replayed: entry.sent_before,
                }),
            ),
        };
        Pending {
            position: entry.position,
            topic,
            payload,
        }
    }
}

/// What the outbox adds in front of an event's own fields.
#[derive(Serialize)]
struct Stamp<'a> {
    schema: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    replayed: bool,
}

/// The message: the stamp's fields, then the body's. The body is kept as it was appended, so a
/// re-send differs from the first send in `replayed` only.
pub fn stamped(event: &NewEvent, stream: &str, seq: Option<u64>, replayed: bool) -> Vec<u8> {
    let schema = match event.kind {
        EventKind::Trigger => TRIGGER_SCHEMA,
        EventKind::Clip => CLIP_SCHEMA,
    };
    let mut out = json(&Stamp {
        schema,
        id: &event.id,
        stream: seq.map(|_| stream),
        seq,
        replayed,
    });
    out.pop();
    out.push(b',');
    out.extend_from_slice(event.body.get(1..).unwrap_or_default());
    out
}

/// Checks that [`stamped`] can put its fields in front.
pub fn check_body(event: &NewEvent) -> Result<(), OutboxError> {
    let body = &event.body;
    if body.starts_with(b"{\"") && body.ends_with(b"}") {
        return Ok(());
    }
    Err(OutboxError::Body {
        id: event.id.clone(),
    })
}

/// Plain structs of strings, numbers and flags always serialise.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl Outbox for MemoryOutbox {
    fn stream(&self) -> &str {
        &self.stream
    }

    fn append(&mut self, event: NewEvent) -> Result<Appended, OutboxError> {
        check_body(&event)?;
        let seq = (event.kind == EventKind::Trigger).then(|| {
            self.last_seq += 1;
            self.last_seq
        });
        self.last_position += 1;
        let entry = Entry {
            position: Position(self.last_position),
            in_flight: false,
            sent_before: false,
            content: Content::Event { event, seq },
        };
        self.make_room(entry.bytes());
        let position = entry.position;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        Ok(Appended { position, seq })
    }

    fn next_after(&mut self, after: Position) -> Result<Option<Pending>, OutboxError> {
        let at = self.entries.partition_point(|e| e.position <= after);
        Ok(self.entries.get(at).map(|e| self.message(e)))
    }

    fn sent(&mut self, position: Position) -> Result<(), OutboxError> {
        if let Some(entry) = self
            .index_of(position)
            .and_then(|at| self.entries.get_mut(at))
        {
            entry.in_flight = true;
        }
        Ok(())
    }

    fn delivered(&mut self, position: Position) -> Result<(), OutboxError> {
        if let Some(entry) = self
            .index_of(position)
            .and_then(|at| self.entries.remove(at))
        {
            self.bytes -= entry.bytes();
        }
        Ok(())
    }

    fn connection_lost(&mut self) -> Result<(), OutboxError> {
        for entry in self.entries.iter_mut().filter(|e| e.in_flight) {
            entry.in_flight = false;
            entry.sent_before = true;
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
