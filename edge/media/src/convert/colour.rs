//! Colour: YUV to RGB by the `yuv` crate (SIMD), and the small conversions around it.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};
use yuv::{
    YuvBiPlanarImage, YuvConversionMode, YuvError, YuvPackedImage, YuvPlanarImage, YuvRange,
    YuvStandardMatrix,
};

use super::resample::{Rows, RowsMut};

fn meaning(color: ColorSpec) -> (YuvRange, YuvStandardMatrix) {
    let range = match color.range {
        ColorRange::Limited => YuvRange::Limited,
        ColorRange::Full => YuvRange::Full,
    };
    let matrix = match color.matrix {
        ColorMatrix::Bt601 => YuvStandardMatrix::Bt601,
        ColorMatrix::Bt709 => YuvStandardMatrix::Bt709,
    };
    (range, matrix)
}

/// Sizes were checked when the pool was made; a stride that does not fit is refused by `yuv`.
fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn in_words(result: Result<(), YuvError>) -> Result<(), String> {
    result.map_err(|e| e.to_string())
}

/// Three planes of the same size to RGB or BGR.
pub(super) fn yuv444_to_rgb(
    planes: &[Vec<u8>; 3],
    (width, height): (usize, usize),
    color: ColorSpec,
    out: RowsMut<'_>,
    bgr: bool,
) -> Result<(), String> {
    let [y, u, v] = planes;
    let image = planar([y, u, v], [width, width], (width, height));
    let (range, matrix) = meaning(color);
    let convert = if bgr {
        yuv::yuv444_to_bgr
    } else {
        yuv::yuv444_to_rgb
    };
    let stride = u32_of(out.stride);
    in_words(convert(&image, out.bytes, stride, range, matrix))
}

fn planar<'a>(
    [y, u, v]: [&'a [u8]; 3],
    [luma_stride, chroma_stride]: [usize; 2],
    (width, height): (usize, usize),
) -> YuvPlanarImage<'a, u8> {
    YuvPlanarImage {
        y_plane: y,
        y_stride: u32_of(luma_stride),
        u_plane: u,
        u_stride: u32_of(chroma_stride),
        v_plane: v,
        v_stride: u32_of(chroma_stride),
        width: u32_of(width),
        height: u32_of(height),
    }
}

/// A whole picture to RGB or BGR of its own size. Each chroma sample counts for the pixels it was
/// taken over, as OpenCV has it.
pub(super) fn unscaled_to_rgb(
    native: &ImageLayout,
    src: &[u8],
    out: RowsMut<'_>,
    bgr: bool,
) -> Result<(), String> {
    let (range, matrix) = meaning(native.color);
    let plane = |i| native.plane(src, i).unwrap_or(&[]);
    let stride = |i: usize| native.planes().get(i).map_or(0, |p| p.stride);
    let size = (native.width as usize, native.height as usize);
    let out_stride = u32_of(out.stride);
    in_words(match native.format {
        PixelFormat::I420 => {
            let image = planar([plane(0), plane(1), plane(2)], [stride(0), stride(1)], size);
            let convert = if bgr {
                yuv::yuv420_to_bgr
            } else {
                yuv::yuv420_to_rgb
            };
            convert(&image, out.bytes, out_stride, range, matrix)
        }
        PixelFormat::Nv12 => {
            let image = YuvBiPlanarImage {
                y_plane: plane(0),
                y_stride: u32_of(stride(0)),
                uv_plane: plane(1),
                uv_stride: u32_of(stride(1)),
                width: native.width,
                height: native.height,
            };
            let convert = if bgr {
                yuv::yuv_nv12_to_bgr
            } else {
                yuv::yuv_nv12_to_rgb
            };
            let mode = YuvConversionMode::Balanced;
            convert(&image, out.bytes, out_stride, range, matrix, mode)
        }
        _ => {
            let image = YuvPackedImage {
                yuy: plane(0),
                yuy_stride: u32_of(stride(0)),
                width: native.width,
                height: native.height,
            };
            let convert = if bgr {
                yuv::yuyv422_to_bgr
            } else {
                yuv::yuyv422_to_rgb
            };
            convert(&image, out.bytes, out_stride, range, matrix)
        }
    })
}

