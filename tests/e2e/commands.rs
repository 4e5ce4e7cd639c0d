//! Commands: "the last 30 seconds now", over a real broker and from the command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use visualpath_tests::{Mosquitto, Output, Running, Subscriber, free_port, run};

const ROOT: &str = "visualpath/test";

/// A camera on which no rule fires.
fn config(dir: &Path, url: &str, more: &str) -> PathBuf {
    let state = dir.join("state");
    let text = format!(
        r#"schema = 1
[device]
id = "test"
state_dir = "{}"
[mqtt]
url = "{url}"
[clip]
gop_s = 0.5
still = false
[source.cam0]
uri = "synthetic:?width=160&height=128&fps=25&text=0"
[extractor.quality]
plugin = "quality"
[path.all]
source = "cam0"
extractors = ["quality"]
fusion = "never"
[fusion.never]
plugin = "rules"
{more}
"#,
        state.display()
    );
    let file = dir.join("visualpath.toml");
    std::fs::write(&file, text).unwrap();
    file
}

const RULE: &str = r#"[[fusion.never.config.rule]]
label = "never"
when = "quality.brightness > 300.0"
"#;

/// A running appliance, ended with its test.
struct Appliance {
    run: Option<Running>,
    mqtt: u16,
}

impl Appliance {
    fn start(config: &Path) -> Self {
        let mut run = Running::start(config);
        let ready: Value =
            serde_json::from_str(&run.lines.next().unwrap().unwrap()).expect("a JSON line");
        assert_eq!(ready["event"], "ready", "{ready}");
        Self {
            mqtt: u16::try_from(ready["mqtt"]["port"].as_u64().unwrap_or(0)).unwrap(),
            run: Some(run),
        }
    }

    /// The next event of its `run --json`.
    fn event(&mut self) -> Value {
        let run = self.run.as_mut().unwrap();
        serde_json::from_str(&run.lines.next().unwrap().unwrap()).unwrap()
    }

    fn kill(mut self) {
        let mut run = self.run.take().unwrap();
        run.child.kill().unwrap();
        run.finish();
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(mut run) = self.run.take() {
            drop(run.child.kill());
            run.finish();
        }
    }
}

fn clip(dir: &Path, verb: &str, args: &[&str]) -> Output {
    let mut all = vec!["clip", verb, "-c", "visualpath.toml"];
    all.extend(args);
    run(dir, &all)
}

/// What `clip VERB --json` prints.
fn clip_json(dir: &Path, verb: &str, args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let out = clip(dir, verb, &args);
    assert_eq!(out.code, 0, "{verb} {args:?}: {}{}", out.stdout, out.stderr);
    serde_json::from_str(&out.stdout).unwrap()
}

/// Asks until the ring has what is wanted: an appliance that has just begun has no 3 s yet.
fn cut_when_held(dir: &Path, last_s: &str, more: &[&str]) -> Value {
    let mut args = vec!["--last", last_s, "--json"];
    args.extend(more);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let out = clip(dir, "cut", &args);
        if out.code == 0 {
            let clip: Value = serde_json::from_str(&out.stdout).unwrap();
            if clip["short_pre_ms"] == 0.0 {
                return clip;
            }
            assert_eq!(clip["short_pre_reason"], "source_start", "{clip}");
        }
        assert!(
            std::time::Instant::now() < patience,
            "{}{}",
            out.stdout,
            out.stderr
        );
        // Nobody reads the appliance's log here, and a pipe holds little.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn publish(port: u16, topic: &str, payload: &Value) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1"])
        .args(["-t", topic, "-m", &payload.to_string()])
        .status()
        .expect("mosquitto_pub is missing: run cross/setup.sh first");
    assert!(status.success());
}

/// Pictures that ffmpeg shows of a file.
fn pictures(file: &Path) -> u64 {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        out.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout)
        .trim()
        .trim_end_matches(',')
        .parse()
        .unwrap()
}

