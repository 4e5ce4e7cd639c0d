//! Zones: named polygons of a source's picture.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Which point of an object's box decides whether it is in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Anchor {
    /// Centre of the lower edge: where a person stands.
    #[default]
    Bottom,
    /// Centre of the box.
    Center,
}

/// A polygon in units of the frame, 0–1.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// Its name in the config.
    pub name: Name,
    /// Corners in order, at least three.
    pub polygon: Vec<[f64; 2]>,
    /// The deciding point of a box.
    pub anchor: Anchor,
}

/// Why a polygon is no zone, or no mask.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ZoneError {
    /// Fewer than three corners.
    #[error("a polygon needs at least 3 corners, this one has {0}")]
    Corners(usize),
    /// A corner outside the picture or not a number.
    #[error("corner {index} is [{x}, {y}]: both must lie in 0-1 (share of the picture)")]
    Corner {
        /// Which corner, from 0.
        index: usize,
        /// Its x.
        x: f64,
        /// Its y.
        y: f64,
    },
    /// The corners enclose nothing.
    #[error("the polygon encloses no area")]
    Flat,
}

impl Zone {
    /// Checks the polygon.
    pub fn new(name: Name, polygon: Vec<[f64; 2]>, anchor: Anchor) -> Result<Self, ZoneError> {
        check_polygon(&polygon)?;
        Ok(Self {
            name,
            polygon,
            anchor,
        })
    }

    /// Whether the object with this box (left, top, right, bottom) is in the zone.
    pub fn holds_box(&self, [l, t, r, b]: [f64; 4]) -> bool {
        let x = (l + r) / 2.0;
        let y = match self.anchor {
            Anchor::Bottom => b,
            Anchor::Center => (t + b) / 2.0,
        };
        // A box cut off at the picture's edge stands on that edge, not beyond it.
        self.holds_point(x.clamp(0.0, 1.0), y.clamp(0.0, 1.0))
    }

    /// Whether the point is inside (even-odd rule) or on the polygon's edge.
    pub fn holds_point(&self, x: f64, y: f64) -> bool {
        holds_point(&self.polygon, x, y)
    }
}

/// Whether these corners, in units of the frame, enclose something.
///
/// # Errors
/// Too few corners, one outside the picture, no area.
pub fn check_polygon(polygon: &[[f64; 2]]) -> Result<(), ZoneError> {
    if polygon.len() < 3 {
        return Err(ZoneError::Corners(polygon.len()));
    }
    for (index, [x, y]) in polygon.iter().copied().enumerate() {
        if !((0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y)) {
            return Err(ZoneError::Corner { index, x, y });
        }
    }
    let twice_area: f64 = (0..polygon.len())
        .map(|i| {
            let ([x0, y0], [x1, y1]) = (polygon[i], polygon[(i + 1) % polygon.len()]);
            x0 * y1 - x1 * y0
        })
        .sum();
    if twice_area.abs() < 1e-9 {
        return Err(ZoneError::Flat);
    }
    Ok(())
}

/// Whether the point is inside the polygon (even-odd rule) or on its edge.
pub(crate) fn holds_point(polygon: &[[f64; 2]], x: f64, y: f64) -> bool {
    let mut inside = false;
    for i in 0..polygon.len() {
        let ([x0, y0], [x1, y1]) = (polygon[i], polygon[(i + 1) % polygon.len()]);
        let cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0);
        let within = x >= x0.min(x1) && x <= x0.max(x1) && y >= y0.min(y1) && y <= y0.max(y1);
        if cross == 0.0 && within {
            return true;
        }
        if (y0 > y) != (y1 > y) && x < (x1 - x0) * (y - y0) / (y1 - y0) + x0 {
            inside = !inside;
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(polygon: &[[f64; 2]]) -> Zone {
        Zone::new(Name::new("door").unwrap(), polygon.to_vec(), Anchor::Bottom).unwrap()
    }

    #[test]
    fn edges_and_corners_belong_to_the_zone() {
        let z = zone(&[[0.1, 0.4], [0.3, 0.4], [0.3, 1.0], [0.1, 1.0]]);
        for (x, y) in [(0.1, 0.4), (0.2, 0.4), (0.3, 1.0), (0.2, 1.0), (0.2, 0.7)] {
            assert!(z.holds_point(x, y), "{x} {y}");
        }
        for (x, y) in [(0.09, 0.5), (0.31, 0.5), (0.2, 0.39)] {
            assert!(!z.holds_point(x, y), "{x} {y}");
        }
        assert!(
            z.holds_box([0.15, 0.5, 0.25, 1.02]),
            "a box over the lower edge stands on it"
        );
        assert!(!z.holds_box([0.15, 0.1, 0.25, 0.39]));
    }

    #[test]
    fn a_concave_zone_has_its_dent_outside() {
        let z = zone(&[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.0, 1.0]]);
        assert!(!z.holds_point(0.5, 0.9));
        assert!(z.holds_point(0.5, 0.2));
    }

    #[test]
    fn bad_polygons_are_refused() {
        let n = || Name::new("z").unwrap();
        assert_eq!(
            Zone::new(n(), vec![[0.0, 0.0]], Anchor::Bottom),
            Err(ZoneError::Corners(1))
        );
        assert!(matches!(
            Zone::new(
                n(),
                vec![[0.0, 0.0], [1.0, 0.0], [2.0, f64::NAN]],
                Anchor::Bottom
            ),
            Err(ZoneError::Corner { index: 2, .. })
        ));
        assert_eq!(
            Zone::new(
                n(),
                vec![[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]],
                Anchor::Bottom
            ),
            Err(ZoneError::Flat)
        );
    }
}
