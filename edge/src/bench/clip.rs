//! What a clip costs: 10 s of 1280×720 at 30 pictures a second, cut by us, by `ffmpeg -c copy` out
//! of two-second segments, and by encoding it again; against writing and syncing the same bytes.
//!
//! Two cuts are measured. *Post-roll over → ready* is what an event waits for: the clip was written
//! while its post-roll ran, and is finished. *All from the ring* is the whole of it at once, as for
//! `cmd/clip`: copied, written in fragments with a sync each, finished.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::Receiver;
use visualpath_core::{NS_PER_S, Name};
use visualpath_media::clip::{
    ClipRequest, ClipResult, ClipState, ClipStore, EvidenceLane, Finish, LaneOptions, Offered,
    ReadyClip,
};
use visualpath_media::encode::{EncoderKind, EncoderOptions, Packet};
use visualpath_media::ring::{PACKET_OVERHEAD, Ring};
use visualpath_media::source::{self, SourceEvent, SourceOptions, StopFlag};

use super::{Row, Samples, median, rss_mb};
use crate::pipeline::build;
use crate::pipeline::summary::cpu_seconds;

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;
const FPS: i64 = 30;
/// Pictures encoded: the clip, and some on both sides.
const FRAMES: i64 = 15 * FPS;
/// The clip asked for begins between two key pictures.
const START_NS: i64 = NS_PER_S * 5 / 2;
const END_NS: i64 = START_NS + 10 * NS_PER_S;
/// Packets of a ring whose overhead is measured.
const MANY: usize = 200_000;
/// Our cuts in a round; a peer makes one.
const CUTS: usize = 5;
const FLOOR: &str = "write + fsync of the same bytes";
const PATIENCE: Duration = Duration::from_secs(120);

/// All rows.
pub fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut encode = Cost::default();
    let packets = encode_all(&mut encode)?;
    let mut rows = vec![encode.row("encode a picture (openh264, one thread)".to_owned())];
    rows.extend(ring_rows(rounds, &packets)?);

    let dir = tempfile::tempdir()?;
    let peers = Peers::prepare(dir.path(), &packets)?;
    let mut costs: [Cost; 5] = Default::default();
    for round in 0..rounds.max(1) {
        for _ in 0..CUTS {
            let [floor, finish, whole, ..] = &mut costs;
            let bytes = whole_cut(dir.path(), &packets, whole)?;
            post_roll(dir.path(), &packets, finish)?;
            write_and_sync(dir.path(), &bytes, floor)?;
        }
        if let Some(peers) = &peers {
            let [_, _, _, copy, again] = &mut costs;
            peers.copy(round, copy)?;
            peers.encode_again(round, again)?;
        }
    }
    let [floor, finish, whole, copy, again] = &costs;
    rows.push(floor.row(FLOOR.to_owned()));
    rows.push(finish.row_to("clip of 10 s: post-roll over → ready".to_owned(), floor));
    rows.push(whole.row_to("clip of 10 s: all from the ring → ready".to_owned(), floor));
    if peers.is_some() {
        rows.push(copy.row_to("ffmpeg -c copy from segments, fsync".to_owned(), floor));
        rows.push(again.row_to("ffmpeg, encoded again (libx264 veryfast)".to_owned(), floor));
    }
    Ok(rows)
}

/// What one way costs.
#[derive(Debug, Default)]
struct Cost {
    wall: Samples,
    cpu_us: Vec<f64>,
    /// Bytes written, of each.
    bytes: Vec<f64>,
}

impl Cost {
    fn add(&mut self, wall: Duration, cpu_us: f64, bytes: u64) {
        self.wall.add(wall);
        self.cpu_us.push(cpu_us);
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        self.bytes.push(bytes as f64);
    }

    fn row(&self, name: String) -> Row {
        Row {
            name,
            width: Some(WIDTH),
            height: Some(HEIGHT),
            p50_us: Some(self.wall.quantile(0.5)),
            p99_us: Some(self.wall.quantile(0.99)),
            cpu_us: Some(median(&self.cpu_us)),
            bytes: Some(median(&self.bytes)),
            n: self.wall.0.len(),
            ..Row::default()
        }
    }

    fn row_to(&self, name: String, floor: &Self) -> Row {
        Row {
            ratio: Some(self.wall.quantile(0.5) / floor.wall.quantile(0.5).max(1e-9)),
            floor: Some(FLOOR),
            ..self.row(name)
        }
    }
}

/// CPU time of this process so far, microseconds, without its children.
fn cpu_us() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "a bench's time")]
    let us = now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3;
    us
}

