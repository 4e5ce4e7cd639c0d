//! Is a clip's file what its sidecar says, and can it be played? For `visualpath clip verify`.
//!
//! Two looks: the SHA-256 of the whole file, which finds every changed bit, and the structure,
//! which finds a clip that was never whole: every box is inside the file, and every sample that
//! the tables list lies inside the media. Section numbers are those of ISO/IEC 14496-12:2022.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};
use visualpath_media::clip::ReadyClip;

/// Largest `moov` looked at: 25 bytes a sample, so weeks.
const MAX_TABLES: u64 = 256 << 20;
/// Boxes at the top of a file; a fragment a second for a day is less.
const MAX_BOXES: usize = 1 << 18;

/// What is wrong with a clip's file.
#[derive(Debug, thiserror::Error)]
pub enum ClipFault {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// Another size.
    #[error("has {is} bytes, its .json says {said}")]
    Size {
        /// Now.
        is: u64,
        /// When it was made.
        said: u64,
    },
    /// Other bytes.
    #[error("was changed: its SHA-256 is {is}, its .json says {said}")]
    Sha256 {
        /// Now.
        is: String,
        /// When it was made.
        said: String,
    },
    /// No MP4 file, or half of one.
    #[error("is no whole MP4 file: {what} at byte {at}")]
    Structure {
        /// What is wrong.
        what: String,
        /// Where.
        at: u64,
    },
}

fn broken(at: u64, what: impl Into<String>) -> ClipFault {
    ClipFault::Structure {
        what: what.into(),
        at,
    }
}

/// Compares a file with what its sidecar says of it.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(file: &Path, said: &ReadyClip) -> Result<(), ClipFault> {
    let mut file = File::open(file)?;
    let is = file.metadata()?.len();
    if is != said.bytes {
        return Err(ClipFault::Size {
            is,
            said: said.bytes,
        });
    }
    let mut sha256 = Sha256::new();
    let mut piece = vec![0; 128 * 1024];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        sha256.update(&piece[..read]);
    }
    let digest = sha256.finalize();
    let is: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    if is != said.sha256 {
        return Err(ClipFault::Sha256 {
            is,
            said: said.sha256.clone(),
        });
    }
    let samples = structure(&mut file)?;
    let pictures = said.frames + said.lead_in_frames;
    if samples < pictures {
        let what = format!("{samples} samples are listed, its .json says {pictures} pictures");
        return Err(broken(0, what));
    }
    Ok(())
}

/// Walks the boxes and gives the number of samples listed, each of which lies inside the file's
/// media.
///
/// # Errors
/// The first box or sample that is not inside the file.
pub fn structure(file: &mut (impl Read + Seek)) -> Result<u64, ClipFault> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut media: Vec<(u64, u64)> = Vec::new();
    let mut tables: Option<(u64, Vec<u8>)> = None;
    let mut at = 0;
    for _ in 0..MAX_BOXES {
        if at == length {
            let (moov_at, moov) = tables.ok_or_else(|| broken(at, "there is no `moov`"))?;
            return samples(moov_at, &moov, &media);
        }
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        let got = length - at;
        let want = usize::try_from(got.min(16)).unwrap_or(16);
        file.read_exact(&mut head[..want])?;
        let Some((kind, header, size)) = header(&head[..want], got) else {
            return Err(broken(at, "a box that is not one"));
        };
        let name = kind.escape_ascii();
        if at == 0 && &kind != b"ftyp" {
            return Err(broken(at, format!("`{name}` where `ftyp` must be")));
        }
        if size > got {
            let what = format!("`{name}` of {size} bytes, {got} are left");
            return Err(broken(at, what));
        }
        match &kind {
            b"mdat" => media.push((at + header, at + size)),
            b"moov" if size > MAX_TABLES => {
                return Err(broken(at, format!("`moov` of {size} bytes")));
            }
            b"moov" => {
                let mut moov = vec![0; usize::try_from(size - header).unwrap_or(0)];
                file.seek(SeekFrom::Start(at + header))?;
                file.read_exact(&mut moov)?;
                tables = Some((at + header, moov));
            }
            _ => {}
        }
        at += size;
    }
    Err(broken(at, format!("more than {MAX_BOXES} boxes")))
}

