//! The library as an app uses it: plugins of its own, no TOML, changes while it runs.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use visualpath::config::{Auto, Config, ExtractorConfig, RuleConfig, SourceConfig};
use visualpath::{
    ExtractError, Extractor, ExtractorPlugin, FrameReader, FrameView, Fusion, FusionContext,
    FusionInput, FusionPlugin, FusionResult, Handle, Isolation, Name, Observation, Origin, Path,
    PathOrchestrator, Pipeline, PluginContext, PluginError, Registry, Trigger, ViewFormat,
    ViewSpec, WorkerLauncher, builtin,
};
use visualpath_mqtt::payload::PhaseWord;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Tells the frame's number, and how many frames it has seen; slow if asked.
struct Counter {
    plugin: &'static str,
    slow: Duration,
}

struct Counting {
    seen: f64,
    slow: Duration,
}

impl Extractor for Counting {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        deps: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        std::thread::sleep(self.slow);
        self.seen += 1.0;
        let mut o = Observation::new(name("x"), 0, 0);
        // On for two seconds, off for two.
        let on = frame.meta.t_ns / 2_000_000_000 % 2;
        o.signals.set("on", on as f64);
        o.signals.set("seen", self.seen);
        o.signals.set("number", frame.meta.frame_id as f64);
        o.signals.set("deps", deps.len() as f64);
        Ok(vec![o])
    }

    fn reset(&mut self) {
        self.seen = 0.0;
    }
}

impl ExtractorPlugin for Counter {
    fn name(&self) -> &str {
        self.plugin
    }
    fn version(&self) -> &str {
        "1.0.0"
    }
    fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
        Ok(ViewSpec {
            format: ViewFormat::Grey,
            size: Some((32, 24)),
            ..ViewSpec::default()
        })
    }
    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(["on", "seen", "number", "deps"].map(str::to_owned).to_vec())
    }
    fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        Ok(Box::new(Counting {
            seen: 0.0,
            slow: self.slow,
        }))
    }
}

fn counter(plugin: &'static str) -> Arc<dyn ExtractorPlugin> {
    let slow = Duration::ZERO;
    Arc::new(Counter { plugin, slow })
}

/// Hands every input on.
struct Watch(Sender<Saw>);

#[derive(Debug, Clone, PartialEq)]
enum Saw {
    Frame(u64, Option<f64>),
    Other,
}

struct Watching(Sender<Saw>);

impl FusionPlugin for Watch {
    fn name(&self) -> &str {
        "watch"
    }
    fn version(&self) -> &str {
        "1.0.0"
    }
    fn wants_clips(&self, _: &FusionContext) -> bool {
        false
    }
    fn create(&self, cx: &FusionContext) -> Result<Box<dyn Fusion>, PluginError> {
        match cx.config.get("wrong") {
            None => Ok(Box::new(Watching(self.0.clone()))),
            Some(_) => Err(PluginError::Config {
                key: "wrong".to_owned(),
                message: "is wrong".to_owned(),
            }),
        }
    }
}

impl Fusion for Watching {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        let saw = match input {
            FusionInput::Aligned(a) => {
                let held = a.entries[0].held.as_ref();
                Saw::Frame(a.frame_id, held.and_then(|h| h.signals.get("seen")))
            }
            _ => Saw::Other,
        };
        if self.0.send(saw).is_err() {
            // The test has seen enough.
        }
        FusionResult::default()
    }
    fn reset(&mut self) {}
}

fn source(uri: &str, realtime: bool) -> SourceConfig {
    SourceConfig {
        realtime,
        ..SourceConfig::new(uri)
    }
}

fn rule(label: &str, when: &str) -> RuleConfig {
    RuleConfig {
        clip: false,
        ..RuleConfig::new(name(label), when)
    }
}

/// A live pipeline over one endless source, whose path `watch` is watched by the test.
fn watched(registry: &Registry) -> (Config, Receiver<Saw>) {
    let (tell, saw) = unbounded();
    registry
        .register_fusion(Origin::App, Arc::new(Watch(tell)))
        .unwrap();
    registry
        .register_extractor(Origin::App, counter("counter"))
        .unwrap();
    let mut config = Config::default();
    // Nothing is written there: no clips, no broker.
    config.device.state_dir = std::env::temp_dir();
    config.mqtt.url = "off".to_owned();
    let uri = "synthetic:?fps=50&width=64&height=48";
    config.source.insert(name("cam0"), source(uri, true));
    config
        .extractor
        .insert(name("count"), ExtractorConfig::new("counter"));
    add_path(&mut config, "watch", &["count"], "seen");
    add_fusion(&mut config, "seen", "watch", serde_json::json!({}));
    (config, saw)
}

