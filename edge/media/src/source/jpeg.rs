//! Cuts a byte stream into JPEGs.
//!
//! A JPEG has no length. Looking for the bytes of its end mark is not enough, because a thumbnail
//! or a comment may hold them; so the markers are walked. Source: ITU-T T.81, annex B: segments
//! with a length, and entropy-coded data in which FF is always followed by 00 or a restart mark.

use std::io::{self, BufRead, BufReader, Read};

/// Largest JPEG taken.
pub const MAX_JPEG_BYTES: usize = 64 << 20;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// The next piece of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A whole JPEG, from its start mark to its end mark.
    Jpeg,
    /// A JPEG began and did not end as one; the place of the next start mark is known again.
    Broken,
    /// Nothing follows.
    End,
}

/// Cuts what it reads into JPEGs. Bytes between them are passed over and counted.
#[derive(Debug)]
pub struct JpegSplitter<R> {
    input: BufReader<R>,
    /// A start mark was read where it did not belong: the next JPEG begins there.
    at_soi: bool,
    between: u64,
}

enum Cut {
    Whole,
    /// Another start mark, or a length no segment has.
    Broken {
        at_soi: bool,
    },
    Eof,
}

impl<R: Read> JpegSplitter<R> {
    /// A splitter at the beginning of `input`.
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(64 << 10, input),
            at_soi: false,
            between: 0,
        }
    }

    /// Bytes so far that belong to no JPEG (zeros, which some writers pad with, are not counted).
    pub fn bytes_between(&self) -> u64 {
        self.between
    }

    /// Puts the next JPEG into `out`, whose room is used again.
    ///
    /// # Errors
    /// Only those of reading; damaged content is [`Piece::Broken`].
    pub fn next_piece(&mut self, out: &mut Vec<u8>) -> io::Result<Piece> {
        out.clear();
        if !std::mem::take(&mut self.at_soi) && !self.find_soi()? {
            return Ok(Piece::End);
        }
        out.extend([0xFF, SOI]);
        match self.segments(out)? {
            Cut::Whole => Ok(Piece::Jpeg),
            Cut::Broken { at_soi } => {
                self.at_soi = at_soi;
                Ok(Piece::Broken)
            }
            Cut::Eof => Ok(Piece::Broken),
        }
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = fill(&mut self.input)?.first().copied();
        if byte.is_some() {
            self.input.consume(1);
        }
        Ok(byte)
    }

    fn find_soi(&mut self) -> io::Result<bool> {
        let mut after_ff = false;
        while let Some(byte) = self.byte()? {
            if after_ff && byte == SOI {
                self.between -= 1; // the FF
                return Ok(true);
            }
            after_ff = byte == 0xFF;
            self.between += u64::from(byte != 0);
        }
        Ok(false)
    }

    fn segments(&mut self, out: &mut Vec<u8>) -> io::Result<Cut> {
        const BROKEN: Cut = Cut::Broken { at_soi: false };
        // The marker that ended entropy-coded data, if that is where we are.
        let mut found = None;
        loop {
            let marker = match found.take() {
                Some(marker) => marker,
                None => {
                    match self.byte()? {
                        Some(0xFF) => {}
                        Some(_) => return Ok(BROKEN),
                        None => return Ok(Cut::Eof),
                    }
                    let marker = loop {
                        match self.byte()? {
                            Some(0xFF) => {} // fill bytes
                            Some(marker) => break marker,
                            None => return Ok(Cut::Eof),
                        }
                    };
                    out.extend([0xFF, marker]);
                    marker
                }
            };
            match marker {
                EOI => return Ok(Cut::Whole),
                SOI => return Ok(Cut::Broken { at_soi: true }),
                0x01 | 0xD0..=0xD7 => continue,
                0x00 => return Ok(BROKEN),
                _ => {}
            }
            let (Some(hi), Some(lo)) = (self.byte()?, self.byte()?) else {
                return Ok(Cut::Eof);
            };
            let len = usize::from(u16::from_be_bytes([hi, lo]));
            let Some(rest) = len.checked_sub(2) else {
                return Ok(BROKEN);
            };
            out.extend([hi, lo]);
            let had = out.len();
            if had + rest > MAX_JPEG_BYTES {
                return Ok(BROKEN);
            }
            (&mut self.input).take(rest as u64).read_to_end(out)?;
            if out.len() != had + rest {
                return Ok(Cut::Eof);
            }
            if marker == SOS {
                match self.entropy_coded(out)? {
                    Some(marker) => found = Some(marker),
                    None if out.len() >= MAX_JPEG_BYTES => return Ok(BROKEN),
                    None => return Ok(Cut::Eof),
                }
            }
        }
    }

    /// Copies entropy-coded data up to and with the marker that ends it.
    fn entropy_coded(&mut self, out: &mut Vec<u8>) -> io::Result<Option<u8>> {
        loop {
            let buf = fill(&mut self.input)?;
            if buf.is_empty() || out.len() >= MAX_JPEG_BYTES {
                return Ok(None);
            }
            let plain = buf.iter().position(|&b| b == 0xFF).unwrap_or(buf.len());
            out.extend_from_slice(&buf[..plain]);
            let at_ff = plain < buf.len();
            self.input.consume(plain);
            if !at_ff {
                continue;
            }
            self.input.consume(1);
            let after = loop {
                match self.byte()? {
                    Some(0xFF) => {}
                    Some(byte) => break byte,
                    None => return Ok(None),
                }
            };
            out.extend([0xFF, after]);
            if !matches!(after, 0x00 | 0xD0..=0xD7) {
                return Ok(Some(after));
            }
        }
    }
}

fn fill<R: Read>(input: &mut BufReader<R>) -> io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(input.buffer()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(bytes: &[u8]) -> (Vec<(Piece, Vec<u8>)>, u64) {
        let mut splitter = JpegSplitter::new(bytes);
        let (mut all, mut out) = (Vec::new(), Vec::new());
        loop {
            match splitter.next_piece(&mut out).unwrap() {
                Piece::End => return (all, splitter.bytes_between()),
                piece => all.push((piece, out.clone())),
            }
        }
    }

    /// Start mark, a comment that holds marks of its own, a scan with stuffed and restart bytes.
    const JPEG: &[u8] = &[
        0xFF, 0xD8, 0xFF, 0xFE, 0, 6, 0xFF, 0xD9, 0xFF, 0xD8, 0xFF, 0xDA, 0, 3, 9, 1, 0xFF, 0, 2,
        0xFF, 0xD3, 3, 0xFF, 0xD9,
    ];

    #[test]
    fn marks_inside_segments_and_scans_do_not_cut() {
        let stream = [JPEG, &[0, 0, 0], JPEG, &[7], JPEG].concat();
        let (all, between) = pieces(&stream);
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|p| *p == (Piece::Jpeg, JPEG.to_vec())));
        assert_eq!(between, 1, "padding zeros do not count");
    }

    #[test]
    fn a_jpeg_cut_short_costs_only_itself() {
        let stream = [&JPEG[..18], JPEG, &JPEG[..9]].concat();
        let (all, _) = pieces(&stream);
        let kinds: Vec<_> = all.iter().map(|p| p.0).collect();
        assert_eq!(kinds, [Piece::Broken, Piece::Jpeg, Piece::Broken]);
        assert_eq!(all[1].1, JPEG);
    }

    proptest! {
        #[test]
        fn no_bytes_hang_or_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(0xFF_u8), Just(SOI), Just(EOI), Just(SOS), any::<u8>()], 0..400)
        ) {
            let (all, _) = pieces(&bytes);
            prop_assert!(all.len() <= bytes.len());
        }
    }
}
