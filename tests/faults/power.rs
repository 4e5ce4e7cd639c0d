//! Power cuts: at any instant, all that is left is what the disk was given.
//!
//! An ext4 image lies in a btrfs; the appliance writes to it through a loop device. A reflink of the
//! image is what a disk would hold if the power went at that instant: everything that was synced,
//! nothing that was only in the page cache. (Torn sectors and a disk that reorders are not modelled
//! here.) What was *said* by then is noted before the copy is made. Each copy is then mounted, and
//! the appliance started on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::{Account, Deleted, Viewer, check_files, files};
use super::killed::{Dice, Often, Run, soak};
use super::volume::{Volume, make, reflink, skipped};

/// A fragment is at most so long.
const FRAGMENT_NS: i64 = 2_000_000_000;
/// For the way from a frame to the line that names it, and for the sync of a fragment.
const SLACK_NS: i64 = 1_000_000_000;

/// The disk, and where copies of it go.
struct Rig {
    // Unmounted in this order.
    _disk: Volume,
    copies: Volume,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = dir.path().join("btrfs.img");
        make("mkfs.btrfs", &image, 3 << 30)?;
        let copies = Volume::mount(&image, &dir.path().join("copies"))?;
        let disk = copies.at.join("disk.img");
        make("mkfs.ext4", &disk, 96 << 20)?;
        let disk = Volume::mount(&disk, &dir.path().join("disk"))?;
        Ok(Self {
            _disk: disk,
            copies,
            dir,
        })
    }

    fn image(&self, name: &str) -> PathBuf {
        self.copies.at.join(name)
    }
}

/// One power cut: what was said before it.
struct Cut {
    image: PathBuf,
    said: Account,
}

/// Cuts the power so many times in one run. Gives the cuts, and all that the run ever said.
fn cut(rig: &Rig, dice: &mut Dice, cuts: u32, env: &[(&str, &Path)]) -> (Vec<Cut>, Account) {
    let state = rig.dir.path().join("disk/state");
    let often = Often {
        gop_s: 2.0,
        cooldown_ms: 1200,
        long_post_s: 7.0,
        ..Often::default()
    };
    let config = often.write(rig.dir.path(), &state);
    let mut account = Account::default();
    let mut run = Run::start_with(rig.dir.path(), &config, 0, env);
    run.until(&mut account, |e| e["event"] == "trigger");
    let mut all = vec![];
    for n in 0..cuts {
        run.for_ms(&mut account, dice.below(700));
        let said = account.clone();
        let image = rig.image(&format!("cut{n}.img"));
        reflink(&rig.image("disk.img"), &image).unwrap();
        all.push(Cut { image, said });
    }
    run.kill(&mut account);
    (all, account)
}

/// Starts the appliance on what a cut left, and checks the promise.
fn check(case: &str, rig: &Rig, cut: &Cut, whole_run: &Account, viewer: &mut Viewer) -> Found {
    let dir = tempfile::tempdir_in(rig.dir.path()).unwrap();
    let volume = Volume::mount(&cut.image, &dir.path().join("disk")).unwrap();
    let state = volume.at.join("state");
    let clips = state.join("clips");
    let parts = files(&clips, ".mp4.part");
    let config = Often::default().write(dir.path(), &state);
    let mut account = cut.said.clone();
    let mut run = Run::start(dir.path(), &config, 1);
    run.until(&mut account, |e| e["event"] == "trigger");
    let still: Vec<_> = parts.iter().filter(|p| p.exists()).collect();
    assert!(still.is_empty(), "{case}: it is up, and left {still:?}");
    let (code, log) = run.stop(&mut account);
    assert_eq!(code, Some(0), "{case}: {log}");

    // Between what was noted and the cut, more may have been said.
    for (id, lines) in &whole_run.told {
        let (_, line) = &lines[0];
        let there = line["file"]
            .as_str()
            .is_some_and(|f| state.join(f).exists());
        if !account.told.contains_key(id) && there {
            account.told.insert(id.clone(), lines.clone());
        }
    }
    account.settle(case);
    check_files(case, &state, &account, viewer, Deleted::Never);

    let mut found = Found {
        parts: parts.len(),
        ..Found::default()
    };
    // At most two seconds of an open clip are gone.
    let durable_ns = cut.said.reached_ns - FRAGMENT_NS - SLACK_NS;
    for id in cut.said.open() {
        let named = &cut.said.named[id];
        let line = account.last(id).unwrap();
        let due_ns = named.end_ns.min(durable_ns);
        if line["state"] == "failed" {
            assert!(
                named.start_ns >= durable_ns,
                "{case}: due until {due_ns}: {line}"
            );
            continue;
        }
        found.recovered += 1;
        let end_ns = line["end_ns"].as_i64().unwrap();
        found.most_lost_ns = found
            .most_lost_ns
            .max(named.end_ns.min(cut.said.reached_ns) - end_ns);
        // A RANGE's end may have been moved back.
        let moved = named.range && line["partial"] != true;
        assert!(
            moved || end_ns >= due_ns,
            "{case}: due until {due_ns}: {line}"
        );
    }
    found
}

