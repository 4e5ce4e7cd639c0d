//! `visualpath doctor` on configs that are good, and on each fault made for real.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;
use visualpath_tests::{
    Config, Mosquitto, Output, Subscriber, asset, cut_vtest, free_port, run_env,
};

fn doctor(dir: &Path, more: &[&str], env: &[(&str, &str)]) -> (Output, Value) {
    let mut args = vec!["doctor", "-c", "visualpath.toml", "--json"];
    args.extend(more);
    let out = run_env(dir, &args, env);
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    let report = serde_json::from_str(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}\n{}", out.stdout, out.stderr));
    (out, report)
}

/// The findings with this code.
fn of<'a>(report: &'a Value, code: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().unwrap();
    all.iter().filter(|f| f["code"] == code).collect()
}

fn faults(report: &Value) -> Vec<&str> {
    let all = report["findings"].as_array().unwrap();
    all.iter()
        .filter(|f| f["severity"] == "fault")
        .map(|f| f["code"].as_str().unwrap())
        .collect()
}

#[test]
fn a_good_config_has_no_fault_a_plan_and_a_message_at_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let mut config = Config::demo(cut_vtest(dir.path(), 0.0, 10.0), url);
    config.realtime = true;
    config.write(dir.path());
    let (out, report) = doctor(dir.path(), &[], &[]);
    assert_eq!(faults(&report), Vec::<&str>::new(), "{report:#}");
    assert_eq!(out.code, 0, "{}", out.stderr);
    for code in [
        "config_valid",
        "state_dir",
        "broker",
        "source",
        "program",
        "model",
        "ring",
        "memory",
        "h264_licence",
    ] {
        assert!(!of(&report, code).is_empty(), "{code}: {report:#}");
    }
    // How the board is judged depends on what else it does just now.
    for either in [["capacity", "capacity_short"], ["encoder", "encoder_slow"]] {
        let found: usize = either.iter().map(|c| of(&report, c).len()).sum();
        assert_eq!(found, 1, "{either:?}: {report:#}");
    }
    assert!(
        of(&report, "model")[0]["detail"]
            .as_str()
            .unwrap()
            .contains("ssd-oidv4")
    );
    let plan = &report["plan"][0];
    assert_eq!(plan["source"], "yard");
    let fps = plan["fps"].as_f64().unwrap();
    assert!((8.0..12.5).contains(&fps), "{plan}");
    let person = &plan["extractors"][0];
    assert!(person["look_ms"].as_f64().unwrap() > 0.0, "{plan}");
    assert!(person["looks"].as_u64().unwrap() >= 1, "{plan}");
    let pool = plan["pool_bytes"].as_u64().unwrap();
    assert!(pool > 768 * 576 * 3 / 2 * 10, "{plan}");
    assert!(plan["ring_s"].as_f64().unwrap() > 60.0, "{plan}");
    // A running appliance of this device is not told to be offline.
    let seen = subscriber.until(|m| !m.is_empty());
    let topics: Vec<&str> = seen.iter().map(|(t, _, _)| t.as_str()).collect();
    assert_eq!(topics, ["visualpath/test/doctor"]);
    assert!(!seen[0].2, "not retained");
}

