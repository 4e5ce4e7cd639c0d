//! The real video, traced: the fusions run again on what was recorded fire the same.

use std::path::{Path, PathBuf};

use serde_json::Value;
use visualpath_tests::{Config, Output, asset, cut_vtest, run};

/// Runs with a trace of level verbose into `sinks`.
fn traced(dir: &Path, video: PathBuf, sinks: &str) -> (PathBuf, Output) {
    let mut config = Config::demo(video, "off");
    config.rule.push_str("\nclip = false");
    config.more = format!("[observability]\nlevel = \"verbose\"\n{sinks}");
    let file = config.write(dir);
    let out = run(dir, &["run", "--json", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    (file, out)
}

const FILE: &str = "[[observability.sink]]\nkind = \"file\"\npath = \"t.jsonl\"\n";

#[test]
fn a_replay_of_the_whole_video_gives_the_same_triggers_and_a_changed_number_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = traced(dir.path(), asset("videos/vtest.avi"), FILE);
    let trace = dir.path().join("state/trace/t.jsonl");
    let replay = |trace: &Path| {
        let (trace, config) = (trace.to_str().unwrap(), config.to_str().unwrap());
        run(
            dir.path(),
            &["trace", "replay", trace, "-c", config, "--json"],
        )
    };
    let same = replay(&trace);
    assert_eq!(same.code, 0, "{}{}", same.stdout, same.stderr);
    let sum = same.of("replay").next().unwrap();
    assert_eq!(sum["identical"], true);
    assert_eq!(sum["decisions"], 796, "795 frames and the end");
    // What was published is what the replay fires.
    let keys = [
        "label", "frame_id", "t_ns", "fired_ns", "score", "signals", "objects",
    ];
    let pick = |t: &Value| -> Vec<Value> { keys.iter().map(|k| t[k].clone()).collect() };
    let published: Vec<_> = out.of("trigger").map(pick).collect();
    let replayed: Vec<_> = same.of("trigger").map(|t| pick(&t["trigger"])).collect();
    assert_eq!(published.len(), 4);
    assert_eq!(replayed, published);

    // One digit of one signal that a rule reads, at a frame on which it held.
    let fired = out.of("trigger").next().unwrap()["frame_id"]
        .as_u64()
        .unwrap();
    let text = std::fs::read_to_string(&trace).unwrap();
    let is_it = |l: &str| {
        l.contains("\"record_type\":\"observation\"")
            && l.contains(&format!("\"frame_id\":{fired},"))
    };
    let line = text.lines().find(|l| is_it(l)).unwrap();
    assert!(line.contains("\"count@door\":1.0"), "{line}");
    let tampered = text.replace(
        line,
        &line.replace("\"count@door\":1.0", "\"count@door\":0.0"),
    );
    assert_ne!(tampered, text);
    let other = dir.path().join("tampered.jsonl");
    std::fs::write(&other, tampered).unwrap();
    let out = replay(&other);
    assert_eq!(out.code, 1, "{}", out.stdout);
    let sum = out.of("replay").next().unwrap();
    assert_eq!(sum["identical"], false);
    assert_ne!(sum["differences"][0]["what"], Value::Null);

    // Other rules do not give the same either, and are named.
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("for_ms = 500", "for_ms = 600")).unwrap();
    let out = replay(&trace);
    assert_eq!(out.code, 1, "{}", out.stdout);
    assert!(
        out.stdout.contains("the run had another config"),
        "{}",
        out.stdout
    );
}

#[test]
fn explain_says_what_a_rule_read_and_what_state_it_was_in() {
    let dir = tempfile::tempdir().unwrap();
    let video = cut_vtest(dir.path(), 18.0, 4.0);
    let (config, out) = traced(dir.path(), video, FILE);
    let trigger = out.of("trigger").next().unwrap();
    let explain = |at_ns: i64| {
        let at = format!("{}", at_ns as f64 / 1e9);
        let trace = dir.path().join("state/trace/t.jsonl");
        let args = ["trace", "explain", trace.to_str().unwrap(), "--at", &at];
        let mut args = args.to_vec();
        args.extend(["-c", config.to_str().unwrap(), "--json"]);
        let out = run(dir.path(), &args);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let all: Value = serde_json::from_str(&out.stdout).unwrap();
        all[0].clone()
    };
    let fired = trigger["fired_ns"].as_i64().unwrap();
    let at = explain(fired);
    assert_eq!(at["t_ns"], fired);
    assert_eq!(at["fired"], serde_json::json!(["visitor"]));
    let rule = &at["rules"][0];
    assert_eq!(
        (&rule["holds"], &rule["state"]),
        (&true.into(), &"on".into())
    );
    assert_eq!(rule["since_ns"], trigger["event_start_ns"]);
    assert_eq!(rule["reads"][0]["signal"], "person.count@door");
    assert_eq!(
        rule["reads"][0]["value"],
        trigger["signals"]["person.count@door"]
    );
    // A frame earlier it was waiting for its time.
    let before = explain(fired - 1);
    assert_eq!(before["t_ns"], fired - 100_000_000);
    let rule = &before["rules"][0];
    assert_eq!(
        (&rule["holds"], &rule["state"]),
        (&true.into(), &"pending".into())
    );
    assert_eq!(before["fired"], serde_json::json!([]));
}

#[test]
fn a_trace_that_can_not_be_written_changes_nothing_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let video = cut_vtest(dir.path(), 18.0, 4.0);
    let good = dir.path().join("good");
    let bad = dir.path().join("bad");
    for d in [&good, &bad] {
        std::fs::create_dir(d).unwrap();
    }
    let (_, with) = traced(&good, video.clone(), FILE);
    let full = "[[observability.sink]]\nkind = \"file\"\npath = \"/dev/full\"\n";
    let below_a_file = "[[observability.sink]]\nkind = \"file\"\npath = \"/dev/null/t.jsonl\"\n";
    let (_, without) = traced(&bad, video, &format!("{full}{below_a_file}"));
    let essence = |out: &Output| -> Vec<(Value, Value, Value)> {
        let of = |t: &Value| {
            (
                t["frame_id"].clone(),
                t["fired_ns"].clone(),
                t["score"].clone(),
            )
        };
        out.of("trigger").map(of).collect()
    };
    assert_eq!(essence(&with).len(), 1);
    assert_eq!(essence(&with), essence(&without));
    assert!(
        without.stderr.contains("writing /dev/full: No space left"),
        "{}",
        without.stderr
    );
    assert!(
        without.stderr.contains("opening /dev/null/t.jsonl"),
        "{}",
        without.stderr
    );
}
