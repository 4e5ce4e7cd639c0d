//! From a view's bytes to the tensor a model eats.
//!
//! Rows of interleaved bytes become planes of f32, value = pixel × scale + bias. One pass, no
//! allocation after the first: 300×300 RGB takes about 0.1 ms.

use visualpath_core::{ImageLayout, PixelFormat};

use crate::card::ModelCard;

/// Turns pictures of one shape into input tensors, always into the same memory.
#[derive(Debug, Clone)]
pub struct Normalizer {
    format: PixelFormat,
    width: usize,
    height: usize,
    scale: [f32; 3],
    bias: [f32; 3],
    tensor: Vec<f32>,
}

/// The picture is not the view the card asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NormalizeError {
    /// Another size or format.
    #[error(
        "the view is {got_width}x{got_height} {got:?}, the model's card asks for {width}x{height} {format:?}"
    )]
    Layout {
        /// Asked for.
        width: usize,
        /// Asked for.
        height: usize,
        /// Asked for.
        format: PixelFormat,
        /// Given.
        got_width: u32,
        /// Given.
        got_height: u32,
        /// Given.
        got: PixelFormat,
    },
    /// Fewer bytes than the layout needs.
    #[error("the view has {got} bytes, its layout needs {need}")]
    Short {
        /// Given.
        got: usize,
        /// Needed.
        need: usize,
    },
}

impl Normalizer {
    /// For the input of `card`.
    pub fn new(card: &ModelCard) -> Self {
        let [_, channels, height, width] = card.input_shape();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "weights are f32; so is what is multiplied with them"
        )]
        let three = |p: &crate::card::PerChannel| [0, 1, 2].map(|i| p.get(i) as f32);
        Self {
            format: card.pixel_format(),
            width,
            height,
            scale: three(&card.input.scale),
            bias: three(&card.input.bias),
            tensor: vec![0.0; channels * height * width],
        }
    }

    /// The tensor (`1 × channels × height × width`) of a view with this layout.
    pub fn fill(&mut self, layout: &ImageLayout, pixels: &[u8]) -> Result<&[f32], NormalizeError> {
        let (width, height) = (self.width, self.height);
        let same = layout.format == self.format
            && layout.width as usize == width
            && layout.height as usize == height;
        if !same {
            return Err(NormalizeError::Layout {
                width,
                height,
                format: self.format,
                got_width: layout.width,
                got_height: layout.height,
                got: layout.format,
            });
        }
        let (Some(plane), Some(bytes)) = (layout.planes().first(), layout.plane(pixels, 0)) else {
            return Err(NormalizeError::Short {
                got: pixels.len(),
                need: layout.bytes(),
            });
        };
        let rows = bytes.chunks(plane.stride.max(1));
        let ([s0, s1, s2], [b0, b1, b2]) = (self.scale, self.bias);
        if self.format == PixelFormat::Grey {
            for (row, out) in rows.zip(self.tensor.chunks_exact_mut(width)) {
                for (v, o) in row.iter().zip(out) {
                    *o = f32::from(*v) * s0 + b0;
                }
            }
            return Ok(&self.tensor);
        }
        let (first, rest) = self.tensor.split_at_mut(width * height);
        let (second, third) = rest.split_at_mut(width * height);
        let planes = first
            .chunks_exact_mut(width)
            .zip(second.chunks_exact_mut(width))
            .zip(third.chunks_exact_mut(width));
        for (row, ((p0, p1), p2)) in rows.zip(planes) {
            let out = p0.iter_mut().zip(p1.iter_mut()).zip(p2.iter_mut());
            for (v, ((o0, o1), o2)) in row.chunks_exact(3).zip(out) {
                *o0 = f32::from(v[0]) * s0 + b0;
                *o1 = f32::from(v[1]) * s1 + b1;
                *o2 = f32::from(v[2]) * s2 + b2;
            }
        }
        Ok(&self.tensor)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use visualpath_core::ColorSpec;

    use super::*;

    const CARD: &str = include_str!("../../../models/ssd-oidv4.toml");

    fn card(from: &str, to: &str) -> ModelCard {
        let text = CARD
            .replace("width = 300", "width = 5")
            .replace("height = 300", "height = 3")
            .replace(from, to);
        ModelCard::parse(Path::new("card"), &text).unwrap()
    }

    fn layout(format: PixelFormat) -> ImageLayout {
        ImageLayout::packed(format, 5, 3, ColorSpec::default())
    }

    #[test]
    fn every_value_is_pixel_times_scale_plus_bias_in_its_plane() {
        let card = card("bias = -1.0", "bias = [-1.0, 0.5, 2.0]");
        let pixels: Vec<u8> = (0..45).map(|i| i * 5).collect();
        let mut n = Normalizer::new(&card);
        let tensor = n.fill(&layout(PixelFormat::Rgb), &pixels).unwrap();
        for c in 0..3 {
            for i in 0..15 {
                let expected = f64::from(pixels[i * 3 + c]) / 127.5 + [-1.0, 0.5, 2.0][c];
                assert!(
                    (f64::from(tensor[c * 15 + i]) - expected).abs() < 1e-6,
                    "{c} {i}"
                );
            }
        }
    }

    #[test]
    fn grey_has_one_plane() {
        let card = card("format = \"rgb\" ", "format = \"grey\" ");
        assert_eq!(card.input_shape(), [1, 1, 3, 5]);
        let mut n = Normalizer::new(&card);
        let tensor = n.fill(&layout(PixelFormat::Grey), &[255; 15]).unwrap();
        assert_eq!(tensor.len(), 15);
        assert!(tensor.iter().all(|v| (v - 1.0).abs() < 1e-6));
    }

    #[test]
    fn another_view_is_an_error_not_garbage() {
        let mut n = Normalizer::new(&card("", ""));
        let error = n.fill(&layout(PixelFormat::Bgr), &[0; 45]).unwrap_err();
        assert!(matches!(error, NormalizeError::Layout { .. }), "{error}");
        let error = n.fill(&layout(PixelFormat::Rgb), &[0; 44]).unwrap_err();
        assert_eq!(error, NormalizeError::Short { got: 44, need: 45 });
    }
}
