//! Sources: can they be opened, and do they give the pictures that were asked for.

use std::io;
use std::path::Path;
use std::time::Duration;

use visualpath_core::Name;
use visualpath_media::devices::{self, Camera, DeviceError};
use visualpath_media::encode::EncoderOptions;
use visualpath_media::source::{self, SourceError};

use super::finding::{Code, Finding};
use super::program;
use crate::cli::measure::{Asked, MeasureError, Measured, measure};
use crate::config::{Config, SourceConfig};
use crate::pipeline::build::{self, Loaded};
use crate::pipeline::evidence;
use crate::pipeline::line::source_options;

/// A source that gives less than this share of what was asked is slow.
const ENOUGH: f64 = 0.8;
const MISSING: &str =
    "plug it in; `visualpath devices` lists the cameras that are there, by names that stay (by-id)";
const DENIED: &str = "add the user that runs visualpath to the group `video` (usermod -aG video USER) and log in again";
/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// The programs a source runs.
pub fn programs(name: &Name, settings: &SourceConfig) -> Vec<Finding> {
    let uri = settings.uri.as_str();
    let one_of = |programs: &[&str], install: &str| {
        let subject = format!("source.{name}");
        match programs.iter().find_map(|p| program::find(p)) {
            Some(path) => {
                let file = path.display().to_string();
                let version = program::answer(&file, &["-version"], PATIENCE);
                let line = version.and_then(|v| v.lines().next().map(str::to_owned));
                let detail = match line {
                    Some(line) => format!("{file}: {line}"),
                    None => file,
                };
                Finding::new(Code::Program, subject, detail)
            }
            None => Finding::new(
                Code::ProgramMissing,
                subject,
                format!(
                    "`{}` is not found, and `{}` needs it",
                    programs.join("` or `"),
                    source::redacted(uri)
                ),
            )
            .advise(install),
        }
    };
    if uri.starts_with("libcamera:") {
        let install = "Raspberry Pi OS: apt install rpicam-apps";
        return vec![one_of(&["rpicam-vid", "libcamera-vid"], install)];
    }
    if uri.starts_with("argus:") {
        let install = "Jetson: apt install gstreamer1.0-tools nvidia-l4t-gstreamer";
        return vec![one_of(&["gst-launch-1.0"], install)];
    }
    if let Some(command) = uri.strip_prefix("exec:") {
        return vec![of_user(name, command)];
    }
    let other = ["synthetic:", "rtsp://", "rtsps://", "camera:", "/dev/"];
    if other.iter().any(|o| uri.starts_with(o)) {
        return Vec::new();
    }
    let name = uri.to_ascii_lowercase();
    if name.ends_with(".mjpeg") || name.ends_with(".mjpg") {
        return Vec::new();
    }
    let install = "Debian, Ubuntu: apt install ffmpeg";
    ["ffmpeg", "ffprobe"]
        .map(|p| one_of(&[p], install))
        .into_iter()
        .collect()
}

/// Looks for the program of `exec:`. It is not asked for its version: what it does with an argument
/// that its user did not write, nobody knows. The command is not shown: there may be a password in it.
fn of_user(name: &Name, command: &str) -> Finding {
    let program = match source::command_words(command) {
        Ok(words) => words.into_iter().next().unwrap_or_default(),
        Err(why) => {
            return Finding::new(
                Code::SourceBroken,
                subject(name),
                format!("the command is not whole: {why}"),
            )
            .advise("quote as in a shell: '…', \"…\", or a backslash before the sign");
        }
    };
    match program::find(&program) {
        Some(path) => Finding::new(Code::Program, subject(name), path.display().to_string()),
        None => Finding::new(
            Code::ProgramMissing,
            subject(name),
            format!("`{program}` is not found, or may not be executed"),
        )
        .advise("install it, give its whole path, or `chmod +x` it"),
    }
}

/// The cameras of this machine.
pub fn cameras() -> Finding {
    let one = |camera: Result<Camera, DeviceError>| match camera {
        Ok(camera) => {
            let busy = camera
                .busy
                .as_ref()
                .map_or_else(String::new, |by| format!(", open in {by}"));
            format!(
                "{} ({}{busy})",
                crate::cli::devices::uri(&camera),
                camera.card
            )
        }
        Err(error) => error.to_string(),
    };
    let mut all: Vec<String> = devices::cameras().into_iter().map(one).collect();
    let stacks = crate::cli::devices::stacks();
    all.extend(
        stacks
            .into_iter()
            .map(|s| format!("{} ({})", s.uri, s.camera)),
    );
    let detail = match all.is_empty() {
        true => "none on this machine".to_owned(),
        false => all.join("; "),
    };
    Finding::new(Code::Cameras, "cameras", detail)
}

