//! Extractors in processes of their own.
//!
//! ```text
//! Launcher (one thread): spawn ─▶ hello ─▶ ready ──Link──▶ ChildWorker (path thread): extract ⇄ observations
//!        ▲ restart, Hold ◀── pidfd, pipes, start time-out          │ kill: hung, broke the protocol
//!        └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Two owners: the [`Launcher`] brings a child up and watches over its life, then gives its socket
//! ([`Link`]) to the path thread, which speaks with it without anybody between. Why:
//! `docs/design/isolation.md`.

mod child;
mod fusion;
mod handshake;
mod launcher;
mod life;
mod lines;
mod link;
mod monitor;
mod process;
mod rendezvous;
mod restarts;

pub use child::{ChildEvent, ChildWorker, Gone, JpegEncoder, Pixels, sleep};
pub use fusion::{ChildFusion, Patience};
pub use launcher::{
    ChildHandle, ChildSpec, Facts, Launcher, LauncherError, Life, NotRunning, Program,
};
pub use link::Link;
pub use visualpath_protocol::ErrorKind;
