//! The kernel's formats in our words: which we take, how their planes lie, what their colours
//! mean.

use v4l::FourCC;
use v4l::v4l_sys as raw;
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};

use super::device::PixFormat;
use crate::encode::Codec;

/// What a format's buffers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Pixels.
    Pixels(PixelFormat),
    /// One packet each.
    Packets(Codec),
}

/// What we make of a format; `None` if nothing.
pub(super) fn kind(fourcc: FourCC) -> Option<Kind> {
    Some(match &fourcc.repr {
        b"YUYV" => Kind::Pixels(PixelFormat::Yuyv),
        b"UYVY" => Kind::Pixels(PixelFormat::Uyvy),
        b"NV12" | b"NM12" => Kind::Pixels(PixelFormat::Nv12),
        b"NV21" | b"NM21" => Kind::Pixels(PixelFormat::Nv21),
        b"YU12" | b"YM12" => Kind::Pixels(PixelFormat::I420),
        b"GREY" => Kind::Pixels(PixelFormat::Grey),
        b"RGB3" => Kind::Pixels(PixelFormat::Rgb),
        b"BGR3" => Kind::Pixels(PixelFormat::Bgr),
        b"MJPG" | b"JPEG" => Kind::Packets(Codec::Mjpeg),
        b"H264" => Kind::Packets(Codec::H264),
        _ => return None,
    })
}

/// Whether it is a sensor's mosaic: `BA81`, `pRAA`, `RG10`, `GB12`, …
pub(super) fn is_bayer(fourcc: &str) -> bool {
    let plain = ["BG", "GB", "BA", "RG", "GR"]
        .iter()
        .filter_map(|order| fourcc.strip_prefix(order))
        .any(|bits| ["81", "10", "12", "14", "16"].contains(&bits));
    let first = ["GRBG", "RGGB", "BYR2", "GBRG"].contains(&fourcc);
    // Packed (`pBAA`, `pgCC`), compressed (`aBA8`, `bBA8`), the Pi's own (`PC1B`).
    let mut chars = fourcc.chars();
    let packed = matches!(chars.next(), Some('p' | 'a' | 'b'))
        && matches!(chars.next(), Some('B' | 'G' | 'g' | 'R'));
    let pi = fourcc.starts_with("PC1") || fourcc.starts_with("PC2");
    plain || first || packed || pi
}

/// Four letters for people.
pub(super) fn text(fourcc: FourCC) -> String {
    let printable = |b: &u8| {
        if b.is_ascii_graphic() {
            char::from(*b)
        } else {
            ' '
        }
    };
    let text: String = fourcc.repr.iter().map(printable).collect();
    text.trim_end().to_owned()
}

/// What the samples mean. Defaults as the kernel defines them (`V4L2_MAP_*_DEFAULT` in
/// videodev2.h).
pub(super) fn color(format: &PixFormat) -> ColorSpec {
    if let Some(Kind::Packets(Codec::Mjpeg)) = kind(format.fourcc) {
        // JFIF says so, whatever drivers say.
        return ColorSpec {
            matrix: ColorMatrix::Bt601,
            range: ColorRange::Full,
        };
    }
    let enc = match format.ycbcr_enc {
        raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_DEFAULT => match format.colorspace {
            raw::v4l2_colorspace_V4L2_COLORSPACE_REC709
            | raw::v4l2_colorspace_V4L2_COLORSPACE_DCI_P3 => {
                raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_709
            }
            raw::v4l2_colorspace_V4L2_COLORSPACE_BT2020 => {
                raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_BT2020
            }
            raw::v4l2_colorspace_V4L2_COLORSPACE_SMPTE240M => {
                raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_SMPTE240M
            }
            _ => raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_601,
        },
        enc => enc,
    };
    // BT.2020 and SMPTE 240M have no word of ours; their coefficients lie nearest to BT.709's.
    let matrix = match enc {
        raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_601
        | raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_XV601
        | raw::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_SYCC => ColorMatrix::Bt601,
        _ => ColorMatrix::Bt709,
    };
    let full = match format.quantization {
        raw::v4l2_quantization_V4L2_QUANTIZATION_FULL_RANGE => true,
        raw::v4l2_quantization_V4L2_QUANTIZATION_LIM_RANGE => false,
        _ => format.colorspace == raw::v4l2_colorspace_V4L2_COLORSPACE_JPEG,
    };
    let range = if full {
        ColorRange::Full
    } else {
        ColorRange::Limited
    };
    ColorSpec { matrix, range }
}

