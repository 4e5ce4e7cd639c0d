//! Handing one frame to a worker process and getting its answer, beside a bare ZMQ echo and beside
//! the original's way.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use visualpath_core::{
    ColorSpec, Extractor, ExtractorPlugin, ImageLayout, Name, PixelFormat, PluginContext,
    PluginError, ViewFormat, ViewSpec,
};
use visualpath_frames::{Frame, FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::jpeg;
use visualpath_platform::isolation::{
    ChildEvent, ChildSpec, ChildWorker, Launcher, Pixels, Program,
};
use visualpath_platform::{Bell, Job, Merger};

use super::handoff::{Glance, PACED, SIZES, TRIPS, duel, frame, row};
use super::{Options, Row, Samples, median};
use crate::config::{Config, ExtractorConfig};
use crate::pipeline::build;
use crate::workers::{Host, Rights, Runs};

/// The plugin of the children here; known to `visualpath worker` only.
pub(crate) const GLANCE: &str = "bench_glance";

struct Plugin;

/// Looks at one pixel.
pub(crate) fn plugin() -> Arc<dyn ExtractorPlugin> {
    Arc::new(Plugin)
}

const VIEW: ViewSpec = ViewSpec {
    format: ViewFormat::Bgr,
    size: None,
    fit: visualpath_core::Fit::Stretch,
    filter: visualpath_core::Filter::Bilinear,
};

impl ExtractorPlugin for Plugin {
    fn name(&self) -> &str {
        GLANCE
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
        Ok(VIEW)
    }

    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(Vec::new())
    }

    fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        Ok(Box::new(Glance))
    }
}

/// A child that is up.
struct Worker {
    child: ChildWorker,
    rss_mb: f64,
    start: Duration,
}

impl Worker {
    fn start(program: Program, pixels: Pixels) -> anyhow::Result<Self> {
        let name = Name::new("bench")?;
        let context = PluginContext {
            name: name.clone(),
            config: serde_json::Map::new(),
            zones: Vec::new(),
            masks: Vec::new(),
            model_dirs: Vec::new(),
        };
        let bell = Bell::new()?;
        let started = Instant::now();
        let merger = Merger::new(name, Vec::new());
        let spec = ChildSpec::new(context, program);
        let mut child = ChildWorker::start(Launcher::global()?, spec, VIEW, pixels, merger, &bell);
        let pid = loop {
            match child.wait(None) {
                Some(ChildEvent::Up(facts)) => break facts.pid,
                Some(ChildEvent::Down(why, _) | ChildEvent::Hold(why, _)) => anyhow::bail!("{why}"),
                _ => {}
            }
        };
        let start = started.elapsed();
        Ok(Self {
            child,
            rss_mb: rss_mb(pid)?,
            start,
        })
    }

    fn trip(&mut self, frame: Frame) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.child.dispatch(Job::new(frame));
        loop {
            match self.child.wait(None) {
                Some(ChildEvent::Reply(reply)) => {
                    let took = started.elapsed();
                    if let visualpath_core::Outcome::Failed(why) = reply.outcome {
                        anyhow::bail!("{why}");
                    }
                    return Ok(took);
                }
                Some(ChildEvent::Down(why, _) | ChildEvent::Hold(why, _)) => anyhow::bail!("{why}"),
                _ => {}
            }
        }
    }
}

/// Memory of a process that no other shares, MiB.
fn rss_mb(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib: f64 = text
        .lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok())
        .sum();
    Ok(kib / 1024.0)
}

/// Bytes of the messages of a hand-off, as they are for a frame with nothing in it.
const ASK: usize = 128;
const ANSWER: usize = 24;

/// What the echo process is told by.
pub(crate) const ECHO_ENV: &str = "VISUALPATH_BENCH_ECHO";

