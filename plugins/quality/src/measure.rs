//! Numbers of one grey picture.

/// What is measured. Two pictures of different size can't be compared: the view's is fixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measures {
    /// Variance of the Laplacian (−4 in the middle, 1 on four sides), levels². The larger, the
    /// sharper. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.
    pub(crate) blur: f64,
    /// Mean level, 0–255.
    pub(crate) brightness: f64,
    /// 95th less 5th percentile of the levels, 0–255.
    pub(crate) contrast: f64,
}

impl Measures {
    /// Of rows of `width` pixels; at least 3 × 3 of them.
    pub(crate) fn of(luma: &[u8], width: usize) -> Self {
        let histogram = histogram(luma);
        let sum: u64 = (0_u64..).zip(&histogram).map(|(level, n)| level * n).sum();
        Self {
            blur: laplacian_variance(luma, width),
            brightness: to_f64(sum) / luma.len().max(1) as f64,
            contrast: percentile(&histogram, 95) - percentile(&histogram, 5),
        }
    }

    /// 0–1: the product of sharpness b/(b + 100), exposure (1 from 60 to 190, falling in straight
    /// lines to 0 at 0 and 255) and contrast (c/100, at most 1).
    pub(crate) fn score(&self) -> f64 {
        let sharpness = self.blur / (self.blur + 100.0);
        let exposure = (self.brightness / 60.0)
            .min((255.0 - self.brightness) / 65.0)
            .clamp(0.0, 1.0);
        let contrast = (self.contrast / 100.0).min(1.0);
        sharpness * exposure * contrast
    }
}

/// Pixels per level.
fn histogram(luma: &[u8]) -> [u64; 256] {
    // Four of them: neighbours are often equal, and then wait for each other's count.
    let mut parts = [[0_u32; 256]; 4];
    let (fours, rest) = luma.as_chunks::<4>();
    for four in fours {
        for (part, level) in parts.iter_mut().zip(four) {
            part[usize::from(*level)] += 1;
        }
    }
    for level in rest {
        parts[0][usize::from(*level)] += 1;
    }
    std::array::from_fn(|level| parts.iter().map(|p| u64::from(p[level])).sum())
}

/// The level that at least this percentage of the pixels do not exceed.
fn percentile(histogram: &[u64; 256], percent: u64) -> f64 {
    let all: u64 = histogram.iter().sum();
    let wanted = (all * percent).div_ceil(100);
    let mut seen = 0;
    for (level, n) in (0_u8..=255).zip(histogram) {
        seen += n;
        if seen >= wanted {
            return f64::from(level);
        }
    }
    255.0
}

fn laplacian_variance(luma: &[u8], width: usize) -> f64 {
    let (mut n, mut sum, mut squares) = (0_u64, 0_i64, 0_u64);
    let rows = luma.chunks_exact(width);
    let below = rows.clone().skip(2);
    for ((above, here), below) in rows.clone().zip(rows.skip(1)).zip(below) {
        let inner = width.saturating_sub(2);
        let sides = here.iter().zip(here.iter().skip(2));
        let column = above.iter().skip(1).zip(below.iter().skip(1));
        let middle = here.iter().skip(1);
        // A row of 1024 stays below 2^31: |value| ≤ 1020.
        let (mut of_row, mut squares_of_row) = (0_i32, 0_u32);
        for (((l, r), (a, b)), m) in sides.zip(column).zip(middle).take(inner) {
            let around = i32::from(*l) + i32::from(*r) + i32::from(*a) + i32::from(*b);
            let value = around - 4 * i32::from(*m);
            of_row = of_row.wrapping_add(value);
            squares_of_row = squares_of_row.wrapping_add(value.wrapping_mul(value).unsigned_abs());
        }
        n += inner as u64;
        sum += i64::from(of_row);
        squares += u64::from(squares_of_row);
    }
    let n = to_f64(n.max(1));
    let mean = to_f64(sum.unsigned_abs()) / n;
    to_f64(squares) / n - mean * mean
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_their_definitions() {
        // Half black, half white: columns 0–3 and 4–7.
        let luma: Vec<u8> = (0..64).map(|i| if i % 8 < 4 { 0 } else { 200 }).collect();
        let m = Measures::of(&luma, 8);
        assert_eq!((m.brightness, m.contrast), (100.0, 200.0));
        // Of six inner columns one has +200, one −200: the mean is 0, the variance 2 × 200² / 6.
        assert!((m.blur - 2.0 * 40_000.0 / 6.0).abs() < 1e-9, "{}", m.blur);
        let even = Measures::of(&[77; 64], 8);
        assert_eq!(
            (even.blur, even.brightness, even.contrast, even.score()),
            (0.0, 77.0, 0.0, 0.0)
        );
    }

    #[test]
    fn the_largest_row_does_not_overflow() {
        let width = 1024;
        let luma: Vec<u8> = (0..width * 3)
            .map(|i| {
                if (i % width + i / width) % 2 == 0 {
                    255
                } else {
                    0
                }
            })
            .collect();
        let m = Measures::of(&luma, width);
        assert!((m.blur - 1020.0 * 1020.0).abs() < 1.0, "{}", m.blur);
    }

    #[test]
    fn the_score_is_low_for_each_fault_alone() {
        let good = Measures {
            blur: 900.0,
            brightness: 120.0,
            contrast: 150.0,
        };
        assert!((good.score() - 0.9).abs() < 1e-12);
        for bad in [
            Measures { blur: 5.0, ..good },
            Measures {
                brightness: 6.0,
                ..good
            },
            Measures {
                brightness: 250.0,
                ..good
            },
            Measures {
                contrast: 8.0,
                ..good
            },
        ] {
            assert!(bad.score() < 0.1, "{bad:?}");
        }
    }
}
