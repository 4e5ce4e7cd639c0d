//! `visualpath devices`: the cameras of this machine, what they can do, and what to write for each.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use visualpath_media::devices::{
    self, Camera, CameraFormat, ControlInfo, ControlKind, Copies, DeviceError, Rates, SizeRange,
    Wanted,
};

use super::doctor::program;
use super::{fail, say, say_json};
use crate::exit::Exit;

/// How long a camera stack may take to list its cameras.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    cameras: Vec<Row>,
    /// Cameras that another program drives.
    stacks: Vec<Stack>,
    /// Devices that can't be looked at, and what to do.
    problems: Vec<String>,
}

/// One V4L2 camera.
#[derive(Debug, Serialize)]
struct Row {
    /// `uri` of a source.
    uri: String,
    /// Copies of a picture between driver and frame; absent where that can't be tried now.
    #[serde(skip_serializing_if = "Option::is_none")]
    copies_per_frame: Option<u32>,
    /// How pictures come in, or why that is not known.
    memory: String,
    #[serde(flatten)]
    camera: Camera,
}

/// A camera behind a stack of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// `uri` of a source.
    pub uri: String,
    /// What it is.
    pub camera: String,
}

/// The verb.
pub fn run(json: bool) -> Exit {
    let report = look();
    let none = report.cameras.is_empty() && report.stacks.is_empty();
    if json {
        let said = say_json(&report);
        return if none && said == Exit::Ok {
            Exit::Source
        } else {
            said
        };
    }
    if none {
        return fail(Exit::Source, &nothing(&report.problems));
    }
    say(&text(&report))
}

