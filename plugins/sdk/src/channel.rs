//! The child's end of the conversation: a DEALER and descriptor 3.

use std::os::fd::{AsFd, AsRawFd};

use visualpath_frames::PoolSocket;
use visualpath_protocol::{
    Codec, DecodeError, EncodeError, Envelope, ErrorKind, ErrorReport, FromChild, FromParent,
    bounds::MAX_MESSAGE_BYTES, decode, encode_into,
};

use crate::serve::ServeError;

/// Largest picture that may come beside a message, bytes: a 16-megapixel BGR one.
const MAX_PIXELS: i64 = 48 << 20;

/// The two ways to the parent.
pub struct Channel {
    socket: zmq::Socket,
    /// Where pools come from.
    pub pools: PoolSocket,
    codec: Codec,
    out: Vec<u8>,
    into: zmq::Message,
}

/// What came.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack; a box would be an allocation per frame"
)]
pub enum Came {
    /// A message, and the pixels beside it if there are some.
    Message(Envelope<FromParent>, Option<zmq::Message>),
    /// The parent is gone.
    End,
}

impl Channel {
    /// Connects as the environment says (PROTOCOL.md, "How a child is started").
    pub fn open() -> Result<(Self, String), ServeError> {
        let variable =
            |name: &'static str| std::env::var(name).map_err(|_| ServeError::NotAWorker(name));
        let (endpoint, token) = (
            variable("VISUALPATH_ENDPOINT")?,
            variable("VISUALPATH_TOKEN")?,
        );
        let pools = PoolSocket::inherited()?;
        let socket = zmq::Context::new().socket(zmq::DEALER)?;
        socket.set_identity(token.as_bytes())?;
        // The last word should still go out, and a parent that is gone must not keep us.
        socket.set_linger(1000)?;
        socket
            .set_maxmsgsize(MAX_PIXELS.max(i64::try_from(MAX_MESSAGE_BYTES).unwrap_or(i64::MAX)))?;
        socket.connect(&endpoint)?;
        let channel = Self {
            socket,
            pools,
            codec: Codec::Json1,
            out: Vec::new(),
            into: zmq::Message::new(),
        };
        Ok((channel, token))
    }

    /// From now on, after the hellos.
    pub fn speak(&mut self, codec: Codec) {
        self.codec = codec;
    }

    /// Sends an answer. One that breaks a bound of the protocol is said to be an error instead.
    pub fn send(&mut self, id: u64, message: &FromChild) -> Result<(), ServeError> {
        if let Err(e) = encode_into(self.codec, id, message, &mut self.out) {
            let report = FromChild::Error(too_much(&e));
            encode_into(self.codec, id, &report, &mut self.out)?;
        }
        Ok(self.socket.send(&self.out, 0)?)
    }

    /// Waits for the next message. What can't be understood is answered here.
    pub fn receive(&mut self) -> Result<Came, ServeError> {
        loop {
            if !self.wait()? {
                return Ok(Came::End);
            }
            self.socket.recv(&mut self.into, 0)?;
            let mut pixels = None;
            while self.socket.get_rcvmore()? {
                // A third part is passed over: a newer parent's.
                pixels.get_or_insert(self.socket.recv_msg(0)?);
            }
            match decode(self.codec, &self.into) {
                Ok(envelope) => return Ok(Came::Message(envelope, pixels)),
                Err(e) => self.refuse(&e)?,
            }
        }
    }

    fn refuse(&mut self, error: &DecodeError) -> Result<(), ServeError> {
        self.send(error.id().unwrap_or(0), &FromChild::Error(error.answer()))
    }

    /// False when the parent is gone.
    fn wait(&self) -> Result<bool, ServeError> {
        loop {
            let mut items = [
                self.socket.as_poll_item(zmq::POLLIN),
                zmq::PollItem::from_fd(self.pools.as_fd().as_raw_fd(), zmq::POLLIN),
            ];
            match zmq::poll(&mut items, -1) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            if items[0].is_readable() {
                return Ok(true);
            }
            // A pool is read when its message comes; it lies there until then. Only the end of the
            // socket is news.
            if items[1].is_readable() && self.is_at_end() {
                return Ok(false);
            }
            if items[1].is_readable() {
                // Its message is on the way: wait for that alone.
                match self.socket.poll(zmq::POLLIN, 100) {
                    Ok(_) | Err(zmq::Error::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }

    fn is_at_end(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0_u8; 1];
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // A datagram of ours is never empty, so nothing means the end.
        matches!(
            recv(&self.pools, &mut byte, peek),
            Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET)
        )
    }
}

fn too_much(error: &EncodeError) -> ErrorReport {
    ErrorReport {
        error: format!("the answer can't be sent: {error}"),
        traceback: None,
        kind: Some(ErrorKind::Plugin),
    }
}
