//! The whole appliance on the camera, with a broker outside the machine.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::machine::{Camera, run};
use crate::runner::Numbers;

const PATIENCE: Duration = Duration::from_secs(120);

/// `visualpath run --json`, with what it prints.
struct Appliance {
    child: Child,
    events: Receiver<Value>,
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            eprintln!("visualpath was killed: {ended:?}");
        }
    }
}

impl Appliance {
    fn start(uri: &str, broker: &str) -> Result<Self> {
        let config = format!(
            r#"schema = 1
[device]
id = "arm"
state_dir = "/tmp/state"
[source.cam0]
uri = "{uri}"
width = 320
height = 180
fps = 30
[extractor.motion]
plugin = "motion"
[extractor.motion.config]
learn_s = 1
[path.entrance]
source = "cam0"
extractors = ["motion"]
fusion = "moves"
[fusion.moves]
plugin = "rules"
[[fusion.moves.config.rule]]
label = "moves"
when = "motion.score > 0.05"
cooldown_ms = 500
clip = false
[web]
listen = "off"
[mqtt]
url = "mqtt://{broker}"
"#
        );
        std::fs::write("/tmp/visualpath.toml", config)?;
        let mut child = Command::new("visualpath")
            .args(["run", "--json", "-c", "/tmp/visualpath.toml"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("visualpath")?;
        let stdout = child.stdout.take().context("stdout")?;
        let (tell, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                eprintln!("visualpath: {line}");
                let event = serde_json::from_str(&line).unwrap_or(Value::Null);
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, events })
    }

    fn wait_for(&self, event: &str) -> Result<Value> {
        loop {
            let next = self
                .events
                .recv_timeout(PATIENCE)
                .with_context(|| format!("waiting for visualpath's `{event}`"))?;
            if next["event"] == event {
                return Ok(next);
            }
        }
    }

    fn stop(mut self) -> Result<()> {
        run(&["kill", &self.child.id().to_string()])?;
        self.wait_for("summary")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "visualpath ended with {status}");
        Ok(())
    }
}

/// Tells the outside how far we are, and waits until it agrees.
fn stage(name: &str) -> Result<()> {
    println!("{}", json!({"stage": name}));
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() != name {
        bail!("the outside answered `{}` to stage `{name}`", answer.trim());
    }
    Ok(())
}

/// On drawn pictures: the network, the broker and the binary work here.
pub fn drawn(broker: &str, _: &mut Numbers) -> Result<()> {
    let uri = "synthetic:?width=320&height=180&shapes=3";
    let appliance = Appliance::start(uri, broker)?;
    appliance.wait_for("ready")?;
    appliance.wait_for("trigger")?;
    stage("drawn")?;
    appliance.stop()
}

/// On the camera, which is pulled and comes back.
pub fn camera(broker: &str, _: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    let appliance = Appliance::start("/dev/video0", broker)?;
    appliance.wait_for("ready")?;
    camera.set("horizontal_movement", 6)?;
    appliance.wait_for("trigger")?;
    stage("moves")?;
    camera.pull()?;
    stage("pulled")?;
    camera.insert()?;
    camera.set("horizontal_movement", 6)?;
    stage("back")?;
    appliance.stop()
}
