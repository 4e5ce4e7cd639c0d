//! Same observations, same order, same errors.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use visualpath_tests::cut_vtest;
use visualpath_tests::workers::of;

use crate::variants::{INLINE, OTHERS, Said, assert_same, run_here, run_real, said};

/// Two sources (one with gaps so long that extractors are reset), random answers, errors, panics,
/// signals that are no numbers; one that depends, one behind a gate that reads another, one with a
/// rate; every kind of view. (A gap is told in pieces; only a piece of more than 5 s is a long one,
/// so a picture every 5 s.)
const SCRIPTED: &str = r#"
[source.left]
uri = "synthetic:?width=160&height=120&fps=0.2&frames=FRAMES&gap_every=90&gap_frames=30"
realtime = false
[source.right]
uri = "synthetic:?width=98&height=70&fps=5&frames=150&format=rgb&seed=3"
realtime = false
[zone.corner]
source = "left"
polygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.8], [0.0, 0.8]]
[extractor.a]
plugin = "scripted"
ISOLATION
[extractor.a.config]
seed = SEED1
input = "native"
panic_at = [11, 99, 140]
[extractor.b]
plugin = "scripted"
depends = ["a"]
ISOLATION
[extractor.b.config]
seed = SEED2
input = "letterbox"
[extractor.c]
plugin = "scripted"
gate = "a.seen >= 5.0"
gate_hold_ms = 700
ISOLATION
[extractor.c.config]
seed = SEED3
input = "grey"
[extractor.d]
plugin = "scripted"
fps = 2
queue = 3
depends = ["a", "b"]
ISOLATION
[extractor.d.config]
seed = SEED4
input = "bgr"
[path.all]
source = ["left", "right"]
extractors = ["a", "b", "c", "d"]
fusion = "f"
[fusion.f]
plugin = "rules"
[[fusion.f.config.rule]]
label = "some"
when = "a.a > 0.0 && d.seen > 1.0"
clip = false
cooldown_ms = 0
"#;

fn scripted(seed: u64, frames: u64) -> String {
    let mut text = SCRIPTED.replace("FRAMES", &frames.to_string());
    for n in 1..=4 {
        text = text.replace(&format!("SEED{n}"), &(seed * 10 + n).to_string());
    }
    text
}

/// That the script really has everything in it.
fn is_rich(trace: &[Value]) {
    let errors = |what: &str| {
        let drops = of(trace, "frame_drop");
        drops
            .filter(|r| r["error"].as_str().is_some_and(|e| e.contains(what)))
            .count()
    };
    assert!(errors("told to fail") > 10);
    assert!(
        errors("told to panic") >= 5,
        "three per source, some beyond its end"
    );
    assert!(errors("signals must be finite") > 5);
    assert!(of(trace, "frame_drop").any(|r| r["reason"] == "dependency"));
    let several = |r: &&Value| r["observations"].as_array().is_some_and(|o| o.len() > 1);
    assert!(of(trace, "observation").filter(several).count() > 20);
    let none = |r: &&Value| r["observations"].as_array().is_some_and(Vec::is_empty);
    assert!(of(trace, "observation").filter(none).count() > 20);
    // `c` never panics; after the first gap it counts anew.
    let after_gap = of(trace, "observation").filter(|r| {
        let in_time = r["frame_id"]
            .as_u64()
            .is_some_and(|id| (90..120).contains(&id));
        in_time && r["source"] == "left" && r["extractor"] == "c"
    });
    let seen = after_gap.filter_map(|r| r["signals"]["seen"].as_f64());
    let seen = seen.fold(0.0, f64::max);
    assert!((1.0..=30.0).contains(&seen), "reset at a gap: {seen}");
    let zones = of(trace, "observation").any(|r| r["signals"]["count@corner"].as_f64() > Some(0.0));
    assert!(zones, "zones");
    assert!(of(trace, "frame").any(|r| r["outcomes"][2]["outcome"] == "skipped"));
    assert!(of(trace, "trigger_fire").count() > 3);
}

#[test]
fn a_random_script_is_answered_the_same_everywhere() {
    let soak = std::env::var_os("VISUALPATH_SOAK").is_some();
    for seed in 1..=if soak { 30 } else { 2 } {
        let text = scripted(seed, 360);
        let (exact, trace) = run_here(&text, &INLINE);
        is_rich(&trace);
        // A JPEG has no native format of cameras; where its pixels count they are left out.
        let no_native = text.replace("\"native\"", "\"rgb\"");
        let (_, trace) = run_here(&no_native, &INLINE);
        let inexact = said(&trace, false);
        for variant in OTHERS {
            let name = format!("seed {seed}, {}", variant.name);
            let (text, expected) = match variant.exact {
                true => (&text, &exact),
                false => (&no_native, &inexact),
            };
            let (said, _) = run_here(text, variant);
            assert_same(&name, expected, &said);
        }
    }
}

