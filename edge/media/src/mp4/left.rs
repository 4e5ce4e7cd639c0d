//! Finishing a file that somebody stopped writing: a process that was killed, a machine that lost
//! its power.
//!
//! What was synced is there. What was written after that may be there in any part: a shorter file,
//! zeros, sectors of what the disk had there before. So nothing is believed that its checksum does
//! not confirm, and the first fragment that fails it ends the file. Tables that `finish` had put in
//! place already are ignored and made again; they lie where no fragment is.

use std::io;
use std::sync::Arc;

use super::boxes::{NOTE, SEAL};
use super::{Chunk, Mp4Writer, Sample, tick};
use crate::encode::CodecParams;

/// Largest note that is read.
const MOST_NOTE: u64 = 1 << 20;
/// Largest fragment that is read: two seconds at some 250 Mbit/s.
const MOST_FRAGMENT: u64 = 64 << 20;
/// `mfhd` behind `moof`'s header, then `traf` with `tfhd` and `tfdt`: what [`Boxes::moof`] writes.
///
/// [`Boxes::moof`]: super::boxes::Boxes::moof
const TFDT_AT: usize = 8 + 16 + 8 + 16;
const TRUN_AT: usize = TFDT_AT + 20;

/// A file that can be read at any place.
pub trait ReadAt {
    /// As many bytes as there are, at most `len`, from `offset` on.
    ///
    /// # Errors
    /// The file's.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
}

/// The head of a file that was left behind.
#[derive(Debug)]
pub struct Left {
    /// What [`Mp4Writer::begin`] was given.
    pub note: Vec<u8>,
    front: u64,
    reserve: u64,
}

impl Left {
    /// Reads the head; `None` if it is not whole, or not of a file of ours.
    ///
    /// # Errors
    /// The file's.
    pub fn read(file: &dyn ReadAt) -> io::Result<Option<Self>> {
        let Some((ftyp, b"ftyp")) = header(file, 0)?.as_ref().map(|(n, k)| (*n, k)) else {
            return Ok(None);
        };
        let Some((size, b"uuid")) = header(file, ftyp)?.as_ref().map(|(n, k)| (*n, k)) else {
            return Ok(None);
        };
        if size > MOST_NOTE {
            return Ok(None);
        }
        let bytes = file.read_at(ftyp, usize::try_from(size).unwrap_or(0))?;
        let head = bytes.get(8..24) == Some(&NOTE[..]) && bytes.len() as u64 == size;
        let (Some(sum), Some(checked), true) = (u32_at(&bytes, 24), bytes.get(28..), head) else {
            return Ok(None);
        };
        let Some((reserve, note)) = checked.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let whole = crc32fast::hash(checked) == sum;
        Ok(whole.then(|| Self {
            note: note.to_vec(),
            front: ftyp + size,
            reserve: u64::from_be_bytes(*reserve),
        }))
    }

    /// Reads the fragments that are whole. Gives a writer that goes on behind the last of them (its
    /// [`Mp4Writer::written`] is how long the file should be) and the notes of their seals; `None` if
    /// there is not one. `params`, `first_dts_ns` and `edit_start_ns` are what the writer was made
    /// with.
    ///
    /// # Errors
    /// The file's.
    pub fn finish(
        &self,
        file: &dyn ReadAt,
        params: Arc<CodecParams>,
        first_dts_ns: i64,
        edit_start_ns: i64,
    ) -> io::Result<Option<(Mp4Writer, Vec<Vec<u8>>)>> {
        let moov_at = self.front.saturating_add(self.reserve).saturating_add(16);
        let Some((moov, b"moov")) = header(file, moov_at)?.as_ref().map(|(n, k)| (*n, k)) else {
            return Ok(None);
        };
        let mut writer = Mp4Writer {
            params,
            t0_ns: first_dts_ns,
            edit_tick: tick(edit_start_ns, first_dts_ns).max(0),
            reserve: self.reserve,
            front: self.front,
            written: moov_at + moov,
            sequence: 0,
            samples: Vec::new(),
            chunks: Vec::new(),
            end_tick: 0,
            buffer: Vec::new(),
        };
        let mut notes = Vec::new();
        while let Some(fragment) = Fragment::read(file, writer.written)? {
            writer.sequence += 1;
            writer.end_tick = fragment.end_tick;
            writer.chunks.push(Chunk {
                moof_at: writer.written,
                offset: fragment.data_at,
                samples: fragment.samples.len(),
            });
            writer.samples.extend(fragment.samples);
            writer.written = fragment.end;
            notes.push(fragment.note);
        }
        Ok((!writer.samples.is_empty()).then_some((writer, notes)))
    }
}

