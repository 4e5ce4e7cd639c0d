//! Isolation changes nothing but where an extractor runs: the same observations, in the same order,
//! with the same errors, inline, on a thread and in a process, however the pixels get there.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

mod reload;
mod same;
mod steps;
mod variants;
