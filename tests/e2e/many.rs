//! Several sources, paths and extractors in one appliance.

use std::io::BufRead;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use visualpath_tests::{Running, asset, run, visualpath};

const HEAD: &str = r#"schema = 1
[device]
id = "test"
state_dir = "STATE"
[web]
listen = "off"
[mqtt]
url = "off"
"#;

fn write(dir: &Path, rest: &str) -> String {
    let state = dir.join("state").display().to_string();
    let file = dir.join("visualpath.toml");
    let text = format!("{HEAD}{rest}").replace("STATE", &state);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn an_extractor_of_two_paths_on_two_sources_looks_at_each_frame_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        r#"
[source.left]
uri = "synthetic:?frames=100&fps=25&width=320&height=240&shapes=2"
realtime = false
[source.right]
uri = "synthetic:?frames=60&fps=20&width=160&height=120&shapes=1&seed=3"
realtime = false
[extractor.motion]
plugin = "motion"
[extractor.sharp]
plugin = "quality"
fps = 5
isolation = "thread"
[extractor.after]
plugin = "quality"
depends = ["sharp"]
[extractor.never]
plugin = "quality"
gate = "motion.score > 2.0"
[path.both]
source = ["left", "right"]
extractors = ["motion", "sharp", "after", "never"]
fusion = "moving"
[path.one]
source = "left"
extractors = ["motion"]
fusion = "moving"
[fusion.moving]
plugin = "rules"
[[fusion.moving.config.rule]]
label = "moving"
when = "motion.score > 0.001"
for_ms = 200
cooldown_ms = 60000
"#,
    );
    let out = run(dir.path(), &["run", "--json", "-c", &file]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let summary = out.of("summary").next().unwrap();
    for (source, frames, sharp) in [("left", 100_u64, 20), ("right", 60, 15)] {
        let s = &summary["sources"][source];
        assert_eq!(s["frames"], frames, "{s}");
        assert_eq!(s["observations"]["motion"], frames, "once per frame: {s}");
        let looked = s["observations"]["sharp"].as_u64().unwrap();
        assert!(looked.abs_diff(sharp) <= 1, "5 a second: {s}");
        let sharp = looked;
        assert_eq!(s["observations"]["after"], sharp, "with what it depends on");
        assert_eq!(s["observations"]["never"], 0, "{s}");
        assert_eq!(s["skipped"]["never"]["gate"], frames, "{s}");
        assert_eq!(s["skipped"]["after"]["dependency"], frames - sharp, "{s}");
        assert_eq!(s["dropped"], serde_json::json!({}), "{s}");
    }
    let mut fired: Vec<(&str, &str)> = out
        .of("trigger")
        .map(|t| (t["path"].as_str().unwrap(), t["source"].as_str().unwrap()))
        .collect();
    fired.sort_unstable();
    assert_eq!(
        fired,
        [("both", "left"), ("both", "right"), ("one", "left")]
    );
    let clips: Vec<&Value> = out.of("clip").collect();
    assert_eq!(clips.len(), 3);
    assert!(clips.iter().all(|c| c["state"] == "ready"), "{clips:?}");
}

#[test]
fn a_source_that_dies_does_not_touch_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let video = asset("videos/vtest.avi");
    let file = write(
        dir.path(),
        &format!(
            r#"
[source.dies]
uri = "{}"
[source.lives]
uri = "synthetic:?frames=60&fps=10&width=160&height=120&shapes=1"
[extractor.motion]
plugin = "motion"
[path.all]
source = ["dies", "lives"]
extractors = ["motion"]
fusion = "moving"
[fusion.moving]
plugin = "rules"
[[fusion.moving.config.rule]]
label = "moving"
when = "motion.score >= 0.0"
clip = false
"#,
            video.display()
        ),
    );
    let mut running = Running::start(Path::new(&file));
    // Both fire on their first frames: everything runs.
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let line = running.lines.next().unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "trigger" {
            seen.push(event["source"].clone());
        }
    }
    // Its decoder, which is the appliance's child.
    let parent = running.child.id().to_string();
    let killed = Command::new("pkill")
        .args(["-KILL", "-P", &parent, "ffmpeg"])
        .status()
        .unwrap();
    assert!(killed.success());
    let summary: Value = running
        .lines
        .by_ref()
        .map(|l| serde_json::from_str::<Value>(&l.unwrap()).unwrap())
        .find(|e| e["event"] == "summary")
        .unwrap();
    let (code, log) = running.finish();
    assert_eq!(code, 4, "the loss is told at the end: {log}");
    assert!(log.contains("source lost"), "{log}");
    let lives = &summary["sources"]["lives"];
    let dropped = lives["dropped"]["path_busy"].as_u64().unwrap_or(0)
        + lives["dropped"]["pool_exhausted"].as_u64().unwrap_or(0);
    assert_eq!(lives["frames"].as_u64().unwrap() + dropped, 60, "{summary}");
    assert!(
        summary["sources"]["dies"]["frames"].as_u64().unwrap() < 60,
        "it died early: {summary}"
    );
}

