//! The appliance with worker processes, as tests run it: a place of its own for everything it
//! writes, and a look at what is left of it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

/// A directory with a state directory, plugins, a runtime directory and a temporary directory.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// With the plugin `scripted`.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new() -> Self {
        // Short: a ZMQ path holds 107 bytes.
        let dir = tempfile::Builder::new().prefix("vpt").tempdir().unwrap();
        let this = Self { dir };
        for sub in ["state", "run", "tmp"] {
            fs::create_dir(this.path(sub)).unwrap();
        }
        this.plugin("scripted", &[]);
        this
    }

    /// A path in it.
    pub fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    /// Adds a plugin of this name: the scripted worker, with these arguments.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn plugin(&self, name: &str, args: &[&str]) {
        let folder = self.path("state/plugins").join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut worker = super::visualpath();
        worker.set_file_name("scripted-worker");
        let program = folder.join("worker");
        if fs::hard_link(&worker, &program).is_err() {
            fs::copy(&worker, &program).unwrap();
        }
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\nkind = \"extractor\"\nprotocol = 1\n\
             exec = \"worker\"\nargs = {args:?}\n"
        );
        fs::write(folder.join("plugin.toml"), manifest).unwrap();
    }

    /// Writes `vp.toml`: a head with trace and without MQTT, then `rest`.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn config(&self, rest: &str) -> PathBuf {
        let head = format!(
            "schema = 1\n[device]\nid = \"test\"\nstate_dir = \"{}\"\n[web]\nlisten = \"off\"\n[mqtt]\nurl = \"off\"\n\
             [observability]\nlevel = \"verbose\"\n[[observability.sink]]\nkind = \"file\"\n\
             path = \"trace.jsonl\"\nmax_bytes = 1073741824\n",
            self.path("state").display()
        );
        let file = self.path("vp.toml");
        fs::write(&file, head + rest).unwrap();
        file
    }

    /// Starts the appliance with the config written last.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(&self) -> Run<'_> {
        self.start_env(&[])
    }

    /// The same with more variables.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start_env(&self, env: &[(&str, &str)]) -> Run<'_> {
        let file = |name: &str| {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path(name))
                .unwrap()
        };
        // Everything it starts has this working directory, or one below; so it can be found.
        let child = Command::new(super::visualpath())
            .args(["run", "--json", "-c", "vp.toml"])
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("NO_COLOR", "1")
            .env_remove("RUST_BACKTRACE")
            .envs(env.iter().copied())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Run { child, place: self }
    }

    /// The trace so far.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn trace(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("state/trace/trace.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect()
    }

    /// The log so far, of all runs.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Processes that belong here: those of the run, its workers, what these started. The dead
    /// that nobody has reaped are not among them.
    ///
    /// # Panics
    /// If `/proc` can't be read.
    pub fn alive(&self) -> Vec<u32> {
        let here = self.dir.path().canonicalize().unwrap();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&here))
        })
        .collect()
    }

    /// Waits until nothing of it is alive any more; gives how long that took.
    ///
    /// # Panics
    /// If something still is after half a minute.
    pub fn until_empty(&self) -> Duration {
        let since = Instant::now();
        loop {
            let alive = self.alive();
            if alive.is_empty() {
                return since.elapsed();
            }
            assert!(
                since.elapsed().as_secs() < 30,
                "still alive: {:?}",
                alive.iter().map(|p| describe(*p)).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Files outside the state directory that `pid` or its workers left.
    ///
    /// # Panics
    /// If a directory can't be read.
    pub fn left_behind(&self, pid: u32) -> Vec<String> {
        let mut left = Vec::new();
        let mut look = |dir: &Path, ours: &dyn Fn(&str) -> bool| {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if ours(&entry.file_name().to_string_lossy()) {
                    left.push(entry.path().display().to_string());
                }
            }
        };
        let by_pid = format!("vp-{pid}-");
        look(Path::new("/run/visualpath"), &|n| n.starts_with(&by_pid));
        look(Path::new("/tmp"), &|n| n.starts_with(&by_pid));
        look(Path::new("/dev/shm"), &|n| {
            n.contains("visualpath") || n.starts_with("vp-")
        });
        look(&self.path("run"), &|_| true);
        look(&self.path("tmp"), &|_| true);
        left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Only of a test that failed.
        for pid in self.alive() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}

/// What a process is.
pub fn describe(pid: u32) -> String {
    let read = |file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    format!("{pid}: {} {}", read("cmdline"), read("stat"))
}

/// An appliance that runs.
pub struct Run<'a> {
    /// The process.
    pub child: Child,
    place: &'a Place,
}

/// What it came to.
pub struct Done {
    /// Its exit code; -1: a signal ended it.
    pub code: i32,
    /// Its summary, if it gave one.
    pub summary: Value,
    /// The JSON lines it printed.
    pub events: Vec<Value>,
    /// Its log.
    pub log: String,
    /// Its trace.
    pub trace: Vec<Value>,
    /// Its number.
    pub pid: u32,
}

impl Run<'_> {
    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw(), signal).unwrap();
    }

    /// Sends its whole process group a signal, as a terminal does.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.raw(), signal).unwrap();
    }

    fn raw(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap()
    }

    /// Its worker processes, the dead that it has not reaped included.
    pub fn children(&self) -> Vec<u32> {
        let mut all = String::new();
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        for task in tasks.into_iter().flatten().flatten() {
            all += &fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.push(' ');
        }
        all.split_whitespace()
            .filter_map(|p| p.parse().ok())
            .collect()
    }

    /// Waits until the trace satisfies `enough`.
    ///
    /// # Panics
    /// If it does not within a minute, or the run ends before.
    pub fn until(&mut self, what: &str, enough: impl Fn(&[Value]) -> bool) {
        let since = Instant::now();
        loop {
            if enough(&self.place.trace()) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && since.elapsed().as_secs() < 60,
                "{what}: {ended:?}\n{}",
                self.place.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within three minutes.
    pub fn finish(mut self) -> Done {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if since.elapsed().as_secs() > 180 {
                self.child.kill().unwrap();
                panic!("it does not end:\n{}", self.place.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let stdout = fs::read_to_string(self.place.path("stdout")).unwrap();
        let events: Vec<Value> = stdout
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        let summary = events.iter().rfind(|e| e["event"] == "summary");
        Done {
            code: status.code().unwrap_or(-1),
            summary: summary.cloned().unwrap_or_default(),
            log: self.place.log(),
            trace: self.place.trace(),
            pid: self.child.id(),
            events,
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // Only of a test that failed; its end is waited for so that nothing is left.
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Records of one type.
pub fn of<'a>(trace: &'a [Value], record_type: &'a str) -> impl Iterator<Item = &'a Value> {
    trace
        .iter()
        .filter(move |r| r["record_type"] == record_type)
}

impl Done {
    /// What became of every frame that was admitted to an extractor, in the order it was decided:
    /// `(frame_id, observed | failed | timed_out | drop reason)`.
    pub fn outcomes(&self, extractor: &str) -> Vec<(u64, String)> {
        let mine = self.trace.iter().filter(|r| r["extractor"] == extractor);
        mine.filter_map(|r| {
            let how = match r["record_type"].as_str()? {
                "observation" => "observed",
                "frame_drop" => r["reason"].as_str()?,
                _ => return None,
            };
            Some((r["frame_id"].as_u64()?, how.to_owned()))
        })
        .collect()
    }

    /// What became of an extractor's worker: `(state, why, timestamp_ns)`.
    pub fn states(&self, extractor: &str) -> Vec<(String, String, u64)> {
        of(&self.trace, "worker")
            .filter(|r| r["extractor"] == extractor)
            .map(|r| {
                let text = |k: &str| r[k].as_str().unwrap_or_default().to_owned();
                (
                    text("state"),
                    text("why"),
                    r["timestamp_ns"].as_u64().unwrap_or(0),
                )
            })
            .collect()
    }

    /// Its lines in the log.
    pub fn lines_of<'a>(&'a self, extractor: &str) -> impl Iterator<Item = &'a str> {
        let field = format!("extractor={extractor} ");
        self.log.lines().filter(move |l| l.contains(&field))
    }
}
