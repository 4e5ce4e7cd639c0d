//! Number and time of a picture as blocks, for programs to read back out of a clip.
//!
//! 16 × 8 blocks of 8 × 8 pixels in the picture's top left corner, row by row, most significant
//! bit first: marker (8 bits), number (40), time in nanoseconds (64), CRC-16/CCITT of all that
//! (16). A block is one transform block of JPEG and half a macroblock's side of H.264, so a bit
//! survives as long as its block's mean does.

/// Pixels of a block's side.
const BLOCK: usize = 8;
const COLUMNS: usize = 16;
const ROWS: usize = 8;
const BYTES: usize = COLUMNS * ROWS / 8;
/// Neither a flat picture nor a shifted code begins so.
const MARKER: u8 = 0b1011_0010;
const BLACK: u8 = 24;
const WHITE: u8 = 232;

/// Bits of the picture's number; a larger one is cut.
pub(super) const FRAME_BITS: u32 = 40;
/// Pixels across.
pub(super) const WIDTH: u32 = 128;
/// Pixels down.
pub(super) const HEIGHT: u32 = 64;
const _: () = assert!(WIDTH as usize == BLOCK * COLUMNS && HEIGHT as usize == BLOCK * ROWS);

fn bytes_of(frame: u64, t_ns: i64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[0] = MARKER;
    bytes[1..6].copy_from_slice(&frame.to_be_bytes()[3..]);
    bytes[6..14].copy_from_slice(&t_ns.to_be_bytes());
    let sum = crc16(&bytes[..14]);
    bytes[14..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// CRC-16/CCITT-FALSE (polynomial 0x1021, start 0xFFFF).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x1021 } else { 0 }
        })
    })
}

/// Draws the code; `luma` must be at least [`WIDTH`] × [`HEIGHT`].
pub(super) fn draw(luma: &mut [u8], stride: usize, frame: u64, t_ns: i64) {
    let bytes = bytes_of(frame, t_ns);
    for (y, row) in luma.chunks_mut(stride).take(BLOCK * ROWS).enumerate() {
        for (column, block) in row.chunks_mut(BLOCK).take(COLUMNS).enumerate() {
            let bit = y / BLOCK * COLUMNS + column;
            let set = bytes[bit / 8] & (0x80 >> (bit % 8)) != 0;
            block.fill(if set { WHITE } else { BLACK });
        }
    }
}

/// Number and time (nanoseconds) of a synthetic picture, read back from its luma (any range);
/// `None` if there is no code or it is damaged. Survives JPEG and H.264, not scaling.
pub fn read_frame_number(
    luma: &[u8],
    stride: usize,
    width: usize,
    height: usize,
) -> Option<(u64, i64)> {
    if width < BLOCK * COLUMNS || height < BLOCK * ROWS || stride < width {
        return None;
    }
    let mut bytes = [0_u8; BYTES];
    for bit in 0..BYTES * 8 {
        let (row, column) = (bit / COLUMNS, bit % COLUMNS);
        // The middle of the block: its rim is where ringing and deblocking work.
        let mut sum = 0;
        for y in 2..BLOCK - 2 {
            let at = (row * BLOCK + y) * stride + column * BLOCK + 2;
            let middle = luma.get(at..at + BLOCK - 4)?;
            sum += middle.iter().map(|p| u32::from(*p)).sum::<u32>();
        }
        if sum >= 128 * 4 * 4 {
            bytes[bit / 8] |= 0x80 >> (bit % 8);
        }
    }
    let mut frame = [0; 8];
    frame[3..].copy_from_slice(&bytes[1..6]);
    let mut t_ns = [0; 8];
    t_ns.copy_from_slice(&bytes[6..14]);
    let (frame, t_ns) = (u64::from_be_bytes(frame), i64::from_be_bytes(t_ns));
    (bytes == bytes_of(frame, t_ns)).then_some((frame, t_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_read_and_any_wrong_block_is_noticed() {
        let stride = 200;
        for (frame, t_ns) in [
            (0, 0),
            (1, -1),
            ((1 << 40) - 1, i64::MAX),
            (795, 79_400_000_000),
        ] {
            let mut luma = vec![90; stride * 70];
            assert_eq!(read_frame_number(&luma, stride, 160, 70), None, "no code");
            draw(&mut luma, stride, frame, t_ns);
            assert_eq!(
                read_frame_number(&luma, stride, 160, 70),
                Some((frame, t_ns))
            );
            for block in 0..COLUMNS * ROWS {
                let mut hurt = luma.clone();
                for y in 0..BLOCK {
                    let at = (block / COLUMNS * BLOCK + y) * stride + block % COLUMNS * BLOCK;
                    hurt[at..at + BLOCK].iter_mut().for_each(|p| *p = 255 - *p);
                }
                assert_eq!(
                    read_frame_number(&hurt, stride, 160, 70),
                    None,
                    "block {block}"
                );
            }
        }
        assert_eq!(
            read_frame_number(&[0; 100], 160, 160, 70),
            None,
            "too short"
        );
    }
}
