//! Connections to one camera, and what each gives, for the live encoded source.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::oneshot;
use visualpath_core::Name;

use super::super::StopFlag;
use super::super::encoded::{Connect, ConnectError, Incoming, PacketStream, StreamError, Unit};
use super::RtspTransport;
use super::address::Address;
use super::error::RtspError;
use super::session::{self, Facts, Patience, Plan};
use super::units::Judged;

/// Access units waiting between the session and the source: some seconds of them. The source may
/// be held up by a decoder that starts; the session must go on reading, or the camera gives up.
const QUEUE: usize = 128;

/// Their bytes, at most.
const QUEUE_BYTES: usize = 32 << 20;

/// How often the stop flag is looked at while a connection is made.
const LOOK: Duration = Duration::from_millis(100);

/// Connects to one camera.
pub(super) struct RtspConnect {
    name: Name,
    plan: Plan,
    /// Of the newest connection.
    facts: Option<Facts>,
}

impl RtspConnect {
    pub(super) fn new(name: &Name, address: Address, transport: RtspTransport) -> Self {
        Self {
            name: name.clone(),
            plan: Plan {
                address,
                transport,
                patience: Patience::default(),
            },
            facts: None,
        }
    }

    /// The same, but as patient as a test can be.
    #[cfg(test)]
    pub(super) fn patient(mut self, patience: Patience) -> Self {
        self.plan.patience = patience;
        self
    }

    fn start(&self) -> io::Result<(RtspStream, Receiver<Facts>)> {
        let (ready_tx, ready) = bounded(1);
        let (tx, rx) = bounded(QUEUE);
        let (cancel, cancelled) = oneshot::channel();
        let held_bytes = Arc::new(AtomicUsize::new(0));
        let outlet = Outlet {
            tx,
            held_bytes: Arc::clone(&held_bytes),
            lost: None,
        };
        let plan = self.plan.clone();
        let thread = std::thread::Builder::new()
            .name(format!("rtsp:{}", self.name))
            .spawn(move || session::run(&plan, &ready_tx, outlet, cancelled))?;
        let stream = RtspStream {
            rx,
            held_bytes,
            next: None,
            cancel: Some(cancel),
            thread: Some(thread),
            address: self.plan.address.clone(),
        };
        Ok((stream, ready))
    }
}

impl Connect for RtspConnect {
    fn connect(&mut self, stop: &StopFlag) -> Result<Box<dyn PacketStream>, ConnectError> {
        let here = |cause| ConnectError::Failed(RtspError::Here(cause).outage(&self.plan.address));
        let (mut stream, ready) = self.start().map_err(here)?;
        loop {
            match ready.recv_timeout(LOOK) {
                Ok(facts) => {
                    if self.facts.as_ref() != Some(&facts) {
                        tracing::info!(source = %self.name, "{}: {facts}", self.plan.address);
                    }
                    self.facts = Some(facts);
                    return Ok(Box::new(stream));
                }
                Err(RecvTimeoutError::Timeout) if stop.is_set() => {
                    return Err(ConnectError::Stopped);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let error = stream.why();
                    return Err(ConnectError::Failed(error.outage(&self.plan.address)));
                }
            }
        }
    }

    fn describe(&self) -> String {
        let address = &self.plan.address;
        let transport = self.plan.transport.as_str();
        let silent = match &self.facts {
            Some(facts) if facts.has_audio => " (audio not captured)",
            _ => "",
        };
        format!("{address} over {transport}{silent}")
    }
}

/// One connection. Dropping it says goodbye to the camera and joins the thread.
struct RtspStream {
    rx: Receiver<Queued>,
    held_bytes: Arc<AtomicUsize>,
    /// Comes after the loss that was told.
    next: Option<Incoming>,
    /// Dropping it ends the session.
    cancel: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), RtspError>>>,
    address: Address,
}

impl RtspStream {
    /// Why the session ended. It has, or will at once.
    fn why(&mut self) -> RtspError {
        drop(self.cancel.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            // Cancelled before, or asked twice.
            Some(Ok(Ok(()))) | None => RtspError::Closed,
            Some(Err(_)) => RtspError::Broken("the RTSP library gave up on what it got".to_owned()),
        }
    }
}

