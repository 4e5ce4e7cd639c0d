//! Is a pixel that got darker in a soft shadow, or is something there?
//!
//! A shadow takes a share of the light away: what is under it keeps its texture, so the ratio of
//! picture and background is nearly the same next door, in its rim too if that is soft. A thing
//! has edges and a texture of its own (ratio test as in Jacques, Jung, Musse, "Background
//! subtraction and shadow detection in grayscale video sequences", 2005). Without colour an even,
//! dark thing in front of an even wall is only given away by its edges.

/// A shadow leaves this much of the light, of 100.
const LEAST: u32 = 40;
const MOST: u32 = 95;
/// How much the ratio may differ from one pixel to the next, of 256.
const SMOOTH: u32 = 18;

/// Marks with 1 the changed pixels that are something, not soft shadow. `noise` is the standard
/// deviation of the smoothed camera noise, levels.
pub(crate) fn mark_hard(
    picture: &[u8],
    background: &[u8],
    changed: &[u8],
    width: usize,
    noise: f64,
    hard: &mut [u8],
) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "noise is below 11 levels"
    )]
    let slack = (noise * 2.0 * 256.0).round().max(0.0) as u32;
    hard.copy_from_slice(changed);
    let rows = changed.chunks_exact(width).enumerate();
    for (y, row) in rows {
        // Rows without change cost one pass over their bytes.
        if !row.contains(&1) {
            continue;
        }
        for x in 0..width {
            let at = y * width + x;
            if changed[at] == 0 {
                continue;
            }
            let (p, b) = (u32::from(picture[at]), u32::from(background[at]));
            if p * 100 < b * LEAST || p * 100 > b * MOST {
                continue;
            }
            let even = |next: usize| -> bool {
                let (q, c) = (u32::from(picture[next]), u32::from(background[next]));
                // |p/b − q/c| ≤ SMOOTH/256 + what the noise of p and q does to their ratios.
                (p * c).abs_diff(q * b) * 256 <= b * c * SMOOTH + slack * (b + c)
            };
            let soft = (x == 0 || even(at - 1))
                && (x + 1 == width || even(at + 1))
                && (y == 0 || even(at - width))
                && (at + width >= picture.len() || even(at + width));
            if soft {
                hard[at] = 0;
            }
        }
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
        mark_hard(picture, background, &changed, W, 0.5, &mut hard);
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
    fn brighter_or_nearly_black_is_no_shadow() {
        let background = vec![100; W * W];
        assert_eq!(hard_pixels(&[130; W * W], &background), W * W);
        assert_eq!(hard_pixels(&[30; W * W], &background), W * W);
        assert_eq!(hard_pixels(&[60; W * W], &background), 0);
    }
}
