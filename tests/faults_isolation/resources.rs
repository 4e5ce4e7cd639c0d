//! Workers that take or touch what is not theirs.

use visualpath_tests::workers::{Done, of};

use crate::bad::{Bad, Fate, run};

/// A signal it gave in any frame.
fn signal(done: &Done, extractor: &str, name: &str) -> Option<f64> {
    of(&done.trace, "observation")
        .filter(|r| r["extractor"] == extractor)
        .find_map(|r| r["signals"][name].as_f64())
}

/// Errno of what the sandbox refuses.
const EPERM: f64 = 1.0;
const EBADF: f64 = 9.0;
const EACCES: f64 = 13.0;
const EINVAL: f64 = 22.0;
const EMFILE: f64 = 24.0;

#[test]
fn a_worker_that_takes_too_much_harms_only_itself() {
    let done = run(
        240,
        &[
            Bad::at(
                "eats",
                30,
                "memory",
                0,
                Fate::Back("signal 6 (SIGABRT): memory allocation of"),
            )
            .with("sandbox = { memory_mb = 256 }"),
            Bad::at("forks", 30, "forks", 0, Fate::Lives),
            Bad::at("opens", 30, "files", 0, Fate::Lives),
            Bad::at("chats", 30, "stderr", 0, Fate::Lives),
        ],
    );
    let of = |extractor, name| signal(&done, extractor, name);
    assert_eq!(of("forks", "forks"), Some(0.0));
    assert_eq!(of("forks", "forks_errno"), Some(EPERM));
    assert_eq!(of("opens", "files_errno"), Some(EMFILE));
    assert!(
        of("opens", "files") < Some(1024.0),
        "{:?}",
        of("opens", "files")
    );
    let told = done
        .lines_of("chats")
        .filter(|l| l.contains("chat xxx"))
        .count();
    assert!(
        (50..2000).contains(&told),
        "10 000 lines, at a bounded rate: {told}"
    );
    assert!(
        done.lines_of("chats")
            .any(|l| l.contains("were not logged")),
        "and that lines are missing is said"
    );
}

fn check_forbidden(done: &Done, name: &str) {
    for (what, errnos) in [
        ("mprotect", &[EACCES][..]),
        ("own_mem", &[EACCES]),
        ("parent_mem", &[EACCES, EPERM]),
        ("parent_environ", &[EACCES, EPERM]),
        ("shadow", &[EACCES]),
        ("tcp", &[EPERM]),
        ("udp6", &[EPERM]),
        ("ptrace", &[EPERM]),
        ("kill", &[EPERM]),
        ("kill_group", &[EPERM]),
        ("setsid", &[EPERM]),
        ("pdeathsig", &[EPERM]),
        ("made_file", &[EACCES]),
        ("shm", &[EACCES]),
    ] {
        let errno = signal(done, name, what);
        assert!(
            errno.is_some_and(|e| errnos.contains(&e)),
            "{name}: {what} gave {errno:?}, not {errnos:?}"
        );
    }
}

#[test]
fn what_is_forbidden_is_refused_and_the_worker_goes_on_and_an_untrusted_one_works_too() {
    let untrusted = "trust = \"untrusted\"";
    let done = run(
        120,
        &[
            Bad::at("normal", 30, "forbidden", 0, Fate::Lives),
            Bad::at("untrusted", 30, "forbidden", 0, Fate::Lives).with(untrusted),
            Bad::at("forks", 30, "forks", 0, Fate::Lives).with(untrusted),
            Bad::at("dies", 30, "sigkill", 0, Fate::Back("SIGKILL")).with(untrusted),
            Bad::panics("panics", 30).with(untrusted),
            Bad::raw("thief", &["thief", "30"], Fate::Lives),
        ],
    );
    check_forbidden(&done, "normal");
    check_forbidden(&done, "untrusted");
    assert_eq!(signal(&done, "forks", "forks_errno"), Some(EPERM));
    let stolen = |name| signal(&done, "thief", name);
    assert_eq!(stolen("map_readable"), Some(0.0), "as it may");
    for (what, errnos) in [
        ("map_writable", &[EPERM, EACCES][..]),
        ("mprotect", &[EACCES]),
        ("write", &[EBADF]),
        ("truncate", &[EINVAL, EPERM]),
        ("unseal", &[EPERM]),
        ("again_map", &[EPERM, EACCES, EBADF]),
        ("again_write", &[EPERM, EBADF]),
        ("again_truncate", &[EPERM, EBADF]),
        ("again_punch", &[EPERM, EBADF]),
    ] {
        let errno = stolen(what);
        assert!(
            errno.is_some_and(|e| errnos.contains(&e)),
            "the pool: {what} gave {errno:?}, not {errnos:?}"
        );
    }
}
