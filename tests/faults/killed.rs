//! SIGKILL at any moment, and a start on what it left: every clip is whole or accounted for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::Value;
use visualpath_tests::visualpath;

use super::account::{
    Account, Deleted, LeftOver, Viewer, check_files, check_left_over, files, left_over,
};
use super::volume::say;

/// A hang guard, not a promise.
const PATIENCE: Duration = Duration::from_secs(120);

/// A camera on which rules fire all the time, so that several clips are being written at any moment:
/// three that end together, so that one is told while the next is finished; longer ones; and ranges
/// that are split every second.
pub struct Often {
    /// Between key pictures.
    pub gop_s: f64,
    /// Between two triggers of a rule.
    pub cooldown_ms: u32,
    /// Of the longer ones.
    pub long_post_s: f64,
    /// More keys of `[clip]`.
    pub clip: &'static str,
}

impl Default for Often {
    fn default() -> Self {
        Self {
            gop_s: 0.5,
            cooldown_ms: 300,
            long_post_s: 1.8,
            clip: "",
        }
    }
}

impl Often {
    /// Writes the config to `dir`.
    pub fn write(&self, dir: &Path, state: &Path) -> PathBuf {
        let Self {
            gop_s,
            cooldown_ms,
            long_post_s,
            clip,
        } = self;
        let point = |label: &str, post_s: f64| {
            format!(
                r#"[[fusion.often.config.rule]]
label = "{label}"
when = "quality.blur > 220.0"
cooldown_ms = {cooldown_ms}
release_ms = 0
pre_s = 0.7
post_s = {post_s}
"#
            )
        };
        let points = ["a", "b", "c"].map(|l| point(l, 0.5)).concat() + &point("long", *long_post_s);
        let state = state.display();
        let text = format!(
            r#"schema = 1
[device]
id = "test"
state_dir = "{state}"
[web]
listen = "off"
[mqtt]
url = "off"
[clip]
gop_s = {gop_s}
{clip}
[source.cam0]
uri = "synthetic:?width=160&height=128&fps=25&text=0&noise=6"
[extractor.quality]
plugin = "quality"
[path.all]
source = "cam0"
extractors = ["quality"]
fusion = "often"
[fusion.often]
plugin = "rules"
{points}
[[fusion.often.config.rule]]
label = "range"
kind = "range"
when = "quality.brightness > 10.0"
max_s = 1
pre_s = 0.3
post_s = 0.6
"#
        );
        let file = dir.join("visualpath.toml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// A `visualpath run --json` whose lines are read as they come. Ended when dropped.
pub struct Run {
    pub child: Child,
    lines: Receiver<Value>,
    log: PathBuf,
    number: u32,
}

impl Run {
    /// Starts run number `number`; its log goes to `dir`.
    pub fn start(dir: &Path, config: &Path, number: u32) -> Self {
        Self::start_with(dir, config, number, &[])
    }

    /// The same with a changed environment.
    pub fn start_with(dir: &Path, config: &Path, number: u32, env: &[(&str, &Path)]) -> Self {
        let log = dir.join("log");
        let mut child = Command::new(visualpath())
            .args(["run", "--json", "-c"])
            .arg(config)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(out) {
                // The last line of a killed run may be cut off.
                let Ok(Ok(event)) = line.map(|l| serde_json::from_str(&l)) else {
                    return;
                };
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            log,
            number,
        }
    }

    /// Reads on until a line for which `enough` holds.
    pub fn until(&self, account: &mut Account, enough: impl Fn(&Value) -> bool) {
        self.until_in(account, PATIENCE, enough);
    }

    /// The same with another patience.
    pub fn until_in(
        &self,
        account: &mut Account,
        patience: Duration,
        enough: impl Fn(&Value) -> bool,
    ) {
        let until = Instant::now() + patience;
        loop {
            match self.lines.recv_deadline(until) {
                Ok(event) => {
                    account.note(self.number, &event);
                    if enough(&event) {
                        return;
                    }
                }
                Err(e) => panic!("{e} in run {}: {}", self.number, self.log()),
            }
        }
    }

    /// Reads on for so long; the end of the run is a failure.
    pub fn for_ms(&self, account: &mut Account, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        loop {
            match self.lines.recv_deadline(until) {
                Ok(event) => account.note(self.number, &event),
                Err(RecvTimeoutError::Timeout) => return,
                Err(e) => panic!("{e} in run {}: {}", self.number, self.log()),
            }
        }
    }

    /// Kills it, and reads what it still said.
    pub fn kill(&mut self, account: &mut Account) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.rest(account);
    }

    /// Stops it gracefully: exit code and log.
    pub fn stop(&mut self, account: &mut Account) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(kill.success());
        self.rest(account);
        let status = self.child.wait().unwrap();
        (status.code(), self.log())
    }

    fn rest(&mut self, account: &mut Account) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(event) => account.note(self.number, &event),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(e) => panic!("{e}: run {} does not end: {}", self.number, self.log()),
            }
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It fails if it has ended already.
        if self.child.kill().is_ok() && self.child.wait().is_err() {
            say(&format!("run {} could not be waited for", self.number));
        }
    }
}

