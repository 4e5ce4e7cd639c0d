//! Command lines for sensors that only their board's own stack can read. No shell sees anything a
//! user wrote.

use std::ffi::OsString;

use super::super::{SourceOptions, WantedFormat};
use super::Line;

/// `nvarguscamerasrc` must be told; libcamera chooses by itself.
const ARGUS_SIZE: (u32, u32) = (1280, 720);
const ARGUS_FPS: u32 = 30;

fn number_of(scheme: &str, number: &str) -> Result<u32, String> {
    number
        .parse()
        .map_err(|_| format!("`{number}` is no camera number; write `{scheme}:0`"))
}

fn fps_of(opts: &SourceOptions) -> Option<u32> {
    let fps = opts.fps.filter(|fps| (1.0..=1000.0).contains(fps))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 1000"
    )]
    let fps = fps.round() as u32;
    Some(fps)
}

/// Camera N of a Raspberry Pi. `has` tells whether a program is installed.
pub(super) fn libcamera(
    number: &str,
    opts: &SourceOptions,
    has: &dyn Fn(&str) -> bool,
) -> Result<Line, String> {
    let camera = number_of("libcamera", number)?;
    // Bookworm renamed the programs.
    let program = ["rpicam-vid", "libcamera-vid"]
        .into_iter()
        .find(|p| has(p))
        .ok_or("needs `rpicam-vid` (or the older `libcamera-vid`); `apt install rpicam-apps` on Raspberry Pi OS (before Bookworm: `libcamera-apps`)")?;
    let mut args = vec!["--camera".to_owned(), camera.to_string()];
    let mut push = |words: &str| args.extend(words.split(' ').map(str::to_owned));
    if opts.format == WantedFormat::Mjpeg {
        push("--codec mjpeg");
    } else {
        // Parameter sets with every key picture; baseline, because a byte stream can't carry the
        // order of B pictures.
        push("--codec h264 --inline --profile baseline");
    }
    push("--nopreview --flush -t 0");
    if let (Some(width), Some(height)) = (opts.width, opts.height) {
        push(&format!("--width {width} --height {height}"));
    }
    if let Some(fps) = fps_of(opts) {
        push(&format!("--framerate {fps}"));
        if opts.format != WantedFormat::Mjpeg {
            // A key picture every 2 s.
            push(&format!("--intra {}", 2 * fps));
        }
    }
    push("-o -");
    Ok(Line {
        program: program.into(),
        args: args.into_iter().map(OsString::from).collect(),
        label: format!("libcamera {camera} ({program})"),
    })
}

/// Sensor N of a Jetson. `model` is the board's name in its device tree.
pub(super) fn argus(
    number: &str,
    opts: &SourceOptions,
    model: &str,
    has: &dyn Fn(&str) -> bool,
) -> Result<Line, String> {
    let sensor = number_of("argus", number)?;
    if !has("gst-launch-1.0") {
        return Err("needs `gst-launch-1.0` and NVIDIA's plugins; `apt install gstreamer1.0-tools nvidia-l4t-gstreamer` on a Jetson".to_owned());
    }
    let (width, height) = (
        opts.width.unwrap_or(ARGUS_SIZE.0),
        opts.height.unwrap_or(ARGUS_SIZE.1),
    );
    let fps = fps_of(opts).unwrap_or(ARGUS_FPS);
    // The camera library writes chatter to standard output, which is where pictures go: pictures
    // leave by descriptor 3 instead. This shell sees nothing but this line.
    let redirect = "exec gst-launch-1.0 \"$@\" 3>&1 1>&2";
    let mut args: Vec<OsString> = vec!["-c".into(), redirect.into(), "gst-launch-1.0".into()];
    let mut push = |words: &str| args.extend(words.split(' ').map(OsString::from));
    push("-q -e");
    push(&format!("nvarguscamerasrc sensor-id={sensor} !"));
    push(&format!(
        "video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 !"
    ));
    if has_encoder(model) && opts.format != WantedFormat::Mjpeg {
        let key = 2 * fps;
        push(&format!(
            "nvv4l2h264enc insert-sps-pps=true idrinterval={key} iframeinterval={key} num-B-Frames=0 !"
        ));
        push("h264parse ! video/x-h264,stream-format=byte-stream,alignment=au !");
    } else if opts.format == WantedFormat::Mjpeg {
        push("nvjpegenc ! image/jpeg !");
    } else {
        // Raw: our own encoder does the evidence.
        push("nvvidconv ! video/x-raw,format=I420 ! y4menc !");
    }
    push("fdsink fd=3 sync=false");
    Ok(Line {
        program: "sh".into(),
        args,
        label: format!("argus {sensor} (gst-launch-1.0)"),
    })
}

