//! The stage: what the parent hands over, and the steps the fresh process takes with it.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Access, Mode, access};
use rustix::process::{chdir, getpid, getsid, setsid, umask};
use serde::{Deserialize, Serialize};

use crate::files::ABI_SIGNALS;
use crate::policy::{Policy, Trust};
use crate::probe::LayerName;
use crate::{descriptors, files, filter, limits, parent, privileges, sys};

/// Carries the [`Stage`] as JSON. Taken out of the environment before anything else runs.
pub const STAGE_ENV: &str = "VISUALPATH_STAGE";

/// Tells the worker what it was put into: [`Entered`] as text.
pub const SANDBOX_ENV: &str = "VISUALPATH_SANDBOX";

/// Exit code of a stage that failed (EX_OSERR of sysexits(3)). Its last line on standard error
/// says why.
pub const STAGE_EXIT: i32 = 71;

/// The kernel takes 128 KiB for one variable (MAX_ARG_STRLEN); this leaves room for its name.
const STAGE_MAX_BYTES: usize = 120 << 10;

/// What a fresh process is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What it may do.
    pub policy: Policy,
    /// Its private directory: working directory, HOME and TMPDIR. Absolute, empty, its user's.
    pub dir: PathBuf,
    /// The program to become; absent: the stage returns, and a built-in plugin goes on.
    #[serde(default)]
    pub exec: Option<Exec>,
    /// Process id of the parent: the stage ends if it is another's child.
    pub parent_pid: u32,
    /// Standard input is a socket, to be moved to descriptor 3.
    #[serde(default)]
    pub socket_on_stdin: bool,
}

/// The program of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Its whole environment (nothing of the parent's comes along). HOME, TMPDIR and
    /// [`SANDBOX_ENV`] are added.
    pub env: Vec<(String, String)>,
}

/// What the process is in now. Keep it until the worker ends.
#[derive(Debug)]
pub struct Entered {
    /// Which list of system calls holds; `None`: the kernel has no seccomp filters.
    pub seccomp: Option<Trust>,
    /// The Landlock ABI whose restrictions hold; 0: the kernel has none.
    pub landlock_abi: u32,
    /// It has a user of its own.
    pub own_user: bool,
    /// It is in a cgroup of its own.
    pub cgroup: bool,
    /// Files of /proc whose rules last as long as they are open.
    pins: Vec<OwnedFd>,
}

impl fmt::Display for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |on: bool| if on { "yes" } else { "no" };
        write!(
            f,
            "seccomp={} landlock={} user={} cgroup={}",
            self.seccomp.map_or("none", Trust::word),
            self.landlock_abi,
            yes(self.own_user),
            yes(self.cgroup),
        )
    }
}

/// Why a stage did not become a worker.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Nothing to do: not started by the appliance.
    #[error(
        "{STAGE_ENV} is not set: `visualpath worker` is started by visualpath itself; use `visualpath run`"
    )]
    NotSet,
    /// What was handed over is not a stage.
    #[error("{STAGE_ENV}: {0}; parent and worker must be the same visualpath: restart the service")]
    NotAStage(serde_json::Error),
    /// More than fits into the environment.
    #[error(
        "the stage is {bytes} bytes long, {max} fit; give the plugin fewer paths and a smaller environment"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// Landlock and seccomp hold for one thread: with more, they would hold for one of many.
    #[error("the stage runs in a process with {0} threads; call it first thing in main")]
    Threads(usize),
    /// The parent ended before the stage could ask to die with it.
    #[error("the parent, process {parent_pid}, is gone; nothing to do")]
    ParentGone {
        /// Who it was.
        parent_pid: u32,
    },
    /// An untrusted plugin must not run without it.
    #[error(
        "{layer} does not work here, and an untrusted plugin must not run without it; \
         see `visualpath doctor`, or set trust = \"normal\" if you trust it"
    )]
    Mandatory {
        /// Which one.
        layer: LayerName,
    },
    /// One step failed.
    #[error("sandbox step {step}: {what}: {source}; {fix}")]
    Step {
        /// Which one.
        step: Step,
        /// The path, limit or call.
        what: String,
        /// Its errno.
        source: io::Error,
        /// What to do.
        fix: String,
    },
}

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their words say what they are")]
pub enum Step {
    Alone,
    Parent,
    Session,
    Descriptors,
    Directory,
    Limits,
    Cgroup,
    User,
    Capabilities,
    NoNewPrivs,
    Landlock,
    Seccomp,
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "alone",
            Self::Parent => "parent",
            Self::Session => "session",
            Self::Descriptors => "descriptors",
            Self::Directory => "directory",
            Self::Limits => "limits",
            Self::Cgroup => "cgroup",
            Self::User => "user",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Exec => "exec",
        })
    }
}

