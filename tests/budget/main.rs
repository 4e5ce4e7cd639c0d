//! Costs that are counts, the same on every run: heap allocations and copies per frame.
#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test; its numbers are small, and it tells them"
)]

mod spine;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use visualpath::workers::{Host, Rights, Runs};
use visualpath_core::{
    ColorSpec, ExtractError, Extractor, FrameMeta, FrameView, Fusion, FusionInput, FusionResult,
    ImageLayout, ManualClock, Name, Observation, PixelFormat, PluginContext, RateGate, ViewSpec,
};
use visualpath_frames::{FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_platform::isolation::{ChildEvent, ChildSpec, ChildWorker, Launcher, Pixels};
use visualpath_platform::rules::{ExtractorSignals, RuleConfig, Rules, RulesConfig, TimeZone};
use visualpath_platform::{
    Bell, Captured, DropPolicy, Flow, FlowLimiter, FlowSpec, Isolation, LaneSpec, LaneWorker,
    Merger, PathSink, PathSpec, Runner, Times,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread handles frames; the test harness's own threads allocate when they like.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count_this_thread() {
    COUNTED.with(|c| c.set(true));
}

fn count() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `at` and `layout` is handed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about its arguments is handed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// The counter is the process's: one measurement at a time.
static ONE: Mutex<()> = Mutex::new(());

const VIEW: ViewSpec = ViewSpec {
    format: visualpath_core::ViewFormat::Rgb,
    size: Some((64, 48)),
    fit: visualpath_core::Fit::Stretch,
    filter: visualpath_core::Filter::Bilinear,
};

/// Looks at its view and finds nothing, without an allocation of its own.
struct Nothing;

impl Extractor for Nothing {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        count_this_thread(); // also a worker's own
        assert_eq!(frame.pixels.len(), 64 * 48 * 3);
        Ok(Vec::new())
    }
}

/// Notes how many allocations there have been, every thousand frames.
struct Noting<F> {
    inner: F,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl<F: Fusion> Fusion for Noting<F> {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        if let FusionInput::Aligned(a) = input
            && a.frame_id.is_multiple_of(1000)
        {
            self.seen
                .lock()
                .unwrap()
                .push(ALLOCATIONS.load(Ordering::SeqCst));
        }
        self.inner.update(input)
    }
    fn reset(&mut self) {
        self.inner.reset();
    }
}

struct NoFusion;

impl Fusion for NoFusion {
    fn update(&mut self, _: FusionInput<'_>) -> FusionResult {
        FusionResult::default()
    }
    fn reset(&mut self) {}
}

struct Quiet;

