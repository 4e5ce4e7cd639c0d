//! Wrong inputs, each with the exit code and the message it must give. (Sixty more wrong configs,
//! with exact lines and columns, are `edge/tests/fixtures/wrong_configs`.)

use std::path::{Path, PathBuf};
use std::process::Command;

use visualpath_tests::{Config, asset, cut_vtest, run, run_env};

/// A wrong input: what is changed in a good config, and what must come of it.
struct Case {
    name: &'static str,
    /// Replaced in the config's text.
    replace: (&'static str, String),
    exit: i32,
    /// Each must be in the log.
    says: &'static [&'static str],
}

fn case(
    name: &'static str,
    from: &'static str,
    to: impl Into<String>,
    exit: i32,
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        replace: (from, to.into()),
        exit,
        says,
    }
}

fn check(dir: &Path, video: &Path, cases: Vec<Case>) {
    for c in cases {
        let file = Config::demo(video.to_owned(), "off").write(dir);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(c.replace.0), "{}: nothing to replace", c.name);
        std::fs::write(&file, text.replacen(c.replace.0, &c.replace.1, 1)).unwrap();
        let out = run(dir, &["run", "--json", "-c", "visualpath.toml"]);
        assert_eq!(out.code, c.exit, "{}: {}", c.name, out.stderr);
        for says in c.says {
            assert!(
                out.stderr.contains(says),
                "{}: {says:?} is not in\n{}",
                c.name,
                out.stderr
            );
        }
        assert!(
            !out.stderr.contains("panicked"),
            "{}: {}",
            c.name,
            out.stderr
        );
    }
}

#[test]
fn what_only_plugins_and_rules_can_judge_is_told_at_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let video = cut_vtest(dir.path(), 0.0, 0.5);
    let when = r#"'person["count@door"] >= 1'"#;
    let classes = "classes = [\"person\"]";
    check(
        dir.path(),
        &video,
        vec![
            case(
                "unknown plugin",
                "\"object\"",
                "\"objekt\"",
                3,
                &[
                    "visualpath.toml:9:10: error: extractor.person.plugin",
                    "did you mean `object`?",
                ],
            ),
            case(
                "unknown key of a plugin",
                "classes =",
                "clases =",
                3,
                &[
                    "visualpath.toml:12:10: error: extractor.person.config.clases",
                    "`classes`",
                ],
            ),
            case(
                "unknown class",
                classes,
                "classes = [\"persn\"]",
                3,
                &["extractor.person.config.classes", "Person"],
            ),
            case(
                "threshold out of range",
                classes,
                "threshold = 4.0",
                3,
                &["visualpath.toml:12:", "extractor.person.config.threshold"],
            ),
            case(
                "threshold is a word",
                classes,
                "threshold = \"high\"",
                3,
                &["extractor.person.config.threshold"],
            ),
            case(
                "unknown runtime",
                classes,
                "runtime = \"tracked\"",
                3,
                &["extractor.person.config.runtime", "auto, tract or ort"],
            ),
            case(
                "rule names no extractor of the path",
                when,
                "\"persn.count >= 1\"",
                3,
                &["fusion.visitor.config.rule[0].when", "`person`"],
            ),
            case(
                "rule names no signal of the plugin",
                when,
                "\"person.cuont >= 1\"",
                3,
                &["rule[0].when", "`count`"],
            ),
            case(
                "rule names no zone",
                when,
                r#"'person["count@dor"] >= 1'"#,
                3,
                &["rule[0].when", "did you mean `door`?"],
            ),
            case(
                "rule is no CEL",
                when,
                "\"person.count >=\"",
                3,
                &["visualpath.toml:24:8", "rule[0].when"],
            ),
            case(
                "rule mixes int and double",
                when,
                "\"person.count + 1 > 2.0\"",
                3,
                &["rule[0].when", "1.0"],
            ),
            case(
                "rule gives no truth",
                when,
                "\"person.count\"",
                3,
                &["rule[0].when", "true or false"],
            ),
            case(
                "score is no number",
                "score = \"person.max_confidence\"",
                "score = \"'high'\"",
                3,
                &["rule[0].score", "number"],
            ),
            case(
                "an isolation that the plugin can't have",
                "isolation = \"inline\"",
                "isolation = \"venv\"",
                3,
                &["extractor.person.isolation", "linked into this program"],
            ),
        ],
    );
}

