//! `visualpath init` end to end: the config it writes is short, valid, and runs.

use std::path::Path;

use serde_json::Value;
use visualpath_tests::{Mosquitto, Output, asset, cut_vtest, free_port, run_env};

fn init(dir: &Path, more: &[&str], env: &[(&str, &str)]) -> Output {
    let state = dir.join("state").display().to_string();
    let mut all = vec![("VISUALPATH__DEVICE__STATE_DIR", state.as_str())];
    all.extend(env);
    let mut args = vec!["init", "--json"];
    if !more.contains(&"--seconds") {
        args.extend(["--seconds", "3"]);
    }
    args.extend(more);
    let out = run_env(dir, &args, &all);
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    out
}

fn run_in(dir: &Path, args: &[&str]) -> Output {
    let state = dir.join("state").display().to_string();
    run_env(dir, args, &[("VISUALPATH__DEVICE__STATE_DIR", &state)])
}

#[test]
fn a_real_video_gets_a_config_of_20_lines_that_runs_and_fires() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start();
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    cut_vtest(dir.path(), 0.0, 10.0);
    let source = ["--source", "vtest-0-10.avi", "--broker", url.as_str()];
    let out = init(dir.path(), &source, &[]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report: Value = serde_json::from_str(&out.stdout).unwrap();
    let measured = &report["measured"];
    assert!(
        (8.0..12.5).contains(&measured["fps"].as_f64().unwrap()),
        "{report:#}"
    );
    let holds = measured["holds_fps"].as_f64().unwrap();
    let fps = measured["extractor_fps"].as_f64().unwrap();
    assert!(fps <= holds && fps <= 10.5, "{report:#}");
    assert!(
        measured["model"].as_str().unwrap().contains(" on "),
        "{report:#}"
    );

    let file = dir.path().join("visualpath.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().count() <= 20, "{text}");
    assert!(text.contains(&url), "{text}");
    let valid = run_in(dir.path(), &["validate"]);
    assert_eq!(valid.code, 0, "{}\n{text}", valid.stderr);

    // People walk through the first ten seconds.
    assert!(report["seen"].as_u64().unwrap() >= 1, "{report:#}");
    let jpeg = std::fs::read(dir.path().join("snapshot.jpg")).unwrap();
    let (width, height, bgr) = visualpath_media::jpeg::decode_bgr(&jpeg).unwrap();
    assert_eq!((width, height), (768, 576));
    let green = |p: &[u8]| p[1] > 190 && p[0] < 120 && p[2] < 70;
    let drawn = bgr.chunks(3).filter(|p| green(p)).count();
    assert!(drawn > 200, "{drawn} pixels of a box");
    let original = bgr.len() / 3 - drawn;
    assert!(original > bgr.len() / 6, "not only boxes");

    let ran = run_in(dir.path(), &["run", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.of("trigger").count() >= 1, "{}", ran.stdout);

    // What is there stays, unless told otherwise.
    let again = init(dir.path(), &source, &[]);
    assert_eq!(again.code, 1, "{}", again.stderr);
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let again = init(dir.path(), &[&source[..], &["--force"]].concat(), &[]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let left: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "nothing is left: {left:?}");
}

#[test]
fn what_can_not_be_had_is_said_with_its_exit_code_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    cut_vtest(dir.path(), 0.0, 0.5);
    let video = ["--source", "vtest-0-0.5.avi"];
    let nobody = format!("mqtt://127.0.0.1:{}", free_port());
    let empty = tempfile::tempdir().unwrap();
    let nowhere = empty.path().display().to_string();
    let no_models = [
        ("XDG_CACHE_HOME", nowhere.as_str()),
        ("VISUALPATH_MODEL_PATH", ""),
    ];
    // Arguments, environment, exit code, what it says.
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);
    let cases: [Case<'_>; 6] = [
        (&["--broker", &nobody], &[], 5, "leave --broker out"),
        (&["--broker", "mqqt://a"], &[], 5, "did you mean mqtt://?"),
        (&["--broker", "off"], &no_models, 6, "cross/setup.sh"),
        (
            &["--broker", "off", "--source", "gone.mp4"],
            &[],
            4,
            "gone.mp4",
        ),
        (
            &["--broker", "off", "--out", "no/such/dir.toml"],
            &[],
            1,
            "no/such",
        ),
        (
            &["--broker", "off", "--seconds", "0"],
            &[],
            2,
            "0.5 to 3600",
        ),
    ];
    for (more, env, exit, says) in cases {
        let mut args = more.to_vec();
        if !more.contains(&"--source") {
            args.extend(video);
        }
        let out = init(dir.path(), &args, env);
        assert_eq!(out.code, exit, "{more:?}: {}", out.stderr);
        assert!(out.stderr.contains(says), "{more:?}: {}", out.stderr);
        assert!(!dir.path().join("visualpath.toml").exists(), "{more:?}");
        assert!(!dir.path().join("snapshot.jpg").exists(), "{more:?}");
    }
    assert!(asset("models").exists());
}

#[test]
fn a_machine_without_cameras_is_told_to_name_a_source() {
    if super::devices::has_cameras() {
        println!("skipped: this machine has a camera");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = init(dir.path(), &[], &[]);
    assert_eq!(out.code, 4, "{}", out.stderr);
    assert!(out.stderr.contains("--source"), "{}", out.stderr);
}
