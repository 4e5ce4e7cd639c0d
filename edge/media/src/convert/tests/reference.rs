//! The slow reference: filters and colours by their definitions, in real numbers, rounded nowhere.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, Filter, ImageLayout, PixelFormat};

/// R, G, B of one sample, as ITU-R BT.601 and BT.709 define them.
pub(super) fn rgb_of(y: f64, u: f64, v: f64, color: ColorSpec) -> [f64; 3] {
    let (kr, kb) = match color.matrix {
        ColorMatrix::Bt601 => (0.299, 0.114),
        ColorMatrix::Bt709 => (0.2126, 0.0722),
    };
    let (y, u, v) = match color.range {
        // What lies below black counts as black, as OpenCV and libyuv have it.
        ColorRange::Limited => (
            (y.max(16.0) - 16.0) * 255.0 / 219.0,
            (u - 128.0) * 255.0 / 224.0,
            (v - 128.0) * 255.0 / 224.0,
        ),
        ColorRange::Full => (y, u - 128.0, v - 128.0),
    };
    let r = y + 2.0 * (1.0 - kr) * v;
    let b = y + 2.0 * (1.0 - kb) * u;
    let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
    [r, g, b].map(|c| c.clamp(0.0, 255.0))
}

/// One channel of a picture: plane, byte of its first sample, bytes between samples, pixels per sample.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) plane: usize,
    pub(super) first: usize,
    pub(super) step: usize,
    pub(super) sub: (usize, usize),
}

/// Y, U, V or R, G, B or grey.
pub(super) fn channels(format: PixelFormat) -> Vec<Channel> {
    let of = |plane, first, step, sub| Channel {
        plane,
        first,
        step,
        sub,
    };
    let (one, half, quarter) = ((1, 1), (2, 1), (2, 2));
    match format {
        PixelFormat::I420 => vec![of(0, 0, 1, one), of(1, 0, 1, quarter), of(2, 0, 1, quarter)],
        PixelFormat::Nv12 => vec![of(0, 0, 1, one), of(1, 0, 2, quarter), of(1, 1, 2, quarter)],
        PixelFormat::Nv21 => vec![of(0, 0, 1, one), of(1, 1, 2, quarter), of(1, 0, 2, quarter)],
        PixelFormat::Yuyv => vec![of(0, 0, 2, one), of(0, 1, 4, half), of(0, 3, 4, half)],
        PixelFormat::Uyvy => vec![of(0, 1, 2, one), of(0, 0, 4, half), of(0, 2, 4, half)],
        PixelFormat::Rgb => vec![of(0, 0, 3, one), of(0, 1, 3, one), of(0, 2, 3, one)],
        PixelFormat::Bgr => vec![of(0, 2, 3, one), of(0, 1, 3, one), of(0, 0, 3, one)],
        PixelFormat::Grey => vec![of(0, 0, 1, one)],
    }
}

impl Channel {
    /// Byte of sample (x, y).
    pub(super) fn at(&self, layout: &ImageLayout, x: usize, y: usize) -> usize {
        let plane = layout.planes()[self.plane];
        plane.offset + y * plane.stride + x * self.step + self.first
    }

    /// Samples across and down.
    pub(super) fn size(&self, layout: &ImageLayout) -> (usize, usize) {
        (
            (layout.width as usize).div_ceil(self.sub.0),
            (layout.height as usize).div_ceil(self.sub.1),
        )
    }
}

pub(super) fn is_yuv(format: PixelFormat) -> bool {
    !matches!(
        format,
        PixelFormat::Rgb | PixelFormat::Bgr | PixelFormat::Grey
    )
}

/// Weights of source samples over the interval `from`–`to` (in samples, of `extent` that are filled).
fn weights(from: f64, to: f64, src: usize, extent: f64, filter: Filter) -> Vec<f64> {
    let raw = |s: usize| {
        if filter == Filter::Area && to - from > 1.0 {
            let (from, to) = (from.max(0.0), to.min(extent));
            return (to.min(s as f64 + 1.0) - from.max(s as f64)).max(0.0);
        }
        let centre = ((from + to) / 2.0 - 0.5).clamp(0.0, src as f64 - 1.0);
        (1.0 - (centre - s as f64).abs()).max(0.0)
    };
    let raw: Vec<f64> = (0..src).map(raw).collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|w| w / sum).collect()
}

