//! Cuts an H.264 or H.265 byte stream (annex B of each) into access units.
//!
//! A byte stream has no lengths: a NAL unit ends where the next start code begins, and a picture
//! where a NAL unit comes that can only begin another one (H.264 7.4.1.2.3 and 7.4.1.2.4; H.265
//! 7.4.2.4.4). So a picture is known to be whole when the next one begins, one interval later; its
//! age says so ([`AccessUnit::first_byte`] counts bytes of the stream).
//!
//! Parameter sets are taken out and handed on as [`CodecParams`], as an MP4 sample has it. A stream
//! with several picture parameter sets keeps all but the first in its packets. Streams with
//! reordering can't be told apart from others here, there being no time stamps: they must not have
//! B pictures.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::decode::{Bits, Sps, rbsp};
use crate::encode::{Codec, CodecParams};

/// Largest access unit taken; one that is larger is thrown away.
pub(crate) const MAX_UNIT_BYTES: usize = 32 << 20;
/// Bytes of a slice header that are looked at.
const SLICE_HEAD_BYTES: usize = 32;

/// One picture's NAL units, as in [`crate::encode::Packet::data`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AccessUnit {
    pub(crate) params: Arc<CodecParams>,
    pub(crate) data: Bytes,
    pub(crate) is_key: bool,
    /// Place in the stream of its first byte.
    pub(crate) first_byte: u64,
}

/// What comes out of the stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cut {
    Unit(AccessUnit),
    /// A picture that is too large, or before any parameter sets.
    Lost,
}

/// See the module's text.
pub(crate) struct AnnexB {
    codec: Codec,
    /// The stream from `base` on: the NAL unit not yet ended.
    buf: Vec<u8>,
    base: u64,
    /// Bytes of `buf` in which no start code begins.
    scanned: usize,
    /// `buf` begins with a NAL unit, behind its start code.
    in_nal: bool,
    /// The rest of a NAL unit that is too large is passed over.
    skipping: bool,
    unit: Building,
    sets: Sets,
    out: VecDeque<Cut>,
}

#[derive(Default)]
struct Building {
    data: Vec<u8>,
    first_byte: Option<u64>,
    has_picture: bool,
    is_key: bool,
    too_large: bool,
    slice: Option<Slice>,
}

/// What tells slices of different pictures apart, of those fields that come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    is_idr: bool,
    is_reference: bool,
    pps: u32,
    frame_num: u32,
}

#[derive(Default)]
struct Sets {
    vps: Bytes,
    sps: Bytes,
    pps: Bytes,
    pps_id: Option<u32>,
    parsed: Option<Sps>,
    params: Option<Arc<CodecParams>>,
}

