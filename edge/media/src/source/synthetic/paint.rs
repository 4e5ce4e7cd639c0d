//! Draws a picture: background, shadow, shapes, noise, then number and time on top.
//!
//! Everything is drawn as luma, full range. Formats with colour get a picture without any, so all
//! formats show exactly the same. What does not change is drawn once, at the start.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};

use super::params::Params;
use super::scene::{self, Dice, Shape};
use super::{code, font};

/// Samples of noise kept; each row of a picture begins at another one.
const NOISE: usize = 1 << 16;
/// Pixels between two points of the background's texture.
const GRAIN: usize = 8;
/// What a shadow leaves of the light, of 256.
const SHADOW: u32 = 160;

/// The layout of the pictures of `params`.
pub(super) fn layout(params: &Params) -> ImageLayout {
    let color = ColorSpec {
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Full,
    };
    ImageLayout::packed(params.format, params.width, params.height, color)
}

/// Everything that is made once.
#[derive(Debug)]
pub(super) struct Painter {
    params: Params,
    layout: ImageLayout,
    background: Vec<u8>,
    shapes: Vec<Shape>,
    shadow: Option<Shape>,
    noise: Vec<i8>,
    /// Of formats without a plane of luma.
    scratch: Vec<u8>,
    /// The background as it is drawn now, in another light.
    dimmed: bool,
}

impl Painter {
    pub(super) fn new(params: &Params) -> Self {
        let layout = layout(params);
        let pixels = params.width as usize * params.height as usize;
        let packed = matches!(
            params.format,
            PixelFormat::Yuyv | PixelFormat::Uyvy | PixelFormat::Rgb | PixelFormat::Bgr
        );
        Self {
            background: background(params),
            shapes: scene::shapes(params),
            shadow: scene::shadow(params),
            noise: noise(params),
            scratch: vec![0; if packed { pixels } else { 0 }],
            dimmed: false,
            params: params.clone(),
            layout,
        }
    }

    /// Draws picture number `frame` (over rounds) of time `t_ns` into the bytes of its layout.
    pub(super) fn draw(&mut self, frame: u64, t_ns: i64, pixels: &mut [u8]) {
        let n = scene::in_round(&self.params, frame);
        self.light(n);
        let luma_bytes = self.params.width as usize * self.params.height as usize;
        match self.params.format {
            PixelFormat::Grey => self.luma(n, frame, t_ns, pixels),
            PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::Nv21 => {
                let (luma, chroma) = pixels.split_at_mut(luma_bytes);
                self.luma(n, frame, t_ns, luma);
                chroma.fill(128);
            }
            PixelFormat::Rgb | PixelFormat::Bgr => {
                let mut luma = std::mem::take(&mut self.scratch);
                self.luma(n, frame, t_ns, &mut luma);
                for (rgb, level) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(&luma) {
                    *rgb = [*level; 3];
                }
                self.scratch = luma;
            }
            PixelFormat::Yuyv | PixelFormat::Uyvy => {
                let at = usize::from(self.params.format == PixelFormat::Uyvy);
                let mut luma = std::mem::take(&mut self.scratch);
                self.luma(n, frame, t_ns, &mut luma);
                let stride = self.layout.planes().first().map_or(1, |p| p.stride);
                let rows = luma.chunks_exact(self.params.width as usize);
                for (out, row) in pixels.chunks_exact_mut(stride).zip(rows) {
                    out.fill(128);
                    for (pair, level) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                        pair[at] = *level;
                    }
                }
                self.scratch = luma;
            }
        }
    }

    /// Brings the background into the light of picture `n`: the switch costs one pass, once.
    fn light(&mut self, n: u64) {
        let dimmed = self.params.light_at.is_some_and(|at| n >= at);
        if dimmed == self.dimmed {
            return;
        }
        self.dimmed = dimmed;
        self.background = background(&self.params);
        if dimmed {
            let pct = self.params.light_pct;
            self.background.iter_mut().for_each(|p| *p = lit(*p, pct));
        }
    }

    fn luma(&self, n: u64, frame: u64, t_ns: i64, luma: &mut [u8]) {
        let params = &self.params;
        let stride = params.width as usize;
        luma.copy_from_slice(&self.background);
        let there = n >= params.shapes_at;
        if let Some(shadow) = self.shadow.as_ref().filter(|_| there) {
            darken(luma, stride, shadow.at(n, params.fps_milli), shadow.side);
        }
        for shape in self.shapes.iter().filter(|_| there) {
            let level = if self.dimmed {
                lit(shape.level, params.light_pct)
            } else {
                shape.level
            };
            fill(luma, stride, shape, shape.at(n, params.fps_milli), level);
        }
        if !self.noise.is_empty() {
            let mut dice = Dice::new(params.seed ^ 0x6e6f, frame);
            let starts = NOISE as i64 - stride as i64;
            for row in luma.chunks_exact_mut(stride) {
                let start = usize::try_from(dice.below(starts)).unwrap_or(0);
                for (p, n) in row.iter_mut().zip(&self.noise[start..]) {
                    *p = p.saturating_add_signed(*n);
                }
            }
        }
        if params.code {
            code::draw(luma, stride, frame, t_ns);
        }
        if params.text {
            let left = if params.code { code::WIDTH } else { 0 };
            font::draw(luma, stride, params.width, left, frame, t_ns);
        }
    }
}

