//! Colour: YUV to RGB by the `yuv` crate (SIMD), and the small conversions around it.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};
use yuv::{
    BufferStoreMut, YuvBiPlanarImage, YuvConversionMode, YuvError, YuvPackedImage, YuvPlanarImage,
    YuvPlanarImageMut, YuvRange, YuvStandardMatrix,
};

use super::resample::Rows;
use super::scaled::STRIP;

/// Rows of bytes to write, beginning at the first.
pub(super) struct RowsMut<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) stride: usize,
}

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

/// Three planes of R, G and B to RGB or BGR.
pub(super) fn interleave(
    [r, g, b]: [&[u8]; 3],
    stride: usize,
    size: (usize, usize),
    out: RowsMut<'_>,
    bgr: bool,
) -> Result<(), String> {
    // To `yuv`, planes of green, blue and red are a YUV picture without a matrix.
    let image = planar([g, b, r], [stride; 3], size);
    let interleave = if bgr {
        yuv::gbr_to_bgr
    } else {
        yuv::gbr_to_rgb
    };
    in_words(interleave(
        &image,
        out.bytes,
        u32_of(out.stride),
        YuvRange::Full,
    ))
}

fn planar<'a>(
    [y, u, v]: [&'a [u8]; 3],
    strides: [usize; 3],
    (width, height): (usize, usize),
) -> YuvPlanarImage<'a, u8> {
    YuvPlanarImage {
        y_plane: y,
        y_stride: u32_of(strides[0]),
        u_plane: u,
        u_stride: u32_of(strides[1]),
        v_plane: v,
        v_stride: u32_of(strides[2]),
        width: u32_of(width),
        height: u32_of(height),
    }
}

/// A planar picture to RGB or BGR of its own size. Each chroma sample counts for the pixels it was
/// taken over, as OpenCV has it.
pub(super) fn planar_to_rgb(
    native: &ImageLayout,
    src: &[u8],
    out: RowsMut<'_>,
    to: PixelFormat,
) -> Result<(), String> {
    let (range, matrix) = meaning(native.color);
    let plane = |i| native.plane(src, i).unwrap_or(&[]);
    let stride = |i: usize| native.planes().get(i).map_or(0, |p| p.stride);
    let size = (native.width as usize, native.height as usize);
    let planes = [plane(0), plane(1), plane(2)];
    let image = planar(planes, [stride(0), stride(1), stride(2)], size);
    let convert = match to {
        PixelFormat::Bgr => yuv::yuv420_to_bgr,
        _ => yuv::yuv420_to_rgb,
    };
    in_words(convert(
        &image,
        out.bytes,
        u32_of(out.stride),
        range,
        matrix,
    ))
}

/// The same for one with interleaved chroma. All rows of `out` must be there to their stride's end.
pub(super) fn semi_planar_to_rgb(
    native: &ImageLayout,
    src: &[u8],
    out: RowsMut<'_>,
    to: PixelFormat,
) -> Result<(), String> {
    let (range, matrix) = meaning(native.color);
    let stride = |i: usize| u32_of(native.planes().get(i).map_or(0, |p| p.stride));
    let image = YuvBiPlanarImage {
        y_plane: native.plane(src, 0).unwrap_or(&[]),
        y_stride: stride(0),
        uv_plane: native.plane(src, 1).unwrap_or(&[]),
        uv_stride: stride(1),
        width: native.width,
        height: native.height,
    };
    let convert = match (native.format, to) {
        (PixelFormat::Nv12, PixelFormat::Bgr) => yuv::yuv_nv12_to_bgr,
        (PixelFormat::Nv12, _) => yuv::yuv_nv12_to_rgb,
        (_, PixelFormat::Bgr) => yuv::yuv_nv21_to_bgr,
        _ => yuv::yuv_nv21_to_rgb,
    };
    let mode = YuvConversionMode::Balanced;
    let stride = u32_of(out.stride);
    in_words(convert(&image, out.bytes, stride, range, matrix, mode))
}

