//! Pictures of every format as the three planes that encoders take: Y, U, V, chroma halved both
//! ways.
//!
//! A plane that lies in the frame as it is wanted is read where it is; only what differs is written
//! to the canvas, whose buffers are kept:
//!
//! | from | luma | chroma |
//! |---|---|---|
//! | I420 | in place | in place |
//! | NV12, NV21 | in place | taken apart |
//! | YUYV, UYVY | taken apart | taken apart, the mean of two rows |
//! | RGB, BGR | colour matrix | colour matrix, the mean of four pixels |
//! | grey | in place | none: 128 |
//!
//! What the samples mean stays as it was; RGB becomes BT.601 limited range, as an untagged picture
//! is understood everywhere.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat, Plane};
use yuv::{
    BufferStoreMut, YuvConversionMode, YuvPlanarImageMut, YuvRange, YuvStandardMatrix,
    bgr_to_yuv420, rgb_to_yuv420,
};

/// Three planes of a picture.
pub(crate) struct Picture<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) planes: [&'a [u8]; 3],
    pub(crate) strides: [usize; 3],
}

/// What the planes of a picture with this layout mean.
pub(crate) fn meaning(layout: &ImageLayout) -> ColorSpec {
    match layout.format {
        PixelFormat::Grey => ColorSpec {
            matrix: ColorMatrix::Bt601,
            range: ColorRange::Full,
        },
        PixelFormat::Rgb | PixelFormat::Bgr => ColorSpec {
            matrix: ColorMatrix::Bt601,
            range: ColorRange::Limited,
        },
        _ => layout.color,
    }
}

/// Makes the planes of pictures with one layout.
pub(crate) struct Canvas {
    layout: ImageLayout,
    width: usize,
    height: usize,
    planes: [Vec<u8>; 3],
}

impl Canvas {
    /// Planes of the picture's own size.
    pub(crate) fn exact(layout: &ImageLayout) -> Self {
        Self::sized(layout, layout.width as usize, layout.height as usize)
    }

    /// Planes of an even size that is not below `least`: missing columns and rows repeat the last.
    pub(crate) fn even(layout: &ImageLayout, least: usize) -> Self {
        let even = |n: u32| (n as usize).next_multiple_of(2).max(least);
        Self::sized(layout, even(layout.width), even(layout.height))
    }

    fn sized(layout: &ImageLayout, width: usize, height: usize) -> Self {
        let mut canvas = Self {
            layout: *layout,
            width,
            height,
            planes: Default::default(),
        };
        for i in 0..3 {
            if canvas.in_place(i).is_none() {
                let (w, h) = canvas.size(i);
                canvas.planes[i] = vec![128; w * h];
            }
        }
        canvas
    }

    /// Pixels across and down of the planes it makes.
    pub(crate) fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Samples across and down of a plane.
    fn size(&self, plane: usize) -> (usize, usize) {
        match plane {
            0 => (self.width, self.height),
            _ => (self.width.div_ceil(2), self.height.div_ceil(2)),
        }
    }

    /// The frame's own plane, where it can be taken as it is.
    fn in_place(&self, plane: usize) -> Option<Plane> {
        let (w, h) = (self.layout.width as usize, self.layout.height as usize);
        let same = matches!(
            (self.layout.format, plane),
            (PixelFormat::I420, _) | (PixelFormat::Nv12 | PixelFormat::Nv21 | PixelFormat::Grey, 0)
        );
        let plane = self.layout.planes().get(plane).copied();
        plane.filter(|_| same && (w, h) == (self.width, self.height))
    }

    /// The planes of one picture; `None` if `pixels` is shorter than its layout says.
    pub(crate) fn picture<'a>(&'a mut self, pixels: &'a [u8]) -> Option<Picture<'a>> {
        if pixels.len() < self.layout.bytes() || self.layout.width == 0 || self.layout.height == 0 {
            return None;
        }
        self.fill(pixels)?;
        let mut planes: [&[u8]; 3] = [&[]; 3];
        let mut strides = [0; 3];
        for i in 0..3 {
            (planes[i], strides[i]) = match self.in_place(i) {
                Some(plane) => (self.layout.plane(pixels, i)?, plane.stride),
                None => (&self.planes[i][..], self.size(i).0),
            };
        }
        Some(Picture {
            width: self.width,
            height: self.height,
            planes,
            strides,
        })
    }

