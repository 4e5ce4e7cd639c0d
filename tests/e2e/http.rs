//! The appliance over HTTP: status, metrics, clips.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use visualpath::web::metrics::{Kind, METRICS};
use visualpath_tests::{Config, Mosquitto, Running, Subscriber, asset, cut_vtest, run};

const GUARD: Duration = Duration::from_secs(120);
const ANY_PORT: &str = "[web]\nlisten = \"127.0.0.1:0\"\n";

/// An answer: status, headers by lower-case name, body.
struct Reply(u16, BTreeMap<String, String>, Vec<u8>);

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.2)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.2)))
    }
}

fn ask(port: u16, method: &str, path: &str, header: &str, body: &str) -> Reply {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{header}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Reply(
        status.parse().unwrap(),
        headers.collect(),
        bytes[end + 4..].to_vec(),
    )
}

fn get(port: u16, path: &str) -> Reply {
    ask(port, "GET", path, "", "")
}

/// Asks for the status until it is as wanted.
fn status_when(port: u16, wanted: impl Fn(&Value) -> bool) -> Value {
    let patience = Instant::now() + GUARD;
    loop {
        let reply = get(port, "/api/v1/status");
        assert_eq!(reply.0, 200);
        let status = reply.json();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < patience, "{status:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The first line, which says where HTTP is.
fn ready(run: &mut Running) -> (Value, u16) {
    let line = run.lines.next().expect("a line").unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let port = ready["web"]["port"].as_u64().unwrap_or(0);
    (ready, u16::try_from(port).unwrap())
}

fn stop(run: Running) {
    let pid = run.child.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    let (code, log) = run.finish();
    assert_eq!(code, 0, "{log}");
}

/// Somebody is always in the picture: it fires again and again, on a video without an end.
fn busy(dir: &Path) -> Config {
    let mut config = Config::demo(asset("videos/vtest.avi"), "embedded://127.0.0.1:0");
    config.realtime = true;
    config.isolation = "thread";
    config.when = "\"person.count >= 1\"";
    config.rule =
        "for_ms = 0\nrelease_ms = 0\ncooldown_ms = 500\npre_s = 0.5\npost_s = 0.5".to_owned();
    config.more = ANY_PORT.to_owned();
    assert!(dir.is_dir());
    config
}

/// Names and labels of the samples, with their numbers; a line that is neither sample nor comment
/// of the text format 0.0.4 is a failure.
fn samples(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let mut all = vec![];
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').unwrap();
            assert!(["HELP", "TYPE"].contains(&word), "{line}");
            assert!(rest.starts_with("visualpath_"), "{line}");
            continue;
        }
        let (series, number) = line.rsplit_once(' ').unwrap();
        let number: f64 = number.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        let (name, labels) = match series.split_once('{') {
            None => (series, BTreeMap::new()),
            Some((name, labels)) => {
                let inside = labels.strip_suffix('}').unwrap();
                // None of this run's values has a quote or a comma in it.
                let pairs = inside.split("\",").map(|pair| {
                    let (label, value) = pair.split_once("=\"").unwrap();
                    (label.to_owned(), value.trim_end_matches('"').to_owned())
                });
                (name, pairs.collect())
            }
        };
        all.push((name.to_owned(), labels, number));
    }
    assert!(text.ends_with('\n'));
    all
}