/// Takes one byte in `step` out of every row, for each of the targets from its own first byte.
pub(super) fn take_apart(
    src: Rows<'_>,
    (width, height): (usize, usize),
    step: usize,
    targets: [(&mut Vec<u8>, usize); 2],
) {
    for (target, first) in targets {
        target.resize(width * height, 0);
        let rows = src.bytes.chunks(src.stride.max(1));
        for (row, out) in rows.zip(target.chunks_exact_mut(width.max(1))) {
            let from = row.get(first..).unwrap_or(&[]).iter().step_by(step);
            for (out, &v) in out.iter_mut().zip(from) {
                *out = v;
            }
        }
    }
}

/// The luma of a packed Y U Y V picture.
pub(super) fn take_luma(src: Rows<'_>, (width, height): (usize, usize), luma: &mut Vec<u8>) {
    luma.resize(width * height, 0);
    let rows = src.bytes.chunks(src.stride.max(1));
    for (row, out) in rows.zip(luma.chunks_exact_mut(width.max(1))) {
        for (out, &y) in out.iter_mut().zip(row.iter().step_by(2)) {
            *out = y;
        }
    }
}

fn each_row(src: Rows<'_>, dst: RowsMut<'_>, height: usize, mut f: impl FnMut(&[u8], &mut [u8])) {
    let from = src.bytes.chunks(src.stride.max(1));
    let to = dst.bytes.chunks_mut(dst.stride.max(1));
    for (from, to) in from.zip(to).take(height) {
        f(from, to);
    }
}

pub(super) fn copy_rows(src: Rows<'_>, dst: RowsMut<'_>, (bytes, height): (usize, usize)) {
    each_row(src, dst, height, |from, to| {
        let n = bytes.min(from.len()).min(to.len());
        to[..n].copy_from_slice(&from[..n]);
    });
}

pub(super) fn spread_grey(src: Rows<'_>, dst: RowsMut<'_>, (width, height): (usize, usize)) {
    each_row(src, dst, height, |from, to| {
        for (out, &v) in to.chunks_exact_mut(3).zip(from).take(width) {
            out.fill(v);
        }
    });
}

pub(super) fn swap_red_and_blue(src: Rows<'_>, dst: RowsMut<'_>, (width, height): (usize, usize)) {
    each_row(src, dst, height, |from, to| {
        let pixels = to.chunks_exact_mut(3).zip(from.chunks_exact(3));
        for (out, v) in pixels.take(width) {
            out.copy_from_slice(&[v[2], v[1], v[0]]);
        }
    });
}

/// BT.601 luma of RGB, full range: 0.299 R + 0.587 G + 0.114 B in 16 bits, as OpenCV has it.
pub(super) fn weigh_rgb(
    src: Rows<'_>,
    dst: RowsMut<'_>,
    (width, height): (usize, usize),
    bgr: bool,
) {
    let (first, last) = if bgr {
        (7_471, 19_595)
    } else {
        (19_595, 7_471)
    };
    each_row(src, dst, height, |from, to| {
        for (out, v) in to.iter_mut().zip(from.chunks_exact(3)).take(width) {
            let sum = u32::from(v[0]) * first + u32::from(v[1]) * 38_470 + u32::from(v[2]) * last;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the weights add up to 2^16"
            )]
            let luma = ((sum + (1 << 15)) >> 16) as u8;
            *out = luma;
        }
    });
}

/// Luma of 16–235 to 0–255; full range stays.
pub(super) fn expand(rows: RowsMut<'_>, (width, height): (usize, usize), range: ColorRange) {
    if range == ColorRange::Full {
        return;
    }
    for row in rows.bytes.chunks_mut(rows.stride.max(1)).take(height) {
        for v in row.iter_mut().take(width) {
            *v = EXPANDED[usize::from(*v)];
        }
    }
}

const EXPANDED: [u8; 256] = {
    let mut table = [0; 256];
    let mut y = 0_usize;
    while y < 256 {
        // Rounded to the nearest, clamped.
        let full = (y.saturating_sub(16) * 255 * 2 + 219) / (2 * 219);
        #[expect(clippy::cast_possible_truncation, reason = "checked to be 255 at most")]
        let byte = if full > 255 { 255 } else { full as u8 };
        table[y] = byte;
        y += 1;
    }
    table
};
