//! Against a mask made pixel by pixel.

use visualpath_core::{Anchor, Name, Zone};

use super::*;

const STAR: [[f64; 2]; 5] = [
    [0.5, 0.05],
    [0.8, 0.95],
    [0.05, 0.4],
    [0.95, 0.4],
    [0.2, 0.95],
];

/// Whether any of a polygon lies on the rectangle: an edge runs through it, or it is inside.
fn touches(polygon: &[[f64; 2]], (w, h): (f64, f64), [l, t, r, b]: [f64; 4]) -> bool {
    let next = polygon.iter().cycle().skip(1);
    for ([x0, y0], [x1, y1]) in polygon.iter().zip(next) {
        let (x0, y0, x1, y1) = (x0 * w, y0 * h, x1 * w, y1 * h);
        let (mut from, mut to) = (0.0_f64, 1.0_f64);
        let mut clip = |start: f64, along: f64, low: f64, high: f64| {
            if along == 0.0 {
                return start >= low && start <= high;
            }
            let (a, b) = ((low - start) / along, (high - start) / along);
            from = from.max(a.min(b));
            to = to.min(a.max(b));
            true
        };
        if clip(x0, x1 - x0, l, r) && clip(y0, y1 - y0, t, b) && from <= to {
            return true;
        }
    }
    let zone = Zone {
        name: Name::new("m").unwrap(),
        polygon: polygon.to_vec(),
        anchor: Anchor::Center,
    };
    zone.holds_point((l + r) / 2.0 / w, (t + b) / 2.0 / h)
}

/// Which pixels must be covered, and which may be (they differ where an edge meets a pixel's).
fn by_pixel(polygons: &[Vec<[f64; 2]>], w: usize, h: usize) -> Vec<(bool, bool)> {
    let size = (w as f64, h as f64);
    let pixel = |i: usize, grow: f64| {
        let (x, y) = ((i % w) as f64, (i / w) as f64);
        let rect = [x - grow, y - grow, x + 1.0 + grow, y + 1.0 + grow];
        polygons.iter().any(|p| touches(p, size, rect))
    };
    (0..w * h)
        .map(|i| (pixel(i, -1e-6), pixel(i, 1e-6)))
        .collect()
}

/// Burns a mask into noise twice, with other noise below it, and compares with the mask by pixels.
fn check(polygons: &[Vec<[f64; 2]>], layout: &ImageLayout) -> Result<(), String> {
    let mut mask = PrivacyMask::new(polygons).unwrap();
    let (w, h) = (layout.width as usize, layout.height as usize);
    let before = noise(layout.bytes(), 1);
    let mut after = before.clone();
    mask.burn(layout, &mut after);
    let must = by_pixel(polygons, w, h);
    // Bytes by what the pixels they serve say: some must be covered, or none may be.
    let (mut secret, mut public) = (vec![false; before.len()], vec![true; before.len()]);
    let limited = layout.color.range == ColorRange::Limited;
    for (i, c) in channels(layout.format).into_iter().enumerate() {
        let black = match (i, is_yuv(layout.format)) {
            (0, true) if limited => 16,
            (1 | 2, true) => 128,
            _ => 0,
        };
        for (pixel, (must, may)) in must.iter().enumerate() {
            let at = c.at(layout, pixel % w / c.sub.0, pixel / w / c.sub.1);
            if *must && after[at] != black {
                return Err(format!("{layout:?}: channel {i} of pixel {pixel} shows"));
            }
            secret[at] |= *must;
            public[at] &= !may;
        }
    }
    let changed = (0..before.len()).find(|&i| public[i] && after[i] != before[i]);
    if let Some(i) = changed {
        return Err(format!("{layout:?}: byte {i} is changed"));
    }
    // Other content below the mask, same result: nothing of it is left.
    let mut other: Vec<u8> = before.clone();
    for (byte, secret) in other.iter_mut().zip(secret) {
        *byte = if secret { !*byte } else { *byte };
    }
    mask.burn(layout, &mut other);
    if other == after {
        Ok(())
    } else {
        Err(format!(
            "{layout:?}: what was below the mask makes a difference"
        ))
    }
}

