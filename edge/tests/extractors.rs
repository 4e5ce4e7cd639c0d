//! Built-in extractors on whole sources: the synthetic one, of which everything is known, and real
//! video.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use visualpath::builtin;
use visualpath_core::{Anchor, MonotonicClock, Name, Observation, PluginContext, StopFlag, Zone};
use visualpath_frames::{FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::source::synthetic::{Asked, Params, truth};
use visualpath_media::source::{SourceEvent, SourceOptions, open};

const LEFT: [[f64; 2]; 4] = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
const RIGHT: [[f64; 2]; 4] = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]];

/// What `plugin` says about every frame of `uri`.
fn observe(plugin: &str, config: &Value, uri: &str) -> Vec<Observation> {
    let registry = builtin::registry().unwrap();
    let plugin = registry.extractor(plugin).unwrap();
    let zone = |name, polygon: [[f64; 2]; 4]| {
        Zone::new(Name::new(name).unwrap(), polygon.to_vec(), Anchor::Center).unwrap()
    };
    let cx = PluginContext {
        name: Name::new("x").unwrap(),
        config: config.as_object().unwrap().clone(),
        zones: vec![zone("left", LEFT), zone("right", RIGHT)],
        masks: vec![],
        model_dirs: vec![],
    };
    let view = plugin.input(&cx).unwrap();
    let mut extractor = plugin.create(&cx).unwrap();
    let options = SourceOptions::new(Name::new("cam0").unwrap(), uri);
    let mut source = open(&options, Arc::new(MonotonicClock::new())).unwrap();
    let spec = PoolSpec {
        pool_id: 1,
        slots: 1,
        native: source.info().layout,
        native_room: 0,
        views: vec![view],
    };
    let pool = FramePool::heap(&spec, Arc::new(Converter::new())).unwrap();
    let mut all = vec![];
    loop {
        match source.next(&pool, &StopFlag::new()).unwrap() {
            SourceEvent::Frame(frame) => {
                let view = frame.view(pool.view_id(&view).unwrap()).unwrap();
                all.extend(extractor.extract(&view, &[]).unwrap());
            }
            SourceEvent::End(_) => return all,
            _ => {}
        }
    }
}

fn signal(o: &Observation, name: &str) -> f64 {
    o.signals.get(name).unwrap()
}

fn score(o: &Observation) -> f64 {
    signal(o, "score")
}

fn area([l, t, r, b]: [f64; 4]) -> f64 {
    (r - l).max(0.0) * (b - t).max(0.0)
}

fn both(a: [f64; 4], b: [f64; 4]) -> f64 {
    area([
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ])
}

fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    both(a, b) / (area(a) + area(b) - both(a, b))
}

fn asset(path: &str) -> PathBuf {
    let dir = std::env::var_os("VISUALPATH_ASSETS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"),
                PathBuf::from,
            );
            cache.join("visualpath")
        },
        PathBuf::from,
    );
    let file = dir.join(path);
    assert!(
        file.exists(),
        "{} is missing: run cross/setup.sh first",
        file.display()
    );
    file
}

/// Without number and time, which change all the time.
const QUIET: &str = "code=0&text=0&fps=10";

#[test]
fn motion_of_a_known_shape_is_where_the_truth_is_in_every_format_size_and_noise() {
    for more in [
        "",
        "&noise=3",
        "&width=320&height=240&format=rgb",
        "&width=1280&height=720&noise=2&jitter_ms=20&gap_every=20&gap_frames=3&seed=5",
        "&format=nv12&shape=disc&speed=5",
    ] {
        let uri = format!("synthetic:?{QUIET}&frames=120&shapes=1&shapes_at=25{more}");
        let params = Params::parse(&uri, &Asked::default()).unwrap();
        let mut compared = 0;
        for o in observe("motion", &json!({}), &uri) {
            let truth = truth(&params, o.frame_id);
            let Some(thing) = truth.first() else {
                assert_eq!(score(&o), 0.0, "{uri}, frame {}", o.frame_id);
                continue;
            };
            compared += 1;
            assert_eq!(
                signal(&o, "count"),
                1.0,
                "{uri}, frame {}: {o:?}",
                o.frame_id
            );
            let like = iou(o.data.objects[0].bbox, thing.bbox);
            assert!(like > 0.8, "{uri}, frame {}: IoU {like}", o.frame_id);
            let round = if thing.label == "disc" { 0.785 } else { 1.0 };
            let want = area(thing.bbox) * round;
            assert!(
                (0.9 * want..1.25 * want).contains(&score(&o)),
                "{uri}, frame {}: {} of {want}",
                o.frame_id,
                score(&o)
            );
            // Per zone: what lies in each half, of the half.
            let halves = [
                ("left", [0.0, 0.0, 0.5, 1.0]),
                ("right", [0.5, 0.0, 1.0, 1.0]),
            ];
            for (zone, half) in halves {
                let want = both(thing.bbox, half) / 0.5 * round;
                let got = signal(&o, &format!("score@{zone}"));
                assert!(
                    (got - want).abs() < 0.02,
                    "{uri}, frame {}: {zone} {got} not {want}",
                    o.frame_id
                );
            }
        }
        assert!(compared >= 80, "{uri}: {compared}");
    }
}

