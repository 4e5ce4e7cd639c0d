//! Against a slow reference in real numbers.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use proptest::prelude::*;
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, Filter, Fit, ViewFormat};

use super::*;

const COLORS: [ColorSpec; 4] = {
    use ColorMatrix::{Bt601, Bt709};
    use ColorRange::{Full, Limited};
    const fn of(matrix: ColorMatrix, range: ColorRange) -> ColorSpec {
        ColorSpec { matrix, range }
    }
    [
        of(Bt601, Limited),
        of(Bt601, Full),
        of(Bt709, Limited),
        of(Bt709, Full),
    ]
};

/// R, G, B of one sample, as ITU-R BT.601 and BT.709 define them.
fn rgb_of(y: f64, u: f64, v: f64, color: ColorSpec) -> [f64; 3] {
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

/// Weight of source sample `s` in target sample `i`, by the filters' definitions.
fn weight(s: usize, i: usize, src: usize, scale: f64, filter: Filter) -> f64 {
    let (from, to) = (i as f64 * scale, (i + 1) as f64 * scale);
    if filter == Filter::Area && scale > 1.0 {
        let under = (to.min(s as f64 + 1.0) - from.max(s as f64)).max(0.0);
        return under / scale;
    }
    let centre = ((from + to) / 2.0 - 0.5).clamp(0.0, src as f64 - 1.0);
    (1.0 - (centre - s as f64).abs()).max(0.0)
}

struct Reference<'a> {
    native: ImageLayout,
    src: &'a [u8],
    filter: Filter,
}

impl Reference<'_> {
    /// Sample of a plane at target pixel (x, y) of (w, h).
    fn sample(
        &self,
        get: &dyn Fn(usize, usize) -> u8,
        size: (usize, usize),
        sub: (usize, usize),
        (x, y): (usize, usize),
        (w, h): (usize, usize),
    ) -> f64 {
        let scale = |pixels: u32, sub: usize, n: usize| f64::from(pixels) / (sub * n) as f64;
        let (sx, sy) = (
            scale(self.native.width, sub.0, w),
            scale(self.native.height, sub.1, h),
        );
        let (mut sum, mut all) = (0.0, 0.0);
        for j in 0..size.1 {
            let wy = weight(j, y, size.1, sy, self.filter);
            if wy == 0.0 {
                continue;
            }
            for i in 0..size.0 {
                let wx = weight(i, x, size.0, sx, self.filter);
                sum += wx * wy * f64::from(get(i, j));
                all += wx * wy;
            }
        }
        sum / all
    }

    /// R, G, B (or luma three times) at target pixel `at` of `size`.
    fn rgb(&self, at: (usize, usize), size: (usize, usize)) -> [f64; 3] {
        let (w, h) = (self.native.width as usize, self.native.height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let p = self.native.planes();
        let byte = |plane: usize, offset: usize| self.src[p[plane].offset + offset];
        let packed = |x: usize, y: usize, c: usize| byte(0, y * p[0].stride + x * 3 + c);
        let yuv = |y: &dyn Fn(usize, usize) -> u8,
                   u: &dyn Fn(usize, usize) -> u8,
                   v: &dyn Fn(usize, usize) -> u8,
                   ch: usize,
                   sub| {
            rgb_of(
                self.sample(y, (w, h), (1, 1), at, size),
                self.sample(u, (cw, ch), sub, at, size),
                self.sample(v, (cw, ch), sub, at, size),
                self.native.color,
            )
        };
        match self.native.format {
            PixelFormat::I420 => yuv(
                &|x, y| byte(0, y * p[0].stride + x),
                &|x, y| byte(1, y * p[1].stride + x),
                &|x, y| byte(2, y * p[2].stride + x),
                ch,
                (2, 2),
            ),
            PixelFormat::Nv12 => yuv(
                &|x, y| byte(0, y * p[0].stride + x),
                &|x, y| byte(1, y * p[1].stride + 2 * x),
                &|x, y| byte(1, y * p[1].stride + 2 * x + 1),
                ch,
                (2, 2),
            ),
            PixelFormat::Yuyv => yuv(
                &|x, y| byte(0, y * p[0].stride + 2 * x),
                &|x, y| byte(0, y * p[0].stride + 4 * x + 1),
                &|x, y| byte(0, y * p[0].stride + 4 * x + 3),
                h,
                (2, 1),
            ),
            PixelFormat::Nv21 => yuv(
                &|x, y| byte(0, y * p[0].stride + x),
                &|x, y| byte(1, y * p[1].stride + 2 * x + 1),
                &|x, y| byte(1, y * p[1].stride + 2 * x),
                ch,
                (2, 2),
            ),
            PixelFormat::Uyvy => yuv(
                &|x, y| byte(0, y * p[0].stride + 2 * x + 1),
                &|x, y| byte(0, y * p[0].stride + 4 * x),
                &|x, y| byte(0, y * p[0].stride + 4 * x + 2),
                h,
                (2, 1),
            ),
            PixelFormat::Grey => {
                [self.sample(
                    &|x, y| byte(0, y * p[0].stride + x),
                    (w, h),
                    (1, 1),
                    at,
                    size,
                ); 3]
            }
            PixelFormat::Rgb | PixelFormat::Bgr => {
                let of = |c| self.sample(&|x, y| packed(x, y, c), (w, h), (1, 1), at, size);
                let rgb = [of(0), of(1), of(2)];
                if self.native.format == PixelFormat::Bgr {
                    [rgb[2], rgb[1], rgb[0]]
                } else {
                    rgb
                }
            }
        }
    }
}

