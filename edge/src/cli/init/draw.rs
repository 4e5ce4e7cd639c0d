//! Boxes and labels on a picture, for `init`'s snapshot. Text is 5 × 7 pixels a glyph, magnified.

use visualpath_core::Object;

use crate::cli::measure::Picture;

/// What boxes are drawn in, by turns: RGB.
const COLOURS: [[u8; 3]; 4] = [[0, 230, 64], [255, 176, 0], [0, 176, 255], [255, 64, 160]];
const INK: [u8; 3] = [0, 0, 0];

/// Letters, digits and `.`; a row per byte, the leftmost pixel in bit 4. Any other sign is a blank.
const LETTERS: [[u8; 7]; 26] = [
    [0x0E, 0x11, 0x11, 0x1F, 0x11, 0x11, 0x11],
    [0x1E, 0x11, 0x11, 0x1E, 0x11, 0x11, 0x1E],
    [0x0E, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0E],
    [0x1E, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1E],
    [0x1F, 0x10, 0x10, 0x1E, 0x10, 0x10, 0x1F],
    [0x1F, 0x10, 0x10, 0x1E, 0x10, 0x10, 0x10],
    [0x0E, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0F],
    [0x11, 0x11, 0x11, 0x1F, 0x11, 0x11, 0x11],
    [0x0E, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0E],
    [0x07, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0C],
    [0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11],
    [0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1F],
    [0x11, 0x1B, 0x15, 0x15, 0x11, 0x11, 0x11],
    [0x11, 0x11, 0x19, 0x15, 0x13, 0x11, 0x11],
    [0x0E, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0E],
    [0x1E, 0x11, 0x11, 0x1E, 0x10, 0x10, 0x10],
    [0x0E, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0D],
    [0x1E, 0x11, 0x11, 0x1E, 0x14, 0x12, 0x11],
    [0x0F, 0x10, 0x10, 0x0E, 0x01, 0x01, 0x1E],
    [0x1F, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04],
    [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0E],
    [0x11, 0x11, 0x11, 0x11, 0x11, 0x0A, 0x04],
    [0x11, 0x11, 0x11, 0x15, 0x15, 0x15, 0x0A],
    [0x11, 0x11, 0x0A, 0x04, 0x0A, 0x11, 0x11],
    [0x11, 0x11, 0x11, 0x0A, 0x04, 0x04, 0x04],
    [0x1F, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1F],
];
const DIGITS: [[u8; 7]; 10] = [
    [0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E],
    [0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E],
    [0x0E, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1F],
    [0x1F, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0E],
    [0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02],
    [0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E],
    [0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E],
    [0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08],
    [0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E],
    [0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C],
];
const POINT: [u8; 7] = [0, 0, 0, 0, 0, 0x0C, 0x0C];
const ADVANCE: i64 = 6;
const TALL: i64 = 7;

fn glyph(c: char) -> [u8; 7] {
    let at = |from: u8| (c.to_ascii_uppercase() as u32).wrapping_sub(u32::from(from)) as usize;
    if c == '.' {
        return POINT;
    }
    DIGITS
        .get(at(b'0'))
        .or_else(|| LETTERS.get(at(b'A')))
        .copied()
        .unwrap_or_default()
}

/// Draws a box and a label with its score around every object of the picture.
pub fn objects(picture: &mut Picture) {
    let objects = std::mem::take(&mut picture.objects);
    let mut canvas = Canvas {
        width: i64::from(picture.width),
        height: i64::from(picture.height),
        rgb: &mut picture.rgb,
    };
    // Readable when the picture is shown on a telephone.
    let scale = (canvas.height / 240).clamp(1, 4);
    for (object, colour) in objects.iter().zip(COLOURS.into_iter().cycle()) {
        draw(&mut canvas, object, colour, scale);
    }
    picture.objects = objects;
}

