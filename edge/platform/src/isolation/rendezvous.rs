//! Where a child finds its parent: a socket in a private directory that exists only until they
//! have met.
//!
//! The directory is made for one child and removed, socket and all, once that child has said hello;
//! so nothing lies about while the appliance runs. What a SIGKILL in between leaves is removed by
//! whoever next makes one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A ZMQ ipc path holds at most 107 bytes.
const MAX_PATH: usize = 107;
/// Begins the name of every directory made here; the maker's process number follows.
const PREFIX: &str = "vp-";

/// Why no place was found.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// None of the directories can be used.
    #[error("no private directory for a worker's socket: {}", .0.iter().map(|(d, e)| format!("{}: {e}", d.display())).collect::<Vec<_>>().join("; "))]
    NoDirectory(Vec<(PathBuf, io::Error)>),
    /// The kernel gives no random numbers.
    #[error("getrandom: {0}")]
    Random(rustix::io::Errno),
}

/// The directory, and what the child is told.
#[derive(Debug)]
pub struct Rendezvous {
    directory: PathBuf,
    /// For bind and connect.
    pub endpoint: String,
    /// Proves that who connects is the child that was started.
    pub token: String,
}

impl Rendezvous {
    /// Makes a directory in the first of `/run/visualpath`, `$XDG_RUNTIME_DIR` and the system's
    /// temporary directory that can be used. `owner`: whoever else must reach it (a child under a
    /// user of its own).
    pub fn new(owner: Option<(u32, u32)>) -> Result<Self, RendezvousError> {
        let token = token()?;
        let mut tried = Vec::new();
        for base in bases() {
            match Self::make_in(&base, &token, owner) {
                Ok(made) => return Ok(made),
                Err(e) => tried.push((base, e)),
            }
        }
        Err(RendezvousError::NoDirectory(tried))
    }

    fn make_in(base: &Path, token: &str, owner: Option<(u32, u32)>) -> io::Result<Self> {
        if base.starts_with("/run/") && !base.exists() {
            // As root without systemd's RuntimeDirectory=.
            DirBuilder::new().mode(0o755).create(base)?;
        }
        remove_stale(base);
        let pid = std::process::id();
        let start = token.get(..12).unwrap_or(token);
        let directory = base.join(format!("{PREFIX}{pid}-{start}"));
        let socket = directory.join("s");
        if socket.as_os_str().len() > MAX_PATH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the path is longer than {MAX_PATH} bytes"),
            ));
        }
        DirBuilder::new().mode(0o700).create(&directory)?;
        let made = Self {
            endpoint: format!("ipc://{}", socket.display()),
            directory,
            token: token.to_owned(),
        };
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&made.directory, Some(uid), Some(gid))?;
        }
        Ok(made)
    }

    /// Lets a child under a user of its own connect; after bind.
    pub fn open_socket(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            let socket = self.directory.join("s");
            std::os::unix::fs::chown(&socket, Some(uid), Some(gid))?;
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.directory.display(), %error, "a worker's socket directory stays");
        }
    }
}

fn bases() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
    let mut bases = vec![PathBuf::from("/run/visualpath")];
    bases.extend(own.map(PathBuf::from));
    bases.push(std::env::temp_dir());
    bases
}

fn token() -> Result<String, RendezvousError> {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(RendezvousError::Random(e)),
        }
    }
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Removes what processes that are no more left behind: ours by owner, theirs by name.
fn remove_stale(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    let me = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX))
            .and_then(|n| n.split('-').next())
            .and_then(|n| n.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let alive = Path::new("/proc").join(pid.to_string()).exists();
        let mine = entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == me);
        if mine && !alive && fs::remove_dir_all(entry.path()).is_err() {
            tracing::debug!(path = %entry.path().display(), "a stale socket directory stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_gone_with_the_rendezvous() {
        let base = tempfile::tempdir().unwrap();
        let token = token().unwrap();
        let made = Rendezvous::make_in(base.path(), &token, None).unwrap();
        let mode = fs::metadata(&made.directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(made.directory.join("s"), "").unwrap();
        drop(made);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_dead_processes_left_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        // Process numbers end at 2^22.
        let dead = base.path().join("vp-4194999-abc");
        let alive = base.path().join(format!("vp-{}-abc", std::process::id()));
        let other = base.path().join("somebody-4194999-abc");
        for d in [&dead, &alive, &other] {
            fs::create_dir(d).unwrap();
        }
        fs::write(dead.join("s"), "").unwrap();
        remove_stale(base.path());
        assert!(!dead.exists() && alive.exists() && other.exists());
    }

    #[test]
    fn a_path_too_long_for_zmq_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("d".repeat(90));
        fs::create_dir(&deep).unwrap();
        let e = Rendezvous::make_in(&deep, &token().unwrap(), None).unwrap_err();
        assert!(e.to_string().contains("107"), "{e}");
    }
}
