//! What the live encoded source is fed by: a thing that makes connections, and one connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use visualpath_core::ImageLayout;

use super::super::{Outage, StopFlag};
use crate::encode::CodecParams;

/// Makes connections to one thing that gives encoded access units or raw pictures: a program's
/// output, a server's stream.
pub(in crate::source) trait Connect: Send {
    /// One connection. May take some seconds; `stop` is looked at every 100 ms or more often.
    ///
    /// # Errors
    /// Why there is none now. It is tried again later, with back-off.
    fn connect(&mut self, stop: &StopFlag) -> Result<Box<dyn PacketStream>, ConnectError>;

    /// What it connects to, for people, without secrets: `exec rpicam-vid`.
    fn describe(&self) -> String;
}

/// One connection. Dropping it closes it and leaves nothing behind.
pub(in crate::source) trait PacketStream: Send {
    /// What comes next, waiting at most `limit` for it: [`Unit::Waiting`] then.
    ///
    /// # Errors
    /// The connection is of no more use.
    fn next(&mut self, limit: Duration) -> Result<Unit, StreamError>;

    /// Reads the raw picture last announced by [`Unit::Picture`] into `out`, exactly its layout's
    /// bytes. Called at most once per picture; one for which it is not called is passed over.
    ///
    /// # Errors
    /// The connection is of no more use.
    fn fill(&mut self, out: &mut [u8], stop: &StopFlag) -> Result<(), StreamError> {
        let _ = (out, stop);
        Err(StreamError::failed("it has no raw pictures", ""))
    }
}

/// What a connection gives next.
#[derive(Debug)]
pub(in crate::source) enum Unit {
    /// An encoded picture.
    Packet(Incoming),
    /// A raw picture, to be had by [`PacketStream::fill`].
    Picture {
        /// Its layout.
        layout: ImageLayout,
        /// When it was captured.
        time: UnitTime,
        /// Pictures a second, if the stream says.
        fps: Option<f64>,
    },
    /// So many pictures are lost on the way here; 0 where nobody can tell how many.
    Lost(u64),
    /// Nothing came within the limit.
    Waiting,
    /// The other side has ended the stream.
    End,
}

/// One access unit, in decoding order.
#[derive(Debug, Clone)]
pub(in crate::source) struct Incoming {
    /// What it needs to be decoded. The same `Arc` as long as nothing changes.
    pub(in crate::source) params: Arc<CodecParams>,
    /// As [`crate::encode::Packet::data`].
    pub(in crate::source) data: Bytes,
    /// As [`crate::encode::Packet::is_key`].
    pub(in crate::source) is_key: bool,
    /// When it is decoded, which increases.
    pub(in crate::source) time: UnitTime,
    /// How long after `time` it is shown; 0 in streams without reordering.
    pub(in crate::source) shown_after_ns: i64,
}

/// When a picture was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum UnitTime {
    /// Nobody says: when it arrived.
    Arrival,
    /// So many nanoseconds ago.
    Aged(i64),
    /// Nanoseconds of the sender's own clock. Only distances count.
    Device(i64),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::source) enum ConnectError {
    /// The stop flag.
    #[error("stopped")]
    Stopped,
    /// Anything else.
    #[error("{}", .0.detail)]
    Failed(Outage),
}

impl ConnectError {
    /// What happened, and what to do.
    pub(in crate::source) fn failed(detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed(Outage {
            detail: detail.into(),
            advice: advice.into(),
        })
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(in crate::source) enum StreamError {
    /// The stop flag.
    #[error("stopped")]
    Stopped,
    /// Anything else.
    #[error("{}", .0.detail)]
    Failed(Outage),
}

impl StreamError {
    /// What happened, and what to do.
    pub(in crate::source) fn failed(detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed(Outage {
            detail: detail.into(),
            advice: advice.into(),
        })
    }
}