/// A fault made for real, the code it must get, and words that its cure must have.
struct Fault {
    name: &'static str,
    /// Replaced in the config's text.
    replace: (&'static str, String),
    env: Vec<(&'static str, String)>,
    exit: i32,
    code: &'static str,
    says: &'static str,
}

#[test]
fn each_fault_is_found_by_its_code_with_a_cure() {
    let dir = tempfile::tempdir().unwrap();
    let video = cut_vtest(dir.path(), 0.0, 0.5);
    let classes = "classes = [\"person\"]";
    let state = format!("state_dir = \"{}\"", dir.path().join("state").display());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let damaged = damaged_models(dir.path());
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    full_quota(&dir.path().join("state"));
    let mqtt = "url = \"off\"";
    let fault = |name, replace: (&'static str, String), exit, code, says| Fault {
        name,
        replace,
        env: vec![],
        exit,
        code,
        says,
    };
    let as_is = || ("schema = 1", "schema = 1".to_owned());
    let faults = [
        fault(
            "no broker",
            (mqtt, format!("url = \"mqtt://127.0.0.1:{}\"", free_port())),
            1,
            "broker_unreachable",
            "start the broker",
        ),
        fault(
            "a broker with other users",
            (mqtt, format!("url = \"mqtt://127.0.0.1:{}\"", answers(5))),
            1,
            "broker_refused",
            "mqtt.username",
        ),
        fault(
            "a broker that takes nothing",
            (mqtt, format!("url = \"mqtt://127.0.0.1:{}\"", answers(0))),
            1,
            "broker_silent",
            "log",
        ),
        fault(
            "no room for the embedded broker",
            (
                mqtt,
                format!(
                    "url = \"embedded://127.0.0.1:{}\"",
                    taken.local_addr().unwrap().port()
                ),
            ),
            1,
            "broker_port_taken",
            "another port",
        ),
        fault(
            "the state directory is a file",
            (
                "state_dir = ",
                format!("state_dir = \"{}/x\" #", video.display()),
            ),
            1,
            "state_dir_unwritable",
            "device.state_dir",
        ),
        fault(
            "a file system that nobody can write to",
            (
                "state_dir = ",
                "state_dir = \"/proc/visualpath\" #".to_owned(),
            ),
            1,
            "state_dir_unwritable",
            "device.state_dir",
        ),
        fault(
            "the quota is used up",
            (
                "[mqtt]",
                "[clip]\nquota_bytes = 16777216\n[mqtt]".to_owned(),
            ),
            0,
            "quota_full",
            "clip.quota_bytes",
        ),
        fault(
            "no such model",
            (classes, "model = \"no-such-model\"".to_owned()),
            1,
            "model_missing",
            "cross/setup.sh",
        ),
        Fault {
            env: vec![("VISUALPATH_MODEL_PATH", damaged.display().to_string())],
            ..fault(
                "a damaged model",
                as_is(),
                1,
                "model_damaged",
                "fetch it again",
            )
        },
        Fault {
            env: vec![("ORT_DYLIB_PATH", "/no/such/library.so".to_owned())],
            ..fault(
                "no ONNX Runtime",
                as_is(),
                0,
                "runtime_fallback",
                "libonnxruntime",
            )
        },
        Fault {
            env: vec![("ORT_DYLIB_PATH", "/no/such/library.so".to_owned())],
            ..fault(
                "ONNX Runtime insisted on",
                (classes, "runtime = \"ort\"".to_owned()),
                1,
                "runtime_missing",
                "auto",
            )
        },
        Fault {
            env: vec![("PATH", empty.display().to_string())],
            ..fault(
                "no ffmpeg",
                as_is(),
                1,
                "program_missing",
                "apt install ffmpeg",
            )
        },
        fault(
            "no such video",
            (".avi\"", ".gone\"".to_owned()),
            1,
            "source_missing",
            "uri",
        ),
        fault(
            "an unknown key",
            ("realtime", "realtme".to_owned()),
            1,
            "config_invalid",
            "realtime",
        ),
        fault(
            "a rule about a signal that is none",
            ("person[\"count@door\"]", "person.cuont".to_owned()),
            1,
            "config_invalid",
            "count",
        ),
    ];
    for f in faults {
        let file = Config::demo(video.clone(), "off").write(dir.path());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&state), "{text}");
        assert!(text.contains(f.replace.0), "{}: nothing to replace", f.name);
        std::fs::write(&file, text.replacen(f.replace.0, &f.replace.1, 1)).unwrap();
        let env: Vec<(&str, &str)> = f.env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let (out, report) = doctor(dir.path(), &["--quick"], &env);
        assert_eq!(out.code, f.exit, "{}: {report:#}", f.name);
        let found = of(&report, f.code);
        assert!(!found.is_empty(), "{}: no {}: {report:#}", f.name, f.code);
        let told = format!("{} {}", found[0]["do"], found[0]["detail"]);
        assert!(told.contains(f.says), "{}: {told}", f.name);
        assert_ne!(found[0]["do"], Value::Null, "{}: a cure", f.name);
        assert_eq!(
            report["faults"].as_u64().unwrap() > 0,
            f.exit == 1,
            "{}",
            f.name
        );
    }
}

