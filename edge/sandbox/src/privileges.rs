//! What the process is to the kernel: its user, its capabilities, and that it gets no more.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use rustix::thread::{Gid, Uid};

use crate::policy::User;
use crate::stage::{StageError, Step};

/// Becomes the worker's own user, for good: real, effective and saved ids.
///
/// The process has one thread, so what the kernel does to the thread it does to the process.
pub(crate) fn become_user(user: &User) -> Result<(), StageError> {
    const FIX: &str =
        "run the appliance as root or with CAP_SETUID and CAP_SETGID, or give the worker no user";
    if user.uid == 0 || user.uid == u32::MAX || user.gid == u32::MAX {
        return Err(Step::User.failed(
            format!("{}:{} is no user for a worker", user.uid, user.gid),
            io::Error::from_raw_os_error(libc::EINVAL),
            "give a uid that is neither root nor -1",
        ));
    }
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)
        .map_err(|e| Step::User.failed(format!("groups {:?}", user.groups), e, FIX))?;
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid)
        .map_err(|e| Step::User.failed(format!("group {}", user.gid), e, FIX))?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid)
        .map_err(|e| Step::User.failed(format!("user {}", user.uid), e, FIX))
}

/// Gives up every capability that could come back through exec. Before the user changes: it
/// takes CAP_SETPCAP, and a process without that has little to give up.
pub(crate) fn shrink_bounds() {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        // EPERM without CAP_SETPCAP, EINVAL beyond the last one: no_new_privs makes up for both.
        if remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
}

/// Gives up every capability it has. Otherwise a worker of a parent that is root could raise its
/// own limits, load modules and pass by every file mode.
pub(crate) fn drop_capabilities() -> Result<(), StageError> {
    // Kernels before 4.3 have no ambient set, and then nothing to clear in it.
    match clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(e) => {
            return Err(Step::Capabilities.failed("ambient set", e, "report this"));
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none)
        .map_err(|e| Step::Capabilities.failed("capset", e, "report this: giving up is allowed"))
}

/// Whatever it execs, it gets no privilege it does not have.
pub(crate) fn no_new_privileges() -> Result<(), StageError> {
    set_no_new_privs(true).map_err(|e| {
        Step::NoNewPrivs.failed("PR_SET_NO_NEW_PRIVS", e, "use a kernel of 3.5 or newer")
    })
}