impl PathSink for Quiet {
    fn fused(&mut self, _: &Name, _: FusionInput<'_>, _: FusionResult, _: Times) {}
    fn held(&mut self, _: &Name, _: &str) {}
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// An extractor that finds nothing, at any isolation; in a process it is the bench's own.
fn worker(isolation: Isolation, bell: &Bell, state: &std::path::Path) -> LaneWorker {
    let merger = Merger::new(name("x"), vec![]);
    if isolation != Isolation::Process {
        let factory = Box::new(|| Ok(Box::new(Nothing) as Box<dyn Extractor>));
        let runner = Runner::new(name("x"), VIEW, merger, factory).unwrap();
        return LaneWorker::local(runner, isolation);
    }
    let mut config = visualpath::config::Config::default();
    state.clone_into(&mut config.device.state_dir);
    let settings = visualpath::config::ExtractorConfig::new("bench_glance");
    let program = Host::new(&config)
        .unwrap()
        .program(
            &Runs::BuiltIn("bench_glance".to_owned()),
            "cam0.x",
            &Rights::from(&settings),
        )
        .unwrap();
    let context = PluginContext {
        name: name("x"),
        config: serde_json::Map::new(),
        zones: vec![],
        masks: vec![],
        model_dirs: vec![],
    };
    let spec = ChildSpec::new(context, program);
    let launcher = Launcher::global().unwrap();
    let mut child = ChildWorker::start(launcher, spec, VIEW, Pixels::Slot, merger, bell);
    let up = child.wait(Some(std::time::Duration::from_secs(60)));
    assert!(matches!(up, Some(ChildEvent::Up(_))), "{up:?}");
    // It declares another view; what counts here is the one that the pool has.
    child.set_view(VIEW);
    LaneWorker::Child(Box::new(child))
}

/// Allocations per frame from frame 2000 on (thousand by thousand), and views made and copies.
///
/// The caller holds [`ONE`] from before it makes `fusion`.
fn run<F: Fusion + 'static>(
    isolation: Isolation,
    fps: Option<f64>,
    fusion: F,
) -> (Vec<f64>, u64, u64) {
    let seen = Arc::new(Mutex::new(Vec::with_capacity(16)));
    let bell = Bell::new().unwrap();
    let state = tempfile::tempdir().unwrap();
    let rate = fps.and_then(RateGate::new);
    let lane = LaneSpec {
        worker: worker(isolation, &bell, state.path()),
        limiter: FlowLimiter::new(rate, DropPolicy::None, 1),
        depends: vec![],
        gate: None,
        stale_ns: i64::MAX,
        timeout_ns: i64::MAX,
        hang_ns: i64::MAX,
    };
    let path = PathSpec {
        name: name("entrance"),
        source: name("cam0"),
        extractors: vec![(0, name("x"), i64::MAX)],
        window_ns: None,
    };
    let spec = FlowSpec {
        trace: visualpath_platform::trace::FlowTrace::off(name("cam0")),
        source: name("cam0"),
        realtime: false,
        lanes: vec![lane],
        paths: vec![(
            path,
            Box::new(Noting {
                inner: fusion,
                seen: Arc::clone(&seen),
            }),
        )],
        pending: 64,
        clock: Arc::new(ManualClock::default()),
        unix_ns: Arc::new(|t_ns| t_ns),
        bell: bell.clone(),
        changes: crossbeam_channel::never(),
        stop: visualpath_core::StopFlag::new(),
        stop_grace_ns: 0,
    };
    let flow = Flow::new(spec, Quiet).unwrap();
    let native = ImageLayout::packed(PixelFormat::I420, 320, 240, ColorSpec::default());
    let spec = PoolSpec {
        pool_id: 1,
        slots: 8,
        native,
        native_room: 0,
        views: vec![VIEW],
    };
    let pool = FramePool::memfd(&spec, Arc::new(Converter::new())).unwrap();
    let holder = pool.holder("capture");
    let (to_path, captured) = bell.channel(2);
    let path = std::thread::spawn(move || {
        count_this_thread();
        flow.run(&captured)
    });
    count_this_thread();
    for frame_id in 0..=6000_u64 {
        let mut slot = pool
            .acquire_timeout(std::time::Duration::from_secs(60))
            .expect("a slot");
        slot.pixels_mut()[0] = 1;
        let meta = FrameMeta {
            frame_id,
            t_ns: frame_id as i64 * 1_000_000,
            epoch: 0,
            layout: native,
        };
        to_path
            .send(Captured::Frame(slot.publish(meta, holder)))
            .unwrap();
    }
    to_path.send(Captured::End).unwrap();
    let (_, threads) = path.join().unwrap();
    for (_, leaving) in threads {
        assert!(leaving.join());
    }
    COUNTED.with(|c| c.set(false));
    let seen = seen.lock().unwrap();
    let per_frame = seen[2..]
        .windows(2)
        .map(|w| (w[1] - w[0]) as f64 / 1000.0)
        .collect();
    (per_frame, pool.stats().views_made, pool.stats().copies)
}

#[test]
fn capture_pool_limiter_and_aligner_allocate_nothing() {
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // At one frame in ten thousand the extractor sees none of those that are counted.
    let (per_frame, _, _) = run(Isolation::Inline, Some(0.1), NoFusion);
    // A channel allocates the first time one of its ends has to wait, which may come late: once,
    // not once per frame.
    assert!(per_frame.iter().all(|n| *n < 0.005), "{per_frame:?}");
}

#[test]
fn a_whole_frame_allocates_a_small_constant_number_of_times() {
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for isolation in [Isolation::Inline, Isolation::Thread, Isolation::Process] {
        let config = RulesConfig {
            rule: vec![RuleConfig::new(name("seen"), "x.count >= 1")],
            ..RulesConfig::default()
        };
        let known = ExtractorSignals {
            name: name("x"),
            signals: vec!["count".into()],
            zones: vec![],
        };
        let rules = Rules::compile(config, &[known], TimeZone::UTC).unwrap();
        let (per_frame, views, copies) = run(isolation, None, rules);
        let first = per_frame[0];
        assert!(
            per_frame.iter().all(|n| (n - first).abs() < 0.5),
            "constant: {per_frame:?}"
        );
        assert!(first <= 64.0, "{per_frame:?}");
        assert_eq!(views, 6001, "one view per frame");
        assert_eq!(copies, 0, "the frame itself is not copied");
        println!("{}: {first:.1} allocations per frame", isolation.as_str());
    }
}