/// A broker that answers CONNECT with this code (MQTT 3.1.1, 3.2.2.3) and nothing else, for one
/// client.
fn answers(code: u8) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut buffer = [0; 512];
        assert!(client.read(&mut buffer).unwrap() > 0);
        client.write_all(&[0x20, 2, 0, code]).unwrap();
        // Until the other side has given up.
        while client.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    port
}

/// A copy of the default model with one bit turned.
fn damaged_models(dir: &Path) -> PathBuf {
    let models = dir.join("models");
    std::fs::create_dir(&models).unwrap();
    for file in std::fs::read_dir(asset("models")).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if !name.starts_with("ssd-oidv4") {
            continue;
        }
        let mut bytes = std::fs::read(file.path()).unwrap();
        if !name.ends_with(".toml") {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        std::fs::write(models.join(name), bytes).unwrap();
    }
    models
}

/// Clips of 17 MiB that take no room.
fn full_quota(state: &Path) {
    let day = state.join("clips/2026-01-01");
    std::fs::create_dir_all(&day).unwrap();
    let clip = std::fs::File::create(day.join("000000Z_a_b_12345678.mp4")).unwrap();
    clip.set_len(17 << 20).unwrap();
}

#[test]
fn what_the_board_does_not_hold_is_advised_with_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::demo("synthetic:?width=320&height=240&fps=400".into(), "off");
    config.realtime = true;
    config.when = "\"person.count >= 1\"";
    config.rule = "pre_s = 600.0".to_owned();
    config.more = "[clip]\nring_bytes = 1048576".to_owned();
    config.write(dir.path());
    let (out, report) = doctor(dir.path(), &[], &[]);
    let short = of(&report, "capacity_short");
    assert_eq!(short.len(), 1, "{report:#}");
    let plan = &report["plan"][0]["extractors"][0];
    let (wants, holds) = (&plan["wants_fps"], &plan["holds_fps"]);
    let advised = plan["advised_fps"].as_f64().unwrap();
    assert!(holds.as_f64().unwrap() < wants.as_f64().unwrap(), "{plan}");
    assert!(advised <= holds.as_f64().unwrap() * 0.76, "{plan}");
    let cure = short[0]["do"].as_str().unwrap();
    assert!(
        cure.contains(&format!("extractor.person.fps = {advised}")),
        "{cure}"
    );
    let ring = of(&report, "ring_short");
    assert!(
        ring[0]["do"].as_str().unwrap().contains("clip.ring_bytes"),
        "{ring:?}"
    );
    assert_eq!(out.code, 0, "warnings are no faults: {report:#}");
    // Where less is asked it holds.
    let text = std::fs::read_to_string(dir.path().join("visualpath.toml")).unwrap();
    let text = text.replacen("plugin = \"object\"", "plugin = \"object\"\nfps = 0.5", 1);
    std::fs::write(dir.path().join("visualpath.toml"), text).unwrap();
    let (_, report) = doctor(dir.path(), &[], &[]);
    assert!(of(&report, "capacity_short").is_empty(), "{report:#}");
    assert!(!of(&report, "capacity").is_empty(), "{report:#}");
}

#[test]
fn without_a_config_the_machine_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    if Path::new("/etc/visualpath/visualpath.toml").exists() {
        println!("skipped: this machine has a config");
        return;
    }
    let out = run_env(dir.path(), &["doctor"], &[]);
    assert!(out.stdout.contains("config_none"), "{}", out.stdout);
    assert!(out.stdout.contains("visualpath init"), "{}", out.stdout);
    assert!(out.stdout.contains("runtime"), "{}", out.stdout);
    let last = out.stdout.lines().last().unwrap();
    assert!(last.contains("fault") && last.contains("warning"), "{last}");
}
