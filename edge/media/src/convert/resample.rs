//! Resampling of 8-bit rows, separably, in fixed point, without an allocation per picture.
//!
//! The one hard idea: rows are combined first (the inner loop runs along memory, whatever is
//! interleaved there), then columns of that one combined row, and the row goes on to its colour while
//! it is in the cache. Between the steps a sample has 16 bits: the level minus 128, with 8 fraction
//! bits ([`to_sample`]); signed, because products of signed 16-bit numbers are what both x86-64 and
//! aarch64 sum up in pairs.

use std::array;
use std::ops::Range;

use wide::bytemuck::cast;
use wide::{i16x8, i32x4, u8x16, u16x8};

use super::axis::{ACROSS_BITS, Axis, Columns, LANES, Line, MAX_PAIRED, MEAN_BITS, Mean};

/// A row of samples: level minus 128, 8 fraction bits.
pub(super) type Row = Vec<i16>;

/// Fraction bits of a sample.
pub(super) const FRACTION_BITS: u32 = 8;
/// What a level of 128 is subtracted as, in unsigned numbers.
const CENTRE: u16 = 0x8000;

/// Rows of bytes to read.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// `width` bytes of row `y`; nothing if they are not there, which the caller has checked.
    fn row(&self, y: usize, width: usize) -> &'a [u8] {
        let row = self.bytes.get(y * self.stride..).unwrap_or(&[]);
        row.get(..width).unwrap_or(&[])
    }
}

/// Makes room for `width` samples and what kernels read or write beyond.
pub(super) fn fit(row: &mut Row, width: usize) {
    row.resize(width.next_multiple_of(LANES) + LANES, 0);
}

/// Room for the steps from rows of bytes to a row of samples.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// One channel taken out of an interleaved row.
    lane: Row,
    pairs: Vec<[i16; 2]>,
    sums: Vec<u32>,
}

// ── Rows ────────────────────────────────────────────────────────────────────────────────────────

/// Combines rows of `width` bytes, interleaved or not, into one row of samples.
pub(super) fn blend(src: Rows<'_>, line: Line, width: usize, work: &mut Work, out: &mut Row) {
    fit(out, width);
    let out = &mut out[..width];
    let row = |y| src.row(y, width);
    match line {
        Line::One(y) => widen(row(y), out),
        Line::Few {
            start: y,
            count,
            weights: [a, b, c, d],
        } => match count {
            2 => weigh_two([row(y), row(y + 1)], [a, b], out),
            3 => weigh_three([row(y), row(y + 1), row(y + 2)], [a, b, c], out),
            _ => weigh_four(
                [row(y), row(y + 1), row(y + 2), row(y + 3)],
                [a, b, c, d],
                out,
            ),
        },
        Line::Mean(mean) => mean_of_rows(src, mean, width, &mut work.sums, out),
    }
}

#[expect(clippy::cast_possible_wrap, reason = "that is the centring")]
fn centred(unsigned: u16) -> i16 {
    (unsigned ^ CENTRE) as i16
}

fn to_sample(level: u8) -> i16 {
    centred(u16::from(level) << FRACTION_BITS)
}

fn widen(row: &[u8], out: &mut [i16]) {
    for (out, &s) in out.iter_mut().zip(row) {
        *out = to_sample(s);
    }
}

// The same for two, three and four rows: a loop over the rows inside the loop over the row is not
// unrolled, and three times as slow. Weights of 16 bits add up to one; each product is cut off at
// 8 fraction bits.

fn weigh_two([a, b]: [&[u8]; 2], weights: [u16; 2], out: &mut [i16]) {
    let [u, v] = weights.map(u16x8::splat);
    let rows = sixteens(a).iter().zip(sixteens(b));
    for (out, (a, b)) in out.as_chunks_mut().0.iter_mut().zip(rows) {
        let (a, b) = (times(a, u), times(b, v));
        *out = put(a.0 + b.0, a.1 + b.1);
    }
    weigh_rest([a, b], weights, out);
}

fn weigh_three([a, b, c]: [&[u8]; 3], weights: [u16; 3], out: &mut [i16]) {
    let [u, v, w] = weights.map(u16x8::splat);
    let rows = sixteens(a).iter().zip(sixteens(b)).zip(sixteens(c));
    for (out, ((a, b), c)) in out.as_chunks_mut().0.iter_mut().zip(rows) {
        let (a, b, c) = (times(a, u), times(b, v), times(c, w));
        *out = put(a.0 + b.0 + c.0, a.1 + b.1 + c.1);
    }
    weigh_rest([a, b, c], weights, out);
}

