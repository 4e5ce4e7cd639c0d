//! Which system calls are left, by seccomp.
//!
//! Two lists: what no worker may do ([`denied`], trust normal), and all that a worker may do
//! ([`allowed`], trust untrusted). Both answer EPERM for the rest and never kill, so that a
//! plugin gets an error it can print. Three answers come before either list:
//!
//! | a call | answer | why |
//! |---|---|---|
//! | of another instruction set (int 0x80) | EPERM | its numbers mean other calls |
//! | newer than [`NEWEST`], or with the x32 bit | ENOSYS | no list has judged it; C libraries fall back |
//! | `clone3` | ENOSYS | its flags lie in memory, where a filter can't look; `clone` is asked next |
//!
//! A filter sees numbers, not what pointers point to, and it is fixed while the process id is
//! known: signals to oneself are allowed by that number, which exec does not change.

mod allowed;
mod denied;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use crate::policy::{Policy, Trust};
use crate::stage::{StageError, Step};

/// The newest system call the lists know: `mseal`, Linux 6.10. The same number everywhere.
const NEWEST: i64 = libc::SYS_mseal;

/// Flags of `clone` that make namespaces, which this user may not have.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// ioctls that name another process to be signalled, or type into a terminal.
const IOCTLS_DENIED: [u64; 4] = [
    0x8901, // FIOSETOWN
    0x8902, // SIOCSPGRP
    0x5412, // TIOCSTI
    0x541c, // TIOCLINUX
];

/// Rules per system call; no rule: the call as such.
type Table = BTreeMap<i64, Vec<SeccompRule>>;

/// What the lists depend on.
struct Situation {
    /// Its own process id.
    pid: u64,
    /// May start processes.
    processes: bool,
    /// May open internet sockets.
    network: bool,
    /// Has devices, and so their ioctls.
    devices: bool,
    /// Has a user of its own, so that the kernel refuses it other processes anyway.
    own_user: bool,
    /// Landlock keeps signals inside, so the filter need not.
    signals_scoped: bool,
}

impl Situation {
    /// May signal others than itself: its own children, where Landlock sees to it that it
    /// reaches no one else.
    fn signals_children(&self) -> bool {
        self.processes && self.signals_scoped
    }

    /// Domains that `socket` may ask for.
    fn domains(&self) -> &'static [libc::c_int] {
        match self.network {
            false => &[libc::AF_UNIX],
            // getaddrinfo asks netlink which addresses there are.
            true => &[
                libc::AF_UNIX,
                libc::AF_INET,
                libc::AF_INET6,
                libc::AF_NETLINK,
            ],
        }
    }
}

/// Puts the filter of `policy` on; `false`: this kernel has none.
pub(crate) fn install(policy: &Policy, signals_scoped: bool) -> Result<bool, StageError> {
    if crate::sys::seccomp_errno_available().is_err() {
        return Ok(false);
    }
    let situation = Situation {
        pid: u64::from(std::process::id()),
        processes: policy.processes,
        network: policy.network,
        devices: !policy.devices.is_empty(),
        own_user: policy.user.is_some(),
        signals_scoped,
    };
    let failed = |e: io::Error| Step::Seccomp.failed("filter", e, "report this");
    let program = program(policy.trust, &situation).map_err(|e| failed(io::Error::other(e)))?;
    apply_filter(&program).map_err(|e| failed(io::Error::other(e)))?;
    Ok(true)
}

fn program(trust: Trust, situation: &Situation) -> Result<BpfProgram, BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(errno(libc::EPERM));
    let (table, otherwise, listed) = match trust {
        Trust::Normal => (denied::table(situation)?, SeccompAction::Allow, refuse),
        Trust::Untrusted => (allowed::table(situation)?, refuse, SeccompAction::Allow),
    };
    let list: BpfProgram = SeccompFilter::new(table, otherwise, listed, arch)?.try_into()?;
    let mut program = prologue();
    program.extend(list);
    Ok(program)
}

/// The answers that come before either list (see the module's page). The list begins with a
/// check of its own for the instruction set, which kills: it is never reached.
fn prologue() -> BpfProgram {
    // Offsets in seccomp_data (seccomp(2)).
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    #[cfg(target_arch = "x86_64")]
    const THIS_ARCH: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const THIS_ARCH: u32 = 0xc000_00b7;
    let load = |offset| step(0x20, offset, 0, 0);
    let answer = |code| step(0x06, libc::SECCOMP_RET_ERRNO | errno(code), 0, 0);
    let skip_if_equal = |value| step(0x15, value, 1, 0);
    let skip_unless_equal = |value| step(0x15, value, 0, 1);
    let skip_unless_greater = |value| step(0x25, value, 0, 1);
    vec![
        load(ARCH),
        skip_if_equal(THIS_ARCH),
        answer(libc::EPERM),
        load(NUMBER),
        skip_unless_greater(number(NEWEST)),
        answer(libc::ENOSYS),
        skip_unless_equal(number(libc::SYS_clone3)),
        answer(libc::ENOSYS),
    ]
}

fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Errnos and numbers of calls are small and positive.
fn errno(code: libc::c_int) -> u32 {
    code.unsigned_abs()
}

fn number(call: i64) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// All of them must hold.
fn rule<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// Argument `arg`, an int, is `value`.
fn is(arg: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    use SeccompCmpArgLen::Dword;
    SeccompCondition::new(arg, Dword, SeccompCmpOp::Eq, value & 0xffff_ffff)
}

