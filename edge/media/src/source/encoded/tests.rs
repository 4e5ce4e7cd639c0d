//! On scripted connections: what is told, in which order, with which numbers.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use visualpath_core::{FrameMeta, MonotonicClock};
use visualpath_frames::PoolSpec;

use super::*;
use crate::convert::Converter;
use crate::decode;
use crate::encode::{CodecParams, Encoder, EncoderOptions, OpenH264};

const W: u32 = 64;
const H: u32 = 48;

/// What a scripted connection gives, one after the other; then nothing.
type Script = VecDeque<Result<Unit, StreamError>>;

struct Scripted {
    connections: VecDeque<Result<Script, ConnectError>>,
    attempts: Arc<Mutex<Vec<Instant>>>,
}

struct Playing(Script);

impl Connect for Scripted {
    fn connect(&mut self, _stop: &StopFlag) -> Result<Box<dyn PacketStream>, ConnectError> {
        self.attempts.lock().unwrap().push(Instant::now());
        match self.connections.pop_front() {
            Some(Ok(script)) => Ok(Box::new(Playing(script))),
            Some(Err(e)) => Err(e),
            None => Err(ConnectError::failed("the script is over", "")),
        }
    }

    fn describe(&self) -> String {
        "scripted".to_owned()
    }
}

impl PacketStream for Playing {
    fn next(&mut self, limit: Duration) -> Result<Unit, StreamError> {
        match self.0.pop_front() {
            Some(unit) => unit,
            None => {
                std::thread::sleep(limit);
                Ok(Unit::Waiting)
            }
        }
    }
}

/// Our own encoder's packets: a key packet every five.
fn h264(count: u64, width: u32, height: u32) -> Vec<Packet> {
    let options = EncoderOptions {
        gop_ns: 5 * 40_000_000,
        ..EncoderOptions::default()
    };
    let mut encoder = OpenH264::new(options);
    let layout = ImageLayout::packed(PixelFormat::I420, width, height, ColorSpec::default());
    let mut packets = Vec::new();
    for n in 0..count {
        let meta = FrameMeta {
            frame_id: n,
            t_ns: n as i64 * 40_000_000,
            epoch: 0,
            layout,
        };
        let pixels = vec![(n * 10 % 200 + 20) as u8; layout.bytes()];
        encoder.encode(&meta, &pixels, &mut packets).unwrap();
    }
    packets
}

fn unit(packet: &Packet) -> Result<Unit, StreamError> {
    Ok(Unit::Packet(Incoming {
        params: Arc::clone(&packet.params),
        data: packet.data.clone(),
        is_key: packet.is_key,
        time: UnitTime::Device(packet.pts_ns),
        shown_after_ns: 0,
    }))
}

fn units(packets: &[Packet]) -> Script {
    packets.iter().map(unit).collect()
}

struct Bench {
    source: EncodedSource<Scripted>,
    pool: FramePool,
    attempts: Arc<Mutex<Vec<Instant>>>,
    stop: StopFlag,
    /// Frames that are held, so that their slots are not free.
    held: Vec<visualpath_frames::Frame>,
}

fn pool_for(info: &SourceInfo, slots: usize) -> FramePool {
    static NEXT: AtomicU32 = AtomicU32::new(7000);
    let spec = PoolSpec {
        pool_id: NEXT.fetch_add(1, Ordering::Relaxed),
        slots,
        native: info.layout,
        native_room: 0,
        views: Vec::new(),
    };
    FramePool::heap(&spec, Arc::new(Converter::new())).unwrap()
}

impl Bench {
    fn new(connections: Vec<Result<Script, ConnectError>>) -> Self {
        let attempts = Arc::default();
        let connect = Scripted {
            connections: connections.into(),
            attempts: Arc::clone(&attempts),
        };
        let opts = SourceOptions::new(Name::new("cam0").unwrap(), "scripted:");
        let source = EncodedSource::new(&opts, Arc::new(MonotonicClock::new()), connect);
        let pool = pool_for(source.info(), 3);
        Self {
            source,
            pool,
            attempts,
            stop: StopFlag::new(),
            held: Vec::new(),
        }
    }

    fn needs_packets(mut self) -> Self {
        self.source.adjust(&Needs {
            packets: true,
            ..Needs::default()
        });
        self
    }

