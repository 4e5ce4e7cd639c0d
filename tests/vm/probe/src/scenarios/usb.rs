//! A USB camera behind uvcvideo: the outside plays it (`tests/vm/usb_camera.rs`), over USB/IP.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use visualpath_media::devices;
use visualpath_media::encode::{Codec, Packet};
use visualpath_media::source::{ControlValue, GapCause, Needs};

use crate::camera::{Running, Seen, options};
use crate::machine::{open_files, until};
use crate::runner::Numbers;

const VHCI: &str = "/sys/devices/platform/vhci_hcd.0";
/// Frames must be there again this long after the camera is.
const BACK: Duration = Duration::from_secs(3);

/// Plugs the camera in; gives its node.
fn plug(outside: &str) -> Result<PathBuf> {
    let socket = TcpStream::connect(outside).context(outside.to_owned())?;
    // Port, socket, device, speed (3: high). The kernel keeps the socket.
    let attach = format!("0 {} 65537 3", socket.as_raw_fd());
    std::fs::write(format!("{VHCI}/attach"), attach).context("attach")?;
    let mut found = None;
    until("the USB camera's node", || {
        found = node()?;
        Ok(found.is_some())
    })?;
    found.context("no node")
}

/// The node that gives pictures; the other one of a UVC camera gives metadata.
fn node() -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir("/sys/class/video4linux")? {
        let dir = entry?.path();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        if read("name").starts_with("Test camera") && read("index").trim() == "0" {
            let name = dir.file_name().context("a name")?;
            return Ok(Some(PathBuf::from("/dev").join(name)));
        }
    }
    Ok(None)
}

fn pull() -> Result<()> {
    std::fs::write(format!("{VHCI}/detach"), "0").context("detach")
}

/// The number that the camera wrote into this picture, if the rest of it is what it sent.
fn number(packet: &Packet) -> Result<u64> {
    let jpeg = &packet.data;
    let comment = jpeg.get(6..6 + 22).context("a JPEG without its comment")?;
    let text = std::str::from_utf8(comment)?;
    let mut words = text.split(' ').skip(1);
    let number = words.next().context("a number")?.parse()?;
    let sum = u32::from_str_radix(words.next().context("a sum")?, 16)?;
    let is = jpeg[28..].iter().fold(0x811c_9dc5_u32, |sum, b| {
        (sum ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    });
    ensure!(sum == is, "picture {number} is not what was sent");
    Ok(number)
}

/// So many pictures: each packet whole, each frame decoded from it, numbers together.
fn good_pictures(running: &mut Running, n: usize) -> Result<()> {
    let mut first: Option<(u64, u64)> = None;
    let mut packet = None;
    let mut frames = 0;
    while frames < n {
        match running.next()? {
            Seen::Packet(seen) => {
                ensure!(seen.params.codec == Codec::Mjpeg, "{:?}", seen.params.codec);
                let now = (seen.frame_id, number(&seen)?);
                let first = *first.get_or_insert(now);
                ensure!(
                    now.0 - first.0 == now.1 - first.1,
                    "frame {} is picture {}; frame {} was picture {}",
                    now.0,
                    now.1,
                    first.0,
                    first.1
                );
                packet = Some(now.0);
            }
            Seen::Frame(frame) => {
                let id = frame.meta().frame_id;
                ensure!(packet == Some(id), "frame {id} after packet {packet:?}");
                frames += 1;
            }
            // The machine is slow; what uvcvideo could not keep is told.
            Seen::Gap(gap) if gap.cause == GapCause::Missed => {}
            Seen::Online => {}
            other => bail!("{other:?} in the middle of good pictures"),
        }
    }
    Ok(())
}

/// Looked at, set, streamed from, pulled in the middle of a stream and plugged in again.
pub fn camera(outside: &str, numbers: &mut Numbers) -> Result<()> {
    let node = plug(outside)?;
    let looks = devices::camera(&node)?;
    ensure!(looks.driver == "uvcvideo", "{}", looks.driver);
    ensure!(
        looks.serial.as_deref() == Some("VP0001"),
        "{:?}",
        looks.serial
    );
    let formats: Vec<&str> = looks.formats.iter().map(|f| f.fourcc.as_str()).collect();
    ensure!(formats == ["MJPG"], "{formats:?}");
    devices::set_control(
        &node,
        "power_line_frequency",
        &ControlValue::Text("60 hz".into()),
    )?;
    let line = |camera: &devices::Camera| {
        let control = camera
            .controls
            .iter()
            .find(|c| c.name == "power_line_frequency");
        control.and_then(|c| c.value)
    };
    let is = line(&devices::camera(&node)?);
    ensure!(is == Some(2), "power_line_frequency is {is:?}");

    let mut options = options(&node.display().to_string())?;
    (options.width, options.height, options.fps) = (Some(320), Some(240), Some(10.0));
    let needs = Needs {
        packets: true,
        ..Needs::default()
    };
    let mut running = Running::start_for(&options, &[], &needs)?;
    drop(running.frame()?);
    good_pictures(&mut running, 60)?;
    let files = open_files()?;
    for n in 1..=3 {
        let before = running.frame()?.meta().epoch;
        pull()?;
        running.wait_for("outage", |seen| {
            matches!(seen, Seen::Offline(_)).then_some(())
        })?;
        plug(outside)?;
        let again = Instant::now();
        let frame = running.frame().with_context(|| format!("time {n}"))?;
        let took = again.elapsed();
        ensure!(frame.meta().epoch > before, "epoch {before} goes on");
        drop(frame);
        ensure!(
            took <= BACK,
            "time {n}: frames {took:?} after the node was back"
        );
        good_pictures(&mut running, 15)?;
        let now = open_files()?;
        ensure!(now == files, "time {n}: {now} files open, {files} before");
    }
    let copies = running.pool.stats().copies;
    let book = running.stop()?;
    numbers.insert("frames".into(), json!(book.frames));
    numbers.insert("lost".into(), json!(book.lost));
    ensure!(
        copies == 0,
        "{copies} copies: grey JPEGs are decoded into the slot"
    );
    ensure!(
        book.lost.contains_key(GapCause::Disconnected.as_str()),
        "{:?}",
        book.lost
    );
    pull()
}
