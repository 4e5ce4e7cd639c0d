//! Events out, commands in: topics, payloads, outbox, publisher, and the broker for a demo without
//! one.
//!
//! The way of one trigger:
//!
//! ```text
//! path thread ─▶ PublisherHandle::trigger ─▶ Outbox (numbered, kept) ─▶ thread `mqtt` ─▶ broker
//!                        │                                                     │
//!                        └─ returns the payload with its id and seq            └─ PUBACK: removed
//! ```
//!
//! Commands come the other way, on the same connection: see [`command`].
//!
//! The outbox is the only truth about what still has to be sent. The MQTT client holds a copy of
//! the few messages in flight and is thrown away with its connection; see `docs/design/events.md`.
//!
//! This is the only crate that sees the MQTT client.
#![forbid(unsafe_code)]

pub mod ask;
#[cfg(feature = "embedded")]
pub mod broker;
pub mod command;
mod hearing;
mod link;
pub mod outbox;
pub mod payload;
pub mod publisher;
pub mod topics;
mod trial;
pub mod url;

pub use ask::{AskError, ask};
#[cfg(feature = "embedded")]
pub use broker::{BrokerError, BrokerOptions, EmbeddedBroker};
pub use command::{
    Command, CommandError, CommandId, CommandOptions, CommandPayload, CommandResponse,
};
pub use outbox::{MemoryOutbox, Outbox, OutboxError, OutboxLimits};
pub use payload::{
    ClipBody, ClipPayload, ClipState, Event, GapPayload, Health, Info, Summary, TriggerBody,
    TriggerPayload, schemas,
};
pub use publisher::{FinishReport, MqttOptions, Publisher, PublisherError, PublisherHandle};
pub use topics::{ExtractorStatus, SourceStatus, Topic, TopicError, Topics};
pub use trial::{Trial, TrialError, trial};
pub use url::{BrokerUrl, Scheme, UrlError, parse_url};
