//! Handing one frame to a worker and getting its answer, beside the bare channel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use visualpath_core::{
    ColorSpec, ExtractError, Extractor, FrameMeta, FrameView, ImageLayout, Name, Observation,
    PixelFormat, ViewSpec,
};
use visualpath_frames::{Frame, FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_platform::worker::{Reply, ThreadWorker, Ticket};
use visualpath_platform::{Bell, Job, Merger, Runner};

use super::{Row, Samples, allocations, allocations_since, median};
use crate::pipeline::summary::cpu_seconds;

/// Looks at one pixel, so that nothing can be left out, and finds nothing.
pub(super) struct Glance;

impl Extractor for Glance {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        std::hint::black_box(frame.pixels.first());
        Ok(Vec::new())
    }
}

pub(super) fn glance(name: &str) -> anyhow::Result<Runner> {
    let name = Name::new(name)?;
    let merger = Merger::new(name.clone(), Vec::new());
    Ok(Runner::new(
        name,
        ViewSpec::default(),
        merger,
        Box::new(|| Ok(Box::new(Glance))),
    )?)
}

pub(super) fn pool(width: u32, height: u32) -> anyhow::Result<FramePool> {
    let native = ImageLayout::packed(PixelFormat::I420, width, height, ColorSpec::default());
    Ok(FramePool::memfd(
        &PoolSpec {
            pool_id: 1,
            slots: 8,
            native,
            native_room: 0,
            views: vec![],
        },
        Arc::new(Converter::new()),
    )?)
}

pub(super) fn frame(pool: &FramePool, frame_id: u64, t_ns: i64) -> anyhow::Result<Frame> {
    let slot = pool
        .try_acquire()
        .ok_or_else(|| anyhow::anyhow!("the pool is exhausted: {}", pool.held_by()))?;
    let layout = *pool.layout().native();
    Ok(slot.publish(
        FrameMeta {
            frame_id,
            t_ns,
            epoch: 0,
            layout,
        },
        pool.holder("bench"),
    ))
}

/// About what travels: a lease and its metadata.
type Parcel = [u8; 256];

/// A thread that sends back what it gets.
struct Echo {
    to: Sender<Parcel>,
    from: Receiver<Parcel>,
}

impl Echo {
    fn start() -> anyhow::Result<Self> {
        let (to, inbox) = bounded::<Parcel>(1);
        let (outbox, from) = bounded(2);
        std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || {
                for parcel in inbox {
                    if outbox.send(parcel).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { to, from })
    }

    fn trip(&self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.to.send([0; 256])?;
        std::hint::black_box(self.from.recv()?);
        Ok(started.elapsed())
    }
}

struct Threaded {
    worker: ThreadWorker,
    replies: Receiver<(Ticket, Reply)>,
}

impl Threaded {
    fn start() -> anyhow::Result<Self> {
        let (tx, replies) = Bell::new()?.channel(2);
        let ticket = Ticket { lane: 0, serial: 1 };
        Ok(Self {
            worker: ThreadWorker::start(glance("bench")?, ticket, tx)?,
            replies,
        })
    }