    /// Writes the planes that are not taken as they are.
    fn fill(&mut self, pixels: &[u8]) -> Option<()> {
        match self.layout.format {
            PixelFormat::I420 => (0..3).try_for_each(|i| self.copy(pixels, i))?,
            PixelFormat::Grey => self.copy(pixels, 0)?,
            PixelFormat::Nv12 | PixelFormat::Nv21 => {
                self.copy(pixels, 0)?;
                self.take_apart_chroma(pixels)?;
            }
            PixelFormat::Yuyv => self.take_apart::<0, 1>(pixels)?,
            PixelFormat::Uyvy => self.take_apart::<1, 0>(pixels)?,
            PixelFormat::Rgb | PixelFormat::Bgr => self.weigh(pixels)?,
        }
        self.extend();
        Some(())
    }

    /// Samples of the picture itself across and down: of luma, and of a chroma plane.
    fn used(&self) -> [(usize, usize); 2] {
        let (w, h) = (self.layout.width as usize, self.layout.height as usize);
        [(w, h), (w.div_ceil(2), h.div_ceil(2))]
    }

    /// Copies a plane, unless it is taken where it is.
    fn copy(&mut self, pixels: &[u8], i: usize) -> Option<()> {
        if self.in_place(i).is_some() {
            return Some(());
        }
        let (used, _) = self.used()[usize::from(i > 0)];
        let (width, _) = self.size(i);
        let rows = self.layout.plane(pixels, i)?;
        let rows = rows.chunks_exact(self.layout.planes().get(i)?.stride.max(1));
        for (out, row) in self.planes[i].chunks_exact_mut(width).zip(rows) {
            out[..used].copy_from_slice(row.get(..used)?);
        }
        Some(())
    }

    /// NV12 and NV21.
    fn take_apart_chroma(&mut self, pixels: &[u8]) -> Option<()> {
        let [_, (used, _)] = self.used();
        let (width, _) = self.size(1);
        let [_, u, v] = &mut self.planes;
        let (first, second) = match self.layout.format {
            PixelFormat::Nv21 => (v, u),
            _ => (u, v),
        };
        let rows = self.layout.plane(pixels, 1)?;
        let rows = rows.chunks_exact(self.layout.planes().get(1)?.stride.max(1));
        let out = first
            .chunks_exact_mut(width)
            .zip(second.chunks_exact_mut(width));
        for ((first, second), row) in out.zip(rows) {
            let pairs = row.get(..2 * used)?.chunks_exact(2);
            for ((first, second), pair) in first.iter_mut().zip(second.iter_mut()).zip(pairs) {
                (*first, *second) = (pair[0], pair[1]);
            }
        }
        Some(())
    }

    /// YUYV and UYVY: where luma and chroma begin in a row.
    fn take_apart<const LUMA: usize, const CHROMA: usize>(&mut self, pixels: &[u8]) -> Option<()> {
        let [(w, h), (cw, ch)] = self.used();
        let (width, half) = (self.size(0).0, self.size(1).0);
        let plane = self.layout.plane(pixels, 0)?;
        let stride = self.layout.planes().first()?.stride;
        let row = |y: usize| plane.get(y * stride..)?.get(..4 * cw);
        let [luma, u, v] = &mut self.planes;
        for (y, out) in luma.chunks_exact_mut(width).take(h).enumerate() {
            packed_luma::<LUMA>(row(y)?, &mut out[..w]);
        }
        let chroma = u.chunks_exact_mut(half).zip(v.chunks_exact_mut(half));
        for (y, (u, v)) in chroma.take(ch).enumerate() {
            let rows = [row(2 * y)?, row((2 * y + 1).min(h - 1))?];
            packed_chroma::<CHROMA>(rows, &mut u[..cw], &mut v[..cw]);
        }
        Some(())
    }

