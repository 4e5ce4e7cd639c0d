//! A child process that is watched: in a process group of its own, its stderr drained into the log,
//! killed and reaped with everything it started.
//!
//! PDEATHSIG is not used: it fires when the starting *thread* ends. Should we die without stopping
//! the child, its next write fails (EPIPE).

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Lines of stderr that are remembered.
const LINES_KEPT: usize = 4;
const LINE_BYTES: usize = 300;
/// Lines of stderr that are logged at most in each [`LOG_WINDOW`].
const LINES_LOGGED: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(10);
/// Room in a pipe of pictures; the default 64 KiB cost a wake-up each.
const PIPE_BYTES: usize = 1 << 20;

/// A running child. Dropping it kills and reaps it.
pub(crate) struct Process {
    name: String,
    child: std::process::Child,
    group: Option<Pid>,
    grace: Duration,
    status: Option<ExitStatus>,
    drain: Option<Drain>,
}

struct Drain {
    over: Arc<AtomicBool>,
    said: Arc<Mutex<VecDeque<String>>>,
    thread: JoinHandle<()>,
}

/// The child's pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: ChildStdout,
}

impl Process {
    /// Starts `command` with its output piped, and its input if `takes_input`. `owner` is who it
    /// works for, for the log. When it has to end, it has `grace` between SIGTERM and SIGKILL.
    pub(crate) fn spawn(
        mut command: Command,
        owner: &str,
        takes_input: bool,
        grace: Duration,
    ) -> io::Result<(Self, Pipes)> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(if takes_input {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // From here on the child is killed and reaped whatever fails.
        let mut this = Self {
            name,
            child,
            group,
            grace,
            status: None,
            drain: None,
        };
        if let Some(stderr) = stderr {
            this.drain = Some(Drain::start(stderr, owner, &this.name)?);
        }
        let stdout = stdout.ok_or_else(|| io::Error::other("its output is not connected"))?;
        for pipe in [Some(stdout.as_fd()), stdin.as_ref().map(AsFd::as_fd)] {
            if let Some(pipe) = pipe
                && let Err(e) = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES)
            {
                // Above the user's limit (pipe-user-pages-soft): slower, not wrong.
                tracing::debug!("a pipe of {} keeps its default size: {e}", this.name);
            }
        }
        Ok((this, Pipes { stdin, stdout }))
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, without reaping it: its number stays its own.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(pid) = self.group else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group
            && let Err(e) = kill_process_group(group, signal)
            && e != rustix::io::Errno::SRCH
        {
            tracing::warn!("ending {}: {e}", self.name);
        }
    }

    /// Ends it and everything in its group, reaps it, and gives how it ended: by itself, if it had
    /// before or does within `limit`.
    pub(crate) fn end(&mut self, limit: Duration) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        if !self.waits(limit) {
            self.signal(Signal::TERM);
            self.waits(self.grace);
        }
        // The leader is not reaped yet, so the number is still the group's.
        self.signal(Signal::KILL);
        let status = self.child.wait().unwrap_or_else(|e| {
            tracing::warn!("waiting for {}: {e}", self.name);
            ExitStatus::from_raw(0)
        });
        self.status = Some(status);
        if let Some(drain) = &self.drain {
            drain.over.store(true, Ordering::Relaxed);
        }
        status
    }

    fn waits(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            if self.has_ended() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How it ended and its last lines on stderr, in one line. Ends it.
    pub(crate) fn last_words(&mut self, limit: Duration) -> String {
        let status = self.end(limit);
        // What it wrote before it ended is in the pipe; the reader takes that and then ends.
        let said = self.drain.take().map_or_else(String::new, |drain| {
            let said = Arc::clone(&drain.said);
            drain.join();
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let mut lines: Vec<String> = said.iter().cloned().collect();
            lines.dedup();
            lines.join("; ")
        });
        if said.is_empty() {
            format!("`{}` ended ({status}) without a word", self.name)
        } else {
            format!("`{}` ended ({status}): {said}", self.name)
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
        if let Some(drain) = self.drain.take() {
            drain.join();
        }
    }
}

impl Drain {
    fn start(stderr: ChildStderr, owner: &str, program: &str) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (owner, program) = (owner.to_owned(), program.to_owned());
        let (of_thread, lines) = (Arc::clone(&over), Arc::clone(&said));
        let thread = std::thread::Builder::new()
            .name(format!("{owner}-stderr").chars().take(15).collect())
            .spawn(move || drain(stderr, &owner, &program, &of_thread, &lines))?;
        Ok(Self { over, said, thread })
    }

    fn join(self) {
        self.over.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::warn!("the reader of a child's stderr panicked");
        }
    }
}

/// Reads to the end, so that the child never blocks on a full pipe. A process that left the group
/// may hold the pipe open: when the child is over, what is there is read and no more waited for.
fn drain(
    mut stderr: ChildStderr,
    owner: &str,
    program: &str,
    over: &AtomicBool,
    said: &Mutex<VecDeque<String>>,
) {
    let mut log = Log::new(owner, program);
    let mut line = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match readable(&stderr, Duration::from_millis(50)) {
            Ok(false) if over.load(Ordering::Relaxed) => break,
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => break,
        }
        let n = match stderr.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &buf[..n] {
            if byte == b'\n' || byte == b'\r' {
                log.line(&line, said);
                line.clear();
            } else if line.len() < LINE_BYTES {
                line.push(byte);
            }
        }
    }
    log.line(&line, said);
    log.close();
}

/// Logs a child's lines, but not more than a few.
struct Log<'a> {
    owner: &'a str,
    program: &'a str,
    since: Instant,
    logged: u32,
    left_out: u64,
}

impl<'a> Log<'a> {
    fn new(owner: &'a str, program: &'a str) -> Self {
        Self {
            owner,
            program,
            since: Instant::now(),
            logged: 0,
            left_out: 0,
        }
    }

    fn line(&mut self, line: &[u8], said: &Mutex<VecDeque<String>>) {
        let text = String::from_utf8_lossy(line);
        let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
        if text.is_empty() {
            return;
        }
        if self.since.elapsed() >= LOG_WINDOW {
            self.close();
            self.since = Instant::now();
            self.logged = 0;
        }
        if self.logged < LINES_LOGGED {
            self.logged += 1;
            tracing::info!(source = self.owner, program = self.program, "{text}");
        } else {
            self.left_out += 1;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= LINES_KEPT {
            said.pop_front();
        }
        said.push_back(text);
    }

    fn close(&mut self) {
        if self.left_out > 0 {
            let lines = std::mem::take(&mut self.left_out);
            tracing::info!(
                source = self.owner,
                program = self.program,
                "{lines} lines more"
            );
        }
    }
}

/// Whether a read gives something now (bytes, the end, an error), waiting at most `limit`.
pub(crate) fn readable(pipe: &impl AsFd, limit: Duration) -> io::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
