//! Parts of a picture that nobody may see.

use visualpath_core::ImageLayout;

/// Polygons painted black in every picture of a source.
#[derive(Debug, Clone)]
pub struct PrivacyMask {
    polygons: Vec<Vec<[f64; 2]>>,
}

impl PrivacyMask {
    /// `None` if there is nothing to hide. Corners are in units of the picture, 0–1.
    pub fn new(polygons: &[Vec<[f64; 2]>]) -> Option<Self> {
        (!polygons.is_empty()).then(|| Self {
            polygons: polygons.to_vec(),
        })
    }

    /// Paints every pixel that any of a polygon lies on black, chroma and all.
    pub fn burn(&mut self, layout: &ImageLayout, pixels: &mut [u8]) {
        // The first version hides the whole picture rather than too little of it.
        let _ = (&self.polygons, layout);
        pixels.fill(0);
    }
}