/// The Orin Nano is sold without the encoder that all other Jetsons have.
fn has_encoder(model: &str) -> bool {
    !model.contains("Orin Nano")
}

#[cfg(test)]
mod tests {
    use visualpath_core::Name;

    use super::*;

    fn opts(uri: &str) -> SourceOptions {
        SourceOptions {
            width: Some(1920),
            height: Some(1080),
            fps: Some(30.0),
            ..SourceOptions::new(Name::new("cam0").unwrap(), uri)
        }
    }

    fn words(line: &Line) -> String {
        let args: Vec<_> = line.args.iter().map(|a| a.to_string_lossy()).collect();
        format!("{} {}", line.program.to_string_lossy(), args.join(" "))
    }

    #[test]
    fn a_pi_camera_is_asked_for_h264_without_b_pictures() {
        let line = libcamera("1", &opts("libcamera:1"), &|_| true).unwrap();
        assert_eq!(
            words(&line),
            "rpicam-vid --camera 1 --codec h264 --inline --profile baseline --nopreview --flush -t 0 \
             --width 1920 --height 1080 --framerate 30 --intra 60 -o -"
        );
        let plain = SourceOptions::new(Name::new("cam0").unwrap(), "libcamera:0");
        let older = libcamera("0", &plain, &|p| p == "libcamera-vid").unwrap();
        assert_eq!(
            words(&older),
            "libcamera-vid --camera 0 --codec h264 --inline --profile baseline --nopreview --flush -t 0 -o -"
        );
        let mjpeg = SourceOptions {
            format: WantedFormat::Mjpeg,
            ..plain
        };
        let line = libcamera("0", &mjpeg, &|_| true).unwrap();
        assert!(words(&line).contains("--codec mjpeg --nopreview"));
    }

    #[test]
    fn a_jetson_encodes_itself_if_it_can() {
        let line = argus("0", &opts("argus:0"), "NVIDIA Jetson AGX Orin", &|_| true).unwrap();
        assert_eq!(line.program, "sh");
        assert!(words(&line).ends_with(
            "gst-launch-1.0 -q -e nvarguscamerasrc sensor-id=0 ! \
             video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1,format=NV12 ! \
             nvv4l2h264enc insert-sps-pps=true idrinterval=60 iframeinterval=60 num-B-Frames=0 ! \
             h264parse ! video/x-h264,stream-format=byte-stream,alignment=au ! fdsink fd=3 sync=false"
        ));
        let nano = argus(
            "0",
            &opts("argus:0"),
            "NVIDIA Jetson Orin Nano Developer Kit",
            &|_| true,
        );
        assert!(
            words(&nano.unwrap())
                .ends_with("nvvidconv ! video/x-raw,format=I420 ! y4menc ! fdsink fd=3 sync=false")
        );
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let e = libcamera("0", &opts("libcamera:0"), &|_| false).unwrap_err();
        assert!(
            e.contains("rpicam-vid") && e.contains("apt install rpicam-apps"),
            "{e}"
        );
        let e = argus("0", &opts("argus:0"), "", &|_| false).unwrap_err();
        assert!(
            e.contains("gst-launch-1.0") && e.contains("apt install"),
            "{e}"
        );
        let e = libcamera("front", &opts("libcamera:front"), &|_| true).unwrap_err();
        assert!(e.contains("`front`") && e.contains("libcamera:0"), "{e}");
    }
}
