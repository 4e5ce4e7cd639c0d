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
/// [`crate::shadow::Shadow::mark_hard`]; `area` is how many pixels are looked at, the others never
/// change.
pub(crate) fn is_switch(
    picture: &[u8],
    background: &[u8],
    changed: &[u8],
    width: usize,
    area: usize,
    noise: f64,
) -> bool {
    let pixels = share(ones(changed), area);
    if pixels < LEAST_CHANGED {
        return false;
    }
    if pixels >= ONE_WAY && one_way(picture, background, changed, area) >= ONE_WAY {
        return true;
    }
    // A block's variance by noise alone; texture must stand out of it.
    let flat = (3.0 * noise).powi(2).max(4.0);
    let (mut seen, mut textured, mut kept) = (0_usize, 0_usize, 0_usize);
    let height = picture.len() / width;
    for top in (0..height.saturating_sub(SIDE - 1)).step_by(SIDE) {
        for left in (0..width.saturating_sub(SIDE - 1)).step_by(SIDE) {
            let (mut moved, mut sums) = (0, Moments::default());
            for y in top..top + SIDE {
                let row = y * width + left..y * width + left + SIDE;
                moved += ones(&changed[row.clone()]);
                sums.add(&picture[row.clone()], &background[row]);
            }
            if moved * 2 < SIDE * SIDE {
                continue;
            }
            seen += 1;
            let (of_picture, of_background, of_both) = sums.variances();
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
fn one_way(picture: &[u8], background: &[u8], changed: &[u8], area: usize) -> f64 {
    let pairs = picture.iter().zip(background).zip(changed);
    let brighter = pairs.filter(|((p, b), c)| **c != 0 && p > b).count();
    let darker = ones(changed) - brighter;
    share(brighter.max(darker), area)
}

/// Sums over the pixels of a block; 64 of them stay far below 2^31.
#[derive(Default)]
struct Moments {
    p: i32,
    b: i32,
    pp: i32,
    bb: i32,
    pb: i32,
}

impl Moments {
    fn add(&mut self, picture: &[u8], background: &[u8]) {
        for (p, b) in picture.iter().zip(background) {
            let (p, b) = (i32::from(*p), i32::from(*b));
            self.p = self.p.wrapping_add(p);
            self.b = self.b.wrapping_add(b);
            self.pp = self.pp.wrapping_add(p * p);
            self.bb = self.bb.wrapping_add(b * b);
            self.pb = self.pb.wrapping_add(p * b);
        }
    }

    /// Variances of both and their covariance.
    fn variances(&self) -> (f64, f64, f64) {
        const N: f64 = (SIDE * SIDE) as f64;
        let (p, b) = (f64::from(self.p) / N, f64::from(self.b) / N);
        (
            f64::from(self.pp) / N - p * p,
            f64::from(self.bb) / N - b * b,
            f64::from(self.pb) / N - p * b,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels of a picture")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
