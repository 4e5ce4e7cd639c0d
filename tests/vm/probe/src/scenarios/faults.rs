//! Cameras that fail, stall, are pulled, and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use visualpath_core::PixelFormat;
use visualpath_media::source::{GapCause, WantedFormat};

use super::drawn::Digits;
use crate::camera::{Running, Seen, options};
use crate::machine::{Camera, open_files};
use crate::runner::Numbers;

/// Frames must be there again this long after the camera is.
const BACK: Duration = Duration::from_secs(3);

fn start() -> Result<Running> {
    let mut options = options("/dev/video0")?;
    options.format = WantedFormat::Pixels(PixelFormat::Yuyv);
    Running::start(&options, &[])
}

/// A damaged buffer is one lost picture, and all else goes on.
pub fn damaged_buffers(_: &str, numbers: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    let mut running = start()?;
    running.frames(10)?;
    for _ in 0..5 {
        camera.set("inject_v4l2_buf_flag_error", 1)?;
        let lost = running.wait_for("gap for the damaged buffer", |seen| match seen {
            Seen::Gap(gap) => Some((gap.cause, gap.lost)),
            _ => None,
        })?;
        ensure!(lost == (GapCause::DriverError, 1), "{lost:?}");
        running.frames(20)?;
    }
    let epoch = running.frame()?.meta().epoch;
    ensure!(epoch == 0, "epoch {epoch}: the stream never broke");
    let book = running.stop()?;
    numbers.insert("lost".into(), json!(book.lost));
    ensure!(book.lost(GapCause::DriverError) == 5, "{:?}", book.lost);
    Ok(())
}

/// What the driver drops is missed, to the picture: drawn numbers and frame numbers go together.
pub fn dropped_buffers(_: &str, numbers: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    camera.set("osd_text_mode", 1)?;
    let mut running = start()?;
    let digits = Digits::learn(&mut running)?;
    let first = running.frame()?;
    let base = (first.meta().frame_id, digits.number(&first)?);
    drop(first);
    camera.set("percentage_of_dropped_buffers", 20)?;
    for _ in 0..400 {
        let frame = running.frame()?;
        let (id, number) = (frame.meta().frame_id, digits.number(&frame)?);
        ensure!(
            id - base.0 == number - base.1,
            "frame {id} shows {number}; frame {} showed {}",
            base.0,
            base.1
        );
    }
    camera.set("percentage_of_dropped_buffers", 0)?;
    let book = running.stop()?;
    numbers.insert("lost".into(), json!(book.lost));
    let missed = book.lost(GapCause::Missed);
    ensure!(
        (40..200).contains(&missed),
        "20 % of some 500: {:?}",
        book.lost
    );
    Ok(())
}

/// A stream that dies is begun again, also if the first tries fail, with a break that is told.
pub fn dead_streams(_: &str, numbers: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    let mut running = start()?;
    running.frames(10)?;
    let files = open_files()?;
    let first_tries = [
        None,
        Some("inject_vidioc_streamon_error"),
        Some("inject_vidioc_reqbufs_error"),
        Some("inject_vidioc_qbuf_error"),
    ];
    for fails in first_tries {
        let what = fails.unwrap_or("the stream only");
        let before = running.frame()?.meta().epoch;
        if let Some(control) = fails {
            camera.set(control, 1)?;
        }
        let broken = Instant::now();
        // A failing QBUF has already ended the running stream.
        if fails != Some("inject_vidioc_qbuf_error") {
            camera.set("inject_fatal_streaming_error", 1)?;
        }
        while running.frame().context(what)?.meta().epoch == before {
            ensure!(broken.elapsed() < BACK, "{what}: epoch {before} goes on");
        }
        let took = broken.elapsed();
        numbers.insert(what.into(), json!(took.as_secs_f64()));
        ensure!(took <= BACK, "{what}: frames after {took:?}");
        let now = open_files()?;
        ensure!(now == files, "{what}: {now} files open, {files} before");
    }
    numbers.insert("lost".into(), json!(running.stop()?.lost));
    Ok(())
}

/// A camera that gives nothing and says nothing is opened again, and is back when it gives again.
pub fn stalled(_: &str, numbers: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    let mut running = start()?;
    running.frames(10)?;
    let before = running.frame()?.meta().epoch;
    camera.set("percentage_of_dropped_buffers", 100)?;
    let silent = Instant::now();
    let outage = running.wait_for("outage", |seen| match seen {
        Seen::Offline(outage) => Some(outage.detail.clone()),
        _ => None,
    })?;
    let noticed = silent.elapsed();
    camera.set("percentage_of_dropped_buffers", 0)?;
    let again = Instant::now();
    let epoch = running.frame()?.meta().epoch;
    let took = again.elapsed();
    let book = running.stop()?;
    numbers.insert("noticed_s".into(), json!(noticed.as_secs_f64()));
    numbers.insert("back_s".into(), json!(took.as_secs_f64()));
    numbers.insert("outage".into(), json!(outage));
    numbers.insert("lost".into(), json!(book.lost));
    ensure!(epoch > before, "epoch {before} goes on");
    ensure!(took <= BACK, "frames after {took:?}");
    ensure!(
        book.lost.contains_key(GapCause::Stalled.as_str()),
        "lost: {:?}",
        book.lost
    );
    Ok(())
}

/// Pulled and plugged in again, many times, at last with another number.
pub fn pulled(length: &str, numbers: &mut Numbers) -> Result<()> {
    let times = if length == "soak" { 20 } else { 5 };
    Camera::WEBCAM.insert()?;
    let mut running = start()?;
    running.frames(10)?;
    let files = open_files()?;
    let (mut pulled, mut longest) = (Camera::WEBCAM, Duration::ZERO);
    for n in 1..=times {
        let before = running.frame()?.meta().epoch;
        pulled.pull().context("pulling it")?;
        running.wait_for("outage", |seen| {
            matches!(seen, Seen::Offline(_)).then_some(())
        })?;
        // Once it comes back as another.
        let number = if n + 1 == times { 7 } else { 0 };
        let back = Camera {
            number,
            ..Camera::WEBCAM
        };
        let again = back.insert()?;
        let frame = running
            .frame()
            .with_context(|| format!("time {n}, as {number}"))?;
        let took = again.elapsed();
        longest = longest.max(took);
        ensure!(frame.meta().epoch > before, "epoch {before} goes on");
        drop(frame);
        ensure!(
            took <= BACK,
            "time {n}: frames {took:?} after the node was back"
        );
        running.frames(10)?;
        let now = open_files()?;
        ensure!(now == files, "time {n}: {now} files open, {files} before");
        pulled = back;
    }
    let book = running.stop()?;
    numbers.insert("times".into(), json!(times));
    numbers.insert("longest_s".into(), json!(longest.as_secs_f64()));
    numbers.insert("lost".into(), json!(book.lost));
    ensure!(
        book.lost.contains_key(GapCause::Disconnected.as_str()),
        "{:?}",
        book.lost
    );
    Ok(())
}
