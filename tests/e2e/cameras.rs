//! Live sources in the whole appliance: programs that play cameras, lost and found again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use visualpath_media::source::{JpegSplitter, Piece};
use visualpath_tests::{Mosquitto, Running, Subscriber, run};

/// A program that writes JPEGs at the pace of a camera. `mark` is in its command line, to be found by.
fn camera(mark: &str) -> String {
    format!(
        "ffmpeg -v error -nostdin -re -f lavfi -i testsrc2=size=320x240:rate=15 -metadata comment={mark} \
         -c:v mjpeg -q:v 5 -f mjpeg pipe:1"
    )
}

/// Sources, each with motion and a rule that fires on its first picture.
fn config(dir: &Path, sources: &[(&str, String)], mqtt: &str, more: &str) -> PathBuf {
    let state = dir.join("state");
    let mut text = format!(
        "schema = 1\n[device]\nid = \"test\"\nstate_dir = \"{}\"\n[web]\nlisten = \"off\"\n[mqtt]\nurl = \"{mqtt}\"\n\
         [extractor.motion]\nplugin = \"motion\"\n\
         [path.p]\nsource = [{}]\nextractors = [\"motion\"]\nfusion = \"r\"\n\
         [fusion.r]\nplugin = \"rules\"\n[[fusion.r.config.rule]]\nlabel = \"seen\"\n\
         when = \"motion.score >= 0.0\"\nfor_ms = 0\npre_s = 1.0\npost_s = 2.0\n{more}\n",
        state.display(),
        sources
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(", "),
    );
    for (name, uri) in sources {
        text.push_str(&format!("[source.{name}]\nuri = '''{uri}'''\n"));
    }
    let file = dir.join("visualpath.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// The processes with this in their command line.
fn processes(mark: &str) -> Vec<i32> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&format!("comment={mark}")) {
            found.push(pid);
        }
    }
    found
}

