//! The live encoded source: packets from a connection that may break at any time, kept as evidence
//! and decoded for analysis.
mod connect;

pub(super) use connect::{
    Connect, ConnectError, Incoming, PacketStream, StreamError, Unit, UnitTime,
};

// `EncodedSource::new(opts: &SourceOptions, clock: Arc<dyn Clock>, connect: C) -> EncodedSource<C>`
// with `impl<C: Connect> Source for EncodedSource<C>` follows.
