//! Whose child a worker is, and that it never outlives its parent.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use visualpath_sandbox::{Policy, STAGE_ENV, STAGE_EXIT, Stage, Trust};

use crate::Test;
use crate::child::{BOTH, is_root, plan, tries};

pub const TESTS: &[Test] = &[
    ("no_worker_outlives_a_parent_that_was_killed", orphans),
    ("a_worker_can_not_ask_to_outlive_its_parent", escape),
    ("a_stage_of_another_parent_ends", not_mine),
    ("the_parent_can_end_it", can_be_killed),
    ("a_stage_without_its_variable_says_so", no_variable),
    ("a_program_that_can_not_run_is_named", bad_program),
    ("it_joins_its_cgroup_and_all_of_it_can_be_killed", cgroup),
];

/// Nothing here takes this long; it only keeps a failure from hanging.
const HANG: Duration = Duration::from_secs(60);

pub fn until_ready(child: &mut Child) {
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = [0; 6];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
}

/// A parent that says that it starts a worker, does so, and waits to be killed. Its output is
/// the worker's too.
pub fn middle() -> ExitCode {
    let json = std::env::var(STAGE_ENV).unwrap();
    let mut stage: Stage = serde_json::from_str(&json).unwrap();
    stage.parent_pid = std::process::id();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("--stage")
        .env(STAGE_ENV, stage.to_env().unwrap());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit());
    println!("started");
    std::io::stdout().flush().unwrap();
    let mut child = command.spawn().unwrap();
    // It never ends by itself.
    child.wait().unwrap();
    ExitCode::FAILURE
}

/// A child that does not outlive a test that fails.
struct Doomed(Child);

impl Drop for Doomed {
    fn drop(&mut self) {
        // It may be dead already; it is ours until it is reaped here.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A hundred parents, killed at a moment drawn from a seed: before, during and after the stage.
fn orphans() -> Result<(), String> {
    let mut seed = 0x5eed_u64;
    let mut slowest = Duration::ZERO;
    for round in 0..100_u32 {
        let trust = BOTH[round as usize % 2];
        let mut p = plan(trust);
        if is_root() && round % 3 == 0 {
            p.own_user();
        }
        let stage = p.stage(&p.program(), &["--attack", "wait"]);
        let mut middle = Command::new(std::env::current_exe().unwrap());
        middle.arg("--middle").env_clear();
        middle.env(STAGE_ENV, stage.to_env().unwrap());
        middle
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut middle = Doomed(middle.spawn().unwrap());
        let mut stdout = middle.0.stdout.take().unwrap();
        let mut line = [0; 8];
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"started\n");
        // xorshift: up to 20 ms, from before its birth to after the stage.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        if round % 4 != 0 {
            std::thread::sleep(Duration::from_micros(seed % 20_000));
        } else {
            let mut ready = [0; 6];
            stdout.read_exact(&mut ready).unwrap();
            assert_eq!(&ready, b"ready\n");
        }
        middle.0.kill().unwrap();
        let killed = std::time::Instant::now();
        drop(middle);
        // The worker holds the other end: its end is the worker's.
        assert!(
            ends_within(stdout.into(), HANG),
            "round {round}: still there"
        );
        slowest = slowest.max(killed.elapsed());
    }
    println!("  100 parents killed; the slowest worker was gone after {slowest:?}");
    Ok(())
}

/// Reads to the end of a pipe; `false`: nothing came for so long.
fn ends_within(pipe: OwnedFd, longest: Duration) -> bool {
    let timeout = i32::try_from(longest.as_millis()).unwrap();
    let mut file = std::fs::File::from(pipe);
    loop {
        let mut poll = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, as it says.
        if unsafe { libc::poll(&raw mut poll, 1, timeout) } == 0 {
            return false;
        }
        if file.read(&mut [0; 64]).unwrap() == 0 {
            return true;
        }
    }
}

fn escape() -> Result<(), String> {
    for trust in BOTH {
        assert_eq!(tries(trust, "escape_death", &[]), "EPERM 9");
    }
    Ok(())
}

fn not_mine() -> Result<(), String> {
    let mut p = plan(Trust::Normal);
    p.parent_pid = 1;
    let output = p.output("threads", &[]);
    assert_eq!(output.status.code(), Some(STAGE_EXIT));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("the parent, process 1, is gone"),
        "{stderr}"
    );
    Ok(())
}

fn can_be_killed() -> Result<(), String> {
    for trust in BOTH {
        let mut p = plan(trust);
        if is_root() {
            p.own_user();
        }
        let mut child = p.spawn("wait", &[]);
        until_ready(&mut child);
        let pid = i32::try_from(child.id()).unwrap();
        // SAFETY: our own child, not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(15)
        );
    }
    Ok(())
}

fn no_variable() -> Result<(), String> {
    for (value, said) in [
        (None, "is not set"),
        (Some("{\"policy\":1}"), "restart the service"),
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--stage").env_clear();
        if let Some(value) = value {
            command.env(STAGE_ENV, value);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(STAGE_EXIT));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    Ok(())
}

fn bad_program() -> Result<(), String> {
    let mut p = plan(Trust::Untrusted);
    let script = p.place.private().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    for (program, said) in [
        (Path::new("/no/such/program"), "No such file"),
        (&script, "interpreter in its first line"),
        (Path::new("/etc/passwd"), "Permission denied"),
    ] {
        let output = p.command(program, &[]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(STAGE_EXIT), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert!(stderr.contains(&program.display().to_string()), "{stderr}");
    }
    Ok(())
}

/// Joining and killing on the real file system; limits are tested on a made-up one.
fn cgroup() -> Result<(), String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v2 = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let root = v2
        .and_then(|line| line.split(' ').nth(4))
        .ok_or("no cgroup2 here")?;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or("not in cgroup2")?;
    let dir = Path::new(root)
        .join(own)
        .join(format!("vp-test-{}", std::process::id()));
    std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut p = plan(Trust::Normal);
    p.policy.cgroup = Some(dir.clone());
    let mut child = p.spawn("wait", &[]);
    until_ready(&mut child);
    let inside = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
    let killed = std::fs::write(dir.join("cgroup.kill"), "1");
    child.wait().unwrap();
    std::fs::remove_dir(&dir).unwrap();
    killed.unwrap();
    assert_eq!(inside.trim(), child.id().to_string());

    let mut p = plan(Trust::Normal);
    p.policy = Policy {
        cgroup: Some("/no/such/cgroup".into()),
        ..p.policy
    };
    let output = p.output("wait", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/no/such/cgroup/cgroup.procs"), "{stderr}");
    Ok(())
}