/// What there was to recover.
#[derive(Debug, Default)]
struct Found {
    parts: usize,
    recovered: usize,
    most_lost_ns: i64,
}

#[test]
fn after_a_power_cut_every_clip_is_whole_or_accounted_for_and_two_seconds_at_most_are_lost() {
    let (runs, cuts) = if soak() { (40, 25) } else { (2, 25) };
    let mut viewer = Viewer::default();
    let (mut parts, mut recovered, mut most_lost_ns) = (0, 0, 0);
    for seed in 1..=runs {
        let rig = match Rig::new() {
            Ok(rig) => rig,
            Err(why) => return skipped("power cuts", &why),
        };
        let mut dice = Dice(seed * 0x9E37_79B9);
        let (all, account) = cut(&rig, &mut dice, cuts, &[]);
        for (n, cut) in all.iter().enumerate() {
            let case = format!("run {seed}, cut {n}");
            let found = check(&case, &rig, cut, &account, &mut viewer);
            parts += found.parts;
            recovered += found.recovered;
            most_lost_ns = most_lost_ns.max(found.most_lost_ns);
            std::fs::remove_file(&cut.image).unwrap();
        }
    }
    println!("{parts} parts, {recovered} clips recovered, at most {most_lost_ns} ns lost");
    let cuts = (runs * u64::from(cuts)) as usize;
    assert!(recovered > cuts, "clips were being written: {recovered}");
}

/// The control: with syncs that do nothing the same check must fail, or it shows nothing.
#[test]
fn without_syncs_the_check_of_power_cuts_fails() {
    let rig = match Rig::new() {
        Ok(rig) => rig,
        Err(why) => return skipped("the control of power cuts", &why),
    };
    let Some(no_sync) = no_sync(rig.dir.path()) else {
        return skipped("the control of power cuts", "no C compiler");
    };
    let mut dice = Dice(7);
    let (all, account) = cut(&rig, &mut dice, 12, &[("LD_PRELOAD", &no_sync)]);
    let lost = all.iter().filter(|cut| {
        let dir = tempfile::tempdir_in(rig.dir.path()).unwrap();
        let volume = Volume::mount(&cut.image, &dir.path().join("disk")).unwrap();
        let on_disk: BTreeSet<PathBuf> = files(&volume.at, ".mp4");
        let ready = cut.said.ready();
        let mut files =
            ready.map(|(_, l)| volume.at.join("state").join(l["file"].as_str().unwrap()));
        files.any(|f| {
            !on_disk.contains(&f) || std::fs::read(&f).is_ok_and(|b| b.iter().all(|b| *b == 0))
        })
    });
    assert!(account.ready().count() > 0, "clips were told");
    assert!(
        lost.count() > 0,
        "told, and there after all cuts: the cuts cut nothing"
    );
}

/// A library to be loaded before libc, whose syncs do nothing.
fn no_sync(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("no_sync.c"), dir.join("no_sync.so"));
    let text = "int fsync(int fd) { (void)fd; return 0; }\n\
                int fdatasync(int fd) { (void)fd; return 0; }\n";
    std::fs::write(&source, text).unwrap();
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    cc.is_ok_and(|s| s.success()).then_some(library)
}
