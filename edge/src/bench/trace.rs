//! What tracing costs the path thread, per frame and level: all calls that a path thread makes for
//! one frame of two extractors with five objects each, into a file and a null sink.

use std::sync::Arc;
use std::time::{Duration, Instant};

use visualpath_core::{
    Aligned, AlignedEntry, FusionInput, FusionResult, Held, Name, Object, Observation, Outcome,
    Signals,
};
use visualpath_platform::Times;
use visualpath_platform::trace::{FileSink, FlowTrace, Level, NullSink, ObservabilityHub};

use super::{Row, Samples, allocations, allocations_since};

/// Frames per level and round.
const FRAMES: u64 = 1000;
/// After this long without work a thread is asleep.
const ASLEEP: Duration = Duration::from_millis(1);
/// Frames measured together where one takes less than a clock can tell.
const TOGETHER: u64 = 1000;
/// The frame that the ratio is to: one of 30 per second.
const FRAME_US: f64 = 33_333.3;

/// A row per level; `ratio` is the share of a frame at 30 per second.
pub fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    const LEVELS: [(Level, &str); 4] = [
        (Level::Off, "off"),
        (Level::Minimal, "minimal"),
        (Level::Normal, "normal"),
        (Level::Verbose, "verbose"),
    ];
    let mut samples: [(Samples, Option<f64>); 4] = Default::default();
    for _ in 0..rounds.max(1) {
        for ((level, _), (samples, allocs)) in LEVELS.iter().zip(&mut samples) {
            *allocs = round(*level, samples)?;
        }
    }
    let row = |name: &str, (samples, allocs): &(Samples, Option<f64>)| {
        let p50 = samples.quantile(0.5);
        Row {
            name: format!("per frame, level {name}"),
            p50_us: Some(p50),
            p99_us: Some(samples.quantile(0.99)),
            n: samples.0.len(),
            allocs: *allocs,
            ratio: Some(p50 / FRAME_US),
            floor: Some("a frame at 30 per second"),
            ..Row::default()
        }
    };
    Ok(LEVELS
        .iter()
        .zip(&samples)
        .map(|((_, name), one)| row(name, one))
        .collect())
}

/// Gives the allocations per frame, of the whole process.
fn round(level: Level, samples: &mut Samples) -> anyhow::Result<Option<f64>> {
    let dir = std::env::temp_dir().join(format!("visualpath-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let hub = Arc::new(ObservabilityHub::new(level));
    hub.add_sink(Box::new(FileSink::new(dir.join("trace.jsonl"), 1 << 30)));
    hub.add_sink(Box::new(NullSink));
    let mut thread = PathThread::new(Arc::clone(&hub))?;
    let mut before = None;
    let mut measured = 0;
    if hub.enabled(Level::Normal) {
        for id in 0..FRAMES {
            if id == FRAMES / 10 {
                before = allocations();
            }
            let one = Frame::new(&thread, id);
            let started = Instant::now();
            thread.frame(&one);
            let took = started.elapsed();
            // As between two real frames: the sinks are done, and their threads asleep, so that
            // the next frame has to wake them.
            anyhow::ensure!(
                hub.flush(Duration::from_secs(60)),
                "the trace sinks do not keep up"
            );
            std::thread::sleep(ASLEEP);
            if id >= FRAMES / 10 {
                samples.add(took);
                measured += 1;
            }
        }
    } else {
        // No record is made: only many together can be measured.
        let one = Frame::new(&thread, 0);
        before = allocations();
        for _ in 0..FRAMES / 10 {
            let started = Instant::now();
            for _ in 0..TOGETHER {
                thread.frame(std::hint::black_box(&one));
            }
            samples.add(started.elapsed() / u32::try_from(TOGETHER)?);
            measured += usize::try_from(TOGETHER)?;
        }
    }
    let allocs = allocations_since(before, measured);
    let stragglers = hub.close(Duration::from_secs(60));
    anyhow::ensure!(stragglers.is_empty(), "{stragglers:?} did not end");
    std::fs::remove_dir_all(&dir)?;
    Ok(allocs)
}

/// What a path thread has at hand.
struct PathThread {
    trace: FlowTrace,
    extractors: [Name; 2],
    path: Name,
    source: Name,
}

/// A frame that settled.
struct Frame {
    aligned: Aligned,
    result: FusionResult,
    times: Times,
}

impl PathThread {
    fn new(hub: Arc<ObservabilityHub>) -> anyhow::Result<Self> {
        let source = Name::new("cam0")?;
        Ok(Self {
            trace: FlowTrace::new(hub, source.clone()),
            extractors: [Name::new("person")?, Name::new("vehicle")?],
            path: Name::new("entrance")?,
            source,
        })
    }

    fn frame(&mut self, frame: &Frame) {
        let Aligned { frame_id, t_ns, .. } = frame.aligned;
        self.trace.tick(t_ns);
        for (name, entry) in self.extractors.iter().zip(&frame.aligned.entries) {
            if let Some(outcome) = &entry.outcome {
                self.trace
                    .outcome(name, frame_id, t_ns, outcome, 20_000_000, 0);
            }
        }
        let input = FusionInput::Aligned(&frame.aligned);
        self.trace
            .fused(&self.path, &input, &frame.result, &frame.times);
    }
}

impl Frame {
    fn new(of: &PathThread, frame_id: u64) -> Self {
        let t_ns = i64::try_from(frame_id).unwrap_or(0) * 33_333_333;
        let entry = |name: &Name| {
            let held = Arc::new(held(name, frame_id, t_ns));
            AlignedEntry {
                extractor: name.clone(),
                outcome: Some(Outcome::Observed(Arc::clone(&held))),
                held: Some(held),
            }
        };
        Self {
            aligned: Aligned {
                source: of.source.clone(),
                frame_id,
                t_ns,
                unix_ns: t_ns,
                entries: of.extractors.iter().map(entry).collect(),
            },
            result: FusionResult::default(),
            times: Times {
                dequeued_ns: t_ns,
                settled_ns: t_ns + 21_000_000,
                fused_ns: t_ns + 21_010_000,
            },
        }
    }
}

/// As the object plugin gives it, five objects.
fn held(extractor: &Name, frame_id: u64, t_ns: i64) -> Held {
    let object = |i: u8| Object {
        track_id: Some(u64::from(i)),
        label: "Person".to_owned(),
        score: 0.5 + f64::from(i) / 11.0,
        bbox: [0.1, 0.2, 0.1 + f64::from(i) / 7.0, 0.9],
        area: f64::from(i) / 13.0,
        zones: vec!["door".to_owned()],
        keypoints: Vec::new(),
    };
    let mut signals = Signals::new();
    for (name, value) in [
        ("count", 5.0),
        ("count@door", 5.0),
        ("max_confidence", 0.9),
        ("person_count", 5.0),
        ("person_count@door", 5.0),
    ] {
        signals.set(name, value);
    }
    let mut observation = Observation::new(extractor.clone(), frame_id, t_ns);
    observation.signals = signals.clone();
    observation.data.objects = (0..5).map(object).collect();
    Held {
        frame_id,
        t_ns,
        observations: vec![observation],
        signals,
        timing_ns: 20_000_000,
    }
}
