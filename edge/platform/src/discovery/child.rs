//! A program that is run to its end: in bounded time, keeping a bounded part of what it says.
//!
//! Both pipes are drained all the time, so it never blocks at a pipe's size; of what it says the
//! last bytes are kept, because errors come last. A grandchild that keeps a pipe open holds nobody
//! up: what was said until the program ended is taken.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long to wait for pipes that a grandchild holds open.
const LINGER: Duration = Duration::from_millis(500);

/// What a program may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Killed after this.
    pub timeout: Duration,
    /// Of each of standard output and standard error.
    pub keep_bytes: usize,
    /// It gets a process group of its own, all of which is killed after `timeout`; else it shares
    /// ours, so that Ctrl-C reaches it too.
    pub own_group: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status.
    pub status: ExitStatus,
    /// The end of its standard output.
    pub stdout: Tail,
    /// The end of its standard error.
    pub stderr: Tail,
}

/// The last bytes of a stream.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Whether there was more before.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// As text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The last `count` lines that say something, without control characters.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = self.text();
        let mut lines: Vec<String> = text
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(count)
            .map(|line| line.chars().filter(|c| !c.is_control()).take(400).collect())
            .collect();
        lines.reverse();
        lines
    }

    /// The last line that says something.
    pub fn last_line(&self) -> String {
        self.last_lines(1).concat()
    }

    fn add(&mut self, bytes: &[u8], keep: usize) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > keep {
            self.cut = true;
            self.bytes.drain(..self.bytes.len() - keep);
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It can't be started.
    #[error("`{program}` can't be started: {error}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// It was killed.
    #[error("`{program}` was still running after {after_s} s and was killed")]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        after_s: u64,
        /// What it said last.
        said: Vec<String>,
    },
    /// It could not be watched.
    #[error("`{program}` can't be watched: {error}")]
    Watch {
        /// The program.
        program: String,
        /// The system's reason.
        error: std::io::Error,
    },
}

/// Runs a program with nothing to read. Standard output and error are taken.
///
/// # Errors
/// If it can't be started or did not end in time; that it failed is in the answer.
pub fn run(mut command: Command, bounds: Bounds) -> Result<Answer, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if bounds.own_group {
        command.process_group(0);
    }
    let deadline = Instant::now() + bounds.timeout;
    let mut child = command.spawn().map_err(|error| RunError::Start {
        program: program.clone(),
        error,
    })?;
    let watch = |error| RunError::Watch {
        program: program.clone(),
        error,
    };
    let pipes = drain(&mut child, bounds.keep_bytes);
    let ended = match &pipes {
        Ok(_) => wait(&child, deadline).map_err(watch),
        Err(_) => Ok(false),
    };
    if !matches!(ended, Ok(true)) {
        kill(&mut child, bounds.own_group);
    }
    let status = child.wait().map_err(watch)?;
    let (stdout, stderr) = pipes.map_err(watch)?;
    let (stdout, stderr) = (stdout.take(), stderr.take());
    if !ended? {
        let said = [stdout.last_lines(20), stderr.last_lines(20)].concat();
        return Err(RunError::TimedOut {
            program,
            after_s: bounds.timeout.as_secs(),
            said,
        });
    }
    Ok(Answer {
        status,
        stdout,
        stderr,
    })
}

/// Whether the child ended before the deadline.
fn wait(child: &Child, deadline: Instant) -> std::io::Result<bool> {
    let pid = Pid::from_child(child);
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

/// It is not reaped yet, so its number is still its own.
fn kill(child: &mut Child, group: bool) {
    if group && let Err(error) = kill_process_group(Pid::from_child(child), Signal::KILL) {
        tracing::debug!(%error, "its process group can't be killed");
    }
    if let Err(error) = child.kill() {
        tracing::debug!(%error, "it can't be killed");
    }
}

/// A pipe that a thread empties.
struct Drained {
    tail: Arc<Mutex<Tail>>,
    end: Receiver<()>,
}

impl Drained {
    fn take(self) -> Tail {
        // Closed at the pipe's end. If that does not come, a grandchild has it open.
        if self.end.recv_timeout(LINGER) == Err(RecvTimeoutError::Timeout) {
            tracing::debug!("a pipe is still open after its program ended");
        }
        std::mem::take(&mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn drain(child: &mut Child, keep: usize) -> std::io::Result<(Drained, Drained)> {
    let gone = || std::io::Error::other("it has no pipes");
    let stdout = drain_one(child.stdout.take().ok_or_else(gone)?, keep)?;
    let stderr = drain_one(child.stderr.take().ok_or_else(gone)?, keep)?;
    Ok((stdout, stderr))
}

fn drain_one(mut pipe: impl Read + Send + 'static, keep: usize) -> std::io::Result<Drained> {
    let tail = Arc::new(Mutex::new(Tail::default()));
    let (at_end, end) = channel();
    let filled = Arc::clone(&tail);
    std::thread::Builder::new()
        .name("drain".to_owned())
        .spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => {
                        let mut tail = filled.lock().unwrap_or_else(PoisonError::into_inner);
                        tail.add(&buffer[..n], keep);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // Nobody may be waiting any more.
            drop(at_end);
        })?;
    Ok(Drained { tail, end })
}
