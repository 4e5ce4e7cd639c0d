//! What the framework adds to a frame: taken over from capture → trigger handed over, minus the
//! extractor's own time.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};
use visualpath_core::{
    Aligned, Clock, ExtractError, Extractor, FrameView, FusionInput, FusionResult, MonotonicClock,
    Name, Observation, Outcome, StopFlag, ViewSpec,
};
use visualpath_platform::rules::{ExtractorSignals, RuleConfig, Rules, RulesConfig, TimeZone};
use visualpath_platform::{
    Bell, Captured, DropPolicy, Flow, FlowLimiter, FlowSpec, Isolation, LaneSpec, LaneWorker,
    Merger, PathSink, PathSpec, Runner, Times,
};

use super::handoff::{frame, pool};
use super::{Row, Samples, allocations, allocations_since};

/// Sees somebody on every other frame, so that a rule fires on every other frame.
struct Blink;

impl Extractor for Blink {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        let name = Name::new("blink").map_err(|e| ExtractError(e.to_string()))?;
        let mut o = Observation::new(name, 0, 0);
        o.signals.set(
            "count",
            if frame.meta.frame_id.is_multiple_of(2) {
                1.0
            } else {
                0.0
            },
        );
        Ok(vec![o])
    }
}

struct Measuring {
    clock: Arc<dyn Clock>,
    handed: Sender<visualpath_core::Trigger>,
    /// Nanoseconds of overhead of frames with and without a trigger; `None` at the end.
    seen: Sender<Option<(bool, i64)>>,
}

impl Measuring {
    /// The measuring side is gone only when the bench has failed already.
    fn tell(&self, what: Option<(bool, i64)>) {
        if self.seen.send(what).is_err() {
            tracing::debug!("nobody measures");
        }
    }
}

fn extract_ns(aligned: &Aligned) -> i64 {
    let of = |o: &Option<Outcome>| match o {
        Some(Outcome::Observed(held)) => held.timing_ns,
        _ => 0,
    };
    aligned.entries.iter().map(|e| of(&e.outcome)).sum()
}

impl PathSink for Measuring {
    fn fused(&mut self, _: &Name, input: FusionInput<'_>, result: FusionResult, times: Times) {
        let FusionInput::Aligned(aligned) = input else {
            self.tell(None);
            return;
        };
        let fired = result.should_trigger();
        for trigger in result.triggers {
            if self.handed.send(trigger).is_err() {
                tracing::debug!("nobody takes triggers");
            }
        }
        let total = self.clock.now_ns() - times.dequeued_ns - extract_ns(aligned);
        self.tell(Some((fired, total)));
    }
    fn held(&mut self, _: &Name, _: &str) {}
}

const FRAMES: u64 = 4000;

/// Rows for frames that fire and frames that don't.
pub fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let (mut firing, mut quiet) = (Samples::default(), Samples::default());
    let mut allocs = None;
    for _ in 0..rounds.max(1) {
        allocs = round(&mut firing, &mut quiet)?;
    }
    let row = |name: &str, s: &Samples| Row {
        name: name.to_owned(),
        isolation: Some("inline"),
        p50_us: Some(s.quantile(0.5)),
        p99_us: Some(s.quantile(0.99)),
        n: s.0.len(),
        allocs,
        ..Row::default()
    };
    Ok(vec![
        row("frame that fires a rule", &firing),
        row("frame that fires nothing", &quiet),
    ])
}

/// Gives the allocations per frame, firing or not.
fn round(firing: &mut Samples, quiet: &mut Samples) -> anyhow::Result<Option<f64>> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let (blink, source) = (Name::new("blink")?, Name::new("cam0")?);
    let runner = Runner::new(
        blink.clone(),
        ViewSpec::default(),
        Merger::new(blink.clone(), Vec::new()),
        Box::new(|| Ok(Box::new(Blink))),
    )?;
    let rule = RuleConfig {
        release_ms: 0,
        cooldown_ms: 0,
        ..RuleConfig::new(Name::new("seen")?, "blink.count >= 1")
    };
    let config = RulesConfig {
        rule: vec![rule],
        ..RulesConfig::default()
    };
    let known = ExtractorSignals {
        name: blink.clone(),
        signals: vec!["count".to_owned()],
        zones: vec![],
    };
    let rules = Rules::compile(config, &[known], TimeZone::UTC).map_err(|e| {
        anyhow::anyhow!("{}", e.first().map(ToString::to_string).unwrap_or_default())
    })?;
    let (handed, triggers) = bounded(1024);
    let (seen, measured) = bounded(16);
    let spec = FlowSpec {
        trace: visualpath_platform::trace::FlowTrace::off(Name::new("cam0")?),
        source: source.clone(),
        realtime: true,
        lanes: vec![LaneSpec {
            worker: LaneWorker::local(runner, Isolation::Inline),
            limiter: FlowLimiter::new(None, DropPolicy::Oldest, 1),
            depends: vec![],
            gate: None,
            stale_ns: i64::MAX,
            timeout_ns: i64::MAX,
            hang_ns: i64::MAX,
        }],
        paths: vec![(
            PathSpec {
                name: Name::new("entrance")?,
                source,
                extractors: vec![(0, blink, i64::MAX)],
                window_ns: Some(1_000_000_000),
            },
            Box::new(rules),
        )],
        pending: 64,
        clock: Arc::clone(&clock),
        unix_ns: Arc::new(|t_ns| t_ns),
        bell: Bell::new()?,
        changes: crossbeam_channel::never(),
        stop: StopFlag::new(),
        stop_grace_ns: 0,
    };
    let flow = Flow::new(
        spec,
        Measuring {
            clock,
            handed,
            seen,
        },
    )?;
    let (to_path, captured) = bounded(2);
    let path = std::thread::Builder::new()
        .name("path".to_owned())
        .spawn(move || flow.run(&captured))?;
    let pool = pool(640, 480)?;
    let mut before = None;
    for id in 0..FRAMES {
        if id == FRAMES / 2 {
            before = allocations();
        }
        let t_ns = i64::try_from(id).unwrap_or(0) * 33_333_333;
        to_path.send(Captured::Frame(frame(&pool, id, t_ns)?))?;
        let Some((fired, ns)) = measured.recv()? else {
            anyhow::bail!("the path ended early")
        };
        if id >= FRAMES / 10 {
            let time = std::time::Duration::from_nanos(ns.max(0).unsigned_abs());
            if fired {
                firing.add(time)
            } else {
                quiet.add(time)
            }
        }
        while triggers.try_recv().is_ok() {}
    }
    let allocs = allocations_since(before, usize::try_from(FRAMES / 2)?);
    to_path.send(Captured::End)?;
    path.join()
        .map_err(|_| anyhow::anyhow!("the path thread panicked"))?;
    Ok(allocs)
}