fn made(spec: ViewSpec, native: &ImageLayout, src: &[u8]) -> (ImageLayout, Vec<u8>) {
    let (view, _) = spec.resolve(native);
    let mut dst = vec![0xAA; view.bytes()];
    Converter::new()
        .make(&spec, native, src, &view, &mut dst)
        .unwrap();
    (view, dst)
}

/// Largest difference between what is made and the reference, over the picture inside the view;
/// what is outside must be black.
fn worst(spec: ViewSpec, native: &ImageLayout, src: &[u8]) -> f64 {
    let (view, got) = made(spec, native, src);
    let reference = Reference {
        native: *native,
        src,
        filter: spec.filter,
    };
    let (iw, ih) = spec.content(native);
    let (left, top) = ((view.width - iw) / 2, (view.height - ih) / 2);
    let mut worst = 0.0_f64;
    for y in 0..view.height {
        for x in 0..view.width {
            let inside = (left..left + iw).contains(&x) && (top..top + ih).contains(&y);
            let want = if inside {
                let at = ((x - left) as usize, (y - top) as usize);
                reference.rgb(at, (iw as usize, ih as usize))
            } else {
                [0.0; 3]
            };
            let at = (y * view.width + x) as usize;
            let pairs: Vec<(u8, f64)> = match view.format {
                PixelFormat::Rgb => (0..3).map(|c| (got[at * 3 + c], want[c])).collect(),
                PixelFormat::Bgr => (0..3).map(|c| (got[at * 3 + 2 - c], want[c])).collect(),
                _ => {
                    let [r, g, b] = want;
                    vec![(got[at], 0.299 * r + 0.587 * g + 0.114 * b)]
                }
            };
            for (got, want) in pairs {
                worst = worst.max((f64::from(got) - want).abs());
            }
        }
    }
    worst
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// A picture of slopes and edges.
fn slopes(layout: &ImageLayout) -> Vec<u8> {
    (0..layout.bytes())
        .map(|i| (40 + i % 97 + i / 1777) as u8)
        .collect()
}

fn spec(format: ViewFormat, size: Option<(u32, u32)>, fit: Fit, filter: Filter) -> ViewSpec {
    ViewSpec {
        format,
        size,
        fit,
        filter,
    }
}

/// Every luma with every eighth U and V, each chroma sample over four equal lumas, so that the
/// way chroma is spread does not matter.
fn all_colours(color: ColorSpec) -> (ImageLayout, Vec<u8>) {
    let native = ImageLayout::packed(PixelFormat::I420, 512, 64 * 32, color);
    let mut src = vec![0; native.bytes()];
    let [y, u, v] = [0, 1, 2].map(|i| native.planes()[i]);
    for cy in 0..u.rows {
        for cx in 0..u.row_bytes {
            // Across: luma. Down: U and V.
            for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                src[y.offset + (2 * cy + dy) * y.stride + 2 * cx + dx] = cx as u8;
            }
            src[u.offset + cy * u.stride + cx] = (cy / 32 * 8) as u8;
            src[v.offset + cy * v.stride + cx] = (cy % 32 * 8) as u8;
        }
    }
    (native, src)
}