/// xorshift64*.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % n
    }
}

pub fn soak() -> bool {
    std::env::var("VISUALPATH_SOAK").is_ok_and(|v| v == "1")
}

/// What a row of kills met.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    named: usize,
    ready: usize,
    /// Parts with pictures in whole fragments.
    parts: usize,
    finishing: usize,
    repeated: usize,
    /// Clips that are in the file of another.
    merged: usize,
}

/// `[clip]` of appliances whose clips share files, which never get longer than this.
const MERGE: &str = "merge = true\nmerge_max_s = 4.0";

/// Kills one appliance after the other on one state directory.
fn row(seed: u64, kills: u32, clip: &'static str) -> Tally {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let clips = state.join("clips");
    let often = Often {
        clip,
        ..Often::default()
    };
    let config = often.write(dir.path(), &state);
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut account = Account::default();
    // As they were after the kill that made them.
    let mut left: BTreeMap<PathBuf, LeftOver> = BTreeMap::new();
    for round in 0..kills {
        let case = format!("seed {seed}, kill {round}");
        let old = files(&clips, ".part");
        let mut run = Run::start(dir.path(), &config, round);
        // Some are killed while they start and recover, some while they write clips, some while
        // they finish one: others of the same moment were told just now.
        let moment = dice.below(5);
        if moment == 0 {
            run.for_ms(&mut account, dice.below(400));
        } else {
            run.until(&mut account, |e| e["event"] == "trigger");
            let still: Vec<_> = old.iter().filter(|p| p.exists()).collect();
            assert!(still.is_empty(), "{case}: it is up, and left {still:?}");
        }
        match moment {
            0 => {}
            1 | 2 => run.for_ms(&mut account, dice.below(2500)),
            _ => {
                let enough = dice.below(3);
                for _ in 0..=enough {
                    run.until(&mut account, |e| e["event"] == "clip");
                }
                std::thread::sleep(Duration::from_micros(dice.below(15_000)));
            }
        }
        run.kill(&mut account);
        for part in files(&clips, ".mp4.part") {
            let known = left.contains_key(&part);
            if !known {
                left.insert(part.clone(), left_over(&part));
            }
        }
    }
    let case = format!("seed {seed}");
    let mut run = Run::start(dir.path(), &config, kills);
    run.until(&mut account, |e| e["event"] == "trigger");
    let (code, log) = run.stop(&mut account);
    assert_eq!(code, Some(0), "{case}: {log}");
    account.settle(&case);
    for l in left.values() {
        check_left_over(&case, l, &account);
    }
    check_files(
        &case,
        &state,
        &account,
        &mut Viewer::default(),
        Deleted::Never,
    );
    Tally {
        kills,
        named: account.named.len(),
        ready: account.ready().count(),
        parts: left.values().filter(|l| l.shown > Some(0)).count(),
        finishing: left.values().filter(|l| l.shown.is_none()).count(),
        repeated: account.repeated(),
        merged: account.merged(),
    }
}

#[test]
fn killed_at_any_moment_every_clip_is_whole_or_accounted_for_after_the_next_start() {
    let (rows, kills) = if soak() { (20, 50) } else { (5, 10) };
    // Two at a time: the appliances keep their own pace, and mostly wait.
    let seeds: Vec<u64> = (1..=rows).collect();
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let lanes = seeds.chunks(seeds.len().div_ceil(3));
        let lanes: Vec<_> = lanes
            .map(|lane| scope.spawn(|| lane.iter().map(|s| row(*s, kills, "")).collect::<Vec<_>>()))
            .collect();
        let joined = lanes.into_iter().map(|l| l.join().unwrap());
        joined.flatten().collect()
    });
    println!("{tallies:#?}");
    let named: usize = tallies.iter().map(|t| t.named).sum();
    let ready: usize = tallies.iter().map(|t| t.ready).sum();
    let finishing: usize = tallies.iter().map(|t| t.finishing).sum();
    let repeated: usize = tallies.iter().map(|t| t.repeated).sum();
    println!(
        "{named} clips named, {ready} ready, {finishing} met while finishing, {repeated} told twice"
    );
    let parts: usize = tallies.iter().map(|t| t.parts).sum();
    let kills: u32 = tallies.iter().map(|t| t.kills).sum();
    assert!(
        parts > kills as usize,
        "clips were being written when it was killed: {tallies:?}"
    );
}

/// The same where clips share files: every request is answered for, whoever's file it is in.
#[test]
fn killed_at_any_moment_every_clip_that_shares_a_file_is_accounted_for_too() {
    let (rows, kills) = if soak() { (6, 50) } else { (2, 10) };
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let rows = (101..=100 + rows).map(|seed| scope.spawn(move || row(seed, kills, MERGE)));
        let rows: Vec<_> = rows.collect();
        rows.into_iter().map(|r| r.join().unwrap()).collect()
    });
    println!("{tallies:#?}");
    for tally in &tallies {
        assert!(tally.parts > 0, "killed while it wrote: {tally:?}");
        assert!(tally.merged > tally.parts, "files are shared: {tally:?}");
    }
}