#[test]
fn a_run_tells_its_rings_and_every_metric_and_gives_its_clips() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Running::start(&busy(dir.path()).write(dir.path()));
    let (ready, port) = ready(&mut run);
    assert_eq!(ready["web"]["host"], "127.0.0.1", "{ready}");
    let clip = (&mut run.lines)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .find(|event| event["event"] == "clip" && event["state"] == "ready")
        .expect("a clip");

    let status = status_when(port, |s| {
        let source = &s["sources"][0];
        source["fps"].is_number() && source["ring"]["bytes_per_s"].is_number()
    });
    let schema = visualpath::pipeline::status::schema();
    let faults: Vec<String> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(&status)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert_eq!(faults, Vec::<String>::new());
    let source = &status["sources"][0];
    assert_eq!(
        (&source["source"], &source["online"]),
        (&json!("yard"), &json!(true))
    );
    let ring = &source["ring"];
    assert_eq!(ring["budget_bytes"], 64 << 20);
    assert_eq!(ring["short"], Value::Null, "64 MiB hold half a second");
    for positive in ["held_ms", "bytes", "packets", "bytes_per_s"] {
        assert!(ring[positive].as_i64().unwrap() > 0, "{positive}: {ring}");
    }
    let oldest = ring["oldest_ns"].as_i64().unwrap();
    assert_eq!(
        ring["oldest_ms"].as_i64().unwrap(),
        oldest.div_euclid(1_000_000)
    );
    assert_eq!(source["extractors"][0]["status"], "running", "{source}");
    assert!(status["clips"]["ready"].as_u64().unwrap() >= 1);
    assert!(status["clips"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["mqtt"]["connected"], true);
    assert_eq!(get(port, "/healthz").0, 200);
    assert_eq!(get(port, "/readyz").0, 200, "{}", status["problems"]);

    let metrics = get(port, "/metrics");
    assert!(metrics.1["content-type"].contains("version=0.0.4"));
    let text = String::from_utf8(metrics.2).unwrap();
    let samples = samples(&text);
    for metric in METRICS {
        let names: &[&str] = match metric.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in names {
            let name = format!("{}{suffix}", metric.name);
            let mut mine = samples.iter().filter(|(n, ..)| *n == name).peekable();
            assert!(mine.peek().is_some(), "{name} was not emitted:\n{text}");
            for (_, labels, number) in mine {
                assert!(number.is_finite() && *number >= 0.0, "{name} {number}");
                let mut known: Vec<&str> = labels.keys().map(String::as_str).collect();
                known.retain(|label| *label != "le" || *suffix != "_bucket");
                let mut told = metric.labels.to_vec();
                told.sort_unstable();
                assert_eq!(known, told, "{name}");
            }
        }
        let head = format!("# TYPE {} {}\n", metric.name, metric.kind.as_str());
        assert_eq!(text.matches(&head).count(), 1, "{head}");
    }
    let number = |name: &str| samples.iter().find(|(n, ..)| n == name).unwrap().2;
    assert!(number("visualpath_ring_seconds") > 0.0);
    assert!(number("visualpath_frames_captured_total") >= source["frames"].as_f64().unwrap());
    assert_eq!(number("visualpath_worker_up"), 1.0);

    // The file, whole and in parts, as it is on the disk.
    let id = clip["id"].as_str().unwrap();
    let file = dir
        .path()
        .join("state")
        .join(clip["file"].as_str().unwrap());
    let bytes = std::fs::read(&file).unwrap();
    let path = format!("/api/v1/clips/{id}.mp4");
    let whole = get(port, &path);
    assert_eq!(
        (whole.0, whole.1["content-type"].as_str()),
        (200, "video/mp4")
    );
    assert!(whole.2 == bytes, "byte for byte");
    let mut parts = vec![];
    let third = bytes.len() / 3;
    for (from, to) in [(0, third), (third, 2 * third), (2 * third, bytes.len())] {
        let range = format!("Range: bytes={from}-{}\r\n", to - 1);
        let part = ask(port, "GET", &path, &range, "");
        assert_eq!(part.0, 206);
        parts.extend(part.2);
    }
    assert!(parts == bytes, "three ranges are the file");
    assert_eq!(get(port, "/api/v1/clips/019ab0c4-0000.mp4").0, 404);
    stop(run);
}

