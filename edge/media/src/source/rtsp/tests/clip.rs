//! Real H.264 and H.265, picture by picture, and how it travels in RTP.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Longest RTP payload; anything larger goes in fragments.
const MTU: usize = 1200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Coding {
    H264,
    H265,
}

/// An encoded video: NAL units of each picture, delimiter first, parameter sets before key
/// pictures.
#[derive(Debug, Clone)]
pub(super) struct Clip {
    pub(super) coding: Coding,
    pub(super) pictures: Vec<Vec<Vec<u8>>>,
    /// The same decoded: I420, one after the other.
    pub(super) decoded: Vec<Vec<u8>>,
    /// The same in a file.
    pub(super) mp4: Vec<u8>,
}

/// 26 pictures, 25 a second, a key every 10th.
pub(super) fn h264() -> &'static Clip {
    static CLIP: OnceLock<Clip> = OnceLock::new();
    CLIP.get_or_init(|| encode(Coding::H264, "320x240"))
}

/// The same in another size.
pub(super) fn h264_small() -> &'static Clip {
    static CLIP: OnceLock<Clip> = OnceLock::new();
    CLIP.get_or_init(|| encode(Coding::H264, "192x144"))
}

pub(super) fn h265() -> &'static Clip {
    static CLIP: OnceLock<Clip> = OnceLock::new();
    CLIP.get_or_init(|| encode(Coding::H265, "320x240"))
}

fn encode(coding: Coding, size: &str) -> Clip {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("clip");
    let (encoder, format, aud) = match coding {
        Coding::H264 => ("libx264", "h264", "h264_metadata=aud=insert"),
        Coding::H265 => ("libx265", "hevc", "hevc_metadata=aud=insert"),
    };
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size={size}:rate=25"))
        .args(["-frames:v", "26", "-pix_fmt", "yuv420p", "-c:v", encoder])
        .args(["-preset", "ultrafast", "-tune", "zerolatency"])
        .args(["-g", "10", "-bf", "0"])
        .args(["-x265-params", "log-level=none:keyint=10:bframes=0"])
        .args(["-bsf:v", aud, "-f", format])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let clip = Clip {
        coding,
        pictures: pictures(coding, &file),
        decoded: decode(&file, size),
        mp4: mp4(&file, format),
    };
    assert_eq!((clip.pictures.len(), clip.decoded.len()), (26, 26));
    clip
}

fn mp4(file: &Path, format: &str) -> Vec<u8> {
    let out = file.with_extension("mp4");
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-framerate", "25", "-f", format, "-i"])
        .arg(file)
        .args(["-c", "copy"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read(out).unwrap()
}

fn decode(file: &Path, size: &str) -> Vec<Vec<u8>> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args([
            "-fps_mode",
            "passthrough",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "yuv420p",
            "-",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let (width, height) = size.split_once('x').unwrap();
    let pixels: usize = width.parse::<usize>().unwrap() * height.parse::<usize>().unwrap();
    output
        .stdout
        .chunks(pixels * 3 / 2)
        .map(<[u8]>::to_vec)
        .collect()
}

fn pictures(coding: Coding, file: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut pictures: Vec<Vec<Vec<u8>>> = Vec::new();
    for nal in annex_b(&std::fs::read(file).unwrap()) {
        if coding.kind(&nal) == coding.delimiter() {
            pictures.push(Vec::new());
        }
        pictures.last_mut().unwrap().push(nal);
    }
    pictures
}

/// The NAL units between start codes.
fn annex_b(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<usize> = bytes
        .windows(3)
        .enumerate()
        .filter_map(|(at, w)| (w == [0, 0, 1]).then_some(at))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let trimmed = |nal: &[u8]| {
        let end = nal.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        nal[..end].to_vec()
    };
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| trimmed(&bytes[start + 3..end]))
        .collect()
}

impl Coding {
    pub(super) fn kind(self, nal: &[u8]) -> u8 {
        match self {
            Self::H264 => nal[0] & 0x1F,
            Self::H265 => (nal[0] >> 1) & 0x3F,
        }
    }

    fn delimiter(self) -> u8 {
        match self {
            Self::H264 => 9,
            Self::H265 => 35,
        }
    }

    pub(super) fn is_slice(self, nal: &[u8]) -> bool {
        match self {
            Self::H264 => (1..=5).contains(&self.kind(nal)),
            Self::H265 => self.kind(nal) < 32,
        }
    }

    /// Kinds of video, sequence and picture parameter sets.
    fn parameter_sets(self) -> &'static [u8] {
        match self {
            Self::H264 => &[7, 8],
            Self::H265 => &[32, 33, 34],
        }
    }
}

impl Clip {
    /// Parameter sets of the first picture, in the order of their kinds.
    pub(super) fn parameter_sets(&self) -> Vec<&[u8]> {
        let sets = self.coding.parameter_sets();
        sets.iter()
            .map(|kind| {
                let of_kind = |nal: &&Vec<u8>| self.coding.kind(nal) == *kind;
                self.pictures[0].iter().find(of_kind).unwrap().as_slice()
            })
            .collect()
    }

    /// What a packet of picture `at` must hold: its NAL units but the parameter sets, each behind
    /// its length.
    pub(super) fn packet(&self, at: usize) -> Vec<u8> {
        let sets = self.coding.parameter_sets();
        let mut packet = Vec::new();
        for nal in &self.pictures[at] {
            if !sets.contains(&self.coding.kind(nal)) {
                packet.extend_from_slice(&u32::try_from(nal.len()).unwrap().to_be_bytes());
                packet.extend_from_slice(nal);
            }
        }
        packet
    }

    /// The NAL units of a packet.
    pub(super) fn nals(mut packet: &[u8]) -> Vec<Vec<u8>> {
        let mut nals = Vec::new();
        while let Some((length, rest)) = packet.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            nals.push(rest[..length].to_vec());
            packet = &rest[length..];
        }
        nals
    }

    pub(super) fn is_key(&self, at: usize) -> bool {
        let kinds = self.pictures[at].iter().map(|nal| self.coding.kind(nal));
        match self.coding {
            Coding::H264 => kinds.into_iter().any(|kind| kind == 5),
            Coding::H265 => kinds.into_iter().any(|kind| (16..=23).contains(&kind)),
        }
    }

    /// RTP payloads of picture `at`.
    pub(super) fn payloads(&self, at: usize) -> Vec<Vec<u8>> {
        self.pictures[at]
            .iter()
            .flat_map(|nal| self.fragments(nal))
            .collect()
    }

    /// One payload, or FU-A (RFC 6184, 5.8), or FU (RFC 7798, 4.4.3).
    fn fragments(&self, nal: &[u8]) -> Vec<Vec<u8>> {
        if nal.len() <= MTU {
            return vec![nal.to_vec()];
        }
        let (head, body) = match self.coding {
            Coding::H264 => (vec![(nal[0] & 0xE0) | 28], &nal[1..]),
            Coding::H265 => (vec![(nal[0] & 0x81) | (49 << 1), nal[1]], &nal[2..]),
        };
        let kind = self.coding.kind(nal);
        let count = body.chunks(MTU).count();
        body.chunks(MTU)
            .enumerate()
            .map(|(at, chunk)| {
                let start = u8::from(at == 0) << 7;
                let end = u8::from(at + 1 == count) << 6;
                [head.as_slice(), &[start | end | kind], chunk].concat()
            })
            .collect()
    }
}
