//! Good cameras: nothing leaks, nothing is copied that need not be, no picture is torn.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use visualpath_core::PixelFormat;
use visualpath_frames::Frame;
use visualpath_media::source::{SourceOptions, WantedFormat};

use super::drawn::{Digits, one_picture};
use crate::camera::{Running, options};
use crate::machine::{Camera, open_files, resident_bytes};
use crate::runner::Numbers;

const CONTIGUOUS: Camera = Camera {
    contiguous: true,
    ..Camera::WEBCAM
};

fn yuyv() -> Result<SourceOptions> {
    let mut options = options("/dev/video0")?;
    options.format = WantedFormat::Pixels(PixelFormat::Yuyv);
    Ok(options)
}

/// Files, memory and leases after many frames are those after the first hundred.
pub fn no_growth(length: &str, numbers: &mut Numbers) -> Result<()> {
    let frames = if length == "soak" { 18_000 } else { 1_800 };
    for camera in [Camera::WEBCAM, CONTIGUOUS] {
        camera.insert()?;
        let files_before = open_files()?;
        let mut running = Running::start(&yuyv()?, &[])?;
        running.frames(100)?;
        let (files, memory) = (open_files()?, resident_bytes()?);
        running.frames(frames)?;
        let more_memory = resident_bytes()?.saturating_sub(memory);
        let more_files = open_files()?.abs_diff(files);
        let what = if camera.contiguous { "mmap" } else { "userptr" };
        numbers.insert(
            what.into(),
            json!({"frames": frames, "more_bytes": more_memory, "more_files": more_files}),
        );
        let book = running.stop()?;
        ensure!(book.lost.is_empty(), "lost: {:?}", book.lost);
        ensure!(
            more_files == 0,
            "{more_files} files more or fewer than after 100 frames"
        );
        ensure!(
            more_memory < 256 * 1024,
            "{more_memory} bytes more in {frames} frames"
        );
        let left = open_files()?;
        ensure!(
            left == files_before,
            "{left} files open, {files_before} before"
        );
        camera.pull()?;
    }
    Ok(())
}

/// Frames are kept while the camera goes on: none changes, each is one picture, and its drawn
/// number is its own.
pub fn no_tearing(length: &str, numbers: &mut Numbers) -> Result<()> {
    let frames: u64 = if length == "soak" { 6_000 } else { 600 };
    for camera in [Camera::WEBCAM, CONTIGUOUS] {
        camera.insert()?;
        camera.set("osd_text_mode", 1)?;
        camera.set("horizontal_movement", 6)?;
        let mut running = Running::start(&yuyv()?, &[])?;
        let digits = Digits::learn(&mut running)?;
        let mut kept: VecDeque<(Frame, u64)> = VecDeque::new();
        let mut first = None;
        for _ in 0..frames {
            let frame = running.frame()?;
            one_picture(&frame)?;
            let (id, number) = (frame.meta().frame_id, digits.number(&frame)?);
            let (first_id, first_number) = *first.get_or_insert((id, number));
            ensure!(
                number - first_number == id - first_id,
                "frame {id} shows {number}, but frame {first_id} shows {first_number}"
            );
            let sum = checksum(&frame);
            kept.push_back((frame, sum));
            if kept.len() > 3
                && let Some((old, sum)) = kept.pop_front()
            {
                let id = old.meta().frame_id;
                ensure!(
                    checksum(&old) == sum,
                    "frame {id} changed while it was kept"
                );
            }
        }
        drop(kept);
        let book = running.stop()?;
        ensure!(book.lost.is_empty(), "lost: {:?}", book.lost);
        let what = if camera.contiguous { "mmap" } else { "userptr" };
        numbers.insert(what.into(), json!(frames));
        camera.pull()?;
    }
    Ok(())
}

fn checksum(frame: &Frame) -> u64 {
    let mut sum = DefaultHasher::new();
    sum.write(frame.pixels());
    sum.finish()
}