impl PacketStream for RtspStream {
    fn next(&mut self, limit: Duration) -> Result<Unit, StreamError> {
        if let Some(packet) = self.next.take() {
            return Ok(Unit::Packet(packet));
        }
        match self.rx.recv_timeout(limit) {
            Ok(Queued { lost, packet }) => {
                self.held_bytes
                    .fetch_sub(packet.data.len(), Ordering::Relaxed);
                match lost {
                    Some(lost) => {
                        self.next = Some(packet);
                        Ok(Unit::Lost(lost))
                    }
                    None => Ok(Unit::Packet(packet)),
                }
            }
            Err(RecvTimeoutError::Timeout) => Ok(Unit::Waiting),
            Err(RecvTimeoutError::Disconnected) => {
                let error = self.why();
                Err(StreamError::Failed(error.outage(&self.address)))
            }
        }
    }
}

impl Drop for RtspStream {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // What it says does not matter any more: nobody is left to hear it.
            self.why();
        }
    }
}

/// A packet, after what was lost before it.
struct Queued {
    lost: Option<u64>,
    packet: Incoming,
}

/// The session's end of the queue. It never waits.
pub(super) struct Outlet {
    tx: Sender<Queued>,
    held_bytes: Arc<AtomicUsize>,
    lost: Option<u64>,
}

impl Outlet {
    /// Pictures are lost: so many more, 0 if nobody can tell. Told before the next packet.
    pub(super) fn lost(&mut self, lost: u64) {
        self.lost = Some(self.lost.unwrap_or(0).saturating_add(lost));
    }

    /// Hands on what there is, or counts it as lost if there is no room.
    pub(super) fn give(&mut self, judged: Judged) {
        if let Some(lost) = judged.lost {
            self.lost(lost);
        }
        let Some(packet) = judged.packet else { return };
        let bytes = packet.data.len();
        let held = self.held_bytes.load(Ordering::Relaxed);
        if held.saturating_add(bytes) > QUEUE_BYTES {
            return self.lost(1);
        }
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let queued = Queued {
            lost: self.lost.take(),
            packet,
        };
        match self.tx.try_send(queued) {
            Ok(()) => {}
            Err(TrySendError::Full(queued) | TrySendError::Disconnected(queued)) => {
                self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.lost = queued.lost;
                self.lost(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::encoded::UnitTime;
    use super::*;
    use crate::encode::CodecParams;

    fn judged(bytes: usize) -> Judged {
        Judged {
            lost: None,
            packet: Some(Incoming {
                params: CodecParams::for_tests(16, 16),
                data: Bytes::from(vec![0; bytes]),
                is_key: true,
                time: UnitTime::Device(0),
                shown_after_ns: 0,
            }),
        }
    }

    #[test]
    fn what_does_not_fit_the_queue_is_told_as_lost_before_what_fits_again() {
        for (size, fits) in [(1, QUEUE), (QUEUE_BYTES / 4, 4)] {
            let (tx, rx) = bounded(QUEUE);
            let held_bytes = Arc::new(AtomicUsize::new(0));
            let mut outlet = Outlet {
                tx,
                held_bytes: Arc::clone(&held_bytes),
                lost: None,
            };
            for _ in 0..fits + 3 {
                outlet.give(judged(size));
            }
            assert_eq!(rx.len(), fits);
            let mut stream = RtspStream {
                rx,
                held_bytes: Arc::clone(&held_bytes),
                next: None,
                cancel: None,
                thread: None,
                address: Address::parse("rtsp://h/", &Default::default()).unwrap(),
            };
            for _ in 0..fits {
                assert!(matches!(stream.next(LOOK), Ok(Unit::Packet(_))));
            }
            assert_eq!(held_bytes.load(Ordering::Relaxed), 0);
            assert!(matches!(stream.next(Duration::ZERO), Ok(Unit::Waiting)));
            outlet.give(judged(size));
            assert!(matches!(stream.next(LOOK), Ok(Unit::Lost(3))));
            assert!(matches!(stream.next(LOOK), Ok(Unit::Packet(_))));
            drop(outlet);
            assert!(stream.next(LOOK).is_err(), "the session is gone");
        }
    }
}