impl Step {
    pub(crate) fn failed(
        self,
        what: impl Into<String>,
        source: impl Into<io::Error>,
        fix: impl Into<String>,
    ) -> StageError {
        StageError::Step {
            step: self,
            what: what.into(),
            source: source.into(),
            fix: fix.into(),
        }
    }
}

/// Takes the stage out of the environment and enters it. With a program it never returns; on
/// failure it writes one line to standard error and exits with [`STAGE_EXIT`].
#[must_use = "keep it until the worker ends"]
pub fn enter_or_exit() -> Entered {
    match Stage::from_env().and_then(Stage::enter) {
        Ok(entered) => entered,
        Err(error) => {
            let line = format!("visualpath worker: {error}\n");
            // A closed standard error leaves only the exit code.
            drop(io::stderr().lock().write_all(line.as_bytes()));
            std::process::exit(STAGE_EXIT);
        }
    }
}

impl Stage {
    /// The value of [`STAGE_ENV`] for a child.
    pub fn to_env(&self) -> Result<String, StageError> {
        let json = serde_json::to_string(self).map_err(StageError::NotAStage)?;
        if json.len() > STAGE_MAX_BYTES {
            return Err(StageError::TooLong {
                bytes: json.len(),
                max: STAGE_MAX_BYTES,
            });
        }
        Ok(json)
    }

    /// Takes the stage out of this process's environment.
    pub fn from_env() -> Result<Self, StageError> {
        alone()?;
        let json = std::env::var(STAGE_ENV).map_err(|_| StageError::NotSet)?;
        sys::remove_env(STAGE_ENV);
        serde_json::from_str(&json).map_err(StageError::NotAStage)
    }

    /// Does all steps. With a program it returns only on failure.
    ///
    /// Call it first thing in `main`, with one thread and no descriptor in use: all but standard
    /// output and error are closed.
    pub fn enter(self) -> Result<Entered, StageError> {
        let policy = &self.policy;
        // Who ends it, and what it inherited.
        alone()?;
        parent::die_with(self.parent_pid)?;
        own_session()?;
        descriptors::arrange(self.socket_on_stdin)?;
        // What it may use.
        limits::apply(policy)?;
        if let Some(cgroup) = &policy.cgroup {
            join(cgroup)?;
        }
        // Who it is.
        privileges::shrink_bounds();
        if let Some(user) = &policy.user {
            privileges::become_user(user)?;
        }
        privileges::drop_capabilities()?;
        parent::die_with(self.parent_pid)?;
        move_into(&self.dir)?;
        privileges::no_new_privileges()?;
        // What it can reach and ask for. From here on nothing can be opened that it may not have.
        let program = self.exec.as_ref().map(|exec| exec.program.as_path());
        let files = files::restrict(policy, &self.dir, program)?;
        if policy.trust == Trust::Untrusted && files.abi == 0 && policy.user.is_none() {
            return Err(StageError::Mandatory {
                layer: LayerName::Landlock,
            });
        }
        let seccomp = filter::install(policy, files.abi >= ABI_SIGNALS)?;
        if policy.trust == Trust::Untrusted && !seccomp {
            return Err(StageError::Mandatory {
                layer: LayerName::Seccomp,
            });
        }
        let entered = Entered {
            seccomp: seccomp.then_some(policy.trust),
            landlock_abi: files.abi,
            own_user: policy.user.is_some(),
            cgroup: policy.cgroup.is_some(),
            pins: files.pins,
        };
        match self.exec {
            Some(exec) => Err(exec.replace(&self.dir, &entered)),
            None => {
                sys::set_env("HOME", self.dir.as_os_str());
                sys::set_env("TMPDIR", self.dir.as_os_str());
                sys::set_env(SANDBOX_ENV, OsStr::new(&entered.to_string()));
                Ok(entered)
            }
        }
    }
}