fn add_path(config: &mut Config, path: &str, extractors: &[&str], fusion: &str) {
    let path_config = visualpath::config::PathConfig {
        source: visualpath::config::OneOrMany::One(name("cam0")),
        extractors: extractors.iter().map(|e| name(e)).collect(),
        fusion: name(fusion),
        window_ms: Auto::Auto,
    };
    config.path.insert(name(path), path_config);
}

fn add_fusion(config: &mut Config, fusion: &str, plugin: &str, settings: serde_json::Value) {
    let document = serde_json::json!({"plugin": plugin, "config": settings});
    let parsed = serde_json::from_value(document).unwrap();
    config.fusion.insert(name(fusion), parsed);
}

struct Run {
    handle: Handle,
    /// Labels of triggers.
    told: Receiver<String>,
    thread: std::thread::JoinHandle<visualpath::Report>,
}

fn start(config: Config, registry: Registry) -> Run {
    let (tell, told) = unbounded();
    let pipeline = Pipeline::new(config, registry).on_trigger(move |t, _| {
        tell.send(t.trigger.label.clone()).unwrap();
    });
    let handle = pipeline.handle();
    let thread = std::thread::spawn(move || pipeline.run().unwrap());
    Run {
        handle,
        told,
        thread,
    }
}

fn wait(saw: &Receiver<Saw>) -> Saw {
    saw.recv_timeout(Duration::from_secs(60)).expect("it runs")
}

#[test]
fn a_reload_brings_plugins_registered_meanwhile_and_the_old_path_misses_no_frame() {
    let registry = builtin::registry().unwrap();
    let (config, saw) = watched(&registry);
    let run = start(config.clone(), registry.clone());
    let first = wait(&saw);
    // Registered while it runs; another extractor, on a thread, with a view the pool has no place
    // for yet, that depends on the old one.
    registry
        .register_extractor(Origin::App, counter("newcomer"))
        .unwrap();
    let mut more = config.clone();
    let mut newcomer = ExtractorConfig::new("newcomer");
    newcomer.isolation = Some(visualpath::config::Isolation::Thread);
    newcomer.depends = vec![name("count")];
    more.extractor.insert(name("late"), newcomer);
    let rules =
        serde_json::json!({"rule": [{"label": "late", "when": "late.deps == 1.0", "clip": false}]});
    add_fusion(&mut more, "second", "rules", rules);
    add_path(&mut more, "second", &["late"], "second");
    let reloaded = run.handle.reload(more).unwrap();
    assert_eq!(reloaded.extractors, ["cam0/late"]);
    assert_eq!(reloaded.paths, ["cam0/second"]);
    let fired = run.told.recv_timeout(Duration::from_secs(60));
    assert_eq!(fired.as_deref(), Ok("late"), "its rule fires");
    // Back again.
    let reloaded = run.handle.reload(config.clone()).unwrap();
    assert_eq!(reloaded.paths, ["cam0/second"], "it went");
    assert!(run.handle.reload(config.clone()).unwrap().is_empty());
    let mut ids = Vec::new();
    while ids.len() < 60 {
        ids.push(wait(&saw));
    }
    run.handle.stop();
    let report = run.thread.join().unwrap();
    assert!(report.error.is_none(), "{:?}", report.error);
    let Saw::Frame(start, _) = first else {
        panic!("{first:?}")
    };
    for (n, saw) in ids.iter().enumerate() {
        // It is the same instance all the time: it counts on.
        let id = start + 1 + n as u64;
        assert_eq!(*saw, Saw::Frame(id, Some((id + 1) as f64)), "of {ids:?}");
    }
    let late = report.summary.observations.get("late").copied();
    assert!(
        late.is_some_and(|n| n > 0),
        "the newcomer worked: {:?}",
        report.summary
    );
    assert_eq!(
        report.summary.failed.get("late"),
        None,
        "{:?}",
        report.summary
    );
    assert_eq!(report.summary.triggers, 1, "and its rule fired");
}

