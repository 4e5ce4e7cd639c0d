//! The main header and the stream header, and the fields they are made of.

use super::{NutError, NutStream};

/// Flags of a frame code ("Frame coding").
pub(super) mod flag {
    pub const KEY: u64 = 1;
    pub const EOR: u64 = 2;
    pub const CODED_PTS: u64 = 8;
    pub const STREAM_ID: u64 = 16;
    pub const SIZE_MSB: u64 = 32;
    pub const CHECKSUM: u64 = 64;
    pub const RESERVED: u64 = 128;
    pub const SM_DATA: u64 = 256;
    pub const HEADER_IDX: u64 = 1024;
    pub const MATCH_TIME: u64 = 2048;
    pub const CODED: u64 = 4096;
    pub const INVALID: u64 = 8192;
}
/// `main_flags`: syncpoints carry a transmission time.
pub(super) const BROADCAST: u64 = 1;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct FrameCode {
    pub(super) flags: u64,
    pub(super) stream: u64,
    pub(super) size_mul: u64,
    pub(super) size_lsb: u64,
    pub(super) pts_delta: i64,
    pub(super) reserved: u64,
    pub(super) header_idx: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct MainHeader {
    pub(super) time_bases: Vec<(u32, u32)>,
    pub(super) codes: Vec<FrameCode>,
    pub(super) elision: Vec<Vec<u8>>,
    pub(super) flags: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct StreamHeader {
    pub(super) info: NutStream,
    pub(super) msb_pts_shift: u32,
    pub(super) codec_data: Vec<u8>,
}

impl MainHeader {
    pub(super) fn parse(body: &[u8]) -> Result<Self, NutError> {
        let mut f = Fields(body);
        let version = f.v()?;
        if !(2..=4).contains(&version) {
            return Err(NutError::Unsupported("a NUT version other than 2 to 4"));
        }
        if version > 3 {
            f.v()?; // minor_version
        }
        if f.v()? != 1 {
            return Err(NutError::Unsupported("more or fewer streams than one"));
        }
        f.v()?; // max_distance: for resynchronising, which a pipe never needs
        let count = f.v()?;
        if !(1..=256).contains(&count) {
            return Err(NutError::Invalid("the number of time bases"));
        }
        let mut time_bases = Vec::new();
        for _ in 0..count {
            let (num, den) = (f.v()?, f.v()?);
            match (u32::try_from(num), u32::try_from(den)) {
                (Ok(num), Ok(den)) if num > 0 && den > 0 => time_bases.push((num, den)),
                _ => return Err(NutError::Invalid("a time base")),
            }
        }
        let codes = Self::frame_codes(&mut f)?;
        // Index 0 is the empty elision header.
        let mut elision = vec![Vec::new()];
        let count = f.v()?;
        if count >= 128 {
            return Err(NutError::Invalid("the number of elision headers"));
        }
        let mut total = 0;
        for _ in 0..count {
            let header = f.bytes()?;
            total += header.len();
            if header.is_empty() || header.len() >= 256 || total > 1024 {
                return Err(NutError::Invalid("an elision header's length"));
            }
            elision.push(header.to_vec());
        }
        let flags = if version > 3 && !f.0.is_empty() {
            f.v()?
        } else {
            0
        };
        Ok(Self {
            time_bases,
            codes,
            elision,
            flags,
        })
    }

    /// The table of 256 frame codes, run-length coded ("Main header").
    fn frame_codes(f: &mut Fields<'_>) -> Result<Vec<FrameCode>, NutError> {
        let mut codes = Vec::with_capacity(256);
        let mut row = FrameCode {
            size_mul: 1,
            ..FrameCode::default()
        };
        while codes.len() < 256 {
            row.flags = f.v()?;
            let fields = f.v()?;
            if fields > 0 {
                row.pts_delta = f.s()?;
            }
            if fields > 1 {
                row.size_mul = f.v()?;
            }
            if fields > 2 {
                row.stream = f.v()?;
            }
            row.size_lsb = if fields > 3 { f.v()? } else { 0 };
            row.reserved = if fields > 4 { f.v()? } else { 0 };
            let count = if fields > 5 {
                f.v()?
            } else {
                row.size_mul.saturating_sub(row.size_lsb)
            };
            if fields > 6 {
                f.s()?; // match_time_delta
            }
            if fields > 7 {
                row.header_idx = f.v()?;
            }
            for _ in 8..fields {
                f.v()?;
            }
            let room = 256 - codes.len() - usize::from(codes.len() <= usize::from(b'N'));
            if count == 0 || count > room as u64 {
                return Err(NutError::Invalid("the frame code table"));
            }
            let first_lsb = row.size_lsb;
            for j in 0..count {
                if codes.len() == usize::from(b'N') {
                    codes.push(FrameCode {
                        flags: flag::INVALID,
                        ..FrameCode::default()
                    });
                }
                row.size_lsb = first_lsb
                    .checked_add(j)
                    .ok_or(NutError::Invalid("the frame code table"))?;
                codes.push(row);
            }
            // A run that ends right before 'N' leaves that row to be put in now.
            if codes.len() == usize::from(b'N') {
                codes.push(FrameCode {
                    flags: flag::INVALID,
                    ..FrameCode::default()
                });
            }
        }
        Ok(codes)
    }
}

impl StreamHeader {
    pub(super) fn parse(body: &[u8], main: &MainHeader) -> Result<Self, NutError> {
        let mut f = Fields(body);
        if f.v()? != 0 {
            return Err(NutError::Unsupported("a second stream"));
        }
        if f.v()? != 0 {
            return Err(NutError::Unsupported("a stream that is not video"));
        }
        let fourcc = <[u8; 4]>::try_from(f.bytes()?)
            .map_err(|_| NutError::Unsupported("a codec tag that is not 4 bytes"))?;
        let base = usize::try_from(f.v()?).unwrap_or(usize::MAX);
        let (tick_num, tick_den) = *main
            .time_bases
            .get(base)
            .ok_or(NutError::Invalid("a time base that is not there"))?;
        let msb_pts_shift = f.v()?;
        if msb_pts_shift >= 16 {
            return Err(NutError::Invalid("msb_pts_shift"));
        }
        f.v()?; // max_pts_distance
        f.v()?; // decode_delay
        f.v()?; // stream_flags
        let codec_data = f.bytes()?.to_vec();
        let side = |v: u64| {
            u32::try_from(v)
                .ok()
                .filter(|v| (1..=1 << 16).contains(v))
                .ok_or(NutError::Invalid("the picture's size"))
        };
        let (width, height) = (side(f.v()?)?, side(f.v()?)?);
        Ok(Self {
            info: NutStream {
                fourcc,
                width,
                height,
                tick_num,
                tick_den,
            },
            msb_pts_shift: u32::try_from(msb_pts_shift).unwrap_or(0),
            codec_data,
        })
    }

    /// `coded_pts` to a time stamp: small values are the low bits of one near the last, large ones
    /// the time stamp itself plus an offset ("coded_pts").
    pub(super) fn full_pts(&self, last: i64, coded: u64) -> Option<i64> {
        let window = 1_i64 << self.msb_pts_shift;
        let coded = i64::try_from(coded).ok()?;
        if coded >= window {
            return coded.checked_sub(window);
        }
        let mask = window - 1;
        let delta = last.checked_sub(mask / 2)?;
        (coded.wrapping_sub(delta) & mask).checked_add(delta)
    }
}

/// Fields of a packet already in memory.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn v(&mut self) -> Result<u64, NutError> {
        let mut value = 0_u64;
        loop {
            let (&byte, rest) = self
                .0
                .split_first()
                .ok_or(NutError::Truncated("a packet's fields"))?;
            self.0 = rest;
            value = push_7_bits(value, byte)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    pub(super) fn s(&mut self) -> Result<i64, NutError> {
        let v = self
            .v()?
            .checked_add(1)
            .ok_or(NutError::Invalid("a number too large"))?;
        let half = i64::try_from(v >> 1).map_err(|_| NutError::Invalid("a number too large"))?;
        Ok(if v & 1 == 1 { -half } else { half })
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], NutError> {
        let len = usize::try_from(self.v()?).unwrap_or(usize::MAX);
        if len > self.0.len() {
            return Err(NutError::Truncated("a packet's fields"));
        }
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(head)
    }
}

pub(super) fn push_7_bits(value: u64, byte: u8) -> Result<u64, NutError> {
    if value >> 57 != 0 {
        return Err(NutError::Invalid("a number too large"));
    }
    Ok(value << 7 | u64::from(byte & 0x7F))
}
