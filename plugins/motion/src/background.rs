//! What the picture looks like when nothing moves, per pixel, and how much it flickers by itself.
//!
//! The one hard idea: comparing and learning are two clocks. Every frame is compared, with two
//! byte comparisons per pixel. Learning happens on a grid of *source time*, with a weight that
//! follows from the time passed, so that 5 and 30 frames a second learn the same. And it is
//! selective: what moves does not flow into the background, or a person would leave a smear;
//! it becomes background as a whole once it has stood still for `history`. Soft shadow and light do
//! flow in: what they leave behind is soft again, and gone in `learn`.
//!
//! Values stay within 16 bits by construction; the operations say `wrapping` because overflow checks
//! would keep the loops scalar.
//!
//! Running mean and mean absolute deviation as in sigma-delta estimation (Manzanera, Richefeu,
//! "A new motion detection algorithm based on Σ-Δ background estimation", 2007), with weights
//! instead of steps; 7 fraction bits, so that a level fits 16 bits with its sign.

use std::sync::Arc;

use crate::config::Config;

/// Fraction bits of mean and deviation.
const FRACTION: u32 = 7;
const ONE: i16 = 1 << FRACTION;
/// Learning steps in `learn_s`, and absorbing steps in `history_s`.
const STEPS: u8 = 32;
/// A pixel counts as changed beyond this many mean deviations (4 standard ones, if it is noise).
const DEVIATIONS: i16 = 5;
/// However restless a pixel is, a change of this many levels counts.
const MOST_THRESHOLD: u8 = 64;
const MOST_DEVIATION: i16 = MOST_THRESHOLD as i16 * ONE / DEVIATIONS;
/// What a step of change adds to a pixel's deviation, 1/128 levels: a leaf that is elsewhere half of
/// the time ends at 3 levels, which hides 16; a passer-by leaves nothing.
const RESTLESS: i16 = 13;
/// Deviation before anything is known, levels.
const FIRST_DEVIATION: i16 = 2;
/// The camera's noise is looked for below this deviation, levels.
const MOST_NOISE: i16 = 8;

/// The background model of one view.
#[derive(Debug)]
pub(crate) struct Background {
    config: Config,
    mean: Vec<i16>,
    deviation: Vec<i16>,
    /// A pixel within these is as ever.
    low: Vec<u8>,
    high: Vec<u8>,
    /// The mean in levels.
    level: Vec<u8>,
    /// What a changed pixel looks like, and for how many absorbing steps.
    candidate: Vec<u8>,
    stood: Vec<u8>,
    /// Mean deviation of what is looked at: the camera's noise, 1/128 levels.
    noise: i16,
    /// 1 for pixels that are looked at; empty if all are. The others are the same in every picture.
    counts: Arc<[u8]>,
    /// How many are looked at.
    area: usize,
    began_ns: Option<i64>,
    learned_ns: i64,
    absorbed_ns: i64,
    steps: i64,
}

impl Background {
    /// For pictures of `pixels`, of which those are looked at where `counts` is 1; all if it is empty.
    pub(crate) fn new(config: Config, pixels: usize, counts: &Arc<[u8]>) -> Self {
        let area = if counts.is_empty() {
            pixels
        } else {
            ones(counts)
        };
        Self {
            config,
            mean: vec![0; pixels],
            deviation: vec![0; pixels],
            low: vec![0; pixels],
            high: vec![0; pixels],
            level: vec![0; pixels],
            candidate: vec![0; pixels],
            stood: vec![0; pixels],
            noise: FIRST_DEVIATION * ONE,
            counts: Arc::clone(counts),
            area,
            began_ns: None,
            learned_ns: 0,
            absorbed_ns: 0,
            steps: 0,
        }
    }

    /// Forgets everything; the next picture is the first.
    pub(crate) fn reset(&mut self) {
        self.began_ns = None;
        self.noise = FIRST_DEVIATION * ONE;
        self.steps = 0;
    }

    /// Whether it is still finding out what nothing looks like at `t_ns`; true for the first.
    pub(crate) fn is_learning(&self, t_ns: i64) -> bool {
        self.began_ns
            .is_none_or(|began| t_ns.saturating_sub(began) < self.config.learn_ns)
    }

    /// The background in levels.
    pub(crate) fn level(&self) -> &[u8] {
        &self.level
    }

    /// Standard deviation of the smoothed camera noise, levels.
    pub(crate) fn noise(&self) -> f64 {
        f64::from(self.noise) / f64::from(ONE) * 1.25
    }

    /// Marks with 1 what is not as ever, with 0 what is; gives the number of ones.
    pub(crate) fn compare(&self, picture: &[u8], changed: &mut [u8]) -> usize {
        let bounds = self.low.iter().zip(&self.high);
        for ((c, x), (low, high)) in changed.iter_mut().zip(picture).zip(bounds) {
            *c = u8::from(x < low) | u8::from(x > high);
        }
        ones(changed)
    }

