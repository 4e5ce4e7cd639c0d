//! The conversation with one child that is up: its ROUTER, request ids, pools it knows.

use std::sync::OnceLock;

use visualpath_frames::{Frame, PoolSocket, ShareError};
use visualpath_protocol::{
    Codec, ConvertError, DecodeError, EncodeError, Envelope, FromChild, FromParent, Layout,
    Nothing, Pool, bounds::MAX_MESSAGE_BYTES, decode, encode_into,
};

use super::rendezvous::Rendezvous;

/// Why the conversation is over, or a message could not be sent. The child is ended for most.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The child closed its socket.
    #[error("it closed its connection")]
    Gone,
    /// It reads no more.
    #[error("it does not read its messages")]
    Full,
    /// ZMQ.
    #[error("its socket: {0}")]
    Socket(zmq::Error),
    /// It said something that is no message.
    #[error("it broke the protocol: {0}")]
    Broken(#[from] DecodeError),
    /// Somebody else said something.
    #[error("somebody else spoke on its socket")]
    Stranger,
    /// The request breaks a bound; the child is well.
    #[error("{0}")]
    Unsendable(#[from] EncodeError),
    /// A picture that the protocol can't describe; the child is well.
    #[error("{0}")]
    Picture(#[from] ConvertError),
    /// The pool can't be passed.
    #[error(transparent)]
    Pool(#[from] ShareError),
}

impl LinkError {
    /// Whether only this request failed.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::Unsendable(_) | Self::Picture(_))
    }
}

impl From<zmq::Error> for LinkError {
    fn from(error: zmq::Error) -> Self {
        match error {
            zmq::Error::EHOSTUNREACH => Self::Gone,
            zmq::Error::EAGAIN => Self::Full,
            error => Self::Socket(error),
        }
    }
}

/// One ZMQ context per process.
pub(super) fn context() -> &'static zmq::Context {
    static CONTEXT: OnceLock<zmq::Context> = OnceLock::new();
    CONTEXT.get_or_init(zmq::Context::new)
}

/// Messages that may wait on either side.
const HIGH_WATER: i32 = 64;
/// A child keeps the two newest pools.
const POOLS: usize = 2;

/// The parent's end.
pub struct Link {
    socket: zmq::Socket,
    peer: Vec<u8>,
    codec: Codec,
    pools: PoolSocket,
    /// Pools it was given, oldest first.
    known: heapless::Vec<u32, POOLS>,
    next_id: u64,
    out: Vec<u8>,
    into: zmq::Message,
}

impl Link {
    /// Binds where the child will connect. Speaks JSON until told otherwise.
    pub(super) fn bind(place: &Rendezvous, pools: PoolSocket) -> Result<Self, LinkError> {
        let socket = context().socket(zmq::ROUTER)?;
        socket.set_linger(0)?;
        socket.set_router_mandatory(true)?;
        socket.set_maxmsgsize(i64::try_from(MAX_MESSAGE_BYTES).unwrap_or(i64::MAX))?;
        socket.set_sndhwm(HIGH_WATER)?;
        socket.set_rcvhwm(HIGH_WATER)?;
        socket.bind(&place.endpoint)?;
        Ok(Self {
            socket,
            peer: place.token.as_bytes().to_vec(),
            codec: Codec::Json1,
            pools,
            known: heapless::Vec::new(),
            next_id: 1,
            out: Vec::new(),
            into: zmq::Message::new(),
        })
    }

    pub(super) fn speak(&mut self, codec: Codec) {
        self.codec = codec;
    }

    /// To be polled for reading.
    pub fn poll_item(&self) -> zmq::PollItem<'_> {
        self.socket.as_poll_item(zmq::POLLIN)
    }

    pub(super) fn socket(&self) -> &zmq::Socket {
        &self.socket
    }

    /// Sends a request, with a second part if there are `pixels`; gives its id.
    ///
    /// # Errors
    /// See [`LinkError::is_harmless`].
    pub fn request(
        &mut self,
        message: &FromParent,
        pixels: Option<&[u8]>,
    ) -> Result<u64, LinkError> {
        let id = self.next_id;
        encode_into(self.codec, id, message, &mut self.out)?;
        let more = zmq::DONTWAIT | zmq::SNDMORE;
        self.socket.send(self.peer.as_slice(), more)?;
        match pixels {
            None => self.socket.send(self.out.as_slice(), zmq::DONTWAIT)?,
            Some(pixels) => {
                self.socket.send(self.out.as_slice(), more)?;
                self.socket.send(pixels, zmq::DONTWAIT)?;
            }
        }
        self.next_id += 1;
        Ok(id)
    }

    /// What the child said, if it said something.
    ///
    /// # Errors
    /// When it is no message, or somebody else's.
    pub fn receive(&mut self) -> Result<Option<Envelope<FromChild>>, LinkError> {
        match self.socket.recv(&mut self.into, zmq::DONTWAIT) {
            Ok(()) => {}
            Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let stranger = *self.into != *self.peer;
        let mut parts = 0;
        // A message comes whole: the rest is there.
        while self.socket.get_rcvmore()? {
            self.socket.recv(&mut self.into, zmq::DONTWAIT)?;
            parts += 1;
        }
        if stranger || parts != 1 {
            return Err(LinkError::Stranger);
        }
        Ok(Some(decode(self.codec, &self.into)?))
    }

    /// Whether the child has the pool.
    pub fn knows(&self, pool_id: u32) -> bool {
        self.known.contains(&pool_id)
    }

    /// Passes the pool of a frame: its descriptor, then the message that names it.
    ///
    /// # Errors
    /// When it can't be passed.
    pub fn pass_pool(&mut self, frame: &Frame) -> Result<u64, LinkError> {
        let pool = frame.pool();
        let layout = pool.layout();
        let message = FromParent::Pool(Pool {
            pool_id: pool.pool_id(),
            slots: u32::try_from(layout.slots()).unwrap_or(u32::MAX),
            slot_bytes: layout.slot_bytes() as u64,
            layout: Layout::try_from(layout.native())?,
        });
        self.pools.send(&pool)?;
        let id = self.request(&message, None)?;
        if self.known.is_full() {
            self.known.remove(0);
        }
        // There is room now.
        self.known.push(pool.pool_id()).ok();
        Ok(id)
    }

    /// Tells the child to end; the message goes out although the socket is closed here.
    pub(super) fn shutdown(mut self) -> Result<(), LinkError> {
        self.socket.set_linger(1000)?;
        self.request(&FromParent::Shutdown(Nothing {}), None)?;
        Ok(())
    }
}
