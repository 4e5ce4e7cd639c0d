//! A source at its own pace: windows, drops, stopping.

use std::process::{Child, Command};

use serde_json::Value;
use visualpath_tests::{Config, Running, asset, cut_vtest, run};

#[test]
fn a_paced_file_keeps_its_time_stamps_and_reports_latencies() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::demo(cut_vtest(dir.path(), 17.0, 8.0), "off");
    config.realtime = true;
    config.isolation = "thread";
    let file = config.write(dir.path());
    let out = run(dir.path(), &["run", "--json", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let summary = out.of("summary").next().unwrap();
    assert!(
        summary["wall_s"].as_f64().unwrap() >= 7.5,
        "it takes as long as the video: {summary}"
    );
    // Every picture is accounted for: seen by the extractor, or not, with its reason (the machine
    // may be busy).
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let dropped = |reason: &str| number(&summary["dropped"][reason]);
    assert_eq!(
        number(&summary["frames"]) + dropped("pool_exhausted"),
        80,
        "{summary}"
    );
    let outcomes = number(&summary["observations"]["person"])
        + number(&summary["timed_out"]["person"])
        + dropped("queue_full")
        + dropped("path_busy");
    assert_eq!(outcomes, number(&summary["frames"]), "{summary}");
    let trigger = out.of("trigger").next().expect("somebody is at the door");
    assert_eq!(
        trigger["t_ns"].as_i64().unwrap() % 100_000_000,
        0,
        "the file's own time"
    );
    let latency = &trigger["latency_ms"];
    assert!(latency["extract"].as_f64().unwrap() > 0.0, "{latency}");
    assert!(
        latency["total"].as_f64() >= latency["extract"].as_f64(),
        "{latency}"
    );
    assert_eq!(out.of("clip").next().unwrap()["state"], "ready");
}

fn start(dir: &std::path::Path) -> Running {
    let mut config = Config::demo(asset("videos/vtest.avi"), "off");
    config.realtime = true;
    // Somebody is always in the picture: it fires on the first frame.
    config.when = "\"person.count >= 1\"";
    config.rule = "for_ms = 0\nrelease_ms = 0\ncooldown_ms = 0\npre_s = 0.5\npost_s = 60.0".into();
    Running::start(&config.write(dir))
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn sigterm_stops_gracefully_and_accounts_for_the_open_clip() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = start(dir.path());
    let mut events: Vec<Value> = vec![];
    for line in &mut run.lines {
        events.push(serde_json::from_str(&line.unwrap()).unwrap());
        if events.iter().filter(|e| e["event"] == "trigger").count() == 1 && events.len() == 2 {
            signal(&run.child, "-TERM");
        }
    }
    let (code, log) = run.finish();
    assert_eq!(code, 0, "{log}");
    let triggers = events.iter().filter(|e| e["event"] == "trigger").count();
    let clips: Vec<&Value> = events.iter().filter(|e| e["event"] == "clip").collect();
    assert_eq!(
        clips.len(),
        triggers,
        "each trigger's clip is accounted for"
    );
    assert_eq!(clips[0]["state"], "ready", "{}", clips[0]);
    assert_eq!(clips[0]["end_reason"], "stopped", "{}", clips[0]);
    assert!(
        clips[0]["short_post_ms"].as_f64().unwrap() > 0.0,
        "60 s of post-roll were asked for"
    );
    let summary = events.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert!(summary["frames"].as_u64().unwrap() < 795);
    let parts = walk(&dir.path().join("state"))
        .into_iter()
        .filter(|f| f.ends_with(".part"))
        .count();
    assert_eq!(parts, 0);
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}

#[test]
fn no_child_outlives_the_appliance() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = start(dir.path());
    run.lines.next().unwrap().unwrap();
    run.lines.next().unwrap().unwrap(); // it has fired: the decoder runs
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.child.id()))
        .map(|own| own + &children_of_threads(run.child.id()))
        .unwrap();
    let decoders: Vec<u32> = children
        .split_whitespace()
        .map(|p| p.parse().unwrap())
        .collect();
    assert!(!decoders.is_empty(), "ffmpeg is a child");
    signal(&run.child, "-KILL");
    run.child.wait().unwrap();
    // Its pipe is gone: the decoder ends by itself.
    let patience = std::time::Instant::now();
    for pid in decoders {
        while alive(pid) {
            assert!(patience.elapsed().as_secs() < 60, "{pid} is still there");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_reader_that_stops_reading_does_not_keep_the_appliance_from_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::demo(cut_vtest(dir.path(), 0.0, 10.0), "off");
    config.rule = "for_ms = 0\nrelease_ms = 0\ncooldown_ms = 0\npre_s = 0.1\npost_s = 0.1".into();
    config.when = "\"person.max_confidence > 0.58\"";
    let file = config.write(dir.path());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("realtime = false", "realtime = false\nloop = true"),
    )
    .unwrap();
    let running = Running::start(&file);
    // Nobody reads: the pipe fills, and the thread that prints is stuck in write(2).
    let pid = running.child.id();
    let started = std::time::Instant::now();
    while !writing(pid) {
        assert!(started.elapsed().as_secs() < 120, "the pipe never fills");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    signal(&running.child, "-TERM");
    let mut running = running;
    let started = std::time::Instant::now();
    while running.child.try_wait().unwrap().is_none() {
        assert!(started.elapsed().as_secs() < 180, "it hangs");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let (code, log) = running.finish();
    assert_eq!(code, 1, "not everything was flushed: {log}");
    assert!(
        log.contains("did not stop in time") && log.contains("events"),
        "{log}"
    );
}

/// Whether the events thread has been in the same write(2) for a while.
fn writing(pid: u32) -> bool {
    let events = |task: &std::path::Path| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|c| c.trim() == "events")
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten();
    let Some(task) = tasks.map(|t| t.path()).find(|t| events(t)) else {
        return false;
    };
    let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    let state = || (read("stat").contains(") S "), read("wchan"), read("status"));
    let before = state();
    // A kernel that does not tell where it waits leaves only the silence to go by.
    let told = before.1.chars().any(char::is_alphabetic);
    std::thread::sleep(std::time::Duration::from_secs(if told { 1 } else { 20 }));
    before.0 && before == state() && (!told || before.1.contains("pipe"))
}

fn children_of_threads(pid: u32) -> String {
    let mut all = String::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
    {
        all += " ";
        all += &std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    }
    all
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
