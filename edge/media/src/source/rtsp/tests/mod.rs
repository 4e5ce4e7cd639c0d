//! Real sessions with a server that does what it is told.

mod clip;
mod gst;
mod packets;
mod server;
mod source;

use std::time::Duration;

use visualpath_core::Name;

use super::super::encoded::{Connect, ConnectError, Incoming, PacketStream, StreamError, Unit};
use super::super::{Outage, StopFlag};
use super::address::Address;
use super::session::Patience;
use super::stream::RtspConnect;
use super::{RtspOptions, RtspTransport};

/// A hang guard, no more.
const LONG: Duration = Duration::from_secs(60);

/// Enough for a server on this machine; short where a test waits for it to run out.
const PATIENT: Patience = Patience {
    answer: LONG,
    silence: LONG,
};

fn connect_with(uri: &str, options: &RtspOptions, patience: Patience) -> RtspConnect {
    let address = Address::parse(uri, options).unwrap();
    RtspConnect::new(&Name::new("cam0").unwrap(), address, options.transport).patient(patience)
}

fn connect(uri: &str) -> RtspConnect {
    connect_with(uri, &RtspOptions::default(), PATIENT)
}

fn connected(connect: &mut RtspConnect) -> Box<dyn PacketStream> {
    match connect.connect(&StopFlag::new()) {
        Ok(stream) => stream,
        Err(error) => panic!("{error}"),
    }
}

fn failed(connect: &mut RtspConnect) -> Outage {
    match connect.connect(&StopFlag::new()) {
        Err(ConnectError::Failed(outage)) => outage,
        Err(ConnectError::Stopped) => panic!("nobody stopped it"),
        Ok(_) => panic!("it connected"),
    }
}

fn packet(stream: &mut dyn PacketStream) -> Incoming {
    match stream.next(LONG) {
        Ok(Unit::Packet(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn broken(stream: &mut dyn PacketStream) -> Outage {
    match stream.next(LONG) {
        Err(StreamError::Failed(outage)) => outage,
        other => panic!("{other:?}"),
    }
}
