//! End to end: the real binary on real video with the real model, a real broker, real players.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

mod broker;
mod cameras;
mod commands;
mod http;
mod live;
mod many;
mod python;
mod real_video;
mod rule_tests;
mod trace;
mod wrong;