/// The echo process: `zmq` answers with [`ANSWER`] bytes, `jpeg` as the original did.
pub(crate) fn echo(how: &str) -> anyhow::Result<()> {
    let (kind, endpoint) = how
        .split_once(' ')
        .ok_or_else(|| anyhow::anyhow!("{ECHO_ENV}: kind and endpoint"))?;
    let context = zmq::Context::new();
    let jpeg = kind == "jpeg";
    let socket = context.socket(if jpeg { zmq::REP } else { zmq::DEALER })?;
    if !jpeg {
        socket.set_identity(b"echo")?;
    }
    socket.connect(endpoint)?;
    if !jpeg {
        socket.send("", 0)?;
    }
    let mut message = zmq::Message::new();
    loop {
        socket.recv(&mut message, 0)?;
        if message.is_empty() {
            return Ok(());
        }
        if !jpeg {
            socket.send([0_u8; ANSWER].as_slice(), 0)?;
            continue;
        }
        let asked: serde_json::Value = serde_json::from_slice(&message)?;
        let text = asked["frame"].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
        let (_, _, pixels) = jpeg::decode_bgr(&bytes)?;
        std::hint::black_box(pixels.first());
        socket.send(r#"{"observations":[]}"#, 0)?;
    }
}

/// A process at the other end of a bare socket.
struct Echo {
    socket: zmq::Socket,
    child: Child,
    _context: zmq::Context,
    _dir: tempfile::TempDir,
}

impl Echo {
    fn start(kind: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", dir.path().join("s").display());
        let context = zmq::Context::new();
        let jpeg = kind == "jpeg";
        let socket = context.socket(if jpeg { zmq::REQ } else { zmq::ROUTER })?;
        socket.set_linger(0)?;
        socket.bind(&endpoint)?;
        let child = Command::new(std::env::current_exe()?)
            .arg("bench")
            .env(ECHO_ENV, format!("{kind} {endpoint}"))
            .stdin(Stdio::null())
            .spawn()?;
        if !jpeg {
            socket.recv_multipart(0)?;
        }
        Ok(Self {
            socket,
            child,
            _context: context,
            _dir: dir,
        })
    }

    fn trip(&self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.socket.send("echo", zmq::SNDMORE)?;
        self.socket.send([1_u8; ASK].as_slice(), 0)?;
        self.socket.recv_bytes(0)?;
        self.socket.recv_bytes(0)?;
        Ok(started.elapsed())
    }

    /// JPEG, base64 and JSON over REQ/REP.
    fn original(&self, frame: &Frame) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let id = frame.pool().view_id(&VIEW);
        let id = id.ok_or_else(|| anyhow::anyhow!("the pool has no such view"))?;
        let jpeg = jpeg::encode(&frame.view(id)?, 95)?;
        let text = base64::engine::general_purpose::STANDARD.encode(jpeg);
        let meta = frame.meta();
        let asked =
            serde_json::json!({"frame_id": meta.frame_id, "t_ns": meta.t_ns, "frame": text});
        self.socket.send(asked.to_string().as_str(), 0)?;
        let answer: serde_json::Value = serde_json::from_slice(&self.socket.recv_bytes(0)?)?;
        std::hint::black_box(answer);
        Ok(started.elapsed())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may be gone already.
        if self.child.kill().is_ok() && self.child.wait().is_err() {
            tracing::debug!("the echo process was not reaped");
        }
    }
}

/// A pool whose BGR view every frame has already, so that no conversion is measured: it is made once
/// per frame however many want it.
fn pool(width: u32, height: u32) -> anyhow::Result<FramePool> {
    let native = ImageLayout::packed(PixelFormat::Bgr, width, height, ColorSpec::default());
    let pool = FramePool::memfd(
        &PoolSpec {
            pool_id: width,
            slots: 8,
            native,
            native_room: 0,
            views: vec![VIEW],
        },
        Arc::new(Converter::new()),
    )?;
    // Something that a JPEG has to work on.
    let mut noise = 1_u32;
    let mut slots = Vec::new();
    while let Some(mut slot) = pool.try_acquire() {
        for (i, p) in slot.pixels_mut().iter_mut().enumerate() {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let ramp = u8::try_from(i / 7 % 200).unwrap_or(0);
            *p = ramp + u8::try_from(noise >> 28).unwrap_or(0);
        }
        slots.push(slot);
    }
    Ok(pool)
}

/// One kind of worker.
struct Kind {
    name: &'static str,
    isolation: &'static str,
    transport: &'static str,
    worker: Worker,
    /// Fewer trips for the slow ones.
    share: usize,
}

fn kinds(options: &Options, state: &std::path::Path) -> anyhow::Result<Vec<Kind>> {
    let mut config = Config::default();
    state.clone_into(&mut config.device.state_dir);
    let host = Host::new(&config)?;
    let settings = ExtractorConfig::new(GLANCE);
    let start = |runs: &Runs, name: &str, pixels| {
        let program = host.program(runs, name, &Rights::from(&settings))?;
        Worker::start(program, pixels)
    };
    let rust = Runs::BuiltIn(GLANCE.to_owned());
    let kind = |name, isolation, transport, worker, share| Kind {
        name,
        isolation,
        transport,
        worker,
        share,
    };
    let mut kinds = vec![
        kind(
            "process, shm",
            "process",
            "shm",
            start(&rust, "shm", Pixels::Slot)?,
            1,
        ),
        kind(
            "process, message",
            "process",
            "message",
            start(&rust, "raw", Pixels::Raw)?,
            8,
        ),
        kind(
            "process, message as JPEG",
            "process",
            "message",
            start(&rust, "jpeg", build::jpeg())?,
            64,
        ),
    ];
    if let Some(python) = &options.python {
        let python =
            crate::workers::python(python, "extractor", "visualpath_edge.glance:Glance", None);
        kinds.push(kind(
            "venv, shm",
            "venv",
            "shm",
            start(&python, "venv", Pixels::Slot)?,
            1,
        ));
    }
    Ok(kinds)
}

