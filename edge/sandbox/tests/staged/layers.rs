//! Machines that lack a layer: what still holds, and who must not start.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use visualpath_sandbox::{STAGE_EXIT, Trust};

use crate::Test;
use crate::child::{BOTH, Plan, answer, is_root, plan};

pub const TESTS: &[Test] = &[
    (
        "an_untrusted_plugin_does_not_start_without_a_mandatory_layer",
        refuses,
    ),
    ("its_own_user_makes_up_for_landlock", own_user),
    (
        "a_normal_one_starts_and_keeps_the_layers_there_are",
        goes_on,
    ),
    (
        "an_old_kernels_way_of_closing_descriptors_works_too",
        no_close_range,
    ),
];

/// A kernel without some calls, by a filter that the stage is born with.
fn without(calls: &[i64], command: &mut Command) {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, vec![])).collect();
    let gone = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, gone, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let apply = move || apply_filter(&program).map_err(std::io::Error::other);
    // SAFETY: two system calls; it allocates only when they fail, and then the test fails.
    unsafe { command.pre_exec(apply) };
}

fn run(p: &mut Plan, calls: &[i64], attack: &str, args: &[&str]) -> Output {
    let mut all = vec!["--attack", attack];
    all.extend(args);
    let program = p.program();
    let mut command = p.command(&program, &all);
    without(calls, &mut command);
    command.output().unwrap()
}

const LANDLOCK: i64 = libc::SYS_landlock_create_ruleset;

fn refuses() -> Result<(), String> {
    for (call, named) in [(LANDLOCK, "landlock"), (libc::SYS_seccomp, "seccomp")] {
        let output = run(&mut plan(Trust::Untrusted), &[call], "threads", &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(STAGE_EXIT), "{stderr}");
        assert!(output.stdout.is_empty());
        assert!(
            stderr.contains(&format!("{named} does not work here")),
            "{stderr}"
        );
        assert!(stderr.contains("visualpath doctor"), "{stderr}");
    }
    Ok(())
}

fn own_user() -> Result<(), String> {
    if !is_root() {
        return Err("only root can give a worker a user".into());
    }
    let mut p = plan(Trust::Untrusted);
    p.own_user();
    let mut tries = |attack: &str, arg: &str| answer(run(&mut p, &[LANDLOCK], attack, &[arg]));
    assert!(tries("env", "VISUALPATH_SANDBOX").contains("landlock=0 user=yes"));
    assert_eq!(tries("read", "/etc/shadow"), "EACCES");
    assert_eq!(tries("write", "mine"), "ok");
    Ok(())
}

fn goes_on() -> Result<(), String> {
    let mut p = plan(Trust::Normal);
    let parent = std::process::id().to_string();
    let mut tries = |call, attack: &str, arg: &str| answer(run(&mut p, &[call], attack, &[arg]));
    let entered = tries(LANDLOCK, "env", "VISUALPATH_SANDBOX");
    assert_eq!(entered, "seccomp=normal landlock=0 user=no cgroup=no");
    let signals = tries(LANDLOCK, "signal_others", &parent);
    assert_eq!(signals.matches("=EPERM").count(), 7, "{signals}");
    assert_eq!(
        tries(LANDLOCK, "socket", &libc::AF_INET.to_string()),
        "EPERM"
    );

    let seccomp = libc::SYS_seccomp;
    let entered = tries(seccomp, "env", "VISUALPATH_SANDBOX");
    assert!(entered.starts_with("seccomp=none landlock="), "{entered}");
    let own_limits = tries(seccomp, "limits", "");
    assert!(own_limits.starts_with("core=0/0 EPERM"), "{own_limits}");
    Ok(())
}

fn no_close_range() -> Result<(), String> {
    let leaked = crate::child::leaky(&std::fs::File::open("/etc/passwd").unwrap());
    for trust in BOTH {
        let output = run(
            &mut plan(trust),
            &[libc::SYS_close_range],
            "descriptors",
            &[],
        );
        let open = answer(output);
        assert!(!open.contains("passwd"), "{open}");
    }
    // SAFETY: made above, closed once.
    unsafe { libc::close(leaked) };
    Ok(())
}