#[test]
fn the_last_seconds_now_come_over_mqtt_as_a_whole_clip_and_its_message() {
    let broker = Mosquitto::start();
    let dir = tempfile::tempdir().unwrap();
    let file = config(
        dir.path(),
        &format!("mqtt://127.0.0.1:{}", broker.port),
        RULE,
    );
    let _appliance = Appliance::start(&file);
    // Its subscription is in force, and there is something to cut.
    cut_when_held(dir.path(), "2", &[]);
    let subscriber = Subscriber::start(broker.port, &[]);
    let cmd = format!("{ROOT}/cmd");
    publish(
        broker.port,
        &format!("{cmd}/clip"),
        &json!({"id": "a1", "last_s": 2, "post_s": 1, "label": "door"}),
    );
    let response = format!("{cmd}/response");
    let message = format!("{ROOT}/path/command/clip");
    let seen = subscriber.until(|seen| {
        let has =
            |topic: &str, words: &str| seen.iter().any(|(t, p, _)| t == topic && p.contains(words));
        has(&response, "a1") && has(&message, "\"door\"")
    });
    let of = |topic: &str, words: &str| -> Value {
        let (_, payload, _) = seen
            .iter()
            .find(|(t, p, _)| t == topic && p.contains(words))
            .unwrap();
        serde_json::from_str(payload).unwrap()
    };
    let answer = of(&response, "a1");
    assert_eq!(answer["ok"], true, "{answer}");
    let accepted = &answer["result"];
    let message = of(&message, "\"door\"");
    assert_eq!(message["id"], accepted["id"]);
    assert_eq!(message["state"], "ready", "{message}");
    assert_eq!(message["trigger_id"], "");
    assert_eq!(message["end_reason"], "complete");
    let ns = |v: &Value| v.as_i64().unwrap();
    let asked = ns(&accepted["end_ns"]) - ns(&accepted["start_ns"]);
    assert_eq!(asked, 3_000_000_000, "{accepted}");
    assert!(
        ns(&message["start_ns"]) <= ns(&accepted["start_ns"]),
        "{message}"
    );
    assert!(
        ns(&message["end_ns"]) >= ns(&accepted["end_ns"]),
        "{message}"
    );
    // 25 a second, both ends rounded outwards.
    let frames = message["frames"].as_u64().unwrap();
    assert!((76..=78).contains(&frames), "{message}");
    let file = dir
        .path()
        .join("state")
        .join(message["file"].as_str().unwrap());
    assert!(
        file.to_str().unwrap().contains("_command_door_"),
        "{message}"
    );
    assert_eq!(
        pictures(&file),
        frames,
        "ffmpeg shows what the message says"
    );

    // The same id is the same command: no second clip.
    publish(
        broker.port,
        &cmd,
        &json!({"id": "a1", "verb": "clip", "args": {}}),
    );
    publish(broker.port, &cmd, &json!({"id": "a2", "verb": "clip_list"}));
    let seen = subscriber.until(|seen| {
        seen.iter()
            .any(|(_, p, _)| p.contains("a2") && p.contains("total"))
    });
    let again = seen
        .iter()
        .find(|(t, p, _)| *t == response && p.contains("a1"))
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(&again.1).unwrap(), answer);
    let (_, list, _) = seen.iter().find(|(_, p, _)| p.contains("total")).unwrap();
    let list: Value = serde_json::from_str(list).unwrap();
    let doors = list["result"]["clips"].as_array().unwrap();
    let doors = doors.iter().filter(|c| c["label"] == "door").count();
    assert_eq!(doors, 1, "{list}");
}

#[test]
fn what_is_not_allowed_or_can_not_be_cut_is_answered_with_what_to_do() {
    let broker = Mosquitto::start();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    // No rule of it wants clips.
    let none = RULE.to_owned() + "clip = false\n";
    let file = config(dir.path(), &url, &none);
    let appliance = Appliance::start(&file);
    let refused = |args: &[&str], code: i32, words: &str| {
        let out = clip(dir.path(), "cut", args);
        assert_eq!(out.code, code, "{args:?}: {}{}", out.stdout, out.stderr);
        assert!(out.stderr.contains(words), "{args:?}: {}", out.stderr);
    };
    refused(&[], 1, "set clip.always = true");
    refused(&["--source", "cam1"], 2, "did you mean `cam0`?");
    refused(&["--from", "noon"], 1, "clip.always");
    refused(&["--last", "4000"], 2, "0 to 3600");
    drop(appliance);
    refused(&[], 5, "offline");
    // It says so itself when it is not asked for.
    let always = format!("{none}[clip]\nalways = true\ngop_s = 0.5\nstill = false\n");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        .replace("[clip]\ngop_s = 0.5\nstill = false\n", "")
        .replace(&none, &always);
    std::fs::write(&file, text).unwrap();
    let appliance = Appliance::start(&file);
    cut_when_held(dir.path(), "1", &[]);
    refused(&["--from", "noon"], 2, "`noon` is no moment");
    refused(&["--from", "-1h", "--to", "-59m"], 1, "is kept no longer");
    drop(appliance);
    // Nobody may ask.
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("[mqtt]\n", "[mqtt]\ncommands = [\"clip_list\"]\n");
    std::fs::write(&file, text).unwrap();
    let _appliance = Appliance::start(&file);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let out = clip(dir.path(), "cut", &[]);
        if out.stderr.contains("mqtt.commands") {
            assert_eq!(out.code, 1, "{}", out.stderr);
            break;
        }
        // The broker may still have the last word of the one before.
        assert!(out.stderr.contains("offline"), "{}", out.stderr);
        assert!(std::time::Instant::now() < patience, "{}", out.stderr);
    }
}

