//! Shared parts of the tests: the real broker, the real binary, the real video.
#![allow(
    clippy::unwrap_used,
    reason = "a test's set-up that fails should stop the test"
)]

pub mod scripted;
pub mod workers;

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
    assert!(
        file.exists(),
        "{} is missing: run cross/setup.sh first",
        file.display()
    );
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
    assert!(
        bin.exists(),
        "{} is missing: run `cargo build -p visualpath` first",
        bin.display()
    );
    bin
}

/// A port nobody listens on (now).
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A mosquitto of one's own, ended when dropped.
pub struct Mosquitto {
    child: Child,
    dir: Option<tempfile::TempDir>,
    /// Where it listens.
    pub port: u16,
}

/// A mosquitto that has been stopped, with its sessions on disk.
pub struct Stopped {
    dir: tempfile::TempDir,
    port: u16,
}

impl Stopped {
    /// Where it listened, and will again.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again.
    pub fn start(self) -> Mosquitto {
        Mosquitto::start_in(self.dir, self.port)
    }
}

impl Mosquitto {
    /// Starts one on a free port and waits until it accepts connections.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), free_port())
    }

    /// Stops it gracefully; it saves its sessions.
    pub fn stop(mut self) -> Stopped {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap();
        Stopped {
            dir: self.dir.take().unwrap(),
            port: self.port,
        }
    }

    fn start_in(dir: tempfile::TempDir, port: u16) -> Self {
        let conf = dir.path().join("mosquitto.conf");
        // As root it would become user `mosquitto`, who can't write here.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n\
             persistence true\npersistence_location {}/\n",
            dir.path().display()
        );
        std::fs::write(&conf, text).unwrap();
        let child = Command::new("mosquitto")
            .env("PATH", path_with_sbin())
            .arg("-c")
            .arg(&conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is missing: run cross/setup.sh first");
        let mut this = Self {
            child,
            dir: Some(dir),
            port,
        };
        let patience = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                this.child.try_wait().unwrap().is_none(),
                "mosquitto ended at once"
            );
            assert!(Instant::now() < patience, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if self.dir.is_none() {
            return; // stopped already
        }
        if let Err(e) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            assert!(
                std::thread::panicking(),
                "mosquitto could not be ended: {e}"
            );
        }
    }
}

/// Daemons live in sbin, which is not in every user's PATH.
pub fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/usr/local/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
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
pub fn run(dir: &Path, args: &[&str]) -> Output {
    run_env(dir, args, &[])
}