#[test]
fn colours_are_within_one_level_of_the_definition() {
    for color in COLORS {
        let (native, src) = all_colours(color);
        for format in [ViewFormat::Rgb, ViewFormat::Bgr] {
            let spec = spec(format, None, Fit::Stretch, Filter::Bilinear);
            let (view, got) = made(spec, &native, &src);
            for (i, pixel) in got.chunks_exact(3).enumerate() {
                let (x, y) = (i % native.width as usize, i / native.width as usize);
                let at = |p: usize, x: usize, y: usize| {
                    f64::from(src[native.planes()[p].offset + y * native.planes()[p].stride + x])
                };
                let (yv, u, v) = (at(0, x, y), at(1, x / 2, y / 2), at(2, x / 2, y / 2));
                let want = rgb_of(yv, u, v, color);
                for c in 0..3 {
                    let got = f64::from(
                        pixel[if view.format == PixelFormat::Bgr {
                            2 - c
                        } else {
                            c
                        }],
                    );
                    assert!(
                        (got - want[c].round()).abs() <= 1.0,
                        "{color:?} y {yv} u {u} v {v} channel {c}: {got}, not {}",
                        want[c]
                    );
                }
            }
        }
    }
}

#[test]
fn grey_is_luma_at_full_range_to_the_nearest() {
    for color in COLORS {
        let native = ImageLayout::packed(PixelFormat::I420, 256, 2, color);
        let mut src = vec![77; native.bytes()];
        for (i, y) in src.iter_mut().take(512).enumerate() {
            *y = (i % 256) as u8;
        }
        let (_, got) = made(
            spec(ViewFormat::Grey, None, Fit::Stretch, Filter::Bilinear),
            &native,
            &src,
        );
        for (i, got) in got.iter().enumerate() {
            let want = rgb_of((i % 256) as f64, 128.0, 128.0, color)[0];
            assert!(
                (f64::from(*got) - want).abs() <= 0.5,
                "{color:?} {i}: {got}, not {want}"
            );
        }
    }
}

/// Resampled luma and chroma are rounded to 8 bits, half a level each; the matrix multiplies luma by
/// up to 1.17 and one chroma by up to 2.12, and is itself exact to one level: 0.58 + 1.06 + 1, and a
/// little for weights of 14 bits. Seen on noise, where every sample is the worst: 2.4.
const RESIZED_TO_RGB: f64 = 2.7;
/// Without a matrix: half a level of rounding, once more for the luma of RGB, and a little.
const RESIZED: f64 = 1.1;

const SIZES: [((u32, u32), (u32, u32)); 6] = [
    ((96, 72), (38, 38)),
    ((96, 72), (30, 27)),
    ((17, 11), (40, 33)),
    ((33, 47), (8, 45)),
    ((64, 2), (5, 2)),
    ((1, 1), (6, 3)),
];

