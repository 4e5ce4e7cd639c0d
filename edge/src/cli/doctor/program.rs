//! Other programs: are they there, and what do they say. Bounded in time.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Longest answer read.
const MOST: u64 = 64 << 10;
/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Where a program is found: by its path, or in `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    use rustix::fs::{Access, access};
    let runs = |p: &Path| p.is_file() && access(p, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| runs(p));
    }
    let dirs = std::env::var_os("PATH")?;
    std::env::split_paths(&dirs)
        .map(|dir| dir.join(program))
        .find(|p| runs(p))
}

/// What a program wrote to standard output, if it ended well within `limit`. What it started itself
/// ends with it.
pub fn answer(program: &str, args: &[&str], limit: Duration) -> Option<String> {
    let give_up = Instant::now() + limit;
    let mut child = Command::new(find(program)?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .inspect_err(|e| tracing::debug!(program, error = %e, "not started"))
        .ok()?;
    let said = child
        .stdout
        .take()
        .and_then(reader)
        .and_then(|text| text.recv_timeout(left(give_up)).ok());
    let in_time = said.is_some() && ends(&child, give_up);
    // Not reaped yet, so its number is still the group's.
    if let Err(error) = kill_process_group(Pid::from_child(&child), Signal::KILL) {
        tracing::debug!(program, %error, "its group is gone");
    }
    let status = child.wait().ok()?;
    if !in_time {
        tracing::debug!(program, ?status, "no answer in time");
        return None;
    }
    said.filter(|_| status.success())
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Reads beside the wait, and is never waited for itself: whoever left the group may hold the pipe
/// open for ever.
fn reader(stdout: ChildStdout) -> Option<mpsc::Receiver<String>> {
    let (to_us, text) = mpsc::channel();
    let read = move || {
        let mut text = String::new();
        match stdout.take(MOST).read_to_string(&mut text) {
            Ok(_) => {
                if to_us.send(text).is_err() {
                    tracing::debug!("an answer came too late");
                }
            }
            Err(error) => tracing::debug!(%error, "an answer can't be read"),
        }
    };
    std::thread::Builder::new()
        .name("answer".to_owned())
        .spawn(read)
        .inspect_err(|error| tracing::debug!(%error, "no thread to read an answer"))
        .ok()?;
    Some(text)
}

/// Whether it ends in time; it is not reaped.
fn ends(child: &Child, give_up: Instant) -> bool {
    let pid = Pid::from_child(child);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) if Instant::now() < give_up => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => return false,
            Ok(Some(_)) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_given_up_and_one_that_answers_is_heard() {
        let limit = Duration::from_millis(200);
        assert_eq!(answer("sleep", &["1000"], limit), None);
        let said = answer("echo", &["hello"], Duration::from_secs(30));
        assert_eq!(said.as_deref(), Some("hello\n"));
        assert_eq!(answer("no-such-program", &[], limit), None);
        assert_eq!(answer("false", &[], Duration::from_secs(30)), None);
    }

    #[test]
    fn what_a_program_leaves_behind_neither_holds_us_up_nor_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        // The sleeper keeps the pipe open.
        let script = format!("sleep 1000 & echo $! > '{}'; echo hello", file.display());
        let limit = Duration::from_secs(2);
        assert_eq!(answer("sh", &["-c", &script], limit), None);
        let pid = std::fs::read_to_string(file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // Where nobody reaps orphans it stays as a zombie.
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z "));
        let guard = Instant::now() + Duration::from_secs(60);
        while runs() {
            assert!(Instant::now() < guard, "{pid} still runs");
            std::thread::sleep(LOOK);
        }
    }
}
