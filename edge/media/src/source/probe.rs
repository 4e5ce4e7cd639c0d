//! What a file holds, asked of ffprobe before it is decoded, and how ffmpeg must be told to give
//! planar 4:2:0 out of it without changing a sample where that can be avoided.

use std::path::Path;

use serde::Deserialize;
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec};

use super::SourceError;
use super::ffmpeg::{Child, Tools, file_arg};

/// The first video stream of a file that is not a cover picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Probe {
    pub(super) codec: String,
    pub(super) nominal_fps: Option<f64>,
    pub(super) duration_ns: Option<i64>,
    pub(super) color: ColorSpec,
    /// ffmpeg's `-vf`, where samples have to be converted.
    pub(super) filter: Option<String>,
    /// Whether this ffmpeg knows `-fps_mode` (5.1) or still calls it `-vsync`.
    pub(super) has_fps_mode: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    program_version: Version,
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
}

#[derive(Debug, Default, Deserialize)]
struct Format {
    #[serde(default)]
    format_name: String,
    duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stream {
    codec_name: String,
    pix_fmt: String,
    avg_frame_rate: String,
    r_frame_rate: String,
    duration: Option<String>,
    color_range: String,
    color_space: String,
}

/// Asks ffprobe. `head` is the file's beginning, to tell a broken video from something else.
pub(super) fn probe(tools: &Tools, file: &Path, head: &[u8]) -> Result<Probe, SourceError> {
    let args = [
        "-hide_banner",
        "-v",
        "error",
        "-select_streams",
        "V:0",
        "-show_program_version",
        "-show_entries",
        "stream=codec_name,pix_fmt,avg_frame_rate,r_frame_rate,duration,color_range,color_space:format=format_name,duration",
        "-of",
        "json",
    ];
    let mut child = Child::spawn(
        "ffprobe",
        &tools.ffprobe,
        file,
        args.map(Into::into).into_iter().chain([file_arg(file)]),
    )?;
    let out = child.read_all(1 << 20)?;
    let (status, said) = child.finish();
    let not_a_video = |detail: String| SourceError::NotAVideo {
        file: file.to_owned(),
        detail,
    };
    if !status.success() {
        let said = said.summary(file);
        // ffprobe's words on a file without its index, or with a wrong one, and on a text are the
        // same; the file's first bytes tell which it is.
        return Err(if starts_like_a_video(head) {
            SourceError::Damaged {
                file: file.to_owned(),
                frames_delivered: 0,
                detail: said,
            }
        } else {
            not_a_video(said)
        });
    }
    let answer: Answer = serde_json::from_slice(&out).map_err(|e| SourceError::Decoder {
        program: "ffprobe",
        file: file.to_owned(),
        frames_delivered: 0,
        detail: format!("its answer can't be read: {e}"),
    })?;
    let format = answer.format.format_name;
    // ffmpeg renders any text as a terminal's picture.
    if format == "tty" {
        return Err(not_a_video("it is a text".to_owned()));
    }
    let Some(stream) = answer.streams.first() else {
        return Err(not_a_video(format!(
            "it is a file of format {format} without a video stream"
        )));
    };
    let (filter, color) = picture_filter(&stream.pix_fmt, &stream.color_range, &stream.color_space);
    let duration = stream.duration.as_ref().or(answer.format.duration.as_ref());
    Ok(Probe {
        codec: stream.codec_name.clone(),
        nominal_fps: rate(&stream.avg_frame_rate).or_else(|| rate(&stream.r_frame_rate)),
        duration_ns: duration.and_then(|d| seconds_to_ns(d)),
        color,
        filter,
        has_fps_mode: has_fps_mode(&answer.program_version.version),
    })
}

fn starts_like_a_video(head: &[u8]) -> bool {
    let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|h| h.starts_with(magic));
    at(4, b"ftyp")
        || at(4, b"moov")
        || at(4, b"mdat")
        || (at(0, b"RIFF") && at(8, b"AVI "))
        || at(0, &[0x1A, 0x45, 0xDF, 0xA3])
        || at(0, b"FLV\x01")
        || at(0, b"OggS")
        || at(0, b"YUV4MPEG2")
}

