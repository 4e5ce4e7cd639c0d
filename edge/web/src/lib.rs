//! HTTP: health, metrics, status and clips.
//!
//! ```text
//! thread `web`: accept ─▶ at most 32 connections ─▶ guard (token, Host, Origin) ─▶ route ─▶ Api
//!                                                                                  └▶ file, by range
//! ```
//!
//! The appliance is seen through [`Api`] alone: plain, blocking calls, which run on a few threads of
//! their own. Everything is bounded ([`Limits`]): connections, headers, bodies, calls under way, the
//! time a client may take. Whoever reads slowly keeps its own connection waiting and nothing else.
//!
//! Routes and codes: `docs/reference/http.md`. This is the only crate that sees the HTTP server.
#![forbid(unsafe_code)]

pub mod api;
mod file;
mod guard;
mod pace;
mod places;
mod refusal;
mod routes;
mod server;

pub use api::{Answer, Api, ApiError, Readiness};
pub use guard::{Token, TokenError};
pub use refusal::status_of;
pub use server::{Limits, StartError, Stopped, WebOptions, WebServer};
