//! A rate limit on a real file.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use visualpath_core::{MonotonicClock, Name};
use visualpath_frames::{FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::source::{SourceEvent, SourceOptions, StopFlag, open};

/// Identity and time of every frame at a rate limit.
fn frames(file: &Path, fps: Option<f64>) -> Vec<(u64, i64)> {
    let mut opts = SourceOptions::new(Name::new("cam0").unwrap(), file.to_str().unwrap());
    opts.fps = fps;
    let mut source = open(&opts, Arc::new(MonotonicClock::new())).unwrap();
    let native = source.info().layout;
    let spec = PoolSpec {
        pool_id: 1,
        slots: 2,
        native,
        native_room: 0,
        views: vec![],
    };
    let pool = FramePool::memfd(&spec, Arc::new(Converter::new())).unwrap();
    let mut frames = vec![];
    loop {
        match source.next(&pool, &StopFlag::new()).unwrap() {
            SourceEvent::Frame(f) => frames.push((f.meta().frame_id, f.meta().t_ns)),
            SourceEvent::End(_) => return frames,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn twelve_twenty_and_twenty_five_of_thirty_come_out_as_asked_with_their_own_times() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thirty.mp4");
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=64x48:rate=30:duration=20",
        ])
        .args(["-c:v", "mpeg4"])
        .arg(&file)
        .status()
        .expect("ffmpeg is missing: run cross/setup.sh first");
    assert!(made.success());
    let all = frames(&file, None);
    assert_eq!(all.len(), 600);
    for fps in [12_usize, 20, 25, 30] {
        let kept = frames(&file, Some(fps as f64));
        assert!(
            kept.len().abs_diff(fps * 20) <= 1,
            "{fps} of 30: {} in 20 s",
            kept.len()
        );
        // Dense numbers, times of the file.
        assert!(kept.iter().enumerate().all(|(i, (id, _))| *id == i as u64));
        assert!(
            kept.iter()
                .all(|(_, t)| all.iter().any(|(_, own)| own == t))
        );
        // No drift: every second has its share.
        for second in 0..20_i64 {
            let of = |(_, t): &&(u64, i64)| t / 1_000_000_000 == second;
            assert!(
                kept.iter().filter(of).count().abs_diff(fps) <= 1,
                "{fps}, second {second}"
            );
        }
    }
}