/// Bytes this process has handed to `write` and its relatives.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|l| l.strip_prefix("wchar: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Noisy pictures with things that move, as packets.
fn encode_all(cost: &mut Cost) -> anyhow::Result<Vec<Packet>> {
    let uri = format!(
        "synthetic:?width={WIDTH}&height={HEIGHT}&fps={FPS}&frames={FRAMES}&shapes=6&noise=2"
    );
    let mut source = source::open(
        &SourceOptions::new(Name::new("bench")?, uri),
        build::clock(),
    )?;
    let pool = build::pool(source.info(), 1, 2, &[])?;
    let mut encoder = EncoderKind::H264.build(EncoderOptions::default());
    let (stop, mut packets) = (StopFlag::new(), Vec::new());
    while let SourceEvent::Frame(frame) = source.next(&pool, &stop)? {
        let before = packets.len();
        let (started, cpu) = (Instant::now(), cpu_us());
        encoder.encode(frame.meta(), frame.pixels(), &mut packets)?;
        let bytes: usize = packets.iter().skip(before).map(|p| p.data.len()).sum();
        cost.add(started.elapsed(), cpu_us() - cpu, bytes as u64);
    }
    anyhow::ensure!(
        i64::try_from(packets.len()) == Ok(FRAMES),
        "a picture is missing"
    );
    Ok(packets)
}