/// ffmpeg's filter that gives planar 4:2:0 of 8 bits, and what its samples then mean.
///
/// BT.601 and BT.709, limited and full, are handed on as they are: [`ColorSpec`] can say them, so
/// nothing is converted. An untagged file counts as BT.601 limited, as ffmpeg and OpenCV have it.
/// Everything else (RGB, BT.2020, …) becomes BT.601 limited. The filter is left out where it would
/// have nothing to do, because it would copy every picture all the same.
fn picture_filter(pix_fmt: &str, range: &str, space: &str) -> (Option<String>, ColorSpec) {
    let is_yuv = pix_fmt.starts_with("yuv") || pix_fmt.starts_with("nv");
    let matrix = match space {
        "bt709" => Some(ColorMatrix::Bt709),
        "" | "unknown" | "unspecified" | "reserved" | "bt470bg" | "smpte170m" => {
            Some(ColorMatrix::Bt601)
        }
        _ => None,
    };
    let (Some(matrix), true) = (matrix, is_yuv) else {
        let filter = "scale=out_color_matrix=bt601:out_range=limited".to_owned();
        return (Some(filter), ColorSpec::default());
    };
    let range = if range == "pc" || pix_fmt.starts_with("yuvj") {
        ColorRange::Full
    } else {
        ColorRange::Limited
    };
    let word = match range {
        ColorRange::Full => "full",
        ColorRange::Limited => "limited",
    };
    let filter = (pix_fmt != "yuv420p").then(|| format!("scale=in_range={word}:out_range={word}"));
    (filter, ColorSpec { matrix, range })
}

/// `30000/1001`, as ffprobe writes rates; `0/0` is none.
fn rate(text: &str) -> Option<f64> {
    let (num, den) = text.split_once('/')?;
    let (num, den): (f64, f64) = (num.parse().ok()?, den.parse().ok()?);
    let fps = num / den;
    (fps.is_finite() && (1e-3..=1e4).contains(&fps)).then_some(fps)
}

fn seconds_to_ns(text: &str) -> Option<i64> {
    let ns = text.parse::<f64>().ok()? * 1e9;
    if !(ns.is_finite() && (0.0..=9e18).contains(&ns)) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "within 0..=9e18")]
    let ns = ns.round() as i64;
    Some(ns)
}

/// `5.1.9-0+deb12u1`, `4.4.2-0ubuntu0.22.04.1`, `n6.0`; a build from git (`N-…`) is newer.
fn has_fps_mode(version: &str) -> bool {
    let mut numbers = version
        .trim_start_matches('n')
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 1),
        (Some(Ok(major)), _) => major > 5,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_decide_between_fps_mode_and_vsync() {
        for (version, has) in [
            ("4.4.2-0ubuntu0.22.04.1", false),
            ("5.0", false),
            ("5.1.9-0+deb12u1", true),
            ("6.1.1-3ubuntu5", true),
            ("7.1-full_build", true),
            ("n7.0", true),
            ("N-109541-gabc", true),
            ("", true),
        ] {
            assert_eq!(has_fps_mode(version), has, "{version}");
        }
    }

    #[test]
    fn samples_are_left_alone_where_their_meaning_can_be_said() {
        let spec = |matrix, range| ColorSpec { matrix, range };
        use ColorMatrix::{Bt601, Bt709};
        use ColorRange::{Full, Limited};
        for (fmt, range, space, filtered, color) in [
            ("yuv420p", "unknown", "unknown", false, spec(Bt601, Limited)),
            ("yuv420p", "tv", "bt709", false, spec(Bt709, Limited)),
            ("yuv420p", "pc", "smpte170m", false, spec(Bt601, Full)),
            ("yuvj420p", "pc", "bt470bg", true, spec(Bt601, Full)),
            ("yuv422p", "tv", "bt709", true, spec(Bt709, Limited)),
            ("yuv420p10le", "tv", "bt2020nc", true, spec(Bt601, Limited)),
            ("rgb24", "pc", "gbr", true, spec(Bt601, Limited)),
            ("gray", "", "", true, spec(Bt601, Limited)),
        ] {
            let (filter, got) = picture_filter(fmt, range, space);
            assert_eq!(
                (filter.is_some(), got),
                (filtered, color),
                "{fmt} {range} {space}"
            );
        }
    }

    #[test]
    fn odd_rates_and_lengths_are_none() {
        assert_eq!(rate("10/1"), Some(10.0));
        assert!(rate("30000/1001").is_some_and(|r| (r - 29.97).abs() < 0.01));
        for bad in ["0/0", "1/0", "", "x/1", "-5/1"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
        assert_eq!(seconds_to_ns("79.500000"), Some(79_500_000_000));
        assert_eq!(seconds_to_ns("N/A"), None);
        assert_eq!(seconds_to_ns("1e300"), None);
    }
}
