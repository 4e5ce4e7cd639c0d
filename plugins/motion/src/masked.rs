//! What the config's masks of kind `motion` leave to be looked at.
//!
//! The one hard idea: masked pixels are made the same in every picture, before it is smoothed, so
//! that nothing of them bleeds into their neighbours, and after, so that nothing bleeds into them.
//! Then they never change or flicker, and no later step has to know of them; only shares are of
//! what is left.

use std::sync::Arc;

use visualpath_core::{Mask, MaskKind};

use crate::background::ones;

/// What masked pixels become, level.
const NOTHING: u8 = 0;

/// The pixels of a view that count.
#[derive(Debug)]
pub(crate) struct Looked {
    /// 1 where a pixel counts; empty if all do.
    mask: Arc<[u8]>,
    /// The picture without the others.
    picture: Vec<u8>,
    area: usize,
}

impl Looked {
    /// A pixel is masked if its centre is.
    pub(crate) fn new(masks: &[Mask], width: u32, height: u32) -> Self {
        let masks: Vec<&Mask> = masks
            .iter()
            .filter(|m| m.kind == MaskKind::Motion)
            .collect();
        let pixels = width as usize * height as usize;
        let (mut mask, mut picture) = (Vec::new(), Vec::new());
        if !masks.is_empty() {
            let centre = |i: u32, side: u32| (f64::from(i) + 0.5) / f64::from(side);
            mask.reserve_exact(pixels);
            for y in 0..height {
                mask.extend((0..width).map(|x| {
                    let (x, y) = (centre(x, width), centre(y, height));
                    u8::from(!masks.iter().any(|m| m.holds_point(x, y)))
                }));
            }
            picture.resize(pixels, NOTHING);
        }
        let area = if masks.is_empty() {
            pixels
        } else {
            ones(&mask)
        };
        Self {
            mask: mask.into(),
            picture,
            area,
        }
    }

    /// The picture with what is masked made even.
    pub(crate) fn of<'a>(&'a mut self, picture: &'a [u8]) -> &'a [u8] {
        if self.mask.is_empty() {
            return picture;
        }
        let pixels = self.picture.iter_mut().zip(picture).zip(&*self.mask);
        for ((out, x), counts) in pixels {
            // All ones where it counts.
            *out = x & 0_u8.wrapping_sub(*counts);
        }
        &self.picture
    }

    /// Makes what is masked even in a smoothed picture.
    pub(crate) fn even(&self, picture: &mut [u8]) {
        for (x, counts) in picture.iter_mut().zip(&*self.mask) {
            *x &= 0_u8.wrapping_sub(*counts);
        }
    }

    /// 1 where a pixel counts; empty if all do.
    pub(crate) fn mask(&self) -> &Arc<[u8]> {
        &self.mask
    }

    /// How many pixels count; 0 if the whole picture is masked.
    pub(crate) fn area(&self) -> usize {
        self.area
    }
}

#[cfg(test)]
mod tests {
    use visualpath_core::Name;

    use super::*;

    fn mask(kind: MaskKind) -> Mask {
        let left = vec![[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
        Mask::new(Name::new("street").unwrap(), kind, left).unwrap()
    }

    #[test]
    fn masked_pixels_are_even_and_the_rest_is_as_it_was() {
        let mut looked = Looked::new(&[mask(MaskKind::Motion)], 4, 2);
        assert_eq!(looked.area(), 4);
        assert_eq!(looked.of(&[9; 8]), [0, 0, 9, 9, 0, 0, 9, 9]);
        assert_eq!(looked.of(&[7; 8]), [0, 0, 7, 7, 0, 0, 7, 7]);
    }

    #[test]
    fn a_mask_of_objects_hides_no_pixel() {
        let mut looked = Looked::new(&[mask(MaskKind::Objects)], 4, 2);
        assert_eq!((looked.area(), looked.mask().len()), (8, 0));
        assert_eq!(looked.of(&[9; 8]), [9; 8]);
    }
}