    /// Learns the start: everything, with equal weights.
    pub(crate) fn begin(&mut self, picture: &[u8], t_ns: i64) {
        if self.began_ns.is_none() {
            self.began_ns = Some(t_ns);
            self.deviation.fill(FIRST_DEVIATION * ONE);
            for (deviation, counts) in self.deviation.iter_mut().zip(&*self.counts) {
                *deviation *= i16::from(*counts);
            }
            self.adopt(picture);
            self.steps = 1;
        } else {
            self.steps += 1;
            let weight = weight(1, self.steps - 1);
            let pixels = self.mean.iter_mut().zip(&mut self.deviation).zip(picture);
            for ((mean, deviation), x) in pixels {
                let off = fixed(*x).wrapping_sub(*mean);
                *mean = mean.wrapping_add(part(off, weight));
                let more = off.wrapping_abs().wrapping_sub(*deviation);
                *deviation = deviation.wrapping_add(part(more, weight));
            }
            self.measure_noise();
            self.bound();
        }
        self.learned_ns = t_ns;
        self.absorbed_ns = t_ns;
    }

    /// Takes `picture` as the background at once (the light was switched); how much each pixel
    /// flickers stays known.
    pub(crate) fn adopt(&mut self, picture: &[u8]) {
        for (mean, x) in self.mean.iter_mut().zip(picture) {
            *mean = fixed(*x);
        }
        self.stood.fill(0);
        self.bound();
    }

    /// Learns, if it is time, from a picture, what has changed in it, and what of that is motion.
    pub(crate) fn learn(&mut self, picture: &[u8], changed: &[u8], moving: &[u8], t_ns: i64) {
        let mut learned = false;
        let passed = t_ns.saturating_sub(self.absorbed_ns);
        let steps = passed.saturating_mul(STEPS.into()) / self.config.history_ns;
        if steps > 0 {
            // On a grid, so that a slow source takes no longer.
            let step_ns = self.config.history_ns / i64::from(STEPS);
            self.absorbed_ns = self
                .absorbed_ns
                .saturating_add(steps.saturating_mul(step_ns));
            self.absorb(picture, changed, u8::try_from(steps).unwrap_or(STEPS));
            learned = true;
        }
        let passed = t_ns.saturating_sub(self.learned_ns);
        if passed.saturating_mul(STEPS.into()) >= self.config.learn_ns {
            self.learned_ns = t_ns;
            self.follow(picture, moving, weight(passed, self.config.learn_ns));
            learned = true;
        }
        if learned {
            self.bound();
        }
    }

    /// Follows slow change of what does not move.
    fn follow(&mut self, picture: &[u8], moving: &[u8], weight: i16) {
        // As many steps' worth as `weight` is.
        let restless = (i32::from(RESTLESS) * i32::from(weight) * 33) >> 16;
        let restless = i16::try_from(restless.max(1)).unwrap_or(RESTLESS);
        let state = self.mean.iter_mut().zip(&mut self.deviation);
        for (((mean, deviation), x), m) in state.zip(picture).zip(moving) {
            let off = fixed(*x).wrapping_sub(*mean);
            // All ones where nothing moves.
            let still = i16::from(*m).wrapping_sub(1);
            *mean = mean.wrapping_add(part(off, weight) & still);
            let calm = part(off.wrapping_abs().wrapping_sub(*deviation), weight);
            let step = (calm & still) | (restless & !still);
            *deviation = deviation.wrapping_add(step).min(MOST_DEVIATION);
        }
        self.measure_noise();
    }

    /// What has changed and then stood still for `history` is background from now on.
    fn absorb(&mut self, picture: &[u8], changed: &[u8], steps: u8) {
        let likeness = self.config.threshold;
        let seen = self.candidate.iter_mut().zip(&mut self.stood);
        let pixels = seen.zip(&mut self.mean).zip(picture).zip(changed);
        for ((((candidate, stood), mean), x), c) in pixels {
            let same = x.abs_diff(*candidate) <= likeness;
            *stood = if *c == 0 || !same {
                0
            } else {
                (*stood).saturating_add(steps)
            };
            *candidate = if same && *c != 0 { *candidate } else { *x };
            let settled = *stood >= STEPS;
            *mean = if settled { fixed(*x) } else { *mean };
            *stood = if settled { 0 } else { *stood };
        }
    }

    fn measure_noise(&mut self) {
        let sum: i64 = self
            .deviation
            .chunks(256)
            .map(|part| {
                let most = MOST_NOISE * ONE;
                let sum: i32 = part.iter().map(|d| i32::from((*d).min(most))).sum();
                i64::from(sum)
            })
            .sum();
        let pixels = i64::try_from(self.area.max(1)).unwrap_or(i64::MAX);
        self.noise = i16::try_from(sum / pixels).unwrap_or(MOST_NOISE * ONE);
    }

