//! Takes the grain out of a picture: 1-2-1 along both axes, which leaves 3/8 of the camera's noise
//! and a step edge three pixels wide.

/// Smooths `from` (rows of `width`, at least one) into `to`, of the same size. `row` is room for
/// one row.
pub(crate) fn smooth(from: &[u8], width: usize, row: &mut [u8], to: &mut [u8]) {
    let last = (from.len() / width).saturating_sub(1);
    let line = |y: usize| &from[y * width..(y + 1) * width];
    for (y, out) in to.chunks_exact_mut(width).enumerate().take(last + 1) {
        let (above, here, below) = (line(y.saturating_sub(1)), line(y), line((y + 1).min(last)));
        for (((r, a), b), c) in row.iter_mut().zip(above).zip(here).zip(below) {
            *r = one_two_one(*a, *b, *c);
        }
        across(row, out);
    }
}

fn across(row: &[u8], out: &mut [u8]) {
    let n = row.len();
    let (Some(middle), true) = (out.get_mut(1..n - 1), n > 2) else {
        out.copy_from_slice(row);
        return;
    };
    for (((o, a), b), c) in middle.iter_mut().zip(row).zip(&row[1..]).zip(&row[2..]) {
        *o = one_two_one(*a, *b, *c);
    }
    out[0] = one_two_one(row[0], row[0], row[1]);
    out[n - 1] = one_two_one(row[n - 2], row[n - 1], row[n - 1]);
}

fn one_two_one(a: u8, b: u8, c: u8) -> u8 {
    let sum = u16::from(a) + 2 * u16::from(b) + u16::from(c) + 2;
    #[expect(clippy::cast_possible_truncation, reason = "255 at most")]
    let mean = (sum >> 2) as u8;
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_picture_stays_as_it_is_and_a_point_spreads() {
        let mut row = [0; 5];
        let mut out = [0; 20];
        smooth(&[77; 20], 5, &mut row, &mut out);
        assert_eq!(out, [77; 20]);
        let mut point = [0; 20];
        point[7] = 160;
        smooth(&point, 5, &mut row, &mut out);
        assert_eq!(
            out,
            [
                0, 10, 20, 10, 0, //
                0, 20, 40, 20, 0, //
                0, 10, 20, 10, 0, //
                0, 0, 0, 0, 0,
            ]
        );
    }
}