#[test]
fn several_shapes_are_several_regions_while_they_are_apart() {
    let uri = format!("synthetic:?{QUIET}&frames=200&shapes=4&size=14&shapes_at=25&seed=11");
    let params = Params::parse(&uri, &Asked::default()).unwrap();
    let (mut apart, mut found) = (0, 0);
    for o in observe("motion", &json!({}), &uri) {
        let truth: Vec<_> = truth(&params, o.frame_id).iter().map(|t| t.bbox).collect();
        let grown = |[l, t, r, b]: [f64; 4]| [l - 0.05, t - 0.08, r + 0.05, b + 0.08];
        let alone = |i: usize| {
            let others = (0..truth.len()).filter(|j| *j != i);
            others.map(|j| both(grown(truth[i]), truth[j])).sum::<f64>() == 0.0
        };
        if truth.is_empty() || !(0..truth.len()).all(alone) {
            continue;
        }
        apart += 1;
        let each = |t: &[f64; 4]| o.data.objects.iter().any(|m| iou(m.bbox, *t) > 0.75);
        found += usize::from(signal(&o, "count") == 4.0 && truth.iter().all(each));
    }
    assert!(apart > 30, "{apart} frames with all apart");
    assert_eq!(found, apart);
}

#[test]
fn light_shadow_and_noise_are_no_motion() {
    for (scene, switches) in [
        ("scene=empty&noise=3", 0),
        ("scene=shadow&shapes_at=25", 0),
        ("scene=shadow&shapes_at=25&noise=2&seed=9", 0),
        ("scene=empty&light_at=60&light_pct=160&noise=2", 1),
        ("scene=empty&light_at=60&light_pct=45", 1),
    ] {
        let uri = format!("synthetic:?{QUIET}&frames=120&{scene}");
        let all = observe("motion", &json!({}), &uri);
        let moved: Vec<u64> = all
            .iter()
            .filter(|o| score(o) > 0.0)
            .map(|o| o.frame_id)
            .collect();
        assert!(moved.is_empty(), "{scene}: {moved:?}");
        let seen: f64 = all.iter().map(|o| signal(o, "light_switch")).sum();
        assert_eq!(seen, f64::from(switches), "{scene}");
    }
    // That the shadow is there at all is seen by who does not tell it apart.
    let uri = format!("synthetic:?{QUIET}&frames=120&scene=shadow&shapes_at=25");
    let all = observe("motion", &json!({"shadows": false}), &uri);
    assert!(all.iter().skip(30).all(|o| score(o) > 0.02));
}