impl AnnexB {
    /// At the beginning of a stream. `codec` is H.264 or H.265.
    pub(crate) fn new(codec: Codec) -> Self {
        Self {
            codec,
            buf: Vec::new(),
            base: 0,
            scanned: 0,
            in_nal: false,
            skipping: false,
            unit: Building::default(),
            sets: Sets::default(),
            out: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        while let Some((at, len)) = start_code(&self.buf, self.scanned) {
            self.end_nal(at);
            self.drop_front(at + len);
            self.in_nal = true;
            self.skipping = false;
        }
        // A start code may begin in the last two bytes.
        self.scanned = self.buf.len().saturating_sub(2);
        if !self.in_nal || self.skipping {
            self.drop_front(self.scanned);
        } else if self.buf.len() > MAX_UNIT_BYTES {
            self.unit.too_large = true;
            self.skipping = true;
        }
    }

    /// The next picture.
    pub(crate) fn pop(&mut self) -> Option<Cut> {
        self.out.pop_front()
    }

    /// The stream has ended: what is in here is whole.
    pub(crate) fn finish(&mut self) {
        self.end_nal(self.buf.len());
        self.drop_front(self.buf.len());
        self.in_nal = false;
        self.skipping = false;
        self.end_unit();
    }

    fn drop_front(&mut self, count: usize) {
        self.buf.drain(..count);
        self.base += count as u64;
        self.scanned = self.scanned.saturating_sub(count);
    }

    /// The NAL unit at the beginning of the buffer ends before `end`.
    fn end_nal(&mut self, end: usize) {
        if !self.in_nal || self.skipping {
            return;
        }
        // Taken out, so that it can be looked at while the rest changes.
        let buf = std::mem::take(&mut self.buf);
        let nal = buf.get(..end).unwrap_or_default();
        let trailing = nal.iter().rev().take_while(|b| **b == 0).count();
        self.nal(&nal[..nal.len() - trailing]);
        self.buf = buf;
    }

    fn nal(&mut self, nal: &[u8]) {
        let kind = match (self.codec, nal) {
            (Codec::H265, [first, second, ..]) => {
                // Layers of multi-layer streams have their own decoders.
                if first & 1 != 0 || second >> 3 != 0 {
                    return;
                }
                kind_h265(first >> 1 & 0x3F)
            }
            (Codec::H265, _) | (_, []) => return,
            (_, [first, ..]) => kind_h264(first & 0x1F),
        };
        match kind {
            Kind::Slice { is_key } => self.slice(nal, is_key),
            Kind::Vps | Kind::Sps | Kind::Pps => {
                self.begin_if_picture();
                if !self.sets.take(self.codec, &kind, nal) {
                    self.append(nal);
                }
            }
            Kind::Begins { keep } => {
                self.begin_if_picture();
                if keep {
                    self.append(nal);
                }
            }
            Kind::Belongs { keep } => {
                if keep {
                    self.append(nal);
                }
            }
        }
    }

    fn slice(&mut self, nal: &[u8], is_key: bool) {
        let (first, slice) = match self.codec {
            Codec::H265 => (nal.get(2).is_some_and(|b| b & 0x80 != 0), None),
            _ => slice_h264(nal, self.sets.parsed.as_ref()),
        };
        let other = slice.is_some() && self.unit.slice.is_some() && slice != self.unit.slice;
        if self.unit.has_picture && (first || other) {
            self.end_unit();
        }
        self.unit.has_picture = true;
        self.unit.is_key |= is_key;
        self.unit.slice = slice.or(self.unit.slice);
        self.append(nal);
    }

    fn begin_if_picture(&mut self) {
        if self.unit.has_picture {
            self.end_unit();
        }
        self.unit.first_byte.get_or_insert(self.base);
    }

    fn append(&mut self, nal: &[u8]) {
        self.unit.first_byte.get_or_insert(self.base);
        let Ok(len) = u32::try_from(nal.len()) else {
            self.unit.too_large = true;
            return;
        };
        if self.unit.data.len() + nal.len() + 4 > MAX_UNIT_BYTES {
            self.unit.too_large = true;
            return;
        }
        self.unit.data.extend_from_slice(&len.to_be_bytes());
        self.unit.data.extend_from_slice(nal);
    }

    fn end_unit(&mut self) {
        let unit = std::mem::take(&mut self.unit);
        if !unit.has_picture {
            return;
        }
        match self.sets.params(self.codec) {
            Some(params) if !unit.too_large => self.out.push_back(Cut::Unit(AccessUnit {
                params,
                data: Bytes::from(unit.data),
                is_key: unit.is_key,
                first_byte: unit.first_byte.unwrap_or(self.base),
            })),
            _ => self.out.push_back(Cut::Lost),
        }
    }
}

impl Sets {
    /// Whether the set is one that [`CodecParams`] holds; otherwise it stays in the packet.
    fn take(&mut self, codec: Codec, kind: &Kind, nal: &[u8]) -> bool {
        match kind {
            Kind::Vps => {
                replace(&mut self.vps, nal, &mut self.params);
                true
            }
            Kind::Sps => {
                let parsed = match codec {
                    Codec::H265 => Sps::h265(nal),
                    _ => Sps::h264(nal),
                };
                // One that can't be read would make the next pictures undecodable, too.
                if parsed.is_some() {
                    replace(&mut self.sps, nal, &mut self.params);
                    self.parsed = parsed;
                }
                true
            }
            _ => {
                let header = if codec == Codec::H265 { 2 } else { 1 };
                let id = rbsp(nal, SLICE_HEAD_BYTES).and_then(|r| Bits::new(r.get(header..)?).ue());
                if self.pps_id.is_some_and(|first| id != Some(first)) {
                    return false;
                }
                self.pps_id = id;
                replace(&mut self.pps, nal, &mut self.params);
                true
            }
        }
    }

