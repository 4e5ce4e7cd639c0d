//! Hears when a child's connection is lost.
//!
//! The hard idea: **libzmq tells a monitor from its own I/O thread, and waits without limit for
//! somebody to hear it.** A monitor that is dropped while its socket still has something to say
//! (the disconnection of the child that just died) stops that thread, and with it every connection
//! of this process, for ever. So a monitor that is not needed any more is not dropped, but handed to
//! [`Leaving`], where it is listened to until its socket says that it is gone.

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::link::context;

const LOST: zmq::SocketEvent = zmq::SocketEvent::DISCONNECTED;
/// The socket's last word.
const GONE: zmq::SocketEvent = zmq::SocketEvent::MONITOR_STOPPED;

/// The monitor of one socket.
pub struct Monitor {
    /// `None` only while it is dropped.
    socket: Option<zmq::Socket>,
    leaving: Sender<zmq::Socket>,
}

impl Monitor {
    /// Of `socket`; `token` is nobody else's.
    pub fn new(socket: &zmq::Socket, token: &str, leaving: &Leaving) -> Result<Self, zmq::Error> {
        // Everything that can fail comes before there is something to be heard.
        let own = context().socket(zmq::PAIR)?;
        own.set_linger(0)?;
        // No bound: whoever speaks must never wait for the launcher.
        own.set_rcvhwm(0)?;
        let endpoint = format!("inproc://monitor-{token}");
        socket.monitor(&endpoint, i32::from(LOST.to_raw() | GONE.to_raw()))?;
        own.connect(&endpoint)?;
        Ok(Self {
            socket: Some(own),
            leaving: leaving.hand_over.clone(),
        })
    }

    /// To be polled for reading.
    pub fn poll_item(&self) -> Option<zmq::PollItem<'_>> {
        self.socket.as_ref().map(|s| s.as_poll_item(zmq::POLLIN))
    }

    /// Whether a connection was lost since the last look.
    pub fn has_lost(&self) -> bool {
        let mut lost = false;
        while let Some(event) = self.socket.as_ref().and_then(next) {
            lost |= event == LOST.to_raw();
        }
        lost
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take()
            && self.leaving.send(socket).is_err()
        {
            tracing::debug!("nobody listens to monitors any more");
        }
    }
}

/// Monitors that nobody needs any more, until their sockets are gone.
pub struct Leaving {
    hand_over: Sender<zmq::Socket>,
    handed_over: Receiver<zmq::Socket>,
    sockets: Vec<zmq::Socket>,
}

impl Leaving {
    /// None.
    pub fn new() -> Self {
        // As many as there are children at most.
        let (hand_over, handed_over) = unbounded();
        Self {
            hand_over,
            handed_over,
            sockets: Vec::new(),
        }
    }

    /// Drops those whose socket is gone.
    pub fn look(&mut self) {
        self.sockets.extend(self.handed_over.try_iter());
        self.sockets.retain(|socket| {
            while let Some(event) = next(socket) {
                if event == GONE.to_raw() {
                    return false;
                }
            }
            true
        });
    }

    /// To be polled for reading.
    pub fn poll_items(&self) -> impl Iterator<Item = zmq::PollItem<'_>> {
        self.sockets.iter().map(|s| s.as_poll_item(zmq::POLLIN))
    }
}

/// The next event: its first part is its number (u16) and a value, in the machine's byte order.
fn next(socket: &zmq::Socket) -> Option<u16> {
    let parts = socket.recv_multipart(zmq::DONTWAIT).ok()?;
    let number = parts.first()?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A router that a dealer has connected to, its monitor, and the dealer.
    fn connected(leaving: &Leaving, token: &str) -> (zmq::Socket, Monitor, zmq::Socket) {
        let dir = std::env::temp_dir().join(format!("vp-test-{}-{token}", std::process::id()));
        let endpoint = format!("ipc://{}", dir.display());
        let router = context().socket(zmq::ROUTER).unwrap();
        router.set_linger(0).unwrap();
        router.bind(&endpoint).unwrap();
        let monitor = Monitor::new(&router, token, leaving).unwrap();
        // Of a context of its own, as in another process.
        let dealer = zmq::Context::new().socket(zmq::DEALER).unwrap();
        dealer.set_linger(0).unwrap();
        dealer.connect(&endpoint).unwrap();
        dealer.send("hello", 0).unwrap();
        assert_eq!(heard(&mut [router.as_poll_item(zmq::POLLIN)]), 1);
        router.recv_multipart(zmq::DONTWAIT).unwrap();
        std::fs::remove_file(dir).unwrap();
        (router, monitor, dealer)
    }

    /// How many of them have something to read. Children of other tests end meanwhile: a signal is
    /// no answer.
    fn heard(items: &mut [zmq::PollItem<'_>]) -> i32 {
        loop {
            match zmq::poll(items, 60_000) {
                Err(zmq::Error::EINTR) => {}
                heard => return heard.unwrap(),
            }
        }
    }

    #[test]
    fn a_connection_that_is_lost_is_heard_of() {
        let leaving = Leaving::new();
        let (_router, monitor, dealer) = connected(&leaving, "lost");
        assert!(!monitor.has_lost());
        drop(dealer);
        let item = monitor.poll_item().unwrap();
        assert_eq!(heard(&mut [item]), 1);
        assert!(monitor.has_lost());
    }

    #[test]
    fn a_monitor_that_leaves_before_its_connection_is_lost_stops_nobody() {
        let mut leaving = Leaving::new();
        for n in 0..20 {
            let (router, monitor, dealer) = connected(&leaving, &format!("early{n}"));
            drop(monitor);
            drop(dealer);
            // The I/O thread is well if it still connects others.
            let (_other, _, _) = connected(&leaving, &format!("next{n}"));
            drop(router);
        }
        leaving.look();
        while !leaving.sockets.is_empty() {
            let mut items: Vec<zmq::PollItem<'_>> = leaving.poll_items().collect();
            assert!(heard(&mut items) > 0, "they all end");
            drop(items);
            leaving.look();
        }
    }
}