#[test]
fn every_resize_is_within_its_bound_of_the_definition() {
    use PixelFormat::{Bgr, Grey, I420, Nv12, Rgb, Yuyv};
    for format in [I420, Nv12, Yuyv, Rgb, Bgr, Grey] {
        for (from, to) in SIZES {
            let native = ImageLayout::packed(format, from.0, from.1, COLORS[0]);
            let src = noise(native.bytes(), u64::from(from.0 * 7 + to.1));
            for view in [ViewFormat::Rgb, ViewFormat::Bgr, ViewFormat::Grey] {
                for fit in [Fit::Stretch, Fit::Letterbox] {
                    for filter in [Filter::Bilinear, Filter::Area] {
                        let yuv = matches!(format, I420 | Nv12 | Yuyv);
                        if yuv && view == ViewFormat::Grey {
                            continue; // its reference is another: see below
                        }
                        let bound = if yuv { RESIZED_TO_RGB } else { RESIZED };
                        let spec = spec(view, Some(to), fit, filter);
                        let worst = worst(spec, &native, &src);
                        assert!(worst <= bound, "{format:?} {from:?} {spec:?}: {worst}");
                    }
                }
            }
        }
    }
}

#[test]
fn grey_views_of_yuv_are_resized_luma() {
    for format in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv] {
        for (from, to) in SIZES {
            let native = ImageLayout::packed(format, from.0, from.1, COLORS[1]);
            let src = noise(native.bytes(), 5);
            let spec = spec(ViewFormat::Grey, Some(to), Fit::Stretch, Filter::Area);
            // Full range: grey is the resized luma itself, whatever the chroma.
            let reference = Reference {
                native,
                src: &src,
                filter: spec.filter,
            };
            let (_, got) = made(spec, &native, &src);
            let step = if format == PixelFormat::Yuyv { 2 } else { 1 };
            for (i, got) in got.iter().enumerate() {
                let at = (i % to.0 as usize, i / to.0 as usize);
                let luma = |x: usize, y: usize| src[y * native.planes()[0].stride + x * step];
                let want = reference.sample(
                    &luma,
                    (from.0 as usize, from.1 as usize),
                    (1, 1),
                    at,
                    (to.0 as usize, to.1 as usize),
                );
                assert!(
                    (f64::from(*got) - want).abs() <= RESIZED,
                    "{format:?} {at:?}"
                );
            }
        }
    }
}

#[test]
fn an_even_surface_stays_even() {
    for (format, to) in [
        (PixelFormat::I420, (7, 9)),
        (PixelFormat::Rgb, (100, 3)),
        (PixelFormat::Nv12, (33, 33)),
    ] {
        let native = ImageLayout::packed(format, 50, 40, COLORS[1]);
        let src = vec![128; native.bytes()];
        for filter in [Filter::Bilinear, Filter::Area] {
            let (_, got) = made(
                spec(ViewFormat::Rgb, Some(to), Fit::Stretch, filter),
                &native,
                &src,
            );
            assert!(got.iter().all(|&v| v == 128), "{format:?} {filter:?}");
        }
    }
}

#[test]
fn planes_of_a_native_view_are_resized_as_they_are() {
    let native = ImageLayout::packed(PixelFormat::I420, 64, 48, COLORS[0]);
    let mut src = vec![0; native.bytes()];
    for (i, plane) in native.planes().iter().enumerate() {
        src[plane.offset..plane.offset + plane.stride * plane.rows].fill(50 + 50 * i as u8);
    }
    let native_view = |size, fit| spec(ViewFormat::Native, size, fit, Filter::Area);
    let (view, got) = made(native_view(Some((21, 13)), Fit::Stretch), &native, &src);
    assert_eq!(view.format, PixelFormat::I420);
    for (i, plane) in view.planes().iter().enumerate() {
        let bytes = &got[plane.offset..plane.offset + plane.stride * plane.rows];
        assert!(bytes.iter().all(|&v| v == 50 + 50 * i as u8), "plane {i}");
    }
    let boxed = native_view(Some((64, 64)), Fit::Letterbox);
    let (view, _) = boxed.resolve(&native);
    let mut dst = vec![0; view.bytes()];
    let refused = Converter::new().make(&boxed, &native, &src, &view, &mut dst);
    assert!(matches!(refused, Err(ViewError::Unsupported { .. })));
}

