//! Faults in real processes: what happens when the appliance is killed at any moment.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

mod account;
mod disk_full;
mod killed;
mod power;
mod volume;

use std::process::Command;

use serde_json::Value;
use visualpath_tests::{Config, Running, cut_vtest};

/// SIGKILL at random moments of a run that writes clips: every clip that was announced as ready is
/// whole (its sum is right and it decodes), and the next start works. With a real model, a real video
/// and no pace; what becomes of the clips that were being written is told in `killed.rs`.
#[test]
fn killed_at_any_moment_no_announced_clip_is_broken_and_it_starts_again() {
    let soak = std::env::var_os("VISUALPATH_SOAK").is_some();
    let kills = if soak { 1000 } else { 50 };
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
        // After a line, and then at any moment: while packets, fragments, renames are under way.
        let (after, more_ms) = (seed % 9, (seed >> 8) % 150);
        let mut run = Running::start(&file);
        let mut events: Vec<Value> = vec![];
        while events.len() as u64 <= after
            && let Some(line) = run.lines.next()
        {
            events.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(more_ms));
        run.child.kill().unwrap();
        // What it said before it was killed; the last line may be cut off.
        events.extend(
            run.lines
                .by_ref()
                .map_while(|l| serde_json::from_str(&l.ok()?).ok()),
        );
        run.finish();
        for clip in events.iter().filter(|e| e["event"] == "clip") {
            if interrupted(clip) {
                continue;
            }
            assert_eq!(clip["state"], "ready", "round {round}: {clip}");
            let path = dir
                .path()
                .join("state")
                .join(clip["file"].as_str().unwrap());
            let sum = Command::new("sha256sum").arg(&path).output().unwrap();
            let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
            assert!(
                sum.starts_with(clip["sha256"].as_str().unwrap()),
                "round {round}: {clip} {sum}"
            );
            let decoded = Command::new("ffmpeg")
                .args(["-v", "error", "-xerror", "-nostdin", "-i"])
                .arg(&path)
                .args(["-f", "null", "-"])
                .output()
                .unwrap();
            assert!(
                decoded.status.success() && decoded.stderr.is_empty(),
                "round {round}: {clip}"
            );
            ready += 1;
        }
    }
    assert!(
        ready > kills / 4,
        "clips were being written when it was killed: {ready}"
    );
    // And it starts again, on what was left.
    let out = visualpath_tests::run(dir.path(), &["run", "--json", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.of("clip")
            .all(|c| c["state"] == "ready" || interrupted(c))
    );
}

/// Asked for by a run that was killed before a picture of it was on the disk.
fn interrupted(clip: &Value) -> bool {
    let reason = clip["reason"].as_str().unwrap_or_default();
    clip["state"] == "failed" && reason.contains("killed")
}