    /// Events as words, up to and with the first that `last` is the beginning of.
    fn until(&mut self, last: &str) -> Vec<String> {
        let guard = Instant::now();
        let mut out: Vec<String> = Vec::new();
        while guard.elapsed() < Duration::from_secs(60) {
            let word = match self.source.next(&self.pool, &self.stop).unwrap() {
                SourceEvent::Frame(frame) => {
                    let m = frame.meta();
                    let word = format!("frame {} epoch {}", m.frame_id, m.epoch);
                    if self.pool.available() == 0 {
                        self.held.push(frame);
                    }
                    word
                }
                SourceEvent::Packet(p) => format!("packet {}", p.frame_id),
                SourceEvent::Gap(g) => format!("gap {} {}", g.lost, g.cause.as_str()),
                SourceEvent::Offline(o) => format!("offline {}", o.detail),
                SourceEvent::Online => "online".to_owned(),
                SourceEvent::NewFormat(info) => {
                    self.pool = pool_for(&info, 3);
                    format!("format {}x{}", info.layout.width, info.layout.height)
                }
                other => format!("{other:?}"),
            };
            let done = word.starts_with(last);
            out.push(word);
            if done {
                return out;
            }
        }
        panic!("no `{last}` in {out:?}");
    }
}

#[test]
fn the_format_comes_first_then_each_packet_before_its_frame() {
    let packets = h264(3, W, H);
    let mut bench = Bench::new(vec![Ok(units(&packets))]).needs_packets();
    assert_eq!(
        bench.until("frame 2"),
        [
            "online",
            "format 64x48",
            "packet 0",
            "frame 0 epoch 0",
            "packet 1",
            "frame 1 epoch 0",
            "packet 2",
            "frame 2 epoch 0",
        ]
    );
    let info = bench.source.info();
    assert_eq!(info.encoded, Some(Codec::H264));
}

#[test]
fn packets_before_the_first_key_are_dropped_and_use_up_no_number() {
    let packets = h264(12, W, H);
    let mut script = units(&packets[3..]);
    script.push_front(Ok(Unit::Lost(2)));
    let mut bench = Bench::new(vec![Ok(script)]).needs_packets();
    let seen = bench.until("frame 1");
    assert_eq!(seen[..3], ["online", "format 64x48", "packet 0"]);
    assert!(!seen.iter().any(|e| e.starts_with("gap")), "{seen:?}");
}

#[test]
fn after_a_loss_everything_waits_for_the_next_key_and_is_counted() {
    let packets = h264(12, W, H);
    let mut script = units(&packets);
    script.remove(2);
    script.insert(2, Ok(Unit::Lost(1)));
    let mut bench = Bench::new(vec![Ok(script)]).needs_packets();
    let seen = bench.until("frame 6");
    // 2 is lost, 3 and 4 need it, 5 is a key picture.
    assert_eq!(
        seen[6..],
        [
            "gap 1 missed",
            "packet 5",
            "gap 2 undecodable",
            "frame 5 epoch 0",
            "packet 6",
            "frame 6 epoch 0",
        ],
        "{seen:?}"
    );
}

#[test]
fn a_packet_that_can_not_be_decoded_costs_pictures_but_no_evidence() {
    let mut packets = h264(8, W, H);
    packets[1].data = packets[1].data.slice(..9);
    let mut bench = Bench::new(vec![Ok(units(&packets))]).needs_packets();
    let seen = bench.until("frame 5");
    let told: Vec<_> = seen.iter().filter(|e| e.starts_with("packet")).collect();
    assert_eq!(told.len(), 6, "{seen:?}");
    assert_eq!(seen[seen.len() - 2], "gap 4 undecodable");
}

#[test]
fn an_outage_is_told_once_and_ends_in_a_new_epoch_with_dense_numbers() {
    let packets = h264(4, W, H);
    let mut first = units(&packets);
    first.push_back(Err(StreamError::failed("the cable is out", "put it in")));
    let down = || Err(ConnectError::failed("nobody answers", "wait"));
    let mut bench = Bench::new(vec![Ok(first), down(), down(), Ok(units(&packets))]);
    bench.until("frame 3");
    let seen = bench.until("frame 4");
    assert_eq!(
        seen,
        [
            "offline the cable is out",
            "offline nobody answers",
            "online",
            "gap 0 disconnected",
            "frame 4 epoch 1",
        ]
    );
    let attempts = bench.attempts.lock().unwrap();
    assert_eq!(attempts.len(), 4);
    let waits: Vec<_> = attempts.windows(2).map(|w| w[1] - w[0]).collect();
    for (wait, at_least_ms) in waits.iter().zip([375, 750, 1500]) {
        assert!(wait.as_millis() >= at_least_ms, "{waits:?}");
    }
}

