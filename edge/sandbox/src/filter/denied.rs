//! What no worker may do, trusted normally or not.

use libc::*;
use seccompiler::BackendError;

use super::{IOCTLS_DENIED, NAMESPACES, Situation, Table, bits, int, is, is_not, rule};

/// Denied whatever the arguments.
const ALWAYS: &[i64] = &[
    // Other processes.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_process_mrelease,
    SYS_pidfd_getfd,
    SYS_kcmp,
    // Mounts and roots.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_move_mount,
    SYS_open_tree,
    SYS_mount_setattr,
    // Namespaces (clone's are below).
    SYS_setns,
    SYS_unshare,
    // Where the kernel's own bugs are found.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_fanotify_init,
    SYS_vmsplice,
    // Keys.
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    // The machine.
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_nfsservctl,
    SYS_syslog,
    SYS_vhangup,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    SYS_modify_ldt,
    // What would stay behind when it ends.
    SYS_shmget,
    SYS_semget,
    SYS_msgget,
    SYS_mq_open,
    // Files by number instead of by path.
    SYS_open_by_handle_at,
    // Changing who it is: the kernel would forget that it dies with its parent.
    SYS_setuid,
    SYS_setgid,
    SYS_setreuid,
    SYS_setregid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_setgroups,
    SYS_capset,
    // Leaving the group by which its children are ended.
    SYS_setsid,
    SYS_setpgid,
];

/// The deny-list: a rule that matches refuses.
pub(super) fn table(situation: &Situation) -> Result<Table, BackendError> {
    let mut table: Table = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    let own = situation.pid;
    let others = || rule([is_not(0, own), is_not(0, 0)]);

    if !situation.signals_children() {
        for call in [SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo] {
            table.insert(call, vec![others()?]);
        }
        for call in [SYS_tgkill, SYS_rt_tgsigqueueinfo] {
            table.insert(call, vec![rule([is_not(0, own)])?]);
        }
        table.insert(SYS_pidfd_send_signal, Vec::new());
    }
    // Another process's limits, pages and nodes: the same user may, unless told otherwise.
    for call in [SYS_prlimit64, SYS_move_pages, SYS_migrate_pages] {
        table.insert(call, vec![others()?]);
    }
    // Having the kernel signal somebody for us (F_SETSIG chooses which signal).
    table.insert(
        SYS_fcntl,
        vec![
            rule([is(1, int(F_SETOWN)), is_not(2, own), is_not(2, 0)])?,
            rule([is(1, F_SETOWN_EX)])?,
        ],
    );
    let mut ioctls = Vec::new();
    for request in IOCTLS_DENIED {
        ioctls.push(rule([is(1, request)])?);
    }
    table.insert(SYS_ioctl, ioctls);
    table.insert(SYS_prctl, vec![rule([is(0, int(PR_SET_PDEATHSIG))])?]);

    let foreign = match situation.domains() {
        [a] => rule([is_not(0, int(*a))])?,
        [a, b, c, d] => rule([
            is_not(0, int(*a)),
            is_not(0, int(*b)),
            is_not(0, int(*c)),
            is_not(0, int(*d)),
        ])?,
        _ => rule([is_not(0, int(AF_UNIX))])?,
    };
    table.insert(SYS_socket, vec![foreign]);

    let mut clones = Vec::new();
    for flag in NAMESPACES {
        clones.push(rule([bits(0, flag, flag)])?);
    }
    if !situation.processes {
        clones.push(rule([bits(0, CLONE_THREAD, 0)])?);
        #[cfg(target_arch = "x86_64")]
        for call in [SYS_fork, SYS_vfork] {
            table.insert(call, Vec::new());
        }
    }
    table.insert(SYS_clone, clones);
    Ok(table)
}

/// `F_SETOWN_EX` of fcntl(2), which the libc crate lacks.
const F_SETOWN_EX: u64 = 15;
