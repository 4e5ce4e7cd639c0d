//! Views: the forms in which extractors ask for a frame.

use serde::{Deserialize, Serialize};

use crate::frame::{FrameMeta, ImageLayout, PixelFormat};

/// Pixel format an extractor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViewFormat {
    /// Whatever the source delivers.
    #[default]
    Native,
    /// Packed RGB.
    Rgb,
    /// Packed BGR.
    Bgr,
    /// Luma, full range.
    Grey,
}

/// How a picture is brought to another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Both axes scaled on their own.
    #[default]
    Stretch,
    /// Scaled as one, centred, the rest black.
    Letterbox,
}

/// How pixels are resampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Two-tap linear interpolation at pixel centres, as most detectors were trained with.
    #[default]
    Bilinear,
    /// Averages every source pixel under the target pixel: no aliasing when shrinking a lot.
    Area,
}

/// What an extractor wants to look at. Equal specs share one view of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ViewSpec {
    /// Pixel format.
    pub format: ViewFormat,
    /// Width and height in pixels; `None` is full size.
    pub size: Option<(u32, u32)>,
    /// Shape.
    pub fit: Fit,
    /// Resampling.
    pub filter: Filter,
}

/// A rectangle in units of the whole frame (0–1); a letterbox reaches beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Roi {
    /// Left edge.
    pub l: f64,
    /// Top edge.
    pub t: f64,
    /// Right edge.
    pub r: f64,
    /// Bottom edge.
    pub b: f64,
}

impl Roi {
    /// The whole frame.
    pub const FULL: Self = Self {
        l: 0.0,
        t: 0.0,
        r: 1.0,
        b: 1.0,
    };

    /// A point of the view (0–1 of the view) in frame units.
    pub fn to_frame(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.l + x * (self.r - self.l),
            self.t + y * (self.b - self.t),
        )
    }
}

impl ViewSpec {
    /// Layout and rectangle of this view of a frame with layout `native`.
    pub fn resolve(&self, native: &ImageLayout) -> (ImageLayout, Roi) {
        let (width, height) = self.size.unwrap_or((native.width, native.height));
        let format = match self.format {
            ViewFormat::Native => native.format,
            ViewFormat::Rgb => PixelFormat::Rgb,
            ViewFormat::Bgr => PixelFormat::Bgr,
            ViewFormat::Grey => PixelFormat::Grey,
        };
        let layout = ImageLayout::packed(format, width, height, native.color);
        let roi = match self.fit {
            Fit::Stretch => Roi::FULL,
            Fit::Letterbox => {
                let (iw, ih) = self.content(native);
                let (ox, oy) = ((width - iw) / 2, (height - ih) / 2);
                let (ow, oh) = (f64::from(iw), f64::from(ih));
                let (l, t) = (-f64::from(ox) / ow, -f64::from(oy) / oh);
                Roi {
                    l,
                    t,
                    r: l + f64::from(width) / ow,
                    b: t + f64::from(height) / oh,
                }
            }
        };
        (layout, roi)
    }

    /// Size in view pixels of the picture inside the view (smaller than the view only in a letterbox).
    pub fn content(&self, native: &ImageLayout) -> (u32, u32) {
        let (width, height) = self.size.unwrap_or((native.width, native.height));
        if self.fit == Fit::Stretch {
            return (width, height);
        }
        let scale = (f64::from(width) / f64::from(native.width.max(1)))
            .min(f64::from(height) / f64::from(native.height.max(1)));
        let side = |native: u32, limit: u32| {
            let s = (f64::from(native) * scale)
                .round()
                .clamp(1.0, f64::from(limit.max(1)));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to 1..=limit"
            )]
            let s = s as u32;
            s
        };
        (side(native.width, width), side(native.height, height))
    }

    /// Whether the view is the frame itself, so that nothing has to be made. A view is packed; a
    /// frame with a driver's padding in it is not, and has to be copied for whoever wants it native.
    pub fn is_native(&self, native: &ImageLayout) -> bool {
        let (layout, roi) = self.resolve(native);
        layout == *native && roi == Roi::FULL
    }
}

/// A frame as one extractor sees it.
#[derive(Debug, Clone, Copy)]
pub struct FrameView<'a> {
    /// Identity, instant and native size.
    pub meta: FrameMeta,
    /// Layout of `pixels`.
    pub layout: ImageLayout,
    /// Where the view lies in the frame.
    pub roi: Roi,
    /// The view's bytes, at least `layout.bytes()` of them.
    pub pixels: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::ColorSpec;

    #[test]
    fn a_frame_with_padding_is_no_view_of_itself() {
        let (format, color) = (PixelFormat::Grey, ColorSpec::default());
        let packed = ImageLayout::packed(format, 60, 4, color);
        let padded = ImageLayout::placed(format, 60, 4, color, &[(0, 64)]).unwrap();
        let native = ViewSpec::default();
        assert!(native.is_native(&packed) && !native.is_native(&padded));
        assert_eq!(native.resolve(&padded).0, packed);
    }

    #[test]
    fn a_letterbox_maps_its_corners_onto_the_frame() {
        let native = ImageLayout::packed(PixelFormat::I420, 768, 576, ColorSpec::default());
        let spec = ViewSpec {
            format: ViewFormat::Rgb,
            size: Some((192, 192)),
            fit: Fit::Letterbox,
            ..ViewSpec::default()
        };
        assert_eq!(spec.content(&native), (192, 144));
        let (_, roi) = spec.resolve(&native);
        // The picture's top left corner lies 24 rows below the view's.
        let (x, y) = roi.to_frame(0.0, 24.0 / 192.0);
        assert!(x.abs() < 1e-12 && y.abs() < 1e-12, "{x} {y}");
        let (x, y) = roi.to_frame(1.0, 168.0 / 192.0);
        assert!(
            (x - 1.0).abs() < 1e-12 && (y - 1.0).abs() < 1e-12,
            "{x} {y}"
        );
        assert!(roi.t < 0.0 && roi.b > 1.0);
    }
}