    /// RGB and BGR.
    fn weigh(&mut self, pixels: &[u8]) -> Option<()> {
        let [(_, h), (_, ch)] = self.used();
        let (width, half) = (self.size(0).0, self.size(1).0);
        let source = self.layout.plane(pixels, 0)?;
        let stride = u32::try_from(self.layout.planes().first()?.stride).ok()?;
        let [luma, u, v] = &mut self.planes;
        let mut image = YuvPlanarImageMut {
            y_plane: BufferStoreMut::Borrowed(&mut luma[..width * h]),
            y_stride: u32::try_from(width).ok()?,
            u_plane: BufferStoreMut::Borrowed(&mut u[..half * ch]),
            u_stride: u32::try_from(half).ok()?,
            v_plane: BufferStoreMut::Borrowed(&mut v[..half * ch]),
            v_stride: u32::try_from(half).ok()?,
            width: self.layout.width,
            height: self.layout.height,
        };
        let convert = match self.layout.format {
            PixelFormat::Bgr => bgr_to_yuv420,
            _ => rgb_to_yuv420,
        };
        let (range, matrix) = (YuvRange::Limited, YuvStandardMatrix::Bt601);
        let mode = YuvConversionMode::Balanced;
        convert(&mut image, source, stride, range, matrix, mode).ok()
    }

    /// Repeats the last column and row of each written plane into what the picture does not reach.
    fn extend(&mut self) {
        let (w, h) = (self.layout.width as usize, self.layout.height as usize);
        if (w, h) == (self.width, self.height) {
            return;
        }
        for i in 0..3 {
            if self.layout.format == PixelFormat::Grey && i > 0 {
                return;
            }
            let (width, _) = self.size(i);
            let (used, rows) = self.used()[usize::from(i > 0)];
            let plane = &mut self.planes[i];
            for row in plane.chunks_exact_mut(width).take(rows) {
                let last = row[used - 1];
                row[used..].fill(last);
            }
            let (written, rest) = plane.split_at_mut(rows * width);
            if let Some(last) = written.chunks_exact(width).next_back() {
                rest.chunks_exact_mut(width)
                    .for_each(|row| row.copy_from_slice(last));
            }
        }
    }
}

/// The luma of one packed 4:2:2 row, whose first sample is at `FIRST`. (A constant, so that the
/// compiler makes vectors of it.)
fn packed_luma<const FIRST: usize>(row: &[u8], out: &mut [u8]) {
    let mut pairs = out.chunks_exact_mut(2);
    for (out, from) in pairs.by_ref().zip(row.chunks_exact(4)) {
        (out[0], out[1]) = (from[FIRST], from[FIRST + 2]);
    }
    // An odd width: the last pair has a luma sample too many.
    if let ([last], Some(from)) = (pairs.into_remainder(), row.chunks_exact(4).next_back()) {
        *last = from[FIRST];
    }
}

/// The chroma of two packed 4:2:2 rows, whose first sample is at `FIRST`: their mean.
fn packed_chroma<const FIRST: usize>(rows: [&[u8]; 2], u: &mut [u8], v: &mut [u8]) {
    let pairs = rows[0].chunks_exact(4).zip(rows[1].chunks_exact(4));
    for (((upper, lower), u), v) in pairs.zip(u).zip(v) {
        *u = mean(upper[FIRST], lower[FIRST]);
        *v = mean(upper[FIRST + 2], lower[FIRST + 2]);
    }
}