/// What speaks against a camera before it is asked for pictures; `None` of what is no camera's node.
pub fn device(name: &Name, settings: &SourceConfig) -> Option<Finding> {
    let uri = settings.uri.as_str();
    if !uri.starts_with("/dev/") {
        return None;
    }
    match devices::camera(Path::new(uri)) {
        Ok(Camera { busy: Some(by), .. }) => Some(
            Finding::new(Code::SourceBusy, subject(name), format!("{uri} is open in {by}"))
                .advise(
                    "end that program; if it is visualpath itself, all is well: try again when it is stopped",
                ),
        ),
        Ok(Camera {
            raw_bayer: true,
            instead,
            ..
        }) => {
            let instead = instead.unwrap_or_else(|| "libcamera:0".to_owned());
            Some(
                Finding::new(
                    Code::SourceBroken,
                    subject(name),
                    format!("{uri} gives a sensor's raw mosaic, not pictures"),
                )
                .advise(format!("set {}.uri = \"{instead}\"", subject(name))),
            )
        }
        Ok(_) => None,
        Err(error) => Some(refused(name, &error)),
    }
}

/// What a device says of itself.
fn refused(name: &Name, error: &DeviceError) -> Finding {
    let (code, advice) = match error {
        DeviceError::Missing { .. } => (Code::SourceMissing, MISSING),
        DeviceError::Denied { .. } => (Code::SourcePermission, DENIED),
        DeviceError::Busy { .. } => (
            Code::SourceBusy,
            "end that program; if it is visualpath itself, all is well: try again when it is stopped",
        ),
        _ => (
            Code::SourceBroken,
            "`visualpath devices` lists the cameras that are there",
        ),
    };
    Finding::new(code, subject(name), error.to_string()).advise(advice)
}

/// Opens a source and closes it again.
pub fn open(config: &Config, name: &Name, settings: &SourceConfig) -> Finding {
    let options = match source_options(config, name, settings) {
        Ok(options) => options,
        Err(e) => return Finding::new(Code::SourceBroken, subject(name), e.to_string()),
    };
    match source::open(&options, build::clock()) {
        Ok(source) => {
            let detail = format!("opened: {}", source.info().description);
            Finding::new(Code::Source, subject(name), detail)
        }
        Err(error) => unusable(name, settings, &error),
    }
}

/// What is measured of one source.
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Its settings.
    pub settings: &'a SourceConfig,
    /// Slots of its pool.
    pub slots: usize,
    /// Whether clips are made of it.
    pub clips: bool,
    /// For how long.
    pub length: Duration,
}

/// Lets the extractors look at what the source gives for a while.
///
/// # Errors
/// What there is to say if nothing could be measured.
pub fn try_out(
    config: &Config,
    wanted: &Wanted<'_>,
    extractors: &mut [Loaded],
) -> Result<(Measured, Finding), Finding> {
    let Wanted { name, settings, .. } = wanted;
    let encoder = EncoderOptions {
        bitrate: evidence::bitrate(config),
        fps: settings.fps.unwrap_or(30.0),
        h264: evidence::h264(config),
        ..EncoderOptions::default()
    };
    let asked = Asked {
        source: source_options(config, name, settings)
            .map_err(|e| Finding::new(Code::SourceBroken, subject(name), e.to_string()))?,
        length: wanted.length,
        slots: wanted.slots,
        encode: wanted
            .clips
            .then(|| (evidence::encoder_kind(config), encoder)),
        picture: false,
    };
    let measured = measure(&asked, extractors).map_err(|e| nothing(name, settings, &e))?;
    let finding = pace(name, settings, &measured);
    Ok((measured, finding))
}

/// Pictures a second asked for.
pub fn asked_fps(settings: &SourceConfig, measured: &Measured) -> Option<f64> {
    match (settings.fps, measured.info.nominal_fps) {
        (Some(asked), Some(nominal)) if is_file(settings) => Some(asked.min(nominal)),
        (Some(asked), _) => Some(asked),
        (None, nominal) => nominal,
    }
}

/// A file can't be faster than it is.
fn is_file(settings: &SourceConfig) -> bool {
    let uri = settings.uri.strip_prefix("file:").unwrap_or(&settings.uri);
    Path::new(uri.trim_start_matches("//")).is_file() || Path::new(uri).is_file()
}