/// Argument `arg`, an int, is not `value`.
fn is_not(arg: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    use SeccompCmpArgLen::Dword;
    SeccompCondition::new(arg, Dword, SeccompCmpOp::Ne, value & 0xffff_ffff)
}

/// Of argument `arg`, the bits in `mask` are `value`.
fn bits(arg: u8, mask: libc::c_int, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let wide = |flags: libc::c_int| u64::from(flags.cast_unsigned());
    let op = SeccompCmpOp::MaskedEq(wide(mask));
    SeccompCondition::new(arg, SeccompCmpArgLen::Qword, op, wide(value))
}

/// A constant of the C library as an argument.
fn int(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation() -> Situation {
        Situation {
            pid: 4321,
            processes: false,
            network: false,
            devices: false,
            own_user: false,
            signals_scoped: true,
        }
    }

    /// What the kernel's interpreter answers to a call (a filter uses few of its instructions).
    fn run(program: &BpfProgram, arch: u32, call: i64, args: [u64; 6]) -> u32 {
        let mut data = vec![number(call), arch, 0, 0];
        for arg in args {
            // A mask, not a loss: the words of a little-endian u64.
            data.push(u32::try_from(arg & 0xffff_ffff).unwrap());
            data.push(u32::try_from(arg >> 32).unwrap());
        }
        let (mut at, mut a) = (0_usize, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let jump = |yes: bool| usize::from(if yes { jt } else { jf });
            match code {
                0x20 => a = data[k as usize / 4],
                0x06 => return k,
                0x05 => at += k as usize,
                0x15 => at += jump(a == k),
                0x25 => at += jump(a > k),
                0x35 => at += jump(a >= k),
                0x54 => a &= k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    const HERE: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const HERE: u32 = 0xc000_00b7;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn refused(code: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno(code)
    }

    #[test]
    fn no_filter_ever_kills_whatever_is_asked() {
        for trust in [Trust::Normal, Trust::Untrusted] {
            let program = program(trust, &situation()).unwrap();
            for call in (0..600).chain([1 << 30, (1 << 30) + 59, i64::from(u32::MAX)]) {
                for arch in [HERE, 0x4000_0003, 0] {
                    let answer = run(&program, arch, call, [7; 6]);
                    let errno = [libc::EPERM, libc::ENOSYS].map(refused);
                    assert!(
                        answer == ALLOW || errno.contains(&answer),
                        "{call} {answer:#x}"
                    );
                    if arch != HERE {
                        assert_eq!(answer, refused(libc::EPERM), "{call}");
                    } else if call > NEWEST {
                        assert_eq!(answer, refused(libc::ENOSYS), "{call}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_denied_to_a_normal_worker_is_allowed_to_an_untrusted_one() {
        for processes in [false, true] {
            for network in [false, true] {
                let situation = Situation {
                    processes,
                    network,
                    ..situation()
                };
                let normal = program(Trust::Normal, &situation).unwrap();
                let untrusted = program(Trust::Untrusted, &situation).unwrap();
                let odd = [0, 1, 2, 3, 7, 8, 10, 16, 4321, 0x5412, 0x8901, u64::MAX];
                let flags = NAMESPACES.map(int);
                let thread = int(libc::CLONE_THREAD);
                let firsts = odd
                    .into_iter()
                    .chain(flags)
                    .chain([thread, thread | flags[0]]);
                for first in firsts {
                    for second in odd {
                        for call in 0..=NEWEST {
                            let args = [first, second, second, second, 0, 0];
                            if run(&normal, HERE, call, args) != ALLOW {
                                let answer = run(&untrusted, HERE, call, args);
                                assert_ne!(answer, ALLOW, "{call} {args:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn signals_reach_only_oneself() {
        for trust in [Trust::Normal, Trust::Untrusted] {
            let program = program(trust, &situation()).unwrap();
            let kill = |pid: u64| run(&program, HERE, libc::SYS_kill, [pid, 9, 0, 0, 0, 0]);
            let own = 4321;
            assert_eq!(kill(own), ALLOW);
            // Its own group: it leads a session, so nobody else is in it.
            assert_eq!(kill(0), ALLOW);
            for other in [1, 4320, u64::MAX, u64::from(u32::MAX), own | 1 << 31] {
                assert_eq!(kill(other), refused(libc::EPERM), "{other}");
            }
            let tgkill = |pid: u64| run(&program, HERE, libc::SYS_tgkill, [pid, 5, 6, 0, 0, 0]);
            assert_eq!(tgkill(own), ALLOW);
            assert_eq!(tgkill(1), refused(libc::EPERM));
        }
    }

    #[test]
    fn children_may_be_signalled_only_where_landlock_keeps_signals_inside() {
        for (signals_scoped, expected) in [(true, ALLOW), (false, refused(libc::EPERM))] {
            for trust in [Trust::Normal, Trust::Untrusted] {
                let situation = Situation {
                    processes: true,
                    signals_scoped,
                    ..situation()
                };
                let program = program(trust, &situation).unwrap();
                let answer = run(&program, HERE, libc::SYS_kill, [99, 9, 0, 0, 0, 0]);
                assert_eq!(answer, expected);
            }
        }
    }
}