#[test]
fn clips_are_listed_checked_pinned_and_deleted_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let file = config(dir.path(), &format!("embedded://127.0.0.1:{port}"), RULE);
    let appliance = Appliance::start(&file);
    assert_eq!(appliance.mqtt, port);
    let first = cut_when_held(dir.path(), "1", &["--label", "first"]);
    let second = cut_when_held(dir.path(), "1", &["--label", "second", "--post", "0.5"]);
    let (first, second) = (&first["id"], &second["id"]);
    let of = |label: &str| {
        let list = clip_json(dir.path(), "list", &["--label", label, "--state", "ready"]);
        let clips = list["clips"].as_array().unwrap();
        clips.last().cloned()
    };
    assert_eq!(of("first").unwrap()["id"], *first);
    assert_eq!(of("second").unwrap()["id"], *second);
    assert_eq!(
        clip_json(dir.path(), "list", &["--source", "cam7"])["total"],
        0
    );

    // Pinned by the end of its id, which is the end of the file's name; kept from deletion.
    let (first, second) = (first.as_str().unwrap(), second.as_str().unwrap());
    let tail = &first[first.len() - 8..];
    clip_json(dir.path(), "pin", &[tail]);
    assert_eq!(of("first").unwrap()["pinned"], true);
    let refused = clip(dir.path(), "delete", &[tail]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("is pinned"), "{}", refused.stderr);
    clip_json(dir.path(), "unpin", &[tail]);
    assert_eq!(of("first").unwrap()["pinned"], false);

    // Whole; and not any more once a byte is another, which it says with the file's name.
    let verified = clip_json(dir.path(), "verify", &[]);
    assert_eq!(verified["failed"], 0, "{verified}");
    let path = dir
        .path()
        .join("state")
        .join(of("second").unwrap()["file"].as_str().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let out = clip(dir.path(), "verify", &[]);
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(
        out.stdout.contains(name) && out.stdout.contains("was changed"),
        "{}",
        out.stdout
    );
    assert_eq!(
        clip(dir.path(), "verify", &[first]).code,
        0,
        "only the one that was asked"
    );

    clip_json(dir.path(), "delete", &[first, second]);
    assert!(of("first").is_none_or(|c| c["id"] != *first));
    assert!(!path.exists() && !path.with_extension("json").exists());
    let unknown = clip(dir.path(), "pin", &[first]);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown.stderr.contains("there is no clip"),
        "{}",
        unknown.stderr
    );

    // The appliance goes on, and without it all but `cut` works.
    cut_when_held(dir.path(), "1", &[]);
    drop(appliance);
    assert_eq!(clip_json(dir.path(), "verify", &[])["failed"], 0);
    let out = clip(dir.path(), "cut", &[]);
    assert_eq!(out.code, 5, "{}", out.stderr);
}

#[test]
fn a_clip_that_was_promised_is_answered_for_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let file = config(dir.path(), &format!("embedded://127.0.0.1:{port}"), RULE);
    let appliance = Appliance::start(&file);
    cut_when_held(dir.path(), "1", &[]);
    let promised = clip_json(
        dir.path(),
        "cut",
        &["--last", "1", "--post", "600", "--no-wait"],
    );
    appliance.kill();
    let mut next = Appliance::start(&file);
    let told = next.event();
    assert_eq!(told["event"], "clip", "{told}");
    assert_eq!(told["id"], promised["id"], "{told}");
    assert_eq!(told["path"], "command", "{told}");
    if told["state"] == "ready" {
        assert_eq!(told["partial"], true, "{told}");
        assert!(
            told["short_post_ms"].as_f64().unwrap() > 500_000.0,
            "{told}"
        );
    } else {
        assert!(told["reason"].is_string(), "{told}");
    }
}
