//! Promises about the project itself.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

mod ranks;
