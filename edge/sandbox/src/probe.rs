//! What of all this works on this machine, for `doctor` and for the decision to start an
//! untrusted plugin. Asks the kernel without changing the process it runs in.

use std::fmt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::{CapabilitySet, capabilities, no_new_privs};
use serde::Serialize;

use crate::cgroup::Delegation;
use crate::files::{ABI_SIGNALS, LANDLOCK_ABI_TESTED};
use crate::sys;

/// One thing that keeps workers in, or lets the parent keep hold of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerName {
    /// No privilege by exec.
    NoNewPrivs,
    /// System calls.
    Seccomp,
    /// Files, TCP, signals.
    Landlock,
    /// A user per worker.
    OwnUser,
    /// Memory and processes per worker.
    Cgroup,
    /// Deaths are seen at once.
    Pidfd,
    /// Frames that a child can't write.
    SealedMemory,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNewPrivs => "no_new_privs",
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::OwnUser => "own_user",
            Self::Cgroup => "cgroup",
            Self::Pidfd => "pidfd",
            Self::SealedMemory => "sealed_memory",
        })
    }
}

/// Whether a layer works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// It does; how far.
    Working(String),
    /// It does not.
    Missing {
        /// The kernel's answer.
        why: String,
        /// What to do about it.
        fix: String,
    },
}

/// One layer and its state on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Which one.
    pub name: LayerName,
    /// Whether it works.
    pub state: LayerState,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            LayerState::Working(how) => write!(f, "{}: {how}", self.name),
            LayerState::Missing { why, fix } => {
                write!(f, "{}: missing: {why}; {fix}", self.name)
            }
        }
    }
}

/// Asks for every layer, in the order of [`LayerName`].
pub fn probe() -> Vec<Layer> {
    [
        (LayerName::NoNewPrivs, no_new_privileges()),
        (LayerName::Seccomp, seccomp()),
        (LayerName::Landlock, landlock()),
        (LayerName::OwnUser, own_user()),
        (LayerName::Cgroup, cgroup()),
        (LayerName::Pidfd, pidfd()),
        (LayerName::SealedMemory, sealed_memory()),
    ]
    .into_iter()
    .map(|(name, state)| Layer { name, state })
    .collect()
}

fn missing(why: impl fmt::Display, fix: &str) -> LayerState {
    LayerState::Missing {
        why: why.to_string(),
        fix: fix.to_string(),
    }
}

fn no_new_privileges() -> LayerState {
    match no_new_privs() {
        Ok(_) => LayerState::Working("available".into()),
        Err(e) => missing(e, "use a kernel of 3.5 or newer"),
    }
}

fn seccomp() -> LayerState {
    match sys::seccomp_errno_available() {
        Ok(()) => LayerState::Working("filters that answer with an errno".into()),
        Err(e) => missing(
            e,
            "use a kernel of 4.14 or newer with CONFIG_SECCOMP_FILTER; in a container, allow it",
        ),
    }
}

fn landlock() -> LayerState {
    match sys::landlock_abi() {
        Ok(abi) => {
            let without = match abi {
                ABI_SIGNALS.. => "",
                5 => "; signals and abstract sockets are left to seccomp",
                4 => "; device ioctls are not restricted",
                _ => "; device ioctls, TCP and (before 3) truncation are not restricted",
            };
            let used = abi.min(LANDLOCK_ABI_TESTED);
            LayerState::Working(format!("ABI {abi}, used up to {used}{without}"))
        }
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            missing(e, "boot with landlock in lsm= (kernel command line)")
        }
        Err(e) => missing(
            e,
            "use a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK",
        ),
    }
}

fn own_user() -> LayerState {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    match capabilities(None) {
        Ok(sets) if sets.effective.contains(needed) => {
            LayerState::Working("may start workers as other users".into())
        }
        Ok(_) => missing(
            "no CAP_SETUID, CAP_SETGID and CAP_KILL",
            "run as root or give the service these (AmbientCapabilities=)",
        ),
        Err(e) => missing(e, "run as root"),
    }
}

fn cgroup() -> LayerState {
    match Delegation::look() {
        Ok(delegation) => {
            LayerState::Working(format!("delegated: {}", delegation.base().display()))
        }
        Err(reason) => missing(reason, "run as a service with Delegate=memory pids"),
    }
}

fn pidfd() -> LayerState {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => LayerState::Working("available".into()),
        Err(e) => missing(e, "use a kernel of 5.3 or newer"),
    }
}

fn sealed_memory() -> LayerState {
    let sealed = memfd_create("probe", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)
        .and_then(|fd| fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL));
    match sealed {
        Ok(()) => LayerState::Working("memfd with F_SEAL_FUTURE_WRITE".into()),
        Err(e) => missing(e, "use a kernel of 5.1 or newer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_reported_once_and_says_how_or_what_to_do() {
        let layers = probe();
        assert_eq!(layers.len(), 7);
        for (i, layer) in layers.iter().enumerate() {
            assert!(layers[..i].iter().all(|before| before.name != layer.name));
            match &layer.state {
                LayerState::Working(how) => assert!(!how.is_empty()),
                LayerState::Missing { why, fix } => assert!(!why.is_empty() && !fix.is_empty()),
            }
        }
    }
}
