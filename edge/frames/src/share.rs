//! Passing a pool to another process: its read-only descriptor over a Unix socket.
//!
//! One datagram per pool, `pool_id` as 4 bytes little-endian with one descriptor beside it
//! (SCM_RIGHTS). The socket is a `SOCK_SEQPACKET` pair whose other end the child finds as
//! descriptor 3; when it reaches its end, the other process is gone.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::{FramePool, MemfdError, PoolReader};

/// Why a pool could not be passed.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// A pool on the heap can't be shared.
    #[error("frame pool {0} lies in private memory")]
    Private(u32),
    /// The socket.
    #[error("passing a frame pool ({step}): {errno}")]
    Socket {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The other process closed its end.
    #[error("the other process is gone")]
    Closed,
    /// Something else than a pool came.
    #[error("what came over the pool socket is no pool: {0}")]
    NoPool(&'static str),
    /// The kernel refused to map it.
    #[error("mapping frame pool {pool_id}: {error}")]
    Map {
        /// Which.
        pool_id: u32,
        /// Why.
        error: MemfdError,
    },
}

fn failed(step: &'static str) -> impl FnOnce(Errno) -> ShareError {
    move |errno| match errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ShareError::Closed,
        errno => ShareError::Socket { step, errno },
    }
}

/// One end of the socket over which pools are passed.
#[derive(Debug)]
pub struct PoolSocket(OwnedFd);

impl PoolSocket {
    /// Both ends: ours, and the one that becomes a child's descriptor 3.
    ///
    /// # Errors
    /// When the kernel has no socket for us.
    pub fn pair() -> Result<(Self, OwnedFd), ShareError> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed("socketpair"))?;
        Ok((Self(ours), theirs))
    }

    /// The child's end: descriptor 3, as its parent left it. Once per process.
    ///
    /// # Errors
    /// When this process was not started with one, or has taken it already.
    pub fn inherited() -> Result<Self, ShareError> {
        crate::memory::inherited_socket().map(Self).ok_or(ShareError::NoPool(
            "descriptor 3 is not the socket that the appliance gives its workers: start it through the appliance",
        ))
    }

    /// Passes a pool. Never waits: a child that reads none of a few dozen is not well.
    ///
    /// # Errors
    /// When the child is gone or its buffer full, or the pool lies in private memory.
    pub fn send(&self, pool: &FramePool) -> Result<(), ShareError> {
        let Some(memory) = pool.read_only_fd() else {
            return Err(ShareError::Private(pool.pool_id()));
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [memory];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(failed("packing its descriptor")(Errno::NOBUFS));
        }
        let id = pool.pool_id().to_le_bytes();
        rustix::net::sendmsg(
            &self.0,
            &[IoSlice::new(&id)],
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
        .map_err(failed("sendmsg"))?;
        Ok(())
    }

    /// Takes the next pool; waits for it.
    ///
    /// # Errors
    /// When the other process is gone, or sent something else.
    pub fn receive(&self) -> Result<(u32, PoolReader), ShareError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut id = [0_u8; 5];
        let got = loop {
            let mut into = [IoSliceMut::new(&mut id)];
            match rustix::net::recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                other => break other.map_err(failed("recvmsg"))?,
            }
        };
        let mut memory = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    if memory.replace(descriptor).is_some() {
                        return Err(ShareError::NoPool("more than one descriptor"));
                    }
                }
            }
        }
        if got.bytes == 0 && memory.is_none() {
            return Err(ShareError::Closed);
        }
        if got.bytes != 4 || got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ShareError::NoPool("it is not 4 bytes with one descriptor"));
        }
        let memory = memory.ok_or(ShareError::NoPool("it has no descriptor"))?;
        let pool_id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
        let reader =
            PoolReader::map(&memory).map_err(|error| ShareError::Map { pool_id, error })?;
        Ok((pool_id, reader))
    }
}

impl AsFd for PoolSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