#[test]
fn models_and_runtimes_that_cannot_be_had_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let video = cut_vtest(dir.path(), 0.0, 0.5);
    let models = dir.path().join("state/models");
    std::fs::create_dir_all(&models).unwrap();
    let card = std::fs::read_to_string(asset("models/ssd-oidv4.toml")).unwrap();
    let model = std::fs::read(asset("models/ssd-oidv4.onnx")).unwrap();
    let plant = |name: &str, bytes: &[u8]| {
        let card = card.replace("ssd-oidv4", name);
        std::fs::write(models.join(format!("{name}.toml")), card).unwrap();
        std::fs::write(models.join(format!("{name}.onnx")), bytes).unwrap();
    };
    plant("truncated", &model[..model.len() / 2]);
    let mut flipped = model.clone();
    flipped[model.len() / 2] ^= 1;
    plant("flipped", &flipped);
    plant("text", b"this is no model");
    std::fs::write(
        models.join("alone.toml"),
        card.replace("ssd-oidv4", "alone"),
    )
    .unwrap();
    let config = |model: &str| format!("model = \"{model}\"\nclasses =");
    check(
        dir.path(),
        &video,
        vec![
            case(
                "no such model",
                "classes =",
                config("ssd-oidv5"),
                6,
                &["ssd-oidv5", "ssd-oidv4", "cross/setup.sh"],
            ),
            case(
                "truncated model",
                "classes =",
                config("truncated"),
                6,
                &["truncated.onnx", "bytes"],
            ),
            case(
                "one flipped bit",
                "classes =",
                config("flipped"),
                6,
                &["flipped.onnx", "sha256", "da6612d7"],
            ),
            case(
                "text instead of a model",
                "classes =",
                config("text"),
                6,
                &["text.onnx"],
            ),
            case(
                "a card without its file",
                "classes =",
                config("alone"),
                6,
                &["alone.onnx"],
            ),
        ],
    );
    // An ONNX Runtime that is none: an error if asked for, tract if not.
    let fake = dir.path().join("libonnxruntime.so");
    std::fs::write(&fake, "not a library").unwrap();
    let fake = fake.to_str().unwrap();
    let with = |runtime: &str| {
        let file = Config::demo(video.clone(), "off").write(dir.path());
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            text.replace("classes =", &format!("runtime = \"{runtime}\"\nclasses =")),
        )
        .unwrap();
        run_env(
            dir.path(),
            &["run", "--json", "-c", "visualpath.toml"],
            &[("ORT_DYLIB_PATH", fake)],
        )
    };
    let out = with("ort");
    assert_eq!(out.code, 6, "{}", out.stderr);
    assert!(out.stderr.contains(fake), "{}", out.stderr);
    let out = with("auto");
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.stderr.contains("tract"),
        "it says what runs instead: {}",
        out.stderr
    );
}

fn video_case(dir: &Path, video: PathBuf, exit: i32, says: &[&str], frames: Option<u64>) {
    let name = video.display().to_string();
    Config::demo(video, "off").write(dir);
    let out = run(dir, &["run", "--json", "-c", "visualpath.toml"]);
    assert_eq!(out.code, exit, "{name}: {}", out.stderr);
    for says in says {
        assert!(
            out.stderr.contains(says),
            "{name}: {says:?} is not in\n{}",
            out.stderr
        );
    }
    assert!(!out.stderr.contains("panicked"), "{name}: {}", out.stderr);
    if let Some(frames) = frames {
        let summary = out
            .of("summary")
            .next()
            .expect("what was good is worked off and summed up");
        assert!(
            summary["frames"].as_u64().unwrap() >= frames,
            "{name}: {summary}"
        );
    }
}