#[test]
fn a_reload_that_can_not_be_used_changes_nothing() {
    let registry = builtin::registry().unwrap();
    let (config, saw) = watched(&registry);
    let run = start(config.clone(), registry);
    wait(&saw);
    let mut no_plugin = config.clone();
    no_plugin
        .extractor
        .insert(name("count"), ExtractorConfig::new("nobody"));
    let mut no_rule = config.clone();
    let wrong = serde_json::json!({"rule": [{"label": "x", "when": "count.nothing > 0.0"}]});
    add_fusion(&mut no_rule, "seen", "rules", wrong);
    let mut no_file = config.clone();
    no_file
        .source
        .insert(name("cam0"), source("there/is/no.mp4", true));
    let mut no_fusion = config.clone();
    add_fusion(
        &mut no_fusion,
        "seen",
        "watch",
        serde_json::json!({"wrong": 1}),
    );
    for (wrong, says) in [
        (no_plugin, "nobody"),
        (no_rule, "nothing"),
        (no_file, "no.mp4"),
        (no_fusion, "is wrong"),
    ] {
        let error = run.handle.reload(wrong).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let Saw::Frame(from, _) = wait(&saw) else {
        panic!("a frame")
    };
    for n in 1..20 {
        assert_eq!(
            wait(&saw),
            Saw::Frame(from + n, Some((from + n + 1) as f64))
        );
    }
    run.handle.stop();
    assert!(run.thread.join().unwrap().error.is_none());
    assert!(matches!(
        run.handle.reload(config),
        Err(visualpath::ReloadError::NotRunning)
    ));
}

#[test]
fn a_changed_source_goes_on_in_its_numbers_and_times() {
    let registry = builtin::registry().unwrap();
    let (config, saw) = watched(&registry);
    let run = start(config.clone(), registry);
    let mut last = 0;
    for _ in 0..5 {
        if let Saw::Frame(id, _) = wait(&saw) {
            last = id;
        }
    }
    let mut other = config;
    let uri = "synthetic:?fps=50&width=96&height=64";
    other.source.insert(name("cam0"), source(uri, true));
    assert_eq!(run.handle.reload(other).unwrap().started, [name("cam0")]);
    let (mut seen_new, mut ended) = (0, false);
    while seen_new < 10 {
        match wait(&saw) {
            Saw::Frame(id, seen) => {
                assert_eq!(id, last + 1, "numbers go on without a hole");
                last = id;
                // The new line's extractor counts from 1 again.
                let new = seen.is_some_and(|s| s < (id + 1) as f64);
                assert!(!new || ended, "the old line ends before the new one begins");
                seen_new += u32::from(new);
            }
            Saw::Other => ended = true,
        }
    }
    run.handle.stop();
    run.thread.join().unwrap();
}

#[test]
fn a_reload_may_switch_clips_on_and_a_range_open_over_a_changed_source_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = builtin::registry().unwrap();
    let (mut config, saw) = watched(&registry);
    config.device.state_dir = dir.path().to_owned();
    let range = |clip: bool| {
        serde_json::json!({"rule": [{"label": "open", "kind": "range", "when": "count.on >= 0.0",
            "max_s": 3600, "pre_s": 0, "post_s": 0, "clip": clip}]})
    };
    add_fusion(&mut config, "range", "rules", range(false));
    add_path(&mut config, "range", &["count"], "range");
    let (tell, told) = unbounded();
    let pipeline = Pipeline::new(config.clone(), registry).on_trigger(move |t, _| {
        let body = &t.trigger;
        tell.send((body.phase, body.trigger_id.clone(), body.frame_id))
            .unwrap();
    });
    let handle = pipeline.handle();
    let thread = std::thread::spawn(move || pipeline.run().unwrap());
    let next = || told.recv_timeout(Duration::from_secs(60)).unwrap();
    let (phase, first, _) = next();
    assert_eq!(phase, Some(PhaseWord::Start));
    wait(&saw);
    // The same rule with a clip: the old range ends, the new one starts and has its clip.
    add_fusion(&mut config, "range", "rules", range(true));
    handle.reload(config.clone()).unwrap();
    assert_eq!(next().0, Some(PhaseWord::End));
    let (phase, second, from) = next();
    assert_eq!(phase, Some(PhaseWord::Start));
    assert_ne!(first, second);
    let uri = "synthetic:?fps=50&width=96&height=64";
    config.source.insert(name("cam0"), source(uri, true));
    handle.reload(config).unwrap();
    let (phase, ended, _) = next();
    assert_eq!(
        (phase, &ended),
        (Some(PhaseWord::End), &second),
        "under its own id"
    );
    let (phase, third, at) = next();
    assert_eq!(phase, Some(PhaseWord::Start));
    assert!(
        third != second && at > from,
        "a later frame of the same numbers"
    );
    handle.stop();
    let report = thread.join().unwrap();
    assert_eq!(next(), (Some(PhaseWord::End), third, at));
    assert!(
        report.error.is_none() && report.stragglers.is_empty(),
        "{report:?}"
    );
    let clips = report.summary.clips;
    assert_eq!(
        clips.ready + clips.failed,
        2,
        "each clip asked for is answered"
    );
    assert_eq!(clips.ready, 2, "{:?}", report.summary);
}

