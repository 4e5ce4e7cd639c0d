//! Y4M: raw pictures behind a line each. Source: `yuv4mpeg(5)` of the mjpegtools.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};
use visualpath_frames::MAX_SIDE;

/// First bytes of a stream.
pub(super) const MAGIC: &[u8] = b"YUV4MPEG2";
/// First bytes of each picture.
const FRAME: &[u8] = b"FRAME";
/// A longer line is none.
pub(super) const MAX_LINE: usize = 1024;

/// What the stream's first line says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Header {
    pub(super) layout: ImageLayout,
    /// Pictures a second.
    pub(super) fps: Option<f64>,
}

impl Header {
    /// Of the first line, without its end. The error says what can't be read.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|_| "its first line is no text".to_owned())?;
        let mut words = text.split(' ');
        if words.next().map(str::as_bytes) != Some(MAGIC) {
            return Err("it does not begin with YUV4MPEG2".to_owned());
        }
        let (mut width, mut height, mut fps) = (None, None, None);
        let mut format = PixelFormat::I420;
        let mut color = ColorSpec {
            matrix: ColorMatrix::Bt601,
            range: ColorRange::Limited,
        };
        for word in words.filter(|w| !w.is_empty()) {
            let (tag, value) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            let side = || {
                let side = value.parse().ok();
                side.filter(|s| (1..=MAX_SIDE).contains(s))
                    .ok_or_else(|| format!("`{word}`: expected are 1 to {MAX_SIDE} pixels"))
            };
            match tag {
                "W" => width = Some(side()?),
                "H" => height = Some(side()?),
                "F" => fps = rate(value),
                "C" => {
                    format = match value {
                        "420" | "420jpeg" | "420mpeg2" | "420paldv" => PixelFormat::I420,
                        "mono" => PixelFormat::Grey,
                        _ => {
                            return Err(format!(
                                "`{word}`: only 4:2:0 and grey of 8 bits are taken; convert it (ffmpeg: `-pix_fmt yuv420p`)"
                            ));
                        }
                    };
                }
                "X" if value == "COLORRANGE=FULL" => color.range = ColorRange::Full,
                _ => {}
            }
        }
        let (Some(width), Some(height)) = (width, height) else {
            return Err("its first line lacks W or H".to_owned());
        };
        if format == PixelFormat::Grey {
            // Grey is full range by definition here.
            color.range = ColorRange::Full;
        }
        Ok(Self {
            layout: ImageLayout::packed(format, width, height, color),
            fps,
        })
    }
}

fn rate(value: &str) -> Option<f64> {
    let (num, den) = value.split_once(':')?;
    let (num, den): (u32, u32) = (num.parse().ok()?, den.parse().ok()?);
    (num > 0 && den > 0).then(|| f64::from(num) / f64::from(den))
}

/// Whether a line, without its end, begins a picture.
pub(super) fn is_frame(line: &[u8]) -> bool {
    line.strip_prefix(FRAME)
        .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b' '))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_line_says_size_rate_and_meaning() {
        let h = Header::parse(
            b"YUV4MPEG2 W640 H480 F30000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL",
        )
        .unwrap();
        assert_eq!((h.layout.width, h.layout.height), (640, 480));
        assert_eq!(h.layout.format, PixelFormat::I420);
        assert_eq!(h.layout.color.range, ColorRange::Full);
        assert!((h.fps.unwrap() - 29.97).abs() < 0.001);
        let grey = Header::parse(b"YUV4MPEG2 W6 H4 Cmono").unwrap();
        assert_eq!((grey.layout.format, grey.fps), (PixelFormat::Grey, None));
        for bad in [
            "YUV4MPEG2 W640",
            "YUV4MPEG2 W0 H4",
            "YUV4MPEG2 W4 H4 C422",
            "hello",
            "YUV4MPEG2 W99999 H4",
        ] {
            assert!(Header::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(is_frame(b"FRAME") && is_frame(b"FRAME Ip") && !is_frame(b"FRAMES"));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(YUV4MPEG2)?[ -~é]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _outcome = Header::parse(line.as_bytes()).is_ok();
            let _outcome = Header::parse(&bytes).is_ok();
        }
    }
}
