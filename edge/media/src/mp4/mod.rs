//! MP4: written as fragments, finished as a plain file, without moving a byte of media.
//!
//! Section numbers are those of ISO/IEC 14496-12:2022 (ISO base media file format) and, for H.264,
//! ISO/IEC 14496-15.
//!
//! While a clip is being written, the file is a fragmented MP4 (8.8): every fragment is complete in
//! itself, so what reached the disk plays, whatever happens next.
//!
//! ```text
//! ftyp | uuid (note) | free (reserve) | free (16) | moov + mvex | moof mdat free (seal) | moof mdat free (seal) | …
//! ```
//!
//! The note is the caller's: what the file is about, so that a file that was left behind can be
//! finished from nothing but itself ([`Left`]). A seal has a checksum of its fragment: after a power
//! cut a file may be as long as it should be and yet have zeros, or old bytes, in it.
//!
//! A reader of fragments has no reason to hide the lead-in (the pictures between the key picture
//! and the asked start): ffmpeg ignores the edit list of a fragmented file but for its offset, and
//! shows the lead-in at negative times. So the finished file is a plain one, whose `moov` lists
//! every sample and whose edit list (8.6.6) everybody honours. `finish` says which bytes to patch:
//!
//! ```text
//! ftyp | moov | free        | mdat ( … all of the above, fragments inside …                     )
//! ftyp | free               | mdat ( …                                                         ) | moov
//! ```
//!
//! The first form if the `moov` fits into the reserve, else the second. The old `moov`, `moof` and
//! `mdat` headers become unreferenced bytes inside the new `mdat` (8.1.1: a media data box may hold
//! bytes no sample refers to).
//!
//! **Time.** Time scale 1 000 000, for the movie and the track: VLC, ffmpeg and Chromium count in
//! microseconds inside. A sample's tick is its absolute time, rounded, minus nothing else; its
//! duration is the difference of two ticks, so rounding errors are at most half a tick and never add
//! up. Ticks strictly increase.

mod boxes;
mod left;
mod sps;

use std::io::{self, Write};
use std::sync::Arc;

use crate::encode::{CodecParams, Packet};
use boxes::Boxes;

pub use self::left::{Left, ReadAt};

/// Ticks per second.
pub const TIMESCALE: u32 = 1_000_000;
const NS_PER_TICK: i64 = 1_000;
/// Longest time between two samples: a sample's duration has 32 bits (8.8.8), an hour is below.
pub const MAX_SAMPLE_NS: i64 = 3_600 * 1_000_000_000;
/// Bytes a sample may take in the final `moov`: duration (8), size (4), sync (4), its share of chunk
/// tables, rounded up.
const MOOV_BYTES_PER_SAMPLE: usize = 20;
const MOOV_BYTES_FIXED: usize = 1024;
/// A 64-bit `mdat` header (4.2.2).
const LARGE_HEADER: u64 = 16;

/// One sample as the tables need it.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Decoding time.
    tick: i64,
    /// Presentation minus decoding time.
    shift: i32,
    size: u32,
    is_key: bool,
}

impl Sample {
    /// Presentation time.
    fn shown(&self) -> i64 {
        self.tick.saturating_add(i64::from(self.shift))
    }
}

/// The samples of one fragment lie side by side.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    /// Of its `moof`.
    moof_at: u64,
    /// Of its first sample.
    offset: u64,
    samples: usize,
}

/// Bytes to put somewhere else than at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// From the start of the file.
    pub offset: u64,
    /// What to write there, over what was there.
    pub bytes: Vec<u8>,
}

/// How to turn the fragmented file into a plain one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// To append first; may be empty.
    pub append: Vec<u8>,
    /// To write then, in this order.
    pub patches: Vec<Patch>,
    /// Whether the `moov` fitted into the reserve.
    pub moov_in_front: bool,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Mp4Error {
    /// The writer below failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A number does not fit where the format wants it.
    #[error("{what} is {value}: too large for an MP4 file")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// `finish` without a sample.
    #[error("no sample to finish the file with")]
    Empty,
}