/// Type, bytes of the header and of the whole box (4.2.2); `left` is what the file has from here.
fn header(head: &[u8], left: u64) -> Option<([u8; 4], u64, u64)> {
    let small = u32::from_be_bytes(head.get(..4)?.try_into().ok()?);
    let kind: [u8; 4] = head.get(4..8)?.try_into().ok()?;
    let (header, size) = match small {
        // To the end of the file.
        0 => (8, left),
        1 => (16, u64::from_be_bytes(head.get(8..16)?.try_into().ok()?)),
        n => (8, u64::from(n)),
    };
    (size >= header).then_some((kind, header, size))
}

/// Type, where in the file the content begins, content.
type Inner<'a> = ([u8; 4], u64, &'a [u8]);

/// The boxes inside a box.
fn inside(at: u64, content: &[u8]) -> Result<Vec<Inner<'_>>, ClipFault> {
    let mut out = Vec::new();
    let mut from = 0;
    while let Some(rest) = content.get(from..).filter(|r| !r.is_empty()) {
        let here = at + from as u64;
        let inner = header(rest, rest.len() as u64).and_then(|(kind, header, size)| {
            let header = usize::try_from(header).ok()?;
            let size = usize::try_from(size).ok()?;
            Some((kind, header, rest.get(header..size)?, size))
        });
        let Some((kind, header, inner, size)) = inner else {
            return Err(broken(here, "a box that is larger than the one around it"));
        };
        out.push((kind, here + header as u64, inner));
        from += size;
    }
    Ok(out)
}

/// Counts the samples of every track, each of which must lie in one of `media`.
fn samples(at: u64, moov: &[u8], media: &[(u64, u64)]) -> Result<u64, ClipFault> {
    let mut count = 0;
    for (kind, at, trak) in inside(at, moov)? {
        if &kind == b"trak" {
            let stbl = [b"mdia", b"minf", b"stbl"].into_iter().try_fold(
                (at, trak),
                |(at, content), wanted| {
                    let found = inside(at, content)?.into_iter().find(|(k, ..)| k == wanted);
                    found
                        .map(|(_, at, content)| (at, content))
                        .ok_or_else(|| broken(at, format!("no `{}`", wanted.escape_ascii())))
                },
            )?;
            count += track(stbl.0, stbl.1, media)?;
        }
    }
    if count == 0 {
        return Err(broken(
            at,
            "`moov` lists no sample: the clip was never finished",
        ));
    }
    Ok(count)
}

/// Numbers of a full box behind its version and flags.
struct Table<'a>(&'a [u8]);