/// The same for one with everything interleaved, a few rows at a time taken apart into `planes`: the
/// direct conversion of `yuv` does not take what is below black for black.
pub(super) fn packed_to_rgb(
    native: &ImageLayout,
    src: Rows<'_>,
    planes: &mut [Vec<u8>; 3],
    out: RowsMut<'_>,
    to: PixelFormat,
) -> Result<(), String> {
    let (range, matrix) = meaning(native.color);
    let (width, height) = (native.width as usize, native.height as usize);
    let strides = [width, width.div_ceil(2), width.div_ceil(2)];
    for (plane, stride) in planes.iter_mut().zip(strides) {
        plane.resize(plane.len().max(stride * STRIP), 0);
    }
    let take_apart = match native.format {
        PixelFormat::Uyvy => yuv::uyvy422_to_yuv422,
        _ => yuv::yuyv422_to_yuv422,
    };
    let convert = match to {
        PixelFormat::Bgr => yuv::yuv422_to_bgr,
        _ => yuv::yuv422_to_rgb,
    };
    for top in (0..height).step_by(STRIP) {
        let rows = STRIP.min(height - top);
        let [y, u, v] = planes.each_mut().map(Vec::as_mut_slice);
        let mut apart = YuvPlanarImageMut {
            y_plane: BufferStoreMut::Borrowed(y),
            y_stride: u32_of(strides[0]),
            u_plane: BufferStoreMut::Borrowed(u),
            u_stride: u32_of(strides[1]),
            v_plane: BufferStoreMut::Borrowed(v),
            v_stride: u32_of(strides[2]),
            width: native.width,
            height: u32_of(rows),
        };
        let packed = YuvPackedImage {
            yuy: src
                .bytes
                .get(top * src.stride..(top + rows) * src.stride)
                .unwrap_or(&[]),
            yuy_stride: u32_of(src.stride),
            width: native.width,
            height: u32_of(rows),
        };
        in_words(take_apart(&mut apart, &packed))?;
        let planes = planes.each_ref().map(Vec::as_slice);
        let image = planar(planes, strides, (width, rows));
        let out_bytes = out.bytes.get_mut(top * out.stride..).unwrap_or(&mut []);
        let stride = u32_of(out.stride);
        in_words(convert(&image, out_bytes, stride, range, matrix))?;
    }
    Ok(())
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

pub(super) fn spread_grey(
    src: Rows<'_>,
    dst: RowsMut<'_>,
    size: (usize, usize),
) -> Result<(), String> {
    interleave([src.bytes; 3], src.stride, size, dst, false)
}

pub(super) fn swap_red_and_blue(
    src: Rows<'_>,
    dst: RowsMut<'_>,
    (width, height): (usize, usize),
) -> Result<(), String> {
    let bytes = width * 3;
    let (stride, width) = (u32_of(bytes), u32_of(width));
    let mut done = Ok(());
    // Row by row: `yuv` leaves out the last row if it does not reach to its stride's end.
    each_row(src, dst, height, |from, to| {
        if let (Some(from), Some(to), Ok(())) = (from.get(..bytes), to.get_mut(..bytes), &done) {
            done = in_words(yuv::rgb_to_bgr(from, stride, to, stride, width, 1));
        }
    });
    done
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

/// Luma of a YUV picture whose first plane is `src`, at full range.
pub(super) fn luma(native: &ImageLayout, src: Rows<'_>, dst: RowsMut<'_>, size: (usize, usize)) {
    let (step, first) = match native.format {
        PixelFormat::Yuyv => (2, 0),
        PixelFormat::Uyvy => (2, 1),
        _ => (1, 0),
    };
    let limited = native.color.range == ColorRange::Limited;
    if step == 1 && !limited {
        return copy_rows(src, dst, size);
    }
    let (width, height) = size;
    each_row(src, dst, height, |from, to| {
        let from = from.get(first..).unwrap_or(&[]).iter().step_by(step);
        let pairs = to.iter_mut().zip(from).take(width);
        if limited {
            pairs.for_each(|(out, y)| *out = EXPANDED[usize::from(*y)]);
        } else {
            pairs.for_each(|(out, y)| *out = *y);
        }
    });
}

/// Luma of 16–235 to 0–255.
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