/// Writes one video track. The bytes go to the `Write` of each call, one after the other; the
/// writer keeps only the tables.
#[derive(Debug)]
pub struct Mp4Writer {
    params: Arc<CodecParams>,
    t0_ns: i64,
    edit_tick: i64,
    reserve: u64,
    front: u64,
    written: u64,
    sequence: u32,
    samples: Vec<Sample>,
    chunks: Vec<Chunk>,
    /// Where the sample after the newest one begins.
    end_tick: i64,
    buffer: Vec<u8>,
}

impl Mp4Writer {
    /// A file whose first sample is decoded at `first_dts_ns` and whose presentation begins at
    /// `edit_start_ns`. Room for the final `moov` is reserved for `expected_samples` samples.
    pub fn new(
        params: Arc<CodecParams>,
        first_dts_ns: i64,
        edit_start_ns: i64,
        expected_samples: usize,
    ) -> Self {
        let reserve = MOOV_BYTES_FIXED + expected_samples.saturating_mul(MOOV_BYTES_PER_SAMPLE);
        Self {
            params,
            t0_ns: first_dts_ns,
            edit_tick: tick(edit_start_ns, first_dts_ns).max(0),
            reserve: reserve as u64,
            front: 0,
            written: 0,
            sequence: 0,
            samples: Vec::with_capacity(expected_samples),
            chunks: Vec::new(),
            end_tick: 0,
            buffer: Vec::new(),
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// When the samples written so far are shown, in decoding order: to the tick, not to the
    /// nanosecond.
    pub fn shown_ns(&self) -> Vec<i64> {
        let ns = |s: &Sample| s.shown().saturating_mul(NS_PER_TICK);
        let samples = self.samples.iter();
        samples.map(|s| ns(s).saturating_add(self.t0_ns)).collect()
    }

    /// Samples written so far.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Writes everything before the first fragment; `note` is given back by [`Left::read`].
    ///
    /// # Errors
    /// Those of `out`, a picture larger than 65535, a note that is no fit for a box.
    pub fn begin(&mut self, out: &mut impl Write, note: &[u8]) -> Result<(), Mp4Error> {
        let mut b = Boxes::default();
        b.ftyp(self.params.codec);
        b.note(self.reserve, note)?;
        self.front = b.len();
        b.free(usize::try_from(self.reserve).unwrap_or(MOOV_BYTES_FIXED));
        b.free(16);
        b.init_moov(&self.params, self.edit_tick)?;
        self.put(out, &b.into_bytes())
    }

    /// Writes one fragment: `moof` (8.8.4), `mdat` and its seal with `note`, which is given back by
    /// [`Left::finish`]. `next_dts_ns` is when the sample after the last one of `packets` is decoded.
    ///
    /// # Errors
    /// Those of `out`, and sizes or durations beyond 32 bits. Nothing was added to the tables then.
    pub fn fragment(
        &mut self,
        out: &mut impl Write,
        packets: &[Packet],
        next_dts_ns: i64,
        note: &[u8],
    ) -> Result<(), Mp4Error> {
        if packets.is_empty() {
            return Ok(());
        }
        let mut samples = Vec::with_capacity(packets.len());
        let mut earliest = self.end_tick;
        for p in packets {
            let at = tick(p.dts_ns, self.t0_ns).max(earliest);
            earliest = at + 1;
            // From where it really is decoded, so that it is shown when it was captured.
            let shift = tick(p.pts_ns, self.t0_ns).saturating_sub(at);
            samples.push(Sample {
                tick: at,
                shift: i32::try_from(shift)
                    .map_err(|_| too_large("a composition offset", shift))?,
                size: u32::try_from(p.data.len())
                    .map_err(|_| too_large("a sample", p.data.len()))?,
                is_key: p.is_key,
            });
        }
        let end_tick = tick(next_dts_ns, self.t0_ns).max(earliest);

        let mut b = Boxes::reusing(std::mem::take(&mut self.buffer));
        let data_at = b.moof(self.sequence + 1, &samples, end_tick)?;
        for p in packets {
            b.bytes(&p.data);
        }
        b.end_mdat(data_at)?;
        b.seal(note)?;
        let bytes = b.into_bytes();
        let at = self.written;
        let done = self.put(out, &bytes);
        self.buffer = bytes;
        done?;

        self.sequence += 1;
        self.end_tick = end_tick;
        self.chunks.push(Chunk {
            moof_at: at,
            offset: at + data_at,
            samples: samples.len(),
        });
        self.samples.append(&mut samples);
        Ok(())
    }

    /// Takes the newest fragment out of the tables: its bytes did not reach the file.
    pub fn forget_fragment(&mut self) {
        if let Some(chunk) = self.chunks.pop() {
            let left = self.samples.len().saturating_sub(chunk.samples);
            self.end_tick = self.samples.get(left).map_or(0, |s| s.tick);
            self.samples.truncate(left);
            self.sequence = self.sequence.saturating_sub(1);
            self.written = chunk.moof_at;
        }
    }

    /// What makes the file a plain one that shows everything up to the picture at `last_ns`. Later
    /// pictures are listed only if decoding up to there takes them (reordering), and not shown; the
    /// media of the others stays in the file, unreferenced. Writes nothing.
    ///
    /// # Errors
    /// If no sample is left, or a number does not fit.
    pub fn finish(&self, last_ns: i64) -> Result<Finish, Mp4Error> {
        let last_tick = tick(last_ns, self.t0_ns);
        let listed = self.samples.iter().rposition(|s| s.shown() <= last_tick);
        let samples = &self.samples[..listed.map_or(0, |i| i + 1)];
        let end_tick = match (self.samples.get(samples.len()), samples.is_empty()) {
            (_, true) => return Err(Mp4Error::Empty),
            (Some(next), _) => next.tick,
            (None, _) => self.end_tick,
        };
        // The last picture is shown until the next one, if there is one.
        let later = self
            .samples
            .iter()
            .map(Sample::shown)
            .filter(|t| *t > last_tick);
        let shown_until = later.min().unwrap_or_else(|| {
            let newest = samples.last().map_or(0, |s| s.tick);
            last_tick.saturating_add(end_tick - newest)
        });
        let mut left = samples.len();
        let mut chunks = Vec::with_capacity(self.chunks.len());
        for c in &self.chunks {
            let samples = c.samples.min(left);
            left -= samples;
            if samples > 0 {
                chunks.push(Chunk { samples, ..*c });
            }
        }
        let mut b = Boxes::default();
        let edit = (self.edit_tick, shown_until);
        b.plain_moov(&self.params, samples, &chunks, edit, end_tick)?;
        let moov = b.into_bytes();

        let media_at = self.front + self.reserve;
        let mut large = Boxes::default();
        large.large_mdat_header(self.written - media_at);
        let large = Patch {
            offset: media_at,
            bytes: large.into_bytes(),
        };
        debug_assert_eq!(large.bytes.len() as u64, LARGE_HEADER);
        let spare = self.reserve.checked_sub(moov.len() as u64);
        // What is left of the reserve must be able to be a box (8 bytes) or nothing.
        let moov_in_front = spare.is_some_and(|n| n == 0 || n >= 8);
        if !moov_in_front {
            return Ok(Finish {
                append: moov,
                patches: vec![large],
                moov_in_front,
            });
        }
        let mut front = Boxes::default();
        front.bytes(&moov);
        if let Some(n @ 1..) = spare {
            front.free_header(n);
        }
        let front = Patch {
            offset: self.front,
            bytes: front.into_bytes(),
        };
        Ok(Finish {
            append: Vec::new(),
            patches: vec![front, large],
            moov_in_front,
        })
    }

    fn put(&mut self, out: &mut impl Write, bytes: &[u8]) -> Result<(), Mp4Error> {
        out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn too_large(what: &'static str, value: impl TryInto<u64>) -> Mp4Error {
    let value = value.try_into().unwrap_or(u64::MAX);
    Mp4Error::TooLarge { what, value }
}

/// The tick of an instant, `t0_ns` being tick 0: rounded to the nearest.
fn tick(t_ns: i64, t0_ns: i64) -> i64 {
    let ns = i128::from(t_ns) - i128::from(t0_ns) + i128::from(NS_PER_TICK / 2);
    let ticks = ns.div_euclid(i128::from(NS_PER_TICK));
    i64::try_from(ticks).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn packet(t_ns: i64, is_key: bool, fill: u8) -> Packet {
        Packet {
            data: Bytes::from(vec![fill; 10 + usize::from(fill)]),
            is_key,
            pts_ns: t_ns,
            dts_ns: t_ns,
            frame_id: 0,
            params: CodecParams::for_tests(64, 48),
        }
    }

    /// Irregular times with nanoseconds that are no whole ticks.
    fn times() -> Vec<i64> {
        (0..40i64)
            .map(|i| 7_000_000_123 + i * 33_366_667 + (i * i % 11) * 777_777)
            .collect()
    }

    fn last(packets: &[Packet]) -> i64 {
        packets.iter().map(|p| p.pts_ns).max().unwrap()
    }

    fn written(expected: usize) -> (Vec<u8>, Mp4Writer, Vec<Packet>) {
        let packets: Vec<Packet> = times()
            .iter()
            .enumerate()
            .map(|(i, t)| packet(*t, i % 10 == 0, u8::try_from(i).unwrap()))
            .collect();
        let (first, edit) = (packets[0].dts_ns, packets[3].pts_ns);
        let mut w = Mp4Writer::new(Arc::clone(&packets[0].params), first, edit, expected);
        let mut file = Vec::new();
        w.begin(&mut file, b"{}").unwrap();
        for (i, gop) in packets.chunks(10).enumerate() {
            let next = packets
                .get((i + 1) * 10)
                .map_or(9_000_000_000, |p| p.dts_ns);
            w.fragment(&mut file, gop, next, &[]).unwrap();
        }
        assert_eq!(w.written(), file.len() as u64);
        (file, w, packets)
    }

    fn apply(mut file: Vec<u8>, finish: &Finish) -> Vec<u8> {
        file.extend_from_slice(&finish.append);
        for p in &finish.patches {
            let at = usize::try_from(p.offset).unwrap();
            file[at..at + p.bytes.len()].copy_from_slice(&p.bytes);
        }
        file
    }

    /// Reads `file` with a parser that is not ours and compares times, flags and bytes.
    /// (It moves the earliest time to 0, so times are compared from there.)
    fn check(file: &[u8], packets: &[Packet], t0_ns: i64) -> re_mp4::Mp4 {
        let mp4 = re_mp4::Mp4::read_bytes(file).unwrap();
        let track = mp4.tracks().values().next().unwrap();
        assert_eq!(track.timescale, u64::from(TIMESCALE));
        assert_eq!((track.width, track.height), (64, 48));
        assert_eq!(track.samples.len(), packets.len());
        let least = track.samples.iter().map(|s| s.composition_timestamp).min();
        let least_ns = packets.iter().map(|p| p.pts_ns).min().unwrap();
        for (s, p) in track.samples.iter().zip(packets) {
            let ns = (s.composition_timestamp - least.unwrap()) * 1000;
            assert!((ns - (p.pts_ns - least_ns)).abs() <= 500);
            let ns = (s.decode_timestamp - track.samples[0].decode_timestamp) * 1000;
            assert!((ns - (p.dts_ns - t0_ns)).abs() <= 500);
            assert_eq!(s.is_sync, p.is_key);
            assert_eq!(&file[s.byte_range()], &p.data[..]);
        }
        mp4
    }

    #[test]
    fn fragments_and_the_finished_file_hold_the_same_samples() {
        for (expected, in_front) in [(100, true), (0, false)] {
            let (file, w, packets) = written(expected);
            let t0 = packets[0].dts_ns;
            let mp4 = check(&file, &packets, t0);
            assert_eq!(mp4.moofs.len(), 4);
            let finish = w.finish(last(&packets)).unwrap();
            assert_eq!(finish.moov_in_front, in_front);
            let plain = apply(file, &finish);
            let mp4 = check(&plain, &packets, t0);
            assert!(mp4.moofs.is_empty(), "the fragments are hidden");
            let elst = mp4.moov.traks[0].edts.as_ref().unwrap();
            let edit = &elst.elst.as_ref().unwrap().entries[0];
            assert_eq!(edit.media_time, tick(packets[3].pts_ns, t0) as u64);
            let end = tick(9_000_000_000, t0) as u64;
            assert_eq!(edit.segment_duration, end - edit.media_time);
        }
    }

    #[test]
    fn a_file_can_be_finished_at_any_sample() {
        let (file, w, packets) = written(100);
        for keep in 1..=packets.len() {
            let plain = apply(file.clone(), &w.finish(last(&packets[..keep])).unwrap());
            check(&plain, &packets[..keep], packets[0].dts_ns);
        }
        let before = packets[0].pts_ns - 1_000;
        assert!(matches!(w.finish(before), Err(Mp4Error::Empty)));
    }

    #[test]
    fn every_reserve_gives_a_whole_file() {
        // The remainder of the reserve passes through 0 and the sizes no box can have.
        let (file, w, packets) = written(100);
        let moov = w.finish(last(&packets)).unwrap().patches[0].bytes.len() as u64;
        drop((file, w));
        for reserve in moov.saturating_sub(4)..moov + 20 {
            let (_, mut w, packets) = written(100);
            w = Mp4Writer {
                reserve,
                front: 0,
                written: 0,
                sequence: 0,
                samples: Vec::new(),
                chunks: Vec::new(),
                end_tick: 0,
                ..w
            };
            let mut file = Vec::new();
            w.begin(&mut file, b"{}").unwrap();
            w.fragment(&mut file, &packets, 9_000_000_000, &[]).unwrap();
            let plain = apply(file, &w.finish(last(&packets)).unwrap());
            check(&plain, &packets, packets[0].dts_ns);
        }
    }

    #[test]
    fn reordered_pictures_keep_both_times_and_end_at_the_one_asked_for() {
        let (mut w, mut file) = (
            Mp4Writer::new(CodecParams::for_tests(64, 48), 0, 40_000_000, 10),
            Vec::new(),
        );
        let mut packets = Vec::new();
        for (i, shown) in [1i64, 4, 2, 3, 7, 5, 6].into_iter().enumerate() {
            let mut p = packet(i as i64 * 40_000_000, i == 0, 1);
            p.pts_ns = shown * 40_000_000;
            packets.push(p);
        }
        w.begin(&mut file, b"{}").unwrap();
        w.fragment(&mut file, &packets, 280_000_000, &[]).unwrap();
        check(&file, &packets, 0);
        // Ending at picture 3 takes 4, which 3 refers to, but does not show it.
        for (end, listed) in [(7, 7), (6, 7), (5, 6), (4, 4), (3, 4), (2, 3), (1, 1)] {
            let finish = w.finish(end * 40_000_000).unwrap();
            let plain = apply(file.clone(), &finish);
            let mp4 = check(&plain, &packets[..listed], 0);
            let elst = mp4.moov.traks[0].edts.as_ref().unwrap();
            let edit = &elst.elst.as_ref().unwrap().entries[0];
            assert_eq!(
                (edit.media_time, edit.segment_duration),
                (40_000, end as u64 * 40_000)
            );
        }
    }

    #[test]
    fn a_sample_whose_decoding_is_moved_is_still_shown_at_its_time() {
        let (mut w, mut file) = (
            Mp4Writer::new(CodecParams::for_tests(64, 48), 0, 0, 10),
            Vec::new(),
        );
        let mut packets: Vec<Packet> = [0, 100, 200, 50_000]
            .map(|t_ns| packet(t_ns, t_ns == 0, 1))
            .into();
        for (p, shown) in packets.iter_mut().zip([5_000, 9_000, 7_000, 60_000]) {
            p.pts_ns = shown;
        }
        w.begin(&mut file, b"{}").unwrap();
        w.fragment(&mut file, &packets, 90_000, &[]).unwrap();
        let ticks: Vec<_> = w.samples.iter().map(|s| (s.tick, s.shown())).collect();
        assert_eq!(ticks, [(0, 5), (1, 9), (2, 7), (50, 60)]);
    }

    #[test]
    fn ticks_round_and_do_not_drift() {
        for n in 0..100_000i64 {
            let t_ns = -5_000 + n * 33_366_667;
            assert!((tick(t_ns, -5_000) * 1000 - n * 33_366_667).abs() <= 500);
        }
        assert_eq!(
            tick(i64::MAX, i64::MIN),
            18_446_744_073_709_552,
            "does not wrap"
        );
    }
}
