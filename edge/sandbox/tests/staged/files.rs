//! What a worker reaches: files, devices, sockets.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use visualpath_sandbox::{STAGE_EXIT, Trust};

use crate::Test;
use crate::child::{BOTH, Plan, is_root, landlock_abi, plan, tries};

pub const TESTS: &[Test] = &[
    ("secrets_of_the_machine_are_refused_even_to_root", secrets),
    ("only_the_private_directory_can_be_written", writes),
    ("grants_reach_as_far_as_they_say", grants),
    ("a_grant_that_is_not_there_is_named", missing_grant),
    ("what_a_worker_wrote_it_may_not_run", run_own),
    ("only_granted_devices_open", devices),
    ("sockets_are_local_unless_network_is_granted", sockets),
    ("the_parents_socket_by_path_can_be_reached", pathname),
    (
        "abstract_sockets_of_others_can_not_be_reached",
        abstract_sockets,
    ),
    ("descriptors_of_the_parent_are_closed", leaks),
    ("its_socket_is_descriptor_3", socket_on_3),
    (
        "it_starts_in_its_own_directory_with_its_own_environment",
        place,
    ),
    ("proc_shows_itself_and_to_the_untrusted_no_one_else", proc),
    (
        "proc_stays_readable_when_the_kernel_forgets_its_files",
        forgotten,
    ),
];

fn need_landlock(least: u32) -> Result<(), String> {
    let abi = landlock_abi();
    match abi >= least {
        true => Ok(()),
        false => Err(format!(
            "Landlock ABI {abi} of this kernel is below {least}"
        )),
    }
}

fn path(plan: &Plan, name: &str) -> String {
    plan.place.outside().join(name).display().to_string()
}

fn secrets() -> Result<(), String> {
    need_landlock(1)?;
    for trust in BOTH {
        for secret in ["/etc/shadow", "/etc/machine-id", "/proc/1/environ"] {
            if Path::new(secret).exists() {
                let answer = tries(trust, "read", &[secret]);
                assert!(
                    ["EACCES", "EPERM"].contains(&answer.as_str()),
                    "{secret} {answer}"
                );
            }
        }
        assert_eq!(tries(trust, "list", &["/root"]), "EACCES");
        assert_eq!(tries(trust, "list", &["/"]), "EACCES");
        assert_eq!(tries(trust, "read", &["/etc/passwd"]), "ok");
        // The same in the stage's own process, without exec.
        let mut built_in = plan(trust);
        built_in.in_process = true;
        assert_eq!(built_in.answer("read", &["/etc/shadow"]), "EACCES");
        let mut built_in = plan(trust);
        built_in.in_process = true;
        assert_eq!(built_in.answer("write", &["mine"]), "ok");
    }
    Ok(())
}

fn writes() -> Result<(), String> {
    need_landlock(3)?;
    for trust in BOTH {
        let mut p = plan(trust);
        let file = path(&p, "file");
        fs::write(&file, "x").unwrap();
        for attack in ["write", "append", "truncate", "read"] {
            assert_eq!(p.answer(attack, &[&file]), "EACCES", "{attack}");
        }
        let new = path(&p, "new");
        assert_eq!(p.answer("write", &[&new]), "EACCES");
        assert_eq!(p.answer("write", &["mine"]), "ok");
        assert_eq!(p.answer("rename", &["mine", "yours"]), "ok");
        assert_eq!(p.answer("rename", &["yours", &new]), "EACCES");
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }
    Ok(())
}

fn grants() -> Result<(), String> {
    need_landlock(3)?;
    for trust in BOTH {
        let mut p = plan(trust);
        let (read, write) = (path(&p, "read"), path(&p, "write"));
        for dir in [&read, &write] {
            fs::create_dir(dir).unwrap();
            fs::write(format!("{dir}/file"), "x").unwrap();
        }
        let (single, beside) = (path(&p, "single"), path(&p, "beside"));
        fs::write(&single, "x").unwrap();
        fs::write(&beside, "x").unwrap();
        p.policy.read = vec![(&read).into(), (&single).into()];
        p.policy.write = vec![(&write).into()];
        assert_eq!(p.answer("read", &[&format!("{read}/file")]), "ok");
        assert_eq!(p.answer("write", &[&format!("{read}/file")]), "EACCES");
        assert_eq!(p.answer("read", &[&single]), "ok");
        assert_eq!(p.answer("read", &[&beside]), "EACCES");
        assert_eq!(p.answer("write", &[&format!("{write}/new")]), "ok");
        assert_eq!(p.answer("rename", &[&format!("{write}/new"), "here"]), "ok");
    }
    Ok(())
}