    /// Brings what pictures are compared with up to date.
    fn bound(&mut self) {
        let (least, noise) = (self.config.threshold, self.noise);
        let state = self.mean.iter().zip(&self.deviation);
        let out = self.low.iter_mut().zip(&mut self.high).zip(&mut self.level);
        for ((mean, deviation), ((low, high), level)) in state.zip(out) {
            let far = (*deviation).max(noise).min(MOST_DEVIATION);
            let far = to_level(far.wrapping_mul(DEVIATIONS) >> FRACTION).max(least);
            let at = to_level(mean.wrapping_add(ONE / 2) >> FRACTION);
            *level = at;
            *low = at.saturating_sub(far);
            *high = at.saturating_add(far);
        }
    }
}

fn fixed(level: u8) -> i16 {
    i16::from(level) << FRACTION
}

#[expect(clippy::cast_sign_loss, reason = "clamped")]
fn to_level(value: i16) -> u8 {
    value.clamp(0, 255) as u8
}

/// `value` times a weight of 16 fraction bits, rounded.
fn part(value: i16, weight: i16) -> i16 {
    let product = i32::from(value) * i32::from(weight) + (1 << 15);
    // Half of an i16 at most: weights are below a half.
    (product >> 16) as i16
}

/// The weight of what has come in `passed` beside what has been known for `known`:
/// passed / (passed + known), below a half, with 16 fraction bits.
fn weight(passed: i64, known: i64) -> i16 {
    let (passed, known) = (i128::from(passed.max(0)), i128::from(known.max(1)));
    let weight = (passed << 16) / (passed + known);
    i16::try_from(weight).unwrap_or(i16::MAX)
}

/// How many bytes are 1, all others being 0.
pub(crate) fn ones(mask: &[u8]) -> usize {
    mask.chunks(255)
        .map(|part| usize::from(part.iter().fold(0_u8, |sum, one| sum.wrapping_add(*one))))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::parse(&serde_json::Map::new()).unwrap()
    }

    const S: i64 = 1_000_000_000;

    /// A background that has learned even pictures of `level`.
    fn learned(level: u8) -> Background {
        let mut b = Background::new(config(), 64, &Arc::default());
        for i in 0..=20 {
            b.begin(&[level; 64], i * S / 10);
        }
        b
    }

    #[test]
    fn ones_are_counted_beyond_a_byte() {
        assert_eq!(ones(&[1; 1000]), 1000);
        assert_eq!(ones(&[0; 1000]), 0);
    }

    #[test]
    fn learning_depends_on_source_time_not_on_the_number_of_frames() {
        let after = |fps: i64| -> u8 {
            let mut b = learned(100);
            for i in 1..=2 * fps {
                b.learn(&[110; 64], &[0; 64], &[0; 64], 2 * S + i * S / fps);
            }
            b.level()[0]
        };
        let (slow, fast) = (after(5), after(60));
        assert!(slow.abs_diff(fast) <= 1, "{slow} {fast}");
        assert!((104..109).contains(&slow), "about 63 % of 10: {slow}");
    }

    #[test]
    fn what_changes_does_not_smear_and_what_stands_still_is_taken_over_after_history() {
        let mut b = learned(100);
        let mut t = 2 * S;
        while t < 21 * S {
            t += S / 10;
            b.learn(&[180; 64], &[1; 64], &[1; 64], t);
            assert_eq!(b.level()[0], 100, "at {t}");
        }
        while t < 24 * S {
            t += S / 10;
            b.learn(&[180; 64], &[1; 64], &[1; 64], t);
        }
        assert_eq!(b.level()[0], 180);
        // What never looks the same twice is not taken over.
        for i in 0..400 {
            t += S / 10;
            b.learn(
                &[if i / 5 % 2 == 0 { 60 } else { 90 }; 64],
                &[1; 64],
                &[1; 64],
                t,
            );
        }
        assert_eq!(b.level()[0], 180);
    }

    #[test]
    fn a_restless_pixel_raises_its_own_threshold_a_passer_by_does_not() {
        let mut b = learned(100);
        let mut changed = [0_u8; 64];
        let mut t = 2 * S;
        for i in 0..600 {
            let mut picture = [100_u8; 64];
            t += S / 10;
            // Pixel 0: a leaf, there every other half second. Pixel 1: hidden for a second once.
            if i / 5 % 2 == 0 {
                picture[0] = 116;
            }
            if (300..310).contains(&i) {
                picture[1] = 200;
            }
            b.compare(&picture, &mut changed);
            b.learn(&picture, &changed, &changed, t);
        }
        let mut picture = [100_u8; 64];
        picture[..3].fill(116);
        b.compare(&picture, &mut changed);
        assert_eq!(changed[..3], [0, 1, 1]);
    }

    #[test]
    fn times_and_values_of_any_kind_do_not_overflow() {
        let mut b = Background::new(config(), 64, &Arc::default());
        for (x, t) in [
            (0, i64::MIN),
            (255, i64::MAX),
            (0, 0),
            (255, -1),
            (0, i64::MAX),
        ] {
            b.begin(&[x; 64], t);
            for changed in [0, 1] {
                b.learn(&[255 - x; 64], &[changed; 64], &[changed; 64], t);
                b.learn(
                    &[x; 64],
                    &[changed; 64],
                    &[changed; 64],
                    t.saturating_add(S),
                );
            }
        }
    }
}
