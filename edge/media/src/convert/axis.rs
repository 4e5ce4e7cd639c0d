//! Tables for resampling one axis: which source samples make target sample `i`, with which weights.
//!
//! A table is made once per view and kept. Weights come in the forms the row kernels want
//! ([`Line`] down, [`Columns`] across); bilinear and area differ in the real weights only.

use visualpath_core::Filter;

/// Samples are padded to this, so that kernels have no tails.
pub(super) const LANES: usize = 16;
/// Weights across add up to this (fits 16 signed bits).
pub(super) const ACROSS_BITS: u32 = 14;
/// Weights of a [`Line::Mean`] or [`Columns::Mean`] add up to this.
pub(super) const MEAN_BITS: u32 = 24;
/// Rows that [`Line::Few`] combines at once.
const FEW: usize = 4;
/// Columns that are worth a table of pairs: beyond, rounding 14-bit weights would show.
pub(super) const MAX_PAIRED: usize = 8;
/// Tables kept: a view of a planar picture takes four, and there are few views.
pub(super) const MAX_TABLES: usize = 32;

/// What a table is for; equal keys have equal tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AxisKey {
    /// Samples there are.
    pub(super) src: usize,
    /// Picture pixels they cover: chroma of an odd picture covers less than its samples could.
    pub(super) src_pixels: usize,
    /// Picture pixels per sample.
    pub(super) src_sub: usize,
    /// Samples wanted.
    pub(super) dst: usize,
    /// View pixels the picture is scaled to.
    pub(super) dst_pixels: usize,
    /// View pixels per sample wanted.
    pub(super) dst_sub: usize,
    /// View pixels of the first sample wanted that lie before the picture (0, or 1 for chroma).
    pub(super) lead: usize,
    /// `None` where nothing is resized: a sample counts for each pixel it was taken over.
    pub(super) filter: Option<Filter>,
}

/// The tables of one axis. Which half is used depends on which way the axis runs.
#[derive(Debug)]
pub(super) struct Axis {
    key: AxisKey,
    pub(super) lines: Vec<Line>,
    pub(super) columns: Columns,
}

/// Which rows make a target row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Line {
    /// One row, as it is.
    One(usize),
    /// Up to four rows from `start`; weights of 16 bits that add up to one.
    Few {
        start: usize,
        count: usize,
        weights: [u16; FEW],
    },
    /// The mean of many.
    Mean(Mean),
}

/// A weighted mean of samples that all weigh the same but for the first and the last.
/// `first + last + (count - 2) * full` is one in [`MEAN_BITS`], modulo 2^32: rounding of the others is
/// made up for in the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mean {
    pub(super) start: usize,
    pub(super) count: usize,
    pub(super) first: u32,
    pub(super) full: u32,
    pub(super) last: u32,
}

/// Which columns make the target's columns.
#[derive(Debug)]
pub(super) enum Columns {
    /// Each is itself.
    Same,
    /// Each is there twice.
    Twice,
    /// Target `i` is made of columns `2i` and `2i + 1`.
    Adjacent(Vec<[i16; 2]>),
    /// Target `i` is the sum over `k` of columns `starts[i] + 2k` and the next, weighed by
    /// `weights[k * starts.len() + i]`. Both are padded to a multiple of [`LANES`].
    Pairs {
        starts: Vec<u32>,
        weights: Vec<[i16; 2]>,
    },
    /// The means of many.
    Mean(Vec<Mean>),
}

/// Real weights of one target sample, none of them zero at either end.
struct Taps {
    start: usize,
    weights: Vec<f64>,
}

