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
        match weights {
            [_, w1] => {
                let (Some(a), Some(b)) = (row(start), row(start + 1)) else {
                    return;
                };
                combine_two(a, b, *w1, mid);
            }
            weights => {
                let Some(a) = row(start) else { return };
                let (w0, more) = weights
                    .split_first()
                    .map_or((ONE, &[][..]), |(w, m)| (*w, m));
                scale_row(a, w0, mid);
                for (k, w) in more.iter().enumerate() {
                    let Some(b) = row(start + 1 + k) else { return };
                    add_row(b, *w, mid);
                }
            }
        }
        combine_columns::<C>(mid, columns, out);
    }
}

fn combine_two(a: &[u8], b: &[u8], w1: u32, mid: &mut [u16]) {
    // 8 bits of weight: a product fits 16 bits, which doubles the lanes, and a weight that is
    // 1/512 off moves a sample by half a level at most.
    const SHIFT: u32 = ONE_BITS - MID_BITS;
    let w1 = u16::try_from((w1 + (1 << (SHIFT - 1))) >> SHIFT).unwrap_or(0);
    let copied = match w1 {
        0 => a,
        256.. => b,
        w1 => {
            let w0 = 256 - w1;
            for ((m, &a), &b) in mid.iter_mut().zip(a).zip(b) {
                *m = u16::from(a) * w0 + u16::from(b) * w1;
            }
            return;
        }
    };
    for (m, &s) in mid.iter_mut().zip(copied) {
        *m = u16::from(s) << MID_BITS;
    }
}

fn scale_row(a: &[u8], w: u32, mid: &mut [u16]) {
    for (m, &a) in mid.iter_mut().zip(a) {
        *m = shifted(u32::from(a) * w);
    }
}

fn add_row(b: &[u8], w: u32, mid: &mut [u16]) {
    for (m, &b) in mid.iter_mut().zip(b) {
        *m = m.saturating_add(shifted(u32::from(b) * w));
    }
}

/// Of 22 bits to 8.8.
fn shifted(v: u32) -> u16 {
    const SHIFT: u32 = ONE_BITS - MID_BITS;
    #[expect(clippy::cast_possible_truncation, reason = "255 << 8 at most")]
    let v = ((v + (1 << (SHIFT - 1))) >> SHIFT) as u16;
    v
}

fn combine_columns<const C: usize>(mid: &[u16], columns: &Axis, out: &mut [u8]) {
    const SHIFT: u32 = ONE_BITS + MID_BITS;
    const HALF: u32 = 1 << (SHIFT - 1);
    #[expect(clippy::cast_possible_truncation, reason = "255 at most")]
    let done = |v: u32| ((v + HALF) >> SHIFT) as u8;
    let taps = columns.taps.max(1);
    let weights = columns.weights.chunks_exact(taps);
    let targets = out.chunks_exact_mut(C);
    for ((&start, weights), out) in columns.starts.iter().zip(weights).zip(targets) {
        let Some(from) = mid.get(start * C..(start + taps) * C) else {
            return;
        };
        for (c, out) in out.iter_mut().enumerate() {
            // At most 255 × 2^8 × 2^14 and a half: below 2^32.
            *out = done(match (weights, from) {
                ([w0, w1], from) if from.len() == 2 * C => {
                    u32::from(from[c]) * w0 + u32::from(from[C + c]) * w1
                }
                _ => from
                    .chunks_exact(C)
                    .zip(weights)
                    .map(|(s, w)| u32::from(s[c]) * w)
                    .sum(),
            });
        }
    }
}