fn pace(name: &Name, settings: &SourceConfig, measured: &Measured) -> Finding {
    let what = &measured.info.description;
    let lost = match measured.lost {
        0 => String::new(),
        n => format!(", {n} lost"),
    };
    let fps = measured.fps;
    if !settings.realtime {
        let detail = format!("{what}: {fps:.0} pictures a second, as fast as it goes{lost}");
        return Finding::new(Code::Source, subject(name), detail);
    }
    let Some(asked) = asked_fps(settings, measured) else {
        let detail = format!("{what}: {fps:.1} pictures a second{lost}");
        return Finding::new(Code::Source, subject(name), detail);
    };
    let detail = format!("{what}: {fps:.1} of {asked:.1} pictures a second{lost}");
    // Too few to tell a rate.
    let few = measured.frames < 4 || measured.ended;
    if few || fps >= ENOUGH * asked {
        return Finding::new(Code::Source, subject(name), detail);
    }
    let advice = if is_file(settings) {
        "this machine can't decode it at its own pace: take a smaller or simpler video".to_owned()
    } else {
        format!(
            "a camera slows down in the dark (control exposure_dynamic_framerate or exposure_auto_priority off), on USB 2 (format = \"mjpeg\", or a blue port), and at sizes it can't do at this rate (`visualpath devices`); or ask for what it gives: source.{name}.fps = {fps:.0}"
        )
    };
    Finding::new(Code::SourceSlow, subject(name), detail).advise(advice)
}

fn nothing(name: &Name, settings: &SourceConfig, error: &MeasureError) -> Finding {
    match error {
        MeasureError::Source(error) => unusable(name, settings, error),
        MeasureError::NoPicture { outage, .. } => {
            let advice = outage.as_ref().map_or_else(
                || {
                    "check cable, power and lens cap; `visualpath devices` shows what it offers"
                        .to_owned()
                },
                |o| o.advice.clone(),
            );
            Finding::new(Code::SourceOffline, subject(name), error.to_string()).advise(advice)
        }
        MeasureError::Extractor { extractor, .. } => Finding::new(
            Code::ExtractorFailed,
            format!("extractor.{extractor}"),
            error.to_string(),
        )
        .advise("`visualpath plugins test` shows what it does with a source"),
        MeasureError::Pool(_) | MeasureError::Thread(_) | MeasureError::Panicked => {
            Finding::new(Code::SourceBroken, subject(name), error.to_string()).advise(
                "the machine has too little memory, or this is a bug: report it with the log",
            )
        }
    }
}

fn unusable(name: &Name, settings: &SourceConfig, error: &SourceError) -> Finding {
    let is_device = settings.uri.starts_with("/dev/");
    let (code, advice) = match error {
        SourceError::NotFound { .. } if is_device => (Code::SourceMissing, MISSING),
        SourceError::NotFound { .. } => (
            Code::SourceMissing,
            "correct `uri`, or copy the file there; relative paths count from the working directory",
        ),
        SourceError::Unreadable { cause, .. }
            if cause.kind() == io::ErrorKind::PermissionDenied =>
        {
            (
                Code::SourcePermission,
                if is_device {
                    "add the user that runs visualpath to the group `video` (usermod -aG video USER) and log in again"
                } else {
                    "give the user that runs visualpath the right to read it"
                },
            )
        }
        SourceError::Device(error) => return refused(name, error),
        SourceError::FfmpegMissing { .. } => {
            (Code::ProgramMissing, "Debian, Ubuntu: apt install ffmpeg")
        }
        _ => (
            Code::SourceBroken,
            "the text says what to do; `visualpath devices` lists the cameras that are there",
        ),
    };
    Finding::new(code, subject(name), error.to_string()).advise(advice)
}

fn subject(name: &Name) -> String {
    format!("source.{name}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_program_of_a_user_is_looked_for_and_never_started() {
        let dir = tempfile::tempdir().unwrap();
        let (script, trace) = (dir.path().join("my cam"), dir.path().join("ran"));
        std::fs::write(&script, format!("#!/bin/sh\n: > '{}'\n", trace.display())).unwrap();
        let found = |uri: String| {
            let settings = SourceConfig::new(uri);
            let mut found = programs(&Name::new("cam0").unwrap(), &settings);
            assert_eq!(found.len(), 1);
            found.remove(0)
        };
        let command = || format!("exec:'{}' --key hunter2", script.display());
        let missing = found(command());
        assert_eq!(missing.code, Code::ProgramMissing, "may not be executed");
        assert!(!missing.to_string().contains("hunter2"), "{missing}");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(command()).code, Code::Program);
        assert_eq!(found("exec:'open".to_owned()).code, Code::SourceBroken);
        assert!(!trace.exists(), "it was started");
    }
}