#[test]
fn a_source_at_its_end_stops_nobody_else() {
    // Many short sources beside a longer one: each end is a chance to take it for a broken line.
    let mut config = Config::default();
    config.device.state_dir = std::env::temp_dir();
    config.mqtt.url = "off".to_owned();
    let counter_config = ExtractorConfig::new("counter");
    config.extractor.insert(name("count"), counter_config);
    let rules =
        serde_json::json!({"rule": [{"label": "x", "when": "count.on > 5.0", "clip": false}]});
    add_fusion(&mut config, "none", "rules", rules);
    let mut sources = Vec::new();
    for n in 0..12 {
        let frames = if n == 0 { 60 } else { 5 + n };
        let uri = format!("synthetic:?fps=50&width=64&height=48&frames={frames}");
        let realtime = n % 2 == 0;
        config
            .source
            .insert(name(&format!("s{n}")), source(&uri, realtime));
        sources.push(name(&format!("s{n}")));
    }
    add_path(&mut config, "all", &["count"], "none");
    config.path.get_mut("all").unwrap().source = visualpath::config::OneOrMany::Many(sources);
    let registry = builtin::registry().unwrap();
    registry
        .register_extractor(Origin::App, counter("counter"))
        .unwrap();
    let report = Pipeline::new(config, registry).run().unwrap();
    assert!(report.error.is_none(), "{:?}", report.error);
    let frames = |s: &str| report.summary.sources[s].frames;
    let lost: u64 = report.summary.sources["s0"].dropped.values().sum();
    assert!(
        frames("s0") + lost >= 60,
        "the long one ran to its end: {:?}",
        report.summary
    );
    assert_eq!(frames("s1"), 6);
}

#[test]
fn an_extractor_slowed_down_to_a_third_gives_the_same_triggers() {
    let triggers = |slow: Duration| {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let dir = tempfile::tempdir().unwrap();
        let slowed = RuleConfig {
            for_ms: 700,
            release_ms: 300,
            ..rule("on", "slow.on >= 1.0")
        };
        let plugin = "counter";
        let mut thread = ExtractorConfig::new(plugin);
        thread.isolation = Some(visualpath::config::Isolation::Thread);
        let report = Pipeline::builder()
            .state_dir(dir.path())
            .register_extractor(Arc::new(Counter { plugin, slow }))
            .source("cam0", source("synthetic:?frames=90&fps=10&width=64&height=48", true))
            .unwrap()
            .extractor("slow", thread)
            .unwrap()
            .rules("switch", [slowed])
            .unwrap()
            .path("yard", &["cam0"], &["slow"], "switch")
            .unwrap()
            .configure(|config| {
                // A frame nobody looked at neither meets nor breaks a condition, as long as the
                // last look counts.
                let held = serde_json::json!({"plugin": "rules", "config": {
                    "stale_ms": 1000, "rule": config.fusion[&name("switch")].rules().unwrap().rule}});
                let held = serde_json::from_value(held).unwrap();
                config.fusion.insert(name("switch"), held);
            })
            .build()
            .unwrap()
            .on_trigger(move |t, _| tell.lock().unwrap().push(t.trigger.clone()))
            .run()
            .unwrap();
        let told = told.lock().unwrap().clone();
        (told, report)
    };
    let (fast, _) = triggers(Duration::ZERO);
    let (slow, report) = triggers(Duration::from_millis(300));
    assert!(
        report.summary.dropped["queue_full"] > 30,
        "{:?}",
        report.summary
    );
    assert_eq!(fast.len(), 2, "on from 2 s to 4 s and from 6 s to 8 s");
    assert_eq!(slow.len(), 2);
    for (fast, slow) in fast.iter().zip(&slow) {
        assert_eq!((&fast.label, fast.kind), (&slow.label, slow.kind));
        let apart = (slow.event_start_ns - fast.event_start_ns).abs();
        assert!(apart <= 700_000_000, "within two looks: {apart}");
    }
}

