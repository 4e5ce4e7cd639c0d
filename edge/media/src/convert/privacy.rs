//! Parts of a picture that nobody may see.
//!
//! The one hard idea: a row of pixels is a band one high. What the polygon covers of that band, seen
//! from above, is an interval wherever an edge runs through the band, and between the edges wherever
//! a line across it is inside. Those intervals, rounded outwards to whole pixels, are what is painted. They are
//! worked out once per layout; a frame costs its painted bytes only.

use visualpath_core::{ColorRange, ImageLayout, PixelFormat};

/// How far computed crossings may be off, in pixels; the mask grows by it.
const SLACK: f64 = 1e-9;
/// Chroma of grey.
const NEUTRAL: u8 = 128;

/// Polygons painted black in every picture of a source.
#[derive(Debug, Clone)]
pub struct PrivacyMask {
    polygons: Vec<Vec<[f64; 2]>>,
    plan: Option<Plan>,
}

impl PrivacyMask {
    /// `None` if there is nothing to hide. Corners are in units of the picture, 0–1; what is inside is
    /// decided by the even-odd rule, for each polygon on its own. A polygon with a corner that is not
    /// in the picture (or not a number) hides all of it, rather than too little.
    pub fn new(polygons: &[Vec<[f64; 2]>]) -> Option<Self> {
        (!polygons.is_empty()).then(|| Self {
            polygons: polygons.to_vec(),
            plan: None,
        })
    }

    /// Paints every pixel that any of a polygon lies on black: luma 16 or 0 by range, red, green and
    /// blue 0. Chroma samples of such a pixel become neutral, which a neighbour may share. Nothing is
    /// allocated but for a layout other than the last one.
    ///
    /// Fewer bytes than the layout has are all painted over.
    pub fn burn(&mut self, layout: &ImageLayout, pixels: &mut [u8]) {
        if pixels.len() < layout.bytes() {
            pixels.fill(0);
            return;
        }
        let plan = match self.plan.take() {
            Some(plan) if plan.layout == *layout => plan,
            _ => Plan::new(layout, &self.polygons),
        };
        for fill in &plan.fills {
            fill.paint(pixels);
        }
        self.plan = Some(plan);
    }
}

/// What to paint in images of one layout.
#[derive(Debug, Clone)]
struct Plan {
    layout: ImageLayout,
    fills: Vec<Fill>,
}

/// Bytes that become `pattern`, over and over.
#[derive(Debug, Clone, Copy)]
struct Fill {
    start: usize,
    len: usize,
    pattern: [u8; 4],
}

impl Fill {
    fn paint(&self, pixels: &mut [u8]) {
        let Some(bytes) = pixels.get_mut(self.start..self.start + self.len) else {
            return;
        };
        if self.pattern == [self.pattern[0]; 4] {
            return bytes.fill(self.pattern[0]);
        }
        let (groups, rest) = bytes.as_chunks_mut();
        groups.fill(self.pattern);
        rest.copy_from_slice(&self.pattern[..rest.len()]);
    }
}

/// Pixels or samples of a row: the first, and the one after the last.
type Span = (usize, usize);

impl Plan {
    fn new(layout: &ImageLayout, polygons: &[Vec<[f64; 2]>]) -> Self {
        let rows = spans(polygons, layout.width as usize, layout.height as usize);
        let mut plan = Self {
            layout: *layout,
            fills: Vec::new(),
        };
        let black = match layout.color.range {
            ColorRange::Limited => 16,
            ColorRange::Full => 0,
        };
        match layout.format {
            PixelFormat::Rgb | PixelFormat::Bgr => plan.samples(0, 3, 0, rows.iter()),
            PixelFormat::Grey => plan.samples(0, 1, 0, rows.iter()),
            PixelFormat::Yuyv => plan.pairs([black, NEUTRAL, black, NEUTRAL], &rows),
            PixelFormat::Uyvy => plan.pairs([NEUTRAL, black, NEUTRAL, black], &rows),
            PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::Nv21 => {
                let chroma: Vec<_> = rows.chunks(2).map(halved).collect();
                plan.samples(0, 1, black, rows.iter());
                if layout.format == PixelFormat::I420 {
                    plan.samples(1, 1, NEUTRAL, chroma.iter());
                    plan.samples(2, 1, NEUTRAL, chroma.iter());
                } else {
                    plan.samples(1, 2, NEUTRAL, chroma.iter());
                }
            }
        }
        plan
    }

