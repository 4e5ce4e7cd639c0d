//! What a worker may ask of the kernel.

use visualpath_sandbox::Trust;

use crate::Test;
use crate::child::{BOTH, is_root, plan, tries};

pub const TESTS: &[Test] = &[
    ("no_signal_reaches_the_parent_or_anyone", signals),
    ("signals_to_itself_work_and_sigint_is_ignored", own_signals),
    ("no_one_looks_into_the_parent", look),
    ("no_one_sabotages_the_parent", sabotage),
    ("privileged_calls_are_refused_with_eperm", privileged),
    ("numbers_no_list_knows_do_not_exist", odd),
    ("fork_is_refused_in_every_form", forks),
    ("a_fork_bomb_leaves_no_process", bomb),
    ("threads_work", threads),
    (
        "with_processes_children_work_and_stay_in_the_group",
        children,
    ),
    ("no_capability_is_left", capabilities),
    ("its_own_user_is_its_own", own_user),
];

/// The parent's id: signals to it would end this test.
fn parent() -> String {
    std::process::id().to_string()
}

fn signals() -> Result<(), String> {
    for trust in BOTH {
        assert_eq!(
            tries(trust, "signal_others", &[&parent()]),
            "kill=EPERM all=EPERM tkill=EPERM tgkill=EPERM queue=EPERM pidfd=EPERM owner=EPERM"
        );
    }
    Ok(())
}

fn own_signals() -> Result<(), String> {
    for trust in BOTH {
        for in_process in [false, true] {
            let mut p = plan(trust);
            p.in_process = in_process;
            assert_eq!(p.answer("signal_self", &[]), "[0, 0, 0, 0] 3");
        }
    }
    Ok(())
}

fn look() -> Result<(), String> {
    for trust in BOTH {
        let answer = tries(trust, "look_into", &[&parent()]);
        let words: Vec<&str> = answer.split(' ').collect();
        assert_eq!(words.len(), 9, "{answer}");
        for word in words {
            let refused = word.ends_with("=EPERM") || word.ends_with("=EACCES");
            assert!(refused, "{trust:?} {answer}");
        }
    }
    Ok(())
}

fn sabotage() -> Result<(), String> {
    // Aimed at a process that may be sabotaged: a child of the test's, outside any sandbox.
    let mut victim = std::process::Command::new("/bin/sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = victim.id().to_string();
    let normal = tries(Trust::Normal, "sabotage", &[&pid]);
    let untrusted = tries(Trust::Untrusted, "sabotage", &[&pid]);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(normal.starts_with("limit=EPERM oom=EACCES "), "{normal}");
    assert_eq!(
        untrusted,
        "limit=EPERM oom=EACCES cpus=EPERM idle=EPERM nice=EPERM"
    );
    Ok(())
}

fn privileged() -> Result<(), String> {
    for trust in BOTH {
        assert_eq!(tries(trust, "privileged", &[]), "27 refused");
    }
    Ok(())
}

fn odd() -> Result<(), String> {
    for trust in BOTH {
        assert_eq!(tries(trust, "odd_calls", &[]), "new=ENOSYS x32=ENOSYS");
    }
    Ok(())
}

fn forks() -> Result<(), String> {
    let expected = match cfg!(target_arch = "x86_64") {
        true => "fork=EPERM vfork=EPERM clone=EPERM clone3=ENOSYS libc=EPERM spawn=EPERM",
        false => "clone=EPERM clone3=ENOSYS libc=EPERM spawn=EPERM",
    };
    for trust in BOTH {
        assert_eq!(tries(trust, "fork", &[]), expected);
    }
    Ok(())
}

fn bomb() -> Result<(), String> {
    for trust in BOTH {
        // Reading to the end of its output waits for every copy that would hold it.
        assert_eq!(tries(trust, "fork_bomb", &[]), "0 born");
    }
    Ok(())
}

fn threads() -> Result<(), String> {
    for trust in BOTH {
        assert_eq!(tries(trust, "threads", &[]), "sum=28");
    }
    Ok(())
}

fn children() -> Result<(), String> {
    if crate::child::landlock_abi() < 6 {
        return Err("without Landlock ABI 6 children can't be signalled".into());
    }
    for trust in BOTH {
        let mut p = plan(trust);
        p.policy.processes = true;
        assert_eq!(
            p.answer("children", &[]),
            "said=42 kill=ok signal: 9 (SIGKILL) setsid=EPERM"
        );
        let answer = p.answer("signal_others", &[&parent()]);
        let refused = ["kill", "tkill", "tgkill", "queue", "pidfd", "owner"];
        for call in refused {
            assert!(answer.contains(&format!("{call}=EPERM")), "{answer}");
        }
    }
    Ok(())
}

fn capabilities() -> Result<(), String> {
    let none = "0000000000000000";
    for (trust, in_process) in [
        (Trust::Normal, false),
        (Trust::Normal, true),
        (Trust::Untrusted, false),
        (Trust::Untrusted, true),
    ] {
        let mut p = plan(trust);
        p.in_process = in_process;
        let answer = p.answer("identity", &[]);
        assert!(
            answer.contains(&format!("permitted={none} effective={none}")),
            "{answer}"
        );
        assert!(answer.contains("no_new_privs=1 seccomp=2"), "{answer}");
        if is_root() {
            assert!(answer.contains(&format!("bounding={none}")), "{answer}");
        }
    }
    Ok(())
}

fn own_user() -> Result<(), String> {
    if !is_root() {
        return Err("only root can give a worker a user".into());
    }
    for trust in BOTH {
        for in_process in [false, true] {
            let mut p = plan(trust);
            p.own_user();
            p.in_process = in_process;
            let answer = p.answer("identity", &[]);
            let ids = "uid=54321,54321,54321,54321 gid=54322,54322,54322,54322 groups=54323 ";
            assert!(answer.starts_with(ids), "{answer}");
            assert!(p.answer("escape_death", &[]).ends_with(" 9"));
            assert_eq!(p.answer("write", &["mine"]), "ok");
        }
    }
    // A directory that is not its own is named.
    let mut p = plan(Trust::Normal);
    p.own_user();
    std::os::unix::fs::chown(p.place.private(), Some(0), Some(0)).unwrap();
    let output = p.output("write", &["mine"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("step directory") && stderr.contains("private"),
        "{stderr}"
    );
    Ok(())
}