fn weigh_four([a, b, c, d]: [&[u8]; 4], weights: [u16; 4], out: &mut [i16]) {
    let [u, v, w, x] = weights.map(u16x8::splat);
    let rows = sixteens(a).iter().zip(sixteens(b));
    let rows = rows.zip(sixteens(c)).zip(sixteens(d));
    for (out, (((a, b), c), d)) in out.as_chunks_mut().0.iter_mut().zip(rows) {
        let (a, b, c, d) = (times(a, u), times(b, v), times(c, w), times(d, x));
        *out = put(a.0 + b.0 + c.0 + d.0, a.1 + b.1 + c.1 + d.1);
    }
    weigh_rest([a, b, c, d], weights, out);
}

fn sixteens(row: &[u8]) -> &[[u8; LANES]] {
    row.as_chunks().0
}

#[inline(always)]
fn times(bytes: &[u8; LANES], factor: u16x8) -> (u16x8, u16x8) {
    let (zero, bytes) = (u8x16::default(), u8x16::new(*bytes));
    // A byte above a zero byte is the sample with 8 fraction bits.
    let (low, high) = (
        u8x16::unpack_low(zero, bytes),
        u8x16::unpack_high(zero, bytes),
    );
    (
        cast::<_, u16x8>(low).mul_keep_high(factor),
        cast::<_, u16x8>(high).mul_keep_high(factor),
    )
}

#[inline(always)]
fn put(low: u16x8, high: u16x8) -> [i16; LANES] {
    let centre = u16x8::splat(CENTRE);
    cast([low ^ centre, high ^ centre])
}

/// What is left after whole groups of [`LANES`].
fn weigh_rest<const N: usize>(rows: [&[u8]; N], weights: [u16; N], out: &mut [i16]) {
    let done = out.len() / LANES * LANES;
    for (i, out) in out.iter_mut().enumerate().skip(done) {
        let mut sum = 0_u16;
        for (row, weight) in rows.iter().zip(weights) {
            let Some(&s) = row.get(i) else { return };
            let product = u32::from(u16::from(s) << FRACTION_BITS).wrapping_mul(u32::from(weight));
            let upper = (product >> 16) as u16;
            sum = sum.wrapping_add(upper);
        }
        *out = centred(sum);
    }
}

/// Many rows: the inner ones are added up as they are, exactly, and weighed once.
fn mean_of_rows(src: Rows<'_>, mean: Mean, width: usize, sums: &mut Vec<u32>, out: &mut [i16]) {
    sums.clear();
    sums.resize(width, 0);
    let (first, last) = (mean.start, mean.start + mean.count - 1);
    let mut y = first + 1;
    while y < last {
        if y + 4 <= last {
            let rows = [0, 1, 2, 3].map(|k| src.row(y + k, width));
            let [a, b, c, d] = rows;
            for ((((sum, &a), &b), &c), &d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let four = u16::from(a) + u16::from(b) + u16::from(c) + u16::from(d);
                *sum = sum.wrapping_add(u32::from(four));
            }
            y += 4;
        } else {
            for (sum, &s) in sums.iter_mut().zip(src.row(y, width)) {
                *sum = sum.wrapping_add(u32::from(s));
            }
            y += 1;
        }
    }
    let ends = src.row(first, width).iter().zip(src.row(last, width));
    for ((out, sum), (&a, &b)) in out.iter_mut().zip(sums).zip(ends) {
        // At most 255 × 2^24, which is below 2^32.
        let inner = sum.wrapping_mul(mean.full);
        let ends = (u32::from(a).wrapping_mul(mean.first))
            .wrapping_add(u32::from(b).wrapping_mul(mean.last));
        let upper = (inner.wrapping_add(ends) >> (MEAN_BITS - FRACTION_BITS)) as u16;
        *out = centred(upper);
    }
}

// ── Columns ─────────────────────────────────────────────────────────────────────────────────────

/// Every second sample of a row, from the first or the second.
pub(super) fn every_second(src: &[i16], odd: bool, count: usize, out: &mut Row) {
    fit(out, count);
    let (pairs, _) = src.as_chunks::<2>();
    if odd {
        out.iter_mut()
            .zip(pairs)
            .for_each(|(out, [_, b])| *out = *b);
    } else {
        out.iter_mut()
            .zip(pairs)
            .for_each(|(out, [a, _])| *out = *a);
    }
}

fn every_third(src: &[i16], first: usize, count: usize, out: &mut Row) {
    fit(out, count);
    let (triples, _) = src.as_chunks::<3>();
    for (out, triple) in out.iter_mut().zip(triples) {
        *out = triple[first.min(2)];
    }
}