#[test]
fn people_walking_are_motion_most_of_the_time_and_where_they_walk() {
    let all = observe(
        "motion",
        &json!({}),
        asset("videos/vtest.avi").to_str().unwrap(),
    );
    assert_eq!(all.len(), 795);
    let learned = &all[20..];
    let moving = learned.iter().filter(|o| score(o) > 0.0).count();
    assert!(
        moving * 100 >= learned.len() * 95,
        "{moving} of {}",
        learned.len()
    );
    let mut scores: Vec<f64> = learned.iter().map(score).collect();
    scores.sort_by(f64::total_cmp);
    assert!(
        scores[scores.len() / 2] < 0.06 && scores[scores.len() - 1] < 0.15,
        "people are small here: median {}, most {}",
        scores[scores.len() / 2],
        scores[scores.len() - 1]
    );
    // Persons as an independent detector saw them (and not where it saw one for long: those stand).
    let text = include_str!("../../plugins/object/tests/fixtures/object_vtest.json");
    let reference: Value = serde_json::from_str(text).unwrap();
    let (mut persons, mut met) = (0, 0);
    let (mut regions, mut on_persons) = (0, 0);
    for (frame, objects) in reference["frames"].as_object().unwrap() {
        let frame: usize = frame.parse().unwrap();
        if frame < 100 {
            continue;
        }
        let boxes: Vec<[f64; 4]> = objects
            .as_array()
            .unwrap()
            .iter()
            .filter(|o| o["label"] == "Person" && o["score"].as_f64().unwrap() >= 0.5)
            .map(|o| serde_json::from_value(o["bbox"].clone()).unwrap())
            .collect();
        let found = &all[frame].data.objects;
        persons += boxes.len();
        met += boxes
            .iter()
            .filter(|b| found.iter().any(|m| both(m.bbox, **b) > 0.3 * area(**b)))
            .count();
        // Large regions, which are no leaf and no half of a leg.
        for m in found.iter().filter(|m| m.area > 0.004) {
            regions += 1;
            on_persons += usize::from(boxes.iter().any(|b| both(m.bbox, *b) > 0.2 * m.area));
        }
    }
    println!("{met} of {persons} persons, {on_persons} of {regions} regions");
    assert!(
        persons > 20 && met * 10 >= persons * 7,
        "{met} of {persons}"
    );
    assert!(
        on_persons * 10 >= regions * 6,
        "{on_persons} of {regions} regions"
    );
}

#[test]
fn a_still_video_has_no_motion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("still.mp4");
    // One picture of real video for 12 s, with what the encoder makes of it.
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(asset("videos/vtest.avi"))
        .args([
            "-vf",
            "trim=end_frame=1,loop=119:1:0,setpts=N/10/TB",
            "-r",
            "10",
        ])
        .args(["-c:v", "libx264", "-crf", "32", "-g", "20"])
        .arg(&file)
        .status()
        .expect("ffmpeg is missing: run cross/setup.sh first");
    assert!(made.success());
    let all = observe("motion", &json!({}), file.to_str().unwrap());
    assert_eq!(all.len(), 120);
    let moved: Vec<u64> = all
        .iter()
        .filter(|o| score(o) > 0.0)
        .map(|o| o.frame_id)
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
}

#[test]
fn quality_of_real_video_is_good_and_of_its_spoilt_copies_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str, filter: &str| -> String {
        let file = dir.path().join(name);
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-i"])
            .arg(asset("videos/vtest.avi"))
            .args(["-frames:v", "5", "-vf", filter, "-c:v", "ffv1"])
            .arg(&file)
            .status()
            .expect("ffmpeg is missing: run cross/setup.sh first");
        assert!(made.success());
        file.to_str().unwrap().to_owned()
    };
    let limits =
        json!({"min_blur": 200, "min_brightness": 40, "max_brightness": 220, "min_contrast": 40});
    let of = |file: &str| observe("quality", &limits, file).remove(2);
    let good = of(&copy("good.mkv", "null"));
    println!("vtest: {:?}", good.signals);
    assert_eq!(signal(&good, "quality_gate"), 1.0, "{:?}", good.signals);
    for (name, filter, lower) in [
        ("blurred.mkv", "gblur=sigma=6", "blur"),
        ("dark.mkv", "lutyuv=y=val*0.15", "brightness"),
        ("foggy.mkv", "lutyuv=y=150+(val-128)*0.15", "contrast"),
    ] {
        let bad = of(&copy(name, filter));
        println!("{name}: {:?}", bad.signals);
        assert_eq!(
            signal(&bad, "quality_gate"),
            0.0,
            "{name}: {:?}",
            bad.signals
        );
        assert!(signal(&bad, lower) < signal(&good, lower), "{name}");
        assert!(
            signal(&bad, "quality_score") < 0.5 * signal(&good, "quality_score"),
            "{name}"
        );
    }
}

