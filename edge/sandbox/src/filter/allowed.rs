//! All that an untrusted worker may do: what CPython with numpy, ONNX Runtime and pyzmq, and a
//! Rust worker with ZMQ, were seen to ask for (strace), and their close kin.

use libc::*;
use seccompiler::BackendError;

use super::{IOCTLS_DENIED, NAMESPACES, Situation, Table, bits, int, is, is_not, rule};

/// Allowed whatever the arguments.
const ALWAYS: &[i64] = &[
    // Open files.
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_lseek,
    SYS_close,
    SYS_close_range,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_fstat,
    SYS_fstatfs,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync_file_range,
    SYS_flock,
    SYS_fadvise64,
    SYS_readahead,
    SYS_copy_file_range,
    SYS_sendfile,
    SYS_fchmod,
    SYS_fchown,
    SYS_getdents64,
    // Paths: which of them is Landlock's business.
    SYS_openat,
    SYS_openat2,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlinkat,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_truncate,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_utimensat,
    SYS_getxattr,
    SYS_lgetxattr,
    SYS_fgetxattr,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_flistxattr,
    SYS_getcwd,
    SYS_chdir,
    SYS_fchdir,
    SYS_umask,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    // Memory.
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_brk,
    SYS_msync,
    SYS_mincore,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
    SYS_memfd_create,
    SYS_membarrier,
    SYS_pkey_alloc,
    SYS_pkey_mprotect,
    SYS_pkey_free,
    SYS_mbind,
    SYS_get_mempolicy,
    SYS_set_mempolicy,
    // Threads.
    SYS_futex,
    SYS_futex_waitv,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_exit,
    SYS_exit_group,
    SYS_restart_syscall,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_getattr,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_getcpu,
    SYS_getpriority,
    // Time.
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_times,
    SYS_getitimer,
    SYS_setitimer,
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_gettime,
    SYS_timer_getoverrun,
    SYS_timer_delete,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    // Signals to itself (kill and its kin are below).
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigpending,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    SYS_signalfd4,
    // Waiting for many.
    SYS_ppoll,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    // Sockets, once there is one (socket itself is below).
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_recvmmsg,
    SYS_shutdown,
    // Who and where it is.
    SYS_getpid,
    SYS_gettid,
    SYS_getppid,
    SYS_getpgid,
    SYS_getsid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getgroups,
    SYS_capget,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrusage,
    SYS_getrlimit,
    SYS_setrlimit,
    SYS_getrandom,
    // The stage's own exec comes after the filter.
    SYS_execve,
    SYS_execveat,
    SYS_wait4,
    SYS_waitid,
];

/// Older forms of the above, which only this machine has.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[i64] = &[
    SYS_open,
    SYS_creat,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_mkdir,
    SYS_rmdir,
    SYS_unlink,
    SYS_rename,
    SYS_link,
    SYS_symlink,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_dup2,
    SYS_pipe,
    SYS_poll,
    SYS_select,
    SYS_epoll_create,
    SYS_epoll_wait,
    SYS_eventfd,
    SYS_signalfd,
    SYS_inotify_init,
    SYS_getdents,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_time,
    SYS_alarm,
    SYS_pause,
    SYS_getpgrp,
    SYS_arch_prctl,
];
#[cfg(target_arch = "aarch64")]
const ALWAYS_HERE: &[i64] = &[];

/// Operations of prctl(2): names of threads and memory, and reading what it is.
const PRCTLS: &[c_int] = &[
    PR_SET_NAME,
    PR_GET_NAME,
    PR_SET_VMA,
    PR_GET_PDEATHSIG,
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    PR_CAPBSET_READ,
    PR_GET_SECCOMP,
    PR_GET_NO_NEW_PRIVS,
    PR_SET_NO_NEW_PRIVS,
    PR_GET_TIMERSLACK,
    PR_SET_TIMERSLACK,
    PR_GET_THP_DISABLE,
    PR_SET_THP_DISABLE,
    50, // PR_SVE_SET_VL
    51, // PR_SVE_GET_VL
    54, // PR_PAC_RESET_KEYS
    56, // PR_GET_TAGGED_ADDR_CTRL
    63, // PR_SME_SET_VL
    64, // PR_SME_GET_VL
];

