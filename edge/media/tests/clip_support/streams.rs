//! Real streams, made by ffmpeg, whose pictures say which they are.
#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    reason = "each test file uses a part of it; its numbers are small"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use visualpath_core::{ColorSpec, NS_PER_MS, NS_PER_S};
use visualpath_media::clip::Offered;
use visualpath_media::encode::{Codec, CodecParams, Packet};

use super::{Bench, Camera, HEIGHT, WIDTH};

pub const STEP: i64 = 40 * NS_PER_MS;

/// An encoded picture without a time.
#[derive(Clone)]
pub struct Picture {
    pub data: Bytes,
    pub is_key: bool,
    /// Place in the order they are shown.
    pub shown: usize,
}

pub struct Stream {
    pub params: Arc<CodecParams>,
    pub pictures: Vec<Picture>,
}

pub fn ffmpeg(args: &[&str]) -> Vec<u8> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin"])
        .args(args)
        .output()
        .expect("ffmpeg is missing: run cross/setup.sh first");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && errors.is_empty(),
        "{args:?}: {errors}"
    );
    out.stdout
}

/// `frames` pictures whose numbers can be read in them, in this coding.
pub fn stream(codec: Codec, frames: usize, coding: &[&str]) -> Stream {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw.yuv");
    let camera = Camera::new();
    let mut pixels = Vec::new();
    for i in 0..frames as u64 {
        pixels.extend_from_slice(camera.frame(i, 0).pixels());
    }
    std::fs::write(&raw, pixels).unwrap();
    let size = format!("{WIDTH}x{HEIGHT}");
    let file = dir.path().join("coded.mp4");
    let mut args = vec![
        "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", "25", "-i",
    ];
    args.push(raw.to_str().unwrap());
    args.extend_from_slice(coding);
    args.extend_from_slice(&["-f", "mp4", file.to_str().unwrap()]);
    ffmpeg(&args);
    read(codec, &file)
}

/// The packets of a file as they were coded, with their times and flags.
pub fn read(codec: Codec, file: &Path) -> Stream {
    let format = match codec {
        Codec::H264 => "h264",
        Codec::H265 => "hevc",
        _ => "mjpeg",
    };
    let input = file.to_str().unwrap();
    // An elementary stream of one packet after the other, and how long each is.
    let filter = match codec {
        Codec::H264 => "h264_mp4toannexb",
        Codec::H265 => "hevc_mp4toannexb",
        _ => "null",
    };
    let bytes = ffmpeg(&[
        "-ignore_editlist",
        "1",
        "-i",
        input,
        "-c",
        "copy",
        "-bsf:v",
        filter,
        "-f",
        format,
        "-",
    ]);
    let rows = listed(file);
    let mut order: Vec<i64> = rows.iter().map(|r| r.0).collect();
    order.sort_unstable();
    let shown = |pts: i64| order.iter().position(|p| *p == pts).unwrap();

    let mut sets: [Bytes; 3] = Default::default();
    let mut pictures = Vec::new();
    let mut rest = &bytes[..];
    for (pts, size, is_key) in rows {
        let data = match codec {
            Codec::Mjpeg => {
                let (jpeg, tail) = rest.split_at(size);
                rest = tail;
                Bytes::copy_from_slice(jpeg)
            }
            _ => {
                // The filter may add parameter sets: a picture ends where its slice does, and each
                // has one.
                let mut data = BytesMut::new();
                loop {
                    let (nal, tail) = first_nal(rest);
                    rest = tail;
                    match kind(codec, nal) {
                        Kind::Set(i) => sets[i] = Bytes::copy_from_slice(nal),
                        Kind::Other => put(&mut data, nal),
                        Kind::Slice => {
                            put(&mut data, nal);
                            break;
                        }
                    }
                }
                data.freeze()
            }
        };
        let shown = shown(pts);
        pictures.push(Picture {
            data,
            is_key,
            shown,
        });
    }
    assert!(rest.is_empty());
    let [vps, sps, pps] = sets;
    let params = CodecParams {
        codec,
        width: WIDTH as u32,
        height: HEIGHT as u32,
        color: ColorSpec::default(),
        vps,
        sps,
        pps,
    };
    Stream {
        params: Arc::new(params),
        pictures,
    }
}