#[test]
fn videos_that_are_none_or_are_damaged_give_their_good_frames_then_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let short = cut_vtest(d, 0.0, 4.0);
    let bytes = std::fs::read(&short).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = d.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    video_case(
        d,
        d.join("missing.avi"),
        4,
        &["missing.avi", "no such file"],
        None,
    );
    video_case(d, write("empty.avi", b""), 4, &["empty.avi", "empty"], None);
    video_case(
        d,
        write("text.mp4", b"this is a text, not a video\n"),
        4,
        &["text.mp4"],
        None,
    );
    std::fs::create_dir(d.join("folder.avi")).unwrap();
    video_case(
        d,
        d.join("folder.avi"),
        4,
        &["folder.avi", "directory"],
        None,
    );
    video_case(
        d,
        write("truncated.avi", &bytes[..bytes.len() * 3 / 4]),
        4,
        &["truncated.avi"],
        Some(20),
    );
    let sound = d.join("sound.wav");
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-f",
            "lavfi",
            "-i",
            "sine=duration=1",
        ])
        .arg(&sound)
        .status()
        .unwrap();
    assert!(made.success());
    video_case(d, sound, 4, &["sound.wav", "without a video stream"], None);
    // Without ffmpeg the error says what to install.
    Config::demo(short, "off").write(d);
    let nothing = d.join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    let out = run_env(
        d,
        &["run", "--json", "-c", "visualpath.toml"],
        &[("PATH", nothing.to_str().unwrap())],
    );
    assert_eq!(out.code, 4, "{}", out.stderr);
    assert!(
        out.stderr.contains("ffmpeg") && out.stderr.contains("install"),
        "{}",
        out.stderr
    );
}

#[test]
fn state_broker_and_command_line_faults_have_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let video = cut_vtest(d, 0.0, 0.5);
    std::fs::write(d.join("file"), "").unwrap();
    check(
        d,
        &video,
        vec![
            case(
                "state_dir is a file",
                "state_dir = \"",
                format!("state_dir = \"{}/file/x\" #", d.display()),
                1,
                &["device.state_dir", "file/x"],
            ),
            case(
                "clip.dir outside",
                "[mqtt]",
                "[clip]\ndir = \"../elsewhere\"\n[mqtt]",
                3,
                &["clip.dir"],
            ),
            case(
                "scheme of no broker",
                "url = \"off\"",
                "url = \"http://localhost\"",
                3,
                &["mqtt.url", "mqtt://"],
            ),
            case(
                "embedded broker on a public address",
                "url = \"off\"",
                "url = \"embedded://0.0.0.0:0\"",
                3,
                &["mqtt.url", "loopback"],
            ),
        ],
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    Config::demo(video, format!("embedded://127.0.0.1:{port}")).write(d);
    let out = run(d, &["run", "-c", "visualpath.toml"]);
    assert_eq!(out.code, 5, "{}", out.stderr);
    assert!(
        out.stderr.contains("127.0.0.1:0 for a free port"),
        "{}",
        out.stderr
    );
    let out = run(d, &["run", "-c", "nowhere.toml"]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    assert!(out.stderr.contains("nowhere.toml"), "{}", out.stderr);
    let out = run(d, &["runn"]);
    assert_eq!(out.code, 2, "{}", out.stderr);
    let out = run(d, &["config", "schema", "triger"]);
    assert_eq!(out.code, 2, "{}", out.stderr);
    let out = run(d, &["plugins", "test", "objekt", "--source", "x"]);
    assert_eq!(out.code, 6, "{}", out.stderr);
}

#[test]
fn a_broken_config_runs_the_last_good_one_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let file = Config::demo(cut_vtest(d, 0.0, 1.0), "off").write(d);
    let good = run(d, &["run", "--json", "-c", "visualpath.toml"]);
    assert_eq!(good.code, 0, "{}", good.stderr);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("realtime", "realtim")).unwrap();
    let out = run(d, &["run", "--json", "-c", "visualpath.toml"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.stderr
            .contains("visualpath.toml:7:1: error: source.yard.realtim"),
        "{}",
        out.stderr
    );
    assert!(
        out.stderr.contains("did you mean `realtime`?"),
        "{}",
        out.stderr
    );
    assert!(out.stderr.contains("last good config"), "{}", out.stderr);
    assert_eq!(
        out.of("summary").next().unwrap()["frames"],
        good.of("summary").next().unwrap()["frames"]
    );
    // An override of a key wins over the file's.
    let out = run_env(
        d,
        &["validate", "-c", "visualpath.toml"],
        &[("VISUALPATH__SOURCE__YARD__URI", "x")],
    );
    assert_eq!(out.code, 3, "validate does not fall back: {}", out.stderr);
}