/// What adding a packet takes, evictions included, and what it costs in memory beside its bytes.
fn ring_rows(rounds: usize, packets: &[Packet]) -> anyhow::Result<[Row; 2]> {
    let mut add = Samples::default();
    let n = u32::try_from(packets.len())?;
    for _ in 0..rounds.max(1) * 20 {
        // Half of them are evicted.
        let half = packets.iter().map(Packet::cost).sum::<usize>() / 2;
        let mut ring = Ring::new(half, 2 * NS_PER_S);
        let copies = packets.to_vec();
        let started = Instant::now();
        for packet in copies {
            ring.add(packet)?;
        }
        add.add(started.elapsed() / n);
    }
    let pattern = packets.first().context("packets")?;
    let (mut ring, before) = (Ring::new(usize::MAX, 2 * NS_PER_S), rss_mb());
    let data = pattern.data.slice(..pattern.data.len().min(1));
    for i in 0..MANY {
        let at_ns = i64::try_from(i)? * NS_PER_S / FPS;
        ring.add(Packet {
            data: data.clone(),
            is_key: i % 60 == 0,
            pts_ns: at_ns,
            dts_ns: at_ns,
            frame_id: i as u64,
            params: Arc::clone(&pattern.params),
        })?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let overhead = (rss_mb() - before) * 1048576.0 / MANY as f64;
    drop(ring);
    let add = Row {
        name: "add a packet to the ring".to_owned(),
        p50_us: Some(add.quantile(0.5)),
        p99_us: Some(add.quantile(0.99)),
        n: add.0.len(),
        ..Row::default()
    };
    let overhead = Row {
        name: format!("memory of a packet beside its data (counted as {PACKET_OVERHEAD})"),
        bytes: Some(overhead),
        n: MANY,
        ..Row::default()
    };
    Ok([add, overhead])
}

/// A lane that is fed with packets.
struct Lane {
    lane: EvidenceLane,
    results: Receiver<ClipResult>,
    state: tempfile::TempDir,
}

impl Lane {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let state = tempfile::tempdir_in(dir)?;
        let store = ClipStore::open(state.path(), "clips", 1 << 30)?;
        // With the index, as in a run.
        store.take_over()?;
        let mut options = LaneOptions::new(Name::new("cam0")?, store);
        options.realtime = false;
        let (tell, results) = crossbeam_channel::unbounded();
        let lane = EvidenceLane::start(options, move |result| {
            // The other end is dropped with the lane.
            drop(tell.send(result));
        })?;
        Ok(Self {
            lane,
            results,
            state,
        })
    }

    fn feed(&self, packets: &[Packet]) -> anyhow::Result<()> {
        for packet in packets {
            let offered = self.lane.offer_packet(packet.clone());
            anyhow::ensure!(offered == Offered::Taken, "a packet was not taken");
        }
        Ok(())
    }

    /// Until everything offered is in the ring and in the clips.
    fn settle(&self) {
        loop {
            let s = self.lane.stats();
            if s.ring.packets as u64 + s.ring.evicted_packets == s.passed {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn ask(&self, start_ns: i64, end_ns: i64) -> anyhow::Result<()> {
        let event_ns = i64::midpoint(start_ns, end_ns);
        self.lane.request(ClipRequest {
            id: uuid::Uuid::now_v7().to_string(),
            trigger_id: "bench".to_owned(),
            path: Name::new("bench")?,
            label: Name::new("bench")?,
            event_ns,
            wall_ns: NS_PER_S * 1_795_377_600,
            start_ns,
            end_ns,
            best_ns: None,
        });
        Ok(())
    }

    fn ready(&self) -> anyhow::Result<ReadyClip> {
        match self.results.recv_timeout(PATIENCE)?.state {
            ClipState::Ready(clip) => Ok(clip),
            ClipState::Failed { reason } => anyhow::bail!("the clip failed: {reason}"),
        }
    }

    fn file(&self, clip: &ReadyClip) -> PathBuf {
        self.state.path().join(&clip.file)
    }

    fn end(&self) -> anyhow::Result<()> {
        Ok(self.lane.finish(Finish::SourceEnd, PATIENCE)?)
    }
}

/// The clip is asked for when it is all in the ring; gives its bytes.
fn whole_cut(dir: &Path, packets: &[Packet], cost: &mut Cost) -> anyhow::Result<Vec<u8>> {
    let lane = Lane::start(dir)?;
    lane.feed(packets)?;
    lane.settle();
    let (before, cpu, started) = (written(), cpu_us(), Instant::now());
    lane.ask(START_NS, END_NS)?;
    let clip = lane.ready()?;
    cost.add(started.elapsed(), cpu_us() - cpu, written() - before);
    lane.end()?;
    Ok(std::fs::read(lane.file(&clip))?)
}

/// The clip is asked for at its event, and written while its second half is recorded.
fn post_roll(dir: &Path, packets: &[Packet], cost: &mut Cost) -> anyhow::Result<()> {
    let until = |t: i64| packets.iter().take_while(|p| p.pts_ns < t).count();
    let (event, last) = (until(i64::midpoint(START_NS, END_NS)), until(END_NS));
    let part = |range: std::ops::Range<usize>| packets.get(range).context("packets");
    let lane = Lane::start(dir)?;
    let before = written();
    lane.feed(part(0..event)?)?;
    lane.ask(START_NS, END_NS)?;
    lane.feed(part(event..last)?)?;
    lane.settle();
    let (cpu, started) = (cpu_us(), Instant::now());
    lane.feed(part(last..last + 1)?)?;
    lane.ready()?;
    cost.add(started.elapsed(), cpu_us() - cpu, written() - before);
    lane.end()
}

fn write_and_sync(dir: &Path, bytes: &[u8], cost: &mut Cost) -> anyhow::Result<()> {
    let path = dir.join("floor");
    let (cpu, started) = (cpu_us(), Instant::now());
    let mut file = std::fs::File::create(&path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    cost.add(started.elapsed(), cpu_us() - cpu, bytes.len() as u64);
    Ok(std::fs::remove_file(path)?)
}

/// The same clip by ffmpeg.
struct Peers {
    dir: PathBuf,
    list: PathBuf,
    whole: PathBuf,
}

impl Peers {
    /// Segments as a recorder keeps them; `None` without ffmpeg.
    fn prepare(dir: &Path, packets: &[Packet]) -> anyhow::Result<Option<Self>> {
        let found = Command::new("ffmpeg").arg("-version").output();
        if !found.is_ok_and(|o| o.status.success()) {
            tracing::warn!("no ffmpeg: its rows are left out");
            return Ok(None);
        }
        let lane = Lane::start(dir)?;
        lane.feed(packets)?;
        lane.ask(0, FRAMES * NS_PER_S)?;
        lane.end()?;
        let whole = dir.join("whole.mp4");
        std::fs::rename(lane.file(&lane.ready()?), &whole)?;
        let list = dir.join("segments.txt");
        let mut split = ffmpeg(&whole);
        split.args(["-c", "copy", "-f", "segment", "-segment_time", "2"]);
        split.arg("-segment_list").arg(&list);
        split.args(["-segment_list_type", "ffconcat"]);
        run(split.arg(dir.join("segment%03d.ts")))?;
        Ok(Some(Self {
            dir: dir.to_owned(),
            list,
            whole,
        }))
    }

    fn copy(&self, round: usize, cost: &mut Cost) -> anyhow::Result<()> {
        let out = self.dir.join(format!("copy{round}.mp4"));
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y", "-f", "concat", "-i"]);
        command.arg(&self.list).args(["-ss", "2.5", "-t", "10"]);
        command.args(["-c", "copy"]).arg(&out);
        measure(&mut command, &out, cost)
    }

    fn encode_again(&self, round: usize, cost: &mut Cost) -> anyhow::Result<()> {
        let out = self.dir.join(format!("again{round}.mp4"));
        let mut command = Command::new("ffmpeg");
        command.args([
            "-v", "error", "-nostdin", "-y", "-ss", "2.5", "-t", "10", "-i",
        ]);
        command.arg(&self.whole);
        command
            .args(["-c:v", "libx264", "-preset", "veryfast"])
            .arg(&out);
        measure(&mut command, &out, cost)
    }
}

fn ffmpeg(input: &Path) -> Command {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-v", "error", "-nostdin", "-y", "-i"])
        .arg(input);
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let out = command.output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success(), "{command:?}: {errors}");
    Ok(())
}

/// Runs it and makes its file durable. Its CPU time comes in ticks of 10 ms.
fn measure(command: &mut Command, out: &Path, cost: &mut Cost) -> anyhow::Result<()> {
    let (cpu, started) = (cpu_seconds(), Instant::now());
    run(command)?;
    let file = std::fs::File::open(out)?;
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    cost.add(started.elapsed(), (cpu_seconds() - cpu) * 1e6, bytes);
    Ok(std::fs::remove_file(out)?)
}