fn missing_grant() -> Result<(), String> {
    for (read, write, devices, named) in [
        (
            vec!["/no/such/model".into()],
            vec![],
            vec![],
            "/no/such/model",
        ),
        (vec![], vec!["relative".into()], vec![], "relative"),
        (
            vec![],
            vec![],
            vec!["/dev/no-such-*".into()],
            "/dev/no-such-*",
        ),
    ] {
        let mut p = plan(Trust::Normal);
        (p.policy.read, p.policy.write, p.policy.devices) = (read, write, devices);
        let output = p.output("read", &["/dev/null"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(STAGE_EXIT), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.contains(named) && stderr.contains("os error"),
            "{stderr}"
        );
    }
    Ok(())
}

fn run_own() -> Result<(), String> {
    need_landlock(1)?;
    for trust in BOTH {
        assert_eq!(tries(trust, "make_run", &[]), "ok EACCES");
    }
    Ok(())
}

fn devices() -> Result<(), String> {
    need_landlock(1)?;
    for trust in BOTH {
        // The controlling terminal's node exists everywhere; a worker has no terminal (ENXIO).
        assert_eq!(tries(trust, "device", &["/dev/tty"]), "EACCES");
        let mut p = plan(trust);
        p.policy.devices = vec!["/dev/tt*y".into()];
        assert_eq!(
            p.answer("device", &["/dev/tty"]),
            format!("errno {}", libc::ENXIO)
        );
        // No TIOCGWINSZ for a sink, but asking is allowed.
        let asked = format!("ok errno {}", libc::ENOTTY);
        assert_eq!(tries(trust, "device", &["/dev/null"]), asked);
        assert_eq!(tries(trust, "mknod", &[]), expected_mknod(trust));
    }
    if is_root() && Path::new("/dev/ptmx").exists() {
        for trust in BOTH {
            let mut p = plan(trust);
            p.policy.devices = vec!["/dev/ptmx".into()];
            assert_eq!(p.answer("device", &["/dev/ptmx"]), "ok ok");
            assert_eq!(tries(trust, "device", &["/dev/ptmx"]), "EACCES");
        }
    }
    Ok(())
}

fn expected_mknod(trust: Trust) -> &'static str {
    match trust {
        Trust::Normal => "EACCES",
        Trust::Untrusted => "EPERM",
    }
}

fn sockets() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for trust in BOTH {
        for domain in [
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
            libc::AF_PACKET,
            libc::AF_ALG,
        ] {
            assert_eq!(
                tries(trust, "socket", &[&domain.to_string()]),
                "EPERM",
                "{domain}"
            );
        }
        assert_eq!(tries(trust, "socket", &[&libc::AF_UNIX.to_string()]), "ok");
        assert_eq!(tries(trust, "socketpair", &[]), "ok");
        assert_eq!(tries(trust, "tcp", &[&address]), "EPERM");
        let mut p = plan(trust);
        p.policy.network = true;
        assert_eq!(p.answer("tcp", &[&address]), "ok");
        assert_eq!(p.answer("socket", &[&libc::AF_VSOCK.to_string()]), "EPERM");
    }
    Ok(())
}

fn pathname() -> Result<(), String> {
    for trust in BOTH {
        let mut p = plan(trust);
        let path = path(&p, "socket");
        let listener = UnixListener::bind(&path).unwrap();
        let echo = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut word = [0; 5];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        });
        assert_eq!(p.answer("connect", &[&path]), "ok");
        echo.join().unwrap();
    }
    Ok(())
}