fn kill(pid: i32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Number and time of each frame of `source` that the trace has, once it has `some`.
fn frames_of(trace: &Path, source: &str, some: usize) -> Vec<(i64, i64)> {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        // It is made with the first records that are written out.
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        let frames: Vec<(i64, i64)> = text
            .lines()
            // The last line may be half written.
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .filter(|r| r["record_type"] == "frame" && r["source"] == source)
            .map(|r| (r["frame_id"].as_i64().unwrap(), r["t_ns"].as_i64().unwrap()))
            .collect();
        if frames.len() >= some {
            return frames;
        }
        assert!(
            Instant::now() < patience,
            "{} of {some} frames",
            frames.len()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_camera_that_is_lost_says_so_comes_back_and_its_neighbour_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let mark = dir.path().file_name().unwrap().to_str().unwrap();
    let lost = format!("lost{}", mark.trim_start_matches('.'));
    let kept = format!("kept{}", mark.trim_start_matches('.'));
    let sources = [
        ("lost", format!("exec:{}", camera(&lost))),
        ("kept", format!("exec:{}", camera(&kept))),
    ];
    let trace = dir.path().join("trace.jsonl");
    let more = format!(
        "clip = false\n[observability]\nlevel = \"normal\"\n[[observability.sink]]\nkind = \"file\"\npath = \"{}\"",
        trace.display()
    );
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let run = Running::start(&config(dir.path(), &sources, &url, &more));
    let status = "visualpath/test/source/lost/status";
    let fired = |m: &[(String, String, bool)], source: &str| {
        m.iter().any(|(topic, payload, _)| {
            topic.ends_with("/trigger") && payload.contains(&format!("\"source\":\"{source}\""))
        })
    };
    let before = subscriber.until(|m| fired(m, "lost") && fired(m, "kept"));
    assert!(before.iter().any(|(t, p, _)| t == status && p == "online"));
    let some = 10;
    frames_of(&trace, "lost", some);
    for pid in processes(&lost) {
        kill(pid, "-KILL");
    }
    let seen_before = frames_of(&trace, "lost", 0).len();
    let gone = subscriber.until(|m| m.iter().any(|(t, p, _)| t == status && p == "offline"));
    let health = |m: &[(String, String, bool)]| {
        m.iter()
            .rev()
            .find(|(t, _, _)| t.ends_with("test/health"))
            .map(|(_, p, _)| p.clone())
    };
    let back = subscriber.until(|m| {
        m.iter().any(|(t, p, _)| t == status && p == "online")
            && health(m).is_some_and(|h| !h.contains("source_offline"))
    });
    let said = gone.iter().chain(&back);
    assert!(
        said.clone()
            .any(|(t, p, _)| t.ends_with("/health") && p.contains("source_offline")),
        "health names it: {gone:#?} {back:#?}"
    );
    frames_of(&trace, "lost", seen_before + some);
    assert!(
        !said
            .clone()
            .any(|(t, p, _)| t == "visualpath/test/source/kept/status" && p == "offline"),
        "the neighbour is not touched"
    );
    kill(i32::try_from(run.child.id()).unwrap(), "-TERM");
    let (mut run, mut summary) = (run, Value::Null);
    for line in &mut run.lines {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "summary" {
            summary = event;
        }
    }
    let (code, log) = run.finish();
    assert_eq!(code, 0, "{log}");
    let dropped = &summary["sources"]["kept"]["dropped"];
    for cause in ["disconnected", "missed", "driver_error", "undecodable"] {
        assert!(dropped[cause].is_null(), "{dropped}");
    }
    // Numbers and times of the one that was lost went on where they were.
    let mut last = (-1, -1);
    for now in frames_of(&trace, "lost", seen_before + some) {
        assert!(now.0 > last.0 && now.1 > last.1, "{last:?} {now:?}");
        last = now;
    }
    // Nothing of either is left.
    let patience = Instant::now() + Duration::from_secs(20);
    while !(processes(&lost).is_empty() && processes(&kept).is_empty()) {
        assert!(Instant::now() < patience, "a camera program is left behind");
        std::thread::yield_now();
    }
}

/// Runs until the first clip is there, then stops; gives the clip's message and file.
fn first_clip(dir: &Path, file: &Path) -> (Value, PathBuf) {
    let mut run = Running::start(file);
    let mut clip = Value::Null;
    for line in &mut run.lines {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "clip" && clip.is_null() {
            clip = event;
            kill(i32::try_from(run.child.id()).unwrap(), "-TERM");
        }
    }
    let (code, log) = run.finish();
    assert_eq!(code, 0, "{log}");
    assert_eq!(clip["state"], "ready", "{clip}\n{log}");
    let path = dir.join("state").join(clip["file"].as_str().unwrap());
    (clip, path)
}

fn jpegs(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut splitter = JpegSplitter::new(bytes);
    let (mut all, mut one) = (vec![], vec![]);
    loop {
        match splitter.next_piece(&mut one).unwrap() {
            Piece::Jpeg => all.push(one.clone()),
            Piece::Broken => {}
            Piece::End => return all,
        }
    }
}

#[test]
fn a_clip_of_an_encoding_camera_is_what_the_camera_sent_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let sent = dir.path().join("sent.mjpeg");
    let uri = format!("exec:sh -c '{} | tee {}'", camera("tee"), sent.display());
    let file = config(dir.path(), &[("cam0", uri)], "embedded://127.0.0.1:0", "");
    let text = std::fs::read_to_string(&file).unwrap();
    let port = visualpath_tests::free_port();
    std::fs::write(
        &file,
        text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")),
    )
    .unwrap();
    let (clip, path) = first_clip(dir.path(), &file);
    assert_eq!(clip["codec"], "mjpeg", "{clip}");
    let out = dir.path().join("out.mjpeg");
    let demuxed = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-ignore_editlist", "1", "-i"])
        .arg(&path)
        .args(["-c", "copy", "-f", "mjpeg"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(demuxed.status.success(), "{demuxed:?}");
    assert!(demuxed.stderr.is_empty(), "{demuxed:?}");
    let sent: HashSet<Vec<u8>> = jpegs(&std::fs::read(&sent).unwrap()).into_iter().collect();
    let kept = jpegs(&std::fs::read(&out).unwrap());
    assert_eq!(kept.len() as u64, clip["frames"].as_u64().unwrap());
    assert!(kept.len() >= 30, "2 s of post-roll: {}", kept.len());
    for jpeg in &kept {
        assert!(sent.contains(jpeg), "a picture the camera never sent");
    }
}

#[test]
fn what_is_private_is_in_no_clip_and_turns_pass_through_off() {
    let dir = tempfile::tempdir().unwrap();
    let port = visualpath_tests::free_port();
    let mask = "[mask.window]\nsource = \"cam0\"\nkind = \"privacy\"\n\
                polygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]";
    let uri = format!("exec:{}", camera("mask"));
    let url = format!("embedded://127.0.0.1:{port}");
    let file = config(dir.path(), &[("cam0", uri)], &url, mask);
    let said = run(dir.path(), &["validate", "-c", file.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(
        all.contains("mask.window"),
        "validate says what it costs: {all}"
    );
    let (clip, path) = first_clip(dir.path(), &file);
    assert_eq!(clip["codec"], "h264", "{clip}");
    let raw = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(&path)
        .args(["-f", "rawvideo", "-pix_fmt", "gray", "pipe:1"])
        .output()
        .unwrap();
    assert!(raw.status.success(), "{raw:?}");
    let frames = raw.stdout.chunks_exact(320 * 240);
    assert!(frames.len() >= 30);
    for frame in frames {
        // Two pixels of the edge belong to a block of the encoder that has both in it.
        let hidden = frame.chunks_exact(320).flat_map(|row| &row[..152]);
        assert!(hidden.clone().all(|p| *p < 24), "{:?}", hidden.max());
        let shown = frame.chunks_exact(320).flat_map(|row| &row[168..]);
        assert!(
            shown.filter(|p| **p > 60).count() > 1000,
            "the rest is seen"
        );
    }
}