#[test]
fn a_clip_asked_for_over_http_is_the_file_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Running::start(&busy(dir.path()).write(dir.path()));
    let (_, port) = ready(&mut run);
    status_when(port, |s| {
        s["sources"][0]["ring"]["held_ms"].as_i64() > Some(3000)
    });
    let json = "Content-Type: application/json\r\n";
    let body = json!({"last_s": 2, "label": "asked", "wait": true}).to_string();
    let made = ask(port, "POST", "/api/v1/clips", json, &body);
    assert_eq!(made.0, 200, "{}", made.json());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/clips/{id}.mp4");
    assert_eq!(get(port, &path).0, 200);
    let list = get(port, "/api/v1/clips?label=asked").json();
    assert_eq!(list["clips"][0]["id"], id.as_str(), "{list}");
    assert_eq!(
        ask(port, "POST", &format!("/api/v1/clips/{id}/pin"), "", "").0,
        200
    );
    assert_eq!(
        ask(port, "POST", &format!("/api/v1/clips/{id}/unpin"), "", "").0,
        200
    );
    assert_eq!(
        ask(port, "DELETE", &format!("/api/v1/clips/{id}"), "", "").0,
        200
    );
    assert_eq!(get(port, &path).0, 404);
    let wrong = ask(port, "POST", "/api/v1/clips", json, r#"{"last_s": -1}"#);
    assert_eq!(
        (wrong.0, &wrong.json()["error"]["code"]),
        (400, &json!("bad_args"))
    );
    stop(run);
}

#[test]
fn without_a_broker_clips_are_made_pinned_and_deleted_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = busy(dir.path());
    config.mqtt = "off".to_owned();
    let mut run = Running::start(&config.write(dir.path()));
    let (_, port) = ready(&mut run);
    status_when(port, |s| {
        s["sources"][0]["ring"]["held_ms"].as_i64() > Some(3000)
    });
    let json = "Content-Type: application/json\r\n";
    let make = |label: &str| {
        let body = json!({"last_s": 1, "label": label, "wait": true}).to_string();
        let made = ask(port, "POST", "/api/v1/clips", json, &body);
        assert_eq!(made.0, 200, "{}", made.json());
        made.json()["id"].as_str().unwrap().to_owned()
    };
    let (id, kept) = (make("asked"), make("kept"));
    let list = get(port, "/api/v1/clips?label=asked").json();
    assert_eq!(list["clips"][0]["id"], id.as_str(), "{list}");
    let path = format!("/api/v1/clips/{id}");
    let played = get(port, &format!("{path}.mp4?playable"));
    assert_eq!(played.0, 200, "this source's clips are H.264");
    let (pin, unpin) = (format!("{path}/pin"), format!("{path}/unpin"));
    assert_eq!(ask(port, "POST", &pin, "", "").0, 200);
    let refused = ask(port, "DELETE", &path, "", "");
    let code = &refused.json()["error"]["code"];
    assert_eq!((refused.0, code), (409, &json!("pinned")));
    assert_eq!(ask(port, "POST", &unpin, "", "").0, 200);
    assert_eq!(ask(port, "DELETE", &path, "", "").0, 200);
    assert_eq!(get(port, &format!("{path}.mp4")).0, 404);
    stop(run);

    // No rule wants clips any more; those there are can still be had.
    config.rule += "\nclip = false";
    let mut run = Running::start(&config.write(dir.path()));
    let (_, port) = ready(&mut run);
    let list = get(port, "/api/v1/clips?label=kept").json();
    assert_eq!(list["clips"][0]["id"], kept.as_str(), "{list}");
    assert_eq!(get(port, &format!("/api/v1/clips/{kept}.mp4")).0, 200);
    stop(run);
}