fn abstract_sockets() -> Result<(), String> {
    need_landlock(6)?;
    let name = format!("visualpath-sandbox-test-{}", std::process::id());
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for trust in BOTH {
        assert_eq!(tries(trust, "abstract", &[&name]), "EPERM");
    }
    Ok(())
}

fn leaks() -> Result<(), String> {
    let secret = File::open("/etc/passwd").unwrap();
    let leaked: Vec<i32> = (0..8).map(|_| crate::child::leaky(&secret)).collect();
    for trust in BOTH {
        let mut p = plan(trust);
        let open = p.answer("descriptors", &[]);
        let expected = match trust {
            Trust::Normal => "0=/dev/null".to_string(),
            // What keeps their rules alive (see src/files.rs); Landlock holds behind them too.
            Trust::Untrusted => format!(
                "0=/dev/null {}",
                [
                    "4=/proc/PID",
                    "5=/proc/cpuinfo",
                    "6=/proc/meminfo",
                    "7=/proc/sys/vm/overcommit_memory"
                ]
                .join(" ")
            ),
        };
        assert_eq!(open, expected);
    }
    for fd in leaked {
        // SAFETY: made above, closed once.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

fn socket_on_3() -> Result<(), String> {
    for trust in BOTH {
        for in_process in [false, true] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let mut p = plan(trust);
            p.in_process = in_process;
            p.socket = Some(OwnedFd::from(theirs));
            assert_eq!(p.answer("socket_3", &[]), "ok");
            let mut said = String::new();
            ours.read_to_string(&mut said).unwrap();
            assert_eq!(said, "from 3");
        }
    }
    // What is no socket is refused by name.
    let mut p = plan(Trust::Normal);
    p.socket = Some(OwnedFd::from(File::open("/dev/zero").unwrap()));
    let output = p.output("socket_3", &[]);
    assert_eq!(output.status.code(), Some(STAGE_EXIT));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("standard input is not the socket"),
        "{stderr}"
    );
    Ok(())
}

fn place() -> Result<(), String> {
    for trust in BOTH {
        for in_process in [false, true] {
            let mut p = plan(trust);
            p.in_process = in_process;
            assert_eq!(
                p.answer("place", &[]),
                "session=true umask=77 home=true tmpdir=true empty=true stdin=0 ok"
            );
            let names = p.answer("env_names", &[]);
            let given = if in_process { "" } else { "GIVEN " };
            assert_eq!(names, format!("{given}HOME TMPDIR VISUALPATH_SANDBOX"));
            let entered = p.answer("env", &["VISUALPATH_SANDBOX"]);
            let seccomp = format!("seccomp={} ", trust.word());
            assert!(entered.starts_with(&seccomp), "{entered}");
        }
    }
    Ok(())
}

fn proc() -> Result<(), String> {
    need_landlock(1)?;
    let own = "maps=ok task=ok cpuinfo=ok meminfo=ok";
    assert_eq!(tries(Trust::Normal, "proc", &[]), format!("{own} init=ok"));
    assert_eq!(
        tries(Trust::Untrusted, "proc", &[]),
        format!("{own} init=EACCES")
    );
    Ok(())
}

/// Drops the whole machine's caches, so only where it is asked for.
fn forgotten() -> Result<(), String> {
    need_landlock(1)?;
    if std::env::var_os("VISUALPATH_TEST_DROP_CACHES").is_none() {
        return Err("slows the machine down: set VISUALPATH_TEST_DROP_CACHES=1 as root".into());
    }
    for trust in BOTH {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut p = plan(trust);
        p.socket = Some(OwnedFd::from(theirs));
        let child = p.spawn("proc_later", &[]);
        // It is in the sandbox; the kernel forgets; then it looks.
        ours.read_exact(&mut [0; 1]).unwrap();
        for _ in 0..3 {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        }
        ours.write_all(b"x").unwrap();
        let answer = crate::child::answer(child.wait_with_output().unwrap());
        assert!(
            answer.starts_with("maps=ok task=ok cpuinfo=ok meminfo=ok"),
            "{answer}"
        );
    }
    Ok(())
}