fn draw(canvas: &mut Canvas<'_>, object: &Object, colour: [u8; 3], scale: i64) {
    let [l, t, r, b] = object.bbox;
    let (l, r) = (pixel(l, canvas.width), pixel(r, canvas.width));
    let (t, b) = (pixel(t, canvas.height), pixel(b, canvas.height));
    let thick = scale + 1;
    canvas.fill(l, t, r, t + thick, colour);
    canvas.fill(l, b - thick, r, b, colour);
    canvas.fill(l, t, l + thick, b, colour);
    canvas.fill(r - thick, t, r, b, colour);
    let text = format!("{} {:.2}", object.label, object.score);
    let signs = i64::try_from(text.chars().count()).unwrap_or(0);
    let (across, tall) = ((signs * ADVANCE + 1) * scale, (TALL + 2) * scale);
    // Above the box; inside where the picture ends.
    let top = if t >= tall { t - tall } else { t };
    let left = l.min(canvas.width - across).max(0);
    canvas.fill(left, top, left + across, top + tall, colour);
    for (n, c) in (0..).zip(text.chars()) {
        let left = left + (n * ADVANCE + 1) * scale;
        for (y, bits) in (0..).zip(glyph(c)) {
            for x in (0..5).filter(|x| bits & (0x10 >> x) != 0) {
                let (x, y) = (left + x * scale, top + (y + 1) * scale);
                canvas.fill(x, y, x + scale, y + scale, INK);
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a pixel"
)]
fn pixel(share: f64, across: i64) -> i64 {
    (share.clamp(0.0, 1.0) * across as f64).round() as i64
}

struct Canvas<'a> {
    width: i64,
    height: i64,
    rgb: &'a mut [u8],
}

impl Canvas<'_> {
    /// Left and top are in it, right and bottom are not; what lies outside the picture is left out.
    fn fill(&mut self, l: i64, t: i64, r: i64, b: i64, colour: [u8; 3]) {
        let across = usize::try_from(self.width).unwrap_or(0);
        let within = |at: i64, most: i64| usize::try_from(at.clamp(0, most)).unwrap_or(0);
        let (l, r) = (within(l, self.width), within(r, self.width));
        let (t, b) = (within(t, self.height), within(b, self.height));
        let rows = self.rgb.chunks_mut((across * 3).max(1));
        for row in rows.skip(t).take(b.saturating_sub(t)) {
            let pixels = row.chunks_mut(3).skip(l).take(r.saturating_sub(l));
            for pixel in pixels.filter(|p| p.len() == 3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(bbox: [f64; 4], label: &str) -> Picture {
        Picture {
            width: 200,
            height: 100,
            rgb: vec![9; 200 * 100 * 3],
            objects: vec![Object {
                track_id: None,
                label: label.to_owned(),
                score: 0.5,
                bbox,
                area: 0.0,
                zones: Vec::new(),
                keypoints: Vec::new(),
            }],
        }
    }

    fn at(picture: &Picture, x: usize, y: usize) -> &[u8] {
        &picture.rgb[(y * 200 + x) * 3..][..3]
    }

    #[test]
    fn a_box_is_drawn_where_the_object_is_and_nothing_else_is_touched() {
        let mut p = picture([0.25, 0.5, 0.75, 0.9], "Person");
        objects(&mut p);
        let green = COLOURS[0].as_slice();
        for (x, y) in [(50, 50), (149, 50), (50, 89), (149, 89), (100, 50)] {
            assert_eq!(at(&p, x, y), green, "{x},{y}");
        }
        for (x, y) in [(100, 70), (49, 60), (150, 60), (100, 91), (100, 30)] {
            assert_eq!(at(&p, x, y), [9, 9, 9], "{x},{y}");
        }
        // The label is above it: a P begins with a bar of seven pixels.
        let bar: Vec<&[u8]> = (42..49).map(|y| at(&p, 51, y)).collect();
        assert!(bar.iter().all(|p| *p == INK), "{bar:?}");
    }

    #[test]
    fn boxes_and_labels_that_reach_beyond_the_picture_are_cut() {
        for bbox in [
            [-1.0, -1.0, 2.0, 2.0],
            [0.99, 0.99, 1.0, 1.0],
            [0.5, 0.5, 0.5, 0.5],
            [f64::NAN, 0.0, f64::NAN, 1.0],
        ] {
            let mut p = picture(bbox, &"long ".repeat(50));
            objects(&mut p);
            assert_eq!(p.rgb.len(), 200 * 100 * 3);
        }
    }
}
