//! Digits for people: 5 × 7 pixels a glyph, magnified.

/// `0`–`9`, `:`, `.`, `#`; a row per byte, the leftmost pixel in bit 4.
const GLYPHS: [[u8; 7]; 13] = [
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
    [0x00, 0x0C, 0x0C, 0x00, 0x0C, 0x0C, 0x00],
    [0x00, 0x00, 0x00, 0x00, 0x00, 0x0C, 0x0C],
    [0x0A, 0x0A, 0x1F, 0x0A, 0x1F, 0x0A, 0x0A],
];
const COLON: u8 = 10;
const POINT: u8 = 11;
const HASH: u8 = 12;

/// Glyphs of a line: `hhhh:mm:ss.mmm` and `#0000000000000` both have so many.
const LINE: usize = 14;
/// Pixels across of a line, not magnified.
const ACROSS: u32 = 14 * ADVANCE;
const ADVANCE: u32 = 6;
const MARGIN: u32 = 4;
const MOST: u32 = 3;
const PAPER: u8 = 24;
const INK: u8 = 232;

/// Magnification of text that begins at column `left`; 0 if there is no room.
pub(super) fn scale(width: u32, left: u32) -> u32 {
    (width.saturating_sub(left + 2 * MARGIN) / ACROSS).min(MOST)
}

/// Rows that two lines take.
pub(super) fn height(scale: u32) -> u32 {
    2 * (7 * scale + MARGIN) + MARGIN
}

/// The number, 13 digits.
fn number(frame: u64) -> [u8; LINE] {
    let mut line = [HASH; LINE];
    let mut rest = frame;
    for glyph in line[1..].iter_mut().rev() {
        *glyph = digit(&mut rest, 10);
    }
    line
}

/// The time as hours, minutes, seconds and milliseconds.
fn clock(t_ns: i64) -> [u8; LINE] {
    let mut line = [0; LINE];
    let mut rest = t_ns.unsigned_abs() / 1_000_000;
    for (at, glyph) in line.iter_mut().enumerate().rev() {
        *glyph = match at {
            4 | 7 => COLON,
            10 => POINT,
            // Tens of minutes and of seconds.
            5 | 8 => digit(&mut rest, 6),
            _ => digit(&mut rest, 10),
        };
    }
    line
}

#[expect(clippy::cast_possible_truncation, reason = "below 10")]
fn digit(rest: &mut u64, base: u64) -> u8 {
    let last = *rest % base;
    *rest /= base;
    last as u8
}

/// Draws number and time from column `left` on.
pub(super) fn draw(luma: &mut [u8], stride: usize, width: u32, left: u32, frame: u64, t_ns: i64) {
    let scale = scale(width, left);
    for (index, line) in (0..).zip(&[number(frame), clock(t_ns)]) {
        let top = MARGIN + index * (7 * scale + MARGIN);
        let (top, left) = (top as usize, (left + MARGIN) as usize);
        draw_line(luma, stride, line, (left, top), scale as usize);
    }
}

fn draw_line(
    luma: &mut [u8],
    stride: usize,
    line: &[u8; LINE],
    (left, top): (usize, usize),
    scale: usize,
) {
    let rows = luma.chunks_mut(stride).skip(top).take(7 * scale);
    for (y, row) in rows.enumerate() {
        let cells = row[left..].chunks_mut(scale).take(ACROSS as usize);
        for (x, cell) in cells.enumerate() {
            let (glyph, column) = (line[x / ADVANCE as usize], x % ADVANCE as usize);
            let bits = GLYPHS[glyph as usize][y / scale];
            let ink = column < 5 && bits & (0x10 >> column) != 0;
            cell.fill(if ink { INK } else { PAPER });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_as_people_read_them() {
        let plain = |line: [u8; LINE]| -> String {
            let sign = |g: &u8| char::from(b"0123456789:.#"[*g as usize]);
            line.iter().map(sign).collect()
        };
        assert_eq!(plain(number(795)), "#0000000000795");
        assert_eq!(plain(clock(0)), "0000:00:00.000");
        let t = ((27 * 60 + 59) * 60 + 8) * 1_000_000_000 + 43_999_999;
        assert_eq!(plain(clock(t)), "0027:59:08.043");
    }
}
