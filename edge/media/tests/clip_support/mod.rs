//! A camera whose pictures say which frame they are, and readers of clips that are not ours.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod streams;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, NS_PER_S, Name, PixelFormat, ViewSpec};
use visualpath_frames::{Frame, FramePool, Holder, PoolSpec, ViewError, ViewMaker};
use visualpath_media::clip::{
    ClipRequest, ClipResult, ClipState, ClipStore, EvidenceLane, LaneOptions, Offered, ReadyClip,
};
use visualpath_media::encode::Encoder;

/// Pictures are 8 × 4 blocks of 16 × 16 pixels: 16 bits of the frame's number, and their inverse.
pub const BLOCK: usize = 16;
pub const WIDTH: usize = 8 * BLOCK;
pub const HEIGHT: usize = 4 * BLOCK;
/// 2026-11-22 20:00:00 UTC.
pub const WALL_NS: i64 = 1_795_377_600 * NS_PER_S;

struct NoViews;
impl ViewMaker for NoViews {
    fn make(
        &self,
        _: &ViewSpec,
        _: &ImageLayout,
        _: &[u8],
        _: &ImageLayout,
        _: &mut [u8],
    ) -> Result<(), ViewError> {
        unreachable!("no view was asked for")
    }
}

pub struct Camera {
    pool: FramePool,
    layout: ImageLayout,
    holder: Holder,
}

impl Camera {
    pub fn new() -> Self {
        Self::with(PixelFormat::I420, WIDTH, HEIGHT)
    }

    pub fn with(format: PixelFormat, width: usize, height: usize) -> Self {
        let (w, h) = (
            u32::try_from(width).unwrap(),
            u32::try_from(height).unwrap(),
        );
        let layout = ImageLayout::packed(format, w, h, ColorSpec::default());
        let spec = PoolSpec {
            pool_id: 1,
            slots: 8,
            native: layout,
            native_room: 0,
            views: Vec::new(),
        };
        let pool = FramePool::heap(&spec, Arc::new(NoViews)).unwrap();
        let holder = pool.holder("encoder");
        Self {
            pool,
            layout,
            holder,
        }
    }

    /// The picture number `frame_id`, with the number drawn into it.
    pub fn frame(&self, frame_id: u64, t_ns: i64) -> Frame {
        let slot = self.pool.acquire_timeout(Duration::from_secs(60));
        let mut slot = slot.expect("a free slot within a minute");
        let (width, format) = (self.layout.width as usize, self.layout.format);
        let luma = self.layout.planes()[0];
        let shade = |x: usize, y: usize| match bit(frame_id, x / BLOCK, y / BLOCK) {
            true => 200,
            false => 50,
        };
        for (i, byte) in slot.pixels_mut().iter_mut().enumerate() {
            let (x, y) = (i % luma.stride, i / luma.stride);
            *byte = match format {
                PixelFormat::Yuyv if x % 2 == 0 => shade(x / 2, y),
                PixelFormat::Uyvy if x % 2 == 1 => shade(x / 2, y),
                PixelFormat::Yuyv | PixelFormat::Uyvy => 128,
                PixelFormat::Rgb | PixelFormat::Bgr => shade(x / 3, y),
                _ if y < luma.rows => shade(i % width, y),
                _ => 128,
            };
        }
        let meta = FrameMeta {
            frame_id,
            t_ns,
            epoch: 0,
            layout: self.layout,
        };
        slot.publish(meta, self.holder)
    }

    pub fn free_slots(&self) -> usize {
        self.pool.available()
    }
}

fn bit(number: u64, column: usize, row: usize) -> bool {
    let set = number >> (8 * (row % 2) + column % 8) & 1 == 1;
    set != (row >= 2)
}

/// The number drawn into a grey picture; every block must agree with its inverse.
pub fn read_number(grey: &[u8]) -> u64 {
    let at = |c: usize, r: usize| grey[(r * BLOCK + 8) * WIDTH + c * BLOCK + 8] > 125;
    let mut number = 0;
    for row in 0..2 {
        for column in 0..8 {
            let set = at(column, row);
            assert_ne!(
                set,
                at(column, row + 2),
                "block {column},{row} is not readable"
            );
            number |= u64::from(set) << (8 * row + column);
        }
    }
    number
}

fn run(program: &str, args: &[&str], file: &Path) -> Vec<u8> {
    let out = Command::new(program)
        .args(args)
        .args(["-i".as_ref(), file.as_os_str()])
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: run cross/setup.sh first"));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {file:?}: {errors}");
    assert!(errors.is_empty(), "{program} {file:?}: {errors}");
    out.stdout
}