#[test]
fn step_by_step_gives_what_the_pipeline_gives() {
    let cx = |n: &str| PluginContext {
        name: name(n),
        config: serde_json::Map::new(),
        zones: vec![],
        masks: vec![],
        model_dirs: vec![],
    };
    let worker = |n: &str, isolation| {
        WorkerLauncher::create((counter("counter"), cx(n)), isolation).unwrap()
    };
    let mut inline = worker("a", Isolation::Inline);
    let mut thread = worker("b", Isolation::Thread);
    let uri = "synthetic:?frames=10&fps=10&width=64&height=48";
    let mut reader = FrameReader::open(uri, &[inline.view()]).unwrap();
    let frame = reader.next_frame().unwrap().unwrap();
    let (a, b) = (inline.process(&frame), thread.process(&frame));
    assert_eq!(a.error, None);
    assert_eq!(a.observations[0].signals, b.observations[0].signals);
    assert_eq!(
        a.observations[0].extractor,
        name("a"),
        "the name in the config"
    );
    let pending = thread.process_async(&frame);
    assert_eq!(
        pending.wait().observations[0].signals.get("seen"),
        Some(2.0)
    );

    let rules = |when: &str| -> Box<dyn Fusion> {
        let config = visualpath::config::RulesConfig {
            rule: vec![rule("seen", when)],
            ..visualpath::config::RulesConfig::default()
        };
        let known = ["a", "b"].map(|n| visualpath::ExtractorSignals {
            name: name(n),
            signals: vec![],
            zones: vec![],
        });
        let zone = visualpath_platform::rules::TimeZone::UTC;
        Box::new(visualpath_platform::rules::Rules::compile(config, &known, zone).unwrap())
    };
    let workers = vec![
        worker("a", Isolation::Inline),
        worker("b", Isolation::Thread),
    ];
    let fusion = rules("a.number >= 3.0 && b.number >= 3.0");
    let mut path = Path::new(name("yard"), name("cam0"), workers, fusion, i64::MAX).unwrap();
    let mut fired: Vec<Trigger> = Vec::new();
    // With a view the pool was not made for.
    let mut reader = FrameReader::open(uri, &[]).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        fired.extend(path.process(&frame).triggers);
    }
    assert_eq!(fired.len(), 1);
    assert_eq!(fired[0].frame_id, 3);
    assert!(path.end().triggers.is_empty());

    let mut all = PathOrchestrator::new(name("cam0"));
    all.add_worker(worker("a", Isolation::Thread), &[]).unwrap();
    all.add_worker(worker("b", Isolation::Inline), &["a"])
        .unwrap();
    all.add_path(name("one"), &["a", "b"], rules("a.seen == 2.0"), i64::MAX)
        .unwrap();
    all.add_path(name("two"), &["a", "b"], rules("b.deps == 1.0"), i64::MAX)
        .unwrap();
    let missing = all
        .add_worker(worker("c", Isolation::Inline), &["d"])
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        "there is no worker `d`; add it before `c`"
    );
    let mut reader = FrameReader::open(uri, &[]).unwrap();
    let mut counts = [0, 0];
    while let Some(frame) = reader.next_frame().unwrap() {
        let results = all.process_all(&frame);
        assert_eq!(results.len(), 2);
        counts[0] += results["one"].triggers.len();
        counts[1] += results["two"].triggers.len();
    }
    assert_eq!(counts, [1, 1], "each worker looked once per frame");
}