fn layouts(w: u32, h: u32, gap: usize) -> impl Iterator<Item = ImageLayout> {
    let all = FORMATS.into_iter().zip(COLORS.into_iter().cycle());
    all.map(move |(format, color)| apart(&ImageLayout::packed(format, w, h, color), gap))
}

#[test]
fn a_mask_covers_what_it_touches_and_nothing_else() {
    let polygons = [
        vec![[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]],
        vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]],
        vec![[0.013, 0.31], [0.97, 0.33], [0.5, 0.34]],
        vec![[0.501, 0.0], [0.502, 1.0], [0.503, 0.0]],
        STAR.to_vec(),
    ];
    for polygon in polygons {
        for (w, h, gap) in [(32, 24, 0), (33, 25, 3), (1, 1, 0), (7, 40, 1)] {
            for layout in layouts(w, h, gap) {
                check(std::slice::from_ref(&polygon), &layout).unwrap();
            }
        }
    }
}

#[test]
fn the_middle_of_a_star_is_outside_by_the_even_odd_rule() {
    let layout = ImageLayout::packed(PixelFormat::Grey, 100, 100, COLORS[0]);
    let mut pixels = vec![7; layout.bytes()];
    PrivacyMask::new(&[STAR.to_vec()])
        .unwrap()
        .burn(&layout, &mut pixels);
    assert_eq!(pixels[54 * 100 + 50], 7);
    assert_eq!(pixels[20 * 100 + 50], 0);
}

#[test]
fn a_mask_follows_a_new_layout() {
    let mut mask = PrivacyMask::new(&[vec![[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]]]).unwrap();
    for (w, h) in [(16, 16), (40, 8), (16, 16)] {
        for layout in layouts(w, h, 0) {
            let mut pixels = vec![200; layout.bytes()];
            mask.burn(&layout, &mut pixels);
            let first = if is_yuv(layout.format) { 16 } else { 0 };
            let at = channels(layout.format)[0].at(&layout, 0, 0);
            assert!(pixels[at] <= first, "{layout:?}");
            let last = channels(layout.format)[0].at(&layout, w as usize - 1, h as usize - 1);
            assert_eq!(pixels[last], 200, "{layout:?}");
        }
    }
}

#[test]
fn what_cannot_be_placed_hides_everything() {
    let layout = ImageLayout::packed(PixelFormat::Grey, 8, 8, COLORS[0]);
    for corner in [f64::NAN, -0.1, 1.5, f64::INFINITY] {
        let mut pixels = vec![9; 64];
        let mut mask = PrivacyMask::new(&[vec![[corner, 0.1], [0.2, 0.1], [0.2, 0.2]]]).unwrap();
        mask.burn(&layout, &mut pixels);
        assert_eq!(pixels, [0; 64], "{corner}");
    }
    let mut short = vec![9; 63];
    PrivacyMask::new(&[vec![[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]]])
        .unwrap()
        .burn(&layout, &mut short);
    assert_eq!(short, [0; 63], "fewer bytes than the layout has");
    assert!(PrivacyMask::new(&[]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_mask_covers_what_it_touches_and_nothing_else(
        polygons in prop::collection::vec(
            prop::collection::vec((0.0..=1.0_f64, 0.0..=1.0_f64), 1..8),
            1..4,
        ),
        grid in prop::option::of(1_u32..20),
        size in (1_u32..40, 1_u32..40),
        gap in 0_usize..5,
    ) {
        // On a grid, edges meet corners, pixels' edges, and each other.
        let at = |c: f64| grid.map_or(c, |n| (c * f64::from(n)).round() / f64::from(n));
        let corner = |(x, y): &(f64, f64)| [at(*x), at(*y)];
        let polygons: Vec<Vec<_>> =
            polygons.iter().map(|p| p.iter().map(corner).collect()).collect();
        for layout in layouts(size.0, size.1, gap) {
            if let Err(what) = check(&polygons, &layout) {
                prop_assert!(false, "{what} {polygons:?}");
            }
        }
    }
}
