//! Is a changed pixel in a soft shadow (or in soft light), or is something there?
//!
//! A shadow takes a share of the light away: what is under it keeps its texture, so the ratio of
//! picture and background is nearly the same next door, in its rim too if that is soft. Light that
//! comes (a cloud goes, a dimmer, a far headlamp) is the same the other way round. A thing
//! has edges and a texture of its own (ratio test as in Jacques, Jung, Musse, "Background
//! subtraction and shadow detection in grayscale video sequences", 2005). Without colour an even
//! thing in front of an even wall is only given away by its edges.

/// A shadow leaves at least two fifths of the light; light adds as much as a shadow takes.
const LEAST: (u16, u16) = (2, 5);
/// How much the ratio may differ from one pixel to the next, of 65536: 7 %.
const SMOOTH: u32 = 18 * 256;
/// Fraction bits of what the noise may do.
const SLACK_BITS: u32 = 2;

/// Tells shadows from things; holds room for three rows.
#[derive(Debug)]
pub(crate) struct Shadow {
    width: usize,
    /// Whether a pixel's ratio is its right, upper and lower neighbour's.
    right: Vec<u8>,
    above: Vec<u8>,
    below: Vec<u8>,
}

impl Shadow {
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width,
            right: vec![1; width],
            above: vec![1; width],
            below: vec![1; width],
        }
    }

    /// Marks with 1 the changed pixels that are something, not soft shadow or light. `noise` is
    /// the standard deviation of the smoothed camera noise, levels.
    pub(crate) fn mark_hard(
        &mut self,
        picture: &[u8],
        background: &[u8],
        changed: &[u8],
        noise: f64,
        hard: &mut [u8],
    ) {
        let (width, slack) = (self.width, slack(noise));
        let last = (picture.len() / width).saturating_sub(1);
        let row = |of: &[u8], y: usize| y * width..((y + 1) * width).min(of.len());
        // Whether `below` is that of the row before.
        let mut known = false;
        for (y, out) in hard.chunks_exact_mut(width).enumerate() {
            let line = &changed[row(changed, y)];
            out.copy_from_slice(line);
            // Most rows of most pictures are as ever.
            if !line.contains(&1) {
                known = false;
                continue;
            }
            let at = |y: usize| (&picture[row(picture, y)], &background[row(background, y)]);
            let here = at(y);
            if known {
                std::mem::swap(&mut self.above, &mut self.below);
            } else if y > 0 {
                even(at(y - 1), here, slack, &mut self.above);
            } else {
                self.above.fill(1);
            }
            if y < last {
                even(here, at(y + 1), slack, &mut self.below);
            } else {
                self.below.fill(1);
            }
            known = true;
            let (p, b) = here;
            let pairs = width - 1;
            let next = (&p[1..], &b[1..]);
            even(
                (&p[..pairs], &b[..pairs]),
                next,
                slack,
                &mut self.right[..pairs],
            );
            self.judge(here, out);
        }
    }

    /// Clears what is soft on all sides and neither nearly black nor glaring.
    fn judge(&self, (p, b): (&[u8], &[u8]), hard: &mut [u8]) {
        let n = hard.len();
        let (p, b) = (&p[..n], &b[..n]);
        let (above, below, right) = (&self.above[..n], &self.below[..n], &self.right[..n]);
        // The left neighbour's right side; the first pixel has no left neighbour.
        let mut left = 1;
        for i in 0..n {
            let (dark, bright) = (u16::from(p[i].min(b[i])), u16::from(p[i].max(b[i])));
            let moderate = u8::from(dark * LEAST.1 >= bright * LEAST.0);
            let soft = moderate & above[i] & below[i] & right[i] & left;
            left = right[i];
            hard[i] &= soft ^ 1;
        }
    }
}

/// Twice the noise, as [`even`] wants it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "noise is below 11 levels; clamped so that products stay within 16 bits"
)]
fn slack(noise: f64) -> u16 {
    (noise * 2.0 * f64::from(1 << SLACK_BITS))
        .round()
        .clamp(0.0, 100.0) as u16
}

/// Sets `out` to 1 where the ratio of picture and background is the same in both, to 0 where it
/// is not: |p/b − q/c| ≤ SMOOTH, and what noise does to ratios. In 16-bit products.
fn even(one: (&[u8], &[u8]), other: (&[u8], &[u8]), slack: u16, out: &mut [u8]) {
    let n = out.len();
    let (p, b) = (&one.0[..n], &one.1[..n]);
    let (q, c) = (&other.0[..n], &other.1[..n]);
    for i in 0..n {
        let (p, b) = (u16::from(p[i]), u16::from(b[i]));
        let (q, c) = (u16::from(q[i]), u16::from(c[i]));
        let apart = p.wrapping_mul(c).abs_diff(q.wrapping_mul(b));
        let allowed = (u32::from(b.wrapping_mul(c)).wrapping_mul(SMOOTH) >> 16) as u16;
        let noise = b.wrapping_add(c).wrapping_mul(slack) >> SLACK_BITS;
        out[i] = u8::from(apart <= allowed.wrapping_add(noise));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 64;

    fn hard_pixels(picture: &[u8], background: &[u8]) -> usize {
        let changed: Vec<u8> = picture
            .iter()
            .zip(background)
            .map(|(p, b)| u8::from(p.abs_diff(*b) > 12))
            .collect();
        let mut hard = vec![0; changed.len()];
        Shadow::new(W).mark_hard(picture, background, &changed, 0.5, &mut hard);
        hard.iter().map(|h| usize::from(*h)).sum()
    }

    fn textured() -> Vec<u8> {
        (0..W * W)
            .map(|i| 100 + u8::try_from(i % W / 4 % 2 * 60 + i / W / 8 % 2 * 20).unwrap())
            .collect()
    }

    #[test]
    fn a_soft_shadow_on_texture_is_no_thing_and_a_flat_thing_on_texture_is() {
        let background = textured();
        // Fades from all to 60 % of the light over 12 columns, then back.
        let shade = |x: usize| 256 - x.abs_diff(32).min(24).abs_diff(24).min(12) * 102 / 12;
        let shadow: Vec<u8> = background
            .iter()
            .enumerate()
            .map(|(i, b)| u8::try_from(usize::from(*b) * shade(i % W) / 256).unwrap())
            .collect();
        assert!(hard_pixels(&shadow, &background) < 10);
        let mut thing = background.clone();
        for y in 16..48 {
            thing[y * W + 16..y * W + 48].fill(70);
        }
        let hard = hard_pixels(&thing, &background);
        assert!(hard > 32 * 32 / 2, "{hard}");
    }

    #[test]
    fn nearly_black_is_no_shadow_and_glaring_is_no_light() {
        let background = vec![100; W * W];
        for (level, hard) in [
            (30, W * W),
            (60, 0),
            (87, 0),
            (113, 0),
            (200, 0),
            (254, W * W),
        ] {
            assert_eq!(hard_pixels(&[level; W * W], &background), hard, "{level}");
        }
    }

    #[test]
    fn each_pixel_is_judged_by_its_own_four_neighbours() {
        let background = vec![100; W * W];
        for (x, y) in [(0, 0), (W - 1, 0), (0, W - 1), (W - 1, W - 1), (20, 30)] {
            // Half the light everywhere, but for one pixel and so its neighbours.
            let mut picture = vec![50; W * W];
            picture[y * W + x] = 80;
            let around = [x > 0, x + 1 < W, y > 0, y + 1 < W];
            let want = 1 + around.iter().filter(|a| **a).count();
            assert_eq!(hard_pixels(&picture, &background), want, "{x} {y}");
        }
    }
}