/// The frames ffmpeg shows, with the edit list or without.
pub fn decode(file: &Path, edit_list: bool) -> Vec<u64> {
    let ignore = if edit_list { "0" } else { "1" };
    let grey = grey(file, &["-ignore_editlist", ignore]);
    let pictures = grey.chunks_exact(WIDTH * HEIGHT);
    assert!(pictures.remainder().is_empty());
    pictures.map(read_number).collect()
}

/// The pictures ffmpeg shows, read with `options`: their luma, one after the other.
pub fn grey(file: &Path, options: &[&str]) -> Vec<u8> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-nostdin"])
        .args(options)
        .arg("-i")
        .arg(file)
        .args(["-fps_mode", "passthrough", "-enc_time_base", "-1"])
        .args(["-f", "rawvideo", "-pix_fmt", "gray", "-"])
        .output()
        .expect("ffmpeg is missing: run cross/setup.sh first");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && errors.is_empty(),
        "{file:?}: {errors}"
    );
    out.stdout
}

/// Presentation times of all samples in microseconds from the first, as ffprobe reads them.
pub fn sample_times_us(file: &Path) -> Vec<i64> {
    let args = [
        "-v",
        "error",
        "-ignore_editlist",
        "1",
        "-show_entries",
        "packet=pts",
        "-of",
        "csv=p=0",
    ];
    let text = String::from_utf8(run("ffprobe", &args, file)).unwrap();
    text.lines()
        .map(|l| l.trim_end_matches(',').parse().unwrap())
        .collect()
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn uuid(n: u32) -> String {
    format!("01938f3c-7d2a-7000-8000-0000{n:08x}")
}

/// A request for `event − pre … event + post`.
pub fn request(n: u32, event_ns: i64, pre_ns: i64, post_ns: i64) -> ClipRequest {
    ClipRequest {
        id: uuid(n),
        trigger_id: format!("trigger-{n}"),
        path: name("entrance"),
        label: name("visitor"),
        event_ns,
        wall_ns: WALL_NS + event_ns,
        start_ns: event_ns - pre_ns,
        end_ns: event_ns + post_ns,
        best_ns: None,
    }
}

/// A lane with its own state directory.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub store: Arc<ClipStore>,
    pub results: Receiver<ClipResult>,
    pub lane: EvidenceLane,
}

impl Bench {
    pub fn start(source: &str, change: impl FnOnce(&mut LaneOptions)) -> Self {
        Self::begin(source, None, change)
    }

    pub fn start_with(
        source: &str,
        encoder: Box<dyn Encoder>,
        change: impl FnOnce(&mut LaneOptions),
    ) -> Self {
        Self::begin(source, Some(encoder), change)
    }

    fn begin(
        source: &str,
        encoder: Option<Box<dyn Encoder>>,
        change: impl FnOnce(&mut LaneOptions),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
        let mut options = LaneOptions::new(name(source), Arc::clone(&store));
        options.realtime = false;
        change(&mut options);
        let (tell, results) = unbounded();
        let report = move |r| tell.send(r).unwrap();
        let lane = match encoder {
            None => EvidenceLane::start(options, report),
            Some(encoder) => EvidenceLane::start_with(options, encoder, report),
        };
        let lane = lane.unwrap();
        Self {
            dir,
            store,
            results,
            lane,
        }
    }

    pub fn offer(&self, frame: Frame) {
        assert_eq!(self.lane.offer(frame), Offered::Taken);
    }

    /// Until everything taken has passed the encoder and the ring.
    pub fn settle(&self) {
        loop {
            let s = self.lane.stats();
            let seen = s.ring.packets as u64 + s.ring.evicted_packets;
            if seen + s.lost_error == s.taken + s.passed {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// The next result; a lane that gives none is a failure, not a hang.
    pub fn result(&self) -> ClipResult {
        let got = self.results.recv_timeout(Duration::from_secs(120));
        got.expect("a result for every request")
    }

    pub fn ready(&self) -> ReadyClip {
        ready(self.result())
    }

    pub fn path(&self, clip: &ReadyClip) -> PathBuf {
        self.dir.path().join(&clip.file)
    }
}

pub fn ready(result: ClipResult) -> ReadyClip {
    match result.state {
        ClipState::Ready(clip) => clip,
        ClipState::Failed { reason } => panic!("clip {} failed: {reason}", result.id),
    }
}

pub fn reason(result: ClipResult) -> String {
    match result.state {
        ClipState::Failed { reason } => reason,
        ClipState::Ready(clip) => panic!("expected a failure, got {clip:?}"),
    }
}

/// Every file below `dir` whose name ends so.
pub fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A seeded stream of numbers (xorshift64*), so that a failing case can be run again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % n.max(1)
    }

    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low).unwrap())).unwrap()
    }
}
