//! The boxes of a one-track video file, each with its section in ISO/IEC 14496-12:2022.

use super::{Chunk, Mp4Error, Sample, TIMESCALE, sps, too_large};
use crate::encode::{Codec, CodecParams};
use visualpath_core::{ColorMatrix, ColorRange};

const TRACK: u32 = 1;
/// Unity matrix of `mvhd` and `tkhd` (8.2.2, 8.3.2).
const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
/// `sample_flags` (8.8.3.1): depends on no other sample.
const KEY: u32 = 0x0200_0000;
/// Depends on others, is not a sync sample.
const NOT_KEY: u32 = 0x0101_0000;

/// Type of the box with the caller's note (11.1), made up for it.
pub(super) const NOTE: [u8; 16] = *b"\x9d\x0e\x4c\x61visualpath\x01\x00";
/// First bytes of a `free` box that is a fragment's seal.
pub(super) const SEAL: &[u8; 4] = b"vpsl";

/// Where a box's size is to be filled in.
#[must_use]
struct Open(usize);

/// A growing run of boxes.
#[derive(Default)]
pub(super) struct Boxes {
    out: Vec<u8>,
}

impl Boxes {
    pub(super) fn reusing(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { out: buffer }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn len(&self) -> u64 {
        self.out.len() as u64
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn u8(&mut self, v: u8) {
        self.out.push(v);
    }
    fn u16(&mut self, v: u16) {
        self.bytes(&v.to_be_bytes());
    }
    fn u32(&mut self, v: u32) {
        self.bytes(&v.to_be_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.bytes(&v.to_be_bytes());
    }
    fn i64(&mut self, v: i64) {
        self.bytes(&v.to_be_bytes());
    }
    fn zeros(&mut self, n: usize) {
        self.out.resize(self.out.len() + n, 0);
    }
    fn count(&mut self, n: usize) -> Result<(), Mp4Error> {
        let n = u32::try_from(n).map_err(|_| too_large("a table", n))?;
        self.u32(n);
        Ok(())
    }

    /// 4.2: size and type.
    fn open(&mut self, kind: &[u8; 4]) -> Open {
        let at = Open(self.out.len());
        self.u32(0);
        self.bytes(kind);
        at
    }

    /// 4.2: a full box has a version and flags.
    fn open_full(&mut self, kind: &[u8; 4], version: u8, flags: u32) -> Open {
        let at = self.open(kind);
        self.u32(u32::from(version) << 24 | flags);
        at
    }

    fn close(&mut self, open: Open) -> Result<(), Mp4Error> {
        let len = self.out.len() - open.0;
        let size = u32::try_from(len).map_err(|_| too_large("a box", len))?;
        self.out[open.0..open.0 + 4].copy_from_slice(&size.to_be_bytes());
        Ok(())
    }

    /// 4.3. `iso6` allows `tfdt`, `iso5` `default-base-is-moof`.
    pub(super) fn ftyp(&mut self, codec: Codec) {
        self.u32(8 + 8 + 4 * 5);
        self.bytes(b"ftypiso6");
        self.u32(0);
        self.bytes(b"iso6iso5isom");
        self.bytes(match codec {
            Codec::H264 => b"avc1",
            Codec::H265 => b"hvc1",
            Codec::Mjpeg => b"mp42",
        });
        self.bytes(b"mp41");
    }

    /// 8.1.2: `size` bytes nobody reads.
    pub(super) fn free(&mut self, size: usize) {
        self.free_header(size as u64);
        self.zeros(size.saturating_sub(8));
    }

    /// The header alone, of a box of `size` bytes.
    pub(super) fn free_header(&mut self, size: u64) {
        self.u32(u32::try_from(size).unwrap_or(u32::MAX));
        self.bytes(b"free");
    }

    /// 4.2.2: a 64-bit size; the header is 16 bytes of it.
    pub(super) fn large_mdat_header(&mut self, size: u64) {
        self.u32(1);
        self.bytes(b"mdat");
        self.u64(size);
    }

    /// 11.1: a box of our own: the reserve that follows it, a checksum, the note.
    pub(super) fn note(&mut self, reserve: u64, note: &[u8]) -> Result<(), Mp4Error> {
        let open = self.open(b"uuid");
        self.bytes(&NOTE);
        let checked_at = self.out.len() + 4;
        self.u32(0);
        self.u64(reserve);
        self.bytes(note);
        let sum = crc32fast::hash(&self.out[checked_at..]);
        self.out[checked_at - 4..checked_at].copy_from_slice(&sum.to_be_bytes());
        self.close(open)
    }

    /// Behind a fragment, which this run of boxes consists of: its checksum, the note's, the note.
    pub(super) fn seal(&mut self, note: &[u8]) -> Result<(), Mp4Error> {
        let fragment = crc32fast::hash(&self.out);
        let open = self.open(b"free");
        self.bytes(SEAL);
        self.u32(fragment);
        self.u32(crc32fast::hash(note));
        self.bytes(note);
        self.close(open)
    }

    /// `moof` (8.8.4) with one track fragment, and the header of its `mdat` (8.1.1). Returns where
    /// in this run of boxes the media begins.
    pub(super) fn moof(
        &mut self,
        sequence: u32,
        samples: &[Sample],
        end_tick: i64,
    ) -> Result<u64, Mp4Error> {
        let moof = self.open(b"moof");
        let mfhd = self.open_full(b"mfhd", 0, 0);
        self.u32(sequence);
        self.close(mfhd)?;
        let traf = self.open(b"traf");
        // 8.8.7: data offsets count from this moof.
        let tfhd = self.open_full(b"tfhd", 0, 0x02_0000);
        self.u32(TRACK);
        self.close(tfhd)?;
        // 8.8.12: decoding time of the first sample.
        let tfdt = self.open_full(b"tfdt", 1, 0);
        self.i64(samples.first().map_or(0, |s| s.tick));
        self.close(tfdt)?;
        // 8.8.8: data offset; per sample duration, size, flags and, version 1, a signed offset.
        let shifted = samples.iter().any(|s| s.shift != 0);
        let flags = 0x701 | if shifted { 0x800 } else { 0 };
        let trun = self.open_full(b"trun", 1, flags);
        self.count(samples.len())?;
        let offset_at = self.out.len();
        self.u32(0);
        for (i, s) in samples.iter().enumerate() {
            self.u32(duration(samples, i, end_tick)?);
            self.u32(s.size);
            self.u32(if s.is_key { KEY } else { NOT_KEY });
            if shifted {
                self.bytes(&s.shift.to_be_bytes());
            }
        }
        self.close(trun)?;
        self.close(traf)?;
        self.close(moof)?;
        let data_at = self.out.len() + 8;
        let offset = u32::try_from(data_at).map_err(|_| too_large("a fragment", data_at))?;
        self.out[offset_at..offset_at + 4].copy_from_slice(&offset.to_be_bytes());
        self.u32(0);
        self.bytes(b"mdat");
        Ok(data_at as u64)
    }

    /// Fills in the size of the `mdat` whose media begins at `data_at`.
    pub(super) fn end_mdat(&mut self, data_at: u64) -> Result<(), Mp4Error> {
        let at = usize::try_from(data_at).map_err(|_| too_large("a fragment", data_at))?;
        self.close(Open(at - 8))
    }

    /// The `moov` of a fragmented file: no samples, `mvex` (8.8.1), an edit of unknown length.
    pub(super) fn init_moov(
        &mut self,
        params: &CodecParams,
        edit_tick: i64,
    ) -> Result<(), Mp4Error> {
        let moov = self.open(b"moov");
        self.mvhd(0)?;
        self.trak(params, &[], &[], (edit_tick, 0), 0)?;
        let mvex = self.open(b"mvex");
        // 8.8.3: every sample says everything itself.
        let trex = self.open_full(b"trex", 0, 0);
        self.u32(TRACK);
        self.u32(1);
        self.zeros(12);
        self.close(trex)?;
        self.close(mvex)?;
        self.close(moov)
    }

    /// The `moov` (8.2.1) of a plain file.
    pub(super) fn plain_moov(
        &mut self,
        params: &CodecParams,
        samples: &[Sample],
        chunks: &[Chunk],
        (edit_tick, edit_end_tick): (i64, i64),
        end_tick: i64,
    ) -> Result<(), Mp4Error> {
        let edit = (edit_tick, edit_end_tick.saturating_sub(edit_tick).max(1));
        let moov = self.open(b"moov");
        self.mvhd(edit.1)?;
        self.trak(params, samples, chunks, edit, end_tick)?;
        self.close(moov)
    }

    /// 8.2.2.
    fn mvhd(&mut self, duration: i64) -> Result<(), Mp4Error> {
        let mvhd = self.open_full(b"mvhd", 1, 0);
        self.zeros(16);
        self.u32(TIMESCALE);
        self.i64(duration);
        self.u32(0x1_0000);
        self.u16(0x100);
        self.zeros(10);
        MATRIX.iter().for_each(|v| self.u32(*v));
        self.zeros(24);
        self.u32(TRACK + 1);
        self.close(mvhd)
    }

    fn trak(
        &mut self,
        params: &CodecParams,
        samples: &[Sample],
        chunks: &[Chunk],
        (edit_tick, edit_ticks): (i64, i64),
        end_tick: i64,
    ) -> Result<(), Mp4Error> {
        let trak = self.open(b"trak");
        // 8.3.2: enabled, in the movie, in the preview.
        let tkhd = self.open_full(b"tkhd", 1, 7);
        self.zeros(16);
        self.u32(TRACK);
        self.zeros(4);
        self.i64(edit_ticks);
        self.zeros(16);
        MATRIX.iter().for_each(|v| self.u32(*v));
        let (w, h) = (side(params.width)?, side(params.height)?);
        self.u32(u32::from(w) << 16);
        self.u32(u32::from(h) << 16);
        self.close(tkhd)?;
        // 8.6.6: show from `edit_tick` on, at normal speed. Length 0 in a fragmented file means all.
        let edts = self.open(b"edts");
        let elst = self.open_full(b"elst", 1, 0);
        self.u32(1);
        self.i64(edit_ticks);
        self.i64(edit_tick);
        self.u32(0x1_0000);
        self.close(elst)?;
        self.close(edts)?;

        let mdia = self.open(b"mdia");
        // 8.4.2; language `und`.
        let mdhd = self.open_full(b"mdhd", 1, 0);
        self.zeros(16);
        self.u32(TIMESCALE);
        self.i64(end_tick);
        self.u16(0x55C4);
        self.u16(0);
        self.close(mdhd)?;
        let hdlr = self.open_full(b"hdlr", 0, 0);
        self.zeros(4);
        self.bytes(b"vide");
        self.zeros(12);
        self.bytes(b"visualpath\0");
        self.close(hdlr)?;
        let minf = self.open(b"minf");
        let vmhd = self.open_full(b"vmhd", 0, 1);
        self.zeros(8);
        self.close(vmhd)?;
        // 8.7.1, 8.7.2: the media is in this file.
        let dinf = self.open(b"dinf");
        let dref = self.open_full(b"dref", 0, 0);
        self.u32(1);
        let url = self.open_full(b"url ", 0, 1);
        self.close(url)?;
        self.close(dref)?;
        self.close(dinf)?;
        self.stbl(params, samples, chunks, end_tick)?;
        self.close(minf)?;
        self.close(mdia)?;
        self.close(trak)
    }

    /// 8.5: the sample tables.
    fn stbl(
        &mut self,
        params: &CodecParams,
        samples: &[Sample],
        chunks: &[Chunk],
        end_tick: i64,
    ) -> Result<(), Mp4Error> {
        let stbl = self.open(b"stbl");
        self.stsd(params)?;
        // 8.6.1.2: runs of equal durations.
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for i in 0..samples.len() {
            let d = duration(samples, i, end_tick)?;
            match runs.last_mut() {
                Some((n, last)) if *last == d => *n += 1,
                _ => runs.push((1, d)),
            }
        }
        self.pairs(b"stts", 0, &runs)?;
        // 8.6.1.3: signed offsets, only where pictures are reordered.
        if samples.iter().any(|s| s.shift != 0) {
            let ctts = self.open_full(b"ctts", 1, 0);
            self.count(samples.len())?;
            for s in samples {
                self.u32(1);
                self.bytes(&s.shift.to_be_bytes());
            }
            self.close(ctts)?;
        }
        // 8.6.2; without it every sample is one.
        let keys = samples.iter().enumerate().filter(|(_, s)| s.is_key);
        let keys: Vec<u32> = keys
            .filter_map(|(i, _)| u32::try_from(i + 1).ok())
            .collect();
        if keys.len() < samples.len() {
            let stss = self.open_full(b"stss", 0, 0);
            self.count(keys.len())?;
            keys.iter().for_each(|n| self.u32(*n));
            self.close(stss)?;
        }
        // 8.7.4: the first chunk of each run with as many samples.
        let mut firsts: Vec<(u32, u32)> = Vec::new();
        for (i, c) in chunks.iter().enumerate() {
            let n = u32::try_from(c.samples).map_err(|_| too_large("a chunk", c.samples))?;
            let first = u32::try_from(i + 1).map_err(|_| too_large("the chunk table", i))?;
            if firsts.last().is_none_or(|(_, last)| *last != n) {
                firsts.push((first, n));
            }
        }
        let stsc = self.open_full(b"stsc", 0, 0);
        self.count(firsts.len())?;
        for (first, n) in firsts {
            self.u32(first);
            self.u32(n);
            self.u32(1);
        }
        self.close(stsc)?;
        // 8.7.3.
        let stsz = self.open_full(b"stsz", 0, 0);
        self.u32(0);
        self.count(samples.len())?;
        samples.iter().for_each(|s| self.u32(s.size));
        self.close(stsz)?;
        // 8.7.5: 64-bit offsets only where they are needed.
        let small: Option<Vec<u32>> = chunks
            .iter()
            .map(|c| u32::try_from(c.offset).ok())
            .collect();
        let stco = self.open_full(if small.is_some() { b"stco" } else { b"co64" }, 0, 0);
        self.count(chunks.len())?;
        match small {
            Some(offsets) => offsets.iter().for_each(|o| self.u32(*o)),
            None => chunks.iter().for_each(|c| self.u64(c.offset)),
        }
        self.close(stco)?;
        self.close(stbl)
    }

    fn pairs(
        &mut self,
        kind: &[u8; 4],
        version: u8,
        entries: &[(u32, u32)],
    ) -> Result<(), Mp4Error> {
        let table = self.open_full(kind, version, 0);
        self.count(entries.len())?;
        for (a, b) in entries {
            self.u32(*a);
            self.u32(*b);
        }
        self.close(table)
    }

    /// 8.5.2 with one entry (12.1.3). Parameter sets are in it and not in the samples.
    fn stsd(&mut self, params: &CodecParams) -> Result<(), Mp4Error> {
        let stsd = self.open_full(b"stsd", 0, 0);
        self.u32(1);
        let entry = self.open(match params.codec {
            // ISO/IEC 14496-15, 5.4.2.1.
            Codec::H264 => b"avc1",
            // The same, 8.4.1.
            Codec::H265 => b"hvc1",
            // ISO/IEC 14496-14, 5.6: what it is, is in `esds`.
            Codec::Mjpeg => b"mp4v",
        });
        self.zeros(6);
        self.u16(1);
        self.zeros(16);
        self.u16(side(params.width)?);
        self.u16(side(params.height)?);
        self.u32(0x48_0000);
        self.u32(0x48_0000);
        self.zeros(4);
        self.u16(1);
        self.zeros(32);
        self.u16(24);
        self.u16(0xFFFF);
        match params.codec {
            Codec::H264 => self.avcc(params)?,
            Codec::H265 => self.hvcc(params)?,
            Codec::Mjpeg => self.esds()?,
        }
        // 12.1.5: what the VUI says, for readers that do not parse it.
        let colr = self.open(b"colr");
        self.bytes(b"nclx");
        let code = match params.color.matrix {
            ColorMatrix::Bt601 => 6,
            ColorMatrix::Bt709 => 1,
        };
        (0..3).for_each(|_| self.u16(code));
        let full = params.color.range == ColorRange::Full;
        self.u8(if full { 0x80 } else { 0 });
        self.close(colr)?;
        self.close(entry)?;
        self.close(stsd)
    }

    /// A NAL unit behind its length.
    fn set(&mut self, set: &[u8], what: &'static str) -> Result<(), Mp4Error> {
        let len = u16::try_from(set.len()).map_err(|_| too_large(what, set.len()))?;
        self.u16(len);
        self.bytes(set);
        Ok(())
    }

    /// ISO/IEC 14496-15, 5.3.3.1.2: lengths of 4 bytes, one parameter set of each kind.
    fn avcc(&mut self, params: &CodecParams) -> Result<(), Mp4Error> {
        let avcc = self.open(b"avcC");
        let at = |i: usize| params.sps.get(i).copied().unwrap_or(0);
        let profile = at(1);
        self.bytes(&[1, profile, at(2), at(3), 0xFC | 3, 0xE0 | 1]);
        self.set(&params.sps, "an SPS")?;
        self.u8(1);
        self.set(&params.pps, "a PPS")?;
        // The high profiles also say their format; no extension of the SPS follows.
        if matches!(profile, 100 | 110 | 122 | 144) {
            let s = sps::h264_samples(&params.sps);
            self.bytes(&[
                0xFC | s.chroma_format,
                0xF8 | s.luma_depth,
                0xF8 | s.chroma_depth,
                0,
            ]);
        }
        self.close(avcc)
    }

    /// ISO/IEC 14496-15, 8.3.3.1.2: lengths of 4 bytes, one parameter set of each kind.
    fn hvcc(&mut self, params: &CodecParams) -> Result<(), Mp4Error> {
        let hvcc = self.open(b"hvcC");
        let sps = sps::h265(&params.sps);
        self.u8(1);
        self.bytes(&sps.general);
        // Spatial segmentation and parallelism unknown.
        self.u16(0xF000);
        self.u8(0xFC);
        self.bytes(&[
            0xFC | sps.samples.chroma_format,
            0xF8 | sps.samples.luma_depth,
            0xF8 | sps.samples.chroma_depth,
        ]);
        // The average frame rate is unknown, whether it is constant too.
        self.u16(0);
        self.u8(sps.temporal_layers << 3 | u8::from(sps.temporal_id_nested) << 2 | 3);
        let sets = [
            (32, &params.vps, "a VPS"),
            (33, &params.sps, "an SPS"),
            (34, &params.pps, "a PPS"),
        ];
        self.u8(3);
        for (kind, set, what) in sets {
            // Complete: none of this kind in the samples.
            self.u8(0x80 | kind);
            self.u16(1);
            self.set(set, what)?;
        }
        self.close(hvcc)
    }

    /// ISO/IEC 14496-14, 5.6, with the descriptors of ISO/IEC 14496-1, 7.2.6. Object type 0x6C is
    /// JPEG (ISO/IEC 10918-1), registered for this.
    fn esds(&mut self) -> Result<(), Mp4Error> {
        let esds = self.open_full(b"esds", 0, 0);
        // ES_Descriptor: stream 0, which MP4 asks for, no dependence.
        self.bytes(&[0x03, 3 + 15 + 3, 0, 0, 0]);
        // DecoderConfigDescriptor: a visual stream; buffer size and bit rates unknown.
        self.bytes(&[0x04, 13, 0x6C, 0x04 << 2 | 1]);
        self.zeros(11);
        // SLConfigDescriptor: the one for MP4 files.
        self.bytes(&[0x06, 1, 2]);
        self.close(esds)
    }
}

fn side(n: u32) -> Result<u16, Mp4Error> {
    u16::try_from(n).map_err(|_| too_large("a picture's side", n))
}

/// Ticks from sample `i` to the next.
fn duration(samples: &[Sample], i: usize, end_tick: i64) -> Result<u32, Mp4Error> {
    let next = samples.get(i + 1).map_or(end_tick, |s| s.tick);
    let ticks = next - samples[i].tick;
    u32::try_from(ticks).map_err(|_| too_large("a sample's duration", ticks))
}
