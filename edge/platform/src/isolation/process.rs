//! One child process: spawned, watched through its pidfd, drained, killed and reaped.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::lines::Lines;

/// A running child. Dropping it kills and reaps it.
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    /// Its standard output.
    pub out: Lines<ChildStdout>,
    /// Its standard error.
    pub err: Lines<ChildStderr>,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with `socket` as its standard input, which its stage moves to descriptor 3.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn spawn(mut command: Command, socket: OwnedFd) -> io::Result<Self> {
        command
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        match Self::watch(&mut child) {
            Ok((pidfd, out, err)) => Ok(Self {
                child,
                pidfd,
                out,
                err,
                exit: None,
            }),
            Err(e) => {
                // Nobody may be left running that nobody watches.
                child.kill()?;
                child.wait()?;
                Err(e)
            }
        }
    }

    fn watch(child: &mut Child) -> io::Result<(OwnedFd, Lines<ChildStdout>, Lines<ChildStderr>)> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
        // It can't have been reaped yet, so the number is still its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let piped = || io::Error::other("a pipe is missing");
        let out = child.stdout.take().ok_or_else(piped)?;
        let err = child.stderr.take().ok_or_else(piped)?;
        rustix::io::ioctl_fionbio(&out, true)?;
        rustix::io::ioctl_fionbio(&err, true)?;
        Ok((pidfd, Lines::new(out), Lines::new(err)))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once it has ended.
    pub fn pidfd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    /// Ends it at once, also when it is stopped.
    pub fn kill(&self) {
        if self.exit.is_none()
            && let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(pid = self.pid(), %error, "a worker can't be killed");
        }
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = match self.child.try_wait() {
                Ok(exit) => exit,
                Err(error) => {
                    tracing::error!(pid = self.child.id(), %error, "waiting for a worker");
                    None
                }
            };
        }
        self.exit
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
            if let Err(error) = self.child.wait() {
                tracing::error!(pid = self.child.id(), %error, "a worker was not reaped");
            }
        }
    }
}

/// An end in words: `exit code 1`, `signal 9 (SIGKILL)`.
pub fn in_words(exit: ExitStatus) -> String {
    if let Some(code) = exit.code() {
        return match code {
            71 => "its sandbox could not be set up".to_owned(),
            code => format!("exit code {code}"),
        };
    }
    let Some(number) = exit.signal() else {
        return exit.to_string();
    };
    let name = match Signal::from_named_raw(number) {
        Some(Signal::KILL) => " (SIGKILL)",
        Some(Signal::SEGV) => " (SIGSEGV)",
        Some(Signal::ABORT) => " (SIGABRT)",
        Some(Signal::BUS) => " (SIGBUS)",
        Some(Signal::ILL) => " (SIGILL)",
        Some(Signal::FPE) => " (SIGFPE)",
        Some(Signal::SYS) => " (SIGSYS)",
        Some(Signal::TERM) => " (SIGTERM)",
        Some(Signal::XFSZ) => " (SIGXFSZ)",
        _ => "",
    };
    format!("signal {number}{name}")
}
