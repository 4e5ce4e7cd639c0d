//! Faults of worker processes, each by a real process in the real appliance: a worker that dies,
//! hangs, or breaks the protocol harms nobody but itself.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

mod bad;
mod config;
mod dies;
mod hold;
mod parent;
mod resources;
mod speaks;
