//! A disk that is full, and one that becomes read-only, while clips are written: clips end or fail
//! with the reason, triggers go on, and afterwards there are clips again.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::account::{Account, Deleted, Viewer, check_files, files};
use super::killed::{Often, Run};
use super::volume::{Volume, make, skipped};

/// So large that a reserve of free space (5 % and 256 MiB) leaves room. It is sparse.
const DISK: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(120);

struct Rig {
    disk: Volume,
    image: PathBuf,
    dir: tempfile::TempDir,
}

fn rig() -> Result<Rig, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let image = dir.path().join("disk.img");
    make("mkfs.ext4", &image, DISK)?;
    let disk = Volume::mount(&image, &dir.path().join("disk"))?;
    Ok(Rig { disk, image, dir })
}

/// Lines of clips that were told between two states of the books.
fn told_since<'a>(before: &'a Account, after: &'a Account) -> impl Iterator<Item = &'a Value> {
    let new = after.told.iter();
    let new = new.filter(|(id, _)| !before.told.contains_key(*id));
    new.flat_map(|(_, lines)| lines.iter().map(|(_, line)| line))
}

/// Triggers that came between.
fn fired_since(before: &Account, after: &Account) -> usize {
    after.named.len() - before.named.len()
}

/// Reads on until a clip is ready and complete that was named after now.
fn until_a_new_clip_is_ready(run: &Run, account: &mut Account) {
    let old: Vec<String> = account.named.keys().cloned().collect();
    run.until_in(account, PATIENCE, |e| {
        e["event"] == "clip"
            && e["state"] == "ready"
            && e["end_reason"] == "complete"
            && !old.iter().any(|id| e["id"] == **id)
    });
}

#[test]
fn on_a_full_disk_clips_end_with_the_reason_and_triggers_go_on_until_there_is_room_again() {
    let rig = match rig() {
        Ok(rig) => rig,
        Err(why) => return skipped("the full disk", &why),
    };
    let state = rig.disk.at.join("state");
    let config = Often::default().write(rig.dir.path(), &state);
    let mut account = Account::default();
    let mut run = Run::start(rig.dir.path(), &config, 0);
    until_a_new_clip_is_ready(&run, &mut account);

    rig.disk.fill().unwrap();
    let before = account.clone();
    for _ in 0..25 {
        run.for_ms(&mut account, 200);
        // What is deleted to make room is taken, too.
        rig.disk.fill().unwrap();
    }
    let fired = fired_since(&before, &account);
    assert!(fired >= 5, "triggers go on: {fired}");
    let ended: Vec<&Value> = told_since(&before, &account)
        .filter(|l| l["end_reason"] != "complete")
        .collect();
    assert!(!ended.is_empty(), "no clip met the full disk: {account:?}");
    for line in ended.iter().filter(|l| l["state"] == "failed") {
        let reason = line["reason"].as_str().unwrap_or_default();
        let told = ["space", "room", "full"].iter().any(|w| reason.contains(w));
        assert!(told, "the reason is told: {line}");
    }

    std::fs::remove_file(rig.disk.ballast()).unwrap();
    until_a_new_clip_is_ready(&run, &mut account);
    let (code, log) = run.stop(&mut account);
    assert_eq!(code, Some(0), "{log}");
    account.settle("full disk");
    assert_eq!(account.repeated(), 0, "one run tells once");
    let mut viewer = Viewer::default();
    check_files("full disk", &state, &account, &mut viewer, Deleted::Oldest);
}

#[test]
fn on_a_disk_that_becomes_read_only_clips_fail_with_the_reason_and_triggers_go_on() {
    let rig = match rig() {
        Ok(rig) => rig,
        Err(why) => return skipped("the read-only disk", &why),
    };
    let state = rig.disk.at.join("state");
    let config = Often::default().write(rig.dir.path(), &state);
    let mut account = Account::default();
    let mut run = Run::start(rig.dir.path(), &config, 0);
    until_a_new_clip_is_ready(&run, &mut account);

    if let Err(why) = rig.disk.break_ext4() {
        return skipped("the read-only disk", &why);
    }
    assert!(
        std::fs::write(rig.disk.at.join("x"), "x").is_err(),
        "it is read-only"
    );
    let before = account.clone();
    run.for_ms(&mut account, 5000);
    let fired = fired_since(&before, &account);
    assert!(fired >= 5, "triggers go on: {fired}");
    let failed: Vec<&Value> = told_since(&before, &account)
        .filter(|l| l["state"] == "failed")
        .collect();
    assert!(!failed.is_empty(), "no clip met the read-only disk");
    // Whatever the store was about to do: open a file, or sync one.
    let words = ["Read-only file system", "Input/output error"];
    let said = |l: &&&Value| {
        let reason = l["reason"].as_str().unwrap_or_default();
        words.iter().any(|w| reason.contains(w))
    };
    assert!(
        failed.iter().all(|l| said(&l)),
        "the reason is told: {failed:?}"
    );
    let (code, log) = run.stop(&mut account);
    assert!(code.is_some(), "it stops by itself: {log}");
    account.settle("read-only disk");

    // Mounted anew (after a restart of the machine, say), it is a disk like any other.
    let Rig { disk, image, dir } = rig;
    let at = disk.at.clone();
    disk.unmount().unwrap();
    let disk = Volume::mount(&image, &at).unwrap();
    let parts = files(&disk.at, ".mp4.part");
    let mut run = Run::start(dir.path(), &config, 1);
    until_a_new_clip_is_ready(&run, &mut account);
    let still: Vec<_> = parts.iter().filter(|p| p.exists()).collect();
    assert!(still.is_empty(), "it is up, and left {still:?}");
    let (code, log) = run.stop(&mut account);
    assert_eq!(code, Some(0), "{log}");
    assert!(
        account.open().is_empty(),
        "never told of: {:?}",
        account.open()
    );
    // What failed for want of a disk may have been made whole by the second run: the last word counts.
    let mut viewer = Viewer::default();
    check_files(
        "read-only disk",
        &state,
        &account,
        &mut viewer,
        Deleted::Never,
    );
}