/// A picture scaled to `width` × `height` pixels, as real numbers.
pub(super) struct Reference<'a> {
    pub(super) native: ImageLayout,
    pub(super) src: &'a [u8],
    pub(super) filter: Filter,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// A channel as real numbers.
pub(super) struct Samples {
    values: Vec<f64>,
    width: usize,
}

impl Samples {
    pub(super) fn at(&self, x: usize, y: usize) -> f64 {
        self.values[y * self.width + x]
    }
}

impl Reference<'_> {
    /// Channel `c` resampled to samples of `sub` target pixels, `count` of them, the first of which
    /// begins `lead` pixels before the picture.
    pub(super) fn samples(
        &self,
        c: Channel,
        sub: (usize, usize),
        count: (usize, usize),
        lead: (usize, usize),
    ) -> Samples {
        let (sw, sh) = c.size(&self.native);
        let axis = |src: usize, pixels: u32, to: usize, c_sub: usize, sub: usize, n, lead| {
            let extent = f64::from(pixels) / c_sub as f64;
            let per_pixel = extent / to as f64;
            (0..n)
                .map(|i: usize| {
                    let at = |i: usize| ((i * sub) as f64 - lead as f64) * per_pixel;
                    weights(at(i), at(i + 1), src, extent, self.filter)
                })
                .collect::<Vec<_>>()
        };
        let (l, n) = (&self.native, count);
        let across = axis(sw, l.width, self.width, c.sub.0, sub.0, n.0, lead.0);
        let down = axis(sh, l.height, self.height, c.sub.1, sub.1, n.1, lead.1);
        let mut values = Vec::new();
        for wy in &down {
            let row: Vec<f64> = (0..sw)
                .map(|x| {
                    let part =
                        |(y, w): (usize, &f64)| w * f64::from(self.src[c.at(&self.native, x, y)]);
                    wy.iter()
                        .enumerate()
                        .filter(|(_, w)| **w != 0.0)
                        .map(part)
                        .sum()
                })
                .collect();
            for wx in &across {
                values.push(row.iter().zip(wx).map(|(s, w)| s * w).sum());
            }
        }
        Samples {
            values,
            width: count.0,
        }
    }

    /// What three channels (or one, three times) of RGB, YUV or grey are at every target pixel, as they
    /// are, each resampled on its own; without resampling, a chroma sample counts for its pixels.
    pub(super) fn channels(&self) -> [Vec<f64>; 3] {
        let all = channels(self.native.format);
        let unscaled =
            (self.width, self.height) == (self.native.width as usize, self.native.height as usize);
        let one = |c: Channel| -> Vec<f64> {
            let samples = self.samples(c, (1, 1), (self.width, self.height), (0, 0));
            let pixels = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (x, y)));
            pixels
                .map(|(x, y)| {
                    if unscaled {
                        let at = c.at(&self.native, x / c.sub.0, y / c.sub.1);
                        f64::from(self.src[at])
                    } else {
                        samples.at(x, y)
                    }
                })
                .collect()
        };
        [0, 1, 2].map(|i| one(all[i.min(all.len() - 1)]))
    }

    /// R, G, B and grey at every target pixel.
    pub(super) fn colours(&self) -> Vec<([f64; 3], f64)> {
        let [a, b, c] = self.channels();
        let yuv = is_yuv(self.native.format);
        let color = self.native.color;
        let pixels = a.into_iter().zip(b).zip(c);
        pixels
            .map(|((a, b), c)| {
                if yuv {
                    (rgb_of(a, b, c, color), rgb_of(a, 128.0, 128.0, color)[0])
                } else {
                    ([a, b, c], 0.299 * a + 0.587 * b + 0.114 * c)
                }
            })
            .collect()
    }
}