/// One that its seal confirms.
struct Fragment {
    samples: Vec<Sample>,
    end_tick: i64,
    data_at: u64,
    end: u64,
    note: Vec<u8>,
}

impl Fragment {
    fn read(file: &dyn ReadAt, at: u64) -> io::Result<Option<Self>> {
        let Some((moof, b"moof")) = header(file, at)?.as_ref().map(|(n, k)| (*n, k)) else {
            return Ok(None);
        };
        let Some((mdat, b"mdat")) = header(file, at + moof)?.as_ref().map(|(n, k)| (*n, k)) else {
            return Ok(None);
        };
        let seal_at = at + moof + mdat;
        let Some((seal, b"free")) = header(file, seal_at)?.as_ref().map(|(n, k)| (*n, k)) else {
            return Ok(None);
        };
        if moof + mdat > MOST_FRAGMENT || seal > MOST_NOTE {
            return Ok(None);
        }
        let bytes = file.read_at(at, usize::try_from(moof + mdat).unwrap_or(0))?;
        let sealing = file.read_at(seal_at, usize::try_from(seal).unwrap_or(0))?;
        let (Some(sum), Some(note_sum), Some(note)) = (
            u32_at(&sealing, 12),
            u32_at(&sealing, 16),
            sealing.get(20..),
        ) else {
            return Ok(None);
        };
        let confirmed = sealing.get(8..12) == Some(&SEAL[..])
            && crc32fast::hash(&bytes) == sum
            && crc32fast::hash(note) == note_sum;
        if !confirmed {
            return Ok(None);
        }
        let Some((samples, end_tick)) = samples(&bytes) else {
            return Ok(None);
        };
        Ok(Some(Self {
            samples,
            end_tick,
            data_at: at + moof + 8,
            end: seal_at + seal,
            note: note.to_vec(),
        }))
    }
}

/// The samples of a `moof` of ours, and the tick behind the last.
fn samples(moof: &[u8]) -> Option<(Vec<Sample>, i64)> {
    let kind = |at: usize, kind: &[u8; 4]| moof.get(at + 4..at + 8) == Some(&kind[..]);
    if !(kind(TFDT_AT, b"tfdt") && kind(TRUN_AT, b"trun")) {
        return None;
    }
    let first = moof.get(TFDT_AT + 12..TFDT_AT + 20)?;
    let mut at_tick = i64::from_be_bytes(first.try_into().ok()?);
    let shifted = u32_at(moof, TRUN_AT + 8)? & 0x800 != 0;
    let count = u32_at(moof, TRUN_AT + 12)?;
    let mut at = TRUN_AT + 20;
    let mut samples = Vec::new();
    for _ in 0..count {
        let (duration, size) = (u32_at(moof, at)?, u32_at(moof, at + 4)?);
        // 8.8.3.1: `sample_is_non_sync_sample`.
        let is_key = u32_at(moof, at + 8)? & 0x1_0000 == 0;
        let shift = match shifted {
            true => u32_at(moof, at + 12)?.cast_signed(),
            false => 0,
        };
        at += if shifted { 16 } else { 12 };
        samples.push(Sample {
            tick: at_tick,
            shift,
            size,
            is_key,
        });
        at_tick = at_tick.checked_add(i64::from(duration))?;
    }
    (!samples.is_empty()).then_some((samples, at_tick))
}

/// Size and type of the box at `at`.
fn header(file: &dyn ReadAt, at: u64) -> io::Result<Option<(u64, [u8; 4])>> {
    let bytes = file.read_at(at, 8)?;
    let kind = bytes.get(4..8).and_then(|k| k.try_into().ok());
    Ok(u32_at(&bytes, 0)
        .map(u64::from)
        .filter(|size| *size >= 8)
        .zip(kind))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}