    /// Samples of `step` bytes each in one plane.
    fn samples<'s>(
        &mut self,
        plane: usize,
        step: usize,
        value: u8,
        rows: impl Iterator<Item = &'s Vec<Span>>,
    ) {
        let Some(plane) = self.layout.planes().get(plane).copied() else {
            return;
        };
        for (y, row) in rows.enumerate() {
            for (first, end) in row {
                self.fills.push(Fill {
                    start: plane.offset + y * plane.stride + first * step,
                    len: (end - first) * step,
                    pattern: [value; 4],
                });
            }
        }
    }

    /// Two pixels in four bytes. Of a pair that is covered by half, the chroma and one luma.
    fn pairs(&mut self, pattern: [u8; 4], rows: &[Vec<Span>]) {
        let plane = self.layout.planes().first().copied().unwrap_or_default();
        let luma = usize::from(pattern[0] == NEUTRAL);
        for (y, row) in rows.iter().enumerate() {
            let base = plane.offset + y * plane.stride;
            let mut half = |pixel: usize| {
                let pair = base + pixel / 2 * 4;
                for (i, value) in pattern.into_iter().enumerate() {
                    let other = luma + 2 * (1 - pixel % 2);
                    if i != other {
                        self.fills.push(Fill {
                            start: pair + i,
                            len: 1,
                            pattern: [value; 4],
                        });
                    }
                }
            };
            for &(first, end) in row {
                if first % 2 == 1 {
                    half(first);
                }
                if end % 2 == 1 && end > first {
                    half(end - 1);
                }
            }
            for &(first, end) in row {
                let (first, end) = (first.div_ceil(2), end / 2);
                if first < end {
                    self.fills.push(Fill {
                        start: base + first * 4,
                        len: (end - first) * 4,
                        pattern,
                    });
                }
            }
        }
    }
}

/// Chroma samples that serve any covered pixel of one or two rows.
fn halved(rows: &[Vec<Span>]) -> Vec<Span> {
    let all = rows.iter().flatten();
    merged(
        all.map(|(first, end)| (first / 2, end.div_ceil(2)))
            .collect(),
    )
}

/// Sorted, without overlaps.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for (first, end) in spans {
        match out.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => out.push((first, end)),
        }
    }
    out
}

/// Covered pixels of every row.
fn spans(polygons: &[Vec<[f64; 2]>], width: usize, height: usize) -> Vec<Vec<Span>> {
    let mut rows = vec![Vec::new(); height];
    for polygon in polygons {
        let inside = |c: f64| (0.0..=1.0).contains(&c);
        if !polygon.iter().flatten().all(|c| inside(*c)) {
            return vec![vec![(0, width)]; height];
        }
        let corner = |[x, y]: [f64; 2]| [x * width as f64, y * height as f64];
        let corners = polygon.iter().copied().map(corner);
        let next = corners.clone().cycle().skip(1);
        let edges: Vec<Edge> = corners.zip(next).map(|(a, b)| Edge::new(a, b)).collect();
        for (y, row) in rows.iter_mut().enumerate() {
            cover(&edges, y as f64, width, row);
        }
    }
    rows.into_iter().map(merged).collect()
}

/// An edge from top to bottom, in pixels.
#[derive(Debug, Clone, Copy)]
struct Edge {
    top: [f64; 2],
    bottom: [f64; 2],
}

impl Edge {
    fn new(a: [f64; 2], b: [f64; 2]) -> Self {
        let (top, bottom) = if a[1] <= b[1] { (a, b) } else { (b, a) };
        Self { top, bottom }
    }

    /// Where it is at height `y`, which must not lie outside it.
    fn x_at(&self, y: f64) -> f64 {
        let ([x0, y0], [x1, y1]) = (self.top, self.bottom);
        let x = x0 + (x1 - x0) * (y - y0) / (y1 - y0);
        // Rounding must not carry it beyond its ends.
        x.clamp(x0.min(x1), x0.max(x1))
    }

    /// Its part between two heights, as an interval of x.
    fn between(&self, from: f64, to: f64) -> Option<(f64, f64)> {
        let ([x0, y0], [x1, y1]) = (self.top, self.bottom);
        if y1 < from || y0 > to {
            return None;
        }
        let a = if y0 < from { self.x_at(from) } else { x0 };
        let b = if y1 > to { self.x_at(to) } else { x1 };
        Some((a.min(b), a.max(b)))
    }
}

/// Adds the pixels of the band from `y` to `y + 1` that the polygon lies on.
fn cover(edges: &[Edge], y: f64, width: usize, row: &mut Vec<Span>) {
    // An edge that begins where the band ends belongs to the next.
    let (from, to) = (y - SLACK, y + 1.0 - SLACK);
    let last = width.saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the picture's width"
    )]
    let pixel = |x: f64| x.floor().clamp(0.0, last as f64) as usize;
    let mut add = |a: f64, b: f64| row.push((pixel(a - SLACK), pixel(b + SLACK) + 1));
    for edge in edges {
        if let Some((a, b)) = edge.between(from, to) {
            add(a, b);
        }
    }
    // One line across the band tells the rest: from a point inside, straight up or down to that line,
    // it is inside all the way or there is an edge in between, which was added above.
    let middle = f64::midpoint(from, to);
    let crosses = |e: &&Edge| e.top[1] <= middle && middle < e.bottom[1];
    let mut xs: Vec<f64> = edges
        .iter()
        .filter(crosses)
        .map(|e| e.x_at(middle))
        .collect();
    xs.sort_by(f64::total_cmp);
    for inside in xs.chunks_exact(2) {
        add(inside[0], inside[1]);
    }
}
