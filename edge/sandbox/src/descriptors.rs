//! Which descriptors a worker starts with: 0 to 2, its socket, nothing of its parent's.

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use crate::stage::{StageError, Step};
use crate::sys;

/// Where the worker finds its socket.
const SOCKET: i32 = 3;

/// Moves the socket on standard input to descriptor 3, if there is one, puts `/dev/null` in its
/// place, and closes every other descriptor. Standard output and error stay.
pub(crate) fn arrange(socket_on_stdin: bool) -> Result<(), StageError> {
    let failed = |what: &str, e: std::io::Error| {
        Step::Descriptors.failed(what, e, "report this with the parent's log")
    };
    let stdin = rustix::stdio::stdin();
    let mut first_closed = 3;
    if socket_on_stdin {
        let stat = fstat(stdin).map_err(|e| failed("standard input", e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(failed(
                "standard input is not the socket it should be",
                std::io::Error::from_raw_os_error(libc::ENOTSOCK),
            ));
        }
        sys::copy_onto(stdin, SOCKET).map_err(|e| failed("standard input to 3", e))?;
        first_closed = 4;
    }
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed("/dev/null", e.into()))?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| failed("/dev/null to 0", e.into()))?;
    drop(null);
    sys::close_from(first_closed).map_err(|e| failed("closing all others", e))
}
