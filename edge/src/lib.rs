//! visualpath edge: a vision appliance in one binary.
//!
//! The library is what the binary is made of; [`Pipeline`] is the appliance.

pub mod bench;
pub mod broker;
pub mod builtin;
pub mod cli;
pub mod config;
pub mod exit;
pub mod models;
pub mod pipeline;
pub mod rule_tests;
pub mod version;

pub use exit::Exit;
pub use pipeline::{Pipeline, Report, StartError};