/// ioctls of a worker without devices: on files, pipes and sockets.
const IOCTLS: &[u64] = &[
    0x5401, // TCGETS: is it a terminal?
    0x5413, // TIOCGWINSZ
    0x541b, // FIONREAD
    0x5421, // FIONBIO
    0x5450, // FIONCLEX
    0x5451, // FIOCLEX
];

/// The allow-list: a rule that matches allows.
pub(super) fn table(situation: &Situation) -> Result<Table, BackendError> {
    let calls = ALWAYS.iter().chain(ALWAYS_HERE);
    let mut table: Table = calls.map(|call| (*call, Vec::new())).collect();
    let own = situation.pid;
    let itself = || -> Result<_, BackendError> { Ok(vec![rule([is(0, own)])?, rule([is(0, 0)])?]) };

    if situation.signals_children() {
        for call in [
            SYS_kill,
            SYS_tkill,
            SYS_tgkill,
            SYS_rt_sigqueueinfo,
            SYS_rt_tgsigqueueinfo,
            SYS_pidfd_send_signal,
        ] {
            table.insert(call, Vec::new());
        }
    } else {
        for call in [SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo] {
            table.insert(call, itself()?);
        }
        for call in [SYS_tgkill, SYS_rt_tgsigqueueinfo] {
            table.insert(call, vec![rule([is(0, own)])?]);
        }
    }
    table.insert(SYS_prlimit64, itself()?);
    scheduling(situation, &mut table)?;
    let harmless = [F_SETOWN, F_SETSIG, F_SETOWN_EX].map(|command| is_not(1, int(command)));
    table.insert(SYS_fcntl, vec![rule(harmless)?]);
    table.insert(SYS_ioctl, ioctls(situation)?);
    let mut prctls = Vec::new();
    for operation in PRCTLS {
        prctls.push(rule([is(0, int(*operation))])?);
    }
    table.insert(SYS_prctl, prctls);

    let mut sockets = Vec::new();
    for domain in situation.domains() {
        sockets.push(rule([is(0, int(*domain))])?);
    }
    table.insert(SYS_socket, sockets);

    let namespaces = NAMESPACES.iter().fold(0, |all, flag| all | flag);
    let clone = match situation.processes {
        true => {
            table.insert(SYS_pidfd_open, Vec::new());
            #[cfg(target_arch = "x86_64")]
            for call in [SYS_fork, SYS_vfork] {
                table.insert(call, Vec::new());
            }
            bits(0, namespaces, 0)
        }
        false => bits(0, namespaces | CLONE_THREAD, CLONE_THREAD),
    };
    table.insert(SYS_clone, vec![rule([clone])?]);
    Ok(table)
}

/// Its own priority and processors. A filter can't tell its threads from other processes, and
/// only another user keeps the kernel from obeying for those.
fn scheduling(situation: &Situation, table: &mut Table) -> Result<(), BackendError> {
    let own = situation.pid;
    let calls = [
        SYS_sched_setaffinity,
        SYS_sched_setscheduler,
        SYS_sched_setparam,
        SYS_sched_setattr,
        SYS_setpriority,
    ];
    if situation.own_user {
        table.extend(calls.map(|call| (call, Vec::new())));
        return Ok(());
    }
    for call in calls {
        table.insert(call, vec![rule([is(0, own)])?, rule([is(0, 0)])?]);
    }
    // libzmq aborts unless each of its threads may choose the ordinary policy it has already.
    let ordinary = rule([is(1, int(SCHED_OTHER))])?;
    table
        .entry(SYS_sched_setscheduler)
        .or_default()
        .push(ordinary);
    // PRIO_PROCESS is 0; whose is the second argument.
    let priority = vec![rule([is(0, 0), is(1, 0)])?, rule([is(0, 0), is(1, own)])?];
    table.insert(SYS_setpriority, priority);
    Ok(())
}

fn ioctls(situation: &Situation) -> Result<Vec<seccompiler::SeccompRule>, BackendError> {
    if situation.devices {
        let harmless = IOCTLS_DENIED.map(|request| is_not(1, request));
        return Ok(vec![rule(harmless)?]);
    }
    IOCTLS
        .iter()
        .map(|request| rule([is(1, *request)]))
        .collect()
}

/// Of fcntl(2); the libc crate lacks them.
const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;
