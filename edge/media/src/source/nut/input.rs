//! The byte stream under the demuxer: bytes, numbers, packets and their checksums.

use std::io::{self, BufRead, BufReader, Read};

use super::header::push_7_bits;
use super::{MAX_HEADER_BYTES, NutError};

/// The byte stream, with a running checksum over what is read byte by byte.
#[derive(Debug)]
pub(super) struct Input<R> {
    pub(super) inner: BufReader<R>,
    pub(super) crc: u32,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        // Small: a payload larger than this goes past it, straight into the caller's memory.
        let inner = BufReader::with_capacity(4096, inner);
        Self { inner, crc: 0 }
    }

    pub(super) fn at_end(&mut self) -> Result<bool, NutError> {
        loop {
            match self.inner.fill_buf() {
                Ok(buf) => return Ok(buf.is_empty()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub(super) fn exact(&mut self, dst: &mut [u8], what: &'static str) -> Result<(), NutError> {
        self.inner.read_exact(dst).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => NutError::Truncated(what),
            _ => NutError::Io(e),
        })
    }

    pub(super) fn skip(&mut self, mut bytes: u64, what: &'static str) -> Result<(), NutError> {
        let mut scratch = [0; 16 << 10];
        while bytes > 0 {
            let n = usize::try_from(bytes)
                .unwrap_or(usize::MAX)
                .min(scratch.len());
            self.exact(&mut scratch[..n], what)?;
            bytes -= n as u64;
        }
        Ok(())
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, NutError> {
        let mut byte = [0];
        self.exact(&mut byte, what)?;
        self.crc = crc32(self.crc, &byte);
        Ok(byte[0])
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, NutError> {
        (0..4).try_fold(0, |v, _| Ok(v << 8 | u32::from(self.u8(what)?)))
    }

    pub(super) fn v(&mut self, what: &'static str) -> Result<u64, NutError> {
        let mut value = 0;
        loop {
            let byte = self.u8(what)?;
            value = push_7_bits(value, byte)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    pub(super) fn startcode(&mut self) -> Result<u64, NutError> {
        if self.u8("a startcode")? != b'N' {
            return Err(NutError::Invalid("a header was expected"));
        }
        self.startcode_after_n()
    }

    pub(super) fn startcode_after_n(&mut self) -> Result<u64, NutError> {
        (0..7).try_fold(u64::from(b'N'), |v, _| {
            Ok(v << 8 | u64::from(self.u8("a startcode")?))
        })
    }

    /// Length of the packet whose startcode was just read, its checksum included.
    fn packet_len(&mut self, what: &'static str) -> Result<u64, NutError> {
        let len = self.v(what)?;
        if len > 4096 {
            self.u32(what)?;
            if self.crc != 0 {
                return Err(NutError::Checksum(what));
            }
        }
        Ok(len)
    }

    /// The checked body of the packet whose startcode was just read, without its checksum.
    pub(super) fn packet(&mut self, what: &'static str) -> Result<Vec<u8>, NutError> {
        let len = usize::try_from(self.packet_len(what)?).unwrap_or(usize::MAX);
        if !(4..=MAX_HEADER_BYTES).contains(&len) {
            return Err(NutError::Invalid("a packet's length"));
        }
        let mut body = vec![0; len];
        self.exact(&mut body, what)?;
        // The checksum is the remainder: over body and checksum together it is 0.
        if crc32(0, &body) != 0 {
            return Err(NutError::Checksum(what));
        }
        body.truncate(len - 4);
        Ok(body)
    }

    /// Passes over a packet nobody needs here (info, index), unchecked.
    pub(super) fn skip_packet(&mut self) -> Result<(), NutError> {
        let len = self.packet_len("a packet")?;
        self.skip(len, "a packet")
    }
}

/// CRC-32 with polynomial 0x04C11DB7, starting value 0, most significant bit first, not inverted
/// ("checksum").
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0_u32; 256];
        let mut i = 0;
        while i < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "below 256")]
            let mut c = (i as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 0x8000_0000 == 0 {
                    c << 1
                } else {
                    c << 1 ^ 0x04C1_1DB7
                };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    bytes.iter().fold(crc, |crc, &b| {
        crc << 8 ^ TABLE[usize::from((crc >> 24) as u8 ^ b)]
    })
}