#[test]
fn missing_bytes_are_an_error_and_not_a_panic() {
    let native = ImageLayout::packed(PixelFormat::I420, 64, 48, COLORS[0]);
    let spec = spec(
        ViewFormat::Rgb,
        Some((32, 32)),
        Fit::Stretch,
        Filter::Bilinear,
    );
    let (view, _) = spec.resolve(&native);
    let (src, mut dst) = (vec![0; native.bytes()], vec![0; view.bytes()]);
    let converter = Converter::new();
    let mut make =
        |src: &[u8], len: usize| converter.make(&spec, &native, src, &view, &mut dst[..len]);
    assert!(make(&src[1..], view.bytes()).is_err());
    assert!(make(&src, view.bytes() - 1).is_err());
    assert!(make(&src, view.bytes()).is_ok());
}

#[test]
fn a_converter_keeps_its_buffers_within_bounds() {
    let native = ImageLayout::packed(PixelFormat::I420, 64, 48, COLORS[0]);
    let src = vec![128; native.bytes()];
    let converter = Converter::new();
    for side in 1..200 {
        let spec = spec(
            ViewFormat::Rgb,
            Some((side, 200 - side)),
            Fit::Stretch,
            Filter::Area,
        );
        let (view, _) = spec.resolve(&native);
        let mut dst = vec![0; view.bytes()];
        converter
            .make(&spec, &native, &src, &view, &mut dst)
            .unwrap();
    }
    let idle = converter.idle.lock().unwrap();
    assert_eq!(idle.len(), 1);
    assert!(idle[0].tables.len() <= MAX_TABLES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_size_panics(
        from in (1_u32..70, 1_u32..70),
        to in (1_u32..90, 1_u32..90),
        format in 0_usize..6,
        view in 0_usize..4,
        letterbox: bool,
        area: bool,
    ) {
        use PixelFormat::{Bgr, Grey, I420, Nv12, Rgb, Yuyv};
        let format = [I420, Nv12, Yuyv, Rgb, Bgr, Grey][format];
        let native = ImageLayout::packed(format, from.0, from.1, COLORS[0]);
        let spec = spec(
            [ViewFormat::Rgb, ViewFormat::Bgr, ViewFormat::Grey, ViewFormat::Native][view],
            Some(to),
            if letterbox { Fit::Letterbox } else { Fit::Stretch },
            if area { Filter::Area } else { Filter::Bilinear },
        );
        let (layout, _) = spec.resolve(&native);
        let (src, mut dst) = (vec![90; native.bytes()], vec![1; layout.bytes()]);
        let done = Converter::new().make(&spec, &native, &src, &layout, &mut dst);
        if spec.format != ViewFormat::Native {
            prop_assert!(done.is_ok(), "{done:?}");
        }
    }
}

/// Not a test of speed, a way to see it: `cargo test -p visualpath-media -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long a conversion takes"]
fn time_of_a_detector_view() {
    let native = ImageLayout::packed(PixelFormat::I420, 768, 576, COLORS[0]);
    let src = slopes(&native);
    let converter = Converter::new();
    for (format, size, filter) in [
        (ViewFormat::Rgb, Some((300, 300)), Filter::Bilinear),
        (ViewFormat::Rgb, Some((300, 300)), Filter::Area),
        (ViewFormat::Grey, Some((320, 240)), Filter::Area),
        (ViewFormat::Bgr, None, Filter::Bilinear),
    ] {
        let spec = spec(format, size, Fit::Stretch, filter);
        let (view, _) = spec.resolve(&native);
        let mut dst = vec![0; view.bytes()];
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let since = std::time::Instant::now();
                converter
                    .make(&spec, &native, &src, &view, &mut dst)
                    .unwrap();
                since.elapsed()
            })
            .collect();
        times.sort();
        eprintln!("{format:?} {size:?} {filter:?}: median {:?}", times[100]);
    }
}
