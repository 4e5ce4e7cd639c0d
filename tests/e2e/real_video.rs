//! vtest.avi through the whole path, with mosquitto: the promises of a run on a file.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use visualpath_tests::{Config, Mosquitto, Output, Subscriber, asset, run};

/// First frame and firing frame of each trigger of the demo's rule on vtest.avi at 10 fps. Found by
/// running the model over the video; people cross the left end of the path four times.
const KNOWN: [(u64, i64); 4] = [(191, 196), (548, 553), (606, 611), (720, 725)];

fn schema_of(name: &str) -> jsonschema::Validator {
    let schemas = visualpath_mqtt::schemas();
    let (_, schema) = schemas.into_iter().find(|(n, _)| *n == name).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

/// What of a trigger may not differ between two runs: all but ids, wall time and latencies.
fn essence(trigger: &Value) -> Value {
    let mut t = trigger.clone();
    let map = t.as_object_mut().unwrap();
    for varies in [
        "id",
        "stream",
        "trigger_id",
        "time",
        "clock",
        "clip",
        "latency_ms",
        "boot_id",
    ] {
        assert!(map.remove(varies).is_some(), "{varies}");
    }
    t
}

fn essences(out: &Output) -> Vec<Value> {
    out.of("trigger").map(essence).collect()
}

fn go(dir: &Path, isolation: &'static str, mqtt: &str) -> Output {
    let mut config = Config::demo(asset("videos/vtest.avi"), mqtt);
    config.isolation = isolation;
    let file = config.write(dir);
    let out = run(dir, &["run", "--json", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    out
}

#[test]
fn triggers_of_a_known_video_are_known_identical_in_every_run_and_each_has_its_clip() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = go(dirs[0].path(), "inline", &url);

    // The known set.
    let found: Vec<(u64, i64)> = first
        .of("trigger")
        .map(|t| {
            (
                t["frame_id"].as_u64().unwrap(),
                t["fired_ns"].as_i64().unwrap() / 100_000_000,
            )
        })
        .collect();
    assert_eq!(found.len(), KNOWN.len(), "{found:?}");
    for (found, known) in found.iter().zip(KNOWN) {
        // A borderline score may come out a frame earlier or later on another CPU.
        assert!(
            found.0.abs_diff(known.0) <= 2 && found.1.abs_diff(known.1) <= 2,
            "{found:?} {known:?}"
        );
    }

    // Everything printed and published is what its schema says.
    let summary = first.of("summary").next().unwrap();
    for (kind, n) in [("trigger", 4), ("clip", 4), ("summary", 1)] {
        let validator = schema_of(kind);
        let documents: Vec<_> = first.of(kind).collect();
        assert_eq!(documents.len(), n, "{kind}");
        for d in documents {
            let errors: Vec<String> = validator.iter_errors(d).map(|e| e.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{kind} {d}");
        }
    }
    assert_eq!(summary["frames"], 795);
    assert_eq!(
        summary["observations"]["person"], 795,
        "no frame of a file is dropped"
    );
    assert_eq!(summary["dropped"], serde_json::json!({}));
    assert_eq!(summary["triggers"], 4);
    assert_eq!(
        summary["clips"],
        serde_json::json!({"ready": 4, "failed": 0})
    );
    assert_eq!(summary["events_undelivered"], 0);

    // A separate client got the same events, in order, once each, then the farewell.
    let seen = subscriber.until(|m| {
        m.iter()
            .any(|(t, p, _)| t == "visualpath/test/status" && p == "offline")
    });
    let received = |end: &str| -> Vec<Value> {
        let of = seen.iter().filter(|(topic, _, _)| topic.ends_with(end));
        of.map(|(_, payload, _)| serde_json::from_str(payload).unwrap())
            .collect()
    };
    let triggers = received("/path/entrance/trigger");
    assert_eq!(
        triggers.iter().map(essence).collect::<Vec<_>>(),
        published(&first, "trigger", essence)
    );
    let seqs: Vec<u64> = triggers
        .iter()
        .map(|t| t["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    let clips = received("/path/entrance/clip");
    for t in &triggers {
        let clip = clips
            .iter()
            .find(|c| c["id"] == t["clip"]["id"])
            .expect("every trigger's clip follows");
        assert_eq!(clip["state"], "ready", "{clip}");
        assert_eq!(clip["trigger_id"], t["trigger_id"]);
        check_clip(&dirs[0].path().join("state"), t, clip);
    }

    // The same again, and on a thread.
    let second = go(dirs[1].path(), "inline", &url);
    let thread = go(dirs[2].path(), "thread", &url);
    assert_eq!(essences(&first), essences(&second), "two runs");
    assert_eq!(essences(&first), essences(&thread), "inline and thread");
    // Also the clips: every packet to the bit (where a fragment ends may differ).
    let packets = |dir: &Path, clip: &Value| {
        let file = dir.join("state").join(clip["file"].as_str().unwrap());
        let out = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-i"])
            .arg(file)
            .args(["-c", "copy", "-f", "framemd5", "-"])
            .output()
            .unwrap();
        assert!(out.status.success());
        out.stdout
    };
    for (a, b) in first.of("clip").zip(second.of("clip")) {
        assert_eq!(packets(dirs[0].path(), a), packets(dirs[1].path(), b));
    }
}

fn published(out: &Output, kind: &str, as_: fn(&Value) -> Value) -> Vec<Value> {
    out.of(kind)
        .map(|e| {
            let mut e = e.clone();
            e.as_object_mut().unwrap().remove("event");
            as_(&e)
        })
        .collect()
}

/// Luma of the frames of a video, as ffmpeg shows them, and their times in seconds.
fn decode(file: &Path, before: &[&str], select: &str) -> Vec<Vec<u8>> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-nostdin"])
        .args(before)
        .arg("-i")
        .arg(file)
        .args([
            "-vf",
            &format!("{select}format=gray"),
            "-fps_mode",
            "passthrough",
            "-f",
            "rawvideo",
            "-",
        ])
        .output()
        .unwrap();
    assert!(
        out.status.success() && out.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout.chunks(768 * 576).map(<[u8]>::to_vec).collect()
}

fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(a.abs_diff(*b)))
        .sum::<f64>()
        / a.len() as f64
}

fn check_clip(state: &Path, trigger: &Value, clip: &Value) {
    let ns = |v: &Value, key: &str| v[key].as_i64().unwrap_or_else(|| panic!("{key} of {v}"));
    let file = state.join(clip["file"].as_str().unwrap());
    // Starts no later than asked, contains its post-roll.
    assert!(ns(clip, "start_ns") <= ns(trigger, "t_start_ns"));
    assert!(ns(clip, "end_ns") >= ns(trigger, "t_end_ns"));
    assert_eq!(clip["short_pre_ms"], 0.0);
    assert_eq!(clip["short_post_ms"], 0.0);
    assert_eq!(clip["end_reason"], "complete");
    // 3 s + 0.5 s + 2 s at 10 fps, both ends included.
    assert_eq!(clip["frames"], 56, "{clip}");
    // Decodes fully, as shown and with what lies before the edit list's start.
    let shown = decode(&file, &[], "");
    let all = decode(&file, &["-ignore_editlist", "1"], "");
    assert_eq!(shown.len(), 56);
    let lead_in = (clip["lead_in_ms"].as_f64().unwrap() / 100.0).round() as usize;
    assert_eq!(
        all.len(),
        56 + lead_in,
        "the lead-in is in the file and not shown"
    );
    assert_eq!(shown[0], all[lead_in]);
    // The frame at the event is the source's frame, and no neighbour of it.
    let at = usize::try_from((ns(trigger, "t_ns") - ns(clip, "start_ns")) / 100_000_000).unwrap();
    let id = trigger["frame_id"].as_u64().unwrap();
    let select = format!("select=between(n\\,{}\\,{}),", id - 2, id + 2);
    let source = decode(&asset("videos/vtest.avi"), &[], &select);
    let differences: Vec<f64> = source.iter().map(|s| difference(s, &shown[at])).collect();
    let best = differences.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(
        best.to_bits(),
        differences[2].to_bits(),
        "another frame is nearer: {differences:?}"
    );
    assert!(best < 4.0, "mean difference {best} levels");
    // The sidecar says the same, and the sum is the file's.
    let sidecar: Value =
        serde_json::from_slice(&std::fs::read(file.with_extension("json")).unwrap()).unwrap();
    for key in [
        "id",
        "trigger_id",
        "start_ns",
        "end_ns",
        "frames",
        "sha256",
        "file",
    ] {
        assert_eq!(sidecar[key], clip[key], "{key}");
    }
    let sum = Command::new("sha256sum").arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(clip["sha256"].as_str().unwrap()));
}

#[test]
fn a_range_has_two_messages_and_one_clip_of_its_whole_length() {
    let dir = tempfile::tempdir().unwrap();
    let video = visualpath_tests::cut_vtest(dir.path(), 18.0, 8.0);
    let mut config = Config::demo(video, "off");
    config.rule =
        "kind = \"range\"\nfor_ms = 300\nrelease_ms = 400\npre_s = 0.5\npost_s = 0.5".into();
    let file = config.write(dir.path());
    let out = run(dir.path(), &["run", "--json", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let triggers: Vec<_> = out.of("trigger").collect();
    let (start, end) = (triggers[0], triggers[1]);
    assert_eq!(
        (&start["phase"], &end["phase"]),
        (&"start".into(), &"end".into())
    );
    assert_eq!(start["trigger_id"], end["trigger_id"]);
    assert_eq!(start["clip"]["id"], end["clip"]["id"]);
    assert!(end["event_end_ns"].as_i64() > start["fired_ns"].as_i64());
    let clips: Vec<_> = out
        .of("clip")
        .filter(|c| c["id"] == start["clip"]["id"])
        .collect();
    assert_eq!(clips.len(), 1);
    assert_eq!(clips[0]["state"], "ready");
    let end_of = clips[0]["end_ns"].as_i64().unwrap();
    assert!(end_of >= end["t_end_ns"].as_i64().unwrap() || clips[0]["end_reason"] == "source_end");
    assert!(
        end_of < start["t_end_ns"].as_i64().unwrap(),
        "not the latest possible end"
    );
}

#[test]
fn tract_finds_the_same_events_as_onnx_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let video = visualpath_tests::cut_vtest(dir.path(), 18.0, 5.0);
    let frames = |runtime: &str| -> Vec<i64> {
        let mut config = Config::demo(video.clone(), "off");
        config.more = String::new();
        let file = config.write(dir.path());
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("classes =", &format!("runtime = \"{runtime}\"\nclasses ="));
        std::fs::write(&file, text).unwrap();
        let out = run(dir.path(), &["run", "--json", "-c", file.to_str().unwrap()]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let name = if runtime == "ort" {
            "onnxruntime"
        } else {
            "tract"
        };
        assert!(
            out.stderr.contains(&format!("runtime=\"{name}")),
            "the log names it: {}",
            out.stderr
        );
        out.of("trigger")
            .map(|t| t["frame_id"].as_i64().unwrap())
            .collect()
    };
    let (tract, ort) = (frames("tract"), frames("ort"));
    assert_eq!(tract, ort);
    assert_eq!(tract.len(), 1);
}