/// A config with both plugins on a synthetic source, and a rule on their signals.
fn config(dir: &Path, motion: &str, quality: &str, when: &str) -> PathBuf {
    let text = format!(
        r#"schema = 1
[device]
id = "test"
state_dir = "{}"
[source.cam0]
uri = "synthetic:?code=0&text=0&fps=10&frames=60&shapes=1&shapes_at=30&seed=3"
width = 320
height = 240
realtime = false
[extractor.motion]
plugin = "motion"
[extractor.motion.config]
{motion}
[extractor.quality]
plugin = "quality"
[extractor.quality.config]
{quality}
[zone.left]
source = "cam0"
polygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]
[path.yard]
source = "cam0"
extractors = ["motion", "quality"]
fusion = "moved"
[fusion.moved]
plugin = "rules"
[[fusion.moved.config.rule]]
label = "moved"
when = '{when}'
for_ms = 300
clip = false
[web]
listen = "off"
[mqtt]
url = "off"
"#,
        dir.join("state").display()
    );
    let file = dir.join("visualpath.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn visualpath(args: &[&str], file: &Path) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_visualpath"))
        .args(args)
        .arg("-c")
        .arg(file)
        .output()
        .unwrap();
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

const WHEN: &str = r#"motion.score > 0.02 && motion["score@left"] >= 0.0 && motion["count@left"] >= 0 && quality.quality_gate == 1"#;

#[test]
fn the_appliance_runs_both_and_a_rule_on_them_fires_when_the_shape_comes() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), "", "min_contrast = 20", WHEN);
    let (code, _, said) = visualpath(&["validate", "--plugins"], &file);
    assert_eq!(code, Some(0), "{said}");
    let (code, out, said) = visualpath(&["run", "--json"], &file);
    assert_eq!(code, Some(0), "{said}");
    let events: Vec<Value> = out
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .collect();
    let triggers: Vec<&Value> = events.iter().filter(|e| e["event"] == "trigger").collect();
    assert_eq!(triggers.len(), 1, "{out}");
    assert_eq!(triggers[0]["frame_id"], 30, "{}", triggers[0]);
    assert_eq!(triggers[0]["t_ns"], 3_000_000_000_i64);
    assert_eq!(triggers[0]["objects"][0]["label"], "motion");
}

#[test]
fn wrong_configs_of_both_are_told_at_their_line() {
    for (motion, quality, when, says) in [
        (
            "treshold = 20",
            "",
            WHEN,
            "visualpath.toml:13:12: error: extractor.motion.config.treshold: unknown key; did you mean `threshold`?",
        ),
        (
            "history_s = 0",
            "",
            WHEN,
            "extractor.motion.config.history_s: expected a number in 1-3600, found 0",
        ),
        (
            "",
            "min_blur = \"high\"",
            WHEN,
            "extractor.quality.config.min_blur: expected a number in 0-1000000, found \"high\"",
        ),
        (
            "",
            "",
            r#"motion["score@right"] > 0.1"#,
            "`right` in `motion[\"score@right\"]` is not a zone",
        ),
        (
            "",
            "",
            "quality.sharpness > 10",
            "has no signal `sharpness`",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = config(dir.path(), motion, quality, when);
        let (code, out, said) = visualpath(&["validate", "--plugins"], &file);
        assert_eq!(code, Some(3), "{out}{said}");
        assert!(format!("{out}{said}").contains(says), "{says}\n{out}{said}");
    }
}

/// First cells of the rows of a page's table that begins with this header.
fn documented(page: &str, header: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    let text = std::fs::read_to_string(file.join(page)).unwrap();
    let rows = text.lines().skip_while(|l| !l.starts_with(header)).skip(2);
    let cells = rows.map_while(|l| l.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

/// What follows `known: ` in the message about an unknown key.
fn known(message: &str) -> Vec<String> {
    let (_, list) = message.split_once("known: ").unwrap();
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_pages_name_every_key_parameter_and_signal() {
    let registry = builtin::registry().unwrap();
    for (name, page) in [("motion", "motion.md"), ("quality", "quality.md")] {
        let plugin = registry.extractor(name).unwrap();
        let mut cx = PluginContext {
            name: Name::new("x").unwrap(),
            config: serde_json::Map::new(),
            zones: vec![],
            masks: vec![],
            model_dirs: vec![],
        };
        let mut signals = documented(page, "| signal |");
        signals.retain(|s| !s.contains('@'));
        signals.sort();
        assert_eq!(signals, plugin.signals(&cx).unwrap(), "{page}");
        cx.config.insert("zzzzzzzzzz".to_owned(), Value::Null);
        let error = plugin.signals(&cx).unwrap_err().to_string();
        assert_eq!(documented(page, "| key |"), known(&error), "{page}");
    }
    let error = Params::parse("synthetic:?zzzzzzzzzzzz=1", &Asked::default()).unwrap_err();
    assert_eq!(
        documented("synthetic.md", "| parameter |"),
        known(&error.to_string())
    );
}
