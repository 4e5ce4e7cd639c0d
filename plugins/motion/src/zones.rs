//! Zones as masks of the view, made once.

use std::ops::Range;
use std::sync::Arc;

use visualpath_core::Zone;

/// The pixels of one zone.
#[derive(Debug)]
pub(crate) struct ZoneMask {
    /// `score@<zone>`.
    pub(crate) signal: Arc<str>,
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// 1 inside, for the rows and columns above.
    mask: Vec<u8>,
    area: usize,
}

impl ZoneMask {
    /// A pixel belongs to the zone if its centre does; a zone between the centres has the one
    /// nearest to its first corner.
    ///
    /// `counts` is 1 where a pixel is not masked; empty if none is. A masked pixel is no part of any
    /// zone.
    pub(crate) fn new(zone: &Zone, width: u32, height: u32, counts: &[u8]) -> Self {
        let centre = |i: usize, side: u32| (to_f64(i) + 0.5) / f64::from(side);
        let (w, h) = (width as usize, height as usize);
        let holds = |x: usize, y: usize| zone.holds_point(centre(x, width), centre(y, height));
        let inside =
            || (0..h).flat_map(|y| (0..w).filter(move |x| holds(*x, y)).map(move |x| (x, y)));
        let mut bounds: Option<(Range<usize>, Range<usize>)> = None;
        for (x, y) in inside() {
            let (columns, rows) = bounds.get_or_insert((x..x + 1, y..y + 1));
            *columns = columns.start.min(x)..columns.end.max(x + 1);
            *rows = rows.start.min(y)..rows.end.max(y + 1);
        }
        let signal = format!("score@{}", zone.name).into();
        let Some((columns, rows)) = bounds else {
            let [x, y] = zone.polygon.first().copied().unwrap_or_default();
            let (x, y) = (nearest(x, w), nearest(y, h));
            let counted = counts.get(y * w + x).copied().unwrap_or(1);
            return Self {
                signal,
                width: w,
                rows: y..y + 1,
                columns: x..x + 1,
                mask: vec![counted],
                area: counted.into(),
            };
        };
        let mask: Vec<u8> = rows
            .clone()
            .flat_map(|y| columns.clone().map(move |x| (x, y)))
            .map(|(x, y)| u8::from(holds(x, y)) & counts.get(y * w + x).copied().unwrap_or(1))
            .collect();
        Self {
            area: crate::background::ones(&mask),
            signal,
            width: w,
            rows,
            columns,
            mask,
        }
    }

    /// Share of the zone where `moving` is 1; 0 if all of it is masked.
    pub(crate) fn share(&self, moving: &[u8]) -> f64 {
        let lines = self.rows.clone().zip(self.mask.chunks(self.columns.len()));
        let sum: u32 = lines
            .map(|(y, mask)| {
                let row = &moving[y * self.width + self.columns.start..];
                let both = row.iter().zip(mask).map(|(m, z)| u16::from(m & z));
                u32::from(both.sum::<u16>())
            })
            .sum();
        f64::from(sum) / to_f64(self.area.max(1))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the side"
)]
fn nearest(at: f64, side: usize) -> usize {
    (at * to_f64(side)).clamp(0.0, to_f64(side - 1)) as usize
}

#[expect(clippy::cast_precision_loss, reason = "pixels of a picture")]
fn to_f64(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use visualpath_core::{Anchor, Name};

    use super::*;

    fn mask(polygon: &[[f64; 2]]) -> ZoneMask {
        let name = Name::new("door").unwrap();
        ZoneMask::new(
            &Zone::new(name, polygon.to_vec(), Anchor::Bottom).unwrap(),
            40,
            20,
            &[],
        )
    }

    #[test]
    fn a_zone_counts_its_own_pixels_only() {
        // The left half: 20 of 40 columns.
        let half = mask(&[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]);
        assert_eq!(&*half.signal, "score@door");
        let mut moving = vec![0; 800];
        assert_eq!(half.share(&moving), 0.0);
        for row in moving.chunks_mut(40) {
            row[15..25].fill(1);
        }
        assert_eq!(half.share(&moving), 0.25);
        assert_eq!(half.share(&[1; 800]), 1.0);
        let triangle = mask(&[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]);
        assert!(
            (395..=425).contains(&triangle.area),
            "half: {}",
            triangle.area
        );
    }

    #[test]
    fn a_zone_smaller_than_a_pixel_is_one_pixel() {
        let tiny = mask(&[[1.0, 1.0], [0.999, 1.0], [1.0, 0.999]]);
        let mut moving = vec![0; 800];
        assert_eq!(tiny.share(&moving), 0.0);
        moving[799] = 1;
        assert_eq!(tiny.share(&moving), 1.0);
    }
}