/// JPEGs of two sizes in turns, in one file.
fn mixed(dir: &Path) -> String {
    let mut all = Vec::new();
    for (n, size) in ["160x120", "96x64", "160x120"].into_iter().enumerate() {
        let part = dir.join(format!("{n}.mjpeg"));
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i"])
            .arg(format!("testsrc=size={size}:rate=25:duration=1"))
            .args(["-q:v", "3", "-f", "mjpeg"])
            .arg(&part)
            .status()
            .expect("ffmpeg is missing: run cross/setup.sh first");
        assert!(status.success());
        all.extend(std::fs::read(part).unwrap());
    }
    let file = dir.join("mixed.mjpeg");
    std::fs::write(&file, all).unwrap();
    file.display().to_string()
}

const MIXED: &str = r#"
[source.left]
uri = "URI"
realtime = false
[extractor.a]
plugin = "scripted"
ISOLATION
[extractor.a.config]
seed = 7
input = "rgb"
[extractor.b]
plugin = "scripted"
ISOLATION
[extractor.b.config]
input = "letterbox"
[path.all]
source = "left"
extractors = ["a", "b"]
fusion = "f"
[fusion.f]
plugin = "rules"
[[fusion.f.config.rule]]
label = "never"
when = "a.left > 2.0 || b.left > 2.0"
clip = false
"#;

#[test]
fn a_change_of_format_is_a_new_pool_and_the_workers_stay_up() {
    let dir = tempfile::tempdir().unwrap();
    let text = MIXED.replace("URI", &mixed(dir.path()));
    let (exact, trace) = run_here(&text, &INLINE);
    assert_eq!(of(&trace, "frame").count(), 75);
    let inexact = said(&trace, false);
    // Two heights of the black bars: both formats were seen.
    let mut tops: Vec<String> = of(&trace, "observation")
        .filter(|r| r["extractor"] == "b")
        .map(|r| r["signals"]["top"].to_string())
        .collect();
    tops.dedup();
    assert_eq!(tops.len(), 3, "{tops:?}");
    for variant in OTHERS {
        let (said, trace) = run_here(&text, variant);
        let expected = if variant.exact { &exact } else { &inexact };
        assert_same(variant.name, expected, &said);
        assert_eq!(
            of(&trace, "worker").count(),
            0,
            "{}: stays up",
            variant.name
        );
    }
}

const REAL: &str = r#"
[source.left]
uri = "URI"
realtime = false
[extractor.motion]
plugin = "motion"
ISOLATION
[extractor.quality]
plugin = "quality"
ISOLATION
[extractor.person]
plugin = "object"
ISOLATION
[extractor.person.config]
threshold = 0.2
[zone.door]
source = "left"
polygon = [[0.0, 0.3], [0.2, 0.3], [0.2, 0.55], [0.0, 0.55]]
[path.all]
source = "left"
extractors = ["motion", "quality", "person"]
fusion = "f"
[fusion.f]
plugin = "rules"
[[fusion.f.config.rule]]
label = "door"
when = "person.count >= 1 && motion.score >= 0.0 && quality.blur >= 0.0"
clip = false
"#;

#[test]
fn motion_quality_and_object_see_the_same_in_real_video_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let video = cut_vtest(dir.path(), 0.0, 6.0);
    let text = REAL.replace("URI", &video.display().to_string());
    let (expected, trace) = run_real(&text, &INLINE);
    assert_eq!(of(&trace, "frame").count(), 60);
    let seen = of(&trace, "observation")
        .filter(|r| r["extractor"] == "person" && r["signals"]["count"].as_f64() > Some(0.0));
    assert!(seen.count() > 30, "there are people");
    let frames = |said: &Said| -> Vec<String> { said["left frame all"].clone() };
    for variant in OTHERS {
        if variant.exact {
            let (said, _) = run_real(&text, variant);
            assert_same(variant.name, &expected, &said);
            continue;
        }
        // Frames as JPEGs: each in its place, answered, and with nearly the same numbers.
        let (said, jpeg) = run_real(&text, variant);
        assert_eq!(frames(&said), frames(&expected), "{}", variant.name);
        let people = |trace: &[Value]| -> f64 {
            let of = of(trace, "observation").filter(|r| r["extractor"] == "person");
            of.map(|r| r["signals"]["count"].as_f64().unwrap()).sum()
        };
        let (exact, altered) = (people(&trace), people(&jpeg));
        assert!(
            (exact - altered).abs() < 0.1 * exact,
            "{exact} and {altered} people"
        );
    }
}