/// Combines columns of channel `channel` of `channels` (1 or 3) interleaved ones.
pub(super) fn across(
    row: &[i16],
    (channel, channels): (usize, usize),
    axis: &Axis,
    width: usize,
    work: &mut Work,
    out: &mut Row,
) {
    fit(out, width);
    let Work { lane, pairs, .. } = work;
    if let Columns::Pairs { starts, weights } = &axis.columns {
        let gathered = pairs;
        gathered.resize(weights.len(), [0; 2]);
        let planes = gathered.chunks_exact_mut(starts.len().max(1));
        for (k, gathered) in planes.enumerate() {
            if channels == 1 {
                gather(row.get(2 * k..).unwrap_or(&[]), starts, gathered);
            } else {
                gather_thirds(row.get(6 * k + channel..).unwrap_or(&[]), starts, gathered);
            }
        }
        return dot(gathered, weights, starts.len(), out);
    }
    let row = if channels == 1 {
        row
    } else {
        every_third(row, channel, row.len() / 3, lane);
        lane
    };
    match &axis.columns {
        Columns::Same => out[..width].copy_from_slice(row.get(..width).unwrap_or(&[])),
        Columns::Twice => {
            let (pairs, _) = out.as_chunks_mut();
            pairs
                .iter_mut()
                .zip(row)
                .for_each(|(pair, s)| *pair = [*s; 2]);
        }
        Columns::Adjacent(weights) => dot(row.as_chunks().0, weights, weights.len(), out),
        Columns::Mean(means) => {
            for (out, mean) in out.iter_mut().zip(means) {
                *out = mean_of_columns(row, mean);
            }
        }
        Columns::Pairs { .. } => {}
    }
}

/// Each start's sample and the next.
fn gather(row: &[i16], starts: &[u32], out: &mut [[i16; 2]]) {
    for (out, &start) in out.iter_mut().zip(starts) {
        let start = start as usize;
        if let Some(&[a, b]) = row.get(start..start + 2) {
            *out = [a, b];
        }
    }
}

/// The same where three channels are interleaved.
fn gather_thirds(row: &[i16], starts: &[u32], out: &mut [[i16; 2]]) {
    for (out, &start) in out.iter_mut().zip(starts) {
        let start = 3 * start as usize;
        if let Some(&[a, _, _, b]) = row.get(start..start + 4) {
            *out = [a, b];
        }
    }
}

/// Sums of pairs by their weights. `pairs` and `weights` are one or more rows of `target` pairs, one
/// after the other; target pair `i` is the sum of theirs.
fn dot(pairs: &[[i16; 2]], weights: &[[i16; 2]], target: usize, out: &mut [i16]) {
    match weights.len() / target.max(1) {
        1 => dot_rows::<1>(pairs, weights, target, out),
        2 => dot_rows::<2>(pairs, weights, target, out),
        3 => dot_rows::<3>(pairs, weights, target, out),
        _ => dot_rows::<{ MAX_PAIRED / 2 }>(pairs, weights, target, out),
    }
}

fn dot_rows<const N: usize>(
    pairs: &[[i16; 2]],
    weights: &[[i16; 2]],
    target: usize,
    out: &mut [i16],
) {
    const HALF: i32 = 1 << (ACROSS_BITS - 1);
    let rows = |all: &'_ [[i16; 2]]| -> [Range<usize>; N] {
        array::from_fn(|k| k * target..((k + 1) * target).min(all.len()))
    };
    let (p, w) = (rows(pairs), rows(weights));
    let p = p.map(|r| pairs.get(r).unwrap_or(&[]).as_chunks::<8>().0);
    let w = w.map(|r| weights.get(r).unwrap_or(&[]).as_chunks::<8>().0);
    let (outs, _) = out.as_chunks_mut::<8>();
    for (i, out) in outs.iter_mut().enumerate() {
        let mut sums = [i32x4::splat(HALF); 2];
        for k in 0..N {
            let (Some(p), Some(w)) = (p[k].get(i), w[k].get(i)) else {
                return;
            };
            let p: [i16x8; 2] = cast(*p);
            let w: [i16x8; 2] = cast(*w);
            sums[0] += p[0].dot(w[0]);
            sums[1] += p[1].dot(w[1]);
        }
        // Shifts by a constant are left to the compiler: those of `wide` go through memory.
        let done = cast::<_, [i32; 8]>(sums).map(|sum| sum >> ACROSS_BITS);
        *out = cast(i16x8::from_i32x8_saturate(cast(done)));
    }
}

fn mean_of_columns(row: &[i16], mean: &Mean) -> i16 {
    let samples = row.get(mean.start..mean.start + mean.count).unwrap_or(&[]);
    let [first, inner @ .., last] = samples else {
        return samples.first().copied().unwrap_or(0);
    };
    let inner = inner
        .iter()
        .fold(0_i32, |sum, &s| sum.wrapping_add(i32::from(s)));
    // The first weight also makes up for rounding and may be less than nothing by a little.
    let sum = i64::from(inner) * i64::from(mean.full)
        + i64::from(*first) * i64::from(mean.first.cast_signed())
        + i64::from(*last) * i64::from(mean.last);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a mean of 16-bit numbers, clamped"
    )]
    let mean = ((sum + (1 << (MEAN_BITS - 1))) >> MEAN_BITS)
        .clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16;
    mean
}
