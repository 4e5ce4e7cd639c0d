//! Where cameras come from: the machine, with its nodes and its word of what was plugged in.

use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::device::CaptureDevice;
use super::identity::{Identity, Places};
use super::kernel::{KernelDevice, NotOpened};
use super::{look, sys};
use crate::devices::DeviceError;

/// An open device and its node.
pub(super) struct Opened {
    pub(super) node: PathBuf,
    pub(super) device: Box<dyn CaptureDevice>,
}

/// What the source needs of the machine.
pub(super) trait Bus: Send {
    /// Opens the camera, wherever it is now, and remembers what it is.
    fn open(&mut self, identity: &mut Identity) -> Result<Opened, DeviceError>;
    /// Waits until a camera was plugged in (true), or for `limit`.
    fn wait(&mut self, limit: Duration) -> bool;
    /// The clock drivers stamp with, nanoseconds.
    fn monotonic_ns(&self) -> i64;
    /// What an errno of a device means, for people.
    fn failure(&self, node: &Path, what: &str, errno: Errno) -> DeviceError;
    /// What to write as `uri` instead of a raw node.
    fn instead(&self, driver: &str, bus_info: &str) -> String;
}

/// The real one.
pub(super) struct Machine {
    places: Places,
    uevents: Option<OwnedFd>,
    /// The machine's cameras in words: of this outage, since to make it opens every camera.
    there_are: OnceCell<String>,
}

/// The kernel's multicast group.
const KERNEL_UEVENTS: u32 = 1;
/// The kernel's limit for one message.
const UEVENT_BYTES: usize = 2048 + 512;

impl Machine {
    pub(super) fn new() -> Self {
        let uevents = uevents();
        if let Err(errno) = &uevents {
            tracing::debug!(%errno, "no uevents: cameras are looked for every 250 ms");
        }
        Self {
            places: Places::default(),
            uevents: uevents.ok(),
            there_are: OnceCell::new(),
        }
    }

    /// Reads every message that is there; answers whether one was about a video device.
    fn heard_of_video(socket: &OwnedFd) -> bool {
        let mut heard = false;
        let mut message = [0_u8; UEVENT_BYTES];
        // An overrun (ENOBUFS) means that something was missed: worth a look.
        loop {
            match rustix::net::recv(socket, &mut message, RecvFlags::DONTWAIT) {
                Ok((_, bytes)) => {
                    let text = message.get(..bytes).unwrap_or(&message);
                    heard |= text
                        .split(|b| *b == 0)
                        .any(|line| line == b"SUBSYSTEM=video4linux");
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => heard = true,
                Err(_) => return heard,
            }
        }
    }
}

fn uevents() -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_UEVENTS))?;
    Ok(socket)
}

impl Bus for Machine {
    fn open(&mut self, identity: &mut Identity) -> Result<Opened, DeviceError> {
        let mut missing = None;
        for candidate in identity.candidates(&self.places) {
            let node = candidate.node;
            let device = match KernelDevice::open(&node) {
                Ok(device) => device,
                Err(no) => {
                    let error = match no {
                        NotOpened::NotCapture(what) => DeviceError::NotCapture { node, what },
                        NotOpened::Errno(errno) => {
                            self.failure(&identity.asked, "opening it", errno)
                        }
                    };
                    if candidate.certain && identity.seen.is_none() {
                        return Err(error);
                    }
                    // Another node may be the camera; if none is, the first reason is the one.
                    missing.get_or_insert(error);
                    continue;
                }
            };
            let Ok(capability) = device.capability() else {
                continue;
            };
            let links = self.places.links(&node);
            if !candidate.certain && !identity.is(&capability, &links) {
                continue;
            }
            identity.learn(&node, &capability, links);
            self.there_are.take();
            return Ok(Opened {
                node,
                device: Box::new(device),
            });
        }
        Err(match missing {
            // A metadata node, say, that has the camera's old number.
            Some(error) if error.may_pass() => error,
            _ => self.failure(&identity.asked, "opening it", Errno::NOENT),
        })
    }

    fn wait(&mut self, limit: Duration) -> bool {
        let Some(socket) = &self.uevents else {
            std::thread::sleep(limit);
            return false;
        };
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => false,
            Ok(_) => {
                let heard = Self::heard_of_video(socket);
                if heard {
                    self.there_are.take();
                }
                heard
            }
            Err(errno) => {
                tracing::debug!(%errno, "uevents can't be waited for; polling from now on");
                self.uevents = None;
                false
            }
        }
    }

    fn monotonic_ns(&self) -> i64 {
        sys::monotonic_ns()
    }

    fn failure(&self, node: &Path, what: &str, errno: Errno) -> DeviceError {
        look::failure_among(&self.places, node, what, errno, || {
            let there_are = self.there_are.get_or_init(|| look::there_are(&self.places));
            there_are.clone()
        })
    }

    fn instead(&self, driver: &str, bus_info: &str) -> String {
        look::instead(&self.places, driver, bus_info)
    }
}
