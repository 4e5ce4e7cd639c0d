//! One run with several bad workers beside good ones, and what must hold for every such run.
//!
//! The bad ones share a run where their faults do not interfere: a source at 30 frames per second,
//! `near` (motion, inline) and `far` (quality, in a process), and any number of bad ones, each with
//! a process of its own.

use std::collections::BTreeMap;

use visualpath_tests::workers::{Done, Place, of};

/// Frames per second of every run here.
pub const FPS: u64 = 30;

/// A bad worker.
pub struct Bad {
    /// Its name in the config.
    pub name: &'static str,
    /// Keys of `[extractor.<name>]`, and tables below it.
    pub toml: String,
    /// Arguments of the scripted worker; without any it is `scripted`.
    pub args: Vec<&'static str>,
    /// What must become of it.
    pub fate: Fate,
}

/// What becomes of a worker.
pub enum Fate {
    /// It dies once, for this reason, and is back.
    Back(&'static str),
    /// It is ended for good, for this reason.
    Hold(&'static str),
    /// It dies again and again.
    Restarting(&'static str),
    /// It lives.
    Lives,
}

impl Bad {
    /// A scripted worker that does something at frame `at`.
    pub fn at(name: &'static str, at: u64, act: &str, arg: u64, fate: Fate) -> Self {
        let acts = format!("{{ at = {at}, act = \"{act}\", arg = {arg} }}");
        let toml = format!("[extractor.{name}.config]\nacts = [{acts}]\n");
        Self {
            name,
            toml,
            args: Vec::new(),
            fate,
        }
    }

    /// One that panics once; it is made again, so it would do an act again.
    pub fn panics(name: &'static str, at: u64) -> Self {
        let toml = format!("[extractor.{name}.config]\npanic_at = [{at}]\n");
        let args = Vec::new();
        let fate = Fate::Lives;
        Self {
            name,
            toml,
            args,
            fate,
        }
    }

    /// One that speaks by hand.
    pub fn raw(name: &'static str, args: &[&'static str], fate: Fate) -> Self {
        let mut all = vec!["--raw"];
        all.extend(args);
        Self {
            name,
            toml: String::new(),
            args: all,
            fate,
        }
    }

    /// With more keys.
    pub fn with(mut self, keys: &str) -> Self {
        self.toml = format!("{keys}\n{}", self.toml);
        self
    }
}

fn config(frames: u64, bad: &[Bad]) -> String {
    let mut text = format!(
        "[source.cam]\nuri = \"synthetic:?width=320&height=240&fps={FPS}&frames={frames}\"\n\
         [extractor.near]\nplugin = \"motion\"\n\
         [extractor.far]\nplugin = \"quality\"\nisolation = \"process\"\nqueue = 16\ntimeout_ms = 20000\n"
    );
    let mut names = vec!["near", "far"];
    for b in bad {
        let plugin = if b.args.is_empty() {
            "scripted"
        } else {
            b.name
        };
        // What it says for itself comes first: a table may follow.
        let own = if b.toml.contains("timeout_ms") {
            ""
        } else {
            "timeout_ms = 10000\n"
        };
        text += &format!(
            "[extractor.{}]\nplugin = \"{plugin}\"\nqueue = 4\n{own}{}\n",
            b.name, b.toml
        );
        names.push(b.name);
    }
    // What a rule reads has records.
    text + &format!(
        "[path.yard]\nsource = \"cam\"\nextractors = {names:?}\nfusion = \"f\"\nwindow_ms = 1000\n\
         [fusion.f]\nplugin = \"rules\"\n[[fusion.f.config.rule]]\nlabel = \"never\"\n\
         when = \"near.score > 2.0\"\nclip = false\n"
    )
}

/// Attempts, should the machine be too busy to capture 30 frames a second at all.
const ATTEMPTS: usize = 3;

/// Runs it and checks all that must hold whatever the bad ones do.
pub fn run(frames: u64, bad: &[Bad]) -> Done {
    for attempt in 1.. {
        let place = Place::new();
        for b in bad {
            if !b.args.is_empty() {
                place.plugin(b.name, &b.args);
            }
        }
        place.config(&config(frames, bad));
        let mut run = place.start();
        // Nobody stays unreaped while it runs.
        run.until("half of it", |t| of(t, "frame").count() as u64 > frames / 2);
        let done = run.finish();
        let was_busy = busy(&done) > 0 || bad.iter().any(|b| ended_too_soon(b, &done));
        if was_busy && attempt < ATTEMPTS {
            continue;
        }
        assert_eq!(done.code, 0, "{}", done.log);
        check(frames, bad, &done);
        place.until_empty();
        let left = place.left_behind(done.pid);
        assert!(left.is_empty(), "left behind: {left:?}");
        return done;
    }
    unreachable!()
}

/// Frames lost before anybody could look at them: the machine, not a worker, as long as it does not
/// happen every time.
fn busy(done: &Done) -> u64 {
    let dropped = &done.summary["dropped"];
    ["path_busy", "pool_exhausted"]
        .iter()
        .filter_map(|k| dropped[k].as_u64())
        .sum()
}

/// The run was over before a worker that died late, because everything was slow, could be back.
fn ended_too_soon(bad: &Bad, done: &Done) -> bool {
    let states = done.states(bad.name);
    let last_ns = of(&done.trace, "frame")
        .filter_map(|r| r["t_ns"].as_u64())
        .max();
    matches!(bad.fate, Fate::Back(_))
        && states.len() == 1
        && states[0].2 + START_NS > last_ns.unwrap_or(0)
}

fn check(frames: u64, bad: &[Bad], done: &Done) {
    let summary = &done.summary;
    let at_30 = "captured at 30 per second of source time";
    assert_eq!(summary["frames"], frames, "{at_30}: {summary}");
    assert_eq!(busy(done), 0, "{at_30}: {summary}");
    for good in ["near", "far"] {
        assert_eq!(
            summary["observations"][good], frames,
            "{good} misses no frame: {summary}"
        );
        let states = done.states(good);
        assert!(states.is_empty(), "{good}: {states:?}");
    }
    let settled: Vec<u64> = of(&done.trace, "frame")
        .filter_map(|r| r["frame_id"].as_u64())
        .collect();
    assert_eq!(settled, (0..frames).collect::<Vec<_>>(), "settled in order");
    for b in bad {
        one_outcome_each(frames, b.name, done);
        fate(b, done);
    }
}

/// Every frame was admitted (there is no rate and no gate) and has exactly one outcome.
fn one_outcome_each(frames: u64, name: &str, done: &Done) {
    let mut lost: BTreeMap<u64, u32> = BTreeMap::new();
    for drop in of(&done.trace, "frame_drop").filter(|r| r["extractor"] == name) {
        *lost.entry(drop["frame_id"].as_u64().unwrap()).or_default() += 1;
    }
    assert!(
        lost.values().all(|n| *n == 1),
        "{name}: two outcomes of one frame: {lost:?}"
    );
    let observed = done.summary["observations"][name].as_u64().unwrap_or(0);
    let late = done.summary["late"][name].as_u64().unwrap_or(0);
    assert_eq!(
        observed + lost.len() as u64,
        frames,
        "{name}: one outcome for each frame (late: {late}, lost: {lost:?})"
    );
}

/// Between the death and the frame in which it is back: the pause and its start, and what a busy
/// machine adds.
const START_NS: u64 = 5_000_000_000;

fn fate(bad: &Bad, done: &Done) {
    let name = bad.name;
    let states = done.states(name);
    let words: Vec<&str> = states.iter().map(|(s, _, _)| s.as_str()).collect();
    let says = |state: &str, why: &str| {
        let found = states.iter().any(|(s, w, _)| s == state && w.contains(why));
        assert!(
            found,
            "{name}: no `{state}` because of {why:?} in {states:?}"
        );
    };
    let seen = done.summary["observations"][name].as_u64().unwrap_or(0);
    match bad.fate {
        Fate::Lives => assert_eq!(words, [""; 0], "{name}: {states:?}"),
        Fate::Hold(why) => {
            says("held", why);
            assert_eq!(words.last(), Some(&"held"), "{name}: {states:?}");
            assert!(done.log.contains("extractor on Hold"), "{name}");
        }
        Fate::Restarting(why) => says("restarting", why),
        Fate::Back(why) => {
            assert_eq!(words, ["restarting", "running"], "{name}: {states:?}");
            says("restarting", why);
            let gap_ns = states[1].2 - states[0].2;
            assert!(gap_ns >= 490_000_000, "{name}: the pause is kept: {gap_ns}");
            assert!(
                gap_ns < 500_000_000 + START_NS,
                "{name}: back within pause and start: {gap_ns}"
            );
            let log = done
                .lines_of(name)
                .any(|l| l.contains("worker process died") && l.contains(why));
            assert!(log, "{name}: the log says why:\n{}", done.log);
            // It did not only start: it looks at frames again.
            let back = of(&done.trace, "observation")
                .any(|r| r["extractor"] == name && r["timestamp_ns"].as_u64() > Some(states[1].2));
            assert!(back, "{name}: looks at frames again ({seen})");
        }
    }
}
