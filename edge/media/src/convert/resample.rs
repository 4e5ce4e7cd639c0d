//! Resampling of 8-bit planes, separably, in fixed point, without an allocation per picture.
//!
//! The one hard idea: for each axis a table says which source samples make target sample `i`, and
//! with which weights. Rows are combined first (the inner loop runs along memory and is
//! vectorised), then columns of that one combined row. Bilinear and area differ in the table only.

use visualpath_core::Filter;

/// Weights of one target sample add up to this.
const ONE_BITS: u32 = 14;
const ONE: u32 = 1 << ONE_BITS;
/// Fraction bits kept between the two passes: the combined row is 8.8 fixed point.
const MID_BITS: u32 = 8;

/// What a table is for; equal keys have equal tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AxisKey {
    /// Samples there are.
    pub(super) src: usize,
    /// Their extent in picture pixels times two: chroma of an odd picture covers half a sample
    /// less than there is.
    pub(super) extent_x2: usize,
    /// Picture pixels per sample.
    pub(super) sub: usize,
    /// Samples wanted.
    pub(super) dst: usize,
    pub(super) filter: Filter,
}

impl AxisKey {
    pub(super) fn new(src: usize, pixels: usize, sub: usize, dst: usize, filter: Filter) -> Self {
        Self {
            src,
            extent_x2: pixels * 2,
            sub,
            dst,
            filter,
        }
    }
}

/// The table of one axis.
#[derive(Debug)]
pub(super) struct Axis {
    key: AxisKey,
    taps: usize,
    starts: Vec<usize>,
    /// `taps` weights per target sample.
    weights: Vec<u32>,
}

impl Axis {
    pub(super) fn new(key: AxisKey) -> Self {
        let src = key.src.max(1);
        let scale = key.extent_x2 as f64 / (2 * key.sub.max(1) * key.dst.max(1)) as f64;
        // Magnifying, every target sample lies under less than one source sample; its mean would
        // be the nearest one. Both filters interpolate there, as OpenCV's INTER_AREA does.
        let area = key.filter == Filter::Area && scale > 1.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and the picture's side"
        )]
        let wanted = if area { scale.ceil() as usize + 1 } else { 2 };
        let taps = wanted.min(src);
        let mut starts = Vec::with_capacity(key.dst);
        let mut weights = Vec::with_capacity(key.dst * taps);
        let mut real = vec![0.0; taps];
        for i in 0..key.dst {
            let (from, to) = (i as f64 * scale, (i + 1) as f64 * scale);
            real.fill(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to the picture's side"
            )]
            let at = |x: f64| x.floor().clamp(0.0, (src - 1) as f64) as usize;
            let start;
            if area {
                start = at(from).min(src - taps);
                for (k, w) in real.iter_mut().enumerate() {
                    let s = (start + k) as f64;
                    *w = (to.min(s + 1.0) - from.max(s)).max(0.0);
                }
            } else {
                let centre = ((from + to) / 2.0 - 0.5).clamp(0.0, (src - 1) as f64);
                let first = at(centre);
                start = first.min(src - taps);
                let part = centre - first as f64;
                if let Some(w) = real.get_mut(first - start) {
                    *w += 1.0 - part;
                }
                if let Some(w) = real.get_mut(first + 1 - start) {
                    *w += part;
                }
            }
            starts.push(start);
            push_weights(&real, &mut weights);
        }
        Self {
            key,
            taps,
            starts,
            weights,
        }
    }

    pub(super) fn key(&self) -> &AxisKey {
        &self.key
    }
}

/// Real weights as integers that add up to [`ONE`] exactly, so that an even surface stays as it is.
fn push_weights(real: &[f64], out: &mut Vec<u32>) {
    let sum: f64 = real.iter().sum();
    let first = out.len();
    let mut rest = i64::from(ONE);
    for w in real {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and ONE"
        )]
        let w = (w / sum.max(f64::MIN_POSITIVE) * f64::from(ONE))
            .round()
            .clamp(0.0, f64::from(ONE)) as u32;
        out.push(w);
        rest -= i64::from(w);
    }
    if let Some(largest) = out[first..].iter_mut().max() {
        *largest = u32::try_from(i64::from(*largest) + rest).unwrap_or(0);
    }
}

/// Rows of bytes to read.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
}

/// Rows of bytes to write, beginning at the first.
pub(super) struct RowsMut<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) stride: usize,
}

