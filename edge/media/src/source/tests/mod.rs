//! Real files through the real decoders.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

mod content;
mod contract;
mod damage;
mod jpegs;
mod pacing;
mod synthetic;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use visualpath_core::{
    ColorMatrix, ColorRange, ManualClock, MonotonicClock, NS_PER_MS, NS_PER_S, PixelFormat,
};
use visualpath_frames::PoolSpec;

use super::ffmpeg::{FfmpegPictures, Tools};
use super::*;
use crate::convert::Converter;

fn asset(path: &str) -> String {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let root = std::env::var_os("VISUALPATH_ASSETS")
        .map_or_else(|| cache.join("visualpath"), PathBuf::from);
    let file = root.join(path);
    assert!(
        file.is_file(),
        "{} is missing: run cross/setup.sh first",
        file.display()
    );
    file.to_str().unwrap().to_owned()
}

fn name() -> Name {
    Name::new("cam0").unwrap()
}

fn opened(opts: &SourceOptions) -> Box<dyn Source> {
    open(opts, Arc::new(MonotonicClock::new())).unwrap()
}

fn refused(uri: &str) -> SourceError {
    match open(
        &SourceOptions::new(name(), uri),
        Arc::new(ManualClock::default()),
    ) {
        Ok(source) => panic!("{uri} was opened: {}", source.info().description),
        Err(e) => e,
    }
}

fn pool_for(info: &SourceInfo, slots: usize) -> FramePool {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let spec = PoolSpec {
        pool_id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        slots,
        native: info.layout,
        native_room: 0,
        views: Vec::new(),
    };
    FramePool::heap(&spec, Arc::new(Converter::new())).unwrap()
}

/// What a source gave, up to its end.
struct Whole {
    ids: Vec<u64>,
    times: Vec<i64>,
    hashes: Vec<[u8; 32]>,
    gaps: Vec<Gap>,
    end: Result<EndInfo, SourceError>,
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn whole(source: &mut dyn Source) -> Whole {
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    let mut w = Whole {
        ids: Vec::new(),
        times: Vec::new(),
        hashes: Vec::new(),
        gaps: Vec::new(),
        end: Ok(EndInfo::default()),
    };
    loop {
        match source.next(&pool, &stop) {
            Ok(SourceEvent::Frame(frame)) => {
                w.ids.push(frame.meta().frame_id);
                w.times.push(frame.meta().t_ns);
                w.hashes.push(hash(frame.pixels()));
            }
            Ok(SourceEvent::Gap(gap)) => w.gaps.push(gap),
            Ok(SourceEvent::End(end)) => w.end = Ok(end),
            Ok(other) => panic!("{other:?}"),
            Err(e) => w.end = Err(e),
        }
        if w.end.is_err() || matches!(&w.end, Ok(e) if *e != EndInfo::default()) {
            let after = source.next(&pool, &stop);
            assert!(matches!(after, Ok(SourceEvent::End(_))), "{after:?}");
            return w;
        }
    }
}

fn of_file(uri: &str) -> Whole {
    whole(&mut *opened(&SourceOptions::new(name(), uri)))
}

/// Runs ffmpeg with `args`; every `OUT` in them is a file in `dir`, which is given back.
fn ffmpeg(dir: &TempDir, out: &str, args: &[&str]) -> String {
    let path = dir.path().join(out).to_str().unwrap().to_owned();
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(args)
        .arg(&path)
        .output()
        .expect("ffmpeg is needed for this test: apt install ffmpeg");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ffmpeg {args:?}: {said}");
    path
}

/// Hashes of the pictures as ffmpeg's own raw output has them.
fn raw_hashes(file: &str, pix_fmt: &str, frame_bytes: usize) -> Vec<[u8; 32]> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", file, "-map", "0:v:0"])
        .args([
            "-vsync",
            "passthrough",
            "-f",
            "rawvideo",
            "-pix_fmt",
            pix_fmt,
            "pipe:1",
        ])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(out.len() % frame_bytes, 0);
    out.chunks_exact(frame_bytes).map(hash).collect()
}

/// Time stamps of the decoded pictures in ticks, as ffprobe reports them, and the tick.
fn ffprobe_times(file: &str) -> (Vec<i64>, i128, i128) {
    let ask = |entries: &str| {
        let out = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-select_streams",
                "v:0",
                "-show_entries",
                entries,
            ])
            .args(["-of", "default=noprint_wrappers=1:nokey=1", file])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let base = ask("stream=time_base");
    let (num, den) = base.lines().next().unwrap().split_once('/').unwrap();
    let ticks = ask("frame=pts")
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect();
    (ticks, num.parse().unwrap(), den.parse().unwrap())
}

/// From the first, to the nearest nanosecond.
fn ns(ticks: &[i64], num: i128, den: i128) -> Vec<i64> {
    let exact = |t: i64| (2 * i128::from(t) * num * 1_000_000_000 + den).div_euclid(2 * den);
    ticks
        .iter()
        .map(|&t| i64::try_from(exact(t) - exact(ticks[0])).unwrap())
        .collect()
}
