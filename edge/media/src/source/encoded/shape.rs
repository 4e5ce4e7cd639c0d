//! Which sizes of a stream of JPEGs are believed.
//!
//! Each JPEG says its own size, and one damaged byte may change it: another size would end the
//! epoch and make a new pool. So another size counts only when two pictures in a row agree.

use visualpath_frames::MAX_SIDE;

/// Larger pictures are taken for damaged ones.
const MAX_PIXELS: u64 = 64_000_000;

/// What the frame header says. Source: ITU-T T.81, B.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    width: u16,
    height: u16,
    components: u8,
}

/// The size that holds, and the one that may come to.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    held: Option<Shape>,
    newest: Option<Shape>,
}

impl Shapes {
    /// Whether the picture may be decoded.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn check(&mut self, jpeg: &[u8]) -> Result<(), String> {
        let Some(shape) = read(jpeg) else {
            return Err("a JPEG without a frame header".to_owned());
        };
        let Shape { width, height, .. } = shape;
        let side = 1..=MAX_SIDE;
        let sane = side.contains(&width.into())
            && side.contains(&height.into())
            && u64::from(width) * u64::from(height) <= MAX_PIXELS;
        if !sane {
            return Err(format!("a JPEG of {width}x{height} pixels"));
        }
        let before = self.newest.replace(shape);
        if self.held.is_none_or(|held| held == shape) || before == Some(shape) {
            self.held = Some(shape);
            return Ok(());
        }
        Err(format!("a single JPEG of {width}x{height} pixels"))
    }
}

/// Walks the segments up to the frame header.
fn read(jpeg: &[u8]) -> Option<Shape> {
    let mut at = 2;
    loop {
        let (&[ff, marker, hi, lo], body) = jpeg.get(at..)?.split_first_chunk::<4>()?;
        match (ff, marker) {
            (0xFF, 0xFF) => {
                at += 1;
                continue;
            }
            // Frame headers, without the tables (C4, CC) and the extension (C8) between them.
            (0xFF, 0xC0..=0xCF) if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let &[_, h1, h0, w1, w0, components] = body.first_chunk::<6>()?;
                return Some(Shape {
                    width: u16::from_be_bytes([w1, w0]),
                    height: u16::from_be_bytes([h1, h0]),
                    components,
                });
            }
            // The scan: what has no header by now has none.
            (0xFF, 0xDA) => return None,
            (0xFF, _) => at += 2 + usize::from(u16::from_be_bytes([hi, lo])),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start mark, a segment, fill, a frame header.
    fn jpeg(width: u16, height: u16) -> Vec<u8> {
        let mut out = vec![
            0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2, 0xFF, 0xFF, 0xC0, 0, 17, 8,
        ];
        out.extend(height.to_be_bytes());
        out.extend(width.to_be_bytes());
        out.push(3);
        out
    }

    #[test]
    fn another_size_counts_when_two_pictures_in_a_row_have_it() {
        let mut shapes = Shapes::default();
        let (a, b, c) = (jpeg(640, 480), jpeg(640, 224), jpeg(900, 480));
        for (picture, taken) in [
            (&a, true),
            (&b, false),
            (&a, true),
            (&b, false),
            (&c, false),
            (&b, false),
            (&b, true),
            (&b, true),
            (&a, false),
            (&a, true),
        ] {
            assert_eq!(shapes.check(picture).is_ok(), taken);
        }
    }

    #[test]
    fn absurd_sizes_and_no_size_are_damage_even_twice() {
        let mut shapes = Shapes::default();
        for (width, height) in [
            (0, 480),
            (640, 0),
            (16_385, 8),
            (8001, 8000),
            (65_535, 65_535),
        ] {
            for _ in 0..2 {
                assert!(
                    shapes.check(&jpeg(width, height)).is_err(),
                    "{width}x{height}"
                );
            }
        }
        shapes.check(&jpeg(8000, 8000)).unwrap();
        let whole = jpeg(8000, 8000);
        for len in 0..whole.len() {
            assert!(shapes.check(&whole[..len]).is_err());
        }
    }
}