fn lit(level: u8, pct: u32) -> u8 {
    u8::try_from(u32::from(level) * pct / 100).unwrap_or(u8::MAX)
}

/// A slope from left to right and soft grain: something that keeps its structure under another
/// light, between 64 and 144.
fn background(params: &Params) -> Vec<u8> {
    let (w, h) = (params.width as usize, params.height as usize);
    let points = w / GRAIN + 2;
    let row_of = |y: usize| -> Vec<usize> {
        let mut dice = Dice::new(params.seed ^ 0x6261, y as u64);
        (0..points)
            .map(|_| usize::try_from(dice.below(49)).unwrap_or(0))
            .collect()
    };
    let mut out = Vec::with_capacity(w * h);
    let (mut above, mut below) = (row_of(0), row_of(1));
    for y in 0..h {
        if y % GRAIN == 0 && y > 0 {
            above = std::mem::replace(&mut below, row_of(y / GRAIN + 1));
        }
        let fy = y % GRAIN;
        for x in 0..w {
            let (at, fx) = (x / GRAIN, x % GRAIN);
            let mix = |row: &[usize]| row[at] * (GRAIN - fx) + row[at + 1] * fx;
            let grain = (mix(&above) * (GRAIN - fy) + mix(&below) * fy) / (GRAIN * GRAIN);
            let slope = x * 32 / w;
            out.push(u8::try_from(64 + slope + grain).unwrap_or(u8::MAX));
        }
    }
    out
}

/// Twelve dice make a bell curve: the sum of 12 even ones of 0–255 has a standard deviation of 256.
fn noise(params: &Params) -> Vec<i8> {
    if params.noise_centi == 0 {
        return Vec::new();
    }
    let mut dice = Dice::new(params.seed ^ 0x6e6f_6973, 0);
    let sigma = i64::from(params.noise_centi);
    (0..NOISE)
        .map(|_| {
            let sum: i64 = (0..12).map(|_| dice.below(256)).sum();
            let level = ((sum - 1530) * sigma + 12_800).div_euclid(25_600);
            i8::try_from(level.clamp(-127, 127)).unwrap_or(0)
        })
        .collect()
}

/// Rows of `luma` that a square at `(_, top)` covers, with their distance from its top.
fn rows_of(
    luma: &mut [u8],
    stride: usize,
    top: i64,
    side: i64,
) -> impl Iterator<Item = (i64, &mut [u8])> {
    let skip = usize::try_from(top).unwrap_or(0);
    let take = usize::try_from(side).unwrap_or(0);
    let rows = luma.chunks_exact_mut(stride).skip(skip).take(take);
    rows.enumerate().map(|(i, row)| (i as i64, row))
}

fn span(row: &mut [u8], from: i64, to: i64) -> &mut [u8] {
    let clip = |x: i64| usize::try_from(x).unwrap_or(0).min(row.len());
    let (from, to) = (clip(from), clip(to));
    row.get_mut(from..to.max(from)).unwrap_or_default()
}

fn fill(luma: &mut [u8], stride: usize, shape: &Shape, (left, top): (i64, i64), level: u8) {
    let side = shape.side;
    for (y, row) in rows_of(luma, stride, top, side) {
        let (from, to) = if shape.disc {
            // Twice everything, so that the centre is whole.
            let dy = 2 * y + 1 - side;
            let half = (side * side - dy * dy).max(0).isqrt();
            let inset = (side - half) / 2;
            (left + inset, left + side - inset)
        } else {
            (left, left + side)
        };
        span(row, from, to).fill(level);
    }
}

/// A square shadow with a rim of a quarter of its side over which it fades out.
fn darken(luma: &mut [u8], stride: usize, (left, top): (i64, i64), side: i64) {
    let rim = (side / 4).max(1);
    // 0 at the edge, 16 inside the rim.
    let depth = |at: i64| {
        let inside = (at + 1).min(side - at).min(rim);
        u32::try_from(inside * 16 / rim).unwrap_or(0)
    };
    for (y, row) in rows_of(luma, stride, top, side) {
        let down = depth(y);
        for (x, p) in span(row, left, left + side).iter_mut().enumerate() {
            let share = down * depth(x as i64);
            let light = 256 * 256 - share * (256 - SHADOW);
            *p = u8::try_from((u32::from(*p) * light) >> 16).unwrap_or(u8::MAX);
        }
    }
}