const LIVE: &str = r#"
[source.cam0]
uri = "synthetic:?fps=20&width=160&height=120&shapes=1"
[source.cam1]
uri = "synthetic:?fps=10&width=160&height=120&shapes=1"
[extractor.motion]
plugin = "motion"
EXTRA
[path.yard]
source = ["cam0", "cam1"]
extractors = ["motion"]
fusion = "moving"
[fusion.moving]
plugin = "rules"
[[fusion.moving.config.rule]]
label = "always"
kind = "range"
max_s = 3600
when = "motion.score >= 0.0"
clip = false
"#;

fn next_trigger(running: &mut Running) -> Value {
    loop {
        let line = running.lines.next().expect("it runs").unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "trigger" {
            return event;
        }
    }
}

fn signal(running: &Running, which: &str) {
    let pid = running.child.id().to_string();
    let sent = Command::new("kill").args([which, &pid]).status().unwrap();
    assert!(sent.success());
}

/// Its log, while it runs.
struct Log {
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStderr>>,
    seen: String,
}

impl Log {
    fn of(running: &mut Running) -> Self {
        let stderr = running.child.stderr.take().unwrap();
        Self {
            lines: std::io::BufReader::new(stderr).lines(),
            seen: String::new(),
        }
    }

    fn until(&mut self, text: &str) {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(text) {
                return;
            }
        }
        panic!("{text:?} was not said: {}", self.seen);
    }

    fn rest(mut self) -> String {
        for line in self.lines {
            self.seen += &line.unwrap();
        }
        self.seen
    }
}

#[test]
fn sighup_brings_new_rules_leaves_the_others_open_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &LIVE.replace("EXTRA", ""));
    let mut running = Running::start(Path::new(&file));
    let mut log = Log::of(&mut running);
    let mut begun: Vec<String> = (0..2)
        .map(|_| {
            let t = next_trigger(&mut running);
            assert_eq!(t["phase"], "start", "{t}");
            format!(
                "{}/{}",
                t["source"].as_str().unwrap(),
                t["label"].as_str().unwrap()
            )
        })
        .collect();
    begun.sort();
    assert_eq!(begun, ["cam0/always", "cam1/always"]);

    // Broken: nothing changes. Then another rule and another extractor.
    write(
        dir.path(),
        &LIVE
            .replace("EXTRA", "")
            .replace("motion.score >=", "motion.skore >="),
    );
    signal(&running, "-HUP");
    let more = LIVE.replace(
        "EXTRA",
        "[extractor.sharp]\nplugin = \"quality\"\nisolation = \"thread\"",
    ) + "[[fusion.moving.config.rule]]\nlabel = \"late\"\nkind = \"range\"\nmax_s = 3600\n\
         when = \"sharp.brightness >= 0.0\"\nclip = false\n";
    let more = more.replace("[\"motion\"]", "[\"motion\", \"sharp\"]");
    // Two reloads may be asked for at once, but this test wants to see the first one refused.
    log.until("nothing changed");
    write(dir.path(), &more);
    signal(&running, "-HUP");
    let mut late: Vec<Value> = (0..2).map(|_| next_trigger(&mut running)).collect();
    late.sort_by_key(|t| t["source"].to_string());
    for (t, source) in late.iter().zip(["cam0", "cam1"]) {
        assert_eq!(
            (&t["label"], &t["phase"]),
            (&"late".into(), &"start".into()),
            "{t}"
        );
        assert_eq!(t["source"], source);
        assert!(
            t["frame_id"].as_u64().unwrap() > 0,
            "the source went on: {t}"
        );
    }
    signal(&running, "-TERM");
    let rest: Vec<Value> = running
        .lines
        .by_ref()
        .map(|l| serde_json::from_str(&l.unwrap()).unwrap())
        .collect();
    let (code, _) = running.finish();
    let log = log.rest();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("skore"), "the bad file is told: {log}");
    let ends: Vec<&Value> = rest.iter().filter(|e| e["phase"] == "end").collect();
    assert_eq!(
        ends.len(),
        4,
        "every range ends once, at the stop: {rest:?}"
    );
    let summary = rest.iter().find(|e| e["event"] == "summary").unwrap();
    for source in ["cam0", "cam1"] {
        let s = &summary["sources"][source];
        let frames = s["frames"].as_u64().unwrap();
        let motion = s["observations"]["motion"].as_u64().unwrap();
        let lost: u64 = s["dropped"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_u64)
            .sum();
        assert!(motion + lost + 2 >= frames, "no gap at the reload: {s}");
    }
}

#[test]
fn the_example_app_saves_the_clip_of_its_own_trigger() {
    let out = tempfile::tempdir().unwrap();
    let example = visualpath().with_file_name("examples").join("run_pipeline");
    assert!(example.exists(), "cargo builds examples with the tests");
    let ran = Command::new(example).arg(out.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(said.ends_with("100 frames, 1 jumps\n"), "{said}");
    let clips: Vec<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "mp4"))
        .collect();
    assert_eq!(clips.len(), 1, "{clips:?}");
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_entries"])
        .args([
            "stream=nb_read_frames",
            "-of",
            "csv=p=0",
            "-ignore_editlist",
            "1",
        ])
        .arg(&clips[0])
        .output()
        .unwrap();
    let frames: u32 = String::from_utf8_lossy(&probed.stdout)
        .trim()
        .parse()
        .unwrap();
    assert!(
        frames >= 40,
        "a second before and after at 20 a second: {frames}"
    );
}
