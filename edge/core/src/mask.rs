//! Masks: parts of a source's picture that are not looked at.

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::zone::{ZoneError, check_polygon, holds_point};

/// What a mask hides, and from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MaskKind {
    /// Its pixels don't count as moving.
    Motion,
    /// Objects that stand in it (centre of the box's lower edge) are not there.
    Objects,
    /// Nobody sees its pixels: they are painted over before anything else gets the picture.
    Privacy,
}

/// A polygon in units of the frame, 0–1.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// Its name in the config.
    pub name: Name,
    /// What it hides.
    pub kind: MaskKind,
    /// Corners in order, at least three.
    pub polygon: Vec<[f64; 2]>,
}

impl Mask {
    /// Checks the polygon.
    ///
    /// # Errors
    /// As of a zone: too few corners, one outside the picture, no area.
    pub fn new(name: Name, kind: MaskKind, polygon: Vec<[f64; 2]>) -> Result<Self, ZoneError> {
        check_polygon(&polygon)?;
        Ok(Self {
            name,
            kind,
            polygon,
        })
    }

    /// Whether the point is inside (even-odd rule) or on the polygon's edge.
    pub fn holds_point(&self, x: f64, y: f64) -> bool {
        holds_point(&self.polygon, x, y)
    }

    /// Whether the object with this box (left, top, right, bottom) stands in the mask.
    pub fn holds_box(&self, [l, _, r, b]: [f64; 4]) -> bool {
        // A box cut off at the picture's edge stands on that edge, not beyond it.
        let (x, y) = (f64::midpoint(l, r), b);
        self.holds_point(x.clamp(0.0, 1.0), y.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_where_it_stands_and_a_polygon_must_be_one() {
        let name = || Name::new("street").unwrap();
        let lower = vec![[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]];
        let mask = Mask::new(name(), MaskKind::Objects, lower).unwrap();
        assert!(mask.holds_box([0.4, 0.0, 0.6, 0.8]), "its head is outside");
        assert!(!mask.holds_box([0.4, 0.0, 0.6, 0.4]));
        assert!(mask.holds_box([0.4, 0.5, 0.6, 1.1]), "cut off at the edge");
        assert_eq!(
            Mask::new(name(), MaskKind::Motion, vec![[0.0, 0.0]; 2]),
            Err(ZoneError::Corners(2))
        );
    }
}
