//! How much a worker may use.

use visualpath_sandbox::Trust;

use crate::Test;
use crate::child::{BOTH, plan, tries};

pub const TESTS: &[Test] = &[
    ("ten_thousand_files_end_with_emfile", files),
    ("a_gigabyte_fails_where_100_megabytes_work", memory),
    ("memory_is_not_limited_by_rlimit_with_a_device", gpu_memory),
    ("too_long_a_file_is_an_error_and_not_the_end", long_file),
    (
        "no_core_is_dumped_and_no_limit_raised_again_even_by_root",
        raise,
    ),
    ("the_kernel_kills_a_worker_before_its_parent", oom),
];

fn files() -> Result<(), String> {
    for trust in BOTH {
        let mut p = plan(trust);
        p.policy.files = 64;
        let answer = p.answer("files", &[]);
        let (count, end) = answer.split_once(" then ").unwrap();
        assert_eq!(end, "EMFILE");
        assert!(
            (50..64).contains(&count.parse::<u32>().unwrap()),
            "{answer}"
        );
    }
    Ok(())
}

fn memory() -> Result<(), String> {
    for trust in BOTH {
        let mut p = plan(trust);
        p.policy.memory_bytes = Some(256 << 20);
        assert_eq!(p.answer("memory", &["100"]), "ok");
        assert_eq!(p.answer("memory", &["1024"]), "ENOMEM");
        assert_eq!(p.answer("threads", &[]), "sum=28");
        assert_eq!(tries(trust, "memory", &["300"]), "ok");
    }
    Ok(())
}

fn gpu_memory() -> Result<(), String> {
    let mut p = plan(Trust::Normal);
    p.policy.memory_bytes = Some(256 << 20);
    p.policy.devices = vec!["/dev/null".into()];
    assert_eq!(p.answer("memory", &["300"]), "ok");
    Ok(())
}

fn long_file() -> Result<(), String> {
    for trust in BOTH {
        let mut p = plan(trust);
        p.policy.file_bytes = 1 << 20;
        assert_eq!(p.answer("long_file", &["1048576"]), "ok then EFBIG");
    }
    Ok(())
}

fn raise() -> Result<(), String> {
    for trust in BOTH {
        let mut p = plan(trust);
        p.policy.files = 100;
        assert_eq!(
            p.answer("limits", &[]),
            "core=0/0 EPERM nofile=100/100 EPERM fsize=EPERM"
        );
    }
    Ok(())
}

fn oom() -> Result<(), String> {
    let own: i32 = score("/proc/self/oom_score_adj");
    let dir = plan(Trust::Normal);
    drop(dir);
    let mut child = plan(Trust::Normal);
    let mut process = child.spawn("wait", &[]);
    crate::life::until_ready(&mut process);
    let its = score(&format!("/proc/{}/oom_score_adj", process.id()));
    process.kill().unwrap();
    process.wait().unwrap();
    if own >= 500 {
        return Err(format!("this process has {own} itself"));
    }
    assert_eq!(its, 500);
    Ok(())
}

fn score(path: &str) -> i32 {
    std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}
