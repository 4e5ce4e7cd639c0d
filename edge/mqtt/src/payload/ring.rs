//! The evidence ring of a source, as `health` and the status document tell of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of one source, beside its problems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceHealth {
    /// Which.
    pub source: String,
    /// Its ring; absent if no rule wants clips of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingStatus>,
}

/// Encoded video kept in memory, for what was before a trigger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RingStatus {
    /// From the oldest packet to the newest, milliseconds.
    pub held_ms: i64,
    /// What it costs now.
    pub bytes: u64,
    /// What it may cost (`clip.ring_bytes`).
    pub budget_bytes: u64,
    /// Packets held.
    pub packets: u64,
    /// Source time of the oldest; `null` while it is empty.
    pub oldest_ns: Option<i64>,
    /// The same in milliseconds.
    pub oldest_ms: Option<i64>,
    /// Measured; `null` before a second was seen.
    pub bytes_per_s: Option<u64>,
    /// By how much it can't hold the longest pre-roll of any rule; `null` if it can.
    pub short: Option<RingShort>,
}

/// A ring that is too small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RingShort {
    /// The longest pre-roll, milliseconds.
    pub asked_ms: i64,
    /// What is always held at the measured bit rate, milliseconds.
    pub holds_ms: i64,
    /// The `clip.ring_bytes` that would do.
    pub needs_bytes: u64,
}