#[test]
fn time_is_not_reset_by_an_outage() {
    let packets = h264(2, W, H);
    let mut first = units(&packets);
    first.push_back(Ok(Unit::End));
    let mut bench = Bench::new(vec![Ok(first), Ok(units(&packets))]);
    let mut times = Vec::new();
    while times.len() < 4 {
        match bench.source.next(&bench.pool, &bench.stop).unwrap() {
            SourceEvent::Frame(frame) => times.push(frame.meta().t_ns),
            SourceEvent::NewFormat(info) => bench.pool = pool_for(&info, 3),
            _ => {}
        }
    }
    assert_eq!(
        times[1] - times[0],
        40_000_000,
        "the device's distances: {times:?}"
    );
    assert!(times[2] - times[1] > 300_000_000, "{times:?}");
    assert_eq!(times[3] - times[2], 40_000_000, "{times:?}");
}

#[test]
fn a_connection_that_gives_nothing_is_made_anew() {
    let packets = h264(5, W, H);
    let mut bench = Bench::new(vec![
        Ok(units(&packets)),
        Ok(Script::new()),
        Ok(units(&packets)),
    ]);
    bench.source = bench.source.with_start_limit(Duration::from_millis(200));
    bench.until("frame 4");
    let seen = bench.until("frame 5");
    let stalls = seen
        .iter()
        .filter(|e| e.starts_with("offline scripted: nothing for"))
        .count();
    assert_eq!(stalls, 2, "{seen:?}");
    assert_eq!(seen[seen.len() - 2], "gap 0 stalled");
}

#[test]
fn without_a_free_slot_pictures_are_dropped_not_waited_for() {
    let packets = h264(8, W, H);
    let mut bench = Bench::new(vec![Ok(units(&packets))]).needs_packets();
    bench.until("format");
    bench.held.clear();
    let all: Vec<_> = std::iter::from_fn(|| bench.pool.try_acquire()).collect();
    let seen = bench.until("packet 4");
    assert!(!seen.iter().any(|e| e.starts_with("frame")), "{seen:?}");
    drop(all);
    let seen = bench.until("frame");
    assert_eq!(seen, ["gap 4 pool_exhausted", "frame 4 epoch 0"]);
}

#[test]
fn other_parameter_sets_are_a_new_format_and_epoch() {
    let script: Script = h264(3, W, H)
        .iter()
        .chain(&h264(2, 96, 64))
        .map(unit)
        .collect();
    let mut bench = Bench::new(vec![Ok(script)]);
    let seen = bench.until("frame 4");
    assert_eq!(
        seen,
        [
            "online",
            "format 64x48",
            "frame 0 epoch 0",
            "frame 1 epoch 0",
            "frame 2 epoch 0",
            "format 96x64",
            "frame 3 epoch 1",
            "frame 4 epoch 1",
        ]
    );
}

#[test]
fn a_stream_with_painted_over_parts_gives_no_packets() {
    let packets = h264(3, W, H);
    let mut bench = Bench::new(vec![Ok(units(&packets))]).needs_packets();
    bench.source.is_private = true;
    let seen = bench.until("frame 2");
    assert!(!seen.iter().any(|e| e.starts_with("packet")), "{seen:?}");
    assert_eq!(bench.source.info().encoded, None);
}

#[test]
fn a_stop_is_seen_while_waiting_and_ends_the_source() {
    let mut bench = Bench::new(vec![Ok(Script::new())]);
    let stop = bench.stop.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.stop();
    });
    assert_eq!(bench.until("Stopped"), ["Stopped"]);
    stopper.join().unwrap();
    assert!(bench.until("End").len() == 1);
}

#[test]
fn jpegs_are_decoded_no_larger_than_needed() {
    let pixels = vec![90_u8; 320 * 240 * 3];
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: 320,
        pitch: 960,
        height: 240,
        format: turbojpeg::PixelFormat::RGB,
    };
    let jpeg = turbojpeg::compress(image, 80, turbojpeg::Subsamp::Sub2x2).unwrap();
    let params = Arc::new(CodecParams {
        codec: Codec::Mjpeg,
        width: 320,
        height: 240,
        color: decode::JPEG_COLOR,
        vps: Bytes::new(),
        sps: Bytes::new(),
        pps: Bytes::new(),
    });
    let script: Script = (0..4)
        .map(|_| {
            Ok(Unit::Packet(Incoming {
                params: Arc::clone(&params),
                data: Bytes::copy_from_slice(&jpeg),
                is_key: true,
                time: UnitTime::Arrival,
                shown_after_ns: 0,
            }))
        })
        .collect();
    let mut bench = Bench::new(vec![Ok(script)]);
    bench.until("frame 0");
    assert_eq!(bench.source.info().layout.width, 320);
    bench.source.adjust(&Needs {
        at_least: Some((100, 100)),
        ..Needs::default()
    });
    let seen = bench.until("frame 1");
    assert_eq!(seen, ["format 160x120", "frame 1 epoch 1"]);
}