/// When each packet of a file is shown (in its time base), its bytes, and whether it is a key.
fn listed(file: &Path) -> Vec<(i64, usize, bool)> {
    let listed = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-ignore_editlist",
            "1",
            "-show_entries",
            "packet=pts,size,flags",
            "-of",
            "csv=p=0",
        ])
        .arg(file)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut rows: Vec<(i64, usize, bool)> = Vec::new();
    for line in listed.lines() {
        let mut fields = line.split(',');
        let pts = fields.next().unwrap().parse().unwrap();
        let size = fields.next().unwrap().parse().unwrap();
        rows.push((pts, size, fields.next().unwrap().starts_with('K')));
    }
    rows
}

enum Kind {
    Set(usize),
    Slice,
    Other,
}

fn kind(codec: Codec, nal: &[u8]) -> Kind {
    match codec {
        Codec::H264 => match nal[0] & 0x1F {
            7 => Kind::Set(1),
            8 => Kind::Set(2),
            1 | 5 => Kind::Slice,
            _ => Kind::Other,
        },
        _ => match nal[0] >> 1 & 0x3F {
            32 => Kind::Set(0),
            33 => Kind::Set(1),
            34 => Kind::Set(2),
            0..=31 => Kind::Slice,
            _ => Kind::Other,
        },
    }
}

fn put(data: &mut BytesMut, nal: &[u8]) {
    data.put_u32(u32::try_from(nal.len()).unwrap());
    data.put_slice(nal);
}

/// The NAL unit behind the start code that `bytes` begins with, and what follows it.
fn first_nal(bytes: &[u8]) -> (&[u8], &[u8]) {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    assert!(zeros >= 2 && bytes[zeros] == 1, "a start code");
    let body = &bytes[zeros + 1..];
    let end = body.windows(3).position(|w| w == [0, 0, 1]);
    let end = end.map_or(body.len(), |i| i - usize::from(i > 0 && body[i - 1] == 0));
    body.split_at(end)
}

pub fn h264(frames: usize, extra: &[&str]) -> Stream {
    let mut coding = vec!["-c:v", "libx264", "-threads", "1", "-bf", "0", "-g", "10"];
    coding.extend_from_slice(extra);
    stream(Codec::H264, frames, &coding)
}

pub fn h265(frames: usize, params: &str) -> Stream {
    let params = format!("log-level=none:pools=none:frame-threads=1:keyint=10:{params}");
    let coding = ["-c:v", "libx265", "-x265-params", &params];
    stream(Codec::H265, frames, &coding)
}

pub fn mjpeg(frames: usize) -> Stream {
    stream(
        Codec::Mjpeg,
        frames,
        &["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"],
    )
}

/// Real time stamps: never the nominal one, and with nanoseconds.
pub fn jittered(i: usize) -> i64 {
    let i = i64::try_from(i).unwrap();
    7 * NS_PER_S + i * STEP + (i * i * 7919 % 17) * 1_234_567
}

impl Stream {
    /// As a camera would give them: shown at real times, decoded in time for that.
    pub fn packets(&self) -> Vec<Packet> {
        let delay = |(i, p): (usize, &Picture)| i.saturating_sub(p.shown);
        let delay = self.pictures.iter().enumerate().map(delay).max().unwrap();
        let times = |i: usize| match i.checked_sub(delay) {
            Some(i) => jittered(i),
            None => jittered(0) - i64::try_from(delay - i).unwrap() * STEP,
        };
        let number = |(i, p): (usize, &Picture)| Packet {
            data: p.data.clone(),
            is_key: p.is_key,
            pts_ns: jittered(p.shown),
            dts_ns: times(i),
            frame_id: i as u64,
            params: Arc::clone(&self.params),
        };
        self.pictures.iter().enumerate().map(number).collect()
    }
}

pub fn pass(bench: &Bench, packets: &[Packet]) {
    for packet in packets {
        assert_eq!(bench.lane.offer_packet(packet.clone()), Offered::Taken);
    }
}