/// The same with a changed environment.
///
/// # Panics
/// If it can't be started.
pub fn run_env(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let out = Command::new(visualpath())
        .args(args)
        .envs(env.iter().copied())
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    Output {
        code: out.status.code().unwrap_or(-1),
        events: stdout
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect(),
        stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A `visualpath run --json` that is running.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Its standard output, line by line.
    pub lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Running {
    /// Starts one with this config.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(config: &Path) -> Self {
        use std::io::BufRead;
        let mut child = Command::new(visualpath())
            .args(["run", "--json", "-c"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for its end; gives its exit code (-1 if a signal ended it) and its log.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn finish(self) -> (i32, String) {
        let out = self.child.wait_with_output().unwrap();
        (
            out.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    }
}

/// A config for `vtest.avi` (or another file) as the demo has it, in TOML.
pub struct Config {
    /// The source's URI.
    pub video: PathBuf,
    /// Paced or not.
    pub realtime: bool,
    /// `inline` or `thread`.
    pub isolation: &'static str,
    /// `mqtt.url`.
    pub mqtt: String,
    /// The rule's condition, a TOML string.
    pub when: &'static str,
    /// The rule's other keys.
    pub rule: String,
    /// Anything else, appended.
    pub more: String,
}

impl Config {
    /// The demo's config on `video`, publishing to `mqtt`.
    pub fn demo(video: PathBuf, mqtt: impl Into<String>) -> Self {
        Self {
            video,
            realtime: false,
            isolation: "inline",
            mqtt: mqtt.into(),
            when: r#"'person["count@door"] >= 1'"#,
            rule: "kind = \"point\"\nfor_ms = 500\nrelease_ms = 500\ncooldown_ms = 2000\n\
                   pre_s = 3.0\npost_s = 2.0\nscore = \"person.max_confidence\""
                .to_owned(),
            more: String::new(),
        }
    }

    /// Writes it to `dir/visualpath.toml` with the state directory `dir/state`.
    ///
    /// # Panics
    /// If that can't be written.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let Self {
            video,
            realtime,
            isolation,
            mqtt,
            when,
            rule,
            more,
        } = self;
        let text = format!(
            r#"schema = 1
[device]
id = "test"
state_dir = "{state}"
[source.yard]
uri = "{video}"
realtime = {realtime}
[extractor.person]
plugin = "object"
isolation = "{isolation}"
[extractor.person.config]
classes = ["person"]
[zone.door]
source = "yard"
polygon = [[0.0, 0.3], [0.2, 0.3], [0.2, 0.55], [0.0, 0.55]]
[path.entrance]
source = "yard"
extractors = ["person"]
fusion = "visitor"
[fusion.visitor]
plugin = "rules"
[[fusion.visitor.config.rule]]
label = "visitor"
when = {when}
{rule}
[mqtt]
url = "{mqtt}"
{web}
{more}
"#,
            // Tests run side by side; one that wants HTTP says where.
            web = if more.contains("[web]") {
                ""
            } else {
                "[web]\nlisten = \"off\""
            },
            state = dir.join("state").display(),
            video = video.display(),
        );
        let file = dir.join("visualpath.toml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// Part of `vtest.avi` in `dir`, encoded again at the highest quality of the same family (its own
/// key frames are too far apart to cut at): from `from_s`, `length_s` long.
///
/// # Panics
/// If ffmpeg can't.
pub fn cut_vtest(dir: &Path, from_s: f64, length_s: f64) -> PathBuf {
    let out = dir.join(format!("vtest-{from_s}-{length_s}.avi"));
    let status = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-y",
            "-ss",
            &from_s.to_string(),
            "-i",
        ])
        .arg(asset("videos/vtest.avi"))
        .args(["-t", &length_s.to_string(), "-c:v", "mpeg4", "-q:v", "2"])
        .arg(&out)
        .status()
        .expect("ffmpeg is missing: run cross/setup.sh first");
    assert!(status.success());
    out
}

/// A separate MQTT client, `mosquitto_sub`, that notes what arrives.
pub struct Subscriber {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    /// What a kept session delivered before it was confirmed.
    early: std::cell::RefCell<std::collections::VecDeque<String>>,
}

impl Subscriber {
    /// Subscribes to everything below `visualpath/`; returns once the broker has confirmed it.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(port: u16, more: &[&str]) -> Self {
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub"])
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-d"])
            .args(["-t", "visualpath/#", "-F", "MESSAGE\t%r\t%t\t%p"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is missing: run cross/setup.sh first");
        let stdout = child.stdout.take().unwrap();
        let (tx, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
            {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        let this = Self {
            child,
            lines,
            early: std::cell::RefCell::default(),
        };
        loop {
            let line = this
                .lines
                .recv_timeout(Duration::from_secs(20))
                .expect("SUBACK");
            if line.contains("Subscribed") || line.contains("SUBACK") {
                return this;
            }
            this.early.borrow_mut().push_back(line);
        }
    }

    /// Waits until `enough` of the messages so far, or for a minute; `(topic, payload, retained)`.
    ///
    /// # Panics
    /// If they do not come.
    pub fn until(
        &self,
        enough: impl Fn(&[(String, String, bool)]) -> bool,
    ) -> Vec<(String, String, bool)> {
        let patience = Instant::now() + Duration::from_secs(60);
        let mut seen = vec![];
        while !enough(&seen) {
            let early = self.early.borrow_mut().pop_front();
            let line = early.unwrap_or_else(|| {
                let left = patience.saturating_duration_since(Instant::now());
                self.lines
                    .recv_timeout(left)
                    .unwrap_or_else(|e| panic!("{e} after {seen:#?}"))
            });
            if let Some(rest) = line.strip_prefix("MESSAGE\t") {
                let mut parts = rest.splitn(3, '\t');
                let mut next = || parts.next().unwrap_or_default().to_owned();
                let (retained, topic, payload) = (next(), next(), next());
                seen.push((topic, payload, retained == "1"));
            }
        }
        seen
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Err(e) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            assert!(
                std::thread::panicking(),
                "mosquitto_sub could not be ended: {e}"
            );
        }
    }
}