    fn trip(&self, frame: Frame) -> anyhow::Result<Duration> {
        let started = Instant::now();
        if !self.worker.dispatch(Job::new(frame)) {
            anyhow::bail!("the worker's thread is gone");
        }
        std::hint::black_box(self.replies.recv()?);
        Ok(started.elapsed())
    }
}

pub(super) const SIZES: [(u32, u32); 3] = [(640, 480), (1280, 720), (1920, 1080)];
/// Back to back, per round.
pub(super) const TRIPS: usize = 4000;
/// Paced at 30 per second, per round.
pub(super) const PACED: usize = 30;

/// Samples of a floor and of what is compared with it, in turns; per-round ratios of medians.
pub(super) struct Duel {
    pub floor: Samples,
    pub ours: Samples,
    pub ratios: Vec<f64>,
    pub cpu_us: f64,
}

pub(super) fn duel(
    rounds: usize,
    trips: usize,
    pace: Option<Duration>,
    mut floor: impl FnMut() -> anyhow::Result<Duration>,
    mut ours: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Duel> {
    let mut duel = Duel {
        floor: Samples::default(),
        ours: Samples::default(),
        ratios: vec![],
        cpu_us: 0.0,
    };
    let one_round =
        |trip: &mut dyn FnMut() -> anyhow::Result<Duration>| -> anyhow::Result<Samples> {
            let mut samples = Samples::default();
            for i in 0..trips + trips / 10 {
                if let Some(pace) = pace {
                    std::thread::sleep(pace);
                }
                let time = trip()?;
                if i >= trips / 10 {
                    samples.add(time);
                }
            }
            Ok(samples)
        };
    for _ in 0..rounds.max(1) {
        let f = one_round(&mut floor)?;
        let cpu = cpu_seconds();
        let o = one_round(&mut ours)?;
        duel.cpu_us += cpu_seconds() - cpu;
        duel.ratios.push(o.quantile(0.5) / f.quantile(0.5));
        duel.floor.0.extend(f.0);
        duel.ours.0.extend(o.0);
    }
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let n = duel.ours.0.len().max(1) as f64;
    duel.cpu_us = duel.cpu_us * 1e6 / n;
    Ok(duel)
}

pub(super) fn row(
    name: String,
    samples: &Samples,
    isolation: &'static str,
    transport: &'static str,
) -> Row {
    Row {
        name,
        isolation: Some(isolation),
        transport: Some(transport),
        p50_us: Some(samples.quantile(0.5)),
        p99_us: Some(samples.quantile(0.99)),
        n: samples.0.len(),
        ..Row::default()
    }
}

/// Rows for inline and thread at each size, back to back and paced.
pub fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (width, height) in SIZES {
        let pool = pool(width, height)?;
        let mut id = 0;
        let mut next = || {
            id += 1;
            frame(&pool, id, 0)
        };
        let (echo, threaded, mut inline) = (Echo::start()?, Threaded::start()?, glance("bench")?);
        for (how, trips, pace) in [
            ("back to back", TRIPS, None),
            ("30/s", PACED, Some(Duration::from_nanos(33_333_333))),
        ] {
            let copies = pool.stats().copies;
            let d = duel(
                rounds,
                trips,
                pace,
                || echo.trip(),
                || threaded.trip(next()?),
            )?;
            let copied = pool.stats().copies - copies;
            if (width, height) == SIZES[0] {
                rows.push(row(format!("channel, {how}"), &d.floor, "floor", "channel"));
            }
            #[expect(clippy::cast_precision_loss, reason = "a mean")]
            let copies = copied as f64 / d.ours.0.len().max(1) as f64;
            rows.push(Row {
                width: Some(width),
                height: Some(height),
                cpu_us: Some(d.cpu_us),
                copies: Some(copies),
                ratio: Some(median(&d.ratios)),
                floor: Some("channel"),
                ..row(
                    format!("thread {width}x{height}, {how}"),
                    &d.ours,
                    "thread",
                    "none",
                )
            });
        }
        let mut samples = Samples::default();
        let trips_inline = TRIPS * rounds.max(1);
        samples.0.reserve(trips_inline);
        let before = allocations();
        for _ in 0..trips_inline {
            let job = Job::new(next()?);
            let started = Instant::now();
            std::hint::black_box(inline.run(&job));
            samples.add(started.elapsed());
        }
        let allocs = allocations_since(before, trips_inline);
        rows.push(Row {
            width: Some(width),
            height: Some(height),
            copies: Some(0.0),
            allocs,
            ..row(
                format!("inline {width}x{height}"),
                &samples,
                "inline",
                "none",
            )
        });
    }
    Ok(rows)
}
