//! The ARM machine: qemu with Debian's kernel and our programs, and the results that it gives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The machine is ended after this, whatever it does.
const LIMIT: Duration = Duration::from_secs(1500);
/// The same for long runs.
const SOAK_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// How the machine's clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// One nanosecond per instruction; idle time is skipped. What is measured inside does not
    /// depend on how busy this computer is. No network: the outside would seem to stand still.
    Counted,
    /// As outside, with a network in which this computer is 10.0.2.2.
    Real,
}

/// A machine that runs.
pub struct Machine {
    child: Child,
    answers: ChildStdin,
    lines: Receiver<String>,
    console: PathBuf,
    _dir: tempfile::TempDir,
}

impl Machine {
    /// Boots it; it runs these scenarios one after the other and powers off.
    pub fn boot(clock: Clock, scenarios: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console");
        let limit = if soak() { SOAK_LIMIT } else { LIMIT };
        let mut command = Command::new("setpriv");
        // If this process dies, `timeout` is told, and takes qemu with it.
        command.args(["--pdeathsig", "TERM", "timeout", "-k", "5"]);
        command.arg(limit.as_secs().to_string());
        command.args(["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"]);
        command.args([
            "-m",
            "1024",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ]);
        match clock {
            Clock::Counted => command.args(["-icount", "shift=0,sleep=off", "-nic", "none"]),
            Clock::Real => command.args(["-smp", "2", "-nic", "user,model=virtio-net-pci"]),
        };
        command.arg("-kernel").arg(made("KERNEL"));
        command.arg("-initrd").arg(made("INITRD"));
        let arguments = scenarios.join(" ");
        command.arg("-append");
        command.arg(format!("console=ttyAMA0 quiet panic=-1 -- {arguments}"));
        command.arg("-serial");
        command.arg(format!("file:{}", console.display()));
        command.args([
            "-chardev",
            "stdio,id=results,signal=off",
            "-device",
            "virtio-serial-pci",
        ]);
        command.args(["-device", "virtserialport,chardev=results,name=results"]);
        let errors = File::create(dir.path().join("qemu")).unwrap();
        let mut child = command
            .env("PATH", visualpath_tests::path_with_sbin())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("setpriv (util-linux)");
        let (tell, lines) = channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            answers: child.stdin.take().unwrap(),
            child,
            lines,
            console,
            _dir: dir,
        }
    }

    /// The next line the machine says; `None` once it is off.
    pub fn next(&mut self) -> Option<Value> {
        // Bounded by `timeout`: then the pipe closes.
        let line = self.lines.recv().ok()?;
        Some(serde_json::from_str(&line).unwrap_or(Value::String(line)))
    }

    /// Goes on until the machine waits at this stage.
    pub fn until_stage(&mut self, stage: &str) {
        loop {
            match self.next() {
                Some(said) if said["stage"] == stage => return,
                Some(said) if said["scenario"].is_null() => {}
                other => panic!("not at stage `{stage}`: {other:?}\n{}", self.console()),
            }
        }
    }

    /// Lets it go on from this stage.
    pub fn go_on(&mut self, stage: &str) {
        writeln!(self.answers, "{stage}").unwrap();
    }

    /// The end of what was printed on its console.
    pub fn console(&self) -> String {
        let read = |file: &Path| std::fs::read(file).unwrap_or_default();
        let mut all = read(&self.console.with_file_name("qemu"));
        all.extend(read(&self.console));
        let text = String::from_utf8_lossy(&all).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(400)..].join("\n")
    }

    /// Lets it run to its end; gives the results by scenario, and its console.
    pub fn finish(mut self) -> Results {
        let mut results = BTreeMap::new();
        let mut ended = false;
        while let Some(said) = self.next() {
            if let Some(name) = said["scenario"].as_str() {
                results.insert(name.to_owned(), said.clone());
            }
            ended |= said["end"] == true;
        }
        let status = self.child.wait().unwrap();
        Results {
            results,
            end: format!(
                "{status}{}",
                if ended {
                    ""
                } else {
                    ", before it had run them all"
                }
            ),
            console: self.console(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // To `timeout`, which passes it on to qemu and ends with it.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let told = pid.map(|pid| kill_process(pid, Signal::TERM));
        let ended = self.child.wait();
        assert!(
            std::thread::panicking() || ended.is_ok(),
            "the machine could not be ended: {told:?} {ended:?}"
        );
    }
}

/// What a machine gave.
#[derive(Debug)]
pub struct Results {
    results: BTreeMap<String, Value>,
    end: String,
    console: String,
}

impl Results {
    /// Fails unless this scenario was run and all was as it must be.
    pub fn expect(&self, scenario: &str) {
        let Some(result) = self.results.get(scenario) else {
            panic!(
                "the machine said nothing of `{scenario}` ({}); its console:\n{}",
                self.end, self.console
            );
        };
        println!("{scenario}: {}", result["numbers"]);
        let log = std::env::var_os("VISUALPATH_VM_LOG").map(PathBuf::from);
        if let Some(log) = log {
            std::fs::write(log, &self.console).unwrap();
        }
        assert!(
            result["ok"] == true,
            "{}\nnumbers: {}\nits console:\n{}",
            result["detail"].as_str().unwrap_or("no detail"),
            result["numbers"],
            self.part_of(scenario),
        );
    }

    /// The console's lines that belong to this scenario.
    fn part_of(&self, scenario: &str) -> String {
        let begins = |line: &&str| line.starts_with(&format!("== {scenario}"));
        let mut lines = self.console.lines().skip_while(|l| !begins(l));
        let first = lines.next().into_iter();
        let rest = lines.take_while(|l| !l.starts_with("== "));
        first.chain(rest).collect::<Vec<_>>().join("\n")
    }
}

/// Whether the long runs were asked for.
pub fn soak() -> bool {
    std::env::var("VISUALPATH_SOAK").is_ok_and(|v| v == "1")
}

/// Whether this scenario was asked for: all are, unless `cross/vm.sh` was given parts of names.
pub fn wanted(scenario: &str) -> bool {
    let only = std::env::var("VISUALPATH_VM_ONLY").unwrap_or_default();
    let mut parts = only.split_whitespace().peekable();
    parts.peek().is_none() || parts.any(|part| scenario.contains(part))
}

/// A file that `cross/vm.sh` has made: `KERNEL` or `INITRD`.
fn made(what: &str) -> PathBuf {
    std::env::var_os(format!("VISUALPATH_VM_{what}"))
        .map(PathBuf::from)
        .filter(|file| file.exists())
        .expect("nothing to boot: run these tests with cross/vm.sh")
}