impl Table<'_> {
    fn u32(&self, i: usize) -> Option<u32> {
        let bytes = self.0.get(4 + i * 4..8 + i * 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn u64_after(&self, skip: usize, i: usize) -> Option<u64> {
        let from = 4 + skip * 4 + i * 8;
        let bytes = self.0.get(from..from + 8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// One track: where each chunk begins (8.7.5), how many samples it has (8.7.4), how large each is
/// (8.7.3).
fn track(at: u64, stbl: &[u8], media: &[(u64, u64)]) -> Result<u64, ClipFault> {
    let boxes = inside(at, stbl)?;
    let table = |kind: &[u8; 4]| {
        let found = boxes.iter().find(|(k, ..)| k == kind);
        found.map(|(_, at, content)| (*at, Table(content)))
    };
    let missing = || broken(at, "a sample table is missing");
    let (sizes_at, sizes) = table(b"stsz").ok_or_else(missing)?;
    let (runs_at, runs) = table(b"stsc").ok_or_else(missing)?;
    let (offsets_at, offsets, wide) = match (table(b"stco"), table(b"co64")) {
        (Some((at, t)), _) => (at, t, false),
        (None, Some((at, t))) => (at, t, true),
        (None, None) => return Err(missing()),
    };
    let short = |at: u64| move || broken(at, "a sample table that ends too early");
    let (same, listed) = (sizes.u32(0), sizes.u32(1));
    let same = same.ok_or_else(short(sizes_at))?;
    let listed = listed.ok_or_else(short(sizes_at))?;
    let chunks = offsets.u32(0).ok_or_else(short(offsets_at))?;
    let run_count = runs.u32(0).ok_or_else(short(runs_at))? as usize;
    let mut sample = 0_u32;
    let (mut run, mut per_chunk) = (0, 0);
    for chunk in 0..chunks {
        // The runs name the first chunk of each, from 1.
        if run < run_count && runs.u32(1 + run * 3).ok_or_else(short(runs_at))? == chunk + 1 {
            per_chunk = runs.u32(2 + run * 3).ok_or_else(short(runs_at))?;
            run += 1;
        }
        let i = chunk as usize;
        let offset = match wide {
            false => offsets.u32(1 + i).map(u64::from),
            true => offsets.u64_after(1, i),
        };
        let mut offset = offset.ok_or_else(short(offsets_at))?;
        for _ in 0..per_chunk {
            if sample == listed {
                return Err(broken(runs_at, "more samples in chunks than sizes"));
            }
            let size = match same {
                0 => sizes.u32(2 + sample as usize).ok_or_else(short(sizes_at))?,
                same => same,
            };
            let end = offset.saturating_add(u64::from(size));
            if !media.iter().any(|(from, to)| *from <= offset && end <= *to) {
                let what = format!("sample {sample} of {size} bytes lies outside the media");
                return Err(broken(offset, what));
            }
            offset = end;
            sample += 1;
        }
    }
    if sample != listed {
        let what = format!("{listed} samples have a size, {sample} a place");
        return Err(broken(sizes_at, what));
    }
    Ok(u64::from(sample))
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small files")]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use proptest::prelude::*;
    use visualpath_media::encode::{Codec, CodecParams, Packet};
    use visualpath_media::mp4::Mp4Writer;

    use super::*;

    /// A finished file of 20 pictures, and the same before it was finished.
    fn files() -> (Vec<u8>, Vec<u8>) {
        let params = Arc::new(CodecParams {
            codec: Codec::Mjpeg,
            width: 64,
            height: 48,
            color: visualpath_core::ColorSpec::default(),
            vps: Vec::new().into(),
            sps: Vec::new().into(),
            pps: Vec::new().into(),
        });
        let packet = |n: i64| Packet {
            pts_ns: n * 40_000_000,
            dts_ns: n * 40_000_000,
            is_key: true,
            frame_id: n as u64,
            data: vec![7; 100 + n as usize].into(),
            params: Arc::clone(&params),
        };
        let packets: Vec<Packet> = (0..20).map(packet).collect();
        let mut mux = Mp4Writer::new(Arc::clone(&params), 0, 0, 20);
        let mut file = Vec::new();
        mux.begin(&mut file, &[]).unwrap();
        mux.fragment(&mut file, &packets[..10], 400_000_000, &[])
            .unwrap();
        mux.fragment(&mut file, &packets[10..], 800_000_000, &[])
            .unwrap();
        let part = file.clone();
        let finish = mux.finish(760_000_000).unwrap();
        file.extend(&finish.append);
        for patch in &finish.patches {
            let at = patch.offset as usize;
            file[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        (file, part)
    }

    fn look(file: &[u8]) -> Result<u64, ClipFault> {
        structure(&mut Cursor::new(file))
    }

    #[test]
    fn a_whole_clip_passes_and_every_cut_of_it_is_found() {
        let (file, part) = files();
        assert_eq!(look(&file).unwrap(), 20);
        for length in 0..file.len() {
            assert!(look(&file[..length]).is_err(), "cut at {length}");
        }
        let unfinished = look(&part).unwrap_err().to_string();
        assert!(unfinished.contains("never finished"), "{unfinished}");
    }

    #[test]
    fn a_sample_outside_the_media_is_found() {
        let (mut file, _) = files();
        let at = file.windows(4).position(|w| w == b"stco").unwrap();
        // The first chunk's offset.
        file[at + 12..at + 16].copy_from_slice(&0_u32.to_be_bytes());
        let fault = look(&file).unwrap_err().to_string();
        assert!(
            fault.contains("sample 0") && fault.contains("outside"),
            "{fault}"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_do_more_than_fail(
            at in 0..2000_usize,
            bytes in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let (mut file, _) = files();
            let at = at % file.len();
            let end = (at + bytes.len()).min(file.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
            drop(look(&file));
            drop(look(&bytes));
        }
    }
}
