//! Promises about the project itself.
mod ranks;
