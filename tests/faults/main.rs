//! Faults in real processes: what happens when the appliance is killed at any moment.

use std::process::Command;

use serde_json::Value;
use visualpath_tests::{Config, Running, cut_vtest};

/// SIGKILL at random moments of a run that writes clips: every clip that was announced as ready is
/// whole (its sum is right and it decodes), and the next start works. (Making unfinished clips
/// whole again is a later step.)
#[test]
fn killed_at_any_moment_no_announced_clip_is_broken_and_it_starts_again() {
    let soak = std::env::var_os("VISUALPATH_SOAK").is_some();
    let kills = if soak { 1000 } else { 12 };
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::demo(cut_vtest(dir.path(), 0.0, 10.0), "off");
    config.rule = "for_ms = 0\nrelease_ms = 0\ncooldown_ms = 0\npre_s = 0.3\npost_s = 0.3".into();
    config.when = "\"person.max_confidence > 0.58\"";
    let file = config.write(dir.path());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut ready = 0;
    for round in 0..kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let after = 1 + seed % 12;
        let mut run = Running::start(&file);
        let mut events: Vec<Value> = vec![];
        for line in &mut run.lines {
            // A line may be cut off by the kill.
            let Ok(event) = serde_json::from_str::<Value>(&line.unwrap()) else { break };
            assert_ne!(event["event"], "summary", "it must not end before it is killed");
            events.push(event);
            if events.len() as u64 > after {
                run.child.kill().unwrap();
                break;
            }
        }
        run.finish();
        for clip in events.iter().filter(|e| e["event"] == "clip") {
            assert_eq!(clip["state"], "ready", "round {round}: {clip}");
            let path = dir.path().join("state").join(clip["file"].as_str().unwrap());
            let sum = Command::new("sha256sum").arg(&path).output().unwrap();
            let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
            assert!(sum.starts_with(clip["sha256"].as_str().unwrap()), "round {round}: {clip} {sum}");
            let decoded = Command::new("ffmpeg")
                .args(["-v", "error", "-xerror", "-nostdin", "-i"])
                .arg(&path)
                .args(["-f", "null", "-"])
                .output()
                .unwrap();
            assert!(decoded.status.success() && decoded.stderr.is_empty(), "round {round}: {clip}");
            ready += 1;
        }
    }
    assert!(ready > kills / 2, "clips were being written when it was killed: {ready}");
}