/// Where the picture's planes lie in the driver's buffer, if it is one piece of memory whose
/// places make sense: strides as the driver says.
pub(super) fn layout_in_buffer(format: &PixFormat, pixels: PixelFormat) -> Option<ImageLayout> {
    let [memory] = format.planes.as_slice() else {
        return None;
    };
    let (w, h) = (format.width, format.height);
    let color = color(format);
    let packed = ImageLayout::packed(pixels, w, h, color);
    let rows = |index: usize| packed.planes().get(index).map_or(0, |p| p.rows);
    // A driver that leaves it out means no padding.
    let row_bytes = packed.planes().first()?.row_bytes;
    let stride = match memory.stride as usize {
        0 => row_bytes,
        stride => stride,
    };
    let luma = stride.checked_mul(rows(0))?;
    let places = match pixels {
        PixelFormat::I420 => {
            // The kernel's chroma rows are half as long, padding included.
            let half = stride.div_ceil(2);
            let chroma = half.checked_mul(rows(1))?;
            vec![(0, stride), (luma, half), (luma.checked_add(chroma)?, half)]
        }
        // An odd width's chroma row takes one byte more than its luma.
        PixelFormat::Nv12 | PixelFormat::Nv21 => {
            let chroma_row = packed.planes().get(1)?.row_bytes;
            vec![(0, stride), (luma, stride.max(chroma_row))]
        }
        _ => vec![(0, stride)],
    };
    let layout = ImageLayout::placed(pixels, w, h, color, &places)?;
    (layout.bytes() <= memory.bytes as usize).then_some(layout)
}

#[cfg(test)]
mod tests {
    use super::super::device::PlaneFormat;
    use super::*;

    fn format(fourcc: &[u8; 4], stride: u32, bytes: u32) -> PixFormat {
        PixFormat {
            planes: vec![PlaneFormat { stride, bytes }],
            ..PixFormat::asked(FourCC::new(fourcc), 640, 480)
        }
    }

    #[test]
    fn colours_mean_what_the_kernels_defaults_say() {
        use {ColorMatrix::*, ColorRange::*};
        let (srgb, rec709, m170, jpeg, bt2020) = (8, 3, 1, 7, 10);
        for (colorspace, enc, quant, matrix, range) in [
            (0, 0, 0, Bt601, Limited),
            (srgb, 0, 0, Bt601, Limited),
            (m170, 0, 0, Bt601, Limited),
            (rec709, 0, 0, Bt709, Limited),
            (jpeg, 0, 0, Bt601, Full),
            (bt2020, 0, 0, Bt709, Limited),
            (srgb, 2, 1, Bt709, Full),
            (rec709, 1, 2, Bt601, Limited),
            (rec709, 3, 1, Bt601, Full),
            (jpeg, 0, 2, Bt601, Limited),
        ] {
            let mut f = format(b"YUYV", 1280, 640 * 480 * 2);
            (f.colorspace, f.ycbcr_enc, f.quantization) = (colorspace, enc, quant);
            assert_eq!(
                color(&f),
                ColorSpec { matrix, range },
                "{colorspace} {enc} {quant}"
            );
        }
        let mut f = format(b"MJPG", 0, 1000);
        (f.colorspace, f.quantization) = (rec709, 2);
        assert_eq!((color(&f).matrix, color(&f).range), (Bt601, Full));
    }

    #[test]
    fn planes_lie_where_the_drivers_stride_puts_them() {
        let nv12 = layout_in_buffer(&format(b"NV12", 704, 704 * 720), PixelFormat::Nv12).unwrap();
        assert_eq!(
            (nv12.planes()[1].offset, nv12.planes()[1].stride),
            (704 * 480, 704)
        );
        let i420 = layout_in_buffer(&format(b"YU12", 704, 704 * 720), PixelFormat::I420).unwrap();
        assert_eq!(
            (i420.planes()[2].offset, i420.planes()[2].stride),
            (704 * 600, 352)
        );
        let none = layout_in_buffer(&format(b"YUYV", 0, 640 * 480 * 2), PixelFormat::Yuyv).unwrap();
        assert_eq!(none.planes()[0].stride, 1280);
        // A buffer smaller than its rows, and rows shorter than a picture's, are lies.
        assert!(layout_in_buffer(&format(b"YUYV", 1280, 640 * 480), PixelFormat::Yuyv).is_none());
        assert!(
            layout_in_buffer(&format(b"YUYV", 640, 640 * 480 * 2), PixelFormat::Yuyv).is_none()
        );
    }

    #[test]
    fn a_sensors_mosaic_is_told_from_pixels() {
        for bayer in [
            "BA81", "GBRG", "GRBG", "RGGB", "BG10", "GB10", "BA10", "RG10", "pBAA", "pgAA", "pRCC",
            "PC1B", "BYR2", "RG16",
        ] {
            assert!(is_bayer(bayer), "{bayer}");
        }
        for pixels in [
            "YUYV", "NV12", "BGR3", "RGB3", "RGBP", "GREY", "MJPG", "H264", "BX24", "RX24", "BA24",
            "AR24",
        ] {
            assert!(!is_bayer(pixels), "{pixels}");
        }
    }
}
