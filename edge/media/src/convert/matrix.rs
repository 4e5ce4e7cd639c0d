//! From rows of samples to bytes: the colour matrix and the one rounding, in 16-bit fixed point.
//!
//! A product keeps 5 fraction bits (a sample has 8, a coefficient 13, 16 are cut off), so a sum of
//! three is off by at most 0.05 levels before it is rounded.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec};
use wide::bytemuck::cast;
use wide::{i16x8, u8x16};

use super::axis::LANES;
use super::resample::FRACTION_BITS;

const COEFFICIENT_BITS: u32 = 13;
const SUM_BITS: u32 = FRACTION_BITS + COEFFICIENT_BITS - 16;

/// YUV to RGB, for samples as levels minus 128.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    y: i16,
    /// What lies below black counts as black, as OpenCV and libyuv have it.
    black: i16,
    r_of_v: i16,
    g_of_u: i16,
    g_of_v: i16,
    b_of_u: i16,
    /// What the sums of red, green and blue begin with.
    start: [i16; 3],
}

#[expect(clippy::cast_possible_truncation, reason = "constants below 2^15")]
fn fixed(x: f64, bits: u32) -> i16 {
    (x * f64::from(1_u32 << bits)).round() as i16
}

impl Matrix {
    pub(super) fn new(color: ColorSpec) -> Self {
        let (kr, kb) = match color.matrix {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = match color.range {
            ColorRange::Limited => (16.0, 255.0 / 219.0, 255.0 / 224.0),
            ColorRange::Full => (0.0, 1.0, 1.0),
        };
        let coefficient = |x| fixed(x, COEFFICIENT_BITS);
        // Half a level to round, and half of what each product lost.
        let start = |products: f64| {
            let unit = 1.0 / f64::from(1_u32 << SUM_BITS);
            fixed(
                (128.0 - black) * luma + 0.5 + products * 0.5 * unit,
                SUM_BITS,
            )
        };
        Self {
            y: coefficient(luma),
            black: fixed(black - 128.0, FRACTION_BITS),
            r_of_v: coefficient(2.0 * (1.0 - kr) * chroma),
            g_of_u: coefficient(-2.0 * (1.0 - kb) * kb / kg * chroma),
            g_of_v: coefficient(-2.0 * (1.0 - kr) * kr / kg * chroma),
            b_of_u: coefficient(2.0 * (1.0 - kb) * chroma),
            start: [start(2.0), start(3.0), start(2.0)],
        }
    }

    /// Rows of Y, U and V to rows of R, G and B, as far as whole groups of [`LANES`] go.
    pub(super) fn rgb(&self, [y, u, v]: [&[i16]; 3], [r, g, b]: [&mut [u8]; 3]) {
        let chunks = |row| <[i16]>::as_chunks::<LANES>(row).0;
        let yuv = chunks(y).iter().zip(chunks(u)).zip(chunks(v));
        let (r, g, b) = (
            r.as_chunks_mut::<LANES>().0,
            g.as_chunks_mut::<LANES>().0,
            b.as_chunks_mut::<LANES>().0,
        );
        let rgb = r.iter_mut().zip(g).zip(b);
        for (((y, u), v), ((r, g), b)) in yuv.zip(rgb) {
            let (y, u, v): ([i16x8; 2], [i16x8; 2], [i16x8; 2]) = (cast(*y), cast(*u), cast(*v));
            let low = self.eight(y[0], u[0], v[0]);
            let high = self.eight(y[1], u[1], v[1]);
            *r = cast(u8x16::narrow_i16x8(low[0], high[0]));
            *g = cast(u8x16::narrow_i16x8(low[1], high[1]));
            *b = cast(u8x16::narrow_i16x8(low[2], high[2]));
        }
    }

    #[inline]
    fn eight(&self, y: i16x8, u: i16x8, v: i16x8) -> [i16x8; 3] {
        let times = |x: i16x8, c: i16| x.mul_keep_high(i16x8::splat(c));
        let [r, g, b] = self.start.map(i16x8::splat);
        let y = times(y.max(i16x8::splat(self.black)), self.y);
        [
            y + r + times(v, self.r_of_v),
            y + g + times(u, self.g_of_u) + times(v, self.g_of_v),
            y + b + times(u, self.b_of_u),
        ]
        .map(shifted::<SUM_BITS>)
    }

    /// A row of Y to full range, as far as whole groups of [`LANES`] go.
    pub(super) fn luma(&self, y: &[i16], out: &mut [u8]) {
        // Red without its V.
        let one_less = i16x8::splat(self.start[0]);
        let eight = |y: i16x8| {
            let y = y.max(i16x8::splat(self.black));
            let sum = y.mul_keep_high(i16x8::splat(self.y)) + one_less;
            shifted::<SUM_BITS>(sum)
        };
        each_sixteen([y], out, |[y]| eight(y));
    }
}

/// A row of samples to bytes, as far as whole groups of [`LANES`] go.
pub(super) fn levels(row: &[i16], out: &mut [u8]) {
    each_sixteen([row], out, |[s]| {
        let rounded = s.saturating_add(i16x8::splat(1 << (FRACTION_BITS - 1)));
        shifted::<FRACTION_BITS>(rounded) + i16x8::splat(128)
    });
}

/// Rows of R, G and B to BT.601 luma at full range, as OpenCV has grey.
pub(super) fn grey_of(rgb: [&[i16]; 3], out: &mut [u8]) {
    const BITS: u32 = 15;
    const LEFT: u32 = FRACTION_BITS + BITS - 16;
    let weights = [0.299, 0.587, 0.114].map(|w| i16x8::splat(fixed(w, BITS)));
    let start = i16x8::splat((128 << LEFT) + (1 << (LEFT - 1)) + 1);
    each_sixteen(rgb, out, |rgb| {
        let mut sum = start;
        for (s, w) in rgb.into_iter().zip(weights) {
            sum += s.mul_keep_high(w);
        }
        shifted::<LEFT>(sum)
    });
}

/// To the right, as one product: shifts of `wide` go through memory.
#[inline]
fn shifted<const BITS: u32>(x: i16x8) -> i16x8 {
    x.mul_keep_high(i16x8::splat(1 << (16 - BITS)))
}

#[inline]
fn each_sixteen<const N: usize>(
    rows: [&[i16]; N],
    out: &mut [u8],
    eight: impl Fn([i16x8; N]) -> i16x8,
) {
    let rows = rows.map(|row| row.as_chunks::<LANES>().0);
    for (i, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut low = [i16x8::default(); N];
        let mut high = low;
        for ((row, low), high) in rows.iter().zip(&mut low).zip(&mut high) {
            let Some(chunk) = row.get(i) else { return };
            [*low, *high] = cast(*chunk);
        }
        *out = cast(u8x16::narrow_i16x8(eight(low), eight(high)));
    }
}
