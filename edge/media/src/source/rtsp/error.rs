//! Why a camera gives no pictures, and what to do about it.

use std::io;

use super::super::Outage;
use super::RtspTransport;
use super::address::Address;

/// A step of a session, as the server knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Describe,
    Setup,
    Play,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Describe => "DESCRIBE",
            Self::Setup => "SETUP",
            Self::Play => "PLAY",
        }
    }
}

/// What went wrong with a session. All of it may be over at the next try.
#[derive(Debug, thiserror::Error)]
pub(super) enum RtspError {
    /// Nobody answers at that host and port.
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    /// The server said no.
    #[error("the server answered {status} to {}", .step.as_str())]
    Refused {
        step: Step,
        status: u16,
        /// Whether credentials were sent.
        known: bool,
        transport: RtspTransport,
    },
    /// It is connected and does not answer.
    #[error("no answer to {} within {waited_s} s", .step.as_str())]
    NoAnswer { step: Step, waited_s: u64 },
    /// It answers, but not as an RTSP server should.
    #[error("{} failed: {detail}", .step.as_str())]
    Protocol { step: Step, detail: String },
    /// There is nothing in it that we take.
    #[error("it offers no video in H.264, H.265 or JPEG, but {0}")]
    NoVideo(String),
    /// It was playing and gives nothing any more.
    #[error("no picture for {waited_s} s")]
    Silent {
        waited_s: u64,
        transport: RtspTransport,
    },
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The connection broke, or what came is not to be understood.
    #[error("the stream broke off: {0}")]
    Broken(String),
    /// The camera's clock was set.
    #[error("its time stamps jumped by {by_s} s")]
    Jumped { by_s: i64 },
    /// No thread or no socket on this side.
    #[error("can't run a connection here: {0}")]
    Here(io::Error),
}

impl RtspError {
    /// For people: which camera, what, and what to do.
    pub(super) fn outage(&self, address: &Address) -> Outage {
        Outage {
            detail: format!("{address}: {self}"),
            advice: self.advice(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Unreachable(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
                "the host is there, but nothing listens at this port: check the port (RTSP's is 554) and that RTSP is switched on in the camera"
            }
            Self::Unreachable(_) => {
                "check host and port, and that the camera has power and network"
            }
            Self::Refused { status: 401 | 403, known: false, .. } => {
                "the camera wants a user and a password: give `username` and `password_file`, or write `rtsp://user:password@host/path`"
            }
            Self::Refused { status: 401 | 403, .. } => {
                "the camera refuses this user and password: check both (some cameras lock for minutes after wrong ones)"
            }
            Self::Refused { status: 400 | 404, .. } => {
                "the camera has no such stream: check the path of the address in its manual"
            }
            Self::Refused { status: 453 | 503, .. } => {
                "the camera serves no more viewers: close another one"
            }
            Self::Refused { status: 461, transport: RtspTransport::Udp, .. } => {
                "the camera does not send over UDP: use `transport = \"tcp\"`"
            }
            Self::Refused { status: 461, .. } => {
                "the camera does not send inside the connection: use `transport = \"udp\"`"
            }
            Self::NoVideo(_) => {
                "set the camera's stream to H.264 or H.265, or name another of its streams"
            }
            Self::Silent { transport: RtspTransport::Udp, .. } => {
                "check that a firewall lets UDP through from the camera, or use `transport = \"tcp\"`"
            }
            Self::Here(_) => "check this machine's limits on threads and open files",
            Self::Jumped { .. } => {
                "it is connected again; if this happens often, give the camera a time server"
            }
            Self::Refused { .. } | Self::NoAnswer { .. } | Self::Protocol { .. } => {
                "check that this is the camera's RTSP address; try it with `ffplay`"
            }
            Self::Silent { .. } | Self::Closed | Self::Broken(_) => {
                "it is tried again; if it does not come back, check the camera's power and network"
            }
        }
        .to_owned()
    }
}

/// The library's words without the connection's addresses and hex dumps that follow them.
pub(super) fn first_line(error: &retina::Error) -> String {
    const LONGEST: usize = 200;
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(LONGEST).collect()
}
