//! Frames that cross threads and processes without being copied.
//!
//! One [`FramePool`] is one piece of memory cut into equal slots. The source takes a free slot
//! ([`SlotMut`]), fills it and publishes it as a [`Frame`]; everyone who wants to look takes a
//! lease of it; the slot is free again when the last lease is dropped, and never before:
//!
//! ```text
//! free ──try_acquire──▶ SlotMut ──publish──▶ Frame ──lease(holder)──▶ Frame, Frame, …
//!   ▲                      │ drop                                        │ last drop
//!   └──────────────────────┴─────────────────────────────────────────────┘
//! ```
//!
//! The one hard idea: **who may touch which bytes is decided by ownership of a token, not by a
//! protocol in the shared memory.** The lease table ([`lease`]) lies in the parent's own heap,
//! where no child can reach it and where loom and Miri can run it; it alone makes the tokens,
//! and the one module with `unsafe` ([`memory`]) turns a token into a slice.
//!
//! Views (BGR at 640×360, letterboxed RGB at 416², …) lie in the same slot, laid out when the
//! pool is made, and are filled on first use, at most once per frame.
//!
//! Why it is like this: `docs/design/frames.md`.

mod frame;
mod header;
mod holder;
mod layout;
mod lease;
mod memory;
mod pool;
mod share;
mod sync;
mod view;

pub use frame::{Frame, SlotMut};
pub use header::{SLOT_HEADER_BYTES, SLOT_MAGIC, SLOT_VERSION, SlotHeader};
pub use holder::{Holder, MAX_HOLDERS};
pub use layout::{
    MAX_POOL_BYTES, MAX_SIDE, MAX_SLOTS, MAX_VIEWS, PoolLayout, PoolSpec, ViewId, ViewPlace,
};
pub use memory::{MemfdError, PoolReader};
pub use pool::{FramePool, PoolError, PoolStats};
pub use share::{PoolSocket, ShareError};
pub use view::{ViewError, ViewMaker};
