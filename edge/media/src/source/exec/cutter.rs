//! Cuts a live byte stream into JPEGs, without waiting for bytes: those that are there are looked
//! at, once. Markers are walked as in `source/jpeg.rs`, which reads files.

use bytes::{Buf, Bytes, BytesMut};

use super::super::jpeg::MAX_JPEG_BYTES;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// The next piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Jpeg(Bytes),
    /// One that began and did not end as a JPEG.
    Broken,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct JpegCutter {
    buf: BytesMut,
    /// Bytes of `buf` walked, from a start mark on; 0: no start mark found.
    at: usize,
    in_scan: bool,
}

enum Walk {
    End(usize),
    More,
    Broken,
}

impl JpegCutter {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next piece of what was pushed; `None` if it is not whole.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        if self.at == 0 {
            let soi = self.buf.windows(2).position(|w| w == [0xFF, SOI]);
            let Some(soi) = soi else {
                let keep = usize::from(self.buf.last() == Some(&0xFF));
                self.buf.advance(self.buf.len() - keep);
                return None;
            };
            self.buf.advance(soi);
            self.at = 2;
            self.in_scan = false;
        }
        let piece = match self.walk() {
            Walk::End(len) => Piece::Jpeg(self.buf.split_to(len).freeze()),
            Walk::More if self.buf.len() <= MAX_JPEG_BYTES => return None,
            Walk::More => {
                self.buf.advance(2);
                Piece::Broken
            }
            // Lengths in it can't be trusted: the next start mark is looked for from here on.
            Walk::Broken => {
                self.buf.advance(2);
                Piece::Broken
            }
        };
        self.at = 0;
        Some(piece)
    }

    fn walk(&mut self) -> Walk {
        loop {
            if self.in_scan {
                let Some(rest) = self.buf.get(self.at..) else {
                    return Walk::More;
                };
                let Some(ff) = rest.iter().position(|b| *b == 0xFF) else {
                    self.at = self.buf.len();
                    return Walk::More;
                };
                self.at += ff;
                match self.buf.get(self.at + 1) {
                    None => return Walk::More,
                    Some(0x00 | 0xD0..=0xD7) => self.at += 2,
                    Some(0xFF) => self.at += 1,
                    Some(_) => self.in_scan = false,
                }
                continue;
            }
            let Some(&[ff, marker]) = self.buf.get(self.at..self.at + 2) else {
                return Walk::More;
            };
            match (ff, marker) {
                (0xFF, 0xFF) => {
                    self.at += 1;
                    continue;
                }
                (0xFF, EOI) => return Walk::End(self.at + 2),
                (0xFF, SOI) => return Walk::Broken,
                (0xFF, 0x01 | 0xD0..=0xD7) => {
                    self.at += 2;
                    continue;
                }
                (0xFF, 0x00) | (..=0xFE, _) => return Walk::Broken,
                _ => {}
            }
            let Some(&[hi, lo]) = self.buf.get(self.at + 2..self.at + 4) else {
                return Walk::More;
            };
            let len = usize::from(u16::from_be_bytes([hi, lo]));
            if len < 2 {
                return Walk::Broken;
            }
            // May be beyond what is there yet.
            self.at += 2 + len;
            self.in_scan = marker == SOS;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jpeg(seed: u8) -> Vec<u8> {
        let pixels: Vec<u8> = (0..32 * 24 * 3_u32)
            .map(|i| i.to_le_bytes()[0].wrapping_mul(seed))
            .collect();
        let image = turbojpeg::Image {
            pixels: pixels.as_slice(),
            width: 32,
            pitch: 96,
            height: 24,
            format: turbojpeg::PixelFormat::RGB,
        };
        turbojpeg::compress(image, 80, turbojpeg::Subsamp::Sub2x2)
            .unwrap()
            .to_vec()
    }

    fn pieces(parts: &[&[u8]]) -> Vec<Piece> {
        let mut cutter = JpegCutter::default();
        let mut out = Vec::new();
        for part in parts {
            cutter.push(part);
            out.extend(std::iter::from_fn(|| cutter.pop()));
        }
        out
    }

    #[test]
    fn jpegs_come_out_whole_wherever_the_stream_is_split() {
        let (a, b) = (jpeg(3), jpeg(7));
        let stream = [&b"noise"[..], &a, &[0, 0], &b].concat();
        let want = vec![Piece::Jpeg(a.into()), Piece::Jpeg(b.into())];
        for at in 0..stream.len() {
            let (x, y) = stream.split_at(at);
            assert_eq!(pieces(&[x, y]), want, "{at}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(pieces(&single), want);
    }

    #[test]
    fn a_jpeg_that_breaks_off_is_told_and_the_next_is_whole() {
        let (a, b) = (jpeg(3), jpeg(7));
        let stream = [&a[..a.len() / 2], &b].concat();
        assert_eq!(pieces(&[&stream]), [Piece::Broken, Piece::Jpeg(b.into())]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_hang(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            at in any::<prop::sample::Index>(),
        ) {
            let mut stream = [jpeg(3), jpeg(5), jpeg(9)].concat();
            for (at, byte) in flips {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            let (a, b) = stream.split_at(at.index(stream.len()));
            prop_assert_eq!(pieces(&[a, b]), pieces(&[&stream]));
        }
    }
}