impl Axis {
    fn new(key: AxisKey) -> Self {
        let taps: Vec<Taps> = (0..key.dst).map(|i| key.taps(i)).collect();
        Self {
            key,
            lines: taps.iter().map(line).collect(),
            columns: columns(&taps),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the picture's side"
)]
fn floor_within(x: f64, last: usize) -> usize {
    x.floor().clamp(0.0, last as f64) as usize
}

impl AxisKey {
    /// The definition of both filters, in real numbers.
    fn taps(&self, i: usize) -> Taps {
        let last = self.src.max(1) - 1;
        let Some(filter) = self.filter else {
            return Taps::new((i / self.src_sub.max(1)).min(last), vec![1.0]);
        };
        let per_pixel =
            self.src_pixels as f64 / (self.src_sub.max(1) * self.dst_pixels.max(1)) as f64;
        let scale = per_pixel * self.dst_sub as f64;
        let lead = self.lead as f64 * per_pixel;
        let (from, to) = (i as f64 * scale - lead, (i + 1) as f64 * scale - lead);
        // Magnifying, every target sample lies under less than one source sample; its mean would
        // be the nearest one. Both filters interpolate there, as OpenCV's INTER_AREA does.
        if filter == Filter::Area && scale > 1.0 {
            let extent = self.src_pixels as f64 / self.src_sub.max(1) as f64;
            let (from, to) = (from.clamp(0.0, extent), to.clamp(0.0, extent));
            let start = floor_within(from, last);
            let end = floor_within(to.ceil() - 1.0, last).max(start);
            let under = |s: usize| (to.min(s as f64 + 1.0) - from.max(s as f64)).max(0.0);
            return Taps::new(start, (start..=end).map(under).collect());
        }
        let centre = ((from + to) / 2.0 - 0.5).clamp(0.0, last as f64);
        let start = floor_within(centre, last);
        let part = centre - start as f64;
        Taps::new(start, vec![1.0 - part, part])
    }
}

impl Taps {
    /// Weights that add up to one, without those that are nothing.
    fn new(mut start: usize, mut weights: Vec<f64>) -> Self {
        const NOTHING: f64 = 1e-9;
        while weights.len() > 1 && weights.last().is_some_and(|w| *w <= NOTHING) {
            weights.pop();
        }
        let leading = weights.iter().take_while(|w| **w <= NOTHING).count();
        let leading = leading.min(weights.len() - 1);
        weights.drain(..leading);
        start += leading;
        let sum: f64 = weights.iter().sum();
        if sum <= NOTHING {
            weights = vec![1.0];
        } else {
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        Self { start, weights }
    }

    /// As integers that add up to 2^`bits` exactly, so that an even surface stays as it is: each is
    /// the difference of two rounded partial sums.
    fn fixed(&self, bits: u32) -> impl Iterator<Item = u32> {
        let one = f64::from(1_u32 << bits);
        let (mut sum, mut before) = (0.0, 0);
        self.weights.iter().enumerate().map(move |(k, w)| {
            sum += w;
            let upto = if k + 1 == self.weights.len() {
                1 << bits
            } else {
                rounded(sum * one)
            };
            let weight = upto - before;
            before = upto;
            weight
        })
    }

    fn mean(&self) -> Mean {
        let one = f64::from(1_u32 << MEAN_BITS);
        let count = self.weights.len();
        let at = |k: usize| rounded(self.weights.get(k).copied().unwrap_or(0.0) * one);
        let (full, last) = (at(1), at(count - 1));
        let inner = u32::try_from(count.saturating_sub(2)).unwrap_or(0);
        let rest = full.wrapping_mul(inner).wrapping_add(last);
        Mean {
            start: self.start,
            count,
            first: (1_u32 << MEAN_BITS).wrapping_sub(rest),
            full,
            last,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 2^24"
)]
fn rounded(x: f64) -> u32 {
    x.round() as u32
}

fn line(taps: &Taps) -> Line {
    let count = taps.weights.len();
    if count > FEW {
        return Line::Mean(taps.mean());
    }
    let mut weights = [0; FEW];
    for (k, (weight, fixed)) in weights.iter_mut().zip(taps.fixed(16)).enumerate() {
        match u16::try_from(fixed) {
            Ok(w) => *weight = w,
            // One does not fit 16 bits; it stands alone and needs no product.
            Err(_) => return Line::One(taps.start + k),
        }
    }
    Line::Few {
        start: taps.start,
        count,
        weights,
    }
}

fn columns(taps: &[Taps]) -> Columns {
    let most = taps.iter().map(|t| t.weights.len()).max().unwrap_or(1);
    if most > MAX_PAIRED {
        return Columns::Mean(taps.iter().map(Taps::mean).collect());
    }
    let begins = |at: fn(usize) -> usize| taps.iter().enumerate().all(|(i, t)| t.start == at(i));
    if most == 1 && begins(|i| i) {
        return Columns::Same;
    }
    if most == 1 && begins(|i| i / 2) {
        return Columns::Twice;
    }
    let padded = taps.len().next_multiple_of(LANES);
    // Seen from column `2i` instead of its own, a target's taps may begin one later.
    let adjacent =
        |(i, t): (usize, &Taps)| t.start >= 2 * i && t.start + t.weights.len() <= 2 * i + 2;
    let is_adjacent = taps.iter().enumerate().all(adjacent);
    let mut starts = vec![0; padded];
    let mut weights = vec![[0; 2]; padded * most.div_ceil(2)];
    for (i, taps) in taps.iter().enumerate() {
        let start = if is_adjacent { 2 * i } else { taps.start };
        starts[i] = u32::try_from(start).unwrap_or(0);
        for (k, weight) in (taps.start - start..).zip(taps.fixed(ACROSS_BITS)) {
            weights[k / 2 * padded + i][k % 2] = i16::try_from(weight).unwrap_or(i16::MAX);
        }
    }
    if is_adjacent {
        weights.truncate(padded);
        Columns::Adjacent(weights)
    } else {
        Columns::Pairs { starts, weights }
    }
}

/// The tables in use.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<Axis>);

impl Tables {
    /// The tables for these keys, made if they are not there yet.
    pub(super) fn get<const N: usize>(&mut self, keys: [AxisKey; N]) -> [&Axis; N] {
        let tables = &mut self.0;
        let known = |tables: &[Axis], key: &AxisKey| tables.iter().position(|t| t.key == *key);
        if tables.len() + N > MAX_TABLES && !keys.iter().all(|key| known(tables, key).is_some()) {
            // More views than anyone has: start again.
            tables.clear();
        }
        let found = keys.map(|key| {
            known(tables, &key).unwrap_or_else(|| {
                tables.push(Axis::new(key));
                tables.len() - 1
            })
        });
        found.map(|i| &self.0[i])
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
