//! Was the light switched? Then much has changed at once, and nothing has moved.
//!
//! A switch leaves the texture where it is: within blocks of 8 × 8 pixels, picture and background
//! still go up and down together, whatever each lamp does to each corner of the room. Where there
//! is no texture to compare (night to day, a bare wall), nearly everything gets brighter, or
//! nearly everything darker, which a thing could only do by covering the lens.

use crate::background::ones;

/// Least share of changed pixels; less is not looked at.
const LEAST_CHANGED: f64 = 0.3;
/// Share of the changed, textured blocks that must have kept their texture.
const KEPT: f64 = 0.7;
/// Share of the changed blocks that must have a texture to judge by.
const TEXTURED: f64 = 0.2;
/// Share of pixels that all get brighter, or all darker.
const ONE_WAY: f64 = 0.9;
const SIDE: usize = 8;
/// Correlation above which a block has kept its texture.
const LIKE: f64 = 0.7;

/// Whether what has changed between background and picture is the light. `noise` as in
/// [`crate::shadow::mark_hard`].
pub(crate) fn is_switch(
    picture: &[u8],
    background: &[u8],
    changed: &[u8],
    width: usize,
    noise: f64,
) -> bool {
    let pixels = share(ones(changed), picture.len());
    if pixels < LEAST_CHANGED {
        return false;
    }
    if pixels >= ONE_WAY && one_way(picture, background, changed) >= ONE_WAY {
        return true;
    }
    // A block's variance by noise alone; texture must stand out of it.
    let flat = (3.0 * noise).powi(2).max(4.0);
    let (mut seen, mut textured, mut kept) = (0_usize, 0_usize, 0_usize);
    let height = picture.len() / width;
    for top in (0..height.saturating_sub(SIDE - 1)).step_by(SIDE) {
        for left in (0..width.saturating_sub(SIDE - 1)).step_by(SIDE) {
            let at = |y: usize| (top + y) * width + left;
            let rows = || (0..SIDE).map(|y| at(y)..at(y) + SIDE);
            let moved: usize = rows().map(|r| ones(&changed[r])).sum();
            if moved * 2 < SIDE * SIDE {
                continue;
            }
            seen += 1;
            let pairs = rows().flat_map(|r| picture[r.clone()].iter().zip(&background[r]));
            let (of_picture, of_background, of_both) = moments(pairs);
            if of_picture.max(of_background) < flat {
                continue;
            }
            textured += 1;
            if of_both > LIKE * (of_picture * of_background).sqrt() {
                kept += 1;
            }
        }
    }
    share(textured, seen) >= TEXTURED && share(kept, textured) >= KEPT
}

/// The larger of the shares of pixels that have got brighter and darker.
fn one_way(picture: &[u8], background: &[u8], changed: &[u8]) -> f64 {
    let pairs = picture.iter().zip(background).zip(changed);
    let brighter = pairs.filter(|((p, b), c)| **c != 0 && p > b).count();
    let darker = ones(changed) - brighter;
    share(brighter.max(darker), picture.len())
}

/// Variances of both and their covariance.
fn moments<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> (f64, f64, f64) {
    let (mut n, mut p1, mut b1, mut p2, mut b2, mut pb) = (0, 0, 0, 0, 0, 0);
    for (p, b) in pairs {
        let (p, b) = (i32::from(*p), i32::from(*b));
        n += 1;
        p1 += p;
        b1 += b;
        p2 += p * p;
        b2 += b * b;
        pb += p * b;
    }
    let n = f64::from(n.max(1));
    let (p1, b1) = (f64::from(p1) / n, f64::from(b1) / n);
    (
        f64::from(p2) / n - p1 * p1,
        f64::from(b2) / n - b1 * b1,
        f64::from(pb) / n - p1 * b1,
    )
}

#[expect(clippy::cast_precision_loss, reason = "pixels of a picture")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
