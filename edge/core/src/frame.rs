//! What a frame is: an identity, an instant, and where its pixels lie.

use serde::{Deserialize, Serialize};

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelFormat {
    /// Planar Y, U, V, 8 bits, chroma halved both ways.
    I420,
    /// Planar Y and interleaved UV, chroma halved both ways.
    Nv12,
    /// Packed Y0 U Y1 V, chroma halved across.
    Yuyv,
    /// Packed R, G, B bytes.
    Rgb,
    /// Packed B, G, R bytes.
    Bgr,
    /// Luma only.
    Grey,
    /// Packed U Y0 V Y1, chroma halved across.
    Uyvy,
    /// Planar Y and interleaved VU, chroma halved both ways.
    Nv21,
}

/// Which luma coefficients a YUV picture was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorMatrix {
    /// ITU-R BT.601.
    #[default]
    Bt601,
    /// ITU-R BT.709.
    Bt709,
}

/// Whether luma spans 16–235 or 0–255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorRange {
    /// 16–235 (video).
    #[default]
    Limited,
    /// 0–255 (JPEG).
    Full,
}

/// How YUV samples mean colours; of no effect on RGB, BGR and grey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ColorSpec {
    /// Luma coefficients.
    pub matrix: ColorMatrix,
    /// Sample range.
    pub range: ColorRange,
}

/// One plane inside an image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Plane {
    /// Bytes from the start of the image.
    pub offset: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Used bytes of a row.
    pub row_bytes: usize,
}

/// Size, format and planes of an image; the bytes are elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageLayout {
    /// Pixel format.
    pub format: PixelFormat,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Meaning of YUV samples.
    pub color: ColorSpec,
    planes: [Plane; 3],
    plane_count: usize,
}

impl ImageLayout {
    /// The layout without padding between rows or planes. Odd sizes round chroma up.
    pub fn packed(format: PixelFormat, width: u32, height: u32, color: ColorSpec) -> Self {
        let (w, h) = (width as usize, height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let plane = |offset, row_bytes, rows| Plane {
            offset,
            stride: row_bytes,
            rows,
            row_bytes,
        };
        let none = Plane::default();
        let (planes, plane_count) = match format {
            PixelFormat::I420 => (
                [
                    plane(0, w, h),
                    plane(w * h, cw, ch),
                    plane(w * h + cw * ch, cw, ch),
                ],
                3,
            ),
            PixelFormat::Nv12 | PixelFormat::Nv21 => {
                ([plane(0, w, h), plane(w * h, cw * 2, ch), none], 2)
            }
            PixelFormat::Yuyv | PixelFormat::Uyvy => ([plane(0, cw * 4, h), none, none], 1),
            PixelFormat::Rgb | PixelFormat::Bgr => ([plane(0, w * 3, h), none, none], 1),
            PixelFormat::Grey => ([plane(0, w, h), none, none], 1),
        };
        Self {
            format,
            width,
            height,
            color,
            planes,
            plane_count,
        }
    }

    /// The layout with the places of planes that a driver chose: for each plane of the format its
    /// offset and stride in bytes. `None` if there are too few, a stride is shorter than a row, or
    /// the numbers overflow.
    pub fn placed(
        format: PixelFormat,
        width: u32,
        height: u32,
        color: ColorSpec,
        places: &[(usize, usize)],
    ) -> Option<Self> {
        let mut layout = Self::packed(format, width, height, color);
        let count = layout.plane_count;
        if places.len() < count {
            return None;
        }
        for (plane, &(offset, stride)) in layout.planes[..count].iter_mut().zip(places) {
            let end = stride.checked_mul(plane.rows)?.checked_add(offset)?;
            if stride < plane.row_bytes || end > isize::MAX.unsigned_abs() {
                return None;
            }
            (plane.offset, plane.stride) = (offset, stride);
        }
        Some(layout)
    }

    /// The planes, in the format's order.
    pub fn planes(&self) -> &[Plane] {
        &self.planes[..self.plane_count]
    }

    /// Bytes the image takes.
    pub fn bytes(&self) -> usize {
        self.planes()
            .iter()
            .map(|p| p.offset + p.stride * p.rows)
            .max()
            .unwrap_or(0)
    }

    /// The bytes of one plane inside `pixels`; `None` if `pixels` is too short or there is no such plane.
    pub fn plane<'a>(&self, pixels: &'a [u8], index: usize) -> Option<&'a [u8]> {
        let p = self.planes().get(index)?;
        pixels.get(p.offset..p.offset + p.stride * p.rows)
    }
}

/// One picture at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameMeta {
    /// Dense, +1 per captured picture of its source, never reset while running.
    pub frame_id: u64,
    /// The source's monotonic time, nanoseconds.
    pub t_ns: i64,
    /// Counts discontinuities of the source; frames of one epoch belong together.
    pub epoch: u32,
    /// Native size and format.
    pub layout: ImageLayout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sizes_round_chroma_up() {
        let l = ImageLayout::packed(PixelFormat::I420, 5, 3, ColorSpec::default());
        assert_eq!(l.bytes(), 15 + 2 * (3 * 2));
        assert_eq!(l.planes()[2].offset, 15 + 6);
        let l = ImageLayout::packed(PixelFormat::Nv12, 5, 3, ColorSpec::default());
        assert_eq!(l.bytes(), 15 + 6 * 2);
        let pixels = vec![0; l.bytes() - 1];
        assert!(l.plane(&pixels, 0).is_some());
        assert!(
            l.plane(&pixels, 1).is_none(),
            "short pixels are not a plane"
        );
    }
}