/// Resamples an image of `C` interleaved channels; `columns` and `rows` are its axes. `mid` is
/// room for one row, used again.
pub(super) fn resample<const C: usize>(
    src: Rows<'_>,
    columns: &Axis,
    rows: &Axis,
    mid: &mut Vec<u16>,
    dst: RowsMut<'_>,
) {
    let width = columns.key.src * C;
    mid.resize(width, 0);
    let row = |y: usize| src.bytes.get(y * src.stride..).and_then(|r| r.get(..width));
    let weights = rows.weights.chunks_exact(rows.taps.max(1));
    let targets = dst.bytes.chunks_mut(dst.stride.max(1));
    for ((&start, weights), out) in rows.starts.iter().zip(weights).zip(targets) {
        // Checked by the caller: all rows are there.
        let Some(a) = row(start) else { return };
        match weights {
            [w0, w1] if *w1 != 0 && *w0 != 0 => {
                let Some(b) = row(start + 1) else { return };
                let (w0, w1) = (w0 << WEIGHT_BITS, w1 << WEIGHT_BITS);
                for ((m, &a), &b) in mid.iter_mut().zip(a).zip(b) {
                    *m = weighed(a, w0).wrapping_add(weighed(b, w1));
                }
            }
            weights => {
                // A weight of one does not fit 16 bits; it stands alone and needs no product.
                if let Some(k) = weights.iter().position(|w| *w == ONE) {
                    let Some(only) = row(start + k) else { return };
                    for (m, &s) in mid.iter_mut().zip(only) {
                        *m = u16::from(s) << MID_BITS;
                    }
                } else {
                    mid.fill(0);
                    for (k, w) in weights.iter().enumerate().filter(|(_, w)| **w != 0) {
                        let Some(b) = row(start + k) else { return };
                        let w = w << WEIGHT_BITS;
                        for (m, &b) in mid.iter_mut().zip(b) {
                            *m = m.wrapping_add(weighed(b, w));
                        }
                    }
                }
            }
        }
        combine_columns::<C>(mid, columns, out);
    }
}

/// From a weight of 14 bits to one of 16, which makes [`weighed`] the upper half of a 16-bit
/// product: one instruction for eight samples or more.
const WEIGHT_BITS: u32 = 16 - ONE_BITS;

/// A sample times a weight below one (of 16 bits), in 8.8. Weights add up to one, so sums of these
/// never wrap; the operations say `wrapping` because overflow checks would keep the loops scalar.
fn weighed(sample: u8, weight: u32) -> u16 {
    let product = u32::from(u16::from(sample) << MID_BITS).wrapping_mul(weight);
    (product >> 16) as u16
}

fn combine_columns<const C: usize>(mid: &[u16], columns: &Axis, out: &mut [u8]) {
    const SHIFT: u32 = ONE_BITS + MID_BITS;
    const HALF: u32 = 1 << (SHIFT - 1);
    let taps = columns.taps.max(1);
    if C == 1 && taps == 2 {
        let (pairs, _) = columns.weights.as_chunks::<2>();
        for ((&start, [w0, w1]), out) in columns.starts.iter().zip(pairs).zip(out) {
            let Some([a, b]) = mid.get(start..start + 2) else {
                return;
            };
            let a = u32::from(*a).wrapping_mul(*w0);
            let b = u32::from(*b).wrapping_mul(*w1);
            #[expect(clippy::cast_possible_truncation, reason = "255 at most")]
            let done = (a.wrapping_add(b).wrapping_add(HALF) >> SHIFT) as u8;
            *out = done;
        }
        return;
    }
    let weights = columns.weights.chunks_exact(taps);
    let targets = out.chunks_exact_mut(C);
    for ((&start, weights), out) in columns.starts.iter().zip(weights).zip(targets) {
        let Some(from) = mid.get(start * C..(start + taps) * C) else {
            return;
        };
        // At most 255 × 2^8 × 2^14 and a half: below 2^32.
        let mut sums = [HALF; C];
        let (from, _) = from.as_chunks::<C>();
        for (from, w) in from.iter().zip(weights) {
            for (sum, s) in sums.iter_mut().zip(from) {
                *sum = sum.wrapping_add(u32::from(*s).wrapping_mul(*w));
            }
        }
        for (sum, out) in sums.into_iter().zip(out) {
            #[expect(clippy::cast_possible_truncation, reason = "255 at most")]
            let done = (sum >> SHIFT) as u8;
            *out = done;
        }
    }
}
