//! Shared parts of the tests: the real broker, the real binary, the real video.
#![allow(clippy::unwrap_used, reason = "a test's set-up that fails should stop the test")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A file that set-up fetched: `asset("videos/vtest.avi")`.
///
/// # Panics
/// If it is not there, saying what to run.
pub fn asset(path: &str) -> PathBuf {
    let dir = std::env::var_os("VISUALPATH_ASSETS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"),
                PathBuf::from,
            );
            cache.join("visualpath")
        },
        PathBuf::from,
    );
    let file = dir.join(path);
    assert!(file.exists(), "{} is missing: run cross/setup.sh first", file.display());
    file
}

/// The `visualpath` binary beside this test's own.
///
/// # Panics
/// If it has not been built.
pub fn visualpath() -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let bin = dir.join("visualpath");
    assert!(bin.exists(), "{} is missing: run `cargo build -p visualpath` first", bin.display());
    bin
}

/// A port nobody listens on (now).
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A mosquitto of one's own, ended when dropped.
pub struct Mosquitto {
    child: Child,
    dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
}

impl Mosquitto {
    /// Starts one on a free port and waits until it accepts connections.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let conf = dir.path().join("mosquitto.conf");
        std::fs::write(&conf, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
        let child = Command::new("mosquitto")
            .env("PATH", path_with_sbin())
            .arg("-c")
            .arg(&conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is missing: run cross/setup.sh first");
        let mut this = Self { child, dir, port };
        let patience = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(this.child.try_wait().unwrap().is_none(), "mosquitto ended at once");
            assert!(Instant::now() < patience, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Err(e) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            assert!(std::thread::panicking(), "mosquitto could not be ended: {e}");
        }
    }
}

/// Daemons live in sbin, which is not in every user's PATH.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default())
}

/// What a finished `visualpath` said.
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// The JSON lines of its standard output.
    pub events: Vec<Value>,
    /// Standard output as it was.
    pub stdout: String,
    /// Its log.
    pub stderr: String,
}

impl Output {
    /// The events of one kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |e| e["event"] == kind)
    }
}

/// Runs `visualpath` with these arguments to its end.
///
/// # Panics
/// If it can't be started.
pub fn run<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(dir: &Path, args: I) -> Output {
    let out = Command::new(visualpath())
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    Output {
        code: out.status.code().unwrap_or(-1),
        events: stdout.lines().filter_map(|l| serde_json::from_str(l).ok()).collect(),
        stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}