    fn params(&mut self, codec: Codec) -> Option<Arc<CodecParams>> {
        let sps = self.parsed?;
        if self.pps.is_empty() || (codec == Codec::H265 && self.vps.is_empty()) {
            return None;
        }
        let made = self.params.get_or_insert_with(|| {
            Arc::new(CodecParams {
                codec,
                width: sps.width,
                height: sps.height,
                color: sps.color,
                vps: self.vps.clone(),
                sps: self.sps.clone(),
                pps: self.pps.clone(),
            })
        });
        Some(Arc::clone(made))
    }
}

/// A set that comes again unchanged is no change.
fn replace(set: &mut Bytes, nal: &[u8], params: &mut Option<Arc<CodecParams>>) {
    if set != nal {
        *set = Bytes::copy_from_slice(nal);
        *params = None;
    }
}

enum Kind {
    Slice {
        is_key: bool,
    },
    Vps,
    Sps,
    Pps,
    /// Comes before a picture's first slice.
    Begins {
        keep: bool,
    },
    /// Anything else.
    Belongs {
        keep: bool,
    },
}

/// H.264 table 7-1 and 7.4.1.2.3.
fn kind_h264(kind: u8) -> Kind {
    match kind {
        5 => Kind::Slice { is_key: true },
        1 | 2 => Kind::Slice { is_key: false },
        7 => Kind::Sps,
        8 => Kind::Pps,
        9 => Kind::Begins { keep: false }, // delimiter
        6 | 14..=18 => Kind::Begins { keep: true },
        10..=12 => Kind::Belongs { keep: false }, // ends, filler
        _ => Kind::Belongs { keep: true },
    }
}

/// H.265 table 7-1 and 7.4.2.4.4.
fn kind_h265(kind: u8) -> Kind {
    match kind {
        16..=23 => Kind::Slice { is_key: true },
        0..=31 => Kind::Slice { is_key: false },
        32 => Kind::Vps,
        33 => Kind::Sps,
        34 => Kind::Pps,
        35 => Kind::Begins { keep: false }, // delimiter
        39 | 41..=44 | 48..=55 => Kind::Begins { keep: true },
        36..=38 => Kind::Belongs { keep: false }, // ends, filler
        _ => Kind::Belongs { keep: true },
    }
}

/// Whether the slice is a picture's first (without arbitrary slice order, where nothing is), and
/// what tells its picture from others (H.264 7.3.3).
fn slice_h264(nal: &[u8], sps: Option<&Sps>) -> (bool, Option<Slice>) {
    let head = rbsp(nal, SLICE_HEAD_BYTES).unwrap_or_default();
    let mut b = Bits::new(head.get(1..).unwrap_or_default());
    let first = b.ue() == Some(0);
    let rest = (|| {
        b.ue()?; // slice_type
        let pps = b.ue()?;
        let sps = sps?;
        if sps.separate_planes {
            b.bits(2)?;
        }
        Some(Slice {
            is_idr: nal.first()? & 0x1F == 5,
            is_reference: nal.first()? & 0x60 != 0,
            pps,
            frame_num: b.bits(sps.frame_num_bits)?,
        })
    })();
    (first, rest)
}

/// The first start code at or behind `from`: its place, with the zero byte before it if there is
/// one, and its length.
fn start_code(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        // The 1 of 00 00 01.
        let one = at + bytes.get(at..)?.iter().position(|b| *b == 1)?;
        if one >= 2 && bytes.get(one - 2..one) == Some(&[0, 0]) {
            return Some((one - 2, 3));
        }
        at = one + 1;
    }
}

#[cfg(test)]
mod tests;
