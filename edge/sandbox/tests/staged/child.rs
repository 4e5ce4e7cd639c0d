//! Starting a sandboxed child and reading what it found.

use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use visualpath_sandbox::{Exec, Policy, STAGE_ENV, Stage, Trust, User};

/// Both kinds of worker.
pub const BOTH: [Trust; 2] = [Trust::Normal, Trust::Untrusted];

/// A child to be: change what you like, then start it.
pub struct Plan {
    pub policy: Policy,
    /// Its private directory, and beside it what it must not reach.
    pub place: Place,
    pub socket: Option<OwnedFd>,
    /// Run the plugin in the stage's own process.
    pub in_process: bool,
    pub parent_pid: u32,
}

pub struct Place {
    root: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(root.path().join("private")).unwrap();
        fs::create_dir(root.path().join("outside")).unwrap();
        Self { root }
    }

    pub fn private(&self) -> PathBuf {
        self.root.path().join("private")
    }

    pub fn outside(&self) -> PathBuf {
        self.root.path().join("outside")
    }
}

pub fn plan(trust: Trust) -> Plan {
    Plan {
        policy: Policy {
            trust,
            ..Policy::default()
        },
        place: Place::new(),
        socket: None,
        in_process: false,
        parent_pid: std::process::id(),
    }
}

impl Plan {
    pub fn stage(&self, program: &Path, args: &[&str]) -> Stage {
        let exec = Exec {
            program: program.to_path_buf(),
            args: args.iter().map(ToString::to_string).collect(),
            env: vec![("GIVEN".into(), "1".into())],
        };
        Stage {
            policy: self.policy.clone(),
            dir: self.place.private(),
            exec: (!self.in_process).then_some(exec),
            parent_pid: self.parent_pid,
            socket_on_stdin: self.socket.is_some(),
        }
    }

    /// The command of the stage that becomes `program`.
    pub fn command(&mut self, program: &Path, args: &[&str]) -> Command {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command.arg("--stage");
        if self.in_process {
            command.args(args.iter().skip_while(|arg| **arg == "--attack"));
        }
        command.env_clear();
        command.env(STAGE_ENV, self.stage(program, args).to_env().unwrap());
        command.stdin(self.socket.take().map_or(Stdio::null(), Stdio::from));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&mut self, attack: &str, args: &[&str]) -> Child {
        let mut all = vec!["--attack", attack];
        all.extend(args);
        let program = self.program();
        self.command(&program, &all).spawn().unwrap()
    }

    /// This test's own binary, where the child's user can reach it.
    pub fn program(&self) -> PathBuf {
        let own = std::env::current_exe().unwrap();
        if self.policy.user.is_none() {
            return own;
        }
        let copy = self.place.root.path().join("plugin");
        if !copy.exists() {
            fs::copy(own, &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        }
        copy
    }

    /// Gives the child a user of its own; needs root.
    pub fn own_user(&mut self) {
        let user = User {
            uid: 54_321,
            gid: 54_322,
            groups: vec![54_323],
        };
        let private = self.place.private();
        std::os::unix::fs::chown(&private, Some(user.uid), Some(user.gid)).unwrap();
        self.policy.user = Some(user);
    }

    pub fn output(&mut self, attack: &str, args: &[&str]) -> Output {
        self.spawn(attack, args).wait_with_output().unwrap()
    }

    /// What the attack printed; it must have ended well.
    pub fn answer(&mut self, attack: &str, args: &[&str]) -> String {
        answer(self.output(attack, args))
    }
}

pub fn answer(output: Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_string();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} {stdout} {stderr}",
        output.status
    );
    assert!(stderr.is_empty(), "{stderr}");
    stdout
}

/// The answer of a fresh child.
pub fn tries(trust: Trust, attack: &str, args: &[&str]) -> String {
    plan(trust).answer(attack, args)
}

pub fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

/// The Landlock ABI of this kernel, by asking what a child got.
pub fn landlock_abi() -> u32 {
    let entered = tries(Trust::Normal, "env", &["VISUALPATH_SANDBOX"]);
    let word = entered.split(' ').find_map(|w| w.strip_prefix("landlock="));
    word.unwrap().parse().unwrap()
}

/// A copy of a descriptor that a careless parent would leak to its children.
pub fn leaky(fd: &impl AsRawFd) -> i32 {
    // SAFETY: copies a living descriptor; it lives until the test ends.
    unsafe { libc::dup(fd.as_raw_fd()) }
}
