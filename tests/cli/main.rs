//! Setting up and looking after: `devices`, `doctor`, `init`, by the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

mod devices;
mod doctor;
mod init;