#[test]
fn a_ring_that_can_t_hold_the_pre_roll_says_by_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let file = dir.path().join("visualpath.toml");
    let text = format!(
        r#"schema = 1
[device]
id = "test"
state_dir = "{}"
[source.cam0]
uri = "synthetic:?width=640&height=360&fps=30&noise=30"
[extractor.motion]
plugin = "motion"
[path.yard]
source = "cam0"
extractors = ["motion"]
fusion = "never"
[fusion.never]
plugin = "rules"
[[fusion.never.config.rule]]
label = "never"
when = "motion.score > 2.0"
pre_s = 30.0
[clip]
ring_bytes = 1048576
gop_s = 0.5
[mqtt]
url = "mqtt://127.0.0.1:{}"
{ANY_PORT}"#,
        dir.path().join("state").display(),
        broker.port
    );
    std::fs::write(&file, text).unwrap();
    let mut run = Running::start(&file);
    let (_, port) = ready(&mut run);
    let status = status_when(port, |s| s["state"] == "degraded");
    let ring = &status["sources"][0]["ring"];
    let short = &ring["short"];
    assert_eq!(short["asked_ms"], 30_000, "{ring}");
    assert!(short["holds_ms"].as_i64().unwrap() < 30_000, "{ring}");
    assert!(short["needs_bytes"].as_u64().unwrap() > 1_048_576, "{ring}");
    assert_eq!(status["problems"][0]["code"], "ring_short", "{status:#}");
    let ready = get(port, "/readyz");
    assert_eq!((ready.0, ready.json()), (200, json!({"state": "degraded"})));
    let health = |topic: &str, text: &str| {
        let health: Value = serde_json::from_str(text).unwrap_or_default();
        topic.ends_with("/health") && health["sources"][0]["ring"]["short"]["asked_ms"] == 30_000
    };
    subscriber.until(|seen| seen.iter().any(|(t, p, _)| health(t, p)));
    stop(run);
}

#[test]
fn an_address_that_can_t_be_had_is_a_problem_and_the_appliance_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let mut config = Config::demo(cut_vtest(dir.path(), 17.0, 2.0), url);
    let address = taken.local_addr().unwrap();
    config.more = format!("[web]\nlisten = \"{address}\"\n");
    let file = config.write(dir.path());
    let out = run(dir.path(), &["run", "--json", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(out.events[0]["event"], "ready");
    assert!(out.events[0].get("web").is_none(), "{}", out.events[0]);
    let told = |topic: &str, text: &str| {
        let health: Value = serde_json::from_str(text).unwrap_or_default();
        topic.ends_with("/health")
            && health["problems"][0]["code"] == "web"
            && health["problems"][0]["subject"] == address.to_string()
    };
    subscriber.until(|seen| seen.iter().any(|(t, p, _)| told(t, p)));
}

#[test]
fn a_token_that_is_missing_or_can_be_guessed_is_a_config_fault() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let mut config = Config::demo(asset("videos/vtest.avi"), "off");
    config.more = format!(
        "[web]\nlisten = \"0.0.0.0:0\"\ntoken_file = \"{}\"\n",
        token.display()
    );
    let file = config.write(dir.path());
    let validate = || run(dir.path(), &["validate", "-c", file.to_str().unwrap()]);
    for (text, fault) in [
        (None, "can't be read"),
        (Some("short\n"), "16 are the least"),
        (Some("correct horse battery\n"), "without spaces"),
    ] {
        if let Some(text) = text {
            std::fs::write(&token, text).unwrap();
        }
        let out = validate();
        assert_eq!(out.code, 3, "{}", out.stderr);
        assert!(out.stderr.contains("web.token_file"), "{}", out.stderr);
        assert!(out.stderr.contains(fault), "{}", out.stderr);
    }
    std::fs::write(&token, "correct-horse-battery\n").unwrap();
    let out = validate();
    assert_eq!(out.code, 0, "{}", out.stderr);
}

#[test]
fn with_a_token_others_are_served_who_have_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "correct-horse-battery\n").unwrap();
    let mut config = busy(dir.path());
    let token = dir.path().join("token");
    config.more = format!("{ANY_PORT}token_file = \"{}\"\n", token.display());
    let mut run = Running::start(&config.write(dir.path()));
    let (_, port) = ready(&mut run);
    assert_eq!(get(port, "/api/v1/status").0, 401);
    assert_eq!(get(port, "/healthz").0, 200);
    let right = "Authorization: Bearer correct-horse-battery\r\n";
    assert_eq!(ask(port, "GET", "/api/v1/status", right, "").0, 200);
    stop(run);
}