fn look() -> Report {
    let (mut cameras, mut problems) = (Vec::new(), Vec::new());
    for camera in devices::cameras() {
        match camera {
            Ok(camera) => cameras.push(row(camera)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    Report {
        cameras,
        stacks: stacks(),
        problems,
    }
}

/// What to write as `uri`: a name that stays.
pub fn uri(camera: &Camera) -> String {
    if let Some(instead) = &camera.instead {
        return instead.clone();
    }
    let path = camera
        .by_id
        .as_deref()
        .or(camera.by_path.as_deref())
        .unwrap_or(&camera.node);
    path.to_string_lossy().into_owned()
}

fn row(camera: Camera) -> Row {
    let (copies_per_frame, memory) = if camera.raw_bayer {
        (None, "a raw mosaic makes no pictures by itself".to_owned())
    } else if let Some(by) = &camera.busy {
        // Trying sets the device's format.
        (None, format!("not tried: {by} has it open"))
    } else {
        memory(&camera.node)
    };
    Row {
        uri: uri(&camera),
        copies_per_frame,
        memory,
        camera,
    }
}

fn memory(node: &Path) -> (Option<u32>, String) {
    match devices::probe_memory(node, &Wanted::default()) {
        Ok(copies) => {
            let how = match copies {
                Copies::Direct => "the driver writes into the frames itself (USERPTR)",
                Copies::Copied => "the driver wants memory of its own (MMAP)",
                Copies::Decoded => "packets, decoded into the frames",
            };
            (Some(copies.per_frame()), how.to_owned())
        }
        Err(DeviceError::Busy { by, .. }) => (None, format!("not tried: {by} has it open")),
        Err(error) => (None, format!("not known: {error}")),
    }
}

/// Cameras that libcamera or Argus drives.
pub fn stacks() -> Vec<Stack> {
    let mut all = Vec::new();
    for program in ["rpicam-hello", "libcamera-hello"] {
        if let Some(said) = program::answer(program, &["--list-cameras"], PATIENCE) {
            all.extend(libcamera(&said));
            break;
        }
    }
    // Argus can't be asked without a display; its daemon runs where there is a Jetson's camera.
    if Path::new("/tmp/argus_socket").exists() {
        all.push(Stack {
            uri: "argus:0".to_owned(),
            camera: "a camera of this Jetson (nvargus-daemon runs)".to_owned(),
        });
    }
    all
}

/// `0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/…)`, a line per camera.
fn libcamera(said: &str) -> Vec<Stack> {
    said.lines()
        .filter_map(|line| line.split_once(" : "))
        .filter_map(|(number, camera)| Some((number.trim().parse::<u32>().ok()?, camera)))
        .map(|(number, camera)| Stack {
            uri: format!("libcamera:{number}"),
            camera: camera.trim().to_owned(),
        })
        .collect()
}

/// What to look at where there is none.
pub fn nothing(problems: &[String]) -> String {
    let mut text = "no camera is found".to_owned();
    for problem in problems {
        text += "\n  ";
        text += problem;
    }
    text += "\n  USB: is it plugged in (`lsusb`), does the kernel see it (`dmesg`)?";
    text += "\n  ribbon cable: right way round, both ends closed? Raspberry Pi: camera_auto_detect=1, or a line dtoverlay=<sensor>, in /boot/firmware/config.txt; then restart";
    text += "\n  /dev/video* is there, and not for you: add the user to the group `video` and log in again";
    text += "\n  in a container: hand the device in (--device /dev/video0)";
    text += "\n  without a camera: `uri` takes a video file, rtsp:// or synthetic:";
    text
}

fn text(report: &Report) -> String {
    let mut parts: Vec<String> = report.cameras.iter().map(camera_text).collect();
    for stack in &report.stacks {
        parts.push(format!("{}\n  uri = \"{}\"", stack.camera, stack.uri));
    }
    parts.extend(report.problems.iter().map(|p| format!("problem: {p}")));
    parts.join("\n\n")
}

fn camera_text(row: &Row) -> String {
    let Row { camera, .. } = row;
    let mut text = format!("{}  {}", camera.node.display(), camera.card);
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let written = write!(text, "\n  {name:9} {value}");
        debug_assert!(written.is_ok());
    };
    line(
        "uri",
        &format!("= {}", toml::Value::String(row.uri.clone())),
    );
    if camera.raw_bayer {
        line(
            "raw",
            "a sensor's mosaic, which only its camera stack makes pictures of: take that `uri`, not the node",
        );
    }
    line("driver", &format!("{}, {}", camera.driver, camera.bus_info));
    for (name, path) in [("by-id", &camera.by_id), ("by-path", &camera.by_path)] {
        if let Some(path) = path {
            line(name, &path.display().to_string());
        }
    }
    if let Some(serial) = &camera.serial {
        line("serial", serial);
    }
    if let Some(by) = &camera.busy {
        line("open in", by);
    }
    let copies = row
        .copies_per_frame
        .map_or_else(|| "?".to_owned(), |n| n.to_string());
    line("copies", &format!("{copies} a frame: {}", row.memory));
    for format in &camera.formats {
        line(&format.fourcc, &format_text(format));
    }
    if !camera.controls.is_empty() {
        line("controls", "");
    }
    for control in &camera.controls {
        line("", &control_text(control));
    }
    text
}

fn format_text(format: &CameraFormat) -> String {
    let mut sizes: Vec<String> = Vec::new();
    let mut rates_before: Option<String> = None;
    for size in &format.sizes {
        let rates = rates_text(&size.fps);
        let size = match size.size {
            SizeRange::Discrete { width, height } => format!("{width}x{height}"),
            SizeRange::Stepwise { min, max, .. } => {
                format!("{}x{}–{}x{}", min.0, min.1, max.0, max.1)
            }
        };
        // Neighbours with the same rates share them.
        if rates_before.as_ref() == Some(&rates)
            && let Some(last) = sizes.last_mut()
            && let Some((head, tail)) = last.rsplit_once(" @ ")
        {
            *last = format!("{head} {size} @ {tail}");
            continue;
        }
        sizes.push(format!("{size} @ {rates}"));
        rates_before = Some(rates);
    }
    let unused = if format.usable {
        ""
    } else {
        " (not used by this version)"
    };
    let packed = if format.compressed {
        ", compressed"
    } else {
        ""
    };
    format!(
        "{}{packed}{unused}\n            {}",
        format.description,
        sizes.join("\n            ")
    )
}

fn rates_text(rates: &Rates) -> String {
    let number = |n: &f64| {
        let text = format!("{n:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match rates {
        Rates::Listed(rates) if rates.is_empty() => "?".to_owned(),
        Rates::Listed(rates) => rates.iter().map(number).collect::<Vec<_>>().join(" "),
        Rates::Range { min, max } => format!("{}–{}", number(min), number(max)),
    }
}

fn control_text(control: &ControlInfo) -> String {
    let item = |n: i64| match control.menu.iter().find(|(index, _)| *index == n) {
        Some((_, text)) => format!("{n} ({text})"),
        None => n.to_string(),
    };
    let takes = match control.kind {
        ControlKind::Button => "a button".to_owned(),
        ControlKind::Boolean => "0 or 1".to_owned(),
        ControlKind::Menu | ControlKind::IntegerMenu => {
            let items: Vec<String> = control.menu.iter().map(|(n, _)| item(*n)).collect();
            items.join(", ")
        }
        _ if control.step > 1 => {
            format!("{}–{} by {}", control.min, control.max, control.step)
        }
        _ => format!("{}–{}", control.min, control.max),
    };
    let mut text = format!("{} = {takes}", control.name);
    if control.kind != ControlKind::Button {
        text += &format!("; default {}", item(control.default));
        if let Some(now) = control.value.filter(|now| *now != control.default) {
            text += &format!(", now {}", item(now));
        }
    }
    if control.read_only {
        text += " (read only)";
    } else if control.inactive {
        text += " (no effect while an automatic has it)";
    }
    text
}

#[cfg(test)]
mod tests {
    use visualpath_media::devices::{CameraSize, Planes};

    use super::*;

    fn size(width: u32, height: u32, fps: &[f64]) -> CameraSize {
        CameraSize {
            size: SizeRange::Discrete { width, height },
            fps: Rates::Listed(fps.to_vec()),
        }
    }

    fn camera() -> Camera {
        Camera {
            node: "/dev/video0".into(),
            by_id: Some("/dev/v4l/by-id/usb-Maker_Cam_1234-video-index0".into()),
            by_path: Some("/dev/v4l/by-path/usb-0:1.2-video-index0".into()),
            serial: Some("1234".into()),
            card: "Cam".into(),
            driver: "uvcvideo".into(),
            bus_info: "usb-0000:01:00.0-1.2".into(),
            planes: Planes::Single,
            formats: vec![CameraFormat {
                fourcc: "YUYV".into(),
                description: "YUYV 4:2:2".into(),
                compressed: false,
                usable: true,
                sizes: vec![
                    size(640, 480, &[30.0, 15.0]),
                    size(320, 240, &[30.0, 15.0]),
                    size(1280, 720, &[7.5]),
                ],
            }],
            controls: vec![ControlInfo {
                name: "power_line_frequency".into(),
                id: 1,
                kind: ControlKind::Menu,
                min: 0,
                max: 2,
                step: 1,
                default: 1,
                value: Some(2),
                menu: vec![
                    (0, "Disabled".into()),
                    (1, "50 Hz".into()),
                    (2, "60 Hz".into()),
                ],
                read_only: false,
                inactive: false,
            }],
            raw_bayer: false,
            instead: None,
            busy: Some("cheese (4711)".into()),
        }
    }

    #[test]
    fn a_camera_reads_compactly_with_a_uri_that_stays() {
        // Busy: nothing is tried at the device.
        let text = camera_text(&row(camera()));
        for line in [
            "uri       = \"/dev/v4l/by-id/usb-Maker_Cam_1234-video-index0\"",
            "open in   cheese (4711)",
            "copies    ? a frame: not tried: cheese (4711) has it open",
            "640x480 320x240 @ 30 15",
            "1280x720 @ 7.5",
            "power_line_frequency = 0 (Disabled), 1 (50 Hz), 2 (60 Hz); default 1 (50 Hz), now 2 (60 Hz)",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_raw_sensor_is_answered_with_its_camera_stack() {
        let raw = Camera {
            raw_bayer: true,
            instead: Some("libcamera:0".into()),
            busy: None,
            ..camera()
        };
        let row = row(raw);
        assert_eq!(row.uri, "libcamera:0");
        assert_eq!(row.copies_per_frame, None);
    }

    #[test]
    fn libcameras_list_is_read() {
        let said = "Available cameras\n-----------------\n\
                    0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx219@10)\n    \
                    Modes: 'SRGGB10_CSI2P' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]\n\
                    1 : ov5647 [2592x1944 10-bit GBRG] (/base/soc)\n";
        let found = libcamera(said);
        let uris: Vec<&str> = found.iter().map(|s| s.uri.as_str()).collect();
        assert_eq!(uris, ["libcamera:0", "libcamera:1"]);
        assert!(found[0].camera.starts_with("imx219"), "{found:?}");
        assert!(libcamera("No cameras available!\n").is_empty());
    }
}