/// Halves are rounded up.
fn mean(a: u8, b: u8) -> u8 {
    a.midpoint(b) + ((a ^ b) & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PixelFormat; 8] = [
        PixelFormat::I420,
        PixelFormat::Nv12,
        PixelFormat::Nv21,
        PixelFormat::Yuyv,
        PixelFormat::Uyvy,
        PixelFormat::Rgb,
        PixelFormat::Bgr,
        PixelFormat::Grey,
    ];

    /// A layout as a driver may have it: rows padded unevenly, planes apart.
    fn placed(format: PixelFormat, width: u32, height: u32) -> ImageLayout {
        let packed = ImageLayout::packed(format, width, height, ColorSpec::default());
        let mut offset = 7;
        let mut places = Vec::new();
        for (i, plane) in packed.planes().iter().enumerate() {
            let stride = plane.row_bytes + 13 + 3 * i;
            places.push((offset, stride));
            offset += stride * plane.rows + 11;
        }
        ImageLayout::placed(format, width, height, ColorSpec::default(), &places).unwrap()
    }

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        };
        (0..bytes).map(step).collect()
    }

    /// The sample that plane `plane` should have at (x, y), in real numbers, from the definition.
    fn wanted(layout: &ImageLayout, pixels: &[u8], plane: usize, x: usize, y: usize) -> f64 {
        let (w, h) = (layout.width as usize, layout.height as usize);
        let at = |p: usize, x: usize, y: usize| {
            let p = layout.planes()[p];
            f64::from(pixels[p.offset + y * p.stride + x])
        };
        // Y, Cb and Cr of the pixel, before chroma is halved.
        let full = |c: usize, x: usize, y: usize| match layout.format {
            PixelFormat::Yuyv => at(0, [2 * x, x / 2 * 4 + 1, x / 2 * 4 + 3][c], y),
            PixelFormat::Uyvy => at(0, [2 * x + 1, x / 2 * 4, x / 2 * 4 + 2][c], y),
            PixelFormat::Rgb | PixelFormat::Bgr => {
                let [r, g, b] = [0, 1, 2].map(|i| at(0, 3 * x + i, y) / 255.0);
                let bgr = layout.format == PixelFormat::Bgr;
                let (r, b) = if bgr { (b, r) } else { (r, b) };
                let luma = 0.299 * r + 0.587 * g + 0.114 * b;
                [
                    16.0 + 219.0 * luma,
                    128.0 + 224.0 * (b - luma) / 1.772,
                    128.0 + 224.0 * (r - luma) / 1.402,
                ][c]
            }
            _ => at(0, x, y),
        };
        match (layout.format, plane) {
            (_, 0) => full(0, x, y),
            (PixelFormat::Grey, _) => 128.0,
            (PixelFormat::I420, _) => at(plane, x, y),
            (PixelFormat::Nv12, _) => at(1, 2 * x + plane - 1, y),
            (PixelFormat::Nv21, _) => at(1, 2 * x + 2 - plane, y),
            _ => {
                let mut sum = 0.0;
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let (x, y) = ((2 * x + dx).min(w - 1), (2 * y + dy).min(h - 1));
                    sum += full(plane, x, y);
                }
                sum / 4.0
            }
        }
    }

    #[test]
    fn every_format_with_any_strides_becomes_the_planes_it_means_within_one_level() {
        for format in ALL {
            for (w, h) in [
                (64, 48),
                (130, 34),
                (33, 17),
                (1, 1),
                (2, 3),
                (3, 2),
                (257, 5),
            ] {
                let layout = placed(format, w, h);
                let pixels = noise(layout.bytes(), u64::from(w));
                for even in [false, true] {
                    let mut canvas = match even {
                        true => Canvas::even(&layout, 16),
                        false => Canvas::exact(&layout),
                    };
                    let picture = canvas.picture(&pixels).unwrap();
                    let least = if even { 16 } else { 1 };
                    assert!(picture.width >= least && picture.height >= least);
                    assert!(!even || (picture.width % 2, picture.height % 2) == (0, 0));
                    for i in 0..3 {
                        let shift = usize::from(i > 0);
                        let size = |n: usize| (n + shift) >> shift;
                        let (cw, ch) = (size(w as usize), size(h as usize));
                        for y in 0..size(picture.height) {
                            for x in 0..size(picture.width) {
                                let have = picture.planes[i][y * picture.strides[i] + x];
                                let (sx, sy) = (x.min(cw - 1), y.min(ch - 1));
                                let want = wanted(&layout, &pixels, i, sx, sy);
                                assert!(
                                    (f64::from(have) - want.round()).abs() <= 1.0,
                                    "{format:?} {w}x{h} even {even} plane {i} at {x},{y}: {have} not {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn planes_that_fit_are_read_where_they_are() {
        for (format, copied) in [
            (PixelFormat::I420, [false; 3]),
            (PixelFormat::Nv12, [false, true, true]),
            (PixelFormat::Grey, [false, true, true]),
            (PixelFormat::Yuyv, [true; 3]),
        ] {
            let layout = placed(format, 64, 48);
            let pixels = noise(layout.bytes(), 1);
            let mut canvas = Canvas::even(&layout, 16);
            let picture = canvas.picture(&pixels).unwrap();
            let inside = pixels.as_ptr_range();
            let copies = picture.planes.map(|p| !inside.contains(&p.as_ptr()));
            assert_eq!(copies, copied, "{format:?}");
        }
    }

    #[test]
    fn pixels_that_are_not_there_are_refused() {
        for format in ALL {
            let layout = placed(format, 33, 17);
            let pixels = noise(layout.bytes() - 1, 1);
            assert!(Canvas::even(&layout, 16).picture(&pixels).is_none());
            let none = ImageLayout::packed(format, 0, 5, ColorSpec::default());
            assert!(Canvas::exact(&none).picture(&pixels).is_none());
        }
    }
}
