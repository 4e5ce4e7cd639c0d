//! Which of a camera's formats to take.

use nokhwa::utils::{CameraFormat, FrameFormat};
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};

use super::super::{SourceOptions, WantedFormat};

/// What the options ask for, where they ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wanted {
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
    pub(super) fps: Option<f64>,
    pub(super) format: WantedFormat,
}

/// Asked of a camera when nothing is asked of us.
const USUAL: (u32, u32, f64) = (1280, 720, 30.0);

impl Wanted {
    pub(super) fn of(opts: &SourceOptions) -> Self {
        Self {
            width: opts.width,
            height: opts.height,
            fps: opts.fps,
            format: opts.format,
        }
    }

    /// The format closest to what is wanted: first in size, then in rate, then the one that is
    /// cheapest to use.
    pub(super) fn closest(&self, offered: &[CameraFormat]) -> Option<CameraFormat> {
        let width = i64::from(self.width.unwrap_or(USUAL.0));
        let height = i64::from(self.height.unwrap_or(USUAL.1));
        let fps = self.fps.unwrap_or(USUAL.2);
        let key = |f: &CameraFormat| {
            let size =
                (i64::from(f.width()) - width).abs() + (i64::from(f.height()) - height).abs();
            // Too slow is worse than too fast.
            let slow = (fps - f64::from(f.frame_rate())).max(0.0);
            let fast = (f64::from(f.frame_rate()) - fps).max(0.0);
            (size, slow, fast, cost(f.format()))
        };
        let usable = |f: &&CameraFormat| {
            self.takes(f.format()) && f.width() > 0 && f.height() > 0 && f.frame_rate() > 0
        };
        offered.iter().filter(usable).copied().min_by(|a, b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0)
                .then(a.1.total_cmp(&b.1))
                .then(a.2.total_cmp(&b.2))
                .then(a.3.cmp(&b.3))
        })
    }

    fn takes(&self, format: FrameFormat) -> bool {
        match self.format {
            WantedFormat::Auto => true,
            WantedFormat::Mjpeg => format == FrameFormat::MJPEG,
            WantedFormat::H264 => false,
            WantedFormat::Pixels(pixels) => pixels_of(format) == Some(pixels),
        }
    }
}

/// The lower, the less work a picture makes.
fn cost(format: FrameFormat) -> u8 {
    match format {
        FrameFormat::NV12 => 0,
        FrameFormat::YUYV => 1,
        FrameFormat::MJPEG => 2,
        FrameFormat::RAWRGB => 3,
        FrameFormat::RAWBGR => 4,
        FrameFormat::GRAY => 5,
    }
}

/// The pixels, unless it is JPEG.
fn pixels_of(format: FrameFormat) -> Option<PixelFormat> {
    match format {
        FrameFormat::MJPEG => None,
        FrameFormat::YUYV => Some(PixelFormat::Yuyv),
        FrameFormat::NV12 => Some(PixelFormat::Nv12),
        FrameFormat::GRAY => Some(PixelFormat::Grey),
        FrameFormat::RAWRGB => Some(PixelFormat::Rgb),
        FrameFormat::RAWBGR => Some(PixelFormat::Bgr),
    }
}

/// How a raw picture lies in memory; `None` for JPEG. The library does not tell what the samples
/// mean, so they count as what most webcams give: BT.601, limited range.
pub(super) fn layout_of(format: &CameraFormat) -> Option<ImageLayout> {
    let color = ColorSpec {
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Limited,
    };
    pixels_of(format.format())
        .map(|pixels| ImageLayout::packed(pixels, format.width(), format.height(), color))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats() -> Vec<CameraFormat> {
        let new = CameraFormat::new_from;
        vec![
            new(640, 480, FrameFormat::YUYV, 30),
            new(640, 480, FrameFormat::MJPEG, 30),
            new(1280, 720, FrameFormat::YUYV, 10),
            new(1280, 720, FrameFormat::MJPEG, 30),
            new(1280, 720, FrameFormat::MJPEG, 60),
            new(1920, 1080, FrameFormat::MJPEG, 30),
        ]
    }

    fn chosen(wanted: Wanted) -> Option<(u32, FrameFormat, u32)> {
        wanted
            .closest(&formats())
            .map(|f| (f.width(), f.format(), f.frame_rate()))
    }

    #[test]
    fn size_goes_before_rate_and_rate_before_cost() {
        let nothing = Wanted {
            width: None,
            height: None,
            fps: None,
            format: WantedFormat::Auto,
        };
        assert_eq!(chosen(nothing), Some((1280, FrameFormat::MJPEG, 30)));
        let slow = Wanted {
            fps: Some(5.0),
            ..nothing
        };
        assert_eq!(chosen(slow), Some((1280, FrameFormat::YUYV, 10)));
        let vga = Wanted {
            width: Some(600),
            height: Some(480),
            ..nothing
        };
        assert_eq!(chosen(vga), Some((640, FrameFormat::YUYV, 30)));
        let pixels = |p| Wanted {
            format: WantedFormat::Pixels(p),
            ..nothing
        };
        assert_eq!(
            chosen(pixels(PixelFormat::Yuyv)),
            Some((1280, FrameFormat::YUYV, 10))
        );
        assert_eq!(chosen(pixels(PixelFormat::Grey)), None);
    }

    #[test]
    fn a_layout_is_packed_and_a_jpeg_has_none() {
        let nv12 = CameraFormat::new_from(640, 480, FrameFormat::NV12, 30);
        assert_eq!(layout_of(&nv12).unwrap().bytes(), 640 * 480 * 3 / 2);
        let jpeg = CameraFormat::new_from(640, 480, FrameFormat::MJPEG, 30);
        assert!(layout_of(&jpeg).is_none());
    }
}