/// 0 where the driver takes our memory, 1 where it has its own, or begins to write at an offset.
pub fn copies(_: &str, numbers: &mut Numbers) -> Result<()> {
    // Multi-planar, vivid writes YUYV behind an offset of 128 bytes, and UYVY not.
    let cases = [
        (false, false, PixelFormat::Yuyv, 0),
        (false, true, PixelFormat::Yuyv, 1),
        (true, false, PixelFormat::Uyvy, 0),
        (true, false, PixelFormat::Yuyv, 1),
        (true, true, PixelFormat::Uyvy, 1),
    ];
    for (multiplanar, contiguous, format, each) in cases {
        let camera = Camera {
            multiplanar,
            contiguous,
            ..Camera::WEBCAM
        };
        camera.insert()?;
        let mut options = options("/dev/video0")?;
        options.format = WantedFormat::Pixels(format);
        let mut running = Running::start(&options, &[])?;
        running.frames(120)?;
        let copies = running.pool.stats().copies;
        let what = format!(
            "{}, {}, {format:?}",
            if contiguous { "mmap" } else { "userptr" },
            if multiplanar {
                "multi-planar"
            } else {
                "single-planar"
            }
        );
        running.stop()?;
        numbers.insert(what.clone(), json!({"frames": 120, "copies": copies}));
        // Some frames are on their way.
        let right = each * 120..=each * 128;
        ensure!(
            right.contains(&copies),
            "{what}: {copies} copies of 120 frames"
        );
        camera.pull()?;
    }
    Ok(())
}

/// Processor time per 720p30 stream, ours against `v4l2-ctl --stream-mmap`. The clock counts
/// instructions: these are instructions, in thousands of millions.
pub fn cost(_: &str, numbers: &mut Numbers) -> Result<()> {
    const SPAN: Duration = Duration::from_secs(10);
    let mut nothing = 0.0;
    for (name, contiguous) in [("userptr", false), ("mmap", true)] {
        let camera = Camera {
            hdmi: true,
            contiguous,
            ..Camera::WEBCAM
        };
        camera.insert()?;
        if !contiguous {
            nothing = v4l2_ctl(&camera, SPAN)?;
            numbers.insert("v4l2_ctl_ms_per_s".into(), json!(nothing));
        }
        let mut options = yuyv()?;
        (options.width, options.height, options.fps) = (Some(1280), Some(720), Some(30.0));
        let mut running = Running::start(&options, &[])?;
        running.frames(30)?;
        let (started, before) = (Instant::now(), cpu_ms(Path::new("/proc/self"))?);
        let mut frames = 0;
        while started.elapsed() < SPAN {
            running.frames(1)?;
            frames += 1;
        }
        let wall = started.elapsed().as_secs_f64();
        let ours = (cpu_ms(Path::new("/proc/self"))? - before) / wall;
        numbers.insert(format!("{name}_fps"), json!(f64::from(frames) / wall));
        numbers.insert(format!("{name}_ms_per_s"), json!(ours));
        numbers.insert(format!("{name}_against_v4l2_ctl"), json!(ours / nothing));
        running.stop()?;
        camera.pull()?;
    }
    Ok(())
}

fn v4l2_ctl(camera: &Camera, span: Duration) -> Result<f64> {
    let mut child = Command::new("v4l2-ctl")
        .arg("-d")
        .arg(camera.node())
        .args([
            "-v",
            "width=1280,height=720,pixelformat=YUYV",
            "--stream-mmap",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let process = std::path::PathBuf::from(format!("/proc/{}", child.id()));
    // It streams by then; what it does is the same every second.
    std::thread::sleep(Duration::from_secs(1));
    let before = cpu_ms(&process);
    std::thread::sleep(span);
    let after = cpu_ms(&process);
    child.kill()?;
    child.wait()?;
    Ok((after? - before?) / span.as_secs_f64())
}

/// Processor time of all threads of a process that are alive.
fn cpu_ms(process: &Path) -> Result<f64> {
    let mut ns = 0.0;
    for task in std::fs::read_dir(process.join("task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let run: f64 = stat
            .split_whitespace()
            .next()
            .context("schedstat")?
            .parse()?;
        ns += run;
    }
    Ok(ns / 1e6)
}
