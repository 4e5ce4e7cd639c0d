//! What happened, record by record: for looking afterwards why a rule fired or did not, and for
//! running the fusions again on what was observed.
//!
//! ```text
//! path thread ─ FlowTrace ─▶ ObservabilityHub ─┬▶ queue ─▶ trace-file thread    ─▶ JSON lines ─▶ reader ─▶ replay
//! events thread ─ emit ─────▶   (one load      ├▶ queue ─▶ trace-console thread
//!                                when off)     └▶ queue ─▶ trace-memory thread
//! ```
//!
//! [`ObservabilityHub`] is asked first ([`ObservabilityHub::enabled`], one relaxed load) and only
//! then is a [`Record`] built. The hard idea is that a sink can do whatever it likes: block for
//! ever, fail, panic. It has a thread and a bounded queue of its own, so all it costs anybody else
//! is a `try_send` that fails, and what was lost stands in the trace as `dropped_records` at the
//! place where it is missing.
//!
//! [`FlowTrace`] is what a path thread calls. At [`Level::Verbose`] it records each fusion's inputs
//! completely, so that [`replay`] can feed them again; because a fusion is pure, the triggers must
//! come out the same to the bit.
//!
//! Every record type and field is in `docs/reference/trace.md`.

mod file;
mod flow_trace;
mod hub;
mod lane;
pub mod reader;
pub mod record;
pub mod replay;
mod sinks;
#[cfg(test)]
mod tests;

pub use file::{DEFAULT_MAX_BYTES, FileSink};
pub use flow_trace::FlowTrace;
pub use hub::{ObservabilityHub, SinkId};
pub use lane::{LaneOptions, SinkError, SinkProblem, TraceSink};
pub use reader::{MAX_LINE_BYTES, ParseError, ReadError, TraceReader, parse_line};
pub use record::{Level, Record};
pub use replay::{Difference, Replay, ReplayReport, replay};
pub use sinks::{ConsoleSink, MemoryRecords, MemorySink, NullSink};