/// One more who looks at a view that another has already had made: a lease, and the look.
fn subscriber() -> anyhow::Result<Row> {
    let pool = pool(1280, 720)?;
    let spec = ViewSpec {
        format: ViewFormat::Grey,
        ..VIEW
    };
    let pool = FramePool::memfd(
        &PoolSpec {
            pool_id: 1,
            slots: 2,
            native: *pool.layout().native(),
            native_room: 0,
            views: vec![spec],
        },
        Arc::new(Converter::new()),
    )?;
    let frame = frame(&pool, 1, 0)?;
    let id = pool.view_id(&spec);
    let id = id.ok_or_else(|| anyhow::anyhow!("the pool has no such view"))?;
    std::hint::black_box(frame.view(id)?.pixels.first());
    let holder = pool.holder("extra");
    let mut samples = Samples::default();
    for _ in 0..TRIPS {
        let started = Instant::now();
        let lease = frame.lease(holder);
        std::hint::black_box(lease.view(id)?.pixels.first());
        drop(lease);
        samples.add(started.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let copies = pool.stats().copies as f64;
    Ok(Row {
        width: Some(1280),
        height: Some(720),
        copies: Some(copies),
        ..row(
            "extra subscriber of a view 1280x720".to_owned(),
            &samples,
            "inline",
            "none",
        )
    })
}

const HOWS: [(&str, Option<Duration>); 2] = [
    ("back to back", None),
    ("30/s", Some(Duration::from_nanos(33_333_333))),
];

/// Rows for every kind of worker process at each size, and the original's way.
pub fn rows(options: &Options) -> anyhow::Result<Vec<Row>> {
    let state = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let echo = Echo::start("zmq")?;
    let original = Echo::start("jpeg")?;
    let mut kinds = kinds(options, state.path())?;
    for (width, height) in SIZES {
        let pool = pool(width, height)?;
        let mut id = 0;
        let mut next = || {
            id += 1;
            frame(&pool, id, 0)
        };
        for (how, pace) in HOWS {
            let paced = pace.is_some();
            let trips = |share: usize| if paced { PACED } else { TRIPS / share };
            let name = |kind: &str| format!("{kind} {width}x{height}, {how}");
            for kind in &mut kinds {
                let copies = pool.stats().copies;
                let trip = || kind.worker.trip(next()?);
                let d = duel(
                    options.rounds,
                    trips(kind.share),
                    pace,
                    || echo.trip(),
                    trip,
                )?;
                let copied = pool.stats().copies - copies;
                if (width, height) == SIZES[0] && kind.name == "process, shm" {
                    rows.push(row(
                        format!("ZMQ echo, {how}"),
                        &d.floor,
                        "floor",
                        "zmq-echo",
                    ));
                }
                #[expect(clippy::cast_precision_loss, reason = "a mean")]
                let copies =
                    copied as f64 / (trips(kind.share) * 11 / 10 * options.rounds.max(1)) as f64;
                rows.push(Row {
                    width: Some(width),
                    height: Some(height),
                    cpu_us: Some(d.cpu_us),
                    copies: Some(copies),
                    ratio: Some(median(&d.ratios)),
                    floor: Some("zmq-echo"),
                    ..row(name(kind.name), &d.ours, kind.isolation, kind.transport)
                });
            }
            let trip = || original.original(&next()?);
            let d = duel(options.rounds, trips(64), pace, || echo.trip(), trip)?;
            rows.push(Row {
                width: Some(width),
                height: Some(height),
                cpu_us: Some(d.cpu_us),
                ratio: Some(median(&d.ratios)),
                floor: Some("zmq-echo"),
                ..row(name("as the original"), &d.ours, "process", "jpeg-json")
            });
        }
    }
    rows.push(subscriber()?);
    for kind in kinds {
        rows.push(Row {
            isolation: Some(kind.isolation),
            transport: Some(kind.transport),
            p50_us: Some(kind.worker.start.as_secs_f64() * 1e6),
            p99_us: Some(kind.worker.start.as_secs_f64() * 1e6),
            rss_mb: Some(kind.worker.rss_mb),
            n: 1,
            name: format!("start-up, {}", kind.name),
            ..Row::default()
        });
    }
    Ok(rows)
}
