//! Network cameras: `rtsp://[user:password@]host[:554]/path`.
//!
//! ```text
//!  thread rtsp:<source>                               capture thread
//!  retina (tokio, one thread) ─ Units ─▶ bounded ─▶ RtspStream ─ next ─▶ EncodedSource
//!     DESCRIBE, SETUP, PLAY,      │       queue      (PacketStream)      reconnects, numbers,
//!     keep-alive, TEARDOWN        └ access units, losses, reordering     evidence, decoding
//! ```
//!
//! The hard part is what a camera does not say: which pictures a lost RTP packet took with it (see
//! `units`), and that it is gone (see `session`). Secrets stay here: what leaves this module for a
//! log, a status page or an error has passed [`redacted`].

#[cfg(feature = "rtsp")]
mod address;
#[cfg(feature = "rtsp")]
mod error;
mod redact;
#[cfg(feature = "rtsp")]
mod session;
#[cfg(feature = "rtsp")]
mod stream;
#[cfg(feature = "rtsp")]
mod units;

#[cfg(test)]
#[cfg(feature = "rtsp")]
mod tests;

use std::fmt;
use std::sync::Arc;

use visualpath_core::Clock;

use super::{Source, SourceError, SourceOptions};

pub use redact::redacted;

/// How RTP packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RtspTransport {
    /// Inside the RTSP connection: nothing is lost or reordered on the way, and every firewall
    /// that lets the connection through lets the pictures through.
    #[default]
    Tcp,
    /// Datagrams of their own: less delay on a bad radio link, at the price of holes. A packet
    /// that overtakes another counts as lost.
    Udp,
}

impl RtspTransport {
    /// Its word in the config and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What to know of an RTSP server besides its address.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RtspOptions {
    /// How RTP packets travel.
    pub transport: RtspTransport,
    /// User name; it goes before one in the address.
    pub username: Option<String>,
    /// Password; it goes before one in the address.
    pub password: Option<String>,
}

impl fmt::Debug for RtspOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("RtspOptions")
            .field("transport", &self.transport)
            .field("username", &hidden(&self.username))
            .field("password", &hidden(&self.password))
            .finish()
    }
}

/// Whether this module opens it: `rtsp:` and `rtsps:`, in any case.
pub(super) fn is_uri(uri: &str) -> bool {
    uri.split_once(':')
        .is_some_and(|(scheme, _)| ["rtsp", "rtsps"].contains(&&*scheme.to_ascii_lowercase()))
}

/// The source behind an address. Nothing is connected yet.
#[cfg(feature = "rtsp")]
pub(super) fn open(
    opts: &SourceOptions,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, SourceError> {
    let address = address::Address::parse(&opts.uri, &opts.rtsp)
        .map_err(|e| unsupported(opts, e.to_string()))?;
    let connect = stream::RtspConnect::new(&opts.name, address, opts.rtsp.transport);
    Ok(Box::new(super::encoded::EncodedSource::new(
        opts, clock, connect,
    )))
}

/// Says which build can open it.
#[cfg(not(feature = "rtsp"))]
pub(super) fn open(
    opts: &SourceOptions,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, SourceError> {
    drop(clock);
    let detail = "this build has no RTSP; build it with the feature `rtsp`";
    Err(unsupported(opts, detail.to_owned()))
}

fn unsupported(opts: &SourceOptions, detail: String) -> SourceError {
    SourceError::Unsupported {
        uri: redacted(&opts.uri),
        detail,
    }
}
