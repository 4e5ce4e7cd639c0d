//! The NUT demuxer: bytes as ffmpeg's pipe could give them.
//!
//! However the pipe cuts the bytes and whether payloads are read or passed over, the frames are the
//! same; no frame is larger than promised, and no more comes out than went in.
//!
//! Headers are under checksums, which no mutation meets; so everything is checked a second time
//! with the checksums put right.

use std::io::Read;

use visualpath_media::source::nut::{MAX_FRAME_BYTES, NutError, NutFrame, NutReader, NutStream};

use super::Trickle;

/// Longest elision header a frame may begin with.
const MAX_ELIDED: usize = 255;

/// See the module.
pub fn check(bytes: &[u8]) -> bool {
    let good = check_stream(bytes);
    let mut right = bytes.to_vec();
    put_checksums_right(&mut right);
    if right != bytes {
        check_stream(&right);
    }
    good
}

#[derive(Debug, PartialEq)]
struct Told {
    stream: Option<NutStream>,
    frames: Vec<NutFrame>,
    /// The error's words; `None` at the stream's end.
    error: Option<String>,
}

fn check_stream(bytes: &[u8]) -> bool {
    let skipped = read(bytes, bytes.len(), |_| false);
    assert_eq!(
        read(Trickle::new(bytes), bytes.len(), |_| false),
        skipped,
        "cut otherwise"
    );
    let taken = read(bytes, bytes.len(), |_| true);
    assert_eq!(taken, skipped, "payloads read");
    assert_eq!(
        read(bytes, bytes.len(), |i| i % 2 == 0),
        skipped,
        "every other payload read"
    );
    assert!(
        skipped.frames.len() <= bytes.len(),
        "a frame takes a byte at least"
    );
    // The last one may have been cut short.
    let whole = skipped
        .frames
        .len()
        .saturating_sub(usize::from(skipped.error.is_some()));
    let payload: usize = skipped.frames[..whole].iter().map(|f| f.bytes).sum();
    assert!(
        payload <= bytes.len() + whole * MAX_ELIDED,
        "{payload} bytes out of {}",
        bytes.len()
    );
    !skipped.frames.is_empty() && skipped.error.is_none()
}

fn read(input: impl Read, len: usize, takes: impl Fn(usize) -> bool) -> Told {
    let mut told = Told {
        stream: None,
        frames: Vec::new(),
        error: None,
    };
    if let Err(e) = read_frames(input, len, takes, &mut told) {
        let error = e.to_string();
        assert!((1..200).contains(&error.len()), "{error}");
        told.error = Some(error);
    }
    told
}

fn read_frames(
    input: impl Read,
    len: usize,
    takes: impl Fn(usize) -> bool,
    told: &mut Told,
) -> Result<(), NutError> {
    let Some(mut reader) = NutReader::open(input)? else {
        assert_eq!(len, 0, "only nothing is no stream");
        return Ok(());
    };
    let stream = *reader.stream();
    assert!(stream.width > 0 && stream.height > 0 && stream.tick_num > 0 && stream.tick_den > 0);
    told.stream = Some(stream);
    while let Some(frame) = reader.next_frame()? {
        assert!(frame.bytes as u64 <= MAX_FRAME_BYTES);
        // Never panics, whatever the time.
        std::hint::black_box(stream.ticks_to_ns(frame.pts));
        told.frames.push(frame);
        // Not worth the memory where the bytes can't be there.
        if takes(told.frames.len()) && frame.bytes <= len + MAX_ELIDED {
            let mut payload = vec![0; frame.bytes];
            reader.read_payload(&mut payload)?;
        }
    }
    assert_eq!(reader.next_frame()?, None, "the end stays the end");
    Ok(())
}

/// Startcodes end in these ("Syntax"): main, stream, syncpoint, index, info.
const STARTCODES: [[u8; 8]; 5] = [
    0x4E4D_7A56_1F5F_04AD_u64.to_be_bytes(),
    0x4E53_1140_5BF2_F9DB_u64.to_be_bytes(),
    0x4E4B_E4AD_EECA_4569_u64.to_be_bytes(),
    0x4E58_DD67_2F23_E64E_u64.to_be_bytes(),
    0x4E49_AB68_B596_BA78_u64.to_be_bytes(),
];

/// Writes the right checksums into every packet that is whole.
pub fn put_checksums_right(bytes: &mut [u8]) {
    let mut at = 0;
    while at + 8 <= bytes.len() {
        if STARTCODES.iter().all(|s| bytes[at..at + 8] != *s) {
            at += 1;
            continue;
        }
        at = packet_end(bytes, at).unwrap_or(at + 8);
    }
}

/// Puts one packet right; where it ends.
fn packet_end(bytes: &mut [u8], start: usize) -> Option<usize> {
    let (mut len, mut at) = (0_usize, start + 8);
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        len = len
            .checked_mul(128)?
            .checked_add(usize::from(byte & 0x7F))?;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if len > 4096 {
        let sum = crc(bytes.get(start..at)?).to_be_bytes();
        bytes.get_mut(at..at + 4)?.copy_from_slice(&sum);
        at += 4;
    }
    let end = at.checked_add(len)?;
    let body = bytes.get_mut(at..end)?;
    let (fields, sum) = body.split_at_mut(len.checked_sub(4)?);
    sum.copy_from_slice(&crc(fields).to_be_bytes());
    Some(end)
}

/// As NUT has it: polynomial 0x04C11DB7, from 0, most significant bit first.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |c, _| {
            c << 1 ^ if c >> 31 == 1 { 0x04C1_1DB7 } else { 0 }
        })
    })
}
