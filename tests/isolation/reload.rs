//! Isolation changes while the appliance runs.

use rustix::process::Signal;
use visualpath_tests::workers::{Place, of};

/// `far` in a process with the whole picture, `moves` where it is told, with a view of its own: each
/// change of it is a new pool for `far` too.
const CONFIG: &str = r#"
[source.cam]
uri = "synthetic:?width=320&height=240&fps=30"
[extractor.near]
plugin = "motion"
[extractor.far]
plugin = "scripted"
queue = 16
timeout_ms = 20000
[extractor.moves]
plugin = "quality"
MOVES
[path.yard]
source = "cam"
extractors = ["near", "far", "moves"]
fusion = "f"
window_ms = 2000
[fusion.f]
plugin = "rules"
[[fusion.f.config.rule]]
label = "never"
when = "near.score > 2.0 && moves.blur > 0.0"
clip = false
"#;

#[test]
fn an_extractor_moves_into_a_process_and_back_and_the_others_miss_no_frame() {
    for attempt in 1.. {
        let place = Place::new();
        let write = |isolation: &str| {
            let keys = format!("isolation = \"{isolation}\"\nqueue = 16");
            let keys = match isolation {
                "inline" => keys,
                _ => format!("{keys}\ntimeout_ms = 20000"),
            };
            place.config(&CONFIG.replace("MOVES", &keys));
        };
        write("inline");
        let mut run = place.start();
        let seen = |trace: &[serde_json::Value]| {
            of(trace, "observation")
                .filter(|r| r["extractor"] == "moves")
                .count()
        };
        run.until("frames", |t| seen(t) > 10);
        for (n, isolation) in ["process", "thread", "process", "inline"]
            .iter()
            .enumerate()
        {
            write(isolation);
            run.signal(Signal::HUP);
            run.until("the reload", |_| {
                place.log().matches("config reloaded").count() > n
            });
            let before = seen(&place.trace());
            run.until("frames after it", |t| seen(t) > before + 10);
            let workers = run.children().len();
            let wanted = if *isolation == "process" { 2 } else { 1 };
            assert!(workers >= wanted, "{isolation}: {workers}");
        }
        run.signal(Signal::TERM);
        let done = run.finish();
        assert_eq!(done.code, 0, "{}", done.log);
        place.until_empty();
        let summary = &done.summary;
        let dropped = &summary["dropped"];
        let busy = dropped["path_busy"].as_u64().unwrap_or(0)
            + dropped["pool_exhausted"].as_u64().unwrap_or(0);
        if busy > 0 && attempt < 3 {
            continue; // the machine
        }
        assert_eq!(busy, 0, "{summary}");
        assert!(done.states("far").is_empty(), "{:?}", done.states("far"));
        // The stop itself drops what is in flight.
        let frames = summary["frames"].as_u64().unwrap();
        assert_eq!(summary["observations"]["near"], frames, "{summary}");
        let far = of(&done.trace, "frame_drop")
            .filter(|r| r["extractor"] == "far")
            .filter(|r| r["reason"] != "stopping")
            .count();
        assert_eq!(far, 0, "{summary}");
        let failed = of(&done.trace, "frame_drop")
            .filter(|r| r["reason"] == "failed" || r["reason"] == "timed_out")
            .count();
        assert_eq!(failed, 0, "{summary}");
        return;
    }
}