impl Exec {
    /// Becomes the program; the reason if that fails.
    fn replace(self, dir: &Path, entered: &Entered) -> StageError {
        for pin in &entered.pins {
            // They must outlive exec.
            if let Err(e) = rustix::io::fcntl_setfd(pin, rustix::io::FdFlags::empty()) {
                return Step::Exec.failed("keeping /proc open", e, "report this");
            }
        }
        let error = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env)
            .env("HOME", dir)
            .env("TMPDIR", dir)
            .env(SANDBOX_ENV, entered.to_string())
            .exec();
        let fix = match error.raw_os_error() {
            Some(libc::EACCES) => {
                "its directory, and the interpreter in its first line, must be executable for \
                 the worker's user and listed in `read`"
            }
            Some(libc::ENOENT) => "check the path, and the interpreter in its first line",
            _ => "check that it is a program for this machine",
        };
        Step::Exec.failed(self.program.display().to_string(), error, fix)
    }
}

/// That the process has one thread.
fn alone() -> Result<(), StageError> {
    const TASKS: &str = "/proc/self/task";
    let count = std::fs::read_dir(TASKS)
        .and_then(|tasks| tasks.collect::<io::Result<Vec<_>>>())
        .map_err(|e| Step::Alone.failed(TASKS, e, "mount /proc"))?
        .len();
    match count {
        1 => Ok(()),
        more => Err(StageError::Threads(more)),
    }
}

/// A session of its own, so that no terminal and no signal to the parent's group reaches it; and
/// the two signals ignored that would still end it for somebody else's reason.
fn own_session() -> Result<(), StageError> {
    if let Err(e) = setsid() {
        // It leads a session already.
        if getsid(None) != Ok(getpid()) {
            let fix = "do not spawn the stage as the leader of a process group";
            return Err(Step::Session.failed("setsid", e, fix));
        }
    }
    // Too long a file is then an error for the plugin, not its end.
    for (signal, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGXFSZ, "SIGXFSZ")] {
        sys::ignore(signal).map_err(|e| Step::Session.failed(name, e, "report this"))?;
    }
    Ok(())
}

/// Into the private directory, which must be the worker's user's.
fn move_into(dir: &Path) -> Result<(), StageError> {
    let fix = "the parent must create it, absolute, with mode 0700, owned by the worker's user";
    let failed = |e: rustix::io::Errno| Step::Directory.failed(dir.display().to_string(), e, fix);
    if !dir.is_absolute() {
        return Err(failed(rustix::io::Errno::INVAL));
    }
    umask(Mode::from_raw_mode(0o077));
    chdir(dir).map_err(failed)?;
    access(".", Access::WRITE_OK | Access::EXEC_OK).map_err(failed)
}

fn join(cgroup: &Path) -> Result<(), StageError> {
    let path = cgroup.join("cgroup.procs");
    std::fs::write(&path, "0").map_err(|e| {
        Step::Cgroup.failed(
            path.display().to_string(),
            e,
            "delegate the service's cgroup (Delegate=memory pids), or give the worker none",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        Stage {
            policy: Policy::default(),
            dir: PathBuf::from("/run/x"),
            exec: Some(Exec {
                program: PathBuf::from("/usr/bin/python3"),
                args: vec!["-m".into(), "visualpath_edge.worker".into()],
                env: vec![("VISUALPATH_TOKEN".into(), "ab".into())],
            }),
            parent_pid: 7,
            socket_on_stdin: true,
        }
    }

    #[test]
    fn a_stage_survives_the_environment() {
        let json = stage().to_env().unwrap();
        assert_eq!(serde_json::from_str::<Stage>(&json).unwrap(), stage());
        // A newer parent's field must not be taken for one this stage obeys.
        let more = json.replacen('{', r#"{"jail":true,"#, 1);
        assert!(serde_json::from_str::<Stage>(&more).is_err());
    }

    #[test]
    fn a_stage_too_long_for_the_environment_is_refused_by_the_parent() {
        let mut stage = stage();
        stage.policy.read = vec![PathBuf::from("/x".repeat(2048)); 64];
        let error = stage.to_env().unwrap_err().to_string();
        assert!(error.contains("fewer paths"), "{error}");
    }

    #[test]
    fn a_process_with_more_threads_than_one_is_refused() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_ok());
        let error = stage().enter().unwrap_err();
        assert!(matches!(error, StageError::Threads(2..)), "{error}");
        drop(end);
        assert!(!other.join().unwrap());
    }
}
