//! Where everything is in picture n: whole numbers only, so that it is the same on every machine.

use super::params::{Kinds, Params, Scene};

/// One thing that is really in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TruthObject {
    /// `rect` or `disc`.
    pub label: &'static str,
    /// Left, top, right, bottom in units of the frame, 0–1.
    pub bbox: [f64; 4],
}

/// What is really in picture number `frame` (counted over rounds, as in the block code): the
/// moving shapes, in drawing order; a later one may hide an earlier one. Empty for the scenes
/// `empty` and `shadow`, and before `shapes_at`.
pub fn truth(params: &Params, frame: u64) -> Vec<TruthObject> {
    let (w, h) = (f64::from(params.width), f64::from(params.height));
    let n = in_round(params, frame);
    if n < params.shapes_at {
        return Vec::new();
    }
    let of = |shape: &Shape| {
        let (x, y) = shape.at(n, params.fps_milli);
        #[expect(clippy::cast_precision_loss, reason = "pixels of a picture")]
        let bbox = [
            x as f64 / w,
            y as f64 / h,
            (x + shape.side) as f64 / w,
            (y + shape.side) as f64 / h,
        ];
        TruthObject {
            label: if shape.disc { "disc" } else { "rect" },
            bbox,
        }
    };
    shapes(params).iter().map(of).collect()
}

/// The picture's number within its round: what is seen repeats.
pub(super) fn in_round(params: &Params, frame: u64) -> u64 {
    if params.frames == 0 {
        frame
    } else {
        frame % params.frames
    }
}

/// Something that goes to and fro between the picture's edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) disc: bool,
    /// Pixels.
    pub(super) side: i64,
    pub(super) level: u8,
    x: Axis,
    y: Axis,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Axis {
    first: i64,
    range: i64,
    start: i64,
    /// Pixels in 1000 seconds.
    speed: i64,
}

impl Axis {
    fn at(&self, n: u64, fps_milli: u32) -> i64 {
        let way = i128::from(self.speed) * i128::from(n) / i128::from(fps_milli.max(1));
        let lap = 2 * i128::from(self.range);
        let on_lap = (i128::from(self.start) + way).rem_euclid(lap.max(1));
        let at = on_lap.min(lap - on_lap);
        self.first + i64::try_from(at).unwrap_or(0)
    }
}

impl Shape {
    /// Left and top in picture number `n` of a round.
    pub(super) fn at(&self, n: u64, fps_milli: u32) -> (i64, i64) {
        (self.x.at(n, fps_milli), self.y.at(n, fps_milli))
    }
}

/// The scene's shapes; for the scene `shadow` its one shadow.
fn movers(params: &Params, count: u32, scale_pct: i64) -> Vec<Shape> {
    let (w, h) = (i64::from(params.width), i64::from(params.height));
    let header = i64::from(params.header());
    let field = h - header;
    let side = (w.min(h) * i64::from(params.size_pct) * scale_pct / 10_000).clamp(2, field.min(w));
    (0..count)
        .map(|i| {
            let mut dice = Dice::new(params.seed, u64::from(i) + 1);
            let mut axis = |first: i64, extent: i64| {
                let range = extent - side;
                // Half to one and a half of the speed, either way.
                let whole = extent * i64::from(params.speed_pct) * 10;
                let speed = whole / 2 + whole * dice.below(1000) / 1000;
                Axis {
                    first,
                    range,
                    start: dice.below(2 * range.max(1)),
                    speed: if dice.below(2) == 0 { speed } else { -speed },
                }
            };
            let (x, y) = (axis(0, w), axis(header, field));
            let disc = match params.kinds {
                Kinds::Both => i % 2 == 1,
                Kinds::Rect => false,
                Kinds::Disc => true,
            };
            Shape {
                disc,
                side,
                level: 232 - u8::try_from(i % 4).unwrap_or(0) * 10,
                x,
                y,
            }
        })
        .collect()
}

pub(super) fn shapes(params: &Params) -> Vec<Shape> {
    match params.scene {
        Scene::Shapes => movers(params, params.shapes, 100),
        Scene::Empty | Scene::Shadow => Vec::new(),
    }
}

pub(super) fn shadow(params: &Params) -> Option<Shape> {
    match params.scene {
        // Twice as large as a shape would be: half of it is its soft rim.
        Scene::Shadow => movers(params, 1, 200).pop(),
        Scene::Shapes | Scene::Empty => None,
    }
}

/// Time stamp of picture `n` of a round, nanoseconds from its first.
pub(super) fn time_ns(params: &Params, n: u64) -> i64 {
    let exact = i128::from(n) * 1_000_000_000_000 / i128::from(params.fps_milli.max(1));
    let exact = i64::try_from(exact).unwrap_or(i64::MAX / 2);
    if n == 0 || params.jitter_ns == 0 {
        return exact;
    }
    let span = 2 * params.jitter_ns + 1;
    exact + Dice::new(params.seed ^ 0x7175, n).below(span) - params.jitter_ns
}

/// Whether picture `n` of a round is lost.
pub(super) fn is_lost(params: &Params, n: u64) -> bool {
    params.gap_every > 0 && n % params.gap_every >= params.gap_every - params.gap_frames
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        dice.roll();
        dice
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `limit` − 1.
    pub(super) fn below(&mut self, limit: i64) -> i64 {
        let limit = limit.max(1).unsigned_abs();
        i64::try_from(self.roll() % limit).unwrap_or(0)
    }
}
