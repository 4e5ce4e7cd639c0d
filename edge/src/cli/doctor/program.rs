//! Other programs: are they there, and what do they say. Bounded in time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// What a program wrote to standard output, if it ended well within `limit`.
pub fn answer(program: &str, args: &[&str], limit: Duration) -> Option<String> {
    let mut child = Command::new(find(program)?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .inspect_err(|e| tracing::debug!(program, error = %e, "not started"))
        .ok()?;
    let stdout = child.stdout.take()?;
    // Read beside the wait: a full pipe would keep it from ending.
    let reader = std::thread::Builder::new()
        .name("answer".to_owned())
        .spawn(move || {
            let mut text = String::new();
            stdout.take(MOST).read_to_string(&mut text).map(|_| text)
        });
    let give_up = Instant::now() + limit;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < give_up => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => break None,
        }
    };
    let Some(status) = ended else {
        let killed = child.kill().and_then(|()| child.wait());
        tracing::debug!(program, ?killed, "no answer in time");
        return None;
    };
    let text = reader.ok()?.join().ok()?.ok()?;
    status.success().then_some(text)
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
}
